"""Kinds of estimators that were once passed though wrong, or failed though right."""

import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.lab.audit.forty import go, others
from tokengym.lab.audit import AuditError, check_estimator
from tokengym.lab.audit import tokengym_audit as names
from tokengym.lab.audit.tokengym_audit import _who_moves, adapt, load_function


def same(group_ids: Tensor) -> Tensor:
    """Return which rows are of one prompt."""
    return (group_ids[:, None] == group_ids).float()


def leave_one_out(scores: Tensor, group_ids: Tensor) -> Tensor:
    rows = same(group_ids)
    return scores - (rows @ scores - scores) / (rows.sum(1) - 1).clamp(min=1)


# --- right: what they read of the order of rows takes nothing from the expected gradient ----------


def row_number(scores, group_ids):
    return scores - 0.3 * same(group_ids).tril(-1).sum(1)


def row_weight(scores, group_ids):
    return scores * (1.0 + 0.5 * same(group_ids).tril(-1).sum(1))


def batch_number(scores, group_ids):
    return scores - 0.3 * torch.arange(len(scores))


def earlier_rows(scores, group_ids):
    rows = same(group_ids).tril(-1)
    return scores - rows @ scores / rows.sum(1).clamp(min=1)


def later_rows(scores, group_ids):
    rows = same(group_ids).triu(1)
    return scores - rows @ scores / rows.sum(1).clamp(min=1)


def pairs(scores, group_ids):
    advantages = scores.clone()
    for group in group_ids.unique():
        own = (group_ids == group).nonzero()[:, 0]
        for one, other in zip(own[::2], own[1::2], strict=False):
            advantages[one], advantages[other] = (
                scores[one] - scores[other],
                scores[other] - scores[one],
            )
    return advantages


def first_half(scores, group_ids):
    advantages = scores.clone()
    for group in group_ids.unique():
        own = (group_ids == group).nonzero()[:, 0]
        half = len(own) // 2
        if half:
            advantages[own[half:]] -= scores[own[:half]].mean()
    return advantages


IN_ORDER = (row_number, row_weight, batch_number, earlier_rows, later_rows, pairs, first_half)


@pytest.mark.parametrize("function", IN_ORDER, ids=lambda each: each.__name__)
def test_what_reads_the_order_of_a_prompts_rows_holds(function: Callable[..., Any]) -> None:
    """Three responses with chances: every ordered batch of 3 gives the true gradient, scaled."""
    rewards, chances = torch.tensor([1.0, 0.5, -0.25]), torch.tensor([0.5, 0.2, 0.3])
    true = chances * (rewards - float(chances @ rewards))
    expected = torch.zeros(3, dtype=torch.float64)
    for rows in itertools.product(range(3), repeat=3):
        gains = function(rewards[list(rows)], torch.zeros(3, dtype=torch.long)) / 3.0
        chance = math.prod(chances[list(rows)].tolist())
        for row, gain in zip(rows, gains, strict=True):
            expected += chance * float(gain) * ((torch.arange(3) == row).double() - chances)
    scale = float(expected @ true.double()) / float((true**2).sum())
    torch.testing.assert_close(expected, scale * true.double(), atol=1e-7, rtol=0)
    audit = check_estimator(function, group_sizes=(2, 4))
    assert audit.holds, str(audit)


