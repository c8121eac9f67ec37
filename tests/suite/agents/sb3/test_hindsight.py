"""Stock algorithms get each token's own reward, and lose none where a rollout cuts an episode."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.wrappers.vector import TransformReward
from sb3_contrib import MaskablePPO
from stable_baselines3 import A2C, DQN
from stable_baselines3 import PPO as StockPPO
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from tests.support.agents.common import TARGET, per_token, target_reward
from tokengym.agents import HindsightReplayBuffer, HindsightRolloutBuffer, collect
from tokengym.agents.sb3 import as_vec_env
from tokengym.agents.sb3.hindsight import TokenFeatures, hindsight_correction

POLICY: dict[str, Any] = {"features_extractor_class": TokenFeatures}
STOCK: dict[str, Any] = {"policy": "MultiInputPolicy", "policy_kwargs": POLICY, "device": "cpu"}
ROLLOUT: dict[str, Any] = {
    **STOCK,
    **{"batch_size": 16, "n_epochs": 1, "seed": 0},
    "rollout_buffer_class": HindsightRolloutBuffer,
}


class Ledger(BaseCallback):
    """Keeps every rollout's rewards, and step, row and token rewards of every ended episode."""

    def __init__(self) -> None:
        super().__init__()
        self.rollouts: list[Any] = []
        self.ended: list[tuple[int, int, Any]] = []

    def _on_step(self) -> bool:
        for row, info in enumerate(self.locals["infos"]):
            if "token_rewards" in info:
                self.ended.append((self.n_calls - 1, row, info["token_rewards"]))
        return True

    def _on_rollout_end(self) -> None:
        self.rollouts.append(self.model.rollout_buffer.rewards.copy())  # type: ignore[attr-defined]

    def total(self) -> Any:
        return pytest.approx(sum(rewards.sum() for _, _, rewards in self.ended), abs=1e-4)


def dense(make_envs: Callable[..., Any], **settings: Any) -> Any:
    return as_vec_env(make_envs(reward=target_reward(per_token), **settings))


# --- the rule -----------------------------------------------------------------------------------


def test_the_correction_by_hand():
    earned, paid = np.array([1.0, 2.0, 4.0, -1.0]), np.array([0.0, 0.0, 0.5, 6.0])
    assert hindsight_correction(earned, paid, 4).tolist() == [1.0, 2.0, 3.5, -7.0]
    assert hindsight_correction(earned, paid, 2).tolist() == [6.5, -7.0]  # 1 + 2 + 3.5
    assert hindsight_correction(earned, paid, 1).tolist() == [-0.5]
    with pytest.raises(ValueError, match=r"3 entries.*4 steps"):
        hindsight_correction(earned[:3], paid, 4)


# --- rollouts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
@pytest.mark.parametrize("n_steps", [4, 16])
def test_every_token_is_paid_its_own_and_none_is_lost_at_the_edges(make_envs, mode, n_steps):
    """Against a plain account: zeros, each episode written over its own steps, edges moved on."""
    ledger = Ledger()
    env = dense(make_envs, autoreset_mode=mode, min_new_tokens=2)
    agent = StockPPO(env=env, n_steps=n_steps, gamma=1.0, **ROLLOUT)
    agent.learn(4 * 96, callback=ledger)
    found = np.concatenate(ledger.rollouts)  # (steps, rows)
    expected = np.zeros_like(found)
    straddling = 0
    for last, row, token_rewards in ledger.ended:
        edge = last // n_steps * n_steps  # first step of the rollout in which it ended
        for time, reward in enumerate(token_rewards):
            step = last - len(token_rewards) + 1 + time
            straddling += step < edge and reward != 0.0
            expected[max(step, edge), row] += reward
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert straddling > 0
    assert found.sum() == ledger.total()
    for last, row, _ in ledger.ended:
        found[last, row] = 0.0
    assert (found != 0).sum() > 5  # dense indeed: paid before episodes end


def test_a_budget_s_bootstrapped_value_stays_on_the_last_token(make_envs):
    ledger = Ledger()
    env = dense(make_envs, horizon="truncated", forbidden_token_ids=(1,))
    # Without EOS every rollout of 6 steps is one whole episode per row.
    agent = StockPPO(env=env, n_steps=6, gamma=0.5, **ROLLOUT | {"batch_size": 24})
    policy: Any = agent.policy
    policy.value_net.weight.data.zero_()
    policy.value_net.bias.data.fill_(3.0)
    envs: Any = agent.env
    _, callback = agent._setup_learn(1, ledger)
    agent.collect_rollouts(envs, callback, agent.rollout_buffer, 6)
    (rewards,) = ledger.rollouts
    for _, row, token_rewards in ledger.ended:
        expected = token_rewards + np.array([0, 0, 0, 0, 0, 0.5 * 3.0])
        np.testing.assert_allclose(rewards[:, row], expected, atol=1e-6)
    assert len(ledger.ended) == 4


