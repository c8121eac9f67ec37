"""The classes of verl 0.9.1 that the agent loops stand on, without its engines.

`AgentLoopOutput.as_dict` and the loops' constructor are those of
``verl/experimental/agent_loop/agent_loop.py`` as far as token rewards are concerned.
"""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch


class AgentLoopOutput:
    """A pydantic model there: fields by keyword, of which it knows which were given."""

    reward_score: float | None

    def __init__(self, **fields: Any) -> None:
        self.model_fields_set = set(fields)
        vars(self).update({"extra_fields": {}, "reward_score": None, **fields})

    def as_dict(self) -> dict[str, Any]:
        """Return the output as tensors; a score goes to the last token."""
        output = {name: getattr(self, name) for name in self.model_fields_set}
        output["prompts"] = torch.tensor(output.pop("prompt_ids"), dtype=torch.int64)
        output["responses"] = torch.tensor(output.pop("response_ids"), dtype=torch.int64)
        output["response_mask"] = torch.tensor(output.pop("response_mask"), dtype=torch.int64)
        if (score := output.pop("reward_score", None)) is not None:
            output["rm_scores"] = torch.zeros_like(output["response_mask"], dtype=torch.float32)
            output["rm_scores"][-1] = score
        return output


class AgentLoop:
    """Returns the output that its row has."""

    def __init__(self, trainer_config: Any, tokenizer: Any) -> None:
        self.config, self.tokenizer = trainer_config, tokenizer

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> Any:
        """Generate."""
        del sampling_params
        return row["output"]


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``verl``'s modules be these classes, within a test."""
    place = "verl.experimental.agent_loop"
    contents: dict[str, dict[str, Any]] = {
        f"{place}.agent_loop": {"AgentLoopOutput": AgentLoopOutput},
        f"{place}.single_turn_agent_loop": {"SingleTurnAgentLoop": AgentLoop},
        f"{place}.tool_agent_loop": {"ToolAgentLoop": type("ToolAgentLoop", (AgentLoop,), {})},
    }
    for name in ("verl", "verl.experimental", place, *contents):
        module = ModuleType(name)
        vars(module).update(contents.get(name, {}))
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "tokengym.bridges.verl_loop", raising=False)


def config(*, use_v1: bool = True) -> Any:
    """Return verl's configuration, as far as a loop reads it."""
    return SimpleNamespace(trainer=SimpleNamespace(use_v1=use_v1))
