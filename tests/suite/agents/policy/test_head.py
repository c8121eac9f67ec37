"""A head whose logits are not kept gives what autograd gives, with less traffic."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tokengym.agents import losses
from tokengym.agents.policy.head import Request, product, token_figures
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


@pytest.mark.parametrize("with_entropy", [False, True])
@pytest.mark.parametrize("with_kl", [False, True])
@pytest.mark.parametrize("kind", ["float64", "float32", "bfloat16", "mixed"])
def test_figures_and_gradients_are_those_of_autograd(kind, with_kl, with_entropy):
    dtype = torch.bfloat16 if kind == "mixed" else getattr(torch, kind)
    near = {"float64": 1e-12, "float32": 2e-5}.get(kind, 2e-2)
    given = parts(dtype)
    if kind == "mixed":
        given |= {name: given[name].float() for name in ("weight", "ref_weight")}
    settings = {"with_kl": with_kl, "with_entropy": with_entropy}
    assert_as_autograd(token_figures, given, asked(given, **settings), near, **settings)


def test_a_product_on_the_cpu_is_the_heads_own():
    given = parts(torch.bfloat16)
    expected = (given["states"] @ given["weight"].t()).float()
    assert product(given["states"], given["weight"]).tolist() == expected.tolist()
