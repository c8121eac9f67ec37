"""What a user's ``reward=`` stands for: a name, a rule, a scorer or a whole reward.

Scorers that are stored are found here too: a model by its folder, and what a bundle holds as truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from inspect import isfunction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
from typing_extensions import Self

from tokengym.base.files import parse_json, read_once
from tokengym.base.models import located
from tokengym.base.objects import own
from tokengym.base.plugins import missing_laboratory
from tokengym.base.pretrained import from_pretrained
from tokengym.base.registry import Spec, did_you_mean
from tokengym.base.settings import accepts_settings, from_keywords
from tokengym.base.stored.parts import ADAPTER_CONFIG
from tokengym.envs.episode import Episode
from tokengym.envs.prompts.tokenization import unknown_share
from tokengym.rewards.arguments import EpisodeArguments
from tokengym.rewards.credits.rule import Rule, as_rule
from tokengym.rewards.credits.token_credit import is_token_credit
from tokengym.rewards.credits.words import REWARDS, RuleMaker
from tokengym.rewards.errors import RewardError, ScorerError
from tokengym.rewards.reward import Reward
from tokengym.rewards.scorers import find_scorer, scorer_names
from tokengym.rewards.scorers.base import SCORERS, AnyScorer, Scorer, as_scorer
from tokengym.rewards.scorers.rules import RuleScorer
from tokengym.rewards.scorers.sentiment import Sentiment
from tokengym.rewards.scorers.wrappers import (
    Normalization,
    Normalize,
    TimeLimit,
    parse_normalization,
)
from tokengym.rewards.scores import KINDS, ScorerKind

if TYPE_CHECKING:
    from tokengym.base.bundle import Bundle

Function = Callable[..., float]
Payer = Reward | Rule | Scorer | Function


@dataclass(frozen=True, kw_only=True)
class RewardOptions:
    """What scores the responses; None leaves it to the task or its bundle."""

    scorer: AnyScorer | str | Path | None = field(default=None, metadata={"is_data": True})
    """Scorer of a response: a name with options, as in "toxicity:path=models/judge",
    "file.py:Name", a model's folder or hub name, a scorer, or a function whose parameters name the
    response, the prompt and columns of the data (`FunctionScorer`); None takes the bundle's reward
    model or encoder, or the exact score if the task has one."""
    reward_model: str | Path | None = field(default=None, metadata={"is_data": True})
    """Folder or hub name of a reward model, for rewards that are scored by one; None takes the
    bundle's."""
    encoder: str | Path | None = field(default=None, metadata={"is_data": True})
    """Folder or hub name of the encoder of the r3 rewards; None takes the bundle's."""
    scorer_timeout: float | None = None
    """Seconds after which a call of the scorer raises (a run then ends, and can be resumed); None
    waits for ever."""

    def __post_init__(self) -> None:
        for name in ("scorer", "reward_model", "encoder"):
            value = getattr(self, name)
            is_model = name != "scorer" and value is not None
            is_text = isinstance(value, str | Path)
            if (is_model and not is_text) or (is_text and not str(value)):
                raise RewardError(
                    f"{name} must be a folder or a hub name, got {value!r}; an object that scores "
                    "is passed as scorer="
                )


