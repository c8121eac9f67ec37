"""Does a page of results still follow from today's code?

    python -m studies.again                            # make test-pages
    python -m studies.again --pages turns.md --record

A page is asked in two ways. Its own commands, the lines that end in `AGAIN`, do a published run
again, which must be a seed as any other of its cell (`p_value`). And docs/results/
`RESTS_ON` has what the page rests on: the settings that its runs have in common, and figures of a
tiny run, which a test compares with today's in seconds. Where they differ, the learner, a scorer or
a default has changed: `--record` writes today's down for each page whose run holds, and a page
whose run does not says in its first line that it is of an older learner.
"""

import math
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from scipy.special import stdtr

from studies import (
    equal_kl,
    gradients,
    larger_beta,
    other_tasks,
    overoptimisation,
    ppo_against_dpo,
    rewards,
    token_credit,
    turns,
)
from tokengym import Comparison
from tokengym.base import read_json, write_json
from tokengym.envs import Task
from tokengym.evaluation import run as run_one
from tokengym.evaluation.report import number
from tokengym.evaluation.runs import RunSettings
from tokengym.lab.protocol import curve_of
from tokengym.lab.study import DOCS, Cell, Docs, Row, Study, command_line, read_rows

AGAIN = "# one run of this page again"
"""How the line of a page's command ends that does one published run again."""
RESTS_ON = "rests_on.json"
"""File of what the pages rest on, beside them."""
OLDER = "**Of an older learner"
"""How the first line of a page begins whose runs today's code does not make."""
TINY: dict[str, Any] = {"steps": 2, "batch_size": 16, "max_new_tokens": 8}
"""Size of the run whose figures are recorded."""
LOGGED = ("score", "kl", "policy_loss", "value_loss", "grad_norm", "entropy")
NO_PAIRS = "pairs.parquet"
"""File of DPO's pairs where nothing is trained."""
ALPHA = 0.05
"""Chance that a run of the same code is called unlike its cell."""
CLOSE = 0.01
"""Share of a recorded figure by which today's may differ: another processor rounds otherwise."""
Figures = dict[str, float]


# --- pages of studies whose runs are comparisons --------------------------------------------------


def published_settings(study: Study, docs: Path) -> dict[str, Any]:
    """Return the settings that a study's published runs have in common, as today decides them."""
    cells = dict.fromkeys(run.but(seed=0) for run in study.published(docs).runs.each)
    return common_settings(study.config(cell, docs) for cell in cells)


def common_settings(comparisons: Iterable[Comparison]) -> dict[str, Any]:
    """Return the settings that comparisons of one run have in common."""
    first, *others = [flat(each.runs[0].settings()) for each in comparisons]
    return {
        name: value
        for name, value in first.items()
        if all(other.get(name) == value for other in others)
    }


def flat(settings: Mapping[str, Any], under: str = "") -> dict[str, Any]:
    """Return nested settings with their names joined by points."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{under}{name}.")
        else:
            found[f"{under}{name}"] = list(value) if isinstance(value, tuple) else value
    return found


def tiny_run(comparison: Comparison) -> Figures:
    """Return what a learner logs and an evaluation measures in a tiny run of a comparison."""
    (run,) = comparison.runs
    learner = replace(run.training.learner, n_warmup_updates=0)
    return figures_of(comparison, replace(run.training, learner=learner, **TINY), LOGGED)


def figures_of(comparison: Comparison, training: Any, logged: Iterable[str]) -> Figures:
    """Return what a run of a comparison logs and measures, on few prompts, with other training."""
    (run,) = comparison.runs
    evaluation = replace(run.evaluation, every=1, episodes=TINY["batch_size"])
    groups = RunSettings.of(training, evaluation, run.task)
    small = replace(comparison, runs=(replace(run, groups=groups),))
    record = run_one(small, small.names[0], 0)
    figures = {f"{name}, update {row['step']}": row[name] for row in record.log for name in logged}
    measured = {f"held-out {name}": record.points[-1][name] for name in ("score", "kl")}
    return {name: float(value) for name, value in (figures | measured).items()}


def not_of_cell(docs: Path, out: Path, words: Sequence[str]) -> list[str]:
    """Return which figures of a run done again are unlike its cell's other seeds, in words.

    Five seeds tell a run that is two of their deviations away in 14 of 100 cases, and one that is
    three away in 79 of 100 of ten seeds: where a page matters, repeat three seeds.
    """
    name, study = words[words.index("--only") + 1], import_module(words[0]).STUDY
    published = study.published(docs).runs
    run = next(run for run in published.each if repr(run) == name)
    cell = run.without("rate", "seed")
    others = [points for seed, points in published.runs[cell].items() if seed != run.seed]
    again = known(study.read(study.file(run, out)))
    figures = {
        "score over the run": lambda points: curve_of(points).area("score"),
        "score at the end": lambda points: curve_of(points).end("score"),
        "log KL at the end": lambda points: math.log(curve_of(points).end("kl")),
    }
    found = []
    for what, figure in figures.items():
        values, now = [figure(known(points)) for points in others], figure(again)
        p = min(1.0, len(figures) * p_value(values, now))
        said = f"{what} is {number(now)}, the mean of {len(values)} seeds {number(mean(values))}"
        print(f"  {said}; corrected p {p:.2g}")
        if p < ALPHA:
            found.append(f"{said} (corrected p {p:.2g})")
    return found


def p_value(values: Sequence[float], now: float) -> float:
    """Return the chance of a further run that is at least as far from the mean of its cell's runs.

    t = (now - mean) / (s sqrt(1 + 1 / n)), Student's with n - 1 degrees of freedom

    Example:
        >>> round(p_value([1.0, 2.0, 3.0], 2.0 + 4.302653 * (4 / 3) ** 0.5), 6)
        0.05
    """
    count, spread = len(values), stdev(values)
    if spread == 0.0:
        return float(now == values[0])
    t = abs(now - mean(values)) / (spread * math.sqrt(1.0 + 1.0 / count))
    return float(2.0 * stdtr(count - 1, -t))


def known(points: Iterable[Row]) -> list[Row]:
    """Return the measurements of a run that were taken on held-out prompts."""
    return [point for point in points if point["score"] is not None]


@dataclass(frozen=True, kw_only=True)
class Page:
    """How a page is asked."""

    figures: Callable[[], Figures]
    """Returns figures of today's code that cost seconds."""
    settings: Callable[[Path], dict[str, Any]] = lambda docs: {}
    """Returns the settings that its published runs have in common today, given the folder of the
    pages."""
    outside: Callable[[Path, Path, Sequence[str]], list[str]] = not_of_cell
    """Returns what of a run done again is unlike the published runs, in words, given the folder of
    the pages, that of the run and the words of the command."""


