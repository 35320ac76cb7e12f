"""What a metric sees of an averaged generator's running statistics, against the same run in plain torch."""

import copy
import warnings

import pytest
import torch
from support.games import normal, relative_error
from torch import nn
from torch.nn.functional import softplus
from torch.optim.swa_utils import update_bn

import gan_influence as gi
from gan_influence import trees
from gan_influence.metrics.metric import metric_values
from gan_influence.step import states

DATA, LATENTS, FRESH = normal(1, 8, 2), normal(2, 7, 3), normal(3, 12, 3)
STEPS, DECAY = 70, 0.9  # past the 64 from which steps are replayed


def modules():
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2), nn.BatchNorm1d(2))
    discriminator = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    return generator.double(), discriminator.double()


class Image(nn.Module):
    """BatchNorm of images, and one without gain and bias."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(3, 12), nn.BatchNorm2d(3)
        self.flat, self.last = nn.BatchNorm1d(12, affine=False), nn.Linear(12, 2)

    def forward(self, z):
        images = torch.tanh(self.norm(self.first(z).view(-1, 3, 2, 2)))
        return self.last(self.flat(images.flatten(1)))


def with_images():
    torch.manual_seed(1)
    return Image().double(), modules()[1]


def spread(players):
    made = players.generator(LATENTS)
    return made.square().mean() + made[0, 0]


def train(average_buffers, made=modules, steps=STEPS, **options):
    game = gi.Game(*made(), loss="non_saturating")
    buffers = {} if average_buffers is None else {"average_buffers": average_buffers}
    return gi.train(game, DATA, gi.FullBatch(LATENTS), steps, gi.SGD(0.05), ema_decay=DECAY, **buffers, **options)


def in_plain_torch(how, made, batch_size=None):
    """The averaged generator's outputs in eval mode, and itself, of a run with ``torch.optim``."""
    generator, discriminator = made()
    average = copy.deepcopy(generator)
    optimizers = [torch.optim.SGD(module.parameters(), 0.05) for module in (generator, discriminator)]
    for _ in range(STEPS):
        fake = discriminator(generator(LATENTS))
        of_discriminator = softplus(-discriminator(DATA)).mean() + softplus(fake).mean()
        slopes = [
            torch.autograd.grad(cost, list(module.parameters()), retain_graph=True)
            for cost, module in ((softplus(-fake).mean(), generator), (of_discriminator, discriminator))
        ]
        for module, gradients, optimizer in zip((generator, discriminator), slopes, optimizers, strict=True):
            for parameter, gradient in zip(module.parameters(), gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
        with torch.no_grad():
            averaged = [(average.parameters(), generator.parameters())]
            averaged += [(average.buffers(), generator.buffers())] if how == "average" else []
            for own, reached in averaged:
                for mine, new in zip(own, reached, strict=True):
                    if mine.is_floating_point():
                        mine.mul_(DECAY).add_(new, alpha=1 - DECAY)
    if how == "copy":
        for own, reached in zip(average.buffers(), generator.buffers(), strict=True):
            own.copy_(reached)
    elif how == "recompute":
        update_bn(FRESH.split(batch_size or len(FRESH)), average)
    average.eval()
    return average(LATENTS).detach(), average


@pytest.mark.parametrize("made", [modules, with_images])
@pytest.mark.parametrize("how", ["copy", "average", "recompute", "by fives"])
def test_an_averaged_generator_is_that_of_the_same_run_in_plain_torch(how, made):
    size = 6 if how == "by fives" else None
    how = "recompute" if size else how
    trace = train(gi.Recompute(FRESH, size) if how == "recompute" else how, made)
    expected, average = in_plain_torch(how, made, size)
    torch.testing.assert_close(trace.players().generate(LATENTS).detach(), expected, rtol=1e-9, atol=1e-11)
    module = trace.module("generator", averaged=True)
    module.eval()
    torch.testing.assert_close(module(LATENTS).detach(), expected, rtol=1e-9, atol=1e-11)
    for name, value in average.named_buffers():
        if not name.endswith("tracked"):
            torch.testing.assert_close(module.get_buffer(name), value, rtol=1e-9, atol=1e-11)


CHANGES = torch.tensor([1e-3, -1e-3, 2e-3, -2e-3]).double()


def by_differences(trace):
    """What the metric gains without each row, by Richardson's extrapolation of central differences in the weights."""
    weights = torch.ones(4, len(DATA), len(DATA)).double()
    weights = (weights + CHANGES[:, None, None] * torch.eye(len(DATA))).flatten(0, 1)
    state = trees.mapped(lambda part: part.repeat(len(weights), *[1] * part.ndim), trace.state(0))
    gi.counterfactual(trace, spread, [[0]])  # finds out that its models are one batch
    *_, (_, end) = states(trace, state, weights, range(trace.steps))
    held = trace.updates.seen_held(end.held)
    up, down, further_up, further_down = metric_values(
        spread, trace.game, end.moving[:, trace.updates.seen], held
    ).unflatten(0, (4, -1))
    return (4 * (down - up) / 2e-3 - (further_down - further_up) / 4e-3) / 3


@pytest.mark.parametrize(
    ("how", "steps", "leaves_out"), [("copy", 20, (0.1, 0.3)), ("average", 20, (0.01, 0.1)), ("copy", 60, (0.4, 0.8))]
)
def test_what_scores_leave_out_of_kept_statistics_is_as_much_as_is_stated(how, steps, leaves_out):
    """docs/architecture.md says it; the order of the rows stays."""
    trace = train(how, steps=steps)
    scores, truth = gi.itd(trace, spread), by_differences(trace)
    off = float((scores - truth).norm() / truth.norm())
    print(f"{how}, {steps} steps: off by {off:.2f}")
    assert leaves_out[0] < off < leaves_out[1]
    assert torch.corrcoef(torch.stack([scores, truth]))[0, 1] > 0.98


@pytest.mark.parametrize("made", [modules, with_images])
def test_scores_leave_nothing_out_of_recomputed_statistics(made):
    trace = train(gi.Recompute(FRESH), made, 20)
    assert relative_error(gi.itd(trace, spread), by_differences(trace)) < 1e-7


def test_the_generators_own_statistics_are_recomputed_where_nobody_is_averaged():
    game = gi.Game(*modules(), loss="non_saturating")
    trace = gi.train(game, DATA, gi.FullBatch(LATENTS), 5, gi.SGD(0.05), average_buffers=gi.Recompute(FRESH))
    plain = trace.module("generator")
    update_bn([FRESH], plain)
    plain.eval()
    torch.testing.assert_close(trace.players().generate(LATENTS), plain(LATENTS).detach(), rtol=1e-9, atol=1e-11)


def test_aid_looks_through_recomputed_statistics():
    """Against the metric's gradient by hand: AID is linear in it."""
    trace = train(gi.Recompute(FRESH), steps=6)
    generator = trace.module("generator", averaged=True)

    class ByHand:
        mode = "train"  # BatchNorm's formula, of the statistics of other inputs than those that it is given

        def value(self, players):
            return spread_by_hand(generator, players.parameters["generator"])

    torch.testing.assert_close(gi.aid(trace, spread, terms=5), gi.aid(trace, ByHand(), terms=5), rtol=1e-9, atol=1e-13)


def spread_by_hand(generator, vector):
    names = [name for name, _ in generator.named_parameters()]
    parts = vector.split([p.numel() for p in generator.parameters()])
    at = {name: part.view_as(p) for name, part, p in zip(names, parts, generator.parameters(), strict=True)}
    known, made = FRESH @ at["0.weight"].T + at["0.bias"], LATENTS @ at["0.weight"].T + at["0.bias"]
    known, made = torch.tanh(normed(known, known, at, "1")), torch.tanh(normed(made, known, at, "1"))
    known, made = known @ at["3.weight"].T + at["3.bias"], made @ at["3.weight"].T + at["3.bias"]
    made = normed(made, known, at, "4")
    return made.square().mean() + made[0, 0]


def normed(values, known, at, name):
    standard = (values - known.mean(0)) / (known.var(0, unbiased=True) + 1e-5).sqrt()
    known_own = (known - known.mean(0)) / (known.var(0, unbiased=False) + 1e-5).sqrt()
    return (known_own if values is known else standard) * at[f"{name}.weight"] + at[f"{name}.bias"]


def test_removals_of_a_run_with_recomputed_statistics_are_retrainings():
    trace = train(gi.Recompute(FRESH), steps=12)
    together = gi.counterfactual(trace, spread, [[0], [3, 4]])
    before = gi.measure(spread, trace)
    alone = torch.stack([gi.measure(spread, gi.retrain(trace, rows)) - before for rows in ([0], [3, 4])])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-13)


