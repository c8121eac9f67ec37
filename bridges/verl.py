r"""Token credit in verl: an advantage estimator, and a reward manager that pays tokens.

verl hands its estimators token-level rewards, and asks a reward manager for them on one path: a
colocated reward model, in place of which it calls the manager where there is a reward function:

    python -m verl.trainer.main_ppo algorithm.adv_estimator=tokengym_loo \
        reward.reward_model.enable=True reward.reward_model.enable_resource_pool=False \
        reward.reward_manager.source=importlib reward.reward_manager.name=TokenCreditManager \
        reward.reward_manager.module.path=pkg://tokengym.bridges.verl \
        reward.custom_reward_function.path=pkg://tokengym.bridges.verl \
        +reward.tokengym.credit=abc-signed +reward.tokengym.scorer=path/to/reward_model

The module registers the estimators when verl imports it. Written from verl's source of January 2026
(`register_adv_est` of verl.trainer.ppo.core_algos) and of its reward loop of August 2026
(`compute_score`, `assemble_rm_scores`); it was called with hand-made tensors and not run inside
verl. verl's own "grpo", "rloo", "opo" and "gpg" sum token rewards to one score, so that credit has
no effect under them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tokengym.base.errors import SettingsError
from tokengym.bridges.advantages import REGISTERED
from tokengym.credit import TokenCredit


def register(decorate: Callable[[str], Callable[[Any], Any]]) -> None:
    """Make the estimators known to verl.

    Args:
        decorate: ``verl.trainer.ppo.core_algos.register_adv_est``.
    """
    for name, function in REGISTERED.items():
        decorate(name)(function)


def compute_score(*_: Any, **__: Any) -> float:
    """Stand for verl's reward function, with which verl calls the manager; score nothing.

    Raises:
        SettingsError: always; `TokenCreditManager` does not call it.
    """
    raise SettingsError(
        "verl scores with another reward manager than tokengym's; set "
        "reward.reward_manager.source=importlib, name=TokenCreditManager and "
        "module.path=pkg://tokengym.bridges.verl"
    )


class TokenCreditManager:
    """A reward manager of verl's reward loop: each response's score is its tokens' rewards.

    Args:
        config: verl's whole configuration; ``reward.tokengym`` has ``credit`` and ``scorer``.
        tokenizer: The policy's.
        others: What else verl passes; not read.

    Raises:
        SettingsError: if the configuration does not say what scores.
    """

    def __init__(self, config: Any, tokenizer: Any, *others: Any, **named: Any) -> None:
        del others, named
        options = config["reward"].get("tokengym") or {}
        if "scorer" not in options:
            raise SettingsError(
                "verl's configuration does not say what scores; add "
                "+reward.tokengym.scorer=path/to/reward_model"
            )
        credit = options.get("credit", "abc-signed")
        self._credit = TokenCredit(options["scorer"], credit, tokenizer=tokenizer)

    async def run_single(self, data: Any) -> dict[str, Any]:
        """Return the token rewards of the one response of a batch as its score."""
        (item,) = (data[index] for index in range(len(data)))
        prompt, response = (_own_ids(item.batch, name) for name in ("prompts", "responses"))
        written = None
        if "response_mask" in item.batch.keys():  # 0 at what tools and users said
            written = [_own_ids(item.batch, "response_mask")]
        truth = item.non_tensor_batch.get("reward_model", {}).get("ground_truth")
        credited = self._credit([response], prompts=[prompt], references=[truth], written=written)
        return {
            "reward_score": credited.token_rewards[0].tolist(),
            "reward_extra_info": {"score": float(credited.scores[0])},
        }

    @classmethod
    def assemble_rm_scores(cls, data: Any, scores: Sequence[Sequence[float]]) -> Tensor:
        """Return the token rewards of a batch, (batch, time) float32.

        Raises:
            SettingsError: if verl scored with its own reward model.
        """
        if any(isinstance(paid, int | float) for paid in scores):
            raise SettingsError(
                "verl scored with its own reward model, one score a response; add "
                "reward.custom_reward_function.path=pkg://tokengym.bridges.verl"
            )
        token_rewards = torch.zeros(data.batch["responses"].shape, dtype=torch.float32)
        for row, paid in enumerate(scores):
            token_rewards[row, : len(paid)] = torch.tensor(paid)
        return token_rewards


def _own_ids(batch: Any, name: str) -> list[int]:
    """Return a row's prompt, padded on the left, or response or its mask, on the right."""
    ids, mask = batch[name], batch["attention_mask"].bool()
    length = batch["prompts"].shape[-1]
    # verl's attention mask is of prompt and response together, (prompt time + response time,).
    part = mask[:length] if name == "prompts" else mask[length : length + ids.shape[-1]]
    return [int(token) for token in ids[part]]


if importlib.util.find_spec("verl") is not None:
    from verl.trainer.ppo.core_algos import register_adv_est

    register(register_adv_est)
