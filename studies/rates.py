"""Would three spare seeds have chosen other learning rates than one did?

The rates behind the README's first two results and behind Detox were chosen on one spare seed,
where docs/results/protocol.md wants three. Each cell is swept again over all three, with a point
after every update.

    python -m studies.rates run --out runs/rates [--until 22:00] [--part 0/2]
    python -m studies.rates publish --out runs/rates    # fills the page
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from studies import critic, ledger_cells, ledger_fine, other_tasks
from tokengym import ComparisonConfig
from tokengym.evaluation.report import number, signed
from tokengym.lab.protocol import MEASURES, SPARE_SEED, SPARE_SEEDS, best_rate, net_area, way
from tokengym.lab.study import Cell, Published, Round, Row, Runs, Study, read_rows, run_of
from tokengym.lab.tables import NONE, NOT_YET, critic_text, markdown_table, mean

FILMS, DETOX = "MovieReview", "Detox"
AXES = {"task": str, "length": int, "rule": str, "gae_lambda": str, "critic": "own"}
DETOX_RULES = {"sparse": "0.95", "abc-signed": "0.95", "uniform": "0.95", "random": "0.95"}
"""Rules and lambdas behind the README's sentence on Detox."""
STARTED = "reward model"
"""A critic that starts from the reward model, in the words of `ledger_cells.CRITICS`."""


def cells() -> list[Cell]:
    """Return the cells that are swept again, those of the README's first result first."""
    films = [
        STUDY.cell(task=FILMS, length=length, rule=rule, gae_lambda=at, critic=value_network)
        for length in (48, 96, 24)
        for rule, at, value_network in (
            ("sparse", ledger_fine.SPARSE_LAMBDAS[length], "own"),
            ("abc-signed", ledger_fine.OTHERS["abc-signed"], "own"),
            ("sparse", critic.BETWEEN, STARTED),
        )
    ]
    detox = [
        STUDY.cell(task=DETOX, length=other_tasks.TASKS[DETOX], rule=rule, gae_lambda=at)
        for rule, at in DETOX_RULES.items()
    ]
    return films + detox


def rounds() -> Iterator[Round]:
    """Yield the cells, which are swept and not run on other seeds."""
    yield cells(), ()


def published_cell(cell: Cell) -> Cell:
    """Return the cell under the axes of the page that quotes it."""
    if cell.task == FILMS:
        return ledger_cells.make_cell(**cell.without("task"))
    return other_tasks.STUDY.cell(task=cell.task, rule=cell.rule, gae_lambda=cell.gae_lambda)


def config(run: Cell, out: Path) -> ComparisonConfig:
    """Return the comparison that a run is of, that of the page that quotes its cell."""
    cell = run.without("rate", "seed")
    quoted = published_cell(cell).but(rate=run.rate)
    if run.task == FILMS:
        return ledger_fine.AT_EVERY_UPDATE(quoted, out)
    return other_tasks.config(quoted, out)


def beside(docs: Path) -> list[Row]:
    """Return the runs of the first spare seed that other pages publish on the same grid."""
    found: list[Row] = []
    for study in (critic.STUDY, other_tasks.STUDY):
        rows = study.read(docs / study.folder / study.runs)
        for cell in cells():
            quoted = published_cell(cell)
            if set(quoted) != set(study.axes):
                continue
            same = (r for r in rows if r["seed"] == SPARE_SEED and run_of(r, study.axes) == quoted)
            kept = ("rate", "seed", *MEASURES)  # the other page has axes of its own
            found += [{**cell, **{name: row[name] for name in kept}} for row in same]
    return found


# --- page -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Readings:
    """The sweeps, the rates that are quoted, and how long the ways are."""

    runs: Runs
    quoted: dict[Cell, float]
    """Cell -> the rate that its page took."""
    ways: dict[tuple[str, int], float]
    """Task and length -> the way from the untrained policy to its best of 16, score - c KL."""


