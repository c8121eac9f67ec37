"""PPO against DPO from the same pairs: gold at equal KL and at equal tokens.

After Xu et al. 2024, "Is DPO Superior to PPO for LLM Alignment?", arXiv:2404.10719. Pairs are
judged by the gold score. DPO reads them itself; PPO climbs a reward model that is trained on them.

    python -m studies.ppo_against_dpo run --out runs/ppo_dpo [--part sweep]
    python -m studies.ppo_against_dpo publish --out runs/ppo_dpo
    python -m studies.ppo_against_dpo_page

`run` does what is missing, part by part in the order of `PLAN`, one setting of both learners with
all seeds after the other; a run that has its file is not run again. `publish` writes the curves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from studies.cells import (
    DOCS,
    EARLIER,
    Docs,
    Out,
    command_line,
    deadline,
    read_rows,
    run_missing,
)
from tokengym.base.files import read_json, write_csv
from tokengym.envs import bundled
from tokengym.evaluation.report.curves import COLUMNS as CURVE_COLUMNS
from tokengym.evaluation.runs.config import ComparisonConfig
from tokengym.evaluation.runs.defaults import EvaluationSettings, training_settings
from tokengym.evaluation.runs.run import make_agent, make_evaluator
from tokengym.scripts.commands.train_reward import BUNDLED

ENV = "tokengym/MovieReview-v0"
BUNDLE = "movie_review"
Agent = Literal["dpo", "ppo"]
Writer = Literal["own", "another"]
Recipe = Literal["", "short", "epochs4", "epochs5", "epochs8", "epochs12"]
"""How PPO's reward model is trained, see `TRAINING`; none for DPO."""
Part = Literal["tune", "reward", "sweep", "accuracy", "pairs", "writer"]

RESPONSES, PER_PROMPT = 8, 4
"""Responses to each prompt, and the pairs they make: best with worst, second with second-worst."""
PROMPTS = 512
"""Prompts of the main comparison: about 2,025 pairs, since equal scores make none."""
SIZES = (64, 256, PROMPTS, 2048)
"""Prompts of the axis of pairs: about 256 to 8,000 pairs."""
HELD_OUT = 128
"""Further prompts, whose pairs measure the reward models: about 510."""
UPDATES, BATCH, LENGTH = 20, 64, 48
"""PPO's updates, and the episodes of each; tokens of every response."""
EPOCHS = 3
"""DPO's passes over the pairs."""
SEEDS, SPARE = (1, 2, 3, 4, 5), (100, 101, 102)
SWEEP: dict[Agent, tuple[tuple[float, float], ...]] = {
    "dpo": ((0.1, 3e-4), (0.1, 1e-4), (0.03, 1e-4), (0.3, 3e-4), (0.01, 1e-4), (0.03, 3e-4)),
    "ppo": ((0.05, 3e-4), (0.05, 1e-4), (0.05, 1e-3), (0.2, 1e-3), (0.0, 1e-3), (0.2, 3e-4)),
}
"""Price (DPO's beta, PPO's c) and learning rate of the main comparison, the usual first: both move
how far a policy goes. The rates are those that did well on the spare seed."""
TRIED = (1e-4, 3e-4, 1e-3)
"""Learning rates tried on the spare seeds, at the usual price."""
TRIED_BETAS = ((0.03, 3e-4), (0.3, 3e-4), (1.0, 3e-4), (0.3, 1e-3), (1.0, 1e-3))
"""DPO's other betas tried there, with their learning rates."""
TRAINING: dict[Recipe, dict[str, Any]] = {
    "short": {"learning_rate": 1e-3, "epochs": 3.0, "batch_size": 32},
    "epochs4": BUNDLED | {"epochs": 4.0},
    "epochs5": BUNDLED | {"epochs": 5.0},
    "epochs8": BUNDLED,
    "epochs12": BUNDLED | {"epochs": 12.0},
}
"""An undertrained model, and the default of ``tokengym train-reward`` by the number of epochs."""
CHOSEN: Recipe = "epochs5"
"""Training of the main comparison's reward models: the most accurate on the spare seeds."""
DEFAULT: Recipe = "epochs8"
"""Training along the axis of pairs: five epochs of fewer pairs are too few steps."""
FOLDER = "preferences"
TEXT = ("part", "agent", "writer", "recipe", "credit")
CELL_COLUMNS = ("part", "agent", "writer", "prompts", "recipe", "price", "rate")
COLUMNS = (*CELL_COLUMNS, *CURVE_COLUMNS, "unseen", "pairs", "reward_accuracy")
REWARD_FIGURES = ("accuracy", "loss", "calibration_error")
REWARD_COLUMNS = (
    *("writer", "prompts", "recipe", "seed", "pairs", "train_accuracy"),
    *REWARD_FIGURES,
    "tokens",
)


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """A set of pairs to learn from, and those held out."""

    writer: Writer = "own"
    """Policy that writes both responses: the one that is trained, or one that lacks words."""
    prompts: int = PROMPTS
    """Number of prompts."""
    seed: int
    """Seed of the prompts and the responses."""

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.writer}-{self.prompts}-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run."""

    part: Part
    """Part of the study."""
    agent: Agent
    """Learner."""
    data: Pairs
    """Pairs that it learns from."""
    price: float
    """beta of DPO, c of PPO."""
    rate: float
    """Learning rate."""
    recipe: Recipe = ""
    """Training of PPO's reward model."""

    @property
    def name(self) -> str:
        """Name of its file; parts that need the same run share it."""
        words = (self.agent, *filter(None, [self.recipe]), f"{self.price:g}", f"{self.rate:g}")
        return "-".join((*words, self.data.name))


