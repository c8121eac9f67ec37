"""A causal language model as a policy over tokens.

What it says of responses that are there is in `responses`, and so is its value function. The model
itself (trunk, head and adapters) and its frozen reference are in `language_model`, the step from
logits to a token in `sampling`.
"""

import logging
import reprlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokengym.agents.errors import ModelError
from tokengym.agents.policy.door import fast
from tokengym.agents.policy.language_model import (
    LanguageModel,
    check_length,
    check_vocabulary,
    fit_vocabulary,
    fix_rotary,
    load_causal_lm,
    make_reference,
)
from tokengym.agents.policy.responses import ReadsResponses, ValueFunction
from tokengym.agents.policy.sampler import CachedSampler, Observation, Sampler, check_decoding
from tokengym.agents.policy.sampling import (
    as_action_mask,
    draw,
)
from tokengym.agents.policy.sequences import Sequences
from tokengym.agents.policy.settings import PolicySettings, check_products
from tokengym.base.models import located, named_base
from tokengym.base.settings import accepts_settings, from_keywords

logger = logging.getLogger(__name__)


class CausalLMPolicy(ReadsResponses):
    """Any ``AutoModelForCausalLM`` as a policy over tokens.

    The reference is a frozen copy, or with LoRA the same model with its adapters off. Dropout is
    off everywhere, in updates too: the first epoch's probability ratio is then exactly 1.

    Args:
        observation_space: The environment's ``Dict(input_ids, attention_mask)``.
        action_space: ``Discrete(vocab_size)``.
        lr_schedule: Learning rate over the remaining progress, 1 to 0.
        model: Folder, name or model. None: `PPO` takes the environment's bundled one.
        reference: The frozen reference where it is not ``model`` as given (a resumed run, or a
            policy that continues from another one's weights).
        has_critic: Whether there is a value function.
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
        model: str | Path | PreTrainedModel | None = None,
        reference: str | Path | PreTrainedModel | None = None,
        has_critic: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(observation_space, action_space)
        if model is None:
            raise ModelError(
                "the environment has no bundled model; pass policy_kwargs=dict(model=path_or_name)"
            )
        self.settings = from_keywords(PolicySettings, settings, owner="CausalLMPolicy")
        self.temperature = self.settings.temperature
        self.num_actions = int(action_space.n)
        self.max_length = int(observation_space["input_ids"].shape[0])  # type: ignore[index]
        self.language_model = self._load(model)
        self.reference = make_reference(
            self.language_model, reference, self._dtype, self.num_actions, self.max_length
        )
        self.register_module("masking_model", None)  # see `sample_within`
        self.critic: ValueFunction | None = None
        if has_critic:
            has_network = self.settings.value_network != "trunk"
            self.critic = ValueFunction(self.language_model, own_network=has_network)
        self.generator = torch.Generator()
        self.place = (0, 1)
        """This process's number among those whose rows draw from ``generator``, and their count."""
        self.largest: Callable[[int], int] | None = None
        """Returns the largest of all processes' numbers where they share the reference out."""
        self.decoders: list[Any] = []
        self._has_static: bool | None = None  # whether steps can be captured; None: not tried
        self._has_warned = False
        self.optimizer = torch.optim.AdamW(
            self.trained_parameters(), lr=lr_schedule(1.0), weight_decay=0.0, fused=True
        )
        self.eval()

    def _load(self, model: str | Path | PreTrainedModel) -> LanguageModel:
        """Return the language model, fit for the environment."""
        settings = self.settings
        backbone = load_causal_lm(model, self._dtype, adapts=settings.lora is not None)
        is_changed = isinstance(model, PreTrainedModel) or fit_vocabulary(
            backbone, self.num_actions
        )
        loaded = LanguageModel(backbone, settings.lora)
        if isinstance(model, str | Path) and not is_changed and settings.lora is not None:
            base = named_base(located(model))
            dtype = str(backbone.dtype).removeprefix("torch.")
            loaded.base = None if base is None else {**base, "dtype": dtype}
        loaded.recompute = settings.gradient_checkpointing
        loaded.autocasts = settings.precision == "bf16-mixed"
        loaded.use_products(settings.products)
        loaded.freeze_lower(settings.frozen_layers)
        if not any(parameter.requires_grad for parameter in loaded.parameters()):
            raise ModelError(
                "every weight of the model is frozen, so nothing would learn; pass lora="
                "LoraConfig(...), or call model.requires_grad_(True)"
            )
        check_vocabulary(loaded, self.num_actions)
        check_length(loaded, self.max_length)
        fix_rotary(loaded.model, self.max_length)
        check_decoding(loaded)
        if settings.decoding == "static":
            fast().check_static(loaded, self.decoding_dtype)
        return loaded

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the policy, as modules are moved, to a device that its products are for."""
        moved = super().to(*args, **kwargs)
        check_products(moved.language_model.products, device=moved.language_model.device.type)
        return moved

    def train(self, mode: bool = True) -> "CausalLMPolicy":
        """Stay in evaluation mode: dropout would give update and rollout different ratios."""
        del mode
        return super().train(False)

    def warn_of_rounding(self) -> None:
        """Warn once if weights that are about to learn are bfloat16; one that only plays may be."""
        if not self._has_warned and any(
            parameter.dtype == torch.bfloat16 for parameter in self.trained_parameters()
        ):
            logger.warning(
                "the weights that learn are bfloat16, in which small steps are rounded away; use "
                "precision='bf16-mixed', or lora="
            )
            self._has_warned = True

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that learn, in a fixed order."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def sample_within(self, model: LanguageModel, top_p: float) -> None:
        """Sample among the likeliest tokens of another model, which is read beside this one.

        Args:
            model: The masking model, frozen; a checkpoint of the agent has its weights.
            top_p: Probability that its likeliest tokens must have together.
        """
        self.masking_model, self.mask_top_p = model, top_p

    def sampler(self, generator: torch.Generator | None = None) -> Sampler:
        """Return a fast sampler of this policy: one new token per step and row, with a cache.

        Args:
            generator: Source of the sampled tokens; None takes the policy's own.
        """
        kind: Any = fast().captured_sampler if self._decodes_statically() else CachedSampler
        chosen: Sampler = (
            kind(self, self.generator, self.place) if generator is None else kind(self, generator)
        )
        return chosen

    def player(self, generator: torch.Generator | None = None) -> Sampler:
        """Return `sampler`, by its name in version 0.1."""
        return self.sampler(generator)

    @property
    def captured(self) -> bool | None:
        """Whether the steps of rollouts are captured; None where none had a static cache."""
        return all(decoder.captured for decoder in self.decoders) if self.decoders else None

    @property
    def _dtype(self) -> str:
        """Precision of the weights; see `load_causal_lm`."""
        return "float32" if self.settings.precision == "bf16-mixed" else self.settings.dtype

    def _decodes_statically(self) -> bool:
        """Say whether rollouts use a static cache; see `PolicySettings.decoding`."""
        if self.settings.decoding != "auto" or self.device.type != "cuda":
            return self.settings.decoding == "static"
        if self._has_static is None:
            self._has_static = True
            try:
                fast().check_static(self.language_model, self.decoding_dtype)
            except ModelError as error:
                self._has_static = False
                logger.warning("rollouts are slower, as their steps cannot be captured: %s", error)
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
        needed = {"input_ids", "attention_mask"}
        if not isinstance(observation, Mapping) or not needed <= observation.keys():
            raise ModelError(
                "predict takes an observation of the environment, with input_ids and "
                f"attention_mask, got {reprlib.repr(observation)}; pass it whole"
            )
        input_ids = np.asarray(observation["input_ids"])
        attention_mask = np.asarray(observation["attention_mask"], dtype=bool)
        is_batch = input_ids.ndim == 2
        texts = [
            ids[mask].tolist()
            for ids, mask in zip(
                np.atleast_2d(input_ids), np.atleast_2d(attention_mask), strict=True
            )
        ]
        logits = self.next_logits(texts, action_masks)
        uniforms = torch.rand(len(texts), generator=self.generator)
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
        masking_states = None
        if self.masking_model is not None:
            hidden = self.masking_model.hidden(sequences.input_ids[:, :-1], use_cache=False)
            rows = torch.arange(len(texts), device=self.device)
            masking_states = hidden[rows, sequences.prompt_lengths - 1]
        logits = self.language_model.logits(self.states(sequences))
        return self.sampling_logits(logits, mask, masking_states)[0]

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        arrays = {name: value.cpu().numpy() for name, value in observation.items()}
        return torch.as_tensor(self.predict(arrays, deterministic=deterministic)[0])


class PlaysPolicy:
    """A learner that acts by its policy; see `CausalLMPolicy`."""

    policy: CausalLMPolicy

    def sampler(self, generator: torch.Generator | None = None) -> Sampler:
        """Return the policy's fast sampler; see `CausalLMPolicy.sampler`."""
        return self.policy.sampler(generator)

    def player(self, generator: torch.Generator | None = None) -> Sampler:
        """Return `sampler`, by its name in version 0.1."""
        return self.sampler(generator)

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
