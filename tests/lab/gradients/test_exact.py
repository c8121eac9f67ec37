"""Expected gradients by enumeration, against finite differences and numbers found elsewhere."""

import math

import pytest
import torch

from tokengym.agents.losses import dr_grpo, leave_one_out, rloo
from tokengym.lab.gradients import exact
from tokengym.lab.gradients.exact import centred_steps, per_index_mean, prime

EOS = 0


def tree(horizon=3, words=2, end_from=0):
    """Return the responses of a tree of words, and a policy that is drawn at random."""
    states: list[tuple[int, ...]] = [()]
    for state in states:
        if len(state) < horizon - 1:
            states += [(*state, word) for word in range(1, words + 1)]
    legal = torch.ones(len(states), words + 1, dtype=torch.bool)
    for row, state in enumerate(states):
        legal[row, EOS] = len(state) >= end_from
    responses = exact.every_response(states, legal, eos_id=EOS, horizon=horizon)
    logits = torch.randn(legal.shape, generator=torch.Generator().manual_seed(0)).double()
    return responses, logits.masked_fill(~legal, -torch.inf)


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def one_decision():
    """Return the task of the paper's table: stop for 1, or earn .5 and then .75; p = .5."""
    states: list[tuple[int, ...]] = [(), (1,)]
    legal = torch.tensor([[True, True], [False, True]])
    responses = exact.every_response(states, legal, eos_id=EOS, horizon=2)
    assert responses.ids == ((0,), (1, 1))
    rewards = torch.tensor([[1.0, 0.0], [0.5, 0.75]]).double()
    probs = torch.tensor([[0.5, 0.5], [0.0, 1.0]]).double()
    return probs, responses, rewards


@pytest.mark.parametrize(
    ("advantages", "found"),
    [
        (lambda r, m, s: leave_one_out(r, m, 8), 0.0625),
        (lambda r, m, s: prime(r, m, 8), -0.1406),
        (lambda r, m, s: centred_steps(r, m, 8), -0.1105),
        (lambda r, m, s: per_index_mean(r, m, 8), -0.1094),
    ],
)
def test_published_numbers_of_the_one_decision_task(advantages, found):
    probs, responses, rewards = one_decision()
    scores = rewards.sum(1)
    check = exact.check_gradient(probs, responses, rewards, scores, advantages, group_size=8)
    assert float(check.expected[0, 1]) == pytest.approx(found, abs=6e-5)
    assert float(check.true[0, 1]) == pytest.approx(0.0625)
    assert check.standard_error == 0.0
    assert (check.cosine > 0) == (found > 0)


@pytest.mark.parametrize("end_from", [0, 3])
def test_the_true_gradient_is_that_of_finite_differences(end_from):
    responses, logits = tree(end_from=end_from)
    scores = random(len(responses))

    def expected_score(logits):
        return (exact.response_probs(logits.softmax(-1), responses) * scores).sum()

    true = exact.true_gradient(logits.softmax(-1), responses, scores)
    assert exact.response_probs(logits.softmax(-1), responses).sum() == pytest.approx(1.0)
    for row, column in torch.isfinite(logits).nonzero().tolist():
        step = torch.zeros_like(logits)
        step[row, column] = 1e-5
        slope = (expected_score(logits + step) - expected_score(logits - step)) / 2e-5
        assert float(true[row, column]) == pytest.approx(float(slope), abs=1e-8)


@pytest.mark.parametrize("size", [2, 3])
def test_multisets_equal_all_ordered_groups(size):
    """Also with a nonlinear estimator, where groups do not reduce to means."""
    responses, logits = tree(horizon=2)
    probs, rewards = logits.softmax(-1), random(*responses.mask.shape) * responses.mask

    def nonlinear(r, m, s):
        return (centred_steps(r, m, size) ** 3).masked_fill(~m, 0.0)

    arguments = (probs, responses, rewards, rewards.sum(1), nonlinear)
    check = exact.check_gradient(*arguments, group_size=size)
    members = torch.cartesian_prod(*[torch.arange(len(responses))] * size)
    weight = exact.response_probs(probs, responses)[members].prod(1)
    rows = members.flatten()
    found = nonlinear(rewards[rows], responses.mask[rows], None)
    gradients = exact.group_gradients(probs, responses, members, found)
    expected = torch.einsum("g,gsv->sv", weight, gradients)
    torch.testing.assert_close(check.expected, expected)
    deviation = (gradients - expected).pow(2).sum((1, 2))
    assert check.covariance_trace == pytest.approx(float((weight * deviation).sum()) * size)


def test_unbiased_estimators_have_the_true_gradient_and_drawn_groups_come_near():
    responses, logits = tree()
    probs, rewards = logits.softmax(-1), random(*responses.mask.shape) * responses.mask
    scores = rewards.sum(1)
    sparse = torch.zeros_like(rewards)
    sparse[torch.arange(len(scores)), responses.mask.sum(1) - 1] = scores

    def loo(r, m, s):
        return leave_one_out(r, m, 3)

    def whole(r, m, s):
        return rloo(s, 3)[:, None].expand_as(r)

    for advantages, given in ((loo, sparse), (whole, rewards)):
        check = exact.check_gradient(probs, responses, given, scores, advantages, group_size=3)
        assert check.relative_error < 1e-9
        assert check.cosine == pytest.approx(1.0)
    shrunk = exact.check_gradient(
        probs,
        responses,
        rewards,
        scores,
        lambda r, m, s: dr_grpo(s, 3)[:, None].expand_as(r),
        group_size=3,
    )
    assert shrunk.scale == pytest.approx(2 / 3)
    drawn = exact.check_gradient(
        probs, responses, sparse, scores, lambda r, m, s: leave_one_out(r, m, 12), group_size=12
    )
    assert 0 < drawn.standard_error < 0.05
    assert drawn.relative_error < 3 * drawn.standard_error


def test_scores_of_nothing_have_no_error_to_speak_of(monkeypatch):
    monkeypatch.setattr(exact, "GROUPS", 1)  # groups are drawn
    probs, responses, rewards = one_decision()
    nothing = torch.zeros_like(rewards)
    check = exact.check_gradient(
        probs, responses, nothing, nothing.sum(1), lambda r, m, s: r, group_size=2, samples=8
    )
    assert math.isnan(check.standard_error)


def test_values_to_come_are_conditional_means():
    probs, responses, _ = one_decision()
    to_go = torch.tensor([[1.0, 0.0], [1.25, 0.75]]).double()
    values = exact.values_to_come(probs, responses, to_go)
    assert values.tolist() == [[1.125, 0.0], [1.125, 0.75]]


def test_token_rewards_of_another_shape():
    probs, responses, rewards = one_decision()
    with pytest.raises(ValueError, match=r"\(2, 2\), got \(2, 3\)"):
        exact.check_gradient(probs, responses, torch.zeros(2, 3), rewards.sum(1), lambda r, m, s: r)
