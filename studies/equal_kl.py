"""Who has more score where every arm is trained to the same KL?

`sparse`, `uniform`, `abc-signed` and `sparse` with a critic from the reward model, each held at 2,
5 and 10 nats per response by a price that follows the KL (`kl_target`), on film reviews of 48
tokens and on Detox. Each run is read over the last five measurements in a row at its target.

    python -m studies.equal_kl run --out runs/equal_kl [--until 22:00] [--part 0/2]
    python -m studies.equal_kl publish --out runs/equal_kl    # fills the page
    python -m studies.equal_kl page
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from tokengym import Comparison
from tokengym.evaluation.report import number
from tokengym.evaluation.runs import EvaluationSettings, RunRecord
from tokengym.evaluation.statistics import (
    COUNT,
    Curve,
    EqualKL,
    compare_at_kl,
)
from tokengym.lab.protocol import LEARNER, MEASURES
from tokengym.lab.study import Cell, Published, Round, Row, Runs, Study, draw_mean, single_run
from tokengym.lab.tables import (
    NONE,
    after_holm,
    critic_text,
    difference_text,
    markdown_table,
    mean,
)

TASKS = ("MovieReview", "Detox")
ARMS = {
    "sparse": {"rule": "sparse", "gae_lambda": "0.95", "critic": "own"},
    "uniform": {"rule": "uniform", "gae_lambda": "0.95", "critic": "own"},
    "abc-signed": {"rule": "abc-signed", "gae_lambda": "0.5", "critic": "own"},
    "started": {"rule": "sparse", "gae_lambda": "0.8", "critic": "reward_model"},
}
"""Arm -> its cell's values; the first is the baseline. Lambdas are those of the tasks' pages."""
TARGETS = (5.0, 2.0, 10.0)
"""Nats per response, in the order in which they are run."""
PRICES = {
    ("MovieReview", "sparse"): {2.0: 0.7, 5.0: 0.18, 10.0: 0.064},
    ("MovieReview", "uniform"): {2.0: 0.39, 5.0: 0.11, 10.0: 0.041},
    ("MovieReview", "abc-signed"): {2.0: 0.36, 5.0: 0.092, 10.0: 0.033},
    ("MovieReview", "started"): {2.0: 0.55, 5.0: 0.115, 10.0: 0.035},
    ("Detox", "sparse"): {2.0: 0.6, 5.0: 0.035, 10.0: 0.006},
    ("Detox", "uniform"): {2.0: 0.4, 5.0: 0.03, 10.0: 0.005},
    ("Detox", "abc-signed"): {2.0: 0.5, 5.0: 0.03, 10.0: 0.005},
    ("Detox", "started"): {2.0: 0.6, 5.0: 0.035, 10.0: 0.006},
}
"""Task and arm -> target -> the price at which runs at a fixed price end there after 30 updates, by
a line through earlier ones on logarithmic axes."""
FALLS = {2.0: 2.4, 5.0: 3.0, 10.0: 3.8}
"""Target -> factor on that price at the start: a fifth goes in each update until KL is there."""
HORIZON = 64
"""Episodes over which the price corrects itself: by 20 % an update at most."""
AIM = 1.05
"""What the controller aims at, in targets: while the rate falls to 0 the policy comes back towards
its reference faster than the price follows, by 5 to 10 % in the pilot."""
UPDATES, ROWS, TOKENS, WARMUP, PAIRS = 40, 64, 48, 5, 5
GRID = EvaluationSettings(every=2, episodes=128, samples=0)
"""Held-out measurements, in steps of less than a nat around the target."""
NOT_KNOWN = "not known"
"""What stands where fewer than three pairs can be read."""
TESTED = ("score", "gold_score")
"""What is compared at a target, corrected over both."""
WINDOWS = (3, 8)
"""Measurements in a row by which the scores are read besides."""
LAST = 5
"""Rounds at the end whose mean KL is held to the target: 320 responses."""
TUNED_AT = 5.0
"""Nats of the cell whose sweep chooses the rate of an arm at each target."""
FAR = 0.2
"""Share of the target beyond which a rate is not chosen while another is nearer."""
COLORS = ("#56616f", "#0072b2", "#009e73", "#d55e00")


def cell_of(task: str, arm: str, target: float) -> Cell:
    """Return the cell of an arm."""
    return STUDY.cell(task=task, target=target, **ARMS[arm])


def arm_of(cell: Cell) -> str:
    """Return the arm that a cell is of."""
    return next(arm for arm, about in ARMS.items() if about.items() <= cell.items())


def tuned_as(cell: Cell) -> Cell:
    """Return the cell whose sweep chooses a cell's rate."""
    return cell.but(target=TUNED_AT)


