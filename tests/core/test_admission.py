"""What a run must be to be scored; what is not is refused, with culprit and fix, before training or at its end."""

import copy
import random
import warnings

import numpy as np
import pytest
import torch
from support.games import lqgan, minibatch_mlp, mlp, normal, relative_error, same_bits
from torch import nn
from torch.nn.functional import linear, softplus
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import gan_influence as gi
from gan_influence.losses import RowLoss


def net(seed=1):
    torch.manual_seed(seed)
    return nn.Linear(2, 8).double(), nn.Linear(8, 1).double()


class Net(nn.Module):
    """A discriminator that variants build on."""

    def __init__(self):
        super().__init__()
        self.a, self.b = net()
        self.prepare()

    def prepare(self):
        pass

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


def train(discriminator=None, steps=20, **changes):
    options = {name: changes.pop(name) for name in ("optimizer", "weights") if name in changes}
    if discriminator is not None:
        changes["discriminator"] = discriminator
    return mlp(**changes).train(steps, **options)


def itd_and_difference(discriminator, row=1, h=1e-5, **options):
    """A row's score, and minus the central difference of the metric along its weight."""
    metric = mlp().metric()
    score = gi.itd(train(discriminator, **options), metric)[row]
    ends = []
    for sign in (1, -1):
        weights = torch.ones(14).double()
        weights[row] += sign * h
        ends.append(metric(train(discriminator, weights=weights, **options)))
    return float(score), float(ends[1] - ends[0]) / (2 * h)


# ------------------------------------------------------------------------------------- whose parameters a cost reaches


class BlockInALambda(Net):
    def prepare(self):
        self.block = lambda x: torch.tanh(self.a(x))  # a copy's lambda is about the original

    def forward(self, x):
        return self.b(self.block(x))


class ParametersInAList(Net):
    def prepare(self):
        self.own = [self.a.weight, self.a.bias]

    def forward(self, x):
        return self.b(torch.tanh(linear(x, *self.own)))


class HookOverSelf(Net):
    def prepare(self):
        self.a.register_forward_hook(lambda module, inputs, output: output * self.b.weight.detach().norm())


def loss_with(extra):
    return RowLoss(real=lambda a: softplus(-a) + extra(a), fake=softplus, generator=lambda a: softplus(-a))


@pytest.mark.parametrize("kind", [BlockInALambda, ParametersInAList, HookOverSelf])
def test_a_parameter_that_is_reached_past_the_step_is_named(kind):
    with pytest.raises(
        ValueError, match=r"the cost reads the discriminator's parameter '\w+\.weight' other than as the"
    ):
        train(kind())


def test_a_loss_with_parameters_of_its_own_or_of_a_players_is_refused():
    own, discriminator = nn.Linear(1, 1).double(), Net()
    for extra in (lambda a: own(a[:, None])[:, 0], lambda a: discriminator.a.weight.square().sum() + 0 * a):
        game = gi.Game(mlp().generator, discriminator, loss=loss_with(extra))
        with pytest.raises(ValueError, match=r"the cost reads .* other than as the parameter that a step moves"):
            gi.train(game, mlp().data, mlp().schedule, 2, gi.SGD(0.1))


class Checkpointed(Net):
    def forward(self, x):
        return self.b(checkpoint(lambda x: torch.tanh(self.a(x)), x, use_reentrant=False))


class CheckpointedSequence(Net):
    def forward(self, x):
        return checkpoint_sequential(nn.Sequential(self.a, nn.Tanh(), self.b), 2, x, use_reentrant=False)


class CheckpointedReentrant(Net):
    def forward(self, x):
        return self.b(checkpoint(lambda x: torch.tanh(self.a(x)), x, use_reentrant=True))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("kind", [Checkpointed, CheckpointedSequence, CheckpointedReentrant])
def test_what_is_computed_again_while_it_is_differentiated_is_refused(kind):
    with pytest.raises(ValueError, match=r"torch.utils.checkpoint"):
        train(kind())


