"""The audit of estimators: planted mistakes are caught by name, correct ones hold."""

import functools
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.lab.audit import planted
from tokengym.lab.audit import AuditError, check_estimator, registered
from tokengym.lab.audit import tokengym_audit as names
from tokengym.lab.audit.tokengym_audit import (
    CHECKS,
    LENGTH,
    TOKEN_REWARDS,
    Case,
    adapt,
    batches,
    expectations,
    named_faults,
)
from tokengym.scripts.cli import main

SIZES = (2, 4, 8)
DOORS = {case.name: case for case in LENGTH.cases}
"""The decision between stopping, which pays 1, and 0.5 followed by another reward."""


def case_of(check: str, name: str) -> Case:
    return next(
        case for each in CHECKS if each.name == check for case in each.cases if case.name == name
    )


# --- planted mistakes -----------------------------------------------------------------------------

MISTAKES = [
    (planted.own_reward, "token rewards", "reversed", names.OWN_ALONE),
    (planted.late, "token rewards", "blind", names.OFF_BY_ONE),
    (planted.whitened_before_the_mask, "masks and replies", "leaks", names.PADDING),
    (planted.mean_of_each_index, "length", "reversed", names.CENTRED),
    (planted.per_length, "length", "reversed", names.PER_LENGTH),
    (planted.value_after, "shared prefix", "biased", names.LATE_VALUE),
    (planted.masked_values, "masks and replies", "leaks", names.MASKED_VALUES),
    (planted.other_turns, "turns", "reversed", names.OTHER_TURNS),
    (planted.turns_alone, "turns", "reversed", names.OWN_ALONE),
    (planted.mean_of_each_turn, "turns", "reversed", names.CENTRED),
    (planted.divided_by_zero, "groups", "not finite", None),
    (planted.ranks, "large rewards", "reversed", None),
    (planted.neighbours, "groups", "leaks", None),
    (planted.refuses_equal, "groups", "refused", None),
    (planted.blocks, "groups", "leaks", None),
    (planted.a_large_constant, "length", "blind", None),
    (planted.discounts_backwards, "discount", "reversed", None),
]


@pytest.mark.parametrize(
    ("function", "check", "verdict", "fault"), MISTAKES, ids=lambda x: getattr(x, "__name__", "")
)
def test_a_mistake_is_caught_by_name(
    function: Callable[..., Any], check: str, verdict: str, fault: str | None
) -> None:
    audit = check_estimator(function, checks=(check,), group_sizes=(2, 4))
    assert not audit.holds
    assert audit.checks[0].verdict == verdict
    assert audit.checks[0].fails
    for sentence in audit.checks[0].says.split("; "):
        assert re.search(r"\d.*\(limit|^\d+ more$", sentence), sentence  # a figure and the limit
    assert max(map(len, str(audit).splitlines())) < 200  # a line for each sentence
    if fault is not None:
        assert fault in audit.faults


def test_a_division_by_the_deviation_is_no_charge_for_length() -> None:
    assert named_faults(adapt(planted.whitened_before_the_mask)) == (names.PADDING,)


# --- correct estimators ---------------------------------------------------------------------------

CORRECT = [
    *("verl_grpo", "verl_gae", "trl_rloo", "openrlhf_returns", "turn_matrix", "nemo"),
    *("step_lists", "score_lists", "whitened"),
]


@pytest.mark.parametrize("name", CORRECT)
def test_a_correct_estimator_holds_whatever_its_signature(name: str) -> None:
    function = getattr(planted, name)
    adapter = "steps" if name == "step_lists" else None
    # What is unbiased is so in the smallest groups.
    sizes = SIZES if name in ("verl_grpo", "whitened") else (2, 4)
    audit = check_estimator(function, adapter=adapter, group_sizes=sizes)
    assert audit.holds, audit.checks
    assert named_faults(adapt(function, adapter=adapter)) == ()
    assert sum(check.applies for check in audit.checks) >= 3


UNBIASED = ["reinforce", "loo", "rloo"]
OTHERS = ["reinforce++", "gae", "grpo", "dr-grpo", "turn-returns"]


