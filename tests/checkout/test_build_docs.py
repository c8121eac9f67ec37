"""The reference pages: current, complete, and their examples run."""

import html
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from docs.makers import build_docs
from docs.makers.build_docs import (
    PAGES,
    addressed,
    command_line,
    command_page,
    main,
    make_page,
    page,
)
from docs.makers.build_episodes import RULES as EPISODES
from docs.makers.build_episodes import STAGES, as_text, file_of, read
from docs.makers.build_hero import picture, rows
from tokengym.envs.tasks import Task, registered_tasks
from tokengym.scripts.cli import command_names, find_command
from tokengym.scripts.commands.options import call

FOLDER = Path(__file__).parents[2] / "docs"
TASKS = [task for task in registered_tasks() if task.id.startswith("tokengym/")]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("README.md", "  year    = {2026},\n  url     = {https://a.example/b},\n  version = {"),
        ("CITATION.cff", '\nrepository-code: "https://a.example/b"\nlicense: '),
        ("pyproject.toml", '\n[project.urls]\nRepository = "https://a.example/b"\n\n['),
        (".github/listings.md", "rewards](https://a.example/b)"),
    ],
)
def test_the_address_of_the_repository_is_written_from_one_line(name: str, line: str):
    version = (FOLDER.parent / "tokengym/version.py").read_text(encoding="utf-8")
    assert version.splitlines()[3].startswith('REPOSITORY = "')  # as CONTRIBUTING.md says
    now = (FOLDER.parent / name).read_text(encoding="utf-8")
    assert addressed(name) == now, "stale; run python -m docs.makers.build_docs"
    there = addressed(name, "https://a.example/b")
    assert there.count("https://a.example/b") == (2 if "listings" in name else 1)
    assert line in there


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_current(name: str):
    current = (FOLDER / name).read_text(encoding="utf-8")
    assert current == PAGES[name](), "stale; run python -m docs.makers.build_docs"


def test_the_page_of_a_command_has_every_option(capsys):
    """Those of --help-all, under the defaults of MovieReview and PPO."""
    listed = re.findall(r"^\| \[`tokengym (\S+)`\]", command_line(), flags=re.MULTILINE)
    assert listed == command_names()
    for name in listed:
        text = command_page(name)
        with pytest.raises(SystemExit):
            call(find_command(name), f"tokengym {name}", ["--help-all"])
        shown = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
        text, _, elsewhere = text.partition("\nAs in [`tokengym compare`]")
        rows = re.findall(r"^\| `(--[\w-]+|[A-Z])", text, flags=re.MULTILINE)
        rows += re.findall(r"`(--[\w-]+)", elsewhere)
        assert len(rows) == len(set(rows))
        flags = {row for row in rows if row.startswith("--")}
        assert flags == set(re.findall(r"^\W? (?:-h, )?(--[a-z][\w-]*)", shown, re.M)) - {"--help"}
        assert "tokengym " + name in text.split("```bash\n")[1]
    compared = command_page("compare")
    seeds = next(line for line in compared.splitlines() if line.startswith("| `--seeds"))
    assert seeds == "| `--seeds INT` | `5` | Runs per reward. |"
    assert "One of `best-of-n`, `dpo`, " in compared


def test_the_picture_of_the_readme_shows_what_the_rules_pay():
    tokens, columns, score = rows()
    for name in ("sparse", "abc", "abc-signed"):
        assert abs(columns[name].sum() - score) < 1e-3
    # The caption: what sparse pays is worth nothing, abc pays for "awful", abc-signed charges.
    awful = [token.strip() for token in tokens].index("awful")
    assert columns["truth"][-1] == 0
    assert columns["abc"][awful] > 0.1 * columns["abc"].max()
    assert columns["abc-signed"][awful] < -0.5 * columns["abc-signed"].max()
    stored = (FOLDER / "images" / "hero.svg").read_text(encoding="utf-8")
    words = re.compile(r"<text[^>]*>(.*?)</text>")
    assert words.findall(stored) == words.findall(picture())


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_the_example_runs(task: Task, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", page(), flags=re.DOTALL)
    assert "tokengym/MovieReview-v0" in example
    exec(example.replace("tokengym/MovieReview-v0", task.id), {})
    assert capsys.readouterr().out


@pytest.mark.parametrize("task", EPISODES)
def test_the_responses_of_an_episode_are_what_their_rows_say(task: str):
    picture = file_of(task).read_text(encoding="utf-8")
    ElementTree.fromstring(picture)
    assert len(picture.encode()) < 200_000
    rows, shown = read()[task], as_text(task)
    ElementTree.fromstring(shown.replace("<br>", "<br/>"))
    words = html.unescape(re.sub(r"<[^>]*>", "", shown))
    for stage in STAGES:
        response = rows[stage]
        assert len(response["tokens"]) == len(response["credit"])
        assert f"{stage}, score {response['score']:.2f}{''.join(response['tokens'])}" in words
    assert rows[STAGES[2]]["score"] >= rows[STAGES[0]]["score"]
    sums = [(sum(rows[stage]["credit"]), rows[stage]["score"]) for stage in STAGES]
    assert all(abs(total - score) < 0.06 for total, score in sums)


@pytest.mark.parametrize("task", EPISODES)
def test_a_page_says_what_the_trained_response_is_beside_the_best_of_16(task: str):
    text = (FOLDER / "environments" / f"{task.lower()}.md").read_text(encoding="utf-8")
    assert not re.search(r"^\|[ |]+\|$", text, re.MULTILINE)  # a header row of empty cells
    trained, best = (read()[task][stage]["score"] for stage in STAGES[1:])
    assert f"(score {trained:.2f} against {best:.2f})" in text
    assert ("does not reach the best of 16" in text) == (trained < best)


def test_every_argument_of_make_is_on_the_page():
    names = re.findall(
        r"^\| `(\w+)` \| `[^`]*` \| `", make_page().split("## Methods")[0], flags=re.MULTILINE
    )
    assert len(names) == len(set(names))
    accepted: dict[str, Any] = dict.fromkeys(set(names) - {"num_envs", "autoreset_mode", "copy"})
    defaults: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 0, "reward": None}
    defaults |= {"split": "train", "chat_template": False, "forbidden_token_ids": ()}
    defaults |= {"predict_query_types": False}
    defaults |= {"stop_strings": (), "horizon": "terminated", "overlong": "error"}
    defaults |= {"prompt_sampling": "epoch", "allowed_token_ids": ()}
    defaults |= {"max_turns": 1, "max_reply_tokens": 64, "on_partner_error": "raise"}
    gymnasium.make("tokengym/MovieReview-v0", **accepted | defaults)


def test_writing_and_checking(tmp_path, monkeypatch):
    name = "rewards/names.md"
    monkeypatch.setattr(build_docs, "PAGES", {name: PAGES[name]})
    monkeypatch.setattr(build_docs.build_keywords, "FILES", {})  # a test of their own
    for state in ("not current.*", "0"):
        with pytest.raises(SystemExit, match=state):
            main(["--out", str(tmp_path), "--check"])
        main(["--out", str(tmp_path)])
