"""The token-generation MDP, shared by the single and the batched environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from operator import index
from typing import TYPE_CHECKING, Any, cast

import gymnasium
import numpy as np
from numpy.typing import NDArray

from tokengym.base.bundle import Bundle
from tokengym.base.chat import Messages
from tokengym.base.errors import ActionError, RenderModeError, SettingsError
from tokengym.base.prompt import Prompt, PromptSet, QueryType
from tokengym.base.settings import check_memory, from_keywords
from tokengym.envs.episode import Episode, convert_texts
from tokengym.envs.prompts.contents import special_tokens
from tokengym.envs.prompts.table import EncodedPrompt, PromptTable
from tokengym.envs.prompts.tokenization import (
    ResponseDecoder,
    check_tokenizer,
    decode,
    encode_contents,
    load_tokenizer,
    response_texts,
)
from tokengym.envs.prompts.vocabulary import (
    EosToken,
    Vocabulary,
    asks_for_date,
    with_date,
)
from tokengym.envs.settings import TOKEN_BYTES, GenerationSettings
from tokengym.envs.turns.conversation import RowConversation, TurnRules, turn_start
from tokengym.envs.turns.partner import Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RENDER_MODES = ["ansi", "human", "html"]
NO_FRAMES = "; a text has no frames for RecordVideo, and 'html' returns it as a page's element"
RENDER_FPS = 4


def token_masks(
    settings: GenerationSettings, vocab_size: int, end_ids: Sequence[int]
) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """Return which tokens are legal at each position of a response.

    These are (phases, vocab) masks: before ``min_new_tokens`` (no end), after, and one for all
    positions that have the same tokens of their own; and (max_new_tokens + 1,) the row of the masks
    of the token after so many tokens.
    """
    forbidden = settings.forbidden_token_ids
    allowed = settings.allowed_token_ids[: settings.max_new_tokens]
    lists = {"forbidden_token_ids": forbidden, "allowed_token_ids": chain.from_iterable(allowed)}
    for name, token_id in ((name, token_id) for name, ids in lists.items() for token_id in ids):
        if not 0 <= token_id < vocab_size:
            raise ActionError(
                f"{name} has {token_id}, outside the vocabulary of {vocab_size}; take ids from the "
                "environment's tokenizer"
            )
    ends = list(end_ids)
    late = np.ones(vocab_size, dtype=np.int8)
    late[list(forbidden)] = 0
    early = late.copy()
    early[ends] = 0
    if not late.any():
        raise ActionError(
            f"forbidden_token_ids forbids all {vocab_size} tokens; leave at least one"
        )
    if settings.min_new_tokens and not early.any():
        raise ActionError(
            "forbidden_token_ids leaves only EOS, which min_new_tokens="
            f"{settings.min_new_tokens} forbids; leave another token or set it to 0"
        )
    masks = [early, late]  # rows 0 and 1; positions with tokens of their own add rows behind them
    # One entry more than there are tokens: a terminal info says what would be legal next.
    phases = (np.arange(settings.max_new_tokens + 1) >= settings.min_new_tokens).astype(np.int64)
    numbers: dict[tuple[int, tuple[int, ...]], int] = {}
    for position, ids in enumerate(allowed):
        phase = int(phases[position])
        if (phase, ids) not in numbers:
            numbers[phase, ids] = len(masks)
            mask = np.zeros(vocab_size, dtype=np.int8)
            mask[list(ids)] = 1
            mask &= masks[phase]
            # Ends go by min_new_tokens alone: a list for a position need not name them.
            mask[ends] = masks[phase][ends]
            if not mask.any():
                raise ActionError(
                    f"allowed_token_ids[{position}] leaves no legal token, got {list(ids)}; "
                    "name one that forbidden_token_ids does not"
                )
            masks.append(mask)
        phases[position] = numbers[phase, ids]
    return np.stack(masks), phases


def check_stop_strings(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse stop strings that no decoded text shows: with a special token, or without any text."""
    ends = tokenizer.convert_ids_to_tokens(list(Vocabulary.of(tokenizer).end_ids))
    shown = decode(tokenizer, encode_contents(tokenizer, texts))
    for text, as_shown in zip(texts, shown, strict=True):
        token = next((one for one in special_tokens(tokenizer) if one and one in text), None)
        if token is None and text.strip() in as_shown and as_shown:
            continue
        if token is None and as_shown:
            bare, bare_shown = ("".join(one.split()).lower() for one in (text, as_shown))
            remedy = "write that" if bare == bare_shown else "it lacks a part of it: leave it out"
            raise SettingsError(
                f"stop_strings has {text!r}, which this tokenizer writes as {as_shown!r}, so that "
                f"it never comes; {remedy}"
            )
        what, remedy = f" with the special token {token!r}", "which ends the text as it is"
        if token is None:
            what, remedy = "", "which this tokenizer decodes to nothing, so that it never comes"
        if token in ends or token is None:
            remedy += "; leave it out"
        else:
            remedy = f"which shows no text; pass eos_token={[*ends, token]} to end texts by it"
        raise SettingsError(f"stop_strings has {text!r}{what}, {remedy}")


