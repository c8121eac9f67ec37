"""``tokengym constitution``: constitutional AI and RLAIF, from red-team prompts to a report."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tokengym.scripts.commands.options import (
    Folder,
    Number,
    Text,
    Whole,
    takes_settings,
    task_settings,
)

if TYPE_CHECKING:
    from tokengym.evaluation.runs.config import TaskSettings


@takes_settings(task_settings)
def constitution(
    env: str = "Detox",
    out: Folder = None,
    principles: Folder = None,
    judge: Text = None,
    toxicity: Text = None,
    num_prompts: Whole = None,
    revisions: Whole = None,
    sft_learning_rate: Number = None,
    sft_epochs: Number = None,
    pair_prompts: Whole = None,
    responses: Whole = None,
    reward_learning_rate: Number = None,
    reward_epochs: Number = None,
    ppo_steps: Whole = None,
    ppo_learning_rate: Number = None,
    batch_size: Whole = None,
    kl_coef: Number = None,
    max_new_tokens: Whole = None,
    eval_episodes: Whole = None,
    seed: int = 0,
    *,
    task: "TaskSettings",
) -> None:
    """Teach a policy by principles: critique, revision, SFT, then a judge, a reward model, PPO.

    Every stage is kept in the folder; a stopped run goes on with the same command. Without --model
    and --judge, rules over words criticise and judge in a model's place, and the report says so.

    For example:
      tokengym constitution --env Detox --out runs/constitution
      tokengym constitution --env Dialogue --principles mine.txt --out runs/dialogue
      tokengym constitution --model path/to/chat-model --judge path/to/judge --toxicity classifier

    Args:
        env: Detox, or Dialogue, of which the harmful requests are taken.
        out: The run's folder (default: runs/constitution and the task's name).
        principles: A text file, one principle per line, "name: text" or the text alone.
        judge: Of one that rates responses (default: the model, or rules without one).
        toxicity: Of a classifier that measures toxicity (default: the bundle's, or rules).
        num_prompts: Red-team prompts answered and revised.
        revisions: Times that each response is criticised and rewritten.
        sft_learning_rate: Of learning the revisions.
        sft_epochs: Passes over them.
        pair_prompts: Prompts answered for the judge.
        responses: To each of these.
        reward_learning_rate: Of the reward model.
        reward_epochs: Passes over the judged pairs.
        ppo_steps: Updates.
        ppo_learning_rate: Of PPO.
        batch_size: Episodes per update, texts and pairs per optimiser step.
        kl_coef: Price of a nat of KL to the revised policy.
        max_new_tokens: Longest response (default: the task's).
        eval_episodes: Held-out prompts.
        seed: Of everything random.
        task: What the environment is made from; its model is a chat model that responds, criticises
            and revises.
    """
    import torch
    from rich.console import Console
    from rich.table import Table

    from tokengym.agents.constitution.principles import DEFAULT_PRINCIPLES, load_principles
    from tokengym.evaluation.constitution import ConstitutionConfig, run_constitution
    from tokengym.evaluation.constitution.report import policies_table
    from tokengym.evaluation.runs.config import resolve_env
    from tokengym.evaluation.runs.defaults import changed, task_of

    torch.set_num_threads(1)
    settings = task
    config = changed(
        ConstitutionConfig(
            env=resolve_env(env),
            principles=DEFAULT_PRINCIPLES if principles is None else load_principles(principles),
            model=settings.model,
            judge=judge,
            toxicity=toxicity,
            seed=seed,
            task=replace(settings, model=None),
        ),
        num_prompts=num_prompts,
        revisions=revisions,
        sft_learning_rate=sft_learning_rate,
        sft_epochs=sft_epochs,
        pair_prompts=pair_prompts,
        responses=responses,
        reward_learning_rate=reward_learning_rate,
        reward_epochs=reward_epochs,
        ppo_steps=ppo_steps,
        ppo_learning_rate=ppo_learning_rate,
        batch_size=batch_size,
        kl_coef=kl_coef,
        max_new_tokens=max_new_tokens,
        eval_episodes=eval_episodes,
    )
    out = out or Path("runs") / f"constitution-{task_of(config.env)}"
    console = Console()
    with console.status("") as status:

        def report(stage: str) -> None:
            status.update(stage.replace("_", " "))
            if not console.is_terminal:
                console.print(stage.replace("_", " "))
                console.file.flush()

        results = run_constitution(config, out, report=report)
    head, rows = policies_table(results["policies"])
    table = Table(*head, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(f"critique: {results['critic']}; judgement: {results['judge']}")
    console.print(str(out / "report.html"), soft_wrap=True)
