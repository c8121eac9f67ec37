"""The kinds of token attribution: one table of what each is called and who gives it."""

from dataclasses import dataclass
from typing import Literal

ScorerKind = Literal["any", "reward_model", "encoder"]
"""Kind of scorer of a credit: a reward model, an encoder, or whichever the bundle has."""


@dataclass(frozen=True, kw_only=True)
class AttributionKind:
    """One way in which a score is attributed to the tokens of a response."""

    scorer: ScorerKind = "reward_model"
    """Kind of model that gives it."""
    is_signed: bool = True
    """Signed and in reward units; False: weights >= 0 of any scale."""
    remedy: str = "score with RewardModel or take credit 'uniform'"
    """Remedy where a scorer lacks it."""


KINDS = {
    "attention": AttributionKind(is_signed=False),
    "signed-attention": AttributionKind(),
    "prefix": AttributionKind(
        remedy="score with RewardModel or take 'red:every_prefix=true' (one scoring per token)"
    ),
    "gradient": AttributionKind(),
    "integrated-gradients": AttributionKind(),
    "deeplift": AttributionKind(),
    "relevance": AttributionKind(
        scorer="encoder", remedy="score with Relevance or take credit 'uniform'"
    ),
}
"""All kinds by the name that credits ask for and scorers offer; see `RewardModel.score`."""

REWARD_MODEL_KINDS = frozenset(
    name for name, kind in KINDS.items() if kind.scorer == "reward_model"
)
ENCODER_KINDS = frozenset(name for name, kind in KINDS.items() if kind.scorer == "encoder")
SIGNED_KINDS = frozenset(name for name, kind in KINDS.items() if kind.is_signed)


def remedy_for(name: str) -> str:
    """Return what to do where a scorer lacks a kind of attribution."""
    if name in KINDS:
        return KINDS[name].remedy
    return "score with one that gives them or take credit 'uniform'"
