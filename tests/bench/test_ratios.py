"""What the benchmark compares is right: the published approach, and runs taken in their last segment only."""

import math

import pytest
import torch

import gan_influence as gi
from bench import dcgan
from bench.memory import Peak, long_run
from bench.published_approach import PublishedApproach

SMALL = dcgan.Size(2, 8)


@pytest.fixture(scope="module")
def trace():
    return dcgan.trained("cpu", SMALL, 3, dtype=torch.float64)


def test_the_published_approach_gives_the_scores_of_itd(trace):
    latents = torch.ones(2, *dcgan.LATENT, dtype=torch.float64)
    metric = gi.metrics.DiscriminatorLoss(trace.data[:2], latents)
    published = PublishedApproach(trace, dcgan.LR)
    published.check()
    torch.testing.assert_close(published.scores(metric), gi.itd(trace, metric), rtol=1e-9, atol=1e-18)


def test_an_approach_to_another_game_is_refused(trace):
    published = PublishedApproach(trace, dcgan.LR)
    published.discriminator[1] = torch.nn.Tanh()
    with pytest.raises(RuntimeError, match="published approach and ours differ in J"):
        published.check()


@pytest.mark.parametrize("memory", ["full", "checkpoint"])
def test_a_run_taken_in_its_last_segment_only_holds_as_much_as_a_real_one(memory):
    steps = 16
    long, real = long_run(Peak("", SMALL, steps, memory), "cpu"), dcgan.trained("cpu", SMALL, steps, memory)
    kept = [trace.history.kept(0, steps) for trace in (long, real)]
    assert kept[0] == kept[1]
    assert len(kept[0]) == (steps + 1 if memory == "full" else math.isqrt(steps) + 1)
    assert long.history._memory.moving.shape == real.history._memory.moving.shape
    assert not torch.equal(long.theta(), long.theta(0))
    assert gi.itd(long, dcgan.METRIC, last=3).any()
