"""Is anything ahead of `sparse` on a real model in 48 tokens? SmolLM2-135M on a GPU.

    python -m studies.real_gpu run --out runs/real_gpu [--part 0/4]
    python -m studies.real_gpu publish --out runs/real_gpu    # fills the page
    python -m studies.real_gpu page

The bundle and the openings of real_model in three times the tokens, by PPO as on the small model's
film reviews: all weights are trained, and each run has a value network of its own.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from studies.frontier import ENDS, minus
from studies.real_model import BUNDLE, ENV, best_of_n, lines_table
from tokengym import ComparisonConfig
from tokengym.evaluation.runs import EvaluationSettings, TaskSettings
from tokengym.lab.benchmark.verdict import path_of
from tokengym.lab.protocol import LEARNER
from tokengym.lab.study import NET, Cell, Drawn, Published, Round, Runs, Study, single_run
from tokengym.lab.tables import after_holm, at_equal_kl, critic_text, markdown_table, rates_table

UPDATES, ROWS, LENGTH = 16, 64, 48
OPENINGS, DRAWS = 64, 4
"""Held-out openings, and the responses to each by which a policy is measured."""
LINES = "gpu_lines.csv"
ARMS = (
    Cell(rule="sparse", critic="own", gae_lambda="0.95"),
    Cell(rule="abc-signed", critic="own", gae_lambda="0.5"),
    Cell(rule="sparse", critic="reward_model", gae_lambda="0.8"),
)
"""Each arm at the lambda that suited it on the small model's film reviews."""
CONTROL = Cell(rule="random", critic="own", gae_lambda="0.95")


def rounds() -> Iterator[Round]:
    """Yield the cells and the seeds wanted of them, in the order in which they are needed."""
    yield ARMS, range(5)
    yield [CONTROL], range(5)
    yield ARMS, range(10)


def config(run: Cell, out: Path) -> ComparisonConfig:
    """Return the comparison that a run is of."""
    del out
    return single_run(
        ENV,
        run.rule,
        **LEARNER,
        value_network=run.critic,
        gae_lambda=float(run.gae_lambda),
        micro_batch_size=ROWS // LEARNER["n_minibatches"],
        dtype="float32",
        steps=UPDATES,
        batch_size=ROWS,
        max_new_tokens=LENGTH,
        learning_rate=run.rate,
        evaluation=EvaluationSettings(
            every=2, episodes=OPENINGS * DRAWS, samples=0, reference_samples=16
        ),
        task=TaskSettings(bundle=BUNDLE),
    )


def lines(out: Path) -> list[dict[str, Any]]:
    """Return what the best of n untrained responses has."""
    return best_of_n(config(STUDY.cell(**ARMS[0], rate=1e-5, seed=0), out), out)


def tables(published: Published) -> dict[str, str]:
    """Return the page's tables."""
    sweeps = published.runs.sweeps
    return {
        "gpu lines": lines_table(published.drawn[LINES]),
        "gpu rates": rates_table({tuple(about(arm)): sweeps.get(arm, {}) for arm in ARMS}),
        "gpu pairs": pairs_table(published.runs),
    }


def about(arm: Cell) -> list[str]:
    """Return an arm's columns."""
    return [f"`{arm.rule}`{critic_text(arm.critic)}", arm.gae_lambda]


def pairs_table(runs: Runs) -> str:
    """Return every arm minus `sparse`, paired by seed: over the run, at its end, at equal KL."""
    compared = [*ARMS[1:], CONTROL]
    leads = {arm: runs.difference(arm, ARMS[0]) for arm in compared}
    shown = after_holm({arm: lead for arm, lead in leads.items() if lead is not None})
    lines = []
    for arm, lead in shown.items():
        seeds = sorted(runs.runs[arm].keys() & runs.runs[ARMS[0]].keys())
        one, base = ({s: path_of(runs.runs[at][s]) for s in seeds} for at in (arm, ARMS[0]))
        parts = minus([*one.values()], [*base.values()])
        equal = [at_equal_kl({"": one}, {"": base}, measure=m) for m in ("score", "gold_score")]
        lines.append([*about(arm), str(len(seeds)), lead, *parts, *equal])
    heads = ["arm", "lambda", "pairs", NET, "score over the run", "KL over it", *ENDS]
    return markdown_table([*heads, "score at equal KL, by nats", "gold at equal KL"], lines)


STUDY = Study(
    document="real_model.md",
    folder="real_model",
    axes={"rule": str, "critic": str, "gae_lambda": str},
    rounds=rounds,
    config=config,
    tables=tables,
    drawn=(Drawn(file=LINES, parts={LINES: lines}),),
    first_rate=3e-5,
    runs="gpu_runs.csv",
    holm="table",
)

if __name__ == "__main__":
    STUDY.command_line(__doc__)
