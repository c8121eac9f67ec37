"""`advantage_fn` in TRL: what a function is given, what is logged, and what is refused."""

import asyncio
import inspect
import pickle
import textwrap
from pathlib import Path
from queue import Queue
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("trl")
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import GRPOConfig, GRPOTrainer
from trl.experimental.async_grpo import async_grpo_trainer, async_rollout_worker
from trl.trainer import grpo_trainer

from tokengym import shares, token_credit
from tokengym.base.errors import SettingsError
from tokengym.bridges.trl import (
    OF_POLICY,
    OF_REFERENCE,
    TokenCreditGRPOTrainer,
    advantage_fn,
)
from tokengym.bridges.trl_async import TokenAdvantages, attach, collator, scoring_loop
from tokengym.envs import bundled

BUNDLE = bundled("movie_review")
GROUP, ROWS, LENGTH = 4, 8, 6
SEEN: dict[str, Any] = {}


def number(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float | None]:
    """One of two reward functions: none for the second row."""
    return [None if row == 1 else float(row) for row in range(len(prompts))]


def level_of(prompts: list[str], level: list[int], **_: Any) -> list[float | None]:
    """The other: a column of the data."""
    return [None if row == 1 else float(one) for row, one in enumerate(level)]


def reading(
    scores: Tensor,
    score_parts: dict[str, Tensor],
    token_rewards: Tensor,
    advantages: Tensor,
    ref_log_probs: Tensor,
    log_probs: Tensor,
    top_log_probs: Tensor,
    kl: Tensor,
    level: list[int],
    responses: list[str],
    response_mask: Tensor,
    group_ids: Tensor,
    alpha: float = 1.0,
) -> Tensor:
    """Keep what it is given, and pay each token its place."""
    SEEN.update(locals())
    return alpha * (response_mask.cumsum(1) * response_mask).float()


def places(response_mask: Tensor) -> Tensor:
    """Return the place of each token, from 1."""
    return (response_mask.cumsum(1) * response_mask).float()


def trainer_of(folder: Path, kind: Any = GRPOTrainer, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        **{"per_device_train_batch_size": ROWS, "num_generations": GROUP, "max_steps": 1},
        **{"max_completion_length": LENGTH, "logging_steps": 1, "seed": 3, "temperature": 0.7},
        **{"use_cpu": True, "bf16": False, "report_to": [], "save_strategy": "no"},
        **{"disable_tqdm": True, **changes},
    }
    texts = [prompt.text for prompt in BUNDLE.prompts("train")][:4]
    return kind(
        model=AutoModelForCausalLM.from_pretrained(BUNDLE.policy, dtype=torch.float32),
        reward_funcs=[number, level_of],
        args=GRPOConfig(output_dir=str(folder), **settings),
        train_dataset=Dataset.from_dict({"prompt": texts, "level": [10, 20, 30, 40]}),
        processing_class=BUNDLE.tokenizer,
    )


def trained(trainer: Any) -> dict[str, Any]:
    """Train a step, and return what TRL learned from."""
    kept, theirs = list[dict[str, Any]](), trainer._generate_and_score_completions

    def keeping(rows: Any) -> Any:
        kept.append(theirs(rows))
        return kept[-1]

    trainer._generate_and_score_completions = keeping
    trainer.train()
    return kept[0]


