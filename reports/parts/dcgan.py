"""What the experiments with DCGAN on images share (TNNLS VI-A2, VI-B, C-B2; ICLR 5.1, Tables 2 and 4)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import gan_influence as gi
from gan_influence.history import digest
from reports.experiment import Quantity, Settings
from reports.parts.agreement import ERROR, relative_error
from reports.parts.curves import LINE, along, times
from reports.shared.store import usable
from reports.summary import Summary

__all__ = [
    "CLASSIFIER",
    "FLOOR",
    "NOISE_FLOOR",
    "PUBLISHED",
    "Factual",
    "Streams",
    "above_published",
    "draw_errors",
    "factual",
    "files",
    "latents_of",
    "metric_rows",
    "metrics_on",
    "noise_floor",
    "number_of_parts",
    "on_digits",
    "part_of",
    "prepare",
    "read_trace",
    "rounding",
    "splits",
    "tau_left_by",
    "trained",
]

FLOOR = "Noise floor"
FILES = [f"mnist/{split}-{kind}-ubyte.gz" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
LATENT_SIZE = 32
IMAGE_SIZE = {"mnist": 28, "digits": 8}
PUBLISHED: Settings = {
    "images": "mnist",
    "rows": 10_000,
    "validation_rows": 10_000,
    "metric_latents": 10_000,
    "metrics": ["IS", "FID"],
    "classifier_epochs": 50,
    "classifier_batch": 128,
    "channels": 8,
    "batch": 100,
    "lr": 1e-3,
    "l2": 1e-3,
}
DIGITS: Settings = {
    "images": "digits",
    "rows": 900,
    "validation_rows": 800,
    "metric_latents": 500,
    "classifier_epochs": 20,
    "classifier_batch": 32,
}


class Streams(NamedTuple):
    """The seeds of one repetition's random streams: every draw has one of its own."""

    split: int
    classifier: int
    players: int
    schedule: int
    metric_latents: int
    choice: int
    test_latents: int

    @classmethod
    def of(cls, seed: int) -> Streams:
        return cls(*(int(state) for state in np.random.SeedSequence(seed).generate_state(len(cls._fields))))


class Factual(NamedTuple):
    """One seed's run and what is measured of it."""

    trace: gi.Trace
    metrics: dict[str, gi.metrics.Metric]
    removed: list[int]


@dataclass(frozen=True)
class Schedule:
    """The very latents of the run in float32, whatever the precision: only its arithmetic is to differ."""

    single: gi.Minibatches
    dtype: torch.dtype

    def __call__(self, t: int) -> gi.Batch:
        indices, latents, _ = self.single(t)
        assert latents is not None
        return gi.Batch(indices, latents.to(self.dtype))


def on_digits(settings: Settings) -> Settings:
    """The same experiment on scikit-learn's 8x8 digits, which need no file."""
    return {**settings, **DIGITS}


def files(settings: Settings, seeds: Sequence[int]) -> list[str]:
    """The data files: MNIST's, and none for digits."""
    return FILES if settings["images"] == "mnist" else []


def prepare(settings: Settings, seed: int, folder: Path, device: str) -> dict[str, Any]:
    """Fit this seed's classifier to the validation images; it is stored, and fitted once."""
    path = folder / f"seed-{seed}.classifier.pt"
    model = usable(path, gi.models.load_classifier, "the classifier is fitted again")
    if model is None:
        streams = Streams.of(seed)
        _, validation, test = splits(settings, seed)
        model = gi.models.fit_classifier(
            gi.models.classifier(IMAGE_SIZE[settings["images"]], seed=streams.classifier),
            validation,
            test,
            epochs=settings["classifier_epochs"],
            batch_size=settings["classifier_batch"],
            seed=streams.classifier,
        )
        gi.models.save_classifier(path, model)
    return {"classifier": str(path), "accuracy": model.accuracy, "digest": digest(*model.state_dict().values())}


