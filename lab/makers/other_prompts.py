"""A bundle with other prompts, for studies of what is held out."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokengym.base import read_jsonl, write_text

PROMPTS = "prompts.jsonl"


def read_prompts(bundle: Path) -> list[dict[str, Any]]:
    """Return the rows of a bundle's prompts: prompt, reference, query type and split."""
    return read_jsonl(bundle / PROMPTS)


def with_prompts(bundle: Path, rows: Iterable[Mapping[str, Any]], out: Path) -> Path:
    """Write a folder that is a bundle with other prompts, unless it is there, and return it.

    Args:
        bundle: Folder of the bundle; its other parts are linked.
        rows: The prompts, as in `read_prompts`.
        out: Folder to write.
    """
    if not (out / PROMPTS).exists():
        out.mkdir(parents=True, exist_ok=True)
        for part in bundle.iterdir():
            if part.name != PROMPTS and not (out / part.name).exists():
                (out / part.name).symlink_to(part.resolve())
        write_text(out / PROMPTS, "".join(f"{json.dumps(row)}\n" for row in rows))
    return out
