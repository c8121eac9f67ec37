"""``tokengym compare``: which reward learns faster?"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from tokengym.evaluation.runs.decide import decide
from tokengym.evaluation.runs.defaults import options_of_comparison
from tokengym.evaluation.runs.settings import AGENT, SEEDS
from tokengym.evaluation.statistics import DEFAULT_LEVEL
from tokengym.scripts.commands.options import (
    RUN_OPTIONS,
    Tracker,
    takes_settings,
)


@takes_settings(options_of_comparison, RUN_OPTIONS - {"agent"}, by_learner=True)
def compare(
    env: str | None = None,
    rewards: tuple[str, ...] = (),
    agent: str = AGENT,
    agents: tuple[str, ...] = (),
    seeds: int = SEEDS,
    out: Path | None = None,
    first_seed: int = 0,
    level: float = DEFAULT_LEVEL,
    jobs: int | None = None,
    checkpoint_every: int = 1,
    retry_failed: bool = False,
    track: Tracker = None,
    executor: str | None = None,
    trust_code: bool = False,
    **given: Any,
) -> int:
    """Train each reward, or each learner, with the same seeds and budget: which learned faster?

    Writes curves.csv, summary.json, curves.png and report.html. Ctrl-C keeps
    finished runs. The same command resumes, and may add rewards or seeds. The exit
    status is 1 if a run failed or was stopped, which leaves the others' results.

    For example:
      tokengym compare --env MovieReview --rewards sparse uniform abc-signed --seeds 5
      tokengym compare --rewards sparse abc:beta=0.8 --seeds 10 --updates 60 --out runs/long
      tokengym compare --model Qwen/Qwen2.5-0.5B --dataset prompts.jsonl --scorer score.py:correct
      tokengym compare --agents ppo loo:group_size=16 dpo --rewards sparse abc-signed

    Args:
        env: Environment id, a task's bare name, or path/to/file.py:make_env (default: the
            bundle's; TokenGeneration for --dataset with a scorer or model of your own that scores;
            else MovieReview).
        rewards: Rewards by name or path/to/file.py:my_rule, options after a colon; train --list
            says what each is. The first is the baseline (default: the task's).
        agent: Learner of the policies, one that learns from token rewards; train --list says what
            each is.
        agents: Learners to compare at equal tokens (--tokens; default: those of --updates at full
            length), by name or path/to/file.py:MyAgent, settings after a colon:
            loo:learning_rate=1e-3. The first is the baseline. The options below
            apply to the first, and to the others that have them.
        seeds: Runs per reward.
        out: Folder of the results (default: runs/ and the task's name).
        first_seed: The lowest seed.
        level: Confidence level of the intervals, in (0, 1).
        jobs: Runs at a time (default: one per core, or the bundle's own).
        checkpoint_every: Evaluations between two checkpoints, from which a stopped run resumes; 0
            keeps none.
        retry_failed: Repeat failed runs.
        track: Tracker that gets the log and the evaluations. Each is an extra: pip install
            'tokengym[tensorboard]'. TensorBoard's files are in each run's folder.
        executor: Where runs are done: here (one after another in this process), or
            slurm:slurm_partition=gpu,timeout_min=600 or ray:num_gpus=1, with options of submitit
            and Ray (default: processes of this machine).
        trust_code: Run the copies of files of code that the folder keeps of an earlier command, in
            place of the files, which may have changed since or be gone.
        training: Settings of training.
        evaluation: Settings of evaluation.
        task: Prompts and models that the environment is made from.
        given: Settings as they were typed, by the words of their options.
    """
    named: dict[str, Any] = {"rewards": rewards, "agent": agent, "agents": agents, "seeds": seeds}
    with trusting(out, trust_code):
        comparison = decide(env, **named, first_seed=first_seed, level=level, **given)
        # Later, since they import torch: what the settings refuse is said without waiting for it.
        from tokengym.evaluation.runs.compare import compare as run_comparison
        from tokengym.scripts.commands.show import show_summary, terminal

        console = terminal()
        result = run_comparison(
            comparison,
            out,
            jobs=jobs,
            checkpoint_every=checkpoint_every,
            retry_failed=retry_failed,
            track=track,
            executor=executor,
            console=console,
        )
    assert result.folder is not None
    show_summary(console, result.found, result.folder)
    return 1 if result.found.failed or result.found.missing else 0


def trusting(out: Path | None, trust_code: bool) -> AbstractContextManager[None]:
    """Run the copies of code in a folder, if the command trusts them."""
    if not trust_code:
        return nullcontext()
    from tokengym.evaluation.runs.trusted import stored_code

    return stored_code(out)
