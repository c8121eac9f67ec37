"""Which queries does the classifier of query types misjudge, and would another reading mend it?

    python -m studies.query_types --data DATA    # fills docs/results/rewards.md

DATA has the typed queries of the R3 paper's release (r3/alpacafarm_val.json). The 400 that the
bundled weights were not trained on are counted by their form. Other readings of a query are tried
by cross-validation on the 1,600 that they were trained on. About two minutes.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from tokengym.base import Split
from tokengym.envs import bundled, features
from tokengym.lab.makers.bundles.query_types import HELD_OUT, Annotated, fit
from tokengym.lab.study import DOCS, Data, Docs, command_line, read_rows, write_rows
from tokengym.lab.tables import fill, markdown_table, share_of

Row = dict[str, Any]
Flags = NDArray[np.bool_]
PAGE, PUBLISHED = "rewards.md", "rewards/query_types.csv"
FOLDS, SEED = 4, 1
ASKS = re.compile(
    r"(what|which|who|whom|whose|when|where|why|how|is|are|was|were|do|does|did|can|could|should|"
    r"would|will)\b"
)
NUMBER = r"(?:two|three|four|five|six|seven|eight|nine|ten|\d+)"
INPUT = re.compile(r"\n\s*#+ ?Input:\s*")
"""What stands before the text that a command is about."""


def instruction(text: str) -> str:
    """Return a query without the text that it is about."""
    return INPUT.split(text, maxsplit=1)[0].strip()


def is_question(text: str) -> bool:
    """Say whether a query asks; the others command.

    Example:
        >>> is_question("How do bees fly?"), is_question("Give three tips for sleeping.")
        (True, False)
    """
    asked = instruction(text).lower()
    return "?" in asked or ASKS.match(asked) is not None


def asks_a_number(text: str) -> bool:
    """Say whether a number is among a command's first five words."""
    first = " ".join(instruction(text).lower().split()[:5])
    return not is_question(text) and re.search(rf"\b{NUMBER}\b", first) is not None


FORMS: dict[str, Callable[[str], bool]] = {
    "all": lambda text: True,
    "questions": is_question,
    "commands": lambda text: not is_question(text),
    "of these, with a text of their own": lambda text: (
        not is_question(text) and INPUT.search(text) is not None
    ),
    "of these, for a number of things": asks_a_number,
}
"""Form of a query -> whether one has it."""


def without_full_stop(text: str) -> str:
    """Return a query without the marks that close it."""
    return text.rstrip(" .!")


def with_one_number(text: str) -> str:
    """Return a query in which every number from two on is the same word.

    Example:
        >>> with_one_number("Give three tips.")
        'Give several tips.'
    """
    return re.sub(rf"\b{NUMBER}\b", "several", text, flags=re.I)


def without_its_text(text: str) -> str:
    """Return a query with a mark in place of the text that it is about."""
    return instruction(text) + (" #" if INPUT.search(text) else "")


READINGS: dict[str, Callable[[str], str]] = {
    "as it is": lambda text: text,
    "without the last full stop": without_full_stop,
    "numbers as one word": with_one_number,
    "a mark in place of the text of its own": without_its_text,
}
"""Way of reading -> what is read of a query."""


def queries_of(file: Path) -> tuple[Annotated, Annotated]:
    """Return the queries that were held out, and those that were trained on."""
    rows = json.loads(file.read_text(encoding="utf-8"))
    order = np.random.default_rng(0).permutation(len(rows))
    queries = [(rows[i]["input"], rows[i]["qtype"] == "CONSTRAINED") for i in order]
    return queries[:HELD_OUT], queries[HELD_OUT:]


def bundled_queries(split: Split = "train") -> Annotated:
    """Return the bundled questions, which the weights were trained on too."""
    prompts = bundled("question_answer").prompts(split)
    return [(prompt.text, prompt.query_type == "CONSTRAINED") for prompt in prompts]


def judged(weights: NDArray[np.float16], texts: Sequence[str]) -> Flags:
    """Return which queries are called CONSTRAINED."""
    exact = weights.astype(np.float32)
    return np.array([exact[features(text)].sum() + exact[-1] > 0 for text in texts])


def by_form(queries: Annotated, called: Flags) -> list[Row]:
    """Return the counts of each form of query."""
    rows = []
    for form, has in FORMS.items():
        chosen = np.array([has(text) for text, _ in queries])
        annotated = np.array([constrained for _, constrained in queries])[chosen]
        rows.append(
            {
                **{"table": "form", "name": form, "queries": int(chosen.sum())},
                **{"constrained": int(annotated.sum())},
                **{"right": int((called[chosen] == annotated).sum())},
                **{"open_called_constrained": int((called[chosen] & ~annotated).sum())},
            }
        )
    return rows


