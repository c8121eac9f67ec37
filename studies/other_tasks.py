"""Does token credit speed learning where the score is not a film review's sentiment?

PPO on Dialogue, Summarize, Detox and QuestionAnswer under the score alone, two rules that read the
reward model and two controls that do not, the learning rate tuned for each on a spare seed.

    python -m studies.other_tasks run --out runs/tasks [--until 22:00] [--part 0/2]
    python -m studies.other_tasks publish --out runs/tasks    # fills the page
    python -m studies.other_tasks page
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from studies.parts import leads
from tokengym import Comparison
from tokengym.evaluation.report import signed
from tokengym.lab.protocol import (
    GRID,
    LEARNER,
    untrained_best_of,
    way,
)
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
    critic_text,
    markdown_table,
)

TASKS = {"Dialogue": 48, "Summarize": 32, "Detox": 48, "QuestionAnswer": 48}
"""Tasks and the most tokens of a response, in the order in which they are run."""
UPDATES, ROWS = 30, 64
RULES = {
    "sparse": "0.95",
    "abc-signed": "0.5",
    "uniform": "0.95",
    "random": "0.95",
    "red": "0.5",
}
"""Rules and their lambdas, the ledger's best; what is needed most comes first."""
SIGNED_HIGH = {"rule": "abc-signed", "gae_lambda": "0.95"}
SIGNED_MIDDLE = {"rule": "abc-signed", "gae_lambda": "0.8"}
"""Added on 26 November 2026, on the tasks whose responses end by themselves."""
FREE = ("Dialogue", "Summarize", "QuestionAnswer")
"""Tasks whose responses end by themselves."""
ON_DIALOGUE: tuple[dict[str, str], ...] = (
    {"rule": "sparse", "gae_lambda": "0.8", "critic": "reward_model"},
    {"rule": "sparse", "gae_lambda": "0.5"},
)
"""Cells that were added on 25 November 2026: the first on every task, the others on Dialogue."""
NO_EOS: tuple[dict[str, str], ...] = (
    {"rule": "sparse", "eos": "forbidden"},
    {"rule": "abc-signed", "gae_lambda": "0.5", "eos": "forbidden"},
)
"""Added on the same day: Summarize with responses of full length."""
CONTROLS = ("sparse", "uniform", "random")
"""Rules that a rule must beat to show that it finds the right tokens."""
LINES = "best_of_n.csv"
LEADS_DRAWN = (-20.0, 15.0)
"""Leads that the picture shows, % of the way; those below are written at its edge."""


def env_id(task: str) -> str:
    """Return the environment of a task."""
    return f"tokengym/{task}-v0"


def cell_of(task: str, rule: str) -> Cell:
    """Return the cell of a rule on a task."""
    return STUDY.cell(task=task, rule=rule, gae_lambda=RULES[rule])


def cells_of(task: str) -> list[Cell]:
    """Return all cells of a task."""
    added = [SIGNED_HIGH, *{"Dialogue": ON_DIALOGUE, "Summarize": NO_EOS}.get(task, ())]
    planned = [cell_of(task, rule) for rule in RULES]
    middle = [middle_cell(task)] if task in FREE else []
    return planned + middle + [STUDY.cell(task=task, **about) for about in added]


def middle_cell(task: str) -> Cell:
    """Return `abc-signed` at the lambda between those of `signed_cells`."""
    return STUDY.cell(task=task, **SIGNED_MIDDLE)


def signed_cells(task: str) -> list[Cell]:
    """Return `abc-signed` at the lambda that it declares and at that of `sparse`."""
    return [cell_of(task, "abc-signed"), STUDY.cell(task=task, **SIGNED_HIGH)]


def rounds() -> Iterator[Round]:
    """Yield the cells and the seeds wanted of them, in the order in which they are needed."""
    *first, last = RULES
    for task in TASKS:
        yield [cell_of(task, rule) for rule in first], range(5)
        cells = [cell for cell in cells_of(task) if cell.rule in first]
        yield [cell for cell in cells if cell != middle_cell(task)], range(5)
    yield [cell_of(task, last) for task in TASKS], range(5)
    yield [middle_cell(task) for task in FREE], range(5)
    for task in reversed(TASKS):  # QuestionAnswer's pairs left most open
        yield [*(cell_of(task, rule) for rule in first), signed_cells(task)[1]], range(10)
    for task in TASKS:
        yield cells_of(task), range(10)


def config(run: Cell, out: Path) -> Comparison:
    """Return the comparison that a run is of."""
    del out
    return single_run(
        env_id(run.task),
        run.rule,
        updates=int(run.updates),
        batch_size=int(run.rows),
        max_new_tokens=TASKS[run.task],
        learning_rate=run.rate,
        gae_lambda=float(run.gae_lambda),
        value_network=run.critic,
        fixed_length=True if run.eos == "forbidden" else None,
        **LEARNER,
        evaluation=GRID,
    )


