"""Score and gold at equal KL, from the published runs and from arms at four prices.

The first part reads what other pages have published. The second trains `sparse`, `uniform`,
`abc-signed` and `sparse` with a critic from the reward model at prices 0, .02, .05 and .2, two
rates and two lambdas each, with a rate that warms up, and compares the arms over all their cells.

    python -m studies.frontier run --out runs/frontier [--until 22:00] [--part 0/2]
    python -m studies.frontier publish --out runs/frontier    # fills the page
    python -m studies.frontier page
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from studies import leap
from tokengym import ComparisonConfig
from tokengym.evaluation.report import number
from tokengym.evaluation.statistics import (
    KL_LEVELS,
    RunPath,
    compare_at_kl,
    final_mean,
    leaps,
    nats_per_update,
    tuned_on_others,
)
from tokengym.lab.benchmark.verdict import net_of, path_of
from tokengym.lab.protocol import GRID, LEARNER, MEASURES, PRICE
from tokengym.lab.study import (
    Cell,
    Published,
    Round,
    Row,
    Study,
    read_rows,
    single_run,
)
from tokengym.lab.tables import (
    Speed,
    at_equal_kl,
    critic_text,
    grouped,
    markdown_table,
    paired_text,
    times_as_fast,
)

TEXT = ("rule", "gae_lambda", "critic", "model", "task", "eos")
"""Columns of the published files that hold text."""
CRITIC = ("reward_model", "reward model")
"""Names of the critic that starts from the reward model."""


class Source(NamedTuple):
    """Published runs of one setting, and the cells of its arms."""

    name: str
    """Setting in words."""
    files: tuple[str, ...]
    """Published files, beside the pages."""
    where: Mapping[str, Any]
    """Column -> value that the setting's rows have."""
    arms: Mapping[str, tuple[str, str, str]]
    """Arm -> rule, lambda and critic; the first is the baseline."""


FILMS = ("ledger/fine.csv", "critic/runs.csv")
STARTED = f"`sparse`{critic_text('reward_model')}"
SPARSE_LAMBDAS = {24: "0.95", 48: "0.95", 96: "1"}


def films(length: int, updates: int) -> Source:
    """Return the runs on film reviews of a length."""
    sparse = SPARSE_LAMBDAS[length] if updates == 30 else "0.95"
    return Source(
        name=f"film reviews, {length} tokens, {updates} updates",
        files=FILMS if updates == 30 else ("end/runs.csv",),
        where={"length": float(length), "updates": float(updates)},
        arms={
            "`sparse`": ("sparse", sparse, "own"),
            "`abc-signed`": ("abc-signed", "0.5", "own"),
            STARTED: ("sparse", "0.8", "reward_model"),
            "`uniform`": ("uniform", "0.95", "own"),
            "`random`": ("random", "0.95", "own"),
        },
    )


def task(name: str) -> Source:
    """Return the runs on another task."""
    return Source(
        name=f"{name}, 30 updates",
        files=("tasks/runs.csv",),
        where={"task": name, "eos": "allowed"},
        arms={
            "`sparse`": ("sparse", "0.95", "own"),
            "`abc-signed`": ("abc-signed", "0.95", "own"),
            STARTED: ("sparse", "0.8", "reward_model"),
            "`uniform`": ("uniform", "0.95", "own"),
            "`random`": ("random", "0.95", "own"),
        },
    )


SOURCES = (
    *(films(length, 30) for length in (24, 48, 96)),
    *(films(length, 120) for length in (24, 48, 96)),
    *(task(name) for name in ("Dialogue", "Summarize", "Detox", "QuestionAnswer")),
)
SPARE = 1000
"""Seeds from here on tune."""


