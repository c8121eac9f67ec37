"""Log-probabilities under the reference, computed once for a data set and kept in a file."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from tokengym.agents.errors import CheckpointError
from tokengym.agents.offline.scoring import ResponseScorer
from tokengym.agents.policy.policy import CausalLMPolicy
from tokengym.envs.files import replacing

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset

COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")
"""Columns that the log-probabilities become, under TRL's names: sums over a response, nats."""

INPUTS = ("input_ids", "prompt_lengths", "response_lengths")


def with_reference(
    dataset: "Dataset",
    log_probs: NDArray[np.float32],
) -> "Dataset":
    """Return a data set of pairs with the columns `COLUMNS`.

    Args:
        dataset: Pairs as ids.
        log_probs: (pairs, 2), nats.
    """
    for place, name in enumerate(COLUMNS):
        dataset = dataset.add_column(name, log_probs[:, place].tolist())
    return dataset


def reference_log_probs(
    scorer: ResponseScorer,
    dataset: "Dataset",
    collate: Any,
    *,
    batch_size: int,
    accelerator: "Accelerator",
    path: Path | None = None,
) -> NDArray[np.float32]:
    """Return the log-probabilities of chosen and rejected responses under the reference.

    Each process scores a share of the pairs, similar lengths together.

    Args:
        scorer: Whose policy has the reference.
        dataset: Pairs as ids.
        collate: Makes a batch of rows.
        batch_size: Pairs per forward.
        accelerator: Knows the processes.
        path: A file to keep them in; where it holds those of these pairs under this reference,
            nothing is computed.

    Returns:
        (pairs, 2), nats.

    Raises:
        CheckpointError: if the file is damaged or of other pairs or another reference.
    """
    key = ""
    if path is not None:
        key = _fingerprint(scorer.policy, dataset)
        if path.exists():
            return _read(path, key, len(dataset))
    order = np.argsort(dataset["length"], kind="stable")
    mine = order[accelerator.process_index :: accelerator.num_processes]
    sums = torch.zeros(len(dataset), 2, dtype=torch.float32, device=accelerator.device)
    for start in range(0, len(mine), batch_size):
        rows = mine[start : start + batch_size]
        batch = collate([dataset[int(row)] for row in rows])
        inputs = {name: batch[name].to(accelerator.device) for name in INPUTS}
        found = scorer.reference_log_probs(*(inputs[name] for name in INPUTS))  # (2 * rows,)
        sums[torch.from_numpy(rows).to(sums.device)] = found.view(2, -1).T  # chosen come first
    total: Any = accelerator.reduce(sums, "sum")  # each row is one process's, 0 at the others
    log_probs = total.cpu().numpy()
    if path is not None and accelerator.is_main_process:
        _write(path, key, log_probs)
    accelerator.wait_for_everyone()
    return log_probs


def _fingerprint(policy: CausalLMPolicy, dataset: "Dataset") -> str:
    """Return what says whose log-probabilities these are: ids and the reference's weights."""
    digest = hashlib.sha256()
    for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
        for ids in dataset[name]:
            digest.update(np.array([len(ids), *ids], dtype=np.int64).tobytes())
    digest.update(_weights_digest(policy))
    return digest.hexdigest()


def _weights_digest(policy: CausalLMPolicy) -> bytes:
    digest = hashlib.sha256()
    reference = policy.reference
    weights = (
        policy.language_model.base_weights() if reference is None else reference.model.state_dict()
    )
    for name in sorted(weights):
        digest.update(name.encode())
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.dim() else b"")
    return digest.digest()


def _read(path: Path, key: str, pairs: int) -> NDArray[np.float32]:
    try:
        with safe_open(str(path), framework="np") as file:
            found = (file.metadata() or {}).get("fingerprint")
            log_probs = file.get_tensor("log_probs")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); delete it to compute anew") from error
    if found != key or log_probs.shape != (pairs, 2):
        raise CheckpointError(
            f"{path} holds {len(log_probs)} reference log-probabilities of other pairs or another "
            f"reference than these {pairs}; delete it, or pass another ref_log_probs_path"
        )
    return log_probs


def _write(path: Path, key: str, log_probs: NDArray[np.float32]) -> None:
    with replacing(path) as part:
        save_file({"log_probs": log_probs}, part, metadata={"fingerprint": key})


def batch_reference(rows: Sequence[Mapping[str, Any]]) -> Tensor | None:
    """Return the reference's log-probabilities of a batch, (2, pairs), if the rows have them."""
    if COLUMNS[0] not in rows[0]:
        return None
    return torch.tensor([[row[name] for row in rows] for name in COLUMNS], dtype=torch.float32)
