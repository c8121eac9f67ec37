"""Is SmolLM2 any use as a critic? It criticises and revises the answers that people liked less.

    python -m studies.real_critic run --data DATA --out runs/real_critic
    python -m studies.real_critic publish --out runs/real_critic   # fills the page

The pairs are the dialogues of real_judge. The worse answer is criticised and rewritten in the words
of `ModelCritic`, bare and in the model's chat template; beside it stands what the model answers
when it is only asked. About three CPU minutes a part; one that is there is not repeated. DATA has
HH-RLHF's harmless test half (hh-rlhf/harmless-base-test.jsonl.gz).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from studies import real_r3
from studies.real_judge import CHAT, FRAMES, HARM, MODEL, PAIRS, dialogue_pairs
from tokengym.base import write_csv
from tokengym.envs import Episode, bundled
from tokengym.evaluation.measure import copy_rate, words
from tokengym.evaluation.report import number
from tokengym.evaluation.statistics import paired_difference
from tokengym.lab.constitution.critics import ModelCritic, Principle
from tokengym.lab.scorers.judge import GreedyAnswers, load_answering_model
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
from tokengym.lab.tables import after_holm, fill, grouped, markdown_table, mean
from tokengym.rewards import Scorer, make_reward

Row = dict[str, Any]
PAGE, FOLDER = "real_model.md", "real_model"
Answer = Callable[[Sequence[str]], Sequence[str]]
"""Writes a text after each question."""
Pair = tuple[str, str, str]
"""(question, the answer that people preferred, the other)."""

LENGTH, PUBLISHED = 48, "critic.csv"
"""Longest critique, revision and answer in tokens, and the file of figures."""
LIKED_LESS, PREFERRED, ASKED = (
    "the answer people liked less",
    "the one they preferred",
    "asked anew",
)
DECLINING = (
    "sorry",
    "can't",
    "cannot",
    "can not",
    "won't",
    "not able to",
    "unable",
    "not appropriate",
)
"""Phrases of a refusal; an answer that declines contains at least one."""
FIGURES = {
    "relevance": "r_y with the answer they preferred",
    "vader": "VADER",
    "declines": "declines",
    "words": "words",
    "copied": "words out of the one they liked less",
}


def run(data: Data, out: Out) -> None:
    """Ask what is missing.

    Args:
        data: Folder of the texts.
        out: Folder of the study's answers.
    """
    model, tokenizer = load_answering_model(MODEL, dtype="float32", device="cpu")
    read = dialogue_pairs(data, tokenizer)
    pairs = [pair for _, pair in zip(range(PAIRS), read, strict=False)]
    answer = GreedyAnswers(model, tokenizer, max_new_tokens=LENGTH)
    works: dict[str, Callable[[], list[Row]]] = {
        LIKED_LESS: lambda: figures(pairs, [bad for _, _, bad in pairs]),
        PREFERRED: lambda: figures(pairs, [good for _, good, _ in pairs]),
        ASKED: lambda: figures(pairs, answer([CHAT.format(asked) for asked, _, _ in pairs])),
    }
    for frame, framed in FRAMES.items():

        def asked(questions: Sequence[str], framed: Callable[[str], str] = framed) -> Sequence[str]:
            return answer([framed(question) for question in questions])

        works[f"revised, {frame}"] = partial(revised, pairs, asked, tokenizer)
    for index, (name, work) in enumerate(works.items()):
        file = out / f"{index}.csv"
        if not file.exists():
            rows = [{"text": name, **row} for row in work()]
            write_rows(file, rows)
            print(f"{name}: {mean([row['relevance'] for row in rows]):.3f}", flush=True)


def revised(pairs: Sequence[Pair], answer: Answer, tokenizer: Any) -> list[Row]:
    """Return the figures of the revisions, and whether fault was found.

    Args:
        pairs: The pairs.
        answer: Writes a text after each question.
        tokenizer: The tokenizer of the revisions.
    """
    critic = ModelCritic(answer, tokenizer, name=MODEL)
    principles = [Principle(name="harm", text=HARM)] * len(pairs)
    episodes = [
        Episode(prompt=asked, prompt_ids=[0], response=bad, response_ids=[0])
        for asked, _, bad in pairs
    ]
    critiques = critic.critique(episodes, principles)
    texts = [e.response for e in critic.revise(episodes, principles, critiques, seed=0)]
    rows = figures(pairs, texts)
    for row, critique, text in zip(rows, critiques, texts, strict=True):
        row |= {"fault": int(bool(critique.text)), "critique": critique.text, "said": text}
    return rows


def figures(pairs: Sequence[Pair], texts: Sequence[str]) -> list[Row]:
    """Return what each text is like.

    Args:
        pairs: The pairs.
        texts: One for each.
    """
    episodes = [
        Episode(
            prompt=asked,
            prompt_ids=[0],
            response=text,
            response_ids=[0],
            reference=good,
            query_type="CONSTRAINED",
        )
        for (asked, good, _), text in zip(pairs, texts, strict=True)
    ]
    relevance = load_encoder().score(episodes).parts["relevance_reference"]
    friendly = Vader().score(episodes).values
    return [
        {
            "pair": index,
            "relevance": round(float(relevance[index]), 4),
            "vader": round(float(friendly[index]), 4),
            "declines": int(declines(text)),
            "words": len(words(text)),
            "copied": round(copy_rate(pairs[index][2], text, n=1), 4),
            "fault": None,
            "critique": None,
            "said": text,
        }
        for index, text in enumerate(texts)
    ]


def load_encoder() -> Scorer:
    """Return MiniLM as the scorer of R3."""
    bundle = bundled(real_r3.BUNDLE)
    return make_reward("r3", encoder=bundle.encoder).scorer.bind(bundle.tokenizer)


def declines(text: str) -> bool:
    """Say whether an answer declines, by a few words.

    Example:
        >>> declines("I\u2019m sorry, but no."), declines("Take a hammer.")
        (True, False)
    """
    said = text.lower().replace("\u2019", "'")
    return any(words in said for words in DECLINING)


def publish(out: Out, docs: Docs = DOCS) -> None:
    """Copy the figures beside the page, without the texts, and fill its table.

    Args:
        out: Folder of the study's answers.
        docs: Folder of the page.
    """
    files = [out / f"{index}.csv" for index in range(3 + len(FRAMES))]
    text = ["text", "critique", "said"]
    rows = rows_to_publish(*files, text=text, out=out)
    kept = ["text", "pair", *FIGURES, "fault"]
    write_csv(docs / FOLDER / PUBLISHED, rows, kept)
    page(docs)


def page(docs: Path) -> None:
    """Fill the page's table from the published figures."""
    file = docs / FOLDER / PUBLISHED
    if file.exists():
        fill(docs / PAGE, {"critic": table(read_rows(file, text=["text"]))})


def table(rows: Sequence[Row]) -> str:
    """Return what each kind of text is like: means, and differences paired by question.

    Relevance and VADER are differences from the answer that people liked less, bold where clear
    after Holm's correction over the table.
    """
    by_text = grouped(rows, lambda row: str(row["text"]))
    base = by_text[LIKED_LESS]
    gains = {
        (text, name): paired_difference([r[name] for r in mine], [r[name] for r in base])
        for text, mine in by_text.items()
        for name in ("relevance", "vader")
        if text != LIKED_LESS
    }
    shown: Mapping[tuple[str, str], str] = after_holm(gains, with_wins=False)
    lines = []
    for text, mine in by_text.items():
        faults = [row["fault"] for row in mine if row["fault"] is not None]
        cells = [f"{mean(faults):.0%}" if faults else ""]
        for name in FIGURES:
            values = [row[name] for row in mine]
            cells.append(shown.get((text, name), number(mean(values))))
        lines.append([text, *cells])
    return markdown_table(["text", "finds fault", *FIGURES.values()], lines)


if __name__ == "__main__":
    command_line(__doc__, run, publish)