def test_a_checkpointed_generator_is_the_one_that_is_blamed():
    class Generator(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = copy.deepcopy(mlp().generator)

        def forward(self, z):
            return checkpoint(self.inner, z, use_reentrant=False)

    with pytest.raises(ValueError, match=r"the generator's gradient depends on the parameters that the modules held"):
        train(generator=Generator())


class TiedLayers(Net):
    def prepare(self):
        self.c = nn.Linear(2, 8).double()
        self.c.weight = self.a.weight

    def forward(self, x):
        return self.b(torch.tanh(self.a(x) + self.c(2 * x)))


class OneParameterOfTwoNames(Net):
    def prepare(self):
        self.one = nn.Parameter(torch.ones(2).double())
        self.other = self.one

    def forward(self, x):
        return super().forward(x)[:, 0] * (x @ self.other)


class Recurrent(nn.Module):
    """It holds its parameters in a list besides, and torch has no vmap rule for it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.r, self.o = nn.GRU(1, 4, batch_first=True).double(), nn.Linear(4, 1).double()

    def forward(self, x):
        return self.o(self.r(x.unsqueeze(-1))[0][:, -1])


@pytest.mark.parametrize("kind", [TiedLayers, OneParameterOfTwoNames, Recurrent])
def test_every_place_of_a_parameter_is_moved_with_it(kind):
    score, difference = itd_and_difference(kind())
    assert score == pytest.approx(difference, rel=1e-6)


def test_a_module_in_two_places_can_still_be_copied_after_training():
    layer = nn.Linear(2, 2).double()
    trace = train(generator=nn.Sequential(layer, nn.Tanh(), layer))
    assert same_bits(copy.deepcopy(trace.game.generator.module)[0].weight.detach(), layer.weight.detach())


# ------------------------------------------------------------------------------------------------ second derivatives


def normed(dim, layer=None):
    torch.manual_seed(1)
    first = parametrizations.weight_norm(layer or nn.Linear(2, 8), dim=dim)
    return nn.Sequential(first, nn.Tanh(), parametrizations.weight_norm(nn.Linear(8, 1))).double()


@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_has_the_right_second_derivative(dim):
    score, difference = itd_and_difference(normed(dim), steps=60, optimizer=gi.Adam(0.01, eps=1e-3))
    assert score == pytest.approx(difference, rel=1e-6)  # torch's own is off by a percent and more


def test_weight_norm_of_a_kernel_is_torchs():
    torch.manual_seed(0)
    layer = parametrizations.weight_norm(nn.Conv2d(3, 4, 2), dim=1).double()
    images = normal(0, 2, 3, 5, 5)
    ours = gi.Game(nn.Linear(2, 2).double(), layer).snapshot(torch.device("cpu")).discriminator.module
    assert type(ours.parametrizations.weight[0]) is not type(layer.parametrizations.weight[0])
    torch.testing.assert_close(ours(images), layer(images))


class BareWeightNorm(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.v, self.g = nn.Parameter(torch.randn(8, 2).double()), nn.Parameter(torch.rand(8, 1).double())
        self.b = net()[1]

    def forward(self, x):
        return self.b(torch.tanh(x @ torch._weight_norm(self.v, self.g, 0).T))


def test_an_operation_whose_second_derivative_torch_gets_wrong_is_refused_by_name():
    with pytest.raises(ValueError, match=r"torch._weight_norm is wrong\): compute g \* v / v.norm\(\)"):
        train(BareWeightNorm())


def test_the_old_weight_norm_is_told_the_new_one():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        old = nn.utils.weight_norm(nn.Linear(2, 1).double())
    with pytest.raises(TypeError, match=r"discriminator cannot be copied .*parametrizations.weight_norm"):
        train(old)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.e, self.o = nn.Linear(1, 8).double(), nn.Linear(8, 1).double()
        self.m = nn.MultiheadAttention(8, 2, batch_first=True).double()

    def forward(self, x):
        h = self.e(x.unsqueeze(-1))
        return self.o(self.m(h, h, h, need_weights=False)[0]).mean(1)


class OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].cos()


class SineOnce(Net):
    def forward(self, x):
        return self.b(OnceDifferentiable.apply(self.a(x)))


@pytest.mark.parametrize(
    ("discriminator", "message"),
    [(Attention(), r"sdpa_kernel\(SDPBackend.MATH\)"), (SineOnce(), r"differentiated twice, as ITD and AID need")],
)
def test_what_cannot_be_differentiated_twice_is_refused_before_training(discriminator, message):
    asked = []
    problem = mlp(discriminator=discriminator)

    def schedule(t):
        asked.append(t)
        return problem.schedule(t)

    with pytest.raises(ValueError, match=message):
        problem.but(schedule=schedule).train(20)
    assert set(asked) == {0}


class FrozenBackward(torch.autograd.Function):
    """Its backward pass hides from autograd how it depends on x."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].detach().cos()


class SineHalf(Net):
    def forward(self, x):
        return self.b(FrozenBackward.apply(self.a(x)))


class StraightThrough(Net):
    def forward(self, x):
        weight = self.a.weight
        return self.b(torch.tanh(linear(x, weight + (weight.abs() * weight - weight).detach(), self.a.bias)))


@pytest.mark.parametrize("kind", [SineHalf, StraightThrough])
def test_a_second_derivative_that_is_not_that_of_the_first_warns_with_how_far_it_is_off(kind):
    with pytest.warns(RuntimeWarning, match=r"second derivative of a step .* is off by .* from finite differences"):
        train(kind())


@pytest.mark.parametrize("loss", ["minimax", "hinge", "wasserstein", "least_squares"])
@pytest.mark.parametrize(
    "activation", [nn.ReLU(), nn.LeakyReLU(0.2), nn.PReLU(), nn.GELU(), nn.Softplus(), nn.Hardtanh()]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_players_with_kinks_are_not_suspected(loss, activation, dtype):
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(2, 32), activation, nn.Linear(32, 2)).to(dtype)
    discriminator = nn.Sequential(nn.Linear(2, 32), copy.deepcopy(activation), nn.Linear(32, 1)).to(dtype)
    game = gi.Game(generator, discriminator, loss=loss)
    gi.train(game, normal(0, 30, 2).to(dtype), gi.FullBatch(normal(1, 30, 2).to(dtype)), 3, gi.SGD(0.1))


# ------------------------------------------------------------------------------------------- the same at every call


class CountsInAnAttribute(Net):
    def prepare(self):
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * (1 if self.calls < 150 else 2)


class CountsInAList(Net):
    def prepare(self):
        self.calls = {"all": [0]}

    def forward(self, x):
        self.calls["all"][0] += 1
        return super().forward(x) * (1 if self.calls["all"][0] < 150 else 2)


class CountsInATensor(Net):
    def prepare(self):
        self.calls = torch.zeros(())

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * (1 if self.calls < 150 else 2)


CALLS = 0


class CountsAmongTheGlobals(Net):
    def forward(self, x):
        global CALLS
        CALLS += 1
        return super().forward(x) * (1 if CALLS < 150 else 2)


@pytest.mark.parametrize("kind", [CountsInAnAttribute, CountsInAList, CountsInATensor, CountsAmongTheGlobals])
def test_a_module_that_counts_its_calls_is_refused(kind):
    with pytest.raises(ValueError, match=r"the discriminator changes its attribute .*(calls|CALLS).* a counter"):
        train(kind())


SEEN = []


class KeepsItsOutput(Net):
    def forward(self, x):
        self.last = super().forward(x)
        return self.last


class KeepsALog(Net):
    def forward(self, x):
        SEEN.append(len(x))
        return super().forward(x)


@pytest.mark.parametrize("kind", [KeepsItsOutput, KeepsALog])
def test_a_module_may_keep_what_no_later_call_looks_at(kind):
    assert relative_error(gi.itd(train(kind()), mlp().metric()), gi.itd(train(Net()), mlp().metric())) < 1e-12


class NoiseOfNumpy(Net):
    def forward(self, x):
        return super().forward(x) + 1e-9 * np.random.randn()  # noqa: NPY002


class RareNoise(Net):
    def forward(self, x):
        return super().forward(x) + (random.random() < 1e-9)


@pytest.mark.parametrize("kind", [NoiseOfNumpy, RareNoise])
def test_noise_of_any_generator_is_found(kind):
    with pytest.raises(ValueError, match=r"the discriminator gives something else for the same batch at each call"):
        train(kind())


NOISY = {
    "real": {"real": lambda a: softplus(-a) * (0.5 + torch.rand(len(a)))},
    "fake": {"fake": lambda a: softplus(a) * (0.5 + torch.rand(len(a)))},
    "generator": {"generator": lambda a: softplus(-a) * (0.5 + torch.rand(len(a)))},
}


@pytest.mark.parametrize("costs", NOISY.values(), ids=NOISY)
def test_a_noisy_loss_is_refused(costs):
    plain = {"real": lambda a: softplus(-a), "fake": softplus, "generator": lambda a: softplus(-a)}
    game = gi.Game(mlp().generator, mlp().discriminator, loss=RowLoss(**(plain | costs)))
    with pytest.raises(ValueError, match=r"the loss gives something else for the same batch at each call"):
        gi.train(game, mlp().data, mlp().schedule, 5, gi.SGD(0.1))


SCHEDULES = {
    "rows": lambda t: gi.Batch(torch.randperm(14)[:5], normal(t, 5, 2)),
    "latents": lambda t: gi.Batch(torch.arange(5), torch.randn(5, 2).double()),
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_a_schedule_that_is_no_function_of_the_step_is_refused(schedule):
    with pytest.raises(ValueError, match=r"the schedule gives another batch of step 0 at each call"):
        train(schedule=schedule)


@pytest.mark.parametrize("memory", ["full", "checkpoint"])
def test_a_schedule_that_is_pure_at_first_only_is_found_at_the_end(memory):
    drawn = []

    def schedule(t):
        drawn.append(t)
        return gi.Batch(torch.arange(14), normal(t if t < 6 else 100 + len(drawn), 14, 2))

    with pytest.raises(RuntimeError, match=r"step 9 of this run, taken once more, does not lead to the state"):
        mlp(schedule=schedule).train(10, memory=memory)


@pytest.mark.parametrize(
    "indices", [torch.tensor([0, 2, 0, 0, 0, 5]).to(kind) for kind in (torch.uint8, torch.int16, torch.int32)], ids=str
)
def test_indices_of_any_integer_type_name_rows(indices):
    latents = normal(1, 6, 1)
    problem = lqgan(6, schedule=lambda t: gi.Batch(indices, latents))
    expected = problem.but(schedule=lambda t: gi.Batch(torch.tensor([0, 2, 0, 0, 0, 5]), latents))
    assert same_bits(problem.train(50).theta(), expected.train(50).theta())
    assert same_bits(gi.itd(problem.train(5), problem.metric()), gi.itd(expected.train(5), problem.metric()))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (gi.Batch([0, 1], normal(0, 2, 2)), r"by a tensor of integers.*got list"),
        (gi.Batch(np.arange(2), normal(0, 2, 2)), r"by a tensor of integers.*got ndarray"),
        (gi.Batch(torch.ones(14).bool(), normal(0, 2, 2)), r"by a tensor of integers.*got torch.bool"),
        (gi.Batch(torch.ones(2), normal(0, 2, 2)), r"by a tensor of integers.*got torch.float32"),
        ([torch.arange(2), normal(0, 2, 2)], r"must give gi.Batch\(indices, latents, noise\) of step 0, got list"),
    ],
)
def test_other_batches_are_refused(batch, message):
    with pytest.raises(TypeError, match=message):
        train(schedule=lambda t: batch)


