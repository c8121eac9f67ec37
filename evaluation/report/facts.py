"""What a comparison found, as typed data: summary.json is its JSON, key for key.

`summary` makes it of curves; the verdict, tables, charts, the page, the terminal and
`tokengym.evaluation.result.Result` read its attributes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tokengym.base.files import IF_KNOWN, of_json, to_json
from tokengym.evaluation.measure.measures import Axis, Measure, measure_of, measures_of
from tokengym.evaluation.measure.references import ReferenceLines, ScoreRange
from tokengym.evaluation.report.curves import Late, group_label
from tokengym.evaluation.statistics import PairedDifference, RelativeSteps
from tokengym.evaluation.statistics.curve import GroupKey

FORMAT = 2
"""Version of the keys of summary.json."""
Kind = Literal["reward", "learner", "arm"]
"""What is compared, in one word."""
Unit = Literal["updates", "tokens"]
"""Unit of the curves' steps, in the plural."""


# --- of one arm -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Mean over runs of a number per run, with Student's interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Alarm:
    """A sign of over-optimisation in one reward's runs."""

    sign: str
    """What it is, as the beginning of a sentence."""
    detail: str
    """Its figures."""
    remedy: str = ""
    """What to do; empty where the samples are to be read first."""

    def __str__(self) -> str:
        return f"{self.sign} ({self.detail})" + (f": {self.remedy}" if self.remedy else "")


@dataclass(frozen=True, kw_only=True)
class Difference(PairedDifference):
    """A paired difference to the baseline, tested with those of its family."""

    p_adjusted: float
    """p-value after Holm's correction."""
    clear: int
    """1 or -1 if it is clearly above or below 0, else 0."""


@dataclass(frozen=True, kw_only=True)
class Carried(PairedDifference):
    """A difference whose shorter runs' last values are carried forward."""

    to: float
    """Step to which they are."""


@dataclass(frozen=True, kw_only=True)
class Chance:
    """Probability that a run of an arm beats one of the baseline, with its interval."""

    probability: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class AtKl:
    """How pairs stand at the KL where the baseline ends.

    The figures of either side are None where fewer pairs were there than a comparison needs.
    """

    pairs: int
    """Pairs of which both runs were there."""
    of: int
    """All pairs."""
    kl: float | None = None
    step: float | None = None
    """KL and step at which the arm was there, means over its runs."""
    baseline_kl: float | None = None
    baseline_step: float | None = None
    """Those of the baseline."""
    earlier: int = 0
    """1 if the arm was there earlier than the baseline, -1 if later, else 0."""


Errors = Mapping[str, Mapping[str, float]]
"""Standard errors of measuring, by measurement and number."""
Differences = Mapping[str, Mapping[str, Difference]]
"""Differences by measurement and number."""


@dataclass(frozen=True, kw_only=True)
class Versus:
    """How an arm compares with the baseline, over the steps that both runs of a pair reached."""

    differences: Differences
    probability_of_improvement: Mapping[str, Mapping[str, Chance]]
    """By measurement and number; empty where runs ended early."""
    relative_steps: RelativeSteps | None
    """Speed by the score; None where there is none."""
    relative_steps_net: RelativeSteps | None
    """Speed by the score minus the KL penalty."""
    unlike_steps: bool
    """Whether a pair was evaluated at steps that are unlike."""
    carried: Carried | None = field(default=None, metadata=IF_KNOWN)
    """Difference in score over the longest run, where runs ended early."""
    measuring: Errors = field(default_factory=dict)
    at_kl: AtKl | None = field(default=None, metadata=IF_KNOWN)
    """None where no KL is known of both."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What the runs of one reward, or learner, show."""

    runs: int
    seeds: Sequence[int]
    figures: Mapping[str, Mapping[str, Estimate]]
    """By measurement and number."""
    learns: int = 0
    """1 or -1 if the mean over the run is clearly above or below the runs' own starts."""
    measuring: Errors = field(default_factory=dict)
    collapse_rate: float
    """Share of the runs that collapsed."""
    alarms: Sequence[Alarm]
    versus_baseline: Versus | None = field(default=None, metadata=IF_KNOWN)
    """None of the baseline itself."""
    unbeaten_controls: Sequence[str] | None = field(default=None, metadata=IF_KNOWN)
    """Controls that a rule is not clearly ahead of; None of controls, and of the baseline."""

    def figure(self, measure: str, kind: str) -> Estimate | None:
        """Return a number of a measurement, None where it is not known."""
        return self.figures.get(measure, {}).get(kind)

    def difference(self, measure: str, kind: str) -> Difference | None:
        """Return the paired difference of a number to the baseline's, None if there is none."""
        versus = self.versus_baseline
        return None if versus is None else versus.differences.get(measure, {}).get(kind)

    def clear(self, measure: str, kind: str) -> int:
        """Return 1 or -1 if that difference is clearly above or below 0, else 0."""
        difference = self.difference(measure, kind)
        return 0 if difference is None else difference.clear


# --- of one setting -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LostRun:
    """A run that is in none of the figures."""

    credit: str
    seed: int
    group: Mapping[str, str] = field(default_factory=dict)
    error: str | None = field(default=None, metadata=IF_KNOWN)
    """How it failed; None of one that has not ended."""


