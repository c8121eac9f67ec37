"""A head whose logits are not kept gives what autograd gives, with less traffic."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.support.traffic import Traffic
from tokengym.agents import losses
from tokengym.agents.policy import sampling
from tokengym.agents.policy.head import Request, product, token_figures
from tokengym.agents.policy.sampling import chosen_log_probs, in_chunks
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


def test_what_does_not_learn_gets_no_gradient():
    given = parts(torch.float32)
    states = given["states"].requires_grad_()
    token_figures(states, given["weight"], asked(given, with_kl=True, with_entropy=False))[
        0
    ].sum().backward()
    assert states.grad is not None
    assert given["weight"].grad is None


def test_a_product_on_the_cpu_is_the_heads_own():
    given = parts(torch.bfloat16)
    expected = (given["states"] @ given["weight"].t()).float()
    assert product(given["states"], given["weight"]).tolist() == expected.tolist()


def test_the_vocabulary_is_passed_over_half_as_often():
    """Counted for a minibatch of Qwen2.5-0.5B with the exact KL, in passes over its logits."""
    num, hidden, vocab = 2_000, 896, 151_936
    passes = []
    for is_new in (False, True):
        with FakeTensorMode(), Traffic() as traffic:
            states, ref_states = torch.empty(2, num, hidden, dtype=torch.bfloat16).unbind()
            weight, ref_weight = torch.empty(2, vocab, hidden, dtype=torch.bfloat16).unbind()
            states.requires_grad_()
            tokens = torch.zeros(num, dtype=torch.int64)
            if is_new:
                figures = Request(
                    tokens=tokens,
                    temperature=1.0,
                    num_actions=vocab,
                    size=sampling.chunk_size(vocab),
                    reference=(ref_states, ref_weight),
                )
                kl, log_probs = token_figures(states, weight, figures)
            else:

                def plain(
                    states: Tensor,
                    ref_states: Tensor,
                    tokens: Tensor,
                    weights: tuple[Tensor, Tensor] = (weight, ref_weight),
                ) -> tuple[Tensor, ...]:
                    both = zip((states, ref_states), weights, strict=True)
                    logits, ref_logits = ((x @ w.t()).float() for x, w in both)
                    return losses.full_kl(logits, ref_logits), chosen_log_probs(logits, tokens)

                inputs = (states, ref_states, tokens)
                kl, log_probs = in_chunks(plain, *inputs, size=sampling.chunk_size(vocab))
            (kl + log_probs).sum().backward()
        passes.append(traffic.total / (4 * num * vocab))
    assert passes[1] < 0.55 * passes[0]
