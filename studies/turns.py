"""Which credit reaches the decisive turn? Exact gradients and runs of docs/results/turns.md.

Forks over turns at 2, 4 and 8 turns: the first word decides, the verdict comes with the last turn.
Gradients are sums over every conversation; runs train a table of logits, whose worth is exact too.

    python -m studies.turns run --out runs/turns [--until 01:20]
    python -m studies.turns publish --out runs/turns
    python -m studies.turns page
    python -m studies.turns picture
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from tokengym.agents.ppo import Estimator
from tokengym.evaluation.report import number
from tokengym.lab.gradients.oracle import find_estimator
from tokengym.lab.gradients.turns import TURN_INDEX, Talks, train, turn_gradient
from tokengym.lab.partners.turn_forks import TurnForks
from tokengym.lab.study import (
    DOCS,
    Cell,
    Docs,
    Drawn,
    Published,
    Round,
    Row,
    Runs,
    Study,
    command_line,
)
from tokengym.lab.tables import NONE, after_holm, markdown_table, mean
from tokengym.rewards import make_reward

TURNS = (2, 4, 8)
PER_TOKEN, PER_TURN = 0.9, 0.77
"""Discounts: a turn has 2.5 tokens of the uniform policy, and 0.9 to that power is 0.77."""
RULES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "broadcast, published": ("turn-broadcast:published=true", "turn-returns", {"gamma": 0.0}),
    "broadcast": ("sparse", "rloo", {}),
    "broadcast in shares": ("turn-broadcast", "loo", {}),
    "sparse": ("sparse", "loo", {}),
    "turn-score": ("turn-score", "loo", {}),
    "discount per token": ("turn-score", "loo", {"gamma": PER_TOKEN}),
    "discount per turn": (f"turn-return:gamma={PER_TURN}", "loo", {}),
    "own reward alone": ("turn-return:gamma=0", "loo", {}),
    "turn-returns": ("turn-score", "turn-returns", {}),
    "gigpo": ("turn-score", "gigpo", {}),
    "gigpo-prefix": ("turn-score", "gigpo-prefix", {}),
    "turn-auxiliary": ("turn-score", "turn-auxiliary", {}),
    "turn-index-mean": ("turn-score", "turn-index-mean", {}),
    "turn-progress": ("turn-progress:gamma=0.5", "loo", {}),
    "turn-progress, 0": ("turn-progress:gamma=0", "loo", {}),
    "critic, lambda 1": ("turn-score", "gae", {"gae_lambda": 1.0}),
    "critic, lambda 0.95": ("turn-score", "gae", {"gae_lambda": 0.95}),
    "critic, lambda 0.5": ("turn-score", "gae", {"gae_lambda": 0.5}),
    "exact": ("exact", "reinforce", {}),
}
"""Name in the tables -> rule, estimator and the learner's settings."""
BY_STATE = ("turn-progress", "turn-progress, 0")
"""Those whose partner scores how the conversation stands, and so knows the verdict at once."""
BASELINE = "broadcast"
LEAVING = ("broadcast", "turn-score", "turn-index-mean", "turn-returns", "gigpo", "exact")
"""Cells of the conversations that the policy may leave."""
UPDATES, ROWS, GROUP = 60, 16, 8
EVERY = 10
"""Updates that are all measured; of the later ones every second is."""
LOGIT_RATE = 100.0
"""Rate of a logit over the protocol's, which are those of a network's weights."""
GROUPS, EXACT_GROUP = 20_000, 4
EXACT = "gradients.csv"


@lru_cache(maxsize=64)
def talks_of(turns: int, leaves: bool, scores: Any) -> Talks:
    """Return every conversation of a setting."""
    return Talks.make(TurnForks(turns=turns, leaves=leaves, scores=scores))


def estimator_of(name: str) -> Estimator:
    """Return a learner's estimator, or the control that no learner has."""
    return TURN_INDEX if name == TURN_INDEX.name else find_estimator(name)


@lru_cache(maxsize=64)
def rewarded(turns: int, leaves: bool, rule: str, by_state: bool) -> tuple[Talks, Any, Tensor]:
    """Return all conversations with their token rewards, None for exact ones, and scores."""
    talks = talks_of(turns, leaves, "state" if by_state else "turn")
    if rule == "exact":
        return talks, None, talks.scores
    scorer = f"partner:of={'last' if by_state else 'sum'}"
    rewards, scores = talks.rewarded(make_reward(rule, scorer=scorer))
    return talks, rewards, scores


def gradients(out: Path) -> list[Row]:
    """Return a row per setting and cell: the expected gradient at the uniform policy."""
    del out
    rows: list[Row] = []
    for turns in TURNS:
        for leaves in (False, True):
            for name in LEAVING if leaves else RULES:
                rule, estimator, how = RULES[name]
                talks, rewards, scores = rewarded(turns, leaves, rule, name in BY_STATE)
                probs = talks.uniform()
                if rewards is None:
                    rewards = talks.along(talks.advantages(probs))
                    # An advantage alone, with nothing after it.
                    how, estimator = {"gamma": 0.0}, "reinforce"
                found = turn_gradient(
                    talks,
                    probs,
                    rewards,
                    scores,
                    estimator_of(estimator),
                    group_size=EXACT_GROUP,
                    groups=GROUPS,
                    **how,
                )
                check = found.check
                rows.append(
                    {
                        "turns": turns,
                        "leaves": float(leaves),
                        "credit": name,
                        "cosine": round(check.cosine, 5),
                        "reach": round(found.reach, 5),
                        "noise": round(check.noise, 3),
                        "decisive_noise": round(found.decisive_noise, 3),
                        "standard_error": round(check.standard_error, 5),
                    }
                )
    return rows


