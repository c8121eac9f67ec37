"""The reward model of another architecture: its recipe runs, and its attention can be read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from tokengym.base.files import read_json
from tokengym.credit import assign
from tokengym.envs import bundled
from tokengym.lab.makers.bundles.other_reward_models import FIGURES, build_again, build_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("llama")
    build_llama(made, reviews=200, prompts=20, language_steps=2, reward_steps=2)
    return made


def test_a_rule_reads_the_attention_of_a_llama(folder: Path):
    tokenizer: Any = bundled("movie_review").tokenizer
    texts = ["a wonderful story with a dull plot", "the cast was great"]
    found = assign(texts, folder, "abc", tokenizer=tokenizer)
    np.testing.assert_allclose(found.token_rewards.sum(1), found.scores, atol=1e-5)
    for rewards, mask in zip(found.token_rewards, found.mask, strict=True):
        assert len(set(rewards[mask].tolist())) > 2


def test_what_is_there_is_not_built_again(folder: Path):
    figures = read_json(folder / FIGURES)
    assert set(figures) == {"24", "40", "64"}
    before = (folder / FIGURES).stat().st_mtime_ns
    build_llama(folder)
    assert (folder / FIGURES).stat().st_mtime_ns == before


@pytest.mark.parametrize("task", ["movie_review", "dialogue"])  # Detox has the latter's recipe
def test_a_reward_model_made_again_is_another_one_of_the_same_shape(task: str, tmp_path: Path):
    for half in (0, 1):
        build_again(task, tmp_path / str(half), seed=half + 1, half=half, steps=2, texts=40)
    folders = [bundled(task).reward_model, tmp_path / "0", tmp_path / "1"]
    weights = [load_file(folder / "model.safetensors") for folder in folders]
    assert {name: of.shape for name, of in weights[1].items()} == {
        name: of.shape for name, of in weights[0].items()
    }
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert any((weights[one][name] != weights[other][name]).any() for name in weights[one])


def test_a_half_is_one_of_two(tmp_path: Path):
    with pytest.raises(ValueError, match="got 2"):
        build_again("detox", tmp_path, seed=1, half=2)
