# mypy: no-check-untyped-defs
"""Several accounts of the tokens of one batch, asked of a scorer or a model in one pass."""

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from tests.support.rewards.common import make_episode, random_episodes
from tests.support.rewards.known import SHORT, TALK, Known
from tests.support.rewards.last_row import CONFIGS
from tests.support.rewards.readings import build
from tokengym.rewards import (
    Cached,
    FunctionScorer,
    Normalize,
    PolicyReader,
    Reward,
    RewardModel,
    ScorerError,
    WithAttribution,
    token_credit,
)
from tokengym.rewards.credits import inputs as inputs_module
from tokengym.rewards.credits.inputs import Inputs
from tokengym.rewards.scorers.wrappers import TimeLimit

KINDS = ["prefix", "attention", "signed-attention"]


def length(prompt, response):
    return float(len(response))


def count_passes(module):
    """Return a list that grows by one entry with each pass of a module."""
    passes: list[int] = []
    module.register_forward_hook(lambda *_: passes.append(1))
    return passes


def same(one, other, rtol=1e-6):
    np.testing.assert_allclose(one.values, other.values, rtol=rtol, atol=1e-6)
    for ours, theirs in zip(one.attributions, other.attributions, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=1e-6)
    assert (one.signed, one.additive) == (other.signed, other.additive)


@pytest.mark.parametrize("name", CONFIGS)
def test_one_pass_gives_what_a_pass_for_each_kind_does(name):
    episodes, model = random_episodes(7, vocab_size=40), build(name)
    alone = {kind: RewardModel(model).score(episodes, attribution=kind) for kind in KINDS}
    passes = count_passes(getattr(model, model.base_model_prefix))
    for kinds in (KINDS, KINDS[::-1], KINDS[:2]):
        together = RewardModel(model, batch_size=7).score_accounts(episodes, kinds)
        assert [*together] == kinds
        for kind, scores in together.items():
            same(scores, alone[kind])
    assert len(passes) == 3
    assert all(one.grad is None for one in model.parameters())


@pytest.mark.parametrize(
    "around",
    [
        lambda model: model,
        Normalize,
        Cached,
        lambda model: TimeLimit(model, 60.0),
        lambda model: WithAttribution(FunctionScorer(length), model),
        lambda model: 2 * model,
        lambda model: FunctionScorer(length) + Cached(model),
    ],
)
def test_a_rule_of_several_accounts_costs_one_pass_through_any_wrapper(around):
    def three(paid, attention, signed_attention, prefix_scores, response_mask):
        seen.append((attention, signed_attention, prefix_scores))
        return paid[:, None] / response_mask.sum(1, keepdim=True) * response_mask

    seen = []
    episodes, model = random_episodes(5), build("gpt2")
    wrapped = around(RewardModel(model))
    kinds = [kind for kind in KINDS if kind in wrapped.attribution_kinds]
    assert kinds == KINDS
    passes = count_passes(model.transformer)
    scored = Reward(wrapped, token_credit(three)).evaluate(episodes)
    assert len(passes) == 1
    assert all(episode.score is not None for episode in scored)
    alone = around(RewardModel(model))
    expected = [alone.score(episodes, attribution="attention").attributions]
    np.testing.assert_allclose(
        seen[0][0][0, : len(expected[0][0])].numpy(), expected[0][0], rtol=1e-6
    )


def test_running_statistics_move_once_for_several_accounts():
    twice = Normalize(Known())
    together = twice.score_accounts([TALK, SHORT], ["attention", "prefix"])
    once = Normalize(Known())
    expected = once.score([TALK, SHORT], attribution="prefix")
    assert twice.state_dict() == once.state_dict()
    same(together["prefix"], expected)
    assert together["attention"].values.tolist() == expected.values.tolist()


def test_a_score_of_ones_own_is_asked_kind_by_kind():
    class Doubled(RewardModel):
        def score(self, episodes, *, attribution=None):
            scores = super().score(episodes, attribution=attribution)
            return scores.with_attributions(
                [2 * row for row in scores.attributions], signed=scores.signed
            )

    episodes, model = random_episodes(3), build("gpt2")
    doubled = Doubled(model).score_accounts(episodes, KINDS)
    plain = RewardModel(model).score_accounts(episodes, KINDS)
    for kind in KINDS:
        for ours, theirs in zip(doubled[kind].attributions, plain[kind].attributions, strict=True):
            np.testing.assert_allclose(ours, 2 * theirs, rtol=1e-5, atol=1e-6)
    with pytest.raises(ScorerError, match="no attribution 'relevance'"):
        RewardModel(model).score_accounts(episodes, ["attention", "relevance"])


