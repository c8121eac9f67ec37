"""Is credit by Monte Carlo worth its tokens? Runs and page of docs/results/mc.md.

PPO on MovieReview under `mc` at three prices, `abc-signed`, `red` and `sparse`: ten seeds, paired,
each run with the same number of response tokens, continuations included. A round of `mc` costs
many times a round of the others, so a fixed number of episodes per update would leave it a handful
of updates: each rule takes the number with the highest mean area under score - c KL over the
tokens, of two spare seeds; rules without continuations take sparse's. VinePPO's own estimator is
run by `ledger`, whose published runs the page reads.

    python -m studies.mc run --out runs/mc [--part 0/2] [--until 12:25]
    python -m studies.mc publish --out runs/mc
    python -m studies.mc page
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

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
from studies.grid_tables import differences_table, paired_rules, rules_table
from studies.ledger_page import published, vineppo_table
from studies.tables import fill, markdown_table
from tokengym.base.files import read_json, write_csv, write_json, write_text
from tokengym.evaluation.report.curves import Curve, read_curves
from tokengym.evaluation.report.figures import save_figure
from tokengym.evaluation.report.summary import SummarySettings, summarize
from tokengym.evaluation.runs.config import (
    SETTINGS_FILE,
    ComparisonConfig,
    missing_runs,
    run_folder,
    slug,
)
from tokengym.evaluation.runs.defaults import EvaluationSettings, training_settings
from tokengym.evaluation.runs.environments import resolve_env
from tokengym.evaluation.statistics import area_under_curve
from tokengym.rewards.maths.shares import split_evenly

OUT = Path("runs/mc")
SPARSE = "sparse"
CONTINUED = {
    "mc:k=9": (9, 48),
    "mc:k=9,segments=8": (9, 8),
    "mc:k=3,segments=4": (3, 4),
}
"""Rules by Monte Carlo, with their continuations of a prefix and their segments."""
RULES = (SPARSE, "abc-signed", "red:delivery=end", *CONTINUED)
LENGTH = 48
"""Tokens of every response: the task's are of fixed length."""
BUDGET = 500_000
"""Response tokens of a run."""
BATCHES = (8, 16, 64)
"""Episodes per update to choose from; 64 is the task's default."""
FEWEST_UPDATES = 5
"""Updates that the budget must leave a rule for a number of episodes to be tried."""
EVALUATIONS = 20
"""Measurements of a run, about."""
FIRST_SEED, SEEDS = 60, 10
SWEEP_SEED, SWEEP_SEEDS = 1200, 2
PRICE = 0.05
FOLDER = "mc"
PAGE = """# Is credit by Monte Carlo worth its tokens?

PPO on MovieReview, 48 tokens a response, the same number of response tokens for every run, those of
continuations included; paired by seed. Curves are compared over tokens. Made by
`studies/mc.py`, whose docstring has the protocol; raw curves in [mc/](mc/).

## VinePPO's own estimator

<!-- vineppo -->
<!-- end vineppo -->

## Under PPO with a critic

![Score over tokens](mc/mc.png)

## Difference from sparse

<!-- differences -->
<!-- end differences -->

## Figures

<!-- figures -->
<!-- end figures -->

## Price of a rule, and the episodes per update it took

Mean area under score - c KL over the tokens in the sweep, the best in bold.

<!-- batches -->
<!-- end batches -->
"""
"""The page before its tables are filled in, for the first time."""


def tokens_per_episode(rule: str) -> int:
    """Return the response tokens that an episode costs under a rule, continuations included."""
    k, segments = CONTINUED.get(rule, (0, 1))
    inner = split_evenly(LENGTH, segments)[:-1]
    return LENGTH + k * sum(LENGTH - piece.stop for piece in inner)


