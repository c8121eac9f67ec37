"""Rewards by name: the table behind ``reward="abc"`` and `register`."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

from tokengym.envs.registry import did_you_mean
from tokengym.rewards.attribution.kinds import KINDS, ScorerKind
from tokengym.rewards.credits import Credit, Sparse
from tokengym.rewards.credits.base import REWARDS, as_credit, is_credit
from tokengym.rewards.credits.base import register as register
from tokengym.rewards.errors import RewardError, ScorerError
from tokengym.rewards.reward import Reward
from tokengym.rewards.scorers import find_scorer, scorer_names
from tokengym.rewards.scorers.base import Scorer, SupportsScore, as_scorer, is_scorer
from tokengym.rewards.scorers.cached import TimeLimit
from tokengym.rewards.scorers.normalize import Normalize, parse_normalization
from tokengym.rewards.scorers.sentiment import Sentiment
from tokengym.rewards.scorers.stored import load_scorer

if TYPE_CHECKING:
    from tokengym.envs.bundle import Bundle

Function = Callable[[str, str], float]
RewardSpec = None | str | Reward | Credit | SupportsScore | Function


def registered_rewards() -> list[str]:
    """Return the names that `make_reward` knows, those of installed packages included."""
    return REWARDS.names()


@overload
def make_reward(
    spec: None,
    *,
    bundle: "Bundle | None" = None,
    scorer: SupportsScore | Function | str | Path | None = None,
    reward_model: str | Path | None = None,
    encoder: str | Path | None = None,
    normalize: str | None = None,
    batch_size: int = 1,
    max_len: int | None = None,
    scorer_timeout: float | None = None,
) -> None: ...


@overload
def make_reward(
    spec: str | Reward | Credit | SupportsScore | Function,
    *,
    bundle: "Bundle | None" = None,
    scorer: SupportsScore | Function | str | Path | None = None,
    reward_model: str | Path | None = None,
    encoder: str | Path | None = None,
    normalize: str | None = None,
    batch_size: int = 1,
    max_len: int | None = None,
    scorer_timeout: float | None = None,
) -> Reward: ...


def make_reward(
    spec: RewardSpec,
    *,
    bundle: "Bundle | None" = None,
    scorer: SupportsScore | Function | str | Path | None = None,
    reward_model: str | Path | None = None,
    encoder: str | Path | None = None,
    normalize: str | None = None,
    batch_size: int = 1,
    max_len: int | None = None,
    scorer_timeout: float | None = None,
) -> Reward | None:
    """Return the reward that a user's argument describes.

    Args:
        spec: None for no reward; a name, with options as in "abc:beta=1.0"; a class or function of
            a file, "path/to/rules.py:MyCredit"; a `Reward`; a `Credit`;
            a `Scorer`, or a function of prompt and response, either with the sparse credit.
        bundle: Where the scorer comes from if none is passed.
        scorer: A scorer, a function of prompt and response, a scorer's name with options as in
            "toxicity:path=models/judge", "file.py:name", or the folder or hub name of a model.
        reward_model: Folder or hub name of a reward model in place of the bundle's, for rewards
            that are scored by one.
        encoder: Folder or hub name of an encoder, for the r3 rewards.
        normalize: "running" centres and scales by everything seen so far, "batch" centres by about
            the last ``batch_size`` scores, exactly by those of a round for agents that play
            rounds. Options of `Normalize` follow: "running:window=512,by=query_type".
        batch_size: Episodes that are scored together: the number of environments.
        max_len: Longest response, tokens: R3's scale of constrained answers; None leaves 512.
        scorer_timeout: Seconds after which a call of the scorer raises, see `TimeLimit`; None
            waits for ever.

    Raises:
        RewardError: if the name, an option or a normalisation is unknown, or there is no scorer.
        TypeError: if ``spec`` is something else.
    """
    models = {"reward_model": reward_model, "encoder": encoder}
    passed = _passed(scorer, models)
    if spec is None:
        if passed or normalize is not None or scorer_timeout is not None:
            what = passed or ("scorer_timeout" if normalize is None else "normalize")
            raise RewardError(
                f"{what} has no effect with reward=None; name a reward, e.g. 'sparse'"
            )
        return None
    kind: ScorerKind = "any"
    components: dict[str, Any] = {}
    name = spec if isinstance(spec, str) else None
    if isinstance(spec, str):
        name, spec, kind, components = _from_name(spec)
    if isinstance(spec, Reward):
        if passed:
            raise RewardError(
                f"{spec!r} has a scorer already; leave {passed} out, or pass a credit"
            )
        return _wrapped(spec, normalize, batch_size, scorer_timeout)
    if is_credit(spec):
        # A credit says what attributions it needs; the table knows what a name stands for besides.
        credit = as_credit(spec)
        name = name or credit.name or type(credit).__name__
        kind = _kind_of(credit, kind)
        chosen = _scorer(scorer, kind, models, bundle, max_len, label=name)
        if components:
            chosen = _with_components(chosen, components, label=name)
        made = Reward(chosen, _with_policy(credit, bundle))
        return _wrapped(made, normalize, batch_size, scorer_timeout)
    if is_scorer(spec) or callable(spec):
        if passed:
            raise RewardError(f"{spec!r} is a scorer itself; leave {passed} out, or pass a credit")
        made = Reward(as_scorer(spec), Sparse())
        return _wrapped(made, normalize, batch_size, scorer_timeout)
    raise TypeError(
        f"reward must be None, a name, a Reward, a Credit, a Scorer or a function of prompt and "
        f"response, got {spec!r}"
    )


def _passed(scorer: Any, models: Mapping[str, str | Path | None]) -> str | None:
    """Return the name of the argument that says what scores, None if none was passed."""
    passed = [name for name, model in models.items() if model is not None]
    if scorer is not None and passed:
        raise RewardError(f"scorer={scorer!r} leaves {passed[0]} no effect; pass one of the two")
    return "scorer" if scorer is not None else next(iter(passed), None)


def scorer_kind(spec: RewardSpec) -> ScorerKind | None:
    """Return what a reward must be scored by: a reward model, an encoder, or anything.

    Returns:
        None where no scorer is wanted: for None, and for what is or has one itself.

    Raises:
        RewardError: if the name or an option is unknown.

    Example:
        >>> scorer_kind("abc"), scorer_kind("red:every_prefix=true"), scorer_kind(len)
        ('reward_model', 'any', None)
    """
    kind: ScorerKind = "any"
    if isinstance(spec, str):
        _, spec, kind, _ = _from_name(spec)
    if not is_credit(spec):
        return None
    return _kind_of(as_credit(spec), kind)


def is_control(name: str) -> bool:
    """Return whether a reward's name stands for a control, a rule that does not read the text.

    Raises:
        RewardError: if the name or an option is unknown.

    Example:
        >>> is_control("recency:tau=5"), is_control("abc")
        (True, False)
    """
    _, spec, _, _ = _from_name(name)
    return is_credit(spec) and as_credit(spec).control


def _kind_of(credit: Credit, kind: ScorerKind) -> ScorerKind:
    """Return what a credit is scored by: its attributions say, or else its name's entry."""
    needed = None if credit.attribution is None else KINDS.get(credit.attribution)
    return kind if needed is None else needed.scorer


