"""Values that are equal, and types that are narrow: what is taken against others is exact."""

import numpy as np
import pytest
import torch

from tests.support.rounds import round_of
from tokengym.agents import losses
from tokengym.agents.ppo import PPOSettings, find_advantage
from tokengym.bridges.advantages import token_advantages

SIZES = [1e-30, 1e-3, 0.1, 996.256591796875, 10007.3, 1e6, 1e20]
MASK = torch.arange(7) < torch.tensor([7, 3, 5, 5, 1, 7, 2, 6])[:, None]  # (8, 7)


def at_ends(scores):
    """Return the sparse token rewards of scores, (8, 7)."""
    rewards = torch.zeros(MASK.shape, dtype=scores.dtype)
    rewards[torch.arange(8), MASK.sum(1) - 1] = scores
    return rewards


def advantages_of(name, scores):
    """Return the advantages of a registered estimator for a round of sparse rewards."""
    played = round_of(at_ends(scores), MASK, PPOSettings(group_size=8), scores=scores)
    estimator = find_advantage(name)
    advantages = estimator.estimate(played)[0]
    return losses.masked_whiten(advantages, MASK) if estimator.whitens else advantages


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("ulps", [0, 1])
@pytest.mark.parametrize("name", ["grpo", "dr-grpo", "rloo", "reinforce++"])
def test_equal_scores_have_no_advantage_at_any_magnitude(name, size, sign, ulps):
    scores = torch.full((8,), sign * size)
    if ulps:  # as a scorer gives them that reads the same text in two batches
        scores[2] = torch.nextafter(scores[2], torch.tensor(torch.inf))
    assert torch.equal(advantages_of(name, scores), torch.zeros(8, 7))


@pytest.mark.parametrize("size", SIZES)
def test_equal_rewards_to_go_have_no_advantage_while_another_row_is_alive(size):
    advantages = losses.leave_one_out(at_ends(torch.full((8,), size)), MASK, 8)
    assert torch.equal(advantages, torch.zeros(8, 7))  # rows 0 and 5 end together


@pytest.mark.parametrize("size", [996.256591796875, 1e6])
def test_equal_prompts_have_no_advantage_where_rewards_are_advantages(size):
    rewards = torch.zeros(8, 7)
    rewards[:, 0] = size  # the value of the prompt, that every first segment contains
    played = round_of(rewards, MASK, segment_ends=torch.arange(7).expand(8, 7))
    advantages = find_advantage("vineppo").estimate(played)[0]
    assert torch.equal(losses.masked_whiten(advantages, MASK), torch.zeros(8, 7))


@pytest.mark.parametrize("whole", [True, False])
def test_equal_rewards_to_go_in_conversations_have_no_advantage(whole):
    # Three rows of two turns: the first tokens differ, so that second turns have no peers and are
    # held against whole returns; or they are the same, and second turns have each other.
    later = [1, 2, 3] if whole else [1, 1, 1]
    states = torch.tensor([[0, 0, state, 0] for state in later])
    mask = torch.tensor([[True, False, True, False]] * 3)
    rewards = torch.zeros(3, 4)
    rewards[:, 2] = 996.256591796875
    advantages = losses.leave_one_out(rewards, mask, 3, state_ids=states)
    assert torch.equal(advantages, torch.zeros(3, 4))


def test_differences_beyond_rounding_keep_their_advantages():
    scores = torch.tensor([996.0, 996.5] * 4)
    # Their mean is 996.25, their deviation sqrt(8 / 7) / 4 = 0.26726
    torch.testing.assert_close(losses.dr_grpo(scores, 8), torch.tensor([-0.25, 0.25] * 4))
    expected = 0.25 / (0.2672612 + 1e-4)
    torch.testing.assert_close(losses.grpo(scores, 8), torch.tensor([-expected, expected] * 4))
    assert losses.varied_groups(scores, 2).all()


def test_a_group_apart_by_rounding_is_not_varied():
    scores = torch.full((4,), 996.256591796875)
    scores[1] = torch.nextafter(scores[1], torch.tensor(0.0))
    scores[3] += 0.01
    assert losses.varied_groups(scores, 2).tolist() == [False, False, True, True]


