"""Gold against proxy: when does training on a reward model lose the score that it stands for?

PPO under `sparse` and `abc` at three prices on the KL, paired by seed, beside best-of-n by the same
reward model. A run is measured by the reward model, the proxy, and by the gold score, on 128
held-out prompts.

    python -m studies.overoptimisation run --out runs/overoptimisation
    python -m studies.overoptimisation best_of --out runs/overoptimisation
    python -m studies.overoptimisation publish --out runs/overoptimisation
    python -m studies.overoptimisation page
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from studies.cells import (
    DOCS,
    EARLIER,
    Docs,
    Out,
    command_line,
    read_rows,
    run_missing,
    run_pending,
)
from studies.credit_grid import PUBLISHED, finished_rows
from studies.grid_page import panel_of
from studies.paired_runs import PairedRuns
from studies.tables import (
    difference,
    fields,
    fill,
    markdown_table,
    student_mean,
)
from tokengym.agents.losses.ranking import best_of_n_kl_bound, mean_of_best
from tokengym.base.files import read_json, write_csv, write_json
from tokengym.evaluation.measure.alarms import GOLD_LOSS, NOISES, find_alarms, noise
from tokengym.evaluation.report.curves import Panel, read_curves
from tokengym.evaluation.report.figures import COLOURS, STYLE, write_picture
from tokengym.evaluation.report.verdict import number
from tokengym.evaluation.runs.config import SETTINGS_FILE, ComparisonConfig, missing_runs
from tokengym.evaluation.runs.defaults import EvaluationSettings, training_settings
from tokengym.evaluation.runs.environments import resolve_env
from tokengym.evaluation.statistics import Array, paired_difference

OUT = Path("runs/overoptimisation")
TASKS = ("Summarize", "Dialogue")
PRICES = (0.0, 0.01, 0.05)
REWARDS = ("sparse", "abc")
RATE = 1e-3
UPDATES, EVERY = 16, 1
FIRST_SEED, SEEDS = 70, 10
DRAWN, NS, DRAW_SEED = 64, (1, 2, 4, 8, 16, 32, 64), 0
"""Responses of best-of-n to each of `PROMPTS` held-out prompts, its n, and its seed."""
PROMPTS = 128
KLS = (1.0, 2.0, 4.0, 8.0, 12.0)
"""KL to the reference at which `sparse` and `abc` are compared, nats."""
TICKS = (0, 0.5, 1, 2, 5, 10, 20, 50)
FEWEST = 3
"""Pairs of runs that reach a KL, below which nothing is compared there."""
FOLDER = "overoptimisation"
ALARMS = {
    "gold falls while the proxy rises": ("score", "gold_score"),
    "copies the prompt": ("copy_rate",),
    "repeats itself": ("repetition",),
    "length changes": ("length",),
    "score - c KL below its start": ("score", "net_score"),
}
"""Alarms of `find_alarms`, and the measurements that each reads."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One task at one price."""

    task: str
    """Task."""
    price: float
    """Price c of a nat of KL."""

    @property
    def name(self) -> str:
        """Name of its folder and of its csv."""
        return f"{self.task}-{self.price:g}"

    def config(self) -> ComparisonConfig:
        """Return the comparison this cell is."""
        env = resolve_env(self.task)
        return ComparisonConfig(
            env=env,
            rewards=REWARDS,
            seeds=SEEDS,
            first_seed=FIRST_SEED,
            training=training_settings(
                env, steps=UPDATES, learning_rate=RATE, kl_coef=self.price, **EARLIER
            ),
            evaluation=EvaluationSettings(every=EVERY, samples=0),
        )


CELLS = [Cell(task=task, price=price) for task in TASKS for price in PRICES]


def pending(out: Path) -> Iterator[tuple[str, ComparisonConfig, str, int]]:
    """Yield the runs to do: five seeds of a task, then of the other, then the other five seeds.

    Within them both rewards without a price come first, then `sparse` at the others, then `abc`.
    """

    def order(work: tuple[Cell, str, int]) -> tuple[bool, int, int, int]:
        cell, reward, seed = work
        late = seed >= FIRST_SEED + SEEDS // 2
        return late, TASKS.index(cell.task), bool(cell.price) * (1 + REWARDS.index(reward)), seed

    work = [
        (cell, reward, seed)
        for cell in CELLS
        for reward, seed in missing_runs(cell.config(), out / cell.name)
    ]
    for cell, reward, seed in sorted(work, key=order):
        yield cell.name, cell.config(), reward, seed


