"""The optimisers against ``torch.optim``, step for step: parameters and buffers, alone and in a game's training."""

import copy
import inspect
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.games import ORDERS, batch_of, lqgan, minibatch_mlp, normal
from torch import nn
from torch.nn.functional import softplus
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import gan_influence as gi

PAIRS = {
    "sgd": (gi.SGD, torch.optim.SGD, {"lr": 0.1}),
    "sgd-decayed": (gi.SGD, torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.3}),
    "momentum": (gi.SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    "momentum-dampened": (gi.SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "dampening": 0.4}),
    "momentum-dampened-whole": (gi.SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "dampening": 1.0}),
    "momentum-decayed": (gi.SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.3}),
    "nesterov": (gi.SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "nesterov-decayed": (
        gi.SGD,
        torch.optim.SGD,
        {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.3},
    ),
    "rmsprop": (gi.RMSProp, torch.optim.RMSprop, {}),
    "rmsprop-centered": (gi.RMSProp, torch.optim.RMSprop, {"centered": True}),
    "rmsprop-momentum": (gi.RMSProp, torch.optim.RMSprop, {"momentum": 0.9}),
    "rmsprop-all": (
        gi.RMSProp,
        torch.optim.RMSprop,
        {"lr": 0.02, "alpha": 0.8, "eps": 1e-3, "weight_decay": 0.3, "momentum": 0.7, "centered": True},
    ),
    "adam": (gi.Adam, torch.optim.Adam, {}),
    "adam-decayed": (gi.Adam, torch.optim.Adam, {"lr": 0.02, "weight_decay": 0.3}),
    "adam-of-gans": (gi.Adam, torch.optim.Adam, {"lr": 0.02, "betas": (0.0, 0.9), "eps": 1e-3}),
    "adamw": (gi.AdamW, torch.optim.AdamW, {}),
    "adamw-undecayed": (gi.AdamW, torch.optim.AdamW, {"lr": 0.02, "weight_decay": 0.0}),
    "adamw-decayed": (gi.AdamW, torch.optim.AdamW, {"lr": 0.02, "weight_decay": 0.3}),
}
each_pair = pytest.mark.parametrize(("ours", "torchs", "settings"), PAIRS.values(), ids=PAIRS)
TOLERANCE = {torch.float64: {"rtol": 1e-13, "atol": 1e-15}, torch.float32: {"rtol": 1e-5, "atol": 1e-7}}
each_type = pytest.mark.parametrize("dtype", TOLERANCE, ids=["double", "single"])
BUFFERS = {  # by the row of our state; RMSprop's mean is the last row
    torch.optim.SGD: ["momentum_buffer"],
    torch.optim.RMSprop: ["square_avg", "momentum_buffer", "grad_avg"],
    torch.optim.Adam: ["exp_avg", "exp_avg_sq"],
    torch.optim.AdamW: ["exp_avg", "exp_avg_sq"],
}


def assert_steps_equal_torchs(ours, torchs, gradients, schedule=None, tolerance=None):
    """Both move from the same parameters along the same gradients; after every step all that they remember is equal."""
    parameters = normal(5, gradients.shape[1]).to(gradients)
    state = torch.stack([parameters, *[torch.zeros_like(parameters)] * ours.buffers])
    moved = nn.Parameter(parameters.clone())
    reference = torchs([moved])
    scheduler = schedule(reference) if schedule else None
    tolerance = tolerance or TOLERANCE[gradients.dtype]
    for k, gradient in enumerate(gradients):
        state = ours.update(torch.tensor(float(k), dtype=torch.float64), state, gradient)
        moved.grad = gradient.clone()
        reference.step()
        if scheduler:
            scheduler.step()
        remembered = [reference.state[moved][name] for name in held(reference, moved)]
        expected = torch.stack([moved.detach(), *remembered])
        torch.testing.assert_close(state, expected, **tolerance, msg=lambda m, k=k: f"step {k}: {m}")


def held(reference, moved):
    """The buffers that these settings of torch's optimiser keep."""
    state = reference.state[moved]
    return [name for name in BUFFERS[type(reference)] if state.get(name) is not None]


def gradients_with_zeros(dtype=torch.float64):
    """Of 12 steps and 6 parameters; the first's are all zero, the second's at first, the third's now and then."""
    gradients = normal(6, 12, 6)
    gradients[:, 0] = 0
    gradients[:4, 1] = 0
    gradients[::3, 2] = 0
    return gradients.to(dtype)


@each_type
@each_pair
def test_every_step_equals_torchs(ours, torchs, settings, dtype):
    assert_steps_equal_torchs(ours(**settings), lambda p: torchs(p, **settings), gradients_with_zeros(dtype))


