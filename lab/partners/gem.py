"""GEM's environments as partners."""

from __future__ import annotations

import logging
from typing import Any

from tokengym.envs import Reply, SettingsError
from tokengym.lab.partners.text_game import TextGame, installed

SERVED = ("gem.envs.game_env.", "gem.envs.qa_env:")
"""Beginnings of the addresses of GEM's environments that only read what the policy writes."""


class Gem(TextGame):
    """A game or a question of GEM: ``partner="gem:game:GuessTheNumber-v0"``.

    A turn's score is its reward, and the last observation of an episode is recorded, not appended.
    GEM's other environments run what the policy writes, as code or by a verifier that evaluates it.
    A name in somebody else's folder would have them do so, so they are refused.

    Args:
        id: Id of the environment.

    Source: Liu et al. 2025, GEM, arXiv:2510.01051; package gem-llm.
    """

    name = "gem"

    def __init__(self, id: str) -> None:
        super().__init__(id)
        handlers = [*logging.getLogger().handlers]
        self._suite = installed("gem", "gem")
        logging.getLogger().handlers[:] = handlers  # importing GEM configures logging
        known = self._suite.envs.registration.ENV_REGISTRY.get(id)
        address = getattr(known, "entry_point", None)  # a class where the caller registered it
        if isinstance(address, str) and not address.startswith(SERVED):
            raise SettingsError(
                f"partner 'gem' serves GEM's games and questions; {id!r} ({address}) may run what "
                "the policy writes: call gem.make in a Partner of your own"
            )

    def begin(self, seed: int) -> tuple[Any, str]:
        """Return an environment that was reset, and what it shows."""
        try:
            env = self._suite.make(self.id)
        except Exception as error:
            raise SettingsError(
                f"partner 'gem' cannot make {self.id!r}: {type(error).__name__}: {error}"
            ) from error
        shown, _ = env.reset(seed=seed)
        return env, str(shown).strip()

    def advance(self, env: Any, text: str) -> Reply:
        """Return the next observation, with the reward as the turn's score."""
        shown, reward, terminated, truncated, _ = env.step(text)
        over = bool(terminated or truncated)
        return Reply(str(shown).strip() or "?", score=float(reward), done=over)
