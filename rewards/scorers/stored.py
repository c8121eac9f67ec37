"""Scorers that are stored: a model's folder, or what a bundle holds as truth."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tokengym.base.files import parse_json, read_once
from tokengym.base.models import located
from tokengym.base.pretrained import from_pretrained
from tokengym.envs.episode import Episode
from tokengym.envs.prompts.tokenization import unknown_share
from tokengym.rewards.errors import ScorerError
from tokengym.rewards.models.kinds import ScorerKind
from tokengym.rewards.scorers.base import SCORERS, Scorer
from tokengym.rewards.scorers.rules import RuleScorer
from tokengym.rewards.scorers.sentiment import Sentiment

if TYPE_CHECKING:
    from tokengym.base.bundle import Bundle


def gold_scorer(bundle: "Bundle | None") -> Scorer | None:
    """Return what a bundle holds as truth: its lexicon or rules, a held-out model, or None.

    A bundle with a grammar has its truth multiplied by the grammaticality of the text.
    """
    if bundle is None:
        return None
    if bundle.manifest.get("gold_scorer") == "vader":
        from tokengym.rewards.scorers.vader import Vader

        return Vader()
    truth: Scorer | None = None
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


PREFERENCE_FORMAT = "preference_format"
"""Key of a configuration by which a stored preference model is known."""


@read_once()
def stored_scorer(path: str | Path) -> str | None:
    """Return the name of the scorer that a stored model is read by, as its configuration says.

    Returns:
        "preference-model" for one that `train_preference_model` stored; "reward-model" for a
        sequence classifier or other adapters; "relevance" for a model without a head or with one of
        masked language modelling; None for others and where there is no configuration to read.
    """
    from transformers import AutoConfig

    folder, names = Path(located(path)), None
    with suppress(OSError, ValueError, AttributeError):  # whoever loads it says what is wrong
        if folder.is_dir():
            config = parse_json((folder / "config.json").read_text("utf-8"))
            if config.get(PREFERENCE_FORMAT) is not None:
                return "preference-model"
            names = config.get("architectures")
        else:
            names = from_pretrained(AutoConfig, path).architectures
    (name,) = (names or [""])[:1]
    if (folder / "adapter_config.json").is_file() or name.endswith("ForSequenceClassification"):
        return "reward-model"
    is_headless = name.endswith("Model") and not name.endswith("LMHeadModel")
    return "relevance" if is_headless or name.endswith("ForMaskedLM") else None


def load_scorer(
    path: str | Path,
    kind: ScorerKind,
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
    stored = stored_scorer(path)
    is_encoder = stored == "relevance"
    if kind == "any":
        kind = "encoder" if is_encoder else "reward_model"
    elif stored is not None and is_encoder != (kind == "encoder"):
        held, wanted = "a reward model", "an encoder"
        if is_encoder:
            held, wanted = wanted, held
        raise ScorerError(
            f"{str(path)!r} holds {held} and a reward that is scored by {wanted} asked for it; "
            f"pass it as {'encoder' if is_encoder else 'reward_model'}=, and {kind}= of the right "
            "kind"
        )
    name = "relevance" if kind == "encoder" else stored or "reward-model"
    options = {"max_len": max_len} if max_len is not None and name == "relevance" else {}
    scorer: Scorer = SCORERS.find(name)(path, **options)
    return scorer
