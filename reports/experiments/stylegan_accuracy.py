"""How right ITD and AID are on StyleGAN, which the paper leaves out for its cost: every published shortcut apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import gan_influence as gi
from gan_influence.counterfactual import counterfactual_and_rounding
from gan_influence.metrics.metric import metric_values
from reports.experiment import RANDOM_ORDER, Drawing, Experiment, Preset, Quantity, Settings, Values
from reports.parts.agreement import ERROR, RELATIVE_ERROR, finite, relative_error, tau
from reports.parts.cats import PUBLISHED as OF_THE_PAPER
from reports.parts.cats import SMALL, Cats, Streams, cats, files, on_digits, prepare, steps_per_epoch
from reports.parts.weightings import trained_with
from reports.shared.provenance import data_digest
from reports.shared.stylegan import StyleGANCost, as_if, first_order, published_aid, shortcut
from reports.statistics import bootstrap_interval
from reports.summary import Summary

__all__ = ["STYLEGAN_ACCURACY"]

TAU, SUMS, SLOPE, FLOOR = "Kendall's tau", "Kendall's tau with the first-order sum", "Slope", "Noise floor"
ONE, ALL = "one epoch", "all epochs"
SINGLE, SETS = "single rows", "1 % at once"
PUBLISHED_SCALE = {ONE: 0.01, ALL: 0.001}  # s, by which the code multiplies every Jacobian
RETRAINED = StyleGANCost()  # what retraining follows: kept denominators, the penalty of all rows

Scores = Callable[[gi.Trace, Any, str, "int | None", Settings], Tensor]


def _exact(trace: gi.Trace, metric: Any, window: str, last: int | None, settings: Settings) -> Tensor:
    return gi.itd(trace, metric, last=last)


def _shortcut(cost: StyleGANCost, moments: str = "exact", scale: float | None = 1.0) -> Scores:
    """``scale=None``: the published one of the window. Scores are the code's, times s where that is 1 or not."""

    def scores(trace: gi.Trace, metric: Any, window: str, last: int | None, settings: Settings) -> Tensor:
        s = PUBLISHED_SCALE[window] if scale is None else scale
        return s * shortcut(trace, metric, cost, scale=s, moments=moments, last=last)

    return scores


def _sum(trace: gi.Trace, metric: Any, window: str, last: int | None, settings: Settings) -> Tensor:
    return first_order(trace, metric, RETRAINED, moments="exact", last=last)


def _aid(trace: gi.Trace, metric: Any, window: str, last: int | None, settings: Settings) -> Tensor:
    """Eq. 18's M terms at the code's step, without the penalty; the estimate knows no window."""
    return gi.aid(as_if(trace, StyleGANCost("batch", "none")), metric, terms=settings["terms"], scale=settings["eta"])


def _published_aid(trace: gi.Trace, metric: Any, window: str, last: int | None, settings: Settings) -> Tensor:
    return published_aid(trace, metric, terms=settings["terms"], scale=settings["eta"])


def _random(trace: gi.Trace, metric: Any, window: str, last: int | None, settings: Settings) -> Tensor:
    return gi.baselines.random_order(trace.size, settings["random_seed"]) - 0.5


class Method(NamedTuple):
    """A row: what it leaves out, and how it scores."""

    scores: Scores
    key: str


EXACT, CODE, FIRST = "ITD, exact (ours)", "ITD as in the published code", "First-order sum (s -> 0)"
METHODS = {
    EXACT: Method(_exact, "exact"),
    "ITD, denominators kept at 8": Method(_shortcut(StyleGANCost("batch", "mean")), "denominators"),
    "ITD, penalty left out": Method(_shortcut(StyleGANCost("kept", "none")), "penalty"),
    "ITD, past moments constant": Method(_shortcut(RETRAINED, "constant"), "moments"),
    "ITD as the paper says": Method(_shortcut(StyleGANCost("batch", "mean"), "constant"), "paper"),
    "ITD, Jacobians x s": Method(_shortcut(RETRAINED, "exact", None), "small"),
    CODE: Method(_shortcut(StyleGANCost("batch", "none"), "code", None), "code"),
    FIRST: Method(_sum, "sum"),
    "AID": Method(_aid, "aid"),
    "AID as in the published code": Method(_published_aid, "published"),
    "Random": Method(_random, "random"),
}
BY_KEY = {method.key: method for method in METHODS.values()}

