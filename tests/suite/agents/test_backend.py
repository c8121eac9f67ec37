"""Learners without `tokengym.agents.fast`: the plain way, and the same as the faster one."""

import json
from collections.abc import Iterator
from pkgutil import iter_modules
from typing import Any

import pytest
import torch

import tokengym.agents.fast
from tests.support.forked import execute, forked
from tokengym.agents.errors import ModelError, ProcessError
from tokengym.agents.policy.backend import Plain, backend, use_backend

HIDING = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("tokengym.agents.fast"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
"""
PLAYING = """
import json
import gymnasium as gym
import tokengym
from tokengym.agents import DPO, PPO, SFT, CausalLMPolicy, collect

envs = gym.make_vec("tokengym/MovieReview-v0", num_envs=6, reward="abc", max_new_tokens=10)
agent = PPO("CausalLMPolicy", envs, policy_kwargs=dict(products="torch"), seed=0)
first = agent.collect()
agent.learn_from(first)
agent.learn(60)
pairs = [dict(prompt="the film", chosen=" was great .", rejected=" was bad .")] * 4
responses = [dict(prompt="the film", response=" was great .")] * 4
options = dict(num_train_epochs=1, device="cpu", seed=0)
dpo, sft = DPO(envs, pairs, **options), SFT(envs, responses, **options)
dpo.train()
sft.train()
episodes = [collect(learner, envs, 6, seed=1) for learner in (agent, dpo, sft)]
print(json.dumps({
    "tokens": [list(episode.response_ids) for episode in first.episodes],
    "log_probs": first.log_probs.tolist(),
    "losses": [learner.state.log_history[-1]["train_loss"] for learner in (dpo, sft)],
    "played": [len(played) for played in episodes],
}))
"""


def run(code: str) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = json.loads(forked(execute, code).splitlines()[-1])
    return found


def test_learners_learn_the_plain_way_what_they_learn_faster():
    plain, faster = run(HIDING + PLAYING), run(PLAYING)
    assert plain["tokens"] == faster["tokens"]
    for row, other in zip(plain["log_probs"], faster["log_probs"], strict=True):
        assert row == pytest.approx(other, abs=2e-4)
    assert plain["losses"] == pytest.approx(faster["losses"], rel=1e-4)
    assert plain["played"] == [6, 6, 6]


@pytest.fixture
def closed() -> Iterator[None]:
    """Name a backend that is not installed."""
    use_backend("tokengym.agents.no_such_folder")
    yield
    use_backend("tokengym.agents.fast")


@pytest.mark.usefixtures("closed")
def test_the_plain_way_says_what_is_missing():
    plain = backend()
    assert type(plain) is Plain
    plain.check_products("torch")
    with pytest.raises(ModelError, match=r"products='onednn'.*tokengym\.agents\.fast"):
        plain.check_products("onednn")
    with pytest.raises(ModelError, match=r"decoding='static'.*'auto'.*'dynamic'"):
        plain.check_static(None, None)
    with pytest.raises(ModelError, match="kernels need"):
        plain.check_kernels(torch.device("cpu"))
    with pytest.raises(ProcessError, match=r"several processes.*one process"):
        plain.join("cpu")


def test_a_library_that_a_faster_part_lacks_is_no_missing_folder(tmp_path, monkeypatch):
    (tmp_path / "faster_parts.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    use_backend("faster_parts")
    try:
        with pytest.raises(ModuleNotFoundError, match="no_such_library"):
            backend()
    finally:
        use_backend("tokengym.agents.fast")


def test_the_backend_has_every_part():
    assert backend() is tokengym.agents.fast
    parts = {*tokengym.agents.fast.HOMES}
    assert parts == {name for name in vars(Plain) if not name.startswith("_")}
    # A module of the folder would take the place of a part of its name.
    assert not parts & {module.name for module in iter_modules(tokengym.agents.fast.__path__)}
