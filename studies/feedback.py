"""What is feedback by a model worth?

    python -m studies.feedback     # docs/results/feedback.md, from its published runs

The runs were made at commit 6307f464.
"""

from collections.abc import Sequence
from typing import Any

from tokengym.lab.study import DOCS, Docs, Row, command_line, read_rows
from tokengym.lab.tables import NONE, fill, grouped, markdown_table, share_of, student_mean

FOLDER, PAGE = "feedback", "feedback.md"
TEXT = ("material", "principle", "phrasing", "judge", "critic", "arm", "policy")
"""Columns that hold text."""
POLICIES = ("base", "SFT on revisions", "RL from AI feedback", "DPO on the pairs")
ARMS = {"words": "word lists", "bundled judge": "bundled judge", "bundled": "bundled judge, critic"}
MATERIALS = {
    "quarrels": "quarrels (Detox)",
    "harmful": "harmful requests",
    "harmless": "harmless requests",
    "new harmful": "harmful, new topics",
    "new harmless": "harmless, new topics",
}


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

    tables = {
        "judges": judges_table(read("judge.csv")),
        "revisions": revisions_table(read("revisions.csv")),
        "constitution": constitution_table(read("constitution.csv")),
    }
    fill(docs / PAGE, tables)


if __name__ == "__main__":
    command_line(__doc__, page)
