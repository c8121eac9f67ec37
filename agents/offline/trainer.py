"""Common part of SFT and DPO: a `transformers.Trainer` that is an agent as well."""

import copy
import json
import logging
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import EvalPrediction, TrainOutput

from tokengym.agents.contract import Update
from tokengym.agents.errors import CheckpointError, ModelError, NonFiniteError
from tokengym.agents.offline.finite import FiniteTrainer
from tokengym.agents.offline.policies import (
    Source,
    encoding_for,
    find_tokenizer,
    load_weights,
    make_policy,
    read_models,
    write_weights,
)
from tokengym.agents.offline.scoring import REFERENCE, ResponseScorer
from tokengym.agents.policy.adapters import warn_of_dropout
from tokengym.agents.policy.policy import CausalLMPolicy, PlaysPolicy
from tokengym.agents.policy.sequences import Sequences
from tokengym.agents.policy.settings import Precision, Products
from tokengym.agents.policy_names import takes_no_policy_name
from tokengym.agents.random_state import isolated_random_state
from tokengym.agents.rollouts.rounds import Environments
from tokengym.agents.saving import (
    ENTRIES,
    products_here,
    read_agent,
    restore_adapters,
    write_agent,
)
from tokengym.base.device import auto_device, check_learning, select_device, use_device
from tokengym.base.errors import DatasetError, SettingsError
from tokengym.base.files import read_json, write_json, writing
from tokengym.base.folders import check_entries
from tokengym.base.packed import Place
from tokengym.base.settings import check_count, check_number, names_of
from tokengym.rewards.models.loading import longest_input
from tokengym.rewards.pairs.encode import EncodedTexts, TextEncoding
from tokengym.rewards.pairs.read import TableSource

DEFAULTS: dict[str, Any] = {
    "seed": 0,
    "lr_scheduler_type": "cosine",
    "num_train_epochs": 1,
    "per_device_train_batch_size": 16,
    "weight_decay": 0.0,
    "logging_steps": 10,
    "report_to": [],
    "disable_tqdm": True,
    "dataloader_pin_memory": torch.cuda.is_available(),  # without a GPU it only warns
}
"""The Trainer's arguments where the caller gives none."""
NOT_HONOURED = {
    "label_smoothing_factor": "leave it out; DPO's losses have label_smoothing=",
    "neftune_noise_alpha": "leave it out: the policy that plays has no noise in its embeddings",
}
"""Arguments of the Trainer that are of a language model's own loss and embeddings, and what to do;
here the loss is the learner's."""


@dataclass(frozen=True, kw_only=True)
class OfflineOptions:
    """Keyword arguments that `DPO` and `SFT` share."""

    tokenizer: PreTrainedTokenizerBase | None = None
    """The model's tokenizer; None takes the environment's or the one beside the path."""
    ref_model: str | Path | PreTrainedModel | CausalLMPolicy | None = None
    """The reference; None, or the model that learns, takes a copy of it as it is now, or with
    ``lora`` the model with its adapters off. The policy that learns: the reference that it has."""
    encoding: TextEncoding | None = None
    """Lengths, EOS, and the treatment of rows that cannot be learned from."""
    lora: Any | None = None
    """A ``peft.LoraConfig`` to train adapters only."""
    dtype: str = "auto"
    """Precision of the weights, see `agents.policy.language_model.load_causal_lm`."""
    precision: Precision = "full"
    """"bf16-mixed" computes in bfloat16 by autocast and keeps weights and optimiser in float32, see
    `agents.policy.settings.PolicySettings`."""
    products: Products = "torch"
    """Library of float32 products on a CPU, "torch" or "onednn"; saved with the agent."""
    disable_dropout: bool = True
    """Keep dropout off while learning."""
    temperature: float = 1.0
    """Temperature of sampling; learning uses the model's own distribution."""
    top_k: int = 0
    """Sample among the likeliest tokens only; 0 samples among all."""
    top_p: float = 1.0
    """Sample among the fewest tokens that have this much probability; 1.0 samples among all."""
    learning_rate: float | None = None
    """Learning rate of AdamW; this and the next six have the names they have in ``args``."""
    num_train_epochs: float | None = None
    """Passes over the data."""
    max_steps: int | None = None
    """Optimiser steps, overruling the epochs."""
    per_device_train_batch_size: int | None = None
    """Pairs, or texts, per forward and process."""
    gradient_accumulation_steps: int | None = None
    """Forwards per optimiser step."""
    lr_scheduler_type: str | None = None
    """Schedule of the learning rate: "cosine", "linear", "constant", ..."""
    output_dir: str | Path | None = None
    """Folder of the Trainer's checkpoints, one per epoch; None keeps none."""
    args: TrainingArguments | None = None
    """All of the Trainer's arguments, instead of the seven above and the seed."""
    seed: int | None = None
    """Seed of the order of the data, the adapters' first weights, and sampling."""
    device: str = "auto"
    """Device that trains: "auto", "cpu", "cuda" or "cuda:N". Under a launcher, which gives each
    process its GPU, "auto" or "cpu"."""
    callbacks: Sequence[Any] | None = None
    """Callbacks of the Trainer."""

    def __post_init__(self) -> None:
        rates = ("learning_rate", "num_train_epochs")
        check_number(self, *rates, least=0.0, finite=True, optional=True)
        counts = ("per_device_train_batch_size", "gradient_accumulation_steps")
        if self.max_steps == -1:  # the Trainer's own word for no limit
            object.__setattr__(self, "max_steps", None)
        check_count(self, *counts, "max_steps", optional=True)


