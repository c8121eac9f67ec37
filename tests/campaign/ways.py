"""The same comparison another way: jobs, checkpoints and hash seeds change no number."""

import tempfile
from pathlib import Path

import numpy as np

from tests.campaign.kills import command, results, uninterrupted
from tests.campaign.outcome import LostError, Outcome, finish, try_cases


def one_way(random: np.random.Generator) -> None:
    """Do the comparison with other jobs, checkpoints and seed of Python's hashes."""
    jobs, every = int(random.integers(1, 3)), int(random.integers(3))
    hash_seed = int(random.integers(1000))
    told = f"--jobs {jobs} --checkpoint-every {every}, PYTHONHASHSEED={hash_seed}"
    with tempfile.TemporaryDirectory() as scratch:
        ways = ["--jobs", str(jobs), "--checkpoint-every", str(every)]
        status, printed = finish([*command("compare", scratch), *ways], hash_seed=hash_seed)
        if status:
            raise LostError(f"{told}: exit code {status}: {printed[-300:]!r}")
        if results(Path(scratch)) != uninterrupted("compare").results:
            raise LostError(f"{told}: other numbers")


def ways(count: int, seed: int) -> Outcome:
    """Try ``count`` ways of doing one comparison."""
    return try_cases("ways", one_way, count, seed)
