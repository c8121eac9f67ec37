"""How much of the speed of token credit is rate, lambda or density? Fills film_reviews.md.

PPO on the bundled film reviews of 24, 48 and 96 tokens: `sparse`, two controls, `abc-signed`, and
`sparse` with a critic that starts from the reward model, each at four lambdas and three rates, all
with a rate that warms up. The page says which cells a pilot drops.

    python -m studies.one_grid run --out runs/grid [--until 22:00] [--part 0/2]
    python -m studies.one_grid publish --out runs/grid    # fills the page
    python -m studies.one_grid page
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from studies.token_credit import ENV, LENGTHS, ROWS, UPDATES, WARMUP, WAYS
from tokengym import Comparison
from tokengym.evaluation.report import number
from tokengym.evaluation.statistics import (
    FASTER_AT,
    SHARES,
    steps_to_shares,
)
from tokengym.lab.protocol import GRID, LEARNER, chosen_on_others, curve_of, net_area, way
from tokengym.lab.study import NET, Cell, Published, Round, Row, Runs, Study, read_rows, single_run
from tokengym.lab.tables import (
    NONE,
    Speed,
    bound_of,
    markdown_table,
    mean,
    speed_of,
    times_as_fast,
)

ARMS: dict[str, dict[str, str]] = {
    "sparse": {"rule": "sparse"},
    "uniform": {"rule": "uniform"},
    "random": {"rule": "random"},
    "abc-signed": {"rule": "abc-signed"},
    "critic": {"rule": "sparse", "critic": "reward_model"},
}
"""Arm -> its cell's values; the first is the baseline."""
BASE = next(iter(ARMS))
CONTROLS = ("uniform", "random")
"""Arms that spread the score without a look at the text."""
CREDITED = tuple(name for name in ARMS if name not in (BASE, *CONTROLS))
"""Arms whose speed is the question."""
LAMBDAS = ("0.5", "0.8", "0.95", "1")
LEARNING_RATES = (3e-4, 1e-3, 3e-3)
PILOT, SEEDS = 19, range(20, 25)
"""Seed that may drop cells and stands behind no figure, and those of the grid: no earlier page has
them."""
DROPPED: frozenset[tuple[int, float]] = frozenset({(48, 3e-4)})
"""Lengths and rates that a pilot dropped, see the rules on the page."""


class Way(NamedTuple):
    """Where the way from the untrained policy to its best of 16 begins and ends, by score."""

    start: float
    goal: float


Criterion = Callable[[Sequence[Row], Way], float]
CRITERIA: dict[str, Criterion] = {
    "updates to 75 % of the way": lambda points, at: -steps_of(points, at),
    "score over the run": lambda points, at: curve_of(points).area("score"),
    NET: lambda points, at: net_area(points),
}
"""What a cell is chosen by, on the other seeds: larger is better."""
WAYS_TO_CHOOSE = (*(f"chosen by {name}" for name in CRITERIA), "both at the cell of `sparse`")


def cells(length: int, name: str) -> list[Cell]:
    """Return the cells of an arm at a length."""
    return [
        STUDY.cell(**ARMS[name], gae_lambda=at, length=length, learning_rate=rate)
        for at, rate in product(LAMBDAS, LEARNING_RATES)
    ]


def kept(length: int, name: str) -> list[Cell]:
    """Return those that the pilot did not drop."""
    return [at for at in cells(length, name) if (length, at.learning_rate) not in DROPPED]


def rounds() -> Iterator[Round]:
    """Yield the cells and the seeds wanted of them, in the order in which they are needed.

    First the pilot of a length, then its seeds one by one, so that each is a whole grid.
    """
    for length in LENGTHS:
        yield [cell for name in ARMS for cell in cells(length, name)], (PILOT,)
        for seed in SEEDS:
            yield [cell for name in ARMS for cell in kept(length, name)], (seed,)


def config(run: Cell, out: Path) -> Comparison:
    """Return the comparison that a run is of."""
    del out
    return single_run(
        ENV,
        run.rule,
        updates=UPDATES,
        batch_size=ROWS,
        max_new_tokens=int(run.length),
        learning_rate=run.learning_rate,
        gae_lambda=float(run.gae_lambda),
        value_network=run.critic,
        n_warmup_updates=WARMUP,
        **LEARNER,
        evaluation=GRID,
        stream="run",
    )


