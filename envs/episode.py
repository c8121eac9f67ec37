"""The record of one generated text, as environments emit it and rewards and agents read it."""

import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tokengym.base.prompt import NO_METADATA, Metadata, QueryType
from tokengym.envs.turns.turn import POLICY, Turn

FinishReason = Literal["eos", "length", "stop", "error"]

_PER_TOKEN = {"token_rewards": np.float32, "log_probs": np.float32, "written": np.int8}
_NO_PARTS: Mapping[str, float] = {}
_OPTIONAL = ("reference", "query_type", "score", "token_rewards", "log_probs", "finish_reason")


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One prompt and the response to it, with its score and rewards once it was played.

    Ids are stored as tuples and token arrays as read-only float32, whatever sequence was passed.

    Raises:
        ValueError: if ``token_rewards``, ``log_probs`` or ``written`` does not have one entry per
            response token, or ``query_type`` or ``finish_reason`` is unknown.
    """

    prompt: str
    """The prompt as text."""
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
    score: float | None = None
    """Score of the finished text."""
    score_parts: Mapping[str, float] = field(default_factory=lambda: _NO_PARTS)
    """Named parts of the score."""
    token_rewards: NDArray[np.float32] | None = field(default=None, compare=False)
    """(len(response_ids),) float32: the score as redistributed by the credit; sums to ``score``."""
    log_probs: NDArray[np.float32] | None = field(default=None, compare=False)
    """(len(response_ids),) float32, nats: log-probabilities of the sampled tokens under the
    policy that sampled them."""
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
        for name in _PER_TOKEN:
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, self._per_token(name, value))
        if self.query_type not in (None, "OPENENDED", "CONSTRAINED"):
            raise ValueError(
                f"query_type must be 'OPENENDED', 'CONSTRAINED' or None, got {self.query_type!r}; "
                "None reads as OPENENDED"
            )
        if self.finish_reason not in (None, *get_args(FinishReason)):
            raise ValueError(
                "finish_reason must be 'eos', 'length', 'stop', 'error' or None, got "
                f"{self.finish_reason!r}; None if it is another or not known"
            )

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

    def _per_token(self, name: str, value: Any) -> NDArray[Any]:
        """Return a value per response token as a read-only array."""
        array = np.array(value, dtype=_PER_TOKEN[name])
        if array.shape != (len(self.response_ids),):
            raise ValueError(
                f"{name} must have shape ({len(self.response_ids)},), one entry per response "
                f"token, got {array.shape}; leave it out if it is not known"
            )
        array.flags.writeable = False
        return array

    def paid(
        self, score: float, score_parts: Mapping[str, float], token_rewards: NDArray[np.floating]
    ) -> "Episode":
        """Return the episode with what its reward decided.

        A copy that shares all else, without checking it again as ``dataclasses.replace`` does.

        Raises:
            ValueError: if ``token_rewards`` does not have one entry per response token.
        """
        paid = copy(self)
        rewards = self._per_token("token_rewards", token_rewards)
        vars(paid).update(score=score, score_parts=score_parts, token_rewards=rewards)
        return paid

    @classmethod
    def from_info(cls, info: Mapping[str, Any], *, scored: bool = True) -> "Episode":
        """Return the episode described by an environment's terminal ``info``.

        Args:
            info: The last step's info of a `TokenGenerationEnv` (or one row of a batch's).
            scored: Whether a reward has paid it; without one an environment writes zeros.

        Raises:
            KeyError: if ``info`` is not a terminal one.
        """
        paid: dict[str, Any] = {}
        if scored:
            paid = {"score": float(info["score"]), "score_parts": dict(info["score_parts"])}
            paid["token_rewards"] = info["token_rewards"]
        return cls(
            prompt=info["prompt"],
            response=info["response"],
            prompt_ids=info["prompt_ids"],
            response_ids=info["response_ids"],
            reference=info["reference"],
            query_type=info["query_type"],
            metadata=info.get("metadata", NO_METADATA),
            finish_reason=info["finish_reason"],
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
            said = [{**turn._asdict(), "span": list(turn.span)} for turn in self.turns]
            turns = {"turns": said, "written": self.written.tolist()}
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
            "finish_reason": self.finish_reason,
            **turns,
            **({"metadata": columns} if columns else {}),
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
        known = dict(record)
        if known.get("prompt_ids") is None and prompt_ids is not None:
            known["prompt_ids"] = prompt_ids
        needed = ("prompt", "response", "prompt_ids", "response_ids")
        missing = [name for name in needed if known.get(name) is None]
        if missing:
            raise ValueError(
                f"a stored episode needs {', '.join(needed)}; this one lacks {', '.join(missing)}"
            )
        given: dict[str, Any] = {name: known.get(name) for name in (*needed, *_OPTIONAL)}
        try:
            said = (Turn(**{**one, "span": tuple(one["span"])}) for one in known.get("turns") or ())
            return cls(
                **given,
                turns=tuple(said),
                written=known.get("written"),
                score_parts=dict(known.get("score_parts") or {}),
                metadata=Metadata(known.get("metadata")),
            )
        except (TypeError, KeyError) as error:
            raise ValueError(
                f"a stored episode has a field of a wrong kind ({error}); write it as "
                "Episode.to_record does"
            ) from error


def episode_to_record(episode: Episode) -> dict[str, Any]:
    """Return `Episode.to_record` under its name of version 0.2."""
    _warn_of_name("episode_to_record", "Episode.to_record")
    return episode.to_record()


def episode_from_record(
    record: Mapping[str, Any], *, prompt_ids: Sequence[int] | None = None
) -> Episode:
    """Return `Episode.from_record` under its name of version 0.2."""
    _warn_of_name("episode_from_record", "Episode.from_record")
    return Episode.from_record(record, prompt_ids=prompt_ids)


def _warn_of_name(former: str, name: str) -> None:
    text = f"tokengym.envs.{former} is {name} now, and goes with the next version"
    warnings.warn(text, DeprecationWarning, stacklevel=3)
