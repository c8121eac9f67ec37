"""A stub tokenizer, scorers of known answers, and environments that they pay."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, GPT2Config, PreTrainedTokenizerFast

from tests.support.words import PROMPTS, make_word_tokenizer
from tokengym.envs import Episode, TokenGenerationEnv, TokenGenerationVectorEnv
from tokengym.rewards.credits.words import REWARDS
from tokengym.rewards.gold.sentiment_lexicon import Lexicon
from tokengym.rewards.scorers.base import Scorer, Scores

LEXICON = Lexicon(words={"good": 1.0, "bad": -1.0}, intensifiers={}, negations=("not",))
WORDS = ("<pad>", "<eos>", "<unk>", *"abcdefghijklmnopqrst")


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer whose ids are positions: pad 0, eos 1, unk 2, a 3, ..."""
    return make_word_tokenizer(WORDS)


@pytest.fixture
def make_env(tokenizer: PreTrainedTokenizerFast) -> Callable[..., TokenGenerationEnv]:
    def build(**settings: Any) -> TokenGenerationEnv:
        defaults: dict[str, Any] = {"prompts": PROMPTS, "max_new_tokens": 5}
        return TokenGenerationEnv(**{"tokenizer": tokenizer} | defaults | settings)

    return build


@pytest.fixture
def make_envs(tokenizer: PreTrainedTokenizerFast) -> Callable[..., TokenGenerationVectorEnv]:
    def build(**settings: Any) -> TokenGenerationVectorEnv:
        defaults: dict[str, Any] = {"num_envs": 3, "prompts": PROMPTS, "max_new_tokens": 5}
        return TokenGenerationVectorEnv(**{"tokenizer": tokenizer} | defaults | settings)

    return build


def scale_weights(model: torch.nn.Module, factor: float = 6.0) -> torch.nn.Module:
    """Return the model with larger matrices: at its initialisation attention is nearly uniform."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(factor)
    return model.eval()


def make_classifier(num_labels: int = 1, vocab_size: int = len(WORDS), seed: int = 0) -> Any:
    sizes: Any = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    ids: Any = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    ids["num_labels"] = num_labels
    config = GPT2Config(vocab_size=vocab_size, **sizes, **ids)
    torch.manual_seed(seed)
    return scale_weights(AutoModelForSequenceClassification.from_config(config))


@pytest.fixture(scope="session")
def classifier() -> Any:
    return make_classifier()


def make_episode(
    prompt_ids: Sequence[int] = (3, 4), response_ids: Sequence[int] = (5, 6, 1), **fields: Any
) -> Episode:
    texts = {"prompt": "the prompt", "response": "the response"}
    return Episode(prompt_ids=prompt_ids, response_ids=response_ids, **texts | fields)


def random_episodes(count: int, vocab_size: int = len(WORDS), seed: int = 0) -> list[Episode]:
    """Return episodes of many lengths; pad, EOS and unknown ids occur inside them too."""
    rng = np.random.default_rng(seed)
    return [
        make_episode(
            rng.integers(0, vocab_size, rng.integers(1, 9)).tolist(),
            rng.integers(0, vocab_size, rng.integers(1, 12)).tolist(),
        )
        for _ in range(count)
    ]


class LengthScorer(Scorer):
    """Scores a response by the ids it has: a sum that any test can work by hand."""

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        values = [sum(episode.response_ids) for episode in episodes]
        return Scores(values=values, parts={"length": [len(e.response_ids) for e in episodes]})


class FixedScorer(Scorer):
    """Returns what it was built with, as a scorer of a user that knows no attributions."""

    name = "fixed"

    def __init__(self, values: Any, attributions: Any = None, **parts: Any) -> None:
        self.scores = Scores(values=values, attributions=attributions, parts=parts)

    def score(self, episodes: Sequence[Episode]) -> Scores:  # type: ignore[override]
        return self.scores


def forget_rewards_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a test its own table of names."""
    monkeypatch.setattr(REWARDS, "_entries", dict(REWARDS))
