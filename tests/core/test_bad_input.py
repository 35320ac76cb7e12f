"""Bad input is refused with the culprit and the fix."""

import math
import re
import sys

import numpy as np
import pytest
import torch
from support.games import costs, lqgan, mlp, normal
from torch import nn

import gan_influence as gi
from gan_influence.counterfactual import counterfactuals
from gan_influence.losses import RowLoss


def train(problem=None, **changes):
    problem = problem or lqgan()
    given = {"data": problem.data, "schedule": problem.schedule, "steps": 2, "optimizer": gi.SGD(0.1)} | changes
    return gi.train(problem.game(), **given)


def layers(*modules):
    return nn.Sequential(*modules).double()


NAN_ROW = normal(0, 24, 1).index_fill(0, torch.tensor([7, 9]), math.nan)
INF_ROW = normal(0, 24, 1).index_fill(0, torch.tensor([4]), math.inf)

TRAINING = {
    "nan-in-data": ({"data": NAN_ROW}, ValueError, r"NaN or infinity, first in row 7: remove or repair"),
    "infinity-in-data": ({"data": INF_ROW}, ValueError, r"NaN or infinity, first in row 4: remove or repair"),
    "no-data": ({"data": torch.empty(0, 1).double()}, ValueError, r"data must hold at least one row.*\(0, 1\)"),
    "scalar-data": ({"data": torch.tensor(1.0).double()}, ValueError, r"data must hold at least one row.*\(\)"),
    "array-for-data": ({"data": np.zeros((3, 1))}, TypeError, r"data must be a torch tensor .*got ndarray"),
    "single-data": ({"data": torch.zeros(3, 1)}, TypeError, r"data is float32, .*parameters are float64: convert"),
    "single-latents": (
        {"schedule": gi.FullBatch(torch.zeros(3, 1))},
        TypeError,
        r"latents are torch.float32, but the data is torch.float64: convert",
    ),
    "wide-data": (
        {"data": normal(0, 9, 2)},
        ValueError,
        r"generator makes rows of shape \(1,\).*but the data's rows have shape \(2,\)",
    ),
    "wide-latents": (
        {"schedule": gi.FullBatch(normal(0, 9, 3))},
        ValueError,
        r"generator makes rows of shape \(3,\) \(output \(9, 3\) for 9 latents\).*shape \(1,\)",
    ),
    "steps-negative": ({"steps": -1}, ValueError, r"steps must be a whole number >= 0, got -1"),
    "steps-float": ({"steps": 2.0}, ValueError, r"steps must be a whole number >= 0, got 2.0"),
    "steps-bool": ({"steps": True}, ValueError, r"steps must be a whole number >= 0, got True"),
    "optimizer-name": (
        {"optimizer": "sgd"},
        TypeError,
        r"SGD\(lr=0.01\), or a pair.*got 'sgd'; known optimisers: SGD",
    ),
    "optimizer-class": ({"optimizer": gi.SGD}, TypeError, r"optimizer must be .*known optimisers: SGD"),
    "optimizer-of-torch": (
        {"optimizer": torch.optim.SGD([torch.zeros(1)], lr=0.1)},
        TypeError,
        r"(?s)optimizer must be .*known optimisers: SGD",
    ),
    "three-optimizers": ({"optimizer": (gi.SGD(0.1),) * 3}, TypeError, r"a pair \(for_generator, for_discriminator\)"),
    "few-weights": ({"weights": torch.ones(3)}, ValueError, r"weights must be 24 finite numbers.*\(3,\)"),
    "nan-weights": ({"weights": torch.full((24,), math.nan)}, ValueError, r"weights must be 24 finite numbers"),
}


@pytest.mark.parametrize(("changes", "error", "message"), TRAINING.values(), ids=TRAINING)
def test_training_refuses(changes, error, message):
    with pytest.raises(error, match=message):
        train(**changes)


