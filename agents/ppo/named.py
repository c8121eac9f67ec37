"""Learners without a critic by name: ``GRPO(...)`` is what ``tokengym train grpo`` trains.

Each is `PPO` under the settings that the learner's declaration has for the word, and is saved as
one, so that `PPO.load` reads it too.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from tokengym.agents.learner import find_learner
from tokengym.agents.ppo.ppo import PPO
from tokengym.base.errors import SettingsError


class CriticFree(PPO):
    """`PPO` with the settings that a learner's name stands for, and its defaults.

    Raises:
        SettingsError: if another value was given for one that the name stands for.
    """

    saved_as = "PPO"
    learner: ClassVar[str]
    """The name, as a word of the command line."""

    if not TYPE_CHECKING:  # there the settings of PPO are known by name

        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            learner, own = find_learner(self.learner), type(self).__name__
            for name, value in learner.fixed.items():
                if keywords.get(name, value) != value:
                    raise SettingsError(
                        f"{own} stands for {name}={value!r}, got {keywords[name]!r}; "
                        f"leave it out, or take PPO(..., {name}={keywords[name]!r})"
                    )
            super().__init__(*arguments, **{**learner.defaults, **keywords, **learner.fixed})


class GRPO(CriticFree):
    """Group relative policy optimisation: scores standardised among the responses to a prompt.

    ``PPO(..., advantage="grpo", group_size=8)``, which reads the score of a whole response and no
    token rewards.

    Source: Shao et al. 2024, arXiv:2402.03300.
    """

    learner = "grpo"


class RLOO(CriticFree):
    """REINFORCE leave-one-out: scores minus the mean of the other responses to the prompt.

    ``PPO(..., advantage="rloo", group_size=8)``, which reads the score of a whole response and no
    token rewards.

    Source: Ahmadian et al. 2024, arXiv:2402.14740.
    """

    learner = "rloo"


class REINFORCE(CriticFree):
    """The policy gradient without a baseline: the reward to go of each token.

    ``PPO(..., advantage="reinforce")``, which sees token rewards.

    Source: Williams 1992.
    """

    learner = "reinforce"
