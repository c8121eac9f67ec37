"""Options that every rule of token credit has, declared once."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Literal, get_args

from tokengym.base.settings import check_choice, check_count, check_number
from tokengym.rewards.errors import CreditError

Cut = Literal["even", "entropy", "line", "sentence", "turn"]
"""Where pieces begin: "even" makes ``segments`` of equal size up to one token, "entropy" begins
``segments`` at the tokens that the reference policy drew with the highest entropy; "line",
"sentence" (ended by ., ! or ?, or the like of other scripts) and "turn" follow the text."""
COUNTED: tuple[Cut, ...] = ("even", "entropy")
"""Cuts into a number of pieces, which ``segments`` gives."""
UNIVERSAL: Mapping[str, Any] = {"beta": 1.0, "segments": None, "cut": None, "reference": None}
"""The options with their defaults.

- ``beta``: share of the score that is spread, in [0, 1]; the rest stays on the last token.
- ``segments``: pieces of a response whose token rewards are summed, on the last token of each; None
  pays every token.
- ``cut``: where the pieces begin, see `Cut`; None is "even" with segments.
- ``reference``: folder or hub name of the frozen language model that ``ref_log_probs`` and its kin
  are read of; None is the environment's.
"""
REPLACED: Mapping[str, str] = {
    "attribution": "'gradient', 'integrated-gradients', 'deeplift' or 'leave-one-out'",
    "delivery": "the rule without it, since 'causal' says when a token is paid",
    "every_prefix": "the rule without it, since any scorer has scores of prefixes",
    "pay": "the rule without it, since a piece is paid on its last token",
    "prefixes": "the rule without it, since any scorer has scores of prefixes",
    "spans": "segments=",
    "steps": "cut=line, cut=sentence or segments=",
}
"""Words of before, of rules and of options, with what is written in their place."""


def resolved(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a rule that it did not take over, checked.

    Args:
        defaults: Those of the rule; an option that the rule has by itself is not among them.
        given: Those that the user passed.

    Raises:
        CreditError: if one is out of range, or has no effect.
    """
    options = SimpleNamespace(**{**defaults, **given})
    _check_ranges(options, defaults)
    cut, segments = getattr(options, "cut", None), getattr(options, "segments", None)
    if "cut" in defaults and "segments" in defaults:
        if segments is not None and cut not in COUNTED:
            # Of the two, a default of the rule gives way to what the user passed.
            if "cut" not in given:
                cut = options.cut = "even"
            elif cut is not None and "segments" not in given:
                segments = options.segments = None
        _check_cut(cut, segments)
    return vars(options)


def _check_ranges(options: SimpleNamespace, names: Mapping[str, Any]) -> None:
    """Refuse options that are out of range."""
    if "beta" in names:
        hint = "0 is sparse, 1 spreads the whole score"
        check_number(options, "beta", least=0, most=1, hint=hint, error=CreditError)
    if "segments" in names:
        hint = "leave it out to pay every token"
        check_count(options, "segments", optional=True, hint=hint, error=CreditError)
    if "cut" in names:
        check_choice(options, "cut", (*get_args(Cut), None), error=CreditError)


def _check_cut(cut: Cut | None, segments: int | None) -> None:
    """Refuse options of pieces that cut nothing."""
    if cut in COUNTED and segments is None:
        raise CreditError(f"cut={cut!r} cuts nothing without segments; add segments=8")
    if cut is not None and cut not in COUNTED and segments is not None:
        raise CreditError(
            f"segments={segments} has no effect with cut={cut!r}, which follows the text; leave "
            "one of the two out"
        )
