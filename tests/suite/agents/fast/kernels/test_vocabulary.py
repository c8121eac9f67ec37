"""Kernels of the vocabulary give what their plain forms give; on a CPU Triton interprets them."""

import dataclasses
from typing import Any

import pytest
import torch

from tests.support.agents.chunks import TEXTS, masks_of
from tests.support.agents.common import lora_config, make_model
from tests.support.agents.head import asked, assert_as_autograd, parts
from tests.support.agents.policy import shake
from tests.support.agents.static import played, policy_of
from tests.support.tapes import record_tapes
from tokengym.agents.policy.head import LOWEST, token_figures
from tokengym.agents.policy.sampling import draw, packed
from tokengym.agents.policy.sequences import Sequences

pytest.importorskip("triton", reason="Triton is not installed; it comes with torch for CUDA")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

from tokengym.agents.fast.kernels import vocabulary  # noqa: E402


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("with_entropy", [False, True])
@pytest.mark.parametrize("with_kl", [False, True])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "mixed"])
def test_figures_and_gradients_are_those_of_autograd(
    kind, with_kl, with_entropy, with_mask, monkeypatch
):
    monkeypatch.setattr(vocabulary, "ALIGNED", 8)
    monkeypatch.setattr(vocabulary, "MAX_LOGITS", 13 * 8)  # three parts, the last a short one
    dtype = torch.bfloat16 if kind == "mixed" else getattr(torch, kind)
    near = 1e-5 if kind == "float32" else 5e-2  # a sum of three rounded products
    given = {name: value.to(DEVICE) for name, value in parts(dtype).items()}
    if kind == "mixed":
        given |= {name: given[name].float() for name in ("weight", "ref_weight")}
    if not with_mask:
        given["forbidden"] = torch.zeros_like(given["forbidden"])
    settings = {"with_kl": with_kl, "with_entropy": with_entropy}
    figures = asked(given, **settings)
    if not with_mask:
        figures = dataclasses.replace(figures, masks=None)
    assert_as_autograd(vocabulary.token_figures, given, figures, near, **settings)


def test_a_token_that_was_forbidden_has_the_figures_of_the_plain_form_and_no_gradient():
    given = {name: value.to(DEVICE) for name, value in parts(torch.float32).items()}
    given["tokens"] = given["forbidden"].int().argmax(1)
    allowed = ~given["forbidden"][torch.arange(len(given["tokens"])), given["tokens"]]
    figures = asked(given, with_kl=True, with_entropy=True)
    leaves = given["states"].requires_grad_(), given["weight"].requires_grad_()
    results = []
    for compute in (token_figures, vocabulary.token_figures):
        found = compute(*leaves, figures)
        assert ((found[1] == LOWEST) == ~allowed).all()
        total: Any = sum(one.sum() for one in found)
        results.append([*found, *torch.autograd.grad(total, leaves)])
        assert (results[-1][3].abs().sum(1) > 0).tolist() == allowed.tolist()
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("vocab", [40, 5_000, 20_000])
def test_tokens_are_those_of_the_plain_draw(vocab):
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(33, vocab + 7, generator=generator)).to(DEVICE)[:, :vocab]
    logits[:, 5] = -torch.inf
    logits[0, 1:] = -torch.inf
    logits[1] = 0.0
    uniforms = torch.rand(33, generator=generator).to(DEVICE)
    uniforms[2], uniforms[3] = 0.0, 1 - 2**-24
    for given in (uniforms, None):
        for one, other in zip(draw(logits, given), vocabulary.draw(logits, given), strict=True):
            torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)
    tokens = vocabulary.draw(logits[3:4].expand(5, -1), torch.full((5,), 1.0, device=DEVICE))[0]
    assert (logits[3, tokens] > -torch.inf).all()  # rounding may pass the end


def test_a_row_is_drawn_alike_in_every_batch():
    """Several programs add up a row's words, as many for one row as for many."""
    logits = (0.7 * torch.arange(6 * 20_000, device=DEVICE)).sin().view(6, -1) * 3
    uniforms = torch.linspace(0.05, 0.95, 6, device=DEVICE)
    together = vocabulary.draw(logits, uniforms)
    for row in range(6):
        alone = vocabulary.draw(logits[row : row + 1], uniforms[row : row + 1])
        assert all(torch.equal(x, y[row : row + 1]) for x, y in zip(alone, together, strict=True))


def test_what_is_no_number_under_a_mask_is_not_read():
    scores = torch.zeros(1, 16, device=DEVICE)
    scores[0, 3], scores[0, 5] = torch.nan, torch.inf
    allowed = scores.isfinite()
    numbers = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    sums = torch.zeros(1, 7, device=DEVICE)
    sums[:, 0] = sums[:, 4] = LOWEST
    vocabulary.read_words(sums, scores, scores, numbers, packed(allowed), numbers, 0, 1.0)
    assert sums[0].tolist() == [0.0, 14.0, 0.0, 0.0, 0.0, 14.0, 0.0]
    slope, per_token = torch.empty_like(scores), torch.ones(1, 7, device=DEVICE)
    vocabulary.write_slope(
        slope, per_token, scores, scores, numbers, packed(allowed), numbers, 0, 1.0
    )
    assert slope.isfinite().all()
    assert slope[0, 3] == slope[0, 5] == 0.0


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_logit_that_is_no_number_is_seen(value):
    logits = torch.zeros(2, 9, device=DEVICE)
    logits[1, 3] = value
    for given in (torch.full((2,), 0.5, device=DEVICE), None):
        tokens, log_probs, _ = vocabulary.draw(logits, given)
        assert log_probs.isfinite().tolist() == [True, False]
        assert 0 <= int(tokens.min()) <= int(tokens.max()) < 9


def test_a_minibatch_by_kernels_has_the_figures_of_the_plain_form(make_ppo):
    sequences, masks = Sequences.from_ids(*TEXTS), masks_of("several")
    results = []
    for kernels in ("plain", "triton"):
        agent = make_ppo(temperature=0.7, lora=lora_config(), device=DEVICE)
        shake(agent)
        policy = agent.policy
        policy.settings = dataclasses.replace(policy.settings, kernels=kernels)
        assert policy.kernels is (kernels == "triton")
        found: Any = policy.evaluate(sequences, masks, with_entropy=True, with_kl=True)
        parameters = [p for p in policy.language_model.parameters() if p.requires_grad]
        total = (found.log_probs + found.kl + 2 * found.entropy).sum()
        results.append([*torch.autograd.grad(total, parameters)])
        results[-1] += [found.log_probs, found.kl, found.entropy]
        for reference in (False, True):
            results[-1] += [
                policy.token_stats(
                    sequences, masks, name="ref_log_probs" if reference else "log_probs"
                )
            ]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("shape", "masks", "settings"),
    [("llama", "none", {}), ("gpt2", "rows", {"top_k": 4, "temperature": 0.7})],
)
def test_a_captured_player_draws_by_the_kernel(shape, masks, settings, monkeypatch):
    if DEVICE == "cpu":
        record_tapes(monkeypatch)
    how: Any = {"masks": masks, "deterministic": False, "seed": 0}
    rounds = []
    for kernels in ("plain", "triton"):
        policy = policy_of(
            make_model(shape, scale=2.0), decoding="static", kernels=kernels, **settings
        )
        policy.to(DEVICE)
        rounds.append(list(played(policy.sampler(torch.Generator().manual_seed(0)), **how)))
    for plain, fused in zip(*rounds, strict=True):
        torch.testing.assert_close(fused, plain, atol=1e-5, rtol=1e-5)
