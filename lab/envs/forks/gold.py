"""The verifier of Forks as gold rules, which a bundle's ``gold.json`` stores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tokengym.lab.envs.forks.families import verify
from tokengym.rewards.gold import Rules


@dataclass(frozen=True, kw_only=True)
class ForkRules(Rules):
    """The verifier of forks, which has no options: the prompt says all there is to know."""

    kind: ClassVar[str] = "forks"

    def parts(self, prompt: Sequence[str], response: Sequence[str]) -> dict[str, float]:
        """Return whether the response solves the prompt's task, 1 or 0."""
        return {"solved": verify(" ".join(prompt), " ".join(response))}