def arithmetic_of(policy: CausalLMPolicy) -> dict[str, str]:
    """Return the settings of a policy that decide its rounding, by the names of `ARITHMETIC`."""
    return {name: getattr(policy.settings, name) for name in ARITHMETIC}


def training_arguments(
    options: OfflineOptions, *, learning_rate: float, scratch: str
) -> TrainingArguments:
    """Return the Trainer's arguments."""
    device = options.device
    if device == "auto" and options.args is None:
        device = auto_device()
    target = select_device(device)
    # Of "auto" beside args the Trainer decides; left to itself it would take every GPU.
    forced = device != "auto" or (options.args is None and target.type == "cuda")
    names = names_of(TrainingArguments)
    arguments = {k: v for k, v in vars(options).items() if k in names and v is not None}
    if options.output_dir is not None:
        arguments["output_dir"] = str(options.output_dir)
    if forced and target.type == "cpu":
        arguments["use_cpu"] = True
    args = options.args
    if args is None:
        saves = "no" if options.output_dir is None else "epoch"
        made = {"output_dir": scratch, "save_strategy": saves, "learning_rate": learning_rate}
        args = TrainingArguments(**DEFAULTS | made | arguments)
    elif arguments:
        raise ValueError(f"{', '.join(arguments)} and args= were both given; set them in args")
    for name, remedy in NOT_HONOURED.items():
        if (value := getattr(args, name)) not in (None, 0.0):
            raise SettingsError(f"{name}={value!r} of args has no effect here; {remedy}")
    args = copy.copy(args)
    if forced:
        use_device(args, target)
    args.remove_unused_columns = False  # the columns are ids of responses, not the model's inputs
    if args.ddp_find_unused_parameters is None:
        args.ddp_find_unused_parameters = False
    return args


ARITHMETIC = ("precision", "products")
"""Settings of the policy that decide its rounding."""
SAMPLING = ("top_k", "top_p")
"""Settings of the policy that its responses are sampled by, and none of the training."""
OF_POLICY = ("lora", "dtype", "temperature", *SAMPLING, *ARITHMETIC)
"""Options that `make_policy` takes."""
DECISIVE = (
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "optim", "weight_decay"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "seed"),
)
"""The Trainer's arguments that a resumed training must repeat; it may become longer, and spread
its batches over other processes."""

LEARNED = "learned.json"
"""File of a Trainer's checkpoint with its counters and what its numbers depend on."""

Self = TypeVar("Self", bound="OfflineTrainer")
_LOG = logging.getLogger(__name__)


