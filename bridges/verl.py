"""Advantages in verl, known by name wherever tokengym is installed, and your own.

verl loads this module as a plug-in (entry points of "verl.plugins"), and
``algorithm.adv_estimator=tokengym_loo`` is then an estimator of its own. A function of named inputs
is made known by a module that ``VERL_USE_EXTERNAL_MODULES=ideas`` names, for
``algorithm.adv_estimator=my-idea``:

    from verl.trainer.ppo.core_algos import register_adv_est
    from tokengym.bridges.verl import register

    register(register_adv_est, my_idea)  # or "path/to/file.py:my_idea:alpha=0.5"

Token rewards come from `tokengym.bridges.verl_loop`. verl's own "grpo", "rloo", "opo" and "gpg" sum
token rewards to one score, so that credit has no effect under them. Run with verl 0.9.1 on a CPU:
its registry, its configuration and its own loop; ``main_ppo``, which needs a GPU, was never
started.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from tokengym.bridges.advantages import ESTIMATORS
from tokengym.bridges.functions import Advantage
from tokengym.bridges.registries import registered


def register(decorate: Callable[[str], Callable[[Any], Any]], *advantages: Advantage) -> None:
    """Make advantages known to verl, by the function's name with hyphens; "loo" as "tokengym_loo".

    Args:
        decorate: ``verl.trainer.ppo.core_algos.register_adv_est``.
        advantages: Words, or functions of named inputs (see `Advantage`); none: those of tokengym.

    Raises:
        SettingsError: if a function reads what verl does not pass, with who does.
    """
    for advantage in advantages or ESTIMATORS:
        function = registered(advantage, "verl")
        decorate(function.name)(function)


if importlib.util.find_spec("verl") is not None:
    from verl.trainer.ppo.core_algos import register_adv_est

    register(register_adv_est)
