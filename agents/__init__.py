"""Policies and learners, and the bridge to stock Stable-Baselines3."""

from tokengym.agents import losses
from tokengym.agents.errors import CheckpointError, ModelError, NonFiniteError
from tokengym.agents.hindsight import HindsightReplayBuffer, HindsightRolloutBuffer
from tokengym.agents.logs import EpisodeLog
from tokengym.agents.nlpo import NLPO
from tokengym.agents.oracle import policy_table, value_table
from tokengym.agents.playing import collect
from tokengym.agents.policy import CausalLMPolicy
from tokengym.agents.ppo import PPO
from tokengym.agents.preferences.best_of_n import BestOfN
from tokengym.agents.preferences.dpo import DPO
from tokengym.agents.preferences.online_dpo import OnlineDPO
from tokengym.agents.preferences.raft import RAFT
from tokengym.agents.preferences.sft import SFT
from tokengym.agents.random_agent import RandomAgent

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
