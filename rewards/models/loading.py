"""Loading of the models behind scorers, and what they can read: lengths, vocabularies."""

import copy
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from tokengym.base import device as base_device
from tokengym.base.device import select_device
from tokengym.base.errors import PretrainedError, TokenizerError
from tokengym.base.files import read_json, read_once
from tokengym.base.models import find_model, is_cached, located, quiet
from tokengym.base.pretrained import from_pretrained, load_whole
from tokengym.base.stored.adapters import adapter_weights, head_rows, put_adapters
from tokengym.base.stored.parts import ADAPTER_CONFIG, ADAPTER_WEIGHTS, tokenizer_place
from tokengym.rewards.errors import ScorerError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

T = TypeVar("T")


def loaded_once(load: Callable[..., T]) -> Callable[..., T]:
    """Return a loader of stored models that loads each once in a process.

    It is loaded anew when files change, or when "auto" stands for another device or precision.
    """
    once = read_once(also=lambda: base_device.preferred)(load)
    return wraps(load)(lambda path, **options: once(located(path), **options))


def load_dtype(folder: str | Path, dtype: str) -> str:
    """Return the precision that a stored model is computed in, whatever command loads it.

    "auto" is the files' own, but float32 for a model that was dequantised from a GGUF file: its
    weights are stored in bfloat16 for their size, which would cost time and digits on a CPU.
    """
    return "float32" if dtype == "auto" and is_cached(folder) else dtype


def load_pretrained(
    auto_class: Any, path: str | Path, *, dtype: str, device: str, unread: tuple[str, ...] = ()
) -> "PreTrainedModel":
    """Return a stored model, every weight of which was stored with it."""
    try:
        model: Any = load_whole(auto_class, path, unread=unread, dtype=dtype)
    except PretrainedError as error:
        raise ScorerError(str(error)) from error
    model.eval().requires_grad_(False)
    model.to(select_device(device))
    return model


def shares_tokenizer(path: str | Path) -> bool:
    """Return whether a stored model is a bundle's, whose tokenizer beside it is the policy's."""
    return tokenizer_place(path) == Path(path).resolve().parent / "tokenizer"


def load_tokenizer(path: str | Path) -> "PreTrainedTokenizerBase | None":
    """Return the tokenizer of a stored model, see `tokenizer_place`; None if there is none."""
    from transformers import AutoTokenizer

    place = tokenizer_place(path)
    return None if place is None else from_pretrained(AutoTokenizer, place)


def vocabulary_size(model: torch.nn.Module) -> int:
    """Return the number of ids a model embeds."""
    embeddings: Any = model.get_input_embeddings()  # type: ignore[operator]
    return int(embeddings.num_embeddings)


def longest_input(model: "PreTrainedModel") -> int | None:
    """Return how many tokens a model has positions for, None where it says nothing of it.

    Encoders in RoBERTa's line count from the padding id onwards, so that the first
    ``pad_token_id + 1`` rows of their table are no positions of a text.
    """
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is None or limit <= 0:  # XLNet's is -1
        return None
    tables = (
        module
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding)
    )
    skipped = [table.padding_idx + 1 for table in tables if table.padding_idx is not None]
    return int(limit) - max(skipped, default=0)


def check_vocabularies(
    *,
    policy: "PreTrainedTokenizerBase",
    model: "PreTrainedTokenizerBase | None",
    size: int,
    name: str,
) -> None:
    """Raise unless a model reads the policy's ids as the policy means them."""
    if len(policy) > size:
        raise TokenizerError(
            f"the policy's tokenizer has {len(policy)} ids, the model of scorer {name!r} "
            f"{size}; score with a model of the policy's tokenizer"
        )
    if model is not None and model is not policy and model.get_vocab() != policy.get_vocab():
        raise TokenizerError(
            f"scorer {name!r} has another tokenizer ({len(model)} ids) than the policy "
            f"({len(policy)}); score with a model of the policy's tokenizer"
        )


def check_lengths(sequences: Sequence[Sequence[int]], limit: int | None, name: str) -> None:
    """Raise unless the reader of that name has positions for each sequence of token ids."""
    for index, ids in enumerate(sequences):
        if limit is not None and len(ids) > limit:
            raise ScorerError(
                f"episode {index} has {len(ids)} tokens, {name!r} reads at most {limit}; lower "
                "max_prompt_tokens or max_new_tokens, or shorten the prompt"
            )


def load_on_backbone(path: str | Path, backbone: "PreTrainedModel") -> "PreTrainedModel":
    """Return the classifier that stored adapters make of a causal language model's trunk.

    Its weights are the backbone's own tensors: whatever else reads them, a policy with adapters of
    its own say, takes no further memory. They are frozen here, for all who share them, because a
    backbone that learned would change the scores.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers import AutoModelForSequenceClassification

    if not (Path(path) / ADAPTER_CONFIG).is_file():
        raise ScorerError(
            f"{path} holds no {ADAPTER_CONFIG}, so it does not go on a backbone; train it with "
            "train_reward_model(..., lora=..., merge=False), or leave backbone out"
        )
    if any(isinstance(module, BaseTunerLayer) for module in backbone.modules()):
        raise ScorerError(
            "the backbone has adapters already; load the reward model before the policy is made"
        )
    weights = adapter_weights(Path(path))
    classes = head_rows(weights)
    if classes is None:
        raise ScorerError(
            f"{Path(path) / ADAPTER_WEIGHTS} holds no trained score.weight; train the adapters "
            "with task_type='SEQ_CLS'"
        )
    config = copy.deepcopy(backbone.config)
    config.num_labels = classes
    with quiet(), torch.device("meta"):
        network: Any = AutoModelForSequenceClassification.from_config(config)
    setattr(network, network.base_model_prefix, sharing_weights(backbone.base_model))
    network.score = torch.nn.Linear(network.score.in_features, classes, bias=False).to(
        backbone.device, backbone.dtype
    )
    try:
        with quiet():
            adapted = put_adapters(network, Path(path), weights)
    except PretrainedError as error:
        raise ScorerError(str(error)) from error
    classifier: Any = adapted.get_base_model()
    return classifier.eval().requires_grad_(False)


def shared_backbone(
    path: str | Path, *, device: str = "auto", dtype: str = "auto"
) -> "PreTrainedModel":
    """Return a stored language model, frozen, that a process reads once for all who adapt it.

    Policies with adapters take `sharing_weights` of it, reward models `load_on_backbone`.
    """
    folder = located(path)
    dtype = load_dtype(folder, base_device.preferred.dtype if dtype == "auto" else dtype)
    return _backbone(folder, dtype).to(select_device(device))  # type: ignore[arg-type]


@read_once(maxsize=1)
def _backbone(path: str | Path, dtype: str) -> "PreTrainedModel":
    """Return the model of a folder or hub name."""
    from transformers import AutoModelForCausalLM

    model: Any = load_whole(AutoModelForCausalLM, path, dtype=dtype)
    return model.eval().requires_grad_(False)


def sharing_weights(model: Any) -> Any:
    """Return a model of modules of its own over the same weights, to put adapters on."""
    shared: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters()}
    return copy.deepcopy(model, shared)


def named_backbone(path: str | Path, *, device: str) -> "PreTrainedModel | None":
    """Return the shared backbone of stored adapters of a model by name; None for anything else."""
    file = Path(path) / ADAPTER_CONFIG
    base = read_json(file).get("base_model_name_or_path") if file.is_file() else None
    if base is None or find_model(base) is None:
        return None
    return shared_backbone(base, device=device)
