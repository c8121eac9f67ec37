"""The comparison: every reward with every seed, each run in a process of its own.

The folder is the state. A run that is recorded there is never repeated, so that a comparison that
was stopped continues where it was, and rewards or seeds can be added to a finished one.

It is a list of specs: `compare` finds those without a result, an executor has each done (`do_run`),
and results are made of all. One run is `Run.do`, and its loop `training.train`.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
from rich.console import Console
from rich.text import Text

from tokengym.agents.policy.backend import backend
from tokengym.agents.policy.settings import check_products
from tokengym.agents.rollouts.logs import check_tracker
from tokengym.base.device import select_device
from tokengym.base.errors import FolderInUseError, SettingsError, StorageError, is_fault
from tokengym.base.folders import locked
from tokengym.base.objects import kept_in, short
from tokengym.base.prompt import say_shared
from tokengym.base.saved_code import CODE, keep_code, running_copies
from tokengym.base.text import printable
from tokengym.evaluation.measure.environments import task_name
from tokengym.evaluation.measure.references import check_ranks
from tokengym.evaluation.report.curves import read_curves
from tokengym.evaluation.report.facts import Summary
from tokengym.evaluation.report.sentences import plural
from tokengym.evaluation.result import Result
from tokengym.evaluation.runs.comparison import Comparison, naming_agent
from tokengym.evaluation.runs.decide import decide
from tokengym.evaluation.runs.display import ProgressDisplay
from tokengym.evaluation.runs.executors import (
    EXECUTORS,
    Executor,
    Fault,
    Notices,
    RunFunction,
    here,
    processes_here,
    run_in_subprocess,
    runs_at_a_time,
)
from tokengym.evaluation.runs.folder import check_folder, clear_failed, missing_runs
from tokengym.evaluation.runs.record import describe, versions
from tokengym.evaluation.runs.results import write_comparison
from tokengym.evaluation.runs.run import Run
from tokengym.evaluation.runs.settings import AGENT, SEEDS
from tokengym.evaluation.runs.spec import RunSpec
from tokengym.evaluation.runs.trusted import stored_code
from tokengym.evaluation.statistics import DEFAULT_LEVEL
from tokengym.rewards.check import try_rule
from tokengym.rewards.errors import RewardError, ScorerError

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from tokengym.evaluation.runs.keywords import CompareKeywords


def compare(
    env: Comparison | str | Callable[..., Any] | None = None,
    out: Path | str | None = None,
    *,
    rewards: object = (),
    agent: object = AGENT,
    agents: object = (),
    seeds: int = SEEDS,
    first_seed: int = 0,
    level: float = DEFAULT_LEVEL,
    jobs: int | None = None,
    checkpoint_every: int = 1,
    retry_failed: bool = False,
    track: str | None = None,
    executor: Executor | str | None = None,
    console: Console | None = None,
    trust_code: bool = False,
    **settings: "Unpack[CompareKeywords]",
) -> Result:
    """Train each reward, or each learner, with the same seeds and budget, and compare them.

    The arguments are the options of ``tokengym compare``, with ``_`` for ``-``. Writes
    ``curves.csv``, ``summary.json``, ``curves.png`` and ``report.html`` into ``out``, and a folder
    per run, one of them for the reference samples. Stopped by Ctrl-C it leaves the runs that are
    finished; the same call resumes.

    Args:
        env: Id of the environment, a task's bare name, "file.py:make_env", or that function; None
            takes the one that follows from the rest. Or a whole `Comparison`, as `tokengym.decide`
            returns it, beside which no other setting is given.
        out: Folder of the results; None takes runs/ and the task's name.
        rewards: Words of rewards, or objects: a rule, a scorer, a function, a class. The first
            is the baseline.
        agent: Learner of the policies, by its word or as a class.
        agents: Learners to compare at equal tokens: words, classes of Stable-Baselines3, subclasses
            of `EpisodicAlgorithm`, or what has ``predict`` and perhaps ``learn``.
        seeds: Runs per reward.
        first_seed: The lowest seed.
        level: Confidence level of the intervals, in (0, 1).
        jobs: Runs at a time; None takes the bundle's own number, else one per core, fewer where
            each has several threads. Objects that other processes cannot find, as those of a
            notebook, need 1: the runs are then done in this process.
        checkpoint_every: Evaluations between two checkpoints of a run here, from which the same
            call resumes it if it was stopped; 0 keeps none, and a stopped run starts over.
        retry_failed: Do failed runs again; otherwise they stay, and are shown as failed.
        track: "tensorboard", "wandb", "mlflow" or "trackio": where the runs can be watched.
        executor: Where runs are done, a word or a function, see
            `tokengym.evaluation.runs.executors`; None takes processes of this machine, ``jobs`` at
            a time.
        console: Where progress is shown; None takes the terminal.
        trust_code: Run the copies of files of code that ``out`` keeps of an earlier call, in place
            of the files, which may have changed since or be gone.
        settings: Settings of the training, the evaluation and the task by the words of their
            options: ``updates=30``, ``kl_coef=0.1``, ``eval_every=3``, ``dataset=...``, where a
            ``datasets.Dataset`` or a scorer of one's own will do, too.

    Returns:
        The results, which are a mapping as summary.json is.

    Raises:
        TypeError: if there is no such argument, with the near matches.
        ValueError: if a value is out of range, the folder holds another comparison, there is no
            such device, an environment cannot be made, or every run failed.
        FolderInUseError: if another process writes the folder, or one of its runs.
        ScorerError: if the scorer fails on the reference samples, which ends all runs.
        KeyboardInterrupt: if it was stopped.
    """
    given: dict[str, Any] = {"rewards": rewards, "agent": agent, "agents": agents, "seeds": seeds}
    given |= {"first_seed": first_seed, "level": level, **settings}
    if isinstance(env, Comparison):
        own = inspect.signature(compare).parameters
        if beside := [k for k, v in given.items() if k not in own or v != own[k].default]:
            raise TypeError(f"{beside[0]} has no effect beside a Comparison; leave it out")
    executor = EXECUTORS.make(executor) if isinstance(executor, str) else executor
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}; leave it out for one per core")
    if checkpoint_every < 0:
        raise ValueError(f"checkpoint_every must be >= 0, got {checkpoint_every}; 0 keeps none")
    if jobs is not None and executor is not None:
        raise ValueError(f"jobs={jobs} has no effect beside an executor; leave one of them out")
    check_tracker(track)
    do = partial(do_run, checkpoint_every=checkpoint_every, track=track)
    with stored_code(None if out is None else Path(out)) if trust_code else nullcontext():
        comparison = env if isinstance(env, Comparison) else decide(env, **given)
        out = Path(out or Path("runs") / task_name(comparison.reference.env))
        summary = _do_all(comparison, out, do, executor, jobs, retry_failed, console or Console())
    return Result(summary, read_curves(out / "curves.csv"), out)


def _do_all(
    comparison: Comparison,
    out: Path,
    do: RunFunction,
    executor: Executor | None,
    jobs: int | None,
    retry_failed: bool,
    console: Console,
) -> Summary:
    """Do what is missing of a comparison, write its results, and return the summary."""
    reference = comparison.reference
    own = list(dict.fromkeys(kept_in(comparison.texts)))
    if own and executor is None and jobs == 1:
        executor = here
    if own and executor is not here:
        raise SettingsError(
            f"{short(own[0])} is an object of this process, which others cannot have; "
            "pass jobs=1 to do the runs here, or define it in a file: path/to/file.py:Name"
        )
    is_here = executor in (None, here)
    if is_here:  # elsewhere the runs have the devices of other machines
        select_device(reference.training.device)  # refuses one that is not there
    check_folder(comparison, out)
    with locked(out):
        # Checked again: another process may have begun and ended since.
        clear_failed(comparison, out)
        missing, total = missing_runs(comparison, out, retry_failed)
        if missing:
            notices = Notices()
            with console.status("making the environments"):
                ask = partial(preflight, is_here=is_here, is_forgotten=not own)
                there = replace(comparison, reference=comparison.reference_spec(out))
                measured_by = ask(there) if own else run_in_subprocess(ask, there, notices)
            work = f"{_work(comparison, missing)}, results in {out}"
            lines = [f"{work}; the time left is shown after the first runs", *comparison.said]
            begin(missing[0], comparison, out, console, [*lines, f"measured by {measured_by}"])
            done, training = total - len(missing), reference.training
            missing[1:] = [replace(spec, warns=False) for spec in missing[1:]]
            execute_all = executor or processes_here(runs_at_a_time(jobs, reference), notices)
            total -= missing[0].is_reference  # which trains nothing
            board = ProgressDisplay(
                console,
                total=total,
                done=done,
                steps=training.last_step,
                step_name=training.step_name,
                specs=missing,
            )
            with board:
                execute(missing, board, execute_all, do)
        return write_comparison(comparison, out)


def begin(
    spec: RunSpec, comparison: Comparison, out: Path, console: Console, lines: Iterable[str]
) -> None:
    """Say what is done, and keep in the folder whose settings it has from now on."""
    for line in lines:
        console.print(Text(printable(line)), soft_wrap=True)
    spec.write(versions())
    keep_code(comparison.reference.code, out / CODE)


def _work(comparison: Comparison, missing: Sequence[RunSpec]) -> str:
    """Return how many runs of what size are missing, in words."""
    training, count = comparison.reference.training, sum(not spec.is_reference for spec in missing)
    size = f"{training.batch_size} x {training.max_new_tokens} tokens"
    steps = f"{training.last_step:,} {plural(training.last_step, training.step_name)}"
    size = steps if training.tokens is not None else f"{steps} ({size})"
    text = f"{count} run{'s' if count != 1 else ''} of {size}"
    if resumed := sum(Run(spec).can_resume for spec in missing if not spec.is_reference):
        text += f", {resumed} of them resumed"
    return text + (" and the reference samples" if count < len(missing) else "")


def do_run(spec: RunSpec, *, checkpoint_every: int = 1, track: str | None = None) -> Fault | None:
    """Do a run of a comparison, which tells in its folder how far it is; return its fault."""
    run, has_told = Run(spec), False

    def report(step: int, point: Mapping[str, Any]) -> None:
        nonlocal has_told
        has_told = True
        run.keep_progress(step, point)

    try:
        if spec.is_reference:
            run.draw(report)
        else:
            run.do(report=report, checkpoint_every=checkpoint_every, track=track)
    except BaseException as raised:
        if not is_fault(raised):
            raise
        if isinstance(raised, ScorerError) and not has_told:
            return Fault(describe(raised), of_scorer=raised.for_terminal())
        # It has no result: with room again the same command resumes it.
        return Fault(describe(raised), resumes=isinstance(raised, StorageError))
    finally:
        if has_told:  # else it may be that of another process, whose run it is
            run.remove_progress()
    return None


def execute(
    specs: Sequence[RunSpec], board: ProgressDisplay, executor: Executor, do: RunFunction
) -> None:
    """Have an executor do runs, and show each as it ends.

    Raises:
        ScorerError: if the scorer fails on the reference samples. Runs that failed for the same
            reason leave no result: the same command does them again.
    """
    # Another machine may have another current folder.
    specs = [replace(spec, folder=spec.folder and spec.folder.resolve()) for spec in specs]
    scorer_error: str | None = None
    with closing(executor(do, specs)) as ended:
        for spec, fault in ended:
            if spec.is_reference and fault and (scorer_error := fault.of_scorer):
                break
            _show_end(spec, fault, board)
    if scorer_error is not None:
        for run in map(Run, specs):
            if _failed_by_scorer(run):
                (run.folder / "run.json").unlink()
        raise ScorerError(f"no run can be measured: {scorer_error}")


def _show_end(spec: RunSpec, fault: Fault | None, board: ProgressDisplay) -> None:
    """Show that a run has ended, and record as failed one that left no result, with its error."""
    run = Run(spec)
    if fault and not fault.resumes and not run.has_ended:
        with suppress(FolderInUseError):  # it is the other process's
            run.fail(fault.text)
    error = fault and fault.text
    if fault and fault.resumes and run.has_ended:  # it was stopped when it had ended
        error = run.result.get("error")
    board.finish(spec.key, error, resumes=bool(fault and fault.resumes and not run.has_ended))


def _failed_by_scorer(run: Run) -> bool:
    """Return whether a run's scorer failed before it had measured anything."""
    error, curve = str(run.result.get("error")), run.folder / "curve.csv"
    is_measured = curve.exists() and len(curve.read_text(encoding="utf-8").splitlines()) > 1
    return error.startswith(f"{ScorerError.__name__}:") and not is_measured