class TokenMdp:
    """Immutable rules of token generation: spaces, legal tokens, ends, prompts.

    Args:
        tokenizer: A Hugging Face tokenizer with EOS and pad, see `load_tokenizer`.
        prompts: Prompts that episodes start from.
        settings: Settings of the generation.

    Raises:
        TokenGymError: for a setting, prompt or tokenizer that cannot work.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompts: PromptSet,
        settings: GenerationSettings,
    ) -> None:
        check_memory("max_new_tokens", settings.max_new_tokens, bytes_each=TOKEN_BYTES)
        if settings.template_date is not None and not asks_for_date(tokenizer):
            raise SettingsError(
                f"template_date={settings.template_date!r} has no effect: the tokenizer has no "
                "chat template that asks for today's date; leave it out"
            )
        self.tokenizer = tokenizer = with_date(tokenizer, settings.template_date)
        self.settings = settings
        self.vocab_size = len(self.tokenizer)
        self.vocabulary = Vocabulary.of(tokenizer)
        self.eos_id = self.vocabulary.end_ids[0]
        pad_id: Any = self.vocabulary.pad_id
        self.pad_id = int(pad_id)
        self.decoder = ResponseDecoder(self.tokenizer)
        self.masks, self.phases = token_masks(settings, self.vocab_size, self.vocabulary.end_ids)
        self.masks.flags.writeable = False
        self.one_mask = bool((self.phases == self.phases[0]).all())
        """Whether the same tokens are legal everywhere."""
        self.end_set = frozenset(self.vocabulary.end_ids).difference(settings.forbidden_token_ids)
        """Tokens that end a response of more than ``min_new_tokens``, themselves counted."""
        self.ends = np.isin(np.arange(self.vocab_size), list(self.end_set))
        """(vocab,) True at these tokens."""
        self.table = PromptTable(
            prompts,
            self.tokenizer,
            max_prompt_tokens=settings.max_prompt_tokens,
            overlong=settings.overlong,
            chat_template=settings.chat_template,
            prompt_format=settings.prompt_format,
        )
        self.num_prompts = len(self.table.prompts)
        self.turns: TurnRules | None = None
        """Rules of the conversation, where there is a partner."""
        if settings.partner is not None:
            self.turns = TurnRules(settings, self.tokenizer, self.table.prompts)
        self.prompt_width = self.table.max_prompt_tokens
        self.width = self.prompt_width + settings.max_new_tokens
        self.numbers = np.arange(self.vocab_size).astype(object)
        """(vocab,) one Python int per token, shared by all responses: creating them costs more than
        the rest of a tuple."""
        self._special_ids = frozenset(special_tokens(tokenizer).values())
        check_stop_strings(settings.stop_strings, tokenizer)
        longest = max((len(text.encode()) for text in settings.stop_strings), default=0)
        self._stop_window = longest + 4  # an ordinary token adds at least one byte; 4 as margin
        # Twice the window, since special tokens show no text and are left out.
        self.stop_reach = 2 * self._stop_window
        """How many of a text's last tokens `stops` reads."""

    def __deepcopy__(self, memo: dict[int, Any]) -> TokenMdp:
        return self

    def spaces(self) -> tuple[gymnasium.Space[Any], gymnasium.Space[Any]]:
        """Return new spaces of one observation and of one action, the next token."""
        shape, top = (self.width,), self.vocab_size - 1
        observation = gymnasium.spaces.Dict(
            {
                "attention_mask": gymnasium.spaces.Box(0, 1, shape, np.int8),
                "input_ids": gymnasium.spaces.Box(0, top, shape, np.int64),
            }
        )
        return observation, gymnasium.spaces.Discrete(self.vocab_size)

    def action_mask(self, length: int) -> NDArray[np.int8]:
        """Return the mask (vocab,) of the token after ``length`` tokens (shared: copy it)."""
        return self.masks[self.phases[min(length, len(self.phases) - 1)]]

    def response_masks(self, length: int, turns: Sequence[Turn] = ()) -> NDArray[np.int8] | None:
        """Return the mask of each token of a response, (length, vocab); None if all are legal.

        Args:
            length: Tokens of the response.
            turns: Its turns; the masks count from the first token of each.
        """
        used = np.unique(self.phases[:-1])
        if self.masks[used].all():
            return None
        places = np.arange(length)
        for turn in turns:
            places[slice(*turn.span)] -= turn.span[0]  # masks count from the turn's first token
        return self.masks[self.phases[places]]

    def decode(self, responses: Sequence[Sequence[int]]) -> list[str]:
        """Return the responses' texts without special tokens."""
        lengths = np.fromiter(map(len, responses), dtype=np.int64, count=len(responses))
        flat = np.fromiter(chain.from_iterable(responses), dtype=np.int64)
        return self.decoder.decode(flat, lengths)

    def unfinished(
        self,
        prompt: EncodedPrompt,
        response_ids: Sequence[int],
        conversation: RowConversation | None = None,
    ) -> Episode:
        """Return a text so far as an episode without score."""
        written = None if conversation is None else conversation.written(len(response_ids))
        return Episode(
            prompt=prompt.text,
            response=self.decode([response_ids])[0],
            prompt_ids=prompt.ids,
            response_ids=response_ids,
            reference=prompt.reference,
            query_type=cast("QueryType | None", prompt.query_type),
            metadata=prompt.metadata,
            messages=prompt.messages,
            written=written,
            turns=() if conversation is None else tuple(conversation.turns),
        )

    def rendered(
        self,
        renderer: Callable[..., str],
        prompt: EncodedPrompt,
        response_ids: Sequence[int],
        token_rewards: NDArray[np.float32] | None,
        conversation: RowConversation | None,
    ) -> str:
        """Return a text so far, with its rewards (n,), as `render_ansi` or `render_html` do."""
        written = None if conversation is None else conversation.written(len(response_ids))
        pieces = response_texts(self.tokenizer, prompt.ids, response_ids)
        return renderer(prompt.text, pieces, token_rewards, written=written)

    def begun(self, response: Any, what: str) -> tuple[tuple[int, ...], tuple[Turn, ...]]:
        """Return the ids that an episode is to begin with, and the turns in them that are over.

        They are given as if they had been sampled, or as an unfinished `Episode` with its turns,
        and must not end the episode or the turn by EOS, a stop string or their length.
        """
        turns = response.turns if isinstance(response, Episode) else ()
        if isinstance(response, Episode):
            response = response.response_ids
        if turns and self.turns is None:
            raise SettingsError(f"{what} has {len(turns)} turns and there is no partner; pass one")
        try:
            ids = tuple(map(index, response))
        except TypeError:
            raise SettingsError(f"{what} must be token ids, got {response!r:.60}") from None
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            raise SettingsError(
                f"{what} must be ids from 0 to {self.vocab_size - 1}, got {min(ids)} to "
                f"{max(ids)}; take them from the environment's tokenizer"
            )
        horizon = self.settings.max_new_tokens
        limit = horizon if self.turns is None else self.turns.turn_budget
        turn_ids = ids[turn_start(turns) :]
        has_end = not self.end_set.isdisjoint(turn_ids[self.settings.min_new_tokens :])
        if has_end or len(turn_ids) >= limit or len(ids) >= horizon:
            raise SettingsError(
                f"{what} ends the episode before it begins: it has EOS, or {len(turn_ids)} of "
                f"at most {limit} tokens; leave at least one to write"
            )
        end = self._first_stop(turn_ids)
        if end:
            raise SettingsError(
                f"{what} ends the episode before it begins: its first {end} tokens "
                f"complete a stop string of {list(self.settings.stop_strings)}, "
                f"{self.decode([turn_ids[:end]])[0]!r:.60}; end it before them"
            )
        return ids, turns

    def _first_stop(self, turn_ids: Sequence[int]) -> int:
        """Return how many tokens of a turn complete the first stop string; 0 if none does."""
        texts = self.settings.stop_strings
        if not texts or not turn_ids:
            return 0
        # What the whole has not, no beginning has: but for spaces that a tokenizer takes away as
        # the text goes on, and bytes that what follows makes unreadable.
        settles = not getattr(self.tokenizer, "clean_up_tokenization_spaces", False)
        whole = self.decode([turn_ids])[0]
        if settles and not any(text in whole or "\ufffd" in text + whole for text in texts):
            return 0
        ends = range(1, len(turn_ids) + 1)
        stopped = self.stops(ends, [turn_ids[max(end - self.stop_reach, 0) : end] for end in ends])
        return int(np.argmax(stopped)) + 1 if stopped.any() else 0

    def stops(self, lengths: Sequence[int], tails: Sequence[Sequence[int]]) -> NDArray[np.bool_]:
        """Return which turns, (rows,), were completed to a stop string by their last token.

        The cost does not grow with the text. A token that is not legal, or comes before
        ``min_new_tokens``, never ends an episode.

        Args:
            lengths: (rows,) tokens of each turn so far.
            tails: (rows,) last tokens of each, ``stop_reach`` of them where there are so many.
        """
        stopped = np.zeros(len(tails), dtype=np.bool_)
        shown, rows = [], []
        for row, (length, tail) in enumerate(zip(lengths, tails, strict=True)):
            legal = self.action_mask(length - 1)[tail[-1]]
            if not legal or length < self.settings.min_new_tokens:
                continue
            ordinary = [i for i in tail if i not in self._special_ids]
            shown.append(ordinary[-self._stop_window :])
            rows.append(row)
        before = self.decode([tail[:-1] for tail in shown])
        after = self.decode(shown)
        for row, old, new in zip(rows, before, after, strict=True):
            # Its last place moves: it may have stood before, also with a part of what stands now.
            stopped[row] = any(new.rfind(s) > old.rfind(s) for s in self.settings.stop_strings)
        return stopped