@dataclass(frozen=True)
class RewardChoice:
    """Parsed form of a user's argument for a reward."""

    made: Payer
    """A whole reward, a rule, or what scores under the sparse rule."""
    label: str
    """Name in messages."""
    kind: ScorerKind | None
    """Kind of scorer that a rule needs; None for what is or has a scorer itself."""
    switches: Mapping[str, Any] = field(default_factory=dict)
    """Options after the name that are the scorer's, by name."""
    beside: tuple[str, ...] = ()
    """Columns of the data that are read beside its own, where the data have them."""

    @classmethod
    def of(cls, spec: str | Spec | RewardChoice | Payer) -> Self:
        """Return what a name with options, or an object, stands for.

        Raises:
            RewardError: if the name or an option is unknown.
            TypeError: if ``spec`` is something else.
        """
        if isinstance(spec, cls):
            return spec
        if isinstance(spec, type) and not is_token_credit(spec):
            raise TypeError(f"reward got the class {spec.__name__}; pass one: {spec.__name__}(...)")
        made: Any = as_rule(spec)
        kind: ScorerKind = made.declared.scorer if isinstance(made, Rule) else "any"
        label, switches = "", {}
        if isinstance(spec, str | Spec):
            word = REWARDS.parse(spec) if isinstance(spec, str) else spec
            entry = REWARDS.find(word)
            kind, label = entry.scorer, word.without_options
            switches = {k: v for k, v in word.options.items() if k in entry.scorer_options}
            made = REWARDS.call(word, entry.factory, also=entry.scorer_options)
            made = made() if isinstance(made, RuleMaker) else as_rule(made)
            made = own(made) if made is entry.factory and isinstance(made, Rule) else made
        if isinstance(made, Rule):
            kind = next((KINDS[one] for one in made.accounts), kind)
            return cls(made, label or made.name, kind, switches)
        if isinstance(made, Reward | Scorer) or callable(made):
            return cls(made, label, None)
        raise TypeError(
            "reward must be None, a name, a Reward, a rule, a Scorer or a function of prompt and "
            f"response, got {made!r}; a rule is a function marked with @tokengym.token_credit"
        )

    @property
    def undivided(self) -> str | None:
        """Word of the reward that pays the same scorer, and nothing before the end.

        None for what is or has a scorer itself.
        """
        return None if self.kind is None else "r3" if self.kind == "encoder" else "sparse"

    @property
    def columns(self) -> dict[str, bool]:
        """Columns of the data that rule and scorer read, and whether each is needed.

        "*" stands for all.
        """
        rule: Any = getattr(self.made, "credit", self.made)
        columns = dict.fromkeys(self.beside, False)
        columns |= dict.fromkeys(rule.columns if isinstance(rule, Rule) else (), True)
        if self.kind is None:
            made = self.made
            columns |= (made.scorer if isinstance(made, Reward) else as_scorer(made)).data_columns
        return columns

    def reading(self, columns: Iterable[str]) -> Self:
        """Return it with further columns that are read of the data, where these have them."""
        return replace(self, beside=tuple(dict.fromkeys([*self.beside, *columns])))

    @property
    def is_control(self) -> bool:
        """Whether it is a rule that does not read the text."""
        return isinstance(self.made, Rule) and self.made.control

    def scored(
        self, options: RewardOptions, bundle: Bundle | None = None, max_len: int | None = None
    ) -> Reward:
        """Return the reward, a rule with the scorer that `make_reward` describes."""
        if isinstance(self.made, Reward):
            return self.made
        if not isinstance(self.made, Rule):
            sparse: Any = RewardChoice.of("sparse").made
            return Reward(as_scorer(self.made), sparse)
        assert self.kind is not None
        chosen = self._scorer(options, self.kind, bundle, max_len)
        if self.switches:
            from tokengym.rewards.scorers.relevance import Relevance

            if not isinstance(chosen, Relevance):
                raise RewardError(
                    f"reward {self.label!r} has the options {', '.join(self.switches)} of "
                    f"Relevance, but scores with {chosen.name!r}; pass "
                    "scorer=rewards.Relevance(...) or leave them out"
                )
            chosen = chosen.with_components(**self.switches)
        rule = self.made
        if rule.needs_reference and bundle is not None and bundle.has("policy"):
            rule = rule.with_reference(bundle.policy)
        return Reward(chosen, rule)

    def _scorer(
        self, options: RewardOptions, kind: ScorerKind, bundle: Bundle | None, max_len: int | None
    ) -> Scorer:
        """Return the scorer that was passed, that of the model that was passed, or the bundle's."""
        path: Any = options.scorer
        if path is None:
            # Prefixes are best scored by a reward model, and by any other as texts of their own.
            takes_any = kind == "any" or getattr(self.made, "accounts", ()) == ["prefix"]
            wanted = ("reward_model", "encoder", "lexicon") if takes_any else (kind,)
            passed = [part for part in wanted if getattr(options, part, None) is not None]
            held = [part for part in wanted if bundle is not None and bundle.has(part)]
            if not passed and not held:
                raise RewardError(
                    f"reward {self.label!r} needs a scorer, but {_lack(wanted, bundle)}; pass "
                    f"scorer=, or {'encoder' if wanted[0] == 'encoder' else 'reward_model'}= with "
                    "a model's folder"
                )
            (part, *_) = [*passed, *held]
            path = getattr(options if passed else bundle, part)
            if part == "lexicon":
                return Sentiment.from_file(path)
            return load_scorer(path, cast(ScorerKind, part), max_len=max_len)
        if not isinstance(path, str | Path):
            return as_scorer(path)
        if isinstance(path, str) and (named := find_scorer(path)) is not None:
            return named
        try:
            return load_scorer(path, kind, max_len=max_len)
        except ScorerError as error:
            name = str(path).partition(":")[0]
            if isinstance(path, Path) or "/" in name or Path(path).exists():
                raise
            said, names = str(error), scorer_names()
            if hint := did_you_mean(name, names):
                said = (
                    f"no scorer and no folder is called {path!r}; {hint}known: {', '.join(names)}"
                )
            raise ScorerError(f"{said}{missing_laboratory()}") from error


