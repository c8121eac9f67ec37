"""One run of a comparison: a reward and a seed, trained, measured on the way, written down."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tokengym.envs import episode_to_record
from tokengym.envs.tokenization import token_texts
from tokengym.evaluation.runs.config import ComparisonConfig, run_folder
from tokengym.evaluation.runs.record import RunRecord
from tokengym.evaluation.runs.unfinished import UnfinishedRun

if TYPE_CHECKING:
    from tokengym.agents import PPO
    from tokengym.evaluation.measure.evaluate import Evaluation, Evaluator

Report = Callable[[int, float], None]
"""Told (updates done, last evaluated score)."""


def run(
    config: ComparisonConfig,
    reward: str,
    seed: int,
    *,
    out: Path | None = None,
    save: Path | None = None,
    report: Report | None = None,
    checkpoint_every: int = 0,
) -> RunRecord:
    """Train one policy and measure it along the way.

    Args:
        config: The comparison it belongs to.
        reward: The reward to train with.
        seed: Of everything random in the training.
        out: The comparison's folder; files are written at the end, or when the run fails. None
            writes nothing.
        save: Folder that the trained agent is saved in; None saves none.
        report: Told after each evaluation.
        checkpoint_every: Evaluations between two checkpoints in ``out``; the same call goes on
            from the last one to the same numbers. 0 keeps none.

    Returns:
        What was measured.

    Raises:
        Exception: whatever the training raises, after it was written down.
    """
    record = RunRecord(config, reward, seed)
    unfinished = None
    if out is not None and checkpoint_every > 0:
        unfinished = UnfinishedRun(run_folder(out, reward, seed), config.as_dict())
    try:
        agent = _train(config, record, report, unfinished, checkpoint_every)
        if save is not None:
            agent.save(save)
    except Exception as error:
        if out is not None:
            record.write(out, error)
        if unfinished is not None:
            unfinished.remove()  # gone on with, it would fail again
        raise
    if out is not None:
        record.write(out)
    if unfinished is not None:
        unfinished.remove()
    return record


def make_envs(config: ComparisonConfig, reward: str) -> Any:
    """Return the training environments of one run."""
    import gymnasium as gym

    return gym.make_vec(
        config.env, num_envs=config.training.batch_size, **config.env_kwargs(reward, train=True)
    )


def make_agent(config: ComparisonConfig, reward: str, seed: int) -> "PPO":
    """Return a fresh learner in the training environments of one run."""
    from tokengym.agents import PPO

    training, envs = config.training, make_envs(config, reward)
    policy_kwargs: dict[str, Any] = {}
    if config.task.model is not None:
        policy_kwargs["model"] = config.task.model
    if training.lora_rank is not None:
        from peft import LoraConfig

        policy_kwargs["lora"] = LoraConfig(r=training.lora_rank, lora_alpha=2 * training.lora_rank)
    return PPO(
        "CausalLMPolicy",
        envs,
        learning_rate=training.learning_rate,
        n_epochs=training.n_epochs,
        n_minibatches=training.n_minibatches,
        gae_lambda=training.gae_lambda,
        vf_coef=training.vf_coef,
        kl_coef=training.kl_coef,
        kl_target=training.kl_target,
        temperature=training.temperature,
        policy_kwargs=policy_kwargs,
        seed=seed,
    )


def make_evaluator(config: ComparisonConfig) -> "Evaluator":
    """Return what measures every run of a comparison alike: by the first reward's scorer."""
    from tokengym.evaluation.measure.evaluate import Evaluator

    return Evaluator(
        config.env,
        config.env_kwargs(config.rewards[0], train=False),
        num_episodes=config.evaluation.episodes,
        seed=config.evaluation.seed,
        toxicity=config.evaluation.toxicity,
    )


def _train(
    config: ComparisonConfig,
    record: RunRecord,
    report: Report | None,
    unfinished: UnfinishedRun | None,
    checkpoint_every: int,
) -> "PPO":
    from stable_baselines3.common.logger import Logger

    from tokengym.evaluation.runs.recorder import LogRows, Recorder

    begun = None if unfinished is None else unfinished.load(make_envs(config, record.reward))
    agent = make_agent(config, record.reward, record.seed) if begun is None else begun[0]
    evaluator = make_evaluator(config)
    sampler = Sampler(config, record.reward)

    def measure(step: int) -> None:
        began = time.perf_counter()
        evaluation = evaluator(agent)
        record.add_evaluation_time(time.perf_counter() - began)
        record.add_evaluation(step, agent.num_timesteps, evaluation)
        if step in (0, config.training.steps):
            record.samples += sampler.rows(record, step, evaluation)
        if report is not None:
            report(step, evaluation.metrics["score"])
        if unfinished is not None and len(record.curve) % checkpoint_every == 0:
            began = time.perf_counter()
            unfinished.save(agent, record.state())
            record.add_evaluation_time(time.perf_counter() - began)

    # One token more than the budget can hold: the recorder ends the training after its last update.
    training = config.training
    most = training.steps * training.batch_size * training.max_new_tokens + 1
    record.begin()
    if begun is not None:
        record.go_on_from(begun[1])
    done = len(record.train)
    recorder = Recorder(
        training.steps, config.evaluation.every, measure, done=done, measured=begun is not None
    )
    agent.set_logger(Logger(folder=None, output_formats=[LogRows(record.add_update, done)]))
    agent.learn(most - agent.num_timesteps, callback=recorder, reset_num_timesteps=begun is None)
    evaluator.close()
    return agent


class Sampler:
    """Shows what credit a run's own reward gives to responses of an evaluation.

    Args:
        config: The comparison.
        reward: The run's reward.
    """

    def __init__(self, config: ComparisonConfig, reward: str) -> None:
        from tokengym.evaluation.measure.evaluate import task_reward

        self.count = config.evaluation.samples
        kwargs = config.env_kwargs(reward, train=False)
        self.reward, self.tokenizer = task_reward(config.env, kwargs)

    def rows(self, record: RunRecord, step: int, evaluation: "Evaluation") -> list[dict[str, Any]]:
        """Return the first responses of an evaluation as rows of episodes.jsonl."""
        episodes = evaluation.episodes[: self.count]
        credited = self.reward.evaluate(list(episodes)) if episodes else []
        return [
            {
                "credit": record.reward,
                "seed": record.seed,
                "step": step,
                "sample": index,
                **episode_to_record(own),
                "tokens": token_texts(self.tokenizer, own.response_ids),
                "token_rewards": _rounded(own.token_rewards),
                "log_probs": _rounded(own.log_probs),
                "score": episode.score,
                "gold_score": None
                if evaluation.gold_scores is None
                else float(evaluation.gold_scores[index]),
            }
            for index, (episode, own) in enumerate(zip(episodes, credited, strict=True))
        ]


def _rounded(values: NDArray[np.floating] | None) -> list[float] | None:
    """Return six digits of each value, which is what a float32 holds for sure."""
    return None if values is None else [float(f"{value:.6g}") for value in values]
