"""PPO for token sequences: its settings, and advantages and weights by name.

Its names serve estimators and weights of other packages; each is imported when it is first used.
"""

from typing import TYPE_CHECKING

from tokengym.base.exports import lazily, listed

if TYPE_CHECKING:
    from tokengym.agents.ppo.advantages import (
        ADVANTAGES,
        AdvantageEstimator,
        RoundTensors,
        find_advantage,
        register_advantage,
    )
    from tokengym.agents.ppo.settings import PPOSettings
    from tokengym.agents.ppo.weights import (
        WEIGHTS,
        AdvantageWeight,
        WeighedRound,
        register_weight,
        weighted,
    )

_NAMES = {
    "advantages": "ADVANTAGES AdvantageEstimator RoundTensors find_advantage register_advantage",
    "settings": "PPOSettings",
    "weights": "AdvantageWeight WEIGHTS WeighedRound register_weight weighted",
}

__all__ = listed(_NAMES)
__getattr__ = lazily(__name__, _NAMES)
