"""Rewards by name: the table behind ``reward="abc"`` and `register`."""

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, cast, overload

from tokengym.rewards.credits import (
    ABC,
    ABCD,
    ABCD2,
    RED,
    SCAR,
    Attribution,
    Credit,
    DenseR3,
    Random,
    Recency,
    SignedABC,
    Sparse,
    Uniform,
)
from tokengym.rewards.errors import RewardError
from tokengym.rewards.reward import Reward
from tokengym.rewards.scorers.base import SupportsScore, scorer_name
from tokengym.rewards.scorers.function import FunctionScorer
from tokengym.rewards.scorers.normalize import Normalize
from tokengym.rewards.scorers.sentiment import Sentiment
from tokengym.rewards.scorers.stored import load_scorer

if TYPE_CHECKING:
    from tokengym.envs.bundle import Bundle

ScorerKind = Literal["any", "reward_model", "encoder"]
Function = Callable[[str, str], float]
RewardSpec = None | str | Reward | Credit | SupportsScore | Function
Factory = Callable[..., Credit | Reward | SupportsScore]


@dataclass(frozen=True)
class _Entry:
    factory: Factory
    scorer: ScorerKind = "any"
    scorer_options: tuple[str, ...] = ()
    """Options in the name that are the scorer's, not the credit's."""


_R3_COMPONENTS = ("length_incentive", "repetition_penalty", "reward_branching")


_REWARDS: dict[str, _Entry] = {
    "sparse": _Entry(Sparse),
    "uniform": _Entry(Uniform),
    "abc": _Entry(ABC, "reward_model"),
    "abc-signed": _Entry(SignedABC, "reward_model"),
    "abc-d": _Entry(ABCD),
    "abc-d2": _Entry(ABCD2),
    "red": _Entry(RED),
    "scar": _Entry(SCAR),
    "attribution": _Entry(Attribution),
    "r3": _Entry(Sparse, "encoder", _R3_COMPONENTS),
    "r3-dense": _Entry(DenseR3, "encoder", _R3_COMPONENTS),
    "random": _Entry(Random),
    "recency": _Entry(Recency),
}


_SCORER_FOR: dict[str | None, ScorerKind] = {
    "attention": "reward_model",
    "signed-attention": "reward_model",
    "prefix": "reward_model",
    "gradient": "reward_model",
    "integrated-gradients": "reward_model",
    "relevance": "encoder",
}


def register(name: str, factory: Factory, *, scorer: ScorerKind = "any") -> None:
    """Make a reward known by name, so that ``gym.make(id, reward=name)`` finds it.

    Args:
        name: What users write; options follow it as ``"name:option=value,option=value"``.
        factory: Called with the options as keyword arguments. It returns a `Credit` (which gets
            the environment's scorer), a `Scorer` (which gets the sparse credit) or a `Reward`.
        scorer: What a credit scores with when the user names no scorer: the bundle's reward model,
            its encoder, or whichever it has.

    Raises:
        RewardError: if the name is taken, or cannot be written in front of options.
        TypeError: if the factory is not callable.
    """
    if not name or any(mark in name for mark in ":=, "):
        raise RewardError(f"name must be free of ':', '=', ',' and spaces, got {name!r}")
    if name in _REWARDS:
        raise RewardError(f"a reward named {name!r} is registered already; choose another name")
    if not callable(factory):
        raise TypeError(f"factory must be callable, got {factory!r}; pass a class or a function")
    _REWARDS[name] = _Entry(factory, scorer)


def registered_rewards() -> list[str]:
    """Return the names that `make_reward` knows."""
    return sorted(_REWARDS)


@overload
def make_reward(
    spec: None,
    *,
    bundle: "Bundle | None" = None,
    scorer: SupportsScore | Function | str | Path | None = None,
    normalize: Literal["running", "batch"] | None = None,
    batch_size: int = 1,
    max_len: int | None = None,
) -> None: ...


@overload
def make_reward(
    spec: str | Reward | Credit | SupportsScore | Function,
    *,
    bundle: "Bundle | None" = None,
    scorer: SupportsScore | Function | str | Path | None = None,
    normalize: Literal["running", "batch"] | None = None,
    batch_size: int = 1,
    max_len: int | None = None,
) -> Reward: ...


