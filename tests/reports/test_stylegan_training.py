"""StyleGAN's fine-tuning: mixing, noise, R1, Adam, the averaged generator and adapters, all differentiated."""

from functools import lru_cache, partial
from types import SimpleNamespace

import pytest
import torch
from support.games import relative_error, textbook_adam
from support.unrolled import batch_at, field, measured, squared_slopes, unrolled
from torch.nn.functional import softplus

import gan_influence as gi
from reports.shared import stylegan
from reports.shared.stylegan import StyleGANCost

CODE, INFLUENCE = "retraining-of-the-code", StyleGANCost("batch", "none")
N, BATCH, STEPS = 8, 4, 8  # four epochs
LEVELS = torch.randint(0, 256, (N, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
IMAGES = LEVELS.double() / 127.5 - 1
DECAY, LR, EPS = 0.9, 2e-3, 1e-8
MODELS = {"stylegan": gi.models.stylegan, "stylegan2": gi.models.stylegan2}
each_model = pytest.mark.parametrize("model", MODELS)
GROUPS = "stylegan2 in groups"
MAKERS = {**MODELS, GROUPS: partial(gi.models.stylegan2, stddev="group")}
COSTS = {
    "retraining-of-the-code": ("kept", "mean"),
    "influence-of-the-code": ("batch", "none"),
    "paper": ("batch", "masked"),
    "kept-and-masked": ("kept", "masked"),
}


def players(model):
    """Noise weights other than 0, so that noise matters."""
    pair = MAKERS[model](8, style_size=4, mapping_layers=1, channels=3, dtype=torch.float64, seed=1)
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
    pays = StyleGANCost(*COSTS[cost], companions=model == GROUPS)
    game = stylegan.game_of(modules["generator"], modules["discriminator"], pays)
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


def plain_cost(denominator, penalty, weights, companions=False):
    """The cost once more, with R1 by a second graph; rows bring along which they are."""

    def cost(players, batch):
        rows, rest = {}, {}
        if "discriminator" in players.moving:
            images, which = batch.rows
            own = weights[which]
            made = players.generator(batch.latents)
            beside = (made,) if companions else ()
            judging = SimpleNamespace(discriminator=lambda images: players.discriminator(images, *beside))
            real = softplus(-judging.discriminator(images)[:, 0])
            fake = softplus(players.discriminator(made)[:, 0]).mean()
            slopes = 5 * squared_slopes(judging, images)
            paid = {"mean": real, "masked": real + slopes, "none": real}[penalty]
            rest["discriminator"] = fake + (slopes.mean() if penalty == "mean" else 0)
            n = own.sum() if denominator == "kept" else len(own)
            rows["discriminator"] = paid * len(own) / n if n > 0 else 0 * paid
        if "generator" in players.moving:
            rest["generator"] = softplus(-players.discriminator(players.generator(batch.noise))[:, 0]).mean()
        return rows, rest

    return cost


def run_in_plain_torch(model, cost, weights):
    modules = players(model)
    return unrolled(
        modules,
        plain_cost(*COSTS[cost], weights, companions=model == GROUPS),
        (IMAGES, torch.arange(N)),
        schedule(model),
        STEPS,
        dict.fromkeys(modules, textbook_adam(LR, (0.0, 0.99), EPS)),
        [[["discriminator"], ["generator"]]],
        weights,
        decay={"generator": DECAY},
    )


def unrolled_scores(model, cost):
    weights = torch.ones(N, dtype=torch.float64, requires_grad=True)
    end = run_in_plain_torch(model, cost, weights)
    value = measured(metric_of(model), players(model), end.seen, end.buffers)
    return -torch.autograd.grad(value, weights)[0]


@pytest.mark.parametrize(
    ("model", "cost"), [*(("stylegan", cost) for cost in COSTS), ("stylegan2", CODE), (GROUPS, CODE)]
)
def test_itd_equals_unrolled_training(model, cost):
    found, expected = gi.itd(trace_of(model, cost), metric_of(model)), unrolled_scores(model, cost)
    assert relative_error(found, expected) < 1e-9
    assert (expected != 0).all()


def test_a_removal_beside_companions_is_retraining_without_the_row():
    trace, metric = trace_of(GROUPS, CODE), metric_of(GROUPS)
    together = gi.counterfactual(trace, metric, [[1], [2, 6]])
    alone = torch.stack([gi.measure(metric, gi.retrain(trace, rows)) for rows in ([1], [2, 6])])
    assert relative_error(together, alone - gi.measure(metric, trace)) < 1e-9


def test_groups_that_would_mix_real_rows_are_refused():
    modules = players(GROUPS)
    with pytest.raises(ValueError, match=r"real rows would mix .* StyleGANCost\(companions=True\), or take stddev='co"):
        stylegan.game_of(modules["generator"], modules["discriminator"])
    modules = players("stylegan")
    with pytest.raises(ValueError, match="is for a discriminator of StyleGAN2 with stddev='group'"):
        stylegan.game_of(modules["generator"], modules["discriminator"], StyleGANCost(companions=True))


def test_itd_of_recorded_steps_equals_unrolled_training(monkeypatch):
    monkeypatch.setattr("gan_influence.replay.recorded._EAGER_CALLS", 2)
    trace_of.cache_clear()
    found = gi.itd(trace_of("stylegan", CODE), metric_of("stylegan"))
    trace_of.cache_clear()
    assert relative_error(found, unrolled_scores("stylegan", CODE)) < 1e-9


@each_model
def test_a_batch_without_its_rows_trains_the_discriminator_by_the_rest_alone(model):
    """The published code divides 0 by 0 there."""
    removed = schedule(model)(1).indices.tolist()
    found = gi.retrain(trace_of(model, CODE), removed)
    weights = torch.ones(N, dtype=torch.float64)
    weights[removed] = 0
    expected = run_in_plain_torch(model, CODE, weights).at
    assert relative_error(found.theta(), torch.cat([expected["discriminator"], expected["generator"]])) < 1e-12


@each_model
@pytest.mark.parametrize(("scale", "last"), [(1e-3, None), (1e-2, 3)], ids=["all", "last-steps"])
def test_the_shortcut_is_the_published_recursion(model, scale, last):
    found = stylegan.shortcut(trace_of(model, CODE), metric_of(model), INFLUENCE, scale=scale, last=last)
    assert relative_error(scale * found, published_recursion(model, scale, last or STEPS)) < 1e-10


def published_recursion(model, s, last):
    """``u_G += .1 x .9^k grad E``, ``(u_G, u_D) += s J'u_G``, ``+= s J'u_D``, ``infl -= s u_D . d step/d mask``."""
    trace, modules = trace_of(model, CODE), players(model)
    sizes = [sum(p.numel() for p in module.parameters() if p.requires_grad) for module in modules.values()]
    end = [dict(zip(modules, row.split(sizes), strict=True)) for row in trace.state().moving]
    average = {name: part.clone().requires_grad_() for name, part in end[3].items()}
    buffers = {name: dict(module.named_buffers()) for name, module in modules.items()}
    value = measured(metric_of(model), modules, average, buffers)
    (slope,) = torch.autograd.grad(value, average["generator"])
    u = {name: torch.zeros(size, dtype=torch.float64) for name, size in zip(modules, sizes, strict=True)}
    scores, draws = torch.zeros(N, dtype=torch.float64), schedule(model)
    for t in reversed(range(STEPS - last, STEPS)):
        here = [dict(zip(modules, row.split(sizes), strict=True)) for row in trace.state(t).moving]
        moved = trace.state(t + 1).moving[0].split(sizes)[0]
        u["generator"] += (1 - DECAY) * DECAY ** (STEPS - 1 - t) * slope
        for name in ("generator", "discriminator"):
            weights = torch.ones(N, dtype=torch.float64, requires_grad=True)
            at = {**here[0], "discriminator": moved if name == "generator" else here[0]["discriminator"]}
            at = {key: part.clone().requires_grad_() for key, part in at.items()}
            drawn = draws(t)
            batch = batch_at(t, (IMAGES, torch.arange(N)), drawn)
            own = weights[drawn.indices]
            g = field(modules, plain_cost("batch", "none", weights), at, buffers, batch, own, [name], {})[name]
            past = end[2]["generator"] if name == "generator" else here[2]["discriminator"]
            v = (0.99 * past + 0.01 * g**2) / (1 - 0.99 ** (t + 1))
            step = -LR * g / (v.sqrt() + EPS)
            inputs = (at["discriminator"], at["generator"], weights)
            of_d, of_g, of_rows = torch.autograd.grad(step, inputs, u[name], materialize_grads=True)
            scores -= s * of_rows
            u["discriminator"], u["generator"] = u["discriminator"] + s * of_d, u["generator"] + s * of_g
    return scores


@each_model
def test_published_aid_is_the_last_term_of_the_published_series(model):
    found = stylegan.published_aid(trace_of(model, CODE), metric_of(model), terms=3, scale=0.3)
    assert relative_error(found, published_last_term(model, 3, 0.3)) < 1e-10


def published_last_term(model, terms, s):
    """``(u_D, u_G) -= s J'u_G``, then ``-= s J'u_D``, at the last D and averaged G; ``infl = s u_D . dg/d mask``."""
    trace, modules = trace_of(model, CODE), players(model)
    sizes = [sum(p.numel() for p in module.parameters() if p.requires_grad) for module in modules.values()]
    end = [dict(zip(modules, row.split(sizes), strict=True)) for row in trace.state().moving]
    at = {"discriminator": end[0]["discriminator"], "generator": end[3]["generator"]}
    at = {name: part.clone().requires_grad_() for name, part in at.items()}
    buffers = {name: dict(module.named_buffers()) for name, module in modules.items()}
    cost = plain_cost("batch", "none", torch.ones(N, dtype=torch.float64))

    def slopes(t, drawn, name):
        weights = torch.ones(BATCH, dtype=torch.float64, requires_grad=True)
        batch = batch_at(t, (IMAGES, torch.arange(N)), drawn)
        return weights, field(modules, cost, at, buffers, batch, weights, [name], {})[name]

    value = measured(metric_of(model), modules, at, buffers)
    u = dict(zip(at, torch.autograd.grad(value, list(at.values()), materialize_grads=True), strict=True))
    for t in range(STEPS, STEPS + terms):
        for name in ("generator", "discriminator"):
            _, slope = slopes(t, schedule(model)(t), name)
            pulled = torch.autograd.grad(slope, list(at.values()), u[name], materialize_grads=True)
            u = {key: own - s * product for (key, own), product in zip(u.items(), pulled, strict=True)}
    scores = torch.zeros(N, dtype=torch.float64)
    for t in range(N // BATCH):  # an epoch: every row once
        drawn = schedule(model)(t)
        weights, slope = slopes(t, drawn, "discriminator")
        scores[drawn.indices] = s * torch.autograd.grad(slope, weights, u["discriminator"])[0]
    return scores


def test_published_aid_that_overflows_says_so():
    with pytest.raises(gi.ConvergenceError, match="the last of 20 terms of the published AID overflowed"):
        stylegan.published_aid(trace_of("stylegan", CODE), metric_of("stylegan"), terms=20, scale=1e30)


@each_model
def test_with_jacobians_of_full_size_the_shortcut_is_itd(model):
    trace, metric = trace_of(model, CODE), metric_of(model)
    metrics = [metric, lambda players: metric(players).sqrt()]
    found = stylegan.shortcut(trace, metrics, StyleGANCost(), moments="exact")
    assert relative_error(found, gi.itd(trace, metrics)) < 1e-12


def test_constant_moments_are_those_of_each_step_and_change_the_scores_a_little():
    trace, metric = trace_of("stylegan", CODE), metric_of("stylegan")
    exact, constant, code = (
        stylegan.shortcut(trace, metric, StyleGANCost(), moments=moments) for moments in ("exact", "constant", "code")
    )
    assert 1e-6 < relative_error(constant, exact) < 1
    assert relative_error(code, constant) > 1e-6


def test_first_order_is_what_the_shortcut_tends_to():
    """The error falls as the scale does."""
    trace, metric = trace_of("stylegan", CODE), metric_of("stylegan")
    limit = stylegan.first_order(trace, metric, INFLUENCE)
    errors = [
        relative_error(stylegan.shortcut(trace, metric, INFLUENCE, scale=scale) / scale, limit) for scale in (0.1, 0.01)
    ]
    assert errors[1] < 0.2
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.3)


def test_aid_as_if_there_were_no_penalty_is_that_of_a_game_without():
    trace, metric = trace_of("stylegan", CODE), metric_of("stylegan")
    modules = {name: trace.module(name) for name in trace.game.players}
    game = stylegan.game_of(modules["generator"], modules["discriminator"], INFLUENCE)
    moved = gi.train(
        game, LEVELS, schedule("stylegan"), STEPS, gi.SGD(1e-30), update="alternating", memory="checkpoint"
    )
    found, expected = (
        gi.aid(run, lambda players: players.discriminator(IMAGES).mean(), terms=3, scale=1e-3)
        for run in (stylegan.as_if(trace, INFLUENCE), moved)
    )
    assert relative_error(found, expected) < 1e-9
    assert relative_error(gi.aid(trace, metric, terms=3, scale=1e-3), gi.aid(moved, metric, terms=3, scale=1e-3)) > 1e-3


def test_adapters_are_where_the_published_code_has_them():
    pair = gi.models.stylegan(128, style_size=4, mapping_layers=1, channels=3)
    generator, discriminator = (
        {name.split(".parametrizations")[0] for name in gi.adapters(player)} for player in stylegan.adapted(*pair, 2)
    )
    blocks = range(6)
    second = {f"blocks.{k}.conv2" for k in blocks}
    styles = {f"blocks.{k}.adain{i}.style" for k in blocks for i in (1, 2)}
    first = {f"blocks.{k}.conv1.0" for k in range(1, 5)}  # 4 begins with a constant, and 128 is fused
    assert generator == second | styles | first | {"to_rgb"}
    halving = {f"blocks.{k}.conv1" for k in range(5)} | {f"blocks.{k}.conv2" for k in range(1, 5)}
    assert discriminator == halving | {"from_rgb", "last.conv1", "last.conv2", "linear"}


def test_the_usual_run_is_the_published_one():
    modules = players("stylegan")
    trace = stylegan.fine_tuned(stylegan.game_of(modules["generator"], modules["discriminator"]), LEVELS, 3)
    batch = trace.batch(0)
    assert len(batch.indices) == 8
    assert {name: float(decay) for name, decay in trace.updates.decays.items()} == {"generator": 0.999}
    assert all(one == gi.Adam(2e-3, betas=(0.0, 0.99), eps=1e-8) for one in trace.updates.optimizers.values())
    assert trace.updates.update == "alternating"
    assert batch.latents["z"].shape == batch.noise["z"].shape == (8, 2, 4)
    assert not torch.equal(batch.latents["z"], batch.noise["z"])


def test_evaluation_draws_are_fixed_and_not_mixed():
    generator = players("stylegan")["generator"]
    one, again, other = (stylegan.evaluation_latents(generator, 5, seed) for seed in (1, 1, 2))
    assert set(one) == {"z", "noise"}
    assert one["z"].shape == (5, 4)
    assert torch.equal(one["noise"][1], again["noise"][1])
    assert not torch.equal(one["z"], other["z"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"denominator": "rows"}, "denominator must be batch or kept, got 'rows'"),
        ({"penalty": "R1"}, "penalty must be mean or masked or none, got 'R1'"),
    ],
)
def test_bad_settings_of_the_cost_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        StyleGANCost(**settings)


