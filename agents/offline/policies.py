"""Policies to train: from an environment, a folder, a model or a policy, and on disk."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from safetensors.torch import load_model
from stable_baselines3.common.vec_env import VecEnv
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from tokengym.agents.errors import CheckpointError, ModelError
from tokengym.agents.policy.language_model import (
    FreshModel,
    fit_vocabulary,
    load_causal_lm,
    make_reference,
    warn_of_ends,
)
from tokengym.agents.policy.policy import CausalLMPolicy
from tokengym.agents.policy.settings import PolicySettings, Precision, Products
from tokengym.agents.rollouts.rounds import Environments, environment_attribute
from tokengym.agents.saving import stored_models
from tokengym.base.device import drawn_from, select_device
from tokengym.base.errors import TokenizerError
from tokengym.base.models import is_cached, located
from tokengym.base.pretrained import from_pretrained, quiet
from tokengym.base.stored.adapters import load_adapters, unwrapped
from tokengym.base.stored.parts import ADAPTER_WEIGHTS
from tokengym.rewards.models.loading import load_tokenizer, longest_input
from tokengym.rewards.pairs.encode import TextEncoding

if TYPE_CHECKING:
    from peft import LoraConfig

Model: TypeAlias = str | Path | PreTrainedModel | FreshModel
"""A model's path, its name, or the model, which is copied unless it is fresh."""
Source: TypeAlias = Environments | Model | CausalLMPolicy
"""Model that learns: an environment's bundled model, another model, or a policy."""


def find_tokenizer(
    source: Source, tokenizer: PreTrainedTokenizerBase | None
) -> PreTrainedTokenizerBase:
    """Return the tokenizer that was given, or the one that belongs to what learns."""
    if tokenizer is not None:
        return tokenizer
    if _is_environment(source):
        tokenizer = environment_attribute(source, "tokenizer")
    elif isinstance(source, str | Path):
        tokenizer = load_tokenizer(source)
    if tokenizer is None:
        raise TokenizerError(
            f"no tokenizer comes with {_name(source)}; pass tokenizer= with the model's own"
        )
    return tokenizer


