"""Runs of DPO and SFT: data is given, or collected once from the policy, and then learned from."""

import math
from typing import Any, TypeVar

import numpy as np
from transformers import TrainerCallback

from tokengym.agents.learner import TrainingRun
from tokengym.agents.offline.dpo import DPO
from tokengym.agents.offline.policies import make_policy
from tokengym.agents.offline.sft import SFT
from tokengym.agents.offline.trainer import OfflineTrainer
from tokengym.agents.online.collecting import (
    ResponseCollector,
    best_rows,
    pair_rows,
    prompt_order,
)
from tokengym.agents.policy.policy import CausalLMPolicy
from tokengym.agents.rollouts.environments import environment_attribute
from tokengym.envs.errors import SettingsError
from tokengym.rewards.pairs.store import pairs_dataset, responses_dataset

Agent = TypeVar("Agent", bound=OfflineTrainer)


def train_dpo(run: TrainingRun) -> DPO:
    """Train `DPO` on pairs."""
    return _train(run, DPO, loss=run.settings.loss)


def train_sft(run: TrainingRun) -> SFT:
    """Train `SFT` on responses."""
    return _train(run, SFT)


def _train(run: TrainingRun, trainer: type[Agent], **arguments: Any) -> Agent:
    """Train on data, given or collected from the policy, and measure after every epoch.

    Args:
        run: The run, whose settings are `tokengym.agents.offline.settings.SFTSettings`.
        trainer: Class of the learner.
        arguments: Further ones of the class.
    """
    envs = run.make_envs(1)
    policy = make_policy(envs, **run.policy_kwargs(), seed=run.seed, device=run.training.device)
    run.measure(0, 0, policy)
    data, sampled = _data(run, envs, policy, pairs=trainer is DPO)
    build: Any = trainer
    agent: Agent = build(
        policy,
        data,
        **run.settings.tuning.trainer_arguments(run.settings.tuning.batch_size),
        **arguments,
        tokenizer=environment_attribute(envs, "tokenizer"),
        seed=run.seed,
        device=run.training.device,
    )
    if run.training.tokens is not None:
        run.measure(1, sampled, policy)  # what the data cost is spent before anything is learned
        agent.args.num_train_epochs = _epochs(agent, run.training.tokens, sampled)
    agent.add_callback(_AfterEpoch(run, agent, sampled))
    agent.train()
    envs.close()
    return agent


def _data(run: TrainingRun, envs: Any, policy: CausalLMPolicy, *, pairs: bool) -> tuple[Any, int]:
    """Return the data that is learned from, and the tokens sampled for it."""
    settings = run.settings
    if settings.pairs is not None:
        return settings.pairs, 0
    collector = ResponseCollector(envs, sampling=settings.sampling, max_rows=256)
    seeds = np.random.SeedSequence(run.seed).generate_state(2).tolist()
    prompts = prompt_order(len(collector.prompts), settings.num_prompts, seed=seeds[0])
    groups = collector.collect(policy, prompts, seed=seeds[1])
    if pairs:
        rows = pairs_dataset(pair_rows(groups, settings.sampling, prompts))
    else:
        rows = responses_dataset(best_rows(groups, settings.sampling, prompts))
    return rows, collector.num_tokens


def _epochs(agent: OfflineTrainer, budget: int, sampled: int) -> float:
    """Return the passes over the data that a number of tokens pays for.

    Raises:
        SettingsError: if the data alone cost more.
    """
    if sampled >= budget:
        raise SettingsError(
            f"tokens={budget} are fewer than the {sampled} that the data cost; raise tokens, or "
            "lower num_prompts or n"
        )
    rows: Any = agent.train_dataset
    pass_tokens = sum(len(ids) for name in agent.columns for ids in rows[name])
    return (budget - sampled) / pass_tokens


class _AfterEpoch(TrainerCallback):
    """Measures the agent after every epoch."""

    def __init__(self, run: TrainingRun, agent: Any, sampled: int) -> None:
        self.run, self.agent, self.sampled = run, agent, sampled

    def on_epoch_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """See `transformers.TrainerCallback`."""
        del args, control, others
        self.agent.count_tokens()  # the Trainer itself counts when it logs
        tokens = self.sampled + self.agent.num_response_tokens
        collected = self.run.training.tokens is not None
        # A last epoch may be a part of one.
        self.run.measure(math.ceil(state.epoch - 1e-6) + collected, tokens, self.agent)
