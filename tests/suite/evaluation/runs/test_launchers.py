"""Processes that do runs: what they have of their parent, how they answer, how they end."""

import logging
import multiprocessing.util
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from rich.console import Console

from tests.support.evaluation import compare as test_compare
from tests.support.forked import Forked
from tests.support.signals import tell_blocked
from tokengym.base.device import select_device
from tokengym.base.errors import SettingsError
from tokengym.evaluation.runs import executors as launchers
from tokengym.evaluation.runs.compare import compare
from tokengym.evaluation.runs.comparison import Comparison
from tokengym.evaluation.runs.executors import Fault
from tokengym.evaluation.runs.settings import TrainingSettings
from tokengym.evaluation.runs.spec import RunSpec

QUIET = Console(quiet=True)


def tiny(**changes) -> Comparison:
    plain = replace(test_compare.EVALUATION, reference_samples=0)
    return test_compare.tiny(**{"evaluation": plain, **changes})


PLAYER = """
import os
from tokengym.rewards.models.loading import select_device


class Player:
    def __init__(self):
        raise RuntimeError(f"on {select_device('auto')}, the variable is {os.environ.get('LATE')}")

    def predict(self, *arguments, **options):
        raise NotImplementedError
"""


@pytest.mark.skipif("TOKENGYM_PLAY_GPUS" in os.environ, reason="a GPU is played")
def test_a_run_of_a_running_server_has_the_device_and_the_variables_of_now(tmp_path, monkeypatch):
    method = launchers.processes().get_start_method()
    assert method == ("forkserver" if sys.platform == "linux" else "spawn")
    monkeypatch.delenv("TRANSFORMERS_VERBOSITY", raising=False)  # a command run here sets it
    monkeypatch.setenv("LATE", "five")
    (tmp_path / "player.py").write_text(PLAYER)
    config = tiny(rewards=("sparse",), agents=(f"{tmp_path}/player.py:Player",), seeds=1)
    with TrainingSettings(device="meta").applied(), TrainingSettings().applied():
        assert select_device("auto").type == "meta"  # scorers with the policy
        with pytest.raises(ValueError, match="on meta, the variable is five"):
            compare(config, tmp_path / "out", console=QUIET)
    assert "TRANSFORMERS_VERBOSITY" not in os.environ
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert launchers.processes().get_start_method() == "spawn"


def answer_apart(config: Comparison) -> str:
    """Return the process's id; a comparison of too many seeds is refused, one of 9 kills it."""
    if len(config.seeds) == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    if len(config.seeds) == 8:
        raise SettingsError(f"too many seeds: {len(config.seeds)}")
    if len(config.seeds) == 7:
        raise type("OwnError", (Exception,), {})("of a class that nobody else has")
    return f"{os.getpid()} of {os.getppid()}"


def test_a_script_without_a_guard_does_not_begin_anew_in_its_processes(tmp_path, monkeypatch):
    script, began = tmp_path / "script.py", tmp_path / "began"
    script.write_text(f"open({str(began)!r}, 'w')")
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__file__", str(script), raising=False)
    monkeypatch.setattr(main, "__spec__", None)
    launchers.run_in_subprocess(answer_apart, tiny())
    assert not began.exists()
    assert main.__file__ == str(script)


def test_what_is_done_apart_answers_raises_and_can_be_killed():
    number, _, _ = launchers.run_in_subprocess(answer_apart, tiny()).partition(" of ")
    assert int(number) != os.getpid()
    with pytest.raises(SettingsError, match="too many seeds: 8") as refused:
        launchers.run_in_subprocess(answer_apart, tiny(seeds=8))
    assert "answer_apart" in str(refused.value.__cause__)  # the traceback of the other process
    with pytest.raises(RuntimeError, match="OwnError: of a class that nobody else has"):
        launchers.run_in_subprocess(answer_apart, tiny(seeds=7))
    with pytest.raises(ChildProcessError, match="ended with code -9; if it ran out of memory"):
        launchers.run_in_subprocess(answer_apart, tiny(seeds=9))
    assert not multiprocessing.active_children()


def log_a_notice(config: Comparison) -> str:
    """Log a notice that says which process logs, and one that all log alike."""
    logger = logging.getLogger("tokengym.envs.prompts.vocabulary")
    logger.warning("%s has no pad token", "Tokenizer")
    logger.warning("process %d", os.getpid())
    return str(os.getpid())


