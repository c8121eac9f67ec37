"""Settings that a comparison or a run saved, read for what is measured afterwards."""

import logging
from os.path import exists
from pathlib import Path
from typing import Any

from tokengym.base.files import read_hashed
from tokengym.base.settings import as_plain, from_plain, values_by_name
from tokengym.base.user_code import (
    changed_files,
    check_module,
    check_saved,
    code_hash,
    named_object,
)
from tokengym.base.words import split_file_word
from tokengym.evaluation.measure.environments import resolve_env
from tokengym.evaluation.runs.config import SETTINGS_FILE, TaskSettings, task_of_file
from tokengym.evaluation.runs.defaults import TrainingSettings, default_env, default_lengths

logger = logging.getLogger(__name__)


def known_task(
    path: Path | None,
    env: str | None,
    *,
    below: bool = False,
    task: TaskSettings | None = None,
    trust_code: bool = False,
) -> tuple[str, dict[str, Any]]:
    """Return the id and arguments of a named environment, or of the one that is stored.

    The stored arguments count where the environment is the stored one; others have their task's.

    Args:
        path: A folder that ``tokengym compare`` or ``train`` wrote, or a file in one; None if
            nothing is stored.
        env: Environment id or a task's bare name; None takes the stored one, or the bundle's.
        below: Whether to look in all folders below, and not only in those of runs.
        task: Settings of the caller's own, which replace those that are stored.
        trust_code: Run the files of code, and import the modules, that are stored as names.

    Raises:
        UntrustedCodeError: if stored names stand for code that the caller does not name.
        ValueError: if a file is damaged, or there is no such environment.
    """
    stored = None if path is None else stored_settings(path, below=below)
    if stored is None or not _is_stored(env, stored[1]["env"], trust_code):
        task = TaskSettings() if task is None else task
        env = resolve_env(env or default_env(task.bundle))
        return env, {**default_lengths(env, task.bundle), **task.env_kwargs(env)}
    file, settings = stored
    try:
        defaults = as_plain(values_by_name(TaskSettings))
        given = {} if task is None else as_plain(task)
        given = {name: value for name, value in given.items() if value != defaults[name]}
        stored_task = task_of_file(settings["task"])
        kept = {name: value for name, value in stored_task.items() if name not in given}
        check_saved([settings["env"], kept], file, named=[env], trust_code=trust_code)
        check_module(settings["env"], file, trust_code=trust_code or env is not None)
        names = ("max_new_tokens", "fixed_length")
        training = TrainingSettings(**{name: settings["training"][name] for name in names})
        merged = from_plain(TaskSettings, {**defaults, **kept, **given})
        code = settings.get("code", {})
        changed = changed_files(code, {p: code_hash(Path(p)) for p in code if exists(p)})
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is damaged or of another version ({error})") from None
    for line in changed:
        logger.warning("%s", line)
    env = resolve_env(settings["env"])
    named = {} if task is None else task.env_kwargs(env)
    return env, {**merged.env_kwargs(env), **training.lengths(), "split": "test", **named}


def _is_stored(env: str | None, stored: str, trust_code: bool) -> bool:
    """Return whether an environment is the one that is stored, without running what that names."""
    if env is None or env == stored:
        return True
    if split_file_word(stored) and not trust_code:
        return named_object(env) == named_object(stored)
    return resolve_env(env) == resolve_env(stored)


def stored_settings(path: Path, *, below: bool) -> tuple[Path, dict[str, Any]] | None:
    """Return the settings that stored episodes were made with, and their file; None without any."""
    folder = path if path.is_dir() else path.parent
    files = [
        folder / SETTINGS_FILE,
        *sorted(folder.glob("**/run.json" if below else "*/seed-*/run.json")),
    ]
    for file in filter(Path.exists, files):
        stored = read_hashed(file, optional=True)
        settings = stored.get("settings", stored)
        if not isinstance(settings, dict) or not isinstance(settings.get("env"), str):
            raise ValueError(f"{file} is damaged or of another version (it names no env)")
        return file, settings
    return None
