"""Scores of a batch of episodes: values, their parts, and what each token had to do with them.

`KINDS` is the one table of the ways in which a score is attributed to tokens.
"""

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import Self

from tokengym.base.plugins import plugins
from tokengym.envs.episode import RAW_SCORE, Episode
from tokengym.rewards.errors import CreditError, ScorerError

T = TypeVar("T")
FloatArray = NDArray[np.float32]
"""Scores of a batch, (batch,), or values of one response's tokens, (time,)."""


@dataclass(frozen=True, init=False, eq=False)
class Scores:
    """The scores of a batch of episodes.

    Arrays are stored as float32, whatever was passed; `check` compares them to the episodes.
    """

    values: FloatArray
    """(batch,) float32: the score of each response."""
    parts: Mapping[str, FloatArray]
    """Name -> (batch,) float32: what the score was made of."""
    attributions: Sequence[FloatArray] | None
    """Per episode (len(response_ids),) float32: what each token had to do with the score."""
    additive: bool
    """Attributions are signed parts that sum to the value."""
    signed: bool
    """Attributions are signed, in reward units; True if ``additive``, and also where parts of the
    value belong to no token. If False they are weights >= 0 of any scale."""
    gaps: frozenset[str]
    """"values", and names of parts, whose NaN stands for what was not measured, as a judge did not
    answer. A scorer says so by None in a list of numbers; any other NaN is a fault."""

    def __init__(
        self,
        values: ArrayLike | Sequence[float | None],
        parts: Mapping[str, ArrayLike | Sequence[float | None]] | None = None,
        attributions: Sequence[ArrayLike] | None = None,
        additive: bool = False,
        signed: bool = False,
        gaps: Iterable[str] = (),
    ) -> None:
        given: dict[str, Any] = {"values": values, **(parts or {})}
        lists = {name: given[name] for name in given if isinstance(given[name], list | tuple)}
        of_none = {name for name, array in lists.items() if any(x is None for x in array)}
        stored: dict[str, Any] = {
            "values": as_float32(values),
            "parts": {name: as_float32(part) for name, part in (parts or {}).items()},
            "attributions": None,
            "additive": additive,
            "signed": additive or signed,
            "gaps": frozenset(gaps) | of_none,
        }
        if attributions is not None:
            stored["attributions"] = [as_float32(row) for row in attributions]
        for name, value in stored.items():
            object.__setattr__(self, name, value)

    @property
    def measured(self) -> NDArray[np.bool_]:
        """(batch,): whether there is a score."""
        return ~np.isnan(self.values)

    def with_attributions(
        self,
        attributions: Sequence[ArrayLike],
        *,
        signed: bool,
        parts: Mapping[str, ArrayLike] | None = None,
    ) -> "Scores":
        """Return these scores with other attributions and further parts.

        Args:
            attributions: Per episode (len(response_ids),).
            signed: Whether they are signed and in reward units, or weights.
            parts: Name -> (batch,), added to those there are.
        """
        parts = {**self.parts, **(parts or {})}
        return Scores(self.values, parts, attributions, signed=signed, gaps=self.gaps)

    def select(self, rows: Sequence[int]) -> "Scores":
        """Return the scores of some episodes."""
        rows = list(rows)
        parts = {name: part[rows] for name, part in self.parts.items()}
        tokens = self.attributions and [self.attributions[row].copy() for row in rows]
        return replace(self, values=self.values[rows], parts=parts, attributions=tokens)

    def split(self) -> list["Scores"]:
        """Return the scores of each episode by itself."""
        return [self.select([row]) for row in range(len(self.values))]

    def placed(self, rows: Sequence[int], count: int) -> "Scores":
        """Return the scores as those of ``rows`` of so many episodes; the others have none."""

        def place(values: FloatArray) -> FloatArray:
            whole = np.full(count, np.nan, dtype=np.float32)
            whole[list(rows)] = values
            return whole

        parts = {name: place(part) for name, part in self.parts.items()}
        return Scores(place(self.values), parts, gaps=("values", *parts))

    def parts_of(self, row: int) -> dict[str, float]:
        """Return the parts of one episode that were measured."""
        return {n: float(part[row]) for n, part in self.parts.items() if not np.isnan(part[row])}

    @classmethod
    def joined(cls, scores: Sequence["Scores"]) -> "Scores":
        """Return several scores as one; a part that some lack is not measured there."""
        names = dict.fromkeys(name for one in scores for name in one.parts)
        parts = {
            name: [x for one in scores for x in one.parts.get(name, one.values * np.nan)]
            for name in names
        }
        rows = [row for one in scores for row in one.attributions or ()]
        return cls(
            [value for one in scores for value in one.values],
            parts,
            None if any(one.attributions is None for one in scores) else rows,
            additive=all(one.additive for one in scores),
            signed=all(one.signed for one in scores),
            gaps=[
                *(gap for one in scores for gap in one.gaps),
                *(name for name in names for one in scores if name not in one.parts),
            ],
        )

    def check(
        self, episodes: Sequence[Episode], name: str, *, of: Literal["scorer", "credit"] = "scorer"
    ) -> None:
        """Raise unless there is one finite score per episode and one attribution per token.

        What is NaN in ``gaps`` was not measured, which is no fault.

        Args:
            episodes: Those that were scored.
            name: Name of the scorer, or of the credit, that returned the scores.
            of: Which of the two it is.

        Raises:
            ScorerError, CreditError: naming it, the shape or value, and the episode.
        """
        error, who = CreditError if of == "credit" else ScorerError, f"{of} {name!r}"
        expected = (len(episodes),)
        for label, array in {"values": self.values, **self.parts}.items():
            if array.shape != expected:
                raise error(
                    f"{who} returned {label} of shape {array.shape} for {len(episodes)} "
                    f"episodes; return one number per episode, shape {expected}"
                )
            is_missing = np.isnan(array) & (label in self.gaps)
            if (faulty := ~(np.isfinite(array) | is_missing)).any():
                row = int(np.flatnonzero(faulty)[0])
                raise error(
                    f"{who} returned {label}[{row}] = {array[row]} for the response "
                    f"{reprlib.repr(episodes[row].response)}; scores must be finite, or None where "
                    "nothing was measured"
                )
        rows = self.attributions
        if rows is None:
            return
        if len(rows) != len(episodes):
            raise error(
                f"{who} returned {len(rows)} attributions for {len(episodes)} episodes; return one "
                "array per episode"
            )
        for index, (episode, tokens) in enumerate(zip(episodes, rows, strict=True)):
            if not self.measured[index]:
                continue
            if tokens.shape != (len(episode.response_ids),) or not np.isfinite(tokens).all():
                raise error(
                    f"{who} returned attributions[{index}] = {reprlib.repr(tokens.tolist())} of "
                    f"shape {tokens.shape}; expected finite ones, ({len(episode.response_ids)},), "
                    "one per response token"
                )


