"""A saved agent, whichever class saved it, read to be played."""

from pathlib import Path
from typing import Any

from tokengym.agents.learner import LEARNERS, check_saved_agents
from tokengym.base.files import behind_link, previous_folder, read_json
from tokengym.base.packed import unpacked
from tokengym.base.registry import imported
from tokengym.base.saved_code import check_saved
from tokengym.base.stored.parts import ADAPTER_CONFIG, CHECKPOINT_RECORD, STOCK_RECORD
from tokengym.base.text import printable

SAVED_AGENTS = ("PPO", "NLPO", "WeightedPPO", "DPO", "SFT")
"""Classes that a saved folder may name: the learners that save themselves, and nothing else of
`tokengym.agents`."""


def load_agent(
    path: str | Path, agent_class: str | None = None, *, trust_code: bool = False
) -> Any:
    """Return a saved agent, to be played: `PPO`, `NLPO`, `SFT`, `DPO`, `OnlineDPO`, ...

    Args:
        path: The folder that its ``save`` was given.
        agent_class: Class of an agent of one's own, "file.py:MyAgent".
        trust_code: Run the files of code that the folder names, see `EpisodicAlgorithm.load`.

    Raises:
        UntrustedCodeError: if the folder names code of its own.
        ValueError: if there is no agent of a known kind.
    """
    from tokengym import agents

    path = behind_link(path)
    if stock := _stock_word(path, agent_class, trust_code=trust_code):
        return imported("tokengym.agents.sb3.saved:load")(path, LEARNERS.load(stock))
    if agent_class is None:
        with unpacked(path, CHECKPOINT_RECORD) as folder:
            made = getattr(agents, _saved_class(folder))
    else:
        made = LEARNERS.load(agent_class)
        if not hasattr(made, "load"):
            raise ValueError(
                f"agent_class {agent_class!r} has no method load to read {path} with; add one, or "
                "leave the folder out to play the agent as it is made"
            )
    # Those that keep no word for code have no such argument.
    takes = isinstance(made, type) and issubclass(made, agents.EpisodicAlgorithm)
    return made.load(path, trust_code=True) if trust_code and takes else made.load(path)


def _stock_word(path: Path, agent_class: str | None, *, trust_code: bool) -> str | None:
    """Return the word of the stock algorithm that a folder holds; None if it holds none."""
    file = path / STOCK_RECORD
    if not file.is_file():
        return None
    word = read_json(file).get("algorithm")
    if not isinstance(word, str):
        raise ValueError(f"{file} is damaged; use an earlier checkpoint")
    check_saved(word, file, named=agent_class or (), trust_code=trust_code)
    check_saved_agents([word], file, named=agent_class, trust_code=trust_code)
    return agent_class or word


def _saved_class(path: Path) -> str:
    """Return the name of the class that a folder's agent was saved by, one of `SAVED_AGENTS`."""
    for file in (*sorted(path.glob("*.json")), *sorted(previous_folder(path).glob("*.json"))):
        try:
            record = read_json(file)
        except (OSError, ValueError):
            continue
        name = record.get("algorithm") if isinstance(record, dict) else None
        if isinstance(name, str) and name in SAVED_AGENTS:
            return name
        if isinstance(name, str):
            raise ValueError(
                f"{path} was saved by {printable(name)}, which is none of tokengym's agents that "
                f"are saved ({', '.join(SAVED_AGENTS)}); name its class: --agent-class "
                f"path/to/file.py:{printable(name)}"
            )
    inside = f"; the agent of that run is {path / 'agent'}" if (path / "agent").is_dir() else ""
    if any((path / name).is_file() for name in ("config.json", ADAPTER_CONFIG)):
        inside = "; a model or adapters alone are named by --model"
    raise ValueError(
        f"{path} holds no saved agent; name a folder that tokengym train or agent.save "
        f"wrote{inside}"
    )
