"""Streams read one token at a time what the whole model reads at once."""

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
    XLNetConfig,
    XLNetLMHeadModel,
)

from tests.support.agents.common import lora_config, make_model
from tests.support.agents.static import policy_of
from tests.support.agents.streams import left_padded
from tokengym.agents.errors import ModelError
from tokengym.agents.fast.gpt2 import SMALL_HEAD, GPT2Stream, activation, linear_map
from tokengym.agents.fast.llama import LlamaStream
from tokengym.agents.policy.language_model import CausalLM
from tokengym.agents.policy.streams import ModelStream, check_decoding, make_stream, noting_reads

PROMPTS = [[3, 4, 5], [6], [7, 0, 0, 1], [2, 2]]  # pad and EOS are words like others here


def adapted(seed: int = 1, shape: str = "gpt2") -> CausalLM:
    model = CausalLM(make_model(shape), lora_config(shape))
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def model_of(kind: str) -> CausalLM:
    if kind in ("lora", "llama lora"):
        return adapted(shape="gpt2" if kind == "lora" else "llama").eval()
    if kind == "qwen2":  # biases, and a rotation that is scaled
        torch.manual_seed(0)
        few: Any = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
        rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0}
        heads: Any = {"num_attention_heads": 4, "num_key_value_heads": 1, "rope_parameters": rope}
        made = Qwen2ForCausalLM(Qwen2Config(vocab_size=8, **few, **heads))
        for name, parameter in made.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter)
        return CausalLM(made).eval()
    if kind == "scaled":
        config: Any = make_model("gpt2").config
        torch.manual_seed(0)
        config.scale_attn_by_inverse_layer_idx, config.n_inner = True, 24
        config.activation_function = "relu"
        return CausalLM(GPT2LMHeadModel(config)).eval()
    return CausalLM(make_model(kind)).eval()


@torch.no_grad()
@pytest.mark.parametrize(
    "kind", ["gpt2", "llama", "llama lora", "lora", "qwen2", "scaled", "any model"]
)
@pytest.mark.parametrize("prompts", [PROMPTS, [[3, 4], [5, 6], [7, 7], [1, 2]]])
def test_replies_are_appended_in_one_pass(kind, prompts):
    """Of any length, at some rows or all, before and after rows that end, up to the last column."""
    model = model_of("gpt2" if kind == "any model" else kind)
    width, room = max(map(len, prompts)), 24
    capacity = width + room
    stream = ModelStream(model) if kind == "any model" else make_stream(model, capacity)
    own = {"any model": ModelStream, **dict.fromkeys(("gpt2", "lora", "scaled"), GPT2Stream)}
    assert type(stream) is own.get(kind, LlamaStream)
    texts = {row: list(prompt) for row, prompt in enumerate(prompts)}
    begun = {row: len(text) for row, text in texts.items()}
    states = stream.start(*left_padded(prompts))
    assert stream.appends
    generator = torch.Generator().manual_seed(0)
    for step in range(room):
        for place, row in enumerate(texts):
            whole = model.hidden(torch.tensor([texts[row]]))[0, -1]
            torch.testing.assert_close(states[place], whole, atol=2e-5, rtol=1e-4)
        full = [row for row, text in texts.items() if len(text) - begun[row] >= room]
        full += [1] if step == 4 and 1 in texts else []
        if full:
            rows = list(texts)
            stream.keep(torch.tensor([p for p, row in enumerate(rows) if row not in full]))
            texts = {row: text for row, text in texts.items() if row not in full}
            if not texts:
                break
        left = torch.tensor([room - len(text) + begun[row] for row, text in texts.items()])
        counts = torch.ones(len(texts), dtype=torch.int64)
        if step in (2, 3, 6, 9):  # a reply at every other row, then at any
            counts += torch.randint(0, 6, counts.shape, generator=generator)
            counts[:: 2 if step == 2 else 3] = 1
            counts = torch.minimum(counts, left)
        tokens = torch.randint(8, (int(counts.sum()),), generator=generator)
        for row, given in zip(texts, tokens.split(counts.tolist()), strict=True):
            texts[row] += given.tolist()
        states = stream.step(tokens) if counts.max() == 1 else stream.append(tokens, counts)
    assert max(map(len, texts.values()), default=capacity) > 12


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_row_that_has_ended_is_no_longer_than_the_batch(kind):
    """It stays beside four others, and counts on until these have ended."""
    model, rows, capacity = model_of(kind), 5, 12
    texts = [[1 + row, 2, 3] for row in range(rows)]
    stream = make_stream(model, capacity)
    stream.start(*left_padded(texts))
    reply = [3] * (capacity - 3)  # to the last column
    texts[0] += reply
    for text in texts[1:]:
        text.append(4)
    stream.append(torch.tensor([*reply, 4, 4, 4, 4]), torch.tensor([len(reply), 1, 1, 1, 1]))
    stream.keep(torch.arange(1, rows))
    for _ in range(capacity - 4):
        states = stream.step(torch.full((rows - 1,), 5))
        for text in texts[1:]:
            text.append(5)
    for state, text in zip(states, texts[1:], strict=True):
        whole = model.hidden(torch.tensor([text]))[0, -1]
        torch.testing.assert_close(state, whole, atol=2e-5, rtol=1e-4)


