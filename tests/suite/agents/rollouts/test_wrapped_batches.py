"""Stable-Baselines3's wrappers around a batch: masks, options and groups pass through them."""

from typing import Any

import pytest
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecMonitor, VecNormalize

from tests.support.agents.common import EOS, PROMPTS, single_env
from tokengym.agents.rollouts.playing import as_sampler, play_round
from tokengym.agents.rollouts.rounds import as_rounds
from tokengym.agents.sb3 import as_vec_env
from tokengym.envs import SettingsError
from tokengym.evaluation.runs.executors import processes


class Passes(VecEnvWrapper):
    """A wrapper of the user's own that changes nothing."""

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        return self.venv.step_wait()


WRAPPERS: dict[str, Any] = {
    "normalize": lambda envs: VecNormalize(envs, norm_obs=False, norm_reward=False),
    "own": Passes,
    "two": lambda envs: Passes(VecMonitor(envs)),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("rows", ["batch", "single environments"])
def test_the_first_token_is_sampled_under_the_mask_too(make_envs, make_ppo, wrapper, rows):
    limits: Any = {"min_new_tokens": 3, "forbidden_token_ids": [2]}

    def make() -> Any:
        if rows == "batch":
            return as_vec_env(make_envs(**limits))
        return DummyVecEnv([lambda: single_env(**limits)] * 4)

    def play(envs: Any) -> Any:
        return play_round(as_sampler(make_ppo(), seed=3), as_rounds(envs), seed=3)

    bare, wrapped = play(make()), play(WRAPPERS[wrapper](make()))
    ids = [episode.response_ids for episode in bare.episodes]
    assert [episode.response_ids for episode in wrapped.episodes] == ids
    assert not any(EOS in tokens[:3] or 2 in tokens for tokens in ids)
    assert wrapped.log_probs.equal(bare.log_probs)
    make_ppo(envs=WRAPPERS[wrapper](make())).learn(24)


@pytest.mark.parametrize("options", [{"prompts": [*PROMPTS[::-1]]}, {"prompt_ids": [3, 0, 1, 1]}])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapped_batch_is_asked_the_prompts_that_were_named(
    make_envs, make_ppo, wrapper, options
):
    rounds = as_rounds(WRAPPERS[wrapper](as_vec_env(make_envs())))
    played = play_round(as_sampler(make_ppo(), seed=0), rounds, options=options)
    named = options.get("prompts") or [PROMPTS[number] for number in options["prompt_ids"]]
    assert [episode.prompt for episode in played.episodes] == list(named)


@pytest.mark.parametrize("wrapper", [None, *WRAPPERS])
def test_rows_of_one_batch_share_prompts_behind_wrappers(make_envs, make_ppo, wrapper):
    envs = make_envs() if wrapper is None else WRAPPERS[wrapper](as_vec_env(make_envs()))
    agent = make_ppo(envs=envs, advantage="grpo", group_size=2)
    prompts: list[str] = []
    for _ in range(6):
        prompts += [episode.prompt for episode in agent.collect().episodes]
    assert prompts[::2] == prompts[1::2]
    assert len(set(prompts)) > 1


APART: dict[str, Any] = {
    "sync": lambda: SyncVectorEnv([single_env] * 4),
    "async": lambda: AsyncVectorEnv([single_env] * 2, context=processes().get_start_method()),
    "wrapped sync": lambda: VecMonitor(as_vec_env(SyncVectorEnv([single_env] * 4))),
    "dummy": lambda: DummyVecEnv([single_env] * 4),
}


@pytest.mark.parametrize("kind", APART)
def test_rows_that_draw_their_prompts_apart_make_no_groups(make_ppo, kind):
    envs = APART[kind]()
    with pytest.raises(SettingsError, match=r"group_size=2.*gym\.make_vec"):
        make_ppo(envs=envs, advantage="grpo", group_size=2)
    envs.close()
