"""Estimation accuracy on LQGAN: TNNLS Section VI-B, Fig. 1(a), Table V."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import gan_influence as gi
from reports.experiment import RANDOM_ORDER, Drawing, Experiment, Preset, Quantity, Settings, Values
from reports.parts.agreement import ERROR, RELATIVE_ERROR, relative_error, tau
from reports.parts.curves import LINE, PRINTED, along, times, times_across
from reports.shared.provenance import data_digest
from reports.summary import Summary

__all__ = ["LQGAN_ACCURACY", "PUBLISHED", "trained"]

TAU = "Table V"
REMOVALS_PER_UNIT = 50  # half a seed: what an interruption may cost

PUBLISHED: Settings = {
    "rows": 1000,
    "latents": 1000,
    "validation_rows": 1000,
    "metric_latents": 1000,
    "lr": 0.01,
    "stops": [2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000],
    "terms": [10, 100, 1000, 10000],
    "removals": 100,
}
SMOKE: Settings = {
    **PUBLISHED,
    "rows": 100,
    "latents": 100,
    "validation_rows": 100,
    "metric_latents": 100,
    "stops": [2, 5, 10, 20, 50],
    "terms": [10, 100],
    "removals": 10,
}


def rows(settings: Settings) -> list[str]:
    return [*(f"AID (M={terms})" for terms in settings["terms"]), "AID (M=inf)", "ITD"]


def columns(settings: Settings) -> list[str]:
    return [str(stop) for stop in settings["stops"]]


def units(settings: Settings) -> list[str]:
    """The estimates first, which take longest, then the retrainings in parts."""
    parts = range(-(-settings["removals"] // REMOVALS_PER_UNIT))
    return ["estimates", *(f"removals-{part}" for part in parts)]


def run_unit(settings: Settings, seed: int, unit: str, device: str) -> dict[str, Any]:
    trace, metric, removed = trained(settings, seed, device)
    stops = settings["stops"]
    if unit == "estimates":
        scores = {"ITD": gi.itd(trace, metric, at=stops)[:, removed], **_aid_scores(settings, trace, metric, removed)}
        values = {row: _lists(matrix) for row, matrix in scores.items()}
        return {"scores": values, "data": data_digest(trace)}
    part = int(unit.removeprefix("removals-"))
    mine = removed[part * REMOVALS_PER_UNIT : (part + 1) * REMOVALS_PER_UNIT]
    return {"influence": _lists(gi.counterfactual(trace, metric, [[row] for row in mine], at=stops))}


def combine(settings: Settings, records: dict[str, dict[str, Any]]) -> Values:
    """Kendall's tau and relative error of every estimator at every stop."""
    parts = [records[unit]["influence"] for unit in units(settings)[1:]]
    truth = np.concatenate([np.array(part) for part in parts], axis=1)
    values: Values = {TAU: {}, ERROR: {}}
    for row in rows(settings):
        scores = records["estimates"]["scores"][row]
        for quantity, measure in ((TAU, tau), (ERROR, relative_error)):
            values[quantity][row] = {
                column: None if scores[k] is None else measure(np.array(scores[k]), truth[k])
                for k, column in enumerate(columns(settings))
            }
    return values


def draw(figure: Any, summary: Summary) -> None:
    """Fig. 1(a): tau against T, and beside it what the paper does not show, the relative error of the values."""
    axes = figure.subplots(1, 2)
    _draw_curves(axes[0], summary, TAU, "Kendall's tau", published=True)
    axes[0].set_ylim(-0.15, 1.08)
    _draw_curves(axes[1], summary, ERROR, "relative error of the influence values", published=False)
    axes[1].set_yscale("log")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)


def findings(summary: Summary) -> list[str]:
    """What the numbers say, computed from them."""
    last = summary.columns[-1]
    found = []
    worst = min((_or_less(summary.mean(TAU, "ITD", column)), column) for column in summary.columns)
    found.append(
        f"ITD ranks rows almost perfectly at every T: its lowest mean tau is {worst[0]:.4f}, at T = {worst[1]}."
    )
    errors = [
        (value, column) for column in summary.columns if (value := summary.median(ERROR, "ITD", column)) is not None
    ]
    if errors:
        low, high = min(errors), max(errors)
        found.append(
            f"Its values are right too: the median relative error is {low[0]:.1e} at T = {low[1]} and at most "
            f"{high[0]:.1e} (T = {high[1]})."
        )
    aid = [row for row in summary.rows if row.startswith("AID")]
    best = {
        column: max(aid, key=lambda row, column=column: _or_less(summary.mean(TAU, row, column)))  # type: ignore[misc]
        for column in (summary.columns[0], last)
    }
    found.append(
        f"AID's best M moves from {best[summary.columns[0]]} at T = {summary.columns[0]} to {best[last]} at T = {last}."
    )
    series = ", ".join(f"{row} {_number(summary.mean(TAU, row, last), '.2f')}" for row in aid)
    printed = ", ".join(_number(summary.published_mean(TAU, row, last), ".2f") for row in aid[:-1])
    found.append(f"At T = {last} tau is {series} (printed: {printed}; the limit is not in the paper).")
    wrong_scale = [
        (row, tau, error)
        for row in aid
        if (tau := summary.mean(TAU, row, summary.columns[0])) is not None
        and (error := summary.median(ERROR, row, summary.columns[0])) is not None
        and tau > 0.9
    ]
    if wrong_scale:
        row, tau, error = max(wrong_scale, key=lambda one: one[2])
        found.append(
            f"Rank agreement hides a wrong scale: {row} at T = {summary.columns[0]} reaches tau {tau:.2f} with a "
            f"median relative error of {error:.1e}."
        )
    return found


