"""The pipeline makes responses cleaner, goes on where it was stopped, and reports it."""

import json
import shutil
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from tokengym.base.files import read_json, read_jsonl
from tokengym.envs import bundled
from tokengym.evaluation.runs.settings import TaskSettings
from tokengym.lab.constitution import ConstitutionConfig, run_constitution
from tokengym.lab.constitution import scene as scene_module
from tokengym.lab.constitution.critics import Principle
from tokengym.lab.constitution.report import _as_markdown, as_html


def config(**settings):
    small: dict[str, Any] = {
        "num_prompts": 32,
        "pair_prompts": 24,
        "ppo_steps": 1,
        "batch_size": 8,
        "eval_episodes": 24,
        "task": TaskSettings(max_new_tokens=16),
        "sft_learning_rate": 1e-3,
        "reward_epochs": 1.0,
    }
    return ConstitutionConfig(**small | settings)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    heard: list[str] = []
    results = run_constitution(config(), folder, report=heard.append)
    return folder, results, heard


def test_toxicity_falls_at_each_stage(done):
    _, results, heard = done
    assert heard == ["responses", "revisions", "sft", "pairs", "reward_model", "ppo", "evaluation"]
    before, after = results["revisions"][0], results["revisions"][1]
    assert after < 0.3 < before
    policies = results["policies"]
    assert policies["SFT on revisions"]["toxicity"] < policies["base"]["toxicity"]
    assert policies["SFT on revisions"]["offending"] < policies["base"]["offending"]
    assert policies["base"]["kl"] == pytest.approx(0.0, abs=1e-4)
    assert policies["RL from AI feedback"]["kl"] > policies["SFT on revisions"]["kl"] / 2 > 0.01
    assert "win_rate" not in policies["base"]
    assert policies["SFT on revisions"]["win_rate"]["rate"] > 0.5


def test_adapters_are_merged_after_each_stage(tmp_path):
    small = {"num_prompts": 16, "eval_episodes": 8, "device": "cpu", "dtype": "float32"}
    run_constitution(config(**small, lora_rank=2), tmp_path)
    for stage in ("sft", "ppo"):
        assert (tmp_path / stage / "model").is_dir()
        assert not (tmp_path / stage / "adapter").exists()
    results = read_json(tmp_path / "evaluation.json")
    assert results["policies"]["base"]["kl"] == pytest.approx(0.0, abs=1e-4)
    assert abs(results["policies"]["RL from AI feedback"]["kl"]) > 1e-4  # it was sampled


def test_rules_say_that_they_are_rules(done):
    folder, results, _ = done
    assert "no model" in results["critic"]
    assert "no model" in results["judge"]
    for name in ("report.md", "report.html"):
        text = (folder / name).read_text()
        assert "rule-based critic (no model)" in text
        assert "stand in for" in text


@pytest.mark.parametrize(("given", "length"), [(None, 9), (6, 6)])
def test_responses_have_the_length_of_the_bundle_unless_one_is_given(tmp_path, given, length):
    bundle = tmp_path / "bundle"
    shutil.copytree(bundled("detox").path, bundle)
    manifest = read_json(bundle / "bundle.json")
    (bundle / "bundle.json").write_text(json.dumps({**manifest, "training": {"max_new_tokens": 9}}))
    task = TaskSettings(bundle=str(bundle), max_new_tokens=given)
    scene = scene_module.PipelineState(config(task=task))
    assert scene._env_kwargs("test")["max_new_tokens"] == length


@pytest.mark.parametrize("name", ["revisions.jsonl", "evaluation.json", "sft/checkpoint.json"])
def test_a_stage_that_was_damaged_is_refused_until_it_is_made_again(done, tmp_path, name):
    folder, results, _ = done
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    (copy / name).write_text("{}\n")
    with pytest.raises(ValueError, match=rf"{name.split('/')[0]}.*changed"):
        run_constitution(config(), copy)
    if name == "evaluation.json":
        (copy / name).unlink()
        assert run_constitution(config(), copy) == results


def test_stopped_run_ends_alike(done, tmp_path):
    folder, results, _ = done
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    for name in ("ppo", "evaluation.json", "report.md"):
        path = copy / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert run_constitution(config(), copy) == results
    assert (copy / "report.md").read_text() == (folder / "report.md").read_text()


def test_other_settings_are_refused(done):
    folder, *_ = done
    with pytest.raises(ValueError, match="seed 0 there, 1 here"):
        run_constitution(config(seed=1), folder)


