"""The task Oracle: write up to six words, each of whose worth is known exactly."""

from collections.abc import Callable
from functools import partial
from typing import Any

from tokengym.envs import Task
from tokengym.lab.envs.oracle.env import LONGEST_LEARNT, OracleEnv, OracleVectorEnv
from tokengym.lab.envs.oracle.score import oracle_text_score


def _exact_score(env: Any) -> Callable[[str, str], float]:
    """Return the score whose exact values the environment knows."""
    return partial(oracle_text_score, rules=env.rules)


ORACLE = Task(
    name="Oracle",
    summary="Write up to six words, each of whose worth is known exactly.",
    env_class=OracleEnv,
    vector_class=OracleVectorEnv,
    exact_score=_exact_score,
    models_know=f"all rules together and up to {LONGEST_LEARNT} tokens",
    training={"max_new_tokens": 6, "learning_rate": 1e-3},
    compare=("sparse", "uniform", "abc", "red", "recency"),
    rewards=(
        "The score is the exact one, `tokengym.lab.envs.oracle.score` of the words by the "
        "rules that hold, under every reward. Rewards that ask a reward model which tokens count "
        "(`abc`, `abc-signed`, `red`, `gradient`) divide it by the bundled one, which learnt that "
        "score; `scar` asks the exact score itself. "
        "`scorer=env.unwrapped.bundle.reward_model` makes the learnt score the score, and "
        "any other `scorer=` that one; the exact values then know nothing of it."
    ),
)
