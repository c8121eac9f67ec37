"""Reading stored models: nothing of theirs runs, and what is missing is said at once."""

import json
import re
import socket
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from tokengym.agents.policy.language_model import load_causal_lm
from tokengym.envs.errors import PretrainedError
from tokengym.envs.pretrained import from_pretrained
from tokengym.rewards import ABCD, RewardModel
from tokengym.rewards.models.loading import load_tokenizer

PRODUCT = Path(__file__).parents[2]
EVIL = """
raise SystemExit("the code of a model ran")
"""


@pytest.fixture(autouse=True)
def nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No question is asked, and no host is reached."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError(f"called with {arguments}")

    monkeypatch.setattr("builtins.input", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def tiny() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=11))


@pytest.fixture
def with_code(tmp_path: Path) -> Path:
    """A model of its own family, as a repository with code in it has."""
    folder = tmp_path / "evil"
    tiny().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "evil",
        "auto_map": {
            "AutoConfig": "evil.Config",
            "AutoModelForCausalLM": "evil.Model",
            "AutoModelForSequenceClassification": "evil.Model",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}})
    )
    (folder / "evil.py").write_text(EVIL)
    return folder


@pytest.mark.parametrize(
    "load",
    [
        load_causal_lm,
        RewardModel.from_pretrained,
        lambda folder: from_pretrained(AutoTokenizer, folder),
        lambda folder: ABCD(model=folder).bind(None),  # type: ignore[arg-type]
    ],
    ids=["policy", "reward model", "tokenizer", "credit"],
)
def test_a_models_own_code_never_runs_and_nobody_is_asked(load, with_code: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot load .*evil") as caught:
        load(str(with_code))
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_refused_with_the_way_to_convert_them(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(tiny().state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(PretrainedError, match=r"pytorch_model.bin is pickled .* call save_pretr"):
        load_causal_lm(tmp_path)


def test_pickled_adapters_are_refused(tmp_path: Path) -> None:
    from tokengym.rewards.attribution.policy_reader import PolicyReader

    tiny().save_pretrained(tmp_path / "agent" / "reference")
    adapted = get_peft_model(tiny(), LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True))
    adapter = tmp_path / "agent" / "adapter"
    adapted.save_pretrained(str(adapter))
    (adapter / "adapter_model.safetensors").unlink()
    torch.save({}, adapter / "adapter_model.bin")
    with pytest.raises(PretrainedError, match=r"adapter_model.bin is pickled"):
        PolicyReader.from_pretrained(tmp_path / "agent")


@pytest.mark.parametrize(
    "name", ["./modle", "/nowhere/model", "~/model", "a/b/c", "tests/modle", ""]
)
def test_a_path_that_does_not_exist_is_not_looked_up_on_the_hub(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PRODUCT)
    for auto_class in (AutoModelForCausalLM, AutoTokenizer):
        with pytest.raises(PretrainedError, match=re.escape(f"there is no folder {name!r}; check")):
            from_pretrained(auto_class, name)


def test_weights_and_tokenizers_are_the_stored_ones(tmp_path: Path) -> None:
    model = tiny()
    model.save_pretrained(tmp_path)
    for name, weight in load_causal_lm(tmp_path).state_dict().items():
        assert torch.equal(weight, model.state_dict()[name])
    assert load_tokenizer(tmp_path) is None


def test_models_are_read_in_one_place() -> None:
    """Every class of transformers is given to `from_pretrained` of envs/pretrained.py."""
    call = re.compile(r"(?:Auto\w+|auto_class|GPT2\w*)\.from_pretrained\(")
    found = [
        path.relative_to(PRODUCT).as_posix()
        for folder in ("envs", "rewards", "agents", "evaluation", "scripts/commands")
        for path in sorted((PRODUCT / folder).rglob("*.py"))
        if call.search(path.read_text(encoding="utf-8"))
    ]
    assert found == ["envs/pretrained.py"]
