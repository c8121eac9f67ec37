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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from studies import ledger
from studies.ledger import TEXT, Work, pending
from studies.ledger_page import Ledger, label
from tokengym.base.bundle import Bundle
from tokengym.base.files import write_csv
from tokengym.envs import Episode
from tokengym.evaluation.measure.references import GOAL
from tokengym.evaluation.report.verdict import number, percent
from tokengym.evaluation.runs.config import TaskSettings
from tokengym.evaluation.runs.defaults import EvaluationSettings
from tokengym.evaluation.runs.run import run as run_one
from tokengym.evaluation.statistics import optimum_bound, paired_difference
from tokengym.lab.makers.other_prompts import read_prompts, with_prompts
from tokengym.lab.protocol import (
    DRAWN,
    PRICE,
    SPARE_SEED,
    Row,
    best_of_rows,
    measured,
    net,
    net_area,
    scores_of,
    untrained_responses,
)
from tokengym.lab.study import DOCS, Docs, Out, command_line, deadline, read_rows
from tokengym.lab.tables import (
    NONE,
    after_holm,
    difference,
    fields,
    fill,
    markdown_table,
    mean,
    page_wide,
    student_mean,
)
from tokengym.rewards import gold_scorer
from tokengym.rewards.scorers.vader import Vader

EVALUATIONS, PROMPTS = 4, 128
"""Measurements of a run after the first, and the held-out prompts of each."""
WORDS = 2, 6
"""Fewest and most words of an opening."""
BUNDLE, LINES, RUNS, FOLDER = "bundle", "best_of_n.csv", "runs.csv", "protocol"
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


