"""``tokengym bench``: properties of a credit rule, and its row on the board."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import tyro


def bench(
    subject: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME|FILE.py:NAME")],
    parts: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PART ...")] = (),
    quick: bool = False,
    seed: int | None = None,
    device: str = "auto",
    v2: bool = False,
    lite: bool = False,
    cost: bool = False,
    out: Path | None = None,
    corpora: Path | None = None,
    published: Path | None = None,
    track: Literal["scores", "inside"] | None = None,
    jobs: int | None = None,
) -> int:
    """Measure a credit rule: exact properties in minutes, with --v2 its lead on sparse in training.

    Properties need no training: the contract, the agreement with the true worth of each token,
    whether the best response stays best, the exact gradient and its noise, the cost. Exits with 1
    if the contract is broken. An advantage estimator has the exact gradient alone, a weight on the
    advantage also the verdict of ``tokengym audit``.

    With --v2 a rule is trained beside sparse in twelve settings of eight tasks. Its row, card and
    picture are written after each setting. Ctrl-C leaves what is done; the same command resumes.

    For example:
      tokengym bench rules.py:my_rule
      tokengym bench abc --parts contract identification gradient
      tokengym bench loo --quick
      tokengym bench entropy:top=0.1
      tokengym bench --v2 rules.py:my_rule --cost   what the board costs on this machine
      tokengym bench --v2 --lite rules.py:my_rule   a sixth of its runs
      tokengym bench --v2 sparse                     the arm with a critic from the reward model

    Args:
        subject: Rule, estimator or weight by name, or "path/to/file.py:Name"; weight: before it
            says that it is a weight. The weight random draws, so that it cannot be enumerated.
        parts: Some of contract, identification, executed, best-response, gradient, cost and audit
            (default: all that the subject has).
        quick: Measure few responses, in seconds, for a test.
        seed: Seed of prompts and sampling of the properties (default: 0).
        device: Device of the models: "cpu", "cuda" or "cuda:1" (default: a GPU if there is one).
        v2: Measure a rule by the board tokengym-credit v2: all cells of rule and sparse, three
            seeds, and a verdict over tasks, beside the rows that are published in the same folder.
            The name sparse is the arm whose critic starts from the reward model.
        lite: Of --v2: a sixth of the runs, in all settings, with a hash of its own.
        cost: Of --v2: say what the missing runs will cost on this machine, and do none.
        out: Of --v2: folder of the runs, which rules share (default: runs/v2, or runs/v2-lite).
        corpora: Of --v2: folder with the bundles imdb and sst2, which this package may not hold;
            without it their two settings are not known.
        published: Of --v2: folder of published rows and runs, which are not done again, and where
            the row and its runs are written (default: --out).
        track: Of --v2: whether rule and critic may read the inside of the reward model, or scores
            of texts alone (default: inside).
        jobs: Of --v2: runs at a time (default: one per core).
    """
    import torch

    torch.set_num_threads(1)
    of_board: dict[str, object] = {"lite": lite, "cost": cost, "out": out, "corpora": corpora}
    of_board |= {"published": published, "track": track, "jobs": jobs}
    of_properties: dict[str, object] = {"parts": parts, "quick": quick, "seed": seed}
    if not v2:
        _refuse("belongs to --v2; add it", **of_board)
        return _properties(subject, parts, quick, seed or 0, device)
    _refuse("belongs to the properties, and --v2 fixes its own; leave it out", **of_properties)
    if jobs is not None and jobs < 1:
        raise ValueError(f"--jobs must be at least 1, got {jobs}; leave it out for one per core")
    return _board(
        subject,
        lite=lite,
        only_cost=cost,
        out=out or Path("runs") / ("v2-lite" if lite else "v2"),
        corpora=corpora,
        published=published,
        track=track or "inside",
        jobs=jobs or os.cpu_count() or 1,
        device=device,
    )


def _refuse(why: str, **given: object) -> None:
    """Refuse options that were given and do not belong to what is measured."""
    for name, value in given.items():
        if value is not None and value is not False and value != ():
            shown = f"--{name}" if value is True else f"--{name} {value}"
            raise ValueError(f"{shown} {why}")


def _properties(subject: str, parts: tuple[str, ...], quick: bool, seed: int, device: str) -> int:
    """Print properties of a subject."""
    from tokengym.base import preferred_device
    from tokengym.lab.benchmark.properties import (
        PARTS,
        QUICK,
        Amounts,
        broken,
        measured_parts,
        table,
    )
    from tokengym.lab.benchmark.subject import HELD_BY, KINDS, kind_of
    from tokengym.scripts.commands import say, terminal

    if seed < 0:
        raise ValueError(f"--seed must be at least 0, got {seed}")
    console, kind, faults = terminal(), kind_of(subject), {}
    if not PARTS[kind]:
        raise ValueError(f"{subject} is {KINDS[kind]}; {HELD_BY[kind].format(subject)}")
    wanted = ", ".join(parts or PARTS[kind])
    amounts = replace(QUICK if quick else Amounts(), seed=seed)
    say(console, f"{subject}, {KINDS[kind]}, without training: {wanted}")
    with preferred_device(device):
        for part, figures in measured_parts(subject, kind, parts, amounts):
            heading = part.replace("-", " ").capitalize()
            console.print(f"\n## {heading}\n", markup=False, highlight=False)
            console.print(table(figures), markup=False, highlight=False, soft_wrap=True)
            if part == "contract":
                faults = broken(figures)
    for task, message in faults.items():
        say(console, f"contract broken on {task}: {message}")
    return int(bool(faults))


def _board(
    subject: str,
    *,
    lite: bool,
    only_cost: bool,
    out: Path,
    corpora: Path | None,
    published: Path | None,
    track: Literal["scores", "inside"],
    jobs: int,
    device: str,
) -> int:
    """Measure a rule by the board, or say what that costs."""
    from tokengym.base import locked, preferred_device
    from tokengym.lab.benchmark.definition import V2, V2_LITE
    from tokengym.lab.benchmark.play import cost, play, take_published
    from tokengym.lab.benchmark.runs import Bench
    from tokengym.scripts.commands import say, terminal

    console, definition = terminal(), V2_LITE if lite else V2
    work = Bench(definition=definition, rule=subject, track=track, out=out, corpora=corpora)
    with preferred_device(device), locked(out):
        if only_cost:
            take_published(work, published, console)
            cost(work, console, jobs=jobs)
            return 0
        row, file = play(work, console, jobs=jobs, published=published)
    say(console, f"{file}  hash {row['hash']}")
    return 0
