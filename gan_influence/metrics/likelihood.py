"""Average log-likelihood of reference rows under a kernel density estimate of the generated ones."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from gan_influence import trees
from gan_influence.checks import is_real
from gan_influence.metrics.inputs import check_generator, check_reference_and_latents, copied, generated
from gan_influence.metrics.log_sums import lie_apart, mean_log_sum
from gan_influence.metrics.metric import MeasuredOnTraces
from gan_influence.players import Players
from gan_influence.surroundings import undisturbed
from gan_influence.trees import Tree

__all__ = ["AverageLogLikelihood"]


class AverageLogLikelihood(MeasuredOnTraces):
    r"""ALL (TNNLS VI-A1, Appendix C-A; ICLR C.1): larger is better; in nats per reference row.

    A Gaussian kernel of bandwidth h on each of K generated points ``g_k = G(phi, z_k)`` in dimension d::

        E = (1/n) sum_i log [ (1/K) sum_k (2 pi h^2)^(-d/2) exp( -|x_i - g_k|^2 / (2 h^2) ) ]

    The same number as ``sklearn.neighbors.KernelDensity(bandwidth=h).fit(generated).score(reference) / n``.

    Kernels that are too many to be held at once (n K > 2^22) are evaluated block by block. All is computed in float64,
    whatever the rows' data type, which the value then has.

    Args:
        reference: rows to be explained, ``(n, *instance_shape)``; each is flattened to d numbers.
        latents: ``(K, *latent_shape)``, apart from those of training; or a tree of tensors, first dimension K, which
            the generator takes as one argument.
        bandwidth: h > 0, in the units of the data.

    Raises:
        TypeError: reference or latents are not floating-point tensors.
        ValueError: one of them is empty or not finite, or the bandwidth is not a finite number above 0, or so small or
            large that its square or the inverse of that leaves the range of the rows' data type.

    Example:
        >>> import gan_influence as gi
        >>> metric = gi.metrics.AverageLogLikelihood(torch.zeros(5, 1).double(), torch.zeros(3, 1).double())
        >>> game = gi.Game(*gi.models.lqgan(scale=0.0, shift=0.0))
        >>> trace = gi.train(game, torch.zeros(5, 1).double(), gi.FullBatch(torch.zeros(3, 1).double()), 0, gi.SGD(0.1))
        >>> round(float(metric(trace)), 6)  # -log(2 pi) / 2
        -0.918939
    """

    larger_is_better = True

    @undisturbed
    def __init__(
        self,
        reference: Float[Tensor, "n *instance"],
        latents: Float[Tensor, "K *latent"] | Tree,
        bandwidth: float = 1.0,
    ):
        self.dtype = check_reference_and_latents(reference, latents)
        _check_bandwidth(bandwidth, reference.dtype)
        flat = reference.detach().reshape(len(reference), -1).double()
        self.center = flat.mean(0)  # distances by |x|^2 + |g|^2 - 2 x.g lose nothing when both lie near the origin
        self.centered = flat - self.center
        self.latents = copied(latents)
        self.bandwidth = float(bandwidth)
        self.apart = lie_apart(self.centered, 1 / self.bandwidth**2)

    def value(self, players: Players) -> Float[Tensor, ""]:
        """The metric at these players, differentiable."""
        check_generator("AverageLogLikelihood", players, self.dtype)
        points = generated(players, self.latents).reshape(trees.length(self.latents), -1)
        reference = self.centered.to(points.device)
        if points.shape[1] != reference.shape[1]:
            raise ValueError(
                f"the generator makes rows of {points.shape[1]} numbers, "
                f"but the metric's reference has {reference.shape[1]}"
            )
        points = points - self.center.to(points.device)
        dimension = reference.shape[1]
        normaliser = math.log(len(points)) + 0.5 * dimension * math.log(2 * math.pi * self.bandwidth**2)
        log_sum = mean_log_sum(reference, points, 1 / self.bandwidth**2, self.apart)
        return (log_sum - normaliser).to(self.dtype)


def _check_bandwidth(bandwidth: object, dtype: torch.dtype) -> None:
    """h^2 and 1 / h^2 are numbers of the rows' data type.

    Raises:
        ValueError: they are not.
    """
    if not is_real(bandwidth) or bandwidth <= 0:
        raise ValueError(f"bandwidth must be a finite number above 0, got {bandwidth!r}")
    largest = math.sqrt(torch.finfo(dtype).max)
    if not 1 / largest <= bandwidth <= largest:
        raise ValueError(
            f"bandwidth must lie between {1 / largest:.2g} and {largest:.2g} for rows of {dtype}, so that its "
            f"square and the inverse of that stay in range, got {bandwidth!r}: measure the rows in other units"
        )
