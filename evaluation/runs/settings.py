"""Settings of a run's task, training and evaluation, and their defaults by task."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

from tokengym.agents.learner import Learner, find_learner
from tokengym.agents.policy.settings import Precision, Products, check_products
from tokengym.agents.ppo.settings import PPOSettings
from tokengym.base.errors import SettingsError
from tokengym.base.files import to_json
from tokengym.base.objects import found
from tokengym.base.settings import (
    all_optional,
    check_choice,
    check_count,
    check_given,
    check_memory,
    from_json,
    values_by_name,
)
from tokengym.base.stored.parts import tokenizer_place
from tokengym.envs.settings import TOKEN_BYTES, GenerationSettings
from tokengym.envs.tasks import Task
from tokengym.envs.tasks.task import TASKS, TaskOptions
from tokengym.evaluation.measure.environments import OWN_PARTS
from tokengym.evaluation.measure.measures import BLOCK
from tokengym.rewards.registry import RewardOptions
from tokengym.rewards.scorers.wrappers import NORMALIZATIONS, parse_normalization

if TYPE_CHECKING:
    from peft import LoraConfig

AGENT = "ppo"
"""Learner where none is named."""
SEEDS = 5
"""Runs per arm of a comparison where nobody says how many: the fewest that give an interval."""
MAX_THREADS = 1024
"""Most threads of one run; more than the largest machines have processors are a mistake."""
PASSED = ("dataset", "prompts", "tokenizer")
"""Options of an environment that may be objects of the caller's, which settings name by a word."""
EPISODE_BYTES = 1_000
"""Least memory of one response with its prompt, as evaluations keep them."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Loading and device of the model that is trained."""

    device: str = "auto"
    """Device of the models: "auto" takes a GPU if there is one; "cpu", "cuda", ..."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the weights; "auto" is that of the model's files, and float32 for a GGUF file
    and "smollm2"."""
    lora_rank: int | None = None
    """Rank of LoRA adapters; None trains all weights."""
    lora_targets: str = "all-linear"
    """Maps that adapters change, names with commas between them, such as "q_proj,v_proj";
    "all-linear" takes all linear maps of the blocks."""
    threads: int = 1
    """Threads that torch computes with on the CPU, which decide the last digits of its sums; more
    are faster for large models."""

    def __post_init__(self) -> None:
        check_count(self, "lora_rank", optional=True)
        if self.lora_rank is None and self.lora_targets != "all-linear":
            raise SettingsError(
                f"lora_targets={self.lora_targets!r} has no effect without lora_rank; pass both"
            )
        check_count(self, "threads", most=MAX_THREADS)
        check_choice(self, "dtype", ("auto", "float32", "bfloat16"))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Compute with `threads` threads, scorers on `device` as well, while the block runs."""
        import torch

        from tokengym.base.device import preferred_device

        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with preferred_device(self.device, self.dtype):
                yield
        finally:
            torch.set_num_threads(before)

    def lora(self) -> "LoraConfig | None":
        """Return the ``peft.LoraConfig``, or None to train all weights."""
        if self.lora_rank is None:
            return None
        from peft import LoraConfig

        names = [name.strip() for name in self.lora_targets.split(",")]
        targets = self.lora_targets if names == ["all-linear"] else names
        return LoraConfig(r=self.lora_rank, lora_alpha=2 * self.lora_rank, target_modules=targets)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(ModelSettings):
    """Settings of one training: the run's own settings, and those of its learner whole.

    The defaults are a trial's best cell on MovieReview: dense credit shows there because scores
    are centred (a positive score would pay every token) and lambda is below 1 (with 1 the whole
    return reaches every token anyway).

    Raises:
        ValueError: if a value is out of range, or the learner is unknown.
    """

    agent: str = AGENT
    """Name of the learner."""
    precision: Precision = "full"
    """"full" computes in the precision of the weights; "bf16-mixed" in bfloat16, with weights and
    optimiser in float32."""
    products: Products = "torch"
    """Library that multiplies float32 matrices of the policy on a CPU: torch's own, or "onednn",
    faster on some processors. It decides the last digits, so a run keeps the one it began with."""
    steps: int = field(default=30, metadata={"flag": "updates"})
    """Updates per run."""
    batch_size: int = 64
    """Episodes per update: the number of environment rows."""
    tokens: int | None = None
    """Response tokens after which training ends, including those of candidates and continuations;
    None trains for ``updates``, or the learner's own iterations or epochs."""
    max_new_tokens: int | None = 48
    """Longest response, tokens. None, where a policy learns from given pairs: as long as those of
    the data if it is measured on their prompts, else as the task has it."""
    fixed_length: bool = False
    """Forbid EOS, so that every response has ``max_new_tokens`` tokens and every run spends the
    same number of them (ABC's setting); else a reward may also change the length."""
    normalize: str = "batch"
    """Centring of the scorer's value before credit is assigned: by the batch's mean ("batch"), by a
    running mean and deviation ("running"), or none ("off"). Options follow: "running:window=512"
    remembers so many episodes, "by=query_type" keeps means per type of query. Evaluation always
    reports the raw score."""
    learner: Any = field(default_factory=lambda: find_learner(AGENT).default_settings())
    """Settings of the learner, an instance of its `Learner.settings`."""

    def __post_init__(self) -> None:
        ModelSettings.__post_init__(self)
        check_count(self, "steps", "batch_size")
        check_count(self, "tokens", "max_new_tokens", optional=True)
        longest = self.max_new_tokens or 0
        check_memory("max_new_tokens", longest, bytes_each=TOKEN_BYTES)
        bytes_each = EPISODE_BYTES + TOKEN_BYTES * longest
        check_memory("batch_size", self.batch_size, bytes_each=bytes_each)
        centring = self.normalize.partition(":")[0]
        if self.normalize not in (*NORMALIZATIONS, "off"):
            if centring not in NORMALIZATIONS:
                check_choice(self, "normalize", (*NORMALIZATIONS, "off"))
            parse_normalization(self.normalize)
        check_choice(self, "fixed_length", (True, False))
        self._check_learner()
        learner = self.declaration
        if self.tokens is not None and not learner.takes_budget:
            raise SettingsError(
                f"tokens has no effect on {self.agent}, which trains nothing; leave it out"
            )
        self._check_arithmetic()
        parts = self.learner.n_minibatches if isinstance(self.learner, PPOSettings) else 1
        if parts > self.batch_size and parts != PPOSettings.n_minibatches:  # the default gives way
            raise SettingsError(
                f"n_minibatches must be at most batch_size={self.batch_size}, got {parts}; raise "
                "batch_size or lower n_minibatches"
            )
        if learner.uses_credit and centring == "batch" and self.batch_size < 2:
            raise SettingsError(
                "normalize='batch' needs batch_size >= 2, got 1; a single score is its own mean"
            )

    def _check_learner(self) -> None:
        """Refuse settings of another learner, and those that have no effect on this one."""
        learner = self.declaration
        if type(self.learner) is not learner.settings:
            raise SettingsError(
                f"learner must be {learner.settings.__name__} for agent={self.agent!r}, got "
                f"{type(self.learner).__name__}"
            )
        for name, value in learner.fixed.items():
            if (given := getattr(self.learner, name)) != value:
                raise SettingsError(
                    f"{name} is {value!r} with agent={self.agent!r}, got {given!r}; leave it out, "
                    "or name agent='ppo'"
                )
        for name in learner.unused:
            if (given := getattr(self, name)) != getattr(TrainingSettings, name):
                raise SettingsError(
                    f"{name}={given!r} has no effect on agent={self.agent!r}; leave it out"
                )
        alone = getattr(self.learner, "n_value_warmup", 0)
        if alone and self.tokens is None and alone >= self.steps:
            raise SettingsError(
                f"n_value_warmup={alone} leaves the policy none of {self.steps} updates; lower it "
                "or raise updates"
            )

    def _check_arithmetic(self) -> None:
        """Refuse a precision that the weights cannot have, and products that none are made by."""
        check_choice(self, "precision", get_args(Precision))
        if self.precision != "full" and self.dtype == "bfloat16":
            raise SettingsError(
                f"precision={self.precision!r} keeps weights in float32, got dtype='bfloat16'; "
                "leave dtype out"
            )
        check_choice(self, "products", get_args(Products))
        check_products(self.products, dtype=self.dtype, precision=self.precision)

    @cached_property
    def declaration(self) -> Learner:
        """The learner's declaration."""
        return find_learner(self.agent)

    @property
    def values(self) -> dict[str, Any]:
        """All settings by name, the learner's among them."""
        return values_by_name(self)

    @property
    def last_step(self) -> int:
        """Last step of the learning curve, in the learner's unit; tokens where they end it."""
        if self.tokens is not None:
            return self.tokens
        return max(round(self.values[self.declaration.steps_setting]), 1)

    @property
    def step_name(self) -> str:
        """What `last_step` counts, in the singular."""
        return self.declaration.step_name if self.tokens is None else "token"

    def is_over(self, step: int, tokens: int) -> bool:
        """Return whether a training that the run ends is over after so many updates and tokens."""
        return step >= self.steps if self.tokens is None else tokens >= self.tokens

    def remaining(self, step: int, tokens: int) -> float:
        """Return the share of the training that is left then, 1 to 0."""
        if self.tokens is None:
            return 1.0 - step / self.steps
        return 1.0 - min(tokens / self.tokens, 1.0)

    def lengths(self) -> dict[str, int]:
        """Return the arguments of ``gym.make`` that decide how long responses are."""
        if self.max_new_tokens is None:
            raise SettingsError("max_new_tokens=None is decided by a comparison; name a length")
        least = self.max_new_tokens if self.fixed_length else 0
        return {"min_new_tokens": least, "max_new_tokens": self.max_new_tokens}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "TrainingSettings":
        """Return the settings that `to_json` wrote."""
        learner = find_learner(data["agent"])
        settings: Any = from_json(learner.settings, data["learner"])
        return from_json(cls, {**data, "learner": settings})


