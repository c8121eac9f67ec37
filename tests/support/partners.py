"""Partners over the words of the stub tokenizer."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tokengym.envs import Partner, Reply


def teacher(
    conversation: Sequence[Mapping[str, str]], metadata: Mapping[str, Any], rng: np.random.Generator
) -> Reply:
    """Answer with one to three words, score the turn by its length, and now and then end."""
    said = conversation[-1]["content"].split()
    words = rng.choice(["a", "b", "d", "e"], size=rng.integers(1, 4)).tolist()
    return Reply(" ".join(words), score=float(len(said)), done=bool(rng.random() < 0.2))


class Several(Partner):
    """`teacher` for many conversations at once; counts how often it was asked."""

    name = "several"

    def __init__(self) -> None:
        self.calls: list[int] = []

    def replies(self, conversations: Any, metadatas: Any, rngs: Any) -> list[Reply]:
        self.calls.append(len(conversations))
        return [teacher(*asked) for asked in zip(conversations, metadatas, rngs, strict=True)]


def sleeper(conversation: Any, metadata: Any, rng: np.random.Generator) -> Reply:
    """Take a second to answer a turn that is one word after one prompt."""
    if [message["content"] for message in conversation] == ["e", "a"]:
        time.sleep(1.0)
    return Reply("a")


def failing(conversation: Any, metadata: Any, rng: np.random.Generator) -> Reply:
    """Raise after turns that begin with "b"."""
    if conversation[-1]["content"].startswith("b"):
        raise RuntimeError("no connection\nto the host")
    return Reply("a")
