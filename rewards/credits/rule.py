"""A function of token credit with its options: what a reward, a trainer and an audit call."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Union

from typing_extensions import Self

from tokengym.base.registry import did_you_mean
from tokengym.rewards.credits.names import ACCOUNTS, NAMES, Supplier
from tokengym.rewards.credits.options import REPLACED, UNIVERSAL, resolved
from tokengym.rewards.credits.token_credit import (
    REQUIRED,
    Declared,
    Signature,
    is_token_credit,
)
from tokengym.rewards.errors import CreditError
from tokengym.rewards.maths.tokens import on_last, rest_on_last

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from tokengym.envs.episode import Episode
    from tokengym.rewards.attribution.policy_reader import PolicyReader
    from tokengym.rewards.credits.calling import Figures
    from tokengym.rewards.credits.inputs import Inputs
    from tokengym.rewards.credits.pieces import Pieces

Source = Union[str, Path, "PolicyReader"]
"""Folder or hub name of a language model, or what reads it."""


class Rule:
    """A function of token credit, bound to its options.

    Args:
        function: What `token_credit` marked, a ``functools.partial`` of it, or any function of
            named inputs.
        options: Its own options, and those of `UNIVERSAL`.

    Raises:
        CreditError: if an option is unknown, missing or out of range, or the function has a
            parameter that nobody could supply.
    """

    kind: ClassVar[str] = "credit"
    """What it is in messages."""
    shared_options: ClassVar[Mapping[str, Any]] = UNIVERSAL
    """Options that every one has, with their defaults."""

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        given = dict(options)
        while isinstance(function, partial):
            given = {**function.keywords, **given}
            function = function.func
        self.signature = signature = Signature.of(function)
        self.declared: Declared = signature.declared
        self.name: str = signature.name
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        own = self._own_options(given)
        defaults = {**self.shared_options, **self.declared.defaults}
        shared = {name: value for name, value in defaults.items() if name not in own}
        of_shared = {name: value for name, value in given.items() if name in shared}
        self.options: dict[str, Any] = {**shared, **own}
        self.options |= resolved(shared, of_shared, self._fact("causal"))
        self.function = function
        made: tuple[str, ...] = ()
        if isinstance(function, type):
            made = tuple(inspect.signature(function).parameters)
            self.function = function(**{name: own[name] for name in made})
        self._of_call = tuple(name for name in own if name not in made)
        self.reference: Source | None = None
        """The frozen language model that ``ref_log_probs`` and its kin are read from."""

    def _own_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
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
                    f"{', '.join(known)}{reads}"
                )
        own |= {name: value for name, value in given.items() if name in own}
        if missing := [name for name, value in own.items() if value is REQUIRED]:
            written = "PATH" if missing[0] in signature.models else "VALUE"
            raise CreditError(
                f"{self.kind} {self.name!r} needs {missing[0]}; write "
                f"'{self.name}:{missing[0]}={written}'"
            )
        if self.declared.check is not None:
            checked = SimpleNamespace(**own)
            self.declared.check(checked)
            own |= {name: getattr(checked, name) for name in own}
        return own

    def __repr__(self) -> str:
        return f"Rule({self.name})"

    # --- what is true of it -----------------------------------------------------------------------

    def _fact(self, name: str) -> Any:
        """Return what the decorator says, of these options where it is a function of them."""
        fact = getattr(self.declared, name)
        if not inspect.isroutine(fact):
            return fact
        named = inspect.signature(fact).parameters
        return fact(**{option: self.options[option] for option in named})

    @property
    def parts(self) -> bool:
        """Whether the last token gets what the function's result misses of the score."""
        return bool(self._fact("parts"))

    @property
    def conserves(self) -> bool:
        """Whether each row sums to its score."""
        return bool(self._fact("conserves"))

    @property
    def causal(self) -> bool:
        """Whether `step` pays a token when it is written."""
        return bool(self._fact("causal")) and self.options.get("delivery") != "end"

    @property
    def control(self) -> bool:
        """Whether it reads nothing of what the text says."""
        return bool(self._fact("control"))

    @property
    def gae_lambda(self) -> float | None:
        """Lambda that suits its token rewards; None leaves it to the learner."""
        value: float | None = self._fact("gae_lambda")
        return value

    @property
    def each_prefix(self) -> bool:
        """Whether every prefix is scored as a text of its own."""
        return self.options.get("prefixes") == "each"

    @property
    def cut(self) -> Any:
        """Where pieces begin; None where each token is paid by itself."""
        cut, segments = self.options.get("cut"), self.options.get("segments")
        return "even" if cut is None and segments is not None else cut

    @property
    def reads(self) -> tuple[str, ...]:
        """Names that it reads, with what its pieces and the rest of the score need."""
        more = ["ref_entropy"] if self.cut == "entropy" else []
        if self.parts or self.options.get("beta", 1.0) != 1.0 or self.conserves:
            more.append("scores")
        return tuple(dict.fromkeys([*self.signature.reads, *more]))

    def reads_of(self, supplier: Supplier) -> list[str]:
        """Return the names that it reads of one supplier; of "data" the columns."""
        by = {name: NAMES[name].supplier if name in NAMES else "data" for name in self.reads}
        return [name for name, one in by.items() if one == supplier]

    @property
    def accounts(self) -> list[str]:
        """Kinds of token attribution that it reads of the scorer."""
        kinds = [ACCOUNTS[name] for name in self.reads if name in ACCOUNTS]
        return [kind for kind in kinds if kind != "prefix" or not self.each_prefix]

    @property
    def needs_reference(self) -> bool:
        """Whether it reads the frozen reference policy of the environment."""
        unnamed = [
            name
            for name, kind in self.signature.models.items()
            if kind == "LanguageModel" and self.options[name] is None
        ]
        return bool(unnamed or self.reads_of("reference"))

    @property
    def needs_policy(self) -> bool:
        """Whether it continues responses with the policy that learns."""
        return "continue_from" in self.reads

    # --- models -----------------------------------------------------------------------------------

    def with_reference(self, source: Source) -> Self:
        """Return the rule with a language model to read; itself if it has one or reads none."""
        if not self.needs_reference or self.reference is not None:
            return self
        other = copy.copy(self)
        other.reference = source
        return other

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> Self:
        """Return the rule with its models loaded, for responses of a policy's tokenizer.

        Raises:
            CreditError: if it reads a language model and there is none.
            TokenizerError: if a model's vocabulary is another one.
        """
        if not self.needs_reference and not self.signature.models:
            return self
        other = copy.copy(self)
        other.options = dict(self.options)
        for name, kind in self.signature.models.items():
            if (source := self.options[name]) is not None:
                other.options[name] = self._loaded(name, kind, source).bind(tokenizer)
                if kind == "RewardModel":
                    self._check_accounts(other.options[name])
            elif kind == "RewardModel":
                raise CreditError(
                    f"credit {self.name!r} reads a model; write '{self.name}:{name}=PATH'"
                )
        if self.needs_reference:
            other.reference = self.reader().bind(tokenizer)
        return other

    def _check_accounts(self, model: Any) -> None:
        """Refuse a model without an account of tokens that the function's own code names."""
        code = getattr(inspect.unwrap(self.function), "__code__", None)
        named = () if code is None else code.co_names
        lacks = [one for one in named if one in ACCOUNTS]
        lacks = [one for one in lacks if ACCOUNTS[one] not in (model.attribution_kinds or ())]
        if lacks:
            raise CreditError(
                f"credit {self.name!r} reads {lacks[0]} of {model.name}, which has none for these "
                "texts; take a causal model with the policy's tokenizer"
            )

    def reader(self) -> PolicyReader:
        """Return what reads the reference policy, loaded when it is first needed."""
        if self.reference is None:
            raise CreditError(
                f"credit {self.name!r} reads a frozen language model, and there is no reference "
                f"policy; {self._reference_remedy()}"
            )
        self.reference = reader = self._loaded("reference", "LanguageModel", self.reference)
        return reader

    def _reference_remedy(self) -> str:
        models = self.signature.models.items()
        named = [name for name, kind in models if kind == "LanguageModel"]
        unnamed = [name for name in named if self.options[name] is None]
        if unnamed:
            return f"write '{self.name}:{unnamed[0]}=PATH'"
        if self.cut == "entropy":
            return "take cut='even'"
        return "take a task with a bundle, or TokenCredit(reference_policy=PATH)"

    def _loaded(self, name: str, kind: str, source: Any) -> Any:
        if kind == "LanguageModel":
            from tokengym.rewards.attribution.policy_reader import PolicyReader

            is_source = isinstance(source, str | Path)
            return PolicyReader.from_pretrained(source) if is_source else source
        from tokengym.rewards.scorers.reward_model import RewardModel

        return RewardModel.from_pretrained(source) if isinstance(source, str | Path) else source

    # --- calling ----------------------------------------------------------------------------------

    def __call__(self, inputs: Inputs) -> tuple[Tensor, Figures]:
        """Return the rewards of a batch's own tokens, (batch, time), and the figures.

        Raises:
            CreditError: if the function raises, or returns what is no reward of these tokens.
        """
        from tokengym.rewards.credits.calling import call, checked_figures
        from tokengym.rewards.credits.models import ModelNames
        from tokengym.rewards.credits.pieces import Pieces

        view: Inputs | Pieces = inputs
        if self.cut is not None:
            view = Pieces(inputs, self.cut, self.options["segments"])
        arguments = {name: view[name] for name in self.signature.reads}
        options = {name: self.options[name] for name in self._of_call}
        for name in self.signature.models:
            model = self.reader() if options[name] is None else options[name]
            options[name] = ModelNames(model, view)
        mask = view["response_mask"]
        rewards, figures = call(self.signature, self.function, arguments, options, mask)
        if isinstance(view, Pieces):
            rewards = view.placed(rewards, self.options["pay"])
        who = f"credit {self.signature.who}"
        return self._whole(inputs, rewards), checked_figures(figures, len(rewards), who)

    def _whole(self, inputs: Inputs, rewards: Tensor) -> Tensor:
        """Return the rewards with the share of the score that is not spread, and the rest."""
        beta = self.options["beta"] if "beta" not in self.signature.options else 1.0
        mask = inputs["response_mask"]
        if self.parts:
            rewards = rewards if beta == 1.0 else beta * rewards
            return rest_on_last(inputs["scores"], rewards, mask) if inputs.ended else rewards
        if beta == 1.0:
            return rewards
        return beta * rewards + (1.0 - beta) * on_last(inputs["scores"], mask)

    def pieces(self, episodes: Sequence[Episode], **supplied: Any) -> list[list[range]]:
        """Return the tokens of each response that are paid in one sum."""
        from tokengym.rewards.credits.inputs import Inputs
        from tokengym.rewards.credits.pieces import Pieces

        reference = self.reader() if self.needs_reference and self.cut == "entropy" else None
        inputs = Inputs(episodes, reference=reference, **supplied)
        rows = range(len(inputs.episodes))
        if self.cut is None:
            return [inputs.spans(row) for row in rows]
        pieces = Pieces(inputs, self.cut, self.options["segments"])
        return [pieces.spans(row) for row in rows]

    # --- state ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what a rule with a state learnt, as plain numbers; {} of most."""
        state: dict[str, Any] = getattr(self.function, "state_dict", dict)()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        if state:
            load = getattr(self.function, "load_state_dict", None)
            if load is None:
                raise CreditError(f"credit {self.name!r} holds no state, got {sorted(state)}")
            load(state)


def as_rule(made: Any, **options: Any) -> Any:
    """Return what `token_credit` marked as a `Rule`; anything else as it is."""
    return Rule(made, **options) if is_token_credit(made) else made
