"""Learning from preferences on the bundled film reviews, against the reference and against PPO.

    lift     each of DPO, online DPO, best-of-n and PPO, with the same scorer
    shift    PPO against DPO from the same preference pairs, which come from the policy itself
             ("in") or from a writer who lacks half of the opinion words ("out"). The pairs are
             judged by the gold score; PPO's reward model is trained on them, DPO reads them itself.
             After Xu et al. 2024, "Is DPO Superior to PPO for LLM Alignment?", arXiv:2404.10719.

    python -m tokengym.scripts.studies.preferences run --out runs/preferences [--only lift]
    python -m tokengym.scripts.studies.preferences report --out runs/preferences --docs docs/results

A run that has its file is not run again. Settings were chosen in a pilot with seed 0; the study's
seeds begin at 1.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from tokengym.agents.online.pairing import best_of_n_kl_bound
from tokengym.agents.ppo.training import Recorder
from tokengym.envs import bundled
from tokengym.envs.files import read_json, write_csv
from tokengym.evaluation.report.curves import COLUMNS as CURVE_COLUMNS
from tokengym.evaluation.runs.config import ComparisonConfig
from tokengym.evaluation.runs.defaults import EvaluationSettings, training_settings
from tokengym.evaluation.runs.run import make_agent, make_evaluator
from tokengym.evaluation.runs.run import run as run_one
from tokengym.evaluation.statistics import interval
from tokengym.scripts.studies.cells import (
    DOCS,
    PUBLISHED_KL,
    Docs,
    Out,
    command_line,
    read_rows,
    run_missing,
)
from tokengym.scripts.studies.tables import fill, iqm_with_interval, markdown_table, mean

ENV = "tokengym/MovieReview-v0"
LIFT = ("dpo", "online-dpo", "best-of-n", "ppo")
SHIFT = ("dpo", "ppo")
CELLS = ("in", "out")
PAIRS = {"shift": 1, "shift4": 4}
"""The experiment on shift by its pairs per prompt."""
NAMES = {
    "dpo": "DPO",
    "online-dpo": "online DPO",
    "best-of-n": "best of 16",
    "ppo": "PPO (sparse)",
}
TRAINING = training_settings(ENV, steps=20, kl_estimator=PUBLISHED_KL)
CHANGES: dict[str, dict[str, Any]] = {
    "dpo": {"num_prompts": 256, "learning_rate": 3e-4, "num_train_epochs": 3.0},
    "online-dpo": {"num_prompts": 128, "learning_rate": 3e-4, "num_train_epochs": 3.0},
    "best-of-n": {"n": 16},
}
"""Settings of the other learners that differ from the defaults."""
RESPONSES = 8
"""To each prompt of the experiment on shift, which make up to four pairs: the best with the worst,
the second with the second-worst, ..."""
PROMPTS = 512
"""Prompts of that experiment."""
_WHOSE = {"in": "its own", "out": "another writer's"}
COLUMNS = ("study", "cell", "agent", *CURVE_COLUMNS, "unseen", "reward_accuracy")


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


# --- lift -----------------------------------------------------------------------------------------


def lift(agent: str, seed: int) -> list[dict[str, Any]]:
    """Return the curve of one run of the experiment on lift."""
    curve = run_one(config(seed, agent), "sparse", seed).curve
    return [{**point, "tokens": processed(point, agent)} for point in curve]


# --- shift ----------------------------------------------------------------------------------------


@cache
def unseen_ids() -> tuple[int, ...]:
    """Return every second opinion word of the lexicon: what the other writer does not know."""
    bundle = bundled("movie_review")
    words = sorted(read_json(bundle.lexicon)["words"])
    known = bundle.tokenizer.get_vocab()
    return tuple(known[word] for word in words[::2] if word in known)


@cache
def make_pairs(cell: str, seed: int, per_prompt: int) -> Any:
    """Return pairs judged by the gold score: from the policy, or from the writer lacking words."""
    import gymnasium as gym

    from tokengym.agents.offline.pair_data import pairs_dataset
    from tokengym.agents.offline.policies import make_policy
    from tokengym.agents.online.collecting import (
        ResponseCollector,
        Sampling,
        pair_rows,
        prompt_order,
    )
    from tokengym.rewards import gold_scorer

    lengths: dict[str, Any] = TRAINING.lengths()
    forbidden = unseen_ids() if cell == "out" else ()
    envs = gym.make_vec(ENV, num_envs=1, reward=None, forbidden_token_ids=forbidden, **lengths)
    sampling = Sampling(n=RESPONSES)
    collector = ResponseCollector(
        envs, scorer=gold_scorer(bundled("movie_review")), sampling=sampling, max_rows=256
    )
    prompts = prompt_order(len(collector.prompts), PROMPTS, seed=seed)
    groups = collector.collect(make_policy(envs), prompts, seed=seed)
    ranked = [sorted(group, key=lambda one: -(one.score or 0.0)) for group in groups]
    rows = []
    for place in range(per_prompt):
        couples = [(group[place], group[-1 - place]) for group in ranked]
        rows += pair_rows(couples, sampling, prompts)
    return pairs_dataset(rows)


class Curve:
    """Measurements of an agent during the experiment on shift.

    Args:
        seed: Seed of the evaluation.
        sampled: Response tokens of the pairs.
    """

    def __init__(self, seed: int, sampled: int) -> None:
        self.evaluator = make_evaluator(config(seed))
        self.sampled = sampled
        self.unseen = set(unseen_ids())
        self.points: list[dict[str, Any]] = []

    def measure(self, step: int, tokens: int, agent: Any) -> None:
        """Measure the agent after ``tokens`` more than those of the pairs."""
        evaluation = self.evaluator(agent)
        written = [token for e in evaluation.episodes for token in e.response_ids]
        self.points.append(
            {
                "step": step,
                "tokens": self.sampled + tokens if step else 0,
                **evaluation.metrics,
                "unseen": float(np.mean([token in self.unseen for token in written])),
            }
        )


def shift(cell: str, agent: str, seed: int, per_prompt: int) -> list[dict[str, Any]]:
    """Return the curve of one run of the experiment on shift."""
    pairs = make_pairs(cell, seed, per_prompt)
    curve = Curve(seed, sampled=PROMPTS * RESPONSES * TRAINING.max_new_tokens)
    if agent == "dpo":
        train_dpo(pairs, seed, curve)
        return curve.points
    with TemporaryDirectory() as scratch:
        accuracy = train_reward(pairs, Path(scratch) / "reward_model", seed)
        train_ppo(Path(scratch) / "reward_model", seed, curve)
    return [{**point, "reward_accuracy": accuracy} for point in curve.points]


def train_dpo(pairs: Any, seed: int, curve: Curve) -> None:
    """Train DPO on the pairs, measured after every epoch."""
    from transformers import TrainerCallback

    from tokengym.agents import DPO

    class AfterEpoch(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            agent.count_tokens()
            curve.measure(round(state.epoch), agent.num_response_tokens, agent)

    settings = config(seed, "dpo").training.learner
    agent = DPO(
        curve.evaluator.envs,
        pairs,
        beta=settings.loss.beta,
        learning_rate=settings.tuning.learning_rate,
        num_train_epochs=3,
        per_device_train_batch_size=settings.tuning.batch_size,
        seed=seed,
        callbacks=[AfterEpoch()],
    )
    curve.measure(0, 0, agent)
    agent.train()


def train_reward(pairs: Any, folder: Path, seed: int) -> float:
    """Train a reward model on the pairs; return its accuracy on held-out ones."""
    from tokengym.agents.offline.pair_data import as_texts
    from tokengym.rewards import RewardTraining, train_reward_model

    bundle = bundled("movie_review")
    trained = train_reward_model(
        bundle.policy,
        as_texts(pairs, bundle.tokenizer),
        output_dir=folder,
        tokenizer=bundle.tokenizer,
        training=RewardTraining(
            learning_rate=1e-3, epochs=3, batch_size=32, append_eos=False, seed=seed
        ),
    )
    return float(trained.metrics.accuracy)


def train_ppo(reward: Path, seed: int, curve: Curve) -> None:
    """Train PPO against a reward model, measured every four updates by the task's own scorer."""
    settings = config(seed)
    task = replace(settings.task, scorer=str(reward))
    agent = make_agent(replace(settings, task=task), "sparse", seed)

    def measure(step: int) -> None:
        curve.measure(step, agent.num_timesteps * (1 + TRAINING.learner.n_epochs), agent)

    most = TRAINING.steps * TRAINING.batch_size * TRAINING.max_new_tokens
    agent.learn(most + 1, callback=Recorder(TRAINING.steps, 4, measure))


