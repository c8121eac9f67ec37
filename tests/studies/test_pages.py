"""Pages of results say what their published curves give, under the code of today."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from studies import (
    cards,
    credit_v2,
    critic,
    critic_elsewhere,
    end,
    forks,
    forks_critic,
    forks_imitated,
    forks_noise,
    forks_remedies,
    frontier,
    gradients,
    leap,
    ledger,
    other_tasks,
    overoptimisation,
    preferences,
    rates,
    real_text,
    remedies,
    reward_models,
    rewards,
    shipped_estimators,
    turns,
)
from tokengym.lab.tables import fill


def fill_forks(docs: Path) -> None:
    """Fill the page that four studies share."""
    forks.page(docs)
    forks_noise.page(docs)
    forks_imitated.page(docs / "no runs beside the published", docs)
    forks_critic.STUDY.page(docs)


def fill_frontier(docs: Path) -> None:
    """Fill the page's tables, without its picture."""
    fill(docs / "details/frontier.md", frontier.tables(frontier.STUDY.published(docs)))


def fill_remedies(docs: Path) -> None:
    """Fill the page that two studies share."""
    remedies.STUDY.page(docs)
    forks_remedies.STUDY.page(docs)


def fill_gradients(docs: Path) -> None:
    """Fill the page that two studies share."""
    gradients.publish(docs)
    shipped_estimators.page(docs)


DOCS = Path(__file__).parents[2] / "docs" / "results"
PAGES: dict[str, tuple[tuple[str, ...], Callable[[Path], None]]] = {
    "critic.md": (("critic", "ledger"), critic.STUDY.page),
    "details/cards.md": (("cards", "v1", "ledger", "forks"), lambda docs: cards.main(docs=docs)),
    "details/critic_elsewhere.md": (
        ("elsewhere", "tasks", "sst2", "imdb"),
        critic_elsewhere.STUDY.page,
    ),
    credit_v2.DOCUMENT: ((credit_v2.FOLDER,), credit_v2.page),
    "end.md": (("end", "ledger"), end.STUDY.page),
    "details/forks.md": (("forks",), fill_forks),
    "details/frontier.md": (
        ("frontier", "leap", "critic", "ledger", "end", "tasks"),
        fill_frontier,
    ),
    "gradients.md": (("gradients",), fill_gradients),
    "details/leap.md": (("leap", "critic", "ledger"), leap.STUDY.page),
    "ledger.md": (("ledger", "critic"), ledger.STUDY.page),
    "archive/mc.md": (("ledger", "critic", "ledger.md"), ledger.STUDY.page),
    "details/rates.md": (("rates", "ledger", "critic", "tasks"), rates.STUDY.page),
    "details/remedies.md": (("remedies", "critic", "leap", "ledger", "forks"), fill_remedies),
    "details/reward_models.md": (
        ("judges", "elsewhere", "tasks", "critic", "ledger", "sst2", "imdb"),
        reward_models.STUDY.page,
    ),
    "overoptimisation.md": (("overoptimisation",), overoptimisation.page),
    "preferences.md": (("preferences",), preferences.page),
    "rewards.md": (("rewards", "tasks"), rewards.page),
    "tasks.md": (("tasks",), other_tasks.STUDY.page),
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