@pytest.mark.parametrize("name", UNBIASED)
def test_an_unbiased_registered_estimator_is_equal_to_the_gradient(name: str) -> None:
    checks = ("turns", "length", "masks and replies", "discount", "shared prefix")
    audit = check_estimator(registered(name), checks=checks, group_sizes=(2, 4))
    assert {check.verdict for check in audit.checks if check.applies} == {"equal"}
    assert named_faults(registered(name)) == ()


@pytest.mark.parametrize("name", OTHERS)
def test_other_registered_estimators_hold(name: str) -> None:
    checks = ("length", "discount")
    audit = check_estimator(registered(name), checks=checks, group_sizes=SIZES)
    assert audit.holds, audit.checks
    assert named_faults(registered(name)) == ()


def test_rewards_that_are_advantages_are_shown_as_such() -> None:
    vineppo = registered("vineppo")
    options: dict[str, Any] = {"checks": ("length",), "group_sizes": SIZES}
    assert check_estimator(vineppo, pays="advantages", **options).holds
    assert not check_estimator(vineppo, **options).holds


# --- verdicts -------------------------------------------------------------------------------------


def test_a_factor_below_one_is_a_rescaling() -> None:
    """The group's own mean contains the row: (G - 1) / G."""
    audit = check_estimator(registered("dr-grpo"), checks=("length",), group_sizes=SIZES)
    (check,) = audit.checks
    assert check.verdict == "rescaled"
    assert check.cases[0].scale == pytest.approx((1 / 2, 3 / 4, 7 / 8), abs=1e-5)
    assert check.cases[1].scale == (None, None, None)  # where the gradient is 0
    assert check.cases[1].bias == pytest.approx((0, 0, 0), abs=1e-5)


def test_a_bias_that_falls_with_the_group_is_no_failure() -> None:
    audit = check_estimator(planted.whitened, checks=("length",), group_sizes=(4, 8, 16))
    (check,) = audit.checks
    assert check.verdict == "vanishing bias"
    even = next(case for case in check.cases if case.case == "longer earns the same")
    assert even.bias[0] > 1.5 * even.bias[1] > 2.0 * even.bias[2] > 0.0


def test_a_small_bias_that_stays_is_not_said_to_fall() -> None:
    """turn-returns weighs two decisions 2.9 and 3.2 times, at every size."""
    audit = check_estimator(
        registered("turn-returns"), checks=("token rewards",), group_sizes=(2, 4)
    )
    readings = {reading.case: reading for reading in audit.checks[0].cases}
    both = readings["two decisions"]
    assert both.bias[0] == pytest.approx(both.bias[1], rel=0.02)
    assert both.verdict == "uneven"
    assert readings["three tokens"].verdict == "vanishing bias"


@pytest.mark.parametrize("sizes", [(2, 8), (2, 3), (2, 4, 6)], ids=str)
def test_what_falls_with_the_group_does_so_at_any_sizes(sizes: tuple[int, ...]) -> None:
    """The limit of large groups is taken from the two largest, whatever their ratio."""
    audit = check_estimator(planted.paid_a_token, checks=("length",), group_sizes=sizes)
    assert audit.checks[0].verdict == "vanishing bias"


def test_a_constant_does_not_stay_at_the_best_response() -> None:
    """Its expected gradient is 0, and so is the rounding of its sum."""
    audit = check_estimator(planted.a_large_constant, checks=("length",), group_sizes=(2, 4))
    assert not any(case.best_stays for case in audit.checks[0].cases)


def test_noise_and_the_best_response_are_measured() -> None:
    loo = check_estimator(registered("loo"), checks=("length",), group_sizes=SIZES)
    first = loo.checks[0].cases[0]
    assert first.best_stays is True
    assert first.noise is not None
    assert first.ideal_noise == pytest.approx(0.0, abs=1e-9)  # A is +x or -x: always one gradient
    wrong = check_estimator(planted.mean_of_each_index, checks=("length",), group_sizes=SIZES)
    assert wrong.checks[0].cases[0].best_stays is False