@cache
def _rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a published file, which several settings read."""
    return read_rows(file, text=TEXT)


def runs_of(source: Source, docs: Path) -> dict[str, dict[int, RunPath]]:
    """Return the published runs of a setting's arms by seed, at the rate that tuning chose.

    Args:
        source: The setting.
        docs: Folder of the pages.
    """
    rows = [
        row
        for file in source.files
        for row in _rows(docs / file)
        if row["seed"] < SPARE
        and all(row[name] == value for name, value in source.where.items())
        and row.get("model", "aligned") == "aligned"
        and row.get("rows", 64.0) == 64.0
    ]
    by_run = grouped(rows, lambda row: (*(row[n] for n in TEXT[:3]), int(row["seed"])))
    arms: dict[str, dict[int, RunPath]] = {}
    for arm, (rule, gae_lambda, critic) in source.arms.items():
        found = {
            seed: path_of(points)
            for (r, at, start, seed), points in by_run.items()
            if (r, at) == (rule, gae_lambda) and (start in CRITIC) == (critic in CRITIC)
            if start in ("own", *CRITIC)
        }
        if len(found) > 1:
            arms[arm] = found
    return arms


# --- tables ---------------------------------------------------------------------------------------


def published_table(docs: Path) -> str:
    """Return every arm minus `sparse`: over the run and at the end apart, and at equal KL."""
    lines = []
    for source in SOURCES:
        arms = runs_of(source, docs)
        (_, base), *others = arms.items()
        for name, arm in others:
            seeds = sorted(arm.keys() & base.keys())
            both = [[each[seed] for seed in seeds] for each in (arm, base)]
            figures = minus(*both, figures=(net_of, *PARTS))
            equal = [at_equal_kl({"": arm}, {"": base}, measure=m) for m in ("score", "gold_score")]
            lines.append([source.name, name, str(len(seeds)), *figures, *equal])
    heads = ["score - c KL over the run", "score over it", "KL over it", *ENDS]
    heads += ["score at equal KL, by nats", "gold at equal KL"]
    return markdown_table(["setting", "arm", "pairs", *heads], lines)


def speeds_table(docs: Path) -> str:
    """Return how many times as fast as `sparse` the arms on film reviews are, by score and by net.

    Args:
        docs: Folder of the pages.
    """
    lines = []
    for source in SOURCES:
        if "length" not in source.where:
            continue
        arms = runs_of(source, docs)
        for arm in list(arms)[1:]:
            cells = [
                times_as_fast(speed_of(source, arms[arm], arms["`sparse`"], docs, price))
                for price in (0.0, PRICE)
            ]
            lines.append([source.name, arm, *cells])
    return markdown_table(["setting", "arm", "by score", "by score - c KL"], lines)


def speed_of(
    source: Source,
    arm: Mapping[int, RunPath],
    baseline: Mapping[int, RunPath],
    docs: Path,
    price: float,
) -> Speed | None:
    """Return the ratio of updates to 75 % of the way to best of 16, paired by seed.

    As `leap.speed_at` has it.

    Args:
        source: Their setting, on film reviews.
        arm: Runs by seed.
        baseline: Those of `sparse`.
        docs: Folder of the pages.
        price: Score that a nat costs on the way; 0 is the score alone.
    """
    drawn = [row for row in _rows(docs / leap.WAYS) if row["length"] == source.where["length"]]
    return leap.speed_at(arm, baseline, drawn, price)


def score_over(run: RunPath) -> float:
    """Return the mean score over a run."""
    return net_of(run, price=0.0)


def kl_over(run: RunPath) -> float:
    """Return the mean KL over a run."""
    return net_of(run, price=0.0) - net_of(run, price=1.0)


def score_at_end(run: RunPath) -> float:
    """Return the mean score of the last tenth."""
    return final_mean(run.values["score"])


def gold_at_end(run: RunPath) -> float:
    """Return the mean gold score of the last tenth."""
    return final_mean(run.values["gold_score"])


def kl_at_end(run: RunPath) -> float:
    """Return the mean KL of the last tenth."""
    return final_mean(run.kl)


PARTS = (score_over, kl_over, score_at_end, gold_at_end, kl_at_end)
"""What is shown of a run beside score - c KL over it."""
ENDS = tuple(f"{name} in the last tenth" for name in ("score", "gold", "KL"))
"""Heads of the last three."""


def minus(
    one: Sequence[RunPath],
    base: Sequence[RunPath],
    *,
    figures: Sequence[Callable[[RunPath], float]] = PARTS,
) -> list[str]:
    """Return what runs have more than others, paired, for each figure of a run.

    Args:
        one: The runs.
        base: Those that they are compared with, of the same seeds in the same order.
        figures: What is shown.
    """
    return [paired_text(*([of(run) for run in runs] for runs in (one, base))) for of in figures]


def leaps_table(docs: Path) -> str:
    """Return how far the first update and the largest one of each arm go."""
    lines = []
    for source in SOURCES:
        for name, arm in runs_of(source, docs).items():
            crossed = [nats_per_update(run.updates, run.kl) for run in arm.values()]
            leapt = sum(bool(leaps(run.updates, run.kl).any()) for run in arm.values())
            first, largest = (
                np.mean([of(each) for each in crossed]) for of in (lambda row: row[0], np.max)
            )
            lines.append(
                [source.name, name, number(first), number(largest), f"{leapt} of {len(arm)}"]
            )
    heads = ["first update, nats", "largest update", "runs with one above a nat"]
    return markdown_table(["setting", "arm", *heads], lines)


def draw(file: Path, docs: Path) -> None:
    """Draw score over KL of the published arms on film reviews: mean paths, dots and gaps.

    Args:
        file: Picture to write.
        docs: Folder of the pages.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplots(2, 3, sharey=True)
    for axis, source in zip(axes.flat, SOURCES, strict=False):
        for color, (name, arm) in zip(COLORS, runs_of(source, docs).items(), strict=False):
            longest = max(len(run.kl) for run in arm.values())
            runs = [run for run in arm.values() if len(run.kl) == longest]
            kl, score = (
                np.mean([of(run) for run in runs], axis=0)
                for of in (lambda run: run.kl, lambda run: run.values["score"])
            )
            line = np.where(np.append(leaps(runs[0].updates, kl), False), np.nan, score)
            # A point before a gap keeps its dot and loses the line to the next.
            segments = np.flatnonzero(np.isnan(line))
            begin = 0
            for end in (*segments, longest - 1):
                part = slice(begin, end + 1)
                axis.plot(kl[part], score[part], color=color, linewidth=1.3)
                begin = end + 1
            axis.plot(kl, score, "o", color=color, markersize=2.5, label=name.replace("`", ""))
            axis.plot(kl[-1], score[-1], "o", color=color, markersize=7)
        axis.set_title(source.name, fontsize=9)
        axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("KL to the untrained policy, nats")
    for axis in axes[:, 0]:
        axis.set_ylabel("score")
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=5, markerscale=2.5, fontsize=10)
    figure.savefig(file, dpi=110, metadata={"Software": None})


