"""A function of named inputs over a round, bound to its options: an estimator, or a weight."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import fields
from typing import Any, ClassVar

from tokengym.agents.ppo.settings import PPOSettings
from tokengym.base.registry import did_you_mean
from tokengym.envs import SettingsError
from tokengym.rewards import Scorer
from tokengym.rewards.credits.bound import BoundFunction
from tokengym.rewards.credits.names import ACCOUNTS, NAMES
from tokengym.rewards.credits.token_credit import Signature, unwrapped
from tokengym.rewards.scores import remedy_for
from tokengym.rewards.wrappers import has_partner

OF_SETTINGS = frozenset(field.name for field in fields(PPOSettings))
"""Settings of the learner, which are names too."""


class RoundFunction(BoundFunction):
    """A function of named inputs over a round of episodes; see `RoundInputs`.

    Raises:
        CreditError: as `BoundFunction`.
        SettingsError: if a parameter has a name that no learner supplies.
    """

    of_learner = OF_SETTINGS
    lacks: ClassVar[frozenset[str]] = frozenset({"continue_from", "ref_entropy"})
    """Names of the table that are not there."""

    def __init__(self, function: Any, **options: Any) -> None:
        super().__init__(function, **options)
        self.check_names(function)

    @property
    def by_row(self) -> bool:
        """Whether what it makes of a response depends on that response alone."""
        return bool(self._fact("by_row"))

    @classmethod
    def check_names(cls, function: Any) -> None:
        """Refuse a function that reads a name of the table that is not there in any round."""
        signature = Signature.of(unwrapped(function)[0])
        for name in signature.reads:
            if name in cls.lacks:
                place = "reward=" if name in RoundFunction.lacks else "weights="
                raise SettingsError(
                    f"{cls.kind} {signature.who} reads {name!r}, which is not there; pass the "
                    f"function as {place}, where alone it is read"
                )

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
            if name in NAMES or name in OF_SETTINGS:
                continue
            if name not in (of_data := columns()):
                names = [*NAMES, *OF_SETTINGS, *of_data]
                raise SettingsError(
                    f"{self.who} reads {name!r}, which is no name of a round, setting of the "
                    "learner or column that the environment read of its data; "
                    f"{did_you_mean(name, names)}see tokengym.rewards.credits.names, or pass "
                    f"metadata_columns=[{name!r}] to the environment for a column of its dataset"
                )
