"""``tokengym envs``: what there is to train on."""

from typing import Annotated

import tyro


def envs(
    name: Annotated[
        str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME", help_behavior_hint="")
    ] = None,
) -> None:
    """List the environments; with a name, show one: spaces, prompts, models.

    For example:
      tokengym envs
      tokengym envs MovieReview

    Args:
        name: Environment id, or a task's bare name.
    """
    import gymnasium as gym
    from rich.console import Console
    from rich.table import Table

    from tokengym.evaluation.runs.config import env_ids, resolve_env
    from tokengym.evaluation.runs.defaults import default_rewards, training_settings
    from tokengym.rewards import registered_rewards

    console = Console()
    if name is None:
        table = Table("environment", "compared by default", box=None, pad_edge=False)
        for env_id in env_ids():
            table.add_row(env_id, " ".join(default_rewards(env_id)))
        console.print(table)
        console.print(f"\nrewards: {', '.join(registered_rewards())}", soft_wrap=True)
        return
    env_id = resolve_env(name)
    env = gym.make(env_id)
    task: object = env.unwrapped
    training = training_settings(env_id)
    bundle = getattr(task, "bundle", None)
    rows = {
        "id": env_id,
        "prompts": f"{len(task.prompts)} for training",  # type: ignore[attr-defined]
        "vocabulary": f"{env.action_space.n} tokens",  # type: ignore[attr-defined]
        "lengths": f"prompt up to {task.max_prompt_tokens}, "  # type: ignore[attr-defined]
        f"response up to {task.max_new_tokens} tokens",  # type: ignore[attr-defined]
        "models": str(bundle.path.name) if bundle is not None else "none bundled",
        "compared by default": " ".join(default_rewards(env_id)),
        "trained by default": f"{training.steps} updates of {training.batch_size} episodes",
    }
    env.close()
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in rows.items():
        table.add_row(key, value)
    console.print(table)