def _scorer(
    scorer: Any,
    kind: ScorerKind,
    models: Mapping[str, str | Path | None],
    bundle: "Bundle | None",
    max_len: int | None,
    *,
    label: str,
) -> Scorer:
    """Return the scorer that was passed, that of the model that was passed, or the bundle's."""
    if isinstance(scorer, str) and (named := find_scorer(scorer)) is not None:
        return named
    if isinstance(scorer, (str, Path)):
        return _stored(scorer, kind, max_len)
    if scorer is not None:
        return as_scorer(scorer)
    wanted = ("reward_model", "encoder", "lexicon") if kind == "any" else (kind,)
    for part in wanted:
        path = models.get(part)
        if path is None and bundle is not None and bundle.has(part):
            path = getattr(bundle, part)
        if path is not None and part == "lexicon":
            return Sentiment.from_file(path)
        if path is not None:
            return _stored(path, cast(ScorerKind, part), max_len)
    lack = f"the bundle {bundle.path} has no {' or '.join(wanted)}" if bundle else "got None"
    raise RewardError(
        f"reward {label!r} needs a scorer, but {lack}; pass scorer=, or "
        f"{'encoder' if kind == 'encoder' else 'reward_model'}= with a model's folder"
    )


def _stored(path: str | Path, kind: ScorerKind, max_len: int | None) -> Scorer:
    """Return the scorer over the model of a folder or hub name; names its near matches if none."""
    try:
        return load_scorer(path, kind, max_len=max_len)
    except ScorerError as error:
        name = str(path).partition(":")[0]
        hint = did_you_mean(name, scorer_names())
        if isinstance(path, Path) or Path(path).exists() or not hint:
            raise
        raise ScorerError(
            f"unknown scorer {path!r}; {hint}"
            f"there is no folder of that name either; known: {', '.join(scorer_names())}"
        ) from error


