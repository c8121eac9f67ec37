"""Training a process model: a score at the end of every step, from labels of steps."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from tokengym.base import say_shared
from tokengym.envs import Chat, DatasetError, Episode, decode, encode, encode_chats, encode_next
from tokengym.lab.rules.prm import STEPS_KEY
from tokengym.lab.tables import wilson_interval
from tokengym.lab.training.fitting import Report, RewardTraining, fit, let_learn, padded
from tokengym.lab.training.pipeline import load_start, tokenizer_of
from tokengym.lab.training.results import TrainerPaths, fingerprint, hash_weights
from tokengym.rewards import RewardError
from tokengym.rewards.models import Classifier, longest_input, reading
from tokengym.rewards.pairs import RowError, TableSource, read_table, sift

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """One response cut into steps, with a label for each."""

    prompt: str
    """The prompt as text."""
    completions: tuple[str, ...]
    """The steps, in order."""
    labels: tuple[float, ...]
    """For each step 1 if it is right, else 0; or the chance that it leads to a right answer."""
    messages: Chat = field(default_factory=Chat)
    """The conversation that the prompt is, if it is one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "completions", tuple(self.completions))
        object.__setattr__(self, "labels", tuple(map(float, self.labels)))
        if not self.completions or len(self.completions) != len(self.labels):
            raise DatasetError(
                f"a row of steps needs a label for each of its completions, got "
                f"{len(self.labels)} for {len(self.completions)} of {self.prompt[:40]!r}"
            )
        if not all(0.0 <= label <= 1.0 for label in self.labels):
            raise DatasetError(
                f"labels must be True, False or numbers in [0, 1], got {list(self.labels)}"
            )


@dataclass(frozen=True, kw_only=True)
class ProcessMetrics:
    """Measurements of a process model on rows that it was not trained on."""

    rows: int
    """Number of responses."""
    steps: int
    """Number of their steps."""
    accuracy: float
    """Share of the steps on the right side of 0.5."""
    accuracy_interval: tuple[float, float]
    """Wilson's interval of it, each response one observation: its steps go right together."""
    majority_accuracy: float
    """Accuracy of calling all steps right, or all wrong, whichever is better: what a model must
    beat."""
    loss: float
    """Mean cross-entropy of the steps, nats."""
    first_error_f1: float
    """ProcessBench's figure, see `first_error_f1`; NaN where no row or
    every row has an error."""


@dataclass(frozen=True, kw_only=True)
class TrainedProcess:
    """A trained process model on disk, with its measurements."""

    path: Path
    """Folder of the model and its tokenizer, for ``prm:model=``."""
    metrics: ProcessMetrics
    """On the held-out rows."""
    rows: int
    """Number of rows it was trained on."""
    losses: tuple[float, ...]
    """Loss of each optimiser step, nats."""


def read_steps(
    dataset: TableSource | Sequence[StepRow], *, split: str | None = None
) -> list[StepRow]:
    """Return the rows of a data set in TRL's format of stepwise supervision.

    Args:
        dataset: What `read_pairs` reads, with the columns ``prompt`` (text or messages),
            ``completions`` (list of texts) and ``labels`` (list of booleans, or of numbers in
            [0, 1]); or such rows.
        split: Which one, where the data set has splits.

    Raises:
        DatasetError: if it cannot be read, lacks a column or is empty, or a row is damaged.
    """
    if isinstance(dataset, Sequence) and all(isinstance(row, StepRow) for row in dataset):
        rows = cast("list[StepRow]", list(dataset))
    else:
        table = read_table(dataset, split, of="steps")
        remedy = "TRL's format of stepwise supervision has them"
        rows, _ = sift(enumerate(table), _steps, on_error="raise", of=table.of, remedy=remedy)
    if not rows:
        raise DatasetError("the steps have 0 rows; give at least one response")
    return rows


def _steps(_: int, row: Mapping[str, Any]) -> StepRow:
    """Return a row of a table."""
    try:
        prompt, chat = row["prompt"], Chat()
        if not isinstance(prompt, str):
            chat = Chat.of_row(prompt, row)
            prompt = chat.text
        return StepRow(
            prompt=prompt, messages=chat, completions=row["completions"], labels=row["labels"]
        )
    except (KeyError, TypeError, ValueError) as error:
        fault = f"it needs prompt, completions and labels ({error})"
        raise RowError("not steps", fault) from None


