"""Does token credit end better, or only start faster?

PPO on film reviews for 120 and 480 updates: the score alone, `abc-signed` at its lambda and at one
that rises over the run, and the score under a critic that starts from the reward model. Measured
after every update to 10 and then more coarsely, the learning rate tuned for each on a spare seed.

    python -m studies.end run --out runs/end [--until 22:00] [--part 0/2]
    python -m studies.end publish --out runs/end    # fills the page
    python -m studies.end page
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from tokengym import ComparisonConfig
from tokengym.agents.ppo import (
    AdvantageEstimator,
    PPOSettings,
    RoundTensors,
    register_advantage,
)
from tokengym.evaluation.report import number, signed
from tokengym.evaluation.runs import EvaluationSettings
from tokengym.evaluation.statistics import (
    PairedDifference,
    final_mean,
    paired_difference,
)
from tokengym.lab.gradients.oracle import find_estimator
from tokengym.lab.protocol import (
    FIGURES,
    GOLD_MARGIN,
    LEARNER,
    NET_MARGIN,
    PROMPTS,
    Equivalence,
    level,
    net,
    over_run,
    way,
)
from tokengym.lab.study import (
    Cell,
    Published,
    Round,
    Row,
    Runs,
    Study,
    draw_mean,
    read_rows,
    single_run,
)
from tokengym.lab.tables import (
    after_holm,
    critic_text,
    markdown_table,
    mean,
    paired,
    rates_table,
    student_mean,
    times_as_fast,
    updates_to_shares,
)

ENV = "tokengym/MovieReview-v0"
ROWS = 64
RISING, FROM, TO = "rising", 0.5, 0.95
"""Name of a lambda that rises in a straight line over the run, and its ends."""
EACH_TO = 10
"""Updates from the start that are all measured."""
EVERY = {120: 2, 480: 8}
"""Updates of a run -> updates between two measurements after those."""
SETTINGS = ((48, 120), (24, 120), (96, 120), (48, 480))
"""Tokens of a response and updates of a run, in the order in which they are run."""
TENTH = 0.1
"""Share of a run's measurements that is its end."""
ABOUT = ["tokens", "updates", "rule, lambda"]
LEADS_DRAWN = (-0.3, 0.8)
"""Leads that the picture shows; those of the first updates go beyond it."""
"""Heads of a cell's columns."""
COLORS = ("#0072b2", "#009e73", "#e69f00", "#d55e00")
WAYS = Path("ledger") / "best_of_n.csv"
"""Published levels of the untrained policy's best of n, the ledger's."""


class RisingLambda:
    """GAE whose lambda rises in a straight line over the updates of a run."""

    def __init__(self) -> None:
        self.begin(1)

    def begin(self, updates: int) -> None:
        """Begin a run; its last update has the lambda `TO`."""
        self.updates, self.done = updates, 0

    def __call__(self, played: RoundTensors, settings: PPOSettings) -> tuple[Tensor, Tensor]:
        """Return advantages and returns of the next update, both (batch, time), reward units."""
        at = FROM + (TO - FROM) * min(self.done / max(self.updates - 1, 1), 1.0)
        self.done += 1
        return find_estimator("gae").estimate(played, replace(settings, gae_lambda=at))


RISING_LAMBDA = RisingLambda()


def begin_rising(updates: int) -> str:
    """Begin a run with the rising lambda and return its estimator's name."""
    name = f"gae-{RISING}"
    register_advantage(  # importing the study registers nothing
        AdvantageEstimator(name=name, estimate=RISING_LAMBDA, needs_critic=True, whitens=True)
    )
    RISING_LAMBDA.begin(updates)
    return name


def cells_of(length: int, updates: int) -> list[Cell]:
    """Return the cells of a length of texts and of runs, `sparse` first."""
    at = {"length": length, "updates": updates}
    return [
        STUDY.cell(rule="sparse", gae_lambda="0.95", **at),
        STUDY.cell(rule="abc-signed", gae_lambda="0.5", **at),
        STUDY.cell(rule="abc-signed", gae_lambda=RISING, **at),
        STUDY.cell(rule="sparse", gae_lambda="0.8", critic="reward_model", **at),
    ]


def rounds() -> Iterator[Round]:
    """Yield the cells and the seeds wanted of them, in the order in which they are needed."""
    first, last = SETTINGS[:-1], SETTINGS[-1]
    for length, updates in first:
        yield cells_of(length, updates), range(5)
    for length, updates in first:  # README quotes these; the rising lambda comes after them
        yield [at for at in cells_of(length, updates) if at.gae_lambda != RISING], range(10)
    for length, updates in first:
        yield cells_of(length, updates), range(10)
    for count in (5, 10):
        yield cells_of(*last), range(count)


