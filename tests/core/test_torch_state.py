"""Going on from the state of one of ``torch.optim``'s optimisers."""

import copy
import math

import pytest
import torch
from support.quadratics import NAMES, SHAPES, START, Small, assert_equal, moved, started, torch_moved
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import CosineAnnealingLR

import gan_influence as gi
from gan_influence.optimizers import Clipped, Groups, TorchRates, from_torch

PAIRS = {
    "sgd": (gi.SGD, torch.optim.SGD, {"lr": 0.05, "weight_decay": 0.1}),
    "momentum": (gi.SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    "dampened": (gi.SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "dampening": 0.3}),
    "nesterov": (gi.SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "rmsprop": (gi.RMSProp, torch.optim.RMSprop, {"eps": 1e-3}),
    "rmsprop-momentum": (gi.RMSProp, torch.optim.RMSprop, {"eps": 1e-3, "momentum": 0.5}),
    "rmsprop-centered": (gi.RMSProp, torch.optim.RMSprop, {"eps": 1e-3, "centered": True}),
    "rmsprop-all": (gi.RMSProp, torch.optim.RMSprop, {"eps": 1e-3, "momentum": 0.5, "centered": True, "alpha": 0.9}),
    "adam": (gi.Adam, torch.optim.Adam, {"lr": 0.02, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    "amsgrad": (gi.Adam, torch.optim.Adam, {"lr": 0.02, "betas": (0.5, 0.7), "eps": 1e-3, "amsgrad": True}),
    "adamw": (gi.AdamW, torch.optim.AdamW, {"lr": 0.02, "eps": 1e-3}),
    "adamw-amsgrad": (gi.AdamW, torch.optim.AdamW, {"lr": 0.02, "betas": (0.5, 0.7), "eps": 1e-3, "amsgrad": True}),
}
each_pair = pytest.mark.parametrize(("ours", "torchs", "settings"), PAIRS.values(), ids=PAIRS)


def read(optimizer, reference, player="generator"):
    return from_torch(optimizer, copy.deepcopy(reference.state_dict()), NAMES, SHAPES, player)


def assert_goes_on(optimizer, module, reference, clip=None, scheduler=None):
    """40 steps of torch's and 50 of ours are 90 of torch's: parameters, and what is remembered."""
    theta = torch_moved(module, reference, range(40), clip, scheduler)
    buffers, step = read(optimizer, reference)
    assert buffers.shape == (optimizer.buffers, 13)
    assert step == (None if isinstance(reference, torch.optim.SGD) else 40)
    state = moved(optimizer, torch.cat([theta[None], buffers]), range(40, 90))
    assert_equal(state[0], torch_moved(module, reference, range(40, 90), clip, scheduler))
    assert_equal(state[1:], read(optimizer, reference)[0])


@each_pair
def test_forty_steps_of_torchs_and_fifty_of_ours_are_ninety_of_torchs(ours, torchs, settings):
    module = Small()
    assert_goes_on(ours(**settings), module, torchs(module.parameters(), **settings))


@each_pair
def test_it_goes_on_within_a_scheduler_and_with_clipped_gradients(ours, torchs, settings):
    module = Small()
    reference = torchs(module.parameters(), **settings | {"lr": 0.03})
    rates = TorchRates(lambda of: CosineAnnealingLR(of, 60), lr=0.03, steps=90)
    optimizer = Clipped(ours(**settings | {"lr": rates}), norm=2.0)
    scheduler = CosineAnnealingLR(reference, 60)
    assert_goes_on(optimizer, module, reference, lambda module: clip_grad_norm_(module.parameters(), 2.0), scheduler)


def by_kind(module, **of_biases):
    """Torch's groups of named parameters: biases first, which is not the module's order."""
    named = dict(module.named_parameters())
    biases = [(name, p) for name, p in named.items() if name.endswith("bias")]
    weights = [(name, p) for name, p in named.items() if name.endswith("weight")]
    return [{"params": biases[::-1], **of_biases}, {"params": weights}]


@each_pair
def test_named_parameters_in_groups_are_told_by_their_names(ours, torchs, settings):
    module = Small()
    changed = {"weight_decay": 0.02, "lr": 0.01}
    reference = torchs(by_kind(module, **changed), **settings)
    optimizer = Groups(ours(**settings), {"*.bias": ours(**settings | changed)}).fitted(NAMES, SHAPES)
    assert_goes_on(optimizer, module, reference)


def test_groups_with_different_buffers_fill_each_its_own_rows():
    module = Small()
    settings, changed = {"lr": 0.02, "eps": 1e-3, "betas": (0.5, 0.7)}, {"amsgrad": True}
    reference = torch.optim.Adam(by_kind(module, **changed), **settings)
    groups = Groups(gi.Adam(**settings), {"*.bias": gi.Adam(**settings, **changed)})
    optimizer = Clipped(groups, norm=2.0).fitted(NAMES, SHAPES)
    assert_goes_on(optimizer, module, reference, lambda module: clip_grad_norm_(module.parameters(), 2.0))
    assert torch.equal(read(groups, reference)[0], read(optimizer, reference)[0])
    assert (read(groups, reference)[0][2, :6] == 0).all()  # the weights have no third buffer


def test_groups_without_names_are_read_in_their_order():
    module = Small()
    reference = torch.optim.Adam(
        [{"params": module.body.parameters()}, {"params": module.head.parameters(), "eps": 1e-3}], lr=0.02
    )
    optimizer = Groups(gi.Adam(0.02), {"head.*": gi.Adam(0.02, eps=1e-3)}).fitted(NAMES, SHAPES)
    assert_goes_on(optimizer, module, reference)


def test_frozen_parameters_that_are_named_may_be_there():
    module = Small()
    module.body.bias.requires_grad_(False)
    reference = torch.optim.Adam(module.named_parameters())
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    reference.step()
    trained = [(name, p.shape) for name, p in module.named_parameters() if p.requires_grad]
    buffers, step = from_torch(gi.Adam(), reference.state_dict(), *zip(*trained, strict=True), "generator")
    assert_equal(buffers, torch.tensor([[0.1], [0.001]], dtype=torch.float64).expand(2, 10))
    assert step == 1


def test_the_learning_rate_may_differ():
    module = Small()
    reference = torch.optim.Adam(module.parameters(), lr=torch.tensor(0.5))
    torch_moved(module, reference, range(3))
    assert read(gi.Adam(0.1), reference)[1] == 3


def test_settings_that_are_tensors_are_compared_by_their_values():
    state_dict = after(3, torch.optim.Adam)
    state_dict["param_groups"][0]["betas"] = list(torch.tensor([0.9, 0.999], dtype=torch.float64))
    assert from_torch(gi.Adam(), state_dict, NAMES, SHAPES, "generator")[1] == 3


def test_single_precision_is_read_without_rounding():
    module = nn.Linear(3, 2)
    reference = torch.optim.Adam(module.parameters())
    module(torch.randn(4, 3, generator=torch.Generator().manual_seed(1))).square().sum().backward()
    reference.step()
    shapes = [parameter.shape for parameter in module.parameters()]
    buffers, _ = from_torch(gi.Adam(), reference.state_dict(), ["weight", "bias"], shapes, "model")
    assert torch.equal(buffers[0, :6], reference.state[module.weight]["exp_avg"].double().flatten())


@pytest.mark.parametrize("explicit", [True, False])
def test_momentum_that_has_not_begun_is_zero(explicit):
    """Older versions of torch.optim hold a momentum_buffer of None, newer ones nothing."""
    state_dict = torch.optim.SGD(Small().parameters(), lr=0.1, momentum=0.9).state_dict()
    if explicit:
        state_dict["state"] = {k: {"momentum_buffer": None} for k in range(4)}
    buffers, step = from_torch(gi.SGD(0.1, momentum=0.9), state_dict, NAMES, SHAPES, "generator")
    assert torch.equal(buffers, torch.zeros(1, 13).double())
    assert step is None


def test_dampened_momentum_that_has_not_begun_begins_with_the_gradient():
    """As torch's own would, whatever the number of the step."""
    module, settings = Small(), {"lr": 0.05, "momentum": 0.9, "dampening": 0.4}
    reference, optimizer = torch.optim.SGD(module.parameters(), **settings), gi.SGD(**settings)
    buffers, step = read(optimizer, reference)
    assert step == 0
    state = moved(optimizer, torch.cat([START[None], buffers]), range(40, 60), offset=step - 40)
    assert_equal(state[0], torch_moved(module, reference, range(40, 60)))


class MyMomentum:
    """A reader's own optimiser, which says how it goes on from a state of torch's."""

    buffers = 1
    lr = 0.05
    torch_buffers = ("momentum_buffer",)
    torch_settings = {"momentum": 0.9}  # noqa: RUF012

    def update(self, step, state, gradient):
        velocity = 0.9 * state[..., 1, :] + gradient
        return torch.stack([state[..., 0, :] - self.lr * velocity, velocity], dim=-2)


def test_an_optimiser_of_a_readers_own_that_says_what_to_read_goes_on():
    module = Small()
    assert_goes_on(MyMomentum(), module, torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9))


def after(steps, torchs, named=False, **settings):
    module = Small()
    reference = torchs(module.named_parameters() if named else module.parameters(), **settings)
    torch_moved(module, reference, range(steps))
    return copy.deepcopy(reference.state_dict())


ADAM, ADAMW, SGD, RMSPROP = torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop
MOMENTUM, DECAYED = {"momentum": 0.9}, {"weight_decay": 0.1}
OTHERS = {  # ours; torch's, with its settings; what differs
    "sgd-for-adam": (gi.Adam(), SGD, MOMENTUM, r"has no betas among .*: it is that of another optimiser than Adam"),
    "adam-for-sgd": (gi.SGD(0.1), ADAM, {}, r"has no momentum among .*: it is that of another optimiser than SGD"),
    "rmsprop-for-sgd": (gi.SGD(0.1), RMSPROP, {}, r"has no dampening among .*another optimiser than SGD"),
    "radam-for-adam": (gi.Adam(), torch.optim.RAdam, {}, r"has no amsgrad among .*another optimiser than Adam"),
    "nadam-for-adam": (gi.Adam(), torch.optim.NAdam, {}, r"has no amsgrad among .*another optimiser than Adam"),
    "adamw-for-adam": (
        gi.Adam(**DECAYED),
        ADAMW,
        DECAYED,
        r"has decoupled_weight_decay=True for 'body.weight', but its Adam decoupled_weight_decay=False",
    ),
    "adam-for-adamw": (gi.AdamW(**DECAYED), ADAM, DECAYED, r"has decoupled_weight_decay=False for 'body.weight'"),
    "betas": (
        gi.Adam(betas=(0.5, 0.999)),
        ADAM,
        {},
        r"has betas=\(0.9, 0.999\) for 'body.weight', but its Adam betas=\(0.5, 0.999\)",
    ),
    "eps": (gi.RMSProp(eps=0.1), RMSPROP, {}, r"has eps=1e-08 for 'body.weight', but its RMSProp eps=0.1"),
    "alpha": (gi.RMSProp(alpha=0.9), RMSPROP, {}, r"has alpha=0.99 for"),
    "centered": (gi.RMSProp(centered=True), RMSPROP, {}, r"has centered=False for"),
    "amsgrad": (gi.Adam(amsgrad=True), ADAM, {}, r"has amsgrad=False for"),
    "amsgrad-of-torchs": (gi.Adam(), ADAM, {"amsgrad": True}, r"has amsgrad=True for"),
    "weight-decay": (gi.Adam(), ADAM, DECAYED, r"has weight_decay=0.1 for"),
    "momentum": (gi.SGD(0.1), SGD, MOMENTUM, r"has momentum=0.9 for 'body.weight', but its SGD momentum=0.0"),
    "dampening": (gi.SGD(0.1, 0.9), SGD, MOMENTUM | {"dampening": 0.1}, r"has dampening=0.1 for"),
    "nesterov": (gi.SGD(0.1, 0.9), SGD, MOMENTUM | {"nesterov": True}, r"has nesterov=True for"),
    "maximize": (gi.SGD(0.1), SGD, {"maximize": True}, r"has maximize=True for"),
    "of-a-group": (
        Groups(gi.Adam(), {"*.bias": gi.Adam(eps=0.1)}),
        ADAM,
        {},
        r"has eps=1e-08 for 'body.bias', but its Adam eps=0.1",
    ),
    "within-clipping": (Clipped(gi.Adam(eps=0.1), norm=1.0), ADAM, {}, r"has eps=1e-08 for 'body.weight', but its Ad"),
}


def refused(optimizer, state_dict, message):
    with pytest.raises(ValueError, match=f"^the generator's optimizer state {message}"):
        from_torch(optimizer, state_dict, NAMES, SHAPES, "generator")


@pytest.mark.parametrize(("optimizer", "torchs", "settings", "message"), OTHERS.values(), ids=OTHERS)
def test_the_state_of_another_optimiser_or_with_other_settings_is_refused(optimizer, torchs, settings, message):
    refused(optimizer, after(2, torchs, **settings), message)


@pytest.mark.parametrize(("optimizer", "torchs"), [(gi.Adam(), ADAM), (gi.RMSProp(), RMSPROP)])
def test_a_state_before_the_first_update_is_refused(optimizer, torchs):
    message = r"has nothing of 'body.weight', which has not been updated: .* needs its .*, step. Leave the state out"
    refused(optimizer, after(0, torchs), message)


def group_of(state_dict):
    return state_dict["param_groups"][0]


def add_named(state_dict):
    group_of(state_dict)["params"].append(9)
    group_of(state_dict)["param_names"].append("tail")
    state_dict["state"][9] = state_dict["state"][0]


PARAMETERS = {  # of a state of Adam: is it by names; what is changed; what differs then
    "fewer": (
        False,
        lambda s: group_of(s)["params"].pop(),
        r"is of 3 parameters, but the generator has 4 to train, body",
    ),
    "more": (False, lambda s: group_of(s)["params"].append(9), r"is of 5 parameters, but the generator has 4"),
    "other-order": (
        False,
        lambda s: group_of(s)["params"].reverse(),
        r"holds exp_avg of 'body.weight' of shape \(1,\), but the parameter's shape is \(3, 2\): .* named_parameters",
    ),
    "transposed": (
        False,
        lambda s: s["state"][0].update(exp_avg_sq=torch.ones(2, 3)),
        r"holds exp_avg_sq of 'body.weight' of shape \(2, 3\), but the parameter's shape is \(3, 2\)",
    ),
    "renamed": (
        True,
        lambda s: group_of(s).update(param_names=[f"net.{name}" for name in NAMES]),
        r"has no 'body.weight': it is of 4 parameters, net.body.weight, .*, but the generator has 4",
    ),
    "named-more": (True, add_named, r"is also of 'tail', but the generator has 4"),
    "unknown": (
        False,
        lambda s: s["state"][1].update(exp_inf=torch.zeros(3)),
        r"holds exp_inf of 'body.bias', which Adam does not remember",
    ),
    "one-missing": (False, lambda s: s["state"].pop(3), r"has nothing of 'head.bias', which has not been updated"),
    "key-missing": (
        False,
        lambda s: s["state"][2].pop("exp_avg_sq"),
        r"has no exp_avg_sq of 'head.weight', only step, exp_avg: it is that of another optimiser than Adam",
    ),
    "step-missing": (
        False,
        lambda s: s["state"][0].pop("step"),
        r"has no step of 'body.weight', only exp_avg, exp_avg_sq",
    ),
    "steps": (
        False,
        lambda s: s["state"][2].update(step=torch.tensor(3.0)),
        r"has done 2 updates of 'body.weight', but 3 of 'head.weight'",
    ),
}


@pytest.mark.parametrize(("named", "change", "message"), PARAMETERS.values(), ids=PARAMETERS)
def test_a_state_that_does_not_fit_the_parameters_is_refused(named, change, message):
    state_dict = after(2, ADAM, named)
    change(state_dict)
    refused(gi.Adam(), state_dict, message)


@pytest.mark.parametrize("change", [lambda s: s["state"].pop(1), lambda s: s["state"][1].update(momentum_buffer=None)])
def test_momentum_that_only_some_parameters_have_is_refused(change):
    state_dict = after(2, SGD, **MOMENTUM)
    change(state_dict)
    message = r"has nothing of 'body.bias', which has not been updated: SGD needs its momentum_buffer"
    refused(gi.SGD(0.1, momentum=0.9), state_dict, message)


@pytest.mark.parametrize("given", [None, {}, {"state": {}}, [1], nn.Linear(1, 1).state_dict()])
def test_what_is_no_state_dict_is_refused(given):
    with pytest.raises(TypeError, match=r"the model's optimizer state must be the state_dict\(\) of an optimiser of"):
        from_torch(gi.Adam(), given, NAMES, SHAPES, "model")


class Silent:
    """A reader's own, which does not say what it would read."""

    buffers = 0
    lr = 0.1

    def update(self, step, state, gradient):
        return state


def test_an_optimiser_that_does_not_say_what_to_read_is_named():
    with pytest.raises(TypeError, match=r"the model's Silent does not say what it would read .* give it torch_buffers"):
        from_torch(Silent(), after(2, SGD), NAMES, SHAPES, "model")


def test_older_state_dicts_lack_settings_that_were_added_later():
    state_dict = after(2, ADAM, weight_decay=0.1)
    for name in ("maximize", "decoupled_weight_decay"):
        del state_dict["param_groups"][0][name]
    assert from_torch(gi.Adam(weight_decay=0.1), state_dict, NAMES, SHAPES, "generator")[1] == 2


def test_adam_without_decay_is_adamw_without_decay():
    buffers, step = from_torch(gi.AdamW(weight_decay=0.0), after(2, ADAM), NAMES, SHAPES, "generator")
    assert step == 2
    assert math.isfinite(float(buffers.sum()))
    assert started(gi.AdamW()).shape == (3, 13)
