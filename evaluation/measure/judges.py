"""The scorers that measure runs, in the words of `Evaluator.measured_by` and read from them again.

A run keeps these words alone: whether runs of several folders have one judge is read from them.
"""

from dataclasses import dataclass

from typing_extensions import Self

_GOLD = "the gold score, "
_OWN = ", and the score by "
_OF_ALL = ", the first reward's scorer, for all rewards"
_NO_GOLD = " no gold score"


@dataclass(frozen=True, kw_only=True)
class Judges:
    """Titles of the scorers of ``score`` and ``gold_score``."""

    score: str
    gold: str | None
    """None where the task has no gold score."""

    @classmethod
    def parse(cls, words: str) -> Self:
        """Return the judges that `measured_by` put in words.

        Example:
            >>> Judges.parse("the gold score, Lexicon, and the score by RewardModel(film)")
            Judges(score='RewardModel(film)', gold='Lexicon')
        """
        if words.startswith(_GOLD):
            gold, _, own = words.removeprefix(_GOLD).partition(_OWN)
            return cls(score=own or gold, gold=gold)
        own, _, without = words.rpartition("; ")
        score = own if without.endswith(_NO_GOLD) else words
        return cls(score=score.removesuffix(_OF_ALL), gold=None)


def measured_by(
    scorer: str | None, gold: str | None, *, by_gold: bool, has_rivals: bool, is_own: bool
) -> str:
    """Return the scorer of ``score``, and that of ``gold_score`` if there is one, in words.

    ``scorer`` and ``gold`` are their titles. The gold score is the score too if ``by_gold``; the
    rewards have different scorers if ``has_rivals``; prompts and scorer are the user's if
    ``is_own``.
    """
    if gold is None and scorer is not None:
        whose = "prompts and a scorer of your own have" if is_own else "the task has"
        return f"{scorer}{_OF_ALL if has_rivals else ''}; {whose}{_NO_GOLD}"
    if gold is None:
        return "no scorer"
    return f"{_GOLD}{gold}" if by_gold or scorer is None else f"{_GOLD}{gold}{_OWN}{scorer}"
