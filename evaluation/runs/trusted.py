"""What a stored folder says of its task and its runs; it may be somebody else's.

Code that it names is run only where the caller names it too, or trusts it.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os.path import exists
from pathlib import Path
from typing import Any

from tokengym.agents.learner import check_saved_agents
from tokengym.base.files import to_json
from tokengym.base.own_code import code_hash
from tokengym.base.registry import split_file_word
from tokengym.base.saved_code import (
    CODE,
    changed_files,
    changed_paths,
    check_module,
    check_saved,
    data_hashes,
    named_object,
    running_copies,
    texts_in,
    texts_of_options,
)
from tokengym.base.settings import from_json, values_by_name
from tokengym.evaluation.measure.environments import resolve_env
from tokengym.evaluation.runs.defaults import training_settings
from tokengym.evaluation.runs.folder import stored_comparison
from tokengym.evaluation.runs.settings import TaskSettings, TrainingSettings
from tokengym.evaluation.runs.spec import (
    SPEC_FILE,
    RunSpec,
    own_texts,
)

logger = logging.getLogger(__name__)

OF_PROMPTS = ("prompts", "dataset", "bundle")
"""Settings that name other prompts than those of a run's own pairs."""


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
    Prompts of a run's own pairs are stored with it, unless ``task`` has others.

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
        training = training_settings(env, bundle=task.bundle, max_new_tokens=task.max_new_tokens)
        return env, {**training.lengths(), **task.env_kwargs(env)}
    file, settings = stored
    try:
        defaults = to_json(values_by_name(TaskSettings))
        given = {} if task is None else to_json(task)
        given = {name: value for name, value in given.items() if value != defaults[name]}
        kept = {name: value for name, value in settings["task"].items() if name not in given}
        names_scorer = any(given.get(name) is not None for name in ("scorer", "reward_model"))
        judge = {"reward": settings["rewards"][0]} if judged and not names_scorer else {}
        trained = settings["training"]
        has_own = trained["learner"].get("own_prompts") and given.keys().isdisjoint(OF_PROMPTS)
        agent = [trained["agent"]] if has_own else []  # which reads them
        saved = [settings["env"], kept, judge, agent]
        _check_trusted(saved, settings["env"], agent, file, named=env, trust_code=trust_code)
        training = TrainingSettings(
            max_new_tokens=given.pop("max_new_tokens", trained["max_new_tokens"]),
            fixed_length=trained["fixed_length"],
        )
        merged = from_json(TaskSettings, {**defaults, **kept, **given})
        of_pairs = TrainingSettings.from_dict(trained) if has_own else None
        code, data = dict(settings.get("code", {})), dict(settings.get("data", {}))
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is damaged or of another version ({error})") from None
    env = resolve_env(settings["env"])
    kwargs = {"split": "test", **training.lengths(), **merged.env_kwargs(env), **judge}
    pairs = [trained["learner"].get(name) for name in ("pairs", "eval_pairs") if has_own]
    texts = {*map(str, [*texts_in(kwargs), *pairs]), *texts_of_options(kwargs)}
    check_files(code, {path: data[path] for path in data if path in texts}, file)
    if of_pairs is not None and (own := own_texts(of_pairs, merged)) is not None:
        kwargs["prompts"] = own.test_prompts
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
    spec = RunSpec.read(folder)
    words = [*spec.compared["agents"], spec.agent.text]
    file = folder / SPEC_FILE
    _check_trusted(spec.settings(), spec.env.text, words, file, trust_code=trust_code)
    return spec


@contextmanager
def stored_code(out: Path | None) -> Iterator[None]:
    """Run the copies of files of code that a comparison's folder keeps, which the caller trusts.

    They take the place of the files that have their paths, which may have changed, or be gone.

    Raises:
        ValueError: if no folder is named.
    """
    if out is None:
        raise ValueError("trust_code=True runs the copies in a folder; name it with out=")
    found = stored_comparison(out)
    code: Mapping[str, str] = found[1].get("code", {}) if found else {}
    for path in changed_paths(code, {p: code_hash(Path(p)) for p in code if exists(p)}):
        logger.warning(
            "%s is not as its copy in %s, which is run; name another folder to run the file",
            path,
            out / CODE,
        )
    with running_copies(code, out / CODE):
        yield


def _check_trusted(
    saved: object,
    env: str,
    agents: Sequence[str],
    file: Path,
    *,
    named: str | None = None,
    trust_code: bool,
) -> None:
    """Refuse code and modules that what was saved names, an env and learners among it.

    ``named`` is the env of the caller's own.
    """
    check_saved(saved, file, named=[named], trust_code=trust_code)
    check_saved_agents(agents, file, trust_code=trust_code)
    check_module(env, file, trust_code=trust_code or named is not None)


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
    return (files[0], RunSpec.read(files[0].parent).settings()) if files else None
