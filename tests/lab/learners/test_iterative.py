"""Rounds of learning: scores rise, the reference stays, a stopped run ends as a whole one."""

import json
import shutil
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch

from tests.support.agents.common import lora_config, make_model
from tokengym.agents import collect
from tokengym.agents.errors import CheckpointError
from tokengym.agents.offline.collecting import Sampling
from tokengym.agents.offline.dpo import DPO
from tokengym.agents.offline.settings import Tuning
from tokengym.agents.offline.sft import SFT
from tokengym.base.errors import SettingsError
from tokengym.lab.collect import load_pairs
from tokengym.lab.learners.best_of_n import BestOfN
from tokengym.lab.learners.iterative import RAFT, OnlineDPO
from tokengym.lab.learners.settings import OnlineDPORun, OnlineDPOSettings
from tokengym.lab.scorers.preference_model import WinRateScorer
from tokengym.rewards import FunctionScorer, Scorer, Scores
from tokengym.rewards.pairs import read_table, responses_dataset

QUICK = Tuning(learning_rate=3e-3, num_train_epochs=4, batch_size=16, micro_batch_size=16)
BRIEF = replace(QUICK, learning_rate=1e-2, num_train_epochs=1)
"""Where it does not matter how much is learned: one update, large enough to change responses."""


def weights(agent):
    return torch.cat([p.flatten() for p in agent.policy.language_model.model.parameters()])


def build(make_envs, learner=OnlineDPO, **settings):
    defaults = {"tuning": QUICK, "prompts_per_iteration": 32, "seed": 0, "device": "cpu"}
    return learner(make_envs(), make_model(scale=2.0), **defaults | settings)


def brief(make_envs, learner=OnlineDPO, **settings):
    """Return a learner of four prompts and one update in an iteration."""
    return build(make_envs, learner, **{"tuning": BRIEF, "prompts_per_iteration": 4} | settings)


@pytest.mark.parametrize("learner", [OnlineDPO, RAFT])
def test_scores_rise_and_the_reference_stays(make_envs, learner):
    agent = build(make_envs, learner)
    reference = agent.policy.reference.model
    before = [p.clone() for p in reference.parameters()]
    agent.learn(3)
    first, *_, last = agent.history
    assert last.score > first.score + 0.1
    assert all(i.kept_score > i.score for i in agent.history)
    assert agent.policy.reference.model is reference
    assert all(torch.equal(p, q) for p, q in zip(before, reference.parameters(), strict=True))
    played = collect(agent, make_envs(), 64, seed=1)
    assert np.mean([e.score for e in played]) > first.score + 0.1
    assert last.tokens_sampled > 3 * 32 * 8
    assert last.tokens == last.tokens_sampled + last.tokens_trained
    assert last.tokens_trained > 0


@pytest.mark.parametrize(
    ("learner", "instead"),
    [
        (OnlineDPO, r"write OnlineDPO\(envs\): its policy is made of the environment's model"),
        (RAFT, r"write RAFT\(envs\)"),
        (BestOfN, r"write BestOfN\(None, envs\): the environment's model writes the candidates"),
    ],
)
def test_the_name_of_a_policy_is_answered_with_how_it_is_made(make_envs, learner, instead):
    with pytest.raises(
        SettingsError, match=f"no name of a policy, got 'CausalLMPolicy'; {instead}"
    ):
        learner("CausalLMPolicy", make_envs())


def test_iterations_go_through_the_prompts_before_any_comes_again(make_envs):
    prompts = [f"{x} {y}" for x in "bcde" for y in "bc"]
    asked: list[str] = []

    def score(prompt: str, response: str) -> float:
        asked.append(prompt)
        return float(len(response))

    settings: Any = {"tuning": BRIEF, "prompts_per_iteration": 4, "seed": 0, "device": "cpu"}
    envs, scorer = make_envs(prompts=prompts), FunctionScorer(score)
    agent = RAFT(envs, make_model(scale=2.0), scorer=scorer, **settings)
    seen = []
    for _ in range(2):
        asked.clear()
        agent.iterate()
        seen.append({*asked})
    assert [len(each) for each in seen] == [4, 4]
    assert seen[0] | seen[1] == {*prompts}


def test_stopped_run_ends_with_the_same_weights(make_envs, tmp_path):
    whole = brief(make_envs, output_dir=tmp_path / "whole").learn(3)
    folder = tmp_path / "stopped"
    brief(make_envs, output_dir=folder).learn(1)
    # The second iteration was broken off after its pairs were written.
    (folder / "iteration-002").mkdir()
    resumed = brief(make_envs, output_dir=folder).learn(3)
    assert torch.equal(weights(resumed), weights(whole))
    assert resumed.history == whole.history
    again = brief(make_envs, output_dir=folder).learn(3)
    assert torch.equal(weights(again), weights(whole))
    pairs = load_pairs(folder / "iteration-003" / "pairs.jsonl")
    assert len(pairs) == whole.history[2].rows
    record = json.loads((folder / "iteration-003" / "iteration.json").read_text())
    assert record["number"] == 3


