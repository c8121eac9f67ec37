"""How near to the best of its own objective does PPO come, and what keeps it from coming nearer?

PPO on MovieReview, 48 tokens, sparse reward, exact KL, 500,000 tokens of sampling a run, one factor
changed at a time; at the end score - c KL on held-out prompts, beside best-of-n and the lower bound
of the optimum, which take no training.

    python -m studies.ppo_optimum lines --out runs/learner    # 1 minute
    python -m studies.ppo_optimum run --out runs/learner      # about 100 s a run
    python -m studies.ppo_optimum tasks --out runs/learner    # 5 to 40 s a run
    python -m studies.ppo_optimum publish --out runs/learner
    python -m studies.ppo_optimum page
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from studies.cells import (
    DOCS,
    EARLIER,
    Docs,
    Out,
    command_line,
    read_rows,
    run_missing,
)
from studies.kl_price import TEXT as KL_TEXT
from studies.overoptimisation import mean_of_best
from studies.tables import fill, markdown_table, mean
from tokengym.agents.losses.ranking import best_of_n_kl_bound
from tokengym.agents.offline.policies import make_policy
from tokengym.agents.online.collecting import ResponseCollector, Sampling
from tokengym.base.files import write_csv
from tokengym.envs import Episode, bundled
from tokengym.evaluation.report.verdict import number
from tokengym.evaluation.runs.config import ComparisonConfig, TaskSettings
from tokengym.evaluation.runs.defaults import EvaluationSettings, training_settings
from tokengym.evaluation.runs.environments import resolve_env
from tokengym.evaluation.runs.run import run as run_one
from tokengym.rewards import gold_scorer

Row = Mapping[str, Any]
ENV, LENGTH = "tokengym/MovieReview-v0", 48
TOKENS = 500_000
"""Tokens of sampling that a run may spend."""
PRICES = (0.05, 0.2, 0.5, 2.0)
EPISODES = 1024
"""Held-out prompts of a measurement; the split is repeated."""
SCREENED = 100
"""Spare seed, on which factors are tried one at a time."""
SEEDS = range(5)
"""Seeds of the confirmation."""
TASKS = ("MovieReview", "QuestionAnswer", "Summarize", "Dialogue", "Detox", "Oracle")
IMDB = "IMDb"
IMDB_SIZE = {"steps": 60, "batch_size": 32, "max_new_tokens": 24}
TASK_PRICES = (0.0, 0.05, 0.5, 2.0)
SHORT_EPISODES = 256
"""Held-out prompts of a measurement in the runs of 30 updates."""
NS = (1, 2, 4, 8, 16, 32, 64)
DRAWN, PROMPTS, DRAW_SEED = 64, 128, 0
"""Responses of the untrained policy to each held-out prompt, behind best-of-n and the bound."""
FOLDER, TEXT = "learner", ("variant", "reward")
TASK_TEXT = ("task", "variant")


# --- lines that no run decides --------------------------------------------------------------------


def responses(length: int = LENGTH, **options: Any) -> list[Episode]:
    """Return the untrained policy's responses to the held-out prompts, `DRAWN` to each in turn.

    Args:
        length: Tokens of a response.
        options: Further arguments of ``gym.make_vec``, such as ``bundle``.
    """
    lengths: dict[str, Any] = training_settings(ENV, max_new_tokens=length).lengths()
    envs: Any = gym.make_vec(ENV, num_envs=1, reward="sparse", split="test", **lengths, **options)
    collector = ResponseCollector(envs, sampling=Sampling(n=DRAWN), max_rows=256)
    groups = collector.collect(make_policy(envs), range(PROMPTS), seed=DRAW_SEED)
    return [episode for group in groups for episode in group]


def proxy_scores(episodes: Sequence[Episode]) -> np.ndarray:
    """Return the scores that `responses` were paid, (prompts, drawn)."""
    return np.array([episode.score for episode in episodes], dtype=np.float64).reshape(-1, DRAWN)


def draw(length: int = LENGTH) -> tuple[np.ndarray, np.ndarray]:
    """Return proxy and gold of the untrained policy's responses, each (prompts, drawn).

    Args:
        length: Tokens of a response.
    """
    episodes = responses(length)
    judge = gold_scorer(bundled("movie_review"))
    assert judge is not None
    return proxy_scores(episodes), judge.score(episodes).values.reshape(-1, DRAWN)


def best_of_rows(proxy: ArrayLike, gold: ArrayLike) -> list[dict[str, Any]]:
    """Return a row per n: what the best of n responses scores, and the bound on its KL."""
    return [
        {
            "n": n,
            "score": mean(mean_of_best(proxy, proxy, n)),
            "gold_score": mean(mean_of_best(proxy, gold, n)),
            "kl": best_of_n_kl_bound(n),
        }
        for n in NS
    ]


def optimum_rows(proxy: ArrayLike) -> list[dict[str, Any]]:
    """Return a row per price: the lower bound of the best score - c KL, c log mean exp(R / c)."""
    scores = np.asarray(proxy, dtype=np.float64)
    count = np.log(scores.shape[1])
    return [
        {"price": c, "bound": mean(c * (logsumexp(scores / c, axis=1) - count))} for c in PRICES
    ]


def lines(out: Out) -> None:
    """Draw the responses of the untrained policy, unless that is done."""

    def write(file: Path) -> None:
        proxy, gold = draw()
        write_csv(out / "optimum.csv", optimum_rows(proxy), ["price", "bound"])
        rows = best_of_rows(proxy, gold)
        write_csv(file, rows, list(rows[0]))

    run_missing([out / "best_of_n.csv"], lambda file: file, write)


# --- runs -----------------------------------------------------------------------------------------

DECAYED: dict[str, Any] = {**EARLIER, "learning_rate_schedule": "linear"}
ONCE: dict[str, Any] = {**DECAYED, "n_epochs": 1, "n_minibatches": 8}
WIDE: dict[str, Any] = {**ONCE, "batch_size": 256, "learning_rate": 1e-3}
FITTED: dict[str, Any] = {"vf_coef": 1.0, "clip_range_vf": None}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "earlier": ("PPO's earlier default", EARLIER),
    "decayed": ("rate decayed to 0", DECAYED),
    "decayed-256": ("rate decayed, 256 rows", {**DECAYED, "batch_size": 256}),
    "once": ("rate decayed, one epoch of 8 minibatches in place of 4 of 2", ONCE),
    "wide": ("A: rate decayed, one epoch of 8, 256 rows, rate 1e-3", WIDE),
    "wide-lambda-1": ("A, lambda 1", {**WIDE, "gae_lambda": 1.0}),
    "wide-fitted": ("A, value loss in full: weight 1, not clipped", {**WIDE, **FITTED}),
    "wide-own": (
        "A, value loss in full, value network of its own",
        {**WIDE, **FITTED, "value_network": "own"},
    ),
    "own": (
        "B: rate decayed, one epoch of 8, value loss in full, value network of its own",
        {**ONCE, **FITTED, "value_network": "own"},
    ),
    "own-lambda-1": (
        "B, lambda 1",
        {**ONCE, **FITTED, "value_network": "own", "gae_lambda": 1.0},
    ),
    "default": (
        "PPO's default: B with two epochs of 4 minibatches",
        {**DECAYED, **FITTED, "value_network": "own", "n_epochs": 2, "n_minibatches": 4},
    ),
}
"""By name: a line of the table, and the settings; 64 rows and a rate of 3e-4 where not said."""
BEFORE, CHOSEN, NEAREST = "earlier", "default", "own"
"""The default before and after this study, and what stands for the new one where it was not run."""
TRIED = {
    "earlier-averaged": "PPO's earlier default, weights averaged over the second half",
    "wide-averaged": "A, weights averaged over the second half",
    "own-fast-critic-lambda-.8": "A at 3e-4, own network at 1e-3, lambda 0.8",
    "regression": "least squares over all responses so far (A*-PO), 256 rows",
    "regression-averaged": "the same, weights averaged over the second half",
}
"""Lines of trials that are not built in."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run."""

    variant: str
    """Name in `VARIANTS`."""
    price: float
    """Price c of a nat of KL."""
    seed: int
    """Seed."""
    reward: str = "sparse"
    """Credit rule."""

    def file(self, out: Path) -> Path:
        """Return the file of its rows."""
        name = f"{self.variant}-{self.reward}-{self.price:g}-{self.seed}"
        return out / "runs" / f"{name.replace(' ', '_').replace(':', '_')}.csv"

    def config(self) -> ComparisonConfig:
        """Return the comparison that the run is of."""
        settings = {"batch_size": 64, **VARIANTS[self.variant][1]}
        steps = TOKENS // (settings["batch_size"] * LENGTH)
        return ComparisonConfig(
            env="MovieReview",
            rewards=(self.reward,),
            seeds=1,
            first_seed=self.seed,
            training=training_settings(
                ENV, steps=steps, max_new_tokens=LENGTH, kl_coef=self.price, **settings
            ),
            evaluation=EvaluationSettings(every=steps, episodes=EPISODES, samples=0),
        )


