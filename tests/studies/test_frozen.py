"""Pages from before the protocol stay as they are: their tables, and the data beside them."""

import hashlib
from pathlib import Path

import pytest

from tokengym.agents.ppo.settings import PPOSettings

DOCS = Path(__file__).parents[2] / "docs"
FROZEN: dict[tuple[str, tuple[str, ...]], str] = {
    ("results/archive/abc_published.md", ("results/archive/abc_published",)): "fa220fb5fa625371",
    ("results/archive/best_response.md", ()): "91a768be5f4443b9",
    ("results/archive/credit_grid.md", ("results/archive/grid",)): "2612a000be2517f1",
    ("results/archive/credit_truth.md", ("results/archive/credit_truth",)): "9d245f6c7834d68e",
    (
        "results/archive/default_setting.md",
        ("results/archive/default_setting",),
    ): "2dc6092bb788df16",
    ("results/archive/kl.md", ("results/archive/kl",)): "195fa8850e6682f4",
    ("results/archive/learner.md", ("results/archive/learner",)): "e34d9092e3d9a9c3",
    ("results/archive/learners.md", ("results/archive/learners",)): "cb39b5d076928129",
    ("results/archive/mc.md", ("results/archive/mc",)): "9a11172e5878aea1",
    ("results/archive/optimum.md", ("results/archive/optimum",)): "6fa07dec232bbe3d",
    ("results/overoptimisation.md", ("results/overoptimisation",)): "31204170849811f3",
    ("results/preferences.md", ("results/preferences",)): "1899f4c2a2cf8c50",
    ("results/archive/r3.md", ("results/archive/r3",)): "175368055b3a3c0f",
    ("results/archive/toxicity.md", ("results/archive/toxicity",)): "5d2dc848f6001b39",
}
"""Page, folders of its data -> hash of the tables and the data."""


def digest(page: str, folders: tuple[str, ...]) -> str:
    """Return the hash of a page's tables and of the files in its folders; prose may be edited."""
    text = (DOCS / page).read_text(encoding="utf-8")
    tables = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    found = hashlib.sha256(tables.encode())
    for folder in folders:
        for file in sorted((DOCS / folder).rglob("*")):
            if file.suffix in (".csv", ".json"):
                name = file.relative_to(DOCS).as_posix().replace("archive/", "")  # as published
                found.update(f"\n{name}\n".encode() + file.read_bytes())
    return found.hexdigest()[:16]


@pytest.mark.parametrize("where", FROZEN, ids=lambda where: where[0])
def test_tables_and_data_are_those_that_were_published(where: tuple[str, tuple[str, ...]]) -> None:
    assert digest(*where) == FROZEN[where]


def test_the_default_learner_is_what_its_page_chose() -> None:
    text = (DOCS / "results" / "archive" / "learner.md").read_text(encoding="utf-8")
    assert "| `n_epochs`, `n_minibatches` | 4, 2 | 2, 4 |" in text
    assert "| `vf_coef`, `clip_range_vf` | 0.1, 0.2 | 1, none |" in text
    default = PPOSettings()
    assert (default.n_epochs, default.n_minibatches) == (2, 4)
    assert (default.vf_coef, default.clip_range_vf) == (1.0, None)
    assert (default.learning_rate_schedule, default.value_network) == ("linear", "own")
