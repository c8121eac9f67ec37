# mypy: no-check-untyped-defs
"""Reward models learnt from pairs: the loss, what is measured, and a tiny model that learns."""

import errno
import functools
import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import GPT2LMHeadModel

from tests.support.lab.training import encoder as encoder
from tests.support.lab.training import good_and_bad, learned
from tests.support.lab.training import language_model as language_model
from tests.support.lab.training import start as start
from tests.support.rewards.common import make_classifier, make_episode
from tokengym.base.errors import SettingsError, StorageError
from tokengym.envs import DatasetError
from tokengym.lab.training import results
from tokengym.lab.training.fitting import fit
from tokengym.lab.training.pairwise import (
    bradley_terry_loss,
    calibration_error,
    length_correlation,
    pair_accuracy,
)
from tokengym.lab.training.readers import Collator, LearnedPair, PairModule, RewardReader, bootstrap
from tokengym.rewards import (
    RewardModel,
    RewardTraining,
    read_labels,
    read_pairs,
    train_preference_model,
    train_reward_model,
)
from tokengym.rewards.errors import RewardError, ScorerError
from tokengym.rewards.pairs import PreferencePair

LORA = LoraConfig(
    r=8, lora_alpha=16, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True, lora_dropout=0.1
)
SIDES = ("chosen", "rejected")
FAST = RewardTraining(learning_rate=3e-3, epochs=4, batch_size=16, micro_batch_size=8)


def test_bradley_terry_by_hand():
    chosen, rejected = torch.tensor([2.0, 0.0]), torch.tensor([1.0, 3.0])
    loss = bradley_terry_loss(chosen, rejected)
    expected = [math.log1p(math.exp(-1)), math.log1p(math.exp(3))]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    margin = bradley_terry_loss(chosen, rejected, torch.tensor([1.0, 0.0]))
    np.testing.assert_allclose(margin, [math.log(2), expected[1]], rtol=1e-6)


def test_label_smoothing_by_hand():
    loss = bradley_terry_loss(torch.tensor([2.0]), torch.zeros(1), label_smoothing=0.1)
    assert loss.item() == pytest.approx(
        0.9 * math.log1p(math.exp(-2)) + 0.1 * math.log1p(math.e**2)
    )
    # Its minimum is where the model says that one pair in ten is the wrong way round.
    best = torch.tensor([math.log(9)], requires_grad=True)
    bradley_terry_loss(best, torch.zeros(1), label_smoothing=0.1).sum().backward()
    assert best.grad is not None
    assert best.grad.item() == pytest.approx(0.0, abs=1e-7)


def test_a_hopeless_pair_has_a_finite_loss():
    rejected = torch.tensor([0.0], requires_grad=True)
    loss = bradley_terry_loss(torch.tensor([-300.0]), rejected)
    loss.sum().backward()
    assert loss.item() == pytest.approx(300.0)
    assert rejected.grad is not None
    assert rejected.grad.item() == pytest.approx(1.0)


def test_metrics_by_hand():
    assert pair_accuracy([1.0, -2.0, 0.0, 3.0]) == 0.625
    # confidences .9 (right) and .6 (wrong): |1 - .9| and |0 - .6|, each for half of the pairs
    differences = [math.log(9), -math.log(1.5)]
    assert calibration_error(differences) == pytest.approx((0.1 + 0.6) / 2)
    assert calibration_error([math.log(1.5)] * 3 + [-math.log(1.5)] * 2) == pytest.approx(0.0)
    assert length_correlation([1.0, 2.0], [3.0, 6.0]) == pytest.approx(1.0)
    assert length_correlation([1.0, -2.0], [-3.0, 6.0]) == pytest.approx(-1.0)
    assert length_correlation([1.0, 2.0], [0.0, 0.0]) == 0.0


def test_length_correlation_is_pearsons_over_both_orders():
    rng = np.random.default_rng(0)
    scores, lengths = rng.normal(size=50), rng.normal(size=50)
    lengths += scores
    both = np.corrcoef(np.append(scores, -scores), np.append(lengths, -lengths))[0, 1]
    assert length_correlation(scores, lengths) == pytest.approx(both)


