from dataclasses import replace

import numpy as np
import pytest
import torch

from tokengym.lab.makers import real_text
from tokengym.lab.makers.models import reward_logits
from tokengym.lab.makers.options import BuildError, CorpusOptions
from tokengym.lab.makers.real_text import LabelledText, build_from_corpus

TINY = CorpusOptions(
    vocab_size=300,
    layers=1,
    width=16,
    heads=2,
    language_steps=20,
    reward_steps=60,
    dropout=0.0,
    reward_dropout=0.0,
)


def corpus(count):
    rng = np.random.default_rng(0)
    nouns = ["plot", "cast", "score", "ending", "script", "humor", "Ãcole", "café"]
    rows = []
    for index in range(count):
        first, second = rng.choice(nouns, 2, replace=False)
        word = "superb" if index % 2 else "dreadful"
        text = f"scene {index} , the {first} is {word} and so the {second} stays {word}"
        rows.append(LabelledText(text, index % 2 == 1))
    return rows


@pytest.fixture(scope="module")
def built():
    return build_from_corpus(corpus(300), corpus(20), seed=0, options=TINY)


def test_it_holds_what_the_task_needs(built):
    assert built.task == "movie_review"
    assert set(built.models) == {"policy", "reward_model", "gold_model"}
    assert len(built.tokenizer) == 300
    assert built.figures["evaluation_rows"] == 20
    assert set(built.figures["reward_models"]) == {"reward_model", "gold_model"}


def test_prompts_are_whole_words_of_two_to_seven_tokens(built):
    texts = [row.text for row in corpus(300)]
    for row in built.prompts:
        assert 2 <= len(built.tokenizer(row.prompt).input_ids) <= 7
        assert any(text.startswith(row.prompt + " ") for text in texts)


def test_prompts_of_the_splits_are_disjoint(built):
    splits = {
        split: {row.prompt for row in built.prompts if row.split == split}
        for split in ("train", "test")
    }
    assert splits["train"]
    assert splits["test"]
    assert not splits["train"] & splits["test"]


def test_proxy_and_gold_learn_from_disjoint_halves(monkeypatch):
    seen = []
    drawer = real_text._drawer

    def spy(texts, labels, generator):
        seen.append({tuple(text) for text in texts})
        return drawer(texts, labels, generator)

    monkeypatch.setattr(real_text, "_drawer", spy)
    options = replace(TINY, language_steps=1, reward_steps=1)
    build_from_corpus(corpus(300), None, seed=0, options=options)
    proxy, gold = seen
    assert len(proxy) == len(gold) == 135
    assert not proxy & gold


def test_judges_prefer_the_positive_and_differ(built):
    good, bad = (
        [*built.tokenizer(f"the plot is {word}").input_ids, built.tokenizer.eos_token_id]
        for word in ("superb", "dreadful")
    )
    logits = {}
    for name in ("reward_model", "gold_model"):
        logits[name] = reward_logits(built.models[name], [good, bad])
        assert logits[name][0] > logits[name][1]
        assert built.figures["reward_models"][name]["pair_accuracy"] > 0.9
    assert not torch.equal(logits["reward_model"], logits["gold_model"])


def test_texts_longer_than_the_model_are_cut(built):
    row = LabelledText("so " * 200, True)
    (ids,) = real_text._encode(built.tokenizer, [row], 64)
    assert len(ids) == 64
    assert ids[-1] == built.tokenizer.eos_token_id


def test_a_corpus_without_prompts_is_refused():
    rows = [
        LabelledText("superb" if index % 2 else "dreadful", index % 2 == 1) for index in range(200)
    ]
    with pytest.raises(BuildError, match=r"0 train.*0 test"):
        build_from_corpus(rows, None, seed=0, options=TINY)


@pytest.mark.parametrize(
    "bad", [{"language_steps": 0}, {"reward_steps": 0}, {"dropout": 1.0}, {"reward_dropout": -0.1}]
)
def test_bad_options_are_refused(bad):
    with pytest.raises(BuildError, match=r"steps.*>= 1.*\[0, 1\), got"):
        CorpusOptions(**bad)
