"""R3 as scorer: does the answer speak of what was asked, at length and without repeating itself?"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokengym.base.errors import TokenizerError
from tokengym.base.settings import check_count
from tokengym.envs.episode import Episode
from tokengym.envs.prompts.contents import content
from tokengym.envs.prompts.tokenization import Tokens, tokenize, unknown_share
from tokengym.rewards.attribution.alignment import Span, continued_spans, spread_by_overlap
from tokengym.rewards.errors import ScorerError
from tokengym.rewards.maths import relevance as R3
from tokengym.rewards.models.encoders import declared_length
from tokengym.rewards.models.forward import reading
from tokengym.rewards.models.loading import (
    check_vocabularies,
    load_pretrained,
    load_tokenizer,
    loaded_once,
    longest_input,
    vocabulary_size,
)
from tokengym.rewards.scorers.base import Scorer, Scores, Shared, register_scorer
from tokengym.rewards.scores import ENCODER_KINDS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_ENCODER_TOKENS = 512
PARTS = ("relevance_query", "relevance_reference", "length_incentive", "repetition_penalty")
"""Names of the parts of a score."""
REMEMBERED = 10_000
"""Queries and references whose M is kept: they come again in every pass over a data set."""


NOTHING = Tokens([], [], [])


class EncodedText(NamedTuple):
    """Reading of one text by the encoder; special tokens of its own included."""

    hidden: NDArray[np.float64]
    """(tokens, width) last hidden states."""
    spans: list[Span]
    """(tokens,) the characters each token stands for."""


class Relevance(Shared, Scorer):
    """The regularised relevance reward R3: r_x LI RP, or F(r_y) RP for a constrained query.

    With M the mean of the encoder's last hidden states (mask-weighted, not normalised):
    r_x = M(query) . M(response), r_y = M(reference) . M(response); LI, RP and F as in
    `maths.relevance`. ``parts`` holds ``relevance_query`` (r_x), ``relevance_reference`` (r_y; 0
    without a reference), ``length_incentive`` and ``repetition_penalty``, whether they count or
    not: any of R3's components can be left out of the score, as in the paper's ablations.

    The query is the text of the user's messages, or of a prompt of text what
    `maths.relevance.strip_query` leaves of it. F divides r_y by 3.5 under any encoder, as the
    official code does: R3 of an encoder whose states are sqrt(s) times as long is s times as large,
    for open-ended and constrained queries alike, so that the balance of the two stays R3's.

    Args:
        encoder: Any ``AutoModel`` with last hidden states; put in eval mode while it scores. It is
            taken to stay as it is: M of queries and references is remembered.
        tokenizer: The encoder's own, a fast one.
        max_len: Longest response in tokens: the scale of F, so that a constrained answer can earn
            what the longest open-ended one can. The paper's code has 512.
        length_incentive: Whether LI counts; without it an open-ended query earns r_x RP.
        repetition_penalty: Whether RP counts.
        reward_branching: Whether a constrained query earns F(r_y); without it r_x pays for every
            query, whatever its type.
        full_relevance: What F divides r_y by; None is R3's 3.5. A smaller number pays constrained
            answers more beside open-ended ones.
        max_tokens: Last tokens of a text that are read, as far as the encoder has positions.
        batch_size: Most texts per forward pass.
        name: In messages and reports.

    Raises:
        ScorerError: if a number is not positive.
        TokenizerError: if the tokenizer is not a fast one, or does not fit the encoder.

    Source: Kim et al. 2024, "Rethinking the Role of Proxy Rewards", arXiv:2402.03469.
    """

    attribution_kinds = ENCODER_KINDS

    def __init__(
        self,
        encoder: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        *,
        max_len: int = 512,
        length_incentive: bool = True,
        repetition_penalty: bool = True,
        reward_branching: bool = True,
        full_relevance: float | None = None,
        max_tokens: int = MAX_ENCODER_TOKENS,
        batch_size: int = 64,
        name: str = "Relevance",
    ) -> None:
        if not tokenizer.is_fast:
            raise TokenizerError(
                f"{type(tokenizer).__name__} gives no character offsets; load the fast tokenizer"
            )
        check_vocabularies(policy=tokenizer, model=None, size=vocabulary_size(encoder), name=name)
        self.encoder = encoder
        # A copy of its own, because the side of truncation is a state of the tokenizer.
        self.tokenizer = copy.deepcopy(tokenizer)
        self.tokenizer.truncation_side = "left"
        self.max_len = max_len
        self.length_incentive = length_incentive
        self.repetition_penalty = repetition_penalty
        self.reward_branching = reward_branching
        self.max_tokens = max_tokens
        self.batch_size = batch_size
        check_count(self, "max_len", "max_tokens", "batch_size", error=ScorerError)
        self.full_relevance = R3.RELEVANCE_SCALE if full_relevance is None else full_relevance
        if not 0.0 < self.full_relevance < float("inf"):
            raise ScorerError(
                f"full_relevance must be a number above 0, got {full_relevance!r}; R3 has "
                f"{R3.RELEVANCE_SCALE}"
            )
        self.policy_tokenizer: PreTrainedTokenizerBase | None = None
        self._name = name
        self._pooled: dict[str, R3.FloatArray] = {}
        self._limit = min(max_tokens, longest_input(encoder) or max_tokens)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        max_len: int = 512,
        full_relevance: float | None = None,
        batch_size: int = 64,
        device: str = "auto",
        dtype: str = "float32",
    ) -> "Relevance":
        """Return the scorer over the encoder stored in a folder or under a hub name.

        It reads 512 tokens of a text, or as many as files of Sentence Transformers beside it say.

        Args:
            path: Folder or hub name of an encoder, with its tokenizer.
            max_len: As for the class.
            full_relevance: As for the class.
            batch_size: As for the class.
            device: "auto" takes a GPU if there is one.
            dtype: Type of the weights: "float32", "bfloat16", "float16" or "auto" (as stored).

        Raises:
            ScorerError: if the folder holds no encoder, or one of another pooling than the mean.
            TokenizerError: if it holds no tokenizer.
        """
        from transformers import AutoModel

        # Retrievers such as Contriever are stored without the pooler that mean pooling never reads.
        encoder = load_pretrained(AutoModel, path, dtype=dtype, device=device, unread=("pooler.",))
        tokenizer = load_tokenizer(path)
        if tokenizer is None:
            raise TokenizerError(f"no tokenizer beside the encoder in {path}; save it there")
        return cls(
            encoder,
            tokenizer,
            max_len=max_len,
            full_relevance=full_relevance,
            max_tokens=min(declared_length(path) or MAX_ENCODER_TOKENS, MAX_ENCODER_TOKENS),
            batch_size=batch_size,
            name=f"Relevance({Path(path).name})",
        )

    def oov_fraction(self, episodes: Sequence[Episode]) -> NDArray[np.float64]:
        """Return the share of each text that its tokenizer has no tokens for, (batch,)."""
        return unknown_share(self.tokenizer, [f"{e.prompt} {e.response}" for e in episodes])

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> "Relevance":
        """Return a scorer that maps its token attributions to this tokenizer's tokens."""
        bound = copy.copy(self)
        bound.policy_tokenizer = tokenizer
        return bound

    def with_components(self, **components: bool) -> "Relevance":
        """Return a scorer over the same encoder with components of R3 left out or put back.

        Args:
            components: Whether ``length_incentive``, ``repetition_penalty`` and
                ``reward_branching`` count, as for the class; those not named stay as they are.

        Raises:
            ScorerError: if one is unknown, or neither True nor False.
        """
        changed = copy.copy(self)
        for name, counts in components.items():
            if name not in R3.COMPONENTS or not isinstance(counts, bool):
                raise ScorerError(
                    f"{name} must be true or false and one of {', '.join(R3.COMPONENTS)}, "
                    f"got {counts!r}"
                )
            setattr(changed, name, counts)
        return changed

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return R3 of each episode with its four parts, and each token's exact part if asked.

        Args:
            episodes: Episodes to score.
            attribution: "relevance" for each response token's signed part of the score; None for
                none.

        Raises:
            ScorerError: if a constrained query has no reference, or attributions are asked for
                before `bind`.
        """
        self.check_attribution(attribution)
        constrained = [self.reward_branching and e.query_type == "CONSTRAINED" for e in episodes]
        for episode, is_constrained in zip(episodes, constrained, strict=True):
            if is_constrained and not episode.reference:
                raise ScorerError(
                    f"the constrained prompt {episode.prompt!r} has no reference answer; pass "
                    "reference_column=, or annotate it OPENENDED"
                )
        if attribution is not None and self.policy_tokenizer is None:
            raise ScorerError(
                f"scorer {self.name!r} needs the policy's tokenizer to say which response token a "
                "part of the score belongs to; call bind(tokenizer)"
            )
        queries = [_query(episode) for episode in episodes]
        references = [episode.reference or "" for episode in episodes]
        pooled = self._means(dict.fromkeys([*queries, *references]))
        responses = list(dict.fromkeys(episode.response for episode in episodes))
        encoded = dict(zip(responses, self.encode(responses), strict=True))
        parts = np.zeros((len(PARTS), len(episodes)))
        values, attributions = np.zeros(len(episodes)), []
        for row, episode in enumerate(episodes):
            hidden, spans = encoded[episode.response]
            # (tokens,) of the encoder each; their sums are r_x and r_y.
            by_query = R3.relevance_shares(pooled[queries[row]], hidden)
            by_reference = R3.relevance_shares(pooled[references[row]], hidden)
            text = R3.cut_at_turn(episode.response)
            incentive, penalty = R3.length_incentive(text), R3.repetition_penalty(text)
            shares = by_reference if constrained[row] else by_query
            shares = shares * R3.r3_factor(
                incentive if self.length_incentive else 1.0,
                penalty if self.repetition_penalty else 1.0,
                max_len=self.max_len,
                constrained=constrained[row],
                full_relevance=self.full_relevance,
            )
            values[row] = shares.sum()
            if attribution is not None:
                attributions.append(spread_by_overlap(shares, spans, self._targets(episode)))
            parts[:, row] = by_query.sum(), by_reference.sum(), incentive, penalty
        return Scores(
            values=values,
            parts=dict(zip(PARTS, parts, strict=True)),
            attributions=attributions if attribution is not None else None,
            additive=True,
        )

    def _targets(self, episode: Episode) -> list[Span]:
        """Return which characters of the response each of its tokens stands for.

        A text that was given may begin with white space that its decoded tokens lack.
        """
        assert self.policy_tokenizer is not None
        added, spans = continued_spans(self.policy_tokenizer, [], episode.response_ids)
        more = _indent(episode.response) - _indent(added)
        return [(max(start + more, 0), max(stop + more, 0)) for start, stop in spans]

    def _means(self, texts: Mapping[str, object]) -> dict[str, R3.FloatArray]:
        """Return M of queries and references, which is remembered.

        New ones are read alone: the shape of a batch decides the last bits of what is in it, and
        those would stay for every run of the process that meets the text again.
        """
        means = {text: self._pooled[text] for text in texts if text in self._pooled}
        unknown = [text for text in texts if text not in means]
        for text, read in zip(unknown, self._encode(unknown, batch_size=1), strict=True):
            means[text] = R3.mean_pool(read.hidden)
        self._pooled.update(means)
        while len(self._pooled) > REMEMBERED:  # the oldest make room
            del self._pooled[next(iter(self._pooled))]
        return means

    def encode(self, texts: Sequence[str]) -> list[EncodedText]:
        """Return the encoder's hidden states of each text, left-truncated to ``max_tokens``.

        Args:
            texts: Any texts; one without a character of its own has no tokens, so that it is
                relevant to nothing: special tokens alone would be.
        """
        return self._encode(texts, batch_size=self.batch_size)

    def _encode(self, texts: Sequence[str], *, batch_size: int) -> list[EncodedText]:
        """Return what `encode` returns, read in batches of at most so many."""
        tokens = tokenize(
            self.tokenizer,
            [content(text) for text in texts],
            add_special_tokens=True,
            max_length=self._limit,
            spans=True,
        )
        is_read = [any(stop > start for start, stop in text.spans) for text in tokens]
        tokens = [text if has else NOTHING for text, has in zip(tokens, is_read, strict=True)]
        sequences = [text.ids for text in tokens]
        width = int(self.encoder.config.get_text_config().hidden_size)
        hidden = [np.zeros((0, width)) for _ in texts]
        pad_id = self.tokenizer.pad_token_id or 0
        forward = reading(self.encoder, sequences, batch_size=batch_size, pad_id=pad_id)
        with forward as batches:
            for batch in batches:
                states = self.encoder(**batch.tensors).last_hidden_state
                rows = states.float().cpu().numpy().astype(np.float64)
                for batch_row, index in enumerate(batch.indices):
                    hidden[index] = rows[batch_row, : len(sequences[index])]
        return [EncodedText(h, text.spans) for h, text in zip(hidden, tokens, strict=True)]


def _indent(text: str) -> int:
    """Return the characters of white space that a text begins with."""
    return len(text) - len(text.lstrip())


def _query(episode: Episode) -> str:
    """Return what the user asked: in messages where they are known, else in the prompt's text.

    A message that frames the prompt (``prompt_format``) is for the policy: scorers read the prompt.
    """
    asked = [str(m["content"]) for m in episode.messages if m["role"] == "user"]
    is_framed = len(episode.messages) == 1 and episode.prompt != "".join(asked)
    if not asked or (is_framed and episode.prompt and episode.prompt in asked[0]):
        return R3.strip_query(episode.prompt)
    return R3.query_of_turns(asked)


register_scorer("relevance", loaded_once(Relevance.from_pretrained))
