"""Tables and picture of PPO against DPO in docs/results/preferences.md, from the published curves.

python -m studies.ppo_against_dpo_page
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike

from studies.cells import DOCS, Docs, command_line, read_rows
from studies.ppo_against_dpo import (
    CHOSEN,
    DEFAULT,
    EPOCHS,
    FOLDER,
    PROMPTS,
    SEEDS,
    SPARE,
    SWEEP,
    TEXT,
    TRAINING,
    UPDATES,
    Agent,
    Recipe,
)
from studies.tables import (
    after_holm,
    difference,
    fields,
    fill,
    markdown_table,
    mean,
)
from tokengym.evaluation.report.figures import COLOURS, STYLE, write_picture
from tokengym.evaluation.report.verdict import number
from tokengym.evaluation.statistics import Array, gain_at, paired_difference

KL_BUDGETS = (2.0, 4.0, 6.0, 8.0, 10.0, 12.0)
"""Nats at which both are compared."""
TOKEN_BUDGETS = (4e5, 8e5, 1.3e6, 1.5e6)
"""Response tokens at which both are compared."""
NAMES = {"dpo": "DPO", "ppo": "PPO", "own": "its own", "another": "another writer's"}
Rows = Sequence[Mapping[str, Any]]


def page(docs: Docs = DOCS) -> None:
    """Fill the page's tables and draw its picture from the published curves."""
    rows = read_rows(docs / FOLDER / "ppo_dpo.csv", text=TEXT)
    models = read_rows(docs / FOLDER / "reward_models.csv", text=("writer", "recipe"))
    study = [row for row in rows if row["seed"] in SEEDS]
    main = [row for row in study if is_main(row)]
    fill(
        docs / "preferences.md",
        {
            "epochs": reward_table([row for row in models if row["seed"] in SPARE]),
            "reward-models": reward_table([row for row in models if row["seed"] in SEEDS]),
            "equal-kl": budget_table(main, "kl", KL_BUDGETS),
            "equal-tokens": budget_table(main, "tokens", TOKEN_BUDGETS),
            "by-pairs": usual_table(study),
            "writers": writers_table(study),
            "rates": rates_table([row for row in rows if row["seed"] in SPARE]),
            "tuned": tuned_table(rows),
            "endings": endings_table(study),
        },
    )
    save_frontiers(docs / FOLDER / "gold_against_kl.png", main)
    save_axes(docs / FOLDER / "gold_against_pairs.png", study)


def is_main(row: Mapping[str, Any]) -> bool:
    """Whether a point is of the main comparison: own pairs, all prompts, the chosen training."""
    own_pairs = row["writer"] == "own" and row["prompts"] == PROMPTS
    trained = row["recipe"] in ("", CHOSEN)
    return own_pairs and trained and (row["price"], row["rate"]) in SWEEP[row["agent"]]


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
    by_seed = {}
    for seed in sorted({row["seed"] for row in rows if row["agent"] == agent}):
        seed_rows = [row for row in rows if row["agent"] == agent and row["seed"] == seed]
        # An estimate of the untrained policy's KL is 0 but for rounding.
        costs = [max(row[cost], 0.0) if row["step"] else 0.0 for row in seed_rows]
        scores = [row["gold_score"] for row in seed_rows]
        by_seed[seed] = gain_at(costs, scores, budgets, interpolate=cost == "kl")
    return by_seed


