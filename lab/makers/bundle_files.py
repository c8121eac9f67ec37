"""Writing a bundle: a folder of tokenizer, prompts, models and figures."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tokengym.base import replacing
from tokengym.lab.makers.options import BuildError

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class PromptRow:
    """One line of ``prompts.jsonl``."""

    prompt: str
    """The prompt."""
    reference: str | None = None
    """A reference answer."""
    query_type: str | None = None
    """OPENENDED, CONSTRAINED or None."""
    split: str
    """"train" or "test"; no prompt is in both."""


@dataclass(frozen=True, kw_only=True)
class BuiltBundle:
    """Everything that a bundle's folder holds."""

    task: str
    """Task that it is for, such as "movie_review"."""
    tokenizer: PreTrainedTokenizerFast
    """The tokenizer of all its models."""
    prompts: Sequence[PromptRow]
    """Prompts of both splits."""
    models: Mapping[str, PreTrainedModel]
    """Folder name -> model: policy, reward_model, gold_model, encoder."""
    figures: Mapping[str, Any]
    """Measurements of the builder, and from which seed."""


def check_target(path: Path) -> None:
    """Raise if writing a bundle to ``path`` would replace something that is not a bundle."""
    occupied = path.exists() and (not path.is_dir() or any(path.iterdir()))
    if occupied and not (path / "bundle.json").is_file():
        raise BuildError(f"{path} exists and is not a bundle; give --out a new or empty folder")


def write_bundle(bundle: BuiltBundle, path: Path) -> None:
    """Write a bundle; a bundle already there is replaced once the new one is complete.

    Weights are stored as float16, which moves scores by about 0.002, and the configs say float32,
    so that the models compute in it when loaded.
    """
    check_target(path)
    with replacing(path) as partial:
        partial.mkdir()
        bundle.tokenizer.save_pretrained(partial / "tokenizer")
        for name, model in bundle.models.items():
            _save_model(model, partial / name)
        lines = [json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in bundle.prompts]
        (partial / "prompts.jsonl").write_text("".join(lines), encoding="utf-8")
        facts = {"task": bundle.task, "format": FORMAT, **bundle.figures}
        text = json.dumps(facts, indent=1) + "\n"
        (partial / "bundle.json").write_text(text, encoding="utf-8")


def _save_model(model: PreTrainedModel, path: Path) -> None:
    deepcopy(model).half().save_pretrained(path)
    config = json.loads((path / "config.json").read_text())
    config["dtype"] = "float32"
    (path / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
