"""The table of rewards by name: rules that ship, and what users and installed packages register."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from tokengym.base.objects import own
from tokengym.base.registry import Registry
from tokengym.rewards.credits.options import REPLACED, UNIVERSAL, Cut
from tokengym.rewards.credits.rule import Rule
from tokengym.rewards.credits.token_credit import (
    MARK,
    REQUIRED,
    Signature,
    is_token_credit,
    unwrapped,
)
from tokengym.rewards.errors import RewardError
from tokengym.rewards.scores import ScorerKind

MACHINERY = frozenset(
    "bound calling inputs names options pieces probe rule token_credit words".split()
)
"""Modules of this folder that are no rules."""
SHIPPED = tuple(
    module.name.replace("_", "-")
    for module in iter_modules([str(Path(__file__).parent)])
    if module.name not in MACHINERY
)
"""Rules of this package: each is a function in the file of its name, imported when it is named."""


class RuleMaker:
    """A function of token credit as a factory: called with options, it returns a `Rule`.

    Args:
        function: What `token_credit` marked, or a ``functools.partial`` of it, whose options are
            its defaults.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        function, self._given = unwrapped(function)
        self.function = function
        self.__doc__ = inspect.unwrap(function).__doc__
        self.__module__ = function.__module__
        self.__name__ = getattr(function, "__name__", type(function).__name__)

    def __call__(self, **options: Any) -> Rule:
        """Return the rule with these options."""
        return Rule(own(self.function), **{**self._given, **options})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RuleMaker):
            return False
        return self.function is other.function and self._given == other._given

    def __hash__(self) -> int:
        return hash(self.function)

    @property
    def __signature__(self) -> inspect.Signature:
        """The options: the function's own, and those that every rule has."""
        signature = Signature.of(self.function)
        called = dict(inspect.signature(self.function).parameters)
        if isinstance(self.function, type):
            called |= inspect.signature(getattr(self.function, "__call__")).parameters  # noqa: B004, B009
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            inspect.Parameter(
                name,
                keyword,
                default=default,
                # A model is a folder or hub name here.
                annotation=str
                if name in signature.models
                else _evaluated(called[name].annotation, self.function),
            )
            for name, default in signature.options.items()
        ]
        shared = {**UNIVERSAL, **signature.declared.defaults}
        parameters += [
            inspect.Parameter(name, keyword, default=default, annotation=_kind_of(name))
            for name, default in shared.items()
            if name not in signature.options
        ]
        parameters = [
            one.replace(default=self._given.get(one.name, one.default)) for one in parameters
        ]
        return inspect.Signature(sorted(parameters, key=lambda one: one.default is not REQUIRED))


def _evaluated(annotation: Any, function: Callable[..., Any]) -> Any:
    """Return an annotation that is text as what it names, where its module has that at run time."""
    if not isinstance(annotation, str):
        return annotation
    with suppress(Exception):
        return eval(annotation, vars(sys.modules[function.__module__]))
    return annotation


def _kind_of(option: str) -> Any:
    """Return the annotation of an option that every rule has."""
    kinds = {"beta": float, "segments": int | None, "cut": Cut | None, "reference": str | None}
    return kinds[option]


@dataclass(frozen=True)
class RewardEntry:
    """Entry of a registered name."""

    factory: Callable[..., Any]
    """Called with the options after the name; returns a `Rule`, a `Scorer` or a `Reward`."""
    scorer: ScorerKind = "any"
    """Scorer of a rule when the user names none."""
    scorer_options: tuple[str, ...] = ()
    """Options after the name that are the scorer's, not the rule's."""

    @classmethod
    def of(cls, made: Any) -> RewardEntry:
        """Return the entry of a function of token credit, or of another factory."""
        if not is_token_credit(made):
            return cls(made)
        declared = getattr(unwrapped(made)[0], MARK)
        return cls(RuleMaker(made), declared.scorer, declared.scorer_options)


def _import_rules(name: str | None) -> None:
    """Register a rule of this package, or all of them."""
    for word in SHIPPED if name is None else (name,):
        if word in SHIPPED and word not in REWARDS:
            attribute = word.replace("-", "_")
            module = import_module(f"tokengym.rewards.credits.{attribute}")
            REWARDS.register(word, RewardEntry.of(getattr(module, attribute)))


REWARDS: Registry[RewardEntry] = Registry(
    "reward",
    group="rewards",
    error=RewardError,
    from_files=True,
    adopt=lambda name, made: RewardEntry.of(made),
    import_names=_import_rules,
    replaced=REPLACED,
)
"""All rewards by name."""


def register(
    name: str,
    factory: Callable[..., Any],
    *,
    scorer: ScorerKind = "any",
    scorer_options: tuple[str, ...] = (),
) -> None:
    """Make a reward known by name, so that ``gym.make(id, reward=name)`` finds it.

    Args:
        name: What users write; options follow it as ``"name:option=value,option=value"``.
        factory: A function of token credit, or what is called with the options as keyword
            arguments. It returns a `Rule` (which gets the environment's scorer), a `Scorer` (which
            gets the sparse rule) or a `Reward`.
        scorer: What a factory's rule scores with when the user names no scorer: the bundle's reward
            model, its encoder, or whichever it has; a function says so itself.
        scorer_options: Options that are handed to the scorer; likewise.

    Raises:
        RewardError: if the name is taken, or cannot be written in front of options.
        TypeError: if the factory is not callable.
    """
    if not callable(factory):
        raise TypeError(f"factory must be callable, got {factory!r}; pass a class or a function")
    entry = RewardEntry(factory, scorer, scorer_options)
    REWARDS.register(name, RewardEntry.of(factory) if is_token_credit(factory) else entry)
