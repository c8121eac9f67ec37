"""What does training on film reviews cost elsewhere? SmolLM2 on other text and on a second task.

    python -m studies.real_tax run --data DATA --out runs/real_tax [--until 04:40]
    python -m studies.real_tax publish --out runs/real_tax   # fills the page

The runs are those of real_model, their agents kept, and two trained on noise. Each is measured as
soon as it is there: how likely it finds texts that nobody sampled, and what it answers to questions
it was not trained on. A run takes about five CPU minutes and its measurement two; what is there is
not repeated. DATA has AlpacaFarm's instructions (r3/alpacafarm_val.json) and IMDb
(imdb/test.parquet).
"""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from studies import real_model, real_r3
from tokengym import ComparisonConfig
from tokengym.agents import PPO, CausalLMPolicy, Sequences
from tokengym.envs import bundled
from tokengym.evaluation import run as run_one
from tokengym.evaluation.report import number
from tokengym.lab.protocol import SPARE_SEED, measured
from tokengym.lab.study import (
    DOCS,
    Cell,
    Data,
    Docs,
    Out,
    command_line,
    deadline,
    read_rows,
    rows_to_publish,
    write_rows,
)
from tokengym.lab.tables import NONE, beside_first, fill, grouped, markdown_table, mean

Row = dict[str, Any]

PAGE, FOLDER = "real_model.md", "real_model"
START = "untrained"
NOISE = "noise"
"""Run whose score is drawn by chance, and the name of that scorer."""
NOISE_SD = 1.2
"""Spread of that score, the reward model's among responses to one opening (best of 2 minus one)."""
SPENDING = 0.01
"""Rate of the run that pays most KL in real_model's sweep."""
EACH, LENGTH, LONGEST_PROMPT = 32, 48, 64
"""Texts of each kind, and the tokens that are read of them and of their prompts."""
OPENING = 6
"""Tokens of a review that stand before those that count."""
KINDS = {
    "instructions": "AlpacaFarm's outputs",
    "references": "answers to the bundle's questions",
    "positive": "positive reviews",
    "negative": "negative reviews",
}
"""Kind of text -> head of its column."""
ANSWERED = {name: real_r3.FIGURES[name] for name in ("score", "rouge_l", "key_words", "length")}
"""Figure of an answer -> head of its column."""
TEXTS, ANSWERS, RUNS = "tax_texts.csv", "tax_answers.csv", "tax_runs.csv"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A policy that is measured."""

    name: str
    """Rule, `NOISE` or `START`."""
    seed: int = 0
    """Seed of its training."""
    rate: float = 3e-3
    """Learning rate of the adapters: the rules' best of real_model."""

    @property
    def folder(self) -> str:
        """Name of the folder of its files."""
        return self.name if self.name == START else f"{self.name}_{self.rate:g}_{self.seed}"

    @property
    def rule(self) -> str:
        """Rule of the run of real_model that it is or, with another score, resembles."""
        return "sparse" if self.name in (START, NOISE) else self.name

    def config(self) -> ComparisonConfig:
        """Return the comparison that it is a run of."""
        run = Cell(rule=self.rule, rate=self.rate, seed=self.seed)
        config = real_model.config(run, Path())
        if self.name != NOISE:
            return config
        return replace(config, task=replace(config.task, scorer=f"{__file__}:{noise.__name__}"))

    def train(self, folder: Path) -> list[Row]:
        """Train it, save its agent, and return the points of its curve."""
        record = run_one(self.config(), self.rule, self.seed, save=folder / "agent")
        return measured(record)

    def policy(self, folder: Path) -> CausalLMPolicy:
        """Return the trained policy, or the one that training starts from."""
        if self.name == START:
            return self.config().evaluator().untrained(**self.config().policy_kwargs())
        return PPO.load(folder / "agent").policy


ORDER = (
    Run(name=START),
    *(Run(name=name, seed=seed) for seed in (0, 1) for name in ("sparse", "abc-signed")),
    Run(name=NOISE),
    Run(name="sparse", seed=SPARE_SEED, rate=SPENDING),
    Run(name=NOISE, seed=1),
)
"""All that are measured, in the order of their making."""


@dataclass(frozen=True)
class Text:
    """A text that somebody else wrote."""

    kind: str
    """See `KINDS`."""
    prompt_ids: Sequence[int]
    """Tokens before those that count."""
    ids: Sequence[int]
    """Tokens that count."""


