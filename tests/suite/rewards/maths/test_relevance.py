# mypy: no-check-untyped-defs
import numpy as np
import pytest

from tokengym.rewards.maths import relevance as R3


@pytest.mark.parametrize(
    ("text", "incentive", "penalty"),
    [
        ("", 0.0, 1.0),
        ("Yes", 0.01, 1.0),
        ("Yes it", 0.02, 1.0),
        ("It's 3.5 km!!", 0.08, 1.0),  # It ' s 3 . 5 km !!
        ("a b c a b c", 0.06, 3 / 4),  # abc bca cab abc
        ("no no no no no", 0.05, 1 / 3),
        ("naïve café_2 — “ok”", 0.06, 1.0),  # naïve café_2 — “ ok ”
    ],
)
def test_length_incentive_and_repetition_penalty(text, incentive, penalty):
    assert R3.length_incentive(text) == pytest.approx(incentive)
    assert R3.repetition_penalty(text) == pytest.approx(penalty)


def test_r3_factor_by_hand():
    assert R3.r3_factor(0.4, 0.5, max_len=512, constrained=False) == pytest.approx(0.2)
    # F(r_y) = r_y / 3.5 * 512 / 100: with r_y = 3.5 it is 5.12
    assert 3.5 * R3.r3_factor(0.4, 0.5, max_len=512, constrained=True) == pytest.approx(2.56)
    assert 7.0 * R3.constrained_factor(50) == pytest.approx(1.0)
    # In an encoder where a reference has 2.5 to itself, 2.5 earns the same 5.12.
    full = R3.r3_factor(0.4, 0.5, max_len=512, constrained=True, full_relevance=2.5)
    assert 2.5 * full == pytest.approx(2.56)
    open_ended = R3.r3_factor(0.4, 0.5, max_len=512, constrained=False, full_relevance=2.5)
    assert open_ended == pytest.approx(0.2)
    assert R3.self_relevance([[3.0, 4.0], [0.0, 1.0]]) == 13.0


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("An answer.\n\nStill it.", "An answer.\n\nStill it."),
        ("An answer.\n\n\nNo more.", "An answer."),
        ("An answer.\n \n\t\n\nNo more.", "An answer."),
        ("An answer. Human: and now?", "An answer."),
        ("An answer\nUSER: and now?", "An answer"),
        ("An answer<|user|>and", "An answer"),
        ("\n\n\n\nAn answer", "An answer"),
        ("Assistant: at once", ""),
        ("The human said: no", "The human said: no"),
    ],
)
def test_cut_at_turn(text, kept):
    assert R3.cut_at_turn(text) == kept


@pytest.mark.parametrize(
    ("prompt", "query"),
    [
        ("Who wrote  Emma?", "Who wrote Emma?"),
        ("Who wrote Emma?\n\nAssistant:", "Who wrote Emma?"),
        ("Human: Who wrote Emma? Assistant:", "Who wrote Emma?"),
        ("Be brief.\n\nUSER: Who wrote Emma? ASSISTANT:", "Who wrote Emma?"),
        ("Human: Hi Assistant: Hello! Human: Who? Assistant:", "Hi Who?"),
        ("### Instruction\nSum up.\n### Input\nA text.\n### Response\n", "Sum up. A text."),
    ],
)
def test_strip_query(prompt, query):
    assert R3.strip_query(prompt) == query


def test_own_role_tags():
    assert R3.strip_query("question : who ? answer :", ["question :", "answer :"]) == "who ?"
    assert R3.cut_at_turn("jane . question : and", ["question :"]) == "jane ."
    assert R3.strip_query("Human: who", []) == "Human: who"


def test_relevance_shares_by_hand():
    query, hidden = [1.0, -2.0], [[2.0, 0.0], [0.0, 1.0], [3.0, 2.0]]
    shares = R3.relevance_shares(query, hidden)
    np.testing.assert_allclose(shares, [2 / 3, -2 / 3, -1 / 3])
    assert shares.sum() == pytest.approx(float(np.dot(query, R3.mean_pool(hidden))))
    assert R3.mean_pool(np.zeros((0, 2))).tolist() == [0, 0]
    assert R3.relevance_shares(query, np.zeros((0, 2))).shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: R3.constrained_factor(0), "max_len.*> 0, got 0"),
        (lambda: R3.constrained_factor(5, full_relevance=0), "full_relevance.*> 0, got 0"),
        (lambda: R3.mean_pool([1.0]), r"hidden.*got \(1,\)"),
        (lambda: R3.relevance_shares([1.0], [[1.0, 2.0]]), r"got \(1, 2\) and \(1,\)"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
