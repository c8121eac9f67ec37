import json

import numpy as np
import pytest

from tokengym.envs import bundled
from tokengym.rewards.gold.rules import load_lexicon
from tokengym.rewards.gold.sentiment_lexicon import Lexicon, split_words

LEXICON = Lexicon(
    words={"superb": 2.0, "good": 1.0, "dull": -1.0, "awful": -2.0},
    intensifiers={"very": 1.5, "slightly": 0.5},
    negations=("not", "never"),
)


@pytest.mark.parametrize(
    ("text", "weights", "score"),
    [
        ("", [], 0.0),
        ("the film ended", [0, 0, 0], 0.0),
        ("good", [1], 1 / 1.5),
        ("superb but dull", [2, 0, -1], 1 / 3.5),
        ("very good", [0, 1.5], 1.5 / 2),
        ("very very good", [0, 0, 2.25], 2.25 / 2.75),
        ("not good", [0, -1], -1 / 1.5),
        ("never not good", [0, 0, 1], 1 / 1.5),
        ("not a very awful plot", [0, 0, 0, 3, 0], 3 / 3.5),
        ("not slightly dull , superb", [0, 0, 0.5, 0, 2], 2.5 / 3),
    ],
)
def test_hand_worked_scores(text, weights, score):
    assert LEXICON.signed_weights(text.split()) == pytest.approx(weights)
    assert LEXICON.score(text.split()) == pytest.approx(score)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("not in the one good scene", 1 / 1.5),  # four words away: out of scope
        ("not in the good scene", -1 / 1.5),  # three words away: in scope
        ("not here , good", 1 / 1.5),  # a boundary stops it
        ("not dull good", (1 + 1) / 2.5),  # an opinion word stops it
        ("good not", 1 / 1.5),  # modifiers reach forwards only
        ("good " * 50, 50 / 50.5),  # a ratio: more of the same adds little
    ],
)
def test_reach_of_a_modifier(text, score):
    assert LEXICON.score(text.split()) == pytest.approx(score)


def test_contributions_name_the_opinion_words_and_sum_to_the_score():
    words = "the plot was not very good but the cast was superb .".split()
    contributions = LEXICON.contributions(words)
    assert np.flatnonzero(contributions).tolist() == [5, 10]
    assert contributions[[5, 10]] == pytest.approx([-1.5 / 4, 2 / 4])
    assert contributions.sum() == pytest.approx(LEXICON.score(words))


def test_split_words_keeps_offsets_into_the_text():
    text = "It's  NOT superb!!"
    words, offsets = split_words(text)
    assert words == ["it's", "not", "superb", "!", "!"]
    assert [text[start:end].lower() for start, end in offsets] == words


def test_a_stored_lexicon_is_written_as_it_was(tmp_path):
    stored = bundled("movie_review").lexicon
    load_lexicon(stored).save(tmp_path / "lexicon.json")
    assert (tmp_path / "lexicon.json").read_bytes() == stored.read_bytes()


def test_rules_are_read_from_the_file(tmp_path):
    LEXICON.save(tmp_path / "lexicon.json")
    assert load_lexicon(tmp_path / "lexicon.json") == LEXICON
    stored = json.loads((tmp_path / "lexicon.json").read_text())
    stored |= {"scope": 1, "negation_factor": -0.5, "smoothing": 1.0}
    (tmp_path / "lexicon.json").write_text(json.dumps(stored))
    loaded = load_lexicon(tmp_path / "lexicon.json")
    assert loaded.score("not good".split()) == pytest.approx(-0.5 / 1.5)
    assert loaded.score("not a good".split()) == pytest.approx(1 / 2)


@pytest.mark.parametrize("content", ["{", '{"words": {}}'])
def test_a_file_that_is_no_lexicon_is_named(tmp_path, content):
    path = tmp_path / "lexicon.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"lexicon\.json.*save\(\)"):
        load_lexicon(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"words": {"plain": 0.0}}, r"finite.*'plain': 0\.0"),
        ({"intensifiers": {"un": -1.0}}, r"factors > 0.*'un': -1\.0"),
        ({"scope": -1}, r"scope.*got -1"),
        ({"negations": ("not", "good")}, r"one role.*\['good'\]"),
    ],
)
def test_bad_lexicons_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Lexicon(**{"words": {"good": 1.0}, "intensifiers": {}, "negations": ()} | change)
