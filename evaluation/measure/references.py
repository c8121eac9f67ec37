"""Lines that no run decides: the best of n responses of the reference policy, and the optimum.

Several responses to each held-out prompt are drawn from the policy that training starts from, and
scored as every run is. Best-of-n is a policy whose KL to the reference is at most
log n - (n - 1) / n, and the best policy under a price c on the KL has a score - c KL of at least
c log mean exp(R / c), and of at least that of any best-of-n.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tokengym.agents.losses.ranking import best_of_n_kl_bound, mean_of_best
from tokengym.agents.offline.settings import Candidates
from tokengym.base.files import IF_KNOWN, read_hashed, write_hashed
from tokengym.evaluation.measure.measures import BLOCK
from tokengym.evaluation.statistics import Array, optimum_bound
from tokengym.rewards.scorers.base import score_finished

if TYPE_CHECKING:
    from tokengym.agents.policy.policy import CausalLMPolicy
    from tokengym.evaluation.measure.evaluate import Evaluator

SAMPLES = "samples.json"
"""File of the samples in the folder of their run."""
ROWS = 256
"""Most responses written at once."""
LARGE, FEWER = 2**14, 64
"""Vocabulary above which a CPU writes fewer at once: their caches and logits would take most of the
memory that the model takes, and they are no slower."""
BEST_OF_SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Sizes n of best-of-n that are reported, as far as there are samples."""
BEST_OF = 16
"""Size n, at most, of the best-of-n that runs are measured against."""
MIN_ERRORS = 2.0
"""Standard errors that the span of a normalised score must exceed."""


@dataclass(frozen=True, kw_only=True)
class BestOf:
    """Expected best of n responses of the reference policy, the mean over the prompts."""

    n: int
    kl: float
    """Most KL to the reference that it can have, in nats."""
    score: float
    error: float | None = None
    """Standard error of its score less the curves' start, see `span_error`."""
    gold_score: float | None = field(default=None, metadata=IF_KNOWN)
    net_score: float | None = field(default=None, metadata=IF_KNOWN)
    """Score minus the KL penalty; None without a price."""

    @property
    def figures(self) -> dict[str, float]:
        """The measurements that it has, by name."""
        names = ("kl", "score", "gold_score", "net_score")
        return {name: known for name in names if (known := getattr(self, name)) is not None}

    @property
    def maximised(self) -> str:
        """Measurement that a training maximises: the score, less the KL penalty under a price."""
        return "score" if self.net_score is None else "net_score"


@dataclass(frozen=True, kw_only=True)
class ReferenceLines:
    """What samples of the reference policy show at a price on the KL."""

    samples: int
    """Responses to each prompt."""
    prompts: int
    tokens: int
    """Response tokens that they cost."""
    unscored: int | None = field(default=None, metadata=IF_KNOWN)
    """Responses that have no score; None where all have one."""
    price: float | None
    """Price of a nat of KL; None where there is none, or not one for all."""
    best_of_n: Sequence[BestOf]
    """One for each n of `BEST_OF_SIZES`, as far as there are samples."""
    optimum: float | None
    """Lower bound of the best score minus the KL penalty; None without a positive price."""