CORPORA: dict[str, Corpus] = {
    "imdb": Corpus(
        length=24,
        updates=40,
        rows=32,
        first_rate=3e-4,
        openings=600,
        new=("unsupervised.parquet",),
        labelled=("train.parquet", "test.parquet"),
    ),
    "sst2": Corpus(
        length=16,
        updates=30,
        rows=64,
        first_rate=1e-3,
        openings=400,
        new=("test.tsv",),
        labelled=("train.tsv", "dev.tsv"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Cell(ledger.Cell):
    """A rule at its lambda on film reviews; the reward model is the corpus' bundle's."""

    @classmethod
    def on(cls, corpus: CorpusName, rule: str, gae_lambda: str = "0.95") -> "Cell":
        """Return the cell whose runs are as long as the corpus says."""
        size = CORPORA[corpus]
        return cls(
            rule=rule,
            gae_lambda=gae_lambda,
            length=size.length,
            model=corpus,
            updates=size.updates,
            rows=size.rows,
        )

    @property
    def first_rate(self) -> float:
        """Return the rate that its sweep begins with."""
        return CORPORA[self.model].first_rate

    def evaluation(self) -> EvaluationSettings:
        """Return how its runs are measured; all responses are kept, for VADER."""
        every = max(self.updates // EVALUATIONS, 1)
        return EvaluationSettings(every=every, episodes=PROMPTS, samples=PROMPTS)

    def task(self, out: Path) -> TaskSettings:
        """Return the task of its runs: the bundle with the study's prompts."""
        return TaskSettings(bundle=str(out / BUNDLE))


def cells(corpus: CorpusName) -> tuple[Cell, ...]:
    """Return a corpus' cells; what is needed most comes first."""
    return (
        Cell.on(corpus, "sparse"),
        Cell.on(corpus, "abc-signed", "0.5"),
        Cell.on(corpus, "uniform"),
        Cell.on(corpus, "sparse", "1"),
        Cell.on(corpus, "abc-signed"),
        Cell.on(corpus, "abc"),
    )


def work(corpus: CorpusName) -> Work:
    """Yield the cells and the seeds wanted of them, in the order in which they are needed."""
    wanted = cells(corpus)
    for first in wanted[:3], wanted[:4], wanted[:5], wanted:
        yield first, range(5)
    yield wanted, range(10)


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


def draw_lines(out: Path, length: int) -> None:
    """Write what the best of n untrained responses has by every judge, unless that is done."""
    file = out / LINES
    if file.exists():
        return
    bundle = Bundle(out / BUNDLE)
    episodes = untrained_responses(ledger.ENV, length, bundle=str(bundle.path))
    gold = gold_scorer(bundle)
    assert gold is not None
    proxy = scores_of(episodes)
    by_gold, by_vader = (
        best_of_rows(proxy, judge.score(episodes).values.reshape(-1, DRAWN))
        for judge in (gold.bind(bundle.tokenizer), Vader())
    )
    bound = optimum_bound(proxy, PRICE)
    rows = [
        {**row, "vader": other["gold_score"], "optimum": bound}
        for row, other in zip(by_gold, by_vader, strict=True)
    ]
    write_csv(file, rows, list(rows[0]))


def measure(cell: Cell, out: Path, rate: float, seed: int) -> list[dict[str, Any]]:
    """Train a policy and return a row per evaluation; VADER reads the first and the last."""
    record = run_one(cell.config(out, rate), cell.rule, seed)
    parts = ("prompt", "response", "prompt_ids", "response_ids")
    read = {}
    for step in (0, cell.updates):
        rows = [row for row in record.samples if row["step"] == step]
        read[step] = mean(Vader().score([Episode(**{k: r[k] for k in parts}) for r in rows]).values)
    about = {**vars(cell), "rate": rate, "seed": seed}
    return [{**about, **point, "vader": read.get(point["step"])} for point in measured(record)]


def run(out: Out, corpus: CorpusName = "imdb", docs: Docs = DOCS, until: str | None = None) -> None:
    """Do the runs that are missing, one at a time.

    Args:
        out: Folder of the study's runs, where `prompts` has been.
        corpus: Which one.
        docs: Folder of the page, whose published runs are not run again.
        until: Time of day, HH:MM, after which no run begins.
    """
    ledger.restore_runs(out, docs / corpus / FOLDER / RUNS)
    draw_lines(out, CORPORA[corpus].length)
    ledger.do_runs(pending(out, work(corpus)), measure, out, deadline(until))


# --- page -----------------------------------------------------------------------------------------


def publish(out: Out, corpus: CorpusName = "imdb", docs: Docs = DOCS) -> None:
    """Write all runs as one csv, those of the sweeps too, and fill the page.

    Args:
        out: Folder of the study's runs.
        corpus: Which one.
        docs: Folder of the page.
    """
    rows = read_rows(*sorted((out / "runs").glob("*.csv")), text=TEXT)
    write_csv(docs / corpus / FOLDER / RUNS, rows, list(rows[0]))
    lines = read_rows(out / LINES, text=())
    write_csv(docs / corpus / FOLDER / LINES, lines, list(lines[0]))
    page(docs)


def page(docs: Docs = DOCS) -> None:
    """Fill the pages' tables from the published runs."""
    for corpus in get_args(CorpusName):
        folder = docs / corpus / FOLDER
        if not folder.exists():
            continue
        lines = read_rows(folder / LINES, text=())
        rows = read_rows(folder / RUNS, text=TEXT)
        book = Ledger(rows)
        tables = {
            "protocol-lines": lines_table(lines),
            "protocol-rates": rates_table(book, cells(corpus)),
            "protocol-levels": levels_table(book, cells(corpus), lines),
        }
        tables |= page_wide(partial(tested_tables, corpus, rows, book))
        fill(docs / f"{corpus}.md", tables)


def tested_tables(corpus: CorpusName, rows: Sequence[Row], book: Ledger) -> dict[str, str]:
    """Return the tables with differences by the protocol, which are corrected together."""
    tables = {"protocol-differences": differences_table(book, cells(corpus))}
    if corpus != "imdb":
        tables["protocol-sparse"] = sparse_table(rows, book, cells(corpus))
    return tables


def tried(book: Ledger, cells: Sequence[Cell]) -> list[ledger.Cell]:
    """Return those of the cells that have been tried, as the runs have them."""
    ledger_cells = [ledger.Cell(**vars(cell)) for cell in cells]
    return [cell for cell in ledger_cells if cell in book.sweeps]


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


def rates_table(book: Ledger, cells: Sequence[Cell]) -> str:
    """Return score - c KL over the run of the spare seed by rate, the best in bold."""
    tried_cells = tried(book, cells)
    rates = sorted({rate for cell in tried_cells for rate in book.sweeps[cell]})
    rows = []
    for cell in tried_cells:
        areas = book.sweeps[cell]
        line = [number(areas[rate]) if rate in areas else NONE for rate in rates]
        best = rates.index(book.rate(cell))
        line[best] = f"**{line[best]}**"
        rows.append([label(cell.rule), cell.gae_lambda, *line])
    return markdown_table(["rule", "lambda", *(f"{rate:g}" for rate in rates)], rows)


def levels_table(book: Ledger, cells: Sequence[Cell], lines: Sequence[Row]) -> str:
    """Return what every cell reaches, with its share of the way to best-of-16."""
    start, goal = (net(row) for row in lines if row["n"] in (1, GOAL))
    rows = []
    for cell in tried(book, cells):
        areas = list(book.areas(cell).values())
        if len(areas) < 2:
            continue
        ends = [
            student_mean(book.ends(cell, name)) for name in ("score", "gold_score", "vader", "kl")
        ]
        share = percent((mean(areas) - start) / (goal - start))
        rows.append(
            [label(cell.rule), cell.gae_lambda, str(len(areas)), student_mean(areas), share, *ends]
        )
    head = ["rule", "lambda", "seeds", "score - c KL over the run", "share of the way"]
    ends = [f"{name} at the end" for name in ("score", "gold", "VADER", "KL")]
    return markdown_table([*head, *ends], rows) if rows else "Not measured yet."


def differences_table(book: Ledger, cells: Sequence[Cell]) -> str:
    """Return every cell minus `sparse` at the lambda that suits it, and ABC's minus `uniform`.

    That lambda is the best of the spare seed. Clear differences are bold, after Holm's correction
    over the table.
    """
    here = tried(book, cells)
    sparse = book.chosen(["sparse"], here)
    uniform = book.chosen(["uniform"], here)
    if sparse is None:
        return "Not measured yet."
    differences = {
        (cell, base): figure
        for base, rules in ((sparse, None), (uniform, ("abc", "abc-signed")))
        for cell in here
        if base is not None and cell != base and (rules is None or cell.rule in rules)
        if (figure := book.difference(cell, base)) is not None
    }
    shown = after_holm(differences)
    bases = list(dict.fromkeys(base for _, base in differences))
    rows = [
        [label(cell.rule), cell.gae_lambda, *(shown.get((cell, base), NONE) for base in bases)]
        for cell in dict.fromkeys(cell for cell, _ in differences)
    ]
    titles = [f"minus {label(base.rule)}, lambda {base.gae_lambda}" for base in bases]
    return markdown_table(["rule", "lambda", *titles], rows) if rows else "Not measured yet."


def sparse_table(rows: Sequence[Row], book: Ledger, cells: Sequence[Cell]) -> str:
    """Return `sparse` at every lambda and rate that has seeds, and `abc-signed` minus each.

    What the spare seed did not choose is seen here too: a choice in hindsight, for `sparse` alone.
    """
    runs: dict[tuple[str, float], dict[int, list[Row]]] = {}
    for row in rows:
        if row["rule"] == "sparse" and row["seed"] != SPARE_SEED:
            where = row["gae_lambda"], row["rate"]
            runs.setdefault(where, {}).setdefault(int(row["seed"]), []).append(row)
    signed = next(cell for cell in tried(book, cells) if cell.rule == "abc-signed")
    gains = book.areas(signed)
    lines = []
    for (name, rate), by_seed in sorted(runs.items()):
        areas = {seed: net_area(run) for seed, run in by_seed.items()}
        seeds = sorted(set(areas) & set(gains))
        gain = paired_difference([gains[s] for s in seeds], [areas[s] for s in seeds])
        lines.append([name, f"{rate:g}", student_mean([*areas.values()]), difference(fields(gain))])
    minus = f"`abc-signed`, lambda {signed.gae_lambda}, minus it"
    return markdown_table(["lambda", "rate", "score - c KL over the run", minus], lines)


if __name__ == "__main__":
    command_line(__doc__, prompts, run, publish, page)
