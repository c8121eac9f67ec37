# mypy: no-check-untyped-defs
"""The laboratory's rules under the suite's tests of every rule, and by themselves."""

from types import SimpleNamespace

import numpy as np
import pytest

from tests.suite.agents.ppo import test_lambda
from tests.suite.agents.rollouts import test_settling
from tests.suite.rewards import (
    test_explained,
    test_hub_classifiers,
    test_readings,
    test_retokenizer,
    test_reward,
)
from tests.support.agents import common as agents
from tests.support.rewards import retokenizer
from tests.support.rewards.common import LengthScorer, make_episode, random_episodes
from tests.support.rewards.composition import Counting
from tests.support.rewards.explained import explained, model
from tests.support.rewards.readings import EPISODES
from tests.support.rewards.retokenizer import PAIRS
from tests.support.rewards.reward import folder
from tests.support.words import PROMPTS, make_word_tokenizer
from tokengym.credit import TokenCredit
from tokengym.envs import TokenGenerationEnv, TokenGenerationVectorEnv, bundled
from tokengym.lab.rules.attribution import gradient, leave_one_out
from tokengym.lab.rules.mc import mc
from tokengym.lab.rules.scar import scar
from tokengym.rewards import (
    Cached,
    CreditReward,
    FunctionScorer,
    LengthPenalty,
    Normalize,
    Reward,
    RewardChoice,
    RewardModel,
    Rule,
    Scores,
    VectorRewardWrapper,
    check_reward,
    make_reward,
)
from tokengym.rewards.credits.inputs import Inputs
from tokengym.rewards.errors import CreditError, RewardError, ScorerError

__all__ = ["explained", "folder", "model"]


@pytest.mark.parametrize(
    ("name", "scorer"),
    [
        ("gradient", "RewardModel(reward_model)"),
        ("leave-one-out", "Relevance(encoder)"),
        ("scar", "Relevance(encoder)"),
    ],
)
def test_options_that_do_without_a_reward_model(folder, name, scorer):
    parts = ("encoder",) if scorer.startswith("Relevance") else ("encoder", "reward_model")
    test_reward.test_the_bundle_gives_the_scorer_that_the_reward_needs(folder, name, parts, scorer)


@pytest.mark.parametrize("wrap", [lambda scorer: scorer, Normalize])
def test_wrapped_environments_keep_the_contract(make_envs, explained, wrap):
    test_explained.test_wrapped_environments_keep_the_contract(
        make_envs, explained, Rule(scar), wrap
    )


@pytest.mark.parametrize(("spec", "kind"), [("gradient", "reward_model"), ("leave-one-out", "any")])
def test_what_a_reward_is_scored_by(spec, kind):
    test_explained.test_what_a_reward_is_scored_by(spec, kind)


def test_a_classifier_of_conversations_keeps_the_contract():
    test_hub_classifiers.test_the_contract_of_rewards("qwen3", "chat", Rule(gradient))


@pytest.mark.parametrize(
    ("credit", "expected"),
    [
        (Rule(gradient), [[4, -2, 4], [-2]]),
        (Rule(gradient, beta=0.5), [[2, -1, 5], [-2]]),
        (Rule(gradient, rescale=False), [[2, -1, 5], [-2]]),
    ],
)
def test_hand_worked_credit(credit, expected):
    test_readings.test_hand_worked_credit(credit, expected)


@pytest.mark.parametrize(
    "name",
    [
        "gradient",
        "integrated-gradients",
        "deeplift",
        "leave-one-out",
        "gradient:rescale=false",
    ],
)
@pytest.mark.parametrize("normalize", [None, "running"])
def test_by_name_and_normalised(classifier, tokenizer, name, normalize):
    test_readings.test_by_name_and_normalised(classifier, tokenizer, name, normalize)


@pytest.mark.parametrize("credit", [Rule(gradient), Rule(leave_one_out)])
@pytest.mark.parametrize("pair", PAIRS)
def test_the_sum_is_kept_for_any_text(credit, pair):
    test_retokenizer.test_the_sum_is_kept_for_any_text(credit, pair)


def test_shapley_values_of_a_text_that_the_model_reads_otherwise(tokenizer):
    own = retokenizer.character_tokenizer()
    scorer = RewardModel(retokenizer.model_of(own), tokenizer=own)
    env = TokenGenerationEnv(tokenizer=tokenizer, prompts=PROMPTS, max_new_tokens=6)
    check_reward(CreditReward(env, scorer, "scar:segments=3"))


def test_shapley_values_follow_the_centred_score():
    words = make_word_tokenizer()

    def build(reward):
        envs = TokenGenerationVectorEnv(
            num_envs=4, tokenizer=words, prompts=agents.PROMPTS, max_new_tokens=6
        )
        return VectorRewardWrapper(envs, reward)

    test_settling.test_every_credit_follows_the_centred_score(
        lambda *, reward: build(reward), words, Rule(scar)
    )


