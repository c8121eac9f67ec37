"""A gradient that is not finite is seen before its step, and the row that has it is named."""

from typing import Any

import pytest
import torch

from tests.suite.agents.conftest import make_model, make_tokenizer
from tokengym.agents import DPO, SFT, NonFiniteError

BAD = "f"  # a word of one row alone
PAIRS = [
    {"prompt": "b c", "chosen": " a a", "rejected": " b c"},
    {"prompt": "d", "chosen": " a b", "rejected": " d"},
    {"prompt": "e d", "chosen": " a c", "rejected": f" {BAD} b"},
    {"prompt": "c c", "chosen": " d a", "rejected": " e"},
]
TEXTS = [{"prompt": pair["prompt"], "completion": pair["rejected"]} for pair in PAIRS]


def spoiled(kind: Any, rows: Any, value: float, **settings: Any) -> Any:
    """Return a learner whose gradient, of a finite loss, is spoiled wherever `BAD` is read."""
    model, tokenizer = make_model("llama"), make_tokenizer()
    (token,) = tokenizer(BAD, add_special_tokens=False)["input_ids"]
    embedding: Any = model.get_input_embeddings().weight
    embedding.register_hook(lambda grad: grad * (value if grad[token].any() else 1.0))
    defaults: Any = {"num_train_epochs": 1, "per_device_train_batch_size": 4, "seed": 0}
    return kind(
        model, rows, tokenizer=tokenizer, device="cpu", learning_rate=1e-2, **defaults | settings
    )


@pytest.mark.parametrize(("kind", "rows"), [(DPO, PAIRS), (SFT, TEXTS)])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "settings",
    [
        {},  # in the one step of the training, which is its last
        {"per_device_train_batch_size": 1},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    ],
)
def test_weights_stay_and_the_row_is_named(kind, rows, value, settings):
    agent = spoiled(kind, rows, value, **settings)
    with pytest.raises(NonFiniteError, match=r"^row 2: the gradient"):
        agent.train()
    assert all(weight.isfinite().all() for weight in agent.policy.state_dict().values())
    if "per_device_train_batch_size" not in settings or "gradient_accumulation_steps" in settings:
        fresh = make_model("llama").state_dict()
        there = agent.policy.language_model.model.state_dict()
        assert all(there[name].equal(weight) for name, weight in fresh.items())


def test_the_row_of_a_precomputed_reference_is_named():
    agent = spoiled(DPO, PAIRS, float("nan"), precompute_ref_log_probs=True)
    with pytest.raises(NonFiniteError, match=r"^row 2: the gradient"):
        agent.train()


def test_a_loss_that_is_not_finite_is_of_a_row_too():
    agent = spoiled(SFT, TEXTS, 1.0)
    (token,) = make_tokenizer()(BAD, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        agent.policy.language_model.model.get_input_embeddings().weight[token] = torch.nan
    with pytest.raises(NonFiniteError, match=r"^row 2: the loss.*nan"):
        agent.train()


def test_a_training_without_such_a_row_is_the_trainers_own():
    """Looking changes nothing: three of the rows, with the hook and without."""
    agents = [spoiled(DPO, [*PAIRS[:2], PAIRS[3]], value) for value in (float("nan"), 1.0)]
    for agent in agents:
        agent.train()
    first, second = (agent.policy.state_dict() for agent in agents)
    assert all(weight.equal(second[name]) for name, weight in first.items())
