"""The processes that a launcher has started, ``torchrun`` or ``accelerate launch``, as one object.

Several are `tokengym.agents.scale`'s, which is loaded where there are any.
"""

from __future__ import annotations

import torch
from torch import distributed

from tokengym.agents.processes import Processes, launched
from tokengym.base.registry import imported

GROUP = "tokengym.agents.scale.group:join"


def join(device: torch.device | str) -> Processes:
    """Return this process among those launched together, which wait here for each other once.

    Args:
        device: Device that trains.

    Raises:
        SettingsError: if the launcher was told to share the weights out in a way that is not
            supported, or there are fewer GPUs than processes.
    """
    if launched() == 1 and not distributed.is_initialized():
        return Processes()
    joined: Processes = imported(GROUP)(device)
    return joined
