"""Models in GGUF files, whose few-bit weights are dequantised."""

import copy
from pathlib import Path
from typing import Any


def dequantise(file: Path, folder: Path) -> None:
    """Write the model of a GGUF file, in bfloat16, and its tokenizer into a folder.

    Args:
        file: The file, of a family of models that transformers reads.
        folder: A folder that exists.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    where: dict[str, Any] = {"gguf_file": file.name, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), **where)
    read = AutoModelForCausalLM.from_pretrained(str(file.parent), dtype=torch.bfloat16, **where)
    config = copy.deepcopy(read.config)
    config.__dict__.pop("quantization_config", None)  # save_pretrained would refuse
    with torch.device("meta"):
        model = type(read)(config)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    ends = {f"{n}_token_id": getattr(tokenizer, f"{n}_token_id") for n in ("bos", "eos", "pad")}
    model.generation_config = GenerationConfig(**ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