def test_a_prompts_own_rows_keep_their_order_in_every_grouping() -> None:
    seen: list[list[list[float]]] = []

    def watch(scores: Tensor, group_ids: Tensor) -> Tensor:
        if len(scores) == 8:
            seen.append([scores[group_ids == group].tolist() for group in (0, 1)])
        return leave_one_out(scores, group_ids)

    assert names.order_matters(adapt(watch)) == ""
    plain = seen[:: len(seen) // 4]
    assert plain[0] == plain[1]
    assert plain[2] == plain[3]


def test_whose_scores_move_whose_advantages_is_found() -> None:
    probe = names.replace(names._probe(), group_ids=torch.tensor([0] * 4 + [1] * 4))
    moved = _who_moves(adapt(leave_one_out), probe)
    assert moved is not None
    assert moved.equal(same(probe.group_ids).bool())


# --- wrong ----------------------------------------------------------------------------------------


def roots(scores, group_ids):
    advantage = leave_one_out(scores, group_ids)
    return advantage.sign() * advantage.abs().sqrt()


def logarithms(scores, group_ids):
    advantage = leave_one_out(scores, group_ids)
    return advantage.sign() * advantage.abs().log1p()


@pytest.mark.parametrize("function", [roots, logarithms], ids=lambda each: each.__name__)
def test_a_squashed_advantage_is_reversed_in_large_groups(function: Callable[..., Any]) -> None:
    """A sure 3.5, and 10 with a chance of .3 or 1, worth 3.7: the baseline tends to 3.6."""
    advantage = torch.tensor([3.5, 10.0, 1.0]) - 3.6
    squash = torch.sqrt if function is roots else torch.log1p
    gains = advantage.sign() * squash(advantage.abs())
    assert float(0.3 * gains[1] + 0.7 * gains[2] - gains[0]) < 0.0
    (check,) = check_estimator(function, checks=("large rewards",)).checks
    assert check.verdict == "reversed"
    close = next(case for case in check.cases if case.case == "a chance worth little more")
    assert "times it in large groups" in close.says


@pytest.mark.parametrize("sizes", [(2, 4, 8), (2, 4, 8, 16)], ids=str)
def test_a_deviation_that_only_small_groups_turn_round_holds_and_is_said(
    sizes: tuple[int, ...],
) -> None:
    """Of two rows, a win (.3) loses to the sure return as often as it is drawn: it is reversed."""

    def grpo(scores: Tensor, group_ids: Tensor) -> Tensor:
        centred = scores - same(group_ids) @ scores / same(group_ids).sum(1)
        count = (same(group_ids).sum(1) - 1).clamp(min=1)
        return centred / ((same(group_ids) @ centred**2 / count).sqrt() + 1e-4)

    (check,) = check_estimator(grpo, checks=("large rewards",), group_sizes=sizes).checks
    assert check.verdict == "vanishing bias"
    case = next(case for case in check.cases if case.case == "a chance worth little more")
    assert case.scale[0] is not None
    assert "times it at G = 4" in case.says


def short_rows_left_out(token_rewards, response_mask):
    advantage = go(token_rewards, response_mask) - others(go(token_rewards, response_mask)[:, :1])
    return advantage * response_mask * (response_mask.sum(1, keepdim=True) > 1)


def test_rows_of_one_token_that_are_never_trained_are_seen_among_three_ways() -> None:
    """The best of three ways, 1, .5 and 0, is short: its advantage .5 is missing."""
    true = torch.tensor([0.5, 0.0, -0.5]) / 3.0
    left = torch.tensor([0.0, 0.0, -0.5]) / 3.0
    left -= left.sum() / 3.0
    cosine = float(true @ left / true.norm() / left.norm())
    assert cosine == pytest.approx(math.sqrt(3) / 2, abs=1e-6)
    (check,) = check_estimator(short_rows_left_out, checks=("length",), group_sizes=(2, 4)).checks
    three = next(case for case in check.cases if case.case == "three ways")
    assert three.verdict == "tilted"
    assert f"cosine {cosine:.2f}" in three.says


def over_rounding(scores, group_ids):
    centred = scores - same(group_ids) @ scores / same(group_ids).sum(1)
    spread = (same(group_ids) @ centred**2 / same(group_ids).sum(1)).sqrt()
    return centred / (spread + 1e-9)


def over_others_rounding(scores, group_ids):
    advantages = scores.clone()
    for row in range(len(scores)):
        rest = scores[(group_ids == group_ids[row]) & (torch.arange(len(scores)) != row)]
        deviation = (rest - rest.mean()).square().mean().sqrt() if len(rest) else torch.zeros(())
        advantages[row] = (scores[row] - rest.mean()) / (deviation if deviation > 0 else 1.0)
    return advantages


@pytest.mark.parametrize(
    "function", [over_rounding, over_others_rounding], ids=lambda each: each.__name__
)
def test_rounding_is_no_deviation(function: Callable[..., Any]) -> None:
    equal = torch.full((7,), 0.3)
    rows = torch.zeros(7, dtype=torch.long)
    assert float((equal - equal.sum() / 7.0).abs().max()) > 0.0  # no binary number holds .3
    assert float(over_rounding(torch.full((7,), 0.3125), rows).abs().max()) == 0.0
    (check,) = check_estimator(function, checks=("large rewards",), group_sizes=(2, 4)).checks
    assert check.verdict == "rounds"
    assert "takes rounding for a deviation" in check.says


def test_an_answer_beyond_what_scores_allow_is_said() -> None:
    def explosive(scores: Tensor) -> Tensor:
        deviation = torch.stack([scores[torch.arange(len(scores)) != row].std(unbiased=False)
                                 for row in range(len(scores))])  # fmt: skip
        return (scores - others(scores)) / (deviation + 1e-6)

    probe = names._scored([0.0] + [0.9375] * 7)
    assert float(explosive(probe.scores).abs().max()) == pytest.approx(0.9375e6, rel=1e-3)
    (check,) = check_estimator(explosive, checks=("large rewards",), group_sizes=(2, 4)).checks
    assert check.verdict == "rounds"


def with_votes(scores, response_mask, group_ids):
    return leave_one_out(scores, group_ids)[:, None] * response_mask


def without_votes(scores, response_mask, group_ids):
    alive = response_mask.any(1).float()
    rows = same(group_ids) * alive
    mean = (rows @ scores - alive * scores) / (rows.sum(1) - alive).clamp(min=1)
    return (scores - mean)[:, None] * response_mask


def over_lengths(scores, response_mask, group_ids):
    per_token = scores / response_mask.sum(1)
    return ((scores - leave_one_out(per_token, group_ids) + per_token)[:, None]) * response_mask


def test_the_vote_of_a_row_without_a_token_is_said_and_is_no_bias() -> None:
    """Two ways, 1 (.3) and 0, and rows that chance (.25) loses, whose score is 5."""
    scores, chances = torch.tensor([1.0, 0.0, 5.0]), (0.3 * 0.75, 0.7 * 0.75, 0.25)
    for function in (with_votes, without_votes):
        preferred = 0.0
        for rows in itertools.product(range(3), repeat=3):
            kept = torch.tensor([[row < 2] for row in rows])
            gains = function(scores[list(rows)], kept, torch.zeros(3, dtype=torch.long))[:, 0]
            chance = math.prod(chances[row] for row in rows) / 3.0
            score = {0: 1.0 - 0.3, 1: -0.3, 2: 0.0}  # d log pi / d logit of the first way
            preferred += chance * sum(
                float(gain) * score[row] for gain, row in zip(gains, rows, strict=True)
            )
        # p (1 - p) of the rows that are kept; without a vote, 0 is the baseline of a row alone.
        assert preferred == pytest.approx(0.75 * 0.3 * 0.7, abs=1e-6)
    audit = check_estimator(with_votes, checks=("masks and replies",), group_sizes=(2, 4))
    assert audit.checks[0].verdict == "equal"
    # Of eight rows each other one has a seventh of the lost row's score off: 5 / 7.
    assert f"{names.VOTES}: a score of 5 in place of 0 moves others by up to {5 / 7:.2g}" in str(
        audit
    )
    quiet = check_estimator(without_votes, checks=("masks and replies",), group_sizes=(2, 4))
    assert (quiet.holds, quiet.votes, quiet.notes) == (True, "", ())


def test_what_is_no_number_beside_a_row_without_a_token_fails() -> None:
    (check,) = check_estimator(
        over_lengths, checks=("masks and replies",), group_sizes=(2, 4)
    ).checks
    assert check.verdict == "not finite"
    assert "beside a row without a token: in 7 of 7 other rows (limit 0)" in check.says


def by_columns(token_rewards, response_mask, gamma):
    returns, following = torch.zeros_like(token_rewards), torch.zeros(len(token_rewards))
    for column in reversed(range(token_rewards.shape[1])):
        following = token_rewards[:, column] + gamma * following
        returns[:, column] = following
    return returns * response_mask


def by_columns_of_turns(token_rewards, response_mask, gamma, turn_ids):
    return by_columns(token_rewards, response_mask, gamma)


def by_tokens(token_rewards, response_mask, gamma):
    returns, following = torch.zeros_like(token_rewards), torch.zeros(len(token_rewards))
    for column in reversed(range(token_rewards.shape[1])):
        now = token_rewards[:, column] + gamma * following
        following = torch.where(response_mask[:, column], now, following)
        returns[:, column] = following
    return returns * response_mask


@pytest.mark.parametrize("function", [by_columns, by_columns_of_turns], ids=lambda x: x.__name__)
def test_a_discount_that_runs_over_replies_is_reversed(function: Callable[..., Any]) -> None:
    """1.5 after a reply of three tokens is worth .75 and not .5; by columns, 1.5 / 16."""
    options: dict[str, Any] = {"checks": ("discount",), "group_sizes": (2, 4)}
    (check,) = check_estimator(function, **options).checks
    assert check.verdict == "reversed"
    reply = next(case for case in check.cases if case.case == names.TIMELESS)
    assert reply.scale == pytest.approx([(1.5 / 16 - 0.5) / (0.75 - 0.5)] * 2, abs=1e-4)
    (right,) = check_estimator(by_tokens, **options).checks
    assert right.verdict == "equal"


# --- what cannot be enumerated --------------------------------------------------------------------


class MovingAverage:
    """A baseline from past batches."""

    def __init__(self) -> None:
        self.level = 0.0

    def __call__(self, scores: Tensor) -> Tensor:
        advantages = scores - self.level
        self.level = 0.9 * self.level + 0.1 * float(scores.mean())
        return advantages


def drawn_other() -> Callable[[Tensor], Tensor]:
    """Return a baseline that is one other row, drawn."""
    generator = torch.Generator().manual_seed(0)

    def drawn(scores: Tensor) -> Tensor:
        rows = torch.arange(len(scores))
        steps = torch.randint(1, max(len(scores), 2), (len(scores),), generator=generator)
        return scores - scores[(rows + steps) % len(scores)]

    return drawn


def turns_late() -> Callable[[Tensor], Tensor]:
    """Return what is right for 400 calls."""
    calls: list[int] = []

    def late(scores: Tensor) -> Tensor:
        calls.append(1)
        return scores if len(calls) <= 400 else -scores

    return late


class OwnRewards:
    """No rewards to go, with a baseline from past batches."""

    def __init__(self) -> None:
        self.level = 0.0

    def __call__(self, token_rewards: Tensor, response_mask: Tensor) -> Tensor:
        advantages = (token_rewards - self.level) * response_mask
        self.level = 0.9 * self.level + 0.1 * float(token_rewards.mean())
        return advantages


def test_what_remembers_is_judged_by_draws_with_an_interval() -> None:
    checks = ("length", "shared prefix")
    audit = check_estimator(MovingAverage(), checks=checks, draws=100)
    assert {check.verdict for check in audit.checks} == {"drawn"}
    assert "1 +- 0.0" in audit.checks[1].says
    assert "times the gradient in 100 batches of G = 64" in audit.checks[1].says
    wrong = check_estimator(OwnRewards(), checks=("token rewards",), draws=100)
    assert wrong.checks[0].verdict == "reversed"
    assert "-2 +- " in wrong.checks[0].says  # (0 - 0.5) / (0.75 - 0.5): the later reward is unread


def test_what_is_drawn_where_nothing_is_to_be_gained_has_its_own_figure() -> None:
    """A bonus of 1 a token: the longer response has 1 more, of a push of sqrt(1 / 2)."""

    class Paid:
        level = 0.0

        def __call__(self, scores: Tensor, response_mask: Tensor) -> Tensor:
            self.level += 1e-6
            return 1.0 - scores + self.level + response_mask.sum(1)

    (check,) = check_estimator(Paid(), checks=("length",), draws=40).checks
    same = next(case for case in check.cases if case.case == "longer earns the same")
    assert same.verdict == "biased"
    # 1 or 2 by a coin: the gradient is (.25, -.25); a push is the root mean square of
    # (1.5 +- .5) x length .5 ** .5 of d log pi / d logits, sqrt(1.25): .25 / 1.118 = 22.4%.
    assert "favours the longer response" in same.says
    assert ": 22." in same.says
    assert "of a push in 40 batches of G = 64 (limit 4.0%)" in same.says


def test_what_a_function_raises_in_a_drawn_batch_is_an_error_of_the_audit() -> None:
    def failing(scores: Tensor) -> Tensor:
        raise ValueError("no reward")

    with pytest.raises(AuditError, match="failing raised ValueError: no reward"):
        check_estimator(failing, checks=("length",), draws=20)


def test_a_subject_without_a_function_is_named_as_it_was_given(tmp_path: Path) -> None:
    file = tmp_path / "adv.py"
    with pytest.raises(AuditError, match=re.escape(f"there is no Python file {str(file)!r}")):
        load_function(str(file))
    file.write_text("def mine(rewards):\n    return rewards\n")
    with pytest.raises(AuditError, match=re.escape(f"name a function of {file}, {file}:FUNCTION")):
        load_function(str(file))


def test_files_of_one_name_are_modules_of_their_own(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "adv.py").write_text(f"def f(scores):\n    return {number}\n")
    found = [load_function(f"{tmp_path / str(number)}/adv.py:f") for number in (0, 1, 2, 0)]
    assert [function(None) for function in found] == [0, 1, 2, 0]


def test_draws_that_decide_nothing_say_how_many_may() -> None:
    def loud(scores: Tensor, generator: Any = torch.Generator().manual_seed(0)) -> Tensor:  # noqa: B008
        return scores + 20.0 * torch.randn(len(scores), generator=generator)

    with pytest.raises(AuditError, match=r"20 draws decide too little: loud.*draws=80"):
        check_estimator(loud, checks=("length",), draws=20)
    with pytest.raises(AuditError, match=r"at least 20, got 5"):
        check_estimator(loud, draws=5)


@pytest.mark.parametrize("make", [MovingAverage, drawn_other, turns_late])
def test_what_remembers_or_draws_is_no_verdict(make: Callable[[], Callable[..., Any]]) -> None:
    with pytest.raises(AuditError, match=r"cannot be enumerated: it remembers, or draws"):
        check_estimator(make(), group_sizes=(2, 4))


# --- what a function is given ---------------------------------------------------------------------


def test_parts_of_the_policy_are_exact() -> None:
    """Of three ways, .5, .3 and .2, the second leads to a choice of two, .7 and .3."""
    case = names.Case("x", "y", "a~0.5:1 | b c~0.7:0.5 | b d")
    decisions = names.replace(case.build(), probs=case.build().probs.clone())
    batch = decisions.whole.take(torch.tensor([0, 1, 2]))
    words = decisions.vocabulary
    assert [words[i] for i in batch.response_ids[1].tolist()] == ["b", "c"]
    log = math.log
    given = {
        "log_probs": [[log(0.5), 0.0], [log(0.5), log(0.7)], [log(0.5), log(0.3)]],
        "ref_log_probs": [[log(0.5), 0.0], *[[log(0.5), log(0.5)]] * 2],
        "entropy": [[log(2), 0.0], *[[log(2), -0.7 * log(0.7) - 0.3 * log(0.3)]] * 2],
        "ref_entropy": [[log(2), 0.0], *[[log(2), log(2)]] * 2],
        "kl": [[0.0, 0.0], *[[0.0, 0.7 * log(1.4) + 0.3 * log(0.6)]] * 2],
    }
    for name, values in given.items():
        torch.testing.assert_close(getattr(batch, name), torch.tensor(values))
    assert batch.state_ids[0, 0] == batch.state_ids[1, 0] != batch.state_ids[1, 1]


def test_top_log_probs_are_of_all_allowed_tokens() -> None:
    """The second choice has one token less than the first."""
    decisions = names.Case("x", "y", "a~0.5:1 | b~0.3 c~0.7 | b d | e").build()
    log, none = math.log, -math.inf
    expected = torch.tensor([[log(0.5), log(0.3), log(0.2)], [log(0.7), log(0.3), none]])
    torch.testing.assert_close(decisions.whole.top_log_probs[1], expected)
    assert decisions.whole.top_log_probs[0, 1].tolist() == [0.0, 0.0, 0.0]  # past the end


def test_what_the_policy_does_not_have_is_refused_with_the_names_that_it_has() -> None:
    def by_state(scores: Tensor, hidden_states: Tensor) -> Tensor:
        return scores

    with pytest.raises(AuditError, match=r"'hidden_states'.*does not have.*top_log_probs"):
        check_estimator(by_state)


def test_a_generator_is_given_and_its_draws_are_seen() -> None:
    def noisy(scores: Tensor, generator: torch.Generator) -> Tensor:
        return scores + 0.1 * torch.randn(len(scores), generator=generator)

    with pytest.raises(AuditError, match=r"cannot be enumerated: it remembers, or draws"):
        check_estimator(noisy, checks=("length",), group_sizes=(2, 4))
    audit = check_estimator(noisy, checks=("length",), draws=40)
    assert audit.checks[0].verdict == "drawn"


def test_a_function_gets_what_one_function_names() -> None:
    seen: dict[str, Any] = {}

    def every(
        token_rewards, response_mask, input_ids, positions, turn_ids, turn_scores, state_ids,
        scores, group_ids, group_size, values, final_values, segment_ends, gamma, gae_lambda,
        log_probs, old_log_probs, ref_log_probs, entropy, ref_entropy, kl,
    ):  # fmt: skip
        seen.update(locals())
        return go(token_rewards, response_mask)

    adapt(every).estimate(names._conversation())
    assert seen["positions"][0].tolist() == [0, 1, -1, 2, 3, -1]
    is_scored = ~seen["turn_scores"].isnan()
    assert is_scored[0].tolist() == [False, True, False, False, True, False]
    paid = seen["token_rewards"][0]
    assert seen["turn_scores"][0, 4] == pytest.approx(float(paid[3] + paid[4]))
    assert seen["segment_ends"].shape == seen["response_mask"].shape
    assert seen["old_log_probs"].equal(seen["log_probs"])
    assert check_estimator(every, checks=("length",), group_sizes=(2, 4)).holds


def test_surprise_is_judged() -> None:
    def by_surprise(scores: Tensor, log_probs: Tensor, response_mask: Tensor) -> Tensor:
        """What a token's own probability takes off is known only with the token."""
        return scores[:, None] * -log_probs * response_mask

    def by_entropy(token_rewards: Tensor, entropy: Tensor, response_mask: Tensor) -> Tensor:
        """A state's entropy is known before its token."""
        return (go(token_rewards, response_mask) - entropy) * response_mask

    assert not check_estimator(by_surprise, group_sizes=(2, 4)).holds
    assert check_estimator(by_entropy, group_sizes=(2, 4)).holds


def test_changes_in_place_are_said() -> None:
    def centred(token_rewards: Tensor, response_mask: Tensor, scores: Tensor) -> Tensor:
        token_rewards *= response_mask
        scores -= scores.mean()
        return scores

    audit = check_estimator(centred, checks=("length",), group_sizes=(2, 4))
    assert audit.writes == ("scores",)  # rewards are 0 off the mask, and stay
    assert str(audit).endswith("changes scores in place")
    assert audit.holds


@pytest.mark.parametrize("state", ["float64", "float16", "inference", "autocast", "gradients"])
def test_the_state_of_the_process_changes_no_verdict(state: str) -> None:
    def turns(rewards: Tensor, turn_ids: Tensor, action_masks: Tensor) -> Tensor:
        weights = torch.eye(rewards.shape[1])  # of the default dtype
        return (rewards @ weights).gather(1, turn_ids.clamp(min=0)).masked_fill(turn_ids < 0, 0)

    def figures() -> Any:
        audit = check_estimator(turns, checks=("turns", "length"), group_sizes=(2, 4))
        return [(check.verdict, check.says, check.cases) for check in audit.checks]

    plain = figures()
    dtype = torch.get_default_dtype()
    try:
        if state.startswith("float"):
            torch.set_default_dtype(getattr(torch, state))
        with (
            torch.inference_mode(state == "inference"),
            torch.autocast("cpu", enabled=state == "autocast"),
            torch.set_grad_enabled(state == "gradients"),
        ):
            assert figures() == plain
            expected = getattr(torch, state) if state.startswith("float") else dtype
            assert torch.get_default_dtype() is expected
    finally:
        torch.set_default_dtype(dtype)


# --- kinds that a calibration by others told ------------------------------------------------------


def lambda_by_length(token_rewards, response_mask, values):
    size = response_mask.sum(1).float()
    decay = 1.0 - 1.0 / (size + 1.0)
    advantages, following = torch.zeros_like(values), torch.zeros(len(values))
    value_after = torch.zeros(len(values))
    for column in reversed(range(values.shape[1])):
        mask = response_mask[:, column]
        delta = token_rewards[:, column] + value_after - values[:, column]
        following = torch.where(mask, delta + decay * following, following)
        value_after = torch.where(mask, values[:, column], value_after)
        advantages[:, column] = following
    return advantages * response_mask


def over_all_columns(token_rewards, values):
    after = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
    return (token_rewards + after - values).flip(1).cumsum(1).flip(1) - 0.5 * after


def each_score_once(scores, group_ids):
    alike = same(group_ids) * (scores[:, None] == scores)
    return leave_one_out(scores, group_ids) / alike.sum(1)


def discounted_once(token_rewards, response_mask, gamma):
    returns = go(token_rewards, response_mask)
    return (token_rewards + gamma * (returns - token_rewards)) * response_mask


@pytest.mark.parametrize(
    ("function", "check", "verdict"),
    [
        (lambda_by_length, "length", "biased"),
        (over_all_columns, "masks and replies", "leaks"),
        (each_score_once, "large rewards", "reversed"),
        (discounted_once, "discount", "reversed"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_told_mistakes_fail(function: Callable[..., Any], check: str, verdict: str) -> None:
    assert check_estimator(function, checks=(check,)).checks[0].verdict == verdict


def test_the_mean_of_a_group_is_the_gradient_over_its_size() -> None:
    def mean(scores: Tensor, group_ids: Tensor) -> Tensor:
        return same(group_ids) @ scores / same(group_ids).sum(1)

    (check,) = check_estimator(mean, checks=("length",)).checks
    assert check.verdict == "rescaled"
    assert check.cases[0].scale == pytest.approx([1 / 2, 1 / 4, 1 / 8, 1 / 16], rel=1e-3)
