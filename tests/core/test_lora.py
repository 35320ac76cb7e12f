"""Low-rank adapters: what they compute, what is trained, and what a run with them scores."""

import copy
import math

import pytest
import torch
from support.games import normal, relative_error, same_bits, textbook_adam, textbook_sgd
from support.unrolled import gan, measured, unrolled
from torch import nn
from torch.func import functional_call, vmap
from torch.nn.functional import conv2d, conv_transpose2d, linear, softplus

import gan_influence as gi


class Equalised(nn.Module):
    """A convolution of StyleGAN's kind: its weight is N(0, 1) and multiplied by a gain in each call."""

    def __init__(self, before, after, size, seed=0):
        super().__init__()
        self.weight = nn.Parameter(normal(seed, after, before, size, size))
        self.bias = nn.Parameter(normal(seed + 1, after))
        self.gain = math.sqrt(2 / (before * size * size))

    def forward(self, images):
        return conv2d(images, self.weight * self.gain, self.bias, padding=self.weight.shape[-1] // 2)


def layers():
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "linear": nn.Linear(5, 4),
            "convolution": nn.Conv2d(4, 6, 3, groups=2),
            "deconvolution": nn.ConvTranspose2d(4, 3, 2),
            "equalised": Equalised(4, 5, 3),
            "norm": nn.LayerNorm(4),
        }
    ).double()


RANK, SCALE = 2, 0.7
CALLS = {
    "linear": (lambda x, w, b: linear(x, w, b), (3, 5)),
    "convolution": (lambda x, w, b: conv2d(x, w, b, groups=2), (3, 4, 6, 6)),
    "deconvolution": (lambda x, w, b: conv_transpose2d(x, w, b), (3, 4, 6, 6)),
    "equalised": (lambda x, w, b: conv2d(x, w * math.sqrt(2 / 36), b, padding=1), (3, 4, 6, 6)),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_layer_computes_with_its_weight_plus_the_product(name):
    plain, adapted = layers(), gi.lora(layers(), RANK, scale=SCALE)
    call, shape = CALLS[name]
    state = gi.adapters(adapted)
    up, down = (state[f"{name}.parametrizations.weight.0.{part}"] for part in ("up", "down"))
    weight = plain[name].weight
    product = torch.einsum("or,rn->on", up, down).reshape(weight.shape)
    inputs = normal(7, *shape)
    assert relative_error(adapted[name](inputs), call(inputs, weight + SCALE * product, plain[name].bias)) < 1e-14
    assert torch.linalg.matrix_rank(product.flatten(1)) == RANK


def test_adapters_alone_are_trained_and_the_module_is_left_as_it_was():
    plain = layers()
    before = copy.deepcopy(plain.state_dict())
    adapted = gi.lora(plain, RANK)
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained == {f"{name}.parametrizations.weight.0.{part}" for name in CALLS for part in ("up", "down")}
    assert trained == set(gi.adapters(adapted))
    assert all(same_bits(before[name], value) for name, value in plain.state_dict().items())
    assert all(p.requires_grad for p in plain.parameters())


def test_the_published_start_is_kaimings_normal_in_both_factors():
    """Deviations ``(1/3 / fan_in)^(1/2)``, of which 12 000 draws have the share .006 as an error."""
    adapted = gi.lora(nn.Conv2d(60, 600, 3), 20, seed=3)
    up, down = gi.adapters(adapted).values()
    assert (up.shape, down.shape) == ((600, 20), (20, 540))
    assert float(up.std()) == pytest.approx(math.sqrt(1 / 60), rel=0.03)
    assert float(down.std()) == pytest.approx(math.sqrt(1 / 1620), rel=0.03)
    assert float((up @ down).std()) == pytest.approx(1 / (3 * math.sqrt(540)), rel=0.1)
    assert float((up.abs() > 2.5 * up.std()).double().mean()) == pytest.approx(0.0124, abs=0.004)  # a uniform has none


def test_the_usual_start_is_the_module_itself():
    plain, adapted = layers(), gi.lora(layers(), RANK, start="usual")
    state = gi.adapters(adapted)
    assert not state["linear.parametrizations.weight.0.up"].any()
    assert state["linear.parametrizations.weight.0.down"].all()
    for name, (_, shape) in CALLS.items():
        assert torch.equal(adapted[name](normal(7, *shape)), plain[name](normal(7, *shape)))


def test_draws_depend_on_the_seed_alone():
    one, again, other = (gi.adapters(gi.lora(layers(), RANK, seed=seed)) for seed in (1, 1, 2))
    single = gi.adapters(gi.lora(layers().float(), RANK, seed=1))
    assert same_bits(one, again)
    assert not any(torch.equal(one[name], other[name]) for name in one)
    assert all(same_bits(single[name], one[name].float()) for name in one)


@pytest.mark.parametrize(
    ("where", "chosen"),
    [
        ("*convolution", {"convolution", "deconvolution"}),
        (nn.Linear, {"linear"}),
        (lambda name, layer: layer.weight.ndim == 4 and "de" not in name, {"convolution", "equalised"}),
        (["linear", Equalised], {"linear", "equalised"}),
    ],
    ids=["pattern", "type", "function", "several"],
)
def test_where_chooses_layers(where, chosen):
    adapted = gi.lora(layers(), RANK, where=where)
    assert {name.split(".")[0] for name in gi.adapters(adapted)} == chosen


def test_adapters_are_saved_and_put_into_another_module(tmp_path):
    trained, fresh = gi.lora(layers(), RANK, seed=1), gi.lora(layers(), RANK, seed=2)
    torch.save(gi.adapters(trained), tmp_path / "adapters.pt")
    gi.load_adapters(fresh, torch.load(tmp_path / "adapters.pt", weights_only=True))
    for name, (_, shape) in CALLS.items():
        assert torch.equal(fresh[name](normal(7, *shape)), trained[name](normal(7, *shape)))


def test_merging_leaves_plain_weights():
    plain, adapted = layers(), gi.lora(layers(), RANK, scale=SCALE)
    before = gi.adapters(adapted)
    merged = gi.merged(adapted)
    assert set(merged.state_dict()) == set(plain.state_dict())
    assert {name: type(layer) for name, layer in merged.items()} == {name: type(layer) for name, layer in plain.items()}
    for name, (_, shape) in CALLS.items():
        assert relative_error(merged[name](normal(7, *shape)), adapted[name](normal(7, *shape))) < 1e-14
    assert same_bits(gi.adapters(adapted), before)
    assert not torch.equal(merged["linear"].weight, plain["linear"].weight)
    layers().load_state_dict(merged.state_dict())


def test_copies_functional_calls_and_stacks_of_models_have_their_own_adapters():
    adapted = gi.lora(layers()["equalised"], RANK)
    images, at = normal(7, 3, 4, 6, 6), {name: normal(8, 2, *p.shape) for name, p in gi.adapters(adapted).items()}
    alone = [functional_call(adapted, {name: value[k] for name, value in at.items()}, images) for k in range(2)]
    together = vmap(lambda own: functional_call(adapted, own, images))(at)
    assert relative_error(together, torch.stack(alone)) < 1e-14
    copied = copy.deepcopy(adapted)
    gi.load_adapters(copied, {name: value[0] for name, value in at.items()})
    assert torch.equal(copied(images), alone[0])
    assert not torch.equal(adapted(images), alone[0])


N, STEPS = 10, 70  # so many that steps are recorded
ADAM, SGD = gi.Adam(0.01, betas=(0.0, 0.99), eps=1e-4), gi.SGD(0.1)


def players(start="published"):
    torch.manual_seed(1)
    generator = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Unflatten(1, (1, 4, 4)), Equalised(1, 2, 3, seed=5))
    discriminator = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Softplus(), nn.Flatten(), nn.Linear(12, 1))
    both = generator.double(), discriminator.double()
    return gi.lora(both[0], 1, start=start, seed=1), gi.lora(both[1], 1, where=nn.Conv2d, start=start, seed=2)