def lines(task: str, out: Path) -> list[Row]:
    """Return what the best of n untrained responses of a task scores."""
    del out
    return [{"task": task, **row} for row in untrained_best_of(env_id(task), TASKS[task])]


# --- page -----------------------------------------------------------------------------------------


def tables(published: Published) -> dict[str, str]:
    """Return the page's tables by name."""
    return {"cells": grid_table(published.runs)}


def ways(drawn: Sequence[Row]) -> dict[str, tuple[float, float]]:
    """Return by task where the way to best-of-16 begins and ends, in score - c KL."""
    found = {}
    for task in TASKS:
        if here := [row for row in drawn if row["task"] == task]:
            found[task] = way(here)
    return found


def title(cell: Cell) -> str:
    """Return a cell's rule as the tables show it."""
    eos = ", EOS forbidden" if cell.eos == "forbidden" else ""
    return f"`{cell.rule.partition(':')[0]}`{critic_text(cell.critic)}{eos}"


def grid_table(runs: Runs) -> str:
    """Return each arm's `leads` on `sparse` by task, corrected over those on the controls too."""
    made = [cell for task in TASKS for cell in cells_of(task) if len(runs.areas(cell)) > 1]
    pairs = {
        (cell, control): (runs.runs[cell], runs.runs[other])
        for cell in made
        for control in CONTROLS
        if cell != (other := cell_of(cell.task, control).but(eos=cell.eos))
        and (control == "sparse" or cell.rule not in CONTROLS)
        and len(runs.areas(other)) > 1
    }
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for (cell, control), texts in leads(pairs).items():
        if control == "sparse":
            rows.setdefault((title(cell), cell.gae_lambda), {})[cell.task] = "; ".join(texts)
    lines = [[*arm, *(by_task.get(task, NONE) for task in TASKS)] for arm, by_task in rows.items()]
    return markdown_table(["arm", "lambda", *TASKS], lines)


def draw(file: Path, published: Published) -> None:
    """Draw every arm's lead on `sparse` by task, as a share of the way, with 95 % intervals."""
    from matplotlib.figure import Figure

    runs, by_task = published.runs, ways(published.drawn[LINES])
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    for axes, (task, (start, goal)) in zip(
        figure.subplots(2, 2).flat, by_task.items(), strict=True
    ):
        sparse = cell_of(task, "sparse")
        arms = [cell for cell in cells_of(task) if cell != sparse and cell.eos == "allowed"]
        arms.sort(key=lambda arm: (arm.rule in CONTROLS, arm.rule, arm.gae_lambda))
        for place, cell in enumerate(reversed(arms)):
            ahead = runs.difference(cell, sparse)
            if ahead is None:
                continue
            middle, low, high = (
                100 * at / (goal - start) for at in (ahead.difference, ahead.low, ahead.high)
            )
            color = "#56616f" if cell.rule in CONTROLS else "#0072b2"
            if high < LEADS_DRAWN[0]:
                axes.annotate(
                    f" \u2190 {signed(middle)} %", (LEADS_DRAWN[0], place), color=color, va="center"
                )
                continue
            axes.plot([low, high], [place, place], color=color, linewidth=2)
            axes.plot(middle, place, "o", color=color)
        labels = [f"{title(cell).replace('`', '')}, {cell.gae_lambda}" for cell in arms]
        labels = [label.replace(", critic", ",\ncritic") for label in labels]
        axes.set_yticks(range(len(arms)), labels[::-1], fontsize=9)
        axes.axvline(0, color="#56616f", linewidth=1)
        axes.set_xlim(*LEADS_DRAWN)
        axes.set_ylim(-0.6, len(arms) - 0.4)
        axes.set_title(task, fontsize=11)
        axes.grid(axis="x", alpha=0.3)
    figure.supxlabel(
        "score - c KL over the run, minus sparse, % of the way to best-of-16", fontsize=10
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130, metadata={"Software": None})


STUDY = Study(
    document="tasks.md",
    folder="tasks",
    axes={
        "task": str,
        "rule": str,
        "gae_lambda": "0.95",
        "critic": "own",
        "eos": "allowed",
        "updates": UPDATES,
        "rows": ROWS,
    },
    rounds=rounds,
    config=config,
    tables=tables,
    pictures=lambda published: draw(published.folder / "leads.png", published),
    holm="table",
    drawn=(
        Drawn(
            file=LINES,
            parts={f"ways/{task}.csv": partial(lines, task) for task in TASKS},
            text=("task",),
            part_of=lambda row: f"ways/{row['task']}.csv",
        ),
    ),
)

if __name__ == "__main__":
    STUDY.command_line(__doc__)
