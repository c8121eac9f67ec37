"""Version 2 of the benchmark: its runs, parts, restoring, rows, cards and verdicts."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tests.support.lab.board import SMALL, bench
from tokengym.base import write_json
from tokengym.evaluation.runs import TaskSettings
from tokengym.lab.benchmark.board import (
    bibtex,
    card_of,
    check_row,
    families,
    read_rows_of,
    row_hash,
    row_of,
    sees,
    tasks_of,
    verdicts,
)
from tokengym.lab.benchmark.definition import (
    BASELINE,
    OWN,
    STARTED,
    V2,
    V2_LITE,
    Setting,
)
from tokengym.lab.benchmark.play import cost, play
from tokengym.lab.benchmark.runs import Bench
from tokengym.lab.benchmark.verdict import call
from tokengym.lab.protocol import PROMPTS
from tokengym.lab.study import Cell, write_rows
from tokengym.scripts.cli import main

REVIEW, FORKS = V2.settings[0], V2.settings[7]


SMALL_OF_EIGHT = replace(
    SMALL,
    settings=tuple(replace(SMALL.settings[0], label=f"T{at}", tokens=8) for at in range(8)),
)
"""What rows of eight tasks are of."""


def measure(work: Bench, subject: str, run: Cell) -> None:
    """Write a run whose score rises evenly to 2, the baseline's to 1, and a tenth of the seed."""
    level = 1.0 if subject == BASELINE else 2.0
    rows = [
        {**run, "step": s, "tokens": 10.0 * s, "kl": 0.5 * s, "cpu_s": 2.0 * level}
        | {"score": (level + run.seed / 10) * s, "gold_score": level * s / 2}
        for s in (0, 1)
    ]
    write_rows(work.file(run), rows)


def fill(work: Bench, setting: Setting, *, runs: bool = True) -> None:
    """Write a setting's way from 0 to 2, and all its runs."""
    write_rows(
        work.out / "ways" / f"{setting.name}.csv",
        [{"n": n, "score": s, "gold_score": s, "kl": 0.0} for n, s in ((1, 0.0), (16, 2.0))],
    )
    for at, subject, run in [*work.ready()] if runs else []:
        if at == setting:
            measure(work, subject, run)


def row_with(subject: str, leads: list[float], **changes: Any) -> dict[str, Any]:
    """Return a row that has a lead in each of so many tasks, in both figures."""
    settings = {
        f"T{at}-8": {
            "task": f"T{at}",
            "way": [0.0, 1.0],
            **{name: [lead - 0.01, lead + 0.01] for name in ("net", "score")},
        }
        for at, lead in enumerate(leads)
    }
    of = SMALL_OF_EIGHT if len(leads) == 8 else SMALL
    about = {"format": 2, "definition": of.name, "definition_hash": of.hash}
    row = {**about, "track": "inside", "subject": subject, "is_rule": True, "seeds": [0, 1]}
    row |= {"open": [], "tokengym": "0", "settings": settings, **changes}
    return {**row, "hash": row_hash(row)}


def test_versions_are_frozen() -> None:
    """A change of what they say is another version; the hashes are published with every row."""
    assert (V2.hash, V2_LITE.hash) == ("6f852d67b47b9e82", "1bbc4d933b9663b1")
    assert (V2.runs(), V2_LITE.runs()) == (288, 48)
    assert [at.name for at in V2_LITE.settings] == [at.name for at in V2.settings]


def test_every_cell_is_run_on_every_seed_setting_by_setting(tmp_path: Path) -> None:
    work = bench(tmp_path)
    ready = [*work.ready()]
    assert len(ready) == 2 * SMALL.runs() == 16
    assert [setting.name for setting, _, _ in ready] == ["A-4"] * 8 + ["B-3"] * 8
    assert {(subject, run.start) for _, subject, run in ready} == {
        ("uniform", OWN),
        (BASELINE, OWN),
    }
    (spec,) = work.config(SMALL.settings[0], "uniform", ready[0][2], 1).runs
    assert spec.as_dict()["training"]["learner"]["n_warmup_updates"] == 5