# --- page -----------------------------------------------------------------------------------------


def steps_of(points: Sequence[Row], at: Way) -> float:
    """Return the updates of a run to 75 % of the way by score; its last if it never arrives."""
    steps, scores = ([point[name] for point in points] for name in ("step", "score"))
    (reached,) = steps_to_shares(steps, [scores], *at)[SHARES.index(FASTER_AT)]
    return float(min(reached, steps[-1]))


def mean_steps(runs: Sequence[Sequence[Row]], at: Way) -> float:
    """Return the geometric mean of the updates of runs to 75 % of the way."""
    return float(np.exp(mean([np.log(steps_of(points, at)) for points in runs])))


def ways(docs: Path) -> dict[int, Way]:
    """Return the way of each length, from the file of the page's first study."""
    drawn = read_rows(docs / "film_reviews" / WAYS, text=())
    return {
        length: Way(*way([row for row in drawn if row["length"] == length], _score))
        for length in LENGTHS
    }


def _score(row: Row) -> float:
    return float(row["score"])


def complete(runs: Runs, length: int) -> tuple[int, ...]:
    """Return the seeds of a length with every cell that was kept."""
    wanted = [cell for name in ARMS for cell in kept(length, name)]
    return tuple(seed for seed in SEEDS if all(seed in runs.runs.get(cell, {}) for cell in wanted))


def whole(runs: Runs) -> dict[int, tuple[int, ...]]:
    """Return the lengths that a speed can be read of, with their seeds: two or more are needed."""
    seeds = {length: complete(runs, length) for length in LENGTHS}
    return {length: of for length, of in seeds.items() if len(of) > 1}


def so_far(runs: Runs) -> str:
    """Return how many of the runs there are."""
    lines = []
    for length in LENGTHS:
        pilot = sum(PILOT in runs.runs.get(at, {}) for name in ARMS for at in cells(length, name))
        wanted = [cell for name in ARMS for cell in kept(length, name)]
        count = sum(len({*SEEDS} & runs.runs.get(cell, {}).keys()) for cell in wanted)
        of_pilot = len(ARMS) * len(LAMBDAS) * len(LEARNING_RATES)
        seeds = f"{count} of {len(wanted) * len(SEEDS)}"
        lines.append(
            [str(length), f"{pilot} of {of_pilot}", seeds, str(len(complete(runs, length)))]
        )
    return markdown_table(["tokens", "runs of the pilot", "runs of the grid", "whole seeds"], lines)


def pilot_table(runs: Runs, by_length: Mapping[int, Way]) -> str:
    """Return of each cell of the pilot: updates to 75 %, score and score - c KL over the run."""
    lines = []
    for length, name, at in product(LENGTHS, ARMS, LAMBDAS):
        line = [str(length), title(name), at]
        for cell in cells(length, name):
            if cell.gae_lambda != at:
                continue
            points = runs.runs.get(cell, {}).get(PILOT)
            if points is None:
                line.append(NONE)
                continue
            goal = by_length[length]
            steps = number(steps_of(points, goal))
            areas = [number(CRITERIA[c](points, goal)) for c in [*CRITERIA][1:]]
            line.append(f"{steps}; {'; '.join(areas)}")
        if line[3:] != [NONE] * len(LEARNING_RATES):
            lines.append(line)
    return markdown_table(["tokens", "arm", "lambda", *(f"{r:g}" for r in LEARNING_RATES)], lines)


def worst_in(runs: Runs, length: int, at: Way) -> dict[float, int]:
    """Return in how many of the pilot's pairs of arm and lambda a rate is worst by all criteria."""
    worst = dict.fromkeys(LEARNING_RATES, 0)
    for name, gae_lambda in product(ARMS, LAMBDAS):
        of_rates = {
            cell.learning_rate: [
                criterion(runs.runs[cell][PILOT], at) for criterion in CRITERIA.values()
            ]
            for cell in cells(length, name)
            if cell.gae_lambda == gae_lambda
        }
        lowest = [min(figures) for figures in zip(*of_rates.values(), strict=True)]
        for rate, figures in of_rates.items():
            worst[rate] += figures == lowest
    return worst


def best_in(runs: Runs, length: int, at: Way) -> dict[float, int]:
    """Return how many of the pilot's pairs of arm and criterion are best at each rate."""
    best = dict.fromkeys(LEARNING_RATES, 0)
    for name, criterion in product(ARMS, CRITERIA.values()):
        first = max(cells(length, name), key=lambda cell: criterion(runs.runs[cell][PILOT], at))
        best[first.learning_rate] += 1
    return best


