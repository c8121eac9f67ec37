"""Signatures of estimators: what each argument of a trainer's function is, found by its keyword."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokengym.base import did_you_mean
from tokengym.envs import SettingsError
from tokengym.lab.audit.decisions import Batch

GAE_LAMBDA = 1.0
"""Lambda that an estimator is given where it asks for one: the trainers' own default."""

Function = Callable[..., Any]
Estimator = Callable[[Batch], Tensor]
"""Returns advantages (batch, time), float64, 0 where the mask is False."""


class AuditError(SettingsError):
    """The audit cannot be run."""


@dataclass(frozen=True)
class Keyword:
    """An argument that an adapter knows."""

    make: Callable[[Batch], Any]
    reads: tuple[str, ...]
    """What it shows of a batch, by the names that `Check.needs` has."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """The signature of a family of estimators."""

    keywords: Mapping[str, Keyword]
    marks: tuple[str, ...]
    """Keywords of which a function names one if it is of this family; none if it must be named."""
    read: Callable[[Any, Batch], Any] = lambda result, _: result
    """Turns what the function returns into an array."""


class Config(dict[str, Any]):
    """Settings that a trainer passes as an object or as a mapping."""

    def __getattr__(self, name: str) -> Any:
        """Return a setting; those not known here are absent, as in a trainer's own defaults."""
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the audit sets no {name!r}; it sets {', '.join(self)}") from None


def _group_size(batch: Batch) -> int:
    """Return the rows of each prompt."""
    counts = batch.group_ids.unique(return_counts=True)[1]
    return int(counts[0])


def _turn_rewards(batch: Batch) -> Tensor:
    """Return the sum of each turn's token rewards, (batch, turns)."""
    turns = torch.zeros(len(batch.turn_ids), int(batch.turn_ids.max()) + 1)
    paid = batch.token_rewards.masked_fill(~batch.response_mask, 0.0)
    return turns.scatter_add(1, batch.turn_ids.clamp(min=0), paid)


def _steps(batch: Batch) -> list[list[float]]:
    """Return each row's rewards of the tokens that the policy wrote."""
    return [
        row[mask].tolist()
        for row, mask in zip(batch.token_rewards, batch.response_mask, strict=True)
    ]


def _on_steps(result: Any, batch: Batch) -> Tensor:
    """Return the advantages of `_steps` at their tokens."""
    advantages = torch.zeros(batch.token_rewards.shape, dtype=torch.float64)
    for row, (mask, own) in enumerate(zip(batch.response_mask, result, strict=True)):
        advantages[row, mask] = torch.tensor(np.asarray(own).tolist(), dtype=torch.float64)
    return advantages


def _by_group(batch: Batch) -> list[Any]:
    """Return the scores of each prompt's responses."""
    return [
        batch.scores[batch.group_ids == group].double().numpy()
        for group in batch.group_ids.unique()
    ]


def _on_groups(result: Any, batch: Batch) -> Tensor:
    """Return the advantages of `_by_group` at their rows, (batch,)."""
    by_group = result[0] if isinstance(result, tuple) else result
    advantages = torch.zeros(len(batch.scores), dtype=torch.float64)
    for group, own in zip(batch.group_ids.unique(), by_group, strict=True):
        advantages[batch.group_ids == group] = torch.tensor(
            np.asarray(own).tolist(), dtype=torch.float64
        )
    return advantages


def _whole(name: str) -> Keyword:
    return Keyword(lambda batch: getattr(batch, name), (name,))


_TOKEN_REWARDS = _whole("token_rewards")
_MASK = _whole("response_mask")
_NUMERIC_MASK = Keyword(lambda batch: batch.response_mask.long(), ("response_mask",))
_VALUES = _whole("values")
_SCORES = _whole("scores")
_TURN_IDS = _whole("turn_ids")
_GAMMA = _whole("gamma")
_LAMBDA = Keyword(lambda _: GAE_LAMBDA, ())
_SIZE = Keyword(_group_size, ("group_size",))
_CONFIG = Keyword(
    lambda batch: Config(gamma=batch.gamma, lam=GAE_LAMBDA, norm_adv_by_std_in_grpo=True),
    ("maybe gamma",),
)

