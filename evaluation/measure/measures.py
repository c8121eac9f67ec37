"""The table of measurements: what each means and how sure it is, declared once.

Of each it says the unit, the direction, which policy it is of, under which sampler and over which
prompts, how its standard error is found, and when it has no value. Below are the numbers that are
taken of a run's curve. curves.csv, the summary, the report, the command line and the page of
metrics read these tables; a new metric of the text is one entry with ``of_response``, or with
``of_text`` where it is of the responses together. The pure functions that its entries are computed
by follow. Words are those of `base.words`, so that policies with different tokenizers compare.
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import numpy as np

from tokengym.base.registry import Registry, did_you_mean
from tokengym.base.spellings import word_answer
from tokengym.base.words import words
from tokengym.envs import Episode
from tokengym.evaluation.statistics import DEFAULT_LEVEL, FEWEST_PAIRS, MIN_KL, RELIABLE_SEEDS
from tokengym.evaluation.statistics.frontier import COUNT

Kind = Literal["auc", "final"]
Policy = Literal["measured", "measured alike", "next batch", "batches", "pairs", "unknown"]
OF_POLICY: dict[Policy, str] = {
    "measured": "the frozen policy at that evaluation, which samples as in training one response "
    "to each of the held-out prompts that were drawn for its seed",
    "measured alike": "the frozen policy at that evaluation, which samples as in training one "
    "response to each of the first held-out prompts, the same prompts by the same draws for every "
    "seed",
    "next batch": "the same policy, and the responses to training prompts that it sampled for the "
    "next update",
    "batches": "the policies that sampled the batches of training since the last evaluation, on "
    "training prompts",
    "pairs": "the policy after an epoch, on given responses that it did not sample",
    "unknown": "what the tool that logged it measured",
}
"""Which policy a measurement is of, under which sampler and over which prompts, in words."""
Error = Literal["prompts", "ends", "wins", "count", ""]
OF_ERROR: dict[Error, str] = {
    "prompts": "Standard error: that of a mean over prompts, of each response's value, kept in "
    "responses.npz",
    "ends": "Standard error: that of the score that is normalised, its two ends taken as they are",
    "wins": f"A {DEFAULT_LEVEL:.0%} interval over prompts stands beside it",
    "count": "A count, which has no error",
    "": "No standard error: only the mean is kept",
}
"""How the standard error of one evaluation of one run is found, in words."""
PLAIN = ("", "score", "share", "ratio", "its own")
"""Units that stand behind no name."""


UNSCORED = "unscored"
"""Number of responses without a score, in the log of a learner and the table of a run."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One measurement: its name in files, its words for readers, and where it is shown."""

    name: str
    """Name in code, curves.csv and summary.json."""
    title: str
    """Heading of its chart."""
    meaning: str
    """One sentence, with the unit; empty where nothing is known."""
    unit: str = ""
    """Its unit; those of `PLAIN` stand on no axis."""
    better: Literal["higher", "lower", ""] = ""
    """Direction of improvement; empty where neither way is better in itself."""
    policy: Policy = "measured"
    """Policy, sampler and prompts that it is of, see `OF_POLICY`."""
    error: Error = ""
    """How its standard error is found, see `OF_ERROR`; with ``of_response`` over prompts."""
    missing: str = ""
    """When it has no value; it is then left out, and never 0. Empty where it always has one."""
    word: str = ""
    """Name in sentences and column headings; empty for those that only have a chart."""
    short: str = ""
    """Heading in the terminal; only measurements with one are printed there. curves.png draws them
    and those that rank."""
    recorded: bool = False
    """Whether it is a column of curves.csv; columns stand in the order of the table."""
    ranked: bool = False
    """Whether rewards are ranked by it, which adds an area and a chance of improvement."""
    columns: tuple[Kind, ...] = ()
    """Columns of the report's table of figures."""
    differences: tuple[Kind, ...] = ()
    """Charts of the differences to the baseline."""
    of_text: Callable[[Sequence[Episode]], float] | None = None
    """Function of the responses together, where it is one; nan where they have no value."""
    of_response: Callable[[Episode], float] | None = None
    """Function of one response, where it is one, nan where that has no value: a mean over the
    responses is the measurement, and each one's value is kept."""

    def __post_init__(self) -> None:
        if self.of_text and (self.of_response or self.error == "prompts"):
            raise ValueError(
                f"of {self.name!r} each response's value is kept where it is a function of one "
                "response; give of_response alone, or of_text without error='prompts'"
            )

    @property
    def label(self) -> str:
        """Its title with the unit, for a figure."""
        return f"{self.title}{self.in_brackets}"

    @property
    def in_brackets(self) -> str:
        """Its unit as headings have it behind a name; "" where that goes without saying."""
        return "" if self.unit in PLAIN else f" ({self.unit})"

    def heading(self, kind: str) -> str:
        """Return the heading of one of its numbers, such as ``KL at the end``."""
        return f"{self.word[:1].upper()}{self.word[1:]} {WHEN[kind]}"

    @property
    def error_by(self) -> Error:
        """How its standard error is found, see `OF_ERROR`."""
        return "prompts" if self.of_response else self.error

    @property
    def says(self) -> str:
        """What it means and how sure it is, in sentences."""
        better = {"higher": "higher is better", "lower": "lower is better", "": ""}[self.better]
        unit = "; ".join(filter(None, (self.unit and f"Unit: {self.unit}", better)))
        parts = [
            self.meaning,
            f"{unit[:1].upper()}{unit[1:]}." if unit else "",
            f"Of {OF_POLICY[self.policy]}.",
            f"{OF_ERROR[self.error_by]}.",
            f"No value {self.missing}." if self.missing else "",
        ]
        return " ".join(filter(None, parts))

    def as_dict(self) -> dict[str, str]:
        """Return what it means as plain data, as summary.json has it beside the figures."""
        return {
            "title": self.title,
            "meaning": self.meaning,
            "unit": self.unit,
            "better": self.better,
            "of": OF_POLICY[self.policy],
            "error": OF_ERROR[self.error_by],
            "missing": self.missing,
        }


