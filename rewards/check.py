"""The public checker of the reward contract, in the manner of Gymnasium's ``check_env``."""

import copy
import inspect
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from traceback import extract_tb
from typing import Any, NoReturn

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from tokengym.base.own_code import copy_of_own, name_of_own
from tokengym.envs.episode import RAW_SCORE, Episode, episodes_from_infos
from tokengym.rewards.credits.names import CARRIED
from tokengym.rewards.credits.rule import Rule
from tokengym.rewards.errors import RewardCheckError, RewardError
from tokengym.rewards.maths.redistribution import close_sum
from tokengym.rewards.reward import Reward
from tokengym.rewards.scores import Scores

_LOG = logging.getLogger(__name__)
PAID_LESS = 0.25
"""By how much less than the score `try_rule` pays, as a normalisation does."""
_MAX_STEPS = 10_000
_OF_SIZES = re.compile(r"size of (the )?tensor|Sizes of tensors|shapes cannot be multiplied")
"""In torch's errors of tensors that do not go together."""
_TERMINAL_KEYS = ("response_ids", "score", "score_parts", "token_rewards")


@dataclass(frozen=True)
class _Played:
    """One episode as it was seen from outside."""

    actions: tuple[int, ...]
    step_rewards: tuple[float, ...]
    info: Mapping[str, Any]

    @property
    def has_score(self) -> bool:
        """Whether it has a score; None and NaN stand for one that nobody gave.

        Where the entry itself is missing it should have one, and is refused by its name.
        """
        if "score" not in self.info:
            return True
        score = self.info["score"]
        is_nan = isinstance(score, float | np.floating) and np.isnan(score)
        return score is not None and not is_nan


def check_reward(
    env: gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any], *, episodes: int = 3, seed: int = 0
) -> None:
    """Raise unless an environment's rewards keep the contract; play random episodes to see.

    Checked: step rewards are finite numbers and sum to ``info["score"]``; ``token_rewards`` is
    float32, finite, one per id of ``response_ids``, which are the actions taken, and sums to the
    score; a credit known in hindsight is paid at the terminal step; a causal one is paid as its
    token rewards say, and a token earns the same whatever follows it; the same tokens earn the same
    a second time; scored as one batch they earn the same; and the batched environment of the same
    ``spec`` pays the same.

    A rule that declares ``conserves=False`` may pay its tokens another sum, so that the last step,
    which pays what is left of the score, is not held to the last token. One that reads
    ``continue_from`` needs a policy that draws by seed, a learner of `tokengym.agents` or a
    `RandomAgent`: then the same tokens are continued alike. One that
    reads ``log_probs`` or ``entropy`` credits the finished episodes with figures that are drawn at
    random, since random actions have no policy, and its steps are not looked at.

    Of an episode that the scorer gave no score (None) nothing is compared but that it has none
    again; where no episode has one, nothing would be checked, which is refused.

    A reward with a running normalisation gives no same answer twice, and is reported: check the
    scorer inside.

    Args:
        env: An environment with a reward, single or batched.
        episodes: Episodes played per check (rows of a batch each play at least one).
        seed: Seed of prompts and random actions.

    Raises:
        RewardCheckError: naming what is broken, with the values.
        TypeError: if it is no Gymnasium environment.
    """
    if not isinstance(env, VectorEnv | gymnasium.Env):
        raise TypeError(f"env must be a Gymnasium Env or VectorEnv, got {env!r}")
    rng = np.random.default_rng(seed)
    credits = [layer.reward.credit for layer in _paid_layers(env)]

    def play() -> list[_Played]:
        if isinstance(env, VectorEnv):
            return _play_rows(env, seed, rng)
        return [_play(env, seed + number, rng) for number in range(episodes)]

    if any(CARRIED & {*credit.reads} for credit in credits):
        _check_of_policy(env, play, seed, rng)
        return
    played = play()
    for one in played:
        _check_episode(one, credits)
    _check_any_score(played)
    if isinstance(env, VectorEnv):
        again = _play_rows(env, seed, None, [one.actions for one in played])
        _check_all_same("the same tokens", played, again)
        return
    _check_single(env, played, seed, rng)