def config(run: Cell, out: Path) -> ComparisonConfig:
    """Return the comparison that a run is of."""
    del out
    updates = int(run.updates)
    is_rising = run.gae_lambda == RISING
    estimator: dict[str, Any] = {"advantage": begin_rising(updates)} if is_rising else {}
    return single_run(
        ENV,
        run.rule,
        steps=updates,
        batch_size=ROWS,
        max_new_tokens=int(run.length),
        learning_rate=run.rate,
        gae_lambda=FROM if is_rising else float(run.gae_lambda),
        value_network=run.critic,
        **estimator,
        **LEARNER,
        evaluation=EvaluationSettings(
            every=EVERY[updates], every_until=EACH_TO, episodes=PROMPTS, samples=0
        ),
    )


# --- page -----------------------------------------------------------------------------------------


def tables(published: Published) -> dict[str, str]:
    """Return the page's tables by name."""
    runs = published.runs
    ways = ways_of(read_rows(published.folder.parent / WAYS, text=()))
    cells = [cell for setting in SETTINGS for cell in cells_of(*setting)]
    return {
        "ends": ends_table(runs, cells),
        "differences": differences_table(runs, ways),
        "speeds": speeds_table(runs, ways),
        "rates": rates(runs, cells),
    }


def ways_of(drawn: Sequence[Row]) -> dict[int, dict[str, tuple[float, float]]]:
    """Return by length and measure where the way to best-of-16 begins and ends."""
    found = {}
    for length in {int(row["length"]) for row in drawn}:
        here = [row for row in drawn if row["length"] == length]
        found[length] = {"net": way(here), "gold": way(here, lambda row: float(row["gold_score"]))}
    return found


def title(cell: Cell) -> str:
    """Return a cell's rule, lambda and critic as the tables show them."""
    at = f"{FROM:g} to {TO:g}" if cell.gae_lambda == RISING else cell.gae_lambda
    return f"`{cell.rule}`, lambda {at}{critic_text(cell.critic)}"


def about(cell: Cell) -> list[str]:
    """Return the first columns of a cell's line."""
    return [str(int(cell.length)), str(int(cell.updates)), title(cell)]


def end_of(points: Sequence[Row], measure: str) -> float:
    """Return the mean of a measurement, or of score - c KL, over the last tenth of a run."""
    return final_mean([net(row) if measure == "net" else row[measure] for row in points], TENTH)


def ends_of(runs: Runs, cell: Cell, measure: str) -> dict[int, float]:
    """Return `end_of` by seed; {} without runs."""
    return {seed: end_of(p, measure) for seed, p in runs.runs.get(cell, {}).items()}


def ends_table(runs: Runs, cells: Sequence[Cell]) -> str:
    """Return what every cell reaches over the run and in its last tenth."""
    rows = []
    for cell in cells:
        areas = [*runs.areas(cell).values()]
        if len(areas) < 2:
            continue
        curves = [*runs.runs[cell].values()]
        ends = [[end_of(points, m) for points in curves] for m in ("net", *FIGURES)]
        figures = [student_mean(ends[0]), *(number(mean(values)) for values in ends[1:])]
        over = [student_mean(areas), number(mean([over_run(p, "kl") for p in curves]))]
        rows.append([*about(cell), f"{runs.rate(cell):g}", str(len(areas)), *over, *figures])
    head = [*ABOUT, "rate", "pairs", "score - c KL over the run", "KL over the run"]
    head += [f"{name} in the last tenth" for name in ("score - c KL", "score", "gold", "KL")]
    return markdown_table(head, rows)


def differences_table(runs: Runs, ways: Mapping[int, Mapping[str, tuple[float, float]]]) -> str:
    """Return each cell minus `sparse` over the run and at the end, with the tests of level."""
    over: dict[Cell, PairedDifference] = {}
    ends: dict[Cell, PairedDifference] = {}
    gold: dict[Cell, PairedDifference] = {}
    tests: dict[tuple[Cell, str], Equivalence] = {}
    for setting in SETTINGS:
        base, *others = cells_of(*setting)
        for cell in others:
            figure = runs.difference(cell, base)
            if figure is None:
                continue
            over[cell] = figure
            for found, measure in ((ends, "net"), (gold, "gold_score")):
                pairs = paired(*(ends_of(runs, c, measure) for c in (cell, base)))
                found[cell] = paired_difference(*pairs)
                name, margin = ("net", NET_MARGIN) if found is ends else ("gold", GOLD_MARGIN)
                start, goal = ways[int(cell.length)][name]
                tests[cell, name] = level(*pairs, goal - start, margin)
    keyed = {("over", c): f for c, f in over.items()} | {("end", c): f for c, f in ends.items()}
    shown = after_holm(keyed)
    rows = [
        [
            *about(cell),
            shown["over", cell],
            shown["end", cell],
            verdict(tests[cell, "net"]),
            f"{signed(gold[cell].difference)} ({number(gold[cell].low)} to "
            f"{number(gold[cell].high)})",
            verdict(tests[cell, "gold"]),
        ]
        for cell in over
    ]
    head = [*ABOUT, "score - c KL over the run", "in the last tenth", "level there?"]
    return markdown_table([*head, "gold in the last tenth", "level?"], rows)


