"""How often a round and its update have their host wait for what a GPU has queued."""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.agents.turns import TALK
from tokengym.agents import PPO
from tokengym.agents.ppo.steps import GradientSteps

READS = frozenset(
    "_local_scalar_dense is_nonzero nonzero masked_select equal bincount _unique _unique2 "
    "unique_dim unique_consecutive unique_dim_consecutive".split()
)
"""Operations whose result, or its size, the host needs before it goes on."""
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
        if _is_read(function.overloadpacket.__name__, args, kwargs or {}):
            self.note(sys._getframe(1))
        return function(*args, **(kwargs or {}))


def _is_read(name: str, args: Any, kwargs: Any) -> bool:
    """Return whether an operation's result, or its size, has to be known to the host."""
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    if name in ("index", "index_put", "index_put_"):  # by a mask, whose places have to be counted
        masks = [
            one for one in args[1] if one is not None and one.dtype in (torch.bool, torch.uint8)
        ]
        fills = name != "index" and args[2].numel() == 1  # as masked_fill does
        return bool(masks) and not fills
    return name in READS


def counted(monkeypatch: Any, work: Callable[[], Any]) -> tuple[Counter[str], Any]:
    """Return what is read of tensors during some work, and its result."""
    with Waits() as waits, monkeypatch.context() as patch:
        for name in ("tolist", "cpu"):
            own = getattr(torch.Tensor, name)

            def noted(tensor: Any, own: Any = own) -> Any:
                waits.note(sys._getframe(1))
                return own(tensor)

            patch.setattr(torch.Tensor, name, noted)
        moved = torch.Tensor.to

        def to(tensor: Any, *args: Any, **settings: Any) -> Any:
            if "cpu" in (*args, *settings.values()):  # by that word: the device may be a CPU too
                waits.note(sys._getframe(1))
            return moved(tensor, *args, **settings)

        patch.setattr(torch.Tensor, "to", to)
        result = work()
    return waits.lines, result


def waits_of(agent: PPO, monkeypatch: Any) -> tuple[Counter[str], Counter[str]]:
    """Return the waits of a round, and of an update whose steps are left out on the device."""
    made = GradientSteps.__init__
    played = agent.collect()

    def start(steps: GradientSteps, *args: Any, **settings: Any) -> None:
        made(steps, *args, **settings)
        steps.looks = False

    of_round, experience = counted(monkeypatch, lambda: agent.assign(played))
    monkeypatch.setattr(GradientSteps, "__init__", start)
    of_update, _ = counted(monkeypatch, lambda: agent.update(experience))
    return of_round, of_update


@pytest.mark.parametrize(
    "settings",
    [
        {"value_network": "own"},
        {"value_network": "trunk", "ent_coef": 0.01},
        {"advantage": "loo", "group_size": 2, "loss_mean": "sequence"},
        {"advantage": "grpo", "group_size": 4, "drop_equal_groups": True},
        {"advantage": "reinforce++"},
        {"advantage": "vineppo"},
        {"kl_estimator": "exact"},
        {"kl_in": "loss", "kl_estimator": "k3", "clip_range_vf": 0.2},
        {"old_log_probs": "recomputed", "n_value_warmup": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("talks", [False, True])
def test_the_host_waits_once_a_round_and_once_an_update(
    make_ppo, make_envs, monkeypatch, settings, talks
):
    """Whatever its epochs, minibatches and parts; for the figures of all.

    `loo` asks besides whether any conversation has a second turn, which takes another formula.
    """
    if talks and "group_size" in settings:
        settings = settings | {"drop_equal_groups": False}
    for size, n_epochs, n_minibatches in ((None, 1, 1), (2, 2, 2)):
        agent = make_ppo(
            envs=make_envs(num_envs=8, **(TALK if talks else {})),
            micro_batch_size=size,
            n_epochs=n_epochs,
            n_minibatches=n_minibatches,
            **settings,
        )
        of_round, of_update = waits_of(agent, monkeypatch)
        assert of_round.total() == (2 if settings.get("advantage") == "loo" else 1), of_round
        assert of_update.total() == 1, of_update


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
    _, of_update = waits_of(agent, monkeypatch)
    assert of_update.total() == expected


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda x, mask: x[mask], 1),
        (lambda x, mask: x.masked_select(mask), 1),
        (lambda x, mask: mask.nonzero(), 1),
        (lambda x, mask: torch.where(mask), 1),
        (lambda x, mask: x.to("cpu"), 1),
        (lambda x, mask: x.to(device="cpu", copy=True), 1),
        (lambda x, mask: x.cpu(), 1),
        (lambda x, mask: x.unique(), 1),
        (lambda x, mask: x.unique(dim=0), 1),
        (lambda x, mask: x.unique_consecutive(), 1),
        (lambda x, mask: torch.equal(x, x + 1), 1),
        (lambda x, mask: x.repeat_interleave(mask.long()), 1),
        (lambda x, mask: x.repeat_interleave(mask.long(), output_size=2), 0),
        (lambda x, mask: x.__setitem__(mask, torch.ones(2)), 1),
        (lambda x, mask: x.__setitem__(mask, 0.0), 0),
        (lambda x, mask: x[mask.long()], 0),
        (lambda x, mask: x.where(mask, 0.0), 0),
        (lambda x, mask: float(x[0]), 1),
        (lambda x, mask: x.tolist(), 1),
        (lambda x, mask: bool(mask.any()), 1),
    ],
)
def test_what_counts_as_a_wait(monkeypatch, work, expected):
    """Whatever has a size that only the values tell, and what brings values to the host."""
    x, mask = torch.arange(3.0), torch.tensor([True, False, True])
    waits, _ = counted(monkeypatch, lambda: work(x, mask))
    assert waits.total() == expected


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
