"""A model behind a scorer reads what its own tokenizer writes, and policies write text alone."""

import copy
import json
import logging
from typing import Any

import pytest
import torch
from tokenizers import models, normalizers, processors
from transformers import ByT5Tokenizer

from tests.suite.envs.prompts.kinds import made
from tests.support.envs.contents import CHATML, EVERY, controls
from tests.support.rewards.common import make_classifier, make_episode
from tokengym.envs.prompts.tokenization import encodes_alike
from tokengym.rewards import RewardModel
from tokengym.rewards.attribution.alignment import Retokenizer
from tokengym.rewards.models.forward import named_goal
from tokengym.rewards.scorers.toxicity import ClassProbability
from tokengym.rewards.scorers.wrappers import Cached


def spoken(response: str, prompt: str = "the film", eos: bool = True) -> Any:
    policy = made("bytes")
    ids = [
        i
        for text in (prompt, response)
        for i in policy(text, split_special_tokens=True)["input_ids"]
    ]
    size = len(policy(prompt)["input_ids"])
    ended = [policy.eos_token_id] if eos else []
    return make_episode(ids[:size], [*ids[size:], *ended], prompt=prompt, response=response)


@pytest.mark.parametrize("form", ["text", "pair", "chat"])
@pytest.mark.parametrize("kind", ["bytes", "llama", "metaspace", "word pieces", "words"])
def test_what_a_policy_writes_controls_no_model(kind, form):
    model = copy.deepcopy(made(kind))
    model.chat_template = CHATML
    read = Retokenizer(made("bytes"), model, form=form, keeps_end=form == "pair")
    (plain, forged) = read([spoken(" good"), spoken(EVERY)])
    assert controls(model, forged.ids) == controls(model, plain.ids)
    shares = forged.spread([1.0] * (forged.size + forged.after * (form != "text")))
    assert shares.sum() == pytest.approx(forged.size + forged.after * (form != "text"))
    (kept,) = read([spoken(" good", prompt="the </s>film")])
    if form == "text":  # a prompt was written so on purpose
        assert len(controls(model, kept.ids)) == 1 + len(controls(model, plain.ids))


def test_a_classifier_of_toxicity_reads_characters():
    model, tokenizer = make_classifier(vocab_size=400), made("bytes")
    measure = ClassProbability(model, tokenizer)
    ids = tokenizer(" x </s> y", split_special_tokens=True)["input_ids"]
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0, 0].sigmoid().item()
    assert measure([" x </s> y"])[0] == pytest.approx(expected)


# --- which tokenizers are one ---------------------------------------------------------------------


def adds_bos(tokenizer: Any) -> None:
    bos = [("<s>", tokenizer.bos_token_id)]
    processor = processors.TemplateProcessing(single="<s> $A", special_tokens=bos)
    tokenizer.backend_tokenizer.post_processor = processor


def merges_less(tokenizer: Any) -> None:
    backend = tokenizer.backend_tokenizer
    merges = json.loads(backend.to_str())["model"]["merges"]
    backend.model = models.BPE(tokenizer.get_vocab(), [*map(tuple, merges[:1])])


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda own: None, True),
        (lambda own: setattr(own, "chat_template", CHATML), True),
        (lambda own: own.add_special_tokens({"pad_token": "<|pad|>"}), True),
        (adds_bos, False),
        (lambda own: setattr(own.backend_tokenizer, "normalizer", normalizers.Lowercase()), False),
        (lambda own: setattr(own.backend_tokenizer.pre_tokenizer, "add_prefix_space", True), False),
        (merges_less, False),
        (lambda own: setattr(own, "eos_token", "<|im_end|>"), False),
        (lambda own: own.add_tokens(["film"]), False),
    ],
)
def test_tokenizers_are_one_where_their_encodings_are(change, same):
    policy = made("bytes")
    own = copy.deepcopy(policy)
    change(own)
    assert encodes_alike(policy, own) is same
    model = make_classifier(vocab_size=400)
    scorer = RewardModel(model, tokenizer=own).bind(policy)
    assert scorer.reads_text is not same
    response = " Good Film"
    with torch.no_grad():
        text = "the film" + response
        ids = [*own(text)["input_ids"], own.eos_token_id]
        expected = model(torch.tensor([ids])).logits[0, 0].item()
    assert scorer.score([spoken(response)]).values[0] == pytest.approx(expected, abs=1e-5)


def test_slow_tokenizers_are_compared_by_what_they_encode():
    slow = ByT5Tokenizer()
    assert encodes_alike(slow, copy.deepcopy(slow))
    assert not encodes_alike(slow, made("bytes"))


# --- which class is the goal ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "goal"),
    [
        (("NEGATIVE", "POSITIVE"), (1, 0)),
        (("POSITIVE", "NEGATIVE"), (0, 1)),
        (("Chosen", "rejected"), (0, 1)),
        (("bad", "Good "), (1, 0)),
        (("LABEL_0", "LABEL_1"), (1, 0)),
        (("not_hate", "hate"), None),
        (("ham", "spam"), None),
        (("positive", "bad"), None),
    ],
)
def test_classes_are_chosen_by_their_names(names, goal, caplog):
    assert named_goal(dict(enumerate(names))) == goal
    model = make_classifier(num_labels=2)
    model.config.id2label = dict(enumerate(names))
    with caplog.at_level(logging.WARNING):
        scorers = [RewardModel(model, name=f"{names}") for _ in range(2)]
        RewardModel(model, labels=(0, 1), name="told")
    positive, negative = goal or (1, 0)
    assert scorers[0]._classifier.labels == (positive, negative)
    said = f"the score is {names[1]!r} - {names[0]!r}; labels= chooses"
    assert [said in record.message for record in caplog.records] == [True] * (goal is None)
    assert (said in Cached(scorers[1]).title) is (goal is None)
