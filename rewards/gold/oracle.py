"""The gold score of the Oracle: the environment's own, so that nothing can be above it."""

from collections.abc import Sequence
from dataclasses import dataclass

from tokengym.envs.oracle.score import RULES, Rule, oracle_score


@dataclass(frozen=True, kw_only=True)
class OracleRules:
    """Which rules of the score hold, see `tokengym.envs.oracle.score`."""

    rules: Sequence[Rule] = RULES
    """Of "negation", "selection" and "order"."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", tuple(self.rules))
        if unknown := [rule for rule in self.rules if rule not in RULES]:
            raise ValueError(f"rules must be among {', '.join(RULES)}, got {unknown[0]!r}")


def oracle_parts(
    prompt: Sequence[str], response: Sequence[str], rules: OracleRules
) -> dict[str, float]:
    """Return the exact score under the one name that its parts have.

    Args:
        prompt: Does not matter.
        response: Words of the response.
        rules: Those that hold.

    Example:
        >>> oracle_parts(["the"], "film not bad".split(), OracleRules())
        {'opinions': 0.5}
    """
    del prompt
    return {"opinions": oracle_score(response, rules.rules)}