def inner_parts(parts: Mapping[str, T]) -> dict[str, T]:
    """Return the parts of a scorer inside another, or of one that is not scaled.

    `RAW_SCORE` is what evaluations measure, so only the outermost scaling may have that part.
    """
    return {f"inner_{name}" if name == RAW_SCORE else name: part for name, part in parts.items()}


def as_float32(values: Any) -> FloatArray:
    """Return numbers, arrays or tensors of any shape as an array of that shape."""
    if isinstance(values, list | tuple):
        values = [to_numpy(value) for value in values]
    return np.asarray(to_numpy(values), dtype=np.float32)


def to_numpy(value: Any) -> Any:
    """Return a torch tensor as an array; anything else as it is.

    NumPy reads no tensor that has a gradient, is in bfloat16 or on a GPU.
    """
    return value.detach().float().cpu().numpy() if hasattr(value, "detach") else value


class Shared:
    """An object of which there is one: Gymnasium copies the arguments of every environment."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return itself."""
        return self


# --- kinds of attribution -------------------------------------------------------------------------

ScorerKind = Literal["any", "reward_model", "encoder"]
"""Kind of scorer of a credit: a reward model, an encoder, or whichever the bundle has."""


KINDS: Mapping[str, ScorerKind] = {
    "attention": "reward_model",
    "signed-attention": "reward_model",
    "prefix": "reward_model",
    "gradient": "reward_model",
    "integrated-gradients": "reward_model",
    "deeplift": "reward_model",
    "relevance": "encoder",
}
"""Kinds of attribution that credits ask for and scorers offer, see `RewardModel.score`, each with
the kind of model that gives it."""
REWARD_MODEL_KINDS = frozenset(name for name, kind in KINDS.items() if kind == "reward_model")
ENCODER_KINDS = frozenset(KINDS) - REWARD_MODEL_KINDS
BY_PREFIXES, BY_CHANGED_TEXTS = "red", ("leave-one-out", "scar")
"""Rules that find a token's part of any scorer's score; those of changed texts may be installed."""
SIGNED_KINDS = frozenset(KINDS) - {"attention"}
"""Those that are signed and in reward units; attention is weights >= 0 of any scale."""


def remedy_for(kind: str) -> str:
    """Return what to do where a scorer lacks a kind of attribution."""
    scorers = {"reward_model": "RewardModel", "encoder": "Relevance"}
    scorer = scorers.get(KINDS.get(kind, ""), "one that gives them")
    installed = {point.name for point in plugins("rewards")}
    *others, last = [BY_PREFIXES, *(name for name in BY_CHANGED_TEXTS if name in installed)]
    taken = f"{', '.join(map(repr, others))} or {last!r}" if others else repr(last)
    return f"score with {scorer}, or take {taken}: any scorer's score of changed texts"
