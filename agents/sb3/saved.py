"""Stock algorithms in folders: what they have learned, and the state in which a run continues.

```
model.zip     Stable-Baselines3's own file, which ``A2C.load`` reads too
state.pth     counters, replay buffer, random generators, and the environment's episodes
stock.json    the algorithm's word and settings, and every file's hash
```

The first two are in PyTorch's format, whose archives hold pickles. They are read with
``weights_only=True``, which makes tensors and plain data and calls nothing else that a file names.
What Stable-Baselines3 pickles itself in model.zip is not read: the algorithm is made by its
settings.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from tokengym.agents.errors import CheckpointError
from tokengym.agents.sb3.making import make, settings_of
from tokengym.agents.sb3.vec_env import GymVecEnv, NoEnvironment
from tokengym.agents.states import environment_state, restore_environment
from tokengym.base.files import to_json
from tokengym.base.folders import read_folder, write_folder
from tokengym.base.settings import from_json
from tokengym.base.stored.parts import STOCK_RECORD as RECORD

T = TypeVar("T")
FORMAT = 1
MODEL, STATE = "model.zip", "state.pth"
ENTRIES = {"algorithm": str, "settings": dict, "num_tokens": int, "length": int}
BY_STEP = (
    *("observations", "next_observations", "actions", "rewards", "dones", "timeouts"),
    "_is_known",
)
"""Arrays of a replay buffer that have a row for each step."""
MADE = frozenset(
    """
    policy policy_class policy_kwargs env observation_space action_space device lr_schedule
    learning_rate _logger rollout_buffer rollout_buffer_class rollout_buffer_kwargs replay_buffer
    replay_buffer_class replay_buffer_kwargs ep_info_buffer ep_success_buffer clip_range
    clip_range_vf train_freq exploration_schedule q_net q_net_target quantile_net
    quantile_net_target batch_norm_stats batch_norm_stats_target _episode_storage action_noise
    """.split()
)
"""Attributes of stock algorithms that are made by the settings, are saved as weights or apart, or
log."""

ARRAY = "ndarray"
"""Key of a tensor that is an array of NumPy's."""


def save(
    agent: BaseAlgorithm, path: Path, *, word: str, settings: Any, state: Mapping[str, Any]
) -> None:
    """Write an algorithm between two rollouts.

    Args:
        agent: The algorithm, in its environment.
        path: The folder.
        word: Word that names its class.
        settings: An instance of its `settings_of`.
        state: Plain data of the training's own, which `restored` returns.
    """
    whole = {**_state(agent), "training": _plain(state)}

    def fill(part: Path) -> dict[str, Any]:
        agent.save(part / MODEL)
        torch.save(whole, part / STATE)
        observations: Any = agent.observation_space
        actions: Any = agent.action_space
        return {
            "format": FORMAT,
            "algorithm": word,
            "settings": to_json(settings),
            "num_tokens": int(actions.n),
            "length": int(observations["input_ids"].shape[0]),
        }

    write_folder(path, RECORD, fill)


def restored(agent: BaseAlgorithm, path: Path) -> Mapping[str, Any]:
    """Give an algorithm and its environment the state that `save` wrote; return the training's own.

    Raises:
        CheckpointError: if the state was not whole, or is of another algorithm or environment.
    """

    def read(folder: Path, record: dict[str, Any]) -> Mapping[str, Any]:
        state = _whole(folder / STATE, partial(torch.load, weights_only=True))
        if lacking := state["lacking"]:
            raise CheckpointError(
                f"{record['algorithm']} cannot continue where it stopped, since nothing saves its "
                f"{', '.join(lacking)}"
            )
        _set_weights(agent, folder)
        vars(agent).update(_arrays(state["agent"]))
        agent.action_space.np_random.bit_generator.state = state["actions"]
        _fill_buffer(agent, _arrays(state["buffer"]))
        envs: Any = agent.env
        envs.reset()  # layers around the environment begin their episodes by it
        restore_environment(envs, state["environment"])
        envs.restore_masks(_arrays(state["masks"]))
        return dict(_arrays(state["training"]))

    return read_folder(path, RECORD, FORMAT, ENTRIES, read)


