"""Functions of named inputs over a round, bound to options: `advantage=`, `weights=`, `loss=`.

All three read one list of names, `RoundInputs`. The place says what the result is: the advantages,
factors on them, or the policy loss of each token. A loss is called in every gradient step, where
``log_probs`` and ``entropy`` are the policy's of the moment, with a gradient; in the other places
that policy is the one that sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from typing import Any, ClassVar

from torch import Tensor

from tokengym.agents.ppo.inputs import OF_STEP, RoundInputs
from tokengym.agents.ppo.settings import PPOSettings
from tokengym.base import objects
from tokengym.base.registry import Registry, did_you_mean
from tokengym.envs import SettingsError
from tokengym.rewards import Scorer
from tokengym.rewards.credits.bound import BoundFunction
from tokengym.rewards.credits.calling import checked_figures
from tokengym.rewards.credits.names import ACCOUNTS, NAMES, places_of
from tokengym.rewards.scores import remedy_for
from tokengym.rewards.wrappers import has_partner

OF_SETTINGS = frozenset(field.name for field in fields(PPOSettings))
"""Settings of the learner, which are names too."""


class RoundFunction(BoundFunction):
    """A function of named inputs over a round of episodes; see `RoundInputs`.

    Raises:
        CreditError: as `BoundFunction`.
    """

    of_learner = OF_SETTINGS
    functions: ClassVar[Registry[Callable[..., Any]]]
    """Those that have a name."""

    @property
    def by_row(self) -> bool:
        """Whether what it makes of a response depends on that response alone."""
        return bool(self._fact("by_row"))

    def check_supply(
        self,
        scorer: Scorer | None,
        columns: Callable[[], Collection[str]],
        settings: Callable[[], Any] = lambda: None,
    ) -> None:
        """Refuse names that neither learner, environment nor data can supply.

        Args:
            scorer: The environment's; None where it has none, or it is not known.
            columns: Returns the columns of the prompts' data.
            settings: Returns those of the environment, which say whether it has a partner.

        Raises:
            SettingsError: in one line, with who could supply the name.
        """
        kinds = {"prefix"} if scorer is None else {"prefix", *(scorer.attribution_kinds or ())}
        for name in self.reads:
            if name == "turn_scores" and not has_partner(settings()):
                raise SettingsError(
                    f"{self.who} reads {name!r}, and nobody scores single turns here; make the "
                    "environment with partner=..."
                )
            if name in ACCOUNTS and scorer is not None and ACCOUNTS[name] not in kinds:
                raise SettingsError(
                    f"{self.who} reads {name!r}, which scorer {scorer.name!r} does not give; "
                    f"{remedy_for(ACCOUNTS[name])}"
                )
            if name in NAMES or name in OF_SETTINGS or self.signature.model_of(name) is not None:
                continue
            if name not in (of_data := columns()):
                names = [*NAMES, *OF_SETTINGS, *of_data]
                raise SettingsError(
                    f"{self.who} reads {name!r}, which is no name of a round, setting of the "
                    "learner or column that the environment read of its data; "
                    f"{did_you_mean(name, names)}see tokengym.rewards.credits.names, or pass "
                    f"metadata_columns=[{name!r}] to the environment for a column of its dataset"
                )

    @classmethod
    def adopted(cls, name: str, made: Any) -> Callable[..., Any]:
        """Return the function that a file or an installed package defines."""
        if not callable(made):
            raise SettingsError(
                f"{cls.kind} {name} must be a function of named inputs, got {made!r}; write "
                "def mine(token_rewards, response_mask): ..."
            )
        return made

    @classmethod
    def find(cls, word: str | Callable[..., Any]) -> Any:
        """Return one by its function or word: "gae", "path/to/file.py:mine:alpha=0.5".

        Raises:
            SettingsError: if there is none, with the near matches, or it is no such function.
        """
        made = objects.found(word)
        if not isinstance(made, str):
            return cls(objects.own(cls.adopted(getattr(made, "__name__", repr(made)), made)))
        parsed = cls.functions.parse(made)
        return cls(objects.own(cls.functions.find(parsed)), **parsed.options)


class Weights(RoundFunction):
    """Factors on the advantages, after whitening."""

    kind = "weights"

    def weigh(self, inputs: RoundInputs) -> Tensor:
        """Return (batch, time) finite numbers; 0 outside the mask."""
        return inputs.spread(self.call(inputs)[0])


class Loss(RoundFunction):
    """The policy loss of each token."""

    kind = "loss"

    @property
    def of_round(self) -> list[str]:
        """Names that it reads of the round, which a gradient step has not of its own."""
        return [name for name in self.reads if name not in OF_STEP and name not in OF_SETTINGS]

    @property
    def loss_mean(self) -> str | None:
        """The mean that it declares; None takes the estimator's."""
        mean: str | None = self._fact("loss_mean")
        return mean

    def check_supply(self, *known: Any) -> None:
        """Refuse, beside what `RoundFunction` does, functions over a round: a step has parts."""
        super().check_supply(*known)
        for name in self.reads:
            if name in NAMES and "loss=" not in places_of(name):
                raise SettingsError(
                    f"{self.who} reads {name!r}, which is asked of whole rounds; read it under "
                    "weights= or advantage="
                )

    def per_token(
        self, inputs: RoundInputs, named: Mapping[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return (batch, time) losses with their gradient, and figures, (rows,) each.

        Args:
            inputs: Of the gradient step.
            named: What `of_round` names, of all rows; see `Experience.named`.
        """
        given = {name: inputs.of_rows(name, value) for name, value in named.items()}
        losses, figures = self.call(inputs, given, waits=False, with_gradient=True)
        return inputs.spread(losses), checked_figures(figures, len(losses), self.who, waits=False)


WEIGHTS = Weights.functions = Registry(
    "weights", group="weights", from_files=True, adopt=Weights.adopted
)
"""The functions of all weights by name."""
LOSSES = Loss.functions = Registry(
    "loss",
    group="losses",
    from_files=True,
    adopt=Loss.adopted,
)
"""The functions of all policy losses by name."""
