"""What is token credit worth, and how much of it is lambda or the critic?

PPO on MovieReview under every rule, lambda and critic, with the learning rate tuned for each such
cell on a spare seed, and measured as docs/results/protocol.md says; and some of it again with a
point after every update. Published runs are not run again.

    python -m studies.ledger run --out runs/ledger [--until 12:25] [--part 0/2]
    python -m studies.ledger_noise --out runs/ledger
    python -m studies.ledger publish --out runs/ledger
    python -m studies.ledger run-fine --out runs/fine
    python -m studies.ledger publish-fine --out runs/fine
    python -m studies.ledger page
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from studies import ledger_fine
from studies.ledger_cells import (
    AT_CONTINUED,
    AT_LENGTHS,
    AT_LLAMA,
    AT_LONGER,
    AT_VINEPPO,
    AXES,
    CONTROLS,
    CRITICS,
    FOLDER,
    LAMBDAS,
    LENGTHS,
    LONGER,
    RULES,
    UPDATES,
    WAYS,
    WAYS_DRAWN,
    WORDS,
    config,
    lambda_of,
    make_cell,
    rounds,
)
from studies.ledger_fine import FINE, label
from studies.ledger_noise import (
    CONTINUED,
    EXACT,
    NOISE,
    PERFECT,
    POLICIES,
    of_gradient,
)
from tokengym.evaluation.report import number, percent
from tokengym.evaluation.statistics import FASTER_AT, SHARES, PairedDifference, student_interval
from tokengym.lab.makers.bundles.other_reward_models import LLAMA, MISALIGNED
from tokengym.lab.protocol import FIGURES, net, way
from tokengym.lab.study import (
    DOCS,
    NET,
    Cell,
    Docs,
    Out,
    Published,
    Row,
    Runs,
    Study,
    command_line,
    draw_mean,
    read_rows,
)
from tokengym.lab.tables import (
    NONE,
    NOT_YET,
    Speed,
    after_holm,
    fill,
    markdown_table,
    mean,
    student_mean,
    times_as_fast,
    updates_to_shares,
)
from tokengym.rewards import Credit, RewardChoice

CRITIC_LABELS = {
    "own": "network of its own",
    "trunk": "head on the policy",
    "none": "none",
    "vineppo": "VinePPO",
}
MODEL_LABELS = {
    "the bundled one": "aligned",
    "spoilt attention": MISALIGNED,
    "a Llama": LLAMA,
}
"""By title: the reward model."""
AT_MODELS = (*AT_LLAMA, make_cell(rule="red:delivery=end"))
"""Cells by which the reward models are compared."""
CONTRASTS = (
    ("abc-signed minus sparse, both at lambda 0.95", "abc-signed", "0.95", "0.95"),
    ("both at lambda 1", "abc-signed", "1", "1"),
    ("each at the lambda that suits it", "abc-signed", "0.5", None),
    ("uniform at 0.95 minus sparse at its best", "uniform", "0.95", None),
)
"""Title, rule, lambda, and the lambda of `sparse`; None: its best."""
AT_SPEEDS = (
    make_cell(rule="uniform"),
    make_cell(rule="abc-signed", gae_lambda="0.5"),
    make_cell(rule="abc-signed"),
    make_cell(rule=WORDS),
)
"""Whose speeds are set beside that of `sparse`."""
COLORS = {"0": "#cc79a7", "0.5": "#009e73", "0.95": "#0072b2", "1-1/n": "#e69f00", "1": "#d55e00"}
MARKERS = {"0": "v", "0.5": "D", "0.95": "o", "1-1/n": "P", "1": "s"}
"""By lambda, as in the other pictures of the page."""


# --- tables ---------------------------------------------------------------------------------------


def settings_with_runs(ledger: Runs, **at: Any) -> list[Cell]:
    """Return the settings in which a rule has runs: critic by critic, lambdas rising."""
    order = sorted(LAMBDAS, key=lambda name: lambda_of(name, 48))
    cells = [
        make_cell(rule="sparse", gae_lambda=name, critic=critic, **at)
        for critic in CRITICS
        for name in order
    ]
    return [
        cell for cell in cells if any(len(ledger.areas(cell.but(rule=rule))) > 1 for rule in RULES)
    ]


def chosen(ledger: Runs, rules: Sequence[str], settings: Sequence[Cell]) -> Cell | None:
    """Return the cell of the rules that did best on the spare seed, None without any run."""
    return ledger.chosen(cell.but(rule=rule) for cell in settings for rule in rules)


def title(cell: Cell) -> str:
    """Return a setting's name."""
    return f"{CRITIC_LABELS[cell.critic]}, lambda {cell.gae_lambda}"


