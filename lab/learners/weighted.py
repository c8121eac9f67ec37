"""Former names of PPO with weights, which is ``PPO(weights=...)``."""

from tokengym.agents import PPO
from tokengym.agents.ppo import WEIGHTS as WEIGHTS
from tokengym.agents.ppo import Weights as Weights

WeightedPPO = PPO
"""Name under which agents with weights were saved."""
