"""How far does a lead move from one reward model of a task to another?

Of film reviews, dialogues and quarrels two further reward models are made by the bundled one's
recipe, each with another seed and one half of the texts. `sparse`, `abc-signed` and `sparse` with a
critic from the reward model are trained by each, at the rates and lambdas that were tuned for the
bundled one, whose runs are those of other pages.

    python -m studies.reward_models run --out runs/judges [--until 22:00]
    python -m studies.reward_models publish --out runs/judges    # fills the page
    python -m studies.reward_models page
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from studies import critic_elsewhere, frontier
from tokengym import ComparisonConfig
from tokengym.base import read_json
from tokengym.envs import bundled
from tokengym.evaluation.report import number, signed
from tokengym.evaluation.runs import TaskSettings
from tokengym.evaluation.statistics import RunPath, student_interval
from tokengym.lab.benchmark.verdict import net_of, path_of
from tokengym.lab.makers.bundles.other_reward_models import FIGURES, build_again
from tokengym.lab.protocol import (
    DRAWN,
    GRID,
    LEARNER,
    PRICE,
    best_of_rows,
    scores_of,
    untrained_responses,
    way,
)
from tokengym.lab.study import Cell, Drawn, Published, Round, Row, Study, read_rows, single_run
from tokengym.lab.tables import at_equal_kl, markdown_table, mean
from tokengym.rewards import gold_scorer

TASKS = {"MovieReview": "movie_review", "Dialogue": "dialogue", "Detox": "detox"}
"""Tasks and their bundles."""
TOKENS, UPDATES, ROWS = 48, 30, 64
PAIRS = 3
BUNDLED, AGAIN = "bundled", ("again 1", "again 2")
"""Names of the reward models; those made again have the seeds 1 and 2, and the two halves."""
SPARSE, SIGNED, STARTED = "`sparse`", "`abc-signed`", frontier.STARTED
LAMBDAS = {SPARSE: "0.95", SIGNED: "0.95", STARTED: "0.8"}
"""Lambdas of the arms; on film reviews `abc-signed` has 0.5."""
RATES = {"MovieReview": 1e-3, "Dialogue": 3e-4, "Detox": 3e-4}
"""Rates that were tuned for the bundled reward model, equal for all arms."""
WAYS, MODELS = "best_of_n.csv", "models.csv"


def cell(task: str, model: str, arm: str) -> Cell:
    """Return an arm's cell on a task by a reward model."""
    rule = "abc-signed" if arm == SIGNED else "sparse"
    gae_lambda = "0.5" if (task, arm) == ("MovieReview", SIGNED) else LAMBDAS[arm]
    start = "reward_model" if arm == STARTED else "own"
    return STUDY.cell(task=task, model=model, rule=rule, gae_lambda=gae_lambda, critic=start)


def rounds() -> Iterator[Round]:
    """Yield the cells and the seeds wanted of them, in the order in which they are needed."""
    for task in TASKS:
        for model in AGAIN:
            yield [cell(task, model, arm) for arm in LAMBDAS], range(PAIRS)


def made(task: str, model: str, out: Path) -> Path:
    """Return the folder of a reward model that is made again, once it is there."""
    folder = out / f"{TASKS[task]}-{model[-1]}"
    seed = int(model[-1])
    build_again(TASKS[task], folder, seed=seed, half=seed - 1)
    return folder


def config(run: Cell, out: Path) -> ComparisonConfig:
    """Return the comparison that a run is of."""
    return single_run(
        f"tokengym/{run.task}-v0",
        run.rule,
        steps=UPDATES,
        batch_size=ROWS,
        max_new_tokens=TOKENS,
        learning_rate=RATES[run.task],
        gae_lambda=float(run.gae_lambda),
        value_network=run.critic,
        **LEARNER,
        evaluation=GRID,
        task=TaskSettings(scorer=str(made(run.task, run.model, out))),
    )


