"""Reward models and encoders: given apart, taken for what they are, refused if they do not fit."""

from typing import Any

import gymnasium as gym
import pytest

from tests.support.comparisons import comparison
from tests.support.rewards.alignment import byte_tokenizer
from tokengym.envs import bundled
from tokengym.evaluation.measure.evaluate import Evaluator
from tokengym.rewards import Relevance, RewardModel, ScorerError, load_scorer, make_reward
from tokengym.rewards.registry import stored_scorer

JUDGE, ENCODER = bundled("movie_review").reward_model, bundled("question_answer").encoder


def test_a_stored_model_is_taken_for_what_it_is(tmp_path):
    assert (stored_scorer(JUDGE), stored_scorer(ENCODER)) == ("reward-model", "relevance")
    assert stored_scorer(bundled("movie_review").policy) is None  # a language model is neither
    assert stored_scorer(tmp_path) is None
    assert isinstance(load_scorer(JUDGE, "any"), RewardModel)
    assert isinstance(load_scorer(ENCODER, "any"), Relevance)
    (tmp_path / "config.json").write_text('{"architectures": ["BertForMaskedLM"]}')
    assert stored_scorer(tmp_path) == "relevance"
    (tmp_path / "adapter_config.json").write_text("{}")
    assert stored_scorer(tmp_path) == "reward-model"


@pytest.mark.parametrize(
    ("reward", "scorer", "message"),
    [
        ("r3", JUDGE, "reward_model'.*pass encoder="),
        ("abc", ENCODER, "encoder'.*pass reward_model="),
    ],
)
def test_a_model_of_the_other_kind_is_refused(reward, scorer, message):
    for option in ("scorer", "encoder" if reward == "r3" else "reward_model"):
        with pytest.raises(ScorerError, match=message):
            make_reward(reward, **{option: str(scorer)})


def test_each_reward_takes_the_model_of_its_kind():
    models: dict[str, Any] = {"reward_model": JUDGE, "encoder": ENCODER}
    kinds = {"sparse": RewardModel, "abc": RewardModel, "r3": Relevance, "r3-dense": Relevance}
    for name, kind in kinds.items():
        assert isinstance(make_reward(name, **models).scorer, kind), name
    passed = make_reward("sparse", encoder=ENCODER).scorer
    assert isinstance(passed, Relevance)
    bundle = bundled("movie_review")  # what is passed comes before what the bundle has
    assert make_reward("sparse", encoder=ENCODER, bundle=bundle).scorer is passed
    assert isinstance(make_reward("abc", encoder=ENCODER, bundle=bundle).scorer, RewardModel)
    with pytest.raises(ValueError, match=r"scorer=.*encoder="):
        make_reward("r3", reward_model=JUDGE)


@pytest.mark.parametrize(
    "task", ["MovieReview", "QuestionAnswer", "Dialogue", "Detox", "Summarize"]
)
@pytest.mark.parametrize(
    "reward", ["sparse", "uniform", "abc", "abc-signed", "red", "r3", "r3-dense"]
)
def test_every_reward_works_on_every_bundled_task(task, reward):
    env = gym.make(f"tokengym/{task}-v0", reward=reward, max_new_tokens=3)
    env.action_space.seed(1)
    _, info = env.reset(seed=1)
    is_over = False
    while not is_over:
        _, _, terminated, truncated, info = env.step(env.action_space.sample(info["action_mask"]))
        is_over = terminated or truncated
    assert sum(info["token_rewards"]) == pytest.approx(info["score"], abs=1e-4)


GOLD = "the gold score, RuleScorer(answer)"


@pytest.mark.parametrize(
    ("rewards", "measured_by"),
    [
        (("sparse", "abc"), f"{GOLD}, and the score by RewardModel(rewa"),
        (("r3", "r3-dense"), f"{GOLD}, and the score by Relevance(enco"),
        (("sparse", "r3"), GOLD),
    ],
)
def test_rewards_of_different_scorers_are_measured_by_the_gold_score(rewards, measured_by):
    evaluator = comparison(env="QuestionAnswer", rewards=rewards, seeds=1).evaluator()
    try:
        assert evaluator.measured_by.startswith(measured_by)
        is_gold_alone = evaluator.measured_by == measured_by
        metrics = evaluator(evaluator.untrained()).metrics
    finally:
        evaluator.close()
    assert (metrics["score"] == metrics["gold_score"]) == is_gold_alone


def test_a_judge_of_all_rewards_is_named_where_there_is_no_gold_score():
    task = {"prompts": ["what is it ?"], "scorer": lambda prompt, response: 1.0}
    words = {
        by_gold: Evaluator("QuestionAnswer", task, num_episodes=1, by_gold=by_gold).measured_by
        for by_gold in (True, False)
    }
    assert "first reward's scorer" in words[True]
    assert "first reward" not in words[False]


def test_other_words_and_questions_are_not_held_to_the_bundles_gold_score():
    bundle = bundled("movie_review")
    words, letters = (
        gym.make("tokengym/MovieReview-v0", bundle=bundle, tokenizer=tokenizer)
        for tokenizer in (str(bundle.path / "tokenizer"), byte_tokenizer())
    )
    assert words.unwrapped.bundle.has("grammar")  # type: ignore[attr-defined]
    assert not letters.unwrapped.bundle.has("grammar")  # type: ignore[attr-defined]
    own = gym.make("tokengym/QuestionAnswer-v0", prompts=["what is it like in mauritius ?"])
    assert not own.unwrapped.bundle.has("gold")  # type: ignore[attr-defined]