def test_other_buffers_are_those_that_the_passes_leave():
    def made():
        generator, discriminator = modules()
        nn.utils.parametrizations.spectral_norm(generator[0])
        return generator, discriminator

    trace = train(gi.Recompute(FRESH, 6), made, 5)
    average = trace.module("generator", averaged=True)
    plain = copy.deepcopy(average)
    for name, value in trace.state().held.items():
        plain.get_buffer(name.removeprefix("generator.")).copy_(value)
    update_bn(FRESH.split(6), plain)
    for name, value in plain.named_buffers():
        if not name.endswith("tracked"):
            torch.testing.assert_close(average.get_buffer(name), value, rtol=1e-9, atol=1e-11)


def test_a_run_with_recomputed_statistics_is_saved_and_loaded(tmp_path):
    trace = train(gi.Recompute(FRESH), steps=5)
    trace.save(tmp_path / "run")
    game = gi.Game(*modules(), loss="non_saturating")
    given = (tmp_path / "run", game, DATA, gi.FullBatch(LATENTS), gi.SGD(0.05))
    loaded = gi.load_trace(*given, ema_decay=DECAY, average_buffers=gi.Recompute(FRESH))
    torch.testing.assert_close(gi.itd(loaded, spread), gi.itd(trace, spread))
    with pytest.raises(ValueError, match="averages"):
        gi.load_trace(*given, ema_decay=DECAY, average_buffers=gi.Recompute(FRESH + 1))


