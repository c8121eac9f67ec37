"""The verifier of Forks as gold rules, which a bundle's ``gold.json`` stores."""

from collections.abc import Sequence
from dataclasses import dataclass

from tokengym.lab.envs.forks.families import verify
from tokengym.rewards.gold import register_gold


@dataclass(frozen=True, kw_only=True)
class ForkRules:
    """The verifier of forks, which has no options: the prompt says all there is to know."""


def fork_parts(
    prompt: Sequence[str], response: Sequence[str], rules: ForkRules
) -> dict[str, float]:
    """Return whether the response solves the prompt's task, 1 or 0."""
    del rules
    return {"solved": verify(" ".join(prompt), " ".join(response))}


register_gold("forks", ForkRules, fork_parts)
