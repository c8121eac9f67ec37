"""Offline learners on disk: an agent's folder, and the weights of a Trainer's checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors.torch import load_file

from tokengym.agents.checkpoint import restore_adapters, stored_models, write_policy
from tokengym.agents.errors import CheckpointError
from tokengym.agents.policy.language_model import no_progress_bars
from tokengym.agents.policy.policy import CausalLMPolicy
from tokengym.agents.rollouts.environments import environment_attribute
from tokengym.envs.files import read_folder, write_folder
from tokengym.rewards.models.loading import load_tokenizer

if TYPE_CHECKING:
    from tokengym.agents.offline.trainer import OfflineTrainer

FORMAT = 1
RECORD = "agent.json"

Learner = TypeVar("Learner", bound="OfflineTrainer")


def save_agent(agent: "OfflineTrainer", path: Path) -> None:
    """Write an agent's folder; see `OfflineTrainer.save`."""

    def fill(folder: Path) -> dict[str, Any]:
        with no_progress_bars():
            write_policy(agent.policy, folder)
        agent.tokenizer.save_pretrained(str(folder / "tokenizer"))
        return {
            "format": FORMAT,
            "algorithm": type(agent).__name__,
            "settings": agent.settings,
            "counters": agent.counters(),
        }

    write_folder(path, RECORD, fill)


def load_agent(learner: type[Learner], path: Path, env: Any, changes: Mapping[str, Any]) -> Learner:
    """Return the agent of a folder; see `OfflineTrainer.load`."""
    folder, record = read_folder(path, RECORD, FORMAT)
    if record["algorithm"] != learner.__name__:
        raise CheckpointError(
            f"{folder} was saved by {record['algorithm']}, not {learner.__name__}; load it with "
            "the class that saved it"
        )
    tokenizer: Any = load_tokenizer(folder / "tokenizer")
    playing = None if env is None else environment_attribute(env, "tokenizer")
    if playing is not None and playing.get_vocab() != tokenizer.get_vocab():
        raise CheckpointError(
            f"{folder} has another vocabulary than the environment ({len(tokenizer)} and "
            f"{len(playing)} tokens); load it with the one it was trained for"
        )
    models = stored_models(folder)
    models["ref_model"] = models.pop("reference", None)
    source = models.pop("model")
    settings = learner.read_settings(record["settings"])
    build: Any = learner
    agent = build(source, **{"tokenizer": tokenizer, **settings, **models, **changes})
    restore_adapters(agent.policy, folder)
    for name, value in record["counters"].items():
        setattr(agent, name, value)
    return agent


def write_weights(
    policy: CausalLMPolicy, folder: Path, gathered: Mapping[str, Any] | None = None
) -> None:
    """Write a policy's model, or its adapters, in Hugging Face's format.

    Args:
        policy: Whose.
        folder: Where.
        gathered: The state of the `ResponseScorer` where processes share the weights (FSDP).
    """
    language_model = policy.language_model
    stored: Any = language_model.adapters or language_model.model
    weights = None
    if gathered is not None:
        name = "model" if language_model.adapters is None else "adapters"
        inside = f"language_model.{name}."
        weights = {
            name.removeprefix(inside): value
            for name, value in gathered.items()
            if name.startswith(inside)
        }
    with no_progress_bars():
        stored.save_pretrained(str(folder), state_dict=weights)


def load_weights(policy: CausalLMPolicy, folder: Path) -> None:
    """Put weights that ``save_pretrained`` wrote back into a policy's model or adapters.

    Raises:
        CheckpointError: if they are not there, or not this model's.
    """
    adapters = policy.language_model.adapters
    name = "model.safetensors" if adapters is None else "adapter_model.safetensors"
    if not (folder / name).is_file():
        raise CheckpointError(f"{folder} has no {name}; resume from a folder checkpoint-<step>")
    weights = load_file(folder / name)
    if adapters is not None:
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(adapters, weights)
        return
    found = policy.language_model.model.load_state_dict(weights, strict=False)
    policy.language_model.model.tie_weights()
    missing = [name for name in found.missing_keys if name not in _tied(policy)]
    if missing or found.unexpected_keys:
        raise CheckpointError(
            f"{folder / name} is of another model ({(missing + found.unexpected_keys)[0]!r} does "
            "not fit); resume with the model that wrote it"
        )


def _tied(policy: CausalLMPolicy) -> set[str]:
    """Return the names of weights that others hold, so that files need not."""
    return set(getattr(policy.language_model.model, "all_tied_weights_keys", None) or ())
