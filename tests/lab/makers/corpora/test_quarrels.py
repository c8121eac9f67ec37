import numpy as np
import pytest

from tokengym.lab.makers.corpora.grammar import Dice
from tokengym.lab.makers.corpora.quarrels import GRAMMAR, RULES, write_quarrels
from tokengym.lab.makers.corpora.rude_words import RUDE_WORDS


@pytest.fixture(scope="module")
def quarrels():
    return write_quarrels(1500, np.random.default_rng(5))


def clean(text):
    return RULES.parts([], text.split())["clean"]


def test_openings_have_no_rude_word_and_say_which_way_it_goes(quarrels):
    assert all(clean(quarrel.opening) == 1.0 for quarrel in quarrels)
    assert np.mean([quarrel.angry for quarrel in quarrels]) == pytest.approx(0.6, abs=0.05)
    shares = {
        angry: np.mean([clean(q.following) for q in quarrels if q.angry is angry])
        for angry in (True, False)
    }
    assert shares[True] < 0.91
    assert shares[False] > 0.96


@pytest.mark.parametrize(("side", "most", "least"), [("rude", 0.96, 0.3), ("clean", 1.0, 1.0)])
def test_lines_of_a_side_are_rude_or_not(side, most, least):
    dice = Dice(np.random.default_rng(0))
    for _ in range(500):
        line = GRAMMAR.write(f"{side}_line", dice)
        assert least <= clean(line) <= most, line


def test_every_rude_word_is_used_and_invented(quarrels):
    used = {word for quarrel in quarrels for word in quarrel.following.split()}
    assert set(RUDE_WORDS) <= used
    assert len(set(RUDE_WORDS)) == len(RUDE_WORDS)
