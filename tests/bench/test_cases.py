"""The benchmark's cases, untimed: both sides of a ratio compute the same, and every case can be chosen and drawn."""

import re

import pytest
import torch
from support.games import relative_error, same_bits

import gan_influence as gi
from bench import __main__ as bench
from bench import dcgan, fcgan, softmax
from bench.cases import cases

SMALL = dcgan.Size(2, 8)
OF_DCGAN = {
    "adam": {"optimizer": dcgan.ADAM},
    "r1": {"optimizer": dcgan.ADAM, "penalties": dcgan.R1},
    "batch_norm": {"batch_norm": True},
}


def dcgan_with(name):
    return dcgan.trained("cpu", SMALL, 3, dtype=torch.float64, **OF_DCGAN.get(name, {})), dcgan.METRIC


def runs():
    return {
        **{name: lambda name=name: dcgan_with(name) for name in OF_DCGAN},
        "wgan_gp": lambda: fcgan.wgan_gp("cpu", 7),
    }


@pytest.mark.parametrize("make", runs().values(), ids=runs())
def test_what_a_sweep_differentiates_is_the_run_that_it_is_timed_against(make):
    trace, metric = make()
    again = gi.retrain(trace, [])
    assert same_bits(again.theta(), trace.theta())
    assert all(same_bits(again.held()[name], buffer) for name, buffer in trace.held().items())
    assert same_bits(gi.itd(again, metric), gi.itd(trace, metric))


def test_scores_of_the_penalised_case_are_slopes_of_its_run():
    """Central differences in one row's weight: of so small an influence a wide one is still a slope."""
    trace, metric = dcgan_with("r1")
    row, h, ends = int(trace.inputs(0).indices[0]), 0.01, []
    for sign in (1, -1):
        weights = torch.ones(dcgan.ROWS, dtype=torch.float64)
        weights[row] += sign * h
        run = dcgan.trained("cpu", SMALL, 3, dtype=torch.float64, weights=weights, **OF_DCGAN["r1"])
        ends.append(float(gi.measure(metric, run)))
    assert float(gi.itd(trace, metric)[row]) == pytest.approx((ends[1] - ends[0]) / (2 * h), rel=1e-3, abs=0)


def test_a_penalty_an_optimiser_and_a_normalisation_are_in_the_run():
    ends = [dcgan_with(name)[0] for name in (None, *OF_DCGAN)]
    for k, one in enumerate(ends):
        assert not any(same_bits(one.theta(), other.theta()) for other in ends[:k])
    assert any("running_mean" in name for name in ends[-1].held())


def test_a_cycle_moves_the_generator_in_its_sixth_step_only():
    trace, _ = fcgan.wgan_gp("cpu", 7)
    thetas = [trace.game.split(trace.theta(t))[0] for t in range(8)]
    moves = [t for t in range(7) if not same_bits(thetas[t], thetas[t + 1])]
    assert moves == [5]


def test_several_metrics_of_a_sweep_are_each_alone():
    trace = dcgan.trained("cpu", SMALL, 3, dtype=torch.float64)
    together = gi.itd(trace, dcgan.METRICS)
    assert together.shape == (3, dcgan.ROWS)
    for scores, metric in zip(together, dcgan.METRICS, strict=True):
        assert relative_error(scores, gi.itd(trace, metric)) < 1e-9


@pytest.mark.parametrize("width", [5, 64])
def test_many_points_of_a_call_are_each_alone(width):
    trace, inputs, labels = softmax.trained("cpu", width, points=450, steps=3)
    each = gi.itd(trace, gi.metrics.AverageLoss(inputs, labels, each=True))
    for k in (0, 403, 449):  # of 650 parameters 403 cotangents go back together
        alone = gi.itd(trace, gi.metrics.AverageLoss(inputs[k : k + 1], labels[k : k + 1]))
        assert relative_error(each[k], alone) < 1e-9


@pytest.mark.parametrize("preset", bench.PAIRS)
def test_every_case_has_a_name_of_its_own_and_a_game_that_only_can_choose(preset):
    found = cases(preset, "cpu")
    assert len({(case.name, case.game) for case in found}) == len(found)
    assert all(re.fullmatch(r"\w+ / \w+", case.name) for case in found)
    assert {case.game.split()[0].split("-")[0] for case in found} == set(bench.GAMES)


def test_the_plot_has_a_bar_for_every_case(tmp_path):
    rows = [
        {"name": case.name, "game": case.game, "target": case.target, "median": 2.0, "low": 1.5, "high": 3.0}
        | {"met": case.holds(2.0)}
        for case in cases("standard", "cpu")
    ]
    bench._plot(rows, tmp_path)
    assert (tmp_path / "ratios.png").stat().st_size > 0
    assert (tmp_path / "ratios.pdf").stat().st_size > 0
