"""The experiment that tells kinks from linear approximations."""

import json

import numpy as np
import pytest
import torch

import gan_influence as gi
from reports.experiments.fcgan_kinks import ERROR, FCGAN_KINKS, SMOKE, TAU, _change, _factual, _smooth, combine, units

TINY = {
    **SMOKE,
    "rows": 200,
    "validation_rows": 50,
    "metric_latents": 50,
    "epochs": 2,
    "trace_back": [1],
    "removals": 4,
}


def test_a_whole_row_made_lighter_is_a_removal():

    trace, metric, rows = _factual(json.dumps(TINY), 0, "ReLU", "cpu")
    truth = gi.counterfactual(trace, metric, [[row] for row in rows], last=2)
    torch.testing.assert_close(_change(trace, metric, rows, 1.0, trace.steps - 2), truth, rtol=1e-9, atol=1e-15)


def test_without_kinks_the_estimate_is_the_truth():
    records = {unit: FCGAN_KINKS.run_unit(TINY, 0, unit, "cpu") for unit in units(TINY)}
    values = combine(TINY, records)
    for row in ("softplus, h = 1", "softplus, h = 0.1"):
        assert values[TAU][row]["1"] == pytest.approx(1.0)
        assert values[ERROR][row]["1"] < 1e-4
    assert values[ERROR]["softplus, h = 0.1"]["1"] < values[ERROR]["softplus, h = 1"]["1"]


def test_only_the_activations_change():
    generator, _ = gi.models.fcgan(seed=0)
    smooth = _smooth(generator, 50.0)
    assert [p.shape for p in smooth.parameters()] == [p.shape for p in generator.parameters()]
    z = torch.linspace(-1, 1, 30, dtype=torch.float64).reshape(3, 10)
    np.testing.assert_allclose(smooth(z).detach(), generator(z).detach(), atol=0.2)
