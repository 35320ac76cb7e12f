"""What cannot be replayed, or names rows that are not there, is refused before or as it is met."""

import pickle

import pytest
import torch
from support.games import lqgan, normal
from torch import nn

import gan_influence as gi


class Batches:
    """The same rows at every step."""

    def __init__(self, indices):
        self.indices = torch.tensor(indices, dtype=torch.long)

    def __call__(self, t):
        return gi.Batch(self.indices, normal(t, max(len(self.indices), 1), 1))


@pytest.mark.parametrize("indices", [[], [-1, 0], [0, 99]])
def test_a_batch_names_rows_that_are_there(indices):
    problem = lqgan()
    with pytest.raises(IndexError, match=r"batch of step 0 must name rows from 0 to \d+, at least one"):
        gi.train(problem.game(), problem.data, Batches(indices), 2, gi.SGD(0.1))


def test_what_a_module_counts_in_a_buffer_is_a_part_of_the_state():
    """Each step calls the discriminator twice, on rows and on what is generated, and nobody else does."""

    class Counting(nn.Linear):
        def forward(self, rows):
            self.calls.add_(1)
            return super().forward(rows)

    discriminator = Counting(1, 1).double()
    discriminator.register_buffer("calls", torch.zeros(()))
    trace = lqgan(discriminator=discriminator).train(100)
    assert [int(trace.held(t)["discriminator.calls"]) for t in (0, 1, 70, 100)] == [0, 2, 140, 200]
    assert int(trace.module("discriminator").calls) == 200
    assert int(discriminator.calls) == 0
    assert [int(gi.retrain(trace, [3], last=30).held()["discriminator.calls"])] == [200]


def test_a_schedule_is_callable_and_a_game_is_a_game():
    problem = lqgan()
    with pytest.raises(TypeError, match=r"schedule must give the batch of step t .* got Tensor"):
        gi.train(problem.game(), problem.data, normal(0, 5, 1), 2, gi.SGD(0.1))
    with pytest.raises(TypeError, match=r"game must be a Game\(generator, discriminator, loss=...\), got NoneType"):
        gi.train(None, normal(0, 5, 1), gi.FullBatch(normal(1, 5, 1)), 1, gi.SGD(0.1))


def test_a_trace_survives_pickling_with_its_scores():
    problem = lqgan()
    trace, metric = problem.train(5), problem.metric()
    copy = pickle.loads(pickle.dumps(trace))
    assert torch.equal(gi.itd(copy, metric), gi.itd(trace, metric))


def test_the_metric_has_its_own_copy_of_its_latents():
    reference, latents = normal(0, 6, 1), normal(1, 7, 1)
    problem = lqgan()
    trace = problem.train(2)
    metric = gi.metrics.AverageLogLikelihood(reference, latents)
    before = metric(trace)
    latents.zero_()
    assert metric(trace) == before


def test_a_metric_of_another_data_type_is_refused():
    trace = lqgan().train(2)
    with pytest.raises(TypeError, match=r"reference is torch.float32, but latents are torch.float64"):
        gi.metrics.AverageLogLikelihood(torch.zeros(3, 1), normal(0, 3, 1))
    single = gi.metrics.AverageLogLikelihood(torch.zeros(3, 1), torch.zeros(3, 1))
    with pytest.raises(
        TypeError, match=r"parameters are torch.float64, but the metric's .* are torch.float32: convert"
    ):
        single(trace)


def test_removals_as_a_flat_array_are_refused():
    problem = lqgan()
    with pytest.raises(TypeError, match=r"list of lists of row indices, got an array of shape \(2,\)"):
        gi.counterfactual(problem.train(2), problem.metric(), torch.tensor([1, 2]))
