"""The advantages of one batch, in one process or several, for a test of TRL's bridge."""

import os
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from tokengym.bridges.functions import DoorAdvantage
from tokengym.bridges.trl import gathered_advantages

ROWS, GROUP = 8, 8


def run(file: Path) -> Tensor:
    """Store and return the advantages of this process' rows."""
    accelerator = Accelerator(cpu=True)
    generator = torch.Generator().manual_seed(1)
    rewards = torch.randn(ROWS, 5, generator=generator)
    lengths = torch.tensor([3, 1, 2, 3, 5, 2, 4, 1])  # the first half is shorter
    mask = torch.arange(5) < lengths.unsqueeze(1)
    rows = slice(None)
    if accelerator.num_processes > 1:
        half = ROWS // accelerator.num_processes
        first = accelerator.process_index * half
        rows = slice(first, first + half)
    longest = int(lengths[rows].max())
    found, everyones = gathered_advantages(
        accelerator,
        DoorAdvantage("loo", "trl"),
        (rewards * mask)[rows, :longest],
        mask[rows, :longest],
        GROUP,
    )
    assert torch.equal(everyones, mask)
    own = found[rows, :longest]
    torch.save(own, file)
    return own


def run_rank(folder: Path) -> None:
    """Do the work of one of several processes."""
    run(folder / f"{os.environ['RANK']}.pt")
    torch.distributed.destroy_process_group()  # a thread that is still there would abort it
