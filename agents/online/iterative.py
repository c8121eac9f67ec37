"""Learning from preferences in iterations: respond, rank, train, and respond with the result."""

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from tokengym.agents.errors import CheckpointError
from tokengym.agents.learner import TrainingRun
from tokengym.agents.offline.pair_data import save_dataset
from tokengym.agents.offline.policies import make_policy
from tokengym.agents.offline.trainer import OfflineTrainer
from tokengym.agents.online.collecting import Group, ResponseCollector, Row, prompt_order
from tokengym.agents.online.settings import IterativeSettings
from tokengym.agents.policy.policy import CausalLMPolicy
from tokengym.agents.rollouts.environments import Environments
from tokengym.agents.rollouts.playing import Player
from tokengym.envs.declared import from_keywords, names_of, takes
from tokengym.envs.files import read_json, write_json
from tokengym.rewards import Scorer

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import LoraConfig

logger = logging.getLogger(__name__)
Self = TypeVar("Self", bound="IterativeLearner")

RECORD = "iteration.json"
SETTINGS = "settings.json"


@dataclass(frozen=True, kw_only=True)
class Iteration:
    """Figures of one iteration."""

    number: int
    """Position of the iteration, from 1."""
    prompts: int
    """Prompts answered."""
    rows: int
    """Pairs, or responses, trained on; fewer than prompts where responses tied."""
    score: float
    """Mean score of all responses, before learning from them."""
    kept_score: float
    """Mean score of the chosen ones; NaN if there were none."""
    loss: float
    """Mean training loss; NaN if there was nothing to learn from."""
    tokens_sampled: int
    """Response tokens sampled so far, all iterations."""
    tokens_trained: int
    """Response tokens that carried loss so far, each as often as it was passed over."""

    @property
    def tokens(self) -> int:
        """Response tokens processed so far: sampled, and trained on."""
        return self.tokens_sampled + self.tokens_trained


