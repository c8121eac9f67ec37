"""A rule measured on a bundle of one's choice; the bundled tasks' own stand for a real model's."""

import json
import shutil
from pathlib import Path

import pytest

from tests.lab.cards.test_card import RULES
from tokengym.base.bundle import Bundle
from tokengym.base.files import read_json, write_json
from tokengym.lab.cards import elsewhere
from tokengym.lab.cards.card import CardConfig, broken, faults_of, make_card
from tokengym.lab.cards.elsewhere import AMOUNTS, PART, Amounts, TransferTask
from tokengym.lab.cards.page import card_page
from tokengym.lab.cards.parts import held_to_forks
from tokengym.lab.cards.submission import submission
from tokengym.scripts.cli import main

QUICK = AMOUNTS["quick"]


def test_the_part_is_the_contract_and_the_agreement_with_executed_forks(tmp_path: Path):
    chosen = TransferTask(bundle="movie_review")
    config = CardConfig(subject="red", parts=(PART,), size="quick", elsewhere=chosen)
    card = make_card(config, tmp_path)
    found = card["parts"][PART]["movie_review"]
    held = held_to_forks("MovieReview", ["red"], 4, 4, max_new_tokens=4)
    assert found == {"passed": True, **held.pop("rules")["red"], **held}
    assert "| movie_review | correlation |" in card_page(card)
    assert faults_of(card) == []
    said = submission({**card, "parts": {"contract": {}, **card["parts"]}})["checklist"]
    assert "movie_review" in said["base model"]


def test_a_card_keeps_the_part_that_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(TransferTask, "measure", lambda *_: {"movie_review": {"passed": True}})
    chosen = TransferTask(bundle="movie_review")
    make_card(CardConfig(subject="abc", parts=(PART,), size="quick", elsewhere=chosen), tmp_path)
    plain = CardConfig(subject="abc", parts=("best-response",), size="quick")
    card = make_card(plain, tmp_path)
    assert set(card["parts"]) == {"best-response", PART}
    assert card["hashes"]["best-response"] != card["hashes"][PART]
    both = CardConfig(subject="abc", size="quick", elsewhere=chosen)
    assert both.settings("executed") == plain.settings("executed")  # published hashes stay
    other = CardConfig(subject="abc", size="quick", elsewhere=TransferTask(bundle="dialogue"))
    assert other.settings(PART) != both.settings(PART)


def test_the_cost_is_counted_by_hand():
    """Of a response of 3 tokens the prefixes of 0, 1 and 2 are continued by up to 3, 2 and 1."""
    amounts = Amounts(responses=2, tokens=3, continuations=4)
    assert (amounts.most_tokens, amounts.most_texts) == (2 * 4 * (3 + 2 + 1), 2 * (3 * 4 + 1))


@pytest.mark.parametrize(
    ("rule", "bundle", "reason"),
    [
        ("r3", "movie_review", "the rule scores with an encoder, and the truth of movie_review is"),
        ("abc", "smollm2-answers", "the rule scores with a reward model, and the truth of smollm2"),
        ("answer-gain", "movie_review", "and the prompts of movie_review have none"),
    ],
)
def test_a_rule_that_cannot_be_measured_there_says_why(rule: str, bundle: str, reason: str):
    (found,) = TransferTask(bundle=bundle).measure(rule, QUICK, 0).values()
    assert reason in found["refused"]


def test_a_rule_whose_model_reads_other_tokens_is_refused_there():
    rule = f"rto:policy={Bundle.of('dialogue').policy}"
    (found,) = TransferTask(bundle="movie_review").measure(rule, QUICK, 0).values()
    assert "437; score with a model of the policy's tokenizer" in found["refused"]


@pytest.mark.parametrize("rule", ["r3-dense", "uniform"])
def test_an_encoder_s_bundle_has_its_own_environment_and_scorer(rule: str, tmp_path: Path):
    """Made from QuestionAnswer's, as smollm2-answers is: without a reward model."""
    folder = tmp_path / "answers"
    shutil.copytree(Bundle.of("question_answer").path, folder)
    shutil.rmtree(folder / "reward_model")
    manifest = json.loads((folder / "bundle.json").read_text())
    write_json(folder / "bundle.json", {**manifest, "env": "QuestionAnswer"})
    chosen = TransferTask(bundle=str(folder))
    assert chosen.env == "tokengym/QuestionAnswer-v0"
    found = chosen.measure(rule, QUICK, 0)["answers"]
    assert found["passed"]
    assert {"share", "ceiling", "chance"} <= set(found)
    assert str(tmp_path) not in json.dumps([chosen.name, found])


def test_the_command_says_the_cost_first_and_exits_with_1_where_the_contract_is_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "rules.py").write_text(RULES)
    arguments = ["--quick", "--parts", PART, "--bundle", "movie_review"]
    out = tmp_path / "card"
    assert main(["bench", f"{tmp_path / 'rules.py'}:Half", *arguments, "--out", str(out)]) == 1
    first, *_, last = capsys.readouterr().out.strip().splitlines()
    assert first.endswith(
        "Half: movie_review: 4 responses of up to 4 tokens, each prefix continued 4 times: up to "
        "160 tokens are sampled and 68 texts scored"
    )
    assert last.startswith("contract broken on movie_review: credit 'last' gives")
    assert broken(read_json(out / "card.json")).keys() == {"movie_review"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["abc", "--bundle", "smollm2-review"], "did you mean 'smollm2-reviews' or"),
        (["abc", "--model", "smollm2"], "--model smollm2 needs prompts and a reward model that"),
        (
            ["abc", "--bundle", "movie_review", "--model", "./none"],
            "there is no folder './none'; check the path of the model",
        ),
        (["abc", "--parts", PART], "part 'bundle' needs a bundle; name one: --bundle smollm2-rev"),
        (["loo", "--bundle", "movie_review"], "only rules are measured on a bundle, and 'loo' is"),
        (["abd", "--bundle", "movie_review"], "unknown subject 'abd'; did you mean"),
    ],
)
def test_bad_names_are_refused_before_anything_is_measured(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(elsewhere, "held_to_forks", lambda *_, **__: pytest.fail("measured"))
    assert main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err