class MeansOfTheBatch(nn.Module):
    """Mixes rows by itself, without a batch-norm module."""

    def __init__(self, mix):
        super().__init__()
        self.mix = mix
        self.layer = nn.Linear(1, 1).double()

    def forward(self, rows):
        return self.mix(self.layer(rows))


DISCRIMINATORS = {
    "two-logits": (
        layers(nn.Linear(1, 2)),
        r"discriminator returned shape \(24, 2\) for 24 rows.*\(24,\) or \(24, 1\)",
    ),
    "one-logit-in-all": (
        layers(nn.Linear(1, 1), nn.Flatten(0), nn.Linear(24, 1)),
        r"discriminator returned shape \(1,\) for 24 rows.*one logit a row",
    ),
    "other-rows": (layers(nn.Linear(5, 1)), r"discriminator does not accept rows of shape \(1,\)"),
    "subtracts-the-mean": (MeansOfTheBatch(lambda a: a - a.mean(0)), r"row 0 .*batch statistics"),
    "accumulates": (MeansOfTheBatch(lambda a: a.cumsum(0)), r"row \d+ .*batch statistics"),
    "own-noise": (MeansOfTheBatch(lambda a: a + torch.randn_like(a)), r"randomness of its own"),
}


@pytest.mark.parametrize(("discriminator", "message"), DISCRIMINATORS.values(), ids=DISCRIMINATORS)
def test_training_refuses_a_discriminator_without_one_logit_of_its_own_for_each_row(discriminator, message):
    with pytest.raises(ValueError, match=message):
        train(lqgan(discriminator=discriminator))


def test_training_refuses_latents_that_the_generator_cannot_take():
    with pytest.raises(ValueError, match=r"generator does not accept latents of shape \(10, 3\)"):
        train(mlp(), schedule=gi.FullBatch(normal(0, 10, 3)))


def generator_and(discriminator):
    return layers(nn.Linear(1, 1)), discriminator


SHARED = nn.Linear(1, 1).double()
GAMES = {
    "loss-name": (
        lambda: gi.Game(*gi.models.lqgan(), loss="vanilla"),
        ValueError,
        r"unknown loss 'vanilla'; known losses: hinge, least_squares, minimax, non_saturating, softplus, wasserstein",
    ),
    "loss-without-costs": (
        lambda: gi.Game(*gi.models.lqgan(), loss=nn.BCELoss()),
        TypeError,
        r"has no real and no fake and no generator: give real\(logits\)",
    ),
    "l2-negative": (lambda: gi.Game(*gi.models.lqgan(), l2=(0.1, -0.1)), ValueError, r"l2 must be two finite rates"),
    "l2-single": (lambda: gi.Game(*gi.models.lqgan(), l2=0.1), ValueError, r"l2 must be two finite rates .*got 0.1"),
    "l2-nan": (lambda: gi.Game(*gi.models.lqgan(), l2=(math.nan, 0)), ValueError, r"l2 must be two finite rates"),
    **{
        f"l2-of-{of}": (
            lambda of=of: gi.Game(*gi.models.lqgan(), l2_of=of),
            ValueError,
            rf"l2_of must be one of all, kernels, got {re.escape(repr(of))}",
        )
        for of in ("biases", "", None, ("kernels",))
    },
    "l2-by-row-a-number": (
        lambda: gi.Game(*gi.models.lqgan(), l2_by_row=0.1),
        ValueError,
        r"l2_by_row must be True or False, got 0.1",
    ),
    "function-for-module": (
        lambda: gi.Game(lambda z: z, gi.models.lqgan()[1]),
        TypeError,
        r"generator must be a torch.nn.Module, got function",
    ),
    "batch-norm-in-discriminator": (
        lambda: gi.Game(*generator_and(layers(nn.Linear(1, 4), nn.BatchNorm1d(4)))),
        ValueError,
        r"discriminator's BatchNorm1d '1' uses batch statistics.*GroupNorm or LayerNorm.*eval\(\)",
    ),
    "batch-norm-without-running-statistics": (
        lambda: gi.Game(*generator_and(layers(nn.BatchNorm1d(1, track_running_stats=False)).eval())),
        ValueError,
        r"discriminator's BatchNorm1d '0' uses batch statistics",
    ),
    "dropout-in-training": (
        lambda: gi.Game(*generator_and(layers(nn.Linear(1, 4), nn.Dropout(0.2), nn.Linear(4, 1)))),
        ValueError,
        r"discriminator's Dropout '1' draws fresh randomness.*\.eval\(\)",
    ),
    "shared-parameters": (
        lambda: gi.Game(layers(SHARED, nn.Tanh()), layers(nn.Tanh(), SHARED)),
        ValueError,
        r"generator parameter '0.weight' and discriminator parameter '1.weight' are the same tensor.*copy one",
    ),
    "players-differ-in-type": (
        lambda: gi.Game(nn.Linear(1, 1), nn.Linear(1, 1).double()),
        TypeError,
        r"the generator float32 and the discriminator float64: convert one with",
    ),
    "one-player-of-two-types": (
        lambda: gi.Game(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1).double()), gi.models.lqgan()[1]),
        TypeError,
        r"generator's parameters mix float32 and float64: convert it",
    ),
    "nothing-to-train": (
        lambda: gi.Game(*(player.requires_grad_(False) for player in gi.models.lqgan())),
        ValueError,
        r"no player has a parameter with requires_grad",
    ),
}