def end_marks(queries: Annotated, weights: NDArray[np.float16]) -> Row:
    """Return how many queries without a text of their own change their type with their last mark.

    A full stop is put where none is; a last full stop, question or exclamation mark is taken off.
    """
    texts = [text.rstrip() for text, _ in queries if INPUT.search(text) is None]
    others = [text[:-1] if text[-1:] in (".", "?", "!") else f"{text}." for text in texts]
    moved = int((judged(weights, texts) != judged(weights, others)).sum())
    return {"table": "end", "name": "changed", "queries": len(texts), "right": moved}


def cross_validated(queries: Annotated, read: Callable[[str], str]) -> Flags:
    """Return which queries are judged right by weights of the other folds."""
    fold = np.random.default_rng(SEED).permutation(len(queries)) % FOLDS
    shown = [(read(text), constrained) for text, constrained in queries]
    more = [(read(text), constrained) for text, constrained in bundled_queries()]
    right = np.zeros(len(queries), dtype=np.bool_)
    for left in range(FOLDS):
        train = [query for query, own in zip(shown, fold, strict=True) if own != left]
        tested = np.flatnonzero(fold == left)
        called = judged(fit([*train, *more]), [shown[i][0] for i in tested])
        right[tested] = called == np.array([shown[i][1] for i in tested])
    return right


def readings(queries: Annotated) -> list[Row]:
    """Return what each way of reading judges right, and where it differs from the present one."""
    found = {name: cross_validated(queries, read) for name, read in READINGS.items()}
    first, *_ = found.values()
    command = np.array([not is_question(text) for text, _ in queries])
    return [
        {
            **{"table": "reading", "name": name, "queries": len(queries)},
            **{"right": int(right.sum()), "commands": int(command.sum())},
            **{"commands_right": int(right[command].sum())},
            **{"gained": int((right & ~first).sum()), "lost": int((first & ~right).sum())},
        }
        for name, right in found.items()
    ]


def publish(data: Data, docs: Docs = DOCS) -> None:
    """Count, store the counts beside the page and fill its tables.

    Args:
        data: Folder of the texts.
        docs: Folder of the results' pages.
    """
    held_out, trained = queries_of(data / "r3/alpacafarm_val.json")
    weights = fit([*trained, *bundled_queries()])
    called = judged(weights, [text for text, _ in held_out])
    rows = [*by_form(held_out, called), end_marks(held_out, weights), *readings(trained)]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    write_rows(docs / PUBLISHED, [{column: row.get(column) for column in columns} for row in rows])
    page(docs)


def page(docs: Path) -> None:
    """Fill the page's tables.

    Args:
        docs: Folder of the results' pages.
    """
    rows = read_rows(docs / PUBLISHED, text=("table", "name"))
    fill(docs / PAGE, {"query forms": forms_table(rows), "query readings": readings_table(rows)})


def forms_table(rows: Sequence[Row]) -> str:
    """Return what is judged right by the form of the query."""
    head = [
        "queries",
        "number",
        "annotated CONSTRAINED",
        "judged right",
        "wrong: open called closed",
    ]
    lines = []
    for row in rows:
        if row["table"] == "form":
            wrong = int(row["queries"] - row["right"])
            share = row["constrained"] / row["queries"]
            right = share_of(row["right"], row["queries"])
            told = f"{int(row['open_called_constrained'])} of {wrong}"
            lines.append(
                [row["name"], f"{int(row['queries'])}", f"{100 * share:.0f} %", right, told]
            )
    return markdown_table(head, lines)


def readings_table(rows: Sequence[Row]) -> str:
    """Return what other readings of a query judge right."""
    lines = []
    for row in rows:
        if row["table"] == "reading":
            gained, lost = int(row["gained"]), int(row["lost"])
            moved = f"+{gained}, \u2212{lost}"
            if gained + lost:
                test = scipy.stats.binomtest(gained, gained + lost)
                moved += f" (p = {test.pvalue:.2f})"
            right = share_of(row["right"], row["queries"])
            commands = share_of(row["commands_right"], row["commands"])
            lines.append([row["name"], right, commands, moved if gained + lost else "\u2013"])
    return markdown_table(["what is read", "all", "commands", "judged otherwise"], lines)


if __name__ == "__main__":
    command_line(__doc__, publish)
