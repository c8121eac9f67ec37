"""A policy's models, and what they compute for given responses: log-probs, values, entropy and KL.

One forward over prompt and response gives the hidden state before each response token; logits, the
large part, are computed at response positions alone, and a chunk at a time where they are many.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn
from transformers import PreTrainedModel
from typing_extensions import Self

from tokengym.agents import losses
from tokengym.agents.errors import ModelError
from tokengym.agents.policy.backend import backend
from tokengym.agents.policy.critic import ValueFunction
from tokengym.agents.policy.head import Request, token_figures
from tokengym.agents.policy.language_model import (
    CausalLM,
    FreshModel,
    check_length,
    check_vocabulary,
    fit_vocabulary,
    fix_rotary,
    load_causal_lm,
    make_reference,
)
from tokengym.agents.policy.sampling import (
    chosen_log_probs,
    chunk_size,
    in_chunks,
    likeliest,
    shape_logits,
)
from tokengym.agents.policy.sequences import ActionMasks, Sequences, sent
from tokengym.agents.policy.settings import PolicySettings, check_products
from tokengym.agents.policy.streams import check_decoding
from tokengym.base.models import located, named_base

logger = logging.getLogger(__name__)

MANY_WEIGHTS = 50_000_000
"""Weights beyond which a model is not tiny."""
HIGH_RATE = 1e-4
"""Highest learning rate for so many; published ones are 5e-7 to 1.4e-5."""
TokenStat = Literal[
    "log_probs",
    "ref_log_probs",
    "ref_entropy",
    "kl",
    "entropy",
    "values",
    "ref_states",
    "hidden_states",
    "top_log_probs",
    "log_probs_of",
]
"""Figures of response tokens that are read without gradient, (batch, time) each.

Log-probs, the exact KL(policy || reference) and entropy are in nats, values in reward units. The
hidden states before each token, of the reference and of the policy, (batch, time, hidden), are a
small part of the logits where the vocabulary is large; "top_log_probs" are the largest log-probs of
the policy before each token, (batch, time, `NUM_TOP`), nats, falling; "log_probs_of" are those of
named tokens.
"""
NUM_TOP = 20
"""Log-probs before each token that "top_log_probs" has, fewer where there are fewer actions."""


@dataclass(frozen=True, kw_only=True)
class PolicyFigures:
    """The policy's figures for given responses; 0 past a response's end."""

    log_probs: Tensor
    """(batch, time), nats, of the response's tokens after temperature and action mask."""
    values: Tensor | None
    """(batch, time), reward units, of the text before each token; None without a critic."""
    entropy: Tensor | None = None
    """(batch, time), nats, of the distribution each token was drawn from, if asked for."""
    kl: Tensor | None = None
    """(batch, time), nats, KL(policy || reference) exact over the vocabulary, if asked for."""


