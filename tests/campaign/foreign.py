"""Folders of somebody else's: nothing of them runs, and what is refused is refused in one line."""

import functools
import json
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tests.campaign.garbled import call, kept_folder
from tests.campaign.outcome import LostError, Outcome, try_cases
from tests.support.agents.checkpoint import rehash, rewrite
from tests.support.stored import keep_settings, settings_of
from tokengym import agents
from tokengym.base.bundle import bundled
from tokengym.lab.publish import from_hub

WORD = "evil.py:Evil"
"""Code beside the folder, as a word of it may name it."""
JUNK: tuple[Any, ...] = (
    -1,
    True,
    10**12,
    10**30,
    float("nan"),
    "x",
    [],
    {},
    None,
    [[[]]],
    WORD,
    0.5,
)
CONFIG: dict[str, Any] = {
    "n_layer": (-1, 0, 1, 3, 10**9, "x"),
    "n_embd": (-1, 3, [], None),
    "n_head": (0, -2, 10**6, {}),
    "vocab_size": (0, -1, "x"),
    "model_type": ("evil", 3, None, "bert"),
    "auto_map": ({"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}, 3),
    "attn_implementation": ("evil/kernel", {"": "evil/kernel"}, 3),
    "_attn_implementation": ("evil/kernel@main:run", "flash_attention_2"),
    "_experts_implementation": ("evil/kernel",),
    "transformers_weights": ("adapter_model.bin", "../../evil.bin", "evil.pt"),
    "quantization_config": ({"quant_method": "evil"}, [], {"quant_method": "mxfp4"}),
    "dtype": ("float99", 3),
    "architectures": (3, ["Evil"]),
}
COMMANDS = (
    "evaluate {run}/agent --num-episodes 2",
    "evaluate {other} --against {run}/agent --num-episodes 2",
    "push {run} --folder {out}",
    "replay --agent {run}/agent --num-episodes 2 --rewards sparse --out {out}",
    "replay --episodes {run} --num-episodes 2 --rewards sparse --out {out}",
    "collect --agent {run}/agent --num-prompts 2 --n 2 --out {out}.jsonl",
    "report {run} --out {out}",
    "from_hub",
    "evaluate --bundle {bundle} --num-episodes 2",
    "train --bundle {bundle} --updates 1 --batch-size 4 --eval-episodes 2 --out {out}",
    "compare --bundle {bundle} --seeds 1 --updates 1 --jobs 1 --eval-episodes 2 --out {out}",
    "collect --bundle {bundle} --num-prompts 2 --n 2 --out {out}.jsonl",
)
NUMBERS = (
    *(("training", "max_new_tokens"), ("training", "threads"), ("training", "batch_size")),
    *(("training", "steps"), ("task", "max_prompt_tokens"), ("evaluation", "episodes")),
)
"""Settings of a run that are numbers, each with the part of the settings that it is in."""
LEARNERS = {"ppo": ["--updates", "2"], "dpo": ["--num-prompts", "4", "--n", "2", "--epochs", "1"]}
"""Learners whose agents are changed, one of each format."""


@functools.cache
def trained(agent: str) -> Path:
    """Return the folder of a run that nobody has changed."""
    run = kept_folder() / "run"
    few = LEARNERS[agent] + ["--max-new-tokens", "6", "--eval-episodes", "2", "--batch-size", "4"]
    status, printed = call(["train", "--agent", agent, *few, "--out", str(run)])
    if status:
        raise RuntimeError(f"the run that is copied fails: {printed}")
    return run


def record_of(run: Path) -> Any:
    """Return the record of a run's agent."""
    (file,) = (run / "agent").glob("*.json")
    return json.loads(file.read_text())


def one_of(random: np.random.Generator, values: Any) -> Any:
    """Return one of several values."""
    return list(values)[random.integers(len(values))]


def a_word(run: Path, random: np.random.Generator) -> str:
    """Have a setting of the run or of the checkpoint name code."""
    kind = str(
        random.choice(["env", "module", "rewards", "agents", "agent", "scorer", "advantage"])
    )
    if kind == "advantage":
        rewrite(run / "agent", {"settings": record_of(run)["settings"] | {kind: WORD}})
        return kind
    settings = settings_of(run)
    if kind in ("rewards", "agents"):
        settings[kind] = [WORD]
    elif kind in ("env", "module"):
        settings["env"] = WORD if kind == "env" else "evil:evil/Evil-v0"
    else:
        settings["task" if kind == "scorer" else "training"][kind] = WORD
    keep_settings(run, settings)
    return kind


def a_link(run: Path, random: np.random.Generator) -> str:
    """Replace a file of the checkpoint by a link to it."""
    path = one_of(random, sorted(file for file in (run / "agent").rglob("*") if file.is_file()))
    path.rename(run.parent / "elsewhere")
    path.symlink_to(run.parent / "elsewhere")
    return f"link {path.name}"


def a_configuration(run: Path, random: np.random.Generator) -> str:
    """Change the configuration of a model."""
    file = run / "agent" / one_of(random, ("model", "reference")) / "config.json"
    key = str(one_of(random, CONFIG))
    value = one_of(random, CONFIG[key])
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    rehash(run / "agent")
    return f"{file.parent.name} {key}={value!r}"


def weights(run: Path, random: np.random.Generator) -> str:
    """Take a tensor away, give one another name or shape, or add one."""
    file = one_of(random, sorted((run / "agent").rglob("*.safetensors")))
    tensors = load_file(file)
    name, how = str(one_of(random, tensors)), one_of(random, ("less", "name", "shape", "more"))
    if how == "more":
        tensors["evil"] = torch.ones(1)
    elif how == "shape":
        tensors[name] = torch.ones(3)
    else:
        moved = tensors.pop(name)
        tensors |= {"evil": moved} if how == "name" else {}
    save_file(tensors, file, {"format": "pt"})
    rehash(run / "agent")
    return f"{how} {name} of {file.name}"


class Payload:
    """Runs the code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return exec, (self.path.read_text(),)


def a_pickle(run: Path, random: np.random.Generator) -> str:
    """Put pickled weights in place of a model's, or beside them."""
    folder = run / "agent" / one_of(random, ("model", "reference", "."))
    name = one_of(random, ("pytorch_model.bin", "adapter_model.bin", "optimizer.pt", "a.pkl"))
    (folder / name).write_bytes(pickle.dumps(Payload(run.parent / "evil.py")))
    if random.integers(2):
        (folder / "model.safetensors").unlink(missing_ok=True)
    if random.integers(2):
        (folder / "adapter_config.json").write_text(
            json.dumps({"peft_type": "LORA", "base_model_name_or_path": "evil/base"})
        )
    rehash(run / "agent")
    return f"{folder.name}/{name}"


def nesting(run: Path, random: np.random.Generator) -> str:
    """Nest a file of JSON too deeply."""
    file = one_of(random, sorted(run.rglob("*.json")))
    file.write_text(one_of(random, ("[" * 100_000, '{"a":' * 300 + "1" + "}" * 300)))
    if "agent" in file.parts and file.parent != run / "agent":
        rehash(run / "agent")
    return f"nested {file.name}"


def a_record(run: Path, random: np.random.Generator) -> str:
    """Put something else into the checkpoint's record."""
    record = record_of(run)
    parts = ("counters", "environment", "settings", "policy_kwargs", "environment_state")
    part = str(one_of(random, [part for part in parts if part in record]))
    key, value = str(one_of(random, [*record[part], "evil"])), one_of(random, JUNK)
    rewrite(run / "agent", {part: {**record[part], key: value}})
    return f"{part} {key}={value!r}"


def a_setting(run: Path, random: np.random.Generator) -> str:
    """Put something else into the settings of the run."""
    (file,) = run.glob("*/seed-0/run.json")
    record = json.loads(file.read_text())
    settings = settings_of(run)
    part = one_of(random, (settings, settings["training"], settings["task"], record))
    key, value = str(one_of(random, part)), one_of(random, JUNK)
    part[key] = value
    file.write_text(json.dumps(record))
    keep_settings(run, settings)
    return f"{key}={value!r} in spec.json or run.json"


def a_name(run: Path, random: np.random.Generator) -> str:
    """Have the checkpoint name something else of `tokengym.agents` as its class."""
    name = str(one_of(random, (*agents.__all__, "__getattr__", "import_module", "x", WORD)))
    rewrite(run / "agent", {"algorithm": name})
    return f"algorithm {name}"


def a_number(run: Path, random: np.random.Generator) -> str:
    """Store a number that no machine has the memory or the time for."""
    settings, (part, name) = settings_of(run), one_of(random, NUMBERS)
    value = one_of(random, (10**9, 10**12, 2**63, 10**30))
    settings[part][name] = value
    keep_settings(run, settings)
    return f"{name}={value}"


def a_bundle(run: Path, random: np.random.Generator) -> str:
    """Have a setting of the bundle beside the run name code, or be of another kind."""
    file = run.parent / "bundle" / "bundle.json"
    manifest = json.loads(file.read_text())
    kind = str(one_of(random, ("env", "options", "training", "evaluation", "comparison", "models")))
    if kind == "env":
        value = one_of(random, (WORD, "evil:tokengym/Oracle-v0", "evil:evil/Evil-v0", *JUNK))
    else:
        names = ("advantage", "agent", "rewards", "toxicity", "policy", "x")
        words = (WORD, [WORD], "evil:Evil", *JUNK)
        value = one_of(random, ({str(one_of(random, names)): one_of(random, words)}, *JUNK))
    file.write_text(json.dumps({**manifest, kind: value}))
    return f"bundle {kind}={value!r}"


Attack = Callable[[Path, np.random.Generator], str]
"""Changes a run's folder and says how."""
ATTACKS: tuple[Attack, ...] = (
    *(a_word, a_link, a_configuration, weights, a_pickle, nesting, a_record, a_setting),
    *(a_name, a_number),
)


def read(command: str, base: Path) -> tuple[int, str]:
    """Read a folder; return the exit code and what was printed."""
    paths = {"run": base / "run", "other": trained("ppo") / "agent", "out": base / "out"}
    paths["bundle"] = base / "bundle"
    try:
        if command == "from_hub":
            from_hub(base / "run")
        else:
            return call([part.format(**paths) for part in command.split()])
    except (ValueError, TypeError, OSError) as error:
        return 2, f"error: {error}"
    return 0, ""


def one_folder(random: np.random.Generator) -> None:
    """Change a folder as somebody would who wants their code run, and read it."""
    run = trained(str(one_of(random, LEARNERS)))
    trained("ppo")  # before the folder is another
    with tempfile.TemporaryDirectory() as scratch, working_in(scratch):
        base, ran = Path(scratch), Path(scratch, "ran")
        (base / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nEvil = None\n")
        shutil.copytree(run, base / "run")
        attack, command = one_of(random, ATTACKS), str(one_of(random, COMMANDS))
        if "{bundle}" in command:
            shutil.copytree(bundled("movie_review").path, base / "bundle")
            attack = a_bundle
        named = command.format(run="run", other="other", out="out", bundle="bundle")
        told = f"{named}, {attack(base / 'run', random)}"
        status, printed = read(command, base)
        if ran.exists():
            raise LostError(f"{told}: its code ran")
        lines = [line for line in printed.splitlines() if line.startswith("error: ")]
        if status not in (0, 2) or "Traceback" in printed or len(lines) != (status == 2):
            raise LostError(f"{told}: exit code {status}: {printed.strip()[-400:]!r}")


@contextmanager
def working_in(folder: str) -> Iterator[None]:
    """Let relative paths and modules be those of a folder while the block runs."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        with mock.patch.object(sys, "path", [folder, *sys.path]):
            yield
    finally:
        os.chdir(before)
        sys.modules.pop("evil", None)


def foreign(count: int, seed: int) -> Outcome:
    """Try ``count`` folders of somebody else's."""
    return try_cases("foreign", one_folder, count, seed)
