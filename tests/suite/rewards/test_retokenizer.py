# mypy: no-check-untyped-defs
"""A reward model of another tokenizer: the same text, credit by characters, the sum kept."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ByT5Tokenizer

from tests.support.rewards import hub_classifiers as test_hub_classifiers
from tests.support.rewards.alignment import byte_tokenizer
from tests.support.rewards.common import make_classifier, make_episode
from tests.support.rewards.retokenizer import PAIRS, TEXT, character_tokenizer, model_of
from tests.support.rules import rule_of
from tests.support.words import PROMPTS
from tokengym.envs import TokenGenerationEnv, TokenizerError
from tokengym.rewards import (
    ABCReward,
    CreditReward,
    Reward,
    RewardModel,
    check_reward,
)
from tokengym.rewards.attribution.alignment import Retokenizer, continued_spans
from tokengym.rewards.maths.redistribution import close_sum


def spoken(policy, prompt, response, eos=True):
    return test_hub_classifiers.spoken(policy, response, prompt=prompt, eos=eos)


def test_the_text_is_read_as_one(tokenizer):
    own = character_tokenizer()
    read = Retokenizer(tokenizer, own)([spoken(tokenizer, "a b", "c d")])[0]
    assert own.convert_ids_to_tokens(read.ids) == ["a", " ", "b", " ", "c", " ", "d", "</s>"]
    assert read.closed
    assert read.size == 5
    # the policy's tokens add " c", " d" and nothing
    assert read.targets == [(0, 2), (2, 4), (4, 4)]
    assert read.sources == [(0, 1), (1, 2), (2, 3), (3, 4)]
    shares = read.spread([1.0, 2.0, 3.0, 4.0, 5.0])
    np.testing.assert_allclose(shares, [3.0, 7.0, 5.0])


def test_special_tokens_stand_where_the_model_puts_them(tokenizer):
    own = character_tokenizer(bos=True)
    read = Retokenizer(tokenizer, own)([spoken(tokenizer, "a", "b", eos=False)])[0]
    assert own.convert_ids_to_tokens(read.ids) == ["<s>", "a", " ", "b"]
    assert read.size == 2
    closed = Retokenizer(tokenizer, own)([spoken(tokenizer, "a", "b")])[0]
    assert own.convert_ids_to_tokens(closed.ids) == ["<s>", "a", " ", "b", "</s>"]


def test_a_bos_in_the_prompt_is_not_doubled():
    own = character_tokenizer(bos=True)
    policy = byte_tokenizer()
    (read,) = Retokenizer(policy, own)([spoken(policy, "<s>a", "b", eos=False)])
    assert own.convert_ids_to_tokens(read.ids) == ["<s>", "a", "b"]


def test_a_token_that_begins_in_the_prompt_belongs_to_the_response():
    """The policy cuts before "d", the model's tokens are " a" and "nd": nd lies across the cut."""
    policy, own = character_tokenizer(), byte_tokenizer()
    episode = spoken(policy, "x an", "d x", eos=False)
    read = Retokenizer(policy, own)([episode])[0]
    assert own.convert_ids_to_tokens(read.ids) == ["x", "Ġa", "nd", "Ġ", "x"]
    assert read.sources == [(0, 1), (1, 2), (2, 3)]
    np.testing.assert_allclose(read.spread([5.0, 1.0, 2.0]), [5.0, 1.0, 2.0])


def test_bytes_of_one_character():
    """A policy of bytes, a model of characters: the byte that completes the character is paid."""
    policy, own = byte_tokenizer(), character_tokenizer()
    episode = spoken(policy, "x", "é!", eos=False)
    assert len(episode.response_ids) == 3
    read = Retokenizer(policy, own)([episode])[0]
    np.testing.assert_allclose(read.spread([2.0, 3.0]), [0.0, 2.0, 3.0])
    # And the other way: both bytes of the model stand for the one character of the policy.
    read = Retokenizer(own, policy)([spoken(own, "x", "é!", eos=False)])[0]
    assert read.size == 3
    np.testing.assert_allclose(read.spread([2.0, 1.0, 4.0]), [3.0, 4.0])


