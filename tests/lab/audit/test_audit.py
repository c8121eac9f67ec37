"""The audit of estimators: what is wrong fails and is told, what is right holds."""

import functools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tokengym.agents import losses
from tokengym.lab.audit import (
    AuditError,
    check_estimator,
    load_function,
    registered,
    registered_weights,
)
from tokengym.lab.audit import tokengym_audit as names
from tokengym.lab.audit.tokengym_audit import Way, adapt, drawn, ground
from tokengym.scripts.cli import main


def to_go(rewards: Tensor, mask: Tensor) -> Tensor:
    return (rewards * mask).flip(1).cumsum(1).flip(1)


def above(scores: Tensor, group_ids: Tensor) -> Tensor:
    """Return scores less their prompt's mean."""
    same = (group_ids[:, None] == group_ids).float()
    return scores - same @ scores / same.sum(1)


# --- what is wrong --------------------------------------------------------------------------------


def own_reward(token_rewards: Tensor, response_mask: Tensor) -> Tensor:
    return token_rewards * response_mask


def paid_per_token(scores: Tensor, response_mask: Tensor) -> Tensor:
    return scores + response_mask.sum(1)


def constant(token_rewards: Tensor, response_mask: Tensor) -> Tensor:
    return torch.full_like(token_rewards, 1000.0) * response_mask


def whitened_before_the_mask(token_rewards: Tensor, response_mask: Tensor) -> Tensor:
    returns = to_go(token_rewards, response_mask)
    return (returns - returns.mean()) / (returns.std() + 1e-6)


def under_the_mask(token_rewards: Tensor, response_mask: Tensor, values: Tensor) -> Tensor:
    after = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
    return (token_rewards + after - values) * response_mask


def divided_by_zero(scores: Tensor, group_ids: Tensor) -> Tensor:
    centred = above(scores, group_ids)
    return centred / above(centred**2, group_ids).add(centred**2).clamp(max=0).sqrt()


def refuses_equal(scores: Tensor, group_ids: Tensor) -> Tensor:
    centred = above(scores, group_ids)
    for group in group_ids.unique():
        if float(centred[group_ids == group].abs().max()) < 1e-6:
            raise ValueError("the rewards of a group are equal")
    return centred


def surprise(scores: Tensor, group_ids: Tensor, log_probs: Tensor) -> Tensor:
    return above(scores, group_ids)[:, None] * -log_probs


def to_the_reference(scores: Tensor, group_ids: Tensor, ref_log_probs: Tensor) -> Tensor:
    return above(scores, group_ids)[:, None] * (1.0 - 0.3 * ref_log_probs)


def cut_at_two(scores: Tensor, response_mask: Tensor) -> Tensor:
    return ((scores - scores.mean()) / (scores.std() + 1e-4)).clamp(-2.0, 2.0)


def bad_at_the_first_token(scores: Tensor, positions: Tensor, group_ids: Tensor) -> Tensor:
    gain = above(scores, group_ids)[:, None]
    return gain * ((gain > 0) | (positions == 0))


WRONG = [
    (own_reward, "reversed"),
    (paid_per_token, "biased|tilted|reversed"),
    (constant, "blind"),
    (whitened_before_the_mask, "reads padding"),
    (under_the_mask, "reads padding"),
    (divided_by_zero, "not finite"),
    (refuses_equal, "raises"),
    (surprise, "tilted"),
    (to_the_reference, "tilted"),
    (cut_at_two, "tilted|biased|reversed"),
    (bad_at_the_first_token, "biased|tilted|reversed"),
]


@pytest.mark.parametrize(("function", "kind"), WRONG, ids=lambda x: getattr(x, "__name__", ""))
def test_what_is_wrong_fails_and_is_told(function: Callable[..., Any], kind: str) -> None:
    audit = check_estimator(function)
    assert not audit.holds
    assert re.fullmatch(kind, audit.verdict), str(audit)
    assert audit.verdict in names.KINDS
    assert audit.tree
    if audit.verdict in ("tilted", "biased", "reversed", "blind"):
        assert re.search(r"a \(chance .*\) is worth .* and taken for ", audit.says)
    assert json.loads(json.dumps(audit.to_dict()))["holds"] is False


def test_the_smallest_tree_is_one_that_a_person_can_work_out() -> None:
    """The first token's own reward alone: a pays 0 and then loses, b pays less than nothing."""
    audit = check_estimator(own_reward)
    lines = [line.strip() for line in audit.tree]
    assert len(lines) == 4  # a prompt, two ways, and a token behind one of them
    assert audit.says.startswith("at the first token, a (chance ")


