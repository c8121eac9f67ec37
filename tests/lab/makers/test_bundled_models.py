"""The shipped models keep the figures that the builder measured; without them ABC is uniform."""

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

import tokengym.base
from tokengym.lab.makers.building.bundle_files import PromptRow
from tokengym.lab.makers.building.language_model import sample_texts
from tokengym.lab.makers.bundles.movie_review import measure_reward_model
from tokengym.lab.makers.bundles.question_answer import measure_encoder
from tokengym.lab.makers.corpora.movie_words import LEXICON
from tokengym.rewards.gold.rules import load_lexicon

ASSETS = Path(tokengym.base.__file__).parent / "assets"
TASKS = ("movie_review", "question_answer")


def prompts_of(task):
    lines = (ASSETS / task / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [PromptRow(**json.loads(line)) for line in lines]


def figures_of(task):
    return json.loads((ASSETS / task / "bundle.json").read_text())


def load(model_class, task, part):
    return model_class.from_pretrained(ASSETS / task / part, dtype=torch.float32).eval()


def tokenizer_of(task):
    return AutoTokenizer.from_pretrained(ASSETS / task / "tokenizer")


@pytest.fixture(scope="module")
def measured():
    """The reward model's figures on other samples of the policy than the builder's."""
    return measure_reward_model(
        tokenizer_of("movie_review"),
        load(AutoModelForCausalLM, "movie_review", "policy"),
        load(AutoModelForSequenceClassification, "movie_review", "reward_model"),
        [row for row in prompts_of("movie_review") if row.split == "test"][:160],
        seed=figures_of("movie_review")["seed"] + 1,
    )


@pytest.mark.parametrize("length", ["24", "40", "64"])
def test_the_reward_model_orders_texts_and_attends_to_opinions(measured, length):
    figures = measured[length]
    assert figures["pair_accuracy"] > 0.93
    assert figures["correlation"] > 0.86
    assert figures["opinion_mass"] > 0.6
    assert figures["opinion_mass"] > 6 * figures["opinion_share"]
    assert figures["attention_entropy"] < 0.6
    assert 1 < figures["deviation"] < 3


def test_the_stored_figures_are_those_of_the_shipped_models(measured):
    stored = figures_of("movie_review")["reward_model"]
    for length, figures in measured.items():
        for name, value in figures.items():
            # Float16 weights and other samples: near, not equal.
            assert stored[length][name] == pytest.approx(value, abs=0.05 if value < 1 else 0.3)


def test_the_encoder_tells_relevant_answers_from_irrelevant_ones():
    task = "question_answer"
    encoder = load(AutoModel, task, "encoder")
    figures = measure_encoder(tokenizer_of(task), encoder, prompts_of(task))
    for query_type, values in figures.items():
        assert values["accuracy"] > 0.97
        assert 1 < values["relevant"] < 3.5
        assert abs(values["irrelevant"]) < 0.4
        stored = figures_of(task)["encoder"][query_type]
        assert values == pytest.approx(stored, abs=0.02)


@pytest.mark.parametrize("task", TASKS)
def test_policies_write_known_words_and_differ_from_sample_to_sample(task):
    tokenizer = tokenizer_of(task)
    policy = load(AutoModelForCausalLM, task, "policy")
    starts = [tokenizer(row.prompt).input_ids for row in prompts_of(task) if row.split == "test"]
    texts = sample_texts(
        policy,
        starts[:64],
        max_tokens=48,
        temperature=1.0,
        generator=torch.Generator().manual_seed(0),
    )
    assert tokenizer.unk_token_id not in {token for text in texts for token in text}
    assert len({tuple(text[len(start) :]) for start, text in zip(starts, texts, strict=False)}) > 60


@pytest.mark.parametrize("task", [*TASKS, "dialogue", "detox", "summarize", "oracle"])
def test_bundles_fit_their_own_parts(task):
    facts, tokenizer = figures_of(task), tokenizer_of(task)
    assert (facts["task"], facts["format"]) == (task, 1)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.padding_side == "left"
    for part in (ASSETS / task).glob("*/config.json"):
        config = json.loads(part.read_text())
        assert config["vocab_size"] == len(tokenizer) == facts["vocabulary"]
        assert (config["pad_token_id"], config["eos_token_id"]) == (0, 1)
        assert config["dtype"] == "float32"
        assert not any(
            value for name, value in config.items() if name.endswith(("pdrop", "dropout"))
        )


@pytest.mark.parametrize(("task", "train", "test"), [(TASKS[0], 2000, 256), (TASKS[1], 500, 128)])
def test_prompts_are_enough_and_disjoint(task, train, test):
    rows = prompts_of(task)
    splits = {name: [r.prompt for r in rows if r.split == name] for name in ("train", "test")}
    assert len(splits["train"]) >= train
    assert len(splits["test"]) >= test
    assert len(set(splits["train"]) | set(splits["test"])) == len(rows)
    tokenizer = tokenizer_of(task)
    for row in rows:
        ids = tokenizer(row.prompt).input_ids
        assert tokenizer.decode(ids) == row.prompt
        assert tokenizer.unk_token_id not in ids
        if task == "movie_review":
            assert 2 <= len(ids) <= 7
        else:
            assert row.query_type in ("OPENENDED", "CONSTRAINED")
            assert row.reference
            assert tokenizer.unk_token_id not in tokenizer(row.reference).input_ids


def test_the_shipped_lexicon_is_the_grammars():
    assert load_lexicon(ASSETS / "movie_review" / "lexicon.json") == LEXICON


def test_everything_together_is_small():
    size = sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file())
    assert size < 16e6
