"""What the experiments with DCGAN on images share (TNNLS VI-A2, VI-B, C-B2; ICLR 5.1, Tables 2 and 4)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import gan_influence as gi
from reports.experiment import Settings

__all__ = ["FILES", "METRICS", "Factual", "Streams", "factual", "images_digest", "on_digits", "prepare"]

FILES = [f"mnist/{split}-{kind}-ubyte.gz" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
LATENT_SIZE = 32
IMAGE_SIZE = {"mnist": 28, "digits": 8}
METRICS = ("IS", "FID")
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
        indices, latents = self.single(t)
        assert latents is not None
        return gi.Batch(indices, latents.to(self.dtype))


def on_digits(settings: Settings) -> Settings:
    """The same experiment on scikit-learn's 8x8 digits, which need no file."""
    return {**settings, **DIGITS}


def prepare(settings: Settings, seed: int, folder: Path, device: str) -> dict[str, Any]:
    """Fit this seed's classifier to the validation images; it is stored, and fitted once."""
    path = folder / f"seed-{seed}.classifier.pt"
    _, validation, test = _splits(settings, seed)
    if path.exists():
        model = gi.models.load_classifier(path)
    else:
        streams = Streams.of(seed)
        model = gi.models.classifier(IMAGE_SIZE[settings["images"]], seed=streams.classifier)
        model = gi.models.fit_classifier(
            model,
            validation,
            test,
            epochs=settings["classifier_epochs"],
            batch_size=settings["classifier_batch"],
            seed=streams.classifier,
        )
        gi.models.save_classifier(path, model)
    return {"classifier": str(path), "accuracy": model.accuracy}


@lru_cache(maxsize=1)
def _factual(settings_as_text: str, seed: int, classifier: str, device: str, precision: str) -> Factual:
    settings, streams = json.loads(settings_as_text), Streams.of(seed)
    dtype = getattr(torch, precision)
    training, validation, _ = _splits(settings, seed)
    data = training.images.to(dtype)
    model = gi.models.load_classifier(classifier).to(dtype)
    latents = _latents(settings["metric_latents"], streams.metric_latents).to(dtype)
    metrics: dict[str, gi.metrics.Metric] = {}
    for name in settings["metrics"]:
        if name == "IS":
            metrics[name] = gi.metrics.InceptionScore(model, latents, logarithm=True)
        else:
            metrics[name] = gi.metrics.FrechetDistance(model, validation.images.to(dtype), latents)
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
    schedule = Schedule(
        gi.Minibatches(len(data), settings["batch"], (LATENT_SIZE,), streams.schedule, torch.float32), dtype
    )
    trace = gi.train(game, data, schedule, settings["steps"], gi.SGD(settings["lr"]), device=device)
    removed = np.random.default_rng(streams.choice).permutation(len(data))[: settings["removals"]]
    return Factual(trace, metrics, removed.tolist())


def factual(
    settings: Settings, seed: int, prepared: dict[str, Any], device: str, precision: str = "float32"
) -> Factual:
    """The factual run, its metrics, and the rows to remove; a process keeps the last one it trained."""
    return _factual(json.dumps(settings), seed, prepared["classifier"], device, precision)


def images_digest(images: Float[Tensor, "n c h w"]) -> str:
    """SHA-256 of the images' numbers."""
    return hashlib.sha256(images.cpu().numpy().tobytes()).hexdigest()


def _splits(settings: Settings, seed: int) -> tuple[gi.datasets.LabelledImages, ...]:
    """Training, validation and test images. Digits have no test split: what the other two leave is one."""
    sizes = settings["rows"], settings["validation_rows"]
    if settings["images"] == "mnist":
        parts = gi.datasets.split(gi.datasets.mnist("train"), *sizes, seed=Streams.of(seed).split)
        return *parts, gi.datasets.mnist("test")
    digits = gi.datasets.digits()
    rest = len(digits.labels) - sum(sizes)
    return gi.datasets.split(digits, *sizes, rest, seed=Streams.of(seed).split)


def _latents(n: int, seed: int) -> Float[Tensor, "n 32"]:
    """``n`` draws from N(0, I)."""
    return torch.randn(n, LATENT_SIZE, generator=torch.Generator().manual_seed(seed))
