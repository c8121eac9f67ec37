"""How long torch's float32 products on a CPU take, and oneDNN's, in turns.

The least of many times, so that other work on the machine counts little. On processors of other
makers than Intel's, torch's library (MKL) stops at AVX2; ``MKL_ENABLE_INSTRUCTIONS=AVX2`` makes it
do so on Intel's too, which ``--avx2`` sets.

    python benchmarks/products.py [--repeats 100] [--avx2]
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from tokengym.agents.fast.products import multiplied, packed_map, transposed_product

ROLLOUT = [(32, 128, 384), (32, 128, 512), (32, 128, 2_048), (32, 768, 3_072), (16, 576, 49_152)]
UPDATE = [(448, 128, 512), (384, 768, 3_072)]
"""Rows, inputs and outputs."""


def least(calls: list[Callable[[], Tensor]], repeats: int) -> list[float]:
    """Return the least time of each call, the calls taking turns, in microseconds."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats + 1):
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            taken.append(1e6 * (time.perf_counter() - start))
    return [min(taken[1:]) for taken in times]  # the first compiles


def processor() -> str:
    """Return the processor's name, where Linux tells it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown processor"


@torch.inference_mode()
def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--avx2", action="store_true", help="hold torch's library to AVX2")
    settings = parser.parse_args()
    if settings.avx2:
        os.environ["MKL_ENABLE_INSTRUCTIONS"] = "AVX2"  # read at the first product
    repeats = settings.repeats
    torch.set_num_threads(1)
    held = ", MKL held to AVX2" if settings.avx2 else ""
    print(f"{processor()}{held}; microseconds, the least of {repeats}\n")
    print("| rows x inputs x outputs | torch | oneDNN | ratio |")
    print("|---|---|---|---|")
    for name, shapes in (("rollout", ROLLOUT), ("update", UPDATE)):
        for rows, width, outputs in shapes:
            x, weight = torch.randn(rows, width), torch.randn(outputs, width)
            calls: list[Callable[[], Tensor]] = [lambda x=x, w=weight: F.linear(x, w)]  # type: ignore[misc]
            if name == "rollout":
                packed = packed_map(weight, None)
                calls.append(lambda x=x, packed=packed: packed(x))  # type: ignore[misc]
                maps = ("", ", packed")
            else:
                d_y = torch.randn(rows, outputs)
                calls.append(lambda x=x, w=weight: multiplied(x, w))  # type: ignore[misc]
                calls += [
                    lambda d=d_y, w=weight: d @ w,  # type: ignore[misc]
                    lambda d=d_y, w=weight: multiplied(d, w.t()),  # type: ignore[misc]
                    lambda d=d_y, x=x: d.t() @ x,  # type: ignore[misc]
                    lambda d=d_y, x=x: transposed_product(d, x),  # type: ignore[misc]
                ]
                maps = ("", "")
            times = least(calls, repeats if rows * width * outputs < 10**8 else repeats // 5)
            what = ["forward", "gradient of the inputs", "gradient of the weight"]
            for step, (by_torch, by_onednn) in enumerate(zip(times[::2], times[1::2], strict=True)):
                kind = f", {what[step]}" if name == "update" else maps[1]
                print(
                    f"| {name}, {rows} x {width:,} x {outputs:,}{kind} | {by_torch:,.0f} | "
                    f"{by_onednn:,.0f} | {by_torch / by_onednn:.2f} |"
                )


if __name__ == "__main__":
    main()