Counts = dict[int, dict[float, tuple[int, int]]]


def to_drop(runs: Runs, by_length: Mapping[int, Way]) -> Counts:
    """Return `worst_in` and `best_in` of each length whose pilot is whole.

    The page's rules drop a rate with all of the first, and at 48 and 96 tokens with none of the
    second.

    Args:
        runs: Runs of the study.
        by_length: The way of each length.
    """
    whole = [
        length
        for length in by_length
        if all(PILOT in runs.runs.get(at, {}) for name in ARMS for at in cells(length, name))
    ]
    both: Counts = {}
    for length in whole:
        worst, best = (of(runs, length, by_length[length]) for of in (worst_in, best_in))
        both[length] = {rate: (worst[rate], best[rate]) for rate in LEARNING_RATES}
    return both


def drop_table(runs: Runs, by_length: Mapping[int, Way]) -> str:
    """Return in how many pairs of the pilot a rate is worst and best, and if it is dropped."""
    pairs, firsts = len(ARMS) * len(LAMBDAS), len(ARMS) * len(CRITERIA)
    lines = [
        [
            str(length),
            f"{rate:g}",
            f"{worst} of {pairs}",
            f"{best} of {firsts}",
            "yes" if (length, rate) in DROPPED else "no",
        ]
        for length, of_rates in to_drop(runs, by_length).items()
        for rate, (worst, best) in of_rates.items()
    ]
    head = ["tokens", "rate", "worst by all three in", "an arm's best by one of them in", "dropped"]
    return markdown_table(head, lines)


def title(name: str) -> str:
    """Return an arm in words."""
    return "`sparse`, critic from the reward model" if name == "critic" else f"`{name}`"


def picked(
    runs: Runs, cells: Sequence[Cell], criterion: Criterion, at: Way, seeds: Sequence[int]
) -> list[Cell]:
    """Return for each seed the cell that a criterion chooses on the other seeds."""
    figures = [[criterion(runs.runs[cell][seed], at) for seed in seeds] for cell in cells]
    return [*chosen_on_others(cells, seeds, figures).values()]


def times(
    runs: Runs, own: Sequence[Cell], base: Sequence[Cell], at: Way, seeds: Sequence[int]
) -> Speed:
    """Return how many times as fast as others cells are, geometric mean of pairs by seed.

    Args:
        runs: Runs of the study.
        own: The cell of each seed.
        base: That of the baseline.
        at: The way.
        seeds: The seeds.
    """
    one, other = (
        np.array(
            [steps_of(runs.runs[cell][seed], at) for cell, seed in zip(of, seeds, strict=True)]
        )
        for of in (own, base)
    )
    return speed_of(one, other, UPDATES)


def four_ways(
    runs: Runs, name: str, length: int, at: Way, seeds: tuple[int, ...], base: str = BASE
) -> list[Speed]:
    """Return an arm's speed against another by each criterion, and both at the cell of `sparse`.

    Args:
        runs: Runs of the study.
        name: The arm.
        length: Tokens.
        at: The way.
        seeds: Seeds with every cell.
        base: What it is against.
    """
    mine, its = (chosen_cells(runs, of, length, at, seeds).values() for of in (name, base))
    return [times(runs, own, other, at, seeds) for own, other in zip(mine, its, strict=True)]


@cache
def chosen_cells(
    runs: Runs, name: str, length: int, at: Way, seeds: tuple[int, ...]
) -> dict[str, list[Cell]]:
    """Return of an arm by each way of choosing the cell of each seed, chosen on the others.

    Args:
        runs: Runs of the study.
        name: The arm.
        length: Tokens.
        at: The way.
        seeds: Seeds with every cell.
    """
    own, base = kept(length, name), kept(length, BASE)
    by_criterion = [picked(runs, own, criterion, at, seeds) for criterion in CRITERIA.values()]
    of_base = picked(runs, base, CRITERIA[NET], at, seeds)
    alike = [own[base.index(cell)] for cell in of_base]
    return dict(zip(WAYS_TO_CHOOSE, [*by_criterion, alike], strict=True))


