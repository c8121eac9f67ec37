import numpy as np
import pytest
from transformers import AutoTokenizer

from tokengym.lab.makers.building.options import BuildError
from tokengym.lab.makers.building.tokenizers import byte_tokenizer, word_tokenizer
from tokengym.lab.makers.corpora.movie_reviews import write_reviews

REVIEWS = write_reviews(50, np.random.default_rng(0))


@pytest.fixture(params=["in memory", "reloaded"])
def tokenizer(request, tmp_path):
    tokenizer = word_tokenizer(REVIEWS)
    if request.param == "in memory":
        return tokenizer
    tokenizer.save_pretrained(tmp_path)
    return AutoTokenizer.from_pretrained(tmp_path)


def test_reviews_come_back_exactly(tokenizer):
    for review in REVIEWS:
        ids = tokenizer(review).input_ids
        assert len(ids) == len(review.split())
        assert tokenizer.decode(ids) == review


def test_special_tokens_are_distinct_and_padding_is_left(tokenizer):
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tokenizer.padding_side == "left"
    assert set(tokenizer("the film")) == {"input_ids", "attention_mask"}


def test_text_as_people_type_it_is_read_word_by_word_with_offsets(tokenizer):
    text = "The film, it soars!?"
    encoded = tokenizer(text, return_offsets_mapping=True)
    spans = [text[start:end] for start, end in encoded["offset_mapping"]]
    assert spans == ["The", "film", ",", "it", "soars", "!", "?"]
    assert encoded["input_ids"][:5] == tokenizer("the film , it soars").input_ids


def test_ids_are_ordered_by_frequency_and_do_not_depend_on_the_run():
    tokenizer = word_tokenizer(["b a", "a c"])
    assert tokenizer.convert_ids_to_tokens([3, 4, 5]) == ["a", "b", "c"]


def test_byte_tokenizer_has_a_token_for_every_text():
    tokenizer = byte_tokenizer(REVIEWS, 400)
    assert len(tokenizer) == 400
    for text in ("the film", " Crème brûlée — 映画 🎬\n", "a , b"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id}) == 2
    assert tokenizer.unk_token_id is None


def test_byte_tokenizer_refuses_fewer_tokens_than_bytes():
    with pytest.raises(BuildError, match=r"vocab_size.*>= 258.*100"):
        byte_tokenizer(REVIEWS, 100)
