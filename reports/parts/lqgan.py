"""LQGAN on contaminated 1D-Normal data: one seed's draws, and closed forms."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

import gan_influence as gi
from reports.experiment import Settings

__all__ = ["Contaminated", "Streams", "equilibrium", "wasserstein"]


class Streams(NamedTuple):
    """Seeds of one repetition's draws, independent of each other."""

    rows: int
    latents: int
    validation_rows: int
    validation_latents: int
    test_rows: int
    test_latents: int
    players: int
    choice: int
    parts: int

    @classmethod
    def of(cls, seed: int) -> Streams:
        return cls(*(int(state) for state in np.random.SeedSequence([seed, 16]).generate_state(len(cls._fields))))


class Contaminated(NamedTuple):
    """One seed: the factual run, which of its rows are contaminated, its metrics, and what they are measured on."""

    trace: gi.Trace
    contaminated: Bool[Tensor, " N"]
    validation: gi.metrics.AverageLogLikelihood
    test: gi.metrics.AverageLogLikelihood
    validation_set: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, settings: Settings, streams: Streams, device: str) -> Contaminated:
        """Train it (TNNLS VI-C1); validation and test rows are of the clean part alone."""
        normal = gi.datasets.normal_1d
        clean, harmful = ((mean, deviation**2) for mean, deviation in (settings["clean"], settings["harmful"]))
        data, contaminated = gi.datasets.contaminated_normal_1d(
            settings["rows"],
            seed=streams.rows,
            clean=clean,
            harmful=harmful,
            clean_share=settings["clean_share"],
        )
        latents = normal(settings["latents"], mean=0.0, seed=streams.latents)
        reference = normal(settings["validation_rows"], *clean, seed=streams.validation_rows)
        validation_latents = normal(settings["metric_latents"], mean=0.0, seed=streams.validation_latents)
        test_rows = normal(settings["test_rows"], *clean, seed=streams.test_rows)
        test_latents = normal(settings["metric_latents"], mean=0.0, seed=streams.test_latents)
        game = gi.Game(*gi.models.lqgan(seed=streams.players), loss="minimax")
        trace = gi.train(game, data, gi.FullBatch(latents), settings["steps"], gi.SGD(lr=settings["lr"]), device=device)
        all_of = gi.metrics.AverageLogLikelihood
        return cls(
            trace,
            contaminated,
            all_of(reference, validation_latents, settings["bandwidth"]),
            all_of(test_rows, test_latents, settings["bandwidth"]),
            (reference, validation_latents),
        )


def wasserstein(
    generators: Float[np.ndarray, "*models 2"], mean: float, deviation: float
) -> Float[np.ndarray, " *models"]:
    """The 2-Wasserstein distance of N(phi_2, phi_1^2), which G generates, from N(mean, deviation^2), exactly.

    In one dimension the optimal coupling is monotone::

        W_2 = sqrt((phi_2 - mean)^2 + (|phi_1| - deviation)^2)
    """
    return np.hypot(generators[..., 1] - mean, np.abs(generators[..., 0]) - deviation)


def equilibrium(
    rows: Float[Tensor, "N 1"],
    latents: Float[Tensor, "K 1"],
    weights: Float[Tensor, "models N"],
    sign: float,
) -> Float[Tensor, "models 4"]:
    """Where LQGAN comes to rest with these weights of its rows, ``(phi_1, phi_2, 0, 0)``.

    At rest G gets no gradient, so that psi = 0, and D none, so that generated points have the rows' moments::

        (1/K) sum_k G(z_k)^p = (1/N) sum_i w_i x_i^p        for p = 1, 2

    Two numbers of all rows: without a tenth of them, denominators unchanged, both moments are a tenth smaller too.

    Args:
        rows, latents, weights: of training.
        sign: of phi_1, which moments leave open.
    """
    x, z = rows.flatten(), latents.flatten()
    first, second = weights @ x / len(x), weights @ x**2 / len(x)
    scale = math.copysign(1.0, sign) * ((second - first**2).clamp(min=0) / z.var(correction=0)).sqrt()
    shift = first - scale * z.mean()
    return torch.stack([scale, shift, torch.zeros_like(scale), torch.zeros_like(scale)], dim=-1)
