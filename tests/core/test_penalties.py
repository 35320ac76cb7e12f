"""Penalties of slopes: in closed form, against ``requires_grad_()`` and ``autograd.grad``, and in unrolled training."""

import copy
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from support.games import normal, textbook_sgd
from support.unrolled import Plain, unrolled
from torch import nn
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.func import functional_call, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import softplus
from torch.nn.utils.parametrizations import spectral_norm

import gan_influence as gi
from gan_influence import penalties
from gan_influence.penalties import R1, R2, GradientPenalty, PathLength, added

EXACT = {"rtol": 1e-12, "atol": 1e-12}
IMAGE = (3, 5, 7)


def uniform(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def number(scalar):
    return float(scalar.detach())


def playing(discriminator=None, generator=None, moving=("generator", "discriminator"), **others):
    """The players as a cost sees them, without a game."""
    return SimpleNamespace(discriminator=discriminator, generator=generator, moving=frozenset(moving), **others)


def seen(rows=None, latents=None, noise=None, turn=0):
    return SimpleNamespace(rows=rows, latents=latents, noise=noise, turn=turn)


class Linear(nn.Module):
    """``<w, x> + b`` of rows of any shape."""

    def __init__(self, *shape):
        super().__init__()
        self.w = nn.Parameter(normal(90, 1, *shape)[0])
        self.b = nn.Parameter(normal(91, 1))

    def forward(self, x):
        return (x * self.w).reshape(len(x), -1).sum(1) + self.b


class Quadratic(nn.Module):
    """``<x, A x> / 2`` of flattened rows, with A symmetric."""

    def __init__(self, d):
        super().__init__()
        half = normal(92, d, d)
        self.A = nn.Parameter(half + half.T)

    def forward(self, x):
        flat = x.reshape(len(x), -1)
        return 0.5 * ((flat @ self.A) * flat).sum(1, keepdim=True)


class Bent(nn.Module):
    """Convolution, tanh and a linear layer, whose bias no slope reaches."""

    def __init__(self):
        super().__init__()
        self.convolution, self.last = nn.Conv2d(3, 2, 3), nn.Linear(2 * 3 * 5, 1)
        with torch.no_grad():
            for k, p in enumerate(self.parameters()):
                p.copy_(0.5 * normal(93 + k, *p.shape))
        self.double()

    def forward(self, x):
        return self.last(torch.tanh(self.convolution(x)).flatten(1))


def slope_by_hand(discriminator, x):
    """The gradient of each logit by itself, one row after the other, flattened: ``(n, d)``."""
    rows = []
    for row in x.detach():
        alone = row.clone().requires_grad_()
        (slope,) = grad(discriminator(alone[None]).sum(), alone, create_graph=True)
        rows.append(slope.flatten())
    return torch.stack(rows)


# What the terms are


@pytest.mark.parametrize("weight", [0.3, 10])
def test_r1_of_a_linear_discriminator_is_its_weight_and_so_is_the_slope_of_r1(weight):
    discriminator, x = Linear(*IMAGE), normal(0, 4, *IMAGE)
    terms = R1(weight).terms(playing(discriminator), seen(x))
    expected = weight / 2 * discriminator.w.detach().square().sum()
    torch.testing.assert_close(terms, expected.expand(4), **EXACT)
    (slope,) = grad(terms.mean(), discriminator.w)
    torch.testing.assert_close(slope, weight * discriminator.w.detach(), **EXACT)


def test_r1_of_a_quadratic_discriminator_is_that_of_its_matrix():
    discriminator, x = Quadratic(4), normal(0, 5, 2, 2)
    terms = R1(3.0).terms(playing(discriminator), seen(x))
    A, flat = discriminator.A.detach(), x.reshape(5, 4)
    torch.testing.assert_close(terms, 1.5 * (flat @ A).square().sum(1), **EXACT)
    (slope,) = grad(terms.sum(), discriminator.A)
    # d |sym(A) x|^2 / dA, with sym(A) = (A + A^T) / 2, since A is not kept symmetric
    by_A = 1.5 * sum(torch.outer(A @ v, v) + torch.outer(v, A @ v) for v in flat)
    torch.testing.assert_close(slope, by_A, **EXACT)


@pytest.mark.parametrize("shape", [(), (3,), IMAGE], ids=str)
def test_rows_of_any_shape_have_one_slope_each(shape):
    discriminator, x = Linear(*shape), normal(0, 2, *shape)
    expected = 0.5 * discriminator.w.detach().square().sum()
    torch.testing.assert_close(R1(1.0).terms(playing(discriminator), seen(x)), expected.expand(2), **EXACT)


def test_images_have_the_norm_of_all_their_numbers_and_not_one_a_pixel():
    discriminator, x, z, e = Bent(), normal(0, 4, *IMAGE), normal(1, 4, *IMAGE), uniform(2, 4)
    players, batch = playing(discriminator, generator=torch.tanh), seen(x, z, e)
    squares = slope_by_hand(discriminator, x).square().sum(1)
    torch.testing.assert_close(R1(3.0).terms(players, batch), 1.5 * squares, **EXACT)
    squares = slope_by_hand(discriminator, torch.tanh(z)).square().sum(1)
    torch.testing.assert_close(R2(3.0).terms(players, batch), 1.5 * squares, **EXACT)
    between = torch.stack([e[i] * x[i] + (1 - e[i]) * torch.tanh(z[i]) for i in range(4)])
    norms = slope_by_hand(discriminator, between).square().sum(1).sqrt()
    torch.testing.assert_close(GradientPenalty().terms(players, batch), 10 * (norms - 1) ** 2, **EXACT)
    torch.testing.assert_close(
        GradientPenalty(2.0, every=3, target=0.5).terms(players, batch), 6 * (norms - 0.5) ** 2, **EXACT
    )


def test_the_penalty_is_differentiated_and_not_a_constant():
    discriminator, x = Bent(), normal(0, 4, *IMAGE)
    for penalty in (R1(3.0), R2(3.0), GradientPenalty(3.0)):
        batch = seen(x, normal(1, 4, *IMAGE), uniform(2, 4))
        terms = penalty.terms(playing(discriminator, torch.tanh), batch)
        found = grad(terms.mean(), list(discriminator.parameters()), materialize_grads=True)
        at = {"R1": x, "R2": batch.latents.tanh()}.get(type(penalty).__name__)
        if at is None:
            e = batch.noise[:, None, None, None]
            at = e * x + (1 - e) * batch.latents.tanh()
        squares = slope_by_hand(discriminator, at).square().sum(1)
        of_norms = (squares.sqrt() - 1) ** 2 if isinstance(penalty, GradientPenalty) else squares / 2
        expected = grad(3 * of_norms.mean(), list(discriminator.parameters()), materialize_grads=True)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, **EXACT)


