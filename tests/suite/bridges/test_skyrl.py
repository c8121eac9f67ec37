"""SkyRL's generator output and registry, by the signatures of SkyRL 0.3.0."""

from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from tests.support.paid_words import LONG, PROMPT, SHORT, TOKENIZER, by_length, credit
from tokengym import TokenCredit, shares, token_credit
from tokengym.base.errors import SettingsError
from tokengym.bridges.registries import registered
from tokengym.bridges.skyrl import credited, register

IDS = [LONG, SHORT]


def output(**changes: Any) -> dict[str, Any]:
    return {
        "prompt_token_ids": [PROMPT] * 2,
        "response_ids": IDS,
        "rewards": [0.0, 0.0],
        "loss_masks": [[1] * len(ids) for ids in IDS],
        "stop_reasons": ["stop", "stop"],
        **changes,
    }


CREDIT = credit()


def test_steps_of_a_trajectory_are_refused():
    """Per-step rewards would be broadcast at other steps' positions (SkyRL's pull request 1507)."""
    with pytest.raises(SettingsError, match=r"1 of 2 rows.*trajectory"):
        credited(output(is_last_step=[False, True]), CREDIT)


def test_tokens_of_the_environment_are_not_paid():
    """SkyRL's loss_masks are 0 at what the environment said."""
    masks = [[1, 0, *[1] * (len(IDS[0]) - 2)], [1, 0, *[1] * (len(IDS[1]) - 2)]]
    found = credited(output(loss_masks=masks), CREDIT)
    for row, ids, mask in zip(found["rewards"], IDS, masks, strict=True):
        score = by_length("", str(TOKENIZER.decode(ids)))
        assert row == pytest.approx([score / sum(mask) * own for own in mask], rel=1e-6)
    assert found["loss_masks"] == masks


def test_responses_that_skyrl_filtered_out_are_not_scored():
    """Its apply_overlong_filtering makes the whole loss mask of a response without EOS 0."""
    masks = [[0] * len(IDS[0]), [1] * len(IDS[1])]
    found = credited(output(loss_masks=masks), CREDIT)["rewards"]
    assert found == [[0.0] * len(IDS[0]), credited(output(), CREDIT)["rewards"][1]]
    masks[1] = [0] * len(IDS[1])
    assert credited(output(loss_masks=masks), CREDIT)["rewards"] == masks


def test_responses_that_skyrl_filtered_out_are_a_baseline_of_0():
    """SkyRL's estimators get the response mask, which is 1 where the loss mask is 0."""
    ids = [IDS[0]] * 3  # each worth 3, a token 1
    found = credited(
        {
            "prompt_token_ids": [PROMPT] * 3,
            "response_ids": ids,
            "loss_masks": [[1] * 3, [1] * 3, [0] * 3],
        },
        CREDIT,
    )["rewards"]
    assert found == [[1.0] * 3, [1.0] * 3, [0.0] * 3]
    advantages, _ = registered("loo", "skyrl")(torch.tensor(found), torch.ones(3, 3), ["a"] * 3)
    # G = 3, 2, 1 in the first two; minus the mean of the other's and of 0.
    assert advantages.tolist() == [[1.5, 1.0, 0.5], [1.5, 1.0, 0.5], [-3.0, -2.0, -1.0]]


def test_a_rule_reads_the_log_probs_of_the_rollout():
    @token_credit
    def surprise(scores: Any, log_probs: Any, response_mask: Any) -> Any:
        return scores[:, None] * shares(-log_probs, response_mask)

    rule = TokenCredit(CREDIT.reward.scorer, surprise, tokenizer=CREDIT.tokenizer)
    row = {"prompt_token_ids": [PROMPT], "response_ids": [LONG], "loss_masks": [[1] * 3]}
    (paid,) = credited({**row, "rollout_logprobs": [[-1.0, -2.0, -1.0]]}, rule)["rewards"]
    assert paid[0] == paid[2]
    assert paid[1] == pytest.approx(2 * paid[0])
    assert paid[1] > 0
    with pytest.raises(SettingsError, match=r"'log_probs'.*sampling_params\.logprobs=1"):
        credited({**row, "rollout_logprobs": None}, rule)


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

        @classmethod
        def get(cls, name: str) -> Any:
            return cls.found[name]

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
        register(None, config=config)
