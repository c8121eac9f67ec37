"""README and docs: links lead somewhere, commands can be parsed, the README's examples run."""

import contextlib
import functools
import inspect
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import gymnasium as gym
import pytest

from tests.support.checkout.documents import commands_of
from tokengym import PPO, collect
from tokengym.scripts.cli import find_command
from tokengym.scripts.commands import options

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")})
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    kept = re.sub(r"[^\w\- ]", "", LINK.sub("", heading).strip().lower())
    return kept.replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return {anchor(heading) for heading in re.findall(r"^#+ (.*)$", text, re.M)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    for link in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        if not re.match(r"https?://|mailto:", link):
            path, _, part = unquote(link).partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), link
            assert not part or part in anchors(target), link


def parse(name: str, rest: list[str]) -> None:
    command = find_command(name)

    @functools.wraps(command)
    def stand_in(**values: Any) -> None:
        inspect.signature(command).bind(**values)

    if command in options._DECLARED:
        options._DECLARED[stand_in] = options._DECLARED[command]
    try:
        options.call(stand_in, f"tokengym {name}", rest)
    finally:
        options._DECLARED.pop(stand_in, None)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if commands_of(page)],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_commands_are_understood(
    page: Path, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    text = page.read_text(encoding="utf-8")
    for name, code in re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", text, re.DOTALL | re.M):
        (tmp_path / name).write_text(code, encoding="utf-8")
        monkeypatch.chdir(tmp_path)
    for name, *rest in commands_of(page):
        with contextlib.suppress(FileNotFoundError):  # one's own file, which a test has not
            try:
                parse(name, rest)
            except SystemExit as stop:
                pytest.fail(f"tokengym {name} {' '.join(rest)}: {stop}\n{capsys.readouterr().err}")


def test_the_readme_begins_with_two_commands_that_set_everything_up():
    install = README.partition("## Install")[2]
    first = re.findall(r"```bash\n(.*?)```", install, re.DOTALL)[0].splitlines()
    assert [shlex.split(line, comments=True) for line in first] == [
        ["make", "demo"],
        ["make", "test"],
    ]
    for name in ("demo", "test"):
        says = ["make", "--dry-run", "--always-make", "--no-print-directory", "-C", str(ROOT), name]
        done = subprocess.run(says, check=True, capture_output=True, text=True).stdout
        assert "-m venv .venv" in done
        assert ("[dev]" in done) == (name == "test")
        assert (".venv/bin/tokengym demo" in done) == (name == "demo")


def test_the_readme_s_examples_run_and_print_what_it_says(
    capsys: Any, tmp_path: Path, monkeypatch: Any
):
    monkeypatch.chdir(tmp_path)
    first, second, third = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (printed,) = re.findall(r"```text\n(.*?)```", README, re.DOTALL)
    found: dict[str, Any] = {}
    exec(compile(first, "README.md", "exec"), found)
    assert capsys.readouterr().out == printed
    short = second.replace("num_envs=64", "num_envs=4").replace("64 * 48 * 5", "64 * 48")
    assert (short.count("(64 * 48)"), short.count("=64 * 48)"), short.count("num_envs=4")) == (
        1,
        1,
        1,
    )
    exec(compile(short.replace("64 * 48", "4 * 48"), "README.md", "exec"), found)
    assert (tmp_path / "runs" / "mine").is_dir()
    assert found["stock"].num_timesteps >= 4 * 48
    quick = "seeds=1, updates=1, batch_size=4, eval_episodes=4, reference_samples=0, jobs=1"
    assert "seeds=5, updates=30" in third
    exec(compile(third.replace("seeds=5, updates=30", quick), "README.md", "exec"), found)
    assert [*found["result"].summary.index] == ["sparse", "abc-signed"]


def test_the_bundled_model_writes_what_the_readme_says():
    """After the prompt of the first episode, from the same seed."""
    envs = gym.make_vec("tokengym/MovieReview-v0", num_envs=1, reward="abc", max_new_tokens=8)
    agent = PPO("CausalLMPolicy", envs, advantage="reinforce", n_minibatches=1, seed=0)
    (episode,) = collect(agent, envs, 1, seed=0)
    assert f'writes "{episode.response}" after the same prompt' in README
    assert f"{episode.prompt} | " in README