@dataclass(frozen=True, kw_only=True)
class ReferenceSamples:
    """Scored responses of the reference policy to the held-out prompts."""

    scores: Array
    """(prompts, samples), by the scorer; NaN where a response has no score."""
    gold_scores: Array | None
    """(prompts, samples), None without a gold score."""
    tokens: int
    """Response tokens that were sampled."""
    held_out: int | None = None
    """Prompts of the held-out split, the first of which these are; None where it is not known."""

    def ranks(self, *, by_gold: bool) -> Array:
        """Return the scores that rank the responses, (prompts, samples)."""
        return self.scores if not by_gold or self.gold_scores is None else self.gold_scores

    def lines(
        self,
        kl_coef: float | None,
        *,
        by_gold: bool = False,
        episodes: int | None = None,
        seeds: int = 0,
    ) -> ReferenceLines:
        """Return what the samples show at a price on the KL, of the `whole` table.

        Args:
            kl_coef: Price c of a nat of KL; None where there is none, or not one for all.
            by_gold: Whether runs are measured by the gold score, which then ranks responses too.
            episodes: Responses behind a measurement of a run; None takes one to each prompt.
            seeds: Seeds of the runs, where each is measured on prompts of its own; 0 where all are
                measured on these.
        """
        given = self.ranks(by_gold=by_gold)
        gold, (scores, *columns) = self.gold_scores, whole(given, self.gold_scores)
        if gold is not None:
            (gold,) = columns
        prompts, samples = given.shape

        def best_of(n: int) -> BestOf:
            kl, score = best_of_n_kl_bound(n), float(mean_of_best(scores, scores, n).mean())
            return BestOf(
                n=n,
                kl=kl,
                score=score,
                error=span_error(
                    scores, n, episodes or prompts, seeds=seeds, held_out=self.held_out
                ),
                gold_score=None if gold is None else float(mean_of_best(scores, gold, n).mean()),
                net_score=None if kl_coef is None else score - kl_coef * kl,
            )

        rows = [best_of(n) for n in BEST_OF_SIZES if n <= scores.shape[1]]
        # At a low price a best of n is the larger bound: the other has c log n less, of few
        # responses.
        nets = [row.net_score for row in rows if row.net_score is not None]
        return ReferenceLines(
            samples=samples,
            prompts=prompts,
            tokens=self.tokens,
            unscored=int(np.isnan(given).sum()) or None,
            price=kl_coef,
            best_of_n=rows,
            optimum=max(optimum_bound(scores, kl_coef), *nets) if kl_coef else None,
        )


