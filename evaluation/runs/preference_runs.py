"""One run of a learner from preferences, measured like a run of PPO: same prompts, same scorer."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from tokengym.evaluation.runs.config import ComparisonConfig
from tokengym.evaluation.runs.run import Report, RunRecord, make_evaluator

if TYPE_CHECKING:
    from tokengym.agents.online.collecting import Sampling
    from tokengym.agents.online.iterative import Iteration
    from tokengym.agents.online.settings import Tuning
    from tokengym.evaluation.measure.evaluate import Evaluator

PreferenceAgent = Literal["dpo", "sft", "online-dpo", "raft", "best-of-n"]
AGENTS: tuple[str, ...] = get_args(PreferenceAgent)


@dataclass(frozen=True, kw_only=True)
class PreferenceSettings:
    """How an agent learns from preferences.

    The defaults suit the bundled tasks' tiny models; papers' rates are for billions of parameters.

    Raises:
        ValueError: if a value is out of range.
    """

    pairs: str | None = None
    """File of pairs (or, for SFT, responses) to learn from; None collects them from the policy."""
    num_prompts: int = 512
    """Prompts answered: in all, or in each iteration."""
    iterations: int = 3
    """Of online DPO and RAFT."""
    n: int = 8
    """Responses per prompt; the candidates of best-of-n."""
    temperatures: tuple[float, ...] = (1.0, 0.7)
    """Shared by the responses that are learnt from."""
    length_penalty: float = 0.0
    """Taken off the score per character."""
    epochs: float = 2.0
    """Passes over the data, of each iteration."""
    learning_rate: float = 3e-4
    """Peak rate."""
    batch_size: int = 32
    """Pairs or responses per optimiser step."""
    beta: float = 0.1
    """DPO's pull towards the reference."""
    loss_type: str = "sigmoid"
    """DPO's loss."""
    lora_rank: int | None = None
    """Rank of LoRA adapters; None trains all weights."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "temperatures", tuple(self.temperatures))
        for name in ("num_prompts", "iterations", "n", "epochs", "learning_rate", "batch_size"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        self.loss()
        self.sampling()

    def sampling(self) -> "Sampling":
        """Return how responses are drawn and ranked."""
        from tokengym.agents.online.collecting import Sampling

        return Sampling(
            n=self.n, temperatures=self.temperatures, length_penalty=self.length_penalty
        )

    def tuning(self) -> "Tuning":
        """Return how the policy learns from one set of data."""
        from tokengym.agents.online.settings import Tuning

        return Tuning(
            learning_rate=self.learning_rate,
            num_train_epochs=self.epochs,
            batch_size=self.batch_size,
            micro_batch_size=min(32, self.batch_size),
        )

    def loss(self) -> Any:
        """Return DPO's loss."""
        from tokengym.agents.offline.loss import PreferenceLoss

        return PreferenceLoss(loss_type=self.loss_type, beta=self.beta)


def run_preferences(
    kind: str,
    config: ComparisonConfig,
    settings: PreferenceSettings,
    seed: int,
    *,
    out: Path | None = None,
    save: Path | None = None,
    report: Report | None = None,
) -> RunRecord:
    """Train one agent from preferences and measure it along the way.

    A point's ``tokens`` are the response tokens processed: those sampled (of PPO's curves too) and
    those passed over with gradient, each as often as that was. ``step`` counts epochs, iterations,
    or the candidates of best-of-n.

    Args:
        kind: One of `AGENTS`.
        config: The environment, whose first reward's scorer ranks and measures, and how it is
            measured.
        settings: How it learns.
        seed: Of everything random in the learning.
        out: Folder of the run's files; None writes nothing. Online DPO and RAFT keep iterations in
            it and go on after the last one that is there.
        save: Folder for the trained agent; None saves none. Best-of-n has nothing to save.
        report: Told after each measurement.

    Raises:
        ValueError: if there is no such agent.
    """
    if kind not in AGENTS:
        raise ValueError(f"agent must be one of {', '.join(AGENTS)}, got {kind!r}")
    record = RunRecord(config, kind, seed)
    session = _Session(config, settings, seed, record, report)
    record.begin()
    session.measure(0, 0, session.base)
    agent = None
    if kind == "best-of-n":
        session.play_best_of_n()
    else:
        agent = session.learn(kind, out)
    session.close()
    if out is not None:
        record.write(out)
    if save is not None and agent is not None:
        agent.save(save)
    return record


