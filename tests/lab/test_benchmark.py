"""A version of the benchmark: tuning, equal tokens, ranks, tests, resuming, and a row's hash."""

import hashlib
import json
import math
import multiprocessing
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokengym.agents import NonFiniteError
from tokengym.base import write_text
from tokengym.base.bundle import bundled
from tokengym.lab.benchmark import play as play_module
from tokengym.lab.benchmark import runs as runs_module
from tokengym.lab.benchmark.definition import CONTROLS, OWN, STARTED, V1, Definition, Setting
from tokengym.lab.benchmark.figures import (
    area_within,
    check_row,
    family,
    is_level,
    numbers_of,
    ranks,
    row_hash,
    shares_of,
)
from tokengym.lab.benchmark.page import (
    LONGEST_NAME,
    NO_ROWS,
    _shortened,
    board,
    draw_ranks,
    file_of,
)
from tokengym.lab.benchmark.play import play
from tokengym.lab.benchmark.runs import Bench
from tokengym.lab.protocol import DRAW_SEED, DRAWN, PROMPTS, RATES
from tokengym.lab.study import Cell, write_rows
from tokengym.lab.tables import NONE
from tokengym.scripts.cli import main

SMALL = Definition(
    name="miniature",
    settings=(Setting(task="MovieReview", tokens=4, fixed=True),),
    models={"movie_review": V1.models["movie_review"]},
    updates=1,
    rows=4,
    prompts=4,
    lambdas=("0.5", "1"),
    spare_seeds=(1000,),
    seeds=(0, 1),
)


OF_ROWS = replace(
    SMALL,
    settings=tuple(Setting(task=task, tokens=n) for task, n in (("A", 24), ("A", 48), ("B", 48))),
)
"""What the rows of `row_with` are of, if they have two seeds."""


def bench(out: Path, **changes: Any) -> Bench:
    settings: dict[str, Any] = {"definition": SMALL, "rule": "uniform", "track": "scores"}
    return Bench(**{**settings, "out": out, **changes})


def points(score: float, **about: Any) -> list[dict[str, Any]]:
    """Return a run that has the same score all along."""
    return [
        {**about, "step": s, "tokens": 10.0 * s, "score": score, "gold_score": 0.5, "kl": 0.0}
        | {"cpu_s": 1.0}
        for s in (0, 1)
    ]


def test_the_models_are_those_that_it_is_defined_on() -> None:
    V1.check_models()
    other = Definition(name="other", settings=(), models={"detox": ("0" * 16, "0" * 16)})
    with pytest.raises(ValueError, match="policy of detox has hash fbb5ca43a45b2ee4"):
        other.check_models()


def test_the_definition_is_frozen() -> None:
    """A change of what v1 says is v2; this hash is published with every row."""
    assert len({setting.task for setting in V1.settings}) == 6
    assert V1.hash == "642e6c5d21414591"


