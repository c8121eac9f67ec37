"""``tokengym train``: one policy, one reward."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokengym.base.errors import TokenGymError
from tokengym.evaluation.measure.environments import task_name
from tokengym.evaluation.runs.comparison import Comparison
from tokengym.evaluation.runs.decide import decide
from tokengym.evaluation.runs.defaults import options_of_run
from tokengym.evaluation.runs.settings import AGENT
from tokengym.evaluation.runs.spec import SPEC_FILE, slug
from tokengym.scripts.commands.compare import trusting
from tokengym.scripts.commands.options import (
    RUN_OPTIONS,
    Tracker,
    check_counts,
    takes_settings,
)

if TYPE_CHECKING:
    from rich.console import Console

    from tokengym.evaluation.measure.references import ReferenceLines
    from tokengym.evaluation.runs.run import Run
    from tokengym.evaluation.statistics import Curve

CURVE = "curve.png"
"""Picture of a run's curve, in its folder."""


@takes_settings(options_of_run, RUN_OPTIONS, by_learner=True)
def train(
    env: str | None = None,
    reward: str | None = None,
    agent: str = AGENT,
    seed: int = 0,
    out: Path | None = None,
    track: Tracker = None,
    list: bool = False,
    trust_code: bool = False,
    **given: Any,
) -> None:
    """Train one policy, measure it along the way, and save it.

    An agent learns from token rewards, as ppo does, or from whole scores by the reward's scorer, as
    dpo does: --list says what each is. The tokens of the latter's curves are those sampled and
    those passed over with gradient. --help shows the options of the agent that is named with it,
    first or by --agent, which may be path/to/file.py:MyAgent.

    For example:
      tokengym train --env MovieReview --reward abc-signed --out runs/one
      tokengym train dpo --pairs pairs.jsonl --beta 0.1 --out runs/dpo
      tokengym train grpo --group-size 16 --out runs/grpo
      tokengym evaluate runs/one/agent

    Args:
        env: Environment id, a task's bare name, or path/to/file.py:make_env (default: the
            bundle's; TokenGeneration for --dataset with a scorer or model of your own that scores;
            else MovieReview).
        reward: A reward by name or path/to/file.py:my_rule, options after a colon; learners
            from whole scores use its scorer alone (default: the task's, sparse of most).
        agent: Learner of the policy; --list says what each is.
        seed: Seed of everything random.
        out: A new folder, or that of the same command, which then resumes: the agent is in agent/,
            curve.png, report.html and the figures beside it (default: runs/train-...).
        track: Tracker that gets the log and the evaluations. Each is an extra: pip install
            'tokengym[tensorboard]'. TensorBoard's files are in each run's folder.
        list: Only print the learners and the rewards, with a line about each.
        trust_code: Run the copies of files of code that the folder keeps of an earlier command, in
            place of the files, which may have changed since or be gone.
        training: Settings of training.
        evaluation: Settings of evaluation.
        task: Prompts and models that the environment is made from.
        given: Settings as they were typed, by the words of their options.
    """
    if list:
        return _list_names()
    check_counts(0, seed=seed)
    named: dict[str, Any] = {"rewards": reward or (), "agent": agent, "seeds": 1}
    with trusting(out, trust_code):
        comparison = decide(env, **named, first_seed=seed, trains=True, **given)
        _train_once(comparison, out, track)  # which imports torch, after what the settings refuse


