"""What do preferences reach, and what is feedback by a model worth?

    python -m studies.preferences     # docs/results/preferences.md, from its published runs

The runs of PPO and DPO were made at commit 0138b9c6, those of feedback at 6307f464. The first table
is of `studies.ppo_against_dpo`.
"""

from collections.abc import Sequence
from typing import Any

from tokengym.evaluation.report import number
from tokengym.evaluation.statistics import paired_difference
from tokengym.lab.study import DOCS, Docs, Row, command_line, read_rows
from tokengym.lab.tables import (
    NONE,
    after_holm,
    fill,
    grouped,
    markdown_table,
    mean,
    paired,
    share_of,
    student_mean,
)

FOLDER, PAGE = "preferences", "preferences.md"
TEXT = (
    *("part", "agent", "writer", "recipe"),
    *("material", "principle", "phrasing", "judge", "critic", "arm", "policy"),
)
"""Columns that hold text."""
AGENTS = {"dpo": "DPO", "online-dpo": "online DPO", "best-of-n": "best of 16", "ppo": "PPO"}
USUAL = {"dpo": (0.1, 3e-4), "ppo": (0.05, 3e-4)}
"""Agent -> its usual price and rate."""
PAIRS = (
    ("own", 64, "epochs8"),
    ("own", 256, "epochs8"),
    ("own", 512, "short"),
    ("own", 512, "epochs5"),
    ("own", 512, "epochs8"),
    ("own", 2048, "epochs8"),
    ("another", 512, "epochs8"),
)
"""Writer of the pairs, prompts that they are of, and training of PPO's reward model."""
POLICIES = ("base", "SFT on revisions", "RL from AI feedback", "DPO on the pairs")
ARMS = {"words": "word lists", "bundled judge": "bundled judge", "bundled": "bundled judge, critic"}
MATERIALS = {
    "quarrels": "quarrels (Detox)",
    "harmful": "harmful requests",
    "harmless": "harmless requests",
    "new harmful": "harmful, new topics",
    "new harmless": "harmless, new topics",
}


def ends(rows: Sequence[Row], **where: Any) -> dict[int, Row]:
    """Return the last measurement by seed of runs whose columns have these values."""
    found: dict[int, Row] = {}
    for row in rows:
        if all(row[name] == value for name, value in where.items()):
            seed = int(row["seed"])
            if seed not in found or row["step"] > found[seed]["step"]:
                found[seed] = row
    return found


def agents_table(rows: Sequence[Row]) -> str:
    """Return what each agent ends at by the same reward model."""
    lines = []
    for agent, name in AGENTS.items():
        last = [*ends(rows, agent=agent).values()]
        figures = [student_mean([row[key] for row in last]) for key in ("score", "gold_score")]
        kl = [row["kl"] for row in last if row["kl"] is not None]
        spent = student_mean(kl) if kl else "at most 1.84"
        tokens = f"{mean([row['tokens'] for row in last]) / 1000:,.0f}k"
        lines.append([name, *figures, spent, number(mean([r["distinct_2"] for r in last])), tokens])
    head = ["agent", "score", "gold", "KL, nats", "distinct bigrams", "tokens"]
    return markdown_table(head, lines)


def runs_at(rows: Sequence[Row], agent: str, price: float, rate: float) -> dict[int, Row]:
    """Return the ends at a price and rate from 2,029 own pairs, PPO's by its best reward model."""
    recipe = "epochs5" if agent == "ppo" else ""
    return ends(rows, part="sweep", agent=agent, recipe=recipe, price=price, rate=rate)


def settings_table(rows: Sequence[Row]) -> str:
    """Return gold and KL of both agents at every price and rate, from the same 2,029 pairs."""
    lines = []
    for agent in ("dpo", "ppo"):
        tried = {
            (r["price"], r["rate"]) for r in rows if (r["part"], r["agent"]) == ("sweep", agent)
        }
        for price, rate in sorted(tried):
            last = [*runs_at(rows, agent, price, rate).values()]
            figures = [number(mean([row[key] for row in last])) for key in ("gold_score", "kl")]
            lines.append([AGENTS[agent], f"{price:g}", f"{rate:g}", *figures, str(len(last))])
    return markdown_table(["agent", "beta or c", "rate", "gold", "KL, nats", "seeds"], lines)