def whole(scores: Array, *others: Array | None) -> list[Array]:
    """Return tables, (prompts, samples), in which every response has a score: NaN is left out here.

    All prompts keep as many responses, the first ones, as nine in ten have; a prompt with fewer is
    left out. ``others`` are of the same responses.
    """
    tables = [scores, *(table for table in others if table is not None)]
    known = np.asarray(np.isfinite(np.stack(tables)).all(axis=0))
    counts = known.sum(axis=1)
    size = int(np.sort(counts)[len(counts) // 10])
    kept = [np.flatnonzero(row)[:size] for row in known[counts >= size]]
    return [
        np.array([row[at] for row, at in zip(table[counts >= size], kept, strict=True)])
        for table in tables
    ]


def check_ranks(evaluator: "Evaluator", samples: int) -> None:
    """Refuse samples that nothing ranks."""
    if samples and evaluator.paid.scorer is None:
        raise ValueError(
            f"reference_samples={samples} are ranked by the reward's scorer, and the environment "
            "has no reward; name one, or pass --reference-samples 0"
        )


def draw_references(
    evaluator: "Evaluator",
    policy: "CausalLMPolicy",
    samples: int,
    *,
    file: Path | None = None,
    told: Callable[[ReferenceSamples], None] | None = None,
) -> ReferenceSamples:
    """Return scored responses of a policy to the prompts of an evaluation.

    Each `BLOCK` of samples has a seed of its own, so that more of them can be added later.

    Args:
        evaluator: Gives prompts, lengths, scorers and the seed.
        policy: The policy that training starts from.
        samples: Responses per prompt, a multiple of `BLOCK`.
        file: Keeps each block once it is scored; the same call continues from it.
        told: Told all samples after each block.
    """
    import torch

    from tokengym.agents.offline.collecting import ResponseCollector

    check_ranks(evaluator, samples)
    is_large = policy.device.type == "cpu" and policy.num_actions > LARGE
    rows = FEWER if is_large else ROWS
    collector = ResponseCollector(evaluator.envs, sampling=Candidates(n=BLOCK), max_rows=rows)
    prompts = range(min(evaluator.num_episodes, len(collector.prompts)))
    drawn = None if file is None or not file.exists() else read_references(file)
    while drawn is None or drawn.scores.shape[1] < samples:
        block = 0 if drawn is None else drawn.scores.shape[1] // BLOCK
        seed = np.random.SeedSequence([evaluator.seed, block]).generate_state(1)
        generator = torch.Generator().manual_seed(int(seed[0]))
        before = collector.num_tokens
        groups = collector.write(policy, prompts, generator)
        episodes = [episode for group in groups for episode in group]
        evaluator.check_reading(episodes)
        reward = evaluator.paid.reward
        assert reward is not None  # as its scorer ranks
        with reward.scoring(len(episodes), episodes):
            scores = score_finished(collector.scorer, episodes)
        gold = None if evaluator.gold is None else score_finished(evaluator.gold, episodes).values
        new_samples = ReferenceSamples(
            scores=_table(scores.values, len(prompts)),
            gold_scores=None if gold is None else _table(gold, len(prompts)),
            tokens=collector.num_tokens - before,
            held_out=len(collector.prompts),
        )
        drawn = new_samples if drawn is None else _joined(drawn, new_samples)
        if file is not None:
            gold_scores = None if drawn.gold_scores is None else drawn.gold_scores.tolist()
            record = {"scores": drawn.scores.tolist(), "gold_scores": gold_scores}
            write_hashed(file, {**record, "tokens": drawn.tokens, "held_out": drawn.held_out})
        if told is not None:
            told(drawn)
    return drawn


def span_error(
    scores: Array, n: int, episodes: int, *, seeds: int = 0, held_out: int | None = None
) -> float | None:
    """Return the standard error of the best of n minus the mean of other responses.

    SE^2 = Var_p(b_p) / P + (Var_p(m_p) - v) (1/N + (1/Q - 1/N) / K)
           - 2 (Cov_p(b_p, m_p) - c) / N + mean_p(s_p^2) / (K E)

    b_p is the expected best of n of the R responses to prompt p, m_p their mean, s_p^2 their
    variance; Var_p and Cov_p are over the P prompts. Goal and start are of different responses, so
    what b_p and m_p vary by because both are of these R is no part of the error:

    v = mean_p(s_p^2 / R),  c = mean_p mean_i (m_p - x_pi) b_p without response i

    c is without bias for the covariance of b_p and m_p at a prompt, where n < R; of R responses the
    best of n - 1 takes its place. The K seeds of the curves have each its own Q = min(E, N) of the
    N prompts of the split, of which the P are any; N = Q = P and K = 1 where all have these. The
    last term is the error of E responses, equally many to each prompt: the start of the curves.

    For a single prompt Var_p(b_p) / P is the jackknife's, over its responses, and the start is
    another response's to that prompt:

    (R - 1) / R * sum_i (b without i - mean_i(b without i))^2

    Args:
        scores: (prompts, samples).
        n: Size of the best-of-n, at most the samples.
        episodes: Responses E behind the start of each seed.
        seeds: Seeds K, each with its own prompts; 0 where all have these.
        held_out: Prompts N of the split; None, not known, takes more than any number.

    Returns:
        Unit of the scores; None for a single prompt that has no more than n responses or is one of
        several.
    """
    of_start = _variances(scores) / (episodes * max(seeds, 1))
    if len(scores) == 1:
        if (seeds and held_out != 1) or n >= scores.shape[1]:
            return None
        of_ends = (scores.shape[1] - 1) * float(_best_without(scores, n).var())
    else:
        bests, means = mean_of_best(scores, scores, n), scores.mean(axis=1)
        v, c = _shared(scores, n)
        common, own = 1.0 / len(scores), 0.0
        if seeds:
            common = 0.0 if held_out is None else 1.0 / held_out
            own = 1.0 / (episodes if held_out is None else min(episodes, held_out)) - common
        of_ends = bests.var(ddof=1) / len(scores)
        of_ends += (means.var(ddof=1) - v) * (common + own / max(seeds, 1))
        of_ends -= 2.0 * (np.cov(bests, means)[0, 1] - c) * common
    error = np.sqrt(max(of_ends + of_start, 0.0))
    return float(error) if np.isfinite(error) else None


def _shared(scores: Array, n: int) -> tuple[float, float]:
    """Return v and c of `span_error`, means over the prompts."""
    count = scores.shape[1]
    if count < 2:
        return 0.0, 0.0
    gaps = scores.mean(axis=1, keepdims=True) - scores
    c = (gaps * _best_without(scores, min(n, count - 1))).mean()
    return float(scores.var(axis=1, ddof=1).mean() / count), float(c)


def _best_without(rows: Array, n: int) -> Array:
    """Return the expected best of n of each prompt's responses without each, (prompts, count)."""
    count = rows.shape[1]
    others = np.stack([np.delete(rows, left_out, axis=1) for left_out in range(count)], axis=1)
    flat = others.reshape(-1, count - 1)
    return mean_of_best(flat, flat, n).reshape(rows.shape)


def _variances(scores: Array) -> float:
    """Return the mean variance of the responses to a prompt."""
    return float(scores.var(axis=1, ddof=1).mean()) if scores.shape[1] > 1 else 0.0


@dataclass(frozen=True, kw_only=True)
class ScoreRange:
    """Range that a run's score is normalised by: 0 is its start, 1 its goal."""

    measure: str
    """Measurement: score minus the KL penalty, or the score where there is no price."""
    n: int
    """Size of the best-of-n at its end."""
    start: float
    """Level at which the curves start."""
    goal: float
    """Level of the best of n."""
    error: float | None
    """Standard error of goal - start, see `span_error`; None where it is not known."""
    noise: str | None
    """Reason why the span may be nothing but noise, so that no score is normalised by it; None
    where it is larger than that."""


def score_range(lines: ReferenceLines, start: float) -> ScoreRange:
    """Return the range from the curves' start to the best of `BEST_OF` untrained responses.

    Under a high price the best of fewer is better by score minus the KL penalty; the best n up to
    `BEST_OF` is then its end. The range normalises scores only if

    goal - start > MIN_ERRORS * error

    since a share of a span that is noise may be any number.
    """
    rows = [row for row in lines.best_of_n if row.n <= BEST_OF]
    measure = rows[0].maximised
    best = max(rows, key=lambda row: (row.figures[measure], row.n))
    goal, error = best.figures[measure], best.error
    return ScoreRange(
        measure=measure,
        n=best.n,
        start=start,
        goal=goal,
        error=error,
        noise=_noise_of(best.n, start, goal, error, lines.samples),
    )


def _noise_of(n: int, start: float, goal: float, error: float | None, samples: int) -> str | None:
    """Return the reason why a span may be noise, None where it is larger."""
    if n == 1:
        return "at this price of the KL no best of n is above one untrained response"
    ends = f"the best of {n} untrained responses has {goal:.3g}"
    if goal <= start:
        return f"{ends}, which is not above the {start:.3g} at which the curves start"
    if error is None:
        return (
            f"{samples} responses to a single prompt give no standard error of the best of {n}; "
            "raise --reference-samples"
        )
    if goal - start <= MIN_ERRORS * error:
        return (
            f"{ends}, which is {goal - start:.3g} above the start of the curves, within "
            f"{MIN_ERRORS:g} standard errors ({MIN_ERRORS * error:.3g})"
        )
    return None


def read_references(file: Path) -> ReferenceSamples:
    """Return the samples that `draw_references` keeps in a file."""
    record = read_hashed(file)
    gold = record["gold_scores"]
    return ReferenceSamples(
        scores=np.array(record["scores"], dtype=np.float64),  # null is NaN
        gold_scores=None if gold is None else np.array(gold, dtype=np.float64),
        tokens=record["tokens"],
        held_out=record.get("held_out"),
    )


def common_samples(
    drawn: Sequence[ReferenceSamples | None], *, by_gold: bool = False
) -> ReferenceSamples | None:
    """Return the most samples, if all have some and these agree; lengths or models may differ.

    ``by_gold`` ranks them by the gold score where there is one; scorers may then differ.
    """
    present = [one for one in drawn if one is not None]
    if not present or len(present) < len(drawn):
        return None
    longest = max(present, key=lambda one: one.scores.shape[1])
    for one in present:
        ranks, others = one.ranks(by_gold=by_gold), longest.ranks(by_gold=by_gold)
        prompts, samples = ranks.shape
        if len(others) != prompts or not np.allclose(ranks, others[:, :samples], equal_nan=True):
            return None
    return longest


def _table(values: Any, prompts: int) -> Array:
    """Return scores group after group as (prompts, samples), with the digits of a float32."""
    return np.array([float(f"{value:.7g}") for value in values]).reshape(prompts, -1)


def _joined(drawn: ReferenceSamples, more: ReferenceSamples) -> ReferenceSamples:
    golds = [one.gold_scores for one in (drawn, more) if one.gold_scores is not None]
    return ReferenceSamples(
        scores=np.concatenate([drawn.scores, more.scores], axis=1),
        gold_scores=np.concatenate(golds, axis=1) if len(golds) == 2 else None,
        tokens=drawn.tokens + more.tokens,
        held_out=more.held_out,
    )