def setting(cell: Cell) -> str:
    """Return a setting's name where a critic of its own goes without saying."""
    critic = {"own": "", "trunk": "head on the policy, ", "none": "no critic, "}[cell.critic]
    return f"{critic}lambda {cell.gae_lambda}"


def areas_table(ledger: Runs, settings: Sequence[Cell]) -> str:
    """Return the mean of score - c KL over the run, a row per rule and a column per setting."""
    rows = []
    for rule in RULES:
        areas = [list(ledger.areas(column.but(rule=rule)).values()) for column in settings]
        rows.append([label(rule), *(student_mean(a) if len(a) > 1 else NONE for a in areas)])
    return markdown_table(["rule", *map(title, settings)], rows)


def differences_table(ledger: Runs, settings: Sequence[Cell]) -> str:
    """Return each cell's difference from `sparse` at the lambda that suits it, clear ones in bold.

    That lambda is the best of the spare seed under the same critic.
    """
    differences: dict[tuple[str, Cell], PairedDifference] = {}
    for column in settings:
        same = [other for other in settings if other.critic == column.critic]
        baseline = chosen(ledger, ["sparse"], same)
        if baseline is None:
            continue
        for rule in RULES:
            cell = column.but(rule=rule)
            figure = None if cell == baseline else ledger.difference(cell, baseline)
            if figure is not None:
                differences[rule, column] = figure
    shown = after_holm(differences)
    rows = [
        [label(rule), *(shown.get((rule, column), NONE) for column in settings)] for rule in RULES
    ]
    return markdown_table(["rule", *map(title, settings)], rows)


def gains(docs: Path = DOCS) -> dict[str, PairedDifference]:
    """Return each rule's difference from sparse, at its own lambda with a critic of its own.

    Args:
        docs: Folder of the published curves.

    Returns:
        By rule, score - c KL over the run, the rate tuned for each rule.
    """
    ledger = STUDY.published(docs).runs
    sparse = make_cell(rule="sparse")
    found = {rule: ledger.difference(cell, sparse) for rule, cell in _own(RULES[1:-1])}
    return {rule: gain for rule, gain in found.items() if gain is not None}


def tuned(docs: Path = DOCS) -> dict[str, list[float]]:
    """Return score - c KL over the run by rule and seed, those of `sparse` too.

    Args:
        docs: Folder of the published curves.

    Returns:
        By rule, in the order of the seeds that all of them have; lambda and rate as in `gains`.
    """
    ledger = STUDY.published(docs).runs
    areas = {rule: ledger.areas(cell) for rule, cell in _own(RULES[:-1])}
    areas = {rule: by_seed for rule, by_seed in areas.items() if by_seed}
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in areas.values())))
    return {rule: [by_seed[seed] for seed in seeds] for rule, by_seed in areas.items()}


def _own(rules: Iterable[str]) -> Iterator[tuple[str, Cell]]:
    """Yield each rule with its cell at the lambda that it declares."""
    for rule in rules:
        made = RewardChoice.of(rule).made
        own_lambda = made.gae_lambda if isinstance(made, Credit) else None
        at = 0.95 if own_lambda is None else own_lambda
        yield rule, make_cell(rule=rule, gae_lambda=f"{at:g}")


def compared(
    ledger: Runs, cells: Iterable[Cell], baselines: Mapping[str, Cell], what: str
) -> dict[tuple[Cell, str], tuple[PairedDifference, str]]:
    """Return cells' differences from a baseline per place, and how the page shows them.

    Clear differences are bold, after Holm's correction over all.

    Args:
        ledger: The runs.
        cells: What is compared, with the page's own place.
        baselines: Place -> the cell that others are compared with there.
        what: Field of a cell that is the place.
    """
    figures = {
        (cell, title): figure
        for cell in cells
        for title, baseline in baselines.items()
        if (here := cell.but(**{what: getattr(baseline, what)})) != baseline
        and (figure := ledger.difference(here, baseline)) is not None
    }
    shown = after_holm(figures)
    return {name: (figure, shown[name]) for name, figure in figures.items()}