def test_a_cache_is_asked_for_an_account_either_way():
    episodes, model = random_episodes(3), build("gpt2")
    for first, second in ((0, 1), (1, 0)):
        cache = Cached(RewardModel(model))
        asked = (
            lambda cache=cache: cache.score(episodes, attribution="attention"),
            lambda cache=cache: cache.score_accounts(episodes, ["attention"])["attention"],
        )
        same(asked[first](), asked[second]())


def test_the_score_of_a_mixin_is_asked_too():
    class Halved:
        def score(self, episodes, *, attribution=None):
            scores = super().score(episodes, attribution=attribution)
            return scores.with_attributions(
                [row / 2 for row in scores.attributions], signed=scores.signed
            )

    class Mine(Halved, RewardModel):
        pass

    class Further(Mine):
        pass

    episodes, model = random_episodes(3), build("gpt2")
    plain = RewardModel(model).score_accounts(episodes, KINDS)["attention"]
    for kind in (Mine, Further):
        halved = kind(model).score_accounts(episodes, KINDS)["attention"]
        for ours, theirs in zip(halved.attributions, plain.attributions, strict=True):
            np.testing.assert_allclose(ours, theirs / 2, rtol=1e-5, atol=1e-6)


def test_names_that_will_be_read_come_with_the_first():
    scorer = Known()
    inputs = Inputs([TALK, SHORT], scorer=scorer, reads=("attention", "scores", "relevance"))
    assert inputs["scores"].tolist() == [50, 20]
    assert inputs["relevance"].shape == inputs["attention"].shape == (2, 3)
    assert inputs.asked[:3] == ["scores", "paid", "score(attention, relevance)"]
    assert scorer.asked == ["attention", "relevance"]  # no pass of its own gives both


def test_a_language_model_reads_once_for_log_probs_and_entropy():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=40, n_positions=32, n_embd=32, n_layer=1, n_head=2)
    reader = PolicyReader(GPT2LMHeadModel(config))
    episodes = random_episodes(3, vocab_size=40)
    expected = reader.log_probs(episodes), reader.entropies(episodes)
    passes = count_passes(reader.model.transformer)
    both = Inputs(episodes, reference=reader, reads=("ref_log_probs", "ref_entropy"))
    of_model = Inputs(episodes).under(reader, ("ref_log_probs", "ref_entropy"))
    for one, other in (
        (both["ref_log_probs"], both["ref_entropy"]),
        (of_model["ref_log_probs"], of_model["ref_entropy"]),
    ):
        for row, episode in enumerate(episodes):
            size = len(episode.response_ids)
            np.testing.assert_array_equal(one[row, :size], expected[0][row])
            np.testing.assert_array_equal(other[row, :size], expected[1][row])
    assert len(passes) == 2
    Inputs(episodes, reference=reader)["ref_log_probs"]
    assert len(passes) == 3


def test_a_language_model_reads_no_response_without_a_token_before_it():
    config = GPT2Config(vocab_size=40, n_positions=32, n_embd=32, n_layer=1, n_head=2)
    reader = PolicyReader(GPT2LMHeadModel(config))
    with pytest.raises(ScorerError, match=r"at least one token before .* a prompt is empty; pass"):
        Inputs([make_episode(()), make_episode()], reference=reader)["ref_entropy"]
    (empty,) = reader.log_probs([make_episode((), ())])
    assert empty.size == 0


def test_slices_of_score_without_give_the_numbers_and_the_scorings_of_one_call(
    tokenizer, monkeypatch
):
    asked: list[str] = []

    def words(prompt, response):
        asked.append(response)
        return float(len(response.split())) + 0.1 * len(response)

    def ask():
        asked.clear()
        scorer = FunctionScorer(words)
        return Inputs([TALK, SHORT, make_episode(response_ids=[5] * 20)], scorer=scorer, **named)[
            "score_without"
        ]

    named = {"tokenizer": tokenizer}
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(3, 40, 20, generator=generator) < 0.3
    masks[:, 20:] = masks[:, :20]  # the same questions again
    whole, count = ask()(masks), len(asked)
    one = ask()
    sliced = torch.cat([one(masks[:, at : at + 7]) for at in range(0, 40, 7)], dim=1)
    assert torch.equal(sliced, whole)
    assert len(asked) == count
    monkeypatch.setattr(inputs_module, "MAX_TEXTS", 4)
    assert torch.equal(ask()(masks), whole)
    assert len(asked) == count
