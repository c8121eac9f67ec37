"""The record of one generated text, and the infos that it is read from.

Environments emit a terminal `Info`; rewards and agents read the `Episode` that it describes.
"""

import json
import math
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any, Literal, SupportsFloat, get_args

import gymnasium
import numpy as np
from gymnasium.core import ActType, ObsType
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from tokengym.base.chat import NO_CHAT, Chat, Messages
from tokengym.base.prompt import NO_METADATA, Metadata, Prompt, QueryType, check_query_type
from tokengym.envs.prompts.table import EncodedPrompt
from tokengym.envs.turns.partner import POLICY, Turn

FinishReason = Literal["eos", "length", "stop", "error"]

RAW_SCORE = "raw_score"
"""Name of the part that holds the scorer's own value where ``score`` was scaled after it."""
_PER_TOKEN = {
    "token_rewards": np.float32,
    "log_probs": np.float32,
    "entropy": np.float32,
    "written": np.int8,
}
"""Fields with one value per token after the prompt, and their types."""
UNPLAYED: Mapping[str, Any] = {"token_rewards": None, "log_probs": None, "entropy": None}
"""Fields of the tokens as they were played, for ``replace(episode, response_ids=..., **UNPLAYED)``:
an episode of other tokens has none of them."""
_PER_TOKEN_IN_INFO = ("token_rewards", "written")
"""Those that an environment's terminal info has."""
_TOLD = (
    *("prompt", "prompt_ids", "reference", "query_type"),
    *("response", "response_ids", "finish_reason"),
)
"""Fields that an info has under their names, whoever made it."""
_IN_INFO = (*_TOLD, "metadata", "messages", "score")
"""Fields that every terminal info has."""
_NO_PARTS: Mapping[str, float] = {}
_OPTIONAL = (
    *("reference", "query_type", "score", "token_rewards"),
    *("log_probs", "entropy", "finish_reason"),
)


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One prompt and the response to it, with its score and rewards once it was played.

    Ids are stored as tuples and token arrays as read-only float32, whatever sequence was passed.

    Raises:
        ValueError: if ``token_rewards``, ``log_probs``, ``entropy`` or ``written`` has not one
            entry per response token, or ``query_type`` or ``finish_reason`` is unknown.
    """

    prompt: str
    """The prompt as text: that of a conversation is written out, see ``messages``."""
    response: str
    """The response as text, special tokens left out."""
    prompt_ids: Sequence[int]
    """The prompt's token ids, without padding."""
    response_ids: Sequence[int]
    """The response's token ids as sampled, the EOS included when there was one."""
    reference: str | None = None
    """A reference answer to the prompt."""
    query_type: QueryType | None = None
    """R3's annotation of the prompt: whether the answer is open or there is one right answer."""
    metadata: Mapping[str, Any] = field(default_factory=lambda: NO_METADATA, compare=False)
    """Further columns of the prompt's data set."""
    messages: Messages = NO_CHAT
    """The conversation that the policy read, a `Chat`; empty where it read the prompt as it is."""
    score: float | None = None
    """Score of the finished text; None where none was given: there is no reward, or its partner or
    its judge failed."""
    score_parts: Mapping[str, float] = field(default_factory=lambda: _NO_PARTS)
    """Named parts of the score; one that was not measured is absent."""
    token_rewards: NDArray[np.float32] | None = field(default=None, compare=False)
    """(len(response_ids),) float32: the score as redistributed by the credit; sums to ``score``.
    None where there is no score."""
    log_probs: NDArray[np.float32] | None = field(default=None, compare=False)
    """(len(response_ids),) float32, nats: log-probabilities of the sampled tokens under the
    policy that sampled them."""
    entropy: NDArray[np.float32] | None = field(default=None, compare=False)
    """(len(response_ids),) float32, nats: of the distribution that each token was drawn from;
    None where the agent does not know it."""
    finish_reason: FinishReason | None = None
    """Reason of the end: "eos", "length" (the horizon), "stop" (a stop string) or "error" (the
    partner failed); None if it is not known, as that of a response's beginning."""
    turns: tuple[Turn, ...] = ()
    """The conversation, where the environment had a partner: the policy's turns and the replies.
    ``response`` and ``response_ids`` then hold all of them."""
    written: NDArray[np.int8] | None = field(default=None, compare=False)
    """(len(response_ids),) int8: 1 at the tokens that the policy wrote, 0 at those of replies; None
    where it wrote all."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt_ids", tuple(map(int, self.prompt_ids)))
        object.__setattr__(self, "response_ids", tuple(map(int, self.response_ids)))
        object.__setattr__(self, "turns", tuple(self.turns))
        if not isinstance(self.messages, Chat):
            object.__setattr__(self, "messages", Chat(self.messages))
        for name, kind in _PER_TOKEN.items():
            if getattr(self, name) is not None:
                self._freeze(name, kind)
        check_query_type(self.query_type)
        if self.finish_reason not in (None, *get_args(FinishReason)):
            raise ValueError(
                "finish_reason must be 'eos', 'length', 'stop', 'error' or None, got "
                f"{self.finish_reason!r}; None if it is another or not known"
            )

    def _freeze(self, name: str, kind: Any) -> None:
        """Make an array of a field with one entry per token, which cannot be written."""
        array = np.array(getattr(self, name), dtype=kind)
        if array.shape != (len(self.response_ids),):
            raise ValueError(
                f"{name} must have shape ({len(self.response_ids)},), one entry per response "
                f"token, got {array.shape}; leave it out if it is not known"
            )
        array.flags.writeable = False
        object.__setattr__(self, name, array)

    @property
    def chat(self) -> Chat:
        """What a reader with a chat template reads: ``messages``, or the prompt as messages."""
        return (
            self.messages
            if isinstance(self.messages, Chat) and self.messages
            else (Chat.of_text(self.prompt))
        )

    @property
    def raw_score(self) -> float | None:
        """The scorer's own value: ``score`` before `Normalize` or a layer scaled it."""
        return self.score_parts.get(RAW_SCORE, self.score)

    @property
    def is_lost(self) -> bool:
        """Whether its partner failed, so that it is no episode of the task and is not scored."""
        return self.finish_reason == "error"

    @property
    def num_written(self) -> int:
        """Tokens that the policy wrote."""
        return len(self.response_ids) if self.written is None else int(self.written.sum())

    @property
    def written_text(self) -> str:
        """Text that the policy wrote: the response, or a conversation's own turns, a line each."""
        if not self.turns:
            return self.response
        return "\n".join(turn.text for turn in self.turns if turn.role == POLICY)

    def with_rewards(
        self,
        score: float | None,
        score_parts: Mapping[str, float],
        token_rewards: NDArray[np.floating] | None,
    ) -> "Episode":
        """Return the episode with what its reward decided; None where it has no score.

        A copy that shares all else, without checking it again as ``dataclasses.replace`` does.
        `Reward.evaluate`, which calls this, has checked the token rewards.
        """
        paid = copy(self)
        rewards = None
        if token_rewards is not None:
            rewards = np.array(token_rewards, dtype=np.float32)
            rewards.flags.writeable = False
        vars(paid).update(score=score, score_parts=score_parts, token_rewards=rewards)
        return paid

    @classmethod
    def from_info(cls, info: Mapping[str, Any], *, scored: bool = True) -> "Episode":
        """Return the episode described by an environment's terminal ``info``.

        Args:
            info: The last step's info of a `TokenGenerationEnv` (or one row of a batch's).
            scored: Whether a reward has paid it; without one an environment writes zeros. A score
                of NaN is none.

        Raises:
            KeyError: if ``info`` is not a terminal one.
        """
        paid: dict[str, Any] = {}
        if scored:
            paid["score_parts"] = dict(info["score_parts"])
            is_lost = info["finish_reason"] == "error"
            if not is_lost and not math.isnan(score := float(info["score"])):
                paid |= {"score": score, "token_rewards": info["token_rewards"]}
        return cls(
            **{name: info[name] for name in _TOLD},
            metadata=info.get("metadata", NO_METADATA),
            messages=info.get("messages", NO_CHAT),
            turns=info.get("turns", ()),
            written=info.get("written"),
            **paid,
        )

    def to_record(self) -> dict[str, Any]:
        """Return it as plain data for JSON, of ``metadata`` what JSON can hold.

        Unknown fields become None.
        """
        rewards, log_probs = self.token_rewards, self.log_probs
        turns: dict[str, Any] = {}
        if self.written is not None:
            records = [{**turn._asdict(), "span": list(turn.span)} for turn in self.turns]
            turns = {"turns": records, "written": self.written.tolist()}
        columns = {}
        for name, value in self.metadata.items():
            with suppress(TypeError, ValueError):
                columns[name] = json.loads(json.dumps(value))
        return {
            "prompt": self.prompt,
            "response": self.response,
            "prompt_ids": list(map(int, self.prompt_ids)),
            "response_ids": list(map(int, self.response_ids)),
            "reference": self.reference,
            "query_type": self.query_type,
            "score": None if self.score is None else float(self.score),
            "score_parts": {name: float(part) for name, part in self.score_parts.items()},
            "token_rewards": None if rewards is None else rewards.tolist(),
            "log_probs": None if log_probs is None else log_probs.tolist(),
            **({} if self.entropy is None else {"entropy": self.entropy.tolist()}),
            "finish_reason": self.finish_reason,
            **turns,
            **({"metadata": columns} if columns else {}),
            **(self.chat.to_record() if self.messages else {}),
        }

    @classmethod
    def from_record(
        cls, record: Mapping[str, Any], *, prompt_ids: Sequence[int] | None = None
    ) -> "Episode":
        """Return the episode of a record; missing fields are None, unknown ones are ignored.

        Args:
            record: What `to_record` returned.
            prompt_ids: The prompt's ids, for records that were written without them.

        Raises:
            ValueError: if prompt, response or their ids are missing, or a field is of a wrong kind.
        """
        stored = dict(record)
        if stored.get("prompt_ids") is None and prompt_ids is not None:
            stored["prompt_ids"] = prompt_ids
        needed = ("prompt", "response", "prompt_ids", "response_ids")
        missing = [name for name in needed if stored.get(name) is None]
        if missing:
            raise ValueError(
                f"a stored episode needs {', '.join(needed)}; this one lacks {', '.join(missing)}"
            )
        fields: dict[str, Any] = {name: stored.get(name) for name in (*needed, *_OPTIONAL)}
        try:
            turns = (
                Turn(**{**one, "span": tuple(one["span"])}) for one in stored.get("turns") or ()
            )
            return cls(
                **fields,
                turns=tuple(turns),
                written=stored.get("written"),
                score_parts=dict(stored.get("score_parts") or {}),
                metadata=Metadata(stored.get("metadata")),
                messages=Chat.of_record(stored),
            )
        except (TypeError, KeyError) as error:
            raise ValueError(
                f"a stored episode has a field of a wrong kind ({error}); write it as "
                "Episode.to_record does"
            ) from error


