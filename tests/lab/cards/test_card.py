"""Cards of rules and estimators: what they find, keep and refuse."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import golden
from tokengym.base.files import read_json, write_text
from tokengym.envs import bundled
from tokengym.lab.cards import parts
from tokengym.lab.cards.card import KINDS, SIZES, CardConfig, faults_of, make_card, read_cards
from tokengym.lab.cards.page import (
    BOARD,
    HEADER,
    board_row,
    card_page,
    card_row,
    order_flips,
    trained_alike,
)
from tokengym.scripts.cli import main

QUICK = SIZES["quick"]
ORACLE = replace(QUICK, tasks=("Oracle",))
SETTINGS = '{"subject": "rules.py:Last", "source": null}'
RULES = """
import numpy as np
from tokengym.rewards.credits import Credit
class Last(Credit):
    name = "last"
    def spread(self, score, episode, attribution):
        rewards = np.zeros(len(episode.response_ids))
        rewards[-1] = score
        return rewards
class Half(Last):
    def spread(self, score, episode, attribution):
        return 0.5 * super().spread(score, episode, attribution)
"""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    (tmp_path / "rules.py").write_text(RULES)
    return tmp_path / "rules.py"


def test_a_rule_of_ones_own_that_is_sparse_has_its_figures(rules: Path, tmp_path: Path):
    wanted = ("gradient", "best-response", "identification")
    card = make_card(
        CardConfig(subject=f"{rules}:Last", parts=wanted, size="quick"), tmp_path / "card"
    )
    assert list(card["parts"]) == ["identification", "best-response", "gradient"]
    assert [row["cosine"] for row in card["parts"]["gradient"]["rows"]] == pytest.approx([1, 1])
    stays = card["parts"]["best-response"]["Oracle"]["centred"]
    assert (stays["gain"], stays["stays"]) == (pytest.approx(-1.0, abs=0.05), True)
    sparse = parts.identification("sparse", QUICK, 0, tmp_path)
    assert card["parts"]["identification"] == sparse
    assert read_cards([tmp_path / "card"]) == [card]
    row = card_row(card, card)
    assert len(row) == len(HEADER)
    assert "1.00" in row[HEADER.index("noise / sparse's")]
    assert (tmp_path / "card" / "card.md").read_text() == card_page(card)


def test_a_rule_is_held_to_executed_forks(tmp_path: Path):
    card = make_card(CardConfig(subject="red", parts=("executed",), size="quick"), tmp_path)
    found = card["parts"]["executed"]["Forks"]
    assert {"share", "ceiling", "chance", "correlation", "low", "high"} <= set(found)
    assert found["low"] <= found["correlation"] <= found["high"]
    shown = card_row(card)[HEADER.index("rank correlation with executed forks")]
    assert shown.count(" to ") == 1


def test_a_rule_that_loses_half_the_score_breaks_the_contract(rules: Path, tmp_path: Path):
    found = parts.contract(f"{rules}:Half", QUICK, 0, tmp_path)
    assert not found["Oracle"]["passed"]
    assert "sum to" in found["Oracle"]["message"]
    assert parts.contract(f"{rules}:Last", QUICK, 0, tmp_path)["Oracle"] == {"passed": True}


def test_a_rule_that_continues_responses_is_measured_where_there_is_a_policy(tmp_path: Path):
    rule = "mc:k=1,segments=2"
    assert parts.contract(rule, QUICK, 0, tmp_path)["Oracle"] == {"passed": True}
    assert parts.cost(rule, QUICK, 0, tmp_path)["MovieReview"]["passes"] > 2
    assert "no policy is bound" in parts.gradient(rule, QUICK, 0, tmp_path)["refused"]


def test_scar_leaves_the_best_response_and_uniform_turns_the_gradient(tmp_path: Path):
    left = parts.best_response("scar", QUICK, 0, tmp_path)["Oracle"]["centred"]
    assert left["by"] == "film film good good good good"
    assert left["gain"] == pytest.approx(0.833, abs=2e-3)  # docs/results/earlier.md
    assert not left["stays"]
    assert parts.gradient("uniform", QUICK, 0, tmp_path)["rows"][0]["cosine"] < 0.99


def test_a_scoring_of_sparse_is_one_pass(tmp_path: Path):
    found = parts.cost("red:every_prefix=true,delivery=end", QUICK, 0, tmp_path)["MovieReview"]
    assert found["passes"] > 10  # a pass per prefix
    sparse = parts.cost("sparse", QUICK, 0, tmp_path)["MovieReview"]
    assert (sparse["passes"], sparse["times_sparse"]) == (1.0, 1.0)


def test_a_rule_whose_scorer_the_oracle_lacks_is_refused_by_name(tmp_path: Path):
    found = parts.best_response("r3-dense", QUICK, 0, tmp_path)["Oracle"]
    assert found["refused"].startswith(
        "the rule scores with an encoder, and the truth of Oracle is"
    )
    assert parts.contract("r3-dense", QUICK, 0, tmp_path) == {"QuestionAnswer": {"passed": True}}


def test_a_rule_with_a_model_of_its_own_is_refused_where_texts_have_other_tokens(tmp_path: Path):
    rule = f"rto:policy={bundled('movie_review').policy}"
    found = parts.contract(rule, QUICK, 0, tmp_path)
    assert found["MovieReview"] == {"passed": True}
    assert "another tokenizer" in found["Oracle"]["refused"]
    assert "another tokenizer" in parts.gradient(rule, QUICK, 0, tmp_path)["refused"]


def test_a_rule_that_cannot_be_made_costs_no_training_of_the_baseline(tmp_path: Path):
    rule = f"rto:policy={tmp_path / 'gone'}"
    found = parts.convergence(rule, ORACLE, 0, tmp_path / "card")
    assert all("there is no folder" in entry["refused"] for entry in found.values())
    assert not (tmp_path / parts.BASELINES).exists()


def test_a_rule_that_asks_for_the_answer_is_held_where_there_is_one(tmp_path: Path):
    assert parts.contract("answer-gain", QUICK, 0, tmp_path) == {"Forks": {"passed": True}}
    found = parts.identification("answer-gain", QUICK, 0, tmp_path)["MovieReview"]
    assert found["refused"].endswith("and the prompts of MovieReview have none")


def test_stored_parts_are_kept_until_the_source_changes(rules: Path, tmp_path: Path, monkeypatch):
    calls: list[str] = []
    measures = {name: _counting(name, calls) for name in ("contract", "gradient")}
    monkeypatch.setitem(KINDS, "rule", measures)
    out = tmp_path / "card"
    subject = f"{rules}:Last"
    first = make_card(CardConfig(subject=subject, parts=("contract",)), out)
    both = make_card(CardConfig(subject=subject), out)
    assert calls == ["contract", "gradient"]
    assert both["hash"] != first["hash"]
    assert make_card(CardConfig(subject=subject), out)["hash"] == both["hash"]
    assert calls == ["contract", "gradient"]
    rules.write_text(RULES + "\n")
    assert make_card(CardConfig(subject=subject), out)["hash"] != both["hash"]
    assert calls == ["contract", "gradient"] * 2
    with pytest.raises(ValueError, match=r"holds the card of .*Last', not of 'abc'"):
        make_card(CardConfig(subject="abc", parts=("contract",)), out)


def test_a_model_among_the_options_of_an_own_rule_is_part_of_its_settings(
    rules: Path, tmp_path: Path
):
    weights = tmp_path / "model" / "weights"
    write_text(weights, "1")
    plain = CardConfig(subject=f"{rules}:Last").settings("contract")
    config = CardConfig(subject=f"{rules}:Last:model={weights.parent}")
    before = config.settings("contract")
    assert before["source"] == plain["source"]  # that of the code, which a submission is held to
    write_text(weights, "2")
    after = config.settings("contract")
    assert {name for name in after if after[name] != before[name]} == {"options"}


@pytest.mark.parametrize("text", ["null", "{}", '{"subject": "abc", "parts": 3, "hashes": {}}'])
def test_a_damaged_card_is_named(tmp_path: Path, text: str):
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(ValueError, match=r"card\.json is damaged; delete it and run again"):
        make_card(CardConfig(subject="abc", parts=("contract",)), tmp_path)


def _counting(name: str, calls: list[str]):
    def measure(*arguments):
        calls.append(name)
        return {}

    return measure


def test_convergence_is_paired_against_sparse_which_cards_share(tmp_path: Path):
    found = parts.convergence("uniform", ORACLE, 0, tmp_path / "card")["Oracle"]
    assert (found["updates"], found["runs"], found["failed"]) == (2, 1, 0)
    assert found["tokens"] == 2 * 8 * 6
    assert found["score"]["versus_baseline"]["final"]["pairs"] == 1
    assert {"gold_score", "kl"} <= set(found)
    assert found["net_score"]["versus_baseline"]["auc"]["pairs"] == 1
    runs = [read_json(file) for file in tmp_path.rglob("run.json")]
    assert [run["credit"] for run in runs if run["cpu_s"] > 0] == [run["credit"] for run in runs]
    assert found["cpu_s"] == pytest.approx(sum(run["cpu_s"] for run in runs), abs=0.06)
    training = read_json(next(tmp_path.rglob("seed-*/spec.json")))["training"]
    learner = training["learner"]
    assert (learner["kl_estimator"], learner["gae_lambda"]) == ("exact", None)
    config = CardConfig(subject="uniform", size="quick", tasks=("Oracle",))
    said = json.loads(json.dumps(config.settings("convergence")))["training"]["Oracle"]
    assert {**said, "device": "cpu"} == {**training, "device": "cpu"}
    (shared,) = (tmp_path / parts.BASELINES).iterdir()
    sparse = (
        found["score"]["final"]["iqm"] - found["score"]["versus_baseline"]["final"]["difference"]
    )
    weighted = parts.weight_convergence("constant", ORACLE, 0, tmp_path / "weight")["Oracle"]
    assert weighted["score"]["final"]["iqm"] == pytest.approx(sparse)
    assert weighted["score"]["versus_baseline"]["final"]["difference"] == 0.0
    assert list((tmp_path / parts.BASELINES).iterdir()) == [shared]


def test_convergence_of_an_estimator_is_paired_against_gae(tmp_path: Path):
    """The estimator is a file of one's own, which each training process reads."""
    file = tmp_path / "mine.py"
    file.write_text(
        "from tokengym.agents.ppo.advantages import AdvantageEstimator, find_advantage\n"
        "from dataclasses import replace\n"
        "Mine = replace(find_advantage('loo'), name='mine')\n"
    )
    found = parts.estimator_convergence(f"{file}:Mine", ORACLE, 0, tmp_path / "card")["Oracle"]
    assert (found["baseline"], found["runs"], found["failed"]) == ("gae", 1, 0)
    assert found["score"]["versus_baseline"]["final"]["pairs"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["abd"], "unknown subject 'abd'; did you mean"),
        (["abc", "--parts", "cots"], "unknown part 'cots' of the cards of rules"),
        (
            ["loo", "--parts", "contract"],
            "of the cards of estimators; known: gradient, convergence",
        ),
        (["abc", "--quick", "--full"], "--quick and --full exclude each other"),
        (["abc", "--tasks", "Detox"], "unknown task 'Detox' of a card; known: MovieReview"),
    ],
)
def test_what_the_command_refuses(arguments, message, capsys):
    assert main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_command_makes_the_card_of_an_estimator(tmp_path: Path, capsys):
    assert (
        main(["bench", "rloo", "--quick", "--parts", "gradient", "--out", str(tmp_path / "card")])
        == 0
    )
    assert "hash" in capsys.readouterr().out
    (card,) = read_cards([tmp_path / "card"])
    assert card["kind"] == "estimator"
    assert all(row["cosine"] == pytest.approx(1.0) for row in card["parts"]["gradient"]["rows"])


