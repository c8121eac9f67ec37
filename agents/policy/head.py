"""Hidden states to log-probs, entropies and KLs of tokens, without keeping the vocabulary.

The logits of one chunk of tokens are in memory at a time, in the backward pass too, which computes
them once more; autograd's own operations would pass over them twice as often.

z = states W^T / temperature, z' = the reference's;  log p = z - lse(z), log q = z' - lse(z')
log_prob = log p_token;  H = -sum_v p_v log p_v;  KL = sum_v p_v (log p_v - log q_v)
dL / dz_v = p_v (a log p_v - b log q_v + c) + [v = token] g
    with g, h, b = dL / dlog_prob, dL / dH, dL / dKL;  a = b - h;  c = -g - h H - b KL
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tokengym.agents.policy.backend import backend
from tokengym.agents.policy.sequences import ActionMasks
from tokengym.agents.policy.settings import Products

LOWEST = -1e30
"""Logit of a forbidden token: its probability is 0, and no difference of two is nan."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Request for figures of tokens."""

    tokens: Tensor
    """(n,) int64."""
    temperature: float
    num_actions: int
    """Words that can be sampled; the head may have more."""
    size: int
    """Tokens of a chunk."""
    masks: tuple[ActionMasks, Tensor, Tensor] | None = None
    """Words that could be sampled, and where the tokens have theirs: rows and times, (n,) int64
    each; None allows all words."""
    with_entropy: bool = False
    reference: tuple[Tensor, Tensor] | None = None
    """Hidden states (n, hidden) and head (vocab, hidden) of the reference, for the KL."""
    products: Products = "torch"
    """Library of float32 products on a CPU."""

    def chunks(self) -> list[slice]:
        """Return the tokens of each chunk."""
        return [slice(i, i + self.size) for i in range(0, len(self.tokens), self.size)]

    def scores(self, states: Tensor, weight: Tensor, part: slice) -> Tensor:
        """Return the shaped logits of a chunk, (chunk, num_actions) float32 or float64."""
        scores = product(states[part], weight[: self.num_actions], self.products)
        if self.temperature != 1.0:
            scores.div_(self.temperature)
        if self.masks is None:
            return scores
        action_masks, rows, times = self.masks
        return action_masks.forbid_(scores, rows[part], times[part], value=LOWEST)


def head_as_read(states: Tensor, weight: Tensor) -> Tensor:
    """Return a head, (vocab, hidden), as a product with (n, hidden) states reads it.

    On a GPU that is in bfloat16 where the states are.
    """
    is_mixed = states.dtype == torch.bfloat16 and weight.is_cuda
    return weight.to(states.dtype) if is_mixed else weight


def product(states: Tensor, weight: Tensor, products: Products = "torch") -> Tensor:
    """Return states W^T, in float32 at least: (n, hidden), (vocab, hidden) -> (n, vocab).

    On a GPU products of bfloat16 are added up, and given, in float32. oneDNN's have no gradient.
    """
    if products == "onednn" and (scores := backend().product(states, weight)) is not None:
        return scores
    if weight.dtype == torch.bfloat16 and states.dtype == torch.bfloat16 and weight.is_cuda:
        return torch.mm(states, weight.t(), out_dtype=torch.float32)
    scores = F.linear(states.to(weight.dtype), weight)
    return scores if scores.dtype == torch.float64 else scores.float()


def token_figures(states: Tensor, weight: Tensor, asked: Request) -> tuple[Tensor, ...]:
    """Return the KL if there is a reference, log-probs, and the entropy if it is asked for.

    Each is (n,), nats, of states (n, hidden) and a head (vocab, hidden). Gradients reach both, but
    none from a token that its mask forbids, which has log-probability `LOWEST` and which nobody has
    sampled.
    """
    kl, log_probs, entropy = _TokenFigures.apply(states, weight, asked)
    computed = ([kl] if asked.reference else []) + [log_probs]
    return tuple(computed + ([entropy] if asked.with_entropy else []))