@dataclass(frozen=True, kw_only=True)
class UnscoredRun:
    """A run with steps that have no score."""

    credit: str
    seed: int
    steps: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class EndedEarly:
    """Runs of an arm that ended before its longest."""

    seeds: Sequence[int]
    first: float
    """Step at which the first of them ended."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a comparison is said to show."""

    headline: str = ""
    notes: Sequence[str] = ()
    """Sentences that belong to the headline."""
    differences: Sequence[str] = ()
    """A line for each arm but the baseline."""
    cautions: Sequence[str] = ()


class _Measured:
    """What has measurements, and knows how they were taken."""

    by_gold: bool
    own_prompts: bool
    logged: Mapping[str, str]

    @property
    def table(self) -> Mapping[str, Measure]:
        """The table of measurements, by what these were taken of."""
        return measures_of(self.by_gold, self.logged, own_prompts=self.own_prompts)

    def measure(self, name: str) -> Measure:
        """Return a measurement of the table; of any other name as `measure_of` has it."""
        return self.table.get(name) or measure_of(name)


@dataclass(frozen=True, kw_only=True)
class Group(_Measured):
    """What the runs of one setting show."""

    group: Mapping[str, str]
    """Values that set it apart; {} where there is one setting."""
    baseline: str
    steps: Sequence[float]
    """First and last step that all runs cover."""
    cut_at: float | None
    """Last step of the shortest run, where others are longer."""
    longest: float
    shortest: str
    """Arm of the shortest run."""
    late: Sequence[Late]
    """Runs that were first evaluated after others had been."""
    ended_early: Mapping[str, EndedEarly]
    start: float
    """Mean score at the first evaluation."""
    tokens: Mapping[str, float] = field(default_factory=dict)
    """Tokens that a run of each arm has sampled at the last common step; {} where they are not
    known of all, or are what runs are compared at."""
    evaluations: int
    fewest_runs: int
    by_gold: bool
    own_prompts: bool = True
    logged: Mapping[str, str] = field(default_factory=dict)
    of_tools: bool = False
    reliable: bool
    """Whether every arm has the runs that an interval needs."""
    measures: Sequence[str]
    lost: Mapping[str, Sequence[str]]
    """Arms that lack a measurement, by its name."""
    equal_kl: float | None
    """KL at which scores are compared; None where it is not known."""
    reference: ReferenceLines | None
    """What needs no training."""
    score_range: ScoreRange | None
    """Ends of the normalised score."""
    rewards: Mapping[str, Arm]
    """The arms, the baseline first."""
    controls: Sequence[str] = ()
    failed: int
    failure: str
    """How the first failed."""
    can_retry: bool
    failed_seeds: Mapping[str, Sequence[int]]
    missing_seeds: Mapping[str, Sequence[int]]
    unscored: Sequence[UnscoredRun] = ()
    axis: Axis
    wanted_baseline: str
    verdict: Verdict = Verdict()

    @property
    def key(self) -> GroupKey:
        """Its values as curves have them."""
        return tuple(self.group.items())

    @property
    def label(self) -> str:
        """Its values in words; "" where there is one setting."""
        return group_label(self.key)

    @property
    def kind(self) -> Kind:
        """What is compared, in one word."""
        return "learner" if self.axis == "tokens" else "arm" if self.of_tools else "reward"

    @property
    def unit(self) -> Unit:
        """Unit of the curves' steps, in the plural."""
        return "tokens" if self.axis == "tokens" else "updates"

    @property
    def compares_kl(self) -> bool:
        """Whether arms are compared at equal KL, which those of a tool's own KL are not."""
        return "kl" in self.measures and "kl" not in self.logged

    @property
    def score(self) -> Measure:
        """What all runs are measured by."""
        return measure_of("score", self.by_gold)


# --- of all ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Anchors:
    """Levels by which scores are normalised, by measurement; None where none is known."""

    reference: Mapping[str, float] | None = None
    optimum: Mapping[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Summary(_Measured):
    """What a comparison shows, in every setting."""

    format: int = FORMAT
    level: float
    """Confidence level of the intervals."""
    kl_coef: float | None
    axis: Axis
    by_gold: bool
    own_prompts: bool = True
    logged: Mapping[str, str] = field(default_factory=dict)
    of_tools: bool = False
    anchors: Anchors
    failed: Sequence[LostRun]
    missing: Sequence[LostRun]
    measurements: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """What each measurement means, and how sure it is."""
    groups: Sequence[Group]
    about: Mapping[str, Any] = field(default_factory=dict)
    """What is told of the runs besides, for readers: ``settings``, ``versions``, ``command`` and
    so on, which are keys of their own in JSON."""

    @property
    def arms(self) -> list[str]:
        """The names of all arms."""
        return list(dict.fromkeys(name for group in self.groups for name in group.rewards))

    def to_json(self) -> dict[str, Any]:
        """Return it as summary.json has it."""
        record: dict[str, Any] = to_json(self)
        about: dict[str, Any] = record.pop("about")
        return record | about

    @classmethod
    def of_json(cls, record: Mapping[str, Any]) -> "Summary":
        """Return the summary of a summary.json.

        Raises:
            KeyError, TypeError, AttributeError: if a part is missing, or is another thing.
        """
        if record["format"] != FORMAT:
            raise TypeError(f"format must be {FORMAT}, got {record['format']!r}")
        level = record["level"]
        if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
            raise TypeError(f"level must be a number in (0, 1), got {level!r}")
        about = {key: value for key, value in record.items() if key not in cls.__annotations__}
        summary: Summary = of_json(cls, {**record, "about": about})
        return summary
