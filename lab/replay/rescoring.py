"""Stored responses scored again: what each scorer gives the same texts, beside what was stored."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tokengym.base import write_csv
from tokengym.envs import printable
from tokengym.evaluation.report import to_cell
from tokengym.evaluation.statistics import DEFAULT_LEVEL, student_interval
from tokengym.lab.replay.agreement import Array
from tokengym.lab.replay.replay import Replay

STORED = "stored"
"""Name of the scores that the responses came with."""
COLUMNS = ("episode", "prompt", "response")
"""Columns of scores.csv before those of the scores."""
ATOL, RTOL = 1e-5, 1e-4
"""Scores that differ by less are the same, computed in another batch."""


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Scores of one scorer, and their difference from those of the first on the same responses."""

    name: str
    """The scorer; "stored" is what the responses came with."""
    mean: float
    """Mean score of the responses that have one."""
    difference: float
    """Mean difference from the first, of the responses that both score, in units of the score."""
    low: float
    """Lower end of its interval over prompts."""
    high: float
    """Upper end of its interval."""
    higher: int
    """Responses that score higher than by the first."""
    lower: int
    """Responses that score lower than by the first."""
    missing: int
    """Responses that it gave no score."""


def scores_by_name(result: Replay) -> dict[str, Array]:
    """Return each set of scores once, (responses,): those that were stored, then each scorer's.

    They are of all responses that were read, NaN where a scorer gave none. A scorer whose scores
    equal those of one before it is left out; scores that were not stored of every response are
    too. A name that two scorers have is replaced by that of the rule, and one that is a column of
    the file gets " (scorer)" behind it.
    """
    read = result.read
    kept: dict[str, Array] = {}
    if np.isfinite(read.stored).all():
        kept[STORED] = read.stored
    for rule, scores in read.scores.items():
        if not any(_alike(scores, one) for one in kept.values()):
            kept[rule] = scores
    names = {rule: result.scorers.get(rule, rule) for rule in kept}
    taken = [*names.values()]
    named: dict[str, Array] = {}
    for rule, scores in kept.items():
        name = rule if taken.count(names[rule]) > 1 else names[rule]
        if name in COLUMNS or name in named or (name == STORED and scores is not read.stored):
            name = f"{name} (scorer)" if name == names[rule] else f"{name} ({names[rule]})"
        named[name] = scores
    return named


def scorings(result: Replay, level: float = DEFAULT_LEVEL) -> list[Scoring]:
    """Return what each scorer gives the responses; [] where all give what was stored.

    Responses to one prompt are alike, so that the error of the mean difference d is clustered by
    prompt; e_i = d_i - d of N responses to G prompts:

    SE^2 = G / (G - 1) * sum over prompts of (sum of e_i)^2 / N^2;  d +- t_{G-1} * SE

    Of one prompt the ends are NaN: how far prompts differ is not known.

    Args:
        result: Result of a replay.
        level: Confidence level of the interval, in (0, 1).

    Source: Liang and Zeger 1986, Biometrika 73; for language models Miller 2024, arXiv:2411.00640.
    """
    found = scores_by_name(result)
    if len(found) < 2:
        return []
    (_, first), *_ = found.items()
    return [_scoring(result, name, scores, first, level) for name, scores in found.items()]


def _scoring(result: Replay, name: str, scores: Array, first: Array, level: float) -> Scoring:
    both = np.isfinite(scores) & np.isfinite(first)
    changes = np.where(np.isclose(scores, first, rtol=RTOL, atol=ATOL), 0.0, scores - first)[both]
    read = zip(result.read.episodes, both, strict=True)
    prompts = [episode.prompt_ids for episode, is_scored in read if is_scored]
    by_prompt = clustered(prompts, changes)
    difference, *ends, _ = student_interval(by_prompt, level)
    low, high = ends if len(by_prompt) > 1 else (np.nan, np.nan)
    return Scoring(
        name=name,
        mean=float(np.nanmean(scores)),
        difference=float(difference),
        low=float(low),
        high=float(high),
        higher=int((changes > 0).sum()),
        lower=int((changes < 0).sum()),
        missing=int(np.isnan(scores).sum()),
    )


def clustered(groups: Sequence[Hashable], values: Array) -> Array:
    """Return a value for each group, whose mean is that of all values, (G,).

    v_g = mean + G / N * sum over the group of (x_i - mean)

    The standard error of their mean is that of `scorings`.

    Args:
        groups: Group of each value, (N,).
        values: (N,).

    Example:
        >>> clustered(["a", "a", "b"], np.array([1.0, 1.0, 4.0])).round(6).tolist()
        [0.666667, 3.333333]
    """
    mean, sums = float(values.mean()), dict.fromkeys(groups, 0.0)
    for group, value in zip(groups, values.tolist(), strict=True):
        sums[group] += value - mean
    return mean + len(sums) / len(values) * np.array([*sums.values()])


def _alike(one: Array, other: Array) -> bool:
    return np.allclose(one, other, rtol=RTOL, atol=ATOL, equal_nan=True)


def write_scores(path: Path, result: Replay) -> None:
    """Write every response that was read with its scores: a row for each.

    Args:
        path: A CSV; columns episode, its number from 0, prompt, response, and one for each of
            `scores_by_name`, whose cell is empty where a scorer gave none.
        result: Result of a replay.
    """
    found = {to_cell(name): scores for name, scores in scores_by_name(result).items()}
    texts = [
        map(to_cell, map(printable, (episode.prompt, episode.response)))
        for episode in result.read.episodes
    ]
    rows = [
        dict(zip(COLUMNS, (index, *text), strict=True))
        | {name: float(scores[index]) for name, scores in found.items()}
        for index, text in enumerate(texts)
    ]
    write_csv(path, rows, [*COLUMNS, *found])
