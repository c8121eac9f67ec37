"""Does token credit help a learner without a critic? Runs and page of docs/results/learners.md.

Four learners under four credit rules on MovieReview at 48 and 96 tokens, paired by seed, each
learner with the learning rate that was best on sparse. The criterion, fixed before the runs: the
mean area under score - c KL of two spare seeds at 48 tokens. GRPO runs under sparse alone, because
its updates are the same under every rule that redistributes the score.

    python -m studies.learners run --out runs/learners [--part 0/2] [--until 12:25]
    python -m studies.learners publish --out runs/learners
    python -m studies.learners page
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from studies.cells import (
    DOCS,
    EARLIER,
    PUBLISHED_KL,
    Docs,
    Out,
    command_line,
    run_pending,
)
from studies.credit_grid import PUBLISHED, finished_rows
from studies.grid_page import panel_of
from studies.grid_tables import FEWEST, differences_table, rules_table
from studies.paired_runs import PairedRuns
from studies.tables import fill, markdown_table
from tokengym.base.files import read_json, write_csv, write_json
from tokengym.evaluation.report.curves import Curve, Panel, read_curves
from tokengym.evaluation.report.figures import save_figure
from tokengym.evaluation.report.summary import SummarySettings, summarize
from tokengym.evaluation.runs.config import (
    SETTINGS_FILE,
    ComparisonConfig,
    missing_runs,
    run_folder,
)
from tokengym.evaluation.runs.defaults import training_settings
from tokengym.evaluation.runs.environments import resolve_env
from tokengym.evaluation.statistics import area_under_curve

OUT = Path("runs/learners")
GROUP = 8
"""Responses to each prompt, for the learners with a group baseline."""
LEARNERS: dict[str, dict[str, Any]] = {
    "ppo": {},
    "reinforce++": {"advantage": "reinforce++"},
    "loo": {"advantage": "loo", "group_size": GROUP},
    "grpo": {"advantage": "grpo", "group_size": GROUP},
}
SPARSE = "sparse"
REWARDS = (SPARSE, "abc", "abc-signed", "red:delivery=end")
SEES_CREDIT = ("ppo", "reinforce++", "loo")
LENGTHS = (48, 96)
RATES = (1e-4, 3e-4, 1e-3)
FIRST_SEED, SEEDS = 40, 10
SWEEP_SEED, SWEEP_SEEDS = 1100, 2
PRICE = 0.05
FOLDER = "learners"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One learner at one length, or one learning rate of its sweep."""

    learner: str
    """Name in `LEARNERS`."""
    length: int = LENGTHS[0]
    """Longest response, tokens."""
    rate: float | None = None
    """Learning rate of a sweep; None takes the sweep's best."""

    @property
    def name(self) -> str:
        """Name of its folder and of its csv."""
        rate = "" if self.rate is None else f"-rate-{self.rate:g}"
        return f"{self.learner}-{self.length}{rate}"

    @property
    def rewards(self) -> tuple[str, ...]:
        """Rules that the learner is run under."""
        return REWARDS if self.rate is None and self.learner in SEES_CREDIT else (SPARSE,)

    def config(self, out: Path) -> ComparisonConfig:
        """Return the comparison this cell is."""
        env = resolve_env("MovieReview")
        rate = tuned_rate(self.learner, out) if self.rate is None else self.rate
        return ComparisonConfig(
            env=env,
            rewards=self.rewards,
            seeds=SEEDS if self.rate is None else SWEEP_SEEDS,
            first_seed=FIRST_SEED if self.rate is None else SWEEP_SEED,
            training=training_settings(
                env,
                **LEARNERS[self.learner],
                learning_rate=rate,
                max_new_tokens=self.length,
                kl_coef=PRICE,
                kl_estimator=PUBLISHED_KL,
                **EARLIER,
            ),
        )


def sweep() -> list[Cell]:
    """Return the cells that tune the learning rates."""
    return [Cell(learner=learner, rate=rate) for learner in LEARNERS for rate in RATES]


def grid() -> list[Cell]:
    """Return the cells of the comparison."""
    return [Cell(learner=learner, length=length) for length in LENGTHS for learner in LEARNERS]


def tuned_rate(learner: str, out: Path) -> float:
    """Return a learner's rate with the highest mean area under score - c KL in its sweep.

    Raises:
        ValueError: if the sweep is not finished.
    """
    return max(RATES, key=lambda rate: _area(Cell(learner=learner, rate=rate), out))


def _area(cell: Cell, out: Path) -> float:
    """Return a sweep cell's mean area under score - c KL."""
    config = cell.config(out)
    if missing_runs(config, out / cell.name):
        raise ValueError(f"{cell.name} has runs to do; run the sweep before the cells it tunes")
    areas = []
    for seed in config.all_seeds:
        path = run_folder(out / cell.name, SPARSE, seed) / "curve.csv"
        (curve,) = read_curves(path, group_by=())
        net = curve.values["score"] - PRICE * curve.values["kl"]
        areas.append(area_under_curve(curve.steps, net, normalize=True))
    return sum(areas) / len(areas)


