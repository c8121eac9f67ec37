"""Which rule sees the decisive token at all? Bias and noise of its gradient on Forks, untrained.

As `ledger_noise`, at the three settings of `forks`: for a fixed policy every prefix of its
responses is continued, which gives each token's advantage without bias. `decisive` is the exact
advantage under the best play, which is another direction than the policy's own. All advantages
are centred by position, as a critic does that knows nothing but the time.

    python -m studies.forks_noise measure    # 10 to 30 minutes a setting
    python -m studies.forks_noise page
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from studies.forks import FAMILY, FOLDER, SETTINGS, Cell, register_decisive
from studies.ledger_noise import (
    NOISE,
    Kind,
    forked_advantages,
    measure_missing,
    of_gradient,
    paid_advantages,
    paid_by,
    rows_of,
    token_rewards,
)
from tokengym.envs import Episode
from tokengym.evaluation.measure import Evaluator
from tokengym.lab.study import DOCS, Docs, Row, command_line, read_rows
from tokengym.lab.tables import fill, markdown_table

ENV = "tokengym/Forks-v0"
RULES = ("sparse", "random", "abc-signed", "red:delivery=end", "answer-gain")
LAMBDAS = (0.5, 0.95)
DECISIVE = "decisive"
RESPONSES = {"easy": 1024, "middle": 2048, "hard": 6144}
SEED = 3


def played(setting: str, responses: int) -> tuple[list[Episode], Any, dict[str, Any], Tensor]:
    """Return responses, their policy, the environment's arguments and the legal tokens."""
    cell = Cell(setting=setting, learner="ppo", rule="sparse")
    kwargs = {"family": FAMILY, **SETTINGS[setting], "max_new_tokens": cell.length}
    evaluator = Evaluator(ENV, kwargs, num_episodes=responses, seed=SEED)
    policy: Any = evaluator.untrained()
    task: Any = gym.make(ENV, **kwargs).unwrapped
    legal = torch.tensor(task.prefixes(0).legal)
    return list(evaluator(policy).episodes), policy, {**kwargs, "normalize": "batch"}, legal


def all_advantages(
    episodes: Sequence[Episode], policy: Any, kwargs: dict[str, Any]
) -> dict[Kind, Tensor]:
    """Return every rule's advantages, centred by position."""
    register_decisive()
    best = token_rewards(paid_by(DECISIVE, ENV, kwargs), episodes)
    by_kind = {
        **paid_advantages(RULES, LAMBDAS, episodes, ENV, kwargs),
        **forked_advantages(LAMBDAS[-1:], episodes, policy, ENV, kwargs),
        (DECISIVE, 0.0, 0): best,
    }
    return {kind: advantages - advantages.mean(0) for kind, advantages in by_kind.items()}


def measure(docs: Docs = DOCS) -> None:
    """Measure the settings that are not measured yet."""

    def rows(setting: str) -> Sequence[Row]:
        episodes, policy, kwargs, legal = played(setting, RESPONSES[setting])
        advantages = all_advantages(episodes, policy, kwargs)
        solved = sum(episode.score or 0.0 for episode in episodes) / len(episodes)
        about = {"setting": setting, "solved": f"{solved:.4g}"}
        return rows_of(advantages, episodes, policy, legal, about)

    measure_missing(docs / FOLDER / NOISE, ("setting", "solved"), SETTINGS, rows)


def page(docs: Docs = DOCS) -> None:
    """Fill the page's table."""
    fill(docs / "details/forks.md", {"noise": table(docs)})


def table(docs: Path) -> str:
    """Return a line per rule and lambda: cosine and responses needed at each setting."""
    lines: dict[tuple[str, float], list[str]] = {}
    solved = {}
    file = docs / FOLDER / NOISE
    for row in read_rows(file, text=("setting", "rule")) if file.exists() else []:
        solved[row["setting"]] = row["solved"]
        line = lines.setdefault((row["rule"], row["gae_lambda"]), [])
        line += ["\u2013"] * (len(solved) - 1 - len(line)) + [of_gradient(row)]
    header = [f"{setting}: {share:.3g} solved" for setting, share in solved.items()]
    rows = [[f"`{rule}`", f"{gae_lambda:g}", *line] for (rule, gae_lambda), line in lines.items()]
    return markdown_table(["rule", "lambda", *header], rows)


if __name__ == "__main__":
    command_line(__doc__, measure, page)
