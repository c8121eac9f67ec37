"""Build the bundled models, or a bundle from your own labelled texts.

Writes one folder per task: tokenizer, prompts, language model, reward model or encoder, and the
figures that say what they are worth.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from tokengym.lab.makers.building.options import BuildError, CorpusOptions

if TYPE_CHECKING:
    from tokengym.lab.makers.building.bundle_files import BuiltBundle

ASSETS = Path(__file__).resolve().parents[2] / "base" / "assets"


@dataclass(frozen=True, kw_only=True)
class Options(CorpusOptions):
    """Thing to build: a bundled task, or a bundle from a labelled corpus."""

    task: Literal[
        "movie_review",
        "question_answer",
        "dialogue",
        "detox",
        "summarize",
        "oracle",
        "forks",
        "reasoning_gym",
        "calculator",
        "feedback",
        "all",
    ] = "all"
    """Bundled task, when no corpus is given."""
    out: Path | None = None
    """Folder to write to: <out>/<task> for bundled tasks (default: the package's own assets), and
    the bundle itself with --corpus."""
    seed: int = 0
    """Seed of corpora, weights and batches."""
    threads: int = 2
    """Cores to use."""
    corpus: Path | None = None
    """A csv, tsv, jsonl or parquet file of labelled texts, instead of a bundled task."""
    text_column: str = "text"
    """The texts' column; integers (from 0) for both columns read a file without header."""
    label_column: str = "label"
    """The labels' column, of two values."""
    positive_label: str | None = None
    """The preferred label; by default the one that sorts last (1, "positive")."""
    eval_corpus: Path | None = None
    """A file like the corpus to measure accuracy on; by default a tenth of the corpus."""


def main(options: Options) -> None:
    """Build what the options name."""
    import torch

    if options.threads < 1 or options.seed < 0:
        raise BuildError(
            f"--threads must be >= 1 and --seed >= 0, got {options.threads} and {options.seed}"
        )
    torch.set_num_threads(options.threads)
    if options.corpus is None:
        build_bundled(options)
    else:
        build_corpus(options)


def build_bundled(options: Options) -> None:
    """Build the bundled tasks from their grammars.

    Raises:
        BuildError: Where the package is installed without the builders of the bundled tasks.
    """
    from tokengym.lab.makers.building.bundle_files import check_target, write_bundle

    if find_spec("tokengym.lab.makers.bundles") is None:
        raise BuildError(
            f"--task {options.task} needs the grammars of the bundled tasks, which are part of the "
            "repository and not installed: run scripts/build_models.py from a checkout, or give "
            "--corpus, a file of your own labelled texts"
        )
    from tokengym.lab.makers.bundles.detox import build_detox
    from tokengym.lab.makers.bundles.dialogue import build_dialogue
    from tokengym.lab.makers.bundles.feedback import build_feedback
    from tokengym.lab.makers.bundles.forks import build_forks
    from tokengym.lab.makers.bundles.movie_review import build_movie_review
    from tokengym.lab.makers.bundles.oracle import build_oracle
    from tokengym.lab.makers.bundles.question_answer import build_question_answer
    from tokengym.lab.makers.bundles.reasoning_gym import build_calculator, build_reasoning_gym
    from tokengym.lab.makers.bundles.summarize import build_summarize

    builders: dict[str, Callable[..., BuiltBundle]] = {
        "movie_review": build_movie_review,
        "question_answer": build_question_answer,
        "dialogue": build_dialogue,
        "detox": build_detox,
        "summarize": build_summarize,
        "oracle": build_oracle,
        "forks": build_forks,
        "reasoning_gym": build_reasoning_gym,
        "calculator": build_calculator,
        "feedback": build_feedback,
    }
    tasks = list(builders) if options.task == "all" else [options.task]
    out = ASSETS if options.out is None else options.out
    for task in tasks:
        check_target(out / task)
    for task in tasks:
        bundle = builders[task](seed=options.seed)
        write_bundle(bundle, out / task)
        print_figures(bundle, out / task)


def build_corpus(options: Options) -> None:
    """Build a bundle from the corpus that the options name."""
    from tokengym.lab.makers.building.bundle_files import check_target, write_bundle
    from tokengym.lab.makers.building.real_text import build_from_corpus, read_corpus

    if options.out is None:
        raise BuildError("--corpus needs --out, the folder to write the bundle to")
    assert options.corpus is not None
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
