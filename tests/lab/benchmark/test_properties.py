"""Properties of rules, estimators and weights: what they find, keep and refuse."""

import re
from pathlib import Path

import pytest

from tokengym.envs import bundled
from tokengym.lab.benchmark import properties as parts
from tokengym.lab.benchmark.properties import QUICK, measured_parts
from tokengym.lab.benchmark.subject import kind_of
from tokengym.lab.commands.bench import bench
from tokengym.scripts.cli import main

RULES = """
from tokengym import token_credit
from tokengym.rewards import on_last
@token_credit
def final(paid, response_mask):
    return on_last(paid, response_mask)
@token_credit
def half(paid, response_mask):
    return 0.5 * on_last(paid, response_mask)
"""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    (tmp_path / "rules.py").write_text(RULES)
    return tmp_path / "rules.py"


def test_a_rule_of_ones_own_that_is_sparse_has_its_figures(rules: Path):
    subject = f"{rules}:final"
    rows = parts.gradient(subject, QUICK)["rows"]
    assert [row["cosine"] for row in rows] == pytest.approx([1, 1])
    stays = parts.best_response(subject, QUICK)["Oracle"]["centred"]
    assert (stays["gain"], stays["stays"]) == (pytest.approx(-1.0, abs=0.05), True)
    assert parts.identification(subject, QUICK) == parts.identification("sparse", QUICK)


def test_a_rule_is_held_to_executed_forks():
    found = parts.executed("red", QUICK)["Forks"]
    assert {"share", "ceiling", "chance", "correlation", "low", "high"} <= set(found)
    assert found["low"] <= found["correlation"] <= found["high"]


def test_a_rule_that_loses_half_the_score_breaks_the_contract(rules: Path):
    found = parts.contract(f"{rules}:half", QUICK)
    assert not found["Oracle"]["passed"]
    assert "sum to" in found["Oracle"]["message"]
    assert parts.contract(f"{rules}:final", QUICK)["Oracle"] == {"passed": True}


def test_a_rule_that_reads_the_policy_s_entropy_is_measured(tmp_path: Path):
    file = tmp_path / "ideas.py"
    code = (
        "from tokengym import shares, token_credit\n\n\n"
        "@token_credit\n"
        "def unsure(paid, entropy, response_mask):\n"
        "    return paid[:, None] * shares(entropy, response_mask)\n"
    )
    file.write_text(code)
    subject = f"{file}:unsure"
    assert parts.contract(subject, QUICK) == {
        t: {"passed": True} for t in ("MovieReview", "Oracle")
    }
    rows = parts.gradient(subject, QUICK)["rows"]
    uniform = parts.gradient("uniform", QUICK)["rows"]
    assert rows[1]["eos"] is False  # with every word as likely as another it is `uniform` there
    assert rows[1]["cosine"] == pytest.approx(uniform[1]["cosine"], abs=1e-6)


def test_a_rule_that_continues_responses_is_measured_where_there_is_a_policy():
    rule = "mc:k=1,segments=2"
    assert parts.contract(rule, QUICK)["Oracle"] == {"passed": True}
    assert parts.cost(rule, QUICK)["MovieReview"]["passes"] > 2
    assert "no policy is bound" in parts.gradient(rule, QUICK)["refused"]


def test_scar_leaves_the_best_response_and_uniform_turns_the_gradient():
    left = parts.best_response("scar", QUICK)["Oracle"]["centred"]
    assert left["by"] == "film film good good good good"
    assert left["gain"] == pytest.approx(0.833, abs=2e-3)  # docs/results/archive/best_response.md
    assert not left["stays"]
    assert parts.gradient("uniform", QUICK)["rows"][0]["cosine"] < 0.99


def test_a_scoring_of_sparse_is_one_pass():
    found = parts.cost("leave-one-out", QUICK)["MovieReview"]
    assert found["passes"] > 10  # a pass without each token
    sparse = parts.cost("sparse", QUICK)["MovieReview"]
    assert (sparse["passes"], sparse["times_sparse"]) == (1.0, 1.0)


def test_a_rule_whose_scorer_the_oracle_lacks_is_refused_by_name():
    found = parts.best_response("r3-dense", QUICK)["Oracle"]
    assert found["refused"].startswith(
        "the rule scores with an encoder, and the truth of Oracle is"
    )
    assert parts.contract("r3-dense", QUICK) == {"QuestionAnswer": {"passed": True}}


def test_a_rule_with_a_model_of_its_own_is_refused_where_texts_have_other_tokens():
    rule = f"rto:policy={bundled('movie_review').policy}"
    found = parts.contract(rule, QUICK)
    assert found["MovieReview"] == {"passed": True}
    assert "another tokenizer" in found["Oracle"]["refused"]
    assert "another tokenizer" in parts.gradient(rule, QUICK)["refused"]


def test_a_rule_that_asks_for_the_answer_is_held_where_there_is_one():
    assert parts.contract("answer-gain", QUICK) == {"Forks": {"passed": True}}
    found = parts.identification("answer-gain", QUICK)["MovieReview"]
    assert found["refused"].endswith("and the prompts of MovieReview have none")


def test_a_rule_prints_its_properties_and_a_broken_contract_is_status_1(
    rules: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["--quick", "--parts", "gradient", "contract"]
    assert main(["bench", f"{rules}:final", *words]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{rules}:final, a credit rule, without training: gradient, contract")
    assert said.index("## Contract") < said.index("| Oracle | passed | yes |")
    assert "| yes | 0.000 | rules.py:final | loo | 1.00 | 1.00 |" in said
    assert main(["bench", f"{rules}:half", *words]) == 1
    assert "contract broken on Oracle: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("subject", "kind", "named"),
    [
        ("loo", "an advantage estimator", "gradient"),
        ("weight:position", "a weight on the advantage", "audit, gradient"),
    ],
)
def test_estimators_and_weights_have_the_gradient_and_weights_the_audit(
    subject: str, kind: str, named: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["bench", subject, "--quick"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{subject}, {kind}, without training: {named}\n")
    assert "cosine" in said
    assert main(["bench", subject, "--parts", "contract"]) == 2
    assert "part 'contract'" in capsys.readouterr().err


def test_a_weight_of_good_responses_alone_fails_the_audit(tmp_path: Path):
    (tmp_path / "ideas.py").write_text(
        "from tokengym import token_credit\n\n\n"
        "@token_credit\n"
        "def good_alone(advantages, response_mask):\n"
        "    return (advantages > 0) * response_mask * 1.0\n"
    )
    subject = f"{tmp_path}/ideas.py:good_alone"
    (verdict,) = parts.weight_verdict(subject, QUICK)["rows"]
    assert verdict["verdict"] in ("tilted", "biased", "reversed")
    assert " is worth " in verdict["says"]
    rows = parts.weight_gradient(subject, QUICK)["rows"]
    assert max(row["cosine"] for row in rows) < 0.99


def test_subjects_that_the_help_names_are_measured():
    named = re.findall(
        r"bench (?!rules.py)(\w\S*)$|(weight:\w+)", bench.__doc__ or "", re.MULTILINE
    )
    subjects = {one or other for one, other in named}
    assert "entropy:top=0.1" in subjects
    for subject in subjects:
        figures = dict(measured_parts(subject, kind_of(subject), ("gradient",), QUICK))
        assert "refused" not in figures["gradient"], subject


def test_a_weight_that_draws_is_refused_as_the_help_says(capsys: pytest.CaptureFixture[str]):
    assert main(["bench", "weight:random", "--quick"]) == 0
    assert "it is not enumerated" in capsys.readouterr().out
    assert "The weight random draws" in (bench.__doc__ or "")
