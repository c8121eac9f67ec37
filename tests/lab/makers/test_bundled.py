# mypy: no-check-untyped-defs
"""The shipped models keep the figures that the builder measured; their prompts and rules fit."""

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
from tokengym.lab.makers.bundles.encoder import pair_relevance
from tokengym.lab.makers.bundles.movie_review import measure_reward_model
from tokengym.lab.makers.bundles.question_answer import answer_rules, measure_encoder
from tokengym.lab.makers.bundles.rated import Rated, draw_responses, measure_rated
from tokengym.lab.makers.corpora import dialogue_world, posts, quarrels
from tokengym.lab.makers.corpora.movie_words import LEXICON
from tokengym.lab.makers.corpora.questions import all_questions
from tokengym.rewards.gold.rules import load_lexicon, load_rules

ASSETS = Path(tokengym.base.__file__).parent / "assets"
RULES = {
    "dialogue": dialogue_world.RULES,
    "detox": quarrels.RULES,
    "summarize": posts.RULES,
    "question_answer": answer_rules(all_questions()),
}
TASKS = tuple(RULES)


def prompts_of(task):
    lines = (ASSETS / task / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [PromptRow(**json.loads(line)) for line in lines]


def figures_of(task):
    return json.loads((ASSETS / task / "bundle.json").read_text())


def load(model_class, task, part):
    return model_class.from_pretrained(ASSETS / task / part, dtype=torch.float32).eval()


def tokenizer_of(task):
    return AutoTokenizer.from_pretrained(ASSETS / task / "tokenizer")


def rated_of(task):
    rules = load_rules(ASSETS / task / "gold.json")
    return Rated(tokenizer_of(task), rules, chat=task == "dialogue")


@pytest.fixture(scope="module")
def measured():
    """Every task's figures on other samples of the policy than the builder's."""
    return {
        task: measure_rated(
            rated_of(task),
            load(AutoModelForCausalLM, task, "policy"),
            load(AutoModelForSequenceClassification, task, "reward_model"),
            prompts_of(task),
            seed=figures_of(task)["seed"] + 1,
        )
        for task in TASKS
    }


@pytest.mark.parametrize(
    ("task", "accuracy", "correlation"),
    [
        ("dialogue", 0.88, 0.9),
        ("detox", 0.95, 0.97),
        ("summarize", 0.8, 0.75),
        ("question_answer", 0.68, 0.5),
    ],
)
def test_the_reward_model_orders_responses_as_the_gold_score(measured, task, accuracy, correlation):
    figures = measured[task]["reward_model"]["samples"]
    assert figures["pair_accuracy"] > accuracy
    assert figures["correlation"] > correlation
    assert 0.8 < figures["deviation"] < 3
    stored = figures_of(task)["reward_model"]["samples"]
    # Other samples: near, not equal. A correlation r of 260 deviates by (1 - r^2) / 16.
    near = 0.1 if task == "question_answer" else 0.05
    for name, value in figures.items():
        assert stored[name] == pytest.approx(value, abs=near if value < 1 else 0.3)


@pytest.mark.parametrize("task", ["dialogue", "summarize"])
def test_the_encoder_tells_a_prompts_own_response_from_others(task):
    rows = [row for row in prompts_of(task) if row.split == "test"][:128]
    figures = pair_relevance(
        tokenizer_of(task),
        load(AutoModel, task, "encoder"),
        [(row.prompt, row.reference or "") for row in rows],
    )
    assert figures["accuracy"] > 0.94
    assert figures["relevant"] > figures["irrelevant"] + 1


@pytest.mark.parametrize(
    ("task", "best"),
    [("dialogue", 2.0), ("detox", 1.0), ("summarize", 1.0), ("question_answer", 1.0)],
)
def test_the_policy_leaves_room_to_learn(measured, task, best):
    golds = measured[task]["gold"]
    stored = figures_of(task)["gold"]["policy"]
    assert golds["policy"] == pytest.approx(stored, abs=0.07)
    assert golds["policy"]["score"] < best - 0.08
    if task != "detox":
        assert golds["reference"]["score"] == best


def test_the_shipped_rules_are_the_grammars():
    assert {task: load_rules(ASSETS / task / "gold.json") for task in TASKS} == RULES
    assert load_lexicon(ASSETS / "movie_review" / "lexicon.json") == LEXICON


@pytest.mark.parametrize("task", [*TASKS, "movie_review"])
def test_policies_write_known_words_and_differ_from_sample_to_sample(task):
    tokenizer, generator = tokenizer_of(task), torch.Generator().manual_seed(0)
    policy = load(AutoModelForCausalLM, task, "policy")
    prompts = [row.prompt for row in prompts_of(task) if row.split == "test"][:64]
    if task == "movie_review":
        starts = [tokenizer(prompt).input_ids for prompt in prompts]
        how = {"max_tokens": 48, "temperature": 1.0, "generator": generator}
        texts = sample_texts(policy, starts, **how)
        written = [text[len(start) :] for start, text in zip(starts, texts, strict=True)]
    else:
        pairs = draw_responses(policy, rated_of(task).encode(prompts), [1.0], generator)
        written = [ids for _, ids in pairs]
    assert tokenizer.unk_token_id not in {token for ids in written for token in ids}
    assert len(set(map(tuple, written))) > {"movie_review": 60, "question_answer": 60}.get(task, 56)


@pytest.mark.parametrize(
    ("task", "train", "test"),
    [
        *(("dialogue", 1000, 256), ("detox", 1500, 256), ("summarize", 1000, 256)),
        *(("movie_review", 2000, 256), ("question_answer", 500, 128)),
    ],
)
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
        assert bool(row.reference) == (task not in ("detox", "movie_review"))
        assert tokenizer.unk_token_id not in tokenizer(row.reference or "").input_ids
        assert task != "movie_review" or 2 <= len(ids) <= 7
        assert (row.query_type in ("OPENENDED", "CONSTRAINED")) == (task == "question_answer")


def test_half_of_the_dialogues_reward_is_a_matter_of_declining():
    rows = prompts_of("dialogue")
    harmful = [bool(set(row.prompt.split()) & set(RULES["dialogue"].harms)) for row in rows]
    assert 0.15 < sum(harmful) / len(rows) < 0.25


def test_only_dialogues_have_a_chat_template():
    for task in TASKS:
        tokenizer = rated_of(task).tokenizer
        assert bool(tokenizer.chat_template) == (task == "dialogue")
        special = {tokenizer.convert_tokens_to_ids(f"<{role}>") for role in ("user", "assistant")}
        if task == "dialogue":
            assert special <= set(tokenizer.all_special_ids)


@pytest.fixture(scope="module")
def of_reviews():
    """The reward model's figures on other samples of the policy than the builder's."""
    return measure_reward_model(
        tokenizer_of("movie_review"),
        load(AutoModelForCausalLM, "movie_review", "policy"),
        load(AutoModelForSequenceClassification, "movie_review", "reward_model"),
        [row for row in prompts_of("movie_review") if row.split == "test"][:160],
        seed=figures_of("movie_review")["seed"] + 1,
    )


@pytest.mark.parametrize("length", ["24", "40", "64"])
def test_the_reward_model_of_reviews_orders_texts_and_attends_to_opinions(of_reviews, length):
    figures = of_reviews[length]
    assert figures["pair_accuracy"] > 0.93
    assert figures["correlation"] > 0.86
    assert figures["opinion_mass"] > 0.6
    assert figures["opinion_mass"] > 6 * figures["opinion_share"]
    assert figures["attention_entropy"] < 0.6
    assert 1 < figures["deviation"] < 3


def test_the_stored_figures_are_those_of_the_shipped_models(of_reviews):
    stored = figures_of("movie_review")["reward_model"]
    for length, figures in of_reviews.items():
        for name, value in figures.items():
            # Float16 weights and other samples: near, not equal.
            assert stored[length][name] == pytest.approx(value, abs=0.05 if value < 1 else 0.3)


def test_the_encoder_of_questions_tells_relevant_answers_from_irrelevant_ones():
    task = "question_answer"
    encoder = load(AutoModel, task, "encoder")
    figures = measure_encoder(tokenizer_of(task), encoder, prompts_of(task))
    for query_type, values in figures.items():
        assert values["accuracy"] > 0.97
        assert 1 < values["relevant"] < 3.5
        assert abs(values["irrelevant"]) < 0.4
        stored = figures_of(task)["encoder"][query_type]
        assert values == pytest.approx(stored, abs=0.02)


@pytest.mark.parametrize("task", [*TASKS, "movie_review", "oracle"])
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


def test_everything_together_is_small():
    size = sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file())
    assert size < 16e6
