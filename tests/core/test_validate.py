"""Are scores to be trusted? Right ones, wrong ones, and runs whose truth is rounding."""

import copy
import itertools
import math
import sys

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from support.games import GAMES, lqgan, minibatch_mlp, mlp, same_bits
from torch import nn

import gan_influence as gi
from gan_influence.counterfactual import counterfactual_and_rounding
from gan_influence.validation import _agreement, validate

each_game = pytest.mark.parametrize("make", GAMES.values(), ids=GAMES)
each_half = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
EPS = torch.finfo(torch.float64).eps


def in_dtype(problem, dtype):
    """The same problem, full batch, in another data type."""
    return problem.but(
        generator=copy.deepcopy(problem.generator).to(dtype),
        discriminator=copy.deepcopy(problem.discriminator).to(dtype),
        data=problem.data.to(dtype),
        schedule=gi.FullBatch(problem.schedule(0).latents.to(dtype)),
        reference=problem.reference.to(dtype),
        fresh=problem.fresh.to(dtype),
    )


def scored(problem, steps=30, **options):
    trace = problem.train(steps, **options)
    return trace, problem.metric(), gi.itd(trace, problem.metric())


def documented_signs(seed, replicas, size):
    return torch.from_numpy(np.random.default_rng([seed, 1]).choice([-1.0, 1.0], (replicas, size)))


def rms(values):
    return float(torch.as_tensor(values).double().square().mean().sqrt())


def moved_by(problem, move):
    """The problem from another start: ``theta + move``."""
    moved = problem.but(generator=copy.deepcopy(problem.generator), discriminator=copy.deepcopy(problem.discriminator))
    nn.utils.vector_to_parameters(
        problem.start() + move, [*moved.generator.parameters(), *moved.discriminator.parameters()]
    )
    return moved


TRACE, METRIC, SCORES = scored(lqgan(40))


# Verdicts


@each_game
@pytest.mark.parametrize("seed", range(3))
def test_exact_derivatives_in_float64_are_trusted(make, seed):
    found = validate(*scored(make(40)), seed=seed)
    assert found.trusted, found
    assert found.tau > 0.85
    assert 0.8 < found.slope < 1.25
    assert found.noise_floor < 1e-14


SPOILT = {
    "negated": (lambda scores: -scores, "sign"),
    "negated-and-small": (lambda scores: -1e-3 * scores, "sign"),
    "scaled-up": (lambda scores: 10 * scores, "size"),
    "scaled-down": (lambda scores: scores / 10, "size"),
    "scaled-up-little-enough": (lambda scores: 1.5 * scores, None),
    "of-the-row-before": (lambda scores: scores.roll(1), "order"),
    "constant": (torch.ones_like, "order"),
    "zero": (torch.zeros_like, "order"),
}


@pytest.mark.parametrize(("spoil", "reason"), SPOILT.values(), ids=SPOILT)
def test_spoilt_scores_are_reported_with_the_fitting_reason(spoil, reason):
    found = validate(TRACE, METRIC, spoil(SCORES))
    assert found.trusted == (reason is None), found
    assert reason is None or found.reason.startswith(f"{reason}: ")


def test_shuffled_scores_are_never_trusted():
    rows = tuple(range(40))
    truth = gi.counterfactual(TRACE, METRIC, [[row] for row in rows])
    for seed in range(200):
        shuffled = SCORES[torch.randperm(40, generator=torch.Generator().manual_seed(seed))]
        found = _agreement(rows, shuffled, truth, 1e-15)
        assert not found.trusted
        assert found.reason.startswith(("order", "sign"))


def test_a_shuffle_is_reported_as_one_of_order():
    shuffled = SCORES[torch.randperm(40, generator=torch.Generator().manual_seed(5))]
    assert validate(TRACE, METRIC, shuffled, 16).reason.startswith("order: ")


def test_a_constant_has_no_tau_and_zero_no_slope():
    constant, zero = (validate(TRACE, METRIC, spoil(SCORES)) for spoil in (torch.ones_like, torch.zeros_like))
    assert (constant.tau, constant.p_value) == (None, None)
    assert constant.slope is not None
    assert (zero.tau, zero.slope, zero.relative_error) == (None, None, 1.0)


