"""Responses are drawn, scored and paired; data sets survive the disk."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.agents.collecting import episode
from tests.support.agents.common import PROMPTS, make_model, target_share
from tests.support.rules import rule_of
from tokengym.agents import RandomAgent
from tokengym.agents.offline.collecting import (
    KEPT,
    ResponseCollector,
    Sampling,
    _Collected,
    best_rows,
    pair_rows,
    prompt_order,
    response_rows,
)
from tokengym.agents.offline.policies import make_policy
from tokengym.agents.offline.settings import DPOSettings, SFTSettings
from tokengym.base.errors import DatasetError, SettingsError
from tokengym.rewards import FunctionScorer, Normalize, Reward
from tokengym.rewards.pairs.store import PAIR_COLUMNS


def test_groups_belong_to_their_prompts(make_envs):
    envs = make_envs()
    collector = ResponseCollector(envs, sampling=Sampling(n=3), max_rows=5)
    groups = collector.collect(RandomAgent(envs, seed=0), [3, 0, 3])
    assert [[e.prompt for e in group] for group in groups] == [[PROMPTS[i]] * 3 for i in (3, 0, 3)]
    flat = [e for group in groups for e in group]
    assert [e.score for e in flat] == pytest.approx([target_share("", e.response) for e in flat])
    assert collector.num_tokens == sum(len(e.response_ids) for e in flat)


def test_same_seed_same_responses(make_envs):
    envs = make_envs()
    policy = make_policy(envs, make_model())
    collector = ResponseCollector(envs, sampling=Sampling(n=4))
    one, two, other = (collector.collect(policy, [0, 1], seed=s) for s in (5, 5, 6))
    assert one == two
    assert one != other


def test_temperatures_share_the_responses_and_are_put_back(make_envs):
    envs = make_envs()
    policy = make_policy(envs, make_model(), temperature=2.0)
    cold = ResponseCollector(envs, sampling=Sampling(n=8, temperatures=(1.0, 1e-6)))
    (group,) = cold.collect(policy, [2], seed=0)
    assert len({e.response_ids for e in group[4:]}) == 1  # at 1e-6 only the likeliest is left
    assert len({e.response_ids for e in group[:4]}) > 1
    assert policy.temperature == 2.0
    with pytest.raises(TypeError, match=r"RandomAgent.*temperature"):
        cold.collect(RandomAgent(envs), [2])


def test_scorer_is_the_environments_without_normalisation(make_envs):
    scorer = FunctionScorer(target_share)
    envs = make_envs(reward=Reward(Normalize(scorer), rule_of("sparse")))
    assert ResponseCollector(envs).scorer is scorer
    with pytest.raises(ValueError, match="nothing to score"):
        ResponseCollector(envs.unwrapped)


def test_pairs_and_best_responses():
    groups = [
        (episode("low", 0.0), episode("high", 2.0), episode("mid", 1.0)),
        (episode("tie", 1.0), episode("too", 1.0)),
    ]
    (row,) = pair_rows(groups, Sampling(n=3), [7, 8])
    assert list(row) == list(PAIR_COLUMNS)
    assert (row["chosen"], row["rejected"]) == ("high", "low")
    assert (row["chosen_ids"], row["rejected_ids"]) == ([3, 4], [3, 3])
    assert (row["chosen_score"], row["rejected_score"], row["prompt_id"]) == (2.0, 0.0, 7)
    best = best_rows(groups, Sampling(n=3), [7, 8])
    assert [(r["response"], r["prompt_id"]) for r in best] == [("high", 7), ("tie", 8)]
    assert len(response_rows(groups, Sampling(n=3), [7, 8])) == 5
    assert pair_rows(groups, Sampling(n=3, min_gap=2.0), [7, 8]) == []
    assert len(pair_rows(groups, Sampling(n=3, min_gap=1.9), [7, 8])) == 1
    # At 3 a character "high" is worth 2 - 12, "low" 0 - 9 and "mid" 1 - 9.
    (short,) = pair_rows(groups, Sampling(n=3, length_penalty=3.0), [7, 8])
    assert (short["chosen"], short["rejected"]) == ("mid", "high")
    assert best_rows(groups, Sampling(n=3, length_penalty=3.0), [7, 8])[0]["response"] == "mid"


def test_conversations_make_no_rows():
    """Rows of ids would have the partner's words learned as the policy's."""
    talks = tuple(
        replace(episode(text, score), written=[1, 0]) for text, score in (("a", 1), ("b", 2))
    )
    for kept in KEPT.values():
        with pytest.raises(DatasetError, match="partner's replies"):
            kept.rows([talks], Sampling(n=2), [0])


def test_held_out_data_has_prompts_of_its_own(make_envs):
    prompts = [f"{x} {y}" for x in "bcde" for y in "bcd"]
    envs = make_envs(prompts=prompts)
    settings = DPOSettings(num_prompts=7, num_eval_prompts=4, sampling=Sampling(n=2))
    run: Any = SimpleNamespace(settings=settings, seed=0)
    source = _Collected(run, envs, RandomAgent(envs, seed=0), KEPT["all"])
    learned = {row["prompt"] for row in source.train().to_list()}
    held_out = source.held_out()
    assert held_out is not None
    measured = {row["prompt"] for row in held_out.to_list()}
    assert (len(learned), len(measured)) == (7, 4)
    assert not learned & measured
    assert learned | measured < {*prompts}


def test_prompt_order_goes_through_all_before_any_comes_again():
    order = prompt_order(4, 10, seed=3)
    assert sorted(order[:4]) == sorted(order[4:8]) == [0, 1, 2, 3]
    assert prompt_order(4, 3, seed=3, skip=7) == order[7:10]
    with pytest.raises(ValueError, match="num_prompts must be >= 1"):
        prompt_order(0, 1, seed=0)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"n": 5, "temperatures": (1.0, 0.7)}, r"n=5 and temperatures=\(1.0, 0.7\)"),
        ({"temperatures": (0.0,)}, "temperatures.*> 0.*, got 0.0"),
        ({"temperatures": (math.inf,)}, "temperatures.*> 0.*, got inf"),
        ({"length_penalty": -0.1}, r"length_penalty.*got -0\.1"),
        ({"min_gap": math.inf}, "min_gap.*got inf"),
    ],
)
def test_bad_sampling_is_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        Sampling(**settings)


def test_one_response_makes_no_pair():
    with pytest.raises(SettingsError, match=r"n.*2.*got 1"):
        DPOSettings(sampling=Sampling(n=1))
    assert DPOSettings(pairs="pairs.jsonl", sampling=Sampling(n=1)).sampling.n == 1
    assert SFTSettings(sampling=Sampling(n=1)).sampling.n == 1
