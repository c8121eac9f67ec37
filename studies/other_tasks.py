"""Does token credit speed learning where the score is not a film review's sentiment?

PPO on Dialogue, Summarize, Detox and QuestionAnswer under the score alone, two rules that read the
reward model and two controls that do not, the learning rate tuned for each on a spare seed.

    python -m studies.other_tasks run --out runs/tasks [--until 22:00] [--part 0/2]
    python -m studies.other_tasks publish --out runs/tasks    # fills the page
    python -m studies.other_tasks page
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from studies.parts import HEADS, columns, parts
from tokengym import Comparison
from tokengym.evaluation.report import number, percent, signed
from tokengym.lab.protocol import (
    GRID,
    LEARNER,
    NET_MARGIN,
    level,
    untrained_best_of,
    way,
)
from tokengym.lab.study import (
    NET,
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
    critic_text,
    markdown_table,
    mean,
    paired,
    student_mean,
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
    by_task = ways(published.drawn[LINES])
    return {"cells": cells_table(published.runs, by_task), "lines": lines_table(published)}


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


def base_of(cell: Cell) -> Cell:
    """Return `sparse` that a cell is compared with."""
    return cell_of(cell.task, "sparse").but(eos=cell.eos)


def cells_table(runs: Runs, by_task: Mapping[str, tuple[float, float]]) -> str:
    """Return each cell minus `sparse` of its task, whose own line has its levels.

    Differences in score - c KL are bold after Holm's correction, those from the controls too.
    """
    made = [cell for task in TASKS for cell in cells_of(task) if len(runs.areas(cell)) > 1]
    figures = {
        (cell, control): figure
        for cell in made
        for control in CONTROLS
        if cell != (other := cell_of(cell.task, control).but(eos=cell.eos))
        and (control == "sparse" or cell.rule not in CONTROLS)
        and (figure := runs.difference(cell, other)) is not None
    }
    shown = after_holm(figures)
    rows = []
    for cell in made:
        line = [cell.task, title(cell), cell.gae_lambda, f"{runs.rate(cell):g}"]
        if cell == base_of(cell):
            line += [student_mean([*runs.areas(cell).values()]), *[NONE] * 3]
            line += [number(mean([*values.values()])) for values in columns(runs, cell)]
        else:
            line += [shown.get((cell, control), NONE) for control in CONTROLS]
            line += [is_level(runs, cell, by_task), *parts(runs, cell, base_of(cell))]
        rows.append(line)
    head = ["task", "rule", "lambda", "rate", f"{NET} over the run, minus `sparse`"]
    head += [f"minus `{control}`" for control in CONTROLS[1:]]
    return markdown_table([*head, f"level within {percent(NET_MARGIN)}", *HEADS], rows)


def is_level(runs: Runs, cell: Cell, by_task: Mapping[str, tuple[float, float]]) -> str:
    """Return what two one-sided tests against `sparse` say; the way is of texts that may end."""
    if cell.eos == "forbidden":
        return NONE
    start, goal = by_task[cell.task]
    pairs = paired(runs.areas(cell), runs.areas(base_of(cell)))
    return "yes" if level(*pairs, goal - start).equivalent else "not shown"


def lines_table(published: Published) -> str:
    """Return the untrained policy and its best of 16 by task."""
    rows = []
    for task, net_way in ways(published.drawn[LINES]).items():
        here = [row for row in published.drawn[LINES] if row["task"] == task]
        figures = [*net_way, *way(here, lambda row: float(row["gold_score"]))]
        rows.append([task, str(TASKS[task]), *map(number, figures)])
    head = ["task", "tokens at most", "untrained", "best of 16"]
    return markdown_table([*head, "gold, untrained", "gold, best of 16"], rows)


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
            lead = runs.difference(cell, sparse)
            if lead is None:
                continue
            middle, low, high = (
                100 * figure / (goal - start) for figure in (lead.difference, lead.low, lead.high)
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