# --------------------------------------------------------------------------------------------- said, and refused


def test_an_averaged_generator_with_batch_norm_looked_at_in_eval_mode_is_warned_of():
    trace = train(None, steps=3)
    with pytest.warns(
        RuntimeWarning, match="averaged generator is looked at with the running statistics of .* BatchNorm1d"
    ):
        gi.measure(spread, trace)
    with warnings.catch_warnings():  # once is enough
        warnings.simplefilter("error")
        gi.itd(trace, spread)


class InTraining:
    mode = "train"

    def value(self, players):
        return spread(players)


def plain_run(made=modules, average_buffers=None, **options):
    game = gi.Game(*made(), loss="non_saturating")
    run = game, DATA, gi.FullBatch(LATENTS), 3, gi.SGD(0.05)
    return gi.train(*run, average_buffers=average_buffers, **options)


def test_scores_of_a_metric_that_sees_running_statistics_are_warned_of():
    trace = plain_run()
    gi.measure(spread, trace)  # nothing is left out of a value
    with pytest.warns(RuntimeWarning, match="scores leave out what rows do to its running statistics, in BatchNorm1d"):
        gi.itd(trace, spread)
    with pytest.warns(RuntimeWarning, match="scores leave out"):
        gi.aid(plain_run(), spread, terms=2)


def test_a_choice_that_was_made_is_not_warned_of():
    for how in ("copy", "average", gi.Recompute(FRESH)):
        gi.itd(train(how, steps=3), spread)
        gi.itd(plain_run(average_buffers=how), spread)
    gi.itd(train(None, steps=3), InTraining())
    gi.itd(plain_run(), InTraining())
    gi.itd(plain_run(lambda: [module.eval() for module in modules()], ema_decay=DECAY), spread)


@pytest.mark.parametrize(
    ("inputs", "size", "message"),
    [
        (None, None, "needs the player's inputs"),
        ((FRESH, FRESH[:3]), None, "tree of tensors of one length"),
        (FRESH[:1], None, "batch of 1 rows"),
        (FRESH[:0], None, "batch of 0 rows"),
        (FRESH[:9], 4, "batch of 1 rows"),
        (FRESH, 1, "batch_size"),
        (FRESH, 2.0, "batch_size"),
    ],
)
def test_inputs_without_statistics_are_refused(inputs, size, message):
    with pytest.raises((TypeError, ValueError), match=message):
        gi.Recompute(inputs, size)


def test_recomputing_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r'must be "copy", "average" or gi\.Recompute'):
        train("recompute", steps=1)
    with pytest.raises(ValueError, match="the generator cannot be called with gi"):
        train(gi.Recompute(normal(0, 5, 4)), steps=1)
    game = gi.Game(*gi.models.lqgan(seed=0))
    given = game, normal(1, 5, 1), gi.FullBatch(normal(2, 5, 1)), 1, gi.SGD(0.1)
    several = {"generator": 0.5, "discriminator": 0.5}
    with pytest.raises(ValueError, match="is for one player, but ema_decay averages generator, discriminator"):
        gi.train(*given, ema_decay=several, average_buffers=gi.Recompute(FRESH))
    model = gi.Game(None, nn.Linear(2, 1).double(), loss=lambda outputs, targets: (outputs[:, 0] - targets).square())
    pairs = DATA, DATA[:, 0]
    with pytest.raises(ValueError, match="averages nobody, and there is no generator"):
        gi.train(model, pairs, gi.Minibatches(8, 4), 1, gi.SGD(0.1), average_buffers=gi.Recompute(DATA))
    with pytest.raises(ValueError, match="the generator has no BatchNorm in training mode"):
        gi.train(*given, ema_decay=0.5, average_buffers=gi.Recompute(FRESH[:, :1]))