@lru_cache(maxsize=1)
def _factual(settings_as_text: str, seed: int, classifier: str, device: str, precision: str) -> Factual:
    settings, streams = json.loads(settings_as_text), Streams.of(seed)
    dtype = getattr(torch, precision)
    training, validation, _ = splits(settings, seed)
    model = gi.models.load_classifier(classifier)
    latents = latents_of(settings["metric_latents"], streams.metric_latents)
    metrics = metrics_on(model, validation.images, latents, logarithm=True, dtype=dtype)
    trace = trained(settings, seed, training.images, device, dtype)
    removed = np.random.default_rng(streams.choice).permutation(trace.size)[: settings["removals"]]
    return Factual(trace, {name: metrics[name] for name in settings["metrics"]}, removed.tolist())


def metrics_on(
    model: gi.models.Classifier,
    reference: Float[Tensor, "n 1 h w"],
    latents: Float[Tensor, "K 32"],
    *,
    logarithm: bool = False,
    dtype: torch.dtype = torch.float32,
) -> dict[str, gi.metrics.Metric]:
    """IS and FID of images made from these latents, FID from the reference, by one classifier."""
    model, latents = model.to(dtype), latents.to(dtype)
    return {
        "IS": gi.metrics.InceptionScore(model, latents, logarithm=logarithm),
        "FID": gi.metrics.FrechetDistance(model, reference.to(dtype), latents),
    }


def trained(
    settings: Settings,
    seed: int,
    images: Float[Tensor, "N 1 h w"],
    device: str,
    dtype: torch.dtype = torch.float32,
    memory: str = "full",
) -> gi.Trace:
    """The factual run: minibatch SGD with the non-saturating loss and L2 (TNNLS C-B2)."""
    game, data, schedule, rate = _run(settings, seed, images, dtype)
    return gi.train(game, data, schedule, settings["steps"], rate, memory=memory, device=device)


def read_trace(path: str, settings: Settings, seed: int, images: Float[Tensor, "N 1 h w"], device: str) -> gi.Trace:
    """A run of :func:`trained` in float32 that was saved there."""
    return gi.load_trace(path, *_run(settings, seed, images, torch.float32), device=device)


def _run(
    settings: Settings, seed: int, images: Float[Tensor, "N 1 h w"], dtype: torch.dtype
) -> tuple[gi.Game, Tensor, Schedule, gi.SGD]:
    """What makes the run, as ``gi.train`` takes it: the game at its start, rows, schedule and optimiser."""
    streams = Streams.of(seed)
    generator, discriminator = gi.models.dcgan(
        settings["channels"], IMAGE_SIZE[settings["images"]], latent_size=LATENT_SIZE, seed=streams.players
    )
    game = gi.Game(
        generator.to(dtype),
        discriminator.to(dtype),
        loss="non_saturating",
        l2=(settings["l2"], settings["l2"]),
        l2_of=settings["l2_of"],
    )
    minibatches = gi.Minibatches(len(images), settings["batch"], (LATENT_SIZE,), streams.schedule, torch.float32)
    return game, images.to(dtype), Schedule(minibatches, dtype), gi.SGD(settings["lr"])


def factual(
    settings: Settings, seed: int, prepared: dict[str, Any], device: str, precision: str = "float32"
) -> Factual:
    """The factual run, its metrics, and the rows to remove; a process keeps the last one it trained."""
    return _factual(json.dumps(settings), seed, prepared["classifier"], device, precision)


def splits(settings: Settings, seed: int) -> tuple[gi.datasets.LabelledImages, ...]:
    """Training, validation and test images. Digits have no test split: what the other two leave is one."""
    sizes = settings["rows"], settings["validation_rows"]
    if settings["images"] == "mnist":
        parts = gi.datasets.split(gi.datasets.mnist("train"), *sizes, seed=Streams.of(seed).split)
        return *parts, gi.datasets.mnist("test")
    digits = gi.datasets.digits()
    rest = len(digits.labels) - sum(sizes)
    return gi.datasets.split(digits, *sizes, rest, seed=Streams.of(seed).split)