class OfflineTrainer(PlaysPolicy, FiniteTrainer):  # type: ignore[misc]  # its predict replaces the Trainer's
    """Learns from given texts by `transformers.Trainer`, and plays like any agent.

    Checkpoints made during training (``save_strategy``) are the Trainer's, with weights as
    safetensors and arguments as JSON, and with `LEARNED`; an agent is what `save` writes.
    Optimiser, schedule and random state are PyTorch files, read with ``weights_only=True``.

    Args:
        source: An environment, a path or name, a model, or a policy; see `make_policy`.
        data: Texts to learn from, for `encode`; None: the agent only plays.
        eval_data: Texts that `evaluate` measures on.
        options: Keyword arguments of the constructor that all offline learners share.
        settings: Settings of the learner's own that `save` records, to build the same agent again.
        with_reference: Whether the reference is asked for in every step.
    """

    metric_names: ClassVar[tuple[str, ...]] = ()
    """Metrics logged beside the loss: means over the texts since the last log."""
    default_rate: ClassVar[float]
    """Learning rate where the caller gives none."""
    encode: ClassVar[Callable[..., EncodedTexts]]
    """Function that makes token ids of the data, `encode_pairs` or `encode_responses`."""
    columns: ClassVar[tuple[str, ...]]
    """Columns of the encoded data with a row's responses."""
    learns_from: ClassVar[str]
    """Name in `tokengym.agents.offline.KEPT` of the data that is collected for it."""
    is_per_token: ClassVar[bool] = False
    """Whether the loss is a mean over response tokens, or over rows."""

    stored_settings: ClassVar[Mapping[str, Any]] = {
        "temperature": int | float,
        "top_k": int,
        "top_p": int | float,
        **dict.fromkeys(ARITHMETIC, str),
    }
    """Types of the settings that `save` records."""

    @takes_no_policy_name("(envs, data): its policy is made of the environment's model")
    def __init__(
        self,
        source: Source,
        data: TableSource | EncodedTexts | None,
        eval_data: TableSource | EncodedTexts | None,
        options: OfflineOptions,
        *,
        settings: Mapping[str, Any],
        with_reference: bool,
    ) -> None:
        # The Trainer wants a folder even where it stores nothing: one that goes with the agent.
        self._scratch = tempfile.TemporaryDirectory(prefix="tokengym-")
        args = training_arguments(
            options, learning_rate=self.default_rate, scratch=self._scratch.name
        )
        self.tokenizer = tokenizer = find_tokenizer(source, options.tokenizer)
        self.policy = policy = make_policy(
            source,
            tokenizer=tokenizer,
            reference=options.ref_model,
            seed=args.seed,
            device=None,  # the Trainer says which
            **{name: getattr(options, name) for name in OF_POLICY},
        )
        rules = encoding_for(source, options.encoding)
        limit = longest_input(policy.language_model.model)
        train_texts, eval_texts = (
            texts
            if texts is None or isinstance(texts, EncodedTexts)
            else self.encode(texts, tokenizer, rules, max_positions=limit)
            for texts in (data, eval_data)
        )
        self.settings = {
            **settings,
            **{name: getattr(policy.settings, name) for name in SAMPLING},
            **arithmetic_of(policy),
        }
        self.encoded = train_texts
        """The texts as ids with their rows, and those that were left out."""
        self.num_tokens = 0
        """Tokens of prompts and responses learned from so far, on all processes."""
        self.num_response_tokens = 0
        """Tokens of the responses, which carry loss."""
        self._sums = self._zeros()
        self._new_tokens = np.zeros(2, dtype=np.int64)  # all, the responses'; of this process
        for texts in (train_texts, eval_texts):
            if texts is not None and (texts.skipped or texts.unlearned_answers):
                first = f"; the first: {texts.skipped[0].reason}" if texts.skipped else ""
                _LOG.warning("%s%s", texts.report(), first)
        scorer = ResponseScorer(
            policy, disable_dropout=options.disable_dropout, with_reference=with_reference
        )
        if options.disable_dropout:
            adapters = policy.language_model.adapters
            warn_of_dropout(adapters, "dropout is off; disable_dropout=False learns with it")
        with isolated_random_state():
            super().__init__(
                model=scorer,
                args=args,
                data_collator=self.collate,
                train_dataset=None if train_texts is None else train_texts.dataset(),
                eval_dataset=None if eval_texts is None else eval_texts.dataset(),
                processing_class=tokenizer,
                callbacks=None if options.callbacks is None else list(options.callbacks),
                compute_metrics=self._means,
            )
        if self.args.n_gpu > 1:
            raise ModelError(
                f"one process sees {self.args.n_gpu} GPUs, and the Trainer would tear pairs apart "
                "among them; run it by accelerate launch, or name one by device='cuda:0'"
            )
        if args.disable_tqdm:
            self.remove_callback(PrinterCallback)
        policy.to(args.device)

    # --- learning ---------------------------------------------------------------------------------

    def losses(self, inputs: Mapping[str, Tensor], model: nn.Module) -> tuple[Tensor, Tensor]:
        """Return the loss of each row, (rows,), and its `metric_names`, (rows, metrics).

        Where the loss is a mean over tokens (`is_per_token`), both are sums over the row's.
        """
        raise NotImplementedError

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return rows of the data set as one batch: all first responses, then all second ones.

        ``labels`` holds no labels but one entry per item, which is how the Trainer counts items
        over accumulated batches and processes. ``ref_log_probs`` is (responses, rows), there if
        the rows have them.
        """
        responses = [row[name] for name in self.columns for row in rows]
        prompts = [row["prompt_ids"] for row in rows] * len(self.columns)
        sequences = Sequences.from_ids(prompts, responses)
        items = sum(map(len, responses)) if self.is_per_token else len(rows)
        batch = {
            "labels": torch.zeros(items, dtype=torch.int64),
            "input_ids": sequences.input_ids,
            "prompt_lengths": sequences.prompt_lengths,
            "response_lengths": sequences.response_lengths,
        }
        if log_probs := [[row[name] for row in rows] for name in REFERENCE if name in rows[0]]:
            batch["ref_log_probs"] = torch.tensor(log_probs, dtype=torch.float32)
        return batch

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the mean loss, (): of this batch, or its part of the accumulated batch's."""
        losses, metrics = self._finite(inputs, model)
        # A sum, divided by all items of the accumulated batch: a mean of the batches' means would
        # weigh the texts of small batches more.
        total = losses.sum()
        items = len(inputs["labels"])
        sums = torch.stack([total.new_tensor(items), total.detach()])
        self._sums += torch.cat([sums, metrics.T.sum(1)]).double().cpu()
        responses = int(inputs["response_lengths"].sum())
        self._new_tokens += (responses + int(inputs["prompt_lengths"].sum()), responses)
        if num_items_in_batch is None:
            loss = total / items
        else:
            loss = total / num_items_in_batch
            if self.args.average_tokens_across_devices:  # the count is of all processes, whose
                loss = loss * self.accelerator.num_processes  # gradients are then averaged
        return (loss, {"losses": losses}) if return_outputs else loss

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Tensor | Any], *others: Any, **named: Any
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return what `_means` takes of each row: the Trainer's gathering knows which rows count.

        Of the last batch, those that repeat to fill every process' share do not.
        """
        del others, named
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            losses, metrics = self._finite(inputs, model)
        items = inputs["response_lengths"] if self.is_per_token else torch.ones_like(losses)
        return None, torch.cat([losses[:, None], metrics], 1), items

    def _means(self, measured: EvalPrediction) -> dict[str, float]:
        """Return the means over the items of rows, (rows, 1 + metrics) and (rows,)."""
        sums = np.asarray(measured.predictions, dtype=np.float64).sum(0)
        means = (sums / np.asarray(measured.label_ids).sum()).tolist()
        return dict(zip(("loss", *self.metric_names), means, strict=True))

    def _finite(self, inputs: Mapping[str, Tensor], model: nn.Module) -> tuple[Tensor, Tensor]:
        """Return what `losses` does; a loss that is not finite is refused."""
        losses, metrics = self.losses(inputs, model)
        if not torch.isfinite(total := losses.sum()):
            raise NonFiniteError(
                f"the loss at step {self.state.global_step} is {total.item()}; lower learning_rate "
                "or raise beta"
            )
        return losses, metrics

    def train(self, *arguments: Any, **named: Any) -> TrainOutput:
        """Learn; see `transformers.Trainer.train`. Global random state is left as it was.

        Raises:
            DatasetError: if there is nothing to learn from.
            NonFiniteError: if a loss or gradient is not finite; the weights are those before it.
        """
        if self.train_dataset is None:
            raise DatasetError(f"{type(self).__name__} has nothing to learn from; pass it data")
        check_learning(self.policy.trained_parameters())
        self.policy.warn_before_learning(self.args.learning_rate)
        self.optimizer = self.lr_scheduler = None  # a second call begins anew
        with isolated_random_state():
            set_seed(self.args.seed)
            try:
                return super().train(*arguments, **named)
            finally:
                self.policy.eval()  # dropout is for learning: the policy plays without

    def evaluate(self, *arguments: Any, **named: Any) -> dict[str, float]:
        """Measure on held-out texts; see `transformers.Trainer.evaluate`."""
        with isolated_random_state():
            return super().evaluate(*arguments, **named)

    # --- logging ----------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of what was learned from since the last log, over all processes."""
        self.count_tokens()
        is_measured = any(name.endswith("_loss") and name != "train_loss" for name in logs)
        if not is_measured:
            sums, self._sums = self._reduced(self._sums), self._zeros()
            if sums[0] > 0:
                means = (sums[2:] / sums[0]).tolist()
                logs |= dict(zip(self.metric_names, means, strict=True))
            logs["num_tokens"] = self.num_tokens
        super().log(logs, start_time)

    def _zeros(self) -> Tensor:
        """Return 0 items and sums of their loss and metrics, (2 + metrics,)."""
        return torch.zeros(2 + len(self.metric_names), dtype=torch.float64)

    def count_tokens(self) -> None:
        """Bring `num_tokens` and `num_response_tokens` up to now; every process must call it.

        Logging does; a callback that reads them in between calls it first.
        """
        tokens, responses = self._reduced(torch.from_numpy(self._new_tokens)).tolist()
        self._new_tokens = np.zeros(2, dtype=np.int64)
        self.num_tokens += int(tokens)
        self.num_response_tokens += int(responses)

    def _reduced(self, sums: Tensor) -> Tensor:
        """Return the sum over processes of a tensor of any shape."""
        if self.accelerator.num_processes == 1:
            return sums
        gathered: Any = self.accelerator.reduce(sums.to(self.accelerator.device), "sum")
        return gathered.cpu()

    # --- storing ----------------------------------------------------------------------------------

    def save(self, path: Place) -> None:
        """Write the agent: safetensors and JSON, whole or not at all.

        What was there is kept as ``<path>.previous``. Under the names that
        `EpisodicAlgorithm.save` tells it is one file.

        Raises:
            CheckpointError: if the processes share the weights out among them (FSDP).
        """
        if self.is_fsdp_enabled:
            raise CheckpointError(
                f"{path} was not written: under FSDP no process has all weights; write them with "
                "save_model(path), then load that path as a model"
            )
        if self.args.should_save:
            write_agent(self.policy, path, self._record(), tokenizer=self.tokenizer)

    @classmethod
    def load(cls: type[Self], path: Place, env: Environments | None = None, **changes: Any) -> Self:
        """Return the agent of a folder, to play, or to continue learning with a new optimiser.

        Args:
            path: What `save` was given.
            env: An environment it is to play, whose vocabulary must be the agent's.
            changes: Arguments of the constructor to set anew, such as the data to learn from.

        Raises:
            CheckpointError: if it is damaged, or another algorithm's or vocabulary's.
        """

        def build(folder: Path, record: dict[str, Any]) -> Self:
            model, keywords = read_models(folder, env)
            settings = dict(record["settings"])
            check_entries(settings, cls.stored_settings, f"settings of {folder}")
            args = changes.get("args")
            device = changes.get("device", "auto") if args is None else args.device
            settings["products"] = products_here(settings["products"], folder, device)
            keywords |= cls.changed_settings(cls.read_settings(settings), changes)
            make: Any = cls
            agent: Self = make(model, **keywords)
            restore_adapters(agent.policy, folder)
            agent._set_counters(record["counters"], folder)
            return agent

        return read_agent(path, cls, ENTRIES, build)

    @classmethod
    def changed_settings(
        cls, stored: Mapping[str, Any], changes: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the constructor's arguments that `read_settings` gave, with changes."""
        return {**stored, **changes}

    @classmethod
    def read_settings(cls, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Return the constructor's arguments of the settings that `save` stored as JSON."""
        return dict(stored)

    def _record(self) -> dict[str, Any]:
        settings = {**self.settings, "temperature": self.policy.temperature}
        counters = self.counters()
        return {"algorithm": type(self).__name__, "settings": settings, "counters": counters}

    def counters(self) -> dict[str, int]:
        """Return what has been learned from so far."""
        return {"num_tokens": self.num_tokens, "num_response_tokens": self.num_response_tokens}

    def _set_counters(self, counters: Any, folder: Path) -> None:
        """Continue the counts that a folder holds."""
        names = self.counters()
        check_entries(counters, dict.fromkeys(names, int), f"counters of {folder}")
        vars(self).update({name: counters[name] for name in names})

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.count_tokens()  # on every process, before the first of them writes
        with writing(str(self.args.output_dir)):
            super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write the weights in Hugging Face's format, and the arguments as JSON, not pickled."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        write_weights(self.policy, folder, state_dict)
        self.tokenizer.save_pretrained(str(folder))
        (folder / "training_args.json").write_text(self.args.to_json_string())
        write_json(folder / LEARNED, {"counters": self.counters(), "training": self._training()})

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        """Put the weights of a checkpoint back."""
        folder = Path(resume_from_checkpoint)
        if not (folder / LEARNED).exists():
            raise CheckpointError(
                f"{folder} holds no checkpoint of this trainer, which writes {LEARNED} beside the "
                "weights; load weights alone by model="
            )
        learned = read_json(folder / LEARNED)
        check_entries(learned, {"counters": dict, "training": dict}, str(folder / LEARNED))
        differences = [
            f"{name} {learned['training'].get(name)!r} there, {value!r} here"
            for name, value in self._training().items()
            if learned["training"].get(name) != value
        ]
        if differences:
            raise CheckpointError(
                f"{folder} is of a training of other settings: {'; '.join(differences)}; repeat "
                "those, or begin anew without resume_from_checkpoint"
            )
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_weights(self.policy, folder)
        self._set_counters(learned["counters"], folder)

    def _training(self) -> dict[str, Any]:
        """Return what the numbers of a training depend on, but for its length."""
        assert self.encoded is not None
        args = json.loads(self.args.to_json_string())
        settings = {name: args[name] for name in DECISIVE} | self._record()["settings"]
        settings = {name: value for name, value in settings.items() if name not in SAMPLING}
        # The Trainer counts in steps how far it is through the data.
        rows = self.args.train_batch_size * self.args.gradient_accumulation_steps
        settings["rows of a step"] = rows * self.args.world_size
        return {**json.loads(json.dumps(settings)), "data": self.encoded.digest()}

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        if best is None:
            raise CheckpointError("no best checkpoint was kept; set save_strategy='best'")
        load_weights(self.policy, Path(best))


class AfterEpoch(TrainerCallback):
    """Calls a function after every epoch, when the agent may be played, measured and saved.

    Args:
        agent: The learner, which has this among its ``callbacks`` or by ``add_callback``.
        follow: Told the epoch, from 1, of which the last may be a part, and the response tokens so
            far; training ends where it returns True.
    """

    def __init__(self, agent: OfflineTrainer, follow: Callable[[Update], bool | None]) -> None:
        self.agent, self.follow = agent, follow

    def on_epoch_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """See `transformers.TrainerCallback`."""
        del args, others
        agent = self.agent
        agent.count_tokens()  # the Trainer itself counts when it logs
        agent.policy.eval()  # the Trainer turns dropout on again for each step
        epoch = math.ceil(state.epoch - 1e-6)
        update = Update(step=epoch, tokens=agent.num_response_tokens, agent=agent)
        with isolated_random_state():
            control.should_training_stop |= bool(self.follow(update))
