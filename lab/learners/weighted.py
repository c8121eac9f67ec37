"""PPO with weights on the advantage, and the weights by name.

A weight multiplies the advantages that the loss takes, after whitening, so that it moves gradient
between the tokens of a response and leaves each response its own size. It is known only after the
response, so the weighted gradient is no longer that of the expected score;
docs/results/gradients.md has by how much.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from tokengym.agents import LEARNERS, PPO
from tokengym.agents.ppo import Experience
from tokengym.agents.rollouts import RolloutBatch
from tokengym.base import Registry
from tokengym.envs import Episode, SettingsError
from tokengym.lab.learners.settings import WeightedPPOSettings


@dataclass(frozen=True, kw_only=True)
class WeighedRound:
    """Material of a weight: one round, and functions of the models that are asked if needed."""

    response_mask: Tensor
    """(batch, time) bool."""
    advantages: Tensor
    """(batch, time), as the loss would take them."""
    seed: int
    """Differs from round to round and from run to run."""
    entropy: Callable[[], Tensor]
    """Returns the entropy of the policy before each token, (batch, time), nats."""
    log_probs: Tensor | None = None
    """(batch, time), nats, as sampled."""
    episodes: Sequence[Episode] = ()
    """The round's episodes."""
    tokenizer: Any = None
    """The environment's."""
    language_model: Any = None
    """The policy's model, as transformers or peft has it."""
    ref_log_probs: Tensor | None = None
    """(batch, time), nats, under the frozen reference."""
    scorer: Any = None
    """The environment's scorer, without normalisation."""

    def padded(self, rows: Sequence[ArrayLike]) -> Tensor:
        """Return one row of numbers per response as (batch, time), 0 past the end."""
        mask = self.response_mask
        table = np.zeros(tuple(mask.shape), dtype=np.float32)
        for number, row in enumerate(rows):
            table[number, : len(np.asarray(row))] = row
        return torch.from_numpy(table).to(mask.device)


class AdvantageWeight(ABC):
    """Base of a weight on the advantage.

    Example:
        >>> class Last(AdvantageWeight):
        ...     name = "last"
        ...     def weigh(self, played):
        ...         is_last = played.response_mask.flip(1).cumsum(1).flip(1) == 1
        ...         return losses.mean_one(is_last.float(), played.response_mask)
    """

    name: ClassVar[str]
    """As ``advantage_weight=`` takes it."""
    source: ClassVar[str] = ""
    """Paper."""
    needs_model: ClassVar[bool] = False
    """Whether it reads a language model or a reward model, which a table of states lacks."""
    by_response: ClassVar[bool] = True
    """Whether the weights of a response depend on that response alone."""

    @abstractmethod
    def weigh(self, played: WeighedRound) -> Tensor:
        """Return (batch, time) weights >= 0 with mean 1 over each response."""

    def weighted(self, advantages: Tensor, played: WeighedRound) -> Tensor:
        """Return the advantages times the weights."""
        mask = played.response_mask
        weights = self.weigh(played)
        if weights.shape != mask.shape:
            raise SettingsError(
                f"advantage_weight {self.name!r} returned shape {tuple(weights.shape)}, expected "
                f"{tuple(mask.shape)}: (batch, time)"
            )
        kept = weights.masked_fill(~mask, 0.0)
        means = kept.sum(1) / mask.sum(1).clamp(min=1)
        wrong = ~((means - 1.0).abs() < 1e-3) | (kept < 0).any(1)
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise SettingsError(
                f"advantage_weight {self.name!r} gives the response of row {row} weights from "
                f"{float(kept[row].min()):.3g} to {float(kept[row].max()):.3g} with mean "
                f"{float(means[row]):.3g}; weights must be >= 0 with mean 1 over each response: "
                "return losses.mean_one(weights, response_mask)"
            )
        return advantages * kept


def _adopted(name: str, made: Any) -> type[AdvantageWeight]:
    """Return the weight that a file of the user's own defines."""
    if not (isinstance(made, type) and issubclass(made, AdvantageWeight)):
        raise SettingsError(
            f"advantage_weight {name} must be a subclass of AdvantageWeight, got {made!r}"
        )
    return made


WEIGHTS: Registry[type[AdvantageWeight]] = Registry(
    "advantage_weight", group="weights", from_files=True, adopt=_adopted
)
"""All weights by name."""


def register_weight(weight: type[AdvantageWeight]) -> type[AdvantageWeight]:
    """Make a weight known by its name: a class decorator."""
    return WEIGHTS.register(weight.name, weight)


def find_weight(text: str) -> AdvantageWeight:
    """Return the weight of a name with options, "entropy:top=0.1", or of "file.py:Name"."""
    weight: AdvantageWeight = WEIGHTS.make(text)
    return weight


def check_settings(settings: WeightedPPOSettings, batch_size: int) -> None:
    """Refuse an unknown weight, and settings that PPO refuses."""
    find_weight(settings.advantage_weight)
    LEARNERS.find("ppo").check_settings(settings, batch_size)


class WeightedPPO(PPO):
    """PPO whose loss multiplies the advantages by weights, after whitening.

    Arguments are those of `PPO`, with the field of `WeightedPPOSettings`.
    """

    settings_class = WeightedPPOSettings
    settings: WeightedPPOSettings
    built_in = PPO.built_in | {"advantage_weight"}

    if TYPE_CHECKING:  # PPO's keywords, of any type, and its own by name

        def __init__(self, *args: Any, advantage_weight: str = ..., **settings: Any) -> None: ...

    def check_settings(self) -> None:
        """Refuse an unknown weight, and settings that PPO refuses."""
        super().check_settings()
        self.weight = find_weight(self.settings.advantage_weight)

    def weigh(self, experience: Experience, played: RolloutBatch) -> Experience:
        """Return the experience with weighted advantages."""
        weighed = WeighedRound(
            response_mask=experience.response_mask,
            advantages=experience.advantages,
            seed=(self.seed or 0) * 1_000_003 + self._n_updates,
            entropy=partial(
                self.read, experience.sequences, experience.action_masks, name="entropy"
            ),
            log_probs=played.log_probs,
            episodes=played.episodes,
            tokenizer=self.env.get_attr("tokenizer")[0],
            language_model=self.policy.language_model.model,
            ref_log_probs=experience.ref_log_probs,
            scorer=self.reward.scorer,
        )
        return replace(experience, advantages=self.weight.weighted(weighed.advantages, weighed))
