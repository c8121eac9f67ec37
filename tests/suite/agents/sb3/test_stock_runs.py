"""Stock algorithms as arms of a comparison: their words, and runs that were stopped."""

import json
import pickle
import shutil
from base64 import b64encode
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import gymnasium as gym
import pytest
import sb3_contrib
import stable_baselines3
import torch

import tokengym
from tests.suite.evaluation.runs.killed import Killed, files, killed_at
from tests.support.comparisons import comparison, trainings
from tokengym.agents import collect
from tokengym.agents.errors import CheckpointError
from tokengym.agents.learner import LEARNERS, find_learner, word_of
from tokengym.agents.loading import load_agent
from tokengym.agents.sb3.saved import ENTRIES
from tokengym.base.errors import SettingsError, UntrustedCodeError
from tokengym.base.files import read_json, write_hashed
from tokengym.base.folders import write_folder
from tokengym.base.settings import changed
from tokengym.evaluation.runs.comparison import Comparison
from tokengym.evaluation.runs.run import run
from tokengym.evaluation.runs.settings import EvaluationSettings, TrainingSettings
from tokengym.evaluation.runs.spec import run_folder
from tokengym.evaluation.runs.trusted import trusted_spec

ENV = "tokengym/MovieReview-v0"
TRAINING = changed(TrainingSettings(), steps=3, batch_size=4, max_new_tokens=6)
EVALUATION = EvaluationSettings(every=1, episodes=4, samples=1, reference_samples=0)


def arms(*agents: str, **changes: Any) -> Comparison:
    settings: dict[str, Any] = {"env": ENV, "rewards": ("abc",), "seeds": 1, "agents": agents}
    settings |= {"training": TRAINING, "evaluation": EVALUATION}
    return comparison(**settings | changes)


# --- words ----------------------------------------------------------------------------------------


def test_a_word_names_a_class_with_options_of_its_constructor():
    config = arms("ppo", "sb3:A2C:learning_rate=1e-3,n_steps=5", "sb3_contrib:QRDQN")
    _, a2c, qrdqn = (run.training for run in config.runs)
    assert (a2c.agent, a2c.learner.learning_rate, a2c.learner.n_steps) == ("sb3:A2C", 1e-3, 5)
    # Its own default, whatever the task has for language models.
    assert qrdqn.learner.learning_rate == 5e-5
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("sb3:A2CC", "'A2CC'.*A2C,"),
        ("sb3:A2C:learning_rat=1", r"A2CSettings.*'learning_rat'.*learning_rate"),
        ("sb3:A2C:learning_rate=fast", r"learning_rate.*got 'fast'"),
        ("sb3:PPO:batch_size=64", "write minibatch_size"),
        ("sb3:DQN:n_steps=3", r"DQNSettings.*'n_steps'"),
        ("missing.package:Agent", "ModuleNotFoundError"),
        ("sb3_contrib:ARS", "cannot read texts"),
    ],
)
def test_what_a_word_cannot_say_is_refused_in_one_line(word, said):
    with pytest.raises(SettingsError, match=said) as caught:
        arms("ppo", word)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("normalize", "running"), ("lora_rank", 4)])
def test_what_has_no_effect_on_a_stock_algorithm_is_refused(name, value):
    a2c = find_learner("sb3:A2C").default_settings()
    with pytest.raises(SettingsError, match=rf"{name}={value!r}.*agent='sb3:A2C'"):
        TrainingSettings(agent="sb3:A2C", learner=a2c, **{name: value})
    of_first = changed(TRAINING, **{name: value})
    assert getattr(trainings(arms("ppo", "sb3:A2C", training=of_first))["ppo"], name) == value


def test_an_algorithm_without_discrete_actions_is_refused_before_any_run():
    assert find_learner("sb3:A2C").summary == "Advantage Actor Critic (A2C)"
    learner = find_learner("sb3:SAC")
    with pytest.raises(SettingsError, match=r"sb3:SAC.*discrete"):
        learner.check_settings(learner.default_settings(), 4)


@pytest.mark.parametrize(
    ("made", "word"),
    [
        (stable_baselines3.A2C, "sb3:A2C"),
        (sb3_contrib.MaskablePPO, "sb3_contrib:MaskablePPO"),
        (tokengym.PPO, "ppo"),
        (find_learner("loo"), "loo"),
    ],
)
def test_the_word_of_a_class_finds_it_again(made, word):
    assert word_of(made) == word
    if isinstance(made, type) and ":" in word:
        assert LEARNERS.load(word) is made


def test_a_module_that_a_saved_folder_names_is_not_imported(tmp_path):
    spec = arms("ppo").runs[0].as_dict()
    word = "antigravity.sub:Agent"
    agent = {**spec["agent"], "text": word, "name": word}
    write_hashed(tmp_path / "spec.json", {**spec, "agent": agent})
    with pytest.raises(UntrustedCodeError, match=r"antigravity\.sub"):
        trusted_spec(tmp_path)


