"""Policies and learners, and the bridge to stock Stable-Baselines3."""

from tokengym.agents import losses
from tokengym.agents.errors import CheckpointError, ModelError, NonFiniteError
from tokengym.agents.offline.dpo import DPO
from tokengym.agents.offline.sft import SFT
from tokengym.agents.online.best_of_n import BestOfN
from tokengym.agents.online.online_dpo import OnlineDPO
from tokengym.agents.online.raft import RAFT
from tokengym.agents.oracle import policy_table, value_table
from tokengym.agents.policy.policy import CausalLMPolicy
from tokengym.agents.ppo.nlpo import NLPO
from tokengym.agents.ppo.ppo import PPO
from tokengym.agents.random_agent import RandomAgent
from tokengym.agents.rollouts.logs import EpisodeLog
from tokengym.agents.rollouts.playing import collect
from tokengym.agents.sb3.hindsight import HindsightReplayBuffer, HindsightRolloutBuffer

__all__ = [
    "DPO",
    "NLPO",
    "PPO",
    "RAFT",
    "SFT",
    "BestOfN",
    "CausalLMPolicy",
    "CheckpointError",
    "EpisodeLog",
    "HindsightReplayBuffer",
    "HindsightRolloutBuffer",
    "ModelError",
    "NonFiniteError",
    "OnlineDPO",
    "RandomAgent",
    "collect",
    "losses",
    "policy_table",
    "value_table",
]
