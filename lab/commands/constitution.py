"""``tokengym constitution``: constitutional AI and RLAIF, from red-team prompts to a report."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokengym.scripts.commands import takes_settings

if TYPE_CHECKING:
    from tokengym.lab.constitution import ConstitutionConfig


def constitution_settings(env: str) -> dict[str, Any]:
    """Return the default settings of a constitutional run."""
    from tokengym.lab.constitution import ConstitutionConfig

    return {"config": ConstitutionConfig(env=env)}


@takes_settings(constitution_settings)
def constitution(
    env: str = "Detox",
    out: Path | None = None,
    principles: Path | None = None,
    *,
    config: "ConstitutionConfig",
) -> None:
    """Teach a policy by principles: critique, revision, SFT, then a judge, a reward model, PPO.

    Every stage is kept in the folder; the same command resumes a stopped run. Without --model,
    --critic and --judge, rules over words ("words", the baseline) criticise and judge in a model's
    place, and the report says so; "bundled" is a small model taught by the rules of Detox and
    Dialogue.

    For example:
      tokengym constitution --env Detox --out runs/constitution
      tokengym constitution --env Detox --critic bundled --judge bundled --out runs/judged
      tokengym constitution --env Dialogue --principles mine.txt --out runs/dialogue
      tokengym constitution --model path/to/chat-model --judge path/to/judge --toxicity classifier

    Args:
        env: Detox, or Dialogue, of which the harmful requests are taken.
        out: The run's folder (default: runs/constitution and the task's name).
        principles: A text file, one principle per line, "name: text" or the text alone.
        config: Settings of the run; the model of its task is a chat model that responds, criticises
            and revises.
    """
    from rich.table import Table

    from tokengym.evaluation.runs import task_name
    from tokengym.lab.constitution import run_constitution
    from tokengym.lab.constitution.critics import load_principles
    from tokengym.lab.constitution.report import policies_table
    from tokengym.scripts.commands import say, terminal

    config = replace(config, model=config.task.model, task=replace(config.task, model=None))
    if principles is not None:
        config = replace(config, principles=load_principles(principles))
    out = out or Path("runs") / f"constitution-{task_name(config.env)}"
    console = terminal()
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
    say(console, f"critique: {results['critic']}; judgement: {results['judge']}")
    say(console, str(out / "report.html"))
