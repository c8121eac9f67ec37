"""Where an unfinished run goes on from: its learner and what it measured, saved as it trains.

What was measured is written before the learner, each under the number of tokens it had sampled, so
that however the run ends the two that belong together are found again.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokengym.envs.files import read_json, write_json

if TYPE_CHECKING:
    from tokengym.agents import PPO

UNFINISHED = "unfinished"
"""A run's checkpoint in its folder."""
AGENT = "agent"
KEPT = 2
"""Records of what was measured: of the learner's checkpoint and of the one before it."""


class UnfinishedRun:
    """The checkpoint of one run.

    Args:
        folder: Of the run; the checkpoint is a folder in it that goes when the run has ended.
        settings: Of the comparison; a checkpoint of other settings is not gone on from.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder / UNFINISHED
        self.settings = settings

    def save(self, agent: "PPO", measured: Mapping[str, Any]) -> None:
        """Keep a learner between two updates and what its run measured so far."""
        state = {"settings": self.settings, "measured": measured}
        write_json(self._record(agent.num_timesteps), state)
        agent.save(self.folder / AGENT)
        for path in self._records()[:-KEPT]:
            path.unlink()

    def load(self, envs: Any) -> tuple["PPO", dict[str, Any]] | None:
        """Return the learner in its environments and what was measured; None: begin anew.

        Args:
            envs: Fresh training environments.
        """
        from tokengym.agents import PPO
        from tokengym.agents.errors import CheckpointError

        if not self._records() or read_json(self._records()[-1])["settings"] != self.settings:
            return None
        try:
            agent = PPO.load(self.folder / AGENT, env=envs)
        except (CheckpointError, FileNotFoundError):  # killed before the first was whole
            return None
        record = self._record(agent.num_timesteps)
        if not record.exists():
            return None
        measured: dict[str, Any] = read_json(record)["measured"]
        return agent, measured

    def remove(self) -> None:
        """Delete the checkpoint: the run has ended."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _record(self, tokens: int) -> Path:
        return self.folder / f"measured-{tokens:012d}.json"

    def _records(self) -> list[Path]:
        return sorted(self.folder.glob("measured-*.json"))