# --- faults that show before the first run --------------------------------------------------------


SOURCES_OF_WORDS = ("model", "tokenizer", "dataset", "prompts")
"""Options by which texts may have other words than the task's."""


def check_policies(comparison: Comparison, reads: Mapping[str, str]) -> None:
    """Refuse an agent without a policy of this package where the reward's rule reads one.

    Args:
        comparison: The comparison.
        reads: By reward a name that its rule reads of the policy; "" where it reads none.
    """
    for run in comparison.runs:
        name, learner = reads.get(run.reward.text), run.training.declaration
        # An own agent may call `bind_policy` when it is made; one that did not is told at its step.
        may_bind = name == "continue_from" and not learner.has_own_defaults
        if name and not learner.has_policy and not may_bind:
            raise RewardError(
                f"reward {run.reward.text!r} reads {name!r} of the policy that "
                f"learns, which agent {run.agent.text!r} does not give; take one of `tokengym "
                f"agents`, such as {AGENT!r}, or leave the reward out"
            )


def preflight(comparison: Comparison, *, is_here: bool = True, is_forgotten: bool = False) -> str:
    """Make every environment once, so that what cannot work is said before any work is done.

    Where the runs are done ``is_here``, the devices and libraries of this machine count. In a
    process of its own it is ``is_forgotten``, see `try_rule`.

    Returns:
        What all runs are measured by, in words.
    """
    with running_copies(comparison.reference.code, comparison.reference.copies):
        return _try_all(comparison, is_here, is_forgotten)