# --- infos ----------------------------------------------------------------------------------------


class Info(dict[str, Any]):
    """An info that Gymnasium's vector environments can stack and its array conversions can convert.

    ``SyncVectorEnv`` and ``AsyncVectorEnv`` read a copy's info by `items` and assume that the
    arrays of an entry have one shape in all rows. Those with one value per response token do not:
    `items` alone shows them padded with zeros to the width.

    Gymnasium 1.4 takes a ``str`` for an iterable of arrays, which turns a prompt into the name of a
    generator, and refuses arrays of objects, which is how its own batches keep texts. The
    conversion is a ``functools.singledispatch`` function: how an `Info` is converted is registered
    for this type alone.
    """

    width: int | None = None
    """Length that `items` pads to; None in an info of a batch."""

    def items(self) -> Any:
        """Return the entries, those with one value per token padded to the width."""
        if self.width is None:
            return super().items()
        return dict(self, **_padded(self, self.width)).items()

    def __reduce__(self) -> tuple[Any, ...]:
        return Info, (dict(self),), vars(self)  # copies and pickles would be made from `items`


def _padded(info: Mapping[str, Any], width: int) -> dict[str, NDArray[Any]]:
    """Return the entries with one value per token, padded with zeros to (width,)."""
    keys = [key for key in _PER_TOKEN_IN_INFO if key in info]
    padded = {key: np.zeros(width, _PER_TOKEN[key]) for key in keys}
    for key, values in padded.items():
        values[: len(info[key])] = info[key]
    return padded