def load(path: Path, made: type[BaseAlgorithm]) -> BaseAlgorithm:
    """Return an algorithm of a class that `save` wrote, to be played."""

    def read(folder: Path, record: dict[str, Any]) -> BaseAlgorithm:
        settings: Any = from_json(settings_of(made), record["settings"])
        size = {"num_tokens": record["num_tokens"], "length": record["length"]}
        envs = NoEnvironment(num_envs=1, **size)
        agent = make(made, settings, envs, name=record["algorithm"], rows=1, length=64)
        _set_weights(agent, folder)
        return agent

    return read_folder(path, RECORD, FORMAT, ENTRIES, read)


def _set_weights(agent: BaseAlgorithm, folder: Path) -> None:
    """Give an algorithm the weights and optimisers of a folder, and nothing else that it holds."""
    _whole(folder / MODEL, lambda file: agent.set_parameters(str(file), device=agent.device))


def _whole(file: Path, read: Callable[[Path], T]) -> T:
    """Return what a file holds; what does not hold tensors and plain data alone is damaged."""
    try:
        return read(file)
    except (torch.OutOfMemoryError, PermissionError):
        raise  # it is whole, and may be read elsewhere
    except (OSError, KeyError, RuntimeError, ValueError, UnpicklingError, BadZipFile) as error:
        # Of a pickle torch's message is a page that says how to run it.
        raise CheckpointError(
            f"{file} is damaged, or of another algorithm ({type(error).__name__}); delete "
            f"{file.parent} and train again"
        ) from error


def _state(agent: BaseAlgorithm) -> dict[str, Any]:
    """Return the state of an algorithm and of its environment, as plain data and tensors."""
    attributes, lacking = {}, []
    for name, value in vars(agent).items():
        try:
            if name not in MADE:
                attributes[name] = _plain(value)
        except TypeError:
            lacking.append(name)
    envs: Any = agent.env
    return {
        "agent": attributes,
        "lacking": sorted(lacking),
        "buffer": _buffer(agent),
        "actions": dict(agent.action_space.np_random.bit_generator.state),
        "environment": environment_state(envs),
        "masks": _plain(envs.action_masks()) if isinstance(envs, GymVecEnv) else None,
    }


def _buffer(agent: Any) -> dict[str, Any]:
    """Return what of an algorithm's buffer outlasts a rollout."""
    replay = getattr(agent, "replay_buffer", None)
    if replay is None:
        return {"paid": _plain(getattr(agent.rollout_buffer, "_paid", None))}
    end = replay.buffer_size if replay.full else replay.pos
    steps = {name: _upto(getattr(replay, name, None), end) for name in BY_STEP}
    ages = getattr(replay, "_ages", None)
    return _plain({"pos": replay.pos, "full": replay.full, "_ages": ages, **steps})


def _upto(value: Any, end: int) -> Any:
    if value is None:
        return None
    return {n: v[:end] for n, v in value.items()} if isinstance(value, dict) else value[:end]


def _fill_buffer(agent: Any, kept: Mapping[str, Any]) -> None:
    """Give an algorithm's buffer what `_buffer` returned."""
    if "paid" in kept:
        if kept["paid"] is not None:
            agent.rollout_buffer._paid = kept["paid"]
        return
    replay = agent.replay_buffer
    replay.pos, replay.full = kept["pos"], kept["full"]
    for name in (*BY_STEP, "_ages"):
        there, saved = getattr(replay, name, None), kept[name]
        if isinstance(there, dict):
            for key, array in there.items():
                array[: len(saved[key])] = saved[key]
        elif there is not None:
            there[: len(saved)] = saved


def _plain(value: Any) -> Any:
    """Return plain data and arrays as plain data and tensors.

    Raises:
        TypeError: if it is anything else.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {ARRAY: torch.from_numpy(np.array(value))}
    if isinstance(value, torch.Tensor):
        return value
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    if type(value) is dict:
        return {_plain(key): _plain(item) for key, item in value.items()}
    raise TypeError(f"{type(value).__name__} is no plain data")


def _arrays(value: Any) -> Any:
    """Return what `_plain` was given."""
    if isinstance(value, dict) and value.keys() == {ARRAY}:
        return value[ARRAY].numpy()
    if isinstance(value, list | tuple):
        return type(value)(map(_arrays, value))
    if isinstance(value, dict):
        return {key: _arrays(item) for key, item in value.items()}
    return value
