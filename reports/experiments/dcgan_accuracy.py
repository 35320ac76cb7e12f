"""Estimation accuracy on DCGAN: TNNLS Section VI-B, Fig. 1(b), Table VI; and with FID, which the paper leaves out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

import gan_influence as gi
from reports.experiment import RANDOM_ORDER, Baseline, Drawing, Experiment, Preset, Quantity, Settings, Values
from reports.parts import dcgan
from reports.parts.agreement import ERROR, RELATIVE_ERROR, finite, relative_error, tau
from reports.parts.curves import LINE, PRINTED, along, times, times_across
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
    on_digits,
    part_of,
    prepare,
    rounding,
)
from reports.shared.provenance import data_digest
from reports.statistics import expected_jaccard, jaccard
from reports.summary import Summary

__all__ = ["DCGAN_ACCURACY"]

TAU, TAU_FID, JACCARD, SLOPE = "Table VI", "Kendall's tau, FID", "Jaccard index", "Slope"
TAU_PER_TERM, PER_TERM = "Table VI, AID damped per term", ", damped per term"
NONE = np.nan, "-"

PUBLISHED: Settings = {
    **dcgan.PUBLISHED,
    "l2_of": "all",
    "steps": 10_000,
    "stops": [100, 200, 500, 1000, 2000, 5000, 10_000],
    "terms": [10, 100, 1000, 10_000],
    "terms_inside": [10, 100, 1000, 10_000],
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
    "terms_inside": [10, 100, 1000],
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
    "terms_inside": [10, 100],
    "removals": 12,
    "per_unit": 6,
    "critical": 3,
    "doubles": 3,
}


class Reading(NamedTuple):
    """One reading of the damping: what its rows' names end with, gamma and M as ``aid`` takes them, its taus' table."""

    suffix: str
    damping: float
    terms: list[int]
    table: str


def readings(settings: Settings) -> list[Reading]:
    """Gamma as in ``Z = I - eta (J + gamma I)``, and per term.

    TNNLS IV-C4 puts gamma inside eta, where 0.1 times a learning rate of 1e-3 damps the thousandth term by a tenth. In
    the other reading each term is damped by gamma: ``Z = (1 - gamma) I - eta J``. There a thousand terms leave nothing
    for more to add, and cost no more.
    """
    gamma = settings["damping"]
    return [
        Reading("", gamma, settings["terms_inside"], TAU),
        Reading(PER_TERM, gamma / settings["lr"], settings["terms"], TAU_PER_TERM),
    ]


def aid_row(terms: int) -> str:
    return f"AID (M={terms})"


def aid_rows(settings: Settings) -> list[str]:
    return [aid_row(terms) for terms in settings["terms"]]


def rows(settings: Settings) -> list[str]:
    return [*aid_rows(settings), "ITD"]


def rows_of_both(settings: Settings) -> list[str]:
    series = [f"{aid_row(terms)}{reading.suffix}, IS" for reading in readings(settings) for terms in reading.terms]
    return [*series, "ITD, IS", "ITD, FID"]


def columns(settings: Settings) -> list[str]:
    return [str(stop) for stop in settings["stops"]]


def units(settings: Settings) -> list[str]:
    """Float64 first, which has a run of its own to train, then AID, which takes longest, then the retrainings."""
    series = [f"aid-{reading}-{stop}" for reading in range(len(readings(settings))) for stop in settings["stops"]]
    return ["float64", *series, "itd", *(f"removals-{part}" for part in range(number_of_parts(settings)))]


def run_unit(settings: Settings, seed: int, unit: str, device: str, prepared: dict[str, Any]) -> dict[str, Any]:
    stops, task, *part = settings["stops"], *unit.split("-")
    precision = "float64" if task == "float64" else "float32"
    trace, metrics, removed = factual(settings, seed, prepared, device, precision)
    if task == "aid":
        reading, stop = map(int, part)
        series = _series(trace, metrics["IS"], readings(settings)[reading], stop)
        return {"scores": [None if scores is None else scores[removed].tolist() for scores in series]}
    if task == "itd":
        scores_of = {name: gi.itd(trace, metric, at=stops)[:, removed].tolist() for name, metric in metrics.items()}
        return {"scores": scores_of, "data": data_digest(trace), "accuracy": prepared["accuracy"]}
    mine = removed[: settings["doubles"]] if task == "float64" else part_of(settings, removed, int(part[0]))
    influence = gi.counterfactual(trace, list(metrics.values()), [[row] for row in mine], at=stops)
    return {"influence": dict(zip(metrics, influence.tolist(), strict=True))}


def _series(trace: gi.Trace, metric: gi.metrics.Metric, reading: Reading, stop: int) -> list[Tensor | None]:
    """AID's scores for each number of terms, ascending; ``None`` where the series has overflowed."""
    terms = reading.terms
    for count in range(len(terms), 0, -1):
        try:
            found = gi.aid(trace, metric, terms=terms[:count], damping=reading.damping, at=[stop])[0]
        except gi.ConvergenceError:
            continue
        return [*found, *[None] * (len(terms) - count)]
    return [None] * len(terms)


