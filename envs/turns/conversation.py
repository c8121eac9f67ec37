"""The rules of conversations: when a turn is over, who is asked, and what is appended.

A reply is appended as plain text, or as the tokenizer's chat template writes it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from math import isfinite
from operator import index
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from tokengym.base.chat import NO_CHAT, Chat
from tokengym.base.errors import PartnerError, PromptError, TokenizerError, is_fault
from tokengym.base.prompt import PromptSet
from tokengym.base.text import lone_surrogate
from tokengym.base.waiting import TookTooLongError, call_within
from tokengym.envs.prompts.contents import (
    MarkedText,
    content,
    control_tokens,
    free_area,
    starts_with,
)
from tokengym.envs.prompts.conversation import drops_thoughts, template_end, write_chat
from tokengym.envs.prompts.tokenization import encode_contents, encode_next
from tokengym.envs.prompts.vocabulary import Vocabulary
from tokengym.envs.turns.partner import (
    POLICY,
    Reply,
    Turn,
    answers_many,
    as_partner,
    name_of,
    written_mask,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokengym.envs.prompts.table import EncodedPrompt
    from tokengym.envs.settings import GenerationSettings

T = TypeVar("T")
_LOG = logging.getLogger(__name__)

_ASKED, _SAID = "u", "a"


class _BadReply(Exception):
    """A partner's answer that cannot be used; the message continues the partner's name."""


@dataclass
class RowConversation:
    """One row's conversation so far."""

    seed: int = 0
    """Seed of the row."""
    episode: int = 0
    """Number of the row's episode since it was seeded: with the seed and the turn it seeds the
    partner's generator, so that prompts are drawn as if there were no partner."""
    turns: list[Turn] = field(default_factory=list)
    """The turns that are over, and the replies to them."""
    start: int = 0
    """Tokens after the prompt before the turn that is being written, or was written last."""

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> RowConversation:
        """Return the conversation of an environment's saved state."""
        turns = [
            Turn(role, text, (index(a), index(b)), score)
            for role, text, (a, b), score in state["turns"]
        ]
        seed, number = index(state["partner_seed"]), index(state["episode"])
        if min(seed, number) < 0 or not all(isinstance(x, str) for t in turns for x in t[:2]):
            raise ValueError(f"turns {turns} of episode {number} with partner_seed {seed}")
        return cls(seed, number, turns, turn_start(turns))

    def as_state(self) -> dict[str, Any]:
        """Return the conversation as plain data: entries of the environment's saved state."""
        turns = [[turn.role, turn.text, list(turn.span), turn.score] for turn in self.turns]
        return {"turns": turns, "episode": self.episode, "partner_seed": self.seed}

    def next(
        self, seed: int | None = None, *, restart: bool = False, turns: Sequence[Turn] = ()
    ) -> RowConversation:
        """Return the conversation of the row's next episode, the first if it was just seeded."""
        number = 0 if restart else self.episode + 1
        return RowConversation(max(seed or 0, 0), number, list(turns), turn_start(turns))

    def written(self, size: int) -> NDArray[np.int8]:
        """Return which tokens the policy wrote, (size,), the turn being written included."""
        written = written_mask(self.turns, size)
        written[self.start :] = 1
        return written


def turn_start(turns: Sequence[Turn]) -> int:
    """Return the tokens after the prompt before the turn that follows these."""
    replies = [turn.span for turn in turns if turn.role != POLICY]
    return max((stop for begin, stop in replies if stop > begin), default=0)


class TurnEnd(NamedTuple):
    """A turn of the policy that is over."""

    row: int
    """Row of the batch, for messages."""
    conversation: RowConversation
    prompt: EncodedPrompt
    ids: Sequence[int]
    """All tokens after the prompt."""
    text: str
    """Text of the turn."""
    reason: str
    """Reason of its end: "eos", "stop" or "length"."""


class Answer(NamedTuple):
    """Continuation after a turn."""

    reason: str | None
    """Reason of the episode's end; None if it continues."""
    appended: tuple[int, ...] = ()
    """Tokens of the reply, where the episode continues."""
    out_of_room: bool = False
    """Whether the episode ends for want of room, the horizon's."""


