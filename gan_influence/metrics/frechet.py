"""The Fréchet distance between features of real and of generated images (FID)."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from gan_influence import trees
from gan_influence.datasets.pixels import as_images
from gan_influence.metrics.chunks import (
    PROBED,
    Frozen,
    check_chunk,
    check_each_alone,
    check_finite,
    generated_in_chunks,
    in_chunks,
)
from gan_influence.metrics.inputs import (
    check_generator,
    check_latents,
    check_reference_and_latents,
    copied,
    generated,
)
from gan_influence.metrics.metric import MeasuredOnTraces
from gan_influence.players import Players
from gan_influence.surroundings import undisturbed
from gan_influence.trees import Tree

__all__ = ["FrechetDistance"]


class FrechetDistance(MeasuredOnTraces):
    """FID (Heusel et al. 2017; TNNLS VI-A2, Appendix C-A; ICLR C.1): smaller is better; in a feature's unit, squared.

    The squared Fréchet distance between two Gaussians with the mean and the covariance (divided by n - 1) of the
    features of generated images and of real ones, marked r::

        E = |mu - mu_r|^2 + Tr( C + C_r - 2 (C C_r)^(1/2) )

    The same number as with ``scipy.linalg.sqrtm(C @ C_r)``, and as exact where covariances are singular. With centred
    features X, ``C = X^T X / (n - 1)``, and likewise of the reference, the trace of the root is a sum of singular
    values, a nuclear norm::

        Tr (C C_r)^(1/2) = |X X_r^T|_* / ( (n - 1) (n_r - 1) )^(1/2)

    A covariance is singular when images are fewer than features + 1 (a RuntimeWarning says so) or a feature is the same
    for all images. That costs the value no precision: a singular value that should be 0 comes out as rounding, about
    1e-16 of the largest, where the root of an eigenvalue would be 1e-8. Nor does it cost the gradient any, with one
    exception: at a feature, or a combination of features, that varies in the reference alone, the value has a kink like
    that of ``|x|`` at 0. Of the slopes there the one of least norm is taken. So singular values that are 0 up to
    rounding, at most ``max(n, f) eps |X| |X_r| / ((n - 1) (n_r - 1))^(1/2)`` with Frobenius norms, add nothing to
    the gradient.

    Features are converted to float64, whatever the players' data type, and so the value is float64.

    Args:
        features: what gives an image its f features, one of

            * a module with a method ``features``: that method;
            * any other module: its outputs;
            * a method of a module, such as ``classifier.features``;
            * any other callable, ``features(images) -> (n, ...)``. It is called as it is, so that its weights must be
              constants, of the players' data type and on their device.

            Outputs of several dimensions are flattened. Of a module, or of a method's module, a copy in ``eval()``
            mode is kept, in the latents' data type, which follows the players to their device.
        reference: real images, ``(n_r, *instance_shape)``, apart from those of training. Their features are computed
            here and now, on the device where they lie. Levels of 0 ... 255 (uint8) are scaled to [-1, 1] a chunk at a
            time.
        latents: ``(K, *latent_shape)``, apart from those of training; or a tree of tensors, first dimension K, which
            the generator takes as one argument.
        chunk: how many images are held at a time.

    Raises:
        TypeError: features are no callable; reference or latents are not floating-point tensors of one data type, and
            the reference not uint8.
        ValueError: reference or latents have fewer than two rows or are not finite; the reference's features are not
            finite, or not one row an image; a network mixes the images of a chunk; chunk is below 1.

    Example:
        >>> import gan_influence as gi
        >>> game = gi.Game(*gi.models.lqgan(scale=2.0, shift=1.0))
        >>> rows = torch.tensor([[-1.0], [0.0], [1.0]]).double()  # standard deviation 1, of 2 z + 1 it is 2
        >>> metric = gi.metrics.FrechetDistance(torch.nn.Identity(), rows, rows)
        >>> round(float(metric(gi.train(game, rows, gi.FullBatch(rows), 0, gi.SGD(0.1)))), 6)  # (1 - 0)^2 + (2 - 1)^2
        2.0
    """

    larger_is_better = False

    @undisturbed
    def __init__(
        self,
        features: Callable[[Tensor], Tensor],
        reference: Float[Tensor, "n_r *instance"] | UInt8[Tensor, "n_r *instance"],
        latents: Float[Tensor, "K *latent"] | Tree,
        *,
        chunk: int = 500,
    ):
        self.dtype = _checked(reference, latents)
        check_chunk(chunk)
        self.extractor = _extractor(features, self.dtype)
        self.image_shape = reference.shape[1:]
        self.latents = copied(latents)
        self.chunk = chunk
        reference = reference.detach()
        check_each_alone(self.extractor, as_images(reference[:PROBED], self.dtype), "the feature extractor")
        with torch.no_grad():
            of_reference = in_chunks(lambda part: self._features(as_images(part, self.dtype)), reference, chunk)
            check_finite(of_reference, "features", "reference")
            self.mean = of_reference.mean(0)
            self.factor = torch.linalg.qr(of_reference - self.mean, mode="r").R / math.sqrt(len(reference) - 1)
        _warn_of_singular_covariances(
            len(self.mean), {"reference rows": len(reference), "latents": trees.length(latents)}
        )

    def check(self, players: Players) -> None:
        """Does the generator make each image by itself?

        Raises:
            ValueError: it does not, so that the metric would depend on ``chunk``.
        """
        check_generator("FrechetDistance", players, self.dtype)
        check_each_alone(partial(generated, players), self.latents, "the generator")

    def value(self, players: Players) -> Float[Tensor, ""]:
        """The metric at these players, differentiable twice; NaN where a feature is and ``torch.func`` hides that.

        Raises:
            ValueError: the generator's images have another shape than the reference's, or their features are not
                finite, or not one row an image, or not as many.
        """
        check_generator("FrechetDistance", players, self.dtype)
        features = generated_in_chunks(self._features, players, self.latents, self.chunk)
        check_finite(features, "features", "generated")
        mean, factor = self.mean.to(features.device), self.factor.to(features.device)
        if features.shape[1] != len(mean):
            raise ValueError(
                f"features gave {len(mean)} numbers for a reference image, but {features.shape[1]} for a generated one"
            )
        centred = (features - features.mean(0)) / math.sqrt(len(features) - 1)
        rounding = max(centred.shape) * torch.finfo(torch.float64).eps * centred.detach().norm() * factor.norm()
        root, *_ = _NuclearNorm.apply(centred @ factor.mT, rounding)
        return (features.mean(0) - mean).square().sum() + centred.square().sum() + factor.square().sum() - 2 * root

    def _features(self, images: Float[Tensor, "n *image"]) -> Float[Tensor, "n f"]:
        if images.shape[1:] != self.image_shape:
            raise ValueError(
                f"the generator makes images of shape {tuple(images.shape[1:])}, "
                f"but the metric's reference has images of shape {tuple(self.image_shape)}"
            )
        features = self.extractor(images)
        if isinstance(features, Tensor) and not features.is_floating_point():
            raise TypeError(
                f"features gave {features.dtype} numbers: they must be real and floating-point; take the real and the "
                "imaginary part of complex ones apart, with torch.view_as_real"
            )
        if not isinstance(features, Tensor) or features.ndim < 2 or len(features) != len(images):
            got = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(f"features gave {got} for {len(images)} images: it must give one row an image")
        return features.flatten(1).double()


class _NuclearNorm(torch.autograd.Function):
    """``|M|_*``, the sum of singular values, and its gradient: with ``M = U S V^T`` the polar factor ``P = U V^T``.

    Singular values up to ``least`` count as 0, and their vectors belong to neither U nor V: of the slopes at a kink
    that leaves the one of least norm. It is differentiable twice, not three times. The derivative of P, which is
    symmetric as a second derivative of a scalar, is::

        DP[G] = U ( (A - A^T) / (s_i + s_j) ) V^T + (1 - U U^T) G V S^-1 V^T + U S^-1 U^T G (1 - V V^T)
        A = U^T G V

    Autograd's own derivatives of a decomposition divide by differences of singular values, which may coincide.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(M: Float[Tensor, "n r"], least: Float[Tensor, ""]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        M = M.nan_to_num(0, 0, 0)  # of one model among several: decomposing NaN fails for all; the mean keeps the NaN
        Q, R = torch.linalg.qr(M)
        U, S, Vh = torch.linalg.svd(R, full_matrices=False)
        kept = least < S
        U, V = Q @ (U * kept), Vh.mT * kept
        return S.sum(), U @ V.mT, U, torch.where(kept, S, torch.inf), V

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*output[1:])
        ctx.mark_non_differentiable(*output[2:])

    @staticmethod
    def backward(ctx: Any, to_norm: Float[Tensor, ""], G: Float[Tensor, "n r"], *_: Tensor) -> tuple[Tensor, None]:
        """``to_norm P + DP[G]``; P is an output itself, so that a derivative of this passes here again, as its G."""
        P, U, S, V = ctx.saved_tensors
        GV, GU = G @ V, G.mT @ U
        A = U.mT @ GV
        turned = U @ ((A - A.mT) / (S[:, None] + S)) @ V.mT
        outside = ((GV - U @ A) / S) @ V.mT + (U / S) @ (GU - V @ A.mT).mT
        return to_norm * P + turned + outside, None


