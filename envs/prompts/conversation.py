"""Conversations as text and ids: the one place where a tokenizer's chat template is applied.

Environments, DPO, SFT, the training of judges and scorers write conversations here. What messages,
tools and documents say is content, of which no character becomes a control token; but where a
template looks into an answer for control tokens (thoughts between ``<think>`` and ``</think>``), it
finds them.
"""

from __future__ import annotations

import inspect
import json
import logging
import re
import reprlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache, partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from tokengym.base.chat import Chat, Messages
from tokengym.base.errors import PromptError, TokenizerError, reason_of
from tokengym.base.waiting import call_within
from tokengym.envs.prompts.contents import (
    ControlTokens,
    MarkedText,
    cipher,
    content,
    control_tokens,
    free_area,
    joined,
)
from tokengym.envs.prompts.tokenization import encode_next, tokenize
from tokengym.envs.prompts.vocabulary import TEMPLATE_DATE, Vocabulary, asks_for_date

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

MAX_TEMPLATE_CHARACTERS = 10_000_000
"""Longest conversation that a chat template may write."""
DEFAULT_DATE = "2026-01-01"
"""Date of templates that ask for today's, where a tokenizer has none of its own."""
TEMPLATE_S = 20.0
"""Longest that a chat template may take for one conversation, seconds."""
ANSWERS = "assistant"
"""Role of the messages that a policy writes."""
ROLES = ("system", "developer", "user", ANSWERS, "tool", "ipython")
"""Roles that templates know, which are no contents even where a special token has such a name."""


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer without a chat template."""
    if not getattr(tokenizer, "chat_template", None):
        raise TokenizerError(
            f"{type(tokenizer).__name__} has no chat template, which messages and "
            "chat_template=True need; set tokenizer.chat_template, or pass plain texts"
        )


def write_chat(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, *, to_answer: bool
) -> MarkedText:
    """Return a conversation in the tokenizer's chat template.

    Where contents are written like control tokens, the places are marked as contents, unless the
    template looks for them in answers: a token by which it tells thoughts from what is said, or
    without which it would write this conversation in another way.

    Args:
        tokenizer: Tokenizer with a chat template.
        messages: The conversation, oldest message first; a `Chat` has tools, documents and
            arguments of the template too. What the template does not write of them is logged.
        to_answer: End with the beginning of the assistant's reply.

    Raises:
        PromptError: if its arguments are not the template's own.
        TokenizerError: if the template refuses the conversation, writes more than
            `MAX_TEMPLATE_CHARACTERS`, or takes longer than `TEMPLATE_S`.
    """
    chat = messages if isinstance(messages, Chat) else Chat(messages)
    _check_arguments(tokenizer, chat.beside.get("chat_template_kwargs", {}))
    talk, beside, control = chat.messages, chat.beside, control_tokens(tokenizer)
    answers = [*_strings([message for message in talk if message["role"] == ANSWERS])]
    looked_for = {text for text in control.ids if any(text in answer for answer in answers)}

    def written(left: set[str], talk: list[Any] = talk, to_answer: bool = to_answer) -> MarkedText:
        disguise = Disguise(talk, beside, control, left=left)
        return disguise.lifted(_applied(tokenizer, disguise, to_answer))

    text = written(looked_for)
    if looked_for:
        for token in sorted(looked_for):
            if not _looks_for(tokenizer, str(tokenizer.chat_template), token) and (
                _or_none(written, looked_for - {token}) == text
            ):
                looked_for.discard(token)
        text = written(looked_for)
    for unread in _unread(str(tokenizer.chat_template), talk, beside, text, written, looked_for):
        logger.warning(
            "the chat template of the %s does not write %s, so that the model does not read it; "
            "take a template that does, or leave it out of the data",
            *(type(tokenizer).__name__, unread),
        )
    return text


def _check_arguments(tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of a row that would replace the template, its ends, or how it is applied."""
    parameters = inspect.signature(tokenizer.apply_chat_template).parameters
    own = {*parameters, "messages", "raise_exception", "strftime_now"}
    own |= {*tokenizer.special_tokens_map, *tokenizer.SPECIAL_TOKENS_ATTRIBUTES}
    if taken := sorted(own & arguments.keys()):
        raise PromptError(
            f"chat_template_kwargs of a row has {', '.join(map(repr, taken))}, which a row of data "
            "must not decide; leave it out (tokenizer.chat_template sets the template)"
        )


