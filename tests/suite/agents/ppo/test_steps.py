"""Gradient steps that must not be taken are left out, whether a device is asked or not."""

import copy
from typing import Any

import pytest
import torch

from tests.support.agents.common import critic_of
from tokengym.agents import PPO
from tokengym.agents.errors import NonFiniteError
from tokengym.agents.ppo.steps import GradientSteps
from tokengym.agents.processes import Processes

EPOCHS, MINIBATCHES = 3, 2


@pytest.fixture(params=[True, False], ids=["asked at each step", "not asked"])
def asks(request: Any, monkeypatch: Any) -> bool:
    """Whether the device is asked before each step, as on a CPU."""
    made = GradientSteps.__init__

    def start(steps: GradientSteps, *args: Any, **settings: Any) -> None:
        made(steps, *args, **settings)
        assert steps.looks
        steps.looks = request.param

    monkeypatch.setattr(GradientSteps, "__init__", start)
    return bool(request.param)


def state_of(agent: PPO) -> list[torch.Tensor]:
    moments = agent.policy.optimizer.state_dict()["state"].values()
    weights = [weight.detach().clone() for weight in agent.policy.parameters()]
    return weights + [copy.deepcopy(value) for entry in moments for value in entry.values()]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def states_of_an_update(agent: PPO, experience: Any) -> list[list[torch.Tensor]]:
    """Return weights and moments after each step of an update."""
    states, step = [], agent.policy.optimizer.step

    def noted(*args: Any) -> Any:
        result = step(*args)
        states.append(state_of(agent))
        return result

    agent.policy.optimizer.step = noted  # type: ignore[method-assign, assignment]
    agent.update(experience)
    return states


def built(make_ppo: Any, **settings: Any) -> tuple[PPO, Any]:
    agent = make_ppo(n_epochs=EPOCHS, n_minibatches=MINIBATCHES, learning_rate=1e-2, **settings)
    return agent, agent.assign(agent.collect())


def break_from(agent: PPO, number: int, factor: float) -> None:
    """Multiply a gradient by a factor from a minibatch on, counted from 0."""
    backward, count = agent.backward, [-1]

    def counted(minibatch: Any) -> Any:
        count[0] += 1
        return backward(minibatch)

    agent.backward = counted  # type: ignore[method-assign]
    weight = critic_of(agent).head.weight
    weight.register_hook(lambda g: g * factor if count[0] >= number else g)


@pytest.mark.parametrize("number", [1, 3, 5])
def test_nothing_moves_from_the_step_on_whose_gradient_is_not_finite(make_ppo, asks, number):
    states = states_of_an_update(*built(make_ppo))
    assert len(states) == EPOCHS * MINIBATCHES
    agent, experience = built(make_ppo)
    break_from(agent, number, float("nan"))
    epoch = number // MINIBATCHES
    with pytest.raises(NonFiniteError, match=rf"critic\.head\.weight is not.*epoch {epoch},"):
        agent.update(experience)
    assert equal(state_of(agent), states[number - 1])


def test_an_update_ends_at_the_same_step_whether_the_device_is_asked(make_ppo, asks):
    """`target_kl` between the KLs of two steps."""
    agent, experience = built(make_ppo)
    kls, take = [], GradientSteps.take

    def noted(steps: GradientSteps, parts: list[Any]) -> None:
        kls.append(float(sum(part["approx_kl"] for part in parts)))
        take(steps, parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GradientSteps, "take", noted)
        states = states_of_an_update(agent, experience)
    over = next(number for number, kl in enumerate(kls) if kl > kls[1] * 1.5)
    assert 1 < over < len(kls) - 1
    limit = (max(kls[:over]) + kls[over]) / 2 / 1.5
    agent, experience = built(make_ppo, target_kl=limit)
    stats = agent.update(experience)
    assert equal(state_of(agent), states[over - 1])
    assert stats.num_minibatches == over + 1
    assert stats.approx_kl == pytest.approx(sum(kls[: over + 1]) / (over + 1))
    skipped = agent.logger.name_to_value["train/steps_skipped"]
    assert skipped == pytest.approx(1.0 - over / len(kls))


def test_an_optimizer_that_cannot_leave_out_a_step_is_not_asked_to(make_ppo):
    def with_sgd() -> tuple[PPO, Any]:
        agent, experience = built(make_ppo)
        weights = agent.policy.optimizer.param_groups[0]["params"]
        agent.policy.optimizer = torch.optim.SGD(weights, lr=1e-2)
        return agent, experience

    states = states_of_an_update(*with_sgd())
    agent, experience = with_sgd()
    break_from(agent, 2, float("inf"))
    with pytest.raises(NonFiniteError, match="epoch 1,"):
        agent.update(experience)
    assert equal(state_of(agent), states[1])


class Two(Processes):
    """Two processes of which this is one; the other's figures are as given."""

    def __init__(self, kl: float, is_broken: float) -> None:
        self.other = torch.tensor([is_broken, kl])

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor + self.other


@pytest.mark.parametrize(
    ("kl", "is_broken", "moves"), [(0.0, 0.0, True), (0.2, 0.0, False), (0.0, 1.0, False)]
)
def test_another_process_ends_the_update_too(kl, is_broken, moves):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    steps = GradientSteps(optimizer, Two(kl, is_broken), max_grad_norm=1.0, target_kl=0.1)
    weight.grad = torch.ones(3)
    steps.take([{"approx_kl": torch.tensor(0.01), "loss": torch.tensor(1.0)}])
    assert torch.equal(weight, torch.ones(3)) == (not moves)
    assert steps.is_over() == (not moves)
