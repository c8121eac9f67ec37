# mypy: no-check-untyped-defs
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.suite.envs.prompts.kinds import GROWING, made
from tests.support.rewards.alignment import byte_tokenizer
from tokengym.envs import decode
from tokengym.rewards.attribution.alignment import Span, continued_spans, spread_by_overlap


def token_spans(tokenizer, ids) -> list[Span]:
    """Return the spans of ids that nothing stands before."""
    return continued_spans(tokenizer, [], ids)[1]


def test_spans_of_words(tokenizer):
    ids = [*tokenizer.encode("a b a"), tokenizer.eos_token_id]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a b a"
    assert token_spans(tokenizer, ids) == [(0, 1), (1, 3), (3, 5), (5, 5)]
    assert token_spans(tokenizer, []) == []


def test_the_byte_that_completes_a_character_gets_it():
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode("é!", add_special_tokens=False)  # two bytes and one
    assert token_spans(tokenizer, ids) == [(0, 0), (0, 1), (1, 2)]


def test_an_unfinished_character_at_the_end_is_covered():
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode("a😀", add_special_tokens=False)[:-1]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert token_spans(tokenizer, ids)[-1][1] == len(text)


@pytest.mark.parametrize("name", GROWING)
def test_spans_are_those_of_every_beginning_decoded_whole(name):
    tokenizer, rng = made(name), np.random.default_rng(0)
    text = "the café 中文字 naïve … 🙂🙂 cats don't ' the ' end. numbers 1 2 3 \n\n film; " * 4
    natural = tokenizer(text, add_special_tokens=False)["input_ids"]
    for ids in (natural, rng.integers(0, len(tokenizer), 200).tolist(), natural[:150] + [1] * 90):
        for size in (0, 1, 37, len(ids) - 1):
            beginnings = [ids[:end] for end in range(size, len(ids) + 1)]
            texts = decode(tokenizer, beginnings)
            lengths = [min(len(each.rstrip("\ufffd")), len(texts[-1])) for each in texts]
            lengths[-1] = len(texts[-1])
            ends = list(itertools.accumulate(lengths, max))
            added, spans = continued_spans(tokenizer, ids[:size], ids[size:])
            assert added == texts[-1][ends[0] : ends[-1]]
            assert [(a + ends[0], b + ends[0]) for a, b in spans] == [*itertools.pairwise(ends)]


def test_spread_by_hand():
    # source 0 lies on targets 0 and 1 at 1 : 3; source 1 on target 1; source 2 is special
    sources, targets = [(0, 4), (4, 6), (6, 6)], [(0, 1), (1, 6)]
    np.testing.assert_allclose(
        spread_by_overlap([4.0, -2.0, 1.0], sources, targets), [1 + 0.5, 3 - 2 + 0.5]
    )
    assert spread_by_overlap([], [], targets).tolist() == [0, 0]


@given(st.data())
def test_spread_keeps_the_sum(data):
    def cuts():
        inner = data.draw(st.lists(st.integers(0, 30), max_size=12))
        edges = [0, *sorted(inner), 30]
        return list(itertools.pairwise(edges))

    sources, targets = cuts(), cuts()
    shares = data.draw(st.lists(st.floats(-10, 10), min_size=len(sources), max_size=len(sources)))
    assert spread_by_overlap(shares, sources, targets).sum() == pytest.approx(sum(shares), abs=1e-9)


def test_bad_shapes():
    with pytest.raises(ValueError, match=r"parts.*\(2,\).*got \(1,\)"):
        spread_by_overlap([1.0], [(0, 1), (1, 2)], [(0, 2)])
    with pytest.raises(ValueError, match=r"0 targets"):
        spread_by_overlap([1.0], [(0, 1)], [])
