"""Tokens of one tokenizer on those of another, by character offsets."""

import reprlib
from collections.abc import Sequence
from contextlib import suppress
from difflib import SequenceMatcher
from itertools import accumulate, groupby, pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokengym.base.chat import Chat
from tokengym.base.errors import TokenizerError
from tokengym.envs.episode import Episode
from tokengym.envs.prompts.contents import Span, content, ends_with, free_area, joined, starts_with
from tokengym.envs.prompts.conversation import ANSWERS, missing_end, write_chat
from tokengym.envs.prompts.tokenization import Tokens, growth, tokenize
from tokengym.envs.prompts.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Form = Literal["text", "pair", "chat"]
"""Input format of an episode: prompt and response as one text, as two texts with the tokenizer's
separator, or as a conversation in the tokenizer's chat template."""


def continued_spans(
    tokenizer: "PreTrainedTokenizerBase", prefix: Sequence[int], ids: Sequence[int]
) -> tuple[str, list[Span]]:
    """Return the text that ids add behind a prefix, and which of its characters each one added.

    Behind a prefix the first word keeps its space; decoded alone it may lose it. A token that only
    begins a character (byte-level vocabularies) gets an empty span; the one that completes it gets
    the character. Special tokens are left out of the text, as in episodes.

    Args:
        tokenizer: What decodes the ids.
        prefix: The prompt's tokens.
        ids: The response's tokens.

    Returns:
        The added text, and one span of it per token of ``ids``, in order, without gaps, ending at
        the text's end.
    """
    start, whole, parts = growth(tokenizer, [*prefix, *ids], given=len(prefix))
    # Unfinished characters are replaced later: they do not count yet.
    lengths = [len(start), *(place + len(text) for place, text in parts)]
    lengths = [min(length, len(whole)) for length in lengths]
    lengths[-1] = len(whole) if parts else lengths[-1]
    # The running maximum: a text may get shorter for a moment while a character is unfinished.
    ends = [length - lengths[0] for length in accumulate(lengths, max)]
    return whole[lengths[0] : lengths[0] + ends[-1]], list(pairwise(ends))


def spread_by_overlap(
    parts: ArrayLike, sources: Sequence[Span], targets: Sequence[Span]
) -> NDArray[np.float64]:
    """Return the parts of source tokens on the target tokens of the same text; the sum is kept.

    out_t = sum_s share_s * overlap(s, t) / sum_u overlap(s, u)

    A source that overlaps nothing (a special token of the encoder, a space that the other
    tokenizer drops) is split evenly over all targets.

    Args:
        parts: (len(sources),) signed.
        sources: Spans of the tokens that have parts.
        targets: Spans of the tokens that get them, at least one.

    Returns:
        (len(targets),), sums to ``parts.sum()``.

    Example:
        >>> spread_by_overlap([3.0, 1.0], [(0, 6), (6, 7)], [(0, 2), (2, 7)])
        array([1., 3.])
    """
    parts = np.asarray(parts, dtype=np.float64)
    if parts.shape != (len(sources),) or not targets:
        raise ValueError(
            f"parts must have shape ({len(sources)},), one per source, and need a target; "
            f"got {parts.shape} and {len(targets)} targets"
        )
    if not len(sources):
        return np.zeros(len(targets))
    source, target = np.asarray(sources), np.asarray(targets)
    first = np.maximum(source[:, None, 0], target[None, :, 0])
    last = np.minimum(source[:, None, 1], target[None, :, 1])
    overlap = np.maximum(last - first, 0).astype(np.float64)  # (sources, targets)
    overlap[overlap.sum(axis=1) == 0] = 1.0  # a source without a place: over all targets alike
    return parts @ (overlap / overlap.sum(axis=1, keepdims=True))


