import pytest

from tokengym.lab.makers.options import BuildError
from tokengym.lab.makers.tokenizers import byte_tokenizer

REVIEWS = ["the film soars .", "the plot drags ."] * 25


def test_byte_tokenizer_has_a_token_for_every_text():
    tokenizer = byte_tokenizer(REVIEWS, 270)
    assert len(tokenizer) == 270
    for text in ("the film", " Crème brûlée — 映画 🎬\n", "a , b"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id}) == 2
    assert tokenizer.unk_token_id is None


def test_byte_tokenizer_refuses_fewer_tokens_than_bytes():
    with pytest.raises(BuildError, match=r"vocab_size.*>= 258.*100"):
        byte_tokenizer(REVIEWS, 100)
