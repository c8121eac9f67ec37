"""The decorator of a function of token credit, and what its signature says that it reads."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from tokengym.base.registry import did_you_mean
from tokengym.rewards.credits.names import NAMES
from tokengym.rewards.credits.options import UNIVERSAL, Cut
from tokengym.rewards.errors import CreditError
from tokengym.rewards.scores import ScorerKind

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])
Flag = bool | Callable[..., bool]
Fact = Any
"""A value, or a function of the options that it names, which returns it."""
MARK = "token_credit"
"""Attribute under which a function or class has its `Declared`."""
REQUIRED = inspect.Parameter.empty
"""Default of an option that must be given."""
ModelKind = Literal["language", "reward"]
"""Kind of a model that an option names."""
OF_MODEL: Mapping[ModelKind, Mapping[str, str]] = {
    "language": {
        "config": "config",
        **{n.removeprefix("ref_"): n for n in NAMES if NAMES[n].supplier == "reference"},
    },
    "reward": {"config": "config", **{n: n for n in NAMES if NAMES[n].supplier == "scorer"}},
}
"""What is read of a model of each kind, with its name of the table."""


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What is true of a function's token rewards; each a value, or a function of the options."""

    name: str = ""
    """In messages and reports; "" takes the function's, with hyphens."""
    parts: Fact = False
    """Whether it returns parts of the score, and the last token gets what they miss of it."""
    conserves: Fact = True
    """Whether a row sums to its score, to which every row is held."""
    causal: Fact = False
    """Whether a token's reward depends on tokens up to it alone, so that it is paid when it is
    written."""
    control: Fact = False
    """Whether it reads nothing of what the text says: what it gains is due to dense credit."""
    by_row: Fact = True
    """Whether a row's result depends on that row alone, whatever else is in its batch."""
    gae_lambda: Fact = None
    """Lambda in [0, 1] that suits the token rewards, for a learner without one of its own."""
    scorer: ScorerKind = "any"
    """Kind of scorer where the user names none."""
    scorer_options: tuple[str, ...] = ()
    """Options after the name that are the scorer's."""
    check: Callable[..., None] | None = None
    """Refuses options: called with an object that has the function's own as attributes."""
    models: Mapping[str, ModelKind] = field(default_factory=dict)
    """Options that are frozen models, each a folder or hub name that must be given; with
    ``teacher`` the function reads ``teacher_log_probs``."""
    whitens: Fact = False
    """Of an estimator: whether its advantages are whitened over the batch."""
    loss_mean: Fact = None
    """Of an estimator or a loss: the mean that its paper takes of the loss; None is an estimator's
    "token", and a loss's that of the estimator."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Defaults of `UNIVERSAL` options that are its own."""


@overload
def token_credit(function: AnyFunction, /) -> AnyFunction: ...
@overload  # the fields of `Declared` and the options of every rule, for type checkers
def token_credit(
    *,
    name: str = ...,
    parts: Flag = ...,
    conserves: Flag = ...,
    causal: Flag = ...,
    control: Flag = ...,
    by_row: Flag = ...,
    gae_lambda: float | Callable[..., float | None] | None = ...,
    scorer: ScorerKind = ...,
    scorer_options: tuple[str, ...] = ...,
    check: Callable[..., None] | None = ...,
    models: Mapping[str, ModelKind] = ...,
    whitens: Flag = ...,
    loss_mean: str | Callable[..., str] | None = ...,
    beta: float = ...,
    segments: int | None = ...,
    cut: Cut | None = ...,
    reference: str | None = ...,
) -> Callable[[AnyFunction], AnyFunction]: ...
def token_credit(function: Any = None, /, **facts: Any) -> Any:
    """Mark a function, or a class that is called like one, as a rule of token credit.

    ```python
    @tokengym.token_credit(beta=0.8)
    def abc(paid, attention, response_mask):
        return paid[:, None] * shares(attention, response_mask)
    ```
    A parameter without a default is read (`NAMES`, or a column of the data); one with a default is
    an option, as in "rules.py:abc:beta=1". The function is returned as it is, and can be called and
    pickled as before. It returns token rewards (batch, time), or those and a mapping of figures,
    (batch,) each and nan where nothing was measured, which the score's parts then have.

    Args:
        function: The function; a class that has a state is made with its options, and its
            ``__call__`` names what it reads. ``state_dict`` and ``load_state_dict`` of it are kept
            in checkpoints.
        facts: Fields of `Declared`, and defaults of the options that every rule has: ``beta``,
            ``segments`` and ``cut``.

    Raises:
        TypeError: if a fact is unknown, or what is marked is no function or class.
    """
    defaults = {name: facts.pop(name) for name in UNIVERSAL if name in facts}
    known = [one.name for one in fields(Declared) if one.name != "defaults"]
    for name in facts:
        if name not in known:
            raise TypeError(
                f"token_credit has no fact {name!r}; {did_you_mean(name, [*known, *UNIVERSAL])}"
                f"it has {', '.join([*known, *UNIVERSAL])}"
            )
    declared = Declared(**facts, defaults=defaults)

    def mark(marked: Any) -> Any:
        if not callable(marked):
            raise TypeError(f"token_credit marks a function or a class, got {marked!r}")
        if isinstance(marked, partial):
            if is_token_credit(marked) and declared == Declared():
                return marked
            raise TypeError(
                f"token_credit marks a function or a class, got {marked!r}; mark "
                f"{getattr(unwrapped(marked)[0], '__name__', 'its function')} and pass the partial"
            )
        setattr(marked, MARK, declared)
        return marked

    return mark if function is None else mark(function)