def test_saved_policy_plays_alike(make_envs, tmp_path):
    for learner, loader in ((OnlineDPO, DPO), (RAFT, SFT)):
        agent = brief(make_envs, learner).learn(1)
        agent.save(tmp_path / learner.__name__)
        loaded = loader.load(tmp_path / learner.__name__, env=make_envs())
        assert collect(loaded, make_envs(), 8, seed=2) == collect(agent, make_envs(), 8, seed=2)


def test_ties_teach_nothing(make_envs, caplog, tmp_path):
    agent = brief(make_envs, scorer=flat_scorer(), output_dir=tmp_path)
    before = weights(agent).clone()
    agent.learn(1)
    assert torch.equal(weights(agent), before)
    assert "nothing was learned" in caplog.text
    assert agent.history[0].rows == 0
    again = brief(make_envs, scorer=flat_scorer(), output_dir=tmp_path)
    assert again.learn(1).history[0].rows == 0
    assert np.isnan(again.history[0].loss)


def flat_scorer():
    return FunctionScorer(lambda prompt, response: 1.0)


def test_adapters_learn_too(make_envs):
    agent = brief(make_envs, lora=lora_config())
    assert agent.policy.reference is None
    agent.learn(2)
    played = collect(agent, make_envs(), 8, seed=0)
    ids = [list(e.prompt_ids) for e in played], [list(e.response_ids) for e in played]
    now, before = (agent.policy.log_probs(*ids, reference=r) for r in (False, True))
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(now, before, strict=True))


def test_raft_learns_the_best(make_envs, tmp_path):
    brief(make_envs, RAFT, output_dir=tmp_path).learn(1)
    rows = responses_dataset([*read_table(tmp_path / "iteration-001" / "best.jsonl")])
    assert len(rows) == 4


def test_sampling_is_the_papers():
    assert OnlineDPOSettings().sampling == Sampling(n=8, temperatures=(1.0, 0.7))
    assert (Tuning().learning_rate, Tuning().num_train_epochs, Tuning().batch_size) == (
        5e-7,
        2,
        128,
    )


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"scorer": FunctionScorer(lambda prompt, response: -float(len(response)))}, "probe = "),
        ({"seed": 3}, r"seed = 0.*3"),
        ({"model": make_model(scale=1.0)}, "model = "),
        ({"max_new_tokens": 3}, "= .*max_new_tokens"),
        ({"prompts": ["q w e", "r t y", "u i o"]}, "prompts = "),
        ({"prompts_per_iteration": 8}, r"prompts_per_iteration = 4.*8"),
        ({"products": "onednn"}, r"products = torch.*onednn"),
    ],
)
def test_iterations_of_another_task_are_refused(make_envs, tmp_path, change, match):
    scorer = FunctionScorer(lambda prompt, response: float(len(response)))
    common = {"prompts_per_iteration": 4, "tuning": BRIEF, "device": "cpu", "output_dir": tmp_path}

    def learner(change):
        of_env = {k: v for k, v in change.items() if k in ("max_new_tokens", "prompts")}
        of_agent = {k: v for k, v in change.items() if k not in of_env}
        arguments = {"scorer": scorer, "model": make_model(scale=2.0), **common, **of_agent}
        return OnlineDPO(make_envs(**of_env), **arguments)

    learner({}).learn(1)
    assert len(learner({}).learn(1).history) == 1
    with pytest.raises(CheckpointError, match=match):
        learner(change).learn(1)


def test_damaged_record_is_named(make_envs, tmp_path):
    brief(make_envs, output_dir=tmp_path).learn(1)
    (tmp_path / "iteration-001" / "iteration.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"iteration\.json.*delete"):
        brief(make_envs, output_dir=tmp_path).learn(1)


def explorer(make_envs, enhancer, **settings):
    sampling = Sampling(n=8, temperatures=(1.0, 0.7))
    return brief(make_envs, **{"sampling": sampling, "enhancer": enhancer} | settings)


def spied(agent, monkeypatch):
    """Return the list that takes what the agent's collector will have scored."""
    scored = []
    score = agent.collector.score

    def spy(groups):
        scored.append(score(groups))
        return scored[-1]

    monkeypatch.setattr(agent.collector, "score", spy)
    return scored


@pytest.mark.parametrize("enhancer", ["temperatures", "checkpoint", "best-of-n"])
def test_iterations_with_each_enhancer_resume_exactly(make_envs, tmp_path, enhancer):
    whole = explorer(make_envs, enhancer, output_dir=tmp_path / "whole").learn(3)
    for stop in (1, 2):
        folder = shutil.copytree(tmp_path / "whole", tmp_path / str(stop))
        for number in range(stop + 1, 4):  # it was stopped before these
            shutil.rmtree(folder / f"iteration-{number:03d}")
        resumed = explorer(make_envs, enhancer, output_dir=folder).learn(3)
        assert resumed.history == whole.history
        assert torch.equal(weights(resumed), weights(whole))


def test_the_older_checkpoint_writes_half_of_the_responses(make_envs, monkeypatch):
    agent = explorer(make_envs, "checkpoint")
    written = []
    write = agent.collector.write

    def spy(policy, prompts, generator, *, n=None):
        written.append((weights(agent).clone(), n))
        return write(policy, prompts, generator, n=n)

    monkeypatch.setattr(agent.collector, "write", spy)
    starts = []
    for _ in range(3):
        starts.append(weights(agent).clone())
        agent.iterate()
    assert [n for _, n in written] == [4] * 6
    expected = [starts[0], starts[0], starts[1], starts[0], starts[2], starts[1]]
    assert all(torch.equal(w, e) for (w, _), e in zip(written, expected, strict=True))
    assert not torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[1], starts[2])


