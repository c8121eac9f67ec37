import math

import pytest
import torch

from tokengym.lab.makers.encoder import (
    RELEVANT,
    contrastive_loss,
    embed,
    encoder_of_pairs,
    new_encoder,
)
from tokengym.lab.makers.options import BuildError
from tokengym.lab.makers.tokenizers import byte_tokenizer


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


def test_openings_are_nearer_to_their_own_rest():
    nouns = [f"noun{at}" for at in range(80)]
    texts = [" ".join([noun] * 6 + [f"the {noun} of it"] * 4) for noun in nouns]
    tokenizer = byte_tokenizer(texts, 400)
    encoder = encoder_of_pairs(tokenizer, texts, seed=0, steps=60)
    with torch.no_grad():
        ends = ([" ".join(t.split()[:6]) for t in texts], [" ".join(t.split()[6:]) for t in texts])
        openings, rests = (embed(encoder, tokenizer(end).input_ids) for end in ends)
    products = openings @ rests.T
    assert (products.diagonal()[:, None] >= products).float().mean() > 0.9


def test_few_texts_make_no_encoder(tokenizer):
    with pytest.raises(BuildError, match=r"64 texts.*0 are"):
        encoder_of_pairs(tokenizer, ["too short"] * 100, seed=0, steps=1)
