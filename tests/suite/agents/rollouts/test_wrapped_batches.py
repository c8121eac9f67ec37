"""Stable-Baselines3's wrappers around a batch: masks, options and groups pass through them."""

from collections.abc import Callable
from typing import Any

import gymnasium.wrappers.vector as batched
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecMonitor, VecNormalize

from tests.support.agents.common import EOS, PROMPTS, single_env
from tokengym.agents import PPO, collect
from tokengym.agents.rollouts.playing import as_sampler, play_round
from tokengym.agents.rollouts.rounds import as_rounds
from tokengym.agents.sb3 import as_vec_env
from tokengym.envs import PadTokenRewards, SettingsError
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


FIRST, SECOND, THIRD = (
    ["b", "c", "d", "e"],
    ["b c", "c d", "d e", "e b"],
    ["b b", "c c", "d d", "e e"],
)
IN_ORDER: Any = {"prompts": [*FIRST, *SECOND, *THIRD], "prompt_sampling": "sequential"}


def row_makers() -> list[Callable[[], Any]]:
    return [
        lambda row=row: single_env(None, PadTokenRewards, prompt_shard=(row, 4), **IN_ORDER)  # type: ignore[misc]
        for row in range(4)
    ]


BATCHES: dict[str, Callable[[Any], Any]] = {
    "native": lambda make_envs: make_envs(**IN_ORDER),
    "live views": lambda make_envs: make_envs(copy=False, **IN_ORDER),
    "adapted": lambda make_envs: as_vec_env(make_envs(**IN_ORDER)),
    "recorded": lambda make_envs: batched.RecordEpisodeStatistics(make_envs(**IN_ORDER)),
    "sync": lambda _: SyncVectorEnv(row_makers()),
    "async": lambda _: AsyncVectorEnv(row_makers(), context=processes().get_start_method()),
    "stock": lambda _: DummyVecEnv(row_makers()),
    **{
        name: lambda make_envs, wrap=wrap: wrap(as_vec_env(make_envs(**IN_ORDER)))  # type: ignore[misc]
        for name, wrap in WRAPPERS.items()
    },
}


class Between(BaseCallback):
    """Does something as a training begins, and keeps the prompts of its rounds."""

    def __init__(self, does: Callable[[Any, Any], Any], envs: Any) -> None:
        super().__init__()
        self.does, self.envs = does, envs
        self.prompts: list[list[str]] = []

    def _on_training_start(self) -> None:
        self.does(self.model, self.envs)

    def _on_step(self) -> bool:
        assert self.n_calls < 100  # a round ends
        return True

    def _on_rollout_end(self) -> None:
        model: Any = self.model
        self.prompts.append([episode.prompt for episode in model.last_round.episodes])


@pytest.mark.parametrize("batch", BATCHES)
def test_the_reset_of_learn_draws_no_prompt_in_vain(make_envs, make_ppo, batch):
    """Nor does it where another training begins in the same environment."""
    envs = BATCHES[batch](make_envs)
    agent, seen = make_ppo(envs=envs), Between(lambda *_: None, envs)
    for _ in range(2):
        agent.learn(5, callback=seen)
    assert seen.prompts == [FIRST, SECOND]
    envs.close()


def steps(agent: Any, envs: Any) -> None:
    """Play the first row's episode to its end by hand, and into the next one."""
    for token in (2, EOS, 2):
        agent.env.step(np.array([token, 2, 2, 2]))


OVERTAKEN: dict[str, tuple[Callable[[Any, Any], Any], list[list[str]]]] = {
    "collect": (lambda agent, envs: collect(agent, envs, 4), [THIRD, FIRST]),
    "reset": (lambda agent, envs: agent.env.reset(), [THIRD, FIRST]),
    "steps": (steps, [[THIRD[0], *SECOND[1:]], [FIRST[0], *THIRD[1:]]]),
    "seed": (lambda agent, envs: agent.set_random_seed(7), [FIRST, SECOND]),
}
"""What is done after the reset of ``learn``, and the prompts of its first rounds."""
CASES = [
    *(
        (batch, does, "auto")
        for batch in ("native", "recorded", "stock", "two")
        for does in OVERTAKEN
    ),
    ("native", "collect", "bfloat16"),  # float32 notices that other texts were read than answered
    ("native", "reset", "bfloat16"),
    ("async", "collect", "auto"),
]


@pytest.mark.parametrize(("batch", "does", "dtype"), CASES)
def test_episodes_that_others_have_played_are_not_learned_from(
    make_envs, make_ppo, batch, does, dtype
):
    envs = BATCHES[batch](make_envs)
    does, expected = OVERTAKEN[does]
    agent, seen = make_ppo(envs=envs, dtype=dtype), Between(does, envs)
    texts: list[list[int]] = []
    begin = agent.rounds.reset

    def reset(*how: Any) -> Any:
        beginning = begin(*how)
        ids, masks = beginning[0]["input_ids"], beginning[0]["attention_mask"]
        texts.extend(row[mask > 0].tolist() for row, mask in zip(ids, masks, strict=True))
        return beginning

    agent.rounds.reset = reset
    agent.learn(30, callback=seen)
    assert seen.prompts[:2] == expected
    assert texts[-4:] == [list(episode.prompt_ids) for episode in agent.last_round.episodes]
    assert len(texts) == 4 * len(seen.prompts)
    envs.close()


@pytest.mark.parametrize("batch", ["native", "stock", "two"])
def test_a_checkpoints_first_round_is_begun_anew_where_others_have_played(
    make_envs, make_ppo, tmp_path, batch
):
    make_ppo(envs=BATCHES[batch](make_envs)).learn(5, callback=CheckpointCallback(1, str(tmp_path)))
    (first,) = tmp_path.glob("*_4_steps.zip")  # in the first round
    rounds = []
    for plays in (False, True):
        envs = BATCHES[batch](make_envs)
        agent, seen = PPO.load(first, env=envs, device="cpu"), Between(lambda *_: None, envs)
        if plays:
            collect(agent, envs, 4)
        agent.learn(5, callback=seen, reset_num_timesteps=False)
        rounds.append(seen.prompts[0])
    assert rounds == [FIRST, THIRD]
