"""Rows in other processes train what rows of this one do: the same rule, lambda and model."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor

from tests.support.agents.ppo import log_of
from tokengym.agents import PPO
from tokengym.agents.rollouts.layers import ask_first_row
from tokengym.agents.rollouts.rounds import as_rounds, environment_attribute
from tokengym.envs import Episode, SettingsError
from tokengym.evaluation.runs.executors import processes
from tokengym.rewards import CreditReward, on_last, token_credit


def start() -> str:
    """Return how a process is started that has no threads of this one."""
    return processes().get_start_method()


KINDS: dict[str, Any] = {
    "gymnasium": (SyncVectorEnv, lambda rows: AsyncVectorEnv(rows, context=start())),
    "stable-baselines3": (
        lambda rows: VecMonitor(DummyVecEnv(rows)),
        lambda rows: VecMonitor(SubprocVecEnv(rows, start_method=start())),
    ),
}


@token_credit
def continuing(paid: Any, continue_from: Any, response_mask: Any) -> Any:
    """A rule that continues responses with the policy."""
    del continue_from
    return on_last(paid, response_mask)


class Row:
    """Makes one row, also in a process that is started anew."""

    def __init__(self, reward: str | Callable[..., Any] | None, **settings: Any) -> None:
        self.reward = reward
        self.settings = {"max_new_tokens": 6, **settings}

    def __call__(self) -> Any:
        is_rule = callable(self.reward)
        reward = None if is_rule else self.reward
        env = gym.make("tokengym/MovieReview-v0", reward=reward, **self.settings)
        return CreditReward(env, credit=self.reward) if is_rule else env


def trained(envs: Any, **settings: Any) -> tuple[PPO, dict[str, Any]]:
    """Return an agent that had one update of the bundled model, and the row of its log."""
    agent = PPO("CausalLMPolicy", envs, seed=0, **settings)
    (row,) = log_of(agent, 1)
    envs.close()
    return agent, {name: value for name, value in row.items() if not name.startswith("time/")}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("reward", "settings", "gae_lambda"),
    [
        ("abc-signed", {}, 0.5),  # declared by the rule
        ("sparse", {}, 0.95),
        # What a rule pays in one sum is asked of the rows: three tokens share an advantage.
        ("red:segments=2", {"advantage": "vineppo"}, None),
    ],
)
def test_two_processes_train_what_one_does(kind, reward, settings, gae_lambda):
    here, apart = KINDS[kind]
    agent, log = trained(here([Row(reward)] * 2), **settings)
    in_processes, log_in_processes = trained(apart([Row(reward)] * 2), **settings)
    assert agent.gae_lambda == in_processes.gae_lambda == gae_lambda
    assert log == log_in_processes
    weights = in_processes.policy.state_dict()
    for name, weight in agent.policy.state_dict().items():
        assert weight.equal(weights[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_what_rows_in_processes_are_asked(kind):
    envs = KINDS[kind][1]([Row("red:segments=2", normalize="running")] * 2)
    reward = as_rounds(envs).reward
    assert reward.traits is not None
    assert reward.traits.credit == "red"
    assert reward.traits.statistics
    ids = tuple(range(5, 11))
    episode = Episode(prompt="a", response="b", prompt_ids=(5,), response_ids=ids)
    ends = reward.segment_ends([episode], 7).tolist()
    assert ends == [[2, 2, 2, 5, 5, 5, 6]]  # two halves, and a column past the end
    for name in ("tokenizer", "bundle", "settings", "max_new_tokens"):
        assert environment_attribute(envs, name) is not None, name
    assert environment_attribute(envs, "no_such_name", 3) == 3
    with pytest.raises(SettingsError, match=r"several processes share the statistics"):
        reward.share(lambda value: [value])
    envs.close()


class Line:
    """A process's end of a pipe that counts what is sent."""

    def __init__(self, pipe: Any) -> None:
        self.pipe, self.sent = pipe, 0

    def send(self, what: Any) -> None:
        self.sent += 1
        self.pipe.send(what)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pipe, name)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_row_alone_is_asked_what_is_paid_in_one_sum(kind):
    envs = KINDS[kind][1]([Row("red:segments=2")] * 3)
    reward = as_rounds(envs).reward
    pipes = "parent_pipes" if kind == "gymnasium" else "remotes"
    lines = [Line(pipe) for pipe in getattr(envs.unwrapped, pipes)]
    setattr(envs.unwrapped, pipes, lines)
    episode = Episode(prompt="a", response="b", prompt_ids=(5,), response_ids=tuple(range(5, 11)))
    assert reward.segment_ends([episode] * 3, 6).tolist() == [[2, 2, 2, 5, 5, 5]] * 3
    assert [line.sent for line in lines] == [2, 0, 0]  # whether it has the method; and that
    assert reward._ask_first("no_such_method") is None
    envs.close()


@pytest.mark.filterwarnings("ignore:.*ERROR")
def test_what_the_first_row_raises_is_raised_here():
    envs = AsyncVectorEnv([Row("sparse")] * 2, context=start())
    with pytest.raises(TypeError, match="2 positional arguments but 3"):
        ask_first_row(envs, "reward_pieces", [], [])
    envs.close()


@pytest.mark.parametrize("kind", KINDS)
def test_credit_that_continues_with_the_policy_is_refused_in_processes(kind):
    envs = KINDS[kind][1]([Row(continuing)] * 2)
    with pytest.raises(SettingsError, match=r"'continuing' continues .*gym\.make_vec"):
        PPO("CausalLMPolicy", envs)
    envs.close()


def test_no_reward_is_said_behind_layers_that_read_alone():
    envs = VecMonitor(DummyVecEnv([Row(None)] * 2))
    with pytest.raises(ValueError, match="made without a reward"):
        PPO("CausalLMPolicy", envs).learn(2)
