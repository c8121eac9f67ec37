"""Answer gain: each token earns by how much likelier it made the reference answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

from tokengym.base import check_number
from tokengym.rewards import CreditError, token_credit

if TYPE_CHECKING:
    from torch import Tensor


def check_beta(options: SimpleNamespace) -> None:
    """Refuse a price below 0."""
    check_number(options, "beta", least=0, finite=True, error=CreditError)


def answers(references: Sequence[str | None], prompts: Sequence[str], cue: str) -> list[str]:
    """Return cue and answer of each prompt.

    Raises:
        CreditError: if a prompt has no reference answer.
    """
    for prompt, reference in zip(prompts, references, strict=True):
        if not reference:
            raise CreditError(
                f"the rule asks how likely the reference answer is, and the prompt {prompt[:40]!r} "
                "has none; name its column with reference_column"
            )
    return [f"{cue}{reference}" for reference in references]


@token_credit(parts=True, check=check_beta)
def answer_gain(
    references: Sequence[str | None],
    prompts: Sequence[str],
    positions: Tensor,
    segment_ends: Tensor,
    ref_log_prob_of: Callable[..., Tensor],
    cue: str = "",
    beta: float = 1.0,
) -> Tensor:
    """Each token earns how much likelier it made the right answer, in log-probability.

    r_t = beta * (V_t - V_{t-1}),   V_t = log p(cue, answer | x, y_<=t)

    p is a frozen language model, and V before the first token that of the prompt alone. The last
    token gets the rest of the score. An EOS that the response ends in is left out of what the
    answer follows. It needs prompts with a reference, and no continuations: one pass of the model
    for each token and one for the prompt. The papers' pieces (``segments``, ``cut``) are turns, and
    steps of a reasoning.

    Args:
        references: The answers.
        prompts: Named where one has no answer.
        positions: t.
        segment_ends: What V is asked after, with ``segments`` or ``cut``.
        ref_log_prob_of: log p, of the environment's reference policy or ``reference=PATH``.
        cue: Text between the response and the answer, such as " The answer is ".
        beta: Reward units per nat; 0 leaves `sparse`.

    Source: RREDCoT, Ielanskyi et al. 2026, arXiv:2606.06475, redistributes by a model's own account
    of the answer; Wang et al. 2025, arXiv:2510.14967, pays gains of its probability, per turn.
    """
    ends = segment_ends == positions
    known = ref_log_prob_of(answers(references, prompts, cue), ends=ends)
    return beta * known.diff(dim=1)