@dataclass(frozen=True, kw_only=True)
class Number:
    """One number that is taken of a measurement's curves."""

    name: str
    """Name in summary.json and in the frames of results."""
    words: str
    """Name in headings, that of ``auc`` and ``final`` behind that of the measurement."""
    meaning: str
    """What it is, in one sentence or more."""
    error: str
    """How sure it is."""

    @property
    def title(self) -> str:
        """Its name at the beginning of a sentence."""
        return f"{self.words[:1].upper()}{self.words[1:]}"


OF_MEASURING = (
    "The part of measuring is a standard error over prompts and draws, by one number for each "
    "prompt of each run; in a difference these are paired by seed and prompt. More prompts lower "
    "it."
)
"""How sure a number is by its prompts and draws alone."""
_OVER_SEEDS = "Over seeds a mean with Student's t interval"
_SURE = (
    f"{_OVER_SEEDS}, which has the noise of training in it, and that of measuring where each seed "
    f"has prompts and draws of its own. {OF_MEASURING}"
)
NUMBERS = {
    number.name: number
    for number in (
        Number(
            name="auc",
            words="over the run",
            meaning="Mean height of the curve: the area under it by steps, divided by their "
            "number. It says how fast and how high.",
            error=_SURE,
        ),
        Number(
            name="final",
            words="at the end",
            meaning="Mean of the last tenth of a run's evaluations.",
            error=_SURE,
        ),
        Number(
            name="at_kl",
            words="at equal KL",
            meaning="Both runs of a pair are read at the KL where the baseline ends, the mean over "
            f"its runs: over the last {COUNT} evaluations in a row that are at that KL, whose mean "
            "the reward's own slope of score over KL moves to it. A run that never was there has "
            f"no value; {FEWEST_PAIRS} pairs are needed. The update at which it was there is said "
            "beside it: where one of the two was there clearly earlier, a difference may be one "
            f"of training, and none is called clear. Below {MIN_KL:g} nats nothing is compared: "
            "the policies have hardly moved.",
            error=f"{_OVER_SEEDS}. The part of measuring is not known by itself.",
        ),
        Number(
            name="speed",
            words="speed",
            meaning="How many times as fast as the baseline a reward comes up the first three "
            "quarters of the baseline's way, from the mean start to the baseline's end: the ratio "
            "of the areas between that level and the curves, a geometric mean over pairs. A run "
            "that never arrives has the area over all of its steps.",
            error="Student's t interval of the ratio's logarithm stands beside it.",
        ),
        Number(
            name="chance",
            words="chance to beat",
            meaning="Probability that a run of one reward has the larger area than one of the "
            "baseline, ties half.",
            error="Its interval over seeds stands beside it, Newcombe's for the Mann-Whitney "
            "statistic.",
        ),
        Number(
            name="difference",
            words="difference",
            meaning="Mean over the seeds that both rewards have, with Student's t interval. The "
            "more rewards are compared, the higher the interval's level, so that it excludes 0 "
            "where the test finds a difference after Holm's correction for their number; at the "
            "end it is for the measurements named there too. The difference is clear if it does "
            f"so on at least {RELIABLE_SEEDS} seeds and does not round to 0.",
            error=OF_MEASURING,
        ),
    )
}
"""The numbers that are taken of runs, by name."""
WHEN = {name: number.words for name, number in NUMBERS.items()}
"""Words for them."""


