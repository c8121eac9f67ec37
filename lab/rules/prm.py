"""Process rewards: each step earns by what a model of steps says at its end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, get_args

from tokengym.base import check_choice
from tokengym.lab.rules.pure import check_temperature, min_form
from tokengym.rewards import CreditError, held, last, token_credit

if TYPE_CHECKING:
    from torch import Tensor

StepForm = Literal["sum", "min", "last", "delta"]
"""How values of steps become rewards; see `prm`."""
STEPS_KEY = "step_separator"
"""Entry of a model's configuration that `train_process_model` leaves: its scores are logits."""


def _check(options: SimpleNamespace) -> None:
    check_choice(options, "form", get_args(StepForm), error=CreditError)
    check_temperature(options)


@token_credit(
    cut="line",
    parts=lambda form: form == "delta",
    conserves=lambda form: form == "delta",
    check=_check,
    models={"model": "reward"},
)
def prm(
    response_mask: Tensor,
    positions: Tensor,
    segment_ends: Tensor,
    model_prefix_scores: Tensor,
    model_config: dict[str, Any],
    form: StepForm = "delta",
    temperature: float = 0.1,
) -> Tensor:
    """Each step of a response earns by the mark that a model which judges steps gives it.

    v_j = expit(M(x, y up to the end of step j)), and M itself of a model that was not trained by
    `train_process_model`; v_0 that of the prompt. Steps are lines; ``cut=sentence`` and
    ``segments`` make others. In a conversation the end of a turn ends a step.

    delta: r_j = v_j - v_{j-1}, and the last token gets the rest of the score, which is kept
    sum:   r_j = v_j
    min:   r_j = w_j v_j,  w = softmax(-v / temperature)   (`min_form`: the sum is about the worst)
    last:  r_m = v_m, the others 0

    Under all but "delta" the score is not paid. "min" is PURE with the process model that its
    paper has.

    Args:
        response_mask: The tokens.
        positions: t.
        segment_ends: The ends of the steps.
        model_prefix_scores: M of a process model, ``model=PATH``: its folder or hub name, a causal
            classifier of one logit with the policy's vocabulary, or the model itself.
        model_config: Its configuration.
        form: "sum", "min", "last" or "delta".
        temperature: Of "min", reward units. The paper uses 0.1.

    Source: Lightman et al. 2023, arXiv:2305.20050 (steps); Wang et al. 2024, "Math-Shepherd",
    arXiv:2312.08935 (values); Cheng et al. 2025, arXiv:2504.15275 (min).
    """
    values = model_prefix_scores
    if STEPS_KEY in model_config:
        values = values.sigmoid()
    ends = segment_ends == positions
    if form == "delta":
        return held(values, ends).diff(dim=1)
    if form == "min":
        return min_form(values[:, 1:], ends, temperature)
    return values[:, 1:] * (last(response_mask) if form == "last" else ends)