def measure(cell: Cell) -> list[dict[str, Any]]:
    """Train a policy and return its rows: untrained, and at the end."""
    record = run_one(cell.config(), cell.reward, cell.seed)
    names = ("step", "tokens", "score", "gold_score", "kl")
    known = record.train[-1]["explained_variance"]
    about = {**vars(cell), "episodes": EPISODES, "explained": known}
    return [{**about, **{name: point[name] for name in names}} for point in record.curve]


def run(out: Out) -> None:
    """Do the runs that have no file yet, the screened ones first."""
    screened = [Cell(variant=v, price=c, seed=SCREENED) for v in VARIANTS for c in PRICES]
    confirmed = [
        Cell(variant=v, price=c, seed=seed)
        for seed in SEEDS
        for c in PRICES
        for v in ("earlier", "default")
    ]

    def write(cell: Cell) -> None:
        rows = measure(cell)
        write_csv(cell.file(out), rows, list(rows[0]))

    run_missing([*screened, *confirmed], lambda cell: cell.file(out), write)


@dataclass(frozen=True, kw_only=True)
class ShortCell:
    """One run of 30 updates with a task's own settings."""

    task: str
    """Task."""
    variant: str
    """Name in `VARIANTS`."""
    price: float
    """Price c of a nat of KL."""
    seed: int
    """Seed."""

    def file(self, out: Path) -> Path:
        """Return the file of its rows."""
        return out / "tasks" / f"{self.task}-{self.variant}-{self.price:g}-{self.seed}.csv"


