"""What a response is worth (scorers) and which token earned it (credit), as Gymnasium wrappers.

```python
env = gym.make("tokengym/MovieReview-v0", reward="abc:beta=1.0")
env = rewards.ABCReward(gym.make(id, reward=None), scorer=rewards.RewardModel.from_pretrained(path))
```
Scorers with a model load torch; they are imported when they are first named.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tokengym.rewards.check import check_reward
from tokengym.rewards.credits import (
    ABC,
    ABCD,
    ABCD2,
    RED,
    SCAR,
    Attribution,
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
from tokengym.rewards.scorers.wrappers import Cached, Explained, TimeLimit
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
    from tokengym.rewards.scorers.judge import Judge
    from tokengym.rewards.scorers.preference_model import PreferenceModel
    from tokengym.rewards.scorers.relevance import Relevance
    from tokengym.rewards.scorers.reward_model import RewardModel
    from tokengym.rewards.scorers.toxicity import Toxicity
    from tokengym.rewards.training import (
        RewardTraining,
        train_preference_model,
        train_reward_model,
    )

_LAZY = {
    "Judge": "tokengym.rewards.scorers.judge",
    "PreferenceModel": "tokengym.rewards.scorers.preference_model",
    "Relevance": "tokengym.rewards.scorers.relevance",
    "RewardModel": "tokengym.rewards.scorers.reward_model",
    "RewardTraining": "tokengym.rewards.training",
    "Toxicity": "tokengym.rewards.scorers.toxicity",
    "train_preference_model": "tokengym.rewards.training",
    "train_reward_model": "tokengym.rewards.training",
}

__all__ = [
    "ABC",
    "ABCD",
    "ABCD2",
    "RED",
    "SCAR",
    "ABCReward",
    "Attribution",
    "Cached",
    "Credit",
    "CreditError",
    "CreditReward",
    "DenseR3",
    "Explained",
    "FunctionScorer",
    "Judge",
    "LengthPenalty",
    "MissingEosPenalty",
    "Normalize",
    "PreferenceModel",
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
    "RewardTraining",
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
    "check_reward",
    "gold_scorer",
    "load_scorer",
    "make_reward",
    "read_labels",
    "read_pairs",
    "register",
    "registered_rewards",
    "train_preference_model",
    "train_reward_model",
]


def __getattr__(name: str) -> Any:
    """Import a scorer with a model when it is first named."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
