"""A full disk: one line, and with more space the command ends as if nothing had happened."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tests.campaign.kills import COMMANDS, command, is_done, results, uninterrupted
from tests.campaign.outcome import LostError, Outcome, finish, try_cases


@contextmanager
def disk(folder: Path, size: int) -> Iterator[bool]:
    """Make a folder a disk of that many bytes while the block runs; yield whether it may be.

    Otherwise the size of each file is limited, which takes small files to the end.
    """
    arguments = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    made = os.geteuid() == 0 and subprocess.run(arguments, capture_output=True).returncode == 0
    try:
        yield made
    finally:
        if made:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def one_disk(random: np.random.Generator) -> None:
    """Run a command where there is too little space for it, then again with enough."""
    name = str(random.choice(list(COMMANDS)))
    whole = uninterrupted(name)
    size = int(random.uniform(0.0, 1.2) * whole.size) // 4096 * 4096 + 4096
    told = f"{name} in {size} bytes of {whole.size}"
    with tempfile.TemporaryDirectory() as scratch, disk(Path(scratch), size) as made:
        try:
            arguments = command(name, scratch)
        except OSError:  # not even what it reads fits
            return
        status, printed = finish(arguments, file_size=None if made else size)
        errors = [line for line in printed.splitlines() if line.startswith("error: ")]
        if "Traceback" in printed or status not in (0, 2) or len(errors) != (status == 2):
            raise LostError(f"{told}: exit code {status}: {printed[-500:]!r}")
        if made:
            subprocess.run(["mount", "-o", "remount,size=1g", scratch], check=True)
        if not is_done(name, Path(scratch)):
            status, printed = finish(arguments)
            if status:
                raise LostError(f"{told}: does not resume: {printed[-500:]!r}")
        if results(Path(scratch)) != whole.results:
            raise LostError(f"{told}: other numbers")


def full_disk(count: int, seed: int) -> Outcome:
    """Try ``count`` disks that are too small."""
    return try_cases("disk", one_disk, count, seed)