def rows_of_forks(
    episodes: Sequence[Episode],
    tokenizer: "PreTrainedTokenizerBase",
    pieces: Sequence[Sequence[range]],
    *,
    hard: bool = False,
) -> list[StepRow]:
    """Return rows of steps whose labels are shares of executed continuations that were right.

    Args:
        episodes: Played under the credit ``mc:k=8,segments=m``, whose token rewards sum up to the
            mean score of the continuations from every piece's end, the last one's is the score's.
        tokenizer: The policy's.
        pieces: What ``mc`` paid in one sum, its ``pieces(episodes)``.
        hard: Label a step 1 if any continuation scored above 0, not by the mean.

    Raises:
        DatasetError: if an episode has no token rewards, or scores are not in [0, 1].

    Source: Wang et al. 2024, "Math-Shepherd", arXiv:2312.08935, section 3.2.
    """
    rows = []
    for episode, parts in zip(episodes, pieces, strict=True):
        if episode.token_rewards is None:
            raise DatasetError(
                "labels by forks come from episodes that were paid by mc, got one without token "
                "rewards; play it with reward='mc:k=8,segments=4'"
            )
        totals = np.cumsum(episode.token_rewards.astype(np.float64))
        values = totals[[part.stop - 1 for part in parts]].round(6)
        ids = [episode.response_ids[part.start : part.stop] for part in parts]
        shares = values.clip(0.0, 1.0)  # sums of float32 may be just outside
        if not np.allclose(values, shares, rtol=0.0, atol=1e-5):
            raise DatasetError(
                f"labels by forks come from scores in [0, 1], got steps of {values.tolist()}; "
                "take a scorer that gives 1 to what is right, and 0 to the rest"
            )
        labels = (shares > 0) if hard else shares
        steps = tuple(decode(tokenizer, ids))
        rows.append(
            StepRow(
                prompt=episode.prompt,
                completions=steps,
                labels=tuple(labels),
                messages=episode.chat if episode.messages else Chat(),
            )
        )
    return rows


def train_process_model(
    model: "str | Path | PreTrainedModel",
    rows: TableSource | Sequence[StepRow],
    *,
    output_dir: str | Path,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    held_out: float | TableSource | Sequence[StepRow] = 0.1,
    separator: str = "\n",
    device: str = "auto",
    dtype: str = "auto",
    training: RewardTraining | None = None,
    report: Report | None = None,
) -> TrainedProcess:
    """Train a process model on labelled steps, measure it on held-out rows, and store it.

    loss = mean over steps of -c log p - (1 - c) log(1 - p),  p = sigmoid(M(x, y up to its end))

    M is one logit, read at the last token of a step with its separator. A training that was stopped
    is resumed as `train_reward_model`'s.

    Args:
        model: Folder or hub name of a causal language model or classifier, or a classifier with one
            logit, a copy of which is trained. A missing head is initialised.
        rows: From `read_steps`, or what that reads.
        output_dir: Where the model, its tokenizer and ``measures.json`` are stored.
        tokenizer: The model's; None loads the one beside it.
        held_out: Share of the rows that are held out, those of the last prompts, or other rows.
        separator: Text after every step.
        device: Device that trains; "auto" takes a GPU if there is one.
        dtype: Precision of the weights; "auto" is float32.
        training: How; ``batch_size`` counts responses, ``label_smoothing`` moves labels towards
            0.5. Settings of pairs alone are refused.
        report: Called after each step with the steps done, all of them, and the loss.

    Raises:
        RewardError: if there is no tokenizer, a setting has no effect here, or the folder is in
            use.
        ScorerError: if the model has no head for one score.
        DatasetError: if the rows cannot be read, or one is too long.

    Source: Uesato et al. 2022, arXiv:2211.14275; Lightman et al. 2023, arXiv:2305.20050.
    """
    from transformers import AutoModelForSequenceClassification

    training = training or RewardTraining()
    training.refuse(
        *("overlong", "chat_template", "append_eos", "heads"),
        because="has no effect on a process model, which reads whole rows as they are",
    )
    train, test = _divided(rows, held_out)
    model_tokenizer = tokenizer_of(model, tokenizer)
    network = load_start(
        model,
        AutoModelForSequenceClassification,
        training.seed,
        device=device,
        dtype=dtype,
        num_labels=1,
    )
    limit = min(training.max_tokens, longest_input(network) or training.max_tokens)
    encoded, held = (_encoded(side, model_tokenizer, separator, limit) for side in (train, test))
    record = {"kind": "process", "weights": hash_weights(network), "separator": separator}
    record |= {"rows": fingerprint(train), "held_out": fingerprint(test)}
    workplace = TrainerPaths(output_dir, {**record, **training.what_counts()})
    classifier = Classifier(network, None)
    let_learn(network, training)
    with workplace.begun():
        losses = fit(
            StepModule(classifier, training.label_smoothing),
            encoded,
            collate,
            training,
            device=network.device,
            folder=workplace.checkpoints,
            report=report,
        )
        metrics = _measured(classifier, held)
        network.config.update({STEPS_KEY: separator})
        if model_tokenizer.pad_token_id is not None:
            network.config.pad_token_id = model_tokenizer.pad_token_id
        measures = {"held_out": asdict(metrics), "trained_on": len(train), "losses": losses}
        workplace.store(network.eval(), model_tokenizer, measures)
    return TrainedProcess(
        path=workplace.result, metrics=metrics, rows=len(train), losses=tuple(losses)
    )