def budget_table(rows: Rows, cost: str, budgets: Sequence[float]) -> str:
    """Return both agents' gold at each budget, and the difference paired by seed."""
    dpo, ppo = (gains(rows, agent, cost, budgets) for agent in get_args(Agent))
    seeds = [seed for seed in dpo if seed in ppo]
    lines = []
    for index, budget in enumerate(budgets):
        both = np.array([(ppo[seed][index], dpo[seed][index]) for seed in seeds]).reshape(-1, 2)
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
    kinds = sorted(
        {(m["writer"] != "own", m["prompts"], m["recipe"]) for m in models},
        key=lambda kind: (*kind[:2], TRAINING[kind[2]]["epochs"]),
    )
    lines = []
    for other, prompts, recipe in kinds:
        alike = [
            m
            for m in models
            if (m["writer"] != "own", m["prompts"], m["recipe"]) == (other, prompts, recipe)
        ]
        training = TRAINING[recipe]
        lines.append(
            [
                f"{mean([m['pairs'] for m in alike]):,.0f}, {NAMES[alike[0]['writer']]}",
                _training(training),
                _spread([m["accuracy"] for m in alike]),
                *(
                    number(mean([m[name] for m in alike]))
                    for name in ("train_accuracy", "loss", "calibration_error")
                ),
                f"{mean([m['tokens'] for m in alike]) / 1000:,.0f}k",
                str(len(alike)),
            ]
        )
    head = ["pairs", "training", "accuracy, held out", "on training pairs", "loss, nats"]
    return markdown_table([*head, "calibration error", "tokens", "seeds"], lines)


def _training(settings: Mapping[str, Any]) -> str:
    smoothing = settings.get("label_smoothing")
    words = [f"{settings['epochs']:g} epochs", f"batch {settings['batch_size']}"]
    return ", ".join([*words, f"label smoothing {smoothing:g}"] if smoothing else words)


def _reward_model(rows: Rows) -> str:
    """Return the accuracy of the reward models of PPO's runs, and how they were trained."""
    recipe = rows[0]["recipe"]
    accuracy = number(mean([row["reward_accuracy"] for row in rows]))
    if recipe == "short":
        return f"{accuracy}, short training"
    return f"{accuracy}, {TRAINING[recipe]['epochs']:g} epochs"


def endings(rows: Rows) -> list[Mapping[str, Any]]:
    """Return the last point of each run."""
    return [row for row in rows if row["step"] == (UPDATES if row["agent"] == "ppo" else EPOCHS)]


def rates_table(rows: Rows) -> str:
    """Return where each price and learning rate that was tried ends."""
    tried: dict[tuple[str, float, float], list[Any]] = {}
    for row in endings(rows):
        tried.setdefault((row["agent"], row["price"], row["rate"]), []).append(row)
    lines = []
    for (agent, price, rate), runs in sorted(tried.items()):
        figures = [_spread([row[name] for row in runs]) for name in ("gold_score", "kl")]
        lines.append([NAMES[agent], f"{price:g}", f"{rate:g}", *figures, str(len(runs))])
    head = ["agent", "beta or c", "learning rate", "gold score", "KL, nats", "seeds"]
    return markdown_table(head, lines)


def tuned_table(rows: Rows) -> str:
    """Return gold at the end, own pairs, each learner at what did best on the spare seeds.

    The last figure is PPO's minus DPO's, paired by the study's seeds.
    """
    last = [row for row in endings(rows) if row["recipe"] in ("", CHOSEN)]
    last = [row for row in last if (row["writer"], row["prompts"]) == ("own", PROMPTS)]
    lines, gold = [], {}
    for agent in ("dpo", "ppo"):
        spare: dict[tuple[float, float], list[float]] = {}
        ends: dict[tuple[float, float], dict[float, Mapping[str, Any]]] = {}
        for row in last:
            if row["agent"] == agent and row["seed"] in SPARE:
                spare.setdefault((row["price"], row["rate"]), []).append(row["gold_score"])
            elif row["agent"] == agent:
                ends.setdefault((row["price"], row["rate"]), {})[row["seed"]] = row
        if not spare:
            return "Not measured yet."
        best = max(spare, key=lambda setting: mean(spare[setting]))
        runs = ends.get(best, {})
        gold[agent] = {seed: row["gold_score"] for seed, row in runs.items()}
        figures = [_spread([row[name] for row in runs.values()]) for name in ("gold_score", "kl")]
        lines.append([NAMES[agent], f"{best[0]:g}", f"{best[1]:g}", *figures])
    seeds = sorted(set(gold["dpo"]) & set(gold["ppo"]))
    dpo, ppo = ([gold[agent][seed] for seed in seeds] for agent in ("dpo", "ppo"))
    gain = paired_difference(ppo, dpo)
    lines.append(["PPO minus DPO", "", "", difference(fields(gain)), ""])
    return markdown_table(["agent", "beta or c", "learning rate", "gold score", "KL, nats"], lines)