GPT2_SIZES: Any = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 32}
LLAMA_SIZES: Any = {
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2},
}


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gpt2", "llama", "llama lora"])
def test_bfloat16_reads_what_the_whole_model_reads(kind):
    """Packed products and a float32 cache: as near to float32 as the model's own forward is."""

    def make() -> CausalLM:
        torch.manual_seed(0)
        if kind == "gpt2":
            return CausalLM(GPT2LMHeadModel(GPT2Config(vocab_size=300, **GPT2_SIZES))).eval()
        lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj", "gate_proj", "down_proj"])
        network = LlamaForCausalLM(LlamaConfig(vocab_size=300, **LLAMA_SIZES))
        made = CausalLM(network, lora if kind == "llama lora" else None).eval()
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        return made

    exact, model = make(), make()
    for name, parameter in model.named_parameters():
        if "lora" not in name:
            parameter.data = parameter.data.bfloat16()
    stream = make_stream(model, capacity=16)
    assert type(stream) is (GPT2Stream if kind == "gpt2" else LlamaStream)
    texts = [list(prompt) for prompt in PROMPTS]
    states = stream.start(*left_padded(PROMPTS))
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        logits = stream.logits(states)
        assert states.dtype == logits.dtype == torch.bfloat16
        for row, text in enumerate(texts):
            expected = exact.logits(exact.hidden(torch.tensor([text]))[0, -1])
            own = model.logits(model.hidden(torch.tensor([text]))[0, -1]).float()
            error = (logits[row].float() - expected).abs().max()
            assert error < 2 * (own - expected).abs().max() + 0.01
            assert error < 0.05 * expected.abs().max() + 0.01
        tokens = torch.randint(300, (len(texts),), generator=generator)
        for text, token in zip(texts, tokens.tolist(), strict=True):
            text.append(token)
        states = stream.step(tokens)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_replies_are_appended_in_bfloat16(kind):
    exact, model = model_of(kind), model_of(kind)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    stream = make_stream(model, capacity=16)
    stream.start(*left_padded(PROMPTS))
    counts = torch.tensor([1, 2, 1, 3])
    tokens = torch.tensor([3, 5, 6, 2, 7, 4, 1])
    states = stream.append(tokens, counts).float()
    replies = tokens.split(counts.tolist())
    for prompt, reply, state in zip(PROMPTS, replies, states, strict=True):
        expected = exact.hidden(torch.tensor([[*prompt, *reply]]))[0, -1]
        assert (state - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 5, 33])
def test_a_linear_map_is_the_product(dtype, rows):
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(*shape, generator=generator).to(dtype)
        for shape in ((rows, 48), (48, 100), (100,))
    )
    for added in (bias, None):
        expected = x.double() @ weight.double() + (0.0 if added is None else added.double())
        found = linear_map(weight, added)(x)
        assert found.dtype == dtype
        rounding = 2.0**-8 if dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(found.double(), expected, atol=rounding, rtol=rounding)
        transposed = weight.t().contiguous().t()  # as a head stores it
        torch.testing.assert_close(linear_map(transposed, added)(x), found)


@torch.no_grad()
def test_the_quick_activation_is_the_tanh_gelu():
    """As near to the formula in float64 as the model's own, within two roundings."""
    model: Any = make_model("gpt2")
    mlp = model.transformer.h[0].mlp
    quick = activation(mlp)
    x = torch.linspace(-12.0, 12.0, 4_001)
    before = x.clone()
    exact = torch.nn.functional.gelu(x.double(), approximate="tanh")
    error = (quick(x) - exact).abs().max()
    assert torch.equal(x, before)
    assert error < 2 * (mlp.act(x) - exact).abs().max() < 1e-5
    assert quick(torch.tensor([1e4, -1e4])).tolist() == [1e4, 0.0]
    mlp.act = torch.nn.ReLU()
    assert activation(mlp) is mlp.act  # another function stays
    half = model.bfloat16().transformer.h[1].mlp
    assert activation(half) is half.act