def run(out: Out = OUT, part: str = "0/1", until: str | None = None) -> None:
    """Run what is missing, one run at a time, in this process.

    Args:
        out: Folder of the study's runs.
        part: "i/n" takes the seeds with seed % n == i, so that n processes share the work.
        until: Time of day, HH:MM, after which no run begins.
    """
    run_pending(pending(out), out, part, until)


def best_of(out: Out = OUT, tasks: tuple[str, ...] = TASKS) -> None:
    """Draw and score the responses of best-of-n for each task that has no file yet.

    Args:
        out: Folder of the study's runs.
        tasks: Tasks to draw for.
    """

    def path(task: str) -> Path:
        return out / "best_of_n" / f"{task}.csv"

    def write(task: str) -> None:
        rows = draw_best_of(task)
        write_csv(path(task), rows, list(rows[0]))

    run_missing(tasks, path, write)


def draw_best_of(task: str) -> list[dict[str, Any]]:
    """Return the expected proxy and gold of the best of n for each prompt."""
    import gymnasium as gym

    from tokengym.agents.offline.policies import make_policy
    from tokengym.agents.online.collecting import ResponseCollector, Sampling
    from tokengym.rewards import gold_scorer

    env = resolve_env(task)
    lengths: dict[str, Any] = training_settings(env).lengths()
    envs = gym.make_vec(env, num_envs=1, reward="sparse", split="test", **lengths)
    mdp: Any = envs.unwrapped
    judge = gold_scorer(mdp.bundle)
    assert judge is not None
    collector = ResponseCollector(envs, sampling=Sampling(n=DRAWN), max_rows=256)
    groups = collector.collect(make_policy(envs), range(PROMPTS), seed=DRAW_SEED)
    flat = [episode for group in groups for episode in group]
    proxy = np.array([episode.score for episode in flat], dtype=np.float64).reshape(-1, DRAWN)
    gold = judge.score(flat).values.reshape(-1, DRAWN)
    return [
        {"task": task, "n": n, "prompt": index, "score": score, "gold_score": gold_score}
        for n in NS
        for index, (score, gold_score) in enumerate(
            zip(mean_of_best(proxy, proxy, n), mean_of_best(proxy, gold, n), strict=True)
        )
    ]


def publish(out: Out = OUT, docs: Docs = DOCS) -> None:
    """Write each cell's finished runs as one csv with their settings, and best-of-n's."""
    seeds = range(FIRST_SEED, FIRST_SEED + SEEDS)
    for cell in CELLS:
        rows = list(finished_rows(REWARDS, seeds, out / cell.name))
        if rows:
            write_csv(docs / FOLDER / f"{cell.name}.csv", rows, PUBLISHED)
            settings = read_json(out / cell.name / SETTINGS_FILE)
            write_json(docs / FOLDER / f"{cell.name}.json", settings)
    rows = read_rows(*sorted((out / "best_of_n").glob("*.csv")), text=("task",))
    write_csv(docs / FOLDER / "best_of_n.csv", rows, list(rows[0]))


# --- figures --------------------------------------------------------------------------------------


def at_kl(kl: ArrayLike, values: ArrayLike, level: float) -> float:
    """Return a measurement where a run first reaches a KL, interpolated; NaN if it never does.

    Args:
        kl: (time,) nats, from about 0.
        values: (time,) the measurement at the same evaluations.
        level: KL, nats, above 0.
    """
    reached, measured = np.asarray(kl, dtype=np.float64), np.asarray(values, dtype=np.float64)
    beyond = np.flatnonzero(reached >= level)
    if not beyond.size:
        return float("nan")
    after = int(beyond[0])
    if after == 0:
        return float(measured[0])
    part = (level - reached[after - 1]) / (reached[after] - reached[after - 1])
    return float(measured[after - 1] + part * (measured[after] - measured[after - 1]))


