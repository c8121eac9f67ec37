"""Estimators as PPO calls them, a row's own tokens in columns, as the audit calls them."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokengym.agents import losses
from tokengym.agents.ppo import (
    Loss,
    PPOSettings,
    RoundFunction,
    RoundInputs,
    Weights,
    find_advantage,
)
from tokengym.base import did_you_mean
from tokengym.envs import Episode, Turn
from tokengym.lab.audit.tokengym_audit import (
    GAE_LAMBDA,
    Adapted,
    AuditError,
    Batch,
    gains,
    turn_scores,
)
from tokengym.rewards import NAMES, SUPPLIERS

OF_POLICY = ("log_probs", "ref_log_probs", "entropy", "top_log_probs", "kl")
"""Names that a batch of the audit has as a round of PPO has them."""
OF_EPISODES = frozenset(
    {
        *("response_ids", "row_seeds", "turn_ids", "turn_scores", "state_ids", "positions"),
        "segment_ends",
    }
)
"""Names of the texts that the tokens say; what the texts read like, they do not."""
LACKS = frozenset(
    name
    for name, one in NAMES.items()
    if (one.supplier in ("texts", "scorer") and name not in (*OF_EPISODES, "response_mask"))
    or (one.supplier == "reference" and name not in OF_POLICY)
    or name in ("hidden_states", "policy_attention")
    or one.shape.startswith("f(")
) - {"scores", "paid"}
"""Names that a tree has not: texts, a scorer's account of tokens, and a network."""


def registered(estimator: str | Callable[..., Any]) -> Adapted:
    """Return an estimator whose columns are a row's own tokens, whitened as it declares.

    Args:
        estimator: As ``advantage=`` takes it: "loo", "grpo", "gigpo", or a function of named
            inputs.

    Raises:
        SettingsError: if there is none, with the near matches.
        AuditError: if it reads what a tree has not.

    Example:
        >>> from tokengym.lab.audit import check_estimator
        >>> check_estimator(registered("loo")).holds
        True
    """
    found = find_advantage(estimator)
    _refuse_what_is_not_there(found)

    def estimate(batch: Batch) -> Tensor:
        advantages = found.estimate(_round(batch))[0]
        if found.whitens:
            advantages = losses.masked_whiten(advantages, batch.response_mask)
        return advantages.double()

    reads = {"response_mask", "turn_ids", "response_ids", "token_rewards", "maybe gamma"}
    if not found.uses_token_rewards and "turn_scores" not in found.reads:
        reads = {"scores"} | {"response_mask"} & {*found.reads}
    if found.needs_groups:  # a lost row would leave a group that is no block of its size
        reads = reads - {"response_mask"} | {"group_size"}
    if found.needs_critic:
        reads.add("values")
    return Adapted(name=found.name, adapter="registered", estimate=estimate, reads=frozenset(reads))


def registered_weights(weights: str | Callable[..., Any]) -> Adapted:
    """Return advantages times a weight: a score less its prompt's mean, weighed inside the group.

    Args:
        weights: As ``weights=`` takes it: "entropy:top=0.1", or a function of named inputs.

    Raises:
        SettingsError: if there are none, with the near matches.
        AuditError: if they read what a tree has not.

    Example:
        >>> from tokengym.lab.audit import check_estimator
        >>> check_estimator(registered_weights("constant")).holds
        True
    """
    found: Weights = Weights.find(weights)
    _refuse_what_is_not_there(found)

    def estimate(batch: Batch) -> Tensor:
        inputs, weighed = _round(batch), gains(batch)
        inputs.give("advantages", weighed)
        return (weighed * found.weigh(inputs)).double()

    reads = frozenset({"scores", "response_ids", "group_size"})
    name = getattr(found, "who", str(weights))
    return Adapted(name=name, adapter="registered", estimate=estimate, reads=reads)


def registered_loss(loss: str | Callable[..., Any]) -> Callable[..., Any]:
    """Return a policy loss with its options, and PPO's clip range where it reads one.

    Args:
        loss: As ``loss=`` takes it: "gspo:low=1e-3", or a function of named inputs.

    Raises:
        SettingsError: if there is none, with the near matches.
    """
    found: Loss = Loss.find(loss)
    clip = PPOSettings().clip_range
    ranges = {name: clip for name in ("clip_range", "clip_range_high") if name in found.reads}
    return partial(found.function, **ranges, **found.options)


def _refuse_what_is_not_there(found: RoundFunction) -> None:
    """Refuse a function that reads what a tree has not.

    Raises:
        AuditError: naming who supplies it.
    """
    for name in found.reads:
        if name in LACKS or (name not in NAMES and not hasattr(PPOSettings(), name)):
            if name not in NAMES:
                raise AuditError(
                    f"{found.who} reads {name!r}, which nobody supplies; "
                    f"{did_you_mean(name, NAMES, n=1)}it could also be a column of the data, of "
                    f"which the audit has none, or an option, which needs a default: {name}=1.0"
                )
            source = SUPPLIERS[NAMES[name].supplier]
            source = "PPO(advantage=...), from its network" if name == "hidden_states" else source
            raise AuditError(
                f"{found.who} reads {name!r}, which a tree of the audit does not have; "
                f"it comes from {source}"
            )


def _round(batch: Batch) -> RoundInputs:
    """Return a batch as a round of PPO."""
    size = int(batch.group_ids.unique(return_counts=True)[1][0])
    settings = PPOSettings(gamma=batch.gamma, gae_lambda=GAE_LAMBDA, group_size=size)
    given: dict[str, Any] = {"token_rewards": batch.token_rewards, "scores": batch.scores}
    given |= {name: getattr(batch, name) for name in ("values", *OF_POLICY)}
    given["turn_scores"] = turn_scores(batch)
    given["paid"] = batch.scores
    given["generator"] = torch.Generator().manual_seed(batch.seed)
    return RoundInputs(
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
