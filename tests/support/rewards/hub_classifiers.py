"""Classifiers as the hub has them."""

from typing import Any

from tests.support.rewards.common import make_episode
from tokengym.envs import Episode

PROMPT = "I thought this film"


RESPONSES = (" is wonderful", " makes no sense, dreadful!", " moved me and the cast")


def spoken(policy: Any, response: str, *, prompt: str = PROMPT, eos: bool = False) -> Episode:
    """Return the episode in which a policy of this tokenizer writes the response."""
    ids = policy(response, add_special_tokens=False)["input_ids"]
    return make_episode(
        policy(prompt, add_special_tokens=False)["input_ids"],
        [*ids, *([policy.eos_token_id] if eos else [])],
        prompt=prompt,
        response=response,
    )
