"""How far PPO, DPO and best-of-n stay from the best policy under a price on the KL, exactly.

On the Oracle the policy that maximises score - c KL is known, best(y) = reference(y)
exp(score(y) / c) / Z, and so is any policy's distance to it, KL(policy || best). PPO and DPO see
6,400 responses each; their learning rates are the best of sweeps on other seeds (PPO's:
docs/results/kl.md). Best-of-n is computed, not run. The entropy study trains PPO with several
entropy bonuses.

    python -m studies.optimum run --out runs/optimum
    python -m studies.optimum publish --out runs/optimum
    python -m studies.optimum page
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, rel_entr

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
from studies.kl_price import TEXT as KL_TEXT
from studies.tables import fill, markdown_table, mean, student_mean
from tokengym.agents import DPO, PPO
from tokengym.agents.losses.ranking import best_of_n_kl_bound, best_of_n_probs
from tokengym.agents.oracle import policy_table
from tokengym.base.files import write_csv
from tokengym.envs.oracle.values import Responses
from tokengym.evaluation.report.verdict import number

Array = NDArray[np.float64]
Row = Mapping[str, Any]
FOLDER, TEXT = "optimum", ("method",)
OUT = Path("runs/optimum")
ENV = "tokengym/Oracle-v0"
PRICES = (0.05, 0.2, 0.5, 2.0)
BATCH, UPDATES = 64, 100
RUN_AT = {"ppo": (0.05, 0.2, 0.5), "dpo": (0.5,)}
"""Prices at which each learner is run."""
PAIRS = BATCH * UPDATES // 2
"""Pairs of DPO: as many responses as PPO samples."""
EPOCHS = 3
METHODS = {
    "ppo-k1": "PPO, k1",
    "ppo-exact": "PPO, exact KL",
    "dpo-drawn": f"DPO, {PAIRS:,} pairs, label drawn by the scores' difference",
    "dpo-better": f"DPO, {PAIRS:,} pairs, the higher score always chosen",
}
RATES = (3e-4, 1e-3, 3e-3)
"""Learning rates of DPO's sweep, and of PPO's."""
SEEDS, SWEEP_SEED = range(10, 15), 20
NS = (1, 2, 4, 8, 16, 64, 256, 1024, 4096, 2**14, 2**16)
BONUSES = (0.0, 0.1, 0.3)
ENTROPY_PRICE, ENTROPY_RATE, ENTROPY_UPDATES = 0.0, 1e-3, 50
FIGURES = {
    "score": "score",
    "kl": "KL to the reference, nats",
    "distance": "KL to the best policy, nats",
    "gap": "gap left",
}
HEAD = ("price c", "policy", *FIGURES.values())


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run."""

    method: str
    """Name in `METHODS`, or "entropy"."""
    price: float
    """Price c of a nat of KL; DPO's beta."""
    rate: float
    """Learning rate."""
    seed: int
    """Seed of the run."""
    bonus: float = 0.0
    """PPO's ``ent_coef``."""

    def file(self, out: Path) -> Path:
        """Return the file of its row."""
        return out / f"{self.method}-{self.price:g}-{self.rate:g}-{self.bonus:g}-{self.seed}.csv"


# --- exact figures --------------------------------------------------------------------------------