@pytest.mark.parametrize(("make", "error", "message"), GAMES.values(), ids=GAMES)
def test_a_game_refuses(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_loss_that_lacks_one_cost_is_told_which():
    class Incomplete:
        def real(self, logits):
            return logits

        def fake(self, logits):
            return logits

    with pytest.raises(TypeError, match=r"has no generator: give"):
        gi.Game(*gi.models.lqgan(), loss=Incomplete())


def test_dropout_and_batch_norm_in_eval_mode_are_accepted():
    discriminator = layers(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1)).eval()
    train(lqgan(discriminator=discriminator))


def test_a_frozen_module_may_be_shared():
    shared = nn.Linear(1, 1).double().requires_grad_(False)
    problem = lqgan(generator=layers(nn.Linear(1, 1), shared), discriminator=layers(shared, nn.Linear(1, 1)))
    assert train(problem).game.size == 4


@pytest.mark.parametrize("lr", [0, 0.0, -0.1, math.nan, math.inf, "0.1", True, None])
def test_sgd_refuses_a_learning_rate_that_is_no_finite_number_above_0(lr):
    with pytest.raises(ValueError, match=rf"lr must be a finite number above 0, got {re.escape(repr(lr))}"):
        gi.SGD(lr)


LATENTS = {
    "list": ([[1.0]], TypeError, r"latents must be a floating-point tensor .*got list"),
    "integers": (torch.zeros(3, 1).long(), TypeError, r"floating-point tensor .*got a torch.int64 tensor"),
    "none": (torch.empty(0, 1), ValueError, r"latents must hold at least one row, got shape \(0, 1\)"),
    "nan": (torch.tensor([[math.nan]]), ValueError, r"latents contain NaN or infinity"),
}


@pytest.mark.parametrize(("latents", "error", "message"), LATENTS.values(), ids=LATENTS)
def test_a_full_batch_refuses_latents(latents, error, message):
    with pytest.raises(error, match=message):
        gi.FullBatch(latents)


REMOVED = {
    "too-large": ([512], IndexError, r"contains 512, but the data has 24 rows"),
    "negative": ([-1], IndexError, r"contains -1, but the data has 24 rows"),
    "repeated": ([3, 5, 3], ValueError, r"contains 3 twice"),
    "float": ([3.0], TypeError, r"contains 3\.0, which is not a row index"),
    "bool": ([True], TypeError, r"contains True, which is not a row index"),
    "name": (["3"], TypeError, r"contains '3', which is not a row index"),
    "mask": (torch.tensor([False, True]), IndexError, r"is a mask of shape \(2,\), but the data has 24 rows"),
    "float-tensor": (torch.tensor([3.0]), TypeError, r"contains 3\.0, which is not a row index"),
    "string": ("3", TypeError, r"must be a list of row indices, got '3'"),
    "single-number": (3, TypeError, r"must be a list of row indices, got 3"),
}