def test_r1_is_of_the_logit_whatever_the_loss():
    x = normal(0, 4, 2)
    terms = [
        R1(1.0).terms(playing(discriminator), seen(x))
        for discriminator in (Linear(2), lambda rows: Linear(2)(rows)[:, None])
    ]
    torch.testing.assert_close(*terms)
    with pytest.raises(ValueError, match="one logit a row"):
        R1(1.0).terms(playing(lambda rows: rows), seen(x))


def test_r2_and_the_gradient_penalty_reach_the_generator_through_its_rows():
    """A sweep needs that: ``d grad_psi L_D / d phi``."""
    scale, z = torch.tensor(0.7, dtype=torch.float64, requires_grad=True), normal(1, 4, 4)
    discriminator = Quadratic(4)
    A = discriminator.A.detach()
    players = playing(discriminator, lambda z: scale * z)
    (found,) = grad(R2(2.0).terms(players, seen(None, z)).sum(), scale)
    torch.testing.assert_close(found, 2 * 0.7 * (z @ A).square().sum(), **EXACT)
    assert float(grad(GradientPenalty().terms(players, seen(normal(0, 4, 4), z, uniform(2, 4))).sum(), scale)[0])


@pytest.mark.parametrize("penalty", [R1(2.0), R2(2.0), GradientPenalty()], ids=str)
def test_rows_generated_by_the_cost_are_not_generated_again(penalty):
    def generator(z):
        raise AssertionError

    x, z, e = normal(0, 4, *IMAGE), normal(1, 4, *IMAGE), uniform(2, 4)
    found = penalty.terms(playing(Bent(), generator), seen(x, z, e), torch.tanh(z))
    assert torch.equal(found, penalty.terms(playing(Bent(), torch.tanh), seen(x, z, e)))