COLORS = ("#56616f", "#009e73", "#d55e00", "#0072b2", "#cc79a7")

# --- the study ------------------------------------------------------------------------------------

PRICES = (0.05, 0.0, 0.02, 0.2)
"""Scores that a nat costs in training, in the order in which they are run."""
STEP_SIZES = (1e-3, 3e-4)
"""Learning rates. No rate is tuned: an arm's frontier is over all its cells."""
CELLS = 2 * len(STEP_SIZES)
"""Cells of an arm at a price."""
ARMS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "`sparse`": ("sparse", "own", ("0.95", "1")),
    "`uniform`": ("uniform", "own", ("0.8", "0.95")),
    "`abc-signed`": ("abc-signed", "own", ("0.5", "0.95")),
    STARTED: ("sparse", "reward_model", ("0.8", "0.95")),
}
"""Arm -> rule, critic and lambdas; the first is the baseline."""
WHERE = (("MovieReview", 48), ("Detox", 48), ("MovieReview", 96))
WARMUP, PAIRS, ROWS, UPDATES = 5, 5, 64, 30
PILOT_ARMS, PILOT_PRICES, PILOT_PAIRS = ("`sparse`", "`abc-signed`", STARTED), (0.05, 0.2, 0.02), 3
"""What is run first, of the first task."""
WITH_WARMUP = leap.VARIANTS[1]
"""Variant of the leap's page whose runs are cells of this study at the price of `PRICE`."""


