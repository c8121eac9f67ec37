"""Saved agents: a folder of safetensors and JSON, the same for all learners of this package.

```
checkpoint.json        algorithm, settings, counters, every file's hash and its own; of a learner by
                       rounds also the environment's state
training.safetensors   of a learner by rounds: value head (and its own network), optimiser, random
                       generators, by which training continues number for number
model/                 the policy's weights (or adapter/, its LoRA weights) and its tokenizer
reference/             the frozen reference, which with LoRA is the base that adapter/ names
base.json              in place of either: name and hash of a base model that is found by name
own.json               what ``state_dict()`` of a class of the user's returned, if it has one; its
                       tensors are in training.safetensors
decided.json           names of the settings that nobody gave and the environment decided, if any
reward.json            the reward that was learned from, if the environment can tell
frozen.json            names of the weights that do not learn, if there are any: the model's that
                       were given so, and the policy's that were frozen since it was built
```
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, Literal, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from tokengym.agents.errors import CheckpointError
from tokengym.agents.own_state import own_state, restore_own_state
from tokengym.agents.policy.backend import backend
from tokengym.agents.policy.language_model import FreshModel, load_causal_lm
from tokengym.agents.processes import Processes, join
from tokengym.agents.rollouts.layers import check_learnable
from tokengym.agents.rollouts.rounds import Environments, environment_attribute
from tokengym.agents.sb3 import NoEnvironment, as_vec_env
from tokengym.agents.states import environment_state, restore_environment
from tokengym.base.device import select_device
from tokengym.base.files import behind_link, read_json, write_json
from tokengym.base.folders import check_entries, fill_folder, read_folder, write_folder
from tokengym.base.models import BASE, named_folder, quiet
from tokengym.base.packed import Place, file_for, packing, unpacked
from tokengym.base.saved_code import check_saved
from tokengym.base.settings import names_of
from tokengym.base.stored.adapters import load_adapters
from tokengym.base.stored.parts import ADAPTER, ADAPTER_CONFIG, PARTS, PICKLES
from tokengym.base.stored.parts import CHECKPOINT_RECORD as RECORD
from tokengym.base.text import printable
from tokengym.rewards.models.loading import load_tokenizer

if TYPE_CHECKING:
    from tokengym.agents.policy.policy import CausalLMPolicy

T = TypeVar("T")
FORMAT = 2
FORMER = {"WeightedPPO": "PPO"}
"""Names under which classes saved agents before."""
ENTRIES = {"algorithm": str, "settings": dict, "counters": dict}
"""Types of the record's entries, of any learner."""
ENTRIES_OF_ROUNDS = ENTRIES | {
    "policy": str,
    "schedules": list,
    "policy_kwargs": dict,
    "environment": dict,
    "environment_state": dict | None,
}
"""Those of a learner by rounds."""
TRAINING = "training.safetensors"
FROZEN = "frozen.json"
DECIDED = "decided.json"
REWARD = "reward.json"
OWN = "own.json"
OPTIMIZER = "optimizer."
"""Prefix of the names of the optimiser's tensors."""
COUNTERS = {
    "num_timesteps": int,
    "_n_updates": int,
    "_total_timesteps": int,
    "_current_progress_remaining": int | float,
    "learning_since": int,
}
"""Counters of an agent that a checkpoint keeps, and their types."""
SIZES = ("num_envs", "num_tokens", "length")
MAX_SIZE = 10**6
"""Largest of these sizes that is believed: arrays are made of them."""
MODELS = ("model", "reference", "lora")
"""Arguments of the policy that are stored as folders."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """State before a round; weights and optimiser do not change while one is played.

    A checkpoint that a callback writes in the middle of a round holds this: the resumed run plays
    the round again, token for token, from its beginning.
    """

    counters: dict[str, Any]
    """`COUNTERS` by name."""
    sampling: Tensor
    """State of the generator that tokens are drawn with."""
    environment: dict[str, Any] | None
    """See `environment_state`, of all processes' rows; None: it had not begun, and its seed is all
    there is."""


def present_state(agent: Any) -> TrainingState:
    """Return the state of an agent between two rounds."""
    if isinstance(agent.env, NoEnvironment):
        logger.warning(
            "the agent was loaded without an environment: a training that continues from what is "
            "saved now begins its prompts anew"
        )
        state = None
    else:
        # The reset of `learn` has drawn the next round's prompts, unless that has options.
        is_begun = agent.round_options() is None and agent.rounds.keeps_reset()
        state = environment_state(agent.env, begun=is_begun)
    return TrainingState(
        counters={name: getattr(agent, name) for name in COUNTERS},
        sampling=agent.policy.generator.get_state(),
        environment=agent.processes.join_states(state),
    )


def save_checkpoint(agent: Any, path: Place) -> None:
    """Write a learner by rounds; in the middle of a round, as it was before it."""
    start = agent._round_start
    if start is None or start.counters["_n_updates"] != agent._n_updates:  # between two rounds
        start = present_state(agent)  # which all processes join
    if agent.processes.is_main:
        write_agent(
            agent.policy,
            path,
            _record(agent, start),
            tokenizer=environment_attribute(agent.env, "tokenizer"),
            tensors=_training_tensors(agent, start),
            own=own_state(agent),
            notes={DECIDED: sorted(agent.decided), REWARD: agent.learned_from},
        )


def load_checkpoint(
    algorithm: type[Any],
    path: Place,
    env: Environments | None,
    device: torch.device | str,
    changes: Mapping[str, Any],
    *,
    custom_objects: Mapping[str, Any] | None = None,
    trust_code: bool = False,
) -> Any:
    """Return the agent that was saved; see `EpisodicAlgorithm.load`."""

    def build(folder: Path, record: dict[str, Any]) -> Any:
        given = {**_stand_ins(record, custom_objects or {}), **changes}
        optimizer = given.pop("optimizer_class", None)
        settings = _settings(algorithm, record, given, folder, trust_code)
        decided = _decided(folder, algorithm, given)
        if env is not None:  # which decides anew: its rule may be another
            settings |= dict.fromkeys(decided)
        check_learnable(env, algorithm.__name__)
        envs: Any = NoEnvironment(**record["environment"]) if env is None else as_vec_env(env)
        processes = Processes() if env is None else join(device)
        (length,) = envs.observation_space["input_ids"].shape
        rows = processes.count * envs.num_envs
        sizes = dict(zip(SIZES, (rows, int(envs.action_space.n), length), strict=True))
        if sizes != record["environment"]:
            raise CheckpointError(
                f"{folder} was trained on {record['environment']}, the environment has {sizes}; "
                f"{_fitting(envs, record['environment'], sizes, path)}"
            )
        policy_kwargs = {**record["policy_kwargs"], **stored_models(folder)}
        if optimizer is not None or "optimizer_class" in policy_kwargs:
            kept = policy_kwargs.get("optimizer_class")
            policy_kwargs["optimizer_class"] = optimizer or _optimizer_class(kept, folder)
        policy_kwargs["products"] = products_here(
            policy_kwargs.get("products", "torch"), folder, device
        )
        if env is None:
            envs.tokenizer = load_tokenizer(folder)
        # The order counts. The constructor draws first weights and seeds everything, the saved
        # weights and generators then take their places, and the environment's state comes last:
        # nothing may draw from it before the next round.
        agent = algorithm(
            record["policy"], envs, policy_kwargs=policy_kwargs, device=device, **settings
        )
        of_critic = [name for name in ("value_network", "advantage") if name in changes]
        saved = record["policy_kwargs"].get("optimizer_class") or "AdamW"
        is_other = optimizer is not None and saved != _optimizer_name(optimizer)
        _restore_training(agent, folder, of_critic, same_optimizer=not is_other)
        agent.decided |= decided
        learned_from = _note(folder, REWARD, str)
        agent.note_reward(None if learned_from is None else printable(learned_from))
        for name in COUNTERS:
            setattr(agent, name, record["counters"][name])
        seed = changes.get("seed")
        if seed is not None:  # what follows is another continuation
            agent.set_random_seed(seed)
        state = record["environment_state"]
        if env is not None and state is not None and seed is None:
            state = processes.own_state(state, envs.num_envs)
            begun = restore_environment(envs, state)
            envs.unwrapped._reset_seeds()  # or the constructor's seed would start the prompts again
            agent._last_obs = {}  # or learn() would begin with a reset that the first run lacked
            if begun is not None:
                agent.rounds.keep_reset(*begun)
        return agent

    return read_agent(path, algorithm, ENTRIES_OF_ROUNDS, build)


def _fitting(envs: Any, saved: Mapping[str, int], sizes: Mapping[str, int], path: Any) -> str:
    """Return how to make an environment of the saved sizes, and what else a model is good for."""
    if saved["num_tokens"] != sizes["num_tokens"]:
        return "make it with the tokenizer that it was trained with"
    parts = []
    if saved["num_envs"] != sizes["num_envs"]:
        parts.append(f"num_envs={saved['num_envs']}")
    if more := saved["length"] - sizes["length"]:
        now = environment_attribute(envs, "max_new_tokens")
        fits = now is not None and now + more > 0
        parts.append(
            f"{f'max_new_tokens={now + more}' if fits else 'other prompts'}, where prompt and "
            f"response together have {saved['length']} tokens"
        )
    remedy = f"make it with {' and '.join(parts)}"
    if not (isinstance(path, str | Path) and Path(path).is_dir()):
        return remedy  # no model is read from one file
    starts = f"policy_kwargs=dict(model={str(path)!r}) of a new agent starts from its weights"
    return f"{remedy}; or {starts}"


def _stand_ins(record: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return schedules for those that could not be saved, of SB3's ``custom_objects``."""
    lacking = record["schedules"]
    if idle := sorted(name for name in given if name in record["settings"]):
        logger.warning(
            "custom_objects leaves %s as saved, since nothing is unpickled; load(path, %s=...) "
            "changes it",
            " and ".join(idle),
            idle[0],
        )
    values = {name: given[name] for name in lacking if name in given}
    return {n: v if callable(v) else (lambda _, v=v: float(v)) for n, v in values.items()}