class TurnRules:
    """Immutable rules of an environment's conversations."""

    def __init__(
        self,
        settings: GenerationSettings,
        tokenizer: PreTrainedTokenizerBase,
        prompts: PromptSet,
    ) -> None:
        self.partner = as_partner(settings.partner)
        self.settings = settings
        self.turn_budget = min(
            settings.max_turn_tokens or settings.max_new_tokens, settings.max_new_tokens
        )
        chats = prompts.num_conversations
        if 0 < chats < len(prompts) and not settings.chat_template:
            raise PromptError(
                f"{chats} of {len(prompts)} prompts are conversations and the others plain texts, "
                "so a reply has no one form; pass chat_template=True"
            )
        chat = bool(settings.chat_template or chats)
        self._format = ReplyFormat(
            tokenizer, self.partner.role, chat=chat, opening=prompts[0].messages
        )

    def answer(self, ends: Sequence[TurnEnd]) -> list[Answer]:
        """Ask the partner about turns that are over, and record them and its replies."""
        conversations = [self._messages(end) for end in ends]
        columns = [end.prompt.metadata for end in ends]
        rngs = []  # the partner's generators of these turns
        for talk in (end.conversation for end in ends):
            rngs.append(np.random.default_rng((talk.seed, talk.episode, len(talk.turns))))
        replies: Sequence[Reply | Exception]  # to each turn, or what went wrong
        if answers_many(self.partner):
            outcome = self._tried(
                lambda: list(self.partner.replies(conversations, columns, rngs)), answers=len(ends)
            )
            if not isinstance(outcome, Exception) and len(outcome) != len(ends):
                outcome = _BadReply(f"gave {len(outcome)} replies to {len(ends)} conversations")
            replies = [outcome] * len(ends) if isinstance(outcome, Exception) else outcome
        else:
            replies = [
                self._tried(partial(self.partner.reply, *arguments))
                for arguments in zip(conversations, columns, rngs, strict=True)
            ]
        return [self._follow(end, reply) for end, reply in zip(ends, replies, strict=True)]

    def _messages(self, end: TurnEnd) -> list[dict[str, Any]]:
        opening = end.prompt.messages or [{"role": "user", "content": end.prompt.text}]
        texts = [(turn.role, turn.text) for turn in end.conversation.turns]
        later = [{"role": role, "content": text} for role, text in (*texts, (POLICY, end.text))]
        return [*opening, *later]

    def _tried(self, call: Callable[[], T], answers: int = 1) -> T | Exception:
        """Return what a call of the partner returns, or what went wrong, ``sys.exit`` included.

        A call for several answers has the time of all of them: a batch loses no episode that an
        environment of its own would play.
        """
        seconds = self.settings.partner_timeout
        try:
            return call_within(call, seconds and seconds * answers, "partner")
        except TookTooLongError:
            each = f" for each of {answers} conversations" if answers > 1 else ""
            return _BadReply(f"gave no reply within partner_timeout={seconds:g} s{each}")
        except BaseException as error:
            if not is_fault(error):
                raise  # the user's own interrupt
            if isinstance(error, Exception):
                return error
            return _BadReply(f"raised {type(error).__name__}: {error}")

    def _follow(self, end: TurnEnd, reply: Reply | Exception) -> Answer:
        """Record a turn and the reply to it, and return what follows."""
        talk, size = end.conversation, len(end.ids)
        span = (talk.start, size)
        try:
            ended = end.reason == "eos" and end.ids[-1] not in self._format.ordinary_ids
            checked, ids = self._checked(reply, end.prompt.messages, ended=ended)
        except Exception as error:
            if self.settings.on_partner_error == "raise":
                turn = 1 + sum(turn.role == POLICY for turn in talk.turns)
                fault = (str(error).splitlines() or [""])[0]
                if not isinstance(error, _BadReply):
                    fault = f"raised {type(error).__name__}: {fault}"
                raise PartnerError(
                    f"partner {name_of(self.partner)!r} {fault} (row {end.row}, turn {turn}); "
                    "correct it, or pass on_partner_error='skip' to lose the episode only"
                ) from error
            talk.turns.append(Turn(POLICY, end.text, span))
            return Answer("error")
        talk.turns.append(Turn(POLICY, end.text, span, checked.score))
        spoken = sum(turn.role == POLICY for turn in talk.turns)
        over = checked.done or spoken >= self.settings.max_turns
        full = size + len(ids) >= self.settings.max_new_tokens
        appended = () if over or full else ids
        if checked.text:
            span = (size, size + len(appended))
            talk.turns.append(Turn(self.partner.role, checked.text, span))
        if not appended:
            # Of a turn that its own limit cut, the conversation could have continued.
            is_cut = end.reason == "length" and size >= self.settings.max_new_tokens
            return Answer(end.reason if over else "length", out_of_room=is_cut or not over)
        talk.start = size + len(appended)
        return Answer(None, appended)

    def _checked(self, reply: Any, opening: Chat, *, ended: bool) -> tuple[Reply, tuple[int, ...]]:
        """Return a reply and its tokens, refusing what cannot be appended."""
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, str):
            reply = Reply(reply)
        if not isinstance(reply, Reply) or not isinstance(reply.text, str):
            raise _BadReply(f"must return Reply(text, score=None, done=False), got {reply!r:.80}")
        if reply.score is not None:
            score = float(reply.score)
            if not isfinite(score):
                raise _BadReply(f"gave the score {score}; it must be finite, or None")
            reply = Reply(reply.text, score, bool(reply.done))
        if (position := lone_surrogate(reply.text)) is not None:
            raise _BadReply(f"gave a text with a lone surrogate at character {position}")
        if reply.done:
            return reply, ()
        text = reply.text.strip()
        ids = self._format.encode(reply.text, opening, ended=ended) if text else ()
        if not ids:
            raise _BadReply(f"gave no text, got {reply.text!r}; Reply('', done=True) ends the talk")
        if len(ids) > (limit := self.settings.max_reply_tokens):
            raise _BadReply(
                f"gave {len(ids)} tokens, more than max_reply_tokens={limit}: {reply.text!r:.60}"
            )
        return reply, ids


