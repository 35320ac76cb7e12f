"""Data cleansing of StyleGAN and StyleGAN2: TNNLS Section VI-C, Table II, Fig. 2(f, g) and 5-9; Appendix D, Fig. 10."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool2d

import gan_influence as gi
from gan_influence import trees
from gan_influence.baselines import by_chance, by_influence, by_isolation_forest
from gan_influence.datasets.pixels import as_images
from gan_influence.metrics.chunks import generated_in_chunks
from reports.experiment import Drawing, Experiment, Preset, Quantity, Settings, Values
from reports.parts import cats
from reports.parts.agreement import finite
from reports.parts.cats import Cats, Streams, files, on_digits, prepare, steps_per_epoch
from reports.parts.cleansing import (
    FULL,
    ONE,
    Line,
    against,
    draw_panels,
    if_run,
    judged,
    lower,
    most_harmful,
    retrained,
    significance,
    table_of_changes,
    without,
)
from reports.parts.pictures import as_text, from_text, sheet, with_pictures
from reports.shared.provenance import data_digest
from reports.shared.stylegan import StyleGANCost, as_if
from reports.statistics import bootstrap_interval
from reports.summary import Summary

__all__ = ["STYLEGAN2_CLEANSING", "STYLEGAN_CLEANSING"]

ITD, AID, FOREST, RANDOM = "Influence on FID by ITD", "Influence on FID by AID", "Isolation Forest", "Random"
SHORT = {ITD: "ITD", AID: "AID", FOREST: "isolation forest", RANDOM: "random"}
SELECTIONS = {"stylegan": (ITD, AID, FOREST, RANDOM), "stylegan2": (ITD, RANDOM)}
PICTURED = (ITD, FOREST)  # colour images weigh much in a result
SCALED = "None removed, real term x (1 - rate)"
NO_REMOVAL = "No Removal"
CHOOSES = "Validation FID"
MEASURES = ("FID", "Precision", "Recall", "Density", "Coverage")
CHOSEN = "Rate of best validation FID"
REACHED, CHANGE = "Test FID at that rate", "Change of test FID at that rate"
THUMBNAIL = 64

PUBLISHED: Settings = {
    **cats.PUBLISHED,
    "strategies": [ONE, FULL],
    "rates": [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.7, 0.9],
    "terms": 1000,
    "scale": 0.001,
    "neighbours": 5,
    "models_at_once": 1,
    "pictured_seeds": 1,
    "shown": 45,
}
STANDARD: Settings = {
    **PUBLISHED,
    **cats.SMALL,
    "strategies": [ONE],
    "rates": [0.01, 0.05, 0.1, 0.2, 0.5, 0.9],
    "terms": 200,
    "models_at_once": 6,
    "shown": 36,
}
SMOKE: Settings = {**on_digits(STANDARD), "strategies": [ONE, FULL], "rates": [0.1, 0.5], "terms": 5, "shown": 9}


class Given(NamedTuple):
    """One seed: its fine-tuning, what judges a model, and its verdict on the run itself."""

    cats: Cats
    judge: Judge
    before: list[float]


class Judge:
    """A metric of held-out images and fresh latents: validation FID and :data:`MEASURES`, one number after another."""

    mode = "eval"

    def __init__(self, given: Cats, neighbours: int):
        self.metrics, self.latents, self.neighbours = (given.validation, given.test), given.test_latents, neighbours
        self.features = given.test.extractor
        self.real = described(given, given.test_images)

    def value(self, players: gi.Players) -> Tensor:
        scores = [metric.value(players).double() for metric in self.metrics]
        made = generated_in_chunks(self.features, players, self.latents, 500)
        near = gi.metrics.precision_recall_density_coverage(self.real, made, k=self.neighbours)
        return torch.stack([*scores, *scores[0].new_tensor(near)])


def described(given: Cats, images: Tensor) -> Float[Tensor, "n f"]:
    """What FID compares, 500 images at a time."""
    metric, device = given.test, given.trace.weights.device

    def of_part(part: Tensor) -> Tensor:
        return metric.extractor(as_images(part, metric.dtype).to(device, metric.dtype))

    with torch.no_grad():
        return torch.cat([of_part(part) for part in images.split(500)])


def of_seed(settings: Settings, seed: int, prepared: dict[str, Any], device: str) -> Given:
    """One seed; a process keeps the last one that it judged."""
    return _of_seed(json.dumps(settings), seed, json.dumps(prepared), device)


@lru_cache(maxsize=1)
def _of_seed(settings_as_text: str, seed: int, prepared_as_text: str, device: str) -> Given:
    settings = json.loads(settings_as_text)
    given = cats.cats(settings, seed, json.loads(prepared_as_text), device)
    judge = Judge(given, settings["neighbours"])
    return Given(given, judge, judged(given.trace, judge, given.trace.seen()))


def rows(settings: Settings) -> list[str]:
    return list(SELECTIONS[settings["model"]])


def columns(settings: Settings) -> list[str]:
    return [in_full(rate) for rate in settings["rates"]]


def in_full(rate: float) -> str:
    """Hundredths would not tell .001 from .002."""
    return f"{rate:g}"


def units(settings: Settings) -> list[str]:
    """A selection, or the control, and a strategy each."""
    kinds = [*range(len(rows(settings))), "scaled"]
    return [f"{strategy.split('-')[0]}-{kind}" for strategy in settings["strategies"] for kind in kinds]


def run_unit(settings: Settings, seed: int, unit: str, device: str, prepared: dict[str, Any]) -> dict[str, Any]:
    given = of_seed(settings, seed, prepared, device)
    trace, (began, kind) = given.cats.trace, unit.split("-")
    start = 0 if FULL.startswith(began) else trace.steps - steps_per_epoch(settings)
    if kind == "scaled":
        return {"changes": {SCALED: differences(given, scaled(settings, trace, start))}, "before": given.before}
    row = rows(settings)[int(kind)]
    try:
        harm = harmfulness(settings, given.cats, row, Streams.of(seed).choice, start)
    except gi.ConvergenceError as error:
        return {"failed": str(error)}
    removed = most_harmful(harm, settings["rates"], count=int)
    models = retrained(trace, without(removed, trace.size), start, settings["models_at_once"])
    changes = differences(given, models)
    record: dict[str, Any] = {"data": data_digest(trace), "changes": {row: changes}}
    of_first_seeds = seed < settings["pictured_seeds"] and row in PICTURED
    if of_first_seeds and settings["strategies"][-1].startswith(began):
        at = best(changes)
        record["pictures"] = {row: pictures(settings, given, harm, None if at is None else models[at])}
    return record


def harmfulness(settings: Settings, given: Cats, row: str, choice: int, start: int) -> Float[Tensor, " N"]:
    """How harmful this row of the tables takes each training row to be; ITD goes back as far as retraining does.

    AID is the authors': of the discriminator without its penalty, denominators constant, at a scale of their own.
    """
    trace, metric = given.trace, given.validation
    if row == ITD:
        found = by_influence(gi.itd, last=trace.steps - start)(trace, metric)
    elif row == AID:
        select = by_influence(gi.aid, terms=settings["terms"], scale=settings["scale"])
        found = select(as_if(trace, StyleGANCost("batch", "none")), metric)
    elif row == FOREST:
        found = by_isolation_forest(lambda images: described(given, images))(trace, metric)
    else:
        found = by_chance(choice)(trace, metric)
    return found.double().cpu()


def scaled(settings: Settings, trace: gi.Trace, start: int) -> list[Tensor | None]:
    """No row removed, but the real term of the discriminator's cost multiplied by what would be kept.

    In retraining that term is a mean over the rows kept, which equal weights do not change. So it is the paper's (eq.
    6), over all rows of a batch, that is multiplied here.
    """
    kept = 1 - torch.tensor(settings["rates"], dtype=torch.float64).unsqueeze(1)
    of_batch = as_if(trace, StyleGANCost("batch", "mean"))
    return retrained(of_batch, kept.expand(-1, trace.size), start, settings["models_at_once"])


def differences(given: Given, models: Sequence[Tensor | None]) -> list[list[float | None] | None]:
    """By how much each number of the judge changes, model by model."""

    def of_one(theta: Tensor) -> list[float | None]:
        after = judged(given.cats.trace, given.judge, theta)
        return [finite(one - before) for one, before in zip(after, given.before, strict=True)]

    return [None if theta is None else of_one(theta) for theta in models]


def best(changes: Sequence[Sequence[float | None] | None]) -> int | None:
    """The place among rates of the best validation FID; of equals the first."""
    fid = {at: line[0] for at, line in enumerate(changes) if line is not None and line[0] is not None}
    return min(fid, key=fid.__getitem__) if fid else None


def pictures(settings: Settings, given: Given, harm: Float[Tensor, " N"], after: Tensor | None) -> dict[str, Any]:
    """Fig. 5-9: what is harmful, what is helpful, and images of the same latents before and after."""
    many, order = settings["shown"], harm.argsort(descending=True, stable=True)
    found = {
        "harmful": thumbnails(chosen(given, order[:many])),
        "helpful": thumbnails(chosen(given, order[-many:].flip(0))),
        "before": thumbnails(generated(given, given.cats.trace.seen(), many)),
    }
    return found if after is None else {**found, "after": thumbnails(generated(given, after, many))}


def chosen(given: Given, places: Int[Tensor, " n"]) -> Tensor:
    return given.cats.trace.data.cpu()[places]


def generated(given: Given, theta: Tensor, many: int) -> Tensor:
    players = gi.Players(given.cats.trace.game, theta, mode="eval")
    with torch.no_grad():
        return generated_in_chunks(lambda images: images, players, trees.take(given.judge.latents, slice(many)), 500)


def thumbnails(images: Tensor) -> dict[str, Any]:
    """Small enough to be kept in a result."""
    images = as_images(images.cpu(), torch.float32)
    return as_text(avg_pool2d(images, max(1, images.shape[-1] // THUMBNAIL)))


def combine(settings: Settings, records: dict[str, dict[str, Any]]) -> Values:
    """Tables by strategy: each measure by rate, and all measures at the rate of best validation FID."""
    values: Values = {}
    for strategy in settings["strategies"]:
        began = strategy.split("-")[0]
        own = [record for unit, record in records.items() if unit.startswith(f"{began}-")]
        found = {row: lines for record in own for row, lines in record.get("changes", {}).items()}
        before = next(record["before"] for record in own if "before" in record)[1:]
        for row in (*rows(settings), SCALED):
            lines = found.get(row, [None] * len(settings["rates"]))
            for k, measure in enumerate((CHOOSES, *MEASURES)):
                by_rate = [None if line is None else line[k] for line in lines]
                values.setdefault(table(measure, strategy), {})[row] = dict(
                    zip(columns(settings), by_rate, strict=True)
                )
            at = best(lines)
            line = [None] * len(MEASURES) if at is None else lines[at][1:]
            after = [None if one is None else level + one for level, one in zip(before, line, strict=True)]
            in_columns(values, strategy, row, None if at is None else settings["rates"][at], after, line)
        in_columns(values, strategy, NO_REMOVAL, None, before, [0.0] * len(MEASURES))
    return values


def in_columns(
    values: Values,
    strategy: str,
    row: str,
    rate: float | None,
    after: Sequence[float | None],
    changes: Sequence[float | None],
) -> None:
    """One row of all tables on the rate of best validation FID."""
    values.setdefault(CHOSEN, {}).setdefault(row, {})[strategy] = rate
    values.setdefault(REACHED, {}).setdefault(row, {})[strategy] = after[0]
    values.setdefault(CHANGE, {}).setdefault(row, {})[strategy] = changes[0]
    values.setdefault(at_best(strategy), {})[row] = dict(zip(MEASURES[1:], after[1:], strict=True))
    values.setdefault(changes_at_best(strategy), {})[row] = dict(zip(MEASURES[1:], changes[1:], strict=True))


def table(measure: str, strategy: str) -> str:
    return f"{measure}, {strategy}"


def at_best(strategy: str) -> str:
    return f"Table II, {strategy}"


def changes_at_best(strategy: str) -> str:
    return f"Changes of Table II, {strategy}"


def measures(settings: Settings) -> list[str]:
    return list(MEASURES[1:])


def strategies(settings: Settings) -> list[str]:
    return list(settings["strategies"])


def draw_changes(figure: Any, summary: Summary) -> None:
    """Fig. 2(f, g) or 10, as changes: a line of panels a strategy, FID at the left and coverage at the right."""

    def lines(measure: str, strategy: str) -> list[Line]:
        name = table(measure, strategy)
        own = [Line(name, row, f"C{index}o-", SHORT[row]) for index, row in enumerate(summary.rows)]
        return [*own, Line(name, SCALED, "kx:", lower(SCALED))]

    of_measures = {"change of test FID": "FID", "change of test coverage": "Coverage"}
    draw_panels(figure, summary, {label: partial(lines, measure) for label, measure in of_measures.items()})


def draw_rows(figure: Any, summary: Summary) -> None:
    """Fig. 5 and 7: the ends of each order."""
    if not (runs := with_pictures(summary, figure)):
        return
    pictured = runs[0]["pictures"]
    shown = [row for row in summary.rows if row in pictured]
    panels = figure.subplots(2, len(shown), squeeze=False)
    for across, row in enumerate(shown):
        for axes, name in zip(panels[:, across], ("harmful", "helpful"), strict=True):
            _sheet(axes, pictured[row][name], f"{SHORT[row]}: first to go" if name == "harmful" else "last to go")


def draw_generated(figure: Any, summary: Summary) -> None:
    """Fig. 6, 8 and 9: images of the same latents by the run itself and after each cleansing."""
    if not (runs := with_pictures(summary, figure)):
        return
    pictured = runs[0]["pictures"]
    shown = [row for row in summary.rows if "after" in pictured.get(row, {})]
    panels = figure.subplots(1, 1 + len(shown), squeeze=False)[0]
    _sheet(panels[0], next(iter(pictured.values()))["before"], "no removal")
    for axes, row in zip(panels[1:], shown, strict=True):
        _sheet(axes, pictured[row]["after"], f"after {SHORT[row]}")


def _sheet(axes: Any, images: dict[str, Any], title: str) -> None:
    sheet(axes, from_text(images))
    axes.set_title(title, fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])


def findings(summary: Summary) -> list[str]:
    """What the numbers say, computed from them."""
    found = []
    for strategy in summary.settings["strategies"]:
        found += [
            _changes(summary, "FID", strategy),
            *_ahead(summary, strategy),
            _changes(summary, "Coverage", strategy),
            _changes(summary, "Density", strategy),
            *_by_rate(summary, strategy),
        ]
    return [sentence for sentence in found if sentence]


def _changes(summary: Summary, measure: str, strategy: str) -> str:
    """Does a measure improve, of whom, by how much?"""
    sign, called = (-1.0, measure) if measure == "FID" else (1.0, lower(measure))
    parts = []
    for row in summary.rows:
        where = (CHANGE, row, strategy) if measure == "FID" else (changes_at_best(strategy), row, measure)
        values = summary.values(*where)
        if values:
            improved = sum(sign * value > 0 for value in values)
            parts.append(f"{SHORT[row]} {_interval(values)}, better in {improved} of {len(values)} seeds")
    said = f"Change of test {called} at the rate of best validation FID, {strategy}: {'; '.join(parts)}."
    return said if parts else ""


def _ahead(summary: Summary, strategy: str) -> list[str]:
    """Is ITD ahead of the others, each at its rate of best validation FID? Paired over seeds."""
    sentences = []
    for other in (*summary.rows[1:], SCALED):
        by_seed = [run["values"][CHANGE] for run in summary.runs]
        pairs = [(own[other][strategy], own[ITD][strategy]) for own in by_seed]
        known = [theirs - ours for theirs, ours in pairs if theirs is not None and ours is not None]
        if len(known) > 1:
            sentences.append(
                f"Is ITD ahead of {SHORT.get(other) or lower(other)} by test FID, {strategy}? {_answer(known)}: by "
                f"{_interval(known)}, in {sum(one > 0 for one in known)} of {len(known)} seeds; that all agree on a "
                f"direction happens by chance in 1 of {2 ** (len(known) - 1)} cases."
            )
    return sentences


def _answer(ahead: Sequence[float]) -> str:
    low, high = bootstrap_interval(list(ahead))
    return "Yes" if low > 0 else "No, behind" if high < 0 else "These seeds do not tell"


def _interval(values: list[float]) -> str:
    low, high = bootstrap_interval(values)
    return f"{np.mean(values):+.2g} [{low:+.2g}, {high:+.2g}]"


def _by_rate(summary: Summary, strategy: str) -> list[str]:
    """Significance of the cells, and ITD against everything else, rate by rate."""
    name, column = table("FID", strategy), in_full(0.5)
    others = [(name, row, SHORT.get(row) or lower(row)) for row in (*summary.rows[1:], SCALED)]
    mine = (name, ITD, f"By test FID, {strategy}: ITD")
    return [significance(summary, name, summary.rows, -1.0), *against(summary, mine, others, column, -1.0)]


def _all(names: Sequence[str], settings: Settings) -> list[str]:
    return list(names)


def _quantities(names: Sequence[str]) -> tuple[Quantity, ...]:
    found = []
    across: dict[str, Any] = {"decimals": 3, "columns": measures, "column_heading": "measure"}
    for strategy in (ONE, FULL):
        for measure in ("FID", CHOOSES, *MEASURES[1:]):
            what = f"Change of {lower(measure) if measure == CHOOSES else f'test {measure}'} after removing a share"
            listed, decimals = if_run(strategy, (*names, SCALED)), None if "FID" in measure else 3
            found.append(table_of_changes(table(measure, strategy), f"{what}, {strategy}", listed, decimals=decimals))
    for strategy in (ONE, FULL):
        listed = if_run(strategy, (NO_REMOVAL, *names, SCALED))
        what = f"each at its rate of best validation FID, {strategy}"
        for named, begins, signed in (
            (at_best, "Measures on test images", False),
            (changes_at_best, "Changes of them", True),
        ):
            printed = named(FULL) if strategy == ONE else None
            caption = f"{begins}, {what}"
            found.append(table_of_changes(named(strategy), caption, listed, signed=signed, beside=printed, **across))
    by_strategy: dict[str, Any] = {"columns": strategies, "column_heading": "strategy"}
    for name, what, removed, options in (
        (CHOSEN, "The rate at which validation FID is best", (), {"signed": False, "decimals": 3}),
        (REACHED, "Test FID there", (NO_REMOVAL,), {"signed": False, "decimals": None}),
        (CHANGE, "Change of test FID there", (), {"decimals": None}),
    ):
        shown = [*removed, *names, SCALED]
        found.append(table_of_changes(name, what, partial(_all, shown), **by_strategy, **options))
    return tuple(found)


RUN = (
    "The generator is pretrained and then fine-tuned on cats through low-rank adapters of both players: R1 at every "
    "step, mixed latents, noise, Adam, an averaged generator, batches of 8 (the authors' code). Selections order the "
    "training rows, the most harmful first; a share of them is removed, int(rate N) rows, and all steps or those of "
    "the last epoch are trained again. In retraining the discriminator's real term is the mean over the rows of a "
    "batch that are kept, its penalty that over all; where none is kept the real term is left out (the authors' code "
    "divides by zero). FID of validation images orders, by exact ITD over the steps that are trained again{aid}; test "
    "images and fresh latents judge: FID, precision, recall, density and coverage (k = 5). Table II takes each "
    "selection at the rate of its best validation FID{table_ii}. Not in the paper: no removal, but the real term "
    "multiplied by the share that would be kept; the term is here a mean over all rows of a batch, for of a mean over "
    "kept rows equal weights change nothing. At preset paper: one's own images, checkpoint and file of features at "
    "256 pixels, 3 336 rows, 50 epochs. At preset standard: pretrained on CIFAR-10's dogs and fine-tuned on 320 of "
    "its cats at 32 pixels, 16 channels, rank 4, four epochs, the generator averaged by .99 (over as many epochs as "
    "by the published .999), features of a classifier of the other eight classes, six rates, the last epoch only"
)


def _experiment(name: str, title: str, source: str, model: str, description: str) -> Experiment:
    made, drawn = {"model": model}, "2(f, g)" if model == "stylegan" else "10"
    return Experiment(
        name=name,
        title=title,
        source=source,
        description=description,
        presets={
            "smoke": Preset({**SMOKE, **made}, seeds=1, as_published=False),
            "standard": Preset({**STANDARD, **made}, seeds=2, as_published=False),
            "paper": Preset({**PUBLISHED, **made}, seeds=1, as_published=True),
        },
        quantities=_quantities(SELECTIONS[model]),
        rows=rows,
        columns=columns,
        row_heading="Selection",
        column_heading="rate",
        units=units,
        run_unit=run_unit,
        combine=combine,
        figures=(
            Drawing(
                "figure",
                f"As Fig. {drawn}, drawn as changes: FID at the left (lower is better), "
                "coverage at the right (higher is better). Dotted: the control.",
                draw_changes,
                (10, 7),
            ),
            Drawing(
                "rows",
                "As Fig. 5 and 7: the training images that each selection takes first and last; those of random are "
                "random images. The first seed.",
                draw_rows,
                (10, 5.6),
            ),
            Drawing(
                "generated",
                "As Fig. 6, 8 and 9: images from the same latents by the run itself and after each cleansing, at "
                "its rate of best validation FID. The first seed.",
                draw_generated,
                (10, 2.8),
            ),
        ),
        findings=findings,
        files=files,
        prepare=prepare,
        on_digits=on_digits,
        unnamed=("smoke",),
        recheck={"strategies": [ONE]},
    )


STYLEGAN_CLEANSING = _experiment(
    "stylegan-cleansing",
    "Data cleansing of StyleGAN",
    "TNNLS 2025, Section VI-C, Table II, Fig. 2(f, g), 5-9",
    "stylegan",
    RUN.format(
        aid=" (the authors' Jacobians are 100 or 1 000 times too small) and by AID as in their code, from the averaged "
        "generator, without the penalty, M = 1 000 at scale .001",
        table_ii="; which retraining is printed the paper does not say, and it stands beside both",
    )
    + ", M = 200.",
)
STYLEGAN2_CLEANSING = _experiment(
    "stylegan2-cleansing",
    "Data cleansing of StyleGAN2",
    "TNNLS 2025, Appendix D, Fig. 10",
    "stylegan2",
    RUN.format(aid="; beside it rows at random, as in the paper", table_ii=", printed for StyleGAN alone") + ".",
)
