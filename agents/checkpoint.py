"""Checkpoints: a folder of safetensors and JSON from which training goes on number for number.

```
checkpoint.json        settings, counters, the environment's state, every file's hash
training.safetensors   value head (and its own network), optimiser, random generators
model/                 the policy's weights (or adapter/, its LoRA weights), Hugging Face's format
reference/             the frozen reference, which with LoRA is the base model
```
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tokengym.agents.environments import restore_environment
from tokengym.agents.errors import CheckpointError
from tokengym.agents.models import no_progress_bars
from tokengym.agents.resume import COUNTERS
from tokengym.agents.sb3 import NoEnvironment, as_vec_env

if TYPE_CHECKING:
    from tokengym.agents.algorithm import EpisodicAlgorithm
    from tokengym.agents.policy import CausalLMPolicy

FORMAT = 1
RECORD = "checkpoint.json"
TRAINING = "training.safetensors"

logger = logging.getLogger(__name__)
Algorithm = TypeVar("Algorithm", bound="EpisodicAlgorithm")


def save_checkpoint(agent: "EpisodicAlgorithm", path: Path) -> None:
    """Write the agent to ``path``, atomically; what was there becomes ``<path>.previous``.

    Args:
        agent: What to save. In the middle of a round it is saved as it was before the round.
        path: The folder to make.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.writing-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        with no_progress_bars():
            _write_policy(agent.policy, temporary)
        save_file(_training_tensors(agent), temporary / TRAINING)
        record = _record(agent) | {"files": _hashes(temporary)}
        (temporary / RECORD).write_text(json.dumps(record, indent=1, default=_plain))
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if path.exists():
        previous = _previous(path)
        shutil.rmtree(previous, ignore_errors=True)
        path.rename(previous)
    temporary.rename(path)


def load_checkpoint(
    algorithm: type[Algorithm],
    path: Path,
    env: Any,
    device: torch.device | str,
    changes: Mapping[str, Any],
) -> Algorithm:
    """Return the agent that was saved; see `EpisodicAlgorithm.load`."""
    folder, record = _intact(path.absolute())
    if record["algorithm"] != algorithm.__name__:
        raise CheckpointError(
            f"{folder} was saved by {record['algorithm']}, not {algorithm.__name__}; load it with "
            "the class that saved it"
        )
    settings = _settings(algorithm, record, changes, folder)
    envs = NoEnvironment(**record["environment"]) if env is None else as_vec_env(env)
    _check_environment(envs, record["environment"], folder)
    agent = algorithm(
        record["policy"],
        envs,
        policy_kwargs=_policy_kwargs(folder, record),
        device=device,
        **settings,
    )
    _restore_training(agent, folder)
    for name in COUNTERS:
        setattr(agent, name, record["counters"][name])
    if env is not None and record["environment_state"] is not None:
        restore_environment(envs, record["environment_state"])
        envs.unwrapped._reset_seeds()  # or the constructor's seed would start the prompts again
        agent._last_obs = {}  # or learn() would begin with a reset that the first run did not make
    return agent


# --- writing --------------------------------------------------------------------------------------


def _record(agent: "EpisodicAlgorithm") -> dict[str, Any]:
    """Return what the JSON file holds, all but the hashes."""
    settings = {name: getattr(agent, name) for name in agent.setting_names()}
    start = agent.round_start()
    if start.environment is not None and not start.environment["states"]:
        logger.warning("the environment has no get_state(): a resumed run will see other prompts")
    schedules = sorted(name for name, value in settings.items() if callable(value))
    return {
        "format": FORMAT,
        "algorithm": type(agent).__name__,
        "policy": _policy_name(agent),
        "settings": {k: v for k, v in settings.items() if k not in schedules},
        "schedules": schedules,
        "policy_kwargs": {
            name: value
            for name, value in agent.policy_kwargs.items()
            if name not in ("model", "reference", "lora", *agent.sampling_settings)
        },
        "has_adapter": agent.policy.language_model.adapters is not None,
        "environment": {
            "num_envs": agent.n_envs,
            "num_tokens": agent.policy.num_actions,
            "length": agent.policy.max_length,
        },
        "counters": start.counters,
        "environment_state": start.environment,
    }


def _policy_name(agent: "EpisodicAlgorithm") -> str:
    """Return the alias of the agent's policy class."""
    for name, policy_class in agent.policy_aliases.items():
        if policy_class is agent.policy_class:
            return name
    raise CheckpointError(
        f"{agent.policy_class.__name__} has no name to be loaded by; add it to "
        f"{type(agent).__name__}.policy_aliases"
    )


def _write_policy(policy: "CausalLMPolicy", folder: Path) -> None:
    """Write the policy and its reference in Hugging Face's format."""
    language_model = policy.language_model
    if policy.reference is not None:
        language_model.model.save_pretrained(folder / "model")
        policy.reference.model.save_pretrained(folder / "reference")
        return
    assert language_model.adapters is not None
    language_model.adapters.save_pretrained(str(folder / "adapter"))
    language_model.model.save_pretrained(
        folder / "reference", state_dict=language_model.base_weights()
    )