WEIGHTS = """
from tokengym.agents import losses
from tokengym.agents.ppo import AdvantageWeight
class First(AdvantageWeight):
    name = "first"
    def weigh(self, played):
        is_first = (played.response_mask.cumsum(1) == 1).float()
        return losses.mean_one(is_first, played.response_mask)
"""


def test_the_card_of_a_weight_has_its_gradient_beside_the_true_one(tmp_path: Path):
    path = tmp_path / "weights.py"
    path.write_text(WEIGHTS)
    cosines = {}
    for subject in ("constant", "weight:random", "entropy:top=1", f"{path}:First"):
        config = CardConfig(subject=subject, parts=("gradient",), size="quick")
        assert config.kind == "weight"
        card = make_card(config, tmp_path / subject.replace("/", "_"))
        cosines[subject] = [row["cosine"] for row in card["parts"]["gradient"]["rows"]]
    assert cosines["constant"] == pytest.approx([1.0, 1.0])
    assert cosines["entropy:top=1"] == pytest.approx([1.0, 1.0])
    assert max(cosines["weight:random"]) < 0.999
    assert max(cosines[f"{path}:First"]) < 0.9
    assert CardConfig(subject="random", size="quick").kind == "rule"


def test_a_weight_that_cannot_be_enumerated_says_why(tmp_path: Path):
    for subject, cause in (
        ("gtpo", "reads other responses"),
        ("reward-attention", "reads a model"),
    ):
        config = CardConfig(subject=subject, parts=("gradient",), size="quick")
        card = make_card(config, tmp_path / subject)
        assert cause in card["parts"]["gradient"]["refused"]


