"""Group baselines: numbers by hand, TRL's, and exact expected gradients by enumeration."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tokengym.agents.losses import advantages as groups

SHORT, LONG = [1.0, 0.0], [0.5, 0.75]
"""Token rewards of the two responses of the one-decision task: stop for 1, or .5 and then .75."""


def expected_gradient(advantage: Callable[[Tensor, Tensor], Tensor], p: float, n: int) -> float:
    """Return E[mean over rows of A_i1 * d log pi / d theta] over all groups, p = sigmoid(theta)."""
    total = 0.0
    for choices in itertools.product([0, 1], repeat=n):
        probability = math.prod(p if choice else 1 - p for choice in choices)
        rewards = torch.tensor([LONG if c else SHORT for c in choices], dtype=torch.float64)
        mask = torch.tensor([[True, bool(c)] for c in choices])
        first = advantage(rewards, mask)[:, 0]
        score = torch.tensor([(1 - p) if c else -p for c in choices], dtype=torch.float64)
        total += probability * float((first * score).mean())
    return total


def of_scores(function: Callable[[Tensor, int], Tensor], n: int) -> Callable[..., Tensor]:
    return lambda rewards, mask: function(rewards.sum(1), n)[:, None].expand_as(rewards)


@pytest.mark.parametrize("n", [2, 3, 8])
@pytest.mark.parametrize("p", [0.5, 0.2])
def test_leave_one_out_and_rloo_have_the_true_gradient(n, p):
    true = p * (1 - p) * (sum(LONG) - sum(SHORT))
    loo = expected_gradient(lambda r, m: groups.leave_one_out(r, m, n), p, n)
    assert loo == pytest.approx(true, abs=1e-9)
    assert expected_gradient(of_scores(groups.rloo, n), p, n) == pytest.approx(true, abs=1e-9)
    # Centring by the group's own mean shrinks the gradient by (n - 1) / n and keeps its direction.
    dr_grpo = expected_gradient(of_scores(groups.dr_grpo, n), p, n)
    assert dr_grpo == pytest.approx(true * (n - 1) / n, abs=1e-9)


@pytest.mark.parametrize(
    ("construction", "found"), [("prime", -0.141), ("centred", -0.111), ("per index", -0.109)]
)
def test_published_constructions_are_biased(construction, found):
    """The table of the suite: the true gradient is +.0625, and these have the other sign."""

    def biased(rewards: Tensor, mask: Tensor) -> Tensor:
        lengths = mask.sum(1)
        n = len(rewards)
        if construction == "prime":  # token rewards minus the mean of the other rows' means
            means = rewards.sum(1) / lengths
            shifted = rewards * n / (n - 1) - means.sum() / (n - 1)
        elif construction == "centred":  # all step rewards of the group by one mean
            shifted = rewards - rewards[mask].mean()
        else:  # the mean per index of the response, itself included
            shifted = rewards - (rewards * mask).sum(0) / mask.sum(0).clamp(min=1)
        return groups.rewards_to_go(shifted, mask)

    assert expected_gradient(biased, 0.5, 8) == pytest.approx(found, abs=6e-4)


def test_advantages_of_rows_that_end_alone_are_their_rewards_to_go():
    rewards = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 3.0]])
    mask = torch.tensor([[True, False, False], [True, True, True]])
    assert groups.leave_one_out(rewards, mask, 2).tolist() == [[-4.0, 0.0, 0.0], [4.0, 5.0, 3.0]]


def test_reward_to_go_discounts_and_ignores_what_is_under_the_mask():
    rewards = torch.tensor([[1.0, 2.0, float("nan")]])
    mask = torch.tensor([[True, True, False]])
    assert groups.rewards_to_go(rewards, mask, gamma=0.5).tolist() == [[2.0, 2.0, 0.0]]


def test_numbers_by_hand():
    scores = torch.tensor([0.0, 1.0, 5.0, 2.0, 2.0, 2.0])
    assert groups.rloo(scores, 3).tolist() == [-3.0, -1.5, 4.5, 0.0, 0.0, 0.0]
    assert groups.dr_grpo(scores, 3).tolist() == [-2.0, -1.0, 3.0, 0.0, 0.0, 0.0]
    scaled = groups.grpo(scores, 3, epsilon=0.0)[:3]
    torch.testing.assert_close(scaled, torch.tensor([-2.0, -1.0, 3.0]) / math.sqrt(7.0))
    assert groups.varied_groups(scores, 3).tolist() == [True] * 3 + [False] * 3


def test_a_floor_bounds_what_nearly_equal_scores_are_divided_by():
    """Deviations of 0.02 / sqrt(2) and 2 / sqrt(2), of which the first is below the floor."""
    scores = torch.tensor([0.0, 0.02, 0.0, 2.0])
    found = groups.grpo(scores, 2, epsilon=0.0, std_floor=0.5)
    half = math.sqrt(0.5)
    assert found.tolist() == pytest.approx([-0.02, 0.02, -half, half], abs=1e-6)
    unbounded = groups.grpo(scores, 2, epsilon=0.0)
    assert unbounded.tolist() == pytest.approx([-half, half] * 2, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_read_as_trl_reads_them(seed):
    """TRL 1.16 in its own words (grpo_trainer, rloo_trainer): view by group, nanmean, nanstd."""
    pytest.importorskip("trl", reason="TRL is not installed; it needs Python 3.11")
    from trl.trainer.utils import nanstd

    scores = torch.randn(24, generator=torch.Generator().manual_seed(seed))
    grouped = scores.view(-1, 6)
    mean = torch.nanmean(grouped, dim=1).repeat_interleave(6)
    std = nanstd(grouped, dim=1).repeat_interleave(6)
    torch.testing.assert_close(
        groups.grpo(scores, 6), (scores - mean) / (std + 1e-4), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(groups.dr_grpo(scores, 6), scores - mean, atol=1e-6, rtol=0)
    baselines = ((torch.nansum(grouped, 1, keepdim=True) - grouped) / 5).flatten()
    torch.testing.assert_close(groups.rloo(scores, 6), scores - baselines, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("rows", "size", "message"),
    [(8, 1, r"group_size.*got 1"), (10, 4, "got 4 for 10")],
)
def test_groups_that_cannot_be(rows, size, message):
    for function in (groups.rloo, groups.grpo, groups.dr_grpo):
        with pytest.raises(ValueError, match=message):
            function(torch.zeros(rows), size)
    with pytest.raises(ValueError, match=message):
        groups.leave_one_out(torch.zeros(rows, 2), torch.ones(rows, 2, dtype=torch.bool), size)


def state_ids(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return, at each written token, a number of all tokens before its turn."""
    numbers: dict[tuple[int, ...], int] = {}
    states = torch.full(ids.shape, -1)
    for row, written in enumerate(mask.tolist()):
        for place in (i for i, own in enumerate(written) if own):
            start = place
            while start and written[start - 1]:
                start -= 1
            before = tuple(ids[row, :start].tolist())
            states[row, place] = numbers.setdefault(before, len(numbers))
    return states