def test_what_whitening_divides_by_is_1_where_it_has_nothing_to_divide():
    """The price of the KL is divided by it: by 1e-4 it would be ten thousand times as high."""
    x, mask = torch.full((2, 3), 996.256591796875), torch.ones(2, 3, dtype=torch.bool)
    assert losses.masked_std(x, mask) == 1.0
    assert losses.masked_std(torch.tensor([[1.0, 3.0]]), mask[:1, :2]) == pytest.approx(1.0)
    assert losses.masked_std(torch.tensor([[1.0, 5.0]]), mask[:1, :2]) == pytest.approx(2.0)


NARROW = [torch.int64, torch.int8, torch.bool, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", ["loo", "reinforce"])
def test_token_advantages_of_any_type_are_those_of_float32(name, dtype):
    rewards = torch.tensor([[1, 1, 1], [0, 1, 0]])
    mask = torch.ones(2, 3, dtype=torch.bool)
    found = token_advantages(rewards.to(dtype), mask, ["a", "a"], name, gamma=0.5)
    # G of the rows: 1.75 1.5 1; 0.5 1 0
    to_go = torch.tensor([[1.75, 1.5, 1.0], [0.5, 1.0, 0.0]])
    expected = to_go if name == "reinforce" else to_go - to_go.flip(0)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", NARROW)
def test_scores_and_values_of_any_type_are_those_of_float32(dtype):
    scores, mask = torch.tensor([1, 0, 0, 0]).to(dtype), torch.ones(1, 4, dtype=torch.bool)
    assert losses.rloo(scores, 4).tolist() == pytest.approx([1.0, -1 / 3, -1 / 3, -1 / 3])
    assert losses.dr_grpo(scores, 4).tolist() == [0.75, -0.25, -0.25, -0.25]
    root = 1 / 3**0.5  # (1 - 1/4) / sqrt(3 / 16)
    expected = torch.tensor([[3 * root, -root, -root, -root]])
    torch.testing.assert_close(losses.masked_whiten(scores[None], mask), expected)
    advantages, returns = losses.gae(
        scores[None], torch.zeros(1, 4, dtype=dtype), mask, gamma=0.5, gae_lambda=0.5
    )
    assert advantages.tolist() == returns.tolist() == [[1.0, 0.0, 0.0, 0.0]]
    assert losses.mean_one(scores[None], mask).tolist() == [[4.0, 0.0, 0.0, 0.0]]
    assert losses.mean_one(0 * scores[None], mask).tolist() == [[1.0] * 4]  # no weight anywhere


def test_a_long_response_of_half_precision_is_summed_in_float32():
    ones, mask = torch.ones(1, 70_000, dtype=torch.float16), torch.ones(1, 70_000).bool()
    assert losses.rewards_to_go(ones, mask)[0, 0] == 70_000.0


def test_float64_keeps_what_float32_cannot_tell():
    scores = torch.tensor([1.0, 1.0 + 1e-12], dtype=torch.float64)
    assert losses.dr_grpo(scores, 2)[1] == pytest.approx(5e-13, rel=1e-3)


def sure(value):
    """Return loss and gradient of ORPO for a chosen response of one token."""
    chosen = torch.tensor([value], requires_grad=True)
    one = torch.ones(1)
    loss = losses.dpo_loss(
        chosen,
        torch.tensor([-3.0]),
        beta=0.1,
        loss_type="orpo",
        chosen_lengths=one,
        rejected_lengths=one,
    )
    loss.sum().backward()
    return loss.item(), chosen.grad.item()


@pytest.mark.parametrize("value", [0.0, -1e-9, -1e-7, 1e-8])
def test_orpo_of_a_model_that_is_sure_has_the_gradient_of_one_that_is_nearly_so(value):
    # -c - 0.1 log sigmoid(odds): as p(y_w) -> 1 its derivative goes to -1 - 0.1 odds(y_l)
    odds = np.exp(-3.0) / (1.0 - np.exp(-3.0))
    loss, gradient = sure(value)
    assert gradient == pytest.approx(-1.0 - 0.1 * odds, rel=1e-5)
    assert loss == pytest.approx(0.0, abs=3e-7)


def test_orpo_of_a_model_sure_of_the_wrong_answer_is_finite():
    rejected = torch.zeros(1, requires_grad=True)
    loss = losses.dpo_loss(torch.zeros(1), rejected, beta=0.1, loss_type="orpo")
    loss.sum().backward()
    assert loss.item() == pytest.approx(0.1 * np.log(2.0))  # both are sure
    assert rejected.grad.isfinite().all()
