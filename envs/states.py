"""Saved states of environments: an episode and its row's randomness as plain data, and back."""

from __future__ import annotations

from collections.abc import Mapping
from operator import index
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tokengym.base.chat import Chat
from tokengym.base.errors import StateError
from tokengym.base.prompt import Metadata
from tokengym.envs.prompts.sampler import PromptSampler
from tokengym.envs.prompts.table import EncodedPrompt
from tokengym.envs.turns.conversation import RowConversation

if TYPE_CHECKING:
    from tokengym.envs.mdp import TokenMdp

_KEYS = frozenset(
    "prompt prompt_id prompt_ids reference query_type metadata response_ids terminated truncated "
    "sampler np_random np_random_seed".split()
)
_TURN_KEYS = frozenset(("turns", "episode", "partner_seed"))
_KINDS = {
    "prompt": str,
    **dict.fromkeys(("reference", "query_type"), str | None),
    **dict.fromkeys(("terminated", "truncated"), bool | np.bool_),
}
"""Types of entries that nothing converts."""


def state_of(
    prompt: EncodedPrompt,
    response_ids: list[int],
    *,
    terminated: bool,
    truncated: bool,
    sampler: PromptSampler,
    rng: np.random.Generator,
    seed: int | None,
    conversation: RowConversation | None = None,
) -> dict[str, Any]:
    """Return an episode and its row's randomness as plain data."""
    is_given = prompt.prompt_id < 0  # else the table has the rest of it
    return {
        "prompt": prompt.text,
        "prompt_id": prompt.prompt_id,
        "prompt_ids": list(prompt.ids),
        "reference": prompt.reference,
        "query_type": prompt.query_type,
        "metadata": dict(prompt.metadata) if is_given else {},
        "response_ids": response_ids,
        "terminated": terminated,
        "truncated": truncated,
        "sampler": sampler.get_state(),
        "np_random": dict(rng.bit_generator.state),
        "np_random_seed": seed,
        **({} if conversation is None else conversation.as_state()),
        **({"chat": prompt.messages.to_record()} if prompt.messages and is_given else {}),
    }


class Restored(NamedTuple):
    """An episode and its row's randomness."""

    prompt: EncodedPrompt
    response_ids: tuple[int, ...]
    rng: np.random.Generator
    seed: int | None
    terminated: bool
    truncated: bool
    conversation: RowConversation | None


def _check_kinds(state: Mapping[str, Any]) -> None:
    """Refuse what no conversion refuses: entries of another kind, a prompt without tokens."""
    for name, kind in _KINDS.items():
        if not isinstance(state[name], kind):
            raise TypeError(f"{name} is {state[name]!r}")
    if len(state["prompt_ids"]) == 0:
        raise ValueError("prompt_ids has 0 tokens")


def restored(state: Mapping[str, Any], mdp: TokenMdp, sampler: PromptSampler) -> Restored:
    """Return what a saved state holds and, once all of it fits the MDP, set the row's sampler."""
    keys = _KEYS if mdp.turns is None else _KEYS | _TURN_KEYS
    if not isinstance(state, Mapping) or {*state} - {"chat"} != keys:
        got = f"keys {sorted(state)}" if isinstance(state, Mapping) else f"a {type(state).__name__}"
        raise StateError(
            f"a state must be what get_state() returned, got {got}; do not edit its keys"
        )
    bits, seed = np.random.PCG64(0), state["np_random_seed"]
    try:
        bits.state = state["np_random"]
        _check_kinds(state)
        prompt = EncodedPrompt(
            state["prompt"],
            tuple(map(index, state["prompt_ids"])),
            max(index(state["prompt_id"]), -1),
            state["reference"],
            state["query_type"],
            Metadata(state["metadata"]),
            Chat.of_record(state.get("chat", {})),
        )
        episode = Restored(
            prompt,
            tuple(map(index, state["response_ids"])),
            np.random.Generator(bits),
            None if seed is None else index(seed),
            bool(state["terminated"]),
            bool(state["truncated"]),
            None if mdp.turns is None else RowConversation.from_state(state),
        )
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise StateError(
            f"a state must be what get_state() returned, and has an entry of another kind ({error})"
        ) from error
    for name, ids, limit in (
        ("prompt_ids", prompt.ids, mdp.prompt_width),
        ("response_ids", episode.response_ids, mdp.settings.max_new_tokens),
    ):
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
    if prompt.prompt_id >= 0:
        entry = mdp.table[prompt.prompt_id] if prompt.prompt_id < mdp.num_prompts else None
        if entry is None or entry.ids != prompt.ids:  # the row would continue with another prompt
            raise StateError(
                f"the state's prompt {prompt.prompt_id} of {mdp.num_prompts} is "
                f"{prompt.text[:40]!r}, here it is {entry and entry.text[:40]!r}; restore it into "
                "an environment with the same prompts, chat template and template_date"
            )
        episode = episode._replace(prompt=entry)
    sampler.set_state(state["sampler"])
    return episode
