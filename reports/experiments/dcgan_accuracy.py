"""Estimation accuracy on DCGAN: TNNLS Section VI-B, Fig. 1(b), Table VI; and with FID, which the paper leaves out."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import kendalltau
from torch import Tensor

import gan_influence as gi
from reports.experiment import RANDOM_ORDER, Baseline, Drawing, Experiment, Preset, Quantity, Settings, Values
from reports.experiments.dcgan import FILES, METRICS, factual, images_digest, on_digits, prepare
from reports.experiments.lqgan_accuracy import finite, relative_error
from reports.statistics import expected_jaccard, jaccard
from reports.summary import Summary

__all__ = ["DCGAN_ACCURACY"]

TAU, TAU_FID, JACCARD = "Table VI", "Kendall's tau, FID", "Jaccard index"
ERROR, SLOPE, FLOOR = "Relative error", "Slope", "Noise floor"
ACCURACY = "Classifier"

PUBLISHED: Settings = {
    "images": "mnist",
    "rows": 10_000,
    "validation_rows": 10_000,
    "metric_latents": 10_000,
    "metrics": list(METRICS),
    "classifier_epochs": 50,
    "classifier_batch": 128,
    "channels": 8,
    "batch": 100,
    "lr": 1e-3,
    "l2": 1e-3,
    "l2_of": "all",
    "steps": 10_000,
    "stops": [100, 200, 500, 1000, 2000, 5000, 10_000],
    "terms": [10, 100, 1000, 10_000],
    "damping": 0.1,
    "removals": 100,
    "per_unit": 10,
    "critical": 10,
    "doubles": 5,
}
STANDARD: Settings = {
    **PUBLISHED,
    "metric_latents": 2000,
    "steps": 500,
    "stops": [100, 200, 500],
    "terms": [10, 100, 1000],
    "removals": 40,
    "per_unit": 4,
    "critical": 5,
    "doubles": 4,
}
SMOKE: Settings = {
    **on_digits(STANDARD),
    "steps": 40,
    "stops": [20, 40],
    "terms": [10, 100],
    "removals": 12,
    "per_unit": 6,
    "critical": 3,
    "doubles": 3,
}


def aid_rows(settings: Settings) -> list[str]:
    return [f"AID (M={terms})" for terms in settings["terms"]]


def rows(settings: Settings) -> list[str]:
    return [*aid_rows(settings), "ITD"]


def rows_of_both(settings: Settings) -> list[str]:
    return [*(f"{row}, IS" for row in rows(settings)), "ITD, FID"]


def metric_rows(settings: Settings) -> list[str]:
    return list(settings["metrics"])


def columns(settings: Settings) -> list[str]:
    return [str(stop) for stop in settings["stops"]]


def files(settings: Settings, seeds: Any) -> list[str]:
    return FILES if settings["images"] == "mnist" else []


def units(settings: Settings) -> list[str]:
    """AID first, which takes longest, then the truth in float64, then the retrainings in parts."""
    parts = range(-(-settings["removals"] // settings["per_unit"]))
    return ["aid", "float64", "itd", *(f"removals-{part}" for part in parts)]


def run_unit(settings: Settings, seed: int, unit: str, device: str, prepared: dict[str, Any]) -> dict[str, Any]:
    stops, task, *part = settings["stops"], *unit.split("-")
    precision = "float64" if task == "float64" else "float32"
    trace, metrics, removed = factual(settings, seed, prepared, device, precision)
    if task == "aid":
        scores = gi.aid(trace, metrics["IS"], terms=settings["terms"], damping=settings["damping"], at=stops)
        return {"scores": scores[..., removed].tolist()}
    if task == "itd":
        assert isinstance(trace.data, Tensor)
        scores_of = {name: gi.itd(trace, metric, at=stops)[:, removed].tolist() for name, metric in metrics.items()}
        return {"scores": scores_of, "data": images_digest(trace.data), "accuracy": prepared["accuracy"]}
    if task == "float64":
        mine = removed[: settings["doubles"]]
    else:
        mine = removed[int(part[0]) * settings["per_unit"] : (int(part[0]) + 1) * settings["per_unit"]]
    influence = gi.counterfactual(trace, list(metrics.values()), [[row] for row in mine], at=stops)
    return {"influence": dict(zip(metrics, influence.tolist(), strict=True))}


def combine(settings: Settings, records: dict[str, dict[str, Any]]) -> Values:
    """Agreement of every estimate with the truth at every stop, and how far the truth is off by rounding."""
    parts = [records[unit]["influence"] for unit in units(settings) if unit.startswith("removals")]
    truth = {name: np.concatenate([part[name] for part in parts], axis=1) for name in settings["metrics"]}
    values: Values = {quantity: {} for quantity in (TAU, TAU_FID, JACCARD, ERROR, SLOPE, FLOOR, ACCURACY)}
    estimates = {("ITD", name): np.array(records["itd"]["scores"][name]) for name in settings["metrics"]}
    series = np.array(records["aid"]["scores"])
    estimates |= {(row, "IS"): series[:, k] for k, row in enumerate(aid_rows(settings))}
    for (row, name), scores in estimates.items():
        pairs = list(zip(columns(settings), scores, truth[name], strict=True))
        taus = {column: finite(kendalltau(one, true).statistic) for column, one, true in pairs}
        values[TAU if name == "IS" else TAU_FID][row] = taus
        both = f"{row}, {name}"
        values[JACCARD][both] = {column: jaccard(one, true, settings["critical"]) for column, one, true in pairs}
        values[ERROR][both] = {column: relative_error(one, true) for column, one, true in pairs}
        values[SLOPE][both] = {column: finite(float(one @ true / (one @ one))) for column, one, true in pairs}
    for name in settings["metrics"]:
        double = np.array(records["float64"]["influence"][name])
        single = truth[name][:, : double.shape[1]]
        values[FLOOR][name] = {
            column: relative_error(single[k], double[k]) for k, column in enumerate(columns(settings))
        }
    values[ACCURACY]["accuracy"] = {"test images": records["itd"]["accuracy"]}
    return values


def jaccard_of_chance(settings: Settings) -> float:
    return expected_jaccard(settings["removals"], settings["critical"])


def draw(figure: Any, summary: Summary) -> None:
    """Fig. 1(b), and beside it the error of the values and the truth's own rounding."""
    left, right = figure.subplots(1, 2)
    times = [int(column) for column in summary.columns]
    for index, row in enumerate(reversed(summary.rows)):
        _curve(left, summary, times, TAU, row, f"{row}, IS", f"C{index}", banded=row == "ITD")
        printed = [summary.published_mean(TAU, row, column) for column in summary.columns]
        if all(value is not None for value in printed):
            left.plot(times, printed, "x:", color=f"C{index}", markersize=5, linewidth=1, alpha=0.8)
    _curve(left, summary, times, TAU_FID, "ITD", "ITD, FID", "k", banded=False)
    left.plot([], [], "x:", color="0.3", label="as printed")
    left.set_ylim(-0.2, 1.08)
    left.set_ylabel("Kendall's tau")
    for index, name in enumerate(metric_rows(summary.settings)):
        _curve(right, summary, times, ERROR, f"ITD, {name}", f"ITD's error, {name}", f"C{index}", banded=False)
        _curve(right, summary, times, FLOOR, name, f"rounding of the truth, {name}", f"C{index}", False, "s--")
    right.set_yscale("log")
    right.set_ylabel("relative to the truth")
    right.legend(fontsize=7.5, frameon=False)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks(times, summary.columns)
        axes.minorticks_off()
        axes.set_xlabel("training steps T")
        axes.grid(alpha=0.25)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)


