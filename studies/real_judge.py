"""Is SmolLM2 any use as a judge? Pairs that people or a label have ordered, in both orders.

    python -m studies.real_judge run --data DATA --out runs/real_judge
    python -m studies.real_judge publish --out runs/real_judge   # fills the page

It is asked as `tokengym constitution --judge smollm2` asks, and once more in its own chat template.
DATA has IMDb (imdb/test.parquet) and HH-RLHF's harmless test half
(hh-rlhf/harmless-base-test.jsonl.gz). A part, 64 questions, takes about a CPU minute; one that is
there is not repeated.
"""

import gzip
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokengym.envs import Episode
from tokengym.lab.constitution.critics import DEFAULT_PRINCIPLES
from tokengym.lab.constitution.judge import CHOICE, PrincipleJudge
from tokengym.lab.scorers.judge import load_answering_model
from tokengym.lab.scorers.preference_model import PreferenceModel
from tokengym.lab.scorers.vader import Vader
from tokengym.lab.study import (
    DOCS,
    Data,
    Docs,
    Out,
    command_line,
    read_rows,
    rows_to_publish,
    write_rows,
)
from tokengym.lab.tables import fill, markdown_table, mean, share_of

Row = dict[str, Any]
PAGE, FOLDER = "real_model.md", "real_model"
Pair = tuple[str, str, str]
"""(prompt, the response that is right, the other)."""

MODEL, PAIRS, LENGTH, PUBLISHED = "smollm2", 32, 60, "judge.csv"
"""Model, pairs of a material, longest text in tokens, and the file of figures."""
HARM = next(p.text for p in DEFAULT_PRINCIPLES if p.name == "harm")
PRINCIPLES = {"reviews": "The response praises the film.", "dialogues": HARM}
"""Material -> the principle that its pairs are judged by."""
TITLES = {
    "reviews": "IMDb: positive or negative",
    "dialogues": "HH-RLHF: less harmful to people",
}
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
"""A turn of SmolLM2's template, without its system's."""
FRAMES: Mapping[str, Callable[[str], str]] = {
    "as `constitution` asks": lambda question: question,
    "in its chat template": lambda question: CHAT.format(question.strip()),
}
"""Name of a frame -> a question in it."""


def review_pairs(data: Path, tokenizer: Any) -> Iterator[Pair]:
    """Yield a positive and a negative review of IMDb's test half, cut to `LENGTH` tokens."""
    import pandas as pd

    table = pd.read_parquet(data / "imdb/test.parquet", columns=["text", "label"])
    texts = (table.text[table.label == label] for label in (1, 0))
    for good, bad in zip(*texts, strict=False):
        yield "Write a film review.", _cut(good, tokenizer), _cut(bad, tokenizer)


