"""``tokengym bench``: the card of a credit rule, an advantage estimator or a weight."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from tokengym.lab.benchmark.arms import ArmBench
    from tokengym.lab.benchmark.runs import Bench
    from tokengym.lab.cards.card import CardConfig


def bench(
    subject: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME|FILE.py:NAME")],
    parts: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PART ...")] = (),
    quick: bool = False,
    full: bool = False,
    seed: int | None = None,
    seeds: int | None = None,
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TASK ...")] = (),
    bundle: str | None = None,
    model: str | None = None,
    out: Path | None = None,
    submit: Path | None = None,
    device: str = "auto",
    v1: bool = False,
    v2: bool = False,
    lite: bool = False,
    cost: bool = False,
    corpora: Path | None = None,
    published: Path | None = None,
    track: Literal["scores", "inside"] | None = None,
    secret: str | None = None,
    jobs: int | None = None,
) -> int:
    """Measure the card of a credit rule, an advantage estimator or a weight on the advantage.

    Prints the card and writes card.json and card.md: the contract, the agreement with the true
    worth of each token, whether the best response stays best, the exact gradient and its noise, the
    cost, and the convergence against sparse on three tasks. Ctrl-C leaves what is done; the same
    command resumes. Exits with 1 if the contract is broken.

    For example:
      tokengym bench rules.py:MyCredit
      tokengym bench abc --parts contract identification gradient
      tokengym bench loo --quick
      tokengym bench entropy:top=0.1
      tokengym bench rules.py:MyCredit --submit mine.json
      tokengym bench abc-signed --parts bundle --bundle smollm2-reviews
      tokengym bench --v1 rules.py:MyCredit          tokengym-credit v1, hours; says how many
      tokengym bench --v2 rules.py:MyCredit --cost   what version 2 costs on this machine
      tokengym bench --v2 sparse                     the arm with a critic from the reward model

    Args:
        subject: Rule, estimator or weight by name, or "path/to/file.py:Name"; weight:random for a
            weight whose name a rule has too.
        parts: Some of contract, identification, executed, best-response, gradient, cost,
            convergence, and with --bundle bundle; an estimator has gradient and convergence,
            against gae, and a weight the same, against none (default: all).
        quick: Take seconds, for a test; without it a card takes a quarter of an hour on two cores.
        full: Take hours.
        seed: Seed of prompts and sampling, and the lowest of the training runs (default: 0).
        seeds: Training runs per task (default: 5; 1 of a quick card, 10 of a full one).
        tasks: Tasks to train on, some of MovieReview, Dialogue and Oracle (default: all).
        bundle: Bundle of a real model, by name or folder, on which a rule's contract and its
            agreement with executed forks are measured too; what that costs is said before it
            begins.
        model: Folder, GGUF file, registered name or hub name of the language model that writes
            there (default: the bundle's).
        out: Folder of the card and its runs (default: runs/card- and the name); cards in one folder
            share the runs of sparse.
        submit: File for the leaderboard (docs/results/earlier.md): the card with the rule's
            code, its hours and the checklist of arXiv:2604.09459.
        device: Device of the models: "cpu", "cuda" or "cuda:1" (default: a GPU if there is one).
        v1: Measure a rule by the benchmark tokengym-credit v1 in place of a card
            (docs/results/earlier.md): tuned and trained on six tasks, ten seeds, against sparse.
            Says first how long it takes, and writes the row that the leaderboard takes; rules
            share the runs of sparse in --out (default: runs/v1).
        v2: Measure a rule by tokengym-credit v2 (docs/results/earlier.md): all cells of
            rule and sparse in twelve settings, three seeds, and a verdict over eight tasks. Row,
            card and picture are written after each setting, with those that are open (default of
            --out: runs/v2). The name sparse is the arm whose critic starts from the reward model.
        lite: Of --v2: a sixth of the runs, in all settings, with a hash of its own (default of
            --out: runs/v2-lite).
        cost: Of --v1 and --v2: say what the missing runs will cost on this machine, and do none.
        corpora: Of --v2: folder with the bundles imdb and sst2, which this package may not hold;
            without it their two settings stay open.
        published: Of --v2: folder of published runs, which are not done again, and where the row
            and its runs are written (default: --out).
        track: Of --v1 and --v2: whether rule and critic may read the inside of the reward model, or
            scores of texts alone (default: inside).
        secret: Of --v1: word that draws other seeds and other held-out prompts, by which
            maintainers train a submission again.
        jobs: Of --v1 and --v2: runs at a time (default: one per core).
    """
    import torch

    from tokengym.evaluation.runs import slug
    from tokengym.lab.cards.card import CardConfig
    from tokengym.lab.cards.elsewhere import TransferTask

    torch.set_num_threads(1)
    if v1 and v2:
        raise ValueError("--v1 and --v2 exclude each other; give one")
    if not v2:
        _refuse("belongs to --v2; add it", lite=lite, corpora=corpora, published=published)
    if v1 or v2:
        card = {"parts": parts, "quick": quick, "full": full, "tasks": tasks}
        card |= {"bundle": bundle, "model": model, "seed": seed, "seeds": seeds}
        _refuse(f"belongs to a card, and --v{2 if v2 else 1} fixes its own; leave it out", **card)
        if cost:
            _refuse("names a file for a row, and --cost makes none; leave one out", submit=submit)
        reads = track or "inside"
        work = (
            _version2(subject, reads, out, secret, corpora, lite=lite)
            if v2
            else _version1(subject, reads, out, secret)
        )
        return _bench_version(work, _at_a_time(jobs), published, submit, device, cost)
    benchmark = {"track": track, "secret": secret, "jobs": jobs, "cost": cost}
    _refuse("belongs to the benchmark; add --v1 or --v2", **benchmark)
    if quick and full:
        raise ValueError("--quick and --full exclude each other; give one")
    if model is not None and bundle is None:
        raise ValueError(
            f"--model {model} needs prompts and a reward model that read what it writes; add "
            "--bundle, such as smollm2-reviews"
        )
    config = CardConfig(
        subject=subject,
        parts=parts,
        size="quick" if quick else "full" if full else "standard",
        seed=seed or 0,
        seeds=seeds,
        tasks=tasks,
        elsewhere=None if bundle is None else TransferTask(bundle=bundle, model=model),
    )
    return _bench_card(config, out or Path("runs") / f"card-{slug(subject)}", submit, device)


def _bench_card(config: "CardConfig", out: Path, submit: Path | None, device: str) -> int:
    """Measure a card."""
    from tokengym.base import locked, preferred_device, write_json
    from tokengym.lab.cards.card import PAGE_FILE, broken, make_card, unmeasured
    from tokengym.lab.cards.page import card_page
    from tokengym.lab.cards.submission import submission
    from tokengym.scripts.commands import say, terminal

    console = terminal()
    with preferred_device(device), locked(out):
        card = make_card(config, out, console)
    if (cause := unmeasured(card)) is not None:
        raise ValueError(f"nothing of {config.subject} could be measured: {cause}")
    console.print(card_page(card), markup=False, highlight=False, soft_wrap=True)
    say(console, f"{out / PAGE_FILE}  hash {card['hash']}")
    faults = broken(card)
    for task, message in faults.items():
        say(console, f"contract broken on {task}: {message}")
    if submit is not None and not faults:
        write_json(submit, submission(card))
        say(console, f"{submit}")
    return int(bool(faults))


def _refuse(why: str, **given: object) -> None:
    """Refuse options that were given and do not belong to what is measured."""
    for name, value in given.items():
        if value is not None and value is not False and value != ():
            shown = f"--{name}" if value is True else f"--{name} {value}"
            raise ValueError(f"{shown} {why}")


def _at_a_time(jobs: int | None) -> int:
    """Return how many runs are done at a time."""
    if jobs is not None and jobs < 1:
        raise ValueError(f"--jobs must be at least 1, got {jobs}; leave it out for one per core")
    return jobs or os.cpu_count() or 1


def _version1(
    subject: str, track: Literal["scores", "inside"], out: Path | None, secret: str | None
) -> "Bench":
    """Return the runs of a rule in tokengym-credit v1."""
    from tokengym.lab.benchmark.definition import V1
    from tokengym.lab.benchmark.runs import Bench

    folder = out or Path("runs") / "v1"
    return Bench(definition=V1, rule=subject, track=track, out=folder, secret=secret)


def _version2(
    subject: str,
    track: Literal["scores", "inside"],
    out: Path | None,
    secret: str | None,
    corpora: Path | None,
    *,
    lite: bool,
) -> "ArmBench":
    """Return the runs of an arm in tokengym-credit v2."""
    from tokengym.lab.benchmark.arms import ArmBench
    from tokengym.lab.benchmark.version2 import V2, V2_LITE

    return ArmBench(
        definition=V2_LITE if lite else V2,
        rule=subject,
        track=track,
        out=out or Path("runs") / ("v2-lite" if lite else "v2"),
        secret=secret,
        corpora=corpora,
    )


def _bench_version(
    work: "Bench | ArmBench",
    jobs: int,
    published: Path | None,
    submit: Path | None,
    device: str,
    only_cost: bool,
) -> int:
    """Measure a rule by a version of the benchmark, or say what that costs."""
    from tokengym.base import locked, preferred_device, write_json
    from tokengym.lab.benchmark.arms import ArmBench
    from tokengym.lab.benchmark.play import cost, play, play_arm, take_published
    from tokengym.scripts.commands import say, terminal

    console = terminal()
    with preferred_device(device), locked(work.out):
        if only_cost:
            if isinstance(work, ArmBench):
                take_published(work, published, console)
            cost(work, console, jobs=jobs)
            return 0
        if isinstance(work, ArmBench):
            row, file = play_arm(work, console, jobs=jobs, published=published)
        else:
            row, file = play(work, console, jobs=jobs)
    if submit is not None:
        write_json(submit, row)
    say(console, f"{submit or file}  hash {row['hash']}")
    return 0