def test_calibration_error_bin_by_bin():
    rng = np.random.default_rng(0)
    differences = rng.normal(0, 2, 500)
    confidence = np.exp(np.abs(differences)) / (1 + np.exp(np.abs(differences)))
    expected = 0.0
    for low in np.arange(0.5, 1.0, 0.05):
        inside = [i for i in range(500) if low <= confidence[i] < low + 0.05]
        if inside:
            accuracy = np.mean([differences[i] > 0 for i in inside])
            expected += len(inside) / 500 * abs(accuracy - np.mean(confidence[inside]))
    assert calibration_error(differences) == pytest.approx(expected, abs=1e-9)


def test_texts_become_ids(tokenizer):
    pair = PreferencePair(prompt="c", chosen=" a b", rejected=" d", margin=0.5)
    reader = RewardReader(make_classifier(), append_eos=True)
    assert reader.encode([pair], tokenizer) == [([5, 3, 4, 1], [5, 6, 1])]
    reader = RewardReader(make_classifier(), append_eos=False)
    assert reader.encode([pair], tokenizer) == [([5, 3, 4], [5, 6])]
    rows = [LearnedPair(([3, 4], [5, 6]), 0.5), LearnedPair(([7], [8, 9, 10]), 0.0)]
    batch = Collator("right")(rows)
    assert batch["input_ids"].tolist() == [[3, 4, 0], [7, 0, 0], [5, 6, 0], [8, 9, 10]]
    assert batch["attention_mask"].sum(dim=1).tolist() == [2, 1, 2, 3]
    assert batch["margin"].tolist() == [0.5, 0.0]
    left = Collator("left")(rows)
    assert left["input_ids"].tolist() == [[0, 3, 4], [0, 0, 7], [0, 5, 6], [8, 9, 10]]
    assert left["position_ids"].tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 1], [0, 1, 2]]


def test_smoothing_keeps_a_model_from_growing_sure(language_model, tmp_path):
    training = RewardTraining(learning_rate=1e-2, epochs=6, batch_size=16)
    sharp, smooth = (
        learned(
            80,
            language_model,
            tmp_path / f"rm{smoothing}",
            training=replace(training, label_smoothing=smoothing),
        ).metrics
        for smoothing in (0.0, 0.2)
    )
    assert sharp.accuracy == smooth.accuracy == 1.0
    # Smoothed by .2, the best model gives the chosen response 4 to 1: a loss of .22 nats.
    assert sharp.loss < 0.1 < smooth.loss < 0.4


def test_a_model_that_has_not_learned_its_pairs_is_undertrained(language_model, tmp_path):
    pairs = good_and_bad(40)
    turned = [replace(pair, chosen=pair.rejected, rejected=pair.chosen) for pair in pairs]
    enough, too_little = (
        train_reward_model(
            language_model,
            rows,
            output_dir=tmp_path / f"rm{len(rows)}",
            held_out=good_and_bad(40, seed=1),
            training=replace(FAST, learning_rate=1e-2),
        )
        for rows in (pairs, pairs + turned)  # of each pair and its opposite, one is right
    )
    assert (enough.train_accuracy, enough.undertrained) == (1.0, False)
    assert (too_little.train_accuracy, too_little.undertrained) == (0.5, True)
    for trained in (enough, too_little):
        stored = json.loads((trained.path / "measures.json").read_text())
        assert stored["train_accuracy"] == trained.train_accuracy
        assert stored["undertrained"] is trained.undertrained


def scorer_of(trained, tokenizer, **options):
    return RewardModel.from_pretrained(trained.path, device="cpu", **options).bind(tokenizer)


def said(tokenizer, prompt, *texts):
    """Return the episodes that answer a prompt so."""
    ids = tokenizer(prompt)["input_ids"]
    return [
        make_episode(ids, tokenizer(text)["input_ids"], prompt=prompt, response=text)
        for text in texts
    ]


def stopped(train, model, pairs, after, **options):
    with pytest.raises(KeyboardInterrupt):
        train(model, pairs, report=stop_after(after), **options)


