"""Does PPO maximise score - c KL? The KL in the reward and in the loss, sampled and exact.

python -m studies.kl_price run --out runs/kl      # 78 runs, about 15 s each
python -m studies.kl_price stops --out runs/kl    # 32 runs
python -m studies.kl_price oracle --out runs/kl   # 108 runs, about 10 s each
python -m studies.kl_price imdb --bundle imdb/bundle --out runs/kl  # 27 runs
python -m studies.kl_price publish --out runs/kl  # fills docs/results/kl.md
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym

import tokengym  # noqa: F401  (registers the ids)
from studies.cells import (
    DOCS,
    EARLIER,
    Docs,
    Out,
    command_line,
    read_rows,
    run_missing,
)
from studies.tables import fill, markdown_table
from tokengym.agents import PPO
from tokengym.agents.oracle import policy_table
from tokengym.base.files import write_csv
from tokengym.evaluation.report.verdict import number

PLACES = (("reward", "k1"), ("reward", "exact"), ("loss", "exact"))
PRICES = (0.0, 0.05, 0.2, 0.5, 2.0)
RATES = (1e-4, 3e-4, 1e-3)
SEEDS = (0, 1)
UPDATES, EVERY = 20, 5
ORACLE_RATES = (3e-4, 1e-3, 3e-3)
ORACLE_SEEDS = (0, 1, 2)
ORACLE_UPDATES, ORACLE_EVERY = 100, 10
IMDB_PRICES, IMDB_RATES, IMDB_SEEDS = (0.05, 0.2, 0.5), (3e-4,), (0, 1, 2)
IMDB_SIZE = {"steps": 15, "batch_size": 32, "max_new_tokens": 24}
HEAD = ("price c", "learning rate", "k1 in the reward", "exact in the reward", "exact in the loss")
STOPS = (0.01, 0.003)
STOPPED_PRICES, STOPPED_RATES = (0.2, 0.5), (3e-4, 1e-3)
STOPPED_HEAD = (
    *HEAD[:2],
    *(f"{column}, target_kl {stop:g}" for column in HEAD[2:4] for stop in STOPS),
)
TEXT = ("kl_in", "kl_estimator")


@dataclass(frozen=True)
class Cell:
    """One run on MovieReview under the sparse reward."""

    kl_in: str
    kl_estimator: str
    price: float
    rate: float
    seed: int
    target_kl: float = 0.0
    """PPO's setting of that name; 0 never ends an update early."""

    @property
    def name(self) -> str:
        """Name of its file."""
        stop = f"-stop-{self.target_kl:g}" if self.target_kl else ""
        return f"{self.kl_in}-{self.kl_estimator}-{self.price:g}-{self.rate:g}-{self.seed}{stop}"


def cells() -> Iterator[Cell]:
    """Yield the runs of the study; at price 0 the place makes no difference."""
    for kl_in, estimator in PLACES:
        for price in PRICES:
            if price > 0.0 or (kl_in, estimator) == PLACES[0]:
                for rate in RATES:
                    for seed in SEEDS:
                        yield Cell(kl_in, estimator, price, rate, seed)


def stopped_cells() -> Iterator[Cell]:
    """Yield the runs whose updates end early once the policy has moved far."""
    for seed in SEEDS:
        for kl_in, estimator in PLACES[:2]:
            for price in STOPPED_PRICES:
                for rate in STOPPED_RATES:
                    for stop in STOPS:
                        yield Cell(kl_in, estimator, price, rate, seed, stop)


def measure(cell: Cell, bundle: str | None = None, **size: int) -> list[dict[str, Any]]:
    """Train one policy and return a row per measurement, on 128 held-out prompts."""
    from tokengym.evaluation.runs.config import ComparisonConfig, TaskSettings
    from tokengym.evaluation.runs.defaults import EvaluationSettings, training_settings
    from tokengym.evaluation.runs.run import run as run_one

    sizes: dict[str, Any] = {"steps": UPDATES, **size}
    config = ComparisonConfig(
        env="MovieReview",
        rewards=("sparse",),
        seeds=1,
        first_seed=cell.seed,
        training=training_settings(
            "tokengym/MovieReview-v0",
            **sizes,
            learning_rate=cell.rate,
            kl_coef=cell.price,
            kl_in=cell.kl_in,
            kl_estimator=cell.kl_estimator,
            target_kl=cell.target_kl or None,
            **EARLIER,
        ),
        evaluation=EvaluationSettings(every=EVERY, episodes=128, samples=0),
        task=TaskSettings(bundle=bundle),
    )
    record = run_one(config, "sparse", cell.seed)
    return [
        {**vars(cell), **{name: point[name] for name in ("step", "score", "kl", "gold_score")}}
        for point in record.curve
    ]


def oracle_cells() -> Iterator[Cell]:
    """Yield the runs on the Oracle, where the best policy under a price is known."""
    for seed in ORACLE_SEEDS:
        for kl_in, estimator in PLACES:
            for price in PRICES[1:]:
                for rate in ORACLE_RATES:
                    yield Cell(kl_in, estimator, price, rate, seed)


