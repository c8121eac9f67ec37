"""Models by name, and in files that an installed package reads."""

import importlib.util
import json
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from transformers import AutoConfig

from tokengym.base import models
from tokengym.base.errors import PretrainedError
from tokengym.base.models import FORMATS, MODELS, StoredModel, located, title_of
from tokengym.base.pretrained import from_pretrained


def test_packages_add_models(tmp_path, monkeypatch):
    tmp_path.joinpath("config.json").write_text(json.dumps({"model_type": "llama"}))
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: ModuleSpec(name, None, origin=str(tmp_path / "x"))
    )
    made = StoredModel(
        name="mine", title="Mine, 8-bit", package="mine", install="", folder=lambda place: place
    )
    monkeypatch.setattr(MODELS, "plugins", lambda: ["mine"])
    monkeypatch.setattr(MODELS, "load", lambda word: made)
    assert from_pretrained(AutoConfig, "mine").model_type == "llama"
    assert title_of("mine") == "Mine, 8-bit"


def test_a_file_that_no_package_reads(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(FORMATS, "plugins", lambda: [])
    monkeypatch.setattr(models, "missing_laboratory", lambda: "; pip install tokengym-lab")
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    with pytest.raises(
        PretrainedError,
        match=r"tiny\.gguf.*GGUF.*tokengym",
    ):
        located(tmp_path / "tiny.gguf")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_converter_is_a_function_of_file_and_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(FORMATS, "_entries", {"gguf": lambda file, folder: write(folder, "a")})

    def write(folder: Path, text: str) -> None:
        (folder / "config.json").write_text(text)

    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    folder = located(tmp_path / "tiny.gguf")
    assert (Path(folder) / "config.json").read_text() == "a"
    assert located(tmp_path) == folder  # a folder that has one such file
