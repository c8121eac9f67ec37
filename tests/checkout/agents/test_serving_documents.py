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
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from tests.checkout.pages import blocks, run, shorter
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
LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QWEN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>"
    "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# Configuration, template, special tokens by role, the others, and those that generation ends by.
FAMILIES: dict[str, tuple[Any, str, dict[str, str], list[str], list[str]]] = {
    "meta-llama/Llama-3.2-1B-Instruct": (
        LlamaConfig,
        LLAMA,
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},  # it has no pad token
        ["<|end_of_text|>", "<|eom_id|>", "<|start_header_id|>", "<|end_header_id|>"],
        ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"],
    ),
    "Qwen/Qwen3-0.6B": (
        Qwen3Config,
        QWEN,
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        ["<|im_start|>"],
        ["<|im_end|>", "<|endoftext|>"],
    ),
    "google/gemma-3-1b-it": (
        Gemma3TextConfig,
        GEMMA,
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
        ["<start_of_turn>", "<end_of_turn>"],
        ["<eos>", "<end_of_turn>"],
    ),
}


def store(folder: Path, name: str) -> Any:
    """Store a tiny random model of a family with its tokenizer, and return the tokenizer."""
    kind, template, special, further, ends = FAMILIES[name]
    words = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, extra_special_tokens=further, **special
    )
    tokenizer.chat_template = template
    ids = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("bos", "pad")}
    config = kind(vocab_size=len(tokenizer) + 24, **SIZE, **ids)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.mark.parametrize("name", FAMILIES)
def test_the_ends_of_a_chat_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    language_model.warn_once.cache_clear()
    tokenizer = store(tmp_path / name, name)
    _, recipe, _ = blocks("agents/own_model.md")
    chosen = ('CHAT_MODEL = "Qwen/Qwen3-0.6B"', f"CHAT_MODEL = {name!r}")
    with caplog.at_level(logging.WARNING):
        names: Any = {"gym": gym, "PPO": PPO, "ROWS": 4, "TOKENS": 6}
        found = run(shorter(recipe, chosen), names)
    assert "ends its texts" not in caplog.text
    assert found["agent"]._n_updates > 0
    envs, ends = found["envs"].unwrapped, FAMILIES[name][-1]
    assert set(envs.vocabulary.end_ids) == set(tokenizer.convert_tokens_to_ids(ends))
    assert turn_end(envs.tokenizer) == envs.tokenizer.eos_token_id
    for end in ends:
        env = gym.make(
            "tokengym/TokenGeneration-v0",
            tokenizer=name,
            eos_token=found["ENDS"][name],
            chat_template=True,
            prompts=["a"],
        )
        env.reset(seed=0)
        assert env.step(tokenizer.convert_tokens_to_ids(end))[4]["finish_reason"] == "eos"
    with caplog.at_level(logging.WARNING):  # and without the recipe it is said
        plain: Any = gym.make_vec(
            "tokengym/TokenGeneration-v0", num_envs=1, tokenizer=name, prompts=["a"]
        )
        PPO("CausalLMPolicy", plain, policy_kwargs={"model": name})
    assert "ends its texts" in caplog.text


def test_what_was_trained_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "Qwen/Qwen3-0.6B"
    store(tmp_path / name, name)
    envs: Any = gym.make_vec(
        "tokengym/TokenGeneration-v0",
        num_envs=4,
        tokenizer=name,
        prompts=["a", "b c"],
        max_new_tokens=4,
        reward=lambda prompt, response: float(len(response)),
    )
    kwargs: Any = {"model": name, "lora": LoraConfig(r=4, target_modules="all-linear")}
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
        base = AutoModelForCausalLM.from_pretrained(name)(ids).logits
    assert not torch.allclose(base, logits)