def test_maskable_ppo_gets_masks_and_token_rewards(make_envs):
    ledger = Ledger()
    envs = dense(make_envs, forbidden_token_ids=(0, 2, 7), min_new_tokens=2)
    agent = MaskablePPO(env=envs, n_steps=12, **ROLLOUT).learn(96, callback=ledger)
    sample = next(iter(agent.rollout_buffer.get(48)))
    assert sample.action_masks.shape == (48, 8)
    assert sample.action_masks[:, [0, 2, 7]].sum() == 0
    assert not torch.isin(sample.actions, torch.tensor([0, 2, 7])).any()
    assert np.concatenate(ledger.rollouts).sum() == ledger.total()


def test_rewards_that_were_changed_are_refused(make_envs):
    settings: Any = {"n_steps": 4, "rollout_buffer_class": HindsightRolloutBuffer, **STOCK}
    with pytest.raises(ValueError, match="a layer around the environment changes rewards"):
        A2C(env=VecNormalize(dense(make_envs), norm_obs=False), **settings).learn(80)
    assert A2C(env=VecMonitor(dense(make_envs)), **settings).learn(40).ep_info_buffer


@pytest.mark.parametrize("stock", [A2C, DQN])
def test_a_layer_inside_that_changes_rewards_is_refused(make_envs, stock):
    """The token rewards would undo it."""
    paid = make_envs(reward=target_reward(per_token))
    settings: Any = {"n_steps": 8, "rollout_buffer_class": HindsightRolloutBuffer}
    if stock is DQN:
        settings = {"buffer_size": 400, "replay_buffer_class": HindsightReplayBuffer}
    stock(env=as_vec_env(TransformReward(paid, lambda r: 1.0 * r)), **settings, **STOCK).learn(32)
    envs = as_vec_env(TransformReward(paid, lambda rewards: 2.0 * rewards + 1.0))
    with pytest.raises(ValueError, match=r"paid.*score.*layer"):
        stock(env=envs, seed=0, **settings, **STOCK).learn(32)


# --- replay -------------------------------------------------------------------------------------


def add(buffer: Any, ids: list[int], ended: dict[int, Any], *, truncated: Any = ()) -> None:
    """Add a step of each row, of which some end with token rewards."""
    observation = {
        "input_ids": np.array(ids, dtype=np.int64)[:, None].repeat(10, 1),
        "attention_mask": np.ones((len(ids), 10), dtype=np.int8),
    }
    rows = range(len(ids))
    infos: list[Any] = [{"token_rewards": ended[row]} if ended.get(row) else {} for row in rows]
    for row in truncated:
        infos[row]["TimeLimit.truncated"] = True
    paid = np.array([sum(ended.get(row, [0.0])) for row in rows])
    done = np.array([row in ended for row in rows])
    buffer.add(observation, observation, np.array(ids), paid, done, infos)


def replay(make_envs: Callable[..., Any], size: int, rows: int) -> HindsightReplayBuffer:
    envs = as_vec_env(make_envs())
    spaces = envs.observation_space, envs.action_space
    return HindsightReplayBuffer(size, *spaces, "cpu", n_envs=rows)


def drawn(buffer: Any, what: str) -> set[float]:
    """Return all that many draws have of a field."""
    return {*getattr(buffer.sample(400), what).flatten().tolist()}


def test_replayed_rewards_are_the_tokens_own_across_the_wrap(make_envs):
    buffer = replay(make_envs, 8, 2)  # 4 steps per row
    with pytest.raises(ValueError, match="learning_starts"):
        buffer.sample(1)
    add(buffer, [3, 4], {1: [7.0]})
    add(buffer, [3, 4], {})
    assert drawn(buffer, "rewards") == {7.0}  # row 0 is not known yet
    add(buffer, [3, 4], {0: [1.0, 2.0, 3.0]})
    add(buffer, [5, 4], {})
    add(buffer, [5, 4], {0: [4.0, 5.0], 1: [0.5, 0.25, 0.125, 0.0]})
    # place 0 was overwritten; row 0: steps 4, 1, 2, 3; row 1: steps 4, 1, 2, 3
    assert buffer.rewards[:, 0].tolist() == [5.0, 2.0, 3.0, 4.0]
    assert buffer.rewards[:, 1].tolist() == [0.0, 0.5, 0.25, 0.125]
    sample = buffer.sample(400)
    assert set(sample.rewards.flatten().tolist()) == {5.0, 2.0, 3.0, 4.0, 0.0, 0.5, 0.25, 0.125}
    ended = sample.dones.flatten().bool()
    assert set(sample.rewards.flatten()[ended].tolist()) == {5.0, 3.0, 0.0}


def test_steps_that_overwrite_an_episode_are_drawn_once_theirs_has_ended(make_envs):
    buffer = replay(make_envs, 4, 1)
    for token in (2, 3, 4):
        add(buffer, [token], {})
    add(buffer, [5], {0: [1.0, 2.0, 3.0, 4.0]})
    assert drawn(buffer, "actions") == {2, 3, 4, 5}
    add(buffer, [6], {})
    assert drawn(buffer, "actions") == {3, 4, 5}
    add(buffer, [7], {0: [5.0, 6.0]})
    assert drawn(buffer, "actions") == {6, 7, 4, 5}
    assert drawn(buffer, "rewards") == {5.0, 6.0, 3.0, 4.0}


