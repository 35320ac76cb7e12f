"""Estimation accuracy of SGD-influence and of K&L: Hara et al. 2019, Section 7.1, Supplement C.1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

import gan_influence as gi
from gan_influence.solvers import CG, Momentum
from reports.experiment import RANDOM_ORDER, Baseline, Drawing, Experiment, Preset, Quantity, Settings, Values
from reports.parts.agreement import ERROR, RELATIVE_ERROR, relative_error, tau
from reports.parts.supervised import (
    FILES,
    Once,
    Problem,
    ValidationLoss,
    binary_problem,
    cross_validated_l2,
    schedule_of,
    without_hessian,
)
from reports.shared.provenance import data_digest
from reports.statistics import SEEDS_TO_TELL, bootstrap_interval, expected_jaccard, jaccard, p_paired
from reports.summary import Summary

__all__ = ["JACCARD", "METHODS", "REFUSED", "RESIDUAL", "SGD_INFLUENCE_ACCURACY", "TAU"]

TAU, JACCARD = "Slides, Kendall's tau", "Slides, Jaccard index"
RESIDUAL, REFUSED = "Residual of K&L's solver", "Runs in which CG refuses the Hessian"
OURS, FIRST_ORDER = "SGD-influence", "SGD-influence without Hessian"
PUBLISHED_KL, CONVERGED, UNDAMPED = "K&L", "K&L, converged", "K&L, converged, without damping"
METHODS = [OURS, FIRST_ORDER, PUBLISHED_KL, CONVERGED, UNDAMPED]
KL = [PUBLISHED_KL, CONVERGED, UNDAMPED]
RANDOM = "Random order"
MODELS = {"logreg": "LogReg", "dnn": "DNN"}
DATA = {"adult": "Adult", "20news": "20News", "mnist": "MNIST", "digits": "digits"}
PICTURED_SEED = 0
LITTLE = 5e-3  # of tau: what a finding does not call a gain

PUBLISHED: Settings = {
    "data": ["adult", "20news", "mnist"],
    "rows": 200,
    "training": {  # epochs, batch size, learning rate
        "logreg": {"adult": [20, 5, 0.1], "20news": [10, 5, 0.01], "mnist": [5, 5, 0.1], "digits": [5, 5, 0.1]},
        "dnn": {"adult": [10, 20, 0.1], "20news": [10, 20, 0.1], "mnist": [10, 20, 0.1], "digits": [10, 20, 0.1]},
    },
    "dnn_l2": 1e-3,
    "l2_removed_with_row": True,
    "momentum": {"steps": 100, "rate": 0.01, "momentum": 0.9},
    "dnn_damping": 1.0,
    "converged": {"products": 5000, "tolerance": 1e-6},
    "critical": 10,
}
SMOKE: Settings = {**PUBLISHED, "data": ["digits"], "rows": 40, "critical": 4}


def column(model: str, data: str) -> str:
    return f"{MODELS[model]}, {DATA[data]}"


def columns(settings: Settings) -> list[str]:
    return [column(model, data) for model in settings["training"] for data in settings["data"]]


def rows(settings: Settings) -> list[str]:
    return [*METHODS, RANDOM]


def files(settings: Settings, seeds: Sequence[int]) -> list[str]:
    return [file for data in settings["data"] for file in FILES[data]]


def units(settings: Settings) -> list[str]:
    return [f"{model}-{data}" for model in settings["training"] for data in settings["data"]]


@dataclass(frozen=True)
class Run:
    """A factual run, and what it takes to score its rows.

    Attributes:
        problem: rows.
        l2: its rate.
        rates: of each step.
        trace: the run.
        metric: its validation loss.
    """

    problem: Problem
    l2: float
    rates: list[float]
    trace: gi.Trace
    metric: ValidationLoss

    @classmethod
    def of(cls, settings: Settings, seed: int, unit: str, device: str, l2_removed_with_row: bool) -> Run:
        model, data = unit.split("-")
        problem = binary_problem(data, settings["rows"], seed)
        epochs, batch, lr = settings["training"][model][data]
        steps = epochs * -(-settings["rows"] // batch)
        inputs = problem.train.inputs.shape[1]
        if model == "logreg":
            module: torch.nn.Module = gi.models.logistic_regression(inputs, seed=seed)
            l2, optimizer = cross_validated_l2(problem.train, seed), gi.SGD(lr=gi.InverseSqrt(lr))
            rates = [lr / np.sqrt(t) for t in range(1, steps + 1)]
        else:
            module = gi.models.dense_network(inputs, seed=seed)
            l2, optimizer, rates = settings["dnn_l2"], gi.SGD(lr=lr), [lr] * steps
        game = gi.Game(None, module, loss="binary_cross_entropy", l2=l2, l2_by_row=l2_removed_with_row)
        schedule = schedule_of(settings["rows"], batch, epochs)
        trace = gi.train(game, tuple(problem.train), schedule, steps, optimizer, device=device)
        return cls(problem, l2, rates, trace, ValidationLoss(problem.validation))


def run_unit(settings: Settings, seed: int, unit: str, device: str) -> dict[str, Any]:
    run = Run.of(settings, seed, unit, device, settings["l2_removed_with_row"])
    removals = [[row] for row in range(settings["rows"])]
    truth = gi.counterfactual(run.trace, run.metric, removals)
    scores: dict[str, list[float] | None] = {
        OURS: gi.itd(run.trace, run.metric).tolist(),
        FIRST_ORDER: without_hessian(run.trace, run.metric, run.rates).tolist(),
    }
    of_kl = koh_and_liang(settings, seed, unit, device)
    record = {"truth": truth.tolist(), "scores": {**scores, **of_kl.pop("scores")}, **of_kl, "l2": run.l2}
    if seed == PICTURED_SEED:
        record["pictures"] = {column(*unit.split("-")): _picture(record)}
    return {**record, "data": data_digest(run.trace)}


def koh_and_liang(settings: Settings, seed: int, unit: str, device: str) -> dict[str, Any]:
    """K&L's scores by the published solver and by converged ones, each one's residual, and was its Hessian refused?

    Rows' terms are of the cross-entropy alone, as in the authors' code. With their shares of L2, the same number for
    all rows, no order would change.
    """
    run = Run.of(settings, seed, unit, device, l2_removed_with_row=False)
    damping = settings["dnn_damping"] - run.l2 if unit.startswith("dnn") else 0.0  # the run's L2 is in its Hessian
    scores, residual = _solved(run, Momentum(**settings["momentum"]), damping, "hessian")
    found: dict[str, Any] = {"scores": {PUBLISHED_KL: scores}, "residual": {PUBLISHED_KL: residual}, "refused": {}}
    solver = CG(**settings["converged"])
    for name, own in ((CONVERGED, damping), (UNDAMPED, 0.0)):
        scores, residual = _solved(run, solver, own, "hessian")
        found["refused"][name] = scores is None
        if scores is None:
            scores, residual = _solved(run, solver, own, "gauss_newton")
        found["scores"][name], found["residual"][name] = scores, residual
    return found


def _solved(run: Run, solver: Momentum | CG, damping: float, curvature: str) -> tuple[list[float] | None, float | None]:
    """Scores and the residual behind them; neither where it diverged, or refused the curvature."""
    once = Once(solver)
    try:
        scores = gi.aid(run.trace, run.metric, damping=damping, solver=once, curvature=curvature)
    except gi.ConvergenceError:
        return None, None
    return scores.tolist(), once.residual


def _picture(record: dict[str, Any]) -> dict[str, list[float]]:
    """Truth and scores of the pictured run, four digits each."""
    lines = {"truth": record["truth"], OURS: record["scores"][OURS], PUBLISHED_KL: record["scores"][PUBLISHED_KL]}
    return {name: [float(f"{value:.4g}") for value in line] for name, line in lines.items() if line is not None}


def combine(settings: Settings, records: dict[str, dict[str, Any]]) -> Values:
    """Tau, Jaccard index and relative error of every method, and what K&L's solvers left."""
    values: Values = {table: {name: {} for name in METHODS} for table in (TAU, JACCARD, ERROR)}
    values |= {RESIDUAL: {name: {} for name in KL}, REFUSED: {name: {} for name in KL[1:]}}
    for unit, record in records.items():
        at, truth = column(*unit.split("-")), np.array(record["truth"])
        for name in METHODS:
            of_method = _agreement(record["scores"][name], truth, settings["critical"])
            for table, value in of_method.items():
                values[table][name][at] = value
        for name in KL:
            values[RESIDUAL][name][at] = record["residual"][name]
        for name, was_refused in record["refused"].items():
            values[REFUSED][name][at] = float(was_refused)
    values[TAU][RANDOM] = dict.fromkeys(columns(settings), 0.0)
    values[JACCARD][RANDOM] = dict.fromkeys(columns(settings), jaccard_of_chance(settings))
    return values


