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
    from tokengym.rewards.attribution.alignment import continued_spans, spread_by_overlap
    from tokengym.rewards.attribution.last_row import Reading, last_layer, register_reading
    from tokengym.rewards.attribution.policy_attention import policy_attention
    from tokengym.rewards.attribution.policy_reader import PolicyReader
    from tokengym.rewards.check import check_reward
    from tokengym.rewards.credits.bound import Source
    from tokengym.rewards.credits.models import ModelNames
    from tokengym.rewards.credits.names import NAMES, SUPPLIERS
    from tokengym.rewards.credits.options import Cut
    from tokengym.rewards.credits.probe import Probe
    from tokengym.rewards.credits.rule import Rule
    from tokengym.rewards.credits.token_credit import (
        REFERENCE,
        LanguageModel,
        is_token_credit,
        token_credit,
    )
    from tokengym.rewards.credits.words import REWARDS, register
    from tokengym.rewards.errors import CreditError, RewardCheckError, RewardError, ScorerError
    from tokengym.rewards.maths.tokens import (
        each_alone,
        last,
        on_last,
        rescaled,
        rest_on_last,
        shares,
    )
    from tokengym.rewards.pairs import PreferencePair, PreferencePairs, read_labels, read_pairs
    from tokengym.rewards.registry import (
        RewardChoice,
        gold_scorer,
        load_scorer,
        make_reward,
        registered_rewards,
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
        register_scorer,
    )
    from tokengym.rewards.scorers.calls import Calls, CallSettings
    from tokengym.rewards.scorers.partner import PartnerScore
    from tokengym.rewards.scorers.penalties import LengthPenalty, MissingEosPenalty
    from tokengym.rewards.scorers.relevance import Relevance
    from tokengym.rewards.scorers.reward_model import FORM_FILE, FORM_KEY, RewardModel
    from tokengym.rewards.scorers.rules import RuleScorer
    from tokengym.rewards.scorers.sentiment import Sentiment
    from tokengym.rewards.scorers.toxicity import Toxicity
    from tokengym.rewards.scorers.wrappers import Cached, Normalize, TimeLimit, WithAttribution
    from tokengym.rewards.scores import FloatArray
    from tokengym.rewards.wrappers import (
        ABCReward,
        CreditReward,
        R3Reward,
        RewardWrapper,
        SparseReward,
        UniformReward,
        VectorRewardWrapper,
    )

__getattr__, __dir__, __all__ = lazily(__name__)
