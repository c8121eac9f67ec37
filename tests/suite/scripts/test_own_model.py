"""A language model of one's own, in the Hugging Face format, from the command line."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from tests.support.stored import settings_of
from tokengym.base.errors import SettingsError
from tokengym.envs import bundled
from tokengym.envs.tasks.task import _say_cut as cut_notice
from tokengym.evaluation.measure.environments import resolve_env
from tokengym.evaluation.measure.evaluate import _say_fewer as fewer_notice
from tokengym.scripts.cli import main

SMALL = ["--updates", "1", "--batch-size", "4", "--n-epochs", "1", "--eval-episodes", "4"]
LENGTHS = ["--max-new-tokens", "6"]
END = "<|endoftext|>"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer of 300 tokens, END among them, without a pad token."""
    bytes_ = Tokenizer(models.BPE())
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    bytes_.train_from_iterator(bundled("movie_review").prompts().texts[:200], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bytes_, eos_token=END)


@pytest.fixture
def model(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64, eos_token_id=0
    )
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def train(model: Path, *options: str) -> int:
    arguments = ["train", "--env", "MovieReview", "--model", str(model), *SMALL, *options]
    return main([*arguments, "--out", str(model.parent / "run")])


def test_a_model_brings_its_tokenizer_and_the_agent_its_task(model, capsys, caplog):
    assert train(model, *LENGTHS) == 0  # its EOS pads
    assert "gold score, Sentiment" in caplog.text  # it reads other words
    said = capsys.readouterr().out.splitlines()
    assert any("gold is left out" in line for line in said)
    assert not any("gold" in line for line in said if "score from " in line)
    agent = str(model.parent / "run" / "agent")
    assert main(["evaluate", agent, "--num-episodes", "4", "--samples", "0"]) == 0
    assert "Score" in capsys.readouterr().out


def test_a_token_that_was_added_gets_a_row_of_its_own(model, tokenizer):
    padded = PreTrainedTokenizerFast.from_pretrained(model)
    padded.add_special_tokens({"pad_token": "[PAD]"})
    padded.save_pretrained(model)
    assert train(model, *LENGTHS) == 0
    before, after = (
        next(AutoModelForCausalLM.from_pretrained(path).get_input_embeddings().parameters())
        for path in (model, model.parent / "run" / "agent" / "reference")
    )
    assert (len(before), len(after)) == (300, 301)
    assert torch.equal(after[:300], before)
    assert torch.allclose(after[300], before.mean(0))


def test_a_text_beyond_the_context_is_refused_before_the_first_token(model, capsys):
    assert train(model, "--pad-token", END, "--max-new-tokens", "300") == 2
    assert "reads 64 tokens" in capsys.readouterr().err


def test_the_tokenizer_may_lie_elsewhere(model):
    tokenizer = model.parent / "tokenizer"
    tokenizer.mkdir()
    for file in model.glob("tokenizer*"):
        file.rename(tokenizer / file.name)
    assert train(model, *LENGTHS, "--tokenizer", str(tokenizer), "--pad-token", END) == 0


@pytest.fixture
def own(model: Path) -> list[str]:
    """Return the options that name prompts of one's own and a model; score.py lies beside them."""
    folder = model.parent
    prompts = [
        f"the {noun} is {' '.join(['great'] * count)} and it is great ."
        for noun in ("film", "plot", "story", "movie")
        for count in range(1, 11)
    ]
    (folder / "qa.csv").write_text("\n".join(["question", *prompts]))
    (folder / "score.py").write_text("def longer(prompt, response):\n    return len(response)\n")
    dataset = ["--dataset", str(folder / "qa.csv"), "--prompt-column", "question"]
    return [*dataset, "--model", str(model)]


@pytest.mark.parametrize("names", ["scorer", "reward"])
def test_own_prompts_under_an_own_scorer_are_whole_and_responses_may_end(
    names, own, tmp_path, caplog
):
    cut_notice.cache_clear()
    fewer_notice.cache_clear()
    scores = [f"--{names}", f"{tmp_path / 'score.py'}:longer", *LENGTHS, "--eval-episodes", "16"]
    out = tmp_path / "run"
    last = ["--reference-samples", "0", "--out", str(out)]
    assert main(["train", *own, *SMALL[:-2], *scores, *last]) == 0
    settings = settings_of(out)
    assert settings["env"] == "tokengym/TokenGeneration-v0"
    assert settings["training"]["fixed_length"] is False
    (episodes,) = out.glob("*/seed-0/episodes.jsonl")
    played = [json.loads(line) for line in episodes.read_text().splitlines()]
    assert all(row["prompt"].endswith("and it is great .") for row in played)
    assert "prompts are the first" not in caplog.text
    assert caplog.text.count("held-out prompts for the 16 episodes of an evaluation") == 1


def test_a_task_that_cuts_prompts_says_so_once(own, tmp_path, caplog):
    cut_notice.cache_clear()
    options: dict[str, Any] = {"dataset": tmp_path / "qa.csv", "split": "all"}
    gym.make("tokengym/MovieReview-v0", **options, prompt_tokens=5)
    gym.make("tokengym/TokenGeneration-v0", **options)
    assert "prompts are the first" not in caplog.text
    with pytest.raises(SettingsError, match=r"prompt_tokens.*got 0"):
        gym.make("tokengym/MovieReview-v0", **options, prompt_tokens=0)
    for _ in range(2):
        made = gym.make("tokengym/MovieReview-v0", **options)
    assert made.get_wrapper_attr("max_prompt_tokens") <= 7
    assert caplog.text.count("the first 2 to 7 tokens") == 1


@pytest.mark.parametrize(
    ("given", "task"),
    [
        ({}, "MovieReview"),
        ({"dataset": "qa.csv"}, "MovieReview"),
        ({"dataset": "qa.csv", "reward": "abc"}, "MovieReview"),
        ({"dataset": "qa.csv", "scorer": "score.py:f"}, "TokenGeneration"),
        ({"dataset": "qa.csv", "reward": len}, "TokenGeneration"),
    ],
)
def test_the_default_environment(given, task):
    assert resolve_env(None, None, given) == f"tokengym/{task}-v0"
    assert resolve_env("Detox", None, given) == "tokengym/Detox-v0"
    assert resolve_env(None, "smollm2-answers", given) == "tokengym/QuestionAnswer-v0"
