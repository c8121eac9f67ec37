"""How the files of Sentence Transformers beside an encoder say that texts become vectors."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokengym.base.files import read_json
from tokengym.base.stored.parts import parts_of
from tokengym.rewards.errors import ScorerError

logger = logging.getLogger(__name__)

MODULES, POOLING = "modules.json", "1_Pooling/config.json"
LENGTH, PROMPTS = "sentence_bert_config.json", "config_sentence_transformers.json"
_KNOWN = {"Transformer", "Pooling", "Normalize", "Dropout"}
"""Modules behind which a text's vector is the mean of its last hidden states, but for length."""


def read_declared(path: str | Path, file: str) -> Any:
    """Return what a JSON file beside a stored model holds; {} if there is none.

    Args:
        path: Folder or hub name of the model.
        file: Its name within.

    Raises:
        ScorerError: if it is no JSON.
    """
    from transformers.utils import cached_file

    parts = parts_of(path)
    faults = ("missing_entries", "gated_repo", "connection_errors")
    quietly: Any = dict.fromkeys((f"_raise_exceptions_for_{fault}" for fault in faults), False)
    place = cached_file(str(parts.weights), file, **parts.options, **quietly)
    try:
        return {} if place is None else read_json(Path(place))
    except ValueError as error:
        raise ScorerError(f"{place} is damaged ({error}); store the encoder again") from error


def declared_length(path: str | Path) -> int | None:
    """Return the most tokens that an encoder's files have it read; None if they say nothing.

    R3's tokens have exact parts because a text's vector is a mean. So an encoder that was trained
    for another vector is refused: that its mean measures relevance was never tried. What R3 leaves
    out of the declared vector, its scaling to unit length and prompts, is said in one line.

    Raises:
        ScorerError: if the files declare another pooling than the mean, or layers behind it.
    """
    modules = read_declared(path, MODULES) or []
    kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    other = [kind for kind in kinds if kind not in _KNOWN]
    pooling = _pooling(read_declared(path, POOLING))
    if other or pooling not in ((), ("mean",)):
        named = f"{MODULES}: {other[0]}" if other else f"{POOLING}: {' and '.join(pooling)}"
        raise ScorerError(
            f"the encoder in {path} was trained for other vectors ({named}) than the mean of its "
            "last hidden states, which R3 takes; pass one with mean pooling, such as Contriever, "
            "E5, GTE or MiniLM, or Relevance(encoder, tokenizer) for its mean all the same"
        )
    length, options = read_declared(path, LENGTH), read_declared(path, PROMPTS)
    left_out = [f"the prompt {text!r}" for text in (options.get("prompts") or {}).values() if text]
    if "Normalize" in kinds or options.get("similarity_fn_name") == "cosine":
        left_out.insert(0, "unit length")
    if length.get("do_lower_case"):
        left_out.append("lower case")
    if left_out:
        logger.warning(
            "the files of the encoder in %s declare %s, which R3 leaves out: it takes raw dot "
            "products of mean hidden states of the bare texts",
            path,
            ", ".join(left_out),
        )
    return length.get("max_seq_length")


def _pooling(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the ways in which a file has hidden states pooled."""
    mode = config.get("pooling_mode", ())  # its newer form: a name, or several
    named = (mode,) if isinstance(mode, str) else tuple(mode)
    flags = (name for name, is_set in config.items() if is_set is True)
    return named + tuple(
        name.removeprefix("pooling_mode_").removesuffix("s").removesuffix("_token")
        for name in flags
        if name.startswith("pooling_mode_")
    )
