"""Scores of responses (scorers) and their division among tokens (credit), as Gymnasium wrappers.

```python
env = gym.make("tokengym/MovieReview-v0", reward="abc:beta=1.0")
env = rewards.ABCReward(gym.make(id, reward=None), scorer=rewards.RewardModel.from_pretrained(path))
```
Scorers with a model load torch; they are imported when they are first named.
"""

from typing import TYPE_CHECKING

from tokengym.base.plugins import lazily

if TYPE_CHECKING:
    from tokengym.rewards.attribution.alignment import continued_spans as continued_spans
    from tokengym.rewards.attribution.alignment import spread_by_overlap as spread_by_overlap
    from tokengym.rewards.attribution.last_row import Reading as Reading
    from tokengym.rewards.attribution.last_row import last_layer as last_layer
    from tokengym.rewards.attribution.last_row import register_reading as register_reading
    from tokengym.rewards.attribution.policy_attention import policy_attention as policy_attention
    from tokengym.rewards.attribution.policy_reader import PolicyReader as PolicyReader
    from tokengym.rewards.check import check_reward as check_reward
    from tokengym.rewards.credits.bound import Source as Source
    from tokengym.rewards.credits.names import NAMES as NAMES
    from tokengym.rewards.credits.names import SUPPLIERS as SUPPLIERS
    from tokengym.rewards.credits.options import Cut as Cut
    from tokengym.rewards.credits.probe import Probe as Probe
    from tokengym.rewards.credits.rule import Rule as Rule
    from tokengym.rewards.credits.token_credit import is_token_credit as is_token_credit
    from tokengym.rewards.credits.token_credit import token_credit as token_credit
    from tokengym.rewards.credits.words import REWARDS as REWARDS
    from tokengym.rewards.credits.words import register as register
    from tokengym.rewards.errors import CreditError as CreditError
    from tokengym.rewards.errors import RewardCheckError as RewardCheckError
    from tokengym.rewards.errors import RewardError as RewardError
    from tokengym.rewards.errors import ScorerError as ScorerError
    from tokengym.rewards.maths.tokens import each_alone as each_alone
    from tokengym.rewards.maths.tokens import held as held
    from tokengym.rewards.maths.tokens import last as last
    from tokengym.rewards.maths.tokens import on_last as on_last
    from tokengym.rewards.maths.tokens import rescaled as rescaled
    from tokengym.rewards.maths.tokens import rest_on_last as rest_on_last
    from tokengym.rewards.maths.tokens import shares as shares
    from tokengym.rewards.pairs import PreferencePair as PreferencePair
    from tokengym.rewards.pairs import PreferencePairs as PreferencePairs
    from tokengym.rewards.pairs import read_labels as read_labels
    from tokengym.rewards.pairs import read_pairs as read_pairs
    from tokengym.rewards.registry import RewardChoice as RewardChoice
    from tokengym.rewards.registry import gold_scorer as gold_scorer
    from tokengym.rewards.registry import load_scorer as load_scorer
    from tokengym.rewards.registry import make_reward as make_reward
    from tokengym.rewards.registry import registered_rewards as registered_rewards
    from tokengym.rewards.reward import Reward as Reward
    from tokengym.rewards.scorers.base import SCORERS as SCORERS
    from tokengym.rewards.scorers.base import FunctionScorer as FunctionScorer
    from tokengym.rewards.scorers.base import Product as Product
    from tokengym.rewards.scorers.base import Scorer as Scorer
    from tokengym.rewards.scorers.base import Scores as Scores
    from tokengym.rewards.scorers.base import Shared as Shared
    from tokengym.rewards.scorers.base import Sum as Sum
    from tokengym.rewards.scorers.base import register_scorer as register_scorer
    from tokengym.rewards.scorers.calls import Calls as Calls
    from tokengym.rewards.scorers.calls import CallSettings as CallSettings
    from tokengym.rewards.scorers.partner import PartnerScore as PartnerScore
    from tokengym.rewards.scorers.penalties import LengthPenalty as LengthPenalty
    from tokengym.rewards.scorers.penalties import MissingEosPenalty as MissingEosPenalty
    from tokengym.rewards.scorers.relevance import Relevance as Relevance
    from tokengym.rewards.scorers.reward_model import FORM_FILE as FORM_FILE
    from tokengym.rewards.scorers.reward_model import FORM_KEY as FORM_KEY
    from tokengym.rewards.scorers.reward_model import RewardModel as RewardModel
    from tokengym.rewards.scorers.rules import RuleScorer as RuleScorer
    from tokengym.rewards.scorers.sentiment import Sentiment as Sentiment
    from tokengym.rewards.scorers.toxicity import Toxicity as Toxicity
    from tokengym.rewards.scorers.wrappers import Cached as Cached
    from tokengym.rewards.scorers.wrappers import Normalize as Normalize
    from tokengym.rewards.scorers.wrappers import TimeLimit as TimeLimit
    from tokengym.rewards.scorers.wrappers import WithAttribution as WithAttribution
    from tokengym.rewards.scores import FloatArray as FloatArray
    from tokengym.rewards.wrappers import ABCReward as ABCReward
    from tokengym.rewards.wrappers import CreditReward as CreditReward
    from tokengym.rewards.wrappers import R3Reward as R3Reward
    from tokengym.rewards.wrappers import RewardWrapper as RewardWrapper
    from tokengym.rewards.wrappers import SparseReward as SparseReward
    from tokengym.rewards.wrappers import UniformReward as UniformReward
    from tokengym.rewards.wrappers import VectorRewardWrapper as VectorRewardWrapper

__getattr__, __dir__, __all__ = lazily(__name__)
