"""Trainings that test_processes does in two processes, and by itself in one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.support.agents.common import PROMPTS, lora_config, make_model, target_share
from tests.support.rules import rule_of
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym.agents import PPO, losses
from tokengym.agents.ppo.inputs import RoundInputs
from tokengym.agents.processes import join, launched
from tokengym.agents.rollouts.experience import Experience
from tokengym.agents.rollouts.logs import EpisodeLog
from tokengym.envs import TokenGenerationVectorEnv
from tokengym.rewards import FunctionScorer, Normalize, Reward, VectorRewardWrapper
from tokengym.scripts.cli import main


class Uncertain(PPO):
    """Gives tokens that are less certain than in the other responses more of the gradient."""

    def weigh(self, experience: Experience, inputs: RoundInputs) -> Experience:
        mask = experience.response_mask
        entropy = self.read(experience.sequences, experience.action_masks, "entropy")
        others = entropy.masked_fill(~mask, 0.0).sum(0) / mask.sum(0).clamp(min=1)
        weights = losses.mean_one(0.5 + 0.5 * entropy / others.clamp(min=1e-6), mask)
        return replace(experience, advantages=experience.advantages * weights)


ROWS = 8
CASES: dict[str, dict[str, Any]] = {
    "gae": {
        **{"clip_range_vf": None, "kl_target": 0.5, "n_value_warmup": 1},
        "value_network": "trunk",
    },
    "recomputed": {**{"old_log_probs": "recomputed", "value_network": "own"}, "top_k": 5},
    "loo": {"advantage": "loo", "group_size": 2, "gradient_checkpointing": True},
    "grpo": {"advantage": "grpo", "group_size": 4, "drop_equal_groups": True, "kl_in": "loss"},
    "reinforce++": {"advantage": "reinforce++", "lora": True},
}
RESUMED = ("gae", "grpo")
UPDATES = 3
TRAIN = (
    *(
        "train",
        "--env",
        "MovieReview",
        "--reward",
        "abc",
        "--device",
        "cpu",
        "--eval-episodes",
        "8",
    ),
    *("--batch-size", "8", "--updates", "2", "--max-new-tokens", "6", "--eval-every", "1"),
    *("--reference-samples", "16", "--out"),
)


def make_envs(rows: int, **settings: Any) -> VectorRewardWrapper:
    scorer = Normalize(FunctionScorer(target_share), window=ROWS)
    defaults: dict[str, Any] = {"prompts": PROMPTS, "max_new_tokens": 6, "min_new_tokens": 1}
    envs = TokenGenerationVectorEnv(
        num_envs=rows, tokenizer=make_tokenizer(), **defaults | settings
    )
    return VectorRewardWrapper(envs, Reward(scorer, rule_of("uniform")))


def make_agent(case: str, rows: int) -> PPO:
    settings = dict(CASES[case])
    policy: dict[str, Any] = {"model": make_model("llama" if case == "loo" else "gpt2")}
    policy["lora"] = lora_config() if settings.pop("lora", False) else None
    policy["gradient_checkpointing"] = settings.pop("gradient_checkpointing", False)
    settings["learning_rate"] = 1e-3
    envs = make_envs(rows, prompt_sampling="sequential" if case == "grpo" else "uniform")
    learner = Uncertain if case == "reinforce++" else PPO
    return learner("CausalLMPolicy", envs, policy_kwargs=policy, seed=3, device="cpu", **settings)


def update(agent: PPO, updates: int, log: Path | None = None) -> None:
    """Take updates as `learn` does, whatever the number of tokens."""
    callback = None if log is None else EpisodeLog(log)
    for _ in range(updates):
        agent.learn(1, callback=callback, reset_num_timesteps=False, log_interval=None)


def run(folder: Path, rows: int) -> None:
    """Train every case and save it, with its episodes."""
    for case in CASES:
        agent = make_agent(case, rows)
        update(agent, UPDATES, folder / f"{case}.jsonl")
        agent.save(folder / case)


def resume(saved: Path, folder: Path, rows: int) -> None:
    """Continue the checkpoints of another number of processes."""
    for case in RESUMED:
        sampling = "sequential" if case == "grpo" else "uniform"
        agent = PPO.load(saved / case, env=make_envs(rows, prompt_sampling=sampling), device="cpu")
        update(agent, 1)
        agent.save(folder / f"{case}-resumed")


def train(folder: Path, one: Path) -> None:
    """Do the work of one of several processes, after that of one process."""
    torch.set_num_threads(1)
    rows = ROWS // launched()
    join("cpu")
    run(folder, rows)
    resume(one, folder, rows)
    assert main([*TRAIN, str(folder / "train")]) == 0
