import math
import zlib
from importlib.metadata import EntryPoint

import numpy as np
import pytest

from tokengym.base import plugins
from tokengym.envs import Episode, Turn
from tokengym.evaluation.measure import measures
from tokengym.evaluation.measure.measures import (
    MEASURES,
    OF_ERROR,
    OF_POLICY,
    UNSCORED,
    Measure,
    compression_ratio,
    copy_rate,
    distinct,
    measures_of,
    repetition,
    text_metrics,
    words,
)
from tokengym.evaluation.report.curves import curve_columns


def episode(prompt: str, response: str, tokens: int, reason: str = "length") -> Episode:
    return Episode(
        prompt=prompt,
        response=response,
        prompt_ids=(1,),
        response_ids=range(tokens),
        finish_reason=reason,  # type: ignore[arg-type]
    )


def test_words_split_punctuation_off():
    assert words("It's  fine -- 'ok'.") == ["It", "'", "s", "fine", "--", "'", "ok", "'."]
    assert words("") == []


def test_distinct_by_hand():
    assert distinct(["a b a b", "a b"], 1) == 2 / 6
    assert distinct(["a b a b", "a b"], 2) == 2 / 4  # ab ba ab | ab
    assert math.isnan(distinct(["a"], 2))  # no bigram
    assert distinct(["a", "", "b c"], 2) == 1.0


def test_repetition_is_one_less_r3s_penalty():
    assert repetition("a b c a b c", 3) == 1 - 3 / 4
    assert math.isnan(repetition("a b", 3))
    assert repetition("a b c", 3) == 0.0
    assert repetition("x " * 10, 3) == 1 - 1 / 8


def test_copy_rate_by_hand():
    assert copy_rate("who wrote it", "who wrote it then", 3) == 0.5
    assert copy_rate("who wrote it", "no idea of it", 3) == 0.0
    assert copy_rate("who", "who", 1) == 1.0
    assert math.isnan(copy_rate("who wrote it", "who wrote", 3))
    assert copy_rate("who", "who wrote it", 3) == 0.0  # such a prompt cannot be copied


def test_texts_that_say_the_same_compress_better():
    texts = ["a strange little film", "the plot moves slowly but it moves"]
    assert compression_ratio(texts) == 56 / len(zlib.compress("\n".join(texts).encode(), 9))
    assert compression_ratio([texts[0]] * 8) > 3.0 > 1.5 > compression_ratio(texts)
    assert all(math.isnan(compression_ratio(texts)) for texts in ([], [""], ["", " "]))


def test_text_metrics_are_means_over_episodes():
    episodes = [episode("one two three", "one two three", 3, "eos"), episode("p", "a a a a", 5)]
    metrics = text_metrics(episodes)
    assert metrics["length"] == 4.0
    assert metrics["eos_rate"] == 0.5
    assert metrics["copy_rate"] == 0.5
    assert metrics["repetition"] == 0.25
    assert metrics["distinct_1"] == 4 / 7


def test_a_response_without_ngrams_is_left_out_and_never_the_best_one():
    """A policy that ends at once has no share of anything: 0 repetition would look perfect."""
    empty = episode("one two three", "", 1, "eos")
    assert text_metrics([empty, empty]) == {"length": 1.0, "eos_rate": 1.0}
    short = episode("one two three", "one two", 3, "eos")
    metrics = text_metrics([empty, short])
    assert metrics.keys() == {"length", "eos_rate", "distinct_1", "distinct_2", "compression"}
    assert (metrics["distinct_1"], metrics["distinct_2"]) == (1.0, 1.0)
    # 8 trigrams of one word, and one copied of two: the short response pulls neither down.
    long, copied = episode("p", "x " * 10, 11), episode("one two three", "one two three four", 5)
    metrics = text_metrics([short, long, copied, empty])
    assert metrics["repetition"] == (7 / 8 + 0) / 2
    assert metrics["copy_rate"] == (0 + 1 / 2) / 2


QUESTIONS = Measure(
    name="questions",
    title="Questions",
    meaning="Share of responses that ask something.",
    recorded=True,
    of_response=lambda episode: "?" in episode.response,
)


def test_an_error_is_declared_where_each_value_is_kept():
    assert "kept in responses.npz" in QUESTIONS.says
    with pytest.raises(ValueError, match=r"of 'q' each response's value .* give of_response alone"):
        Measure(name="q", title="Q", meaning="", error="prompts", of_text=len)


def test_a_measure_of_an_installed_package_is_taken_wherever_the_table_is_read(monkeypatch):
    points = [EntryPoint("questions", f"{__name__}:QUESTIONS", "tokengym.measures")]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)
    monkeypatch.setattr(MEASURES, "_entries", dict(MEASURES))
    measures._import_plugins.cache_clear()
    assert text_metrics([episode("p", "is it?", 2), episode("p", "no", 1)])["questions"] == 0.5
    assert "questions" in curve_columns()
    measures._import_plugins.cache_clear()


def test_text_metrics_of_a_conversation_leave_the_replies_out():
    talk = Episode(
        prompt="one two three",
        response="a a one two three b",
        prompt_ids=(1,),
        response_ids=range(6),
        finish_reason="stop",
        turns=(
            Turn("assistant", "a a", (0, 2)),
            Turn("user", "one two three", (2, 5)),
            Turn("assistant", "b", (5, 6)),
        ),
        written=np.array([1, 1, 0, 0, 0, 1]),
    )
    assert talk.written_text == "a a\nb"
    metrics = text_metrics([talk])
    assert metrics["length"] == 3.0
    assert metrics["copy_rate"] == 0.0
    assert metrics["distinct_1"] == 2 / 3


def test_bad_input():
    with pytest.raises(ValueError, match="episode, got none"):
        text_metrics([])


def test_each_measurement_says_what_it_means_and_how_sure_it_is():
    always_known = {UNSCORED}
    for measure in MEASURES.values():
        assert measure.meaning, measure.name
        assert measure.unit, measure.name
        assert bool(measure.missing) == (measure.name not in always_known), measure.name
        assert OF_POLICY[measure.policy] in measure.says
        assert OF_ERROR[measure.error_by] in measure.says
        assert measure.as_dict()["of"] == OF_POLICY[measure.policy]
    of_source = measures_of(False, {"score": "column score of mine.csv"})["score"]
    assert of_source.as_dict()["of"] == OF_POLICY["unknown"]
    assert "mine.csv" in of_source.meaning
    assert measures_of(False)["score"].policy == "measured"