# --- the plan -------------------------------------------------------------------------------------

BOTH: tuple[Agent, ...] = get_args(Agent)
PLAN: dict[Part, list[dict[str, Any]]] = {
    "tune": [
        *({"agent": agent, "rate": rate} for agent in BOTH for rate in TRIED),
        *({"agent": "dpo", "price": beta, "rate": rate} for beta, rate in TRIED_BETAS),
    ],
    "reward": [],  # no runs of a learner, see `reward_models`
    "sweep": [
        {"agent": agent, "price": price, "rate": rate}
        for pair in zip(*(SWEEP[agent] for agent in BOTH), strict=True)
        for agent, (price, rate) in zip(BOTH, pair, strict=True)
    ],
    "accuracy": [
        {"agent": "ppo", "recipe": "short"},
        *({"agent": "ppo", "price": c, "rate": r, "recipe": DEFAULT} for c, r in SWEEP["ppo"]),
    ],
    "pairs": [
        {"agent": agent, "prompts": size, "recipe": DEFAULT} for size in SIZES for agent in BOTH
    ],
    "writer": [{"agent": agent, "writer": "another", "recipe": DEFAULT} for agent in BOTH],
}
"""Runs of each part, in the order of their importance; what is not said is the main comparison's,
at the usual price."""


def cells(part: Part, seed: int) -> list[Cell]:
    """Return the runs of a part with a seed."""
    return [_cell(part, seed, **changes) for changes in PLAN[part]]


def _cell(
    part: Part,
    seed: int,
    *,
    agent: Agent,
    writer: Writer = "own",
    prompts: int = PROMPTS,
    price: float | None = None,
    rate: float | None = None,
    recipe: Recipe = CHOSEN,
) -> Cell:
    return Cell(
        part=part,
        agent=agent,
        data=Pairs(writer=writer, prompts=prompts, seed=seed),
        price=SWEEP[agent][0][0] if price is None else price,
        rate=SWEEP[agent][0][1] if rate is None else rate,
        recipe=recipe if agent == "ppo" else "",
    )


