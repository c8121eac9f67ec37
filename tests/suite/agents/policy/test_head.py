"""A head whose logits are not kept gives what autograd gives, with less traffic."""

import pytest
import torch

from tests.support.agents.head import asked, assert_as_autograd, parts
from tokengym.agents.policy.head import product, token_figures


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
