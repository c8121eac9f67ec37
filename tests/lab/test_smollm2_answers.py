"""The bundle smollm2-answers: typed questions in SmolLM2's chat template, judged by MiniLM."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import tokengym  # noqa: F401
from tokengym.base.errors import PretrainedError
from tokengym.base.models import located
from tokengym.envs import Episode, bundled
from tokengym.rewards.registry import load_scorer

try:
    located("smollm2"), located("minilm")
except PretrainedError as error:
    pytest.skip(f"SKIPPED BY NAME: {error}", allow_module_level=True)

ID = "tokengym/QuestionAnswer-v0"


@pytest.mark.parametrize("reward", ["r3", "r3-dense", "sparse", "uniform", "random"])
def test_rules_of_the_r3_family_run_by_name(reward: str) -> None:
    envs = gym.make_vec(ID, num_envs=2, bundle="smollm2-answers", reward=reward, max_new_tokens=2)
    _, infos = envs.reset(seed=0)
    inner: Any = envs.unwrapped
    prompt = inner.encoded_prompt(0)
    shown = inner.tokenizer.decode(prompt.ids)
    assert shown.endswith(f"user\n{prompt.text}<|im_end|>\n<|im_start|>assistant\n")
    for _ in range(2):
        _, _, _, _, infos = envs.step(np.array([1200, 3400]))
    np.testing.assert_allclose(infos["token_rewards"].sum(axis=1), infos["score"], atol=1e-4)
    assert {"relevance_query", "length_incentive"} <= set(infos["score_parts"])
    envs.close()


def test_the_encoder_tells_right_answers() -> None:
    bundle = bundled("smollm2-answers")
    scorer = load_scorer(bundle.encoder, "encoder").bind(bundle.tokenizer)
    prompts = list(bundle.prompts("test"))
    answers = [str(p.reference) for p in prompts]
    wrong = answers[4:] + answers[:4]  # those of the next entity

    def score(responses: list[str]) -> np.ndarray:
        episodes = [
            Episode(
                prompt=p.text,
                prompt_ids=(1,),
                response=said,
                response_ids=bundle.tokenizer(said)["input_ids"],
                reference=p.reference,
                query_type=p.query_type,
            )
            for p, said in zip(prompts, responses, strict=True)
        ]
        return scorer.score(episodes).values

    assert (score(answers) > score(wrong)).mean() > 0.9