def _training_tensors(agent: "EpisodicAlgorithm") -> dict[str, Tensor]:
    """Return the tensors besides the models' weights, on the CPU."""
    tensors = {
        f"value_head.{name}": value for name, value in agent.policy.value_head.state_dict().items()
    }
    for number, state in agent.policy.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in state.items()}
    if agent.policy.value_network is not None:
        for name, value in agent.policy.value_network.trunk_parameters().items():
            tensors[f"value_network.{name}"] = value.clone()
    if agent.policy.masking_model is not None:
        weights = agent.policy.masking_model.model.state_dict()
        tensors |= {f"masking_model.{name}": value.clone() for name, value in weights.items()}
    tensors["generator.sampling"] = agent.round_start().sampling
    tensors["generator.shuffling"] = agent.shuffler.get_state()
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _hashes(folder: Path) -> dict[str, str]:
    """Return the hash of every file below the folder, by relative name."""
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def _plain(value: Any) -> Any:
    """Return NumPy's numbers and arrays, and paths, as JSON can hold them."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}: {value!r}")


# --- reading --------------------------------------------------------------------------------------


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")


def _intact(path: Path) -> tuple[Path, dict[str, Any]]:
    """Return the checkpoint's folder and record, or the previous one's if a file is damaged."""
    try:
        return path, _read_record(path)
    except CheckpointError as error:
        previous = _previous(path)
        if not previous.exists():
            raise
        logger.warning("%s; falling back to %s", error, previous)
        return previous, _read_record(previous)


def _read_record(folder: Path) -> dict[str, Any]:
    """Return the record of a checkpoint whose files are all as they were written."""
    file = folder / RECORD
    if not folder.is_dir():
        raise CheckpointError(f"there is no checkpoint at {folder}; pass the path save() was given")
    try:
        record = json.loads(file.read_text())
        version, hashes = record["format"], record["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); use an earlier checkpoint") from error
    if version != FORMAT:
        raise CheckpointError(
            f"{file} has format {version}, this version reads {FORMAT}; load it with the version "
            "that saved it"
        )
    found = _hashes(folder)
    for name, expected in hashes.items():
        if found.get(name) != expected:
            state = "missing" if name not in found else "damaged"
            raise CheckpointError(f"{folder / name} is {state}; use an earlier checkpoint")
    return record


def _settings(
    algorithm: "type[EpisodicAlgorithm]",
    record: Mapping[str, Any],
    changes: Mapping[str, Any],
    folder: Path,
) -> dict[str, Any]:
    """Return the constructor's settings: as saved, with the changes."""
    known = algorithm.setting_names()
    for name in changes:
        if name not in known:
            raise TypeError(
                f"load() got {name!r}; what can be changed is: {', '.join(sorted(known))}"
            )
    for name in record["schedules"]:
        if name not in changes:
            raise CheckpointError(
                f"{name} of {folder} was a schedule, which cannot be saved; pass it again: "
                f"load(path, env=envs, {name}=...)"
            )
    return {**record["settings"], **changes}


def _policy_kwargs(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the policy's arguments, with the models of the checkpoint."""
    if not record["has_adapter"]:
        models = {"model": folder / "model", "reference": folder / "reference"}
    else:
        from peft import PeftConfig

        lora = PeftConfig.from_pretrained(str(folder / "adapter"))
        lora.inference_mode = False
        models = {"model": folder / "reference", "lora": lora}
    return {**record["policy_kwargs"], **models}


def _check_environment(envs: Any, saved: Mapping[str, int], folder: Path) -> None:
    """Refuse an environment of another shape than the one that was trained on."""
    length = envs.observation_space["input_ids"].shape[0]
    found = {"num_envs": envs.num_envs, "num_tokens": int(envs.action_space.n), "length": length}
    if found != dict(saved):
        raise CheckpointError(
            f"{folder} was trained on {dict(saved)}, the environment has {found}; make it as it was"
        )


def _restore_training(agent: "EpisodicAlgorithm", folder: Path) -> None:
    """Put value head and network, adapters, optimiser and random generators back."""
    try:
        tensors = load_file(folder / TRAINING)
    except SafetensorError as error:
        raise CheckpointError(f"{folder / TRAINING} is damaged ({error})") from error
    policy = agent.policy
    policy.value_head.load_state_dict(
        {name: tensors[f"value_head.{name}"] for name in policy.value_head.state_dict()}
    )
    if policy.value_network is not None:
        for name, parameter in policy.value_network.trunk_parameters().items():
            parameter.data.copy_(tensors[f"value_network.{name}"])
    if policy.language_model.adapters is not None:
        from peft import set_peft_model_state_dict

        weights = load_file(folder / "adapter" / "adapter_model.safetensors")
        set_peft_model_state_dict(policy.language_model.adapters, weights)
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            state.setdefault(int(number), {})[key] = tensor
    groups = policy.optimizer.state_dict()["param_groups"]
    policy.optimizer.load_state_dict({"state": state, "param_groups": groups})
    if policy.masking_model is not None:
        policy.masking_model.model.load_state_dict(
            {
                name: tensors[f"masking_model.{name}"]
                for name in policy.masking_model.model.state_dict()
            }
        )
    policy.generator.set_state(tensors["generator.sampling"])
    agent.shuffler.set_state(tensors["generator.shuffling"])