Encoded = tuple[list[int], list[int], tuple[float, ...]]
"""Ids of a row, the place of each step's last token, and the labels."""


def _divided(rows: Any, held_out: Any) -> tuple[list[StepRow], list[StepRow]]:
    """Return the rows to train on, and those held out."""
    everything = read_steps(rows)
    if not isinstance(held_out, int | float):
        others = read_steps(held_out)
        say_shared(
            *([row.prompt or row.completions for row in side] for side in (everything, others))
        )
        return everything, others
    # A share outside (0, 1), also one that is infinite or NaN, leaves nothing to train on.
    is_share = 0 < held_out < 1
    count = max(1, round(held_out * len(everything))) if is_share else len(everything)
    # Rows of one prompt stand on one side; a row without a prompt has one of its own.
    names = [row.prompt or number for number, row in enumerate(everything)]
    sizes, last, taken = Counter(names), set[str | int](), 0  # in the order of their first rows
    while sizes and taken < count:
        name, size = sizes.popitem()
        last.add(name)
        taken += size
    train = [row for row, name in zip(everything, names, strict=True) if name not in last]
    if not train:
        raise DatasetError(
            f"held_out={held_out} of {len(everything)} rows leaves nothing on one side; pass a "
            "share in (0, 1), or other rows"
        )
    held = [row for row, name in zip(everything, names, strict=True) if name in last]
    return train, held


def _encoded(
    rows: Sequence[StepRow], tokenizer: "PreTrainedTokenizerBase", separator: str, limit: int
) -> list[Encoded]:
    """Return the rows' ids, step by step, as a policy that writes them would have them."""
    encoded = []
    texts = iter(encode(tokenizer, [row.prompt for row in rows if not row.messages]))
    chats = [row.messages for row in rows if row.messages]
    talks = iter(encode_chats(tokenizer, chats) if chats else ())
    for row in rows:
        prompt = next(talks if row.messages else texts)
        ids, ends = list(prompt), list[int]()
        for step in row.completions:
            ids += encode_next(tokenizer, [step + separator], [ids])[0]
            ends.append(len(ids) - 1)
        if len(ids) > limit:
            raise DatasetError(
                f"the row of {row.prompt[:40]!r} has {len(ids)} tokens, more than {limit}; raise "
                "max_tokens if the model reads more, or leave the row out"
            )
        encoded.append((ids, ends, row.labels))
    return encoded


