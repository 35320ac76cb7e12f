"""Any optimiser that follows the protocol, and any pair of them."""

import copy
import dataclasses

import pytest
import torch
from support.games import (
    GAMES,
    ORDERS,
    Adaptive,
    Momentum,
    lqgan,
    mlp,
    relative_error,
    same_bits,
    unrolled,
    unrolled_scores,
)

import gan_influence as gi
from gan_influence.optimizers import Optimizer

each_game = pytest.mark.parametrize("make", GAMES.values(), ids=GAMES)
OPTIMIZERS = {
    "momentum": Momentum(0.05),
    "adaptive": Adaptive(0.02),
    "sgd-momentum": (gi.SGD(0.1), Momentum(0.05)),
    "momentum-sgd": (Momentum(0.05), gi.SGD(0.1)),
    "momentum-adaptive": (Momentum(0.05), Adaptive(0.02)),
}
each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


def torch_training(problem, optimizers, steps):
    """The textbook loop with torch's own optimisers, on copies of the modules."""
    generator, discriminator = copy.deepcopy((problem.generator, problem.discriminator))
    players = generator, discriminator
    both = [make(list(player.parameters())) for make, player in zip(optimizers, players, strict=True)]
    loss = torch.nn.functional.softplus
    for t in range(steps):
        fake, real = discriminator(generator(problem.schedule(t).latents)), discriminator(problem.data)
        costs = loss(-fake).mean(), loss(-real).mean() + loss(fake).mean()
        for player, cost in zip(players, costs, strict=True):
            slopes = torch.autograd.grad(cost, list(player.parameters()), retain_graph=True)
            for parameter, slope in zip(player.parameters(), slopes, strict=True):
                parameter.grad = slope
        for one in both:
            one.step()
    return torch.cat([p.detach().reshape(-1) for player in players for p in player.parameters()])


@each_game
def test_sgd_equals_torchs(make):
    problem = make(loss="non_saturating", rates=(0.1, 0.03))
    torchs = [lambda p: torch.optim.SGD(p, lr=0.1), lambda p: torch.optim.SGD(p, lr=0.03)]
    assert relative_error(problem.train(20).theta(), torch_training(problem, torchs, 20)) < 1e-13


@each_game
def test_state_rows_carry_momentum_as_torchs_sgd_does(make):
    problem = make(loss="non_saturating")
    torchs = [lambda p: torch.optim.SGD(p, lr=0.1), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)]
    trace = problem.train(20, optimizer=(gi.SGD(0.1), Momentum(0.05)))
    assert relative_error(trace.theta(), torch_training(problem, torchs, 20)) < 1e-13
    trace = problem.train(20, optimizer=Momentum(0.05))
    assert relative_error(trace.theta(), torch_training(problem, [torchs[1]] * 2, 20)) < 1e-13


@each_game
@each_optimizer
def test_training_equals_the_hand_written_loop(make, optimizer):
    problem = make()
    trace = problem.train(9, optimizer=optimizer)
    expected = torch.stack([theta.detach() for theta in unrolled(problem, problem.ones, 9, optimizer)])
    assert trace.states.shape[1] == 2
    assert relative_error(trace.states[:, 0], expected) < 1e-12


@each_game
@each_optimizer
def test_itd_through_any_optimiser_equals_gradient_of_unrolled_training(make, optimizer):
    problem = make()
    trace = problem.train(9, optimizer=optimizer)
    assert relative_error(gi.itd(trace, problem.metric()), unrolled_scores(problem, 9, optimizer)) < 1e-11


@each_optimizer
def test_several_stops_through_any_optimiser(optimizer):
    problem = mlp()
    together = gi.itd(problem.train(9, optimizer=optimizer), problem.metric(), at=[4, 9])
    for scores, stop in zip(together, [4, 9], strict=True):
        assert relative_error(scores, unrolled_scores(problem, stop, optimizer)) < 1e-11


@each_optimizer
def test_counterfactuals_carry_the_buffers(optimizer):
    problem = lqgan()
    trace, metric = problem.train(9, optimizer=optimizer), problem.metric()
    for last in (None, 5):
        truth = gi.counterfactual(trace, metric, [[3], [4, 5]], last=last)
        alone = [metric(gi.retrain(trace, removed, last=last)) - metric(trace) for removed in ([3], [4, 5])]
        torch.testing.assert_close(truth, torch.stack(alone), rtol=0, atol=1e-12)


def test_the_examples_follow_the_protocol():
    for optimizer in (gi.SGD(0.1), Momentum(0.1), Adaptive(0.1)):
        assert isinstance(optimizer, Optimizer)


class Overflowing:
    """Its buffer overflows at the second step, its parameters never do."""

    buffers = 1
    lr = 0.1

    def update(self, step, state, gradient):
        buffer = 1e200 * (1 + state[..., 1, :])
        return torch.stack([state[..., 0, :] - self.lr * gradient / (1 + buffer), buffer], dim=-2)


def test_an_overflowing_buffer_is_not_blamed_on_the_parameters():
    with pytest.raises(gi.DivergenceError, match=r"step 1: the generator's optimiser state"):
        lqgan().train(5, optimizer=Overflowing())


@dataclasses.dataclass(frozen=True)
class ClippedByNorm:
    """Gradient descent along a gradient whose norm is at most 1e-2."""

    lr: float
    buffers: int = 0

    def update(self, step, state, gradient):
        norm = gradient.norm(dim=-1, keepdim=True)
        return state - self.lr * (gradient * (1e-2 / norm).clamp(max=1)).unsqueeze(-2)


@pytest.mark.bits
@pytest.mark.parametrize("order", ORDERS)
def test_an_optimiser_that_serves_both_players_sees_one_at_a_time(order):
    problem = mlp()
    together = problem.train(20, optimizer=ClippedByNorm(0.5), update=order)
    apart = problem.train(20, optimizer=(ClippedByNorm(0.5), ClippedByNorm(0.5)), update=order)
    assert same_bits(together.states, apart.states)


def test_clipping_by_norm_clips_each_player_by_its_own():
    problem = mlp()
    trace = problem.train(1, optimizer=ClippedByNorm(0.5))
    for before, after in zip(trace.parameters(0).values(), trace.parameters().values(), strict=True):
        moved = torch.cat([(after[name] - before[name]).flatten() for name in before])
        assert float(moved.norm()) == pytest.approx(0.5 * 1e-2, rel=1e-9)


def test_scores_through_clipping_by_norm_are_minus_the_slope_of_the_metric():
    problem, h = mlp(), 1e-5
    options = {"optimizer": ClippedByNorm(0.5), "update": "alternating"}
    scores = gi.itd(problem.train(15, **options), problem.metric())
    for row in (0, 5):
        moved = [torch.ones(14).double().index_fill(0, torch.tensor([row]), 1 + d) for d in (h, -h)]
        ends = [problem.metric()(problem.train(15, weights=weights, **options)) for weights in moved]
        assert float(scores[row]) == pytest.approx(-float(ends[0] - ends[1]) / (2 * h), rel=1e-6)
