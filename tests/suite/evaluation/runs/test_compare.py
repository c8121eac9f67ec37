"""The comparison end to end on the bundled models, as small as it gets."""

import csv
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from rich.console import Console

from tests.support.evaluation.compare import EVALUATION, QUIET, TRAINING, tiny
from tests.support.forked import Forked
from tokengym import rewards
from tokengym.base.files import read_hashed, write_hashed
from tokengym.envs import Episode
from tokengym.evaluation.measure.references import draw_references, read_references
from tokengym.evaluation.report.curves import read_curves
from tokengym.evaluation.runs.compare import compare
from tokengym.evaluation.runs.record import commit, hardware
from tokengym.evaluation.runs.results import merge_comparisons, write_comparison
from tokengym.evaluation.runs.run import Run, run
from tokengym.evaluation.runs.settings import TaskSettings
from tokengym.scripts.cli import main

ARGUMENTS = [
    *("--env", "MovieReview", "--rewards", "sparse", "abc", "--seeds", "2", "--jobs", "1"),
    *("--updates", "2", "--batch-size", "4", "--max-new-tokens", "6", "--n-epochs", "1"),
    *("--eval-every", "1", "--eval-episodes", "4", "--samples", "2"),
    *("--reference-samples", "16"),
]

on_this_machine = pytest.mark.skipif(
    "TOKENGYM_PLAY_GPUS" in os.environ, reason="a command of its own sees no GPU that is played"
)


