"""Scores of responses (scorers) and their division among tokens (credit), as Gymnasium wrappers.

```python
env = gym.make("tokengym/MovieReview-v0", reward="abc:beta=1.0")
env = rewards.ABCReward(gym.make(id, reward=None), scorer=rewards.RewardModel.from_pretrained(path))
```
Scorers with a model load torch; they are imported when they are first named.
"""

from typing import TYPE_CHECKING

from tokengym.base.exports import lazily
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
    from tokengym.rewards.attribution.alignment import continued_spans, spread_by_overlap
    from tokengym.rewards.attribution.policy_reader import PolicyReader
    from tokengym.rewards.attribution.readings import Reading, register_reading
    from tokengym.rewards.credits.base import (
        REWARDS,
        Cut,
        FloatArray,
        SegmentedCredit,
        Source,
        check_beta,
        register_credit,
    )
    from tokengym.rewards.credits.probe import Probe
    from tokengym.rewards.credits.red import IncrementCredit
    from tokengym.rewards.registry import RewardChoice, scorer_kind
    from tokengym.rewards.scorers.base import SCORERS, Shared, SupportsScore, register_scorer
    from tokengym.rewards.scorers.partner import PartnerScore
    from tokengym.rewards.scorers.relevance import Relevance
    from tokengym.rewards.scorers.reward_model import RewardModel
    from tokengym.rewards.scorers.stored import PREFERENCE_FORMAT
    from tokengym.rewards.scorers.toxicity import Toxicity
    from tokengym.rewards.scorers.vader import Vader
    from tokengym.rewards.written import assign_written

_NAMES = {
    "attribution.alignment": "continued_spans spread_by_overlap",
    "attribution.readings": "Reading register_reading",
    "attribution.policy_reader": "PolicyReader",
    "credits.base": "Cut FloatArray REWARDS SegmentedCredit Source check_beta register_credit",
    "credits.probe": "Probe",
    "credits.red": "IncrementCredit",
    "registry": "RewardChoice scorer_kind",
    "scorers.base": "SCORERS Shared SupportsScore register_scorer",
    "scorers.partner": "PartnerScore",
    "scorers.relevance": "Relevance",
    "scorers.reward_model": "RewardModel",
    "scorers.stored": "PREFERENCE_FORMAT",
    "scorers.toxicity": "Toxicity",
    "scorers.vader": "Vader",
    "written": "assign_written",
}

__all__ = [
    "ABC",
    "PREFERENCE_FORMAT",
    "RED",
    "REWARDS",
    "SCORERS",
    "ABCReward",
    "Cached",
    "Credit",
    "CreditError",
    "CreditReward",
    "Cut",
    "DenseR3",
    "FloatArray",
    "FunctionScorer",
    "IncrementCredit",
    "LengthPenalty",
    "MissingEosPenalty",
    "Normalize",
    "PartnerScore",
    "PolicyReader",
    "PreferencePair",
    "PreferencePairs",
    "Probe",
    "Product",
    "R3Reward",
    "Random",
    "Reading",
    "Recency",
    "Relevance",
    "Reward",
    "RewardCheckError",
    "RewardChoice",
    "RewardError",
    "RewardModel",
    "RewardWrapper",
    "RuleScorer",
    "Scorer",
    "ScorerError",
    "Scores",
    "SegmentedCredit",
    "Sentiment",
    "Shared",
    "SignedABC",
    "Source",
    "Sparse",
    "SparseReward",
    "Sum",
    "SupportsScore",
    "TimeLimit",
    "Toxicity",
    "Uniform",
    "UniformReward",
    "Vader",
    "VectorRewardWrapper",
    "WithAttribution",
    "assign_written",
    "check_beta",
    "check_reward",
    "continued_spans",
    "gold_scorer",
    "load_scorer",
    "make_reward",
    "read_labels",
    "read_pairs",
    "register",
    "register_credit",
    "register_reading",
    "register_scorer",
    "registered_rewards",
    "scorer_kind",
    "spread_by_overlap",
]


__getattr__ = lazily(__name__, _NAMES)
