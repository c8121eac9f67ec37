"""Properties over random tokenizers, prompts, settings and actions."""

import json
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tokengym.envs import Episode, TokenGenerationEnv

WORDS = [f"w{i}" for i in range(9)]


@st.composite
def arguments(draw: st.DrawFn) -> dict[str, Any]:
    """Return an environment's arguments, the words of its tokenizer in the tokenizer's place."""
    words = WORDS[: draw(st.integers(1, 9))]
    prompts = st.lists(st.sampled_from(words), min_size=1, max_size=4).map(" ".join)
    max_new_tokens = draw(st.integers(1, 6))
    overlong = draw(st.sampled_from(["left", "drop"]))
    return {
        "tokenizer": ["<pad>", "<eos>", "<unk>", *words],
        "prompts": [words[0], *draw(st.lists(prompts, max_size=5))],
        "max_prompt_tokens": draw(st.integers(1, 5)),
        "overlong": overlong,
        "max_new_tokens": max_new_tokens,
        "min_new_tokens": draw(st.integers(0, max_new_tokens)),
        "forbidden_token_ids": draw(st.sets(st.integers(0, 2))),
        "stop_strings": draw(st.lists(st.sampled_from(words), max_size=1)),
        "horizon": draw(st.sampled_from(["terminated", "truncated"])),
        "prompt_sampling": draw(st.sampled_from(["uniform", "epoch", "sequential"])),
    }


def actions_of(env: Any, stream: list[int]) -> list[int]:
    return [number % len(env.tokenizer) for number in stream]


def flat(trace: Any) -> Any:
    """Return nested data with arrays as lists, for comparison."""
    if isinstance(trace, dict):
        return {key: flat(value) for key, value in trace.items()}
    if isinstance(trace, (list, tuple)):
        return [flat(value) for value in trace]
    return trace.tolist() if isinstance(trace, np.ndarray) else trace


SEEDS = st.integers(0, 1000)
STREAMS = st.lists(st.integers(0, 10_000), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(chosen=arguments(), stream=STREAMS, seed=SEEDS)
def test_every_step_keeps_the_contract(build_tokenizer, chosen, stream, seed):
    chosen["tokenizer"] = build_tokenizer(chosen["tokenizer"])
    env = TokenGenerationEnv(**chosen)
    observation, info = env.reset(seed=seed)
    sampled: list[int] = []
    for action in actions_of(env, stream):
        assert observation in env.observation_space
        mask = info["action_mask"]
        assert mask.shape == (len(env.tokenizer),)
        assert mask.any()
        assert np.array_equal(env.action_masks(), mask.astype(bool))
        prompt_part, response_part = np.split(
            observation["attention_mask"], [env.max_prompt_tokens]
        )
        assert np.all(np.diff(prompt_part) >= 0)
        assert np.all(np.diff(response_part) <= 0)
        assert response_part.sum() == len(sampled)
        observation, reward, terminated, truncated, info = env.step(action)
        sampled.append(action)
        assert reward == 0.0
        assert not (terminated and truncated)
        if terminated or truncated:
            episode = Episode.from_info(info)
            assert episode.response_ids == tuple(sampled)
            assert len(sampled) <= env.max_new_tokens
            assert len(sampled) > chosen["min_new_tokens"] or episode.finish_reason != "eos"
            assert (episode.finish_reason == "length") == (
                len(sampled) == env.max_new_tokens and episode.finish_reason not in ("eos", "stop")
            )
            assert truncated == (
                episode.finish_reason == "length" and chosen["horizon"] == "truncated"
            )
            if not mask[action]:
                assert episode.finish_reason == "length"
            observation, info = env.reset()
            sampled = []


@settings(max_examples=30, deadline=None)
@given(chosen=arguments(), before=STREAMS, after=STREAMS, seed=SEEDS)
def test_forks_continue_identically(build_tokenizer, chosen, before, after, seed):
    chosen["tokenizer"] = build_tokenizer(chosen["tokenizer"])
    env = TokenGenerationEnv(**chosen)
    env.reset(seed=seed)
    for action in actions_of(env, before):
        if any(env.step(action)[2:4]):
            env.reset()
    state = json.loads(json.dumps(env.get_state()))

    def go_on(each: TokenGenerationEnv) -> Any:
        trace: list[Any] = [each.set_state(state)]
        for action in actions_of(each, after):
            trace.append(each.step(action))
            if any(trace[-1][2:4]):
                trace.append(each.reset())
        return flat(trace)

    first = go_on(env)
    assert go_on(env) == first
    assert go_on(TokenGenerationEnv(**chosen)) == first
