"""Images that stay uint8 in a run are scaled where a step looks at its batch: the very run of the scaled ones."""

import pytest
import torch
from support.games import normal, same_bits
from torch import nn
from torch.nn.functional import softplus

import gan_influence as gi

N = 12
LEVELS = torch.randint(0, 256, (N, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
IMAGES = gi.datasets.as_images(LEVELS, torch.float64)
LATENTS = normal(4, 6, 3)
R1 = {"masked": gi.penalties.R1(3.0, masked=True), "mean": gi.penalties.R1(3.0)}


class Discriminator(nn.Sequential):
    def forward(self, images):
        return super().forward(gi.datasets.as_images(images, torch.float64))


def players():
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(3, 64), nn.Unflatten(1, (1, 8, 8)), nn.Tanh())
    return generator.double(), Discriminator(nn.Flatten(), nn.Linear(64, 5), nn.Softplus(), nn.Linear(5, 1)).double()


def with_penalty(penalty):
    """Its slope is taken at the scaled rows."""

    def cost(players, batch):
        batch = batch._replace(rows=gi.datasets.as_images(batch.rows, torch.float64))
        generated = players.generator(batch.latents)
        real, fake = players.discriminator(batch.rows)[:, 0], players.discriminator(generated)[:, 0]
        rest = {"discriminator": softplus(fake).mean(), "generator": softplus(-fake).mean()}
        return gi.penalties.added(
            gi.Costs({"discriminator": softplus(-real)}, rest), [penalty], players, batch, generated
        )

    return lambda: gi.Game(players=dict(zip(("generator", "discriminator"), players(), strict=True)), cost=cost)


GAMES = {
    "short-form": lambda: gi.Game(*players(), loss="non_saturating"),
    **{f"R1-{name}": with_penalty(penalty) for name, penalty in R1.items()},
}


@pytest.mark.parametrize("make", GAMES.values(), ids=GAMES)
def test_training_scores_and_truth_are_those_of_the_scaled_images(make):
    def results(data):
        trace = gi.train(make(), data, gi.Minibatches(N, 4, (3,), seed=1), 70, gi.Adam(0.01), update="alternating")
        metric = gi.metrics.FrechetDistance(nn.AvgPool2d(4), data, LATENTS)
        return trace, (
            trace.theta(),
            gi.itd(trace, metric),
            gi.aid(trace, metric, terms=5),
            gi.counterfactual(trace, metric, [[0], [3, 4]]),
        )

    of_levels, of_images = results(LEVELS), results(IMAGES)
    assert of_levels[0].data.dtype == torch.uint8
    assert same_bits(of_levels[1], of_images[1])


def test_a_slope_at_levels_is_refused():
    game = gi.Game(*players(), loss="non_saturating", penalties=[R1["mean"]])
    with pytest.raises(TypeError, match=r"a slope needs floating-point rows, but these hold none"):
        gi.train(game, LEVELS, gi.FullBatch(LATENTS), 1, gi.SGD(0.1))


def test_levels_that_the_discriminator_does_not_scale_are_refused():
    generator, discriminator = players()
    game = gi.Game(generator, nn.Sequential(*discriminator), loss="non_saturating")
    with pytest.raises(ValueError, match="the discriminator does not accept rows"):
        gi.train(game, LEVELS, gi.FullBatch(LATENTS), 1, gi.SGD(0.1))
