"""Data cleansing of DCGAN on MNIST: TNNLS Section VI-C, Tables VIII and IX, Fig. 2(b-e) and 4; ICLR 5.2, Tables 7 and
8, 10 and 12."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

import gan_influence as gi
from gan_influence.baselines import Selection, by_chance, by_discriminator_loss, by_influence, by_isolation_forest
from gan_influence.history import digest
from reports.experiment import Drawing, Experiment, Preset, Quantity, Settings, Values
from reports.parts import dcgan
from reports.parts.agreement import finite
from reports.parts.cleansing import (
    FULL,
    NO_CHANGE,
    ONE,
    Line,
    against,
    as_many_of_each,
    columns,
    draw_panels,
    if_run,
    in_hundredths,
    judged,
    lower,
    most_harmful,
    retrained,
    significance,
    table_of_changes,
    without,
)
from reports.parts.dcgan import (
    CLASSIFIER,
    Streams,
    files,
    latents_of,
    metrics_on,
    on_digits,
    read_trace,
    splits,
    trained,
)
from reports.parts.dcgan import prepare as fit
from reports.parts.pictures import as_text, from_text, sheet, with_pictures
from reports.shared.provenance import data_digest
from reports.shared.store import usable
from reports.statistics import bootstrap_interval
from reports.summary import Summary

__all__ = ["DCGAN_CLEANSING"]

MEASURES = ("IS", "FID", "Precision", "Recall", "Density", "Coverage")
TABLE_OF = {"IS": "Table VIII", "FID": "Table IX"}
ICLR_TABLE_OF = {"IS": "Table 7", "FID": "Table 8"}
TRANSFER, OVERSAMPLED, BEFORE = "By other measures", "Harmful where over-sampled", "Before cleansing"
BETTER = {"IS": 1.0, "FID": -1.0}  # the sign of an improvement


class Method(NamedTuple):
    """A row of the tables: how sentences call it, by which estimator of what."""

    short: str
    metric: str | None = None
    estimator: Callable[..., Tensor] | None = None


LOSS = "Disc. Loss"
METHODS = {
    "Influence on FID by ITD (Ours)": Method("FID by ITD", "FID", gi.itd),
    "Influence on FID by AID (Ours)": Method("FID by AID", "FID", gi.aid),
    "Influence on IS by ITD (Ours)": Method("IS by ITD", "IS", gi.itd),
    "Influence on IS by AID (Ours)": Method("IS by AID", "IS", gi.aid),
    "Influence on Disc. Loss by ITD": Method("loss by ITD", LOSS, gi.itd),
    "Influence on Disc. Loss by AID": Method("loss by AID", LOSS, gi.aid),
    "Isolation Forest": Method("isolation forest"),
    "Random": Method("random"),
}
SELECTIONS = tuple(METHODS)
FID_ITD, _, IS_ITD, _, LOSS_ITD, _, FOREST, RANDOM = SELECTIONS
SAME_CLASSES = {row: f"Random, as many of each class as {METHODS[row].short}" for row in (FID_ITD, IS_ITD)}
SCALED = "None removed, rows' term x (1 - rate)"
CONTROLS = (*SAME_CLASSES.values(), SCALED)
PICTURED = (FID_ITD, IS_ITD, FOREST)
OF_ICLR = {  # ICLR's rows, which are TNNLS's after one epoch of retraining
    "Influence on FID": FID_ITD,
    "Influence on IS": IS_ITD,
    "Influence on Disc. Loss": LOSS_ITD,
    FOREST: FOREST,
    RANDOM: RANDOM,
}

PUBLISHED: Settings = {
    **dcgan.PUBLISHED,
    "rows": 50_000,
    "channels": 32,
    "l2_of": "all",
    "steps": 10_000,
    "strategies": [ONE, FULL],
    "rates": [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9],
    "terms": 1000,
    "damping": 0.1,
    "test_latents": 10_000,
    "neighbours": 5,
    "neighbour_rows": 10_000,
    "judged": 0.5,
    "models_at_once": 10,
    "pictured_seeds": 1,
    "shown": 36,
}


def on_fewer_digits(settings: Settings) -> Settings:
    """On digits, of which validation takes so few that enough are left to test on."""
    return {**on_digits(settings), "validation_rows": 400}


STANDARD: Settings = {
    **PUBLISHED,
    "rows": 5000,
    "validation_rows": 5000,
    "channels": 8,
    "steps": 1000,
    "strategies": [ONE],
    "rates": [0.05, 0.1, 0.2, 0.5],
    "terms": 100,
    "metric_latents": 2000,
    "test_latents": 1000,
    "neighbour_rows": 1000,
    "models_at_once": 1,
}
SMOKE: Settings = {
    **on_fewer_digits(STANDARD),
    "metric_latents": 200,
    "test_latents": 200,
    "neighbour_rows": 200,
    "channels": 4,
    "steps": 27,
    "strategies": [ONE],
    "rates": [0.1, 0.5],
    "terms": 5,
    "shown": 9,
}


class Given(NamedTuple):
    """One seed: the factual run, its rows' labels, and what selections and judges look at."""

    trace: gi.Trace
    labels: Tensor
    metrics: dict[str, gi.metrics.Metric]
    validation: tuple[Tensor, Tensor]
    classifier: gi.models.Classifier
    judge: Judge
    before: list[float]