def verdict(test: Equivalence) -> str:
    """Return what two one-sided tests say, with the 90 % interval and the margin."""
    ends = f"{signed(test.low)} to {signed(test.high)}"
    return f"{'yes' if test.equivalent else 'not shown'}, {ends} of ±{number(test.margin)}"


def speeds_table(runs: Runs, ways: Mapping[int, Mapping[str, tuple[float, float]]]) -> str:
    """Return the updates to shares of the way, and how many times as fast as `sparse` to 75 %."""
    rows = []
    for setting in SETTINGS:
        base, *_ = cells = cells_of(*setting)
        start, goal = ways.get(setting[0], {}).get("net", (0.0, 1.0))
        for cell in cells:
            steps = [*runs.steps(cell, start, goal).values()]
            if len(steps) < 2:
                continue
            times = None if cell == base else runs.speed(cell, base, start, goal)
            rows.append([*about(cell), updates_to_shares(steps), times_as_fast(times)])
    head = [*ABOUT, "updates to 50 / 75 / 90 %", "times as fast to 75 %"]
    return markdown_table(head, rows)


def rates(runs: Runs, cells: Sequence[Cell]) -> str:
    """Return what each rate of the sweeps has reached."""
    swept = {tuple(about(cell)): runs.sweeps[cell] for cell in cells if cell in runs.sweeps}
    return rates_table(swept, ABOUT, with_best=True)


def draw(file: Path, runs: Runs) -> None:
    """Draw each arm's lead on `sparse` over the updates, paired by seed, with 95 % intervals."""
    from matplotlib.figure import Figure

    settings = [s for s in SETTINGS if len(runs.runs.get(cells_of(*s)[0], {})) > 1]
    settings.sort(key=lambda setting: setting[::-1])
    if not settings:
        return
    figure = Figure(figsize=(9, 6.2), layout="constrained")
    panels = [*figure.subplots(2, 2).flat]
    for axes, setting in zip(panels, settings, strict=False):
        sparse, *arms = cells_of(*setting)
        for arm, color in zip(arms, COLORS[1:], strict=True):
            leads = leads_of(runs.runs.get(arm, {}), runs.runs[sparse])
            if len(leads) > 1:
                shown = title(arm).replace("`", "")
                draw_mean(axes, leads, lambda row: row["lead"], color=color, label=shown)
        axes.axhline(0, color="#56616f", linewidth=1)
        axes.set_ylim(*LEADS_DRAWN)
        axes.set_title(f"{setting[0]} tokens, {setting[1]} updates", fontsize=11)
        axes.set_xlabel("updates")
    for axes in panels[::2]:
        axes.set_ylabel("score - c KL, minus sparse")
    for axes in panels[len(settings) :]:
        axes.set_axis_off()
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=3, fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130, metadata={"Software": None})


def leads_of(
    ours: Mapping[int, Sequence[Row]], theirs: Mapping[int, Sequence[Row]]
) -> list[list[Row]]:
    """Return one run's lead on the other's by seed, at each measurement that both have."""
    found: list[list[Row]] = []
    for seed in sorted(ours.keys() & theirs.keys()):
        other = {row["step"]: net(row) for row in theirs[seed]}
        mine = [row for row in ours[seed] if row["step"] in other]
        found.append([{"step": r["step"], "lead": net(r) - other[r["step"]]} for r in mine])
    return found


STUDY = Study(
    document="end.md",
    folder="end",
    axes={
        "rule": str,
        "gae_lambda": str,
        "critic": "own",
        "length": int,
        "updates": int,
    },
    rounds=rounds,
    config=config,
    tables=tables,
    pictures=lambda published: draw(published.folder / "curves.png", published.runs),
)

if __name__ == "__main__":
    STUDY.command_line(__doc__)
