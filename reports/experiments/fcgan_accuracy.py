"""Estimation accuracy on FCGAN: ICLR Section 5.1, Fig. 1, metric ALL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

import gan_influence as gi
from reports.experiment import RANDOM_ORDER, Baseline, Drawing, Experiment, Preset, Quantity, Settings, Values
from reports.parts.agreement import ERROR, RELATIVE_ERROR, relative_error, tau
from reports.parts.curves import LINE, along, draw_chance, times, times_across
from reports.parts.fcgan import Streams, latents, steps_per_epoch, trained
from reports.shared.provenance import data_digest
from reports.statistics import SEEDS_TO_TELL, expected_jaccard, jaccard, p_above, p_paired
from reports.summary import Summary

__all__ = [
    "FCGAN_ACCURACY",
    "FIGURE_1",
    "JACCARD",
    "RANDOM",
    "TAU",
    "above_chance",
    "columns",
    "drop",
    "jaccard_of_chance",
    "size_of_errors",
]

TAU, JACCARD = "Fig. 1, Kendall's tau", "Fig. 1, Jaccard index"
FORMS = {"code": "ALL (published code's FCGAN)", "paper": "ALL (paper's FCGAN)"}
RANDOM = "Random order"
EPOCHS_PER_UNIT = 2000  # of retraining, one model each: minutes, which is what an interruption may cost

PUBLISHED: Settings = {
    "forms": ["code", "paper"],
    "rows": 10_000,
    "authors_sets": 7,
    "validation_rows": 1000,
    "metric_latents": 1000,
    "bandwidth": 1.0,
    "epochs": 50,
    "batch": 100,
    "lr": 1e-3,
    "l2": 0.0,
    "trace_back": [1, 5, 10, 20, 50],
    "removals": 200,
    "critical": 10,
}
STANDARD: Settings = {**PUBLISHED, "authors_sets": 0, "rows": 2000, "removals": 50, "critical": 5}
SMOKE: Settings = {
    **STANDARD,
    "rows": 500,
    "validation_rows": 200,
    "metric_latents": 200,
    "epochs": 10,
    "trace_back": [1, 5, 10],
    "removals": 40,
    "critical": 5,
}


def form_rows(settings: Settings) -> list[str]:
    return [FORMS[form] for form in settings["forms"]]


def rows(settings: Settings) -> list[str]:
    return [*form_rows(settings), RANDOM]


def columns(settings: Settings) -> list[str]:
    return [str(epochs) for epochs in settings["trace_back"]]


def files(settings: Settings, seeds: Sequence[int]) -> list[str]:
    """The authors' own rows, for the repetitions that they published."""
    return [f"normal2d/set{seed:02}.npz" for seed in seeds if seed < settings["authors_sets"]]


def units(settings: Settings) -> list[str]:
    """Form by form, so that a process trains the factual run once a form; the longest retrainings first."""
    names = []
    for form in settings["forms"]:
        names.append(f"{form}-estimates")
        for epochs in sorted(settings["trace_back"], reverse=True):
            names += [f"{form}-{epochs}-{part}" for part in range(len(_parts(settings, epochs)))]
    return names


def run_unit(settings: Settings, seed: int, unit: str, device: str) -> dict[str, Any]:
    form, task, *part = unit.split("-")
    trace, metric, removed = _factual(json.dumps(settings), seed, form, device)
    if task == "estimates":
        scores = {
            str(epochs): gi.itd(trace, metric, last=epochs * steps_per_epoch(settings))[removed].tolist()
            for epochs in settings["trace_back"]
        }
        return {"scores": scores, "data": data_digest(trace)}
    mine = [[removed[k]] for k in _parts(settings, int(task))[int(part[0])]]
    influence = gi.counterfactual(trace, metric, mine, last=int(task) * steps_per_epoch(settings))
    return {"influence": influence.tolist()}


def combine(settings: Settings, records: dict[str, dict[str, Any]]) -> Values:
    """Kendall's tau, Jaccard index and relative error of either form's estimates at every k, beside random order."""
    values: Values = {TAU: {}, JACCARD: {}, ERROR: {}}
    for form in settings["forms"]:
        for epochs in settings["trace_back"]:
            parts = range(len(_parts(settings, epochs)))
            truth = np.concatenate([records[f"{form}-{epochs}-{part}"]["influence"] for part in parts])
            scores = np.array(records[f"{form}-estimates"]["scores"][str(epochs)])
            measured = {
                TAU: tau(scores, truth),
                JACCARD: jaccard(scores, truth, settings["critical"]),
                ERROR: relative_error(scores, truth),
            }
            for quantity, value in measured.items():
                values[quantity].setdefault(FORMS[form], {})[str(epochs)] = value
    values[TAU][RANDOM] = dict.fromkeys(columns(settings), 0.0)
    values[JACCARD][RANDOM] = dict.fromkeys(columns(settings), jaccard_of_chance(settings))
    return values