def test_the_baselines_name_is_the_arm_with_another_critic(tmp_path: Path) -> None:
    work = bench(tmp_path, definition=V2, rule=BASELINE, track="inside")
    assert work.subject == "sparse, critic from the reward model"
    setting, subject, run = next(work.ready())
    assert (run.start, work.reward(subject)) == (STARTED, BASELINE)
    (spec,) = work.config(setting, subject, run, 30).runs
    learner = spec.as_dict()["training"]["learner"]
    assert [word.text for word in spec.rewards] == [BASELINE]
    assert learner["value_network"] == STARTED
    assert FORKS not in work.asked  # a verifier is no model to start a critic from
    assert FORKS in bench(tmp_path, definition=V2).asked
    with pytest.raises(ValueError, match="'scores'"):
        bench(tmp_path, rule=BASELINE)


def test_real_texts_are_run_where_their_bundles_are(tmp_path: Path) -> None:
    imdb = next(at for at in V2.settings if at.corpus == "imdb")
    without = bench(tmp_path, definition=V2)
    assert imdb in without.asked
    assert imdb not in without.settings
    (tmp_path / "texts" / "imdb").mkdir(parents=True)
    work = bench(tmp_path, definition=V2, corpora=tmp_path / "texts")
    assert imdb in work.settings
    (spec,) = work.config(imdb, "uniform", work.cells(imdb, "uniform")[0], 1).runs
    assert spec.task.bundle == str(tmp_path / "texts" / "imdb")


def test_a_row_has_what_is_done_and_names_what_is_open(work: Bench) -> None:
    row = row_of(work)
    assert row["open"] == ["B-3"]
    (figures,) = row["settings"].values()
    # scores of 2 and 1 that rise evenly from 0 differ by .5 on average, a quarter of the way of 2
    assert figures["net"] == figures["score"] == pytest.approx([0.25, 0.25])
    assert figures["times_baseline"] == 2.0
    assert verdicts([row]) == {("uniform", "scores"): "open: 1 of 2 settings"}
    card = card_of(row)
    assert "Not run: B-3." in card
    assert "| A-4 | +25.0 | +25.0 | 0.000 |" in card
    check_row(row, "row", SMALL)
    fill(work, SMALL.settings[1])
    whole = row_of(work)
    assert whole["open"] == []
    # equal leads on both tasks, without any spread
    assert verdicts([whole]) == {("uniform", "scores"): "ahead"}


def test_every_setting_has_the_prompts_that_are_measured() -> None:
    """The best of 16 is drawn from so many held-out prompts, each of which is played once."""
    for at in (at for at in V2.settings if not at.corpus):
        options = TaskSettings(task_options=at.options).env_kwargs(at.env)
        env: Any = gym.make(at.env, reward=None, split="test", max_new_tokens=at.tokens, **options)
        assert len(env.unwrapped.prompts) >= max(PROMPTS, V2.prompts), at.name


@pytest.fixture
def work(tmp_path: Path) -> Bench:
    """Return a bench whose first setting is done."""
    done = bench(tmp_path / "one")
    fill(done, SMALL.settings[0])
    return done


def test_published_runs_are_not_done_again_also_where_one_diverged(
    work: Bench, tmp_path: Path
) -> None:
    again = bench(tmp_path / "two")
    cell = work.cells(SMALL.settings[0], "uniform")[0]
    _diverge(work, cell.but(seed=1))
    work.publish(tmp_path / "published")
    assert again.restore(tmp_path / "published") == 8
    assert again.done == [SMALL.settings[0]]
    assert again.restore(tmp_path / "published") == 0
    assert again.read(cell.but(seed=0)) == work.read(cell.but(seed=0))
    assert row_of(again)["settings"]["A-4"]["cells"] == [1, 2]
    again.publish(tmp_path / "anew")
    for file in (tmp_path / "published").iterdir():
        assert file.read_text("utf-8") == (tmp_path / "anew" / file.name).read_text("utf-8")


