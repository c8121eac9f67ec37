import math

import pytest
import torch

from tokengym.lab.makers.models import (
    bradley_terry_loss,
    reward_logits,
    reward_model_from,
    train_reward_model,
)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_labels_give_logsigmoid_and_ties_say_nothing():
    logits, labels = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([1.0, 0.0, 0.0])
    expected = -(math.log(sigmoid(1.5)) + math.log(sigmoid(3.0))) / 2
    loss = bradley_terry_loss(logits, labels)
    assert loss.item() == pytest.approx(expected)


def test_it_starts_from_the_language_model(language_model):
    model = reward_model_from(language_model, seed=0)
    assert model.config.num_labels == 1
    assert model.config.pad_token_id == 0
    own, other = model.transformer.state_dict(), language_model.transformer.state_dict()
    assert all(torch.equal(own[name], other[name]) for name in other)
    assert language_model.config.num_labels != 1


def test_reward_is_read_at_the_last_token_whatever_the_batch(language_model):
    model = reward_model_from(language_model, seed=0)
    texts = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 1]]
    together = reward_logits(model, texts, batch_size=2)
    for text, reward in zip(texts, together, strict=True):
        hidden = model.transformer(torch.tensor([text])).last_hidden_state[0, -1]
        assert reward.item() == pytest.approx(model.score(hidden).item(), abs=1e-5)


def test_it_learns_a_preference(language_model):
    model = reward_model_from(language_model, seed=0)
    generator = torch.Generator().manual_seed(0)

    def draw():
        texts = torch.randint(5, 40, (16, 6), generator=generator)
        return texts.tolist(), (texts == 7).sum(1) - (texts == 8).sum(1).float()

    train_reward_model(model, draw, steps=150, learning_rate=1e-2)
    good, bad = reward_logits(model, [[9, 7, 10, 11], [9, 8, 10, 11]])
    assert good > bad + 1