def _list_names() -> None:
    """Print the names of learners and rewards, with a line about each."""
    from rich.table import Table

    from tokengym.agents.learner import LEARNERS, find_learner
    from tokengym.base.plugins import missing_laboratory
    from tokengym.base.registry import Spec
    from tokengym.evaluation.report.compared import about_reward
    from tokengym.rewards.credits.words import REWARDS
    from tokengym.scripts.commands.show import line_of, terminal

    def of_reward(name: str) -> str:
        REWARDS.find(name)
        return about_reward(Spec(name, name))["summary"]

    console = terminal()
    for title, names, summary_of in (
        ("Learners, for --agent", LEARNERS.names(), lambda name: find_learner(name).summary),
        ("Rewards, for --reward", REWARDS.names(), of_reward),
    ):
        table = Table(box=None, show_header=False, pad_edge=False)
        for name in names:
            try:
                summary = summary_of(name)
            except TokenGymError as error:  # of a package that is broken; the others are listed
                summary = f"! {error}"
            table.add_row(line_of(name), line_of(summary))
        console.print(f"{title}:")
        console.print(table)
        console.print()
    if more := missing_laboratory():
        console.print(line_of(more.removeprefix("; ")), soft_wrap=True)


def _train_once(comparison: Comparison, out: Path | None, track: Tracker) -> None:
    """Train, resume or only show the one run of a configuration."""
    from tokengym.agents.rollouts.logs import check_tracker
    from tokengym.base.folders import locked
    from tokengym.base.saved_code import display_name
    from tokengym.evaluation.runs.compare import begin, preflight
    from tokengym.evaluation.runs.folder import check_folder, clear_failed, missing_runs
    from tokengym.evaluation.runs.run import Run
    from tokengym.evaluation.runs.training import join_processes
    from tokengym.scripts.commands.show import say, terminal

    check_tracker(track)
    reference, (first,) = comparison.reference, comparison.runs
    agent, reward = display_name(first.agent.text), display_name(first.reward.text)
    names = (task_name(reference.env), slug(first.agent.text), slug(first.name), str(first.seed))
    out = out or Path("runs") / "-".join(dict.fromkeys(("train", *names)))
    run = Run(*comparison.specs(out))
    # Looked at by all processes before one of them writes.
    check_folder(comparison, out)
    is_complete = run.is_finished
    was_trained = (out / "agent").exists() or (out / CURVE).exists()
    if is_complete and (out / "curves.csv").exists() and not was_trained:
        raise ValueError(
            f"{out} holds this run as tokengym compare made it, which saves no agent; name another "
            "folder with --out"
        )
    processes = join_processes(first.training)
    console = terminal(quiet=not processes.is_main)
    if processes.is_main:
        with locked(out):
            clear_failed(comparison, out)  # checked again: another process may have begun since
            missing_runs(comparison, out, retry_failed=True)
            if not is_complete:
                there = replace(comparison, reference=comparison.reference_spec(out))
                measured_by = preflight(there)
                resumes = [f"{out} holds this run unfinished: it resumes"] if run.can_resume else []
                lines = [f"agent {agent}, reward {reward}, seed {first.seed}; results in {out}"]
                lines += [*resumes, *comparison.said, f"measured by {measured_by}"]
                begin(run.spec, comparison, out, console, lines)
    if is_complete:
        say(console, f"{out} is complete: it holds this very run, and nothing was trained again")
    else:
        _train(run, out, console, track, is_main=processes.is_main)
    if processes.is_main:
        _show(console, comparison, run, out)


def _train(run: "Run", out: Path, console: "Console", track: Tracker, *, is_main: bool) -> None:
    """Train, or resume a stopped run."""
    from tokengym.evaluation.runs.display import ProgressDisplay

    training = run.spec.training
    last, name = training.last_step, training.step_name
    with ProgressDisplay(console, total=1, done=0, steps=last, step_name=name) as board:
        board.start(run.spec.key)
        try:
            run.do(
                save=out / "agent",
                checkpoint_every=1,
                report=lambda step, point: board.update(run.spec.key, step, point),
                track=track,
            )
        except BaseException:  # also Ctrl-C
            if is_main:
                _forget_if_begun(run, out)
            raise
        board.finish(run.spec.key, None)


def _forget_if_begun(run: "Run", out: Path) -> None:
    """Delete a folder whose run ended before it learned anything, for the corrected command."""
    from tokengym.base.saved_code import CODE
    from tokengym.evaluation.runs.record import RESPONSES

    written = {SPEC_FILE, "curve.csv", "train.csv", "episodes.jsonl", RESPONSES, "run.json"}
    files = [path.relative_to(out) for path in out.rglob("*") if path.is_file()]
    is_all = all(file.name in written or file.parts[0] == CODE for file in files)
    if is_all and not run.result.get("steps_done"):
        shutil.rmtree(out, ignore_errors=True)


