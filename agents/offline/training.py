"""One run of DPO or SFT: the data, given or collected from the policy, then epochs over it."""

from typing import Any

import numpy as np
from transformers import TrainerCallback

from tokengym.agents.learner import TrainingRun
from tokengym.agents.offline.dpo import DPO
from tokengym.agents.offline.pair_data import pairs_dataset, responses_dataset
from tokengym.agents.offline.policies import make_policy
from tokengym.agents.offline.sft import SFT
from tokengym.agents.online.collecting import (
    ResponseCollector,
    best_rows,
    pair_rows,
    prompt_order,
)
from tokengym.agents.policy.policy import CausalLMPolicy
from tokengym.agents.rollouts.environments import environment_attribute


def train_dpo(run: TrainingRun) -> DPO:
    """Train `DPO` on pairs."""
    return _train(run, DPO, pairs=True, loss=run.settings.loss)


def train_sft(run: TrainingRun) -> SFT:
    """Train `SFT` on responses, the best of those collected."""
    return _train(run, SFT, pairs=False)


def make_run_policy(run: TrainingRun, envs: Any) -> CausalLMPolicy:
    """Return the policy that a run starts from, on the run's device."""
    return make_policy(envs, **run.policy_kwargs(), seed=run.seed, device=run.training.device)


def _train(run: TrainingRun, trainer: Any, *, pairs: bool, **arguments: Any) -> Any:
    """Train on data that stays as it is, measured after every epoch."""
    envs = run.make_envs(1)
    policy = make_run_policy(run, envs)
    run.measure(0, 0, policy)
    data, sampled = _data(run, envs, policy, pairs=pairs)
    agent = trainer(
        policy,
        data,
        **run.settings.tuning.trainer_arguments(run.settings.tuning.batch_size),
        **arguments,
        tokenizer=environment_attribute(envs, "tokenizer"),
        seed=run.seed,
        device=run.training.device,
    )
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


class _AfterEpoch(TrainerCallback):
    """Measures the agent after every epoch."""

    def __init__(self, run: TrainingRun, agent: Any, sampled: int) -> None:
        self.run, self.agent, self.sampled = run, agent, sampled

    def on_epoch_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """See `transformers.TrainerCallback`."""
        del args, control, others
        self.agent.count_tokens()  # the Trainer itself counts when it logs
        tokens = self.sampled + self.agent.num_response_tokens
        self.run.measure(round(state.epoch), tokens, self.agent)
