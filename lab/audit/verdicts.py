"""Reading an expected gradient: equal to the true one, longer, biased, blind or reversed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokengym.lab.audit.cases import Case
from tokengym.lab.audit.decisions import Decisions
from tokengym.lab.audit.measure import Expectation

EXACT = 2e-3
"""Largest share of an error that counts as rounding: estimators compute in float32."""
LIMIT = 0.04
"""Largest share of a push that counts as none, in the limit of large groups."""
ROUNDING = 1e-6
"""Share of a push below which an expected gradient is the rounding of a sum that is 0."""

UNLIKE = 0.05
"""Least spread of the weights of decisions that is said."""

EQUAL = "equal"
RESCALED = "rescaled"
VANISHING = "vanishing bias"
UNEVEN = "uneven"
NOT_APPLICABLE = "not applicable"
HOLD = (EQUAL, RESCALED, VANISHING, UNEVEN)
"""Verdicts under which a check holds, the best first."""
TILTED = "tilted"
BIASED = "biased"
BLIND = "blind"
REVERSED = "reversed"
NOT_FINITE = "not finite"
REFUSED = "refused"
LEAKS = "leaks"
FAIL = (TILTED, BIASED, BLIND, REVERSED, REFUSED, LEAKS, NOT_FINITE)
"""Verdicts under which it fails, the worst last."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Verdict on one case."""

    case: str
    verdict: str
    says: str
    """What a person should know, in one sentence."""
    true: float
    """Length of the true gradient, reward units; 0 where nothing is to be gained."""
    scale: tuple[float | None, ...] = ()
    """Length along the true gradient, in its lengths, by group size; None where that is 0."""
    cosine: tuple[float | None, ...] = ()
    """Of the angle to the true gradient, by group size."""
    bias: tuple[float, ...] = ()
    """What is not along the true gradient, as a share of one response's contribution."""
    noise: float | None = None
    """Responses until noise and signal are equally long, at the largest group; None without one."""
    ideal_noise: float | None = None
    """The same for rewards to go minus exact values."""
    group_sizes: tuple[int, ...] = ()
    refused: str = ""
    """What the function raised for groups of equal scores, which then count as 0."""
    best_stays: bool | None = None
    """Whether a policy near the best response moves on to it; None where there is none."""

    @property
    def holds(self) -> bool:
        """Whether the case is no reason to fail."""
        return self.verdict in HOLD


def read(
    case: Case, decisions: Decisions, found: Sequence[Expectation], near: Expectation | None = None
) -> Reading:
    """Return the verdict on one case.

    Args:
        case: The case.
        decisions: Its tensors.
        found: What the estimator does, by group size.
        near: What it does near the best response, at one size.
    """
    true = decisions.gradient
    length = float(true.norm())
    scale, cosine, bias = [], [], []
    for each in found:
        own, along = float(each.gradient.norm()), float((each.gradient * true).sum())
        scale.append(along / length**2 if length > 1e-12 else None)
        cosine.append(along / length / own if length > 1e-12 and own > 1e-12 else None)
        off = _off(decisions, each.gradient)
        bias.append(float(off.norm()) / max(float(each.push.norm()), 1e-12))
    verdict, says = _verdict(case, decisions, found, scale, bias)
    stays = None
    if near is not None and length > 1e-12:
        stays = _climbs(decisions.near_best(), near)
        if not stays and verdict in HOLD:
            verdict, says = REVERSED, f"leaves the best response when {case.when}"
    last = found[-1]
    signal = (scale[-1] or 0.0) * length
    return Reading(
        case=case.name,
        verdict=verdict,
        says=says,
        true=length,
        scale=tuple(scale),
        cosine=tuple(cosine),
        bias=tuple(bias),
        noise=last.variance / signal**2 if signal > 1e-12 else None,
        ideal_noise=max(decisions.ideal_noise, 0.0) / length**2 if length > 1e-12 else None,
        group_sizes=tuple(each.group_size for each in found),
        refused=next((each.refusal for each in found if each.refused > 0), ""),
        best_stays=stays,
    )


def _off(decisions: Decisions, gradient: Tensor) -> Tensor:
    """Return what of a gradient is not along the true one, each prompt's taken by itself."""
    off = gradient.clone()
    owner = torch.tensor([prompt for prompt, _ in decisions.states])
    for prompt in owner.unique():
        rows = owner == prompt
        true = decisions.gradient[rows]
        square = float((true**2).sum())
        if square > 1e-18:
            off[rows] -= float((gradient[rows] * true).sum()) / square * true
    return off