@pytest.mark.parametrize("form", [(4,), (4, 1), (4, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("entry", [None, "interpolation"])
def test_equal_rows_with_equal_numbers_have_equal_terms(form, entry):
    """And others have others: the number is one a row."""
    x, z, e = normal(0, 1, *IMAGE).expand(4, *IMAGE), normal(1, 1, *IMAGE).expand(4, *IMAGE), uniform(2, 4)
    e[1] = e[0]
    noise = e.view(form) if entry is None else {entry: e.view(form), "other": normal(3, 4, 2)}
    terms = GradientPenalty().terms(playing(Bent(), torch.tanh), seen(x, z, noise))
    torch.testing.assert_close(terms[0], terms[1], **EXACT)
    assert len({round(float(term), 9) for term in terms.detach()}) == 3
    alone = GradientPenalty().terms(playing(Bent(), torch.tanh), seen(x[:1], z[:1], e[:1]))
    torch.testing.assert_close(terms[:1], alone, **EXACT)


@pytest.mark.parametrize("which", ["nothing", "the rows", "the last layer"])
def test_where_the_discriminator_does_not_look_all_derivatives_are_finite(which):
    """Of three orders, as a sweep takes them; in closed form the term is (0 - target)^2."""
    discriminator = Bent()
    with torch.no_grad():
        if which == "the rows":
            discriminator.convolution.weight.zero_()
        elif which == "the last layer":
            discriminator.last.weight.zero_()
    x, z, e = normal(0, 4, *IMAGE), normal(1, 4, *IMAGE), uniform(2, 4)
    parameters = list(discriminator.parameters())
    paid = GradientPenalty(10.0, target=2.0).terms(playing(discriminator, torch.tanh), seen(x, z, e)).mean()
    if which != "nothing":
        assert number(paid) == pytest.approx(40, rel=1e-12)
    for _ in range(3):
        slopes = grad(paid, parameters, create_graph=True, materialize_grads=True)
        assert all(slope.isfinite().all() for slope in slopes)
        paid = sum((slope * (1 + slope)).sum() for slope in slopes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-20, 1e-10, 1e-6])
def test_tiny_slopes_overflow_in_no_derivative(size, dtype):
    w = torch.full((3,), size, dtype=dtype, requires_grad=True)
    x, e = normal(0, 2, 3).to(dtype), uniform(2, 2).to(dtype)
    paid = GradientPenalty().terms(playing(lambda x: x @ w, torch.tanh), seen(x, x, e)).sum()
    for _ in range(3):
        (slope,) = grad(paid, w, create_graph=True, materialize_grads=True)
        assert slope.isfinite().all()
        paid = (slope * torch.arange(1, 4)).sum() if slope.requires_grad else (w * 0).sum()


def test_parameters_that_no_slope_reaches_have_the_slope_zero():
    discriminator = Bent()
    paid = R1(2.0).terms(playing(discriminator), seen(normal(0, 4, *IMAGE))).mean()
    found = dict(
        zip(
            dict(discriminator.named_parameters()),
            grad(paid, list(discriminator.parameters()), materialize_grads=True),
            strict=True,
        )
    )
    assert not found["last.bias"].any()
    assert found["convolution.bias"].any()


def test_rows_in_several_parts_have_the_slopes_of_all_their_numbers_and_labels_have_none():
    w, v, labels = normal(0, 3), normal(1, 2, 2), torch.tensor([0, 1, 1, 0])

    def discriminator(rows):
        return rows["x"] @ w + (rows["y"] * v).sum((1, 2)) * (1 + rows["label"])

    rows = {"x": normal(2, 4, 3), "y": normal(3, 4, 2, 2), "label": labels}
    expected = w.square().sum() + v.square().sum() * (1 + labels) ** 2
    torch.testing.assert_close(R1(2.0).terms(playing(discriminator), seen(rows)), expected, **EXACT)
    fake = {"x": normal(4, 4, 3), "y": normal(5, 4, 2, 2), "label": 1 - labels}  # of no account: the row has its own
    terms = GradientPenalty().terms(playing(discriminator), seen(rows, noise=uniform(6, 4)), fake)
    torch.testing.assert_close(terms, 10 * (expected.sqrt() - 1) ** 2, **EXACT)
    with pytest.raises(TypeError, match="floating-point rows"):
        R1(2.0).terms(playing(lambda rows: rows.sum(1)), seen(labels[:, None]))


# What is added to whom


def of(rows=None, rest=None):
    return gi.Costs(rows or {}, rest or {})


def test_a_masked_term_goes_to_its_row_and_another_to_the_rest_as_a_mean():
    x, paid = normal(0, 4, 2, 2), normal(5, 4)
    players, terms = playing(Quadratic(4)), R1(2.0).terms(playing(Quadratic(4)), seen(x))
    first, second = paid[:2].unbind()
    before = of({"discriminator": paid}, {"discriminator": first, "generator": second})
    kept = {part: dict(getattr(before, part)) for part in ("rows", "rest")}
    masked = added(before, [R1(2.0, masked=True)], players, seen(x))
    torch.testing.assert_close(masked.rows["discriminator"], paid + terms, **EXACT)
    assert masked.rest == kept["rest"]
    left = added(before, [R1(2.0)], players, seen(x))
    torch.testing.assert_close(left.rest["discriminator"], first + terms.sum() / 4, **EXACT)
    assert left.rest["generator"] is second
    assert left.rows == kept["rows"]
    assert (dict(before.rows), dict(before.rest)) == (kept["rows"], kept["rest"])
    alone = added(of(), [R1(2.0), R1(2.0, masked=True), R1(1.0)], players, seen(x))
    torch.testing.assert_close(alone.rows["discriminator"], terms, **EXACT)
    torch.testing.assert_close(alone.rest["discriminator"], 1.5 * terms.mean(), **EXACT)


def test_only_a_player_that_moves_pays():
    def discriminator(rows):
        raise AssertionError

    batch = seen(normal(0, 4, 2), normal(1, 4, 2), uniform(2, 4))
    players = playing(discriminator, torch.tanh, moving=["generator"])
    for penalty in (R1(1.0), R1(1.0, masked=True), R2(1.0), GradientPenalty()):
        assert added(of(), [penalty], players, batch) == of()


@pytest.mark.parametrize("every", [1, 4, 16])
def test_a_lazy_penalty_is_added_at_its_turns_and_then_as_often_as_it_was_left_out(every):
    x, players = normal(0, 4, 4), playing(Quadratic(4))
    once = R1(2.0).terms(players, seen(x)).mean()
    paid = [
        number(
            added(of(), [R1(2.0, every=every)], players, seen(x, turn=turn)).rest.get("discriminator", x.new_zeros(()))
        )
        for turn in range(32)
    ]
    assert [turn for turn in range(32) if paid[turn]] == list(range(0, 32, every))
    assert sum(paid) == pytest.approx(32 * number(once), rel=1e-12)
    assert R1(2.0, every=every).factor == 2.0 * every


def test_a_game_that_repeats_itself_at_other_turns_is_refused():
    """Its cost would see turn 0 at every step."""
    penalised = []

    def cost(players, batch):
        return added(of(rest={"discriminator": players.discriminator(batch.rows).sum()}), penalised, players, batch)

    for many, period in (([R1(1.0, every=4)], None), ([R1(1.0, every=4)], 6), ([R1(1.0), R2(1.0, every=3)], 1)):
        penalised[:] = many
        game = gi.Game(players={"discriminator": Linear(3)}, cost=cost, period=period)
        with pytest.raises(ValueError, match=r"added every \d steps, but the game's period is"):
            gi.train(game, normal(0, 4, 3), gi.FullBatch(), steps=1, optimizer=gi.SGD(0.1))


# Derivatives of a step: through torch's layers and ours, for several models, recorded


def dcgan_game():
    """Both players as functions of a vector, images and latents, and what the discriminator pays by autograd alone."""
    generator, discriminator = gi.models.dcgan(channels=2, image_size=8, latent_size=3, dtype=torch.float64, seed=0)
    x, z, e = normal(0, 3, 1, 8, 8).tanh(), normal(1, 3, 3), uniform(2, 3)
    named = {name: p.detach() + 0.3 * normal(7, *p.shape) for name, p in discriminator.named_parameters()}
    theta = torch.cat([p.flatten() for p in named.values()])
    sizes, shapes = [p.numel() for p in named.values()], [p.shape for p in named.values()]

    def at(theta):
        parts = [part.view(shape) for part, shape in zip(theta.split(sizes), shapes, strict=True)]
        return lambda rows: functional_call(discriminator, dict(zip(named, parts, strict=True)), (rows,))

    def paid(penalty, theta):
        players = playing(at(theta), generator)
        return added(of(), [penalty], players, seen(x, z, e)).rest["discriminator"]

    def by_autograd(penalty, theta):
        fake = generator(z).detach()
        own = e[:, None, None, None]
        rows = {"R1": x, "R2": fake, "GradientPenalty": own * x + (1 - own) * fake}[type(penalty).__name__]
        rows = rows.clone().requires_grad_()
        (slope,) = grad(at(theta)(rows).sum(), rows, create_graph=True)
        squares = slope.flatten(1).square().sum(1)
        return (10 * (squares.sqrt() - 1) ** 2 if isinstance(penalty, GradientPenalty) else squares).mean()

    return theta, paid, by_autograd


each_of_discriminator = pytest.mark.parametrize("penalty", [R1(2.0), R2(2.0), GradientPenalty()], ids=str)


def gradient(cost, theta):
    return grad(cost(theta), theta, create_graph=True)[0]


@each_of_discriminator
def test_through_the_dcgan_it_equals_autograd_to_the_third_derivative(penalty):
    start, paid, by_autograd = dcgan_game()
    c, d = normal(3, len(start)), normal(4, len(start))
    found = []
    for cost in (paid, by_autograd):
        theta = start.clone().requires_grad_()
        first = gradient(lambda theta, cost=cost: cost(penalty, theta), theta)
        (second,) = grad(first @ c, theta, create_graph=True)
        (third,) = grad(second @ d, theta)
        found.append((cost(penalty, theta), first, second, third))
    for one, other in zip(*found, strict=True):
        assert number((one - other).norm() / other.norm()) < 1e-10


@each_of_discriminator
def test_through_the_dcgan_each_derivative_is_the_difference_of_the_one_before(penalty):
    """A sweep's ``J^T c`` is the second derivative of the cost, and the third of the discriminator.

    Of half the step the error is a quarter.
    """
    start, paid, _ = dcgan_game()
    c, d = normal(3, len(start)), normal(4, len(start)) / len(start) ** 0.5

    def first(theta):
        theta = theta.clone().requires_grad_()
        return gradient(lambda theta: paid(penalty, theta), theta).detach()

    def second(theta):
        theta = theta.clone().requires_grad_()
        return grad(gradient(lambda theta: paid(penalty, theta), theta) @ c, theta)[0]

    theta = start.clone().requires_grad_()
    product = gradient(lambda theta: gradient(lambda theta: paid(penalty, theta), theta) @ c, theta)
    further = grad(product @ c, theta)[0]
    for exact, below in ((product.detach() @ d, lambda t: first(t) @ c), (further @ d, lambda t: second(t) @ c)):
        errors = [
            number(abs((below(start + h * d) - below(start - h * d)) / (2 * h) - exact)) for h in (4e-3, 2e-3, 1e-3)
        ]
        assert errors[-1] < 1e-3 * number(abs(exact))
        assert all(3 < coarse / fine < 5 for coarse, fine in pairwise(errors))


@each_of_discriminator
def test_several_models_at_once_equal_each_alone(penalty):
    start, paid, _ = dcgan_game()
    c = normal(3, len(start))

    def product(theta):
        return torch.func.grad(lambda theta: torch.func.grad(lambda theta: paid(penalty, theta))(theta) @ c)(theta)

    models = torch.stack([start, start + 0.1 * normal(5, len(start)), 0.8 * start])
    alone = torch.stack([product(one) for one in models])
    assert number((vmap(product)(models) - alone).norm() / alone.norm()) < 1e-10
    stacked = models.clone().requires_grad_()
    costs = vmap(lambda theta: paid(penalty, theta))(stacked)
    field = grad(costs.sum(), stacked, create_graph=True)[0]
    assert number((grad((field * c).sum(), stacked)[0] - alone).norm() / alone.norm()) < 1e-10


@each_of_discriminator
def test_a_recording_without_numbers_gives_the_same_at_other_parameters(penalty):
    start, paid, _ = dcgan_game()
    c = normal(3, len(start))

    def product(theta):
        theta = theta.detach().requires_grad_()
        return grad(gradient(lambda theta: paid(penalty, theta), theta) @ c, theta)[0].detach()

    recorded = make_fx(product, tracing_mode="fake", _allow_non_fake_inputs=True)(start)
    torch.testing.assert_close(recorded(0.9 * start), product(0.9 * start), **EXACT)


@pytest.mark.parametrize("penalty", [R1(2.0), GradientPenalty()], ids=str)
def test_derivatives_by_rows_are_right_too(penalty):
    """As where an augmentation, or a player that makes rows, stands before the penalty."""
    discriminator, e = Bent(), uniform(2, 2)
    x = normal(0, 2, *IMAGE).requires_grad_()

    def terms(x):
        return penalty.terms(playing(discriminator, torch.tanh), seen(x, normal(1, 2, *IMAGE), e))

    assert gradcheck(terms, x)
    assert gradgradcheck(terms, x)


# In a game: training, the sweep and retraining against the same run in plain torch


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 3), nn.Linear(3, 2)

    def forward(self, z):
        return self.last(torch.tanh(self.first(z)))


def players_of(discriminator):
    modules = {"generator": Generator(), "discriminator": discriminator}
    for module in modules.values():
        module.double()
        with torch.no_grad():
            for k, p in enumerate(module.parameters()):
                p.copy_(0.6 * normal(80 + k, *p.shape))
    return modules


def plain():
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))