@pytest.mark.parametrize(
    ("function", "skipped"),
    [
        (planted.trl_rloo, ["token rewards", "turns", "masks and replies", "discount"]),
        (planted.per_length, ["turns", "groups", "discount"]),
        (planted.verl_grpo, ["turns", "discount"]),
        (planted.turn_matrix, ["token rewards", "groups", "discount"]),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_a_question_that_does_not_apply_is_never_passed(
    function: Callable[..., Any], skipped: list[str]
) -> None:
    checks = {check.name: check for check in check_estimator(function, group_sizes=(2, 4)).checks}
    assert [name for name, check in checks.items() if not check.applies] == skipped
    for name in skipped:
        assert checks[name].verdict == "not applicable"
        assert "is given no" in checks[name].says


def test_what_is_promised_is_what_is_shown() -> None:
    """Divided by the mean score, a cost has the wrong sign, unless there is promised to be none."""

    def by_the_mean(token_level_rewards: Tensor, response_mask: Tensor, index: Any) -> Tensor:
        scores = token_level_rewards.sum(1)
        return ((scores - scores.mean()) / (scores.mean() + 1e-6))[:, None] * response_mask

    plain = check_estimator(by_the_mean, checks=("length",), group_sizes=SIZES)
    promised = check_estimator(
        by_the_mean, checks=("length", "token rewards"), non_negative=True, pays="outcome",
        group_sizes=SIZES,
    )  # fmt: skip
    assert not plain.holds
    assert promised.holds
    assert not promised.checks[0].applies  # the sum alone is read


# --- numbers worked out independently -------------------------------------------------------------


def gradient_of_going_on(
    function: Callable[..., Any], case: str, size: int, **options: Any
) -> float:
    """Return the expected gradient on the logit of the longer response."""
    decisions = DOORS[case].build()
    (found,) = expectations(adapt(function, **options), decisions, (size,))
    return float(found.gradient[0, decisions.vocabulary.index("on")])


def test_the_true_gradient_is_the_difference_of_the_values() -> None:
    """p (1 - p) (Q(on) - Q(stop)) = 1/4 (0.5 + 0.75 - 1)."""
    decisions = DOORS["longer earns more"].build()
    assert decisions.gradient[0].tolist() == pytest.approx([0.0, -0.0625, 0.0625, 0.0])
    discounted = case_of("discount", "discounted below").build()
    assert float(discounted.gradient.abs().max()) == pytest.approx(0.25 * (0.5 - 0.5 * 0.75))


@pytest.mark.parametrize(
    ("name", "case", "size", "expected"),
    [
        ("trl_rloo", "longer earns more", 8, 0.0625),
        ("trl_rloo", "longer earns the same", 8, 0.0),
        ("nemo", "longer earns more", 8, 0.0625 * 7 / 8),
        # Index by index, 0.5 is compared with 1: (0.5 - 1) / 4, and nothing else is read.
        ("own_reward", "longer earns more", 8, -0.125 * 7 / 8),
        ("own_reward", "longer earns the same", 64, -0.125 * 63 / 64),
    ],
)
def test_figures_worked_by_hand(name: str, case: str, size: int, expected: float) -> None:
    found = gradient_of_going_on(getattr(planted, name), case, size)
    assert found == pytest.approx(expected, abs=1e-5)


def test_enumerated_batches_are_all_ordered_draws() -> None:
    """Every multiset with its orders gives the same as every ordered draw."""
    case = next(case for case in TOKEN_REWARDS.cases if case.name == "two decisions")
    decisions = case.build()
    estimator = adapt(planted.whitened)
    probs, total = decisions.probs, torch.zeros_like(decisions.probs)
    for rows in itertools.product(range(4), repeat=2):
        chance = float(decisions.chances[list(rows)].prod())
        advantages = estimator.estimate(decisions.whole.take(torch.tensor(rows)))
        for row, gains in zip(rows, advantages, strict=True):
            for time, gain in enumerate(gains):
                state = decisions.responses.states[row, time]
                score = -probs[state].clone()
                score[decisions.responses.tokens[row, time]] += 1.0
                total[state] += chance * gain * score / 2
    (found,) = expectations(estimator, decisions, (2,))
    torch.testing.assert_close(found.gradient, total)
    assert float(batches(decisions, 3, (1,))[1].sum()) == pytest.approx(1.0)


def test_values_are_exact_and_make_any_lambda_unbiased() -> None:
    def gae(token_rewards: Tensor, response_mask: Tensor, values: Tensor) -> Tensor:
        from tokengym.agents import losses

        return losses.gae(token_rewards, values, response_mask, gamma=1.0, gae_lambda=0.3)[0]

    audit = check_estimator(gae, group_sizes=(2, 4))
    assert {check.verdict for check in audit.checks if check.applies} == {"equal"}


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
        (lambda rewards: rewards, {}, r"adapter.*tokengym, verl"),
        (lambda token_rewards, /: 0, {}, "'token_rewards'"),
        (planted.trl_rloo, {"adapter": "tlr"}, "'tlr'.*'trl'"),
        (planted.late, {"group_sizes": (8,)}, r"sizes.*got"),
        (planted.late, {"group_sizes": (64, 128)}, "enumerated"),
        (planted.late, {"group_sizes": (2.0, 4.0)}, r"sizes.*got"),
        (planted.late, {"checks": ("discount", "turns")}, r"'discount', 'turns'.*turn_ids"),
        (planted.late, {"checks": ("lenght",)}, "'lenght'.*'length'"),
        (planted.late, {"pays": "score"}, r"pays.*tokens, outcome, advantages"),
        (3, {}, r"function.*got 3"),
    ],
)
def test_what_cannot_be_run_says_why(function: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(AuditError, match=message):
        check_estimator(function, **options)


def test_group_sizes_of_an_array_are_plain_numbers() -> None:
    sizes: Any = np.array([2, 4])
    audit = check_estimator(planted.late, checks=("length",), group_sizes=sizes)
    assert json.loads(json.dumps(audit.to_dict()))["group_sizes"] == [2, 4]


def test_arrays_do_as_well() -> None:
    def returns(token_rewards: np.ndarray, response_mask: np.ndarray) -> np.ndarray:
        return np.flip(np.cumsum(np.flip(token_rewards * response_mask, 1), 1), 1)

    checks = ("token rewards", "length")
    assert check_estimator(returns, numpy=True, checks=checks, group_sizes=(2, 4)).holds


def test_what_a_partial_fixes_stays() -> None:
    lambdas: list[float] = []

    def gae(token_level_rewards: Tensor, response_mask: Tensor, lam: float) -> Tensor:
        lambdas.append(lam)
        return token_level_rewards * response_mask

    options: dict[str, Any] = {"checks": ("groups", "length"), "group_sizes": (2, 4)}
    check_estimator(functools.partial(gae, lam=0.5), **options)
    assert {*lambdas} == {0.5}


def test_what_batches_share_is_asked_once(monkeypatch: Any) -> None:
    counts = []
    for keeps in (True, False):
        if not keeps:
            monkeypatch.setattr(
                names.Answers, "of", lambda answers, _, batch: answers._estimator.estimate(batch)
            )
        seen: list[int] = []

        def to_go(token_rewards: Tensor, response_mask: Tensor, seen: Any = seen) -> Tensor:
            seen.append(1)
            return (token_rewards * response_mask).flip(1).cumsum(1).flip(1)

        check_estimator(to_go, group_sizes=(2, 4))
        counts.append(len(seen))
    assert counts[0] < counts[1]


# --- the command ----------------------------------------------------------------------------------

FILE = """
import sys
calls = []

def remembers(scores):
    calls.append(float(scores.mean()))
    return scores - sum(calls[:-1]) / max(len(calls) - 1, 1)

def leaves(scores):
    sys.exit(0)

def right(token_rewards, response_mask):
    return (token_rewards * response_mask).flip(1).cumsum(1).flip(1)

def wrong(token_rewards):
    return token_rewards

def other(rewards):
    return rewards
"""


def test_the_command_ends_with_a_status(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FILE)
    quick = ["--checks", "discount", "token rewards", "--group-sizes", "2", "4"]
    assert main(["audit", f"{file}:right", *quick]) == 0
    assert "in the 1 that" in capsys.readouterr().out
    out = tmp_path / "audit.json"
    assert main(["audit", f"{file}:wrong", *quick, "--out", str(out)]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "fails token rewards" in said
    assert "mistake: no reward to go" in said
    stored = json.loads(out.read_text())
    assert stored["holds"] is False
    assert stored["checks"][0]["cases"][0]["case"] == "a late cost"
    length = ["--checks", "length"]
    assert main(["audit", f"{file}:remembers", *length, "--draws", "40"]) == 0
    assert "times the gradient in 40 batches" in " ".join(capsys.readouterr().out.split())
    assert main(["audit", f"{file}:remembers", *length]) == 2
    assert main(["audit", f"{file}:leaves", *length]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert "cannot be enumerated: it remembers, or draws" in errors[0]
    assert "ended with SystemExit" in errors[1]
    assert main(["audit", f"{file}:other"]) == 2
    assert main(["audit", f"{file}:missing"]) == 2
    assert main(["audit", "lo"]) == 2
    assert main(["audit", "loo", "--adapter", "verl"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 4
    assert "tokengym, verl" in errors[0]


OPTIONS = """
from tokengym import token_credit

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
"""


@pytest.mark.parametrize(
    ("word", "scale"),
    [
        ("sized", 1.0),
        ("sized:scale=2", 2.0),
        ("Sized", 1.0),
        ("Sized:power=3", 3.0),
        ("Sized:power=3,scale=2", 6.0),
        ("marked:power=3,scale=0.5", 1.5),
    ],
)
def test_the_command_takes_the_words_that_a_learner_takes(
    tmp_path: Any, word: str, scale: float
) -> None:
    file, out = tmp_path / "mine.py", tmp_path / "out.json"
    file.write_text(OPTIONS)
    quick = ["--checks", "token rewards", "--group-sizes", "2", "4", "--out", str(out)]
    assert main(["audit", f"{file}:{word}", *quick]) == 0
    (check,) = json.loads(out.read_text())["checks"]
    found = [one for case in check["cases"] for one in case["scale"] if one is not None]
    assert found == pytest.approx([scale] * len(found))
    assert found


def test_words_that_cannot_be_made_are_told_in_one_line(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(OPTIONS)
    for word in ("sized:scal=2", "Sized:scal=2", "Needs", "gone:scale=1"):
        assert main(["audit", f"{file}:{word}"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 4
    assert "has no option 'scal'; it has token_rewards, response_mask, scale" in errors[0]
    assert "has no option 'scal'; it has power" in errors[1]
    assert "cannot be made" in errors[2]
    assert "has no 'gone'" in errors[3]


def test_a_marked_function_has_a_row_s_own_tokens_in_columns(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The value of the next column is that after the reply, as PPO shows it; else the reply's."""
    code = (
        "import tokengym\n"
        "{mark}def steady(token_rewards, response_mask, values, gamma):\n"
        "    last = response_mask.cumsum(1) == response_mask.sum(1, keepdim=True)\n"
        "    after = values.roll(-1, 1).masked_fill(last, 0.0)\n"
        "    return (token_rewards + gamma * after - values) * response_mask\n"
    )
    checks = ["--checks", "masks and replies", "token rewards"]
    for name, mark, status in (("marked", "@tokengym.token_credit\n", 0), ("bare", "", 1)):
        file = tmp_path / f"{name}.py"
        file.write_text(code.format(mark=mark))
        assert main(["audit", f"{file}:steady", *checks]) == status, capsys.readouterr().out


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        ("@token_credit\n", "nobody supplies; did you mean 'scores'? it could also be a column of"),
        ("", "signature of no adapter; did you mean 'scores'? name one of tokengym, verl"),
    ],
)
def test_a_misspelt_name_is_told_with_its_near_match(mark, said, tmp_path, capsys):
    rules = "from tokengym import token_credit\n" + mark
    (tmp_path / "rules.py").write_text(rules + "def mine(score, response_mask): return score\n")
    assert main(["audit", f"{tmp_path / 'rules.py'}:mine"]) == 2
    assert said in capsys.readouterr().err


def test_the_guide_says_what_no_case_asks() -> None:
    cases = [case for check in CHECKS for case in check.cases]
    longest = max(int(case.build().responses.mask.sum(1).max()) for case in cases)
    assert (longest, max(len(case.prompts) for case in cases)) == (4, 2)
    page = " ".join(
        (Path(__file__).parents[3] / "docs/guide/audit.md").read_text(encoding="utf-8").split()
    )
    assert "The longest response has four tokens of the policy's own." in page
    assert "A batch has one prompt or two." in page
