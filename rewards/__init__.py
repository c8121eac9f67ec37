"""Scores of responses (scorers) and their division among tokens (credit), as Gymnasium wrappers.

```python
env = gym.make("tokengym/MovieReview-v0", reward="abc:beta=1.0")
env = rewards.ABCReward(gym.make(id, reward=None), scorer=rewards.RewardModel.from_pretrained(path))
```
Scorers with a model load torch; they are imported when they are first named.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tokengym.base.plugins import plugged
from tokengym.rewards.check import check_reward
from tokengym.rewards.credits import (
    ABC,
    RED,
    Credit,
    DenseR3,
    Random,
    Recency,
    SignedABC,
    Sparse,
    Uniform,
)
from tokengym.rewards.errors import CreditError, RewardCheckError, RewardError, ScorerError
from tokengym.rewards.pairs import PreferencePair, PreferencePairs, read_labels, read_pairs
from tokengym.rewards.registry import make_reward, register, registered_rewards
from tokengym.rewards.reward import Reward
from tokengym.rewards.scorers.base import FunctionScorer, Product, Scorer, Scores, Sum
from tokengym.rewards.scorers.normalize import Normalize
from tokengym.rewards.scorers.penalties import LengthPenalty, MissingEosPenalty
from tokengym.rewards.scorers.rules import RuleScorer
from tokengym.rewards.scorers.sentiment import Sentiment
from tokengym.rewards.scorers.stored import gold_scorer, load_scorer
from tokengym.rewards.scorers.wrappers import Cached, TimeLimit, WithAttribution
from tokengym.rewards.wrappers import (
    ABCReward,
    CreditReward,
    R3Reward,
    RewardWrapper,
    SparseReward,
    UniformReward,
    VectorRewardWrapper,
)

if TYPE_CHECKING:
    from tokengym.rewards.scorers.relevance import Relevance
    from tokengym.rewards.scorers.reward_model import RewardModel
    from tokengym.rewards.scorers.toxicity import Toxicity

_LAZY = {
    "Relevance": "tokengym.rewards.scorers.relevance",
    "RewardModel": "tokengym.rewards.scorers.reward_model",
    "Toxicity": "tokengym.rewards.scorers.toxicity",
}

__all__ = [
    "ABC",
    "RED",
    "ABCReward",
    "Cached",
    "Credit",
    "CreditError",
    "CreditReward",
    "DenseR3",
    "FunctionScorer",
    "LengthPenalty",
    "MissingEosPenalty",
    "Normalize",
    "PreferencePair",
    "PreferencePairs",
    "Product",
    "R3Reward",
    "Random",
    "Recency",
    "Relevance",
    "Reward",
    "RewardCheckError",
    "RewardError",
    "RewardModel",
    "RewardWrapper",
    "RuleScorer",
    "Scorer",
    "ScorerError",
    "Scores",
    "Sentiment",
    "SignedABC",
    "Sparse",
    "SparseReward",
    "Sum",
    "TimeLimit",
    "Toxicity",
    "Uniform",
    "UniformReward",
    "VectorRewardWrapper",
    "WithAttribution",
    "check_reward",
    "gold_scorer",
    "load_scorer",
    "make_reward",
    "read_labels",
    "read_pairs",
    "register",
    "registered_rewards",
]


def __getattr__(name: str) -> Any:
    """Import a scorer with a model, or what an installed package adds, when it is first named."""
    if name == "Explained":  # its name in version 0.1
        return WithAttribution
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    return plugged(__name__, name)