CREDIT_SETTINGS = frozenset({"steps", "batch_size", "normalize"})
"""Fields of `TrainingSettings` that matter to a learner from token rewards alone."""


Stream = Literal["run", "shared"]


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Settings of measuring a policy: frozen, on held-out prompts, at fixed seeds.

    Raises:
        ValueError: if a value is out of range.
    """

    reference_samples: int | None = None
    """Responses of the untrained policy to each held-out prompt, a multiple of 16: for best-of-n
    and a lower bound of the optimum. They cost as many tokens as that many evaluations; 0 draws
    none, and None up to 64, so that measuring two runs takes a third of their responses at most."""
    every: int | None = field(default=None, metadata={"flag": "eval-every"})
    """Updates between two evaluations; the reference (step 0) and the end are always measured.
    None takes 3, or more where the budget is small."""
    every_until: int = field(default=0, metadata={"flag": "eval-every-until"})
    """Updates from the start that are all evaluated: a lead can arise in the first ones, which a
    coarse grid cuts short."""
    episodes: int | None = field(default=None, metadata={"flag": "eval-episodes"})
    """Held-out prompts per evaluation. None takes up to 128, so that measuring two runs takes a
    third of their responses at most."""
    seed: int = field(default=20_240, metadata={"flag": ""})
    """Seed of the prompts and of the sampling during evaluation."""
    stream: Stream = field(default="run", metadata={"flag": "eval-stream"})
    """How evaluations draw. "run": each seed has its own random subset of the held-out prompts, and
    each step its own sampling; arms of one seed share both, so that the interval over seeds has the
    noise of measuring in it. "shared": the first prompts and one sampling for every run and step,
    whose error no interval over seeds sees between arms that start apart."""
    samples: int = 4
    """Responses kept with their token rewards, at the first and the last evaluation."""
    toxicity: str | None = None
    """Classifier that measures toxicity: a folder or hub name, or "words" for a list of mild
    insults and the rude words of the bundled tasks; None leaves it out."""

    def __post_init__(self) -> None:
        check_count(self, "reference_samples", least=0, optional=True)
        check_count(self, "every", "episodes", optional=True)
        check_count(self, "samples", "seed", "every_until", least=0)
        check_choice(self, "stream", get_args(Stream))
        for name in ("reference_samples", "episodes"):
            check_memory(name, getattr(self, name) or 0, bytes_each=EPISODE_BYTES)
        if (self.reference_samples or 0) % BLOCK:
            raise SettingsError(
                f"reference_samples must be 0 or a multiple of {BLOCK}, got "
                f"{self.reference_samples}; 16 are enough for the best of 16"
            )

    def is_due(self, step: int) -> bool:
        """Return whether the policy is evaluated after that many updates.

        Example:
            >>> grid = EvaluationSettings(every=3, every_until=2)
            >>> [step for step in range(10) if grid.is_due(step)]
            [0, 1, 2, 3, 6, 9]
        """
        assert self.every is not None
        return step <= self.every_until or step % self.every == 0

    def draws(self, seed: int, step: int) -> tuple[int, int] | None:
        """Return what a run's evaluation after a step draws by; None of the shared stream."""
        return (seed, step) if self.stream == "run" else None


