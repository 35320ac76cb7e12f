"""What the experiments on data cleansing share: which rows leave, and what is said of the changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

import gan_influence as gi
from gan_influence.metrics.metric import Measurable, metric_value
from reports.experiment import Baseline, Quantity, Settings
from reports.parts.weightings import trained_with
from reports.statistics import SEEDS_TO_TELL, Comparison, compared, holm, p_above, p_permutation
from reports.summary import Summary

__all__ = [
    "FULL",
    "NO_CHANGE",
    "ONE",
    "Line",
    "against",
    "as_many_of_each",
    "below",
    "columns",
    "draw_over_rates",
    "draw_panels",
    "if_run",
    "in_hundredths",
    "judged",
    "legend_below",
    "listed",
    "lower",
    "means",
    "most_harmful",
    "retrained",
    "significance",
    "table_of_changes",
    "without",
]

FULL, ONE = "full-epoch retraining", "one-epoch retraining"
NO_CHANGE = Baseline("0", lambda settings: 0.0)
LEVEL = 0.05
ACROSS = {"rates": "removal rate", "counts": "number of removed rows"}  # by the setting


def in_hundredths(rate: float) -> str:
    """As the papers print rates: ``0.10``."""
    return f"{rate:.2f}"


def columns(settings: Settings) -> list[str]:
    return [in_hundredths(rate) for rate in settings["rates"]]


def most_harmful(
    harm: Float[Tensor, " N"], rates: Sequence[float], count: Callable[[float], int] = round
) -> list[Int[Tensor, " n_h"]]:
    """The rows that leave at each rate, ``count(rate N)``, the most harmful first; of equals the first."""
    order = harm.argsort(descending=True, stable=True)
    return [order[: count(rate * len(harm))] for rate in rates]


def as_many_of_each(kinds: Int[Tensor, " N"], taken: Int[Tensor, " n_h"], seed: int) -> Int[Tensor, " n_h"]:
    """Rows at random, as many of each kind as are taken; those for fewer are among those for more."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(kinds)))
    counts = kinds[taken].bincount(minlength=int(kinds.max()) + 1).tolist()
    return torch.cat([order[kinds[order] == kind][:count] for kind, count in enumerate(counts)])


def without(removed: Sequence[Int[Tensor, " n_h"]], size: int) -> Float[Tensor, "models N"]:
    """The weights of the rows in retraining: 0 where removed, so that denominators stay (TNNLS eq. 6)."""
    weights = torch.ones(len(removed), size, dtype=torch.float64)
    for line, taken in zip(weights, removed, strict=True):
        line[taken] = 0.0
    return weights


def retrained(trace: gi.Trace, weights: Float[Tensor, "models N"], start: int, at_once: int) -> list[Tensor | None]:
    """The parameters that retraining from step ``start`` with these weights leads to; ``None``: it diverged.

    ``at_once`` models are trained side by side.
    """
    reached: list[Tensor | None] = []
    for part in weights.split(at_once):
        try:
            reached += trained_with(trace, part, start).unbind()
        except gi.DivergenceError:
            reached += [_alone(trace, line, start) for line in part]
    return reached


def _alone(trace: gi.Trace, weights: Float[Tensor, " N"], start: int) -> Tensor | None:
    try:
        return trained_with(trace, weights.unsqueeze(0), start)[0]
    except gi.DivergenceError:
        return None


def judged(trace: gi.Trace, judge: Measurable, theta: Float[Tensor, " d"]) -> list[float]:
    """The numbers of a metric that is a vector, of the run's game at these parameters."""
    found: list[float] = metric_value(judge, trace.game, theta).tolist()
    return found


def means(summary: Summary, table: str, row: str) -> list[float | None]:
    return [summary.mean(table, row, column) for column in summary.columns]


def draw_over_rates(axes: Any, summary: Summary, label: str, removed: str = "rates") -> None:
    """What axes over removal rates, or over another of the settings, have in common."""
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xticks(summary.settings[removed], summary.columns, fontsize=8 if len(summary.columns) > 6 else None)
    axes.xaxis.minorticks_off()
    axes.set_xlabel(ACROSS[removed])
    axes.set_ylabel(f"{label}, mean over seeds")
    axes.grid(alpha=0.25)


class Line(NamedTuple):
    """A curve over rates: whose cells, how it is drawn, and what it is called."""

    table: str
    row: str
    style: str
    label: str


def draw_panels(
    figure: Any, summary: Summary, panels: Mapping[str, Callable[[str], Sequence[Line]]], removed: str = "rates"
) -> None:
    """Changes over rates: a line of panels a strategy, a panel a measure.

    ``panels`` has a measure's axis label, and its lines given the strategy; ``removed`` is the setting along the axis.
    """
    axes_of = figure.subplots(len(summary.settings["strategies"]), len(panels), squeeze=False)
    for across, strategy in zip(axes_of, summary.settings["strategies"], strict=True):
        for axes, (label, lines) in zip(across, panels.items(), strict=True):
            for line in lines(strategy):
                found = means(summary, line.table, line.row)
                axes.plot(summary.settings[removed], found, line.style, markersize=4, label=line.label)
            draw_over_rates(axes, summary, label, removed)
            axes.set_title(strategy, fontsize=9)
    legend_below(figure, axes_of[0, 0])


