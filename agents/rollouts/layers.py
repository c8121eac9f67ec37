"""Layers of an environment: those that a learner can hear, and those that it must refuse.

What an environment pays is what its outermost layer pays. A layer is known by what it declares: the
spaces that it shows, and whether its class has a ``step`` of its own.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise, takewhile
from typing import Any, TypeAlias

import gymnasium as gym
import gymnasium.wrappers as single
import gymnasium.wrappers.vector as batched
from gymnasium import spaces
from gymnasium.vector import (
    AsyncVectorEnv,
    SyncVectorEnv,
    VectorActionWrapper,
    VectorEnv,
    VectorObservationWrapper,
    VectorWrapper,
)
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecMonitor,
    VecNormalize,
)

from tokengym.base.errors import SettingsError
from tokengym.envs import PadTokenRewards
from tokengym.envs.mdp import MdpEnvironment
from tokengym.rewards import RewardWrapper, VectorRewardWrapper

Environments: TypeAlias = VectorEnv[Any, Any, Any] | gym.Env[Any, Any] | VecEnv
"""Environments of learners and samplers: a batch or a single one, of Gymnasium or of SB3."""
REWARD_WRAPPERS = (RewardWrapper, VectorRewardWrapper)
"""Layers that score episodes."""
TRANSPARENT = (single.OrderEnforcing, single.PassiveEnvChecker, PadTokenRewards)
"""Layers with a ``step`` of their own that do nothing with what it returns."""
READERS = (
    *(single.TimeLimit, single.Autoreset, single.RecordEpisodeStatistics, Monitor),
    *(single.RenderCollection, batched.RecordEpisodeStatistics, VecMonitor, VecCheckNan),
)
"""Layers that read rewards and change none."""
SCALING = (
    *(single.ClipReward, single.NormalizeReward, batched.ClipReward, batched.NormalizeReward),
    VecNormalize,
)
"""Layers that scale or bound rewards, and add nothing to them."""
REPEATING = (single.RepeatAction, single.MaxAndSkipObservation, single.AtariPreprocessing)
"""Layers that write a token several times, which neither their spaces nor their classes say."""
CONVERTING = (single.ArrayConversion, batched.ArrayConversion, batched.DictInfoToList)
"""Layers that return tensors, or infos as lists."""
TEXT_PARTS = {"input_ids", "attention_mask"}
"""Parts of an observation of text."""
LIMIT = "_max_episode_steps"
"""Attribute of Gymnasium's ``TimeLimit``, which has no public one."""


def layers(envs: Any) -> list[list[Any]]:
    """Return the layers of an environment, outermost first, the innermost environment last.

    The first list is the batch's; one for each row follows where rows are environments themselves.
    """
    chain = [envs]
    while True:
        layer = chain[-1]
        inner = getattr(layer, "envs", None)
        below: Any = inner if isinstance(inner, VectorEnv) else None
        if isinstance(layer, gym.Wrapper | VectorWrapper):
            below = layer.env
        elif isinstance(layer, VecEnvWrapper):
            below = layer.venv
        if below is None:
            break
        chain.append(below)
    rows = inner if isinstance(inner, list | tuple) else ()
    return [chain, *(rest for row in rows for rest in layers(row))]


def row_attributes(envs: Environments, name: str) -> list[Any] | None:
    """Return an attribute of every row's layers, also where rows are in other processes.

    None where a row has no such attribute, and of a batch whose rows are no environments
    themselves.
    """
    bare: Any = envs.unwrapped
    inner = getattr(bare, "envs", None)  # that of `GymVecEnv` is a batch
    if isinstance(inner, VectorEnv):
        return row_attributes(inner, name)
    if isinstance(bare, VecEnv):
        return bare.get_attr(name) if bare.has_attr(name) else None
    if isinstance(bare, SyncVectorEnv | AsyncVectorEnv):
        if all(bare.call("has_wrapper_attr", name)):
            return list(bare.call("get_wrapper_attr", name))
    return None


def row_states(envs: Environments) -> list[Any]:
    """Return ``get_state()`` of a batch or of its rows, also where rows are in other processes."""
    bare: Any = envs.unwrapped
    inner = getattr(bare, "envs", None)
    if isinstance(inner, VectorEnv):
        return row_states(inner)
    if isinstance(bare, VecEnv):
        return bare.env_method("get_state")
    if isinstance(bare, SyncVectorEnv | AsyncVectorEnv):
        return list(bare.call("get_state"))
    states: list[Any] = bare.get_state()
    return states


def ask_first_row(envs: Environments, name: str, *arguments: Any) -> Any:
    """Return what a method of the first row returns; rows in other processes are not waited for.

    None where it has no such method, and of a batch whose rows are no environments themselves.
    """
    bare: Any = envs.unwrapped
    inner = getattr(bare, "envs", None)
    if isinstance(inner, VectorEnv):
        return ask_first_row(inner, name, *arguments)
    if isinstance(bare, VecEnv):
        ask: Callable[..., list[Any]] = partial(bare.env_method, indices=[0])
    elif isinstance(bare, AsyncVectorEnv):
        ask = partial(_call_first, bare)
    elif isinstance(bare, SyncVectorEnv):
        row: Any = bare.envs[0]
        return row.get_wrapper_attr(name)(*arguments) if row.has_wrapper_attr(name) else None
    else:
        return None
    return ask(name, *arguments)[0] if ask("has_wrapper_attr", name)[0] else None


