"""Is `sparse` with a critic from the reward model ahead on tasks other than film reviews?

README recommends it by runs on the bundled film reviews. Here it is trained at three lambdas on
four other tasks and on two corpora of real text, a point after every update. The other arms of the
four tasks are those of their page, which are not trained again.

    python -m studies.critic_elsewhere run --out runs/elsewhere [--until 22:00] [--part 0/2]
    python -m studies.critic_elsewhere publish --out runs/elsewhere    # fills tasks.md
    python -m studies.critic_elsewhere page

The bundles of the two corpora are the folders "sst2" and "imdb" in --out; `studies.film_reviews`
says how they are made.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from studies import film_reviews, other_tasks
from studies.parts import FIGURES, lead, leads
from tokengym import Comparison
from tokengym.evaluation.report import percent
from tokengym.evaluation.runs import TaskSettings
from tokengym.lab.protocol import GRID, LEARNER, MEASURES, SPARE_SEEDS, way
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
from tokengym.lab.tables import difference_text, markdown_table

CORPORA = {"SST-2": "sst2", "IMDb": "imdb"}
"""Tasks of real text and their corpora."""
TASKS = (*other_tasks.TASKS, *CORPORA)
LAMBDAS = ("0.8", "0.95", "0.5")
"""Lambdas of the critic from the reward model; what is needed most comes first."""
SPARSE_LAMBDAS = {"SST-2": "1"}
"""Lambda of `sparse` where it is not 0.95: the better of its page's on the spare seed."""
CONTROLS = ("uniform", "random")
PAIRS = 5


def base_cell(task: str) -> Cell:
    """Return `sparse` with a value network from the language model, at the lambda that suits it."""
    return STUDY.cell(task=task, rule="sparse", gae_lambda=SPARSE_LAMBDAS.get(task, "0.95"))


def started_cells(task: str) -> list[Cell]:
    """Return `sparse` with a critic from the reward model, at each lambda."""
    about = {"task": task, "rule": "sparse", "critic": "reward_model"}
    return [STUDY.cell(gae_lambda=gae_lambda, **about) for gae_lambda in LAMBDAS]


def signed_cells(task: str) -> list[Cell]:
    """Return `abc-signed` at the lambdas that a task's page has."""
    lambdas = {"SST-2": ("0.5",), "IMDb": ("0.5",), "Detox": ("0.5", "0.95")}
    return [
        STUDY.cell(task=task, rule="abc-signed", gae_lambda=gae_lambda)
        for gae_lambda in lambdas.get(task, ("0.5", "0.8", "0.95"))
    ]


def control_cells(task: str) -> list[Cell]:
    """Return the controls that a task has."""
    rules = CONTROLS if task in other_tasks.TASKS else CONTROLS[:1]
    return [STUDY.cell(task=task, rule=rule, gae_lambda="0.95") for rule in rules]


def others(task: str) -> list[Cell]:
    """Return the arms that are not the critic's, `sparse` first."""
    return [base_cell(task), *signed_cells(task), *control_cells(task)]


def rounds() -> Iterator[Round]:
    """Yield the cells and the seeds wanted of them, in the order in which they are needed."""
    for task in (*other_tasks.TASKS, "SST-2"):
        yield [*others(task), *started_cells(task)[:1]], range(PAIRS)
    for place in range(1, len(LAMBDAS)):
        for task in (*other_tasks.TASKS, "SST-2"):
            yield [started_cells(task)[place]], range(PAIRS)
    yield [*others("IMDb"), *started_cells("IMDb")], range(PAIRS)


