"""Cells of the ledger (docs/results/ledger.md), how a run of one is done, and in which order.

A cell is a rule, a lambda and a critic at a length, under a reward model. They are run in rounds,
all rates first and then seed by seed, so that what is there at any time is balanced.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokengym import ComparisonConfig
from tokengym.envs import Episode, bundled
from tokengym.evaluation.runs import EvaluationSettings, TaskSettings
from tokengym.lab.makers.bundles.other_reward_models import (
    LLAMA,
    MISALIGNED,
    build_llama,
    build_misaligned,
)
from tokengym.lab.protocol import LEARNER, PROMPTS, untrained_best_of
from tokengym.lab.study import Cell, Drawn, Round, Row, single_run
from tokengym.rewards import Credit, gold_scorer, register_credit

ENV = "tokengym/MovieReview-v0"
UPDATES, LONGER, ROWS = 30, 120, 64
EVALUATIONS = 6
"""Measurements of a run after the first."""
SEEDS = range(10)
WORDS = "words"
RULES = (
    "sparse",
    "uniform",
    "recency",
    "random",
    "abc",
    "abc-signed",
    "attribution",
    "red:delivery=end",
    WORDS,
)
SHORTLIST = ("sparse", "uniform", "abc-signed", "red:delivery=end", WORDS)
"""Rules that are tried at low lambdas."""
CONTROLS = ("uniform", "recency", "random")
LENGTHS = (24, 48, 96, 192)
LAMBDAS = ("0.95", "1", "0.5", "0", "1-1/n")
"""Values of lambda, the most needed first."""
MODELS: dict[str, Callable[[Path], None] | None] = {
    "aligned": None,
    MISALIGNED: build_misaligned,
    LLAMA: build_llama,
}
"""By name: what writes the reward model's folder; None is the bundled one."""
CRITICS: dict[str, dict[str, Any]] = {
    "own": {"value_network": "own"},
    "trunk": {"value_network": "trunk"},
    "none": {"vf_coef": 0.0},
    "vineppo": {"advantage": "vineppo"},
    "warm-up": {"value_network": "own", "n_value_warmup": 3},
    "reward model": {"value_network": "reward_model"},
}
"""By name: where PPO's values come from; without a critic they are 0, and VinePPO takes none."""
AXES: dict[str, Any] = {
    "rule": str,
    "gae_lambda": "0.95",
    "critic": "own",
    "length": 48,
    "model": "aligned",
    "updates": UPDATES,
    "rows": ROWS,
}
"""Axes of the cells: credit rule; lambda ("1-1/n" depends on the length); name in `CRITICS`; tokens
of a response; name in `MODELS`; updates of a run; responses of an update."""
FOLDER, RUNS, WAYS = "ledger", "runs.csv", "best_of_n.csv"


class TrueWords(Credit):
    """Each word earns what it adds to the grammar's polarity; the last token the rest of the score.

    The worth of a word is scaled to the reward model's score by `SCALE`.
    """

    name = WORDS
    SCALE = 3.7
    """Least-squares slope of the reward model's score on polarity, on responses of the untrained
    policy."""

    def __init__(self) -> None:
        self._gold = gold_scorer(bundled("movie_review"))
        self._tokenizer: Any = None

    def bind(self, tokenizer: Any) -> "TrueWords":
        """Return the rule for the policy's tokenizer."""
        self._tokenizer = tokenizer
        return self

    def spread(
        self, score: float, episode: Episode, attribution: NDArray[np.float32] | None
    ) -> np.ndarray:
        """Return the words' worth, and the rest of the score on the last token."""
        assert self._gold is not None
        truth = self._gold.token_worth([episode], self._tokenizer)
        assert truth is not None
        rewards = self.SCALE * truth[0]
        rewards[-1] += score - rewards.sum()
        return rewards


def register_words() -> None:
    """Make `TrueWords` a rule by name: importing the study registers nothing."""
    register_credit(TrueWords)


def lambda_of(name: str, length: int) -> float:
    """Return a lambda of `LAMBDAS` as a number."""
    return 1 - 1 / length if name == "1-1/n" else float(name)


# --- cells ----------------------------------------------------------------------------------------


def make_cell(**values: Any) -> Cell:
    """Return a cell: its values, and the others' defaults."""
    return Cell(**{**AXES, **values})


