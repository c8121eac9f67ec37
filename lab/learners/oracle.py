"""A policy on the Oracle or on Forks as a table: its probabilities and values in every state.

``env.exact_advantages(policy_table(agent.policy, env))`` are the true advantages of each token
under the present policy; `value_table` are the values that its critic has learned.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tokengym.agents import CausalLMPolicy, Sequences
from tokengym.agents.rollouts import Environments
from tokengym.envs import encode_contents
from tokengym.lab.envs.forks.env import ForksValues
from tokengym.lab.envs.oracle.values import State

ROWS = 2048
"""Most texts in one forward."""


@torch.no_grad()
def policy_table(
    policy: CausalLMPolicy,
    envs: Environments | ForksValues,
    *,
    reference: bool = False,
    prompt: int | str = 0,
) -> NDArray[np.float64]:
    """Return the probabilities a policy draws from in every state of the Oracle or of Forks.

    They are those of its sampling: after temperature, action mask, top-k and top-p.

    Args:
        policy: Policy of an agent made for the environment, as ``agent.policy``.
        envs: ``tokengym/Oracle-v0`` or ``tokengym/Forks-v0``, single or batched, wrapped or not.
        reference: Use the frozen reference instead.
        prompt: Prompt of Forks, by id or text; the Oracle has one.

    Returns:
        (states, vocab) in the order of ``envs.unwrapped.states`` (``states(prompt)`` of Forks), as
        ``exact_advantages`` and ``policy_values`` take it; 0 at illegal tokens.
    """
    tree = _states(_oracle(envs), prompt)
    legal = torch.from_numpy(tree.legal.copy())
    table = np.zeros(legal.shape)
    for rows, sequences in _texts(policy, tree):
        mask = legal[rows].to(policy.device)
        logits = policy.language_model.logits(policy.states(sequences))
        others = (model.response_states(sequences) for model in policy.sampling_models[1:])
        logits, keep = policy.sampling_logits(logits, mask, *others)
        if reference:
            states = policy.states(sequences, reference=True)
            logits = policy.shaped_logits(states, mask, reference=True)
            if keep is not None:  # the reference is renormalised over the same tokens
                logits = logits.masked_fill(~keep, -torch.inf)
        table[rows] = logits.double().softmax(-1).cpu().numpy()
    return table


@torch.no_grad()
def value_table(
    policy: CausalLMPolicy, envs: Environments | ForksValues, *, prompt: int | str = 0
) -> NDArray[np.float64]:
    """Return the critic's value of every state of the Oracle or of Forks.

    Args:
        policy: Policy of an agent made for the environment.
        envs: See `policy_table`.
        prompt: See `policy_table`.

    Returns:
        (states,) in the order of ``envs.unwrapped.states``: the learner's estimate of the return
        to come. For an undiscounted sparse reward without a price on the KL and without
        normalisation, ``policy_values(policy_table(...)).values.array`` holds its exact value.
    """
    tree = _states(_oracle(envs), prompt)
    if policy.critic is None:
        raise TypeError("the policy has no critic, and so no values; train it with advantage='gae'")
    table = np.zeros(len(tree.states))
    for rows, sequences in _texts(policy, tree):
        table[rows] = (
            policy.token_stats(sequences, max_size=ROWS, name="values")[:, 0].cpu().numpy()
        )
    return table


def _oracle(envs: Any) -> Any:
    bare = getattr(envs.unwrapped, "envs", [envs])[0].unwrapped
    if not hasattr(bare, "exact_advantages"):
        raise TypeError(
            "envs must be tokengym/Oracle-v0 or tokengym/Forks-v0, which know their values "
            f"exactly, got {envs}"
        )
    return bare


class _States(NamedTuple):
    """States of one prompt."""

    prompt_ids: list[int]
    states: tuple[State, ...]
    legal: NDArray[np.bool_]
    """(states, vocab)"""


def _states(oracle: Any, prompt: int | str) -> _States:
    """Return the states of a prompt, in the order of the exact values."""
    text = oracle.prompts[prompt].text if isinstance(prompt, int) else prompt
    tree = oracle.prefixes(text) if isinstance(oracle, ForksValues) else oracle
    (ids,) = encode_contents(oracle.tokenizer, [text], add_special_tokens=True)
    return _States(ids, tree.states, tree.legal_tokens)


def _texts(policy: CausalLMPolicy, tree: _States) -> list[tuple[slice, Sequences]]:
    """Return the states as prompts, each followed by one token that is never read."""
    states = tree.states
    parts = []
    for start in range(0, len(states), ROWS):
        texts = [[*tree.prompt_ids, *state] for state in states[start : start + ROWS]]
        rows = slice(start, start + len(texts))
        parts.append((rows, Sequences.from_ids(texts, [[0]] * len(texts), policy.device)))
    return parts
