"""What the experiments with FCGAN on 2D-Normal share (ICLR 5.1, 5.2, Tables 2, 3 and 5)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import gan_influence as gi
from reports.experiment import Settings

__all__ = ["LATENT_SIZE", "Streams", "latents", "steps_per_epoch", "trained"]

LATENT_SIZE = 10


class Streams(NamedTuple):
    """The seeds of one repetition's random streams: every draw has one of its own."""

    rows: int
    validation_rows: int
    validation_latents: int
    test_rows: int
    test_latents: int
    players: int
    schedule: int
    choice: int

    @classmethod
    def of(cls, seed: int) -> Streams:
        return cls(*(int(state) for state in np.random.SeedSequence(seed).generate_state(len(cls._fields))))


def trained(
    settings: Settings, form: str, rows: Float[Tensor, "N 2"], streams: Streams, memory: str, device: str
) -> gi.Trace:
    """The factual run: K epochs of simultaneous minibatch SGD with the non-saturating loss, from Glorot weights."""
    generator, discriminator = gi.models.fcgan(form=form, seed=streams.players)
    game = gi.Game(generator, discriminator, loss="non_saturating", l2=(settings["l2"], settings["l2"]))
    schedule = gi.Minibatches(
        size=len(rows), batch_size=settings["batch"], latent_shape=(LATENT_SIZE,), seed=streams.schedule
    )
    steps = settings["epochs"] * steps_per_epoch(settings)
    return gi.train(game, rows, schedule, steps, gi.SGD(lr=settings["lr"]), memory=memory, device=device)


def steps_per_epoch(settings: Settings) -> int:
    return settings["rows"] // settings["batch"]


def latents(n: int, seed: int) -> Float[Tensor, "n 10"]:
    """``n`` draws from N(0, I)."""
    return torch.randn(n, LATENT_SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
