"""RED: each token earns what it added to the score of the text so far."""

from collections.abc import Sequence
from typing import Literal

from tokengym.envs.episode import Episode
from tokengym.rewards.credits.base import (
    Cut,
    SegmentedCredit,
    register_credit,
)
from tokengym.rewards.credits.probe import Probe
from tokengym.rewards.errors import CreditError
from tokengym.rewards.scorers.base import Scores

Delivery = Literal["step", "end"]


class IncrementCredit(SegmentedCredit):
    """Base of rules that read how much each token moved the score of the text so far.

    Args:
        every_prefix: See `RED`.
        segments: See `SegmentedCredit`, as for the next two.
        cut: Where the segments begin.
        beta: Share of the increments that is paid.
    """

    attribution: str | None = "prefix"

    def __init__(
        self, every_prefix: bool, segments: int | None, cut: Cut, beta: float = 1.0
    ) -> None:
        super().__init__(segments, cut, beta)
        self.every_prefix = self.needs_attributions = bool(every_prefix)
        if self.every_prefix:
            self.attribution = None

    def attribute(self, probe: Probe, episodes: Sequence[Episode], scores: Scores) -> Scores:
        """Return the scores with each token's increment, by scoring prefixes."""
        increments = probe.increments(episodes, self.pieces(episodes))
        return scores.with_attributions(increments, signed=True)


@register_credit
class RED(IncrementCredit):
    """Each token earns what it added to the score of the text so far.

    r_t = beta * (R(x, y_<=t) - R(x, y_<t)), and the last token gets what is left of R: the score
    of the empty response and, below beta = 1, the sparse reward's share. A causal reward model
    gives every prefix's score in one pass, by its scores at every position. The whole score in
    increments of single tokens suits a lambda of 0.5 (docs/results/earlier.md).

    Whoever calls ``step`` is paid token by token, for which the text so far is scored again at
    every step. Learners of this package read the finished episode and save that; so does
    ``delivery="end"`` for any other agent that reads ``info["token_rewards"]``.

    Args:
        beta: Share of the score that is spread; the rest stays on the last token.
        delivery: "step" pays a token when it is written; "end" pays the score at the end, as for
            any other credit. The token rewards are the same.
        every_prefix: Whether a scorer without scores per position scores every prefix as a text of
            its own: n + 1 scorings instead of one.
        segments: Pieces that are paid in one sum, each on its last token; None pays every token.
            Where they end is known when the response ends, so it needs ``delivery="end"``.
        cut: Where the pieces begin, see `SegmentedCredit`.

    Raises:
        CreditError: if ``beta`` is outside [0, 1], ``delivery`` or ``cut`` is unknown, or
            ``segments`` is below 1 or delivered step by step.

    Source: Li et al. 2024, arXiv:2411.08302; potential-based shaping: Ng, Harada & Russell 1999.
    """

    name = "red"
    causal = True

    def __init__(
        self,
        beta: float = 1.0,
        delivery: Delivery = "step",
        every_prefix: bool = False,
        segments: int | None = None,
        cut: Cut = "even",
    ) -> None:
        if delivery not in ("step", "end"):
            raise CreditError(f"delivery must be 'step' or 'end', got {delivery!r}")
        if segments is not None and delivery == "step":
            raise CreditError(
                f"segments={segments} are pieces of a finished response and cannot be paid step "
                f"by step; write 'red:delivery=end,segments={segments}'"
            )
        super().__init__(every_prefix, segments, cut, beta)
        self.causal = delivery == "step"
        # Single increments say what a token is worth; a sum of later ones is mostly noise.
        self.gae_lambda = 0.5 if beta == 1.0 and segments is None else None

    def step_reward(self, increment: float) -> float:
        """Return beta times the increment R(x, y_<=t) - R(x, y_<t), reward units."""
        return self.beta * increment
