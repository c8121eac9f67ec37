# mypy: no-check-untyped-defs
import copy
import re
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BloomConfig, BloomForSequenceClassification, GPT2LMHeadModel

from tests.support.rewards.common import WORDS, make_classifier, make_episode, random_episodes
from tokengym.envs import TokenizerError
from tokengym.rewards import RewardModel
from tokengym.rewards.errors import ScorerError
from tokengym.rewards.models.forward import reading


@pytest.fixture
def stored(tmp_path, tokenizer):
    """Return the folder of a saved classifier with its tokenizer."""
    make_classifier().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_the_score_is_read_at_the_last_response_token(classifier):
    # Pad ids and EOS inside and at the end are tokens like any other: 0 is the pad id here.
    episode = make_episode(prompt_ids=[0, 3, 1], response_ids=[5, 0, 1, 7, 0])
    ids = torch.tensor([[0, 3, 1, 5, 0, 1, 7, 0]])
    with torch.no_grad():
        hidden = classifier.transformer(ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        expected = classifier.score(hidden[0, -1]).item()
    others = random_episodes(5)
    values = RewardModel(classifier).score([*others, episode]).values
    assert values[-1] == pytest.approx(expected, abs=1e-5)


def test_batches_and_padding_change_nothing(classifier):
    episodes = random_episodes(40)
    alone = RewardModel(classifier, batch_size=1).score(episodes, attribution="attention")
    scorer = RewardModel(classifier, batch_size=16)
    batched = scorer.score(episodes, attribution="attention")
    np.testing.assert_allclose(batched.values, alone.values, atol=1e-5)
    for one, two in zip(batched.attributions, alone.attributions, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    order = np.random.default_rng(0).permutation(40)
    shuffled = scorer.score([episodes[index] for index in order])
    np.testing.assert_allclose(shuffled.values, alone.values[order], atol=1e-5)


@pytest.mark.parametrize("takes_them", [True, False])
def test_positions_are_given_to_models_that_take_them(classifier, takes_them):
    model = classifier
    if not takes_them:  # ALiBi: what a token sees depends on how far it is
        sizes: Any = {"vocab_size": len(WORDS), "hidden_size": 16, "n_layer": 1, "n_head": 2}
        config = BloomConfig(**sizes, pad_token_id=0, num_labels=1)
        model = BloomForSequenceClassification(config).eval()
    given: list[Any] = []
    hook = model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs.get("position_ids")), with_kwargs=True
    )
    with hook:
        (value,) = RewardModel(model).score([make_episode([3, 4], [5, 6])]).values
    assert [None if one is None else one.tolist() for one in given] == (
        [[[0, 1, 2, 3]]] if takes_them else [None]
    )
    with torch.no_grad():
        hidden = model.base_model(torch.tensor([[3, 4, 5, 6]])).last_hidden_state
        assert value == pytest.approx(model.score(hidden[0, -1]).item(), abs=1e-5)


def test_dropout_is_off_and_the_mode_comes_back(classifier):
    model = make_classifier()
    model.train()
    scorer, episodes = RewardModel(model), random_episodes(8)
    np.testing.assert_array_equal(scorer.score(episodes).values, scorer.score(episodes).values)
    np.testing.assert_allclose(
        scorer.score(episodes).values, RewardModel(classifier).score(episodes).values, atol=1e-6
    )
    assert model.training


def test_what_reads_a_model_leaves_it_as_it_was():
    model = make_classifier()
    model.train()

    def interrupted() -> None:
        with reading(model, [[1], [2, 3]], batch_size=1) as batches:
            assert len(list(batches)) == 2
            assert not model.training
            assert not torch.is_grad_enabled()
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match=r"inside"):
        interrupted()
    assert model.training
    assert torch.is_grad_enabled()
    with reading(model, [[1]], batch_size=1, gradients=True):
        assert torch.is_grad_enabled()


def test_two_classes_score_by_their_difference():
    model, episodes = make_classifier(num_labels=2), random_episodes(6)
    plain = RewardModel(model).score(episodes).values
    np.testing.assert_allclose(
        plain, RewardModel(model, labels=(1, 0)).score(episodes).values, atol=1e-6
    )
    turned = RewardModel(model, labels=("LABEL_0", "LABEL_1")).score(episodes).values
    np.testing.assert_allclose(turned, -plain, atol=1e-6)
    ids = torch.tensor([[*episodes[0].prompt_ids, *episodes[0].response_ids]])
    with torch.no_grad():
        logits = model.score(model.transformer(ids).last_hidden_state[0, -1])
    assert plain[0] == pytest.approx((logits[1] - logits[0]).item(), abs=1e-5)


