"""Functions of named inputs at the doors: rows in any order and layout, refusals, and the table."""

import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.paid_words import LONG, PROMPT, SHORT, TOKENIZER, by_length
from tokengym import TokenCredit, token_credit
from tokengym.base.errors import SettingsError
from tokengym.bridges.doors import DOORS, EVERYWHERE, OF_TEXTS, who_has
from tokengym.bridges.functions import DoorAdvantage
from tokengym.bridges.registries import registered
from tokengym.bridges.rows import Row, credit_rows
from tokengym.bridges.skyrl import register
from tokengym.rewards.credits.names import NAMES

REWARDS = torch.tensor([[1.0, 2.0, 0.0], [0.0, 4.0, 3.0], [5.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
MASK = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 1]]).bool()


def places(token_rewards: Tensor, positions: Tensor) -> Tensor:
    """A bare function: the place of each token, and what it earned."""
    return 10.0 * positions + token_rewards


def above_the_mean(scores: Tensor, group_ids: Tensor, response_mask: Tensor) -> Tensor:
    """The score minus its group's mean, of groups of any size."""
    table = group_ids[:, None] == group_ids[None]
    mean = (table * scores).sum(1) / table.sum(1)
    return (scores - mean)[:, None] * response_mask


def of_values(values: Tensor) -> Tensor:
    """What SkyRL's critic says."""
    return values


@token_credit(whitens=True)
def whitened(token_rewards: Tensor) -> Tensor:
    """Marked, and whitened over the batch."""
    return token_rewards


def test_weights_are_factors_on_the_advantages_of_any_estimator():
    def halved(advantages: Tensor, positions: Tensor) -> Tensor:
        return torch.where(advantages < 0, 0.5, 1.0) * (positions >= 0)

    prompts = [*"abab"]
    for advantage in ("loo", places, above_the_mean):
        plain, _ = DoorAdvantage(advantage, "verl")(REWARDS, MASK, prompts)
        found, returns = DoorAdvantage(advantage, "verl", weights=halved)(REWARDS, MASK, prompts)
        assert torch.equal(found, torch.where(plain < 0, 0.5 * plain, plain))
        assert torch.equal(returns, plain)
    with pytest.raises(SettingsError, match="reads 'entropy', which verl does not supply"):
        DoorAdvantage("loo", "verl", weights=lambda entropy: entropy)


def test_columns_are_own_tokens_on_either_side_of_the_padding():
    found, returns = DoorAdvantage(places, "verl")(REWARDS, MASK, [*"abab"])
    expected = [[1, 12, 0], [0, 14, 23], [5, 0, 0], [1, 11, 21]]
    assert found.tolist() == expected
    assert torch.equal(found, returns)
    left, mask = torch.zeros(4, 5), torch.zeros(4, 5).bool()
    for row, size in enumerate((2, 3, 1, 3)):
        left[row, 5 - size :], mask[row, 5 - size :] = REWARDS[row, :size], True
    moved, _ = DoorAdvantage(places, "skyrl")(left, mask, [*"abab"])
    for row, size in enumerate((2, 3, 1, 3)):
        assert moved[row, 5 - size :].tolist() == expected[row][:size]
        assert not moved[row, : 5 - size].any()


