"""Dropout whose mask the batch brings along."""

import pytest
import torch
from support.games import normal
from torch import nn
from torch.func import vmap
from torch.fx.experimental.proxy_tensor import make_fx

import gan_influence as gi


def uniform(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("p", [0.0, 0.3, 0.9])
def test_what_its_number_reaches_is_kept_and_scaled(p):
    x, noise = normal(0, 4, 5), uniform(1, 4, 5)
    expected = torch.zeros(4, 5, dtype=torch.float64)
    for i in range(4):
        for j in range(5):
            if noise[i, j] >= p:
                expected[i, j] = x[i, j] / (1 - p)
    torch.testing.assert_close(gi.nn.Dropout(p)(x, noise), expected)


def test_a_number_of_p_itself_is_kept_and_its_mean_stays():
    x = torch.ones(1, 2, dtype=torch.float64)
    assert gi.nn.Dropout(0.5)(x, torch.tensor([[0.5, 0.499]])).tolist() == [[2.0, 0.0]]
    many = torch.ones(100, 1000, dtype=torch.float64)
    assert float(gi.nn.Dropout(0.3)(many, uniform(2, 100, 1000)).mean()) == pytest.approx(1.0, abs=0.01)


def test_in_eval_mode_it_is_the_identity_with_and_without_noise():
    dropout, x = gi.nn.Dropout(0.5).eval(), normal(0, 3, 2)
    assert dropout(x) is x
    assert dropout(x, uniform(1, 3, 2)) is x


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_without_noise_it_says_where_noise_comes_from(p):
    with pytest.raises(ValueError, match=r"train\(\) mode needs noise.*batch\.noise.*\.eval\(\)"):
        gi.nn.Dropout(p)(normal(0, 3, 2))


@pytest.mark.parametrize("shape", [(3,), (3, 1), (2, 3), (3, 2, 1)])
def test_noise_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"of shape \(3, 2\), but the noise has shape"):
        gi.nn.Dropout(0.5)(normal(0, 3, 2), uniform(1, *shape))


@pytest.mark.parametrize("p", [1.0, -0.1, 2, True, float("nan"), "0.5", None])
def test_p_is_a_probability_below_1(p):
    with pytest.raises(ValueError, match="p must be the probability"):
        gi.nn.Dropout(p)


def test_single_precision_stays_with_noise_of_double():
    assert gi.nn.Dropout(0.5)(torch.ones(2, 2), uniform(1, 2, 2)).dtype == torch.float32


def test_a_number_that_is_not_finite_is_kept_or_dropped_but_shows():
    """As in torch: a network that diverges is to be seen to diverge."""
    x = torch.tensor([torch.inf, torch.nan])
    assert not gi.nn.Dropout(0.5)(x, torch.tensor([0.1, 0.9])).isfinite().any()
    assert not nn.functional.dropout(torch.full((100,), torch.nan), 0.5).isfinite().any()


def test_it_stacks_and_is_recorded_without_its_numbers():
    dropout, x, noise = gi.nn.Dropout(0.4), normal(0, 3, 4, 5), uniform(1, 3, 4, 5)
    assert torch.equal(vmap(dropout)(x, noise), torch.stack([dropout(*one) for one in zip(x, noise, strict=True)]))
    recorded = make_fx(dropout, tracing_mode="fake")(x, noise)
    other, others_noise = normal(5, 3, 4, 5), uniform(6, 3, 4, 5)
    assert torch.equal(recorded(other, others_noise), dropout(other, others_noise))


def test_it_draws_nothing():
    before = torch.get_rng_state()
    gi.nn.Dropout(0.5)(normal(0, 3), uniform(1, 3))
    assert torch.equal(torch.get_rng_state(), before)


class Regressor(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.dropout, self.last = nn.Linear(3, 4), gi.nn.Dropout(0.5), nn.Linear(4, 1)

    def forward(self, x, noise=None):
        return self.last(self.dropout(torch.tanh(self.first(x)), noise)).squeeze(1)


def test_a_game_with_dropout_is_retrained_with_the_same_masks():
    torch.manual_seed(0)
    model, data = Regressor().double(), (normal(1, 8, 3), normal(2, 8))

    def cost(players, batch):
        inputs, targets = batch.rows
        return gi.Costs({"model": (players.model(inputs, batch.noise) - targets).square()})

    game = gi.Game(players={"model": model}, cost=cost)
    schedule = gi.Minibatches(size=8, batch_size=4, noise=lambda rng, n: rng.random((n, 4)), seed=3)
    trace = gi.train(game, data, schedule, steps=9, optimizer=gi.SGD(lr=0.1))
    assert torch.equal(gi.retrain(trace, removed=[]).theta(), trace.theta())

    moved = Regressor().double()
    moved.load_state_dict(model.state_dict())
    plain = torch.optim.SGD(moved.parameters(), lr=0.1)
    for t in range(9):
        batch = schedule(t)
        x, y = (part[batch.indices] for part in data)
        hidden = torch.tanh(moved.first(x)) * (batch.noise >= 0.5) / 0.5
        plain.zero_grad()
        (moved.last(hidden).squeeze(1) - y).square().mean().backward()
        plain.step()
    expected = torch.cat([p.detach().flatten() for p in moved.parameters()])
    torch.testing.assert_close(trace.theta(), expected, rtol=1e-12, atol=1e-12)
