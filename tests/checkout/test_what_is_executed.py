"""What docs/guide/what_is_executed.md promises and no other test holds."""

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from tokengym.base.errors import DatasetError, TokenizerError
from tokengym.base.own_code import load_from_file
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


PAGE = Path("docs/guide/what_is_executed.md").read_text(encoding="utf-8")


def test_auto_map_is_ignored(tmp_path: Path, tokenizer: Any):
    """The page says ignored, not refused: the model is read by transformers' own classes."""
    assert "`auto_map` in its configuration is ignored" in PAGE
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


@pytest.mark.parametrize(
    ("sentence", "test"),
    [
        ("one that is broken or ends the process is one line then", "test_a_broken_package_is_one"),
        ("paths in a data set's README.md or\nstate.json", "test_a_readme_names_no_file_outside"),
        ("A pipe or device in a bundle or data set is refused", "test_a_pipe_in_a_bundle_or_data"),
        (
            "in their configuration that could take for ever are refused",
            "test_adapters_whose_fields",
        ),
        ("beside it, which belong to its hash", "test_a_change_of_a_neighbour_is_a_change"),
    ],
)
def test_sentences_of_the_page_are_held_by_tests(sentence: str, test: str):
    assert sentence in PAGE
    files = Path("tests/suite/base").glob("test_*.py")
    assert any(f"def {test}" in file.read_text(encoding="utf-8") for file in files)


def test_a_file_imports_what_it_wants(tmp_path: Path):
    ran = tmp_path / "ran"
    (tmp_path / "other_of_mine.py").write_text(f"open({str(ran)!r}, 'w')\n")
    (tmp_path / "mine.py").write_text(
        f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport other_of_mine\nA = 1\n"
    )
    assert load_from_file(tmp_path / "mine.py", "A") == 1
    assert ran.exists()