@torch.no_grad()
@pytest.mark.parametrize("vocabulary", [300, SMALL_HEAD // 64 + 1])
def test_a_head_of_any_size_gives_the_model_s_logits(vocabulary):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=vocabulary, n_embd=64, n_layer=1, n_head=2, n_positions=8)
    model = CausalLM(GPT2LMHeadModel(config)).eval()
    states = torch.randn(3, 64)
    torch.testing.assert_close(GPT2Stream(model, capacity=8).logits(states), model.logits(states))


@torch.no_grad()
@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_adapters_that_are_off_are_left_out(shape):
    model = adapted(shape=shape).eval()
    with model.adapters.disable_adapter():
        off = make_stream(model, 8).start(*left_padded(PROMPTS))
        stream = make_stream(model, 8)
        stream.start(*left_padded(PROMPTS))
        found = stream.step(torch.tensor([3, 4, 5, 6]))
    plain = CausalLM(make_model(shape)).eval()
    other = make_stream(plain, 8)
    torch.testing.assert_close(off, other.start(*left_padded(PROMPTS)), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(found, other.step(torch.tensor([3, 4, 5, 6])), atol=2e-5, rtol=1e-4)


def others() -> dict[str, CausalLM]:
    """Return models that are nearly a plain GPT-2 or Llama."""
    gpt2: Any = {"r": 2, "target_modules": ["c_attn"], "fan_in_fan_out": True}
    llama: Any = {"r": 2, "target_modules": ["q_proj"]}
    crossed = GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=1, add_cross_attention=True)
    sliding = Qwen2Config(
        **LLAMA_SIZES, vocab_size=8, use_sliding_window=True, sliding_window=4, max_window_layers=1
    )
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    growing = LlamaConfig(**LLAMA_SIZES, vocab_size=8, rope_parameters=rope)
    low: Any = make_model("gpt2").to(torch.bfloat16)  # type: ignore[arg-type]
    made = {
        "gpt2, dora": CausalLM(make_model("gpt2"), LoraConfig(use_dora=True, **gpt2)),
        "words": CausalLM(make_model("gpt2"), LoraConfig(modules_to_save=["wte"], **gpt2)),
        "biases": CausalLM(make_model("gpt2"), LoraConfig(lora_bias=True, **gpt2)),
        "adapters in bfloat16": CausalLM(low, LoraConfig(**gpt2)),
        "crossed": CausalLM(GPT2LMHeadModel(crossed)),
        "llama, dora": CausalLM(make_model("llama"), LoraConfig(use_dora=True, **llama)),
        "embeddings": CausalLM(
            make_model("llama"), LoraConfig(modules_to_save=["embed_tokens"], **llama)
        ),
        "sliding": CausalLM(Qwen2ForCausalLM(sliding)),
        "growing": CausalLM(LlamaForCausalLM(growing)),
        "mixed": CausalLM(make_model("llama")),
        "double": CausalLM(make_model("llama").double()),
    }
    made["mixed"].autocasts = True
    return made


def test_a_round_begins_without_the_memory_of_the_last(monkeypatch):
    streams: list[Any] = []

    def make(*arguments: Any) -> Any:
        assert not any(known() for known in streams)
        stream = make_stream(*arguments)
        streams.append(weakref.ref(stream))
        return stream

    monkeypatch.setattr("tokengym.agents.policy.sampler.make_stream", make)
    policy = policy_of(make_model("llama"), decoding="dynamic")  # captured steps keep theirs
    player, ids = policy.sampler(), np.array([[0, 0, 3, 4, 0, 0]])
    for _ in range(2):
        player.begin({"input_ids": ids, "attention_mask": ids > 0})
    assert len(streams) == 2


def test_other_shapes_go_through_their_own_forward():
    for name, model in others().items():
        assert isinstance(make_stream(model, 8), ModelStream), name


@pytest.mark.parametrize(
    ("config", "model", "fault"),
    [
        (
            MambaConfig(vocab_size=40, hidden_size=32, num_hidden_layers=2),
            MambaForCausalLM,
            "cache",
        ),
        (RwkvConfig(vocab_size=40, hidden_size=32, num_hidden_layers=2), RwkvForCausalLM, "cache"),
        (
            XLNetConfig(vocab_size=40, d_model=16, n_layer=2, n_head=2, d_inner=32),
            XLNetLMHeadModel,
            "later",
        ),
    ],
)
def test_models_that_ignore_the_cache_or_read_ahead_are_refused(config, model, fault):
    torch.manual_seed(0)
    with pytest.raises(ModelError, match=rf"{model.__name__}.*{fault}"):
        check_decoding(CausalLM(model(config).eval()))


def test_linear_biases_in_place_of_positions_decode_alike():
    torch.manual_seed(0)
    config = FalconConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, alibi=True
    )
    check_decoding(CausalLM(FalconForCausalLM(config).eval()))


@torch.no_grad()
@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_a_prompt_read_without_the_forward_is_noted_once(shape):
    noted: list[int] = []
    model = CausalLM(make_model(shape)).eval()
    with noting_reads(noted.append):
        make_stream(model, 6).start(*left_padded(PROMPTS))
        ModelStream(model).start(*left_padded(PROMPTS))  # its model's own
    make_stream(model, 6).start(*left_padded(PROMPTS))
    assert noted == [len(PROMPTS)]
