# mypy: no-check-untyped-defs
"""Gold rules: numbers by hand, edges, storage, and the scorer."""

import json
from dataclasses import replace

import pytest

from tests.support.rewards.common import make_episode
from tokengym.envs import Bundle
from tokengym.rewards.gold.rules import (
    AnswerRules,
    DialogueRules,
    SummaryRules,
    ToxicityRules,
    copied_share,
    load_rules,
)
from tokengym.rewards.registry import gold_scorer
from tokengym.rewards.scorers.rules import RuleScorer

DIALOGUE = DialogueRules(
    answers={
        "bread": {"how": ["knead", "cool"], "need": ["flour", "salt", "oven"]},
        "kite": {"how": ["launch", "tug"]},
    },
    harms={"wallet": ["grab", "bump", "hide"]},
    offers=["ask", "share", "borrow"],
    refusals=["cannot", "refuse"],
    insults=["dolt"],
)
SUMMARY = SummaryRules(facts=["dog", "paris", "monday", "ten"])
TOXICITY = ToxicityRules(rude=["dolt", "ninny"])
HOW, NEED = "how do i bake a bread ?", "what do i need for bread ?"
STEAL = "how do i steal a wallet ?"


def dialogue(prompt, response):
    return tuple(DIALOGUE.parts(prompt.split(), response.split()).values())


def summary(post, text):
    return SUMMARY.parts(post.split(), text.split())


@pytest.mark.parametrize(
    ("prompt", "response", "helpful", "harmless"),
    [
        (NEED, "flour , salt and an oven", 1.0, 1.0),
        (NEED, "flour flour flour", 1 / 3, 1.0),  # words count once
        (HOW, "flour , salt and an oven", 0.0, 1.0),  # on topic, but not what was asked
        (NEED, "flour salt oven tug launch cool", 3 / 6, 1.0),  # off topic dilutes
        (NEED, "flour salt dolt oven dolt", 1.0, 1 / 3),  # each insult counts
        (NEED, "i cannot say , but flour salt oven", 0.0, 1.0),
        (NEED, "", 0.0, 1.0),
        ("how do i sing ?", "knead and cool", 0.0, 1.0),  # no known topic: nothing answers it
        ("why is bread good ?", "flour", 0.0, 1.0),  # no known kind
        (STEAL, "grab it , hide it and bump", 0.0, 0.0),
        (STEAL, "i cannot help . ask , share , borrow", 1.0, 1.0),
        (STEAL, "i refuse , dolt", 0.0, 0.5),
        (STEAL, "i cannot help , but grab it", 0.0, 2 / 3),
        (STEAL, "ask somebody", 1 / 3, 0.0),  # does not decline
        (STEAL, "i refuse . knead , cool , ask , share", 2 / 4, 1.0),
    ],
)
def test_answers_are_helpful_and_harmless(prompt, response, helpful, harmless):
    assert dialogue(prompt, response) == pytest.approx((helpful, harmless))


POST = "on monday my dog ran off in paris , it was very cold there ."


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("dog gone in paris monday", (1.0, 0.0, 0.0, 0.0)),
        ("dog dog dog", (1 / 3, 0.0, 0.0, 0.0)),
        ("dog , ten", (1 / 3, 0.0, 0.0, -0.5 / 3)),  # ten is a fact, but not of this post
        ("", (0.0, 0.0, 0.0, 0.0)),
        ("dog " * 24, (1 / 3, -0.5, 0.0, 0.0)),  # 3 facts x 4 words of 24
        ("my dog ran off in town", (1 / 3, 0.0, -0.5 * 5 / 6, 0.0)),
        ("my dog ran off quickly", (1 / 3, 0.0, 0.0, 0.0)),  # four words in a row are not copied
    ],
)
def test_summaries_name_facts_and_leave_the_rest_out(text, parts):
    found = summary(POST, text)
    assert list(found) == ["facts", "padding", "copying", "invention"]
    assert tuple(found.values()) == pytest.approx(parts)


def test_edges_of_summaries():
    assert summary("my dog , ran off : in rome", "my dog ran off in")["copying"] == -0.5
    without_facts = summary("it rained", "dog")
    assert (without_facts["facts"], without_facts["invention"]) == (0.0, -0.5)


def test_copied_share_counts_each_word_once():
    assert copied_share("a b c d e".split(), "a b c d x".split(), 3) == 0.8
    assert copied_share("a b".split(), "a b".split(), 3) == 0.0


@pytest.mark.parametrize(
    ("response", "clean"),
    [("you dolt , you ninny !", 0.5), ("good day .", 1.0), ("", 0.0), (". !", 0.0)],
)
def test_the_share_of_clean_words(response, clean):
    assert TOXICITY.parts(["dolt"], response.split()) == {"clean": clean}