def _lack(wanted: Sequence[str], bundle: Bundle | None) -> str:
    """Return why there is no scorer of the kinds that a rule takes."""
    if bundle is None:
        return "got None"
    if bundle.hidden.issuperset(wanted):
        return "prompts or models of one's own are lent none of a bundle's"
    return f"the bundle {bundle.path} has no {' or '.join(wanted)}"


RewardSpec = None | str | Spec | RewardChoice | Payer


def registered_rewards() -> list[str]:
    """Return the names that `make_reward` knows, those of installed packages included."""
    return REWARDS.names()


def check_word(word: Spec) -> None:
    """Refuse a word whose name or option no reward has; none is made, and no file is run."""
    if word.file is None:
        entry = REWARDS.find(word)
        if word.options:
            REWARDS.check_options(word, entry.factory, also=entry.scorer_options)


@overload
def make_reward(spec: None, **options: Any) -> None: ...
@overload
def make_reward(spec: str | Spec | RewardChoice | Payer, **options: Any) -> Reward: ...
@accepts_settings(RewardOptions)
def make_reward(
    spec: RewardSpec,
    *,
    bundle: Bundle | None = None,
    normalize: str | Normalization | None = None,
    batch_size: int = 1,
    max_len: int | None = None,
    **options: Any,
) -> Reward | None:
    """Return the reward that a user's argument describes.

    Args:
        spec: None for no reward; a name, with options as in "abc:beta=1.0"; what a file defines,
            "path/to/rules.py:my_rule"; a `Reward`; a function that `token_credit` marked, or a
            `Rule` of one; a `Scorer`, or a function (see `FunctionScorer`), either with the sparse
            rule.
        bundle: Where the scorer comes from if none is passed.
        normalize: "running" centres and scales by everything seen so far, "batch" centres by about
            the last ``batch_size`` scores, exactly by those of a round for agents that play
            rounds. Options of `Normalize` follow: "running:window=512,by=query_type".
        batch_size: Episodes that are scored together: the number of environments.
        max_len: Longest response, tokens: R3's scale of constrained answers; None leaves 512.
        options: Fields of `RewardOptions`: ``scorer``, ``reward_model``, ``encoder`` and
            ``scorer_timeout``.

    Raises:
        RewardError: if the name, an option or a normalisation is unknown, or there is no scorer.
        TypeError: if ``spec`` is something else.
    """
    given = from_keywords(RewardOptions, options, owner="make_reward")
    chosen = [name for name, value in vars(given).items() if value is not None]
    passed = [name for name in chosen if name != "scorer_timeout"]
    if "scorer" in passed[:-1]:
        raise RewardError(
            f"scorer={given.scorer!r} leaves {passed[1]} no effect; pass one of the two"
        )
    if spec is None:
        if idle := [*chosen, *(["normalize"] if normalize is not None else [])]:
            raise RewardError(
                f"{idle[0]} has no effect with reward=None; name a reward, e.g. 'sparse'"
            )
        return None
    choice = RewardChoice.of(spec)
    if choice.kind is None and passed:
        if isfunction(choice.made):  # which says so of a rule that lacks its mark
            EpisodeArguments(choice.made, choice.made.__name__)
        raise RewardError(
            f"{choice.made!r} has its own scorer; leave {passed[0]} out, or pass a credit"
        )
    reward = choice.scored(given, bundle, max_len)
    if given.scorer_timeout is not None:
        reward = Reward(_limited(reward.scorer, given.scorer_timeout), reward.credit)
    if normalize is None:
        return reward
    name, settings = parse_normalization(normalize)
    if name == "batch":
        if batch_size < 2:
            raise RewardError(
                "normalize='batch' takes the mean of one score off itself with 1 environment; "
                "use make_vec with more, or normalize='running'"
            )
        settings = {"window": batch_size, "scale": False, "clip": None} | settings
    return Reward(Normalize(reward.scorer, **settings), reward.credit)