def readings(published: Published) -> Readings:
    """Return the sweeps beside what the other pages took."""
    docs = published.folder.parent
    pages = {
        FILMS: critic.STUDY.published(docs).runs,
        DETOX: other_tasks.STUDY.published(docs).runs,
    }
    films = read_rows(docs / ledger_cells.FOLDER / ledger_cells.WAYS, text=())
    drawn = other_tasks.STUDY.published(docs).drawn[other_tasks.LINES]
    ways = {
        (FILMS, length): way(row for row in films if row["length"] == length)
        for length in ledger_fine.SPARSE_LAMBDAS
    }
    ways[DETOX, other_tasks.TASKS[DETOX]] = other_tasks.ways(drawn)[DETOX]
    return Readings(
        runs=published.runs,
        quoted={cell: pages[cell.task].rate(published_cell(cell)) for cell in cells()},
        ways={where: goal - start for where, (start, goal) in ways.items()},
    )


def name(cell: Cell) -> str:
    """Return a cell's rule, lambda and critic."""
    return f"`{cell.rule}`, lambda {cell.gae_lambda}{critic_text(cell.critic)}"


def complete_sweep(runs: Runs, cell: Cell) -> dict[float, list[float]]:
    """Return what each rate has reached on each spare seed, of rates that all have run."""
    by_rate: dict[float, list[float]] = {}
    for run, points in sorted(runs.each.items(), key=lambda item: item[0].seed):
        if run.without("rate", "seed") == cell:
            by_rate.setdefault(run.rate, []).append(net_area(points, runs.price))
    return {rate: areas for rate, areas in by_rate.items() if len(areas) == len(SPARE_SEEDS)}


def choices_table(read: Readings) -> str:
    """Return the rate that each cell took, the one of three seeds, and what lies between them."""
    rows = []
    for cell in cells():
        sweep, took = complete_sweep(read.runs, cell), read.quoted[cell]
        means = {rate: mean(areas) for rate, areas in sweep.items()}
        line = [cell.task, f"{cell.length}", name(cell), f"{took:g}"]
        best = best_rate(means)
        if best is None or took not in means:  # the sweep has not ended
            rows.append([*line, *[NONE] * 4])
            continue
        apart = means[best] - means[took]
        other = max((rate for rate in means if rate != best), key=lambda rate: means[rate])
        agree = sum(max(sweep, key=lambda rate: sweep[rate][seed]) == best for seed in range(3))
        of_way = f"{100 * apart / read.ways[cell.task, int(cell.length)]:.1f} %"
        lost = NONE if best == took else f"{signed(apart)} ({of_way} of the way)"
        line += [f"{best:g}", lost, f"{agree} of {len(SPARE_SEEDS)}"]
        rows.append([*line, f"{number(means[best] - means[other])}, {other:g}"])
    head = ["task", "tokens", "rule", "rate taken", "best rate on three seeds"]
    head += ["loss from the rate taken"]
    return markdown_table(
        [*head, "seeds that prefer it", "lead over the next rate, and that rate"], rows
    )


def rates_table(read: Readings) -> str:
    """Return what each rate reached on the three spare seeds, the best in bold."""
    sweeps = {cell: complete_sweep(read.runs, cell) for cell in cells()}
    rates = sorted({rate for sweep in sweeps.values() for rate in sweep})
    if not rates:
        return NOT_YET
    rows = []
    for cell, sweep in sweeps.items():
        means = {rate: mean(areas) for rate, areas in sweep.items()}
        best = max(means.values(), default=None)
        line = []
        for rate in rates:
            figures = ", ".join(map(number, sweep.get(rate, []))) or NONE
            line.append(f"**{figures}**" if rate in means and means[rate] == best else figures)
        rows.append([cell.task, f"{cell.length}", name(cell), *line])
    return markdown_table(["task", "tokens", "rule", *(f"{rate:g}" for rate in rates)], rows)


def tables(read: Readings) -> dict[str, str]:
    """Return the page's tables by name."""
    return {"choices": choices_table(read), "rates": rates_table(read)}


STUDY = Study(
    document="details/rates.md",
    folder="rates",
    axes=AXES,
    rounds=rounds,
    config=config,
    spare_seeds=SPARE_SEEDS,
    beside=beside,
    readings=readings,
    tables=tables,
)

if __name__ == "__main__":
    STUDY.command_line(__doc__)