def config(run: Cell, out: Path, evaluation: EvaluationSettings | None = None) -> ComparisonConfig:
    """Return the comparison that a run is of.

    Args:
        run: A cell with its rate.
        out: Folder of the runs, where reward models that are not bundled are made.
        evaluation: How it is measured; None takes the ledger's own grid.
    """
    register_words()
    updates, length = int(run.updates), int(run.length)
    settings = {**LEARNER, **CRITICS[run.critic], "gae_lambda": lambda_of(run.gae_lambda, length)}
    build = MODELS[run.model]
    if build:
        build(out / run.model)
    return single_run(
        ENV,
        run.rule,
        steps=updates,
        batch_size=int(run.rows),
        max_new_tokens=length,
        learning_rate=run.rate,
        **settings,
        evaluation=evaluation
        or EvaluationSettings(every=max(updates // EVALUATIONS, 1), episodes=PROMPTS, samples=0),
        task=TaskSettings(scorer=str(out / run.model) if build else None),
    )


AT_LENGTHS = (
    make_cell(rule="sparse"),
    make_cell(rule="sparse", gae_lambda="1"),
    make_cell(rule="sparse", critic="none"),
    make_cell(rule="sparse", gae_lambda="1", critic="none"),
    make_cell(rule="uniform"),
    make_cell(rule="abc-signed", gae_lambda="0.5"),
    make_cell(rule="abc-signed"),
    make_cell(rule="abc-signed", gae_lambda="1"),
    make_cell(rule=WORDS),
)
"""Cells run at other lengths."""
AT_LLAMA = (
    make_cell(rule="sparse"),
    make_cell(rule="abc-signed", gae_lambda="0.5"),
    make_cell(rule="uniform"),
    make_cell(rule="abc-signed"),
    make_cell(rule="abc"),
    make_cell(rule="attribution"),
    make_cell(rule="red:delivery=end", gae_lambda="0.5"),
)
"""Cells run under the reward model of another architecture, the most needed first."""
AT_LONGER = (
    make_cell(rule="sparse"),
    make_cell(rule="abc-signed", gae_lambda="0.5"),
    make_cell(rule="uniform"),
)
"""Cells run for longer: at 24 tokens, for as many tokens as texts of 96 take."""
AT_TRUNK = (
    make_cell(rule="sparse", critic="trunk"),
    make_cell(rule="sparse", gae_lambda="1", critic="trunk"),
    make_cell(rule="abc-signed", gae_lambda="0.5", critic="trunk"),
    make_cell(rule="abc-signed", critic="trunk"),
    make_cell(rule="uniform", critic="trunk"),
)
"""Cells run with a critic that is a head on the policy."""
CONTINUED = "mc:k=4"
AT_CONTINUED = tuple(
    make_cell(rule=CONTINUED, gae_lambda=name, critic="none", length=LENGTHS[0])
    for name in ("0.5", "0.95", "0")
)
"""The score under a Monte Carlo critic: `mc` pays its temporal differences, so that GAE(lambda) of
them is that of `sparse` with these values. Continuations do not count, which makes a run dear, so
on the shortest texts."""
AT_VINEPPO = tuple(
    make_cell(rule=rule, critic="vineppo", updates=updates, rows=16)
    for rule, updates in (("mc:k=3,segments=4", 21), ("mc:k=1,segments=8", 26))
)
"""VinePPO's own estimator, A_t = r_t, for the tokens of the other cells, continuations included:
264 and 216 a response, in fewer of them to an update, so that some updates are left."""
AT_LONGEST = (
    make_cell(rule="sparse"),
    make_cell(rule="abc-signed", gae_lambda="0.5"),
    make_cell(rule="sparse", gae_lambda="1"),
    make_cell(rule="uniform"),
)
"""Cells run at the longest texts."""


def rounds() -> Iterator[Round]:
    """Yield cells and the seeds wanted of them, in the order in which they are needed."""

    def cross(rules: Sequence[str], lambdas: Sequence[str], **at: Any) -> list[Cell]:
        return [make_cell(rule=rule, gae_lambda=lam, **at) for lam in lambdas for rule in rules]

    first_lambdas, other_lambdas = LAMBDAS[:2], LAMBDAS[2:]
    main = [*cross(RULES, first_lambdas, critic="own"), *cross(RULES, first_lambdas, critic="none")]
    low = cross(SHORTLIST, ("0.5", "0"))
    yield [*main, *low], SEEDS[:5]
    attention = ("sparse", "abc", "abc-signed", "attribution", "red:delivery=end")
    yield cross(attention, first_lambdas[:1], model=MISALIGNED), SEEDS[:5]
    yield [*cross(RULES, first_lambdas[:1]), *low[: len(SHORTLIST)]], SEEDS
    yield cross(("sparse", "abc-signed"), first_lambdas[:1], critic="none"), SEEDS
    for length in LENGTHS[0], LENGTHS[2]:
        yield [cell.but(length=length) for cell in AT_LENGTHS], SEEDS[:5]
    yield [*AT_VINEPPO], SEEDS[:5]
    yield [cell.but(updates=LONGER) for cell in AT_LONGER], SEEDS[:5]
    yield [*AT_TRUNK], SEEDS[:5]
    yield cross(("sparse", "abc-signed", "uniform"), ("1-1/n",)), SEEDS[:5]
    yield [cell.but(length=LENGTHS[3]) for cell in AT_LONGEST], SEEDS[:3]
    yield [*AT_CONTINUED], SEEDS[:5]
    yield [cell.but(model=LLAMA) for cell in AT_LLAMA], SEEDS[:5]
    yield (
        [cell.but(updates=LONGER, length=LENGTHS[0]) for cell in AT_LONGER[:2]],
        SEEDS[:3],
    )
    yield cross(RULES, first_lambdas, critic="trunk"), SEEDS[:5]
    yield cross(attention, first_lambdas, model=MISALIGNED), SEEDS[:5]
    yield main, SEEDS
    yield cross(RULES, other_lambdas), SEEDS[:5]


# --- levels that no run decides ---------------------------------------------------------------


def ways(length: int, out: Path) -> list[Row]:
    """Return what the best of n untrained responses of a length scores."""
    del out
    return [{"length": length, **row} for row in untrained_best_of(ENV, length)]


WAYS_DRAWN = Drawn(
    file=WAYS,
    parts={f"ways/{length}.csv": partial(ways, length) for length in LENGTHS},
    part_of=lambda row: f"ways/{row['length']:g}.csv",
)