@pytest.mark.parametrize(("removed", "error", "message"), REMOVED.values(), ids=REMOVED)
def test_removals_are_checked(removed, error, message):
    problem = lqgan()
    trace = problem.train(2)
    with pytest.raises(error, match="removed " + message):
        gi.retrain(trace, removed)
    with pytest.raises(error, match=r"removals\[1\] " + message):
        gi.counterfactual(trace, problem.metric(), [[0], removed])


@pytest.mark.parametrize("removals", ["3", 3, None])
def test_removals_must_be_a_list_of_lists(removals):
    problem = lqgan()
    with pytest.raises(TypeError, match=r"removals must be a list of lists .*such as \[\[3\], \[17, 20\]\]"):
        gi.counterfactual(problem.train(2), problem.metric(), removals)


@pytest.mark.parametrize("chunk", [0, -1, 2.0, True])
def test_a_chunk_is_at_least_one_model(chunk):
    problem = lqgan()
    with pytest.raises(ValueError, match=rf"chunk must be a number of models >= 1, got {chunk}"):
        gi.counterfactual(problem.train(2), problem.metric(), [[1]], chunk=chunk)


SCORES = {"itd": gi.itd, "aid": gi.aid, "gmres": lambda *of, **options: gi.aid(*of, solver="gmres", **options)}
each_score = pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)


def retraining(trace, metric, **options):
    return gi.counterfactual(trace, metric, [[1], [2, 3], [4]], **options)


@pytest.mark.parametrize("terms", [0, -3, True, [], [3, 0], [2.0], 2.5, "10", None])
def test_aid_refuses_fewer_than_one_term(terms):
    problem = lqgan()
    with pytest.raises(
        ValueError, match=r"terms must be a whole number >= 1, or several, got " + re.escape(repr(terms))
    ):
        gi.aid(problem.train(2), problem.metric(), terms=terms)


def test_gmres_takes_one_number_of_terms():
    problem = lqgan()
    with pytest.raises(ValueError, match=r"GMRES has no partial sums to read off: give one number"):
        gi.aid(problem.train(2), problem.metric(), terms=[1, 2], solver="gmres")


def test_an_unknown_solver_is_told_the_known_ones():
    problem = lqgan()
    with pytest.raises(ValueError, match=r"unknown solver 'ekfac'; known solvers: neumann, gmres"):
        gi.aid(problem.train(2), problem.metric(), solver="ekfac")


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_aid_refuses_a_scale_that_is_no_finite_number_above_0(scale):
    problem = lqgan()
    with pytest.raises(ValueError, match=rf"scale must be a finite number above 0, got {scale}"):
        gi.aid(problem.train(2), problem.metric(), scale=scale)


@each_score
@pytest.mark.parametrize("damping", [-0.1, math.nan, math.inf])
def test_damping_must_be_finite_and_not_negative(score, damping):
    problem = lqgan()
    with pytest.raises(ValueError, match=rf"damping must be a finite number >= 0, got {damping}"):
        score(problem.train(2), problem.metric(), damping=damping)


@pytest.mark.parametrize("last", [-1, 5, 2.0, True])
@pytest.mark.parametrize("use", [gi.itd, retraining, lambda trace, metric, last: gi.retrain(trace, [1], last=last)])
def test_last_must_lie_within_the_trace(use, last):
    problem = lqgan()
    with pytest.raises(ValueError, match=rf"last must be a number of steps from 0 to 4, .*got {last}"):
        use(problem.train(4), problem.metric(), last=last)


@pytest.mark.parametrize("at", [[], [5], [-1], [2.7]])
@pytest.mark.parametrize("use", [*SCORES.values(), retraining], ids=[*SCORES, "counterfactual"])
def test_stopping_times_must_lie_within_the_trace(use, at):
    problem = lqgan()
    with pytest.raises(ValueError, match=rf"at must name steps from 0 to 4.*got {re.escape(repr(at))}"):
        use(problem.train(4), problem.metric(), at=at)


