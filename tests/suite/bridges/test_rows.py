"""Rows to advantages, and the doors that are a few lines around it, by their trainers' shapes.

prime-rl at 559b447 (August 2026), verifiers 0.4.0, and tinker 0.38.0.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.support.paid_words import LONG, PROMPT, SHORT, TOKENIZER, credit
from tokengym import TokenCredit
from tokengym.base.errors import SettingsError
from tokengym.bridges.prime_rl import trace_advantages
from tokengym.bridges.rows import Row, credit_rows
from tokengym.bridges.tinker import loss_inputs
from tokengym.envs import bundled
from tokengym.rewards import Normalize, RewardModel


def row(ids: list[int], **changes: Any) -> Row:
    return Row(**{"prompt_ids": PROMPT, "response_ids": ids, "group": "a", **changes})


def test_advantages_are_rewards_to_go_minus_those_of_the_prompts_other_rows():
    """Uniform pays 1 a word: 3, 2, 1 to go against 2, 1, and nobody at the third token."""
    assert (len(LONG), len(SHORT)) == (3, 2)
    found = credit_rows([row(LONG), row(SHORT)], credit())
    assert found.scores.tolist() == [3.0, 2.0]
    np.testing.assert_allclose(found.advantages[0], [1.0, 1.0, 1.0], atol=1e-6)
    np.testing.assert_allclose(found.advantages[1], [-1.0, -1.0], atol=1e-6)
    apart = credit_rows([row(LONG), row(SHORT), row(SHORT, group="b")], credit())
    for alone, before in zip(apart.advantages, [*found.advantages, np.zeros(2)], strict=True):
        np.testing.assert_array_equal(alone, before)
    with pytest.raises(SettingsError, match="none of 2 prompts"):
        credit_rows([row(LONG), row(SHORT, group="b")], credit())


def through_the_doors(responses: list[list[int]], advantage: str) -> dict[str, list[list[float]]]:
    """Return what each door hands its trainer for `sparse`, all responses to one prompt."""
    rule, rows = credit("sparse"), [row(ids) for ids in responses]
    credited = credit_rows(rows, rule, advantage).advantages
    data = [
        loss_inputs(one, given, [-1.0] * len(given))
        for one, given in zip(rows, credited, strict=True)
    ]
    start = node(PROMPT, sampled=False)
    traces = [
        SimpleNamespace(id="t", nodes=[start, node(ids, sampled=True)], branches=[None])
        for ids in responses
    ]
    return {
        "tinker": [d.loss_fn_inputs["advantages"][len(PROMPT) - 1 :].tolist() for d in data],
        "prime-rl": trace_advantages(traces, rule, advantage=advantage),
    }


def test_sparse_through_each_door_is_what_its_trainer_broadcasts():
    """Without a baseline the score; with one, of equal lengths, N / (N - 1) times its deviation."""
    for door, found in through_the_doors([LONG, SHORT], "reinforce").items():
        assert found == [[3.0] * 3, [2.0] * 2], door
    ended = [*SHORT, TOKENIZER.eos_token_id]  # as long as the other, and worth a word less
    for door, found in through_the_doors([LONG, ended, ended], "loo").items():
        deviations = [3 - 7 / 3, 2 - 7 / 3, 2 - 7 / 3]
        expected = [[3 / 2 * one] * 3 for one in deviations]
        np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=door)


def test_rows_without_a_token_of_the_policy_are_nobodys_baseline():
    silent = row(SHORT, written=[0, 0])
    found = credit_rows([row(LONG), silent], credit())
    np.testing.assert_array_equal(found.scores, [3.0, np.nan])
    assert [advantage.tolist() for advantage in found.advantages] == [[0.0] * 3, [0.0] * 2]
    between = credit_rows([silent, row(LONG), silent, row(SHORT)], credit())
    np.testing.assert_array_equal(between.scores, [np.nan, 3.0, np.nan, 2.0])
    paid = [[0.0] * 2, [1.0] * 3, [0.0] * 2, [1.0] * 2]
    for rewards, expected in zip(between.token_rewards, paid, strict=True):
        np.testing.assert_allclose(rewards, expected, atol=1e-6)
    over = [[0.0] * 2, [1.0] * 3, [0.0] * 2, [-1.0] * 2]
    for advantage, expected in zip(between.advantages, over, strict=True):
        np.testing.assert_allclose(advantage, expected, atol=1e-6)
    with pytest.raises(ValueError, match="responses is empty"):
        credit_rows([], credit())


@pytest.mark.parametrize("written", [[0, 0], [1, 0], [0] * 4, [[0] * 3]])
def test_every_row_says_of_each_token_who_wrote_it(written: Any):
    with pytest.raises(ValueError, match=r"written of row 1 has shape .* for 3 .* pass one entry"):
        credit_rows([row(LONG), row(LONG, written=written)], credit())


def test_a_datum_has_targets_one_ahead_and_nothing_on_the_prompt():
    inputs = loss_inputs(row(LONG, written=[1, 0, 1]), [0.5, 0.0, -1.0], [-1.0, -9.0, -2.0])
    assert inputs.tokens == [*PROMPT, *LONG[:-1]]
    assert inputs.loss_fn_inputs["target_tokens"].tolist() == [*PROMPT[1:], *LONG]
    before = [0.0] * (len(PROMPT) - 1)
    assert inputs.loss_fn_inputs["advantages"].tolist() == [*before, 0.5, 0.0, -1.0]
    assert inputs.loss_fn_inputs["logprobs"].tolist() == [*before, -1.0, 0.0, -2.0]
    broadcast = loss_inputs(row(LONG, written=[1, 0, 1]), [2.0] * 3, [-1.0] * 3)
    assert broadcast.loss_fn_inputs["advantages"].tolist() == [*before, 2.0, 0.0, 2.0]
    whole = loss_inputs(row(LONG), [0.5, 0.0, -1.0], [-1.0] * 3, mean_per_row=True)
    size = len(whole.tokens)
    expected = [*before, 0.5 * size, 0.0, -1.0 * size]
    assert whole.loss_fn_inputs["advantages"].tolist() == expected
    with pytest.raises(ValueError, match=r"3.*got \(2,\).*3 log_probs"):
        loss_inputs(row(LONG), [0.5, 0.0], [-1.0] * 3)
    with pytest.raises(ValueError, match="no prompt tokens"):
        loss_inputs(row(LONG, prompt_ids=[]), [0.5] * 3, [-1.0] * 3)


def test_a_response_that_the_scorer_left_unscored_is_nobodys_baseline():
    def some(response: str) -> float | None:
        return None if len(response.split()) == len(LONG) else 1.0

    rule = TokenCredit(some, "uniform", tokenizer=TOKENIZER)
    found = credit_rows([row(LONG), row(SHORT), row(SHORT), row(SHORT, written=[0, 0])], rule)
    np.testing.assert_array_equal(found.scores, [np.nan, 1.0, 1.0, np.nan])
    assert [a.tolist() for a in found.advantages] == [[0.0] * 3, [0.0] * 2, [0.0] * 2, [0.0] * 2]


@pytest.mark.parametrize(("label", "text"), [(7, "7"), (0, "0"), ("7", "7"), (None, None)])
def test_a_label_reaches_the_scorer_as_text(label, text):
    """Trainers' labels are any JSON."""
    seen: list[str | None] = []

    def scored(prompt: str, response: str, reference: str | None) -> float:
        seen.append(reference)
        return 1.0

    rule = TokenCredit(scored, "uniform", tokenizer=TOKENIZER)
    credit_rows([row(LONG, reference=label)], rule, "reinforce")
    assert seen == [text]