def without_clock(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [
            {k: v for k, v in row.items() if not k.endswith("_s")} for row in csv.DictReader(file)
        ]


def compare_in_a_terminal(out: str) -> None:
    """Be the command: Ctrl-C goes to its whole group of processes, which do not ignore it."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    sys.argv = ["tokengym", "compare", *ARGUMENTS, "--out", out]
    sys.exit(main())


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """Start the command, and press Ctrl-C when its first run is done."""
    out = tmp_path_factory.mktemp("compare") / "runs"
    process = Forked(compare_in_a_terminal, str(out), environment={"OMP_NUM_THREADS": "1"})
    first = out / "sparse" / "seed-0" / "run.json"
    deadline = time.monotonic() + 120
    while not first.exists() and process.is_alive and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    try:
        return out, process.end(60), process.printed
    finally:
        process.kill()


@pytest.fixture(scope="module")
def finished(interrupted: tuple[Path, int, str]) -> tuple[Path, Mapping[str, Any], int]:
    """Go on with the same comparison to its end; also return when its first run was written."""
    import tests.support.pictures  # noqa: F401  # by which its pictures and later ones are alike

    out, _, _ = interrupted
    before = (out / "sparse" / "seed-0" / "run.json").stat().st_mtime_ns
    return out, compare(tiny(), out, console=QUIET), before


def test_ctrl_c_leaves_what_is_finished(interrupted, tmp_path):
    out, code, output = interrupted
    assert code == 130, output
    assert "stopped; what is finished is kept, the same command resumes" in output
    assert "Traceback" not in output
    assert json.loads((out / "sparse" / "seed-0" / "run.json").read_text())["status"] == "finished"


@on_this_machine
def test_the_same_call_goes_on(finished):
    out, summary, before = finished
    assert (out / "sparse" / "seed-0" / "run.json").stat().st_mtime_ns == before
    assert summary["failed"] == []
    entries = summary["groups"][0]["rewards"]
    assert {name: entry["seeds"] for name, entry in entries.items()} == {
        "sparse": [0, 1],
        "abc": [0, 1],
    }
    assert summary["made"]["hardware"] == hardware()
    assert summary["made"].get("commit") == commit()
    assert not list(out.rglob("*.part"))
    for name in ("curves.csv", "summary.json", "curves.png", "report.html"):
        assert (out / name).stat().st_size > 0


def test_curves_have_every_evaluation(finished):
    out, summary, _ = finished
    curves = read_curves(out / "curves.csv")
    assert [list(curve.steps) for curve in curves] == [[0.0, 1.0, 2.0]] * 4
    for curve in curves:
        for name in ("score", "gold_score", "kl", "length", "entropy", "tokens"):
            assert curve.has(name), name
        assert curve.values["tokens"][0] == 0.0
        assert list(curve.values["episodes"]) == [0.0, 4.0, 8.0]
        assert np.isnan(curve.values["train_score"][0])
        assert np.isfinite(curve.values["train_score"][1:]).all()
        assert curve.values["kl"][0] == pytest.approx(0.0, abs=1e-4)
    # Before training every run is the reference policy, on the prompts and random numbers of its
    # seed, which differ between seeds.
    starts = {(curve.seed, curve.values["score"][0]) for curve in curves}
    assert len(starts) == len({seed for seed, _ in starts}) == 2
    start = np.mean([score for _, score in starts])
    assert summary["anchors"]["reference"]["score"] == pytest.approx(start)
    assert summary["kl_coef"] == 0.05


def test_samples_carry_credit_that_sums_to_the_score(finished):
    out, _, _ = finished
    lines = (out / "abc" / "seed-1" / "episodes.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [(row["step"], row["sample"]) for row in rows] == [(0, 0), (0, 1), (2, 0), (2, 1)]
    for row in rows:
        assert len(row["tokens"]) == len(row["token_rewards"]) == len(row["response_ids"])
        assert sum(row["token_rewards"]) == pytest.approx(row["score"], rel=1e-4, abs=1e-5)
        episode = Episode.from_record(row)  # all that scoring it again takes
        assert len(episode.prompt_ids) > 0
        assert episode.log_probs.max() <= 0.0
    assert len({row["score"] for row in rows}) > 1


@on_this_machine
def test_a_run_in_this_process_gives_the_same_numbers(finished, tmp_path):
    out, _, _ = finished
    config = tiny()
    torch.rand(3)  # global random state is none of its business
    run(config, "abc", 1, out=tmp_path)
    for name in ("curve.csv", "train.csv"):
        assert without_clock(tmp_path / "abc" / "seed-1" / name) == without_clock(
            out / "abc" / "seed-1" / name
        )
    again = (tmp_path / "abc" / "seed-1" / "episodes.jsonl").read_bytes()
    assert again == (out / "abc" / "seed-1" / "episodes.jsonl").read_bytes()


def test_results_are_the_same_bytes_when_written_again(finished):
    out, _, _ = finished
    names = ("curves.csv", "summary.json", "curves.png", "report.html")
    before = {name: (out / name).read_bytes() for name in names}
    compare(tiny(), out, console=QUIET)  # nothing is missing: results are made from the runs
    assert {name: (out / name).read_bytes() for name in names} == before
    assert "wall_s" not in before["summary.json"].decode()


def test_reference_samples_are_drawn_once_and_added_to(finished, tmp_path):
    first, summary, _ = finished
    out = tmp_path / "runs"
    shutil.copytree(first, out)
    folder = out / "reference_samples"
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["samples"], record["tokens"]) == ("finished", 16, 4 * 16 * 6)
    (group,) = summary["groups"]
    assert group["reference"]["samples"] == 16
    assert group["reference"]["tokens"] == record["tokens"]
    before = read_references(folder / "samples.json")
    none = replace(EVALUATION, reference_samples=0)
    compare(tiny(evaluation=none), out, console=QUIET)  # changes no run, so the folder takes it
    assert read_references(folder / "samples.json").scores.shape == (4, 16)
    more = compare(tiny(evaluation=replace(EVALUATION, reference_samples=32)), out, console=QUIET)
    after = read_references(folder / "samples.json")
    assert after.scores.shape == (4, 32)
    np.testing.assert_array_equal(after.scores[:, :16], before.scores)
    assert more["groups"][0]["reference"]["best_of_n"][-1]["n"] == 32
    assert (
        more["groups"][0]["rewards"]["abc"]["figures"]["score"]
        == (group["rewards"]["abc"]["figures"]["score"])
    )


def test_samples_that_fail_cost_the_lines_alone(finished, tmp_path):
    out = tmp_path / "runs"
    shutil.copytree(finished[0], out)
    (out / "reference_samples" / "run.json").unlink()
    (out / "reference_samples" / "samples.json").write_text("{}")
    summary = compare(tiny(), out, console=QUIET)
    assert summary["failed"] == []
    assert summary["groups"][0]["reference"] is None
    said = " ".join(summary["groups"][0]["verdict"]["cautions"])
    assert "No best-of-n: its responses failed (ValueError: " in said
    assert "samples.json was changed" in said
    shutil.rmtree(out / "reference_samples")
    page = write_comparison(tiny(), out)
    assert page.groups[0].score_range is None
    assert "Without training" not in (out / "report.html").read_text()
    again = compare(tiny(), out, console=QUIET)
    assert again["groups"][0]["reference"] == finished[1]["groups"][0]["reference"]


def test_a_failed_run_is_kept_and_shown(finished, tmp_path, monkeypatch):
    """A reward that only this process knows fails in the runs' own processes."""
    asked = "tokengym.evaluation.runs.compare.run_in_subprocess"
    monkeypatch.setattr(asked, lambda function, config, _: function(config))
    if "only-here" not in rewards.registered_rewards():
        rewards.register("only-here", lambda: rewards.RewardChoice.of("uniform").made)
    out = tmp_path / "runs"
    shutil.copytree(finished[0], out)
    config = tiny(rewards=("sparse", "abc", "only-here"))
    text = Console(record=True, quiet=True, width=200)
    summary = compare(config, out, console=text)
    lost = summary["failed"]
    assert [(run["credit"], run["seed"]) for run in lost] == [("only-here", 0), ("only-here", 1)]
    assert "unknown reward 'only-here'" in lost[0]["error"]
    assert "2 failed runs" in " ".join(summary["groups"][0]["verdict"]["cautions"])
    assert "unknown reward" in (out / "report.html").read_text()
    result = json.loads((out / "only-here" / "seed-0" / "run.json").read_text())
    assert result["status"] == "failed"
    before = (out / "only-here" / "seed-0" / "run.json").stat().st_mtime_ns
    again = [*ARGUMENTS[:5], "only-here", *ARGUMENTS[5:], "--out", str(out)]
    assert main(["compare", *again]) == 1  # it stays failed unless asked for
    assert (out / "only-here" / "seed-0" / "run.json").stat().st_mtime_ns == before


@rewards.token_credit
class Exploding:
    """Sparse credit that is broken from its second batch on."""

    def __init__(self) -> None:
        self.batches = 0

    def __call__(self, paid, response_mask):
        self.batches += len(paid) == TRAINING.batch_size
        if self.batches > 1:
            raise ValueError("the ground gave\nway")
        return rewards.on_last(paid, response_mask)


def test_a_run_that_fails_keeps_what_it_measured(tmp_path):
    if "exploding" not in rewards.registered_rewards():
        rewards.register("exploding", Exploding)
    config = tiny(rewards=("exploding",), seeds=1)
    with pytest.raises(ValueError, match="the ground gave"):
        run(config, "exploding", 0, out=tmp_path)
    folder = tmp_path / "exploding" / "seed-0"
    result = json.loads((folder / "run.json").read_text())
    assert (result["status"], result["steps_done"]) == ("failed", 1)
    assert "the ground gave way" in result["error"]
    assert "Traceback" in result["traceback"]
    assert list(read_curves(folder / "curve.csv")[0].steps) == [0.0, 1.0]
    with pytest.raises(ValueError, match=r"no run of .* has finished \(1 failed, the first: "):
        write_comparison(config, tmp_path)


def test_runs_made_apart_are_merged(finished, tmp_path):
    out, summary, _ = finished
    for index, reward in enumerate(("sparse", "abc")):
        part = tmp_path / f"machine-{index}"
        shutil.copytree(out / reward, part / reward)
        shutil.copytree(out / "reference_samples", part / "reference_samples")
        respec(part, rewards=[reward])
    parts = [tmp_path / "machine-0", tmp_path / "machine-1"]
    merged = merge_comparisons(parts, tmp_path / "merged", baseline=None)
    assert merged.groups == summary.found.groups
    with pytest.raises(ValueError, match="credit 'sparse' has two runs with seed 0"):
        merge_comparisons([parts[0], parts[0]], tmp_path / "twice", baseline=None)
    respec(parts[1], level=0.9)
    leveled = merge_comparisons(parts, tmp_path / "leveled", baseline=None, level=0.95)
    assert leveled.groups == summary.found.groups
    with pytest.raises(ValueError, match="holds no comparison"):
        merge_comparisons([tmp_path], tmp_path / "none", baseline=None)


def respec(out: Path, rewards: list[str] | None = None, level: float = 0.95) -> None:
    """Write the specs of a folder anew, as those of a comparison of these rewards and level."""
    for file in out.rglob("spec.json"):
        stored = read_hashed(file)
        if rewards is not None:
            stored["rewards"] = [word for word in stored["rewards"] if word["text"] in rewards]
        write_hashed(file, {**stored, "compared": {**stored["compared"], "level": level}})


def change_digit(path: Path) -> None:
    """Change the last digit of a file."""
    text = path.read_text()
    place = max(text.rindex(digit) for digit in "0123456789" if digit in text)
    path.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])


