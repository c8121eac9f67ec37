"""Adapters that were trained before are where training starts; new ones start at the model."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2ForSequenceClassification,
    PreTrainedModel,
)

from tests.support.agents.common import lora_config, make_model, transformers_reads_adapters
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym.agents import DPO, PPO, SFT
from tokengym.agents.errors import ModelError
from tokengym.agents.offline.policies import make_policy
from tokengym.agents.policy.language_model import CausalLM, fuse_activations, load_causal_lm
from tokengym.base.errors import PretrainedError
from tokengym.base.stored.adapters import merged
from tokengym.rewards import RewardModel, ScorerError
from tokengym.rewards.attribution.policy_reader import PolicyReader
from tokengym.rewards.registry import stored_scorer

IDS = torch.tensor([[3, 4, 5, 6]])
ROWS = [{"prompt": "b c", "response": "a d"}]
PAIRS = [{"prompt": "b c", "chosen": "a d", "rejected": "e"}]


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    """Return what a model says of a text."""
    whole = model if isinstance(model, PreTrainedModel | PeftModel) else model.model
    return whole.eval()(input_ids=IDS).logits


def shaken(model: Any) -> Any:
    """Return a model whose trained weights have moved."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in filter(lambda one: one.requires_grad, model.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def tuned(shape: str = "gpt2", base: str | Path | None = None, **settings: Any) -> Any:
    """Return a model with trained adapters on it, a ``PeftModel``."""
    model: Any = make_model(shape) if base is None else AutoModelForCausalLM.from_pretrained(base)
    targets = {"gpt2": "c_attn", "llama": "q_proj"}[shape]
    usual = {"r": 2, "target_modules": [targets], "fan_in_fan_out": shape == "gpt2"}
    return shaken(get_peft_model(model, LoraConfig(**{**usual, **settings})))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model with its tokenizer, and adapters for it."""
    folder = tmp_path_factory.mktemp("stored")
    make_model().save_pretrained(folder / "base")
    make_tokenizer().save_pretrained(folder / "base")
    tuned(base=folder / "base").save_pretrained(str(folder / "adapters"))
    return folder


@pytest.fixture(scope="module")
def expected(folders: Path) -> torch.Tensor:
    """What base and adapters say."""
    base = AutoModelForCausalLM.from_pretrained(folders / "base")
    return logits(PeftModel.from_pretrained(base, str(folders / "adapters")))


def given(folders: Path, kind: str) -> Any:
    """Return base and adapters as a user has them."""
    base = AutoModelForCausalLM.from_pretrained(folders / "base")
    return {
        "folder": lambda: str(folders / "adapters"),
        "PeftModel": lambda: PeftModel.from_pretrained(base, str(folders / "adapters")),
        "loaded by transformers": lambda: AutoModelForCausalLM.from_pretrained(
            folders / "adapters"
        ),
    }[kind]()


LEARNERS: dict[str, Callable[..., Any]] = {
    "PPO": lambda envs, kw: PPO("CausalLMPolicy", envs, policy_kwargs=kw, device="cpu").policy,
    "DPO": lambda _, kw: DPO(**source(kw), pairs=PAIRS, device="cpu").policy,
    "SFT": lambda _, kw: SFT(**source(kw), texts=ROWS, device="cpu").policy,
    "best of n, evaluate": lambda envs, kw: make_policy(envs, **kw),
}


def source(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of an offline learner."""
    return {
        "envs_or_model": kwargs["model"],
        "tokenizer": make_tokenizer(),
        "lora": kwargs.get("lora"),
    }


@pytest.mark.parametrize("lora", [None, lora_config()], ids=["whole", "lora"])
@pytest.mark.parametrize("learner", LEARNERS)
def test_base_and_adapters_are_where_training_starts_and_the_reference(
    learner, lora, folders, expected, make_envs
):
    policy = LEARNERS[learner](make_envs(), {"model": str(folders / "adapters"), "lora": lora})
    torch.testing.assert_close(logits(policy.language_model), expected)
    with policy.weights(True) as reference:
        torch.testing.assert_close(logits(reference), expected)


@pytest.mark.parametrize(
    "kind",
    [
        "folder",
        "PeftModel",
        pytest.param("loaded by transformers", marks=transformers_reads_adapters),
    ],
)
def test_they_are_so_in_every_form(kind, folders, expected):
    model = given(folders, kind)
    loaded = load_causal_lm(model)
    torch.testing.assert_close(logits(loaded), expected)
    assert all(weight.requires_grad for weight in loaded.parameters())
    if kind != "folder":  # the caller's model is as it was
        assert loaded is not model
        assert logits(model).equal(logits(given(folders, kind)))