def test_groups_of_any_size_in_any_order():
    called = DoorAdvantage(above_the_mean, "verl")
    found, _ = called(REWARDS, MASK, [*"abab"])  # scores 3, 7, 5, 3: means 4 and 5
    assert found.tolist() == [[-1, -1, 0], [2, 2, 2], [1, 0, 0], [-2, -2, -2]]
    uneven, _ = called(REWARDS, MASK, [*"abbb"])
    assert uneven[0].tolist() == [0, 0, 0]
    assert uneven[1].tolist() == [2, 2, 2]
    lost, _ = called(REWARDS, MASK & torch.tensor([[True], [False], [True], [True]]), [*"abab"])
    assert lost.tolist() == [[-1, -1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_a_function_of_group_size_has_groups_of_one_size():
    called = DoorAdvantage("rloo", "verl")  # by word: one of PPO's, which counts its rows
    found, _ = called(REWARDS, MASK, [*"abab"])
    assert found.tolist() == [[-2, -2, 0], [4, 4, 4], [2, 0, 0], [-4, -4, -4]]
    with pytest.raises(SettingsError, match=r"'rloo' reads group_size.*1 to 3"):
        called(REWARDS, MASK, [*"abbb"])
    lost, _ = called(REWARDS, MASK & torch.tensor([[True], [False], [True], [True]]), [*"abab"])
    assert lost.tolist() == [[-2, -2, 0], [0, 0, 0], [2, 0, 0], [0, 0, 0]]  # b is left out
    with pytest.raises(SettingsError, match="none of 4 prompts"):
        called(REWARDS, MASK, [*"abcd"])
    for prompts in (["a"], [*"ab"]):  # one scored row is what was left of a group
        size = len(prompts)
        mask = MASK[:size] & (torch.arange(size) == 0)[:, None]
        assert not called(REWARDS[:size], mask, prompts)[0].any()


@pytest.mark.parametrize("advantage", [places, "loo", "reinforce", "rloo"])
def test_what_is_under_the_mask_is_not_read(advantage):
    spoilt = REWARDS.masked_fill(~MASK, float("nan"))
    found, _ = DoorAdvantage(advantage, "verl")(spoilt, MASK, [*"abab"])
    expected, _ = DoorAdvantage(advantage, "verl")(REWARDS, MASK, [*"abab"])
    assert found.isfinite().all()
    assert torch.equal(found, expected)


def test_what_is_declared_to_whiten_is_whitened():
    found, _ = DoorAdvantage(whitened, "verl")(REWARDS, MASK, [*"abab"])
    own = found[MASK]
    assert float(own.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(own.std(correction=0)) == pytest.approx(1.0, abs=1e-3)


def test_skyrl_passes_its_values_and_a_run_without_a_critic_says_so():
    function = registered(of_values, "skyrl")
    arguments: dict[str, Any] = {
        "token_level_rewards": REWARDS,
        "response_mask": MASK.float(),
        "index": np.array([*"aabb"]),
        "gamma": 1.0,
        "lambd": 1.0,
    }
    found, _ = function(values=REWARDS + 1, **arguments)
    assert torch.equal(found, (REWARDS + 1) * MASK)
    with pytest.raises(SettingsError, match="no critic"):
        function(values=None, **arguments)
    assert registered(of_values, "skyrl") is function  # verl compares what it is given again
    again = pickle.loads(pickle.dumps(function))  # as SkyRL sends it to its registry's actor
    assert torch.equal(again(values=REWARDS, **arguments)[0], REWARDS * MASK)


@dataclass
class Scaled:
    """A function with state, which cannot be hashed."""

    alpha: float

    def __call__(self, token_rewards: Tensor) -> Tensor:
        return self.alpha * token_rewards


def test_an_object_that_cannot_be_hashed_is_registered_by_its_identity():
    half, third = Scaled(0.5), Scaled(0.3)
    function = registered(half, "verl")
    assert registered(half, "verl") is function
    assert registered(third, "verl") is not function
    assert torch.equal(function(REWARDS, MASK, [*"aabb"])[0], 0.5 * REWARDS * MASK)


def test_a_function_of_a_file_is_registered_by_its_word(tmp_path: Path) -> None:
    file = tmp_path / "idea.py"
    file.write_text("def twice(token_rewards, alpha=1.0):\n    return 2 * alpha * token_rewards\n")
    known: dict[str, Any] = {}

    class Registry:
        list_available = staticmethod(lambda: [*known])
        get, register = staticmethod(known.get), staticmethod(known.__setitem__)

    for _ in range(2):
        register(Registry, f"{file}:twice:alpha=1.5")
    assert [*known] == ["twice"]
    found, _ = known["twice"](REWARDS, MASK, [*"aabb"])
    assert torch.equal(found, 3 * REWARDS * MASK)
    (tmp_path / "other.py").write_text("def twice(token_rewards):\n    return token_rewards\n")
    for word in (f"{file}:twice:alpha=0.5", f"{tmp_path}/other.py:twice"):
        with pytest.raises(SettingsError, match=r"'twice' from '.*alpha=1\.5'; give.*another name"):
            register(Registry, word)
    assert torch.equal(known["twice"](REWARDS, MASK, [*"aabb"])[0], found)
    known["places"] = places
    with pytest.raises(SettingsError, match=r"estimator 'places' of its own.*another name"):
        register(Registry, places)


@pytest.mark.parametrize(
    ("door", "name", "who"),
    [
        ("verl", "entropy", r"verl does not supply; TRL, .*PPO\(advantage=...\) can"),
        ("verl", "values", r"SkyRL, PPO\(advantage=...\) can"),
        ("skyrl", "response_ids", r"SkyRL does not supply; TRL"),
        ("rows", "hidden_states", r"credit_rows does not supply; TRL, PPO"),
        ("trl", "turn_scores", r"TRL does not supply; PPO"),
        ("prime-rl", "entropy", r"prime-rl does not supply; TRL, Tinker"),
        ("verl", "weights_of_mine", r"no columns of the data; .*TRL, PPO"),
        ("trl", "respons_ids", r"no column of the data; did you mean 'response_ids'"),
        ("trl", "generator", r"TRL does not supply; PPO"),
    ],
)
def test_what_a_door_lacks_is_refused_with_who_has_it(door: str, name: str, who: str) -> None:
    function: Any = eval(f"lambda token_rewards, {name}: token_rewards")
    with pytest.raises(SettingsError, match=who) as caught:
        DoorAdvantage(function, door)
    assert "\n" not in str(caught.value)


def test_rows_carry_log_probs_and_entropy_or_are_refused_before_they_are_scored():
    asked: list[str] = []

    def counted(prompt: str, response: str) -> float:
        asked.append(response)
        return by_length(prompt, response)

    credit = TokenCredit(counted, tokenizer=TOKENIZER)

    def surprise(scores: Tensor, log_probs: Tensor, responses: list[str]) -> Tensor:
        assert responses == ["a dull film", "a film"]
        return scores[:, None] * log_probs

    rows = [
        Row(prompt_ids=PROMPT, response_ids=LONG, group="p", log_probs=[-1.0, -2.0, -3.0]),
        Row(prompt_ids=PROMPT, response_ids=SHORT, group="p", log_probs=[-4.0, -5.0]),
    ]
    found = credit_rows(rows, credit, surprise).advantages
    assert [row.tolist() for row in found] == [[-3.0, -6.0, -9.0], [-8.0, -10.0]]
    asked.clear()
    bare = [Row(prompt_ids=PROMPT, response_ids=LONG, group="p")]
    with pytest.raises(SettingsError, match=r"reads 'log_probs'.*row 0.*Row\(log_probs=") as caught:
        credit_rows(bare, credit, surprise)
    assert "\n" not in str(caught.value)
    assert not asked
    with pytest.raises(SettingsError, match=r"'uniform' has no effect with advantage 'surprise'"):
        credit_rows(rows, TokenCredit(counted, "uniform", tokenizer=TOKENIZER), surprise)


def test_each_name_of_the_table_is_there():
    """What `DOORS` says of rows and registries is what a function is given."""
    credit = TokenCredit(by_length, tokenizer=TOKENIZER)
    rows = [
        Row(
            prompt_ids=PROMPT, response_ids=ids, group="p", log_probs=[-1.0] * len(ids),
            entropy=[1.0] * len(ids), reference="film",
        )
        for ids in (LONG, SHORT)
    ]  # fmt: skip
    for name in (*EVERYWHERE, *OF_TEXTS, "log_probs", "entropy"):
        seen: list[Any] = []
        read: Any = eval(
            f"lambda {name}, token_rewards: seen.append({name}) or token_rewards"
            if name != "token_rewards"
            else "lambda token_rewards: seen.append(token_rewards) or token_rewards",
            {"seen": seen},
        )
        credit_rows(rows, credit, read)
        assert len(seen) == 1, name
        if NAMES[name].shape.startswith("(batch, time)"):
            assert tuple(seen[0].shape) == (2, 3), name
    for door in ("verl", "skyrl"):
        for name in DOORS[door].names - {"token_rewards", "values"}:
            read = eval(f"lambda {name}, token_rewards: token_rewards")
            config = {"gamma": 0.5, "lam": 0.9}
            assert registered(read, door)(REWARDS, MASK, [*"aabb"], config)[0].any(), name


def test_who_has_a_name():
    assert who_has("values") == "SkyRL, PPO(advantage=...) can"
    assert who_has("generator") == "PPO(advantage=...) can"
    assert re.match(r"TRL, Tinker.*PPO", who_has("log_probs"))
