"""Estimators that read turns against numbers worked by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.support.agents.common import make_model, target_reward
from tests.support.partners import teacher
from tests.support.rounds import round_of
from tests.support.rules import rule_of
from tokengym.agents import PPO
from tokengym.agents.ppo import RoundInputs
from tokengym.agents.ppo.advantages import find_advantage
from tokengym.agents.ppo.settings import PPOSettings
from tokengym.envs import Episode, Turn
from tokengym.lab.estimators.turns import Turns
from tokengym.rewards import VectorRewardWrapper

GROUP = PPOSettings(group_size=2)
MASK = torch.tensor([[1, 1, 0, 1, 1, 0, 1, 1], [1, 1, 0, 1, 1, 0, 0, 0]], dtype=torch.bool)
RAW = torch.tensor(
    [[0.5, 0.5, 0, 0, 0, 0, 0, 4.0], [0, 2.0, 0, 0, 1.0, 0, 0, 0]], dtype=torch.float64
)
"""Token rewards of two episodes, (2, time)."""


def talk(ids: list[int], replies: list[str]) -> Episode:
    """Return turns of two tokens, a reply of one token after all but the last."""
    turns: list[Turn] = []
    for number, text in enumerate([*replies, ""]):
        start = 3 * number
        turns.append(Turn("assistant", "a", (start, start + 2)))
        if text:
            turns.append(Turn("user", text, (start + 2, start + 3)))
    size = 3 * len(replies) + 2
    return Episode(
        prompt="x", response="y", prompt_ids=[0], response_ids=ids[:size], turns=tuple(turns)
    )


def played(settings: PPOSettings = GROUP, **changes: Any) -> RoundInputs:
    """Return two episodes of one group: of three turns that earn 1, 0, 4 and of two, 2 and 1."""
    long, short = talk([3, 4, 6, 3, 3, 7, 5, 1], ["b", "c"]), talk([3, 4, 6, 5, 1], ["b"])
    return round_of(RAW, MASK, settings, **{"episodes": (long, short), **changes})


def estimated(name: str, settings: PPOSettings = GROUP, **changes: Any) -> list[list[float]]:
    """Return an estimator's advantages at the first token of each turn; others must equal it."""
    advantages, returns = find_advantage(name).estimate(played(settings, **changes))
    assert torch.equal(advantages, returns)
    assert not advantages[0, [2, 5]].any()
    assert not advantages[1, [2, 5, 6, 7]].any()
    for row, spans in enumerate([[(0, 1), (3, 4), (6, 7)], [(0, 1), (3, 4)]]):
        assert all(advantages[row, a] == advantages[row, b] for a, b in spans)
    return [advantages[0, [0, 3, 6]].tolist(), advantages[1, [0, 3]].tolist()]


def test_turns_are_the_runs_of_written_tokens():
    seen = played()
    turns = Turns.of(seen["token_rewards"], seen["turn_ids"], seen["response_mask"])
    assert turns.rewards.tolist() == [[1, 0, 4], [2, 1, 0]]
    assert turns.mask.tolist() == [[True, True, True], [True, True, False]]
    assert turns.of_token[0].tolist() == [0, 0, 1, 1, 2, 2]


def test_returns_are_normalised_over_the_turns_of_the_group():
    # G = 1 + 0.5 * 2 = 2, 2, 4 and 2 + 0.5 = 2.5, 1: mean 2.3, deviation sqrt(4.8 / 4)
    deviation = 1.2**0.5
    expected = [[-0.3 / deviation, -0.3 / deviation, 1.7 / deviation], [0.2 / deviation] * 1]
    expected[1].append(-1.3 / deviation)
    found = estimated("turn-returns", PPOSettings(group_size=2, gamma=0.5))
    for row, hand in zip(found, expected, strict=True):
        assert row == pytest.approx(hand, abs=1e-5)