def test_principles_are_kept_with_each_round(done):
    folder, *_ = done
    rows = read_jsonl(folder / "revisions.jsonl")
    assert len(rows) == 32
    names = {one["principle"] for row in rows for one in row["rounds"]}
    assert len(names) > 1
    assert read_json(folder / "settings.json") == json.loads(json.dumps(asdict(config())))


def test_texts_are_escaped():
    page = as_html("<title>", "<i>", [("h", ["<b>"], (("c",), [("<script>x</script>",)]))])
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    page = _as_markdown("t", [("h", ["<b>\x1b"], (("c",), [("[a](b)|\ud800<i>",)]))])
    assert "&lt;b&gt;\u241b" in page
    assert "| \\[a\\](b)\\|\ufffd&lt;i&gt; |" in page


def test_harmful_requests_are_the_dialogues_red_team():
    from tokengym.lab.constitution.scene import PipelineState

    scene = PipelineState(config(env="Dialogue"))
    prompts = scene.chosen.prompts
    assert len(prompts) > 0
    assert scene.rules is not None
    assert all(scene.rules.is_red_team(prompt.text) for prompt in prompts)
    assert "rules" in scene.toxicity_name


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"num_prompts": 0}, r"num_prompts.*got 0"),
        ({"revisions": 0}, "revisions.*>= 1, got 0"),
        ({"responses": 1}, "responses.*>= 2, got 1"),
        ({"kl_coef": -1.0}, "kl_coef must"),
        ({"principles": ()}, "principles must"),
    ],
)
def test_bad_settings_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        config(**settings)


def test_tasks_without_rules_need_a_model(tmp_path):
    one = (Principle(name="kind", text="It is kind."),)
    with pytest.raises(ValueError, match=r"prompts.*--critic"):
        run_constitution(config(env="MovieReview", principles=one), tmp_path)


def test_a_judge_that_goes_by_the_order_tells_nothing_apart(tmp_path, monkeypatch):
    class First:
        name = "the first one"

        @classmethod
        def from_pretrained(cls, path, principles, **options):
            return cls()

        def preferences(self, triples):
            return np.array([0.9 + 1e-6 * len(a) for _, a, _ in triples])

    monkeypatch.setattr(scene_module, "PrincipleJudge", First)
    with pytest.raises(ValueError, match=r"judge.*0.*24 prompts"):
        run_constitution(config(num_prompts=8, judge="mine"), tmp_path)


@pytest.mark.parametrize("name", ["words", None])
def test_words_are_the_rules_by_name(name):
    scene = scene_module.PipelineState(config(critic=name, judge=name))
    assert scene.critic.name == "rule-based critic (no model)"
    assert scene.judge.name == "rule-based judge (no model)"


def test_the_bundled_model_criticises_and_judges_by_name():
    scene = scene_module.PipelineState(config(critic="bundled", judge="bundled"))
    assert scene.critic.name == "the chat model bundled"
    assert scene.judge.name == "WinRateScorer(PrincipleJudge(bundled))"
    (group,) = scene.respond(scene.base, 1, responses=2, use=0, skip=0)
    revised = scene.critic.revise(
        group,
        config().principles[:2],
        scene.critic.critique(group, config().principles[:2]),
        seed=0,
    )
    assert not any(scene.offences(revised))
    assert sum(episode.score or 0.0 for episode in group) == pytest.approx(1.0)  # win rates of two


def test_a_chat_model_takes_the_rules_place(tmp_path, monkeypatch):
    # The bundled policy stands in for a chat model: what it writes is nonsense, how it is asked is
    # not. Its judgement would tell nothing apart, so lengths are the judge.
    bundle = bundled("dialogue")
    model = tmp_path / "chat"
    shutil.copytree(bundle.policy, model)
    bundle.tokenizer.save_pretrained(model)

    class Shorter:
        name = "the shorter one"

        @classmethod
        def from_pretrained(cls, path, principles, **options):
            return cls()

        def preferences(self, triples):
            lengths = [(len(a), len(b)) for _, a, b in triples]
            return np.array([0.5 + 0.4 * np.sign(b - a) for a, b in lengths])

    monkeypatch.setattr(scene_module, "PrincipleJudge", Shorter)
    small = {"num_prompts": 6, "pair_prompts": 16, "eval_episodes": 8, "revisions": 1}
    results = run_constitution(config(env="Dialogue", model=str(model), **small), tmp_path / "run")
    assert results["critic"] == "the chat model chat"
    assert "stand in for" not in (tmp_path / "run" / "report.md").read_text()
    critiques = [r["rounds"][0]["critique"] for r in read_jsonl(tmp_path / "run/revisions.jsonl")]
    assert any(critiques)
    assert results["policies"]["RL from AI feedback"]["kl"] > 0.0
