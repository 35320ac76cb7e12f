"""A StyleGAN that is pretrained on dogs and fine-tuned on cats through adapters: TNNLS VI-A3 at a size that runs here.

And, with files of one's own, at the paper's: see :data:`PUBLISHED`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

import gan_influence as gi
from gan_influence.history import Folder, digest
from reports.experiment import Settings
from reports.shared.data import CHECKPOINT, FEATURES, IMAGES, OPTIONS, located
from reports.shared.store import usable
from reports.shared.stylegan import BATCH, OPTIMIZERS, adapted, evaluation_latents, fine_tuned, game_of, read_run

__all__ = [
    "DIGITS",
    "PUBLISHED",
    "SMALL",
    "Cats",
    "Streams",
    "cats",
    "files",
    "on_digits",
    "prepare",
    "steps_per_epoch",
]

PUBLISHED: Settings = {
    "images": "folder",  # of one's own, as are the checkpoint and what FID compares
    "model": "stylegan",
    "resolution": 256,
    "channels": None,
    "style_size": 512,
    "mapping_layers": 8,
    "rows": 3336,
    "validation_rows": 1111,
    "test_rows": 1111,
    "epochs": 50,
    "rank": 32,
    "optimizer": "code",
    "decay": 0.999,
    "dtype": "float32",
    "metric_latents": 5000,
}
SMALL: Settings = {
    **PUBLISHED,
    "images": "cifar10",
    "resolution": 32,
    "channels": 16,
    "style_size": 32,
    "mapping_layers": 4,
    "pretraining_rows": 5000,
    "pretraining_steps": 2000,
    "classifier_rows": 3200,
    "classifier_epochs": 20,
    "rows": 320,
    "validation_rows": 1000,
    "test_rows": 1000,
    "epochs": 4,
    "rank": 4,
    "decay": 0.99,  # averaged over as many epochs as the published .999 does
    "dtype": "float64",
    "metric_latents": 500,
}
DIGITS: Settings = {
    "images": "digits",
    "resolution": 8,
    "channels": 4,
    "style_size": 8,
    "mapping_layers": 1,
    "pretraining_rows": 300,
    "pretraining_steps": 20,
    "classifier_rows": 500,
    "classifier_epochs": 5,
    "rows": 64,
    "validation_rows": 150,
    "test_rows": 150,
    "epochs": 2,
    "rank": 2,
    "metric_latents": 150,
}
CLASSES = {  # pretrained on, fine-tuned on; the classifier is fitted to all the others
    "cifar10": ([gi.datasets.CIFAR10_NAMES.index("dog")], [gi.datasets.CIFAR10_NAMES.index("cat")]),
    "digits": ([0, 6, 8], [3, 5, 9]),
}
HIDDEN = 64


class Streams(NamedTuple):
    """The seeds of one repetition's random streams: every draw has one of its own."""

    split: int
    classifier: int
    players: int
    pretraining: int
    adapters: int
    schedule: int
    validation_latents: int
    test_latents: int
    choice: int

    @classmethod
    def of(cls, seed: int) -> Streams:
        return cls(*(int(state) for state in np.random.SeedSequence([seed, 17]).generate_state(len(cls._fields))))


class Parts(NamedTuple):
    """Disjoint images, uint8 or in [-1, 1]: of the first kind, and of the second."""

    pretraining: Tensor | None
    training: Tensor
    validation: Tensor
    test: Tensor


class Cats(NamedTuple):
    """One seed: the fine-tuning, FID on validation and on test images, and what they compare.

    Attributes:
        trace: the run.
        validation, test: FID by images and latents of each.
        features: images in [-1, 1] to what FID compares.
        test_images, test_latents: of ``test``.
    """

    trace: gi.Trace
    validation: gi.metrics.FrechetDistance
    test: gi.metrics.FrechetDistance
    features: nn.Module
    test_images: Tensor
    test_latents: Any


def on_digits(settings: Settings) -> Settings:
    """The same on scikit-learn's digits, which need no file."""
    return {**settings, **DIGITS}


class Run(NamedTuple):
    """What makes the fine-tuning."""

    game: gi.Game
    images: Tensor
    steps: int
    optimizer: gi.Optimizer
    seed: int
    ema_decay: dict[str, float]

    def train(self, device: str) -> gi.Trace:
        own = {"ema_decay": self.ema_decay, "device": device}
        return fine_tuned(self.game, self.images, self.steps, self.optimizer, self.seed, **own)

    def read(self, path: str, device: str) -> gi.Trace:
        own = {"ema_decay": self.ema_decay, "device": device}
        return read_run(path, self.game, self.images, self.optimizer, self.seed, **own)