def test_an_encoder_learns_the_preference(encoder, tmp_path, tokenizer):
    folder, own = encoder
    training = RewardTraining(learning_rate=1e-2, epochs=3, batch_size=16)
    trained = learned(160, folder, tmp_path / "rm", training=training)
    assert trained.metrics.accuracy > 0.95
    scorer = scorer_of(trained, tokenizer)
    good, bad = scorer.score(said(tokenizer, "c", " c a", " c b")).values
    assert good > bad
    with torch.no_grad():  # what was trained is what is read
        reader = RewardReader(scorer.model, append_eos=True)
        pair = PreferencePair(prompt="c", chosen=" c a", rejected=" c b")
        (ids,) = reader.encode([pair], own)
        assert ids == ([1, 6, 6, 4, 2], [1, 6, 6, 5, 2])
        read = reader.values(torch.tensor(ids), torch.ones(2, 5), torch.zeros(2, 5))
    np.testing.assert_allclose(read, [good, bad], atol=1e-5)


def test_the_head_alone_learns(start, tmp_path):
    training = replace(FAST, head_only=True)
    folders = [
        train_reward_model(
            start,
            good_and_bad(16),
            output_dir=tmp_path / f"{rate}",
            training=replace(training, learning_rate=rate),
        ).path
        for rate in (1e-9, 1e-1)
    ]
    before, after = (load_file(folder / "model.safetensors") for folder in folders)
    changed = {name for name in before if (before[name] - after[name]).abs().max() > 1e-4}
    assert changed
    assert all(name.startswith(("score.", "classifier.")) for name in changed)


def test_the_draws_of_heads():
    assert bootstrap(3, 1, seed=0).tolist() == [[1.0]] * 3
    weights = bootstrap(200, 3, seed=0)
    assert weights.sum(axis=0).tolist() == [200.0] * 3
    # With replacement, a share of 1/e of the rows is not drawn.
    assert np.abs((weights == 0).mean(axis=0) - np.exp(-1)).max() < 0.1
    assert len({tuple(column) for column in weights.T}) == 3
    assert not (bootstrap(200, 3, seed=1) == weights).all()


def judged(*rows):
    """Return a module whose reader judges so, and the list that takes what it reads."""
    read = []

    class Reader(RewardReader):
        def __init__(self):
            pass

        def judgements(self, input_ids, attention_mask, position_ids):
            read.extend(input_ids.tolist())
            return torch.tensor(rows)

    return PairModule(torch.nn.Linear(1, 1), Reader()), read


def test_the_loss_of_heads_by_hand():
    weights = torch.tensor([[2.0, 0.0], [0.0, 3.0]])  # rows, heads
    unread = torch.zeros(4, 1)
    module, _ = judged([2.0, 0.0, 1.0, 3.0], [0.0, 1.0, 0.0, 0.0])
    margin = torch.tensor([0.5, 0.0])
    loss = module(unread, unread, unread, margin=margin, weights=weights, places=torch.arange(4))[
        "loss"
    ]
    # The first head learns that 2 > 1 by .5, twice; the second that 1 > 0, thrice.
    by_hand = (2 * math.log1p(math.exp(-0.5)) + 3 * math.log1p(math.exp(-1.0))) / 4
    assert loss.item() == pytest.approx(by_hand)


