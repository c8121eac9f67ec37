"""How a task is trained and measured unless told otherwise: the one place for these numbers."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

Normalization = Literal["batch", "running", "off"]


def _at_least(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")


def _one_of(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        known = f"{', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}"
        raise ValueError(f"{name} must be {known}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How PPO trains a policy in a comparison.

    The defaults are a trial's best cell on MovieReview: dense credit shows there because scores
    are centred (a positive score would pay every token) and lambda is below 1 (with 1 the whole
    return reaches every token anyway).

    Raises:
        ValueError: if a value is out of range.
    """

    steps: int = 30
    """PPO updates."""
    batch_size: int = 64
    """Episodes per update: the number of environment rows."""
    max_new_tokens: int = 48
    """Longest response, tokens."""
    fixed_length: bool = False
    """Whether EOS is forbidden, so that every response has ``max_new_tokens`` tokens and every run
    spends the same number of them (ABC's setting); else a reward may also change the length."""
    learning_rate: float = 3e-4
    """Of AdamW."""
    n_epochs: int = 4
    """Passes over each batch."""
    n_minibatches: int = 2
    """Gradient steps per pass."""
    gae_lambda: float = 0.95
    """ABC's paper; at 1 credit redistribution cannot help."""
    vf_coef: float = 0.1
    """Weight of the value loss; at 0 the values, which begin at 0, stay there: no critic."""
    kl_coef: float = 0.05
    """Price of a nat of KL to the reference, in score units."""
    kl_target: float | None = None
    """KL per episode that an adaptive coefficient aims at; None keeps the coefficient."""
    temperature: float = 1.0
    """Of sampling, in training and evaluation."""
    normalize: Normalization = "batch"
    """What the scorer's value is centred by before credit is assigned: the batch's mean, a running
    mean and deviation, or nothing. Evaluation always reports the raw score."""
    lora_rank: int | None = None
    """Rank of LoRA adapters on the policy; None trains all weights."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "max_new_tokens", "n_epochs", "n_minibatches"):
            _at_least(name, getattr(self, name), 1)
        if self.lora_rank is not None:
            _at_least("lora_rank", self.lora_rank, 1)
        for name in ("learning_rate", "temperature"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not self.vf_coef >= 0.0:
            raise ValueError(f"vf_coef must be >= 0, got {self.vf_coef}; 0 is no critic")
        if not self.kl_coef >= 0.0:
            raise ValueError(f"kl_coef must be >= 0, got {self.kl_coef}; 0 leaves the KL free")
        if not 0.0 <= self.gae_lambda <= 1.0:
            raise ValueError(f"gae_lambda must lie in [0, 1], got {self.gae_lambda}; 0.95 is usual")
        if self.n_minibatches > self.batch_size:
            raise ValueError(
                f"n_minibatches must be at most batch_size={self.batch_size}, got "
                f"{self.n_minibatches}; raise batch_size or lower n_minibatches"
            )
        _one_of("normalize", self.normalize, ("batch", "running", "off"))
        _one_of("fixed_length", self.fixed_length, (True, False))
        if self.normalize == "batch" and self.batch_size < 2:
            raise ValueError(
                "normalize='batch' needs batch_size >= 2, got 1; a single score is its own mean"
            )

    def lengths(self) -> dict[str, int]:
        """Return the arguments of ``gym.make`` that decide how long responses are."""
        least = self.max_new_tokens if self.fixed_length else 0
        return {"min_new_tokens": least, "max_new_tokens": self.max_new_tokens}


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How a policy is measured: frozen, on held-out prompts, at fixed seeds.

    Raises:
        ValueError: if a value is out of range.
    """

    every: int = 3
    """Updates between two evaluations; the reference (step 0) and the end are always measured."""
    episodes: int = 128
    """Held-out prompts per evaluation, the same at every step and for every run."""
    seed: int = 20_240
    """Of the sampling during evaluation, the same at every step and for every run."""
    samples: int = 4
    """Responses kept with their token rewards, at the first and the last evaluation."""
    toxicity: str | None = None
    """What measures toxicity: the folder or hub name of a classifier, or "words" for the bundled
    list of mild insults; None leaves it out."""

    def __post_init__(self) -> None:
        _at_least("every", self.every, 1)
        _at_least("episodes", self.episodes, 1)
        _at_least("samples", self.samples, 0)
        _at_least("seed", self.seed, 0)


TASKS: dict[str, TrainingSettings] = {
    "MovieReview": TrainingSettings(fixed_length=True),
    "QuestionAnswer": TrainingSettings(learning_rate=1e-4),
    "Dialogue": TrainingSettings(),
    "Detox": TrainingSettings(fixed_length=True),
    "Summarize": TrainingSettings(max_new_tokens=32),
    "Oracle": TrainingSettings(max_new_tokens=6, learning_rate=1e-3),
    "TokenGeneration": TrainingSettings(),
}
"""By the name in the environment's id; a task that is not here takes the plain defaults. Rates are
those that sparse learnt best by, score less the price of KL, of 1e-4, 3e-4 and 1e-3."""

REWARDS: dict[str, tuple[str, ...]] = {
    "MovieReview": ("sparse", "uniform", "abc"),
    "QuestionAnswer": ("r3", "r3-dense"),
    "Detox": ("sparse", "uniform", "abc"),
    "Dialogue": ("sparse", "uniform", "abc"),
    "Summarize": ("sparse", "uniform", "abc"),
    "Oracle": ("sparse", "uniform", "abc", "red", "recency"),
}
"""What a comparison compares unless told otherwise: the others are set against the first."""


def task_of(env_id: str) -> str:
    """Return the task's name in an environment id.

    Example:
        >>> task_of("tokengym/MovieReview-v0")
        'MovieReview'
    """
    return env_id.rpartition("/")[2].rpartition("-v")[0] or env_id


def training_settings(env_id: str, **changes: Any) -> TrainingSettings:
    """Return a task's settings with the given ones changed; a change of None is no change.

    Raises:
        ValueError: if a value is out of range.
    """
    default = TASKS.get(task_of(env_id), TrainingSettings())
    return replace(default, **{key: value for key, value in changes.items() if value is not None})


def default_rewards(env_id: str) -> tuple[str, ...]:
    """Return the rewards that a task's comparison takes unless told otherwise."""
    return REWARDS.get(task_of(env_id), REWARDS["MovieReview"])


def changed(settings: Any, **changes: Any) -> Any:
    """Return a settings dataclass with those of the given fields that are not None changed."""
    names = {field.name for field in fields(settings)}
    return replace(settings, **{k: v for k, v in changes.items() if v is not None and k in names})
