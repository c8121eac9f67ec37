"""Measuring never moves what is measured: training with and without it is equal to the bit."""

from functools import cache
from typing import Any

import gymnasium as gym
import pytest
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy

from tests.support.agents.checkpoint import assert_equal_weights
from tests.support.agents.common import PROMPTS, make_model
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym.agents import DPO, SFT, collect
from tokengym.agents.contract import Update
from tokengym.agents.offline import AfterEpoch
from tokengym.evaluation.measure.evaluate import evaluate


def single(make_envs: Any) -> Any:
    """Return a single environment for Stable-Baselines3's `evaluate_policy`."""
    return gym.make(
        "tokengym/MovieReview-v0",
        tokenizer=make_tokenizer(),
        prompts=PROMPTS,
        reward=lambda prompt, response: 0.5,
        max_new_tokens=6,
    )


def predicts(agent: Any, make_envs: Any, deterministic: bool) -> None:
    observation, _ = make_envs().reset(seed=1)
    for _ in range(3):
        agent.predict(observation, deterministic=deterministic)


MEASURES: dict[str, Any] = {
    "predict": lambda agent, make: predicts(agent, make, False),
    "predict, likeliest": lambda agent, make: predicts(agent, make, True),
    "policy.predict": lambda agent, make: predicts(agent.policy, make, False),
    "evaluate_policy": lambda agent, make: evaluate_policy(agent, single(make), 3, warn=False),
    "collect": lambda agent, make: collect(agent, make(), 6),
    "collect, seeded": lambda agent, make: collect(agent, make(), 6, seed=0),
    "evaluate": lambda agent, make: evaluate(
        agent,
        "tokengym/TokenGeneration-v0",
        {
            "tokenizer": make_tokenizer(),
            "prompts": PROMPTS,
            "max_new_tokens": 6,
            "reward": lambda prompt, response: 0.5,
        },
        num_episodes=6,
    ),
}


@pytest.fixture(scope="module")
def plain(make_ppo: Any) -> Any:
    """Return an agent that was never measured."""
    return make_ppo().learn(60).learn(30)


@pytest.mark.parametrize("measure", MEASURES)
def test_ppo_learns_the_same_with_measures_between_its_updates(plain, make_ppo, make_envs, measure):
    measured = make_ppo()
    for number, _ in enumerate(measured.updates(60)):
        if number < 3:
            MEASURES[measure](measured, make_envs)
    MEASURES[measure](measured, make_envs)  # and between calls
    assert_equal_weights(plain, measured.learn(30))


def test_ppo_learns_the_same_under_stable_baselines3s_eval_callback(make_ppo, make_envs):
    class Steps(BaseCallback):  # in the middle of a round
        def _on_step(self) -> bool:
            predicts(self.model, make_envs, deterministic=False)
            return True

    plain, measured = make_ppo(), make_ppo()
    plain.learn(60)
    evaluates = EvalCallback(single(make_envs), n_eval_episodes=2, eval_freq=1, verbose=0)
    measured.learn(60, callback=[evaluates, Steps()])
    assert_equal_weights(plain, measured)


PAIRS = [{"prompt": p, "chosen": " a a", "rejected": " b c"} for p in PROMPTS]
TEXTS = [{"prompt": p, "completion": " a a"} for p in PROMPTS]


@cache
def plain_offline(kind: Any) -> Any:
    """Return a learner of `kind` that was never measured."""
    agent = offline(kind)
    agent.train()
    return agent


def offline(kind: Any) -> Any:
    length: Any = {"num_train_epochs": 3, "per_device_train_batch_size": 2}
    settings = {"tokenizer": make_tokenizer(), "device": "cpu", "seed": 0} | length
    rows = PAIRS if kind is DPO else TEXTS
    return kind(make_model(), rows, learning_rate=1e-3, **settings)


@pytest.mark.parametrize("kind", [DPO, SFT])
@pytest.mark.parametrize("measure", MEASURES)
def test_offline_learners_learn_the_same_with_measures_between(make_envs, kind, measure):
    def follow(update: Update) -> None:
        MEASURES[measure](update.agent, make_envs)
        epochs.append(update.step)

    epochs: list[int] = []
    plain, measured = plain_offline(kind), offline(kind)
    measured.add_callback(AfterEpoch(measured, follow))
    measured.train()
    assert epochs == [1, 2, 3]
    assert_equal_weights(plain, measured)


def test_measuring_repeatedly_draws_new_tokens(make_ppo, make_envs):
    agent, (observation, _) = make_ppo(), make_envs().reset(seed=1)
    drawn = [agent.predict(observation)[0].tolist() for _ in range(12)]
    assert len({tuple(actions) for actions in drawn}) > 1
    assert make_ppo().predict(observation)[0].tolist() == drawn[0]  # by the seed
