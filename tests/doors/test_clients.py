"""Clients of the environments that ask for exact types or exact words: each trains or records."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
from minari import DataCollector, StepDataCallback, load_dataset
from omegaconf import OmegaConf
from torchrl.envs import GymEnv, check_env_specs

from tokengym.agents.sb3 import TokenFeatures, as_vec_env
from tokengym.evaluation.runs.decide import decide

WIDTH = 4


class Paid(StepDataCallback):
    """What each token was paid is known at the last; Minari wants the same keys at every step."""

    def __call__(self, env: gym.Env, **step: Any) -> Any:
        """Return the step with the token rewards of an episode that ended, else 0."""
        data = super().__call__(env, **step)
        paid = np.zeros(WIDTH, np.float32)
        earned = step["info"].get("token_rewards", ())
        paid[: len(earned)] = earned
        data["info"] = {"token_rewards": paid}
        return data


@pytest.mark.parametrize("name", ["tokengym/MovieReview-v0", "tokengym/Dialogue-v0"])
def test_torchrl_makes_an_environment_by_its_id(name: str) -> None:
    check_env_specs(GymEnv(name))


def test_minari_records_what_each_token_was_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    made = gym.make("tokengym/MovieReview-v0", reward="abc", max_new_tokens=WIDTH)
    env = DataCollector(made, step_data_callback=Paid, record_infos=True)
    info, done = env.reset(seed=0)[1], False
    while not done:
        _, _, terminated, truncated, info = env.step(int(info["action_mask"].argmax()))
        done = terminated or truncated
    env.create_dataset("reviews/paid-v0")
    (episode,) = load_dataset("reviews/paid-v0").iterate_episodes()
    assert episode.infos is not None
    paid = episode.infos["token_rewards"]
    assert not paid[:-1].any()
    assert paid[-1].sum() == pytest.approx(episode.rewards.sum(), abs=1e-6)


def test_a_list_of_hydra_is_a_list() -> None:
    asked = OmegaConf.create({"rewards": ["sparse", "uniform"]})
    assert decide("MovieReview", rewards=asked.rewards).names == ("sparse", "uniform")


def test_an_agent_of_sb3_contrib_is_told_what_it_does_not_see(
    caplog: pytest.LogCaptureFixture,
) -> None:
    make: dict[str, Any] = {"reward": "abc-signed", "max_new_tokens": 6}
    envs = as_vec_env(gym.make_vec("tokengym/MovieReview-v0", num_envs=4, **make))
    agent = sb3_contrib.RecurrentPPO(
        "MultiInputLstmPolicy",
        envs,
        n_steps=24,
        batch_size=24,
        n_epochs=1,
        policy_kwargs={"features_extractor_class": TokenFeatures},
        device="cpu",
    )
    agent.learn(96)
    assert "never sees the token rewards of abc-signed" in caplog.text
