"""The study of the alignment tax: its runs, what a policy finds in texts, and the tables."""

from pathlib import Path

import gymnasium as gym
import pytest

from studies import real_model
from studies import real_tax as study
from tests.suite.agents.conftest import lora_config, make_model, make_tokenizer
from tokengym.agents.offline.policies import make_policy
from tokengym.base import write_csv
from tokengym.lab.protocol import SPARE_SEED
from tokengym.lab.study import Cell

MINUS = "\N{MINUS SIGN}"


def test_the_runs_are_those_of_the_real_model_s_study() -> None:
    first, *trained = study.ORDER
    assert first.folder == study.START
    assert len({run.folder for run in study.ORDER}) == len(study.ORDER)
    rules = [run for run in trained if run.name != study.NOISE]
    assert {(run.name, run.rate, run.seed) for run in rules} == {
        *((rule, 3e-3, seed) for rule in ("sparse", "abc-signed") for seed in (0, 1)),
        ("sparse", 1e-2, SPARE_SEED),
    }
    for run in rules:
        cell = Cell(rule=run.name, rate=run.rate, seed=run.seed)
        assert run.config() == real_model.config(cell, Path())
    noise = study.Run(name=study.NOISE).config()
    env = gym.make("tokengym/MovieReview-v0", scorer=noise.task.scorer, max_new_tokens=2)
    _, info = env.reset(seed=0)
    for _ in range(2):
        *_, info = env.step(env.action_space.sample(mask=info["action_mask"]))
    assert info["score"] == pytest.approx(study.noise(info["prompt"], info["response"]))
    assert noise.training == study.Run(name="sparse").config().training


def test_noise_has_the_spread_that_it_says() -> None:
    scores = [study.noise("", str(number)) for number in range(2000)]
    assert sum(scores) / 2000 == pytest.approx(0.0, abs=0.1)
    assert (sum(s * s for s in scores) / 2000) ** 0.5 == pytest.approx(study.NOISE_SD, rel=0.05)


def test_texts_are_read_by_the_policy_and_held_to_its_reference() -> None:
    texts = [study.Text("positive", [3, 4], [6, 7, 3]), study.Text("negative", [5], [2])]
    policy = make_policy(make_model(scale=2.0), tokenizer=make_tokenizer(), lora=lora_config())
    reader = study.Reader(texts, rows=1)
    first, second = reader.figures(policy)
    log_probs = policy.log_probs([[3, 4]], [[6, 7, 3]])[0]
    assert first == {
        "kind": "positive",
        "text": 0,
        "nats": pytest.approx(-log_probs.mean(), abs=1e-4),
        "kl": 0.0,
    }
    assert (second["kind"], second["text"]) == ("negative", 1)
    for parameter in policy.trained_parameters():
        parameter.data += 0.1
    moved, _ = reader.figures(policy)
    assert moved["kl"] > 0
    assert moved["nats"] != first["nats"]


def row(name: str, text: int, nats: float | None, kind: str = "positive", **more: float):
    """Return a row of published figures."""
    return {"name": name, "rate": 3e-3, "seed": 0, "kind": kind, "text": text, "nats": nats, **more}


def test_differences_are_paired_by_text() -> None:
    rows = [
        *(row(study.START, text, value) for text, value in enumerate((1.0, 2.0, None, 4.0))),
        *(row("sparse", text, value) for text, value in enumerate((1.5, 2.5, 3.0, 4.5))),
        *(row("noise", text, value) for text, value in enumerate((0.0, 3.0, None, 4.0))),
    ]
    lines = study.table({"nats": study.by_run(rows, "nats")}, {"nats": "nats"}).splitlines()
    assert lines[2].startswith("| untrained | 2.33 (")
    assert lines[3] == "| sparse, seed 0 | **+0.500** (0.500 to 0.500) |"
    assert lines[4].startswith("| noise, seed 0 | 0.000 (" + MINUS)


def test_what_is_measured_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "foreign_texts", lambda _: iter([study.Text("positive", [3], [4])]))
    monkeypatch.setattr(study.Run, "train", lambda *_: pytest.fail("trained"))
    monkeypatch.setattr(study.Run, "policy", lambda *_: pytest.fail("loaded"))
    for run in study.ORDER:
        (tmp_path / run.folder).mkdir()
        for name in (study.RUNS, study.TEXTS, study.ANSWERS):
            (tmp_path / run.folder / name).touch()
    study.run(tmp_path, tmp_path)


def test_a_folder_half_done_publishes_its_runs_beside_those_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "page", lambda docs: None)

    def put(folder: Path, *runs: study.Run, nats: float) -> None:
        for run in runs:
            for name in (study.RUNS, study.TEXTS, study.ANSWERS):
                (folder / run.folder).mkdir(parents=True, exist_ok=True)
                row = {**vars(run), "kind": "positive", "nats": nats}
                write_csv(folder / run.folder / name, [row], list(row))

    docs, first, second = tmp_path / "docs", study.ORDER[1], study.ORDER[2]
    put(tmp_path / "whole", study.ORDER[0], first, second, nats=1.0)
    put(tmp_path / "half", first, nats=2.0)
    for out in ("whole", "half"):
        study.publish(tmp_path / out, docs)
    for name in (study.RUNS, study.TEXTS, study.ANSWERS):
        rows = study.read_rows(docs / study.FOLDER / name, text=["name", "kind"])
        assert [(row["name"], row["nats"]) for row in rows] == [
            (study.START, 1.0),
            (first.name, 2.0),
            (second.name, 1.0),
        ]