def lines(task: str, model: str, out: Path) -> list[Row]:
    """Return what the best of n untrained responses has by a reward model, and by gold."""
    env = f"tokengym/{task}-v0"
    scorer = str(made(task, model, out))
    episodes = untrained_responses(env, TOKENS, scorer=scorer)
    judge = gold_scorer(bundled(TASKS[task]))
    assert judge is not None
    gold = judge.score(episodes).values.reshape(-1, DRAWN)
    return [
        {"task": task, "model": model, **row} for row in best_of_rows(scores_of(episodes), gold)
    ]


def worth(task: str, model: str, out: Path) -> list[Row]:
    """Return what a reward model is worth on the untrained policy's texts."""
    figures = read_json(made(task, model, out) / FIGURES)
    of = figures["40"] if task == "MovieReview" else figures["reward_model"]["samples"]
    return [{"task": task, "model": model, **{name: of[name] for name in WORTH}}]


WORTH = ("pair_accuracy", "correlation", "attention_entropy", "deviation")
"""Figures of a reward model: see `movie_review.measure_reward_model`."""


# --- page -----------------------------------------------------------------------------------------


def arms_of(published: Published) -> dict[tuple[str, str], dict[str, dict[int, RunPath]]]:
    """Return by task and reward model the runs of each arm by seed, the first `PAIRS`."""
    docs = published.folder.parent
    found: dict[tuple[str, str], dict[str, dict[int, RunPath]]] = {}
    elsewhere = critic_elsewhere.STUDY.published(docs).runs
    for task in TASKS:
        source = frontier.films(TOKENS, UPDATES) if task == "MovieReview" else frontier.task(task)
        there = frontier.runs_of(source, docs)
        if STARTED not in there:
            same = critic_elsewhere.started_cells(task)[0]
            there[STARTED] = {seed: path_of(p) for seed, p in elsewhere.runs.get(same, {}).items()}
        found[task, BUNDLED] = {
            arm: {seed: run for seed, run in there[arm].items() if seed < PAIRS} for arm in LAMBDAS
        }
        for model in AGAIN:
            found[task, model] = {
                arm: {
                    seed: path_of(points)
                    for seed, points in published.runs.runs.get(cell(task, model, arm), {}).items()
                }
                for arm in LAMBDAS
            }
    return found


def ways_of(published: Published) -> dict[tuple[str, str], float]:
    """Return by task and reward model the way to best of 16, score - c KL."""
    docs = published.folder.parent
    rows = {
        (task, model): [
            row for row in published.drawn[WAYS] if (row["task"], row["model"]) == (task, model)
        ]
        for task in TASKS
        for model in AGAIN
    }
    films = read_rows(docs / "ledger" / WAYS, text=())
    others = read_rows(docs / "tasks" / WAYS, text=("task",))
    for task in TASKS:
        rows[task, BUNDLED] = (
            [row for row in films if row["length"] == TOKENS]
            if task == "MovieReview"
            else [row for row in others if row["task"] == task]
        )
    return {at: goal - start for at, here in rows.items() if here for start, goal in [way(here)]}


def tables(published: Published) -> dict[str, str]:
    """Return the page's tables by name."""
    arms, ways = arms_of(published), ways_of(published)
    return {
        "answer": answer_table(arms, ways),
        "leads": leads_table(arms, ways),
        "worth": worth_table(published.drawn[MODELS]),
    }


def leads_of(
    arms: Mapping[str, Mapping[int, RunPath]], arm: str, span: float, price: float = PRICE
) -> list[float]:
    """Return an arm's leads by seed in score - c KL over the run, % of the way."""
    seeds = sorted(arms[arm].keys() & arms[SPARSE].keys())
    return [
        100 * (net_of(arms[arm][s], price) - net_of(arms[SPARSE][s], price)) / span for s in seeds
    ]