def _show(console: "Console", comparison: Comparison, run: "Run", out: Path) -> None:
    """Write picture and report of a run, and print how far it came and what comes next."""
    from tokengym.evaluation.runs.results import write_comparison
    from tokengym.evaluation.runs.run import BEST_OF_N
    from tokengym.scripts.commands.show import say, show_references

    _show_log(console, run)
    training = comparison.reference.training
    if training.agent == BEST_OF_N:
        bound = training.learner.kl_bound(1.0)  # at which the policy of a run samples
        if bound is not None:
            console.print(f"KL of the best of {training.learner.n} is at most {bound:.2f} nats")
    show_references(console, _references(console, comparison, out))
    try:
        summary = write_comparison(comparison, out, picture=CURVE)
    except ValueError as error:  # a curve of one point, or with a score that is no number
        say(console, f"no picture and report: {error}")
    else:
        ((name, arm),) = summary.groups[0].rewards.items()
        for alarm in arm.alarms:
            say(console, f"! {name}: {alarm}")
    say(console, _how_far(run.curve))
    written = [out / name for name in (CURVE, "report.html") if (out / name).exists()]
    say(console, f"curve and report: {' '.join(map(str, written or [run.folder]))}")
    has_agent = (out / "agent").exists()  # an agent of one's own may have no method save
    trust = (
        " --trust-code" if comparison.reference.code else ""
    )  # the user's own, which the folder only names
    following = f"next: tokengym evaluate {out / 'agent'}{trust}"
    say(console, following if has_agent else f"files: {out}")


def _how_far(curve: "Curve") -> str:
    """Return in one line how far a run came, from its first evaluation to its end.

    A measurement that is missing somewhere is left out.
    """
    from tokengym.base.text import fixed
    from tokengym.evaluation.statistics.curve import scored_alike

    # As the report has it, which leaves out steps without a score.
    curve = next(iter(scored_alike([curve])), curve)
    parts = [
        f"{name.replace('_', ' ')} from {fixed(curve[name][0], 3)} to {fixed(curve.end(name), 3)}"
        for name in ("score", "gold_score")
        if curve.has(name)
    ]
    if curve.has("kl"):
        parts.append(f"KL {fixed(curve.end('kl'), 2)} nats")
    return f"{', '.join(parts) or 'trained'} ({curve['tokens'][-1]:,.0f} tokens)"


def _references(console: "Console", comparison: Comparison, out: Path) -> "ReferenceLines | None":
    """Return what needs no training, drawn where the folder has none; None without a model."""
    from tokengym.agents.errors import ModelError
    from tokengym.evaluation.runs.run import Run

    if not comparison.reference.evaluation.reference_samples:
        return None
    try:
        with console.status("best-of-n of the untrained policy"):
            spec = replace(comparison.reference_spec(out), warns=False)  # the run has warned
            drawn = Run(spec).draw()
    except ModelError as error:  # an agent of one's own may need no model
        console.print(f"no best-of-n: {error}", markup=False)
        return None
    return drawn.lines(comparison.price, by_gold=comparison.reference.by_gold)


def _show_log(console: "Console", run: "Run") -> None:
    """Print what a learner from given data logged, by epochs; nothing of another learner."""
    from tokengym.evaluation.report.learning import HELD_OUT, by_epoch
    from tokengym.scripts.commands.show import say, show_learning

    epochs = by_epoch(run.log)
    if not epochs:
        return
    rows = {f"epoch {epoch}" if epoch else "start": row for epoch, row in epochs.items()}
    show_learning(console, rows)
    if not any(name.startswith(HELD_OUT) for row in rows.values() for name in row):
        say(console, "no held-out data: --eval-pairs FILE tells whether these figures carry over")