def test_a_rule_that_lacks_its_model_is_no_card(tmp_path: Path, capsys):
    arguments = ["--quick", "--parts", "contract", "gradient", "--out", str(tmp_path / "card")]
    assert main(["bench", "prm", *arguments]) == 2
    message = "nothing of prm could be measured: credit 'prm' needs a process model; write 'prm:"
    assert message in capsys.readouterr().err


def test_a_broken_contract_is_printed_and_exits_with_1(rules: Path, tmp_path: Path, capsys):
    arguments = ["--quick", "--parts", "contract", "--out", str(tmp_path / "card")]
    submitted = ["--submit", str(tmp_path / "half.json")]
    assert main(["bench", f"{rules}:Half", *arguments, *submitted]) == 1
    shown = capsys.readouterr().out
    assert "| Oracle | passed | no |" in shown
    assert "contract broken on Oracle: credit 'last' gives" in shown
    assert not (tmp_path / "half.json").exists()


def test_a_submission_holds_the_code_and_notices_changes(rules: Path, tmp_path: Path, capsys):
    file = tmp_path / "mine.json"
    arguments = ["--quick", "--parts", "contract", "gradient", "--out", str(tmp_path / "card")]
    assert main(["bench", f"{rules}:Last", *arguments, "--submit", str(file)]) == 0
    card = read_json(file)
    assert card["subject"] == "rules.py:Last"
    assert card["code"] == RULES
    assert card["hours"]["with_gpu"] == 0
    assert card["checklist"]["variance"] == "none: nothing was trained"
    assert len(card["checklist"]) == 14  # thirteen of the items, and the source
    assert str(tmp_path) not in file.read_text()
    assert faults_of(card) == []
    for place, value, message in (
        (("parts", "gradient", "rows", 0, "cosine"), 0.5, "gradient: its figures were changed"),
        (("code",), RULES + "#", "contract: measured with other code"),
        (
            ("made", "contract", "settings"),
            SETTINGS,
            "contract: its hash is not that of its settings",
        ),
        (("hashes", "contract"), "0", "hash is not that of its parts' hashes"),
        (("subject",), "rules.py:Half", "its settings are of 'rules.py:Last'"),
    ):
        changed = copy.deepcopy(card)
        inner = changed
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        assert any(message in fault for fault in faults_of(changed)), message