def answer_table(
    arms: Mapping[tuple[str, str], Mapping[str, Mapping[int, RunPath]]],
    ways: Mapping[tuple[str, str], float],
) -> str:
    """Return by task how far a lead moves between reward models, and how far between seeds."""
    rows = []
    for task in TASKS:
        for arm in (SIGNED, STARTED):
            leads = [
                leads_of(arms[task, model], arm, ways[task, model])
                for model in (BUNDLED, *AGAIN)
                if (task, model) in ways
            ]
            leads = [each for each in leads if len(each) > 1]
            if len(leads) < len((BUNDLED, *AGAIN)):
                continue
            means = [mean(each) for each in leads]
            between = float(np.std(means, ddof=1))
            within = float(np.sqrt(np.mean([np.var(each, ddof=1) for each in leads])))
            middle, low, high, _ = (float(value) for value in student_interval(means))
            over = f"{signed(middle)} ({number(low)} to {number(high)})"
            rows.append([task, arm, *map(signed, means), over, number(between), number(within)])
    heads = ["task", "arm", *(BUNDLED, *AGAIN), "mean over reward models, 95 % over the three"]
    return markdown_table([*heads, "sd over reward models", "sd over seeds"], rows)


def leads_table(
    arms: Mapping[tuple[str, str], Mapping[str, Mapping[int, RunPath]]],
    ways: Mapping[tuple[str, str], float],
) -> str:
    """Return every arm minus `sparse` by each reward model, parts apart."""
    rows = []
    for (task, model), there in arms.items():
        for arm in (SIGNED, STARTED):
            seeds = sorted(there[arm].keys() & there[SPARSE].keys())
            if len(seeds) < 2 or (task, model) not in ways:
                continue
            pair = [[there[at][seed] for seed in seeds] for at in (arm, SPARSE)]
            parts = frontier.minus(*pair, figures=(net_of, *frontier.PARTS))
            equal = at_equal_kl({"": there[arm]}, {"": there[SPARSE]})
            rows.append([task, model, arm, number(ways[task, model]), *parts, equal])
    heads = ["task", "reward model", "arm", "way", "score - c KL over the run", "score over it"]
    return markdown_table(
        [*heads, "KL over it", *frontier.ENDS, "score at equal KL, by nats"], rows
    )


def worth_table(rows: Sequence[Row]) -> str:
    """Return what each reward model is worth on the untrained policy's texts."""
    every: list[dict[str, Any]] = []
    for task, name in TASKS.items():
        figures = read_json(bundled(name).path / "bundle.json")
        of = figures["reward_model"]["40" if task == "MovieReview" else "samples"]
        every.append({"task": task, "model": BUNDLED, **{key: of[key] for key in WORTH}})
        every += [dict(row) for row in rows if row["task"] == task]
    lines_ = [[r["task"], r["model"], *(number(r[key]) for key in WORTH)] for r in every]
    return markdown_table(["task", "reward model", *(w.replace("_", " ") for w in WORTH)], lines_)


STUDY = Study(
    document="details/reward_models.md",
    folder="judges",
    axes={"task": str, "model": str, "rule": str, "gae_lambda": "0.95", "critic": "own"},
    rounds=rounds,
    config=config,
    tables=tables,
    first_rate=None,
    drawn=(
        Drawn(
            file=MODELS,
            parts={f"models/{t}-{m}.csv": partial(worth, t, m) for t in TASKS for m in AGAIN},
            text=("task", "model"),
            part_of=lambda row: f"models/{row['task']}-{row['model']}.csv",
        ),
        Drawn(
            file=WAYS,
            parts={f"ways/{t}-{m}.csv": partial(lines, t, m) for t in TASKS for m in AGAIN},
            text=("task", "model"),
            part_of=lambda row: f"ways/{row['task']}-{row['model']}.csv",
        ),
    ),
)

if __name__ == "__main__":
    STUDY.command_line(__doc__)