def _limited(scorer: Scorer, seconds: float) -> Scorer:
    """Return the scorer limited in time; normalisation, which learners take off, stays outside."""
    if not isinstance(scorer, Normalize):
        return TimeLimit(scorer, seconds)
    return scorer.around(_limited(scorer.scorer, seconds))


# --- scorers that are stored ----------------------------------------------------------------------

PREFERENCE_FORMAT = "preference_format"
"""Key of a configuration by which a stored preference model is known."""


@read_once()
def stored_scorer(path: str | Path) -> str | None:
    """Return the name of the scorer that a stored model is read by, as its configuration says.

    Returns:
        "preference-model" for one that `train_preference_model` stored; "reward-model" for a
        sequence classifier or adapters that make one; "relevance" for a model without a head or
        with one of masked language modelling; None for others and where there is no configuration
        to read.
    """
    from transformers import AutoConfig

    folder, names = Path(located(path)), None
    with suppress(OSError, ValueError, AttributeError):  # whoever loads it says what is wrong
        if (folder / ADAPTER_CONFIG).is_file():
            adapters = parse_json((folder / ADAPTER_CONFIG).read_text("utf-8"))
            if adapters.get("task_type") in (None, "SEQ_CLS"):
                return "reward-model"
        if (folder / "config.json").is_file():
            config = parse_json((folder / "config.json").read_text("utf-8"))
        else:
            config = from_pretrained(AutoConfig, path).to_dict()
        if config.get(PREFERENCE_FORMAT) is not None:
            return "preference-model"
        names = config.get("architectures")
    (name,) = (names or [""])[:1]
    if name.endswith("ForSequenceClassification"):
        return "reward-model"
    is_headless = name.endswith("Model") and not name.endswith("LMHeadModel")
    return "relevance" if is_headless or name.endswith("ForMaskedLM") else None


def load_scorer(path: str | Path, kind: ScorerKind, *, max_len: int | None = None) -> Scorer:
    """Return the scorer of a stored model; a process loads each model once.

    Args:
        path: Folder or hub name.
        kind: Whether it must be a reward model, or a preference model that
            `train_preference_model` stored, or an encoder; "any" takes it for what it is.
        max_len: As in `make_reward`.

    Raises:
        ScorerError: if there is no such model, or it is of the other kind.
    """
    stored = stored_scorer(path)
    is_encoder = stored == "relevance"
    if kind == "any":
        kind = "encoder" if is_encoder else "reward_model"
    elif stored is not None and is_encoder != (kind == "encoder"):
        held = "encoder" if is_encoder else "reward_model"
        raise ScorerError(
            f"{str(path)!r} holds a model for {held}=, and the reward asks for one of the other "
            f"kind; pass {kind}="
        )
    name = "relevance" if kind == "encoder" else stored or "reward-model"
    options = {"max_len": max_len} if max_len is not None and name == "relevance" else {}
    scorer: Scorer = SCORERS.find(name)(path, **options)
    return scorer


def gold_scorer(bundle: Bundle | None) -> Scorer | None:
    """Return what a bundle holds as truth: its lexicon or rules, a held-out model, or None.

    A bundle with a grammar has its truth multiplied by the grammaticality of the text.
    """
    if bundle is None:
        return None
    truth: Scorer | None = None
    if bundle.manifest.get("gold_scorer") == "vader":  # no other: a word could name a file to run
        truth = SCORERS.make("vader")
    elif bundle.has("lexicon"):
        truth = Sentiment.from_file(bundle.lexicon)
    elif bundle.has("gold"):
        truth = RuleScorer.from_file(bundle.gold)
    elif bundle.has("gold_model"):
        truth = load_scorer(bundle.gold_model, "reward_model")
    if truth is not None and bundle.has("grammar"):
        return truth * RuleScorer.from_file(bundle.grammar)
    return truth


def gold_oov_fraction(bundle: Bundle, gold: Scorer, episodes: Sequence[Episode]) -> float:
    """Return the share of texts that a bundle's gold score cannot read.

    Its rules know the words that its tokenizer has; a model says itself what it can read.
    """
    if bundle.has("lexicon") or bundle.has("gold"):
        texts = [f"{episode.prompt} {episode.response}" for episode in episodes]
        return float(np.mean(unknown_share(bundle.tokenizer, texts)))
    return float(np.mean(gold.oov_fraction(episodes)))
