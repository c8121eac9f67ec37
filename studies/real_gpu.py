"""Is anything ahead of `sparse` on a real model in 48 tokens? SmolLM2-135M on a GPU.

    python -m studies.real_gpu run --out runs/real_gpu [--part 0/3]
    python -m studies.real_gpu publish --out runs/real_gpu    # fills the page
    python -m studies.real_gpu page

The bundle and the openings of real_model in three times the tokens, by PPO as on the small model's
film reviews: all weights are trained, and each run has a value network of its own. As in frontier,
no rate is tuned: an arm has all its cells, and each seed's is chosen on the others.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from studies.frontier import ENDS, figures_at, shared_seeds, tuned
from studies.real_model import BUNDLE, ENV, best_of_n, lines_table
from tokengym import ComparisonConfig
from tokengym.evaluation.report import number
from tokengym.evaluation.runs import EvaluationSettings, TaskSettings
from tokengym.evaluation.statistics import RunPath, nats_per_update
from tokengym.lab.benchmark.verdict import path_of
from tokengym.lab.protocol import LEARNER, PRICE
from tokengym.lab.study import NET, Cell, Drawn, Published, Round, Row, Study, single_run
from tokengym.lab.tables import NOT_YET, at_equal_kl, critic_text, markdown_table, mean, paired_text

UPDATES, ROWS, LENGTH, WARMUP = 16, 64, 48, 4
OPENINGS, DRAWS = 64, 4
"""Held-out openings, and the responses to each by which a policy is measured."""
LINES = "gpu_lines.csv"
ARMS = (
    Cell(rule="sparse", critic="own", gae_lambda="0.95"),
    Cell(rule="abc-signed", critic="own", gae_lambda="0.5"),
    Cell(rule="sparse", critic="reward_model", gae_lambda="0.8"),
)
"""Each arm at the lambda that suited it on the small model's film reviews."""
CONTROL = Cell(rule="random", critic="own", gae_lambda="0.95")
STEP_SIZES = (3e-5, 1e-4, 1e-5)
"""Learning rates, in the order in which they are run."""
Points = Mapping[Cell, Mapping[int, Sequence[Row]]]
"""Cell -> seed -> measurements."""


def cells(arm: Cell) -> list[Cell]:
    """Return the cells of an arm: its rates."""
    return [arm.but(step_size=rate) for rate in STEP_SIZES]


def rounds() -> Iterator[Round]:
    """Yield the cells and the seeds wanted of them, in the order in which they are needed."""
    for rate in STEP_SIZES:
        yield [arm.but(step_size=rate) for arm in ARMS], range(3)
    yield cells(CONTROL), range(3)
    yield [cell for arm in (*ARMS, CONTROL) for cell in cells(arm)], range(5)


def config(run: Cell, out: Path) -> ComparisonConfig:
    """Return the comparison that a run is of."""
    del out
    return single_run(
        ENV,
        run.rule,
        **LEARNER,
        value_network=run.critic,
        gae_lambda=float(run.gae_lambda),
        n_warmup_updates=WARMUP,
        micro_batch_size=ROWS // LEARNER["n_minibatches"],
        dtype="float32",
        steps=UPDATES,
        batch_size=ROWS,
        max_new_tokens=LENGTH,
        learning_rate=float(run.step_size),
        evaluation=EvaluationSettings(
            every=2, episodes=OPENINGS * DRAWS, samples=0, reference_samples=16
        ),
        task=TaskSettings(bundle=BUNDLE),
    )


def lines(out: Path) -> list[dict[str, Any]]:
    """Return what the best of n untrained responses has."""
    return best_of_n(config(cells(ARMS[0])[0].but(seed=0), out), out)


def tables(published: Published) -> dict[str, str]:
    """Return the page's tables."""
    runs = published.runs.runs
    return {
        "gpu lines": lines_table(published.drawn[LINES]),
        "gpu cells": cells_table(runs),
        "gpu pairs": pairs_table(runs),
    }


def about(arm: Cell) -> list[str]:
    """Return an arm's columns."""
    return [f"`{arm.rule}`{critic_text(arm.critic)}", arm.gae_lambda]


def paths_of(runs: Points, arm: Cell) -> dict[str, dict[int, RunPath]]:
    """Return the runs there are of an arm, by cell and seed; cells with one alone are left out."""
    return {
        repr(cell): {seed: path_of(points) for seed, points in runs[cell].items()}
        for cell in cells(arm)
        if len(runs.get(cell, {})) > 1
    }


def cells_table(runs: Points) -> str:
    """Return each cell's means: score - c KL over the run, its parts and its end, and its leap."""
    lines = []
    for arm in (*ARMS, CONTROL):
        for cell in cells(arm):
            paths = [path_of(points) for points in runs.get(cell, {}).values()]
            if not paths:
                continue
            figures = [mean([of(path) for path in paths]) for of in figures_at(PRICE)]
            leap = mean([float(nats_per_update(p.updates, p.kl).max()) for p in paths])
            shown = [number(figure) for figure in (*figures, leap)]
            lines.append([*about(arm), f"{cell.step_size:g}", str(len(paths)), *shown])
    heads = [f"{NET} over the run", "score over it", "KL over it", *ENDS, "largest update, nats"]
    return markdown_table(["arm", "lambda", "rate", "runs", *heads], lines) if lines else NOT_YET


def pairs_table(runs: Points) -> str:
    """Return every arm minus `sparse`, paired by seed: over the run, at its end, at equal KL.

    Each seed's cell is the one with the most score - c KL over the run on the other seeds.
    """
    base, *others = (*ARMS, CONTROL)
    lines = []
    for arm in others:
        one, other = paths_of(runs, arm), paths_of(runs, base)
        if len(seeds := shared_seeds(one, other)) < 2:
            continue
        figures = [
            paired_text(*(tuned(each, seeds, figure, PRICE) for each in (one, other)))
            for figure in figures_at(PRICE)
        ]
        equal = [at_equal_kl(one, other, measure=measure) for measure in ("score", "gold_score")]
        there = [str(len(each)) for each in (one, other)]
        lines.append([*about(arm), *figures, *equal, *there, str(len(seeds))])
    heads = [f"{NET} over the run", "score over it", "KL over it", *ENDS]
    heads += ["score at equal KL, by nats", "gold at equal KL"]
    heads += ["cells", "cells of `sparse`", "pairs"]
    return markdown_table(["arm", "lambda", *heads], lines) if lines else NOT_YET


STUDY = Study(
    document="real_model.md",
    folder="real_model",
    axes={"rule": str, "critic": str, "gae_lambda": str, "step_size": float},
    rounds=rounds,
    config=config,
    tables=tables,
    drawn=(Drawn(file=LINES, parts={LINES: lines}),),
    first_rate=None,
    runs="gpu_runs.csv",
)

if __name__ == "__main__":
    # Float32 in full takes four times as long on a card as products of TensorFloat-32, whose
    # factors have 10 bits behind the point. It is no setting of a run, but of the process.
    torch.set_float32_matmul_precision("high")
    STUDY.command_line(__doc__)