def _verdict(
    case: Case,
    decisions: Decisions,
    found: Sequence[Expectation],
    scale: Sequence[float | None],
    bias: Sequence[float],
) -> tuple[str, str]:
    """Return verdict and sentence."""
    first, last = found[0], found[-1]
    if any(each.not_finite > 0 for each in found):
        return NOT_FINITE, f"is no finite number for some groups when {case.when}"
    refused = next((each for each in found if each.refused > 0), None)
    if _equal(decisions.gradient, found):
        verdict = EQUAL, "equals the gradient"
    else:
        limit = _limit(found)
        fault = _worst(case, decisions, limit, last.push)
        if fault is not None:
            return fault
        shares = _scales(decisions, limit)
        stays = max(bias) >= EXACT and bias[-1] >= 0.95 * bias[0]
        if shares and (stays or (_spread(shares) > UNLIKE and not _evens_out(decisions, found))):
            verdict = (
                UNEVEN,
                (
                    "has the right sign at every decision, but weighs them unlike: "
                    f"{min(shares):.2f} to {max(shares):.2f} times the gradient"
                ),
            )
        elif max(bias) < EXACT:
            verdict = RESCALED, f"points along the gradient, {_range(scale, found)}"
        else:
            verdict = (
                VANISHING,
                (
                    f"has a bias that falls as groups grow: {bias[0]:.0%} of a response's push at "
                    f"G = {first.group_size}, {bias[-1]:.0%} at G = {last.group_size}"
                ),
            )
    if refused is not None and case.name == "equal scores":
        return REFUSED, f"refuses a batch of equal scores: {refused.refusal}"
    return verdict


def _limit(found: Sequence[Expectation]) -> Tensor:
    """Return the expected gradient in large groups: what falls as 1 / G cancels.

    (G g(G) - H g(H)) / (G - H), H and G the two largest sizes
    """
    if len(found) < 2:
        return found[-1].gradient
    before, last = found[-2:]
    small, large = before.group_size, last.group_size
    return (large * last.gradient - small * before.gradient) / (large - small)


def _equal(true: Tensor, found: Sequence[Expectation]) -> bool:
    """Return whether every expected gradient is the true one, up to rounding.

    Rounding grows with the advantages; what grows past the true gradient would hide its absence.
    """
    length = float(true.norm())
    most = LIMIT * length if length > 1e-9 else float("inf")
    return all(
        float((each.gradient - true).norm())
        <= min(EXACT * max(float(each.push.norm()), length), most)
        for each in found
    )


def _range(scale: Sequence[float | None], found: Sequence[Expectation]) -> str:
    """Return the scales of the smallest and the largest group in words."""
    known = [(value, each.group_size) for value, each in zip(scale, found, strict=True) if value]
    if not known:
        return "and is 0 where that is 0"
    (first, small), (last, large) = known[0], known[-1]
    if abs(first - last) < 0.005 * abs(last):
        return f"{last:.3g} times as long"
    return f"{first:.3g} times as long at G = {small}, {last:.3g} at G = {large}"


def _scales(decisions: Decisions, gradient: Tensor) -> list[float]:
    """Return the length along the true gradient at each state where there is one."""
    squares = (decisions.gradient**2).sum(1)
    along = (gradient * decisions.gradient).sum(1)
    return [float(a / b) for a, b in zip(along, squares, strict=True) if b > 1e-18]


def _spread(shares: Sequence[float]) -> float:
    """Return by how much the largest exceeds the smallest, as a share of it."""
    return max(shares) / min(shares) - 1.0


def _evens_out(decisions: Decisions, found: Sequence[Expectation]) -> bool:
    """Return whether decisions are weighed more alike in larger groups."""
    if len(found) < 2:
        return False
    before, after = (_scales(decisions, each.gradient) for each in found[-2:])
    return min(before) <= 0 or _spread(after) < 0.95 * _spread(before)


def _worst(case: Case, decisions: Decisions, limit: Tensor, push: Tensor) -> tuple[str, str] | None:
    """Return the worst fault of any state in the limit of large groups."""
    faults: list[tuple[str, str]] = []
    for row, true in enumerate(decisions.gradient):
        own, length = limit[row], float(true.norm())
        size, pushed = float(own.norm()), float(push[row])
        if length < 1e-9:
            if size > LIMIT * pushed and size > 1e-9:
                token = decisions.vocabulary[int(own.argmax())]
                towards = case.meanings.get(token, f"the token {token!r}")
                faults.append(
                    (BIASED, f"favours {towards} when {case.when}, where the gradient is 0")
                )
            continue
        cosine = float((own * true).sum()) / length / max(size, 1e-12)
        if size <= LIMIT / 4 * pushed or pushed < 1e-9:
            faults.append((BLIND, f"is 0 when {case.when}, where the gradient is not"))
        elif cosine < -0.5:
            faults.append((REVERSED, f"points against the gradient when {case.when}"))
        elif cosine < 0.98:
            faults.append((TILTED, f"points aside from the gradient when {case.when}"))
    return max(faults, key=lambda fault: FAIL.index(fault[0]), default=None)


def _climbs(near: Decisions, found: Expectation) -> bool:
    """Return whether every decision moves on to the better token."""
    return all(
        float((own * true).sum()) > ROUNDING * float(push) * float(true.norm())
        for own, true, push in zip(found.gradient, near.gradient, found.push, strict=True)
        if float(true.norm()) > 1e-9
    )