# --- runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "word",
    [
        "sb3:A2C",
        "sb3:A2C:n_steps=5",  # rollouts end within episodes
        "sb3:PPO:n_epochs=2,minibatch_size=8",
        "sb3:DQN:train_freq=1,exploration_fraction=1.0",
        "sb3_contrib:MaskablePPO:minibatch_size=8",
        "sb3_contrib:QRDQN:train_freq=2,minibatch_size=8",
        "sb3_contrib:TRPO:minibatch_size=8",
    ],
)
def test_a_stopped_run_goes_on_to_the_same_numbers(tmp_path, word):
    config = arms("ppo", word)
    run(config, word, 0, out=tmp_path / "whole", save=tmp_path / "agent")
    whole = files(run_folder(tmp_path / "whole", word, 0))
    assert [row["step"] for row in whole["train.csv"]] == ["1", "2", "3"]
    assert {row["kl"] for row in whole["curve.csv"]} == {""}
    with pytest.raises(Killed):  # the checkpoint is of step 1
        run(config, word, 0, out=tmp_path / "cut", report=killed_at(3), checkpoint_every=1)
    run(config, word, 0, out=tmp_path / "cut", checkpoint_every=1, save=tmp_path / "again")
    folder = run_folder(tmp_path / "cut", word, 0)
    assert files(folder) == whole
    assert not (folder / "unfinished").exists()
    first, second = (load_agent(tmp_path / name) for name in ("agent", "again"))
    weights = first.policy.state_dict()
    assert all(value.equal(weights[name]) for name, value in second.policy.state_dict().items())


def cut(tmp_path: Path, config: Comparison, word: str, *, at: int) -> Any:
    """Return the files of a run, and of one that was killed at a measurement and continued."""
    run(config, word, 0, out=tmp_path / "whole")
    with pytest.raises(Killed):
        run(config, word, 0, out=tmp_path / "cut", report=killed_at(at), checkpoint_every=1)
    run(config, word, 0, out=tmp_path / "cut", checkpoint_every=1)
    return (files(run_folder(tmp_path / name, word, 0)) for name in ("whole", "cut"))


@pytest.mark.parametrize("reward", ["sparse", "red"])
def test_texts_of_any_length_and_causal_credit_resume_too(tmp_path, reward):
    training = changed(TRAINING, steps=4, max_new_tokens=12, fixed_length=False)
    word = "sb3:A2C:n_steps=5"
    config = arms("ppo", word, training=training, rewards=(reward,))
    whole, resumed = cut(tmp_path, config, word, at=4)
    assert resumed == whole


def test_what_cannot_be_resumed_says_so_and_begins_anew(tmp_path, caplog):
    word = "sb3_contrib:RecurrentPPO:minibatch_size=8,n_epochs=2"
    whole, resumed = cut(tmp_path, arms("ppo", word), word, at=3)
    assert "_last_lstm_states; the run begins anew" in caplog.text
    assert resumed == whole


def test_a_saved_agent_is_loaded_by_sb3_too_and_plays_alike(tmp_path):
    config = arms("ppo", "sb3:A2C")
    run(config, "sb3:A2C", 0, out=tmp_path / "runs", save=tmp_path / "agent")
    ours = load_agent(tmp_path / "agent")
    stock = stable_baselines3.A2C.load(tmp_path / "agent" / "model.zip", device="cpu")
    played = gym.make_vec(ENV, num_envs=4, max_new_tokens=6, split="test")
    observation, _ = played.reset(seed=0)
    assert (
        ours.predict(observation, deterministic=True)[0]
        == stock.predict(observation, deterministic=True)[0]
    ).all()
    assert len(collect(ours, played, 4, seed=0)) == 4


class Evil:
    """Leaves a file where it is unpickled."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self):
        return Path.touch, (self.ran,)


@pytest.mark.parametrize("entry", ["data", "policy.pth", "state.pth"])
def test_nothing_of_a_saved_agent_is_unpickled(tmp_path, entry):
    """Of a folder whose hashes fit: Stable-Baselines3's own loading would run the first."""
    config, ran = arms("ppo", "sb3:A2C"), tmp_path / "ran"
    run(config, "sb3:A2C", 0, out=tmp_path / "runs", save=tmp_path / "agent")
    torch.save(Evil(ran), weights := tmp_path / "evil.pth")
    pickled = {":type:": "x", ":serialized:": b64encode(pickle.dumps(Evil(ran))).decode()}

    def fill(part: Path) -> dict[str, Any]:
        state = tmp_path / "agent" / "state.pth"
        shutil.copy(weights if entry == "state.pth" else state, part / "state.pth")
        with ZipFile(tmp_path / "agent/model.zip") as old, ZipFile(part / "model.zip", "w") as new:
            for name in old.namelist():
                content = weights.read_bytes() if name == entry else old.read(name)
                is_data = name == entry == "data"
                new.writestr(name, json.dumps({"evil": pickled}) if is_data else content)
        record = read_json(tmp_path / "agent" / "stock.json")
        return {name: record[name] for name in ("format", *ENTRIES)}

    write_folder(tmp_path / "evil", "stock.json", fill)
    if entry == "policy.pth":
        with pytest.raises(CheckpointError, match=r"model\.zip.*damaged"):
            load_agent(tmp_path / "evil")
    else:
        load_agent(tmp_path / "evil")
    assert not ran.exists()


def test_a_class_of_ones_own_is_loaded_where_it_is_named(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from stable_baselines3 import A2C\n\nclass Mine(A2C):\n    pass\n"
    )
    word = f"{tmp_path}/mine.py:Mine"
    run(arms("ppo", word), word, 0, out=tmp_path / "runs", save=tmp_path / "agent")
    with pytest.raises(UntrustedCodeError, match=r"mine\.py:Mine"):
        load_agent(tmp_path / "agent")
    assert type(load_agent(tmp_path / "agent", word)).__name__ == "Mine"
    assert type(load_agent(tmp_path / "agent", trust_code=True)).__name__ == "Mine"
