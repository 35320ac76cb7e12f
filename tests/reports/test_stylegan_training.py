"""StyleGAN's fine-tuning: mixing, noise, R1, Adam, the averaged generator and adapters, all differentiated."""

from functools import lru_cache

import pytest
import torch
from support.games import relative_error, textbook_adam
from support.unrolled import measured, squared_slopes, unrolled
from torch.nn.functional import softplus

import gan_influence as gi
from reports.parts import stylegan
from reports.parts.stylegan import StyleGANCost

N, BATCH, STEPS = 10, 4, 14  # three batches of an epoch, the last of two rows; five epochs all but one step
LEVELS = torch.randint(0, 256, (N, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
IMAGES = LEVELS.double() / 127.5 - 1
DECAY, LR, EPS = 0.9, 2e-3, 1e-8
MODELS = {"stylegan": gi.models.stylegan, "stylegan2": gi.models.stylegan2}
each_model = pytest.mark.parametrize("model", MODELS)
COSTS = {
    "retraining-of-the-code": ("kept", "mean"),
    "influence-of-the-code": ("batch", "none"),
    "paper": ("batch", "masked"),
    "kept-and-masked": ("kept", "masked"),
}


def players(model):
    """Noise weights other than 0, so that noise matters."""
    pair = MODELS[model](8, style_size=4, mapping_layers=1, channels=3, dtype=torch.float64, seed=1)
    for name, parameter in pair[0].named_parameters():
        if "noise" in name:
            parameter.data.fill_(0.5)
    return dict(zip(("discriminator", "generator"), reversed(stylegan.adapted(*pair, rank=2, seed=3)), strict=True))


def schedule(model):
    draw = gi.models.style_latents(players(model)["generator"], 0.9)
    return gi.Minibatches(N, BATCH, latents=draw, noise=draw, seed=4)


@lru_cache
def trace_of(model, cost, weights=None, steps=STEPS):
    modules = players(model)
    game = stylegan.game_of(modules["generator"], modules["discriminator"], StyleGANCost(*COSTS[cost]))
    return gi.train(
        game,
        LEVELS,
        schedule(model),
        steps,
        gi.Adam(LR, betas=(0.0, 0.99), eps=EPS),
        update="alternating",
        ema_decay={"generator": DECAY},
        weights=None if weights is None else torch.tensor(weights).double(),
    )


@lru_cache
def latents_of(model):
    return stylegan.evaluation_latents(players(model)["generator"], 6, seed=5)


def metric_of(model):
    latents = latents_of(model)
    return lambda players: players.generator(latents).square().mean()


def plain_cost(denominator, penalty, weights):
    """The cost once more, with R1 by a second graph; rows bring along which they are."""

    def cost(players, batch):
        rows, rest = {}, {}
        if "discriminator" in players.moving:
            images, which = batch.rows
            own = weights[which]
            real = softplus(-players.discriminator(images)[:, 0])
            fake = softplus(players.discriminator(players.generator(batch.latents))[:, 0]).mean()
            slopes = 5 * squared_slopes(players, images)
            paid = {"mean": real, "masked": real + slopes, "none": real}[penalty]
            rest["discriminator"] = fake + (slopes.mean() if penalty == "mean" else 0)
            n = own.sum() if denominator == "kept" else len(own)
            rows["discriminator"] = paid * len(own) / n
        if "generator" in players.moving:
            rest["generator"] = softplus(-players.discriminator(players.generator(batch.noise))[:, 0]).mean()
        return rows, rest

    return cost


def unrolled_scores(model, cost):
    modules = players(model)
    weights = torch.ones(N, dtype=torch.float64, requires_grad=True)
    end = unrolled(
        modules,
        plain_cost(*COSTS[cost], weights),
        (IMAGES, torch.arange(N)),
        schedule(model),
        STEPS,
        dict.fromkeys(modules, textbook_adam(LR, (0.0, 0.99), EPS)),
        [[["discriminator"], ["generator"]]],
        weights,
        decay={"generator": DECAY},
    )
    value = measured(metric_of(model), modules, end.seen, end.buffers)
    return -torch.autograd.grad(value, weights)[0]


@each_model
@pytest.mark.parametrize("cost", COSTS)
def test_itd_equals_unrolled_training(model, cost):
    found, expected = gi.itd(trace_of(model, cost), metric_of(model)), unrolled_scores(model, cost)
    assert relative_error(found, expected) < 1e-9
    assert (expected != 0).all()


@each_model
def test_itd_of_recorded_steps_equals_unrolled_training(model, monkeypatch):
    monkeypatch.setattr("gan_influence.replay.recorded._EAGER_CALLS", 2)
    trace_of.cache_clear()
    cost = "retraining-of-the-code"
    assert relative_error(gi.itd(trace_of(model, cost), metric_of(model)), unrolled_scores(model, cost)) < 1e-9
    trace_of.cache_clear()
