import csv
import importlib
import io
import json
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.scripts.cli import check_missing_file
from tests.support.suite import of_suite
from tokengym import __main__ as program
from tokengym.agents import PPO
from tokengym.agents.offline.settings import PAIR_FIGURES
from tokengym.base.device import preferred_device, select_device
from tokengym.base.files import write_csv
from tokengym.base.text import fixed, number
from tokengym.envs import Episode
from tokengym.evaluation.measure.references import BestOf, ReferenceLines
from tokengym.evaluation.report.facts import Alarm
from tokengym.evaluation.result import read_result
from tokengym.evaluation.runs.display import ProgressDisplay
from tokengym.evaluation.runs.run import Run
from tokengym.evaluation.statistics import Curve
from tokengym.rewards import RewardModel
from tokengym.scripts import cli
from tokengym.scripts.cli import COMMANDS, command_names, main
from tokengym.scripts.commands import terminal
from tokengym.scripts.commands.show import show_references
from tokengym.scripts.commands.train import _how_far, _show_log
from tokengym.version import __version__

CURVES = "credit,length,cell,seed,step,score\n" + "".join(
    f"{credit},48,{cell},{seed},{step},{score * (1 + seed / 10)}\n"
    for credit, slope in (("late", 1.0), ("sparse", 2.0))
    for cell in ("a", "b")
    for seed in range(5)
    for step, score in ((0, 0.0), (5, slope), (10, 2 * slope))
)


SMALL = [
    *("--updates", "1", "--batch-size", "4", "--max-new-tokens", "5", "--n-epochs", "1"),
    *("--eval-episodes", "4", "--samples", "1"),
]
"""A training of a second."""


@pytest.fixture
def curves(tmp_path: Path) -> Path:
    path = tmp_path / "curves.csv"
    path.write_text(CURVES)
    return path


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", ["tokengym compare --env MovieReview", *(f"  {name} " for name in command_names())]),
        ("--version", [f"tokengym {__version__}\n"]),
        ("envs", ["tokengym/MovieReview-v0"]),
        ("envs MovieReview", ["tokens"]),
    ],
)
def test_what_there_is_is_shown(line, words, capsys):
    assert main(line.split()) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in words)


@pytest.mark.parametrize("name", of_suite(command_names(), "commands"))
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "For example:" in text
    assert f"tokengym {name}" in text
    assert "{None}" not in text


def test_hostile_names_reach_neither_terminal_nor_markup(tmp_path, capsys):
    names = ("\x1b]0;owned\x07", "[red]a[/]", "\u202ereversed")
    rows = [f"{name},0,{step},{step}" for name in names for step in range(3)]
    (tmp_path / "curves.csv").write_text("\n".join(["credit,seed,step,score", *rows]), "utf-8")
    out = tmp_path / "a[" / "]b"
    arguments = ["report", "--curves", str(tmp_path / "curves.csv"), "--out", str(out)]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "[red]a[/]" in shown
    assert f"{out / 'report.html'}" in shown
    assert not any(mark in shown for mark in ("\x1b", "\x07", "\u202e"))


def test_the_demo_is_a_comparison_that_opens_its_report(tmp_path, capsys, monkeypatch):
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setenv("DISPLAY", ":0")
    short = "--rewards sparse --seeds 1 --updates 1 --batch-size 2 --max-new-tokens 2"
    monkeypatch.setattr(
        "tokengym.scripts.commands.demo.SETTINGS",
        f"{short} --n-minibatches 1 --eval-episodes 2 --reference-samples 0",
    )
    out = tmp_path / "a demo"
    assert main(["demo", "--out", str(out)]) == 0
    assert f"tokengym compare {short}" in capsys.readouterr().out
    assert opened == []  # nobody is at a terminal
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    assert main(["demo", "--out", str(out), "--no-browser"]) == 0
    assert opened == []
    assert main(["demo", "--out", str(out)]) == 0
    assert opened == [(out / "report.html").as_uri()]