def test_worths_are_those_of_the_tree() -> None:
    """a, .5, pays 1; b, .5, pays 0 and then 4 or 0: worth 2. The mean is 1.5."""
    ways = (Way(4, 1.0), Way(4, 0.0, (Way(2, 4.0), Way(2, 0.0)), 1))
    tree = names.Tree(ways, 1.0)
    assert tree.worth[0, :2].tolist() == [1.0, 2.0]
    assert tree.value[0] == 1.5
    assert tree.true[:, :2].tolist() == [[-0.5, 0.5], [2.0, -2.0]]
    halved = names.Tree(ways, 0.5)
    assert halved.worth[0, :2].tolist() == [1.0, 1.0]
    lie = names.Ground(trees=(ways,))
    assert drawn(lie)[2] == "  b  chance 0.5, pays 0, then a reply of 1"
    alone = names.Judge(adapt(own_reward), lie).fault()
    assert alone.kind == "reversed"
    assert alone.taken == pytest.approx((2.0, 1.0))  # 1 and 0, each 1 above


# --- what is right --------------------------------------------------------------------------------


def verl_grpo(
    token_level_rewards: Tensor, response_mask: Tensor, index: np.ndarray, config: object = None
) -> tuple[Tensor, Tensor]:
    scores = token_level_rewards.sum(1)
    advantages = torch.zeros_like(scores)
    for group in set(index):
        own = torch.from_numpy(index == group)
        advantages[own] = (scores[own] - scores[own].mean()) / (scores[own].std() + 1e-6)
    spread = advantages[:, None] * response_mask
    return spread, spread