@each_half
def test_a_run_in_half_precision_is_reported_as_rounding(dtype):
    problem = in_dtype(lqgan(200), dtype)
    with pytest.warns(RuntimeWarning, match="validate"):
        trace, metric, scores = scored(problem, steps=60)
    assert scores.isfinite().all()
    assert scores.abs().max() > 0
    found = validate(trace, metric, scores)
    assert not found.trusted
    assert found.reason.startswith("rounding: ")
    assert found.noise_floor > torch.finfo(dtype).eps / 2


@each_half
def test_a_small_network_in_half_precision_is_reported_as_rounding(dtype):
    players = [player.to(dtype) for player in gi.models.fcgan(hidden=(4, 4), seed=0)]
    data, latents = gi.datasets.normal_2d(60, seed=0).to(dtype), torch.ones(20, 10, dtype=dtype)
    schedule = gi.Minibatches(60, 20, (10,), seed=0)
    with pytest.warns(RuntimeWarning, match=str(dtype).removeprefix("torch.")):
        trace = gi.train(gi.Game(*players, loss="non_saturating"), data, schedule, 9, gi.SGD(0.01))
    metric = gi.metrics.AverageLogLikelihood(data, latents)
    found = validate(trace, metric, gi.itd(trace, metric))
    assert not found.trusted
    assert found.reason.startswith("rounding: ")


def test_a_wider_type_makes_the_same_run_trusted():
    assert validate(*scored(in_dtype(lqgan(200), torch.float32), steps=60)).trusted
    assert validate(*scored(lqgan(200), steps=60)).trusted


def test_influences_that_only_drown_in_float32_are_called_rounding_not_wrong():
    # 1000 rows and three small steps: influences of 1e-7 on a metric of -1.6 with seven digits.
    problem = lqgan(1000, rates=(0.01, 0.01))
    single = validate(*scored(in_dtype(problem, torch.float32), steps=3))
    double = validate(*scored(problem, steps=3))
    assert single.reason.startswith("rounding: "), single
    assert double.trusted


def test_a_metric_that_overflows_is_not_trusted():
    class Overflowing:
        def value(self, players):
            return players.generate(METRIC.latents).mean() * 1e308 * 1e10

    found = validate(TRACE, Overflowing(), SCORES)
    assert not found.trusted
    assert found.reason.startswith("rounding: ")


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_retraining_without_a_finite_metric_is_not_trusted(value):
    truth = SCORES[:8].index_fill(0, SCORES[:8].argmax(), value)
    found = _agreement(tuple(range(8)), SCORES[:8], truth, 1e-12)
    assert not found.trusted
    assert found.reason.startswith("rounding: ")


# The numbers


@pytest.mark.bits
def test_it_compares_the_scores_with_the_counterfactual():
    found = validate(TRACE, METRIC, SCORES, [17, 3, 5, 20, 1])
    assert found.rows == (17, 3, 5, 20, 1)
    assert same_bits(found.estimates, SCORES[[17, 3, 5, 20, 1]])
    truth = gi.counterfactual(TRACE, METRIC, [[row] for row in found.rows])
    torch.testing.assert_close(found.truth, truth, rtol=0, atol=1e-14)

    e, t = found.estimates.tolist(), found.truth.tolist()
    pairs = itertools.combinations(range(5), 2)
    agreeing = [math.copysign(1, (e[i] - e[j]) * (t[i] - t[j])) for i, j in pairs]
    assert found.tau == pytest.approx(sum(agreeing) / 10)
    assert found.slope == pytest.approx(sum(a * b for a, b in zip(e, t, strict=True)) / sum(a * a for a in e))
    distance = math.sqrt(sum((a - b) ** 2 for a, b in zip(e, t, strict=True)))
    assert found.relative_error == pytest.approx(distance / math.sqrt(sum(b * b for b in t)))


