"""Policies and learners, and the bridge to stock Stable-Baselines3.

Torch and Stable-Baselines3 take seconds to import: each name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tokengym.agents.policy import door
from tokengym.base.plugins import plugged

if TYPE_CHECKING:
    from tokengym.agents import losses
    from tokengym.agents.algorithm import EpisodicAlgorithm
    from tokengym.agents.contract import TrainingRun
    from tokengym.agents.errors import CheckpointError, ModelError, NonFiniteError
    from tokengym.agents.learner import LEARNERS, Learner, register_learner
    from tokengym.agents.offline.dpo import DPO
    from tokengym.agents.offline.sft import SFT
    from tokengym.agents.policy.language_model import load_causal_lm
    from tokengym.agents.policy.policy import CausalLMPolicy, PlaysPolicy
    from tokengym.agents.policy.sampling import chosen_log_probs
    from tokengym.agents.policy.sequences import Sequences
    from tokengym.agents.policy.settings import Precision
    from tokengym.agents.policy.streams import noting_reads
    from tokengym.agents.ppo.nlpo import NLPO
    from tokengym.agents.ppo.ppo import PPO
    from tokengym.agents.random_agent import RandomAgent
    from tokengym.agents.rollouts.chosen import bind_policy
    from tokengym.agents.rollouts.logs import EpisodeLog
    from tokengym.agents.rollouts.playing import collect
    from tokengym.agents.sb3.hindsight import HindsightReplayBuffer, HindsightRolloutBuffer

door.open_to("tokengym.agents.fast.parts:Parts")  # where that folder is installed
_HOMES = {
    "algorithm": ["EpisodicAlgorithm"],
    "contract": ["TrainingRun"],
    "errors": ["CheckpointError", "ModelError", "NonFiniteError"],
    "learner": ["LEARNERS", "Learner", "register_learner"],
    "offline.dpo": ["DPO"],
    "offline.sft": ["SFT"],
    "policy.language_model": ["load_causal_lm"],
    "policy.policy": ["CausalLMPolicy", "PlaysPolicy"],
    "policy.sampling": ["chosen_log_probs"],
    "policy.sequences": ["Sequences"],
    "policy.settings": ["Precision"],
    "policy.streams": ["noting_reads"],
    "ppo.nlpo": ["NLPO"],
    "ppo.ppo": ["PPO"],
    "random_agent": ["RandomAgent"],
    "rollouts.chosen": ["bind_policy"],
    "rollouts.logs": ["EpisodeLog"],
    "rollouts.playing": ["collect"],
    "sb3.hindsight": ["HindsightReplayBuffer", "HindsightRolloutBuffer"],
}
_LAZY = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "DPO",
    "LEARNERS",
    "NLPO",
    "PPO",
    "SFT",
    "CausalLMPolicy",
    "CheckpointError",
    "EpisodeLog",
    "EpisodicAlgorithm",
    "HindsightReplayBuffer",
    "HindsightRolloutBuffer",
    "Learner",
    "ModelError",
    "NonFiniteError",
    "PlaysPolicy",
    "Precision",
    "RandomAgent",
    "Sequences",
    "TrainingRun",
    "bind_policy",
    "chosen_log_probs",
    "collect",
    "load_causal_lm",
    "losses",
    "noting_reads",
    "register_learner",
]


def __getattr__(name: str) -> Any:
    """Import a name, or one that an installed package adds, when it is first used."""
    if name == "losses":
        return import_module("tokengym.agents.losses")
    if name in _LAZY:
        return getattr(import_module(f"tokengym.agents.{_LAZY[name]}"), name)
    return plugged(__name__, name)
