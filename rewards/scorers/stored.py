"""Scorers that lie on disk: a model's folder, or what a bundle holds as truth."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tokengym.rewards.scorers.base import Scorer
from tokengym.rewards.scorers.rules import RuleScorer
from tokengym.rewards.scorers.sentiment import Sentiment

if TYPE_CHECKING:
    from tokengym.envs.bundle import Bundle


def gold_scorer(bundle: "Bundle | None") -> Scorer | None:
    """Return what a bundle holds as truth: its lexicon or rules, a held-out model, or None.

    Args:
        bundle: An environment's bundle.
    """
    if bundle is None:
        return None
    if bundle.has("lexicon"):
        return Sentiment.from_file(bundle.lexicon)
    if bundle.has("gold"):
        return RuleScorer.from_file(bundle.gold)
    if bundle.has("gold_model"):
        return load_scorer(bundle.gold_model, "reward_model")
    return None


def load_scorer(
    path: str | Path,
    kind: Literal["reward_model", "encoder"],
    *,
    max_len: int | None = None,
) -> Scorer:
    """Return the scorer of a stored model; a process loads each model once.

    Args:
        path: Folder or hub name.
        kind: Whether it is a reward model, or a preference model that `train_preference_model`
            stored, or an encoder.
        max_len: As in `make_reward`.

    Raises:
        ScorerError: if there is no such model.
    """
    folder = Path(path)
    # A model that was written anew is loaded anew.
    files = list(folder.iterdir()) if folder.is_dir() else []
    stamp = max((file.stat().st_mtime_ns for file in files), default=0)
    location = str(folder.resolve()) if files else str(path)
    if kind == "reward_model":
        return _load_reward_model(location, stamp)
    return _load_relevance(location, max_len, stamp)


@lru_cache(maxsize=8)
def _load_reward_model(path: str, stamp: int) -> Scorer:
    from tokengym.rewards.models.questions import is_preference_model
    from tokengym.rewards.scorers.preference_model import PreferenceModel
    from tokengym.rewards.scorers.reward_model import RewardModel

    if is_preference_model(path):
        return PreferenceModel.from_pretrained(path)
    return RewardModel.from_pretrained(path)


@lru_cache(maxsize=8)
def _load_relevance(path: str, max_len: int | None, stamp: int) -> Scorer:
    from tokengym.rewards.scorers.relevance import Relevance

    return Relevance.from_pretrained(path, max_len=max_len or 512)
