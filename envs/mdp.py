"""The token-generation MDP, shared by the single and the batched environment."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from operator import index
from typing import TYPE_CHECKING, Any, cast

import gymnasium
import numpy as np
from numpy.typing import NDArray

from tokengym.base.bundle import Bundle
from tokengym.base.errors import ActionError, RenderModeError, SettingsError, StateError
from tokengym.base.memory import check_memory
from tokengym.base.prompt import Messages, Metadata, Prompt, PromptSet, QueryType
from tokengym.envs.episode import Episode
from tokengym.envs.prompts.sampler import PromptSampler, are_whole
from tokengym.envs.prompts.table import EncodedPrompt, PromptTable
from tokengym.envs.prompts.tokenization import ResponseDecoder, check_tokenizer, load_tokenizer
from tokengym.envs.settings import GenerationSettings
from tokengym.envs.turns.conversation import Conversation, TurnRules, turn_start
from tokengym.envs.turns.turn import Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RENDER_MODES = ["ansi", "human", "html"]
RENDER_FPS = 4


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_seed(value: Any) -> bool:
    return value is None or (isinstance(value, int | np.integer) and not isinstance(value, bool))


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool | np.bool_)


def _are_turns(value: Any) -> bool:
    try:
        return all(
            isinstance(role, str) and isinstance(text, str) and are_whole(list(span))
            for role, text, span, _ in value
        )
    except (TypeError, ValueError):
        return False


STATE_FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "prompt": (lambda value: isinstance(value, str), "a text"),
    "prompt_id": (lambda value: are_whole([value]), "an integer"),
    "prompt_ids": (lambda value: bool(value) and are_whole(value), "a list of token ids"),
    "reference": (_is_text, "a text or None"),
    "query_type": (_is_text, "a text or None"),
    "metadata": (lambda value: isinstance(value, Mapping), "a mapping"),
    "response_ids": (are_whole, "a list of token ids"),
    "terminated": (_is_flag, "True or False"),
    "truncated": (_is_flag, "True or False"),
    "np_random_seed": (_is_seed, "an integer or None"),
}
"""Types of the entries of a state, except for the generators'."""
STATE_KEYS = frozenset({*STATE_FIELDS, "sampler", "np_random"})
TURN_FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "turns": (_are_turns, "a list of [role, text, [start, stop], score]"),
    "episode": (lambda value: are_whole([value]) and value >= 0, "an integer >= 0"),
    "partner_seed": (lambda value: are_whole([value]) and value >= 0, "an integer >= 0"),
}
"""Entries of a state that only environments with a partner have."""

TOKEN_BYTES = 64
"""Least memory that a token of a response takes in an environment: ids, mask, copies, rewards."""


