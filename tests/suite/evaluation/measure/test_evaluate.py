"""What an evaluation plays and measures, by tasks whose numbers are known."""

import random
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch

from tests.support.partners import Several
from tokengym.agents.sb3 import TokenFeatures, as_vec_env
from tokengym.evaluation.measure.evaluate import Evaluator, evaluate


def prompts_of(split: str) -> tuple[str, ...]:
    env: Any = gym.make("tokengym/MovieReview-v0", split=split)
    texts: tuple[str, ...] = env.unwrapped.prompts.texts
    return texts


def test_it_plays_the_held_out_prompts_in_their_order():
    evaluator = Evaluator("MovieReview", {"max_new_tokens": 1}, num_episodes=5)
    found = [episode.prompt for episode in evaluator(evaluator.untrained()).episodes]
    assert found == list(prompts_of("test")[:5])
    assert not {*found} & {*prompts_of("train")}
    evaluator.close()


def test_a_seed_is_that_of_the_sampling_and_the_likeliest_tokens_need_none():
    played: dict[tuple[int, bool], Any] = {}
    for seed in (0, 1):
        evaluator = Evaluator("MovieReview", {"max_new_tokens": 4}, num_episodes=6, seed=seed)
        policy = evaluator.untrained()
        for greedy in (False, True):
            found = [evaluator(policy, deterministic=greedy).episodes for _ in range(2)]
            ids = [[episode.response_ids for episode in episodes] for episodes in found]
            assert ids[0] == ids[1]
            played[seed, greedy] = ids[0]
        evaluator.close()
    assert played[0, True] == played[1, True]
    assert played[0, False] != played[1, False] != played[1, True]
    again = evaluate(policy, "MovieReview", {"max_new_tokens": 4}, num_episodes=6, seed=1)
    assert [episode.response_ids for episode in again.episodes] == played[1, False]


def test_agents_that_draw_from_the_global_random_state_are_repeated_and_leave_it():
    class Stock:
        """Draws as agents of Stable-Baselines3 do."""

        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            rows = len(observation["input_ids"])
            drawn = torch.randint(2, 99, (rows,)).numpy(), np.random.randint(99, size=rows)
            return (drawn[0] + drawn[1] + random.randrange(99)), state

    options = {"max_new_tokens": 4}
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    played = [
        [e.response_ids for e in evaluate(Stock(), "MovieReview", options, num_episodes=3).episodes]
        for _ in range(2)
    ]
    assert played[0] == played[1]
    assert torch.rand(1) == expected


@pytest.mark.parametrize(
    "rules",
    [
        {"min_new_tokens": 3, "forbidden_token_ids": range(3, 300)},
        {"partner": Several(), "max_turns": 3, "max_turn_tokens": 2, "min_new_tokens": 1},
    ],
)
def test_the_policy_that_training_starts_from_has_no_kl(rules):
    """Under the action mask that both are sampled under, and of the policy's own tokens alone."""
    options = {"max_new_tokens": 12, **rules}
    evaluator = Evaluator("MovieReview", options, num_episodes=8)
    policy = evaluator.untrained()
    found = evaluator(policy)
    assert found.metrics["kl"] == pytest.approx(0.0, abs=1e-4)
    log_probs = [
        episode.log_probs if episode.written is None else episode.log_probs[episode.written > 0]
        for episode in found.episodes
        if episode.log_probs is not None
    ]
    assert len(log_probs) == 8
    assert found.metrics["length"] == np.mean([len(row) for row in log_probs])
    surprisal = -np.concatenate(log_probs)  # a sample of it
    error = surprisal.std() / len(surprisal) ** 0.5
    assert abs(found.metrics["entropy"] - surprisal.mean()) < 4.0 * error
    without = policy.log_probs(
        [episode.prompt_ids for episode in found.episodes],
        [episode.response_ids for episode in found.episodes],
    )
    sums = sum(map(np.sum, without)) - sum(map(np.sum, log_probs))
    assert abs(float(sums)) > 1.0  # masks, or replies, that count would show
    evaluator.close()


@pytest.mark.parametrize(
    ("made", "entropy"),
    [
        (stable_baselines3.A2C, 1.5 * np.log(2.0)),
        (stable_baselines3.PPO, 1.5 * np.log(2.0)),
        (sb3_contrib.MaskablePPO, np.log(2.0)),  # of the three one is forbidden
        (sb3_contrib.RecurrentPPO, None),  # its distribution depends on what it read before
        (stable_baselines3.DQN, None),  # it has none
    ],
)
def test_the_entropy_of_stock_algorithms_is_that_of_what_they_choose_among(made, entropy):
    """With the chances 1/2, 1/4, 1/4 of three tokens, whatever is read."""
    options: dict[str, Any] = {"max_new_tokens": 3, "min_new_tokens": 3}
    options["forbidden_token_ids"] = [50]
    envs = gym.make_vec("tokengym/MovieReview-v0", num_envs=2, **options)
    policy = made.policy_aliases and next(a for a in made.policy_aliases if "MultiInput" in a)
    extractor = {"features_extractor_class": TokenFeatures}
    agent = made(policy, as_vec_env(envs), policy_kwargs=extractor, device="cpu")
    if entropy is not None:
        chances = torch.full((cast(Any, envs.single_action_space).n,), 1e-30)
        chances[[50, 60, 70]] = torch.tensor([0.5, 0.25, 0.25])
        with torch.no_grad():
            agent.policy.action_net.weight.zero_()
            agent.policy.action_net.bias.copy_(chances.log())
    found = evaluate(agent, "MovieReview", options, num_episodes=3)
    assert "kl" not in found.metrics
    assert found.metrics.get("entropy") == (entropy and pytest.approx(entropy, abs=1e-5))
    envs.close()