@pytest.mark.parametrize(("heads", "in_both_orders"), [(1, False), (2, False), (1, True)])
@pytest.mark.parametrize("micro", [4, 2, 8])  # passes of 4 and 1, of 2, 2 and 1, and of all 5
def test_every_pair_of_a_batch_weighs_the_same(tmp_path, micro, heads, in_both_orders):
    head, gradients = torch.nn.Linear(1, heads, bias=False), []
    torch.nn.init.constant_(head.weight, 0.3)
    head.weight.register_post_accumulate_grad_hook(lambda p: gradients.append(p.grad.clone()))

    class Reader(RewardReader):
        """Judges a text to be its first id times a weight, as well in both orders of two."""

        def __init__(self):
            pass

        def judgements(self, input_ids, attention_mask, position_ids):
            return head(input_ids[:, :1].float()).T

        def differences(self, first, second):
            return torch.cat([first, -second]) if in_both_orders else first - second

    firsts, seconds = np.array([1, 2, 3, 1, 1]), np.array([2, 1, 1, 1, 9])
    margins = np.array([0.0, 0.5, 0.0, 0.0, 1.0])
    weights = np.array([[2, 0], [0, 1], [1, 1], [1, 1], [1, 2]])[:, :heads]
    rows = [
        LearnedPair(([a], [b]), margin, tuple(map(float, weight)))
        for a, b, margin, weight in zip(firsts, seconds, margins, weights, strict=True)
    ]
    losses = fit(
        PairModule(head, Reader()),
        rows,
        Collator("right"),
        RewardTraining(batch_size=8, micro_batch_size=micro, learning_rate=1e-9),
        device=torch.device("cpu"),
        folder=tmp_path,
    )
    # -log sigmoid(d - margin), d = .3 (first - second): its slope is -sigmoid(margin - d).
    inputs = [firsts, -seconds] if in_both_orders else [firsts - seconds]
    of_pairs = [np.logaddexp(0.0, margins - 0.3 * x) for x in inputs]
    slopes = [-x / (1.0 + np.exp(0.3 * x - margins)) for x in inputs]
    count = 5 * heads * len(inputs)
    assert losses == pytest.approx([(weights.T * sum(of_pairs)).sum() / count], rel=1e-4)
    by_hand = (weights.T * sum(slopes)).sum(axis=1, keepdims=True) / count
    np.testing.assert_allclose(gradients[-1], by_hand, rtol=1e-5)


LABELLED = [
    {"prompt": f"{one} {two}", "text": f" c {word}", "label": int(word == "a")}
    for one in "bcdefgh"
    for two in "abcdefgh"
    for word in "ab"
]


def test_labels_are_comparisons_with_no_text():
    rows = [
        {"text": "fine", "label": 1},
        {"text": "poor", "label": False},
        {"text": " ", "label": 1},
        {"text": "so so", "label": 0.5},
        {"text": "unknown", "label": None},
    ]
    pairs = read_labels(rows, on_error="skip")
    assert [(p.prompt, p.chosen, p.rejected) for p in pairs] == [("", "fine", ""), ("", "", "poor")]
    assert pairs.report() == "5 rows, 2 labelled texts, 3 skipped (2 label, 1 empty)"
    with pytest.raises(DatasetError, match=r"3.*'label'.*0.*1, got 0.5"):
        read_labels(rows[:2] + rows[:1] + rows[3:])
    with pytest.raises(DatasetError, match="label_column='good'"):
        read_labels(rows, label_column="good")


def test_the_loss_of_labels_by_hand():
    module, read = judged([2.0, -1.0])
    rows = [
        LearnedPair(sequences=([7, 8], []), margin=0.0),
        LearnedPair(sequences=([], [9]), margin=0.0),
    ]
    loss = module(**Collator("right")(rows))["loss"]
    assert read == [[7, 8], [9, 0]]
    # Scores 2 of a good text and -1 of a bad one: -log sigmoid(2) and -log sigmoid(0 - -1).
    assert loss.item() == pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))) / 2)


def test_a_model_learns_labels(start, language_model, tmp_path, tokenizer):
    pairs = read_labels(LABELLED)
    trained = train_reward_model(
        start,
        pairs,
        output_dir=tmp_path / "rm",
        training=RewardTraining(learning_rate=1e-2, epochs=4, batch_size=16, append_eos=False),
    )
    assert trained.metrics.accuracy > 0.95
    assert trained.metrics.good_share == 0.5
    answers = said(tokenizer, "b d", " c a", " c b")
    good, bad = scorer_of(trained, tokenizer).score(answers).values
    assert good > 0 > bad  # the score itself is learned, not a difference
    with pytest.raises(ScorerError, match="got labelled texts"):
        train_preference_model(language_model, pairs, output_dir=tmp_path / "pm")


