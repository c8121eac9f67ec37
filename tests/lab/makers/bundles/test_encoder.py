import math

import pytest
import torch

from tokengym.lab.makers.bundles.encoder import RELEVANT, contrastive_loss, embed, new_encoder


@pytest.fixture
def encoder(tokenizer):
    return new_encoder(tokenizer, seed=0, width=16, layers=1)


def test_loss_by_hand():
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    answers = torch.tensor([[2.0, 0.5], [0.0, 1.0]])
    wrong = torch.tensor([[0.5, 0.0], [0.0, 0.0]])
    # products: [[2, 0], [0.5, 1]], distractors: [0.5, 0]
    e = math.exp
    forwards = -math.log(e(4) / (e(4) + 1 + e(1))) - math.log(e(2) / (e(1) + e(2) + 1))
    backwards = -math.log(e(4) / (e(4) + e(1))) - math.log(e(2) / (1 + e(2)))
    scale = 0.5 * ((2 - RELEVANT) ** 2 + (1 - RELEVANT) ** 2) / 2 + 0.5 * (0 + 0.25) / 2
    loss = contrastive_loss(queries, answers, wrong, temperature=0.5)
    assert loss.item() == pytest.approx(forwards / 4 + backwards / 4 + scale, rel=1e-5)


def test_embedding_is_the_mean_over_the_text_alone(encoder):
    texts = [[5, 6, 7, 8], [9, 10]]
    with torch.no_grad():
        together = embed(encoder, texts)
        for text, vector in zip(texts, together, strict=True):
            alone = encoder(torch.tensor([text])).last_hidden_state[0].mean(0)
            assert torch.allclose(vector, alone, atol=1e-5)


def test_the_side_of_the_padding_changes_nothing(encoder):
    with torch.no_grad():
        left = encoder(
            torch.tensor([[0, 0, 5, 6]]), attention_mask=torch.tensor([[0, 0, 1, 1]])
        ).last_hidden_state[0, 2:]
        plain = encoder(torch.tensor([[5, 6]])).last_hidden_state[0]
    assert torch.allclose(left, plain, atol=1e-5)
