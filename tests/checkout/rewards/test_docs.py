# mypy: no-check-untyped-defs
"""The pages on credit speak of every rule, and say of each what its function declares."""

import inspect
import re
from pathlib import Path

import pytest

from tokengym.base.own_code import load_from_file
from tokengym.envs import Episode
from tokengym.rewards import registered_rewards
from tokengym.rewards.credits.words import REWARDS, RuleMaker

DOCS = Path(__file__).parents[3] / "docs" / "rewards"
NAMES = [
    *("sparse", "uniform", "abc", "abc-signed", "abc-d", "abc-d2", "red", "scar"),
    *("gradient", "integrated-gradients", "deeplift", "leave-one-out"),
    *("r3", "r3-dense", "random", "recency", "mc", "pure", "rto", "answer-gain", "prm"),
    *("turn-broadcast", "turn-gain", "turn-progress", "turn-return", "turn-score"),
]


def rows():
    """Return how the row of each rule begins: beta where it is not 1, and whether it is causal."""
    text = "".join((DOCS / page).read_text("utf-8") for page in ("credits.md", "lab_rules.md"))
    found = re.findall(r"^\| `([\w-]+)`((?:, [\w .]+)?) \|", text, re.M)
    assert len(found) == len({name for name, _ in found})
    return dict(found)


def test_every_rule_has_its_row():
    assert set(NAMES) == set(rows())
    assert set(NAMES) <= set(registered_rewards())


@pytest.mark.parametrize("name", NAMES)
def test_the_row_says_what_the_function_declares(name):
    maker = REWARDS.find(name).factory
    assert isinstance(maker, RuleMaker)
    beta = inspect.signature(maker).parameters["beta"].default
    said = ", causal" if maker.function.token_credit.causal else ""
    assert rows()[name] == (said if beta == 1 else f", beta {beta:g}{said}")


@pytest.fixture
def verifiers(tmp_path):
    code = re.search(
        r"```python\n(# verifiers.py.*?)```", (DOCS / "verifiers.md").read_text(), re.S
    )
    (tmp_path / "verifiers.py").write_text(code[1])
    return tmp_path / "verifiers.py"


def verified(scorer, response, **metadata):
    episode = Episode(
        prompt="?", response=response, prompt_ids=[1], response_ids=[2], metadata=metadata
    )
    return float(scorer.score([episode]).values[0])


def test_the_page_on_verifiers_counts_numbers_as_gsm8k(verifiers):
    scorer = load_from_file(verifiers, "LastNumber")()
    answer = "60 + 1140 = <<60+1140=1200>>1200\n#### 1,200"
    assert verified(scorer, "so it is 1200.", answer=answer) == 1.0
    assert verified(scorer, "The answer is 1,200.00", answer=answer) == 1.0
    assert verified(scorer, "1200 or 1201", answer=answer) == 0.0
    assert verified(scorer, "no idea", answer=answer) == 0.0
    assert verified(scorer, "no idea", answer="none") == 0.0


def test_the_page_on_verifiers_runs_code_elsewhere_and_not_for_ever(verifiers):
    scorer = load_from_file(verifiers, "UnitTests")(seconds=20.0)
    tests = "assert double(4) == 8"
    assert verified(scorer, "def double(x):\n    return 2 * x", tests=tests) == 1.0
    assert verified(scorer, "def double(x):\n    return x", tests=tests) == 0.0
    assert verified(scorer, "raise SystemExit(0)", tests=tests) == 0.0
    assert verified(scorer, "import os\nos._exit(9)", tests=tests) == 0.0
    hanging = load_from_file(verifiers, "UnitTests")(seconds=0.2)
    assert verified(hanging, "while True:\n    pass", tests=tests) == 0.0
