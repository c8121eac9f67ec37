"""Weights on the advantage, each known to ``PPO(weights=...)`` by its name.

Each is a function of named inputs that returns (batch, time) weights >= 0 with mean 1 over each
response; `weighing` has the formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor

from tokengym.agents import losses
from tokengym.base import check_number
from tokengym.envs import SettingsError
from tokengym.lab.learners import weighing
from tokengym.rewards import token_credit


def _shares(*names: str) -> Callable[[SimpleNamespace], None]:
    """Return a check that options lie in (0, 1]."""
    return lambda options: check_number(options, *names, above=0, most=1)


@token_credit
def constant(response_mask: Tensor, advantages: Tensor) -> Tensor:
    """The control that changes nothing: a run equals the unweighted one bit for bit."""
    return response_mask.to(advantages.dtype)


@token_credit
def random(response_mask: Tensor, generator: torch.Generator) -> Tensor:
    """The control that knows nothing: uniform numbers, drawn anew in each round."""
    drawn = torch.rand(tuple(response_mask.shape), generator=generator, dtype=torch.float32)
    return losses.mean_one(drawn.to(response_mask.device), response_mask)


@token_credit(check=lambda options: check_number(options, "power", finite=True))
def position(response_mask: Tensor, positions: Tensor, power: float = 1.0) -> Tensor:
    """The control that knows the place alone: w_t proportional to t ** power, t = 1, 2, ..."""
    return losses.mean_one((positions + 1).float() ** power, response_mask)


@token_credit(check=_shares("top"))
def entropy(response_mask: Tensor, entropy: Tensor, top: float = 0.2) -> Tensor:
    """Gradient on the share of tokens with the highest entropy alone: Wang et al. 2025.

    arXiv:2506.01939; there of a batch's tokens, here of each response's.
    """
    return weighing.top_weights(entropy, response_mask, share=top)


@token_credit(by_row=False, check=_shares("share"))
def gtpo(response_mask: Tensor, entropy: Tensor, advantages: Tensor, share: float = 0.5) -> Tensor:
    """Entropy against that of the other responses. Tan et al. 2025, arXiv:2508.04349."""
    return weighing.entropy_bonus_weights(entropy, advantages, response_mask, share=share)


@token_credit(name="policy-attention")
def policy_attention_received(response_mask: Tensor, policy_attention: Tensor) -> Tensor:
    """Attention that later tokens pay. Ours.

    The mean over queries q >= t of the policy's last layer's attention from q to t, averaged over
    heads; one more pass over the finished texts.
    """
    later = (response_mask.sum(1, keepdim=True) - response_mask.cumsum(1) + 1).clamp(min=1)
    return losses.mean_one(policy_attention.sum(1) / later, response_mask)


@token_credit
def reward_attention(response_mask: Tensor, attention: Tensor) -> Tensor:
    """The reward model's attention, which ABC spreads the score by: Chan et al. 2024.

    arXiv:2402.00782; one more pass of the reward model.
    """
    return losses.mean_one(attention, response_mask)


@token_credit(
    check=lambda options: check_number(options, "temperature", above=0),
    models={"path": "language"},
)
def teacher(
    response_mask: Tensor,
    ref_log_probs: Tensor,
    path_log_probs: Tensor,
    temperature: float = 1.0,
) -> Tensor:
    """Departure of a better model from the reference: softmax of log pi_teacher - log pi_ref.

    Both are read as the policy samples. The temperature here is in nats; large makes all weights 1.
    """
    return weighing.softmax_weights(
        path_log_probs - ref_log_probs, response_mask, temperature=temperature
    )


def _is_band(options: SimpleNamespace) -> None:
    if not 0 <= options.low < options.high:
        raise SettingsError(
            f"rsi needs 0 <= low < high, got low={options.low}, high={options.high}"
        )


@token_credit(check=_is_band)
def rsi(
    response_mask: Tensor,
    log_probs: Tensor,
    entropy: Tensor,
    low: float = 0.5,
    high: float = 2.0,
) -> Tensor:
    """Gradient on the tokens whose surprisal is near what the policy expected of it.

    w_t equal where low <= -log pi(y_t) / H_t <= high, 0 elsewhere: neither on what was sure to be
    written, nor on the tail. Lv et al. 2026, arXiv:2606.31575; its band was not available, and
    these two are ours.
    """
    values = -log_probs / entropy.clamp(min=1e-6)
    return weighing.band_weights(values, response_mask, low=low, high=high)


def _is_gate(options: SimpleNamespace) -> None:
    check_number(options, "quantile", above=0, most=1)
    check_number(options, "boost", least=0)
    check_number(options, "boost", finite=True)


@token_credit(check=_is_gate)
def oar(
    response_mask: Tensor, gradient: Tensor, quantile: float = 0.5, boost: float = 1.0
) -> Tensor:
    """The size of embedding times gradient of the score, gated at a quantile.

    There the outcome is the distribution of the answer that follows the reasoning; here it is the
    reward model's score. Li et al. 2026, arXiv:2601.07408, OAR-G; both defaults are ours.
    """
    return weighing.gated_weights(gradient.abs(), response_mask, quantile=quantile, boost=boost)


@token_credit(check=_shares("mix", "clip"))
def self_teacher(
    response_mask: Tensor,
    log_probs: Tensor,
    advantages: Tensor,
    log_probs_after: Callable[[Sequence[str]], Tensor],
    references: Sequence[str | None],
    mix: float = 0.5,
    clip: float = 0.2,
) -> Tensor:
    """RLSD: the policy that has read the reference answer teaches the policy that has not.

    w_t by pi(y_t | answer, x, y_<t) / pi(y_t | x, y_<t). The answer and a line break stand before
    the prompt, behind BOS, and in a conversation before the last message of the user; where, is our
    choice. Yang et al. 2026, arXiv:2604.03128.
    """
    answers = []
    for row, answer in enumerate(references):
        if answer is None:
            raise SettingsError(
                f"weights 'self-teacher' reads reference answers, and episode {row} has none; take "
                "a task with references, or 'teacher:path=MODEL'"
            )
        answers.append(f"{answer}\n")
    return weighing.evidence_weights(
        log_probs_after(answers) - log_probs, advantages, response_mask, mix=mix, clip=clip
    )