def combine(settings: Settings, records: dict[str, dict[str, Any]]) -> Values:
    """Agreement of every estimate with the truth at every stop, and how far the truth is off by rounding."""
    parts = [records[unit]["influence"] for unit in units(settings) if unit.startswith("removals")]
    truth = {name: np.concatenate([part[name] for part in parts], axis=1) for name in settings["metrics"]}
    values: Values = {quantity: {} for quantity in (TAU, TAU_PER_TERM, TAU_FID, JACCARD, ERROR, SLOPE, FLOOR)}
    values[TAU] = {row: dict.fromkeys(columns(settings)) for row in rows(settings)}
    for table, row, suffix, name, scores in _estimates(settings, records):
        pairs = list(zip(columns(settings), scores, truth[name], strict=True))
        both, overflown = f"{row}{suffix}, {name}", dict.fromkeys(columns(settings))
        pairs = [pair for pair in pairs if pair[1] is not None]
        taus = {column: tau(one, true) for column, one, true in pairs}
        common = {column: jaccard(one, true, settings["critical"]) for column, one, true in pairs}
        values[table][row] = overflown | taus
        values[JACCARD][both] = overflown | common
        values[ERROR][both] = overflown | {column: relative_error(one, true) for column, one, true in pairs}
        values[SLOPE][both] = overflown | {column: slope(one, true) for column, one, true in pairs}
    for name in settings["metrics"]:
        double = np.array(records["float64"]["influence"][name])
        precisions = zip(columns(settings), truth[name], double, strict=True)
        values[FLOOR][name] = {column: noise_floor(one, other) for column, one, other in precisions}
    values[CLASSIFIER.table] = {"accuracy": {"test images": records["itd"]["accuracy"]}}
    return values


def _estimates(settings: Settings, records: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str, str, str, Any]]:
    """Every estimator's table of taus, row, what its name ends with, metric, and scores ``[stop][removal]``."""
    for table, name in ((TAU, "IS"), (TAU_FID, "FID")):
        yield table, "ITD", "", name, np.array(records["itd"]["scores"][name])
    for number, reading in enumerate(readings(settings)):
        series = [records[f"aid-{number}-{stop}"]["scores"] for stop in settings["stops"]]
        for k, terms in enumerate(reading.terms):
            scores = [None if of_stop[k] is None else np.array(of_stop[k]) for of_stop in series]
            yield reading.table, aid_row(terms), reading.suffix, "IS", scores


