"""Reading stored models: nothing of theirs runs, and what is missing is said at once."""

import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
)

from tests.support.base.pretrained import SMALL, tiny
from tests.support.base.pretrained import with_code as with_code
from tokengym.agents.policy.language_model import load_causal_lm
from tokengym.base.errors import PretrainedError
from tokengym.base.pretrained import from_pretrained, load_whole
from tokengym.rewards import RewardModel, ScorerError
from tokengym.rewards.models.loading import load_tokenizer


@pytest.fixture(autouse=True)
def nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No question is asked, and no host is reached."""

    def refuse(*arguments: object, **options: object) -> None:
        pytest.fail(f"called with {arguments}")  # which no ``except Exception`` hides

    monkeypatch.setattr("builtins.input", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def change(folder: Path, **changes: Any) -> None:
    """Change a model's stored configuration."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


EVERY_KIND = pytest.mark.parametrize(
    "load",
    [
        load_causal_lm,
        RewardModel.from_pretrained,
        lambda folder: from_pretrained(AutoTokenizer, folder),
    ],
    ids=["policy", "reward model", "tokenizer"],
)


@EVERY_KIND
def test_a_models_own_code_never_runs_and_nobody_is_asked(load, with_code):
    with pytest.raises(ValueError, match=r"cannot load .*evil") as caught:
        load(str(with_code))
    assert "\n" not in str(caught.value)


KERNEL = {"attn_implementation": "evil/kernel", "_attn_implementation": "evil/kernel"}


@pytest.mark.parametrize("load", [load_causal_lm, RewardModel.from_pretrained])
def test_a_configuration_chooses_no_code_to_compute_with(load, tmp_path, monkeypatch):
    """transformers fetches what such a name stands for from the hub, and runs it."""
    tiny(GPT2ForSequenceClassification if load != load_causal_lm else GPT2LMHeadModel, tmp_path)
    change(tmp_path, **KERNEL, _experts_implementation="evil/kernel")
    monkeypatch.setattr(
        "transformers.integrations.hub_kernels.load_and_register_attn_kernel", pytest.fail
    )
    model = load(tmp_path)
    config = getattr(model, "model", model).config
    assert config._attn_implementation in ("sdpa", "eager")


def test_a_configuration_of_adapters_base_chooses_none_either(tmp_path):
    base = tmp_path / "base"
    tiny(GPT2ForSequenceClassification, base)
    change(base, **KERNEL)
    fresh = GPT2ForSequenceClassification(GPT2Config(**SMALL))
    lora = LoraConfig(task_type="SEQ_CLS", target_modules=["c_attn"], fan_in_fan_out=True)
    adapted = get_peft_model(fresh, lora)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(str(tmp_path / "adapters"))
    model = RewardModel.from_pretrained(tmp_path / "adapters").model
    assert model.config._attn_implementation in ("sdpa", "eager")


@EVERY_KIND
def test_a_file_of_code_is_no_model_and_says_what_it_defines(load, tmp_path):
    file = tmp_path / "score.py"
    file.write_text("def counts(response):\n    return 1.0\n")
    with pytest.raises(
        (PretrainedError, ScorerError), match=r"code, no model; .*score\.py:Name \(it has counts\)"
    ):
        load(file)