def models_table(ledger: Runs) -> str:
    """Return each rule beside `sparse` with a critic of its own, by reward model."""
    baselines = {
        name: cell
        for name, model in MODEL_LABELS.items()
        if len(ledger.areas(cell := make_cell(rule="sparse", model=model))) > 1
    }
    differences = compared(ledger, AT_MODELS, baselines, "model")
    level = [student_mean(list(ledger.areas(cell).values())) for cell in baselines.values()]
    rows = [["`sparse`, lambda 0.95", *level]]
    for cell in AT_MODELS[1:]:
        line = [differences.get((cell, name), (None, NONE))[1] for name in baselines]
        rows.append([f"{label(cell.rule)}, {setting(cell)}", *line])
    return markdown_table(["", *baselines], rows)


@dataclass(frozen=True)
class AtLength:
    """Measures by which the lengths are compared."""

    start: float
    """score - c KL of the untrained policy."""
    goal: float
    """That of the best of 16 of its responses."""
    sparse: Cell
    """`sparse` at the lambda and critic that suit it."""

    def speed(self, runs: Runs, cell: Cell) -> Speed | None:
        """Return how many times as fast as `sparse` a cell comes three quarters of the way."""
        return runs.speed(cell, self.sparse, self.start, self.goal)

    def share(self, gain: float) -> float:
        """Return a gain as a share of the way from start to goal."""
        return gain / (self.goal - self.start)


def lengths_of(ledger: Runs, ways: Sequence[Row], updates: int = UPDATES) -> dict[int, AtLength]:
    """Return the lengths at which `sparse` has runs.

    Args:
        ledger: The runs.
        ways: The best of n untrained responses by length.
        updates: Updates of the runs.
    """
    by_length = {}
    for length in LENGTHS:
        settings = settings_with_runs(ledger, length=length, updates=updates)
        sparse = chosen(ledger, ["sparse"], settings)
        drawn = [row for row in ways if row["length"] == length]
        if sparse is not None and drawn:
            start, goal = way(drawn)
            by_length[length] = AtLength(start=start, goal=goal, sparse=sparse)
    return by_length


def lengths_table(ledger: Runs, ways: Sequence[Row]) -> str:
    """Return what is run at other lengths by length, as its difference from `sparse` at its best.

    Clear differences are bold, after Holm's correction over the table; the last figure of a cell is
    a share of the way from the untrained policy to the best of 16 of its responses.
    """
    lengths = {f"{length} tokens": here for length, here in lengths_of(ledger, ways).items()}
    baselines = {title: here.sparse for title, here in lengths.items()}
    differences = compared(ledger, AT_LENGTHS, baselines, "length")
    level = []
    for here in lengths.values():
        areas = list(ledger.areas(here.sparse).values())
        share = percent(here.share(mean(areas) - here.start))
        level.append(f"{student_mean(areas)}, {setting(here.sparse)}; {share}")
    rows = [
        ["untrained", *(number(here.start) for here in lengths.values())],
        ["best of 16, untrained", *(number(here.goal) for here in lengths.values())],
        ["`sparse`", *level],
    ]
    for cell in AT_LENGTHS:
        line = [f"{label(cell.rule)}, {setting(cell)}"]
        for title, here in lengths.items():
            figure, text = differences.get((cell, title), (None, NONE))
            share = "" if figure is None else f"; {percent(here.share(figure.difference))}"
            line.append(f"{text}{share}")
        rows.append(line)
    return markdown_table(["", *lengths], rows)