def play(run: Cell) -> list[Row]:
    """Train a table of logits, and return what it is worth after every update."""
    rule, estimator, how = RULES[run.credit]
    talks, rewards, scores = rewarded(
        int(run.turns), bool(run.leaves), rule, run.credit in BY_STATE
    )
    points = train(
        talks,
        rewards,
        scores,
        estimator_of(estimator),
        rate=LOGIT_RATE * run.rate,
        updates=UPDATES,
        rows=int(run.rows),
        group_size=GROUP,
        seed=int(run.seed),
        **how,
    )
    return [
        {name: round(value, 4) for name, value in point.items()}
        for point in points
        if point["step"] <= EVERY or not point["step"] % 2  # the protocol's grid
    ]


def cells() -> list[Cell]:
    """Return all cells, the shorter conversations first."""
    listed = []
    for turns in TURNS:
        listed += [STUDY.cell(credit=name, turns=turns) for name in RULES]
        listed += [STUDY.cell(credit=name, turns=turns, leaves=1) for name in LEAVING]
    return listed


def rounds() -> Iterator[Round]:
    """Yield the cells and the seeds wanted of them."""
    yield cells(), range(10)


# --- page -----------------------------------------------------------------------------------------


def gradient_table(rows: Sequence[Row], leaves: float) -> str:
    """Return cosine, reach and noise of every credit, reach at each number of turns."""
    known = {(row["credit"], row["turns"]): row for row in rows if row["leaves"] == leaves}
    lines = []
    for name in RULES:
        if (name, TURNS[0]) not in known:
            continue
        found = [known[name, turns] for turns in TURNS]
        cosine = f"{found[-1]['cosine']:.3f}".replace("-", "\N{MINUS SIGN}")
        reach = [number(row["reach"]) for row in found]
        lines.append([name, *reach, cosine, number(found[-1]["noise"])])
    last = TURNS[-1]
    heads = [*(f"reach, {turns} turns" for turns in TURNS), f"cosine, {last}", f"noise, {last}"]
    return markdown_table(["credit", *heads], lines)


def runs_table(runs: Runs, names: Sequence[str], *, leaves: int = 0) -> str:
    """Return each credit's score over the run at most turns, and its difference from broadcast.

    Differences are corrected over all numbers of turns.
    """
    differences = {}
    for name in names:
        for turns in TURNS:
            one = STUDY.cell(credit=name, turns=turns, leaves=leaves)
            found = runs.difference(one, one.but(credit=BASELINE)) if name != BASELINE else None
            if found is not None:
                differences[name, turns] = found
    shown = after_holm(differences, with_wins=False)
    lines = []
    for name in names:
        longest = runs.areas(STUDY.cell(credit=name, turns=TURNS[-1], leaves=leaves))
        score = number(mean([*longest.values()]))
        lines.append([name, score, shown.get((name, TURNS[-1]), NONE)])
    return markdown_table(["credit", f"{TURNS[-1]} turns", "minus broadcast"], lines)


def tables(published: Published) -> Mapping[str, str]:
    """Return the page's tables by name."""
    runs, rows = published.runs, published.drawn[EXACT]
    return {
        "gradients": gradient_table(rows, 0.0),
        "leaving gradients": gradient_table(rows, 1.0),
        "runs": runs_table(runs, [*RULES]),
        "leaving runs": runs_table(runs, LEAVING, leaves=1),
    }


STUDY = Study(
    document="turns.md",
    folder="turns",
    axes={"credit": str, "turns": float, "leaves": 0, "rows": ROWS},
    rounds=rounds,
    play=play,
    tables=tables,
    drawn=(Drawn(file=EXACT, parts={EXACT: gradients}, text=("credit",)),),
    price=0.0,
)

REACHING = (
    "broadcast",
    "broadcast in shares",
    "turn-auxiliary",
    "discount per turn",
    "own reward alone",
)
NOISY = ("broadcast", "gigpo", "turn-progress, 0", "critic, lambda 0.95", "exact")
"""Credits of the picture's two halves."""


def picture(docs: Docs = DOCS) -> None:
    """Draw how much of the gradient reaches the first word, and its noise, by the turns.

    Args:
        docs: Folder of the page.
    """
    from matplotlib.figure import Figure

    rows = [row for row in STUDY.published(docs).drawn[EXACT] if not row["leaves"]]
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    halves = figure.subplots(1, 2)
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys((*REACHING, *NOISY)))}
    titles = ("share of the decisive word in the gradient", "conversations until noise = signal")
    for axes, names, measure, title in zip(
        halves, (REACHING, NOISY), ("reach", "noise"), titles, strict=True
    ):
        for name in names:
            found = [row for row in rows if row["credit"] == name]
            numbers, values = [row["turns"] for row in found], [row[measure] for row in found]
            axes.plot(numbers, values, "o-", color=colours[name])
            axes.annotate(f"  {name}", (numbers[-1], values[-1]), va="center", fontsize=9)
        axes.set(title=title, xlabel="turns", xscale="log")
        axes.set_xlim(1.8, 16)
        axes.set_xticks(TURNS, [str(turns) for turns in TURNS])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    halves[0].set_ylabel("over its share in the true gradient")
    halves[1].set_yscale("log")
    figure.savefig(docs / "turns" / "credit.png", dpi=110)


if __name__ == "__main__":
    command_line(__doc__, STUDY.run, STUDY.publish, STUDY.page, picture)
