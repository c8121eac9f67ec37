"""A killed run, resumed from its last checkpoint, equals the one that nobody killed."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import gymnasium.wrappers as single
import gymnasium.wrappers.vector as batched
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from tests.support.agents.checkpoint import (
    assert_equal_weights,
    normalised_reward,
    rewrite,
    untimed,
)
from tests.support.agents.common import PROMPTS, lora_config, make_model, single_env
from tests.support.agents.ppo import Watcher, log_of
from tests.support.forked import Forked
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym.agents import PPO, CheckpointError
from tokengym.agents.sb3 import as_vec_env
from tokengym.agents.states import environment_state
from tokengym.envs import PadTokenRewards, Reply, TokenGenerationVectorEnv
from tokengym.rewards import VectorRewardWrapper

TIMESTEPS = 110
SAVE_FREQ = 7  # environment steps: in the middle of rounds of up to 6


def environments() -> Any:
    return VectorRewardWrapper(
        TokenGenerationVectorEnv(
            num_envs=4,
            tokenizer=make_tokenizer(),
            prompts=PROMPTS,
            max_new_tokens=6,
            prompt_sampling="epoch",
        ),
        normalised_reward(),
    )


def agent_of(envs: Any, *, lora: bool = False, **settings: Any) -> PPO:
    return PPO(
        "CausalLMPolicy",
        envs,
        learning_rate=1e-2,
        kl_target=1.0,
        kl_horizon=20.0,
        top_p=0.9,
        seed=3,
        device="cpu",
        policy_kwargs={"model": make_model(), "lora": lora_config() if lora else None},
        **settings,
    )


def brief(envs: Any) -> PPO:
    """Return an agent whose updates take two gradient steps."""
    return agent_of(envs, n_epochs=1, n_minibatches=2)


def run_until_killed(folder: str, lora: bool, die_at_step: int) -> None:
    """What the child process does: it dies in the middle of an update, at a gradient step."""
    agent = agent_of(environments(), lora=lora)
    step, taken = agent.policy.optimizer.step, list[None]()

    def deadly() -> None:
        step()
        taken.append(None)
        if len(taken) == die_at_step:
            os.kill(os.getpid(), signal.SIGKILL)

    agent.policy.optimizer.step = deadly  # type: ignore[method-assign,assignment]
    agent.learn(TIMESTEPS, callback=CheckpointCallback(SAVE_FREQ, folder))


@pytest.mark.parametrize("lora", [False, True])
def test_a_run_killed_in_an_update_goes_on_to_the_same_numbers(tmp_path, lora):
    uninterrupted = agent_of(environments(), lora=lora)
    expected = untimed(log_of(uninterrupted, TIMESTEPS))
    die_at_step = 8 * 3 + 5  # 8 gradient steps an update: in the middle of the fourth
    assert len(expected) > 4

    child = Forked(run_until_killed, str(tmp_path), lora, die_at_step)
    assert child.end() == -signal.SIGKILL

    saved = sorted(tmp_path.glob("*_steps.zip"), key=lambda path: int(path.name.split("_")[2]))
    assert len(saved) >= 2
    resumed = PPO.load(saved[-1], env=environments(), device="cpu")
    assert 0 < resumed.num_timesteps < TIMESTEPS
    left = TIMESTEPS - resumed.num_timesteps
    rows = untimed(log_of(resumed, left, reset_num_timesteps=False))
    assert str(rows) == str(expected[-len(rows) :])
    assert len(expected) - len(rows) in (2, 3)  # it did go on from where it was
    assert_equal_weights(uninterrupted, resumed)


def talking(
    conversation: Any, metadata: Mapping[str, Any], rng: np.random.Generator
) -> Reply | None:
    return Reply(str(rng.choice(["b", "c"])))


def copies(**settings: Any) -> list[Callable[[], Any]]:
    reward = normalised_reward()  # which all share

    how = {"prompt_sampling": "epoch", **settings}

    def make(row: int) -> Any:
        return single_env(reward, PadTokenRewards, prompt_shard=(row, 4), **how)

    return [lambda row=row: make(row) for row in range(4)]  # type: ignore[misc]


BACKENDS: dict[str, Callable[[], Any]] = {
    "native": environments,
    "monitored": lambda: VecMonitor(as_vec_env(environments())),
    "copies": lambda: SyncVectorEnv(copies(partner=talking, max_turns=2)),
    "stock": lambda: DummyVecEnv(copies()),
}


@pytest.mark.parametrize("learned_before", [0, 30])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_step_of_a_round_saves_what_the_round_began_with(tmp_path, learned_before, backend):
    """From the first round on, after an earlier ``learn`` too, and behind an SB3 wrapper."""
    agent = brief(BACKENDS[backend]())
    if learned_before:
        agent.learn(learned_before)
    rows = untimed(log_of(agent, 24, callback=CheckpointCallback(2, str(tmp_path))))
    paths = sorted(tmp_path.glob("*_steps.zip"))
    assert len(paths) > 2
    for path in paths:
        resumed = PPO.load(path, env=BACKENDS[backend](), device="cpu")
        left = 24 - resumed.num_timesteps
        again = untimed(log_of(resumed, left, reset_num_timesteps=False))
        assert again, path
        assert without_count(again) == without_count(rows[-len(again) :]), path


def without_count(rows: list[dict[str, Any]]) -> str:
    return str([{k: v for k, v in row.items() if k != "train/n_updates"} for row in rows])


SCALED: dict[str, Callable[[], Any]] = {
    "batch": lambda: batched.NormalizeReward(environments()),
    "rows": lambda: SyncVectorEnv(
        [lambda make=make: single.NormalizeReward(make()) for make in copies()]  # type: ignore[misc]
    ),
    "stock": lambda: VecNormalize(as_vec_env(environments()), norm_obs=False),
}


@pytest.mark.parametrize("layer", SCALED)
def test_a_running_scale_of_rewards_continues(tmp_path, layer, caplog):
    agent = brief(SCALED[layer]()).learn(30)
    agent.save(tmp_path / "run")
    expected = untimed(log_of(agent, 30, reset_num_timesteps=False))
    resumed = PPO.load(tmp_path / "run", env=SCALED[layer](), device="cpu")
    assert str(untimed(log_of(resumed, 30, reset_num_timesteps=False))) == str(expected)
    assert_equal_weights(agent, resumed)
    assert "anew" not in caplog.text
    check_layers(tmp_path / "run", SCALED[layer], {"returns": ["x"]}, {"returns": []})
    assert "no state of " in caplog.text


def check_layers(folder: Path, make: Callable[[], Any], *changes: dict[str, Any]) -> None:
    """Refuse a checkpoint of fewer layers or of another state; say what several processes lack."""
    state = json.loads((folder / "checkpoint.json").read_text())["environment_state"]
    first, *rest = state["layers"]
    for layers in (rest, *([{**first, **change}, *rest] for change in changes), [{}, *rest]):
        rewrite(folder, {"environment_state": {**state, "layers": layers}})
        with pytest.raises(CheckpointError, match=r"cannot load its state|holds the state of"):
            PPO.load(folder, env=make())
    rewrite(folder, {"environment_state": {**state, "layers": None}})
    PPO.load(folder, env=make())


class Rising(gymnasium.RewardWrapper):
    """A layer of a user's own, which pays each step more than the one before."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.steps: list[int] = []

    def reward(self, reward: Any) -> float:
        self.steps.append(1)
        return float(reward) + 0.01 * len(self.steps)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = list(state["steps"])


