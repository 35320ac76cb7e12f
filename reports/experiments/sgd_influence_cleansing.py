"""Data cleansing with SGD-influence: Hara et al. 2019, Section 7.2, Supplement C.2 and C.3, Figs. 4-12."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

import gan_influence as gi
from gan_influence.adjoint import FieldGraph
from gan_influence.baselines import isolation_forest, random_order
from gan_influence.batch import Inputs
from gan_influence.metrics.metric import measure
from gan_influence.nn import augment
from gan_influence.solvers import Momentum
from reports.experiment import Drawing, Experiment, Preset, Quantity, Settings, Values
from reports.parts.cleansing import (
    Line,
    against,
    as_many_of_each,
    draw_panels,
    if_run,
    listed,
    most_harmful,
    significance,
    table_of_changes,
)
from reports.parts.pictures import as_text, from_text, sheet, with_pictures
from reports.parts.supervised import Once
from reports.shared.provenance import data_digest
from reports.statistics import SEEDS_TO_TELL, bootstrap_interval, compared, p_above, sign_test
from reports.summary import Summary

__all__ = ["SGD_INFLUENCE_CLEANSING"]

ALL, LAST = "Retrain All", "Retrain Last"
ERROR, LOSS, BEFORE = "Misclassification", "Test loss", "Before cleansing"
MEASURES = {ERROR: "misclassified, %", LOSS: "cross-entropy"}
OURS, LAST_EPOCH, KL = "SGD-influence", "SGD-influence of the last epoch", "K&L"
AUTOENCODER, FOREST, RANDOM = "Autoencoder", "Isolation Forest", "Random"
SAME_CLASSES = "Random, as many of each class as SGD-influence"
TWICE, OPPOSITE = "SGD-influence, Hessians divided twice", "K&L, opposite sign"
METHODS = [OURS, LAST_EPOCH, KL, AUTOENCODER, FOREST, RANDOM, SAME_CLASSES, TWICE, OPPOSITE]
BASELINES = [KL, AUTOENCODER, FOREST, RANDOM]
PICTURED = [OURS, AUTOENCODER, FOREST]
STYLES = ("C0o-", "C9s-", "C1o-", "C2o-", "C4o-", "ko-", "k^:", "C0x:", "C1x:")
MNIST = [f"mnist/{split}-{kind}-ubyte.gz" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
IMAGES_AT_ONCE = 100  # of a few models together: what a processor's cache holds
LOWER = -1.0  # what falls improves

PUBLISHED: Settings = {
    "data": ["mnist", "cifar10"],
    "rows": {"mnist": 50_000, "cifar10": 40_000},
    "validation_rows": 10_000,
    "test_rows": 10_000,
    "epochs": 20,
    "batch": 64,
    "lr": 0.05,
    "memory": "checkpoint",
    "strategies": [LAST, ALL],
    "counts": [1, 3, 6, 10, 30, 60, 100, 300, 600, 1000, 3000, 6000, 10_000],
    "descent": {"batch": 1000, "steps": 100, "rate": 0.005, "momentum": 0.9},
    "autoencoder": {"batch": 128, "epochs": 20, "lr": 1e-3},
    "forest_passes": 20,
    "shown": 100,
    "models_at_once": 30,
    "pictured_seeds": 1,
    "pictured": 20,
}
STANDARD: Settings = {
    **PUBLISHED,
    "data": ["mnist"],
    "rows": {"mnist": 1000},
    "validation_rows": 1000,
    "test_rows": 2000,
    "epochs": 5,
    "batch": 16,
    "memory": "full",
    "counts": [10, 50, 150],
    "descent": {**PUBLISHED["descent"], "batch": 50},
    "autoencoder": {**PUBLISHED["autoencoder"], "epochs": 5},
    "forest_passes": 5,
    "shown": 50,
    "models_at_once": 9,
}


def on_few_digits(settings: Settings) -> Settings:
    """On scikit-learn's digits, which need no file."""
    return {**settings, **DIGITS}