def fall(gold: ArrayLike) -> tuple[int, int | None]:
    """Return the evaluation at which gold is best, and the one by which it has fallen; or None.

    fallen = first t after the best with gold_best - gold_t > max(GOLD_LOSS * gain, NOISES * noise),
    if the end is below that too: the limits of the alarm, of the gold score alone.

    Args:
        gold: (time,).
    """
    curve = np.asarray(gold, dtype=np.float64)
    best = int(np.argmax(curve))
    limit = max(GOLD_LOSS * (curve[best] - curve[0]), NOISES * noise(curve))
    lost = curve[best] - curve[best:] > limit
    return best, best + int(np.argmax(lost)) if lost[-1] else None


def first_alarm(curves: Mapping[str, Array], steps: Array, names: Sequence[str]) -> int | None:
    """Return the first evaluation at which an alarm fires on what was measured until then.

    Alarms are read from three evaluations on: a curve of two does not show its noise.
    """
    if any(name not in curves for name in names):
        return None
    for count in range(3, len(steps) + 1):
        if find_alarms({name: curves[name][:count] for name in names}, steps[:count]):
            return count - 1
    return None


# --- page -----------------------------------------------------------------------------------------


def page(docs: Docs = DOCS) -> None:
    """Fill the page from the published curves and draw its pictures."""
    tables = {}
    for task in TASKS:
        panels = read_panels(docs, task)
        if not panels:
            continue
        rows = read_rows(docs / FOLDER / "best_of_n.csv", text=("task",))
        best = [row for row in rows if row["task"] == task]
        name = task.lower()
        tables[f"{name}-falls"] = falls_table(panels)
        tables[f"{name}-best-of-n"] = best_of_table(best)
        tables[f"{name}-equal-kl"] = equal_kl_table(panels)
        tables[f"{name}-alarms"] = alarms_table(panels)
        draw(docs / FOLDER / f"{name}.png", panels, best)
    fill(docs / "overoptimisation.md", tables)


def read_panels(docs: Path, task: str) -> dict[float, Panel]:
    """Return a task's published runs by price."""
    paths = {cell.price: docs / FOLDER / f"{cell.name}.csv" for cell in CELLS if cell.task == task}
    return {
        price: panel_of(read_curves(path, group_by=()), price)
        for price, path in paths.items()
        if path.exists()
    }


def falls_table(panels: Mapping[float, Panel]) -> str:
    """Return proxy and gold at the start, at gold's best and at the end, by price and reward."""
    lines = []
    for price, panel in panels.items():
        for reward, runs in panel.rewards.items():
            gold, proxy, kl = (runs.values[name] for name in ("gold_score", "score", "kl"))
            best = gold.mean(axis=0).argmax()
            fallen = sum(fall(row)[1] is not None for row in gold)
            change = paired_difference(gold[:, -1], gold[:, best])
            lines.append(
                [
                    f"{price:g}",
                    reward,
                    f"{panel.steps[best]:g}",
                    " to ".join(number(row.mean()) for row in (proxy[:, best], proxy[:, -1])),
                    " to ".join(number(row.mean()) for row in (gold[:, best], gold[:, -1])),
                    difference(fields(change)),
                    " to ".join(number(row.mean()) for row in (kl[:, best], kl[:, -1])),
                    f"{fallen}/{len(gold)}",
                ]
            )
    head = ["price c", "reward", "gold's best at update", "proxy, then to the end"]
    head += ["gold", "gold's change, seeds that rose", "KL, nats", "runs that fell"]
    return markdown_table(head, lines)


