"""Does any lead need the leap of the first update?

At the rate that tuning chose, the first update moves `sparse` by 5, 7 and 2 nats on film reviews of
24, 48 and 96 tokens, and `abc-signed` by 3, 5 and 8, before the score moves. The same arms as
published, whose runs are those of the critic's page, with a rate that warms up, with `target_kl`,
and with batches of 240 responses in place of 64 at the same tokens. The learning rate is tuned for
each on a spare seed.

    python -m studies.leap run --out runs/leap [--until 22:00] [--part 0/2]
    python -m studies.leap publish --out runs/leap    # fills the page
    python -m studies.leap page
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from studies import critic
from tokengym import ComparisonConfig
from tokengym.evaluation.report import number
from tokengym.evaluation.statistics import (
    FASTER_AT,
    LEAP,
    PairedDifference,
    RunPath,
    nats_per_update,
    steps_to_shares,
    student_interval,
    value_within_kl,
)
from tokengym.lab.benchmark.verdict import path_of
from tokengym.lab.protocol import GRID, LEARNER, MEASURES, SPARE_SEED, net, over_run, way
from tokengym.lab.study import (
    NET,
    Cell,
    Published,
    Round,
    Row,
    Runs,
    Study,
    read_rows,
    single_run,
)
from tokengym.lab.tables import (
    NONE,
    Speed,
    after_holm,
    at_equal_kl,
    critic_text,
    markdown_table,
    mean,
    paired_text,
    rates_table,
    times_as_fast,
)

ENV = "tokengym/MovieReview-v0"
LENGTHS = (24, 48, 96)
"""Tokens of a response."""
SPARSE_LAMBDAS = {24: "0.95", 48: "0.95", 96: "1"}
"""Lambda that suits `sparse` by length, the ledger's."""
PUBLISHED = "as published"
VARIANTS = (PUBLISHED, "warm-up", "target KL", "batch of 240")
WARMUP = 5
"""Updates over which the rate warms up."""
ROWS, UPDATES = 64, 30
LARGE_ROWS, LARGE_UPDATES = 240, 8
"""Rows and updates of the larger batch: the same 1,920 responses."""
PAIRS = 5
WAYS = "ledger/best_of_n.csv"
"""What the best of n untrained responses has by length, beside the pages."""
LOW_RATE, WITHIN = 3e-4, (4.0, 6.0, 8.0)
"""Rate at which few updates leap, and the nats within which scores are shown there."""
ABOUT = ("tokens", "variant", "arm")
"""Heads of a cell's columns."""


def cells(length: int, variant: str) -> list[Cell]:
    """Return the arms at a length under a variant, `sparse` first."""
    at = {"length": length, "variant": variant}
    return [
        STUDY.cell(rule="sparse", gae_lambda=SPARSE_LAMBDAS[length], **at),
        STUDY.cell(rule="abc-signed", gae_lambda="0.5", **at),
        STUDY.cell(rule="sparse", gae_lambda="0.8", critic="reward_model", **at),
    ]


def rounds() -> Iterator[Round]:
    """Yield the cells and the seeds wanted of them, in the order in which they are needed."""
    for length in LENGTHS:
        for variant in (VARIANTS[1], VARIANTS[0], *VARIANTS[2:]):
            yield cells(length, variant), range(PAIRS)


def beside(docs: Path) -> list[Row]:
    """Return the runs of the arms as published, the first `PAIRS` and their sweeps."""
    wanted = {cell for length in LENGTHS for cell in cells(length, PUBLISHED)}
    about = {"model": "aligned", "updates": UPDATES, "rows": ROWS}
    rows: list[Row] = []
    for run, points in critic.STUDY.published(docs).runs.each.items():
        if any(run[axis] != value for axis, value in about.items()):
            continue
        if not (run.seed < PAIRS or run.seed in STUDY.spare_seeds):
            continue
        cell = STUDY.cell(
            variant=PUBLISHED,
            rule=run.rule,
            gae_lambda=run.gae_lambda,
            critic=run.critic.replace(" ", "_"),
            length=int(run.length),
        )
        if cell in wanted:
            of_run = {**cell, "rate": run.rate, "seed": run.seed}
            rows += [{**of_run, **{name: row[name] for name in MEASURES}} for row in points]
    return rows