def pairs_table(rows: Sequence[Row]) -> str:
    """Return both agents at the usual price and rate, by the pairs and PPO's reward model."""
    made, gaps = {}, {}
    for writer, prompts, recipe in PAIRS:
        where = {"writer": writer, "prompts": prompts}
        found = [
            ends(
                [row for row in rows if row["part"] != "tune"],
                agent=agent,
                recipe=recipe if agent == "ppo" else "",
                price=USUAL[agent][0],
                rate=USUAL[agent][1],
                **where,
            )
            for agent in ("dpo", "ppo")
        ]
        golds = [{s: row["gold_score"] for s, row in of.items()} for of in found]
        made[writer, prompts, recipe] = found
        gaps[writer, prompts, recipe] = paired_difference(*paired(golds[1], golds[0]))
    shown = after_holm(gaps)
    lines = []
    for key, (dpo, ppo) in made.items():
        writer = {"own": "its own", "another": "another writer's"}[key[0]]
        pairs = f"{mean([row['pairs'] for row in dpo.values()]):,.0f}, {writer}"
        judged = number(mean([row["reward_accuracy"] for row in ppo.values()]))
        gold, spent = (
            [number(mean([row[figure] for row in of.values()])) for of in (dpo, ppo)]
            for figure in ("gold_score", "kl")
        )
        lines.append([pairs, judged, *gold, shown[key], *spent])
    head = ["pairs", "reward model's accuracy", "gold, DPO", "gold, PPO", "PPO minus DPO"]
    return markdown_table([*head, "KL, DPO", "KL, PPO"], lines)


def judges_table(rows: Sequence[Row]) -> str:
    """Return how often judges agree with the gold rules, a tie counting half."""
    taught = [row for row in rows if row["phrasing"] == "taught"]
    lines = []
    for material, name in MATERIALS.items():
        line = [name]
        for judge in ("bundled", "words", "untrained"):
            asked = [r for r in taught if (r["material"], r["judge"]) == (material, judge)]
            agreed = sum(row["wins"] + row["ties"] / 2 for row in asked)
            line.append(f"{agreed / sum(row['pairs'] for row in asked):.1%}")
        lines.append(line)
    return markdown_table(["pairs of", "bundled judge", "word lists", "untrained"], lines)


def revisions_table(rows: Sequence[Row]) -> str:
    """Return how many responses with an offence a critic makes better and worse, by gold."""
    lines = [
        [
            row["material"],
            {"bundled": "bundled critic", "words": "word lists"}[row["critic"]],
            share_of(row["better"], row["faulty"]),
            share_of(row["worse"], row["faulty"]),
            share_of(row["clean_after"], row["faulty"]),
        ]
        for row in rows
        if row["critic"] != "untrained"
    ]
    return markdown_table(["task", "critic", "better", "worse", "without an offence"], lines)


def constitution_table(rows: Sequence[Row]) -> str:
    """Return what policies of constitutional runs are worth, by judge and critic."""
    lines = []
    by_arm = grouped(rows, lambda row: (row["arm"], row["policy"]))
    for arm, name in ARMS.items():
        for policy in POLICIES:
            of = by_arm[arm, policy]
            if policy == "base" and arm != "words":
                continue
            figures = [
                student_mean([row[k] for row in of]) for k in ("offending", "gold_score", "kl")
            ]
            lines.append([NONE if policy == "base" else name, policy, *figures])
    head = ["taught by", "policy", "share with an offence", "gold", "KL, nats"]
    return markdown_table(head, lines)


def page(docs: Docs = DOCS) -> None:
    """Fill the page from the published files.

    Args:
        docs: Folder of the page.
    """

    def read(name: str) -> list[dict[str, Any]]:
        return read_rows(docs / FOLDER / name, text=TEXT)

    runs = read("ppo_dpo.csv")
    tables = {
        "agents": agents_table(read("curves.csv")),
        "settings": settings_table(runs),
        "pairs": pairs_table(runs),
        "judges": judges_table(read("judge.csv")),
        "revisions": revisions_table(read("revisions.csv")),
        "constitution": constitution_table(read("constitution.csv")),
    }
    fill(docs / PAGE, tables)


if __name__ == "__main__":
    command_line(__doc__, page)