def _with_components(scorer: Scorer, components: dict[str, Any], *, label: str) -> Scorer:
    """Return the scorer with those of its components that a name's options switch."""
    configured = scorer.with_components(**components)
    if configured is None:
        raise RewardError(
            f"reward {label!r} has the options {', '.join(components)} of Relevance, but scores "
            f"with {scorer.name!r}; pass scorer=rewards.Relevance(...) or leave them out"
        )
    return configured


def _with_policy(credit: Credit, bundle: "Bundle | None") -> Credit:
    """Return the credit; one that reads the policy's attention gets the bundle's policy."""
    if bundle is None or not bundle.has("policy"):
        return credit
    return credit.with_policy(bundle.policy)


def _wrapped(
    reward: Reward, normalize: str | None, batch_size: int, scorer_timeout: float | None
) -> Reward:
    """Return the reward with its scorer limited in time, and its scores normalised."""
    if scorer_timeout is not None:
        reward = Reward(_limited(reward.scorer, scorer_timeout), reward.credit)
    if normalize is None:
        return reward
    name, options = parse_normalization(normalize)
    if name == "batch":
        if batch_size < 2:
            raise RewardError(
                "normalize='batch' takes the mean of one score off itself with 1 environment; "
                "use make_vec with more, or normalize='running'"
            )
        options = {"window": batch_size, "scale": False, "clip": None} | options
    return Reward(Normalize(reward.scorer, **options), reward.credit)


def _limited(scorer: Scorer, seconds: float) -> Scorer:
    """Return the scorer limited in time; normalisation, which learners take off, stays outside."""
    if not isinstance(scorer, Normalize):
        return TimeLimit(scorer, seconds)
    limited = copy.copy(scorer)
    limited.scorer = _limited(scorer.scorer, seconds)
    return limited


def check_name(name: str) -> None:
    """Refuse a name that no reward has; one of a file of the user's own passes.

    Raises:
        RewardError: with the near matches.
    """
    REWARDS.check(name)


def _from_name(
    text: str,
) -> tuple[str, Any, ScorerKind, dict[str, Any]]:
    """Return the name, what its factory makes, what that scores with, and the scorer's options."""
    word = REWARDS.parse(text)
    entry = REWARDS.find(word)
    switches = entry.scorer_options
    components = {key: word.options[key] for key in switches if key in word.options}
    made = REWARDS.call(word, entry.factory, also=switches)
    return word.without_options, made, entry.scorer, components
