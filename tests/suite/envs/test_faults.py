"""Faults seen in other text environments, one regression test each, single and batched."""

import random
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tokengym.envs import TokenGymError
from tokengym.envs.prompts import conversation

PAD, EOS, UNK, A, B, C, D, E = range(8)
Make = Callable[..., Any]


@pytest.mark.parametrize("horizon", ["terminated", "truncated"])
@pytest.mark.parametrize("last", [EOS, A, C], ids=["eos", "length", "stop"])
def test_terminated_and_truncated_are_never_set_together(make_env, make_envs, horizon, last):
    """EOS or a stop string in the last column is an end, and not also a cut."""
    cut = horizon == "truncated" and last == A
    settings = {"horizon": horizon, "max_new_tokens": 2, "stop_strings": ["c"]}
    env = make_env(**settings)
    env.reset()
    env.step(B)
    assert env.step(last)[2:4] == (not cut, cut)
    for mode in AutoresetMode:
        envs = make_envs(autoreset_mode=mode, **settings)
        envs.reset()
        envs.step(np.full(3, B))
        flags = [flag.tolist() for flag in envs.step(np.full(3, last))[2:4]]
        assert flags == [[not cut] * 3, [cut] * 3]


def test_a_seed_stays_in_the_environment(make_env, make_envs):
    drawn = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        for build in (make_env, make_envs):
            for sampling in ("uniform", "epoch", "sequential"):
                before = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
                env = build(prompt_sampling=sampling)
                drawn.append(np.asarray(env.reset(seed=7)[1]["prompt_id"]).tolist())
                env.action_space.seed(7)
                env.step(env.action_space.sample())
                env.reset()
                after = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
                assert (before[:2], before[2].tolist()) == (after[:2], after[2].tolist())
    assert drawn[:6] == drawn[6:]


def made(*, splits_at: str = r"\s+", template: str | None = None, **settings: Any) -> Any:
    """Return an environment of a few words, split by a pattern, with a chat template."""
    names = ("<pad>", "<eos>", "a", "b")
    words = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, names[0]))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(splits_at), "removed")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<eos>", pad_token="<pad>", chat_template=template
    )
    usual: dict[str, Any] = {"tokenizer": tokenizer, "prompts": ["a b"], "max_new_tokens": 2}
    return gym.make("tokengym/TokenGeneration-v0", **usual | settings)


@pytest.mark.parametrize("is_chat", [False, True])
def test_a_tokenizer_whose_library_panics_is_refused(is_chat):
    template = "{% for m in messages %}{{ m.content }}{% endfor %}" if is_chat else None
    with pytest.raises(TokenGymError, match="breaks down"):
        made(splits_at="(a+)+b", template=template, chat_template=is_chat, prompts=["a" * 40])


def test_a_chat_template_without_an_end_is_refused(monkeypatch):
    # The thread that is left behind takes a core until it ends, so it ends soon.
    loops = "{% for i in range(99) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    monkeypatch.setattr(conversation, "TEMPLATE_S", 0.05)
    with pytest.raises(TokenGymError, match=r"had not ended after 0\.05 s"):
        made(template=loops, chat_template=True)
    monkeypatch.undo()
    monkeypatch.setattr(conversation, "MAX_TEMPLATE_CHARACTERS", 50_000)
    with pytest.raises(TokenGymError, match="more than 50,000"):
        made(template="{{ messages | tojson(indent=99999) }}", chat_template=True)


@pytest.mark.parametrize("seconds", [None, 9.0])
def test_a_partner_that_exits_ends_in_an_error(seconds):
    def partner(*_: Any) -> NoReturn:
        sys.exit(0)

    env = made(partner=partner, max_turns=2, partner_timeout=seconds)
    env.reset(seed=0)
    with pytest.raises(TokenGymError, match=r"partner.*raised SystemExit"):
        [env.step(1) for _ in range(2)]


def test_a_scorer_that_exits_ends_in_an_error():
    def scorer(prompt: str, response: str) -> NoReturn:
        sys.exit(3)

    env = made(scorer=scorer, reward="sparse")
    env.reset(seed=0)
    with pytest.raises(TokenGymError, match=r"scorer.*raised SystemExit"):
        [env.step(1) for _ in range(2)]
