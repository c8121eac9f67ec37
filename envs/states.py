"""Saved states of environments: an episode and its row's randomness as plain data, and back."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tokengym.base.chat import Chat
from tokengym.base.errors import StateError
from tokengym.base.prompt import Metadata
from tokengym.envs.prompts.sampler import PromptSampler, are_whole
from tokengym.envs.prompts.table import EncodedPrompt
from tokengym.envs.turns.conversation import Conversation

if TYPE_CHECKING:
    from tokengym.envs.mdp import TokenMdp


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _are_turns(value: Any) -> bool:
    try:
        return all(
            isinstance(role, str) and isinstance(text, str) and are_whole(list(span))
            for role, text, span, _ in value
        )
    except (TypeError, ValueError):
        return False


STATE_FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "prompt": (lambda value: isinstance(value, str), "a text"),
    "prompt_id": (lambda value: are_whole([value]), "an integer"),
    "prompt_ids": (lambda value: bool(value) and are_whole(value), "a list of token ids"),
    "reference": (_is_text, "a text or None"),
    "query_type": (_is_text, "a text or None"),
    "metadata": (lambda value: isinstance(value, Mapping), "a mapping"),
    "response_ids": (are_whole, "a list of token ids"),
    "terminated": (lambda value: isinstance(value, bool | np.bool_), "True or False"),
    "truncated": (lambda value: isinstance(value, bool | np.bool_), "True or False"),
    "np_random_seed": (
        lambda value: value is None or (isinstance(value, Integral) and type(value) is not bool),
        "an integer or None",
    ),
}
"""Types of the entries of a state, except for the generators'."""
STATE_KEYS = frozenset({*STATE_FIELDS, "sampler", "np_random"})
TURN_FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "turns": (_are_turns, "a list of [role, text, [start, stop], score]"),
    "episode": (lambda value: are_whole([value]) and value >= 0, "an integer >= 0"),
    "partner_seed": (lambda value: are_whole([value]) and value >= 0, "an integer >= 0"),
}
"""Entries of a state that only environments with a partner have."""


def state_of(
    prompt: EncodedPrompt,
    response_ids: list[int],
    *,
    terminated: bool,
    truncated: bool,
    sampler: PromptSampler,
    rng: np.random.Generator,
    seed: int | None,
    conversation: Conversation | None = None,
) -> dict[str, Any]:
    """Return an episode and its row's randomness as plain data, with `STATE_KEYS`."""
    return {
        "prompt": prompt.text,
        "prompt_id": prompt.prompt_id,
        "prompt_ids": list(prompt.ids),
        "reference": prompt.reference,
        "query_type": prompt.query_type,
        "metadata": dict(prompt.metadata) if prompt.prompt_id < 0 else {},  # else the table's
        "response_ids": response_ids,
        "terminated": terminated,
        "truncated": truncated,
        "sampler": sampler.get_state(),
        "np_random": dict(rng.bit_generator.state),
        "np_random_seed": seed,
        **({} if conversation is None else conversation.as_state()),
        **(
            {"chat": prompt.messages.to_record()}
            if prompt.messages and prompt.prompt_id < 0
            else {}
        ),
    }


def prompt_from(state: Mapping[str, Any], mdp: TokenMdp) -> EncodedPrompt:
    """Return the prompt of a saved state, checking that the state fits this MDP."""
    turn_fields = {} if mdp.turns is None else TURN_FIELDS
    keys = sorted(state) if isinstance(state, Mapping) else None
    if keys is None or {*keys} - {"chat"} != {*STATE_KEYS, *turn_fields}:
        got = f"a {type(state).__name__}" if keys is None else f"keys {keys}"
        raise StateError(
            f"a state must be what get_state() returned, got {got}; do not edit its keys"
        )
    for name, (is_valid, kind) in {**STATE_FIELDS, **turn_fields}.items():
        if not is_valid(state[name]):
            raise StateError(
                f"the state's {name} must be {kind}, got {reprlib.repr(state[name])}; pass "
                "what get_state() returned"
            )
    limits = {"prompt_ids": mdp.prompt_width, "response_ids": mdp.settings.max_new_tokens}
    for name, limit in limits.items():
        ids = state[name]
        if len(ids) > limit:
            raise StateError(
                f"the state's {name} has {len(ids)} tokens, the environment takes {limit}; "
                "restore it into an environment of the same lengths"
            )
        if ids and not 0 <= min(ids) <= max(ids) < mdp.vocab_size:
            raise StateError(
                f"the state's {name} has id {max(ids)}, outside the vocabulary of "
                f"{mdp.vocab_size}; restore it into an environment of the same tokenizer"
            )
    prompt_id = int(state["prompt_id"])
    if prompt_id >= mdp.num_prompts:
        raise StateError(
            f"the state's prompt_id {prompt_id} is unknown, there are {mdp.num_prompts} "
            "prompts; restore it into an environment with the same prompts"
        )
    if prompt_id < 0:
        return EncodedPrompt(
            state["prompt"],
            tuple(state["prompt_ids"]),
            -1,
            state["reference"],
            state["query_type"],
            Metadata(state["metadata"]),
            Chat.of_record(state.get("chat", {})),
        )
    entry = mdp.table[prompt_id]
    if entry.ids != tuple(state["prompt_ids"]):  # the row would continue with another prompt
        raise StateError(
            f"the state's prompt {prompt_id} is {state['prompt'][:40]!r}, here it is "
            f"{entry.text[:40]!r}; restore it into an environment with the same prompts"
        )
    return entry


def generator_from(state: dict[str, Any]) -> np.random.Generator:
    """Return a generator that continues from a saved state."""
    bits = np.random.PCG64(0)
    try:
        bits.state = cast(Any, state)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise StateError(
            f"np_random state cannot be restored ({error}); pass what get_state() returned"
        ) from error
    return np.random.Generator(bits)