def test_a_reference_and_a_reader_take_adapters_too(folders, expected, make_envs):
    kwargs: Any = {"model": make_model(), "reference": folders / "adapters"}
    agent = PPO("CausalLMPolicy", make_envs(), policy_kwargs=kwargs, device="cpu")
    torch.testing.assert_close(logits(agent.policy.reference), expected)
    reader = PolicyReader.from_pretrained(folders / "adapters")
    torch.testing.assert_close(logits(reader), expected)
    assert reader.tokenizer.get_vocab() == make_tokenizer().get_vocab()  # its base's
    in_memory = PolicyReader(given(folders, "PeftModel"))
    torch.testing.assert_close(logits(in_memory), expected)


ELSEWHERE: dict[str, Any] = {  # of other programs, some with what is refused for new ones
    "biases": LoraConfig(r=2, bias="all", target_modules=["q_proj"]),
    "pissa": LoraConfig(r=2, init_lora_weights="pissa", target_modules=["q_proj", "v_proj"]),
    "dora": LoraConfig(r=2, use_dora=True, target_modules=["q_proj"]),
    "rows of tokens": LoraConfig(r=2, trainable_token_indices=[3], target_modules=["q_proj"]),
    "IA3": IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "LoHa": LoHaConfig(r=2, target_modules=["q_proj"]),
}


@pytest.mark.parametrize("config", ELSEWHERE.values(), ids=ELSEWHERE)
def test_adapters_of_other_programs_are_read_whole(config, tmp_path):
    make_model("llama").save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    start = logits(base)
    adapted = shaken(get_peft_model(base, copy.deepcopy(config)))
    adapted.save_pretrained(str(tmp_path / "adapters"))
    after = logits(adapted)
    assert not torch.allclose(after, start, atol=1e-3)
    for model in (tmp_path / "adapters", adapted):
        torch.testing.assert_close(logits(load_causal_lm(model)), after, atol=1e-4, rtol=1e-4)


def test_adapters_go_on_adapters(folders, tmp_path):
    """As those of a Trainer's checkpoint do that began with adapters."""
    agent = SFT(folders / "adapters", ROWS, lora=lora_config(), max_steps=1, device="cpu")
    shaken(agent.policy.language_model.adapters)
    agent.save_model(str(tmp_path / "more"))
    loaded = load_causal_lm(tmp_path / "more")
    torch.testing.assert_close(logits(loaded), logits(agent.policy.language_model))


@pytest.mark.parametrize("targets", [["q_proj", "lm_head"], ["q_proj", "embed_tokens"]])
def test_tied_weights_are_untied_where_adapters_change_one_of_them(targets):
    """PEFT's own merging would add the head's adapter to the embeddings as well."""
    model = make_model("llama", scale=1.0)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    adapted = shaken(get_peft_model(model, LoraConfig(r=2, target_modules=targets)))
    whole = merged(adapted)
    torch.testing.assert_close(logits(whole), logits(adapted))
    assert not whole.config.tie_word_embeddings


def rewrite(folder: Path, **changes: Any) -> None:
    """Change the configuration of adapters."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def change_weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    """Return a change of the stored adapters' weights."""

    def changed(folder: Path) -> None:
        tensors = load_file(folder / "adapter_model.safetensors")
        change(tensors)
        save_file(tensors, folder / "adapter_model.safetensors")

    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_weights(lambda t: t.popitem()), r"lora_\w.* missing"),
        (
            change_weights(lambda t: t.update({"base_model.model.x": torch.ones(1)})),
            "base_model.model.x",
        ),
        (lambda f: rewrite(f, r=3), "fit GPT2LMHeadModel"),
        (lambda f: rewrite(f, base_model_name_or_path=None), "no base model"),
        (
            lambda f: rewrite(f, base_model_name_or_path="/nowhere/base"),
            r"base_model_name_or_path.*'/nowhere/base'",
        ),
        (lambda f: rewrite(f, base_model_name_or_path=str(f)), "own base"),
        (lambda f: make_model().save_pretrained(f), r"whole model.*adapters"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"{"), "cannot be read"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "adapter_config.json"),
    ],
)
def test_adapters_that_cannot_be_loaded_whole_are_one_line(change, message, folders, tmp_path):
    adapters = shutil.copytree(folders / "adapters", tmp_path / "adapters")
    change(adapters)
    with pytest.raises(PretrainedError, match=message) as caught:
        load_causal_lm(adapters)
    assert "\n" not in str(caught.value)


def test_prompts_that_were_learned_are_no_adapters():
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(PretrainedError, match="PROMPT_TUNING"):
        load_causal_lm(get_peft_model(make_model(), config))


def test_rows_of_added_tokens_come_with_the_adapters(folders, tmp_path):
    model: Any = AutoModelForCausalLM.from_pretrained(folders / "base")
    model.resize_token_embeddings(11, mean_resizing=False)
    adapted = shaken(get_peft_model(model, lora_config()))
    adapted.save_pretrained(str(tmp_path), save_embedding_layers=True)
    torch.testing.assert_close(logits(load_causal_lm(tmp_path)), logits(adapted))


