"""Build a bundle from labelled texts of one's own.

Writes tokenizer, prompts, language model, reward model, a second one as gold score, an encoder if
asked for, and the figures that say what they are worth. The bundles that ship were built at commit
6307f464, by code that is in the history; base/assets.sha256 has their hashes.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from tokengym.lab.makers.options import BuildError, CorpusOptions

if TYPE_CHECKING:
    from tokengym.lab.makers.bundle_files import BuiltBundle


@dataclass(frozen=True, kw_only=True)
class Options(CorpusOptions):
    """A labelled corpus, and the bundle to make of it."""

    corpus: Path
    """A csv, tsv, jsonl or parquet file of labelled texts."""
    out: Path
    """Folder to write the bundle to."""
    seed: int = 0
    """Seed of corpora, weights and batches."""
    threads: int = 2
    """Cores to use."""
    text_column: str = "text"
    """The texts' column; integers (from 0) for both columns read a file without header."""
    label_column: str = "label"
    """The labels' column, of two values."""
    positive_label: str | None = None
    """The preferred label; by default the one that sorts last (1, "positive")."""
    eval_corpus: Path | None = None
    """A file like the corpus to measure accuracy on; by default a tenth of the corpus."""


def main(options: Options) -> None:
    """Build a bundle from the corpus that the options name."""
    import torch

    from tokengym.lab.makers.bundle_files import check_target, write_bundle
    from tokengym.lab.makers.real_text import build_from_corpus, read_corpus

    if options.threads < 1 or options.seed < 0:
        raise BuildError(
            f"--threads must be >= 1 and --seed >= 0, got {options.threads} and {options.seed}"
        )
    torch.set_num_threads(options.threads)
    check_target(options.out)
    columns = (options.text_column, options.label_column)
    rows = read_corpus(options.corpus, *columns, positive_label=options.positive_label)
    evaluation_rows = None
    if options.eval_corpus is not None:
        evaluation_rows = read_corpus(
            options.eval_corpus, *columns, positive_label=options.positive_label, min_rows=2
        )
    bundle = build_from_corpus(rows, evaluation_rows, seed=options.seed, options=options)
    write_bundle(bundle, options.out)
    print_figures(bundle, options.out)


def print_figures(bundle: "BuiltBundle", path: Path) -> None:
    """Print a bundle's figures and the size of its folder."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    plain = {name: value for name, value in bundle.figures.items() if not isinstance(value, dict)}
    console.print(f"{path}: {bundle.task}, {size / 1e6:.2f} MB, {plain}", soft_wrap=True)
    for name, groups in bundle.figures.items():
        if not isinstance(groups, dict):
            continue
        table = Table(name.replace("_", " "), *groups)
        for figure in next(iter(groups.values())):
            table.add_row(figure, *(f"{values[figure]:.3f}" for values in groups.values()))
        console.print(table)


def run() -> None:
    """Read the command line and build; bad input ends it with one line."""
    try:
        main(tyro.cli(Options, description=__doc__))
    except (BuildError, FloatingPointError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    run()