def test_what_the_hash_does_not_hold_is_frozen_too(tmp_path: Path) -> None:
    """Defaults of the learner and of measurements, rates, and what texts are read by."""
    learner = {
        "temperature": 1.0,
        "advantage": "gae",
        "gamma": 1.0,
        "clip_range": 0.2,
        "clip_range_vf": None,
        "ent_coef": 0.0,
        "kl_in": "reward",
        "max_grad_norm": 1.0,
        "n_value_warmup": 0,
        "target_kl": None,
    }
    for setting in V1.settings:
        work = bench(tmp_path, definition=V1)
        run = work.cell(setting, "uniform", OWN, "1").but(rate=1e-3, seed=0)
        said = work.config(setting, "uniform", run, V1.updates).as_dict()
        training, measured = said["training"], said["evaluation"]
        assert {name: training["learner"][name] for name in learner} == learner
        assert (training["normalize"], training["precision"]) == ("batch", "full")
        assert (measured["seed"], measured["episodes"], measured["every"]) == (20240, 128, 1)
    assert RATES == (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    assert (DRAWN, PROMPTS, DRAW_SEED) == (64, 128, 0)
    assert CONTROLS == ("uniform", "recency", "random")
    assert {name: _texts_hash(Path(bundled(name).path)) for name in V1.models} == {
        "movie_review": "cb9e0aaae76979c4",
        "question_answer": "9f41eb592e05c1f0",
        "dialogue": "36b442ba7719a23a",
        "summarize": "9987726b61651dd2",
        "detox": "c6c124345e960be5",
        "forks": "daf7815697bd0195",
    }


def _texts_hash(folder: Path) -> str:
    """Return one hash of a bundle's prompts and of the files of its gold score."""
    names = ("prompts.jsonl", "lexicon.json", "grammar.json", "gold.json")
    files = [folder / name for name in names if (folder / name).exists()]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def test_a_critic_from_the_reward_model_is_for_the_inside_alone() -> None:
    text, forks = V1.settings[0], V1.settings[-1]
    assert text.starts("scores") == (OWN,)
    assert text.starts("inside") == (OWN, STARTED)
    assert forks.starts("inside") == (OWN,)
    # two starts, four lambdas and two more rates on three spare seeds, then ten
    assert V1.runs(text, "inside") == 10 * 3 + 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": "sparse"}, "the baseline that rules are compared with"),
        ({"rule": "abc"}, "model.*--track"),
        ({"rule": "r3"}, "r3 brings a scorer of its own, by which it would be measured too"),
    ],
)
def test_what_a_track_does_not_allow(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert bench(tmp_path, rule="red").track == "scores"  # which reads no model
    with pytest.raises(ValueError, match=message):
        bench(tmp_path, **changes)


def test_a_rule_is_not_its_own_judge(tmp_path: Path) -> None:
    """A run is measured by the scorer of its reward, which a function would be itself."""
    (tmp_path / "rules.py").write_text("def full_marks(prompt, response):\n    return 100.0\n")
    for track in ("scores", "inside"):
        with pytest.raises(ValueError, match="full_marks"):
            bench(tmp_path, rule=f"{tmp_path / 'rules.py'}:full_marks", track=track)


def test_lambda_is_chosen_before_the_rate_climbs(tmp_path: Path) -> None:
    work, (setting,) = bench(tmp_path), SMALL.settings
    reached = {("0.5", 1e-3): 1.0, ("1", 1e-3): 2.0, ("1", 3e-3): 3.0, ("1", 1e-2): 0.0}
    order = []
    while True:
        runs, chosen = work.tuning(setting, "uniform")
        if chosen is not None:
            break
        for run in runs:
            order.append((run.gae_lambda, run.rate))
            write_rows(work.file(run), points(reached.get((run.gae_lambda, run.rate), 0.0), **run))
    assert order == [("0.5", 1e-3), ("1", 1e-3), ("1", 3e-3), ("1", 1e-2)]
    assert (chosen.gae_lambda, chosen.rate) == ("1", 3e-3)
    assert [run.seed for run in work._missing([chosen], work.seeds)] == [0, 1]
    assert work.left(setting, "uniform") == 2


def test_a_rate_that_diverges_is_the_worst(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that is best at 3e-3 has its row, although the sweep tries 1e-2."""

    def diverge(config: Any, rule: str, seed: int) -> None:
        raise NonFiniteError("loss is nan")

    monkeypatch.setattr(runs_module, "run_one", diverge)
    work, (setting,) = bench(tmp_path), SMALL.settings
    cell = work.cell(setting, "uniform", OWN, "0.5").but(rate=1e-3)
    for at in (cell, cell.but(rate=3e-3), work.cell(setting, "uniform", OWN, "1").but(rate=1e-3)):
        run = at.but(seed=1000)
        score = 1.0 if at.rate == 3e-3 else 0.5 if at.gae_lambda == "0.5" else 0.0
        write_rows(work.file(run), points(score, **run))
    (last,), _ = work.tuning(setting, "uniform")
    assert (last.gae_lambda, last.rate) == ("0.5", 1e-2)
    work.measure(setting, "uniform", last)
    assert work.reached(last) == -math.inf
    runs, chosen = work.tuning(setting, "uniform")
    assert not runs
    assert chosen == cell.but(rate=3e-3)
    with pytest.raises(NonFiniteError):  # what is compared must not
        work.measure(setting, "uniform", chosen.but(seed=0))


def test_a_run_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    work, (setting,) = bench(tmp_path), SMALL.settings
    run = work.cell(setting, "uniform", OWN, "1").but(rate=1e-3, seed=0)
    whole = points(1.0, **run)
    write_rows(work.file(run), whole)
    assert [row["score"] for row in work.read(run)] == [1.0, 1.0]
    for rows in (whole[:1], [*whole[:1], {**whole[1], "score": None}]):
        write_rows(work.file(run), rows)
        with pytest.raises(ValueError, match="does not hold the 2 measurements of a run"):
            work.read(run)
    write_rows(work.file(run), [{**row, "seed": 1} for row in whole])
    with pytest.raises(ValueError, match="holds another run than its name says"):
        work.read(run)


def test_rules_are_compared_at_the_tokens_of_the_baseline() -> None:
    run = [{"tokens": t, "score": s, "kl": 20.0 * s} for t, s in ((0, 0.0), (10, 1.0), (30, 1.0))]
    # net is 0 at all measurements at a price of 0.05: s - 0.05 * 20 s
    assert area_within(run, 17.0) == pytest.approx(0.0)
    # at no price: a ramp of 10 tokens, then 1; over 20 tokens (5 + 10) / 20
    assert area_within(run, 20.0, price=0.0) == pytest.approx(0.75)
    # a run that is over stays where it ended: (5 + 50) / 60
    assert area_within(run, 60.0, price=0.0) == pytest.approx(55 / 60)


def row_with(subject: str, leads: Sequence[float], **changes: Any) -> dict[str, Any]:
    """Return a row with two settings of one task and one of another."""
    way = [0.0, 2.0]
    leads = [*leads]

    def figures(task: str, factor: float) -> dict[str, Any]:
        return {
            "task": task,
            "way": way,
            "areas": [1.0 + factor * lead for lead in leads],
            "baseline_areas": [1.0] * len(leads),
            "gold_lead": [0.1, 0.2, 0.1][: len(leads)],
            "times_baseline": 1.5,
        }

    settings = {"A-24": figures("A", 1), "A-48": figures("A", 3), "B-48": figures("B", 4)}
    row = {
        "format": 1,
        "definition": SMALL.name,
        "definition_hash": OF_ROWS.hash,
        "track": "inside",
        "subject": subject,
        "code": None,
        "hidden": False,
        "seeds": [*range(len(leads))],
        "versions": {},
        "settings": settings,
        **changes,
    }
    return {**row, "hash": row_hash(row)}


def test_lengths_of_a_task_count_as_one() -> None:
    row = row_with("abc", [0.2, 0.4])
    # task A: (1 + 3) / 2 of the lead over a way of 2, task B: 4 of it
    assert shares_of(row)["A"] == pytest.approx([0.2, 0.4])
    assert shares_of(row)["B"] == pytest.approx([0.4, 0.8])
    assert numbers_of(row) == pytest.approx([0.3, 0.6])


def test_ranks_are_those_of_an_enumeration() -> None:
    figures = {"a": [0.0, 4.0], "b": [1.0, 1.0], "c": [0.9, 0.9]}
    # of the four draws of two seeds one has a = 0, which is rank 3; two have 2 and one has 4
    assert ranks(figures) == {"a": (1, 1, 3), "b": (2, 1, 2), "c": (3, 2, 3)}
    assert ranks({}) == {}


def test_the_family_is_corrected_together() -> None:
    rng = np.random.default_rng(0)
    names = ("abc", "uniform", "recency", "random")
    rows = [row_with(name, list(rng.normal(at, 0.1, 3))) for at, name in enumerate(names)]
    tests = family(rows)
    # each against the baseline, and the one rule that is no control against three
    assert len(tests) == 4 + 3
    from scipy.stats import ttest_1samp

    plain = {
        name: ttest_1samp(numbers_of(row), 0.0).pvalue
        for name, row in zip(names, rows, strict=True)
    }
    assert all(tests[name, "sparse"]["p"] >= plain[name] for name in names)
    smallest = min(tests, key=lambda pair: tests[pair]["p"])
    other = dict(zip(names, rows, strict=True))
    one = np.array(numbers_of(other[smallest[0]]))
    two = 0.0 if smallest[1] == "sparse" else np.array(numbers_of(other[smallest[1]]))
    assert tests[smallest]["p"] == pytest.approx(min(7 * ttest_1samp(one - two, 0.0).pvalue, 1.0))


def test_level_is_shown_by_two_one_sided_tests() -> None:
    assert is_level(row_with("abc", [0.001, -0.001, 0.0]), margin=0.03)
    assert not is_level(row_with("abc", [0.2, -0.2, 0.0]), margin=0.03)


def test_the_board_has_the_best_first(tmp_path: Path) -> None:
    rows = [row_with("abc", [0.2, 0.3, 0.25]), row_with("uniform", [0.4, 0.5, 0.45])]
    table = board(rows, "inside", SMALL)
    first, second = table.splitlines()[2:]
    assert first.startswith("| 1 | 1 to 1 | `uniform`, a control |")
    assert f"({file_of(rows[0])})" in second
    assert board(rows, "scores", SMALL) == NO_ROWS
    draw_ranks(tmp_path / "ranks.png", ranks({r["subject"]: numbers_of(r) for r in rows}), "")
    assert (tmp_path / "ranks.png").stat().st_size > 0


def test_a_row_on_hidden_seeds_is_marked_and_has_no_rank() -> None:
    ranked = row_with("abc", [0.2, 0.3, 0.25])
    hidden = row_with("abc", [0.4, 0.5, 0.45], hidden=True)
    (line,) = board([ranked], "inside", SMALL).splitlines()[2:]
    first, second = board([hidden, ranked], "inside", SMALL).splitlines()[2:]
    assert first == line  # neither its rank nor its test is another one
    assert second.startswith(f"| {NONE} | {NONE} | `abc`, hidden seeds | +67.5 |")
    assert "(v1/abc-inside-hidden.json)" in second


def test_a_dear_rule_is_called_dear() -> None:
    row = row_with("abc", [0.2, 0.3, 0.25])
    for figures in row["settings"].values():
        figures["times_baseline"] = SMALL.dear + 1
    assert "| 5.00, dear |" in board([row], "inside", SMALL)
    assert "dear" not in board([row_with("abc", [0.2, 0.3])], "inside", SMALL)


def test_a_long_name_leaves_room_for_the_ranks() -> None:
    assert _shortened("rules.py:Half") == "rules.py:Half"
    assert len(_shortened("my_rules.py:SignedAttentionOfEverything:share=0.5")) == LONGEST_NAME


def without(row: dict[str, Any], setting: str) -> dict[str, Any]:
    return {name: figures for name, figures in row["settings"].items() if name != setting}


def with_figures(row: dict[str, Any], **figures: Any) -> dict[str, Any]:
    settings = row["settings"]
    return {**settings, "A-48": {**settings["A-48"], **figures}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": None}, "settings of mine.json must be dict"),
        ({"subject": "other"}, "was changed after it was made"),
        (lambda row: {"format": 2}, "no row of format 1"),
        (lambda row: {"definition_hash": "0"}, "is of miniature \\(0\\), not of miniature"),
        (lambda row: {"settings": without(row, "B-48")}, "has the settings A-24, A-48, and mini"),
        (lambda row: {"settings": with_figures(row, task="B")}, "has the settings A-24"),
        (lambda row: {"seeds": [3, 7]}, r"has the seeds \[3, 7\], and miniature has \[0, 1\]"),
        (lambda row: {"seeds": [3], "hidden": True}, r"has the seeds \[3\]"),
        (lambda row: {"settings": with_figures(row, areas=[1.0])}, "areas of A-48 in mine.json"),
        (lambda row: {"settings": with_figures(row, way=[0.0, None])}, "way of A-48 in mine.json"),
        (lambda row: {"settings": with_figures(row, way=[2.0, 2.0])}, "must rise, got 2.0 to 2.0"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(changes: Any, message: str) -> None:
    """Those that a function gives have a hash that fits: anybody can write one."""
    row = row_with("abc", [0.2, 0.3])
    for whole in (row, row_with("abc", [0.2, 0.3], seeds=[5, 6], hidden=True)):
        check_row(whole, "mine.json", OF_ROWS)
    is_hashed = callable(changes)
    changed = row_with("abc", [0.2, 0.3], **changes(row)) if is_hashed else {**row, **changes}
    with pytest.raises(ValueError, match=message):
        check_row(changed, "mine.json", OF_ROWS)


def test_a_secret_word_draws_other_seeds_and_prompts(tmp_path: Path) -> None:
    one, two = (bench(tmp_path, secret=word) for word in ("one", "two"))
    assert one.seeds == bench(tmp_path, secret="one").seeds
    assert not {*one.seeds} & {*two.seeds, *SMALL.seeds, *SMALL.spare_seeds}
    (setting,) = SMALL.settings
    held_out = [[prompt.text for prompt in _prompts(each._bundle(setting))] for each in (one, two)]
    assert held_out[0] != held_out[1]
    public = bundled("movie_review").prompts("test")
    known = {prompt.text for prompt in [*public][:128]}
    assert not known & {*held_out[0]}


def _prompts(folder: str | None) -> Any:
    from tokengym.base.bundle import Bundle

    assert folder is not None
    return Bundle(folder).prompts("test")


def test_it_stops_and_resumes_and_several_runs_at_a_time_give_the_same_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, count = bench(tmp_path / "one"), 0
    measure = Bench.measure

    def stops(self: Bench, setting: Setting, rule: str, run: Cell) -> None:
        nonlocal count
        if count == 3:
            raise KeyboardInterrupt
        count += 1
        measure(self, setting, rule, run)

    monkeypatch.setattr(Bench, "measure", stops)
    with pytest.raises(KeyboardInterrupt):
        play(work)
    assert len([*(tmp_path / "one" / "runs").iterdir()]) == 3
    monkeypatch.setattr(Bench, "measure", measure)
    row, file = play(work)
    assert json.loads(file.read_text(encoding="utf-8")) == row
    check_row(row, str(file), SMALL)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "one" / "runs").iterdir()}
    again, _ = play(work)
    assert again == row
    assert made == {path: path.stat().st_mtime_ns for path in (tmp_path / "one" / "runs").iterdir()}
    (figures,) = row["settings"].values()
    assert len(figures["areas"]) == len(figures["baseline_areas"]) == 2
    assert figures["way"][0] < figures["way"][1]
    together, _ = play(bench(tmp_path / "together"), jobs=2)
    for row in (again, together):
        for figures in row["settings"].values():
            del figures["cpu_s"], figures["times_baseline"]
    assert together["settings"] == again["settings"]
    assert not multiprocessing.active_children()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no PYTHONSAFEPATH")
def test_a_file_of_the_current_folder_is_no_module_of_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pickle", "random", "socket"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w')\nraise ImportError\n")
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    done: Any = play_module._measured(bench(tmp_path / "out"), 2)
    assert next(done)[1] == "uniform"
    done.close()
    assert os.environ == before
    assert not (tmp_path / "ran").exists()


def test_what_a_run_raises_stops_those_beside_it(tmp_path: Path) -> None:
    (tmp_path / "rules.py").write_text(
        "from tokengym.rewards import Credit\n"
        "class Breaks(Credit):\n"
        "    def assign(self, episodes, scores):\n"
        "        raise ZeroDivisionError('nothing to divide by')\n"
    )
    work = bench(tmp_path / "out", rule=f"{tmp_path / 'rules.py'}:Breaks")
    with pytest.raises(Exception, match="nothing to divide by"):
        [*play_module._measured(work, 2)]
    assert not multiprocessing.active_children()


EVEN = """
from tokengym.rewards.credits.uniform import Uniform
class Even(Uniform):
    name = "even"
    def __init__(self, model=None):
        super().__init__()
"""


@pytest.mark.parametrize("changed", ["rules.py", "model/weights"])
def test_a_file_that_changes_during_the_runs_is_refused(tmp_path: Path, changed: str) -> None:
    """What the new code or model does would stand in the row of the old."""
    file, weights = tmp_path / "rules.py", tmp_path / "model" / "weights"
    file.write_text(EVEN)
    write_text(weights, "0.5")
    rule = f"{file}:Even:model={weights.parent}"
    work, (setting,) = bench(tmp_path / "out", rule=rule), SMALL.settings
    (run, *_), _ = work.tuning(setting, work.rule)
    with (tmp_path / changed).open("a") as opened:
        opened.write("    gae_lambda = 0.5\n")
    with pytest.raises(ValueError, match="was changed since the benchmark began"):
        work.measure(setting, work.rule, run)
    assert not work.file(run).exists()
    # begun again it is another rule, whose runs have other files
    again = bench(tmp_path / "out", rule=work.rule)
    assert again.key(work.rule) != work.key(work.rule)


def test_a_folder_is_of_one_version(tmp_path: Path) -> None:
    play_module._settle(tmp_path, SMALL)
    with pytest.raises(ValueError, match="holds runs of miniature"):
        play_module._settle(tmp_path, V1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--v1", "--quick"], "--quick belongs to a card"),
        (["--secret", "word"], "add --v1"),
        (["--jobs", "2"], "add --v1"),
        (["--v1", "--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["--v1", "--track", "scores"], "the track 'scores' does not allow"),
        (["--v1", "--v2"], "exclude each other"),
        (["--lite"], "--lite belongs to --v2"),
        (["--v1", "--published", "x"], "--published x belongs to --v2"),
        (["--v2", "--quick"], "--quick belongs to a card, and --v2 fixes its own"),
        (["--v2", "--secret", "word"], "no hidden seeds"),
        (["--cost"], "--cost belongs to the benchmark"),
        (["--track", "scores"], "--track scores belongs to the benchmark"),
        (["--v1", "--seeds", "3"], "--seeds 3 belongs to a card"),
        (["--v2", "--seed", "0"], "--seed 0 belongs to a card"),
        (["--v2", "--cost", "--submit", "row.json"], "--submit row.json names a file for a row"),
    ],
)
def test_options_that_do_not_go_together(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "abc", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