def test_heads_agree_on_what_they_learned(start, tmp_path, tokenizer):
    training = RewardTraining(learning_rate=1e-2, epochs=4, batch_size=16, heads=3)
    trained = learned(80, start, tmp_path / "rm", training=training)
    assert trained.metrics.accuracy > 0.95
    scorer = scorer_of(trained, tokenizer)
    assert scorer.disagrees
    episodes = said(tokenizer, "c", " c a", " c b d")
    scores = scorer.score(episodes)
    heads = [scorer_of(trained, tokenizer, labels=place) for place in range(3)]
    assert not heads[0].disagrees
    values = np.array([head.score(episodes).values for head in heads])
    np.testing.assert_allclose(scores.values, values.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(scores.parts["disagreement"], values.std(axis=0), rtol=1e-4)
    assert (scores.parts["disagreement"] > 0.01).all()
    for attribution in scorer.attribution_kinds or ():
        explained = scorer.score(episodes, attribution=attribution)
        np.testing.assert_allclose(explained.values, scores.values, rtol=1e-4, atol=1e-6)
        parts = (explained.parts["disagreement"], scores.parts["disagreement"])
        np.testing.assert_allclose(*parts, rtol=1e-3)


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_tiny_model_learns_and_its_metrics_are_those_of_the_stored_model(
    language_model, tmp_path, tokenizer, lora
):
    training = RewardTraining(learning_rate=1e-2, epochs=3, batch_size=16, micro_batch_size=16)
    trained = learned(160, language_model, tmp_path / "rm", lora=lora, training=training)
    assert trained.metrics.pairs == 40
    assert trained.metrics.accuracy > 0.95
    assert trained.metrics.loss < 0.4
    assert trained.metrics.length_correlation == 0.0
    assert trained.train_loss < math.log(2)
    scorer = scorer_of(trained, tokenizer)

    def scores(texts):
        rows = [tokenizer(text)["input_ids"] for text in texts]
        return scorer.score([make_episode(ids, [1]) for ids in rows]).values.astype(float)

    held_out = good_and_bad(40, seed=1)
    chosen, rejected = (scores(p.prompt + getattr(p, s) for p in held_out) for s in SIDES)
    assert (chosen > rejected + 0.5).mean() > 0.9
    assert trained.metrics.accuracy == pair_accuracy(chosen - rejected)
    expected = np.log1p(np.exp(rejected - chosen)).mean()
    assert trained.metrics.loss == pytest.approx(expected, abs=1e-5)


def test_the_same_seed_gives_the_same_model(language_model, tmp_path):
    results = [
        train_reward_model(
            language_model,
            good_and_bad(24),
            output_dir=tmp_path / f"rm{run}",
            training=RewardTraining(learning_rate=1e-3, batch_size=8, micro_batch_size=size),
        )
        for run, size in enumerate((8, 8, 4))
    ]
    assert results[0].metrics == results[1].metrics
    # Accumulated halves are the whole batch, but for dropout's draws.
    assert results[2].metrics.loss == pytest.approx(results[0].metrics.loss, abs=0.05)


def test_training_pairs_are_read_again_at_equal_distances(monkeypatch):
    """Of 1,023 pairs the first 511 are ordered rightly, and so are half of those that are read."""

    def scores(_, sequences, batch_size):
        return np.array([len(ids) for pair in sequences for ids in pair], dtype=float)

    monkeypatch.setattr(results, "_values", scores)
    reader = SimpleNamespace(log_odds=lambda first, second: first - second)
    pairs = [([1, 1], [1])] * 511 + [([1], [1, 1])] * 512
    assert results.accuracy_again(reader, pairs, batch_size=4) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("learning_rate", 0), ("epochs", math.inf), ("warmup", 1.5)),
        *(("weight_decay", -1.0), ("label_smoothing", 0.5), ("heads", 0)),
    ],
)
def test_bad_settings(name, value):
    with pytest.raises(SettingsError, match=rf"{name}.*got {value}"):
        RewardTraining(**{name: value})


def broken_classifier():
    model = make_classifier()
    torch.nn.init.constant_(model.score.weight, math.nan)
    return model


