"""Images as a problem: the built-in GANs, rows held out, and a Fréchet distance that needs no classifier."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from gan_influence import models
from gan_influence.game import Game
from gan_influence.metrics import FrechetDistance
from gan_influence.optimizers import SGD, Adam
from gan_influence.schedules import Minibatches
from gan_influence.tool.arguments import Settings
from gan_influence.tool.errors import FEWEST, InputError
from gan_influence.tool.linear import linear_players
from gan_influence.tool.pictures import Pictures, of_digits, of_folder
from gan_influence.tool.planting import planted, without_class
from gan_influence.tool.problem import Problem

__all__ = ["PrincipalComponents", "problem_of_images"]

_STEPS = 1500
_CHANNELS = 16
_LR = {"dcgan": 1e-3, "linear": 0.1}
_L2 = {"dcgan": (1e-3, 1e-3), "linear": (0.0, 0.03)}
_EPSILON = 1e-4  # of Adam: with 1e-8, parameters of tiny gradients move in jumps, which no derivative follows
_EPOCHS = 10  # traced back: over more the linearisation of a GAN's training fades
_EMA_DECAY = 0.98  # without an average, removals change a run mostly by chance, and help no better than random ones
_COMPONENTS = 20
_LATENTS = 500
_SETS = 5
_SHOWN = 40


class PrincipalComponents(nn.Module):
    """The first k principal components of pixels, of images that are neither trained on nor judged by.

    Args:
        images: whose mean and directions are taken.
        k: how many.

    Attributes:
        explained: the share of the images' variance along them.
    """

    mean: Tensor
    directions: Tensor

    def __init__(self, images: Float[Tensor, "n *image"], k: int):
        super().__init__()
        flat = images.flatten(1).double()
        centred = flat - flat.mean(0)
        _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
        self.register_buffer("mean", flat.mean(0).to(images.dtype))
        self.register_buffer("directions", directions[:k].mT.to(images.dtype).contiguous())
        self.explained = float(singular[:k].square().sum() / singular.square().sum().clamp_min(1e-30))

    def forward(self, images: Float[Tensor, "n *image"]) -> Float[Tensor, "n k"]:
        """The components of each image."""
        return (images.flatten(1) - self.mean) @ self.directions


def problem_of_images(settings: Settings) -> Problem:
    """Images of a folder or digits, split into rows to train on, to score by and to judge by.

    Raises:
        InputError: see :func:`gan_influence.tool.pictures.of_folder`; too few are left to train on.
    """
    pictures = (
        of_digits()
        if settings.folder is None
        else of_folder(settings.folder, settings.resize, settings.skip_unreadable, not settings.quiet)
    )
    other = None
    if settings.demo == "class":
        pictures, other = without_class(pictures)
    training, scoring, judging = _split(pictures, settings.held_out, settings.seed)
    mask = None
    if settings.demo is not None:
        training, mask = planted(training, settings.demo, other, settings.seed)
    features = PrincipalComponents(scoring.images, _components(scoring, judging))
    generator, discriminator, latent_size = _players(training, settings)
    schedule = Minibatches(
        len(training.images), min(settings.batch_size, len(training.images)), (latent_size,), seed=settings.seed
    )
    steps = settings.steps or _STEPS
    rate = settings.lr or _LR[settings.players]
    is_short = settings.estimator == "itd" and settings.players == "dcgan"
    return Problem(
        game=Game(generator, discriminator, loss="non_saturating", l2=_L2[settings.players]),
        data=training.images,
        schedule=schedule,
        steps=steps,
        optimizer=SGD(rate) if settings.players == "linear" else Adam(rate, betas=(0.5, 0.999), eps=_EPSILON),
        options={"update": "alternating", "ema_decay": _EMA_DECAY},
        metric=FrechetDistance(features, scoring.images, latents(_LATENTS, latent_size, settings.seed, 0)),
        metric_in_words=_words(features, len(scoring.images), len(judging.images)),
        held_out=tuple(
            FrechetDistance(features, judging.images, latents(_LATENTS, latent_size, settings.seed, 1 + k))
            for k in range(_SETS)
        ),
        last=min(_EPOCHS * schedule.steps_per_epoch, steps) if is_short else None,
        labels=training.labels,
        paths=training.paths,
        latents=latents(_SHOWN, latent_size, settings.seed, 1 + _SETS),
        planted=mask,
        features=features,
        notes=pictures.notes,
    )


def latents(n: int, size: int, seed: int, stream: int) -> Float[Tensor, "n size"]:
    """N(0, 1), of a stream of its own, which training does not draw from."""
    drawn = np.random.default_rng([seed, 7, stream]).standard_normal((n, size))
    return torch.from_numpy(drawn).float()


def _split(pictures: Pictures, held_out: float, seed: int) -> tuple[Pictures, Pictures, Pictures]:
    n = len(pictures.images)
    half = max(int(held_out * n / 2), 2)
    if n - 2 * half < min(FEWEST, n) // 2:
        raise InputError(f"--held-out {held_out} leaves {max(n - 2 * half, 0)} of {n} images to train on: lower it")
    order = np.random.default_rng([seed, 6]).permutation(n)
    parts = order[2 * half :], order[:half], order[half : 2 * half]
    training, scoring, judging = (pictures.part(np.sort(part)) for part in parts)
    return training, scoring, judging


def _components(scoring: Pictures, judging: Pictures) -> int:
    """Few enough for covariances of full rank."""
    return max(min(_COMPONENTS, len(scoring.images) // 2, len(judging.images) // 2, scoring.images[0].numel()), 1)


def _players(training: Pictures, settings: Settings) -> tuple[nn.Module, nn.Module, int]:
    colours, size = training.images.shape[1:3]
    latent_size = 16 if size < 28 else 32
    if settings.players == "linear":
        return *linear_players(training.images.shape[1:], 2 * latent_size, settings.seed), 2 * latent_size
    generator, discriminator = models.dcgan(
        settings.channels or _CHANNELS, size, colours=colours, latent_size=latent_size, seed=settings.seed
    )
    return generator, discriminator, latent_size


def _words(features: PrincipalComponents, scoring: int, judging: int) -> str:
    k = features.directions.shape[1]
    return (
        f"Fréchet distance between generated and held-out images, in the first {k} principal components of their "
        f"pixels ({features.explained:.0%} of the variance; fitted to {scoring} held-out images). Smaller is better. "
        "It sees brightness, coarse shape and variety. It is not the FID of a trained network, which sees what is "
        f"shown. Rows are scored by {scoring} held-out images, and judged by {judging} others."
    )
