"""Build the bundled models, or a bundle from your own labelled texts.

Writes one folder per task: tokenizer, prompts, language model, reward model or encoder, and the
figures that say what they are worth.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to build."""

    task: Literal["movie_review", "question_answer", "all"] = "all"
    """Which bundled task, when no corpus is given."""
    out: Path = Path(__file__).resolve().parent.parent / "envs" / "assets"
    """Folder to write to: <out>/<task> for the bundled tasks."""
    seed: int = 0
    """Of corpora, weights and batches."""
    threads: Annotated[int, tyro.conf.arg(metavar="N")] = 2
    """Cores to use."""


def main(options: Options) -> None:
    """Build what the options name."""
    import torch

    from tokengym.scripts.building.bundle_files import check_target, write_bundle
    from tokengym.scripts.building.movie_review import build_movie_review
    from tokengym.scripts.building.question_answer import build_question_answer
    from tokengym.scripts.building.report import print_figures

    torch.set_num_threads(options.threads)
    builders = {"movie_review": build_movie_review, "question_answer": build_question_answer}
    tasks = list(builders) if options.task == "all" else [options.task]
    for task in tasks:
        check_target(options.out / task)
    for task in tasks:
        bundle = builders[task](seed=options.seed)
        write_bundle(bundle, options.out / task)
        print_figures(bundle, options.out / task)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main(tyro.cli(Options))
