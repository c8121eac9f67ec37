"""What measured a run, in words and read from them again."""

from itertools import product

import pytest

from tokengym.evaluation.measure.judges import Judges, measured_by


@pytest.mark.parametrize("gold", [None, "Sentiment times grammaticality", "Relevance(e), full 0.3"])
@pytest.mark.parametrize("scorer", ["RewardModel(m) (guessed; class 1)", "Relevance(e), full 0.3"])
def test_judges_are_read_from_their_words(gold, scorer):
    for by_gold, has_rivals, is_own in product((False, True), repeat=3):
        words = measured_by(scorer, gold, by_gold=by_gold, has_rivals=has_rivals, is_own=is_own)
        score = gold if by_gold and gold is not None else scorer
        assert Judges.parse(words) == Judges(score=score, gold=gold)
