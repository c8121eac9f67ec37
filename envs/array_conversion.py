"""Texts in ``info`` under Gymnasium's array conversions (`NumpyToTorch` and its relatives).

Gymnasium 1.4 takes a ``str`` for an iterable of arrays, which turns a prompt into the name of a
generator, and refuses arrays of objects, which is how its own batches keep texts in ``infos``. Its
conversion is a ``functools.singledispatch`` function; what is registered here lets texts pass.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray


def keep_texts() -> None:
    """Teach Gymnasium's conversion to leave texts as they are; nothing where it is not installed.

    A read-only array is copied first: a tensor would share its memory and could write to it.
    """
    try:
        from gymnasium.wrappers.array_conversion import array_conversion
    except (ImportError, gymnasium.error.DependencyNotInstalled):  # array-api-compat is optional
        return
    convert = array_conversion.dispatch(np.ndarray)

    def convert_array(value: NDArray[Any], xp: ModuleType, device: Any = None) -> Any:
        if value.dtype == object:
            return value
        return convert(value if value.flags.writeable else value.copy(), xp, device)

    def convert_text(value: str, xp: ModuleType, device: Any = None) -> str:
        return value

    array_conversion.register(np.ndarray, convert_array)
    array_conversion.register(str, convert_text)