@pytest.mark.parametrize(
    ("rule", "expected"), [("mc:k=1", 0.0), ("mc:k=1,segments=2", 0.95), ("mc:k=1,beta=0.5", 0.95)]
)
def test_the_lambda_of_rules_by_name(rule, expected):
    test_lambda.test_the_rules_by_name(rule, expected)


def test_what_other_trainers_cannot_give_a_rule():
    bundle = bundled("movie_review")
    with pytest.raises(RewardError, match="continues responses with the policy"):
        TokenCredit(lambda p, r: 1.0, "mc", tokenizer=bundle.tokenizer)
    with pytest.raises(CreditError, match="'abc-d:reference=PATH'"):
        TokenCredit(bundle.reward_model, "abc-d", tokenizer=bundle.tokenizer)


def test_bad_arguments_of_attributions(tokenizer):
    for word, said in (
        ("attribution:method=saliency", "unknown reward 'attribution'; write 'gradient', 'integra"),
        ("scar:spans=3", "'scar' has no option 'spans'; write segments=; it has permutations"),
        ("prm:model=x,steps=line", "'prm' has no option 'steps'; write cut=line, cut=sentence or"),
        ("red:prefixes=each", "'red' has no option 'prefixes'; write the rule without it, since a"),
    ):
        with pytest.raises(RewardError, match=said):
            make_reward(word, scorer=LengthScorer())
    reward = Reward(LengthScorer(), Rule(leave_one_out))
    with pytest.raises(ScorerError, match=r"'LengthScorer'.*bind\(tokenizer"):
        reward.evaluate(EPISODES)
    assert len(reward.bind(tokenizer).evaluate(EPISODES)) == 2


def test_texts_with_parts_left_out(classifier, tokenizer):
    model = RewardModel(classifier)
    total, episodes = model * 2 + LengthPenalty(0.5, unit="tokens") + 1, random_episodes(4)
    assert not total.reads_text
    paid = Reward(total, Rule(scar, segments=3)).evaluate(episodes)
    plain = Reward(model, Rule(scar, segments=3)).evaluate(episodes)
    for one, two in zip(paid, plain, strict=True):
        expected = 2 * two.token_rewards - 0.5
        expected[-1] += 1
        np.testing.assert_allclose(one.token_rewards, expected, atol=1e-5)
    product = model * FunctionScorer(lambda prompt, response: 2.0)
    np.testing.assert_allclose(
        product.score_prefix(episodes), 2 * model.score_prefix(episodes), atol=1e-6
    )
    assert product.reads_text


def test_shapley_values_share_their_coalitions():
    inner = Counting()
    inner.reads_text = False
    reward = Reward(Cached(inner), Rule(scar, segments=3))
    reward.evaluate([make_episode()])
    before = sum(inner.batches)
    reward.evaluate([make_episode()])
    assert sum(inner.batches) == before == 8


def test_leave_one_out_by_hand(tokenizer):
    # The score of a text is the square of the sum of its ids.
    class Squares(LengthScorer):
        def score(self, episodes, *, attribution=None):
            return Scores(values=[float(sum(e.response_ids)) ** 2 for e in episodes])

    reward = Reward(Squares(), Rule(leave_one_out, rescale=False)).bind(tokenizer)
    (paid,) = reward.evaluate([make_episode(response_ids=[5, 6, 1])])
    # 144 without each: 7^2, 6^2, 11^2; what is left, 144 - 226, goes to the last
    assert paid.token_rewards.tolist() == [95.0, 108.0, 23.0 - 82.0]
    reward = Reward(Squares(), Rule(leave_one_out)).bind(tokenizer)
    (paid,) = reward.evaluate([make_episode(response_ids=[5, 6, 1])])
    np.testing.assert_allclose(paid.token_rewards, np.array([95, 108, 23]) * 144 / 226, rtol=1e-6)


def test_leave_one_out_of_a_model(classifier):
    episode = make_episode(prompt_ids=[3, 4], response_ids=[5, 6, 7])
    scorer = RewardModel(classifier)
    (paid,) = Reward(scorer, Rule(leave_one_out, rescale=False)).evaluate([episode])
    value = scorer.score([episode]).values[0]
    without = scorer.score([make_episode([3, 4], ids) for ids in ([6, 7], [5, 7], [5, 6])]).values
    np.testing.assert_allclose(paid.token_rewards[:2], value - without[:2], atol=1e-5)
    (one,) = Reward(scorer, Rule(leave_one_out, rescale=False)).evaluate(
        [make_episode([3, 4], [5])]
    )
    assert one.token_rewards[0] == pytest.approx(one.score)


def test_more_continuations_than_any_memory_holds_are_refused(monkeypatch):
    for word in ("mc:k=1025", "mc:k=1000000000", "scar:permutations=1000000000"):
        with pytest.raises(CreditError, match=word.partition("=")[2]):
            RewardChoice.of(word)
    rule = Rule(mc, k=1024)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2**20))
    with pytest.raises(RewardError, match=r"continuations must be at most 1,024.*got 100,352"):
        rule(Inputs([make_episode(response_ids=(5,) * 99)], scorer=LengthScorer()))