def tasks(out: Out, bundle: str | None = None) -> None:
    """Do the short runs that have no file yet, on every bundled task, or on IMDb's reviews.

    Args:
        out: Folder of the study's runs.
        bundle: Folder of the bundle made from IMDb's reviews, which are then the only task.
    """
    cells = [
        ShortCell(task=task, variant=variant, price=price, seed=seed)
        for seed in SEEDS
        for task in (TASKS if bundle is None else (IMDB,))
        for price in TASK_PRICES
        for variant in (BEFORE, CHOSEN)
    ]

    def write(cell: ShortCell) -> None:
        rows = measure_short(cell, bundle)
        write_csv(cell.file(out), rows, list(rows[0]))

    run_missing(cells, lambda cell: cell.file(out), write)


def measure_short(cell: ShortCell, bundle: str | None = None) -> list[dict[str, Any]]:
    """Train a policy with a task's own settings and return its rows: untrained, and at the end."""
    env = ENV if cell.task == IMDB else resolve_env(cell.task)
    sizes: dict[str, Any] = IMDB_SIZE if cell.task == IMDB else {}
    changes = VARIANTS[cell.variant][1]
    training = training_settings(env, kl_coef=cell.price, **sizes, **changes)
    config = ComparisonConfig(
        env=env,
        rewards=("sparse",),
        seeds=1,
        first_seed=cell.seed,
        training=training,
        evaluation=EvaluationSettings(every=training.steps, episodes=SHORT_EPISODES, samples=0),
        task=TaskSettings(bundle=bundle),
    )
    names = ("step", "tokens", "score", "gold_score", "kl")
    curve = run_one(config, "sparse", cell.seed).curve
    return [{**vars(cell), **{name: point.get(name) for name in names}} for point in curve]