def test_an_unfinished_character_is_covered():
    policy, own = byte_tokenizer(), character_tokenizer()
    episode = spoken(policy, "x", "a😀", eos=False)
    ids = episode.response_ids[:-1]
    cut = make_episode(episode.prompt_ids, ids, prompt="x", response="a\ufffd")
    read = Retokenizer(policy, own)([cut])[0]
    assert read.spread(np.ones(read.size)).sum() == pytest.approx(read.size)


CREDITS = [rule_of("abc"), rule_of("abc-signed")]


@pytest.mark.parametrize("credit", CREDITS)
@pytest.mark.parametrize("pair", PAIRS)
def test_the_sum_is_kept_for_any_text(credit, pair):
    policy, own = (make() for make in pair)
    scorer = RewardModel(model_of(own), tokenizer=own)
    reward = Reward(scorer, credit).bind(policy)
    episodes = [
        spoken(policy, "x and ", text, eos=eos)
        for text in (TEXT, "and", "é", "漢字 and 😀😀", " ")
        for eos in (True, False)
    ]
    episodes.append(make_episode(episodes[0].prompt_ids, [policy.eos_token_id], prompt="x and "))
    for episode in reward.evaluate(episodes):
        assert close_sum(episode.score, episode.token_rewards)


def test_the_score_is_that_of_the_text_in_the_models_tokens():
    policy, own = byte_tokenizer(), character_tokenizer(bos=True)
    model: Any = model_of(own)
    scorer = RewardModel(model, tokenizer=own).bind(policy)
    text = "x and é, nd"
    ids = torch.tensor([[2, *own(text, add_special_tokens=False)["input_ids"], 1]])
    with torch.no_grad():
        output = model.transformer(ids)
        expected = model.score(output.last_hidden_state[0, -1]).item()
    (value,) = scorer.score([spoken(policy, "x and ", "é, nd")]).values
    assert value == pytest.approx(expected, abs=1e-5)


def test_the_same_tokenizer_by_another_way_gives_the_same_credit():
    """Retokenising to an equal vocabulary changes nothing."""
    policy = byte_tokenizer()
    model = model_of(policy)
    direct = RewardModel(model, tokenizer=policy)
    through = copy.copy(direct)
    through._retokenizer = Retokenizer(policy, byte_tokenizer())
    # No merge across the cut: the whole text has the tokens of its two parts.
    episodes = [spoken(policy, "x", text) for text in (" and x", "x nd a", "a")]
    for kind in ("attention", "signed-attention"):
        one = direct.score(episodes, attribution=kind)
        two = through.score(episodes, attribution=kind)
        np.testing.assert_allclose(one.values, two.values, atol=1e-5)
        for first, second in zip(one.attributions, two.attributions, strict=True):
            np.testing.assert_allclose(first, second, atol=1e-5)


@given(st.text(alphabet="abnd é漢😀", max_size=12), st.text(alphabet="abnd é漢😀", max_size=5))
@settings(max_examples=60, deadline=None)
def test_spans_behind_a_prefix_cover_the_added_text(text, prefix):
    tokenizer = byte_tokenizer()
    front = tokenizer(prefix, add_special_tokens=False)["input_ids"]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    added, spans = continued_spans(tokenizer, front, ids)
    assert added == text
    assert len(spans) == len(ids)
    assert "".join(added[start:end] for start, end in spans) == text


def test_in_an_environment(tokenizer):
    own = character_tokenizer()
    scorer = RewardModel(model_of(own), tokenizer=own)
    env = TokenGenerationEnv(tokenizer=tokenizer, prompts=PROMPTS, max_new_tokens=6)
    check_reward(ABCReward(env, scorer))
    check_reward(CreditReward(env, scorer, "abc-signed"))
    check_reward(CreditReward(env, scorer, "red"))


def test_a_slow_tokenizer_is_refused(tokenizer):
    message = r"ByT5Tokenizer.*offsets.*fast"
    with pytest.raises(TokenizerError, match=message):
        RewardModel(make_classifier(), tokenizer=ByT5Tokenizer()).bind(tokenizer)
