"""The task Forks: a maze, a countdown or a bracket sequence in which a few tokens decide."""

from collections.abc import Callable
from typing import Any

from tokengym.envs import Task
from tokengym.lab.envs.forks.env import LONGEST_LEARNT, ForksEnv, ForksSettings, ForksVectorEnv
from tokengym.lab.envs.forks.families import verify


def _verdict(env: Any) -> Callable[[str, str], float]:
    """Return the verifier, whose exact values the environment knows."""
    del env
    return verify


FORKS = Task(
    name="Forks",
    summary="Solve a small maze, countdown or bracket puzzle in which a few tokens decide.",
    env_class=ForksEnv,
    vector_class=ForksVectorEnv,
    settings=ForksSettings,
    exact_score=_verdict,
    models_know=f"up to {LONGEST_LEARNT} tokens of prompt and response together",
    training={"max_new_tokens": 16, "learning_rate": 1e-3},
    compare=("sparse", "uniform", "abc", "red", "recency"),
    rewards=(
        "The score is the verifier's verdict, 1 or 0, under every reward but those of R3, which "
        "know nothing of mazes. Rewards that ask a reward model which tokens count (`abc`, "
        "`abc-signed`, `red`, `gradient`) divide it by the bundled one, which learned the chance "
        "of success at every token. `scar` asks the verifier itself, for which an unfinished "
        "response is worth 0."
    ),
)