def could_be_sampled(log_probs: Tensor) -> Tensor:
    """Say which tokens could be sampled, by their log-probabilities, (n,)."""
    return log_probs > 0.5 * LOWEST


class _TokenFigures(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, asked: Request) -> tuple[Tensor, ...]:
        inputs, reference = (states, head_as_read(states, weight)), asked.reference
        if reference:
            reference = reference[0], head_as_read(*reference)
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        kl, log_probs, entropy, normaliser, ref_normaliser = torch.zeros(
            5, len(states), dtype=dtype, device=states.device
        )
        for part in asked.chunks():
            places = asked.tokens[part].unsqueeze(-1)
            scores = asked.scores(*inputs, part)
            log_p = scores.log_softmax(-1)
            log_probs[part] = log_p.gather(-1, places).squeeze(-1)
            normaliser[part] = scores.gather(-1, places).squeeze(-1) - log_probs[part]
            if asked.with_entropy or reference:
                p = torch.exp(log_p, out=scores)
            if asked.with_entropy:
                entropy[part] = -_dot(p, log_p)
            if reference:
                ref_scores = asked.scores(*reference, part)
                log_q = ref_scores.log_softmax(-1)
                first = ref_scores.gather(-1, places) - log_q.gather(-1, places)
                ref_normaliser[part] = first.squeeze(-1)
                kl[part] = _dot(p, log_p.sub_(log_q))
        ctx.asked = asked
        ctx.save_for_backward(states, weight, log_probs, kl, entropy, normaliser, ref_normaliser)
        return kl, log_probs, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        states, weight, log_probs, kl, entropy, normaliser, ref_normaliser = ctx.saved_tensors
        asked: Request = ctx.asked
        b, g, h = (x.where(could_be_sampled(log_probs), 0.0) for x in gradients)
        a, c = b - h, -g - h * entropy - b * kl
        c = c - a * normaliser + b * ref_normaliser  # z = log p + lse(z)
        # The slope is then of the logits themselves, and no log-softmax of a chunk is made again.
        needs_states, needs_weight, _ = ctx.needs_input_grad
        read, reference = head_as_read(states, weight), asked.reference
        if reference:
            reference = reference[0], head_as_read(*reference)
        grad_states = torch.empty_like(states) if needs_states else None
        grad_weight = torch.zeros_like(weight, dtype=kl.dtype) if needs_weight else None
        for part in asked.chunks():
            a_part, b_part, c_part = (x[part].unsqueeze(-1) for x in (a, b, c))
            # Computed once more: kept from the forward pass, they would be the largest of tensors.
            scores = asked.scores(states, read, part)  # (chunk, num_actions)
            p = scores.softmax(-1)
            slope = torch.addcmul(c_part, scores, a_part, out=scores)
            if reference:
                ref_scores = asked.scores(*reference, part)
                slope.addcmul_(ref_scores, b_part, value=-1.0)
            slope.mul_(p)
            slope.scatter_add_(-1, asked.tokens[part].unsqueeze(-1), g[part].unsqueeze(-1))
            if asked.temperature != 1.0:
                slope.div_(asked.temperature)
            slope = slope.to(read.dtype)
            words = read[: asked.num_actions]
            by_onednn = None
            if asked.products == "onednn":
                by_onednn = backend().product(slope, words.t())
            if grad_states is not None:
                grad_states[part] = slope @ words if by_onednn is None else by_onednn
            if grad_weight is not None:
                whole = grad_weight[: asked.num_actions]
                inputs = states[part].to(read.dtype)  # (chunk, hidden)
                if by_onednn is not None:
                    whole += backend().transposed_product(slope, inputs)
                elif whole.dtype == read.dtype:
                    whole.addmm_(slope.t(), inputs)
                else:
                    whole += product(slope.t(), inputs.t())
        return grad_states, None if grad_weight is None else grad_weight.to(weight.dtype), None


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """Return row by row products, (n, vocab) twice -> (n,), without writing their terms."""
    return torch.bmm(left.unsqueeze(1), right.unsqueeze(2)).flatten()
