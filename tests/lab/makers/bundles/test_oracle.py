# mypy: no-check-untyped-defs
"""Building the Oracle's models, small; what they are measured by, by hand."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from tokengym.lab.envs.oracle.gold import OracleRules
from tokengym.lab.makers.building.language_model import ModelSize, new_language_model
from tokengym.lab.makers.building.reward_model import (
    prefix_loss,
    reward_model_from,
    train_on_prefixes,
)
from tokengym.lab.makers.bundles import oracle
from tokengym.lab.makers.corpora.oracle_words import END, WEIGHTS, next_probabilities, write_texts

GOOD, BAD, NOT, BUT, FILM, THE = range(3, 9)


def small_model():
    size = ModelSize(layers=1, width=16, heads=2, positions=9)
    return new_language_model(oracle.oracle_tokenizer(), size, seed=0)


def test_the_score_at_every_token_by_hand():
    text = [THE, GOOD, FILM, NOT, BAD, GOOD, BUT, 1]
    assert oracle.exact_prefixes(text) == [0, 0, 0, 0, 0.5, 1.5, 0, 0]


def test_the_loss_is_the_error_where_the_score_is_known():
    logits = torch.tensor([[1.0, 4.0, 9.0], [0.0, -2.0, 7.0]])
    gold = torch.tensor([[math.nan, 1.0, 3.0], [math.nan, 0.0, math.nan]])
    loss = prefix_loss(logits, gold, temperature=2.0)
    assert loss.item() == pytest.approx((1.0**2 + 1.5**2 + 1.0**2) / 3)


def test_training_on_prefixes_lowers_their_error():
    model = reward_model_from(small_model(), seed=0)
    texts = [[THE, FILM, GOOD, GOOD], [THE, FILM, BAD]]

    def draw():
        return texts, [oracle.exact_prefixes(text) for text in texts]

    first = train_on_prefixes(model, draw, steps=1, learning_rate=0.0)
    assert train_on_prefixes(model, draw, steps=60, learning_rate=1e-2) < 0.05 * first
    values = oracle.prefix_logits(model, texts[:1])[0]
    assert values == pytest.approx([0, 0, 1, 2], abs=0.3)


def test_a_small_build_holds_what_the_environment_needs(monkeypatch):
    monkeypatch.setattr(oracle, "TEXTS", 200)
    monkeypatch.setattr(oracle, "HELD_OUT", 20)
    built = [oracle.build_oracle(seed=3, language_steps=1, reward_steps=1) for _ in range(2)]
    assert set(built[0].models) == {"policy", "reward_model"}
    assert built[0].rules == OracleRules()
    assert {row.split for row in built[0].prompts} == {"train", "test"}
    assert set(built[0].figures["reward_model"]) == {"6", "8"}
    assert built[0].figures == built[1].figures
    for name, model in built[0].models.items():
        other = built[1].models[name].state_dict()
        assert all(torch.equal(value, other[key]) for key, value in model.state_dict().items())


def test_a_policy_that_takes_all_alike_is_worth_what_uniform_play_is():
    model = small_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    figures = oracle.measure_policy(model)
    assert figures["entropy"] == 1.0
    assert figures["score"] == figures["uniform"]
    assert figures["best"] == 5.0  # film good good good good good


def test_the_chain_writes_what_its_probabilities_say():
    texts = write_texts(4000, "the", 8, np.random.default_rng(0))
    followers = [b for text in texts for a, b in pairwise(text) if a == "not"]
    for word, value in next_probabilities("not").items():
        assert followers.count(word) / len(followers) == pytest.approx(value, abs=0.02)
    assert {text[0] for text in texts} == {"the"}
    assert max(map(len, texts)) == 9
    assert all(END not in text[:-1] for text in texts)
    for word in WEIGHTS:
        assert sum(next_probabilities(word).values()) == pytest.approx(1.0)
        assert min(next_probabilities(word).values()) > 0.01
