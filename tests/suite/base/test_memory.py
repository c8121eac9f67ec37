"""Numbers that the memory at hand bounds."""

import json
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from tokengym.base.errors import SettingsError
from tokengym.base.files import write_hashed
from tokengym.base.settings import check_memory
from tokengym.envs import TokenGenerationEnv, TokenGenerationVectorEnv
from tokengym.evaluation.runs.settings import EvaluationSettings, TrainingSettings
from tokengym.scripts.cli import main


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Play a machine with 64,000 bytes of memory."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=64_000))


@pytest.mark.usefixtures("small")
def test_the_largest_value_fits_and_one_more_is_refused():
    check_memory("texts", 640, bytes_each=100)
    with pytest.raises(SettingsError, match=r"texts.*640.*got 641"):
        check_memory("texts", 641, bytes_each=100)


@pytest.mark.usefixtures("small")
def test_a_response_that_memory_cannot_hold_is_refused(tokenizer):
    make: dict[str, Any] = {"tokenizer": tokenizer, "prompts": ["a"]}
    TokenGenerationEnv(**make, max_new_tokens=1000)
    with pytest.raises(SettingsError, match=r"max_new_tokens.*1,000"):
        TokenGenerationEnv(**make, max_new_tokens=1001)
    TokenGenerationVectorEnv(num_envs=10, **make, max_new_tokens=100)
    with pytest.raises(SettingsError, match=r"max_new_tokens.*100"):
        TokenGenerationVectorEnv(num_envs=10, **make, max_new_tokens=101)


@pytest.mark.usefixtures("small")
def test_a_prompt_that_memory_cannot_hold_is_refused(tokenizer):
    make: dict[str, Any] = {"tokenizer": tokenizer, "prompts": ["a"] * 4, "max_new_tokens": 1}
    TokenGenerationEnv(**make, max_prompt_tokens=7_100)
    with pytest.raises(SettingsError, match=r"max_prompt_tokens.*7,111"):
        TokenGenerationEnv(**make, max_prompt_tokens=7_112)


@pytest.mark.usefixtures("small")
def test_an_evaluation_that_memory_cannot_hold_is_refused():
    EvaluationSettings(episodes=64, reference_samples=64)
    with pytest.raises(SettingsError, match=r"^episodes must.*64"):
        EvaluationSettings(episodes=65, reference_samples=0)
    with pytest.raises(SettingsError, match=r"^reference_samples must.*64"):
        EvaluationSettings(episodes=1, reference_samples=80)


@pytest.mark.usefixtures("small")
def test_a_batch_that_memory_cannot_hold_is_refused_by_its_own_name():
    TrainingSettings(batch_size=40, max_new_tokens=8)  # 1000 bytes a row, and 64 a token
    with pytest.raises(SettingsError, match=r"^batch_size must.*42.*got 43"):
        TrainingSettings(batch_size=43, max_new_tokens=8)
    with pytest.raises(SettingsError, match=r"^max_new_tokens must.*1,000"):
        TrainingSettings(batch_size=2, max_new_tokens=10**9)


def test_a_stored_length_is_checked_like_a_typed_one(tmp_path, capsys):
    tiny = ["--updates", "1", "--batch-size", "4", "--eval-episodes", "2", "--max-new-tokens", "4"]
    run = tmp_path / "run"
    assert main(["train", *tiny, "--reference-samples", "0", "--out", str(run)]) == 0
    (file,) = run.rglob("spec.json")
    record = json.loads(file.read_text())
    record["training"]["max_new_tokens"] = 10**12
    write_hashed(file, {k: v for k, v in record.items() if k != "hash"})
    file.with_name("run.json").unlink()  # it has the hash of what the spec was
    capsys.readouterr()
    assert main(["evaluate", str(run / "agent"), "--num-episodes", "2"]) == 2
    assert "--max-new-tokens must be at most" in capsys.readouterr().err