def reward_models(seed: int) -> Iterator[tuple[Pairs, Recipe]]:
    """Yield the reward models of the part "reward": by pairs and training."""
    recipes: tuple[Recipe, ...] = get_args(Recipe)[1:]
    if seed in SPARE:
        yield from ((Pairs(seed=seed), recipe) for recipe in recipes if recipe != "short")
        return
    yield Pairs(seed=seed), CHOSEN
    for recipe in (DEFAULT, "short"):
        for size in (PROMPTS, *(other for other in SIZES if other < PROMPTS)):
            yield Pairs(prompts=size, seed=seed), recipe


# --- the data -------------------------------------------------------------------------------------


@cache
def unseen_ids() -> tuple[int, ...]:
    """Return every second opinion word of the lexicon: what the other writer does not know."""
    bundle = bundled(BUNDLE)
    words = sorted(read_json(bundle.lexicon)["words"])
    known = bundle.tokenizer.get_vocab()
    return tuple(known[word] for word in words[::2] if word in known)


def make_pairs(data: Pairs, out: Path) -> tuple[Any, Any]:
    """Return the pairs to learn from and those held out, judged by the gold score.

    The held-out ones are always the trained policy's own, which is what PPO's reward model reads.

    Args:
        data: The pairs.
        out: Folder of the study's runs, where they are kept.
    """
    from tokengym.rewards.pairs.store import load_pairs, pairs_dataset, save_dataset

    sides = []
    for side, writer, skip, count in (
        ("train", data.writer, 0, data.prompts),
        ("held_out", "own", data.prompts, HELD_OUT),
    ):
        file = out / "pairs" / f"{data.name}-{side}.parquet"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            rows = _collect(writer, data.seed, skip, count)
            save_dataset(pairs_dataset(rows), file)
        sides.append(load_pairs(file))
    return sides[0], sides[1]


def _collect(writer: str, seed: int, skip: int, count: int) -> list[dict[str, Any]]:
    import gymnasium as gym

    from tokengym.agents.offline.policies import make_policy
    from tokengym.agents.online.collecting import (
        ResponseCollector,
        Sampling,
        pair_rows,
        prompt_order,
    )
    from tokengym.rewards import gold_scorer

    lengths: dict[str, Any] = config(seed, "ppo").training.lengths()
    forbidden = unseen_ids() if writer == "another" else ()
    envs = gym.make_vec(ENV, num_envs=1, reward=None, forbidden_token_ids=forbidden, **lengths)
    sampling = Sampling(n=RESPONSES)
    collector = ResponseCollector(
        envs, scorer=gold_scorer(bundled(BUNDLE)), sampling=sampling, max_rows=256
    )
    prompts = prompt_order(len(collector.prompts), count, seed=seed, skip=skip)
    groups = collector.collect(make_policy(envs), prompts, seed=seed + skip)
    ranked = [sorted(group, key=lambda one: -(one.score or 0.0)) for group in groups]
    rows: list[dict[str, Any]] = []
    for rank in range(PER_PROMPT):
        couples = [(group[rank], group[-1 - rank]) for group in ranked]
        rows += pair_rows(couples, sampling, prompts)
    return rows


def reward_path(data: Pairs, recipe: Recipe, out: Path) -> Path:
    """Return the folder of a reward model."""
    return out / "reward" / f"{recipe}-{data.name}"


def reward_model(data: Pairs, recipe: Recipe, out: Path) -> Path:
    """Return the folder of the reward model that is trained on the pairs, made if missing."""
    from tokengym.rewards import RewardTraining, train_reward_model
    from tokengym.rewards.pairs.store import as_texts

    folder = reward_path(data, recipe, out)
    if not folder.exists():
        bundle = bundled(BUNDLE)
        train, held_out = (as_texts(side, bundle.tokenizer) for side in make_pairs(data, out))
        train_reward_model(
            bundle.policy,
            train,
            held_out=held_out,
            output_dir=folder,
            tokenizer=bundle.tokenizer,
            training=RewardTraining(append_eos=False, seed=data.seed, **TRAINING[recipe]),
        )
    return folder