def cells(of_task: str, length: int, arm: str, price: float) -> list[Cell]:
    """Return the cells of an arm at a price: its lambdas by the rates."""
    rule, critic, lambdas = ARMS[arm]
    return [
        STUDY.cell(
            task=of_task,
            length=length,
            rule=rule,
            critic=critic,
            gae_lambda=at,
            price=price,
            step_size=rate,
        )
        for at in lambdas
        for rate in STEP_SIZES
    ]


def pilot(price: float) -> list[Cell]:
    """Return the pilot's cells at a price: its arms at their first lambda, the first rate."""
    return [cells(*WHERE[0], arm, price)[0] for arm in PILOT_ARMS]


def rounds() -> Iterator[Round]:
    """Yield the cells and the seeds wanted of them, in the order in which they are needed.

    The pilot's cells come first.
    """
    for price in PILOT_PRICES:
        yield pilot(price), range(PILOT_PAIRS)
    for where in WHERE:
        for price in PRICES:
            yield [cell for arm in ARMS for cell in cells(*where, arm, price)], range(PAIRS)


def beside(docs: Path) -> list[Row]:
    """Return the runs that the leap's page publishes of these cells: its warm-up at this price.

    A run there has the same configuration as here; a test compares the two.

    Args:
        docs: Folder of the pages.
    """
    arms = {ARMS[arm][:2]: ARMS[arm][2] for arm in ARMS}
    rows: list[Row] = []
    for run, points in leap.STUDY.published(docs).runs.each.items():
        known = run.variant == WITH_WARMUP and run.rate in STEP_SIZES and run.seed < PAIRS
        where = ("MovieReview", int(run.length))
        if known and where in WHERE and run.gae_lambda in arms[run.rule, run.critic]:
            cell = here(run).but(seed=run.seed)
            rows += [{**cell, **{name: row[name] for name in MEASURES}} for row in points]
    return rows


def here(run: Cell) -> Cell:
    """Return the cell that a run of the leap's page is of here."""
    return STUDY.cell(
        task="MovieReview",
        length=int(run.length),
        rule=run.rule,
        critic=run.critic,
        gae_lambda=run.gae_lambda,
        price=PRICE,
        step_size=run.rate,
    )


def config(run: Cell, out: Path) -> ComparisonConfig:
    """Return the comparison that a run is of."""
    del out
    learner = {**LEARNER, "kl_coef": float(run.price), "n_warmup_updates": WARMUP}
    return single_run(
        f"tokengym/{run.task}-v0",
        run.rule,
        steps=UPDATES,
        batch_size=ROWS,
        max_new_tokens=int(run.length),
        learning_rate=float(run.step_size),
        gae_lambda=float(run.gae_lambda),
        value_network=run.critic,
        **learner,
        evaluation=GRID,
    )


def arms_of(
    runs: Mapping[Cell, Mapping[int, Sequence[Row]]],
    where: tuple[str, int],
    prices: Sequence[float],
) -> dict[str, dict[str, dict[int, RunPath]]]:
    """Return the runs there are of each arm, by cell and seed.

    Args:
        runs: Cell -> seed -> measurements.
        where: Task and length.
        prices: Prices of the cells.
    """
    return {
        arm: {
            repr(cell): {seed: path_of(points) for seed, points in runs[cell].items()}
            for price in prices
            for cell in cells(*where, arm, price)
            if len(runs.get(cell, {})) > 1
        }
        for arm in ARMS
    }


