"""Tables and picture of PPO against DPO in docs/results/preferences.md, from the published curves.

python -m tokengym.scripts.studies.ppo_against_dpo_page
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike

from tokengym.evaluation.report.figures import COLOURS, STYLE, write_png
from tokengym.evaluation.report.verdict import number
from tokengym.evaluation.statistics import Array, gain_at, paired_difference
from tokengym.scripts.studies.cells import DOCS, Docs, command_line, read_rows
from tokengym.scripts.studies.ppo_against_dpo import (
    EPOCHS,
    FOLDER,
    PROMPTS,
    SEEDS,
    SWEEP,
    TEXT,
    TRAINING,
    UPDATES,
    Agent,
)
from tokengym.scripts.studies.tables import difference, fill, markdown_table, mean

KL_BUDGETS = (2.0, 4.0, 6.0, 8.0, 10.0, 12.0)
"""Nats at which both are compared."""
TOKEN_BUDGETS = (4e5, 8e5, 1.9e6, 2.1e6)
"""Response tokens at which both are compared."""
NAMES = {"dpo": "DPO", "ppo": "PPO", "own": "its own", "another": "another writer's"}
Rows = Sequence[Mapping[str, Any]]


def page(docs: Docs = DOCS) -> None:
    """Fill the page's tables and draw its picture from the published curves."""
    rows = read_rows(docs / FOLDER / "ppo_dpo.csv", text=TEXT)
    models = read_rows(docs / FOLDER / "reward_models.csv", text=("writer", "recipe"))
    earlier = read_rows(docs / FOLDER / "earlier.csv", text=TEXT)
    study = [row for row in rows if row["seed"] in SEEDS]
    main = [row for row in study if is_main(row)]
    fill(
        docs / "preferences.md",
        {
            "reward-models": reward_table([row for row in models if row["seed"] in SEEDS]),
            "equal-kl": budget_table(main, "kl", KL_BUDGETS),
            "equal-tokens": budget_table(main, "tokens", TOKEN_BUDGETS),
            "endings": endings_table(study),
            "earlier": endings_table(earlier),
        },
    )
    save_frontiers(docs / FOLDER / "gold_against_kl.png", main)


def is_main(row: Mapping[str, Any]) -> bool:
    """Whether a point is one of the main comparison: own pairs, all prompts, the long training."""
    own = row["writer"] == "own" and row["prompts"] == PROMPTS
    return own and row["recipe"] != "short" and (row["price"], row["rate"]) in SWEEP[row["agent"]]


def gains(rows: Rows, agent: str, cost: str, budgets: ArrayLike) -> dict[float, Array]:
    """Return an agent's gold score at each budget, by seed: all its prices and points together.

    Args:
        rows: Points of the main comparison.
        agent: Name of the agent.
        cost: "kl", between whose points straight lines are drawn, or "tokens".
        budgets: Values of the cost.

    Returns:
        (budgets,) by seed; NaN where a seed's runs do not reach.
    """
    found = {}
    for seed in sorted({row["seed"] for row in rows if row["agent"] == agent}):
        own = [row for row in rows if row["agent"] == agent and row["seed"] == seed]
        # An estimate of the untrained policy's KL is 0 but for rounding.
        costs = [max(row[cost], 0.0) if row["step"] else 0.0 for row in own]
        scores = [row["gold_score"] for row in own]
        found[seed] = gain_at(costs, scores, budgets, interpolate=cost == "kl")
    return found


def budget_table(rows: Rows, cost: str, budgets: Sequence[float]) -> str:
    """Return both agents' gold at each budget, and the difference paired by seed."""
    dpo, ppo = (gains(rows, agent, cost, budgets) for agent in get_args(Agent))
    seeds = [seed for seed in dpo if seed in ppo]
    lines = []
    for place, budget in enumerate(budgets):
        both = np.array([(ppo[seed][place], dpo[seed][place]) for seed in seeds]).reshape(-1, 2)
        reached = both[~np.isnan(both).any(axis=1)]
        shown = f"{budget:g} nats" if cost == "kl" else f"{budget / 1000:,.0f}k"
        if len(reached) < 2:
            lines.append(
                [shown, "\u2013", "\u2013", "not reached by two seeds of both", str(len(reached))]
            )
            continue
        gap = paired_difference(reached[:, 0], reached[:, 1])
        means = [number(mean(reached[:, side])) for side in (1, 0)]
        lines.append([shown, *means, difference(vars(gap)), str(len(reached))])
    head = ["KL" if cost == "kl" else "tokens", "DPO", "PPO", "PPO - DPO, 95 % interval, wins"]
    return markdown_table([*head, "seeds"], lines)


