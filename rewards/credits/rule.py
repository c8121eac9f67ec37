"""A rule of token credit: a function with its options, which a reward calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tokengym.rewards.credits.bound import BoundFunction
from tokengym.rewards.credits.names import ACCOUNTS, CARRIED, NAMES, Supplier
from tokengym.rewards.credits.options import UNIVERSAL, resolved
from tokengym.rewards.credits.token_credit import is_token_credit
from tokengym.rewards.errors import CreditError
from tokengym.rewards.maths.tokens import on_last, rest_on_last

if TYPE_CHECKING:
    from torch import Tensor

    from tokengym.envs.episode import Episode
    from tokengym.rewards.credits.calling import Figures
    from tokengym.rewards.credits.inputs import Inputs


class Rule(BoundFunction):
    """A rule of token credit, bound to its own options and those of `UNIVERSAL`.

    Raises:
        CreditError: as `BoundFunction`, or if an option of `UNIVERSAL` has no effect.
    """

    kind = "credit"
    shared_options = UNIVERSAL
    binds_reference = True

    def _shared(self, own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        defaults = {**self.shared_options, **self.declared.defaults}
        shared = {name: value for name, value in defaults.items() if name not in own}
        of_shared = {name: value for name, value in given.items() if name in shared}
        self.options = {**own, **(found := resolved(shared, of_shared))}
        if found.get("reference") is not None and not self.needs_reference:
            raise CreditError(
                f"reference has no effect on {self.name!r}, which reads no ref_log_probs or the "
                "like; leave it out"
            )
        return found

    # --- what is true of it -----------------------------------------------------------------------

    @property
    def parts(self) -> bool:
        """Whether the last token gets what the function's result misses of the score."""
        return bool(self._fact("parts"))

    @property
    def conserves(self) -> bool:
        """Whether each row sums to its score."""
        return bool(self._fact("conserves"))

    @property
    def causal(self) -> bool:
        """Whether `step` pays a token when it is written; pieces end when the response does."""
        return bool(self._fact("causal")) and self.cut is None

    @property
    def control(self) -> bool:
        """Whether it reads nothing of what the text says."""
        return bool(self._fact("control"))

    @property
    def gae_lambda(self) -> float | None:
        """Lambda that suits its token rewards; None, and of pieces, leaves it to the learner."""
        value: float | None = self._fact("gae_lambda")
        return value if self.cut is None else None

    @property
    def cut(self) -> Any:
        """Where pieces begin; None where each token is paid by itself."""
        cut, segments = self.options.get("cut"), self.options.get("segments")
        return "even" if cut is None and segments is not None else cut

    @property
    def reads(self) -> tuple[str, ...]:
        """Names that it reads, with what its pieces and the rest of the score need."""
        more = ["ref_entropy"] if self.cut == "entropy" else []
        if self.parts or self.options.get("beta", 1.0) != 1.0 or self.conserves:
            more.append("paid")
        return tuple(dict.fromkeys([*self.signature.reads, *more]))

    def reads_of(self, supplier: Supplier) -> list[str]:
        """Return the names that it reads of one supplier; of "data" the columns."""
        table = [name for name in self.reads if self.signature.model_of(name) is None]
        by = {name: NAMES[name].supplier if name in NAMES else "data" for name in table}
        return [name for name, one in by.items() if one == supplier]

    @property
    def accounts(self) -> list[str]:
        """Kinds of token attribution that it reads of the scorer."""
        return [ACCOUNTS[name] for name in self.reads if name in ACCOUNTS]

    @property
    def needs_policy(self) -> bool:
        """Whether it continues responses with the policy that learns."""
        return "continue_from" in self.reads

    @property
    def carried(self) -> tuple[str, ...]:
        """Names that it reads of the policy that wrote an episode, which carries them."""
        return tuple(name for name in self.reads if name in CARRIED)

    # --- calling ----------------------------------------------------------------------------------

    def __call__(self, inputs: Inputs, *, waits: bool = True) -> tuple[Tensor, Figures]:
        """Return the rewards of a batch's own tokens, (batch, time), and the figures.

        Args:
            inputs: What it reads.
            waits: As of `tokengym.rewards.credits.calling.call`.

        Raises:
            CreditError: if the function raises, or returns what is no reward of these tokens.
        """
        from tokengym.rewards.credits.calling import checked_figures
        from tokengym.rewards.credits.pieces import piece_ends, summed

        ends = piece_ends(inputs, self.cut, self.options.get("segments"))
        rewards, figures = self.call(inputs, {"segment_ends": ends}, waits=waits)
        if self.cut is not None and "segment_ends" not in self.signature.reads:
            rewards = summed(rewards, ends)
        figures = checked_figures(figures, len(rewards), self.who, waits=waits)
        return self._whole(inputs, rewards), figures

    def _whole(self, inputs: Inputs, rewards: Tensor) -> Tensor:
        """Return the rewards with the share of the score that is not spread, and the rest."""
        beta = self.options["beta"] if "beta" not in self.signature.options else 1.0
        mask = inputs["response_mask"]
        if self.parts:
            rewards = rewards if beta == 1.0 else beta * rewards
            return rest_on_last(inputs["paid"], rewards, mask) if inputs.ended else rewards
        if beta == 1.0:
            return rewards
        rest = (1.0 - beta) * on_last(inputs["paid"], mask) if inputs.ended else 0.0
        return beta * rewards + rest

    def pieces(self, episodes: Sequence[Episode], **supplied: Any) -> list[list[range]]:
        """Return the tokens of each response that are paid in one sum."""
        from tokengym.rewards.credits.inputs import Inputs
        from tokengym.rewards.credits.pieces import piece_ends

        reference = self.reader() if self.needs_reference and self.cut == "entropy" else None
        inputs = Inputs(episodes, reference=reference, **supplied)
        # An array, which a tensor of a device would refuse to become: nothing is waited for.
        ends = piece_ends(inputs, self.cut, self.options.get("segments")).numpy()
        return [inputs.spans(row, sorted({*one.tolist()})) for row, one in enumerate(ends)]


def as_rule(made: Any, **options: Any) -> Any:
    """Return what `token_credit` marked as a `Rule`; anything else as it is."""
    return Rule(made, **options) if is_token_credit(made) else made
