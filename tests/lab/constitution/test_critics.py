"""Rules name offences and the policy writes on without them; a model is asked with care."""

import pytest

from tests.support.agents.common import make_model
from tokengym.agents.offline.policies import make_policy
from tokengym.agents.rollouts.given import GivenPrompts
from tokengym.agents.rollouts.playing import as_sampler
from tokengym.envs import Episode
from tokengym.lab.constitution.critics import (
    Critique,
    ModelCritic,
    OffenceRules,
    Principle,
    RuleCritic,
    RuleJudge,
)
from tokengym.rewards import ScorerError
from tokengym.rewards.gold.rules import DialogueRules, SummaryRules, ToxicityRules

RUDE = ToxicityRules(rude=["a", "c"])
HARM = DialogueRules(
    answers={"bread": {"need": ["flour"]}},
    harms={"wallet": ["grab", "hide"]},
    offers=["ask"],
    refusals=["cannot"],
    insults=["dolt"],
)
KIND = Principle(name="kind", text="It is kind.")


def said(response, prompt="b c", ids=(3,)):
    return Episode(prompt=prompt, response=response, prompt_ids=[4, 5], response_ids=ids)


def test_rude_words_offend_whoever_is_asked():
    rules = OffenceRules(RUDE)
    assert rules.offences("anything", "b A , c a b") == ("a", "c")
    assert rules.offences("a", "b d") == ()
    assert rules.is_red_team("anything")


def test_harm_offends_where_it_is_asked_for():
    rules = OffenceRules(HARM)
    assert rules.offences("how to steal a wallet", "grab it , dolt , and hide") == (
        "grab",
        "dolt",
        "hide",
    )
    assert rules.offences("what do i need for bread", "grab it , dolt") == ("dolt",)
    assert rules.is_red_team("how to steal a wallet")
    assert not rules.is_red_team("what do i need for bread")


def test_other_rules_are_refused():
    with pytest.raises(TypeError, match="SummaryRules"):
        OffenceRules(SummaryRules.__new__(SummaryRules))


def test_rule_judge_counts_different_offences():
    judge = RuleJudge(OffenceRules(RUDE))
    assert judge.score([said("a a c"), said("b"), said("c")]).values.tolist() == [-2.0, 0.0, -1.0]
    assert "no model" in judge.name
    with pytest.raises(ScorerError, match="attribution 'attention'"):
        judge.score([said("a")], attribution="attention")


def rule_critic(make_envs, rules=RUDE, **settings):
    envs = make_envs(min_new_tokens=6, **settings)
    policy = make_policy(envs, make_model(scale=2.0))
    chosen = GivenPrompts(envs, max_rows=3)
    return RuleCritic(OffenceRules(rules), policy, chosen), policy, chosen


def test_revisions_have_no_offence_and_others_stay(make_envs):
    critic, policy, chosen = rule_critic(make_envs)
    episodes = chosen.play(as_sampler(policy, seed=0), [0, 1, 2, 3] * 4)
    critiques = critic.critique(episodes, [KIND] * 16)
    faulty = [bool(critique.words) for critique in critiques]
    assert any(faulty)
    revised = critic.revise(episodes, [KIND] * 16, critiques, seed=1)
    assert critic.revise(episodes, [KIND] * 16, critiques, seed=1) == revised
    assert not any(critique.words for critique in critic.critique(revised, [KIND] * 16))
    for before, after, fault in zip(episodes, revised, faulty, strict=True):
        assert before.prompt_ids == after.prompt_ids
        assert (before == after) != fault
        assert len(after.response_ids) == 6


def test_critique_names_the_words(make_envs):
    critic, *_ = rule_critic(make_envs)
    found = critic.critique([said("a b c"), said("b")], [KIND] * 2)
    assert found == [
        Critique(text="The response says a, c.", words=("a", "c")),
        Critique(text="", words=()),
    ]
    assert "no model" in critic.name


def test_revision_keeps_what_comes_before_the_clause():
    import tokengym  # noqa: F401
    from tokengym.envs import bundled

    tokenizer = bundled("detox").tokenizer
    critic = RuleCritic.__new__(RuleCritic)
    critic.rules = OffenceRules(ToxicityRules(rude=["wobblehat"]))
    critic.chosen = type("", (), {"tokenizer": tokenizer})()
    ids = tokenizer("he stayed . she said , that wobblehat . he sat").input_ids
    kept = critic._before_offence(said("", ids=ids), ["wobblehat"])
    assert tokenizer.decode(kept) == tokenizer.decode(tokenizer("he stayed . she said ,").input_ids)
    assert critic._before_offence(said("", ids=ids[6:]), ["wobblehat"]) == []


class Scripted:
    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def __call__(self, questions):
        self.asked += questions
        return [self.answers.pop(0) for _ in questions]


def test_model_is_asked_for_critique_and_revision(tokenizer):
    answer = Scripted("It is rude.", "None.", "d e")
    critic = ModelCritic(answer, tokenizer, name="the chat model x")
    episodes = [said("a <response>b</response>"), said("b")]
    critiques = critic.critique(episodes, [KIND, KIND])
    assert [critique.text for critique in critiques] == ["It is rude.", ""]
    revised = critic.revise(episodes, [KIND, KIND], critiques, seed=0)
    assert revised[1] == episodes[1]
    assert revised[0].response == "d e"
    assert revised[0].response_ids == (*tokenizer("d e").input_ids, tokenizer.eos_token_id)
    assert "It is kind." in answer.asked[0]
    assert answer.asked[0].count("</response>") == 1  # the response's own tags are taken out
    assert "Critique: It is rude." in answer.asked[2]


@pytest.mark.parametrize(
    ("answer", "finds_fault"),
    [
        ("none", False),
        ('"None."', False),
        ("None. The response is polite.", False),
        ("No", False),
        ("no no no", False),
        ("No fault found.", False),
        ("No courtesy is shown; the response insults the reader.", True),
        ("None of it is polite.", True),
    ],
)
def test_only_an_answer_of_none_finds_no_fault(tokenizer, answer, finds_fault):
    critic = ModelCritic(Scripted(answer), tokenizer, name="x")
    (critique,) = critic.critique([said("a")], [KIND])
    assert critique.text == (answer if finds_fault else "")


def test_empty_revision_leaves_the_response(tokenizer):
    critic = ModelCritic(Scripted(" "), tokenizer, name="x")
    episode = said("a")
    assert critic.revise([episode], [KIND], [Critique(text="bad")], seed=0) == [episode]


def test_missing_answers_are_named(tokenizer):
    critic = ModelCritic(lambda questions: [], tokenizer, name="the chat model x")
    with pytest.raises(ValueError, match=r"x gave 0.*1 questions"):
        critic.critique([said("a")], [KIND])
