"""``tokengym push``: a trained agent, with a card, on the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

import tyro


def push(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    repo: str | None = None,
    folder: Path | None = None,
    public: bool = False,
    trust_code: bool = False,
) -> None:
    """Put a trained agent on the Hugging Face hub, with a card made from its run.

    For example:
      tokengym push runs/one --folder shared         look at it first: nothing leaves the machine
      tokengym push runs/one --repo me/reviews

    Args:
        run: Folder that tokengym train wrote.
        repo: Name on the hub, user/name; hf auth login stores the token.
        folder: Write the same files into a folder instead.
        public: Let everybody see a repository that is made.
        trust_code: Run the files of code that RUN names: the agent is measured once more.
    """
    from tokengym.lab.publish import export_agent, push_to_hub
    from tokengym.scripts.commands import say, terminal

    if (repo is None) == (folder is None):
        raise ValueError("push takes --repo user/name or --folder DIR, one of the two")
    if folder is not None:
        shown = export_agent(run, folder, trust_code=trust_code)
        say(terminal(), f"{shown}  the agent and its card")
    elif repo is not None:
        say(terminal(), push_to_hub(run, repo, private=not public, trust_code=trust_code))
