"""PPO for token sequences: its settings, and advantages by name.

Its names serve estimators of other packages; each is imported when it is first used.
"""

from typing import TYPE_CHECKING

from tokengym.base.plugins import lazily

if TYPE_CHECKING:
    from tokengym.agents.ppo.advantages import (
        ADVANTAGES,
        Estimator,
        find_advantage,
        register_advantage,
    )
    from tokengym.agents.ppo.functions import RoundFunction
    from tokengym.agents.ppo.inputs import OF_MASK, RoundInputs
    from tokengym.agents.ppo.settings import PPOSettings
    from tokengym.agents.rollouts.experience import Experience

__getattr__, __dir__, __all__ = lazily(__name__)