def _agreement(scores: list[float] | None, truth: np.ndarray, critical: int) -> dict[str, float | None]:
    """Of a run whose solver diverged nothing is measured: the authors drop it."""
    if scores is None:
        return dict.fromkeys((TAU, JACCARD, ERROR))
    estimated = np.array(scores)
    return {
        TAU: tau(estimated, truth),
        JACCARD: jaccard(estimated, truth, critical),
        ERROR: relative_error(estimated, truth),
    }


def jaccard_of_chance(settings: Settings) -> float:
    return expected_jaccard(settings["rows"], settings["critical"])


def draw(figure: Any, summary: Summary) -> None:
    """Tau and Jaccard index of every method, by model and data set, beside the printed ones."""
    axes = figure.subplots(1, 2)
    for one, quantity, label in zip(axes, (TAU, JACCARD), ("Kendall's tau", "Jaccard index"), strict=True):
        for index, name in enumerate(METHODS):
            _draw_method(one, summary, quantity, index, name)
        one.set_xticks(range(len(summary.columns)), [at.replace(", ", "\n") for at in summary.columns])
        one.set_ylabel(label)
        one.set_ylim(-0.15, 1.04)
        one.axhline(0 if quantity == TAU else jaccard_of_chance(summary.settings), color="0.5", ls="--", lw=1)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)


