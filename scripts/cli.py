"""The command line: ``tokengym compare | train | evaluate | envs | report | replay``.

What a user got wrong is said in one line, without a traceback; TOKENGYM_TRACEBACK=1 shows it.
"""

import io
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import gymnasium

from tokengym.base.errors import TokenGymError, is_fault
from tokengym.base.plugins import missing_laboratory
from tokengym.base.registry import Registry, did_you_mean
from tokengym.base.text import printable
from tokengym.scripts.commands.agents import agents
from tokengym.scripts.commands.compare import compare
from tokengym.scripts.commands.demo import demo
from tokengym.scripts.commands.envs import envs
from tokengym.scripts.commands.evaluate import evaluate
from tokengym.scripts.commands.options import Command, as_options, call, options_of
from tokengym.scripts.commands.report import report
from tokengym.scripts.commands.train import train
from tokengym.version import __version__

COMMANDS: dict[str, Command] = {
    "demo": demo,
    "compare": compare,
    "train": train,
    "agents": agents,
    "evaluate": evaluate,
    "envs": envs,
    "report": report,
}
"""The suite's own."""
PLUGGED: Registry[Command] = Registry("command", group="commands")
"""Those of installed packages, the laboratory's among them."""
FAULT, USER_ERROR, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the process's exit code.

    0 done; 1 a fault of the program or the machine, in one line that names the file with the
    traceback, a run of `compare` that failed, or a rule whose contract `bench` found broken; 2
    something about the input is wrong (said in one line); 130 stopped by Ctrl-C.

    Args:
        arguments: The command line; None takes the process's.
    """
    if arguments is None:
        signal.signal(signal.SIGTERM, _interrupt)  # a scheduler's stop is as good as Ctrl-C
        sys.unraisablehook = _unraisable
        _print_anywhere()
        arguments = sys.argv[1:]
        if logging.lastResort is not None:
            logging.lastResort.setFormatter(_ForLine(arguments))
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("USE_HUB_KERNELS", "NO")  # native code, which a model's family may fetch
    try:
        return _dispatch(list(arguments))
    except BaseException as error:
        return _ended_by(error, arguments)


def _ended_by(error: BaseException, arguments: Sequence[str]) -> int:
    """Print why a command ended, and return its exit code; raise again what is no error."""
    if isinstance(error, KeyboardInterrupt):
        if _process() == 0:
            _say("stopped; what is finished is kept, the same command resumes")
        return INTERRUPTED
    is_end = isinstance(error, SystemExit) or not is_fault(error)
    if is_end or os.environ.get("TOKENGYM_TRACEBACK"):
        raise error
    if isinstance(error, (ValueError, TypeError, OSError, gymnasium.error.Error)):
        said = error.for_terminal() if isinstance(error, TokenGymError) else str(error)
        if (place := _place_of_fault(error)) is not None:
            said = f"{type(error).__name__}: {said} ({place}; TOKENGYM_TRACEBACK=1 shows how)"
        _say(f"error: {' '.join(printable(_for_line(said, arguments)).split())}")
        return USER_ERROR
    said = " ".join(f"{type(error).__name__}: {printable(str(error))}".split())
    _say(f"error: {said[:500]}; the traceback is in {_traceback_file(error)}")
    return FAULT


def _for_line(said: str, arguments: Sequence[str]) -> str:
    """Return what is said of arguments as the command of a line has them."""
    with suppress(ValueError, TypeError, OSError, IndexError):  # of a line that is itself wrong
        return as_options(said, options_of(find_command(arguments[0]), arguments[1:]))
    return said


class _ForLine(logging.Formatter):
    """Writes warnings as errors are written."""

    def __init__(self, arguments: Sequence[str]) -> None:
        super().__init__()
        self._arguments = arguments

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return _for_line(super().format(record), self._arguments)


def _place_of_fault(error: BaseException) -> str | None:
    """Return file and line that raised an error; None of what this package refuses by a `raise`."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or isinstance(error, (TokenGymError, OSError, gymnasium.error.Error)):
        return None
    package = str(Path(__file__).parent.parent)
    is_ours = frames[-1].filename.startswith(package)
    if is_ours and (frames[-1].line or "").startswith("raise"):
        return None
    # The user's own code, if it was there: of libraries that it called the last line says less.
    libraries = (package, str(Path(os.__file__).parent))
    own = [f for f in frames if not f.filename.startswith(libraries)]
    frame = [*frames[-1:], *(f for f in own if "-packages" not in f.filename)][-1]
    return f"{frame.filename}, line {frame.lineno}"


