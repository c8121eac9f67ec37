"""Saved agents, whatever learner saved them."""

import json
from pathlib import Path
from typing import Any


def load_agent(path: str | Path) -> Any:
    """Return a saved agent, to be played: `PPO`, `NLPO`, `SFT`, `DPO`, `OnlineDPO`, ...

    Args:
        path: What its ``save`` was given.

    Raises:
        ValueError: if there is no agent of a known kind.
    """
    from tokengym import agents

    path = Path(path)
    for file in sorted(path.glob("*.json")):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        name = record.get("algorithm") if isinstance(record, dict) else None
        if isinstance(name, str) and name in agents.__all__ and hasattr(agents, name):
            return getattr(agents, name).load(path)
    raise ValueError(
        f"{path} holds no saved agent; name a folder that tokengym train or agent.save wrote"
    )