def speeds_table(ledger: Runs, ways: Sequence[Row]) -> str:
    """Return the updates that a rule takes to shares of the way to best-of-16, by length.

    The last figure is how many times as fast as `sparse` it is at the second share; where `sparse`
    does not come there, what the slowest run has been faster by already.
    """
    lengths = lengths_of(ledger, ways)
    rows = []
    for cell in (None, *AT_SPEEDS):
        name = "`sparse`, its best"
        line = [name if cell is None else f"{label(cell.rule)}, {setting(cell)}"]
        for length, here in lengths.items():
            timed_cell = here.sparse if cell is None else cell.but(length=length)
            steps = [*ledger.steps(timed_cell, here.start, here.goal).values()]
            text = updates_to_shares(steps) if steps else NONE
            times = None if cell is None else here.speed(ledger, timed_cell)
            if times is not None:
                text += f"; {times_as_fast(times, ' times')}"
            elif cell is not None and steps:
                slowest = max(at[SHARES.index(FASTER_AT)] for at in steps)
                text += f"; more than {number(here.sparse.updates / slowest)} times"
            line.append(text)
        rows.append(line)
    return markdown_table(["", *(f"{length} tokens" for length in lengths)], rows)


def longer_table(ledger: Runs, ways: Sequence[Row]) -> str:
    """Return `sparse` and the differences of other rules from it, by length and number of updates.

    Mean over the run and at its end; clear differences are bold, after Holm's correction over all
    of each. The baseline is `sparse` at lambda 0.95, which alone is run for longer.
    """
    goals = {length: here.goal for length, here in lengths_of(ledger, ways, LONGER).items()}
    baselines = [
        AT_LONGER[0].but(length=length, updates=updates)
        for length in goals
        for updates in (UPDATES, LONGER)
    ]
    if not baselines:
        return NOT_YET
    rows = [["best of 16, untrained", *(number(goals[base.length]) for base in baselines)]]
    for when, at_end in (("over the run", False), ("at the end", True)):
        level = [student_mean([*ledger.areas(b, at_end=at_end).values()]) for b in baselines]
        rows.append([f"`sparse`, {when}", *level])
        differences = {
            (rule, base): figure
            for rule in AT_LONGER[1:]
            for base in baselines
            if (
                figure := ledger.difference(
                    rule.but(length=base.length, updates=base.updates), base, at_end=at_end
                )
            )
        }
        shown = after_holm(differences)
        for rule in AT_LONGER[1:]:
            line = [shown.get((rule, base), NONE) for base in baselines]
            rows.append([f"{label(rule.rule)}, {setting(rule)}, {when}", *line])
    head = [f"{base.length} tokens, {base.updates} updates" for base in baselines]
    return markdown_table(["", *head], rows)


def vineppo_table(ledger: Runs) -> str:
    """Return what VinePPO's estimator reaches for as many tokens as `sparse` at its best."""
    sparse = chosen(ledger, ["sparse"], settings_with_runs(ledger))
    signed = make_cell(rule="abc-signed", gae_lambda="0.5")
    cells = [cell for cell in (signed, *AT_VINEPPO) if len(ledger.areas(cell)) > 1]
    if sparse is None or not {*cells} & {*AT_VINEPPO}:
        return NOT_YET
    cells = [sparse, *cells]
    gains = {cell: ledger.difference(cell, sparse) for cell in cells if cell != sparse}
    shown = after_holm({cell: gain for cell, gain in gains.items() if gain is not None})
    rows = []
    for cell in cells:
        ends = [number(mean([*ledger.ends(cell, measure).values()])) for measure in FIGURES]
        how = "VinePPO" if cell in AT_VINEPPO else setting(cell)
        rows.append(
            [
                f"{label(cell.rule)}, {how}",
                *(f"{cell.updates} of {cell.rows}", f"{ledger.rate(cell):g}"),
                *(student_mean([*ledger.areas(cell).values()]), shown.get(cell, NONE), *ends),
            ]
        )
    what = ("score - c KL over the run", "minus `sparse`", "score at the end", "gold", "KL")
    return markdown_table(["rule", "updates", "rate", *what], rows)


def share_of_gain(ledger: Runs, cell: Cell, best: Cell, baseline: Cell) -> float:
    """Return a cell's gain on a baseline as a share of another's, on the seeds that all have."""
    one, whole, base = (ledger.areas(c) for c in (cell, best, baseline))
    seeds = sorted(set(one) & set(whole) & set(base))
    return mean([one[s] - base[s] for s in seeds]) / mean([whole[s] - base[s] for s in seeds])