def _curve(
    axes: Any,
    summary: Summary,
    times: list[int],
    quantity: str,
    row: str,
    label: str,
    color: str,
    banded: bool,
    line: str = "o-",
) -> None:
    means = [summary.mean(quantity, row, column) for column in summary.columns]
    curve = [np.nan if mean is None else mean for mean in means]
    axes.plot(times, curve, line, color=color, label=label, markersize=4, linewidth=1.4)
    if banded:
        low, high = zip(*(summary.percentiles(quantity, row, column) for column in summary.columns), strict=True)
        axes.fill_between(times, low, high, color=color, alpha=0.12)


def findings(summary: Summary) -> list[str]:
    """What the numbers say, computed from them."""
    found = []
    for quantity, name in ((TAU, "IS"), (TAU_FID, "FID")):
        taus = [summary.mean(quantity, "ITD", column) for column in summary.columns]
        slopes = [summary.mean(SLOPE, f"ITD, {name}", column) for column in summary.columns]
        if None in taus or None in slopes:
            continue
        found.append(
            f"ITD on {name}: mean tau {_listed(taus)} at T = {', '.join(summary.columns)}; the slope of the truth on "
            f"the estimate is {_listed(slopes)}."
        )
    floors = [
        (value, name, column)
        for name in metric_rows(summary.settings)
        for column in summary.columns
        if (value := summary.mean(FLOOR, name, column)) is not None
    ]
    if floors:
        low, high = min(floors), max(floors)
        found.append(
            "What rounding does to the truth: retraining in float32 and in float64 gives influences that differ by "
            f"{low[0]:.1e} ({low[1]}, T = {low[2]}) to {high[0]:.1e} ({high[1]}, T = {high[2]}) of their size. ITD is "
            "not to be judged by anything below that."
        )
    found += _printed_below(summary)
    return found


