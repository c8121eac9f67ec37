import numpy as np
import pytest

from tokengym.envs import Episode
from tokengym.evaluation.measure.win_rate import judged, scored, win_rate


def episodes(*texts: str, scores=None) -> list[Episode]:
    return [
        Episode(
            prompt=f"prompt {index}",
            response=text,
            prompt_ids=(1,),
            response_ids=(2,),
            score=None if scores is None else scores[index],
        )
        for index, text in enumerate(texts)
    ]


def test_a_win_is_one_in_both_orders():
    #            win  bias  loss  tie  half a preference
    as_a, as_b = [0.9, 0.8, 0.2, 0.5, 0.6], [0.7, 0.3, 0.1, 0.5, 0.5]
    result = win_rate(as_a, as_b)
    assert (result.wins, result.ties, result.losses) == (1, 3, 1)
    assert result.rate == (1 + 3 / 2) / 5
    assert result.disagreement == 1 / 5
    assert 0.0 <= result.low <= 0.5 <= result.high <= 1.0


def test_the_other_side_wins_what_this_side_loses():
    rng = np.random.default_rng(0)
    as_a, as_b = rng.uniform(size=(2, 40))
    ours, theirs = win_rate(as_a, as_b), win_rate(1.0 - as_b, 1.0 - as_a)
    assert (ours.wins, ours.ties, ours.losses) == (theirs.losses, theirs.ties, theirs.wins)
    assert ours.rate + theirs.rate == pytest.approx(1.0)


def test_a_judge_who_likes_what_stands_first_decides_nothing():
    result = judged(episodes("a", "b"), episodes("x", "y"), lambda pairs: [0.9] * len(pairs))
    assert (result.wins, result.ties, result.losses, result.rate) == (0, 2, 0, 0.5)
    assert result.disagreement == 1.0


def test_a_judge_of_length_prefers_the_longer_one_in_either_place():
    def longer(triples):
        return [float(len(a) > len(b)) for _, a, b in triples]

    result = judged(episodes("long one", "s"), episodes("s", "long one"), longer)
    assert (result.wins, result.losses, result.disagreement) == (1, 1, 0.0)


def test_scores_decide_where_no_judge_is_asked():
    ours = episodes("a", "b", "c", scores=[1.0, 2.0, 3.0])
    theirs = episodes("x", "y", "z", scores=[0.0, 2.0, 4.0])
    result = scored(ours, theirs)
    assert (result.wins, result.ties, result.losses) == (1, 1, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: win_rate([0.5], [0.5, 0.5]), r"prompts.*\(1,\) and \(2,\)"),
        (lambda: win_rate([1.5], [0.5]), "as_a.*got shape"),
        (lambda: win_rate([], []), "as_a must be"),
        (lambda: scored(episodes("a"), []), "1 and 0 episodes"),
        (lambda: scored(episodes("a"), episodes("b")), "an episode has no score"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