def legend_below(figure: Any, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)


def significance(summary: Summary, table: str, rows: Sequence[str], sign: float = 1.0) -> str:
    """How many cells improve, by either test, before and after correction for their number.

    Args:
        summary, table, rows: whose cells.
        sign: -1 where what falls improves.
    """
    cells = [values for row in rows for column in summary.columns if (values := summary.values(table, row, column))]
    if not cells or min(map(len, cells)) < SEEDS_TO_TELL:
        return "Too few seeds for a change to be significant."
    improved = [[sign * value for value in values] for values in cells]
    by_t, by_signs = ([test(values) or 0.0 for values in improved] for test in (p_above, p_permutation))
    return (
        f"Of {len(cells)} cells of {table}, {below(by_t)} improve significantly by one-sided paired t-tests at .05 "
        f"and {below(by_signs)} by permutation tests; corrected for {len(cells)} comparisons (Holm) "
        f"{below(holm(by_t))} and {below(holm(by_signs))}."
    )


def against(
    summary: Summary,
    ours: tuple[str, str, str],
    opponents: Sequence[tuple[str, str, str]],
    shown_at: str,
    sign: float = 1.0,
) -> list[str]:
    """Is one selection ahead of others and of controls? Paired over seeds, all rates of all opponents one family.

    Args:
        summary: of the runs.
        ours, opponents: ``(table, row, how the sentence calls it)``.
        shown_at: the column at which the difference is told.
        sign: -1 where what falls improves.

    Returns:
        A sentence an opponent; none with too few seeds, nor of a rate where a seed has no value.
    """

    def improvements(table: str, row: str, column: str) -> list[float | None]:
        return [_signed(sign, run["values"][table][row][column]) for run in summary.runs]

    sides = {
        (name, column): (improvements(*ours[:2], column), improvements(table, row, column))
        for table, row, name in opponents
        for column in summary.columns
    }
    whole = {key: pair for key, pair in sides.items() if None not in (*pair[0], *pair[1])}
    if len(summary.runs) < SEEDS_TO_TELL or not whole:
        return []
    known: dict[tuple[str, str], Any] = {key: compared(*pair) for key, pair in whole.items()}  # type: ignore[arg-type]
    corrected = [
        dict(zip(known, holm([p(pair) for pair in known.values()]), strict=True))
        for p in (lambda pair: pair.p_t, lambda pair: pair.p_permutation)
    ]
    sentences = []
    for _, _, name in opponents:
        own = {column: known[name, column] for column in summary.columns if (name, column) in known}
        if shown_at not in own:
            continue
        ahead = (
            [column for column, pair in own.items() if pair.p_t < LEVEL],
            [column for column, pair in own.items() if pair.p_permutation < LEVEL],
            *([column for column in own if of_all[name, column] < LEVEL] for of_all in corrected),
        )
        sentences.append(
            f"{ours[2]} against {name}: significantly ahead at {listed(ahead[0])} by t-tests and at "
            f"{listed(ahead[1])} by permutation tests, corrected for {len(known)} comparisons (Holm) at "
            f"{listed(ahead[2])} and {listed(ahead[3])}; at {shown_at} by {_difference(own[shown_at])}."
        )
    return sentences


def table_of_changes(name: str, caption: str, rows: Callable[[Settings], Sequence[str]], **options: Any) -> Quantity:
    """A table of means and standard deviations with signs, as the papers print changes; ``options`` of a quantity."""
    whole = f"{caption}: mean (standard deviation) over seeds"
    given: dict[str, Any] = {"decimals": 2, "spread": "std", "signed": True, **options}
    return Quantity(name, whole, rows=rows, **given)


def if_run(strategy: str, names: Sequence[str]) -> Callable[[Settings], list[str]]:
    """Rows of a table on one strategy of retraining: none where settings leave that out."""
    return lambda settings: list(names) if strategy in settings["strategies"] else []


def lower(text: str) -> str:
    return text[0].lower() + text[1:]


def _signed(sign: float, value: float | None) -> float | None:
    return None if value is None else sign * value


def below(p_values: Sequence[float]) -> int:
    """How many are significant."""
    return sum(p < LEVEL for p in p_values)


def listed(columns: Sequence[str]) -> str:
    return ", ".join(columns) or "none"


def _difference(pair: Comparison) -> str:
    text = f"{pair.difference:+.2f} [{pair.low:+.2f}, {pair.high:+.2f}]"
    if pair.effect is None:
        return text
    d, low, high = pair.effect
    return f"{text}, effect size d = {d:.2f} [{low:.2f}, {high:.2f}]"