_TABLE = (
    Measure(
        name="score",
        title="Score",
        meaning="What the reward model, or the task's own scorer, gives to responses to held-out "
        "prompts, before any shaping or centring.",
        unit="score",
        better="higher",
        word="score",
        short="score",
        recorded=True,
        ranked=True,
        columns=("auc", "final"),
        differences=("auc", "final"),
        error="prompts",
        missing="for a response whose partner or judge failed, which the mean leaves out",
    ),
    Measure(
        name="gold_score",
        title="Gold score",
        meaning="The task's true score, which no reward sees: it shows when the score is gamed.",
        unit="score",
        better="higher",
        word="gold score",
        short="gold",
        recorded=True,
        ranked=True,
        columns=("final",),
        differences=("final",),
        error="prompts",
        missing="where the task has no true score, or one that does not know the words",
    ),
    Measure(
        name="kl",
        title="KL to the reference",
        meaning="Nats per response by which the policy left its reference: the price of the score.",
        unit="nats",
        word="KL",
        short="KL",
        recorded=True,
        columns=("final",),
        differences=("final",),
        error="prompts",
        missing="where an agent does not know its log-probs",
    ),
    Measure(
        name="net_score",
        title="Score minus the KL penalty",
        meaning="Score minus the KL coefficient times KL: what the learner itself maximises.",
        unit="score",
        better="higher",
        word="score minus the KL penalty",
        ranked=True,
        columns=("final",),
        differences=("auc",),
        error="prompts",
        missing="where the KL is not known, or learners have prices of their own",
    ),
    Measure(
        name="normalised_gold_score",
        title="Share of the way to the best gold score",
        meaning="0 is the reference policy, 1 the best possible policy.",
        unit="share",
        better="higher",
        word="share of the way to the best gold score",
        columns=("final",),
        error="ends",
        missing="where the task cannot compute the best score, arms start apart, or the way may be "
        "noise: within two standard errors of its start",
    ),
    Measure(
        name="normalised_score",
        title="Normalised score",
        meaning="0 where the curves start, 1 at the best of 16 untrained responses, by score minus "
        "the KL penalty; of fewer, where a high price of KL makes fewer better. There is none "
        "where that range is within two of its standard errors.",
        unit="share",
        better="higher",
        short="norm.",
        error="ends",
        missing="without reference samples, or where the range may be noise",
    ),
    Measure(
        name="length",
        title="Length",
        meaning="Tokens that the policy wrote, a partner's replies left out.",
        unit="tokens",
        recorded=True,
        of_response=lambda episode: episode.num_written,
        missing="for a response that a partner's failure lost",
    ),
    Measure(
        name="entropy",
        title="Entropy",
        meaning="Nats per token that the policy still leaves open.",
        unit="nats per token",
        recorded=True,
        missing="where an agent does not tell the probabilities of its tokens",
    ),
    Measure(
        name="distinct_1",
        title="Distinct words",
        meaning="Share of words that differ.",
        unit="share",
        recorded=True,
        of_text=lambda episodes: distinct([e.written_text for e in episodes], 1),
        missing="where no response has a word",
    ),
    Measure(
        name="distinct_2",
        title="Distinct bigrams",
        meaning="Share of word pairs that differ.",
        unit="share",
        recorded=True,
        of_text=lambda episodes: distinct([e.written_text for e in episodes], 2),
        missing="where no response has two words",
    ),
    Measure(
        name="repetition",
        title="Repetition",
        meaning="Share of a response's trigrams that repeat.",
        unit="share",
        better="lower",
        recorded=True,
        of_response=lambda episode: repetition(episode.written_text),
        missing="for a response of fewer than three words, which the mean leaves out",
    ),
    Measure(
        name="copy_rate",
        title="Copy rate",
        meaning="Share of a response's trigrams that stand in its prompt.",
        unit="share",
        better="lower",
        recorded=True,
        of_response=lambda episode: copy_rate(episode.prompt, episode.written_text),
        missing="for a response of fewer than three words, which the mean leaves out",
    ),
    Measure(
        name="compression",
        title="Compression",
        meaning="Compression ratio of the responses together: higher is more of the same.",
        unit="ratio",
        better="lower",
        recorded=True,
        of_text=lambda episodes: compression_ratio([e.written_text for e in episodes]),
        missing="where no response has a word",
    ),
    Measure(
        name="self_bleu",
        title="Self-BLEU",
        meaning="BLEU of each response against the others: 100 where all are alike.",
        unit="BLEU, 0 to 100",
        better="lower",
        missing="without sacrebleu, or for fewer than two responses",
    ),
    Measure(
        name="toxicity",
        title="Toxicity",
        meaning="Mean toxicity of the responses, 0 to 1.",
        unit="share",
        better="lower",
        word="toxicity",
        short="toxicity",
        recorded=True,
        columns=("final",),
        differences=("final",),
        missing="unless toxicity is measured",
    ),
    Measure(
        name="rouge_1",
        title="ROUGE-1",
        meaning="Words shared with the reference answer, F1.",
        unit="share",
        better="higher",
        missing="without rouge-score, or where no prompt has a reference answer",
    ),
    Measure(
        name="rouge_2",
        title="ROUGE-2",
        meaning="Word pairs shared with the reference answer, F1.",
        unit="share",
        better="higher",
        missing="without rouge-score, or where no prompt has a reference answer",
    ),
    Measure(
        name="rouge_l",
        title="ROUGE-L",
        meaning="Longest common run of words, gaps allowed, with the reference answer, F1.",
        unit="share",
        better="higher",
        missing="without rouge-score, or where no prompt has a reference answer",
    ),
    Measure(
        name="win_rate",
        title="Win rate",
        meaning="Share of prompts won, ties counting half.",
        unit="share",
        better="higher",
        error="wins",
        missing="without a second agent",
    ),
    Measure(
        name="eos_rate",
        title="Ended by itself",
        meaning="Share of responses that end with EOS.",
        unit="share",
        recorded=True,
        of_response=lambda episode: episode.finish_reason == "eos",
        missing="where every response was lost",
    ),
    Measure(
        name="loss",
        title="Loss",
        meaning="The learner's own loss: of DPO per pair, of SFT per response token.",
        unit="its own",
        better="lower",
        policy="pairs",
        missing="for learners from token rewards, which log others",
    ),
    Measure(
        name="rewards/accuracies",
        title="Accuracy of the pairs",
        meaning="Share of pairs whose chosen response has the higher implicit reward.",
        unit="share",
        better="higher",
        policy="pairs",
        missing="for learners that learn from no pairs",
    ),
    Measure(
        name="rewards/margins",
        title="Margin of the pairs",
        meaning="Mean difference of the implicit rewards, beta times the log-ratio to the "
        "reference, chosen minus rejected.",
        unit="nats times beta",
        better="higher",
        policy="pairs",
        missing="for learners that learn from no pairs",
    ),
    Measure(
        name="mean_token_accuracy",
        title="Accuracy of the tokens",
        meaning="Share of response tokens that are the likeliest ones under the policy.",
        unit="share",
        better="higher",
        policy="pairs",
        missing="for learners that imitate no responses",
    ),
    Measure(
        name="train_score",
        title="Score in training",
        meaning="Mean score of the training batches since the last point.",
        unit="score",
        recorded=True,
        policy="batches",
        missing="at the first evaluation, before which nothing was sampled",
    ),
    Measure(
        name="train_kl",
        title="KL in training",
        unit="nats",
        meaning="Mean KL of the training batches since the last point.",
        recorded=True,
        policy="batches",
        missing="at the first evaluation, and where a learner logs none",
    ),
    Measure(
        name="round_kl",
        title="KL of the next round",
        unit="nats",
        meaning="KL of the responses that this policy sampled for the next update, which pools "
        "with the held-out KL at equal KL.",
        recorded=True,
        policy="next batch",
        missing="at the last evaluation, and where the next update was another's",
    ),
    Measure(
        name=UNSCORED,
        title="Without a score",
        meaning="Held-out responses without a score, as their partner or their judge failed: means "
        "leave them out. A column only where there are some.",
        unit="responses",
        error="count",
        better="lower",
        recorded=True,
    ),
)
MEASURES: Registry[Measure] = Registry("measure", group="measures")
"""All measurements by name."""


