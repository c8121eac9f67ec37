"""Agents that learn from preferences are measured like PPO, and resumed where they can be."""

import csv
import math
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from tests.support.evaluation.run import SMALL, config
from tokengym.agents import PPO
from tokengym.agents.contract import Update
from tokengym.agents.learner import ROUND_LOG, Learner
from tokengym.agents.loading import load_agent
from tokengym.agents.offline.settings import PAIR_FIGURES, TEXT_FIGURES
from tokengym.agents.policy.backend import backend
from tokengym.agents.policy.language_model import CausalLM
from tokengym.agents.policy.settings import Products
from tokengym.agents.training import updates
from tokengym.base.errors import CheckpointError
from tokengym.base.files import read_json
from tokengym.evaluation.measure.evaluate import Evaluator
from tokengym.evaluation.runs.run import Run, run
from tokengym.evaluation.runs.settings import EvaluationSettings


@pytest.mark.parametrize("kind", ["dpo", "sft"])
def test_offline_learners_leave_a_curve_and_an_agent(tmp_path, kind, monkeypatch):
    heard, tracked = [], []
    kept = SimpleNamespace(
        write=lambda row, _, step: tracked.append((step, set(row))), close=lambda: None
    )
    monkeypatch.setattr("tokengym.agents.rollouts.logs.make_tracker", lambda *_, **__: kept)
    record = run(
        config(kind, num_prompts=16, **SMALL),
        kind,
        0,
        out=tmp_path,
        save=tmp_path / "agent",
        report=lambda step, score: heard.append(step),
        track="kept",
    )
    moments = [step for step, _ in tracked]
    assert moments == sorted(moments)  # some trackers drop what lies before their last step
    by_step = {step: set().union(*(row for at, row in tracked if at == step)) for step in moments}
    figure = "rewards/margins" if kind == "dpo" else "mean_token_accuracy"
    assert {f"train/{figure}", "train/loss"} <= by_step[1]
    assert {f"train/{figure}", f"eval/{figure}", "eval/loss", "eval/score"} <= by_step[4]
    assert heard == [point["step"] for point in record.points] == [0, 1, 2]
    sampled = 16 * 4 * 8
    trained = 2 * 16 * 8 if kind == "dpo" else 16 * 8  # per epoch: both of a pair, or the best
    assert record.points[0]["tokens"] == 0
    assert sampled < record.points[1]["tokens"] <= sampled + trained
    assert record.points[2]["tokens"] - sampled == 2 * (record.points[1]["tokens"] - sampled)
    assert record.points[0]["kl"] == pytest.approx(0.0, abs=1e-4)
    assert record.points[2]["kl"] > 0.001
    written = read_json(tmp_path / kind / "seed-0" / "run.json")
    assert (written["credit"], written["status"], written["steps_done"]) == (kind, "finished", 4)
    start, *steps = Run(tmp_path / kind / "seed-0").log
    assert [row["step"] for row in steps] == [1, 2, 3, 4]  # two of eight in each of two epochs
    assert [row["epoch"] for row in steps] == [0.5, 1.0, 1.5, 2.0]
    figures = ["loss", *(PAIR_FIGURES if kind == "dpo" else TEXT_FIGURES)]
    for name in figures:  # held-out values before training and after each epoch
        assert all(row[name] is not None for row in steps), name
        assert [r["step"] for r in (start, *steps) if r[f"eval_{name}"] is not None] == [0, 2, 4]
    if kind == "dpo":
        assert start["eval_loss"] == steps[0]["loss"] == pytest.approx(math.log(2))
        assert steps[-1]["rewards/margins"] > steps[0]["rewards/margins"] == 0.0
    assert load_agent(tmp_path / "agent").policy is not None
    (tmp_path / "agent").rename(tmp_path / "agent.previous")  # killed between two renames
    assert load_agent(tmp_path / "agent").policy is not None