def _dated(tokenizer: PreTrainedTokenizerBase, tools: Any) -> str | None:
    """Return the chat template with a fixed date where it asks for today's; None where it does not.

    Else a prompt would have other tokens on another day, and no run could be continued.
    """
    if not asks_for_date(tokenizer):
        return None
    told = tokenizer.init_kwargs.get(TEMPLATE_DATE, DEFAULT_DATE)
    if _is_new(str(tokenizer.chat_template), f"the date {told}"):
        logger.warning(
            "the chat template of the %s asks for today's date, and is given %s on any day, so "
            "that runs are the same; template_date= gives another",
            *(type(tokenizer).__name__, told),
        )
    date = datetime.fromisoformat(told)
    values = {f"%{letter}": date.strftime(f"%{letter}") for letter in "aAbBcdHIjmMpSUwWxXyY"}
    values |= {"%-d": f"{date.day}", "%e": f"{date.day:2}", "%-m": f"{date.month}"}
    values |= {"%F": told, "%D": date.strftime("%m/%d/%y"), "%T": "00:00:00", "%Z": "", "%z": ""}
    template = str(tokenizer.get_chat_template(None, tools=tools))
    return _STRFTIME % json.dumps({**values, "%%": "%"}) + template


_STRFTIME = (  # the newline behind it is trimmed
    "{%% macro strftime_now(format) %%}{%% set ns = namespace(text=format) %%}"
    "{%% for name, value in %s.items() %%}{%% set ns.text = ns.text.replace(name, value) %%}"
    "{%% endfor %%}{{ ns.text }}{%% endmacro %%}\n"
)


def _applied(tokenizer: PreTrainedTokenizerBase, disguise: Disguise, to_answer: bool) -> str:
    """Return what the chat template writes."""
    beside = dict(disguise.beside)
    options = {**beside.pop("chat_template_kwargs", {}), **beside}
    try:
        write = partial(
            tokenizer.apply_chat_template,
            disguise.messages,
            chat_template=_dated(tokenizer, beside.get("tools")),
            **options,
            add_generation_prompt=to_answer,
            tokenize=False,
        )
        text: Any = call_within(write, TEMPLATE_S, "template")
        text.encode()  # no lone surrogates
        if len(text) > MAX_TEMPLATE_CHARACTERS:
            raise ValueError(
                f"it writes {len(text):,} characters, more than {MAX_TEMPLATE_CHARACTERS:,}"
            )
    except Exception as error:  # a template is a program: it may raise anything
        raise TokenizerError(
            f"the tokenizer's chat template refuses {reprlib.repr(disguise.messages)} "
            f"({reason_of(error)}); change the messages or the template"
        ) from error
    return str(text)


@lru_cache(maxsize=64)
def _looks_for(tokenizer: PreTrainedTokenizerBase, template: str, token: str) -> bool:
    """Return whether a template treats an answer in another way where it has a control token.

    Of a tag that has an end, both are looked for where one is.
    """
    del template  # the tokenizer's, which may be changed
    control = control_tokens(tokenizer)
    name = re.sub(r"^([<[])/", r"\1", token)
    tags = [tag for tag in (name, f"{name[:1]}/{name[1:]}") if tag in control.ids]
    answer = "a".join(["a", *(tags if token in tags else [token]), "a"])
    talk = [{"role": role, "content": answer} for role in ("user", ANSWERS, "user")]
    for part in (talk, talk[:-1]):
        texts = []
        for left in ((), control.ids):
            disguise = Disguise(part, {}, control, left=left)
            try:
                texts.append(str(disguise.lifted(_applied(tokenizer, disguise, False))))
            except TokenizerError:
                texts.append("")
        if texts[0] != texts[1]:
            return True
    return False


