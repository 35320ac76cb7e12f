"""Data cleansing of FCGAN on 2D-Normal: ICLR Section 5.2, Table 6, Fig. 2a and 3, Tables 9 and 11."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

import gan_influence as gi
from gan_influence.baselines import by_chance, by_discriminator_loss, by_influence, by_isolation_forest
from reports.experiment import Baseline, Drawing, Experiment, Preset, Quantity, Settings, Values
from reports.parts.agreement import finite
from reports.parts.densities import (
    kernel_density,
    log_density,
    total_variation,
    true_density,
    true_log_density,
)
from reports.parts.fcgan import Streams, latents, steps_per_epoch, trained
from reports.parts.pictures import with_pictures
from reports.shared.provenance import data_digest
from reports.statistics import SEEDS_TO_TELL, p_above, p_paired, sign_test
from reports.summary import Summary

__all__ = ["FCGAN_CLEANSING"]

CHANGE, CORRELATION, CLOSER = "Table 6", "Over-sampling", "Closeness"
OURS = "Influence on ALL"
SELECTIONS = (OURS, "Influence on Disc. loss", "Isolation Forest", "Random")
PER_CENT = 100.0  # ALL is reported in units of 1e-2, as printed

PUBLISHED: Settings = {
    "form": "code",
    "rows": 50_000,
    "validation_rows": 10_000,
    "test_rows": 10_000,
    "bandwidth": 1.0,
    "epochs": 70,
    "batch": 100,
    "lr": 1e-3,
    "l2": 0.0,
    "removed": [500, 1000, 2500, 5000, 7500, 10_000, 12_500, 15_000, 17_500, 20_000],
    "pictured": 5000,
    "pictured_seeds": 5,
    "smoothing": [0.2, 1.0],
    "sampled_rows": 3000,
}
STANDARD: Settings = {**PUBLISHED, "epochs": 20, "validation_rows": 5000, "test_rows": 5000}
SMOKE: Settings = {
    **PUBLISHED,
    "rows": 2000,
    "validation_rows": 500,
    "test_rows": 500,
    "epochs": 20,
    "removed": [100, 200, 500],
    "pictured": 200,
    "sampled_rows": 500,
}
AXIS = np.linspace(-2.5, 4.5, 41)  # of the pictures


def rows(settings: Settings) -> list[str]:
    return list(SELECTIONS)


def columns(settings: Settings) -> list[str]:
    return [in_thousands(n) for n in settings["removed"]]


def smoothings(settings: Settings) -> list[str]:
    return [f"{bandwidth:g}" for bandwidth in settings["smoothing"]]


def in_thousands(n: int) -> str:
    """As the paper prints numbers of rows: ``5.0k``."""
    return f"{n / 1000:.1f}k"


def units(settings: Settings) -> list[str]:
    """One: the training run that all selections share takes nearly all of the time."""
    return ["cleansing"]


def run_unit(settings: Settings, seed: int, unit: str, device: str) -> dict[str, Any]:
    streams, epoch = Streams.of(seed), steps_per_epoch(settings)
    data = gi.datasets.normal_2d(settings["rows"], seed=streams.rows)
    trace = trained(settings, settings["form"], data, streams, "checkpoint", device)
    harm = harmfulness(settings, trace, data, streams)
    orders = {name: np.argsort(-harm[name], kind="stable").tolist() for name in SELECTIONS}

    test_latents = latents(settings["test_rows"], streams.test_latents)
    test = gi.metrics.AverageLogLikelihood(
        gi.datasets.normal_2d(settings["test_rows"], seed=streams.test_rows), test_latents, settings["bandwidth"]
    )
    removals = [orders[name][:n] for name in SELECTIONS for n in settings["removed"]]
    change = PER_CENT * gi.counterfactual(trace, test, removals, last=epoch).reshape(len(SELECTIONS), -1)

    before = generated(trace, test_latents)
    after = {
        name: generated(gi.retrain(trace, orders[name][: settings["pictured"]], last=epoch), test_latents)
        for name in SELECTIONS
    }
    record = {
        "data": data_digest(trace),
        "change": dict(zip(SELECTIONS, change.tolist(), strict=True)),
        "correlation": oversampling(settings, data.numpy(), harm, before, streams),
        "closer": {name: closer(settings, before, points) for name, points in after.items()},
    }
    if seed < settings["pictured_seeds"]:
        names = SELECTIONS if seed == 0 else (OURS,)
        record["pictures"] = pictures(data.numpy(), harm, before, {name: after[name] for name in names}, settings)
    return record


def harmfulness(settings: Settings, trace: gi.Trace, data: torch.Tensor, streams: Streams) -> dict[str, np.ndarray]:
    """Every selection's score of every row, ``(N,)``: the larger, the more harmful (ICLR 5.2)."""
    reference = gi.datasets.normal_2d(settings["validation_rows"], seed=streams.validation_rows)
    validation = latents(settings["validation_rows"], streams.validation_latents)
    epoch = steps_per_epoch(settings)
    all_metric = gi.metrics.AverageLogLikelihood(reference, validation, settings["bandwidth"])
    selections = (
        by_influence(gi.itd, last=epoch),
        by_discriminator_loss(reference, validation, gi.itd, last=epoch),
        by_isolation_forest(),
        by_chance(streams.choice),
    )
    return {name: select(trace, all_metric).cpu().numpy() for name, select in zip(SELECTIONS, selections, strict=True)}


