"""Is a larger beta of ABC better? Fills docs/results/larger_beta.md.

    python -m studies.larger_beta run --out runs/larger_beta [--until 22:00]
    python -m studies.larger_beta publish --out runs/larger_beta    # fills the page
    python -m studies.larger_beta page

PPO on film reviews of 24 tokens. `abc` pays a share of the score, beta, by the reward model's
attention and the rest on the last token, so that `sparse` is beta = 0. `uniform` is the control.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from studies.parts import FIGURES, SPEED, Points, by_seed, speed
from studies.token_credit import ENV, ROWS, WARMUP
from tokengym import Comparison
from tokengym.evaluation.report import number, signed
from tokengym.evaluation.runs import EvaluationSettings
from tokengym.evaluation.statistics import paired_difference, student_interval
from tokengym.lab.protocol import LEARNER, PROMPTS
from tokengym.lab.study import NET, Cell, Published, Round, Runs, Study, single_run
from tokengym.lab.tables import (
    after_holm,
    markdown_table,
    mean,
    paired,
    paired_text,
)

TOKENS, UPDATES, RATE, SEEDS = 24, 20, 1e-3, range(30, 40)
"""Of a run: the rate is the one that `sparse` takes on the grid of film_reviews.md by score - c KL,
and no page has film reviews of these seeds."""
GRID = EvaluationSettings(every=2, every_until=10, episodes=PROMPTS, samples=0)
"""Measurement of a run: the least that the protocol allows."""
BETAS = {"0.95": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), "0.8": (0.0, 0.4, 1.0)}
"""Lambda -> the shares that are tried: first the lambda of the paper and of `sparse` on the grid,
then, where time is left, one that hides less of what is paid early."""
PARTS = [*FIGURES][1:]
"""What stands beside score - c KL."""


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


def points_of(runs: Runs, cell: Cell) -> Points:
    """Return a cell's runs, of the seeds that every cell of its lambda has."""
    whole = set.intersection(*({*runs.runs.get(at, {})} for at in arms(cell.gae_lambda)))
    return {seed: runs.runs[cell][seed] for seed in sorted(whole)}


def figure_of(runs: Runs, cell: Cell, name: str) -> dict[int, float]:
    """Return one of `FIGURES` of a cell's runs by seed."""
    return by_seed(points_of(runs, cell), *FIGURES[name])


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


def slopes_of(runs: Runs, gae_lambda: str, name: str, *, least: float = 0.0) -> list[float]:
    """Return the slopes of a figure over the shares of a lambda from the least on, a seed each."""
    shares = zip(BETAS[gae_lambda], arms(gae_lambda), strict=False)  # the control has no share
    by_beta = {beta: figure_of(runs, cell, name) for beta, cell in shares if beta >= least}
    return [*slopes(by_beta).values()]


def betas_table(runs: Runs, lambdas: Sequence[str] = tuple(BETAS)) -> str:
    """Return each share's figures, its difference from beta = 0, and the lines over beta.

    The differences of a lambda are corrected over its shares; the control's is not one of them.

    Args:
        runs: Runs of the study.
        lambdas: The lambdas.
    """
    lines: list[list[str]] = []
    nothing = [""] * len(SPEED)
    for at in lambdas:
        base, *others = arms(at)
        net = {cell: [*figure_of(runs, cell, NET).values()] for cell in (base, *others)}
        leads = {cell: paired_difference(net[cell], net[base]) for cell in others}
        shares = {cell: lead for cell, lead in leads.items() if cell.rule != "uniform"}
        texts = {base: ""} | after_holm(shares, with_wins=False)
        for cell, values in net.items():
            lead = texts[cell] if cell in texts else paired_text(values, net[base])
            parts = (number(mean([*figure_of(runs, cell, of).values()])) for of in PARTS)
            line = [at, f"`{cell.rule}`", number(mean(values)), lead, *parts]
            own, its = points_of(runs, cell), points_of(runs, base)
            lines.append([*line, *(nothing if cell == base else speed(own, its))])
        for what, of in read_across(runs, at).items():
            parts = (signed(mean(of[name])) for name in PARTS)
            lead = paired_text(of[NET], [0.0] * len(of[NET]))
            lines.append([at, what, "", lead, *parts, *nothing])
    return markdown_table(["lambda", "reward", NET, "minus `sparse`", *PARTS, *SPEED], lines)


def read_across(runs: Runs, gae_lambda: str) -> dict[str, dict[str, list[float]]]:
    """Return by figure and seed the lines over beta, and beta 1 minus what stands beside it."""
    found = {
        f"a line from {least:g} to 1": {
            name: slopes_of(runs, gae_lambda, name, least=least) for name in FIGURES
        }
        for least in (0.0, BETAS[gae_lambda][1])
    }
    one, other = STUDY.cell(rule=spelled(1.0), gae_lambda=gae_lambda), BESIDE[gae_lambda]
    both = {name: [figure_of(runs, cell, name) for cell in (one, other)] for name in FIGURES}
    found[f"1 minus {beside_text(other, gae_lambda)}"] = {
        name: [x - y for x, y in zip(*paired(*of), strict=True)] for name, of in both.items()
    }
    return found


def beside_text(cell: Cell, gae_lambda: str) -> str:
    """Return a cell in words, with its lambda if that is another."""
    at = "" if cell.gae_lambda == gae_lambda else f" at {cell.gae_lambda}"
    return f"`{cell.rule}`{at}"


def tables(published: Published) -> dict[str, str]:
    """Return the page's tables by name."""
    return {"betas": betas_table(published.runs)}


def draw(published: Published) -> None:
    """Draw score - c KL over the run by beta for each lambda: means with intervals, and seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    for axes, of in zip(figure.subplots(1, 2, sharey=True), BETAS, strict=True):
        cells = arms(of)[: len(BETAS[of])]
        each = [[*figure_of(published.runs, cell, NET).values()] for cell in cells]
        axes.plot(BETAS[of], each, color="#bbbbbb", linewidth=0.8)
        middle, low, high, _ = student_interval(each)
        axes.errorbar(BETAS[of], middle, [middle - low, high - middle], color="#0072b2", capsize=3)
        axes.set(title=f"lambda {of}", xlabel="beta", xticks=BETAS[of])
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel(f"{NET} over the run")
    figure.savefig(published.folder / "betas.png", dpi=110, metadata={"Software": None})


STUDY = Study(
    document="larger_beta.md",
    folder="larger_beta",
    axes={"rule": str, "gae_lambda": str},
    rounds=rounds,
    config=config,
    tables=tables,
    pictures=draw,
    first_rate=None,
    holm="table",
)

BESIDE = {
    "0.95": STUDY.cell(rule="uniform", gae_lambda="0.95"),
    "0.8": STUDY.cell(rule="sparse", gae_lambda="0.95"),
}
"""Lambda -> what beta 1 is set beside: the control, and `sparse` at the lambda that suits it."""

if __name__ == "__main__":
    STUDY.command_line(__doc__)
