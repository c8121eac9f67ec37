"""On Forks, do the field's own remedies for a weak critic leave anything for token credit?

The question of `studies.remedies` in the hard setting of docs/results/details/forks.md, where 1.6 %
of the responses are right, so that a critic of its own has almost nothing to learn from. The
remedies are those of film reviews. Token credit is `red`, which is paid by the bundled model of the
verifier, and `abc-signed`; the good critic starts from that model.

    python -m studies.forks_remedies run --out runs/forks_remedies [--until 22:00]
    python -m studies.forks_remedies publish --out runs/forks_remedies    # fills the page's tables
    python -m studies.forks_remedies page
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studies import forks_critic, forks_noise, frontier, leap, remedies
from studies.forks_critic import ENV, EVERY, KNOBS, LENGTH, PRICE, ROWS, TOKENS
from studies.remedies import EXPLAINED, PUBLISHED, WARMED, share_of_values
from tokengym import ComparisonConfig
from tokengym.evaluation.report import number
from tokengym.evaluation.runs import EvaluationSettings, TaskSettings
from tokengym.evaluation.statistics import PairedDifference, RunPath, paired_difference
from tokengym.lab.benchmark.verdict import net_of, path_of
from tokengym.lab.replay.executed import Forks
from tokengym.lab.replay.replay import replay
from tokengym.lab.study import (
    Cell,
    Drawn,
    Published,
    Round,
    Row,
    Runs,
    Study,
    single_run,
)
from tokengym.lab.tables import (
    NONE,
    after_holm,
    at_equal_kl,
    markdown_table,
    paired_text,
    rates_table,
)
from tokengym.rewards import register_credit

PRETRAINED = 6 * EVERY
"""Updates in which the values alone learn, half as many as the policy's. A multiple of `EVERY`, so
that the policy's first update follows a measurement."""
TAUGHT = {"n_value_warmup": PRETRAINED, "tokens": TOKENS + PRETRAINED * ROWS * LENGTH}
PAIRS = 10
FIRST_SEED = forks_critic.SEEDS[0]
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    PUBLISHED: {},
    WARMED: {"n_warmup_updates": leap.WARMUP},
    "values pretrained": TAUGHT,
    "values' lambda 1": {"gae_lambda_vf": 1.0},
    "pretrained, lambda 1": {**TAUGHT, "gae_lambda_vf": 1.0},
    "lambda by length": {"advantage": "gae-length", "gae_lambda": None},
    "top fifth by entropy": {"agent": "weighted-ppo", "advantage_weight": "entropy:top=0.2"},
    "leave-one-out": {"advantage": "loo", "group_size": 8, "gae_lambda": None},
}
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
        {**cell, "rate": run.rate, "seed": run.seed, EXPLAINED: None, **_figures(row)}
        for run, points in known
        if run.gae_lambda == cell.gae_lambda
        for row in points
    ]


def _figures(row: Row) -> Row:
    return {name: row[name] for name in ("step", "tokens", "score", "gold_score", "kl")}


def config(run: Cell, out: Path) -> ComparisonConfig:
    """Return the comparison that a run is of."""
    del out
    register_credit(forks_critic.Beside)  # importing the study registers nothing
    rule = forks_critic.Beside.name if run.rule == SPARSE and run.critic == MODELS else run.rule
    settings: dict[str, Any] = {
        "tokens": TOKENS,
        "gae_lambda": float(run.gae_lambda),
        "value_network": run.critic,
        **VARIANTS[run.variant],
    }
    if settings.get("advantage") == "loo":
        del settings["value_network"]
    return single_run(
        ENV,
        rule,
        batch_size=ROWS,
        max_new_tokens=LENGTH,
        kl_coef=PRICE,
        learning_rate=run.rate,
        **settings,
        evaluation=EvaluationSettings(every=EVERY, samples=0),
        task=TaskSettings(task_options=KNOBS),
    )


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

net = partial(net_of, price=PRICE)
PARTS = (frontier.score_over, frontier.kl_over, frontier.score_at_end, frontier.kl_at_end)
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


def paths(runs: Runs, cell: Cell, *, whole: bool = True) -> dict[int, RunPath]:
    """Return a cell's runs by seed, without the updates of the values alone unless whole."""
    begins = 0 if whole else VARIANTS[cell.variant].get("n_value_warmup", 0)
    return {
        seed: path_of([row for row in points if row["step"] >= begins])
        for seed, points in runs.runs.get(cell, {}).items()
    }


def leads_table(runs: Runs, made: Sequence[Cell]) -> str:
    """Return every arm minus `sparse` as published, with and without the values' own updates."""
    base, *others = made
    of_base = paths(runs, base)
    differences: dict[Cell, PairedDifference] = {}
    parts: dict[Cell, list[str]] = {}
    for cell in others:
        own, whole = (paths(runs, cell, whole=is_whole) for is_whole in (False, True))
        seeds = sorted(own.keys() & of_base.keys())
        both = [[each[seed] for seed in seeds] for each in (own, of_base)]
        one, other = ([net(run) for run in each] for each in both)
        differences[cell] = paired_difference(one, other)
        ends = {seed: float(of_base[seed].tokens[-1]) for seed in seeds}
        counted = [net(whole[seed].within(ends[seed], across_leaps=True)) for seed in seeds]
        figures = frontier.minus(*both, figures=PARTS)
        parts[cell] = [paired_text(counted, other), *figures, at_equal_kl({"": own}, {"": of_base})]
    shown = after_holm(differences)
    lines = [
        [*about(cell), str(differences[cell].pairs), lead, *parts[cell]]
        for cell, lead in shown.items()
    ]
    heads = ["variant", "arm", "critic", "pairs", HEADS[0]]
    return markdown_table([*heads, "the same, all tokens counted", *HEADS[1:]], lines)


def left_table(runs: Runs) -> str:
    """Return `red` minus `sparse` with the model's critic, and each rule minus it beside one."""
    started = STUDY.cell(rule=SPARSE, critic=MODELS)
    asked = [STUDY.cell(rule=RED).but(variant=variant) for variant in (PUBLISHED, WARMED)]
    asked += [STUDY.cell(rule=rule, critic=MODELS) for rule in (SIGNED, RED)]
    pairs = {}
    for cell in asked:
        one, other = (paths(runs, at) for at in (cell, started.but(variant=cell.variant)))
        seeds = sorted(one.keys() & other.keys())
        if len(seeds) > 1:
            pairs[cell] = [[each[seed] for seed in seeds] for each in (one, other)]
    leads = {
        cell: paired_difference([net(run) for run in one], [net(run) for run in other])
        for cell, (one, other) in pairs.items()
    }
    lines = [
        [
            *about(cell),
            lead,
            *frontier.minus(*pairs[cell], figures=PARTS),
            at_equal_kl(*({"": dict(enumerate(each))} for each in pairs[cell])),
        ]
        for cell, lead in after_holm(leads).items()
    ]
    return markdown_table(["variant", "arm", "its critic", *HEADS], lines)


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
