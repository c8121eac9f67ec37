"""The scorers that measure runs, in words and read from them again; one judge for folders.

Folders have one judge where its title and the hashes of its weights and code are the same.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import Self

from tokengym.base.files import json_hash
from tokengym.base.registry import split_file_word
from tokengym.evaluation.statistics import Curve
from tokengym.evaluation.statistics.curve import GroupKey, scored_alike

_GOLD = "the gold score, "
_OWN = ", and the score by "
_OF_ALL = ", the first reward's scorer, for all rewards"
_NO_GOLD = " no gold score"
_LEFT_OUT = "the gold score is left out"


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
        score = own if without.endswith((_NO_GOLD, _LEFT_OUT)) else words
        return cls(score=score.removesuffix(_OF_ALL), gold=None)


def measured_by(
    scorer: str | None,
    gold: str | None,
    *,
    by_gold: bool,
    has_rivals: bool,
    is_own: bool,
    has_dropped: bool = False,
) -> str:
    """Return the scorer of ``score``, and that of ``gold_score`` if there is one, in words.

    ``scorer`` and ``gold`` are their titles. The gold score is the score too if ``by_gold``; the
    rewards have different scorers if ``has_rivals``; prompts and scorer are the user's if
    ``is_own``; the task's gold score does not know the words if ``has_dropped``.
    """
    if gold is None and scorer is not None:
        whose = "prompts and a scorer of your own have" if is_own else "the task has"
        without = _LEFT_OUT if has_dropped else f"{whose}{_NO_GOLD}"
        return f"{scorer}{_OF_ALL if has_rivals else ''}; {without}"
    if gold is None:
        return "no scorer"
    return f"{_GOLD}{gold}" if by_gold or scorer is None else f"{_GOLD}{gold}{_OWN}{scorer}"


def words_of(column: str, words: str) -> str:
    """Return the scorer of a column of curves, as far as the `measured_by` of its runs says, or "".

    Example:
        >>> words_of("gold_score", "the gold score, Lexicon, and the score by RewardModel(film)")
        'the gold score, Lexicon'
    """
    if column == "gold_score" and (gold := Judges.parse(words).gold) is not None:
        return f"{_GOLD}{gold}"
    return words if column == "score" else ""


# --- one judge for several folders ----------------------------------------------------------------


def files_of_judge(settings: Mapping[str, Any]) -> str:
    """Return a hash of the weights, code or names of the scorers that settings name, "" for none.

    Args:
        settings: Settings of a comparison by name, with the hashes of files by their paths.

    Example:
        >>> one = files_of_judge({"reward_model": "a/rm", "a/rm": "5f3c"})
        >>> one == files_of_judge({"reward_model": "b/rm", "b/rm": "5f3c"}), len(one)
        (True, 8)
    """
    named = {name: settings.get(name) for name in ("scorer", "reward_model", "encoder")}
    found = {}
    for name, word in named.items():
        if word is not None:
            file = split_file_word(str(word))
            code = settings.get(str(file[0])) if file else None
            found[name] = settings.get(str(word), [code, file[1]] if file and code else word)
    return json_hash(found)[:8] if found else ""


@dataclass(frozen=True, kw_only=True)
class JudgedRuns:
    """The finished runs of one folder, and what measured them."""

    folder: Path
    group: GroupKey
    """Runs of one group are compared with one another."""
    has_rivals: bool
    """Whether their rewards have different scorers, so that the gold score should be the judge."""
    curves: list[Curve]
    measured_by: list[str]
    """Scorers of the runs in words."""
    files: str = ""
    """Hash of what these are, see `files_of_judge`."""

    @property
    def by_gold(self) -> bool:
        """Whether the score is the gold score; the task may have none that reads the texts."""
        return self.has_rivals and all(
            curve.has("gold_score")
            and np.array_equal(curve.values["score"], curve.values["gold_score"])
            for curve in scored_alike(self.curves)
        )

    @property
    def scorers(self) -> set[tuple[str, str]]:
        """Titles of the scorers of ``score``, each with the hash of what it is."""
        return {(Judges.parse(words).score, self.files) for words in self.measured_by}

    @property
    def gold_scorers(self) -> set[str]:
        """Titles of those of ``gold_score``."""
        return {gold for words in self.measured_by if (gold := Judges.parse(words).gold)}

    @property
    def judge(self) -> str:
        """What measured the runs, in words."""
        words = " and ".join(dict.fromkeys(self.measured_by))
        return f"{words} (files {self.files})" if self.files else words


Rivals = tuple[tuple[str, str], tuple[str, str]]
"""Two folders whose judges differ: name and judge of each."""


def settle_judges(
    folders: Sequence[JudgedRuns], curves: Sequence[Curve]
) -> tuple[list[Curve], Rivals | None]:
    """Return curves with the gold score as their score where folders have different judges.

    Groups may have judges of their own, but gold scores and others are not shown as one.

    Returns:
        The curves, and two folders that differ, each by its name with its judge; None where one
        judge measured all.
    """
    for one, other in combinations(folders, 2):
        differs = one.group == other.group and _differ(one.scorers, other.scorers)
        if differs or one.by_gold != other.by_gold:
            return _by_gold(folders, one, other, curves)
    return list(curves), None


def judge_of_all(folders: Sequence[JudgedRuns], *, settled: bool) -> str:
    """Return the scorers that the scores of folders are of, in words.

    With ``settled`` the gold score was taken as their common judge, see `settle_judges`.
    """
    if settled:
        golds = sorted({gold for runs in folders for gold in runs.gold_scorers})
        return f"{_GOLD}{'; '.join(golds)}" if golds else "the gold score"
    return "; ".join(dict.fromkeys(words for runs in folders for words in runs.measured_by))


def _by_gold(
    folders: Sequence[JudgedRuns], one: JudgedRuns, other: JudgedRuns, curves: Sequence[Curve]
) -> tuple[list[Curve], Rivals]:
    """Return curves by the gold score, which judges two folders that differ; refuse if it cannot.

    A curve with a fault may lack it.
    """
    is_common = not any(
        a.group == b.group and _differ(a.gold_scorers, b.gold_scorers)
        for a, b in combinations(folders, 2)
    )
    sound = scored_alike(curve for runs in folders for curve in runs.curves)
    if not is_common or not all(curve.has("gold_score") for curve in sound):
        raise ValueError(
            f"the runs of {one.folder} are measured by {one.judge}, those of {other.folder} by "
            f"{other.judge}, and no gold score is the same for all, so that their scores cannot be "
            "compared; report each folder alone"
        )
    by_gold = [
        replace(
            curve,
            values={**curve.values, "score": curve.values["gold_score"]},
            responses=curve.responses
            and {**curve.responses, "score": curve.responses["gold_score"]},
        )
        if curve.has("gold_score")
        else curve
        for curve in curves
    ]
    return by_gold, ((one.folder.name, one.judge), (other.folder.name, other.judge))


def _differ(titles: Set[object], others: Set[object]) -> bool:
    """Return whether two folders are known to have no scorer in common.

    One folder has one scorer, whose title another version may have worded otherwise.
    """
    return bool(titles and others) and not titles & others