def _draw_method(axes: Any, summary: Summary, quantity: str, index: int, name: str) -> None:
    at = np.arange(len(summary.columns)) + 0.15 * (index - 2)

    def across(statistic: Any) -> np.ndarray:
        return np.array([statistic(quantity, name, one) for one in summary.columns], dtype=float)

    spread = np.nan_to_num(across(summary.std))
    axes.errorbar(at, across(summary.mean), spread, fmt="o", color=f"C{index}", ms=5, lw=1.2, label=name)
    printed = across(summary.published_mean)
    if np.isfinite(printed).any():
        axes.plot(at, printed, "kx", markersize=7, label="printed" if name == PUBLISHED_KL else None)


def draw_scores(figure: Any, summary: Summary) -> None:
    """Estimates against the truth, row by row, of one run of every model and data set (as the paper's Fig. 1)."""
    models = list(summary.settings["training"])
    axes = figure.subplots(len(models), len(summary.settings["data"]), squeeze=False).flatten()
    pictures: dict[str, Any] = next((run["pictures"] for run in summary.runs if "pictures" in run), {})
    for one, at in zip(axes, summary.columns, strict=True):
        picture = pictures.get(at, {})
        for color, name in (("C2", PUBLISHED_KL), ("C0", OURS)):
            if name in picture:
                one.plot(picture["truth"], picture[name], ".", color=color, ms=4, label=name)
        if picture:
            ends = [min(picture["truth"]), max(picture["truth"])]
            one.plot(ends, ends, "k-", lw=0.7)
        one.set_title(at, fontsize=9)
        one.ticklabel_format(scilimits=(-2, 2))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)


