from collections import Counter

import numpy as np
import pytest

from tokengym.lab.makers.corpora.grammar import Dice, Grammar, mend_articles

GRAMMAR = Grammar(
    {
        "sentence": ["the {animal} {~verb} ."],
        "animal": {"cat": 3, "{colour} dog": 1},
        "colour": ["red"],
        "loud_verb": ["barks"],
        "quiet_verb": ["sleeps"],
    }
)


def dice(seed=0):
    return Dice(np.random.default_rng(seed))


def test_slots_are_expanded_and_tilde_slots_resolved():
    texts = {GRAMMAR.write("sentence", dice(seed), "loud_{}".format) for seed in range(20)}
    assert texts == {"the cat barks .", "the red dog barks ."}


def test_gold_rules_hold_every_variant():
    rules = GRAMMAR.rules("loud", "quiet").rules
    assert set(rules["~verb"]) == {"{loud_verb}", "{quiet_verb}"}
    assert rules["animal"] == ("cat", "{colour} dog")


def test_weights_are_frequencies():
    source = dice()
    counts = Counter(GRAMMAR.write("animal", source) for _ in range(4000))
    assert counts["cat"] / 4000 == pytest.approx(0.75, abs=0.03)


def test_a_slot_without_rule_is_refused():
    with pytest.raises(ValueError, match=r"rule 'a' uses \{b\}, which has no rule"):
        Grammar({"a": ["x {b}"]})


def test_a_tilde_slot_needs_a_resolver():
    with pytest.raises(ValueError, match=r"\{~verb\} needs a resolve function"):
        GRAMMAR.write("sentence", dice())


def test_dice_draw_what_the_generator_draws():
    rng, source = np.random.default_rng(7), dice(7)
    assert [source.random() for _ in range(10)] == [rng.random() for _ in range(10)]


def test_integers_reach_both_ends_and_no_further():
    source = dice()
    assert {source.integer(2, 4) for _ in range(200)} == {2, 3, 4}


def test_global_random_state_is_left_alone():
    before = np.random.get_state(legacy=False)["state"]["key"].copy()
    GRAMMAR.write("sentence", dice(), "loud_{}".format)
    assert (np.random.get_state(legacy=False)["state"]["key"] == before).all()


def test_articles_follow_the_next_word():
    assert mend_articles("a apple and a pear , a".split()) == "an apple and a pear , a".split()