def normalised():
    return nn.Sequential(spectral_norm(nn.Linear(2, 4)), nn.Tanh(), nn.Linear(4, 1))


SCHEDULE = gi.Minibatches(
    size=6, batch_size=4, latent_shape=(2,), dtype=torch.float64, noise=lambda rng, n: rng.random(n), seed=3
)
DATA, FRESH = normal(0, 6, 2, mean=1.0), normal(9, 5, 2)


def plain_cost(penalty):
    """The non-saturating GAN and the penalty written with ``autograd.grad``: ``(rows, rest)``."""

    def slope(players, at):
        return grad(players.discriminator(at).sum(), at, create_graph=True)[0].square().sum(1)

    def cost(players, batch):
        rows, discriminates = {}, "discriminator" in players.moving
        if discriminates:
            rows["discriminator"] = softplus(-players.discriminator(batch.rows).squeeze(1))
        generated = players.generator(batch.latents)
        fake = players.discriminator(generated).squeeze(1)
        rest = {"discriminator": softplus(fake).mean(), "generator": softplus(-fake).mean()}
        if discriminates and batch.time % penalty.every == 0:
            factor = penalty.weight * penalty.every
            if isinstance(penalty, R1):
                terms = factor / 2 * slope(players, batch.rows.clone().requires_grad_())
            elif isinstance(penalty, R2):
                terms = factor / 2 * slope(players, generated)
            else:
                e = batch.noise[:, None]
                terms = factor * (slope(players, e * batch.rows + (1 - e) * generated).sqrt() - penalty.target) ** 2
            if penalty.masked:
                rows["discriminator"] = rows["discriminator"] + terms
            else:
                rest["discriminator"] = rest["discriminator"] + terms.mean()
        return rows, rest

    return cost


