"""Compile kernels for compute capability 9.0, which needs no GPU, and print what came out as JSON.

A process of its own, as Triton decides when it is imported whether it interprets.
"""

import json
import re
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from tokengym.agents.fast.kernels import blocks, vocabulary

TYPES = {
    **dict.fromkeys(("scores", "reference", "sums", "per_token", "logits", "uniforms"), "*fp32"),
    **dict.fromkeys(("log_probs", "entropy", "cos", "sin", "pieces"), "*fp32"),
    **dict.fromkeys(("tokens", "numbers", "positions", "column"), "*i64"),
    **dict.fromkeys(("slope", "out", "keys", "values", "qkv"), "*bf16"),
    **dict.fromkeys(("query_norm", "key_norm"), "*bf16"),
    **dict.fromkeys(("inverse", "scale", "eps"), "fp32"),
    "bits": "*u8",
}


def compiled(kernel: Any, constants: dict[str, Any], types: Any = None, **options: Any) -> Any:
    """Return a kernel's 16-byte loads, bytes of shared memory and bytes of machine code."""
    names = kernel.arg_names
    known = {name: "i32" for name in names} | TYPES | (types or {})
    signature = {name: "constexpr" if name in constants else known[name] for name in names}
    aligned = [i for i, n in enumerate(names) if signature[n][0] in "*i"]  # all multiples of 16
    attributes = {(i,): [["tt.divisibility", 16]] for i in aligned}
    source = ASTSource(kernel, signature, constants, attributes)
    made = compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    wide = re.findall(r"ld\.global[\w.:]*\.v4", made.asm["ptx"])
    return {"wide": len(wide), "shared": made.metadata.shared, "code": len(made.asm["cubin"])}


def main() -> None:
    """Compile each kernel of the vocabulary under a mask, and attention of three head widths."""
    masked = {"HAS_REFERENCE": True, "HAS_BITS": True, "BLOCK": 2**11}
    part = {"PART": vocabulary.WORDS_PER_PROGRAM, "BLOCK": 2**12}
    drawn = part | {"SAMPLES": True, "PARTS": 32}
    kernels = vocabulary._read_words, vocabulary._write_slope
    results = {kernel.__name__: compiled(kernel, masked, num_warps=8) for kernel in kernels}
    results["_sum_words"] = compiled(vocabulary._sum_words, part, num_warps=8)
    results["_draw_words"] = compiled(vocabulary._draw_words, drawn, num_warps=8)
    for width, shared in ((64, 7), (128, 4), (256, 8)):
        shape = {"SHARED": shared, "KEYS": 2, "WIDTH": width, "GROUP": 16, "DIMS": width}
        split = shape | {"HAS_NORMS": True, "IS_SPLIT": True, "SPLIT_SIZE": blocks.SPLIT}
        for itemsize, kind in ((2, "*bf16"), (4, "*fp32")):
            split["BLOCK"], stages = blocks.turns(width, itemsize)
            types = {name: kind for name, known in TYPES.items() if known == "*bf16"}
            types["first"] = "*i64"
            made = compiled(blocks._attend, split, types, num_stages=stages)
            results[f"_attend {width} {kind}"] = made
        results[f"_join {width}"] = compiled(blocks._join, shape)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
