"""``tokengym explore``: a local page on which one response is taken apart token by token."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from tokengym.scripts.commands import takes_settings, task_settings

if TYPE_CHECKING:
    from tokengym.envs import Episode
    from tokengym.evaluation.runs import TaskSettings

MOST_STORED = 1000
"""Most responses of a file that the page offers."""


@takes_settings(task_settings)
def explore(
    results: Annotated[
        Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[RESULTS]")
    ] = None,
    env: str | None = None,
    agent: Path | None = None,
    rewards: tuple[str, ...] = (),
    port: int | None = None,
    no_browser: bool = False,
    trust_code: bool = False,
    device: str = "auto",
    *,
    task: "TaskSettings",
) -> None:
    """Open a local page: sample, see each token's credit, and try the alternatives at a token.

    Nothing leaves this machine, and the page opens only by the address that is printed: the token
    in it is its password. The page can choose what is offered here. Ctrl-C ends it.

    For example:
      tokengym explore --env Oracle
      tokengym explore runs                        offers the agents saved below runs
      tokengym explore --agent runs/one/agent --rewards abc-signed scar mc
      tokengym explore traces.jsonl                what another trainer wrote, beside what it paid

    Args:
        results: Folder whose saved agents can be chosen on the page, or a file of responses: one
            of agents.EpisodeLog, or what TRL, verl, SkyRL, verifiers, prime-rl or OpenEnv wrote
            (jsonl, parquet).
        env: Environment id, or a task's bare name, to begin with (default: the agent's, or
            MovieReview).
        agent: Folder of a saved agent, or of its run, to begin with (default: the untrained
            policy).
        rewards: Rules to begin with, options after a colon (default: those the task's scorer
            allows); only here can they be of your own, rules.py:my_rule, or name a model.
        port: Port on 127.0.0.1 (default: the first that is free from 7860 on).
        no_browser: Only print the address; otherwise the page opens, if there is a display.
        trust_code: Run the files of code that saved agents and their runs name.
        device: Device of the models: "cpu", "cuda" or "cuda:1" (default: a GPU if there is one).
        task: Settings of the environment to begin with.
    """
    import torch
    from transformers import AutoConfig

    from tokengym.base import from_pretrained, preferred_device
    from tokengym.evaluation.runs import known_task
    from tokengym.lab.commands.replay import TRAINER, others_task
    from tokengym.lab.replay.explore import agent_folder
    from tokengym.lab.replay.explore_requests import ExplorePage
    from tokengym.lab.replay.explore_server import Server
    from tokengym.lab.replay.replay import is_foreign
    from tokengym.scripts.commands import open_page, say, terminal

    if task.model is not None:  # the page would say so, but only once somebody asks it
        from_pretrained(AutoConfig, task.model)
    torch.set_num_threads(1)
    folder = None if agent is None else agent_folder(agent)
    saved = None if folder is None else folder.parent
    traces = results if results is not None and results.is_file() else None
    if traces is not None and is_foreign(traces):
        env, kwargs = others_task(traces, env, rewards, task=task, trust_code=trust_code)
    else:
        env, kwargs = known_task(traces or saved, env, task=task, trust_code=trust_code)
    with preferred_device(device):
        page = ExplorePage(
            env,
            kwargs,
            agent=folder,
            model=task.model,
            results=None if traces is not None else results,
            rewards=rewards,
            stored=_stored(traces, env, kwargs),
            stored_in="" if traces is None else traces.name,
            paid_by=TRAINER if traces is not None and is_foreign(traces) else "",
            trust_code=trust_code,
        )
        with Server(page, port=port) as server:
            console = terminal()
            say(console, server.address)
            if not no_browser:
                open_page(console, server.address)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                pass  # the way to end it


def _stored(traces: Path | None, env: str, kwargs: dict[str, Any]) -> "list[Episode]":
    """Return the responses of a file, having said which rows were left out; none without one."""
    from tokengym.lab.commands.replay import say_left_out
    from tokengym.lab.replay.replay import load_episodes

    if traces is None:
        return []
    stored, left_out = load_episodes(traces, env=env, env_kwargs=kwargs, limit=MOST_STORED)
    say_left_out(left_out)
    return stored