@cache
def convert_texts() -> None:
    """Register the conversion of `Info`, and of prompts in reset's options, with Gymnasium."""
    from gymnasium.wrappers.array_conversion import array_conversion

    def convert(value: Any, xp: ModuleType, device: Any = None) -> Any:
        if isinstance(value, dict):
            entries = dict.items(value)  # as they are, not padded
            return type(value)((key, convert(item, xp, device)) for key, item in entries)
        if isinstance(value, str):
            return value
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject:
                return value
            if not value.flags.writeable:
                value = value.copy()  # a tensor would share its memory and could write to it
        return array_conversion(value, xp, device)

    array_conversion.register(Info, convert)
    for kind in (Prompt, EncodedPrompt, Metadata, Chat):
        array_conversion.register(kind, lambda value, xp, device=None: value)


def episodes_from_infos(
    infos: Mapping[str, Any], *, unscored: Container[int] = ()
) -> dict[int, Episode]:
    """Return the episodes that ended in a step of a batched environment, by row.

    Works in every autoreset mode, over the native batch and over ``SyncVectorEnv``: in SAME_STEP
    mode the terminal infos are in ``infos["final_info"]``, else in ``infos`` itself.

    Args:
        infos: The step's.
        unscored: Rows whose episodes have no score yet, only zeros in its place.

    Returns:
        row -> episode; empty when no row ended.
    """
    source = infos.get("final_info", infos)
    episodes: dict[int, Episode] = {}
    for row in np.flatnonzero(source.get("_finish_reason", ())).tolist():
        scored = row not in unscored
        info = {key: source[key][row] for key in _IN_INFO}
        if "turns" in source:
            info["turns"] = source["turns"][row]
        for key in _PER_TOKEN_IN_INFO:
            if key in source:
                info[key] = source[key][row][: len(info["response_ids"])]
        if scored:
            parts = source["score_parts"]
            info["score_parts"] = {
                name: float(parts[name][row])
                for name in parts
                if not name.startswith("_") and parts[f"_{name}"][row]
            }
        episodes[row] = Episode.from_info(info, scored=scored)
    return episodes


class PadTokenRewards(gymnasium.Wrapper[ObsType, ActType, ObsType, ActType], RecordConstructorArgs):
    """Pads the terminal info's values per token (`token_rewards`) with zeros to ``max_new_tokens``.

    For batches other than Gymnasium's, which need no wrapper, that stack arrays of one shape.
    """

    def __init__(self, env: gymnasium.Env[ObsType, ActType]) -> None:
        """Wrap a `TokenGenerationEnv`, itself wrapped or not."""
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        self._width = int(env.get_wrapper_attr("max_new_tokens"))

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step, and pad the values per token where there are any."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        info.update(_padded(info, self._width))
        return observation, reward, terminated, truncated, info
