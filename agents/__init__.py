"""Policies and learners, and the bridge to stock Stable-Baselines3.

Torch and Stable-Baselines3 take seconds to import: each name is loaded when it is first used.
"""

from typing import TYPE_CHECKING

from tokengym.agents.policy.backend import use_backend
from tokengym.base.plugins import lazily

if TYPE_CHECKING:
    from tokengym.agents import losses as losses
    from tokengym.agents.algorithm import EpisodicAlgorithm as EpisodicAlgorithm
    from tokengym.agents.contract import TrainingRun as TrainingRun
    from tokengym.agents.contract import Update as Update
    from tokengym.agents.errors import CheckpointError as CheckpointError
    from tokengym.agents.errors import ModelError as ModelError
    from tokengym.agents.errors import NonFiniteError as NonFiniteError
    from tokengym.agents.learner import LEARNERS as LEARNERS
    from tokengym.agents.learner import Learner as Learner
    from tokengym.agents.learner import register_learner as register_learner
    from tokengym.agents.offline.dpo import DPO as DPO
    from tokengym.agents.offline.sft import SFT as SFT
    from tokengym.agents.policy.language_model import load_causal_lm as load_causal_lm
    from tokengym.agents.policy.policy import CausalLMPolicy as CausalLMPolicy
    from tokengym.agents.policy.policy import PlaysPolicy as PlaysPolicy
    from tokengym.agents.policy.sampling import chosen_log_probs as chosen_log_probs
    from tokengym.agents.policy.sampling import likeliest as likeliest
    from tokengym.agents.policy.sampling import shape_logits as shape_logits
    from tokengym.agents.policy.sequences import Sequences as Sequences
    from tokengym.agents.policy.settings import EpisodicSettings as EpisodicSettings
    from tokengym.agents.policy.settings import Precision as Precision
    from tokengym.agents.policy.streams import noting_reads as noting_reads
    from tokengym.agents.policy_names import takes_no_policy_name as takes_no_policy_name
    from tokengym.agents.ppo.named import GRPO as GRPO
    from tokengym.agents.ppo.named import REINFORCE as REINFORCE
    from tokengym.agents.ppo.named import RLOO as RLOO
    from tokengym.agents.ppo.ppo import PPO as PPO
    from tokengym.agents.random_agent import RandomAgent as RandomAgent
    from tokengym.agents.rollouts.given import bind_policy as bind_policy
    from tokengym.agents.rollouts.logs import EpisodeLog as EpisodeLog
    from tokengym.agents.rollouts.playing import collect as collect
    from tokengym.agents.sb3.hindsight import HindsightReplayBuffer as HindsightReplayBuffer
    from tokengym.agents.sb3.hindsight import HindsightRolloutBuffer as HindsightRolloutBuffer

use_backend("tokengym.agents.fast")  # where that folder is installed
__getattr__, __dir__, __all__ = lazily(__name__)
