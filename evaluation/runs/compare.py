"""The comparison: every reward with every seed, each run in a process of its own.

The folder is the state. A run that is recorded there is never repeated, so that a comparison that
was stopped continues where it was, and rewards or seeds can be added to a finished one.
"""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokengym.agents.rollouts.logs import check_tracker
from tokengym.base.files import LOCK, locked, read_hashed, write_hashed
from tokengym.base.user_code import CODE, keep_code
from tokengym.evaluation.measure.environments import resolve_env
from tokengym.evaluation.measure.references import SAMPLES, check_ranks
from tokengym.evaluation.runs.config import (
    SETTINGS_FILE,
    ComparisonConfig,
    differences,
    run_folder,
)
from tokengym.evaluation.runs.defaults import TrainingSettings, bundle_settings
from tokengym.evaluation.runs.launchers import Launch, Launcher, find_launcher, run_in_subprocess
from tokengym.evaluation.runs.plan import RunPlan, plan_run, plan_runs
from tokengym.evaluation.runs.progress import ProgressDisplay
from tokengym.evaluation.runs.record import UNFINISHED, clear_finished, read_result
from tokengym.evaluation.runs.results import write_comparison
from tokengym.evaluation.runs.run import lacks_references

if TYPE_CHECKING:
    from rich.console import Console


def compare(
    config: ComparisonConfig,
    out: Path | str,
    *,
    jobs: int | None = None,
    launcher: Launcher = "local",
    checkpoint_every: int = 1,
    retry_failed: bool = False,
    track: str | None = None,
    console: "Console | None" = None,
) -> dict[str, Any]:
    """Run what is missing of a comparison, and write its results.

    Writes ``curves.csv``, ``summary.json``, ``curves.png`` and ``report.html`` into ``out``, and a
    folder per run, one of them for the reference samples. Stopped by Ctrl-C it leaves the runs that
    are finished; the same call resumes.

    Args:
        config: The comparison.
        out: The comparison's folder.
        jobs: Runs at a time; None takes the bundle's own number, else one per core, of this machine
            or of the Ray cluster; fewer where each has several threads.
        launcher: "local" starts processes here, "ray" hands the runs to a Ray cluster (that of
            RAY_ADDRESS, or one on this machine). The numbers are the same.
        checkpoint_every: Evaluations between two checkpoints of a run here, from which the same
            call resumes it if it was stopped; 0 keeps none, and a stopped run begins anew.
        retry_failed: Do failed runs again; otherwise they stay, and are shown as failed.
        track: "tensorboard", "wandb", "mlflow" or "trackio": where the runs can be watched.
        console: Where progress is shown; None takes the terminal.

    Returns:
        The summary, as summary.json holds it.

    Raises:
        ValueError: if the folder holds another comparison, there is no such device, an environment
            cannot be made, every run failed, or Ray is wanted and not installed.
        FolderInUseError: if another process writes the folder, or one of its runs.
        KeyboardInterrupt: if it was stopped.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}; leave it out for one per core")
    if checkpoint_every < 0:
        raise ValueError(f"checkpoint_every must be >= 0, got {checkpoint_every}; 0 keeps none")
    check_tracker(track)
    if launcher == "local":  # Ray's machines may have GPUs that this one lacks
        from tokengym.base.device import select_device

        select_device(config.training.device)
    launch = find_launcher(launcher, checkpoint_every, track)
    if jobs is None and launcher == "local":
        jobs = bundle_settings(config.task.bundle, "comparison").get("jobs")
    out = Path(out)
    check_folder(config, out)
    with locked(out):
        return _compare(config, out, launch, jobs, retry_failed, console)


def _compare(
    config: ComparisonConfig,
    out: Path,
    launch: Launch,
    jobs: int | None,
    retry_failed: bool,
    console: "Console | None",
) -> dict[str, Any]:
    """Do a comparison in a folder that is this process's own."""
    from rich.console import Console

    check_folder(config, out)  # another process may have begun and ended since
    plans, references = [*plan_runs(config, out)], plan_run(config, *config.reference_run, out)
    folders = config.folders(out).values()
    for folder in folders:
        clear_finished(folder)
    at_reference = run_folder(out, *config.reference_run)
    _check_finished([*folders, at_reference], remove_failed=retry_failed)
    total, missing = len(plans), [plan for plan in plans if not plan.is_done]
    if lacks_references(at_reference, config.evaluation.reference_samples):
        missing.insert(0, references)
    console = console or Console()
    for plan in missing:  # an orphan of a killed comparison may still be writing one
        if plan.folder is not None and plan.folder.is_dir():
            with locked(plan.folder):
                pass
    if missing:
        with console.status("making the environments"):
            measured_by = run_in_subprocess(preflight, config)
        keep_code(config.code, out / CODE)
        for line in (
            _in_words(config.training, missing, out, by_tokens=bool(config.agents)),
            f"measured by {measured_by}",
        ):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        write_hashed(out / SETTINGS_FILE, config.as_dict())
        total += references in missing
        steps = config.training.last_step
        with ProgressDisplay(console, total=total, done=total - len(missing), steps=steps) as board:
            launch(missing, board, jobs)
    return write_comparison(config, out)


