"""How often an update has its host wait for what a GPU has queued."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero")
"""Operations whose result the host needs before it goes on."""
TORCH = str(Path(torch.__file__).parent)


class Waits(TorchDispatchMode):
    """Counts what the suite's own code reads of tensors, by line."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: Counter[str] = Counter()

    def note(self, frame: Any) -> None:
        while frame and (
            frame.f_code.co_filename.startswith(TORCH) or frame.f_code.co_filename == __file__
        ):
            frame = frame.f_back
        if "transformers" not in frame.f_code.co_filename:
            self.lines[f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"] += 1

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function.name() in READS:
            self.note(sys._getframe(1))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "settings",
    [
        {"value_network": "own"},
        {"value_network": "trunk", "ent_coef": 0.01},
        {"advantage": "loo", "group_size": 2},
        {"kl_estimator": "exact"},
        {"kl_in": "loss", "kl_estimator": "k3"},
    ],
    ids=str,
)
def test_the_host_waits_three_times_a_step_whatever_its_parts(
    make_ppo, make_envs, monkeypatch, settings
):
    """For the number of tokens, all parts' figures and the norm; and for the norms at the end."""
    tolist, found = torch.Tensor.tolist, []
    for size in (1, 4, 8):
        agent = make_ppo(
            envs=make_envs(num_envs=8),
            micro_batch_size=size,
            n_epochs=2,
            n_minibatches=1,
            **settings,
        )
        experience = agent.assign(agent.collect())
        with Waits() as waits, monkeypatch.context() as patch:

            def counted(tensor: Any) -> Any:
                waits.note(sys._getframe(1))
                return tolist(tensor)

            patch.setattr(torch.Tensor, "tolist", counted)
            agent.update(experience)
        found.append(waits.lines)
    assert found[0] == found[1] == found[2]
    assert found[0].total() == 2 * 3 + 1, found[0]


def test_lengths_are_known_on_the_host(make_ppo, make_envs):
    sequences = make_ppo(envs=make_envs(num_envs=8)).collect().sequences("cpu")
    rows = torch.tensor([5, 2, 2])
    part = sequences.select(rows)
    assert part.host_lengths.tolist() == [
        [int(sequences.prompt_lengths[row]), int(sequences.response_lengths[row])] for row in rows
    ]
    with Waits() as waits:
        part.select(torch.tensor([0])).response_positions  # noqa: B018
        part.buckets(2)
    assert not waits.lines
    found, mask = part.response_positions, part.response_mask
    expected = mask.nonzero(as_tuple=True)
    assert all(torch.equal(one, two) for one, two in zip(found[:2], expected, strict=True))
