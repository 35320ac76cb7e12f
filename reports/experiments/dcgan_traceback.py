"""How far ITD can be traced back on DCGAN: ICLR Section 5.1, Fig. 1, metrics IS and FID."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import gan_influence as gi
from reports.experiment import Drawing, Experiment, Preset, Settings, Values
from reports.experiments.fcgan_accuracy import (
    FIGURE_1,
    JACCARD,
    RANDOM,
    TAU,
    above_chance,
    columns,
    drop,
    jaccard_of_chance,
    size_of_errors,
)
from reports.parts import dcgan
from reports.parts.agreement import ERROR, RELATIVE_ERROR, relative_error, tau
from reports.parts.curves import LINE, PRINTED, along, draw_chance, times, times_across
from reports.parts.dcgan import (
    CLASSIFIER,
    FLOOR,
    NOISE_FLOOR,
    above_published,
    draw_errors,
    factual,
    files,
    metric_rows,
    noise_floor,
    number_of_parts,
    part_of,
    prepare,
    rounding,
)
from reports.parts.fcgan import steps_per_epoch
from reports.shared.provenance import data_digest
from reports.statistics import jaccard
from reports.summary import Summary

__all__ = ["DCGAN_TRACEBACK"]


def epochs_run(settings: Settings, epochs: int) -> Settings:
    """The same settings, trained for that many epochs."""
    return {**settings, "steps": epochs * steps_per_epoch(settings)}


def on_digits(settings: Settings) -> Settings:
    """The same experiment on scikit-learn's 8x8 digits, which need no file: as many epochs, of fewer steps."""
    return epochs_run(dcgan.on_digits(settings), settings["steps"] // steps_per_epoch(settings))


PUBLISHED: Settings = {
    **epochs_run(dcgan.PUBLISHED, 50),
    "l2_of": "kernels",
    "trace_back": [1, 5, 10, 20, 50],
    "removals": 200,
    "per_unit": 4,
    "critical": 10,
    "doubles": 4,
}
STANDARD: Settings = {
    **epochs_run(PUBLISHED, 5),
    "metric_latents": 2000,
    "trace_back": [1, 5],
    "removals": 20,
    "per_unit": 4,
    "critical": 3,
    "doubles": 2,
}
SMOKE: Settings = {
    **on_digits(epochs_run(STANDARD, 2)),
    "trace_back": [1, 2],
    "removals": 10,
    "per_unit": 5,
    "critical": 2,
    "doubles": 2,
}


def rows(settings: Settings) -> list[str]:
    return [*metric_rows(settings), RANDOM]


def units(settings: Settings) -> list[str]:
    """Precision by precision, so that a process trains the factual run once in each; the longest tracings first."""
    longest_first = sorted(settings["trace_back"], reverse=True)
    return [
        *(f"float64-{epochs}-{double}" for epochs in longest_first for double in range(settings["doubles"])),
        *(f"itd-{epochs}-{name}" for epochs in longest_first for name in settings["metrics"]),
        *(f"removals-{epochs}-{part}" for epochs in longest_first for part in range(number_of_parts(settings))),
    ]


def run_unit(settings: Settings, seed: int, unit: str, device: str, prepared: dict[str, Any]) -> dict[str, Any]:
    task, epochs, which = unit.split("-")
    precision = "float64" if task == "float64" else "float32"
    trace, metrics, removed = factual(settings, seed, prepared, device, precision)
    last = int(epochs) * steps_per_epoch(settings)
    if task == "itd":
        scores = gi.itd(trace, metrics[which], last=last)[removed]
        return {"scores": scores.tolist(), "data": data_digest(trace), "accuracy": prepared["accuracy"]}
    mine = [removed[int(which)]] if task == "float64" else part_of(settings, removed, int(which))
    influence = gi.counterfactual(trace, list(metrics.values()), [[row] for row in mine], last=last)
    return {"influence": dict(zip(metrics, influence.tolist(), strict=True))}


def combine(settings: Settings, records: dict[str, dict[str, Any]]) -> Values:
    """Kendall's tau, Jaccard index and relative error on either metric at every k, and the truth's noise floor."""
    values: Values = {table: {name: {} for name in settings["metrics"]} for table in (TAU, JACCARD, ERROR, FLOOR)}
    for epochs in settings["trace_back"]:
        for name in settings["metrics"]:
            itd = records[f"itd-{epochs}-{name}"]
            scores = np.array(itd["scores"])
            truth = _joined(records, f"removals-{epochs}", number_of_parts(settings), name)
            double = _joined(records, f"float64-{epochs}", settings["doubles"], name)
            measured = {
                TAU: tau(scores, truth),
                JACCARD: jaccard(scores, truth, settings["critical"]),
                ERROR: relative_error(scores, truth),
                FLOOR: noise_floor(truth, double),
            }
            for table, value in measured.items():
                values[table][name][str(epochs)] = value
    values[TAU][RANDOM] = dict.fromkeys(columns(settings), 0.0)
    values[JACCARD][RANDOM] = dict.fromkeys(columns(settings), jaccard_of_chance(settings))
    values[CLASSIFIER.table] = {"accuracy": {"test images": itd["accuracy"]}}
    return values


def _joined(records: dict[str, dict[str, Any]], unit: str, parts: int, name: str) -> np.ndarray:
    """The influence on one metric, from all parts of the retraining."""
    return np.concatenate([records[f"{unit}-{part}"]["influence"][name] for part in range(parts)])


def draw(figure: Any, summary: Summary) -> None:
    """Fig. 1's curves of IS and FID: tau and Jaccard index against k, with bands of one standard deviation."""
    axes = figure.subplots(1, 2)
    for one, table, label in zip(axes, (TAU, JACCARD), ("Kendall's tau", "Jaccard index"), strict=True):
        _draw_curves(one, summary, table)
        one.set_ylabel(label)
        one.set_ylim(-0.06, 1.04)
        times_across(one, summary, "epochs traced back, k")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)


