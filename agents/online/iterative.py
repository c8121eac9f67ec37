"""Learning from preferences in rounds: respond, rank, learn, and respond with what was learnt."""

import json
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from tokengym.agents.errors import CheckpointError
from tokengym.agents.offline.pair_data import save_dataset
from tokengym.agents.offline.policies import make_policy
from tokengym.agents.offline.trainer import OfflineTrainer
from tokengym.agents.online.collecting import (
    Group,
    ResponseCollector,
    Row,
    Sampling,
    prompt_order,
)
from tokengym.agents.online.settings import Tuning
from tokengym.agents.policy.policy import CausalLMPolicy
from tokengym.agents.rollouts.environments import Environments
from tokengym.agents.rollouts.playing import Player

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)
Self = TypeVar("Self", bound="IterativeLearner")

RECORD = "iteration.json"
SETTINGS = "settings.json"


@dataclass(frozen=True, kw_only=True)
class Iteration:
    """What one iteration did."""

    number: int
    """From 1."""
    prompts: int
    """Prompts answered."""
    rows: int
    """Pairs, or responses, learnt from; fewer than prompts where responses tied."""
    score: float
    """Mean score of all responses, before learning from them."""
    kept_score: float
    """Mean score of the chosen ones; NaN if there were none."""
    loss: float
    """Mean loss while learning; NaN if there was nothing to learn from."""
    tokens_sampled: int
    """Response tokens sampled so far, all iterations."""
    tokens_trained: int
    """Response tokens that carried loss so far, each as often as it was passed over."""

    @property
    def tokens(self) -> int:
        """Response tokens processed so far: sampled, and trained on."""
        return self.tokens_sampled + self.tokens_trained