def settings_of(variant: str, length: int) -> dict[str, Any]:
    """Return what a variant changes of the learner and of the batch.

    Args:
        variant: One of `VARIANTS`.
        length: Tokens of a response; `target_kl` is per token, and ends an update at 1.5 times
            itself: 1 / length is 1.5 nats per response.
    """
    plain = {"batch_size": ROWS, "steps": UPDATES}
    changes: dict[str, dict[str, Any]] = {
        PUBLISHED: plain,
        "warm-up": {**plain, "n_warmup_updates": WARMUP},
        "target KL": {**plain, "target_kl": 1.0 / length},
        "batch of 240": {"batch_size": LARGE_ROWS, "steps": LARGE_UPDATES},
    }
    return changes[variant]


def config(run: Cell, out: Path) -> ComparisonConfig:
    """Return the comparison that a run is of."""
    del out
    length = int(run.length)
    return single_run(
        ENV,
        run.rule,
        max_new_tokens=length,
        learning_rate=run.rate,
        gae_lambda=float(run.gae_lambda),
        value_network=run.critic,
        **settings_of(run.variant, length),
        **LEARNER,
        evaluation=GRID,
    )


# --- page -----------------------------------------------------------------------------------------


def title(cell: Cell) -> str:
    """Return a cell's arm in words."""
    return f"`{cell.rule}`, {cell.gae_lambda}{critic_text(cell.critic)}"


def largest_update(points: list[Row]) -> float:
    """Return the most nats that one update of a run crossed, between two measurements."""
    steps, kl = ([row[name] for row in points] for name in ("step", "kl"))
    return float(nats_per_update(steps, kl).max())


def tables(published: Published) -> dict[str, str]:
    """Return the page's tables by name."""
    runs = published.runs
    every = [
        c for variant in VARIANTS for length in sorted(LENGTHS) for c in cells(length, variant)
    ]
    made = [cell for cell in every if len(runs.areas(cell)) > 1]
    swept = {tuple(about(cell)): runs.sweeps[cell] for cell in made}
    return {
        "leaps": leaps_table(runs, made),
        "leads": leads_table(runs, made),
        "speeds": speeds_table(runs, made, published.folder.parent),
        "one rate": one_rate_table(runs, made),
        "rates": rates_table(swept, ABOUT, with_best=True),
    }


def about(cell: Cell) -> list[str]:
    """Return a cell's columns."""
    return [str(int(cell.length)), cell.variant, title(cell)]


def leaps_table(runs: Runs, made: list[Cell]) -> str:
    """Return how far the first and the largest update go, and where runs end."""
    lines = []
    for cell in made:
        each = [*runs.runs[cell].values()]
        first = number(mean([points[1]["kl"] for points in each]))
        leap = [largest_update(points) for points in each]
        ends = [number(mean([*runs.ends(cell, m).values()])) for m in ("score", "gold_score", "kl")]
        over = number(mean([over_run(points, "score") for points in each]))
        leapt = f"{sum(value > LEAP for value in leap)} of {len(leap)}"
        lines.append([*about(cell), str(len(each)), first, number(mean(leap)), leapt, over, *ends])
    heads = [
        "runs",
        "first update, nats",
        "largest update",
        "runs with one above a nat",
        "score over the run",
    ]
    return markdown_table([*ABOUT, *heads, "score at the end", "gold", "KL"], lines)