def register_measure(measure: Measure) -> Measure:
    """Make a measurement known by its name."""
    return MEASURES.register(measure.name, measure)


for _measure in _TABLE:
    register_measure(_measure)

FORMER = {"normalized_gold_score": "normalised_gold_score"}
"""Names that measurements had, which are still read, and their names today."""
BLOCK = 16
"""Reference samples per prompt that are drawn with one seed."""
EPISODES = 128
"""Held-out prompts of an evaluation, where nobody says how many and the budget allows for them."""
Axis = Literal["step", "tokens"]
AXES = {
    "step": "updates",
    "tokens": "tokens generated",
    "episodes": "responses scored",
    "wall_s": "seconds",
}
"""Measures of what a run has spent, against which curves are drawn, with their labels."""


@cache
def _import_plugins() -> None:
    """Import the measurements of packages that were installed when the process first asked.

    It reads the metadata of all packages, which takes longer than the rest of a report's table.
    """
    MEASURES.import_plugins()


def measures_of(
    by_gold: bool, logged: Mapping[str, str] = {}, *, own_prompts: bool = True
) -> Mapping[str, Measure]:
    """Return the table of measurements.

    Its ``score`` is what all runs are measured by: the scorer's value, or the gold score where
    rewards have different scorers, none of which may judge the others. The gold score's words then
    stand there, and it has no second entry. Of curves made elsewhere ``logged`` says, by
    measurement, what was read: how they were measured is not known. ``own_prompts`` is whether each
    seed is measured on prompts of its own.
    """
    _import_plugins()
    table = _by_gold_score() if by_gold else MEASURES
    if logged:
        elsewhere = {name: _unknown(m) for name, m in table.items()}
        read = {
            name: _of_log(elsewhere[name], what) for name, what in logged.items() if name in table
        }
        return {**elsewhere, **read}
    if own_prompts:
        return table
    return {
        name: replace(m, policy="measured alike") if m.policy == "measured" else m
        for name, m in table.items()
    }


