"""The documentation site: every page is in its navigation, every public name in its reference."""

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import pytest
import yaml
from mkdocs.commands.build import build
from mkdocs.config import load_config
from stable_baselines3.common.logger import KVWriter

from docs.makers import build_docs, public_names
from tests.checkout.pages import DOCS, blocks, run, shorter
from tokengym import agents, envs, rewards
from tokengym.agents import PPO, losses
from tokengym.evaluation import statistics
from tokengym.scripts.cli import main

ROOT = Path(__file__).parents[2]
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8").replace("!ENV ", ""))
GENERATED = {  # from files of the root and from the code
    *("gallery.md", "index.md", "contributing.md", "changelog.md", "security.md", "conduct.md"),
    *build_docs.SITE,
}
DIRECTIVE = re.compile(r"^::: (tokengym\.\S+)$", re.MULTILINE)


def pages_in(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for item in nav.values() if isinstance(nav, dict) else nav:
            yield from pages_in(item)


def test_every_page_is_in_the_navigation_once():
    named = list(pages_in(CONFIG["nav"]))
    stored = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    stored |= {f"notebooks/{path.stem}.md" for path in DOCS.glob("notebooks/*.ipynb")}
    assert sorted(named) == sorted(stored | GENERATED)


def test_every_public_name_is_in_the_reference():
    named = [
        name
        for page in (DOCS / "reference" / "api").glob("*.md")
        for name in DIRECTIVE.findall(page.read_text(encoding="utf-8"))
    ]
    assert len(named) == len(set(named))
    listed = public_names.page()
    for module in (envs, rewards, agents, losses):
        _, _, rows = listed.partition(f"## `{module.__name__}`\n")
        for name in module.__all__:
            assert f"`{name}`" in rows.partition("\n## ")[0], name
            value = getattr(module, name)  # constants and aliases have no docstring to show
            if inspect.isclass(value) or inspect.isfunction(value):
                assert f"{module.__name__}.{name}" in named, name
    functions = {name for name in statistics.__all__ if name.lower() == name}
    assert {f"{statistics.__name__}.{name}" for name in functions} <= set(named)
    for name in named:
        module_name, _, attribute = name.rpartition(".")
        assert getattr(importlib.import_module(module_name), attribute).__doc__, name


def test_the_page_on_watching_a_run_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = run("".join(blocks("guide/watching.md")))
    kept = KVWriter()
    monkeypatch.setitem(found, "make_tracker", lambda *_, **__: kept)
    envs = gym.make_vec("tokengym/MovieReview-v0", num_envs=2, max_new_tokens=2)
    agent = found["watched"](PPO("CausalLMPolicy", envs, n_minibatches=1, seed=0), tmp_path)
    assert agent.logger.output_formats == [kept]
    agent.save(tmp_path / "shared" / "agent")
    assert type(found["fetched"](tmp_path / "shared")) is PPO


def test_the_page_from_python_runs(capsys: Any, tmp_path: Path, monkeypatch: Any):
    monkeypatch.chdir(tmp_path)
    few = "batch_size=4, max_new_tokens=6, n_epochs=1, eval_episodes=4, reference_samples=16"
    shorten = (
        ('"uniform", "abc-signed"]', '"abc-signed"]'),
        ("seeds=3,", f"seeds=2, {few},"),
        ("updates=30", "updates=2"),
        ("seeds=2,\n    updates=10", f"seeds=1, {few},\n    updates=1"),
        ("    max_new_tokens=16,\n", ""),
    )
    found = run(shorter("".join(blocks("guide/from_python.md")), *shorten))
    assert "| sparse |" in capsys.readouterr().out
    assert found["result"].summary.index.tolist() == ["sparse", "abc-signed"]
    assert found["own"]["failed"] == []
    assert found["both"].summary.index.tolist() == ["sparse", "abc-signed", "stock"]
    assert (tmp_path / "score.png").exists()


def test_the_data_set_of_the_guide_is_read(capsys: Any, tmp_path: Path, monkeypatch: Any):
    monkeypatch.chdir(tmp_path)
    found = run("".join(blocks("guide/dataset.md")))
    prompt, score = capsys.readouterr().out.splitlines()
    assert prompt == "the music of the film"
    assert 0 <= float(score) <= 1
    played = found["evaluate"](found["agent"], "MovieReview", found["task"], num_episodes=4)
    trained = {prompt.text for prompt in found["envs"].unwrapped.prompts}
    assert trained.isdisjoint(episode.prompt for episode in played.episodes)


def estimators(code: str) -> dict[str, Any]:
    """Return what a block of code defines."""
    found: dict[str, Any] = {}
    exec(compile(code, "guide/audit.md", "exec"), found)
    return found


def test_the_guide_audits_its_estimator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    estimator, call, parametrised = blocks("guide/audit.md")
    (tmp_path / "estimators.py").write_text(estimator, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    run(call)
    from tokengym.lab.audit import tokengym_audit

    of_trainer = SimpleNamespace(reward_to_go=estimators(call)["reward_to_go"])
    for name, module in (
        ("tokengym_audit", tokengym_audit),  # as it is where it is installed or copied
        ("mytrainer", SimpleNamespace(advantages=of_trainer)),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    estimators(parametrised.replace('pays="outcome"', ""))["test_estimator"]("reward_to_go")
    page = (DOCS / "guide" / "audit.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"```bash\ntokengym (.*)\n```", page)
    (printed,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    assert main(command.split()) == 1
    assert capsys.readouterr().out.split()[: len(printed.split())] == printed.split()


def test_the_guide_has_the_limits_and_verdicts_of_the_audit():
    from tokengym.lab.audit import tokengym_audit

    page = (DOCS / "guide" / "audit.md").read_text(encoding="utf-8")
    assert f"`TOLERANCE`, {tokengym_audit.TOLERANCE:g}" in page
    assert f"In {tokengym_audit.BATCHES} batches" in page
    told = page.partition("| verdict | meaning |\n|---|---|\n")[2].partition("\n\n")[0]
    verdicts = [line.split(" | ")[0].strip("| ") for line in told.splitlines()]
    assert verdicts == list(tokengym_audit.KINDS)


def test_the_site_builds(tmp_path: Path, monkeypatch: Any):
    """Without a warning, and llms.txt lists every page."""
    monkeypatch.chdir(ROOT)
    address = {"site_url": "https://a.example/", "repo_url": "https://github.com/a/b"}
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True, **address)
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    listed = re.findall(r"^- \[.+?\]\((.+?)\)", (tmp_path / "llms.txt").read_text(), re.MULTILINE)
    assert len(listed) == len(list(pages_in(CONFIG["nav"])))
    assert all((tmp_path / link / "index.html").is_file() for link in listed)
    assert (tmp_path / "gallery" / "MovieReview.html").is_file()  # no page, but linked
    course = (tmp_path / "guide" / "course" / "index.html").read_text(encoding="utf-8")
    assert '<meta property="og:image" content="https://a.example/images/social.png">' in course
    assert "<code>step</code>" in course.split("<summary>Answer</summary>")[1].split("<h3")[0]
    cited = yaml.safe_load((tmp_path / "CITATION.cff").read_text(encoding="utf-8"))
    assert (cited["url"], cited["repository-code"]) == tuple(address.values())
    found = (tmp_path / "search" / "search_index.json").read_text(encoding="utf-8")
    assert ("results/turns/" in found, "results/turns/files/" in found) == (True, False)
    text = (tmp_path / "reference" / "api" / "losses" / "index.html").read_text(encoding="utf-8")
    assert re.search(r"<code>delta_t = r_t \+ gamma \* V_\{t\+1\} - V_t\n", text)