class Judge:
    """A metric of test images and fresh latents: everything in :data:`MEASURES`, one number after another."""

    mode = "eval"

    def __init__(self, settings: Settings, classifier: gi.models.Classifier, reference: Tensor, latents: Tensor):
        self.metrics = metrics_on(classifier, reference, latents)
        self.settings, self.classifier, self.latents = settings, classifier, latents
        few = settings["neighbour_rows"]
        self.real = features(classifier, reference[:few])

    def value(self, players: gi.Players) -> Tensor:
        scores = [metric.value(players).reshape(()).double() for metric in self.metrics.values()]
        few = self.latents[: self.settings["neighbour_rows"]].to(next(iter(players.parameters.values())))
        made = features(self.classifier, players.generate(few))
        near = gi.metrics.precision_recall_density_coverage(self.real, made, k=self.settings["neighbours"])
        return torch.stack([*scores, *scores[0].new_tensor(near)])


def features(classifier: gi.models.Classifier, images: Tensor) -> Tensor:
    """What FID compares, 1 000 images at a time."""
    classifier = classifier.to(images.device)
    with torch.no_grad():
        return torch.cat([classifier.features(part) for part in images.split(1000)])


def prepare(settings: Settings, seed: int, folder: Path, device: str) -> dict[str, Any]:
    """The seed's classifier and its factual run, each made once and stored."""
    prepared, path = fit(settings, seed, folder, device), folder / f"seed-{seed}.run.pt"
    images = splits(settings, seed)[0].images
    try:
        trace = usable(path, lambda own: read_trace(str(own), settings, seed, images, device), "trained again")
        if trace is None:
            trace = trained(settings, seed, images, device, memory="checkpoint")
            trace.save(path)
    except gi.DivergenceError:
        return {**prepared, "run": None}  # each unit will say so
    own = [torch.frombuffer(bytearray(prepared["digest"], "ascii"), dtype=torch.uint8), trace.theta().cpu()]
    return {**prepared, "run": str(path), "digest": digest(*own)}


@lru_cache(maxsize=1)
def _given(settings_as_text: str, seed: int, stored: str, run: str | None, device: str) -> Given:
    settings, streams = json.loads(settings_as_text), Streams.of(seed)
    training, validation, test = splits(settings, seed)
    classifier = gi.models.load_classifier(stored)
    latents = latents_of(settings["metric_latents"], streams.metric_latents)
    if run is None:
        trace = trained(settings, seed, training.images, device, memory="checkpoint")
    else:
        trace = read_trace(run, settings, seed, training.images, device)
    judge = Judge(settings, classifier, test.images, latents_of(settings["test_latents"], streams.test_latents))
    return Given(
        trace,
        training.labels,
        metrics_on(classifier, validation.images, latents),
        (validation.images, latents),
        classifier,
        judge,
        judged(trace, judge, trace.seen()),
    )