def _unknown(measure: Measure) -> Measure:
    """Return a measurement of which nobody knows how it was taken, nor how sure it is."""
    return replace(measure, policy="unknown", error="", of_text=None, of_response=None)


def _of_log(measure: Measure, what: str) -> Measure:
    """Return a measurement as what another tool logged under a name of its own."""
    better = ", taken as better if higher" if measure.name == "score" else ""
    named: dict[str, Any] = {}
    if measure.name == "kl":
        named = {"title": "KL of the log", "unit": ""}
    return replace(measure, meaning=f"The {what}{better}.", missing="", **named)


def _by_gold_score() -> Mapping[str, Measure]:
    """Return the table whose ``score`` is the gold score."""
    score, net, gold = (MEASURES[name] for name in ("score", "net_score", "gold_score"))
    why = (
        "The task's true score, which no reward sees. The rewards have different scorers, so all "
        "are measured by it."
    )
    whose = (
        "Gold score minus the KL coefficient times KL. No learner maximises it: each maximises its "
        "own reward's score minus the penalty."
    )
    of_gold = {
        "score": replace(score, title=gold.title, word=gold.word, short=gold.short, meaning=why),
        "net_score": replace(net, title=f"Gold {net.word}", word=f"gold {net.word}", meaning=whose),
    }
    return {name: of_gold.get(name, m) for name, m in MEASURES.items() if name != "gold_score"}