def slope(scores: Float[np.ndarray, " R"], truth: Float[np.ndarray, " R"]) -> float | None:
    """Of the truth on the scores, through the origin; ``None`` where all scores are zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return finite(scores @ truth / (scores @ scores))


def jaccard_of_chance(settings: Settings) -> float:
    return expected_jaccard(settings["removals"], settings["critical"])


def draw(figure: Any, summary: Summary) -> None:
    """Fig. 1(b), and beside it the error of the values and the truth's own rounding."""
    left, right = figure.subplots(1, 2)
    at = times(summary)
    for index, row in enumerate(reversed(summary.rows)):
        color = f"C{index}"
        left.plot(at, along(summary, summary.mean, TAU, row), "o-", color=color, label=f"{row}, IS", **LINE)
        printed = along(summary, summary.published_mean, TAU, row)
        left.plot(at, printed, "x:", color=color, **PRINTED)
    low, high = zip(*(summary.percentiles(TAU, "ITD", column) for column in summary.columns), strict=True)
    left.fill_between(at, low, high, color="C0", alpha=0.12)
    left.plot(at, along(summary, summary.mean, TAU_FID, "ITD"), "o-", color="k", label="ITD, FID", **LINE)
    for index, row in enumerate(reversed(aid_rows(summary.settings)), start=1):
        left.plot(at, along(summary, summary.mean, TAU_PER_TERM, row), "o--", color=f"C{index}", **LINE)
    left.plot([], [], "x:", color="0.3", label="as printed")
    left.plot([], [], "o--", color="0.3", label="AID, damped per term", **LINE)
    left.set_ylim(min(-0.2, left.get_ylim()[0]), 1.08)
    left.set_ylabel("Kendall's tau")
    draw_errors(right, summary, {name: f"ITD, {name}" for name in metric_rows(summary.settings)})
    for axes in (left, right):
        times_across(axes, summary, "training steps T")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)


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
            f"the estimate is {_listed(slopes)}.{_scattered(summary, quantity)}"
        )
    found += [*_overflows(summary), *_dependence_on_terms(summary)]
    found += rounding(summary)
    above = above_published(summary, TAU, "ITD")
    if above:
        found.append(
            f"ITD ranks rows better than printed (in brackets): {above}. The logarithm of IS cannot be the reason: "
            "small changes of IS and of its logarithm are proportional. The noise floor says how much of the gap "
            "rounding in float32 can explain."
        )
    return found


def _scattered(summary: Summary, quantity: str) -> str:
    """ITD's tau seed by seed, where a mean says little."""
    by_seed = {column: summary.values(quantity, "ITD", column) for column in summary.columns}
    lines = [f"{_listed(taus)} at T = {column}" for column, taus in by_seed.items() if taus and np.ptp(taus) > 0.2]
    if not lines:
        return ""
    said = f" Seeds differ, with taus of {'; '.join(lines)}"
    if not summary.comparable:
        return f"{said}."
    return (
        f"{said}; the paper leaves out two of ten seeds, whose training did not converge (VI-B1), and here all count."
    )


def _overflows(summary: Summary) -> list[str]:
    """Where AID's series left the numbers that float32 has."""

    def seeds(both: str, column: str) -> int:
        return sum(run["values"][JACCARD][both][column] is None for run in summary.runs)

    lost = [
        f"M = {terms}, T = {column}{reading.suffix}: {count} of {len(summary.runs)} seeds"
        for reading in readings(summary.settings)
        for terms in reading.terms
        for column in summary.columns
        if (count := seeds(f"{aid_row(terms)}{reading.suffix}, IS", column))
    ]
    return [f"AID's series overflowed in float32 and gives no scores at {'; '.join(lost)}."] if lost else []


