"""Token rewards in verl: agent loops that score what they generate and pay its tokens.

An agent loop has what a reward model lacks, the ground truth of its row and the mask of what tools
said, and it scores while others still generate. Where its output has a score verl asks no reward
model. ``tokengym.yaml`` names the loop, the scorer and the rule:

    - name: tokengym
      _target_: tokengym.bridges.verl_loop.TokenCreditLoop
      scorer: path/to/reward_model
      credit: abc-signed

and verl takes it with

    python -m verl.trainer.main_ppo algorithm.adv_estimator=tokengym_loo \
        actor_rollout_ref.rollout.agent.agent_loop_config_path=tokengym.yaml \
        actor_rollout_ref.rollout.agent.default_agent_loop=tokengym \
        actor_rollout_ref.rollout.n=8 ...

A loop of one's own ends with ``return credited(output, credit, reference=...)``, or inherits
`PaysTokens` before its own base. Scoring runs on the CPU of verl's agent loop workers, one response
at a time. Tested with the classes of verl 0.9.1 and the trainer that is its default (v1).
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping
from threading import Lock
from typing import Any

import torch
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop

from tokengym.base.errors import SettingsError
from tokengym.bridges.rows import carried, check_carried, check_scored
from tokengym.credit import TokenCredit

RECORDS = "actor_rollout_ref.rollout.calculate_log_probs=true"
"""Setting under which an agent loop's output has log-probs, for a rule that reads them."""
_credits: dict[Hashable, TokenCredit] = {}
"""Scorers and rules that this process has loaded: verl makes a loop anew for every response."""
_scoring = Lock()
"""Held while a response is scored: models are not called by several threads at a time."""
_loading = Lock()
"""Held while a scorer is loaded, once: the event loop does not wait for what is being scored."""


class TokenCreditOutput(AgentLoopOutput):
    """An agent loop's output whose tokens are paid one by one; ``reward_score`` is their score."""

    token_rewards: list[float]
    """Rewards of the response's tokens, 0 where ``response_mask`` is."""

    def as_dict(self) -> dict[str, Any]:
        """Return verl's dictionary with the token rewards as ``rm_scores``, (time,) float32."""
        output: dict[str, Any] = super().as_dict()
        output["rm_scores"] = torch.tensor(output.pop("token_rewards"), dtype=torch.float32)
        return output


def credited(
    output: AgentLoopOutput, credit: TokenCredit, *, reference: str | None = None
) -> TokenCreditOutput:
    """Return an agent loop's output with the rewards of its tokens.

    A response without a token of the policy's is not scored, and pays 0.

    Args:
        output: What the loop returned.
        credit: Scorer, rule and tokenizer.
        reference: The row's ground truth, for a scorer that compares with one.
    """
    if isinstance(output, list):
        raise SettingsError(
            f"the agent loop returned {len(output)} outputs of one trajectory, which verl takes "
            "for rows of one group, each the others' baseline; return one output"
        )
    token_rewards, score = [0.0] * len(output.response_ids), 0.0
    if any(output.response_mask):
        paid = credit(
            [output.response_ids],
            prompts=[output.prompt_ids],
            references=[reference],
            written=[output.response_mask],
            **carried(credit, "verl", [getattr(output, "response_logprobs", None)], RECORDS),
        )
        check_scored(paid.scores, "verl")
        token_rewards, score = paid.token_rewards[0].tolist(), float(paid.scores[0])
    given = {name: getattr(output, name) for name in {*output.model_fields_set, "extra_fields"}}
    given["extra_fields"] = {**output.extra_fields, "reward_extra_info": {"score": score}}
    return TokenCreditOutput(**{**given, "reward_score": score, "token_rewards": token_rewards})


class PaysTokens:
    """Mixin of an agent loop that pays the tokens of what it returns.

    Args:
        scorer: What scores; see `TokenCredit`.
        credit: Credit rule by name, with options as in "abc:beta=1".
        reference_policy: Frozen language model of a rule that reads one.
        others: Arguments of the loop, from verl.
    """

    def __init__(
        self,
        *others: Any,
        scorer: str,
        credit: str = "abc-signed",
        reference_policy: str | None = None,
        **named: Any,
    ) -> None:
        super().__init__(*others, **named)
        loop: Any = self
        if not loop.config.trainer.use_v1:
            raise SettingsError(
                "trainer.use_v1=False writes one score on the last token, so that credit has no "
                "effect; set trainer.use_v1=True"
            )
        key = (scorer, credit, reference_policy, id(loop.tokenizer))
        with _loading:
            if key not in _credits:
                _credits[key] = TokenCredit(
                    scorer, credit, tokenizer=loop.tokenizer, reference_policy=reference_policy
                )
        self._credit = _credits[key]
        check_carried(self._credit, "verl", log_probs=RECORDS)

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> TokenCreditOutput:
        """Generate as the loop does, and pay the tokens of what it returns."""
        loop: Any = super()
        output = await loop.run(sampling_params, **row)
        return await asyncio.to_thread(self._pay, output, row)

    def _pay(self, output: AgentLoopOutput, row: Mapping[str, Any]) -> TokenCreditOutput:
        truth = (row.get("reward_model") or {}).get("ground_truth")
        reference = None if truth is None else str(truth)
        with _scoring:
            return credited(output, self._credit, reference=reference)


class TokenCreditLoop(PaysTokens, SingleTurnAgentLoop):
    """verl's loop of one turn, whose tokens are paid."""


class TokenCreditToolLoop(PaysTokens, ToolAgentLoop):
    """verl's loop with tools, whose answers are read and not paid."""