def test_a_function_is_given_trls_own_figures(tmp_path: Path) -> None:
    trainer = advantage_fn(trainer_of(tmp_path, beta=0.1, reward_weights=[1.0, 0.5]), reading)
    batch = trained(trainer)
    rows = [row for row in range(ROWS) if row != 1]
    mask = batch["completion_mask"].bool()
    assert torch.equal(batch["advantages"][rows], places(mask)[rows])
    assert not batch["advantages"][1].any()  # nobody scored it
    assert SEEN["scores"].tolist() == [row + 0.5 * SEEN["level"][n] for n, row in enumerate(rows)]
    assert SEEN["score_parts"]["number"].tolist() == rows
    assert SEEN["score_parts"]["level_of"].tolist() == SEEN["level"]
    assert SEEN["token_rewards"].sum(1).tolist() == SEEN["scores"].tolist()
    assert SEEN["token_rewards"].count_nonzero(1).max() == 1
    assert SEEN["group_ids"].tolist() == [row // GROUP for row in rows]
    logged: Any = trainer._logs["advantages"]
    own = torch.tensor(list(logged))[rows]
    torch.testing.assert_close(SEEN["advantages"][:, 0], own)
    # Before the first step policy and reference are one.
    torch.testing.assert_close(SEEN["ref_log_probs"], SEEN["log_probs"])
    torch.testing.assert_close(SEEN["kl"], torch.zeros_like(SEEN["kl"]))
    assert (SEEN["log_probs"] < 0)[mask[rows]].any()
    assert (SEEN["top_log_probs"][..., 0] >= SEEN["log_probs"] - 1e-5)[mask[rows]].all()
    assert SEEN["responses"] == [
        BUNDLE.tokenizer.decode(batch["completion_ids"][row][mask[row]], skip_special_tokens=True)
        for row in rows
    ]


def transforming() -> Any:
    """Return TRL's trainer with the hook of its pull request 7298, where the proposal has it."""
    source = textwrap.dedent(inspect.getsource(GRPOTrainer._generate_and_score_completions))
    before = "all_process_advantages = advantages.clone()"
    assert source.count(before) == 1
    called = "advantages = self._transform_advantages(advantages)"
    place = source.index("# Slice to keep only the local part of the data")
    source = f"{source[:place]}{called}\n    {source[place:]}"
    scope = vars(grpo_trainer).copy()
    scope["super"] = lambda: super(GRPOTrainer, scope["_self"])
    exec(source.split("\n", 1)[1] if source.startswith("@") else source, scope)
    made = scope["_generate_and_score_completions"]

    class Proposed(GRPOTrainer):
        def _transform_advantages(self, advantages: Tensor) -> Tensor:
            return advantages

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            scope["_self"] = self
            return made(self, inputs)

    return Proposed


def test_where_trl_has_its_transform_what_it_logs_is_ours(tmp_path: Path) -> None:
    trainer = advantage_fn(trainer_of(tmp_path, transforming()), f"{__file__}:places")
    batch = trained(trainer)
    mask = batch["completion_mask"].bool()
    mask[1] = False
    assert torch.equal(batch["advantages"], places(mask))
    logged: Any = trainer._logs["advantages"]
    means = places(mask).sum(1) / mask.sum(1).clamp(min=1)
    assert list(logged) == pytest.approx(means.tolist())


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda kl, response_mask: kl, r"reads 'kl'.*beta=0; set GRPOConfig\(beta"),
        (lambda attention: attention, r"'attention'.*TokenCreditGRPOTrainer\(scorer"),
        (lambda levle: levle, "did you mean 'level'"),
    ],
)
def test_what_a_run_lacks_is_refused_before_it_trains(
    tmp_path: Path, function: Any, message: str
) -> None:
    trainer = trainer_of(tmp_path)
    with pytest.raises(SettingsError, match=message):
        advantage_fn(trainer, function)
    with pytest.raises(SettingsError, match="importance_sampling_level"):
        advantage_fn(trainer_of(tmp_path, importance_sampling_level="sequence"), places)
    with pytest.raises(TypeError, match="GRPOTrainer or AsyncGRPOTrainer, got object"):
        advantage_fn(object(), places)
    changed = advantage_fn(trainer, "reinforce")
    with pytest.raises(SettingsError, match="has an advantage already"):
        advantage_fn(changed, places)


def test_settings_that_a_function_would_not_see_are_refused(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, multi_objective_aggregation="normalize_then_sum")
    with pytest.raises(SettingsError, match=r"'normalize_then_sum'.*does not read 'advantages'"):
        advantage_fn(trainer, places)
    advantage_fn(trainer, lambda advantages: advantages)


def test_nothing_is_computed_in_an_evaluation(tmp_path: Path) -> None:
    """TRL's num_generations_eval=1 leaves no group to compare with."""
    trainer = trainer_of(
        tmp_path, num_generations_eval=1, eval_strategy="no", per_device_eval_batch_size=4
    )
    trainer.eval_dataset = trainer.train_dataset
    advantage_fn(trainer, "grpo")
    assert trained(trainer)["advantages"].any()
    kept, theirs = list[Any](), trainer._generate_and_score_completions

    def keeping(rows: Any) -> Any:
        kept.append(theirs(rows))
        return kept[-1]

    trainer._generate_and_score_completions = keeping
    assert trainer.evaluate()["eval_loss"] == 0.0
    assert kept[0]["advantages"].shape == kept[0]["completion_mask"].shape
    assert not kept[0]["advantages"].any()


