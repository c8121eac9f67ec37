"""ABC-D and ABC-D2: credit by the attention of the policy itself, not of the reward model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import Self

from tokengym.envs import Episode
from tokengym.rewards import ABC, CreditError, Probe, Scores, Source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

METADATA_KEY = "policy_attention"
"""Place where an agent may leave its own attention: ``Episode.metadata[METADATA_KEY]``, (n, n)."""


class ABCD(ABC):
    """Each token earns its share of the score by how much the policy looked back at it later on.

    Weight of token t: the attention it received from the steps after it, on average over them, in
    the last layer's head mean (`received_attention`). Any scorer will do.

    Whose attention: an agent that kept its own leaves it in
    ``Episode.metadata["policy_attention"]``, an (n, n) array of the response's tokens, query by
    key. Other episodes are read by a frozen language model: the one given, or the environment's
    reference policy. That one is where learning starts; as the policy moves away it becomes a
    stand-in, whose weights stay comparable over a whole run and cost one forward pass.

    Args:
        beta: Share of the score that is spread; the rest stays on the last token.
        model: Folder or hub name of the language model, or a `PolicyReader`; None takes the
            bundle's policy.

    Source: Chan et al. 2024, arXiv:2402.00782, ABC-D.
    """

    name = "abc-d"
    attribution = None
    needs_reference = True
    reference_remedy = (
        "write 'abc-d:model=PATH' or 'abc-d2:model=PATH', or leave the policy's attention in "
        f"Episode.metadata[{METADATA_KEY!r}]"
    )

    def __init__(self, beta: float = 0.8, model: Source | None = None) -> None:
        super().__init__(beta)
        self.reference = model

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> Self:
        """Return the rule with its model loaded; itself where agents leave their own attention."""
        return self if self.reference is None else super().bind(tokenizer)

    def attribute(self, probe: Probe, episodes: Sequence[Episode], scores: Scores) -> Scores:
        """Return the scores with the policy's attention as weights."""
        del probe
        rows: list[NDArray[np.float64]] = [np.zeros(0)] * len(episodes)
        unread = []
        for index, episode in enumerate(episodes):
            if METADATA_KEY in episode.metadata:
                rows[index] = self._weights(_checked(episode, index))
            else:
                unread.append(index)
        if unread:
            from tokengym.lab.rules.policy_attention import policy_attention  # loads torch

            matrices = policy_attention(self.reader(), [episodes[index] for index in unread])
            for index, matrix in zip(unread, matrices, strict=True):
                rows[index] = self._weights(matrix)
        return scores.with_attributions(rows, signed=False)

    def _weights(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        return received_attention(matrix)


class ABCD2(ABCD):
    """Each token earns its share of the score by how much the policy looked at it at the end.

    ABC-D by the attention of the last step alone.

    Source: Chan et al. 2024, arXiv:2402.00782, the variant ABC-D2.
    """

    name = "abc-d2"

    def _weights(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        return last_written_row(matrix)


def _checked(episode: Episode, index: int) -> NDArray[np.float64]:
    """Return the attention that an agent left, refusing what is none."""
    matrix: Any = np.asarray(episode.metadata[METADATA_KEY])
    size = len(episode.response_ids)
    if matrix.shape != (size, size) or matrix.dtype.kind not in "fiu":
        raise CreditError(
            f"metadata[{METADATA_KEY!r}] of episode {index} has dtype {matrix.dtype} and shape "
            f"{matrix.shape}; it must be numbers of shape ({size}, {size}), query by key"
        )
    matrix = matrix.astype(np.float64)
    if not np.isfinite(matrix).all() or matrix.min() < 0:
        raise CreditError(
            f"metadata[{METADATA_KEY!r}] of episode {index} lies in {matrix.min()} .. "
            f"{matrix.max()}; attention must be finite and >= 0"
        )
    return matrix


def received_attention(attention: ArrayLike) -> NDArray[np.float64]:
    """Return how much attention each token received from the steps that came after it.

    alpha_t = 1 / (n - 1 - t) * sum_{s = t}^{n - 2} a_st;   alpha_{n-1} = 0

    Row s of ``attention`` is the query of token s, the one that wrote token s + 1. The last token
    was written when nothing followed that could look at it.

    Args:
        attention: (n, n) a: queries and keys of a response's tokens, n >= 1.

    Returns:
        (n,) >= 0, not normalised.

    Source: ABC-D of Chan et al. 2024, arXiv:2402.00782.
    """
    matrix = _square(attention)
    size = len(matrix)
    weights = np.zeros(size)
    later = np.tril(matrix)[: size - 1]  # the last token's query wrote nothing
    weights[: size - 1] = later.sum(axis=0)[: size - 1] / np.arange(size - 1, 0, -1)
    return weights


def last_written_row(attention: ArrayLike) -> NDArray[np.float64]:
    """Return what the step that wrote the last token attended to.

    alpha_t = a_{n-2, t} for t <= n - 2;   alpha_{n-1} = 0

    Args:
        attention: (n, n) as in `received_attention`.

    Returns:
        (n,) >= 0, not normalised; all 0 for one token, which only the prompt preceded.

    Source: ABC-D2 of Chan et al. 2024, arXiv:2402.00782.
    """
    matrix = _square(attention)
    weights = np.zeros(len(matrix))
    if len(matrix) > 1:
        weights[:-1] = matrix[-2, :-1]
    return weights


def _square(attention: ArrayLike) -> NDArray[np.float64]:
    matrix = np.asarray(attention, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ValueError(f"attention must have shape (n, n) with n >= 1, got {matrix.shape}")
    return matrix
