"""An own advantage and reward, and what tests of checkpoints do to files."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from tests.support.rules import rule_of
from tokengym.rewards import FunctionScorer, Normalize, Reward


def normalised_reward() -> Reward:
    """A reward with a running mean and deviation, which a resumed run must continue."""
    scorer = FunctionScorer(lambda prompt, response: float(len(response)))
    return Reward(Normalize(scorer, window=None), rule_of("sparse"))


def untimed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def assert_equal_weights(agent: Any, other: Any) -> None:
    a, b = agent.policy.state_dict(), other.policy.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def rewrite(folder: Path, changes: dict[str, Any]) -> None:
    """Change a checkpoint's record as somebody would who knows how it is hashed."""
    file = folder / "checkpoint.json"
    record = {**json.loads(file.read_text()), **changes}
    content = {name: value for name, value in record.items() if name != "hash"}
    record["hash"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    file.write_text(json.dumps(record))


def rehash(folder: Path) -> None:
    """Make a checkpoint whole again after its files were changed."""
    files = [f for f in folder.rglob("*") if f.is_file() and f.name != "checkpoint.json"]
    hashes = {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }
    rewrite(folder, {"files": hashes})


OWN_ADVANTAGE = """
from tokengym.agents.losses import rewards_to_go
def mine(token_rewards, response_mask, gamma):
    return rewards_to_go(token_rewards, response_mask, gamma=gamma)
"""