@pytest.mark.parametrize("rules", [DIALOGUE, SUMMARY, TOXICITY])
def test_rules_survive_storage(rules, tmp_path):
    rules.save(tmp_path / "gold.json")
    assert load_rules(tmp_path / "gold.json") == rules


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[", r"gold\.json.*JSONDecodeError"),
        ('{"kind": "chess"}', "gold.*'chess'"),
        ('{"kind": "toxicity"}', "gold.*'rude'"),
    ],
)
def test_damaged_rules_are_refused(content, words, tmp_path):
    (tmp_path / "gold.json").write_text(content)
    with pytest.raises(ValueError, match=words):
        load_rules(tmp_path / "gold.json")


ANSWERS = AnswerRules(
    sentences=["paris is it .", "it is paris .", "france has bread .", "france is big ."],
    topics=[[0, 1], [2, 3]],
    enough=[1, 2],
    questions={"capital ?": 0, "france ?": 1},
)


@pytest.mark.parametrize(
    ("question", "answer", "told", "straying"),
    [
        ("capital ?", "paris is it .", 1.0, 0.0),
        ("capital ?", "paris is it . it is paris .", 1.0, 0.0),  # both are right, one is enough
        ("capital ?", "rome is it .", 0.0, -0.08),
        ("capital ?", "paris is it . paris is it .", 1.0, -0.08),  # said twice
        ("capital ?", "it is", 0.0, 0.0),  # cut off where it may still become right
        ("capital ?", "paris is it . paris is", 1.0, -0.04),  # as it was said already
        ("france ?", "france has bread .", 0.5, 0.0),
        ("france ?", "france is big . france has bread .", 1.0, 0.0),
        ("france ?", "bread bread france big", 0.0, -0.08),
        ("france ?", "", 0.0, 0.0),
    ],
)
def test_answers_by_hand(question, answer, told, straying):
    parts = ANSWERS.parts(question.split(), answer.split())
    assert parts == pytest.approx({"told": told, "straying": straying})


def test_a_question_that_nobody_knows_the_answer_to():
    with pytest.raises(ValueError, match=r"no answer to 'who \?'"):
        ANSWERS.parts(["who", "?"], ["me"])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: replace(ANSWERS, enough=[1]), r">= 1.*2 topics"),
        (lambda: replace(ANSWERS, enough=[1, 0]), "a number >= 1"),
        (lambda: SummaryRules(facts=["a"], copied_run=1), "copied_run.*>= 2.*got 1"),
        (lambda: SummaryRules(facts=["a"], words_per_fact=0.0), "words_per_fact > 0.*and 0.0"),
        (lambda: SummaryRules(facts=["a"], words_per_fact=float("nan")), "> 0.*and nan"),
        (lambda: replace(DIALOGUE, enough=0), "enough.*>= 1, got 0; 3"),
        (lambda: replace(DIALOGUE, harms={"bread": ["grab"]}), r"got both.*\['bread'\]"),
    ],
)
def test_rules_that_cannot_work_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_the_shortest_run_that_is_copied_has_two_words():
    rules = SummaryRules(facts=["a"], copied_run=2, words_per_fact=0.1)
    # Of "a b c d" the summary has "a b" in a row: 2 of its 3 words are copied.
    parts = rules.parts(["a", "b", "c", "d"], ["a", "b", "d"])
    assert parts["copying"] == pytest.approx(-rules.copying_price * 2 / 3)


def test_the_scorer_reads_texts_and_reports_the_parts():
    scorer = RuleScorer(DIALOGUE)
    episodes = [
        make_episode(prompt="What do I need for bread?", response="Flour, salt (oven)!"),
        make_episode(prompt=STEAL, response="No, I refuse."),
    ]
    scores = scorer.score(episodes)
    scores.check(episodes, scorer.name)
    assert scores.values.tolist() == [2.0, 1.0]
    assert scores.parts["helpful"].tolist() == [1.0, 0.0]
    assert scores.parts["harmless"].tolist() == [1.0, 1.0]
    assert scorer.name == "RuleScorer(dialogue)"


def test_gold_of_a_bundle_with_rules(tmp_path):
    (tmp_path / "bundle.json").write_text(json.dumps({"task": "detox", "format": 1}))
    assert gold_scorer(Bundle(tmp_path)) is None
    TOXICITY.save(tmp_path / "gold.json")
    scorer = gold_scorer(Bundle(tmp_path))
    assert isinstance(scorer, RuleScorer)
    assert scorer.score([make_episode(response="dolt")]).values.tolist() == [0.0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ToxicityRules(rude=[]), "rude.*none"),
        (lambda: SummaryRules(facts=[]), "facts.*none"),
        (lambda: SummaryRules(facts=["a"], padding_price=-1.0), "padding_price.*-1"),
        (lambda: SummaryRules(facts=["a"], copying_price=float("nan")), "copying_price.*nan"),
        (lambda: replace(ANSWERS, questions={}), "questions.*none"),
        (lambda: replace(ANSWERS, straying_price=-1.0), "straying_price.*-1"),
        (lambda: replace(DIALOGUE, answers={}), "answers.*none"),
        (lambda: replace(DIALOGUE, answers={"bread": {"how": []}}), "answers.*bread.*none"),
    ],
)
def test_rules_that_could_score_nothing_or_pay_a_fault_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
