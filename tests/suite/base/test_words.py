# ruff: noqa: RUF001
"""Words of texts with and without spaces."""

import re

import numpy as np
import pytest

from tokengym.base.words import WORDS, words
from tokengym.envs.prompts.query_types import features
from tokengym.evaluation.measure.measures import copy_rate, distinct, repetition
from tokengym.evaluation.measure.metrics import Words
from tokengym.rewards.scorers.toxicity import WordShare


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("这部电影，很好。", "这 部 电 影 ， 很 好 。"),
        ("東京へ2024年に行った！", "東 京 へ 2024 年 に 行 っ た ！"),
        ("ガラスのｶﾞ, コーヒー", "ガ ラ ス の ｶﾞ , コ ー ヒ ー"),
        ("น้ำ เรื่องนี้ ๑๒", "น้ำ เ รื่ อ ง นี้ ๑๒"),
        ("ນ້ຳ ຮູບ", "ນ້ຳ ຮູ ບ"),
        ("រឿង\u200bល្អ", "រឿ ង ល្ អ"),
        ("ကောင်းတယ်", "ကော င်း တ ယ်"),
        ("iPhoneを買う", "iPhone を 買 う"),
        ("葛\U000e0100飾", "葛\U000e0100 飾"),  # a variant of a character is one character
        ("\u0e49", "\u0e49"),  # a mark alone
        ("", ""),
    ],
)
def test_a_character_with_its_marks_is_a_word_where_no_spaces_are(text, found):
    assert words(text) == found.split()


@pytest.mark.parametrize("pattern", [WORDS, re.compile(r"[\w']+"), re.compile(r"\S+")])
def test_spaced_scripts_are_split_by_the_pattern_alone(pattern):
    texts = [
        "It's 2nd-rate, truly -- isn't it?\nYes_no.",
        "Очень хорошо! Ça va, naïve café?",
        "이 영화는 정말 좋다.",
        "यह फिल्म बहुत अच्छी है।",
        "هذا فيلم جيد جدا",
        "שלום עולם",
        "Η ταινία είναι καλή",
        "“ok”… 😀👍🏽 e\u0301",
    ]
    alphabets = [*range(0x20, 0xE00), *range(0x1200, 0x1780), *range(0xAC00, 0xD7A4)]
    rng = np.random.default_rng(0)
    texts += ["".join(map(chr, rng.choice(alphabets, 60))) for _ in range(200)]
    for text in texts:
        assert words(text, pattern) == pattern.findall(text)


SENTENCE, OTHER = "这部电影非常好看。", "我们昨天去了一家餐馆。"


def test_metrics_see_repetition_and_copies_without_spaces():
    # 9 words; six times: 52 trigrams and 53 pairs, of which 9 differ.
    assert repetition(SENTENCE * 6) == pytest.approx(1 - 9 / 52)
    assert distinct([SENTENCE * 6], 2) == pytest.approx(9 / 53)
    assert repetition(SENTENCE + OTHER) == 0.0
    assert copy_rate(f"请评价：{SENTENCE}", SENTENCE) == 1.0
    assert copy_rate(OTHER, SENTENCE) == 0.0
    assert Words().tokenize("电影很好。Good!") == ["电", "影", "很", "好", "good"]
    # The characters that both queries have are features of both.
    assert set(features("电影好看吗？")) & set(features("什么电影？"))


def test_listed_words_are_found_in_any_script():
    share = WordShare(["笨蛋", "Dumb", "self-made", "นี้"])
    texts = ["你是笨蛋，大笨蛋！", "dumb, DUMB or not", "a self-made man", "蛋笨", "เรื่องนี้"]
    # 7 characters, 4 of listed words; hyphens part words, as they always did.
    assert share(texts).tolist() == pytest.approx([4 / 7, 2 / 4, 0.0, 0.0, 1 / 5])