def page_of(study: Study, cell: Cell) -> Page:
    """Return how a study's page is asked; the tiny run is of a cell."""
    return Page(
        figures=lambda: tiny_run(study.config(cell, DOCS)),
        settings=partial(published_settings, study),
    )


# --- the other pages ------------------------------------------------------------------------------


def of_agents() -> dict[str, list[Comparison]]:
    """Return each agent's comparisons, by a reward model that is there and pairs that are not."""
    task = Task.of(ppo_against_dpo.ENV)
    assert task is not None
    reads = {"ppo": str(task.own_bundle().reward_model), "dpo": NO_PAIRS}
    return {
        agent: [ppo_against_dpo.reading(cell, path) for cell in ppo_against_dpo.settings_of(agent)]
        for agent, path in reads.items()
    }


def settings_of_agents(docs: Path) -> dict[str, Any]:
    """Return the settings that each agent's runs have in common, but for what they read."""
    del docs
    return {
        f"{agent}: {name}": value
        for agent, comparisons in of_agents().items()
        for name, value in common_settings(comparisons).items()
        if name not in ("task.scorer", "training.learner.pairs") and not name.startswith("data.")
    }


def pairs_learned() -> Figures:
    """Return what PPO, and DPO from a few pairs, log and measure in tiny runs."""
    ppo, dpo = (comparisons[0] for comparisons in of_agents().values())
    found = {f"ppo: {name}": value for name, value in tiny_run(ppo).items()}
    with tempfile.TemporaryDirectory() as folder:
        pairs = Path(folder) / "pairs.parquet"
        ppo_against_dpo.ranked_pairs(seed=0, skip=0, count=8).to_parquet(pairs)
        training = dpo.runs[0].training
        learner = replace(training.learner, pairs=str(pairs))
        small = replace(training, learner=learner, max_new_tokens=TINY["max_new_tokens"])
        of_dpo = figures_of(dpo, small, ("loss", "rewards/margins", "grad_norm"))
    return found | {f"dpo: {name}": value for name, value in of_dpo.items()}


def talks() -> Figures:
    """Return what a table of logits is worth after the first updates, by conversations' credit."""
    cells = (turns.STUDY.cell(credit=name, turns=2, rate=1e-2, seed=0) for name in turns.NOISY)
    return {
        f"{cell.credit}, update {row['step']}": float(row["score"])
        for cell in cells
        for row in turns.play(cell)[1:4]
    }


def exact() -> Figures:
    """Return the cosines of exact gradients of responses of two tokens."""
    small = gradients.SmallOracle.make(horizon=2)
    probs = small.probs(torch.zeros(small.legal.shape, dtype=torch.float64))
    found = {}
    for rule, estimator in product(("sparse", "red"), ("loo", "prime")):
        rewards, scores = small.rewarded(gradients.reward_of(rule))
        check = gradients.gradient_of(small, probs, rewards, scores, estimator)
        found[f"{rule}, {estimator}"] = float(check.cosine)
    return found