def test_a_terminal_that_lacks_characters_gets_escapes(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii"))
    cli._print_anywhere()
    print("\u22120.5 \u25b2 \u4e2d", flush=True)
    assert written.getvalue() == rb"\u22120.5 \u25b2 \u4e2d" + b"\n"


@pytest.mark.parametrize("held_out", [True, False])
def test_what_a_learner_from_data_logged_is_shown_by_epochs(held_out, tmp_path, capsys):
    rows = [
        {"step": 1, "epoch": 0.5, "loss": 0.75, "rewards/accuracies": 0.5},
        {"step": 2, "epoch": 1.0, "loss": 0.25, "rewards/accuracies": 1.0},
    ]
    if held_out:
        rows[1] |= {"eval_loss": 0.625, "eval_rewards/accuracies": 0.75}
    figures = ("loss", *PAIR_FIGURES)
    columns = ["step", "epoch", *figures, *(f"eval_{name}" for name in figures)]
    write_csv(tmp_path / "train.csv", rows, columns)
    _show_log(terminal(), Run(tmp_path))
    head, *lines = (line.split() for line in capsys.readouterr().out.splitlines())
    assert head == ["loss", "rewards/accuracies"]
    assert lines[0] == ["epoch", "1", "training", "0.500", "0.750"]
    assert lines[1] == (
        ["epoch", "1", "held", "out", "0.625", "0.750"]
        if held_out
        else "no held-out data: --eval-pairs FILE tells whether these figures carry over".split()
    )
    write_csv(tmp_path / "train.csv", [{"step": 1, "score": 0.5}], ["step", "score"])
    _show_log(terminal(), Run(tmp_path))  # of a learner by rounds
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("value", "styled"), [("1", False), ("", True)])
def test_no_color_leaves_no_escapes(value, styled, monkeypatch):
    monkeypatch.setenv("NO_COLOR", value)
    monkeypatch.setenv("TERM", "xterm")
    written = io.StringIO()
    terminal(force_terminal=True, file=written).print("[bold]environment")
    assert ("\x1b" in written.getvalue()) == styled


@pytest.mark.parametrize("given", ["--axis step", "--kl-coef 0.1", "--group-by cell", "--score kl"])
def test_report_refuses_what_has_no_effect(given, curves, capsys):
    """Runs have their settings stored beside them."""
    assert main(["report", str(curves.parent), *given.split()]) == 2
    assert f"{given.split()[0]} has no effect" in capsys.readouterr().err