def conversations() -> list[tuple[list[int], list[int], list[tuple[str, int]]]]:
    """Return all episodes of two turns: ids, written, and (state, choice) of each written token.

    The first turn has one token if that is 2, else two; the reply to it is longer in one case.
    """
    found = []
    for first in (1, 2):
        for second in (1, 2) if first == 1 else (0,):
            turn = [first, second] if second else [first]
            reply = [3] if second == 1 else [4, 4]
            for last in (1, 2):
                states = [*["", str(first)][: len(turn)], f"{turn} {reply}"]
                chosen = [*zip(states, [*turn, last], strict=True)]
                written = [1] * len(turn) + [0] * len(reply) + [1]
                found.append(([*turn, *reply, last], written, chosen))
    return found


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("rewards_of_turns", [True, False])
@pytest.mark.parametrize("are_told", [True, False])  # the tokens, or the masks alone
def test_baselines_of_turns_have_the_true_gradient(n, rewards_of_turns, are_told):
    """By enumeration of all groups, whatever is shared, where turns earn something or the end."""
    torch.manual_seed(0)
    played = conversations()
    states = sorted({state for _, _, chosen in played for state, _ in chosen})
    theta = torch.randn(len(states), 2, dtype=torch.float64, requires_grad=True)
    rewards = torch.zeros(len(played), 5, dtype=torch.float64)
    ids, mask = torch.zeros(len(played), 5, dtype=torch.int64), torch.zeros(len(played), 5).bool()
    log_probs = torch.zeros(len(played), 5, dtype=torch.float64)
    for row, (tokens, written, chosen) in enumerate(played):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = torch.tensor(written) > 0
        for place, (state, choice) in zip(mask[row].nonzero()[:, 0], chosen, strict=True):
            log_probs[row, place] = theta[states.index(state)].log_softmax(0)[choice - 1]
        rewards[row, len(tokens) - 1] = torch.randn(())
        rewards[row, 0] = tokens[0] * 1.5 if rewards_of_turns else 0.0
    of_row = log_probs.sum(1).exp()
    (true,) = torch.autograd.grad((of_row * rewards.sum(1)).sum(), theta, retain_graph=True)
    surrogate = torch.zeros((), dtype=torch.float64)
    for group in itertools.product(range(len(played)), repeat=n):
        rows = torch.tensor(group)
        told = state_ids(ids, mask)[rows] if are_told else None
        advantages = groups.leave_one_out(rewards[rows], mask[rows], n, state_ids=told)
        probability = of_row[rows].prod().detach()
        surrogate = surrogate + probability * (advantages * log_probs[rows]).sum() / n
    (found,) = torch.autograd.grad(surrogate, theta)
    torch.testing.assert_close(found, true)


