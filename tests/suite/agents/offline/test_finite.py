"""A gradient that is not finite is seen before its step."""

from typing import Any

import pytest
import torch

from tests.support.agents.common import make_model
from tests.support.agents.offline import make_learner
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym.agents import DPO, SFT, NonFiniteError

BAD = "f"  # a word of one row alone
(TOKEN,) = make_tokenizer()(BAD, add_special_tokens=False)["input_ids"]
PAIRS = [
    {"prompt": "b c", "chosen": " a a", "rejected": " b c"},
    {"prompt": "d", "chosen": " a b", "rejected": " d"},
    {"prompt": "e d", "chosen": " a c", "rejected": f" {BAD} b"},
    {"prompt": "c c", "chosen": " d a", "rejected": " e"},
]
TEXTS = [{"prompt": pair["prompt"], "completion": pair["rejected"]} for pair in PAIRS]


def spoiled(kind: Any, rows: Any, value: float, **settings: Any) -> Any:
    """Return a learner whose gradient, of a finite loss, is spoiled wherever `BAD` is read."""
    defaults: Any = {"per_device_train_batch_size": 4, "learning_rate": 1e-2}
    agent = make_learner(kind, rows, make_model("llama"), **defaults | settings)
    embedding: Any = agent.policy.language_model.model.get_input_embeddings().weight
    embedding.register_hook(lambda grad: grad * (value if grad[TOKEN].any() else 1.0))
    return agent


@pytest.mark.parametrize(("kind", "rows"), [(DPO, PAIRS), (SFT, TEXTS)])
@pytest.mark.parametrize("value", [float("nan"), 1e38])  # the norm of the second overflows
@pytest.mark.parametrize(
    "settings",
    [
        {},  # in the one step of the training, which is its last
        {"per_device_train_batch_size": 1},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    ],
)
def test_weights_stay_as_they_were(kind, rows, value, settings):
    agent = spoiled(kind, rows, value, **settings)
    with pytest.raises(NonFiniteError, match=r"^the gradient at step"):
        agent.train()
    there = agent.policy.language_model.model.state_dict()
    assert all(weight.isfinite().all() for weight in there.values())
    if settings.get("per_device_train_batch_size") != 1:
        fresh = make_model("llama").state_dict()
        assert all(there[name].equal(weight) for name, weight in fresh.items())


def test_a_loss_that_is_not_finite_is_named():
    agent = spoiled(SFT, TEXTS, 1.0)
    with torch.no_grad():
        agent.policy.language_model.model.get_input_embeddings().weight[TOKEN] = torch.nan
    with pytest.raises(NonFiniteError, match=r"^the loss at step.*nan"):
        agent.train()


def test_a_training_without_such_a_row_is_the_trainers_own():
    """Looking changes nothing: three of the rows, with the hook and without."""
    agents = [spoiled(DPO, [*PAIRS[:2], PAIRS[3]], value) for value in (float("nan"), 1.0)]
    for agent in agents:
        agent.train()
    first, second = (agent.policy.state_dict() for agent in agents)
    assert all(weight.equal(second[name]) for name, weight in first.items())