MEASURED: Settings = {
    "windows": [ONE, ALL],
    "removals": 30,
    "sets": 10,
    "share": 0.01,
    "fractions": [1e-6, 1e-4, 1e-2],
    "per_unit": 10,
    "terms": 1000,
    "eta": 0.001,
    "random_seed": 0,
}
PUBLISHED: Settings = {**OF_THE_PAPER, **MEASURED, "windows": [ONE]}
STANDARD: Settings = {**SMALL, **MEASURED, "windows": [ONE], "terms": 300}
SMOKE: Settings = {
    **on_digits(STANDARD),
    "windows": [ONE, ALL],
    "removals": 4,
    "sets": 2,
    "share": 0.05,
    "per_unit": 3,
    "terms": 5,
}


def rows(settings: Settings) -> list[str]:
    return list(METHODS)


def columns(settings: Settings) -> list[str]:
    return [column(window, kind) for window in settings["windows"] for kind in kinds(settings, window)]


def kinds(settings: Settings, window: str) -> list[str]:
    """What is removed. Of small enough fractions the truth is the derivative: there it is seen whether a score is one,
    and over larger ones how soon a run leaves its linearisation."""
    return [*(map(fraction_of, settings["fractions"]) if window == ONE else ()), SINGLE, SETS]


def fraction_of(share: float) -> str:
    return f"{share:g} of single rows"


def column(window: str, kind: str) -> str:
    return f"{window}, {kind}"


