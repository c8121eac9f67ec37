"""Scores of responses (scorers) and their division among tokens (credit), as Gymnasium wrappers.

```python
env = gym.make("tokengym/MovieReview-v0", reward="abc:beta=1.0")
env = rewards.ABCReward(gym.make(id, reward=None), scorer=rewards.RewardModel.from_pretrained(path))
```
Scorers with a model load torch; they are imported when they are first named.
"""

from typing import TYPE_CHECKING

from tokengym.base.exports import lazily, listed

if TYPE_CHECKING:
    from tokengym.rewards.attribution.alignment import continued_spans, spread_by_overlap
    from tokengym.rewards.attribution.policy_reader import PolicyReader
    from tokengym.rewards.attribution.readings import Reading, register_reading
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
    from tokengym.rewards.errors import CreditError, RewardCheckError, RewardError, ScorerError
    from tokengym.rewards.pairs import PreferencePair, PreferencePairs, read_labels, read_pairs
    from tokengym.rewards.registry import (
        RewardChoice,
        make_reward,
        register,
        registered_rewards,
        scorer_kind,
    )
    from tokengym.rewards.reward import Reward
    from tokengym.rewards.scorers.base import (
        SCORERS,
        FunctionScorer,
        Product,
        Scorer,
        Scores,
        Shared,
        Sum,
        SupportsScore,
        register_scorer,
    )
    from tokengym.rewards.scorers.normalize import Normalize
    from tokengym.rewards.scorers.partner import PartnerScore
    from tokengym.rewards.scorers.penalties import LengthPenalty, MissingEosPenalty
    from tokengym.rewards.scorers.relevance import Relevance
    from tokengym.rewards.scorers.reward_model import RewardModel
    from tokengym.rewards.scorers.rules import RuleScorer
    from tokengym.rewards.scorers.sentiment import Sentiment
    from tokengym.rewards.scorers.stored import PREFERENCE_FORMAT, gold_scorer, load_scorer
    from tokengym.rewards.scorers.toxicity import Toxicity
    from tokengym.rewards.scorers.vader import Vader
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
    from tokengym.rewards.written import assign_written

_NAMES = {
    "attribution.alignment": "continued_spans spread_by_overlap",
    "attribution.policy_reader": "PolicyReader",
    "attribution.readings": "Reading register_reading",
    "check": "check_reward",
    "credits": "ABC Credit DenseR3 RED Random Recency SignedABC Sparse Uniform",
    "credits.base": "Cut FloatArray REWARDS SegmentedCredit Source check_beta register_credit",
    "credits.probe": "Probe",
    "credits.red": "IncrementCredit",
    "errors": "CreditError RewardCheckError RewardError ScorerError",
    "pairs": "PreferencePair PreferencePairs read_labels read_pairs",
    "registry": "RewardChoice make_reward register registered_rewards scorer_kind",
    "reward": "Reward",
    "scorers.base": "FunctionScorer Product SCORERS Scorer Scores Shared Sum SupportsScore "
    "register_scorer",
    "scorers.normalize": "Normalize",
    "scorers.partner": "PartnerScore",
    "scorers.penalties": "LengthPenalty MissingEosPenalty",
    "scorers.relevance": "Relevance",
    "scorers.reward_model": "RewardModel",
    "scorers.rules": "RuleScorer",
    "scorers.sentiment": "Sentiment",
    "scorers.stored": "PREFERENCE_FORMAT gold_scorer load_scorer",
    "scorers.toxicity": "Toxicity",
    "scorers.vader": "Vader",
    "scorers.wrappers": "Cached TimeLimit WithAttribution",
    "wrappers": "ABCReward CreditReward R3Reward RewardWrapper SparseReward UniformReward "
    "VectorRewardWrapper",
    "written": "assign_written",
}

__all__ = listed(_NAMES)
__getattr__ = lazily(__name__, _NAMES)
