"""Which reward is best by gold? Fills docs/results/rewards.md.

    python -m studies.rewards run --out runs/rewards [--until 22:00]
    python -m studies.rewards publish --out runs/rewards    # fills the page
    python -m studies.rewards page

QuestionAnswer at the task's own settings, as `tokengym compare` runs it, and at other rates. Rules
that spread the reward model's score were trained by studies.other_tasks too, by the protocol. The
questions about new things, and the queries whose type is predicted, were measured at commit
6307f464.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path

from studies.parts import by_seed, lead
from tokengym import Comparison
from tokengym.envs import Task
from tokengym.evaluation.runs import EvaluationSettings, TaskSettings
from tokengym.evaluation.statistics import paired_difference
from tokengym.lab.protocol import chosen_on_others
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
    NOT_YET,
    after_holm,
    difference,
    grouped,
    markdown_table,
    mean,
    paired,
    student_mean,
)

TASK, ENV = "QuestionAnswer", "tokengym/QuestionAnswer-v0"
REWARDS = ("sparse", "uniform", "abc", "r3", "r3-dense")
COLORS = ("#56616f", "#56b4e9", "#0072b2", "#e69f00", "#d55e00")
BEST = "r3-dense"
"""The reward that has the most gold."""
RATE, RATES = 3e-4, (1e-3, 1e-4)
"""The task's own learning rate, and the others that each reward is tried at."""
FEWEST = 5
"""Runs of each reward that are published together."""
GRID = EvaluationSettings(every=3, episodes=128, samples=0)
"""Measurement of a run: that of `tokengym compare` on this task."""
PAIRS = (
    # Credit of the reward model's score.
    ("uniform", "sparse"),
    ("abc", "sparse"),
    ("abc", "uniform"),
    # Credit of R3.
    ("r3-dense", "r3"),
    ("uniform over R3", "r3"),
    ("r3-dense", "uniform over R3"),
    # What is scored.
    ("r3", "sparse"),
    ("r3-dense", "abc"),
    ("r3-dense", "uniform"),
    ("r3", "uniform"),
    ("uniform over R3", "uniform"),
    # What reads the reference.
    ("sparse over gold", "sparse"),
    ("r3", "sparse over gold"),
)
"""Pairs of arms: they show what varies."""
FIGURES = {
    "gold over the run": ("gold_score", "auc"),
    "gold at the end": ("gold_score", "final"),
    "KL at the end": ("kl", "final"),
}
"""Column -> measurement and kind. Scorers of several scales are told by gold alone."""


def arm(name: str, rate: float = RATE) -> Cell:
    """Return the cell of an arm: a reward, or a rule over another score than its own."""
    rule, _, scorer = name.partition(" over ")
    return STUDY.cell(rule=rule, scorer=scorer.lower() or "own", learning_rate=rate)


OTHERS = ("uniform over R3", "sparse over gold")
"""Rules over another score than the reward model's: R3 paid in equal parts, and gold itself, which
is the best that a scorer that reads the reference could be."""


def rounds() -> Iterator[Round]:
    """Yield the cells and the seeds wanted of them, in the order in which they are needed."""
    for seed in range(5):
        yield [*map(arm, REWARDS)], (seed,)
    yield [*map(arm, OTHERS)], range(5)
    for rate in RATES:
        yield [arm(name, rate) for name in (*REWARDS, *OTHERS)], range(5)
    yield [*map(arm, (*REWARDS, *OTHERS))], range(10)


def config(run: Cell, out: Path) -> Comparison:
    """Return the comparison that a run is of."""
    del out
    scorer = None
    if run.scorer != "own":
        task = Task.of(ENV)
        assert task is not None
        bundle = task.own_bundle()
        scorer = str(bundle.encoder) if run.scorer == "r3" else f"rules:path={bundle.gold}"
    return single_run(
        ENV,
        run.rule,
        evaluation=GRID,
        stream="run",
        task=TaskSettings(scorer=scorer),
        learning_rate=run.learning_rate,
    )


# --- page -----------------------------------------------------------------------------------------


def title(name: str) -> str:
    """Return an arm as the tables show it."""
    rule, _, scorer = name.partition(" over ")
    return f"`{rule}`{f' over {scorer}' if scorer else ''}"


def made(runs: Runs, rate: float = RATE) -> list[str]:
    """Return the arms that have as many runs at a rate as are published together."""
    arms = (*REWARDS, *OTHERS)
    return [name for name in arms if len(runs.runs.get(arm(name, rate), {})) >= FEWEST]


def is_whole(runs: Runs) -> bool:
    """Return whether each reward has five runs at the task's own rate: fewer fill no table."""
    return {*REWARDS} <= {*made(runs)}


def levels_table(runs: Runs) -> str:
    """Return each arm's gold and KL, means over the seeds with Student's intervals."""
    lines = []
    for name in made(runs):
        each = [by_seed(runs.runs[arm(name)], *of) for of in FIGURES.values()]
        figures = [student_mean([*values.values()]) for values in each]
        lines.append([title(name), *figures])
    return markdown_table(["reward", *FIGURES], lines)


def whole_rates(runs: Runs) -> list[float]:
    """Return the rates at which every arm has as many runs as are published together."""
    arms = {*REWARDS, *OTHERS}
    return [rate for rate in sorted({RATE, *RATES}) if arms <= {*made(runs, rate)}]


