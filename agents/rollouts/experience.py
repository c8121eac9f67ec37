"""A round as tensors: what an update learns from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tokengym.agents.errors import NonFiniteError
from tokengym.agents.policy.sequences import ActionMasks, Sequences, sent
from tokengym.envs import Episode


@dataclass(frozen=True, kw_only=True)
class Experience:
    """A round whose tokens have their advantages; 0 past a response's end.

    Values and rewards are those of the policy that sampled; the advantages may have been whitened.
    """

    token_rewards: Tensor
    """(batch, time), reward units, minus the price of the KL where it is in the reward."""
    response_mask: Tensor
    """(batch, time) bool."""
    values: Tensor | None
    """(batch, time), reward units; None without a critic."""
    paid: Tensor
    """(batch,), reward units, of whole responses, minus the price of the KL where it is in the
    reward; not summed from token rewards, so that it is the same number under every credit."""
    sequences: Sequences
    """Prompts and responses, ``len()`` = batch."""
    action_masks: ActionMasks | None
    """Tokens that could be sampled at each step, (batch, time) masks; None if all could."""
    old_log_probs: Tensor
    """(batch, time), nats, stored when sampled."""
    advantages: Tensor
    """(batch, time) A, as the policy loss takes it."""
    returns: Tensor | None
    """(batch, time) A + V_old before whitening, reward units; None without a critic."""
    ref_log_probs: Tensor | None = None
    """(batch, time), nats, under the frozen reference; needed for a sampled KL in the loss."""
    ref_states: Tensor | None = None
    """(batch, time, hidden) of the frozen reference, for the exact KL; None computes them again."""
    named: Mapping[str, Any] = field(default_factory=dict)
    """What else the loss reads of the round, by name: (batch, ...) tensors or lists, in columns of
    a row's own tokens."""
    advantage_scale: float = 1.0
    """Standard deviation that whitening divided the advantages by, reward units."""

    def select(self, rows: Tensor) -> "Experience":
        """Return (kept,) rows, with no more padding than they need; see `Sequences.select`."""
        sequences = self.sequences.select(rows)
        time, rows = sequences.num_times, sent(rows, self.response_mask.device)
        values: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        for name, value in values.items():
            if isinstance(value, Tensor):  # (batch,), or (batch, time, ...)
                values[name] = value[rows] if value.dim() == 1 else value[rows, :time]
        values["named"] = {name: _of(one, rows) for name, one in self.named.items()}
        masks = None if self.action_masks is None else self.action_masks.select(rows)
        values |= {"sequences": sequences, "action_masks": masks}
        return Experience(**values)


def _of(value: Any, rows: Tensor) -> Any:
    """Return a tensor's or list's rows; anything else, such as a generator, as it is."""
    if isinstance(value, list):
        return [value[row] for row in rows.tolist()]
    return value[rows] if isinstance(value, Tensor) else value


def token_rewards_of(episodes: Sequence[Episode], time: int, place: str) -> NDArray[np.float32]:
    """Return the token rewards of a round's episodes, (batch, time); 0 past a response's end.

    Args:
        episodes: (batch,) finished episodes.
        time: Tokens of the longest response.
        place: Place in the training, for an error's message.
    """
    rewards = np.zeros((len(episodes), time), dtype=np.float32)
    for row, episode in enumerate(episodes):
        if episode.token_rewards is None:
            raise ValueError(
                f"the episode of row {row} has no token_rewards; make the environment with "
                "reward=..., or wrap it in tokengym.rewards.CreditReward"
            )
        rewards[row, : len(episode.response_ids)] = episode.token_rewards
    if len(places := np.argwhere(~np.isfinite(rewards))):
        row, step = places[0]
        raise NonFiniteError(
            f"token_rewards of row {row} is {rewards[row, step]} at response token {step} "
            f"({place}); fix the scorer"
        )
    return rewards


def scores_of(episodes: Sequence[Episode]) -> NDArray[np.float32]:
    """Return the scores of a round's episodes, (batch,)."""
    return np.array([episode.score for episode in episodes], dtype=np.float32)