class PolicyModels(BasePolicy):
    """The models of a policy, and what they compute for given responses.

    `CausalLMPolicy` acts with them. Samplers, which act for it, need no more than this.
    """

    decoders: list[Any]
    """Memory that rounds by captured steps keep from one to the next."""

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Discrete,
        settings: PolicySettings,
        *,
        model: str | Path | PreTrainedModel | FreshModel,
        reference: str | Path | PreTrainedModel | FreshModel | None = None,
        has_critic: bool = True,
    ) -> None:
        super().__init__(observation_space, action_space)
        self.settings = settings
        self.temperature = settings.temperature
        self.num_actions = int(action_space.n)
        """Size of the vocabulary of the environment; a model may have more rows."""
        self.max_length = int(observation_space["input_ids"].shape[0])  # type: ignore[index]
        self.language_model = self._load(model)
        """The policy's own."""
        other = None if reference is model else reference
        self.reference = make_reference(
            self.language_model, other, self._dtype, self.num_actions, self.max_length
        )
        """The frozen reference; None: the policy with its adapters off."""
        self.auxiliary_models: Any = nn.ModuleDict()
        """Frozen language models by name that are read with the policy's own when it samples, for a
        subclass's `sampling_logits`. A checkpoint has their weights."""
        self.critic: ValueFunction | None = None
        if has_critic:
            self.critic = ValueFunction(self.language_model, settings.value_network)
        self.decoders = []
        self._is_copy = isinstance(model, nn.Module)
        self._has_warned = False

    def _load(self, model: str | Path | PreTrainedModel | FreshModel) -> CausalLM:
        """Return the language model, fit for the environment."""
        settings = self.settings
        backbone = load_causal_lm(model, self._dtype, adapts=settings.lora is not None)
        name = model if isinstance(model, str | Path) else None
        is_changed = name is not None and fit_vocabulary(backbone, self.num_actions)
        loaded = CausalLM(backbone, settings.lora)
        if name is not None and not is_changed and settings.lora is not None:
            base = named_base(located(name))
            dtype = str(backbone.dtype).removeprefix("torch.")
            loaded.base = None if base is None else {**base, "dtype": dtype}
        loaded.recompute = settings.gradient_checkpointing
        loaded.autocasts = settings.precision == "bf16-mixed"
        loaded.use_products(settings.products)
        if settings.frozen_layers != 0:
            loaded.freeze_lower(settings.frozen_layers)
        if loaded.adapters is None:
            named = loaded.model.named_parameters()
            loaded.frozen = [name for name, weight in named if not weight.requires_grad]
        learning = loaded if settings.lora is not None else loaded.model.base_model
        if not any(parameter.requires_grad for parameter in learning.parameters()):
            raise ModelError(
                "every weight of the model, or all but its head, is frozen, as RewardModel."
                "from_pretrained(backbone=model) leaves it, so that nothing of what it says of a "
                "text would learn; pass lora=LoraConfig(...), or call model.requires_grad_(True)"
            )
        check_vocabulary(loaded, self.num_actions)
        check_length(loaded, self.max_length)
        fix_rotary(loaded.model, self.max_length)
        check_decoding(loaded)
        if settings.decoding == "static":
            backend().check_static(loaded, self.decoding_dtype)
        return loaded

    @property
    def _dtype(self) -> str:
        """Precision of the weights; see `load_causal_lm`."""
        return "float32" if self.settings.precision == "bf16-mixed" else self.settings.dtype

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the policy, as modules are moved, to a device that its products are for."""
        moved = super().to(*args, **kwargs)
        check_products(moved.language_model.products, device=moved.language_model.device.type)
        return moved

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: dropout would give update and rollout different ratios."""
        del mode
        return super().train(False)

    def warn_before_learning(self, rate: float) -> None:
        """Warn once of bfloat16 weights about to learn, and of a rate for few where they are many.

        The default rate is for the bundled models; adapters of any model, which are few, take it.
        """
        if self._has_warned:
            return
        self._has_warned, learning = True, self.trained_parameters()
        if self._is_copy:
            logger.warning(
                "a copy of the model object learns, so that the next training from it begins where "
                "this one does; the copy is policy.language_model.model of the agent"
            )
        if any(parameter.dtype == torch.bfloat16 for parameter in learning):
            logger.warning(
                "the weights that learn are bfloat16, in which small steps are rounded away; use "
                "precision='bf16-mixed', or lora="
            )
        count = sum(parameter.numel() for parameter in learning)
        if rate > HIGH_RATE and count > MANY_WEIGHTS:
            logger.warning(
                "%.0f million weights learn at a learning rate of %g, which suits tiny models and "
                "adapters; pass learning_rate= of 1e-5 or less, or lora_rank=",
                count / 1e6,
                rate,
            )

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that learn, in a fixed order."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    @property
    def sampling_models(self) -> list[CausalLM]:
        """The models that are read to sample: the policy's own, and the auxiliary ones."""
        return [self.language_model, *self.auxiliary_models.values()]

    @contextmanager
    def weights(self, reference: bool) -> Iterator[CausalLM]:
        """Yield the model to compute with: the policy, or the frozen reference."""
        if not reference:
            yield self.language_model
        elif self.reference is not None:
            yield self.reference
        else:  # the policy with its adapters off
            adapters = self.language_model.adapters
            assert adapters is not None
            frozen = [one for one in adapters.parameters() if not one.requires_grad]
            try:
                with adapters.disable_adapter():
                    yield self.language_model
            finally:  # PEFT has all of the adapters learn again
                for parameter in frozen:
                    parameter.requires_grad_(False)

    @property
    def kernels(self) -> bool:
        """Whether kernels compute; see `PolicySettings.kernels`."""
        wanted = self.settings.kernels
        if wanted == "plain" or (wanted == "auto" and self.device.type != "cuda"):
            return False
        fault = _fault_of_kernels(self.device)
        if fault and wanted == "triton":
            raise ModelError(f"kernels='triton' does not work, use 'auto' or 'plain': {fault}")
        return fault is None

    @property
    def decoding_dtype(self) -> torch.dtype | None:
        """Precision of the weights that static decoding copies; None: their own."""
        return torch.bfloat16 if self.settings.precision == "bf16-mixed" else None

    # --- the distribution of the next token -------------------------------------------------------

    def shaped_logits(
        self, states: Tensor, action_mask: Tensor | None, *, reference: bool = False
    ) -> Tensor:
        """Return the logits tokens are drawn from, after temperature and action mask.

        Args:
            states: (n, hidden).
            action_mask: (n or 1, vocab) bool, or None.
            reference: Use the frozen reference instead of the policy.

        Returns:
            (n, vocab) float32.
        """
        with self.weights(reference) as language_model:
            logits = language_model.logits(states)
        return shape_logits(
            logits,
            temperature=self.temperature,
            action_mask=action_mask,
            num_actions=self.num_actions,
        )

    def sampling_logits(
        self,
        logits: Tensor,
        action_mask: Tensor | None,
        *auxiliary_states: Tensor,
        temperature: float | Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the logits that a next token is drawn from, and the tokens it is drawn among.

        A subclass may exclude tokens by the `auxiliary_models`.

        Args:
            logits: (n, vocab), as the model gives them.
            action_mask: (n or 1, vocab) bool, or None.
            auxiliary_states: (n, hidden) of each of these models.
            temperature: The temperature, () where a captured step reads it; None: the policy's.

        Returns:
            (n, vocab) float32, and (n, vocab) bool, None where these are all that the mask allows.
        """
        del auxiliary_states
        logits = shape_logits(
            logits,
            temperature=self.temperature if temperature is None else temperature,
            action_mask=action_mask,
            num_actions=self.num_actions,
        )
        keep, top_k, top_p = None, self.settings.top_k, self.settings.top_p
        if top_k > 0 or top_p < 1.0:
            keep = likeliest(logits, top_k=top_k, top_p=top_p)
        return logits if keep is None else logits.masked_fill(~keep, -torch.inf), keep

    # --- figures of given responses, with gradients -----------------------------------------------

    def states(self, sequences: Sequences, *, reference: bool = False) -> Tensor:
        """Return the hidden state before each response token, (tokens, hidden), row by row.

        One forward over prompt and response; ``sequences.response_positions`` is the order.
        """
        with self.weights(reference) as language_model:
            return language_model.response_states(sequences, kernels=self.kernels)

    def evaluate(
        self,
        sequences: Sequences,
        action_masks: ActionMasks | None = None,
        *,
        with_entropy: bool = False,
        with_kl: bool = False,
        with_values: bool = True,
        ref_states: Tensor | None = None,
        value_head_only: bool = False,
    ) -> PolicyFigures:
        """Return log-probs and values of the responses under the policy as it is now.

        Logits are computed at response positions only.

        Args:
            sequences: The texts.
            action_masks: Tokens that could be sampled at each step; None: all.
            with_entropy: Compute the entropy too.
            with_kl: Compute the exact KL to the reference too.
            with_values: Compute the values too, if there is a critic.
            ref_states: (batch, time, hidden), "ref_states" of `token_stats`; None reads them again.
            value_head_only: Let gradients reach the value head alone, and its own network.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not value_head_only):
            states = self.states(sequences)  # (tokens, hidden): at response positions alone
        figures = self._token_stats(
            sequences,
            states,
            action_masks,
            ref_states=self._read_reference(sequences, ref_states) if with_kl else None,
            with_entropy=with_entropy,
        )
        values = None
        if with_values and self.critic is not None:
            values = self.values(sequences, states)
        padded = {name: sequences.padded(figure) for name, figure in figures.items()}
        return PolicyFigures(values=values, **padded)

    def _read_reference(self, sequences: Sequences, known: Tensor | None) -> Tensor:
        """Return the reference's states, (tokens, hidden): known ones, (batch, time, hidden)."""
        if known is not None:
            rows, times, _ = sequences.response_positions
            return known[rows, times]
        with torch.no_grad():
            return self.states(sequences, reference=True)

    def values(self, sequences: Sequences, states: Tensor | None = None) -> Tensor:
        """Return the values before each response token, (batch, time), with gradients.

        They take one pass of the value's own network, or of the trunk if it has none.

        Args:
            sequences: The texts.
            states: The policy's `states`, where they are known and the trunk is read.
        """
        if self.critic is None:
            raise ModelError("the policy has no critic, and so no values; take has_critic=True")
        if self.critic.network is not None or states is None:
            network = self.critic.network or self.language_model
            states = network.response_states(sequences, kernels=self.kernels)
        return sequences.padded(self.critic.of_states(states))

    def _token_stats(
        self,
        sequences: Sequences,
        states: Tensor,
        action_masks: ActionMasks | None,
        *,
        reference: bool = False,
        ref_states: Tensor | None = None,
        with_entropy: bool = False,
    ) -> dict[str, Tensor]:
        """Return figures of the response tokens by name, (tokens,) each, nats.

        Always "log_probs", with ``ref_states`` also "kl", and "entropy" if asked for. States are
        (tokens, hidden), of the policy, or of the reference, and the log-probs with them.
        """
        rows, times, columns = sequences.response_positions
        tokens = sequences.input_ids[rows, columns]  # (tokens,)
        has_kl, size = ref_states is not None, chunk_size(self.num_actions)
        names = ["kl"] * has_kl + ["log_probs"] + ["entropy"] * with_entropy
        # By the head's weight where there are kernels, or logits too many to keep for the gradient.
        is_large = len(tokens) > size or states.is_cuda
        if self.kernels or (is_large and torch.is_grad_enabled()):
            masks = None if action_masks is None else (action_masks, rows, times)
            how: Any = {"tokens": tokens, "size": size, "masks": masks}
            stats = self._token_stats_of_head(
                states, ref_states, reference=reference, with_entropy=with_entropy, **how
            )
            if stats is not None:
                return dict(zip(names, stats, strict=True))

        # By the logits elsewhere, and where the head is not the weight alone.
        def by_logits(rows: Tensor, times: Tensor, tokens: Tensor, *of_models: Tensor) -> Any:
            both = []  # (chunk, vocab) of the policy, then of the reference
            for i, of_model in enumerate(of_models):
                # Over the same tokens as the policy: the KL is that of what is sampled from.
                with torch.set_grad_enabled(torch.is_grad_enabled() and i == 0):
                    logits = self.shaped_logits(of_model, None, reference=reference or i == 1)
                    if action_masks is not None:
                        logits = action_masks.forbid_(logits, rows, times)
                both.append(logits)
            found = [losses.full_kl(*both)] if len(both) > 1 else []
            found.append(chosen_log_probs(both[0], tokens))
            return (*found, losses.entropy(both[0])) if with_entropy else tuple(found)

        inputs = [rows, times, tokens, states] + ([] if ref_states is None else [ref_states])
        if len(tokens) <= size:
            return dict(zip(names, by_logits(*inputs), strict=True))
        return dict(zip(names, in_chunks(by_logits, *inputs, size=size), strict=True))

    def _token_stats_of_head(
        self, states: Tensor, ref_states: Tensor | None, *, reference: bool, **how: Any
    ) -> tuple[Tensor, ...] | None:
        """Return what `_token_stats` names by the head's weight; None where that is not all of it.

        States are (tokens, hidden), results (tokens,) each; ``how`` is of `Request`.
        """
        with self.weights(reference) as model:
            head = model.plain_head()
        with self.weights(reference or ref_states is not None) as model:
            ref_head = model.plain_head()
        if head is None or ref_head is None:
            return None
        asked = Request(
            temperature=self.temperature,
            num_actions=self.num_actions,
            reference=None if ref_states is None else (ref_states, ref_head),
            products=self.language_model.products,
            **how,
        )
        has_kernels = self.kernels and head.dtype != torch.float64
        compute = backend().token_figures if has_kernels else token_figures
        return compute(states, head, asked)

    # --- the same without gradients, of any number of responses -----------------------------------

    @torch.no_grad()
    def token_stats(
        self,
        sequences: Sequences,
        action_masks: ActionMasks | None = None,
        *,
        name: TokenStat,
        ref_states: Tensor | None = None,
        tokens: Sequence[int] = (),
        max_size: int = 64,
    ) -> Tensor:
        """Return a figure of the responses' tokens without gradient; 0 past a response's end.

        (batch, time), and the further dimensions that `TokenStat` names.

        Args:
            sequences: Any number of texts; similar lengths are run together.
            action_masks: Tokens that could be sampled at each step; None: all.
            name: The figure, see `TokenStat`.
            ref_states: "ref_states" that were read before; None computes them again.
            tokens: Ids that "log_probs_of" reads, (batch, time, tokens).
            max_size: Most texts in one forward.
        """
        # Texts of similar length are read together, and their figures put where their rows are.
        whole = None
        for on_host in sequences.buckets(max_size):
            part, bucket = sequences.select(on_host), sent(on_host, sequences.input_ids.device)
            rows, times, _ = part.response_positions
            masks = None if action_masks is None else action_masks.select(bucket)
            known = None if ref_states is None else ref_states[bucket]
            if name == "ref_states":
                figures = self._read_reference(part, known)
            elif name in ("ref_log_probs", "ref_entropy"):
                states, asked = self._read_reference(part, known), name.removeprefix("ref_")
                how: Any = {"reference": True, "with_entropy": asked == "entropy"}
                figures = self._token_stats(part, states, masks, **how)[asked]
            elif name == "values":
                figures = self.values(part)[rows, times]
            elif name == "hidden_states":
                figures = self.states(part)
            elif name in ("top_log_probs", "log_probs_of"):
                logits = self.shaped_logits(self.states(part), None)
                if masks is not None:
                    logits = masks.forbid_(logits, rows, times)
                every = logits.log_softmax(-1)
                figures = (
                    every[:, list(tokens)]
                    if tokens
                    else every.topk(min(NUM_TOP, every.shape[-1])).values
                )
            else:
                more = {"with_entropy": name == "entropy", "with_kl": name == "kl"}
                computed = self.evaluate(part, masks, **more, with_values=False, ref_states=known)
                figures = getattr(computed, name)[rows, times]
            if whole is None:
                whole = figures.new_zeros(*sequences.response_mask.shape, *figures.shape[1:])
            whole[bucket[rows], times] = figures  # (tokens, ...) -> (batch, time, ...)
        assert whole is not None
        return whole

    def log_probs(
        self,
        prompt_ids: Sequence[Sequence[int]],
        response_ids: Sequence[Sequence[int]],
        *,
        reference: bool = False,
        action_masks: Sequence[NDArray[np.generic]] | None = None,
    ) -> list[NDArray[np.float32]]:
        """Return each response's token log-probs after temperature and action mask.

        Args:
            prompt_ids: Token ids of the prompts.
            response_ids: Token ids of the responses, as sampled.
            reference: Under the frozen reference rather than the policy.
            action_masks: One (len(response), vocab) array per response; None allows everything.

        Returns:
            One (len(response),) float32 array per response, nats.
        """
        sequences = Sequences.from_ids(prompt_ids, response_ids, self.device)
        masks = None
        if action_masks is not None:
            masks = ActionMasks.from_arrays(action_masks, self.device)
        name: TokenStat = "ref_log_probs" if reference else "log_probs"
        log_probs = self.token_stats(sequences, masks, name=name).cpu().numpy()
        return [row[: len(ids)] for row, ids in zip(log_probs, response_ids, strict=True)]


@cache
def _fault_of_kernels(device: torch.device) -> str | None:
    """Return why a device cannot use the kernels, which is logged once; None where it can."""
    try:
        backend().check_kernels(device)
    except (ImportError, ModelError) as error:
        logger.warning("kernels are not used, which is slower: %s", error)
        return str(error)
    return None
