"""PPO for token sequences: its settings, and advantages by name.

Its names serve estimators of other packages; each is imported when it is first used.
"""

from typing import TYPE_CHECKING

from tokengym.base.plugins import lazily

if TYPE_CHECKING:
    from tokengym.agents.ppo.advantages import ADVANTAGES as ADVANTAGES
    from tokengym.agents.ppo.advantages import Estimator as Estimator
    from tokengym.agents.ppo.advantages import find_advantage as find_advantage
    from tokengym.agents.ppo.advantages import register_advantage as register_advantage
    from tokengym.agents.ppo.functions import OF_SETTINGS as OF_SETTINGS
    from tokengym.agents.ppo.functions import WEIGHTS as WEIGHTS
    from tokengym.agents.ppo.functions import Loss as Loss
    from tokengym.agents.ppo.functions import RoundFunction as RoundFunction
    from tokengym.agents.ppo.functions import Weights as Weights
    from tokengym.agents.ppo.inputs import OF_MASK as OF_MASK
    from tokengym.agents.ppo.inputs import RoundInputs as RoundInputs
    from tokengym.agents.ppo.policy_losses import LOSSES as LOSSES
    from tokengym.agents.ppo.settings import PPOSettings as PPOSettings
    from tokengym.agents.rollouts.experience import Experience as Experience

__getattr__, __dir__, __all__ = lazily(__name__)
