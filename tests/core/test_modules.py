"""What counts as a player's parameters, and what training leaves alone."""

import copy

import pytest
import torch
from support.games import Problem, lqgan, mlp, normal, relative_error, same_bits, unrolled_scores
from torch import nn

import gan_influence as gi


def with_frozen_first_layer(problem: Problem) -> Problem:
    generator, discriminator = copy.deepcopy((problem.generator, problem.discriminator))
    constants = [p.detach().reshape(-1) for p in generator[0].parameters()]
    generator[0].requires_grad_(False)
    return problem.but(
        generator=generator,
        discriminator=discriminator,
        generate=lambda phi, z: problem.generate(torch.cat([*constants, phi]), z),
    )


class Trainable(Problem):
    """A problem whose hand-written theta holds the trainable parameters alone."""

    @property
    def sizes(self):
        return [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (self.generator, self.discriminator)]

    def start(self):
        trained = [p for m in (self.generator, self.discriminator) for p in m.parameters() if p.requires_grad]
        return torch.cat([p.detach().reshape(-1) for p in trained])


def test_frozen_parameters_are_constants():
    problem = Trainable(**vars(with_frozen_first_layer(mlp())))
    trace = problem.train(8)
    assert list(trace.parameters()["generator"]) == ["2.weight", "2.bias"]
    assert relative_error(gi.itd(trace, problem.metric()), unrolled_scores(problem, 8)) < 1e-12


class Shifted(nn.Module):
    """A generator whose shift is a buffer and whose scale is trained."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.register_buffer("shift", torch.tensor(-0.3, dtype=torch.float64))

    def forward(self, latents):
        return self.scale * latents + self.shift


def test_buffers_are_constants():
    problem = Trainable(**vars(lqgan(generator=Shifted(), generate=lambda phi, z: phi[0] * z - 0.3)))
    trace = problem.train(8)
    assert list(trace.parameters()["generator"]) == ["scale"]
    assert relative_error(gi.itd(trace, problem.metric()), unrolled_scores(problem, 8)) < 1e-12


def test_a_parameter_that_one_player_uses_twice_is_one_parameter():
    layer = nn.Linear(1, 1).double()
    generator = nn.Sequential(layer, nn.Tanh(), layer)
    problem = lqgan(generator=generator, generate=lambda phi, z: phi[0] * torch.tanh(phi[0] * z + phi[1]) + phi[1])
    trace = problem.train(8)
    assert trace.game.size == 4
    assert relative_error(gi.itd(trace, problem.metric()), unrolled_scores(problem, 8)) < 1e-12


def test_one_player_alone_can_be_trained():
    problem = lqgan()
    frozen = copy.deepcopy(problem.generator).requires_grad_(False)
    game = gi.Game(frozen, problem.discriminator)

    class LossOfRows:
        def value(self, players):
            return torch.nn.functional.softplus(-players.discriminate(problem.reference)).mean()

    trace = gi.train(game, problem.data, problem.schedule, 10, gi.SGD(0.1))
    scores, truth = gi.itd(trace, LossOfRows()), gi.counterfactual(trace, LossOfRows(), [[j] for j in range(24)])
    assert list(trace.parameters()) == ["generator", "discriminator"]
    assert trace.parameters()["generator"] == {}
    assert relative_error(scores, truth) < 0.2


def test_training_leaves_the_modules_untouched():
    problem = mlp()
    before = copy.deepcopy((problem.generator.state_dict(), problem.discriminator.state_dict()))
    trace = problem.train(5)
    gi.counterfactual(trace, problem.metric(), [[1]])
    gi.itd(trace, problem.metric())
    for module, state in zip((problem.generator, problem.discriminator), before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
        assert all(p.grad is None and p.requires_grad for p in module.parameters())


def test_later_changes_to_the_modules_do_not_reach_the_trace():
    problem = with_frozen_first_layer(mlp())
    trace = problem.train(5)
    before = gi.itd(trace, problem.metric())
    with torch.no_grad():
        for parameter in problem.generator.parameters():
            parameter.fill_(7.0)
    assert same_bits(gi.itd(trace, problem.metric()), before)


def test_later_changes_to_data_and_latents_do_not_reach_the_trace():
    problem = lqgan()
    data, latents = problem.data.clone(), problem.schedule(0).latents.clone()
    trace = gi.train(problem.game(), data, gi.FullBatch(latents), 5, gi.SGD(0.1))
    before = gi.itd(trace, problem.metric())
    data.mul_(3)
    latents.mul_(3)
    assert same_bits(gi.itd(trace, problem.metric()), before)


def test_training_starts_from_the_modules_current_parameters():
    problem = lqgan(generator=gi.models.lqgan(seed=0)[0])
    game = problem.game()
    with torch.no_grad():
        problem.generator.shift.fill_(2.5)
    trace = gi.train(game, problem.data, problem.schedule, 1, gi.SGD(0.1))
    assert trace.parameters(0)["generator"]["shift"] == 2.5


def test_batch_norm_with_running_statistics_is_a_module_like_any_other():
    torch.manual_seed(0)
    discriminator = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 1)).double()
    discriminator[1].running_mean.copy_(normal(0, 3))
    discriminator.eval()
    problem = mlp()
    game = gi.Game(problem.generator, discriminator)
    trace = gi.train(game, problem.data, problem.schedule, 30, gi.SGD(0.1))
    truth = gi.counterfactual(trace, problem.metric(), [[j] for j in range(len(problem.data))])
    assert relative_error(gi.itd(trace, problem.metric()), truth) < 0.2


def test_a_linear_layer_is_trained_on_any_instance_shape():
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(2, 6), nn.Unflatten(1, (2, 3))).double()
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0)).double()
    data = normal(1, 8, 2, 3)
    trace = gi.train(gi.Game(generator, discriminator), data, gi.FullBatch(normal(2, 5, 2)), 20, gi.SGD(0.1))
    metric = gi.metrics.AverageLogLikelihood(normal(3, 6, 2, 3), normal(4, 7, 2))
    truth = gi.counterfactual(trace, metric, [[j] for j in range(8)])
    assert relative_error(gi.itd(trace, metric), truth) < 0.2


def test_noise_of_the_generators_own_is_rejected():
    generator = nn.Sequential(nn.Linear(1, 1), nn.RReLU()).double()
    problem = lqgan(generator=generator)
    with pytest.raises(ValueError, match=r"generator.*random"):
        problem.train(2)