def findings(summary: Summary) -> list[str]:
    """Is tau what is printed; does K&L lose by its solver; what does the Hessian add?"""
    found = [*(printed_tau(summary, at) for at in summary.columns if at.startswith(MODELS["logreg"]))]
    found += [method_or_solver(summary, at) for at in summary.columns]
    found += [worth_of_hessian(summary), refused(summary)]
    return [sentence for sentence in found if sentence]


def printed_tau(summary: Summary, at: str) -> str:
    """Does SGD-influence's tau reach the printed one?"""
    printed, values = summary.published_mean(TAU, OURS, at), summary.values(TAU, OURS, at)
    if printed is None or not values or not summary.comparable:
        return ""
    low, high = bootstrap_interval(values)
    reached = "at least" if high >= printed - summary.published.rounding else "less than"
    return (
        f"{at}: SGD-influence's tau, {np.mean(values):.3f} ({low:.3f} to {high:.3f}), is {reached} the printed "
        f"{printed:.2f}; {sum(value >= printed for value in values)} of {len(values)} runs reach it."
    )


def method_or_solver(summary: Summary, at: str) -> str:
    """Of what K&L's tau lacks to SGD-influence's, what does a converged solver, and what its own damping, make up?"""
    by_method = [summary.values(TAU, name, at) for name in (OURS, *KL)]
    if len({len(values) for values in by_method}) != 1 or not by_method[0]:
        return ""
    ours, published, converged, undamped = (float(np.mean(values)) for values in by_method)
    text = (
        f"{at}: K&L's tau is {published:.3f} by the published solver, {converged:.3f} by a converged one with the same "
        f"damping and {undamped:.3f} without damping beside L2; SGD-influence's is {ours:.3f}."
    )
    if ours <= published:
        return f"{text} K&L does not lose."
    best, of_best = max(((converged, by_method[2]), (undamped, by_method[3])), key=lambda one: one[0])
    if best <= published + LITTLE:
        text += " The method loses, not its solver: solving to the end does not raise tau"
    else:
        share = (best - published) / (ours - published)
        cause = "Mostly the solver" if share > 0.5 else "Mostly the method"
        text += f" {cause} loses: a converged one makes up {100 * share:.0f} % of the gap"
    if len(of_best) < SEEDS_TO_TELL:
        return f"{text}; {len(of_best)} seeds are too few for a test."
    gains, lacks = p_paired(of_best, by_method[1]), p_paired(by_method[0], of_best)
    return f"{text} (one-sided paired t-tests: above the published p = {gains:.2g}, below ours p = {lacks:.2g})."


def worth_of_hessian(summary: Summary) -> str:
    """How much tau SGD-influence loses without its Hessians."""
    parts = []
    for at in summary.columns:
        full, without = (summary.values(TAU, name, at) for name in (OURS, FIRST_ORDER))
        if len(full) != len(without) or not full:
            continue
        p = p_paired(full, without) if len(full) >= SEEDS_TO_TELL else None
        told = "" if p is None else f", p = {p:.2g}"
        parts.append(f"{at} {np.mean(full):.3f} against {np.mean(without):.3f}{told}")
    return f"Tau with Hessians against tau without (one-sided paired t-tests): {'; '.join(parts)}." if parts else ""


def refused(summary: Summary) -> str:
    """In how many runs the Hessian was indefinite, so that Gauss-Newton's matrix took its place; what diverged."""
    parts = []
    for at in summary.columns:
        counts = [sum(summary.values(REFUSED, name, at)) for name in (CONVERGED, UNDAMPED)]
        lost = len(summary.runs) - len(summary.values(TAU, PUBLISHED_KL, at))
        if any(counts) or lost:
            parts.append(f"{at} {counts[0]:.0f} with damping, {counts[1]:.0f} without ({lost} of momentum diverged)")
    runs = f"Of {len(summary.runs)} runs, CG refused the Hessian, and Gauss-Newton's matrix took its place, in: "
    return runs + ("; ".join(parts) if parts else "none") + "."


