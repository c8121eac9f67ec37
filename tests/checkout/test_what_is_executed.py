"""The page on what is executed: each of its sentences is held by a test, which exists."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tokengym.base.errors import DatasetError, TokenizerError
from tokengym.base.own_code import load_from_file
from tokengym.envs import TokenGenerationEnv, load_prompts
from tokengym.scripts.cli import main

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guide" / "what_is_executed.md"
END = r"(?<=[.!?:])\s+(?=[A-Z*`])"
"""Where a sentence of a paragraph ends."""


def sentences() -> list[str]:
    """Return the sentences of the page, and the rows of its table, without headings and code."""
    text = re.sub(r"```.*?```", "", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = re.sub(r"^(#.*|\|---.*|\| what \| when.*)$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^(- |\| )", "\n\\1", text, flags=re.MULTILINE)
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    return [
        said.strip()
        for part in paragraphs
        if part
        for said in (
            [part] if part.startswith("|") else re.split(r"(?<=[.!?:])\s+(?=[A-Z*`])", part)
        )
    ]


OWN = "checkout/evaluation/test_own.py::"
AGENTS = "suite/agents/test_checkpoint.py::"
PRETRAINED = "suite/base/test_pretrained.py::"
EXPLORE = "lab/replay/test_explore_page.py::"
VERIFIERS = "lab/envs/test_reasoning_gym.py::"
UNPACKED = "suite/envs/prompts/test_unpacking.py::"
HERE = "checkout/test_what_is_executed.py::"
CAMPAIGN = "campaign/test_campaign.py::"
CARDS = "studies/test_cards.py::"
PUBLISH = "lab/test_publish.py::"
HELD: dict[str, tuple[str, ...]] = {
    "Besides its own code and that": (
        f"{CAMPAIGN}test_nothing_of_a_hostile_folder_runs",
        f"{OWN}test_names_of_a_package_are_found_when_they_are_used",
    ),
    "**files that you name** in a": (
        f"{CAMPAIGN}test_nothing_of_a_hostile_folder_runs",
        f"{OWN}test_names_of_a_package_are_found_when_they_are_used",
    ),
    "Nothing else: not what a folder of": (
        f"{CAMPAIGN}test_nothing_of_a_hostile_folder_runs",
        f"{CAMPAIGN}test_no_hostile_request_runs_code_or_ends_the_page",
    ),
    "| `path/to/file.py:Name` in an option": (
        f"{OWN}test_rules_and_scorers_are_compared_in_processes_of_their_own",
    ),
    "| the same word in the command that": (
        f"{OWN}test_a_stopped_run_of_ones_own_code_is_resumed_by_the_same_command",
        f"{OWN}test_a_stopped_run_whose_file_has_changed_is_refused",
    ),
    "| an entry point `tokengym.rewards`": (
        f"{OWN}test_names_of_a_package_are_found_when_they_are_used",
    ),
    "| an environment of another package": (
        f"{OWN}test_code_runs_only_for_who_trusts_the_folder",
        "suite/base/test_bundle.py::test_words_of_a_bundle_run_no_code",
    ),
    "One study does more:": (f"{CARDS}test_a_row_whose_figures_are_not_its_code_s_is_found",),
    "`python -m studies.cards --rerun": (
        f"{CARDS}test_a_row_whose_figures_are_not_its_code_s_is_found",
    ),
    "`checkpoint.json` and `spec.json` are": (
        f"{OWN}test_code_runs_only_for_who_trusts_the_folder",
    ),
    "A word in them that stands for code": (
        f"{OWN}test_code_runs_only_for_who_trusts_the_folder",
        f"{AGENTS}test_code_that_a_checkpoint_names_is_run_for_who_names_it_again",
    ),
    "Otherwise the command ends with one": (
        "suite/rewards/test_naming.py::test_code_in_saved_words_is_refused_with_file_and_hash",
    ),
    "- **Name it again.** `tokengym evaluate": (
        f"{AGENTS}test_code_that_a_checkpoint_names_is_run_for_who_names_it_again",
        f"{OWN}test_what_a_command_names_itself_replaces_what_is_stored",
    ),
    "What you name replaces what is stored": (
        f"{OWN}test_what_a_command_names_itself_replaces_what_is_stored",
    ),
    "An agent with an `advantage` or weight": (
        f"{OWN}test_code_runs_only_for_who_trusts_the_folder",
    ),
    "`evaluate`, `replay` and `explore` ask": (
        f"{OWN}test_what_is_not_needed_of_a_folder_is_not_looked_up",
    ),
    "- **Or trust the folder**, once you": (f"{OWN}test_code_runs_only_for_who_trusts_the_folder",),
    "`--trust-code` of `evaluate`, `push`": (
        f"{OWN}test_code_runs_only_for_who_trusts_the_folder",
        f"{PUBLISH}test_an_agent_with_code_of_its_own_comes_back_to_who_trusts_it",
    ),
    "Links in a checkpoint, and in a folder": (
        f"{AGENTS}test_a_link_is_refused",
        f"{PUBLISH}test_links_are_not_followed_into_what_is_shared",
    ),
    "Only the cache of the hub is made of": (f"{PUBLISH}test_a_snapshot_of_links_is_loaded",),
    "The command `tokengym`, and the": (
        "suite/evaluation/runs/test_launchers.py::test_a_file_of_the_current_folder_is_no_module_of_a_process_that_starts",
    ),
    "`python -m tokengym` does, as Python": (
        f"{HERE}test_python_m_finds_modules_of_the_current_folder",
    ),
    "`tokengym explore` runs code of your": (
        f"{EXPLORE}test_own_code_is_run_only_if_the_command_line_names_it",
        f"{EXPLORE}test_folders_and_tasks_are_those_of_the_command_line",
    ),
    "The page can choose among what was": (
        f"{EXPLORE}test_rules_that_could_name_a_file_or_a_model_are_refused",
        "lab/replay/test_explore_server.py::test_every_part_needs_the_token",
        f"{CAMPAIGN}test_no_hostile_request_runs_code_or_ends_the_page",
    ),
    "- A model's own code is never run:": (
        f"{PRETRAINED}test_a_models_own_code_never_runs_and_nobody_is_asked",
    ),
    "`trust_remote_code` is never set": (
        f"{PRETRAINED}test_a_models_own_code_never_runs_and_nobody_is_asked",
        "checkout/test_sources.py::test_models_are_read_in_one_place",
    ),
    "Weights are read as safetensors, never": (
        f"{PRETRAINED}test_pickled_weights_are_refused_with_the_way_to_convert_them",
        f"{AGENTS}test_no_file_is_pickled",
    ),
    "Adapters in a checkpoint must be LoRA.": (
        f"{AGENTS}test_files_that_somebody_changed_are_one_line",
    ),
    "- `config.json` does not choose what": (
        f"{PRETRAINED}test_a_configuration_chooses_no_code_to_compute_with",
    ),
    "The commands turn such kernels off": (f"{HERE}test_the_commands_turn_kernels_of_the_hub_off",),
    "- Weights that are missing, blocks": (
        f"{PRETRAINED}test_a_configuration_that_does_not_fit_its_weights_is_one_line",
    ),
    "A checkpoint holds no other weights": (
        f"{AGENTS}test_files_that_somebody_changed_are_one_line",
    ),
    "- A few verifiers of reasoning-gym": (
        f"{VERIFIERS}test_a_verifier_runs_no_code_of_an_answer",
    ),
    "They get it only where it is a list of": (
        f"{VERIFIERS}test_lists_of_constants_keep_their_part_of_the_score",
        f"{VERIFIERS}test_every_data_set_that_evaluates_was_looked_at",
    ),
    "- A partner by name may stand in a folder": (
        "suite/evaluation/runs/test_saved_agents.py::"
        "test_a_stored_partner_of_a_file_is_run_only_if_it_is_named",
        "lab/partners/test_calculator.py::test_no_expressions",
    ),
    "Of GEM's environments only games and": (
        "lab/partners/test_text_games.py::"
        "test_gem_s_environments_that_run_what_is_written_are_refused",
    ),
    "- Chat templates run in transformers'": (f"{HERE}test_a_chat_template_runs_in_the_sandbox",),
    "Data sets are tables; loading scripts": (f"{HERE}test_a_loading_script_is_no_data_set",),
    "- A gzipped file or a parquet file may": (
        f"{UNPACKED}test_a_gzipped_file_is_read_to_the_limit_only",
        f"{UNPACKED}test_a_parquet_file_is_measured_before_it_is_read",
    ),
    "A larger one is refused before it is": (
        f"{UNPACKED}test_a_parquet_file_is_measured_before_it_is_read",
    ),
    "- A file that you name or trust runs as": (
        f"{OWN}test_rules_and_scorers_are_compared_in_processes_of_their_own",
    ),
    "So do the modules that it imports.": (f"{HERE}test_a_file_imports_what_it_wants",),
    "- The settings of a folder still name": (f"{CAMPAIGN}test_nothing_of_a_hostile_folder_runs",),
    "They also choose how long a training": (
        "suite/base/test_memory.py::test_a_stored_length_is_checked_like_a_typed_one",
    ),
    "- Optional packages that transformers": (
        f"{HERE}test_the_commands_turn_kernels_of_the_hub_off",
    ),
}
"""Beginnings of the page's sentences, and of the tests that hold each, below ``tests``."""


def test_each_sentence_is_held_by_a_test_that_exists():
    said = sentences()
    unheld = [text for text in said if not any(text.startswith(held) for held in HELD)]
    gone = [held for held in HELD if not any(text.startswith(held) for text in said)]
    assert (unheld, gone) == ([], [])
    for place in {place for places in HELD.values() for place in places}:
        file, name = place.split("::")
        assert f"def {name}" in (ROOT / "tests" / file).read_text(encoding="utf-8"), place


def python(*arguments: str, folder: Path) -> str:
    """Return what a new interpreter prints in a folder."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def test_python_m_finds_modules_of_the_current_folder(tmp_path: Path):
    (tmp_path / "evil.py").write_text("print('ran')\n")
    assert python("-m", "evil", folder=tmp_path) == "ran\n"
    if sys.version_info >= (3, 11):
        assert "ran" not in python("-P", "-c", "import evil", folder=tmp_path)


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
