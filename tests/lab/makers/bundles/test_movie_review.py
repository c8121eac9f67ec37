import numpy as np
import pytest
import torch

from tokengym.lab.makers.bundles import encoder, movie_review
from tokengym.lab.makers.bundles.movie_review import GoldTokens, build_movie_review
from tokengym.lab.makers.corpora.movie_words import LEXICON


@pytest.fixture(scope="module")
def build():
    """Return the builder with a corpus of 160 reviews."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(movie_review, "REVIEWS", 120)
        patch.setattr(movie_review, "HELD_OUT", 40)
        patch.setattr(movie_review, "TEST_PROMPTS", 15)
        patch.setattr(movie_review, "PROMPT_TOKENS", (3, 4))
        patch.setattr(encoder, "PAIR_STEPS", 1)
        yield lambda: build_movie_review(seed=4, language_steps=1, reward_steps=1)


@pytest.fixture(scope="module")
def built(build):
    return build()


def test_gold_of_ids_is_gold_of_words(tokenizer, reviews):
    gold = GoldTokens(tokenizer)
    for review in reviews[:20]:
        ids = [*tokenizer(review).input_ids, tokenizer.eos_token_id]
        assert gold.score(ids) == LEXICON.score(review.split())
        contributions = gold.contributions(ids)
        assert len(contributions) == len(ids)
        assert contributions[-1] == 0
        assert contributions.sum() == pytest.approx(gold.score(ids))


def test_prompts_start_held_out_reviews_and_splits_are_disjoint(built):
    splits = {s: {r.prompt for r in built.prompts if r.split == s} for s in ("train", "test")}
    assert len(splits["test"]) == 15
    assert not splits["train"] & splits["test"]
    reviews = movie_review.write_reviews(160, np.random.default_rng(4))
    for row in built.prompts:
        assert len(row.prompt.split()) in (3, 4)
        assert any(review.startswith(row.prompt + " ") for review in reviews[120:])


def test_figures_are_measured_at_every_length(built):
    assert set(built.figures["reward_model"]) == {"24", "40", "64"}
    assert built.figures["vocabulary"] == len(built.tokenizer)


def test_a_seed_gives_the_same_models(build, built):
    again = build()
    for name, model in built.models.items():
        other = again.models[name].state_dict()
        for key, value in model.state_dict().items():
            assert torch.allclose(value, other[key], atol=1e-6), (name, key)
    assert again.prompts == built.prompts


def test_batches_mix_lengths_and_endings(tokenizer, reviews):
    texts = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(reviews).input_ids]
    gold = GoldTokens(tokenizer)
    generator = torch.Generator().manual_seed(0)
    draw = movie_review.text_drawer(
        texts[:100], texts[100:], gold, generator, tokenizer.eos_token_id
    )
    batch, scores = draw()
    lengths = [len(text) for text in batch]
    assert 8 <= min(lengths) < 20
    assert 50 < max(lengths) <= 64
    assert scores.tolist() == pytest.approx([gold.score(text) for text in batch])
    assert 8 <= sum(text[-1] == tokenizer.eos_token_id for text in batch) < 32
    assert all(tokenizer.eos_token_id not in text[:-1] for text in batch)