def try_rule(envs: VectorEnv[Any, Any, Any], *, seed: int = 0, is_forgotten: bool = False) -> None:
    """Have a user's function that divides scores credit random responses; no scorer is asked.

    What is wrong with it whatever its scores then shows before a run is done: a result of another
    type or shape, a name, attribute or module that is not there, a call with wrong arguments, and
    sizes that do not go together. The responses are those of random tokens to prompts of the task,
    with the scores 0, 1, 0, ..., `PAID_LESS` less of which is paid, and figures of no policy. A
    scorer may never give such scores, so whatever else is raised is a warning, as are finite
    rewards that do not sum to what is paid. What is not finite is nothing.

    Called is a copy of the function, of another run of its file "rules.py", so that what it
    remembers there is left alone, unless it ``is_forgotten``. A function that was passed as a
    Python object and is of no such file is not called, nor one that reads more than texts, data,
    scores, `log_probs` and `entropy`, nor what is no plain function.

    Args:
        envs: A batch with a reward; it is reset and played to its end.
        seed: Seed of prompts, actions and figures.
        is_forgotten: Whether the process ends after the trial, so that the function itself is
            called: a model that its file loads is then loaded once.

    Raises:
        CreditError: as the rule does when it is called wrongly or returns what is no credit.
    """
    reward: Reward = _paid_layers(envs)[0].reward
    rule = reward.credit
    of_others = {*rule.reads_of("scorer")} - {"scores", "paid"} | {
        *rule.reads_of("policy")
    } - CARRIED
    if of_others or rule.signature.models or rule.needs_reference:
        return
    own = rule.function
    if not inspect.isfunction(own) or not name_of_own(own):
        return
    function = own if is_forgotten else copy_of_own(own)
    if function is None:
        return
    tried = copy.copy(rule)
    tried.function = function
    rng = np.random.default_rng(seed)
    with _unpaid(envs):
        played = _play_rows(envs, seed, rng)
    raw = np.arange(len(played)) % 2.0
    scores = Scores(raw - PAID_LESS, {RAW_SCORE: raw})
    episodes = [
        replace(_with_figures(_unscored(one), rng), score=float(score))
        for one, score in zip(played, scores.values, strict=True)
    ]
    try:
        with reward.crediting(len(episodes)):
            tokens, _ = tried(reward.inputs(episodes, scores=scores), waits=False)
    except RewardError as error:
        if _is_of_code(error, inspect.unwrap(function).__code__.co_filename):
            raise
        said = str(error)
    else:
        rows = [*zip(scores.values.tolist(), tokens.cpu().numpy(), strict=True)]
        apart = [(score, float(row.sum())) for score, row in rows if not close_sum(score, row)]
        if not tried.conserves or not apart or not bool(tokens.isfinite().all()):
            return
        score, total = apart[0]
        remedy = "rescale them, or declare conserves=False"
        if all(close_sum(score + PAID_LESS, row) for score, row in rows):
            remedy = "they sum to scores, what the scorer said: divide paid"
        said = f"{tried.who} gives rewards that sum to {total:.6g}, {score:.6g} is paid; {remedy}"
    _LOG.warning(
        "%s; the runs begin all the same, as their scores and texts may never be those that it was "
        "tried on: random tokens, scored 0 and 1",
        said,
    )


def _is_of_code(error: RewardError, file: str) -> bool:
    """Return whether a rule of a file fails so whatever the scores and texts that it is shown."""
    cause = error.__cause__
    if cause is None:  # what it returned was refused, unless the rule itself says this
        return all(frame.filename != file for frame in extract_tb(error.__traceback__))
    if isinstance(cause, AttributeError):
        return cause.obj is not None  # as a search in a text that finds nothing
    if isinstance(cause, TypeError):
        return "NoneType" not in str(cause)
    is_of_sizes = type(cause) is RuntimeError and bool(_OF_SIZES.search(str(cause)))
    is_unknown = isinstance(cause, NameError) and not isinstance(cause, UnboundLocalError)
    return is_unknown or is_of_sizes or isinstance(cause, ImportError)


@contextmanager
def _unpaid(env: Any) -> Iterator[None]:
    """Leave the rewards of episodes that are played within uncomputed."""
    layers = _paid_layers(env)
    for layer in layers:
        layer.deferred = True
    try:
        yield
    finally:
        for layer in layers:
            layer.deferred = False


