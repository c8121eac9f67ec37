"""Contents of the board, tokengym-credit v2: tasks, models, budget, tracks and seeds.

Its hash is published with every row. A change of what it says is another version.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from tokengym.base import content_hash, json_hash
from tokengym.envs import bundled
from tokengym.lab.protocol import PRICE, PROMPTS

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
    """A task at one length, with the learning rates that its cells have."""

    task: str
    """Name of the environment."""
    tokens: int
    """Most tokens of a response."""
    fixed: bool = False
    """Whether EOS is forbidden, so that every response has all of them."""
    options: str = ""
    """Arguments that only this task has, as `TaskSettings.task_options` takes them."""
    verified: bool = False
    """Whether a verifier gives the score; then there is no reward model to start a critic from."""
    label: str
    """Task that the lead is averaged over; settings of one label enter the test as their mean."""
    unlike: str
    """In what it differs from the others."""
    corpus: str = ""
    """Corpus of real text whose models `python -m studies.film_reviews` makes; "": bundled ones."""
    rates: tuple[float, ...] = (1e-3, 3e-4)
    """Learning rates of its cells."""

    @property
    def name(self) -> str:
        """Its name in files and tables."""
        kind = self.options.partition("decisions=")[2].partition(",")[0]
        return f"{self.label}-{self.tokens}{f'-{kind}' if kind else ''}"

    @property
    def env(self) -> str:
        """Id of the environment."""
        return f"tokengym/{self.task}-v0"

    def starts(self) -> tuple[str, ...]:
        """Return the starts that a value network can have there."""
        return (OWN,) if self.verified else (OWN, STARTED)


@dataclass(frozen=True, kw_only=True)
class OtherArm:
    """Training that is compared with the baseline as rules are, and is none."""

    rule: str
    """Its reward."""
    start: str
    """Start of its value network."""

    @property
    def name(self) -> str:
        """Its name in files and tables."""
        return f"{self.rule}, critic from the {self.start.replace('_', ' ')}"


@dataclass(frozen=True, kw_only=True)
class Definition:
    """What a version says. Once a row is published it is not edited: a change is another version.

    All cells of an arm, its lambdas at the rates of the setting, are run on all seeds. Each seed's
    cell is chosen on the others, so that no seed is spare.
    """

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
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the runs that are compared, paired with those of the baseline."""
    best_of: int = 16
    """Untrained responses whose best ends the way that a lead is a share of."""
    others: tuple[OtherArm, ...] = (OtherArm(rule=BASELINE, start=STARTED),)
    """Arms that are compared with the baseline whose critic starts from the language model, each
    in a family of its own."""
    reward_models: int = 3
    """Reward models of `judged` tasks: same recipe, other seeds and halves of the data."""
    judged: tuple[str, ...] = ("MovieReview", "Dialogue", "Detox")
    """Tasks on which a row says how far its figures move from one reward model to another."""
    learner: Mapping[str, Any] = field(
        default_factory=lambda: {
            "learning_rate_schedule": "linear",
            "vf_coef": 1.0,
            "clip_range_vf": None,
            "n_epochs": 2,
            "n_minibatches": 4,
            "kl_estimator": "exact",
            "n_warmup_updates": 5,
        }
    )
    """PPO's settings besides; the rate warms up, so that no update leaps."""

    @property
    def hash(self) -> str:
        """One hash of all that it says."""
        return json_hash(asdict(self))[:16]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Labels of the tasks that a lead is averaged over."""
        return tuple(dict.fromkeys(setting.label for setting in self.settings))

    def runs(self) -> int:
        """Return how many runs an arm takes in all settings."""
        return len(self.seeds) * sum(len(at.rates) * len(self.lambdas) for at in self.settings)

    def check_models(self) -> None:
        """Refuse models other than those that it is defined on."""
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
    return content_hash(model / "model.safetensors")[:16]


def _text(task: str, tokens: int, unlike: str, **options: Any) -> Setting:
    """Return a setting with a reward model."""
    return Setting(task=task, tokens=tokens, unlike=unlike, **{"label": task, **options})


def _forks(decisions: int, distractors: int, tokens: int, unlike: str) -> Setting:
    """Return a setting of Forks."""
    options = f"family=brackets,decisions={decisions},distractors={distractors}"
    return _text("Forks", tokens, unlike, options=options, verified=True, rates=(3e-4, 1e-4))


_REAL = "real text, a GPT-2 of 5.3M parameters, a classifier of whole reviews"
V2 = Definition(
    name="tokengym-credit v2",
    settings=(
        _text("MovieReview", 24, "few words decide the sentiment, short", fixed=True),
        _text("MovieReview", 48, "the same at twice the length", fixed=True),
        _text(
            "MovieReview",
            96,
            "the same at four times the length: the score is far from most tokens",
            fixed=True,
        ),
        _text(
            "QuestionAnswer",
            48,
            "facts: one right answer or a list, EOS ends it",
            rates=(3e-4, 1e-4),
        ),
        _text("Dialogue", 48, "a reply to a person, by a pairwise reward model, EOS ends it"),
        _text("Summarize", 32, "a summary: coverage of the prompt, short, EOS ends it"),
        _text(
            "Detox",
            48,
            "words to avoid in place of words to find, of fixed length",
            fixed=True,
        ),
        _forks(2, 2, 16, "a verifier: 19 % of untrained responses are right"),
        _forks(3, 2, 20, "a verifier: 9 %"),
        _forks(4, 2, 24, "a verifier: 4 %, one batch of 14 has no right response"),
        _text("MovieReview", 24, _REAL, label="IMDb", fixed=True, corpus="imdb"),
        _text("MovieReview", 16, "real sentences, short", label="SST-2", fixed=True, corpus="sst2"),
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
"""Twelve settings of eight tasks: five settings, three tasks, are about sentiment, and three
settings, one task, have a verifier."""

V2_LITE = replace(
    V2,
    name=f"{V2.name} lite",
    settings=tuple(replace(at, rates=at.rates[:1]) for at in V2.settings),
    lambdas=("0.5", "0.95"),
    seeds=(0, 1),
    reward_models=1,
)
"""All settings of version 2 with a sixth of its runs: one rate, two lambdas, two seeds. Its rows
have another hash and stand on no board beside those of version 2."""
