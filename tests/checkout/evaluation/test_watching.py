"""The page on watching a run names every figure that is logged."""

import csv
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from stable_baselines3.common.logger import configure

import tokengym
from tokengym.agents.learner import ROUND_LOG

ROOT = Path(__file__).parents[3]
NAME = re.compile(r"`((?:rollout|train|time)/\w+)`")


def explained() -> set[str]:
    """Return the names in the first column of the page's table of figures."""
    page = (ROOT / "docs/guide/watching.md").read_text(encoding="utf-8")
    first = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    return set(NAME.findall("".join(first)))


@pytest.mark.parametrize("advantage", ["gae", "grpo"])
def test_every_name_of_progress_csv_is_explained(tmp_path, advantage):
    envs = gym.make_vec("tokengym/MovieReview-v0", num_envs=4, max_new_tokens=4, reward="sparse")
    groups: dict[str, Any] = {} if advantage == "gae" else {"group_size": 2}
    agent = tokengym.PPO("CausalLMPolicy", envs, advantage=advantage, seed=0, **groups)
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    agent.learn(2 * 4 * 4)
    with (tmp_path / "progress.csv").open() as file:
        logged = set(next(csv.reader(file)))
    assert len(logged) > 15
    assert (logged | set(ROUND_LOG)) <= explained()