def batches(rule: str) -> list[int]:
    """Return the numbers of episodes per update that are tried for a rule."""
    largest = BUDGET / FEWEST_UPDATES / tokens_per_episode(rule)
    return [size for size in BATCHES if size <= largest]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One rule, or one number of episodes per update of its sweep."""

    rule: str
    """Name of the reward."""
    batch_size: int | None = None
    """Episodes per update in a sweep; None takes the sweep's best."""

    @property
    def name(self) -> str:
        """Name of its folder and of its csv."""
        return slug(self.rule) + ("" if self.batch_size is None else f"-batch-{self.batch_size}")

    @property
    def seeds(self) -> range:
        """Seeds of its runs."""
        if self.batch_size is None:
            return range(FIRST_SEED, FIRST_SEED + SEEDS)
        return range(SWEEP_SEED, SWEEP_SEED + SWEEP_SEEDS)

    def config(self, out: Path) -> ComparisonConfig:
        """Return the comparison this cell is."""
        env = resolve_env("MovieReview")
        batch_size = tuned_batch(self.rule, out) if self.batch_size is None else self.batch_size
        updates = BUDGET // (batch_size * tokens_per_episode(self.rule))
        return ComparisonConfig(
            env=env,
            rewards=(self.rule,),
            seeds=len(self.seeds),
            first_seed=self.seeds.start,
            training=training_settings(
                env,
                tokens=BUDGET,
                batch_size=batch_size,
                max_new_tokens=LENGTH,
                fixed_length=True,
                kl_coef=PRICE,
                kl_estimator=PUBLISHED_KL,
                **EARLIER,
            ),
            evaluation=EvaluationSettings(every=max(updates // EVALUATIONS, 1), samples=0),
        )


def sweep() -> list[Cell]:
    """Return the cells that tune the episodes per update."""
    rules = (SPARSE, *CONTINUED)
    return [Cell(rule=rule, batch_size=size) for rule in rules for size in batches(rule)]


def grid() -> list[Cell]:
    """Return the cells of the comparison."""
    return [Cell(rule=rule) for rule in RULES]


def tuned_batch(rule: str, out: Path) -> int:
    """Return the episodes per update with the highest mean area in a rule's sweep.

    Raises:
        ValueError: if the sweep is not finished.
    """
    tuned = rule if rule in CONTINUED else SPARSE
    return max(batches(tuned), key=lambda size: _area_of(Cell(rule=tuned, batch_size=size), out))


def _area_of(cell: Cell, out: Path) -> float:
    """Return a sweep cell's mean area under score - c KL over tokens."""
    if missing_runs(cell.config(out), out / cell.name):
        raise ValueError(f"{cell.name} has runs to do; run the sweep before the cells it tunes")
    folders = [run_folder(out / cell.name, cell.rule, seed) for seed in cell.seeds]
    return _area([c for f in folders for c in read_curves(f / "curve.csv", group_by=())])


def _area(curves: list[Curve]) -> float:
    """Return the mean area of runs under score - c KL, up to the budget."""
    panel = panel_of([*map(_over_tokens, curves)], PRICE)
    (runs,) = panel.rewards.values()
    net = runs.values["net_score"]
    inside = panel.steps <= BUDGET
    areas = [area_under_curve(panel.steps[inside], row[inside], normalize=True) for row in net]
    return sum(areas) / len(areas)


def _over_tokens(curve: Curve) -> Curve:
    """Return a curve whose steps are the tokens spent."""
    return replace(curve, steps=curve.values["tokens"])


def pending(out: Path) -> Iterator[tuple[str, ComparisonConfig, str, int]]:
    """Yield the runs to do in order: the sweep, then all rules, five seeds before ten."""
    for cell in sweep():
        config = cell.config(out)
        for reward, seed in missing_runs(config, out / cell.name):
            yield cell.name, config, reward, seed
    for last in (FIRST_SEED + SEEDS // 2, FIRST_SEED + SEEDS):
        for cell in grid():
            config = cell.config(out)
            for reward, seed in missing_runs(config, out / cell.name):
                if seed < last:
                    yield cell.name, config, reward, seed


def run(out: Out = OUT, part: str = "0/1", until: str | None = None) -> None:
    """Run what is missing, one run at a time, in this process.

    Args:
        out: Folder of the study's runs.
        part: "i/n" takes the seeds with seed % n == i, so that n processes share the work; the
            sweep must be whole before any of them comes to the comparison.
        until: Time of day, HH:MM, after which no run begins.
    """
    run_pending(pending(out), out, part, until)


def publish(out: Out = OUT, docs: Docs = DOCS) -> None:
    """Write each cell's finished runs as one csv, with their settings beside it."""
    for cell in (*sweep(), *grid()):
        rows = list(finished_rows([cell.rule], cell.seeds, out / cell.name))
        if rows:
            write_csv(docs / FOLDER / f"{cell.name}.csv", rows, PUBLISHED)
            settings = read_json(out / cell.name / SETTINGS_FILE)
            write_json(docs / FOLDER / f"{cell.name}.json", settings)


def page(docs: Docs = DOCS) -> None:
    """Fill the page from the published curves and draw its picture."""
    path = docs / "mc.md"
    if not path.exists():
        write_text(path, PAGE)
    curves = [_over_tokens(curve) for cell in grid() for curve in _published(docs, cell)]
    panel = panel_of(curves, PRICE)
    fill(
        path,
        {
            "differences": differences_table(paired_rules(panel)),
            "figures": rules_table({f"{BUDGET:,} tokens": panel}),
            "batches": _batches_table(docs),
            "vineppo": vineppo_table(published(docs)),
        },
    )
    drawn = [replace(curve, values={"score": curve.values["score"]}) for curve in curves]
    save_figure(
        docs / FOLDER / "mc.png",
        summarize(drawn, SummarySettings(baseline=SPARSE, axis="tokens")),
        drawn,
    )


def _published(docs: Path, cell: Cell) -> list[Curve]:
    """Return the published runs of a cell; none if it has not run."""
    path = docs / FOLDER / f"{cell.name}.csv"
    return read_curves(path, group_by=()) if path.exists() else []


def _batches_table(docs: Path) -> str:
    """Return each rule's price in tokens, and the sweep's areas by episodes per update."""
    rows = []
    for rule in (SPARSE, *CONTINUED):
        areas = {
            size: _area(_published(docs, Cell(rule=rule, batch_size=size)))
            for size in batches(rule)
        }
        best = max(areas, key=areas.__getitem__)
        shown = {size: f"{area:.2f}" for size, area in areas.items()}
        shown[best] = f"**{shown[best]}**"
        price = f"{tokens_per_episode(rule):,}"
        rows.append([rule, price, *(shown.get(size, "\u2013") for size in BATCHES)])
    return markdown_table(["rule", "tokens an episode", *map(str, BATCHES)], rows)


if __name__ == "__main__":
    command_line(__doc__, run, publish, page)