# --- all runs, and their report -------------------------------------------------------------------

Cell = tuple[str, str, str]
"""Study, cell and agent."""


def all_cells(only: str | None) -> list[Cell]:
    """Return what is run for every seed."""
    cells: list[Cell] = [("lift", "", agent) for agent in LIFT]
    cells += [(study, cell, agent) for study in PAIRS for cell in CELLS for agent in SHIFT]
    return [cell for cell in cells if only in (None, *cell)]


def run(
    out: Out,
    seeds: Sequence[int] = (1, 2, 3, 4, 5),
    only: Literal["lift", "shift", "shift4", "in", "out"] | None = None,
) -> None:
    """Run what is missing, seed by seed.

    Args:
        out: Folder of the study's runs.
        seeds: Seeds to run.
        only: Experiment or writer to run; None runs all.
    """

    def path(run: tuple[int, Cell]) -> Path:
        seed, (study, cell, agent) = run
        return out / f"{study}-{cell or 'all'}-{agent}-{seed}.csv"

    def write(run: tuple[int, Cell]) -> None:
        seed, (study, cell, agent) = run
        curve = lift(agent, seed) if study == "lift" else shift(cell, agent, seed, PAIRS[study])
        row = {"study": study, "cell": cell, "agent": agent, "credit": agent, "seed": seed}
        write_csv(path(run), [{**point, **row} for point in curve], COLUMNS)

    run_missing([(seed, cell) for seed in seeds for cell in all_cells(only)], path, write)