def fine_tuned(start="published", optimizer=ADAM, weights=None):
    schedule = gi.Minibatches(N, 4, latent_shape=(3,), seed=2)
    game = gi.Game(*players(start), loss="non_saturating")
    data, settings = normal(3, N, 2, 4, 4), {"update": "alternating", "ema_decay": 0.9, "weights": weights}
    return gi.train(game, data, schedule, STEPS, optimizer, **settings)


LATENTS = normal(4, 6, 3)


def metric(players):
    return players.generator(LATENTS).square().mean()


@pytest.fixture(scope="module")
def trace():
    return fine_tuned()


def test_the_state_of_a_run_holds_adapters_alone(trace):
    sizes = {"generator": (16 + 3) + (2 + 9), "discriminator": 3 + 18}
    assert dict(zip(trace.game.players, trace.game.sizes, strict=True)) == sizes
    assert trace.state().moving.shape == (4, sum(sizes.values()))  # with Adam's two moments, and the average
    generator, discriminator = players()
    for own, name in ((generator, "generator"), (discriminator, "discriminator")):
        before = gi.adapters(own)
        gi.load_adapters(own, trace.parameters()[name])
        assert not any(torch.equal(before[key], value) for key, value in gi.adapters(own).items())


@pytest.mark.parametrize(
    ("start", "optimizer", "move"),
    [("published", ADAM, textbook_adam(0.01, (0.0, 0.99), 1e-4)), ("usual", SGD, textbook_sgd(0.1))],
    ids=["published", "usual"],
)
def test_itd_of_a_run_with_adapters_equals_unrolled_training(start, optimizer, move):
    trace = fine_tuned(start, optimizer)
    modules = dict(zip(("generator", "discriminator"), players(start), strict=True))
    moves, order, decay = dict.fromkeys(modules, move), [[["discriminator"], ["generator"]]], {"generator": 0.9}
    cost = gan(lambda x: softplus(-x), softplus, lambda x: softplus(-x))
    weights = torch.ones(N, dtype=torch.float64, requires_grad=True)
    end = unrolled(modules, cost, trace.data, trace.schedule, STEPS, moves, order, weights, decay=decay)
    expected = -torch.autograd.grad(measured(metric, modules, end.seen, end.buffers), weights)[0]
    assert relative_error(gi.itd(trace, metric), expected) < 1e-9


