"""The kinds of token attribution: one table of what each is called and who gives it."""

from dataclasses import dataclass
from typing import Literal

from tokengym.envs.registry import Registry

ScorerKind = Literal["any", "reward_model", "encoder"]
"""What a credit is scored by: a reward model, an encoder, or whichever the bundle has."""


@dataclass(frozen=True, kw_only=True)
class AttributionKind:
    """One way in which a score is attributed to the tokens of a response."""

    name: str
    """As credits ask for it and scorers offer it."""
    meaning: str
    """One line."""
    scorer: ScorerKind
    """Kind of model that gives it."""
    is_signed: bool = True
    """Signed and in reward units; False: weights >= 0 of any scale."""
    remedy: str = "score with RewardModel or take credit 'uniform'"
    """Remedy where a scorer lacks it."""


KINDS: Registry[AttributionKind] = Registry("attribution")
"""All kinds by name."""
for _kind in (
    AttributionKind(
        name="attention",
        meaning="last layer's attention of the last response token, averaged over heads",
        scorer="reward_model",
        is_signed=False,
    ),
    AttributionKind(
        name="signed-attention",
        meaning="attention times what each value vector does to the score",
        scorer="reward_model",
    ),
    AttributionKind(
        name="prefix",
        meaning="how much each token moved the score of the text before it",
        scorer="reward_model",
        remedy="score with RewardModel or take 'red:every_prefix=true' (one scoring per token)",
    ),
    AttributionKind(
        name="gradient",
        meaning="embedding times gradient of the score",
        scorer="reward_model",
    ),
    AttributionKind(
        name="integrated-gradients",
        meaning="the same, averaged along the line from zero embeddings of the response",
        scorer="reward_model",
    ),
    AttributionKind(
        name="deeplift",
        meaning="exact shares of the change of score from a blank response, by DeepLIFT's rules",
        scorer="reward_model",
    ),
    AttributionKind(
        name="relevance",
        meaning="each token's exact part of a mean-pooled dot product",
        scorer="encoder",
        remedy="score with Relevance or take credit 'uniform'",
    ),
):
    KINDS.register(_kind.name, _kind)

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