def units(settings: Settings) -> list[str]:
    """The longest first: retrainings over all epochs, and every method's scores over each window."""
    parts = range(-(-(settings["removals"] + settings["sets"]) // settings["per_unit"]))
    return [
        f"{window.split()[0]}-{work}"
        for window in reversed(settings["windows"])
        for work in (*(f"truth{part}" for part in parts), *BY_KEY, *(["fraction"] if window == ONE else []))
    ]


def run_unit(settings: Settings, seed: int, unit: str, device: str, prepared: dict[str, Any]) -> dict[str, Any]:
    given = cats(settings, seed, prepared, device)
    began, work = unit.split("-")
    window = next(window for window in (ONE, ALL) if window.startswith(began))
    last = steps_per_epoch(settings) if window == ONE else None
    removals = removed(settings, seed, given)
    if work == "fraction":
        return {"influence": _fractions(settings, given, removals[: settings["sets"]], last)}
    if work.startswith("truth"):
        return _truth(settings, seed, given, removals, int(work.removeprefix("truth")), last)
    try:
        scores = BY_KEY[work].scores(given.trace, given.validation, window, last, settings).double().cpu()
    except gi.ConvergenceError as error:
        return {"scores": None, "failed": str(error)}
    return {"scores": [float(scores[own].sum()) for own in removals], "data": data_digest(given.trace)}


def removed(settings: Settings, seed: int, given: Cats) -> list[list[int]]:
    """Single rows, and then disjoint sets of a share of all."""
    size = given.trace.size
    order = np.random.default_rng(Streams.of(seed).choice).permutation(size).tolist()
    many = max(round(settings["share"] * size), 1)
    rest = order[settings["removals"] :]
    sets = [rest[k * many : (k + 1) * many] for k in range(settings["sets"])]
    return [[row] for row in order[: settings["removals"]]] + sets


def _truth(
    settings: Settings, seed: int, given: Cats, removals: list[list[int]], part: int, last: int | None
) -> dict[str, Any]:
    """Of one part of the removals, and what rounding does to one replica of the factual run."""
    own = removals[part * settings["per_unit"] : (part + 1) * settings["per_unit"]]
    draws = np.random.default_rng([Streams.of(seed).choice, part]).choice([-1.0, 1.0], (1, given.trace.game.size))
    influence, rounding = counterfactual_and_rounding(given.trace, given.validation, own, torch.from_numpy(draws), last)
    return {"influence": influence.tolist(), "rounding": rounding.tolist()}


def _fractions(settings: Settings, given: Cats, rows: list[list[int]], last: int | None) -> list[list[float]]:
    """What taking each fraction of a row's weight does to the metric, divided by the fraction."""
    trace, fractions = given.trace, torch.tensor(settings["fractions"], dtype=torch.float64)
    weights = torch.ones(1 + len(fractions) * len(rows), trace.size, dtype=torch.float64)
    for line, (fraction, [row]) in zip(weights[1:], product(fractions, rows), strict=True):
        line[row] -= fraction
    reached = trained_with(trace, weights, trace.window(last))
    values = metric_values(given.validation, trace.game, reached).double().cpu()
    return ((values[1:] - values[0]).reshape(len(fractions), -1) / fractions.unsqueeze(1)).tolist()


def combine(settings: Settings, records: dict[str, dict[str, Any]]) -> Values:
    values: Values = {quantity: {row: {} for row in METHODS} for quantity in (TAU, SUMS, SLOPE, ERROR)}
    values[FLOOR] = {"rounding": {}}
    for window in settings["windows"]:
        began = f"{window.split()[0]}-"
        numbers = {unit: int(unit.split("truth")[1]) for unit in records if unit.startswith(f"{began}truth")}
        parts = [records[unit] for unit in sorted(numbers, key=numbers.__getitem__)]
        truth = np.concatenate([part["influence"] for part in parts])
        noise = np.sqrt(np.mean(np.concatenate([part["rounding"] for part in parts]) ** 2))
        first = records[f"{began}{METHODS[FIRST].key}"]["scores"]
        singles = settings["removals"]
        of_kind = {SINGLE: (slice(0, singles), truth[:singles]), SETS: (slice(singles, None), truth[singles:])}
        shares = {SINGLE: 1.0, SETS: 1.0}
        if f"{began}fraction" in records:
            for share, influence in zip(settings["fractions"], records[f"{began}fraction"]["influence"], strict=True):
                of_kind[fraction_of(share)] = slice(0, len(influence)), np.array(influence)
                shares[fraction_of(share)] = share
        for kind, (own, true) in of_kind.items():
            at = column(window, kind)
            values[FLOOR]["rounding"][at] = finite(noise / shares[kind] / np.sqrt(np.mean(true**2)))
            for row, method in METHODS.items():
                found = records[f"{began}{method.key}"]["scores"]
                for quantity, cell in _measured(found, true, first, own).items():
                    values[quantity][row][at] = cell
    return values


def _measured(
    found: Sequence[float] | None, true: Float[np.ndarray, " R"], first: Sequence[float], own: slice
) -> dict[str, float | None]:
    if found is None:
        return dict.fromkeys((TAU, SUMS, SLOPE, ERROR))
    scores = np.array(found)[own]
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = finite(scores @ true / (scores @ scores))
    return {
        TAU: tau(scores, true),
        SUMS: tau(scores, np.array(first)[own]),
        SLOPE: slope,
        ERROR: relative_error(scores, true),
    }


def draw(figure: Any, summary: Summary) -> None:
    """Tau with the truth of every method, a panel a column; single seeds as points."""
    panels = figure.subplots(1, len(summary.columns), sharey=True, squeeze=False)[0]
    methods = summary.rows_of(summary.quantities[0])
    at = np.arange(len(methods))[::-1]
    for axes, name in zip(panels, summary.columns, strict=True):
        for place, row in zip(at, methods, strict=True):
            values, sums = (summary.values(quantity, row, name) for quantity in (TAU, SUMS))
            axes.plot(values, [place] * len(values), "o", color="C0", markersize=4, alpha=0.7)
            if values:
                axes.barh(place, np.mean(values), color="C0", alpha=0.25, height=0.6)
            if sums:
                axes.plot(np.mean(sums), place, "x", color="C3", markersize=6)
        axes.axvline(0, color="0.5", linewidth=0.8)
        axes.set_xlim(-0.6, 1.05)
        axes.set_title(name.replace(", ", "\n", 1), fontsize=9)
        axes.set_xlabel("Kendall's tau")
        axes.grid(alpha=0.25, axis="x")
    panels[0].set_yticks(at, methods, fontsize=8)
    panels[0].plot([], [], "o", color="C0", label="with the truth, single seeds; bars: mean")
    panels[0].plot([], [], "x", color="C3", label="with the first-order sum, mean over seeds")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)


def findings(summary: Summary) -> list[str]:
    """What the numbers say, computed from them."""
    return [
        sentence
        for name in summary.columns
        for sentence in (_exactness(summary, name), _answer(summary, name), _costs(summary, name))
        if sentence
    ]


def _exactness(summary: Summary, name: str) -> str:
    taus = summary.values(TAU, EXACT, name)
    if not taus:
        return ""
    floor, slope = (summary.mean(table, row, name) or 0.0 for table, row in ((FLOOR, "rounding"), (SLOPE, EXACT)))
    return (
        f"{name}: exact ITD has tau {_interval(taus)} with the truth, slope {slope:.3g}, relative error "
        f"{summary.median(ERROR, EXACT, name) or 0:.2g}; rounding is {floor:.1g} of the truth. What is left is how far "
        "the run is from linear there."
    )


def _answer(summary: Summary, name: str) -> str:
    """Are the published scores ordered like the truth, or like a first-order sum?"""
    with_truth, with_sum = (summary.values(quantity, CODE, name) for quantity in (TAU, SUMS))
    if not with_truth:
        return ""
    nearer = "the first-order sum" if np.mean(with_sum) > np.mean(with_truth) else "the truth"
    window = name.split(",")[0]
    return (
        f"{name}: are the published scores (s = {PUBLISHED_SCALE[window]:g}, no penalty) ordered like the truth, or "
        f"like a first-order sum? Tau is {_interval(with_truth)} with the truth and {_interval(with_sum)} with the "
        f"sum: like {nearer}."
    )


def _costs(summary: Summary, name: str) -> str:
    """What each shortcut costs in tau."""
    exact = summary.values(TAU, EXACT, name)
    parts = []
    for row in METHODS:
        own = summary.values(TAU, row, name)
        if row != EXACT and len(own) == len(exact):
            lost = [one - other for one, other in zip(exact, own, strict=True)]
            parts.append(f"{row} {_interval(lost)}")
    return f"{name}: what each costs in tau against exact ITD: {'; '.join(parts)}." if parts else ""


def _interval(values: Sequence[float]) -> str:
    low, high = bootstrap_interval(list(values))
    return f"{np.mean(values):.2f} [{low:.2f}, {high:.2f}]"


STYLEGAN_ACCURACY = Experiment(
    name="stylegan-accuracy",
    title="Estimation accuracy on StyleGAN",
    source="TNNLS 2025, Section VI-B excludes StyleGAN; settings of Section VI-A3 and of the published code",
    description=(
        "The paper has no truth for StyleGAN («excluded … due to its large computation»), and its code multiplies "
        "every Jacobian by .01 (one epoch) or .001 (all epochs). Here a StyleGAN is pretrained and then fine-tuned "
        "through low-rank adapters as the code does it (D then G, R1 at every step, mixing, noise, Adam, averaged "
        "generator), rows and sets of 1 % are removed, and all or the last epoch's steps are trained again as the code "
        "does: the mean over the kept rows of a batch, the penalty over all. FID is that of validation images, by the "
        "features of a classifier. Exact ITD differentiates that very run; each other row takes one shortcut of the "
        "paper or of its code, or all of them. Fractions of a row's weight are removed too: of small enough ones the "
        "truth is the derivative. At presets smoke and standard the game is small: dogs of CIFAR-10, then "
        "320 of its cats, 32 pixels, 16 channels, rank 4, four epochs, float64; features of a classifier of the other "
        "eight classes; at standard the last epoch only. At preset paper 256 pixels, with files of one's own: images "
        "in the data folder, a checkpoint of the common port (--checkpoint) and features as TorchScript (--features); "
        "one epoch only. AID is the series of TNNLS eq. 18 at the last players, with the code's step .001 and no "
        "penalty, but simultaneous moves. The published code drops the sum: it scores by the last term alone, the "
        "generator's and the discriminator's moves one after the other, which is the row after it."
    ),
    presets={
        "smoke": Preset(SMOKE, seeds=1, as_published=False),
        "standard": Preset(STANDARD, seeds=2, as_published=False),
        "paper": Preset(PUBLISHED, seeds=1, as_published=False),
    },
    quantities=(
        Quantity(
            TAU,
            "Kendall's tau between estimated and true influence on FID: mean over seeds, (10 %) (90 %) percentiles",
            decimals=2,
            above=RANDOM_ORDER,
        ),
        Quantity(
            SUMS,
            "Kendall's tau between the scores and the first-order sum, over the same removals: mean over seeds",
            decimals=2,
        ),
        Quantity(
            SLOPE,
            "Slope of the truth on the estimate, through the origin: mean over seeds",
            decimals=None,
            rows=lambda settings: rows(settings)[:-1],
        ),
        replace(RELATIVE_ERROR, rows=lambda settings: rows(settings)[:-1]),
        Quantity(
            FLOOR,
            "What rounding alone does to the metric, over the size of the true influences (root mean squares): mean "
            "over seeds",
            decimals=None,
            rows=lambda settings: ["rounding"],
        ),
    ),
    rows=rows,
    columns=columns,
    row_heading="Estimate",
    column_heading="retrained, removed",
    units=units,
    run_unit=run_unit,
    combine=combine,
    figures=(
        Drawing(
            "figure",
            "Every estimate's rank agreement with retraining, and with the first-order sum that the published scale "
            "leaves of it.",
            draw,
            (12, 4.8),
        ),
    ),
    findings=findings,
    files=files,
    prepare=prepare,
    on_digits=on_digits,
    unnamed=("smoke",),
    recheck={"windows": [ONE]},
)