def noise(prompt: str, response: str) -> float:
    """Return a score that says nothing: normal, drawn by the hash of the response.

    Example:
        >>> noise("This film", "is good") == noise("That film", "is good")
        True
    """
    del prompt
    rng = np.random.default_rng(zlib.crc32(response.encode()))
    return NOISE_SD * float(rng.standard_normal())


def run(data: Data, out: Out, until: str | None = None) -> None:
    """Train the runs that are missing, and measure each.

    Args:
        data: Folder of the texts.
        out: Folder of the study's runs.
        until: Time of day, HH:MM, after which nothing begins.
    """
    end = deadline(until)
    reader = Reader(list(foreign_texts(data)))
    for work in ORDER:
        folder = out / work.folder
        if datetime.now() >= end:
            return
        if work.name != START and not (folder / RUNS).exists():
            rows = [{**vars(work), **point} for point in work.train(folder)]
            write_rows(folder / RUNS, rows)
            print(f"{datetime.now():%H:%M:%S} {work} trained", flush=True)
        if not (folder / TEXTS).exists():
            policy = work.policy(folder)
            if not (folder / ANSWERS).exists():
                _write(folder / ANSWERS, work, answer_figures(policy, folder / "answers.jsonl"))
            _write(folder / TEXTS, work, reader.figures(policy))
            print(f"{datetime.now():%H:%M:%S} {work} measured", flush=True)


def _write(file: Path, work: Run, rows: Sequence[Row]) -> None:
    named = [{**vars(work), **row} for row in rows]
    write_rows(file, named)


def foreign_texts(data: Path) -> Iterator[Text]:
    """Yield the texts: the first of each kind that are long enough, cut to `LENGTH` tokens."""
    import pandas as pd

    answers, reviews = bundled(real_r3.BUNDLE), bundled(real_model.BUNDLE)
    tokenizer: Any = answers.tokenizer

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def asked(question: str) -> list[int]:
        turn = [{"role": "user", "content": question}]
        return encode(
            tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        )

    rows = json.loads((data / "r3/alpacafarm_val.json").read_text(encoding="utf-8"))
    pairs = ((asked(row["input"]), encode(row["output"])) for row in rows)
    fit = ((asked, said) for asked, said in pairs if len(asked) <= LONGEST_PROMPT and len(said) > 7)
    for _, (prompt, said) in zip(range(EACH), fit, strict=False):
        yield Text("instructions", prompt, said[:LENGTH])
    for prompt in questions():
        yield Text("references", asked(prompt.text), encode(str(prompt.reference)))
    frame = encode(reviews.settings("options")["prompt_format"].format(prompt=""))
    table = pd.read_parquet(data / "imdb/test.parquet", columns=["text", "label"])
    for label, kind in ((1, "positive"), (0, "negative")):
        for text in table.text[table.label == label][:EACH]:
            ids = encode(text)[: OPENING + LENGTH]
            yield Text(kind, [*frame, *ids[:OPENING]], ids[OPENING:])


def questions() -> list[Any]:
    """Return the bundle's questions that have one right answer."""
    bundle = bundled(real_r3.BUNDLE)
    asked = [prompt for split in ("train", "test") for prompt in bundle.prompts(split)]
    return [prompt for prompt in asked if prompt.query_type == "CONSTRAINED"]


class Reader:
    """Reads texts under one policy after the other; the reference, the same for all, reads once.

    Args:
        texts: The texts.
        rows: Texts in one forward.
    """

    def __init__(self, texts: Sequence[Text], rows: int = 8) -> None:
        self.texts, self.rows = texts, rows
        self.sequences = Sequences.from_ids([t.prompt_ids for t in texts], [t.ids for t in texts])
        self._ref_states: torch.Tensor | None = None

    @torch.no_grad()
    def figures(self, policy: CausalLMPolicy) -> list[Row]:
        """Return per text the mean nats of its tokens, and the mean exact KL from the reference."""
        if self._ref_states is None:
            self._ref_states = policy.reference_states(self.sequences, max_size=self.rows)
        by_text: dict[int, Row] = {}
        for bucket in self.sequences.buckets(self.rows):
            part = self.sequences.select(bucket)
            read = policy.evaluate(part, with_kl=True, ref_states=self._ref_states[bucket])
            assert read.kl is not None
            lengths = part.response_lengths
            figures = {"nats": -read.log_probs.sum(1) / lengths, "kl": read.kl.sum(1) / lengths}
            for row, text in enumerate(bucket.tolist()):
                means = {name: round(float(values[row]), 4) for name, values in figures.items()}
                by_text[text] = {"kind": self.texts[text].kind, "text": text, **means}
        return [by_text[text] for text in sorted(by_text)]


