"""Models in GGUF files."""

import json
import os
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.lab.tiny_gguf import write_gguf
from tests.support.forked import Forked
from tokengym.agents.policy.language_model import load_causal_lm
from tokengym.base.device import preferred_device
from tokengym.base.errors import PretrainedError
from tokengym.base.models import located, title_of
from tokengym.base.stored.parts import tokenizer_place
from tokengym.rewards.models.loading import load_tokenizer, shared_backbone


def make(file: Path) -> None:
    print(located(file))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOKENGYM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_gguf_file_is_a_model(cache: Path, tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "tiny.gguf")
    ids = torch.tensor([[3, 9, 4, 20]])
    for word in (tmp_path / "tiny.gguf", tmp_path):  # the file, and a folder that has it alone
        loaded = load_causal_lm(word, "float32")
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits, atol=2e-2, rtol=2e-2)
    tokenizer = load_tokenizer(tmp_path / "tiny.gguf")
    assert tokenizer is not None
    assert tokenizer("cad")["input_ids"] == [5, 3, 6]
    assert tokenizer_place(tmp_path / "tiny.gguf")
    assert title_of(tmp_path / "tiny.gguf").endswith("tiny.gguf")
    assert title_of(located(tmp_path)) == str(located(tmp_path))  # its file has no title


def test_every_command_computes_it_in_float32(cache: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    folder = Path(located(tmp_path))
    stored = load_file(folder / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    assert load_causal_lm(folder).dtype == load_causal_lm(tmp_path).dtype == torch.float32
    assert load_causal_lm(folder, adapts=True).dtype == torch.float32
    assert shared_backbone(folder).dtype == torch.float32
    assert load_causal_lm(folder, "bfloat16").dtype == torch.bfloat16
    with preferred_device("cpu", "bfloat16"):  # a training's own choice
        assert shared_backbone(folder).dtype == torch.bfloat16


def test_it_is_read_once_and_checked(
    cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    folder = Path(located(tmp_path / "tiny.gguf"))
    assert folder.parent == cache / "models"
    os.utime(tmp_path / "tiny.gguf", (1, 1))  # as for another process
    assert located(tmp_path / "tiny.gguf") == folder
    assert caplog.text.count(", once:") == 1
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    os.utime(tmp_path / "tiny.gguf", (2, 2))
    located(tmp_path / "tiny.gguf")
    assert f"{folder / 'config.json'} is damaged; it is made anew" in caplog.text
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == 16


def test_two_processes_make_one_folder_also_after_a_kill(cache: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    killed = Forked(make, tmp_path / "tiny.gguf")
    while not list((cache / "models").glob(".*.part")):  # in the middle of writing
        assert killed.is_alive
        time.sleep(0.005)
    killed.kill()
    both = [Forked(make, tmp_path / "tiny.gguf") for _ in range(2)]
    assert [process.end() for process in both] == [0, 0]
    places = [process.printed.splitlines()[-1] for process in both]
    assert places[0] == places[1]
    assert [place.name for place in (cache / "models").iterdir()] == [Path(places[0]).name]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("absent.gguf", r"no file 'absent.gguf'"),
        ("clip.gguf", r"clip.gguf \(.*clip"),
        ("text.gguf", r"cannot read.*text.gguf"),
        ("two", "two.*2.*two/a.gguf"),
    ],
)
def test_words_that_are_no_model(
    word: str, message: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_gguf(tmp_path / "clip.gguf", "clip")
    (tmp_path / "text.gguf").write_text("no model")
    for name in ("two/a.gguf", "two/b.gguf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(PretrainedError, match=message) as caught:
        load_causal_lm(word)
    assert "\n" not in str(caught.value)