def of_kl(settings: Settings) -> list[str]:
    return KL


SGD_INFLUENCE_ACCURACY = Experiment(
    name="sgd-influence-accuracy",
    title="Estimation accuracy of SGD-influence",
    source="NeurIPS 2019, Section 7.1, Supplement C.1 and Table 2; values: the authors' slides",
    description=(
        "Logistic regression (LogReg) and a network of two hidden layers of 8 ReLU (DNN) are trained by minibatch SGD "
        "on 200 standardised rows of Adult, 20Newsgroups and MNIST's ones and sevens. Each row's influence on the "
        "cross-entropy of 200 validation rows is estimated by ITD, which is SGD-influence, by the same without its "
        "Hessians, and by AID, which is K&L; the truth is retraining without the row, of all 200. The critical rows of "
        "the Jaccard index are the 10 largest and 10 smallest influences together. Settings are those of the "
        "published code: K&L is 100 full-batch steps of gradient descent (rate 0.01, momentum 0.9) from v = u, with "
        "L2 as damping for LogReg and a damping of 1 for DNN (the paper: Koh's implementation). «Converged» is CG to a "
        "relative residual of 1e-6, with the same damping, and without any beside the run's L2, which for LogReg is "
        "the same; where CG finds the Hessian indefinite, with the Gauss-Newton matrix. A removed row takes its share "
        "of L2 along; in K&L that shifts all rows' scores alike and changes no order. Texts come in another order than "
        "scikit-learn's, and were cleaned otherwise, so that their rows are other draws."
    ),
    presets={
        "smoke": Preset(SMOKE, seeds=2, as_published=False),
        "standard": Preset(PUBLISHED, seeds=5, as_published=True),
        "paper": Preset(PUBLISHED, seeds=30, as_published=True),
    },
    quantities=(
        Quantity(
            TAU,
            "Kendall's tau between estimated and true influence: mean (standard deviation) over seeds",
            decimals=3,
            spread="std",
            above=RANDOM_ORDER,
        ),
        Quantity(
            JACCARD,
            "Jaccard index of the critical rows: mean (standard deviation) over seeds",
            decimals=3,
            spread="std",
            above=Baseline("random order's expectation", jaccard_of_chance),
        ),
        replace(RELATIVE_ERROR, rows=lambda settings: METHODS),
        Quantity(
            RESIDUAL,
            "Relative residual that K&L's solver leaves: median over seeds, (10 %) (90 %) percentiles; "
            "not in the paper",
            decimals=None,
            center="median",
            rows=of_kl,
        ),
        Quantity(
            REFUSED,
            "Share of runs in which CG refuses the Hessian, as indefinite, and Gauss-Newton's matrix takes its place; "
            "not in the paper",
            decimals=2,
            rows=lambda settings: [CONVERGED, UNDAMPED],
        ),
    ),
    rows=rows,
    columns=columns,
    row_heading="Method",
    column_heading="Model and data",
    units=units,
    run_unit=run_unit,
    combine=combine,
    figures=(
        Drawing(
            "figure",
            "Mean ± one standard deviation over seeds. Crosses: printed. Dashed: what a random order gives on average.",
            draw,
            size=(13, 4.8),
        ),
        Drawing(
            "scores",
            "Estimated against true influence of every row, seed 0; the line: equal.",
            draw_scores,
            size=(10, 6),
        ),
    ),
    findings=findings,
    files=files,
    unnamed=("smoke", "paper"),
    recheck={"data": ["mnist"]},
    recheck_within={TAU: 1e-3, ERROR: 1e-3, RESIDUAL: 1.0},  # of systems that are solved to 1e-6
)
