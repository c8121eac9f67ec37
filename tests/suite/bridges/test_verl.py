"""verl's two doors, by the signatures of its source.

``register_adv_est`` and ``compute_advantage`` are those of verl-project/verl at b178a3c (January
2026), ``run_single`` and ``assemble_rm_scores`` those of its reward loop in 2026.
"""

import asyncio
import importlib
import importlib.util
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tokengym.base.errors import SettingsError
from tokengym.bridges import verl
from tokengym.bridges.verl import TokenCreditManager, compute_score, register
from tokengym.envs import bundled

BUNDLE = bundled("movie_review")
PROMPT, RESPONSE = (
    BUNDLE.tokenizer("i saw")["input_ids"],
    BUNDLE.tokenizer("a dull film")["input_ids"],
)


class Batch:
    """Stands for verl's DataProto: rows of tensors and of other things."""

    def __init__(self, tensors: dict[str, torch.Tensor], others: dict[str, np.ndarray]) -> None:
        self.batch = tensors
        self.others = others

    def __len__(self) -> int:
        return len(self.batch["responses"])

    def __getitem__(self, row: int) -> Any:
        return SimpleNamespace(
            batch={name: tensor[row] for name, tensor in self.batch.items()},
            non_tensor_batch={name: values[row] for name, values in self.others.items()},
        )


def test_estimators_are_called_as_verl_calls_its_own() -> None:
    registry: dict[str, Any] = {}

    def register_adv_est(name: str) -> Callable[[Any], Any]:
        def decorator(fn: Any) -> Any:
            if name in registry and registry[name] != fn:
                raise ValueError(f"Adv estimator {name} has already been registered")
            return registry.setdefault(name, fn)

        return decorator

    register(register_adv_est)
    again = importlib.util.spec_from_file_location("custom_module", verl.__file__)
    assert again is not None
    assert again.loader is not None
    module = importlib.util.module_from_spec(again)
    again.loader.exec_module(module)  # as verl loads a path: anew each time
    module.register(register_adv_est)
    assert set(registry) == {"tokengym_loo", "tokengym_reinforce"}
    advantages, returns = registry["tokengym_loo"](
        token_level_rewards=torch.tensor([[1.0, 1.0], [0.0, 3.0]]),
        response_mask=torch.tensor([[1, 1], [1, 1]]),
        config={"gamma": 1.0},
        index=np.array(["u", "u"], dtype=object),
        reward_baselines=None,
    )
    assert advantages.tolist() == [[-1.0, -2.0], [1.0, 2.0]]
    assert returns is advantages


def test_the_manager_pays_the_tokens_of_a_padded_batch() -> None:
    options = {"scorer": BUNDLE.reward_model, "credit": "abc-signed"}
    manager = TokenCreditManager({"reward": {"tokengym": options}}, BUNDLE.tokenizer, None, None)
    pad = BUNDLE.tokenizer.pad_token_id
    prompts = torch.tensor([[pad, pad, *PROMPT]])
    responses = torch.tensor([[*RESPONSE, pad, pad]])
    mask = torch.tensor([[0, 0, *[1] * len(PROMPT), *[1] * len(RESPONSE), 0, 0]])
    tensors = {"prompts": prompts, "responses": responses, "attention_mask": mask}
    none = np.array([{"ground_truth": None}], dtype=object)
    data = Batch(tensors, {"reward_model": none})
    found = asyncio.run(manager.run_single(data))
    paid = manager.assemble_rm_scores(data, [found["reward_score"]])
    assert paid.shape == responses.shape
    assert not paid[0, len(RESPONSE) :].any()
    assert float(paid.sum()) == pytest.approx(found["reward_extra_info"]["score"], rel=1e-5)
    expected = manager._credit([RESPONSE], prompts=[PROMPT]).token_rewards[0]
    np.testing.assert_array_equal(paid[0, : len(RESPONSE)].numpy(), expected)


def test_verl_s_own_scores_and_managers_are_refused() -> None:
    """Without a reward function of the user's, its reward loop scores past the manager."""
    data = Batch({"responses": torch.zeros(2, 3)}, {})
    scores: Any = [0.5, 1.5]
    with pytest.raises(SettingsError, match=r"add reward\.custom_reward_function\.path=pkg://"):
        TokenCreditManager.assemble_rm_scores(data, scores)
    with pytest.raises(SettingsError, match="another reward manager"):
        compute_score(data_source="math", solution_str="1", ground_truth="1")


def test_the_command_line_names_what_the_module_has() -> None:
    """verl looks its function up as compute_score unless another name is given."""
    said = dict(re.findall(r"reward\.(\S+?)=(\S+)", str(verl.__doc__)))
    for place in ("reward_manager.module.path", "custom_reward_function.path"):
        assert importlib.import_module(said[place].removeprefix("pkg://")) is verl
    assert said["reward_manager.name"] == TokenCreditManager.__name__


def test_tokens_of_tools_are_not_paid() -> None:
    """verl's response_mask is 1 where the model wrote and 0 at a tool's answer and padding."""
    options = {"scorer": BUNDLE.reward_model, "credit": "uniform"}
    manager = TokenCreditManager({"reward": {"tokengym": options}}, BUNDLE.tokenizer)
    pad, size = BUNDLE.tokenizer.pad_token_id, len(RESPONSE)
    written = [1, 0, *[1] * (size - 2)]
    tensors = {
        "prompts": torch.tensor([PROMPT]),
        "responses": torch.tensor([[*RESPONSE, pad]]),
        "attention_mask": torch.tensor([[*[1] * (len(PROMPT) + size), 0]]),
        "response_mask": torch.tensor([[*written, 0]]),
    }
    none = np.array([{"ground_truth": None}], dtype=object)
    found = asyncio.run(manager.run_single(Batch(tensors, {"reward_model": none})))
    score = found["reward_extra_info"]["score"]
    whole = manager._credit([RESPONSE], prompts=[PROMPT]).scores[0]
    assert score == pytest.approx(float(whole))  # the scorer reads all
    expected = [score / (size - 1) * own for own in written]
    assert found["reward_score"] == pytest.approx(expected, rel=1e-5)


def test_a_configuration_without_a_scorer_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"\+reward\.tokengym\.scorer="):
        TokenCreditManager({"reward": {}}, BUNDLE.tokenizer)
