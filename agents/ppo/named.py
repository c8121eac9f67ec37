"""Learners without a critic by name: ``GRPO(...)`` makes what ``tokengym train grpo`` trains.

Each makes a `PPO` under the settings that the learner's declaration has for the word, so that it is
saved, loaded and played as one.
"""

from abc import ABCMeta
from typing import TYPE_CHECKING, Any, ClassVar

from tokengym.agents.errors import CheckpointError
from tokengym.agents.learner import find_learner
from tokengym.agents.ppo.ppo import PPO
from tokengym.base.errors import SettingsError
from tokengym.base.packed import Place

if TYPE_CHECKING:  # for which they are classes of PPO, whose settings it then knows by name
    Made = PPO
else:
    Made = object


class Named(ABCMeta):
    """Of the names: ``isinstance(agent, GRPO)`` asks for the settings that the name stands for."""

    def __instancecheck__(cls, agent: object) -> bool:
        """Return whether an agent is a `PPO` under the settings of the name, or of one of them."""
        if not isinstance(agent, PPO):
            return False
        name = getattr(cls, "learner", "")
        if not name:
            names: list[type] = cls.__subclasses__()
            return any(isinstance(agent, one) for one in names)
        fixed = find_learner(name).fixed
        return all(getattr(agent.settings, name) == value for name, value in fixed.items())


class CriticFree(Made, metaclass=Named):
    """Constructor of a `PPO` with the settings that a learner's name stands for, and its defaults.

    Arguments are those of `PPO`.

    Raises:
        SettingsError: if another value was given for one that the name stands for.
    """

    learner: ClassVar[str]
    """The name, as a word of the command line."""
    if not TYPE_CHECKING:

        def __new__(cls, *arguments: Any, **keywords: Any) -> PPO:
            """Return the agent."""
            cls._refuse_subclass()
            learner = find_learner(cls.learner)
            for name, value in learner.fixed.items():
                if keywords.get(name, value) != value:
                    raise SettingsError(
                        f"{cls.__name__} stands for {name}={value!r}, got {keywords[name]!r}; "
                        f"leave it out, or take PPO(..., {name}={keywords[name]!r})"
                    )
            try:
                return PPO(*arguments, **{**learner.defaults, **keywords, **learner.fixed})
            except TypeError as error:
                said = str(error)
                if not said.startswith("PPO() "):
                    raise
                raise TypeError(f"{cls.__name__}{said.removeprefix('PPO')}") from None

        @classmethod
        def _refuse_subclass(cls) -> None:
            """Refuse a subclass of a name, none of whose methods would be called."""
            if "learner" in vars(cls):
                return
            fixed = find_learner(cls.learner).fixed
            given = ", ".join(f"{name}={value!r}" for name, value in fixed.items())
            raise TypeError(
                f"{cls.__name__} is a subclass of {cls.__mro__[1].__name__}, which makes a PPO "
                f"that would call none of its methods; subclass PPO and pass {given}"
            )

        @classmethod
        def load(cls, path: Place, *arguments: Any, **keywords: Any) -> PPO:
            """Return the agent of a checkpoint, as `PPO.load`.

            Raises:
                CheckpointError: if it is none of the name.
            """
            cls._refuse_subclass()
            agent = PPO.load(path, *arguments, **keywords)
            if not isinstance(agent, cls):
                raise CheckpointError(
                    f"{path} holds a PPO with advantage={agent.settings.advantage!r}, which is not "
                    f"what {cls.__name__} stands for; load it with PPO.load"
                )
            return agent


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
