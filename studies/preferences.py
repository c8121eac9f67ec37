"""Learning from preferences on the bundled film reviews, each learner against the reference.

DPO, online DPO, best-of-n and PPO, with the same scorer.

    python -m studies.preferences run --out runs/preferences
    python -m studies.preferences report --out runs/preferences --docs docs/results

A run that has its file is not run again. Settings were chosen in a pilot with seed 0; the study's
seeds begin at 1. PPO against DPO from the same pairs is `ppo_against_dpo`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from studies.cells import (
    DOCS,
    EARLIER,
    PUBLISHED_KL,
    Docs,
    Out,
    command_line,
    read_rows,
    run_missing,
)
from studies.tables import fill, iqm_with_interval, markdown_table
from tokengym.agents.losses.ranking import best_of_n_kl_bound
from tokengym.base.files import write_csv
from tokengym.evaluation.report.curves import COLUMNS as CURVE_COLUMNS
from tokengym.evaluation.runs.config import ComparisonConfig
from tokengym.evaluation.runs.defaults import EvaluationSettings, training_settings
from tokengym.evaluation.runs.run import run as run_one
from tokengym.evaluation.statistics import interval

ENV = "tokengym/MovieReview-v0"
AGENTS = ("dpo", "online-dpo", "best-of-n", "ppo")
NAMES = {
    "dpo": "DPO",
    "online-dpo": "online DPO",
    "best-of-n": "best of 16",
    "ppo": "PPO (sparse)",
}
TRAINING = training_settings(ENV, steps=20, kl_estimator=PUBLISHED_KL, **EARLIER)
CHANGES: dict[str, dict[str, Any]] = {
    "dpo": {"num_prompts": 256, "learning_rate": 3e-4, "num_train_epochs": 3.0},
    "online-dpo": {"num_prompts": 128, "learning_rate": 3e-4, "num_train_epochs": 3.0},
    "best-of-n": {"n": 16},
}
"""Settings of the other learners that differ from the defaults."""
COLUMNS = ("agent", *CURVE_COLUMNS)


def config(seed: int, agent: str = "ppo") -> ComparisonConfig:
    """Return the environment and how it is measured; each seed has its own evaluation noise."""
    return ComparisonConfig(
        env=ENV,
        rewards=("sparse",),
        seeds=1,
        first_seed=seed,
        training=TRAINING if agent == "ppo" else training_settings(ENV, agent, **CHANGES[agent]),
        evaluation=EvaluationSettings(every=10, episodes=128, seed=20_240 + seed, samples=0),
    )


def processed(point: dict[str, Any], agent: str) -> int:
    """Return the response tokens a point took: of PPO's curves, sampled and passed over."""
    return point["tokens"] * (1 + TRAINING.learner.n_epochs if agent == "ppo" else 1)


def lift(agent: str, seed: int) -> list[dict[str, Any]]:
    """Return the curve of one run."""
    curve = run_one(config(seed, agent), "sparse", seed).curve
    return [{**point, "tokens": processed(point, agent)} for point in curve]


def run(out: Out, seeds: Sequence[int] = (1, 2, 3, 4, 5)) -> None:
    """Run what is missing, seed by seed.

    Args:
        out: Folder of the study's runs.
        seeds: Seeds to run.
    """

    def path(run: tuple[int, str]) -> Path:
        seed, agent = run
        return out / f"{agent}-{seed}.csv"

    def write(run: tuple[int, str]) -> None:
        seed, agent = run
        row = {"agent": agent, "credit": agent, "seed": seed}
        write_csv(path(run), [{**point, **row} for point in lift(agent, seed)], COLUMNS)

    run_missing([(seed, agent) for seed in seeds for agent in AGENTS], path, write)


def read_curves(out: Path) -> list[dict[str, Any]]:
    """Return every run's points."""
    return read_rows(*sorted(out.glob("*.csv")), text=("agent", "credit"))


def at_end(rows: Sequence[dict[str, Any]], agent: str, name: str, *, first: bool = False) -> Any:
    """Return a measurement at each run's last (or first) point, in the order of the seeds."""
    agent_rows = [row for row in rows if row["agent"] == agent]
    index = 0 if first else -1
    runs = [
        sorted((row for row in agent_rows if row["seed"] == seed), key=lambda row: row["step"])
        for seed in sorted({row["seed"] for row in agent_rows})
    ]
    return np.array([points[index][name] for points in runs])


def lift_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table, the reference first."""
    names = ("score", "gold_score", "kl", "distinct_2")
    start, *_ = AGENTS
    lines = [["reference", *_figures(rows, start, names, first=True), "0", ""]]
    for agent in AGENTS:
        apart = all(
            interval(at_end(rows, agent, name))[0]
            > interval(at_end(rows, start, name, first=True))[1]
            for name in ("score", "gold_score")
        )
        tokens = f"{at_end(rows, agent, 'tokens').mean() / 1000:.0f}k"
        figures = _figures(rows, agent, names)
        if agent == "best-of-n":
            figures[2] = f"at most {best_of_n_kl_bound(16):.2f}"
        lines.append([NAMES[agent], *figures, tokens, "yes" if apart else "no"])
    head = ["agent", "score", "gold score", "KL, nats", "distinct bigrams", "tokens", "both above"]
    return markdown_table(head, lines)


def _figures(
    rows: Sequence[dict[str, Any]], agent: str, names: Sequence[str], *, first: bool = False
) -> list[str]:
    return [iqm_with_interval(at_end(rows, agent, name, first=first)) for name in names]


def report(out: Out, docs: Docs = DOCS) -> None:
    """Write every run's curve and fill the table of the document."""
    rows = read_curves(out)
    write_csv(docs / "preferences" / "curves.csv", rows, COLUMNS)
    fill(docs / "preferences.md", {"lift": lift_table(rows)})


if __name__ == "__main__":
    command_line(__doc__, run, report)