def _draw_curves(axes: Any, summary: Summary, table: str) -> None:
    at = times(summary)
    for index, row in enumerate(metric_rows(summary.settings)):
        means = along(summary, summary.mean, table, row)
        stds = np.nan_to_num(along(summary, summary.std, table, row))
        axes.plot(at, means, "o-", color=f"C{index}", label=row, **LINE)
        axes.fill_between(at, means - stds, means + stds, color=f"C{index}", alpha=0.12, linewidth=0)
        read = along(summary, summary.published_mean, table, row)
        axes.plot(at, read, "x:", color=f"C{index}", **PRINTED)
    draw_chance(axes, summary, table, RANDOM)
    axes.plot([], [], "x:", color="0.3", label="read off the paper's figure")


def draw_errors_and_rounding(figure: Any, summary: Summary) -> None:
    """What Fig. 1 does not show: the error of the values, and how much of it is rounding in the truth."""
    axes = figure.subplots()
    draw_errors(axes, summary, {name: name for name in metric_rows(summary.settings)})
    times_across(axes, summary, "epochs traced back, k")


def findings(summary: Summary) -> list[str]:
    """The paper's claims on Fig. 1, each tested over seeds, and what rounding has to do with them."""
    found = []
    for row in metric_rows(summary.settings):
        found += [above_chance(summary, row), *drop(summary, row), size_of_errors(summary, row)]
    found += rounding(summary)
    for row in metric_rows(summary.settings):
        above = above_published(summary, TAU, row)
        if above:
            found.append(
                f"{row}: ITD ranks rows better than Fig. 1 shows (read off it, in brackets): {above}. The metric is "
                "the same, IS being its logarithm in both; the noise floor says how much of the gap rounding in "
                "float32 can explain."
            )
    return [sentence for sentence in found if sentence]


DCGAN_TRACEBACK = Experiment(
    name="dcgan-traceback",
    title="Estimation accuracy on DCGAN, k epochs traced back",
    source="ICLR 2021, Section 5.1, Fig. 1 (metrics IS and FID), Appendix C.2",
    description=(
        "DCGAN (8 channels, Table 4) is trained on 10 000 MNIST images for K = 50 epochs of minibatch SGD (batch 100, "
        "learning rate 1e-3, non-saturating loss, L2 1e-3 on kernels only, as in the published code). ITD estimates "
        "how the logarithm of IS (which the published code takes) and FID would change without each of 200 random "
        "rows; the truth is counterfactual training without that row, in float32. Both trace back only the last k "
        "epochs. The critical rows of the Jaccard index are the 10 largest and 10 smallest influences together, 20 "
        "rows; random order's value is its exact expectation. Both metrics have 10 000 latents and a classifier "
        "(Table 1) fitted to the 10 000 validation images. Some removals are retrained in float64 too: the relative "
        "difference is the truth's noise floor. Preset standard has K = 5, 20 removals and 2 000 latents; preset smoke "
        "has K = 2 epochs of 9 steps on scikit-learn's digits."
    ),
    presets={
        "smoke": Preset(SMOKE, seeds=2, as_published=False),
        "standard": Preset(STANDARD, seeds=2, as_published=False),
        "paper": Preset(PUBLISHED, seeds=10, as_published=True),
    },
    quantities=(
        *FIGURE_1,
        replace(RELATIVE_ERROR, rows=metric_rows),
        NOISE_FLOOR,
        CLASSIFIER,
    ),
    rows=rows,
    columns=columns,
    row_heading="Metric",
    column_heading="k",
    units=units,
    run_unit=run_unit,
    combine=combine,
    figures=(
        Drawing(
            "figure",
            "As Fig. 1, metrics IS and FID: mean ± one standard deviation over seeds. Dotted crosses: read off the "
            "paper's figure, ± 0.01; its bands are not read. Dashed: what a random order gives on average.",
            draw,
        ),
        Drawing(
            "errors",
            "The relative error of ITD's values (median over seeds), and how much of it is rounding in the truth "
            "(mean).",
            draw_errors_and_rounding,
            size=(5, 4.4),
        ),
    ),
    findings=findings,
    files=files,
    prepare=prepare,
    on_digits=on_digits,
    unnamed=("smoke",),
    recheck={"trace_back": [1]},
    recheck_within={"Noise floor": 0.5, "Relative error": 0.5, "Classifier": 0.02},
)