def rounds() -> Iterator[Round]:
    """Yield the cells and the seeds wanted of them, in the order in which they are needed."""
    for target, task in product(TARGETS, TASKS):
        yield [cell_of(task, arm, target) for arm in ARMS], range(PAIRS)


def config(run: Cell, out: Path) -> Comparison:
    """Return the comparison that a run is of."""
    del out
    learner = {
        **LEARNER,
        "kl_coef": FALLS[run.target] * PRICES[run.task, arm_of(run)][run.target],
        "kl_target": AIM * run.target,
        "kl_horizon": float(HORIZON),
        "n_warmup_updates": WARMUP,
    }
    return single_run(
        f"tokengym/{run.task}-v0",
        run.rule,
        updates=UPDATES,
        batch_size=ROWS,
        max_new_tokens=TOKENS,
        learning_rate=float(run.rate),
        gae_lambda=float(run.gae_lambda),
        value_network=run.critic,
        **learner,
        evaluation=GRID,
    )


def measure(run: Cell, record: RunRecord) -> list[Row]:
    """Return a row per update: the policy after it by its next round, the last one held out.

    Columns that begin with ``round_`` are of the 64 responses that the policy was trained on next.
    The KL of each is exact over the vocabulary, so that the course of a run costs no measurement.

    Args:
        run: The run's cell.
        record: Its record.
    """
    del run
    held_out = {point["step"]: point for point in record.points}
    logged = [*record.log, {}]
    rows: list[Row] = []
    for step, log in enumerate(logged):
        row = {name: held_out.get(step, {}).get(name) for name in MEASURES} | {"step": step}
        row |= {f"round_{name}": log.get(name) for name in ("score", "kl")}
        row["price"] = log.get("kl_coef")
        rows.append({k: None if v is None else round(v, 4) for k, v in row.items()})
    return rows


def kl_of_last(points: Sequence[Row]) -> float:
    """Return the mean KL of a run's last rounds, nats."""
    return mean([row["round_kl"] for row in points[-1 - LAST : -1]])


def worth(points: Sequence[Row], price: float) -> float:
    """Return what a rate is chosen by: the gain at the end, brought to the target.

    (score_end - score_0) * sqrt(target / kl)          within `FAR` of the target
    -abs(log(kl / target)) - FAR                       further from it: behind all others

    Score rises about with the root of the KL, so that a rate is not chosen for ending 4 % beyond.

    Args:
        points: The run.
        price: Not used: no price is fixed.
    """
    del price
    ratio = max(kl_of_last(points), 1e-3) / points[-1]["target"]
    if abs(ratio - 1.0) > FAR:
        return -abs(math.log(ratio)) - FAR
    return float(max((points[-1]["score"] - points[0]["score"]) / math.sqrt(ratio), -FAR))


# --- page -----------------------------------------------------------------------------------------


def made(runs: Runs, cell: Cell) -> Mapping[int, Sequence[Row]]:
    """Return a cell's runs by seed."""
    return runs.runs.get(cell, {})


def measured(points: Sequence[Row]) -> Curve:
    """Return the policies of a run whose KL was measured twice, held out and by its next round."""
    rows = [row for row in points if row["step"] > 0 and None not in (row["kl"], row["round_kl"])]
    return Curve.of(rows, ("tokens", "score", "gold_score", "kl", "round_kl"))


def at_kl(
    runs: Runs, cell: Cell, base: Cell, *, measure: str = "score", count: int = COUNT
) -> EqualKL | None:
    """Return what a cell and the baseline have at their target.

    Args:
        runs: Runs of the study.
        cell: The cell.
        base: The baseline's at the same target.
        measure: Measurement that is compared.
        count: Measurements in a row whose mean is read.
    """
    arm, other = (
        {seed: measured(points) for seed, points in made(runs, at).items()} for at in (cell, base)
    )
    if not arm.keys() & other.keys():
        return None
    return compare_at_kl(arm, other, float(cell.target), measure=measure, count=count)