def executed_table(ledger: Runs) -> str:
    """Return what executed values are worth in training, and how much of it rules reach.

    The last column is a rule's gain as a share of that of the best cell with executed values, which
    is chosen on the spare seed, over the seeds that this has.
    """
    length = AT_CONTINUED[0].length
    sparse = chosen(ledger, ["sparse"], settings_with_runs(ledger, length=length))
    tried = [cell for cell in AT_CONTINUED if len(ledger.areas(cell)) > 1]
    if sparse is None or not tried:
        return NOT_YET
    best = max(tried, key=lambda cell: max(ledger.sweeps[cell].values()))
    cells = [*tried, *(cell.but(length=length) for cell in AT_SPEEDS)]
    gains = {cell: gain for cell in cells if (gain := ledger.difference(cell, sparse)) is not None}
    shown = after_holm(gains)
    level = student_mean([*ledger.areas(sparse).values()])
    rows = [[f"`sparse`, {setting(sparse)}", f"{ledger.rate(sparse):g}", level, NONE, NONE]]
    for cell in gains:
        executed = f"`sparse`, executed values, lambda {cell.gae_lambda}"
        rows.append(
            [
                executed if cell in AT_CONTINUED else f"{label(cell.rule)}, {setting(cell)}",
                f"{ledger.rate(cell):g}",
                student_mean([*ledger.areas(cell).values()]),
                shown[cell],
                percent(share_of_gain(ledger, cell, best, sparse)),
            ]
        )
    what = ("score - c KL over the run", "minus the first row", "share of the best executed")
    return markdown_table(["cell", "rate", *what], rows)


def controls_table(ledger: Runs) -> str:
    """Return each rule at its best minus the best control, both chosen on the spare seed."""
    every = settings_with_runs(ledger)
    control = chosen(ledger, CONTROLS, every)
    best = {rule: chosen(ledger, [rule], every) for rule in RULES if rule not in CONTROLS}
    by_rule = {
        rule: (cell, figure)
        for rule, cell in best.items()
        if cell is not None
        and control is not None
        and (figure := ledger.difference(cell, control)) is not None
    }
    if control is None or not by_rule:
        return NOT_YET
    shown = after_holm({rule: figure for rule, (_, figure) in by_rule.items()})
    rows = [[label(rule), title(cell), shown[rule]] for rule, (cell, _) in by_rule.items()]
    head = f"minus {label(control.rule)}, {title(control)}"
    return markdown_table(["rule", "critic, lambda", head], rows)


def steps_of(ledger: Runs) -> list[tuple[str, Cell | None]]:
    """Return the steps from `sparse` as it is usually run to what knows every word.

    The cell of a step is the one that did best on the spare seed, so that the fresh seeds, which
    measure it, did not choose it.
    """
    every = settings_with_runs(ledger)
    without = [cell for cell in every if cell.critic == "none"]
    reading_rules = [rule for rule in RULES[1:] if rule not in (*CONTROLS, WORDS)]
    return [
        ("sparse, no critic, lambda 0.95", make_cell(rule="sparse", critic="none")),
        ("lambda: sparse, no critic, its best", chosen(ledger, ["sparse"], without)),
        ("critic: sparse, its best", chosen(ledger, ["sparse"], every)),
        ("dense: the best control", chosen(ledger, CONTROLS, every)),
        ("tokens: the best rule that reads the text", chosen(ledger, reading_rules, every)),
        ("truth: true words, its best", chosen(ledger, [WORDS], every)),
    ]


