# mypy: no-check-untyped-defs
"""The laboratory's tasks under the tests of every registered id."""

import gymnasium
import pytest
from gymnasium.vector import AutoresetMode

from tests.suite.tokengym import test_registration as suite
from tests.support.tokengym.registration import check_contract, check_copies
from tokengym.envs.tasks import find_task
from tokengym.rewards.errors import RewardError

NAMES = {
    "tokengym/Oracle-v0": ("sparse", "recency", "abc", "abc-d", "red"),
    "tokengym/Forks-v0": ("sparse", "abc-signed", "red", "scar", "r3"),
    "tokengym/ReasoningGym-v0": ("sparse", "abc-signed", "red", "scar", "r3"),
}
CASES = [(name, reward) for name, rewards in NAMES.items() for reward in rewards]


def test_the_tasks_have_their_ids():
    assert [find_task(name).id for name in ("Oracle", "Forks", "ReasoningGym")] == [*NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_official_checkers_are_silent(name):
    suite.test_official_checkers_are_silent(name)


@pytest.mark.parametrize(("name", "reward"), CASES)
def test_rewards_keep_their_contract(name, reward):
    check_contract(name, reward, max_new_tokens=8 if "Oracle" in name else 12)


@pytest.mark.parametrize("way", ["make_vec", "SyncVectorEnv"])
@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("name", NAMES)
def test_copies_of_an_id_return_what_its_native_batch_returns(name, mode, way):
    lengths = check_copies(name, mode, way)
    assert len(lengths) > 2 or name == "tokengym/Forks-v0"  # whose responses have one length


@pytest.mark.parametrize("name", NAMES)
def test_a_spec_survives_json_and_makes_the_same_environment(name):
    suite.test_a_spec_survives_json_and_makes_the_same_environment(name, {})


@pytest.mark.parametrize("batched", [False, True])
def test_a_bundle_without_an_encoder_is_named_before_any_work(batched):
    make = gymnasium.make_vec if batched else gymnasium.make
    with pytest.raises(RewardError, match=r"'r3'.*no encoder"):
        make("tokengym/Oracle-v0", reward="r3", **({"num_envs": 2} if batched else {}))
