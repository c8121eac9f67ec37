"""A stored model that brings code of its own."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

EVIL = """
raise SystemExit("the code of a model ran")
"""


SMALL: dict[str, Any] = {"n_layer": 2, "n_head": 1, "n_embd": 8, "vocab_size": 11, "num_labels": 1}


def tiny(kind: Any = GPT2LMHeadModel, folder: Path | None = None) -> Any:
    """Return a model, stored in a folder if one is named."""
    model = kind(GPT2Config(**SMALL, pad_token_id=0))
    if folder is not None:
        model.save_pretrained(folder)
    return model


@pytest.fixture
def with_code(tmp_path: Path) -> Path:
    """A model of its own family, as a repository with code in it has."""
    folder = tmp_path / "evil"
    tiny().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "evil",
        "auto_map": {
            "AutoConfig": "evil.Config",
            "AutoModelForCausalLM": "evil.Model",
            "AutoModelForSequenceClassification": "evil.Model",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}})
    )
    (folder / "evil.py").write_text(EVIL)
    return folder