def answer_figures(policy: CausalLMPolicy, file: Path) -> list[Row]:
    """Return the figures of a policy's likeliest answers, and keep the answers.

    Args:
        policy: The policy.
        file: File that the answers are written to.
    """
    real_r3.answer(policy, file, types=("CONSTRAINED",))
    kept = ("question", *ANSWERED)
    return [{name: row[name] for name in kept} for row in real_r3.figures(file)]


def publish(out: Out, docs: Docs = DOCS) -> None:
    """Copy the figures so far beside the page, and fill its tables.

    Published figures stay of runs that the folder does not have.

    Args:
        out: Folder of the study's runs.
        docs: Folder of the page.
    """
    published, text = {}, ["name", "kind"]
    for name in (RUNS, TEXTS, ANSWERS):
        files = [out / work.folder / name for work in ORDER]
        done = [file for file in files if file.exists()]
        made = rows_to_publish(*done, text=text, out=out)
        before = docs / FOLDER / name
        runs = grouped(read_rows(before, text=text), run_of) if before.exists() else {}
        runs |= grouped(made, run_of)
        first = [(work.name, work.rate, float(work.seed)) for work in ORDER]
        published[name] = [
            row for run in dict.fromkeys([*first, *runs]) for row in runs.get(run, [])
        ]
    for name, rows in published.items():
        write_rows(docs / FOLDER / name, rows)
    page(docs)


def page(docs: Path) -> None:
    """Fill the page's tables from the published figures."""
    folder = docs / FOLDER
    runs, texts, answers = (
        read_rows(folder / name, text=["name", "kind"]) for name in (RUNS, TEXTS, ANSWERS)
    )
    first = {kind: [row for row in texts if row["kind"] == kind] for kind in KINDS}
    tables = {
        "tax runs": runs_table(runs, texts),
        "tax texts": table({kind: by_run(rows, "nats") for kind, rows in first.items()}, KINDS),
        "tax answers": table({name: by_run(answers, name) for name in ANSWERED}, ANSWERED),
    }
    fill(docs / PAGE, tables)


Values = dict[tuple[str, float, float], list[float]]
"""Figures of every text or answer, in order, by name, rate and seed of the run; NaN for none."""


def run_of(row: Row) -> tuple[str, float, float]:
    """Return name, rate and seed of the run that a row is from."""
    return row["name"], row["rate"], row["seed"]


def by_run(rows: Sequence[Row], figure: str) -> Values:
    """Return a figure of every text or answer by run."""
    return {
        run: [np.nan if row[figure] is None else row[figure] for row in its_rows]
        for run, its_rows in grouped(rows, run_of).items()
    }


def title(name: str, rate: float, seed: float) -> str:
    """Return the name of a run for a table: with the rate where that is not the usual one."""
    return f"{name}, rate {rate:g}" if rate != Run(name=START).rate else f"{name}, seed {seed:.0f}"


def runs_table(runs: Sequence[Row], texts: Sequence[Row]) -> str:
    """Return each run's gold score, its KL on its own task, and its KL per token of each kind."""
    lines = []
    for run, points in grouped(runs, run_of).items():
        start, end = points[0], points[-1]
        score = NONE if run[0] == NOISE else _moved(start, end, "score")
        spent = [end["kl"], end["kl"] / real_model.LENGTH]
        for kind in KINDS:
            spent.append(mean(by_run([t for t in texts if t["kind"] == kind], "kl")[run]))
        moved = [score, _moved(start, end, "gold_score")]
        lines.append([title(*run), *moved, *(number(nats) for nats in spent)])
    header = ["run", "score", "gold", "KL at the end", "a token"]
    return markdown_table([*header, *KINDS.values()], lines)


def _moved(start: Row, end: Row, name: str) -> str:
    return f"{number(start[name])} to {number(end[name])}"


def table(figures: Mapping[str, Values], titles: Mapping[str, str]) -> str:
    """Return what the untrained policy has, and each run's paired differences from it.

    A pair is a text or a question.

    Args:
        figures: By name.
        titles: Heads of the columns by name.
    """
    runs = next(iter(figures.values()))
    first = [run for run in runs if run[0] == START]
    lines = {
        START if run in first else title(*run): {
            name: dict(enumerate(values[run])) for name, values in figures.items()
        }
        for run in [*first, *(run for run in runs if run not in first)]
    }
    return beside_first(lines, [titles[name] for name in figures])


if __name__ == "__main__":
    command_line(__doc__, run, publish)
