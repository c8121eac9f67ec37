"""Forks over turns: the environment against every conversation, values against brute force."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from tokengym.agents.losses import leave_one_out
from tokengym.agents.ppo.advantages import find_advantage
from tokengym.envs import SettingsError
from tokengym.lab.gradients.exact import (
    Responses,
    check_gradient,
    response_probs,
    true_gradient,
    turn_index_mean,
)
from tokengym.lab.gradients.turns import TURN_INDEX, Talks, train, turn_gradient
from tokengym.lab.partners.turn_forks import EOS, LEFT, RIGHT, UM, TurnForks, turn_forks_env
from tokengym.lab.rules.turn_progress import turn_progress
from tokengym.lab.rules.turn_score import turn_score
from tokengym.rewards import CreditReward, Reward
from tokengym.rewards.credits.sparse import sparse
from tokengym.rewards.scorers.partner import PartnerScore

TWO = TurnForks(turns=2)


def some_policy(talks: Talks, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return talks.probs(torch.randn(talks.legal.shape, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize(
    "partner", [TWO, TurnForks(turns=3, scores="state"), TurnForks(turns=4, leaves=True)]
)
def test_every_conversation_is_the_environment_s(partner: TurnForks):
    talks = Talks.make(partner)
    env: Any = CreditReward(turn_forks_env(partner=partner), PartnerScore(), turn_score)
    rewards, _ = talks.rewarded(Reward(PartnerScore(), turn_score))
    rng = np.random.default_rng(0)
    for row in rng.choice(len(talks.responses), 40):
        episode, mask = talks.episodes[row], talks.responses.mask[row]
        _, info = env.reset(seed=0)
        for place in mask.nonzero()[:, 0].tolist():
            state = int(talks.responses.states[row, place])
            np.testing.assert_array_equal(info["action_mask"] > 0, talks.legal[state])
            token = int(talks.responses.tokens[row, place])
            _, _, over, _, info = env.step(token)
        assert over
        assert info["response_ids"] == tuple(episode.response_ids)
        assert info["turns"] == episode.turns
        assert episode.written is not None
        assert info["written"].tolist() == episode.written.tolist()
        paid = rewards[row, : len(episode.response_ids)]
        np.testing.assert_allclose(info["token_rewards"], paid, atol=1e-6)


def test_the_environment_keeps_its_contract():
    env: Any = turn_forks_env()
    check_env(env, skip_render_check=True)
    envs: Any = turn_forks_env(3)
    assert envs.num_envs == 3
    with pytest.raises(SettingsError, match="turns must be"):
        TurnForks(turns=0)


def test_the_score_by_hand():
    """ "left um", then "right": warm, no bonus. "right", then "left": cold, and a bonus."""
    talks = Talks.make(TWO)
    scores = {talk: float(s) for talk, s in zip(talks.responses.ids, talks.scores, strict=True)}
    warm, cold = 7, 8
    assert scores[LEFT, UM, EOS, warm, RIGHT, EOS] == 1.0
    assert scores[RIGHT, EOS, cold, LEFT, EOS] == 0.25
    assert scores[LEFT, EOS, warm, LEFT, UM, EOS] == 1.25
    assert len(scores) == 16


def test_the_best_play_is_left_throughout():
    for turns in (2, 4):
        talks = Talks.make(TurnForks(turns=turns))
        values, q_values = talks.values()
        assert float(values[0]) == pytest.approx(1 + 0.25 * (turns - 1))
        assert float(q_values[0, RIGHT]) == pytest.approx(0.25 * (turns - 1))
        advantages = talks.advantages()
        for row, state in enumerate(talks.states):
            if state.place == 0:
                lost = 1.0 if state.turn == 0 else 0.25
                assert float(advantages[row, RIGHT]) == pytest.approx(-lost)


@pytest.mark.parametrize("partner", [TWO, TurnForks(turns=4), TurnForks(turns=4, leaves=True)])
def test_gradients_by_dynamic_programming_are_those_of_all_conversations(partner: TurnForks):
    talks = Talks.make(partner)
    probs = some_policy(talks)
    chances = response_probs(probs, talks.responses)
    assert float(chances.sum()) == pytest.approx(1.0)
    assert float(talks.values(probs)[0][0]) == pytest.approx(float((chances * talks.scores).sum()))
    brute = true_gradient(probs, talks.responses, talks.scores)
    torch.testing.assert_close(talks.exact_gradient(probs), brute)
    step = 1e-6
    for row, token in [(0, LEFT), (3, EOS), (len(talks.states) - 1, EOS)]:
        logits = probs.clamp(min=1e-300).log()
        worth = []
        for sign in (1, -1):
            moved = logits.clone()
            moved[row, token] += sign * step
            p = response_probs(talks.probs(moved), talks.responses)
            worth.append(float((p * talks.scores).sum()))
        assert (worth[0] - worth[1]) / (2 * step) == pytest.approx(
            float(brute[row, token]), abs=1e-8
        )


@pytest.mark.parametrize("rule", [sparse, turn_score, turn_progress])
def test_rules_that_keep_the_sum_are_unbiased_or_say_so(rule: Any):
    """A rule whose rewards to go are right in expectation has the exact gradient."""
    partner = TurnForks(turns=3, scores="state" if rule is turn_progress else "turn")
    talks = Talks.make(partner)
    probs = some_policy(talks)
    scorer = PartnerScore("last" if partner.scores == "state" else "sum")
    rewards, scores = talks.rewarded(Reward(scorer, rule))
    torch.testing.assert_close(scores, talks.scores)
    found = turn_gradient(talks, probs, rewards, scores, find_advantage("reinforce"))
    assert found.check.standard_error == 0.0
    unbiased = rule is not turn_progress
    assert (found.check.relative_error < 1e-6) is unbiased
    assert found.reach == pytest.approx(1.0, abs=1e-6 if unbiased else 0.3)


def test_groups_are_drawn():
    talks = Talks.make(TWO)
    rewards, scores = talks.rewarded(Reward(PartnerScore(), turn_score))
    found = turn_gradient(
        talks, some_policy(talks), rewards, scores, find_advantage("loo"), groups=20_000
    )
    assert 0 < found.check.standard_error < 0.02
    assert found.check.relative_error < 4 * found.check.standard_error


def stop_or_go() -> tuple[Any, Responses, Any]:
    """Return a first turn that stops for 1 or goes on for .5, and a second turn that earns .75."""
    mask = torch.tensor([[True, False, False], [True, False, True]])
    responses = Responses(
        ids=((0,), (1, 2, 1)),
        states=torch.tensor([[0, 0, 0], [0, 0, 1]]),
        tokens=torch.tensor([[0, 0, 0], [1, 0, 1]]),
        mask=mask,
    )
    probs = torch.tensor([[0.25, 0.75], [0.0, 1.0]], dtype=torch.float64)
    return probs, responses, torch.tensor([[1.0, 0, 0], [0.5, 0, 0.75]], dtype=torch.float64)


@pytest.mark.parametrize("size", [2, 5, 8])
def test_centring_turn_by_turn_has_the_bias_of_its_closed_form(size: int):
    """The second turn's mean is its reward, .75: going on is charged all of what it earns.

    In groups of N the first turn's own reward is in its mean, which takes 1 / N off.
    """
    probs, responses, rewards = stop_or_go()
    scores = rewards.sum(1)

    def turn_index(r: Any, m: Any, s: Any) -> Any:
        begins = m.clone()
        begins[:, 1:] &= ~m[:, :-1]
        return turn_index_mean(r, m, begins.cumsum(1) - 1, size)

    def unbiased(r: Any, m: Any, s: Any) -> Any:
        return leave_one_out(r, m, size)

    q = 0.75
    found = check_gradient(probs, responses, rewards, scores, turn_index, group_size=size)
    assert float(found.true[0, 1]) == pytest.approx(q * (1 - q) * (0.5 + 0.75 - 1.0))
    closed = q * (1 - q) * (0.5 - 1.0) * (size - 1) / size
    assert float(found.expected[0, 1]) == pytest.approx(closed)
    assert found.cosine < 0  # the true gradient goes on, this one stops
    right = check_gradient(probs, responses, rewards, scores, unbiased, group_size=size)
    torch.testing.assert_close(right.expected, right.true)


def test_the_bias_in_large_groups_is_what_further_turns_earn():
    """d q (1 - q) E[r_3 | there is a third turn] is missing where the second turn goes on."""
    talks = Talks.make(TurnForks(turns=3, leaves=True))
    probs = some_policy(talks)
    rewards, scores = talks.rewarded(Reward(PartnerScore(), turn_score))
    found = turn_gradient(
        talks, probs, rewards, scores, TURN_INDEX, group_size=100, groups=1000, seed=1
    )
    third = [len(episode.turns) > 4 for episode in talks.episodes]
    chances = response_probs(probs, talks.responses)[third]
    last = torch.tensor(
        [e.turns[4].score for e in talks.episodes if len(e.turns) > 4], dtype=torch.float64
    )
    mean = float((chances * last).sum() / chances.sum())
    visits = talks.visits(probs)
    for row, state in enumerate(talks.states):
        if (state.turn, state.place) == (1, 0):
            q = float(probs[row, LEFT])
            missing = float(visits[row]) * q * (1 - q) * mean
            true = float(found.check.true[row, LEFT])
            assert float(found.check.expected[row, LEFT]) == pytest.approx(true - missing, abs=0.01)
            assert missing > 0.03


@pytest.mark.parametrize("estimator", ["loo", "gae", "gigpo"])
def test_a_table_learns_the_best_play(estimator: str):
    talks = Talks.make(TWO)
    rewards, scores = talks.rewarded(Reward(PartnerScore(), turn_score))
    settings: dict[str, Any] = {"rate": 0.1, "updates": 60, "rows": 32}
    one, two = (
        list(train(talks, rewards, scores, find_advantage(estimator), **settings)) for _ in range(2)
    )
    assert one == two
    assert one[0]["score"] == pytest.approx(0.625)
    assert one[-1]["score"] > 1.15
    assert one[-1]["decisive"] > 0.95
    exact = list(train(talks, None, scores, find_advantage(estimator), **settings))
    assert exact[-1]["score"] > 1.2


def test_drawn_conversations_and_the_kl_are_those_of_the_policy():
    talks = Talks.make(TurnForks(turns=2, leaves=True))
    probs, start = some_policy(talks), talks.uniform()
    chances = response_probs(probs, talks.responses)
    drawn = talks.draw(probs, 20_000, torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn, minlength=len(chances)) / len(drawn)
    torch.testing.assert_close(counts.double(), chances, atol=0.015, rtol=0)
    brute = (chances * (chances / response_probs(start, talks.responses)).log()).sum()
    assert talks.kl(probs, start) == pytest.approx(float(brute))