def study_table(runs: Mapping[Cell, Mapping[int, Sequence[Row]]]) -> str:
    """Return every arm minus `sparse` at equal KL, over all cells and over those at one price.

    Args:
        runs: Cell -> seed -> measurements.
    """
    lines = []
    for where in WHERE:
        for prices in (PRICES, *((price,) for price in sorted(PRICES))):
            arms = arms_of(runs, where, prices)
            base, *others = arms
            for arm in others:
                seeds = shared_seeds(arms[arm], arms[base])
                if len(seeds) < 2:
                    continue
                there = [f"{len(arms[a])} of {len(prices) * CELLS}" for a in (arm, base)]
                for measure in ("score", "gold_score"):
                    found = compare_at_kl(
                        arms[arm], arms[base], KL_LEVELS, measure=measure, resamples=1
                    )
                    at = {each.kl: each.difference for each in found}
                    shown = [
                        f"{number(at[k].difference)} ({number(at[k].low)} to {number(at[k].high)})"
                        if k in at
                        else "\u2013"
                        for k in KL_LEVELS
                    ]
                    label = "all" if len(prices) > 1 else f"{prices[0]:g}"
                    about = [f"{where[0]}, {where[1]}", label, arm, measure]
                    lines.append([*about, *shown, *there, str(len(seeds))])
    heads = ["task, tokens", "prices", "arm", "measure", *(f"{k:g} nats" for k in KL_LEVELS)]
    return markdown_table([*heads, "cells", "cells of `sparse`", "pairs"], lines)


def shared_seeds(*arms: Mapping[str, Mapping[int, RunPath]]) -> list[int]:
    """Return the seeds that all cells of some arms have."""
    of_cells = [set(cell) for arm in arms for cell in arm.values()]
    return sorted(set.intersection(*of_cells)) if all(arms) else []


def price_table(runs: Mapping[Cell, Mapping[int, Sequence[Row]]]) -> str:
    """Return every arm minus `sparse` at each price: over the run and at the end.

    Each seed's cell is the one with the most score - c KL over the run on the other seeds, at the
    price that it was trained with.

    Args:
        runs: Cell -> seed -> measurements.
    """
    lines = []
    for where in WHERE:
        for price in sorted(PRICES):
            arms = arms_of(runs, where, (price,))
            base, *others = arms
            for arm in others:
                if len(seeds := shared_seeds(arms[arm], arms[base])) < 2:
                    continue
                one, other = (
                    [tuned(arms[a], seeds, measure, price) for measure in figures_at(price)]
                    for a in (arm, base)
                )
                figures = [paired_text(x, y) for x, y in zip(one, other, strict=True)]
                there = [f"{len(arms[a])} of {CELLS}" for a in (arm, base)]
                about = [f"{where[0]}, {where[1]}", f"{price:g}", arm]
                lines.append([*about, *figures, *there, str(len(seeds))])
    heads = ["score - c KL over the run", "score over it", "KL over it"]
    heads += ["score in the last tenth", "gold in it", "KL in it"]
    heads += ["cells", "cells of `sparse`", "pairs"]
    return markdown_table(["task, tokens", "price", "arm", *heads], lines)


def figures_at(price: float) -> list[Callable[[RunPath], float]]:
    """Return what is shown of a run at a price."""
    net_over: Callable[[RunPath], float] = partial(net_of, price=price)
    return [net_over, *PARTS]


def tuned(
    arm: Mapping[str, Mapping[int, RunPath]],
    seeds: Sequence[int],
    figure: Callable[[RunPath], float],
    price: float,
) -> NDArray[np.float64]:
    """Return an arm's figure by seed, of the cell that does best on the others."""
    values, nets = (
        [[of(cell[seed]) for seed in seeds] for cell in arm.values()]
        for of in (figure, partial(net_of, price=price))
    )
    return tuned_on_others(values, nets)


def line_of(
    arm: Mapping[str, Mapping[int, RunPath]],
    seeds: Sequence[int],
    levels: Sequence[float],
    measure: str,
) -> list[float]:
    """Return an arm's frontier: its mean over seeds at each KL, NaN where a run is not known.

    Args:
        arm: Runs by cell and seed.
        seeds: Those that count.
        levels: KL, nats.
        measure: Score or gold score; the cells are chosen by the score.
    """
    cells_ = {name: {seed: runs[seed] for seed in seeds} for name, runs in arm.items()}
    # Against itself: its own runs alone say how far its frontier goes.
    found = compare_at_kl(cells_, cells_, levels, measure=measure, resamples=1)
    values = {each.kl: each.value for each in found}
    return [values.get(float(kl), np.nan) for kl in levels]


