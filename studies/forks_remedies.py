"""On Forks, do the field's own remedies for a weak critic leave anything for token credit?

The question of `studies.remedies` in the hard setting of docs/results/details/forks.md, where 1.6 %
of the responses are right, so that a critic of its own has almost nothing to learn from. The
remedies are those of film reviews. Token credit is `red`, which is paid by the bundled model of the
verifier, and `abc-signed`; the good critic starts from that model.

    python -m studies.forks_remedies run --out runs/forks_remedies [--until 22:00]
    python -m studies.forks_remedies publish --out runs/forks_remedies    # fills the page's tables
    python -m studies.forks_remedies page
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studies import forks_critic, forks_noise, frontier, remedies
from studies.forks_critic import ENV, EVERY, LENGTH, PRICE, ROWS, TOKENS
from studies.remedies import (
    EXPLAINED,
    PUBLISHED,
    WARMED,
    lead_on,
    lines_of,
    paths,
    share_of_values,
    variants,
)
from tokengym import ComparisonConfig
from tokengym.evaluation.report import number
from tokengym.evaluation.statistics import RunPath
from tokengym.lab.protocol import MEASURES
from tokengym.lab.replay.executed import Forks
from tokengym.lab.replay.replay import replay
from tokengym.lab.study import Cell, Drawn, Published, Round, Row, Runs, Study
from tokengym.lab.tables import NONE, after_holm, markdown_table, rates_table

PRETRAINED = 6 * EVERY
"""Updates in which the values alone learn, half as many as the policy's. A multiple of `EVERY`, so
that the policy's first update follows a measurement."""
TAUGHT = {"n_value_warmup": PRETRAINED, "tokens": TOKENS + PRETRAINED * ROWS * LENGTH}
PAIRS = 10
FIRST_SEED = forks_critic.SEEDS[0]
VARIANTS = variants(TAUGHT)
"""By name: settings of the learner beside the published ones."""
SPARSE, RED, SIGNED = "sparse", "red:delivery=end", "abc-signed"
MODELS = "reward_model"
"""Critic that starts from the model of the verifier."""
CRITICS = {"own": "its own", MODELS: "the model's"}
"""Critics in words."""
WORTH, SETTING = "forks_values.csv", "hard"
"""File of what values explain of whole returns; the setting, as `forks_noise` names it."""
RESPONSES, CONTINUATIONS = 1024, 4
"""Responses, and continuations of each of their prefixes, behind that."""


def cells() -> list[Cell]:
    """Return the cells, in the order in which they are needed; `sparse` as published first."""
    sparse = STUDY.cell(rule=SPARSE)
    asked = [
        STUDY.cell(rule=rule, critic=critic, variant=variant)
        for variant in (PUBLISHED, WARMED)
        for rule, critic in ((SPARSE, "own"), (RED, "own"), (SPARSE, MODELS))
    ]
    tried = [sparse.but(variant=name) for name in VARIANTS if name not in (PUBLISHED, WARMED)]
    both = [STUDY.cell(rule=rule, critic=MODELS) for rule in (SIGNED, RED)]
    return [*asked, *tried, *both]


def rounds() -> Iterator[Round]:
    """Yield the cells and the seeds wanted of them: five of each, then seven, then ten."""
    for pairs in (5, len(forks_critic.SEEDS), PAIRS):
        for cell in cells():
            yield [cell], range(FIRST_SEED, FIRST_SEED + pairs)


def beside(docs: Path) -> list[Row]:
    """Return the runs of `sparse` with the model's critic, which another page has."""
    known = forks_critic.STUDY.published(docs).runs.each.items()
    cell = STUDY.cell(rule=SPARSE, critic=MODELS)
    return [
        {**cell, "rate": run.rate, "seed": run.seed, EXPLAINED: None}
        | {name: row[name] for name in MEASURES}
        for run, points in known
        if run.gae_lambda == cell.gae_lambda
        for row in points
    ]


def config(run: Cell, out: Path) -> ComparisonConfig:
    """Return the comparison that a run is of."""
    del out
    rule = forks_critic.Beside.name if run.rule == SPARSE and run.critic == MODELS else run.rule
    learner: dict[str, Any] = {
        "gae_lambda": float(run.gae_lambda),
        "value_network": run.critic,
        **VARIANTS[run.variant],
    }
    if learner.get("advantage") == "loo":
        del learner["value_network"]
    return forks_critic.hard_run(rule, run.rate, **learner)


def worth_of_values(out: Path) -> list[Row]:
    """Return the share of the variance of whole returns that values explain before training.

    Of any values, which none can exceed, and of the model's. The values of the model are centred by
    position, since a critic learns that at once.
    """
    del out
    episodes, policy, kwargs, _ = forks_noise.played(SETTING, RESPONSES)
    of_task = {name: value for name, value in kwargs.items() if name != "normalize"}
    about: dict[str, Any] = {"env": ENV, "env_kwargs": of_task, "policy": policy}
    paid = replay(episodes, [RED], forks=Forks(k=CONTINUATIONS), **about)
    assert paid.truth is not None
    assert paid.truth.executed is not None
    scores = np.array([episode.score for episode in episodes], dtype=np.float64)
    halves = [worth.halves for worth in paid.truth.executed.worths]
    of_model = share_of_changes(scores, np.stack(paid.credits[RED]))
    return [
        {
            "values": "any: the bound",
            "responses": RESPONSES,
            EXPLAINED: share_of_values(scores, halves),
        },
        {"values": "the model's", "responses": RESPONSES, EXPLAINED: of_model},
    ]


