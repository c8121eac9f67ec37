# mypy: no-check-untyped-defs
"""Preference models learnt from pairs: the question, the loss, and a tiny model that learns."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from tests.support.lab.training import good_and_bad, learned
from tests.support.rewards.common import make_classifier, make_episode
from tokengym.envs import TokenizerError
from tokengym.lab.tables import wilson_interval
from tokengym.lab.training.pairwise import (
    calibration_error,
    pair_accuracy,
    reliability,
)
from tokengym.lab.training.readers import Collator, LearnedPair, PairModule, PreferenceReader
from tokengym.rewards import (
    PreferenceModel,
    PreferencePair,
    RewardTraining,
    ScorerError,
    make_reward,
    train_preference_model,
)

TEMPLATE = "q {context} r {a} s {b} t"
ANSWERS = ("a", "b")
LEARN = RewardTraining(learning_rate=1e-2, epochs=12, batch_size=16, micro_batch_size=16)
ONCE = replace(LEARN, epochs=1)


def make_model():
    torch.manual_seed(0)
    return GPT2LMHeadModel(make_classifier().config).eval()


@pytest.fixture(scope="module")
def language_model(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("models") / "lm"
    make_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_question_in_both_orders(tokenizer):
    pair = PreferencePair(prompt="c\n", chosen=" a b ", rejected=" d")
    reader = PreferenceReader(make_model(), tokenizer, template=TEMPLATE, answers=ANSWERS)
    first = tokenizer("q c r a b s d t")["input_ids"]
    second = tokenizer("q c r d s a b t")["input_ids"]
    assert reader.encode([pair], tokenizer) == [(first, second)]


def test_the_loss_is_the_answers_cross_entropy_in_both_orders(tokenizer):
    model = make_model()
    reader = PreferenceReader(model, tokenizer, template=TEMPLATE, answers=ANSWERS)
    pairs = good_and_bad(3)
    rows = [LearnedPair(ids, 0.0) for ids in reader.encode(pairs, tokenizer)]
    loss = PairModule(model, reader)(**Collator("left")(rows))["loss"]
    expected = []
    for pair in pairs:
        texts = [pair.chosen.strip(), pair.rejected.strip()]
        for (one, two), right in ((texts, 0), (texts[::-1], 1)):
            ids = tokenizer(f"q {pair.prompt} r {one} s {two} t", return_tensors="pt")["input_ids"]
            logits = model(ids).logits[0, -1, [3, 4]]  # of "a" and "b"
            expected.append(
                torch.nn.functional.cross_entropy(logits[None], torch.tensor([right])).item()
            )
    assert loss.item() == pytest.approx(np.mean(expected), abs=1e-5)


def test_a_tiny_model_learns_and_the_scorer_asks_as_it_was_trained(language_model, tmp_path):
    asked = {"training": LEARN, "template": TEMPLATE, "answers": ANSWERS}
    out, held_out = tmp_path / "pm", good_and_bad(40, seed=1)
    trained = learned(160, language_model, out, train=train_preference_model, **asked)
    assert trained.metrics.accuracy > 0.9
    assert trained.metrics.position_bias == pytest.approx(0.0, abs=0.1)
    # The scorer is told nothing: it finds template and answers with the model.
    scorer = PreferenceModel.from_pretrained(trained.path, device="cpu", output="log-odds")
    assert scorer.template == TEMPLATE
    scores = scorer.score(
        [make_episode(prompt=p.prompt, response=p.chosen, reference=p.rejected) for p in held_out]
    )
    odds = scores.values.astype(float)
    metrics = trained.metrics
    assert metrics.accuracy == pair_accuracy(odds)
    assert metrics.loss == pytest.approx(np.log1p(np.exp(-odds)).mean(), abs=1e-4)
    assert metrics.calibration_error == pytest.approx(calibration_error(odds), abs=1e-4)
    # P(A is better), the response being A in one question and B in the other
    as_a, as_b = (scores.parts[f"preferred_as_{place}"].astype(float) for place in "ab")
    assert metrics.position_bias == pytest.approx(((as_a + 1 - as_b) / 2).mean() - 0.5, abs=1e-5)
    # An environment takes the folder, and knows by it what kind of model it is.
    reward = make_reward("uniform", scorer=trained.path)
    assert reward is not None
    assert isinstance(reward.scorer, PreferenceModel)
    assert reward.scorer.template == TEMPLATE
    other = PreferenceModel.from_pretrained(
        trained.path, template="{context} {a} {b}", answers=("c", "d"), device="cpu"
    )
    assert other.template == "{context} {a} {b}"


@pytest.mark.parametrize("adapters", [False, True])
def test_what_the_tokenizer_lacks_is_added_to_it(language_model, tmp_path, tokenizer, adapters):
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
    size = len(tokenizer)
    how = {"training": LEARN, "lora": lora if adapters else None}
    out = tmp_path / "pm"
    trained = learned(160, language_model, out, train=train_preference_model, **how)
    assert trained.metrics.accuracy > 0.9
    assert len(tokenizer) == size  # the caller's is as it was
    scorer = PreferenceModel.from_pretrained(trained.path, device="cpu")
    assert len(scorer.tokenizer) == size + 5
    pieces = scorer.tokenizer.tokenize("[CONTEXT] a [RESPONSE A] b [RESPONSE B] Ab \n")
    assert pieces == ["[CONTEXT]", "a", "[RESPONSE A]", "b", "[RESPONSE B]", "<unk>"]
    good, bad = (
        scorer.score([make_episode(prompt="c d e", response=one, reference=two)]).values[0]
        for one, two in (("f a g h c", "f b g h c"), ("f b g h c", "f a g h c"))
    )
    assert good > 0.6 > 0.4 > bad
    assert good == pytest.approx(1 - bad, abs=1e-5)


def test_added_tokens_survive_a_tokenizer_that_lowers_case(tmp_path):
    from tokengym.envs import bundled

    bundle = bundled("movie_review")
    model = GPT2LMHeadModel.from_pretrained(bundle.policy)
    pairs = [
        PreferencePair(prompt="the film", chosen=f"is good {n}", rejected=f"is bad {n}")
        for n in ("here", "there", "now")
    ]
    trained = train_preference_model(
        model,
        pairs,
        output_dir=tmp_path / "pm",
        tokenizer=bundle.tokenizer,
        held_out=pairs,
        training=ONCE,
    )
    scorer = PreferenceModel.from_pretrained(trained.path, device="cpu")
    tokens = scorer.tokenizer.tokenize("[CONTEXT] The film [RESPONSE A] is B good")
    assert tokens == ["[CONTEXT]", "the", "film", "[RESPONSE A]", "is", "B", "good"]


def test_bytes_know_every_question():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from tokengym.lab.scorers.preference_model import ANSWERS, TEMPLATE, missing_tokens

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: n for n, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert missing_tokens(tokenizer, TEMPLATE, ANSWERS) == ([], [])
    assert missing_tokens(tokenizer, TEMPLATE, ("yes", "B")) == ([], ["yes"])


def test_bad_questions(language_model, tmp_path):
    options = {"output_dir": tmp_path / "pm", "training": LEARN}
    with pytest.raises(ScorerError, match=r"context.*got \['a', 'b'\]"):
        train_preference_model(language_model, good_and_bad(20), template="{a} {b}", **options)
    with pytest.raises(TokenizerError, match="same token"):
        train_preference_model(language_model, good_and_bad(20), answers=("a", "a"), **options)
    assert not (tmp_path / "pm").exists()


def test_the_reliability_table_by_hand():
    # Confidences .9 (right), .9 (wrong) and .5 (a tie, half right).
    table = reliability([math.log(9), -math.log(9), 0.0], bins=4)
    assert [row.pairs for row in table] == [1, 0, 0, 2]
    assert (table[0].confidence, table[0].accuracy) == (0.5, 0.5)
    assert (table[3].confidence, table[3].accuracy) == (pytest.approx(0.9), 0.5)
    assert table[1].confidence is None
    assert (table[0].low, table[-1].high) == (0.5, 1.0)
    # A model that is certain and always right is calibrated.
    assert calibration_error([1000.0, 900.0]) == 0.0


@pytest.mark.parametrize(("right", "count"), [(0, 10), (7, 10), (180, 231), (50, 50)])
def test_wilson_against_scipy(right, count):
    from scipy.stats import binomtest

    expected = binomtest(right, count).proportion_ci(method="wilson")
    low, high = wilson_interval(right / count, count)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_measures_can_be_read_again(language_model, tmp_path):
    pairs = [
        PreferencePair(prompt=p.prompt, chosen=p.chosen + " c" * (n % 3 == 0), rejected=p.rejected)
        for n, p in enumerate(good_and_bad(30))
    ]
    trained = train_preference_model(
        language_model, pairs[:20], output_dir=tmp_path / "pm", held_out=pairs, training=ONCE
    )
    stored = json.loads((trained.path / "measures.json").read_text())["held_out"]
    assert stored["longer_accuracy"] == pytest.approx((10 + 0.5 * 20) / 30)
    assert stored["position_bias"] == trained.metrics.position_bias
    low, high = stored["accuracy_interval"]
    assert low <= stored["accuracy"] <= high
