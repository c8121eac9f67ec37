"""ROUGE and self-BLEU by other libraries, against numbers worked out by hand."""

import math

import numpy as np
import pytest
from rouge_score.tokenizers import DefaultTokenizer
from sacrebleu.metrics import BLEU
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from tokengym.envs import Episode
from tokengym.evaluation.measure import metrics


def episode(response: str, reference: str | None) -> Episode:
    return Episode(
        prompt="p", response=response, reference=reference, prompt_ids=(1,), response_ids=(2,)
    )


def test_rouge_by_hand():
    # 4 of 5 words shared with 6; word pairs "the cat" and "the mat"; longest run the cat the mat
    found = metrics.rouge([episode("The cat, on the mat!", "the cat sat near the mat")])
    assert found["rouge_1"] == pytest.approx(2 * (4 / 5) * (4 / 6) / (4 / 5 + 4 / 6))
    assert found["rouge_2"] == pytest.approx(2 * (2 / 4) * (2 / 5) / (2 / 4 + 2 / 5))
    assert found["rouge_l"] == pytest.approx(2 * (4 / 5) * (4 / 6) / (4 / 5 + 4 / 6))


def test_rouge_is_a_mean_over_those_with_a_reference():
    rows = [episode("a b", "a b"), episode("x", "y"), episode("z", None)]
    assert metrics.rouge(rows)["rouge_1"] == 0.5
    assert metrics.rouge([episode("z", None)]) == {}


def test_words_are_those_of_rouge_score_in_english_and_of_any_script():
    theirs = DefaultTokenizer(use_stemmer=False)
    for text in ("It's 2nd-rate, truly -- isn't it?", "", "  A  b."):
        assert metrics.Words().tokenize(text) == theirs.tokenize(text)
    assert metrics.Words().tokenize("Очень хорошо!") == ["очень", "хорошо"]


@pytest.mark.parametrize("words", [3, 40])
def test_self_bleu_is_the_mean_of_sentence_scores(words, monkeypatch):
    rng = np.random.default_rng(words)
    names = ["the", "film.", "is", "good,", "10.5", "&quot;", *(f"w{n}" for n in range(words))]
    texts = [" ".join(rng.choice(names, rng.integers(0, 30))) + " " for _ in range(60)]
    texts += ["", " ", "alone alone alone alone alone", texts[3], texts[3] + " the"]
    bleu = BLEU(effective_order=True)
    scores = [
        bleu.sentence_score(text, [*texts[:index], *texts[index + 1 :]]).score
        for index, text in enumerate(texts)
    ]
    calls = []
    split = Tokenizer13a.__call__

    def counting(self, text):
        calls.append(text)
        return split(self, text)

    monkeypatch.setattr(Tokenizer13a, "__call__", counting)
    assert metrics.self_bleu(texts) == float(np.mean(scores))
    assert len(calls) == len(texts)  # not one for each pair


def test_self_bleu_by_hand():
    # Each text against the other: 1-grams 4/5, 2-grams 3/4, 3-grams 2/3, 4-grams 1/2, no brevity.
    expected = 100 * math.exp((math.log(4 / 5 * 3 / 4 * 2 / 3 * 1 / 2)) / 4)
    assert metrics.self_bleu(["a b c d e", "a b c d f"]) == pytest.approx(expected)


def test_what_is_missing_is_left_out(monkeypatch):
    monkeypatch.setattr(metrics, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="two texts, got 1"):
        metrics.self_bleu(["a"])
    assert metrics.library_metrics([episode("a", "b")]) == {}
