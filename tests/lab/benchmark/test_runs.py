"""Runs of the board: what is refused, frozen, stopped and resumed."""

import hashlib
import json
import multiprocessing
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab import board as test_board
from tokengym.base import write_text
from tokengym.base.bundle import bundled
from tokengym.lab.benchmark import play as play_module
from tokengym.lab.benchmark.board import check_row
from tokengym.lab.benchmark.definition import CONTROLS, V2, Definition, Setting
from tokengym.lab.benchmark.play import play
from tokengym.lab.benchmark.runs import Bench
from tokengym.lab.protocol import DRAW_SEED, DRAWN, PROMPTS, RATES
from tokengym.lab.study import Cell, write_rows
from tokengym.scripts.cli import main

SMALL = replace(test_board.SMALL, name="miniature", settings=test_board.SMALL.settings[:1])


def bench(out: Path, **changes: Any) -> Bench:
    return test_board.bench(out, **{"definition": SMALL, **changes})


def points(score: float, **about: Any) -> list[dict[str, Any]]:
    """Return a run that has the same score all along."""
    return [
        {**about, "step": s, "tokens": 10.0 * s, "score": score, "gold_score": 0.5, "kl": 0.0}
        | {"cpu_s": 1.0}
        for s in (0, 1)
    ]


def test_the_models_are_those_that_it_is_defined_on() -> None:
    V2.check_models()
    other = Definition(name="other", settings=(), models={"detox": ("0" * 16, "0" * 16)})
    with pytest.raises(ValueError, match=r"detox.*fbb5ca43a45b2ee4"):
        other.check_models()


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
    work = bench(tmp_path, definition=V2)
    for setting in work.settings:
        run = work.cells(setting, "uniform")[0].but(seed=0)
        (spec,) = work.config(setting, "uniform", run, V2.updates).runs
        said = spec.as_dict()
        training, measured = said["training"], said["evaluation"]
        assert {name: training["learner"][name] for name in learner} == learner
        assert (training["normalize"], training["precision"]) == ("batch", "full")
        assert (measured["seed"], measured["episodes"], measured["every"]) == (20240, 128, 1)
    assert RATES == (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    assert (DRAWN, PROMPTS, DRAW_SEED) == (64, 128, 0)
    assert CONTROLS == ("uniform", "recency", "random")
    assert {name: _texts_hash(Path(bundled(name).path)) for name in V2.models} == {
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


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("abc", "model.*--track"),
        ("r3", r"r3.*scorer"),
        ("loo", r"loo.*estimator.*audit loo"),
        ("entropy:top=0.1", r"weight.*--v2"),
        ("sparce", r"'sparce'.*sparse"),
    ],
)
def test_what_the_board_does_not_take(rule: str, message: str, tmp_path: Path) -> None:
    assert bench(tmp_path, rule="red").track == "scores"  # which reads no model
    with pytest.raises(ValueError, match=message):
        bench(tmp_path, rule=rule)


def test_a_function_of_advantages_is_sent_to_the_audit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is no scorer: nothing is said of a judge."""
    file = tmp_path / "est.py"
    file.write_text("def to_go(token_rewards, response_mask):\n    return token_rewards\n")
    assert main(["bench", f"{file}:to_go", "--v2", "--cost"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "is an advantage estimator" in said
    assert f"tokengym audit {file}:to_go" in said
    assert "scorer" not in said
    assert main(["bench", f"{file}:to_go", "--quick"]) == 0  # the gradient, under three rules
    said = capsys.readouterr().out
    assert f"{file.name}:to_go, an advantage estimator, without training: gradient" in said
    assert said.count("est.py:to_go |") == 6


def test_a_rule_is_not_its_own_judge(tmp_path: Path) -> None:
    """A run is measured by the scorer of its reward, which a function would be itself."""
    (tmp_path / "rules.py").write_text("def full_marks(prompt, response):\n    return 100.0\n")
    for track in ("scores", "inside"):
        with pytest.raises(ValueError, match="full_marks"):
            bench(tmp_path, rule=f"{tmp_path / 'rules.py'}:full_marks", track=track)


def test_a_run_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    work, (setting,) = bench(tmp_path), SMALL.settings
    run = work.cells(setting, "uniform")[0].but(seed=0)
    whole = points(1.0, **run)
    write_rows(work.file(run), whole)
    assert [row["score"] for row in work.read(run)] == [1.0, 1.0]
    for rows in (whole[:1], [*whole[:1], {**whole[1], "score": None}]):
        write_rows(work.file(run), rows)
        with pytest.raises(ValueError, match="does not hold the 2 measurements"):
            work.read(run)
    write_rows(work.file(run), [{**row, "seed": 1} for row in whole])
    with pytest.raises(ValueError, match="holds another run"):
        work.read(run)


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
    assert len(figures["net"]) == len(figures["score"]) == 2
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
        "from tokengym import token_credit\n"
        "@token_credit\n"
        "def breaks(scores):\n"
        "    raise ZeroDivisionError('nothing to divide by')\n"
    )
    work = bench(tmp_path / "out", rule=f"{tmp_path / 'rules.py'}:breaks")
    with pytest.raises(Exception, match="nothing to divide by"):
        [*play_module._measured(work, 2)]
    assert not multiprocessing.active_children()


EVEN = """
from tokengym import token_credit
@token_credit
def even(paid, response_mask, model=None):
    return paid[:, None] / response_mask.sum(1, keepdim=True) * response_mask
"""


@pytest.mark.parametrize("changed", ["rules.py", "model/weights"])
def test_a_file_that_changes_during_the_runs_is_refused(tmp_path: Path, changed: str) -> None:
    """What the new code or model does would stand in the row of the old."""
    file, weights = tmp_path / "rules.py", tmp_path / "model" / "weights"
    file.write_text(EVEN)
    write_text(weights, "0.5")
    rule = f"{file}:even:model={weights.parent}"
    work, (setting,) = bench(tmp_path / "out", rule=rule), SMALL.settings
    run = work.cells(setting, work.rule)[0].but(seed=0)
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
        play_module._settle(tmp_path, V2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--jobs", "2"], "--jobs 2 belongs to --v2"),
        (["--v2", "--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["--v2", "--track", "scores"], "the track 'scores' does not allow"),
        (["--lite"], "--lite belongs to --v2"),
        (["--published", "x"], "--published x belongs to --v2"),
        (["--cost"], "--cost belongs to --v2"),
        (["--v2", "--quick"], "--quick belongs to the properties, and --v2 fixes its own"),
        (["--v2", "--seed", "0"], "--seed 0 belongs to the properties"),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
        (["--parts", "price"], "unknown part 'price' of rules; known: contract"),
    ],
)
def test_options_that_do_not_go_together(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "abc", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