def metric(players):
    return players.generator(FRESH).square().mean()


def run_in_plain_torch(modules, penalty, steps, weights):
    groups = [[["discriminator"], ["generator"]]]
    moves = dict.fromkeys(modules, textbook_sgd(0.1))
    run = unrolled(copy.deepcopy(modules), plain_cost(penalty), DATA, SCHEDULE, steps, moves, groups, weights)
    return torch.cat([run.at["generator"], run.at["discriminator"]])


def measured(modules, theta):
    generator = modules["generator"]
    sizes = [p.numel() for p in generator.parameters()]
    parts = zip(generator.named_parameters(), theta[: sum(sizes)].split(sizes), strict=True)
    named = {name: part.view_as(p) for (name, p), part in parts}
    return functional_call(generator, named, (FRESH,)).square().mean()


RUNS = {
    "R1, masked": R1(2.0, masked=True),
    "R1, left": R1(2.0),
    "R1, lazy": R1(0.5, every=4),
    "R1, lazy and masked": R1(0.5, every=3, masked=True),
    "R2": R2(2.0),
    "GradientPenalty": GradientPenalty(2.0),
    "GradientPenalty, lazy": GradientPenalty(1.0, every=2, target=0.5),
}


@pytest.mark.parametrize("penalty", RUNS.values(), ids=RUNS)
def test_itd_and_retraining_equal_those_of_unrolled_training(penalty):
    steps, modules = 70, players_of(plain())
    game = gi.Game(*modules.values(), loss="non_saturating", penalties=[penalty])
    trace = gi.train(game, DATA, SCHEDULE, steps, optimizer=gi.SGD(0.1), update="alternating")
    weights = torch.ones(6, dtype=torch.float64, requires_grad=True)
    theta = run_in_plain_torch(modules, penalty, steps, weights)
    torch.testing.assert_close(trace.theta(), theta.detach(), rtol=1e-10, atol=1e-10)
    (slope,) = grad(measured(modules, theta), weights)
    torch.testing.assert_close(gi.itd(trace, metric), -slope, rtol=1e-9, atol=1e-10 * float(slope.abs().max()))
    truth = []
    for row in (0, 4):
        without = torch.ones(6, dtype=torch.float64).index_fill(0, torch.tensor([row]), 0.0)
        gone = run_in_plain_torch(modules, penalty, steps, without)
        truth.append(number(measured(modules, gone) - measured(modules, theta)))
    torch.testing.assert_close(
        gi.counterfactual(trace, metric, [[0], [4]]), torch.tensor(truth, dtype=torch.float64), rtol=1e-8, atol=1e-11
    )