def generated(trace: gi.Trace, z: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return trace.players().generate(z).cpu().numpy()


def oversampling(
    settings: Settings, data: np.ndarray, harm: dict[str, np.ndarray], before: np.ndarray, streams: Streams
) -> dict[str, list[float | None]]:
    """Spearman's correlation over rows of harmfulness and ``log(p_G / p_true)`` there, for each smoothing."""
    sampled = np.random.default_rng(streams.choice).permutation(len(data))[: settings["sampled_rows"]]
    ratios = [log_density(before, data[sampled], h) - true_log_density(data[sampled], h) for h in settings["smoothing"]]
    return {
        name: [finite(spearmanr(scores[sampled], ratio).statistic) for ratio in ratios] for name, scores in harm.items()
    }


def closer(settings: Settings, before: np.ndarray, after: np.ndarray) -> list[float]:
    """By how much the total variation distance from the truth falls, in 1e-2, for each smoothing."""
    return [PER_CENT * (total_variation(before, h) - total_variation(after, h)) for h in settings["smoothing"]]


def combine(settings: Settings, records: dict[str, dict[str, Any]]) -> Values:
    record = records["cleansing"]
    named = ((CHANGE, "change", columns), (CORRELATION, "correlation", smoothings), (CLOSER, "closer", smoothings))
    return {
        quantity: {name: dict(zip(across(settings), record[key][name], strict=True)) for name in SELECTIONS}
        for quantity, key, across in named
    }


def pictures(
    data: np.ndarray,
    harm: dict[str, np.ndarray],
    before: np.ndarray,
    after: dict[str, np.ndarray],
    settings: Settings,
) -> dict[str, Any]:
    """What the panels of Fig. 3 need, as grids over the plane: see :func:`as_text`."""
    h = settings["smoothing"][0]
    return {
        "before": as_text(kernel_density(before, AXIS, h)),
        "after": {name: as_text(kernel_density(points, AXIS, h)) for name, points in after.items()},
        "harmfulness": {name: as_text(mean_by_cell(data, harm[name])) for name in after},
    }


def mean_by_cell(data: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The rows' mean score in each cell around a grid point, in the scores' standard deviations; NaN without rows."""
    half = (AXIS[1] - AXIS[0]) / 2
    edges = np.append(AXIS - half, AXIS[-1] + half)
    sums, counts = (
        np.histogram2d(data[:, 0], data[:, 1], bins=(edges, edges), weights=weights)[0] for weights in (scores, None)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return (sums / counts - scores.mean()) / scores.std()


def as_text(grid: np.ndarray) -> list[str]:
    """One line of four-digit numbers for each row of a grid: a fifth of the room of JSON numbers."""
    return [" ".join(f"{value:.4g}" for value in line) for line in grid]


def from_text(lines: list[str]) -> np.ndarray:
    return np.array([[float(value) for value in line.split()] for line in lines])


def draw_curves(figure: Any, summary: Summary) -> None:
    """Left: Fig. 2a, as changes. Right: what single seeds do at the number of rows that the paper pictures."""
    curves, seeds = figure.subplots(1, 2, width_ratios=(3, 2))
    for index, row in enumerate(SELECTIONS):
        means = [summary.mean(CHANGE, row, column) for column in summary.columns]
        curves.plot(summary.settings["removed"], means, "o-", color=f"C{index}", markersize=4, label=row)
        printed = [summary.published_mean(CHANGE, row, column) for column in summary.columns]
        if None not in printed:
            curves.plot(summary.settings["removed"], printed, "x:", color=f"C{index}", markersize=5, alpha=0.8)
    curves.plot([], [], "x:", color="0.3", label="as printed")
    curves.axhline(0, color="0.5", linewidth=0.8)
    curves.set_xlabel("removed rows n_h")
    curves.set_ylabel("change of test ALL (1e-2), mean over seeds")
    curves.legend(frameon=False, fontsize=8)
    _draw_seeds(seeds, summary)
    for axes in (curves, seeds):
        axes.grid(alpha=0.25)


def _draw_seeds(axes: Any, summary: Summary) -> None:
    column = _pictured(summary)
    for run in summary.runs:
        changes = [run["values"][CHANGE][row][column] for row in SELECTIONS]
        axes.plot(range(len(SELECTIONS)), changes, color="0.8", linewidth=0.7, zorder=1)
        axes.scatter(range(len(SELECTIONS)), changes, color=[f"C{k}" for k in range(len(SELECTIONS))], s=16, alpha=0.8)
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.set_xticks(range(len(SELECTIONS)), [row.replace(" ", "\n") for row in SELECTIONS], fontsize=7.5)
    axes.set_ylabel(f"change of test ALL (1e-2) at n_h = {column}, by seed")


def draw_fig_3(figure: Any, summary: Summary) -> None:
    """Fig. 3 of the first seed; the differences show what the densities side by side hide."""
    if not (runs := with_pictures(summary, figure)):
        return
    run = runs[0]
    axes = figure.subplots(2, 3)
    h = summary.settings["smoothing"][0]
    true, before, after = true_density(AXIS, h), _grid(run, "before"), _grid(run, "after", OURS)
    highest = max(true.max(), before.max(), after.max())
    _harmfulness(axes[0, 0], run, OURS, "(a) harmfulness, influence on ALL")
    for one, density, title in ((axes[0, 1], true, "(b) True"), (axes[0, 2], before, "(b) No removal")):
        _density(one, density, highest, title)
    _density(axes[1, 0], after, highest, "(b) Cleansed")
    _colours(axes[1, 1], before - true, "No removal - True")
    _colours(axes[1, 2], after - before, "Cleansed - No removal")
    figure.suptitle(f"seed {run['seed']}, n_h = {_pictured(summary)}: {_change_of(run, OURS, summary)}", fontsize=9)


def draw_table_9(figure: Any, summary: Summary) -> None:
    """Table 9: a line a selection."""
    if not (runs := with_pictures(summary, figure)):
        return
    run = runs[0]
    shown = [name for name in SELECTIONS if name in run["pictures"]["after"]]
    labels = [f"({'abcd'[k]}) {name}" for k, name in enumerate(shown)]
    _draw_lines(figure, summary, [(run, name, label) for name, label in zip(shown, labels, strict=True)])


def draw_table_11(figure: Any, summary: Summary) -> None:
    """Table 11: a line a seed."""
    if runs := with_pictures(summary, figure):
        _draw_lines(figure, summary, [(run, OURS, f"seed {run['seed']}") for run in runs])


def _draw_lines(figure: Any, summary: Summary, lines: list[tuple[dict[str, Any], str, str]]) -> None:
    axes = figure.subplots(len(lines), 3, squeeze=False)
    true = true_density(AXIS, summary.settings["smoothing"][0])
    for line, (run, name, label) in zip(axes, lines, strict=True):
        before, after = _grid(run, "before"), _grid(run, "after", name)
        _harmfulness(line[0], run, name, "(i) harmfulness")
        _colours(line[1], before - true, "(ii) No removal - True")
        _colours(line[2], after - before, "(ii) Cleansed - No removal")
        line[0].set_ylabel(label, fontsize=8)
        line[2].set_ylabel(f"(iii) {_change_of(run, name, summary)}", fontsize=8)
        line[2].yaxis.set_label_position("right")


def _grid(run: dict[str, Any], *keys: str) -> np.ndarray:
    lines = run["pictures"]
    for key in keys:
        lines = lines[key]
    return from_text(lines)


def _change_of(run: dict[str, Any], name: str, summary: Summary) -> str:
    return f"ALL {run['values'][CHANGE][name][_pictured(summary)]:+.2f}e-2"


def _pictured(summary: Summary) -> str:
    return in_thousands(summary.settings["pictured"])


def _harmfulness(axes: Any, run: dict[str, Any], name: str, title: str) -> None:
    _colours(axes, _grid(run, "harmfulness", name), title)


def _colours(axes: Any, grid: np.ndarray, title: str) -> None:
    """Red above zero, blue below, white where there is no number; the title says what the darkest colours stand for."""
    limit = max(float(np.quantile(np.abs(grid[np.isfinite(grid)]), 0.995)), 1e-12)
    levels = np.linspace(-limit, limit, 16)
    axes.contourf(AXIS, AXIS, np.ma.masked_invalid(grid.T), levels=levels, cmap="RdBu_r", extend="both")
    axes.contour(AXIS, AXIS, true_density(AXIS).T, levels=4, colors="0.4", linewidths=0.4)
    _dress(axes, f"{title} (±{limit:.2g})")


def _density(axes: Any, density: np.ndarray, highest: float, title: str) -> None:
    axes.contourf(AXIS, AXIS, density.T, levels=np.linspace(0, highest, 12), cmap="viridis")
    _dress(axes, title)


def _dress(axes: Any, title: str) -> None:
    axes.set_title(title, fontsize=8)
    axes.set_aspect("equal")
    axes.tick_params(labelsize=7)


def findings(summary: Summary) -> list[str]:
    """The paper's claims on data cleansing, each tested over seeds."""
    found = [_improvement(summary, row) for row in SELECTIONS]
    found += [_against_baselines(summary), _oversampling_finding(summary), _closeness(summary), _single_seeds(summary)]
    return [sentence for sentence in found if sentence]


def _improvement(summary: Summary, row: str) -> str:
    """A selection's best mean change, how many seeds improve there, and where the change is significant."""
    means = {column: summary.mean(CHANGE, row, column) for column in summary.columns}
    known = {column: mean for column, mean in means.items() if mean is not None}
    if not known:
        return ""
    best = max(known, key=known.__getitem__)
    values = summary.values(CHANGE, row, best)
    positive, p_sign = sign_test(values)
    significant = [
        column
        for column in summary.columns
        if (p := p_above(summary.values(CHANGE, row, column))) is not None and p < 0.05
    ]
    printed = summary.published_mean(CHANGE, row, best)
    beside = "" if printed is None else f" (printed there: {printed:+.2f})"
    where = f"significant at n_h = {', '.join(significant)}" if significant else "significant nowhere"
    where = where if len(values) >= SEEDS_TO_TELL else "too few seeds for a change to be significant"
    return (
        f"{row}: best at n_h = {best}, {known[best]:+.2f}e-2{beside}; {positive} of {len(values)} seeds improve there "
        f"(sign test p = {p_sign:.2g}); {where} (one-sided t-tests)."
    )


def _against_baselines(summary: Summary) -> str:
    """Does the influence on ALL outperform the baselines (ICLR 5.2)? Paired over seeds, where the paper pictures it."""
    column = _pictured(summary)
    ours = summary.values(CHANGE, OURS, column)
    if len(ours) < 2:
        return ""
    parts = []
    for row in SELECTIONS[1:]:
        theirs = summary.values(CHANGE, row, column)
        parts.append(f"{row} by {np.mean(ours) - np.mean(theirs):+.2f}e-2 (p = {_p(p_paired(ours, theirs))})")
    ahead = [column for column in summary.columns if _leads(summary, column)]
    until = f"its mean is the highest of the four at n_h = {', '.join(ahead)}" if ahead else "it leads at no n_h"
    return f"At n_h = {column} {_lower(OURS)} exceeds {', '.join(parts)}, one-sided paired t-tests; {until}."


def _leads(summary: Summary, column: str) -> bool:
    means = [summary.mean(CHANGE, row, column) for row in SELECTIONS]
    return None not in means and means[0] == max(means)  # type: ignore[type-var]


def _oversampling_finding(summary: Summary) -> str:
    """Are rows harmful where the generator samples too frequently (ICLR 5.2, D.1)?"""
    return _at_every_smoothing(
        summary,
        CORRELATION,
        "Harmful where the generator samples too frequently? Mean rank correlation of harmfulness and log(p_G/p_true)",
    )


def _closeness(summary: Summary) -> str:
    """Does the generator get closer to the truth (ICLR 5.2, D.3)? By a distance that is not the metric itself."""
    question = (
        f"Does the generator get closer to the truth at n_h = {_pictured(summary)}? Mean fall of the total variation "
        "distance, in 1e-2"
    )
    return _at_every_smoothing(summary, CLOSER, question)


def _at_every_smoothing(summary: Summary, quantity: str, question: str) -> str:
    """Each selection's mean at each smoothing and how many seeds are above zero; which selections pass every test."""
    widths = smoothings(summary.settings)
    values = {row: [summary.values(quantity, row, h) for h in widths] for row in SELECTIONS}
    if any(len(at) < 2 for row in SELECTIONS for at in values[row]):
        return ""
    parts = []
    for row in SELECTIONS:
        means = [f"{np.mean(at):+.2f} ({sign_test(at)[0]} of {len(at)}, p = {_p(p_above(at))})" for at in values[row]]
        parts.append(f"{row} {' and '.join(means)}")
    holds = [row for row in SELECTIONS if all((p_above(at) or 0.0) < 0.05 for at in values[row])]
    return (
        f"{question}, at smoothing {' and '.join(widths)}, with seeds above zero and one-sided t-tests: "
        f"{'; '.join(parts)}. Significant at every smoothing: {', '.join(holds) or 'none'}."
    )


def _single_seeds(summary: Summary) -> str:
    """Tables 9 and 11 print single seeds, which no other program can draw again: only ranges can be compared."""
    column = _pictured(summary)
    ours = {row: values for row in SELECTIONS if (values := summary.values(CHANGE, row, column))}
    if not summary.comparable or OURS not in ours:
        return ""
    printed = [cell["value"] for (table, _, _), cell in summary.published.cells.items() if table == "Table 11"]
    within = sum(min(ours[OURS]) <= value <= max(ours[OURS]) for value in printed)
    of_one_seed = ", ".join(
        f"{row} {summary.published.cells['Table 9', row, 'ALL']['value']:+.2f} "
        f"(ours {min(values):+.2f} to {max(values):+.2f})"
        for row, values in ours.items()
    )
    return (
        f"Single seeds at n_h = {column}, in 1e-2: Table 11 prints {len(printed)} for {_lower(OURS)}, from "
        f"{min(printed):+.2f} to {max(printed):+.2f}, mean {np.mean(printed):+.2f}; ours range from "
        f"{min(ours[OURS]):+.2f} to {max(ours[OURS]):+.2f}, mean {np.mean(ours[OURS]):+.2f}, and hold {within} of "
        f"them. Table 9 prints one: {of_one_seed}."
    )


def _lower(selection: str) -> str:
    return selection[0].lower() + selection[1:]


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


NO_CHANGE = Baseline("0", lambda settings: 0.0)

FCGAN_CLEANSING = Experiment(
    name="fcgan-cleansing",
    title="Data cleansing of FCGAN",
    source="ICLR 2021, Section 5.2, Table 6, Fig. 2a and 3, Tables 9 and 11",
    description=(
        "FCGAN (the published code's form) is trained on 50 000 rows of 2D-Normal for K = 70 epochs. Four selections "
        "rank the rows by harmfulness: positive influence on ALL; negative influence on the discriminator's loss (both "
        "by ITD through the last epoch, on 10 000 validation rows and latents); abnormality by an isolation forest on "
        "the rows; random order. The n_h most harmful rows are removed, the last epoch is trained again without them, "
        "and the change of ALL on 10 000 test rows and latents is measured. No L2 term, as in the published code "
        "(Table 5 prints 1e-3). All rows are our own draws; the paper's 15 seeds cannot be drawn again. Where the "
        "generator samples too frequently, and how far it is from the truth, is judged with densities smoothed by one "
        "Gaussian kernel: p_G of generated test points, p_true exactly. Which cells Table 6 prints as significant is "
        "lost in the text at hand."
    ),
    presets={
        "smoke": Preset(SMOKE, seeds=2, as_published=False),
        "standard": Preset(STANDARD, seeds=4, as_published=False),
        "paper": Preset(PUBLISHED, seeds=15, as_published=True),
    },
    quantities=(
        Quantity(
            CHANGE,
            "Change of test ALL (1e-2) after removing the n_h most harmful rows: mean (standard deviation) over seeds",
            decimals=2,
            spread="std",
            above=NO_CHANGE,
            signed=True,
        ),
        Quantity(
            CORRELATION,
            "Spearman's rank correlation over training rows of harmfulness and log(p_G / p_true), p_G before "
            "cleansing, both densities smoothed with bandwidth h: mean (standard deviation) over seeds; not in the "
            "paper, which states it in words",
            decimals=2,
            spread="std",
            above=NO_CHANGE,
            signed=True,
            columns=smoothings,
            column_heading="h",
        ),
        Quantity(
            CLOSER,
            "Fall of the total variation distance between p_G and p_true (1e-2) after removing as many rows as Fig. 3 "
            "does, both densities smoothed with bandwidth h: mean (standard deviation) over seeds; not in the paper, "
            "which states it in words",
            decimals=2,
            spread="std",
            above=NO_CHANGE,
            signed=True,
            columns=smoothings,
            column_heading="h",
        ),
    ),
    rows=rows,
    columns=columns,
    row_heading="Selection",
    column_heading="n_h",
    units=units,
    run_unit=run_unit,
    combine=combine,
    figures=(
        Drawing(
            "figure",
            "Left: as Fig. 2a, drawn as changes; solid ours, dotted crosses Table 6 as printed. Right: single seeds, "
            "those of one seed joined.",
            draw_curves,
        ),
        Drawing(
            "figure-3",
            "As Fig. 3, with the differences beside it. (a) Mean harmfulness of the training rows, in standard "
            "deviations: red is harmful, white has no rows. (b) Densities of the true and the generated distributions. "
            "In brackets: what the darkest red and blue stand for. Grey: contours of the true density.",
            draw_fig_3,
            (10, 6.6),
        ),
        Drawing(
            "table-9",
            "As Table 9: every selection on one seed. (i) Mean harmfulness of the rows; (ii) where the generator "
            "samples too frequently (red) or too rarely, and what cleansing changes; (iii) the change of test ALL.",
            draw_table_9,
            (8, 10.4),
        ),
        Drawing(
            "table-11",
            "As Table 11: influence on ALL on several seeds; panels as above.",
            draw_table_11,
            (8, 13),
        ),
    ),
    findings=findings,
)
