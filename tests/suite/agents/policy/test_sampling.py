from typing import Any

import numpy as np
import pytest
import torch

from tests.support.tapes import Tape
from tokengym.agents import losses
from tokengym.agents.policy.sampling import (
    as_action_mask,
    chosen_log_probs,
    draw,
    inverse_cdf,
    likeliest,
    packed,
    shape_logits,
    unpacked,
)
from tokengym.envs import ActionError


def test_inverse_cdf_cuts_the_unit_interval_at_the_cumulated_probabilities():
    probs = torch.tensor([[0.25, 0.5, 0.25]]).expand(5, 3)
    uniforms = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75])
    assert inverse_cdf(probs, uniforms).tolist() == [0, 0, 1, 1, 2]


def test_a_large_vocabulary_is_cut_at_the_same_places():
    """Against the running sum in double precision, but for draws within rounding of a cut."""
    generator = torch.Generator().manual_seed(0)
    for vocabulary in (5_000, 5_120, 50_257):
        probs = (torch.randn(400, vocabulary, generator=generator) * 4.0).softmax(-1)
        uniforms = torch.rand(400, generator=generator)
        uniforms[:3] = torch.tensor([0.0, 0.5, 1.0 - 2.0**-24])
        cumulated = probs.double().cumsum(-1)
        cumulated /= cumulated[:, -1:]
        near = (cumulated - uniforms.unsqueeze(-1)).abs().amin(-1) < 1e-6
        expected = torch.searchsorted(cumulated, uniforms.double().unsqueeze(-1), right=True)
        found = inverse_cdf(probs, uniforms)
        assert (~near).sum() > 300
        assert found[~near].tolist() == expected.squeeze(-1)[~near].tolist()
        assert len(set((found // 256).tolist())) > 10
    one = torch.zeros(3, 50_257)
    one[:, 50_256] = 1.0  # all in the last, shorter block
    assert inverse_cdf(one, torch.tensor([0.0, 0.5, 1.0])).tolist() == [50_256] * 3


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1.0 - 2.0**-24])
def test_a_token_of_probability_zero_is_never_drawn(uniform):
    generator = torch.Generator().manual_seed(0)
    for vocabulary in (2, 3, 600, 5_000):
        logits = torch.randn(200, vocabulary, generator=generator) * 20.0
        allowed = torch.rand(200, vocabulary, generator=generator) < 0.5
        allowed[:, 0] |= ~allowed.any(-1)
        shaped = shape_logits(logits, temperature=0.1, action_mask=allowed)
        tokens, log_probs, entropy = draw(shaped, torch.full((200,), uniform))
        assert allowed.gather(-1, tokens.unsqueeze(-1)).all()
        torch.testing.assert_close(log_probs, chosen_log_probs(shaped, tokens))
        # Logits of up to 800 leave this much of float32.
        torch.testing.assert_close(entropy, losses.entropy(shaped), atol=2e-4, rtol=1e-4)


def test_rounding_to_the_very_end_still_gives_a_possible_token():
    probs = torch.tensor([[0.25, 0.75, 0.0, 0.0]])
    assert inverse_cdf(probs, torch.tensor([1.0])).tolist() == [1]


def test_draws_follow_the_distribution():
    logits = torch.tensor([[2.0, 0.0, -1.0, 1.0]])
    n = 20_000
    uniforms = torch.rand(n, generator=torch.Generator().manual_seed(0))
    tokens, *_ = draw(logits.expand(n, 4), uniforms)
    counts = torch.bincount(tokens, minlength=4) / n
    torch.testing.assert_close(counts, logits.softmax(-1)[0], atol=0.01, rtol=0.0)


def test_temperature_divides_and_the_mask_forbids():
    shaped = shape_logits(
        torch.tensor([[2.0, 4.0, 6.0]]),
        temperature=2.0,
        action_mask=torch.tensor([[True, False, True]]),
    )
    assert shaped.tolist() == [[1.0, -float("inf"), 3.0]]


def test_masked_logits_have_finite_gradients():
    logits = torch.randn(2, 4, requires_grad=True)
    allowed = torch.tensor([[True, True, False, True], [False, False, True, False]])
    shaped = shape_logits(logits, temperature=0.7, action_mask=allowed)
    chosen_log_probs(shaped, torch.tensor([1, 2])).sum().backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[~allowed].abs().sum() == 0.0


def test_action_masks_that_allow_all_are_none_and_that_allow_nothing_are_an_error():
    assert as_action_mask(np.ones((3, 4), dtype=np.int8), "cpu") is None
    masks = np.ones((3, 4), dtype=np.int8)
    masks[1] = 0
    with pytest.raises(ActionError, match="row 1 allows none"):
        as_action_mask(masks, "cpu")


def test_a_broadcast_mask_is_looked_at_once():
    one = np.array([1, 0, 1], dtype=np.int8)
    for masks in (np.broadcast_to(one, (5, 3)), np.eye(5, 3, dtype=np.int8) | one):
        allowed = as_action_mask(masks, "cpu", np.array([0, 4]))
        assert len(allowed) == (1 if masks.strides[0] == 0 else 2)
        assert allowed[-1].tolist() == [True, False, True]


# --- top-k and top-p ----------------------------------------------------------------------------


@pytest.mark.parametrize(("top_k", "top_p"), [(1, 1.0), (3, 1.0), (0, 0.6), (0, 0.05), (4, 0.7)])
def test_top_k_and_top_p_leave_what_transformers_leaves(top_k, top_p):
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    logits = 3.0 * torch.randn(50, 9, generator=torch.Generator().manual_seed(0))
    logits[:, 4] = -torch.inf  # forbidden by an action mask
    expected: Any = logits
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1.0:
        expected = TopPLogitsWarper(top_p)(None, expected)
    keep = likeliest(logits, top_k=top_k, top_p=top_p)
    assert keep.tolist() == expected.isfinite().tolist()
    assert not keep.all()


def test_the_nucleus_by_hand_and_what_leaves_all():
    logits = torch.tensor([[0.5, 0.1, 0.3, 0.1]]).log()
    for top_p, kept in ((0.4, [1, 0, 0, 0]), (0.6, [1, 0, 1, 0]), (0.85, [1, 1, 1, 0])):
        keep = likeliest(logits, top_p=top_p)
        assert keep.int().tolist() == [kept]
    assert likeliest(logits) is None
    assert likeliest(logits, top_k=4) is None
    forbidden = torch.tensor([[1.0, -torch.inf, 0.0, -torch.inf]])
    for settings in ({"top_k": 3}, {"top_k": 3, "top_p": 0.99}):
        keep = likeliest(forbidden, **settings)
        assert keep.int().tolist() == [[1, 0, 1, 0]]
    everything = likeliest(torch.zeros(1, 3), top_k=1)  # ties stay together
    assert everything.all()


def test_what_is_not_finite_leaves_no_token_and_a_captured_step_may_choose():
    logits = torch.randn(2, 5)
    for top_k in (0, 2):
        assert not likeliest(torch.full((2, 5), torch.nan), top_k=top_k, top_p=0.9).any()
        Tape(lambda top_k=top_k: likeliest(logits, top_k=top_k, top_p=0.9))  # type: ignore[misc]


@pytest.mark.parametrize("vocab", [1, 8, 13, 600])
def test_masks_are_packed_eight_tokens_a_byte(vocab):
    masks = torch.rand(7, vocab, generator=torch.Generator().manual_seed(0)) < 0.5
    bits = packed(masks)
    assert bits.numel() == 7 * -(-vocab // 8)
    assert np.packbits(masks.numpy(), axis=1, bitorder="little").tolist() == bits.tolist()
    assert unpacked(bits, vocab).tolist() == masks.tolist()
    assert unpacked(bits, vocab, where=False).tolist() == (~masks).tolist()


def test_ties_on_the_edge_of_the_nucleus_go_to_the_lower_ids():
    keep = likeliest(torch.tensor([[0.0, 1.0, 1.0, 1.0, 0.0]]), top_p=0.4)
    assert keep.tolist() == [[False, True, True, False, False]]
