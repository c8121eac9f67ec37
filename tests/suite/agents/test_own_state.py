"""What a class of the user's adds to a learner survives saving, loading and resuming."""

import logging
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.agents.common import make_model, single_env
from tokengym.agents import PPO, CheckpointError, EpisodicAlgorithm
from tokengym.agents.losses import masked_mean
from tokengym.agents.own_state import restore_own_state
from tokengym.agents.sb3 import as_vec_env


class Running(EpisodicAlgorithm):
    """REINFORCE with a running baseline, and a state of every kind that can be kept."""

    has_critic, baseline = False, 0.0

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        self.noise = torch.Generator().manual_seed(5)
        self.draws = np.random.default_rng(6)
        self.head = torch.nn.Linear(2, 1)
        torch.nn.init.zeros_(self.head.weight)
        self.history: list[float] = []
        super().__init__(*arguments, **settings)

    def learn_from(self, played: Any) -> None:
        sequences = played.sequences(self.device)
        score = torch.tensor([episode.score for episode in played.episodes])[:, None]
        now = self.policy.evaluate(sequences, played.action_masks)
        noise = torch.rand((), generator=self.noise) + self.draws.random()
        past = score - self.baseline + 0.01 * noise
        loss = -masked_mean(now.log_probs * past, sequences.response_mask)
        self.policy.optimizer.zero_grad()
        loss.backward()
        self.policy.optimizer.step()
        self.baseline += 0.1 * (score.mean().item() - self.baseline)
        self.history.append(self.baseline)
        with torch.no_grad():
            self.head.weight.add_(self.baseline)


def made(kind: Any = Running) -> Any:
    kwargs = {"model": make_model()}
    return kind("CausalLMPolicy", as_vec_env(single_env()), policy_kwargs=kwargs, seed=0)


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path):
    whole, half = made().learn(60), made().learn(30)
    half.save(tmp_path / "half")
    again = Running.load(tmp_path / "half", env=as_vec_env(single_env()), device="cpu")
    assert again.baseline == half.baseline != 0.0
    again.learn(60 - again.num_timesteps, reset_num_timesteps=False)
    assert again.num_timesteps == whole.num_timesteps
    assert again.history == whole.history
    assert again.baseline == whole.baseline
    assert again.head.weight.equal(whole.head.weight)
    weights = whole.policy.state_dict()
    assert all(weight.equal(weights[name]) for name, weight in again.policy.state_dict().items())


VALUES: dict[str, Any] = {
    "nothing": None,
    "flag": True,
    "count": 2**80,
    "text": "ä\u2028",
    "tiny": 5e-324,
    "infinite": -float("inf"),
    "one": np.float32(0.1),
    "array": np.arange(6, dtype=np.int16).reshape(2, 3).T,
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "nested": {"a": [1, (2.5, "x")], 3: {"b", "a"}, "weights": torch.ones(2)},
}


def test_values_come_back_as_they_were(tmp_path):
    agent = made(PPO)
    vars(agent).update({f"my_{name}": value for name, value in VALUES.items()})
    agent.save(tmp_path / "agent")
    again: Any = PPO.load(tmp_path / "agent", device="cpu")
    for name, value in VALUES.items():
        found = getattr(again, f"my_{name}")
        assert type(found) is type(value), name
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(found, value, strict=True)
        elif isinstance(value, torch.Tensor):
            assert found.equal(value)
            assert found.dtype == value.dtype
        elif name != "nested":
            assert found == value, name
    weights = again.my_nested.pop("weights")
    assert again.my_nested == {"a": [1, (2.5, "x")], 3: {"a", "b"}}
    assert weights.tolist() == [1.0, 1.0]
    # Nothing is written for a learner without a state of its own.
    made(PPO).save(tmp_path / "plain")
    assert not (tmp_path / "plain" / "own.json").exists()


class Odd(PPO):
    """Has something that no file holds."""

    def check_settings(self) -> None:
        super().check_settings()
        self.helper = object()
        self.seen = 3


def test_what_cannot_be_kept_is_named_once(tmp_path, caplog):
    agent = made(Odd)
    for place in ("a", "b"):
        agent.save(tmp_path / place)
    said = [one for one in caplog.messages if "helper" in one]
    assert len(said) == 1
    assert "cannot hold a" in said[0]
    assert "state_dict()" in said[0]
    agent.seen = 4
    agent.save(tmp_path / "c")
    caplog.set_level(logging.WARNING)
    assert Odd.load(tmp_path / "c", device="cpu").seen == 4


def test_a_changed_file_is_refused(tmp_path):
    agent = made(Odd)
    agent.save(tmp_path / "agent")
    file = tmp_path / "agent" / "own.json"
    file.write_text(file.read_text().replace("3", "7"))
    with pytest.raises(CheckpointError):
        Odd.load(tmp_path / "agent", device="cpu")


@pytest.mark.parametrize("name", ["predict", "__dict__", "__class__"])
def test_a_folder_replaces_no_method_of_a_learner(name):
    agent = made(Odd)
    with pytest.raises(CheckpointError, match=f"{name}.*is no name of state"):
        restore_own_state(agent, {name: {"dict": []}}, {})
    assert agent.seen == 3
    assert callable(agent.predict)


class Several(PPO):
    """Has states within lists and dictionaries."""

    def check_settings(self) -> None:
        super().check_settings()
        self.draws = {"a": np.random.default_rng(1), "b": [torch.Generator().manual_seed(2)]}
        self.heads = [torch.nn.Linear(2, 1)]


def test_states_within_lists_and_dictionaries_come_back(tmp_path, caplog):
    agent = made(Several)
    agent.draws["a"].random(3)
    agent.save(tmp_path / "agent")
    again: Any = Several.load(tmp_path / "agent", device="cpu")
    assert again.draws["a"].random() == np.random.default_rng(1).random(4)[3]
    assert again.draws["b"][0].initial_seed() == 2
    assert again.heads[0].weight.equal(agent.heads[0].weight)
    # Where one state has no place, the attribute stays whole as the constructor made it.
    agent.heads.append(torch.nn.Linear(2, 1))
    agent.draws["c"] = np.random.default_rng(3)
    agent.save(tmp_path / "more")
    again = Several.load(tmp_path / "more", device="cpu")
    assert list(again.draws) == ["a", "b"]
    assert again.draws["a"].random() == np.random.default_rng(1).random()
    assert len(again.heads) == 1
    assert not again.heads[0].weight.equal(agent.heads[0].weight)
    said = [one for one in caplog.messages if "takes a state" in one]
    assert sorted(one.split()[4] for one in said) == ["draws", "heads"]


def test_sets_of_several_types_are_kept_and_a_circle_is_named(tmp_path, caplog):
    agent = made(PPO)
    agent.my_set = {"b", 1, None, (2, "a")}
    circle: list[Any] = []
    agent.my_circle = circle
    circle.append(circle)
    agent.save(tmp_path / "agent")
    again: Any = PPO.load(tmp_path / "agent", device="cpu")
    assert again.my_set == {"b", 1, None, (2, "a")}
    assert not hasattr(again, "my_circle")
    (said,) = [one for one in caplog.messages if "my_circle" in one]
    assert "\n" not in said
