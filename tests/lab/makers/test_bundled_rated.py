# mypy: no-check-untyped-defs
"""The shipped dialogues, summaries and quarrels keep the figures that the builder measured."""

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
from tokengym.lab.makers.bundles.encoder import pair_relevance
from tokengym.lab.makers.bundles.question_answer import answer_rules
from tokengym.lab.makers.bundles.rated import Rated, draw_responses, measure_rated
from tokengym.lab.makers.corpora import dialogue_world, posts, quarrels
from tokengym.lab.makers.corpora.questions import all_questions
from tokengym.rewards.gold.rules import load_rules

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


def rated_of(task):
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / task / "tokenizer")
    return Rated(tokenizer, load_rules(ASSETS / task / "gold.json"), chat=task == "dialogue")


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
        AutoTokenizer.from_pretrained(ASSETS / task / "tokenizer"),
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


@pytest.mark.parametrize("task", TASKS)
def test_the_shipped_rules_are_the_grammars(task):
    assert load_rules(ASSETS / task / "gold.json") == RULES[task]


@pytest.mark.parametrize("task", TASKS)
def test_policies_write_known_words_and_differ_from_sample_to_sample(task):
    rated = rated_of(task)
    policy = load(AutoModelForCausalLM, task, "policy")
    starts = rated.encode([row.prompt for row in prompts_of(task) if row.split == "test"][:64])
    pairs = draw_responses(policy, starts, [1.0], torch.Generator().manual_seed(0))
    assert rated.tokenizer.unk_token_id not in {token for _, ids in pairs for token in ids}
    assert len({tuple(ids) for _, ids in pairs}) > 56


@pytest.mark.parametrize(
    ("task", "train", "test"),
    [("dialogue", 1000, 256), ("detox", 1500, 256), ("summarize", 1000, 256)],
)
def test_prompts_are_enough_and_disjoint(task, train, test):
    rows = prompts_of(task)
    splits = {name: [r.prompt for r in rows if r.split == name] for name in ("train", "test")}
    assert len(splits["train"]) >= train
    assert len(splits["test"]) >= test
    assert len(set(splits["train"]) | set(splits["test"])) == len(rows)
    tokenizer = rated_of(task).tokenizer
    for row in rows:
        ids = tokenizer(row.prompt).input_ids
        assert tokenizer.decode(ids) == row.prompt
        assert tokenizer.unk_token_id not in ids
        assert bool(row.reference) == (task != "detox")
        assert tokenizer.unk_token_id not in tokenizer(row.reference or "").input_ids


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