@pytest.mark.parametrize("use", [gi.itd, retraining])
def test_last_and_at_exclude_each_other(use):
    problem = lqgan()
    with pytest.raises(ValueError, match="either last or at"):
        use(problem.train(4), problem.metric(), last=2, at=[3])


class Measure:
    def __init__(self, measure):
        self.value = measure


FRESH = normal(4, 18, 1)
NOT_A_METRIC = {
    "no-value": ("FID", r"is no metric: it needs a method value\(players\)"),
    "matrix": (Measure(lambda players: players.generate(FRESH)), r"Measure must return a scalar .*shape \(18, 1\)"),
    "number": (Measure(lambda players: 1.0), r"Measure must return a scalar tensor, got float"),
}
NOT_DIFFERENTIABLE = {
    "detached": (Measure(lambda players: players.generate(FRESH).detach().mean()), r"not differentiable.*detach\(\)"),
    "constant": (Measure(lambda players: torch.tensor(1.0).double()), r"depends on no player"),
}


@each_score
@pytest.mark.parametrize(
    ("metric", "message"),
    (NOT_A_METRIC | NOT_DIFFERENTIABLE).values(),
    ids=NOT_A_METRIC | NOT_DIFFERENTIABLE,
)
def test_scores_refuse_what_is_no_differentiable_metric_of_the_generator(score, metric, message):
    with pytest.raises(TypeError, match=message):
        score(lqgan().train(2), metric)


@pytest.mark.parametrize(("metric", "message"), NOT_A_METRIC.values(), ids=NOT_A_METRIC)
def test_counterfactual_refuses_what_is_no_metric(metric, message):
    with pytest.raises(TypeError, match=message):
        retraining(lqgan().train(2), metric)


def test_a_metric_of_one_element_is_a_scalar_to_every_method():
    problem = lqgan()
    trace, one = problem.train(4), Measure(lambda players: problem.metric().value(players).reshape(1))
    for method in (gi.itd, gi.aid, retraining):
        torch.testing.assert_close(method(trace, one), method(trace, problem.metric()))


LIKELIHOODS = {
    "list": ({"reference": [1.0]}, TypeError, r"reference must be a floating-point tensor, got list"),
    "integers": ({"latents": torch.zeros(3, 1).long()}, TypeError, r"latents must be .*got torch.int64"),
    "no-reference": ({"reference": torch.empty(0, 1)}, ValueError, r"reference must hold at least one row"),
    "nan": ({"reference": torch.tensor([[math.nan]])}, ValueError, r"reference contains NaN or infinity"),
    **{
        f"bandwidth-{h}": ({"bandwidth": h}, ValueError, rf"bandwidth must be a finite number above 0, got {h}")
        for h in (0.0, -1.0, math.nan, math.inf, True)
    },
}


@pytest.mark.parametrize(("changes", "error", "message"), LIKELIHOODS.values(), ids=LIKELIHOODS)
def test_the_likelihood_refuses(changes, error, message):
    with pytest.raises(error, match=message):
        gi.metrics.AverageLogLikelihood(**({"reference": FRESH, "latents": FRESH} | changes))


def test_a_reference_of_another_width_is_named():
    metric = gi.metrics.AverageLogLikelihood(normal(0, 5, 3), FRESH)
    with pytest.raises(ValueError, match=r"generator makes rows of 1 numbers, but the metric's reference has 3"):
        gi.itd(lqgan().train(2), metric)