def figures(
    probs: ArrayLike, reference: ArrayLike, scores: ArrayLike, price: float
) -> dict[str, float]:
    """Return a policy's score, KL to the reference, diversity, and distance to the best policy.

    best(y) = reference(y) exp(score(y) / c) / Z;  distance = KL(policy || best), nats
    gap = distance / KL(reference || best): 0 at the best policy, 1 at the reference, which is also
    the share of the gain in score - c KL that is still missing

    Args:
        probs: (responses,) of the policy.
        reference: (responses,).
        scores: (responses,) score units.
        price: Price c of a nat of KL to the reference, score units; at 0 no policy is best.
    """
    policy, prior = np.asarray(probs, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    measures = {
        "score": float(policy @ np.asarray(scores)),
        "kl": float(rel_entr(policy, prior).sum()),
        "entropy": float(-rel_entr(policy, np.ones_like(policy)).sum()),
        "commonest": float(policy.max()),
    }
    if not price:
        return measures
    best = best_probs(prior, scores, price)
    distance, start = rel_entr(policy, best).sum(), rel_entr(prior, best).sum()
    return {**measures, "distance": float(distance), "gap": float(distance / start)}


def best_probs(reference: ArrayLike, scores: ArrayLike, price: float) -> Array:
    """Return the policy that is best by score - price * KL, (responses,)."""
    values = np.asarray(scores, dtype=np.float64)
    weights: Array = np.asarray(reference) * np.exp((values - values.max()) / price)
    return weights / weights.sum()


def drawn_pairs(
    every: Responses, count: int, rng: np.random.Generator, *, always: bool
) -> list[tuple[int, int]]:
    """Return pairs (chosen, rejected) of two different draws, as rows of all responses.

    P(a is chosen over b) = sigmoid(score_a - score_b); with ``always`` the higher score is chosen,
    and pairs of equal scores are drawn again.

    With those labels the best policy by DPO's expected loss is the best by score - beta KL.
    """
    pairs: list[tuple[int, int]] = []
    while len(pairs) < count:
        one, other = rng.choice(len(every.probs), (2, count), p=every.probs)
        gap = every.scores[one] - every.scores[other]
        wins = gap > 0.0 if always else rng.random(count) < expit(gap)
        usable = (one != other) & ((gap != 0.0) | (not always))
        chosen, rejected = np.where(wins, one, other), np.where(wins, other, one)
        pairs += zip(chosen[usable].tolist(), rejected[usable].tolist(), strict=True)
    return pairs[:count]


# --- runs -----------------------------------------------------------------------------------------


@cache
def _reference() -> Responses:
    """Return all responses under the bundled policy."""
    envs = gym.make_vec(ENV, num_envs=1)
    oracle: Any = envs.unwrapped
    return oracle.responses(policy_table(DPO(envs, device="cpu").policy, envs))


def train(cell: Cell) -> Any:
    """Return the agent of a cell, trained, and its environments."""
    envs = gym.make_vec(ENV, num_envs=BATCH)
    if not cell.method.startswith("dpo"):
        agent = PPO(
            "CausalLMPolicy",
            envs,
            learning_rate=cell.rate,
            kl_coef=cell.price,
            kl_estimator="k1" if cell.method == "ppo-k1" else "exact",
            ent_coef=cell.bonus,
            seed=cell.seed,
            **EARLIER,
        )
        for _ in range(ENTROPY_UPDATES if cell.method == "entropy" else UPDATES):
            played = agent.collect()
            assert played is not None
            agent.learn_from(played)
        return agent, envs
    every = _reference()
    rng = np.random.default_rng(cell.seed)
    always = cell.method == "dpo-better"
    couples = drawn_pairs(every, PAIRS, rng, always=always)
    oracle: Any = envs.unwrapped
    prompt = oracle.tokenizer(oracle.prompts[0].text).input_ids
    pairs = [
        {"prompt_ids": prompt, "chosen_ids": every.ids[a], "rejected_ids": every.ids[b]}
        for a, b in couples
    ]
    learner = DPO(
        envs,
        pairs,
        beta=cell.price,
        learning_rate=cell.rate,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH,
        precompute_ref_log_probs=True,
        seed=cell.seed,
    )
    learner.train()
    return learner, envs


def measure(cell: Cell) -> dict[str, Any]:
    """Return the row of a cell's trained policy."""
    agent, envs = train(cell)
    oracle: Any = envs.unwrapped
    every, trained = _reference(), oracle.responses(policy_table(agent.policy, envs))
    return vars(cell) | figures(trained.probs, every.probs, every.scores, cell.price)


def sweep() -> Iterator[Cell]:
    """Yield the runs that choose DPO's learning rate."""
    for method in METHODS:
        if method.startswith("dpo"):
            for price in RUN_AT[method[:3]]:
                for rate in RATES:
                    yield Cell(method=method, price=price, rate=rate, seed=SWEEP_SEED)


def tuned_rate(method: str, price: float, rows: Sequence[Row]) -> float:
    """Return the learning rate with the smallest mean gap in a method's sweep."""
    gaps: dict[float, list[float]] = {}
    for row in rows:
        if (row["method"], row["price"]) == (method, price):
            gaps.setdefault(row["rate"], []).append(row["gap"])
    return min(gaps, key=lambda rate: mean(gaps[rate]))


def ppo_sweep(docs: Path) -> list[dict[str, Any]]:
    """Return the ends of PPO's published runs on the Oracle as rows of a sweep."""
    rows = read_rows(docs / "kl" / "oracle" / "curves.csv", text=KL_TEXT)
    last = max(row["step"] for row in rows)
    return [
        {**row, "method": f"ppo-{row['kl_estimator']}"}
        for row in rows
        if row["step"] == last and row["kl_in"] == "reward"
    ]


def run(out: Out = OUT, docs: Docs = DOCS) -> None:
    """Run what is missing: DPO's sweep, all methods at their best rates, the entropy study."""

    def write(cell: Cell) -> None:
        row = measure(cell)
        write_csv(cell.file(out), [row], list(row))

    def missing(cells: Iterable[Cell]) -> None:
        run_missing(cells, lambda cell: cell.file(out), write)

    tried = ppo_sweep(docs)
    for method in METHODS:
        method_cells = [cell for cell in sweep() if cell.method == method]
        missing(method_cells)
        tried += read_rows(*(cell.file(out) for cell in method_cells), text=TEXT)
        missing(
            Cell(method=method, price=price, rate=tuned_rate(method, price, tried), seed=seed)
            for price in RUN_AT[method[:3]]
            for seed in SEEDS
        )
    missing(
        Cell(method="entropy", price=ENTROPY_PRICE, rate=ENTROPY_RATE, seed=seed, bonus=bonus)
        for seed in SEEDS
        for bonus in BONUSES
    )


# --- page -----------------------------------------------------------------------------------------


def publish(out: Out = OUT, docs: Docs = DOCS) -> None:
    """Write the rows of all runs, and what is exact without any run."""
    rows = read_rows(*sorted(out.glob("*.csv")), text=TEXT)
    for name, is_entropy in (("runs", False), ("entropy", True)):
        chosen = [row for row in rows if (row["method"] == "entropy") == is_entropy]
        write_csv(docs / FOLDER / f"{name}.csv", chosen, list(chosen[0]))
    every = _reference()
    exact = [
        {"n": n, "price": price, **figures(probs, every.probs, every.scores, price)}
        for price in PRICES
        for n, probs in (
            (0, best_probs(every.probs, every.scores, price)),
            *((n, best_of_n_probs(every.probs, every.scores, n)) for n in NS),
        )
    ]
    write_csv(docs / FOLDER / "exact.csv", exact, list(exact[0]))


def page(docs: Docs = DOCS) -> None:
    """Fill the page from the published rows."""
    runs, entropy, exact = (
        read_rows(docs / FOLDER / f"{name}.csv", text=TEXT) for name in ("runs", "entropy", "exact")
    )
    tables = {
        "methods": methods_table(runs, exact),
        "best-of-n": best_of_n_table(exact),
        "rates": rates_table(runs),
        "entropy": entropy_table(entropy),
    }
    fill(docs / "optimum.md", tables)


def methods_table(rows: Sequence[Row], exact: Sequence[Row]) -> str:
    """Return each method's figures by price, the best policy first, then the best n."""
    lines = []
    for price in PRICES:
        known = [row for row in exact if row["price"] == price]
        best_n = min((row for row in known if row["n"] >= 1), key=lambda row: row["gap"])
        lines.append([f"{price:g}", "the best policy", *_exact(known[0])])
        for method, label in METHODS.items():
            ends = [row for row in of_method(rows, method, price) if row["seed"] in SEEDS]
            if len(ends) == len(SEEDS):
                cells = [student_mean([row[name] for row in ends]) for name in FIGURES]
                lines.append([f"{price:g}", label, *cells])
        lines.append(
            [f"{price:g}", f"best of {best_n['n']:,.0f}, the best n below", *_exact(best_n)]
        )
    return markdown_table(HEAD, lines)


def best_of_n_table(exact: Sequence[Row]) -> str:
    """Return best-of-n's score, KL and its bound, and its gap at each price, the least in bold."""
    gaps = {(row["price"], row["n"]): row["gap"] for row in exact if row["n"] >= 1}
    least = {price: min(gaps[price, n] for n in NS) for price in PRICES}
    lines = []
    for n in NS:
        row_of_n = next(row for row in exact if row["n"] == n)
        figure = (row_of_n["score"], row_of_n["kl"], best_of_n_kl_bound(n))
        shown = [bold_if(gaps[price, n] == least[price], gaps[price, n]) for price in PRICES]
        lines.append([f"{n:,}", *map(number, figure), *shown])
    head = ["n", "score", "KL, nats", "log n - (n - 1) / n"]
    return markdown_table([*head, *(f"gap at c = {price:g}" for price in PRICES)], lines)


def rates_table(rows: Sequence[Row]) -> str:
    """Return the gaps of DPO's sweep, one seed, the least in bold."""
    lines = []
    for method, label in METHODS.items():
        for price in PRICES:
            gap_by_rate = {
                row["rate"]: row["gap"]
                for row in of_method(rows, method, price)
                if row["seed"] == SWEEP_SEED
            }
            if gap_by_rate:
                best = min(gap_by_rate.values())
                cells = [bold_if(gap_by_rate[rate] == best, gap_by_rate[rate]) for rate in RATES]
                lines.append([label, f"{price:g}", *cells])
    return markdown_table(["learner", "price c", *(f"rate {rate:g}" for rate in RATES)], lines)


def entropy_table(rows: Sequence[Row]) -> str:
    """Return score and diversity by entropy bonus: means, and the least and the greatest."""
    lines = []
    for bonus in BONUSES:
        bonus_rows = [row for row in rows if row["bonus"] == bonus]
        figures = [[row[name] for row in bonus_rows] for name in ("score", "entropy", "commonest")]
        lines.append([f"{bonus:g}", *map(with_range, figures)])
    head = ["`ent_coef`", "score", "entropy of a response, nats", "probability of the commonest"]
    return markdown_table(head, lines)


def with_range(values: Sequence[float]) -> str:
    """Return the mean of a sample, and its least and greatest value."""
    return f"{number(mean(values))} ({number(min(values))} to {number(max(values))})"


def of_method(rows: Sequence[Row], method: str, price: float) -> list[Row]:
    """Return a method's rows at a price."""
    return [row for row in rows if (row["method"], row["price"]) == (method, price)]


def bold_if(condition: bool, value: float) -> str:
    """Return a number, in bold if the condition holds."""
    return f"**{number(value)}**" if condition else number(value)


def _exact(row: Row) -> list[str]:
    return [number(row[name]) for name in FIGURES]


if __name__ == "__main__":
    command_line(__doc__, run, publish, page)
