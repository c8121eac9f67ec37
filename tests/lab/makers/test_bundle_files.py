import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from tokengym.lab.makers.bundle_files import (
    BuiltBundle,
    PromptRow,
    check_target,
    write_bundle,
)
from tokengym.lab.makers.models import reward_model_from
from tokengym.lab.makers.options import BuildError


@pytest.fixture
def bundle(tokenizer, language_model):
    return BuiltBundle(
        task="movie_review",
        tokenizer=tokenizer,
        prompts=[
            PromptRow(prompt="the film", split="train"),
            PromptRow(prompt="i saw", reference="it", query_type="CONSTRAINED", split="test"),
        ],
        models={
            "policy": language_model,
            "reward_model": reward_model_from(language_model, seed=0),
        },
        figures={"seed": 3},
    )


def test_a_written_bundle_reads_back(bundle, tmp_path):
    path = tmp_path / "a" / "bundle"
    write_bundle(bundle, path)
    assert sorted(file.name for file in path.iterdir()) == [
        "bundle.json",
        "policy",
        "prompts.jsonl",
        "reward_model",
        "tokenizer",
    ]
    assert json.loads((path / "bundle.json").read_text()) == {
        "task": "movie_review",
        "format": 1,
        "seed": 3,
    }
    rows = [json.loads(line) for line in (path / "prompts.jsonl").read_text().splitlines()]
    assert rows[0] == {
        "prompt": "the film",
        "reference": None,
        "query_type": None,
        "split": "train",
    }
    assert rows[1]["query_type"] == "CONSTRAINED"
    assert len(AutoTokenizer.from_pretrained(path / "tokenizer")) == len(bundle.tokenizer)


def test_weights_are_half_on_disk_and_full_when_loaded(bundle, tmp_path):
    write_bundle(bundle, tmp_path / "bundle")
    stored = load_file(tmp_path / "bundle" / "policy" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert "lm_head.weight" not in stored  # tied to the embedding
    policy = AutoModelForCausalLM.from_pretrained(tmp_path / "bundle" / "policy")
    assert policy.dtype == torch.float32
    own = bundle.models["policy"]
    assert own.dtype == torch.float32
    ids = torch.tensor([[5, 6, 7]])
    assert torch.allclose(policy(ids).logits, own(ids).logits, atol=1e-2)


def test_reward_of_a_loaded_model_does_not_depend_on_the_padding_side(bundle, tmp_path):
    write_bundle(bundle, tmp_path / "bundle")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "bundle/reward_model")
    right = model(torch.tensor([[5, 6, 7, 0, 0]]), attention_mask=torch.tensor([[1, 1, 1, 0, 0]]))
    left = model(
        torch.tensor([[0, 0, 5, 6, 7]]),
        attention_mask=torch.tensor([[0, 0, 1, 1, 1]]),
        position_ids=torch.tensor([[0, 0, 0, 1, 2]]),
    )
    assert torch.allclose(left.logits, right.logits, atol=1e-5)


def test_a_bundle_replaces_a_bundle_and_nothing_else(bundle, tmp_path):
    write_bundle(bundle, tmp_path / "bundle")
    write_bundle(bundle, tmp_path / "bundle")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(BuildError, match=r"mine.*bundle.*--out"):
        write_bundle(bundle, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bundle", "mine"]


def test_new_and_empty_folders_are_fine(tmp_path):
    check_target(tmp_path / "new")
    check_target(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match=r"file.*bundle"):
        check_target(tmp_path / "file")
