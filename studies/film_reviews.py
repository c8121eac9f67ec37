"""Which rule is ahead on real film reviews, by docs/results/protocol.md?

PPO on openings of IMDb's reviews and of SST-2's sentences, the learning rate tuned for each rule
and lambda on a spare seed. The data sets and the bundles trained on them are no part of this
package; `scripts/build_models.py` makes such a bundle, and each page says how.

    python -m studies.film_reviews prompts --data imdb --out runs/imdb  # seconds
    python -m studies.film_reviews run --out runs/imdb [--until 12:25]
    python -m studies.film_reviews publish --out runs/imdb    # fills the page
    python -m studies.film_reviews page
    python -m studies.film_reviews ... --corpus sst2
"""

import csv
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from tokengym import ComparisonConfig
from tokengym.envs import Bundle, Episode
from tokengym.evaluation.report import number, percent
from tokengym.evaluation.runs import EvaluationSettings, RunRecord, TaskSettings
from tokengym.evaluation.statistics import optimum_bound, paired_difference
from tokengym.lab.makers.other_prompts import read_prompts, with_prompts
from tokengym.lab.protocol import (
    DRAWN,
    LEARNER,
    PRICE,
    SPARE_SEED,
    best_of_rows,
    measured,
    net,
    net_area,
    scores_of,
    untrained_responses,
    way,
)
from tokengym.lab.scorers.vader import Vader
from tokengym.lab.study import (
    DOCS,
    Cell,
    Docs,
    Drawn,
    Out,
    Published,
    Round,
    Row,
    Runs,
    Study,
    command_line,
    single_run,
)
from tokengym.lab.tables import (
    NONE,
    NOT_YET,
    after_holm,
    markdown_table,
    mean,
    paired,
    rates_table,
    student_mean,
)
from tokengym.rewards import gold_scorer

ENV = "tokengym/MovieReview-v0"
EVALUATIONS, PROMPTS = 4, 128
"""Measurements of a run after the first, and the held-out prompts of each."""
WORDS = 2, 6
"""Fewest and most words of an opening."""
BUNDLE, LINES = "bundle", "best_of_n.csv"
CorpusName = Literal["imdb", "sst2"]
"""Names of `CORPORA`."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Film reviews that a bundle was trained on, and how long a run on them is."""

    length: int
    """Tokens of a response."""
    updates: int
    """Updates of a run."""
    rows: int
    """Responses of an update."""
    first_rate: float
    """Rate that a sweep begins with."""
    openings: int
    """Held-out prompts."""
    new: tuple[str, ...]
    """Files of the texts that they open."""
    labelled: tuple[str, ...]
    """Files of the texts whose labels a judge may have been told."""
    page: str
    """Page of the results."""


CORPORA: dict[str, Corpus] = {
    "imdb": Corpus(
        length=24,
        updates=40,
        rows=32,
        first_rate=3e-4,
        openings=600,
        new=("unsupervised.parquet",),
        labelled=("train.parquet", "test.parquet"),
        page="imdb.md",
    ),
    "sst2": Corpus(
        length=16,
        updates=30,
        rows=64,
        first_rate=1e-3,
        openings=400,
        new=("test.tsv",),
        labelled=("train.tsv", "dev.tsv"),
        page="details/sst2.md",
    ),
}


# --- prompts that no judge was told a label of ----------------------------------------------------


def begins(texts: Sequence[str]) -> Callable[[str], bool]:
    """Return a function that says whether any of the texts begins with an opening.

    Example:
        >>> begins(["It was good", "A film"])("It was")
        True
    """
    ordered = sorted(texts)

    def is_beginning(opening: str) -> bool:
        at = bisect_left(ordered, opening)
        return at < len(ordered) and ordered[at].startswith(opening)

    return is_beginning