def _try_all(comparison: Comparison, is_here: bool, is_forgotten: bool) -> str:
    """Return what `preflight` does, which decides whose code is run."""
    reference = comparison.reference
    for run in comparison.runs:
        training = run.training
        if is_here:
            backend().check_products(training.products)
            check_products(training.products, device=select_device(training.device).type)
        with naming_agent(run.agent.text, one_of=len(reference.compared["agents"])):
            training.declaration.check_settings(training.learner, training.batch_size)
    payers: dict[str, str] = {}
    of_policy: dict[str, str] = {}
    learned: set[str] = set()
    for reward in reference.rewards:
        kwargs = comparison.runs[0].env_kwargs(train=True, reward=reward)
        rows = min(2, reference.training.batch_size)
        envs = gym.make_vec(reference.env_id, num_envs=rows, **kwargs)
        if (paid := getattr(envs, "reward", None)) is not None:
            payers[reward.text] = paid.raw_scorer.title
            of_policy[reward.text] = next(iter(paid.credit.reads_of("policy")), "")
            try_rule(envs, is_forgotten=is_forgotten)
        if reference.task.dataset is not None:
            task: Any = envs.unwrapped
            learned.update(prompt.text for prompt in task.prompts)
        envs.close()
    check_policies(comparison, of_policy)
    evaluator = reference.evaluator()
    check_ranks(evaluator, reference.evaluation.reference_samples or 0)
    if learned:
        measured: Any = evaluator.envs.unwrapped
        say_shared(learned, [prompt.text for prompt in measured.prompts])
    evaluator.close()
    measured_by = evaluator.measured_by
    own_words = (getattr(reference.task, name) for name in SOURCES_OF_WORDS)
    if evaluator.gold is not None and any(source is not None for source in own_words):
        measured_by += "; gold is left out where it does not know the words of the texts"
    first = payers.get(reference.rewards[0].text)
    others = [f"{reward} is paid by {payer}" for reward, payer in payers.items() if payer != first]
    return "; ".join([measured_by, *others])
