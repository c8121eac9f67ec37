"""``tokengym collect``: responses or preference pairs from an environment."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokengym.scripts.commands import takes_settings

if TYPE_CHECKING:
    from tokengym.lab.collect import CollectionConfig


def collection_settings(
    env: str | None,
    reward: str = "sparse",
    bundle: str = "",
    dataset: str | None = None,
    scorer: str | None = None,
    reward_model: str | None = None,
    encoder: str | None = None,
    agent: str | None = None,
    trust_code: bool = False,
) -> dict[str, Any]:
    """Return the default settings of a collection."""
    from tokengym.evaluation.measure import resolve_env
    from tokengym.evaluation.runs import known_task, stored_settings
    from tokengym.lab.collect import CollectionConfig

    saved = None if agent is None else Path(agent).parent
    if env is None and saved is not None and stored_settings(saved):
        env, _ = known_task(saved, None, trust_code=trust_code)
    judges = {"scorer": scorer, "reward_model": reward_model, "encoder": encoder}
    own = {"dataset": dataset, "reward": reward, **judges}
    return {"config": CollectionConfig(env=env or resolve_env(None, bundle, own))}


@takes_settings(collection_settings)
def collect(
    env: str | None = None,
    out: Path | None = None,
    trust_code: bool = False,
    device: str = "auto",
    *,
    config: "CollectionConfig",
) -> None:
    """Let an agent answer each prompt n times; keep the best against the worst, or all responses.

    Ctrl-C keeps finished parts; the same command resumes from them and ends with the same file.

    For example:
      tokengym collect --env MovieReview --num-prompts 512 --n 8 --out pairs.jsonl
      tokengym collect --agent runs/one/agent --temperature 1.0 0.7 --out pairs.parquet
      tokengym collect --n 1 --keep all --out episodes.jsonl
      tokengym train --agent dpo --pairs pairs.jsonl

    Args:
        env: Environment id, or a task's bare name (default: what the agent was trained in,
            the bundle's; TokenGeneration for --dataset with a scorer of your own; else
            MovieReview).
        out: File, .jsonl or .parquet (default: the task's name and what is kept).
        trust_code: Run the files of code that the agent and its run name, which your command does
            not.
        device: Device of the models: "cpu", "cuda" or "cuda:1" (default: a GPU if there is one).
        config: Settings of the collection.
    """
    import torch
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from tokengym.base import preferred_device
    from tokengym.evaluation.runs import fixed, task_name
    from tokengym.lab.collect import collect_to_file
    from tokengym.scripts.commands import say, terminal

    torch.set_num_threads(1)
    if config.agent is not None and not Path(config.agent).is_dir():
        raise ValueError(
            f"{config.agent} is no folder; name one that tokengym train or agent.save wrote"
        )
    out = out or Path("runs") / f"{task_name(config.env)}-{config.keep}.jsonl"
    console = terminal()
    columns = (TextColumn("prompts"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        preferred_device(device),
        Progress(*columns, console=console, transient=True) as progress,
    ):
        bar = progress.add_task("", total=config.num_prompts)
        made = collect_to_file(
            config,
            out,
            report=lambda done: progress.update(bar, completed=done),
            trust_code=trust_code,
        )
    kept = {"pairs": "pairs", "best": "best responses", "all": "responses"}[config.keep]
    console.print(
        f"{made.prompts} prompts, {made.responses} responses of {made.tokens} tokens, mean "
        f"score {fixed(made.score, 3)}"
    )
    console.print(f"{made.rows} {kept}, mean score of what is chosen {fixed(made.kept_score, 3)}")
    say(console, str(out))