def test_the_cost_is_of_the_runs_that_nobody_has_published(
    work: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("tokengym.lab.benchmark.definition.V2", SMALL)
    monkeypatch.setattr(Bench, "_seconds", lambda self, setting, rule, run, updates: 2.0)
    work.publish(tmp_path / "published")
    where = ["--out", str(tmp_path / "two"), "--published", str(tmp_path / "published")]
    assert main(["bench", "uniform", "--v2", "--track", "scores", "--cost", *where]) == 0
    said = capsys.readouterr().out
    assert "8 published runs" in said
    assert "A-4" not in said
    assert "about 8 runs" in said


def test_a_row_whose_texts_are_gone_loses_neither_runs_nor_settings(tmp_path: Path) -> None:
    second = replace(SMALL.settings[1], corpus="imdb")
    texts = replace(SMALL, settings=(SMALL.settings[0], second))
    (tmp_path / "corpora" / "imdb").mkdir(parents=True)
    whole = bench(tmp_path / "one", definition=texts, corpora=tmp_path / "corpora")
    for setting in texts.settings:
        fill(whole, setting)
    published = tmp_path / "published"
    whole.publish(published)
    before = {file.name: file.read_text("utf-8") for file in published.iterdir()}
    bare = bench(tmp_path / "two", definition=texts, corpora=tmp_path / "none")
    assert bare.restore(published) == 16
    bare.publish(published)
    assert {file.name: file.read_text("utf-8") for file in published.iterdir()} == before
    row = published / "uniform-scores.json"
    row.write_text(json.dumps({"settings": {"A-4": {}, "B-3": {}}}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"B-3.*--corpora.*imdb"):
        play(bare, published=published)


def test_published_runs_that_are_not_whole_restore_nothing(work: Bench, tmp_path: Path) -> None:
    again = bench(tmp_path / "two")
    work.publish(tmp_path / "published")
    file = tmp_path / "published" / "sparse-runs.csv"
    file.write_text("\n".join(file.read_text("utf-8").splitlines()[:-1]) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"sparse-runs\.csv.*2 measurements"):
        again.restore(tmp_path / "published")
    assert not (again.out / "runs").exists()


def test_a_cell_that_diverges_is_left_out(work: Bench) -> None:
    one, other = (cell.but(seed=1) for cell in work.cells(SMALL.settings[0], "uniform"))
    _diverge(work, one)
    assert row_of(work)["settings"]["A-4"]["cells"] == [1, 2]
    _diverge(work, other)
    with pytest.raises(ValueError, match=r"uniform.*diverges.*A-4"):
        row_of(work)


def _diverge(work: Bench, run: Cell) -> None:
    work.file(run).unlink()
    work._diverged(run).write_text("loss is nan", encoding="utf-8")


def test_rules_are_one_family_and_the_other_arm_its_own() -> None:
    rng = np.random.default_rng(0)
    rules = [row_with(f"r{at}", [*(0.03 + rng.normal(0, 0.02, 8))]) for at in range(9)]
    arm = row_with("sparse, critic from the reward model", [*(0.03 + rng.normal(0, 0.02, 8))])
    arm = {**arm, "is_rule": False}
    other_track = row_with("r0", [0.03] * 8, track="scores")
    words = verdicts([*rules, arm, other_track])
    at = (arm["subject"], "inside")
    assert words[at] == verdicts([arm])[at]
    table = [[np.mean(t["net"]) for t in tasks_of(row).values()] for row in rules]
    ahead = call(table).ahead
    assert [words[row["subject"], "inside"] == "ahead" for row in rules] == ahead.tolist()
    assert [len(each) for each in families([*rules, arm, other_track])] == [9, 1, 1]


LEADS = [0.13, 0.08, 0.06, 0.09, 0.02, 0.15, -0.04, 0.07]
"""Alone p is .009, and among six rows .056."""


def test_a_card_has_the_verdict_of_the_board_that_it_stands_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    mine = row_with("mine", LEADS)
    others = [row_with(f"r{at}", [*rng.normal(0, 0.07, 8)]) for at in range(5)]
    alone, among = card_of(mine), card_of(mine, [*others, row_with("mine", [9.0] * 8)])
    assert "**Ahead.**" in alone
    assert "**Not shown beyond these tasks" in among
    board = verdicts([mine, *others])["mine", "inside"]
    assert f"**{board[:1].upper()}{board[1:]}.**" in among
    assert "Holm's correction: mine, r0, r1, r2, r3, r4. Here a lead of " in among
    assert "boards with 6 rows and 8 tasks; 16 tasks would see " in among
    for row in (mine, *others):
        write_json(tmp_path / f"{row['subject']}-inside.json", row)
    assert [row["subject"] for row in read_rows_of(tmp_path, SMALL_OF_EIGHT)] == [
        row["subject"] for row in (mine, *others)
    ]


def test_a_setting_that_is_not_known_bars_no_row() -> None:
    """The verdict is of the tasks that are known, and says which are not."""
    row = row_with("mine", LEADS, open=["IMDb-24"])
    assert verdicts([row]) == {("mine", "inside"): "ahead; of 8 tasks, not known: IMDb-24"}


def test_what_a_board_sees_is_asked_of_rules_that_read_the_text() -> None:
    still, wide = [0.001, -0.001] * 4, [0.1, -0.1] * 4
    rows = [row_with("random", still), row_with("mine", wide)]
    assert sees(rows) == sees(rows, rows[1])
    assert sees(rows[:1]).startswith("a lead of 0.")


def test_a_changed_row_is_refused() -> None:
    row = row_with("even", [0.1, 0.2])
    with pytest.raises(ValueError, match=r"hash.*figures"):
        check_row({**row, "subject": "odd"}, "mine", SMALL)
    with pytest.raises(ValueError, match="no board"):
        check_row(row, "mine", V2)
    with pytest.raises(ValueError, match=r"settings \['T0-8', 'T1-8'\]"):
        check_row(row, "mine", SMALL)
    with pytest.raises(ValueError, match="format 2"):
        check_row({"format": 1}, "mine", V2)


def test_the_entry_has_version_and_hashes() -> None:
    row = row_with("my_rule", [0.1, 0.2])
    entry = bibtex(row)
    assert entry.startswith("@misc{miniature-2-my-rule-")
    assert f"definition {SMALL.hash}, row {row['hash']}" in entry
    assert r"my\_rule" in entry


def test_it_resumes_and_says_what_it_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(Bench, "_seconds", lambda self, setting, rule, run, updates: 2.0)
    monkeypatch.setattr(Bench, "measure", lambda self, setting, rule, run: measure(self, rule, run))
    console: Any = type("Console", (), {"print": lambda self, text, **_: said.append(text)})()
    work = bench(tmp_path)
    assert cost(work, console) == 16
    assert said[-1].startswith("about 16 runs, 0.0 CPU hours, 1 at a time")
    for setting in SMALL.settings:
        fill(work, setting, runs=False)
    row, file = play(work, console)
    assert [line for line in said if line.startswith(str(file))] == [
        f"{file}: {done} of 2 settings" for done in (1, 2)
    ]
    assert json.loads(file.read_text(encoding="utf-8")) == row
    assert not row["open"]
    assert file.with_suffix(".png").exists()
    assert row["hash"] in file.with_suffix(".md").read_text(encoding="utf-8")
    monkeypatch.setattr(Bench, "measure", None)  # nothing is done again
    assert play(bench(tmp_path))[0] == row


def test_a_run_is_measured_after_every_update(tmp_path: Path) -> None:
    work = bench(tmp_path)
    setting, subject, run = next(work.ready())
    work.measure(setting, subject, run)
    assert [row["step"] for row in work.read(run)] == [0, 1]