def node(ids: list[int], *, sampled: bool) -> Any:
    return SimpleNamespace(token_ids=ids, mask=[sampled] * len(ids) if sampled else [])


def test_a_traces_sampled_tokens_are_paid_in_the_order_of_its_nodes():
    nodes = [
        node(PROMPT, sampled=False),
        node(LONG, sampled=True),
        node(SHORT, sampled=False),
        node(SHORT, sampled=True),
    ]
    trace = SimpleNamespace(id="t", nodes=nodes, branches=[None])
    other = SimpleNamespace(id="o", nodes=[nodes[0], nodes[1]], branches=[None])
    paid, alone = trace_advantages([trace, other], credit(), advantage="reinforce")
    share = 7.0 / 5.0
    np.testing.assert_allclose(paid, [5 * share, 4 * share, 3 * share, 2 * share, share], rtol=1e-5)
    np.testing.assert_allclose(alone, [3.0, 2.0, 1.0], rtol=1e-5)
    with pytest.raises(SettingsError, match="'t' has 2 branches"):
        trace_advantages([SimpleNamespace(id="t", nodes=nodes, branches=[1, 2])], credit())


def surprise(scores: Any, log_probs: Any) -> Any:
    """What each trainer's rollouts recorded."""
    return scores[:, None] * -log_probs


