"""The types of the settings of learners and environments, as a user's type checker sees them."""

import subprocess
import sys
from pathlib import Path

import pytest

from docs.makers import build_keywords

ROOT = Path(__file__).parents[2]
CODE = """import gymnasium as gym

from tokengym import DPO, PPO, SFT, TokenGenerationEnv, TokenGenerationVectorEnv, compare
from tokengym.keywords import EnvKeywords
from tokengym.lab.learners.nlpo import NLPO

envs = gym.make_vec("tokengym/MovieReview-v0", num_envs=2)
PPO("CausalLMPolicy", envs, n_epochs=2, kl_coef=0.1, clip_range=lambda left: 0.2 * left, seed=0)
NLPO("CausalLMPolicy", envs, n_epochs=2, mask_top_p=0.8, mask_refresh=5, seed=0)
DPO("folder", beta=0.2, max_steps=3)
SFT("folder", max_steps=3)
TokenGenerationEnv(tokenizer="folder", prompts=["Once"], max_new_tokens=3, horizon="truncated")
TokenGenerationVectorEnv(num_envs=2, tokenizer="folder", prompts=["Once"], stop_strings=["."])
settings: EnvKeywords = {"reward": "abc:beta=0.8", "dataset": "a.csv", "max_new_tokens": 3}
gym.make("tokengym/MovieReview-v0", **settings)
compare("MovieReview", rewards=["sparse"], agents=["ppo", "dpo"], updates=3, eval_every=1, beta=0.1)
compare(dataset="a.csv", scorer=lambda response: 1.0, kl_coef=0.1, dtype="bfloat16", tokens=None)
"""
WRONG = """
PPO("CausalLMPolicy", envs, n_epochs="two")
PPO("CausalLMPolicy", envs, n_epoch=2)
PPO("CausalLMPolicy", envs, kl_estimator="k7")
NLPO("CausalLMPolicy", envs, mask_top_p="most")
DPO("folder", beta="x")
SFT("folder", steps=3)
TokenGenerationEnv(tokenizer="folder", prompts=["Once"], max_new_tokns=3)
TokenGenerationVectorEnv(tokenizer="folder", prompts=["Once"], max_new_tokens="three")
misspelt: EnvKeywords = {"rewards": "abc"}
mistyped: EnvKeywords = {"split": "validation"}
compare("MovieReview", updats=3)
compare("MovieReview", updates="three")
compare("MovieReview", seed=3)
compare("MovieReview", dtype="float16")
"""


@pytest.mark.parametrize("path", build_keywords.FILES)
def test_the_written_types_are_current(path: str):
    assert (ROOT / path).read_text(encoding="utf-8") == build_keywords.text(path)


def test_a_type_checker_sees_the_settings(tmp_path: Path):
    file = tmp_path / "user.py"
    file.write_text(CODE + WRONG, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", str(file)], capture_output=True, text=True, cwd=ROOT
    )
    lines = {int(line.split(":")[1]) for line in done.stdout.splitlines() if "error:" in line}
    first = len(CODE.splitlines()) + 2
    assert lines == set(range(first, first + len(WRONG.splitlines()) - 1)), (
        done.stdout + done.stderr
    )