def verl_gae(
    token_level_rewards: Tensor, values: Tensor, response_mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    return losses.gae(
        token_level_rewards, values, response_mask.bool(), gamma=gamma, gae_lambda=lam
    )


def trl_rloo(rewards: Tensor, num_generations: int) -> Tensor:
    return losses.rloo(rewards, num_generations)


def openrlhf_returns(rewards: Tensor, action_mask: Tensor, gamma: float) -> Tensor:
    return losses.rewards_to_go(rewards, action_mask.bool(), gamma=gamma)


def turn_matrix(rewards: Tensor, turn_ids: Tensor, action_masks: Tensor) -> Tensor:
    returns = rewards.flip(1).cumsum(1).flip(1)
    return returns.gather(1, turn_ids.clamp(min=0)) * action_masks


def nemo(prompt_ids: Tensor, rewards: Tensor, mask: Tensor, **_: object) -> Tensor:
    return above(rewards, prompt_ids[:, 0])[:, None].expand(mask.shape)


def step_lists(rewards: list[list[float]]) -> list[np.ndarray]:
    return [np.cumsum(row[::-1])[::-1] for row in rewards]


def score_lists(rewards: list[np.ndarray], algorithm_config: object) -> tuple[list, list]:
    advantages = [group - group.mean() for group in rewards]
    return advantages, advantages


def weighted_others(scores: Tensor, response_mask: Tensor, group_ids: Tensor) -> Tensor:
    """A weighted mean of the other rows in float32, over a deviation that has the row."""
    weights = 1.0 / (1.0 + response_mask.sum(1).float())
    same = group_ids[:, None] == group_ids
    others = (same & ~torch.eye(len(scores), dtype=torch.bool)).float() * weights
    deviation = torch.stack([scores[own].std() for own in same])
    return (scores - (others @ scores) / others.sum(1)) / (deviation + 1e-4)


def by_entropy(token_rewards: Tensor, entropy: Tensor, kl: Tensor, response_mask: Tensor) -> Tensor:
    return (to_go(token_rewards, response_mask) * (1.0 + entropy) - kl) * response_mask


RIGHT = [
    *(verl_grpo, verl_gae, trl_rloo, openrlhf_returns, turn_matrix, nemo),
    *(step_lists, score_lists, weighted_others, by_entropy),
]


@pytest.mark.parametrize("function", RIGHT, ids=lambda x: x.__name__)
def test_a_correct_estimator_holds_whatever_its_signature(function: Callable[..., Any]) -> None:
    audit = check_estimator(function, adapter="steps" if function is step_lists else None)
    assert audit.holds, str(audit)


@pytest.mark.parametrize(
    "name", ["reinforce", "loo", "rloo", "reinforce++", "gae", "grpo", "dr-grpo", "turn-returns"]
)
def test_registered_estimators_hold(name: str) -> None:
    audit = check_estimator(registered(name))
    assert audit.holds, str(audit)


def test_what_is_promised_is_what_is_shown() -> None:
    vineppo = registered("vineppo")
    assert check_estimator(vineppo, pays="advantages").holds
    assert not check_estimator(vineppo).holds

    def by_the_mean(token_level_rewards: Tensor, response_mask: Tensor, index: Any) -> Tensor:
        scores = token_level_rewards.sum(1)
        return ((scores - scores.mean()) / (scores.mean() + 1e-6))[:, None] * response_mask

    assert not check_estimator(by_the_mean, pays="outcome").holds
    assert check_estimator(by_the_mean, non_negative=True, pays="outcome").holds


# --- what remembers or draws ----------------------------------------------------------------------


class MovingAverage:
    """A baseline from past batches."""

    def __init__(self, sign: float) -> None:
        self.level, self.sign = 0.0, sign

    def __call__(self, scores: Tensor) -> Tensor:
        advantages = self.sign * (scores - self.level)
        self.level = 0.9 * self.level + 0.1 * float(scores.mean())
        return advantages


def drawn_row(scores: Tensor, generator: torch.Generator) -> Tensor:
    """A baseline that is one other row."""
    rows = torch.arange(len(scores))
    steps = torch.randint(1, len(scores), (len(scores),), generator=generator)
    return scores - scores[(rows + steps) % len(scores)]


def test_what_remembers_or_draws_is_judged() -> None:
    assert check_estimator(MovingAverage(1.0)).holds
    assert check_estimator(MovingAverage(-1.0)).verdict == "reversed"
    assert check_estimator(drawn_row).holds


def test_a_prompt_is_held_against_its_own_scale() -> None:
    """Of two prompts one is weighed by 1e-5: little is to be seen, and it is right."""

    def mostly_one(scores: Tensor, group_ids: Tensor) -> Tensor:
        return above(scores, group_ids) * 1e-5 ** (group_ids > 0)

    assert check_estimator(mostly_one).holds


def test_draws_that_are_once_alike_are_no_padding() -> None:
    """A baseline that is another at each third call alone."""
    calls = iter([0.0, 0.0, 1.0, *range(2, 9)])

    def coin(scores: Tensor) -> Tensor:
        return scores - next(calls)

    ground_ = names.Ground(trees=((Way(2, 1.0), Way(2, 0.0)),))
    assert not names.Judge(adapt(coin), ground_).fault(padding=True).fails


def test_luck_is_no_verdict() -> None:
    own = torch.Generator().manual_seed(0)

    def loud(scores: Tensor) -> Tensor:
        return scores + 0.3 * torch.randn(len(scores), generator=own)

    with pytest.raises(AuditError, match="draws too much to be judged"):
        check_estimator(loud)


# --- weights and losses ---------------------------------------------------------------------------


def good_alone(advantages: Tensor) -> Tensor:
    return (advantages > 0).float()


def of_the_state(response_mask: Tensor, entropy: Tensor) -> Tensor:
    return response_mask * (0.5 + entropy)


def reinforce(log_probs: Tensor, advantages: Tensor, response_mask: Tensor) -> Tensor:
    return -log_probs * advantages * response_mask


def clipped(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor) -> Tensor:
    ratio = (log_probs - old_log_probs).exp()
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(0.8, 1.2)).sum()


def per_response(log_probs: Tensor, advantages: Tensor, response_mask: Tensor) -> Tensor:
    sums = (-log_probs * advantages * response_mask).sum(1)
    return (sums / response_mask.sum(1).clamp(min=1)).mean()


def share_of_the_row(entropy: Tensor, response_mask: Tensor) -> Tensor:
    """A share of the whole row's entropy: it knows what came after a token."""
    return entropy / (entropy * response_mask).sum(1, keepdim=True).clamp(min=1e-6)


def row_mean(log_probs: Tensor, advantages: Tensor, response_mask: Tensor) -> Tensor:
    """A token's is a share of what was earned before it, over a length that is not yet known."""
    count = response_mask.sum(1, keepdim=True).clamp(min=1)
    return -log_probs * (advantages * response_mask).sum(1, keepdim=True) / count * response_mask


