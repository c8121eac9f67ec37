"""How often the benchmark's verdict calls a rule ahead that does nothing, and what lead it finds.

Null boards are drawn from the runs that are published behind the row of v1: every rule is a clone
of one arm, tuned anew, whose true lead over tasks is 0 and whose lead on each task is drawn with a
given spread. Fills docs/results/details/calibration.md; minutes on one core.

    python -m studies.calibration [--boards 4000] [--docs docs/results]
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studies.credit_v1 import published
from tokengym.base import read_json
from tokengym.evaluation.report import number
from tokengym.evaluation.statistics import RunPath, holm, student_interval
from tokengym.lab.benchmark.definition import BASELINE, CONTROLS, OWN, V1
from tokengym.lab.benchmark.figures import area_within
from tokengym.lab.benchmark.verdict import call, leads_of, path_of
from tokengym.lab.benchmark.version2 import V2, V2_LITE, Setting2
from tokengym.lab.protocol import PRICE, Row
from tokengym.lab.study import DOCS, Cell, Docs, command_line
from tokengym.lab.tables import CLEAR, fill, markdown_table

Array = NDArray[np.float64]
ROWS = 9
"""Rules of a board besides the baseline; the last are the controls."""
SPREADS = (0.0, 2.0, 4.0, 8.0)
"""Standard deviations of a rule's lead over tasks, % of the way. 4 is that of v1's row, 5 to 11
those of the controls on the five tasks of docs/results/tasks.md."""
BOARDS, SEED, POWER = 4_000, 0, 0.8
BLOCK = 500
"""Boards that are drawn at once."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """Tasks and seeds of a version, and whose runs stand in for those of each setting."""

    tasks: Mapping[str, tuple[str, ...]]
    """Task -> settings of v1 whose cells and residuals its settings have."""
    seeds: int
    """Seeds of each cell."""
    lambdas: tuple[str, ...] = ()
    """Lambdas of the cells, which then have the first rate alone; () takes all cells."""

    @cached_property
    def settings(self) -> tuple[str, ...]:
        """All settings, task after task."""
        return tuple(setting for of_task in self.tasks.values() for setting in of_task)

    @cached_property
    def means(self) -> Array:
        """Matrix that turns settings into the means of tasks, (settings, tasks)."""
        sizes = [len(of_task) for of_task in self.tasks.values()]
        owner = np.repeat(np.arange(len(sizes)), sizes)
        return (owner[:, None] == np.arange(len(sizes))) / np.array(sizes, dtype=np.float64)


def _tasks(settings: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Return tasks with the stand-ins of their settings, of (task, stand-in) pairs."""
    tasks: dict[str, tuple[str, ...]] = {}
    for of_task, stand_in in settings:
        tasks[of_task] = (*tasks.get(of_task, ()), stand_in)
    return tasks


def stand_in_of(setting: Setting2) -> str:
    """Return the setting of v1 whose noise a setting of v2 has.

    Forks's easy and hard settings have that of its middle one, and real reviews that of film
    reviews of 24 tokens: of these four no cells are published.
    """
    if setting.corpus:
        return V1.settings[0].name
    return next(at.name for at in V1.settings if (at.task, at.tokens) == _nearest(setting))


def _nearest(setting: Setting2) -> tuple[str, int]:
    """Return task and length of v1; Forks has one length there."""
    return setting.task, 20 if setting.verified else setting.tokens


SIX = Design(tasks=_tasks((at.task, at.name) for at in V1.settings), seeds=len(V1.seeds))
"""Those of v1."""
TWELVE = Design(
    tasks=_tasks((at.label, stand_in_of(at)) for at in V2.settings), seeds=len(V2.seeds)
)
"""Those of v2."""
LITE = replace(TWELVE, seeds=len(V2_LITE.seeds), lambdas=V2_LITE.lambdas)
"""Those of its lite form."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What one setting's published runs say of an arm's cells, % of the way."""

    cells: Array
    """(cells, figures): mean of score - c KL over the run, and of the score at the end, of the
    runs of the baseline's tuning."""
    names: tuple[tuple[str, float], ...]
    """(cells,): lambda and rate of each."""
    residuals: Array
    """(runs, figures): of both rules' ten runs, about their own mean."""