@each_model
def test_removals_are_retrained_together_as_each_alone(model):
    trace, metric, removals = trace_of(model, CODE), metric_of(model), [[0], [3, 5]]
    together = gi.counterfactual(trace, metric, removals)
    alone = torch.stack([gi.measure(metric, gi.retrain(trace, rows)) for rows in removals]) - gi.measure(metric, trace)
    assert relative_error(together, alone) < 1e-9


def test_a_saved_run_is_scored_as_the_run_itself(tmp_path):
    """Its fingerprint knows adapters, frozen weights and the cost's settings again."""
    trace, metric = trace_of("stylegan", CODE), metric_of("stylegan")
    trace.save(tmp_path / "run.pt")

    def load(cost):
        modules = players("stylegan")
        game = stylegan.game_of(modules["generator"], modules["discriminator"], cost)
        settings = {"update": "alternating", "ema_decay": {"generator": DECAY}}
        adam = gi.Adam(LR, betas=(0.0, 0.99), eps=EPS)
        return gi.load_trace(tmp_path / "run.pt", game, LEVELS, schedule("stylegan"), adam, **settings)

    assert torch.equal(gi.itd(load(StyleGANCost()), metric), gi.itd(trace, metric))
    with pytest.raises(ValueError, match=r"loss was StyleGANCost.*kept.* is StyleGANCost.*batch"):
        load(INFLUENCE)


@each_model
def test_the_frechet_distance_takes_evaluation_draws_a_few_at_a_time(model):
    trace, latents = trace_of(model, CODE), stylegan.evaluation_latents(players(model)["generator"], 15, seed=6)
    one, several = (
        gi.metrics.FrechetDistance(torch.nn.AvgPool2d(4), LEVELS.repeat(2, 1, 1, 1), latents, chunk=chunk)
        for chunk in (15, 4)
    )
    assert relative_error(several(trace), one(trace)) < 1e-12
    assert relative_error(gi.itd(trace, several), gi.itd(trace, one)) < 1e-9
