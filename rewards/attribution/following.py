"""How likely a text is after the first tokens of a response, by a frozen language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tokengym.envs.episode import UNPLAYED, Episode
from tokengym.envs.prompts.tokenization import encode_next
from tokengym.envs.prompts.vocabulary import Vocabulary
from tokengym.rewards.errors import CreditError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokengym.rewards.attribution.policy_reader import PolicyReader


def log_prob_after(
    reader: PolicyReader,
    tokenizer: PreTrainedTokenizerBase,
    episodes: Sequence[Episode],
    stops: Sequence[Sequence[int]],
    texts: Sequence[str],
    *,
    mean: bool = False,
) -> list[NDArray[np.float64]]:
    """Return log p(text | prompt, first tokens of the response) of each episode's text.

    An end of the response that no text shows, such as an EOS, is left out of what the text follows.

    Args:
        reader: p.
        tokenizer: The policy's, which writes the texts.
        episodes: Finished episodes.
        stops: Per episode how many of its response's tokens come first, several counts.
        texts: One per episode.
        mean: Whether the mean over the text's tokens is returned, and not the sum.

    Returns:
        Per episode (stops,) nats.

    Raises:
        CreditError: if a text has no tokens.
    """
    silent, asked = Vocabulary.of(tokenizer).silent_ids, list[Episode]()
    for episode, counts, text in zip(episodes, stops, texts, strict=True):
        (ids,) = encode_next(tokenizer, [text], [episode.prompt_ids]) if text else ([],)
        if not ids:
            raise CreditError(
                f"log_prob_of is asked of {text!r}, which has no tokens, after the prompt "
                f"{episode.prompt[:40]!r}; give it a text"
            )
        for count in counts:
            said = list(episode.response_ids[:count])
            if said and said[-1] in silent:
                said.pop()
            asked.append(
                replace(
                    episode,
                    prompt_ids=[*episode.prompt_ids, *said],
                    response_ids=ids,
                    turns=(),
                    written=None,
                    **UNPLAYED,
                )
            )
    values = [row.mean() if mean else row.sum() for row in reader.log_probs(asked)]
    return np.split(np.array(values), np.cumsum([len(counts) for counts in stops])[:-1])
