"""This library's own registered estimators, as the audit calls them."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from tokengym.agents import losses
from tokengym.agents.ppo import PPOSettings, RoundInputs, find_advantage
from tokengym.envs import Episode, Turn
from tokengym.lab.audit.tokengym_audit import GAE_LAMBDA, Adapted, Batch


def registered(name: str) -> Adapted:
    """Return a registered estimator, whitened where its declaration says so, as PPO does.

    Args:
        name: As ``advantage=`` takes it: "loo", "grpo", "gigpo".

    Raises:
        SettingsError: if there is none, with the near matches.

    Example:
        >>> from tokengym.lab.audit import check_estimator
        >>> check_estimator(registered("loo"), group_sizes=(2, 4)).holds
        True
    """
    estimator = find_advantage(name)

    def estimate(batch: Batch) -> Tensor:
        size = int(batch.group_ids.unique(return_counts=True)[1][0])
        settings = PPOSettings(gamma=batch.gamma, gae_lambda=GAE_LAMBDA, group_size=size)
        given = {"token_rewards": batch.token_rewards, "scores": batch.scores}
        if batch.values is not None:
            given["values"] = batch.values
        played = RoundInputs(
            batch.response_mask,
            {"final_values": torch.zeros_like(batch.scores), **given},
            settings=settings,
            episodes=[
                _episode(tuple(ids), tuple(written))
                for ids, written in zip(
                    batch.response_ids.tolist(), batch.response_mask.tolist(), strict=True
                )
            ],
        )
        advantages = estimator.estimate(played)[0]
        if estimator.whitens:
            advantages = losses.masked_whiten(advantages, batch.response_mask)
        return advantages.double()

    reads = {"response_mask", "turn_ids", "response_ids", "token_rewards", "maybe gamma"}
    if not estimator.uses_token_rewards:
        reads = {"scores"}
    if estimator.needs_groups:
        reads.add("group_size")
    if estimator.needs_critic:
        reads.add("values")
    return Adapted(name=name, adapter="registered", estimate=estimate, reads=frozenset(reads))


@lru_cache(maxsize=4096)
def _episode(padded: tuple[int, ...], written: tuple[bool, ...]) -> Episode:
    """Return a row as a played episode, whose texts are the numbers of its tokens.

    Args:
        padded: Its tokens, 0 past the end.
        written: Whether the policy wrote each.
    """
    ids = [token for token in padded if token]
    size = len(ids)
    changes = [time for time in range(1, size) if written[time] != written[time - 1]]
    turns = tuple(
        Turn(
            "assistant" if written[start] else "user",
            " ".join(map(str, ids[start:end])),
            (start, end),
        )
        for start, end in zip([0, *changes], [*changes, size], strict=True)
    )
    return Episode(
        prompt="",
        response=" ".join(map(str, ids)),
        prompt_ids=[0],
        response_ids=ids,
        turns=turns,
        written=None if len(turns) == 1 else np.array(written[:size], np.int8),
    )