def test_gamma_0_takes_each_turn_s_own_reward():
    """With the score at every turn, as published, this is the episode's score broadcast."""
    scores = torch.tensor([6.0, 2.0], dtype=torch.float64)
    rewards = torch.zeros(2, 8, dtype=torch.float64)
    rewards[0, [1, 4, 7]], rewards[1, [1, 4]] = 6.0, 2.0
    found = estimated(
        "turn-returns", PPOSettings(group_size=2, gamma=0.0), token_rewards=rewards, scores=scores
    )
    assert len({round(value, 9) for value in found[0]}) == 1
    assert len({round(value, 9) for value in found[1]}) == 1
    # mean 22 / 5, deviation sqrt((3 * 1.6^2 + 2 * 2.4^2) / 4)
    assert found[0][0] == pytest.approx(1.6 / 4.8**0.5, abs=1e-5)


def test_gigpo_adds_the_advantage_among_turns_of_one_state():
    # R = 5, 3: +-1. Undiscounted G = 5, 4, 4 and 3, 1. Both first turns begin in one state (mean
    # 4), both second ones after the reply "b" (mean 2.5); the third begins in a state of its own.
    assert estimated("gigpo") == [[1 + 1, 1 + 1.5, 1], [-1 - 1, -1 - 1.5]]
    # The token before the reply differs nowhere, so that the prefix is the same state too.
    assert estimated("gigpo-prefix") == [[2, 2.5, 1], [-2, -2.5]]
    other = (talk([3, 3, 6, 3, 3, 7, 5, 1], ["b", "c"]), played().episodes[1])
    assert estimated("gigpo-prefix", episodes=other) == [[2, 1, 1], [-2, -1]]
    assert estimated("gigpo", episodes=other) == [[2, 2.5, 1], [-2, -2.5]]


def test_gigpo_knows_a_state_twice_in_one_episode_and_keeps_groups_apart():
    again = (talk([3, 4, 6, 3, 3, 6, 5, 1], ["b", "b"]), played().episodes[1])
    # After "b" stand G = 4, 4 and 1: mean 3.
    assert estimated("gigpo", episodes=again) == [[2, 2, 2], [-2, -3]]
    first = played()
    factors = torch.tensor([1.0, 1, 3, 3])
    doubled = round_of(
        RAW.repeat(2, 1) * factors[:, None],
        MASK.repeat(2, 1),
        GROUP,
        episodes=[*first.episodes] * 2,
    )
    advantages, _ = find_advantage("gigpo").estimate(doubled)
    torch.testing.assert_close(advantages[2:], 3 * advantages[:2])


def test_states_of_a_round_without_episodes_are_refused():
    with pytest.raises(ValueError, match="'episodes' is read off the round"):
        estimated("gigpo", episodes=())


def test_a_turn_s_own_reward_stands_beside_the_episode_s_advantage():
    of_episode = 1 / (2**0.5 + 1e-4)  # +-1 over the deviation of 5 and 3
    expected = [[of_episode + r for r in (1, 0, 4)], [r - of_episode for r in (2, 1)]]
    for row, hand in zip(estimated("turn-auxiliary"), expected, strict=True):
        assert row == pytest.approx(hand)


@pytest.mark.parametrize("name", ["gigpo", "gigpo-prefix", "turn-returns", "turn-auxiliary"])
def test_one_update(make_envs: Callable[..., Any], name: str):
    talks = make_envs(
        partner=teacher, max_turns=4, max_turn_tokens=3, max_new_tokens=22, num_envs=8
    )
    agent = PPO(
        "CausalLMPolicy",
        VectorRewardWrapper(talks, target_reward(rule_of("turn-broadcast"))),
        advantage=name,
        group_size=4,
        gamma=0.9 if "gamma" in find_advantage(name).reads else 1.0,
        policy_kwargs={"model": make_model()},
        device="cpu",
        seed=0,
    )
    agent.learn(1)
    assert agent.last_round is not None
    experience = agent.assign(agent.last_round)
    assert experience.advantages.any()
    assert not experience.advantages[~experience.response_mask].any()