def _dependence_on_terms(summary: Summary) -> list[str]:
    """How much AID's tau depends on M with either reading of the damping, and as printed."""
    of_both = summary.settings["terms_inside"]
    names = [aid_row(terms) for terms in of_both]
    if len(names) < 2:
        return []

    tables = [reading.table for reading in readings(summary.settings)]
    whole = [
        column
        for column in summary.columns
        if all(len(summary.values(table, name, column)) == len(summary.runs) for table in tables for name in names)
    ]
    if not whole:
        return []

    def most(value: Callable[..., float | None], table: str) -> tuple[float, str]:
        lines = [(np.array([value(table, name, column) for name in names], dtype=float), column) for column in whole]
        return max(((float(np.ptp(line)), column) for line, column in lines if not np.isnan(line).any()), default=NONE)

    inside, per_term = (most(summary.mean, table) for table in tables)
    said = (
        f"AID's mean tau differs between M = {', '.join(map(str, of_both))} by up to {inside[0]:.2f} "
        f"(T = {inside[1]}) with gamma inside eta, Z = I - eta (J + gamma I), and by up to {per_term[0]:.2f} "
        f"(T = {per_term[1]}) with every term damped by gamma, Z = (1 - gamma) I - eta J"
    )
    printed = most(summary.published_mean, TAU)
    distances = [abs(reading[0] - printed[0]) for reading in (inside, per_term)]
    if not summary.comparable or np.isnan(printed[0]) or distances[0] == distances[1]:
        return [f"{said}."]
    nearer = "first" if distances[0] < distances[1] else "second"
    return [
        f"{said}; the printed taus by up to {printed[0]:.2f} (T = {printed[1]}). In how little tau depends on M the "
        f"{nearer} reading is the nearer. (Over T = {', '.join(whole)}, where no series overflowed.)"
    ]


def _listed(values: Sequence[float | None]) -> str:
    return ", ".join("-" if value is None else f"{value:.3f}" for value in values)


DCGAN_ACCURACY = Experiment(
    name="dcgan-accuracy",
    title="Estimation accuracy on DCGAN",
    source="TNNLS 2025, Section VI-B, Fig. 1(b) and Table VI",
    description=(
        "DCGAN (8 channels, Table IV) is trained on 10 000 MNIST images by minibatch SGD (batch 100, learning rate "
        "1e-3, L2 1e-3 on all parameters, non-saturating loss). ITD and stochastic AID (a fresh minibatch a term, "
        "damping 0.1) estimate how the logarithm of IS, and ITD how FID, would change without each of the removed "
        "rows. The damping is read in two ways: as the paper's formula has it, Z = I - eta (J + gamma I), and per "
        "term, Z = (1 - gamma) I - eta J. The truth is counterfactual training in float32. Both metrics have 10 000 "
        "latents and a classifier (Table III) fitted to the 10 000 validation images. All T are read off one run. "
        "Some removals are retrained in float64 too: the relative difference is the truth's noise floor. At preset "
        "standard there are 40 removals instead of 100, T goes up to 500, the metrics have 2 000 latents, and M stops "
        "at 1 000 with gamma inside eta: 10 000 terms take 40 minutes of one core for each T and seed."
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
            TAU_PER_TERM,
            "The same with every term damped by gamma: Z = (1 - gamma) I - eta J",
            decimals=2,
            above=RANDOM_ORDER,
            rows=aid_rows,
            beside=TAU,
        ),
        Quantity(
            TAU_FID,
            "The same for FID (ITD), which the paper has not",
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
        replace(RELATIVE_ERROR, rows=rows_of_both),
        Quantity(
            SLOPE,
            "Slope of the truth on the estimate, through the origin: mean over seeds; not in the paper",
            decimals=3,
            rows=rows_of_both,
        ),
        NOISE_FLOOR,
        CLASSIFIER,
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
            "Left: as Fig. 1(b); solid ours, dashed ours with AID damped per term, dotted crosses as printed, 10 % to "
            "90 % range over seeds for ITD on IS. Right: the relative error of ITD's values (median over seeds), "
            "and how much of it is rounding in the truth (mean).",
            draw,
        ),
    ),
    findings=findings,
    files=files,
    prepare=prepare,
    on_digits=on_digits,
    unnamed=("smoke",),
    recheck={"stops": [100], "terms": [10]},
    recheck_within={"Noise floor": 0.5, "Relative error": 0.5, "Classifier": 0.02},
)