def test_the_enhancer_keeps_the_best_of_its_candidates(make_envs, monkeypatch):
    agent = explorer(make_envs, "best-of-n", enhancer_candidates=3)
    scored = spied(agent, monkeypatch)
    groups = agent.respond(range(4), 0)
    candidates, final = scored
    assert [len(group) for group in candidates] == [3] * 16
    assert final == groups
    assert [len(group) for group in groups] == [8] * 4
    best = [max(episode.score for episode in group) for group in candidates]
    assert [episode.score for group in groups for episode in group[4:]] == best
    tokens = sum(len(e.response_ids) for group in candidates for e in group)
    main = sum(len(e.response_ids) for group in groups for e in group[:4])
    assert agent.collector.num_tokens == tokens + main


class Unsure(Scorer):
    """Scores nothing, and is the less sure the more target tokens a response has."""

    disagrees = True

    def score(self, episodes, *, attribution=None):
        unsure = np.array([sum(e.response_ids) for e in episodes], dtype=np.float32)
        return Scores(-unsure, parts={"disagreement": unsure})


def test_the_enhancer_keeps_what_the_scorer_is_least_sure_of(make_envs, monkeypatch):
    agent = explorer(make_envs, "disagreement", enhancer_candidates=3, scorer=Unsure())
    scored = spied(agent, monkeypatch)
    groups = agent.respond(range(4), 0)
    most = [max(e.score_parts["disagreement"] for e in group) for group in scored[0]]
    kept = [episode.score for group in groups for episode in group[4:]]
    assert kept == [-value for value in most]
    assert len(set(most)) > 1
    with pytest.raises(ValueError, match=r"heads.*--heads 4"):
        explorer(make_envs, "disagreement", scorer=flat_scorer())


class LongerWins:
    """Prefers the response with more target tokens."""

    name = "stub"

    def preferences(self, triples):
        return np.array([0.5 + 0.05 * (a.count("a") - b.count("a")) for _, a, b in triples])


@pytest.mark.parametrize("learner", [OnlineDPO, RAFT])
def test_a_preference_model_ranks_without_references(make_envs, learner, tmp_path):
    arguments = {"scorer": WinRateScorer(cast("Any", LongerWins())), "output_dir": tmp_path}
    agent = build(make_envs, learner, **arguments)
    before = float(np.mean([e.score for e in collect(agent, make_envs(), 64, seed=1)]))
    agent.learn(3)
    assert all(i.score == pytest.approx(0.5) and i.kept_score > 0.5 for i in agent.history)
    assert np.mean([e.score for e in collect(agent, make_envs(), 64, seed=1)]) > before + 0.1


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"enhancer": "older"}, r"enhancer.*'best-of-n'"),
        ({"enhancer": "checkpoint", "sampling": Sampling(n=6, temperatures=(1.0, 0.7))}, "of 4 "),
        ({"enhancer_candidates": 1}, "enhancer_candidates.*>= 2"),
        ({"preference_model": "x", "sampling": Sampling(n=1)}, r"n must.*2"),
        ({"sampling": Sampling(n=1)}, "n.*2.*got 1"),
        ({"preference_model": "x", "scorer": flat_scorer()}, "preference_model"),
        ({"prompts_per_iteration": 0}, r"prompts_per_iteration.*>= 1, got 0"),
        ({"learner": RAFT, "sampling": Sampling(min_gap=0.5)}, r"^min_gap=0\.5 .*best"),
        ({"learner": RAFT, "samplin": None}, r"'samplin'.*sampling"),
    ],
)
def test_bad_settings_are_refused(make_envs, settings, match):
    with pytest.raises((ValueError, TypeError), match=match):
        build(make_envs, **settings)


def test_bad_numbers_are_refused():
    for make, match in (
        (lambda: Tuning(learning_rate=0.0), "learning_rate must"),
        (lambda: Tuning(batch_size=0), "batch_size must"),
        (lambda: Tuning(batch_size=48), r"micro_batch_size=32.*got 48"),
        (lambda: OnlineDPORun(iterations=cast("int", 2.5)), r"iterations.*>= 1, got 2\.5"),
        (lambda: Sampling(n=cast("int", 4.0)), r"n.*>= 1, got 4\.0"),
    ):
        with pytest.raises(ValueError, match=match):
            make()
