"""Contents of a version of the benchmark: tasks, models, budget, tuning, tracks and seeds."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from tokengym.envs import bundled
from tokengym.lab.protocol import FIRST_RATE, PRICE, PROMPTS

Track = Literal["scores", "inside"]
"""Who may read the inside of the reward model: nobody, or the rule and the critic."""
TRACKS: tuple[Track, ...] = get_args(Track)
OWN, STARTED = "own", "reward_model"
"""Starts of the value network: the language model, or the reward model."""
BASELINE = "sparse"
CONTROLS = ("uniform", "recency", "random")
"""Rules that do not read the text; finding the right tokens means to be ahead of them too."""
PASSED = ("prefix",)
"""Attributions that are scores of texts, which the track "scores" allows."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A task at one length."""

    task: str
    """Name of the environment; settings of one task enter the number as their mean."""
    tokens: int
    """Most tokens of a response."""
    fixed: bool = False
    """Whether EOS is forbidden, so that every response has all of them."""
    options: str = ""
    """Arguments that only this task has, as `TaskSettings.task_options` takes them."""
    verified: bool = False
    """Whether a verifier gives the score; then there is no reward model to start a critic from."""

    @property
    def name(self) -> str:
        """Its name in files and tables."""
        return f"{self.task}-{self.tokens}"

    @property
    def env(self) -> str:
        """Id of the environment."""
        return f"tokengym/{self.task}-v0"

    @property
    def bundle(self) -> str:
        """Name of the bundle with its models.

        Example:
            >>> Setting(task="QuestionAnswer", tokens=48).bundle
            'question_answer'
        """
        parts = (f"_{sign.lower()}" if sign.isupper() else sign for sign in self.task)
        return "".join(parts).lstrip("_")

    def starts(self, track: Track) -> tuple[str, ...]:
        """Return the starts of the value network that a track allows."""
        return (OWN,) if track == "scores" or self.verified else (OWN, STARTED)


@dataclass(frozen=True, kw_only=True)
class Version:
    """What every version says. It is never edited: a change is another version."""

    name: str
    """Name and version."""
    settings: tuple[Setting, ...]
    """Tasks and lengths."""
    models: Mapping[str, tuple[str, str]]
    """Bundle -> first 16 digits of SHA-256 of the weights of its policy and its reward model."""
    updates: int = 30
    """Updates of a run."""
    rows: int = 64
    """Responses of an update."""
    prompts: int = PROMPTS
    """Held-out prompts of a measurement, one response each."""
    every: int = 1
    """Updates between two measurements."""
    price: float = PRICE
    """Score that a nat of exact KL costs, in training and in the figures."""
    lambdas: tuple[str, ...] = ("0.5", "0.8", "0.95", "1")
    """Lambdas that are tried."""
    seeds: tuple[int, ...]
    """Seeds of the runs that are compared, paired with those of the baseline."""
    best_of: int = 16
    """Untrained responses whose best ends the way that a lead is a share of."""
    learner: Mapping[str, Any] = field(
        default_factory=lambda: {
            "learning_rate_schedule": "linear",
            "vf_coef": 1.0,
            "clip_range_vf": None,
            "n_epochs": 2,
            "n_minibatches": 4,
            "kl_estimator": "exact",
        }
    )
    """PPO's settings besides."""

    @property
    def hash(self) -> str:
        """One hash of all that it says."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def check_models(self) -> None:
        """Refuse models other than those that it is defined on.

        Raises:
            ValueError: naming the model and both hashes.
        """
        for name, wanted in self.models.items():
            bundle = bundled(name)
            for part, digest in zip(("policy", "reward_model"), wanted, strict=True):
                found = weights_hash(getattr(bundle, part))
                if found != digest:
                    raise ValueError(
                        f"{part} of {name} has hash {found}, and {self.name} is defined on "
                        f"{digest}; install the version of tokengym that has that model"
                    )


def weights_hash(model: Path) -> str:
    """Return the first 16 digits of SHA-256 of the weights in a model's folder."""
    return hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Definition(Version):
    """A version whose rules are tuned first on spare seeds: a lambda and a start, then a rate."""

    first_rate: float = FIRST_RATE
    """Learning rate at which the lambdas are tried, with each start of the value network, and with
    which the sweep of the best one begins."""
    spare_seeds: tuple[int, ...] = (1000, 1001, 1002)
    """Seeds of all tuning."""
    seeds: tuple[int, ...] = tuple(range(10))
    margin: float = 0.03
    """Share of the way within which a rule is level with the baseline."""
    dear: float = 4.0
    """CPU seconds of a run, as a multiple of the baseline's, beyond which a row says so."""

    def runs(self, setting: Setting, track: Track) -> int:
        """Return how many runs a rule takes in a setting, if two more rates are tried."""
        cells = len(setting.starts(track)) * len(self.lambdas) + 2
        return cells * len(self.spare_seeds) + len(self.seeds)


V1 = Definition(
    name="tokengym-credit v1",
    settings=(
        Setting(task="MovieReview", tokens=24, fixed=True),
        Setting(task="MovieReview", tokens=48, fixed=True),
        Setting(task="MovieReview", tokens=96, fixed=True),
        Setting(task="QuestionAnswer", tokens=48),
        Setting(task="Dialogue", tokens=48),
        Setting(task="Summarize", tokens=32),
        Setting(task="Detox", tokens=48, fixed=True),
        Setting(
            task="Forks",
            tokens=20,
            options="family=brackets,decisions=3,distractors=2",
            verified=True,
        ),
    ),
    models={
        "movie_review": ("ce26e763ebbd10b7", "78ee587b0ecf0c76"),
        "question_answer": ("98e68a795a8f321a", "31bed5ea0ea35f22"),
        "dialogue": ("adb1d5ade1e03607", "7d3bff8195f8b669"),
        "summarize": ("d1a95a99b346613e", "4ae899ce49446677"),
        "detox": ("fbb5ca43a45b2ee4", "439ff92a4b76a3cc"),
        "forks": ("a8feb5d0a05d76be", "e38363514f7ddb3b"),
    },
)
