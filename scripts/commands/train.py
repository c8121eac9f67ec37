"""``tokengym train``: one policy, one reward."""

from pathlib import Path

from tokengym.scripts.commands.options import (
    EvaluationOptions,
    Folder,
    Measuring,
    Task,
    TaskOptions,
    Training,
    TrainingOptions,
)


def train(
    env: str = "MovieReview",
    reward: str = "sparse",
    seed: int = 0,
    out: Folder = None,
    training: Training = TrainingOptions(),  # noqa: B008  frozen
    task: Task = TaskOptions(),  # noqa: B008
    evaluation: Measuring = EvaluationOptions(),  # noqa: B008
) -> None:
    """Train one policy with PPO, measure it along the way, and save it.

    For example:
      tokengym train --env MovieReview --reward abc --steps 60 --out runs/abc
      tokengym evaluate runs/abc/agent

    Args:
        env: Environment id, or a task's bare name.
        reward: A reward by name, options after a colon.
        seed: Of everything random.
        out: A new folder: the agent in agent/, the figures beside it (default: runs/train-...).
        training: How PPO trains.
        task: What the environment is made from.
        evaluation: How policies are measured.
    """
    from rich.console import Console

    from tokengym.evaluation.compare import preflight
    from tokengym.evaluation.config import ComparisonConfig, resolve_env, run_folder, slug
    from tokengym.evaluation.defaults import task_of, training_settings
    from tokengym.evaluation.progress import Board
    from tokengym.evaluation.run import run

    env = resolve_env(env)
    config = ComparisonConfig(
        env=env,
        rewards=(reward,),
        seeds=1,
        first_seed=seed,
        training=training_settings(env, **training.given()),
        evaluation=evaluation.settings(),
        task=task.settings(),
    )
    out = out or Path("runs") / f"train-{task_of(env)}-{slug(reward)}-{seed}"
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already; name a new folder with --out")
    preflight(config)
    console = Console()
    with Board(console, total=1, done=0, steps=config.training.steps) as board:
        board.start((reward, seed))
        record = run(
            config,
            reward,
            seed,
            out=out,
            save=out / "agent",
            report=lambda step, score: board.update((reward, seed), step, score),
        )
        board.finish((reward, seed), None)
    first, last = record.curve[0], record.curve[-1]
    console.print(f"score {first['score']:.3f} -> {last['score']:.3f}, KL {last['kl']:.2f} nats")
    console.print(f"{out / 'agent'}  the agent\n{run_folder(out, reward, seed)}  its curve")
