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

from studies.parts import FIGURES, GOLD, SPEED, Points, lead, leads, speed, speed_of
from studies.token_credit import ENV, LENGTHS, ROWS, UPDATES, WARMUP, WAYS
from tokengym import Comparison
from tokengym.evaluation.statistics import (
    FASTER_AT,
    RelativeSteps,
    steps_to_threshold,
)
from tokengym.lab.protocol import GRID, LEARNER, chosen_on_others, curve_of, net_area, way
from tokengym.lab.study import NET, Cell, Published, Round, Row, Runs, Study, read_rows, single_run
from tokengym.lab.tables import markdown_table

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
WAYS_TO_CHOOSE = (*(f"chosen by {name}" for name in CRITERIA), "both at the cell of `sparse`")
BY_NET = f"chosen by {NET}"
"""The one by which cells are compared."""


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
    level = at.start + FASTER_AT * (at.goal - at.start)
    return float(min(steps_to_threshold(steps, scores, level, interpolate=True), steps[-1]))


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


def short(name: str) -> str:
    """Return an arm in a word; *critic* is `sparse` with that from the reward model."""
    return name if name == "critic" else f"`{name}`"


def picked(
    runs: Runs, cells: Sequence[Cell], criterion: Criterion, at: Way, seeds: Sequence[int]
) -> list[Cell]:
    """Return for each seed the cell that a criterion chooses on the other seeds."""
    figures = [[criterion(runs.runs[cell][seed], at) for seed in seeds] for cell in cells]
    return [*chosen_on_others(cells, seeds, figures).values()]


def four_ways(
    runs: Runs, name: str, length: int, at: Way, seeds: tuple[int, ...], base: str = BASE
) -> dict[str, RelativeSteps | None]:
    """Return an arm's speed against another by each way of choosing the cells.

    Args:
        runs: Runs of the study.
        name: The arm.
        length: Tokens.
        at: The way.
        seeds: Seeds with every cell.
        base: What it is against.
    """
    own, its = (chosen_runs(runs, of, length, at, seeds) for of in (name, base))
    return {how: speed_of(own[how], its[how]) for how in WAYS_TO_CHOOSE}


def chosen_runs(
    runs: Runs, name: str, length: int, at: Way, seeds: tuple[int, ...]
) -> dict[str, Points]:
    """Return an arm's runs at the cells of `chosen_cells`, by way of choosing."""
    return {
        how: {seed: runs.runs[cell][seed] for cell, seed in zip(cells, seeds, strict=True)}
        for how, cells in chosen_cells(runs, name, length, at, seeds).items()
    }


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


def against_sparse(
    runs: Runs, by_length: Mapping[int, Way]
) -> dict[tuple[int, str], tuple[Points, Points]]:
    """Return by length and arm its runs and those of `sparse`.

    Both are at the cell that does best by score - c KL on the other seeds.
    """
    return {
        (length, name): (
            chosen_runs(runs, name, length, by_length[length], seeds)[BY_NET],
            chosen_runs(runs, BASE, length, by_length[length], seeds)[BY_NET],
        )
        for length, seeds in whole(runs).items()
        for name in (*CREDITED, *CONTROLS)
    }


def leads_table(runs: Runs, by_length: Mapping[int, Way]) -> str:
    """Return each arm's score - c KL over the run minus that of `sparse`, with its interval."""
    texts = leads(against_sparse(runs, by_length))
    lengths = [*whole(runs)]
    lines = [
        [title(name), *(texts[length, name][0] for length in lengths)]
        for name in (*CREDITED, *CONTROLS)
    ]
    return markdown_table(["arm", *(f"{length} tokens" for length in lengths)], lines)


def grid_table(runs: Runs, by_length: Mapping[int, Way]) -> str:
    """Return each arm's `leads` on `sparse`, and its speed."""
    pairs = against_sparse(runs, by_length)
    lines = [
        [str(length), short(name), *texts, *speed(*pairs[length, name])]
        for (length, name), texts in leads(pairs, ends=(NET, GOLD)).items()
    ]
    return markdown_table(["tokens", "arm", *FIGURES, *SPEED], lines)


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
    pairs = against_sparse(published.runs, by_length)
    for axes, length in zip(panels, lengths, strict=True):
        for row, name in enumerate(names):
            net = lead(*pairs[length, name])
            axes.plot([net.low, net.high], [row, row], color=COLORS[name], linewidth=2)
            axes.plot(net.difference, row, "o", color=COLORS[name], markersize=6)
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
