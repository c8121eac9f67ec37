"""Small wrappers around the single environment."""

from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.core import ActType, ObsType
from gymnasium.utils import RecordConstructorArgs


class PadTokenRewards(gymnasium.Wrapper[ObsType, ActType, ObsType, ActType], RecordConstructorArgs):
    """Pads the terminal ``info["token_rewards"]`` with zeros to ``max_new_tokens``.

    Gymnasium's ``SyncVectorEnv`` stacks info arrays and assumes one shape for all rows, so two
    episodes of different lengths that end in the same step would break it. The native batched
    environment pads by itself.
    """

    def __init__(self, env: gymnasium.Env[ObsType, ActType]) -> None:
        """Wrap a `TokenGenerationEnv`, itself wrapped or not."""
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        self._width = int(env.get_wrapper_attr("max_new_tokens"))

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step, and pad the token rewards where there are any."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if "token_rewards" in info:
            padded = np.zeros(self._width, dtype=np.float32)
            padded[: len(info["token_rewards"])] = info["token_rewards"]
            info["token_rewards"] = padded
        return observation, reward, terminated, truncated, info