@dataclass(frozen=True, kw_only=True)
@all_optional
class TaskSettings(GenerationSettings, RewardOptions, TaskOptions):
    """Options of an environment, and models beside it; None leaves an option to the task.

    Raises:
        ValueError: if a value is out of range, or has no effect.
    """

    task_options: str = ""
    """Arguments of ``gym.make`` that are no options here, as "horizon=truncated", or that only this
    task has, as "decisions=6,distractors=2" of Forks."""

    def __post_init__(self) -> None:
        TaskOptions.__post_init__(self)
        RewardOptions.__post_init__(self)
        check_given(self, GenerationSettings, max_new_tokens=sys.maxsize)
        if self.overlong not in (None, "error") and self.max_prompt_tokens is None:
            raise SettingsError(
                f"overlong={self.overlong!r} has no effect without max_prompt_tokens; pass both"
            )

    def sources(self, reward: str | None = None) -> dict[str, Any]:
        """Return what decides whether prompts and scorer are the user's own, see `decide_env`.

        Args:
            reward: Word of the reward; None leaves it to the task.
        """
        own = {name: getattr(self, name) for name in OWN_PARTS if name != "reward"}
        return {**own, "reward": reward}

    def env_kwargs(self, env: str) -> dict[str, Any]:
        """Return the arguments of ``gym.make`` that are not left to the task.

        The lengths are `TrainingSettings.lengths`. Under a tokenizer of one's own the task keeps
        its prompts and scorers, which read texts.

        Args:
            env: Id of the environment.
        """
        values = {
            name: found(value) if name in PASSED else value
            for name, default in values_by_name(TaskSettings).items()
            if (value := getattr(self, name)) != default
        }
        # The registry takes apart "a=1,b=2" behind a name.
        if options := values.pop("task_options", ""):
            values |= TASKS.parse(f"task_options:{options}").options
        task = Task.of(env)
        if "model" in values and (task is None or task.bundle is None):
            model = values.pop("model")  # the learner's alone
            if "tokenizer" not in values and tokenizer_place(model):
                values["tokenizer"] = model
        if "tokenizer" in values and "bundle" not in values and task and not task.needs_prompts:
            values["bundle"] = task.own_bundle()
        return values