def steps_table(ledger: Runs) -> str:
    """Return the steps with what each adds to the one before, paired by seed."""
    steps = [
        (name, cell) for name, cell in steps_of(ledger) if cell and len(ledger.areas(cell)) > 1
    ]
    gains = {
        name: gain
        for (_, before), (name, cell) in pairwise(steps)
        if cell != before and (gain := ledger.difference(cell, before)) is not None
    }
    shown = after_holm(gains)
    rows = []
    for index, (name, cell) in enumerate(steps):
        is_same = index > 0 and cell == steps[index - 1][1]
        added = "nothing, the same cell" if is_same else shown.get(name, NONE)
        ends = [number(mean([*ledger.ends(cell, m).values()])) for m in ("gold_score", "kl")]
        where = f"{label(cell.rule)}, critic {CRITIC_LABELS[cell.critic]}, {cell.gae_lambda}"
        areas = student_mean(list(ledger.areas(cell).values()))
        rows.append([name, where, f"{ledger.rate(cell):g}", areas, added, *ends])
    head = ["step", "cell", "rate", "score - c KL over the run", "added", "gold at the end", "KL"]
    return markdown_table(head, rows)


def noise_table(rows: Sequence[Row]) -> str:
    """Return cosine and noise of each rule's gradient by lambda, for one policy."""
    if not rows:
        return NOT_YET
    lambdas = sorted({row["gae_lambda"] for row in rows if row["rule"] == "sparse"})
    table = []
    for rule in (*RULES, PERFECT, EXACT, CONTINUED):
        by_lambda = {row["gae_lambda"]: row for row in rows if row["rule"] == rule}
        if not by_lambda:
            continue
        if rule in (EXACT, CONTINUED):  # A_t = r_t, whatever lambda is
            by_lambda = {at: row for at, row in zip(lambdas[-1:], by_lambda.values(), strict=False)}
        line = [label(rule) if rule in RULES else rule]
        for at in lambdas:
            row = by_lambda.get(at)
            line.append(NONE if row is None else of_gradient(row))
        table.append(line)
    return markdown_table(["rule", *(f"lambda {at:g}" for at in lambdas)], table)


# --- the picture ----------------------------------------------------------------------------------


def draw(file: Path, ledger: Runs) -> None:
    """Draw every cell of 48 tokens with its interval, a panel per critic."""
    from matplotlib.figure import Figure

    settings = settings_with_runs(ledger)
    critics = list(dict.fromkeys(cell.critic for cell in settings))
    figure = Figure(figsize=(4.2 * len(critics), 3.8), layout="constrained")
    panels = figure.subplots(1, len(critics), sharex=True, sharey=True, squeeze=False)[0]
    best = chosen(ledger, ["sparse"], settings)
    middles: list[float] = []
    for axes, critic in zip(panels, critics, strict=True):
        critic_cells = [cell for cell in settings if cell.critic == critic]
        for offset, cell in enumerate(critic_cells):
            shift = 0.6 * (0.5 - (offset + 0.5) / len(critic_cells))
            for height, rule in enumerate(reversed(RULES)):
                areas = list(ledger.areas(cell.but(rule=rule)).values())
                if len(areas) > 1:
                    middle, low, high, _ = student_interval(areas)
                    middles.append(float(middle))
                    axes.errorbar(
                        middle,
                        height + shift,
                        xerr=[[middle - low], [high - middle]],
                        fmt=MARKERS[cell.gae_lambda],
                        color=COLORS[cell.gae_lambda],
                        label=f"lambda {cell.gae_lambda}" if not height else None,
                        markersize=5,
                        capsize=2,
                    )
        if best is not None:
            axes.axvline(mean(list(ledger.areas(best).values())), color="0.5", linestyle=":")
        axes.set_xlim(min(middles) - 0.2, max(middles) + 0.4)  # the widest intervals are cut
        axes.set_title(f"critic: {CRITIC_LABELS[critic]}", fontsize=10)
        axes.set_xlabel("score - c KL, mean over the run")
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(RULES)), [label(r).strip("`") for r in reversed(RULES)])
    handles = {
        name: line
        for axes in panels
        for line, name in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=4, fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150, metadata={"Software": None})


