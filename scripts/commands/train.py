"""``tokengym train``: one policy, one reward."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokengym.scripts.commands.options import (
    EvaluationOptions,
    Folder,
    Measuring,
    Preference,
    PreferenceOptions,
    Task,
    TaskOptions,
    Training,
    TrainingOptions,
)

if TYPE_CHECKING:
    from rich.console import Console

    from tokengym.evaluation.runs.config import ComparisonConfig


def train(
    env: str = "MovieReview",
    reward: str = "sparse",
    agent: Literal["ppo", "dpo", "sft", "online-dpo", "raft", "best-of-n"] = "ppo",
    seed: int = 0,
    out: Folder = None,
    preference: Preference = PreferenceOptions(),  # noqa: B008  frozen
    training: Training = TrainingOptions(),  # noqa: B008  frozen
    task: Task = TaskOptions(),  # noqa: B008
    evaluation: Measuring = EvaluationOptions(),  # noqa: B008
) -> None:
    """Train one policy, measure it along the way, and save it.

    PPO learns from token rewards; the others from preferences of the reward's scorer. Of their
    curves, tokens are the response tokens processed: sampled, and passed over with gradient.

    For example:
      tokengym train --env MovieReview --reward abc --steps 60 --out runs/abc
      tokengym train --agent dpo --pairs pairs.jsonl --beta 0.1 --out runs/dpo
      tokengym train --agent online-dpo --iterations 3 --out runs/online
      tokengym evaluate runs/abc/agent

    Args:
        env: Environment id, or a task's bare name.
        reward: A reward by name, options after a colon; all but PPO use its scorer alone.
        agent: How the policy learns; best-of-n only chooses among its responses.
        seed: Of everything random.
        out: A new folder: the agent in agent/, the figures beside it (default: runs/train-...).
        preference: How the other agents learn.
        training: How PPO trains; the others take its lengths, rate, batch size and LoRA rank.
        task: What the environment is made from.
        evaluation: How policies are measured.
    """
    from rich.console import Console

    from tokengym.evaluation.runs.compare import preflight
    from tokengym.evaluation.runs.config import ComparisonConfig, resolve_env, run_folder, slug
    from tokengym.evaluation.runs.defaults import task_of, training_settings
    from tokengym.evaluation.runs.progress import Board
    from tokengym.evaluation.runs.run import run

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
    name = slug(reward) if agent == "ppo" else agent
    out = out or Path("runs") / f"train-{task_of(env)}-{name}-{seed}"
    if agent != "ppo":
        _train_preferences(agent, config, preference, training, seed, out)
        return
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


def _train_preferences(
    agent: str,
    config: "ComparisonConfig",
    preference: PreferenceOptions,
    training: TrainingOptions,
    seed: int,
    out: Path,
) -> None:
    """Train from preferences; iterations that are there already are gone on from."""
    import torch
    from rich.console import Console

    from tokengym.agents.online.pairing import best_of_n_kl_bound
    from tokengym.evaluation.runs.config import run_folder
    from tokengym.evaluation.runs.preference_runs import progress_steps, run_preferences
    from tokengym.evaluation.runs.progress import Board

    torch.set_num_threads(1)
    settings = preference.settings(training, agent)
    known = {"iterations"} if agent in ("online-dpo", "raft") else set()
    if out.exists() and (not out.is_dir() or {path.name for path in out.iterdir()} - known):
        raise ValueError(f"{out} is there already; name a new folder with --out")
    console = Console()
    with Board(console, total=1, done=0, steps=progress_steps(agent, settings)) as board:
        board.start((agent, seed))
        record = run_preferences(
            agent,
            config,
            settings,
            seed,
            out=out,
            save=out / "agent",
            report=lambda step, score: board.update((agent, seed), step, score),
        )
        board.finish((agent, seed), None)
    _show_curve(console, record.curve)
    if agent == "best-of-n":
        bound = best_of_n_kl_bound(settings.n)
        console.print(f"KL of the best of {settings.n} is at most {bound:.2f} nats")
    else:
        console.print(f"{out / 'agent'}  the agent", soft_wrap=True)
    console.print(f"{run_folder(out, agent, seed)}  its curve", soft_wrap=True)


def _show_curve(console: "Console", curve: list[dict[str, Any]]) -> None:
    """Print where a run began and ended."""
    for point in (curve[0], curve[-1]):
        gold = f", gold {point['gold_score']:.3f}" if point.get("gold_score") is not None else ""
        kl = f", KL {point['kl']:.2f} nats" if point.get("kl") is not None else ""
        console.print(f"{point['tokens']} tokens: score {point['score']:.3f}{gold}{kl}")