ADAPTERS: Mapping[str, Adapter] = {
    "tokengym": Adapter(
        keywords={
            "token_rewards": _TOKEN_REWARDS,
            "response_mask": _MASK,
            "values": _VALUES,
            "turn_ids": _TURN_IDS,
            "response_ids": _whole("response_ids"),
            "scores": _SCORES,
            "group_ids": _whole("group_ids"),
            "group_size": _SIZE,
            "gamma": _GAMMA,
        },
        marks=("token_rewards", "scores"),
    ),
    "verl": Adapter(
        keywords={
            "token_level_rewards": _TOKEN_REWARDS,
            "response_mask": _NUMERIC_MASK,
            "values": _VALUES,
            "index": Keyword(
                lambda batch: np.array([f"prompt {i}" for i in batch.group_ids], dtype=object),
                ("group_ids",),
            ),
            "gamma": _GAMMA,
            "lam": _LAMBDA,
            "lambd": _LAMBDA,
            "config": _CONFIG,
            "old_log_probs": _whole("log_probs"),
            "sum_pi_squared": _whole("sum_pi_squared"),
            "reward_baselines": _whole("greedy_scores"),
        },
        marks=("token_level_rewards",),
    ),
    "trl": Adapter(
        keywords={"rewards": _SCORES, "num_generations": _SIZE}, marks=("num_generations",)
    ),
    "openrlhf": Adapter(
        keywords={
            "rewards": _TOKEN_REWARDS,
            "action_mask": _NUMERIC_MASK,
            "values": _VALUES,
            "gamma": _GAMMA,
            "lambd": _LAMBDA,
        },
        marks=("action_mask",),
    ),
    "turns": Adapter(
        keywords={
            "rewards": Keyword(_turn_rewards, ("turn_rewards",)),
            "turn_ids": _TURN_IDS,
            "action_masks": _MASK,
            "group_size": _SIZE,
            "num_samples": Keyword(lambda batch: len(batch.scores), ()),
            "gamma": _GAMMA,
        },
        marks=("action_masks",),
    ),
    "nemo-rl": Adapter(
        keywords={
            "prompt_ids": Keyword(lambda batch: batch.group_ids[:, None], ("group_ids",)),
            "rewards": _SCORES,
            "mask": Keyword(lambda batch: batch.response_mask.float(), ("response_mask",)),
            "values": _VALUES,
        },
        marks=("prompt_ids",),
    ),
    "steps": Adapter(
        keywords={"rewards": Keyword(_steps, ("token_rewards",)), "gamma": _GAMMA},
        marks=(),
        read=_on_steps,
    ),
    "groups": Adapter(
        keywords={
            "rewards": Keyword(_by_group, ("scores", "group_ids")),
            "algorithm_config": _CONFIG,
        },
        marks=("algorithm_config",),
        read=_on_groups,
    ),
}
"""Families of signatures by name: this library's own; verl's and SkyRL's registered functions; a
score a response and the responses of a prompt, as TRL counts; OpenRLHF's token rewards under an
action mask; rewards a turn (AgileRL); NeMo-RL's; a list of step rewards a response (Atropos); a
list of scores a prompt (rLLM)."""


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """An estimator that can be audited."""

    name: str
    adapter: str
    estimate: Estimator
    reads: frozenset[str]
    """What it is given of a batch, by the names that `Check.needs` has."""