def outside_table(docs: Path, out: Path, words: Sequence[str]) -> list[str]:
    """Return which exact cosines of a table made again are not the published ones, in words."""
    del words
    text = ("eos", "rule", "estimator", "weight")
    again, published = (
        {tuple(row[name] for name in (*text, "share")): row["cosine"] for row in rows}
        for rows in (
            read_rows(folder / "gradients.csv", text=text) for folder in (out, docs / "gradients")
        )
    )
    print(f"  {len(again)} cosines")
    return [
        f"the cosine of {' '.join(map(str, key))} is {now}, published {published[key]}"
        for key, now in again.items()
        if not abs(now - published[key]) <= 1e-4  # a NaN is none either
    ]


PAGES = {
    "film_reviews.md": page_of(
        token_credit.STUDY,
        token_credit.STUDY.cell(rule="abc-signed", gae_lambda="0.5", length=24, rate=1e-3),
    ),
    "equal_kl.md": page_of(
        equal_kl.STUDY, equal_kl.cell_of("MovieReview", "sparse", 5.0).but(rate=1e-3)
    ),
    "larger_beta.md": page_of(larger_beta.STUDY, larger_beta.arms("0.95")[-2]),
    "tasks.md": page_of(
        other_tasks.STUDY,
        other_tasks.cell_of("Detox", "red").but(rate=3e-4),
    ),
    "rewards.md": page_of(rewards.STUDY, rewards.arm("r3-dense")),
    "overoptimisation.md": page_of(
        overoptimisation.STUDY,
        overoptimisation.STUDY.cell(task="Dialogue", price=0.0, rule="sparse"),
    ),
    "preferences.md": Page(
        figures=pairs_learned,
        settings=settings_of_agents,
    ),
    "turns.md": Page(figures=talks),
    "gradients.md": Page(figures=exact, outside=outside_table),
}
"""Pages that have runs of today's learner which need nothing but the package."""
NOT_AGAIN = {
    "real_text.md": "IMDb, SST-2 and SmolLM2 are no part of the package",
    "speed.md": "a time is of a machine and a day",
    "audit_calibration.md": "the audit's own tests hold its verdicts",
    "earlier.md": "its figures are of the commits that it names",
}
"""Pages with figures of their own that are not asked, and why."""


def commands_of(page: str, docs: Path) -> list[list[str]]:
    """Return the words of the page's commands that do one published run again."""
    text = (docs / page).read_text(encoding="utf-8")
    lines = re.findall(rf"^python -m (.*?)\s+{AGAIN}", text, re.MULTILINE)
    if not lines:
        raise ValueError(f"{page} has no command that ends in {AGAIN!r}; one is wanted")
    return [shlex.split(line) for line in lines]


def done_again(page: str, words: Sequence[str], docs: Path) -> list[str]:
    """Do a run of a page again by the page's command; return what is unlike the published runs.

    Args:
        page: Name of the page.
        words: The command, whose folder is another here.
        docs: Folder of the pages.
    """
    with tempfile.TemporaryDirectory() as out:
        own = list(words)
        own[own.index("--out") + 1] = out
        subprocess.run([sys.executable, "-m", *own], check=True, stdout=subprocess.DEVNULL)
        return PAGES[page].outside(docs, Path(out), own)


def resting(page: str, docs: Path) -> dict[str, Any]:
    """Return what a page rests on today."""
    return {"settings": PAGES[page].settings(docs), "figures": PAGES[page].figures()}


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what has changed of what a page rests on, in words.

    A setting that came or went says nothing by itself: what it does is in the figures.

    Args:
        before: As recorded.
        now: That of today.
    """
    old, new = before["settings"], now["settings"]
    found = [
        f"{name} was {old[name]!r} and is {new[name]!r}"
        for name in old
        if name in new and old[name] != new[name]
    ]
    old, new = before["figures"], now["figures"]
    return found + [
        f"{name} was {old[name]:.6g} and is {new.get(name)}"
        for name in old
        if name not in new
        or not abs(new[name] - old[name]) <= CLOSE * max(abs(old[name]), 0.1)  # nor is NaN close
    ]


def says_older(page: str, docs: Path) -> bool:
    """Return whether the first line of a page says that its runs are of an older learner."""
    _, first, *_ = (docs / page).read_text(encoding="utf-8").split("\n\n")
    return first.startswith(OLDER)


def run(pages: tuple[str, ...] = (), docs: Docs = DOCS, record: bool = False) -> None:
    """Do one run of each page again, and say whether it holds.

    Args:
        pages: Names of the pages; none takes all.
        docs: Folder of the pages.
        record: Whether what a page rests on is written down where its run holds.
    """
    rests_on = read_json(docs / RESTS_ON) if (docs / RESTS_ON).exists() else {}
    failed = {}
    for page in pages or PAGES:
        outside = []
        for words in commands_of(page, docs):
            print(f"{page}: python -m {shlex.join(words)}", flush=True)
            outside += done_again(page, words, docs)
        if outside:
            failed[page] = outside
            print(f"  unlike the published runs: {'; '.join(outside)}", flush=True)
        elif record:
            rests_on[page] = resting(page, docs)
            write_json(docs / RESTS_ON, rests_on)
    if failed:
        sys.exit(f"{', '.join(failed)}: today's code gives other figures; see CONTRIBUTING.md")


if __name__ == "__main__":
    command_line(__doc__, run)
