"""The reference pages: current, complete, and their examples run."""

import re
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from tokengym.envs import TokenGenerationEnv
from tokengym.envs.tasks.descriptions import DESCRIPTIONS
from tokengym.envs.tasks.task import TaskOptions
from tokengym.registration import IDS
from tokengym.scripts.build_docs import main, page, pages
from tokengym.scripts.docstrings import arguments, class_sections, field_texts, sections

FOLDER = Path(__file__).parents[2] / "docs" / "environments"


def test_pages_are_current():
    expected = pages()
    assert {path.name for path in FOLDER.glob("*.md")} == set(expected)
    for name, text in expected.items():
        current = (FOLDER / name).read_text(encoding="utf-8")
        assert current == text, f"{name} is stale; run python -m tokengym.scripts.build_docs"


@pytest.mark.parametrize("env_id", IDS)
def test_a_page_has_all_that_gymnasiums_have(env_id):
    text = page(env_id)
    headings = re.findall(r"^## (.*)", text, flags=re.MULTILINE)
    assert headings == [
        *("Description", "Observation Space", "Action Space", "Rewards", "Starting State"),
        *("Episode End", "Information", "Arguments", "Methods", "Registered Ids", "Example"),
    ]
    env = gymnasium.make(env_id, reward=None)
    assert f"| Action space | `{env.action_space}` |" in text
    assert f"| Observation space | `{env.observation_space}` |" in text
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text, flags=re.MULTILINE))
    for name in ("reward", "scorer", "max_new_tokens", "horizon", "num_envs", "autoreset_mode"):
        assert name in rows
    for key in env.reset()[1]:
        assert f"| `{key}` |" in text
    assert all(cell.strip() for row in rows.values() for cell in re.split(r"(?<!\\)\|", row))


@pytest.mark.parametrize("env_id", IDS)
def test_the_example_runs(env_id, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", page(env_id), flags=re.DOTALL)
    exec(example, {})
    assert capsys.readouterr().out


def test_every_argument_of_make_is_on_the_page():
    text = page("tokengym/MovieReview-v0")
    names = re.findall(r"^\| `(\w+)` \| `[^`]*` \| `", text, flags=re.MULTILINE)
    assert len(names) == len(set(names))
    accepted: dict[str, Any] = dict.fromkeys(set(names) - {"num_envs", "autoreset_mode", "copy"})
    defaults: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 0, "reward": None}
    defaults |= {"split": "train", "chat_template": False, "forbidden_token_ids": ()}
    defaults |= {"stop_strings": (), "horizon": "terminated", "overlong": "error"}
    defaults |= {"prompt_sampling": "epoch"}
    gymnasium.make("tokengym/MovieReview-v0", **accepted | defaults)


def test_a_task_without_description(monkeypatch):
    monkeypatch.delitem(DESCRIPTIONS, "movie_review")
    with pytest.raises(ValueError, match="'movie_review' has no description; add one to tokengym"):
        page("tokengym/MovieReview-v0")


def test_writing_and_checking(tmp_path, capsys):
    folder = tmp_path / "pages"
    with pytest.raises(SystemExit, match=r"not current: README.md, MovieReview.md, .*; leave out"):
        main(["--out", str(folder), "--check"])
    assert not folder.exists()
    main(["--out", str(folder)])
    assert f"{len(IDS) + 1} of {len(IDS) + 1} pages written" in capsys.readouterr().out
    (folder / "Oracle.md").write_text("stale")
    with pytest.raises(SystemExit, match=r"not current: Oracle.md; leave out"):
        main(["--out", str(folder), "--check"])
    main(["--out", str(folder)])
    assert f"1 of {len(IDS) + 1} pages written" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main(["--out", str(folder), "--check"])


class Documented:
    """First line.

    More.

    ## One
    Text of one.

    ## Two
    | a | b |

    Args:
        first: Of two
            lines.
        second: One ``line``.

    Raises:
        ValueError: never.
    """


class Heir(Documented):
    """Another line.

    ## Two
    Its own.
    """


def test_reading_docstrings(monkeypatch):
    assert sections(Documented) == {
        "": "First line.\n\nMore.",
        "One": "Text of one.",
        "Two": "| a | b |",
    }
    assert arguments(Documented) == {"first": "Of two lines.", "second": "One ``line``."}
    assert arguments(Heir) == {}
    for cls in (Documented, Heir):
        monkeypatch.setattr(cls, "__module__", "tokengym.example")
    assert class_sections(Heir) == {"": "Another line.", "One": "Text of one.", "Two": "Its own."}
    assert set(class_sections(TokenGenerationEnv)) >= {"Description", "Episode End", "Information"}
    texts = field_texts(TaskOptions)
    assert texts["reference_column"] == "Reference answers."
    assert set(texts) == set(TaskOptions.__dataclass_fields__)
