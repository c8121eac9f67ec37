"""Pages of results say what their published curves give, under the code of today."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from studies import (
    credit_v2,
    critic_elsewhere,
    equal_kl,
    gradients,
    larger_beta,
    one_grid,
    other_tasks,
    overoptimisation,
    ppo_against_dpo,
    real_text,
    reward_models,
    rewards,
    shipped_estimators,
    token_credit,
    turns,
)


def fill_gradients(docs: Path) -> None:
    """Fill the page that two studies share."""
    gradients.publish(docs)
    shipped_estimators.page(docs)


def fill_tasks(docs: Path) -> None:
    """Fill the page that three studies share."""
    other_tasks.STUDY.page(docs)
    critic_elsewhere.STUDY.page(docs)
    credit_v2.page(docs)


def fill_film_reviews(docs: Path) -> None:
    """Fill the page that three studies share."""
    token_credit.STUDY.page(docs)
    one_grid.STUDY.page(docs)
    reward_models.STUDY.page(docs)


DOCS = Path(__file__).parents[2] / "docs" / "results"
PAGES: dict[str, tuple[tuple[str, ...], Callable[[Path], None]]] = {
    "equal_kl.md": (("equal_kl",), equal_kl.STUDY.page),
    "film_reviews.md": (("film_reviews",), fill_film_reviews),
    "gradients.md": (("gradients",), fill_gradients),
    "larger_beta.md": (("larger_beta", "film_reviews"), larger_beta.STUDY.page),
    "overoptimisation.md": (("overoptimisation",), overoptimisation.STUDY.page),
    "preferences.md": (("preferences",), ppo_against_dpo.STUDY.page),
    "rewards.md": (("rewards",), rewards.STUDY.page),
    "tasks.md": (("tasks", "elsewhere", "v2-lite", "sst2", "imdb"), fill_tasks),
    "real_text.md": (
        ("real_text", "imdb", "sst2", "elsewhere", "tasks"),
        real_text.STUDY.page,
    ),
    "turns.md": (("turns",), turns.STUDY.page),
}
"""Page -> the folders and files it is made from, and the function that fills it."""


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_current(name: str, tmp_path: Path) -> None:
    sources, fill_page = PAGES[name]
    docs = tmp_path / "docs" / "results"
    (tmp_path / "docs" / "images").mkdir(parents=True)
    for source in (name, *sources):
        (docs / source).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (DOCS / source).is_dir() else shutil.copy
        copy(DOCS / source, docs / source)
    before = (docs / name).read_text(encoding="utf-8")
    fill_page(docs)
    assert (docs / name).read_text(encoding="utf-8") == before


OLDER_LEARNER = "0138b9c6"
"""Commit of the last runs that were made by a learner which today's code does not have."""


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_an_older_learner_says_so_first(name: str) -> None:
    _, first, *_ = (DOCS / name).read_text(encoding="utf-8").split("\n\n")
    rest = (DOCS / name).read_text(encoding="utf-8").replace(first, "")
    begins = first.startswith(f"**Of an older learner, commit {OLDER_LEARNER}:")
    assert begins == (OLDER_LEARNER in rest)
