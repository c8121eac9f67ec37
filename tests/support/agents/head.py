"""A head of known weights, and its log-probabilities and gradients by autograd."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tokengym.agents import losses
from tokengym.agents.policy.head import Request
from tokengym.agents.policy.sampling import chosen_log_probs
from tokengym.agents.policy.sequences import ActionMasks

NUM, HIDDEN, VOCAB, ACTIONS = 13, 6, 20, 17


def parts(dtype: torch.dtype) -> dict[str, Tensor]:
    """States, heads (with rows that are padding), tokens, and masks that allow them."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"states": NUM, "ref_states": NUM, "weight": VOCAB, "ref_weight": VOCAB}
    found = {
        name: torch.randn(rows, HIDDEN, generator=generator).to(dtype)
        for name, rows in shapes.items()
    }
    found["forbidden"] = torch.rand(NUM, ACTIONS, generator=generator) < 0.4
    found["tokens"] = found["forbidden"].int().argmin(1)
    found["signs"] = torch.randn(3, NUM, generator=generator)
    return found


def asked(given: dict[str, Tensor], *, with_kl: bool, with_entropy: bool) -> Request:
    rows = torch.arange(NUM, device=given["tokens"].device)
    masks = ActionMasks(table=~given["forbidden"], index=rows[:, None])
    return Request(
        tokens=given["tokens"],
        temperature=0.7,
        num_actions=ACTIONS,
        size=5,
        masks=(masks, rows, torch.zeros_like(rows)),
        with_entropy=with_entropy,
        reference=(given["ref_states"], given["ref_weight"]) if with_kl else None,
    )


def by_autograd(given: dict[str, Tensor], *, with_kl: bool, with_entropy: bool) -> list[Tensor]:
    def scores(states: Tensor, weight: Tensor) -> Tensor:
        shaped = (states.to(weight.dtype) @ weight.t())[:, :ACTIONS]
        shaped = (shaped if shaped.dtype == torch.float64 else shaped.float()) / 0.7
        return shaped.masked_fill(given["forbidden"], -torch.inf)

    logits = scores(given["states"], given["weight"])
    found = []
    if with_kl:
        found.append(losses.full_kl(logits, scores(given["ref_states"], given["ref_weight"])))
    found.append(chosen_log_probs(logits, given["tokens"]))
    return [*found, losses.entropy(logits)] if with_entropy else found


def assert_as_autograd(
    compute: Callable[..., tuple[Tensor, ...]],
    given: dict[str, Tensor],
    figures: Request,
    near: float,
    **settings: bool,
) -> None:
    """Compare figures and gradients, `near` absolutely and relatively."""
    states, weight = leaves = [given[name].requires_grad_() for name in ("states", "weight")]
    results = []
    for found in (by_autograd(given, **settings), compute(states, weight, figures)):
        loss: Any = sum((s * f).sum() for s, f in zip(given["signs"], found, strict=False))
        results.append([*found, *torch.autograd.grad(loss, leaves)])
    for one, other in zip(*results, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(other, one, atol=near, rtol=near)