def make_reward(
    spec: RewardSpec,
    *,
    bundle: "Bundle | None" = None,
    scorer: SupportsScore | Function | str | Path | None = None,
    normalize: Literal["running", "batch"] | None = None,
    batch_size: int = 1,
    max_len: int | None = None,
) -> Reward | None:
    """Return the reward that a user's argument describes.

    Args:
        spec: None for no reward; a name, with options as in "abc:beta=1.0"; a `Reward`; a `Credit`;
            a `Scorer`, or a function of prompt and response, either with the sparse credit.
        bundle: Where the scorer comes from if none is passed.
        scorer: A scorer, a function of prompt and response, or the folder or hub name of a model:
            of an encoder for the r3 rewards, of a reward model for every other.
        normalize: "running" centres and scales by everything seen so far (`Normalize`); "batch"
            centres by about the last ``batch_size`` scores.
        batch_size: Episodes that are scored together: the number of environments.
        max_len: Longest response, tokens: R3's scale of constrained answers; None leaves 512.

    Raises:
        RewardError: if the name, an option or a normalisation is unknown, or there is no scorer.
        TypeError: if ``spec`` is something else.
    """
    if spec is None:
        if scorer is not None or normalize is not None:
            raise RewardError(
                "scorer and normalize have no effect with reward=None; name a reward, e.g. 'sparse'"
            )
        return None
    kind: ScorerKind = "any"
    components: dict[str, Any] = {}
    name = spec if isinstance(spec, str) else None
    if isinstance(spec, str):
        name, spec, kind, components = _from_name(spec)
    if isinstance(spec, Reward):
        if scorer is not None:
            raise RewardError(f"{spec!r} has a scorer already; leave scorer out, or pass a credit")
        return _normalized(spec, normalize, batch_size)
    if _is_credit(spec):
        # A credit says what attributions it needs; the table knows what a name stands for besides.
        name = name or getattr(spec, "name", "") or type(spec).__name__
        kind = _SCORER_FOR.get(getattr(spec, "attribution", None), kind)
        chosen = _scorer(scorer, kind, bundle, max_len, label=name)
        if components:
            chosen = _with_components(chosen, components, label=name)
        return _normalized(Reward(chosen, _with_policy(spec, bundle)), normalize, batch_size)
    if _is_scorer(spec) or callable(spec):
        if scorer is not None:
            raise RewardError(f"{spec!r} is a scorer itself; leave scorer out, or pass a credit")
        chosen = spec if _is_scorer(spec) else FunctionScorer(cast(Callable[..., Any], spec))
        return _normalized(Reward(chosen, Sparse()), normalize, batch_size)
    raise TypeError(
        f"reward must be None, a name, a Reward, a Credit, a Scorer or a function of prompt and "
        f"response, got {spec!r}"
    )


def scorer_kind(spec: RewardSpec) -> ScorerKind | None:
    """Return what a reward must be scored by: a reward model, an encoder, or anything.

    Args:
        spec: As of `make_reward`.

    Returns:
        None where no scorer is wanted: for None, and for what is or has one itself.

    Raises:
        RewardError: if the name or an option is unknown.

    Example:
        >>> scorer_kind("abc"), scorer_kind("red:every_prefix=true"), scorer_kind(len)
        ('reward_model', 'any', None)
    """
    kind: ScorerKind = "any"
    if isinstance(spec, str):
        _, spec, kind, _ = _from_name(spec)
    if not _is_credit(spec):
        return None
    return _SCORER_FOR.get(getattr(spec, "attribution", None), kind)


def _is_credit(value: object) -> TypeGuard[Credit]:
    return callable(getattr(value, "assign", None))


def _is_scorer(value: object) -> TypeGuard[SupportsScore]:
    return callable(getattr(value, "score", None))


