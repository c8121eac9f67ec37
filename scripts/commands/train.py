"""``tokengym train``: one policy, one reward."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokengym.scripts.commands.options import Chosen, Tracker, takes_settings

if TYPE_CHECKING:
    from rich.console import Console

    from tokengym.evaluation.runs.config import ComparisonConfig, TaskSettings
    from tokengym.evaluation.runs.defaults import EvaluationSettings, TrainingSettings


def run_settings(env: str | None, agent: str, bundle: str = "") -> dict[str, Any]:
    """Return the default settings of a run: those of the task and of the learner."""
    from tokengym.evaluation.measure.environments import resolve_env
    from tokengym.evaluation.runs.config import TaskSettings
    from tokengym.evaluation.runs.defaults import (
        BLOCK,
        CREDIT_SETTINGS,
        EvaluationSettings,
        bundle_settings,
        default_env,
        training_settings,
    )

    env = resolve_env(env or default_env(bundle))
    training = training_settings(env, agent, bundle=bundle)
    idle = frozenset() if training.declaration.uses_credit else CREDIT_SETTINGS
    fixed = (*training.declaration.fixed, *training.declaration.idle)
    idle |= {f"learner.{name}" for name in fixed}
    return {
        "training": Chosen(training, without=idle),
        "evaluation": EvaluationSettings(
            **{"reference_samples": BLOCK, **bundle_settings(bundle, "evaluation")}
        ),
        "task": TaskSettings(),
    }


def agents() -> dict[str, str]:
    """Return the names that ``--agent`` takes, with a line about each."""
    from tokengym.agents.learner import LEARNERS, find_learner

    return {name: find_learner(name).summary for name in LEARNERS.names()}


@takes_settings(run_settings, choice=("agent", agents))
def train(
    env: str | None = None,
    reward: str = "sparse",
    agent: str = "ppo",
    seed: int = 0,
    out: Path | None = None,
    track: Tracker = None,
    *,
    training: "TrainingSettings",
    evaluation: "EvaluationSettings",
    task: "TaskSettings",
) -> None:
    """Train one policy, measure it along the way, and save it.

    ppo, nlpo, reinforce, reinforce++, vineppo and loo learn from token rewards, the others from
    whole scores by the reward's scorer; the tokens of their curves are those sampled and those
    passed over with gradient. --help shows the options of the agent that is named with it, first
    or by --agent, which may be path/to/file.py:MyAgent.

    For example:
      tokengym train --env MovieReview --reward abc --steps 60 --out runs/abc
      tokengym train dpo --pairs pairs.jsonl --beta 0.1 --out runs/dpo
      tokengym train online-dpo --iterations 3 --out runs/online
      tokengym evaluate runs/abc/agent

    Args:
        env: Environment id, a task's bare name, or path/to/file.py:make_env (default: the
            bundle's, or MovieReview).
        reward: A reward by name or path/to/file.py:MyCredit, options after a colon; learners
            from whole scores use its scorer alone.
        agent: Learner of the policy.
        seed: Seed of everything random.
        out: A new folder, or that of the same command, which then resumes: the agent is in agent/,
            the figures beside it (default: runs/train-...).
        track: Tracker that gets the log and the evaluations. Each is an extra: pip install
            'tokengym[tensorboard]'. TensorBoard's files are in each run's folder.
        training: Settings of training.
        evaluation: Settings of evaluation.
        task: Prompts and models that the environment is made from.
    """
    from rich.console import Console

    from tokengym.agents.rollouts.logs import check_tracker
    from tokengym.evaluation.runs.config import ComparisonConfig, run_folder, slug
    from tokengym.evaluation.runs.defaults import default_env, task_name
    from tokengym.evaluation.runs.record import clear_finished
    from tokengym.evaluation.runs.run import join_run
    from tokengym.scripts.commands.show import say

    config = ComparisonConfig(
        env=env or default_env(task.bundle),
        rewards=(reward,),
        seeds=1,
        first_seed=seed,
        training=training,
        evaluation=evaluation,
        task=task,
    )
    (name,) = config.names
    check_tracker(track)
    out = out or Path("runs") / f"train-{task_name(config.env)}-{slug(name)}-{seed}"
    curve = _trained(config, out)  # looked at by all processes before one of them writes
    processes = join_run(training)
    console = Console(quiet=not processes.is_main)
    if processes.is_main:
        clear_finished(run_folder(out, name, seed))
    if curve is not None:
        said = f"{out} is complete: it holds this very run, and nothing was trained again"
        say(console, said)
    else:
        curve = _trained_now(config, out, console, track, is_main=processes.is_main)
    if processes.is_main:  # models that are shared out among processes may be too large for one
        _show(console, config, out, curve, with_references=not processes.saves_together)


def _trained_now(
    config: "ComparisonConfig", out: Path, console: "Console", track: Tracker, *, is_main: bool
) -> list[dict[str, Any]]:
    """Train, or resume a stopped run, and return the curve."""
    from tokengym.evaluation.runs.config import run_folder
    from tokengym.evaluation.runs.progress import ProgressDisplay
    from tokengym.evaluation.runs.run import run

    (name,), seed = config.names, config.first_seed
    if is_main:
        _prepare(config, out)
    with ProgressDisplay(console, total=1, done=0, steps=config.training.last_step) as board:
        board.start((name, seed))
        try:
            record = run(
                config,
                name,
                seed,
                out=out,
                save=out / "agent",
                checkpoint_every=1,
                report=lambda step, point: board.update((name, seed), step, point),
                track=track,
            )
        except (ValueError, TypeError):  # what is said in one line, see `scripts.cli`
            if is_main:
                _forget_refused(run_folder(out, name, seed))
            raise
        board.finish((name, seed), None)
    return record.curve


def _show(
    console: "Console",
    config: "ComparisonConfig",
    out: Path,
    curve: list[dict[str, Any]],
    *,
    with_references: bool,
) -> None:
    """Print where a run began and ended, where its files are, and what needs no training."""
    from tokengym.agents.errors import ModelError
    from tokengym.agents.losses.ranking import best_of_n_kl_bound
    from tokengym.evaluation.measure.alarms import short_of_best
    from tokengym.evaluation.measure.references import reference_lines
    from tokengym.evaluation.runs.config import run_folder
    from tokengym.evaluation.runs.progress import fixed
    from tokengym.evaluation.runs.run import run_references
    from tokengym.scripts.commands.show import say, show_references

    for point in (curve[0], curve[-1]):
        gold, kl = point.get("gold_score"), point.get("kl")
        gold = "" if gold is None else f", gold {fixed(gold, 3)}"
        kl = "" if kl is None else f", KL {fixed(kl, 2)} nats"
        console.print(f"{point['tokens']} tokens: score {fixed(point['score'], 3)}{gold}{kl}")
    (name,), is_best_of_n = config.names, config.training.agent == "best-of-n"
    if is_best_of_n:
        n = config.training.last_step
        console.print(f"KL of the best of {n} is at most {best_of_n_kl_bound(n):.2f} nats")
    else:
        say(console, f"{out / 'agent'}  the agent")
    say(console, f"{run_folder(out, name, config.first_seed)}  its curve")
    if not with_references or not config.evaluation.reference_samples:
        return
    try:
        with console.status("best-of-n of the untrained policy"):
            drawn = run_references(config, out)
    except ModelError as error:  # an agent of one's own may need no model
        console.print(f"no best-of-n: {error}", markup=False)
        return
    lines = reference_lines(drawn, config.kl_coef, by_gold=config.by_gold)
    show_references(console, lines)
    ended = curve[-1]["score"] - (config.kl_coef or 0.0) * (curve[-1].get("kl") or 0.0)
    if not is_best_of_n and (alarm := short_of_best(ended, lines["best_of_n"])):
        say(console, f"! {name}: {alarm}")


def _trained(config: "ComparisonConfig", out: Path) -> list[dict[str, Any]] | None:
    """Return the curve of this very run if it is finished in a folder, else None.

    Raises:
        ValueError: if the folder holds it with other settings, or its files were changed.
    """
    from tokengym.evaluation.runs.config import differences, run_folder
    from tokengym.evaluation.runs.record import read_points, read_result

    folder = run_folder(out, config.names[0], config.first_seed)
    if not (folder / "run.json").is_file():
        return None
    result = read_result(folder)
    if result["status"] != "finished":
        return None
    if differ := differences(result.get("settings", {}), config.as_dict()):
        raise ValueError(
            f"{out} holds a finished run of other settings: {'; '.join(differ)}. Name another "
            "folder with --out"
        )
    return read_points(folder)


def _prepare(config: "ComparisonConfig", out: Path) -> None:
    """Make the run's folder, refusing it or the run before the models are loaded."""
    from tokengym.base.files import locked
    from tokengym.base.user_code import CODE, keep_code
    from tokengym.evaluation.runs.compare import preflight

    _check_folder(config, out)
    with locked(out):
        preflight(config)
        keep_code(config.code, out / CODE)


