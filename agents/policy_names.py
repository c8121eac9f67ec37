"""Names of policies, which Stable-Baselines3's learners take first, where none is taken."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from tokengym.base.errors import SettingsError

P = ParamSpec("P")
S = TypeVar("S")

NAMES = ("CausalLMPolicy", "MlpPolicy", "CnnPolicy", "MultiInputPolicy")
"""What `PPO` takes, and what stock learners do."""


def takes_no_policy_name(
    instead: str,
) -> Callable[[Callable[Concatenate[S, P], None]], Callable[Concatenate[S, P], None]]:
    """Refuse the name or class of a policy as the first argument of a constructor.

    Args:
        instead: What to write after the name of the class, and why.

    Raises:
        SettingsError: by the constructor, before anything is read or loaded.
    """

    def decorate(init: Callable[Concatenate[S, P], None]) -> Callable[Concatenate[S, P], None]:
        @wraps(init)
        def checked(self: S, /, *args: P.args, **kwargs: P.kwargs) -> None:
            first: Any = args[0] if args else None
            name = first.__name__ if isinstance(first, type) else first
            if isinstance(name, str) and name in NAMES:
                owner = type(self).__name__
                raise SettingsError(
                    f"{owner} takes no name of a policy, got {name!r}; write {owner}{instead}"
                )
            init(self, *args, **kwargs)

        return checked

    return decorate