def share_of_changes(scores: NDArray[np.float64], changes: NDArray[np.float64]) -> float:
    """Return the share of the variance of the scores that values explain, centred by position.

    Args:
        scores: (responses,).
        changes: (responses, n): what each token changed in the value. That of the last token is
            not read: after it there is nothing to predict.
    """
    values = np.cumsum(changes, axis=1) - changes  # before each token, from 0 on
    missed = (scores - scores.mean())[:, None] - (values - values.mean(axis=0))
    return float(1.0 - (missed**2).mean() / scores.var())


# --- page -----------------------------------------------------------------------------------------

OF_FORKS: dict[str, Any] = {
    "price": PRICE,
    "figures": (
        *(frontier.score_over, frontier.kl_over),
        *(frontier.score_at_end, frontier.kl_at_end),
    ),
}
"""The price, and what is shown of a run: the verifier is score and gold in one."""
HEADS = (
    "score - c KL over the run",
    *("solved over the run", "KL over it", "solved in the last tenth", "KL in the last tenth"),
    "solved at equal KL, by nats",
)


def tables(published: Published) -> dict[str, str]:
    """Return the page's tables of Forks by name."""
    runs = published.runs
    made = [cell for cell in cells() if len(runs.areas(cell)) > 1]
    swept = {(*about(cell),): runs.sweeps[cell] for cell in made}
    return {
        "forks": leads_table(runs, made),
        "forks left": left_table(runs),
        "forks values": values_table(published.drawn[WORTH]),
        "forks rates": rates_table(swept, ("variant", "arm", "critic"), with_best=True),
    }


def values_table(rows: Sequence[Row]) -> str:
    """Return what values explain of whole returns before training."""
    lines = [[row["values"], f"{row['responses']:g}", number(row[EXPLAINED])] for row in rows]
    return markdown_table(["values", "responses", "share of the variance explained"], lines)


def about(cell: Cell) -> list[str]:
    """Return a cell's columns: variant, arm and critic."""
    settings = VARIANTS[cell.variant]
    lambda_ = NONE if settings.get("gae_lambda", 0) is None else cell.gae_lambda
    critic = NONE if settings.get("advantage") == "loo" else CRITICS[cell.critic]
    return [cell.variant, f"`{cell.rule.partition(':')[0]}`, {lambda_}", critic]


def leads_table(runs: Runs, made: Sequence[Cell]) -> str:
    """Return every arm minus `sparse` as published, with and without the values' own updates."""
    base, *others = made
    of_base = paths(runs, base)
    found = {
        cell: lead_on(of_base, own_updates(runs, cell), paths(runs, cell), **OF_FORKS)
        for cell in others
    }
    shown = after_holm({cell: difference for cell, (difference, _) in found.items()})
    lines = [
        [*about(cell), str(difference.pairs), shown[cell], *parts]
        for cell, (difference, parts) in found.items()
    ]
    heads = ["variant", "arm", "critic", "pairs", HEADS[0]]
    return markdown_table([*heads, "the same, all tokens counted", *HEADS[1:]], lines)


def own_updates(runs: Runs, cell: Cell) -> dict[int, RunPath]:
    """Return a cell's runs by seed, without the updates in which the values alone learned."""
    return paths(runs, cell, VARIANTS[cell.variant].get("n_value_warmup", 0))


def left_table(runs: Runs) -> str:
    """Return `red` minus `sparse` with the model's critic, and each rule minus it beside one."""
    started = STUDY.cell(rule=SPARSE, critic=MODELS)
    asked = [STUDY.cell(rule=RED, variant=variant) for variant in (PUBLISHED, WARMED)]
    asked += [STUDY.cell(rule=rule, critic=MODELS) for rule in (SIGNED, RED)]
    pairs = {}
    for cell in asked:
        one, other = (paths(runs, at) for at in (cell, started.but(variant=cell.variant)))
        seeds = sorted(one.keys() & other.keys())
        if len(seeds) > 1:
            pairs[(*about(cell),)] = [[each[seed] for seed in seeds] for each in (one, other)]
    return markdown_table(["variant", "arm", "its critic", *HEADS], lines_of(pairs, **OF_FORKS))


STUDY = Study(
    document="details/remedies.md",
    folder="remedies",
    runs="forks.csv",
    axes={"variant": PUBLISHED, "rule": str, "gae_lambda": "0.95", "critic": "own"},
    rounds=rounds,
    config=config,
    measure=remedies.measure,
    beside=beside,
    tables=tables,
    drawn=(Drawn(file=WORTH, parts={WORTH: worth_of_values}, text=("values",)),),
    price=PRICE,
)

if __name__ == "__main__":
    STUDY.command_line(__doc__)