@pytest.mark.parametrize("name", sorted(OF_POLICY | OF_REFERENCE))
def test_a_model_that_reads_images_is_not_read_again_without_them(
    tmp_path: Path, name: str
) -> None:
    function: Any = eval(f"lambda {name}, response_mask: response_mask")
    trainer = trainer_of(tmp_path, beta=0.1)
    trainer._is_vlm = True
    with pytest.raises(SettingsError, match=f"reads '{name}'.*models of text alone"):
        advantage_fn(trainer, function)


def by_log_probs(scores: Any, log_probs: Any, response_mask: Any) -> Any:
    """A rule that reads the policy."""
    return scores[:, None] * shares(-log_probs, response_mask)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"advantage": lambda token_rewards, kl: kl}, "reads 'kl'"),
        ({"advantage": lambda token_rewards, entropy: entropy}, "reads 'entropy'"),
        ({"credit": token_credit(by_log_probs)}, "credit 'by-log-probs' reads 'log_probs'"),
    ],
)
def test_token_credit_of_a_model_that_reads_images_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any, message: str
) -> None:
    begin = GRPOTrainer.__init__

    def as_vision(trainer: Any, *given: Any, **named: Any) -> None:
        begin(trainer, *given, **named)
        trainer._is_vlm = True

    monkeypatch.setattr(GRPOTrainer, "__init__", as_vision)
    with pytest.raises(SettingsError, match=f"{message}.*models of text alone"):
        TokenCreditGRPOTrainer(
            AutoModelForCausalLM.from_pretrained(BUNDLE.policy, dtype=torch.float32),
            scorer=BUNDLE.reward_model,
            args=GRPOConfig(
                output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[], beta=0.1
            ),
            train_dataset=Dataset.from_dict({"prompt": ["i saw"]}),
            processing_class=BUNDLE.tokenizer,
            **options,
        )


# --- asynchronous ---------------------------------------------------------------------------------


def surprise(scores: Tensor, log_probs: Tensor, level: list[int], score_parts: Any) -> Tensor:
    """What the asynchronous trainer has."""
    SEEN.update(locals())
    return scores[:, None] * -log_probs


class Loop(async_rollout_worker._AsyncRolloutLoop):
    """TRL's loop of its worker process, without a server."""

    def __init__(self) -> None:
        self.reward_funcs, self.reward_func_names = [number, level_of], ["number", "level_of"]
        self._env_reward_types, self.tokenizer = [], BUNDLE.tokenizer


def group() -> Any:
    """Return three conversations of one prompt as the worker has them; the last one forked."""
    ids = [BUNDLE.tokenizer(text)["input_ids"] for text in ("i saw", "a dull film", "a film")]

    def row(said: list[int], mask: list[int]) -> Any:
        logs = [0.0] * 2 + [-0.5 - place for place in range(len(said))]
        return async_rollout_worker.TrainingSequence(
            [*ids[0], *said], [0, 0, *mask], logs, rollout_id=None
        )

    sequences = [
        [row(ids[1], [1, 1, 1])],
        [row(ids[2], [1, 1])],
        [row([*ids[2], *ids[1]], [1, 1, 0, 0, 1]), row(ids[2], [1, 1])],
    ]
    texts: Any = {"prompts": ["i saw"] * 3, "completions": [""] * 3}
    return async_rollout_worker.RolloutGroup(
        **texts,
        reward_kwargs={"level": [4, 4, 4]},
        completions_ids=[[]] * 3,
        completions_sequences=sequences,
        tool_call_counts=[0] * 3,
        tool_failure_counts=[0] * 3,
        model_version=0,
        group_id=7,
        env_rewards=[None] * 3,
        rollout_rewards=[None] * 3,
    )


