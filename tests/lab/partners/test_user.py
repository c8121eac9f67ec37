"""A bundled model as the user of Dialogue, scored over the whole conversation."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import tokengym  # noqa: F401  (registers the ids)
from tokengym.agents import PPO
from tokengym.envs import SettingsError, bundled
from tokengym.envs.turns.partner import as_partner
from tokengym.lab.partners.user import UserModel

TALK: dict[str, Any] = {
    "partner": "user",
    "max_turns": 2,
    "max_turn_tokens": 12,
    "max_reply_tokens": 24,
    "max_new_tokens": 48,
}


def test_the_user_asks_like_the_prompts():
    user = UserModel()
    known = {word for prompt in bundled("dialogue").prompts() for word in prompt.text.split()}
    asked = [user.reply([], {}, np.random.default_rng(seed)).text for seed in range(12)]
    assert len(set(asked)) > 6
    words = " ".join(asked).split()
    assert np.mean([word in known for word in words]) > 0.9
    assert not any("<" in text for text in asked)
    again = user.reply([], {}, np.random.default_rng(0)).text
    assert again == asked[0]


def test_a_memory_changes_what_is_said():
    said = [{"role": "user", "content": "how to bake a bread ?"}]
    said += [{"role": "assistant", "content": "get the flour ."}]
    reader = as_partner("user:memory=2,temperature=0")
    rng = np.random.default_rng(0)
    assert reader.reply(said, {}, rng) != UserModel(temperature=0).reply(said, {}, rng)


def test_a_memory_longer_than_the_conversation_reads_all_of_it(monkeypatch: pytest.MonkeyPatch):
    said = [{"role": "user", "content": "how to bake a bread ?"}]
    said += [{"role": "assistant", "content": "get the flour ."}]
    user = UserModel(memory=3, max_tokens=1)
    read: list[Any] = []

    def text(messages: list[Any]) -> str:
        read.extend(messages)
        return ""

    monkeypatch.setattr(user, "_text", text)
    user.reply(said, {}, np.random.default_rng(0))
    assert read == said


def test_dialogue_with_a_user_is_learned_from():
    envs: Any = gym.make_vec("tokengym/Dialogue-v0", num_envs=4, reward="turn-broadcast", **TALK)
    agent = PPO("CausalLMPolicy", envs, seed=0, device="cpu", advantage="reinforce++")
    agent.learn(1)
    assert agent.last_round is not None
    for episode in agent.last_round.episodes:
        roles = [turn.role for turn in episode.turns]
        assert roles[:3] == ["assistant", "user", "assistant"]
        assert episode.written is not None
        assert episode.token_rewards is not None
        reply = episode.turns[1]
        assert not episode.written[slice(*reply.span)].any()
        assert float(episode.token_rewards.sum()) == pytest.approx(episode.score, rel=1e-4)


def test_a_bundle_without_a_chat_template_is_refused():
    with pytest.raises(SettingsError, match=r"'oracle'.*'dialogue'"):
        UserModel(bundle="oracle")