def _in_words(
    training: TrainingSettings, plans: Sequence[RunPlan], out: Path, *, by_tokens: bool
) -> str:
    """Return what is about to be done, in one line."""
    has_references = any(plan.is_reference for plan in plans)
    count = len(plans) - has_references
    size = (
        f"{training.last_step} updates ({training.batch_size} x {training.max_new_tokens} tokens)"
    )
    if by_tokens:
        tokens = training.tokens or (
            training.last_step * training.batch_size * training.max_new_tokens
        )
        size = f"{tokens:,} tokens"
    text = f"{count} run{'s' if count != 1 else ''} of {size}"
    if has_references:
        text += " and the reference samples"
    return f"{text}, results in {out}; the time left is shown after the first runs"


def check_folder(config: ComparisonConfig, out: Path) -> None:
    """Refuse a folder that holds another comparison; rewards and seeds may have been added.

    Raises:
        ValueError: naming what differs.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder for the results")
    if not (out / SETTINGS_FILE).exists():
        if out.is_dir() and any(path.name != LOCK for path in out.iterdir()):
            raise ValueError(f"{out} holds other files, no comparison; name a new folder")
        return
    there = {"agents": [], **read_hashed(out / SETTINGS_FILE, optional=True)}
    here = config.as_dict()
    names = ("rewards", "agents")
    dropped = [name for key in names for name in there.get(key, []) if name not in here[key]]
    if "learner" not in there.get("training", {}):
        raise ValueError(
            f"{out} holds a comparison of an earlier version of tokengym; name another folder"
        )
    grows = (
        not dropped
        and all(there.get(key, [])[:1] == here[key][:1] for key in names)
        and there.get("first_seed") == config.first_seed
        and there.get("seeds", 0) <= config.seeds
    )
    if grows and config.agents:  # with a second reward the runs have other names
        before = replace(config, rewards=tuple(there["rewards"]), agents=tuple(there["agents"]))
        grows = set(before.names) <= set(config.names)
    if grows:
        here |= {key: there[key] for key in (*names, "seeds")}
    differ = differences(there, here)
    if differ:
        kept = f" ({out / CODE} has the files as they were)" if there.get("code") else ""
        raise ValueError(
            f"{out} holds another comparison: {'; '.join(differ)}. Name another folder, or repeat "
            f"those settings{kept}"
        )


def preflight(config: ComparisonConfig) -> str:
    """Make every environment once, so that what cannot work is said before any work is done.

    Returns:
        What all runs are measured by, in words.

    Raises:
        ValueError: whatever an environment says.
    """
    import gymnasium as gym

    for training in config.trainings.values():
        training.declaration.check_settings(training.learner, training.batch_size)
    for reward in config.rewards:
        kwargs = config.env_kwargs(reward, train=True)
        gym.make_vec(
            resolve_env(config.env), num_envs=min(2, config.training.batch_size), **kwargs
        ).close()
    from tokengym.evaluation.runs.run import make_evaluator

    evaluator = make_evaluator(config)
    check_ranks(evaluator, config.evaluation.reference_samples)
    evaluator.close()
    return evaluator.measured_by


def _check_finished(folders: Iterable[Path], *, remove_failed: bool) -> None:
    """Refuse runs whose files were changed, before others are done; remove those that failed."""
    for folder in folders:
        if not (folder / "run.json").exists():
            continue
        if read_result(folder)["status"] != "finished" and remove_failed:
            if {UNFINISHED, SAMPLES} & {path.name for path in folder.iterdir()}:
                (folder / "run.json").unlink()  # it was stopped: it resumes from there
            else:
                shutil.rmtree(folder)
