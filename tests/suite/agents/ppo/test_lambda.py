"""The lambda that a credit rule declares, and the rate that falls to 0."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.vector import SyncVectorEnv

from tests.support.agents.common import make_model, target_reward
from tests.support.agents.ppo import log_of
from tokengym.agents import PPO
from tokengym.agents.ppo.settings import PPOSettings
from tokengym.agents.sb3 import as_vec_env
from tokengym.envs import SettingsError
from tokengym.rewards import on_last, token_credit


def declaring(gae_lambda: float | None) -> Any:
    """Return a rule that declares a lambda."""

    @token_credit(gae_lambda=gae_lambda)
    def declared(paid: Any, response_mask: Any) -> Any:
        return on_last(paid, response_mask)

    return declared


def made(env: Any, **settings: Any) -> float | None:
    model = {"model": make_model()}
    agent = PPO("CausalLMPolicy", env, policy_kwargs=model, n_minibatches=1, **settings)
    found: float | None = agent.gae_lambda
    return found


@pytest.mark.parametrize(("declared", "expected"), [(0.25, 0.25), (0.0, 0.0), (None, 0.95)])
def test_without_a_lambda_the_rules_own_is_taken(make_envs, declared, expected):
    def envs() -> Any:
        return make_envs(reward=target_reward(declaring(declared)))

    assert made(envs(), gae_lambda=None) == expected
    assert made(as_vec_env(envs()), gae_lambda=None) == expected
    assert made(envs(), gae_lambda=0.5) == 0.5


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        *(("sparse", 0.95), ("abc", 0.95)),
        *(("red", 0.5), ("red:segments=2", 0.95), ("red:beta=0.5", 0.95)),
        *(("abc-signed", 0.5), ("abc-signed:beta=0.5", 0.95)),
    ],
)
def test_the_rules_by_name(rule, expected):
    def env() -> Any:
        return gym.make("tokengym/MovieReview-v0", reward=rule, max_new_tokens=4)

    agent = PPO("CausalLMPolicy", SyncVectorEnv([env]), n_minibatches=1, gae_lambda=None)
    assert agent.gae_lambda == expected


def test_a_lambda_outside_its_range_is_refused(make_envs):
    envs = make_envs(reward=target_reward(declaring(1.5)))
    with pytest.raises(SettingsError, match=r"gae_lambda=1.5.*\[0, 1\]"):
        made(envs, gae_lambda=None)
    assert made(envs, gae_lambda=1.0) == 1.0


def of_one(name: str, value: Any) -> PPOSettings:
    given: dict[str, Any] = {name: value}
    return PPOSettings(**given)


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan")])
@pytest.mark.parametrize("name", ["gamma", "gae_lambda", "gae_lambda_vf"])
def test_discounts_outside_0_and_1_are_refused(name, value):
    with pytest.raises(SettingsError, match=rf"{name} must be within \[0, 1\].*got {value}"):
        of_one(name, value)
    of_one(name, 0.0)
    of_one(name, 1.0)


def test_the_number_is_written_down(make_ppo, make_envs, tmp_path):
    agent = make_ppo(envs=make_envs(reward=target_reward(declaring(1.0))), gae_lambda=None)
    (row,) = log_of(agent, 1)
    assert row["train/gae_lambda"] == 1.0
    agent.save(tmp_path / "agent")
    assert PPO.load(tmp_path / "agent", device="cpu").settings.gae_lambda == 1.0


def test_an_agent_that_is_loaded_takes_the_lambda_of_its_environment(make_ppo, make_envs, tmp_path):
    def envs(declared: float | None) -> Any:
        return make_envs(reward=target_reward(declaring(declared)))

    path, again = tmp_path / "agent", tmp_path / "again"
    make_ppo(envs=envs(0.5)).save(path)
    PPO.load(path, device="cpu").save(again)  # without an environment
    for place in (path, again):
        for declared, expected in ((0.5, 0.5), (None, 0.95), (1.0, 1.0)):
            loaded = PPO.load(place, env=envs(declared), device="cpu")
            assert loaded.settings.gae_lambda == expected
    agent = PPO.load(path, device="cpu")
    agent.set_env(as_vec_env(envs(1.0)))
    assert agent.settings.gae_lambda == 1.0
    assert PPO.load(path, env=envs(1.0), device="cpu", gae_lambda=0.25).settings.gae_lambda == 0.25


@pytest.mark.parametrize("how", ["made", "changed", "loaded"])
def test_a_lambda_that_was_given_stays(make_ppo, make_envs, tmp_path, how):
    def envs(declared: float) -> Any:
        return make_envs(reward=target_reward(declaring(declared)))

    agent = make_ppo(envs=envs(0.5), **{"gae_lambda": 0.25} if how == "made" else {})
    if how == "changed":
        agent.gae_lambda = 0.25
    agent.save(tmp_path / "agent")
    if how == "loaded":
        PPO.load(tmp_path / "agent", env=envs(0.5), device="cpu", gae_lambda=0.25).save(
            tmp_path / "agent"
        )
    loaded = PPO.load(tmp_path / "agent", env=envs(1.0), device="cpu")
    loaded.set_env(as_vec_env(envs(1.0)))
    assert loaded.settings.gae_lambda == 0.25
    assert not (tmp_path / "agent" / "decided.json").exists()


def test_a_low_lambda_is_said_of_an_agent_that_was_loaded(make_ppo, make_envs, caplog, tmp_path):
    def envs() -> Any:
        return make_envs(reward=target_reward(declaring(0.5)))

    make_ppo(envs=envs()).save(tmp_path / "agent")
    agent = PPO.load(tmp_path / "agent", env=envs(), device="cpu")
    played: Any = agent.collect()
    ended = tuple(replace(each, finish_reason="eos") for each in played.episodes)
    agent.assign(replace(played, episodes=ended))
    assert "declares gae_lambda=0.5" in caplog.text


def test_without_a_critic_there_is_no_lambda(make_ppo):
    assert make_ppo(advantage="reinforce", gae_lambda=None).gae_lambda is None


@pytest.mark.parametrize(
    ("declared", "given", "is_warned"),
    [(0.5, None, True), (0.5, 0.5, False), (0.0, None, False), (0.95, None, False)],
)
@pytest.mark.parametrize("reason", ["eos", "length"])
def test_a_low_lambda_that_nobody_chose_is_said_where_responses_end_by_themselves(
    make_ppo, make_envs, caplog, declared, given, is_warned, reason
):
    envs = make_envs(reward=target_reward(declaring(declared)))
    agent = make_ppo(envs=envs, gae_lambda=given)
    for _ in range(2):
        played = agent.collect()
        ended = tuple(replace(each, finish_reason=reason) for each in played.episodes)
        agent.assign(replace(played, episodes=ended))
    said = [each for each in caplog.messages if "declares gae_lambda=0.5" in each]
    assert len(said) == (is_warned and reason == "eos")
    assert all("100% of these ended by themselves" in each for each in said)


# --- the learning rate ----------------------------------------------------------------------------


def rates(agent: PPO, rounds: int, **learn: Any) -> list[float]:
    found: list[float] = []
    update = agent.update

    def noted(experience: Any) -> Any:
        stats = update(experience)
        found.append(agent.policy.optimizer.param_groups[0]["lr"])
        assert agent.logger.name_to_value["train/learning_rate"] == found[-1]
        return stats

    agent.update = noted  # type: ignore[method-assign]
    agent.learn(rounds * 4 * 6, **learn)
    agent.update = update  # type: ignore[method-assign]
    return found


def test_a_linear_schedule_falls_to_0_at_the_end_of_learn(make_ppo, make_envs):
    """Before the first of 4 rounds all of the training is left, before the last a quarter."""
    envs = make_envs(min_new_tokens=6)  # 4 rows of 6 tokens
    settings: Any = {"learning_rate": 0.004, "learning_rate_schedule": "linear"}
    agent = make_ppo(envs=envs, **settings)
    assert rates(agent, 4) == pytest.approx([0.004, 0.003, 0.002, 0.001])
    assert rates(agent, 2, reset_num_timesteps=False) == pytest.approx([0.004, 0.002])
    agent.settings = replace(agent.settings, learning_rate_schedule="constant")
    assert rates(agent, 2) == pytest.approx([0.004, 0.004])
