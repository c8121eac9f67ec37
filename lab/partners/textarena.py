"""TextArena's games for one player as partners."""

from __future__ import annotations

from typing import Any

from tokengym.envs import Reply, SettingsError
from tokengym.lab.partners.text_game import TextGame, installed


class TextArena(TextGame):
    """A game of TextArena: ``partner="textarena:GuessTheNumber-v0"``.

    The replies are the game's own messages since the last turn, without the wrappers that write
    the whole history again. The game's score, of its end, is that of the last turn; others have 0.

    Args:
        id: Id of the game, which must be one for a single player.

    Source: Guertler et al. 2025, arXiv:2504.11442; package textarena 0.7.
    """

    name = "textarena"

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self._suite = installed("textarena", "textarena")
        if id not in (known := self._suite.envs.registration.ENV_REGISTRY):
            raise SettingsError(
                f"partner 'textarena' has no game {id!r}; it has {len(known)}, such as "
                "'GuessTheNumber-v0'"
            )

    def begin(self, seed: int) -> tuple[Any, str]:
        """Return a game that was reset, and its rules and board."""
        try:
            env = self._suite.make(self.id)
            while isinstance(env, self._suite.Wrapper):
                env = env.env
            env.reset(num_players=1, seed=seed)
        except Exception as error:  # a game for more players, or one that lacks its data
            reason = " ".join(str(error).replace("*", " ").split())
            raise SettingsError(
                f"partner 'textarena' cannot begin {self.id!r} with one player: "
                f"{type(error).__name__}: {reason:.200}"
            ) from error
        return env, _shown(env)

    def advance(self, env: Any, text: str) -> Reply:
        """Return the game's messages after a turn, and its score at the end."""
        done, _ = env.step(text)
        shown = _shown(env)
        if not done:
            return Reply(shown or "?", score=0.0)
        rewards, _ = env.close()
        return Reply(shown, score=float((rewards or {}).get(0, 0.0)), done=True)


def _shown(env: Any) -> str:
    """Return the game's messages since they were last asked for."""
    _, messages = env.get_observation()
    return "\n".join(text for speaker, text, _ in messages if speaker == -1).strip()
