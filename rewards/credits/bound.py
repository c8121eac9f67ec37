"""A function of named inputs with its options: what rules, estimators and weights have alike."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Union

from typing_extensions import Self

from tokengym.base.registry import did_you_mean
from tokengym.rewards.credits.names import ACCOUNTS, NAMES
from tokengym.rewards.credits.options import REPLACED
from tokengym.rewards.credits.token_credit import (
    MARK,
    REQUIRED,
    Declared,
    Signature,
    unwrapped,
)
from tokengym.rewards.errors import CreditError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from tokengym.rewards.attribution.policy_reader import PolicyReader
    from tokengym.rewards.credits.calling import Figures
    from tokengym.rewards.credits.inputs import Inputs

Source = Union[str, Path, "PolicyReader"]
"""Folder or hub name of a language model, or what reads it."""


class BoundFunction:
    """A function of named inputs, bound to its options.

    Args:
        function: What `token_credit` marked, a ``functools.partial`` of it, or any function of
            named inputs; a class is made with its options.
        options: Its own options, and those of ``shared_options``.

    Raises:
        CreditError: if an option is unknown, missing or out of range, or the function has a
            parameter that nobody could supply.
    """

    kind: ClassVar[str] = "function"
    """What it is in messages."""
    shared_options: ClassVar[Mapping[str, Any]] = {}
    """Options that every one of its kind has, with their defaults."""
    of_learner: ClassVar[frozenset[str]] = frozenset()
    """Names beside those of `NAMES` that a learner supplies."""
    binds_reference: ClassVar[bool] = False
    """Whether it has the reference policy itself; a trainer has its own."""

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        positional = getattr(function, "args", ()) if isinstance(function, partial) else ()
        function, given = unwrapped(function)
        given |= options
        self.signature = signature = Signature.of(function)
        if positional:
            raise CreditError(
                f"{self.kind} {signature.who} is given {positional[0]!r} by place in a "
                "functools.partial; give its options by name"
            )
        self.declared: Declared = signature.declared
        self.name: str = signature.name
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        own = self._own_options(given)
        self.options: dict[str, Any] = {**self._shared(own, given), **own}
        self.function = function
        made: tuple[str, ...] = ()
        if isinstance(function, type):
            made = tuple(inspect.signature(function).parameters)
            self.function = function(**{name: own[name] for name in made})
        self._of_call = tuple(n for n in own if n not in made and n not in signature.models)
        self.reference: Source | None = self.options.pop("reference", None)
        """The frozen language model that ``ref_log_probs`` and its kin are read from."""

    def _shared(self, own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of its kind that it has, checked; ``own`` takes the place of any."""
        del own, given
        return {}

    def _own_options(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the function's own options, checked."""
        signature = self.signature
        own = {**signature.options}
        known = [*own, *(name for name in self.shared_options if name not in own)]
        for name in given:
            if name not in known:
                reads = f"; it reads {name}" if name in signature.reads else ""
                near = did_you_mean(name, known)
                remedy = f"write {REPLACED[name]}; " if name in REPLACED else near
                raise CreditError(
                    f"{self.kind} {self.name!r} has no option {name!r}; {remedy}it has "
                    f"{', '.join(known) or 'none'}{reads}"
                )
        own |= {name: value for name, value in given.items() if name in own}
        if missing := [name for name, value in own.items() if value is REQUIRED]:
            written = "PATH" if missing[0] in signature.models else "VALUE"
            raise CreditError(
                f"{self.kind} {self.name!r} needs {missing[0]}; write "
                f"'{self.name}:{missing[0]}={written}'"
            )
        if self.declared.check is not None:
            more = {"reference": given.get("reference")} if self.binds_reference else {}
            checked = SimpleNamespace(**more, **own)
            self.declared.check(checked)
            own |= {name: getattr(checked, name) for name in own}
            given.update({name: getattr(checked, name) for name in more})
        return own

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name})"

    @property
    def who(self) -> str:
        """The function in messages: its kind, name and place."""
        return f"{self.kind} {self.signature.who}"

    @property
    def reads(self) -> tuple[str, ...]:
        """Names that it reads."""
        return self.signature.reads

    @property
    def columns(self) -> list[str]:
        """Columns of the data that it reads; "reference" is that of the references."""
        known = {*NAMES, *self.of_learner}
        named = [n for n in self.reads if n not in known and self.signature.model_of(n) is None]
        return [*named, *(["reference"] if "references" in self.reads else [])]

    def _fact(self, name: str) -> Any:
        """Return what the decorator says, of these options where it is a function of them."""
        fact = getattr(self.declared, name)
        if not inspect.isroutine(fact):
            return fact
        named = inspect.signature(fact).parameters
        return fact(**{option: self.options[option] for option in named})

    # --- models -----------------------------------------------------------------------------------

    @property
    def needs_reference(self) -> bool:
        """Whether it reads the frozen reference policy."""
        return any(NAMES[n].supplier == "reference" for n in self.reads if n in NAMES)

    def with_reference(self, source: Source) -> Self:
        """Return it with a language model to read; itself if it has one or reads none."""
        if not self.needs_reference or self.reference is not None:
            return self
        other = copy.copy(self)
        other.reference = source
        return other

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> Self:
        """Return it with its models loaded, for responses of a policy's tokenizer.

        Raises:
            CreditError: if it reads a language model and there is none.
            TokenizerError: if a model's vocabulary is another one.
        """
        other = copy.copy(self)
        other.options = dict(self.options)
        for name, kind in self.signature.models.items():
            other.options[name] = model = _loaded(kind, self.options[name]).bind(tokenizer)
            lacks = [n for m, n in self._of_models if m == name and n in ACCOUNTS]
            lacks = [n for n in lacks if ACCOUNTS[n] not in (model.attribution_kinds or ())]
            if lacks:
                raise CreditError(
                    f"{self.kind} {self.name!r} reads {lacks[0]} of {model.name}, which has none "
                    "for these texts; take a causal model with the policy's tokenizer"
                )
        if self.needs_reference and self.binds_reference:
            other.reference = self.reader().bind(tokenizer)
        return other

    @property
    def _of_models(self) -> list[tuple[str, str]]:
        """Models with the names of the table that it reads of each."""
        return [found for name in self.signature.reads if (found := self.signature.model_of(name))]

    def reader(self) -> PolicyReader:
        """Return what reads the reference policy, loaded when it is first needed."""
        if self.reference is None:
            raise CreditError(
                f"{self.kind} {self.name!r} reads a frozen language model, and there is no "
                f"reference policy; write '{self.name}:reference=PATH', or take a task with a "
                "bundle, or TokenCredit(reference_policy=PATH)"
            )
        self.reference = reader = _loaded("language", self.reference)
        return reader

    # --- calling ----------------------------------------------------------------------------------

    def arguments(self, inputs: Inputs, names: Collection[str]) -> dict[str, Any]:
        """Return the values of names that it reads, those of its models among them."""
        read_of: dict[str, list[str]] = {}
        for model, name in self._of_models:
            read_of.setdefault(model, []).append(name)
        under = {one: inputs.under(self.options[one], asked) for one, asked in read_of.items()}
        found = {}
        for name in names:
            of_model = self.signature.model_of(name)
            found[name] = under[of_model[0]][of_model[1]] if of_model else inputs[name]
        return found

    def call(
        self,
        inputs: Inputs,
        given: Mapping[str, Any] | None = None,
        *,
        waits: bool = True,
        with_gradient: bool = False,
    ) -> tuple[Tensor, Figures]:
        """Return what the function makes of its inputs, (batch, time), and its figures.

        Args:
            inputs: Its inputs by name.
            given: Names whose values are others than those of the inputs.
            waits: As of `tokengym.rewards.credits.calling.call`.
            with_gradient: Likewise.

        Raises:
            CreditError: if it raises, or returns what is no number for each column of each row.
        """
        from tokengym.rewards.credits.calling import call

        reads, given = self.signature.reads, given or {}
        arguments = self.arguments(inputs, [name for name in reads if name not in given])
        arguments |= {name: given[name] for name in reads if name in given}
        options = {name: self.options[name] for name in self._of_call}
        mask = inputs["response_mask"]
        how: Any = {"what": self.kind, "waits": waits, "with_gradient": with_gradient}
        return call(self.signature, self.function, arguments, options, mask, **how)

    # --- copies -----------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        # What is declared may hold lambdas, which nothing pickles. The function has it, and is
        # pickled by its name.
        bare = replace(self.signature, declared=Declared())
        return {**vars(self), "signature": bare, "declared": bare.declared}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self.declared = getattr(self.function, MARK, self.declared)
        self.signature = replace(self.signature, declared=self.declared)

    # --- state ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what one with a state learnt, as plain numbers; {} of most."""
        state: dict[str, Any] = getattr(self.function, "state_dict", dict)()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned; {} also of one that has learned nothing yet."""
        load = getattr(self.function, "load_state_dict", None)
        if load is not None:
            load(state)
        elif state:
            raise CreditError(f"{self.kind} {self.name!r} holds no state, got {sorted(state)}")


def _loaded(kind: str, source: Any) -> Any:
    """Return the model of a folder or hub name; a model as it is."""
    if not isinstance(source, str | Path):
        return source
    if kind == "language":
        from tokengym.rewards.attribution.policy_reader import PolicyReader

        return PolicyReader.from_pretrained(source)
    from tokengym.rewards.scorers.reward_model import RewardModel

    return RewardModel.from_pretrained(source)
