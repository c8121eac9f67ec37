"""Which reward is best by gold? Sparse, uniform, ABC, R3 and their kin on QuestionAnswer.

    python -m studies.rewards run --out runs/rewards [--until 22:00] [--part 0/2]
    python -m studies.rewards publish --out runs/rewards    # fills the page
    python -m studies.rewards page

Rewards of the reward model's score are those of the task's row in studies.other_tasks, which are
not trained again; here R3 and ABC are, by the same settings.
"""

from collections.abc import Iterator
from pathlib import Path

from tokengym import ComparisonConfig
from tokengym.lab.protocol import GRID, LEARNER
from tokengym.lab.study import Cell, Published, Round, Study, single_run

TASK, PAIRS = "QuestionAnswer", 5
UPDATES, ROWS, LENGTH = 30, 64, 48
OWN = (("r3", "0.95"), ("r3-dense", "0.95"), ("abc", "0.5"))
"""Rewards that are trained here, and their lambdas."""


def rounds() -> Iterator[Round]:
    """Yield the cells and the seeds wanted of them, in the order in which they are needed."""
    cells = [STUDY.cell(rule=rule, gae_lambda=gae_lambda) for rule, gae_lambda in OWN]
    for wanted in cells[:2], cells:
        yield wanted, range(PAIRS)


def config(run: Cell, out: Path) -> ComparisonConfig:
    """Return the comparison that a run is of: that of `studies.other_tasks`."""
    del out
    return single_run(
        f"tokengym/{TASK}-v0",
        run.rule,
        steps=UPDATES,
        batch_size=ROWS,
        max_new_tokens=LENGTH,
        learning_rate=run.rate,
        gae_lambda=float(run.gae_lambda),
        **LEARNER,
        evaluation=GRID,
    )


def tables(published: Published) -> dict[str, str]:
    """Return the page's tables."""
    return {}


STUDY = Study(
    document="rewards.md",
    folder="rewards",
    axes={"rule": str, "gae_lambda": str},
    rounds=rounds,
    config=config,
    tables=tables,
    first_rate=3e-4,
    holm="table",
)

if __name__ == "__main__":
    STUDY.command_line(__doc__)
