"""The pages that a report leads to, once the repository has an address, and its sentences."""

import ast
import re
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
    page = render_report({**summarize(curves), "compared": compared(words)}, curves)
    links = re.findall(r'href="https://example.org/t/([^"#]+)', page)
    pages = [link.removeprefix("blob/main/docs/") for link in links]
    assert {"guide/glossary.md", "agents/dpo.md", "rewards/credits.md"} <= {*pages}
    assert all((DOCS / page).is_file() for page in pages)


def texts_of(file: Path) -> list[str]:
    """Return a module's texts of four words or more, but for docstrings and refusals."""
    tree, skipped = ast.parse(file.read_text()), set[int]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise):
            skipped |= {id(part) for part in ast.walk(node)}
        if isinstance(node, ast.Expr):
            skipped.add(id(node.value))
    constants = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in skipped]
    texts = [n.value for n in constants if isinstance(n.value, str)]
    return [text for text in texts if len(text.split()) > 3]


def test_the_sentences_of_reports_stand_in_one_file():
    """But for how to cite the package, and for the remedy that a refusal is given."""
    report = DOCS.parent / "evaluation" / "report"
    files = [file for file in report.glob("*.py") if file.name != "sentences.py"]
    others = {file.name: texts for file in files if (texts := texts_of(file))}
    (bibtex,) = others.pop("report.py")
    assert bibtex.startswith("@software")
    assert others == {"reading.py": ["pass the progress.csv of its run"]}
    assert len(texts_of(report / "sentences.py")) > 50
