"""On Forks, is credit worth more than a critic that knows the chance of success?

PPO under the score alone, in the hard setting of docs/results/details/forks.md, with a value
network that starts from the bundled model of the verifier, which `red` reads. Published runs of
that page stand beside it, on the same seeds and grid.

    python -m studies.forks_critic run --out runs/forks_critic [--until 22:00]
    python -m studies.forks_critic publish --out runs/forks_critic    # fills the page's table
    python -m studies.forks_critic page
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studies.forks import CURVES
from tokengym import ComparisonConfig
from tokengym.envs import Episode
from tokengym.evaluation.report import number
from tokengym.evaluation.runs import EvaluationSettings, TaskSettings
from tokengym.evaluation.statistics import paired_difference
from tokengym.lab.protocol import net_area
from tokengym.lab.study import Cell, Published, Round, Row, Study, read_rows, single_run
from tokengym.lab.tables import (
    NONE,
    NOT_YET,
    after_holm,
    grouped,
    markdown_table,
    mean,
    paired,
    rates_table,
    student_mean,
)
from tokengym.rewards import Credit, register_credit

ENV = "tokengym/Forks-v0"
KNOBS = "family=brackets,decisions=5,distractors=2"
"""The hard setting."""
TOKENS, ROWS, LENGTH, PRICE = 200_000, 64, 28, 0.01
EVERY = 9
"""Updates between two measurements, those of the published runs."""
SEEDS = range(80, 87)
"""The seven pairs of the page."""
LAMBDAS = ("0.95", "0.5")
BESIDE = {
    "`sparse`, lambda 0.95": "hard-ppo-sparse",
    "`red`, lambda 0.95": "hard-ppo-red_delivery=end-0.95",
    "`red`, lambda 0.5": "hard-ppo-red_delivery=end",
    "`decisive`": "hard-ppo-decisive",
}
"""Published runs: the name in the table and that of the cell."""


class Beside(Credit):
    """The whole score on the last token, with the bundled model of the verifier at hand.

    It asks for the model's attention, and reads none of it: that is what brings the model into the
    environment, from which the critic takes its weights.
    """

    name = "sparse-beside-model"
    attribution = "attention"

    def spread(
        self, score: float, episode: Episode, attribution: NDArray[np.float32] | None
    ) -> NDArray[np.floating]:
        """Return R on the last token, 0 elsewhere."""
        del attribution
        rewards = np.zeros(len(episode.response_ids))
        rewards[-1] = score
        return rewards


def cells() -> list[Cell]:
    """Return the cells, in the order in which they are needed."""
    return [STUDY.cell(gae_lambda=at) for at in LAMBDAS]


def rounds() -> Iterator[Round]:
    """Yield the cells and the seeds wanted of them."""
    for cell in cells():
        yield [cell], SEEDS


def config(run: Cell, out: Path) -> ComparisonConfig:
    """Return the comparison that a run is of."""
    del out
    learner = {"gae_lambda": float(run.gae_lambda), "value_network": "reward_model"}
    return hard_run(Beside.name, run.rate, **learner)


def hard_run(rule: str, rate: float, **learner: Any) -> ComparisonConfig:
    """Return the comparison of one rule in the hard setting, on the grid of the published runs.

    Args:
        rule: The rule.
        rate: Learning rate.
        learner: Further settings; ``tokens`` in place of `TOKENS`.
    """
    register_credit(Beside)  # importing the study registers nothing
    return single_run(
        ENV,
        rule,
        batch_size=ROWS,
        max_new_tokens=LENGTH,
        kl_coef=PRICE,
        learning_rate=rate,
        **{"tokens": TOKENS, **learner},
        evaluation=EvaluationSettings(every=EVERY, samples=0),
        task=TaskSettings(task_options=KNOBS),
    )


# --- page -----------------------------------------------------------------------------------------


def tables(published: Published) -> dict[str, str]:
    """Return the page's table and that of the rates."""
    runs = published.runs
    beside = read_rows(published.folder / CURVES, text=("cell", "credit"))
    curves: dict[str, Mapping[int, Sequence[Row]]] = {
        name: by_seed(beside, cell) for name, cell in BESIDE.items()
    }
    for cell in cells():
        curves[title(cell)] = runs.runs.get(cell, {})
    swept = {(title(cell),): runs.sweeps[cell] for cell in cells() if cell in runs.sweeps}
    return {
        "critic": critic_table(curves),
        "critic rates": rates_table(swept, ("cell",), with_best=True),
    }


def title(cell: Cell) -> str:
    """Return a cell's name in the tables."""
    return f"`sparse`, critic from the model, lambda {cell.gae_lambda}"


def by_seed(rows: Sequence[Row], cell: str) -> dict[int, list[Row]]:
    """Return the rows of a cell's published runs by seed."""
    return grouped([row for row in rows if row["cell"] == cell], lambda row: int(row["seed"]))


def critic_table(curves: Mapping[str, Mapping[int, Sequence[Row]]]) -> str:
    """Return what each reaches, and its difference from `sparse` and `red`, paired by seed."""
    names = [name for name in curves if len(curves[name]) > 1]
    if len(names) == len(BESIDE):
        return NOT_YET
    areas = {n: {s: net_area(p, PRICE) for s, p in curves[n].items()} for n in names}
    ends = {n: {s: float(p[-1]["score"]) for s, p in curves[n].items()} for n in names}
    differences = {}
    for name in names[len(BESIDE) :]:
        for other in names[:2]:
            for figure, values in (("net", areas), ("end", ends)):
                pairs = paired(values[name], values[other])
                differences[name, other, figure] = paired_difference(*pairs)
    shown = after_holm(differences)
    rows = []
    for name in names:
        kl = mean([p[-1]["kl"] for p in curves[name].values()])
        levels = [student_mean([*values[name].values()]) for values in (ends, areas)]
        apart = [
            shown.get((name, other, figure), NONE)
            for figure in ("end", "net")
            for other in names[:2]
        ]
        rows.append([name, str(len(curves[name])), levels[0], number(kl), levels[1], *apart])
    first, second = names[:2]
    head = ["", "runs", "solved at the end", "KL at the end", "score - c KL over the run"]
    head += [f"{what}, minus {o}" for what in ("solved", "score - c KL") for o in (first, second)]
    return markdown_table(head, rows)


STUDY = Study(
    document="details/forks.md",
    folder="forks",
    runs="critic.csv",
    axes={"gae_lambda": str},
    rounds=rounds,
    config=config,
    tables=tables,
    price=PRICE,
)

if __name__ == "__main__":
    STUDY.command_line(__doc__)