def latents_of(n: int, seed: int) -> Float[Tensor, "n 32"]:
    """``n`` draws from N(0, I)."""
    return torch.randn(n, LATENT_SIZE, generator=torch.Generator().manual_seed(seed))


def number_of_parts(settings: Settings) -> int:
    """In how many units of work the removals are retrained."""
    return -(-settings["removals"] // settings["per_unit"])


def part_of(settings: Settings, removed: list[int], part: int) -> list[int]:
    """The removals that one of these units retrains."""
    return removed[part * settings["per_unit"] : (part + 1) * settings["per_unit"]]


def metric_rows(settings: Settings) -> list[str]:
    return list(settings["metrics"])


def noise_floor(single: Float[np.ndarray, " R"], double: Float[np.ndarray, " doubles"]) -> float | None:
    """``|float32 - float64| / |float64|`` over the first rows, which are retrained in both."""
    return relative_error(single[: len(double)], double)


NOISE_FLOOR = Quantity(
    FLOOR,
    "Noise floor of the truth, |float32 - float64| / |float64| over the rows retrained in both: mean over seeds; not "
    "in the paper",
    decimals=None,
    rows=metric_rows,
)
CLASSIFIER = Quantity(
    "Classifier",
    "Accuracy of the classifier on test images: mean over seeds",
    decimals=4,
    rows=lambda settings: ["accuracy"],
    columns=lambda settings: ["test images"],
    column_heading="measured on",
)


def tau_left_by(noise: float) -> float:
    """Kendall's tau between a normal variable and itself plus independent normal noise of ``noise`` times its size.

    They correlate by ``rho = 1 / sqrt(1 + noise^2)``, and tau of two normal variables is ``2/pi asin(rho)``.
    """
    return 2 / np.pi * float(np.arcsin(1 / np.hypot(1, noise)))


def rounding(summary: Summary) -> list[str]:
    """What rounding does to the truth, at its least and at its most."""
    heading = summary.experiment.column_heading
    floors = [
        (value, f"{name}, {heading} = {column}")
        for name in metric_rows(summary.settings)
        for column in summary.columns
        if (value := summary.mean(FLOOR, name, column)) is not None
    ]
    if not floors:
        return []
    (low, at_low), (high, at_high) = min(floors), max(floors)
    return [
        "What rounding does to the truth: retraining in float32 and in float64 gives influences that differ by "
        f"{low:.1e} ({at_low}) to {high:.1e} ({at_high}) of their size. ITD is not to be judged by anything below "
        f"that; but rounding of the larger size alone would leave a tau of about {tau_left_by(high):.3f} (influences "
        "and rounding taken as normal and independent)."
    ]


def above_published(summary: Summary, table: str, row: str) -> str:
    """The columns where the mean is clearly above the published one, with both; nothing if there are none."""
    if not summary.comparable:
        return ""
    heading, above = summary.experiment.column_heading, []
    for column in summary.columns:
        ours, published = summary.mean(table, row, column), summary.published_mean(table, row, column)
        if ours is not None and published is not None and ours > published + 0.02:
            above.append(f"{ours:.3f} at {heading} = {column} ({published:g})")
    return ", ".join(above)


def draw_errors(axes: Any, summary: Summary, rows: dict[str, str]) -> None:
    """The error of ITD's values, ``rows[metric]``, and how much of it is rounding in the truth, as in their tables."""
    for index, (name, row) in enumerate(rows.items()):
        errors, floors = along(summary, summary.median, ERROR, row), along(summary, summary.mean, FLOOR, name)
        axes.plot(times(summary), errors, "o-", color=f"C{index}", label=f"ITD's error, {name}", **LINE)
        axes.plot(times(summary), floors, "s--", color=f"C{index}", label=f"rounding of the truth, {name}", **LINE)
    axes.set_yscale("log")
    axes.set_ylabel("relative to the truth")
    axes.legend(fontsize=7.5, frameon=False)