def test_a_masked_penalty_leaves_with_its_row_and_another_stays():
    modules = players_of(plain())
    alone = {}
    for masked in (True, False):
        game = gi.Game(*modules.values(), loss="non_saturating", penalties=[R1(2.0, masked=masked)])
        trace = gi.train(game, DATA, SCHEDULE, 9, optimizer=gi.SGD(0.1))
        alone[masked] = trace.theta(), gi.itd(trace, metric)
    torch.testing.assert_close(alone[True][0], alone[False][0], **EXACT)
    assert float((alone[True][1] - alone[False][1]).abs().max() / alone[True][1].abs().max()) > 1e-2


@pytest.mark.parametrize(
    "penalty", [R1(2.0, masked=True), R1(2.0), R2(2.0), GradientPenalty(2.0)], ids=["masked", "left", "R2", "WGAN-GP"]
)
def test_aid_of_minibatches_equals_dense_matrices(penalty):
    """``score_j = (eta / N) grad rows_j . sum_m Z_m^T ... Z_1^T grad E``: only a masked penalty is in a row's cost."""
    modules, eta, steps, terms = players_of(plain()), 0.1, 8, 6
    game = gi.Game(*modules.values(), loss="non_saturating", penalties=[penalty])
    trace = gi.train(game, DATA, SCHEDULE, steps, optimizer=gi.SGD(eta))
    theta, sizes = trace.theta(), [sum(p.numel() for p in module.parameters()) for module in modules.values()]

    def costs(theta, batch):
        at = dict(zip(modules, theta.split(sizes), strict=True))
        return plain_cost(penalty)(Plain(modules, at, {name: {} for name in modules}, frozenset(modules)), batch)

    def batch_of(t):
        of = SCHEDULE(t)
        return SimpleNamespace(rows=DATA[of.indices], latents=of.latents, noise=of.noise, time=torch.tensor(t))

    def field(theta, batch):
        leaf = theta if theta.requires_grad else theta.clone().requires_grad_()
        rows, rest = costs(leaf, batch)
        rest = {**rest, "discriminator": rest["discriminator"] + rows["discriminator"].mean()}
        of = [grad(rest[name], leaf, create_graph=True)[0].split(sizes)[k] for k, name in enumerate(modules)]
        return torch.cat(of)

    w = term = grad(measured(modules, leaf := theta.clone().requires_grad_()), leaf)[0]
    for t in range(steps, steps + terms - 1):
        J = torch.autograd.functional.jacobian(lambda theta, t=t: field(theta, batch_of(t)), theta)
        term = term - eta * J.T @ term
        w = w + term
    every = SimpleNamespace(rows=DATA, latents=normal(0, 6, 2), noise=uniform(0, 6), time=torch.tensor(0))
    by_row = torch.autograd.functional.jacobian(lambda theta: costs(theta, every)[0]["discriminator"], theta)
    by_row[:, : sizes[0]] = 0  # a row's cost is the discriminator's
    torch.testing.assert_close(gi.aid(trace, metric, terms=terms), eta / 6 * by_row @ w, rtol=1e-9, atol=1e-14)