def jaccard_of_chance(settings: Settings) -> float:
    return expected_jaccard(settings["removals"], settings["critical"])


@lru_cache(maxsize=1)
def _factual(settings_as_text: str, seed: int, form: str, device: str) -> tuple[gi.Trace, gi.metrics.Metric, list[int]]:
    """The factual run of one form, its metric, and the rows to remove; a process keeps the last one it trained."""
    settings, streams = json.loads(settings_as_text), Streams.of(seed)
    if seed < settings["authors_sets"]:
        authors = gi.datasets.iclr_normal_2d(seed)
        data, validation = authors.train, authors.validation
    else:
        data = gi.datasets.normal_2d(settings["rows"], seed=streams.rows)
        validation = gi.datasets.normal_2d(settings["validation_rows"], seed=streams.validation_rows)
    metric = gi.metrics.AverageLogLikelihood(
        validation,
        latents(settings["metric_latents"], streams.validation_latents),
        bandwidth=settings["bandwidth"],
    )
    trace = trained(settings, form, data, streams, "full", device)
    removed = np.random.default_rng(streams.choice).permutation(len(data))[: settings["removals"]]
    return trace, metric, removed.tolist()


def _parts(settings: Settings, epochs: int) -> list[list[int]]:
    """Which of the removals each unit of work retrains that many epochs."""
    removals = settings["removals"]
    return [part.tolist() for part in np.array_split(range(removals), -(-removals * epochs // EPOCHS_PER_UNIT))]


def draw(figure: Any, summary: Summary) -> None:
    """Fig. 1's curves of ALL: tau and Jaccard index against k, with bands of one standard deviation."""
    axes = figure.subplots(1, 2)
    for one, quantity, label in zip(axes, (TAU, JACCARD), ("Kendall's tau", "Jaccard index"), strict=True):
        _draw_curves(one, summary, quantity)
        one.set_ylabel(label)
        one.set_ylim(-0.06, 1.04)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)


def _draw_curves(axes: Any, summary: Summary, quantity: str) -> None:
    at = times(summary)
    for index, row in enumerate(form_rows(summary.settings)):
        means = along(summary, summary.mean, quantity, row)
        stds = np.nan_to_num(along(summary, summary.std, quantity, row))
        axes.plot(at, means, "o-", color=f"C{index}", label=row, **LINE)
        axes.fill_between(at, means - stds, means + stds, color=f"C{index}", alpha=0.12, linewidth=0)
    draw_chance(axes, summary, quantity, RANDOM)
    printed = along(summary, summary.published_mean, quantity, form_rows(summary.settings)[0])
    axes.plot(at, printed, "kx:", markersize=5, linewidth=1, label="read off the paper's figure")
    times_across(axes, summary, "epochs traced back, k")


def findings(summary: Summary) -> list[str]:
    """The paper's claims on Fig. 1, each tested over seeds, and which form comes nearer to the figure."""
    found = []
    for row in form_rows(summary.settings):
        found += [above_chance(summary, row), *drop(summary, row), size_of_errors(summary, row)]
    nearest = _nearest(summary)
    return [sentence for sentence in [*found, nearest] if sentence]


def above_chance(summary: Summary, row: str) -> str:
    """Is the estimate better than random order for all k (ICLR 5.1)?"""
    seeds = min(len(summary.values(TAU, row, k)) for k in summary.columns)
    if seeds < SEEDS_TO_TELL:
        return f"{row}, better than random order? {seeds} seeds are too few to tell: p is never below {0.5**seeds:.2g}."
    parts = []
    for quantity, name, chance in (
        (TAU, "tau", 0.0),
        (JACCARD, "Jaccard index", jaccard_of_chance(summary.settings)),
    ):
        tests = {k: p_above(summary.values(quantity, row, k), chance) for k in summary.columns}
        ps = {k: 1.0 if p is None else p for k, p in tests.items()}
        worst = max(ps, key=ps.__getitem__)
        missing = [k for k, p in ps.items() if p >= 0.05]
        outcome = f"at every k but {', '.join(missing)}" if missing else "at every k"
        outcome = "at no k" if len(missing) == len(ps) else outcome
        parts.append(f"{name} above {chance:.3g} {outcome} (largest p = {ps[worst]:.2g}, at k = {worst})")
    return f"{row}, better than random order? One-sided t-tests over seeds: {'; '.join(parts)}."


def drop(summary: Summary, row: str) -> list[str]:
    """Does accuracy drop as k grows (ICLR 5.1)? From the first k to the last, and from each to the next."""
    sentences = []
    for quantity, name in ((TAU, "tau"), (JACCARD, "Jaccard index")):
        by_k = {k: summary.values(quantity, row, k) for k in summary.columns}
        if len({len(values) for values in by_k.values()}) != 1 or len(by_k[summary.columns[0]]) < 2:
            continue
        pairs = list(zip(summary.columns, summary.columns[1:], strict=False))
        first, last = summary.columns[0], summary.columns[-1]
        steps = ", ".join(f"{k} to {longer}: p = {p_paired(by_k[k], by_k[longer]):.2g}" for k, longer in pairs)
        sentences.append(
            f"{row}: {name} goes from {np.mean(by_k[first]):.3f} at k = {first} to {np.mean(by_k[last]):.3f} at "
            f"k = {last} (one-sided paired t-test of a drop: p = {p_paired(by_k[first], by_k[last]):.2g}). From each k "
            f"to the next: {steps}."
        )
    return sentences


def size_of_errors(summary: Summary, row: str) -> str:
    first, last = summary.columns[0], summary.columns[-1]
    errors = [summary.median(ERROR, row, k) for k in (first, last)]
    if None in errors:
        return ""
    return (
        f"{row}: the median relative error of the influence values is {errors[0]:.1e} at k = {first} and "
        f"{errors[1]:.1e} at k = {last}."
    )


def _nearest(summary: Summary) -> str:
    """Which form comes nearer to the figure, on average over both measures and all k."""
    if not summary.comparable:
        return ""
    distances = {}
    for row in form_rows(summary.settings):
        gaps = [
            along(summary, summary.mean, quantity, row) - along(summary, summary.published_mean, quantity, row)
            for quantity in (TAU, JACCARD)
        ]
        distances[row] = float(np.nanmean(np.abs(gaps)))
    listed = ", ".join(f"{row} {distance:.3f}" for row, distance in distances.items())
    return f"Mean distance from the values read off Fig. 1, over both measures and all k: {listed}."


FIGURE_1 = (
    Quantity(
        TAU,
        "Kendall's tau between estimated and true influence: mean (standard deviation) over seeds",
        decimals=3,
        spread="std",
        above=RANDOM_ORDER,
    ),
    Quantity(
        JACCARD,
        "Jaccard index of the critical rows by estimated and by true influence: mean (standard deviation) over seeds",
        decimals=3,
        spread="std",
        above=Baseline("random order's expectation", jaccard_of_chance),
    ),
)


FCGAN_ACCURACY = Experiment(
    name="fcgan-accuracy",
    title="Estimation accuracy on FCGAN",
    source="ICLR 2021, Section 5.1, Fig. 1 (metric ALL), Appendix C.2",
    description=(
        "FCGAN is trained on 10 000 rows of 2D-Normal for K = 50 epochs of minibatch SGD (batch 100, learning rate "
        "1e-3, non-saturating loss). ITD estimates how ALL on validation rows would change without each of 200 random "
        "rows; the truth is counterfactual training without that row. Both trace back only the last k epochs. The "
        "critical rows of the Jaccard index are the 10 largest and 10 smallest influences together, 20 rows; random "
        "order's value is its exact expectation. Two forms of FCGAN are run: that of the published code (two hidden "
        "layers, no biases, no tanh) and that of the paper's Table 3 (one hidden layer, biases, tanh, which keeps the "
        "generator within [-1, 1] of a distribution with mean 1); the figure's values stand beside both. As in the "
        "published code, ALL has 1 000 rows and 1 000 latents (the paper: 10 000) and there is no L2 term (Table 2 "
        "prints 1e-3). At preset paper, seeds 0 to 6 take the authors' own rows, which they published for seven of "
        "their ten repetitions; seeds 7 to 9 draw rows of the same distribution. Initial parameters, batches and "
        "latents are our own draws throughout. The other presets draw all rows, and fewer."
    ),
    presets={
        "smoke": Preset(SMOKE, seeds=2, as_published=False),
        "standard": Preset(STANDARD, seeds=3, as_published=False),
        "paper": Preset(PUBLISHED, seeds=10, as_published=True),
    },
    quantities=(
        *FIGURE_1,
        replace(RELATIVE_ERROR, rows=form_rows),
    ),
    rows=rows,
    columns=columns,
    row_heading="Metric and form",
    column_heading="k",
    units=units,
    run_unit=run_unit,
    combine=combine,
    figures=(
        Drawing(
            "figure",
            "As Fig. 1, metric ALL: mean ± one standard deviation over seeds. Dotted crosses: read off the paper's "
            "figure, ± 0.01; its bands are not read. Dashed: what a random order gives on average.",
            draw,
        ),
    ),
    findings=findings,
    files=files,
    recheck={"forms": ["code"], "trace_back": [1]},
)
