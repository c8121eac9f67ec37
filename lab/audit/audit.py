"""The audit of an advantage estimator: seven checks, each against gradients that are known."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from operator import index
from typing import Any, Literal

import torch

from tokengym.base import did_you_mean
from tokengym.lab.audit.cases import CHECKS, Case, Check
from tokengym.lab.audit.decisions import PAYS
from tokengym.lab.audit.faults import heeds_gamma, named_faults, order_matters, reads_masked
from tokengym.lab.audit.measure import GROUP_SIZES, count_batches, expectations
from tokengym.lab.audit.signatures import Adapted, AuditError, Function, adapt
from tokengym.lab.audit.verdicts import FAIL, HOLD, LEAKS, NOT_APPLICABLE, Reading, read

SENTENCES = 2
"""Most cases of a failing check that are told."""
NEAR_BEST_BATCHES = 60
"""Most batches that are enumerated for a policy near the best response."""


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """Verdict on one of the seven questions."""

    name: str
    question: str
    verdict: str
    """One of `verdicts.HOLD` or `verdicts.FAIL`, or "not applicable"."""
    says: str
    """One sentence for a person, whose subject is the estimator."""
    cases: tuple[Reading, ...] = ()

    @property
    def fails(self) -> bool:
        """Whether the estimator does something wrong."""
        return self.verdict in FAIL

    @property
    def applies(self) -> bool:
        """Whether the question applies to an estimator that reads what this one does."""
        return self.verdict != NOT_APPLICABLE


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What an audit found."""

    name: str
    adapter: str
    """Family of signatures by which the function was called."""
    reads: tuple[str, ...]
    """What it is given."""
    pays: str
    non_negative: bool
    group_sizes: tuple[int, ...]
    checks: tuple[CheckResult, ...]
    faults: tuple[str, ...]
    """Names of known mistakes that its answers look like; none where no check fails."""
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether no check fails."""
        return not any(check.fails for check in self.checks)

    @property
    def refusals(self) -> tuple[str, ...]:
        """What the function raised for groups of equal scores, which then count as 0."""
        said = (case.refused for check in self.checks for case in check.cases if case.refused)
        return tuple(dict.fromkeys(said))

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON: numbers, texts and lists."""
        return {"holds": self.holds, **asdict(self)}


def check_estimator(
    function: Function | Adapted,
    *,
    adapter: str | None = None,
    name: str | None = None,
    pays: Literal["tokens", "outcome", "advantages"] = "tokens",
    non_negative: bool = False,
    group_sizes: Sequence[int] = GROUP_SIZES,
    checks: Sequence[str] = (),
    numpy: bool = False,
) -> Audit:
    """Hold an advantage estimator against exact gradients, as `check_env` holds an environment.

    Every batch that a small policy can draw is enumerated, so that the expected gradient has no
    sampling error. The objective is the sum over the response's tokens of A log pi, averaged over
    responses; what a loss divides by afterwards is not part of an estimator.

    Args:
        function: Gets by name those that it names of ``token_rewards``, ``response_mask``,
            ``values``, ``turn_ids``, ``response_ids`` (batch, time), ``scores``, ``group_ids``
            (batch,), ``group_size`` and ``gamma``; returns advantages (batch, time), or one per
            response. Functions with the signatures of known trainers are called by theirs.
        adapter: Name of one of `ADAPTERS`; None finds it by the keywords.
        name: What the function is called in the report.
        pays: What its documentation promises of token rewards: any, one "outcome" a response at its
            last token, or "advantages" that a credit rule has measured already.
        non_negative: Whether it promises that no reward is below 0; cases with costs are left out.
        group_sizes: Responses to a prompt, at least two sizes, each at least 2, in rising order.
        checks: Names of the checks to make; all by default.
        numpy: Pass arrays instead of tensors.

    Returns:
        The verdicts; ``holds`` is what a test asserts.

    Raises:
        AuditError: if the function cannot be called, raises, or returns another shape, or if none
            of the checks applies to it.

    Example:
        >>> def reward_to_go(token_rewards, response_mask):
        ...     return (token_rewards * response_mask).flip(1).cumsum(1).flip(1)
        >>> check_estimator(reward_to_go, group_sizes=(2, 4)).holds
        True
    """
    sizes = _sizes(group_sizes)
    _check_words(pays, checks)
    if isinstance(function, Adapted) and (adapter is not None or numpy):
        raise AuditError(
            f"adapter and numpy have no effect with {function.name}, which is adapted already; "
            "leave them out"
        )
    estimator = (
        function
        if isinstance(function, Adapted)
        else adapt(function, adapter=adapter, name=name, numpy=numpy)
    )
    started = time.perf_counter()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # batches are small: more threads wait for each other
    try:
        with torch.no_grad():
            results = tuple(
                _check(check, estimator, pays, non_negative, sizes)
                for check in CHECKS
                if not checks or check.name in checks
            )
            if not any(check.applies for check in results):
                raise AuditError(
                    f"none of the checks {', '.join(map(repr, checks))} applies: {estimator.name} "
                    f"{results[0].says}; leave checks out to make all that apply"
                )
            failed = any(check.fails for check in results)
            faults = named_faults(estimator, pays) if failed else ()
    finally:
        torch.set_num_threads(threads)
    return Audit(
        name=name or estimator.name,
        adapter=estimator.adapter,
        reads=tuple(sorted(estimator.reads)),
        pays=pays,
        non_negative=non_negative,
        group_sizes=sizes,
        checks=results,
        faults=faults,
        seconds=time.perf_counter() - started,
    )


