"""A reward model that is adapters and a head on the weights of somebody else's backbone."""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tokengym.rewards.errors import ScorerError
from tokengym.rewards.models.loading import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTERS = "adapter_config.json"
"""The file that tells a folder of PEFT adapters."""


def load_on_backbone(path: str | Path, backbone: "PreTrainedModel") -> "PreTrainedModel":
    """Return the classifier that stored adapters make of a causal language model's trunk.

    Its weights are the backbone's own tensors: whatever else reads them, a policy with adapters of
    its own say, takes no further memory. They are frozen here, for all who share them, because a
    backbone that learned would change the scores.

    Args:
        path: Folder of PEFT adapters for a sequence classifier, the head among them.
        backbone: The causal language model they were trained on, without adapters as yet.

    Raises:
        ScorerError: if the folder holds no such adapters, or they do not fit the backbone.
    """
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers import AutoModelForSequenceClassification

    if not (Path(path) / ADAPTERS).is_file():
        raise ScorerError(
            f"{path} holds no {ADAPTERS}, so it does not go on a backbone; train it with "
            "train_reward_model(..., lora=..., merge=False), or leave backbone out"
        )
    if any(isinstance(module, BaseTunerLayer) for module in backbone.modules()):
        raise ScorerError(
            "the backbone has adapters already; load the reward model before the policy is made"
        )
    head = _head_weight(Path(path))
    config = copy.deepcopy(backbone.config)
    config.num_labels = len(head)
    with torch.device("meta"):
        network: Any = AutoModelForSequenceClassification.from_config(config)
    shared: dict[int, Any] = {id(parameter): parameter for parameter in backbone.parameters()}
    setattr(network, network.base_model_prefix, copy.deepcopy(backbone.base_model, shared))
    network.score = torch.nn.Linear(head.shape[1], head.shape[0], bias=False).to(
        backbone.device, backbone.dtype
    )
    try:
        with quiet():
            adapted = PeftModel.from_pretrained(network, str(path))
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ScorerError(
            f"the adapters in {path} do not fit the backbone ({reason}); pass the language model "
            "that they were trained on"
        ) from error
    classifier: Any = adapted.get_base_model()
    return classifier.eval().requires_grad_(False)


def _head_weight(folder: Path) -> torch.Tensor:
    """Return the stored head, (classes, width)."""
    from safetensors.torch import load_file

    file = folder / "adapter_model.safetensors"
    weights = load_file(file) if file.is_file() else {}
    for name, weight in weights.items():
        if name.endswith("score.weight"):
            return weight
    raise ScorerError(
        f"{file} holds no trained score.weight; train the adapters with task_type='SEQ_CLS'"
    )