class _Outlasting(io.TextIOWrapper):
    """Output that nobody may read to its end, as of ``tokengym compare | head``: work continues."""

    def write(self, text: str) -> int:
        """Write a text, or drop it if its reader is gone."""
        try:
            return super().write(text)
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        """Write what is buffered, or drop it likewise."""
        try:
            super().flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self) -> None:
        """Send this and what follows nowhere."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())


def _print_anywhere() -> None:
    """Have this process print escapes where its terminal's encoding lacks characters.

    What it prints may lose its reader.
    """
    for stream in (sys.stdout, sys.stderr):
        # Under LC_ALL=C Python takes "surrogateescape", which lacks as many characters.
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")
    # Not what a caller put in its place, such as a notebook or a test that captures.
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout is sys.__stdout__:
        how: Any = {name: getattr(sys.stdout, name) for name in ("encoding", "errors")}
        how |= {"line_buffering": sys.stdout.line_buffering}
        sys.stdout = sys.__stdout__ = _Outlasting(sys.stdout.detach(), **how)  # type: ignore[misc]


def _process() -> int:
    """Return the number of this process among those launched together."""
    return int(os.environ.get("RANK", "0"))


def _say(text: str) -> None:
    """Print a line to stderr, naming the process if it is not the main one."""
    print(f"process {_process()}: {text}" if _process() else text, file=sys.stderr)


def _traceback_file(error: BaseException) -> str:
    """Write an error's traceback to a file of its own and return its name."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="tokengym-", suffix=".txt", delete=False, encoding="utf-8", errors="replace"
    ) as file:
        file.write("".join(traceback.format_exception(error)))
    return file.name


def _dispatch(arguments: Sequence[str]) -> int:
    """Do a command and return its exit status, 0 unless the command returns another."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    name, *rest = arguments
    if name in ("-V", "--version"):
        print(f"tokengym {__version__}")
        return 0
    command = find_command(name)
    launched = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
    if launched > 1 and name != "train":
        raise ValueError(
            f"tokengym {name} runs in one process, got {launched}; start it without torchrun or "
            "accelerate launch, which are for tokengym train"
        )
    return call(command, f"tokengym {name}", rest)


def command_names() -> list[str]:
    """Return the names of all commands: the suite's, then those of installed packages."""
    return list(dict.fromkeys((*COMMANDS, *PLUGGED.plugins())))


def find_command(name: str) -> Command:
    """Return a command, which an installed package may declare."""
    if name in COMMANDS:
        return COMMANDS[name]
    if PLUGGED.knows(name):
        return PLUGGED.find(name)
    known = command_names()
    if name == "enjoy":  # rl-zoo3's
        raise ValueError("unknown command 'enjoy'; write tokengym evaluate FOLDER/agent")
    hint = f"{did_you_mean(name, known, n=1)}known: {', '.join(known)}{missing_laboratory()}"
    raise ValueError(f"unknown command {name!r}; {hint}")


def _overview() -> str:
    lines = ["usage: tokengym COMMAND [OPTIONS]", ""]
    lines += ["Text generation as a Gymnasium environment: which reward learns faster?", ""]
    for name in command_names():
        command = find_command(name)
        lines.append(f"  {name:<14}{(command.__doc__ or '').splitlines()[0]}")
    usage = "tokengym COMMAND --help has examples and the usual options, --help-all all of them."
    example = "  tokengym compare --env MovieReview --rewards sparse uniform abc-signed"
    return "\n".join([*lines, "", usage, "", example])


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt


def _unraisable(fault: "sys.UnraisableHookArgs") -> None:
    """Raise again, a moment later, a stop that Python dropped since it fell into a ``__del__``."""
    if isinstance(fault.exc_value, KeyboardInterrupt):
        main_thread, left = threading.get_ident(), threading.Event()  # no other is interrupted

        def stop_again() -> None:
            left.wait()  # a stop that falls into this hook would be dropped as well
            time.sleep(0.1)
            signal.pthread_kill(main_thread, signal.SIGTERM)

        threading.Thread(target=stop_again, daemon=True).start()
        left.set()
    else:
        sys.__unraisablehook__(fault)


if __name__ == "__main__":
    sys.exit(main())
