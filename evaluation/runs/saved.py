"""Settings and agents that a comparison or a run saved, read for what is measured afterwards."""

import logging
from collections.abc import Mapping
from os.path import exists
from pathlib import Path
from typing import Any

from tokengym.agents.learner import LEARNERS, check_saved_agents
from tokengym.base.files import previous_folder, read_json, to_json
from tokengym.base.own_code import code_hash
from tokengym.base.registry import imported, split_file_word
from tokengym.base.saved_code import (
    changed_files,
    check_module,
    check_saved,
    data_hashes,
    named_object,
    texts_in,
    texts_of_options,
)
from tokengym.base.settings import from_json, values_by_name
from tokengym.base.stored.parts import ADAPTER_CONFIG, STOCK_RECORD
from tokengym.base.text import printable
from tokengym.evaluation.measure.environments import resolve_env
from tokengym.evaluation.runs.defaults import TaskSettings, TrainingSettings
from tokengym.evaluation.runs.folder import stored_comparison
from tokengym.evaluation.runs.learner_settings import training_settings
from tokengym.evaluation.runs.spec import SPEC_FILE, RunSpec, comparison_of, stored_spec

logger = logging.getLogger(__name__)

SAVED_AGENTS = ("PPO", "NLPO", "WeightedPPO", "DPO", "SFT")
"""Classes that a saved folder may name: the learners that save themselves, and nothing else of
`tokengym.agents`."""


def known_task(
    path: Path | None,
    env: str | None,
    *,
    below: bool = False,
    task: TaskSettings | None = None,
    judged: bool = False,
    trust_code: bool = False,
) -> tuple[str, dict[str, Any]]:
    """Return the id and arguments of a named environment, or of the one that is stored.

    The stored arguments count where the environment is the stored one; others have their task's.

    Args:
        path: A folder that ``tokengym compare`` or ``train`` wrote, or a file in one; None if
            nothing is stored.
        env: Environment id or a task's bare name; None takes the stored one, or as `resolve_env`.
        below: Whether to look in all folders below, and not only in those of runs.
        task: Settings of the caller's own, which replace those that are stored.
        judged: Whether the arguments have the reward whose scorer measured what is stored, where
            ``task`` names no other scorer.
        trust_code: Run the files of code, and import the modules, that are stored as names.

    Raises:
        UntrustedCodeError: if stored names stand for code that the caller does not name.
        ValueError: if a file is damaged, or there is no such environment.
    """
    stored = None if path is None else stored_settings(path, below=below)
    if stored is None or not _is_stored(env, stored[1]["env"], trust_code):
        task = TaskSettings() if task is None else task
        env = resolve_env(env, task.bundle, task.sources())
        lengths = training_settings(env, bundle=task.bundle).lengths()
        return env, {**lengths, **task.env_kwargs(env)}
    file, settings = stored
    try:
        defaults = to_json(values_by_name(TaskSettings))
        given = {} if task is None else to_json(task)
        given = {name: value for name, value in given.items() if value != defaults[name]}
        kept = {name: value for name, value in settings["task"].items() if name not in given}
        names_scorer = any(given.get(name) is not None for name in ("scorer", "reward_model"))
        judge = {"reward": settings["rewards"][0]} if judged and not names_scorer else {}
        check_saved([settings["env"], kept, judge], file, named=[env], trust_code=trust_code)
        check_module(settings["env"], file, trust_code=trust_code or env is not None)
        trained = settings["training"]
        training = TrainingSettings(
            max_new_tokens=given.pop("max_new_tokens", trained["max_new_tokens"]),
            fixed_length=trained["fixed_length"],
        )
        merged = from_json(TaskSettings, {**defaults, **kept, **given})
        code, data = dict(settings.get("code", {})), dict(settings.get("data", {}))
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is damaged or of another version ({error})") from None
    env = resolve_env(settings["env"])
    kwargs = {"split": "test", **training.lengths(), **merged.env_kwargs(env), **judge}
    texts = {*map(str, texts_in(kwargs)), *texts_of_options(kwargs)}
    check_files(code, {path: data[path] for path in data if path in texts}, file)
    return env, kwargs


def trusted_spec(folder: Path, *, trust_code: bool = False) -> RunSpec:
    """Return the spec of a run's folder, which may be somebody else's.

    Args:
        folder: Folder of the run.
        trust_code: Run the files of code, and import the modules, that it names.

    Raises:
        UntrustedCodeError: if it names code.
        ValueError: if it is damaged, or of another version.
    """
    stored = stored_spec(file := folder / SPEC_FILE)
    settings = comparison_of(stored)
    check_saved(settings, file, trust_code=trust_code)
    check_module(settings["env"], file, trust_code=trust_code)
    words = [*settings["agents"], stored["agent"]["text"]]
    check_saved_agents(words, file, trust_code=trust_code)
    return RunSpec.from_dict(stored, folder)


def check_files(code: Mapping[str, str], data: Mapping[str, str], file: Path) -> None:
    """Warn of code and data that are not as a run had them, and refuse data that are gone.

    The hub may have something else under the name of a path that is gone.

    Args:
        code: SHA-256 of the run's files of code by their paths.
        data: SHA-256 of the files and folders of data and models that are read, likewise.
        file: File that names them.

    Raises:
        ValueError: if data are gone.
    """
    if gone := ", ".join(path for path in data if not exists(path)):
        raise ValueError(
            f"{file} names data or a model that cannot be found from here: {gone}; run the command "
            "in the folder in which the run was started, or name what takes its place (--dataset, "
            "--model, ...)"
        )
    now = {path: code_hash(Path(path)) for path in code if exists(path)}
    for line in changed_files({**code, **data}, now | data_hashes(data, known={})):
        logger.warning("%s", line)


def _is_stored(env: str | None, stored: str, trust_code: bool) -> bool:
    """Return whether an environment is the one that is stored, without running what that names."""
    if env is None or env == stored:
        return True
    if split_file_word(stored) and not trust_code:
        return named_object(env) == named_object(stored)
    return resolve_env(env) == resolve_env(stored)


def stored_settings(path: Path, *, below: bool = False) -> tuple[Path, dict[str, Any]] | None:
    """Return the settings that stored episodes were made with, and their file; None without any."""
    folder = path if path.is_dir() else path.parent
    if found := stored_comparison(folder):
        return found
    files = sorted(folder.glob(f"**/{SPEC_FILE}")) if below else []
    return (files[0], comparison_of(stored_spec(files[0]))) if files else None


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

    path = Path(path)
    if stock := _stock_word(path, agent_class, trust_code=trust_code):
        return imported("tokengym.agents.sb3.saved:load")(path, LEARNERS.load(stock))
    if agent_class is None:
        made = getattr(agents, _saved_class(path))
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
