"""SkyRL's generator output and registry, by the signatures of SkyRL 0.3.0."""

from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from tokengym.base.errors import SettingsError
from tokengym.bridges.advantages import estimate
from tokengym.bridges.skyrl import credited, register
from tokengym.credit import TokenCredit
from tokengym.envs import bundled

TOKENIZER = bundled("movie_review").tokenizer
IDS = [TOKENIZER(text)["input_ids"] for text in ("a dull film", "a film")]


def output(**changes: Any) -> dict[str, Any]:
    return {
        "prompt_token_ids": [TOKENIZER("i saw")["input_ids"]] * 2,
        "response_ids": IDS,
        "rewards": [0.0, 0.0],
        "loss_masks": [[1] * len(ids) for ids in IDS],
        "stop_reasons": ["stop", "stop"],
        **changes,
    }


def by_length(prompt: str, response: str) -> float:
    return float(len(response.split()))


def test_every_token_of_every_response_is_paid_at_its_own_place():
    credit = TokenCredit(by_length, "uniform", tokenizer=TOKENIZER)
    found = credited(output(), credit)
    assert [len(row) for row in found["rewards"]] == [len(ids) for ids in IDS]
    for row, ids in zip(found["rewards"], IDS, strict=True):
        assert sum(row) == pytest.approx(by_length("", str(TOKENIZER.decode(ids))), rel=1e-6)
    assert found["stop_reasons"] == ["stop", "stop"]


def test_sparse_is_skyrls_own_score_on_the_last_token():
    """Its trainer makes a list of a number: 0 at every token but the last."""
    credit = TokenCredit(by_length, "sparse", tokenizer=TOKENIZER)
    scores = [by_length("", str(TOKENIZER.decode(ids))) for ids in IDS]
    own = [[0.0] * (len(ids) - 1) + [score] for ids, score in zip(IDS, scores, strict=True)]
    assert credited(output(), credit)["rewards"] == own


def test_steps_of_a_trajectory_are_refused():
    """Per-step rewards would be broadcast at other steps' positions (SkyRL's pull request 1507)."""
    credit = TokenCredit(by_length, "uniform", tokenizer=TOKENIZER)
    with pytest.raises(SettingsError, match=r"1 of 2 rows.*trajectory"):
        credited(output(is_last_step=[False, True]), credit)


def test_tokens_of_the_environment_are_not_paid():
    """SkyRL's loss_masks are 0 at what the environment said."""
    credit = TokenCredit(by_length, "uniform", tokenizer=TOKENIZER)
    masks = [[1, 0, *[1] * (len(IDS[0]) - 2)], [1, 0, *[1] * (len(IDS[1]) - 2)]]
    found = credited(output(loss_masks=masks), credit)
    for row, ids, mask in zip(found["rewards"], IDS, masks, strict=True):
        score = by_length("", str(TOKENIZER.decode(ids)))
        assert row == pytest.approx([score / sum(mask) * own for own in mask], rel=1e-6)
    assert found["loss_masks"] == masks


def test_responses_that_skyrl_filtered_out_are_not_scored():
    """Its apply_overlong_filtering makes the whole loss mask of a response without EOS 0."""
    credit = TokenCredit(by_length, "uniform", tokenizer=TOKENIZER)
    masks = [[0] * len(IDS[0]), [1] * len(IDS[1])]
    found = credited(output(loss_masks=masks), credit)["rewards"]
    assert found == [[0.0] * len(IDS[0]), credited(output(), credit)["rewards"][1]]
    masks[1] = [0] * len(IDS[1])
    assert credited(output(loss_masks=masks), credit)["rewards"] == masks


def test_responses_that_skyrl_filtered_out_are_a_baseline_of_0():
    """SkyRL's estimators get the response mask, which is 1 where the loss mask is 0."""
    credit = TokenCredit(by_length, "uniform", tokenizer=TOKENIZER)
    ids = [IDS[0]] * 3  # each worth 3, a token 1
    found = credited(
        {
            "prompt_token_ids": [TOKENIZER("i saw")["input_ids"]] * 3,
            "response_ids": ids,
            "loss_masks": [[1] * 3, [1] * 3, [0] * 3],
        },
        credit,
    )["rewards"]
    assert found == [[1.0] * 3, [1.0] * 3, [0.0] * 3]
    advantages, _ = estimate(torch.tensor(found), torch.ones(3, 3), ["a"] * 3)
    # G = 3, 2, 1 in the first two; minus the mean of the other's and of 0.
    assert advantages.tolist() == [[1.5, 1.0, 0.5], [1.5, 1.0, 0.5], [-3.0, -2.0, -1.0]]


@pytest.mark.parametrize("mask", [[0, 1], [1] * 9])
def test_a_mask_that_does_not_fit_is_refused(mask):
    credit = TokenCredit(by_length, "uniform", tokenizer=TOKENIZER)
    masks = [[1] * len(IDS[0]), (mask + [1] * len(IDS[1]))[: max(len(mask), len(IDS[1]))]]
    with pytest.raises(ValueError, match=r"written has.*token"):
        credited(output(loss_masks=masks), credit)


def test_estimators_are_called_as_skyrl_calls_its_own():
    class Registry:
        found: ClassVar[dict[str, Any]] = {}

        @classmethod
        def register(cls, name: str, function: Any) -> None:
            if name in cls.found:
                raise ValueError(f"Advantage estimator '{name}' already registered")
            cls.found[name] = function

        @classmethod
        def list_available(cls) -> list[str]:
            return [*cls.found]

    for _ in range(2):
        register(Registry)
    advantages, _ = Registry.found["tokengym_loo"](
        token_level_rewards=torch.tensor([[2.0], [1.0]]),
        response_mask=torch.tensor([[1.0], [1.0]]),
        index=np.array(["a", "a"]),
        values=None,
        grpo_norm_by_std=True,
        gamma=1.0,
        lambd=1.0,
        config=None,
    )
    assert advantages.tolist() == [[1.0], [-1.0]]


def test_a_filter_that_token_rewards_pass_by_is_refused():
    config: Any = SimpleNamespace(
        trainer=SimpleNamespace(algorithm=SimpleNamespace(zero_variance_filter=True))
    )
    with pytest.raises(SettingsError, match="zero_variance_filter=true"):
        register(None, config)
