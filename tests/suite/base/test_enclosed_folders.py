"""Folders of somebody else's: they read nothing outside, and nothing in them takes for ever."""

import json
import os
import shutil
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest

from tokengym.agents.learner import LEARNERS
from tokengym.base import plugins
from tokengym.base.bundle import Bundle, bundled
from tokengym.base.errors import BundleError, DatasetError, SettingsError
from tokengym.base.stored.adapters import _check_fields
from tokengym.envs import load_prompts
from tokengym.envs.tasks.task import TASKS, register_ids
from tokengym.scripts.cli import main

ROWS = '{"prompt": "mine"}\n'


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a table of its own, beside a table of yours."""
    (tmp_path / "yours.jsonl").write_text('{"prompt": "secret"}\n')
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "rows.jsonl").write_text(ROWS)
    return tmp_path / "theirs"


def readme(text: str, folder: Path) -> None:
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n{text}---\n# Data\n")


@pytest.mark.parametrize(
    "named",
    [
        "  data_files: ../yours.jsonl\n",
        "  data_files:\n  - split: train\n    path: [rows.jsonl, parts/../../yours.jsonl]\n",
        "  data_dir: ..\n",
        "  data_files: {absolute}\n",
        "  data_files: https://example.org/rows.jsonl\n",
        "  data_files: ~/yours.jsonl\n",
    ],
)
def test_a_readme_names_no_file_outside_its_folder(data: Path, named: str):
    readme(named.replace("{absolute}", str(data.parent / "yours.jsonl")), data)
    with pytest.raises(DatasetError, match="lies outside"):
        load_prompts(str(data))


def test_a_readme_may_name_files_of_its_folder(data: Path):
    (data / "more.jsonl").write_text('{"prompt": "more"}\n')
    readme("  data_files:\n  - split: train\n    path: more.jsonl\n", data)
    assert [prompt.text for prompt in load_prompts(str(data), split="all")] == ["more"]


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_data_set_holds_no_links_out_of_it(data: Path, is_folder: bool):
    (data / "part").symlink_to(data.parent if is_folder else data.parent / "yours.jsonl")
    with pytest.raises(DatasetError, match="link to"):
        load_prompts(str(data))


def test_a_saved_table_reads_no_file_outside(data: Path):
    datasets.Dataset.from_list([{"prompt": "secret"}]).save_to_disk(str(data.parent / "yours"))
    datasets.Dataset.from_list([{"prompt": "mine"}]).save_to_disk(str(data.parent / "saved"))
    saved = data.parent / "saved"
    assert [prompt.text for prompt in load_prompts(str(saved), split="all")] == ["mine"]
    state = json.loads((saved / "state.json").read_text())
    (yours,) = (data.parent / "yours").glob("*.arrow")
    state["_data_files"] = [{"filename": f"../yours/{yours.name}"}]
    (saved / "state.json").write_text(json.dumps(state))
    with pytest.raises(DatasetError, match="lies outside"):
        load_prompts(str(saved))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
@pytest.mark.parametrize("name", ["lexicon.json", "policy/more", "grammar.json"])
def test_a_pipe_in_a_bundle_or_data_set_is_refused(tmp_path: Path, data: Path, name: str):
    copied = tmp_path / "bundle"
    shutil.copytree(bundled("movie_review").path, copied)
    (copied / name).unlink(missing_ok=True)
    os.mkfifo(copied / name)
    with pytest.raises(BundleError, match="no file or folder"):
        Bundle(copied)
    os.mkfifo(data / "more.jsonl")
    with pytest.raises(DatasetError, match="no file or folder"):
        load_prompts(str(data))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("target_modules", r"(a+)+$"),
        ("target_modules", ".*" * 12 + "q"),
        ("exclude_modules", r"((a|a)*){2,}b"),
        ("target_modules", "a" * 3_000),
        ("alpha_pattern", {r"(q*)*x": 4}),
        ("init_lora_weights", "pissa_niter_100000000"),
        ("r", 2**31),
    ],
)
def test_adapters_whose_fields_would_take_for_ever_are_refused(field: str, value: Any):
    with pytest.raises(ValueError, match=r"for ever|more than"):
        _check_fields(SimpleNamespace(**{field: value}))


@pytest.mark.parametrize(
    "pattern",
    [
        r"model\.layers\.\d+\.self_attn\.(q_proj|v_proj)",
        r"(?:.*?(?:language|text).*?(?:attn|mlp).*?(?:k_proj|v_proj).*?)|"
        r"(?:\bmodel\.layers\.[\d]{1,}\.(?:mlp|self_attn)\.(?:(?:k_proj|v_proj)))",
        ["q_proj", "v_proj"],
    ],
)
def test_usual_patterns_of_adapters_pass(pattern: Any):
    config = SimpleNamespace(target_modules=pattern, r=16, lora_alpha=32, rank_pattern={"q": 8})
    config.init_lora_weights = "pissa_niter_16"
    _check_fields(config)


@pytest.fixture
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Declare a learner and a task of packages that exit, raise and cannot be named."""
    bodies = {"exits": "import sys; sys.exit(0)", "raises": "1 / 0", "fine": "class X: pass"}
    for name, body in bodies.items():
        (tmp_path / f"plug_{name}.py").write_text(f"{body}\n")
    broken = ("exits", "raises")
    points = [EntryPoint(f"zz-{name}", f"plug_{name}:X", "tokengym.agents") for name in broken]
    points.append(EntryPoint("my task", "plug_fine:X", "tokengym.tasks"))
    known = plugins.entry_points
    for point in points:
        object.__setattr__(point, "dist", None)

    def entry_points(group: str) -> list[EntryPoint]:
        return [*known(group=group), *(point for point in points if point.group == group)]

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(plugins, "entry_points", entry_points)
    for name in bodies:
        monkeypatch.delitem(sys.modules, f"plug_{name}", raising=False)


@pytest.mark.usefixtures("plugged")
@pytest.mark.parametrize("name", ["zz-exits", "zz-raises"])
def test_a_broken_package_is_one_line_where_its_name_is_used(name: str, capsys: Any):
    with pytest.raises(SettingsError, match=rf"'{name}' of tokengym\.agents"):
        LEARNERS.find(name)
    assert main(["train", "--agent", name]) == 2
    assert f"error: '{name}' of tokengym.agents" in capsys.readouterr().err
    assert main(["train", "--list"]) == 0
    shown = capsys.readouterr().out
    assert "ppo" in shown
    assert "! 'zz-raises' of tokengym.agents" in " ".join(shown.split())


@pytest.mark.usefixtures("plugged")
def test_a_task_that_no_id_can_name_matters_only_when_it_is_used(caplog: Any):
    register_ids()  # as `import tokengym` does
    with pytest.raises(SettingsError, match=r"'my task' of tokengym\.tasks"):
        TASKS.find("my task")
    TASKS.import_plugins()
    assert any("'my task'" in record.getMessage() for record in caplog.records)
