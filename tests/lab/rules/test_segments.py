"""Credit per segment: sums kept, one token per segment is the token rule, one segment is sparse."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.lab.judges import language_model
from tests.support.rewards.common import (
    WORDS,
    LengthScorer,
    make_classifier,
    make_episode,
    random_episodes,
)
from tokengym.envs import Episode
from tokengym.lab.rules.attribution import gradient, leave_one_out
from tokengym.lab.rules.mc import mc
from tokengym.lab.rules.scar import scar
from tokengym.rewards import Reward, RewardModel, Rule
from tokengym.rewards.credits.red import red
from tokengym.rewards.errors import CreditError
from tokengym.rewards.maths.redistribution import close_sum
from tokengym.rewards.maths.signed_parts import (
    split_before_largest,
    split_evenly,
)

LONGEST = 9
RULES: dict[str, Any] = {
    "red": lambda **options: Rule(red, **options),
    "red:beta": lambda **options: Rule(red, beta=0.5, **options),
    "gradient": partial(Rule, gradient),
    "gradient:rescale=false": lambda **options: Rule(gradient, rescale=False, **options),
    "leave-one-out": partial(Rule, leave_one_out),
    "mc": lambda **options: Rule(mc, k=2, **options),
}


class Continued:
    """Continues a response by tokens that depend on what is there, and on nothing else."""

    def finish(self, prefixes: Sequence[Episode], seeds: Any) -> list[Episode]:
        return [
            replace(
                prefix,
                response_ids=[
                    *prefix.response_ids,
                    *np.random.default_rng(prefix.response_ids).integers(3, len(WORDS), 3),
                ],
            )
            for prefix in prefixes
        ]


def evaluated(credit: Rule, episodes: Sequence[Episode], tokenizer: Any) -> list[Episode]:
    reward = Reward(RewardModel(make_classifier(), tokenizer=tokenizer), credit).bind(tokenizer)
    reward.continuations = Continued()
    return reward.evaluate(episodes)


@pytest.fixture
def episodes() -> list[Episode]:
    found = [*random_episodes(12), make_episode(response_ids=[4])]
    assert {len(episode.response_ids) for episode in found} >= {1, 2, 3, LONGEST}
    return found


@pytest.mark.parametrize("rule", RULES)
def test_segments_are_paid_in_sums_on_their_last_tokens(
    rule: str, episodes: list[Episode], tokenizer: Any
):
    paid = evaluated(RULES[rule](segments=3), episodes, tokenizer)
    dense = 0
    for episode in paid:
        assert episode.token_rewards is not None
        assert episode.score is not None
        assert close_sum(episode.score, episode.token_rewards)
        size = len(episode.response_ids)
        ends = [part[-1] for part in np.array_split(np.arange(size), min(3, size))]
        others = np.delete(episode.token_rewards, ends)
        assert not others.any()
        dense += np.count_nonzero(episode.token_rewards) == min(3, size) > 1
    assert dense > 3


@pytest.mark.parametrize("rule", RULES)
def test_segments_of_one_token_are_the_token_rule(
    rule: str, episodes: list[Episode], tokenizer: Any
):
    episodes = [episode for episode in episodes if len(episode.response_ids) <= LONGEST]
    by_token = evaluated(RULES[rule](), episodes, tokenizer)
    by_segment = evaluated(RULES[rule](segments=LONGEST), episodes, tokenizer)
    for one, other in zip(by_token, by_segment, strict=True):
        np.testing.assert_array_equal(one.token_rewards, other.token_rewards)


@pytest.mark.parametrize("rule", RULES)
def test_one_segment_is_sparse(rule: str, episodes: list[Episode], tokenizer: Any):
    for episode in evaluated(RULES[rule](segments=1), episodes, tokenizer):
        assert episode.score is not None
        expected = np.append(np.zeros(len(episode.response_ids) - 1), episode.score)
        np.testing.assert_allclose(np.asarray(episode.token_rewards), expected, atol=1e-6)


@pytest.mark.parametrize("rule", ["red", "red:beta", "mc", "leave-one-out"])
def test_a_segment_is_paid_the_sum_of_its_tokens(
    rule: str, episodes: list[Episode], tokenizer: Any
):
    by_token = evaluated(RULES[rule](), episodes, tokenizer)
    by_segment = evaluated(RULES[rule](segments=2), episodes, tokenizer)
    for one, other in zip(by_token, by_segment, strict=True):
        pieces = split_evenly(len(one.response_ids), 2)
        paid = np.asarray(one.token_rewards)
        sums = [float(paid[piece.start : piece.stop].sum()) for piece in pieces]
        expected = np.zeros(len(one.response_ids))
        expected[[piece.stop - 1 for piece in pieces]] = sums
        np.testing.assert_allclose(np.asarray(other.token_rewards), expected, atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_segments_begin_where_the_policy_was_least_certain(
    rule: str, episodes: list[Episode], tokenizer: Any, tmp_path: Path
):
    model = language_model()
    model.save_pretrained(tmp_path / "policy")
    credit = RULES[rule](segments=3, cut="entropy").with_reference(tmp_path / "policy")
    moved = 0
    for episode in evaluated(credit, episodes, tokenizer):
        prompt, response = list(episode.prompt_ids), list(episode.response_ids)
        entropies = []
        for t in range(1, len(response)):  # the first token begins a segment anyway
            with torch.no_grad():
                logits = model(torch.tensor([prompt + response[:t]])).logits[0, -1].double()
            entropies.append(float(torch.distributions.Categorical(logits=logits).entropy()))
        highest = sorted(1 + np.argsort(entropies)[::-1][:2])
        ends = [*(int(start) - 1 for start in highest), len(response) - 1]
        assert episode.token_rewards is not None
        assert episode.score is not None
        assert close_sum(episode.score, episode.token_rewards)
        assert set(np.flatnonzero(episode.token_rewards)) <= set(ends)
        even = split_evenly(len(response), 3)
        moved += ends != [piece.stop - 1 for piece in even]
    assert moved > 5


def test_spans_begin_at_the_largest_values():
    assert split_before_largest([9.0, 1.0, 5.0, 5.0, 2.0], 2) == [range(2), range(2, 5)]
    assert split_before_largest([9.0, 1.0, 5.0], 9) == [range(1), range(1, 2), range(2, 3)]
    assert split_before_largest([9.0, 1.0, 5.0], 1) == [range(3)]
    assert split_before_largest([9.0], 4) == [range(1)]


def test_bad_segments_are_refused():
    with pytest.raises(CreditError, match=r"segments.*>= 1.*got 0"):
        Rule(mc, segments=0)
    with pytest.raises(CreditError, match=r"segments.*>= 1.*got True"):
        Rule(scar, segments=True)
    with pytest.raises(CreditError, match=r"cut must be 'even', 'entropy', .*got 'odd'"):
        Rule(scar, segments=2, cut="odd")
    with pytest.raises(CreditError, match="cut='entropy'"):
        Rule(mc, cut="entropy")
    with pytest.raises(CreditError, match=r"'scar' reads a frozen .*scar:reference=PATH"):
        Reward(LengthScorer(), Rule(scar, segments=2, cut="entropy")).evaluate([make_episode()])
