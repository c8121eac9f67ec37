"""The self-check finds kernels that are wrong where short texts and float32 do not show it."""

import dataclasses
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.agents.common import make_model
from tests.support.agents.static import model_of
from tokengym.agents.errors import ModelError
from tokengym.agents.fast.captured import check_steps
from tokengym.agents.fast.static import StaticStream
from tokengym.agents.policy import models
from tokengym.agents.policy.language_model import CausalLM

pytest.importorskip("triton", reason="Triton is not installed; it comes with torch for CUDA")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

from tokengym.agents.fast.kernels import check, layers, vocabulary  # noqa: E402
from tokengym.agents.fast.kernels.blocks import FusedStream  # noqa: E402


def long_model(family: str) -> CausalLM:
    """Return a model of texts longer than those of `model_of`."""
    model = model_of(family).to(DEVICE)
    model.model.config.max_position_embeddings = 1_024
    return model


def test_sound_kernels_pass():
    check.check_kernels(DEVICE)
    plain, fused = partial(StaticStream, rows=2), partial(FusedStream, rows=2)
    check_steps(long_model("qwen2"), plain, fused, 140)


def in_a_tail(own: Any, sums: Tensor, scores: Tensor, *others: Any) -> None:
    own(sums, scores + (scores.shape[1] % 128 != 0), *others)  # a part of the vocabulary


def in_bfloat16(own: Any, out: Tensor, *others: Any) -> None:
    own(out, *others)
    if out.dtype == torch.bfloat16:
        out.mul_(1.5)


def in_second_rows(own: Any, slope: Tensor, shares: Tensor | None, *others: Any) -> None:
    own(slope, shares, *others)
    if shares is not None:
        slope[len(shares) :] = 0.0  # of each program


@pytest.mark.parametrize(
    ("module", "name", "fault"),
    [
        (vocabulary, "read_words", in_a_tail),
        (layers, "apply_gate", in_bfloat16),
        (layers, "norm_slope", in_second_rows),
    ],
)
def test_a_fault_is_found(module, name, fault, monkeypatch):
    monkeypatch.setattr(module, name, partial(fault, getattr(module, name)))
    with pytest.raises(ModelError, match="kernels are off"):
        check.check_kernels(DEVICE)


@pytest.mark.parametrize(("capacity", "hidden_from"), [(200, 64), (700, 512)])
def test_steps_are_tried_on_texts_of_several_turns_and_parts(capacity, hidden_from):
    """A stream that loses columns after the first turn, or part, of attention."""
    model = long_model("llama")

    class Forgetful(StaticStream):
        def _mask(self, window: int | None) -> Tensor:
            is_lost = (self._columns >= hidden_from) & (self._columns < self._column[:, None, None])
            return super()._mask(window).masked_fill(is_lost, self._lowest)

    plain = partial(StaticStream, rows=2)
    check_steps(model, plain, plain, capacity)
    with pytest.raises(ModelError, match=r"kernels.*hidden states.*off"):
        check_steps(model, plain, partial(Forgetful, rows=2), capacity)


def test_out_of_memory_is_not_remembered_as_a_fault(make_ppo, monkeypatch):
    policy = make_ppo(model=make_model("llama"), device=DEVICE).policy
    policy.settings = dataclasses.replace(policy.settings, kernels="triton")
    models._fault_of_kernels.cache_clear()

    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("full")

    with monkeypatch.context() as patch:
        patch.setattr(vocabulary, "draw", fail)
        with pytest.raises(torch.OutOfMemoryError):
            policy.kernels  # noqa: B018
    assert policy.kernels
