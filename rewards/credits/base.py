"""Credit rules: their interface, and the table of rewards by name that they register in."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, Union, get_args

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from tokengym.base.registry import Registry
from tokengym.base.settings import check_choice, check_count
from tokengym.envs.episode import Episode
from tokengym.rewards.errors import CreditError, RewardError
from tokengym.rewards.maths.signed_parts import (
    add_rest_to_last,
    on_last_tokens,
    segment_sums,
    shift_reply_credit,
    split_before_largest,
    split_evenly,
    with_replies,
)
from tokengym.rewards.scorers.base import Scores
from tokengym.rewards.scores import FloatArray as FloatArray
from tokengym.rewards.scores import ScorerKind, as_float32

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokengym.rewards.attribution.policy_reader import PolicyReader
    from tokengym.rewards.credits.probe import Probe

Source = Union[str, Path, "PolicyReader"]
"""Folder or hub name of a language model, or what reads it."""
Rule = TypeVar("Rule", bound="type[Credit]")


class Credit:
    """Redistributes the score of each response over its tokens; the parts sum to the score.

    A rule whose parts do not says so with ``sum_preserving``: `step` pays the score all the same,
    and ``token_rewards`` are what a learner from them maximises instead.

    A rule states its formula for one episode in `spread`. One that needs the whole batch at once
    overrides `assign` instead.
    """

    name: ClassVar[str] = ""
    """Name in `make_reward`, messages and reports."""

    # What the rule asks for.
    attribution: str | None = None
    """Kind of token attribution that the scorer must return with its scores (`KINDS`), or None."""
    needs_attributions: bool = False
    """Whether `spread` reads attributions that `attribute` finds: True of a class that has the
    method. Those of kind ``attribution`` come with the scores."""
    every_prefix: bool = False
    """Whether a scorer without scores per position may score every prefix as a text of its own."""
    needs_answer: bool = False
    """Whether the rule asks for the prompt's reference answer, without which it cannot pay."""
    reads_turns: bool = False
    """Whether the rule is shown the replies of a conversation with the policy's tokens. Other rules
    are shown the tokens that the policy wrote alone, and pay those."""
    needs_policy: bool = False
    """Whether `attribute` continues responses with the policy that learns (`Probe.finish`)."""
    needs_reference: bool = False
    """Whether the rule reads a frozen language model (`log_probs`), which is then loaded, and its
    vocabulary compared with the policy's, before the first episode."""
    needs_model: bool = False
    """Whether the rule reads a further model, which its options name."""
    reference: Source | None = None
    """That language model: the environment's reference policy, unless the rule names another."""
    reference_remedy: ClassVar[str] = (
        "take a task with a bundle, or TokenCredit(reference_policy=PATH)"
    )
    """Remedy if there is none, at the end of the message."""

    # What is true of its token rewards.
    causal: bool = False
    """Whether token t's reward depends on tokens up to t only (and on the end being there), and is
    paid as it is earned; otherwise it is known in hindsight and paid when the episode ends. A
    causal rule also has `step_reward`. The last token gets the rest of the score."""
    sum_preserving: bool = True
    """Whether the token rewards sum to the score, to which every response is held."""
    gae_lambda: float | None = None
    """Lambda in [0, 1] that suits the rule's token rewards, for a learner with ``gae_lambda=None``:
    0 where a token's reward is its advantage, low where it is nearly that. None leaves it to the
    learner."""
    control: bool = False
    """Whether the rule spreads the score without reading the text. What it gains is due to dense or
    late credit; a rule that finds the right tokens must gain more."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "attribute" in vars(cls):
            cls.needs_attributions = True

    def spread(
        self, score: float, episode: Episode, attribution: FloatArray | None
    ) -> NDArray[np.floating]:
        """Return the token rewards of one episode: the rule's formula.

        Args:
            score: R, reward units.
            episode: The episode, with at least one response token.
            attribution: (n,) the scorer's account of the tokens, where the rule asked for one; of
                a `SegmentedCredit` with segments, n are those.

        Returns:
            (n,) reward units, summing to the score.
        """
        raise NotImplementedError(f"{type(self).__name__} must define spread() or assign()")

    def assign(self, episodes: Sequence[Episode], scores: Scores) -> list[FloatArray]:
        """Return the token rewards of each episode.

        Args:
            episodes: The episodes that were scored.
            scores: Their scores, with attributions if the rule asks for them.

        Returns:
            Per episode (len(response_ids),) float32, reward units, summing to its score if the
            rule is ``sum_preserving``.

        Raises:
            CreditError: if the scores lack the attributions that the rule needs.
        """
        rows: Sequence[FloatArray | None] | None = scores.attributions
        if self.attribution is None and not self.needs_attributions:
            rows = [None] * len(episodes)
        if rows is None or len(rows) != len(episodes):
            raise CreditError(
                f"credit {self.name!r} needs {self.attribution or 'its own'} attributions of "
                f"{len(episodes)} episodes, got {'none' if rows is None else len(rows)}; pass the "
                "scores of these episodes by a scorer that has them, or take credit 'uniform'"
            )
        return [
            as_float32(self.spread(float(value), episode, row))
            for episode, value, row in zip(episodes, scores.values, rows, strict=True)
        ]

    def attribute(self, probe: "Probe", episodes: Sequence[Episode], scores: Scores) -> Scores:
        """Return the scores with attributions that the rule finds by scoring other texts.

        Args:
            probe: Scores prefixes and parts of the responses.
            episodes: The episodes that were scored.
            scores: Their scores.
        """
        return scores

    def pieces(self, episodes: Sequence[Episode]) -> list[list[range]]:
        """Return the tokens of each response that are paid in one sum; single ones by default."""
        return [split_evenly(n, n) for n in map(len, (e.response_ids for e in episodes))]

    def step_reward(self, increment: float) -> float:
        """Return what a causal rule pays at once for a token that moved the score of the text.

        Args:
            increment: R(x, y_<=t) - R(x, y_<t).
        """
        raise RewardError(
            f"credit {self.name!r} declares causal=True, but has no method "
            "step_reward(increment) that says what to pay at each step; declare causal=False"
        )

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> Self:
        """Return the rule for responses of a policy's tokenizer; itself unless it reads ids.

        Raises:
            CreditError: if it reads a language model and has none.
            TokenizerError: if that model's vocabulary is another one.
        """
        return self._reading(self.reader().bind(tokenizer)) if self.needs_reference else self

    def with_reference(self, source: Source) -> Self:
        """Return the rule with a language model to read; itself if it has one or reads none."""
        is_wanted = self.needs_reference and self.reference is None
        return self._reading(source) if is_wanted else self

    def _reading(self, source: Source) -> Self:
        other = copy.copy(self)
        other.reference = source
        return other

    def log_probs(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """Return log pi_ref(y_t | x, y_<t) of each episode's tokens, in one batched pass.

        A rule that calls this sets ``needs_reference``.

        Returns:
            Per episode (len(response_ids),) nats, of the frozen language model ``reference``,
            without temperature or action mask.
        """
        return self.reader().log_probs(episodes)

    def reader(self) -> "PolicyReader":
        """Return what reads the language model ``reference``, loaded when it is first needed."""
        from tokengym.rewards.attribution.policy_reader import PolicyReader

        if self.reference is None:
            raise CreditError(
                f"credit {self.name!r} reads a frozen language model, and there is no reference "
                f"policy; {self.reference_remedy}"
            )
        if not isinstance(self.reference, PolicyReader):
            self.reference = PolicyReader.from_pretrained(self.reference)
        return self.reference


Cut = Literal["even", "entropy"]
"""How a response is cut: into equal parts, or where the policy was least certain."""


class SegmentedCredit(Credit):
    """Base of rules that can pay the segments of a response in place of its tokens.

    Each segment is paid in one sum on its last token. As many segments as tokens is the rule per
    token; one segment is `Sparse`, if the rule keeps the sum.

    Args:
        segments: Pieces that a response is cut into; None pays every token.
        cut: Where: "even" gives pieces of equal size up to one token; "entropy" begins them at the
            tokens that the environment's reference policy drew with the highest entropy, where
            most was open. It is read by the frozen policy of the bundle, in passes of its own.
        beta: Share of the attributions that is paid; the rest stays on the last token.

    Raises:
        CreditError: if ``segments`` is below 1, ``cut`` is unknown or cuts nothing, or ``beta`` is
            outside [0, 1].
    """

    needs_attributions = True
    reference_remedy = "take cut='even'"

    def __init__(self, segments: int | None, cut: Cut, beta: float = 1.0) -> None:
        self.segments = segments
        self.cut = cut
        remedy = "leave it out to pay every token"
        check_count(self, "segments", optional=True, hint=remedy, error=CreditError)
        check_choice(self, "cut", get_args(Cut), error=CreditError)
        if segments is None and cut != "even":
            raise CreditError(f"cut={cut!r} cuts nothing without segments; add segments=8")
        self.needs_reference = cut == "entropy"
        self.beta = check_beta(beta)

    def pieces(self, episodes: Sequence[Episode]) -> list[list[range]]:
        """Return the segments of each response; its single tokens without ``segments``.

        In a conversation it is the written tokens that are cut, as `assign` is shown them; the
        tokens of a reply belong to the piece of the token that it answers.
        """
        if self.segments is None or self.cut == "even":
            cuts = [split_evenly(e.num_written, self.segments or e.num_written) for e in episodes]
        else:
            cuts = []
            for episode, values in zip(episodes, self.reader().entropies(episodes), strict=True):
                entropies = values if episode.written is None else values[episode.written > 0]
                cuts.append(split_before_largest(entropies, self.segments))
        return [
            cut if episode.written is None else with_replies(cut, episode.written)
            for episode, cut in zip(episodes, cuts, strict=True)
        ]

    def spread(
        self, score: float, episode: Episode, attribution: FloatArray | None
    ) -> NDArray[np.floating]:
        """Return beta times the attributions, (n,), with the rest on the last token."""
        assert attribution is not None
        return add_rest_to_last(score, self.beta * attribution.astype(np.float64))

    def assign(self, episodes: Sequence[Episode], scores: Scores) -> list[FloatArray]:
        """Return the token rewards, (n,), of each episode, in one sum per segment."""
        rows = scores.attributions
        if self.segments is None or rows is None or len(rows) != len(episodes):
            return super().assign(episodes, scores)  # which refuses what does not fit
        pieces = self.pieces(episodes)
        sums = [segment_sums(row, parts) for row, parts in zip(rows, pieces, strict=True)]
        paid = super().assign(episodes, scores.with_attributions(sums, signed=scores.signed))
        placed = [on_last_tokens(row, parts) for row, parts in zip(paid, pieces, strict=True)]
        return [
            (row if e.written is None else shift_reply_credit(row, e.written)).astype(np.float32)
            for row, e in zip(placed, episodes, strict=True)
        ]


# --- by name --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RewardEntry:
    """Entry of a registered name."""

    factory: Callable[..., Any]
    """Called with the options after the name; returns a `Credit`, a `Scorer` or a `Reward`."""
    scorer: ScorerKind = "any"
    """Scorer of a credit when the user names none."""
    scorer_options: tuple[str, ...] = ()
    """Options after the name that are the scorer's, not the credit's."""


REWARDS: Registry[RewardEntry] = Registry(
    "reward",
    group="rewards",
    error=RewardError,
    from_files=True,
    adopt=lambda name, made: RewardEntry(made),
)
"""All rewards by name."""


def register(
    name: str,
    factory: Callable[..., Any],
    *,
    scorer: ScorerKind = "any",
    scorer_options: tuple[str, ...] = (),
) -> None:
    """Make a reward known by name, so that ``gym.make(id, reward=name)`` finds it.

    Args:
        name: What users write; options follow it as ``"name:option=value,option=value"``.
        factory: Called with the options as keyword arguments. It returns a `Credit` (which gets
            the environment's scorer), a `Scorer` (which gets the sparse credit) or a `Reward`.
        scorer: What a credit scores with when the user names no scorer: the bundle's reward model,
            its encoder, or whichever it has.
        scorer_options: Options that are handed to the scorer.

    Raises:
        RewardError: if the name is taken, or cannot be written in front of options.
        TypeError: if the factory is not callable.
    """
    if not callable(factory):
        raise TypeError(f"factory must be callable, got {factory!r}; pass a class or a function")
    REWARDS.register(name, RewardEntry(factory, scorer, scorer_options))


def register_credit(rule: Rule) -> Rule:
    """Register a subclass of `Credit` under its own name: a class decorator."""
    register(rule.name, rule)
    return rule


def check_beta(beta: float) -> float:
    """Return ``beta`` if it is in [0, 1]; otherwise a CreditError is raised."""
    if not 0.0 <= beta <= 1.0:
        raise CreditError(
            f"beta must lie in [0, 1], got {beta}: 0 is sparse, 1 spreads the whole score"
        )
    return beta