class IterativeLearner(ABC):
    """Answers prompts, keeps the responses a scorer prefers, learns from them, and repeats.

    The reference stays the policy that the first iteration began with; each iteration starts from
    the weights of the one before. With ``output_dir`` every iteration leaves a folder with its
    data, the policy and its record, and `learn` continues after the last complete one. Each
    iteration has a seed of its own, so a resumed run ends with the same weights.

    Args:
        env: Environment with the prompts, the rules, and the reward's scorer unless one is given.
            It is not stepped.
        model: Path, hub name or model; None takes the environment's bundled one.
        scorer: Ranks the responses; None takes the environment's scorer, not normalised.
        lora: A ``peft.LoraConfig`` to train adapters only; the reference is then the model without.
        dtype: Precision of the weights, see `tokengym.agents.offline.dpo.DPO`.
        output_dir: Folder of the iterations; None keeps nothing.
        max_rows: Most responses written at a time.
        seed: Seed of prompts, sampling and shuffling.
        device: "auto" takes a GPU if there is one.
        settings: Fields of the learner's settings, see `tokengym.agents.online.settings`.

    Raises:
        TypeError: if there is no setting of a name.
        ValueError: if a value is out of range, or there is no scorer.
    """

    settings_class: ClassVar[type[IterativeSettings]] = IterativeSettings
    data_name: ClassVar[str]
    """Name of the file with an iteration's data."""
    score_column: ClassVar[str]
    """Column of that data with the scores of the responses learned from."""

    def __init__(
        self,
        env: Environments,
        model: str | Path | PreTrainedModel | None = None,
        *,
        scorer: Scorer | None = None,
        lora: "LoraConfig | None" = None,
        dtype: str = "auto",
        output_dir: str | Path | None = None,
        max_rows: int = 256,
        seed: int = 0,
        device: str = "auto",
        **settings: Any,
    ) -> None:
        self.settings = from_keywords(self.settings_class, settings, owner=type(self).__name__)
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.seed = seed
        self.device = device
        self.collector = ResponseCollector(
            env, scorer=scorer, sampling=self.settings.sampling, max_rows=max_rows
        )
        self.policy: CausalLMPolicy = make_policy(
            env, model, lora=lora, dtype=dtype, seed=seed, device=device
        )
        self.history: list[Iteration] = []
        """Figures of each iteration."""

    def __init_subclass__(cls) -> None:
        """Show the learner's settings in its signature."""
        super().__init_subclass__()
        shown = takes(cls.settings_class)(partial(IterativeLearner.__init__, None))  # type: ignore[arg-type]
        cls.__signature__ = shown.__signature__  # type: ignore[attr-defined]

    @property
    def tokens_sampled(self) -> int:
        """Response tokens sampled so far."""
        return self.history[-1].tokens_sampled if self.history else 0

    @property
    def tokens_trained(self) -> int:
        """Response tokens that carried loss so far."""
        return self.history[-1].tokens_trained if self.history else 0

    def learn(
        self: Self, iterations: int = 3, callback: Callable[[Self, Iteration], None] | None = None
    ) -> Self:
        """Continue until that many iterations are complete, those of an earlier run included.

        Args:
            iterations: Iterations in all.
            callback: Called after each iteration made by this call.

        Returns:
            The agent itself.

        Raises:
            CheckpointError: if ``output_dir`` holds iterations of other settings.
        """
        if self.output_dir is not None and not self.history:
            self._resume(self.output_dir, iterations)
        while len(self.history) < iterations:
            iteration = self.iterate()
            if callback is not None:
                callback(self, iteration)
        return self

    def iterate(self) -> Iteration:
        """Respond, rank and learn once."""
        number, count = len(self.history) + 1, self.settings.prompts_per_iteration
        folder = None if self.output_dir is None else _folder(self.output_dir, number)
        prompts = prompt_order(
            len(self.collector.prompts), count, seed=self.seed, skip=(number - 1) * count
        )
        before = self.collector.num_tokens
        groups = self.collector.collect(self.policy, prompts, seed=self._seed_of(number, 0))
        sampled = self.collector.num_tokens - before
        rows = self.choose(groups, prompts)
        if folder is not None:
            save_dataset(self.make_dataset(rows), folder / f"{self.data_name}.jsonl")
        loss, trained = float("nan"), 0
        if rows:
            loss, trained = self.improve(rows, self._seed_of(number, 1))
        else:
            logger.warning("iteration %d: all responses tie, nothing was learnt", number)
        scores = [float(episode.score or 0.0) for group in groups for episode in group]
        kept = [row[self.score_column] for row in rows]
        iteration = Iteration(
            number=number,
            prompts=len(prompts),
            rows=len(rows),
            score=float(np.mean(scores)),
            kept_score=float(np.mean(kept)) if kept else float("nan"),
            loss=loss,
            tokens_sampled=self.tokens_sampled + sampled,
            tokens_trained=self.tokens_trained + trained,
        )
        self.history.append(iteration)
        if folder is not None:
            self.save(folder / "agent")
            write_json(folder / RECORD, asdict(iteration))
        return iteration

    @abstractmethod
    def choose(self, groups: Sequence[Group], prompts: Sequence[int]) -> list[Row]:
        """Return the rows to learn from, out of the scored responses to each prompt."""

    @staticmethod
    @abstractmethod
    def make_dataset(rows: Sequence[Row]) -> "Dataset":
        """Return rows as a data set."""

    @abstractmethod
    def trainer(self, rows: "Dataset | None" = None, **arguments: Any) -> OfflineTrainer:
        """Return the trainer of an iteration, which also writes the policy to a folder.

        Args:
            rows: The data set; None to learn nothing.
            arguments: Further ones of `DPO` or `SFT`.
        """

    def trainer_arguments(self) -> dict[str, Any]:
        """Return the arguments that `DPO` and `SFT` share in every iteration."""
        return {
            "tokenizer": self.collector.chosen.tokenizer,
            "temperature": self.policy.temperature,
            "device": self.device,
        }

    def improve(self, rows: Sequence[Row], seed: int) -> tuple[float, int]:
        """Train the policy.

        Args:
            rows: Result of `choose`, at least one.
            seed: Seed of their order.

        Returns:
            The mean loss, and the response tokens that carried it.
        """
        arguments = self.settings.tuning.trainer_arguments(len(rows))
        trainer = self.trainer(self.make_dataset(rows), seed=seed, **arguments)
        result = trainer.train()
        return float(result.training_loss), trainer.num_response_tokens

    # --- acting -----------------------------------------------------------------------------------

    def player(self, generator: torch.Generator | None = None) -> Player:
        """Return the policy's fast player; see `CausalLMPolicy.player`."""
        return self.policy.player(generator)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: NDArray[np.generic] | None = None,
    ) -> tuple[NDArray[np.int64], Any]:
        """Return the next token of one observation or a batch; see `CausalLMPolicy.predict`."""
        return self.policy.predict(observation, state, episode_start, deterministic, action_masks)

    # --- folders ----------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the policy and its reference, as the trainer of its iterations would.

        Args:
            path: The folder; ``DPO.load`` or ``SFT.load`` reads it, and `tokengym evaluate`.
        """
        self.trainer().save(path)

    def _resume(self, folder: Path, iterations: int) -> None:
        """Restore the iterations of the folder, or claim an empty one for this run."""
        file = folder / SETTINGS
        settings = json.loads(json.dumps(asdict(self.settings)))
        ours = {"algorithm": type(self).__name__, "seed": self.seed, **settings}
        if not file.exists():
            write_json(file, ours)
            return
        theirs: Mapping[str, Any] = read_json(file)
        differ = [name for name in ours if theirs.get(name) != ours[name]]
        if differ:
            raise CheckpointError(
                f"{folder} holds iterations with {differ[0]} = {theirs.get(differ[0])}, here it is "
                f"{ours[differ[0]]}; name another output_dir"
            )
        while len(self.history) < iterations:
            record = _folder(folder, len(self.history) + 1) / RECORD
            if not record.exists():
                break
            values: dict[str, Any] = {
                k: float("nan") if v is None else v for k, v in read_json(record).items()
            }
            self.history.append(Iteration(**values))
        if self.history:
            path = _folder(folder, len(self.history)) / "agent"
            loaded = type(self.trainer()).load(path).policy.language_model
            self.policy.language_model.load_state_dict(loaded.state_dict())

    def _seed_of(self, iteration: int, use: int) -> int:
        """Return the seed of one use in one iteration."""
        return int(np.random.SeedSequence([self.seed, iteration, use]).generate_state(1)[0] >> 1)


def train_iterations(run: TrainingRun, learner: type[Self]) -> Self:
    """Train a learner in iterations; those of an earlier run are measured again only at the end.

    Args:
        run: The run, whose settings are an `tokengym.agents.online.settings.IterativeRun`.
        learner: Class of the learner.
    """
    envs = run.make_envs(1, normalize=False)
    settings = run.settings.learner
    agent = learner(
        envs,
        **run.policy_kwargs(),
        **{name: getattr(settings, name) for name in names_of(type(settings))},
        output_dir=None if run.folder is None else run.folder / "iterations",
        seed=run.seed,
        device=run.training.device,
    )
    run.measure(0, 0, agent)
    measured = 0

    def measure(agent: Self, iteration: Iteration) -> None:
        nonlocal measured
        measured = iteration.number
        run.measure(iteration.number, iteration.tokens, agent)

    agent.learn(run.settings.iterations, callback=measure)
    last = agent.history[-1]
    if last.number != measured:
        run.measure(last.number, last.tokens, agent)
    envs.close()
    return agent


def _folder(output_dir: Path, number: int) -> Path:
    return output_dir / f"iteration-{number:03d}"