def noises(docs: Path) -> dict[str, Noise]:
    """Return the noise of each setting of v1.

    Args:
        docs: Folder of the pages.
    """
    ways = read_json(docs / "v1" / "uniform-scores.json")["settings"]
    runs = published(docs)
    found = {}
    for setting in V1.settings:
        start, goal = ways[setting.name]["way"]
        of_cells: dict[Cell, list[list[float]]] = {}
        of_rules: dict[str, list[list[float]]] = {}
        for run, points in runs.items():
            if run.setting != setting.name:
                continue
            net = area_within(points, float(points[-1]["tokens"]), PRICE)
            figures = [net, float(points[-1]["score"])]
            if run.seed in V1.spare_seeds:
                if run.rule == BASELINE:
                    of_cells.setdefault(run.without("seed"), []).append(figures)
            else:
                of_rules.setdefault(run.rule, []).append(figures)
        scale = 100.0 / (goal - start)
        each = [np.array(values) for values in of_rules.values()]
        # Residuals about a mean of n are too small by sqrt((n - 1) / n).
        about = [(v - v.mean(axis=0)) * (len(v) / (len(v) - 1.0)) ** 0.5 for v in each]
        found[setting.name] = Noise(
            names=tuple((str(cell.gae_lambda), float(cell.rate)) for cell in of_cells),
            cells=scale * np.array([np.mean(values, axis=0) for values in of_cells.values()]),
            residuals=scale * np.concatenate(about),
        )
    return found