def test_a_truncated_episode_is_bootstrapped(make_envs):
    """As in SB3's own buffer: its last step is no end for the value that is learned."""
    buffer = replay(make_envs, 8, 2)
    add(buffer, [3, 4], {0: [1.0], 1: [2.0]}, truncated=[1])
    found = buffer.sample(100)
    by_reward = zip(found.rewards.flatten().tolist(), found.dones.flatten().tolist(), strict=True)
    assert {*by_reward} == {(1.0, 1.0), (2.0, 0.0)}


def test_an_episode_that_learn_broke_off_is_never_paid(make_envs):
    buffer = replay(make_envs, 4, 1)
    add(buffer, [3], {})  # learn() ends here, and the next one resets
    add(buffer, [4], {})
    add(buffer, [5], {0: [1.0, 2.0]})
    assert buffer.rewards[:3, 0].tolist() == [0.0, 1.0, 2.0]
    assert drawn(buffer, "actions") == {4, 5}
    settings: Any = {"replay_buffer_class": HindsightReplayBuffer, "buffer_size": 400, **STOCK}
    agent = DQN(env=dense(make_envs, min_new_tokens=6), learning_starts=30, seed=0, **settings)
    assert agent.learn(40).learn(40).num_timesteps == 48  # whole calls of train_freq


def test_replay_refuses_what_it_cannot_pay(make_envs):
    with pytest.raises(ValueError, match=r"0.*token_rewards"):
        add(replay(make_envs, 2, 1), [3], {0: []})
    buffer = replay(make_envs, 2, 1)
    for _ in range(2):
        add(buffer, [3], {})
    with pytest.raises(ValueError, match=r"3 steps.*buffer holds 2"):
        add(buffer, [3], {0: [1.0, 1.0, 1.0]})
    buffer = replay(make_envs, 4, 1)
    for _ in range(2):  # as the first episode, and after another
        with pytest.raises(ValueError, match=r"2 entries.*1 steps"):
            add(buffer, [3], {0: [1.0, 1.0]})
        buffer = replay(make_envs, 4, 1)
        add(buffer, [3], {0: [1.0]})


# --- learning -----------------------------------------------------------------------------------

PPO_SETTINGS: dict[str, Any] = {
    **{"n_steps": 24, "batch_size": 96, "n_epochs": 4, "learning_rate": 5e-3},
    "rollout_buffer_class": HindsightRolloutBuffer,
}
DQN_SETTINGS: dict[str, Any] = {
    **{"buffer_size": 8_000, "learning_starts": 500, "learning_rate": 3e-3, "train_freq": 1},
    **{"target_update_interval": 200, "exploration_fraction": 0.5, "gradient_steps": 4},
    "replay_buffer_class": HindsightReplayBuffer,
}


@pytest.mark.parametrize(
    ("algorithm", "timesteps", "settings"),
    [(StockPPO, 4_000, PPO_SETTINGS), (DQN, 8_000, DQN_SETTINGS)],
)
def test_stock_algorithms_solve_the_task(make_envs, algorithm, timesteps, settings, tmp_path):
    env = VecMonitor(dense(make_envs, num_envs=16))
    agent = algorithm(env=env, seed=0, gamma=1.0, **settings, **STOCK)
    evaluation = EvalCallback(
        VecMonitor(dense(make_envs)),
        n_eval_episodes=32,
        eval_freq=100,
        best_model_save_path=str(tmp_path / "best"),
        verbose=0,
    )
    checkpoints = CheckpointCallback(save_freq=100, save_path=str(tmp_path), name_prefix="run")
    agent.learn(timesteps, callback=[evaluation, checkpoints])
    assert np.mean([episode["r"] for episode in agent.ep_info_buffer]) > 0.2  # with its exploration
    assert evaluation.best_mean_reward > 0.85
    best = algorithm.load(tmp_path / "best" / "best_model", device="cpu")
    envs = make_envs(reward=target_reward(per_token))
    episodes = collect(best, envs, 32, seed=3, deterministic=True)
    assert np.mean([episode.score for episode in episodes]) > 0.85
    assert episodes[0].response_ids.count(TARGET) >= 5
    assert list(tmp_path.glob("run_*_steps.zip"))


def test_features_see_the_last_token_and_no_padding(make_envs):
    space = as_vec_env(make_envs()).observation_space
    extractor = TokenFeatures(space, embedding_dim=4)  # type: ignore[arg-type]
    ids = torch.tensor([[0, 0, 5, 6, 3, 0], [0, 0, 5, 6, 3, 7], [4, 2, 5, 6, 3, 4]]).float()
    mask = torch.tensor([[0, 0, 1, 1, 1, 0]] * 3).float()
    found = extractor({"input_ids": ids, "attention_mask": mask})
    table = extractor.embedding.weight
    expected = torch.cat([table[[5, 6, 3]].mean(0), table[3], torch.tensor([0.5])])
    for row in range(3):
        torch.testing.assert_close(found[row], expected)
