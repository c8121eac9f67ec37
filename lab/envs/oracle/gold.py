"""The Oracle's exact score as gold rules, which a bundle's ``gold.json`` stores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tokengym.lab.envs.oracle.score import RULES, Rule, oracle_score
from tokengym.rewards.gold import Rules


@dataclass(frozen=True, kw_only=True)
class OracleRules(Rules):
    """Rules of the score that hold, see `tokengym.lab.envs.oracle.score`."""

    kind: ClassVar[str] = "oracle"
    rules: Sequence[Rule] = RULES
    """Rules that hold, among "negation", "selection" and "order"."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", tuple(self.rules))
        if unknown := [rule for rule in self.rules if rule not in RULES]:
            raise ValueError(f"rules must be among {', '.join(RULES)}, got {unknown[0]!r}")

    def parts(self, prompt: Sequence[str], response: Sequence[str]) -> dict[str, float]:
        """Return the exact score under the one name that its parts have.

        Args:
            prompt: Does not matter.
            response: Words of the response.

        Example:
            >>> OracleRules().parts(["the"], "film not bad".split())
            {'opinions': 0.5}
        """
        del prompt
        return {"opinions": oracle_score(response, self.rules)}
