"""Direct preference optimisation and its family, on `transformers.Trainer`."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.trainer_utils import TrainOutput

from tokengym.agents.losses import dpo_loss
from tokengym.agents.offline.policies import Source
from tokengym.agents.offline.scoring import INPUTS, REFERENCE
from tokengym.agents.offline.settings import PAIR_FIGURES, PreferenceLoss
from tokengym.agents.offline.trainer import OfflineOptions, OfflineTrainer
from tokengym.agents.policy.sequences import Sequences
from tokengym.base.settings import accepts_settings, from_keywords, names_of
from tokengym.rewards.pairs.encode import EncodedTexts, encode_pairs
from tokengym.rewards.pairs.read import TableSource

if TYPE_CHECKING:
    from datasets import Dataset
    from typing_extensions import Unpack

    from tokengym.agents.keywords import DPOKeywords


class PairLogProbs(NamedTuple):
    """Input of a loss, each (pairs,); log-probabilities are sums over a response, nats."""

    policy_chosen: Tensor
    policy_rejected: Tensor
    chosen_lengths: Tensor
    """Response tokens of y_w."""
    rejected_lengths: Tensor
    """Response tokens of y_l."""
    ref_chosen: Tensor | None
    """None: the loss needs no reference."""
    ref_rejected: Tensor | None


class DPO(OfflineTrainer):
    """Learns from preference pairs without a reward model or sampling.

    Paper: Rafailov et al. 2023, "Direct Preference Optimization", arXiv:2305.18290; the other
    losses are in `tokengym.agents.losses`. Chosen and rejected responses of a batch are one
    forward, logits are made at response positions only, and dropout is off.

    It is a `transformers.Trainer` (``train``, ``evaluate``, ``state.log_history``, callbacks,
    Accelerate's launchers) and an agent (``predict``, `collect`, ``save``, ``load``). Logged as in
    TRL: rewards/chosen, rewards/rejected (beta times the log-ratio), rewards/margins,
    rewards/accuracies, logps/chosen, logps/rejected.

    Args:
        envs_or_model: An environment, whose bundled model then learns; a path or name; a model; or
            a `CausalLMPolicy`, which is trained itself.
        pairs: Input of `encode_pairs`: a ``datasets.Dataset``, path or rows with chosen and
            rejected, and maybe prompt; or prompt_ids, chosen_ids, rejected_ids, taken as they are.
            None: the agent only plays.
        eval_pairs: Held-out pairs for ``evaluate``.
        loss: The loss and its coefficients; overrules those given as keywords.
        precompute_ref_log_probs: Score all pairs under the reference once, before training; a copy
            of the model then waits on the CPU meanwhile.
        keywords: Fields of `PreferenceLoss` and `OfflineOptions`.

    Raises:
        DatasetError: if a pair cannot be learned from; the message names row and remedy.
        ModelError: if there is no model.
        ValueError: if a setting is out of range.
    """

    metric_names = PAIR_FIGURES

    stored_settings: ClassVar[Mapping[str, Any]] = {**OfflineTrainer.stored_settings, "loss": dict}
    default_rate = 5e-7
    """As its cosine schedule: RLHF Workflow, Dong et al. 2024, arXiv:2405.07863, for 8B parameters.
    Tiny models and adapters want rates of 1e-5 to 1e-3."""
    encode = staticmethod(encode_pairs)
    columns: ClassVar[tuple[str, ...]] = ("chosen_ids", "rejected_ids")
    learns_from = "pairs"

    @accepts_settings(PreferenceLoss, OfflineOptions)
    def __init__(
        self,
        envs_or_model: Source,
        pairs: TableSource | EncodedTexts | None = None,
        *,
        eval_pairs: TableSource | EncodedTexts | None = None,
        loss: PreferenceLoss | None = None,
        precompute_ref_log_probs: bool = False,
        **keywords: "Unpack[DPOKeywords]",
    ) -> None:
        options: dict[str, Any] = dict(keywords)
        of_loss = {name: options.pop(name) for name in options.keys() & names_of(PreferenceLoss)}
        self.loss = loss or PreferenceLoss(**of_loss)
        has_reference = self.loss.formula.has_reference
        self._precomputes = precompute_ref_log_probs and has_reference
        self._asks_reference = has_reference and not self._precomputes
        super().__init__(
            envs_or_model,
            pairs,
            eval_pairs,
            from_keywords(OfflineOptions, options, owner="DPO"),
            settings={"loss": asdict(self.loss)},
            with_reference=self._asks_reference,
        )
        if self._precomputes:
            self._precompute()

    @classmethod
    def read_settings(cls, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Return the constructor's arguments of the settings that `save` stored as JSON."""
        return {**stored, "loss": PreferenceLoss(**stored["loss"])}

    @classmethod
    def changed_settings(
        cls, stored: Mapping[str, Any], changes: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the constructor's arguments, fields of the loss changed in the loss."""
        of_loss = {name: changes[name] for name in changes.keys() & names_of(PreferenceLoss)}
        rest = {name: value for name, value in changes.items() if name not in of_loss}
        loss = replace(stored["loss"], **of_loss) if "loss" not in changes else changes["loss"]
        return {**stored, **rest, "loss": loss}

    # --- what one step is made of -----------------------------------------------------------------

    def log_probs(self, inputs: Mapping[str, Tensor], model: nn.Module) -> PairLogProbs:
        """Return what the loss reads of a batch, by one call of the model."""
        texts = (inputs[name] for name in INPUTS)
        # (2 * pairs,): all chosen responses, then all rejected ones
        sums, reference = model(*texts, with_reference=self._asks_reference)
        if self._precomputes:
            reference = inputs["ref_log_probs"].flatten()
        references = (None, None) if reference is None else reference.chunk(2)
        return PairLogProbs(*sums.chunk(2), *inputs["response_lengths"].chunk(2), *references)

    def losses(self, inputs: Mapping[str, Tensor], model: nn.Module) -> tuple[Tensor, Tensor]:
        """Return loss and `metric_names` of each pair, (pairs,) and (pairs, metrics)."""
        pairs = self.log_probs(inputs, model)
        with torch.no_grad():
            chosen, rejected = policies = pairs.policy_chosen, pairs.policy_rejected
            # A loss without a reference has a uniform one, whose log-probabilities are a constant
            # that TRL's CPO and ORPO log as 0 too.
            if pairs.ref_chosen is not None and pairs.ref_rejected is not None:
                chosen, rejected = chosen - pairs.ref_chosen, rejected - pairs.ref_rejected
            chosen, rejected = self.loss.beta * chosen, self.loss.beta * rejected
            logged = (chosen, rejected, chosen - rejected, (chosen > rejected).float(), *policies)
        return dpo_loss(**pairs._asdict(), **self.loss.arguments()), torch.stack(logged).T

    # --- the reference ----------------------------------------------------------------------------

    def train(self, *arguments: Any, **named: Any) -> TrainOutput:
        """Learn; see `OfflineTrainer.train`."""
        idle = self.policy.reference if self._precomputes else None
        learning = {id(p) for p in self.policy.language_model.parameters()}
        if idle is None or not learning.isdisjoint(id(p) for p in idle.parameters()):
            return super().train(*arguments, **named)
        idle.to("cpu")
        try:
            return super().train(*arguments, **named)
        finally:
            idle.to(self.args.device)

    def _precompute(self) -> None:
        """Give every pair its log-probabilities under the reference."""
        for name in ("train_dataset", "eval_dataset"):
            if (dataset := getattr(self, name)) is not None:
                log_probs = self._reference_log_probs(dataset)
                for column, sums in zip(REFERENCE, log_probs.T, strict=True):
                    dataset = dataset.add_column(column, sums.tolist())
                setattr(self, name, dataset)

    @torch.no_grad()
    def _reference_log_probs(self, dataset: "Dataset") -> NDArray[np.float32]:
        """Return those of chosen and rejected responses, (pairs, 2), nats.

        Each process scores a share of the pairs, similar lengths together.
        """
        scorer: Any = self.model
        accelerator, size = self.accelerator, self.args.per_device_train_batch_size
        order = np.argsort(dataset["length"], kind="stable")
        mine = order[accelerator.process_index :: accelerator.num_processes]
        sums = torch.zeros(len(dataset), 2, dtype=torch.float32, device=accelerator.device)
        for start in range(0, len(mine), size):
            rows = mine[start : start + size]
            batch = self.collate([dataset[int(row)] for row in rows])
            inputs = {name: batch[name].to(accelerator.device) for name in INPUTS}
            (both,) = scorer.response_sums(Sequences(**inputs), reference=True)  # (2 * rows,)
            sums[torch.from_numpy(rows).to(sums.device)] = both.view(2, -1).T  # chosen come first
        total: Any = accelerator.reduce(sums, "sum")  # each row is one process's, 0 at the others
        log_probs: NDArray[np.float32] = total.cpu().numpy()
        return log_probs
