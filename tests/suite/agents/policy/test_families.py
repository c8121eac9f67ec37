"""What single families of models compute in a way of their own."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BioGptConfig,
    BloomConfig,
    OPTConfig,
    Phi3Config,
    Phi3ForCausalLM,
    StableLmConfig,
    XGLMConfig,
)

from tests.support.agents.common import EOS, PAD, VOCABULARY
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym.agents import PPO
from tokengym.agents.policy.language_model import CausalLM
from tokengym.envs import Episode
from tokengym.rewards.attribution.policy_reader import PolicyReader

IDS: Any = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "bos_token_id": EOS, "eos_token_id": EOS}
SIZE: Any = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
DROPPING: dict[str, Any] = {  # blocks that drop out themselves, not by modules
    "opt": OPTConfig(**SIZE, ffn_dim=24, word_embed_proj_dim=16, **IDS),
    "xglm": XGLMConfig(
        d_model=16, ffn_dim=24, num_layers=2, attention_heads=2, max_position_embeddings=64, **IDS
    ),
    "biogpt": BioGptConfig(**SIZE, intermediate_size=24, **IDS),
    "bloom": BloomConfig(hidden_size=16, n_layer=2, n_head=2, hidden_dropout=0.1, **IDS),
    "stablelm": StableLmConfig(
        **SIZE, intermediate_size=24, num_key_value_heads=2, hidden_dropout=0.1, **IDS
    ),
}


@pytest.mark.parametrize("config", DROPPING.values(), ids=DROPPING)
def test_blocks_that_are_computed_twice_give_the_same_gradients(config):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CausalLM(AutoModelForCausalLM.from_config(config))
    gradients = []
    for model.recompute in (False, True):
        model.zero_grad(set_to_none=True)
        hidden = model.hidden(torch.tensor([[3, 4, 5], [6, 7, 3]]))
        model.logits(hidden).log_softmax(-1)[..., 3].sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(model.blocks()) == 2
    assert not any(block.training for block in model.blocks())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


def longrope(original: int) -> Any:
    """Return a model whose rotary factors change beyond a length, sharply."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0, 9.0, 16.0, 30.0]}
    rotary = {"rope_type": "longrope", "rope_theta": 1e4, **factors}
    config = Phi3Config(
        **{**SIZE, "hidden_size": 32, "num_attention_heads": 4},
        intermediate_size=48,
        num_key_value_heads=2,
        original_max_position_embeddings=original,
        rope_parameters={**rotary, "original_max_position_embeddings": original},
        initializer_range=0.3,
        **IDS,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Phi3ForCausalLM(config)


@pytest.mark.parametrize("original", [4, 8, 32], ids=["all beyond", "crossed", "all within"])
def test_rotary_factors_are_those_of_the_longest_text(original, make_envs):
    """Up to 10 tokens of prompt and response; texts of 2 to 10 are read together and apart."""
    envs = make_envs()
    kwargs = {"model": longrope(original)}
    agent = PPO("CausalLMPolicy", envs, policy_kwargs=kwargs, seed=0, device="cpu")
    played: Any = agent.collect()
    sequences = played.sequences(agent.device)
    sampled = torch.as_tensor(played.log_probs)[sequences.response_mask]
    for reference in (False, True):
        again = agent.policy.token_stats(
            sequences, name="ref_log_probs" if reference else "log_probs"
        )
        torch.testing.assert_close(again[sequences.response_mask], sampled, atol=1e-4, rtol=1e-4)
    # By transformers' own forward over one text of the longest length.
    longest = int(envs.single_observation_space["input_ids"].shape[0])
    ids = torch.tensor([[3, 4, 5, 6, 7, 3, 4, 5, 6, 7][:longest]])
    with torch.no_grad():
        own = longrope(original).eval()(ids).logits
        torch.testing.assert_close(agent.policy.language_model.model(ids).logits, own)


def test_a_reader_gives_a_text_the_same_whatever_is_beside_it():
    reader = PolicyReader(longrope(6), tokenizer=make_tokenizer(), batch_size=4)
    episodes = [
        Episode(prompt="", response="", prompt_ids=[4], response_ids=[3] * size)
        for size in (2, 5, 6, 9)
    ]
    alone = [reader.log_probs([episode])[0] for episode in episodes]
    for row, expected in zip(reader.log_probs(episodes), alone, strict=True):
        np.testing.assert_allclose(row, expected, atol=1e-5)
