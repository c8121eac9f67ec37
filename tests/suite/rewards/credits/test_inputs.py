# mypy: no-check-untyped-defs
"""Each name of the table for a batch: by hand, in conversations, and only when it is asked for."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.support.rewards.known import SHORT, TALK, Known
from tokengym.rewards import FunctionScorer, Scores
from tokengym.rewards.credits.inputs import Inputs
from tokengym.rewards.credits.names import NAMES
from tokengym.rewards.errors import CreditError, NoScoreError

NAN = float("nan")


def test_columns_are_the_rows_own_tokens():
    inputs = Inputs([TALK, SHORT])
    assert inputs["response_mask"].tolist() == [[True, True, True], [True, True, False]]
    assert inputs["response_ids"].tolist() == [[3, 4, 8], [3, 1, 0]]
    assert inputs["positions"].tolist() == [[0, 1, 2], [0, 1, -1]]
    assert inputs["turn_ids"].tolist() == [[0, 0, 1], [0, 0, -1]]
    np.testing.assert_array_equal(inputs["turn_scores"], [[NAN, 0.25, NAN], [NAN] * 3])
    assert inputs["row_seeds"] == [[1, 5, 3, 4, 8], [2, 5, 9, 3, 1]]
    assert inputs["prompts"] == ["the prompt"] * 2
    assert inputs["responses"] == ["a b d e f", "the response"]
    assert inputs["references"] == [None, None]
    assert inputs["episodes"] == [TALK, SHORT]
    assert inputs["level"] == [None, 2]
    placed = inputs.placed(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 0.0]]))
    assert [row.tolist() for row in placed] == [[1, 2, 0, 0, 3], [4, 5]]


def test_states_are_equal_where_a_turn_began_after_the_same_text():
    other = replace(TALK, response_ids=[3, 4, 6, 7, 9])
    third = replace(TALK, response_ids=[3, 5, 6, 7, 8])
    ids = Inputs([TALK, other, third, SHORT])["state_ids"]
    assert ids.tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 2], [3, 3, -1]]


def test_what_is_said_of_a_reply_counts_at_the_token_before_it():
    inputs = Inputs([TALK, SHORT], scorer=Known())
    assert inputs["attention"].tolist() == [[1, 2 + 3 + 4, 5], [1, 2, 0]]
    # 50 - 15 is the score before the first token, and 20 - 3
    assert inputs["prefix_scores"].tolist() == [[35, 36, 45, 50], [17, 18, 20, 20]]
    assert inputs["scores"].tolist() == [50, 20]


def test_a_text_so_far_has_the_levels_of_a_whole_one():
    assert Inputs([SHORT], scorer=Known(), ended=False)["prefix_scores"].tolist() == [[17, 18, 20]]


def test_of_a_text_so_far_without_a_score_only_the_moves_are_known():
    class Unsure(Known):
        def score(self, episodes, *, attribution=None):
            scores = super().score(episodes, attribution=attribution)
            return replace(scores, values=scores.values * np.nan, gaps=frozenset({"values"}))

    inputs = Inputs([SHORT], scorer=Unsure(), ended=False)
    assert inputs["prefix_scores"].diff(dim=1).tolist() == [[1, 2]]
    with pytest.raises(NoScoreError, match=r"gave 1 of 1 texts no score.*on_error='raise'"):
        inputs["scores"]


def test_nothing_unnamed_is_computed_and_the_score_comes_with_the_first_account():
    scorer = Known()
    inputs = Inputs([TALK, SHORT], scorer=scorer)
    assert scorer.asked == []
    inputs["attention"]
    inputs["scores"]
    assert scorer.asked == ["attention"]
    inputs["relevance"]
    assert scorer.asked == ["attention", "relevance"]
    known = Inputs([SHORT], scorer=scorer, scores=Scores([3.0]))
    assert known["scores"].tolist() == [3.0]
    assert scorer.asked == ["attention", "relevance"]


def test_values_are_in_double_precision_unless_asked_otherwise():
    assert Inputs([SHORT], scorer=Known())["attention"].dtype == torch.float64
    single = Inputs([SHORT], scorer=Known(), dtype=torch.float32)
    assert single["scores"].dtype == single["attention"].dtype == torch.float32


def test_every_prefix_is_a_text_of_its_own_of_a_scorer_without_scores_of_prefixes(tokenizer):
    scorer = FunctionScorer(lambda prompt, response: float(len(response.split())))
    inputs = Inputs([TALK, SHORT], scorer=scorer, tokenizer=tokenizer)
    # a, a b with the reply d e, all five; the second row ends by EOS, which is no word
    scores = inputs["prefix_scores"] - inputs["prefix_scores"][:, :1]
    assert scores.tolist() == [[0, 1, 4, 5], [0, 1, 1, 1]]


def test_a_text_without_some_of_its_tokens_is_asked_once(tokenizer):
    seen = []

    def count(prompt, response):
        seen.append(response)
        return float(len(response.split()))

    scores = Scores([50.0, 20.0])
    inputs = Inputs([TALK, SHORT], scorer=FunctionScorer(count), tokenizer=tokenizer, scores=scores)
    left_out = torch.tensor([[[0, 0, 0], [0, 1, 0], [0, 1, 0]], [[0, 0, 0], [1, 1, 0], [0, 0, 1]]])
    asked = inputs["score_without"](left_out.bool())
    # nothing left out is the known score; without b its reply is gone; padding is no token
    assert asked.tolist() == [[50, 2, 2], [20, 0, 20]]
    assert seen == ["a f", ""]


def test_continuations_are_scored_behind_the_reply(tokenizer):
    class Finishes:
        def finish(self, prefixes, seeds):
            self.seeds = seeds
            self.prefixes = [list(prefix.response_ids) for prefix in prefixes]
            return [
                replace(p, response_ids=[*p.response_ids, *[3] * (1 + number)], written=None)
                for number, p in enumerate(prefixes)
            ]

    policy, scorer = Finishes(), FunctionScorer(lambda response_ids: len(response_ids))
    inputs = Inputs([TALK, SHORT], scorer=scorer, tokenizer=tokenizer, continuations=policy)
    ends = torch.tensor([[False, True, False], [True, False, False]])
    values = inputs["continue_from"](2, ends)
    assert policy.prefixes == [[3, 4, 6, 7]] * 2 + [[3]] * 2
    own = inputs["row_seeds"]
    drawn_by = [(1, 0, own[0]), (1, 1, own[0]), (0, 0, own[1]), (0, 1, own[1])]
    assert policy.seeds == [[place, copy, *row] for place, copy, row in drawn_by]
    assert values.tolist() == [[0, (5 + 6) / 2, 0], [(4 + 5) / 2, 0, 0]]


def test_an_episode_carries_the_policys_figures():
    assert Inputs([TALK])["log_probs"].tolist() == [[-1, -2, -5]]
    with pytest.raises(CreditError, match=r"carries no log_probs.*a learner of tokengym\.agents"):
        Inputs([SHORT])["log_probs"]


def test_a_name_that_nobody_has_names_who_could_supply_it():
    with pytest.raises(CreditError, match=r"'values' is not here.*advantage=, weights= or loss="):
        Inputs([SHORT])["values"]
    with pytest.raises(CreditError, match=r"reference_policy=PATH"):
        Inputs([SHORT])["ref_log_probs"]
    with pytest.raises(CreditError, match="no scorer here"):
        Inputs([SHORT])["scores"]
    assert Inputs([SHORT], given={"values": 3})["values"] == 3


def test_the_table_says_all_of_each_name():
    for name, entry in NAMES.items():
        assert entry.meaning, name
        assert entry.supplier in ("texts", "scorer", "reference", "policy", "trainer"), name