def trained(
    settings: Settings, seed: int, device: str, parameters: tuple[float, ...] = ()
) -> tuple[gi.Trace, gi.metrics.Metric, list[int]]:
    """The factual run of one seed, its metric, and the rows to remove: every draw from a stream of its own.

    Args:
        settings: as of the preset.
        seed: of all streams.
        device: where to train.
        parameters: the four initial ones; by default drawn from N(0, 1).
    """
    streams = [int(stream) for stream in np.random.SeedSequence(seed).generate_state(6)]
    normal = gi.datasets.normal_1d
    data = normal(settings["rows"], seed=streams[0])
    latents = normal(settings["latents"], mean=0.0, seed=streams[1])
    validation = normal(settings["validation_rows"], seed=streams[2])
    metric = gi.metrics.AverageLogLikelihood(
        validation, normal(settings["metric_latents"], mean=0.0, seed=streams[3]), bandwidth=1.0
    )
    game = gi.Game(*gi.models.lqgan(*parameters, seed=streams[4]), loss="minimax")
    trace = gi.train(
        game, data, gi.FullBatch(latents), max(settings["stops"]), gi.SGD(lr=settings["lr"]), device=device
    )
    removed = np.random.default_rng(streams[5]).permutation(settings["rows"])[: settings["removals"]]
    return trace, metric, removed.tolist()


def _aid_scores(
    settings: Settings, trace: gi.Trace, metric: gi.metrics.Metric, removed: list[int]
) -> dict[str, list[Tensor | None]]:
    """Every stop and every number of terms off one series; one by one only where some of them overflow."""
    stops, terms = settings["stops"], settings["terms"]
    try:
        series = gi.aid(trace, metric, terms=terms, at=stops)[..., removed]
        scores = {f"AID (M={m})": list(series[:, k]) for k, m in enumerate(terms)}
    except gi.ConvergenceError:
        scores = {
            f"AID (M={m})": [_if_it_converges(trace, metric, removed, stop, terms=m) for stop in stops] for m in terms
        }
    limit = [_if_it_converges(trace, metric, removed, stop, solver="gmres") for stop in stops]
    return {**scores, "AID (M=inf)": limit}


def _if_it_converges(
    trace: gi.Trace, metric: gi.metrics.Metric, removed: list[int], stop: int, **options: Any
) -> Tensor | None:
    try:
        return gi.aid(trace, metric, at=[stop], **options)[0][removed]
    except gi.ConvergenceError:
        return None


def _lists(matrix: Any) -> list[list[float] | None]:
    return [None if row is None else torch.as_tensor(row).tolist() for row in matrix]


def _or_less(tau: float | None) -> float:
    return -1.0 if tau is None else tau


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _draw_curves(axes: Any, summary: Summary, quantity: str, label: str, published: bool) -> None:
    """One curve an estimator. Bands only for ITD and the longest series, as in the paper: more hide the curves."""
    middle: Callable[..., float | None] = summary.mean if published else summary.median
    at = times(summary)
    banded = ("ITD", max((row for row in summary.rows if row[-2].isdigit()), key=len)) if published else ("ITD",)
    for index, row in enumerate(reversed(summary.rows)):
        color = f"C{index}"
        axes.plot(at, along(summary, middle, quantity, row), "o-", color=color, label=row, **LINE)
        if row in banded:
            low, high = zip(*(summary.percentiles(quantity, row, column) for column in summary.columns), strict=True)
            axes.fill_between(at, low, high, color=color, alpha=0.12)
        printed = along(summary, summary.published_mean, quantity, row)
        if not np.isnan(printed).any():
            axes.plot(at, printed, "x:", color=color, **PRINTED)
    if published:
        axes.plot([], [], "x:", color="0.3", label="as printed")
    times_across(axes, summary, "training steps T")
    axes.tick_params(axis="x", labelsize=7.5)
    axes.set_ylabel(label)


LQGAN_ACCURACY = Experiment(
    name="lqgan-accuracy",
    title="Estimation accuracy on LQGAN",
    source="TNNLS 2025, Section VI-B, Fig. 1(a) and Table V",
    description=(
        "LQGAN is trained for T steps of full-batch adversarial gradient descent with the minimax loss on rows of "
        "N(1, 1). ITD and AID estimate how the average log-likelihood (ALL, Gaussian kernel of bandwidth 1 on the "
        "generated points, evaluated on validation rows) would change without each of 100 random rows; the truth is "
        "counterfactual training without that row. All T are read off one run. AID's scaling coefficient is the "
        "learning rate; M = inf is the series' limit by GMRES. The paper states no initialisation: all four "
        "parameters are drawn from N(0, 1)."
    ),
    presets={
        "smoke": Preset(SMOKE, seeds=2, as_published=False),
        "standard": Preset(PUBLISHED, seeds=3, as_published=True),
        "paper": Preset(PUBLISHED, seeds=10, as_published=True),
    },
    quantities=(
        Quantity(
            TAU,
            "Kendall's tau between estimated and true influence: mean over seeds, (10 %) (90 %) percentiles",
            decimals=2,
            above=RANDOM_ORDER,
        ),
        RELATIVE_ERROR,
    ),
    rows=rows,
    columns=columns,
    row_heading="Estimator",
    column_heading="T",
    units=units,
    run_unit=run_unit,
    combine=combine,
    figures=(
        Drawing(
            "figure",
            "Left: as Fig. 1(a); solid ours, dotted crosses as printed, 10 % to 90 % range over seeds for ITD and the "
            "longest series. Right: the relative error of the values (median over seeds), which the paper does not "
            "show.",
            draw,
        ),
    ),
    findings=findings,
    recheck={"stops": [2, 5, 10, 20, 50, 100], "terms": [10, 100]},
)