def drops_thoughts(tokenizer: PreTrainedTokenizerBase, opening: Chat, role: str) -> bool:
    """Return whether the template leaves thoughts out of an answer that is replied to.

    They stand in its content between their tags, or beside it where the last answer has them.

    Args:
        tokenizer: Tokenizer with a chat template that writes replies.
        opening: A conversation whose tools, documents and arguments of the template hold.
        role: Role of the reply.
    """
    control, said, thought = control_tokens(tokenizer), "answer", "thought"
    for answer in (
        {"content": f"<think>\n{thought}\n</think>\n\n{said}"},
        {"content": said, "reasoning_content": thought, "thinking": thought},
    ):
        last = [{"role": "user", "content": "question"}, {"role": ANSWERS, **answer}]
        texts = []
        for talk in (last, [*last, {"role": role, "content": "reply"}]):
            disguise = Disguise(talk, opening.beside, control, left=control.ids)
            texts.append(_or_none(_applied, tokenizer, disguise, False))
        is_written = thought in answer["content"] or thought in (texts[0] or "")
        if is_written and texts[1] and thought not in texts[1]:
            return True
    return False


def _or_none(written: Any, *args: Any) -> str | None:
    """Return what a template writes; None where it refuses."""
    try:
        return str(written(*args))
    except TokenizerError:
        return None


_KNOWN: set[tuple[str, str]] = set()
"""Templates, and parts of conversations that each was tried on."""


def _unread(
    template: str,
    talk: list[dict[str, Any]],
    beside: Mapping[str, Any],
    text: str,
    written: Any,
    left: set[str],
) -> Iterator[str]:
    """Yield what a template does not write of a conversation, each once for a template.

    What messages hold is left out to see whether the text changes. Templates may leave thoughts out
    of all turns but the last, so that what changes nothing is tried in the last place too. An entry
    that is false or 0 may change nothing where it is read; it is read where the template names it.
    """
    for name in (*beside, *beside.get("chat_template_kwargs", ())):
        if name != "chat_template_kwargs" and _is_new(template, repr(name)):
            if not _is_named(name, template):
                yield repr(name)
    held = [
        (m["role"], key)
        for m in talk
        for key, value in m.items()
        if key != "role" and (value or (_is_no(value) and not _is_named(key, template)))
    ]
    for role, key in dict.fromkeys(held):
        what = f"messages of the role {role!r}"
        without = [message for message in talk if message["role"] != role]
        if key != "content":
            what = f"{key!r} of {what}"
            without = [{k: v for k, v in m.items() if k != key or m["role"] != role} for m in talk]
        elif role in ("user", ANSWERS):
            continue
        if not _is_new(template, what) or _or_none(written, left, without) != text:
            continue
        if key != "content":
            places = [n for n, m in enumerate(talk) if m["role"] == role and key in m]
            end = 1 + max([n for n in places if talk[n][key]] or places)
            whole, short = (_or_none(written, left, one[:end], False) for one in (talk, without))
            if whole != short:
                continue
        yield what


def _is_named(name: str, template: str) -> bool:
    """Return whether a template has a name in it."""
    return re.search(rf"\b{re.escape(name)}\b", template) is not None


def _is_no(value: Any) -> bool:
    """Return whether an entry of a message says false or 0, and not that there is none."""
    return isinstance(value, bool | int | float) and not value


def _is_new(template: str, what: str) -> bool:
    """Return whether a template was not tried on something yet, and say that it is now."""
    is_new = (template, what) not in _KNOWN
    _KNOWN.add((template, what))
    return is_new


