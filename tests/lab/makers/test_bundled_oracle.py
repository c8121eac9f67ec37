# mypy: no-check-untyped-defs
"""The Oracle's shipped models keep the figures that the builder measured."""

import json
from pathlib import Path

import gymnasium
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import tokengym.envs
from tokengym.lab.envs.oracle.env import oracle_tokenizer
from tokengym.lab.envs.oracle.score import oracle_score
from tokengym.lab.makers.bundles.oracle import measure_policy, measure_reward_model
from tokengym.rewards import gold_scorer

BUNDLE = tokengym.envs.bundled("oracle")


def load(model_class, part):
    return model_class.from_pretrained(BUNDLE.path / part, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def measured():
    """The reward model's figures on other texts than the builder's."""
    model = load(AutoModelForSequenceClassification, "reward_model")
    return measure_reward_model(model, seed=BUNDLE.manifest["seed"] + 1)


@pytest.mark.parametrize(("length", "correlation"), [("6", 0.98), ("8", 0.95)])
def test_the_reward_model_knows_the_exact_score(measured, length, correlation):
    figures = measured[length]
    assert figures["correlation"] > correlation
    assert figures["step_correlation"] > correlation - 0.02
    assert figures["pair_accuracy"] > 0.97


@pytest.mark.parametrize("length", ["6", "8"])
def test_its_attention_finds_the_tokens_that_matter(measured, length):
    figures = measured[length]
    assert figures["attention_mass"] > 1.6 * figures["uniform_mass"]
    assert figures["attention_correlation"] > 0.5


def test_the_stored_figures_are_those_of_the_shipped_models(measured):
    for length, figures in measured.items():
        stored = BUNDLE.manifest["reward_model"][length]
        assert figures == pytest.approx(stored, abs=0.03)  # other texts, float16 weights
    policy = measure_policy(load(AutoModelForCausalLM, "policy"))
    assert policy == pytest.approx(BUNDLE.manifest["policy"]["exact"], abs=0.003)


def test_the_policy_writes_all_words_and_has_much_to_learn():
    figures = BUNDLE.manifest["policy"]["exact"]
    assert figures["entropy"] > 0.8
    assert figures["kl"] < 0.02
    assert 0.0 < figures["score"] < 1.0 < figures["best"] == 5.0


def test_the_stored_tokenizer_is_the_environments():
    assert BUNDLE.tokenizer.get_vocab() == oracle_tokenizer().get_vocab()
    assert BUNDLE.tokenizer.eos_token_id == oracle_tokenizer().eos_token_id
    assert BUNDLE.tokenizer.pad_token_id == oracle_tokenizer().pad_token_id


def test_gold_is_the_exact_score():
    env = gymnasium.make("tokengym/Oracle-v0", reward="abc", max_new_tokens=4)
    env.reset()
    for token in env.unwrapped.tokenizer.convert_tokens_to_ids("film not bad good".split()):
        *_, info = env.step(token)
    episode = tokengym.envs.Episode.from_info(info)
    (gold,) = gold_scorer(env.unwrapped.bundle).score([episode]).values
    assert gold == info["score"] == oracle_score("film not bad good".split()) == 1.5


def test_it_is_small():
    files = [file for file in Path(BUNDLE.path).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 400_000
    assert json.loads((BUNDLE.path / "bundle.json").read_text())["task"] == "oracle"
