"""PPO in one file: its updates are the package's own, by formulas written out in it; its page."""

import ast
import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import VectorWrapper
from transformers import AutoModelForCausalLM

from examples import ppo_in_one_file as one
from tests.support.agents.common import critic_of
from tokengym.agents import PPO, fast
from tokengym.agents.ppo.settings import GAE_LAMBDA, PPOSettings

ROOT = Path(__file__).parents[3]
CODE = (ROOT / "examples" / "ppo_in_one_file.py").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "agents" / "how_ppo_works.md").read_text(encoding="utf-8")


@pytest.fixture
def compute_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[torch.dtype], None]]:
    """Return a setter of the precision of all models and new tensors."""

    def compute_in(dtype: torch.dtype) -> None:
        torch.set_default_dtype(dtype)
        load = partial(AutoModelForCausalLM.from_pretrained, dtype=dtype)
        monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)
        if dtype == torch.float64:  # the package's fast decoding of GPT-2 caches in float32
            monkeypatch.setattr(fast, "stream_kinds", ())

    before = torch.get_default_dtype()
    yield compute_in
    torch.set_default_dtype(before)


class PaidInSteps(VectorWrapper):
    """Around a reward wrapper it has episodes scored as they end, as the file sees them.

    A learner scores a round in one batch, whose float32 rounds otherwise, unless a layer has a
    ``step`` of its own, which may read what it pays.
    """

    def step(self, actions: Any) -> Any:
        return self.env.step(actions)


@dataclass
class Played:
    """What each update of the file began with."""

    policies: list[one.Policy] = field(default_factory=list)
    critics: list[one.ValueFunction] = field(default_factory=list)
    rollouts: list[one.Rollout] = field(default_factory=list)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    """Return the record to which each update of the file is added."""
    found, play, assign = Played(), one.play, one.assign

    def recorded(envs: Any, policy: one.Policy, *rest: Any) -> one.Rollout:
        found.policies.append(copy.deepcopy(policy))
        found.rollouts.append(play(envs, policy, *rest))
        return found.rollouts[-1]

    def assigned(rollout: one.Rollout, critic: one.ValueFunction, *rest: Any) -> one.Targets:
        found.critics.append(copy.deepcopy(critic))
        return assign(rollout, critic, *rest)

    monkeypatch.setattr(one, "play", recorded)
    monkeypatch.setattr(one, "assign", assigned)
    return found


@pytest.mark.parametrize(
    ("dtype", "atol", "task", "options", "settings"),
    [
        (torch.float32, 1e-5, "MovieReview", {}, {}),
        # A second update has a KL to pay and half of the rate; responses end early, and some tokens
        # are forbidden.
        (
            torch.float64,
            1e-9,
            "Dialogue",
            {"min_new_tokens": 9, "forbidden_token_ids": [5, 40]},
            {"updates": 2, "learning_rate": 3e-3},
        ),
        (
            torch.float64,
            1e-9,
            "Dialogue",
            {"min_new_tokens": 9, "forbidden_token_ids": [5, 40]},
            {"updates": 2, "learning_rate": 1e-3, "kl_estimator": "k1"},
        ),
    ],
)
def test_its_updates_are_those_of_ppo(
    dtype: torch.dtype,
    atol: float,
    task: str,
    options: dict[str, Any],
    settings: dict[str, Any],
    compute_in: Callable[[torch.dtype], None],
    played: Played,
    monkeypatch: pytest.MonkeyPatch,
):
    compute_in(dtype)
    monkeypatch.setattr(gym, "make_vec", partial(gym.make_vec, max_new_tokens=20, **options))
    args = one.Args(
        env=f"tokengym/{task}-v0",
        reward="abc",
        num_envs=16,
        max_new_tokens=20,
        **{"updates": 1} | settings,
    )
    policy, critic = one.train(args)
    played.policies.append(policy)
    played.critics.append(critic)

    envs: Any = PaidInSteps(gym.make_vec(args.env, num_envs=16, reward=args.reward))
    model = AutoModelForCausalLM.from_pretrained(envs.unwrapped.bundle.policy)
    agent = PPO(
        "CausalLMPolicy",
        envs,
        args.learning_rate,
        policy_kwargs={"model": model},
        kl_estimator=args.kl_estimator,
        seed=0,
        device="cpu",
    )
    critic_of(agent).head.to(dtype)  # whatever a process computes in, ours is of float32
    close = partial(torch.testing.assert_close, atol=atol, rtol=0.0, check_dtype=False)
    reference = copy.deepcopy(played.policies[0])
    for number, rollout in enumerate(list(played.rollouts)):
        their_round = agent.collect()
        assert their_round is not None
        mask = rollout.response_mask
        sampled = [
            tuple(ids[kept].tolist()) for ids, kept in zip(rollout.tokens, mask, strict=True)
        ]
        assert sampled == [episode.response_ids for episode in their_round.episodes]
        targets = one.assign(rollout, played.critics[number], reference, args)
        experience = agent.assign(their_round)
        close(targets.old_log_probs.masked_fill(~mask, 0.0), experience.old_log_probs)
        close(targets.advantages, experience.advantages)
        close(targets.returns, experience.returns)
        for after in (0, 1):
            rows, count = torch.arange(len(mask)), int(mask.sum())
            terms = agent.loss_terms(experience, count, len(experience.sequences))
            loss = torch.stack([term for term, _ in terms]).sum()
            models = played.policies[number + after], played.critics[number + after]
            close(one.loss_of(*models, rollout, targets, rows, args), loss)
            if not after:
                agent.remaining = 1 - number / args.updates  # as `learn` counts it
                agent.update(experience)
    assert bool(options) == (targets.kl.sum(1).mean() > 0.1) == (not mask[:, -1].all())
    own, theirs = policy.model.state_dict(), agent.policy.language_model.model.state_dict()
    gaps = torch.cat([(own[name] - theirs[name]).abs().flatten() for name in own])
    close(critic.head.weight, critic_of(agent).head.weight)
    # AdamW divides a gradient by its size. Where it is 0 but for rounding, as the keys' biases have
    # it, float32 leaves a few weights up to a step apart; float64 leaves none.
    few, most = (1e-2, args.learning_rate) if dtype == torch.float32 else (0.0, atol)
    assert (gaps > 1e-6).double().mean() <= few
    assert gaps.max() < most


