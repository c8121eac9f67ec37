"""What each token was truly worth, where a task knows it: the yardstick for credit rules."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokengym.envs import Episode
from tokengym.evaluation.statistics import Array
from tokengym.rewards import gold_scorer
from tokengym.rewards.truth import gold_token_credit


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The true worth of every token of some responses."""

    name: str
    """What it is, in words."""
    values: tuple[Array, ...]
    """Per episode (n,), signed."""
    threshold: float = 0.0
    """A token matters if its worth is above this in absolute value."""


ORACLE_THRESHOLD = 0.25
"""Of the Oracle's advantages, in score units: a quarter of one "good"."""


def token_truth(task: Any, episodes: Sequence[Episode], policy: Any | None = None) -> Truth | None:
    """Return what a task knows of its tokens' true worth; None if nothing.

    The Oracle knows the exact advantage of each token for the policy that played; a bundle whose
    gold score rests on single words knows what each of them adds to it
    (`tokengym.rewards.truth.gold_token_credit`).

    Args:
        task: The bare environment (``envs.unwrapped``).
        episodes: Finished responses.
        policy: The policy that played them, for the Oracle's advantages; None takes all legal
            tokens alike.
    """
    if hasattr(task, "exact_advantages") and episodes:
        probs = None if policy is None else policy_probabilities(policy, task, episodes[0])
        advantages = task.exact_advantages(probs)
        return Truth(
            name="exact advantage",
            values=tuple(advantages.along(episode.response_ids) for episode in episodes),
            threshold=ORACLE_THRESHOLD,
        )
    values = gold_token_credit(gold_scorer(task.bundle), episodes, task.tokenizer)
    return None if values is None else Truth(name="gold word weights", values=tuple(values))


def policy_probabilities(policy: Any, task: Any, example: Episode) -> Array:
    """Return a language model's probabilities in every state of the Oracle, (states, vocab).

    Each longest state is read once; the distributions before its tokens are those of the states
    it goes through.

    Args:
        policy: A `tokengym.agents.CausalLMPolicy`.
        task: The bare Oracle.
        example: An episode of it, for the prompt's ids.
    """
    import torch

    from tokengym.agents.sequences import Sequences

    places = {state: row for row, state in enumerate(task.states)}
    legal = ~np.isnan(task.optimal_values().q_values.array)
    longest = [state for state in task.states if len(state) == task.max_new_tokens - 1]
    filler = int(legal[0].argmax())  # the last token is what is predicted, whatever it is
    sequences = Sequences.from_ids(
        [example.prompt_ids] * len(longest),
        [(*state, filler) for state in longest],
        policy.device,
    )
    table = np.zeros(legal.shape)
    with torch.no_grad():
        for bucket in sequences.buckets(1024):
            visited = [
                places[longest[row][:time]]
                for row in bucket.tolist()
                for time in range(task.max_new_tokens)
            ]
            states = policy.states(sequences.select(bucket))
            mask = torch.from_numpy(legal[visited]).to(states.device)
            probs = policy.shaped_logits(states, mask).double().softmax(dim=-1)
            table[visited] = probs.cpu().numpy()
    return table