def test_the_worker_stamps_an_advantage_on_every_token() -> None:
    loop = scoring_loop(Loop, surprise, frozenset({"level"}))
    samples = asyncio.run(loop._score_group(group()))
    # Scores 0 + 4, none, and 2 + 4 on both rows of the fork.
    expected = [
        [0, 0, 4 * 0.5, 4 * 1.5, 4 * 2.5],
        [0, 0, 0, 0],
        [0, 0, 6 * 0.5, 6 * 1.5, 0, 0, 6 * 4.5],
        [0, 0, 6 * 0.5, 6 * 1.5],
    ]
    for sample, row in zip(samples, expected, strict=True):
        assert sample.advantage.tokens.tolist() == row
        trained = np.array(row)[sample.completion_mask.astype(bool)]
        assert float(sample.advantage) == pytest.approx(trained.mean())
        again = pickle.loads(pickle.dumps(sample))  # to the trainer's process
        assert again.advantage.tokens.tolist() == row
    assert SEEN["level"] == [4, 4, 4]
    assert SEEN["score_parts"]["number"].tolist() == [0, 2, 2]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_what_the_worker_stamps_does_not_depend_on_the_default_dtype(dtype: torch.dtype) -> None:
    loop = scoring_loop(Loop, surprise, frozenset({"level"}))
    usual = asyncio.run(loop._score_group(group()))
    torch.set_default_dtype(dtype)
    try:
        samples = asyncio.run(loop._score_group(group()))
    finally:
        torch.set_default_dtype(torch.float32)
    for sample, before in zip(samples, usual, strict=True):
        np.testing.assert_array_equal(sample.advantage.tokens, before.advantage.tokens)
    for name in ("scores", "log_probs", "advantages"):
        assert SEEN[name].dtype == torch.float32
    assert all(part.dtype == torch.float32 for part in SEEN["score_parts"].values())


def test_the_only_row_that_a_group_has_left_has_no_baseline() -> None:
    one = group()
    for sequences in one.completions_sequences[1:]:
        for row in sequences:
            row.completion_mask[:] = [0] * len(row.completion_mask)
    samples = asyncio.run(scoring_loop(Loop, "rloo", frozenset({"level"}))._score_group(one))
    assert not any(sample.advantage.tokens.any() for sample in samples)


def test_the_collator_lays_them_out_beside_the_log_probs() -> None:
    samples = asyncio.run(scoring_loop(Loop, surprise, frozenset({"level"}))._score_group(group()))
    rows = [async_grpo_trainer.TreeRow(), async_grpo_trainer.TreeRow()]
    for number_of, sample in enumerate(samples):
        rows[number_of % 2].add(
            {
                "input_ids": sample.input_ids, "completion_mask": sample.completion_mask,
                "old_log_probs": sample.old_log_probs, "advantage": sample.advantage,
                "group_id": sample.group_id, "metrics": sample.metrics,
            }
        )  # fmt: skip
    made = collator(async_grpo_trainer.DataCollatorForRollout)(0, 2)
    batch = made.torch_call([rows])
    scores = {0: [4.0] * 3 + [6.0] * 3, 1: [0.0] * 2 + [6.0] * 2}
    for row, of_row in scores.items():
        size = len(of_row)
        found, logs = batch["advantages"][row, :size], batch["old_log_probs"][row, :size]
        torch.testing.assert_close(found, -torch.tensor(of_row) * logs)
        assert not batch["advantages"][row, size:].any()


def test_the_asynchronous_trainer_is_changed_before_it_starts() -> None:
    worker = SimpleNamespace(_loop_cls=Loop, rollout_buffer=Queue())

    class Trainer:
        __module__ = async_grpo_trainer.__name__
        rollout_worker: Any = worker
        train_dataset = Dataset.from_dict({"prompt": ["a"], "level": [1]})

        def get_train_dataloader(self) -> Any:
            return async_grpo_trainer.DataCollatorForRollout

    theirs = async_grpo_trainer.DataCollatorForRollout
    trainer = advantage_fn(Trainer(), surprise)
    assert trainer.get_train_dataloader().__name__ == "TokenAdvantageCollator"
    assert async_grpo_trainer.DataCollatorForRollout is theirs
    loop = pickle.loads(pickle.dumps(worker._loop_cls))()
    assert asyncio.run(loop._score_group(group()))[0].advantage.tokens[2] == 2.0
    for function, message in (
        (lambda entropy: entropy, r"'entropy', which asynchronous TRL does not supply; TRL,"),
        ("gae", "reads 'values'"),
        ("reinforce++", "whitened over the batch"),
        (lambda scores, response_mask: scores[:, None] * response_mask, "cannot be sent"),
    ):
        with pytest.raises(SettingsError, match=message):
            attach(Trainer(), function)
    Trainer.rollout_worker = object()
    with pytest.raises(SettingsError, match="rollout_worker is object"):
        attach(Trainer(), surprise)
    assert TokenAdvantages(0.5, np.zeros(2, np.float32)) == 0.5