DIGITS: Settings = {"data": ["digits"], "rows": {"digits": 600}, "validation_rows": 400, "test_rows": 200}
SMOKE: Settings = {
    **on_few_digits(STANDARD),
    "rows": {"digits": 100},
    "epochs": 2,
    "batch": 20,
    "counts": [5, 20],
    "descent": {**PUBLISHED["descent"], "batch": 50, "steps": 10},
    "autoencoder": {**PUBLISHED["autoencoder"], "batch": 50, "epochs": 1},
    "forest_passes": 1,
    "shown": 20,
    "pictured": 9,
}


class Images(NamedTuple):
    """A data set of the experiment, and what depends on it.

    Attributes:
        name: as tables have it.
        read: the whole of it, training and test rows.
        shift: by how many pixels at most images are shifted.
        flips: are they flipped?
        model: the classifier, given a seed.
        damping: of K&L.
        files: that hold it.
    """

    name: str
    read: Callable[[], tuple[gi.datasets.LabelledImages, gi.datasets.LabelledImages | None]]
    shift: int
    flips: bool
    model: Callable[..., nn.Module]
    damping: float
    files: Sequence[str]


def enlarged_digits() -> tuple[gi.datasets.LabelledImages, None]:
    """Digits of 8 pixels, each of 3 x 3, with a border: 28 pixels."""
    images, labels = gi.datasets.digits()
    large = images.repeat_interleave(3, 2).repeat_interleave(3, 3)
    return gi.datasets.LabelledImages(pad(large, (2, 2, 2, 2), value=-1.0), labels), None


def mnist() -> tuple[gi.datasets.LabelledImages, gi.datasets.LabelledImages]:
    return gi.datasets.mnist("train"), gi.datasets.mnist("test")


def cifar10() -> tuple[gi.datasets.LabelledImages, gi.datasets.LabelledImages]:
    return gi.datasets.cifar10("train"), gi.datasets.cifar10("test")


CIFAR10 = ["cifar10/train.npz", "cifar10/test.npz"]
DATA = {
    "mnist": Images("MNIST", mnist, 2, False, gi.models.mnist_cnn, 0.1, MNIST),
    "cifar10": Images("CIFAR10", cifar10, 4, True, gi.models.cifar_cnn, 10.0, CIFAR10),
    "digits": Images("digits", enlarged_digits, 2, False, gi.models.mnist_cnn, 0.1, []),
}


def files(settings: Settings, seeds: Sequence[int]) -> list[str]:
    return [file for data in settings["data"] for file in DATA[data].files]


def units(settings: Settings) -> list[str]:
    return list(settings["data"])


def rows(settings: Settings) -> list[str]:
    return METHODS


def columns(settings: Settings) -> list[str]:
    return [str(count) for count in settings["counts"]]


class Streams(NamedTuple):
    """The seeds of one repetition's random streams."""

    split: int
    model: int
    schedule: int
    descent: int
    autoencoder: int
    forest: int
    choice: int

    @classmethod
    def of(cls, seed: int) -> Streams:
        return cls(*(int(state) for state in np.random.SeedSequence(seed).generate_state(len(cls._fields))))


def splits(settings: Settings, seed: int, data: str) -> tuple[gi.datasets.LabelledImages, ...]:
    """Training, validation and test images. Digits have no test split: what the other two leave is one."""
    pool, test = DATA[data].read()
    sizes = [settings["rows"][data], settings["validation_rows"]]
    if test is None:
        return gi.datasets.split(pool, *sizes, settings["test_rows"], seed=Streams.of(seed).split)
    test = gi.datasets.LabelledImages(*(part[: settings["test_rows"]] for part in test))
    return *gi.datasets.split(pool, *sizes, seed=Streams.of(seed).split), test


def augmented(images: Float[Tensor, "n c h w"], noise: Float[Tensor, "n k"], shift: int) -> Float[Tensor, "n c h w"]:
    """A crop of the image with ``shift`` black pixels around it; flipped or not by the third number, where there is."""
    moved = augment.translation(images + 1, noise[:, :2], shift / images.shape[-1]) - 1
    return augment.flip(moved, noise[:, 2:]) if noise.shape[1] > 2 else moved