def test_itd_of_a_run_with_adapters_is_the_slope_that_differences_of_weights_have(trace):
    """Central differences: their error falls with the square of the step."""
    scores, row = gi.itd(trace, metric), 3

    def slope(by):
        ends = []
        for sign in (1, -1):
            weights = torch.ones(N, dtype=torch.float64)
            weights[row] += sign * by
            ends.append(gi.measure(metric, fine_tuned(weights=weights)))
        return float((ends[0] - ends[1]) / (2 * by))

    errors = [abs(-slope(by) - float(scores[row])) for by in (0.08, 0.04)]
    assert errors[0] < 0.05 * abs(float(scores[row]))
    assert 3 < errors[0] / errors[1] < 5


def test_counterfactuals_of_a_run_with_adapters_agree_in_stacks_and_alone(trace):
    removals = [[0], [1], [2, 5]]
    together = gi.counterfactual(trace, metric, removals)
    alone = torch.stack([gi.measure(metric, gi.retrain(trace, rows)) for rows in removals]) - gi.measure(metric, trace)
    assert relative_error(together, alone) < 1e-9


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"rank": 5}, ValueError, r"rank = 5 is above the rank 4 of the weight of 'linear', of shape \(4, 5\)"),
        ({"rank": 0}, ValueError, "rank must be a whole number >= 1, got 0"),
        (
            {"where": "blocks.*"},
            ValueError,
            r"where='blocks.\*' matches no layer .* 'linear' \(Linear\), 'convolution'",
        ),
        ({"where": nn.LayerNorm}, ValueError, "matches no layer"),
        ({"where": 3}, TypeError, "where must be a pattern of names, a type, or a function of name and layer, got 3"),
        ({"start": "zero"}, ValueError, "start must be 'published' or 'usual', got 'zero'"),
        ({"scale": 0.0}, ValueError, "scale must be a finite number other than 0"),
        ({"seed": -1}, ValueError, "seed must be a whole number >= 0"),
    ],
)
def test_bad_settings_are_named(settings, error, message):
    with pytest.raises(error, match=message):
        gi.lora(layers(), **{"rank": RANK, **settings})


def test_a_rank_above_that_of_a_layer_is_allowed_where_it_is_asked_for():
    adapted = gi.lora(layers(), 6, where="linear", overcomplete=True)
    assert gi.adapters(adapted)["linear.parametrizations.weight.0.up"].shape == (4, 6)


def test_bad_modules_and_states_are_named():
    with pytest.raises(TypeError, match=r"adapters are for a torch.nn.Module, got list"):
        gi.lora([], 1)
    with pytest.raises(ValueError, match="the module has no layer that could get an adapter; there is none"):
        gi.lora(nn.LayerNorm(3), 1)
    adapted = gi.lora(layers(), 1)
    with pytest.raises(ValueError, match=r"has adapters already: gi.merged\(module\)"):
        gi.lora(adapted, 1)
    for call in (gi.adapters, gi.merged):
        with pytest.raises(ValueError, match="the module has no adapters"):
            call(layers())
    state = gi.adapters(adapted)
    with pytest.raises(ValueError, match=r"shape \(4, 1\), but the module's has shape \(4, 2\)"):
        gi.load_adapters(gi.lora(layers(), 2), state)
    with pytest.raises(ValueError, match=r"the state holds 'linear.weight', but the adapters are linear"):
        gi.load_adapters(adapted, {"linear.weight": torch.zeros(4, 5)})
    state.pop("linear.parametrizations.weight.0.up")
    with pytest.raises(ValueError, match=r"the state lacks 'linear.parametrizations.weight.0.up'"):
        gi.load_adapters(adapted, state)


def test_a_linear_layer_equals_pefts():
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
    theirs = peft.get_peft_model(
        copy.deepcopy(plain), peft.LoraConfig(r=3, lora_alpha=6, target_modules=["0", "2"], init_lora_weights=False)
    )
    ours = gi.lora(plain, 3, scale=2.0)
    held = theirs.base_model.model
    gi.load_adapters(
        ours,
        {
            f"{name}.parametrizations.weight.0.{own}": getattr(held[int(name)], part)["default"].weight
            for name in ("0", "2")
            for own, part in (("up", "lora_B"), ("down", "lora_A"))
        },
    )
    inputs = torch.randn(7, 6)
    assert relative_error(ours(inputs), theirs(inputs)) < 1e-6
    assert relative_error(gi.merged(ours)(inputs), theirs.merge_and_unload()(inputs)) < 1e-6
