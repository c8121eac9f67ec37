"""One run of a comparison: a reward and a seed, trained, measured on the way, written down."""

import platform
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tokengym.envs import episode_to_record
from tokengym.evaluation.config import ComparisonConfig, run_folder
from tokengym.evaluation.curves import COLUMNS
from tokengym.evaluation.files import write_csv, write_json, write_jsonl

if TYPE_CHECKING:
    from tokengym.agents import PPO
    from tokengym.evaluation.evaluate import Evaluation, Evaluator

FORMAT = 1
TRAIN_COLUMNS = {
    "rollout/score": "score",
    "train/kl": "kl",
    "rollout/ep_len_mean": "length",
    "train/entropy": "entropy",
    "train/policy_loss": "policy_loss",
    "train/value_loss": "value_loss",
    "train/approx_kl": "approx_kl",
    "train/clip_fraction": "clip_fraction",
    "train/explained_variance": "explained_variance",
    "train/ratio_error": "ratio_error",
    "train/kl_coef": "kl_coef",
    "time/rollout_s": "rollout_s",
    "time/assign_s": "assign_s",
    "time/update_s": "update_s",
}
"""What train.csv keeps of the learner's log: one row per update."""
PACKAGES = ("tokengym", "torch", "transformers", "gymnasium", "stable-baselines3", "numpy")

Report = Callable[[int, float], None]
"""Told (updates done, last evaluated score)."""


class RunRecord:
    """What a run measured so far, and how it is written down.

    Args:
        config: The comparison.
        reward: This run's reward.
        seed: Its seed.
    """

    def __init__(self, config: ComparisonConfig, reward: str, seed: int) -> None:
        self.config = config
        self.reward = reward
        self.seed = seed
        self.curve: list[dict[str, Any]] = []
        self.train: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []
        self.started = time.perf_counter()
        self._evaluation_s = 0.0
        self._seen = 0

    def begin(self) -> None:
        """Set the clock of wall_s to 0: models are loaded, training begins."""
        self.started = time.perf_counter()

    def add_update(self, step: int, logged: Mapping[str, Any]) -> None:
        """Keep one row of the learner's log."""
        values = {name: logged.get(key) for key, name in TRAIN_COLUMNS.items()}
        self.train.append({"step": step, **values})

    def add_evaluation(self, step: int, tokens: int, evaluation: "Evaluation") -> None:
        """Keep one point of the curve; training figures are means since the last point."""
        recent, self._seen = self.train[self._seen :], len(self.train)
        point = {
            "credit": self.reward,
            "seed": self.seed,
            "step": step,
            "tokens": tokens,
            "episodes": step * self.config.training.batch_size,
            **evaluation.metrics,
            "train_score": _mean(row["score"] for row in recent),
            "train_kl": _mean(row["kl"] for row in recent),
            "wall_s": round(time.perf_counter() - self.started - self._evaluation_s, 3),
        }
        self.curve.append(point)

    def add_evaluation_time(self, seconds: float) -> None:
        """Take an evaluation's time off the run's: wall_s is what training took."""
        self._evaluation_s += seconds

    def write(self, out: Path, error: BaseException | None = None) -> None:
        """Write the run's files; run.json, which makes it count, comes last."""
        folder = run_folder(out, self.reward, self.seed)
        write_csv(folder / "curve.csv", self.curve, COLUMNS)
        write_csv(folder / "train.csv", self.train, ["step", *TRAIN_COLUMNS.values()])
        write_jsonl(folder / "episodes.jsonl", self.samples)
        result = {
            "format": FORMAT,
            "credit": self.reward,
            "seed": self.seed,
            "status": "finished" if error is None else "failed",
            "steps_done": len(self.train),
            "wall_s": round(time.perf_counter() - self.started, 3),
            "settings": self.config.as_dict(),
            "versions": versions(),
        }
        if error is not None:
            result["error"] = describe(error)
            result["traceback"] = "".join(traceback.format_exception(error))
            kept = getattr(error, "episodes", ())  # of a scorer that failed
            if kept:
                write_jsonl(folder / "unscored.jsonl", map(episode_to_record, kept))
        write_json(folder / "run.json", result)