class TokenMdp:
    """Immutable rules of token generation: spaces, legal tokens, ends, prompts.

    Args:
        tokenizer: A Hugging Face tokenizer with EOS and pad.
        prompts: Prompts that episodes start from.
        settings: Settings of the generation.

    Raises:
        TokenGymError: for a setting, prompt or tokenizer that cannot work.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompts: PromptSet | Sequence[str | Prompt | Messages],
        settings: GenerationSettings,
    ) -> None:
        check_memory("max_new_tokens", settings.max_new_tokens, bytes_each=TOKEN_BYTES)
        self.tokenizer = tokenizer
        self.settings = settings
        self.vocab_size = len(self.tokenizer)
        self.eos_id = int(self.tokenizer.eos_token_id)
        self.pad_id = int(self.tokenizer.pad_token_id)
        self._decoder = ResponseDecoder(self.tokenizer)
        late = self._legal(settings.forbidden_token_ids)
        early = late.copy()
        early[self.eos_id] = 0
        self.masks = np.stack([early, late])
        """(phases, vocab): legal tokens before ``min_new_tokens`` (no EOS), after, and those of
        each position that has its own."""
        self.phases = (np.arange(settings.max_new_tokens + 1) >= settings.min_new_tokens).astype(
            int
        )
        """(max_new_tokens + 1,): the row of ``masks`` of the token after so many tokens."""
        self._check_masks()
        self._add_positions(settings.allowed_token_ids)
        self.masks.flags.writeable = False
        self.one_mask = bool((self.phases == self.phases[0]).all())
        """Whether the same tokens are legal everywhere."""
        self.eos_ends_after = settings.min_new_tokens
        """EOS ends a response with more tokens than this, counting the EOS."""
        if not late[self.eos_id]:
            self.eos_ends_after = settings.max_new_tokens
        self.table = PromptTable(
            prompts if isinstance(prompts, PromptSet) else PromptSet(prompts),
            self.tokenizer,
            max_prompt_tokens=settings.max_prompt_tokens,
            overlong=settings.overlong,
            chat_template=settings.chat_template,
            prompt_format=settings.prompt_format,
        )
        self.turns: TurnRules | None = None
        """Rules of the conversation, where there is a partner."""
        if settings.partner is not None:
            self.turns = TurnRules(settings, self.tokenizer, self.table.prompts)
        self.prompt_width = self.table.max_prompt_tokens
        self.width = self.prompt_width + settings.max_new_tokens
        # One Python int per token, shared by all responses: creating them costs more than the
        # rest of a tuple.
        self._numbers = np.arange(self.vocab_size).astype(object)
        self._special_ids = frozenset(self.tokenizer.all_special_ids)
        longest = max((len(text.encode()) for text in settings.stop_strings), default=0)
        self._stop_window = longest + 4  # an ordinary token adds at least one byte; 4 as margin

    def __deepcopy__(self, memo: dict[int, Any]) -> TokenMdp:
        return self

    def _legal(
        self, token_ids: Sequence[int], *, name: str = "forbidden_token_ids", listed: int = 0
    ) -> NDArray[np.int8]:
        """Return a mask that is ``listed`` at some ids, and the opposite at all others."""
        mask = np.full(self.vocab_size, 1 - listed, dtype=np.int8)
        for token_id in token_ids:
            if not 0 <= token_id < self.vocab_size:
                raise ActionError(
                    f"{name} has {token_id}, outside the vocabulary of {self.vocab_size}; take ids "
                    "from the environment's tokenizer"
                )
            mask[token_id] = listed
        return mask

    def _add_positions(self, allowed: Sequence[tuple[int, ...]]) -> None:
        """Add the masks of the positions that have their own, one for all that agree."""
        rows = list(self.masks)
        known: dict[tuple[int, tuple[int, ...]], int] = {}
        for position, ids in enumerate(allowed[: self.settings.max_new_tokens]):
            phase = int(self.phases[position])
            if (phase, ids) not in known:
                known[phase, ids] = len(rows)
                rows.append(rows[phase] & self._legal(ids, name="allowed_token_ids", listed=1))
                rows[-1][self.eos_id] = rows[phase][self.eos_id]
                if not rows[-1].any():
                    raise ActionError(
                        f"allowed_token_ids[{position}] leaves no legal token, got {list(ids)}; "
                        "name one that forbidden_token_ids does not"
                    )
            self.phases[position] = known[phase, ids]
        self.masks = np.stack(rows)

    def _check_masks(self) -> None:
        """Refuse a mask that allows nothing: Gymnasium would silently sample token 0."""
        early, late = self.masks
        if not late.any():
            raise ActionError(
                f"forbidden_token_ids forbids all {self.vocab_size} tokens; leave at least one"
            )
        if self.settings.min_new_tokens and not early.any():
            raise ActionError(
                "forbidden_token_ids leaves only EOS, which min_new_tokens="
                f"{self.settings.min_new_tokens} forbids; leave another token or set it to 0"
            )

    def observation_space(self) -> gymnasium.Space[Any]:
        """Return the space of one observation."""
        shape, top = (self.width,), self.vocab_size - 1
        return gymnasium.spaces.Dict(
            {
                "attention_mask": gymnasium.spaces.Box(0, 1, shape, np.int8),
                "input_ids": gymnasium.spaces.Box(0, top, shape, np.int64),
            }
        )

    def action_space(self) -> gymnasium.Space[Any]:
        """Return the space of one action: the next token."""
        return gymnasium.spaces.Discrete(self.vocab_size)

    def action_mask(self, length: int) -> NDArray[np.int8]:
        """Return the mask of the token after ``length`` response tokens (shared: copy it)."""
        return self.masks[self.phases[min(length, len(self.phases) - 1)]]

    def response_masks(self, length: int, turns: Sequence[Turn] = ()) -> NDArray[np.int8] | None:
        """Return the mask of each token of a response, (length, vocab); None if all are legal.

        Args:
            length: Tokens of the response.
            turns: Its turns, each of which begins anew.
        """
        used = np.unique(self.phases[:-1])
        if self.masks[used].all():
            return None
        places = np.arange(length)
        for turn in turns:
            places[slice(*turn.span)] -= turn.span[0]
        return self.masks[self.phases[places]]

    def tuples(self, flat: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.object_]:
        """Return the responses concatenated in ``flat`` as tuples of ids."""
        values, ends = tuple(self._numbers[flat].tolist()), np.cumsum(lengths).tolist()
        pieces = (values[a:b] for a, b in zip([0, *ends], ends, strict=False))
        return np.fromiter(pieces, dtype=object, count=len(ends))

    def decode(self, responses: Sequence[Sequence[int]]) -> list[str]:
        """Return the responses' texts without special tokens."""
        lengths = np.fromiter(map(len, responses), dtype=np.int64, count=len(responses))
        flat = np.fromiter(chain.from_iterable(responses), dtype=np.int64)
        return self.decode_flat(flat, lengths)

    def decode_flat(self, flat: NDArray[np.int64], lengths: NDArray[np.int64]) -> list[str]:
        """Return the texts of the responses concatenated in ``flat``."""
        return self._decoder.decode(flat, lengths)

    def unfinished(
        self,
        prompt: EncodedPrompt,
        response_ids: Sequence[int],
        conversation: Conversation | None = None,
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
            written=written,
            turns=() if conversation is None else tuple(conversation.turns),
        )

    def begun(self, response: Any, what: str) -> tuple[tuple[int, ...], tuple[Turn, ...]]:
        """Return the first tokens of a response that an episode is to begin with.

        Args:
            response: Token ids, as they would have been sampled, or an unfinished `Episode` with
                its turns; they must not end the episode or the turn.
            what: Option that names them, for the message.

        Returns:
            The ids, and the turns that are over.

        Raises:
            SettingsError: if these are no ids of the vocabulary, or end the episode, or there are
                turns and no partner.
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
        limit = self.settings.max_new_tokens if self.turns is None else self.turns.turn_budget
        own = ids[turn_start(turns) :]
        if (
            max(len(own) - limit, len(ids) - self.settings.max_new_tokens) >= 0
            or self.eos_id in own[self.eos_ends_after :]
        ):
            raise SettingsError(
                f"{what} ends the episode before it begins: it has EOS, or {len(own)} of at most "
                f"{limit} tokens; leave at least one to write"
            )
        return ids, turns

    def stops(self, responses: Sequence[Sequence[int]]) -> NDArray[np.bool_]:
        """Return which responses were completed to a stop string by their last token.

        Only the tail is decoded, so the cost does not grow with the response. A token that is not
        legal, or comes before ``min_new_tokens``, never ends an episode.
        """
        stopped = np.zeros(len(responses), dtype=np.bool_)
        tails, rows = [], []
        for row, response in enumerate(responses):
            legal = self.action_mask(len(response) - 1)[response[-1]]
            if not legal or len(response) < self.settings.min_new_tokens:
                continue
            ordinary = [i for i in response[-2 * self._stop_window :] if i not in self._special_ids]
            tails.append(ordinary[-self._stop_window :])
            rows.append(row)
        before = self.decode([tail[:-1] for tail in tails])
        after = self.decode(tails)
        for row, old, new in zip(rows, before, after, strict=True):
            stopped[row] = any(new.count(s) > old.count(s) for s in self.settings.stop_strings)
        return stopped

    def prompt_from(self, state: Mapping[str, Any]) -> EncodedPrompt:
        """Return the prompt of a saved state, checking that the state fits this MDP.

        Raises:
            StateError: if the state does not fit.
        """
        turn_fields = {} if self.turns is None else TURN_FIELDS
        if not isinstance(state, Mapping) or {"metadata", *state} != {*STATE_KEYS, *turn_fields}:
            raise StateError(
                f"a state must be what get_state() returned, got {_outline(state)}; "
                "do not edit its keys"
            )
        state = {"metadata": {}, **state}  # version 0.1 had none
        for name, (is_valid, wanted) in {**STATE_FIELDS, **turn_fields}.items():
            if not is_valid(state[name]):
                raise StateError(
                    f"the state's {name} must be {wanted}, got {reprlib.repr(state[name])}; pass "
                    "what get_state() returned"
                )
        limits = {"prompt_ids": self.prompt_width, "response_ids": self.settings.max_new_tokens}
        for name, limit in limits.items():
            ids = state[name]
            if len(ids) > limit:
                raise StateError(
                    f"the state's {name} has {len(ids)} tokens, the environment takes {limit}; "
                    "restore it into an environment of the same lengths"
                )
            if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
                raise StateError(
                    f"the state's {name} has id {max(ids)}, outside the vocabulary of "
                    f"{self.vocab_size}; restore it into an environment of the same tokenizer"
                )
        prompt_id = int(state["prompt_id"])
        if prompt_id >= len(self.table):
            raise StateError(
                f"the state's prompt_id {prompt_id} is unknown, there are {len(self.table)} "
                "prompts; restore it into an environment with the same prompts"
            )
        if prompt_id < 0:
            return EncodedPrompt(
                state["prompt"],
                tuple(state["prompt_ids"]),
                -1,
                state["reference"],
                state["query_type"],
                Metadata(state["metadata"]),
            )
        return self.table[prompt_id]


def state_of(
    prompt: EncodedPrompt,
    response_ids: list[int],
    *,
    terminated: bool,
    truncated: bool,
    sampler: PromptSampler,
    rng: np.random.Generator,
    seed: int | None,
    conversation: Conversation | None = None,
) -> dict[str, Any]:
    """Return an episode and its row's randomness as plain data, with `STATE_KEYS`."""
    return {
        "prompt": prompt.text,
        "prompt_id": prompt.prompt_id,
        "prompt_ids": list(prompt.ids),
        "reference": prompt.reference,
        "query_type": prompt.query_type,
        "metadata": dict(prompt.metadata) if prompt.prompt_id < 0 else {},  # else the table's
        "response_ids": response_ids,
        "terminated": terminated,
        "truncated": truncated,
        "sampler": sampler.get_state(),
        "np_random": dict(rng.bit_generator.state),
        "np_random_seed": seed,
        **({} if conversation is None else conversation.as_state()),
    }


