"""Cards of rules and estimators: what they find, keep and refuse."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tokengym.base.files import read_json
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
    assert left["gain"] == pytest.approx(0.833, abs=2e-3)  # docs/results/archive/best_response.md
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
    found = parts.convergence(rule, QUICK, 0, tmp_path / "card")
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
    learner = runs[0]["settings"]["training"]["learner"]
    assert (learner["kl_estimator"], learner["gae_lambda"]) == ("exact", None)
    config = CardConfig(subject="uniform", size="quick", tasks=("Oracle",))
    said = json.loads(json.dumps(config.settings("convergence")))["training"]["Oracle"]
    assert {**said, "device": "cpu"} == {**runs[0]["settings"]["training"], "device": "cpu"}
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


def test_a_row_that_was_trained_otherwise_is_not_compared():
    def trained(name: str, steps: int):
        versus = {"auc": {"difference": 1.0, "low": 0.5, "high": 1.5, "pairs": 5}}
        settings = {"training": {"MovieReview": {"steps": steps}}}
        return {
            "subject": name,
            "parts": {"convergence": {"MovieReview": {"net_score": {"versus_baseline": versus}}}},
            "made": {"convergence": {"settings": json.dumps(settings)}},
        }

    chance = trained("random", 15)
    same, other = (trained_alike(trained("abc", steps), chance) for steps in (15, 30))
    column = {name: at for at, name in enumerate(BOARD)}
    tuned_at, alike_at = column["tuned: lead on sparse"], column["at one rate: lead on sparse"]
    row = board_row(same, chance)
    assert row[tuned_at : alike_at + 2] == ["\u2013", "\u2013", "+1.00", "0.500 to 1.50"]
    assert row[-1] == "Gains on `sparse` in training."
    row = board_row(other, chance)
    assert row[tuned_at : alike_at + 2] == ["\u2013"] * 4
    assert row[-1] == "Was trained otherwise."
    tuned = {"difference": -0.2, "low": -0.3, "high": -0.1, "pairs": 10}
    row = board_row(same, chance, tuned, (3, 2, 4), "cards/abc/card.json")
    assert row[:3] == ["3", "2 to 4", "[`abc`](cards/abc/card.json)"]
    lead = ["\u22120.200", "\u22120.300 to \u22120.100"]
    assert row[tuned_at : tuned_at + 2] == lead
    assert row[-1] == "Loses to `sparse` in training."
    older = {**trained("abc", 15), "made": {"convergence": {"settings": None}}}
    assert board_row(trained_alike(older, chance), chance)[alike_at] == "\u2013"


def test_the_leaderboard_s_sentence_and_flips_by_hand():
    def made(name: str, review: float, forks: float, cosine: float, gain: float | None):
        def found(value: float):
            return {"correlation": value, "low": value - 0.05, "high": value + 0.05}

        versus = {"auc": {"difference": gain, "low": -0.1, "high": 1.0, "pairs": 5}}
        ends = {"MovieReview": {"net_score": {"versus_baseline": versus}}}
        return {
            "subject": name,
            "parts": {
                "identification": {"MovieReview": found(review)},
                "executed": {"Forks": found(forks)},
                "gradient": {"rows": [{"cosine": cosine}, {"cosine": 1.0}]},
                **({} if gain is None else {"convergence": ends}),
            },
        }

    chance = made("random", 0.0, 0.0, 0.9, None)
    good, worse = made("good", 0.4, 0.05, 1.0, 0.3), made("worse", 0.2, 0.2, -0.03, None)
    row = board_row(good, chance)
    at = BOARD.index("tokens found on MovieReview")
    assert row[at : at + 3] == ["0.400", "0.050", "1.00"]
    assert row[at - 2 : at] == ["+0.300", "\u22120.100 to 1.00"]
    assert row[-1] == (
        "Finds the tokens on MovieReview, keeps the gradient, "
        "is not clearly apart from `sparse` in training."
    )
    assert board_row(worse, chance)[-1] == (
        "Finds the tokens on MovieReview and Forks, turns the gradient, was not trained."
    )
    assert board_row(chance, chance)[2] == "`random`, the control"
    ends = good["parts"]["convergence"]["MovieReview"]["net_score"]["versus_baseline"]["auc"]
    ends |= {"low": 0.1, "pairs": 3}
    assert board_row(good, chance)[at - 1] == "0.100 to 1.00; 3 seeds"
    assert board_row(good, chance)[-1].endswith("gains on `sparse` in training (3 seeds).")
    ends |= {"low": 0.3, "high": 0.3, "pairs": 1}
    assert board_row(good, chance)[-1].endswith(
        "is not clearly apart from `sparse` in training (1 seed)."
    )
    assert board_row(chance, chance)[-1].startswith(
        "Finds the tokens no better than `random`, turn"
    )
    assert len(row) == len(BOARD)
    elsewhere = {"Real": {"rules": {"good": {"correlation": 0.1, "low": 0.0, "high": 0.2}}}}
    rival = made("rival", 0.4, 0.05, 1.0, 0.2)
    gains = {"good": {"difference": -0.1, "low": -0.2, "high": 0.0}}
    gains["rival"] = {"difference": 0.2, "low": 0.1, "high": 0.3}
    assert order_flips([good, worse, chance], elsewhere, {}) == [
        "finding tokens, MovieReview and Forks: 1 of 3 pairs; of the 2 that are clear on both, 1"
    ]
    assert order_flips([good, rival], {}, {"Forks": gains})[1:] == [
        "training, MovieReview and Forks: 1 of 1 pairs; of the 0 that are clear on both, 0"
    ]


def test_one_seed_is_called_one_seed():
    figure = {"iqm": 2.0, "low": 2.0, "high": 2.0}
    versus = {"final": {"difference": 1.0, "low": 1.0, "high": 1.0, "pairs": 1}}
    score = {"final": figure, "versus_baseline": versus}
    part = {"MovieReview": {"runs": 1, "score": score}}
    card = {"kind": "rule", "subject": "abc", "size": "quick", "seed": 0, "tokengym": "0"}
    page = card_page({**card, "data": "d", "hash": "h", "parts": {"convergence": part}})
    assert "| 2.00 (one seed) | +1.00 (one seed) |" in page
