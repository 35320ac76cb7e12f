"""Why ITD's accuracy on FCGAN is not perfect: kinks of ReLU, not the number of linear approximations."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn

import gan_influence as gi
from gan_influence.metrics.metric import metric_values
from reports.experiment import Drawing, Experiment, Preset, Quantity, Settings, Values
from reports.parts.agreement import ERROR, relative_error, tau
from reports.parts.curves import LINE, along, times, times_across
from reports.parts.fcgan import LATENT_SIZE, Streams, latents, steps_per_epoch
from reports.parts.weightings import trained_with
from reports.shared.provenance import data_digest
from reports.summary import Summary

__all__ = ["FCGAN_KINKS"]

TAU = "Kendall's tau"
SETTINGS: Settings = {
    "activations": ["ReLU", "softplus"],
    "sharpness": 5.0,
    "shares": [1.0, 0.1],
    "rows": 10_000,
    "validation_rows": 1000,
    "metric_latents": 1000,
    "bandwidth": 1.0,
    "epochs": 30,
    "batch": 100,
    "lr": 1e-3,
    "trace_back": [1, 5, 10, 20],
    "removals": 30,
}
STANDARD: Settings = {**SETTINGS, "rows": 2000, "trace_back": [1, 5, 10]}
SMOKE: Settings = {**STANDARD, "rows": 500, "epochs": 5, "trace_back": [1, 5], "removals": 10}


def name(activation: str, share: float) -> str:
    return f"{activation}, h = {share:g}"


def rows(settings: Settings) -> list[str]:
    return [name(activation, share) for activation in settings["activations"] for share in settings["shares"]]


def columns(settings: Settings) -> list[str]:
    return [str(epochs) for epochs in settings["trace_back"]]


def units(settings: Settings) -> list[str]:
    return [f"{activation}-{k}" for activation in settings["activations"] for k in settings["trace_back"]]


def run_unit(settings: Settings, seed: int, unit: str, device: str) -> dict[str, Any]:
    activation, epochs = unit.split("-")
    trace, metric, lightened = _factual(json.dumps(settings), seed, activation, device)
    last = int(epochs) * steps_per_epoch(settings)
    scores = gi.itd(trace, metric, last=last)[lightened]
    changes = {
        f"{share:g}": _change(trace, metric, lightened, share, trace.steps - last).tolist()
        for share in settings["shares"]
    }
    return {"scores": scores.tolist(), "changes": changes, "data": data_digest(trace)}


def combine(settings: Settings, records: dict[str, dict[str, Any]]) -> Values:
    values: Values = {TAU: {}, ERROR: {}}
    for activation in settings["activations"]:
        for share in settings["shares"]:
            for column in columns(settings):
                record = records[f"{activation}-{column}"]
                scores, truth = np.array(record["scores"]), np.array(record["changes"][f"{share:g}"])
                row = name(activation, share)
                values[TAU].setdefault(row, {})[column] = tau(scores, truth)
                values[ERROR].setdefault(row, {})[column] = relative_error(scores, truth)
    return values


@lru_cache(maxsize=1)
def _factual(settings_as_text: str, seed: int, activation: str, device: str) -> tuple[gi.Trace, Any, list[int]]:
    """The factual run with one activation, ALL, and the rows to make lighter; a process keeps the last one."""
    settings, streams = json.loads(settings_as_text), Streams.of(seed)
    data = gi.datasets.normal_2d(settings["rows"], seed=streams.rows)
    players = gi.models.fcgan(seed=streams.players)
    if activation == "softplus":
        players = tuple(_smooth(player, settings["sharpness"]) for player in players)  # type: ignore[assignment]
    schedule = gi.Minibatches(len(data), settings["batch"], (LATENT_SIZE,), seed=streams.schedule)
    trace = gi.train(
        gi.Game(*players, loss="non_saturating"),
        data,
        schedule,
        settings["epochs"] * steps_per_epoch(settings),
        gi.SGD(lr=settings["lr"]),
        device=device,
    )
    metric = gi.metrics.AverageLogLikelihood(
        gi.datasets.normal_2d(settings["validation_rows"], seed=streams.validation_rows),
        latents(settings["metric_latents"], streams.validation_latents),
        bandwidth=settings["bandwidth"],
    )
    lightened = np.random.default_rng(streams.choice).permutation(len(data))[: settings["removals"]]
    return trace, metric, lightened.tolist()


def _smooth(player: nn.Sequential, sharpness: float) -> nn.Sequential:
    return nn.Sequential(*(nn.Softplus(beta=sharpness) if isinstance(part, nn.ReLU) else part for part in player))


def _change(trace: gi.Trace, metric: Any, lightened: list[int], share: float, start: int) -> torch.Tensor:
    """``(E(w_j = 1 - h) - E(w = 1)) / h`` for each of the rows, retrained from ``start``: h = 1 removes the row."""
    weights = trace.weights.repeat(1 + len(lightened), 1)
    weights[range(1, len(weights)), lightened] -= share
    values = metric_values(metric, trace.game, trained_with(trace, weights, start))
    return (values[1:] - values[0]) / share


def draw(figure: Any, summary: Summary) -> None:
    """Tau and relative error against k."""
    axes = figure.subplots(1, 2)
    for index, row in enumerate(summary.rows):
        style = "o-" if row.endswith("h = 1") else "s--"
        color = f"C{int(not row.startswith('ReLU'))}"
        curves = along(summary, summary.mean, TAU, row), along(summary, summary.median, ERROR, row)
        for one, curve in zip(axes, curves, strict=True):
            one.plot(times(summary), curve, style, color=color, alpha=0.9, label=row, zorder=index, **LINE)
    axes[0].set_ylabel("Kendall's tau, mean over seeds")
    axes[1].set_ylabel("relative error, median over seeds")
    axes[1].set_yscale("log")
    for one in axes:
        times_across(one, summary, "epochs traced back, k")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)


def findings(summary: Summary) -> list[str]:
    """The size of the errors with kinks and without, and for a whole row and a tenth of one."""
    found = []
    for column in (summary.columns[0], summary.columns[-1]):
        parts = [
            f"{row}: tau {tau:.3f}, error {error:.1e}"
            for row in summary.rows
            if (tau := summary.mean(TAU, row, column)) is not None
            and (error := summary.median(ERROR, row, column)) is not None
        ]
        if parts:
            found.append(f"k = {column}: {'; '.join(parts)}.")
    return found


FCGAN_KINKS = Experiment(
    name="fcgan-kinks",
    title="What ReLU does to the accuracy on FCGAN",
    source="not in the paper; beside ICLR 2021, Section 5.1, Fig. 1",
    description=(
        "ICLR 5.1 explains the loss of accuracy at large k by the many linear approximations of the estimator. Here "
        "FCGAN (the published code's form) is trained with ReLU and with softplus of sharpness 5 in its place, all "
        "else equal, and rows lose a share h of their weight, h = 1 being removal; the truth is (E(w_j = 1 - h) - "
        "E) / h by retraining. With ReLU the gradients jump where a unit switches on or off for some row. ITD is the "
        "derivative between such kinks and cannot know of one that the removal crosses; softplus has none."
    ),
    presets={
        "smoke": Preset(SMOKE, seeds=2, as_published=False),
        "standard": Preset(STANDARD, seeds=2, as_published=False),
        "paper": Preset(SETTINGS, seeds=3, as_published=False),
    },
    quantities=(
        Quantity(TAU, "Between estimated and true influence: mean over seeds, (10 %) (90 %) percentiles", decimals=3),
        Quantity(
            ERROR,
            "|estimate - truth| / |truth| over the rows: median over seeds, (10 %) (90 %) percentiles",
            decimals=None,
            center="median",
        ),
    ),
    rows=rows,
    columns=columns,
    row_heading="Activation and share of a row's weight",
    column_heading="k",
    units=units,
    run_unit=run_unit,
    combine=combine,
    figures=(Drawing("figure", "Solid: rows removed; dashed: a tenth of their weight.", draw),),
    findings=findings,
    recheck={"activations": ["ReLU"], "trace_back": [1]},
)