def sequence_ratio(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, response_mask: Tensor
) -> Tensor:
    """The row's mean advantage times the product of its ratios: d of it is `row_mean` at 1."""
    ratio = ((log_probs - old_log_probs) * response_mask).sum(1).exp()
    count = response_mask.sum(1).clamp(min=1)
    return -(ratio * (advantages * response_mask).sum(1) / count).mean()


def geometric_ratio(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, response_mask: Tensor
) -> Tensor:
    """GSPO-token. Rows of n tokens are weighed by rho^(1/n): right at 1, tilted elsewhere."""
    count = response_mask.sum(1, keepdim=True).clamp(min=1)
    logs = ((log_probs - old_log_probs) * response_mask).sum(1, keepdim=True) / count
    return -logs.exp().detach() * advantages * log_probs * response_mask


def cispo(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor) -> Tensor:
    """d of it is rho A d log pi, the surrogate's own, as long as no ratio is cut."""
    return -(log_probs - old_log_probs).exp().clamp(max=5).detach() * advantages * log_probs


def squared(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor) -> Tensor:
    """d of it is rho^2 A d log pi."""
    return -(2 * (log_probs - old_log_probs)).exp() / 2 * advantages


def not_corrected(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor) -> Tensor:
    """d of it is A d log pi, over rows of another policy."""
    return -(log_probs - old_log_probs) * advantages