def read_curves(out: Path) -> list[dict[str, Any]]:
    """Return every run's points."""
    return read_rows(*sorted(out.glob("*.csv")), text=("study", "cell", "agent", "credit"))


def at_end(rows: Sequence[dict[str, Any]], cell: Cell, name: str, *, first: bool = False) -> Any:
    """Return a measurement at each run's last (or first) point, in the order of the seeds."""
    own = [r for r in rows if (r["study"], r["cell"], r["agent"]) == cell]
    if not own:
        return None
    place = 0 if first else -1
    runs = [
        sorted((r for r in own if r["seed"] == seed), key=lambda r: r["step"])
        for seed in sorted({r["seed"] for r in own})
    ]
    values = [points[place][name] for points in runs]
    return None if any(value is None for value in values) else np.array(values)


def lift_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of the experiment on lift, the reference first."""
    names = ("score", "gold_score", "kl", "distinct_2")
    first: Cell = ("lift", "", "dpo")
    lines = [["reference", *_cells(rows, first, names, first=True), "0", ""]]
    for agent in LIFT:
        cell = ("lift", "", agent)
        apart = all(
            interval(at_end(rows, cell, name))[0]
            > interval(at_end(rows, first, name, first=True))[1]
            for name in ("score", "gold_score")
        )
        tokens = f"{at_end(rows, cell, 'tokens').mean() / 1000:.0f}k"
        found = _cells(rows, cell, names)
        if agent == "best-of-n":
            found[2] = f"at most {best_of_n_kl_bound(16):.2f}"
        lines.append([NAMES[agent], *found, tokens, "yes" if apart else "no"])
    head = ["agent", "score", "gold score", "KL, nats", "distinct bigrams", "tokens", "both above"]
    return markdown_table(head, lines)


def shift_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of the experiment on shift."""
    names = ("gold_score", "score", "kl", "unseen")
    reference = _cells(rows, ("shift", "in", "dpo"), names, first=True)
    lines = [["", "reference", *reference, "", "0", ""]]
    for study, cell, agent in (key for key in all_cells(None) if key[0] in PAIRS):
        key = (study, cell, agent)
        seeds = at_end(rows, key, "seed")
        if seeds is None:
            continue
        accuracy = at_end(rows, key, "reward_accuracy")
        lines.append(
            [
                f"{PROMPTS * PAIRS[study]:,}, {_WHOSE[cell]}",
                NAMES[agent].split()[0],
                *_cells(rows, key, names),
                "" if accuracy is None else f"{accuracy.mean():.3f}",
                f"{at_end(rows, key, 'tokens').mean() / 1000:.0f}k",
                str(len(seeds)),
            ]
        )
    head = ["pairs", "agent", "gold score", "score of the bundled model", "KL, nats"]
    head += ["unseen words", "reward model's accuracy", "tokens", "seeds"]
    return markdown_table(head, lines)


def differences_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return PPO minus DPO and in minus out, gold score, paired by seed."""
    lines = []
    for study, per_prompt in PAIRS.items():
        ends = {
            (cell, agent): at_end(rows, (study, cell, agent), "gold_score")
            for cell in CELLS
            for agent in SHIFT
        }
        for name, one, other in (
            ("PPO - DPO, its own", ("in", "ppo"), ("in", "dpo")),
            ("PPO - DPO, another writer's", ("out", "ppo"), ("out", "dpo")),
            ("DPO, its own - another writer's", ("in", "dpo"), ("out", "dpo")),
            ("PPO, its own - another writer's", ("in", "ppo"), ("out", "ppo")),
        ):
            if ends[one] is None or ends[other] is None or len(ends[one]) != len(ends[other]):
                continue  # not all of its runs are made yet
            gap = ends[one] - ends[other]
            low, high = interval(gap, mean)
            shown = f"{gap.mean():+.3f} ({low:+.3f} to {high:+.3f})"
            lines.append(
                [f"{PROMPTS * per_prompt:,} pairs: {name}", shown, f"{(gap > 0).sum()}/{len(gap)}"]
            )
    return markdown_table(["gold score", "mean difference, 95 % interval", "seeds above 0"], lines)


def _cells(
    rows: Sequence[dict[str, Any]], cell: Cell, names: Sequence[str], *, first: bool = False
) -> list[str]:
    cells = []
    for name in names:
        values = at_end(rows, cell, name, first=first)
        cells.append("" if values is None else iqm_with_interval(values))
    return cells


def report(out: Out, docs: Docs = DOCS) -> None:
    """Write every run's curve and fill the tables of the document."""
    rows = read_curves(out)
    write_csv(docs / "preferences" / "curves.csv", rows, COLUMNS)
    tables = {}
    if any(row["study"] == "lift" for row in rows):
        tables["lift"] = lift_table(rows)
    if any(row["study"] in PAIRS for row in rows):
        tables["shift"], tables["differences"] = shift_table(rows), differences_table(rows)
    fill(docs / "preferences.md", tables)


if __name__ == "__main__":
    command_line(__doc__, run, report)
