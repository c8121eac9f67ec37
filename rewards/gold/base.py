"""Base of what gold scores are computed from: dataclasses that are stored as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray


class Stored:
    """A frozen dataclass of words and numbers, stored in a file of its own."""

    kind: ClassVar[str] = ""
    """Name of the rules in the file; one that is alone in its file needs none."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            object.__setattr__(self, name, _with_tuples(value))

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        kind = {"kind": self.kind} if self.kind else {}
        values: Any = self
        text = json.dumps({**kind, **asdict(values)}, indent=1, ensure_ascii=False)
        Path(path).write_text(text + "\n", encoding="utf-8")


def _with_tuples(value: Any) -> Any:
    """Return what JSON holds with tuples for lists, so that what was stored equals what is read."""
    if isinstance(value, dict):
        return {key: _with_tuples(inner) for key, inner in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list | tuple) else value


class Rules(Stored):
    """Rules over the words of prompt and response: what a bundle's ``gold.json`` stores."""

    def parts(self, prompt: Sequence[str], response: Sequence[str], /) -> dict[str, float]:
        """Return the parts of a response's gold score; they sum to it.

        Args:
            prompt: Lower-cased words and punctuation marks, as `split_words` gives them.
            response: Likewise.
        """
        raise NotImplementedError(f"{type(self).__name__} must define parts()")

    def contributions(self, response: Sequence[str], /) -> NDArray[np.float64] | None:
        """Return what each word adds to the gold score, (len(response),) signed.

        None where the score does not rest on single words.
        """
        return None