def usual_ends(rows: Rows) -> dict[tuple[str, float, str], dict[str, dict[float, Any]]]:
    """Return the last points at the usual price and rate, by what was learned from.

    Args:
        rows: Points of the study.

    Returns:
        (writer, prompts, training of PPO's reward model) to each agent's last points by seed, its
        own pairs first. DPO has no reward model: its runs stand beside those of either training.
    """
    last_rows = [
        row for row in endings(rows) if (row["price"], row["rate"]) == SWEEP[row["agent"]][0]
    ]
    kinds = {
        (row["writer"], row["prompts"], row["recipe"]) for row in last_rows if row["agent"] == "ppo"
    }
    return {
        kind: {
            agent: {
                row["seed"]: row
                for row in last_rows
                if (row["writer"], row["prompts"]) == kind[:2] and row["recipe"] == recipe
                if row["agent"] == agent
            }
            for agent, recipe in (("dpo", ""), ("ppo", kind[2]))
        }
        for kind in sorted(kinds, key=_order)
    }


def _order(kind: tuple[str, float, Recipe]) -> tuple[Any, ...]:
    writer, prompts, recipe = kind
    return writer != "own", prompts, TRAINING[recipe]["epochs"]


def leads(rows: Rows) -> dict[tuple[str, float, str], dict[float, float]]:
    """Return PPO's gold at the end minus DPO's by seed, by what was learned from.

    Args:
        rows: Points of the study.

    Returns:
        Kinds as in `usual_ends`, those that two seeds of both agents have.
    """
    by_kind = {}
    for kind, of in usual_ends(rows).items():
        seeds = sorted(of["ppo"].keys() & of["dpo"].keys())
        if len(seeds) > 1:
            by_kind[kind] = {
                seed: of["ppo"][seed]["gold_score"] - of["dpo"][seed]["gold_score"]
                for seed in seeds
            }
    return by_kind


def usual_table(rows: Rows) -> str:
    """Return both agents' gold at the end by what was learned from, paired by seed.

    Differences are bold where clear after Holm's correction over the table.
    """
    ends, by_kind = usual_ends(rows), leads(rows)
    gaps = {
        kind: paired_difference([*lead.values()], [0.0] * len(lead))
        for kind, lead in by_kind.items()
    }
    shown = after_holm(gaps)
    lines = []
    for kind, lead in by_kind.items():
        dpo, ppo = ([ends[kind][agent][seed] for seed in lead] for agent in get_args(Agent))
        golds = ([row["gold_score"] for row in side] for side in (dpo, ppo))
        lines.append(
            [
                f"{mean([row['pairs'] for row in dpo]):,.0f}, {NAMES[kind[0]]}",
                _reward_model(ppo),
                *map(_spread, golds),
                shown[kind],
                *(number(mean([row["kl"] for row in side])) for side in (dpo, ppo)),
                str(len(lead)),
            ]
        )
    head = ["pairs", "reward model's accuracy", "DPO", "PPO", "PPO - DPO, 95 % interval, wins"]
    return markdown_table([*head, "KL of DPO", "KL of PPO", "seeds"], lines)


def writers_table(rows: Rows) -> str:
    """Return by how much more PPO leads on another writer's pairs than on as many of its own.

    This interaction is what the paper's "most of all" is about. Reward models are trained alike.
    """
    by_kind = leads(rows)
    kinds = ("own", PROMPTS, DEFAULT), ("another", PROMPTS, DEFAULT)
    if not set(kinds) <= by_kind.keys():
        return "Too few runs yet."
    own_leads, other_leads = (by_kind[kind] for kind in kinds)
    seeds = sorted(own_leads.keys() & other_leads.keys())
    gap = paired_difference(
        [other_leads[seed] for seed in seeds], [own_leads[seed] for seed in seeds]
    )
    head = ["PPO's lead on its own pairs", "on another writer's", "difference, 95 % interval, wins"]
    levels = [number(mean([lead[seed] for seed in seeds])) for lead in (own_leads, other_leads)]
    return markdown_table([*head, "seeds"], [[*levels, difference(vars(gap)), str(len(seeds))]])