class RisingBatch(batched.TransformReward):
    """The same around a batch."""

    def __init__(self, env: Any) -> None:
        super().__init__(env, self.raised)
        self.steps = 0

    def raised(self, rewards: Any) -> Any:
        self.steps += 1
        return rewards + 0.01 * self.steps

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]


OWN: dict[str, Callable[[], Any]] = {
    "batch": lambda: RisingBatch(environments()),
    "rows": lambda: SyncVectorEnv([lambda make=make: Rising(make()) for make in copies()]),  # type: ignore[misc]
    "inside": lambda: batched.ClipReward(RisingBatch(environments()), 0.0, 9.0),
}


@pytest.mark.parametrize("layer", OWN)
def test_the_state_of_an_own_layer_continues(tmp_path, layer, caplog):
    agent = brief(OWN[layer]())
    expected = untimed(log_of(agent, 40, callback=CheckpointCallback(3, str(tmp_path))))
    paths = sorted(tmp_path.glob("*_steps.zip"))
    for path in paths:
        resumed = PPO.load(path, env=OWN[layer](), device="cpu")
        left = 40 - resumed.num_timesteps
        again = untimed(log_of(resumed, left, reset_num_timesteps=False))
        assert without_count(again) == without_count(expected[-len(again) :]), path
    assert "anew" not in caplog.text
    shutil.unpack_archive(paths[0], tmp_path / "unpacked")
    check_layers(tmp_path / "unpacked", OWN[layer])
    assert "no state of Rising" in caplog.text