def beside(docs: Path) -> list[Row]:
    """Return the runs of other pages: all of the four tasks', and the corpora's sweeps.

    The sweeps have a point at every fourth of a run, which is enough to choose a rate by; their
    other runs have no more, so that these are made here.
    """
    wanted = {cell for task in TASKS for cell in (*others(task), *started_cells(task))}
    rows: list[Row] = []
    for run, points in other_tasks.STUDY.published(docs).runs.each.items():
        if run.eos != "allowed" or (run.updates, run.rows) != (other_tasks.UPDATES, 64):
            continue
        if not (run.seed < PAIRS or run.seed in STUDY.spare_seeds):
            continue
        cell = STUDY.cell(**{axis: run[axis] for axis in STUDY.axes})
        if cell in wanted:
            rows += [_row(cell, run, row) for row in points]
    for task, corpus in CORPORA.items():
        for run, points in film_reviews.STUDIES[corpus].published(docs).runs.each.items():
            about = {axis: run[axis] for axis in ("rule", "gae_lambda", "critic")}
            if run.seed in SPARE_SEEDS and (cell := STUDY.cell(task=task, **about)) in wanted:
                rows += [_row(cell, run, row) for row in points]
    return rows


def _row(cell: Cell, run: Cell, row: Row) -> Row:
    return {
        **cell,
        "rate": run.rate,
        "seed": run.seed,
        **{name: row[name] for name in MEASURES},
    }


def config(run: Cell, out: Path) -> Comparison:
    """Return the comparison that a run is of."""
    shape: dict[str, Any]
    if corpus := CORPORA.get(run.task):
        size = film_reviews.CORPORA[corpus]
        env, bundle = film_reviews.ENV, TaskSettings(bundle=str(out / corpus))
        shape = {"steps": size.updates, "batch_size": size.rows, "max_new_tokens": size.length}
    else:
        env, bundle = other_tasks.env_id(run.task), TaskSettings()
        shape = {"steps": other_tasks.UPDATES, "batch_size": other_tasks.ROWS}
        shape["max_new_tokens"] = other_tasks.TASKS[run.task]
    return single_run(
        env,
        run.rule,
        learning_rate=run.rate,
        gae_lambda=float(run.gae_lambda),
        value_network=run.critic,
        **shape,
        **LEARNER,
        evaluation=GRID,
        task=bundle,
    )


# --- page -----------------------------------------------------------------------------------------


def tables(published: Published) -> dict[str, str]:
    """Return the page's tables by name."""
    return {"critic": answer_table(published.runs, ways_of(published.folder.parent))}


def ways_of(docs: Path) -> dict[str, float]:
    """Return by task the way from the untrained policy to its best of 16, in score - c KL."""
    drawn = read_rows(docs / "tasks" / other_tasks.LINES, text=("task",))
    ends = other_tasks.ways(drawn)
    for task, corpus in CORPORA.items():
        ends[task] = way(read_rows(docs / corpus / "protocol" / film_reviews.LINES, text=()))
    return {task: goal - start for task, (start, goal) in ends.items()}


def answer_table(runs: Runs, ways: dict[str, float]) -> str:
    """Return each task's `leads` of the critic, and that of `abc-signed` in score - c KL.

    The lambda of each is the one that did best on the spare seed.

    Args:
        runs: Runs of the study.
        ways: The way of each task, in score - c KL.
    """
    picked = {
        task: (critic, rule)
        for task in TASKS
        if (critic := runs.chosen(started_cells(task)))
        and (rule := runs.chosen(signed_cells(task)))
    }
    pairs = {
        task: (runs.runs[critic], runs.runs[base_cell(task)])
        for task, (critic, _) in picked.items()
    }
    lines = []
    for task, texts in leads(pairs, ends=(NET, "score")).items():
        critic, rule = picked[task]
        share = percent(lead(*pairs[task]).difference / ways[task])
        of_rule = difference_text(lead(runs.runs[rule], pairs[task][1]))
        beside = [share, f"{rule.rule} {rule.gae_lambda}: {of_rule}"]
        lines.append([task, critic.gae_lambda, *texts, *beside])
    heads = ["task", "lambda", f"critic minus `sparse`, {NET}", *[*FIGURES][1:], "of the way"]
    return markdown_table([*heads, "`abc-signed` minus `sparse`"], lines)


STUDY = Study(
    document="tasks.md",
    folder="elsewhere",
    axes={"task": str, "rule": str, "gae_lambda": "0.95", "critic": "own"},
    rounds=rounds,
    config=config,
    beside=beside,
    tables=tables,
    holm="table",
)

if __name__ == "__main__":
    STUDY.command_line(__doc__)
