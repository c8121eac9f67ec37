"""A causal language model as a policy over tokens.

Its models, and what they say of responses that are there, are `PolicyModels` in `models`, its value
function is in `critic`. A model itself (trunk, head and adapters) is in `language_model`, the step
from logits to a token in `sampling`.
"""

import logging
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor
from torch.optim import AdamW, Optimizer
from transformers import PreTrainedModel

from tokengym.agents.errors import ModelError
from tokengym.agents.policy.backend import backend
from tokengym.agents.policy.language_model import FreshModel
from tokengym.agents.policy.models import PolicyModels
from tokengym.agents.policy.sampler import CachedSampler, Observation, Sampler
from tokengym.agents.policy.sampling import Draws, as_action_mask, draw, row_uniforms
from tokengym.agents.policy.sequences import Sequences
from tokengym.agents.policy.settings import PolicySettings
from tokengym.base.errors import SettingsError
from tokengym.base.settings import accepts_settings, from_keywords

logger = logging.getLogger(__name__)


class CausalLMPolicy(PolicyModels):
    """Any ``AutoModelForCausalLM`` as a policy over tokens.

    The reference is a frozen copy, or with LoRA the same model with its adapters off. Dropout is
    off everywhere, in updates too: the first epoch's probability ratio is then exactly 1.

    Args:
        observation_space: The environment's ``Dict(input_ids, attention_mask)``.
        action_space: ``Discrete(vocab_size)``.
        lr_schedule: Learning rate over the remaining progress, 1 to 0.
        model: Folder, name or model. None: `PPO` takes the environment's bundled one. A model is
            copied, with ``lora`` without its weights, and stays as it is; weights that are frozen
            now do not learn later either.
        reference: The frozen reference where it is not ``model`` as given (a resumed run, or a
            policy that continues from another one's weights). ``model`` itself is a copy of it.
            Of another model the weights are shared; pass a ``copy.deepcopy`` of one whose weights
            are to learn elsewhere.
        has_critic: Whether there is a value function.
        optimizer_class: A ``torch.optim.Optimizer`` whose ``step`` takes no closure.
        optimizer_kwargs: Its arguments beside the weights and ``lr``; None: of AdamW
            ``weight_decay=0.0`` and ``fused=True``.
        settings: Fields of `PolicySettings`.

    Raises:
        ModelError: if there is no model, it is no language model, or all of it is frozen.
        TokenizerError: if model and environment have different vocabularies.
        SettingsError: if a setting is out of range.
    """

    @accepts_settings(PolicySettings)
    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        *,
        model: str | Path | PreTrainedModel | FreshModel | None = None,
        reference: str | Path | PreTrainedModel | FreshModel | None = None,
        has_critic: bool = True,
        optimizer_class: type[Optimizer] = AdamW,
        optimizer_kwargs: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        if model is None:
            raise ModelError(
                "the environment has no bundled model; pass policy_kwargs=dict(model=path_or_name)"
            )
        super().__init__(
            observation_space,
            action_space,
            from_keywords(
                PolicySettings,
                settings,
                owner="CausalLMPolicy",
                others=("model", "reference", "optimizer_class", "optimizer_kwargs"),
            ),
            model=model,
            reference=reference,
            has_critic=has_critic,
        )
        self.generator = torch.Generator()
        """Source of the tokens that training samples."""
        self.outside = torch.Generator()
        """Source of those that anybody else samples, so that measuring never moves training."""
        self.place = (0, 1)
        """This process's number among those whose rows draw from ``generator``, and their count."""
        self._has_static: bool | None = None  # whether steps can be captured; None: not tried
        self.learned = {name for name, weight in self.named_parameters() if weight.requires_grad}
        """Names of the weights that the optimiser is for; some may have been frozen since."""
        weights, rate = self.trained_parameters(), lr_schedule(1.0)
        self.optimizer = _made(optimizer_class, optimizer_kwargs, weights, rate)
        self.eval()

    def warn_of_unfrozen(self) -> None:
        """Warn of weights that were unfrozen too late for the optimiser, so that none learns."""
        known = {id(one) for group in self.optimizer.param_groups for one in group["params"]}
        late = [
            name
            for name, weight in self.named_parameters()
            if weight.requires_grad and name not in self.learned and id(weight) not in known
        ]
        if late:
            logger.warning(
                "%s%s was unfrozen after the policy was built, and does not learn; call "
                "requires_grad_(True) on the model before it is given as model=",
                late[0],
                f" (and {len(late) - 1} more)" if late[1:] else "",
            )

    def sampler(self, draws: Draws | None = None) -> Sampler:
        """Return a fast sampler of this policy: one new token per step and row, with a cache.

        Args:
            draws: Source of the sampled tokens: ``policy.generator`` is the training's, None a
                stream apart from it.
        """
        kind: Any = backend().captured_sampler if self._decodes_statically() else CachedSampler
        share = self.place if draws is self.generator else (0, 1)
        chosen: Sampler = kind(self, self.outside if draws is None else draws, share)
        return chosen

    @property
    def captured(self) -> bool | None:
        """Whether the steps of rollouts are captured; None where none had a static cache."""
        return all(decoder.captured for decoder in self.decoders) if self.decoders else None

    def _decodes_statically(self) -> bool:
        """Say whether rollouts use a static cache; see `PolicySettings.decoding`."""
        if self.settings.decoding != "auto" or self.device.type != "cuda":
            return self.settings.decoding == "static"
        if self._has_static is None:
            try:
                backend().check_static(self.language_model, self.decoding_dtype)
                self._has_static = True
            except ModelError as error:
                logger.warning("rollouts are slower, as their steps cannot be captured: %s", error)
                self._has_static = False
        return self._has_static

    @torch.inference_mode()
    def predict(  # type: ignore[override]
        self,
        observation: Observation,
        state: tuple[NDArray[np.generic], ...] | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: NDArray[np.generic] | None = None,
    ) -> tuple[NDArray[np.int64], tuple[NDArray[np.generic], ...] | None]:
        """Return the next token of one observation or of a batch, read from the observation alone.

        Nothing is kept between calls; `sampler` is the fast way through whole episodes.

        Args:
            observation: ``input_ids`` and ``attention_mask``, (length,) or (batch, length).
            state: Returned as it came.
            episode_start: Not needed.
            deterministic: The likeliest token instead of a sampled one.
            action_masks: (vocab,) or (batch, vocab), non-zero where allowed; None allows all.

        Returns:
            Token ids, () or (batch,), and ``state``.
        """
        del episode_start
        texts = _texts_of(observation)
        is_batch = np.ndim(observation["input_ids"]) == 2
        logits = self.next_logits(texts, action_masks)
        uniforms = row_uniforms(len(texts), self.outside)
        tokens, *_ = draw(logits, None if deterministic else uniforms.to(logits.device))
        actions = tokens.cpu().numpy()
        return (actions if is_batch else actions[0]), state

    def next_logits(
        self, texts: Sequence[Sequence[int]], action_masks: NDArray[np.generic] | None
    ) -> Tensor:
        """Return the shaped logits of the token after each text, (batch, vocab)."""
        # The text stands in for the prompt; the response is one token that is never looked at.
        sequences = Sequences.from_ids(texts, [[0]] * len(texts), self.device)
        mask = None
        if action_masks is not None:
            mask = as_action_mask(np.atleast_2d(action_masks), self.device)
        others = (model.response_states(sequences) for model in self.auxiliary_models.values())
        logits = self.language_model.logits(self.states(sequences))
        return self.sampling_logits(logits, mask, *others)[0]

    # --- methods of SB3's actor-critic policies, for callbacks ------------------------------------

    def forward(self, obs: Observation, deterministic: bool = False) -> tuple[Tensor, ...]:
        """Return a next token of each text, its value and its log-prob.

        Args:
            obs: ``input_ids`` and ``attention_mask``, (length,) or (batch, length), arrays or
                tensors.
            deterministic: The likeliest token instead of a sampled one.

        Returns:
            (batch,) ids, (batch, 1) reward units, (batch,) nats.
        """
        tokens = np.atleast_1d(self.predict(obs, deterministic=deterministic)[0])
        actions = torch.as_tensor(tokens, device=self.device)
        values, log_probs, _ = self.evaluate_actions(obs, actions)
        return actions, values, log_probs

    def get_distribution(
        self, obs: Observation, action_masks: NDArray[np.generic] | None = None
    ) -> CategoricalDistribution:
        """Return the distribution that the next token of each text is drawn from."""
        logits = self.next_logits(_texts_of(obs), action_masks)
        return CategoricalDistribution(self.num_actions).proba_distribution(logits)

    def predict_values(self, obs: Observation) -> Tensor:
        """Return the value of each text, (batch, 1), reward units.

        Raises:
            ModelError: if the policy has no critic, as with GRPO.
        """
        texts = _texts_of(obs)
        return self.values(Sequences.from_ids(texts, [[0]] * len(texts), self.device))

    def evaluate_actions(
        self,
        obs: Observation,
        actions: Tensor,
        action_masks: NDArray[np.generic] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return value (batch, 1), log-prob (batch,) and entropy (batch,) of next tokens, (batch,).

        Raises:
            ModelError: if the policy has no critic, as with GRPO.
        """
        distribution = self.get_distribution(obs, action_masks)
        log_probs = distribution.log_prob(actions.to(self.device))
        return self.predict_values(obs), log_probs, distribution.entropy()

    def save(self, path: object) -> None:
        """Refuse SB3's file of a policy, which would be pickled and lack the reference."""
        raise SettingsError(
            f"a policy is saved with its agent, got policy.save({path!r}); write agent.save(path), "
            "or policy.language_model.model.save_pretrained(path) for the model alone"
        )

    @classmethod
    def load(cls, path: object, device: object = "auto") -> NoReturn:
        """Refuse to read a policy without its agent; see `save`."""
        raise SettingsError(
            f"a policy is loaded with its agent, got {cls.__name__}.load({path!r}); write "
            "PPO.load(path).policy, by the class of the agent that saved it"
        )

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        arrays = {name: value.cpu().numpy() for name, value in observation.items()}
        return torch.as_tensor(self.predict(arrays, deterministic=deterministic)[0])


def _texts_of(observation: Any) -> list[list[int]]:
    """Return the token ids of each text of an observation, single or batched."""
    needed = {"input_ids", "attention_mask"}
    if not isinstance(observation, Mapping) or not needed <= observation.keys():
        raise ModelError(
            "predict takes an observation of the environment, with input_ids and "
            f"attention_mask, got {reprlib.repr(observation)}; pass it whole"
        )
    arrays = [
        np.atleast_2d(value.cpu().numpy() if isinstance(value, Tensor) else np.asarray(value))
        for value in (observation["input_ids"], observation["attention_mask"])
    ]
    return [ids[mask].tolist() for ids, mask in zip(arrays[0], arrays[1].astype(bool), strict=True)]


def _made(
    kind: type[Optimizer],
    arguments: Mapping[str, Any] | None,
    weights: list[torch.nn.Parameter],
    rate: float,
) -> Optimizer:
    """Return the optimiser of a policy's weights, or refuse it."""
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        raise SettingsError(
            f"optimizer_class must be a class of optimisers, got {kind!r}; pass such as "
            "torch.optim.SGD"
        )
    if issubclass(kind, torch.optim.LBFGS):
        raise SettingsError(
            "optimizer_class=LBFGS asks for the loss several times a step, which an update does "
            "not compute; pass such as torch.optim.SGD"
        )
    if arguments is None and kind is AdamW:
        arguments = {"weight_decay": 0.0, "fused": True}
    if "lr" in (given := dict(arguments or {})):
        raise SettingsError(
            f"lr={given['lr']!r} in optimizer_kwargs is learning_rate= of the agent"
        )
    try:
        made: Optimizer = kind(weights, lr=rate, **given)  # type: ignore[call-arg]
    except (TypeError, ValueError) as error:
        raise SettingsError(f"optimizer_kwargs do not fit {kind.__name__}: {error}") from error
    return made


class PlaysPolicy:
    """A learner that acts by its policy; see `CausalLMPolicy`."""

    policy: CausalLMPolicy

    def sampler(self, draws: Draws | None = None) -> Sampler:
        """Return the policy's fast sampler; see `CausalLMPolicy.sampler`."""
        return self.policy.sampler(draws)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: NDArray[np.generic] | None = None,
    ) -> tuple[NDArray[np.int64], Any]:
        """Return the next token of one observation or a batch; see `CausalLMPolicy.predict`.

        (Of a `transformers.Trainer` it replaces ``predict`` over a data set; `evaluate` measures.)
        """
        return self.policy.predict(observation, state, episode_start, deterministic, action_masks)
