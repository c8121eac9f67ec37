"""How much of the speed of token credit is rate, lambda or density? Fills film_reviews.md.

PPO on the bundled film reviews of 24, 48 and 96 tokens: `sparse`, two controls, `abc-signed`, and
`sparse` with a critic that starts from the reward model, each at four lambdas and three rates, all
with a rate that warms up. film_reviews/expectations.txt says which cells a pilot drops.

    python -m studies.one_grid run --out runs/grid [--until 22:00] [--part 0/2]
    python -m studies.one_grid publish --out runs/grid    # fills the page
    python -m studies.one_grid page
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from studies.token_credit import ENV, LENGTHS, ROWS, UPDATES, WARMUP, WAYS
from tokengym import Comparison
from tokengym.evaluation.report import signed
from tokengym.evaluation.statistics import (
    FASTER_AT,
    SHARES,
    paired_difference,
    steps_to_shares,
)
from tokengym.lab.protocol import GRID, LEARNER, chosen_on_others, curve_of, net_area, way
from tokengym.lab.study import NET, Cell, Published, Round, Row, Runs, Study, read_rows, single_run
from tokengym.lab.tables import (
    Speed,
    after_holm,
    markdown_table,
    mean,
    speed_of,
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
"""Lengths and rates that a pilot dropped, by the rules of film_reviews/expectations.txt."""


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
GOLD, PARTS = "gold at the end", ("score", "KL, nats")
FIGURES: dict[str, Callable[[Sequence[Row]], float]] = {
    NET: net_area,
    GOLD: lambda points: curve_of(points).end("gold_score"),
    PARTS[0]: lambda points: curve_of(points).area("score"),
    PARTS[1]: lambda points: curve_of(points).area("kl"),
}
"""What is told of a run, over the run but for gold; the first decides."""
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


def span_of(speeds: Sequence[Speed]) -> str:
    """Return the least and the most of speeds; one number where both are printed alike."""
    ends = (pick(at.times for at in speeds) for pick in (min, max))
    return " to ".join(dict.fromkeys(f"{times:.1f}" for times in ends))


def against_sparse(
    runs: Runs, name: str, length: int, at: Way, seeds: tuple[int, ...]
) -> dict[str, tuple[list[float], list[float]]]:
    """Return each of `FIGURES` of an arm and of `sparse`, by the seeds.

    Both are at the cell that does best by score - c KL on the other seeds.

    Args:
        runs: Runs of the study.
        name: The arm.
        length: Tokens.
        at: The way.
        seeds: Seeds with every cell.
    """
    own, base = (
        [
            runs.runs[cell][seed]
            for cell, seed in zip(
                chosen_cells(runs, of, length, at, seeds)[f"chosen by {NET}"], seeds, strict=True
            )
        ]
        for of in (name, BASE)
    )
    return {
        what: ([figure(points) for points in own], [figure(points) for points in base])
        for what, figure in FIGURES.items()
    }


def corrected(runs: Runs, by_length: Mapping[int, Way], what: str) -> dict[tuple[int, str], str]:
    """Return a figure of each arm minus that of `sparse`, bold where clear after Holm's correction.

    Args:
        runs: Runs of the study.
        by_length: The way of each length.
        what: One of `FIGURES`, over whose differences, all arms and lengths, is corrected.
    """
    pairs = {
        (length, name): against_sparse(runs, name, length, by_length[length], seeds)[what]
        for length, seeds in whole(runs).items()
        for name in (*CREDITED, *CONTROLS)
    }
    leads = {place: paired_difference(*both) for place, both in pairs.items()}
    return after_holm(leads, with_wins=False)


def leads_table(runs: Runs, by_length: Mapping[int, Way]) -> str:
    """Return each arm's score - c KL over the run minus that of `sparse`, with its interval.

    Args:
        runs: Runs of the study.
        by_length: The way of each length.
    """
    lengths, leads = whole(runs), corrected(runs, by_length, NET)
    lines = [
        [title(name), *(leads[length, name] for length in lengths)]
        for name in (*CREDITED, *CONTROLS)
    ]
    return markdown_table(["arm", *(f"{length} tokens" for length in lengths)], lines)


def grid_table(runs: Runs, by_length: Mapping[int, Way]) -> str:
    """Return each arm minus `sparse` by `FIGURES`, and its least and most speed by the four ways.

    Beside the speeds stands how many of the four intervals are above 1.

    Args:
        runs: Runs of the study.
        by_length: The way of each length.
    """
    lines = []
    net, gold = (corrected(runs, by_length, what) for what in (NET, GOLD))
    for (length, name), lead in net.items():
        at, seeds = by_length[length], whole(runs)[length]
        both = against_sparse(runs, name, length, at, seeds)
        parts = [signed(mean(both[what][0]) - mean(both[what][1])) for what in PARTS]
        speeds = four_ways(runs, name, length, at, seeds)
        above = sum(each.is_faster for each in speeds)
        speed = f"{span_of(speeds)}; {above} of {len(speeds)}"
        shown = "critic" if name == "critic" else title(name)
        lines.append([str(length), shown, lead, gold[length, name], *parts, speed])
    return markdown_table(["tokens", "arm", *FIGURES, "times as fast"], lines)


def where_fast(points: Sequence[Row], at: Way, measure: str) -> float:
    """Return a measurement of a run where it has made 75 % of the way; its last if it never does.

    Args:
        points: The run.
        at: The way.
        measure: "kl" or "gold_score".
    """
    steps, values = ([float(point[name]) for point in points] for name in ("step", measure))
    return float(np.interp(steps_of(points, at), steps, values))


def tables(published: Published) -> dict[str, str]:
    """Return the page's tables by name."""
    runs, by_length = published.runs, ways(published.folder.parent)
    return {"grid": grid_table(runs, by_length)}


COLORS = dict(zip(ARMS, ("#56616f", "#56b4e9", "#0072b2", "#d55e00", "#e69f00"), strict=True))


def draw(published: Published) -> None:
    """Draw each arm's score - c KL minus that of `sparse`, a panel for each whole length."""
    from matplotlib.figure import Figure

    by_length, lengths = ways(published.folder.parent), whole(published.runs)
    if not lengths:
        return
    figure = Figure(figsize=(4 * len(lengths), 2.4), layout="constrained")
    names = (*CREDITED, *CONTROLS)
    panels = figure.subplots(1, len(lengths), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (length, seeds) in zip(panels, lengths.items(), strict=True):
        for row, name in enumerate(names):
            both = against_sparse(published.runs, name, length, by_length[length], seeds)[NET]
            lead = paired_difference(*both)
            axes.plot([lead.low, lead.high], [row, row], color=COLORS[name], linewidth=2)
            axes.plot(lead.difference, row, "o", color=COLORS[name], markersize=6)
        axes.axvline(0.0, color=COLORS[BASE], linewidth=1, linestyle="--")
        axes.set(title=f"{length} tokens", xlabel=f"{NET}, minus that of sparse")
        axes.spines[["top", "right"]].set_visible(False)
    labels = ["sparse, critic from\nthe reward model" if at == "critic" else at for at in names]
    panels[0].set_yticks(range(len(names)), labels=labels)
    panels[0].invert_yaxis()
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