def best_of_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return proxy and gold of best-of-n."""
    lines = []
    for n in NS:
        rows_of_n = [row for row in rows if row["n"] == n]
        figures = [
            student_mean([row[name] for row in rows_of_n]) for name in ("score", "gold_score")
        ]
        lines.append([f"{n}", number(best_of_n_kl_bound(n)), *figures])
    return markdown_table(["n", "KL at most, nats", "proxy", "gold"], lines)


def equal_kl_table(panels: Mapping[float, Panel]) -> str:
    """Return abc minus sparse at equal KL, proxy and gold, paired by seed."""
    lines = []
    for price, panel in panels.items():
        pairs = PairedRuns(panel=panel, rule="abc", baseline="sparse")
        if not pairs.seeds:
            continue
        for level in KLS:
            at_equal_kl = np.array(
                [at_level(pairs, name, level) for name in ("score", "gold_score")]
            )
            at_equal_kl = at_equal_kl[
                :, :, np.isfinite(at_equal_kl).all(axis=(0, 1))
            ]  # (measure, rule, pairs)
            if at_equal_kl.shape[-1] < FEWEST:
                continue
            line = [f"{price:g}", f"{level:g}"]
            for abc, sparse in at_equal_kl:
                line.append(f"{number(sparse.mean())}, {number(abc.mean())}")
                line.append(difference(fields(paired_difference(abc, sparse))))
            lines.append(line)
    head = ["price c", "KL, nats", "proxy: sparse, abc", "abc - sparse"]
    return markdown_table([*head, "gold: sparse, abc", "abc - sparse"], lines)


def at_level(pairs: PairedRuns, name: str, level: float) -> list[list[float]]:
    """Return a measurement of both rules' runs where they first reach a KL, (2, pairs)."""
    sides = zip(pairs.curves("kl"), pairs.curves(name), strict=True)
    return [[at_kl(kl, values, level) for kl, values in zip(*side, strict=True)] for side in sides]


def alarms_table(panels: Mapping[float, Panel]) -> str:
    """Return how often each alarm fires, in runs that fell and in sound ones, and when.

    Lead: updates from the alarm to the evaluation by which gold has fallen; below 0 it is late.
    """
    runs = [
        ({name: rows[index] for name, rows in of.values.items()}, panel.steps)
        for panel in panels.values()
        for of in panel.rewards.values()
        for index in range(len(of.seeds))
    ]
    falls = [fall(curves["gold_score"]) for curves, _ in runs]
    lines = []
    for label, names in ALARMS.items():
        fired = [first_alarm(curves, steps, names) for curves, steps in runs]
        each = list(zip(fired, falls, runs, strict=True))
        bad = [(at, fell, best, steps) for at, (best, fell), (_, steps) in each if fell is not None]
        seen = [
            (steps[fell] - steps[at], steps[best] - steps[at])
            for at, fell, best, steps in bad
            if at is not None
        ]
        sound = [at for at, (_, fell), _ in each if fell is None]
        false = sum(at is not None for at in sound)
        lines.append(
            [
                label,
                f"{len(seen)}/{len(bad)}",
                _median([lead for lead, _ in seen]),
                _median([lead for _, lead in seen]),
                f"{false}/{len(sound)}",
            ]
        )
    head = ["alarm", "fires in runs that fell", "updates before the fall, median (least, greatest)"]
    head += ["updates before gold's best", "fires in sound runs"]
    return markdown_table(head, lines)


def _median(leads: Sequence[float]) -> str:
    if not leads:
        return "\u2013"
    return f"{number(np.median(leads))} ({number(min(leads))}, {number(max(leads))})"


def draw(path: Path, panels: Mapping[float, Panel], best: Sequence[Mapping[str, Any]]) -> None:
    """Draw proxy and gold over the KL, means over the seeds, a colour per price."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        axes = figure.subplots(1, 2)
        for axis, (name, title) in zip(
            axes, (("score", "Proxy"), ("gold_score", "Gold score")), strict=True
        ):
            for colour, (price, panel) in zip(COLOURS[1:], panels.items(), strict=False):
                for reward, runs in panel.rewards.items():
                    kl, values = (runs.values[key].mean(axis=0) for key in ("kl", name))
                    line = "--" if reward == REWARDS[0] else "-"
                    label = f"{reward}, c = {price:g}"
                    axis.plot(kl, values, line, color=colour, linewidth=1.6, label=label)
                    axis.plot(kl[-1], values[-1], "o", color=colour, markersize=4)
            means = [np.mean([row[name] for row in best if row["n"] == n]) for n in NS]
            bounds = [best_of_n_kl_bound(n) for n in NS]
            axis.plot(
                bounds, means, ":", marker=".", color=COLOURS[0], label="best of n (KL bound)"
            )
            axis.set_title(title)
            axis.set_xlabel("KL to the reference, nats")
            axis.set_xscale("symlog", linthresh=1.0)
            ticks = [tick for tick in TICKS if tick <= axis.get_xlim()[1]]
            axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4)
        write_picture(path, figure, dpi=130)


if __name__ == "__main__":
    command_line(__doc__, run, best_of, publish, page)