def adapt(
    function: Function, *, adapter: str | None = None, name: str | None = None, numpy: bool = False
) -> Adapted:
    """Return a function as an estimator of batches.

    Args:
        function: Takes arguments by keyword, and returns advantages: (batch, time), (batch, 1) or
            (batch,), as a tensor or an array, alone or first in a tuple.
        adapter: Name of one of `ADAPTERS`; None finds it by the keywords that the function names.
        name: What the function is called in messages.
        numpy: Pass arrays instead of tensors.

    Raises:
        AuditError: if the function names an argument that the audit does not have.
    """
    name = name or str(getattr(function, "__name__", type(function).__name__))
    if not callable(function):
        raise AuditError(f"{name} must be a function of token rewards or scores, got {function!r}")
    parameters = _parameters(function, name)
    family = _find(adapter, parameters, name)
    keywords = ADAPTERS[family].keywords
    unknown = [p.name for p in parameters if p.name not in keywords and p.default is p.empty]
    if unknown:
        raise AuditError(
            f"{name} needs {unknown[0]!r}, which the adapter {family!r} does not have; "
            f"{did_you_mean(unknown[0], keywords)}it has {', '.join(keywords)}; wrap the function "
            "in one that names these"
        )
    given = {p.name: keywords[p.name] for p in parameters if p.name in keywords}
    if not given:
        raise AuditError(
            f"{name} names no argument of the audit; the adapter {family!r} has "
            f"{', '.join(keywords)}"
        )

    def estimate(batch: Batch) -> Tensor:
        mask = batch.response_mask.clone()  # the function may write into what it is given
        arguments = {word: keyword.make(batch) for word, keyword in given.items()}
        if numpy:
            arguments = {
                word: value.numpy() if isinstance(value, Tensor) else value
                for word, value in arguments.items()
            }
        result = function(**arguments)
        return _advantages(ADAPTERS[family].read(result, batch), mask, name)

    reads = frozenset(word for keyword in given.values() for word in keyword.reads)
    return Adapted(name=name, adapter=family, estimate=estimate, reads=reads)


def _parameters(function: Function, name: str) -> list[inspect.Parameter]:
    """Return the parameters that are passed by keyword and not fixed by a `functools.partial`."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise AuditError(f"the arguments of {name} cannot be read: {error}; wrap it") from error
    for parameter in parameters:
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise AuditError(f"{name} takes {parameter.name!r} by position alone; name it")
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    fixed = function.keywords if isinstance(function, functools.partial) else ()
    return [p for p in parameters if p.kind in named and p.name not in fixed]


def _find(adapter: str | None, parameters: Sequence[inspect.Parameter], name: str) -> str:
    """Return the name of the adapter that a function's keywords belong to."""
    if adapter is not None:
        if adapter not in ADAPTERS:
            raise AuditError(
                f"unknown adapter {adapter!r}; {did_you_mean(adapter, ADAPTERS)}"
                f"known: {', '.join(ADAPTERS)}"
            )
        return adapter
    named = [parameter.name for parameter in parameters]
    needed = {parameter.name for parameter in parameters if parameter.default is parameter.empty}
    marked = [
        family for family, known in ADAPTERS.items() if any(mark in named for mark in known.marks)
    ]
    for family in marked:
        if needed <= set(ADAPTERS[family].keywords):
            return family
    if marked:
        return marked[0]  # whose keywords the message then lists
    raise AuditError(
        f"{name}({', '.join(named)}) has the signature of no adapter; name one of "
        f"{', '.join(ADAPTERS)}, or wrap it in a function of "
        f"{', '.join(ADAPTERS['tokengym'].keywords)}"
    )


def _advantages(result: Any, mask: Tensor, name: str) -> Tensor:
    """Return what an estimator returned as (batch, time) float64."""
    first = result[0] if isinstance(result, tuple) else result
    try:
        advantages = torch.as_tensor(
            first if isinstance(first, Tensor) else np.array(first), dtype=torch.float64
        ).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise AuditError(
            f"{name} must return advantages as a tensor or an array, got "
            f"{type(first).__name__}: {error}"
        ) from error
    rows, time = mask.shape
    if advantages.shape == (rows,):
        advantages = advantages[:, None]
    if advantages.shape not in ((rows, time), (rows, 1)):
        raise AuditError(
            f"{name} must return advantages of shape {(rows, time)}, {(rows, 1)} or {(rows,)}, got "
            f"{tuple(advantages.shape)} for token rewards of {(rows, time)}"
        )
    return advantages.expand(rows, time).masked_fill(~mask, 0.0)
