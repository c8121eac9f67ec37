"""Scorers that are stored: a model's folder, or what a bundle holds as truth."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from tokengym.base.files import parse_json, read_once
from tokengym.base.models import located
from tokengym.base.pretrained import from_pretrained
from tokengym.envs.episode import Episode
from tokengym.envs.prompts.tokenization import unknown_share
from tokengym.rewards.errors import ScorerError
from tokengym.rewards.scorers.base import SCORERS, Scorer
from tokengym.rewards.scorers.rules import RuleScorer
from tokengym.rewards.scorers.sentiment import Sentiment

if TYPE_CHECKING:
    from tokengym.base.bundle import Bundle


def gold_scorer(bundle: "Bundle | None") -> Scorer | None:
    """Return what a bundle holds as truth: its lexicon or rules, a held-out model, or None.

    A bundle with a grammar has its truth multiplied by the grammaticality of the text.
    """
    truth: Scorer | None = None
    if bundle is None:
        return None
    if bundle.manifest.get("gold_scorer") == "vader":
        from tokengym.rewards.scorers.vader import Vader

        return Vader()
    if bundle.has("lexicon"):
        truth = Sentiment.from_file(bundle.lexicon)
    elif bundle.has("gold"):
        truth = RuleScorer.from_file(bundle.gold)
    elif bundle.has("gold_model"):
        truth = load_scorer(bundle.gold_model, "reward_model")
    if truth is not None and bundle.has("grammar"):
        return truth * RuleScorer.from_file(bundle.grammar)
    return truth


def gold_oov_fraction(bundle: "Bundle", gold: Scorer, episodes: Sequence[Episode]) -> float:
    """Return the share of texts that a bundle's gold score cannot read.

    Its rules know the words that its tokenizer has; a model says itself what it can read.

    Args:
        bundle: The bundle.
        gold: Its gold score.
        episodes: The texts.
    """
    if bundle.has("lexicon") or bundle.has("gold"):
        texts = [f"{episode.prompt} {episode.response}" for episode in episodes]
        return float(np.mean(unknown_share(bundle.tokenizer, texts)))
    return float(np.mean(gold.oov_fraction(episodes)))


ModelKind = Literal["reward_model", "encoder"]
PREFERENCE_FORMAT = "preference_format"
"""Key of a configuration by which a stored preference model is known."""


@read_once()
def stored_kind(path: str | Path) -> ModelKind | None:
    """Return whether a stored model is a reward model or an encoder, by its configuration.

    Returns:
        "reward_model" for a sequence classifier, a preference model, or the adapters of either;
        "encoder" for a model without a head or with one of masked language modelling; None for
        others and where there is no configuration to read.
    """
    from transformers import AutoConfig

    folder = Path(located(path))
    if (folder / "adapter_config.json").is_file():
        return "reward_model"
    try:
        if folder.is_dir():
            names = parse_json((folder / "config.json").read_text("utf-8")).get("architectures")
        else:
            names = from_pretrained(AutoConfig, path).architectures
    except (OSError, ValueError, AttributeError):
        return None  # whoever loads it says what is wrong
    (name,) = (names or [""])[:1]
    if name.endswith("ForSequenceClassification"):
        return "reward_model"
    is_headless = name.endswith("Model") and not name.endswith("LMHeadModel")
    return "encoder" if is_headless or name.endswith("ForMaskedLM") else None


def load_scorer(
    path: str | Path,
    kind: ModelKind | Literal["any"],
    *,
    max_len: int | None = None,
) -> Scorer:
    """Return the scorer of a stored model; a process loads each model once.

    Args:
        path: Folder or hub name.
        kind: Whether it must be a reward model, or a preference model that
            `train_preference_model` stored, or an encoder; "any" takes it for what it is.
        max_len: As in `make_reward`.

    Raises:
        ScorerError: if there is no such model, or it is of the other kind.
    """
    stored = stored_kind(path)
    if kind == "any":
        kind = stored or "reward_model"
    elif stored not in (None, kind):
        is_encoder = stored == "encoder"
        raise ScorerError(
            f"{str(path)!r} holds {'an encoder' if is_encoder else 'a reward model'} and a reward "
            f"that is scored by {'a reward model' if is_encoder else 'an encoder'} asked for it; "
            f"pass it as {stored}=, and {kind}= of the right kind"
        )
    if kind == "encoder":
        options = {} if max_len is None else {"max_len": max_len}
        relevance: Scorer = SCORERS.find("relevance")(path, **options)
        return relevance
    try:  # a preference model is known by its configuration; a hub name is none
        config = parse_json((Path(located(path)) / "config.json").read_text(encoding="utf-8"))
        is_preference_model = config.get(PREFERENCE_FORMAT) is not None
    except (OSError, ValueError, AttributeError):
        is_preference_model = False  # whoever loads it says what is wrong
    name = "preference-model" if is_preference_model else "reward-model"
    scorer: Scorer = SCORERS.find(name)(path)
    return scorer