def test_threads_may_read_models_at_once(tmp_path: Path) -> None:
    """Transformers replaces methods of its classes while it reads, and puts them back."""
    tiny(GPT2LMHeadModel, tmp_path)
    ties = PreTrainedModel.tie_weights
    with ThreadPoolExecutor(2) as threads:
        models: list[Any] = list(threads.map(load_causal_lm, [tmp_path] * 20))
    assert all(m.lm_head.weight is m.transformer.wte.weight for m in models)
    assert PreTrainedModel.tie_weights is ties


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layer": -1}, "num_hidden_layers -1.*1.*1000"),
        ({"n_layer": 1}, r"h\.1\..*config\.json"),
        ({"n_layer": 3}, r"no trained transformer\.h\.2"),
        ({"n_embd": 12}, r"cannot load.*AutoModel"),
        ({"vocab_size": -3}, "says vocab_size -3"),
        ({"architectures": 3, "model_type": ["x"]}, r"cannot load.*AutoModel"),
    ],
)
@pytest.mark.parametrize("load", [load_causal_lm, RewardModel.from_pretrained])
def test_a_configuration_that_does_not_fit_its_weights_is_one_line(
    load, changes, message, tmp_path
):
    tiny(GPT2ForSequenceClassification if load != load_causal_lm else GPT2LMHeadModel, tmp_path)
    change(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[" * 100_000, "3"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_damaged_files_of_a_model_are_one_line(name, content, tmp_path):
    tiny(GPT2LMHeadModel, tmp_path)
    (tmp_path / name).write_text(content)
    kind = AutoModelForCausalLM if name == "config.json" else AutoTokenizer
    with pytest.raises(PretrainedError, match="cannot load") as caught:
        from_pretrained(kind, tmp_path)
    assert "\n" not in str(caught.value)


def test_too_little_memory_is_not_the_models_fault(monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", full)
    with pytest.raises(torch.OutOfMemoryError):
        from_pretrained(AutoTokenizer, ".")


def test_pickled_weights_are_refused_with_the_way_to_convert_them(tmp_path):
    tiny().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(tiny().state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(PretrainedError, match=r"pytorch_model.bin.*save_pretr"):
        load_causal_lm(tmp_path)


def test_pickled_adapters_are_refused(tmp_path):
    from tokengym.rewards.attribution.policy_reader import PolicyReader

    tiny().save_pretrained(tmp_path / "agent" / "reference")
    adapted = get_peft_model(tiny(), LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True))
    adapter = tmp_path / "agent" / "adapter"
    adapted.save_pretrained(str(adapter))
    (adapter / "adapter_model.safetensors").unlink()
    (tmp_path / "agent" / "checkpoint.json").write_text("{}")
    torch.save({}, adapter / "adapter_model.bin")
    with pytest.raises(ScorerError, match=r"adapter_model.bin"):
        PolicyReader.from_pretrained(tmp_path / "agent")


@pytest.mark.parametrize(
    "name", ["./modle", "/nowhere/model", "~/model", "a/b/c", "tests/modle", ""]
)
def test_a_path_that_does_not_exist_is_not_looked_up_on_the_hub(name, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[3])
    for auto_class in (AutoModelForCausalLM, AutoTokenizer):
        with pytest.raises(PretrainedError, match=re.escape(f"no folder {name!r}")):
            from_pretrained(auto_class, name)


@pytest.mark.parametrize("longer", [0, 8, 40])
def test_weights_begin_where_torch_puts_them_whatever_the_header_of_their_file(longer, tmp_path):
    """Else the same weights in two files would round otherwise in products."""
    weights = tiny(folder=tmp_path).state_dict()
    del weights["lm_head.weight"]  # the embeddings, once more
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt", "more": "x" * longer})
    model: Any = load_causal_lm(tmp_path, "auto")
    assert {tensor.data_ptr() % 64 for tensor in model.parameters()} == {0}
    assert model.lm_head.weight is model.transformer.wte.weight
    assert all(torch.equal(model.state_dict()[name], value) for name, value in weights.items())
    assert load_tokenizer(tmp_path) is None


def test_a_policy_of_another_kind_is_told_what_would_do(tmp_path):
    sizes: Any = {"num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    picture = ViTConfig(hidden_size=8, image_size=8, patch_size=8, **sizes)
    text = T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    for model, message in (
        (T5ForConditionalGeneration(text), r"t5 model.*decoder-only"),
        (ViTModel(picture), r"no such head.*decoder-only"),
    ):
        model.save_pretrained(tmp_path)
        with pytest.raises(PretrainedError, match=message):
            load_whole(AutoModelForCausalLM, tmp_path)