class Retokenized(NamedTuple):
    """One episode in another tokenizer's ids, and how its response's tokens lie on the policy's."""

    ids: list[int]
    """Prompt and response."""
    sources: list[Span]
    """Characters of the response under each of its tokens here; the closing EOS has none."""
    targets: list[Span]
    """Characters of the response under each of the policy's tokens."""
    closed: bool
    """Whether the id after the response's text is an EOS that stands for the policy's."""
    after: int = 0
    """Further ids at the end: a separator, or the end of a chat's turn."""

    @classmethod
    def as_sampled(cls, episode: Episode) -> "Retokenized":
        """Return an episode in the policy's own tokens."""
        spans = [(n, n + 1) for n in range(len(episode.response_ids))]
        return cls([*episode.prompt_ids, *episode.response_ids], spans, spans, False)

    @property
    def size(self) -> int:
        """Number of the ids that belong to the response."""
        return len(self.sources) + self.closed

    def spread(self, parts: ArrayLike) -> NDArray[np.float64]:
        """Return parts of the response's tokens here on the policy's tokens; the sum is kept.

        Args:
            parts: (size,), or (size + after,): the ids at the end then count for EOS, and for all
                tokens alike where there is none.
        """
        parts = np.asarray(parts, dtype=np.float64)
        inner, rest = parts[: len(self.sources)], parts[len(self.sources) :]
        spread = spread_by_overlap(inner, self.sources, self.targets)
        if self.closed:
            spread[-1] += rest.sum()  # EOS is EOS
        elif len(rest):
            spread += rest.sum() / len(spread)
        return spread