def draw(
    design: Design, noise: Mapping[str, Noise], boards: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Return the leads of clones that are tuned anew, without a spread over tasks.

    Every arm of a board, the baseline's too, has runs of every cell on the design's seeds. With
    three seeds each seed's cell is chosen on the others, as in v2; with more a cell is chosen on
    three spare seeds, as in v1.

    Returns:
        (boards, rows, figures, tasks, seeds): % of the way. And (boards, rows): the share of
        settings in which a row took another cell than the baseline.
    """
    leads, others = [], []
    for setting in design.settings:
        of = _cells_of(design, noise[setting])
        cells, runs = len(of.cells), len(of.residuals)
        shape = (boards, 1 + ROWS, cells)

        def values(seeds: int, of: Noise = of, shape: Any = shape, runs: int = runs) -> Array:
            picked = of.residuals[rng.integers(runs, size=(*shape, seeds))]
            return of.cells[:, None, :] + picked  # (boards, arms, cells, seeds, figures)

        table = values(design.seeds)
        if design.seeds <= 3:
            nets = table[..., 0]
            chosen = np.argmax(nets.sum(-1, keepdims=True) - nets, axis=2)  # (boards, arms, seeds)
        else:
            best = np.argmax(values(len(V1.spare_seeds))[..., 0].sum(-1), axis=2)
            chosen = np.repeat(best[..., None], design.seeds, axis=2)
        of_arms = np.take_along_axis(table, chosen[:, :, None, :, None], axis=2)[:, :, 0]
        leads.append(of_arms[:, 1:] - of_arms[:, :1])  # (boards, rows, seeds, figures)
        others.append((chosen[:, 1:] != chosen[:, :1]).mean(axis=-1))
    by_setting = np.stack(leads, axis=-1)  # (boards, rows, seeds, figures, settings)
    return np.moveaxis(by_setting @ design.means, 2, -1), np.mean(others, axis=0)


def _cells_of(design: Design, noise: Noise) -> Noise:
    """Return a setting's noise with the cells that a design has."""
    if not design.lambdas:
        return noise
    wanted = [(gae_lambda, V1.first_rate) for gae_lambda in design.lambdas]
    kept = [place for place, name in enumerate(noise.names) if name in wanted]
    return replace(noise, cells=noise.cells[kept], names=tuple(noise.names[at] for at in kept))


def spread_over(shape: tuple[int, ...], sd: float, rng: np.random.Generator) -> Array:
    """Return true leads on each task around 0, half shared by the two figures.

    Args:
        shape: (boards, rows, figures, tasks).
        sd: Their standard deviation, % of the way.
        rng: Generator.
    """
    boards, rows, _, tasks = shape
    shared = rng.normal(size=(boards, rows, 1, tasks))
    return sd * (0.5**0.5 * shared + 0.5**0.5 * rng.normal(size=shape))


def called_ahead(design: Design, leads: Array) -> NDArray[np.bool_]:
    """Return which rows the version calls ahead, (boards, rows).

    Args:
        design: `SIX` for v1's tests, over seeds and of the net figure alone, or `TWELVE` for v2's.
        leads: (boards, rows, figures, tasks, seeds).
    """
    if design is SIX:
        over_seeds = leads[:, :, 0].mean(axis=2)  # (boards, rows, seeds)
        mean, _, _, p_value = student_interval(family_of_v1(over_seeds))
        rows = over_seeds.shape[1]
        return np.asarray((holm(p_value) < CLEAR) & (mean > 0))[:, :rows]
    return call(leads.mean(axis=-1)).ahead


def family_of_v1(leads: Array) -> Array:
    """Return what v1 tests together: each rule against the baseline, the others against controls.

    As `tokengym.lab.benchmark.figures.family` does of published rows.

    Args:
        leads: (boards, rows, seeds) on the baseline; the last rows are the controls.

    Returns:
        (boards, rows + others x controls, seeds), the leads on the baseline first.
    """
    others, controls = np.split(leads, [leads.shape[1] - len(CONTROLS)], axis=1)
    over_controls = others[:, :, None] - controls[:, None]  # (boards, others, controls, seeds)
    return np.concatenate([leads, over_controls.reshape(len(leads), -1, leads.shape[2])], axis=1)


def boards_of(
    design: Design, noise: Mapping[str, Noise], sd: float, boards: int
) -> tuple[Array, float]:
    """Return null boards at a spread, and the share of cells that clones do not share.

    Returns:
        (boards, rows, figures, tasks, seeds) leads, and the share.
    """
    rng = np.random.default_rng([SEED, int(10 * sd), design.seeds])
    blocks, others = [], []
    for begin in range(0, boards, BLOCK):
        leads, other = draw(design, noise, min(BLOCK, boards - begin), rng)
        blocks.append(leads + spread_over(leads.shape[:4], sd, rng)[..., None])
        others.append(other.mean())
    return np.concatenate(blocks), float(np.mean(others))


def lead_found(design: Design, leads: Array, power: float = POWER) -> float:
    """Return the true lead of one row, in both figures, that is called ahead with a given chance.

    The other rows do nothing. Bisected to a hundredth of a percent of the way.

    Args:
        design: The version.
        leads: Null boards.
        power: The chance.
    """
    low, high = 0.0, 40.0
    while high - low > 0.01:
        middle = (low + high) / 2.0
        shifted = leads.copy()
        shifted[:, 0] += middle
        enough = called_ahead(design, shifted)[:, 0].mean() >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


def table(noise: Mapping[str, Noise], boards: int) -> str:
    """Return the page's table: a row per spread, v1's tests beside v2's."""
    lines = []
    for sd in SPREADS:
        six, _ = boards_of(SIX, noise, sd, boards)
        twelve, other = boards_of(TWELVE, noise, sd, boards)
        any_of_v1 = called_ahead(SIX, six).any(axis=1).mean()
        any_of_v2 = called_ahead(TWELVE, twelve).any(axis=1).mean()
        lite, _ = boards_of(LITE, noise, sd, boards)
        any_of_lite = called_ahead(LITE, lite).any(axis=1).mean()
        some, few = (each[: max(boards // 4, 1)] for each in (twelve, lite))
        found = [
            f"{number(lead_found(design, each))} %"
            for design, each in ((TWELVE, some[:, :1]), (TWELVE, some), (LITE, few))
        ]
        shares = [f"{100 * share:.1f} %" for share in (any_of_v1, any_of_v2, any_of_lite)]
        figures = [*shares[:2], *found[:2], f"{100 * other:.0f} %", shares[2], found[2]]
        lines.append([f"{sd:g}", *figures])
    head = [
        "spread of a rule's lead over tasks (sd, % of the way)",
        "v1: boards with a rule called ahead",
        "v2: boards with a rule called ahead",
        "v2: lead found with 80 %, one rule on the board",
        "nine rules on it",
        "v2: runs of another cell than the baseline's",
        "v2 lite: boards with a rule called ahead",
        "v2 lite: lead found, nine rules on it",
    ]
    return markdown_table(head, lines)


def lite_table(docs: Path) -> str:
    """Return how v1's lead of its published row looks in the lite form, by setting.

    Of the settings whose tuning has the lite form's one rate. Two of three spare seeds at the lite
    lambdas take the place of its seeds, in turn; each seed's cell is chosen on the other.

    Args:
        docs: Folder of the pages.
    """
    runs, row = published(docs), read_json(docs / "v1" / "uniform-scores.json")
    rates = {(at.task, at.tokens): at.rates[0] for at in V2_LITE.settings if not at.corpus}
    pairs = list(combinations(V1.spare_seeds, 2))
    leads: dict[str, list[float]] = {}
    for setting in V1.settings:
        if rates.get((setting.task, setting.tokens)) != V1.first_rate or setting.verified:
            continue
        figures = row["settings"][setting.name]
        start, goal = figures["way"]
        ten = (np.array(figures["areas"]) - figures["baseline_areas"]) / (goal - start)
        arms = [_lite_arm(runs, setting.name, rule) for rule in (row["subject"], BASELINE)]
        cut = [
            [
                {at: {seed: by_seed[seed] for seed in two} for at, by_seed in arm.items()}
                for arm in arms
            ]
            for two in pairs
        ]
        of_two = [np.mean(leads_of(both[0], both[1], goal - start).net) for both in cut]
        leads[setting.name] = [100.0 * float(value) for value in (np.mean(ten), *of_two)]
    table = np.array(list(leads.values()))
    lines = [[name, *map(number, values)] for name, values in leads.items()]
    together = [number(float(np.corrcoef(table[:, 0], column)[0, 1])) for column in table.T[1:]]
    lines.append(["correlation with the whole", "", *together])
    heads = [f"lite, seeds {one} and {two}" for one, two in pairs]
    return markdown_table(["setting", "v1, ten seeds", *heads], lines)


def _lite_arm(
    runs: Mapping[Cell, Sequence[Row]], setting: str, rule: str
) -> dict[str, dict[int, RunPath]]:
    """Return a rule's tuning runs in a setting at the lite form's lambdas, by cell and seed."""
    arm: dict[str, dict[int, RunPath]] = {}
    for run, points in runs.items():
        if (run.setting, run.rule, run.rate) != (setting, rule, V1.first_rate):
            continue
        if run.seed in V1.spare_seeds and run.gae_lambda in V2_LITE.lambdas and run.start == OWN:
            arm.setdefault(run.gae_lambda, {})[int(run.seed)] = path_of(points)
    return arm


def settings_table() -> str:
    """Return the settings of version 2, and in what they differ."""
    lines = [
        [at.label, str(at.tokens), at.unlike, ", ".join(f"{rate:g}" for rate in at.rates)]
        for at in V2.settings
    ]
    return markdown_table(["task", "tokens", "in what it is unlike the others", "rates"], lines)


def run(docs: Docs = DOCS, boards: int = BOARDS) -> None:
    """Fill the page's table.

    Args:
        docs: Folder of the page.
        boards: Null boards of each spread and version.
    """
    tables = {
        "calibration": table(noises(docs), boards),
        "lite": lite_table(docs),
        "settings": settings_table(),
    }
    fill(docs / "details/calibration.md", tables)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and fill the page."""
    command_line(__doc__, run, arguments=arguments)


if __name__ == "__main__":
    main()