def test_a_batch_may_be_a_plain_pair():
    plain = train(schedule=lambda t: (torch.arange(3), normal(t, 3, 2)))
    assert same_bits(plain.theta(), train(schedule=lambda t: gi.Batch(torch.arange(3), normal(t, 3, 2))).theta())


# -------------------------------------------------------------------------------------------- a row's cost is its own


class Mixes(Net):
    """By a gain that starts at 0 and is trained."""

    def __init__(self, how):
        super().__init__()
        self.how, self.gain = how, nn.Parameter(torch.zeros(()).double())

    def forward(self, x):
        return super().forward(x)[:, 0] + self.gain * self.how(x)


class Threshold(Net):
    """It mixes once its bias has left 0 by so much."""

    def forward(self, x):
        logits = super().forward(x)[:, 0]
        far = (self.b.bias - BIAS).abs().sum().detach() > 0.05
        return logits - far * logits.mean()


BIAS = net()[1].bias.detach().clone()
MIXING = {
    "standard-deviation": lambda x: x.var(0, correction=0).mean(),
    "groups": lambda x: x.view(-1, len(x) // 2, 2).mean(0).repeat(2, 1).mean(1) if len(x) % 2 == 0 else x.mean(1),
    "sum-before": lambda x: x.cumsum(0)[:, 0],
}


@pytest.mark.parametrize("how", MIXING.values(), ids=MIXING)
def test_mixing_that_a_gain_switches_off_is_found_before_training(how):
    with pytest.raises(ValueError, match=r"the discriminator gives row \d+ of its batch the logit .* batch statistics"):
        train(Mixes(how))


def test_mixing_that_begins_while_training_is_found_at_its_end():
    with pytest.raises(ValueError, match=r"the discriminator gives row \d+ of its batch the logit .* batch statistics"):
        train(Threshold(), steps=200)


@pytest.mark.parametrize(
    "real", [lambda a: softplus(-(a - a.mean())), lambda a: softplus(-a) / len(a), lambda a: -a.log_softmax(0)]
)
def test_a_loss_that_mixes_rows_is_refused(real):
    loss = RowLoss(real=real, fake=softplus, generator=lambda a: softplus(-a))
    game = gi.Game(mlp().generator, mlp().discriminator, loss=loss)
    with pytest.raises(ValueError, match=r"the loss gives row \d+ of its batch the cost .* batch statistics"):
        gi.train(game, mlp().data, mlp().schedule, 5, gi.SGD(0.1))


def test_a_generator_may_use_batch_statistics_since_it_sees_no_row():
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2)).double()
    problem = mlp(generator=generator)
    trace = problem.train(10)
    truth = gi.counterfactual(trace, problem.metric(), [[0], [3]])
    for row, change in zip((0, 3), truth, strict=True):
        weights = torch.ones(14).double().index_fill(0, torch.tensor([row]), 0)
        apart = problem.metric()(problem.train(10, weights=weights)) - problem.metric()(trace)
        assert float(change) == pytest.approx(float(apart), abs=1e-12)


