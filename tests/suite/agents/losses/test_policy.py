import math

import pytest
import torch
from torch import Tensor

from tokengym.agents import losses
from tokengym.agents.losses.policy import whitening


def tensor(*rows: list[float]) -> Tensor:
    return torch.tensor(rows)


def mask(*rows: str) -> Tensor:
    return torch.tensor([[c == "1" for c in row] for row in rows])


# --- masked means -------------------------------------------------------------------------------


def test_masked_mean_divides_by_the_unmasked_tokens():
    x = tensor([1.0, 2.0, float("nan")], [6.0, float("inf"), -1e9])
    assert losses.masked_mean(x, mask("110", "100")).item() == 3.0


def test_masked_mean_of_parts_adds_up_to_the_whole():
    x, keep = torch.arange(12.0).view(4, 3), mask("111", "100", "110", "111")
    whole = losses.masked_mean(x, keep)
    count = int(keep.sum())
    parts = [losses.masked_mean(x[i : i + 1], keep[i : i + 1], count=count) for i in range(4)]
    torch.testing.assert_close(sum(parts), whole)


def test_masked_mean_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"\(1, 2\) keeps nothing"):
        losses.masked_mean(tensor([1.0, 2.0]), mask("00"))


def test_whitening_has_mean_zero_variance_one_and_ignores_padding():
    # 1, 3 and 5: mean 3, variance 8/3
    out = losses.masked_whiten(tensor([1.0, 3.0, 99.0], [5.0, 7.0, 8.0]), mask("110", "100"))
    step = 2.0 / math.sqrt(8.0 / 3.0)
    torch.testing.assert_close(out, tensor([-step, 0.0, 0.0], [step, 0.0, 0.0]))


@pytest.mark.parametrize("size", [1e20, 1e30, 3e38])
def test_whitening_survives_squares_beyond_float32(size):
    x, keep = tensor([1.0, 0.25, 9.0], [0.5, 0.0, 0.0]), mask("110", "111")
    large = losses.masked_whiten(size * x, keep)
    torch.testing.assert_close(large, losses.masked_whiten(x, keep, epsilon=0.0))
    std = losses.masked_std(x, keep, epsilon=0.0)
    torch.testing.assert_close(losses.masked_std(size * x, keep) / size, std)
    assert large.dtype == x.dtype


@pytest.mark.parametrize("x", [tensor([1.0, 3.0, 9.0]), tensor([5.0, 5.0, 9.0])], ids=str)
def test_whitening_that_waits_for_nothing_is_the_same(x):
    found, keep = whitening(x, mask("110")), mask("110")
    assert torch.equal(found.whitened, losses.masked_whiten(x, keep))
    assert torch.equal(found.std, losses.masked_std(x, keep))
    assert found.is_finite
    assert not whitening(1e25 * tensor([1.0, 3.0]), mask("11")).is_finite


# --- gae ----------------------------------------------------------------------------------------


def test_gae_by_hand():
    # gamma .5, lambda .5: delta = (1 + .5*2 - 1, 0 + .5*4 - 2, 8 - 4) = (1, 0, 4)
    # A_2 = 4, A_1 = 0 + .25*4 = 1, A_0 = 1 + .25*1 = 1.25
    advantages, returns = losses.gae(
        tensor([1.0, 0.0, 8.0]), tensor([1.0, 2.0, 4.0]), mask("111"), gamma=0.5, gae_lambda=0.5
    )
    torch.testing.assert_close(advantages, tensor([1.25, 1.0, 4.0]))
    torch.testing.assert_close(returns, tensor([2.25, 3.0, 8.0]))


def brute_force_gae(rewards, values, length, gamma, lam, final_value):
    """A_t = sum_k (gamma lambda)^k delta_{t+k}, one row at a time."""
    v = [*values[:length], final_value]
    deltas = [rewards[t] + gamma * v[t + 1] - v[t] for t in range(length)]
    return [
        sum((gamma * lam) ** k * deltas[t + k] for k in range(length - t)) for t in range(length)
    ]


def test_gae_equals_the_sum_of_deltas_on_ragged_rows():
    generator = torch.Generator().manual_seed(1)
    rewards, values = torch.randn(2, 5, 7, generator=generator)
    final_values = torch.randn(5, generator=generator)
    lengths = [7, 1, 4, 6, 3]
    keep = torch.arange(7) < torch.tensor(lengths).unsqueeze(1)
    advantages, returns = losses.gae(
        rewards, values, keep, gamma=0.9, gae_lambda=0.8, final_values=final_values
    )
    for row, n in enumerate(lengths):
        expected = brute_force_gae(
            rewards[row].tolist(), values[row].tolist(), n, 0.9, 0.8, final_values[row].item()
        )
        torch.testing.assert_close(advantages[row, :n], torch.tensor(expected))
        torch.testing.assert_close(returns[row, :n], advantages[row, :n] + values[row, :n])
        assert advantages[row, n:].abs().sum() == 0.0
        assert returns[row, n:].abs().sum() == 0.0


