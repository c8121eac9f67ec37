"""Serving what was trained, and the ends of chat models: the pages' code runs on tiny models."""

import logging
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from peft import LoraConfig
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from tests.checkout.pages import blocks, run
from tokengym.agents import PPO
from tokengym.agents.policy import language_model
from tokengym.envs.prompts.conversation import turn_end

SIZE: Any = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 512,
}
NAME = "Qwen/Qwen3-0.6B"
ENDS = ["<|im_end|>", "<|endoftext|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def store(folder: Path) -> Any:
    """Store a tiny random model of the family with its tokenizer, and return the tokenizer."""
    words = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        extra_special_tokens=["<|im_start|>"],
        eos_token=ENDS[0],
        pad_token=ENDS[1],
    )
    tokenizer.chat_template = TEMPLATE
    pad = tokenizer.pad_token_id
    config = Qwen3Config(vocab_size=len(tokenizer) + 24, **SIZE, pad_token_id=pad)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(ENDS)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def test_the_ends_of_a_chat_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    language_model.warn_once.cache_clear()
    tokenizer = store(tmp_path / NAME)
    _, recipe, _ = blocks("agents/own_model.md")
    with caplog.at_level(logging.WARNING):
        found = run(recipe, {"gym": gym, "PPO": PPO, "ROWS": 4, "TOKENS": 6})
    assert "ends its texts" not in caplog.text
    assert found["agent"]._n_updates > 0
    envs = found["envs"].unwrapped
    assert set(envs.vocabulary.end_ids) == set(tokenizer.convert_tokens_to_ids(ENDS))
    assert turn_end(envs.tokenizer) == envs.tokenizer.eos_token_id
    for end in ENDS:
        env = gym.make(
            "tokengym/TokenGeneration-v0",
            tokenizer=NAME,
            eos_token=found["ENDS"][NAME],
            chat_template=True,
            prompts=["a"],
        )
        env.reset(seed=0)
        assert env.step(tokenizer.convert_tokens_to_ids(end))[4]["finish_reason"] == "eos"
    with caplog.at_level(logging.WARNING):  # and without the recipe it is said
        plain: Any = gym.make_vec(
            "tokengym/TokenGeneration-v0", num_envs=1, tokenizer=NAME, prompts=["a"]
        )
        PPO("CausalLMPolicy", plain, policy_kwargs={"model": NAME})
    assert "ends its texts" in caplog.text


def test_what_was_trained_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    store(tmp_path / NAME)
    envs: Any = gym.make_vec(
        "tokengym/TokenGeneration-v0",
        num_envs=4,
        tokenizer=NAME,
        prompts=["a", "b c"],
        max_new_tokens=4,
        reward=lambda prompt, response: float(len(response)),
    )
    kwargs: Any = {"model": NAME, "lora": LoraConfig(r=4, target_modules="all-linear")}
    agent = PPO("CausalLMPolicy", envs, policy_kwargs=kwargs, learning_rate=1e-2, device="cpu")
    agent.learn(16).save("runs/ten_words")
    found = run("".join(blocks("agents/serving.md")))
    assert capsys.readouterr().out
    merged = AutoModelForCausalLM.from_pretrained("runs/merged")
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        logits = agent.policy.language_model.model(ids).logits
        torch.testing.assert_close(found["model"](ids).logits, logits)
        torch.testing.assert_close(merged(ids).logits, logits)
        base = AutoModelForCausalLM.from_pretrained(NAME)(ids).logits
    assert not torch.allclose(base, logits)