# ------------------------------------------------------------------------------------------ in place, and out of range


def in_place(*first):
    torch.manual_seed(0)
    return nn.Sequential(*first, nn.Linear(2, 2)).double()


class Doubles(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how, self.layer = how, nn.Linear(2, 1).double()

    def forward(self, x):
        return self.layer(self.how(x))


@pytest.mark.parametrize("steps", [30, 100])
@pytest.mark.parametrize("schedule", ["full", "minibatches"])
def test_a_first_layer_that_acts_in_place_changes_no_latents(steps, schedule):
    batches = mlp().schedule if schedule == "full" else gi.Minibatches(14, 5, (2,), seed=0)
    plain, acting = (
        train(generator=in_place(nn.ReLU(inplace=how)), schedule=batches, steps=steps) for how in (False, True)
    )
    metric = mlp().metric()
    for measured in (
        metric,
        lambda trace: gi.itd(trace, metric),
        lambda trace: gi.counterfactual(trace, metric, [[1]]),
    ):
        expected = measured(plain)
        torch.testing.assert_close(measured(acting), expected, rtol=0, atol=1e-13)
        assert same_bits(measured(plain), expected)


@pytest.mark.parametrize("update", ["simultaneous", "alternating"])
@pytest.mark.parametrize("make", [mlp, minibatch_mlp])
def test_a_discriminator_that_acts_in_place_changes_no_rows(make, update):
    torch.manual_seed(0)
    out, acting = Doubles(lambda x: x * 2), Doubles(lambda x: x.mul_(2))
    acting.layer = copy.deepcopy(out.layer)
    data = mlp().data.clone()
    one, other = (make(discriminator=module, data=data).train(12, update=update) for module in (out, acting))
    assert relative_error(other.theta(), one.theta()) < 1e-12
    assert same_bits(data, mlp().data)
    assert same_bits(other.data, mlp().data)


class Clamps(Net):
    def forward(self, x):
        with torch.no_grad():
            self.a.weight.clamp_(-0.1, 0.1)
        return super().forward(x)


class Renormalises(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.e, self.b = nn.Embedding(3, 8, max_norm=0.5).double(), net()[1]

    def forward(self, x):
        return self.b(x.sum(1, keepdim=True) * self.e((x > 0).sum(1)))


@pytest.mark.parametrize("kind", [Clamps, Renormalises])
def test_a_module_that_writes_into_its_parameters_is_refused(kind):
    with pytest.raises(ValueError, match=r"the discriminator writes into its own parameters when it is called"):
        train(kind())


class Logarithm(Net):
    def forward(self, x):
        return super().forward(x.log())


def test_a_logit_that_is_nan_is_not_taken_for_noise():
    with pytest.raises(ValueError, match=r"the discriminator gives row \d+ of its batch the logit nan, not a finite"):
        train(Logarithm(), data=normal(0, 14, 2))


def test_a_cost_that_is_infinite_at_the_start_is_named():
    loss = RowLoss(real=lambda a: softplus(-a), fake=softplus, generator=lambda a: (a - a).log())
    with pytest.raises(ValueError, match=r"the cost of the generator is NaN or infinite at the start of training"):
        gi.train(gi.Game(mlp().generator, mlp().discriminator, loss=loss), mlp().data, mlp().schedule, 5, gi.SGD(0.1))


class Norm(nn.Module):
    """Its second derivative is NaN at a row of zeros."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.a, self.b = nn.Linear(2, 4, bias=False).double(), nn.Linear(1, 1).double()

    def forward(self, x):
        return self.b(self.a(x).norm(dim=1, keepdim=True))


class Root(Norm):
    def forward(self, x):
        return self.b(self.a(x).abs().pow(1.5).sum(1, keepdim=True))


@pytest.mark.parametrize("kind", [Norm, Root])
@pytest.mark.parametrize(
    "estimate",
    [
        gi.itd,
        lambda trace, metric: gi.itd(trace, metric, at=[10, 20]),
        lambda trace, metric: gi.aid(trace, metric, terms=3),
        lambda trace, metric: gi.aid(trace, metric, solver="gmres", damping=1.0),
    ],
)
def test_a_second_derivative_that_is_nan_is_an_error_that_says_so(kind, estimate):
    data = mlp().data.clone()
    data[2] = 0
    trace = train(kind(), data=data)
    with pytest.raises(ValueError, match=r"NaN or infinite.* second derivative"):
        estimate(trace, mlp().metric())


@pytest.mark.parametrize(
    ("generator", "discriminator", "scale", "message"),
    [
        (nn.Identity(), nn.Sigmoid(), 1, "the discriminator ends in a sigmoid"),
        (nn.Identity(), gi.nn.Sigmoid(), 1, "the discriminator ends in a sigmoid"),
        (nn.Tanh(), nn.Identity(), 100, "the generator makes numbers from -1 to 1, but the data's rows have some"),
        (nn.Sigmoid(), nn.Flatten(0), 100, "the generator makes numbers from 0 to 1, but the data's rows have some"),
    ],
)
def test_values_in_ranges_that_do_not_belong_together_warn(generator, discriminator, scale, message):
    problem = mlp()
    game = gi.Game(nn.Sequential(problem.generator, generator), nn.Sequential(problem.discriminator, discriminator))
    with pytest.warns(RuntimeWarning, match=message):
        gi.train(game, scale * problem.data.abs(), problem.schedule, 0, gi.SGD(1e-3))


def test_latents_of_a_one_player_game_are_refused():
    pairs = normal(0, 9, 2), normal(1, 9, 1)
    game = gi.Game(None, nn.Linear(2, 1).double(), "squared_error")
    with pytest.raises(ValueError, match=r"a one-player game has no generator to take them"):
        gi.train(game, pairs, gi.FullBatch(normal(2, 9, 2)), 5, gi.SGD(0.1))


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.jit.script])
def test_modules_that_take_no_other_parameters_are_refused_by_name(wrap):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = wrap(nn.Linear(2, 1).double())
    with pytest.raises(TypeError, match=r"which cannot be called with other parameters than its own"):
        train(wrapped)
