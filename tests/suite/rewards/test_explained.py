# mypy: no-check-untyped-defs
"""Values by one scorer, the account of the tokens by another."""

import numpy as np
import pytest

from tests.support.rewards.common import random_episodes
from tests.support.rewards.explained import count_a
from tests.support.rewards.explained import explained as explained
from tests.support.rewards.explained import model as model
from tests.support.rules import rule_of
from tokengym.rewards import (
    FunctionScorer,
    Normalize,
    Reward,
    ScorerError,
    VectorRewardWrapper,
    check_reward,
)
from tokengym.rewards.errors import RewardError
from tokengym.rewards.registry import RewardChoice
from tokengym.rewards.scorers.wrappers import WithAttribution


@pytest.mark.parametrize("kind", ["attention", "prefix", "signed-attention"])
def test_values_are_the_scorers_and_attributions_the_explainers(explained, model, kind):
    episodes = random_episodes(5)
    scores = explained.score(episodes, attribution=kind)
    truth = explained.scorer.score(episodes).values
    account = model.score(episodes, attribution=kind)
    np.testing.assert_array_equal(scores.values, truth)
    assert scores.signed == account.signed
    np.testing.assert_array_equal(scores.parts[model.name], account.values)
    for ours, theirs in zip(scores.attributions, account.attributions, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(explained.score(episodes).values, truth)
    np.testing.assert_array_equal(explained.score_prefix(episodes), truth)


def test_red_pays_the_models_increments_and_the_rest_of_the_true_score_last(explained, model):
    episodes = random_episodes(4)
    increments = model.score(episodes, attribution="prefix").attributions
    for episode, steps in zip(
        Reward(explained, rule_of("red")).evaluate(episodes), increments, strict=True
    ):
        np.testing.assert_allclose(episode.token_rewards[:-1], steps[:-1], rtol=1e-6)
        assert episode.score == 0.5  # "the response": no "a" in it
        assert episode.token_rewards.sum() == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("credit", [rule_of("red"), rule_of("abc")])
@pytest.mark.parametrize("wrap", [lambda scorer: scorer, Normalize])
def test_wrapped_environments_keep_the_contract(make_envs, explained, credit, wrap):
    envs = VectorRewardWrapper(make_envs(num_envs=4), Reward(wrap(explained), credit))
    if wrap is not Normalize:  # which scores the same text differently later
        check_reward(envs)
    envs.reset(seed=0)
    for token in (3, 4, 3, 3, 5):
        *_, infos = envs.step(np.full(4, token))
    assert infos["token_rewards"].shape == (4, 5)
    np.testing.assert_allclose(infos["token_rewards"].sum(axis=1), infos["score"], atol=1e-4)


def test_what_cannot_explain_is_refused(model):
    with pytest.raises(ScorerError, match="'count_a' says nothing about tokens"):
        WithAttribution(model, FunctionScorer(count_a))
    with pytest.raises(RewardError, match=r"relevance.*'WithAttribution\("):
        Reward(WithAttribution(FunctionScorer(count_a), model), rule_of("r3-dense"))


def test_a_scorer_that_learns_keeps_its_state(model):
    scorer = WithAttribution(Normalize(FunctionScorer(count_a)), model)
    scorer.score(random_episodes(3))
    other = WithAttribution(Normalize(FunctionScorer(count_a)), model)
    other.load_state_dict(scorer.state_dict())
    assert other.scorer.moments == scorer.scorer.moments


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("sparse", "any"),
        ("abc:beta=1", "reward_model"),
        ("r3-dense", "encoder"),
        (rule_of("abc"), "reward_model"),
        (rule_of("red"), "reward_model"),
        (FunctionScorer(count_a), None),
        (count_a, None),
    ],
)
def test_what_a_reward_is_scored_by(spec, kind):
    choice = RewardChoice.of(spec)
    assert choice.kind == kind
    assert choice.undivided == {None: None, "encoder": "r3"}.get(kind, "sparse")


@pytest.mark.parametrize(
    ("spec", "is_control"),
    [("uniform", True), ("sparse", False), (rule_of("abc"), False), (count_a, False)],
)
def test_a_control_is_a_rule_that_reads_no_text(spec, is_control):
    assert RewardChoice.of(spec).is_control is is_control