@each_pair
def test_defaults_are_torchs(ours, torchs, settings):
    defaults = inspect.signature(torchs).parameters
    ours_and_torchs = {
        name: (parameter.default, defaults[name].default)
        for name, parameter in inspect.signature(ours).parameters.items()
        if name in defaults and parameter.default is not inspect.Parameter.empty
    }
    assert len(ours_and_torchs) >= 4
    assert all(one == other for one, other in ours_and_torchs.values()), ours_and_torchs


rates = st.floats(1e-4, 1.0)
decays = st.floats(0.0, 0.999)
SETTINGS = {
    "sgd": (gi.SGD, torch.optim.SGD, {"lr": rates, "momentum": decays, "dampening": decays, "weight_decay": decays}),
    "rmsprop": (
        gi.RMSProp,
        torch.optim.RMSprop,
        {"lr": rates, "alpha": decays, "eps": rates, "weight_decay": decays, "momentum": decays},
    ),
    "rmsprop-centered": (
        gi.RMSProp,
        torch.optim.RMSprop,
        {"lr": rates, "alpha": st.floats(0.5, 0.999), "eps": rates, "momentum": decays, "centered": st.just(True)},
    ),
    "adam": (
        gi.Adam,
        torch.optim.Adam,
        {"lr": rates, "betas": st.tuples(decays, decays), "eps": rates, "weight_decay": decays},
    ),
    "adamw": (
        gi.AdamW,
        torch.optim.AdamW,
        {"lr": rates, "betas": st.tuples(decays, decays), "eps": rates, "weight_decay": decays},
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
@given(data=st.data())
def test_every_step_equals_torchs_whatever_the_settings(name, data):
    ours, torchs, strategies = SETTINGS[name]
    settings = data.draw(st.fixed_dictionaries(strategies))
    # A centred second moment subtracts numbers of equal size: only there does rounding grow.
    gradients = gradients_with_zeros()[:, 3:] if name == "rmsprop-centered" else gradients_with_zeros()
    tolerance = {"rtol": 1e-10, "atol": 1e-13}
    assert_steps_equal_torchs(ours(**settings), lambda p: torchs(p, **settings), gradients, tolerance=tolerance)


SCHEDULES = {
    "inverse-sqrt": (gi.InverseSqrt(0.1), lambda of: LambdaLR(of, lambda k: 1 / math.sqrt(k + 1))),
    "exponential": (lambda step: 0.1 * 0.7**step, lambda of: ExponentialLR(of, gamma=0.7)),
}


@pytest.mark.parametrize(("rate", "schedule"), SCHEDULES.values(), ids=SCHEDULES)
@each_pair
def test_learning_rate_schedules_equal_torchs(ours, torchs, settings, rate, schedule):
    ours, reference = ours(**settings | {"lr": rate}), lambda p: torchs(p, **settings | {"lr": 0.1})
    assert_steps_equal_torchs(ours, reference, gradients_with_zeros(), schedule)


def torch_training(problem, optimizers, steps, order, decay=None):
    """The loop that everyone writes, with ``non_saturating`` costs; parameters and average after every step."""
    generator, discriminator = copy.deepcopy((problem.generator, problem.discriminator))
    both = [
        make(list(player.parameters())) for make, player in zip(optimizers, (generator, discriminator), strict=True)
    ]
    average = AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None
    if average:
        average.update_parameters(generator)  # torch's first update copies

    def cost_of_generator(t):
        return softplus(-discriminator(generator(batch_of(problem, t, order).latents.to(problem.data)))).mean()

    def cost_of_discriminator(t):
        indices, latents, _ = batch_of(problem, t, order)
        fake = discriminator(generator(latents.to(problem.data)).detach())
        return softplus(-discriminator(problem.data[indices])).mean() + softplus(fake).mean()

    def backward(which, t):
        both[which].zero_grad()
        (cost_of_generator, cost_of_discriminator)[which](t).backward(inputs=both[which].param_groups[0]["params"])

    history = []
    for t in range(steps):
        if order == "simultaneous":
            backward(0, t), backward(1, t)
            both[0].step(), both[1].step()
        else:
            for which in [1, 0] if order == "alternating" else [0 if t % 2 else 1]:
                backward(which, t)
                both[which].step()
        if average:
            average.update_parameters(generator)
        seen = average.module if average else generator
        of_players = [[*player.parameters(), *discriminator.parameters()] for player in (generator, seen)]
        history.append(torch.stack([torch.cat([p.detach().reshape(-1) for p in of]) for of in of_players]))
    return torch.stack(history)


def in_type(problem, dtype):
    players = [copy.deepcopy(player).to(dtype) for player in (problem.generator, problem.discriminator)]
    return problem.but(generator=players[0], discriminator=players[1], data=problem.data.to(dtype))


@each_type
@pytest.mark.parametrize("order", ORDERS)
@each_pair
def test_training_equals_the_loop_that_everyone_writes_with_torchs_optimisers(ours, torchs, settings, order, dtype):
    problem = in_type(minibatch_mlp(loss="non_saturating").but(l2=(0.0, 0.0)), dtype)
    trace = problem.train(7, optimizer=ours(**settings), update=order)
    expected = torch_training(problem, [lambda p: torchs(p, **settings)] * 2, 7, order)[:, 0]
    tolerance = {torch.float64: {"rtol": 1e-10, "atol": 1e-12}, torch.float32: {"rtol": 1e-3, "atol": 1e-4}}[dtype]
    torch.testing.assert_close(trace.states[1:, 0], expected, **tolerance)


@pytest.mark.parametrize("order", ORDERS)
def test_each_player_has_its_own_optimiser_rate_and_count_of_updates(order):
    problem = minibatch_mlp(loss="non_saturating").but(l2=(0.0, 0.0))
    pair = gi.Adam(0.02, weight_decay=0.1), gi.SGD(0.05, momentum=0.9, dampening=0.3)
    torchs = [
        lambda p: torch.optim.Adam(p, lr=0.02, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, dampening=0.3),
    ]
    trace = problem.train(9, optimizer=pair, update=order)
    torch.testing.assert_close(
        trace.states[1:, 0], torch_training(problem, torchs, 9, order)[:, 0], rtol=1e-10, atol=1e-12
    )


@each_type
@pytest.mark.parametrize("order", ORDERS)
def test_the_averaged_generator_is_that_of_torchs_swa_utils(order, dtype):
    problem = in_type(minibatch_mlp(loss="non_saturating").but(l2=(0.0, 0.0)), dtype)
    trace = problem.train(7, optimizer=gi.SGD(0.1), update=order, ema_decay=0.9)
    expected = torch_training(problem, [lambda p: torch.optim.SGD(p, lr=0.1)] * 2, 7, order, decay=0.9)
    tolerance = {"rtol": 1e-4, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-14}
    torch.testing.assert_close(trace.states[1:, [0, -1]], expected, **tolerance)


BAD_SETTINGS = {
    "momentum": (lambda: gi.SGD(0.1, momentum=-0.1), r"momentum must be a finite number >= 0, got -0.1"),
    "weight-decay": (lambda: gi.SGD(0.1, weight_decay=math.nan), r"weight_decay must be a finite number >= 0, got nan"),
    "dampening": (lambda: gi.SGD(0.1, momentum=0.9, dampening=math.inf), r"dampening must be a finite number, got inf"),
    "nesterov-alone": (lambda: gi.SGD(0.1, nesterov=True), r"nesterov needs momentum > 0 and dampening = 0"),
    "nesterov-dampened": (
        lambda: gi.SGD(0.1, momentum=0.9, dampening=0.1, nesterov=True),
        r"nesterov needs momentum > 0 and dampening = 0",
    ),
    "alpha": (lambda: gi.RMSProp(alpha=1.0), r"alpha must be a number in \[0, 1\), got 1.0"),
    "rmsprop-eps": (lambda: gi.RMSProp(eps=-1e-8), r"eps must be a finite number >= 0, got -1e-08"),
    "one-beta": (lambda: gi.Adam(betas=0.9), r"betas must be two numbers in \[0, 1\), got 0.9"),
    "beta": (lambda: gi.Adam(betas=(0.9, 1.0)), r"betas\[1\] must be a number in \[0, 1\), got 1.0"),
    "adam-decay": (lambda: gi.AdamW(weight_decay=-1.0), r"weight_decay must be a finite number >= 0, got -1.0"),
    "rate": (lambda: gi.Adam(lr=0.0), r"lr must be a finite number above 0, got 0.0"),
    "rate-of-schedule": (lambda: gi.InverseSqrt(-1.0), r"lr must be a finite number above 0, got -1.0"),
    "second-moment": (
        lambda: gi.Adam(second_moment="constant"),
        r'second_moment must be "exact" or "frozen", got \'constant\'',
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_an_optimiser_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("order", ["sequential", None, 1])
def test_an_unknown_order_is_told_the_known_ones(order):
    with pytest.raises(ValueError, match=r"unknown update .*; known: simultaneous, alternating, turns"):
        lqgan().train(2, update=order)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5, math.nan, True, "0.9"])
def test_an_averages_decay_lies_between_0_and_1(decay):
    with pytest.raises(ValueError, match=r"ema_decay must be a number in \[0, 1\), or None, got "):
        lqgan().train(2, ema_decay=decay)
