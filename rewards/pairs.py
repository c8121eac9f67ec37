"""Preference pairs: which of two responses to a prompt somebody preferred."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from tokengym.envs.errors import DatasetError

TURN = "\n\nAssistant:"
"""Where the last answer of a written-out dialogue begins, as in HH-RLHF."""

_BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One comparison. A model reads ``prompt + chosen`` and ``prompt + rejected`` as written."""

    prompt: str
    """What both answer; may be empty where the texts speak for themselves."""
    chosen: str
    """The response that was preferred."""
    rejected: str
    """The other one."""
    margin: float = 0.0
    """By how much the scores should differ beyond being in order, reward units."""


def load_pairs(source: Any) -> list[Pair]:
    """Return the pairs of a data set.

    Rows have the columns ``chosen`` and ``rejected``, and may have ``prompt`` and ``margin``.
    Without a prompt, what both texts begin with is the prompt, up to and with the last
    "Assistant:" in it.

    Args:
        source: A ``datasets.Dataset``, rows as mappings, pairs, or the path of a jsonl, json, csv,
            tsv or parquet file, gzipped or not.

    Raises:
        DatasetError: if it cannot be read, is empty, or a row lacks a text.
    """
    rows = _read(source) if isinstance(source, (str, Path)) else source
    if not isinstance(rows, Iterable) or isinstance(rows, Mapping):
        raise DatasetError(
            f"pairs must be a data set, rows or a path, got {type(source).__name__}; rows are "
            "mappings with 'chosen' and 'rejected'"
        )
    pairs = [row if isinstance(row, Pair) else _pair(row, n) for n, row in enumerate(rows)]
    if not pairs:
        raise DatasetError("pairs holds no row; give at least one comparison")
    return pairs


def split_pairs(pairs: Sequence[Pair], share: float) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs to train on, and those held out: every k-th; no prompt is on both sides.

    Args:
        pairs: All of them.
        share: Of pairs to hold out, in (0, 1).

    Raises:
        DatasetError: if nothing is left to train on, or to hold out.
    """
    if not 0.0 < share < 1.0:
        raise DatasetError(f"held_out must be a share in (0, 1), or pairs, got {share}")
    every = max(round(1 / share), 2)
    held_out = list(pairs[every - 1 :: every])
    prompts = {pair.prompt for pair in held_out if pair.prompt}
    chosen = set(map(id, held_out))
    rest = [pair for pair in pairs if id(pair) not in chosen and pair.prompt not in prompts]
    if not rest or not held_out:
        raise DatasetError(
            f"{len(pairs)} pairs with held_out={share} leave {len(rest)} to train on and "
            f"{len(held_out)} held out; give more pairs, or pass held_out=other pairs"
        )
    return rest, held_out


def split_texts(chosen: str, rejected: str) -> tuple[str, str, str]:
    r"""Return the prompt that two texts share, and what each says after it.

    Args:
        chosen: A whole dialogue.
        rejected: Another one.

    Example:
        >>> split_texts("Human: Hi\n\nAssistant: Hello", "Human: Hi\n\nAssistant: Go")
        ('Human: Hi\n\nAssistant:', ' Hello', ' Go')
    """
    same = (one == two for one, two in zip(chosen, rejected, strict=False))
    shared = sum(1 for _ in takewhile(bool, same))
    place = chosen.rfind(TURN, 0, shared)
    start = place + len(TURN) if place >= 0 else 0
    return chosen[:start], chosen[start:], rejected[start:]


def _read(source: str | Path) -> Iterable[Mapping[str, Any]]:
    import datasets

    path = Path(source)
    if not path.is_file():
        raise DatasetError(f"pairs file {str(source)!r} does not exist; check the path")
    suffix = next((s for s in reversed(path.suffixes) if s != ".gz"), "")
    if suffix not in _BUILDERS:
        raise DatasetError(
            f"pairs file {str(source)!r} must be one of {', '.join(_BUILDERS)}, gzipped or not"
        )
    options = {"delimiter": "\t"} if suffix == ".tsv" else {}
    try:
        return datasets.load_dataset(
            _BUILDERS[suffix], data_files=str(path), split="train", **options
        )
    except Exception as error:  # datasets raises a dozen kinds; all mean that it is unreadable
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DatasetError(
            f"pairs file {str(source)!r} cannot be read ({reason}); check its form"
        ) from error


def _pair(row: Any, number: int) -> Pair:
    if not isinstance(row, Mapping):
        raise DatasetError(
            f"row {number} of the pairs is {type(row).__name__}; it must be a mapping with "
            "'chosen' and 'rejected'"
        )
    for column in ("chosen", "rejected"):
        if not isinstance(row.get(column), str) or not row[column]:
            raise DatasetError(
                f"row {number} of the pairs has {column} = {row.get(column)!r}; it must be a text "
                f"(columns: {', '.join(map(str, row))})"
            )
    prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
    if prompt is None:
        prompt, chosen, rejected = split_texts(chosen, rejected)
    margin = row.get("margin")
    return Pair(
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        margin=0.0 if margin is None else float(margin),
    )
