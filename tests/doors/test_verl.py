"""verl: its registry, its configuration and its own loop with our rewards."""

import asyncio
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokengym_audit
import torch
import verl
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from verl.experimental.agent_loop.agent_loop import DictConfigWrap
from verl.trainer.ppo import core_algos

from tests.support.paid_words import ADVANTAGES, LONG, PROMPT, SHORT, TOKENIZER, credit
from tokengym import TokenCredit
from tokengym.bridges.verl_loop import credited
from tokengym.envs import bundled

BUNDLE = bundled("movie_review")
CONFIG = Path(verl.__file__).parent / "trainer" / "config"


def test_the_plugin_registers_the_estimators_and_they_are_ours_by_hand() -> None:
    estimate = core_algos.get_adv_estimator_fn("tokengym_loo")  # known by the entry point alone
    rewards = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    advantages, returns = estimate(
        token_level_rewards=rewards,
        response_mask=rewards,
        index=np.array(["p", "p"], dtype=object),
        config=OmegaConf.create({"gamma": 1.0}),
    )
    assert advantages.tolist() == [ADVANTAGES[0], [*ADVANTAGES[1], 0.0]]
    assert returns is advantages


def a_loop(rule: str) -> Any:
    """Return our loop over verl's own, as Hydra makes it, with a server that answers."""
    from verl.workers.rollout.replica import TokenOutput

    with initialize_config_dir(str(CONFIG), version_base=None):
        config = compose("ppo_trainer")

    class Server:
        async def generate(self, *_: Any, **__: Any) -> Any:
            return TokenOutput(token_ids=LONG, log_probs=[-1.0] * len(LONG))

    BUNDLE.tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    return instantiate(
        {"_target_": "tokengym.bridges.verl_loop.TokenCreditLoop",
         "scorer": str(BUNDLE.reward_model), "credit": rule},
        trainer_config=DictConfigWrap(config), server_manager=Server(), tokenizer=BUNDLE.tokenizer,
        processor=None, dataset_cls=types.SimpleNamespace(),
        data_config=DictConfigWrap(config.data),
    )  # fmt: skip


def test_verls_own_loop_pays_our_tokens() -> None:
    messages = [{"role": "user", "content": "i saw"}]

    async def play() -> Any:
        return await a_loop("abc-signed").run({}, raw_prompt=messages)

    output = asyncio.run(play())
    found = output.as_dict()["rm_scores"]
    own = TokenCredit(BUNDLE.reward_model, "abc-signed", tokenizer=BUNDLE.tokenizer)
    expected = own([LONG], prompts=[output.prompt_ids])
    torch.testing.assert_close(found, torch.from_numpy(expected.token_rewards[0]))
    assert output.reward_score == pytest.approx(float(expected.scores[0]))


def test_an_output_of_verl_is_paid_a_point_a_word() -> None:
    from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput

    plain = AgentLoopOutput(
        prompt_ids=PROMPT, response_ids=SHORT, response_mask=[1] * 2, metrics=AgentLoopMetrics()
    )
    assert credited(plain, credit()).as_dict()["rm_scores"].tolist() == pytest.approx([1.0, 1.0])
    assert TOKENIZER.decode(SHORT) == "a film"


TOKENS = {"gae", "reinforce_plus_plus", "optimal_token_baseline", "tir_optimal_token_baseline"}
"""Estimators of verl that promise to read a reward a token; the others read their sum."""


def estimators() -> dict[str, Any]:
    """Return all of verl's registry, ours included, by name."""
    return {getattr(name, "value", name): function
            for name, function in core_algos.ADV_ESTIMATOR_REGISTRY.items()}  # fmt: skip


@pytest.mark.parametrize("name", sorted(estimators()))
def test_a_registered_estimator_follows_the_gradient(name: str) -> None:
    by_token = name in TOKENS or name.startswith("tokengym")
    audit = tokengym_audit.check_estimator(
        estimators()[name], adapter="verl", name=name, pays="tokens" if by_token else "outcome"
    )
    # pass@k is another objective: in large groups it pays nobody, as several score the best.
    assert audit.holds == (name != "grpo_passk"), str(audit)