HEAD, TWO = {"training": replace(FAST, head_only=True)}, {"training": RewardTraining(heads=2)}
REFUSED: list[Any] = [
    (train_reward_model, None, {"lora": LORA, **HEAD}, "head_only=True"),
    (train_preference_model, None, HEAD, r"head_only.*preference model"),
    (train_reward_model, make_classifier, TWO, r"heads=2.*GPT2ForSequenceClassification.*1"),
    (train_reward_model, None, {"lora": LORA, "merge": False, **TWO}, "got heads=2"),
    (train_preference_model, None, TWO, r"heads=2.*linear layer"),
    (train_reward_model, make_classifier, {"device": "cuda"}, "device=.*loaded"),
    (train_reward_model, make_classifier, {"dtype": "bfloat16"}, "dtype=.*loaded"),
    (train_reward_model, make_classifier, {"tokenizer": None}, "tokenizer="),
    (train_reward_model, broken_classifier, {"training": FAST}, "learning_rate"),
    (train_reward_model, lambda: "/nowhere", {}, r"no folder.*nowhere"),
    *(
        (train_preference_model, None, {"training": replace(FAST, **option)}, "=.*template")
        for option in ({"append_eos": False}, {"chat_template": True})
    ),
]


@pytest.mark.parametrize(("train", "start", "options", "words"), REFUSED)
def test_bad_training(train, start, options, words, language_model, tmp_path, tokenizer):
    out, own = tmp_path / "rm", {"tokenizer": tokenizer} if start else {}
    model = start() if start else language_model
    with pytest.raises(RewardError, match=words):
        train(model, good_and_bad(20), output_dir=out, **own | options)
    assert not out.exists()


def stop_after(steps):
    """Return a report that stops training as Ctrl-C does."""

    def report(done, total, loss):
        assert 1 <= done <= total
        assert math.isfinite(loss)
        if done == steps:
            raise KeyboardInterrupt

    return report


SAVED = replace(FAST, epochs=2, checkpoint_seconds=0)
"""Training on 30 pairs with a checkpoint after each step."""


@pytest.fixture(scope="module")
def uninterrupted(language_model, tmp_path_factory):
    """Return what makes the trainings that nobody stops, each once."""

    @functools.cache
    def trained(train, has_adapters=False):
        out = tmp_path_factory.mktemp("whole") / "model"
        lora = LORA if has_adapters else None
        return train(language_model, good_and_bad(30), output_dir=out, training=SAVED, lora=lora)

    return trained


@pytest.mark.parametrize("train", [train_reward_model, train_preference_model])
@pytest.mark.parametrize("lora", [None, LORA])
def test_a_stopped_training_goes_on_number_for_number(
    language_model, uninterrupted, tmp_path, train, lora
):
    pairs, options = good_and_bad(30), {"training": SAVED, "lora": lora}
    whole = uninterrupted(train, lora is not None)
    out = tmp_path / "parts"
    stopped(train, language_model, pairs, 3, output_dir=out, **options)
    assert not out.exists()
    left = tmp_path / "parts.unfinished"
    assert (left / "checkpoints" / "checkpoint-2").is_dir()
    assert not list(left.rglob("training_args.bin"))
    # A checkpoint that was not written to its end is passed over.
    (left / "checkpoints" / "checkpoint-3").mkdir()
    seen = []
    parts = train(
        language_model, pairs, output_dir=out, report=lambda *step: seen.append(step), **options
    )
    assert seen[0][0] == 3
    assert not left.exists()
    assert parts.metrics == whole.metrics
    assert parts.train_loss == whole.train_loss
    one, other = (load_file(run.path / "model.safetensors") for run in (whole, parts))
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["trained.safetensors", "optimizer.pt", "trainer_state.json"])
def test_a_damaged_checkpoint_is_passed_over(language_model, uninterrupted, tmp_path, name):
    pairs, options = good_and_bad(30), {"output_dir": tmp_path / "parts", "training": SAVED}
    stopped(train_reward_model, language_model, pairs, 3, **options)
    file = tmp_path / "parts.unfinished" / "checkpoints" / "checkpoint-2" / name
    file.write_bytes(file.read_bytes()[:-1])
    seen = []
    parts = train_reward_model(
        language_model, pairs, report=lambda *step: seen.append(step), **options
    )
    assert seen[0][0] == 2  # resumed after step 1
    whole = uninterrupted(train_reward_model)
    assert (parts.metrics, parts.train_loss) == (whole.metrics, whole.train_loss)


