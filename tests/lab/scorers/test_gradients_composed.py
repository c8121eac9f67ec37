# mypy: no-check-untyped-defs
"""Attributions by gradients in sums, beside another value, and by another tokenizer."""

import copy

import numpy as np
import pytest

from tests.suite.rewards.stand_ins import make, qwen_tokenizer
from tests.support.rewards.alignment import byte_tokenizer
from tests.support.rewards.common import make_classifier, random_episodes
from tests.support.rewards.hub_classifiers import PROMPT, RESPONSES, spoken
from tokengym.rewards import FunctionScorer, LengthPenalty, RewardModel, WithAttribution
from tokengym.rewards.attribution.alignment import Retokenizer

KINDS = ["gradient", "integrated-gradients"]


@pytest.mark.parametrize("kind", KINDS)
def test_those_of_a_sum_add_up(classifier, kind):
    one, two = RewardModel(classifier), RewardModel(make_classifier(seed=1))
    episodes = random_episodes(5)
    scores = (one + 2 * two + LengthPenalty(0.1)).score(episodes, attribution=kind)
    assert (scores.signed, scores.additive) == (True, False)
    first = one.score(episodes, attribution=kind).attributions
    second = two.score(episodes, attribution=kind).attributions
    for row, a, b in zip(scores.attributions, first, second, strict=True):
        np.testing.assert_allclose(row, a + 2 * b, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_those_of_a_model_stand_beside_another_value(classifier, kind):
    model, episodes = RewardModel(classifier), random_episodes(5)
    explained = WithAttribution(FunctionScorer(lambda prompt, text: len(text)), model)
    scores = explained.score(episodes, attribution=kind)
    account = model.score(episodes, attribution=kind)
    np.testing.assert_array_equal(scores.values, [len(e.response) for e in episodes])
    assert scores.signed
    for ours, theirs in zip(scores.attributions, account.attributions, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_tokenizer_by_another_way_gives_the_same(kind):
    policy = byte_tokenizer()
    direct = RewardModel(make_classifier(vocab_size=len(policy)), tokenizer=policy)
    through = copy.copy(direct)
    through._retokenizer = Retokenizer(policy, byte_tokenizer())
    # No merge across the cut: the whole text has the tokens of its two parts.
    episodes = [spoken(policy, text, prompt="x", eos=True) for text in (" and x", "x nd a", "a")]
    one = direct.score(episodes, attribution=kind)
    two = through.score(episodes, attribution=kind)
    for first, second in zip(one.attributions, two.attributions, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-5)


def test_gradients_of_a_conversation_keep_their_sum() -> None:
    """What the end of the turn gets counts for EOS, or for all tokens alike."""
    policy = qwen_tokenizer()
    model, own = make("qwen3")
    scorer = RewardModel(model, tokenizer=own, form="chat").bind(policy)
    for eos in (True, False):
        episode = spoken(policy, RESPONSES[0].strip(), eos=eos)
        given = scorer.score([episode], attribution="gradient").attributions
        assert given is not None
        text = own.apply_chat_template(
            [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": "is wonderful"}],
            tokenize=False,
        )
        tokens = own(text, return_tensors="pt")
        embeddings = model.get_input_embeddings()(tokens["input_ids"]).detach().requires_grad_()
        out = model.model(inputs_embeds=embeddings, attention_mask=tokens["attention_mask"])
        model.score(out.last_hidden_state[0, -1]).sum().backward()
        products = (embeddings * embeddings.grad).sum(-1)[0].detach().numpy()
        size = len(own("is wonderful<|im_end|>\n")["input_ids"])
        assert given[0].sum() == pytest.approx(products[-size:].sum(), rel=1e-4)
        if eos:
            assert given[0][-1] == pytest.approx(products[-2:].sum(), rel=1e-4)