def compared(runs: Runs) -> Iterator[tuple[Cell, Cell]]:
    """Yield every cell with runs that is not the baseline's, and the baseline's beside it."""
    base, *others = ARMS
    for task, target, arm in product(TASKS, sorted(TARGETS), others):
        cells = cell_of(task, arm, target), cell_of(task, base, target)
        if all(made(runs, cell) for cell in cells):
            yield cells


def name_of(cell: Cell) -> str:
    """Return an arm in words."""
    return f"`{cell.rule}`{critic_text(cell.critic)}"


def answer_table(runs: Runs) -> str:
    """Return every arm minus `sparse` at its target: score and gold, and when they were there.

    The scores by other windows stand beside those that are tested.
    """
    cells = [*compared(runs)]
    found = {(m, cell): at_kl(runs, cell, b, measure=m) for m in TESTED for cell, b in cells}
    texts = after_holm({key: at.difference for key, at in found.items() if at is not None})
    lines = []
    for cell, base in cells:
        at = found["score", cell]
        reached = nats = when = NONE
        if at is not None:
            reached = f"{number(at.value)} and {number(at.baseline_value)}"
            nats = f"{number(at.own_kl)} and {number(at.baseline_kl)}"
            when = f"{at.update:.0f} and {at.baseline_update:.0f}"
            when += {1: ", earlier", -1: ", later", 0: ""}[at.earlier]
        windows = [at_kl(runs, cell, base, count=count) for count in WINDOWS]
        beside = [NOT_KNOWN if one is None else difference_text(one.difference) for one in windows]
        differences = [texts.get((m, cell), NOT_KNOWN) for m in TESTED]
        lines.append([*_about(cell), reached, *differences, *beside, nats, when])
    heads = ["task", "nats", "arm", "score of it and of `sparse`", "score", "gold"]
    heads += [f"score, of {count} measurements" for count in WINDOWS]
    return markdown_table([*heads, "KL of the two", "update of the two"], lines)


def _about(cell: Cell) -> tuple[str, str, str]:
    return cell.task, f"{cell.target:g}", name_of(cell)


def tables(published: Published) -> dict[str, str]:
    """Return the page's tables by name."""
    runs = published.runs
    return {
        "answer": answer_table(runs),
    }


def pictures(published: Published) -> None:
    """Draw score and KL of the rounds over the updates, for each task and target with runs."""
    from matplotlib.figure import Figure

    runs = published.runs
    drawn = [
        (task, target)
        for task, target in product(TASKS, sorted(TARGETS))
        if any(len(made(runs, cell_of(task, arm, target))) > 1 for arm in ARMS)
    ]
    if not drawn:
        return
    published.folder.mkdir(exist_ok=True)
    figure = Figure(figsize=(2 + 2.6 * len(drawn), 6), layout="constrained")
    panels = figure.subplots(2, len(drawn), sharex=True, squeeze=False)
    for column, (task, target) in zip(panels.T, drawn, strict=True):
        for axis, name in zip(column, ("score", "kl"), strict=True):
            for arm, color in zip(ARMS, COLORS, strict=True):
                cell = cell_of(task, arm, target)
                if len(of_cell := made(runs, cell)) > 1:
                    rows = [points[:-1] for points in of_cell.values()]
                    label = name_of(cell).replace("`", "")
                    draw_mean(axis, rows, _round_of(name), color=color, label=label)
        column[0].set_title(f"{task}, {target:g} nats", fontsize=9)
        column[1].axhline(target, color="black", linewidth=0.8, linestyle=":")
        column[1].set_xlabel("updates")
    panels[0, 0].set_ylabel("score of the round")
    panels[1, 0].set_ylabel("KL of the round, nats")
    handles = panels[0, 0].get_legend_handles_labels()
    figure.legend(
        *handles, loc="outside upper center", ncols=min(len(ARMS), 2 * len(drawn)), fontsize=9
    )
    file = published.folder / "rounds.png"
    figure.savefig(file, dpi=110, metadata={"Software": None})


def _round_of(measure: str) -> Callable[[Row], Any]:
    return lambda row: row[f"round_{measure}"]


STUDY = Study(
    document="equal_kl.md",
    folder="equal_kl",
    axes={"task": str, "rule": str, "gae_lambda": str, "critic": "own", "target": float},
    rounds=rounds,
    config=config,
    measure=measure,
    criterion=worth,
    tuned_as=tuned_as,
    tables=tables,
    pictures=pictures,
)

if __name__ == "__main__":
    STUDY.command_line(__doc__)
