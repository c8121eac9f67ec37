"""The study of shipped estimators: definitions are read by name, and the page says what was found.

No trainer is needed: a folder of hand-made files stands for one.
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from studies import shipped_estimators as study
from studies.shipped_trainers import MissingError, Source
from tokengym.lab.audit.tokengym_audit import HOLDS, KINDS

DOCS = Path(__file__).parents[2] / "docs" / "results"
FILE = """
import an_engine_that_is_not_installed
from engine import register

raise RuntimeError("imported")

@register("centre")
def centre(scores, half=helper(2)):
    return helper(scores) - half

def helper(x):
    return x / 2

class Trainer(an_engine_that_is_not_installed.Base):
    @register
    def step(self, rewards):
        if self.scaled:
            mean = rewards.mean()
            advantages = rewards - mean
            advantages = (
                advantages / self.scale
            )
        return advantages
"""


@pytest.fixture
def source(tmp_path: Path) -> Source:
    folder = tmp_path / "acme"
    (folder / "code" / "acme").mkdir(parents=True)
    (folder / "code" / "acme" / "core.py").write_text(FILE)
    (folder / "VERSION").write_text("1.2\n")
    return Source(folder)


def test_a_definition_runs_without_the_rest_of_its_file(source: Source) -> None:
    own = source.take("acme/core.py", "helper", "centre")
    assert own.centre(10) == 4
    assert source.version == "1.2"


def test_statements_run_without_their_method(source: Source) -> None:
    from types import SimpleNamespace

    run = source.statements("core.py", "Trainer.step", "mean =", "advantages = (")
    found = run(self=SimpleNamespace(scale=2.0), rewards=torch.tensor([1.0, 3.0]))
    assert found.advantages.tolist() == [-0.5, 0.5]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda s: s.take("core.py", "gone"), r"core\.py has no gone"),
        (lambda s: s.take("gone.py", "centre"), r"no file gone\.py"),
        (
            lambda s: s.statements("core.py", "Trainer.step", "mean =", "returns ="),
            "'mean ='.*'returns ='",
        ),
    ],
)
def test_what_a_version_no_longer_has_is_named(source: Source, ask: Any, message: str) -> None:
    with pytest.raises(MissingError, match=message):
        ask(source)


def stand_in(tmp_path: Path, divisor: str) -> Path:
    """Write a trainer with one function, and return the folder of all trainers."""
    code = tmp_path / "acme" / "code"
    code.mkdir(parents=True, exist_ok=True)
    (code / "core.py").write_text(
        "def advantage(rewards, num_generations):\n"
        "    groups = rewards.view(-1, num_generations)\n"
        f"    return ((groups - groups.mean(1, keepdim=True)) / {divisor}).flatten()\n"
    )
    (tmp_path / "acme" / "VERSION").write_text("1.2\n")
    return tmp_path


ROW = study.ShippedEstimator(
    trainer="acme",
    name="mean",
    function="advantage",
    make=lambda source: source.take("core.py", "advantage").advantage,
    pays="outcome",
)


def test_a_row_has_its_verdict_and_the_tree_that_shows_it(tmp_path: Path) -> None:
    row = study.measured(ROW, stand_in(tmp_path, "1.0"))
    assert row["holds"]
    assert (row["version"], row["verdict"], row["tree"]) == ("1.2", "holds", [])


def test_what_changed_between_versions_is_told(tmp_path: Path) -> None:
    before = study.measured(ROW, stand_in(tmp_path, "1.0"))
    now = study.measured(ROW, stand_in(tmp_path, "-1.0"))
    lines = study.differences({before["row"]: before}, [now])
    assert lines == ["- `acme/mean` 1.2 -> 1.2: was holds, is reversed"]
    assert "**reversed**: mean" in study.trainers_table([now])
    assert "*reversed*: at the first token, a (chance" in study.failing_table([now])
    assert study.differences({before["row"]: before}, [before]) == []
    assert study.differences({}, [before]) == ["- `acme/mean` 1.2: new"]
    (tmp_path / "acme" / "code" / "core.py").write_text("")
    gone = study.measured(ROW, tmp_path)
    assert study.differences({before["row"]: before}, [gone]) == [
        "- `acme/mean`: acme 1.2: core.py has no advantage"
    ]
    (tmp_path / "acme" / "code" / "core.py").write_text("def advantage(rewards, critic): ...\n")
    (changed,) = study.differences({before["row"]: before}, [study.measured(ROW, tmp_path)])
    assert changed.startswith("- `acme/mean`: acme/mean(rewards, critic)")


@pytest.mark.parametrize("verdict", KINDS)
def test_a_row_that_fails_in_any_way_is_counted_as_failing(verdict: str) -> None:
    assert "**fails**" in study.answer_table([{"row": "acme/mean", "verdict": verdict}])


def test_a_trainer_that_was_not_fetched_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fetch --packages"):
        study.loaded(ROW, tmp_path)
    with pytest.raises(ValueError, match=r"'acme/none'.*verl/"):
        study.row("acme/none", tmp_path)


def test_one_trainer_that_cannot_be_had_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(command: list[str], **_: Any) -> None:
        raise subprocess.CalledProcessError(1, command[:3])

    monkeypatch.setattr(subprocess, "run", run)
    study.fetch(tmp_path, ("slime", "verl"))
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in said] == [
        "slime could not be had", "verl could not be had"
    ]  # fmt: skip


def test_own_rows_need_no_package(tmp_path: Path) -> None:
    own = next(row for row in study.ROWS if row.key == "tokengym/loo")
    assert study.loaded(own, tmp_path)[0].name == "loo"


def test_every_verdict_has_words_and_a_colour() -> None:
    assert {*study.WORST} == {*study.COLORS} == {HOLDS, *KINDS}


def test_published_rows_are_those_of_the_study() -> None:
    rows = json.loads((DOCS / study.DATA).read_text(encoding="utf-8"))
    assert [row["row"] for row in rows] == [row.key for row in study.ROWS]
    assert all("verdict" in row or row["missing"] for row in rows)


def test_what_fails_stands_beside_the_page_as_it_was_measured() -> None:
    failing = [row for row in study.stored(DOCS) if "verdict" in row and not row["holds"]]
    table = (DOCS / study.FAILING).read_text(encoding="utf-8")
    assert table == f"{study.failing_table(failing)}\n"
    page = (DOCS / study.PAGE).read_text(encoding="utf-8")
    for key, told in (("skyrl/reinforce++", "3.6 for 3"), ("openrlhf/reinforce", "4.44 and 3.55")):
        (row,) = (row for row in failing if row["row"] == key)
        assert f"`{key}` takes" in page
        assert told in page
        assert all(figure in row["says"] for figure in re.findall(r"[\d.]+", told))