def openings(texts: Sequence[str], known: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """Return the first words of texts, none of which a known text begins with.

    Args:
        texts: Where they are taken from, in an order drawn by the seed.
        known: Texts that models were trained on with their labels.
        count: Number of openings, all different.
        seed: Seed of the order and of the number of words.

    Raises:
        ValueError: if the texts have fewer.
    """
    is_known = begins([" ".join(text.split()) for text in known])
    rng = np.random.default_rng(seed)
    new_openings: dict[str, None] = {}
    for index in rng.permutation(len(texts)):
        opening = " ".join(texts[index].split()[: rng.integers(WORDS[0], WORDS[1] + 1)])
        if opening and not is_known(opening):
            new_openings[opening] = None
        if len(new_openings) == count:
            return list(new_openings)
    raise ValueError(
        f"{len(texts)} texts have {len(new_openings)} new openings, not {count}; give more"
    )


def texts(file: Path) -> list[str]:
    """Return the texts of a parquet file with a column "text", or the first column of a tsv."""
    if file.suffix == ".tsv":
        with file.open(encoding="utf-8", newline="") as lines:
            return [row[0] for row in csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)]
    from pyarrow.parquet import read_table

    column: list[str] = read_table(file, columns=["text"]).to_pydict()["text"]
    return column


def prompts(data: Path, out: Out, corpus: CorpusName = "imdb", bundle: Path | None = None) -> None:
    """Write the bundle with other held-out prompts: openings of texts that no judge was told about.

    Args:
        data: Folder of the corpus' files, as `CORPORA` names them.
        out: Folder of the study's runs.
        corpus: Which one.
        bundle: Folder of the bundle trained on it; None is the folder "bundle" in `data`.
    """
    size = CORPORA[corpus]
    new, labelled = (
        [text for name in names for text in texts(data / name)]
        for names in (size.new, size.labelled)
    )
    source = data / BUNDLE if bundle is None else bundle
    rows = [row for row in read_prompts(source) if row["split"] == "train"]
    rows += [
        {"prompt": opening, "split": "test"} for opening in openings(new, labelled, size.openings)
    ]
    with_prompts(source, rows, out / BUNDLE)


# --- runs -----------------------------------------------------------------------------------------


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


