"""Training a reward model from preference pairs: Bradley-Terry."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokengym.rewards.errors import RewardError
from tokengym.rewards.training.fitting import Report
from tokengym.rewards.training.pipeline import Start, load_start, tokenizer_of, train_on_pairs
from tokengym.rewards.training.readers import RewardReader
from tokengym.rewards.training.results import TrainedReward
from tokengym.rewards.training.settings import RewardTraining

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def train_reward_model(
    model: "str | Path | PreTrainedModel",
    pairs: Any,
    *,
    output_dir: str | Path,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    held_out: Any = 0.1,
    lora: "LoraConfig | None" = None,
    device: str = "auto",
    dtype: str = "auto",
    merge: bool = True,
    training: RewardTraining | None = None,
    report: Report | None = None,
) -> TrainedReward:
    """Train a reward model on preference pairs, measure it on held-out pairs, and store it.

    loss = -log sigmoid(R(x, y_w) - R(x, y_l) - margin), R the one logit at the text's last token

    A training that was stopped goes on from its last checkpoint when it is called again with the
    same arguments; the result is the same, number for number.

    Args:
        model: Where it starts from: the folder or hub name of a causal language model or a
            classifier, or a classifier with one logit, which is trained in place. A missing head
            is initialised.
        pairs: From `read_pairs`, or what that reads with its defaults.
        output_dir: Where the model, its tokenizer and ``measures.json`` are stored, whole or not
            at all; ``<output_dir>.unfinished`` holds the checkpoints until then.
        tokenizer: The model's; None loads the one beside it.
        held_out: Share of the prompts whose pairs are held out, or other pairs.
        lora: Trains adapters of this configuration and the head.
        device: Device that trains; "auto" takes a GPU if there is one.
        dtype: Precision of the weights; "auto" is float32. Small steps vanish in bfloat16.
        merge: Adds them to the model's weights before storing. False stores adapters and head
            alone, which ``RewardModel.from_pretrained(..., backbone=)`` puts on a backbone.
        training: How; see `RewardTraining`.
        report: Called after each step with the steps done, all of them, and the loss.

    Raises:
        RewardError: if there is no tokenizer, the loss is no longer finite, the folder is in use,
            or there are no adapters that could stay unmerged.
        ScorerError: if the model has no head for one score.
        DatasetError: if the pairs cannot be read, or a text is too long.
    """
    from transformers import AutoModelForSequenceClassification

    if lora is None and not merge:
        raise RewardError("merge = False stores adapters alone; pass lora=LoraConfig(...)")
    training = training or RewardTraining()
    network = load_start(
        model,
        AutoModelForSequenceClassification,
        training.seed,
        device=device,
        dtype=dtype,
        num_labels=1,
    )
    start = Start(
        kind="reward",
        source=str(model) if isinstance(model, (str, Path)) else type(model).__name__,
        model=network,
        tokenizer=tokenizer_of(model, tokenizer),
        make_reader=lambda base: RewardReader(
            base, append_eos=training.append_eos, chat_template=training.chat_template
        ),
        lora=None if lora is None else replace(lora, task_type="SEQ_CLS"),
        merge=merge,
        format={} if dtype == "auto" else {"dtype": dtype},
    )
    return train_on_pairs(
        start, pairs, output_dir=output_dir, held_out=held_out, training=training, report=report
    )
