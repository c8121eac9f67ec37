"""``tokengym evaluate``: two policies against each other, and what only it measures."""

import json
import re
import shutil

import gymnasium as gym
import numpy as np
import pytest

from tokengym.agents import PPO, SFT, RandomAgent
from tokengym.envs import bundled
from tokengym.evaluation.measure.evaluate import Evaluator
from tokengym.rewards.scorers.toxicity import RUDE_WORDS
from tokengym.scripts.cli import main

SMALL = ["--updates", "1", "--batch-size", "4", "--max-new-tokens", "5", "--n-epochs", "1"]


def test_a_policy_ties_with_itself(tmp_path, capsys):
    out, file = tmp_path / "run", tmp_path / "figures.json"
    assert main(["train", "--out", str(out), *SMALL, "--eval-episodes", "4"]) == 0
    agent = str(out / "agent")
    arguments = [
        "evaluate",
        agent,
        "--against",
        agent,
        "--num-episodes",
        "4",
        "--max-new-tokens",
        "5",
    ]
    assert main([*arguments, "--toxicity", "words", "--json", str(file)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "0 won, 4 tied, 0 lost; win rate 50%" in printed
    figures = json.loads(file.read_text())
    assert f"measured by {figures['measured_by']}" in printed
    assert (figures["win_rate"], figures["versus"]["ties"]) == (0.5, 4)
    assert figures["toxicity"] == 0.0
    assert figures["compression"] > 0.0


@pytest.mark.parametrize(("price", "said"), [("0", "at price 0 the optimum is"), ("1", "at least")])
def test_without_a_price_the_optimum_is_one_clear_line(tmp_path, capsys, price, said):
    out = str(tmp_path / "run")
    assert main(["train", "--out", out, *SMALL, "--eval-episodes", "4", "--kl-coef", price]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("best of 16: score") == 1
    assert said in printed
    assert ("optimum of" in printed) == (price != "0")


def price_shown(arguments, capsys):
    """Return the price of a nat of KL that the optimum is printed at; None without one."""
    small = ["--num-episodes", "2", "--max-new-tokens", "4", "--samples", "0"]
    assert main(["evaluate", *arguments, *small]) == 0
    found = re.search(r"optimum of score - ([\d.]+) KL", " ".join(capsys.readouterr().out.split()))
    return found and float(found[1])


def test_the_optimum_is_at_the_price_of_the_agent_or_the_bundle(tmp_path, capsys):
    bundle = tmp_path / "bundle"
    shutil.copytree(bundled("movie_review").path, bundle)
    manifest = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps({**manifest, "training": {"kl_coef": 0.5}}))
    assert price_shown(["--env", "MovieReview"], capsys) == 0.05
    assert price_shown(["--bundle", str(bundle)], capsys) == 0.5
    envs = gym.make_vec("tokengym/MovieReview-v0", num_envs=2, max_new_tokens=4)
    PPO("CausalLMPolicy", envs, kl_coef=0.3).save(tmp_path / "ppo")  # no run is beside it
    SFT(envs).save(tmp_path / "sft")
    assert price_shown([str(tmp_path / "ppo")], capsys) == 0.3
    assert price_shown([str(tmp_path / "sft")], capsys) is None  # as with its run


OWN = """
import gymnasium as gym
from tokengym.envs import bundled


def make_env(num_envs, **options):
    return gym.make_vec(
        "tokengym/TokenGeneration-v0",
        num_envs=num_envs,
        prompts=["a", "b"],
        tokenizer=bundled("movie_review").tokenizer,
        max_prompt_tokens=4,
        max_new_tokens=4,
        reward=lambda prompt, response: len(response),
        prompt_sampling="sequential",
        autoreset_mode=options["autoreset_mode"],
    )


class Last:
    def __init__(self, envs):
        self.rows = envs.num_envs

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return [5] * len(observation["input_ids"]), state
"""


def test_an_agent_without_a_model_is_measured_without_best_of_n(tmp_path, capsys):
    rules = tmp_path / "own.py"
    rules.write_text(OWN)
    own = f"{rules}:Last"
    arguments = [own, "--env", f"{rules}:make_env", "--against", own]
    assert main(["evaluate", *arguments, "--num-episodes", "2", "--samples", "0"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "2 tied, 0 lost" in printed
    assert "no best-of-n: " in printed
    assert "brings no model" in printed


def test_a_class_of_ones_own_reads_the_file_that_it_saved(tmp_path, capsys):
    rules, saved = tmp_path / "own.py", tmp_path / "agent"
    load = "    @classmethod\n    def load(cls, path):\n        return cls(int(path.read_text()))"
    rules.write_text(f"{OWN.replace('envs.num_envs', 'envs')}\n{load}\n")
    saved.write_text("2")
    arguments = [
        "--env",
        f"{rules}:make_env",
        "--agent-class",
        f"{rules}:Last",
        "--num-episodes",
        "2",
    ]
    assert main(["evaluate", str(saved), *arguments, "--json", str(tmp_path / "f.json")]) == 0
    assert json.loads((tmp_path / "f.json").read_text())["length"] == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--judge", "models/judge"], "judge 'models/judge'"),
        (["--against", "none"], "none is no folder"),
        (["own.py:Last", "--agent-class", "own.py:Last"], "no effect beside"),
        (["own.py:Last", "--env", "own.py:make_env", "--against", "empty"], "empty"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_played(
    options, said, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN.replace("return [5]", "raise AssertionError; return [5]"))
    (tmp_path / "empty").mkdir()
    assert main(["evaluate", *options]) == 2
    assert said in capsys.readouterr().err


def test_the_word_list_knows_the_bundled_rude_words():
    evaluator = Evaluator("Detox", num_episodes=6, toxicity="words")
    evaluation = evaluator(evaluator.untrained())
    rude = json.loads((bundled("detox").path / "gold.json").read_text())["rude"]
    shares = []
    for episode in evaluation.episodes:
        words = re.findall(r"[a-z']+", episode.response.lower())
        shares.append(sum(word in {*rude, *RUDE_WORDS} for word in words) / len(words))
    assert sum(share > 0 for share in shares) >= 2  # the bundled policy is rude
    assert evaluation.metrics["toxicity"] == pytest.approx(np.mean(shares))
    plain = Evaluator("Detox", num_episodes=6)
    assert "toxicity" not in plain(RandomAgent(plain.envs, seed=0)).metrics
