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
    from tokengym.agents.ppo.settings import EARLIER_DEFAULTS, GAE_LAMBDA, PPOSettings
    from tokengym.agents.ppo.weights import (
        WEIGHTS,
        AdvantageWeight,
        WeighedRound,
        find_weight,
        register_weight,
        weighted,
    )

_NAMES = {
    "advantages": "ADVANTAGES AdvantageEstimator RoundTensors find_advantage register_advantage",
    "settings": "EARLIER_DEFAULTS GAE_LAMBDA PPOSettings",
    "weights": "AdvantageWeight WEIGHTS WeighedRound find_weight register_weight weighted",
}

__all__ = listed(_NAMES)
__getattr__ = lazily(__name__, _NAMES)