def draw_frontier(file: Path, ledger: Runs, ways: Sequence[Row]) -> None:
    """Draw the score that each rule's best cell has at the KL it costs, beside best-of-n.

    Args:
        file: Picture to write.
        ledger: The runs; a rule's path is the mean over them, a point per evaluation.
        ways: The best of n untrained responses: n, score and bound of the KL (nats).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 4.0), layout="constrained")
    axes = figure.subplots()
    settings = settings_with_runs(ledger)
    for index, rule in enumerate(RULES):
        cell = chosen(ledger, [rule], settings)
        if cell is not None:
            runs = ledger.runs[cell].values()
            kl, score = (
                np.mean([[row[measure] for row in run] for run in runs], axis=0)
                for measure in ("kl", "score")
            )
            name = f"{label(rule).strip('`')}, lambda {cell.gae_lambda}"
            style = "--" if rule in CONTROLS else "-"
            axes.plot(kl, score, style, marker=".", color=f"C{index}", label=name)
    kl, score = ([row[name] for row in ways] for name in ("kl", "score"))
    axes.plot(kl, score, ":", marker="x", color="black", label="best of n, untrained")
    for row in ways[-1:]:
        axes.annotate(
            f"n = {row['n']:g}",
            (row["kl"], row["score"]),
            xytext=(5, -4),
            textcoords="offset points",
        )
    axes.set_xlabel("KL to the reference, nats per response")
    axes.set_ylabel("score")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, fontsize=9, loc="outside right center")
    figure.savefig(file, dpi=150, metadata={"Software": None})


def draw_lengths(file: Path, ledger: Runs, fine: Runs, ways: Sequence[Row]) -> None:
    """Draw the gain of credit over the length of the response, and how much faster it learns.

    Args:
        file: Picture to write.
        ledger: Runs with a point every 5 updates, which the gains are of.
        fine: Runs with a point after every update, which the speeds are of.
        ways: The best of n untrained responses by length.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    gains, speeds = figure.subplots(1, 2)
    lengths = lengths_of(ledger, ways)
    for index, (name, rule, at, against) in enumerate(CONTRASTS):
        points = []
        for length, here in lengths.items():
            cell = make_cell(rule=rule, gae_lambda=at, length=length)
            other = here.sparse
            if against is not None:
                other = make_cell(rule="sparse", gae_lambda=against, length=length)
            gain = ledger.difference(cell, other)
            if gain is not None:
                ends = (gain.difference, gain.low, gain.high)
                points.append((length * 1.02**index, *(here.share(value) for value in ends)))
        _draw_points(gains, points, name)
    gains.axhline(0, color="0.5", linewidth=0.8)
    gains.yaxis.set_major_formatter("{x:.0%}")
    gains.set_ylabel("gain over the run, of the way to best-of-16")
    others = {length: ledger_fine.cells(length)[1:] for length in ledger_fine.SPARSE_LAMBDAS}
    for index, cells in enumerate(zip(*others.values(), strict=True)):
        points = [
            (length * 1.02**index, *times[:3])
            for length, cell in zip(others, cells, strict=True)
            if (times := ledger_fine.speed(fine, cell, ways))
        ]
        _draw_points(speeds, points, f"{label(cells[0].rule).strip('`')}, {setting(cells[0])}")
    speeds.axhline(1, color="0.5", linewidth=0.8)
    speeds.set_ylabel(f"times as fast as sparse to {FASTER_AT:.0%} of the way")
    for axes, shown in (gains, [*lengths]), (speeds, [*others]):
        axes.set_xscale("log")
        axes.set_xticks(shown, [f"{length}" for length in shown])
        axes.minorticks_off()
        axes.set_xlabel("tokens of a response")
        axes.grid(axis="y", alpha=0.3)
        axes.margins(y=0.2)
        axes.legend(fontsize=8, loc="upper left")
    figure.savefig(file, dpi=150, metadata={"Software": None})


CURVES = {"sparse": "#0072b2", "uniform": "#888888", "abc-signed": "#009e73"}
"""Rules whose curves are drawn, and their colours."""


