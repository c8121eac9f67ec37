"""The pages that a report leads to, once the repository has an address."""

import re
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import pytest

import tokengym
from tests.support.comparisons import comparison
from tests.support.evaluation.common import fabricate_curves
from tokengym.evaluation.report.compared import RunWords, compared
from tokengym.evaluation.report.report import render_report
from tokengym.evaluation.report.summary import summarize

DOCS = Path(__file__).parents[3] / "docs"
TASKS = [name for name, spec in gym.registry.items() if spec.namespace == tokengym.__name__]
AGENTS = ("ppo", "loo:group_size=8", "dpo", "online-dpo", "sft", "sb3:A2C")


@pytest.mark.parametrize("env", TASKS)
def test_the_pages_that_a_report_links_to_exist(env: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tokengym.evaluation.report.intro.REPOSITORY", "https://example.org/t")
    rewards = ("sparse", "abc") if env.startswith("tokengym/MovieReview") else ("sparse",)
    config = comparison(env=env, rewards=rewards, agents=AGENTS)
    curves = fabricate_curves(("sparse", "abc"), seeds=2)
    words = [RunWords(run.env, run.reward, run.agent) for run in config.runs]
    page = render_report(replace(summarize(curves), about={"compared": compared(words)}), curves)
    links = re.findall(r'href="https://example.org/t/([^"#]+)', page)
    pages = [link.removeprefix("blob/main/docs/") for link in links]
    assert {"guide/glossary.md", "agents/dpo.md", "rewards/credits.md"} <= {*pages}
    assert all((DOCS / page).is_file() for page in pages)