def measure_of(name: str, by_gold: bool = False) -> Measure:
    """Return a measurement by name; an unknown one gets a title made from its name."""
    name = FORMER.get(name, name)
    known = measures_of(by_gold).get(name)
    return known or Measure(name=name, title=name.replace("_", " "), meaning="")


def check_measures(measures: Sequence[str], known: Sequence[str]) -> None:
    """Refuse measurements that were not taken, naming those that were."""
    for name in measures:
        if not isinstance(name, str):
            raise TypeError(f"a measurement is one name, got {name!r}; call it for each")
        if name not in known:
            elsewhere = word_answer(name)
            hint = f"{elsewhere}; " if elsewhere else did_you_mean(name, known, n=1)
            raise ValueError(f"no measurement {name!r} here; {hint}there are {', '.join(known)}")


# --- functions of responses -----------------------------------------------------------------------


def text_metrics(episodes: Sequence[Episode]) -> dict[str, float]:
    """Return every measurement of the responses' text in the table, over episodes.

    One without a value is left out, as repetition is where no response has three words.
    """
    require_episodes(episodes)
    figures = {name: _mean(values) for name, values in response_metrics(episodes).items()}
    for measure in measures_of(False).values():
        if measure.of_text:
            figures[measure.name] = float(measure.of_text(episodes))
    return {name: value for name, value in figures.items() if not math.isnan(value)}


def response_metrics(episodes: Sequence[Episode]) -> dict[str, list[float]]:
    """Return every measurement of single responses in the table, nan where one has no value."""
    return {
        m.name: [m.of_response(e) for e in episodes]
        for m in measures_of(False).values()
        if m.of_response
    }


def ngrams(items: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Return the n-grams of a sequence in order; empty when it is shorter than n."""
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}; distinct-n is usual for 1 and 2")
    return [tuple(items[i : i + n]) for i in range(len(items) - n + 1)]


def distinct(texts: Sequence[str], n: int) -> float:
    """Return the share of n-grams that differ, over all texts together; nan if there are none.

    distinct_n = |set of n-grams| / |n-grams|. It falls with the number of texts, so compare equal
    numbers of them.

    Source: Li et al. 2016, arXiv:1510.03055.

    Example:
        >>> distinct(["a b", "a b"], n=1)
        0.5
    """
    grams = [gram for text in texts for gram in ngrams(words(text), n)]
    return len(set(grams)) / len(grams) if grams else math.nan


def repetition(text: str, n: int = 3) -> float:
    """Return the share of a text's n-grams that repeat an earlier one; nan if it has none.

    repetition = 1 - |set of n-grams| / |n-grams|, 1 minus R3's repetition penalty RP.

    Example:
        >>> repetition("so good so good", n=2)
        0.33333333333333337
    """
    grams = ngrams(words(text), n)
    return 1.0 - len(set(grams)) / len(grams) if grams else math.nan


def copy_rate(prompt: str, response: str, n: int = 3) -> float:
    """Return the share of the response's n-grams that stand in the prompt; nan if it has none.

    Example:
        >>> copy_rate("why is it good ?", "it is it good", n=2)
        0.6666666666666666
    """
    grams = ngrams(words(response), n)
    known = set(ngrams(words(prompt), n))
    return sum(gram in known for gram in grams) / len(grams) if grams else math.nan


def compression_ratio(texts: Sequence[str]) -> float:
    """Return how well texts compress together: the higher, the more they say the same.

    ratio = |bytes| / |zlib(bytes)| of the texts joined by line ends

    Unlike self-BLEU it takes one pass, sees repetition within and between texts, and does not
    saturate; it rises with the number of texts and their length, so compare equal amounts. It is
    nan if no text has a word.

    Source: Shaib et al. 2024, arXiv:2403.00553.

    Example:
        >>> compression_ratio(["good good good good", "good good good good"]) > 2.0
        True
    """
    if not any(map(words, texts)):
        return math.nan
    data = "\n".join(texts).encode("utf-8", errors="replace")
    return len(data) / len(zlib.compress(data, 9))


def require_episodes(episodes: Sequence[object]) -> None:
    """Refuse to measure nothing."""
    if len(episodes) == 0:
        raise ValueError("metrics need at least one episode, got none; collect some first")


def _mean(values: Sequence[float]) -> float:
    """Return the mean of what is known; nan of nothing."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