class _Session:
    """What the runs share: environments, the policy that learning starts from, measuring."""

    def __init__(
        self,
        config: ComparisonConfig,
        settings: PreferenceSettings,
        seed: int,
        record: RunRecord,
        report: Report | None,
    ) -> None:
        import gymnasium as gym

        from tokengym.agents.offline.policies import make_policy

        self.config, self.settings, self.seed = config, settings, seed
        self.record, self.report = record, report
        self.evaluator: Evaluator = make_evaluator(config)
        kwargs = config.env_kwargs(config.rewards[0], train=True) | {"normalize": None}
        self.envs = gym.make_vec(config.env, num_envs=1, **kwargs)
        lora = None
        if settings.lora_rank is not None:
            from peft import LoraConfig

            lora = LoraConfig(r=settings.lora_rank, lora_alpha=2 * settings.lora_rank)
        self.lora = lora
        self.base = make_policy(self.envs, config.task.model, lora=lora, seed=seed)

    def measure(self, step: int, tokens: int, agent: Any) -> None:
        """Measure an agent on the held-out prompts."""
        evaluation = self.evaluator(agent)
        self.record.add_evaluation(step, tokens, evaluation)
        self.record.curve[-1]["episodes"] = None  # that column counts PPO's batches
        if self.report is not None:
            self.report(step, evaluation.metrics["score"])

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()
        self.evaluator.close()

    def play_best_of_n(self) -> None:
        """Measure the best of 2, 4, ... up to n; tokens are those of all candidates."""
        from tokengym.agents import BestOfN

        sizes = sorted({2**power for power in range(1, 31) if 2**power < self.settings.n})
        for n in [*sizes, self.settings.n]:
            agent = BestOfN(
                self.base,
                self.envs,
                n=n,
                length_penalty=self.settings.length_penalty,
            )
            self.measure(n, 0, agent)
            self.record.curve[-1]["tokens"] = agent.num_tokens

    def learn(self, kind: str, out: Path | None) -> Any:
        """Train the agent of that kind."""
        if kind in ("online-dpo", "raft"):
            return self._iterate(kind, out)
        rows, sampled = self._data(kind)
        return self._fit(kind, rows, sampled)

    def _iterate(self, kind: str, out: Path | None) -> Any:
        """Train in iterations; those of an earlier run are measured anew only at their end."""
        from tokengym.agents import RAFT, OnlineDPO

        shared: dict[str, Any] = {
            "sampling": self.settings.sampling(),
            "tuning": self.settings.tuning(),
            "prompts_per_iteration": self.settings.num_prompts,
            "lora": self.lora,
            "output_dir": None if out is None else out / "iterations",
            "seed": self.seed,
        }
        model = self.config.task.model
        agent: Any = (
            OnlineDPO(self.envs, model, loss=self.settings.loss(), **shared)
            if kind == "online-dpo"
            else RAFT(self.envs, model, **shared)
        )

        def measured(agent: Any, iteration: "Iteration") -> None:
            self.measure(iteration.number, iteration.tokens, agent)

        agent.learn(self.settings.iterations, callback=measured)
        last = agent.history[-1]
        if self.record.curve[-1]["step"] != last.number:
            self.measure(last.number, last.tokens, agent)
        return agent

    def _data(self, kind: str) -> tuple[Any, int]:
        """Return what is learnt from, and the tokens sampled for it."""
        from tokengym.agents.offline.pair_data import pairs_dataset, responses_dataset
        from tokengym.agents.online.collecting import (
            ResponseCollector,
            best_rows,
            pair_rows,
            prompt_order,
        )

        if self.settings.pairs is not None:
            return self.settings.pairs, 0
        sampling = self.settings.sampling()
        collector = ResponseCollector(self.envs, sampling=sampling, max_rows=256)
        seeds = np.random.SeedSequence(self.seed).generate_state(2).tolist()
        prompts = prompt_order(
            len(collector.rehearsal.prompts), self.settings.num_prompts, seed=seeds[0]
        )
        groups = collector.collect(self.base, prompts, seed=seeds[1])
        if kind == "sft":
            rows = best_rows(groups, sampling, prompts)
            return responses_dataset(rows), collector.num_tokens
        return pairs_dataset(pair_rows(groups, sampling, prompts)), collector.num_tokens

    def _fit(self, kind: str, data: Any, sampled: int) -> Any:
        """Train on data that stays as it is, measured after every epoch."""
        from transformers import TrainerCallback

        from tokengym.agents import DPO, SFT
        from tokengym.agents.rollouts.environments import environment_attribute

        holder: dict[str, Any] = {}
        measure = self.measure

        class AfterEpoch(TrainerCallback):
            def on_epoch_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
                del args, control, others
                agent = holder["agent"]
                agent.count_tokens()  # the Trainer itself counts when it logs
                measure(round(state.epoch), sampled + agent.num_response_tokens, agent)

        shared: dict[str, Any] = {
            **self.settings.tuning().trainer_arguments(self.settings.batch_size),
            "tokenizer": environment_attribute(self.envs, "tokenizer"),
            "seed": self.seed,
            "callbacks": [AfterEpoch()],
        }
        agent: Any = (
            DPO(self.base, data, loss=self.settings.loss(), **shared)
            if kind == "dpo"
            else SFT(self.base, data, **shared)
        )
        holder["agent"] = agent
        agent.train()
        return agent


def progress_steps(kind: str, settings: PreferenceSettings) -> int:
    """Return the last step of a run's curve."""
    return {
        "best-of-n": settings.n,
        "online-dpo": settings.iterations,
        "raft": settings.iterations,
    }.get(kind, max(round(settings.epochs), 1))