def said(speeds: Sequence[Speed]) -> str | None:
    """Return the range of speeds, least to most; None unless every interval leaves out 1."""
    survives = all(at.is_faster for at in speeds) or all(at.is_slower for at in speeds)
    return span_of(speeds) if survives else None


def span_of(speeds: Sequence[Speed]) -> str:
    """Return the least and the most of speeds; one number where both are printed alike."""
    ends = (pick(at.times for at in speeds) for pick in (min, max))
    return " to ".join(dict.fromkeys(f"{times:.1f}" for times in ends))


def chosen_table(runs: Runs, by_length: Mapping[int, Way]) -> str:
    """Return each arm's speed against `sparse`, by chosen cells and at one rate and lambda."""
    lines = []
    for length, seeds in whole(runs).items():
        at = by_length[length]
        base, *others = ({name: kept(length, name) for name in ARMS}).items()
        for name, own in others:
            speeds = four_ways(runs, name, length, at, seeds)
            line = [str(length), title(name), *map(times_as_fast, speeds), said(speeds) or NONE]
            every = {
                cell: times(runs, [cell] * len(seeds), [other] * len(seeds), at, seeds)
                for cell, other in zip(own, base[1], strict=True)
            }
            known = [cell for cell, speed in every.items() if speed.is_known]
            ends = (pick(known, key=lambda cell: every[cell].times) for pick in (min, max))
            line.append(
                " to ".join(
                    f"{bound_of(every[cell])}{number(every[cell].times)} "
                    f"({cell.gae_lambda}, {cell.learning_rate:g})"
                    for cell in ends
                )
            )
            lines.append([*line, str(len(seeds))])
    head = ["tokens", "arm", *WAYS_TO_CHOOSE, "in all four"]
    return markdown_table([*head, "at one lambda and rate, least to most", "seeds"], lines)


def controls_table(runs: Runs, by_length: Mapping[int, Way]) -> str:
    """Return the speed against each control of the arms that are none, by chosen cells."""
    lines = []
    for length, seeds in whole(runs).items():
        at = by_length[length]
        for name, control in product(CREDITED, CONTROLS):
            speeds = four_ways(runs, name, length, at, seeds, control)
            about = [str(length), title(name), title(control)]
            lines.append([*about, *map(times_as_fast, speeds), said(speeds) or NONE])
    return markdown_table(["tokens", "arm", "control", *WAYS_TO_CHOOSE, "in all four"], lines)


def answer_table(runs: Runs, by_length: Mapping[int, Way]) -> str:
    """Return each arm's least and most speed by the four ways, and how many are clearly above 1."""
    lengths = whole(runs)
    of_base, of_controls = product((*CREDITED, *CONTROLS), (BASE,)), product(CREDITED, CONTROLS)
    lines = []
    for name, base in (*of_base, *of_controls):
        line = [title(name), title(base)]
        for length, seeds in lengths.items():
            speeds = four_ways(runs, name, length, by_length[length], seeds, base)
            above = sum(at.is_faster for at in speeds)
            line.append(f"{span_of(speeds)}; {above} of {len(speeds)}")
        lines.append(line)
    head = ["arm", "against", *(f"{length} tokens" for length in lengths)]
    return markdown_table(head, lines)


def spent_table(runs: Runs, by_length: Mapping[int, Way]) -> str:
    """Return the cells that each way chose, and what stands behind their speed: KL and gold."""
    lines = []
    for (length, seeds), name in product(whole(runs).items(), ARMS):
        at = by_length[length]
        for how, cells_of in chosen_cells(runs, name, length, at, seeds).items():
            of_seeds = [runs.runs[cell][seed] for cell, seed in zip(cells_of, seeds, strict=True)]
            curves = [*map(curve_of, of_seeds)]
            figures = [
                mean_steps(of_seeds, at),
                mean([kl_at(points, at) for points in of_seeds]),
                mean([curve.area("kl") for curve in curves]),
                mean([*map(net_area, of_seeds)]),
                mean([curve.end("gold_score") for curve in curves]),
            ]
            about = [str(length), title(name), how, cells_text(cells_of)]
            lines.append([*about, *map(number, figures)])
    head = ["tokens", "arm", "way", "lambda at rate, seeds", "updates to 75 %", "KL there"]
    head += ["KL over the run", "score - c KL over it", "gold in the last tenth"]
    return markdown_table(head, lines)