def run(
    config: ComparisonConfig,
    reward: str,
    seed: int,
    *,
    out: Path | None = None,
    save: Path | None = None,
    report: Report | None = None,
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

    Returns:
        What was measured.

    Raises:
        Exception: whatever the training raises, after it was written down.
    """
    record = RunRecord(config, reward, seed)
    try:
        agent = _train(config, record, report)
        if save is not None:
            agent.save(save)
    except Exception as error:
        if out is not None:
            record.write(out, error)
        raise
    if out is not None:
        record.write(out)
    return record


def record_failure(config: ComparisonConfig, out: Path, run: tuple[str, int], error: str) -> None:
    """Write down as failed a run that left no result of its own."""
    write_json(
        run_folder(out, *run) / "run.json",
        {
            "credit": run[0],
            "seed": run[1],
            "status": "failed",
            "error": error,
            "settings": config.as_dict(),
        },
    )


def make_agent(config: ComparisonConfig, reward: str, seed: int) -> "PPO":
    """Return a fresh learner in the training environments of one run."""
    import gymnasium as gym

    from tokengym.agents import PPO

    training = config.training
    envs = gym.make_vec(
        config.env, num_envs=training.batch_size, **config.env_kwargs(reward, train=True)
    )
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
    from tokengym.evaluation.evaluate import Evaluator

    return Evaluator(
        config.env,
        config.env_kwargs(config.rewards[0], train=False),
        num_episodes=config.evaluation.episodes,
        seed=config.evaluation.seed,
        toxicity=config.evaluation.toxicity,
    )


def _train(config: ComparisonConfig, record: RunRecord, report: Report | None) -> "PPO":
    from stable_baselines3.common.logger import Logger

    from tokengym.evaluation.recorder import LogRows, Recorder

    agent = make_agent(config, record.reward, record.seed)
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

    recorder = Recorder(config.training.steps, config.evaluation.every, measure)
    agent.set_logger(Logger(folder=None, output_formats=[LogRows(record.add_update)]))
    # One token more than the budget can hold: the recorder ends the training after its last update.
    training = config.training
    most = training.steps * training.batch_size * training.max_new_tokens
    record.begin()
    agent.learn(most + 1, callback=recorder)
    evaluator.close()
    return agent


class Sampler:
    """Shows what credit a run's own reward gives to responses of an evaluation.

    Args:
        config: The comparison.
        reward: The run's reward.
    """

    def __init__(self, config: ComparisonConfig, reward: str) -> None:
        from tokengym.evaluation.evaluate import task_reward

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
                "tokens": pieces(self.tokenizer, own.response_ids),
                "token_rewards": _rounded(own.token_rewards),
                "log_probs": _rounded(own.log_probs),
                "score": episode.score,
                "gold_score": None
                if evaluation.gold_scores is None
                else float(evaluation.gold_scores[index]),
            }
            for index, (episode, own) in enumerate(zip(episodes, credited, strict=True))
        ]


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Return the text that each token adds, so that joined they are the decoded whole."""
    texts, before = [], ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(list(ids[:end]), skip_special_tokens=False)
        # A character of several byte tokens shows up with its last one.
        ready = text.removesuffix("\ufffd")
        texts.append(ready[len(before) :] if ready.startswith(before) else "")
        before = ready if ready.startswith(before) else before
    return texts


def _rounded(values: NDArray[np.floating] | None) -> list[float] | None:
    """Return six digits of each value, which is what a float32 holds for sure."""
    return None if values is None else [float(f"{value:.6g}") for value in values]


def versions() -> dict[str, str]:
    """Return the versions that decide a run's numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def describe(error: BaseException) -> str:
    """Return an error in one line."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    return f"{name}: {text}" if text else name


def _mean(values: Any) -> float | None:
    known = [float(value) for value in values if value is not None]
    return float(np.mean(known)) if known else None
