"""No number depends on where it is asked for: under inference_mode, under autocast, in several threads at once."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from support.games import GAMES, minibatch_mlp, mlp, normal, same_bits
from torch import nn

import gan_influence as gi


def everything(make=mlp, memory="full", steps=20):
    """A run and all that can be asked of it."""
    problem = make()
    trace, metric = problem.train(steps, memory=memory), problem.metric()
    scores = gi.itd(trace, metric), gi.aid(trace, metric, terms=5), gi.itd(trace, metric, at=[5, steps]).flatten()
    truth = gi.counterfactual(trace, metric, [[0], [3, 4]]), gi.retrain(trace, [3]).theta()
    return torch.cat([trace.theta(), *scores, *truth, gi.validate(trace, metric, scores[0]).truth, metric(trace)[None]])


SURROUNDINGS = {
    "inference": torch.inference_mode,
    "no-grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.mark.bits
@pytest.mark.parametrize("surroundings", SURROUNDINGS.values(), ids=SURROUNDINGS)
@pytest.mark.parametrize("make", [*GAMES.values(), minibatch_mlp])
def test_no_number_depends_on_what_surrounds_the_call(surroundings, make):
    expected = everything(make)
    with surroundings():
        found = everything(make)
    assert same_bits(found.clone(), expected)


@pytest.mark.bits
def test_a_run_in_single_precision_is_not_cast_further():
    def run():
        game = gi.Game(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)))
        torch.manual_seed(0)
        for parameter in (*game.generator.module.parameters(), *game.discriminator.module.parameters()):
            parameter.data = torch.randn(parameter.shape)
        trace = gi.train(game, normal(0, 14, 2).float(), gi.FullBatch(normal(1, 9, 2).float()), 100, gi.SGD(0.1))
        metric = gi.metrics.AverageLogLikelihood(normal(2, 9, 2).float(), normal(3, 9, 2).float())
        return torch.cat([trace.theta(), gi.itd(trace, metric), metric(trace)[None]])

    expected = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same_bits(run(), expected)


def test_what_was_made_under_inference_mode_can_be_trained_and_scored():
    with torch.inference_mode():
        problem = mlp()
        schedule = gi.FullBatch(problem.schedule(0).latents.clone())
        metric, game, data = problem.metric(), problem.game(), problem.data.clone()
    trace = gi.train(game, data, schedule, 5, gi.SGD(0.1))
    expected = mlp().train(5)
    assert same_bits(gi.itd(trace, metric), gi.itd(expected, mlp().metric()))


def test_a_schedule_may_be_asked_under_inference_mode():
    problem = minibatch_mlp()
    trace = problem.train(5, memory=gi.Checkpoint(every=2))
    with torch.inference_mode():
        inside = trace.state(3).clone()
    assert same_bits(inside, problem.train(5).state(3))
    assert gi.itd(trace, problem.metric()).isfinite().all()  # what was replayed there serves here


def in_threads(function, arguments):
    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(function, arguments))


@pytest.mark.bits
def test_threads_that_score_one_run_get_the_scores_of_one_thread():
    problem = minibatch_mlp()
    metrics = [gi.metrics.AverageLogLikelihood(problem.reference + k, problem.fresh) for k in range(4)]
    expected = [gi.itd(problem.train(70), metric) for metric in metrics]
    trace = problem.train(70)
    for found, alone in zip(in_threads(lambda metric: gi.itd(trace, metric), metrics), expected, strict=True):
        assert same_bits(found, alone)


@pytest.mark.bits
def test_threads_may_ask_for_different_things_of_one_run():
    problem = mlp()
    metric = problem.metric()
    questions = [
        lambda trace: gi.itd(trace, metric),
        lambda trace: gi.counterfactual(trace, metric, [[0], [1]]),
        lambda trace: gi.retrain(trace, [3]).theta(),
        lambda trace: torch.stack([trace.players().generate(problem.fresh) for _ in range(50)]),
    ]
    expected = [question(problem.train(70)) for question in questions]
    trace = problem.train(70)
    for found, alone in zip(in_threads(lambda question: question(trace), questions), expected, strict=True):
        assert same_bits(found, alone)


@pytest.mark.bits
def test_threads_may_replay_different_segments():
    problem = minibatch_mlp()
    every, kept = problem.train(60), problem.train(60, memory="checkpoint")
    steps = [3, 17, 31, 59]
    for step, state in zip(steps, in_threads(lambda step: kept.state(step).clone(), steps), strict=True):
        assert same_bits(state, every.state(step))


@pytest.mark.bits
def test_threads_may_train_at_once():
    expected = everything(steps=70)
    for found in in_threads(lambda _: everything(steps=70), range(3)):
        assert same_bits(found, expected)
