"""Losses and first steps equal TRL's, on the same weights, pairs and order."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, disable_progress_bars, enable_progress_bars
from transformers import PrinterCallback

from tests.support.agents.common import make_model
from tests.support.agents.offline import PAIRS, logged, make_args
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym.agents import DPO

trl = pytest.importorskip("trl")

BETA = 0.3
TRAINING: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "max_steps": 3,
    "train_sampling_strategy": "sequential",
}


@pytest.fixture
def trl_trainer(tmp_path: Path) -> Iterator[Any]:
    """TRL's trainer over pairs that are ids already, with a reference of other weights."""

    class IdsTrainer(trl.DPOTrainer):  # type: ignore[name-defined]
        def _prepare_dataset(self, dataset: Any, *arguments: Any) -> Any:
            return dataset

    disable_progress_bars()
    args = make_args(tmp_path, **TRAINING)
    names = ("learning_rate", "lr_scheduler_type", "logging_steps", "save_strategy", "use_cpu")
    shared = {name: getattr(args, name) for name in (*names, "report_to", "disable_tqdm")}
    config = trl.DPOConfig(
        output_dir=str(tmp_path),
        beta=BETA,
        max_length=None,
        gradient_checkpointing=False,
        bf16=False,
        **shared,
        **TRAINING,
    )
    trainer = IdsTrainer(
        model=make_model(scale=1.0),
        ref_model=make_model(seed=1, scale=1.0),
        args=config,
        train_dataset=Dataset.from_list(PAIRS),
        processing_class=make_tokenizer(),
    )
    trainer.remove_callback(PrinterCallback)
    yield trainer
    enable_progress_bars()


def make_ours(tmp_path: Path, **settings: Any) -> DPO:
    return DPO(
        make_model(scale=1.0),
        PAIRS,
        tokenizer=make_tokenizer(),
        ref_model=make_model(seed=1, scale=1.0),
        beta=BETA,
        args=make_args(tmp_path, **TRAINING),
        **settings,
    )


# The ninth: TRL 1.16 has no cDPO, but its AOT sorts margins and then is it: of one pair, the same.
LOSSES = [
    ("sigmoid", 0.0, "sigmoid"),
    ("hinge", 0.0, "hinge"),
    ("ipo", 0.0, "ipo"),
    ("robust", 0.1, "robust"),
    ("sigmoid_norm", 0.0, "sigmoid_norm"),
    ("nca_pair", 0.0, "nca_pair"),
    ("sppo_hard", 0.0, "sppo_hard"),
    ("apo_zero", 0.0, "apo_zero"),
    ("apo_down", 0.0, "apo_down"),
    ("sigmoid", 0.1, "aot"),
]


def test_losses_and_logged_figures_are_those_of_trl(trl_trainer, tmp_path):
    for loss_type, smoothing, theirs in LOSSES:
        ours = make_ours(tmp_path, loss_type=loss_type, label_smoothing=smoothing)
        trl_trainer.loss_types, trl_trainer.label_smoothing = [theirs], smoothing
        for pair in PAIRS:
            batch = trl_trainer.data_collator([pair])
            expected = trl_trainer._compute_loss(trl_trainer.model, batch, False)
            found = ours.compute_loss(ours.model, ours.collate([pair]))
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, msg=loss_type)
    recorded = trl_trainer._metrics["train"]  # one entry per batch of one pair
    sums = ours._sums
    for place, name in enumerate(DPO.metric_names):
        expected_mean = np.mean(recorded[name][-len(PAIRS) :])
        assert float(sums[2 + place] / sums[0]) == pytest.approx(expected_mean, rel=1e-4), name


def test_the_first_steps_are_those_of_trl(trl_trainer, tmp_path):
    ours = make_ours(tmp_path)
    start = copy.deepcopy(ours.policy.language_model.model.state_dict())
    for trainer in (trl_trainer, ours):
        trainer.train()
    losses = [logged(trainer) for trainer in (trl_trainer, ours)]
    assert len(losses[0]) == 3
    assert losses[0][2] != losses[0][0]
    np.testing.assert_allclose(losses[1], losses[0], atol=1e-5)
    theirs = trl_trainer.model.state_dict()
    for name, value in ours.policy.language_model.model.state_dict().items():
        if name.endswith("c_attn.bias"):
            continue  # keys' biases have no gradient but rounding, which Adam blows up
        moved = (theirs[name] - start[name]).abs().max()
        assert (value - theirs[name]).abs().max() <= 0.02 * moved + 1e-7, name
