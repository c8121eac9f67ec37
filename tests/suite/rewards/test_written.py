"""Credit in conversations: only what the policy wrote is paid, and all of the score."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest

from tests.support.partners import teacher
from tokengym.envs import Episode, Reply, Turn
from tokengym.rewards import (
    Credit,
    CreditReward,
    FunctionScorer,
    RewardError,
    ScorerError,
    Scores,
    check_reward,
)
from tokengym.rewards.credits import Uniform
from tokengym.rewards.reward import Reward
from tokengym.rewards.scorers import find_scorer
from tokengym.rewards.written import moved

TALK = {"partner": teacher, "max_turns": 3, "max_turn_tokens": 3, "max_new_tokens": 14}
RULES = ["sparse", "uniform", "random", "recency"]


def talk(**changes: Any) -> Episode:
    """Return turns of 2 and 1 tokens with a reply of 2 between them."""
    turns = [
        Turn("assistant", "a", (0, 2), 0.25),
        Turn("user", "d e", (2, 4)),
        Turn("assistant", "", (4, 5), 0.5),
    ]
    given: dict[str, Any] = {
        "prompt": "c",
        "response": "a d e",
        "prompt_ids": [5],
        "response_ids": [3, 1, 6, 7, 1],
        "turns": turns,
        "written": [1, 1, 0, 0, 1],
        "finish_reason": "eos",
    }
    return Episode(**given | changes)


class Given(Credit):
    """Pays the attributions that it is given."""

    name = "given"
    needs_attributions = True
    seen: Episode | None = None

    def spread(self, score: float, episode: Episode, attribution: Any) -> Any:
        self.seen = episode
        return attribution


class Attributed(FunctionScorer):
    """Attributes 1, 2, 4, 8 and 16 to the five tokens."""

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        return Scores([31.0] * len(episodes), attributions=[[1, 2, 4, 8, 16]] * len(episodes))


def test_uniform_pays_the_written_tokens_alone():
    reward = Reward(FunctionScorer(lambda prompt, response: 6.0), Uniform())
    plain = talk(turns=(), written=None)
    paid, all_paid = reward.evaluate([talk(), plain])
    assert paid.token_rewards is not None
    assert paid.token_rewards.tolist() == [2.0, 2.0, 0.0, 0.0, 2.0]
    assert all_paid.token_rewards is not None
    assert all_paid.token_rewards.tolist() == pytest.approx([1.2] * 5)


def test_what_a_reply_is_given_belongs_to_the_step_that_appended_it():
    rule = Given()
    (paid,) = Reward(Attributed(lambda prompt, response: 0.0), rule).evaluate([talk()])
    assert paid.token_rewards is not None
    assert paid.token_rewards.tolist() == [1.0, 14.0, 0.0, 0.0, 16.0]
    assert rule.seen is not None
    assert rule.seen.response_ids == (3, 1, 1)


def test_rules_that_read_turns_see_them():
    class Reads(Given):
        reads_turns = True

    rule = Reads()
    (paid,) = Reward(Attributed(lambda prompt, response: 0.0), rule).evaluate([talk()])
    assert paid.token_rewards is not None
    assert paid.token_rewards.tolist() == [1.0, 14.0, 0.0, 0.0, 16.0]
    assert rule.seen is not None
    assert rule.seen.turns == talk().turns


def test_values_are_moved_to_the_turn_before():
    written = np.array([1, 0, 1, 1, 0, 0], np.int8)
    assert moved(np.arange(6.0), written).tolist() == [1.0, 0.0, 2.0, 12.0, 0.0, 0.0]


@pytest.mark.parametrize("rule", RULES)
def test_rewards_in_conversations_keep_the_contract(make_env: Callable[..., Any], rule: str):
    check_reward(CreditReward(make_env(**TALK), lambda prompt, text: len(text), rule), episodes=6)


@pytest.mark.parametrize("rule", RULES)
def test_batch_and_single_are_paid_the_same(
    make_env: Callable[..., Any], make_envs: Callable[..., Any], rule: str
):
    def scored(prompt: str, response: str) -> float:
        return float(len(response))

    settings = {**TALK, "prompt_sampling": "sequential"}
    envs = CreditReward(make_envs(**settings), scored, rule)
    rows = [
        lambda row=row: CreditReward(make_env(prompt_shard=(row, 3), **settings), scored, rule)
        for row in range(3)
    ]
    copies = gymnasium.vector.SyncVectorEnv(rows, autoreset_mode="NextStep")
    envs.reset(seed=4), copies.reset(seed=4)
    rng = np.random.default_rng(0)
    for _ in range(30):
        actions = rng.choice([1, 3, 4, 5], 3)
        native, sync = envs.step(actions), copies.step(actions)
        np.testing.assert_array_equal(native[1], sync[1])
        if "token_rewards" in native[4]:
            np.testing.assert_array_equal(native[4]["token_rewards"], sync[4]["token_rewards"])


@pytest.mark.parametrize(("of", "score"), [("sum", 0.75), ("last", 0.5)])
def test_the_partners_scores(of: str, score: float):
    scorer = find_scorer(f"partner:of={of}")
    assert scorer is not None
    assert scorer.score([talk()]).values.tolist() == [score]


def test_a_partner_that_never_scored():
    scorer = find_scorer("partner")
    assert scorer is not None
    silent = talk(turns=[Turn("assistant", "a", (0, 5))])
    with pytest.raises(ScorerError, match="found no score in the 1 turns of episode 0"):
        scorer.score([silent])
    failed = talk(turns=[Turn("assistant", "a", (0, 5))], finish_reason="error")
    assert scorer.score([failed]).values.tolist() == [0.0]


def test_a_causal_rule_is_refused(make_env: Callable[..., Any]):
    class Causal(Given):
        name = "causal"
        causal = True

    with pytest.raises(RewardError, match="take 'causal:delivery=end'"):
        CreditReward(make_env(**TALK), lambda prompt, response: 0.0, Causal())


def test_registered_tasks_take_a_partner():
    """A bundled reward model reads the whole conversation; abc pays the policy's tokens."""
    env = gymnasium.make(
        "tokengym/MovieReview-v0",
        reward="abc",
        partner=lambda conversation, metadata, rng: Reply("and why ?", score=1.0),
        max_turns=3,
        max_turn_tokens=5,
        max_new_tokens=40,
    )
    _, info = env.reset(seed=0)
    rng = np.random.default_rng(0)
    over = False
    while not over:
        _, reward, *flags, info = env.step(rng.choice(np.flatnonzero(info["action_mask"])))
        over = any(flags)
    assert len(info["turns"]) == 6
    assert not info["token_rewards"][info["written"] == 0].any()
    assert np.count_nonzero(info["token_rewards"][info["written"] == 1]) > 5
    assert float(info["token_rewards"].sum()) == pytest.approx(info["score"], rel=1e-5)
    assert reward == info["score"]
