"""The same numbers on a CUDA device."""

import pytest
import torch
from games import GAMES, EpochBatches, lqgan, relative_error, unrolled_scores

import gan_influence as gi

pytestmark = pytest.mark.gpu
each_game = pytest.mark.parametrize("make", GAMES.values(), ids=GAMES)


@each_game
def test_scores_equal_those_of_the_cpu(make, cuda):
    problem = make(l2=(0.3, 0.2))
    here, there = problem.train(20), problem.train(20, device=cuda)
    assert there.states.is_cuda
    for score in (
        gi.itd,
        lambda *of: gi.itd(*of, at=[5, 20]),
        lambda *of: gi.aid(*of, terms=[2, 10]),
        lambda *of: gi.aid(*of, solver="gmres"),
        lambda *of: gi.counterfactual(*of, [[1], [2, 3]]),
    ):
        scores = score(there, problem.metric())
        assert scores.is_cuda
        assert relative_error(scores.cpu(), score(here, problem.metric())) < 1e-9


@each_game
def test_itd_equals_gradient_of_unrolled_training(make, cuda):
    problem = make()
    problem = problem.but(schedule=EpochBatches(len(problem.data), 5, problem.schedule(0).latents.shape[1:], seed=3))
    scores = gi.itd(problem.train(8, device=cuda), problem.metric())
    assert relative_error(scores.cpu(), unrolled_scores(problem, 8)) < 1e-11


@each_game
def test_same_seed_same_bits_past_the_recorded_step(make, cuda):
    def run():
        problem = make(rates=(0.02, 0.02))
        trace = problem.train(100, device=cuda)
        return trace.states, gi.itd(trace, problem.metric()), gi.counterfactual(trace, problem.metric(), [[1]])

    assert all(torch.equal(one, other) for one, other in zip(run(), run(), strict=True))


def test_modules_and_data_may_already_be_there(cuda):
    problem = lqgan()
    players = [module.to(cuda) for module in (problem.generator, problem.discriminator)]
    game = gi.Game(*players)
    trace = gi.train(game, problem.data.to(cuda), problem.schedule, 5, gi.SGD(0.1))
    assert relative_error(gi.itd(trace, problem.metric()).cpu(), gi.itd(lqgan().train(5), problem.metric())) < 1e-9


def test_a_player_without_parameters_can_be_there(cuda):
    problem = lqgan()
    game = gi.Game(problem.generator.requires_grad_(False).to(cuda), problem.discriminator.to(cuda))
    trace = gi.train(game, problem.data.to(cuda), problem.schedule, 5, gi.SGD(0.1))
    assert trace.parameters()["discriminator"]["linear"].is_cuda
