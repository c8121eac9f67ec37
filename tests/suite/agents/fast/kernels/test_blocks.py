"""A step of few kernels reads what the model's own forward reads."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.agents.static import FAMILIES, model_of
from tokengym.agents.fast.captured import static_stream
from tokengym.agents.fast.static import StaticStream

pytest.importorskip("triton", reason="Triton is not installed; it comes with torch for CUDA")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

import triton.language as tl  # noqa: E402

from tests.support.agents.blocks import FUSED  # noqa: E402
from tokengym.agents.fast.kernels import blocks  # noqa: E402
from tokengym.agents.fast.kernels.blocks import FusedStream  # noqa: E402


@torch.no_grad()
@pytest.mark.parametrize("family", FUSED)
def test_fused_steps_read_what_the_models_own_forward_reads(family):
    model = model_of(family).to(DEVICE)
    streams: list[Any] = [
        static_stream(model, 20, rows=6, kernels=kernels) for kernels in (False, True)
    ]
    assert [type(stream) for stream in streams] == [StaticStream, FusedStream]
    ids, mask = torch.arange(32).view(4, 8) % 64, torch.ones(4, 8).long()
    mask[0, :3], mask[2, :7] = 0, 0
    ids, mask = ids.to(DEVICE), mask.to(DEVICE)
    for _ in range(2):  # the second begins in a used cache, with other weights
        found = [stream.start(ids, mask) for stream in streams]
        for step in range(6):
            torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)
            if step == 2:
                for stream in streams:
                    stream.keep(torch.tensor([0, 2, 3], device=DEVICE))
            tokens = torch.arange(4 if step < 2 else 3, device=DEVICE) + 9 * step
            found = [stream.step(tokens) for stream in streams]
        torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)
        for parameter in model.parameters():
            parameter.mul_(1.05)
        ids, mask = ids.flip(0), mask.flip(0)


@torch.no_grad()
@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3"])
def test_fused_steps_go_on_after_replies(family):
    """Each row in columns of its own."""
    model = model_of(family).to(DEVICE)
    streams: list[Any] = [kind(model, 28, rows=4) for kind in (StaticStream, FusedStream)]
    ids, mask = torch.arange(32).view(4, 8) % 64, torch.ones(4, 8).long()
    mask[0, :3], mask[2, :7] = 0, 0
    for stream in streams:
        stream.start(ids.to(DEVICE), mask.to(DEVICE))
    for step in range(4):
        if step == 2:
            for stream in streams:
                stream.keep(torch.tensor([0, 2, 3], device=DEVICE))
        tokens = torch.arange(4 if step < 2 else 3, device=DEVICE) + 9 * step
        found = [stream.step(tokens) for stream in streams]
        torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)
        counts = torch.tensor([3, 0, 5, 1] if step == 0 else [0, 4, 0], device=DEVICE)
        if step in (0, 3):
            reply = torch.arange(int(counts.sum()), device=DEVICE) + 11
            found = [stream.append(reply, counts) for stream in streams]
            torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", [StaticStream, FusedStream])
def test_a_row_that_ended_stays_inside_the_stream(kind, monkeypatch):
    """A model of thousands of positions, whose stream has angles of its own columns alone.

    Prompts of 4 tokens, and 20 more: row 0 gets a reply of 15 and ends, row 1 goes on for 19 steps,
    with which row 0 is read. 4 - 1 + 15 + 19 would be its position 37, of 24.
    """
    model = model_of("llama").to(DEVICE)
    model.model.config.max_position_embeddings = 4096
    read, attend = list[int](), blocks.attend

    def watched(out: Tensor, *arguments: Any) -> None:
        positions = arguments[7]
        read.append(int(positions[: len(out)].max()))
        assert read[-1] < len(arguments[5])  # rows of the table of angles
        attend(out, *arguments)

    monkeypatch.setattr(blocks, "attend", watched)
    stream: Any = kind(model, 24, rows=2)
    stream.start(torch.ones(2, 4, device=DEVICE).long(), torch.ones(2, 4, device=DEVICE).long())
    counts = torch.tensor([15, 0], device=DEVICE)
    stream.append(torch.ones(15, dtype=torch.long, device=DEVICE), counts)
    for _ in range(19):
        stream.step(torch.ones(2, dtype=torch.long, device=DEVICE))
    assert stream._positions[:, 0].tolist() == [23, 22]  # 4 - 1 + 19, within its last column
    assert kind is StaticStream or max(read) == 23


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwen2, windows", "qwen3"])
def test_attention_may_be_split_over_columns(family, monkeypatch):
    """Of few rows; parts that begin before a text does, or after its end, add nothing."""
    monkeypatch.setattr(blocks, "SPLIT", 8)
    model = model_of(family).to(DEVICE)
    streams: list[Any] = [kind(model, 44, rows=2) for kind in (StaticStream, FusedStream)]
    ids, mask = torch.arange(44).view(2, 22) % 64, torch.ones(2, 22).long()
    mask[1, :21] = 0
    found = [stream.start(ids.to(DEVICE), mask.to(DEVICE)) for stream in streams]
    for step in range(3):
        torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)
        tokens = torch.arange(2, device=DEVICE) + 9 * step
        found = [stream.step(tokens) for stream in streams]
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_prompts_that_rows_share_are_read_once():
    ids, mask = torch.arange(24).view(3, 8), torch.ones(3, 8).long()
    mask[0, :3] = 0
    model = model_of("qwen2").to(DEVICE)
    read = []

    class Counting(FusedStream):
        def read_prompts(self, input_ids: Tensor, *others: Tensor) -> Any:
            read.append(len(input_ids))
            return super().read_prompts(input_ids, *others)

    stream = Counting(model, 16, rows=8)
    ids, mask = ids.to(DEVICE), mask.to(DEVICE)
    order = torch.tensor([2, 0, 2, 1, 0])
    states = stream.start(ids[order], mask[order])
    assert read == [3]
    alone = StaticStream(model, 16, rows=8)
    torch.testing.assert_close(states, alone.start(ids, mask)[order], atol=1e-5, rtol=1e-5)
    for mine, theirs in zip(stream.caches(), alone.caches(), strict=True):
        for row, source in enumerate(order.tolist()):
            start = 3 if source == 0 else 0
            close = mine[row, :, start:8], theirs[source, :, start:8]
            torch.testing.assert_close(*close, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwen2", "gemma"])
def test_fused_steps_in_bfloat16_are_near_to_float32(family, monkeypatch):
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    own = builder.create_dot

    def create_dot(self: Any, a: Any, b: Any, *others: Any) -> Any:
        """Return a product; the interpreter's own takes the bits of bfloat16 for integers."""
        wide = [
            interpreter.TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32)
            if x.dtype.scalar == tl.bfloat16
            else x
            for x in (a, b)
        ]
        return own(self, *wide, *others)

    monkeypatch.setattr(builder, "create_dot", create_dot)
    model = model_of(family).to(DEVICE)
    rounded = model_of(family).to(DEVICE, torch.bfloat16)
    kinds = (StaticStream, model), (StaticStream, rounded), (FusedStream, rounded)
    streams = [kind(given, 16, rows=4) for kind, given in kinds]
    ids = (torch.arange(32) % 64).view(4, 8).to(DEVICE)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    for stream in streams:
        stream.start(ids, mask)
    for step in range(3):
        tokens = torch.arange(4, device=DEVICE) + 5 * step
        truth, plain, fused = (stream.step(tokens).float() for stream in streams)
        for rounded_states in (plain, fused):  # of a size of 2.5
            assert (rounded_states - truth).abs().mean() < 0.012


def test_other_shapes_are_left_to_their_own_forward():
    for family in set(FAMILIES) - {*FUSED, "bloom", "gpt-neo"}:
        assert type(static_stream(model_of(family), 8, rows=2, kernels=True)) is StaticStream
