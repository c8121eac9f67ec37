"""A stored reward model."""

import pytest

from tests.support.rewards.common import LEXICON, make_classifier


@pytest.fixture
def folder(tmp_path, tokenizer):
    from transformers import GPT2Model

    make_classifier().save_pretrained(tmp_path / "reward_model")
    make_classifier(seed=1).save_pretrained(tmp_path / "gold_model")
    GPT2Model(make_classifier().config).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    LEXICON.save(tmp_path / "lexicon.json")
    return tmp_path