def measure_on_oracle(cell: Cell) -> list[dict[str, Any]]:
    """Train one policy on the Oracle and return its exact gap to the best policy as it goes.

    gap = (best objective - objective) / (best objective - that of the untrained policy), of
    score - c KL: 0 is the best policy, 1 the untrained one, above 1 is worse than no training.
    """
    envs = gym.make_vec("tokengym/Oracle-v0", num_envs=64)
    agent = PPO(
        "CausalLMPolicy",
        envs,
        learning_rate=cell.rate,
        kl_coef=cell.price,
        kl_in=cell.kl_in,
        kl_estimator=cell.kl_estimator,
        seed=cell.seed,
        **EARLIER,
    )
    reference = policy_table(agent.policy, envs, reference=True)
    oracle: Any = envs.unwrapped

    def objective(policy: Any, price: float) -> float:
        return oracle.policy_values(policy, reference=reference, kl_coef=price).values[()]

    best = oracle.kl_optimal_values(reference, kl_coef=cell.price).values[()]
    start = objective(reference, cell.price)
    rows = []
    for update in range(ORACLE_UPDATES + 1):
        if update % ORACLE_EVERY == 0:
            policy = policy_table(agent.policy, envs)
            now, score = objective(policy, cell.price), objective(policy, 0.0)
            rows.append(
                vars(cell)
                | {
                    "step": update,
                    "score": score,
                    "kl": (score - now) / cell.price,
                    "gap": (best - now) / (best - start),
                }
            )
        played = agent.collect()
        assert played is not None
        agent.learn_from(played)
    return rows


def oracle_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the gap to the best policy at the end, by price and rate."""
    last = max(row["step"] for row in rows)
    lines = []
    for price in sorted({row["price"] for row in rows}):
        for rate in sorted({row["rate"] for row in rows}):
            gaps = []
            for kl_in, estimator in PLACES:
                wanted = (kl_in, estimator, price, rate, last)
                ends = [
                    row["gap"]
                    for row in rows
                    if tuple(row[k] for k in ("kl_in", "kl_estimator", "price", "rate", "step"))
                    == wanted
                ]
                low, high = min(ends), max(ends)
                gaps.append(
                    f"**{number(sum(ends) / len(ends))}** ({number(low)} to {number(high)})"
                )
            lines.append([f"{price:g}", f"{rate:g}", *gaps])
    return markdown_table(HEAD, lines)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return how runs end, by price and rate: score - c KL, with score and KL behind it."""
    return markdown_table(HEAD, _endings(rows, [(*setting, 0.0) for setting in PLACES]))


def stopped_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the same of the runs whose updates end early."""
    columns = [(*setting, stop) for setting in PLACES[:2] for stop in STOPS]
    return markdown_table(STOPPED_HEAD, _endings(rows, columns))


def _endings(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[tuple[str, str, float]]
) -> list[list[str]]:
    """Return a line per price and rate, a cell per place, estimator and target_kl."""
    last = max(row["step"] for row in rows)
    ends: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["step"] == last:
            column = (row["kl_in"], row["kl_estimator"], row.get("target_kl") or 0.0)
            ends.setdefault((row["price"], row["rate"], *column), []).append(row)
    return [
        [f"{price:g}", f"{rate:g}"]
        + [_ending(ends.get((price, rate, *column), []), price) for column in columns]
        for price, rate in sorted({key[:2] for key in ends})
    ]


def _ending(ends: Sequence[Mapping[str, Any]], price: float) -> str:
    """Return the mean of score - c KL over the seeds, with score and KL."""
    if not ends:
        return "\u2013"
    score, kl = (sum(row[name] for row in ends) / len(ends) for name in ("score", "kl"))
    return f"**{number(score - price * kl)}** ({number(score)}, {number(kl)} nats)"


def run(out: Out) -> None:
    """Run the cells on MovieReview that have no file yet."""
    _run(cells(), out, measure)


def stops(out: Out) -> None:
    """Run the cells with an early end of updates that have no file yet."""
    _run(stopped_cells(), out / "stops", measure)


def oracle(out: Out) -> None:
    """Run the cells on the Oracle that have no file yet."""
    _run(oracle_cells(), out / "oracle", measure_on_oracle)


def imdb(bundle: str, out: Out) -> None:
    """Run the cells on IMDb's reviews that have no file yet.

    Args:
        bundle: Folder of the bundle made from them.
        out: Folder of the study's runs.
    """
    study = (
        Cell(kl_in, estimator, price, rate, seed)
        for seed in IMDB_SEEDS
        for rate in IMDB_RATES
        for price in IMDB_PRICES
        for kl_in, estimator in PLACES
    )
    _run(study, out / "imdb", lambda cell: measure(cell, bundle, **IMDB_SIZE))


def _run(
    study: Iterator[Cell], out: Path, measured: Callable[[Cell], list[dict[str, Any]]]
) -> None:
    def write(cell: Cell) -> None:
        rows = measured(cell)
        write_csv(_file(out, cell), rows, list(rows[0]))

    run_missing(study, lambda cell: _file(out, cell), write)


def publish(out: Out = DOCS / "kl", docs: Docs = DOCS) -> None:
    """Fill the page from the runs, or from the published curves."""
    endings = read_rows(*sorted(out.glob("*.csv")), text=TEXT)
    gaps = read_rows(*sorted((out / "oracle").glob("*.csv")), text=TEXT)
    real = read_rows(*sorted((out / "imdb").glob("*.csv")), text=TEXT)
    stopped = read_rows(*sorted((out / "stops").glob("*.csv")), text=TEXT)
    tables = {
        "endings": table(endings),
        "stops": stopped_table(stopped),
        "oracle": oracle_table(gaps),
        "imdb": table(real),
    }
    fill(docs / "kl.md", tables)


def _file(out: Path, cell: Cell) -> Path:
    return out / f"{cell.name}.csv"


if __name__ == "__main__":
    command_line(__doc__, run, stops, oracle, imdb, publish)
