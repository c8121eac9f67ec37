"""Does token credit speed up learning, and does it end better?

PPO on the bundled film reviews of 24, 48 and 96 tokens: the score alone, `abc-signed`, two controls
that read nothing, and the score under a critic that starts from the reward model. 30 updates with
and without a rate that warms up, and 120 and 480. The learning rate is tuned for each on a spare
seed.

    python -m studies.token_credit run --out runs/film_reviews [--until 22:00] [--part 0/2]
    python -m studies.token_credit publish --out runs/film_reviews    # fills the page
    python -m studies.token_credit page
"""

from collections.abc import Iterator, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path

from studies.parts import by_seed, lead
from tokengym import Comparison
from tokengym.evaluation.runs import EvaluationSettings
from tokengym.lab.protocol import (
    GOLD_MARGIN,
    GRID,
    LEARNER,
    NET_MARGIN,
    PROMPTS,
    level,
    net,
    untrained_best_of,
    way,
)
from tokengym.lab.study import (
    NET,
    Cell,
    Drawn,
    Published,
    Round,
    Row,
    Runs,
    Study,
    single_run,
)
from tokengym.lab.tables import (
    after_holm,
    markdown_table,
    paired,
)

ENV = "tokengym/MovieReview-v0"
LENGTHS = (24, 48, 96)
"""Tokens of a response."""
ROWS, UPDATES, WARMUP = 64, 30, 5
"""Responses and number of updates of a run, and updates over which a rate warms up."""
LONG = {120: 2, 480: 8}
"""Updates of a longer run -> updates between two measurements after the tenth."""
SPARSE_LAMBDAS = {24: "0.95", 48: "0.95", 96: "1"}
"""Lambda that suits `sparse` in 30 updates; in longer runs it is 0.95."""
WAYS = "best_of_n.csv"
PAIRS = {WARMUP: 5, 0: 10}
"""Updates of warm-up -> pairs of 30 updates."""
ABOUT = ("tokens", "updates", "arm, lambda")


def arms(length: int, updates: int = UPDATES, warmup: int = 0) -> list[Cell]:
    """Return `sparse`, `abc-signed`, and `sparse` with a critic from the reward model."""
    at = {"length": length, "updates": updates, "warmup": warmup}
    own = SPARSE_LAMBDAS[length] if updates == UPDATES else "0.95"
    return [
        STUDY.cell(rule="sparse", gae_lambda=own, **at),
        STUDY.cell(rule="abc-signed", gae_lambda="0.5", **at),
        STUDY.cell(rule="sparse", gae_lambda="0.8", critic="reward_model", **at),
    ]


def beside(length: int) -> list[Cell]:
    """Return what is set beside the arms of 30 updates: controls, and the critic's other cells."""
    controls = [STUDY.cell(rule=rule, length=length) for rule in ("uniform", "random")]
    others = {48: [("sparse", "0.5"), ("sparse", "0.95"), ("abc-signed", "0.5")]}
    others[96] = others[48][1:2]
    started = [
        STUDY.cell(rule=rule, gae_lambda=at, critic="reward_model", length=length)
        for rule, at in others.get(length, ())
    ]
    return controls + started


def settings() -> list[list[Cell]]:
    """Return the cells that are compared with each other, `sparse` first, in the page's order."""
    warm = [arms(length, warmup=WARMUP) for length in LENGTHS]
    plain = [arms(length) + beside(length) for length in LENGTHS]
    long = [arms(length, 120) for length in LENGTHS]
    return [*warm, *plain, *long, arms(48, 480)[:2]]


def rounds() -> Iterator[Round]:
    """Yield the cells and the seeds wanted of them, in the order in which they are needed."""
    for count in (5, 10):
        for cells in settings():
            yield cells, range(min(count, PAIRS[WARMUP] if cells[0].warmup else count))


def config(run: Cell, out: Path) -> Comparison:
    """Return the comparison that a run is of."""
    del out
    updates = int(run.updates)
    grid = GRID
    if updates in LONG:
        grid = EvaluationSettings(every=LONG[updates], every_until=10, episodes=PROMPTS, samples=0)
    return single_run(
        ENV,
        run.rule,
        updates=updates,
        batch_size=ROWS,
        max_new_tokens=int(run.length),
        learning_rate=run.rate,
        gae_lambda=float(run.gae_lambda),
        value_network=run.critic,
        n_warmup_updates=int(run.warmup),
        **LEARNER,
        evaluation=grid,
    )


def lines(length: int, out: Path) -> list[Row]:
    """Return what the best of n untrained responses of a length scores."""
    del out
    return [{"length": length, **row} for row in untrained_best_of(ENV, length)]


# --- page -----------------------------------------------------------------------------------------


def tables(published: Published) -> dict[str, str]:
    """Return the page's tables by name."""
    runs, drawn = published.runs, published.drawn[WAYS]
    groups = settings()
    return {
        "ends": ends_table(runs, [group for group in groups if group[0].updates != UPDATES], drawn),
    }


def title(cell: Cell) -> str:
    """Return an arm in words; *critic* is `sparse` with a critic from the reward model."""
    own = "critic" if cell.rule == "sparse" else f"`{cell.rule}` with that critic"
    return f"{f'`{cell.rule}`' if cell.critic == 'own' else own}, {cell.gae_lambda}"


def about(cell: Cell) -> list[str]:
    """Return a cell's columns."""
    warmup = f", {int(cell.warmup)} of warm-up" if cell.warmup else ""
    return [str(int(cell.length)), f"{int(cell.updates)}{warmup}", title(cell)]


def ends_table(runs: Runs, groups: Sequence[Sequence[Cell]], drawn: Sequence[Row]) -> str:
    """Return each cell minus `sparse` in the last tenth, with tests of level; gold beside it."""
    pairs = [(cell, base) for base, *others in groups for cell in others]
    made = runs.runs
    shown = after_holm({cell: lead(made[cell], made[base], kind="final") for cell, base in pairs})
    rows = []
    for cell, base in pairs:
        here = [row for row in drawn if row["length"] == cell.length]
        line = [*about(cell), shown[cell]]
        for measure, margin in (("net_score", NET_MARGIN), ("gold_score", GOLD_MARGIN)):
            start, goal = way(here, net if margin == NET_MARGIN else itemgetter(measure))
            ends = (by_seed(made[at], measure, "final") for at in (cell, base))
            test = level(*paired(*ends), goal - start, margin)
            line.append("yes" if test.equivalent else "not shown")
        rows.append(line)
    head = [*ABOUT, f"{NET} in the last tenth", "level?", "gold level?"]
    return markdown_table(head, rows)


STUDY = Study(
    document="film_reviews.md",
    folder="film_reviews",
    axes={
        "rule": str,
        "gae_lambda": "0.95",
        "critic": "own",
        "length": int,
        "updates": UPDATES,
        "warmup": 0,
    },
    rounds=rounds,
    config=config,
    tables=tables,
    drawn=(
        Drawn(
            file=WAYS,
            parts={f"ways/{length}.csv": partial(lines, length) for length in LENGTHS},
            part_of=lambda row: f"ways/{int(row['length'])}.csv",
        ),
    ),
)

if __name__ == "__main__":
    STUDY.command_line(__doc__)