class MdpEnvironment:
    """Properties of the environments that play a `TokenMdp`."""

    _mdp: TokenMdp
    _bundle: Bundle | None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer whose ids are the actions."""
        return self._mdp.tokenizer

    @property
    def bundle(self) -> Bundle | None:
        """The models this environment belongs to."""
        return self._bundle

    @property
    def prompts(self) -> PromptSet:
        """The prompts that episodes start from; a prompt id is a position in it."""
        return self._mdp.table.prompts

    @property
    def max_prompt_tokens(self) -> int:
        """Columns of the observation that belong to the prompt."""
        return self._mdp.prompt_width

    @property
    def max_new_tokens(self) -> int:
        """The horizon: columns of the observation that belong to the response."""
        return self._mdp.settings.max_new_tokens

    @property
    def settings(self) -> GenerationSettings:
        """The settings as validated."""
        return self._mdp.settings

    def encoded_prompt(self, prompt_id: int) -> EncodedPrompt:
        """Return a prompt of the set with its token ids, for reset's "prompt" or "prompts".

        Raises:
            PromptError: if there is no such prompt.
        """
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
        if (known := self._mdp.table.find(ids)) is not None:
            return known
        return EncodedPrompt(self._mdp.decode([ids])[0] if text is None else text, ids, -1)


def token_mdp(
    tokenizer: PreTrainedTokenizerBase | str,
    prompts: PromptSet | Sequence[str | Prompt | Messages],
    settings: GenerationSettings,
    bundle: Bundle | None,
    *,
    eos_token: str | None,
    pad_token: str | None,
) -> TokenMdp:
    """Return the MDP of an environment.

    Environments over a bundle's own tokenizer, the same prompts and settings share one, so that
    many copies encode the prompts once. A tokenizer of the caller's own is not shared, since it may
    be changed between two environments.

    Raises:
        TokenGymError: as `TokenMdp`, or for a tokenizer without EOS or pad.
    """
    shares = bundle is not None and bundle.has("tokenizer") and tokenizer is bundle.tokenizer
    if not shares or eos_token is not None or pad_token is not None:
        chosen = load_tokenizer(tokenizer, eos_token=eos_token, pad_token=pad_token)
        return TokenMdp(chosen, prompts, settings)
    assert not isinstance(tokenizer, str)
    prompt_set = prompts if isinstance(prompts, PromptSet) else PromptSet(prompts)
    return _shared_mdp(tokenizer, len(tokenizer), prompt_set, settings)


@lru_cache(maxsize=8)
def _shared_mdp(
    tokenizer: PreTrainedTokenizerBase,
    vocab_size: int,
    prompts: PromptSet,
    settings: GenerationSettings,
) -> TokenMdp:
    check_tokenizer(tokenizer)  # once, as all that follows from it
    return TokenMdp(tokenizer, prompts, settings)


def terminal_info(
    prompt: EncodedPrompt,
    response: str,
    response_ids: tuple[int, ...],
    finish_reason: str,
    conversation: Conversation | None = None,
) -> dict[str, Any]:
    """Return an episode's terminal info except the action mask; the score is 0."""
    turns: dict[str, Any] = {}
    if conversation is not None:
        turns["turns"] = tuple(conversation.turns)
        turns["written"] = conversation.written(len(response_ids))
    return {
        "prompt": prompt.text,
        "prompt_id": prompt.prompt_id,
        "prompt_ids": prompt.ids,
        "reference": prompt.reference,
        "query_type": prompt.query_type,
        "metadata": prompt.metadata,
        "response": response,
        "response_ids": response_ids,
        "finish_reason": finish_reason,
        "score": 0.0,
        "score_parts": {},
        "token_rewards": np.zeros(len(response_ids), dtype=np.float32),
        **turns,
    }


def check_render_mode(render_mode: str | None, modes: Sequence[str]) -> None:
    """Refuse an unknown render mode."""
    if render_mode is not None and render_mode not in modes:
        raise RenderModeError(
            f"render_mode must be one of {', '.join(map(repr, modes))} or None, got {render_mode!r}"
        )


def _outline(state: Any) -> str:
    """Return a short description of an invalid state."""
    return f"keys {sorted(state)}" if isinstance(state, Mapping) else f"a {type(state).__name__}"