def plain(scores: Any, response_mask: Any) -> Any:
    """The score at every token."""
    return scores[:, None] * response_mask


def by_group(scores: Any, response_mask: Any, group_ids: Any) -> Any:
    """The same, by a function that names groups."""
    return scores[:, None] * response_mask * (group_ids >= 0)[:, None]


@pytest.mark.parametrize("advantage", ["loo", "reinforce", plain, by_group])
def test_responses_that_are_all_empty_have_no_advantages(advantage):
    rule = credit("sparse")
    found = credit_rows([row([]), row([])], rule, advantage)
    assert np.isnan(found.scores).all()
    assert [one.tolist() for one in found.advantages] == [[], []]


def test_a_function_reads_the_scorer_without_normalisation():
    """So that what it asks leaves the running statistics alone, as under PPO."""
    model = RewardModel.from_pretrained(bundled("movie_review").reward_model)
    rule = TokenCredit(Normalize(model), "uniform", tokenizer=TOKENIZER)
    seen = {}

    def asks(token_rewards: Any, attention: Any, prefix_scores: Any, response_mask: Any) -> Any:
        seen["scores"] = prefix_scores[:, -1].tolist()
        return token_rewards

    credit_rows([row(LONG), row(SHORT)], rule, asks)
    raw = TokenCredit(model, "uniform", tokenizer=TOKENIZER)([LONG, SHORT], prompts=[PROMPT] * 2)
    assert seen["scores"] == pytest.approx(raw.scores.tolist(), abs=1e-5)
    scorer: Any = rule.reward.scorer
    assert scorer.moments.seen == 2
    assert scorer.moments.mean == pytest.approx(raw.scores.mean(), abs=1e-5)


def test_rows_without_a_written_token_need_no_log_probs():
    rows = [row(LONG, log_probs=[-1.0, -2.0, -3.0]), row(SHORT, written=[0, 0]), row([])]
    found = credit_rows(rows, credit("sparse"), surprise).advantages
    assert [one.tolist() for one in found] == [[3.0, 6.0, 9.0], [0.0, 0.0], []]
    with pytest.raises(SettingsError, match=r"reads 'log_probs', and row 1 of 2 tokens has None"):
        credit_rows([rows[0], row(SHORT), rows[2]], credit("sparse"), surprise)


def test_log_probs_that_a_trainer_recorded_reach_a_function():
    """LONG scores 3 and was written at 1, 2 and 3 nats, SHORT 2 at 4 and 5."""
    logs, expected = [[-1.0, -2.0, -3.0], [-4.0, -5.0]], [[3.0, 6.0, 9.0], [8.0, 10.0]]
    rule = credit("sparse")
    traces = [
        SimpleNamespace(id="t", nodes=[node(PROMPT, sampled=False), node(ids, sampled=True)],
                        branches=[None])
        for ids in (LONG, SHORT)
    ]  # fmt: skip
    for trace, own in zip(traces, logs, strict=True):
        trace.nodes[1].logprobs = own
    assert trace_advantages(traces, rule, advantage=surprise) == expected
    del traces[1].nodes[1].logprobs
    with pytest.raises(SettingsError, match=r"'surprise' reads 'log_probs', and row 1 of 2 tokens"):
        trace_advantages(traces, rule, advantage=surprise)