def dialogue_pairs(data: Path, tokenizer: Any) -> Iterator[Pair]:
    """Yield a question and its two answers of HH-RLHF, none of them longer than `LENGTH`."""
    with gzip.open(data / "hh-rlhf/harmless-base-test.jsonl.gz", "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            (asked, good), (also, bad) = (_turns(row[side]) for side in ("chosen", "rejected"))
            texts = (asked, good, bad)
            if asked and asked == also and good != bad and all(texts):
                if all(_cut(text, tokenizer) == text for text in texts):
                    yield texts


def _turns(dialogue: str) -> tuple[str, str]:
    """Return the question and the answer of a dialogue of one turn each; empty for a longer one."""
    human, _, answer = dialogue.partition("\n\nAssistant:")
    if "\n\nHuman:" in answer or "\n\nAssistant:" in answer:
        return "", ""
    return human.removeprefix("\n\nHuman:").strip(), answer.strip()


def _cut(text: str, tokenizer: Any) -> str:
    """Return the first `LENGTH` tokens of a text."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return text if len(ids) <= LENGTH else str(tokenizer.decode(ids[:LENGTH]))


MATERIAL = {"reviews": review_pairs, "dialogues": dialogue_pairs}


def run(data: Data, out: Out) -> None:
    """Ask what is missing.

    Args:
        data: Folder of the texts.
        out: Folder of the study's answers.
    """
    model, tokenizer = load_answering_model(MODEL, dtype="float32", device="cpu")
    for material, read in MATERIAL.items():
        pairs = [pair for _, pair in zip(range(PAIRS), read(data, tokenizer), strict=False)]
        for index, (frame, framed) in enumerate(FRAMES.items()):
            file = out / f"{material}_{index}.csv"
            if file.exists():
                continue
            template = framed(CHOICE.format(principle=PRINCIPLES[material]))
            judge = PrincipleJudge([PreferenceModel(model, tokenizer, template=template)])
            rows = answers(pairs, judge)
            named = [{"material": material, "frame": frame, **row} for row in rows]
            write_rows(file, named)
            print(f"{file.name}: {mean([row['as_a'] for row in rows]):.3f}", flush=True)


def answers(pairs: Sequence[Pair], judge: PrincipleJudge) -> list[Row]:
    """Return how sure a judge is of A where A is right, and where B is, and what others say.

    Args:
        pairs: The pairs.
        judge: Compares two responses in one order.
    """
    as_a = judge.preferences([(asked, good, bad) for asked, good, bad in pairs])
    as_b = judge.preferences([(asked, bad, good) for asked, good, bad in pairs])
    said = [
        [
            Episode(prompt=pair[0], prompt_ids=[0], response=pair[side], response_ids=[0])
            for pair in pairs
        ]
        for side in (1, 2)
    ]
    good, bad = (Vader().score(side).values for side in said)
    return [
        {
            "pair": index,
            "as_a": round(float(as_a[index]), 4),
            "as_b": round(float(as_b[index]), 4),
            "vader": _wins(good[index] - bad[index]),
            "longer": _wins(len(pair[1]) - len(pair[2])),
        }
        for index, pair in enumerate(pairs)
    ]


def _wins(margin: float) -> float:
    """Return 1 for a margin above 0, 0 below, and half for none."""
    return (float(np.sign(margin)) + 1) / 2


def publish(out: Out, docs: Docs = DOCS) -> None:
    """Copy the answers beside the page, and fill its table.

    Args:
        out: Folder of the study's answers.
        docs: Folder of the page.
    """
    files = [
        out / f"{material}_{index}.csv" for material in MATERIAL for index in range(len(FRAMES))
    ]
    text = ["material", "frame"]
    rows = rows_to_publish(*files, text=text, out=out)
    write_rows(docs / FOLDER / PUBLISHED, rows)
    page(docs)


def page(docs: Path) -> None:
    """Fill the page's table from the published answers."""
    rows = read_rows(docs / FOLDER / PUBLISHED, text=["material", "frame"])
    fill(docs / PAGE, {"judge": table(rows)})


def table(rows: Sequence[Row]) -> str:
    """Return how often a judge is right, by the mean of both orders, and how it goes by the place.

    Wilson's intervals over the pairs; the last two lines of a material are other judges'.
    """
    lines = []
    for material, title in TITLES.items():
        asked: list[Row] = []
        for frame in FRAMES:
            asked = [r for r in rows if (r["material"], r["frame"]) == (material, frame)]
            right = sum(_wins(row["as_a"] - row["as_b"]) for row in asked)
            same = sum((row["as_a"] > 0.5) != (row["as_b"] > 0.5) for row in asked)
            says_a = sum((row["as_a"] > 0.5) + (row["as_b"] > 0.5) for row in asked)
            count = len(asked)
            sure = mean([abs(row["as_a"] - row["as_b"]) for row in asked])
            lines.append(
                [
                    *(title, f"SmolLM2, {frame}", str(count), share_of(right, count)),
                    *(share_of(same, count), f"{says_a / (2 * count):.1%}", f"{sure:.3f}"),
                ]
            )
        for name, judge in (("vader", "VADER: the friendlier one"), ("longer", "the longer one")):
            right = sum(row[name] for row in asked)
            lines.append([title, judge, str(len(asked)), share_of(right, len(asked)), *[""] * 3])
    head = ["material", "judge", "pairs", "right, both orders together"]
    return markdown_table(
        [*head, "the same verdict in both orders", "says A", "P(A) moves between orders by"], lines
    )


if __name__ == "__main__":
    command_line(__doc__, run, publish)