def draw_study(file: Path, runs: Mapping[Cell, Mapping[int, Sequence[Row]]]) -> None:
    """Draw each arm's frontier, score and gold over KL: over all its cells, at all prices.

    Args:
        file: Picture to write.
        runs: Cell -> seed -> measurements.
    """
    from matplotlib.figure import Figure

    levels = np.geomspace(0.5, 32, 97).tolist()
    by_setting = {where: arms_of(runs, where, PRICES) for where in WHERE}
    drawn = {where: arms for where, arms in by_setting.items() if all(arms.values())}
    figure = Figure(figsize=(1 + 4.6 * len(drawn), 7), layout="constrained")
    panels = figure.subplots(2, len(drawn), sharex=True, squeeze=False)
    for column, ((of_task, length), arms) in zip(panels.T, drawn.items(), strict=True):
        seeds = shared_seeds(*arms.values())
        for axis, measure in zip(column, ("score", "gold_score"), strict=True):
            for color, (name, arm) in zip(COLORS, arms.items(), strict=False):
                line = line_of(arm, seeds, levels, measure)
                axis.plot(levels, line, color=color, linewidth=1.8, label=name.replace("`", ""))
            axis.grid(alpha=0.3)
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_formatter("{x:g}")
        there = sorted({len(arm) for arm in arms.values()})
        counts = f"{len(seeds)} seeds, {' or '.join(map(str, there))} cells an arm"
        column[0].set_title(f"{of_task}, {length} tokens, {counts}", fontsize=9)
        column[1].set_xlabel("KL to the untrained policy, nats")
    panels[0, 0].set_ylabel("score")
    panels[1, 0].set_ylabel("gold score")
    handles = panels[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=len(ARMS), fontsize=10)
    figure.savefig(file, dpi=110, metadata={"Software": None})


def counts_text(runs: Mapping[Cell, Mapping[int, Sequence[Row]]]) -> str:
    """Return how many of the declared runs there are, and which."""
    wanted = [
        (cell, seed)
        for where in WHERE
        for price in PRICES
        for arm in ARMS
        for cell in cells(*where, arm, price)
        for seed in range(PAIRS)
    ]
    made = [(cell, seed) for cell, seed in wanted if seed in runs.get(cell, {})]
    whole = {cell for cell, _ in made if len(runs[cell]) >= PAIRS}
    return (
        f"So far {len(made)} of {len(wanted)} runs: {len({cell for cell, _ in made})} of "
        f"{len({cell for cell, _ in wanted})} cells, {len(whole)} of them with all {PAIRS} pairs."
    )


def tables(published: Published) -> dict[str, str]:
    """Return the page's tables by name."""
    docs = published.folder.parent
    return {
        "published": published_table(docs),
        "leaps": leaps_table(docs),
        "speeds": speeds_table(docs),
        "so far": counts_text(published.runs.runs),
        "prices": price_table(published.runs.runs),
        "study": study_table(published.runs.runs),
    }


def pictures(published: Published) -> None:
    """Draw the page's pictures."""
    published.folder.mkdir(exist_ok=True)
    draw(published.folder / "published.png", published.folder.parent)
    draw_study(published.folder / "study.png", published.runs.runs)


STUDY = Study(
    document="details/frontier.md",
    folder="frontier",
    axes={
        "task": str,
        "rule": str,
        "gae_lambda": str,
        "critic": "own",
        "length": int,
        "price": float,
        "step_size": float,
    },
    rounds=rounds,
    config=config,
    beside=beside,
    tables=tables,
    pictures=pictures,
    first_rate=None,
)

if __name__ == "__main__":
    STUDY.command_line(__doc__)