def test_gae_lambda_one_is_monte_carlo_and_zero_is_td():
    rewards, values = tensor([1.0, 2.0, 3.0]), tensor([0.5, 0.25, 0.125])
    keep = mask("111")
    _, returns = losses.gae(rewards, values, keep, gamma=1.0, gae_lambda=1.0)
    torch.testing.assert_close(returns, tensor([6.0, 5.0, 3.0]))
    advantages, _ = losses.gae(rewards, values, keep, gamma=1.0, gae_lambda=0.0)
    torch.testing.assert_close(advantages, tensor([0.75, 1.875, 2.875]))


def test_gae_is_the_same_with_more_padding_whatever_lies_there():
    rewards, values = tensor([1.0, 2.0]), tensor([0.5, 0.25])
    short, _ = losses.gae(rewards, values, mask("11"), gamma=0.9, gae_lambda=0.9)
    padded, _ = losses.gae(
        tensor([1.0, 2.0, 55.0, -7.0]),
        tensor([0.5, 0.25, 9.0, float("nan")]),
        mask("1100"),
        gamma=0.9,
        gae_lambda=0.9,
    )
    torch.testing.assert_close(padded[:, :2], short)


def test_gae_refuses_bad_input_and_names_it():
    x, keep = torch.ones(1, 2), mask("11")
    with pytest.raises(ValueError, match=r"values.*\(1, 2\), got \(2,\)"):
        losses.gae(x, torch.ones(2), keep, gamma=1.0, gae_lambda=1.0)
    with pytest.raises(ValueError, match=r"gamma.*\[0, 1\], got 1.5.*1.0"):
        losses.gae(x, x, keep, gamma=1.5, gae_lambda=1.0)
    with pytest.raises(ValueError, match=r"gae_lambda.*\[0, 1\], got -0.1"):
        losses.gae(x, x, keep, gamma=1.0, gae_lambda=-0.1)
    with pytest.raises(ValueError, match=r"final_values.*\(1,\), got \(2,\)"):
        losses.gae(x, x, keep, gamma=1.0, gae_lambda=1.0, final_values=torch.ones(2))


# --- KL and entropy -----------------------------------------------------------------------------


def test_kl_estimators_by_hand():
    new, ref = tensor([-1.0, -2.0]), tensor([-1.5, -1.0])  # d = .5, -1
    estimate = losses.kl_estimate
    torch.testing.assert_close(estimate(new, ref), tensor([0.5, -1.0]))
    torch.testing.assert_close(estimate(new, ref, estimator="k2"), tensor([0.125, 0.5]))
    expected = tensor([math.exp(-0.5) - 0.5, math.e - 2.0])
    torch.testing.assert_close(estimate(new, ref, estimator="k3"), expected)
    with pytest.raises(ValueError, match=r"estimator.*got 'k4'"):
        estimate(new, ref, estimator="k4")


def test_k1_and_k3_average_to_the_full_kl():
    generator = torch.Generator().manual_seed(0)
    logits, ref_logits = torch.randn(2, 1, 6, generator=generator)
    log_p, log_q = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    full = losses.full_kl(logits, ref_logits)
    torch.testing.assert_close(full, (log_p.exp() * (log_p - log_q)).sum(-1))
    for estimator in ("k1", "k3"):
        each = losses.kl_estimate(log_p, log_q, estimator=estimator)
        torch.testing.assert_close((log_p.exp() * each).sum(-1), full)


def test_the_gradient_of_the_full_kl_is_that_of_its_formula():
    torch.manual_seed(5)
    logits = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    ref_logits, weights = torch.randn(4, 7, dtype=torch.float64), torch.rand(4).double()
    p, q = logits.softmax(-1), ref_logits.softmax(-1)
    (expected,) = torch.autograd.grad(((p * (p / q).log()).sum(-1) * weights).sum(), logits)
    (found,) = torch.autograd.grad((losses.full_kl(logits, ref_logits) * weights).sum(), logits)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_full_kl_and_entropy_under_an_action_mask_are_finite_with_finite_gradients():
    logits = torch.tensor([[0.3, -1.0, 2.0]], requires_grad=True)
    ref_logits = torch.tensor([[1.0, 0.0, -1.0]])
    allowed = torch.tensor([[True, False, True]])
    shaped = logits.masked_fill(~allowed, -torch.inf)
    ref_shaped = ref_logits.masked_fill(~allowed, -torch.inf)
    kl, entropy = losses.full_kl(shaped, ref_shaped), losses.entropy(shaped)
    both = logits.detach()[:, [0, 2]]
    torch.testing.assert_close(kl.detach(), losses.full_kl(both, ref_logits[:, [0, 2]]))
    torch.testing.assert_close(entropy.detach(), losses.entropy(both))
    (kl + entropy).sum().backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[0, 1] == 0.0