def test_the_p_value_counts_orders_that_agree_as_well():
    found = validate(TRACE, METRIC, SCORES.roll(1), 5)
    truth = found.truth.tolist()
    taus = [kendalltau(order, truth).statistic for order in itertools.permutations(truth)]
    assert found.p_value == pytest.approx(np.mean([tau >= found.tau - 1e-12 for tau in taus]))


def with_inversions(n, count):
    """An order of 1 ... n in which so many pairs are the wrong way round."""
    order = list(range(1, n + 1))
    for k in range(n - 1):  # to put a later one before `by` smaller ones costs as many inversions
        by = min(count, n - 1 - k)
        order.insert(k, order.pop(k + by))
        count -= by
    return order


def test_unrelated_scores_pass_the_test_of_order_as_often_as_documented():
    # The orders of eight rows by their number of inversions: the coefficients of prod_k (1 + q + ... + q^k), k < 8.
    counts = np.ones(1)
    for k in range(1, 8):
        counts = np.convolve(counts, np.ones(k + 1))
    assert counts.sum() == math.factorial(8)
    passing, taus = 0.0, []
    for inversions, count in enumerate(counts):
        estimates = torch.tensor(with_inversions(8, inversions), dtype=torch.float64)
        found = _agreement(tuple(range(8)), estimates, torch.arange(1.0, 9.0, dtype=torch.float64), 1e-9)
        assert found.tau == pytest.approx(1 - 2 * inversions / 28)
        if not found.reason.startswith(("order", "sign")):
            passing += count
            taus.append(found.tau)
    assert min(taus) == pytest.approx(16 / 28)  # 14 / 28 = 0.5 is not yet significant
    assert passing / counts.sum() == pytest.approx(0.0305, abs=1e-4)