def encode_chats(
    tokenizer: PreTrainedTokenizerBase, chats: Sequence[Messages], *, to_answer: bool = True
) -> list[list[int]]:
    """Return the ids of conversations in the tokenizer's chat template.

    The template writes every special token itself, so none is added; contents write none.

    Args:
        tokenizer: Tokenizer with a chat template.
        chats: Conversations, oldest message first.
        to_answer: End with the beginning of the assistant's reply.

    Raises:
        TokenizerError: if the tokenizer has no template, or the template refuses a conversation.
    """
    check_template(tokenizer)
    texts = [write_chat(tokenizer, chat, to_answer=to_answer) for chat in chats]
    return [tokens.ids for tokens in tokenize(tokenizer, texts)]


def encode_replies(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[tuple[Chat, Sequence[str | Messages]]],
) -> Iterator[tuple[list[int], list[list[int]]]]:
    """Yield the ids of each conversation up to the reply, and of each reply behind it.

    A reply is a text, which stands behind the conversation as a policy's does; or messages, with
    what the template writes around them. Where the template writes the beginning of the answer in
    another way when there is one, the prompt ends where the two part (and the replies of a row have
    one prompt), which is logged once.

    Raises:
        TokenizerError: if the tokenizer has no template, or the template refuses a conversation or
            writes the messages before the reply in another way.
    """
    check_template(tokenizer)
    heads = [write_chat(tokenizer, chat, to_answer=True) for chat, _ in rows]
    wholes = [
        joined(before, content(reply.strip()))
        if isinstance(reply, str)
        else write_chat(tokenizer, chat.then(reply), to_answer=False)
        for before, (chat, replies) in zip(heads, rows, strict=True)
        for reply in replies
    ]
    encoded = zip(wholes, tokenize(tokenizer, wholes), strict=True)
    for before, tokens, (chat, replies) in zip(
        heads, tokenize(tokenizer, heads), rows, strict=True
    ):
        start, responses = tokens.ids, list[list[int]]()
        both = [next(encoded) for _ in replies]
        if not all(whole.startswith(before) for whole, _ in both):
            size = min(_shared(start, ids) for _, (ids, *_) in both)
            _check_split(tokenizer, chat, before, [whole for whole, _ in both], start[size:])
            start = start[:size]
        for whole, (ids, *_) in both:
            if ids[: len(start)] == start:
                responses.append(ids[len(start) :])
            else:
                responses += encode_next(tokenizer, [whole[len(before) :]], [start])
        yield start, responses