def test_report_of_curves_made_elsewhere(curves, tmp_path, capsys):
    out = tmp_path / "report"
    assert main(["report", str(curves), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "late learned slower" in text
    assert "cell a" in text
    assert "report.html" in text
    summary = json.loads((out / "summary.json").read_text())
    assert [group["group"] for group in summary["groups"]] == [{"cell": "a"}, {"cell": "b"}]
    assert summary["groups"][0]["baseline"] == "sparse"  # though another one comes first
    written = {"curves.csv", "summary.json", "curves.png", "report.html"}
    assert {path.name for path in out.iterdir()} == written
    assert curves.read_text() == CURVES
    curves.write_text(CURVES.replace("score", "reached", 1))
    again = ["report", "--curves", str(curves), "--out", str(out), "--baseline", "late"]
    assert main(again) == 2
    assert "has no column 'score'" in capsys.readouterr().err
    assert main([*again, "--score", "reached"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["groups"][0]["baseline"] == "late"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["comapre"], "'comapre'; did you mean 'compare'? known: demo, compare,"),
        (["compare", "--env", "MovieRevew"], "did you mean tokengym/MovieReview-v0?"),
        (["compare", "--rewards", "sprse"], "'sprse'; did you mean 'sparse'"),
        (["compare", "--agent", "pppo"], "'pppo'; did you mean 'ppo'"),
        (["compare", "--agent", "dpo", "--rewards", "sparse", "abc"], "dpo learns from"),
        (["compare", "--seeds", "five"], "--seeds must be INT, got 'five'"),
        (["compare", "--learning_rate=x"], "FLOAT, got 'x'"),
        (["compare", "--dtype", "many"], "bfloat16}, got 'many'"),
        (["compare", "--rewards", "--seeds", "1"], "--rewards needs a value (NAME ...)"),
        (["compare", "--out"], "--out needs a value (PATH)"),
        (["evaluate", "--agent", "x"], "--agent; did you mean '--against'"),
        (["evaluate", "--chat-template", "a", "b"], "'b'; tokengym evaluate --help"),
        (["train", "dpo", "grpo"], "'grpo'; tokengym train --help"),
        (["train", "dpo", "--agent", "ppo"], "dpo is named first"),
        (["train", "--ent-coef", "0.9"], "word: --agent ppo:ent_coef=0.9"),
        (["train", "dpo", "--updates", "3"], "--updates has no effect on dpo"),
        (["train", "--env", "CartPole-v1"], "learners write texts"),
        (["compare", "--rewards", "rules.py"], "rules.py:Name"),
        (["compare", "--level", "80"], "level must be within (0, 1), got 80"),
        (["report", "x", "--measure", "kl"], "error: measure kl has no effect without a figure or"),
        (["compare", "--seeds", "0"], "seeds must be an integer >= 1, got 0"),
        (["train", "--updates=0"], "updates must be an integer >= 1, got 0"),
        (["train", "--seed", "-1"], "error: --seed must be an integer >= 0, got -1"),
        (
            ["train", "--eval-every", "0"],
            "error: --eval-every must be an integer >= 1, or None, got 0",
        ),
        (
            ["evaluate", "--num-episodes", "0"],
            "error: --num-episodes must be an integer >= 1, got 0",
        ),
        (["compare", "--prompt-column", "text"], "pass dataset"),
        (["train", "--reward", "abc:bta=1", "--out", "x"], "'abc' has no option 'bta'"),
        (["evaluate", "nowhere"], "nowhere is no folder"),
        (["envs", "Nothing"], "unknown environment 'Nothing'"),
        (["train", "--env", "my/Env of mine", "--out", "a"], "environment ID: my"),
        *(
            ([*command.split(), "--device", "cuda:99"], "device 'cuda:99'")
            for command in ("evaluate", "train ppo --out a", "train dpo --out a")
        ),
        (["report"], "--curves FILE.csv"),
        (["report", "nowhere"], "there is no folder nowhere"),
        (["report", "--curves", "nowhere.csv"], "nowhere.csv is no file"),
    ],
)
def test_mistakes_are_said_in_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []  # nothing was begun


def test_a_traceback_is_there_for_who_wants_it(monkeypatch):
    monkeypatch.setenv("TOKENGYM_TRACEBACK", "1")
    with pytest.raises(ValueError, match="unknown command"):
        main(["comapre"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_a_finalizer_still_stops_the_command(monkeypatch, capsys, number):
    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(number)

    def finalize() -> None:
        """Lose an object whose finalizer is interrupted, then wait."""
        Finalized()
        threading.Event().wait(60)

    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(sys, "argv", ["tokengym", "envs"])
    monkeypatch.setitem(COMMANDS, "envs", finalize)
    try:
        assert main() == 130
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert capsys.readouterr().err.splitlines() == [
        "stopped; what is finished is kept, the same command resumes"
    ]


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_a_scorer_that_reads_few_words_raises_no_alarm(tmp_path, capsys, monkeypatch, share):
    def unread(scorer: RewardModel, episodes: Sequence[Episode]) -> NDArray[np.float64]:
        return np.full(len(episodes), share)

    monkeypatch.setattr(RewardModel, "oov_fraction", unread)
    command = ["train", "--out", str(tmp_path / "run"), *SMALL]
    for _ in range(2):  # the second time nothing is trained
        assert main(command) == 0
        printed = capsys.readouterr().out
        assert ("below the" in printed) == (share == 0.0)
        page = (tmp_path / "run" / "report.html").read_text()
        assert ("ended below the best of 4" in page) == (share == 0.0)


def test_a_missing_file_is_named_without_control_characters(capsys):
    check_missing_file(["evaluate"], capsys)


def test_the_command_that_train_names_runs_with_code_of_ones_own(tmp_path, capsys):
    (tmp_path / "score.py").write_text("def mine(response): return len(response)")
    own = ["--scorer", str(tmp_path / "score.py:mine"), "--out", str(tmp_path / "run")]
    assert main(["train", *SMALL, *own]) == 0
    following = " ".join(capsys.readouterr().out.split()).partition("next: tokengym ")[2]
    assert main([*following.split(), "--num-episodes", "2", "--reference-samples", "0"]) == 0


def test_train_and_evaluate(tmp_path, capsys):
    out = tmp_path / "a[/]b[red]"  # no markup
    train = ["train", "--reward", "abc", "--eval-stream", "shared", "--out", str(out)]
    assert main([*train, *SMALL, "--kl-coef", "0.2"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "update 1 of 1: score " in printed  # as it goes, though there is no terminal
    assert re.search(r" score from -?[\d.]+ to -?[\d.]+, gold score from ", printed)
    assert f"curve and report: {out / 'curve.png'} {out / 'report.html'} " in printed
    assert printed.endswith(f"next: tokengym evaluate {out / 'agent'}")
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "report.html").read_text()
    assert "Continue a film review, positively." in page
    assert "tokengym train --env MovieReview --reward abc " in page
    file = tmp_path / "figures.json"
    arguments = ["--num-episodes", "4", "--max-new-tokens", "5", "--json", str(file)]
    assert main(["evaluate", str(out / "agent"), *arguments, "--seed", "20240"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Gold score" in shown
    figures = json.loads(file.read_text())
    (row,) = (row for row in figures["reference"]["best_of_n"] if row["n"] == 16)
    needs_no_training = (
        f"untrained, best of 16: score {number(row['score'])}, gold {number(row['gold_score'])}, "
        f"KL at most 1.84 nats, score - 0.2 KL {number(row['net_score'])}; optimum of score - 0.2 "
        f"KL at least {number(figures['reference']['optimum'])} (16 responses to each of 4 prompts)"
    )
    assert needs_no_training in printed  # by the same prompts and random numbers,
    assert needs_no_training in shown  # and at the price that it was trained at
    assert (
        main(["evaluate", "--num-episodes", "4", "--samples", "0", "--reference-samples", "0"]) == 0
    )
    assert "best of 16" not in capsys.readouterr().out
    last = (out / "abc" / "seed-0" / "curve.csv").read_text().splitlines()[-1].split(",")
    assert figures["score"] == pytest.approx(float(last[5]), rel=1e-5)
    assert main(["evaluate", str(out / "agent"), "--draws", "0", "1", *arguments[2:]]) == 2
    assert "--draws 0 1 has no effect: the run's evaluations all have" in capsys.readouterr().err
    assert main(train) == 2
    assert "other settings: " in capsys.readouterr().err
    assert main(["train", "--reward", "red", *train[3:]]) == 2
    assert "abc, seed 0, is there and not here" in capsys.readouterr().err


def test_evaluate_gives_a_row_of_a_curve_again(tmp_path, capsys):
    """By the run's own prompts and draws, with its numbers of episodes and of reference samples."""
    out, file = tmp_path / "run", tmp_path / "figures.json"
    assert main(["train", "--out", str(out), *SMALL, "--reference-samples", "0"]) == 0
    evaluate = ["evaluate", str(out / "agent"), "--json", str(file)]
    assert main([*evaluate, "--draws", "0", "1"]) == 0
    assert "best of 16" not in capsys.readouterr().out
    figures = json.loads(file.read_text())
    (run,) = read_result(out)._runs
    assert figures["score"] == pytest.approx(run.points[-1]["score"], rel=1e-5)
    assert figures["errors"]["score"] == pytest.approx(run.curve.error("score", "final"), rel=1e-5)
    assert main([*evaluate, "--draws", "0", "0"]) == 0  # another row's random numbers
    assert json.loads(file.read_text())["score"] != figures["score"]
    assert main([*evaluate, "--reference-samples", "5"]) == 2
    assert "a multiple of 16, got 5" in capsys.readouterr().err


def test_work_outlasts_the_reader_of_its_output(tmp_path):
    """As ``tokengym train ... | head`` does, whose reader leaves before the first line."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "tokengym", "train", "--out", str(out), *SMALL]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert b"Broken" not in process.stderr.read()
    assert process.returncode == 0
    assert (out / "report.html").exists()
    assert (out / "agent").exists()


def test_trained_folders_are_comparisons_of_one_run(tmp_path, capsys):
    small = [*SMALL, "--reference-samples", "0"]
    folders = [str(tmp_path / reward) for reward in ("sparse", "abc")]
    for folder in folders:
        assert main(["train", "--reward", Path(folder).name, "--out", folder, *small]) == 0
    assert main(["report", *folders, "--out", str(tmp_path / "both"), "--level", "0.8"]) == 0
    summary = json.loads((tmp_path / "both" / "summary.json").read_text())
    (group,) = summary["groups"]
    assert summary["level"] == 0.8
    assert list(group["rewards"]) == ["sparse", "abc"]
    both = ["compare", "--rewards", "sparse", "abc", "--seeds", "1", "--jobs", "1", *small]
    assert main([*both, "--out", folders[0]]) == 0  # which adds a run
    shutil.rmtree(tmp_path / "abc" / "agent")
    (tmp_path / "abc" / "curve.png").unlink()
    (tmp_path / "abc" / "curves.csv").write_text("")  # compare writes it, and saves no agent
    assert main(["train", "--reward", "abc", "--out", folders[1], *small]) == 2
    assert "tokengym compare made it" in capsys.readouterr().err
    for file in (tmp_path / "abc").rglob("spec.json"):
        file.unlink()
    assert main(["train", "--reward", "abc", "--out", folders[1], *small]) == 2
    assert "no spec.json" in capsys.readouterr().err


def test_a_folder_that_takes_no_agent_is_refused_before_training(tmp_path, monkeypatch, capsys):
    """Neither a folder that cannot be made nor a disk too small costs the time of the training."""
    small = ["train", "--reward", "abc", *SMALL]
    (tmp_path / "file").write_text("")
    with monkeypatch.context() as watched:
        watched.setattr(
            "tokengym.evaluation.runs.compare.run_in_subprocess", lambda *_: pytest.fail("late")
        )
        assert main([*small, "--out", str(tmp_path / "file" / "x")]) == 2
    assert "cannot write to" in capsys.readouterr().err
    monkeypatch.setattr(ProgressDisplay, "update", lambda *run: steps.append(run[2]))
    steps: list[int] = []
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        assert main([*small, "--out", str(tmp_path / "small")]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "free some space" in capsys.readouterr().err
    assert steps == [0]
    assert main([*small, "--out", str(tmp_path / "small")]) == 0


def test_a_refused_training_leaves_its_folder_to_the_corrected_command(tmp_path, capsys):
    """What only the training itself can refuse is found out when its folder is there already."""
    small = ["train", *SMALL, "--out", str(tmp_path / "run")]
    assert main([*small, "--reward", "r3", "--value-network", "reward_model"]) == 2
    assert "take --value-network own" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main([*small, "--reward", "uniform"]) == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("raise ValueError('sizes')", r"ValueError: sizes \(.*mine\.py, line 2; TOKENGYM_T"),
        ("import torch; torch.ones(2) @ torch.ones(3)", r"RuntimeError: .*the traceback is in"),
        ("import json; json.loads('{')", r"JSONDecodeError: .* \(.*mine\.py, line 2; "),
    ],
)
def test_a_fault_of_the_users_code_has_its_type_and_place(
    tmp_path, monkeypatch, capsys, line, said
):
    (tmp_path / "mine.py").write_text(f"def fault(*a, **b):\n    {line}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    mine = importlib.import_module("mine")
    monkeypatch.setattr(cli, "call", mine.fault)
    assert main(["envs"]) in (1, 2)
    assert re.search(rf"^error: {said}", capsys.readouterr().err)


def test_a_failed_training_is_done_again_by_the_same_command(tmp_path, monkeypatch):
    small = ["train", *SMALL, "--out", str(tmp_path / "run")]
    result = tmp_path / "run" / "sparse" / "seed-0" / "run.json"

    def fail(self: ProgressDisplay, run: object, step: int, score: float) -> None:
        if step == 1:
            raise ValueError("not finite")

    with monkeypatch.context() as failing:
        failing.setattr(ProgressDisplay, "update", fail)
        assert main(small) == 2
    assert json.loads(result.read_text())["status"] == "failed"
    assert main(small) == 0
    assert json.loads(result.read_text())["status"] == "finished"


@pytest.mark.parametrize(
    ("stopped_by", "code"), [(KeyboardInterrupt(), 130), (ConnectionError("no judge"), 2)]
)
def test_a_stopped_training_is_resumed_by_the_same_command(
    tmp_path, monkeypatch, capsys, stopped_by, code
):
    """It ends with the numbers of one that was never stopped; other settings are refused."""

    def train(out: Path, *more: str) -> int:
        steps = ["--updates", "3", "--eval-every", "1"]
        return main(["train", "--reward", "abc", "--out", str(out), *steps, *SMALL[2:], *more])

    assert train(tmp_path / "whole") == 0
    with monkeypatch.context() as stopping:

        def stop(self: ProgressDisplay, run: object, step: int, score: float) -> None:
            if step == 2:
                raise stopped_by

        stopping.setattr(ProgressDisplay, "update", stop)
        assert train(tmp_path / "stopped") == code
    capsys.readouterr()
    assert train(tmp_path / "stopped", "--learning-rate", "0.01") == 2
    error = capsys.readouterr().err
    assert "--learning-rate 0.0003 there, 0.01 here" in error
    assert train(tmp_path / "stopped") == 0
    assert "stopped holds this run unfinished: it resumes" in capsys.readouterr().out.replace(
        "\n", ""
    )

    def curve(name: str) -> list[dict[str, str]]:
        with (tmp_path / name / "abc" / "seed-0" / "curve.csv").open() as file:
            return [
                {k: v for k, v in row.items() if not k.endswith("_s")}
                for row in csv.DictReader(file)
            ]

    assert len(curve("whole")) == 4
    assert curve("stopped") == curve("whole")


def test_auto_is_the_preferred_device():
    usual = select_device("auto")
    with preferred_device("meta"):
        assert select_device("auto").type == "meta"
        assert select_device("cpu").type == "cpu"
    assert select_device("auto") == usual


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--agent", "dpo", "--help"]])
def test_help_loads_no_models(arguments):
    code = (
        "import contextlib, sys\nfrom tokengym.scripts.cli import main\n"
        f"with contextlib.suppress(SystemExit):\n    main({arguments})\n"
        "print([name for name in ('torch', 'transformers', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_report_of_curves_needs_no_torch(tmp_path):
    """Statistics, verdict, tables and pictures are of numbers alone."""
    rows = [f"{name},{seed},{step},{step}" for name in "ab" for seed in range(2) for step in (0, 9)]
    (tmp_path / "log.csv").write_text("\n".join(["credit,seed,step,score", *rows, ""]))
    code = (
        "import sys\nfrom tokengym.scripts.cli import main\n"
        f"assert main(['report', '{tmp_path / 'log.csv'}', '--out', '{tmp_path}']) == 0\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_library_that_panics_ends_in_one_line(monkeypatch, capsys):
    class PanicException(BaseException):
        """Stands for the panic of a library in Rust."""

    def broken() -> None:
        """Break."""
        raise PanicException("called `Option::unwrap()` on a `None` value")

    monkeypatch.setitem(COMMANDS, "broken", broken)
    assert main(["broken"]) == cli.FAULT
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "error: PanicException: called" in said


def test_a_fault_ends_in_one_line_and_its_traceback_in_a_file(monkeypatch, capsys):
    def broken() -> None:
        """Break."""
        raise RuntimeError("out of \x1b[31mluck\nand memory")

    monkeypatch.setitem(COMMANDS, "broken", broken)
    assert main(["broken"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "\x1b" not in said
    found = re.fullmatch(
        r"error: RuntimeError: out of .*luck.*and memory; the .* is in (.*)\n", said
    )
    kept = Path(found.group(1))
    assert "raise RuntimeError(" in kept.read_text(encoding="utf-8")
    kept.unlink()


def test_interruption_of_the_imports_is_one_line(monkeypatch, capsys):
    class Interrupted(ModuleType):
        def __getattr__(self, name: str) -> None:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "tokengym.scripts.cli", Interrupted("cli"))
    assert program.main() == 130
    assert capsys.readouterr().err == "stopped before it began\n"


def test_agents_are_trained_once_and_go_on(tmp_path, capsys, monkeypatch):
    short = "--updates 1 --batch-size 2 --max-new-tokens 2 --n-minibatches 1 --eval-episodes 2"
    settings = f"--env MovieReview --reward uniform {short} --reference-samples 0"
    monkeypatch.setattr("tokengym.scripts.commands.agents.AGENTS", {"moviereview": settings})
    out = tmp_path / "agents"
    assert main(["agents", "--out", str(out)]) == 0
    agent = out / "moviereview" / "agent"
    assert str(agent) in capsys.readouterr().out
    written = (agent / "checkpoint.json").stat().st_mtime_ns
    assert main(["agents", "--out", str(out)]) == 0
    assert (agent / "checkpoint.json").stat().st_mtime_ns == written
    made: dict[str, Any] = {"num_envs": 2, "reward": "uniform", "max_new_tokens": 2}
    envs = gym.make_vec("tokengym/MovieReview-v0", **made, normalize="batch")
    loaded = PPO.load(agent, env=envs)
    steps = loaded.num_timesteps
    assert loaded.learn(4, reset_num_timesteps=False).num_timesteps == steps + 4


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        ({"score": 0.25}, {"score": 0.5, "kl": 1.0}, "score from 0.250 to 0.500, KL 1.00 nats"),
        ({"score": None}, {"score": 0.5, "kl": 1.0}, "KL 1.00 nats"),
        ({"score": 0.25}, {"score": None}, "trained"),
    ],
)
def test_how_far_a_run_came_is_said_of_scores_at_both_ends(first, last, expected):
    rows = [
        {"step": 0, "tokens": 0, "kl": 0.0} | first,
        {"step": 1, "tokens": 1200, "kl": None} | last,
    ]
    assert _how_far(Curve.of(rows)) == f"{expected} (1,200 tokens)"


def test_the_end_of_a_run_is_the_mean_of_its_last_tenth():
    values = [0.0] * 18 + [0.2, 0.4, 0.9]  # 21 evaluations: the last three, with a mean of .5
    rows = [
        {"step": i, "tokens": 10 * i, "score": y, "gold_score": -y, "kl": 2 * y}
        for i, y in enumerate(values)
    ]
    ends = "score from 0.000 to 0.500, gold score from 0.000 to -0.500, KL 1.00 nats (200 tokens)"
    assert _how_far(Curve.of(rows)) == ends


def test_train_and_its_report_give_one_end(tmp_path, capsys):
    """15 evaluations, whose end is the mean of the last two."""
    small = ["--batch-size", "4", "--max-new-tokens", "5", "--n-epochs", "1"]
    measured = ["--eval-episodes", "16", "--eval-every", "1", "--learning-rate", "3e-4"]
    out = tmp_path / "run"
    assert main(["train", "--updates", "14", "--out", str(out), *small, *measured]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    with (out / "curves.csv").open() as file:
        scores = [float(row["score"]) for row in csv.DictReader(file)]
    end = (scores[-1] + scores[-2]) / 2
    assert f" score from {fixed(scores[0], 3)} to {fixed(end, 3)}, gold" in printed
    (group,) = json.loads((out / "summary.json").read_text())["groups"]
    (entry,) = group["rewards"].values()
    assert entry["figures"]["score"]["final"]["mean"] == pytest.approx(end)
    for alarm in entry["alarms"]:  # those of the report, and no others
        assert f"! sparse: {Alarm(**alarm)}" in printed
    assert printed.count("! sparse: ") == len(entry["alarms"])


@pytest.mark.parametrize("most", [4, 16, 64])
def test_the_best_of_fewer_is_shown_where_scores_are_missing(capsys, most):
    rows = [BestOf(n=n, score=0.5 * n, kl=1.0, error=0.1) for n in (1, 4, 16, 64) if n <= most]
    lines = ReferenceLines(
        best_of_n=rows, price=None, samples=64, prompts=2, tokens=9, optimum=None
    )
    show_references(terminal(), lines)
    n = min(most, 16)
    printed = capsys.readouterr().out
    assert f"untrained, best of {n}: score {number(0.5 * n)}" in printed
    assert "no score" not in printed
    show_references(terminal(), replace(lines, unscored=3))
    assert "3 responses have no score: every prompt keeps" in capsys.readouterr().out