def files(settings: Settings, seeds: Sequence[int]) -> list[str]:
    """CIFAR-10; or one's own checkpoint, features and folder of images."""
    return {
        "cifar10": ["cifar10/train.npz"],
        "folder": [CHECKPOINT, FEATURES, IMAGES],
        "digits": [],
    }[settings["images"]]


def steps_per_epoch(settings: Settings) -> int:
    return -(-settings["rows"] // BATCH)


def prepare(settings: Settings, seed: int, folder: Path, device: str) -> dict[str, Any]:
    """The seed's features, pretrained players and fine-tuning, each made once and stored."""
    paths = {name: folder / f"seed-{seed}.{name}.pt" for name in ("features", "pretrained", "run")}
    if settings["images"] != "folder":
        if usable(paths["features"], gi.models.load_classifier, "the classifier is fitted again") is None:
            gi.models.save_classifier(paths["features"], _classifier(settings, seed))
        if usable(paths["pretrained"], _read, "trained again") is None:
            Folder(folder).write(paths["pretrained"].name, _pretrained(settings, seed, device))
    stored = {name: str(path) for name, path in paths.items()}
    run = _run(settings, seed, stored)
    trace = usable(paths["run"], lambda path: run.read(str(path), device), "trained again")
    if trace is None:
        try:
            trace = run.train(device)
        except gi.DivergenceError:
            return {**stored, "run": None}  # each unit will say so
        trace.save(paths["run"])
    return {**stored, "digest": digest(trace.theta().cpu())}


def _read(path: Path) -> dict[str, dict[str, Tensor]]:
    return Folder(path.parent).read(path.name)


def cats(settings: Settings, seed: int, prepared: dict[str, Any], device: str) -> Cats:
    """One seed; a process keeps the last one that it read."""
    return _cats(json.dumps(settings), seed, json.dumps(prepared), device)


@lru_cache(maxsize=1)
def _cats(settings_as_text: str, seed: int, prepared_as_text: str, device: str) -> Cats:
    settings, prepared = json.loads(settings_as_text), json.loads(prepared_as_text)
    streams, parts = Streams.of(seed), parts_of(settings, seed)
    dtype = getattr(torch, settings["dtype"])
    run, path = _run(settings, seed, prepared), prepared["run"]
    trace = run.train(device) if path is None else run.read(path, device)
    features = _features(settings, prepared["features"]).to(dtype)
    generator, many = trace.game.players["generator"].module, settings["metric_latents"]
    for_validation, for_test = (
        evaluation_latents(generator, many, own) for own in (streams.validation_latents, streams.test_latents)
    )
    fid = gi.metrics.FrechetDistance
    return Cats(
        trace,
        fid(features, _of_type(parts.validation, dtype), for_validation),
        fid(features, _of_type(parts.test, dtype), for_test),
        features,
        parts.test,
        for_test,
    )


def _of_type(images: Tensor, dtype: torch.dtype) -> Tensor:
    return images if images.dtype == torch.uint8 else images.to(dtype)


def _run(settings: Settings, seed: int, stored: dict[str, Any]) -> Run:
    streams, dtype = Streams.of(seed), getattr(torch, settings["dtype"])
    generator, discriminator = _players(settings, seed)
    if settings["images"] == "folder":
        path = _file(CHECKPOINT)
        try:
            gi.models.load_style_checkpoint(path, generator, discriminator)
        except ValueError as error:
            raise ValueError(f"--{OPTIONS[CHECKPOINT]} {path}: {error}") from error
    else:
        own = _read(Path(stored["pretrained"]))
        generator.load_state_dict(own["generator"])
        discriminator.load_state_dict(own["discriminator"])
    generator.mapping.requires_grad_(False)
    adapters = adapted(generator.to(dtype), discriminator.to(dtype), settings["rank"], streams.adapters % 2**31)
    steps = settings["epochs"] * steps_per_epoch(settings)
    rows = _of_type(parts_of(settings, seed).training, dtype)
    decay = {"generator": settings["decay"]}
    return Run(game_of(*adapters), rows, steps, OPTIMIZERS[settings["optimizer"]], streams.schedule, decay)


def _players(settings: Settings, seed: int) -> tuple[Any, Any]:
    make: Any = gi.models.stylegan2 if settings["model"] == "stylegan2" else gi.models.stylegan
    return make(
        settings["resolution"],
        colours=1 if settings["images"] == "digits" else 3,
        style_size=settings["style_size"],
        mapping_layers=settings["mapping_layers"],
        channels=settings["channels"],
        seed=Streams.of(seed).players,
    )


def _pretrained(settings: Settings, seed: int, device: str) -> dict[str, dict[str, Tensor]]:
    """Both players after training on the first kind in float32, the generator averaged."""
    generator, discriminator = _players(settings, seed)
    dogs = parts_of(settings, seed).pretraining
    assert dogs is not None
    game = game_of(generator, discriminator)
    trace = fine_tuned(game, dogs, settings["pretraining_steps"], seed=Streams.of(seed).pretraining, device=device)
    reached = trace.parameters(averaged=True)
    for name, module in (("generator", generator), ("discriminator", discriminator)):
        module.load_state_dict({key: value.cpu() for key, value in reached[name].items()}, strict=False)
    return {"generator": generator.state_dict(), "discriminator": discriminator.state_dict()}


def _classifier(settings: Settings, seed: int) -> gi.models.Classifier:
    """Fitted to all classes but those of the two kinds."""
    streams, data = Streams.of(seed), _labelled(settings)
    first, second = CLASSES[settings["images"]]
    others = [kind for kind in range(10) if kind not in (*first, *second)]
    rows = torch.isin(data.labels, torch.tensor(others)).nonzero().flatten()
    rows = rows[torch.from_numpy(np.random.default_rng(streams.classifier).permutation(len(rows)))]
    images = gi.datasets.as_images(data.images[rows], torch.float32)
    labels, few = torch.searchsorted(torch.tensor(others), data.labels[rows]), settings["classifier_rows"]
    held_out = slice(few, few + few // 4)
    model = gi.models.classifier(
        settings["resolution"],
        colours=images.shape[1],
        classes=len(others),
        channels=16,
        hidden=HIDDEN,
        seed=streams.classifier,
    )
    return gi.models.fit_classifier(
        model,
        (images[:few], labels[:few]),
        (images[held_out], labels[held_out]),
        epochs=settings["classifier_epochs"],
        lr=2e-3,
        seed=streams.classifier,
    )


def parts_of(settings: Settings, seed: int) -> Parts:
    """The images of a seed."""
    sizes = settings["rows"], settings["validation_rows"], settings["test_rows"]
    if settings["images"] == "folder":
        resolution, folder = settings["resolution"], _file(IMAGES)
        found = gi.datasets.images(folder, size=resolution, colours=3, enlarge=False, colour_grey=False).images
        everything = gi.datasets.LabelledImages(found, torch.zeros(len(found), dtype=torch.long))
        if len(found) < sum(sizes):
            raise ValueError(
                f"{folder} holds {len(found)} images, but {sum(sizes)} are needed: {sizes[0]} to train on, "
                f"{sizes[1]} to score by and {sizes[2]} to test on"
            )
        return Parts(None, *(part.images for part in gi.datasets.split(everything, *sizes, seed=_seed(seed))))
    first, second = CLASSES[settings["images"]]
    data = _labelled(settings)
    dogs, kept = (_of_classes(data, own) for own in (first, second))
    [pretraining] = gi.datasets.split(dogs, min(settings["pretraining_rows"], len(dogs.labels)), seed=_seed(seed))
    return Parts(pretraining.images, *(part.images for part in gi.datasets.split(kept, *sizes, seed=_seed(seed))))


def _seed(seed: int) -> int:
    return Streams.of(seed).split


def _file(name: str) -> Path:
    return located(name) or Path(name)


def _features(settings: Settings, path: str) -> nn.Module:
    return Inception(_file(FEATURES)) if settings["images"] == "folder" else gi.models.load_classifier(path)


class Inception(nn.Module):
    """Features of images in [-1, 1] by a TorchScript file, as NVIDIA's ``inception-2015-12-05.pt``.

    It is given numbers from 0 to 255 and, where it takes that, ``return_features=True``.

    Raises:
        ValueError: the file holds no TorchScript, or something that gives no features.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        try:
            self.script = torch.jit.load(str(path), map_location="cpu").eval()
        except RuntimeError as error:
            reason = str(error).strip().split("\n")[0]
            raise ValueError(f"--{OPTIONS[FEATURES]} {path} is no file of features (TorchScript): {reason}") from error
        names = [argument.name for argument in self.script.forward.schema.arguments]
        self.options = {"return_features": True} if "return_features" in names else {}

    def forward(self, images: Float[Tensor, "n colours h w"]) -> Float[Tensor, "n f"]:
        found = self.script((images + 1) * 127.5, **self.options)
        if not isinstance(found, Tensor) or found.ndim != 2:
            raise ValueError(
                f"--{OPTIONS[FEATURES]} {self.path} gives something else than features, of shape (images, features)"
            )
        return found


def _labelled(settings: Settings) -> gi.datasets.LabelledImages:
    if settings["images"] == "digits":
        return gi.datasets.digits()
    return gi.datasets.cifar10("train", dtype=torch.uint8)


def _of_classes(data: gi.datasets.LabelledImages, kinds: list[int]) -> gi.datasets.LabelledImages:
    rows = torch.isin(data.labels, torch.tensor(kinds))
    return gi.datasets.LabelledImages(data.images[rows], data.labels[rows])