def make_policy(
    source: Source,
    model: Model | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    reference: Model | CausalLMPolicy | None = None,
    lora: "LoraConfig | None" = None,
    dtype: str = "auto",
    precision: Precision = "full",
    products: Products = "torch",
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    device: str | None = "auto",
) -> CausalLMPolicy:
    """Return the policy to train, with its frozen reference.

    Args:
        source: An environment, which gives tokenizer and bundled model; a path or name; a model; or
            a policy, which is then trained itself, and keeps its settings.
        model: Path, hub name or model, in place of an environment's own.
        tokenizer: The model's; None takes the one of the source, see `find_tokenizer`.
        reference: Path, hub name or model; None, or the model itself, takes a copy of it as it is
            now, or with ``lora`` the model without its adapters. The policy that learns: the
            reference that it has.
        lora: A ``peft.LoraConfig`` to train adapters only.
        dtype: Precision of the weights, see `load_causal_lm`.
        precision: That of the computation, see `PolicySettings`.
        products: Library of float32 products on a CPU, see `PolicySettings`.
        temperature: Temperature of sampling; learning uses the model's own distribution.
        top_k: Likeliest tokens that are sampled among, see `PolicySettings`.
        top_p: Probability of the likeliest tokens that are sampled among, likewise.
        seed: Seed of the adapters' first weights and of sampling.
        device: "auto" takes a GPU if there is one; None leaves the policy where it is made.

    Raises:
        ModelError: if there is no model, it does not fit, or a policy is to be changed.
        TokenizerError: if there is no tokenizer, or it does not belong to the model.
    """
    learning = source if model is None else model
    settings: dict[str, Any] = {"precision": precision, "products": products}
    settings |= {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    if isinstance(learning, CausalLMPolicy):
        policy = _given_policy(learning, reference, lora, dtype, settings)
        return policy if device is None else policy.to(select_device(device))
    tokenizer = find_tokenizer(source, tokenizer)
    loaded, length = _model_of(learning, dtype, len(tokenizer))
    if isinstance(reference, CausalLMPolicy):
        raise ModelError("a policy keeps its own reference; as another's, pass its model")
    reference = loaded if reference is learning else reference
    seeds = np.random.SeedSequence(seed).generate_state(2).tolist()
    integers = spaces.Box(0, len(tokenizer) - 1, (length,), np.int64)
    mask = spaces.Box(0, 1, (length,), np.int8)
    with drawn_from(seeds[0]):
        policy = CausalLMPolicy(
            spaces.Dict(input_ids=integers, attention_mask=mask),
            spaces.Discrete(len(tokenizer)),
            lambda _: 0.0,  # the policy's own optimiser is not used
            model=loaded,
            lora=lora,
            dtype=dtype,
            reference=reference,
            **settings,
        )
    policy.outside.manual_seed(seeds[1])  # training samples nothing
    if _is_environment(source):
        vocabulary = environment_attribute(source, "vocabulary")
        warn_of_ends(policy.language_model, vocabulary, tokenizer)
    return policy if device is None else policy.to(select_device(device))


def _given_policy(
    policy: CausalLMPolicy,
    reference: Model | CausalLMPolicy | None,
    lora: "LoraConfig | None",
    dtype: str,
    settings: Mapping[str, Any],
) -> CausalLMPolicy:
    """Return a policy that is trained itself, measured to what it is now if to nothing else."""
    if lora is not None:
        raise ModelError("a policy brings its own adapters; pass its model to put lora= on it")
    weights = str(policy.language_model.model.dtype).removeprefix("torch.")
    present = {**vars(policy.settings), "temperature": policy.temperature, "dtype": weights}
    for name, given in {**settings, "dtype": dtype}.items():
        default = getattr(PolicySettings, name)  # which may be what the caller left open
        if given not in (default, has := present[name]):
            raise ModelError(
                f"the policy has {name}={has!r}, got {given!r}; make it with that one, or pass its "
                "model"
            )
    if reference is policy:
        return policy
    if isinstance(reference, CausalLMPolicy):
        raise ModelError("a policy keeps its own reference; as another's, pass its model")
    start, adapters = reference, policy.language_model.adapters
    if start is None and adapters is not None:
        merged: Any = copy.deepcopy(adapters)
        start = merged.merge_and_unload()
    frozen = make_reference(
        policy.language_model, start, dtype, policy.num_actions, policy.max_length
    )
    policy.reference = None if frozen is None else frozen.to(policy.device)
    return policy


def encoding_for(source: object, encoding: TextEncoding | None) -> TextEncoding:
    """Return the encoding, as the environment writes prompts where that is left open."""
    encoding = encoding or TextEncoding()
    if encoding.chat_template is not None:
        return encoding
    if not _is_environment(source):
        return replace(encoding, chat_template=False)
    settings = environment_attribute(source, "settings")
    return replace(
        encoding,
        chat_template=bool(getattr(settings, "chat_template", False)),
        prompt_format=encoding.prompt_format or getattr(settings, "prompt_format", None),
    )


def _is_environment(source: object) -> TypeGuard[Environments]:
    return isinstance(source, VectorEnv | gym.Env | VecEnv)


def _model_of(source: Any, dtype: str, num_tokens: int) -> tuple[Any, int]:
    """Return the model, for a tokenizer of that size, and the most tokens of a text it is for."""
    if isinstance(source, str | Path) and is_cached(located(source)):
        config = from_pretrained(AutoConfig, source)  # the policy loads it, and names it when saved
        return source, getattr(config, "max_position_embeddings", None) or 1024
    if isinstance(given := unwrapped(source), PreTrainedModel):  # which the policy copies
        return source, longest_input(given) or 1024
    if not _is_environment(source):
        model = load_causal_lm(source, dtype)
        if isinstance(source, str | Path):
            fit_vocabulary(model, num_tokens)
        return FreshModel(model), longest_input(model) or 1024
    bundle = environment_attribute(source, "bundle")
    if bundle is None or not bundle.has("policy"):
        raise ModelError(
            f"{_name(source)} brings no model; pass a path, a name or a model in its place, and "
            "the environment to collect() when it plays"
        )
    space: Any = getattr(source, "single_observation_space", None) or source.observation_space
    return bundle.policy, int(space["input_ids"].shape[0])


def _name(source: object) -> str:
    return repr(str(source)) if isinstance(source, str | Path) else f"a {type(source).__name__}"


# --- on disk --------------------------------------------------------------------------------------


def read_models(folder: Path, env: Environments | None) -> tuple[Any, dict[str, Any]]:
    """Return the model of a folder that `write_policy` wrote, and what else it holds by keyword."""
    tokenizer = load_tokenizer(folder)
    if tokenizer is None:
        raise CheckpointError(f"{folder} holds no tokenizer; use one that save() wrote")
    playing = None if env is None else environment_attribute(env, "tokenizer")
    if playing is not None and playing.get_vocab() != tokenizer.get_vocab():
        raise CheckpointError(
            f"{folder} has another vocabulary than the environment ({len(tokenizer)} and "
            f"{len(playing)} tokens); load it with the one it was trained for"
        )
    models = stored_models(folder)
    models["ref_model"] = models.pop("reference", None)
    return models.pop("model"), {"tokenizer": tokenizer, **models}


def write_weights(
    policy: CausalLMPolicy, folder: Path, gathered: Mapping[str, Any] | None = None
) -> None:
    """Write a policy's model, or its adapters, in Hugging Face's format."""
    language_model = policy.language_model
    stored: Any = language_model.adapters or language_model.model
    weights = None
    if gathered is not None:
        inside = f"language_model.{'model' if language_model.adapters is None else 'adapters'}."
        names = {name.removeprefix(inside): name for name in gathered if name.startswith(inside)}
        weights = {inner: gathered[name] for inner, name in names.items()}
    with quiet():
        stored.save_pretrained(str(folder), state_dict=weights)


def load_weights(policy: CausalLMPolicy, folder: Path) -> None:
    """Put weights that ``save_pretrained`` wrote back into a policy's model or adapters."""
    adapters = policy.language_model.adapters
    name = "model.safetensors" if adapters is None else ADAPTER_WEIGHTS
    if not (folder / name).is_file():
        raise CheckpointError(f"{folder} has no {name}; resume from a folder checkpoint-<step>")
    if adapters is not None:
        load_adapters(adapters, folder)
        return
    try:
        load_model(policy.language_model.model, folder / name)
    except RuntimeError as error:
        raise CheckpointError(
            f"{folder / name} is of another model; resume with the one that wrote it"
        ) from error