def reward_table(models: Rows) -> str:
    """Return the reward models' measurements, by pairs and training."""
    kinds = sorted({(m["writer"] != "own", m["prompts"], m["recipe"]) for m in models})
    lines = []
    for other, prompts, recipe in kinds:
        own = [
            m
            for m in models
            if (m["writer"] != "own", m["prompts"], m["recipe"]) == (other, prompts, recipe)
        ]
        training = TRAINING[recipe]
        lines.append(
            [
                f"{mean([m['pairs'] for m in own]):,.0f}, {NAMES[own[0]['writer']]}",
                f"{training['epochs']:g} epochs, batch {training['batch_size']}",
                _spread([m["accuracy"] for m in own]),
                *(
                    number(mean([m[name] for m in own]))
                    for name in ("train_accuracy", "loss", "calibration_error")
                ),
                f"{mean([m['tokens'] for m in own]) / 1000:,.0f}k",
                str(len(own)),
            ]
        )
    head = ["pairs", "training", "accuracy, held out", "on training pairs", "loss, nats"]
    return markdown_table([*head, "calibration error", "tokens", "seeds"], lines)


def endings_table(rows: Rows) -> str:
    """Return how the runs of each cell end: the mean, and the lowest and highest of the seeds."""
    last = [row for row in rows if row["step"] == (UPDATES if row["agent"] == "ppo" else EPOCHS)]
    keys = ("writer", "prompts", "agent", "recipe", "rate", "price")
    kinds = {tuple(row[key] for key in keys) for row in last}
    lines = []
    for kind in sorted(kinds, key=lambda kind: (kind[0] != "own", *kind[1:5], -kind[5])):
        own = [row for row in last if tuple(row[key] for key in keys) == kind]
        writer, _, agent, recipe, rate, price = kind
        accuracies = [row["reward_accuracy"] for row in own if row["reward_accuracy"] is not None]
        price_name = "beta" if agent == "dpo" else "c"
        short = ", short training" if recipe == "short" else ""
        lines.append(
            [
                f"{mean([row['pairs'] for row in own]):,.0f}, {NAMES[writer]}",
                f"{NAMES[agent]}, {price_name} {price:g}, rate {rate:g}{short}",
                *(_spread([row[name] for row in own]) for name in ("gold_score", "kl")),
                *(number(mean([row[name] for row in own])) for name in ("distinct_2", "unseen")),
                number(mean(accuracies)) if accuracies else "",
                f"{mean([row['tokens'] for row in own]) / 1000:,.0f}k",
                str(len(own)),
            ]
        )
    head = ["pairs", "agent", "gold score", "KL, nats", "distinct bigrams", "unseen words"]
    return markdown_table([*head, "reward model's accuracy", "tokens", "seeds"], lines)


def _spread(values: Sequence[float]) -> str:
    """Return the mean of runs with the lowest and the highest."""
    return f"{number(mean(values))} ({number(min(values))} to {number(max(values))})"


def save_frontiers(path: Path, rows: Rows) -> None:
    """Draw gold against KL: every point of every seed, and the mean of the seeds' frontiers.

    Args:
        path: The PNG to write.
        rows: Points of the main comparison.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Not pyplot: a library leaves the user's figures, backend and settings alone.
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axis = figure.subplots()
        for agent, colour, marker in (("dpo", COLOURS[1], "o"), ("ppo", COLOURS[2], "^")):
            own = [row for row in rows if row["agent"] == agent and row["step"]]
            if not own:
                continue
            axis.scatter(
                [row["kl"] for row in own],
                [row["gold_score"] for row in own],
                s=14,
                color=colour,
                marker=marker,
                alpha=0.45,
                linewidths=0,
            )
            grid = np.linspace(0.0, max(row["kl"] for row in own), 200)
            frontiers = np.array(list(gains(rows, agent, "kl", grid).values()))
            all_reach = ~np.isnan(frontiers).any(axis=0)
            axis.plot(
                grid[all_reach],
                frontiers[:, all_reach].mean(axis=0),
                color=colour,
                linewidth=2.0,
                label=NAMES[agent],
            )
        axis.set(xlabel="KL to the reference, nats per response", ylabel="gold score")
        axis.set_xlim(left=0.0)
        axis.legend(loc="lower right")
        write_png(path, figure, dpi=150)


if __name__ == "__main__":
    command_line(__doc__, page)
