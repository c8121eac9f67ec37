"""Answer gain: each piece earns by how much likelier it made the reference answer."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from tokengym.base import check_number
from tokengym.envs import Episode, Vocabulary, encode_next
from tokengym.rewards import (
    CreditError,
    Cut,
    Probe,
    Scores,
    SegmentedCredit,
    Source,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class AnswerGain(SegmentedCredit):
    """Each piece earns how much likelier it made the right answer, in log-probability.

    r_j = beta * (V_j - V_{j-1}),   V_j = log p(cue, answer | x, y up to the end of piece j)

    p is a frozen language model, and V_0 that of the prompt alone. The last token gets the rest of
    the score. An EOS that the response ends in is left out of what the answer follows. It needs
    prompts with a reference, and no continuations: one pass of the model for each piece and one
    for the prompt.

    Args:
        beta: Reward units per nat; 0 leaves `sparse`.
        cue: Text between the response and the answer, such as " The answer is ".
        reference: Folder or hub name of the language model; None takes the environment's reference
            policy.
        segments: See `SegmentedCredit`. The papers' pieces are turns, and steps of a reasoning.
        cut: See `SegmentedCredit`.

    Source: RREDCoT, Ielanskyi et al. 2026, arXiv:2606.06475, redistributes by a model's own account
    of the answer; Wang et al. 2025, arXiv:2510.14967, pays gains of its probability, per turn.
    """

    name = "answer-gain"
    needs_answer = True
    reference_remedy = "write 'answer-gain:reference=PATH'"

    def __init__(
        self,
        beta: float = 1.0,
        cue: str = "",
        reference: Source | None = None,
        segments: int | None = None,
        cut: Cut = "even",
    ) -> None:
        super().__init__(segments, cut)
        self.beta = beta
        check_number(self, "beta", least=0, finite=True, error=CreditError)
        self.cue = cue
        self.needs_reference = True
        self.reference = reference
        self._tokenizer: PreTrainedTokenizerBase | None = None

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> Self:
        """Return the rule with its model loaded, whose vocabulary is the policy's."""
        other = super().bind(tokenizer)
        other._tokenizer = tokenizer
        return other

    def attribute(self, probe: Probe, episodes: Sequence[Episode], scores: Scores) -> Scores:
        """Return the scores with each piece's gain, in nats, on its last token."""
        del probe
        pieces, asked = self.pieces(episodes), list[Episode]()
        for episode, parts in zip(episodes, pieces, strict=True):
            answer = self._answer(episode)
            for end in (0, *(part.stop for part in parts)):
                asked.append(self._after(episode, end, answer))
        values = [self.known(row) for row in self.log_probs(asked)]
        lengths = [len(parts) + 1 for parts in pieces]
        known_values = np.split(np.array(values), np.cumsum(lengths)[:-1])
        gains = [np.diff(known) for known in known_values]
        return scores.with_attributions(gains, signed=True, pieces=pieces)

    def known(self, log_probs: NDArray[np.floating]) -> float:
        """Return how well the model knows an answer, from (n,) log-probabilities of its tokens."""
        return float(log_probs.sum())

    def _answer(self, episode: Episode) -> list[int]:
        """Return the ids of cue and answer."""
        if self._tokenizer is None:
            raise CreditError(f"credit {self.name!r} writes answers; call bind(tokenizer) first")
        ids: list[int] = []
        if episode.reference:
            text = self.cue + episode.reference
            (ids,) = encode_next(self._tokenizer, [text], [episode.prompt_ids])
        if not ids:
            raise CreditError(
                f"credit {self.name!r} asks how likely the reference answer is, and the prompt "
                f"{episode.prompt[:40]!r} has none; name its column with reference_column"
            )
        return ids

    def _after(self, episode: Episode, end: int, answer: Sequence[int]) -> Episode:
        """Return the answer as the response to the prompt and the first tokens of the response."""
        assert self._tokenizer is not None
        said = list(episode.response_ids[:end])
        if said and said[-1] in Vocabulary.of(self._tokenizer).silent_ids:
            said.pop()
        return replace(
            episode,
            prompt_ids=[*episode.prompt_ids, *said],
            response_ids=answer,
            turns=(),
            written=None,
            token_rewards=None,
            log_probs=None,
        )