class RunSettings:
    """Settings of a run's training, evaluation and task, which are stored as plain data.

    Each is made when it is first asked for: that of the training finds the learner, whose code may
    be a file of the user's own.

    Args:
        plain: The settings by these names, as `to_json` writes them.
    """

    def __init__(self, plain: Mapping[str, Any]) -> None:
        self.plain: Mapping[str, Any] = plain

    @classmethod
    def of(
        cls, training: TrainingSettings, evaluation: EvaluationSettings, task: TaskSettings
    ) -> "RunSettings":
        """Return settings that are there."""
        made = {"training": training, "evaluation": evaluation, "task": task}
        settings = cls(to_json(made))
        vars(settings).update(made)
        return settings

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunSettings) and self.plain == other.plain

    @cached_property
    def training(self) -> TrainingSettings:
        """Settings of the training."""
        return TrainingSettings.from_dict(self.plain["training"])

    @cached_property
    def evaluation(self) -> EvaluationSettings:
        """Settings of its evaluations."""
        # Before it had a name there was one stream.
        return from_json(EvaluationSettings, {"stream": "shared", **self.plain["evaluation"]})

    @cached_property
    def task(self) -> TaskSettings:
        """Prompts and models of the environment."""
        return from_json(TaskSettings, self.plain["task"])