def rows(settings: Settings) -> list[str]:
    return list(SELECTIONS)


def measures(settings: Settings) -> list[str]:
    return list(MEASURES)


def numbers_removed(settings: Settings) -> list[str]:
    """As ICLR's tables print them: ``25.0k``."""
    return [f"{round(rate * settings['rows']) / 1000:.1f}k" for rate in settings["rates"]]


def units(settings: Settings) -> list[str]:
    """A selection and a strategy each; the controls of ITD go with it, the scaled learning rate goes by itself."""
    kinds = [*range(len(SELECTIONS)), "scaled"]
    return [f"{strategy.split('-')[0]}-{kind}" for strategy in settings["strategies"] for kind in kinds]


def run_unit(settings: Settings, seed: int, unit: str, device: str, prepared: dict[str, Any]) -> dict[str, Any]:
    given = _given(json.dumps(settings), seed, prepared["classifier"], prepared["run"], device)
    began, kind = unit.split("-")
    start = 0 if FULL.startswith(began) else given.trace.steps - steps_per_epoch(settings)
    if kind == "scaled":
        kept = 1 - torch.tensor(settings["rates"], dtype=torch.float64).unsqueeze(1)
        return {
            "changes": {SCALED: changes(settings, given, kept.expand(-1, given.trace.size), start)},
            "before": given.before,
            "accuracy": prepared["accuracy"],
        }
    row, streams = SELECTIONS[int(kind)], Streams.of(seed)
    metric = given.metrics.get(METHODS[row].metric or "", given.metrics["IS"])  # others do not look at it
    try:
        harm = selection(settings, given, row, streams, start)(given.trace, metric)
    except gi.ConvergenceError as error:
        return {"failed": str(error)}
    harm = harm.double().cpu()
    removed = {row: most_harmful(harm, settings["rates"])}
    if row in SAME_CLASSES:
        of_each = partial(as_many_of_each, given.labels, seed=streams.choice)
        removed[SAME_CLASSES[row]] = [of_each(taken) for taken in removed[row]]
    at_once = settings["models_at_once"]
    reached = {
        name: retrained(given.trace, without(own, given.trace.size), start, at_once) for name, own in removed.items()
    }
    record: dict[str, Any] = {
        "data": data_digest(given.trace),
        "changes": {name: differences(given, models) for name, models in reached.items()},
        "oversampled": {row: by_class(given, harm)},
    }
    if seed < settings["pictured_seeds"] and row in PICTURED and settings["strategies"][0].startswith(began):
        at = settings["rates"].index(settings["judged"])
        record["pictures"] = {row: pictures(settings, given, harm, reached[row][at], removed[row][at])}
    return record