def reward_row(data: Pairs, recipe: Recipe, out: Path) -> dict[str, Any]:
    """Return the measurements of a reward model that is trained."""
    measures = read_json(reward_path(data, recipe, out) / "measures.json")
    return {
        **vars(data),
        "recipe": recipe,
        "pairs": measures["trained_on"],
        "train_accuracy": measures["train_accuracy"],
        **{name: measures["held_out"][name] for name in REWARD_FIGURES},
        "tokens": round(2 * LENGTH * measures["trained_on"] * TRAINING[recipe]["epochs"]),
    }


# --- the runs -------------------------------------------------------------------------------------


def config(seed: int, agent: Agent, **changes: Any) -> ComparisonConfig:
    """Return the task and how it is measured; both learners have a seed's evaluation noise."""
    sizes: dict[str, Any] = {"max_new_tokens": LENGTH}
    if agent == "ppo":
        sizes |= {"steps": UPDATES, "batch_size": BATCH, **EARLIER}
    return ComparisonConfig(
        env=ENV,
        rewards=("sparse",),
        seeds=1,
        first_seed=seed,
        training=training_settings(ENV, agent, **sizes, **changes),
        evaluation=EvaluationSettings(every=5, episodes=128, seed=20_240 + seed, samples=0),
    )


class Measured:
    """Measurements of an agent as it learns.

    Args:
        cell: The run.
        pairs: Number of its pairs.
        spent: Response tokens that were spent before it began: sampled for the pairs, and passed
            over to train the reward model.
    """

    def __init__(self, cell: Cell, pairs: int, spent: int) -> None:
        self.cell, self.pairs, self.spent = cell, pairs, spent
        self.evaluator = make_evaluator(config(cell.data.seed, "ppo"))
        self.unseen = set(unseen_ids())
        self.points: list[dict[str, Any]] = []

    def measure(self, step: int, tokens: int, agent: Any) -> None:
        """Measure the agent after ``tokens`` response tokens of its own training."""
        evaluation = self.evaluator(agent)
        written = [token for e in evaluation.episodes for token in e.response_ids]
        settings = {name: getattr(self.cell, name) for name in ("agent", "recipe", "price", "rate")}
        self.points.append(
            {
                **evaluation.metrics,
                **settings,
                **vars(self.cell.data),
                "part": self.cell.part,
                "credit": self.cell.agent,
                "step": step,
                "tokens": self.spent + tokens if step else 0,
                "unseen": float(np.mean([token in self.unseen for token in written])),
                "pairs": self.pairs,
            }
        )


def run_cell(cell: Cell, out: Path) -> list[dict[str, Any]]:
    """Train one agent and return its points, the untrained policy first.

    Args:
        cell: The run.
        out: Folder of the study's runs.
    """
    pairs, _ = make_pairs(cell.data, out)
    sampled = cell.data.prompts * RESPONSES * LENGTH
    if cell.agent == "dpo":
        measured = Measured(cell, len(pairs), sampled)
        train_dpo(cell, pairs, measured, out)
        return measured.points
    folder = reward_model(cell.data, cell.recipe, out)
    reward = reward_row(cell.data, cell.recipe, out)
    measured = Measured(cell, len(pairs), sampled + reward["tokens"])
    train_ppo(cell, folder, measured)
    return [{**point, "reward_accuracy": reward["accuracy"]} for point in measured.points]