def endings_table(rows: Rows) -> str:
    """Return how the runs of each cell end: the mean, and the lowest and highest of the seeds."""
    last = endings(rows)
    keys = ("writer", "prompts", "agent", "recipe", "rate", "price")
    kinds = {tuple(row[key] for key in keys) for row in last}
    lines = []
    for kind in sorted(kinds, key=lambda kind: (kind[0] != "own", *kind[1:5], -kind[5])):
        kind_rows = [row for row in last if tuple(row[key] for key in keys) == kind]
        writer, _, agent, recipe, rate, price = kind
        price_name = "beta" if agent == "dpo" else "c"
        lines.append(
            [
                f"{mean([row['pairs'] for row in kind_rows]):,.0f}, {NAMES[writer]}",
                f"{NAMES[agent]}, {price_name} {price:g}, rate {rate:g}",
                *(_spread([row[name] for row in kind_rows]) for name in ("gold_score", "kl")),
                *(
                    number(mean([row[name] for row in kind_rows]))
                    for name in ("distinct_2", "unseen")
                ),
                _reward_model(kind_rows) if recipe else "",
                f"{mean([row['tokens'] for row in kind_rows]) / 1000:,.0f}k",
                str(len(kind_rows)),
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
            agent_rows = [row for row in rows if row["agent"] == agent and row["step"]]
            if not agent_rows:
                continue
            axis.scatter(
                [row["kl"] for row in agent_rows],
                [row["gold_score"] for row in agent_rows],
                s=14,
                color=colour,
                marker=marker,
                alpha=0.45,
                linewidths=0,
            )
            grid = np.geomspace(0.5, max(row["kl"] for row in agent_rows), 200)
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
        axis.set(xscale="log", xlim=(0.5, None))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.legend(loc="upper right")
        write_picture(path, figure, dpi=150)


def save_axes(path: Path, rows: Rows) -> None:
    """Draw gold at the end by the number of pairs, and PPO's by its reward model's accuracy.

    Args:
        path: The PNG to write.
        rows: Points of the study.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    ends = usual_ends(rows)
    sizes = [of for (writer, _, recipe), of in ends.items() if (writer, recipe) == ("own", DEFAULT)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        pairs, accuracy = figure.subplots(1, 2, sharey=True)
        for agent, colour, marker in (("dpo", COLOURS[1], "o"), ("ppo", COLOURS[2], "^")):
            runs_by_size = [list(of[agent].values()) for of in sizes if of[agent]]
            means = [
                [mean([row[name] for row in runs]) for runs in runs_by_size]
                for name in ("pairs", "gold_score")
            ]
            pairs.plot(*means, color=colour, linewidth=2.0, label=NAMES[agent])
            points = [row for runs in runs_by_size for row in runs]
            pairs.plot(*_columns(points, "pairs"), marker, color=colour, alpha=0.45)
        for kind, label, marker in (
            (DEFAULT, "8 epochs, by pairs", "^"),
            (CHOSEN, "5 epochs", "D"),
            ("short", "short training", "v"),
            ("another", "another writer's pairs", "s"),
        ):
            points = [
                row
                for (writer, _, recipe), of in ends.items()
                if kind == (recipe if writer == "own" else writer)
                for row in of["ppo"].values()
            ]
            accuracy.plot(*_columns(points, "reward_accuracy"), marker, label=label)
        pairs.set(xlabel="pairs", xscale="log", ylabel="gold score")
        pairs.set_xticks([mean([row["pairs"] for row in of["dpo"].values()]) for of in sizes])
        pairs.xaxis.set_major_formatter("{x:,.0f}")
        pairs.minorticks_off()
        pairs.legend(loc="upper left")
        accuracy.set(xlabel="accuracy of PPO's reward model on held-out pairs")
        accuracy.legend(loc="upper left")
        write_picture(path, figure, dpi=130)


def _columns(rows: Rows, name: str) -> tuple[list[float], list[float]]:
    return [row[name] for row in rows], [row["gold_score"] for row in rows]


if __name__ == "__main__":
    command_line(__doc__, page)
