"""The Inception score of generated images, by a classifier of one's own."""

from __future__ import annotations

import math
import warnings
from functools import partial
from numbers import Real

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gan_influence import trees
from gan_influence.checks import is_real
from gan_influence.metrics.chunks import (
    Frozen,
    check_chunk,
    check_each_alone,
    check_finite,
    generated_in_chunks,
)
from gan_influence.metrics.inputs import check_generator, check_latents, copied, generated
from gan_influence.metrics.metric import MeasuredOnTraces
from gan_influence.players import Players
from gan_influence.surroundings import undisturbed
from gan_influence.trees import Tree

__all__ = ["InceptionScore"]


class InceptionScore(MeasuredOnTraces):
    """IS (Salimans et al. 2016; TNNLS VI-A2, C-A; ICLR 3.2, C.1): larger is better, from 1 to the number of classes.

    With ``p(y | k) = softmax(classifier(G(phi, z_k)))`` and its mean ``p(y)`` over K generated images::

        E = exp( (1/K) sum_k KL( p(y | k) || p(y) ) )

    All K images make one score; there are no splits. Probabilities and what follows from them are float64 whatever the
    players' data type, because a removed row changes IS in the fifth digit or later; so the value is float64.

    Images are generated and classified ``chunk`` at a time, for the gradient too.

    Args:
        classifier: module, images ``(n, *instance_shape)`` to logits ``(n, classes)`` before any softmax. A copy in
            ``eval()`` mode is kept, in the latents' data type, which follows the players to their device. If it has an
            attribute ``accuracy``, that is held against ``least_accuracy``.
        latents: ``(K, *latent_shape)``, apart from those of training; or a tree of tensors, first dimension K, which
            the generator takes as one argument.
        logarithm: ``log E`` in its stead, in nats, as the authors' code has it in the experiments on accuracy.
        chunk: how many images are held at a time.
        least_accuracy: what the classifier's ``accuracy`` must reach, from 0 to 1; ``None``, of one that was not
            fitted yet, reaches 0 only.

    Raises:
        TypeError: the classifier is no module, or latents are no floating-point tensor.
        ValueError: the classifier's accuracy is too low, or it mixes the images of a chunk; latents are empty or not
            finite; chunk or least_accuracy is out of range.

    Example:
        >>> import gan_influence as gi
        >>> game = gi.Game(*gi.models.dcgan(channels=2, image_size=8, seed=0))
        >>> classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> trace = gi.train(game, torch.zeros(5, 1, 8, 8), gi.FullBatch(torch.zeros(5, 32)), 0, gi.SGD(0.1))
        >>> round(float(gi.metrics.InceptionScore(classifier, torch.zeros(7, 32))(trace)), 6)  # all images are alike
        1.0
    """

    larger_is_better = True

    @undisturbed
    def __init__(
        self,
        classifier: nn.Module,
        latents: Float[Tensor, "K *latent"] | Tree,
        *,
        logarithm: bool = False,
        chunk: int = 500,
        least_accuracy: float = 0.9,
    ):
        if not isinstance(classifier, nn.Module):
            raise TypeError(f"the classifier must be a torch.nn.Module, got {type(classifier).__name__}")
        self.dtype = check_latents(latents)
        check_chunk(chunk)
        _check_accuracy(classifier, least_accuracy)
        self.classifier = Frozen("classifier", classifier, self.dtype)
        self.latents = copied(latents)
        self.logarithm, self.chunk = logarithm, chunk

    def check(self, players: Players) -> None:
        """Are images made and classified each by itself, and into logits?

        Raises:
            ValueError: they are not, so that the metric would depend on ``chunk``.

        Warns:
            RuntimeWarning: the classifier gives probabilities.
        """
        check_generator("InceptionScore", players, self.dtype)
        check_each_alone(partial(generated, players), self.latents, "the generator")
        with torch.no_grad():
            images = generated(players, trees.take(self.latents, slice(self.chunk)))
            check_each_alone(self.classifier, images, "the classifier")
            _warn_of_probabilities(self._logits(images))

    def value(self, players: Players) -> Float[Tensor, ""]:
        """The metric at these players, differentiable.

        Raises:
            ValueError: the classifier gives something other than finite logits, one row an image.
        """
        check_generator("InceptionScore", players, self.dtype)
        logits = generated_in_chunks(self._logits, players, self.latents, self.chunk)
        check_finite(logits, "the classifier", "generated")
        conditional = logits.log_softmax(1)
        marginal = conditional.logsumexp(0) - math.log(len(logits))
        divergence = (conditional.exp() * (conditional - marginal)).sum(1).mean()
        return divergence if self.logarithm else divergence.exp()

    def _logits(self, images: Float[Tensor, "n *image"]) -> Float[Tensor, "n classes"]:
        logits = self.classifier(images)
        if isinstance(logits, Tensor) and not logits.is_floating_point():
            raise TypeError(f"the classifier gave {logits.dtype} numbers: logits are real and floating-point")
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else ()
        if len(shape) != 2 or shape[0] != len(images) or shape[1] < 2:
            got = f"shape {shape}" if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"the classifier returned {got} for {len(images)} images: it must return logits of two classes or "
                f"more, ({len(images)}, classes)"
            )
        return logits.double()


def _warn_of_probabilities(logits: Float[Tensor, "K classes"]) -> None:
    """Rows of numbers between 0 and 1 that sum to 1 are no logits. (Logarithms of such are.)"""
    if logits.min() >= 0 and (logits.sum(1) - 1).abs().max() < 1e-4:
        warnings.warn(
            "the classifier gives probabilities, as if it ended in a softmax, but the Inception score takes logits and "
            "has a softmax of its own: leave the classifier's out",
            RuntimeWarning,
            stacklevel=6,
        )


def _check_accuracy(classifier: nn.Module, least: float) -> None:
    if not is_real(least) or not 0 <= least <= 1:
        raise ValueError(f"least_accuracy must be a number from 0 to 1, got {least!r}")
    accuracy = getattr(classifier, "accuracy", least)
    low = isinstance(accuracy, Real) and not float(accuracy) >= least  # not <: NaN is too low as well
    if least > 0 and (low or accuracy is None):
        raise ValueError(
            f"the classifier's accuracy is {accuracy}, which does not reach {least}: a classifier that never learned "
            "makes an Inception score without meaning. Train it, longer or from another seed, or insist with "
            "least_accuracy=0"
        )
