"""PPO and its relatives without a critic as learners by name."""

from dataclasses import replace

from tokengym.agents.learner import Learner, register_learner
from tokengym.agents.ppo.settings import (
    CRITIC_FREE,
    CRITIC_SETTINGS,
    UNDISCOUNTED,
    PPOSettings,
)

PPO_LEARNER = register_learner(
    Learner(
        name="ppo",
        summary="proximal policy optimisation from token rewards",
        settings=PPOSettings,
        algorithm="tokengym.agents.ppo.ppo:PPO",
        check="tokengym.agents.ppo.advantages:check_settings",
        uses_credit=True,
    )
)

for _name, _summary in CRITIC_FREE.items():
    register_learner(
        replace(
            PPO_LEARNER,
            name=_name,
            summary=f"policy gradient without a critic: {_summary}",
            fixed={"advantage": _name},
            idle=(*CRITIC_SETTINGS, "gamma") if _name in UNDISCOUNTED else CRITIC_SETTINGS,
            defaults={"group_size": 8} if "prompt" in _summary else {},
        )
    )
