"""Chat templates of today's models, as TRL has them, and tokenizers of bytes with them."""

import re
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from tests.support.chats import trained_backend

SPEC = find_spec("trl")
FOLDER = Path((SPEC and SPEC.origin) or "") / ".." / "chat_templates"
TEMPLATES = {path.stem: path for path in FOLDER.resolve().glob("*.jinja")}
"""Files by name; none where TRL is not installed, which needs Python 3.11."""
CONTROL = r"<\|[^|<>\s{}]+\|>|<\uff5c[^\uff5c]+\uff5c>|<(?:start|end)_of_turn>|<\|turn>|<turn\|>"
# The token by which each family ends an answer; of GLM 4 it is the user's turn that begins.
ENDS = {
    **dict.fromkeys(("qwen", "nemotron", "lfm2"), "<|im_end|>"),
    "deepseek": "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "gptoss": "<|return|>",
    "glm4moe": "<|user|>",
    "muse": "<|eot|>",
    **dict.fromkeys(("gemma4", "diffusion"), "<turn|>"),
    "gemma": "<end_of_turn>",
    "llama3": "<|eot_id|>",
    "phi3": "<|end|>",
    "cohere": "<|END_OF_TURN_TOKEN|>",
}
FOR_PICTURES = ("idefics3", "llava_next", "smolvlm")
"""Families whose templates write no plain texts."""


def tokenizer_of(name: str) -> tuple[Any, str]:
    """Return a tokenizer of bytes with a family's template and control tokens, and its end."""
    template = TEMPLATES[name].read_text(encoding="utf-8")
    end = next((end for family, end in ENDS.items() if name.startswith(family)), "</s>")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained_backend("bytes"), pad_token="<pad>", eos_token=end, bos_token="<s>"
    )
    control = sorted({*re.findall(CONTROL, template), end, "<pad>", "<s>"})
    tokens = [AddedToken(text, special=True, normalized=False) for text in control]
    tokenizer.add_tokens(tokens, special_tokens=True)
    tokenizer.chat_template = template
    # What `apply_chat_template` writes where a template asks for the date.
    tokenizer.init_kwargs["template_date"] = date.today().isoformat()
    return tokenizer, end