def _shared(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Return how many entries, or letters, two sequences have in common at their beginning."""
    return sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(one, other, strict=False)))


def _check_split(
    tokenizer: PreTrainedTokenizerBase,
    chat: Chat,
    before: str,
    wholes: Sequence[str],
    left_out: list[int],
) -> None:
    """Say that prompt and answer part inside the beginning of the answer; refuse it elsewhere.

    Else what the user said would be learned as a part of the answer.
    """
    asked = _or_none(partial(write_chat, to_answer=False), tokenizer, chat)
    question = _shared(before, asked or before)
    if min(_shared(before, whole) for whole in wholes) < question or not question:
        raise TokenizerError(
            "the chat template writes the prompt another way when a response follows, so the two "
            "cannot be told apart; take a template that keeps it"
        )
    if _is_new(str(tokenizer.chat_template), "where prompt and answer part"):
        logger.warning(
            "the chat template of the %s writes the beginning of an answer in another way when the "
            "answer is there: prompt and answer are split where the two part, as TRL splits them, "
            "so that the policy learns without %r, which it reads when it plays; take a template "
            "that keeps it",
            *(type(tokenizer).__name__, tokenizer.decode(left_out)),
        )


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the token by which the chat template ends an answer; a text's end where it has none.

    Chat models end a turn by another token than a text, such as ``<end_of_turn>`` beside ``<eos>``.
    """
    end = template_end(tokenizer)
    return next(iter(Vocabulary.of(tokenizer).end_ids), None) if end is None else end


def template_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the control token by which the chat template ends the last answer; None for none."""
    return _template_end(tokenizer, tokenizer.chat_template)


@lru_cache(maxsize=8)
def _template_end(tokenizer: PreTrainedTokenizerBase, template: str | None) -> int | None:
    """Return the template's own end, if any; it is a part of the tokenizer that may be changed."""
    answer = "An answer."
    if not template:
        return None
    talk = [{"role": "user", "content": "A question."}, {"role": "assistant", "content": answer}]
    try:
        text = write_chat(tokenizer, talk, to_answer=False)
    except TokenizerError:  # whoever encodes an answer by it says so
        return None
    after = text[text.rfind(answer) + len(answer) :].lstrip()
    controls = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", ())}
    ids = tokenize(tokenizer, [after])[0].ids if after else []
    ends = [*takewhile(controls.__contains__, ids)]  # of the answer, and then of the turn
    texts = Vocabulary.of(tokenizer).end_ids
    return next((end for end in ends if end in texts), next(iter(ends), None))


def missing_end(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the EOS that ends a judged answer where the template ends none; [] where it does."""
    if template_end(tokenizer) is not None:
        return []
    return [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]


def end_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the texts of all special tokens that end a text or an answer."""
    vocabulary = Vocabulary.of(tokenizer)
    ids = dict.fromkeys((*vocabulary.silent_ids, turn_end(tokenizer)))
    silent = [one for one in ids if one is not None and one not in vocabulary.ordinary_ids]
    return list(map(str, tokenizer.convert_ids_to_tokens(silent)))


class Disguise:
    """A conversation in which what looks like control tokens is written in private letters.

    Contents are all texts of messages but `ROLES`, however deep, and of what stands beside them:
    tools, documents and arguments of the template. The assistant's messages keep the control tokens
    in ``left``.
    """

    def __init__(
        self,
        messages: Sequence[Mapping[str, Any]],
        beside: Mapping[str, Any],
        control: ControlTokens,
        *,
        left: Collection[str] = (),
    ) -> None:
        contents = [*_strings([*messages, beside])]
        spans = {text: some for text in contents if (some := control.spans_in(text))}
        letters = "".join(text[a:b] for text, some in spans.items() for a, b in some)
        self._letters = cipher(letters, free_area(contents)) if letters else {}
        self._spans = spans
        self.messages: list[Any] = [
            self._hidden(message, left if message["role"] == ANSWERS else ())
            for message in messages
        ]
        """The messages in disguise; as they are, where nothing in them needs one."""
        self.beside: dict[str, Any] = self._hidden(beside, ())
        """What stands beside them, likewise."""

    def _hidden(self, value: Any, left: Collection[str]) -> Any:
        if isinstance(value, str):
            for a, b in self._spans.get(value, ()):
                if value[a:b] not in left:
                    value = value[:a] + value[a:b].translate(self._letters) + value[b:]
            return value
        if isinstance(value, Mapping):
            return {
                self._hidden(k, left): v if k == "role" and v in ROLES else self._hidden(v, left)
                for k, v in value.items()
            }
        return [self._hidden(v, left) for v in value] if isinstance(value, list | tuple) else value

    def lifted(self, text: str) -> MarkedText:
        """Return a text in everyday letters, what was disguised marked as content."""
        if not self._letters:
            return MarkedText(text)
        letters = "".join(map(chr, self._letters.values()))
        spans = [match.span() for match in re.finditer(f"[{letters}]+", text)]
        letter_of = {private: letter for letter, private in self._letters.items()}
        return MarkedText(text.translate(letter_of), spans)


def _strings(value: Any) -> Iterator[str]:
    """Yield the texts in messages, names of entries included, but for `ROLES`."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inside in value.items():
            yield from _strings(key)
            yield from () if key == "role" and inside in ROLES else _strings(inside)
    elif isinstance(value, list | tuple):
        for inside in value:
            yield from _strings(inside)