class Slope(nn.Module):
    """``D(x) = slope x``."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def forward(self, rows):
        return self.slope * rows


# real(a) = a^3 pushes the slope up for row x = -1 and down for x = 1: together they balance, alone x = -1 explodes.
CUBIC = RowLoss(real=lambda a: a**3, fake=lambda a: 0 * a, generator=lambda a: a)


def balanced():
    return lqgan(discriminator=Slope(), data=torch.tensor([[1.0], [-1.0]], dtype=torch.float64), loss=CUBIC)


def exploding_slope():
    """By hand: the step whose update overflows, and the discriminator's losses before each step."""
    slope, losses = 1.0, []
    while math.isfinite(slope):
        losses.append(-slope * slope * slope / 2)
        slope += 0.1 * 1.5 * slope * slope
    return len(losses) - 1, losses


@pytest.mark.parametrize("steps", [40, 100])
def test_divergence_names_the_step_and_the_player(steps):
    step, _ = exploding_slope()
    with pytest.raises(
        gi.DivergenceError, match=rf"step {step}: the discriminator's parameters .*learning rate"
    ) as caught:
        balanced().train(steps, weights=torch.tensor([0.0, 1.0]))
    assert (caught.value.step, caught.value.player, caught.value.model) == (step, "discriminator", ())


def test_divergence_names_the_last_finite_losses_though_those_of_its_own_step_overflowed():
    _, losses = exploding_slope()
    assert not math.isfinite(losses[-1])
    expected = [loss for loss in losses if math.isfinite(loss)][-1]
    with pytest.raises(
        gi.DivergenceError, match=r"last finite losses, at step \d+: generator .*, discriminator"
    ) as caught:
        balanced().train(40, weights=torch.tensor([0.0, 1.0]))
    assert float(re.search(r"discriminator ([^\s)]+)\)", str(caught.value))[1]) == pytest.approx(expected, rel=1e-5)


def test_divergence_at_once_names_the_losses_of_the_start():
    problem = lqgan(loss="wasserstein", rates=(1e308, 1e308))
    with pytest.raises(
        gi.DivergenceError, match=r"last finite losses, at step \d+: generator .*, discriminator"
    ) as caught:
        problem.train(3)
    expected = [float(cost) for cost in costs(problem, *problem.train(0).theta().split(problem.sizes), problem.ones)]
    shown = re.search(r"generator ([^\s,]+), discriminator ([^\s)]+)\)", str(caught.value))
    assert [float(loss) for loss in shown.groups()] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("chunk", [None, 1])
@pytest.mark.parametrize("large", [False, True])
def test_divergence_of_a_retraining_names_its_removal(chunk, large, monkeypatch):
    if large:  # and so, without a chunk, retrained alone
        monkeypatch.setattr(sys.modules["gan_influence.counterfactual"], "_LARGE", 0)
    problem = balanced()
    with pytest.raises(gi.DivergenceError, match=r"without removals\[2\] \(rows 0\): training diverged at step \d+"):
        gi.counterfactual(problem.train(60), problem.metric(), [[], [1], [0]], chunk=chunk)


def test_divergence_of_one_of_several_runs_names_the_run_and_its_rows():
    problem = balanced()
    traces, metrics = [problem.train(60) for _ in range(2)], [problem.metric()] * 2
    with pytest.raises(gi.DivergenceError, match=r"^retraining without removals\[0\] \(rows 0\) in run 1: training"):
        counterfactuals(traces, metrics, [[[1], []], [[0], [1]]])


def test_divergence_of_the_generator_names_it():
    loss = RowLoss(real=lambda a: a, fake=lambda a: 0 * a, generator=lambda a: -(a**4))
    with pytest.raises(gi.DivergenceError, match=r"the generator's parameters are no longer finite"):
        train(balanced().but(loss=loss), steps=100)


def test_a_checkpoint_folder_refuses_a_run_that_regularises_other_parameters(tmp_path):
    problem, memory = mlp(), gi.Checkpoint(folder=tmp_path)

    def run(l2_of):
        game = gi.Game(problem.generator, problem.discriminator, l2=(0.3, 0.2), l2_of=l2_of)
        return gi.train(game, problem.data, problem.schedule, 2, gi.SGD(0.1), memory=memory)

    run("kernels")
    with pytest.raises(ValueError, match=r"which differs in l2_of was kernels, is all\. Give each run"):
        run("all")
    run("kernels")
