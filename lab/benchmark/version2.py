"""Version 2 of the benchmark: twelve settings of eight tasks at three seeds, and its arms.

It is calibrated by `studies.calibration`, and `tokengym bench --v2` runs it. The verdict is that of
`tokengym.lab.benchmark.verdict`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tokengym.lab.benchmark.definition import BASELINE, STARTED, V1, Setting, Version


@dataclass(frozen=True, kw_only=True)
class Setting2(Setting):
    """A task at one length, with the learning rates that its cells have."""

    label: str
    """Task that the lead is averaged over; settings of one label enter the test as their mean."""
    unlike: str
    """In what it differs from the others."""
    corpus: str = ""
    """Corpus of real text whose models `python -m studies.film_reviews` makes; "": bundled ones."""
    rates: tuple[float, ...] = (1e-3, 3e-4)
    """Learning rates of its cells, around those that version 1's tuning chose."""

    @property
    def name(self) -> str:
        """Its name in files and tables."""
        kind = self.options.partition("decisions=")[2].partition(",")[0]
        return f"{self.label}-{self.tokens}{f'-{kind}' if kind else ''}"


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
class Definition2(Version):
    """What version 2 says. Once a row is published it is not edited: a change is version 3.

    All cells of an arm, its lambdas at the rates of the setting, are run on all seeds. Each seed's
    cell is chosen on the others, so that no seed is spare.
    """

    settings: tuple[Setting2, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    others: tuple[OtherArm, ...] = (OtherArm(rule=BASELINE, start=STARTED),)
    """Arms that are compared with the baseline whose critic starts from the language model, each
    in a family of its own."""
    reward_models: int = 3
    """Reward models of `judged` tasks: same recipe, other seeds and halves of the data."""
    judged: tuple[str, ...] = ("MovieReview", "Dialogue", "Detox")
    """Tasks on which a row says how far its figures move from one reward model to another."""
    learner: Mapping[str, Any] = field(
        default_factory=lambda: {**V1.learner, "n_warmup_updates": 5}
    )
    """PPO's settings besides: a rate that warms up, so that no update leaps over the KL at which
    arms are compared."""

    def runs(self) -> int:
        """Return how many runs an arm takes in all settings."""
        return len(self.seeds) * sum(len(at.rates) * len(self.lambdas) for at in self.settings)


def _of_v1(number: int, unlike: str, **changes: Any) -> Setting2:
    """Return a setting of version 1 as one of this version."""
    about = {**asdict(V1.settings[number]), "label": V1.settings[number].task, **changes}
    return Setting2(unlike=unlike, **about)


def _forks(decisions: int, distractors: int, tokens: int, unlike: str) -> Setting2:
    """Return a setting of Forks."""
    options = f"family=brackets,decisions={decisions},distractors={distractors}"
    return _of_v1(7, unlike, options=options, tokens=tokens, rates=(3e-4, 1e-4))


V2 = Definition2(
    name="tokengym-credit v2",
    settings=(
        _of_v1(0, "few words decide the sentiment, short"),
        _of_v1(1, "the same at twice the length"),
        _of_v1(2, "the same at four times the length: the score is far from most tokens"),
        _of_v1(3, "facts: one right answer or a list, EOS ends it", rates=(3e-4, 1e-4)),
        _of_v1(4, "a reply to a person, by a pairwise reward model, EOS ends it"),
        _of_v1(5, "a summary: coverage of the prompt, short, EOS ends it"),
        _of_v1(6, "words to avoid in place of words to find, of fixed length"),
        _forks(2, 2, 16, "a verifier: 19 % of untrained responses are right"),
        _forks(3, 2, 20, "a verifier: 9 %"),
        _forks(4, 2, 24, "a verifier: 4 %, one batch of 14 has no right response"),
        Setting2(
            task="MovieReview",
            label="IMDb",
            tokens=24,
            fixed=True,
            corpus="imdb",
            unlike="real text, a GPT-2 of 5.3M parameters, a classifier of whole reviews",
        ),
        Setting2(
            task="MovieReview",
            label="SST-2",
            tokens=16,
            fixed=True,
            corpus="sst2",
            unlike="real sentences, short",
        ),
    ),
    models=V1.models,
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