@pytest.mark.parametrize("value", [torch.zeros(2), {1: 2.0}, float("inf"), (1, 2)])
def test_a_state_that_json_would_change_is_refused(value):
    layer = RisingBatch(environments())
    layer.steps = value
    envs = as_vec_env(layer)
    envs.reset()
    with pytest.raises(CheckpointError, match=r"state_dict\(\) of RisingBatch.*tolist"):
        environment_state(envs)


def test_an_environment_without_states_is_saved_in_the_middle_of_a_round(tmp_path):
    """Rows in other processes have none: the resumed run sees other prompts."""
    envs = AsyncVectorEnv(copies())
    try:
        agent = brief(envs).learn(10, callback=CheckpointCallback(2, str(tmp_path)))
        for path in sorted(tmp_path.glob("*_steps.zip")):
            resumed = PPO.load(path, env=envs, device="cpu")
            assert resumed.num_timesteps <= agent.num_timesteps
        assert resumed.learn(10, reset_num_timesteps=False).num_timesteps > 10
    finally:
        envs.close()


def test_a_stopped_round_is_played_again(make_envs, make_ppo, tmp_path):
    whole = make_ppo().learn(40)
    stopped = make_ppo().learn(40, callback=Watcher(stop_at=8))
    stopped.save(tmp_path / "run")
    resumed = PPO.load(tmp_path / "run", env=make_envs(), device="cpu")
    assert resumed.num_timesteps < stopped.num_timesteps
    resumed.learn(40 - resumed.num_timesteps, reset_num_timesteps=False)
    assert_equal_weights(whole, resumed)


def test_a_round_whose_update_was_interrupted_counts_as_played(make_envs, make_ppo, tmp_path):
    """What a caller saves after Ctrl-C has weights that the round has moved."""
    in_order = {"num_envs": 2, "prompt_sampling": "sequential"}
    agent = make_ppo(envs=make_envs(**in_order), learning_rate=1e-2)
    agent.learn(1)
    step, taken = agent.policy.optimizer.step, list[None]()

    def interrupted() -> None:
        if len(taken) == 2:
            raise KeyboardInterrupt
        taken.append(step())

    agent.policy.optimizer.step = interrupted
    with pytest.raises(KeyboardInterrupt):
        agent.learn(1, reset_num_timesteps=False)
    agent.policy.optimizer.step = step
    agent.save(tmp_path / "run")
    resumed = PPO.load(tmp_path / "run", env=make_envs(**in_order), device="cpu")
    assert resumed.num_timesteps == agent.num_timesteps
    assert_equal_weights(agent, resumed)
    assert [episode.prompt for episode in agent.last_round.episodes] == list(PROMPTS[2:4])
    rounds = [one.collect().episodes for one in (agent, resumed)]
    assert [episode.prompt for episode in rounds[1]] == list(PROMPTS[:2])
    assert [e.response_ids for e in rounds[0]] == [e.response_ids for e in rounds[1]]