def _sizes(group_sizes: Sequence[int]) -> tuple[int, ...]:
    """Return group sizes as plain whole numbers.

    Raises:
        AuditError: if they are no whole numbers, or not two or more that rise from 2 on.
    """
    try:
        sizes = tuple(map(index, group_sizes))
    except TypeError:
        sizes = ()
    if len(sizes) < 2 or min(sizes) < 2 or list(sizes) != sorted(set(sizes)):
        raise AuditError(
            f"group_sizes must be two or more rising sizes from 2 on, got {group_sizes!r}; "
            f"pass {list(GROUP_SIZES)}"
        )
    return sizes


def _check_words(pays: str, checks: Sequence[str]) -> None:
    """Refuse arguments of `check_estimator` that name nothing.

    Raises:
        AuditError: naming the value and the remedy.
    """
    if pays not in PAYS:
        raise AuditError(f"pays must be one of {', '.join(PAYS)}, got {pays!r}")
    known = [check.name for check in CHECKS]
    for word in checks:
        if word not in known:
            raise AuditError(
                f"unknown check {word!r}; {did_you_mean(word, known)}known: "
                f"{', '.join(map(repr, known))}"
            )


def _check(
    check: Check,
    estimator: Adapted,
    pays: str,
    non_negative: bool,
    sizes: tuple[int, ...],
) -> CheckResult:
    """Return the verdict on one question."""
    missing = _missing(check, estimator, pays)
    if missing:
        return _result(check, NOT_APPLICABLE, missing)
    turns = check.name == "discount" and "turn_ids" in estimator.reads
    readings = [
        _case(case, estimator, pays, turns, sizes)
        for case in check.cases
        if _applies(case, estimator, non_negative, turns)
    ]
    order = (*HOLD, *FAIL)
    worst = max(readings, key=lambda reading: (order.index(reading.verdict), _size(reading)))
    verdict, says = worst.verdict, worst.says
    leak = _leak(check, estimator)
    if leak and order.index(verdict) < order.index(LEAKS):
        verdict, says = LEAKS, leak
    elif verdict in FAIL:
        failing = sorted(
            (each for each in readings if not each.holds), key=lambda each: each is not worst
        )
        sentences = list(dict.fromkeys(each.says for each in failing))
        says = "; ".join(sentences[:SENTENCES])
        if len(sentences) > SENTENCES:
            says += f"; {len(sentences) - SENTENCES} more"
    return _result(check, verdict, says, tuple(readings))


def _result(check: Check, verdict: str, says: str, cases: tuple[Reading, ...] = ()) -> CheckResult:
    return CheckResult(
        name=check.name, question=check.question, verdict=verdict, says=says, cases=cases
    )


def _missing(check: Check, estimator: Adapted, pays: str) -> str:
    """Return why a question does not apply, or nothing."""
    for choices in check.needs:
        if "gamma" in choices and "maybe gamma" in estimator.reads and heeds_gamma(estimator):
            continue
        if not set(choices) & estimator.reads:
            return f"is given no {' or '.join(choices)}"
    if check.name == "token rewards" and pays == "outcome":
        return "is promised one reward a response"
    return ""


def _applies(case: Case, estimator: Adapted, non_negative: bool, turns: bool) -> bool:
    """Return whether a case is of the input that an estimator is promised."""
    if non_negative and not case.non_negative:
        return False
    if turns and case.per_token:
        return False
    return len(set(case.sizes)) == 1 or "group_ids" in estimator.reads


def _case(
    case: Case, estimator: Adapted, pays: str, turns: bool, sizes: tuple[int, ...]
) -> Reading:
    """Return the verdict on one decision."""
    decisions = case.build(pays=pays, turns=turns)
    found = expectations(estimator, decisions, sizes, prompt_sizes=case.sizes)
    if len(found) < 2:
        raise AuditError(
            f"group_sizes {list(sizes)} leave fewer than two that can be enumerated; begin with "
            f"{list(GROUP_SIZES[:3])}"
        )
    near = None
    if float(decisions.gradient.norm()) > 1e-9:
        fits = [
            size
            for size in sizes
            if count_batches(decisions, size, case.sizes) <= NEAR_BEST_BATCHES
        ]
        size = max(fits, default=sizes[0])
        near = expectations(estimator, decisions.near_best(), (size,), prompt_sizes=case.sizes)[0]
    return read(case, decisions, found, near)


def _size(reading: Reading) -> float:
    """Return how far a verdict goes, to name the worst of several alike."""
    scales = [abs(math.log(abs(scale))) for scale in reading.scale if scale]
    return max([*reading.bias, *scales], default=0.0)


def _leak(check: Check, estimator: Adapted) -> str:
    """Return what an answer depends on and must not, or nothing."""
    if check.name == "masks and replies":
        return reads_masked(estimator)
    if check.name == "groups" and "group_ids" in estimator.reads:
        return order_matters(estimator)
    return ""
