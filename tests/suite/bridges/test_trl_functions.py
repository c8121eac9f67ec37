"""`advantage_fn` in TRL: what a function is given, what is logged, and what is refused."""

import inspect
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("trl")
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import GRPOConfig, GRPOTrainer
from trl.trainer import grpo_trainer

from tokengym import shares, token_credit
from tokengym.base.errors import SettingsError
from tokengym.bridges.trl import (
    OF_POLICY,
    OF_REFERENCE,
    TokenCreditGRPOTrainer,
    advantage_fn,
)
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


def damped(advantages: Tensor, entropy: Tensor, response_mask: Tensor) -> Tensor:
    """A weight of this year: what is below the mean is damped by the entropy before it."""
    before = (entropy.cumsum(1) - entropy) * (advantages < 0)
    SEEN["damped"] = (advantages, entropy)
    return (-before).exp() * response_mask


def test_weights_are_on_trls_own_advantages(tmp_path: Path) -> None:
    trainer = advantage_fn(trainer_of(tmp_path), weights=damped)
    batch = trained(trainer)
    mask = batch["completion_mask"].bool()
    mask[1] = False
    own = torch.tensor(list(trainer._logs["advantages"]))[:, None]
    seen, entropy = SEEN["damped"]
    rows = [row for row in range(ROWS) if row != 1]
    torch.testing.assert_close(seen, (own * mask)[rows])
    expected = own[rows] * (-(entropy.cumsum(1) - entropy) * (own[rows] < 0)).exp() * mask[rows]
    torch.testing.assert_close(batch["advantages"][rows], expected)
    assert (expected != own[rows] * mask[rows]).any()
    with pytest.raises(SettingsError, match="without weights= changes nothing"):
        advantage_fn(trainer_of(tmp_path))


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
    with pytest.raises(TypeError, match="GRPOTrainer, got object"):
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
