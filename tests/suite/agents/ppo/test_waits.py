"""How often an update has its host wait for what a GPU has queued."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.agents.turns import TALK
from tokengym.agents import PPO
from tokengym.agents.ppo.steps import GradientSteps

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


def waits_of(agent: PPO, monkeypatch: Any) -> Counter[str]:
    """Return the waits of an update whose steps are left out on the device, as a GPU's are."""
    tolist, made = torch.Tensor.tolist, GradientSteps.__init__
    experience = agent.assign(agent.collect())

    def start(steps: GradientSteps, *args: Any, **settings: Any) -> None:
        made(steps, *args, **settings)
        steps.looks = False

    with Waits() as waits, monkeypatch.context() as patch:

        def counted(tensor: Any) -> Any:
            waits.note(sys._getframe(1))
            return tolist(tensor)

        patch.setattr(torch.Tensor, "tolist", counted)
        patch.setattr(GradientSteps, "__init__", start)
        agent.update(experience)
    return waits.lines


@pytest.mark.parametrize(
    "settings",
    [
        {"value_network": "own"},
        {"value_network": "trunk", "ent_coef": 0.01},
        {"advantage": "loo", "group_size": 2, "loss_mean": "sequence"},
        {"kl_estimator": "exact"},
        {"kl_in": "loss", "kl_estimator": "k3", "clip_range_vf": 0.2},
        {"old_log_probs": "recomputed", "n_value_warmup": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("talks", [False, True])
def test_the_host_waits_once_an_update(make_ppo, make_envs, monkeypatch, settings, talks):
    """Whatever its epochs, minibatches and parts; for the figures of all."""
    if talks and "group_size" in settings:
        settings = settings | {"drop_equal_groups": False}
    for size, n_epochs, n_minibatches in ((None, 1, 1), (1, 2, 1), (2, 3, 4)):
        agent = make_ppo(
            envs=make_envs(num_envs=8, **(TALK if talks else {})),
            micro_batch_size=size,
            n_epochs=n_epochs,
            n_minibatches=n_minibatches,
            **settings,
        )
        waits = waits_of(agent, monkeypatch)
        assert waits.total() == 1, waits


@pytest.mark.parametrize(
    ("target_kl", "is_fused", "expected"),
    [
        (1e9, True, 2 + 1),  # after each epoch but the last; and for the figures
        (1e-9, True, 1 + 1),
        (None, False, 12 + 1),  # before each step
    ],
)
def test_what_asks_the_device_while_steps_are_queued(
    make_ppo, monkeypatch, target_kl, is_fused, expected
):
    """``target_kl`` at the end of an epoch; an optimiser that cannot leave out a step, always."""
    agent = make_ppo(learning_rate=1e-2, n_epochs=3, n_minibatches=4, target_kl=target_kl)
    weights = agent.policy.optimizer.param_groups[0]["params"]
    if not is_fused:
        agent.policy.optimizer = torch.optim.SGD(weights, lr=1e-2)
    assert waits_of(agent, monkeypatch).total() == expected


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
