"""The study of forks: its rule, its prices, its page."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import tokengym  # noqa: F401  (registers the ids)
from studies import forks, forks_steps
from studies import forks_imitated as imitated
from studies import forks_noise as noise
from tokengym.base.files import write_csv
from tokengym.lab.envs.forks.families import verify
from tokengym.lab.makers.corpora.forks_texts import Demonstration, demonstrate, write_prompt
from tokengym.lab.protocol import SPARE_SEED
from tokengym.lab.study import DOCS, read_rows
from tokengym.rewards import RewardTraining

PAGE = "details/forks.md"


def test_the_decisive_rule_pays_the_advantages_of_the_best_play() -> None:
    forks.register_decisive()
    env: Any = gym.make("tokengym/Forks-v0", reward="decisive", recoverable=1)
    for seed in range(8):
        _, info = env.reset(seed=seed)
        env.action_space.seed(seed)
        over = False
        while not over:
            *_, terminated, truncated, info = env.step(env.action_space.sample(info["action_mask"]))
            over = terminated or truncated
        exact = env.unwrapped.optimal_values(info["prompt"]).advantages.along(info["response_ids"])
        exact[0] += info["score"] - exact.sum()
        np.testing.assert_allclose(info["token_rewards"], exact, atol=1e-6)


@pytest.mark.parametrize("setting", forks.SETTINGS)
def test_settings_are_those_of_the_environment_and_cost_what_is_counted(setting: str) -> None:
    cell = forks.Cell(setting=setting, learner="ppo", rule=forks.MC)
    kwargs = cell.config().env_kwargs(cell.reward, train=True)
    task: Any = gym.make_vec(cell.config().env, num_envs=2, **kwargs).unwrapped
    assert (task.knobs.asked, task.max_new_tokens) == (cell.asked, cell.length)
    assert task.knobs.family == forks.FAMILY
    inner = sum(cell.length - 4 * (place + 1) for place in range(cell.asked - 1))
    assert cell.tokens_per_episode() == cell.length + 4 * inner
    assert cell.config().training.learner.advantage == "vineppo"


def test_labels_of_steps_are_exact_or_executed_and_the_page_has_their_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "details").mkdir()
    shutil.copy(DOCS / PAGE, tmp_path / PAGE)
    monkeypatch.setattr(forks_steps, "TRAINED", 16)
    monkeypatch.setattr(forks_steps, "HELD_OUT", 16)
    monkeypatch.setattr(forks_steps, "TRAINING", RewardTraining(batch_size=16))
    env, shown = forks_steps.demonstrations("train", 16, seed=2)
    exact, forked = forks_steps.exact_rows(env, shown), forks_steps.forked_rows(shown)
    for episode, one, other in zip(shown, exact, forked, strict=True):
        assert one.labels[-1] == other.labels[-1] == verify(episode.prompt, episode.response)
        assert sorted(one.labels, reverse=True) == list(one.labels)  # what is lost stays lost
        assert np.less_equal(other.labels, one.labels).all()
    forks_steps.page(tmp_path)
    assert "| exact | 1.00 | 0." in (tmp_path / PAGE).read_text(encoding="utf-8")


def test_process_models_and_imitation_start_from_small_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forks_steps, "TRAINED", 16)
    monkeypatch.setattr(forks_steps, "HELD_OUT", 16)
    monkeypatch.setattr(forks_steps, "TRAINING", RewardTraining(batch_size=16))
    monkeypatch.setattr(forks_steps, "SETTINGS", {"easy": forks.SETTINGS["easy"]})
    monkeypatch.chdir(tmp_path)
    forks_steps.train()
    cell = forks.Cell(setting="easy", learner="ppo", rule=forks.PURE)
    assert cell.label == "prm, min"
    assert cell.reward == "prm:model=runs/forks_process/easy,steps=segment,segments=3,form=min"
    task = forks_steps.Task(**forks.SETTINGS["easy"], fillers=forks.FILLERS_BEFORE)
    _, shown = forks_steps.demonstrations("test", 4, seed=1, task=task)
    envs: Any = gym.make_vec("tokengym/Forks-v0", num_envs=1, reward=cell.reward, **task.knobs)
    paid = envs.reward.evaluate(shown)
    assert all((np.flatnonzero(e.token_rewards) % task.size == task.size - 1).all() for e in paid)


def test_imitation_leaves_measured_prompts_out_and_fills_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def few(seed: int) -> tuple[list[Demonstration], list[Demonstration]]:
        rng = np.random.default_rng(seed)
        prompts = [write_prompt(rng) for _ in range(40)]
        measured = imitated.evaluators()["easy"].envs.unwrapped.prompts[0].text  # type: ignore[attr-defined]
        options: dict[str, Any] = {"skill": 0.9, "judged_by": 0.9, "fillers": 0, "rng": rng}
        shown = [demonstrate(family, prompt, **options) for family, prompt in prompts]
        return [], [*shown, demonstrate("brackets", measured, **options)]

    monkeypatch.setattr(imitated, "demonstrations", few)
    monkeypatch.setattr(imitated, "RATES", (1e-4, 1e-3))
    monkeypatch.setattr(imitated, "SEEDS", (80,))
    imitated.examples.cache_clear()
    try:
        shown = imitated.examples()
        assert len(shown["any"]) == len(shown["solved"]) < 41
        assert all(verify(d.prompt, " ".join(d.words)) for d in shown["solved"])
        imitated.run(tmp_path / "runs")
    finally:
        imitated.examples.cache_clear()
    (tmp_path / "details").mkdir()
    shutil.copy(DOCS / PAGE, tmp_path / PAGE)
    (tmp_path / forks.FOLDER).mkdir()
    imitated.page(tmp_path / "runs", tmp_path)
    published = (tmp_path / forks.FOLDER / imitated.FILE).read_bytes()
    table = (tmp_path / PAGE).read_text(encoding="utf-8")
    assert f"| solved | {len(shown['solved'])} | " in table
    imitated.page(tmp_path / "gone", tmp_path)  # from what is published
    assert (tmp_path / forks.FOLDER / imitated.FILE).read_bytes() == published


# --- noise ----------------------------------------------------------------------------------------


def test_advantages_are_centred_by_position_and_the_decisive_ones_exact() -> None:
    episodes, policy, kwargs, legal = noise.played("easy", 16)
    found = noise.all_advantages(episodes, policy, kwargs)
    task: Any = gym.make(noise.ENV, **{k: v for k, v in kwargs.items() if k != "normalize"})
    exact = np.stack(
        [task.unwrapped.optimal_values(e.prompt).advantages.along(e.response_ids) for e in episodes]
    )
    decisive = found[noise.DECISIVE, 0.0, 0].numpy()
    np.testing.assert_allclose(decisive, exact - exact.mean(0), atol=1e-6)
    for advantages in found.values():
        assert advantages.shape == (16, len(legal))
        np.testing.assert_allclose(advantages.mean(0), 0.0, atol=1e-4)


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> forks.Cell:
    """Return a cell, which stands alone with one other: plans of all take seconds."""
    cell = forks.Cell(setting="middle", learner="ppo", rule=forks.BASELINE)
    monkeypatch.setattr(forks, "cells", lambda: [cell, replace(cell, rule=forks.MC)])
    return cell


def test_published_runs_and_sweeps_are_kept_and_not_run_again(
    cell: forks.Cell, tmp_path: Path
) -> None:
    folder = tmp_path / forks.FOLDER
    folder.mkdir()
    for name in (forks.CURVES, forks.SETTINGS_OF, forks.SWEEPS):
        shutil.copy(DOCS / forks.FOLDER / name, folder / name)
    file = folder / forks.CURVES
    before = file.read_bytes()
    wanted = [
        (name, seed)
        for name, _, _, seed in forks.pending(tmp_path / "runs", tmp_path)
        if name.startswith(f"{cell.name}-0")  # a rate; `-1-0.001` is another lambda
    ]
    rows = read_rows(file, text=("cell", "credit"))
    published = {int(row["seed"]) for row in rows if row["cell"] == cell.name}
    assert wanted
    assert not {seed for _, seed in wanted} & {*published, SPARE_SEED}
    assert {seed for _, seed in wanted} <= set(range(forks.FIRST_SEED, forks.FIRST_SEED + 10))
    forks.publish(tmp_path / "runs", tmp_path)
    assert file.read_bytes() == before
    rates = {row["rate"] for row in read_rows(folder / forks.SWEEPS, text=("cell",))}
    assert {1e-4, 3e-4, 1e-3} <= rates


def test_runs_at_a_rate_that_is_no_longer_the_best_are_run_again(
    cell: forks.Cell, tmp_path: Path
) -> None:
    shutil.copytree(DOCS / forks.FOLDER, tmp_path / forks.FOLDER)
    sweeps = tmp_path / forks.FOLDER / forks.SWEEPS
    rows = read_rows(sweeps, text=("cell",))
    mine = [row for row in rows if row["cell"] == cell.name]
    best = max(mine, key=lambda row: row["area"])
    others = [row for row in rows if row["cell"] != cell.name]
    low = [{**best, "rate": rate, "area": area} for rate, area in ((3e-5, 0.0), (1e-4, 9.0))]
    mine = [row for row in mine if row["rate"] != 1e-4]
    write_csv(sweeps, [*others, *mine, *low], list(rows[0]))
    missing = {(name, seed) for name, _, _, seed in forks.pending(tmp_path / "runs", tmp_path)}
    assert (f"{cell.name}-0.0001", forks.FIRST_SEED) in missing