def leads_table(runs: Runs, made: list[Cell]) -> str:
    """Return every arm's leads on `sparse` of its variant: net and its parts, and at equal KL."""
    differences: dict[Cell, PairedDifference] = {}
    parts: dict[Cell, list[str]] = {}
    for cell in made:
        base = cells(int(cell.length), cell.variant)[0]
        lead = runs.difference(cell, base)
        if cell == base or lead is None:
            continue
        arm, baseline = (
            {"": {seed: path_of(points) for seed, points in runs.runs[at].items()}}
            for at in (cell, base)
        )
        differences[cell] = lead
        seeds = sorted(runs.runs[cell].keys() & runs.runs[base].keys())
        parts[cell] = [
            paired_text(
                *([over_run(runs.runs[at][seed], m) for seed in seeds] for at in (cell, base))
            )
            for m in ("score", "kl")
        ]
        parts[cell] += [at_equal_kl(arm, baseline, measure=m) for m in ("score", "gold_score")]
    shown = after_holm(differences)
    lines = [[*about(cell), shown[cell], *parts[cell]] for cell in differences]
    heads = [
        NET,
        "score over the run",
        "KL over it",
        "score at equal KL, by nats",
        "gold at equal KL",
    ]
    return markdown_table([*ABOUT, *heads], lines)


def speed_at(
    arm: Mapping[int, RunPath],
    baseline: Mapping[int, RunPath],
    drawn: Sequence[Row],
    price: float,
) -> Speed | None:
    """Return the ratio of updates to 75 % of the way to best of 16, paired by seed.

    A run of the arm that does not come there counts as its length. None where the baseline does not
    always come there: the ratio would be a lower bound, as in `Runs.speed`.

    Args:
        arm: Runs by seed.
        baseline: Those of `sparse`.
        drawn: Rows of `best_of_rows` at their length.
        price: Score that a nat costs on the way; 0 is the score alone.
    """
    start, goal = way(drawn, lambda row: net(row, price))

    def updates(run: RunPath) -> float:
        heights = run.values["score"] - price * run.kl
        (steps,) = steps_to_shares(run.updates, [heights], start, goal, (FASTER_AT,))[0]
        return float(min(steps, run.updates[-1]))

    def is_late(run: RunPath) -> bool:
        return updates(run) >= float(run.updates[-1])

    seeds = sorted(arm.keys() & baseline.keys())
    if any(is_late(baseline[seed]) for seed in seeds):
        return None
    logs = [np.log(updates(baseline[seed]) / updates(arm[seed])) for seed in seeds]
    middle, low, high, _ = (float(np.exp(value)) for value in student_interval(logs))
    return Speed(middle, low, high, any(is_late(arm[seed]) for seed in seeds))


def speeds_table(runs: Runs, made: list[Cell], docs: Path) -> str:
    """Return how many times as fast as `sparse` of its variant each arm is, by score and by net."""
    lines = []
    ways = read_rows(docs / WAYS, text=())
    for cell in made:
        base = cells(int(cell.length), cell.variant)[0]
        if cell == base or base not in made:
            continue
        drawn = [row for row in ways if row["length"] == cell.length]
        arm, baseline = (
            {seed: path_of(points) for seed, points in runs.runs[at].items()} for at in (cell, base)
        )
        shown = [
            times_as_fast(speed_at(arm, baseline, drawn, price)) for price in (0.0, runs.price)
        ]
        lines.append([*about(cell), *shown])
    return markdown_table([*ABOUT, "by score", f"by {NET}"], lines)


def one_rate_table(runs: Runs, made: list[Cell]) -> str:
    """Return the score within some nats at one low rate, of the runs of the sweeps.

    The sweeps of the arms as published have a point every five updates, which hides a leap.
    """
    lines = []
    for cell in made:
        points = runs.each.get(cell.but(rate=LOW_RATE, seed=SPARE_SEED))
        if cell.variant == PUBLISHED or points is None:
            continue
        path = path_of(points)
        score = value_within_kl(WITHIN, path.updates, path.kl, path.values["score"])
        shown = [number(value) if np.isfinite(value) else NONE for value in score]
        lines.append([*about(cell), number(largest_update(points)), number(path.kl[-1]), *shown])
    heads = ["largest update, nats", "KL at the end", *(f"score within {k:g}" for k in WITHIN)]
    return markdown_table([*ABOUT, *heads], lines)


STUDY = Study(
    document="details/leap.md",
    folder="leap",
    axes={"variant": str, "rule": str, "gae_lambda": str, "critic": "own", "length": int},
    rounds=rounds,
    config=config,
    beside=beside,
    tables=tables,
)

if __name__ == "__main__":
    STUDY.command_line(__doc__)