# --- the page -------------------------------------------------------------------------------------


def objective(row: Row) -> float:
    """Return score - c KL of a measurement."""
    return float(row["score"] - row["price"] * row["kl"])


def best_of(ways: Sequence[Row], price: float) -> Row:
    """Return the best n by score - c KL, with its objective."""
    rows = [{**row, "price": price} for row in ways]
    best = max(rows, key=objective)
    return {**best, "objective": objective(best)}


def left(level: float, ways: Sequence[Row], price: float) -> float:
    """Return the share of the way from the untrained policy to the best of n that is left.

    left = (best of n - level) / (best of n - one response), all levels of score - c KL: 1 is no
    training, 0 as good as the best of n, below 0 beyond it. Both ends are those of the table of
    best-of-n; a run's own start, drawn once for each prompt, is not mixed with them.
    """
    best = float(best_of(ways, price)["objective"])
    return (best - level) / (best - float(ways[0]["score"]))


def lines_table(ways: Sequence[Row], bounds: Sequence[Row]) -> str:
    """Return best-of-n and the lower bound of the optimum, by price."""
    lines = []
    for bound in bounds:
        price = float(bound["price"])
        best = best_of(ways, price)
        sixteen = next(row for row in ways if row["n"] == 16)
        lines.append(
            [
                f"{price:g}",
                number(float(ways[0]["score"])),
                number(objective({**sixteen, "price": price})),
                f"**{number(float(best['objective']))}** (n = {best['n']:g})",
                number(float(bound["bound"])),
            ]
        )
    head = ("price c", "untrained", "best of 16", "best of n", "optimum, at least")
    return markdown_table(head, lines)


def variants_table(rows: Sequence[Row], ways: Sequence[Row]) -> str:
    """Return how each variant ends, by price: one line per variant and price."""
    lines = []
    for variant, label in {**{name: entry[0] for name, entry in VARIANTS.items()}, **TRIED}.items():
        for price in PRICES:
            starts, ends = _points(rows, variant, price)
            if ends:
                now = mean([objective(row) for row in ends])
                gain = now - mean([row["score"] for row in starts])
                names = ("score", "gold_score", "kl")
                known = [row["explained"] for row in ends if row["explained"] is not None]
                lines.append(
                    [
                        *(label, f"{price:g}", ", ".join(f"{row['seed']:g}" for row in ends)),
                        *(f"**{number(now)}**", f"{gain:+.2f}", f"{left(now, ways, price):.0%}"),
                        *(number(mean([row[name] for row in ends])) for name in names),
                        f"{mean(known):.2f}" if known else "\u2013",
                    ]
                )
    head = (
        "variant",
        "price c",
        "seeds",
        "score - c KL",
        "gain",
        "way left",
        "score",
        "gold score",
    )
    return markdown_table((*head, "KL", "explained"), lines)


def goals_table(rows: Sequence[Row], ways: Sequence[Row], earlier: Sequence[Row]) -> str:
    """Return the share of the way that is left at each price, before this study and now.

    Args:
        rows: This study's measurements.
        ways: Best-of-n.
        earlier: Those of `kl_price`, whose best cell of each price is taken, exact KL.
    """
    lines = []
    last = max(row["step"] for row in earlier)
    for price in PRICES:
        cells: dict[tuple[Any, ...], list[float]] = {}
        exact = [r for r in earlier if r["price"] == price and r["kl_estimator"] == "exact"]
        for row in exact:
            if row["step"] == last:
                cells.setdefault((row["kl_in"], row["rate"]), []).append(objective(row))
        before = max(map(mean, cells.values()))
        line = [f"{price:g}", number(before), f"{left(before, ways, price):.0%}"]
        for variant in (CHOSEN, NEAREST):
            _, ends = _points(rows, variant, price, fresh=True)
            if ends:
                now = mean([objective(row) for row in ends])
                share = left(now, ways, price)
                seeds = ", ".join(f"{row['seed']:g}" for row in ends)
                line += [f"**{number(now)}**", f"{share:.0%}", VARIANTS[variant][0], seeds]
                break
        lines.append(line if len(line) > 3 else [*line, "\u2013", "\u2013", "not run", ""])
    first = ("price c", "before, 61,440 tokens", "way left")
    head = (*first, "now, 500,000 tokens", "way left", "by", "seeds")
    return markdown_table(head, lines)


