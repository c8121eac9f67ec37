"""Faster forms of what learners compute, on a CPU and a GPU, and training in several processes.

The rest of agents reaches them through `tokengym.agents.policy.backend`, and works without them:
this module takes the place of `backend.Plain`, and has each of its parts from where the table says.
"""

from typing import Any

from tokengym.base.registry import imported

HOMES = {
    "stream_kinds": "tokengym.agents.fast.llama:STREAMS",
    "captured_sampler": "tokengym.agents.fast.captured:CapturedSampler",
    "check_static": "tokengym.agents.fast.static:check_static",
    "check_kernels": "tokengym.agents.fast.kernels.check:check_kernels",
    "token_figures": "tokengym.agents.fast.kernels.vocabulary:token_figures",
    "longest_text": "tokengym.agents.fast.kernels.trunk:longest_text",
    "hidden": "tokengym.agents.fast.kernels.trunk:hidden",
    "check_products": "tokengym.agents.fast.products:check_products",
    "has_onednn": "tokengym.agents.fast.products:has_onednn",
    "use_products": "tokengym.agents.fast.products:use_products",
    "multiples": "tokengym.agents.fast.products:MULTIPLES",
    "product": "tokengym.agents.fast.products:product",
    "transposed_product": "tokengym.agents.fast.products:transposed_product",
    "join": "tokengym.agents.fast.group:join",
}
"""Where each part is; a GPU's and a group's are imported when they are first used."""


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = part = imported(HOMES[name])  # looked up once
    return part