def test_a_run_computes_with_its_own_number_of_threads(monkeypatch):
    """The same with the command line's ``train``, a worker of ``compare`` and a notebook."""
    found: list[int] = []

    def note(*_: object) -> Iterator[Update]:
        found.append(torch.get_num_threads())
        yield from ()

    monkeypatch.setattr(Learner, "train", note)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        run(config("sft"), "sft", 0)
        run(config("sft", threads=2), "sft", 0)
        assert (found, torch.get_num_threads()) == ([1, 2], 3)
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not backend().has_onednn(), reason="torch without oneDNN")
@pytest.mark.parametrize("agent", ["ppo", "dpo"])
def test_every_policy_of_a_run_multiplies_by_the_library_that_it_records(
    agent, tmp_path, monkeypatch
):
    used: list[str] = []
    use = CausalLM.use_products

    def noted(self: CausalLM, products: Products) -> None:
        used.append(products)
        use(self, products)

    monkeypatch.setattr(CausalLM, "use_products", noted)
    settings = {"tokens": 8} if agent == "ppo" else {"num_prompts": 1, "n": 2}
    few = EvaluationSettings(episodes=2, reference_samples=16)
    ours = config(agent, few, batch_size=4, products="onednn", **settings)
    run(ours, ours.names[0], 0, out=tmp_path, save=tmp_path / "agent")
    Run(ours.reference_spec(tmp_path)).draw()
    assert load_agent(tmp_path / "agent").policy.language_model.products == "onednn"
    assert {*used} == {"onednn"}
    files = list(tmp_path.rglob("spec.json"))
    assert len(files) == 2
    for file in files:
        assert read_json(file)["training"]["products"] == "onednn"


def test_a_checkpoint_of_another_library_is_refused():
    saved = SimpleNamespace(language_model=SimpleNamespace(products="onednn"))
    unfinished = SimpleNamespace(
        training=SimpleNamespace(products="torch"),
        settings=SimpleNamespace(),
        resume=lambda load: SimpleNamespace(policy=saved),
    )
    with pytest.raises(CheckpointError, match="products='onednn', got 'torch'"):
        next(updates(unfinished, PPO))


def test_the_first_updates_can_be_measured_more_finely_and_change_nothing(monkeypatch):
    closed: list[Evaluator] = []
    monkeypatch.setattr(Evaluator, "close", lambda self: closed.append(self))
    coarse, fine = (
        run(
            config(
                "ppo",
                EvaluationSettings(episodes=16, samples=0, every=3, every_until=until),
                steps=5,
                batch_size=8,
            ),
            "sparse",
            0,
        ).points
        for until in (0, 1)
    )
    assert [point["step"] for point in coarse] == [0, 3, 5]
    assert [point["step"] for point in fine] == [0, 1, 3, 5]
    assert [p["score"] for p in fine if p["step"] != 1] == [p["score"] for p in coarse]
    assert len(closed) == 2  # what a run has opened is closed at its end


def test_a_measured_policy_has_the_kl_of_the_round_that_it_samples_next(tmp_path):
    """The round before an update is sampled by the policy that was measured before it."""
    made = config("ppo", EvaluationSettings(episodes=16, every=1), batch_size=8, steps=3)
    record = run(made, "sparse", 0, out=tmp_path)
    rounds = [row["kl"] for row in record.log]
    assert [point.get("round_kl") for point in record.points] == [*rounds, None]
    assert rounds[0] == pytest.approx(0.0, abs=1e-6)
    assert all(kl > 0 for kl in rounds[1:])


def test_what_a_learner_of_ones_own_logs_is_a_column(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from tokengym import PPO\n"
        "class Mine(PPO):\n"
        "    def update(self, experience):\n"
        "        stats = super().update(experience)\n"
        "        self.logger.record('train/mine', 2.5 * self._n_updates)\n"
        "        self.logger.record('train/step', 7)\n"  # whose name the table has already
        "        self.logger.record('other/words', 'text')\n"
        "        return stats\n"
    )
    word = f"{tmp_path / 'mine.py'}:Mine"
    for name, own in ((word, {"mine", "train/step"}), ("ppo", set())):
        out = tmp_path / name.rpartition(":")[2]
        run(config(name, batch_size=4, steps=2, normalize=None), "sparse", 0, out=out)
        with next(out.rglob("train.csv")).open() as file:
            rows = list(csv.DictReader(file))
        assert {*rows[0]} - {"step", *ROUND_LOG.values()} == own
        assert all(float(row["grad_norm"]) > 0 for row in rows)
        assert [row.get("mine") for row in rows] == (["2.5", "5"] if own else [None, None])
