"""``tokengym agents``: three trained agents to load, evaluate and continue."""

import shlex
from pathlib import Path

AGENTS = {
    "moviereview": "--env MovieReview --reward abc-signed",
    "questionanswer": "--env QuestionAnswer --reward r3-dense",
    "detox": "--env Detox --reward abc-signed",
}
"""Name of each agent, and the options of `tokengym train` that make it."""
_NEXT = """
To measure one:

  tokengym evaluate {folder}

To continue its training, in Python:

  made = dict(num_envs=64, reward="abc-signed", normalize="batch", min_new_tokens=48)
  envs = gym.make_vec("tokengym/MovieReview-v0", **made)
  agent = tokengym.PPO.load("{folder}", env=envs)
  agent.learn(total_timesteps=64 * 48, reset_num_timesteps=False)"""


def agents(out: Path = Path("agents")) -> int:
    """Train three small agents, each in about a minute on one CPU core, to start from.

    Film reviews and detoxification under abc-signed, questions under r3-dense, each with the
    defaults of `tokengym train`. Agents that exist already are kept.

    For example:
      tokengym agents
      tokengym evaluate agents/moviereview/agent

    Args:
        out: Folder of the agents, each in a folder of its own.
    """
    from tokengym.scripts.commands.options import call
    from tokengym.scripts.commands.show import say, terminal
    from tokengym.scripts.commands.train import train

    console = terminal()
    for name, settings in AGENTS.items():
        arguments = f"{settings} --out {shlex.quote(str(out / name))}"
        say(console, f"tokengym train {arguments}")
        if status := call(train, "tokengym train", shlex.split(arguments)):
            return status
    say(console, _NEXT.format(folder=out / "moviereview" / "agent"))
    return 0