def draw_curves(file: Path, fine: Runs) -> None:
    """Draw score - c KL, score and KL over the updates at three lengths, means and intervals."""
    from matplotlib.figure import Figure

    measures: dict[str, Callable[[Row], float]] = {
        NET: net,
        "score": lambda row: float(row["score"]),
        "KL, nats": lambda row: float(row["kl"]),
    }
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    panels = figure.subplots(len(measures), 3, sharex=True, sharey="row", squeeze=False)
    for column, length in enumerate(ledger_fine.SPARSE_LAMBDAS):
        for cell in ledger_fine.cells(length):
            runs = [*fine.runs.get(cell, {}).values()]
            if len(runs) < 2 or cell.rule not in CURVES:
                continue
            name, color = f"{cell.rule}, lambda {cell.gae_lambda}", CURVES[cell.rule]
            for axes, of in zip(panels[:, column], measures.values(), strict=True):
                draw_mean(axes, runs, of, color=color, label=name)
        panels[0, column].set_title(f"{length} tokens", fontsize=10)
        panels[-1, column].set_xlabel("updates")
        panels[0, column].legend(fontsize=8)
    for axes, title in zip(panels[:, 0], measures, strict=True):
        axes.set_ylabel(title)
    figure.savefig(file, dpi=120, metadata={"Software": None})


def _draw_points(axes: Any, points: Sequence[tuple[float, ...]], name: str) -> None:
    """Draw points (x, middle, low, high) with their intervals."""
    if points:
        x, middle, low, high = np.array(points).T
        axes.errorbar(x, middle, [middle - low, high - middle], marker="o", capsize=2, label=name)


class Readings:
    """What is published of both studies, which share the page."""

    def __init__(self, published: Published) -> None:
        self.folder = published.folder
        self.docs = published.folder.parent
        self.ledger, self.fine = (study.published(self.docs).runs for study in (STUDY, FINE_STUDY))
        self.ways = published.drawn[WAYS]

    def noise(self, policy: str) -> list[dict[str, Any]]:
        """Return the rows of a policy's gradients, none where there is no file."""
        file = self.folder / NOISE
        rows = read_rows(file, text=("policy", "rule")) if file.exists() else []
        return [row for row in rows if row["policy"] == policy]


def tables(read: Readings) -> dict[str, str]:
    """Return the page's tables by name."""
    ledger, ways = read.ledger, read.ways
    settings = settings_with_runs(ledger)
    return {
        "steps": steps_table(ledger),
        "areas": areas_table(ledger, settings),
        "differences": differences_table(ledger, settings),
        "controls": controls_table(ledger),
        "models": models_table(ledger),
        "lengths": lengths_table(ledger, ways),
        "speeds": speeds_table(ledger, ways),
        "longer": longer_table(ledger, ways),
        "executed": executed_table(ledger),
        "fine": ledger_fine.table(read.fine, ways),
        **{f"noise {policy}": noise_table(read.noise(policy)) for policy in POLICIES},
    }


def pictures(read: Readings) -> None:
    """Draw the page's pictures, and fill the table that a page from before the protocol shows."""
    ledger, folder = read.ledger, read.folder
    if (read.docs / "archive" / "mc.md").exists():
        fill(read.docs / "archive" / "mc.md", {"vineppo": vineppo_table(ledger)})
    draw(folder / "ledger.png", ledger)
    frontier = [drawn for drawn in read.ways if drawn["length"] == AXES["length"]]
    draw_frontier(folder / "frontier.png", ledger, frontier)
    draw_lengths(folder / "lengths.png", ledger, read.fine, read.ways)
    draw_curves(folder / "curves.png", read.fine)


STUDY = Study(
    document="ledger.md",
    folder=FOLDER,
    axes=AXES,
    rounds=rounds,
    config=config,
    readings=Readings,
    tables=tables,
    pictures=pictures,
    drawn=(WAYS_DRAWN,),
)
FINE_STUDY = replace(
    STUDY,
    runs=FINE,
    rounds=ledger_fine.rounds,
    config=ledger_fine.AT_EVERY_UPDATE,
    beside=lambda docs: ledger_fine.beside(STUDY, docs),
)
"""Cells that are run again with a point after every update."""


def run_fine(out: Out, docs: Docs = DOCS, part: str = "0/1", until: str | None = None) -> None:
    """Do the runs with a point after every update that are missing, as `run` does its own."""
    FINE_STUDY.run(out, docs, part, until)


def publish_fine(out: Out, docs: Docs = DOCS) -> None:
    """Write the runs with a point after every update as one file, and fill the page."""
    FINE_STUDY.publish(out, docs)


if __name__ == "__main__":
    command_line(__doc__, STUDY.run, STUDY.publish, STUDY.page, run_fine, publish_fine)