def kl_at(points: Sequence[Row], at: Way) -> float:
    """Return the KL of a run where it has made 75 % of the way; its last if it never does."""
    steps, kls = ([float(point[name]) for point in points] for name in ("step", "kl"))
    return float(np.interp(steps_of(points, at), steps, kls))


def cells_text(cells_of: Sequence[Cell]) -> str:
    """Return lambdas and rates, each once, with the number of seeds that have it."""
    return "; ".join(
        f"{cell.gae_lambda} at {cell.learning_rate:g}, {count}"
        for cell, count in Counter(cells_of).items()
    )


def cells_table(runs: Runs, by_length: Mapping[int, Way]) -> str:
    """Return the updates to 75 % of every cell, geometric means over the seeds made so far."""
    lines = []
    for length, name, at in product(LENGTHS, ARMS, LAMBDAS):
        line, any_run = [str(length), title(name), at], False
        for cell in cells(length, name):
            if cell.gae_lambda != at:
                continue
            made = [p for s, p in runs.runs.get(cell, {}).items() if s in SEEDS]
            any_run = any_run or bool(made)
            if not made:
                line.append(NONE)
                continue
            steps = mean_steps(made, by_length[length])
            net = mean([*map(net_area, made)])
            line.append(f"{number(steps)}; {number(net)}; {len(made)}")
        if any_run:
            lines.append(line)
    return markdown_table(["tokens", "arm", "lambda", *(f"{r:g}" for r in LEARNING_RATES)], lines)


def tables(published: Published) -> dict[str, str]:
    """Return the page's tables by name."""
    runs, by_length = published.runs, ways(published.folder.parent)
    return {
        "grid answer": answer_table(runs, by_length),
        "grid so far": so_far(runs),
        "grid": chosen_table(runs, by_length),
        "grid controls": controls_table(runs, by_length),
        "grid spent": spent_table(runs, by_length),
        "grid cells": cells_table(runs, by_length),
        "grid pilot": pilot_table(runs, by_length),
        "grid dropped": drop_table(runs, by_length),
    }


COLORS = dict(zip(ARMS, ("#56616f", "#56b4e9", "#0072b2", "#d55e00", "#e69f00"), strict=True))
MARKERS = dict(zip(WAYS_TO_CHOOSE, "osD^", strict=True))


def draw(published: Published) -> None:
    """Draw each arm's speed against `sparse` by the four ways, a panel for each whole length."""
    from matplotlib.figure import Figure

    by_length, lengths = ways(published.folder.parent), whole(published.runs)
    if not lengths:
        return
    figure = Figure(figsize=(5 * len(lengths), 3.6), layout="constrained")
    names = [*ARMS][1:]
    panels = figure.subplots(1, len(lengths), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (length, seeds) in zip(panels, lengths.items(), strict=True):
        for row, name in enumerate(names):
            speeds = four_ways(published.runs, name, length, by_length[length], seeds)
            for place, (way_to_choose, at) in enumerate(zip(WAYS_TO_CHOOSE, speeds, strict=True)):
                y = row + 0.15 * (place - 1.5)
                axes.plot([at.low, at.high], [y, y], color=COLORS[name], linewidth=1.5)
                axes.plot(at.times, y, MARKERS[way_to_choose], color=COLORS[name], markersize=5)
        axes.axvline(1.0, color=COLORS[BASE], linewidth=1, linestyle="--")
        axes.set(title=f"{length} tokens", xscale="log", xlabel="times as fast as sparse")
        axes.set_xticks([0.7, 1, 1.4, 2], labels=["0.7", "1", "1.4", "2"], minor=False)
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    labels = ["sparse, critic from\nthe reward model" if at == "critic" else at for at in names]
    panels[0].set_yticks(range(len(names)), labels=labels)
    panels[0].invert_yaxis()
    handles = [
        panels[0].plot([], [], marker, color=COLORS[BASE], label=way_to_choose.replace("`", ""))[0]
        for way_to_choose, marker in MARKERS.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8)
    figure.savefig(published.folder / "grid.png", dpi=110, metadata={"Software": None})


STUDY = Study(
    document="film_reviews.md",
    folder="film_reviews",
    runs="grid.csv",
    axes={"rule": str, "gae_lambda": str, "critic": "own", "length": int, "learning_rate": float},
    rounds=rounds,
    config=config,
    tables=tables,
    pictures=draw,
    first_rate=None,
    holm="table",
)

if __name__ == "__main__":
    STUDY.command_line(__doc__)
