"""What docs/guide/what_is_executed.md promises and no other test holds."""

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from tokengym.base.errors import DatasetError, TokenizerError
from tokengym.envs import TokenGenerationEnv, load_prompts
from tokengym.scripts.cli import main


@pytest.mark.parametrize(("before", "after"), [(None, "NO"), ("YES", "YES")])
def test_the_commands_turn_kernels_of_the_hub_off(
    monkeypatch: pytest.MonkeyPatch, before: Any, after: str
):
    monkeypatch.delenv("USE_HUB_KERNELS", raising=False)
    if before:
        monkeypatch.setenv("USE_HUB_KERNELS", before)
    assert main(["--help"]) == 0
    assert os.environ["USE_HUB_KERNELS"] == after


@pytest.mark.parametrize(
    "reach", ["{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ cycler.__init__.__globals__ }}"]
)
def test_a_chat_template_runs_in_the_sandbox(tokenizer: Any, reach: str):
    hostile = copy.deepcopy(tokenizer)
    hostile.chat_template = reach
    with pytest.raises(TokenizerError, match=r"access to attribute .* is unsafe|refuses"):
        TokenGenerationEnv(tokenizer=hostile, prompts=[[{"role": "user", "content": "a"}]])


def test_a_loading_script_is_no_data_set(tmp_path: Path):
    (tmp_path / "films.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(DatasetError):
        load_prompts(str(tmp_path / "films.py"))
    with pytest.raises(DatasetError):
        load_prompts(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_auto_map_is_ignored(tmp_path: Path, tokenizer: Any):
    """The model is read by transformers' own classes."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from tokengym.base.pretrained import load_whole

    config = GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    stored["auto_map"] = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert type(load_whole(AutoModelForCausalLM, tmp_path)).__name__ == "GPT2LMHeadModel"
    assert not (tmp_path / "ran").exists()