@pytest.mark.filterwarnings("ignore:the second derivative of a step:RuntimeWarning")
@pytest.mark.parametrize("penalty", [R1(0.7), R1(0.7, every=3), R2(0.7), GradientPenalty(0.7)], ids=str)
def test_vectors_of_spectral_norm_move_in_the_penalty_too(penalty):
    """Every call counts: on reals, on fakes and in the penalty."""
    modules = players_of(normalised())
    game = gi.Game(*modules.values(), loss="non_saturating", penalties=[penalty])
    trace = gi.train(game, DATA, SCHEDULE, 30, optimizer=gi.SGD(0.1), update="alternating")
    expected = run_in_plain_torch(modules, penalty, 30, torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(trace.theta(), expected, rtol=1e-9, atol=1e-10)
    assert gi.itd(trace, metric).isfinite().all()
    found = gi.counterfactual(trace, metric, [[0], [4]])
    without = torch.ones(6, dtype=torch.float64).index_fill(0, torch.tensor([4]), 0.0)
    gone = run_in_plain_torch(modules, penalty, 30, without)
    assert float(found[1]) == pytest.approx(number(measured(modules, gone) - measured(modules, expected)), rel=1e-6)


# StyleGAN2's path length


def path_length_game(penalty):
    def cost(players, batch):
        real = players.discriminator(batch.rows).squeeze(1)
        generated = players.generator(batch.latents)
        fake = players.discriminator(generated).squeeze(1)
        costs = gi.Costs(
            {"discriminator": softplus(-real)},
            {"discriminator": softplus(fake).mean(), "generator": softplus(-fake).mean()},
        )
        return added(costs, [penalty], players, batch, generated)

    modules = players_of(plain())
    return modules, gi.Game(players={**modules, "path_length": penalty}, cost=cost, period=penalty.every)


def test_lengths_of_a_linear_generator_are_those_of_its_matrix_and_their_mean_runs():
    matrix, z = normal(0, 2, 3).requires_grad_(), normal(1, 4, 2)
    y = [normal(2, 4, 3), normal(3, 4, 3)]
    penalty = PathLength(3.0, decay=0.25, every=2)
    players = playing(generator=lambda z: z @ matrix, path_length=penalty)
    mean = 0.0
    for noise in (y[0], {"path": y[1], "interpolation": uniform(0, 4)}):
        terms = penalty.terms(players, seen(None, z, noise))
        own = noise["path"] if isinstance(noise, dict) else noise
        lengths = (own @ matrix.detach().T).square().sum(1).sqrt()
        mean = mean + 0.25 * (float(lengths.mean()) - mean)
        torch.testing.assert_close(terms.detach(), 6 * (lengths - mean) ** 2, **EXACT)
        assert float(penalty.mean) == pytest.approx(mean, rel=1e-12)
        assert not penalty.mean.requires_grad


def test_the_derivative_passes_through_this_steps_lengths_in_their_mean_and_no_earlier_ones():
    matrix, z, y = normal(0, 2, 3), normal(1, 4, 2), normal(2, 4, 3)

    def terms(matrix):
        penalty = PathLength(3.0, decay=0.25)
        penalty.mean.fill_(0.7)
        return penalty.terms(playing(generator=lambda z: z @ matrix, path_length=penalty), seen(None, z, y))

    assert gradcheck(terms, matrix.clone().requires_grad_())
    assert gradgradcheck(terms, matrix.clone().requires_grad_())


@pytest.mark.parametrize("every", [1, 2])
def test_a_game_with_path_length_equals_unrolled_training_with_the_same_mean(every):
    steps, penalty = 20, PathLength(0.5, decay=0.2, every=every)
    modules, game = path_length_game(penalty)
    schedule = gi.Minibatches(
        size=6, batch_size=4, latent_shape=(2,), noise=lambda rng, n: {"path": rng.standard_normal((n, 2))}, seed=3
    )
    trace = gi.train(game, DATA, schedule, steps, optimizer=gi.SGD(0.1), update="alternating")

    def by_hand(weights):
        at = {
            name: [p.detach().clone().requires_grad_() for p in module.parameters()] for name, module in modules.items()
        }

        def call(name, x):
            named = dict(zip(dict(modules[name].named_parameters()), here[name], strict=True))
            return functional_call(modules[name], named, (x,))

        mean = torch.zeros((), dtype=torch.float64)
        for t in range(steps):
            batch = schedule(t)
            for name in ("generator", "discriminator"):  # as in players=
                here = {name: [p.clone() for p in own] for name, own in at.items()}  # or D's slope is G's move's too
                z = batch.latents.clone().requires_grad_()
                generated = call("generator", z)
                fake = call("discriminator", generated)
                if name == "discriminator":
                    real = softplus(-call(name, DATA[batch.indices])).squeeze(1)
                    paid = (weights[batch.indices] * real).sum() / len(real) + softplus(fake).mean()
                else:
                    paid = softplus(-fake).mean()
                    if t % every == 0:
                        (slope,) = grad((generated * batch.noise["path"]).sum(), z, create_graph=True)
                        lengths = slope.square().sum(1).sqrt()
                        moved = mean + 0.2 * (lengths.mean() - mean)
                        paid = paid + 0.5 * every * (lengths - moved).square().mean()
                        mean = moved.detach()
                slopes = grad(paid, here[name], create_graph=True)
                at[name] = [p - 0.1 * slope for p, slope in zip(at[name], slopes, strict=True)]
        return torch.cat([p.flatten() for own in at.values() for p in own]), mean

    weights = torch.ones(6, dtype=torch.float64, requires_grad=True)
    theta, mean = by_hand(weights)
    torch.testing.assert_close(trace.theta(), theta.detach(), rtol=1e-10, atol=1e-10)
    assert float(trace.held()["path_length.mean"]) == pytest.approx(number(mean), rel=1e-10)
    assert float(penalty.mean) == 0.0
    (slope,) = grad(measured(modules, theta), weights)
    torch.testing.assert_close(gi.itd(trace, metric), -slope, rtol=1e-8, atol=1e-9 * float(slope.abs().max()))
    without = torch.ones(6, dtype=torch.float64).index_fill(0, torch.tensor([4]), 0.0)
    gone, _ = by_hand(without)
    found = gi.counterfactual(trace, metric, [[1], [4]])[1]
    assert float(found) == pytest.approx(number(measured(modules, gone) - measured(modules, theta)), rel=1e-7)


# What is refused


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (None, r"needs one number a row, 4 in all, as batch\.noise or its entry 'interpolation', got no noise"),
        ({}, "got no noise"),
        ({"path": uniform(0, 4)}, "got noise with the entries 'path'"),
        ((uniform(0, 4),), "got tuple"),
        (torch.arange(4), r"got torch\.int64"),
        (torch.tensor(0.5), r"4 in all, got noise of shape \(\)"),
        (uniform(0, 3), r"got noise of shape \(3,\)"),
        (uniform(0, 1, 4), r"got noise of shape \(1, 4\)"),
        (uniform(0, 4, *IMAGE), r"got noise of shape \(4, 3, 5, 7\): noise=lambda rng, n: rng\.random\(n\)"),
        (uniform(0, 4, 3, 1, 1), r"got noise of shape \(4, 3, 1, 1\)"),
    ],
    ids=range(10),
)
def test_interpolation_without_one_number_a_row_is_refused(noise, message):
    batch = seen(normal(0, 4, *IMAGE), normal(1, 4, *IMAGE), noise)
    with pytest.raises(ValueError, match=message):
        GradientPenalty().terms(playing(Bent(), torch.tanh), batch)