def test_a_turn_is_held_against_those_that_began_after_the_same_tokens():
    """Rows 0 and 1 share their first turn and its reply, row 2 nothing, row 3 the first turn."""
    ids = torch.tensor([[5, 9, 5, 6], [5, 9, 6, 0], [6, 9, 5, 0], [5, 0, 0, 0]])
    mask = torch.tensor([[1, 0, 1, 1], [1, 0, 1, 0], [1, 0, 1, 0], [1, 0, 0, 0]]) > 0
    rewards = torch.tensor(
        [[1.0, 9.0, 2.0, 4.0], [0.0, 9.0, 3.0, 0.0], [6.0, 9.0, 1.0, 0.0], [2.0, 0.0, 0.0, 0.0]]
    )
    found = groups.leave_one_out(rewards, mask, 4, state_ids=state_ids(ids, mask))
    whole = [7.0, 3.0, 7.0, 2.0]
    expected = [
        [7 - (3 + 7 + 2) / 3, 0, 6 - 3, 4 - (3 + 7 + 2) / 3],
        [3 - (7 + 7 + 2) / 3, 0, 3 - 6, 0],
        [7 - (7 + 3 + 2) / 3, 0, 1 - (7 + 3 + 2) / 3, 0],
        [2 - (7 + 3 + 7) / 3, 0, 0, 0],
    ]
    assert sum(whole) == float((rewards * mask).sum())
    torch.testing.assert_close(found, torch.tensor(expected))


def test_first_turns_have_the_baseline_of_one_response():
    torch.manual_seed(0)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]]) > 0
    rewards, ids = torch.randn(4, 4), torch.randint(1, 9, (4, 4))
    found = groups.leave_one_out(rewards, mask, 2, state_ids=state_ids(ids, mask))
    torch.testing.assert_close(found, groups.leave_one_out(rewards, mask, 2))