def unwrapped(made: Any) -> tuple[Any, dict[str, Any]]:
    """Return what a ``functools.partial`` is of, and the options that it gives; else the object."""
    given: dict[str, Any] = {}
    while isinstance(made, partial):
        given = {**made.keywords, **given}
        made = made.func
    return made, given


def is_token_credit(made: Any) -> bool:
    """Return whether `token_credit` marked an object, or what a ``functools.partial`` is of."""
    return isinstance(getattr(unwrapped(made)[0], MARK, None), Declared)


@dataclass(frozen=True)
class Signature:
    """What a function of named inputs reads and takes, as its parameters say."""

    name: str
    place: str
    """File and line of its definition, for messages; "" of what has none."""
    reads: tuple[str, ...]
    """Names without a default, in order."""
    options: Mapping[str, Any]
    """Options with their defaults; `REQUIRED` of those that must be given."""
    declared: Declared

    @property
    def models(self) -> Mapping[str, ModelKind]:
        """Options that are models, with the kind."""
        return self.declared.models

    def model_of(self, name: str) -> tuple[str, str] | None:
        """Return the model and its name of the table that a parameter reads; None of any other."""
        for model, kind in self.models.items():
            if name.startswith(f"{model}_"):
                if (rest := name.removeprefix(f"{model}_")) not in OF_MODEL[kind]:
                    raise CreditError(
                        f"{self.who} reads {name!r}, and a {kind} model has "
                        f"{', '.join(OF_MODEL[kind])}"
                    )
                return model, OF_MODEL[kind][rest]
        return None

    @property
    def who(self) -> str:
        """The function in messages: its name and place."""
        return f"{self.name} ({self.place})" if self.place else self.name

    @classmethod
    def of(cls, function: Any) -> Signature:
        """Return the signature of a function, of a class, or of an object that is called.

        Raises:
            CreditError: if a parameter has no name that could be supplied.
        """
        declared = getattr(function, MARK, None)
        is_class = isinstance(function, type)
        called = function
        if is_class or not inspect.isroutine(function):
            called = getattr(function, "__call__", None)  # noqa: B004
        parameters = dict(inspect.signature(called).parameters)
        if is_class:
            parameters.pop(next(iter(parameters), ""), None)  # self
        made = inspect.signature(function).parameters if is_class else {}
        kind = function if is_class or inspect.isroutine(function) else type(function)
        name = kind.__name__
        place = place_of(called)
        who = f"{name} ({place})" if place else name
        declared = declared if isinstance(declared, Declared) else Declared()
        reads, options = [], dict[str, Any](dict.fromkeys(declared.models, REQUIRED))
        for one in [*parameters.values(), *made.values()]:
            if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD, one.POSITIONAL_ONLY):
                raise CreditError(
                    f"{who} takes {one}; a function of token credit names what it reads, one "
                    "parameter each"
                )
            if one.default is REQUIRED and one.name in parameters:
                reads.append(one.name)
            else:
                options[one.name] = one.default
        for option in options:
            if option in NAMES and not NAMES[option].is_number:
                raise CreditError(
                    f"{who} gives {option!r} a default, which makes it an option; what is read has "
                    "none"
                )
        label = declared.name or name.replace("_", "-")
        found = cls(label, place, tuple(reads), options, declared)
        for read in reads:
            found.model_of(read)  # which refuses what a model lacks
        return found


def place_of(function: Any) -> str:
    """Return the file and line of a function's definition, as in "rules.py:12"; "" of code in C."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return "" if code is None else f"{Path(code.co_filename).name}:{code.co_firstlineno}"