class IterativeLearner(ABC):
    """Answers prompts, keeps what a scorer prefers, learns from it, and begins again.

    The reference stays the policy that the first iteration began with; the weights go on from one
    iteration to the next (warm start). With ``output_dir`` every iteration leaves a folder with its
    data, the policy and its record, and `learn` goes on after the last one that is whole: each has
    a seed of its own, so a resumed run ends with the same weights.

    Args:
        env: The environment: prompts, rules, and its reward's scorer unless one is given. It is not
            stepped.
        model: Path, hub name or model; None takes the environment's bundled one.
        scorer: What ranks responses; None takes the environment's, not normalised.
        sampling: How responses are drawn and ranked.
        tuning: How the policy learns from them.
        prompts_per_iteration: Prompts answered in each; no prompt comes twice before all did.
        lora: A ``peft.LoraConfig`` to train adapters only; the reference is then the model without.
        output_dir: Where iterations are kept; None keeps nothing.
        max_rows: Most responses written at a time.
        seed: Of prompts, sampling and shuffling.
        device: "auto" takes a GPU if there is one.

    Raises:
        ValueError: if a value is out of range, or there is no scorer.
    """

    default_sampling: ClassVar[Sampling] = Sampling(n=8, temperatures=(1.0, 0.7))
    data_name: ClassVar[str]
    """Of the file with an iteration's data."""
    score_column: ClassVar[str]
    """Of what is learnt towards, in that data."""

    def __init__(
        self,
        env: Environments,
        model: Any = None,
        *,
        scorer: Any | None = None,
        sampling: Sampling | None = None,
        tuning: Tuning | None = None,
        prompts_per_iteration: int = 256,
        lora: Any | None = None,
        output_dir: str | Path | None = None,
        max_rows: int = 256,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        if prompts_per_iteration < 1:
            raise ValueError(
                f"prompts_per_iteration must be at least 1, got {prompts_per_iteration}"
            )
        self.sampling = sampling or self.default_sampling
        self.tuning = tuning or Tuning()
        self.prompts_per_iteration = prompts_per_iteration
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.seed = seed
        self.device = device
        self.collector = ResponseCollector(
            env, scorer=scorer, sampling=self.sampling, max_rows=max_rows
        )
        self.policy: CausalLMPolicy = make_policy(env, model, lora=lora, seed=seed, device=device)
        self.history: list[Iteration] = []
        """What each iteration did."""

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
        """Go on until that many iterations are done, those of an earlier run included.

        Args:
            iterations: In all.
            callback: Called after each iteration that is made now.

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
        number = len(self.history) + 1
        folder = None if self.output_dir is None else self.output_dir / f"iteration-{number:03d}"
        skip = (number - 1) * self.prompts_per_iteration
        prompts = prompt_order(
            len(self.collector.rehearsal.prompts),
            self.prompts_per_iteration,
            seed=self.seed,
            skip=skip,
        )
        before = self.collector.num_tokens
        groups = self.collector.collect(self.policy, prompts, seed=self._seed_of(number, 0))
        sampled = self.collector.num_tokens - before
        rows = self.choose(groups, prompts)
        if folder is not None:
            save_dataset(self.dataset(rows), folder / f"{self.data_name}.jsonl")
        loss, trained = float("nan"), 0
        if rows:
            loss, trained = self.improve(rows, self._seed_of(number, 1))
        else:
            logger.warning("iteration %d: all responses tie, nothing was learnt", number)
        scores = [float(episode.score or 0.0) for group in groups for episode in group]
        iteration = Iteration(
            number=number,
            prompts=len(prompts),
            rows=len(rows),
            score=float(np.mean(scores)),
            kept_score=self.kept_score(rows),
            loss=loss,
            tokens_sampled=self.tokens_sampled + sampled,
            tokens_trained=self.tokens_trained + trained,
        )
        self.history.append(iteration)
        if folder is not None:
            self.save(folder / "agent")
            _write_json(folder / RECORD, asdict(iteration))
        return iteration

    @abstractmethod
    def choose(self, groups: Sequence[Group], prompts: Sequence[int]) -> list[Row]:
        """Return what is learnt from the scored responses to each prompt."""

    @abstractmethod
    def dataset(self, rows: Sequence[Row]) -> "Dataset":
        """Return what is learnt as a data set."""

    def improve(self, rows: Sequence[Row], seed: int) -> tuple[float, int]:
        """Train the policy.

        Args:
            rows: What `choose` returned, at least one.
            seed: Of their order.

        Returns:
            The mean loss, and the response tokens that carried it.
        """
        arguments = self.tuning.trainer_arguments(len(rows))
        trainer = self.trainer(self.dataset(rows), seed=seed, **arguments)
        result = trainer.train()
        return float(result.training_loss), trainer.num_response_tokens

    def kept_score(self, rows: Sequence[Row]) -> float:
        """Return the mean score of what is learnt from; NaN if there is nothing."""
        return float(np.mean([row[self.score_column] for row in rows])) if rows else float("nan")

    # --- acting -----------------------------------------------------------------------------------

    def player(self, generator: torch.Generator | None = None) -> Player:
        """Return what plays the policy fast; see `CausalLMPolicy.player`."""
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

    def settings(self) -> dict[str, Any]:
        """Return what decides an iteration's numbers, as plain data."""
        return {
            "algorithm": type(self).__name__,
            "sampling": asdict(self.sampling),
            "tuning": asdict(self.tuning),
            "prompts_per_iteration": self.prompts_per_iteration,
            "seed": self.seed,
        }

    def _resume(self, folder: Path, iterations: int) -> None:
        """Take up what the folder holds, or make it this run's."""
        file = folder / SETTINGS
        ours = json.loads(json.dumps(self.settings()))
        if not file.exists():
            _write_json(file, ours)
            return
        theirs = json.loads(file.read_text(encoding="utf-8"))
        differ = [name for name in ours if theirs.get(name) != ours[name]]
        if differ:
            raise CheckpointError(
                f"{folder} holds iterations with {differ[0]} = {theirs.get(differ[0])}, here it is "
                f"{ours[differ[0]]}; name another output_dir"
            )
        done = 0
        while done < iterations and (folder / f"iteration-{done + 1:03d}" / RECORD).exists():
            done += 1
            record = folder / f"iteration-{done:03d}" / RECORD
            values = json.loads(record.read_text(encoding="utf-8"))
            values = {name: float("nan") if v is None else v for name, v in values.items()}
            self.history.append(Iteration(**values))
        if done:
            self._load_weights(folder / f"iteration-{done:03d}" / "agent")

    def _seed_of(self, iteration: int, use: int) -> int:
        """Return the seed of one use in one iteration."""
        return int(np.random.SeedSequence([self.seed, iteration, use]).generate_state(1)[0] >> 1)

    @abstractmethod
    def trainer(self, rows: Any = None, **arguments: Any) -> OfflineTrainer:
        """Return what trains the policy on an iteration's data, or keeps it in a folder.

        Args:
            rows: The data set; None to learn nothing.
            arguments: Further ones of `DPO` or `SFT`.
        """

    def save(self, path: str | Path) -> None:
        """Write the policy and its reference, as the trainer of its iterations would.

        Args:
            path: The folder; ``DPO.load`` or ``SFT.load`` reads it, and `tokengym evaluate`.
        """
        self.trainer().save(path)

    def _load_weights(self, path: Path) -> None:
        """Give the policy the weights of a folder that `save` wrote."""
        loaded = type(self.trainer()).load(path).policy.language_model
        self.policy.language_model.load_state_dict(loaded.state_dict())


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    plain = {k: None if v != v else v for k, v in value.items()}  # JSON has no NaN
    part.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