def _forget_refused(folder: Path) -> None:
    """Delete the files of a run that was refused before it learned anything.

    The corrected command, which may be of another reward, finds its folder as it was.
    """
    from tokengym.evaluation.runs.record import read_result

    if not (folder / "run.json").is_file():
        return
    written = {"curve.csv", "train.csv", "episodes.jsonl", "run.json"}
    if read_result(folder)["steps_done"] == 0 and {p.name for p in folder.iterdir()} <= written:
        for name in written:
            (folder / name).unlink()
        with suppress(OSError):  # not empty: it was there before, or holds what others need
            for empty in (folder, folder.parent, folder.parent.parent):
                empty.rmdir()


def _check_folder(config: "ComparisonConfig", out: Path) -> None:
    """Refuse a folder that holds anything but this very run, stopped.

    A folder has one agent, which a second run in it would replace.

    Raises:
        ValueError: naming the folder, and what differs of a run of other settings.
    """
    from tokengym.base.files import LOCK, is_leftover, read_hashed
    from tokengym.base.user_code import CODE
    from tokengym.evaluation.runs.config import differences, run_folder
    from tokengym.evaluation.runs.record import UNFINISHED, UnfinishedRun

    if not out.exists():
        return
    folder = run_folder(out, config.names[0], config.first_seed)
    resumable = {"iterations", UNFINISHED, LOCK, CODE, "tensorboard"}
    ended = folder / "run.json"  # comes last
    record = read_hashed(ended, optional=True) if ended.is_file() else {"status": "killed"}
    stopped_early = record.get("status") in ("killed", "failed")
    if stopped_early and (
        record.get("steps_done") == 0 or any((folder / name).is_dir() for name in resumable)
    ):
        # Killed while it wrote its results, or failed at once or by a fault that may pass: they
        # are made anew.
        resumable |= {"agent", "agent.previous", "curve.csv", "train.csv", "episodes.jsonl"}
        resumable |= {ended.name, "unscored.jsonl"}
    paths = [path for path in out.rglob("*") if path.is_file() and not is_leftover(path)]
    files = [path.relative_to(out) for path in paths]
    whole = out.is_dir() and all(resumable & set(file.parts) for file in files)
    if not whole and record.get("status") == "failed":
        raise ValueError(
            f"{out} holds a run that failed after {record.get('steps_done')} updates; delete the "
            "folder to train again from the start, or name another with --out"
        )
    if not whole:
        raise ValueError(f"{out} already exists; name a new folder with --out")
    for name, seed, *_ in (file.parts for file in files if len(file.parts) > 2):
        if seed.startswith("seed-") and out / name / seed != folder:
            raise ValueError(
                f"{out} holds a run of {name} with {seed.replace('-', ' ')}, and this one is of "
                f"{folder.parent.name} with seed {config.first_seed}; repeat that run's command to "
                "resume it, or name another folder with --out"
            )
    there = UnfinishedRun(folder, {}).stored_settings()
    if there is not None and (differ := differences(there, config.as_dict())):
        kept = f" ({out / CODE} has the files as they were)" if (out / CODE).exists() else ""
        raise ValueError(
            f"{out} holds a stopped run of other settings: {'; '.join(differ)}. Repeat those "
            f"settings{kept}, or name another folder with --out"
        )