def steps_per_epoch(settings: Settings) -> int:
    return -(-settings["rows"] // settings["batch"])


def selection(settings: Settings, given: Given, row: str, streams: Streams, start: int) -> Selection:
    """How this row of the tables orders training rows; ITD goes back as far as retraining does.

    The paper damps ITD by gamma in the full-epoch setting (C-C2), and AID as in its first experiment (C-B2).
    """
    method, back = METHODS[row], given.trace.steps - start
    if row == FOREST:
        return by_isolation_forest(partial(features, given.classifier))
    if method.estimator is None:
        return by_chance(streams.choice)
    options: dict[str, Any] = {"terms": settings["terms"], "damping": settings["damping"]}
    if method.estimator is gi.itd:
        options = {"last": back, "damping": 0.0 if start else settings["damping"]}
    if method.metric == LOSS:
        return by_discriminator_loss(*given.validation, method.estimator, **options)
    return by_influence(method.estimator, **options)


def changes(settings: Settings, given: Given, weights: Tensor, start: int) -> list[list[float] | None]:
    return differences(given, retrained(given.trace, weights, start, settings["models_at_once"]))


def differences(given: Given, models: Sequence[Tensor | None]) -> list[list[float] | None]:
    """By how much each measure changes, model by model."""

    def of_one(theta: Tensor) -> list[float]:
        after = judged(given.trace, given.judge, theta)
        return [one - before for one, before in zip(after, given.before, strict=True)]

    return [None if theta is None else of_one(theta) for theta in models]


def by_class(given: Given, harm: Tensor) -> list[float | None]:
    """Spearman's correlation over classes of mean harmfulness and log(share of generated images / of training rows)."""
    classes = int(given.labels.max()) + 1
    counts = given.labels.bincount(minlength=classes)
    mean = torch.zeros(classes, dtype=torch.float64).index_add(0, given.labels, harm) / counts
    made = labels_of(given, given.trace.seen()).bincount(minlength=classes)
    ratio = ((made + 0.5) / made.sum()).log() - (counts / counts.sum()).log()
    return [finite(spearmanr(mean.numpy(), ratio.numpy()).statistic)]


def generated(given: Given, theta: Tensor, many: int | None = None) -> Tensor:
    latents = given.judge.latents[:many].to(theta.device)
    with torch.no_grad():
        players = gi.Players(given.trace.game, theta, mode="eval")
        return torch.cat([players.generate(part) for part in latents.split(1000)])


def labels_of(given: Given, theta: Tensor, many: int | None = None) -> Tensor:
    """What the classifier takes generated images for."""
    images = generated(given, theta, many)
    with torch.no_grad():
        return torch.cat([given.classifier(part).argmax(1) for part in images.split(1000)]).cpu()


def pictures(settings: Settings, given: Given, harm: Tensor, after: Tensor | None, removed: Tensor) -> dict[str, Any]:
    """Fig. 4 and ICLR's Tables 10 and 12: images, and shares of the classes."""
    many, order = settings["shown"], harm.argsort(descending=True, stable=True)
    data, before = given.trace.data.cpu(), given.trace.seen()
    shares = {
        "training": given.labels.bincount(),
        "removed": given.labels[removed].bincount(minlength=int(given.labels.max()) + 1),
        "generated": labels_of(given, before).bincount(minlength=int(given.labels.max()) + 1),
    }
    found: dict[str, Any] = {
        "harmful": as_text(data[order[:many]]),
        "helpful": as_text(data[order[-many:].flip(0)]),
        "before": as_text(generated(given, before, many)),
        "shares": {name: (counts / counts.sum()).tolist() for name, counts in shares.items()},
    }
    if after is not None:
        changed = labels_of(given, before, many) != labels_of(given, after, many)
        found |= {"after": as_text(generated(given, after, many)), "changed": changed.tolist()}
    return found


def combine(settings: Settings, records: dict[str, dict[str, Any]]) -> Values:
    """Tables by strategy, and of the first strategy by measure."""
    values: Values = {}
    for strategy in (ONE, FULL):
        began = strategy.split("-")[0]
        own = {unit: record for unit, record in records.items() if unit.startswith(f"{began}-")}
        found = {row: changed for record in own.values() for row, changed in record.get("changes", {}).items()}
        for k, measure in enumerate(TABLE_OF):
            values[table(measure, strategy)] = {row: _of_measure(settings, found, row, k) for row in SELECTIONS}
            values[controls(measure, strategy)] = {row: _of_measure(settings, found, row, k) for row in CONTROLS}
        values[f"{TRANSFER}, {strategy}"] = {row: _judged_at(settings, found, row) for row in (*SELECTIONS, *CONTROLS)}
        of_harm = {row: line for record in own.values() for row, line in record.get("oversampled", {}).items()}
        for row in SELECTIONS:
            values.setdefault(OVERSAMPLED, {}).setdefault(row, {})[strategy] = of_harm.get(row, [None])[0]
    any_scaled = next(record for unit, record in records.items() if unit.endswith("-scaled"))
    values[BEFORE] = {"Factual run": dict(zip(MEASURES, any_scaled["before"], strict=True))}
    values[CLASSIFIER.table] = {"accuracy": {"test images": any_scaled["accuracy"]}}
    for measure, of_iclr in ICLR_TABLE_OF.items():
        ours = values[table(measure, ONE)]
        across = numbers_removed(settings)
        values[of_iclr] = {row: dict(zip(across, ours[same].values(), strict=True)) for row, same in OF_ICLR.items()}
    return values


def table(measure: str, strategy: str) -> str:
    return f"{TABLE_OF[measure]}, {strategy}"


def controls(measure: str, strategy: str) -> str:
    return f"Controls of {measure}, {strategy}"


def _of_measure(settings: Settings, found: dict[str, Any], row: str, k: int) -> dict[str, float | None]:
    lines = found.get(row, [None] * len(settings["rates"]))
    return {column: None if line is None else line[k] for column, line in zip(columns(settings), lines, strict=True)}


def _judged_at(settings: Settings, found: dict[str, Any], row: str) -> dict[str, float | None]:
    lines = found.get(row, [None] * len(settings["rates"]))
    line = lines[settings["rates"].index(settings["judged"])]
    return dict.fromkeys(MEASURES) if line is None else dict(zip(MEASURES, line, strict=True))


def strategies(settings: Settings) -> list[str]:
    return list(settings["strategies"])


def draw_changes(figure: Any, summary: Summary) -> None:
    """Fig. 2(b-e), as changes: a line of panels a strategy, IS at the left and FID at the right."""

    def lines(measure: str, strategy: str) -> list[Line]:
        own = [
            Line(table(measure, strategy), row, f"C{index}o-", METHODS[row].short)
            for index, row in enumerate(SELECTIONS)
        ]
        styles = zip(CONTROLS, ("C0s:", "C2s:", "kx:"), strict=True)
        return own + [Line(controls(measure, strategy), row, style, row) for row, style in styles]

    draw_panels(figure, summary, {f"change of test {measure}": partial(lines, measure) for measure in TABLE_OF})


def draw_labels(figure: Any, summary: Summary) -> None:
    """Which classes are over-sampled, and of which the removed rows are: the first seed's."""
    if not (runs := with_pictures(summary, figure)):
        return
    pictured = runs[0]["pictures"]
    shown = [row for row in PICTURED if row in pictured]
    for axes, row in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
        shares = pictured[row]["shares"]
        training = np.array(shares["training"])
        at, width = np.arange(len(training)), 0.4
        for k, (name, label) in enumerate((("removed", "removed rows"), ("generated", "generated before"))):
            with np.errstate(divide="ignore"):
                axes.bar(at + (k - 0.5) * width, np.array(shares[name]) / training, width, color=f"C{k}", label=label)
        axes.axhline(1, color="0.5", linewidth=0.8)
        axes.set_xticks(at, at)
        axes.set_xlabel("class")
        axes.set_title(METHODS[row].short, fontsize=9)
    figure.axes[0].set_ylabel("share over that of training rows")
    figure.axes[0].legend(frameon=False, fontsize=8)


def draw_images(figure: Any, summary: Summary) -> None:
    """Fig. 4 and ICLR's Table 10: a line a selection."""
    if not (runs := with_pictures(summary, figure)):
        return
    pictured = runs[0]["pictures"]
    shown = [row for row in PICTURED if row in pictured]
    for line, row in zip(figure.subplots(len(shown), 4, squeeze=False), shown, strict=True):
        found = pictured[row]
        changed = found.get("changed", [])
        for axes, (name, title) in zip(
            line,
            (
                ("harmful", "most harmful"),
                ("helpful", "most helpful"),
                ("before", "generated before"),
                ("after", f"after, {sum(changed)} changed class"),
            ),
            strict=True,
        ):
            if name in found:
                sheet(axes, from_text(found[name]), changed if name in ("before", "after") else [])
            axes.set_title(title, fontsize=8)
            axes.set_xticks([])
            axes.set_yticks([])
        line[0].set_ylabel(METHODS[row].short, fontsize=9)


def findings(summary: Summary) -> list[str]:
    """What the numbers say, computed from them."""
    found = [_before(summary)]
    for strategy in summary.settings["strategies"]:
        for measure in TABLE_OF:
            found += [_order(summary, measure, strategy), *_ahead(summary, measure, strategy)]
        found.append(_transfer(summary, strategy))
    return [sentence for sentence in [*found, _oversampled(summary)] if sentence]


def _at(summary: Summary) -> str:
    return in_hundredths(summary.settings["judged"])


def _before(summary: Summary) -> str:
    listed = ", ".join(f"{measure} {summary.mean(BEFORE, 'Factual run', measure) or 0.0:.2f}" for measure in MEASURES)
    return f"Before cleansing, mean over seeds: {listed}."


def _order(summary: Summary, measure: str, strategy: str) -> str:
    """Who changes the metric how much, the best first, at the rate that the papers picture."""
    column = _at(summary)

    def ranked(value: Any) -> str:
        of_rows = {
            row: found for row in SELECTIONS if (found := value(table(measure, strategy), row, column)) is not None
        }
        best_first = sorted(of_rows, key=of_rows.__getitem__, reverse=BETTER[measure] > 0)
        return ", ".join(f"{METHODS[row].short} {of_rows[row]:+.2f}" for row in best_first)

    printed = ranked(summary.published_mean)
    beside = f" (printed: {printed})" if printed else ""
    return f"Change of test {measure} at rate {column}, {strategy}: {ranked(summary.mean)}{beside}."


def _ahead(summary: Summary, measure: str, strategy: str) -> list[str]:
    """Significance of the cells, and ITD on this metric against everything else."""
    sign, ours = BETTER[measure], FID_ITD if measure == "FID" else IS_ITD
    others = [(table(measure, strategy), row, METHODS[row].short) for row in (FOREST, RANDOM)]
    others += [(controls(measure, strategy), row, lower(row)) for row in (SAME_CLASSES[ours], SCALED)]
    mine = (table(measure, strategy), ours, f"By {measure}, {strategy}: {METHODS[ours].short}")
    return [
        significance(summary, table(measure, strategy), SELECTIONS, sign),
        *against(summary, mine, others, _at(summary), sign),
    ]


def _transfer(summary: Summary, strategy: str) -> str:
    """Chosen by one metric, judged by others, with intervals."""
    parts = []
    for row in (FID_ITD, IS_ITD):
        of_measures = []
        for measure in MEASURES:
            values = summary.values(f"{TRANSFER}, {strategy}", row, measure)
            if values:
                low, high = bootstrap_interval(values)
                of_measures.append(f"{measure} {np.mean(values):+.3f} [{low:+.3f}, {high:+.3f}]")
        if of_measures:
            parts.append(f"chosen by {METHODS[row].short}: {', '.join(of_measures)}")
    return f"By other measures at rate {_at(summary)}, {strategy}: {'; '.join(parts)}." if parts else ""


def _oversampled(summary: Summary) -> str:
    """Are rows harmful whose class the generator makes too often (TNNLS VI-C6, ICLR D.1)?"""
    parts = []
    for row in (FID_ITD, IS_ITD, LOSS_ITD, FOREST):
        values = summary.values(OVERSAMPLED, row, summary.settings["strategies"][0])
        if values:
            low, high = bootstrap_interval(values)
            parts.append(f"{METHODS[row].short} {np.mean(values):+.2f} [{low:+.2f}, {high:+.2f}]")
    return (
        "Are classes harmful that the generator makes too often? Rank correlation over classes of mean harmfulness and "
        f"log(share generated / share in training): {', '.join(parts)}."
        if parts
        else ""
    )


def _changes(name: str, caption: str, names: Callable[[Settings], list[str]], measure: str, **options: Any) -> Quantity:
    return table_of_changes(name, caption, names, above=NO_CHANGE if BETTER[measure] > 0 else None, **options)


def _quantities() -> tuple[Quantity, ...]:
    found = []
    for strategy in (ONE, FULL):
        for measure in TABLE_OF:
            what = f"Change of test {measure} after removing a share of the rows, {strategy}"
            found.append(_changes(table(measure, strategy), what, rows, measure))
            what = f"Change of test {measure} of controls, {strategy}; not in the papers"
            found.append(_changes(controls(measure, strategy), what, if_run(strategy, CONTROLS), measure))
    for measure, of_iclr in ICLR_TABLE_OF.items():
        what = f"The same changes of test {measure} beside those that ICLR prints, {ONE}"
        across: dict[str, Any] = {"columns": numbers_removed, "column_heading": "n_h"}
        found.append(_changes(of_iclr, what, lambda settings: list(OF_ICLR), measure, **across))
    for strategy in (ONE, FULL):
        found.append(
            table_of_changes(
                f"{TRANSFER}, {strategy}",
                "Change of every measure after removing as many rows as the papers picture; they have IS and FID",
                if_run(strategy, (*SELECTIONS, *CONTROLS)),
                decimals=3,
                columns=measures,
                column_heading="measure",
            )
        )
    found += [
        table_of_changes(
            OVERSAMPLED,
            "Rank correlation over classes of mean harmfulness and log(share of generated images / share of training "
            "rows), in the papers in words",
            rows,
            columns=strategies,
            column_heading="scored for",
        ),
        table_of_changes(
            BEFORE,
            "Before cleansing, on test rows and fresh latents; not in the papers",
            lambda settings: ["Factual run"],
            decimals=3,
            signed=False,
            columns=measures,
            column_heading="measure",
        ),
        CLASSIFIER,
    ]
    return tuple(found)


DCGAN_CLEANSING = Experiment(
    name="dcgan-cleansing",
    title="Data cleansing of DCGAN",
    source="TNNLS 2025, Section VI-C, Tables VIII and IX, Fig. 2(b-e), 4; ICLR 2021, Section 5.2, Tables 7, 8, 10, 12",
    description=(
        "DCGAN (32 channels, Table IV) is trained on 50 000 MNIST images for T = 10 000 steps of minibatch SGD (batch "
        "100, learning rate 1e-3, L2 1e-3 on all parameters, non-saturating loss). Eight selections order the rows, "
        "the most harmful first; a share of them is removed, and all steps or those of the last epoch are trained "
        "again with denominators unchanged. Influence is estimated on 10 000 validation images and latents, which the "
        "classifier is fitted to as well; IS and FID are measured on test images and fresh latents. ITD goes back as "
        "far as retraining does, damped by .1 where that is the whole run, as the paper says; AID is damped as in the "
        "first experiment, and its M, which the paper does not state, is 1 000, as in its experiment with StyleGAN. No "
        "seed is left out (TNNLS leaves out three of twenty that did not converge). ICLR's tables are those of one "
        "epoch of retraining; its L2 spares biases. Not in the papers: random removal of as many rows of each class as "
        "ITD takes; no removal, the rows' term multiplied by the share that would be kept (a smaller learning rate of "
        "that term); precision, recall, density and coverage (k = 5 neighbours of the classifier's features). At "
        "preset standard: 5 000 rows, 8 channels, as many epochs, four rates, the last epoch only, M = 100, influence "
        "on 2 000 latents, and tests of 1 000."
    ),
    presets={
        "smoke": Preset(SMOKE, seeds=2, as_published=False),
        "standard": Preset(STANDARD, seeds=5, as_published=False),
        "paper": Preset(PUBLISHED, seeds=15, as_published=True),
    },
    quantities=_quantities(),
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
            "As Fig. 2(b-e), drawn as changes: IS at the left (higher is better), FID at the right (lower is better). "
            "Dotted: the controls.",
            draw_changes,
            (10, 7),
        ),
        Drawing(
            "labels",
            "Which classes leave, at the rate that the papers picture, beside those that the generator made before: "
            "shares over those of the training rows. The first seed.",
            draw_labels,
            (10, 3.6),
        ),
        Drawing(
            "images",
            "As Fig. 4 and Table 10 of ICLR: the most harmful and the most helpful training images, and images "
            "generated from the same latents before and after cleansing, those framed that changed class. The first "
            "seed.",
            draw_images,
            (10, 8),
        ),
    ),
    findings=findings,
    files=files,
    prepare=prepare,
    on_digits=on_fewer_digits,
    unnamed=("smoke",),
    recheck={"rates": [0.05], "judged": 0.05},
    recheck_within={"Classifier": 0.02},
)
