"""verl's two doors, by the signatures of verl 0.9.1 (`tests.support.verl`).

``register_adv_est`` and ``compute_advantage`` are those of ``verl.trainer.ppo.core_algos``.
"""

import asyncio
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.support import verl as stub
from tokengym import TokenCredit, shares, token_credit
from tokengym.base.errors import SettingsError
from tokengym.bridges import verl
from tokengym.bridges.verl import register
from tokengym.envs import bundled

BUNDLE = bundled("movie_review")
PROMPT, RESPONSE = (
    BUNDLE.tokenizer("i saw")["input_ids"],
    BUNDLE.tokenizer("a dull film")["input_ids"],
)


@pytest.fixture
def doors(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the agent loops, on verl's classes."""
    stub.install(monkeypatch)
    return importlib.import_module("tokengym.bridges.verl_loop")


def output(mask: list[int] | None = None) -> stub.AgentLoopOutput:
    mask = [1] * len(RESPONSE) if mask is None else mask
    return stub.AgentLoopOutput(prompt_ids=PROMPT, response_ids=RESPONSE, response_mask=mask)


def run(loop: Any, **row: Any) -> Any:
    return asyncio.run(loop.run({}, **row))


def test_estimators_are_called_as_verl_calls_its_own():
    registry: dict[str, Any] = {}

    def register_adv_est(name: str) -> Callable[[Any], Any]:
        def decorator(fn: Any) -> Any:
            if name in registry and registry[name] != fn:
                raise ValueError(f"Adv estimator {name} has already been registered")
            return registry.setdefault(name, fn)

        return decorator

    register(register_adv_est)
    again = importlib.util.spec_from_file_location("custom_module", verl.__file__)
    module = importlib.util.module_from_spec(again)
    again.loader.exec_module(module)  # as verl loads a path: anew each time
    module.register(register_adv_est)
    assert set(registry) == {"tokengym_loo", "tokengym_reinforce"}
    advantages, returns = registry["tokengym_loo"](
        token_level_rewards=torch.tensor([[1.0, 1.0], [0.0, 3.0]]),
        response_mask=torch.tensor([[1, 1], [1, 1]]),
        config={"gamma": 1.0},
        index=np.array(["u", "u"], dtype=object),
        reward_baselines=None,
    )
    assert advantages.tolist() == [[-1.0, -2.0], [1.0, 2.0]]
    assert returns is advantages


def test_a_loop_pays_the_tokens_of_what_it_generates(doors):
    options = {"scorer": str(BUNDLE.reward_model), "credit": "abc-signed"}
    loop = doors.TokenCreditLoop(stub.config(), BUNDLE.tokenizer, **options)
    found = run(loop, output=output(), reward_model={"ground_truth": None})
    expected = TokenCredit(BUNDLE.reward_model, "abc-signed", tokenizer=BUNDLE.tokenizer)(
        [RESPONSE], prompts=[PROMPT]
    )
    paid = found.as_dict()["rm_scores"]
    assert torch.equal(paid, torch.from_numpy(expected.token_rewards[0]))
    assert found.reward_score == pytest.approx(float(expected.scores[0]))  # verl asks nobody else
    assert found.extra_fields["reward_extra_info"] == {"score": found.reward_score}
    again = doors.TokenCreditToolLoop(stub.config(), BUNDLE.tokenizer, **options)
    assert again._credit is loop._credit  # verl makes a loop for every response


def test_tokens_of_tools_are_read_and_not_paid(doors):
    written = [1, 0, *[1] * (len(RESPONSE) - 2)]
    credit = TokenCredit(BUNDLE.reward_model, "uniform", tokenizer=BUNDLE.tokenizer)
    found = doors.credited(output(written), credit)
    whole = float(credit([RESPONSE], prompts=[PROMPT]).scores[0])
    assert found.reward_score == pytest.approx(whole)
    share = whole / (len(RESPONSE) - 1)
    assert found.token_rewards == pytest.approx([share * own for own in written], rel=1e-5)
    silent = doors.credited(output([0] * len(RESPONSE)), credit)
    assert silent.token_rewards == [0.0] * len(RESPONSE)


def test_the_ground_truth_of_a_row_reaches_the_scorer(doors):
    def right(prompt: str, response: str, reference: str) -> float:
        return float(reference == "42")

    credit = TokenCredit(right, "uniform", tokenizer=BUNDLE.tokenizer)
    assert doors.credited(output(), credit, reference="42").reward_score == 1.0


def test_a_rule_reads_the_log_probs_that_the_loop_recorded(doors):
    @token_credit
    def surprise(scores: Any, log_probs: Any, response_mask: Any) -> Any:
        return scores[:, None] * shares(-log_probs, response_mask)

    @token_credit
    def hesitation(scores: Any, entropy: Any, response_mask: Any) -> Any:
        return scores[:, None] * shares(entropy, response_mask)

    credit = TokenCredit(BUNDLE.reward_model, surprise, tokenizer=BUNDLE.tokenizer)
    recorded: Any = output([1, 0, 1])
    recorded.response_logprobs = [-1.0, -9.0, -3.0]  # one of a tool's token counts for nothing
    found = doors.credited(recorded, credit)
    quarter = found.reward_score / 4
    assert found.token_rewards == pytest.approx([quarter, 0.0, 3 * quarter])
    with pytest.raises(SettingsError, match=r"'log_probs'.*calculate_log_probs=true"):
        doors.credited(output(), credit)
    options: Any = {"scorer": str(BUNDLE.reward_model), "credit": hesitation}
    with pytest.raises(SettingsError, match=r"'entropy', which verl does not hand over; TRL"):
        doors.TokenCreditLoop(stub.config(), BUNDLE.tokenizer, **options)


def test_what_would_lose_the_credit_is_refused(doors):
    with pytest.raises(SettingsError, match=r"use_v1=False.*use_v1=True"):
        doors.TokenCreditLoop(stub.config(use_v1=False), BUNDLE.tokenizer, scorer="words")
    credit = TokenCredit(BUNDLE.reward_model, "uniform", tokenizer=BUNDLE.tokenizer)
    with pytest.raises(SettingsError, match="2 outputs"):
        doors.credited([output(), output()], credit)