def at_own_rate(
    runs: Runs, name: str, of: tuple[str, str]
) -> tuple[dict[int, float], dict[int, float]]:
    """Return a figure of an arm by seed, each at the rate that the other seeds choose by it.

    Args:
        runs: Runs of the study.
        name: The arm.
        of: The figure, which the rate is chosen by too: the more, the better.

    Returns:
        The figure and the rate, by seed.
    """
    rates = whole_rates(runs)
    each = [by_seed(runs.runs[arm(name, rate)], *of) for rate in rates]
    seeds = sorted(set.intersection(*({*of_rate} for of_rate in each)))
    figures = [[of_rate[seed] for seed in seeds] for of_rate in each]
    chosen = chosen_on_others(rates, seeds, figures)
    return {seed: each[rates.index(rate)][seed] for seed, rate in chosen.items()}, chosen


def rates_text(rates: Mapping[int, float]) -> str:
    """Return the rates of the seeds, each once, with their seeds where there are several."""
    counts = Counter(sorted(rates.values()))
    return ", ".join(f"{rate:g}" + f" ({n})" * (len(counts) > 1) for rate, n in counts.items())


def own_rates_table(runs: Runs) -> str:
    """Return each arm's gold at the end at its own rate, and by how much the best leads there.

    The differences are corrected over all pairs, over the run too.
    """
    if len(whole_rates(runs)) < 2:
        return NOT_YET
    shown = {name: of for name, of in FIGURES.items() if of[0] == "gold_score"}
    each = {
        (name, head): at_own_rate(runs, name, of)
        for name in (*REWARDS, *OTHERS)
        for head, of in shown.items()
    }
    at_end = "gold at the end"
    lines = []
    for name in (*REWARDS, *OTHERS):
        figures, rates = each[name, at_end]
        lines.append([title(name), student_mean([*figures.values()]), rates_text(rates)])
    gaps = {
        (pair, head): paired_difference(*paired(*(each[at, head][0] for at in pair)))
        for pair in PAIRS
        for head in shown
    }
    texts = after_holm(gaps, with_wins=False)
    lines += [
        [f"{title(one)} minus {title(other)}", texts[(one, other), at_end], ""]
        for one, other in PAIRS
        if one == BEST
    ]
    return markdown_table(["reward", at_end, "rate"], lines)


def pairs_table(runs: Runs) -> str:
    """Return the differences that tell credit from what is scored, paired by seed.

    That of KL is without its interval.
    """
    known = made(runs)
    pairs = [pair for pair in PAIRS if {*pair} <= {*known}]
    shown = after_holm(
        {
            (one, other, name): lead(runs.runs[arm(one)], runs.runs[arm(other)], *of)
            for one, other in pairs
            for name, of in FIGURES.items()
        },
        with_wins=False,
    )
    lines = []
    for one, other in pairs:
        *golds, kl = (shown[one, other, name] for name in FIGURES)
        lines.append([f"{title(one)} minus {title(other)}", *golds, kl.partition(" ")[0]])
    return markdown_table(["", *FIGURES], lines)


def entities_table(rows: Sequence[Row]) -> str:
    """Return what each reward gains on known and on new things, and the difference by seed."""
    lines = []
    for rule, of_rule in grouped(rows, lambda row: row["rule"]).items():
        shown, gains = [], {}
        for group, its_rows in grouped(of_rule, lambda row: row["group"]).items():
            start, end = ([row[name] for row in its_rows] for name in ("start", "end"))
            gains[group] = [one - other for one, other in zip(end, start, strict=True)]
            shown += [f"{mean(start):.3f} to {mean(end):.3f}", student_mean(gains[group])]
        gap = difference(paired_difference(gains["known"], gains["new"]))
        lines.append([f"`{rule}`", *shown, gap])
    head = ["reward", "gold, known things", "gain", "gold, new things", "gain", "known minus new"]
    return markdown_table(head, lines)


def tables(published: Published) -> dict[str, str]:
    """Return the page's tables by name."""
    runs, folder = published.runs, published.folder
    of_runs = {
        "rewards": levels_table(runs),
        "pairs": pairs_table(runs),
        "own rates": own_rates_table(runs),
    }
    return {
        **(of_runs if is_whole(runs) else {}),
        "entities": entities_table(read_rows(folder / "entities.csv", text=("rule", "group"))),
    }


def draw(published: Published) -> None:
    """Draw gold and KL of the five rewards over the updates, at the task's own rate."""
    from matplotlib.figure import Figure

    runs = published.runs
    if not is_whole(runs):
        return
    figure = Figure(figsize=(10, 4), layout="constrained")
    titles = {"gold_score": "gold score", "kl": "KL to the reference, nats"}
    for axes, (name, text) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for rule, color in zip(REWARDS, COLORS, strict=True):
            every = [*runs.runs[arm(rule)].values()]
            draw_mean(axes, every, itemgetter(name), color=color, label=rule)
        axes.set(title=text, xlabel="updates of 256 answers")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[1].legend(loc="upper left", fontsize=9)
    figure.savefig(published.folder / "curves.png", dpi=110, metadata={"Software": None})


STUDY = Study(
    document="rewards.md",
    folder="rewards",
    axes={"rule": str, "scorer": "own", "learning_rate": RATE},
    rounds=rounds,
    config=config,
    tables=tables,
    pictures=draw,
    first_rate=None,
    holm="table",
)

if __name__ == "__main__":
    STUDY.command_line(__doc__)
