"""Processes of a test, forked from a server that has imported the libraries and the suite.

A new Python takes ten seconds to import what a learner needs. `Forked` ends as a Python does, and
`train_together` gives its processes what a launcher gives its own: torchrun and accelerate really
start, with a script that imports nothing.
"""

import atexit
import json
import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium

from tokengym.evaluation.runs import executors as launchers

TORCHRUN = ("torch.distributed.run", "--nproc_per_node", "2", "--standalone")
ACCELERATE = (
    *("accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
)
# "--multi_gpu" is the launcher's word for several processes: its "--cpu" wants mpirun.
MULTI = (*ACCELERATE, "--multi_gpu")
TELL = """
import json, os, pathlib, sys
pathlib.Path(sys.argv[1], os.environ["RANK"]).write_text(json.dumps(dict(os.environ)))
"""


class Forked:
    """A module's function at work in a process, on arguments that can be pickled."""

    def __init__(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        handle, file = tempfile.mkstemp()
        os.close(handle)
        self._file = Path(file)
        work = (function, arguments, {**os.environ, **(environment or {})}, file)
        self._process = launchers.processes().Process(target=_work, args=work)
        with launchers._starting():
            self._process.start()

    def end(self, seconds: float = 300) -> int:
        """Wait for the end and return the exit code."""
        self._process.join(seconds)
        assert self._process.exitcode is not None, f"still at work: {self.printed}"
        code: int = self._process.exitcode
        return code

    def kill(self) -> None:
        """End it at once, and what it has printed."""
        self._process.kill()
        self._process.join()
        self._file.unlink()

    @property
    def pid(self) -> int:
        """Its number."""
        pid: int = self._process.pid
        return pid

    @property
    def is_alive(self) -> bool:
        """Whether it is still at work."""
        alive: bool = self._process.is_alive()
        return alive

    @property
    def printed(self) -> str:
        """What it has printed."""
        return self._file.read_text()


def forked(function: Callable[..., Any], *arguments: Any, **environment: str) -> str:
    """Call a function in a process that must not fail, and return what it prints."""
    process = Forked(function, *arguments, environment=environment)
    try:
        assert process.end() == 0, process.printed
        return process.printed
    finally:
        process.kill()


def execute(code: str) -> None:
    """Do what ``python -c`` does, in a process that has imported nothing of tokengym.

    What the tests' server has imported of it is imported anew.
    """
    for name in [name for name in sys.modules if name.partition(".")[0] == "tokengym"]:
        del sys.modules[name]
    for name in [name for name in gymnasium.registry if name.startswith("tokengym/")]:
        del gymnasium.registry[name]
    exec(code, {"__name__": "__main__"})


def train_together(
    function: Callable[..., Any], *arguments: Any, launcher: Sequence[str] = TORCHRUN
) -> list[tuple[int, str]]:
    """Call a module's function in the processes of a launcher; return exit codes and prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environments = [{**given, **place} for given in _given(tuple(launcher))]
    processes = [Forked(function, *arguments, environment=given) for given in environments]
    try:
        return [(process.end(), process.printed) for process in processes]
    finally:
        for process in processes:
            process.kill()


@cache
def _given(launcher: tuple[str, ...]) -> list[dict[str, str]]:
    """Return the variables that a launcher gives each of its processes."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "tell.py")
        script.write_text(TELL)
        forked(_launch, [*launcher, str(script), folder])
        told = [json.loads(file.read_text()) for file in sorted(Path(folder).glob("[0-9]"))]
    # Its store, in which the processes would meet, ends with the launcher.
    own = {*os.environ, "TORCHELASTIC_USE_AGENT_STORE"}
    return [{key: value for key, value in one.items() if key not in own} for one in told]


def _launch(arguments: list[str]) -> None:
    """Do what ``python -m`` does."""
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def _work(
    function: Callable[..., Any], arguments: Sequence[Any], environment: dict[str, str], file: str
) -> None:
    """Do the work of a process, and end as a Python ends."""
    multiprocessing.set_start_method(None, force=True)  # as in a new Python
    os.environ.clear()
    os.environ.update(environment)
    with open(file, "a", buffering=1) as out:
        for number in (1, 2):
            os.dup2(out.fileno(), number)
    try:
        function(*arguments)
    finally:
        sys.stdout.flush()
        atexit._run_exitfuncs()
