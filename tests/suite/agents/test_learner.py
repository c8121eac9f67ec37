"""Anything that is given as a learner learns, is a frozen line, or is refused by name."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import stable_baselines3

from tokengym.agents.learner import find_learner, own_columns
from tokengym.agents.sb3 import HindsightReplayBuffer, HindsightRolloutBuffer
from tokengym.envs import SettingsError

PLAYS = """
    def __init__(self):
        self.met = []
    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return [3] * len(observation["input_ids"]), state
"""
SB3 = "from stable_baselines3 import A2C, DQN, PPO, SAC\nfrom sb3_contrib import ARS, MaskablePPO\n"


class Plays:
    """A run over the stub task, which keeps the updates that it follows."""

    def __init__(self, make_envs: Any, steps: int = 2) -> None:
        self.make, self.seed, self.updates = make_envs, 3, 0
        self.updates_done: list[Any] = []
        self.training = SimpleNamespace(
            batch_size=4, max_new_tokens=6, steps=steps, last_step=steps, tokens=None, device="cpu"
        )

    def make_envs(self, num_envs: int, *, normalize: bool = False) -> Any:
        del normalize
        return self.make(num_envs=num_envs)

    def resume(self, load: Any) -> None:
        """Begin anew."""

    def train(self, learner: Any) -> Any:
        self.settings = learner.default_settings()
        for update in learner.train(self):
            if self.follow(update):
                break
        return self.agent

    def follow(self, update: Any) -> bool:
        self.agent = update.agent
        self.updates_done.append((update.step, update.tokens))
        return bool(update.step >= self.training.steps)


def learner_of(tmp_path: Any, code: str, name: str = "Mine") -> Any:
    (tmp_path / "mine.py").write_text(code)
    return find_learner(f"{tmp_path}/mine.py:{name}")


@pytest.mark.parametrize(
    "learn",
    [
        "def learn(self, episodes): self.met.append(len(episodes))",
        "def learn(self, rows, /, *, rate=0.1): self.met.append(len(rows))",
        "def learn(self, *played): self.met.append(len(played[0]))",
        "def learn(self, data, epochs=3, **others): self.met.append(len(data))",
    ],
)
def test_learn_is_called_by_position(tmp_path, make_envs, learn):
    learner = learner_of(tmp_path, f"class Mine:\n{PLAYS}    {learn}\n")
    assert learner.uses_credit
    agent = Plays(make_envs).train(learner)
    assert agent.met == [4, 4]


@pytest.mark.parametrize(
    ("learn", "said"),
    [
        ("def learn(self): pass", r"learn\(\)"),
        ("def learn(self, total_timesteps): pass", r"learn\(total_timesteps\).*given steps"),
        ("def learn(self, states, rewards): pass", r"learn\(states, rewards\)"),
        ("def learn(self, episodes, *, rate): pass", r"learn\(episodes, rate\)"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_name(tmp_path, learn, said):
    with pytest.raises(SettingsError, match=rf"mine\.py:Mine cannot be trained by {said}"):
        learner_of(tmp_path, f"class Mine:\n{PLAYS}    {learn}\n")


def test_what_has_no_learn_is_frozen_and_says_so(tmp_path, make_envs, caplog):
    learner = learner_of(tmp_path, f"class Mine:\n{PLAYS}")
    assert (learner.is_frozen, learner.uses_credit) == (True, False)
    Plays(make_envs).train(learner)
    assert "mine.py:Mine is frozen" in caplog.text


@pytest.mark.parametrize("name", ["A2C", "PPO", "DQN", "MaskablePPO", "Sub", "Own"])
def test_stock_algorithms_learn_by_tokens(tmp_path, make_envs, name):
    code = SB3 + (
        "class Sub(PPO):\n    pass\n"
        "class Own(A2C):\n"
        "    def __init__(self, env, seed=None):\n"
        "        super().__init__('MultiInputPolicy', env, n_steps=3, seed=seed)\n"
    )
    first: dict[Any, Any] = {}
    for turn in range(2):
        run = Plays(make_envs)
        agent = run.train(learner_of(tmp_path, code, name))
        steps, tokens = zip(*run.updates_done, strict=True)
        assert steps[0] == tokens[0] == 0
        assert steps[-1] == 2
        assert tokens[-1] == agent.num_timesteps >= 48  # two updates of 4 rows of 6 tokens
        assert list(tokens) == sorted(tokens)
        weights = {key: value.clone() for key, value in agent.policy.state_dict().items()}
        if turn:
            assert all(value.equal(first[key]) for key, value in weights.items())  # by the seed
        first = weights
    if name in ("A2C", "PPO", "MaskablePPO", "Sub"):
        assert isinstance(agent.rollout_buffer, HindsightRolloutBuffer)
        assert agent.n_steps == 6
    elif name == "DQN":
        assert isinstance(agent.replay_buffer, HindsightReplayBuffer)
        assert (agent.n_steps, agent.learning_starts) == (1, 4 * 6)
    else:
        assert agent.n_steps == 3  # its own


def test_a_stock_algorithm_that_cannot_read_texts_is_refused(tmp_path, make_envs):
    with pytest.raises(SettingsError, match=r"ARS cannot read texts.*MlpPolicy"):
        Plays(make_envs).train(learner_of(tmp_path, SB3, "ARS"))


def test_global_random_state_is_left_alone(tmp_path, make_envs):
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    Plays(make_envs).train(learner_of(tmp_path, SB3, "A2C"))
    assert (np.random.get_state()[1] == before).all()  # type: ignore[index]


def test_an_agent_that_is_made_already_is_frozen(tmp_path, make_envs):
    made = "from tests.suite.agents.test_learner import made\nagent = made()\n"
    assert learner_of(tmp_path, made, "agent").is_frozen


def made() -> Any:
    return stable_baselines3.PPO("MlpPolicy", "CartPole-v1", device="cpu")


def test_a_logged_figure_with_the_name_of_a_column_keeps_its_prefix():
    """A count of tokens is an integer, and a learner's own figure of that name is none."""
    logged = {"train/tokens": 31.4, "train/seed": 0.5, "train/mine": 7.0}
    assert own_columns(logged) == {"train/tokens": 31.4, "train/seed": 0.5, "mine": 7.0}
