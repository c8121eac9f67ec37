"""What a saved folder names: the class of its agent, and a partner."""

import json
from pathlib import Path
from typing import Any

import pytest

import tokengym.agents
from tests.support.comparisons import comparison
from tokengym.agents.loading import SAVED_AGENTS, load_agent
from tokengym.base.files import read_hashed, write_hashed
from tokengym.envs import UntrustedCodeError
from tokengym.evaluation.measure.evaluate import Evaluator
from tokengym.evaluation.runs.comparison import Comparison
from tokengym.evaluation.runs.settings import TaskSettings
from tokengym.evaluation.runs.trusted import known_task


def begun(folder: Path, *rewards: str, **task: Any) -> Comparison:
    """Write what the runs of a comparison have in their folders from their beginning."""
    config = comparison("MovieReview", rewards=rewards or ("sparse",), seeds=1, **task)
    for spec in config.specs(folder):
        spec.write({})
    return config


@pytest.mark.parametrize("name", sorted({*tokengym.agents.__all__} - {*SAVED_AGENTS}))
def test_what_is_no_saved_learner_is_refused_by_name(tmp_path, name):
    (tmp_path / "checkpoint.json").write_text(json.dumps({"algorithm": name}))
    with pytest.raises(ValueError, match=f"was saved by {name}, which is none"):
        load_agent(tmp_path)


def test_a_stored_partner_of_a_file_is_run_only_if_it_is_named(tmp_path):
    ran, file = tmp_path / "ran", tmp_path / "own.py"
    file.write_text(
        f"open({str(ran)!r}, 'w').close()\n\n\ndef asks(said, metadata, rng):\n    return None\n"
    )
    word = f"{file}:asks"
    begun(tmp_path, partner=word, max_turns=2)
    ran.unlink(missing_ok=True)
    with pytest.raises(UntrustedCodeError, match=r"names code, .*own\.py:asks .*SHA-256"):
        known_task(tmp_path, None)
    assert not ran.exists()
    _, kwargs = known_task(tmp_path, None, task=TaskSettings(partner=word))
    assert kwargs["partner"] == word
    assert kwargs["max_turns"] == 2


SCORER = """
def brevity(prompt, response):
    return -float(len(response))
"""


def test_an_agent_is_measured_by_the_scorer_that_measured_its_run(tmp_path):
    (tmp_path / "own.py").write_text(SCORER)
    word = f"{tmp_path}/own.py:brevity"
    begun(tmp_path, word, "abc")
    with pytest.raises(
        UntrustedCodeError, match=r"names code, .*own\.py:brevity .*trust_code=True"
    ):
        known_task(tmp_path, None, judged=True)
    env, kwargs = known_task(tmp_path, None, judged=True, trust_code=True)
    assert Evaluator(env, kwargs, num_episodes=2).measured_by.endswith("and the score by brevity")
    for task, options in ((None, {}), (TaskSettings(scorer="words"), {"judged": True})):
        assert "reward" not in known_task(tmp_path, None, task=task, **options)[1]


def test_data_that_have_changed_since_the_run_are_said(tmp_path, caplog):
    """Prompts that were held out may be others then; code that has changed was said alone."""
    file, other = tmp_path / "prompts.csv", tmp_path / "other.csv"
    for path in (file, other):
        path.write_text("prompt\nit is\nit was\n")
    begun(tmp_path, dataset=str(file))
    known_task(tmp_path, None)
    assert not caplog.messages
    file.write_text("prompt\nit is\nit was\nit will be\n")
    known_task(tmp_path, None, task=TaskSettings(dataset=str(other)))  # which is read instead
    assert not caplog.messages
    known_task(tmp_path, None)
    assert [m for m in caplog.messages if f"{file} has changed: its SHA-256 was" in m]


def test_data_of_a_run_that_are_gone_are_not_looked_up_on_the_hub(tmp_path, monkeypatch):
    """Their paths are relative to the folder in which the run was started."""
    here = tmp_path / "here"
    (here / "prompts").mkdir(parents=True)
    (here / "prompts" / "a.csv").write_text("prompt\nit is\nit was\n")
    monkeypatch.chdir(here)
    begun(here / "runs", dataset="prompts")  # which could be a name on the hub
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="cannot be found from here: prompts; run the command in"):
        known_task(here / "runs", None)
    other = TaskSettings(dataset=str(here / "prompts"))
    assert known_task(here / "runs", None, task=other)[1]["dataset"] == str(here / "prompts")


@pytest.mark.parametrize("rewards", [[], [3]])
def test_damaged_rewards_are_one_line(tmp_path, rewards):
    begun(tmp_path)
    file = tmp_path / "sparse" / "seed-0" / "spec.json"
    write_hashed(file, {**read_hashed(file), "rewards": rewards})
    with pytest.raises(ValueError, match=r"spec\.json is damaged or of another version"):
        known_task(tmp_path, None, judged=True)


def test_stored_lengths_are_those_that_the_run_was_measured_with(tmp_path):
    config = begun(tmp_path, min_new_tokens=5, fixed_length=False)
    measured = config.runs[0].env_kwargs(train=False)
    lengths = {"min_new_tokens": 5, "max_new_tokens": measured["max_new_tokens"]}
    _, kwargs = known_task(tmp_path, None)
    assert {name: kwargs[name] for name in lengths} == lengths
    assert {name: measured[name] for name in lengths} == lengths
    _, kwargs = known_task(tmp_path, None, task=TaskSettings(max_new_tokens=9))
    assert {name: kwargs[name] for name in lengths} == {"min_new_tokens": 5, "max_new_tokens": 9}