def saved_as(algorithm: type[Any]) -> str:
    """Return the name that a class's checkpoints have: its own, or that of what it is a name of."""
    name = str(getattr(algorithm, "saved_as", algorithm.__name__))
    return FORMER.get(name, name)


def read_agent(
    path: Place,
    algorithm: type[T],
    entries: Mapping[str, Any],
    build: Callable[[Path, dict[str, Any]], T],
) -> T:
    """Return what ``build`` makes of the folder and record of an agent that a class has saved."""

    def checked(folder: Path, record: dict[str, Any]) -> T:
        if FORMER.get(record["algorithm"], record["algorithm"]) != saved_as(algorithm):
            raise CheckpointError(
                f"{folder} was saved by {record['algorithm']}, not {algorithm.__name__}; load it "
                "with the class that saved it"
            )
        return build(folder, record)

    with unpacked(path, RECORD) as folder:
        return read_folder(folder, RECORD, FORMAT, entries, checked)


# --- writing --------------------------------------------------------------------------------------


def write_agent(
    policy: "CausalLMPolicy",
    place: Place,
    record: Mapping[str, Any],
    *,
    tokenizer: Any,
    tensors: dict[str, Tensor] | None = None,
    own: tuple[dict[str, Any], dict[str, Tensor]] = ({}, {}),
    notes: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write a learner into a folder, atomically; what was there becomes ``<path>.previous``.

    Under the names that `file_for` tells it is one file with the same contents. The record lacks
    format and hashes; ``tensors`` are those besides the models' weights, ``own`` is of `own_state`,
    and ``notes`` are small files of JSON by name, which are written if there is something in them.
    """
    path: Path | None = None
    file: Path | IO[bytes] | None
    if isinstance(place, str | Path):
        path = behind_link(place)
        file = file_for(path, RECORD)
    else:
        file = place

    def fill(folder: Path) -> dict[str, Any]:
        write_policy(policy, folder, path or folder, tokenizer=tokenizer)
        if tensors is not None:
            save_file(tensors | own[1], folder / TRAINING)
        for name, content in {OWN: own[0], **notes}.items():
            if content:
                write_json(folder / name, content)
        return {"format": FORMAT, **record}

    if file is None:
        assert path is not None
        write_folder(path, RECORD, fill)
        return
    if path is not None and path.is_dir() and path != file:
        logger.warning("%s holds other files, so that the agent is in %s", path, file)
    with packing(file) as folder:
        fill_folder(folder, RECORD, fill)


BESIDE_SETTINGS = ("tensorboard_log", "verbose", "seed", "stats_window_size")
"""Arguments of a learner's constructor, beside the settings, that a checkpoint keeps."""


def _setting_names(algorithm: type[Any]) -> list[str]:
    """Return the constructor's arguments that a checkpoint keeps: all but the objects."""
    return [*names_of(algorithm.settings_class), *BESIDE_SETTINGS]


def _record(agent: Any, start: TrainingState) -> dict[str, Any]:
    """Return the record of a learner by rounds."""
    settings = {name: getattr(agent, name) for name in _setting_names(type(agent))}
    if start.environment is not None and not start.environment["states"]:
        logger.warning("the environment has no get_state(): a resumed run will see other prompts")
    if start.environment is not None and start.environment["layers"] is None:
        logger.warning(
            "each process has states of layers of its own, which are not saved: a resumed run "
            "begins them anew"
        )
    schedules = sorted(name for name, value in settings.items() if callable(value))
    sizes = (
        agent.processes.count * agent.n_envs,
        agent.policy.num_actions,
        agent.policy.max_length,
    )
    return {
        "algorithm": saved_as(type(agent)),
        "policy": _policy_name(agent),
        "settings": {k: v for k, v in settings.items() if k not in schedules},
        "schedules": schedules,
        "policy_kwargs": {
            name: _optimizer_name(value) if name == "optimizer_class" else value
            for name, value in agent.policy_kwargs.items()
            if name not in (*MODELS, *_setting_names(type(agent)))
        }
        | {"products": agent.policy.language_model.products},
        "environment": dict(zip(SIZES, sizes, strict=True)),
        "counters": start.counters,
        "environment_state": start.environment,
    }


def _optimizer_class(name: str | None, folder: Path) -> type[torch.optim.Optimizer]:
    """Return torch's optimiser of a name that `_optimizer_name` gave."""
    found = vars(torch.optim).get(name or "")
    if isinstance(found, type) and issubclass(found, torch.optim.Optimizer):
        return found
    raise CheckpointError(
        f"optimizer_class {name} of {folder} is none of torch.optim; pass it again: "
        "load(path, env=envs, optimizer_class=...)"
    )


def _optimizer_name(kind: type) -> str:
    """Return the name of a class of torch.optim, and with its module that of another."""
    is_torch = vars(torch.optim).get(kind.__name__) is kind
    return kind.__name__ if is_torch else f"{kind.__module__}:{kind.__qualname__}"


def _policy_name(agent: Any) -> str:
    """Return the alias of the agent's policy class."""
    for name, policy_class in agent.policy_aliases.items():
        if policy_class is agent.policy_class:
            return name
    raise CheckpointError(
        f"{agent.policy_class.__name__} has no name to be loaded by; add it to "
        f"{type(agent).__name__}.policy_aliases"
    )


@quiet()
def write_policy(
    policy: "CausalLMPolicy",
    folder: Path,
    place: Path,
    *,
    tokenizer: Any = None,
) -> None:
    """Write the policy and its reference in Hugging Face's format, which others load as it stands.

    The folder will be at ``place`` in the end. The tokenizer is stored with the policy's weights,
    or with its adapters, whose configuration names the base that is stored here too, or the folder
    of one that is found by name.
    """
    model, reference = policy.language_model, policy.reference
    whole, ref = PARTS
    if reference is not None:
        reference.model.save_pretrained(folder / ref)
    main = whole if model.adapters is None else ADAPTER
    if isinstance(tokenizer, PreTrainedTokenizerBase):  # own environments may have others
        tokenizer.save_pretrained(str(folder / main))
    frozen = [name for name, weight in policy.named_parameters() if not weight.requires_grad]
    later = [name for name in frozen if name in policy.learned]
    if model.frozen or later:
        write_json(folder / FROZEN, {"given": model.frozen, "later": later})
    if model.adapters is None:
        model.model.save_pretrained(folder / main)
        return
    base = ref if reference is None else whole
    base_place = place.absolute() / base if model.base is None else named_folder(model.base)
    for config in model.adapters.peft_config.values():
        config.base_model_name_or_path = str(base_place)
    # The embeddings are the base's, with the rows that it was given.
    model.adapters.save_pretrained(str(folder / main), save_embedding_layers=False)
    if model.base is not None:
        write_json(folder / BASE, model.base)
        return
    model.base_model().save_pretrained(folder / base)


def _training_tensors(agent: Any, start: TrainingState) -> dict[str, Tensor]:
    """Return the tensors besides the models' weights, on the CPU."""
    critic = agent.policy.critic
    of_critic = {} if critic is None else critic.own_parameters()
    tensors = {f"critic.{name}": value.detach().clone() for name, value in of_critic.items()}
    for number, state in agent.policy.optimizer.state_dict()["state"].items():
        known = {name: value for name, value in state.items() if value is not None}
        tensors |= {f"{OPTIMIZER}{number}.{n}": torch.as_tensor(v) for n, v in known.items()}
    for role, model in agent.policy.auxiliary_models.items():
        weights = model.model.state_dict()
        tensors |= {f"{role}.{name}": value.clone() for name, value in weights.items()}
    tensors["generator.sampling"] = start.sampling
    tensors["generator.shuffling"] = agent.shuffler.get_state()
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


# --- reading --------------------------------------------------------------------------------------


def _check_record(record: dict[str, Any], folder: Path) -> None:
    """Refuse entries of other types, and models from outside the checkpoint."""
    check_entries(record["counters"], COUNTERS, f"counters of {folder}")
    check_entries(record["environment"], dict.fromkeys(SIZES, int), f"environment of {folder}")
    for name, size in record["environment"].items():
        if not 0 < size <= MAX_SIZE:
            raise CheckpointError(f"{name} of {folder} must be within 1 and {MAX_SIZE}, got {size}")
    if (state := record["environment_state"]) is not None:
        kinds = {"states": list, "scorers": list, "layers": list | None, "begun": int}
        check_entries(state, kinds, f"environment_state of {folder}")
    if outside := record["policy_kwargs"].keys() & set(MODELS):
        raise CheckpointError(
            f"policy_kwargs of {folder} must not hold {min(outside)}: models are read from the "
            "checkpoint itself; use one that save() wrote"
        )


def _settings(
    algorithm: type[Any],
    record: dict[str, Any],
    changes: Mapping[str, Any],
    folder: Path,
    trust_code: bool,
) -> dict[str, Any]:
    """Return the constructor's settings of a whole record: as saved, with the changes."""
    _check_record(record, folder)
    names = _setting_names(algorithm)
    stored = record["settings"]
    if unknown := sorted(stored.keys() - set(names)):
        raise CheckpointError(
            f"settings of {folder} hold {unknown[0]!r}, which {algorithm.__name__} has not; use a "
            "checkpoint that this version saved"
        )
    for name in changes:
        if name not in names:
            raise TypeError(
                f"load() got {name!r}; what can be changed is: {', '.join(sorted(names))}"
            )
    if lacking := [name for name in record["schedules"] if name not in changes]:
        was, it = ("was a schedule", "it") if len(lacking) == 1 else ("were schedules", "them")
        given = ", ".join(f"{name}=..." for name in lacking)
        raise CheckpointError(
            f"{' and '.join(lacking)} of {folder} {was}, which cannot be saved; pass {it} again: "
            f"load(path, env=envs, {given})"
        )
    settings = {name: value for name, value in stored.items() if name not in changes}
    check_saved(settings, folder / RECORD, named=dict(changes), trust_code=trust_code)
    return {**settings, **changes}


def _decided(folder: Path, algorithm: type[Any], given: Mapping[str, Any]) -> frozenset[str]:
    """Return the settings of a saved agent that its environment decided, without those given."""
    names = _note(folder, DECIDED, list)
    # Left open is a setting by None, which is its default.
    known = {one.name for one in fields(algorithm.settings_class) if one.default is None}
    if strange := [one for one in names or () if not isinstance(one, str) or one not in known]:
        raise CheckpointError(
            f"{folder / DECIDED} names {strange[0]!r}, which no environment decides; use a "
            "checkpoint that save() wrote"
        )
    return frozenset(names or ()) - given.keys()


def _note(folder: Path, name: str, kind: type[T]) -> T | None:
    """Return what a small file of JSON holds, None if it is not there."""
    if not (folder / name).is_file():
        return None
    with _reading(folder / name):
        content = read_json(folder / name)
    if not isinstance(content, kind):
        raise CheckpointError(
            f"{folder / name} must hold a {kind.__name__}, got {content!r}; use a checkpoint that "
            "save() wrote"
        )
    return content


def stored_models(folder: Path) -> dict[str, Any]:
    """Return the policy's arguments ``model``, ``reference`` and ``lora`` of a written policy.

    What was given frozen is frozen again. Adapters are then built anew: `restore_adapters` gives
    them their weights.
    """
    adapters = [folder / name / ADAPTER_CONFIG for name in PARTS]
    strange = [
        *filter(Path.exists, adapters),
        *(p for kind in PICKLES for p in sorted(folder.rglob(kind))),
    ]
    if strange:
        raise CheckpointError(f"{strange[0]} is no file that save() writes; remove the checkpoint")
    names = [name for name in PARTS if (folder / name).is_dir()]
    models: dict[str, Any] = {
        name: FreshModel(load_causal_lm(folder / name, alone=True)) for name in names
    }
    if "model" in models:
        _freeze(models["model"].model, "given", folder)
    if (folder / BASE).is_file():
        base = read_json(folder / BASE)
        check_entries(base, {"model": str, "sha256": str, "dtype": str}, f"{BASE} of {folder}")
        models |= {"model": str(named_folder(base)), "dtype": base["dtype"]}
    if (folder / ADAPTER).is_dir():
        from peft import LoraConfig, PeftConfig

        with _reading(folder / ADAPTER):
            models["lora"] = PeftConfig.from_pretrained(str(folder / ADAPTER))
        if type(models["lora"]) is not LoraConfig:
            raise CheckpointError(f"{folder / ADAPTER} holds no LoRA adapters; use another one")
        models["lora"].inference_mode = False
        models["lora"].base_model_name_or_path = None  # here now; peft would warn of another
        if "model" not in models:  # the adapters' base is the reference
            models["model"] = models.pop("reference")
    return models


def _freeze(model: nn.Module, kind: Literal["given", "later"], folder: Path) -> None:
    """Freeze the weights of a model, or of a policy, that a written one names, if it names any."""
    if not (folder / FROZEN).is_file():
        return
    with _reading(folder / FROZEN):
        for name in read_json(folder / FROZEN)[kind]:
            model.get_parameter(name).requires_grad_(False)


def restore_adapters(policy: "CausalLMPolicy", folder: Path) -> None:
    """Give a policy built from `stored_models` the weights of its adapters, if it has any.

    What was frozen after the policy was built is frozen again.
    """
    _freeze(policy, "later", folder)
    if policy.language_model.adapters is not None:
        with _reading(folder / ADAPTER):
            load_adapters(policy.language_model.adapters, folder / ADAPTER)


def _restore_training(
    agent: Any, folder: Path, changed: list[str], *, same_optimizer: bool
) -> None:
    """Put value head and network, adapters, optimiser and random generators back.

    Args:
        agent: The agent.
        folder: That of its files.
        changed: Settings that decide on the critic and were given to `load`.
        same_optimizer: Whether the optimiser is of the class whose state was saved.
    """
    policy = agent.policy
    of_critic = {} if policy.critic is None else policy.critic.own_parameters()
    restore_adapters(policy, folder)
    with _reading(folder / TRAINING):
        tensors = load_file(folder / TRAINING)
    wanted = {f"critic.{name}" for name in of_critic}
    if changed and wanted and wanted != {name for name in tensors if name.startswith("critic.")}:
        raise CheckpointError(
            f"{folder} holds no critic, or another one; load it without a change of "
            f"{' and '.join(changed)}"
        )
    with _reading(folder / TRAINING):
        for name, parameter in of_critic.items():
            parameter.data.copy_(tensors[f"critic.{name}"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(OPTIMIZER):
                _, number, key = name.split(".", 2)
                state.setdefault(int(number), {})[key] = tensor
    if not wanted and any(name.startswith("critic.") for name in tensors):
        # The critic was left out by a change; its weights come after those that are here.
        count = len(policy.optimizer.param_groups[0]["params"])
        state = {number: kept for number, kept in state.items() if number < count}
    with _reading(folder / TRAINING):
        groups = policy.optimizer.state_dict()["param_groups"]
        if same_optimizer:
            policy.optimizer.load_state_dict({"state": state, "param_groups": groups})
        else:
            logger.warning("another optimizer_class begins anew: the saved state is not its own")
        for role, model in policy.auxiliary_models.items():
            names = model.model.state_dict()
            model.model.load_state_dict({name: tensors[f"{role}.{name}"] for name in names})
        policy.generator.set_state(tensors["generator.sampling"])
        agent.shuffler.set_state(tensors["generator.shuffling"])
    states: dict[str, Any] = {}
    if (folder / OWN).is_file():
        with _reading(folder / OWN):
            states = read_json(folder / OWN)
    restore_own_state(agent, states, tensors)


def products_here(products: str, folder: Path, device: str | torch.device) -> str:
    """Return the library of products that an agent was saved with; torch's where it is not there.

    A GPU has no oneDNN.
    """
    if products == "torch" or (backend().has_onednn() and select_device(device).type == "cpu"):
        return products
    logger.warning("%s was trained with oneDNN's products, which are not here", folder)
    return "torch"


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever a file's contents raise within the block into one line."""
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise
        reason = (str(error).splitlines() or [""])[0]
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}: {reason})") from error
