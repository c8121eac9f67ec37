"""``tokengym evaluate``: what does a policy write, and what is it worth?"""

from pathlib import Path
from typing import Annotated

import tyro

from tokengym.scripts.commands.options import Folder, Task, TaskOptions, Whole


def evaluate(
    agent: Annotated[
        Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="AGENT", help_behavior_hint="")
    ] = None,
    env: str = "MovieReview",
    episodes: int = 128,
    seed: int = 0,
    max_new_tokens: Whole = None,
    samples: int = 3,
    deterministic: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    json: Folder = None,
    task: Task = TaskOptions(),  # noqa: B008  frozen
) -> None:
    """Measure a policy on held-out prompts: score, gold score, KL, length, and what it wrote.

    For example:
      tokengym evaluate runs/abc/agent --env MovieReview
      tokengym evaluate --env MovieReview            the policy that training starts from

    Args:
        agent: Folder of a saved agent; without one, the untrained policy is measured.
        env: Environment id, or a task's bare name.
        episodes: Held-out prompts.
        seed: Of prompts and sampling.
        max_new_tokens: Longest response (default: the task's).
        samples: Responses to print.
        deterministic: The likeliest token instead of a sampled one.
        json: File for the figures.
        task: What the environment is made from.
    """
    import torch
    from rich.console import Console

    from tokengym.agents import PPO
    from tokengym.evaluation.config import resolve_env
    from tokengym.evaluation.defaults import training_settings
    from tokengym.evaluation.evaluate import Evaluator
    from tokengym.evaluation.files import write_json
    from tokengym.scripts.commands.show import show_evaluation

    torch.set_num_threads(1)
    env = resolve_env(env)
    if agent is not None and not agent.is_dir():
        raise ValueError(f"{agent} is no folder; name one that tokengym train or agent.save wrote")
    lengths = training_settings(env, max_new_tokens=max_new_tokens).lengths()
    settings = task.settings()
    evaluator = Evaluator(
        env,
        {**settings.env_kwargs(), **lengths},
        num_episodes=episodes,
        seed=seed,
    )
    if agent is None:
        kwargs = {} if settings.model is None else {"model": settings.model}
        player = PPO(
            "CausalLMPolicy", evaluator.envs, policy_kwargs=kwargs, n_minibatches=1, seed=0
        )
    else:
        player = PPO.load(agent)  # without an environment: none of its random state is wanted
    evaluation = evaluator(player, deterministic=deterministic)
    show_evaluation(Console(), evaluation, samples)
    if json is not None:
        write_json(json, {"env": env, "episodes": episodes, "seed": seed, **evaluation.metrics})