def test_the_cpu_time_of_training_runs_counts_and_changes_no_hash(tmp_path: Path, monkeypatch):
    """Their processes are not waited for by the one that makes the card."""
    seconds = iter((3600.0, 1800.0))
    trained = {"convergence": lambda *_: {"Oracle": {"updates": 2, "cpu_s": next(seconds)}}}
    monkeypatch.setitem(KINDS, "rule", trained)
    one, other = (
        make_card(CardConfig(subject="abc"), tmp_path / name)["made"]["convergence"]
        for name in ("one", "other")
    )
    assert one["cpu_s"] == pytest.approx(3600, abs=60)
    assert other["cpu_s"] == pytest.approx(1800, abs=60)
    assert one["figures"] == other["figures"]


def ends_of(difference: float | None, low: float, high: float, pairs: int) -> dict[str, Any]:
    """Return what training from `random`'s start came to on MovieReview."""
    lead = {"difference": difference, "low": low, "high": high, "pairs": pairs}
    return {"MovieReview": {"net_score": {"versus_baseline": {"auc": lead}}}}


def trained(name: str, steps: int | None) -> dict[str, Any]:
    settings = steps and json.dumps({"training": {"MovieReview": {"steps": steps}}})
    parts_ = {"convergence": ends_of(1.0, 0.5, 1.5, 5)}
    return {"subject": name, "parts": parts_, "made": {"convergence": {"settings": settings}}}