def test_entropy_of_uniform_is_log_n():
    torch.testing.assert_close(losses.entropy(torch.zeros(2, 8)), torch.full((2,), math.log(8)))


# --- PPO ----------------------------------------------------------------------------------------


def test_policy_loss_by_hand():
    # ratios 1.5, .5, 1.5, .5 against clip .2, advantages +, +, -, -
    ratios = tensor([1.5, 0.5, 1.5, 0.5])
    advantages = tensor([1.0, 1.0, -1.0, -1.0])
    # min(1.5, 1.2) + min(.5, .8) + min(-1.5, -1.2) + min(-.5, -.8) = 1.2 + .5 - 1.5 - .8
    loss = losses.policy_loss(
        ratios.log(), torch.zeros(1, 4), advantages, mask("1111"), clip_range=0.2
    )
    torch.testing.assert_close(loss, torch.tensor(0.6 / 4))


def test_policy_loss_at_ratio_one_has_the_policy_gradient():
    log_probs = tensor([-1.0, -2.0, -3.0]).requires_grad_()
    advantages, keep = tensor([0.5, -1.0, 9.0]), mask("110")
    loss = losses.policy_loss(log_probs, log_probs.detach(), advantages, keep, clip_range=0.2)
    loss.backward()
    torch.testing.assert_close(log_probs.grad, tensor([-0.25, 0.5, 0.0]))


def test_no_nan_gradient_from_what_lies_under_the_mask():
    log_probs = tensor([-1.0, 500.0]).requires_grad_()
    loss = losses.policy_loss(
        log_probs, tensor([-1.0, -500.0]), tensor([1.0, 0.0]), mask("10"), clip_range=0.2
    )
    loss.backward()
    assert log_probs.grad.tolist() == [[-1.0, 0.0]]


@pytest.mark.parametrize("clip_range_vf", [None, 0.5])
@pytest.mark.parametrize("under", [math.nan, math.inf, 1e30])
def test_the_value_loss_reads_nothing_under_the_mask(clip_range_vf, under):
    for place in range(3):
        row = [tensor([1.0, under if place == n else 0.0]) for n in range(3)]
        values, old, returns = row[0].requires_grad_(), row[1], 2.0 * row[2]
        loss = losses.value_loss(values, old, returns, mask("10"), clip_range_vf=clip_range_vf)
        loss.backward()
        assert (loss.item(), values.grad.tolist()) == (0.5, [[-1.0, 0.0]])


def test_value_loss_by_hand_clipped_and_not():
    values, old, returns = tensor([2.0, 1.1]), tensor([1.0, 1.0]), tensor([3.0, 0.0])
    keep = mask("11")
    # plain: (1, 1.21); clipped V = (1.5, 1.1): (2.25, 1.21); the larger of each
    clipped = losses.value_loss(values, old, returns, keep, clip_range_vf=0.5)
    torch.testing.assert_close(clipped, torch.tensor(0.5 * (2.25 + 1.21) / 2))
    plain = losses.value_loss(values, old, returns, keep, clip_range_vf=None)
    torch.testing.assert_close(plain, torch.tensor(0.5 * (1.0 + 1.21) / 2))


def test_losses_are_the_same_with_more_padding():
    generator = torch.Generator().manual_seed(0)
    new, old, advantage = torch.randn(3, 2, 4, generator=generator)
    keep = mask("1111", "1100")

    def both(pad: int) -> tuple[Tensor, Tensor]:
        a, b, c = (torch.nn.functional.pad(x, (0, pad), value=3.0) for x in (new, old, advantage))
        m = torch.nn.functional.pad(keep, (0, pad))
        return (
            losses.policy_loss(a, b, c, m, clip_range=0.2),
            losses.value_loss(a, b, c, m, clip_range_vf=0.2),
        )

    torch.testing.assert_close(both(5), both(0))


def test_adaptive_kl_coefficient_moves_by_the_clipped_error():
    def move(kl: float, steps: int = 1) -> float:
        return losses.adaptive_kl_coef(1.0, kl, target=5.0, horizon=10.0, n_steps=steps)

    assert move(5.0) == 1.0
    assert move(5.5) == pytest.approx(1.01)
    assert move(50.0) == pytest.approx(1.02)
    assert move(0.0) == pytest.approx(0.98)
    assert move(0.0, steps=80) == pytest.approx(0.8)  # of eight horizons


def test_loss_means_by_hand():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    zeros, advantages = torch.zeros(2, 3), torch.tensor([[1.0, 2.0, 9.0], [4.0, 9.0, 9.0]])
    for mean, expected in (("sequence", (1.5 + 4.0) / 2), ("constant", 7.0 / (2 * 3))):
        weights = losses.loss_weights(mask, mean, rows=2, horizon=3)
        loss = losses.policy_loss(zeros, zeros, advantages, mask, clip_range=0.2, weights=weights)
        assert loss.item() == pytest.approx(-expected)
