"""A causal language model taken apart: a trunk for hidden states, a head for logits."""

import copy
import functools
import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.activations import GELUTanh, NewGELUActivation
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tokengym.agents.errors import ModelError
from tokengym.agents.policy.adapters import put_new_adapters
from tokengym.agents.policy.backend import backend
from tokengym.agents.policy.head import head_as_read, product
from tokengym.agents.policy.sequences import Sequences
from tokengym.agents.policy.settings import Products
from tokengym.base.errors import TokenizerError, reason_of
from tokengym.base.models import is_cached, located
from tokengym.base.pretrained import load_whole
from tokengym.base.stored.adapters import merged
from tokengym.envs.prompts.vocabulary import Vocabulary
from tokengym.rewards.models.loading import (
    load_dtype,
    longest_input,
    shared_backbone,
    sharing_weights,
)

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

logger = logging.getLogger(__name__)

LENGTHS = 32
"""Texts are padded to a multiple of so many tokens on a GPU."""
MAX_ADDED_TOKENS = 8
"""Tokens that a tokenizer may have beyond its model: those that somebody added to it."""
LARGE_EXCESS = 0.05
"""Share of rows that a head may have beyond the tokenizer's without a word."""
RESCALING = ("logit_scale", "logits_scaling", "final_logit_softcapping")
"""Settings of a model that change the logits after its head; see `CausalLM.rescaled`."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class FreshModel:
    """A model that nobody else holds, such as one just read; its learner trains it itself."""

    model: PreTrainedModel


def load_causal_lm(
    model: "str | Path | PreTrainedModel | PeftModel | FreshModel",
    dtype: str = "auto",
    *,
    alone: bool = False,
    adapts: bool = False,
) -> PreTrainedModel:
    """Return the model, read from disk or the hub if it is a name.

    Args:
        model: A folder or hub name of a whole model or of adapters, the folder of a saved agent, or
            a model, which is copied. Adapters are merged into their base.
        dtype: "float32", "bfloat16", or "auto": the checkpoint's own, with float32 in place of
            float16, which overflows in training, and for what was dequantised, see `load_dtype`.
        alone: Refuse a folder that holds other weights besides.
        adapts: Whether only adapters will learn: the weights of a model found by name are then
            those of all others in the process that adapt it, those of an object the object's.

    Raises:
        ValueError: if the dtype is unknown.
        TypeError: if ``model`` is none of these.
        PretrainedError: if there is no such model, reading it would run code, or it is not whole.
    """
    if dtype != "auto" and dtype not in DTYPES:
        raise ValueError(f"dtype must be 'auto', 'float32' or 'bfloat16', got {dtype!r}")
    loaded: Any = model
    if isinstance(model, FreshModel):
        loaded = model.model
    elif isinstance(model, nn.Module):
        loaded = _copied(model, shares_weights=adapts)
    elif isinstance(model, str | Path):
        folder = located(model)
        dtype = load_dtype(folder, dtype)
        if adapts and is_cached(folder):
            loaded = sharing_weights(shared_backbone(folder, device="cpu", dtype=dtype))
        else:
            loaded = load_whole(AutoModelForCausalLM, model, alone=alone, dtype=dtype)
    if not isinstance(loaded, PreTrainedModel):
        raise TypeError(
            "model must be a path, a name, a transformers PreTrainedModel or a PeftModel, got "
            f"{type(model).__name__}; pass lora=LoraConfig(...) to train adapters"
        )
    wanted = DTYPES.get(dtype, torch.float32 if loaded.dtype == torch.float16 else loaded.dtype)
    if loaded.dtype != wanted:
        nn.Module.to(loaded, wanted)
    return loaded


def _copied(model: nn.Module, *, shares_weights: bool) -> nn.Module:
    """Return a copy of a model for a learner, so that the next one begins where this one does."""
    if (whole := merged(model)) is not model:
        logger.warning("the adapters of the model are merged into a copy, where training starts")
        return whole
    memo: dict[int, Any] = {}
    if shares_weights:
        # Parameters of its own over the same numbers: what freezes, converts or moves them leaves
        # the model's alone. Those of other classes, such as quantised ones, are what they are.
        memo = {
            id(weight): nn.Parameter(weight.detach(), weight.requires_grad)
            if type(weight) is nn.Parameter
            else weight
            for weight in model.parameters()
        }
    return copy.deepcopy(model, memo)


class CausalLM(nn.Module):
    """Trunk and head of a causal language model, so that logits are computed where they count.

    With ``lora`` the given model's own weights are frozen and adapters are trained; the reference
    policy is then the model with its adapters off, at no further memory.
    """

    def __init__(self, model: PreTrainedModel, lora: "LoraConfig | None" = None) -> None:
        super().__init__()
        if model.config.is_encoder_decoder:
            raise ModelError(
                f"{type(model).__name__} reads the prompt with an encoder of its own; use a "
                "decoder-only transformer such as GPT-2, Llama or Qwen"
            )
        if model.get_output_embeddings() is None:
            raise ModelError(
                f"{type(model).__name__} has no language-model head; load it with "
                "AutoModelForCausalLM"
            )
        self.model = model
        _prepare_configs(model)
        self.is_rescaled = any(getattr(model.config, name, None) for name in RESCALING)
        """Whether the logits are not the head's output, see `rescaled`."""
        self.recompute = False
        """Whether blocks are computed again in the backward pass instead of kept in memory."""
        self.base: dict[str, str] | None = None
        """Name, hash and precision of unchanged weights under adapters, see `named_base`."""
        self.autocasts = False
        """Whether the trunk computes in bfloat16 by autocast, whatever its weights have."""
        self.products: Products = "torch"
        """Library of float32 products on a CPU; see `use_products`."""
        self.frozen: list[str] = []
        """Names of the model's weights that did not learn when the policy was built."""
        self._max_fused: int | None = None  # not tried yet
        fuse_activations(model)
        self.adapters: Any | None = None
        if lora is not None:
            self.adapters = put_new_adapters(model, lora)
        self._check_head()

    def use_products(self, products: Products) -> None:
        """Multiply float32 matrices by this library on a CPU, in rollouts, updates and scoring."""
        backend().check_products(products)
        self.products = products
        backend().use_products(self.model, products)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.model.device

    @property
    def is_float32(self) -> bool:
        """Whether weights and computation have full precision."""
        return self.model.dtype == torch.float32 and not self.autocasts

    @property
    def vocab_size(self) -> int:
        """Number of logits."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states that the head reads."""
        return int(self.model.get_output_embeddings().weight.shape[1])

    def hidden(self, input_ids: Tensor, *, cache: Any = None, **inputs: Any) -> Tensor:
        """Return the trunk's last hidden states: (batch, length) -> (batch, length, hidden).

        A cache is read and written. Other inputs are of the model's forward: masks, positions.
        """
        # Without a mask every token counts. It is said, or models warn where a text begins or ends
        # with their pad token.
        inputs.setdefault("attention_mask", torch.ones_like(input_ids))
        if cache is not None:
            inputs[self._cache_word] = cache
        with self.computing():
            outputs = self.model.base_model(
                input_ids=input_ids, use_cache=cache is not None, **inputs
            )
        return outputs[0]

    @functools.cached_property
    def _cache_word(self) -> str:
        """The argument of the model's forward that is its cache, renamed by transformers 5.24."""
        known = inspect.signature(self.model.base_model.forward).parameters
        return "cache" if "cache" in known else "past_key_values"

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Set what the trunk computes with: recomputed blocks, precision, kinds of attention."""
        kind = self.model.device.type
        with ExitStack() as contexts:
            if self.recompute and torch.is_grad_enabled():
                contexts.enter_context(self._recomputed_blocks())
            contexts.enter_context(torch.autocast(kind, torch.bfloat16, self.autocasts))
            contexts.enter_context(attention_kernels(kind))
            yield

    def response_states(self, sequences: Sequences, *, kernels: bool = False) -> Tensor:
        """Return the hidden states before each response token, (tokens, hidden), row by row.

        They are read by kernels where these are wanted and the model's shape allows it.
        """
        rows, _, columns = sequences.response_positions
        # Nothing is predicted from the last column. Texts are padded on the right, so that causal
        # attention needs no mask: see `Sequences`.
        ids = sequences.input_ids[:, :-1]
        width = ids.shape[1]
        kernels = kernels and width <= self.longest_fused()
        # Kernels are planned or compiled anew for each length that is new.
        multiple = LENGTHS if ids.is_cuda else backend().multiples[self.products]
        if multiple > 1:
            limit = longest_input(self.model) or sys.maxsize
            if kernels:
                limit = min(limit, self.longest_fused())
            ids = F.pad(ids, (0, min(-(-width // multiple) * multiple, limit) - width))
        if kernels:
            with self.computing():
                states = backend().hidden(self.model.base_model, ids)
        else:
            states = self.hidden(ids)
        return states[rows, columns - 1]

    def longest_fused(self) -> int:
        """Return the most tokens of a text that kernels read; whether they do is tried once."""
        if self._max_fused is None:
            self._max_fused = backend().longest_text(self)
        return self._max_fused

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of hidden states: (..., hidden) -> (..., vocab)."""
        weight = self.plain_head() if hidden.is_cuda and not torch.is_grad_enabled() else None
        if weight is not None and hidden.dim() == 2:  # in float32, as `token_figures` has them
            return product(hidden, head_as_read(hidden, weight))
        head = self.model.get_output_embeddings()
        logits = head(hidden.to(head.weight.dtype) if self.autocasts else hidden)
        return self.rescaled(logits) if self.is_rescaled else logits

    def plain_head(self) -> Tensor | None:
        """Return the head's weight, (vocab, hidden), where it is all that makes the logits."""
        head = self.model.get_output_embeddings()
        is_plain = type(head) is nn.Linear and head.bias is None
        return head.weight if is_plain and not self.is_rescaled else None

    def rescaled(self, logits: Tensor) -> Tensor:
        """Return the head's output, (..., vocab), scaled and capped as some models do."""
        config = self.model.config
        if scale := getattr(config, "logit_scale", None):  # Cohere
            logits = logits * scale
        if divisor := getattr(config, "logits_scaling", None):  # Granite
            logits = logits / divisor
        if cap := getattr(config, "final_logit_softcapping", None):  # Gemma
            logits = torch.tanh(logits / cap) * cap
        return logits

    def frozen_copy(self) -> "CausalLM":
        """Return a frozen copy; parameters that are frozen already are shared, not copied."""
        frozen = self._copied().requires_grad_(False)
        frozen.recompute = False
        return frozen

    def twin(self, *, shares_frozen: bool = True) -> "CausalLM":
        """Return a copy whose trunk is trained apart, or its adapters; its head is shared.

        It may share the frozen parameters too, such as the backbone under adapters.
        """
        return self._copied(self.model.get_output_embeddings(), shares_frozen=shares_frozen)

    def trunk_parameters(self, *, with_frozen: bool = False) -> dict[str, nn.Parameter]:
        """Return the trunk's trained parameters by name, or all of them."""
        named = self.model.base_model.named_parameters()
        return {name: value for name, value in named if value.requires_grad or with_frozen}

    def _copied(self, *shared: nn.Module, shares_frozen: bool = True) -> "CausalLM":
        """Return a copy that shares these modules, and the frozen parameters where that is meant.

        Adapters are copied as parts of the model; what turns them off stays behind.
        """
        # `deepcopy` takes what its memo holds in place of a copy.
        frozen = [p for p in self.parameters() if not p.requires_grad and shares_frozen]
        memo = {id(part): part for part in (*frozen, *shared)}
        return copy.deepcopy(self, {id(self.adapters): None, **memo})

    def freeze_lower(self, num_layers: int) -> None:
        """Freeze the embeddings and the lowest blocks; a head tied to the embeddings with them."""
        blocks = self.blocks()
        if num_layers >= len(blocks):
            raise ModelError(
                f"frozen_layers must be less than the {len(blocks)} blocks of "
                f"{type(self.model).__name__}, got {num_layers}; something must learn"
            )
        for module in self.model.base_model.modules():
            if isinstance(module, nn.Embedding):
                module.requires_grad_(False)
        for block in blocks[:num_layers]:
            block.requires_grad_(False)

    def blocks(self) -> list[nn.Module]:
        """Return the transformer's repeated blocks, lowest first."""
        return [m for m in self.model.modules() if isinstance(m, GradientCheckpointingLayer)]

    @contextmanager
    def _recomputed_blocks(self) -> Iterator[None]:
        """Let the blocks keep nothing but their inputs for the backward pass.

        transformers does this in training mode only, which would bring dropout back: so the mode is
        set on the blocks themselves, until they are asked whether to, not on what is in them.
        """
        blocks: list[Any] = self.blocks()
        for block in blocks:
            block.training = block.gradient_checkpointing = True
            block._gradient_checkpointing_func = partial(self._recomputed, block)
        try:
            yield
        finally:
            for block in blocks:
                block.training = block.gradient_checkpointing = False

    def _recomputed(self, block: nn.Module, forward: Callable[..., Any], *inputs: Any) -> Any:
        """Return the output of a block that keeps its inputs only, without dropout of its own."""
        block.training = False  # as it will be when its backward pass computes it again
        try:
            return checkpoint(forward, *inputs, use_reentrant=False, context_fn=self._recomputing)
        finally:
            block.training = True

    def _recomputing(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Return contexts of a block's forward and of its recomputation, see ``checkpoint``."""
        return nullcontext(), attention_kernels(self.device.type)

    def base_model(self) -> PreTrainedModel:
        """Return the model that adapters were put on, over the same weights."""
        from peft.utils import ModulesToSaveWrapper

        assert self.adapters is not None
        shared: dict[int, Any] = {id(weight): weight for weight in self.adapters.parameters()}
        base: Any = copy.deepcopy(self.adapters, shared)
        for name, module in [*base.named_modules()]:
            if isinstance(module, ModulesToSaveWrapper):  # `unload` would leave what it learned
                base.set_submodule(name, module.original_module)
        return base.unload()

    @torch.no_grad()
    def _check_head(self) -> None:
        """Refuse models that make logits from hidden states in a way unknown to `logits`."""
        self.model.eval()
        tokens = torch.tensor([[0, 1]], device=self.device)
        try:
            with full_precision(), torch.autocast(self.device.type, enabled=False):
                whole = self.model(tokens, attention_mask=torch.ones_like(tokens)).logits
                ours = self.logits(self.hidden(tokens))
        except (AttributeError, IndexError, RuntimeError, TypeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            reason = reason_of(error)
            raise ModelError(
                f"{type(self.model).__name__} cannot read two tokens ({reason}); correct its config"
            ) from error
        faulty = (n for n, p in self.model.named_parameters() if not p.isfinite().all())
        if (name := next(faulty, None)) is not None:
            raise ModelError(
                f"weight {name} of {type(self.model).__name__} is not finite, as after a training "
                "that diverged; load what was saved before"
            )
        if not torch.allclose(whole, ours, atol=1e-4, rtol=1e-4):
            raise ModelError(
                f"{type(self.model).__name__} changes its logits after the head (by up to "
                f"{(whole - ours).abs().max().item():.3g}); use another model"
            )


def attention_kernels(kind: str) -> AbstractContextManager[None]:
    """Let a GPU's attention be any but cuDNN's, which plans for a second at each new shape."""
    if kind != "cuda":
        return nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(
        [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    )


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute products in float32 whatever was set, so that a check is of the model alone."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def fuse_activations(model: nn.Module) -> None:
    """Replace GPT-2's tanh GELU, written as eight operations, by the same function in one kernel.

    A PPO step on a small GPT-2 is a tenth faster; outputs differ by rounding only.
    """
    for module in model.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, NewGELUActivation):
                setattr(module, name, GELUTanh())


def check_length(model: CausalLM, max_tokens: int) -> None:
    """Raise unless the model can read the longest text of the environment."""
    limit = longest_input(model.model)
    if limit is not None and limit < max_tokens:
        raise ModelError(
            f"the model reads {limit} tokens and prompt and response may take {max_tokens}; "
            "lower max_prompt_tokens or max_new_tokens of the environment"
        )


def fix_rotary(model: PreTrainedModel, max_tokens: int) -> None:
    """Choose rotary factors that depend on a batch's longest text once, by the longest of all.

    With "longrope" and "dynamic" a text's probability would depend on its neighbours, and what was
    sampled step by step would not be what an update computes. The length decides as vLLM's
    ``max_model_len`` does.
    """
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        layers = kinds if isinstance(kinds, dict) else {None: kinds}
        for layer, kind in layers.items():
            if kind is None or (kind != "longrope" and "dynamic" not in kind):
                continue
            prefix, of_layer = ("", {}) if layer is None else (f"{layer}_", {"layer_type": layer})
            place = getattr(module, f"{prefix}inv_freq").device
            make: Any = ROPE_INIT_FUNCTIONS[kind]
            factors, scaling = make(module.config, place, seq_len=max_tokens, **of_layer)
            module.register_buffer(f"{prefix}inv_freq", factors, persistent=False)
            setattr(module, f"{prefix}attention_scaling", scaling)
            fixed: Any = "default"  # which forward passes leave as it is
            if layer is not None:
                fixed = {**module.rope_type, layer: fixed}  # type: ignore[dict-item]
            module.rope_type = fixed


def fit_vocabulary(model: PreTrainedModel, num_tokens: int) -> bool:
    """Give a model rows for the few tokens that were added to its tokenizer; say whether it was.

    Each starts as the mean of the others, so that it is neither likely nor forbidden.
    """
    (old, _) = next(model.get_input_embeddings().parameters()).shape
    if not 0 < num_tokens - old <= MAX_ADDED_TOKENS:
        return False
    model.resize_token_embeddings(num_tokens, mean_resizing=False)
    with torch.no_grad():
        for module in (model.get_input_embeddings(), model.get_output_embeddings()):
            for rows in module.parameters():
                rows[old:] = rows[:old].mean(0)
    logger.warning(
        "the tokenizer has %d tokens and the model %d: those that were added start as the mean of "
        "the others",
        num_tokens,
        old,
    )
    return True


def check_vocabulary(model: CausalLM, num_actions: int) -> None:
    """Raise unless the model has a logit for each of the environment's tokens.

    Models often round their vocabulary up; the further logits are cut off and never sampled. More
    than `LARGE_EXCESS` of them are warned of, as the tokenizer may be another model's.
    """
    rows = model.vocab_size
    if rows < num_actions:
        remedy = "use the model and the tokenizer that belong together (tokenizer=)"
        if num_actions - rows <= MAX_ADDED_TOKENS:  # of a path they would have got rows
            remedy += f", or if tokens were added call model.resize_token_embeddings({num_actions})"
        raise TokenizerError(
            f"the model has {rows} tokens and the environment's tokenizer {num_actions}; {remedy}"
        )
    if rows > (1 + LARGE_EXCESS) * num_actions:
        warn_once(
            f"the model's head has {rows} rows and the environment's tokenizer {num_actions} "
            "tokens: the further rows are never sampled; check that the two belong together"
        )


@functools.cache
def warn_once(message: str) -> None:
    """Log a message the first time."""
    logger.warning(message)


def _prepare_configs(model: PreTrainedModel) -> None:
    """Make the model's generation settings such as can be saved, and say what is not learned by.

    transformers writes no temperature beside ``do_sample=False``; of a folder it says so itself.
    """
    settings: Any = getattr(model, "generation_config", None)
    if settings is not None and not settings.do_sample:
        try:
            settings.validate(strict=True)
        except ValueError:
            settings.do_sample = True
            logger.info("the model's generation_config samples, and is saved with do_sample=True")
    coefficient = getattr(model.config, "router_aux_loss_coef", None)
    if getattr(model.config, "output_router_logits", False) and coefficient:
        logger.warning(
            "the router's auxiliary loss (output_router_logits, router_aux_loss_coef=%s) is no "
            "part of what is learned here: experts may become unequally used; set "
            "output_router_logits=False, or freeze the routers",
            coefficient,
        )


def warn_of_ends(model: CausalLM, vocabulary: Vocabulary | None, tokenizer: Any) -> None:
    """Warn, once, of tokens that the model ends its texts by and the environment does not."""
    if vocabulary is None:
        return
    configs = (getattr(model.model, "generation_config", None), model.model.config)
    named: Any = next((c.eos_token_id for c in configs if c and c.eos_token_id is not None), ())
    ends = (named,) if isinstance(named, int) else tuple(named)
    unknown = [i for i in ends if i not in vocabulary.end_ids and 0 <= i < vocabulary.size]
    if unknown:
        known, others = (
            [*map(str, tokenizer.convert_ids_to_tokens(list(ids)))]
            for ids in (vocabulary.end_ids, unknown)
        )
        warn_once(
            f"the model ends its texts by {', '.join(map(repr, others))} too, which end none here: "
            f"responses may run to the horizon; pass eos_token={[*known, *others]} to the "
            "environment"
        )


# --- the frozen reference: a copy of a policy's model, or the model with its adapters off ---------


def make_reference(
    policy: CausalLM,
    model: str | Path | PreTrainedModel | FreshModel | None,
    dtype: str,
    num_actions: int,
    max_length: int,
) -> CausalLM | None:
    """Return the frozen model that the KL is measured to; None: the policy with its adapters off.

    The policy's own model means a frozen copy of it, as None does; another object's weights are
    shared, but for those that learn in the policy. A path's model gets rows for added tokens.
    """
    if model is not None and model is not policy.model:
        learning = {weight.data_ptr() for weight in policy.parameters() if weight.requires_grad}
        shares = isinstance(model, nn.Module) and not any(
            weight.data_ptr() in learning for weight in model.parameters()
        )
        loaded = load_causal_lm(model, dtype, adapts=shares)
        if isinstance(model, str | Path):
            fit_vocabulary(loaded, num_actions)
        reference = CausalLM(loaded.requires_grad_(False))
        check_vocabulary(reference, num_actions)
        fix_rotary(reference.model, max_length)
        reference.autocasts = policy.autocasts
        reference.use_products(policy.products)
        return reference
    return policy.frozen_copy() if policy.adapters is None else None