@pytest.mark.parametrize(("n", "floating"), [(9, "0.5"), (17, "0.49999999999999994")])
def test_a_tau_of_one_half_is_enough_where_it_is_significant(n, floating):
    order = with_inversions(n, n * (n - 1) // 8)
    truth = torch.arange(1.0, n + 1.0, dtype=torch.float64)
    found = _agreement(tuple(range(n)), torch.tensor(order, dtype=torch.float64), truth, 1e-9)
    assert repr(found.tau) == floating
    assert found.trusted


@each_game
def test_estimators_and_options_of_training_are_all_validated(make):
    problem = make(40)
    for options in ({"update": "alternating"}, {"ema_decay": 0.8}, {"memory": "checkpoint"}):
        assert validate(*scored(problem, 40, **options)).trusted
    trace = problem.train(40, optimizer=gi.SGD(0.03, momentum=0.5))
    assert validate(trace, problem.metric(), gi.itd(trace, problem.metric()).numpy()).trusted


def test_a_one_player_game_is_validated():
    inputs, targets = METRIC.latents, METRIC.latents**2
    line = nn.Linear(1, 1).double()
    nn.utils.vector_to_parameters(torch.tensor([0.5, -0.5], dtype=torch.float64), line.parameters())
    game = gi.Game(None, line, loss="squared_error", l2=0.1)
    trace = gi.train(game, (inputs, targets), gi.FullBatch(), 30, gi.SGD(0.1))
    metric = gi.metrics.AverageLoss(inputs + 1, targets)
    assert validate(trace, metric, gi.itd(trace, metric)).trusted


def test_validating_leaves_the_run_and_the_scores_alone():
    before, scores = TRACE.state().clone(), SCORES.clone()
    validate(TRACE, METRIC, scores)
    assert same_bits(TRACE.state(), before)
    assert same_bits(scores, SCORES)


# The window


def test_scores_of_the_last_steps_are_validated_with_the_last_steps():
    problem = minibatch_mlp(30, 3)
    trace, metric = problem.train(40), problem.metric()
    last = gi.itd(trace, metric, last=10)
    assert validate(trace, metric, last, last=10).trusted
    assert not validate(trace, metric, last).trusted
    assert not validate(trace, metric, gi.itd(trace, metric), last=10).trusted


def test_rows_are_drawn_by_seed_from_those_that_the_steps_use():
    problem = minibatch_mlp(30, 3)
    trace, metric = gi.retrain(problem.train(11), [2, 7, 11, 13]), problem.metric()
    scores = gi.itd(trace, metric, last=6)
    held = set(torch.cat([problem.schedule(t).indices for t in range(5, 11)]).tolist())
    candidates = sorted(held - {2, 7, 11, 13})
    assert len(candidates) < 16
    for seed in range(5):
        drawn = validate(trace, metric, scores, 6, seed, last=6).rows
        assert drawn == tuple(sorted(np.random.default_rng(seed).choice(candidates, 6, replace=False).tolist()))
    assert validate(trace, metric, scores, len(candidates), last=6).rows == tuple(candidates)
    with pytest.raises(ValueError, match=rf"from 4, .* to {len(candidates)}, .*got {len(candidates) + 1}"):
        validate(trace, metric, scores, len(candidates) + 1, last=6)


# The noise floor


@each_game
def test_replicas_are_the_run_from_a_moved_start(make):
    # Moves of 1e6 half units: what else is rounded, here and there, is a millionth of them.
    problem, signs = make(), 1e6 * documented_signs(0, 3, sum(make().sizes))
    for options in ({}, {"update": "alternating"}, {"ema_decay": 0.8, "optimizer": gi.Adam(0.01)}):
        _, rounding = counterfactual_and_rounding(problem.train(25, **options), problem.metric(), [[3]], signs)
        before = problem.metric()(problem.train(25, **options))
        for sign, found in zip(signs, rounding.tolist(), strict=True):
            moved = moved_by(problem, sign * EPS / 2 * problem.start())
            by_hand = float(problem.metric()(moved.train(25, **options)) - before)
            assert found == pytest.approx(by_hand, rel=1e-4)
            assert abs(by_hand) > 1e-12


def test_replicas_of_the_last_steps_start_at_the_window():
    problem, signs = minibatch_mlp(30, 3), 1e6 * documented_signs(0, 2, sum(mlp().sizes))
    trace, metric = problem.train(20), problem.metric()
    late = sorted(set(range(30)) - set(torch.cat([problem.schedule(t).indices for t in range(12, 18)]).tolist()))
    _, rounding = counterfactual_and_rounding(trace, metric, [[late[0]]], signs, last=8)
    for sign, found in zip(signs, rounding.tolist(), strict=True):
        start = trace.theta(12)
        moved = problem.but(schedule=lambda t: problem.schedule(t + 12))
        moved = moved_by(moved, start + sign * EPS / 2 * start - problem.start())
        assert found == pytest.approx(float(metric(moved.train(8)) - metric(trace)), rel=1e-4)


@pytest.mark.parametrize("large", [2**24, 0], ids=["together", "alone"])
def test_only_parameters_move_not_what_an_optimiser_remembers(monkeypatch, large):
    monkeypatch.setattr(sys.modules["gan_influence.counterfactual"], "_LARGE", large)

    class Average:
        def value(self, players):
            return players.parameters["generator"].sum()

    trace = lqgan().train(20, ema_decay=0.999, optimizer=(gi.SGD(1e-30), gi.SGD(0.1)))
    signs = 1e6 * documented_signs(0, 1, 4)
    _, rounding = counterfactual_and_rounding(trace, Average(), [], signs, last=5)
    move = (signs[0] * EPS / 2 * trace.theta(15))[:2].sum()
    assert float(rounding) == pytest.approx(float((1 - 0.999**5) * move), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.filterwarnings("ignore:the players are")
def test_a_start_moves_by_the_rounded_half_unit(dtype):
    class FirstParameter:
        def value(self, players):
            return players.parameters["generator"][0].double()  # of a generator that hardly moves

    problem = in_dtype(mlp(), dtype)
    trace = problem.train(2, optimizer=(gi.SGD(1e-30), gi.SGD(0.1)))
    theta = float(problem.start()[0])
    unit = 2.0 ** math.floor(math.log2(abs(theta))) * torch.finfo(dtype).eps
    signs = torch.ones(2, problem.sizes[0] + problem.sizes[1], dtype=torch.float64)
    signs[1] = -1
    _, rounding = counterfactual_and_rounding(trace, FirstParameter(), [], signs)
    assert rounding.tolist() == [math.copysign(unit, theta), -math.copysign(unit, theta)]


class Fine:
    """In float64, so that its last place is far below what float32 training does to it, on every machine."""

    def value(self, players):
        return players.parameters["generator"].double().sum()


def test_the_floor_is_the_root_mean_square_of_what_the_replicas_do():
    problem, metric = in_dtype(mlp(rates=(0.5, 0.5)), torch.float32), Fine()
    trace, _, scores = scored(problem, steps=60)
    found = validate(trace, metric, scores, seed=7, replicas=5)
    signs = documented_signs(7, 5, trace.game.size)
    _, rounding = counterfactual_and_rounding(trace, metric, [[row] for row in found.rows], signs)
    assert len(rounding) == 5
    assert found.noise_floor == pytest.approx(rms(rounding), rel=1e-12)
    assert found.noise_floor > 1e3 * EPS * abs(float(metric.value(trace.players())))


def test_a_floor_is_never_below_the_metrics_own_last_place():
    class Coarse:
        def value(self, players):
            return 1e6 - METRIC.value(players)

    found = validate(TRACE, Coarse(), SCORES)
    assert found.noise_floor >= EPS / 2 * 1e6
    assert validate(TRACE, METRIC, SCORES).noise_floor < EPS * 10


def test_the_floor_is_what_retrainings_by_hand_find():
    problem, metric = in_dtype(mlp(rates=(0.5, 0.5)), torch.float32), Fine()
    trace, _, scores = scored(problem, steps=60)
    before, theta = metric.value(trace.players()), problem.start()
    by_hand = []
    for k in range(6):
        up = torch.rand(len(theta), generator=torch.Generator().manual_seed(k)) < 0.5
        neighbour = torch.nextafter(theta, torch.where(up, math.inf, -math.inf))
        by_hand.append(float(metric.value(moved_by(problem, neighbour - theta).train(60).players()) - before))
    floor = validate(trace, metric, scores, replicas=8).noise_floor
    assert rms(by_hand) / 4 < floor < rms(by_hand) * 4


def test_the_floor_is_the_error_of_the_truth():
    # Rounding in float32 against the same retrainings in float64.
    single, double = (validate(*scored(in_dtype(lqgan(200), dtype), 60)) for dtype in (torch.float32, torch.float64))
    error = rms(single.truth - double.truth)
    assert error / 10 < single.noise_floor < error * 10
    assert single.trusted


@each_game
def test_the_floor_scales_with_the_data_types_precision(make):
    single, double = (
        validate(*scored(in_dtype(make(), dtype), 60)).noise_floor for dtype in (torch.float32, torch.float64)
    )
    assert 2**29 / 10 < single / double < 2**29 * 10


def test_replicas_are_the_same_by_seed():
    trace, _, scores = scored(in_dtype(mlp(), torch.float32))
    floors = [validate(trace, Fine(), scores, [1, 2, 3, 4], seed).noise_floor for seed in (0, 0, 1, 2)]
    assert floors[0] == floors[1]
    assert len(set(floors)) == 3


@pytest.mark.bits
def test_without_replicas_it_is_the_counterfactual_bit_for_bit():
    for problem in (lqgan(), minibatch_mlp()):
        trace, removals = problem.train(20), [[1], [5, 2], [7]]
        truth, rounding = counterfactual_and_rounding(
            trace, problem.metric(), removals, torch.empty(0, trace.game.size)
        )
        assert same_bits(truth, gi.counterfactual(trace, problem.metric(), removals))
        assert rounding.shape == (0,)


def test_a_replica_that_diverges_is_named():
    signs = torch.ones(2, 4, dtype=torch.float64)
    signs[0] = 1e300
    with pytest.raises(gi.DivergenceError, match=r"^replica 0 of the factual run: training diverged"):
        counterfactual_and_rounding(TRACE, METRIC, [[3]], signs)


@pytest.fixture
def one_at_a_time(monkeypatch):
    """Take every model for one that is too large to gain anything in a batch."""
    monkeypatch.setattr(sys.modules["gan_influence.counterfactual"], "_LARGE", 0)


@pytest.mark.bits
def test_large_models_are_validated_one_after_another(one_at_a_time):
    trace, metric, scores = scored(minibatch_mlp(30, 3))
    found = validate(trace, metric, scores, last=20)
    alone = [metric(gi.retrain(trace, [row], last=20)) - metric(trace) for row in found.rows]
    assert same_bits(found.truth, torch.stack(alone))
    signs = 1e6 * documented_signs(0, 3, trace.game.size)
    _, rounding = counterfactual_and_rounding(trace, metric, [[3]], signs, last=20)
    start = trace.theta(10)
    for sign, difference in zip(signs, rounding.tolist(), strict=True):
        moved = minibatch_mlp(30, 3).but(schedule=lambda t: trace.schedule(t + 10))
        moved = moved_by(moved, start + sign * EPS / 2 * start - moved.start())
        assert difference == pytest.approx(float(metric(moved.train(20)) - metric(trace)), rel=1e-4)
    assert 0 < found.noise_floor < 1e-14


def test_a_large_model_that_diverges_is_named(one_at_a_time):
    signs = torch.ones(2, 4, dtype=torch.float64)
    signs[1] = 1e300
    with pytest.raises(gi.DivergenceError, match=r"^replica 1 of the factual run: training diverged"):
        counterfactual_and_rounding(TRACE, METRIC, [[3], [4]], signs)


# Metrics wider than the players


class Wide:
    """In float64 whatever the players are, and huge beside what a row does to it."""

    def value(self, players):
        return 1e9 + players.parameters["generator"].double().sum()


def test_differences_of_a_wider_metric_keep_its_digits():
    trace = in_dtype(lqgan(), torch.float32).train(30)
    removals = [[row] for row in range(8)]
    truth = gi.counterfactual(trace, Wide(), removals)
    assert truth.dtype == torch.float32
    alone = [(gi.retrain(trace, removed).seen().double() - trace.seen().double())[:2].sum() for removed in removals]
    torch.testing.assert_close(truth.double(), torch.stack(alone), rtol=1e-3, atol=1e-6)
    assert truth.abs().min() > 1e-5


@pytest.mark.filterwarnings("ignore:the players are")
def test_small_influences_do_not_underflow_in_a_small_type():
    class Small:
        def value(self, players):
            return 1e-9 * players.parameters["generator"].double().sum()

    trace = in_dtype(lqgan(rates=(0.5, 0.5)), torch.float16).train(30)
    assert gi.counterfactual(trace, Small(), [[row] for row in range(8)]).eq(0).all()
    found = validate(trace, Small(), SCORES[:24])
    assert 1e-13 < rms(found.truth) < 1e-9
    assert 1e-14 < found.noise_floor < 1e-9


# What it takes and shows

REFUSED = {
    "of-several-stops": (lambda s: {"scores": torch.stack([s, s])}, ValueError, r"of 2 stops or terms.*scores\[-1\]"),
    "too-few": (lambda s: {"scores": s[:5]}, ValueError, r"40 rows, but scores have shape \(5,\)"),
    "scalar": (lambda s: {"scores": s.sum()}, ValueError, r"40 rows, but scores have shape \(\)"),
    "not-finite": (
        lambda s: {"scores": s.index_fill(0, torch.tensor([6, 9]), math.nan)},
        ValueError,
        r"NaN or infinity, first for row 6",
    ),
    "integers": (lambda s: {"scores": s.long()}, TypeError, r"floating-point tensor \(40,\).*int64"),
    "list": (lambda s: {"scores": s.tolist()}, TypeError, r"floating-point tensor \(40,\).*got list"),
    "three-rows": (lambda s: {"rows": 3}, ValueError, r"from 4, .* to 40, .*got 3"),
    "three-named-rows": (lambda s: {"rows": [1, 2, 3]}, ValueError, r"at least 4.*got \[1, 2, 3\]"),
    "many-rows": (lambda s: {"rows": 41}, ValueError, r"from 4, .* to 40, .*got 41"),
    "half-a-row": (lambda s: {"rows": 8.0}, TypeError, r"rows must be how many to draw, .*got 8.0"),
    "true": (lambda s: {"rows": True}, TypeError, r"rows must be how many to draw, .*got True"),
    "row-out-of-range": (lambda s: {"rows": [1, 2, 3, 40]}, IndexError, r"rows contains 40, but the data has 40"),
    "row-twice": (lambda s: {"rows": [1, 2, 3, 2]}, ValueError, r"rows contains 2 twice"),
    "row-text": (lambda s: {"rows": "1234"}, TypeError, r"rows must be a list of row indices"),
    "no-replicas": (lambda s: {"replicas": 0}, ValueError, r"replicas must be a whole number >= 1, got 0"),
    "negative-seed": (lambda s: {"seed": -1}, ValueError, r"seed must be a whole number >= 0, got -1"),
    "last-too-long": (lambda s: {"last": 31}, ValueError, r"last must be a number of steps from 0 to 30"),
    "no-steps": (lambda s: {"last": 0}, ValueError, r"from 4, .* to 0, .*got 8"),
}


@pytest.mark.parametrize(("given", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_it_refuses(given, error, message):
    with pytest.raises(error, match=message):
        validate(TRACE, METRIC, **{"scores": SCORES} | given(SCORES))


def test_a_row_without_influence_by_construction_is_refused():
    problem = minibatch_mlp(30, 3)
    trace = gi.retrain(problem.train(10), [4])
    scores = gi.itd(trace, problem.metric())
    with pytest.raises(ValueError, match=r"rows contains 4, whose influence is 0 by construction"):
        validate(trace, problem.metric(), scores, [1, 2, 3, 4])
    unused = next(row for row in range(5, 30) if row not in torch.cat([problem.schedule(t).indices for t in (8, 9)]))
    with pytest.raises(ValueError, match=rf"rows contains {unused}, whose influence is 0 by construction"):
        validate(trace, problem.metric(), scores, [*problem.schedule(9).indices.tolist(), unused], last=2)


def test_what_it_shows_can_be_read():
    trusted, wrong = (validate(TRACE, METRIC, scores, [4, 2, 17, 9]) for scores in (SCORES, -SCORES))
    lines = str(trusted).splitlines()
    assert lines[0].startswith("trusted: Kendall's tau is 1.00 (p = 0.042), the slope ")
    assert str(wrong).startswith("not to be trusted: sign: Kendall's tau is -1.00")
    assert [line.split()[0] for line in lines[-4:]] == ["4", "2", "17", "9"]
    assert [float(line.split()[2]) for line in lines[-4:]] == pytest.approx(trusted.truth.tolist(), rel=1e-3)
    assert "Kendall's tau   none (p = none)" in str(validate(TRACE, METRIC, torch.zeros_like(SCORES)))


def test_progress_is_shown_on_request(capsys):
    validate(TRACE, METRIC, SCORES)
    assert capsys.readouterr().err == ""
    validate(TRACE, METRIC, SCORES, progress=True)
    assert "retraining: 100%" in capsys.readouterr().err


# Training's warning


@each_half
def test_training_below_float32_warns_and_names_validate(dtype):
    with pytest.warns(RuntimeWarning, match=rf"players are {str(dtype)[6:]}.*gi\.validate\(trace, metric, sc") as said:
        in_dtype(lqgan(), dtype).train(2)
    assert len(said) == 1


def test_the_warning_points_at_the_callers_line():
    problem = in_dtype(lqgan(), torch.bfloat16)
    with pytest.warns(RuntimeWarning, match="bfloat16") as said:
        gi.train(problem.game(), problem.data, problem.schedule, 1, gi.SGD(0.1))
    assert said[0].filename == __file__


def test_training_in_float32_and_float64_does_not_warn():
    for dtype in (torch.float32, torch.float64):
        in_dtype(lqgan(), dtype).train(2)