def _printed_below(summary: Summary) -> list[str]:
    """Where ITD ranks rows better than printed: is it the logarithm, or rounding?"""
    if not summary.comparable:
        return []
    above = []
    for column in summary.columns:
        ours, printed = summary.mean(TAU, "ITD", column), summary.published_mean(TAU, "ITD", column)
        if ours is not None and printed is not None and ours > printed + 0.02:
            above.append(f"{ours:.3f} at T = {column} (printed {printed:.2f})")
    if not above:
        return []
    return [
        f"ITD ranks rows better than printed: {'; '.join(above)}. The logarithm of IS cannot be the reason: small "
        "changes of IS and of its logarithm are proportional. The noise floor says how much of the gap rounding in "
        "float32 can explain."
    ]


def _listed(values: list[float | None]) -> str:
    return ", ".join("-" if value is None else f"{value:.3f}" for value in values)


DCGAN_ACCURACY = Experiment(
    name="dcgan-accuracy",
    title="Estimation accuracy on DCGAN",
    source="TNNLS 2025, Section VI-B, Fig. 1(b) and Table VI",
    description=(
        "DCGAN (8 channels, Table IV) is trained on 10 000 MNIST images by minibatch SGD (batch 100, learning rate "
        "1e-3, L2 1e-3 on all parameters, non-saturating loss). ITD and stochastic AID (a fresh minibatch a term, "
        "damping 0.1) estimate how the logarithm of IS, and ITD how FID, would change without each of the removed "
        "rows; the truth is counterfactual training in float32. Both metrics have 10 000 latents and a classifier "
        "(Table III) fitted to the 10 000 validation images. All T are read off one run. Some removals are retrained "
        "in float64 too: the relative difference is the truth's noise floor. At preset standard there are 40 "
        "removals instead of 100, T goes up to 500, and the metrics have 2 000 latents."
    ),
    presets={
        "smoke": Preset(SMOKE, seeds=2, as_published=False),
        "standard": Preset(STANDARD, seeds=3, as_published=True),
        "paper": Preset(PUBLISHED, seeds=10, as_published=True),
    },
    quantities=(
        Quantity(
            TAU,
            "Kendall's tau between estimated and true influence on IS: mean over seeds, (10 %) (90 %) percentiles",
            decimals=2,
            above=RANDOM_ORDER,
        ),
        Quantity(
            TAU_FID,
            "The same for FID, which the paper has not",
            decimals=2,
            above=RANDOM_ORDER,
            rows=lambda settings: ["ITD"],
        ),
        Quantity(
            JACCARD,
            "Jaccard index of the critical rows by estimated and by true influence: mean over seeds; not in the paper",
            decimals=2,
            above=Baseline("random order's expectation", jaccard_of_chance),
            rows=rows_of_both,
        ),
        Quantity(
            ERROR,
            "Relative error of the influence values, |estimate - truth| / |truth| over the removed rows: median "
            "over seeds, (10 %) (90 %) percentiles; not in the paper",
            decimals=None,
            center="median",
            rows=rows_of_both,
        ),
        Quantity(
            SLOPE,
            "Slope of the truth on the estimate, through the origin: mean over seeds; not in the paper",
            decimals=3,
            rows=rows_of_both,
        ),
        Quantity(
            FLOOR,
            "Noise floor of the truth, |float32 - float64| / |float64| over the rows retrained in both: mean over "
            "seeds; not in the paper",
            decimals=None,
            rows=metric_rows,
        ),
        Quantity(
            ACCURACY,
            "Accuracy of the classifier on test images: mean over seeds",
            decimals=4,
            rows=lambda settings: ["accuracy"],
            columns=lambda settings: ["test images"],
            column_heading="measured on",
        ),
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
            "Left: as Fig. 1(b); solid ours, dotted crosses as printed, 10 % to 90 % range over seeds for ITD on IS. "
            "Right: the relative error of ITD's values, and how much of it is rounding in the truth.",
            draw,
        ),
    ),
    findings=findings,
    files=files,
    prepare=prepare,
    on_digits=on_digits,
    unnamed=("smoke",),
)