@dataclass(frozen=True)
class Augmented:
    """What a row costs: ``loss(outputs, image, label)`` of its image, augmented where the batch has draws for that."""

    shift: int
    loss: Callable[[Tensor, Tensor, Tensor], Float[Tensor, " rows"]]

    def __call__(self, players: gi.Players, batch: Inputs) -> gi.Costs:
        images, labels = batch.rows
        seen = images if batch.noise is None else augmented(images, batch.noise, self.shift)
        return gi.Costs(rows={"model": self.loss(players.model(seen), seen, labels)})


def classified(logits: Tensor, _: Tensor, labels: Tensor) -> Float[Tensor, " rows"]:
    return cross_entropy(logits, labels, reduction="none")


def reconstructed(outputs: Tensor, images: Tensor, _: Tensor) -> Float[Tensor, " rows"]:
    return (outputs - images).square().flatten(1).mean(1)


def drawn(data: str, rng: np.random.Generator, n: int) -> Float[np.ndarray, "n k"]:
    return rng.random((n, 2 + DATA[data].flips))


@dataclass(frozen=True)
class Continued:
    """The run's own batches up to its end, then larger ones, for K&L's descent."""

    training: gi.Minibatches
    steps: int
    descent: gi.Minibatches

    def __call__(self, t: int) -> gi.Batch:
        return self.training(t) if t < self.steps else self.descent(t - self.steps)


@dataclass(frozen=True)
class Judge:
    """Of test images, how many in a hundred are misclassified, and the mean cross-entropy."""

    images: Float[Tensor, "n c h w"]
    labels: Int[Tensor, " n"]

    def value(self, players: gi.Players) -> Float[Tensor, " 2"]:
        logits = torch.cat([players.model(part) for part in self.images.split(IMAGES_AT_ONCE)]).double()
        wrong = logits.argmax(1) != self.labels
        return torch.stack([100 * wrong.double().mean(), cross_entropy(logits, self.labels)])


@dataclass(frozen=True)
class Run:
    """A factual run, and what it takes to score its rows and to judge it.

    Attributes:
        data: whose rows.
        streams: of the seed.
        trace: the run.
        metric: the mean cross-entropy of the validation rows.
        training, validation: images and labels.
        judge: of test images.
    """

    data: str
    streams: Streams
    trace: gi.Trace
    metric: gi.metrics.AverageLoss
    training: gi.datasets.LabelledImages
    validation: gi.datasets.LabelledImages
    judge: Judge

    @classmethod
    def of(cls, settings: Settings, seed: int, data: str, device: str) -> Run:
        streams, about, draw = Streams.of(seed), DATA[data], partial(drawn, data)
        training, validation, test = splits(settings, seed, data)
        size = len(training.images)
        larger = min(settings["descent"]["batch"], size)
        schedule = gi.Minibatches(size, settings["batch"], seed=streams.schedule, noise=draw)
        steps = settings["epochs"] * schedule.steps_per_epoch
        model, cost = about.model(seed=streams.model), Augmented(about.shift, classified)
        trace = gi.train(
            gi.Game(players={"model": model}, cost=cost, rows_interact=data == "cifar10"),
            tuple(training),
            Continued(schedule, steps, gi.Minibatches(size, larger, seed=streams.descent, noise=draw)),
            steps,
            gi.SGD(lr=settings["lr"]),
            average_buffers="copy",  # metrics see BatchNorm's running statistics, scores leave them out
            memory=settings["memory"],
            device=device,
        )
        judge = Judge(*(part.to(device) for part in test))
        return cls(data, streams, trace, gi.metrics.AverageLoss(*validation), training, validation, judge)