class StepModule(torch.nn.Module):
    """Module that the trainer trains: a batch of rows in, the loss of their steps out."""

    accepts_loss_kwargs = True
    """The trainer passes the number of steps in all parts of a batch, which weigh the same."""

    def __init__(self, classifier: Classifier, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.trained = classifier.model
        self.label_smoothing = label_smoothing
        self._classifier = classifier

    def train(self, mode: bool = True) -> "StepModule":
        """Stay in evaluation mode: few rows teach little, and dropout would take from it."""
        return super().train(False)

    def forward(
        self, labels: Tensor, num_items_in_batch: Tensor | None = None, **texts: Tensor
    ) -> dict[str, Tensor]:
        """Return the loss.

        Args:
            labels: (steps,).
            num_items_in_batch: Steps of the whole batch; None: the labels are all.
            texts: Arguments of `logits`.
        """
        targets = labels + self.label_smoothing * (1 - 2 * labels)
        loss = binary_cross_entropy_with_logits(self.logits(**texts), targets, reduction="sum")
        loss = loss / (len(labels) if num_items_in_batch is None else num_items_in_batch)
        if not torch.isfinite(loss):
            raise RewardError(f"the loss of the steps is {loss.item()}; lower learning_rate")
        return {"loss": loss}

    def logits(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        rows: Tensor,
        columns: Tensor,
    ) -> Tensor:
        """Return the logits at the ends of all steps, (steps,), row after row.

        Args:
            input_ids: (rows, time), as the next two.
            attention_mask: True where a token is.
            position_ids: From 0.
            rows: (steps,) the row of each.
            columns: (steps,) the place of its last token.
        """
        others = {"attention_mask": attention_mask}
        if self._classifier.takes_positions:
            others["position_ids"] = position_ids
        return self._classifier.of_logits(
            self._classifier.logits({"input_ids": input_ids}, others, columns, rows)
        )


def collate(rows: Sequence[Encoded]) -> dict[str, Tensor]:
    """Return the arguments of `StepModule.forward`."""
    return {
        **padded([ids for ids, _, _ in rows]),
        **_places([ends for _, ends, _ in rows]),
        "labels": torch.tensor([label for _, _, labels in rows for label in labels]),
    }


def _places(ends: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Return row and column of the last token of each step, (steps,) both, row after row."""
    return {
        "rows": torch.tensor([row for row, columns in enumerate(ends) for _ in columns]),
        "columns": torch.tensor([column for columns in ends for column in columns]),
    }


def _measured(classifier: Classifier, encoded: Sequence[Encoded]) -> ProcessMetrics:
    """Return the measurements of a process model on labelled rows."""
    values: list[NDArray[np.float64]] = [np.zeros(0)] * len(encoded)
    module = StepModule(classifier)
    device = classifier.model.device
    sequences = [ids for ids, _, _ in encoded]
    with reading(classifier.model, sequences, batch_size=32, positions=True) as batches:
        for batch in batches:
            ends = [encoded[index][1] for index in batch.indices]
            at_ends = module.logits(
                **batch.tensors,
                **{name: places.to(device) for name, places in _places(ends).items()},
            )
            parts = at_ends.double().cpu().split([len(row) for row in ends])
            for index, part in zip(batch.indices, parts, strict=True):
                values[index] = part.numpy()
    every_label = [row_labels for _, _, row_labels in encoded]
    logits, labels = np.concatenate(values), np.concatenate(every_label)
    losses = np.logaddexp(0.0, logits) - labels * logits
    accuracy = float(((logits > 0) == (labels >= 0.5)).mean())
    right = float((labels >= 0.5).mean())
    return ProcessMetrics(
        rows=len(encoded),
        steps=len(labels),
        accuracy=accuracy,
        accuracy_interval=wilson_interval(accuracy, len(encoded)),
        majority_accuracy=max(right, 1.0 - right),
        loss=float(losses.mean()),
        first_error_f1=first_error_f1(
            [first_error([*(row > 0).astype(float)]) for row in values],
            [first_error(row_labels) for row_labels in every_label],
        ),
    )


def first_error(values: Sequence[float], *, threshold: float = 0.5) -> int | None:
    """Return the index of the first step whose value is below a threshold; None if none is.

    Example:
        >>> first_error([0.9, 0.2, 0.8]), first_error([True, True])
        (1, None)
    """
    return next((step for step, value in enumerate(values) if value < threshold), None)


def first_error_f1(predicted: Sequence[int | None], true: Sequence[int | None]) -> float:
    """Return the F1 of ProcessBench: the harmonic mean of two accuracies.

    F1 = 2 a b / (a + b),  a: share of the wrong solutions whose first error is found exactly,
    b: share of the right solutions in which none is found

    Args:
        predicted: (solutions,) index of the first step that is called wrong, None if none is.
        true: (solutions,) index of the first step that is wrong.

    Returns:
        In [0, 1]; NaN where there are no wrong, or no right solutions.

    Source: Zheng et al. 2024, "ProcessBench", arXiv:2412.06559, section 4.1.

    Example:
        >>> first_error_f1([1, 0, None, 2], [1, 1, None, None])
        0.5
    """
    pairs = list(zip(predicted, true, strict=True))
    wrong = [one == other for one, other in pairs if other is not None]
    right = [one is None for one, other in pairs if other is None]
    if not wrong or not right:
        return float("nan")
    a, b = float(np.mean(wrong)), float(np.mean(right))
    return 2 * a * b / (a + b) if a + b else 0.0
