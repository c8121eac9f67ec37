"""Is a larger beta of ABC better? Fills docs/results/larger_beta.md.

    python -m studies.larger_beta run --out runs/larger_beta [--until 22:00]
    python -m studies.larger_beta publish --out runs/larger_beta    # fills the page
    python -m studies.larger_beta page

PPO on film reviews of 24 tokens. `abc` pays a share of the score, beta, by the reward model's
attention and the rest on the last token, so that `sparse` is beta = 0. `uniform` is the control.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from studies.parts import by_seed
from studies.token_credit import ENV, ROWS, WARMUP, WAYS
from tokengym import Comparison
from tokengym.evaluation.report import signed
from tokengym.evaluation.runs import EvaluationSettings
from tokengym.evaluation.statistics import paired_difference
from tokengym.lab.protocol import LEARNER, PROMPTS, level, way
from tokengym.lab.study import NET, Cell, Published, Round, Runs, Study, read_rows, single_run
from tokengym.lab.tables import (
    after_holm,
    difference,
    markdown_table,
    paired,
    paired_text,
    student_mean,
    times_as_fast,
)

TOKENS, UPDATES, RATE, SEEDS = 24, 20, 1e-3, range(30, 40)
"""Of a run: the rate is the one that `sparse` takes on the grid of film_reviews.md by score - c KL,
and no page has film reviews of these seeds."""
GRID = EvaluationSettings(every=2, every_until=10, episodes=PROMPTS, samples=0)
"""Measurement of a run: the least that the protocol allows."""
BETAS = {"0.95": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), "0.8": (0.0, 0.4, 1.0)}
"""Lambda -> the shares that are tried: first the lambda of the paper and of `sparse` on the grid,
then, where time is left, one that hides less of what is paid early."""
FIGURES = {
    f"{NET} over the run": ("net", False),
    "score over the run": ("score", False),
    "gold at the end": ("gold_score", True),
    "KL over the run, nats": ("kl", False),
}
"""Column -> measurement, and whether it is that of the last tenth of the run or its mean."""
PRIMARY = next(iter(FIGURES))


def spelled(beta: float) -> str:
    """Return the reward that pays a share by attention; 0 of it is `sparse`."""
    return f"abc:beta={beta:g}" if beta else "sparse"


def arms(gae_lambda: str) -> list[Cell]:
    """Return the cells of a lambda: the shares in order, and the control where it has one."""
    control = ["uniform"] if gae_lambda == "0.95" else []
    rules = [*map(spelled, BETAS[gae_lambda]), *control]
    return [STUDY.cell(rule=rule, gae_lambda=gae_lambda) for rule in rules]


def rounds() -> Iterator[Round]:
    """Yield the cells and the seeds wanted of them, seed by seed, a lambda after the other."""
    for gae_lambda in BETAS:
        for seed in SEEDS:
            yield arms(gae_lambda), (seed,)


def config(run: Cell, out: Path) -> Comparison:
    """Return the comparison that a run is of."""
    del out
    return single_run(
        ENV,
        run.rule,
        updates=UPDATES,
        batch_size=ROWS,
        max_new_tokens=TOKENS,
        learning_rate=RATE,
        gae_lambda=float(run.gae_lambda),
        n_warmup_updates=WARMUP,
        **LEARNER,
        evaluation=GRID,
        stream="run",
    )


# --- page -----------------------------------------------------------------------------------------


def figure_of(runs: Runs, cell: Cell, name: str) -> dict[int, float]:
    """Return a figure of a cell's runs by seed, of the seeds that every cell of its lambda has."""
    measure, at_end = FIGURES[name]
    whole = set.intersection(*({*runs.runs.get(at, {})} for at in arms(cell.gae_lambda)))
    figures = by_seed(runs, cell, measure, at_end=at_end)
    return {seed: figures[seed] for seed in sorted(whole)}


def slopes(by_beta: Mapping[float, Mapping[int, float]]) -> dict[int, float]:
    """Return by seed the slope of a figure over beta, by least squares.

    Args:
        by_beta: Beta -> the figure by seed.

    Example:
        >>> slopes({0.0: {7: 1.0}, 0.5: {7: 1.0}, 1.0: {7: 1.5}})
        {7: 0.5}
    """
    betas = np.array([*by_beta])
    about = betas - betas.mean()
    return {
        seed: float(about @ [of[seed] for of in by_beta.values()] / (about @ about))
        for seed in next(iter(by_beta.values()))
    }


def slopes_of(runs: Runs, gae_lambda: str, name: str) -> list[float]:
    """Return the slopes of a figure over the shares of a lambda, a seed each."""
    shares = zip(BETAS[gae_lambda], arms(gae_lambda), strict=False)  # the control has no share
    return [*slopes({beta: figure_of(runs, cell, name) for beta, cell in shares}).values()]


def betas_table(runs: Runs, gae_lambda: str, start: float, goal: float) -> str:
    """Return each share's figures and its difference from beta = 0, and the slopes over beta.

    The differences are corrected over the shares; the control's is not one of them.

    Args:
        runs: Runs of the study.
        gae_lambda: The lambda.
        start: score - c KL of the untrained policy.
        goal: That of the best of its responses, where the way ends.
    """
    base, *others = arms(gae_lambda)
    net = {cell: figure_of(runs, cell, PRIMARY) for cell in (base, *others)}
    if not net[base]:
        return "Not measured yet."
    leads = {cell: paired_difference(*paired(net[cell], net[base])) for cell in others}
    shared = {cell: at for cell, at in leads.items() if cell.rule != "uniform"}
    texts = after_holm(shared)
    lines = []
    for cell in (base, *others):
        figures = [student_mean([*figure_of(runs, cell, name).values()]) for name in FIGURES]
        lead = texts.get(cell) or (
            "" if cell == base else paired_text(*paired(net[cell], net[base]))
        )
        speed = "" if cell == base else times_as_fast(runs.speed(cell, base, start, goal))
        lines.append([f"`{cell.rule}`", figures[0], lead, *figures[1:], speed])
    trends = {name: slopes_of(runs, gae_lambda, name) for name in FIGURES}
    shown = [difference(paired_difference(of, [0.0] * len(of))) for of in trends.values()]
    lines.append(["from beta 0 to 1, by a line", "", *shown, ""])
    head = ["reward", PRIMARY, "minus `sparse`", *[*FIGURES][1:], "times as fast"]
    return markdown_table(head, lines)


def is_level(runs: Runs, gae_lambda: str, start: float, goal: float) -> str:
    """Return whether the slope is within the margin of no difference, with its 90 % interval."""
    of = slopes_of(runs, gae_lambda, PRIMARY)
    test = level(of, [0.0] * len(of), goal - start)
    said = "level" if test.equivalent else "not shown to be level"
    return f"{said}: {signed(test.low)} to {signed(test.high)}, margin {test.margin:.3f}"


def tables(published: Published) -> dict[str, str]:
    """Return the page's tables by name."""
    drawn = read_rows(published.folder.parent / "film_reviews" / WAYS, text=())
    ends = way([row for row in drawn if row["length"] == TOKENS])
    return {f"lambda {at}": betas_table(published.runs, at, *ends) for at in BETAS}


STUDY = Study(
    document="larger_beta.md",
    folder="larger_beta",
    axes={"rule": str, "gae_lambda": str},
    rounds=rounds,
    config=config,
    tables=tables,
    first_rate=None,
    holm="table",
)

if __name__ == "__main__":
    STUDY.command_line(__doc__)