def _scorer(
    scorer: Any, kind: ScorerKind, bundle: "Bundle | None", max_len: int | None, *, label: str
) -> SupportsScore:
    """Return the scorer that was passed, or the bundle's."""
    if isinstance(scorer, (str, Path)):
        if kind == "encoder":
            return load_scorer(scorer, "encoder", max_len=max_len)
        return load_scorer(scorer, "reward_model")
    if _is_scorer(scorer):
        return scorer
    if scorer is not None:
        return FunctionScorer(scorer)
    wanted = ("reward_model", "encoder", "lexicon") if kind == "any" else (kind,)
    has = [part for part in wanted if bundle is not None and bundle.has(part)]
    if bundle is None or not has:
        make = "Relevance" if kind == "encoder" else "RewardModel"
        lack = f"the bundle {bundle.path} has no {' or '.join(wanted)}" if bundle else "got None"
        raise RewardError(
            f"reward {label!r} needs a scorer, but {lack}; "
            f"pass scorer=rewards.{make}.from_pretrained(path)"
        )
    if has[0] == "lexicon":
        return Sentiment.from_file(bundle.lexicon)
    if has[0] == "encoder":
        return load_scorer(bundle.encoder, "encoder", max_len=max_len)
    return load_scorer(bundle.reward_model, "reward_model")


def _with_components(
    scorer: SupportsScore, components: dict[str, Any], *, label: str
) -> SupportsScore:
    """Return the scorer with those of its components that a name's options switch."""
    configure = getattr(scorer, "with_components", None)
    if configure is None:
        raise RewardError(
            f"reward {label!r} has the options {', '.join(components)} of Relevance, but scores "
            f"with {scorer_name(scorer)!r}; pass scorer=rewards.Relevance(...) or leave them out"
        )
    return configure(**components)


def _with_policy(credit: Credit, bundle: "Bundle | None") -> Credit:
    """Return the credit; one that reads the policy's attention gets the bundle's policy."""
    with_policy = getattr(credit, "with_policy", None)
    if with_policy is None or bundle is None or not bundle.has("policy"):
        return credit
    return with_policy(bundle.policy)


def _normalized(reward: Reward, normalize: str | None, batch_size: int) -> Reward:
    if normalize is None:
        return reward
    if normalize == "running":
        return Reward(Normalize(reward.scorer), reward.credit)
    if normalize == "batch":
        if batch_size < 2:
            raise RewardError(
                "normalize='batch' takes the mean of one score off itself with 1 environment; "
                "use make_vec with more, or normalize='running'"
            )
        scorer = Normalize(reward.scorer, window=batch_size, scale=False, clip=None)
        return Reward(scorer, reward.credit)
    raise RewardError(f"normalize must be None, 'running' or 'batch', got {normalize!r}")


def check_name(name: str) -> None:
    """Refuse a name that no reward has.

    Args:
        name: Without options.

    Raises:
        RewardError: with the near matches.
    """
    if name not in _REWARDS:
        near = difflib.get_close_matches(name, _REWARDS)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise RewardError(
            f"unknown reward {name!r}; {hint}known: {', '.join(registered_rewards())}"
        )


def _from_name(
    text: str,
) -> tuple[str, Credit | Reward | SupportsScore, ScorerKind, dict[str, Any]]:
    """Return the name, what its factory makes, what that scores with, and the scorer's options."""
    name, _, options = text.partition(":")
    check_name(name)
    entry = _REWARDS[name]
    keywords = _parse_options(text, options)
    components = {key: keywords.pop(key) for key in entry.scorer_options if key in keywords}
    parameters = inspect.signature(entry.factory).parameters
    accepted = [*parameters, *entry.scorer_options]
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    if not takes_any and (unknown := [key for key in keywords if key not in accepted]):
        raise RewardError(
            f"reward {name!r} has no option {unknown[0]!r}; it has {', '.join(accepted) or 'none'}"
        )
    return name, entry.factory(**keywords), entry.scorer, components


def _parse_options(text: str, options: str) -> dict[str, Any]:
    keywords: dict[str, Any] = {}
    for option in filter(None, options.split(",")):
        key, equals, value = option.partition("=")
        if not equals:
            raise RewardError(
                f"reward {text!r} has the option {option!r}; write it as option=value, "
                "e.g. 'abc:beta=1.0'"
            )
        keywords[key.strip()] = _number(value.strip())
    return keywords


def _number(value: str) -> Any:
    for convert in (int, float):
        try:
            return convert(value)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(value.lower(), value)