class MdpEnvironment:
    """Common parts of the environments that play a `TokenMdp`."""

    _mdp: TokenMdp
    metadata: dict[str, Any]
    render_mode: str | None
    _bundle: Bundle | None
    _holds = False

    def _play_by(
        self,
        tokenizer: PreTrainedTokenizerBase | str,
        prompts: PromptSet | Sequence[str | Prompt | Messages],
        generation: Mapping[str, Any],
        bundle: Bundle | None,
        *,
        eos_token: EosToken | None,
        pad_token: str | None,
        render_mode: str | None,
    ) -> TokenMdp:
        """Set the environment's rules, and return them.

        Environments over a bundle's own tokenizer, the same prompts and settings share one MDP, so
        that many copies encode the prompts once. A tokenizer of the caller's own is not shared,
        since it may be changed between two environments.
        """
        modes = self.metadata["render_modes"]
        if render_mode is not None and render_mode not in modes:
            raise RenderModeError(
                f"render_mode must be one of {', '.join(map(repr, modes))} or None, got "
                f"{render_mode!r}{NO_FRAMES if 'array' in str(render_mode) else ''}"
            )
        convert_texts()
        self.render_mode, self._bundle = render_mode, bundle
        settings = from_keywords(GenerationSettings, generation, owner=type(self).__name__)
        prompt_set = prompts if isinstance(prompts, PromptSet) else PromptSet(prompts)
        shares = bundle is not None and bundle.has("tokenizer") and tokenizer is bundle.tokenizer
        has_ends = eos_token is not None or pad_token is not None
        if isinstance(tokenizer, str) or has_ends or not shares:
            chosen = load_tokenizer(tokenizer, eos_token=eos_token, pad_token=pad_token)
            self._mdp = TokenMdp(chosen, prompt_set, settings)
        else:
            self._mdp = _shared_mdp(tokenizer, len(tokenizer), prompt_set, settings)
        return self._mdp

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer whose ids are the actions."""
        return self._mdp.tokenizer

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokenizer's size, the tokens that end a text here, and the one that pads."""
        return self._mdp.vocabulary

    @property
    def bundle(self) -> Bundle | None:
        """The models this environment belongs to."""
        return self._bundle

    @property
    def max_prompt_tokens(self) -> int:
        """Columns of the observation that belong to the prompt."""
        return self._mdp.prompt_width

    @property
    def max_new_tokens(self) -> int:
        """The horizon: columns of the observation that belong to the response."""
        return self._mdp.settings.max_new_tokens

    @property
    def prompts(self) -> PromptSet:
        """The prompts that episodes start from; a prompt id is a position in it."""
        return self._mdp.table.prompts

    @property
    def settings(self) -> GenerationSettings:
        """The settings as validated."""
        return self._mdp.settings

    def hold_after_end(self, held: bool) -> None:
        """Stay at the end of an episode, whatever an autoreset does, or stop doing so.

        While held, an episode that is over begins anew only by a reset with a seed or options. Any
        other reset and every step do nothing: they return the last observation, reward 0, no flag,
        and an info with ``waiting``. Rounds of one episode per row are played so.
        """
        self._holds = held

    def encoded_prompt(self, prompt_id: int) -> EncodedPrompt:
        """Return a prompt of the set with its token ids, for reset's "prompt" or "prompts"."""
        return self._mdp.table.lookup(prompt_id)

    def find_prompt(self, token_ids: Sequence[int], text: str | None = None) -> EncodedPrompt:
        """Return the prompt that has these token ids, for reset's "prompt" or "prompts".

        Args:
            token_ids: A prompt's tokens without padding.
            text: Text of a prompt that is not in the set; None decodes the ids.

        Returns:
            The prompt of the set with its id, or else one with the id -1.
        """
        ids = tuple(map(int, token_ids))
        if (entry := self._mdp.table.find(ids)) is not None:
            return entry
        return EncodedPrompt(self._mdp.decode([ids])[0] if text is None else text, ids, -1)


@lru_cache(maxsize=8)
def _shared_mdp(
    tokenizer: PreTrainedTokenizerBase,
    vocab_size: int,
    prompts: PromptSet,
    settings: GenerationSettings,
) -> TokenMdp:
    check_tokenizer(tokenizer)  # once, as all that follows from it
    return TokenMdp(tokenizer, prompts, settings)