def pending(out: Path) -> Iterator[tuple[Cell, ComparisonConfig, str, int]]:
    """Yield the runs to do in order: the sweep, then the lengths, five seeds before ten."""
    for cell in sweep():
        config = cell.config(out)
        for reward, seed in missing_runs(config, out / cell.name):
            yield cell, config, reward, seed
    for length in LENGTHS:
        for last in (FIRST_SEED + SEEDS // 2, FIRST_SEED + SEEDS):
            for cell in (cell for cell in grid() if cell.length == length):
                config = cell.config(out)
                for reward, seed in missing_runs(config, out / cell.name):
                    if seed < last:
                        yield cell, config, reward, seed


def run(out: Out = OUT, part: str = "0/1", until: str | None = None) -> None:
    """Run what is missing, one run at a time, in this process.

    Args:
        out: Folder of the study's runs.
        part: "i/n" takes the seeds with seed % n == i, so that n processes share the work; the
            sweep must be whole before any of them comes to the grid.
        until: Time of day, HH:MM, after which no run begins.
    """
    named = ((cell.name, config, reward, seed) for cell, config, reward, seed in pending(out))
    run_pending(named, out, part, until)


def publish(out: Out = OUT, docs: Docs = DOCS) -> None:
    """Write each cell's finished runs as one csv, with their settings beside it."""
    for cell in (*sweep(), *grid()):
        seeds = range(SWEEP_SEED, SWEEP_SEED + SWEEP_SEEDS)
        if cell.rate is None:
            seeds = range(FIRST_SEED, FIRST_SEED + SEEDS)
        rows = list(finished_rows(cell.rewards, seeds, out / cell.name))
        if rows:
            write_csv(docs / FOLDER / f"{cell.name}.csv", rows, PUBLISHED)
            settings = read_json(out / cell.name / SETTINGS_FILE)
            write_json(docs / FOLDER / f"{cell.name}.json", settings)


def page(docs: Docs = DOCS) -> None:
    """Fill the page from the published curves and draw its picture."""
    panels = {f"{n} tokens": panel_of(_curves(docs, n), PRICE) for n in LENGTHS if _curves(docs, n)}
    fill(
        docs / "learners.md",
        {
            "rates": _rates_table(docs),
            "credit": differences_table(_pairs(panels, _against_sparse)),
            "learners": differences_table(_pairs(panels, _against_ppo)),
            "figures": rules_table(panels),
        },
    )
    runs = [
        replace(curve, group=(("tokens", str(n)),), values={"score": curve.values["score"]})
        for n in LENGTHS
        for curve in _curves(docs, n)
        if curve.credit.endswith((f" {SPARSE}", " abc-signed"))
    ]
    save_figure(
        docs / FOLDER / "learners.png",
        summarize(runs, SummarySettings(baseline=f"ppo {SPARSE}")),
        runs,
    )


def _curves(docs: Path, length: int) -> list[Curve]:
    """Return the published runs of a length, each named by learner and rule."""
    curves = []
    for learner in LEARNERS:
        path = docs / FOLDER / f"{learner}-{length}.csv"
        if path.exists():
            curves += [
                replace(curve, credit=f"{learner} {curve.credit.removesuffix(':delivery=end')}")
                for curve in read_curves(path, group_by=())
            ]
    return curves


def _against_sparse(name: str) -> str:
    return f"{name.split()[0]} {SPARSE}"


def _against_ppo(name: str) -> str:
    return f"ppo {name.split()[1]}"


def _pairs(panels: dict[str, Panel], baseline: Any) -> dict[str, PairedRuns]:
    """Return every run of a panel paired with its baseline, by label."""
    by_label = {}
    for label, panel in panels.items():
        for name in panel.rewards:
            if (other := baseline(name)) != name:
                pairs = PairedRuns(panel=panel, rule=name, baseline=other)
                if len(pairs.seeds) >= FEWEST:
                    by_label[f"{label}: {name} - {other}"] = pairs
    return by_label


def _rates_table(docs: Path) -> str:
    """Return the sweep: mean area under score - c KL by learner and rate, the best in bold."""
    rows = []
    for learner in LEARNERS:
        areas = []
        for rate in RATES:
            path = docs / FOLDER / f"{Cell(learner=learner, rate=rate).name}.csv"
            curves = read_curves(path, group_by=())
            areas.append(
                sum(
                    area_under_curve(
                        c.steps, c.values["score"] - PRICE * c.values["kl"], normalize=True
                    )
                    for c in curves
                )
                / len(curves)
            )
        cells = [f"**{area:.2f}**" if area == max(areas) else f"{area:.2f}" for area in areas]
        rows.append([learner, *cells])
    return markdown_table(["learner", *(f"{rate:g}" for rate in RATES)], rows)


if __name__ == "__main__":
    command_line(__doc__, run, publish, page)