class Retokenizer:
    """Writes the text of an episode in a model's own tokens.

    The text is the prompt as written and what the response's ids add to it when they are decoded
    behind the prompt's; it is tokenised as one, with the special tokens that the model's tokenizer
    puts in front. An EOS that ends the response is the model's EOS too, if it has one.

    A conversation is the messages that the policy read and the response as the assistant's, turn by
    turn where a partner replied, in the template of the model's tokenizer; a pair is prompt and
    response with the special tokens of two texts.

    Args:
        policy: What made the ids.
        model: The model's tokenizer, a fast one.
        form: How the model reads an episode; None reads a conversation as one where the model has a
            chat template, and all else as one text.
        adds_end: Whether an answer that ended has EOS behind what the chat template writes, if that
            has no end of its own, as `train_reward_model` has it.
        keeps_end: Whether a text keeps the special tokens that the tokenizer puts at its end, as
            bidirectional models are used to.
    """

    def __init__(
        self,
        policy: "PreTrainedTokenizerBase",
        model: "PreTrainedTokenizerBase",
        *,
        form: Form | None = "text",
        adds_end: bool = False,
        keeps_end: bool = False,
    ) -> None:
        if not model.is_fast:
            raise TokenizerError(
                f"{type(model).__name__} gives no character offsets, so credit cannot travel from "
                "it to the policy's tokens; load the fast tokenizer"
            )
        if form == "chat" and not getattr(model, "chat_template", None):
            raise TokenizerError(
                f"the model's {type(model).__name__} has no chat template, which form='chat' "
                "needs; take form='text' or 'pair'"
            )
        self.policy = policy
        self.end_ids = Vocabulary.of(policy).end_ids
        self.model = model
        self.form = form
        self.keeps_end = keeps_end
        self.end: list[int] = missing_end(model) if adds_end and not keeps_end else []

    def __call__(self, episodes: Sequence[Episode]) -> list[Retokenized]:
        """Return the episodes in the model's tokens."""
        return [self._read(episode) for episode in episodes]

    def _read(self, episode: Episode) -> Retokenized:
        response_ids = episode.response_ids
        added, targets = continued_spans(self.policy, episode.prompt_ids, response_ids)
        is_talk = self.form is None and episode.messages and self.model.chat_template
        if self.form == "chat" or is_talk:
            return self._read_chat(episode, added, targets)
        if self.form == "pair" or self.keeps_end:
            return self._read_with_end(episode, added, targets)
        start, text = len(episode.prompt), joined(episode.prompt, content(added))
        bos, eos = self.model.bos_token, self.model.eos_token
        # Neither a second BOS nor the EOS that some tokenizers put behind every text.
        ids, offsets, _ = self._encode(text, add_special_tokens=not starts_with(text, bos))
        if ids and ids[-1] == self.model.eos_token_id and not ends_with(text, eos):
            ids, offsets = ids[:-1], offsets[:-1]
        # The first token that reaches into the response may begin in the prompt.
        first = next((i for i, (_, end) in enumerate(offsets) if end > start), len(ids))
        sources = [(max(a - start, 0), max(b - start, 0)) for a, b in offsets[first:]]
        closed = self._has_ended(episode) and self.model.eos_token_id is not None
        if closed:
            ids = [*ids, int(self.model.eos_token_id)]
        return Retokenized(ids, sources, targets, closed)

    def _has_ended(self, episode: Episode) -> bool:
        return bool(episode.response_ids) and episode.response_ids[-1] in self.end_ids

    def _read_with_end(self, episode: Episode, added: str, targets: list[Span]) -> Retokenized:
        """Return an episode whose form puts further tokens behind the response."""
        texts: list[str] = [joined(episode.prompt, content(added))]
        start = len(episode.prompt)
        if self.form == "pair":
            texts, start = [episode.prompt, content(added)], 0
        tokens = self._encode(*texts, add_special_tokens=True)
        return self._placed(tokens, len(texts) - 1, [(start, 0, len(added.rstrip()))], targets)

    def _read_chat(self, episode: Episode, added: str, targets: list[Span]) -> Retokenized:
        """Return an episode in the chat template, which writes the special tokens itself."""
        # Two turns without the reply between them are one message: some templates refuse two.
        said = groupby(episode.turns, key=lambda turn: turn.role)
        turns = [(role, "\n".join(turn.text.strip() for turn in row)) for role, row in said]
        turns = turns or [(ANSWERS, added)]
        chat = episode.chat.then([{"role": r, "content": text.strip()} for r, text in turns])
        whole = write_chat(self.model, chat, to_answer=False)
        places = self._places(chat, len(episode.chat), whole, added)
        row = self._placed(self._encode(whole, add_special_tokens=False), 0, places, targets)
        ended = self._has_ended(episode)
        further = self.end if ended else []
        after = row.after + len(further)
        closed = ended and after > 0
        return row._replace(ids=[*row.ids, *further], closed=closed, after=after - closed)

    def _places(self, chat: Chat, start: int, whole: str, added: str) -> list[tuple[int, int, int]]:
        """Return where a conversation written whole has what the response says; see `_placed`.

        The places are those of letters in the stead of the messages from ``start`` on, or, where
        the template does not write them as they are, of the characters that it keeps.
        """
        contents = [message["content"] for message in chat[start:]]
        letters = [chr(free_area([whole]) + n) for n in range(len(contents))]
        stead = [{**m, "content": x} for m, x in zip(chat[start:], letters, strict=True)]
        frame, lettered = "", Chat([*chat[:start], *stead], **chat.beside)
        with suppress(TokenizerError):
            frame = str(write_chat(self.model, lettered, to_answer=False))
        places, written, end = list[tuple[int, int, int]](), frame, 0
        for letter, text in zip(letters, contents, strict=True):
            place, before = written.find(letter), max(added.find(text, end), 0)
            written = written.replace(letter, text)
            places.append((place, before, len(text)))
            end = before + len(text)
        if written == whole:
            return places
        blocks = SequenceMatcher(None, whole, added, autojunk=False).get_matching_blocks()
        if 2 * sum(block.size for block in blocks) < len(added.strip()):
            raise TokenizerError(
                f"the chat template of the model's {type(self.model).__name__} changes the "
                f"response {reprlib.repr(added)}; take form='text' or 'pair'"
            )
        return [(block.a, block.b, block.size) for block in blocks]

    def _placed(
        self, tokens: Tokens, part: int, places: Sequence[tuple[int, int, int]], targets: list[Span]
    ) -> Retokenized:
        """Return tokens with the characters of the response under each.

        Args:
            tokens: A text, or pair of texts.
            part: Which of the texts has the response.
            places: (place in the text, place in the response, characters) of what was said.
            targets: Characters of the response under each of the policy's tokens.
        """
        ids, offsets, parts = tokens

        def said(index: int) -> Span | None:
            a, b = offsets[index]
            for start, place, size in places:
                if parts[index] == part and a < min(b, start + size) and b > start:
                    return max(a - start, 0) + place, max(b - start, 0) + place
            return None

        spans = [said(index) for index in range(len(ids))]
        inside = [index for index, span in enumerate(spans) if span is not None]
        first, past = (inside[0], inside[-1] + 1) if inside else (len(ids), len(ids))
        sources = [span or (0, 0) for span in spans[first:past]]
        return Retokenized(ids, sources, targets, False, len(ids) - past)

    def _encode(self, *texts: str, add_special_tokens: bool) -> Tokens:
        """Return a text, or a pair of texts, as ids with their offsets."""
        first, second = texts[:1], [*texts[1:]] or None
        return tokenize(
            self.model, first, second, add_special_tokens=add_special_tokens, spans=True
        )[0]