def _checked(reference: Tensor, latents: Tree) -> torch.dtype:
    """The data type of both; the reference may be uint8."""
    levels = isinstance(reference, Tensor) and reference.dtype == torch.uint8
    dtype = check_latents(latents) if levels else check_reference_and_latents(reference, latents)
    for name, rows in (("reference", reference), ("latents", latents)):
        if trees.length(rows) < 2:
            raise ValueError(f"{name} must hold at least two rows: one has no covariance")
    return dtype


def _extractor(features: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    method = getattr(features, "features", None)
    if isinstance(features, nn.Module):
        return Frozen("feature extractor", method if inspect.ismethod(method) else features, dtype)
    if inspect.ismethod(features) and isinstance(features.__self__, nn.Module):
        return Frozen("feature extractor", features, dtype)
    if not callable(features):
        raise TypeError(f"features must be a module or a function of images, got {type(features).__name__}")
    return lambda images: features(images.clone())  # it may work in place, and others look at these images too


def _warn_of_singular_covariances(features: int, counts: dict[str, int]) -> None:
    for rows, count in counts.items():
        if count <= features:
            warnings.warn(
                f"{count} {rows} are too few for {features} features: their covariance is singular. The distance is "
                "still that between these two Gaussians, and so is its gradient, but it tends to be larger than with "
                f"many images: give at least {features + 1} {rows}",
                RuntimeWarning,
                stacklevel=3,
            )