def config(run: Cell, out: Path) -> ComparisonConfig:
    """Return the comparison that a run is of; all its responses are kept, for VADER."""
    return single_run(
        ENV,
        run.rule,
        steps=int(run.updates),
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


# --- page -----------------------------------------------------------------------------------------


def tables(corpus: str, published: Published) -> dict[str, str]:
    """Return the tables of a corpus' page."""
    runs, drawn = published.runs, published.drawn[LINES]
    here = [cell for cell in cells(corpus) if cell in runs.sweeps]
    sweeps = {(f"`{cell.rule}`", cell.gae_lambda): runs.sweeps[cell] for cell in here}
    found = {
        "protocol-lines": lines_table(drawn),
        "protocol-rates": rates_table(sweeps, ("rule", "lambda"), with_best=True),
        "protocol-levels": levels_table(runs, here, drawn),
        "protocol-differences": differences_table(runs, here),
    }
    if corpus != "imdb":
        found["protocol-sparse"] = sparse_table(runs, here)
    return found


def lines_table(lines: Sequence[Row]) -> str:
    """Return best-of-n by every judge, and the lower bound of the optimum."""
    rows = [
        [
            f"best of {row['n']:.0f}" if row["n"] > 1 else "untrained",
            *(number(row[name]) for name in ("score", "gold_score", "vader", "kl")),
            number(net(row)),
        ]
        for row in lines
    ]
    bound = [f"optimum, at least ({DRAWN} responses)", *[NONE] * 4, number(lines[0]["optimum"])]
    head = ["", "score", "gold", "VADER", "KL at most, nats", "score - c KL"]
    return markdown_table(head, [*rows, bound])


def levels_table(runs: Runs, cells: Sequence[Cell], lines: Sequence[Row]) -> str:
    """Return what every cell reaches, with its share of the way to best-of-16."""
    start, goal = way(lines)
    rows = []
    for cell in cells:
        areas = [*runs.areas(cell).values()]
        if len(areas) < 2:
            continue
        share = percent((mean(areas) - start) / (goal - start))
        names = ("score", "gold_score", "vader", "kl")
        ends = [student_mean([*runs.ends(cell, name).values()]) for name in names]
        about = [f"`{cell.rule}`", cell.gae_lambda, str(len(areas))]
        rows.append([*about, student_mean(areas), share, *ends])
    head = ["rule", "lambda", "seeds", "score - c KL over the run", "share of the way"]
    ends = [f"{name} at the end" for name in ("score", "gold", "VADER", "KL")]
    return markdown_table([*head, *ends], rows)


def differences_table(runs: Runs, cells: Sequence[Cell]) -> str:
    """Return every cell minus `sparse` at the lambda that suits it, and ABC's minus `uniform`.

    That lambda is the best of the spare seed. Clear differences are bold, after Holm's correction
    over the table.
    """
    sparse, uniform = (
        runs.chosen([cell for cell in cells if cell.rule == rule]) for rule in ("sparse", "uniform")
    )
    if sparse is None:
        return NOT_YET
    differences = {
        (cell, base): figure
        for base, rules in ((sparse, None), (uniform, ("abc", "abc-signed")))
        for cell in cells
        if base is not None and cell != base and (rules is None or cell.rule in rules)
        if (figure := runs.difference(cell, base)) is not None
    }
    shown = after_holm(differences)
    bases = list(dict.fromkeys(base for _, base in differences))
    rows = [
        [f"`{cell.rule}`", cell.gae_lambda, *(shown.get((cell, base), NONE) for base in bases)]
        for cell in dict.fromkeys(cell for cell, _ in differences)
    ]
    titles = [f"minus `{base.rule}`, lambda {base.gae_lambda}" for base in bases]
    return markdown_table(["rule", "lambda", *titles], rows)


def sparse_table(runs: Runs, cells: Sequence[Cell]) -> str:
    """Return `sparse` at every lambda and rate that has seeds, and `abc-signed` minus each.

    What the spare seed did not choose is seen here too: a choice in hindsight, for `sparse` alone.
    Its differences are corrected with those of the page.
    """
    areas: dict[tuple[str, float], dict[int, float]] = {}
    for run, points in runs.each.items():
        if run.rule == "sparse" and run.seed != SPARE_SEED:
            areas.setdefault((run.gae_lambda, run.rate), {})[int(run.seed)] = net_area(points)
    signed = runs.areas(best := next(cell for cell in cells if cell.rule == "abc-signed"))
    gains = {cell: paired_difference(*paired(signed, areas[cell])) for cell in sorted(areas)}
    shown = after_holm(gains)
    rows = [
        [name, f"{rate:g}", student_mean([*areas[name, rate].values()]), shown[name, rate]]
        for name, rate in gains
    ]
    minus = f"`abc-signed`, lambda {best.gae_lambda}, minus it"
    return markdown_table(["lambda", "rate", "score - c KL over the run", minus], rows)


STUDIES: dict[str, Study] = {
    name: Study(
        document=corpus.page,
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
        tables=partial(tables, name),
        drawn=(Drawn(file=LINES, parts={LINES: partial(lines, name)}),),
        first_rate=corpus.first_rate,
    )
    for name, corpus in CORPORA.items()
}


def run(out: Out, corpus: CorpusName = "imdb", docs: Docs = DOCS, until: str | None = None) -> None:
    """Do the runs that are missing, one at a time.

    Args:
        out: Folder of the study's runs, where `prompts` has been.
        corpus: Which one.
        docs: Folder of the page, whose published runs are not run again.
        until: Time of day, HH:MM, after which no run begins.
    """
    STUDIES[corpus].run(out, docs, until=until)


def publish(out: Out, corpus: CorpusName = "imdb", docs: Docs = DOCS) -> None:
    """Write all runs as one csv, those of the sweeps too, and fill the page.

    Args:
        out: Folder of the study's runs.
        corpus: Which one.
        docs: Folder of the page.
    """
    STUDIES[corpus].publish(out, docs)


def page(docs: Docs = DOCS) -> None:
    """Fill both pages' tables from the published runs.

    Args:
        docs: Folder of the pages.
    """
    for study in STUDIES.values():
        study.page(docs)


if __name__ == "__main__":
    command_line(__doc__, prompts, run, publish, page)
