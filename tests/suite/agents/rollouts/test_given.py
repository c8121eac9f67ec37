"""Chosen prompts are played by the environment's rules, and the environment is left alone."""

import gymnasium
import pytest

from tests.support.agents.common import PAD, PROMPTS, VOCABULARY, make_model
from tokengym.agents import RandomAgent
from tokengym.agents.offline.policies import make_policy
from tokengym.agents.rollouts.given import GivenPrompts, PromptChoice
from tokengym.agents.rollouts.playing import as_sampler
from tokengym.envs import Prompt, PromptSet
from tokengym.envs.prompts.table import EncodedPrompt


def random_player(envs, seed=0):
    return as_sampler(RandomAgent(envs, seed=seed))


def test_prompts_come_in_the_order_asked_for(make_envs):
    envs = make_envs()
    envs.reset(seed=1)
    before, asked = envs.unwrapped.get_state(), [2, 0, 0, 3, 1, 2, 2]
    episodes = GivenPrompts(envs, max_rows=3).play(random_player(envs), asked)
    assert [episode.prompt for episode in episodes] == [PROMPTS[i] for i in asked]
    assert len({episode.response for episode in episodes[:3]}) > 1
    assert envs.unwrapped.get_state() == before


def test_rules_are_the_environments(make_envs):
    envs = make_envs(min_new_tokens=3, forbidden_token_ids=(PAD, 4))
    episodes = GivenPrompts(envs).play(random_player(envs), [0, 1] * 20)
    ids = [i for episode in episodes for i in episode.response_ids]
    assert set(ids) == set(range(VOCABULARY)) - {PAD, 4}
    assert all(3 < len(e.response_ids) <= 6 for e in episodes if e.finish_reason == "eos")
    assert any(e.finish_reason == "eos" for e in episodes)


def test_prompts_are_recognised_by_their_tokens(make_envs, tokenizer):
    envs = make_envs(prompts=PromptSet(PROMPTS))
    chosen = GivenPrompts(envs)
    observation, _ = envs.reset(options={"prompt_id": 2})
    assert chosen.recognise(observation) == [2, 2, 2, 2]
    observation, _ = envs.reset(options={"prompt": "e e"})
    (other, *_) = chosen.recognise(observation)
    assert isinstance(other, EncodedPrompt)
    assert (other.text, list(other.ids)) == ("e e", tokenizer("e e")["input_ids"])
    (episode,) = chosen.play(random_player(envs), [other])
    assert episode.prompt_ids == other.ids


def test_a_prompt_that_is_not_in_the_set_has_no_reference_of_another(make_envs):
    envs = make_envs(prompts=PromptSet([Prompt("b c", reference="c")]))
    chosen = GivenPrompts(envs)
    (known,) = chosen.play(random_player(envs), [0])
    assert (known.reference, chosen.find(tuple(known.prompt_ids), "b c")) == ("c", 0)
    (other,) = chosen.play(random_player(envs), [EncodedPrompt("e e", (7, 7), -1)])
    assert (other.prompt, other.reference) == ("e e", None)
    own = EncodedPrompt("e e", (7, 7), -1, "d")
    assert chosen.play(random_player(envs), [own])[0].reference == "d"


def test_a_prompt_of_one_s_own_may_be_longer_than_all_others(make_envs):
    envs = make_envs(num_envs=1, prompts=PROMPTS)
    policy, chosen = make_policy(envs, make_model()), GivenPrompts(envs)
    width = chosen.envs([0]).max_prompt_tokens
    long = EncodedPrompt("e e", (7,) * (width + 3), -1, "d")
    both: tuple[list[PromptChoice], ...] = ([long], [long, 0])
    for prompts in both:
        played = chosen.play(as_sampler(policy, seed=0), prompts, deterministic=True)
        assert (played[0].prompt_ids, played[0].reference) == (long.ids, "d")
        text = [*long.ids, *played[0].response_ids]
        assert text[width + 3] == int(policy.next_logits([text[: width + 3]], None).argmax())
    assert chosen.envs([0, 1]).max_prompt_tokens == width


def test_responses_can_go_on_from_a_beginning(make_envs):
    starts = [[3], [4, 5, 6, 3, 3], []]
    envs = make_envs(min_new_tokens=6)  # the longest beginning has one token left, the last six
    policy = make_policy(envs, make_model())
    episodes = GivenPrompts(envs).play(as_sampler(policy, seed=0), [1, 2, 2], beginnings=starts)
    for episode, start in zip(episodes, starts, strict=True):
        assert list(episode.response_ids[: len(start)]) == start
        assert len(start) < len(episode.response_ids) <= 6
    # What follows is what the policy says after prompt and beginning: the likeliest, step by step.
    (greedy,) = GivenPrompts(envs).play(
        as_sampler(policy, seed=0), [1], beginnings=[[4, 5, 6]], deterministic=True
    )
    text = [*greedy.prompt_ids, *greedy.response_ids]
    place = len(greedy.prompt_ids) + 3
    assert text[place] == int(policy.next_logits([text[:place]], None).argmax())


def test_what_is_no_environment_is_refused(make_envs):
    with pytest.raises(ValueError, match=r"max_rows.*1, got 0"):
        GivenPrompts(make_envs(), max_rows=0)
    with pytest.raises(TypeError, match="token-generation environment"):
        GivenPrompts(gymnasium.make_vec("CartPole-v1", num_envs=1))
