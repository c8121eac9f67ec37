# mypy: no-check-untyped-defs
"""The call of a rule: the rest of the score, pieces, models, figures and refusals."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.support.rewards.common import make_episode
from tests.support.rewards.known import SHORT, TALK, Known
from tokengym.rewards import FunctionScorer, ScorerError, Scores, token_credit
from tokengym.rewards.credits.inputs import Inputs
from tokengym.rewards.credits.pieces import spans_of
from tokengym.rewards.credits.rule import Rule
from tokengym.rewards.errors import CreditError, NoScoreError
from tokengym.rewards.maths.tokens import on_last, rescaled, rest_on_last, shares

ONE = make_episode(response_ids=[5, 6, 7, 1])


def attended(scores, attention, response_mask):
    return scores[:, None] * shares(attention, response_mask)


@token_credit(parts=True)
def increments(prefix_scores):
    return prefix_scores.diff(dim=1)


def paid(function, episodes, *, given=None, **options):
    rule = Rule(function, **options)
    inputs = Inputs(episodes, scorer=Known(), given=given or {})
    rewards, figures = rule(inputs)
    return [row.round(9).tolist() for row in inputs.placed(rewards)], figures


def test_a_share_of_the_score_stays_on_the_last_token():
    # weights 1, 2, 3, 4 of a score of 40
    assert paid(attended, [ONE])[0] == [[4, 8, 12, 16]]
    assert paid(attended, [ONE], beta=0.5)[0] == [[2, 4, 6, 28]]
    assert paid(attended, [ONE], beta=0)[0] == [[0, 0, 0, 40]]


def test_parts_leave_the_rest_on_the_last_token():
    # increments 1, 2, 3, 4 of a score of 40: 30 belong to no token
    assert paid(increments, [ONE])[0] == [[1, 2, 3, 34]]
    assert paid(increments, [ONE], beta=0.5)[0] == [[0.5, 1, 1.5, 37]]
    inputs = Inputs([ONE], scorer=Known(), ended=False)
    assert Rule(increments)(inputs)[0].tolist() == [[1, 2, 3, 4]]


def test_replies_earn_nothing_and_the_token_before_them_what_they_did():
    assert paid(increments, [TALK, SHORT])[0] == [[1, 9, 0, 0, 40], [1, 19]]
    assert paid(attended, [TALK])[0] == [[pytest.approx(v) for v in (50 / 15, 30, 0, 0, 250 / 15)]]


def test_pieces_are_paid_in_sums_on_their_last_tokens():
    assert paid(attended, [ONE], segments=2)[0] == [[0, 12, 0, 28]]
    assert paid(increments, [ONE], segments=3)[0] == [[0, 3, 3, 34]]
    assert paid(attended, [ONE], segments=1)[0] == [[0, 0, 0, 40]]
    for rule in (attended, increments):
        assert paid(rule, [ONE, TALK], segments=9)[0] == paid(rule, [ONE, TALK])[0]
    assert paid(increments, [TALK], cut="turn")[0] == [[0, 10, 0, 0, 40]]


def test_a_rule_that_reads_where_pieces_end_places_its_rewards_itself():
    def early(scores, segment_ends, positions, response_mask):
        return scores[:, None] * (segment_ends == segment_ends[:, :1]) * (positions == 0)

    assert paid(early, [ONE], segments=2)[0] == [[40, 0, 0, 0]]
    assert Rule(early, segments=2).pieces([ONE]) == [[range(2), range(2, 4)]]


def test_pieces_begin_at_the_highest_entropy_or_by_the_text(tokenizer):
    class Reads:
        def figures(self, episodes, names, *, shape=None):
            rows = [np.array([9.0, 0.1, 0.9, 0.2])[: len(e.response_ids)] for e in episodes]
            return dict.fromkeys(names, rows)

    inputs = Inputs([ONE], scorer=Known(), reference=Reads())
    assert spans_of(inputs, "entropy", 2) == [[range(2), range(2, 4)]]
    texts = Inputs([ONE], tokenizer=tokenizer)
    texts.token_texts = lambda: [["one", ".", "\n", " two"]]
    assert spans_of(texts, "sentence", None) == [[range(3), range(3, 4)]]
    assert spans_of(texts, "line", None) == [[range(3), range(3, 4)]]


class Reads:
    def figures(self, episodes, names, *, shape=None):
        rows = [np.arange(1.0, 1 + len(e.response_ids)) for e in episodes]
        return dict.fromkeys(names, rows)

    def bind(self, tokenizer):
        return self


def test_a_declared_model_is_read_by_parameters():
    @token_credit(models={"policy": "language"})
    def ratio(response_mask, policy_log_probs, beta=0.5):
        return beta * policy_log_probs

    rule: Any = Rule(ratio, policy=Reads()).bind(None)
    inputs = Inputs([TALK, SHORT], scorer=Known())
    assert rule(inputs)[0].tolist() == [[0.5, 1, 2.5], [0.5, 1, 0]]
    rule = Rule(ratio, policy=Reads(), segments=2)
    assert rule(inputs)[0].tolist() == [[0, 1.5, 2.5], [0.5, 1, 0]]
    with pytest.raises(CreditError, match="'ratio' needs policy; write 'ratio:policy=PATH'"):
        Rule(ratio)

    @token_credit(models={"policy": "language"})
    def wrong_name(response_mask, policy_logits):
        return policy_logits

    with pytest.raises(CreditError, match=r"reads 'policy_logits', and a language model has con"):
        Rule(wrong_name, policy=Reads())


def test_the_reference_is_an_option_of_what_reads_it():
    @token_credit(conserves=False)
    def surprise(ref_log_probs):
        return -ref_log_probs

    rule = Rule(surprise, reference=Reads())
    inputs = Inputs([TALK], scorer=Known(), reference=rule.reader())
    assert rule(inputs)[0].tolist() == [[-1, -2, -5]]
    with pytest.raises(CreditError, match="reference has no effect on 'attended', which reads no"):
        Rule(attended, reference="folder")


def test_figures_are_reported_beside_the_rewards():
    def noted(scores, response_mask):
        return on_last(scores, response_mask), {"doubled": 2 * scores}

    rewards, figures = paid(noted, [ONE, SHORT], segments=2)
    assert rewards == [[0, 0, 0, 40], [0, 20]]
    assert figures["doubled"].tolist() == [80, 40]


def wrong_shape(scores, response_mask):
    return scores


def not_finite(scores, response_mask):
    return (scores[:, None] * response_mask).log() * 0


def no_tensor(scores, response_mask):
    return [[1.0]]


def with_gradient(scores, response_mask):
    with torch.enable_grad():
        return (scores * torch.ones(1, requires_grad=True))[:, None] * response_mask


def changes(scores, response_mask):
    scores *= 2
    return on_last(scores, response_mask)


def raises(scores, response_mask):
    return {}["x"]


def raises_value(scores, response_mask):
    return shares(-response_mask.double(), response_mask)


def reads_file(scores, response_mask):
    return open("no-such-file")


def bad_figure(scores, response_mask):
    return on_last(scores, response_mask), {"figure": torch.ones(7)}


def endless_figure(scores, response_mask):
    return on_last(scores, response_mask), {
        "figure": torch.tensor([1.0, 1e300], dtype=torch.float64)
    }


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (endless_figure, r"gives row 1 the figure 'figure' = 1e\+300; it must be finite, or nan"),
        (wrong_shape, r"shape \(2,\); return \(batch, time\), here \(2, 4\)"),
        (not_finite, "gives token 0 of row 0 the value nan"),
        (no_tensor, r"returned list; return a tensor of shape \(2, 4\)"),
        (with_gradient, r"with a gradient; return result.detach\(\)"),
        (changes, r"changes scores in place.*scores.clone\(\)"),
        (raises, r"raised KeyError .*'x'.* at line \d+ of .*test_rule.py"),
        (raises_value, r"raised ValueError .*weights must be >= 0.* at line \d+ of .*test_rule.py"),
        (reads_file, r"raised FileNotFoundError .*no-such-file.* at line \d+ of .*test_rule.py"),
        (bad_figure, r"figure 'figure' of shape \(7,\); return one number per row, \(2,\)"),
    ],
)
def test_refusals_name_the_function_its_file_and_line(function, words):
    given = {"scores": torch.tensor([-1.0, 2.0])}
    with pytest.raises(CreditError, match=words) as caught:
        paid(function, [ONE, SHORT], given=given)
    text = str(caught.value)
    assert "\n" not in text
    label, line = function.__name__.replace("_", "-"), function.__code__.co_firstlineno
    assert text.startswith(f"credit {label} (test_rule.py:{line})")


def test_an_array_of_numpy_is_a_result():
    """As the audit takes one of an estimator; one that is read backwards too."""

    def backwards(scores, response_mask):
        return on_last(scores, response_mask).flip(1).numpy()[:, ::-1]

    given = {"scores": torch.tensor([-1.0, 2.0])}
    expected = paid(on_last, [ONE, SHORT], given=given)
    assert paid(backwards, [ONE, SHORT], given=given) == expected


def test_errors_of_the_scorer_asked_from_within_stay_the_scorers(tokenizer):
    def without(scores, score_without, response_mask):
        return score_without(response_mask[:, None]) * response_mask

    scores = Scores([1.0])
    missing = FunctionScorer(lambda prompt, response: None)
    with pytest.raises(NoScoreError, match="gave 1 of 1 texts with parts left out no score"):
        Rule(without)(Inputs([ONE], scorer=missing, tokenizer=tokenizer, scores=scores))
    broken = FunctionScorer(lambda prompt, response: 1 / 0)
    with pytest.raises(ScorerError, match="ZeroDivisionError"):
        Rule(without)(Inputs([ONE], scorer=broken, tokenizer=tokenizer, scores=scores))


def test_helpers_by_hand():
    mask = torch.tensor([[True, True, True], [True, False, False]])
    scores = torch.tensor([6.0, -2.0])
    weights = torch.tensor([[1.0, 1.0, 2.0], [0.0, 5.0, 5.0]])
    assert on_last(scores, mask).tolist() == [[0, 0, 6], [-2, 0, 0]]
    assert shares(weights, mask).tolist() == [[0.25, 0.25, 0.5], [1, 0, 0]]
    parts = torch.tensor([[2.0, -0.5, 0.0], [7.0, 9.0, 9.0]])
    assert rest_on_last(scores, parts, mask).tolist() == [[2, -0.5, 4.5], [-2, 0, 0]]
    signed = torch.tensor([[3.0, -1.0, 2.0], [4.0, 0.0, 0.0]])
    # 4 scaled to 6; a single part of the other sign keeps it and gets the rest
    np.testing.assert_allclose(rescaled(scores, signed, mask), [[4.5, -1.5, 3], [-2, 0, 0]], 1e-6)
    # 1.05 - 1 is less than a tenth of 2.05: signs kept, absolute sum 6, the rest last
    row = torch.tensor([[1.05, -1.0, 0.0]])
    found = rescaled(scores[:1], row, mask[:1])[0]
    expected = [1.05 * 6 / 2.05, -6 / 2.05, 6 - 0.05 * 6 / 2.05]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert rescaled(scores, signed * 0, mask).tolist() == [[2, 2, 2], [-2, 0, 0]]
