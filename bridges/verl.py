"""Advantage estimators of token credit in verl, known by name wherever tokengym is installed.

verl loads this module as a plug-in (entry points of "verl.plugins"), and
``algorithm.adv_estimator=tokengym_loo`` is then an estimator of its own. Token rewards come from
`tokengym.bridges.verl_loop`. verl's own "grpo", "rloo", "opo" and "gpg" sum token rewards to one
score, so that credit has no effect under them. Run with verl 0.9.1 on a CPU: its
registry, its configuration and its own loop; ``main_ppo``, which needs a GPU, was never started.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from tokengym.bridges.advantages import REGISTERED


def register(decorate: Callable[[str], Callable[[Any], Any]]) -> None:
    """Make the estimators known to verl.

    Args:
        decorate: ``verl.trainer.ppo.core_algos.register_adv_est``.
    """
    for name, function in REGISTERED.items():
        decorate(name)(function)


if importlib.util.find_spec("verl") is not None:
    from verl.trainer.ppo.core_algos import register_adv_est

    register(register_adv_est)