def _call_first(envs: AsyncVectorEnv, name: str, *arguments: Any) -> list[Any]:
    """Do `AsyncVectorEnv.call` of the first row, which Gymnasium has for all rows alone."""
    envs._assert_is_running()
    pipe = envs.parent_pipes[0]
    pipe.send(("_call", (name, arguments, {})))
    answer, is_answered = pipe.recv()
    envs._raise_if_errors([is_answered, *[True] * (envs.num_envs - 1)])
    return [answer]


def is_transparent(layer: Any) -> bool:
    """Return whether a layer hands on what ``step`` returns, unread."""
    return type(layer) in TRANSPARENT or not _has_own(layer, "step")


def _has_own(layer: Any, method: str) -> bool:
    """Return whether the class of a layer has its own form of a method."""
    if isinstance(layer, VecEnvWrapper):
        return True
    for base in (gym.Wrapper, VectorWrapper):
        if isinstance(layer, base):
            return getattr(type(layer), method) is not getattr(base, method)
    return False


def is_reward_wrapper(layer: Any) -> bool:
    """Return whether a layer is a reward layer, with a ``step`` as this package wrote it."""
    is_paying = isinstance(layer, REWARD_WRAPPERS)
    return is_paying and type(layer).step in (RewardWrapper.step, VectorRewardWrapper.step)


def outermost_reward(chain: list[Any]) -> Any:
    """Return the outermost reward layer, None where a layer around it may read what it pays."""
    for layer in chain:
        if is_reward_wrapper(layer):
            return layer
        if not is_transparent(layer):
            return None
    return None


def are_plain(chains: list[list[Any]], known: Sequence[type] = TRANSPARENT) -> bool:
    """Return whether nothing but this package decides what is read, written and paid.

    Layers of the classes in ``known`` may be there too.
    """
    innermost = [chain[-1] for chain in (chains[1:] or chains)]
    around = [layer for chain in chains for layer in chain if not is_reward_wrapper(layer)]
    changing = [layer for layer in around if type(layer) not in known]
    has_own = any(_has_own(layer, name) for layer in changing for name in ("step", "reset"))
    return not has_own and all(isinstance(one, MdpEnvironment) for one in innermost)


def check_limits(envs: Environments) -> None:
    """Refuse time limits that cut the episodes of a batch before their score is paid."""
    limits = [
        (getattr(layer, LIMIT), layer.get_wrapper_attr("max_new_tokens"))
        for chain in layers(envs)
        for layer in chain
        if isinstance(layer, single.TimeLimit) and layer.has_wrapper_attr("max_new_tokens")
    ]
    if not limits and (unseen := row_attributes(envs, LIMIT)) is not None:
        limits = list(zip(unseen, row_attributes(envs, "max_new_tokens") or (), strict=False))
    for limit, horizon in limits:
        if limit < horizon:
            raise SettingsError(
                f"TimeLimit of {limit} steps (max_episode_steps) would cut episodes of up to "
                f"{horizon} tokens before their score is paid; pass max_new_tokens={limit} instead"
            )


def check_learnable(envs: Any, name: str) -> None:
    """Refuse an environment without texts, and layers that change which tokens a learner sees.

    What is no environment is refused by `as_vec_env`.
    """
    if not isinstance(envs, VectorEnv | gym.Env | VecEnv):
        return
    for chain in layers(envs):
        for layer, below in pairwise(chain):
            if (reason := _unfit(layer, below)) is not None:
                raise SettingsError(
                    f"{type(layer).__name__} {reason}: {name} reads the environment's own token "
                    "ids, and learns from the tokens that its policy chose"
                )
    observations, actions = _space(envs, "observation"), _space(envs, "action")
    has_texts = isinstance(observations, spaces.Dict) and TEXT_PARTS <= observations.keys()
    if not has_texts or not isinstance(actions, spaces.Discrete):
        raise SettingsError(
            f"{name} writes texts, and env has {type(observations).__name__} observations and "
            f"{type(actions).__name__} actions; make one with gym.make_vec("
            f"'tokengym/MovieReview-v0', num_envs=64), or take stable_baselines3.{name}"
        )


def _unfit(layer: Any, below: Any) -> str | None:
    """Return what a layer around another does to tokens, and the remedy; None if nothing."""
    if isinstance(layer, VecNormalize) and layer.norm_obs:
        return "normalises token ids; pass norm_obs=False"
    if isinstance(layer, CONVERTING):
        return "returns other arrays or infos; leave it out"
    shows_others = isinstance(layer, gym.ObservationWrapper | VectorObservationWrapper)
    if shows_others or _space(layer, "observation") != _space(below, "observation"):
        return "changes observations; leave it out"
    acts_otherwise = isinstance(layer, (gym.ActionWrapper, VectorActionWrapper, *REPEATING))
    if acts_otherwise or _space(layer, "action") != _space(below, "action"):
        return "changes actions; leave it out"
    return None


def _space(envs: Any, kind: str) -> spaces.Space[Any]:
    """Return the observation or action space of one row."""
    prefix = "single_" if isinstance(envs, VectorEnv) else ""
    space: spaces.Space[Any] = getattr(envs, f"{prefix}{kind}_space")
    return space


def check_scored_alone(envs: Any, name: str) -> None:
    """Refuse layers whose rewards are not heard where responses are scored without steps."""
    shared, *rows = layers(envs)
    outside = list(takewhile(lambda layer: not is_reward_wrapper(layer), shared))
    if len(outside) == len(shared):  # each row has its reward layer
        for row in rows:
            outside += takewhile(lambda layer: not is_reward_wrapper(layer), row)
    for layer in outside:
        if not is_transparent(layer) and type(layer) not in READERS:
            raise SettingsError(
                f"{type(layer).__name__} around the environment may change what it pays, and "
                f"{name} takes the value of its scorer alone; leave it out, or pass scorer="
            )
