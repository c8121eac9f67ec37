"""One environment as Stable-Baselines3 has it."""

from typing import Any

from tests.support.agents.common import PROMPTS, target_reward
from tokengym.envs import TokenGenerationEnv
from tokengym.rewards import RewardWrapper

SETTINGS: dict[str, Any] = {"max_new_tokens": 5, "min_new_tokens": 1}


def single(tokenizer: Any, **settings: Any) -> Any:
    env = TokenGenerationEnv(tokenizer=tokenizer, prompts=PROMPTS, **SETTINGS | settings)
    return RewardWrapper(env, target_reward())