def test_its_formulas_are_its_own():
    """From tokengym it takes the environment and its rewards, and nothing of the agents."""
    imported = {
        node.module
        for node in ast.walk(ast.parse(CODE))
        if isinstance(node, ast.ImportFrom) and "tokengym" in (node.module or "")
    }
    assert imported == {"tokengym.envs"}
    assert not re.search(r"\bimport tokengym|tokengym\.agents\.(?!PPO\b)", CODE)


def test_advantages_worked_by_hand():
    """The example of the page: a reward at the end, and a critic that begins too high."""
    rewards, values = torch.tensor([[0.0, 0.0, 1.0, 9.0]]), torch.tensor([[0.5, 0.8, 0.2, 9.0]])
    mask = torch.tensor([[True, True, True, False]])
    advantages, returns = one.gae(rewards, values, mask, gamma=1.0, gae_lambda=0.5)
    torch.testing.assert_close(advantages, torch.tensor([[0.2, -0.2, 0.8, 0.0]]))
    torch.testing.assert_close(returns, torch.tensor([[0.7, 0.6, 1.0, 0.0]]))
    assert "0.8, -0.2 and 0.2" in " ".join(PAGE.split())


def test_clipped_losses_worked_by_hand():
    """Those of the page, where a gradient stops at 0.2 and where it does not."""
    for old, new, advantage, loss, flows in (
        (0.10, 0.15, 2.0, -2.4, False),
        (0.10, 0.11, 2.0, -2.2, True),
        (0.10, 0.05, -2.0, 1.6, False),
        (0.10, 0.15, -2.0, 3.0, True),
    ):
        log_probs = torch.tensor([new]).log().requires_grad_()
        found = one.policy_loss(
            log_probs, torch.tensor([old]).log(), torch.tensor([advantage]), clip_range=0.2
        )
        assert found.item() == pytest.approx(loss)
        found.backward()
        assert bool(log_probs.grad) == flows
        row = f"| {old:.2f} | {new:.2f} | {new / old:.1f} | {advantage:g} | {loss:g} |"
        assert row in PAGE


def test_both_kls_worked_by_hand():
    """ln 2 of policies (1, 0) and (1/2, 1/2); the sampled one has it as the mean over samples."""
    logits = torch.tensor([[[0.0, -torch.inf, -torch.inf], [1.0, 0.0, -torch.inf]]])
    reference = torch.tensor([[[0.0, 0.0, -torch.inf], [0.0, 0.0, -torch.inf]]])
    exact = one.exact_kl(logits, reference)
    p = 1 / (1 + np.exp(-1.0))
    expected = p * np.log(2 * p) + (1 - p) * np.log(2 * (1 - p))
    assert exact[0].tolist() == pytest.approx([np.log(2), expected])
    sampled = [
        one.sampled_kl(
            *(one.log_probs_of(torch.tensor([[0, token]]), x) for x in (logits, reference))
        )
        for token in (0, 1)
    ]
    assert p * sampled[0][0, 1] + (1 - p) * sampled[1][0, 1] == pytest.approx(expected)
    assert sampled[1][0, 1] < 0 < exact.min()


def test_fewer_responses_than_minibatches_are_a_step_each(capsys: pytest.CaptureFixture[str]):
    args = one.Args(num_envs=2, max_new_tokens=4, updates=1)
    assert args.num_envs < args.n_minibatches
    one.train(args)
    assert "score" in capsys.readouterr().out


def test_its_defaults_are_those_of_ppo():
    own = {argument.name: argument.default for argument in fields(one.Args)}
    shared = {s.name: s.default for s in fields(PPOSettings) if s.name in own}
    assert len(shared) == 10
    shared["gae_lambda"] = GAE_LAMBDA  # what None takes under rules that declare none, as sparse
    assert shared.items() <= own.items()


def test_the_page_shows_the_whole_file_section_by_section():
    shown = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    written = CODE[CODE.index("@dataclass") :]  # all but the imports
    assert [line for line in shown.splitlines() if line] == [
        line for line in written.splitlines() if line
    ]


def test_the_page_names_what_stands_in_the_package():
    table = PAGE.partition("## Where the package does it")[2].partition("\n## ")[0]
    named = re.findall(r"`([\w/]+\.py)` \(`([\w.]+)`\)", table)
    steps = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert len(named) > 20
    assert all(hasattr(one, step) for step in steps)
    for path, name in named:
        node: Any = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        for part in name.split("."):  # a name of the module, or of a class of it
            defined = {getattr(child, "name", None): child for child in node.body}
            assert part in defined, f"{path} does not define {name}"
            node = defined[part]