def made(
    name: str, review: float, forks: float, cosine: float, ends: dict[str, Any] | None = None
) -> dict[str, Any]:
    def found(value: float) -> dict[str, float]:
        return {"correlation": value, "low": value - 0.05, "high": value + 0.05}

    measured = {
        "identification": {"MovieReview": found(review)},
        "executed": {"Forks": found(forks)},
        "gradient": {"rows": [{"cosine": cosine}, {"cosine": 1.0}]},
    }
    return {"subject": name, "parts": {**measured, **({"convergence": ends} if ends else {})}}


def test_a_row_that_was_trained_otherwise_is_not_compared():
    chance = trained("random", 15)
    lead = BOARD.index("at one rate: lead on sparse")
    for steps, shown in (
        (15, ["+1.00", "0.500 to 1.50"]),
        (30, ["\u2013"] * 2),
        (None, ["\u2013"] * 2),
    ):
        assert (
            board_row(trained_alike(trained("abc", steps), chance), chance)[lead : lead + 2]
            == shown
        )


def test_rows_and_pages_are_the_stored_ones():
    """Every verdict in words: of tokens found, of the gradient, of training."""
    chance, other = made("random", 0.0, 0.0, 0.9), trained("random", 15)
    alike, apart = (trained_alike(trained("abc", steps), other) for steps in (15, 30))
    tuned = {"difference": -0.2, "low": -0.3, "high": -0.1, "pairs": 10}
    rows = [
        board_row(alike, other),
        board_row(apart, other),
        board_row(alike, other, tuned, (3, 2, 4), "cards/abc/card.json"),
        board_row(made("worse", 0.2, 0.2, -0.03), chance),
        board_row(chance, chance),
        *(
            board_row(made("good", 0.4, 0.05, 1.0, ends_of(0.3, *ends)), chance)
            for ends in ((-0.1, 1.0, 5), (0.1, 1.0, 3), (0.3, 0.3, 1))
        ),
    ]
    assert {len(row) for row in rows} == {len(BOARD)}
    figure = {"iqm": 2.0, "low": 2.0, "high": 2.0}
    versus = {"final": {"difference": 1.0, "low": 1.0, "high": 1.0, "pairs": 1}}
    part = {"MovieReview": {"runs": 1, "score": {"final": figure, "versus_baseline": versus}}}
    card = {"kind": "rule", "subject": "abc", "size": "quick", "seed": 0, "tokengym": "0"}
    page = card_page({**card, "data": "d", "hash": "h", "parts": {"convergence": part}})
    said = "\n".join(map(" | ".join, rows))
    golden.check(Path(__file__).parent / "stored" / "card.txt", f"{said}\n\n{page}")


def test_flips_of_the_order_by_hand():
    chance, worse = made("random", 0.0, 0.0, 0.9), made("worse", 0.2, 0.2, -0.03)
    good, rival = (
        made(name, 0.4, 0.05, 1.0, ends_of(gain, 0.1, 1.0, 5))
        for name, gain in (("good", 0.3), ("rival", 0.2))
    )
    elsewhere = {"Real": {"rules": {"good": {"correlation": 0.1, "low": 0.0, "high": 0.2}}}}
    gains = {"good": {"difference": -0.1, "low": -0.2, "high": 0.0}}
    gains["rival"] = {"difference": 0.2, "low": 0.1, "high": 0.3}
    assert order_flips([good, worse, chance], elsewhere, {}) == [
        "finding tokens, MovieReview and Forks: 1 of 3 pairs; of the 2 that are clear on both, 1"
    ]
    assert order_flips([good, rival], {}, {"Forks": gains})[1:] == [
        "training, MovieReview and Forks: 1 of 1 pairs; of the 0 that are clear on both, 0"
    ]