def _check_single(
    env: gymnasium.Env[Any, Any], played: Sequence[_Played], seed: int, rng: np.random.Generator
) -> None:
    """Check what a single environment's episodes earn anew, together and in the batched form."""
    rewards = [layer.reward for layer in _paid_layers(env)]
    for number, one in enumerate(played):
        _check_same("the same tokens", one, _play(env, seed + number, None, one.actions))
        if any(reward.credit.causal for reward in rewards):
            _check_future(env, seed + number, one, rng)
    if rewards:
        together = rewards[0].evaluate([Episode.from_info(one.info) for one in played])
        infos = [{"score": _score_of(e), "token_rewards": e.token_rewards} for e in together]
        rows = [replace(one, info=info) for one, info in zip(played, infos, strict=True)]
        _check_all_same("one batch of all episodes", played, rows)
    spec = env.spec
    if spec is not None and spec.vector_entry_point is not None and not spec.additional_wrappers:
        envs = gymnasium.make_vec(spec, num_envs=len(played))
        for layer, reward in zip(_paid_layers(envs), rewards, strict=True):
            layer.reward.continuations = reward.continuations
        rows = _play_rows(envs, seed, None, [one.actions for one in played])
        envs.close()
        _check_all_same("the vector form", played, rows)


def _check_of_policy(
    env: Any, play: Callable[[], list[_Played]], seed: int, rng: np.random.Generator
) -> None:
    """Check a rule that reads what a policy knew, by figures drawn at random."""
    reward, others = _paid_layers(env)[0].reward, []
    with _unpaid(env):
        played = play()
        if reward.credit.causal and not isinstance(env, VectorEnv):
            for number, one in enumerate(played):
                others.append(_play(env, seed + number, rng, one.actions[: len(one.actions) // 2]))
    episodes = [_with_figures(_unscored(one), rng) for one in played]
    rows = _paid(reward, played, episodes)
    _check_any_score(rows)
    for one in rows:
        if one.has_score:
            _check_tokens(one, one.info["score"], [*one.step_rewards], [reward.credit])
    _check_all_same("the same tokens", rows, _paid(reward, played, episodes))
    for one, row, episode in zip(played, rows, episodes, strict=True):
        (alone,) = _paid(reward, [one], [episode])
        _check_same("one batch of all episodes", alone, row)
    for row, episode, other in zip(rows, episodes, others, strict=False):
        half = len(row.actions) // 2
        told = _with_figures(_unscored(other), rng, half, episode)
        (paid,) = _paid(reward, [other], [told])
        _check_first(row, paid, half)


def _unscored(one: _Played) -> Episode:
    """Return the episode that was played."""
    return one.info.get("episode") or Episode.from_info(one.info, scored=False)


def _with_figures(
    episode: Episode, rng: np.random.Generator, known: int = 0, of: Episode | None = None
) -> Episode:
    """Return an episode with figures of no policy, its first ``known`` those of another."""
    figures: dict[str, Any] = {}
    for name, sign in (("log_probs", -1.0), ("entropy", 1.0)):
        figures[name] = sign * rng.exponential(size=len(episode.response_ids))
        if of is not None:
            figures[name][:known] = getattr(of, name)[:known]
    return replace(episode, **figures)


def _paid(reward: Reward, played: Sequence[_Played], episodes: Sequence[Episode]) -> list[_Played]:
    """Return plays with what a reward gives their episodes, paid as its rule says."""
    rows = []
    for one, episode in zip(played, reward.evaluate(episodes), strict=True):
        names = ("response_ids", "score", "score_parts", "token_rewards")
        info = {**{name: getattr(episode, name) for name in names}, "score": _score_of(episode)}
        at_end = 0.0 if episode.score is None else episode.score  # as an environment pays
        steps = [*np.zeros(len(one.actions) - 1), at_end]
        if episode.written is not None:
            info["written"] = episode.written
        if reward.credit.causal and (tokens := episode.token_rewards) is not None:
            written = episode.written
            steps = [*(tokens if written is None else tokens[np.asarray(written, np.bool_)])]
        rows.append(_Played(one.actions, tuple(map(float, steps)), info))
    return rows


def _score_of(episode: Episode) -> float:
    """Return the score as the terminal info has it, NaN where there is none."""
    return np.nan if episode.score is None else episode.score


def _check_any_score(played: Sequence[_Played]) -> None:
    """Refuse that nothing could be compared."""
    if not any(one.has_score for one in played):
        _fail(
            f"none of {len(played)} episodes has a score, so that nothing can be checked; have the "
            "scorer return a number for some of them, or play more episodes"
        )


def _check_episode(one: _Played, credits: Sequence[Rule]) -> None:
    """Check one episode by itself."""
    info = one.info
    for key in _TERMINAL_KEYS:
        if key not in info:
            _fail(f"the terminal info has no {key!r}; it has {sorted(info)}")
    for name, part in info["score_parts"].items():
        _finite(f"score_parts[{name!r}]", part)
    rewards = [_finite(f"reward of step {t}", value) for t, value in enumerate(one.step_rewards)]
    if not one.has_score:
        return
    score = _finite("score", info["score"])
    if not close_sum(score, rewards):
        _fail(f"step rewards sum to {sum(rewards):.6g}, but info['score'] is {score:.6g}")
    if any(rewards[:-1]) and not any(credit.causal for credit in credits):
        step = next(t for t, value in enumerate(rewards) if value)
        _fail(
            f"step {step} of {len(rewards)} paid {rewards[step]:.6g}, but credit is not causal; "
            "pay the score at the terminal step, the credit goes to info['token_rewards']"
        )
    _check_tokens(one, score, rewards, credits)


def _check_tokens(
    one: _Played, score: float, rewards: list[float], credits: Sequence[Rule]
) -> None:
    """Check an episode's token rewards, which must be those of its step rewards if causal."""
    info = one.info
    size = len(info["response_ids"])
    written = np.asarray(info.get("written", np.ones(size)), dtype=np.bool_)
    if tuple(np.array(info["response_ids"])[written].tolist()) != one.actions:
        _fail(
            f"response_ids {tuple(info['response_ids'])} are not the {len(one.actions)} actions "
            f"taken, {one.actions}"
        )
    tokens = info["token_rewards"]
    if getattr(tokens, "dtype", None) != np.float32 or tokens.shape != (size,):
        _fail(f"token_rewards must be float32, ({size},) for {size} response_ids, got {tokens!r}")
    if not np.isfinite(tokens).all():
        _fail(f"token_rewards must be finite, got {tokens}")
    if tokens[~written].any():
        _fail("token_rewards pay a token of a reply; pay those that the policy wrote")
    conserves = all(credit.conserves for credit in credits)
    if any(credit.causal for credit in credits):
        _check_delivery(rewards, tokens[written], conserves=conserves)
    if conserves and not close_sum(score, tokens):
        total = float(tokens.sum(dtype=np.float64))
        _fail(f"token_rewards sum to {total:.6g}, but info['score'] is {score:.6g}")


def _check_delivery(
    rewards: list[float], token_rewards: NDArray[np.float32], *, conserves: bool
) -> None:
    """Check that a causal credit of the written tokens, (n,), was paid step by step.

    The last step pays what is left of the score, which is its token's reward where it conserves.
    """
    scale = 1e-4 * max(1.0, float(np.abs(token_rewards).max(initial=0.0)))
    is_apart = ~(np.abs(np.array(rewards) - token_rewards) <= scale)
    if not conserves:
        is_apart[-1] = False
    if (apart := np.flatnonzero(is_apart)).size:
        step = int(apart[0])
        _fail(
            f"step {step} of {len(rewards)} paid {rewards[step]:.6g}, but credit is causal and "
            f"token_rewards[{step}] is {token_rewards[step]:.6g}; pay each token as it is written"
        )


def _check_future(
    env: gymnasium.Env[Any, Any], seed: int, one: _Played, rng: np.random.Generator
) -> None:
    """Check that the first half of an episode earns the same when it continues in another way."""
    half = len(one.actions) // 2
    other = _play(env, seed, rng, one.actions[:half])
    _check_first(one, other, half)


def _check_first(one: _Played, other: _Played, half: int) -> None:
    """Check an episode's first tokens against what they earn where others follow."""
    if not one.has_score or not other.has_score:
        return
    first, second = (each.info["token_rewards"][:half] for each in (one, other))
    scale = 1e-4 * max(1.0, float(np.abs(first).max(initial=0.0)))
    if not np.allclose(first, second, rtol=0.0, atol=scale):
        _fail(
            f"token_rewards of the first {half} tokens were {first}, and {second} when other "
            "tokens followed; a causal credit must not look ahead (declare causal=False)"
        )


def _check_same(what: str, first: _Played, second: _Played) -> None:
    """Check that two plays of the same tokens earned the same."""
    if first.actions != second.actions:
        _fail(
            f"{what} gave another episode: {len(first.actions)} and {len(second.actions)} steps; "
            "an episode must follow from seed and actions"
        )
    if not first.has_score and not second.has_score:
        return
    pairs = {
        "score": (first.info["score"], second.info["score"]),
        "token_rewards": (first.info["token_rewards"], second.info["token_rewards"]),
        "step rewards": (first.step_rewards, second.step_rewards),
    }
    for name, (one, two) in pairs.items():
        scale = 1e-5 * max(1.0, float(np.abs(one).max(initial=0.0)))
        if np.shape(one) != np.shape(two) or not np.allclose(one, two, rtol=0.0, atol=scale):
            _fail(
                f"{what} earned another {name}: {one}, then {two}; a reward must depend on the "
                "episode alone (no global random state, no batch or running statistics)"
            )


def _check_all_same(what: str, first: Sequence[_Played], second: Sequence[_Played]) -> None:
    for one, other in zip(first, second, strict=True):
        _check_same(what, one, other)


def _play(
    env: gymnasium.Env[Any, Any],
    seed: int,
    rng: np.random.Generator | None,
    actions: tuple[int, ...] = (),
) -> _Played:
    """Play one episode, by given tokens and then by random legal ones if there is a generator."""
    _, info = env.reset(seed=seed)
    taken: list[int] = []
    rewards: list[float] = []
    ended = False
    while not ended and len(taken) < (_MAX_STEPS if rng is not None else len(actions)):
        action = actions[len(taken)] if len(taken) < len(actions) else _draw(rng, info)
        _, reward, terminated, truncated, info = env.step(action)
        taken.append(action)
        rewards.append(reward)  # type: ignore[arg-type]
        ended = terminated or truncated
    if not ended:
        _fail(f"the episode did not end after {len(taken)} steps")
    return _Played(tuple(taken), tuple(rewards), info)


def _play_rows(
    envs: VectorEnv[Any, Any, Any],
    seed: int,
    rng: np.random.Generator | None,
    actions: Sequence[tuple[int, ...]] | None = None,
) -> list[_Played]:
    """Play until every row ended once; rows that ended get a filler token until then."""
    _, infos = envs.reset(seed=seed)
    taken: list[list[int]] = [[] for _ in range(envs.num_envs)]
    rewards: list[list[float]] = [[] for _ in range(envs.num_envs)]
    done: dict[int, _Played] = {}
    while len(done) < envs.num_envs and max(map(len, taken)) < _MAX_STEPS:
        tokens = np.zeros(envs.num_envs, dtype=np.int64)
        playing = sorted(set(range(envs.num_envs)) - set(done))
        for row in playing:
            if actions is None:
                tokens[row] = _draw(rng, {"action_mask": infos["action_mask"][row]})
            elif len(taken[row]) < len(actions[row]):
                tokens[row] = actions[row][len(taken[row])]
            else:
                _fail(f"the episode in row {row} did not end after {len(taken[row])} steps")
            taken[row].append(int(tokens[row]))
        _, values, _, _, infos = envs.step(tokens)
        for row in playing:
            rewards[row].append(values[row])
        for row, info in _terminal_rows(infos).items():
            if row not in done:
                done[row] = _Played(tuple(taken[row]), tuple(rewards[row]), info)
    if len(done) < envs.num_envs:
        _fail(f"{envs.num_envs - len(done)} rows did not end after {_MAX_STEPS} steps")
    return [done[row] for row in range(envs.num_envs)]


def _terminal_rows(infos: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Return the terminal info of each row that ended, as the single environment gives it."""
    source = infos.get("final_info", infos)
    rows = {}
    for row, episode in episodes_from_infos(infos).items():
        size = len(episode.response_ids)
        beyond = source["token_rewards"][row][size:]
        if np.any(beyond):
            _fail(f"token_rewards of row {row} must be 0 past its {size} tokens, got {beyond}")
        rows[row] = {
            "episode": episode,
            "response_ids": episode.response_ids,
            "score": _score_of(episode),
            "score_parts": episode.score_parts,
            "token_rewards": source["token_rewards"][row][:size],
            **({} if episode.written is None else {"written": episode.written}),
        }
    return rows


def _draw(rng: np.random.Generator | None, info: Mapping[str, Any]) -> int:
    assert rng is not None
    legal: NDArray[np.intp] = np.flatnonzero(info["action_mask"])
    if not len(legal):
        _fail("action_mask allows no token")
    return int(rng.choice(legal))


def _finite(name: str, value: Any) -> float:
    if np.ndim(value) != 0 or not isinstance(value, (int, float, np.number)):
        _fail(f"{name} must be a number, got {value!r}")
    if not np.isfinite(value):
        _fail(f"{name} must be finite, got {value}")
    return float(value)


def _paid_layers(env: Any) -> list[Any]:
    """Return all wrappers with a reward, the outermost first."""
    layers = []
    while env is not None:
        if isinstance(vars(env).get("reward"), Reward):
            layers.append(env)
        env = vars(env).get("env")
    return layers


def _fail(message: str) -> NoReturn:
    raise RewardCheckError(message)