@pytest.mark.parametrize(
    ("function", "place", "holds"),
    [
        (good_alone, "weights", False),
        (share_of_the_row, "weights", False),
        (of_the_state, "weights", True),
        (reinforce, "loss", True),
        (clipped, "loss", True),
        (cispo, "loss", True),
        (per_response, "loss", False),
        (row_mean, "loss", False),
        (sequence_ratio, "loss", False),
        (geometric_ratio, "loss", False),
        (squared, "loss", False),
        (not_corrected, "loss", False),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_a_weight_and_a_loss_are_judged(function: Any, place: Any, holds: bool) -> None:
    audit = check_estimator(function, place=place)
    assert audit.holds == holds, str(audit)


def test_a_loss_of_whole_rows_holds_where_it_is_promised_a_score() -> None:
    def product(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor) -> Tensor:
        ratio = (log_probs - old_log_probs).sum(1).exp()
        return -(ratio * advantages.sum(1) / (advantages != 0).sum(1).clamp(min=1)).sum()

    assert not check_estimator(product, place="loss").holds
    assert check_estimator(product, place="loss", pays="outcome").holds


def test_a_policy_ahead_of_its_rows_has_the_gradient_of_what_it_would_earn() -> None:
    """Rows: a .4, b .6. Apart 1 and -1, less their mean -.2, over 1.2: ratios 1.05 and .9667.

    a pays 1, b then 6 or 0, of chances 1/3 and 2/3: worth 2. The policy expects .42 + .58 * 2.
    """
    ways = (Way(4, 1.0), Way(6, 0.0, (Way(2, 6.0), Way(4, 0.0))))
    tree = names.Tree(ways, 1.0, ahead=True)
    assert tree.ratio[:, :2].tolist() == [pytest.approx([1.05, 29 / 30]), [1.0, 1.0]]
    assert tree.pi[0, :2].tolist() == pytest.approx([0.42, 0.58])
    assert tree.true[0, :2].tolist() == pytest.approx([-0.58, 0.42])
    lie = names.Ground(trees=(ways,), ahead=True)
    batch, _ = lie.batch([torch.tensor([0, 1])])
    ratios = (batch.log_probs - batch.old_log_probs).exp()
    assert ratios[:, 0].tolist() == pytest.approx([1.05, 29 / 30])
    assert ratios[1, 1] == 1.0
    assert "log_probs up to 0.05 from old_log_probs" in drawn(lie)[0]
    # A = G - 1.6 over the rows: the push on a is .4 rho_a A_a - .42 of the sum, .42 * -.58
    push = [0.4 * 1.05 * -0.6, 0.6 * 29 / 30 * 0.4]
    assert push[0] - 0.42 * sum(push) == pytest.approx(0.42 * -0.58)


def test_a_registered_weight_is_judged_inside_its_group() -> None:
    assert check_estimator(registered_weights("constant")).holds
    assert not check_estimator(registered_weights("entropy")).holds
    with pytest.raises(AuditError, match=r"reads 'attention'.*the scorer"):
        registered_weights("reward-attention")


# --- what a function is given ---------------------------------------------------------------------


def test_every_name_is_given() -> None:
    """Of three ways, .5, .3 and .2, the second leads to a choice of two, .7 and .3."""
    seen: dict[str, Any] = {}

    def every(
        token_rewards, response_mask, input_ids, positions, turn_ids, turn_scores, state_ids,
        scores, group_ids, group_size, values, final_values, segment_ends, gamma, gae_lambda,
        log_probs, old_log_probs, top_log_probs, ref_log_probs, entropy, ref_entropy, kl, generator,
    ):  # fmt: skip
        seen.update(locals())
        return to_go(token_rewards, response_mask)

    ways = (Way(50, 1.0), Way(30, 0.0, (Way(21, 0.5), Way(9, 0.0)), 2), Way(20, 0.0))
    lie = names.Ground(trees=(ways,))
    batch, _ = lie.batch([torch.arange(4)])
    adapt(every).estimate(batch)
    log = math.log
    second = {
        "positions": [0, -1, -1, 1],
        "turn_ids": [0, -1, -1, 1],
        "input_ids": [2, 9, 9, 1],
        "log_probs": [log(0.3), 0, 0, log(0.7)],
        "ref_log_probs": [log(1 / 6), 0, 0, log(2 / 3)],
        "entropy": [1.0297, 0, 0, 0.6109],
        "values": [0.5 + 0.3 * 0.35, 0, 0, 0.35],
    }
    for name, expected in second.items():
        assert seen[name][1].tolist() == pytest.approx(expected, abs=1e-4), name
    assert seen["scores"].tolist() == [1.0, 0.5, 0.0, 0.0]
    assert seen["top_log_probs"][1, 3].tolist() == pytest.approx(
        [log(0.7), log(0.3), *[-math.inf] * 2]
    )
    assert seen["turn_scores"][1].isnan().tolist() == [False, True, True, False]
    assert float((seen["kl"] < 0).sum()) == 0.0
    assert seen["group_size"] == 4


def test_what_is_there_by_construction() -> None:
    made = [ground(number) for number in range(names.BATCHES)]
    grown = [lie.grown for lie in made]
    assert all(bool(trees[0].true.any()) for trees in grown)
    assert {len(trees) for trees in grown} == {1, 2, 3}
    assert any((tree.rewards.sum(1) == names.EQUAL).all() for trees in grown for tree in trees)
    assert {lie.pad for lie in made} == {0, 1, 2}
    assert {lie.lost for lie in made} == {0, 2}
    assert {0.02, 1 / 30} <= {round(float(tree.chances.min()), 9) for t in grown for tree in t} | {
        1 / 30
    }
    assert max(int(tree.mask.sum(1).max()) for trees in grown for tree in trees) >= 6
    assert {ground(number, discounts=True).gamma for number in range(8)} == {0.5, 0.9, 1.0}


def test_changes_in_place_are_said() -> None:
    def centred(token_rewards: Tensor, response_mask: Tensor, scores: Tensor) -> Tensor:
        token_rewards *= response_mask
        scores -= scores.mean()
        return scores

    audit = check_estimator(centred)
    assert audit.writes == ("scores",)  # rewards are 0 off the mask, and stay
    assert str(audit).endswith("changes scores in place")
    assert audit.holds


def test_what_a_partial_fixes_stays_and_arrays_do_as_well() -> None:
    lambdas: set[float] = set()

    def returns(token_level_rewards: np.ndarray, response_mask: np.ndarray, lam: float) -> Any:
        lambdas.add(lam)
        return np.flip(np.cumsum(np.flip(token_level_rewards * response_mask, 1), 1), 1)

    assert check_estimator(functools.partial(returns, lam=0.5), numpy=True).holds
    assert lambdas == {0.5}


@pytest.mark.parametrize("state", ["float64", "inference", "autocast", "gradients"])
def test_the_state_of_the_process_changes_no_verdict(state: str) -> None:
    def figures() -> Any:
        audit = check_estimator(turn_matrix)
        return audit.verdict, audit.size

    plain, before = figures(), torch.get_rng_state()
    dtype = torch.get_default_dtype()
    try:
        if state == "float64":
            torch.set_default_dtype(torch.float64)
        with (
            torch.inference_mode(state == "inference"),
            torch.autocast("cpu", enabled=state == "autocast"),
            torch.set_grad_enabled(state == "gradients"),
        ):
            assert figures() == plain
    finally:
        torch.set_default_dtype(dtype)
    assert torch.equal(torch.get_rng_state(), before)


# --- what cannot be run ---------------------------------------------------------------------------


def wrong_shape(token_rewards: Tensor) -> Tensor:
    return token_rewards.sum()


def raising(token_rewards: Tensor) -> Tensor:
    raise KeyError("advantages")


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (wrong_shape, {}, r"wrong_shape.*got \(\)"),
        (raising, {}, r"raising.*KeyError.*advantages"),
        (lambda token_rewards, critic: 0, {}, "'critic'.*'tokengym'"),
        (lambda scores, hidden_states: 0, {}, "'hidden_states'.*top_log_probs"),
        (lambda rewards: rewards, {}, r"adapter.*tokengym, verl"),
        (lambda token_rewards, /: 0, {}, "'token_rewards'"),
        (lambda scores, advantages: 0, {}, "'advantages'.*--place weights"),
        (trl_rloo, {"adapter": "tlr"}, "'tlr'.*'trl'"),
        (own_reward, {"pays": "score"}, r"pays.*tokens, outcome, advantages"),
        (own_reward, {"place": "reward"}, r"place.*advantage, weights, loss"),
        (own_reward, {"place": "loss"}, "names no log_probs"),
        (good_alone, {"place": "weights", "adapter": "verl"}, "no effect at place 'weights'"),
        (lambda log_probs, advantages: advantages, {"place": "loss"}, "with its gradient by log_p"),
        (3, {}, r"function.*got 3"),
    ],
)
def test_what_cannot_be_run_says_why(function: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(AuditError, match=message):
        check_estimator(function, **options)


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


# --- the command ----------------------------------------------------------------------------------

FILE = """
import sys
from tokengym import token_credit

def leaves(scores):
    sys.exit(0)

def sized(token_rewards, response_mask, scale=1.0):
    return scale * token_rewards.flip(1).cumsum(1).flip(1) * response_mask

class Sized:
    def __init__(self, power=1):
        self.power = power

    def __call__(self, token_rewards, response_mask, scale=1.0):
        return self.power * sized(token_rewards, response_mask, scale)

marked = token_credit(Sized)

class Needs:
    def __init__(self, size):
        self.size = size

    def __call__(self, token_rewards):
        return token_rewards

def other(rewards):
    return rewards

def positive(advantages):
    return (advantages > 0).float()

@token_credit
def steady(token_rewards, response_mask, values, gamma):
    last = response_mask.cumsum(1) == response_mask.sum(1, keepdim=True)
    after = values.roll(-1, 1).masked_fill(last, 0.0)
    return (token_rewards + gamma * after - values) * response_mask

@token_credit
def misspelt(score, response_mask):
    return score
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(FILE)
    return tmp_path / "mine.py"


@pytest.mark.parametrize(
    ("word", "holds"),
    [
        ("sized", True),
        ("sized:scale=-2", False),
        ("Sized:power=3", True),
        ("Sized:power=3,scale=-2", False),
        ("marked:power=-1,scale=0.5", False),
        ("steady", True),  # columns are a row's own tokens, as PPO shows them
    ],
)
def test_the_command_takes_the_words_that_a_learner_takes(
    mine: Path, word: str, holds: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    out = mine.with_suffix(".json")
    assert main(["audit", f"{mine}:{word}", "--out", str(out)]) == int(not holds)
    said = capsys.readouterr().out
    assert ("holds in 40 batches" if holds else "reversed: at the first token") in said
    assert json.loads(out.read_text())["holds"] == holds


def test_the_command_judges_weights(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", f"{mine}:positive", "--place", "weights"]) == 1
    assert "tilted" in capsys.readouterr().out
    assert main(["audit", "constant", "--place", "weights"]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{mine}:leaves"], "ended with SystemExit"),
        (["{mine}:other"], "tokengym, verl"),
        (["{mine}:gone"], "has no 'gone'"),
        (["{mine}:sized:scal=2"], "has no option 'scal'; it has token_rewards, response_mask, sc"),
        (["{mine}:Sized:scal=2"], "has no option 'scal'; it has power"),
        (["{mine}:Needs"], "cannot be made"),
        (["{mine}:misspelt"], "nobody supplies; did you mean 'scores'? it could also be a column"),
        (["lo"], "'loo'"),
        (["loo", "--adapter", "verl"], "no effect"),
        (["loo", "--place", "loss"], "unknown loss 'loo'; known: cispo"),
    ],
)
def test_what_the_command_cannot_run_is_told_in_one_line(
    mine: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", *(word.format(mine=mine) for word in words)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert said in errors[0]