# --- the form of a reply --------------------------------------------------------------------------


class ReplyFormat:
    """Encodes replies so that they follow what was sampled, which is never encoded again.

    In a chat template, the tokens of a reply are what the template writes behind an answer that is
    replied to: the end of the turn (unless the policy wrote it), the reply, and the beginning of
    the next turn. How the template would write the answers before it does not matter.

    Args:
        tokenizer: Tokenizer of the policy.
        role: Role of the replies.
        chat: Whether replies are written in the chat template.
        opening: A conversation that is continued, whose tools and arguments of the template are
            tried.

    Raises:
        TokenizerError: if the template refuses a reply, or writes one in several ways.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        role: str,
        *,
        chat: bool,
        opening: Chat = NO_CHAT,
    ) -> None:
        self._tokenizer = tokenizer
        self._role = role
        self._chat = chat
        self.ordinary_ids = Vocabulary.of(tokenizer).ordinary_ids
        """Ends behind which the template's own follows."""
        (self._said,) = encode_contents(tokenizer, [_SAID])
        self._end = ""
        """The template's end of an answer, in whose place is the policy's where it wrote one."""
        if chat:
            self._end = self._checked_end(opening)
            if drops_thoughts(tokenizer, opening, role):
                _say_dropped(type(tokenizer).__name__, str(tokenizer.chat_template))

    def encode(self, text: str, opening: Chat = NO_CHAT, *, ended: bool) -> tuple[int, ...]:
        """Return the tokens of a reply; ``ended`` if the policy's turn has the template's end.

        The arguments of the template that the conversation's prompt has hold for all its turns.
        """
        after = content(text)
        if self._chat:
            after = self._behind(chr(free_area([text])), [text], opening)
            if ended and starts_with(after, self._end):
                after = after[len(self._end) :]
        return tuple(encode_next(self._tokenizer, [after], [self._said])[0])

    def _behind(self, answer: str, replies: Sequence[str], opening: Chat) -> MarkedText:
        """Return what the template writes behind the last answer when a reply follows each.

        The answer ends in a letter that is nowhere else, by which its end is found.
        """
        talk = [{"role": "user", "content": _ASKED}]
        for reply in replies:
            talk.append({"role": POLICY, "content": answer})
            talk.append({"role": self._role, "content": reply})
        whole = write_chat(self._tokenizer, Chat(talk, **opening.beside), to_answer=True)
        place = whole.rfind(answer[-1])
        if place < 0:
            raise self._unfit(f"it writes no answer before a reply, but {str(whole)!r:.200}")
        return whole[place + 1 :]

    def _checked_end(self, opening: Chat) -> str:
        """Return the end that the template writes behind an answer, "" for none of its own.

        What follows an answer must be the same whether it has thoughts, and in every turn.
        """
        answer, reply = chr(free_area([])), chr(free_area([]) + 1)
        bare = self._behind(answer, [reply], opening)
        for said, replies in ((f"<think>\nb\n</think>\n\n{answer}", 1), (answer, 2)):
            other = self._behind(said, [reply] * replies, opening)
            if other != bare:
                raise self._unfit(f"behind an answer it writes {bare!r:.100} or {other!r:.100}")
        lead, silent = str(bare).partition(reply)[0], Vocabulary.of(self._tokenizer).silent_ids
        ends = list(map(str, self._tokenizer.convert_ids_to_tokens(list(silent))))
        places = [lead.find(end) + len(end) for end in ends if end in lead]
        if not places and template_end(self._tokenizer) in silent:
            # It ends the last answer so, and those before it by another token.
            controls = control_tokens(self._tokenizer).ids
            places = [len(token) for token in controls if lead.startswith(token)]
        return lead[: min(places, default=0)]

    def _unfit(self, why: str) -> TokenizerError:
        return TokenizerError(
            f"the tokenizer's chat template has no one form of a reply: {why}; set "
            "tokenizer.chat_template to one that has"
        )


@cache
def _say_dropped(name: str, template: str) -> None:
    """Log, once for a template, what becomes of thoughts that it leaves out of earlier turns."""
    del template
    _LOG.warning(
        "the chat template of the %s leaves thoughts out of earlier answers, but a conversation "
        "continues from the tokens that were sampled: the policy reads the thoughts of all its "
        "turns, and its log-probabilities and ratios are of that text, in sampling and in learning "
        "alike; a program that applies the template to the messages shows it a shorter one",
        name,
    )
