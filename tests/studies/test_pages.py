"""Pages of results say what their published curves give, under the code of today."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from studies import (
    credit_v2,
    critic_elsewhere,
    entities,
    feedback,
    film_reviews,
    gradients,
    other_tasks,
    query_types,
    real_critic,
    real_judge,
    real_model,
    real_r3,
    real_reasoning,
    real_tax,
    relevance,
    shipped_estimators,
    token_credit,
    turns,
)


def fill_real_model(docs: Path) -> None:
    """Fill the page that six studies share."""
    real_model.STUDY.page(docs)
    real_r3.page(docs)
    real_tax.page(docs)
    real_judge.page(docs)
    real_critic.page(docs)
    real_reasoning.STUDY.page(docs)


def fill_rewards(docs: Path) -> None:
    """Fill the page that three studies share."""
    entities.STUDY.page(docs)
    relevance.page(docs)
    query_types.page(docs)


def fill_tasks(docs: Path) -> None:
    """Fill the page that three studies share."""
    other_tasks.STUDY.page(docs)
    critic_elsewhere.STUDY.page(docs)
    credit_v2.page(docs)


DOCS = Path(__file__).parents[2] / "docs" / "results"
PAGES: dict[str, tuple[tuple[str, ...], Callable[[Path], None]]] = {
    "details/feedback.md": (("feedback",), feedback.page),
    "film_reviews.md": (("film_reviews",), token_credit.STUDY.page),
    "imdb.md": (("imdb",), film_reviews.STUDIES["imdb"].page),
    "gradients.md": (("gradients",), gradients.publish),
    "rewards.md": (("rewards",), fill_rewards),
    shipped_estimators.PAGE: ((shipped_estimators.DATA,), shipped_estimators.page),
    "details/sst2.md": (("sst2",), film_reviews.STUDIES["sst2"].page),
    "tasks.md": (("tasks", "elsewhere", "v2-lite", "sst2", "imdb"), fill_tasks),
    "real_model.md": (("real_model",), fill_real_model),
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
