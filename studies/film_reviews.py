"""Runs on IMDb's openings and SST-2's sentences: ten pairs, a point at each fourth of a run.

    python -m studies.film_reviews run --corpus imdb --out runs/imdb
    python -m studies.film_reviews publish --corpus imdb --out runs/imdb

docs/results/real_text.md shows them beside newer ones. The bundle of a corpus is the folder
"bundle" in --out. The data sets are no part of this package; commit 6307f464 has the command that
gives such a bundle held-out openings of which no judge was told a label.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from tokengym import Comparison
from tokengym.envs import Bundle, Episode
from tokengym.evaluation.runs import EvaluationSettings, RunRecord, TaskSettings
from tokengym.evaluation.statistics import optimum_bound
from tokengym.lab.protocol import (
    DRAWN,
    LEARNER,
    PRICE,
    best_of_rows,
    measured,
    scores_of,
    untrained_responses,
)
from tokengym.lab.scorers.vader import Vader
from tokengym.lab.study import (
    DOCS,
    Cell,
    Docs,
    Drawn,
    Out,
    Round,
    Row,
    Study,
    command_line,
    single_run,
)
from tokengym.lab.tables import mean
from tokengym.rewards import gold_scorer

ENV = "tokengym/MovieReview-v0"
EVALUATIONS, PROMPTS = 4, 128
"""Measurements of a run after the first, and the held-out prompts of each."""
BUNDLE, LINES = "bundle", "best_of_n.csv"
CorpusName = Literal["imdb", "sst2"]
"""Names of `CORPORA`."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Film reviews that a bundle was trained on, and how long a run on them is."""

    name: str
    """Name in a table."""
    length: int
    """Tokens of a response."""
    updates: int
    """Updates of a run."""
    rows: int
    """Responses of an update."""
    first_rate: float
    """Rate that a sweep begins with."""


CORPORA: dict[str, Corpus] = {
    "imdb": Corpus(name="IMDb", length=24, updates=40, rows=32, first_rate=3e-4),
    "sst2": Corpus(name="SST-2", length=16, updates=30, rows=64, first_rate=1e-3),
}


def lines(corpus: str, out: Path) -> list[Row]:
    """Return what the best of n untrained responses has by every judge."""
    bundle = Bundle(out / BUNDLE)
    episodes = untrained_responses(ENV, CORPORA[corpus].length, bundle=str(bundle.path))
    gold = gold_scorer(bundle)
    assert gold is not None
    proxy = scores_of(episodes)
    by_gold, by_vader = (
        best_of_rows(proxy, judge.score(episodes).values.reshape(-1, DRAWN))
        for judge in (gold.bind(bundle.tokenizer), Vader())
    )
    bound = optimum_bound(proxy, PRICE)
    return [
        {**row, "vader": other["gold_score"], "optimum": bound}
        for row, other in zip(by_gold, by_vader, strict=True)
    ]


def config(run: Cell, out: Path) -> Comparison:
    """Return the comparison that a run is of; all its responses are kept, for VADER."""
    return single_run(
        ENV,
        run.rule,
        updates=int(run.updates),
        batch_size=int(run.rows),
        max_new_tokens=int(run.length),
        learning_rate=run.rate,
        gae_lambda=float(run.gae_lambda),
        value_network=run.critic,
        **LEARNER,
        evaluation=EvaluationSettings(
            every=int(run.updates) // EVALUATIONS, episodes=PROMPTS, samples=PROMPTS
        ),
        task=TaskSettings(bundle=str(out / BUNDLE)),
    )


def measure(run: Cell, record: RunRecord) -> list[Row]:
    """Return a row per evaluation; VADER reads the first and the last."""
    parts = ("prompt", "response", "prompt_ids", "response_ids")
    read = {}
    for step in (0, run.updates):
        rows = [row for row in record.samples if row["step"] == step]
        read[step] = mean(Vader().score([Episode(**{k: r[k] for k in parts}) for r in rows]).values)
    return [{**point, "vader": read.get(point["step"])} for point in measured(record)]


def cells(corpus: str) -> list[Cell]:
    """Return a corpus' cells; what is needed most comes first."""
    named = (
        ("sparse", "0.95"),
        ("abc-signed", "0.5"),
        ("uniform", "0.95"),
        ("sparse", "1"),
        ("abc-signed", "0.95"),
        ("abc", "0.95"),
    )
    return [STUDIES[corpus].cell(rule=rule, gae_lambda=at) for rule, at in named]


def rounds(corpus: str) -> Iterator[Round]:
    """Yield the cells and the seeds wanted of them, in the order in which they are needed."""
    wanted = cells(corpus)
    for first in wanted[:3], wanted[:4], wanted[:5], wanted:
        yield first, range(5)
    yield wanted, range(10)


STUDIES: dict[str, Study] = {
    name: Study(
        document="real_text.md",
        folder=f"{name}/protocol",
        axes={
            "rule": str,
            "gae_lambda": "0.95",
            "critic": "own",
            "length": corpus.length,
            "model": name,
            "updates": corpus.updates,
            "rows": corpus.rows,
        },
        rounds=partial(rounds, name),
        config=config,
        measure=measure,
        tables=lambda published: {},  # studies.real_text has the page's
        drawn=(Drawn(file=LINES, parts={LINES: partial(lines, name)}),),
        first_rate=corpus.first_rate,
    )
    for name, corpus in CORPORA.items()
}


def run(out: Out, corpus: CorpusName = "imdb", docs: Docs = DOCS, until: str | None = None) -> None:
    """Do the runs that are missing, one at a time.

    Args:
        out: Folder of the study's runs, with the bundle.
        corpus: Which one.
        docs: Folder of the page, whose published runs are not run again.
        until: Time of day, HH:MM, after which no run begins.
    """
    STUDIES[corpus].run(out, docs, until=until)


def publish(out: Out, corpus: CorpusName = "imdb", docs: Docs = DOCS) -> None:
    """Write all runs as one csv, those of the sweeps too.

    Args:
        out: Folder of the study's runs.
        corpus: Which one.
        docs: Folder of the page.
    """
    STUDIES[corpus].publish(out, docs)


if __name__ == "__main__":
    command_line(__doc__, run, publish)