def test_folders_that_are_in_use(language_model, tmp_path):
    pairs, out = good_and_bad(20), tmp_path / "rm"
    stopped(train_reward_model, language_model, pairs, 1, output_dir=out, training=FAST)
    for train, rows, training, words in (
        (train_reward_model, pairs, replace(FAST, learning_rate=1.0), "learning_rate = 0.003.*1.0"),
        (train_reward_model, pairs[:15], FAST, r"pairs = '\w+'"),
        (train_preference_model, pairs, FAST, "= 'reward'"),
    ):
        with pytest.raises(RewardError, match=words):
            train(language_model, rows, output_dir=out, training=training)
    file = language_model / "model.safetensors"
    before = file.read_bytes()
    other_weights = {name: value + 1 for name, value in load_file(file).items()}
    save_file(other_weights, file, metadata={"format": "pt"})
    with pytest.raises(RewardError, match=r"weights = '\w+'"):
        train_reward_model(language_model, pairs, output_dir=out, training=FAST)
    file.write_bytes(before)
    out.mkdir()
    train_reward_model(language_model, pairs, output_dir=out, training=FAST)  # an empty one serves
    with pytest.raises(RewardError, match="rm already exists"):
        train_reward_model(language_model, pairs, output_dir=out, training=FAST)


def test_measures_are_stored_with_the_model(language_model, tmp_path):
    rows = [vars(pair) for pair in good_and_bad(20)]
    long = {"prompt": "c", "chosen": "a " * 30, "rejected": "b"}
    pairs = read_pairs([*rows, {**rows[0], "chosen": ""}, long], on_error="skip")
    training = replace(FAST, overlong="drop", max_tokens=20)
    trained = train_reward_model(
        language_model, pairs, output_dir=tmp_path / "rm", held_out=0.2, training=training
    )
    assert (trained.pairs, trained.metrics.pairs) == (17, 3)
    assert trained.skipped == {"empty": 1, "overlong": 1}
    stored = json.loads((trained.path / "measures.json").read_text())
    assert stored["held_out"]["accuracy"] == trained.metrics.accuracy
    assert stored["skipped"] == trained.skipped
    assert stored["trained_on"] == 17
    assert len(stored["losses"]) == 8  # four epochs of 17 pairs in batches of 16
    assert np.mean(stored["losses"]) == pytest.approx(trained.train_loss)
    table = stored["held_out"]["reliability"]
    assert sum(row["pairs"] for row in table) == 3
    with pytest.raises(DatasetError, match=r"row 21.*3\d tokens.*=20"):
        train_reward_model(
            language_model,
            pairs,
            output_dir=tmp_path / "other",
            training=replace(training, overlong="error"),
        )


def test_a_margin_pushes_the_scores_apart(language_model, tmp_path):
    pairs = good_and_bad(60)
    gaps = []
    for margin in (0.0, 3.0):
        apart = [replace(pair, margin=margin) for pair in pairs]
        trained = train_reward_model(
            language_model,
            apart,
            output_dir=tmp_path / str(margin),
            training=replace(FAST, learning_rate=1e-2, epochs=10),
        )
        gaps.append(trained.metrics.loss)
    assert gaps[1] < gaps[0] / 2


