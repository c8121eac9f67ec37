"""What docs/guide/what_is_executed.md promises and no other test holds."""

import copy
import os
from pathlib import Path
from typing import Any

import pytest

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


def test_a_file_imports_what_it_wants(tmp_path: Path):
    ran = tmp_path / "ran"
    (tmp_path / "other_of_mine.py").write_text(f"open({str(ran)!r}, 'w')\n")
    (tmp_path / "mine.py").write_text(
        f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport other_of_mine\nA = 1\n"
    )
    assert load_from_file(tmp_path / "mine.py", "A") == 1
    assert ran.exists()