@pytest.mark.parametrize(
    "base_has_head", [pytest.param(False, marks=transformers_reads_adapters), True]
)
def test_a_reward_model_is_made_of_adapters_and_their_head(base_has_head, folders, tmp_path):
    base: Any = folders / "base"  # a language model, as it is usual
    if base_has_head:
        config: Any = make_model().config
        config.num_labels = 1
        base = tmp_path / "classifier"
        GPT2ForSequenceClassification(config).save_pretrained(base)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    lora = LoraConfig(task_type="SEQ_CLS", target_modules=["c_attn"], fan_in_fan_out=True)
    adapted = shaken(get_peft_model(model, lora))
    adapted.save_pretrained(str(tmp_path / "adapters"))
    assert stored_scorer(tmp_path / "adapters") == "reward-model"
    for scorer in (RewardModel.from_pretrained(tmp_path / "adapters"), RewardModel(adapted)):
        torch.testing.assert_close(logits(scorer.model), logits(adapted))
    with pytest.raises(PretrainedError, match=r"score.*no place"):
        load_causal_lm(tmp_path / "adapters")
    with pytest.raises(ScorerError, match=r"no trained score\.weight"):
        RewardModel.from_pretrained(folders / "adapters")


# --- new adapters, and what is saved of them ------------------------------------------------------

SETTINGS: dict[str, dict[str, Any]] = {
    "usual": {},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "dora": {"use_dora": True},
    "rows of tokens": {"trainable_token_indices": [3, 4]},
    "a head that learns": {"modules_to_save": ["lm_head"]},
    "embeddings with adapters": {"target_modules": ["c_attn", "wte"]},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_what_is_saved_is_loaded_to_the_number_here_and_elsewhere(
    settings, make_envs, make_ppo, tmp_path
):
    lora = LoraConfig(**{"r": 2, "target_modules": ["c_attn"], "fan_in_fan_out": True, **settings})
    plain = make_model()
    fuse_activations(plain)  # as a policy's are, which rounds in another way
    agent, start = make_ppo(lora=lora), logits(plain)
    torch.testing.assert_close(logits(agent.policy.language_model), start)
    learned = shaken(agent.policy.language_model.adapters)
    after = logits(learned)
    assert not torch.allclose(after, start)
    with agent.policy.weights(True) as reference:
        assert logits(reference).equal(start)
    agent.save(tmp_path / "agent")
    loaded = PPO.load(tmp_path / "agent", env=make_envs()).policy
    assert logits(loaded.language_model).equal(after)
    with loaded.weights(True) as reference:
        assert logits(reference).equal(start)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "agent" / "reference")
    elsewhere = PeftModel.from_pretrained(base, str(tmp_path / "agent" / "adapter"))
    torch.testing.assert_close(logits(elsewhere), after)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "agent" / "adapter")
    assert tokenizer.get_vocab() == make_tokenizer().get_vocab()
    moved = (tmp_path / "agent").rename(tmp_path / "moved")
    for path in (moved, moved / "adapter"):  # which name another place as that of their base
        torch.testing.assert_close(logits(load_causal_lm(path)), after)


@pytest.mark.parametrize("sibling", ["model", "reference"])
def test_adapters_beside_another_model_go_on_the_base_that_they_name(sibling, folders, tmp_path):
    adapter = shutil.copytree(folders / "adapters", tmp_path / "adapter")
    expected = load_causal_lm(folders / "adapters")
    expected.save_pretrained(tmp_path / sibling)  # merged: on it they would count twice
    torch.testing.assert_close(logits(load_causal_lm(adapter)), logits(expected))


@pytest.mark.parametrize(
    "settings",
    [
        {"bias": "all"},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": False},
        {"layer_replication": [(0, 2), (1, 2)]},
        {"task_type": "SEQ_CLS"},
        {"inference_mode": True},
    ],
)
def test_settings_under_which_the_model_without_adapters_is_not_the_start_are_refused(settings):
    (name,) = settings
    with pytest.raises(ModelError, match=rf"^LoraConfig\({name}=.*leave it out"):
        CausalLM(make_model(), LoraConfig(r=2, target_modules=["c_attn"], **settings))


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_dropout_of_adapters_that_has_no_effect_is_named(make_envs, caplog, rate):
    """Ratios begin at 1 without it; DPO and SFT learn with it where they are told to."""
    config = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, lora_dropout=rate)

    def said() -> list[str]:
        lines = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return [line for line in lines if line.startswith("lora_dropout=0.3 of the adapters has")]

    PPO("CausalLMPolicy", make_envs(), policy_kwargs={"model": make_model(), "lora": config})
    assert len(said()) == (rate > 0)
    for off in (True, False):
        how: Any = {"tokenizer": make_tokenizer(), "lora": config, "disable_dropout": off}
        for trainer, rows in ((DPO, PAIRS), (SFT, ROWS)):
            trainer(make_model(), rows, **how)
            assert len(said()) == (rate > 0 and off)
