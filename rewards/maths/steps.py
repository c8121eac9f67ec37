"""The mathematics of process rewards: from step values to token rewards, and the first error.

Pure functions, one response at a time.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokengym.rewards.maths.shares import min_form

StepForm = Literal["sum", "min", "last", "delta"]


def step_rewards(
    values: ArrayLike, form: StepForm, *, start: float = 0.0, temperature: float = 0.1
) -> NDArray[np.float64]:
    """Return what each step of a response earns by a process model's values.

    sum:   r_j = v_j
    min:   r_j = w_j v_j,  w = softmax(-v / temperature)   (`min_form`: the sum is about the worst)
    last:  r_m = v_m, the others 0
    delta: r_j = v_j - v_{j-1},  v_0 = start               (the sum is v_m - v_0)

    Args:
        values: (steps,) v, reward units.
        form: One of the four.
        start: v_0, the value before the first step, of "delta".
        temperature: Of "min", reward units.

    Returns:
        (steps,) reward units.

    Raises:
        ValueError: if the values are no vector of finite numbers, or the temperature is not
            positive.

    Example:
        >>> step_rewards([0.9, 0.5, 0.6], "delta", start=0.7).round(2)
        array([ 0.2, -0.4,  0.1])
    """
    array = np.asarray(values, dtype=np.float64)
    if form == "min":
        return min_form(array, temperature=temperature)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError(f"values must be finite, (steps,) with a step or more, got {array}")
    if form == "sum":
        return array
    if form == "last":
        return np.where(np.arange(len(array)) == len(array) - 1, array, 0.0)
    return np.diff(array, prepend=start)


def first_error(values: Sequence[float], *, threshold: float = 0.5) -> int | None:
    """Return the index of the first step whose value is below a threshold; None if none is.

    Example:
        >>> first_error([0.9, 0.2, 0.8]), first_error([True, True])
        (1, None)
    """
    return next((step for step, value in enumerate(values) if value < threshold), None)


def first_error_f1(found: Sequence[int | None], true: Sequence[int | None]) -> float:
    """Return the F1 of ProcessBench: the harmonic mean of two accuracies.

    F1 = 2 a b / (a + b),  a: share of the wrong solutions whose first error is found exactly,
    b: share of the right solutions in which none is found

    Args:
        found: (solutions,) index of the first step that is called wrong, None if none is.
        true: (solutions,) index of the first step that is wrong.

    Returns:
        In [0, 1]; NaN where there are no wrong, or no right solutions.

    Source: Zheng et al. 2024, "ProcessBench", arXiv:2412.06559, section 4.1.

    Example:
        >>> first_error_f1([1, 0, None, 2], [1, 1, None, None])
        0.5
    """
    pairs = list(zip(found, true, strict=True))
    wrong = [one == other for one, other in pairs if other is not None]
    right = [one is None for one, other in pairs if other is None]
    if not wrong or not right:
        return float("nan")
    a, b = float(np.mean(wrong)), float(np.mean(right))
    return 2 * a * b / (a + b) if a + b else 0.0