def steps_per_epoch(settings: Settings, data: str) -> int:
    return -(-settings["rows"][data] // settings["batch"])


def harm(settings: Settings, run: Run) -> dict[str, Float[Tensor, " N"]]:
    """How each method orders the rows, what is to leave first highest; of K&L nothing where its descent diverges."""
    epoch = steps_per_epoch(settings, run.data)
    scores = {
        OURS: gi.itd(run.trace, run.metric),
        LAST_EPOCH: gi.itd(run.trace, run.metric, last=epoch),
        TWICE: hessians_divided_twice(run.trace, run.metric, settings["lr"]),
    }
    found = {name: gi.harmfulness(own, run.metric) for name, own in scores.items()}
    options = {name: value for name, value in settings["descent"].items() if name != "batch"}
    solver = Once(Momentum(**options, start="zero", minibatches=True))
    try:
        of_kl = gi.aid(run.trace, run.metric, damping=DATA[run.data].damping, solver=solver)
        found[KL] = gi.harmfulness(of_kl, run.metric)
        found[OPPOSITE] = -found[KL]
    except gi.ConvergenceError:
        pass  # as the authors drop such runs; its cells stay empty
    found[AUTOENCODER] = by_autoencoder(settings, run)
    found[FOREST] = by_forest(settings, run)
    found[RANDOM] = -random_order(run.trace.size, run.streams.choice)
    return {name: own.double().cpu() for name, own in found.items()}


def hessians_divided_twice(trace: gi.Trace, metric: Any, lr: float) -> Float[Tensor, " N"]:
    """SGD-influence as the published code of section 7.2 has it, in whose sweep H, a mean, is divided once more::

    score_j += (eta / |S_t|) <grad l_j(theta_t), u>,   u <- u - (eta / |S_t|) H_t u
    """
    end = trace.theta().requires_grad_()
    (u,) = torch.autograd.grad(metric.value(gi.Players(trace.game, end, trace.held(), mode="eval")), end)
    scores = torch.zeros(trace.size, dtype=torch.float64, device=u.device)
    for t in reversed(range(trace.steps)):
        state, batch = trace.state(t), trace.inputs(t)
        hessian_u, of_rows = FieldGraph(trace.game, state.moving[0], batch, state.held).both(u)
        batch.add_to_rows(scores, lr * of_rows)
        u = u - lr / len(of_rows) * hessian_u
    return scores


def by_autoencoder(settings: Settings, run: Run) -> Float[Tensor, " N"]:
    """The squared error of reconstruction by an autoencoder that is fitted to the validation images, augmented."""
    how, (images, labels) = settings["autoencoder"], run.validation
    batches = gi.Minibatches(len(labels), how["batch"], seed=run.streams.autoencoder, noise=partial(drawn, run.data))
    fitted = gi.train(
        gi.Game(
            players={"model": gi.models.autoencoder(images.shape[1], seed=run.streams.autoencoder)},
            cost=Augmented(DATA[run.data].shift, reconstructed),
        ),
        (images, labels),
        batches,
        how["epochs"] * batches.steps_per_epoch,
        gi.Adam(how["lr"]),
        memory="checkpoint",
        device=run.trace.weights.device,
    )
    rebuilt = of_parts(fitted.module("model"), run.training.images)
    return (rebuilt - run.training.images.to(rebuilt)).square().flatten(1).sum(1)


def by_forest(settings: Settings, run: Run) -> Float[Tensor, " N"]:
    """How abnormal the classifier's last hidden numbers are to an isolation forest of those of augmented validation
    images."""
    model, rng = run.trace.module("model").eval(), np.random.default_rng(run.streams.forest)
    assert isinstance(model, nn.Sequential)
    images, shift = run.validation.images, DATA[run.data].shift
    healthy = [
        of_parts(model[:-1], augmented(images, torch.from_numpy(drawn(run.data, rng, len(images))), shift))
        for _ in range(settings["forest_passes"])
    ]
    return -isolation_forest(of_parts(model[:-1], run.training.images), run.streams.forest, torch.cat(healthy))


def of_parts(module: nn.Module, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n *outputs"]:
    """1 000 images at a time."""
    device = next(module.parameters()).device
    with torch.no_grad():
        return torch.cat([module(part.to(device)) for part in images.split(1000)])


def run_unit(settings: Settings, seed: int, unit: str, device: str) -> dict[str, Any]:
    run = Run.of(settings, seed, unit, device)
    of_methods = harm(settings, run)
    removed = removals(settings, run, of_methods)
    record: dict[str, Any] = {
        "data": data_digest(run.trace),
        "before": measure(run.judge, run.trace).tolist(),
        "changes": {strategy: changes(settings, run, removed, strategy) for strategy in settings["strategies"]},
    }
    if seed < settings["pictured_seeds"]:
        first = {name: of_methods[name].argsort(descending=True, stable=True) for name in PICTURED}
        images = run.training.images
        record["pictures"] = {unit: {name: as_text(images[own[: settings["pictured"]]]) for name, own in first.items()}}
    return record


def removals(
    settings: Settings, run: Run, of_methods: dict[str, Float[Tensor, " N"]]
) -> dict[str, list[Int[Tensor, " m"]]]:
    """The rows that leave for each number of them, by method; the control on classes follows SGD-influence."""
    rates = [count / run.trace.size for count in settings["counts"]]
    removed = {name: most_harmful(own, rates) for name, own in of_methods.items()}
    of_each = partial(as_many_of_each, run.training.labels, seed=run.streams.choice)
    return {**removed, SAME_CLASSES: [of_each(taken) for taken in removed[OURS]]}


def changes(
    settings: Settings, run: Run, removed: dict[str, list[Int[Tensor, " m"]]], strategy: str
) -> dict[str, list[list[float]]]:
    """Of each method, by how much each measure changes with each number of rows removed."""
    last = steps_per_epoch(settings, run.data) if strategy == LAST else None
    sets = [taken.tolist() for own in removed.values() for taken in own]
    found = gi.counterfactual(run.trace, run.judge, sets, last, chunk=settings["models_at_once"])
    of_methods = found.reshape(len(MEASURES), len(removed), -1).unbind(1)
    return {name: own.tolist() for name, own in zip(removed, of_methods, strict=True)}


def table(measure_: str, data: str, strategy: str) -> str:
    return f"{measure_}, {DATA[data].name}, {strategy}"


def combine(settings: Settings, records: dict[str, dict[str, Any]]) -> Values:
    """A table a measure, data set and strategy."""
    values: Values = {BEFORE: {}}
    nothing = [dict.fromkeys(columns(settings))] * len(MEASURES)
    for data, record in records.items():
        values[BEFORE][DATA[data].name] = dict(zip(MEASURES.values(), record["before"], strict=True))
        for strategy, changed in record["changes"].items():
            lines = {
                name: [dict(zip(columns(settings), own, strict=True)) for own in changed[name]] for name in changed
            }
            for k, measure_ in enumerate(MEASURES):
                values[table(measure_, data, strategy)] = {name: lines.get(name, nothing)[k] for name in METHODS}
    return values


def draw(figure: Any, summary: Summary) -> None:
    """As Figs. 6 and 8, drawn as changes: a line of panels a strategy."""

    def lines(measure_: str, data: str, strategy: str) -> list[Line]:
        own = table(measure_, data, strategy)
        return [Line(own, name, style, name) for name, style in zip(METHODS, STYLES, strict=True)]

    labels = {ERROR: "change of error, points", LOSS: "change of test loss"}
    panels = {
        f"{DATA[data].name}, {label}": partial(lines, measure_, data)
        for data in summary.settings["data"]
        for measure_, label in labels.items()
    }
    draw_panels(figure, summary, panels, "counts")


def draw_images(figure: Any, summary: Summary) -> None:
    """As Figs. 11 and 12: a line a data set."""
    if not (runs := with_pictures(summary, figure)):
        return
    pictures = runs[0]["pictures"]
    for line, (data, found) in zip(
        figure.subplots(len(pictures), len(PICTURED), squeeze=False), pictures.items(), strict=True
    ):
        for axes, name in zip(line, PICTURED, strict=True):
            sheet(axes, from_text(found[name]))
            axes.set_title(f"{DATA[data].name}: {name}", fontsize=9)
            axes.set_xticks([])
            axes.set_yticks([])


def findings(summary: Summary) -> list[str]:
    """What the numbers say of the paper's claims, and of its code's faults."""
    found = [before(summary)]
    for data in summary.settings["data"]:
        for strategy in summary.settings["strategies"]:
            where = f"{DATA[data].name}, {strategy}"
            own = table(ERROR, data, strategy)
            found.append(f"{where}: {order(summary, own)}")
            found += [f"{where}: {sentence}" for sentence in claims(summary, own) if sentence]
    return found


def before(summary: Summary) -> str:
    parts = [
        f"{name} {summary.mean(BEFORE, name, MEASURES[ERROR]) or 0.0:.2f} % "
        f"(cross-entropy {summary.mean(BEFORE, name, MEASURES[LOSS]) or 0.0:.3f})"
        for name in data_sets(summary.settings)
    ]
    return f"Misclassified before cleansing, mean over seeds: {', '.join(parts)}."


def order(summary: Summary, own: str) -> str:
    """Who changes the misclassification rate how much, the best first."""
    at = str(summary.settings["shown"])
    means = {name: mean for name in METHODS if (mean := summary.mean(own, name, at)) is not None}
    ranked = ", ".join(f"{name} {means[name]:+.2f}" for name in sorted(means, key=means.__getitem__))
    return f"change of misclassification in percentage points without {at} rows: {ranked}."


def claims(summary: Summary, own: str) -> list[str]:
    """Each claim of the paper, then what its code's two faults change."""
    at = str(summary.settings["shown"])
    opponents = [(own, name, name) for name in (*BASELINES, SAME_CLASSES, TWICE)]
    return [
        improves(summary, own),
        better(summary, own, at),
        suffices(summary, own, at),
        significance(summary, own, METHODS, LOWER),
        *against(summary, (own, OURS, OURS), opponents, at, LOWER),
        *against(summary, (own, KL, f"{KL} of the paper's sign"), [(own, OPPOSITE, OPPOSITE)], at, LOWER),
    ]


def improves(summary: Summary, own: str) -> str:
    """The claim of significance as the paper tests it: a t-test a number of rows, at .05, uncorrected."""
    if len(summary.runs) < SEEDS_TO_TELL:
        return ""

    def significant(name: str) -> list[str]:
        of_columns = {at: [-value for value in summary.values(own, name, at)] for at in summary.columns}
        return [at for at, values in of_columns.items() if values and (p_above(values) or 0.0) < 0.05]

    at = str(summary.settings["shown"])
    values = [-value for value in summary.values(own, OURS, at)]
    fell, p = sign_test(values)
    others = [f"{name} at {', '.join(found)}" for name in BASELINES if (found := significant(name))]
    return (
        f"significant improvement of the misclassification rate, by uncorrected one-sided t-tests: {OURS} at "
        f"{listed(significant(OURS))}, that of the last epoch at {listed(significant(LAST_EPOCH))} (the paper: on "
        f"MNIST from 10 to 100, on CIFAR10 from 100 to 1000 rows); baselines: {'; '.join(others) or 'none'} (the "
        f"paper: none). Without {at} rows it falls in {fell} of {len(values)} runs (sign test p = {p:.2g})."
    )


def better(summary: Summary, own: str, at: str) -> str:
    """Is SGD-influence better than the four baselines, by means and by intervals?"""
    told = {
        name: bootstrap_interval([other - mine for mine, other in pairs])
        for name in BASELINES
        if (pairs := paired(summary, own, OURS, name, at)) and len(pairs) >= SEEDS_TO_TELL
    }
    if not told:
        return ""
    behind = [name for name in told if (summary.mean(own, name, at) or 0.0) <= (summary.mean(own, OURS, at) or 0.0)]
    clear = [name for name, (low, _) in told.items() if low > 0]
    if behind:
        verdict = f"not confirmed against {', '.join(behind)}"
    else:
        verdict = "confirmed" if len(clear) == len(told) else "confirmed of the means"
    return (
        f"the claim that {OURS} cleanses better than {', '.join(BASELINES)} is {verdict}: without {at} rows the "
        f"bootstrap interval of its lead is clear of 0 against {listed(clear)}."
    )


def suffices(summary: Summary, own: str, at: str) -> str:
    """Does retracing the last epoch alone do as well?"""
    pairs = paired(summary, own, LAST_EPOCH, OURS, at)
    pair = compared(*map(list, zip(*pairs, strict=True))) if len(pairs) >= SEEDS_TO_TELL else None
    if pair is None:
        return ""
    if pair.low > 0:
        verdict = "is not confirmed: all epochs do better"
    else:
        verdict = "stands: the last epoch alone does better" if pair.high < 0 else "is not contradicted"
    return (
        f"the claim that the last epoch suffices {verdict}; without {at} rows the error is {pair.difference:+.2f} "
        f"[{pair.low:+.2f}, {pair.high:+.2f}] points higher than with scores of all epochs."
    )


def paired(summary: Summary, own: str, one: str, other: str, at: str) -> list[tuple[float, float]]:
    """Both methods' values of every seed that has both."""
    found = [(run["values"][own][one][at], run["values"][own][other][at]) for run in summary.runs]
    return [pair for pair in found if None not in pair]


def data_sets(settings: Settings) -> list[str]:
    return [DATA[data].name for data in settings["data"]]


def _quantities() -> tuple[Quantity, ...]:
    found = []
    for data, about in DATA.items():
        for strategy in (LAST, ALL):
            for measure_, unit in zip(MEASURES, ("percentage points", "cross-entropy"), strict=True):
                whole = f"Change on test images of {about.name} after removing rows, {strategy}, in {unit}"
                own_rows = partial(_rows_of, data, if_run(strategy, METHODS))
                decimals = 2 if measure_ == ERROR else 4
                found.append(table_of_changes(table(measure_, data, strategy), whole, own_rows, decimals=decimals))
    found.append(
        table_of_changes(
            BEFORE,
            "Before cleansing, on test images",
            data_sets,
            decimals=3,
            signed=False,
            columns=lambda settings: list(MEASURES.values()),
            column_heading="measure",
        )
    )
    return tuple(found)


def _rows_of(data: str, of_strategy: Callable[[Settings], list[str]], settings: Settings) -> list[str]:
    return of_strategy(settings) if data in settings["data"] else []


SGD_INFLUENCE_CLEANSING = Experiment(
    name="sgd-influence-cleansing",
    title="Data cleansing with SGD-influence",
    source="NeurIPS 2019, Section 7.2, Supplement C.2 and C.3, Figs. 6-12 (which print no numbers)",
    description=(
        "A CNN is trained by SGD (20 epochs, batch 64, learning rate 0.05) on 50 000 digits of MNIST, or 40 000 images "
        "of CIFAR10, each shifted (and on CIFAR10 flipped) at random in every step. Methods order the training rows; "
        "the first m are removed, and all epochs (Retrain All) or the last (Retrain Last) are trained again with the "
        "same batches, shifts and denominators. Tables have the change of misclassification and cross-entropy of test "
        "images. SGD-influence is ITD of the mean cross-entropy of 10 000 held-out rows, through all epochs or the "
        "last; K&L is AID, solved as in the paper: 100 steps of descent with momentum (rate 0.005, 0.9, batches of "
        "1 000 augmented rows, from 0), damping 0.1, on CIFAR10 10; rows' gradients are of images shifted as in the "
        "run's last steps. The autoencoder is fitted to the held-out rows, the isolation forest to the CNN's features "
        "of 20 augmented copies of them. Not in the paper: random rows, as many of each class as SGD-influence takes; "
        "and two methods as the published code has them by mistake: SGD-influence whose Hessian term is divided by the "
        "batch size twice, and K&L with the opposite sign, which removes helpful rows. Images of CIFAR10 are in "
        "[-1, 1]. Its BatchNorm is in training mode throughout, and a removed row stays in the others' statistics. At "
        "preset standard: MNIST alone, 1 000 training rows, 1 000 held-out and 2 000 test rows, 5 epochs (of the "
        "autoencoder too), batch 16, K&L with batches of 50, 5 augmented copies; smoke: scikit-learn's digits, "
        "enlarged. Preset paper is made for a GPU, and has not been run."
    ),
    presets={
        "smoke": Preset(SMOKE, seeds=1, as_published=False),
        "standard": Preset(STANDARD, seeds=5, as_published=False),
        "paper": Preset(PUBLISHED, seeds=30, as_published=True),
    },
    quantities=_quantities(),
    rows=rows,
    columns=columns,
    row_heading="Method",
    column_heading="m",
    units=units,
    run_unit=run_unit,
    combine=combine,
    figures=(
        Drawing(
            "figure",
            "As Figs. 6 and 8, drawn as changes against the number of removed rows (lower is better): means over "
            "seeds. Dotted: the control and the two faults of the published code.",
            draw,
            (11, 8),
        ),
        Drawing(
            "images",
            "As Figs. 11 and 12: the rows that leave first, of the first seed.",
            draw_images,
            (10, 3.8),
        ),
    ),
    findings=findings,
    files=files,
    on_digits=on_few_digits,
    unnamed=("smoke",),
    recheck={"strategies": [LAST], "counts": [50]},
)
