"""The recipes for real models, command by command, with stand-ins of the same kind."""

import csv
import re
from pathlib import Path
from typing import Any

import datasets
import pytest

from tests.suite.rewards.stand_ins import TEXTS, save
from tests.support.checkout.documents import commands_of
from tokengym.scripts.cli import main

GUIDE = Path(__file__).parents[2] / "docs" / "guide"
KINDS = {
    "lvwerra/gpt2-imdb": "gpt2",
    "lvwerra/distilbert-imdb": "distilbert",
    "Qwen/Qwen2.5-0.5B-Instruct": "qwen2",
    "Skywork/Skywork-Reward-V2-Qwen3-0.6B": "qwen3",
    "OpenAssistant/reward-model-deberta-v3-base": "deberta",
}
"""Names of the pages, and the architecture that each model has."""
SMALLER = {
    **{"--updates": "1", "--seeds": "1", "--eval-episodes": "4", "--episodes": "4"},
    **{"--batch-size": "16", "--max-new-tokens": "8", "--micro-batch-size": "8"},
    **{"--jobs": "1"},
}
"""Numbers of repetitions, in which alone the commands of a test differ from those of a page."""


def write_hub_dataset(folder: Path, splits: dict[str, dict[str, list[Any]]]) -> str:
    """Write a data set in the hub's layout, a parquet file per split."""
    for split, columns in splits.items():
        file = folder / "data" / f"{split}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(columns).to_parquet(file)
    return str(folder)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return what stands for each name of the pages on this machine."""
    folder = tmp_path_factory.mktemp("hub")
    found = {name: save(kind, folder / kind) for name, kind in KINDS.items()}
    reviews: dict[str, list[Any]] = {
        "text": [f"{text} {text}" for text in TEXTS * 2],
        "label": [0, 1] * 4,
    }
    found["stanfordnlp/imdb"] = write_hub_dataset(
        folder / "imdb", {"train": reviews, "test": reviews, "unsupervised": reviews}
    )
    chats = [[{"role": "user", "content": text}] for text in (*TEXTS, TEXTS[0] * 20)]
    found["trl-lib/ultrafeedback-prompt"] = write_hub_dataset(
        folder / "ultrafeedback", {"train": {"prompt": chats}, "test": {"prompt": chats}}
    )
    return found


def here(command: list[str], names: dict[str, str], folder: Path) -> list[str]:
    """Return a page's command with paths for names and folders, and fewer repetitions."""
    words = []
    for before, word in zip(["", *command], command, strict=False):
        word = SMALLER.get(before, word)
        for name, path in names.items():
            word = word.replace(name, path)
        words.append(re.sub(r"^runs/", f"{folder}/", word))
    return words


@pytest.mark.parametrize("page", ["recipe_gpt2_imdb.md", "recipe_qwen.md"])
def test_every_command_of_a_recipe_runs(
    page: str, names: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = commands_of(GUIDE / page)
    assert len(commands) >= 2
    used = {name for name in names if any(name in word for command in commands for word in command)}
    for command in commands:
        assert main(here(command, names, tmp_path)) == 0, capsys.readouterr().err
    assert len(used) >= 3  # of the names, those of this page
    (compared,) = (command for command in commands if command[0] == "compare")
    out = tmp_path / Path(compared[compared.index("--out") + 1]).name
    with (out / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    rewards = compared[compared.index("--rewards") + 1 : compared.index("--seeds")]
    assert {row["credit"] for row in rows} == set(rewards)
    assert (out / "report.html").is_file()


TRL = {
    **{"learning-rate": "1.41e-5", "learning-rate-schedule": "constant", "n-epochs": "4"},
    **{"value-network": "trunk", "vf-coef": "0.1", "clip-range-vf": "0.2"},
    **{"kl-estimator": "k1", "kl-coef": "0.2", "kl-target": "6", "kl-horizon": "10000"},
}
"""What TRL's PPO did by default when the ABC paper was written, where ours does something else."""


def test_the_paper_s_settings_are_those_of_its_ppo() -> None:
    (compared,) = (c for c in commands_of(GUIDE / "recipe_gpt2_imdb.md") if c[0] == "compare")
    assert {flag: compared[compared.index(f"--{flag}") + 1] for flag in TRL} == TRL