def _points(
    rows: Sequence[Row], variant: str, price: float, *, fresh: bool = False
) -> tuple[list[Row], list[Row]]:
    """Return the first and the last measurement of each run of a variant at a price.

    Args:
        rows: Measurements.
        variant: Name in `VARIANTS`.
        price: Price of a nat.
        fresh: Leave the spare seed out where there are others.
    """
    points = [row for row in rows if (row["variant"], row["price"]) == (variant, price)]
    if fresh and any(row["seed"] != SCREENED for row in points):
        points = [row for row in points if row["seed"] != SCREENED]
    return [row for row in points if not row["step"]], [row for row in points if row["step"]]


def tasks_table(rows: Sequence[Row]) -> str:
    """Return the gain of score - c KL of both defaults on every task, by price, mean over seeds."""
    lines = []
    for task in (*TASKS, IMDB):
        task_rows = [row for row in rows if row["task"] == task]
        for price in TASK_PRICES if task_rows else ():
            points = [_points(task_rows, variant, price) for variant in (BEFORE, CHOSEN)]
            seeds = min(len(ends) for _, ends in points)
            if not seeds:
                continue
            line = [task, f"{price:g}"]
            for starts, ends in points:
                gain = mean([objective(row) for row in ends])
                gain -= mean([objective(row) for row in starts])
                gold = mean([row["gold_score"] for row in ends])
                kl = mean([row["kl"] for row in ends])
                line += [f"**{gain:+.2f}**", number(kl), number(gold)]
            lines.append([*line, f"{seeds}"])
    figures = ("gain", "KL", "gold")
    head = [f"{name}, {figure}" for name in ("earlier", "now") for figure in figures]
    return markdown_table(("task", "price c", *head, "seeds"), lines)


def publish(out: Out, docs: Docs = DOCS) -> None:
    """Add the runs to the published ones, one csv for a kind, and the lines that no run decides."""
    for name in ("best_of_n.csv", "optimum.csv"):
        if (out / name).exists():
            rows = read_rows(out / name, text=())
            write_csv(docs / FOLDER / name, rows, list(rows[0]))
    for name, text in (("runs", TEXT), ("tasks", TASK_TEXT)):
        file = docs / FOLDER / f"{name}.csv"
        published = read_rows(file, text=text) if file.exists() else []
        new_rows = read_rows(*sorted((out / name).glob("*.csv")), text=text)
        keys = [key for key in (published + new_rows)[0] if key in (*text, "price", "seed", "step")]
        merged = {tuple(row[key] for key in keys): row for row in (*published, *new_rows)}
        write_csv(file, list(merged.values()), list(next(iter(merged.values()))))
    page(docs)


def page(docs: Docs = DOCS) -> None:
    """Fill the page from the published csv files."""
    ways = read_rows(docs / FOLDER / "best_of_n.csv", text=())
    bounds = read_rows(docs / FOLDER / "optimum.csv", text=())
    rows = read_rows(docs / FOLDER / "runs.csv", text=TEXT)
    earlier = read_rows(*sorted((docs / "kl").glob("*.csv")), text=KL_TEXT)
    tables = {
        "lines": lines_table(ways, bounds),
        "variants": variants_table(rows, ways),
        "goals": goals_table(rows, ways, earlier),
        "tasks": tasks_table(read_rows(docs / FOLDER / "tasks.csv", text=TASK_TEXT)),
    }
    fill(docs / "learner.md", tables)


if __name__ == "__main__":
    command_line(__doc__, lines, run, tasks, publish, page)
