"""The models of SGD-influence (Hara et al. 2019, sections 7.1 and 7.2, supplement D): one player each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn

from gan_influence.checks import check, check_whole, is_whole

__all__ = ["autoencoder", "cifar_cnn", "dense_network", "logistic_regression", "mnist_cnn"]

Module = TypeVar("Module", bound=nn.Module)

_DIGIT_FILTERS = 20
_CIFAR_FILTERS = (32, 64, 128)
_ENCODERS = {1: (24, 12), 3: (64, 32)}  # channels of its two convolutions, by the images' colours


def logistic_regression(
    inputs: int, outputs: int = 1, *, seed: int | None = None, dtype: torch.dtype = torch.float64
) -> nn.Linear:
    """A linear layer with biases, ``(n, inputs)`` to logits ``(n, outputs)``.

    One output goes with ``loss="binary_cross_entropy"``, several with ``"cross_entropy"``.

    Args:
        inputs: numbers in a row.
        outputs: logits.
        seed: torch's own initialisation after ``torch.manual_seed(seed)``, as in the authors' code; by default it draws
            from torch's global generator.
        dtype: of the parameters, which are drawn in float32.

    Raises:
        ValueError: a size below 1.
    """
    check_whole("inputs", inputs)
    check_whole("outputs", outputs)
    return _initialised(lambda: nn.Linear(inputs, outputs), seed).to(dtype)


def dense_network(
    inputs: int,
    hidden: Sequence[int] = (8, 8),
    outputs: int = 1,
    *,
    seed: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> nn.Sequential:
    """The paper's DNN: linear layers with biases and ReLU between, ``(n, inputs)`` to logits ``(n, outputs)``.

    Args:
        inputs: numbers in a row.
        hidden: units of each hidden layer.
        outputs: logits.
        seed: see :func:`logistic_regression`.
        dtype: see :func:`logistic_regression`.

    Raises:
        ValueError: a size below 1.
    """
    check_whole("inputs", inputs)
    check_whole("outputs", outputs)
    holds = bool(hidden) and all(is_whole(size) and size >= 1 for size in hidden)
    check(holds, "hidden", "one or more whole numbers >= 1", hidden)

    def layers() -> nn.Sequential:
        made: list[nn.Module] = []
        for before, after in pairwise([inputs, *hidden, outputs]):
            made += [nn.Linear(before, after), nn.ReLU()]
        return nn.Sequential(*made[:-1])

    return _initialised(layers, seed).to(dtype)


def mnist_cnn(*, seed: int | None = None, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """The CNN of section 7.2 for MNIST: ``(n, 1, 28, 28)`` to logits ``(n, 10)``.

    Twice [convolution 5x5 with 20 filters, ReLU, max-pool 2x2], then a linear layer of the 320 numbers.

    Args:
        seed: see :func:`logistic_regression`.
        dtype: see :func:`logistic_regression`.
    """

    def layers() -> nn.Sequential:
        made: list[nn.Module] = []
        for colours in (1, _DIGIT_FILTERS):
            made += [nn.Conv2d(colours, _DIGIT_FILTERS, 5), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*made, nn.Flatten(), nn.Linear(_DIGIT_FILTERS * 4 * 4, 10))

    return _initialised(layers, seed).to(dtype)


def cifar_cnn(
    *, statistics: str = "batch", seed: int | None = None, dtype: torch.dtype = torch.float32
) -> nn.Sequential:
    """The CNN of section 7.2 for CIFAR-10: ``(n, 3, 32, 32)`` to logits ``(n, 10)``.

    Three times [convolution 3x3 with c filters, BatchNorm, ReLU, convolution 3x3 with c, ReLU, max-pool 2x2], for
    c = 32, 64, 128, then a linear layer of the 2 048 numbers.

    Args:
        statistics: ``"batch"``: BatchNorm in training mode, as the authors train: rows of a batch interact, so that the
            game must be told ``rows_interact=True``, and a removal leaves the row in the others' statistics;
            ``"running"``: in eval mode, where rows do not interact, with statistics that stay as they are, mean 0 and
            variance 1 at first.
        seed: see :func:`logistic_regression`.
        dtype: see :func:`logistic_regression`.

    Raises:
        ValueError: unknown ``statistics``.
    """
    check(statistics in ("batch", "running"), "statistics", "batch or running", statistics)

    def layers() -> nn.Sequential:
        made: list[nn.Module] = []
        for before, after in pairwise([3, *_CIFAR_FILTERS]):
            made += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
            made += [nn.Conv2d(after, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*made, nn.Flatten(), nn.Linear(_CIFAR_FILTERS[-1] * 4 * 4, 10))

    return _initialised(layers, seed).to(dtype).train(statistics == "batch")


def autoencoder(colours: int = 1, *, seed: int | None = None, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """The autoencoder that section 7.2 compares with: images in [-1, 1], of 28 or 32 pixels, to their like.

    For digits, of one colour, with ReLU between and tanh at the end; for three colours with 64 and 32 channels::

        images    (n, 1, 28, 28)
                  (n, 24, 13, 13)    convolution 3x3, max-pool 2x2
                  (n, 12, 10, 10)    convolution 3x3, max-pool 2x2 with stride 1
                  (n, 12, 23, 23)    transposed convolution 5x5 with stride 2
                  (n, 24, 26, 26)    transposed convolution 4x4
        images    (n, 1, 28, 28)     transposed convolution 3x3

    A row's score is the mean squared difference. Inputs of another scale than tanh's are to be mapped to it.

    Args:
        colours: 1 or 3.
        seed: see :func:`logistic_regression`.
        dtype: see :func:`logistic_regression`.

    Raises:
        ValueError: another number of colours.
    """
    check(is_whole(colours) and colours in _ENCODERS, "colours", "1 or 3", colours)
    wide, narrow = _ENCODERS[colours]

    def layers() -> nn.Sequential:
        return nn.Sequential(
            *(nn.Conv2d(colours, wide, 3), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(wide, narrow, 3), nn.ReLU(), nn.MaxPool2d(2, stride=1)),
            *(nn.ConvTranspose2d(narrow, narrow, 5, stride=2), nn.ReLU()),
            *(nn.ConvTranspose2d(narrow, wide, 4), nn.ReLU()),
            *(nn.ConvTranspose2d(wide, colours, 3), nn.Tanh()),
        )

    return _initialised(layers, seed).to(dtype)


def _initialised(make: Callable[[], Module], seed: int | None) -> Module:
    """What is made, with torch's own initialisation; the global generator is left as it was where there is a seed."""
    with torch.random.fork_rng(devices=[]) if seed is not None else nullcontext():
        if seed is not None:
            torch.manual_seed(seed)
        return make()
