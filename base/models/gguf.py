"""GGUF files as folders: dequantised once into the user's cache, whole or not at all."""

from __future__ import annotations

import copy
import logging
import os
import time
from pathlib import Path
from typing import Any

from tokengym.base.errors import CheckpointError, FolderInUseError, PretrainedError
from tokengym.base.files import file_hash, read_json, read_once
from tokengym.base.folders import locked, read_folder, write_folder

logger = logging.getLogger(__name__)

RECORD = "dequantised.json"
FORMAT = 1
_KINDS = {"source": str, "sha256": str}
POLL = 0.5
"""Seconds between looks at a folder that another process is writing."""


def cache_folder() -> Path:
    """Return the folder of what is made once per user: ``TOKENGYM_CACHE``, or the user's cache."""
    ours = os.environ.get("TOKENGYM_CACHE")
    of_user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(ours) if ours else Path(of_user) / "tokengym"


@read_once(maxsize=None, also=cache_folder)
def dequantised(file: Path, *, sha256: str | None = None) -> Path:
    """Return the folder of a GGUF file's model in bfloat16, made when it is first asked for.

    Processes that ask at once wait for the one that makes it; what a killed one left is made anew.

    Args:
        file: The GGUF file.
        sha256: Hash that it must have; None takes any file.

    Raises:
        PretrainedError: if it has another hash, or is no model that transformers reads.
    """
    digest = file_hash(file)
    if sha256 not in (None, digest):
        raise PretrainedError(
            f"{file} has SHA-256 {digest[:12]}..., not {str(sha256)[:12]}...: it is another "
            "version of the model; install the version that tokengym names"
        )
    folder = cache_folder() / "models" / f"{file.stem}-{digest[:12]}"
    while (made := _unchanged(folder)) is None:
        try:
            with locked(folder.with_name(f"{folder.name}.making")):
                if _unchanged(folder) is None:
                    logger.warning("reading %s into %s, once: about 25 s", file.name, folder)
                    write_folder(folder, RECORD, lambda part: _write(file, digest, part))
        except FolderInUseError:
            time.sleep(POLL)
    return made


def weights_hash(folder: str | Path) -> str:
    """Return the hash of the weights in a folder that `dequantised` wrote."""
    return str(read_json(Path(folder) / RECORD)["files"]["model.safetensors"])


def is_cached(path: str | Path) -> bool:
    """Return whether a folder holds a model that `dequantised` wrote, which nobody changes."""
    return (Path(path) / RECORD).is_file()


def _unchanged(folder: Path) -> Path | None:
    """Return a folder that has all its files as they were written; None if it must be made."""
    if not folder.exists():
        return None
    try:
        return read_folder(folder, RECORD, FORMAT, _KINDS, lambda path, _: path)
    except CheckpointError as error:
        logger.warning("%s; it is made anew", str(error).partition(";")[0])
        return None


def _write(file: Path, sha256: str, folder: Path) -> dict[str, Any]:
    """Write model and tokenizer, and return what is recorded of them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.utils import logging as bars

    shown, verbosity = bars.is_progress_bar_enabled(), bars.get_verbosity()
    bars.disable_progress_bar()
    bars.set_verbosity_error()
    where: dict[str, Any] = {"gguf_file": file.name, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), **where)
        read = AutoModelForCausalLM.from_pretrained(str(file.parent), dtype=torch.bfloat16, **where)
        config = copy.deepcopy(read.config)
        config.__dict__.pop("quantization_config", None)  # save_pretrained would refuse
        with torch.device("meta"):
            model = type(read)(config)
        model.load_state_dict(read.state_dict(), assign=True)
        model.tie_weights()
        ends = {f"{n}_token_id": getattr(tokenizer, f"{n}_token_id") for n in ("bos", "eos", "pad")}
        model.generation_config = GenerationConfig(**ends)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except MemoryError:
        raise
    except Exception as error:  # transformers and gguf raise a dozen kinds
        if isinstance(error, OSError) and error.errno:
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        remedy = "pass a GGUF of a family that transformers reads, such as llama or qwen2"
        if isinstance(error, ImportError):
            remedy = "pip install gguf"
        raise PretrainedError(f"cannot read {file} ({reason}); {remedy}") from error
    finally:
        bars.set_verbosity(verbosity)
        if shown:
            bars.enable_progress_bar()
    return {"format": FORMAT, "source": file.name, "sha256": sha256}
