"""``tokengym collect``: responses or preference pairs from an environment."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from tokengym.scripts.commands.options import Folder, Whole, takes_settings, task_settings

if TYPE_CHECKING:
    from tokengym.evaluation.runs.config import TaskSettings


@takes_settings(task_settings)
def collect(
    env: str = "MovieReview",
    num_prompts: int = 256,
    n: int = 8,
    temperature: Annotated[
        tuple[float, ...], tyro.conf.arg(metavar="T ...", help_behavior_hint="")
    ] = (1.0,),
    keep: Literal["pairs", "best", "all"] = "pairs",
    out: Folder = None,
    agent: Folder = None,
    length_penalty: float = 0.0,
    min_gap: float = 0.0,
    reward: str = "sparse",
    max_new_tokens: Whole = None,
    split: Literal["train", "test", "all"] = "train",
    seed: int = 0,
    *,
    task: "TaskSettings",
) -> None:
    """Let an agent answer each prompt n times; keep the best against the worst, or all responses.

    Ctrl-C leaves what is done; the same command goes on from there, to the same file.

    For example:
      tokengym collect --env MovieReview --num-prompts 512 --n 8 --out pairs.jsonl
      tokengym collect --agent runs/abc/agent --temperature 1.0 0.7 --out pairs.parquet
      tokengym collect --n 1 --keep all --out episodes.jsonl
      tokengym train --agent dpo --pairs pairs.jsonl

    Args:
        env: Environment id, or a task's bare name.
        num_prompts: Prompts to answer.
        n: Responses per prompt.
        temperature: One or several, among which the responses are shared out.
        keep: The best response against the worst, the best only, or all.
        out: File, .jsonl or .parquet (default: the task's name and what is kept).
        agent: Folder of a saved agent; without one, the untrained policy answers.
        length_penalty: Taken off the score per character.
        min_gap: What best and worst must differ by to make a pair.
        reward: Whose scorer judges: a reward by name.
        max_new_tokens: Longest response (default: the task's).
        split: Of the prompts.
        seed: Of the order of prompts and the sampling.
        task: What the environment is made from.
    """
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from tokengym.evaluation.runs.collection import CollectionConfig, collect_to_file
    from tokengym.evaluation.runs.config import resolve_env
    from tokengym.evaluation.runs.defaults import task_of

    torch.set_num_threads(1)
    if agent is not None and not agent.is_dir():
        raise ValueError(f"{agent} is no folder; name one that tokengym train or agent.save wrote")
    config = CollectionConfig(
        env=resolve_env(env),
        num_prompts=num_prompts,
        keep=keep,
        n=n,
        temperatures=temperature,
        length_penalty=length_penalty,
        min_gap=min_gap,
        reward=reward,
        max_new_tokens=max_new_tokens,
        split=split,
        seed=seed,
        agent=None if agent is None else str(agent),
        task=task,
    )
    out = out or Path("runs") / f"{task_of(config.env)}-{keep}.jsonl"
    console = Console()
    columns = (TextColumn("prompts"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=num_prompts)
        found = collect_to_file(
            config, out, report=lambda done: progress.update(bar, completed=done)
        )
    kept = {"pairs": "pairs", "best": "best responses", "all": "responses"}[keep]
    console.print(
        f"{found.prompts} prompts, {found.responses} responses of {found.tokens} tokens, mean "
        f"score {found.score:.3f}"
    )
    console.print(f"{found.rows} {kept}, mean score of what is chosen {found.kept_score:.3f}")
    console.print(str(out), soft_wrap=True)