@pytest.mark.parametrize(
    ("classes", "labels"),
    [
        (1, (1, 0)),
        (3, None),
        (3, (2, 3)),
        (3, (2, 2)),
        (3, ("LABEL_2", "good")),
        (3, {"LABEL_2": 1.0}),
        (3, {"LABEL_0", "LABEL_2"}),
        (3, 1.0),
        (3, ("LABEL_2", 1.0)),
    ],
)
def test_labels_that_do_not_fit_the_head(classes, labels):
    with pytest.raises(ScorerError, match=f"got {re.escape(repr(labels))}; pass labels="):
        RewardModel(make_classifier(classes), labels=labels)


def test_from_pretrained_scores_as_the_model_that_was_saved(stored, tokenizer, classifier):
    scorer = RewardModel.from_pretrained(stored, batch_size=3, device="cpu")
    episodes = random_episodes(7)
    np.testing.assert_allclose(
        scorer.score(episodes).values, RewardModel(classifier).score(episodes).values, atol=1e-6
    )
    assert scorer.name == "RewardModel(model)"
    assert scorer.bind(tokenizer) is scorer
    assert copy.deepcopy(scorer) is scorer


def test_a_language_model_is_refused(tmp_path, classifier):
    GPT2LMHeadModel(classifier.config).save_pretrained(tmp_path / "lm")
    with pytest.raises(ScorerError, match=r"lm holds.*score\.weight.*random"):
        RewardModel.from_pretrained(tmp_path / "lm")
    with pytest.raises(ScorerError, match=r"GPT2LMHeadModel.*head"):
        RewardModel(GPT2LMHeadModel(classifier.config))


@pytest.mark.parametrize(
    ("episode", "error", "message"),
    [
        (make_episode([3] * 60, [4] * 5), ScorerError, "65.*64.*max_pro"),
        (make_episode([3], [99]), TokenizerError, r"3 to 99.*vocabulary of 23"),
        (make_episode([-1], [9]), TokenizerError, "ids from -1 to 9"),
    ],
)
def test_episodes_that_cannot_be_scored(classifier, episode, error, message):
    with pytest.raises(error, match=message):
        RewardModel(classifier).score([episode])


def test_bad_options(classifier):
    with pytest.raises(ScorerError, match=r"batch_size.*>= 1, got 0"):
        RewardModel(classifier, batch_size=0)
    with pytest.raises(ScorerError, match=r"'relevance'.*'attention'"):
        RewardModel(classifier).score(random_episodes(1), attribution="relevance")


def test_bind_refuses_another_vocabulary(tokenizer):
    small = RewardModel(make_classifier(vocab_size=len(WORDS) - 1))
    with pytest.raises(TokenizerError, match=r"23 ids.*22"):
        small.bind(tokenizer)
    padded = RewardModel(make_classifier(vocab_size=len(WORDS) + 9))
    assert padded.bind(tokenizer) is padded


def test_bind_reads_texts_where_the_tokenizers_differ(stored, tokenizer):
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["new"])
    scorer = RewardModel.from_pretrained(stored)
    bound = scorer.bind(other)
    assert bound is not scorer
    assert bound.reads_text
    assert bound.attribution_kinds == scorer.attribution_kinds - {"prefix"}
    again = bound.bind(tokenizer)
    assert not again.reads_text
    assert again.attribution_kinds == scorer.attribution_kinds
    assert scorer.bind(tokenizer) is scorer


def test_buckets_hold_every_index_once_with_little_padding():
    texts = [[1] * length for length in (3, 9, 4, 9, 3, 5)]
    with reading(make_classifier(), texts, batch_size=2) as batches:
        assert [batch.indices.tolist() for batch in batches] == [[1, 3], [5, 2], [0, 4]]
    with reading(make_classifier(), [[], *texts, []], batch_size=4) as batches:
        assert [batch.indices.tolist() for batch in batches] == [[2, 4, 6, 3], [1, 5]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batches(side):
    texts = [[7], [8, 9, 5]]
    with reading(
        make_classifier(), texts, batch_size=2, pad_id=4, padding_side=side, positions=True
    ) as batches:
        (batch,) = batches
    assert batch.indices.tolist() == [1, 0]
    left = side == "left"
    assert {name: tensor.tolist() for name, tensor in batch.tensors.items()} == {
        "input_ids": [[8, 9, 5], [4, 4, 7] if left else [7, 4, 4]],
        "attention_mask": [[1, 1, 1], [0, 0, 1] if left else [1, 0, 0]],
        "position_ids": [[0, 1, 2], [0, 0, 0]],
    }
    assert batch.ends.tolist() == [2, 2 if left else 0]