@pytest.mark.parametrize(
    "generated",
    [normal(1, 3, *IMAGE), normal(1, 1, *IMAGE), normal(1, 4, 105), normal(1, 4, 1, 5, 7), (normal(1, 4, *IMAGE),)],
    ids=["fewer", "one", "flat", "grey", "tuple"],
)
def test_other_generated_rows_than_rows_are_refused(generated):
    batch = seen(normal(0, 4, *IMAGE), None, uniform(2, 4))
    with pytest.raises(ValueError, match=r"the rows have shape \(4, 3, 5, 7\), the generated ones .*as many latents"):
        GradientPenalty().terms(playing(Bent()), batch, generated)


@pytest.mark.parametrize("make", [R1, R2, GradientPenalty, PathLength])
@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf"), "1", True, None])
def test_a_weight_is_a_number_above_0(make, weight):
    with pytest.raises(ValueError, match=rf"{make.__name__}'s weight must be a finite number > 0, got {weight!r}"):
        make(weight)


@pytest.mark.parametrize("make", [R1, R2, GradientPenalty, PathLength])
@pytest.mark.parametrize("every", [0, -4, 2.0, True, None])
def test_every_is_a_number_of_steps(make, every):
    with pytest.raises(ValueError, match=rf"{make.__name__}'s every must be a whole number of steps >= 1, got {every}"):
        make(1.0, every=every)


def test_other_settings_are_refused():
    with pytest.raises(TypeError, match="masked must be True or False, got 1"):
        R1(1.0, masked=1)
    with pytest.raises(ValueError, match="target must be a number >= 0, got -1"):
        GradientPenalty(target=-1)
    for decay in (0, 1.5, None):
        with pytest.raises(ValueError, match=f"decay must lie in 0 < decay <= 1, got {decay}"):
            PathLength(1.0, decay=decay)


def test_penalties_of_the_short_form_are_checked():
    game = gi.models.lqgan(seed=0)
    for penalty in (R1, 10.0, "R1", None):
        with pytest.raises(TypeError, match=r"penalties\[1\] is no penalty: give gi\.penalties\.R1\(10\.0\)"):
            gi.Game(*game, penalties=[R1(1.0), penalty])
    with pytest.raises(ValueError, match=r"penalties\[0\] is a PathLength, .*'path_length': penalty"):
        gi.Game(*game, penalties=[PathLength(1.0)])

    class Mine:
        player, every, masked = "critic", 1, False

        def terms(self, players, batch, generated=None):
            return batch.rows

    with pytest.raises(ValueError, match="of the player 'critic', but the players are generator and discriminator"):
        gi.Game(*game, penalties=[Mine()])


def test_a_path_length_that_is_no_player_or_has_no_noise_is_refused():
    penalty, z = PathLength(1.0), normal(0, 4, 2)
    with pytest.raises(ValueError, match="it is a player: Game"):
        penalty.terms(playing(generator=torch.tanh), seen(None, z, z))
    players = playing(generator=torch.tanh, path_length=penalty)
    for noise, message in (
        (None, "got no noise"),
        ({"interpolation": z}, "got noise with the entries 'interpolation'"),
    ):
        with pytest.raises(ValueError, match=f"noise of the shape of the generated rows.*{message}"):
            penalty.terms(players, seen(None, z, noise))
    with pytest.raises(ValueError, match=r"generated rows, \(4, 2\), got \(4,\)"):
        penalty.terms(players, seen(None, z, z[:, 0]))
    assert float(penalty.mean) == 0


def test_penalties_are_values():
    assert R1(2.0) == R1(2.0, every=1, masked=False)
    assert len({R1(2.0), R1(2.0), R2(2.0), GradientPenalty(2.0)}) == 3
    assert copy.deepcopy(GradientPenalty()) == GradientPenalty(10.0, 1, 1.0)
    with pytest.raises(AttributeError):
        R1(2.0).weight = 3.0


def test_a_penalty_of_ones_own_is_added_like_the_others():
    class OfLogits:
        player, every, masked = "discriminator", 1, True

        def terms(self, players, batch, generated=None):
            (slope,) = penalties.slopes(lambda x: players.discriminator(x).sum(), players, batch.rows)
            return slope.abs().sum(1)

    players = playing(Linear(3))
    found = added(of(), [OfLogits()], players, seen(normal(0, 4, 3)))
    torch.testing.assert_close(found.rows["discriminator"], players.discriminator.w.detach().abs().sum().expand(4))
