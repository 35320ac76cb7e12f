"""The same numbers on a CUDA device."""

import gc

import pytest
import torch
from support.games import GAMES, EpochBatches, lqgan, relative_error, unrolled_scores

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


def test_captured_steps_keep_their_constants(cuda):
    """Of AID on full batches, which has hundreds, and of an average's 1 - decay: what else is allocated comes after."""
    problem = lqgan(rates=(0.02, 0.02), l2=(0.5, 0.5))
    there, here = (problem.train(100, ema_decay=0.9, device=device) for device in (cuda, "cpu"))
    gc.collect()
    clutter = [torch.full((k,), 1e9, dtype=torch.float64, device=cuda) for k in range(1, 200) for _ in range(20)]
    for score in (gi.itd, lambda *of: gi.aid(*of, terms=200), lambda *of: gi.counterfactual(*of, [[1]])):
        scores = score(there, problem.metric()).cpu()
        assert relative_error(scores, score(here, problem.metric())) < 1e-9
    del clutter


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


def dcgan_run(device, steps=6, dtype=torch.float64, **options):
    generator, discriminator = gi.models.dcgan(3, 8, colours=1, seed=0)
    game = gi.Game(generator.to(dtype), discriminator.to(dtype), loss="non_saturating", l2=(1e-3, 1e-3))
    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=dtype) * 2 - 1
    schedule = gi.Minibatches(40, 10, (32,), seed=0)
    return gi.train(game, images, schedule, steps, gi.SGD(0.05), device=device, **options)


def image_metrics(dtype=torch.float64):
    latents = torch.randn(60, 32, generator=torch.Generator().manual_seed(2), dtype=dtype)
    reference = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=dtype) * 2 - 1
    classifier = gi.models.classifier(8, hidden=12, dtype=dtype, seed=0)
    inception = gi.metrics.InceptionScore(classifier, latents, least_accuracy=0.0)
    return inception, gi.metrics.FrechetDistance(classifier, reference, latents)


def test_image_scores_equal_those_of_the_cpu(cuda):
    here, there = dcgan_run("cpu"), dcgan_run(cuda)
    for metric in image_metrics():
        for score in (
            gi.itd,
            lambda *of: gi.itd(*of, at=[2, 6], damping=0.1),
            lambda *of: gi.aid(*of, terms=[2, 10], damping=0.1),
            lambda *of: gi.counterfactual(*of, [[1], [2, 3]]),
        ):
            assert relative_error(score(there, metric).cpu(), score(here, metric)) < 1e-7


@pytest.mark.parametrize("keep_graphs", [False, True])
def test_steps_captured_as_cuda_graphs_give_the_bits_of_the_others(cuda, monkeypatch, keep_graphs):
    """No warning either: one is an error here."""
    memory = gi.Checkpoint(keep_graphs=keep_graphs)

    def run(eager_calls):
        monkeypatch.setattr("gan_influence.replay.recorded._EAGER_CALLS", eager_calls)
        trace = dcgan_run(cuda, 30, torch.float32, memory=memory)
        metrics = image_metrics(torch.float32)
        truth = gi.counterfactual(trace, metrics, [[1], [2]], last=20)
        return trace.state().moving, *(gi.itd(trace, metric) for metric in metrics), truth

    captured, eager = run(3), run(10**9)
    assert all(torch.equal(one, other) for one, other in zip(captured, eager, strict=True))


def test_convolutions_are_in_full_float32(cuda):
    generator, _ = gi.models.dcgan(8, 28, seed=0)
    trace = gi.train(
        gi.Game(*gi.models.dcgan(8, 28, seed=0)),
        torch.zeros(2, 1, 28, 28),
        gi.FullBatch(torch.zeros(2, 32)),
        0,
        gi.SGD(0.1),
        device=cuda,
    )
    latents = torch.randn(20, 32, generator=torch.Generator().manual_seed(0))
    exact = generator.double()(latents.double())
    assert (trace.players().generate(latents).cpu() - exact).abs().max() < 1e-5


def test_removals_in_parts_equal_removals_at_once(cuda):
    trace = dcgan_run(cuda, 3)
    metric, _ = image_metrics()
    whole = gi.counterfactual(trace, metric, [[k] for k in range(6)])
    parts = gi.counterfactual(trace, metric, [[k] for k in range(6)], chunk=2)
    assert relative_error(parts.cpu(), whole.cpu()) < 1e-7