def test_a_chat_is_read_as_an_environment_shows_it():
    from tokengym.envs import Chat, bundled, encode_chats

    def said(role: str, text: str) -> dict[str, str]:
        return {"role": role, "content": text}

    tokenizer = bundled("dialogue").tokenizer
    reader = RewardReader(make_classifier(), append_eos=True, chat_template=True)
    plain = PreferencePair(prompt="how do i cook ?", chosen=" slowly .", rejected="fast .")
    written = PreferencePair(
        prompt="\n\nHuman: hello\n\nAssistant: well\n\nHuman: why ?\n\nAssistant:",
        chosen=" it is good .",
        rejected=" it is bad .",
    )
    (first, _), (second, _) = reader.encode([plain, written], tokenizer)
    chats = encode_chats(
        tokenizer,
        [
            Chat.of_text("how do i cook ?"),
            Chat([said("user", "hello"), said("assistant", "well"), said("user", "why ?")]),
        ],
    )
    answers = tokenizer(["slowly .", "it is good ."])["input_ids"]
    assert first == [*chats[0], *answers[0], tokenizer.eos_token_id]
    assert second == [*chats[1], *answers[1], tokenizer.eos_token_id]


@pytest.mark.parametrize("train", [train_reward_model, train_preference_model])
def test_overlong_prompts_lose_their_beginning(language_model, tmp_path, tokenizer, train):
    pairs = [replace(pair, prompt="c " * 80 + pair.prompt) for pair in good_and_bad(20)]
    pairs[3] = replace(pairs[3], chosen="d " * 80)  # too long without its prompt
    limit = 48
    with pytest.raises(DatasetError, match="max_tokens=64"):
        train(language_model, pairs, output_dir=tmp_path / "m", training=FAST)
    training = replace(FAST, overlong="left", max_tokens=limit, epochs=1)
    trained = train(language_model, pairs, output_dir=tmp_path / "m", training=training)
    assert trained.skipped == {"overlong": 1}


def test_what_is_cut_is_the_prompt(tokenizer):
    from tokengym.lab.training.pipeline import encode_side
    from tokengym.lab.training.readers import PreferenceReader
    from tokengym.rewards.pairs import PreferencePairs

    pair = PreferencePair(prompt="c d e f", chosen=" a", rejected=" b b")
    pairs = PreferencePairs((pair,), (0,))
    model = GPT2LMHeadModel(make_classifier().config)
    asked = PreferenceReader(
        model, tokenizer, template="q {context} r {a} s {b}", answers=("a", "b")
    )
    shorter = RewardTraining(overlong="left", max_tokens=8)
    (both,) = encode_side(pairs, asked, tokenizer, shorter).sequences
    # The longer question has 10 tokens: q c d e f r a s b b.
    assert [tokenizer.decode(ids) for ids in both] == ["q e f r a s b b", "q e f r b b s a"]
    read = RewardReader(make_classifier(), append_eos=True)
    (both,) = encode_side(pairs, read, tokenizer, replace(shorter, max_tokens=5)).sequences
    assert [tokenizer.decode(ids) for ids in both] == ["e f a <eos>", "e f b b <eos>"]  # one prompt


def full_disk(*arguments, **named):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_training_continues_without_a_checkpoint_that_cannot_be_written(
    language_model, tmp_path, caplog, monkeypatch
):
    pairs, training = good_and_bad(30), replace(FAST, epochs=1, checkpoint_seconds=0)
    whole = train_reward_model(
        language_model, pairs, output_dir=tmp_path / "whole", training=training
    )
    monkeypatch.setattr("tokengym.lab.training.fitting.save_file", full_disk)
    out = tmp_path / "full"
    found = train_reward_model(language_model, pairs, output_dir=out, training=training)
    assert found.train_loss == whole.train_loss
    assert "no checkpoint at step 1" in caplog.text


def test_a_result_that_cannot_be_written_keeps_the_checkpoints(
    language_model, tmp_path, monkeypatch
):
    pairs, training = good_and_bad(30), replace(FAST, epochs=1, checkpoint_seconds=0)
    out = tmp_path / "rm"
    arguments: Any = {"output_dir": out, "training": training}
    with monkeypatch.context() as patched:
        patched.setattr("transformers.PreTrainedModel.save_pretrained", full_disk)
        with pytest.raises(StorageError, match=f"cannot write {out}"):
            train_reward_model(language_model, pairs, **arguments)
    assert not out.exists()
    heard: list[int] = []
    report: Any = lambda done, total, loss: heard.append(done)  # noqa: E731
    train_reward_model(language_model, pairs, **arguments, report=report)
    assert not heard  # nothing was trained again
    assert (out / "measures.json").exists()