def test_what_several_processes_log_is_said_once_by_their_parent(caplog, capfd):
    notices = launchers.Notices()
    first, second = (launchers.run_in_subprocess(log_a_notice, tiny(), notices) for _ in range(2))
    said = ["Tokenizer has no pad token", f"process {first}", f"process {second}"]
    assert caplog.messages == said
    assert not capfd.readouterr().err  # of the processes themselves
    launchers.run_in_subprocess(log_a_notice, tiny())
    assert caplog.messages[3] == said[0]  # another comparison says it again


def test_an_alarm_of_updates_is_said_once_whatever_its_numbers(caplog):
    notices, name = launchers.Notices(), "tokengym.agents.ppo.advantages"
    said = ["update 2 moved it by 1.5", "update 13 moved it by -2", "2 prompts", "3 prompts"]
    for text in said:
        assert notices.take(logging.LogRecord(name, logging.WARNING, "", 0, text, None, None))
    assert caplog.messages == [said[0], *said[2:]]


def test_a_comparison_loads_no_model_in_its_own_process(tmp_path, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tokengym.evaluation.runs.compare.execute", stop)
    monkeypatch.setattr(torch.nn.Module, "__init__", lambda *_: pytest.fail("a model is loaded"))
    with pytest.raises(KeyboardInterrupt):
        compare(tiny(), tmp_path / "out", console=QUIET)


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Windows has no signal mask")
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_ctrl_c_does_not_reach_a_process_that_still_imports(method):
    """A server or run that imports the libraries has not yet chosen to ignore it."""
    context: Any = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=tell_blocked, args=(sender,))
    with launchers._starting():
        process.start()
    assert receiver.recv() is True
    process.join()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no PYTHONSAFEPATH")
def test_a_file_of_the_current_folder_is_no_module_of_a_process_that_starts(tmp_path, monkeypatch):
    """It may lie in a folder of somebody else's; Python would prefer it to its own."""
    for name in ("pickle", "random", "socket"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w')\nraise ImportError\n")
    monkeypatch.chdir(tmp_path)
    context = multiprocessing.get_context("spawn")
    process = launchers._begin(context, print, (), "apart", launchers.Notices()).process
    process.join()
    assert (process.exitcode, (tmp_path / "ran").exists()) == (0, False)
    assert "PYTHONSAFEPATH" not in os.environ


def of_a_killed_run(spec: RunSpec) -> Fault | None:
    """Log a notice; one reward's process is killed, another's runs raise."""
    logging.getLogger("tokengym").warning("a notice")
    if spec.name == "sparse":
        os.kill(os.getpid(), signal.SIGKILL)
    if spec.seed:
        raise OSError("the disk is full")
    return None if spec.folder and spec.folder.parent.name == "abc" else Fault("another run")


@pytest.mark.parametrize("jobs", [1, 4])
def test_processes_end_with_their_faults_and_end_no_other(tmp_path, caplog, jobs):
    execute = launchers.processes_here(jobs)
    ended = {spec.key: fault for spec, fault in execute(of_a_killed_run, tiny().specs(tmp_path))}
    killed = ended["sparse", 0]
    assert killed.text.startswith("its process ended with code -9 and no result; it may have run")
    assert killed.resumes
    assert ended == {
        ("sparse", 0): killed,
        ("sparse", 1): killed,
        ("abc", 0): None,
        ("abc", 1): Fault("OSError: the disk is full"),
    }
    assert caplog.messages == ["a notice"]
    assert not multiprocessing.active_children()


def wait_for_ever(spec: RunSpec) -> Fault | None:
    """Tell which process this is, and do not end by itself."""
    spec.folder.mkdir(parents=True)
    (spec.folder / "pid.part").write_text(str(os.getpid()))
    (spec.folder / "pid.part").rename(spec.folder / "pid")
    while True:
        time.sleep(1)


def start_runs(folder: Path) -> None:
    """Start runs that do not end by themselves."""
    specs = tiny(rewards=("sparse",), seeds=1).specs(folder)
    list(launchers.processes_here(1)(wait_for_ever, specs))


def test_a_run_ends_with_its_parent(tmp_path):
    parent = Forked(start_runs, tmp_path)
    file = tmp_path / "sparse" / "seed-0" / "pid"
    deadline = time.monotonic() + 120
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    run = int(file.read_text())
    parent.kill()
    while psutil.pid_exists(run) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(run)
