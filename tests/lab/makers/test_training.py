import pytest
import torch
from torch import nn

from tokengym.lab.makers.models import choose, pad_batch, train


def test_padding_is_on_the_right():
    ids, mask = pad_batch([[5, 6, 7], [8]], pad_token_id=0)
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_training_reaches_a_minimum_and_returns_the_late_loss():
    model = nn.Linear(1, 1)
    target = torch.tensor([[3.0]])
    late = train(
        model,
        lambda: (model(torch.ones(1, 1)) - target).pow(2).mean(),
        steps=300,
        learning_rate=0.1,
        label="test",
        weight_decay=0.0,
    )
    assert model(torch.ones(1, 1)).item() == pytest.approx(3.0, abs=1e-2)
    assert late < 1e-3
    assert not model.training


def test_a_loss_that_is_not_finite_stops_and_names_the_step():
    model = nn.Linear(1, 1)
    losses = iter([1.0, float("nan")])
    with pytest.raises(FloatingPointError, match=r"toy.*step 1.*nan.*0\.5"):
        train(
            model,
            lambda: model(torch.ones(1, 1)).mean() * 0 + next(losses),
            steps=3,
            learning_rate=0.5,
            label="toy",
        )


def test_dropout_is_in_force_while_training_only_and_seeded():
    def trained():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.0), nn.Linear(64, 1))
        seen = set()

        def loss():
            seen.add((model[1].p, model.training))
            return model(torch.ones(1, 4)).pow(2).mean()

        before = torch.random.get_rng_state()
        train(model, loss, steps=3, learning_rate=0.01, label="t", dropout=0.5, dropout_seed=1)
        assert torch.equal(before, torch.random.get_rng_state())
        assert seen == {(0.5, True)}
        assert model[1].p == 0.0
        return model[0].weight

    assert torch.equal(trained(), trained())


def test_choices_come_from_the_generator_alone():
    draws = [choose(10, 5, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert draws[0] == draws[1]
    assert set(choose(3, 200, torch.Generator().manual_seed(0))) == {0, 1, 2}