def train_dpo(cell: Cell, pairs: Any, measured: Measured, out: Path) -> None:
    """Train DPO on the pairs, measured after every epoch."""
    from transformers import TrainerCallback

    from tokengym.agents import DPO

    class AfterEpoch(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            agent.count_tokens()
            measured.measure(round(state.epoch), agent.num_response_tokens, agent)

    agent = DPO(
        measured.evaluator.envs,
        pairs,
        beta=cell.price,
        learning_rate=cell.rate,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=32,
        precompute_ref_log_probs=True,
        ref_log_probs_path=out / "pairs" / f"{cell.data.name}-reference.safetensors",
        seed=cell.data.seed,
        callbacks=[AfterEpoch()],
    )
    measured.measure(0, 0, agent)
    agent.train()


def train_ppo(cell: Cell, reward: Path, measured: Measured) -> None:
    """Train PPO against a reward model, measured every five updates."""
    from tokengym.agents.training import Recorder

    settings = config(cell.data.seed, "ppo", kl_coef=cell.price, learning_rate=cell.rate)
    passes = 1 + settings.training.learner.n_epochs
    task = replace(settings.task, scorer=str(reward))
    agent = make_agent(replace(settings, task=task), "sparse", cell.data.seed)
    every = settings.evaluation.every

    def measure(step: int) -> None:
        measured.measure(step, agent.num_timesteps * passes, agent)

    agent.learn(UPDATES * BATCH * LENGTH + 1, callback=Recorder(UPDATES, every, measure))


def run(
    out: Out,
    part: Part | None = None,
    seeds: Sequence[int] | None = None,
    until: str | None = None,
) -> None:
    """Run what is missing, part by part, each setting with all seeds.

    Args:
        out: Folder of the study's runs.
        part: Part to run; None runs all in their order.
        seeds: Seeds to run; None takes the study's, for the part "tune" the spare ones.
        until: Time of day, HH:MM, after which no run begins.
    """
    end = deadline(until)

    def pending(name: Part) -> Iterator[Cell]:
        """Yield one setting of both learners after the other, each with all seeds, until late."""
        by_seed = [cells(name, seed) for seed in seeds or (SPARE if name == "tune" else SEEDS)]
        for start in range(0, len(PLAN[name]), len(BOTH)):
            for cell in (
                cell for of_seed in by_seed for cell in of_seed[start : start + len(BOTH)]
            ):
                if datetime.now() < end:
                    yield cell

    for name in get_args(Part) if part is None else (part,):
        if name == "reward":
            models = [model for seed in seeds or (*SPARE, *SEEDS) for model in reward_models(seed)]
            for data, recipe in models:
                reward_model(data, recipe, out)
        run_missing(
            pending(name),
            lambda cell: out / f"{cell.name}.csv",
            lambda cell: write_csv(out / f"{cell.name}.csv", run_cell(cell, out), COLUMNS),
        )


def publish(out: Out, docs: Docs = DOCS) -> None:
    """Write every run's points, and every reward model's measurements, as one csv each.

    What is published and has no file in ``out`` stays, but for reward models.
    """
    files = [
        file
        for part in get_args(Part)
        for seed in (*SEEDS, *SPARE)
        for cell in cells(part, seed)
        if (file := out / f"{cell.name}.csv").exists()
    ]
    rows = read_rows(*dict.fromkeys(files), text=TEXT)
    new = {_run_of(row) for row in rows}
    published = docs / FOLDER / "ppo_dpo.csv"
    before = read_rows(published, text=TEXT) if published.exists() else []
    rows = [row for row in before if _run_of(row) not in new] + rows
    write_csv(published, rows, COLUMNS)
    if not (out / "reward").exists():
        return
    trained = sorted((out / "reward").glob("*/measures.json"))
    models = []
    for file in trained:
        recipe, writer, prompts, seed = file.parent.name.split("-")
        data = Pairs(writer=writer, prompts=int(prompts), seed=int(seed))  # type: ignore[arg-type]
        models.append(reward_row(data, recipe, out))  # type: ignore[arg-type]
    write_csv(docs / FOLDER / "reward_models.csv", models, REWARD_COLUMNS)


def _run_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return which run a point is of."""
    return tuple(row[name] for name in (*CELL_COLUMNS[1:], "seed"))


if __name__ == "__main__":
    command_line(__doc__, run, publish)
