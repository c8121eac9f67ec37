"""What a class of the user's adds to a learner survives saving, loading and resuming."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.support.agents.common import make_model, single_env
from tokengym.agents import PPO, CheckpointError, EpisodicAlgorithm
from tokengym.agents.losses import masked_mean
from tokengym.agents.sb3 import as_vec_env


class Running(EpisodicAlgorithm):
    """REINFORCE with a running baseline, and a state of every kind."""

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

    def state_dict(self) -> dict[str, Any]:
        names = ("baseline", "history")
        draws = {"noise": self.noise.get_state(), "draws": self.draws.bit_generator.state}
        return {n: getattr(self, n) for n in names} | draws | {"head": self.head.state_dict()}

    def load_state_dict(self, state: Any) -> None:
        self.baseline, self.history = state["baseline"], state["history"]
        self.noise.set_state(state["noise"])
        self.draws.bit_generator.state = state["draws"]
        self.head.load_state_dict(state["head"])


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


def test_states_come_back_as_they_were(tmp_path, monkeypatch):
    agent = made()
    state = {"count": 2**80, "text": "ä\u2028", "tiny": 5e-324, "none": None, "of": {"b": [1, 2]}}
    half = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)
    agent.state_dict = lambda: {**state, "heads": [{"0.weight": half}]}
    agent.save(tmp_path / "agent")
    taken: list[Any] = []
    monkeypatch.setattr(Running, "load_state_dict", lambda self, state: taken.append(state))
    Running.load(tmp_path / "agent", device="cpu")
    (found,) = taken
    (head,) = found.pop("heads")
    assert found == state
    assert head["0.weight"].dtype == torch.bfloat16
    assert head["0.weight"].equal(half)


def test_what_cannot_be_kept_is_refused(tmp_path):
    agent = made()
    for odd in (np.zeros(2), object(), float("nan"), (1, 2), {3: 1}):
        agent.history = [odd]
        with pytest.raises(CheckpointError, match=r"state_dict\(\) of the agent .*tolist\(\)"):
            agent.save(tmp_path / "agent")


class Odd(PPO):
    """Has a state that nothing gives."""

    def check_settings(self) -> None:
        super().check_settings()
        self.seen = 3


def test_a_class_that_gives_no_state_is_told_once(tmp_path, caplog):
    agent = made(Odd)
    agent.seen = 4
    for place in ("a", "b"):
        agent.save(tmp_path / place)
    (said,) = [one for one in caplog.messages if "begins anew" in one]
    assert said.startswith("Odd has no state_dict() and load_state_dict(state)")
    assert Odd.load(tmp_path / "a", device="cpu").seen == 3
    # Nothing is written for a learner without a state of its own, nor said of the package's.
    caplog.clear()
    made(PPO).save(tmp_path / "plain")
    assert not (tmp_path / "plain" / "own.json").exists()
    assert not caplog.messages


def test_a_changed_file_is_refused(tmp_path):
    agent = made()
    agent.save(tmp_path / "agent")
    file = tmp_path / "agent" / "own.json"
    file.write_text(file.read_text().replace("0.0", "0.5"))
    with pytest.raises(CheckpointError, match=r"own\.json is damaged"):
        Running.load(tmp_path / "agent", device="cpu")


def test_a_state_that_the_class_refuses_is_told_in_one_line(tmp_path, monkeypatch):
    made().save(tmp_path / "agent")
    monkeypatch.setattr(Running, "load_state_dict", lambda self, state: state["window"])
    with pytest.raises(CheckpointError, match=r"the agent cannot load its state .*'window'.*was$"):
        Running.load(tmp_path / "agent", device="cpu")


class Scaled:
    """An estimator with a state."""

    calls = 0

    def __call__(self, token_rewards: Any, response_mask: Any) -> Any:
        self.calls += 1
        return token_rewards * response_mask / self.calls

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: Any) -> None:
        self.calls = state["calls"]


def test_the_state_of_an_estimator_is_kept(tmp_path, caplog):
    envs, kwargs = as_vec_env(single_env()), {"model": make_model()}
    agent = PPO("CausalLMPolicy", envs, policy_kwargs=kwargs, seed=0, advantage=Scaled())
    scaled: Any = agent.estimator.function
    scaled.calls = 5
    agent.save(tmp_path / "agent")
    again = PPO.load(tmp_path / "agent", device="cpu", advantage=Scaled())
    kept: Any = again.estimator.function
    assert kept.calls == 5
    assert not [one for one in caplog.messages if "begins anew" in one]
    PPO.load(tmp_path / "agent", device="cpu", advantage="reinforce")
    assert "the estimator begins anew: only the checkpoint has a state of it" in caplog.messages
