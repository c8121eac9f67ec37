"""``tokengym envs``: the environments and their settings."""

from typing import Annotated

import tyro


def envs(
    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = None,
) -> None:
    """List the environments, with a line about each; with a name, show its prompts and models.

    For example:
      tokengym envs
      tokengym envs MovieReview

    Args:
        name: Environment id, or a task's bare name.
    """
    import gymnasium as gym
    from rich.table import Table
    from rich.text import Text

    from tokengym.envs import TokenGenerationEnv
    from tokengym.envs.tasks import Task
    from tokengym.evaluation.measure.environments import env_ids, resolve_env
    from tokengym.evaluation.runs.defaults import default_rewards, training_settings
    from tokengym.rewards import registered_rewards
    from tokengym.scripts.commands.show import terminal

    console = terminal()
    if name is None:
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(no_wrap=True)
        for env_id in env_ids():
            declared = Task.of(env_id)
            table.add_row(env_id, Text("" if declared is None else declared.summary))
        console.print(table)
        console.print(Text(f"\nrewards: {', '.join(registered_rewards())}"), soft_wrap=True)
        return
    env_id = resolve_env(name)
    env = gym.make(env_id)
    task = env.unwrapped
    assert isinstance(task, TokenGenerationEnv)
    training = training_settings(env_id)
    declared = Task.of(env_id)
    rows = {
        "id": env_id,
        "task": "" if declared is None else declared.summary,
        "prompts": f"{len(task.prompts)} for training",
        "vocabulary": f"{len(task.tokenizer)} tokens",
        "lengths": f"prompt up to {task.max_prompt_tokens}, "
        f"response up to {task.max_new_tokens} tokens",
        "models": task.bundle.path.name if task.bundle is not None else "none bundled",
        "compared by default": " ".join(default_rewards(env_id)),
        "trained by default": f"{training.steps} updates of {training.batch_size} episodes",
    }
    env.close()
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in rows.items():
        table.add_row(key, Text(value))
    console.print(table)