@pytest.mark.parametrize(
    "name", [f"abc/seed-1/{name}" for name in ("spec.json", "run.json", "train.csv")]
)
def test_a_changed_figure_or_a_missing_file_is_refused(finished, name, tmp_path):
    out = tmp_path / "runs"
    shutil.copytree(finished[0], out)
    lost = out / "abc" / "seed-1" / "episodes.jsonl"
    lost.rename(tmp_path / "kept")
    with pytest.raises(ValueError, match=r"abc/seed-1/episodes.jsonl is missing; restore it"):
        merge_comparisons([out], tmp_path / "report", baseline=None)
    (tmp_path / "kept").rename(lost)
    change_digit(out / name)
    with pytest.raises(ValueError, match=f"{name} was changed since"):
        merge_comparisons([out], tmp_path / "report", baseline=None)
    shutil.rmtree(out / "abc" / "seed-0")  # so that a run would be begun
    with pytest.raises(ValueError, match=rf"{name} was changed since .*; restore it, or delete "):
        compare(tiny(), out, console=QUIET)
    assert not (out / "abc" / "seed-0").exists()


def test_a_bundle_says_how_many_runs_fit_at_a_time(tmp_path, monkeypatch):
    jobs: list[int] = []

    def processes_here(number: int, _: object) -> None:
        jobs.append(number)
        raise KeyboardInterrupt

    monkeypatch.setattr("tokengym.evaluation.runs.compare.processes_here", processes_here)
    monkeypatch.setattr("tokengym.evaluation.runs.compare.run_in_subprocess", lambda *_: "nothing")
    real = tiny(task=TaskSettings(bundle="smollm2-reviews"))
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    pairs = tiny(training=replace(TRAINING, threads=2))
    for config, given in ((tiny(), None), (pairs, None), (real, None), (real, 2)):
        with pytest.raises(KeyboardInterrupt):
            compare(config, tmp_path / f"{len(jobs)}", jobs=given, console=QUIET)
    assert jobs == [6, 3, 1, 2]


def test_reference_samples_of_adapters_need_no_second_model(tmp_path, monkeypatch):
    references = []

    def draw(evaluator, policy, *arguments, **options):
        references.append(policy.reference)
        assert policy.language_model.adapters is None or all(
            module.disable_adapters
            for module in policy.language_model.model.modules()
            if isinstance(module, BaseTunerLayer)
        )
        return draw_references(evaluator, policy, *arguments, **options)

    monkeypatch.setattr("tokengym.evaluation.runs.run.draw_references", draw)
    adapted = tiny(training=replace(TRAINING, lora_rank=2))
    whole, shared = (
        Run(config.reference_spec(tmp_path / name)).draw()
        for config, name in ((tiny(), "a"), (adapted, "b"))
    )
    assert [reference is None for reference in references] == [False, True]
    np.testing.assert_array_equal(whole.scores, shared.scores)
