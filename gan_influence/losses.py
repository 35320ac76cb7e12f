"""The six GAN losses, as costs per row of logits, and the losses of one-player games, per row and target.

Both players minimise. With a weight ``w_i`` per real row and logits ``a = D(psi, .)``::

    L_D = mean_i w_i real(a_i) + mean_z fake(a_z)        L_G = mean_z generator(a_z)

TNNLS eq. 2 maximises ``V = mean f(D(x)) + mean g(D(G(z)))`` over psi: there ``real = -f``, ``fake = -g`` and,
in the zero-sum game, ``generator = g``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, relu
from torch.nn.functional import softplus as _softplus_of_torch

__all__ = [
    "LOSSES",
    "ONE_PLAYER_LOSSES",
    "Loss",
    "PairCost",
    "RowLoss",
    "check_targets",
    "resolve",
    "resolve_one_player",
]

Cost = Callable[[Float[Tensor, " rows"]], Float[Tensor, " rows"]]
PairCost = Callable[[Tensor, Tensor], Float[Tensor, " rows"]]


@runtime_checkable
class Loss(Protocol):
    """What a game needs of a loss: three costs per row, each of a vector of logits ``(rows,)``, to be minimised."""

    @property
    def real(self) -> Cost: ...

    @property
    def fake(self) -> Cost: ...

    @property
    def generator(self) -> Cost: ...


@dataclass(frozen=True)
class RowLoss:
    """A loss made of three functions ``(rows,) -> (rows,)`` of the logits.

    Example:
        >>> import torch
        >>> RowLoss(real=lambda a: -a, fake=lambda a: a, generator=lambda a: -a).real(torch.tensor([2.0]))
        tensor([-2.])
    """

    real: Cost
    fake: Cost
    generator: Cost


def _identity(a: Tensor) -> Tensor:
    return a


def _softplus(a: Tensor) -> Tensor:
    """log(1 + exp(a)). torch's goes over into a line at 20, and its second derivative to 0, where float64 still tells
    them apart by 2e-9; at 40 no type does."""
    return _softplus_of_torch(a, threshold=40)


def _softplus_of_negative(a: Tensor) -> Tensor:
    return _softplus(-a)


def _negative_softplus(a: Tensor) -> Tensor:
    return -_softplus(a)


def _square_to_one(a: Tensor) -> Tensor:
    return (a - 1) ** 2


def _hinge_real(a: Tensor) -> Tensor:
    return relu(1 - a)


def _hinge_fake(a: Tensor) -> Tensor:
    return relu(1 + a)


def _smooth_hinge_real(a: Tensor) -> Tensor:
    return _softplus(1 - a)


def _smooth_hinge_fake(a: Tensor) -> Tensor:
    return _softplus(1 + a)


LOSSES: dict[str, RowLoss] = {
    # Zero-sum, f(a) = log sigmoid(a) = -softplus(-a) and g(a) = f(-a) (Goodfellow et al. 2014).
    "minimax": RowLoss(_softplus_of_negative, _softplus, _negative_softplus),
    # Goodfellow et al. 2014, section 3: G maximises log sigmoid(D(G(z))). "Modified minimax" in ICLR 2021's code.
    "non_saturating": RowLoss(_softplus_of_negative, _softplus, _softplus_of_negative),
    # Arjovsky et al. 2017: f(a) = a, g(a) = -a.
    "wasserstein": RowLoss(torch.neg, _identity, torch.neg),
    # Mao et al. 2017 with targets 1, 0, 1; without their factor 1/2, as in ICLR 2021's published code.
    "least_squares": RowLoss(_square_to_one, torch.square, _square_to_one),
    # Lim and Ye 2017.
    "hinge": RowLoss(_hinge_real, _hinge_fake, torch.neg),
    # The hinge made smooth, as in ICLR 2021's published code.
    "softplus": RowLoss(_smooth_hinge_real, _smooth_hinge_fake, torch.neg),
}


def resolve(loss: object) -> Loss:
    """The loss of that name, or ``loss`` itself where it is an object with ``real``, ``fake`` and ``generator``.

    Raises:
        ValueError: the name is unknown.
        TypeError: the object lacks one of the three costs.
    """
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ValueError(f"unknown loss {loss!r}; known losses: {', '.join(sorted(LOSSES))}")
        return LOSSES[loss]
    missing = [cost for cost in ("real", "fake", "generator") if not callable(getattr(loss, cost, None))]
    if missing:
        raise TypeError(
            f"loss {loss!r} has no {' and no '.join(missing)}: give real(logits), fake(logits) and generator(logits), "
            f"or one of the names {', '.join(sorted(LOSSES))}"
        )
    return cast(Loss, loss)


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * (outputs - targets.view_as(outputs)).square().reshape(len(outputs), -1).sum(1)


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    if not targets.is_floating_point():
        targets = targets.long()  # torch takes no other signed whole numbers
    return cross_entropy(outputs, targets, reduction="none")


def _binary_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    logits = outputs.view(len(outputs))
    return binary_cross_entropy_with_logits(logits, targets.to(logits.dtype).view_as(logits), reduction="none")


ONE_PLAYER_LOSSES: dict[str, PairCost] = {
    # |f(x) - y|^2 / 2; outputs (n,) or (n, k), targets of as many numbers.
    "squared_error": _squared_error,
    # -log softmax(f(x))_y; outputs (n, classes), targets (n,) class indices, or (n, classes) probabilities.
    "cross_entropy": _cross_entropy,
    # -log sigmoid(+-f(x)); outputs (n,) or (n, 1), targets 0 or 1, or probabilities of 1 between them.
    "binary_cross_entropy": _binary_cross_entropy,
}


def resolve_one_player(loss: object) -> PairCost:
    """The one-player loss of that name, or ``loss`` itself where it is a function ``(outputs, targets) -> (n,)``.

    Raises:
        ValueError: the name is unknown.
        TypeError: it is neither a name nor a function.
    """
    known = ", ".join(sorted(ONE_PLAYER_LOSSES))
    if isinstance(loss, str):
        if loss not in ONE_PLAYER_LOSSES:
            raise ValueError(f"unknown loss {loss!r} of a one-player game; known losses: {known}")
        return ONE_PLAYER_LOSSES[loss]
    if not callable(loss):
        raise TypeError(f"the loss of a one-player game is a function (outputs, targets) -> (n,), or one of {known}")
    return loss


def check_targets(loss: object, targets: Tensor) -> None:
    """Whether these are targets as the one-player loss takes them, as far as that shows without a model's outputs.

    The losses themselves do not look: at every step that would cost a pass over the targets. Of a function of the
    user's own nothing is known, and nothing is checked.

    Args:
        loss: a name in ``ONE_PLAYER_LOSSES``, or what :func:`resolve_one_player` gave for it.
        targets: of all rows.

    Raises:
        TypeError: targets are of a data type that the loss cannot use, such as class indices that are no whole numbers.
        ValueError: some are outside the loss's range, such as -1 or 255 for ``binary_cross_entropy``, a negative class
            index, or probabilities that do not sum to 1; or class indices are of another shape than ``(n,)``.
    """
    cost = ONE_PLAYER_LOSSES.get(loss) if isinstance(loss, str) else loss
    if cost is _squared_error:
        _check_numbers(targets)
    elif cost is _cross_entropy and targets.is_floating_point() and targets.ndim == 2:
        _check_probabilities(targets)
    elif cost is _cross_entropy:
        _check_classes(targets)
    elif cost is _binary_cross_entropy:
        _check_labels(targets)


def check_classes(loss: object, outputs: Tensor, targets: Tensor) -> None:
    """Has each class of the rows an output of the model, and are there several?

    Args:
        loss: as :func:`resolve_one_player` gave it.
        outputs: of the model, for some of the rows.
        targets: of all rows.

    Raises:
        ValueError: a class index is not below the number of outputs; all rows are of the same class.
    """
    if loss not in (_cross_entropy, _binary_cross_entropy):
        return
    if loss is _cross_entropy and targets.ndim == 1 and outputs.ndim > 1:
        n = outputs.shape[1]
        fix = "give the model an output for each class, or number the classes from 0"
        _refuse(targets >= n, targets, f"class indices of cross_entropy must be below {n}, the model's outputs", fix)
    one = targets[0]
    if len(targets) > 1 and targets.ndim == 1 and bool((targets == one).all()) and float(one).is_integer():
        raise ValueError(
            f"all {len(targets)} targets are {one.item():g}, a single class, which leaves a model nothing to tell "
            "apart: look at how the labels were read"
        )


def _check_numbers(targets: Tensor) -> None:
    if targets.dtype == torch.bool or targets.is_complex():
        raise TypeError(f"targets of squared_error must be real numbers, got {targets.dtype}: convert them to floats")
    _refuse(~targets.isfinite(), targets, "targets of squared_error must be finite", "repair or remove such rows")


def _check_labels(targets: Tensor) -> None:
    if targets.is_complex():
        raise TypeError(f"targets of binary_cross_entropy must be real numbers, got {targets.dtype}")
    values = targets.double()
    expected = "targets of binary_cross_entropy must be 0 or 1, or between them"
    fix = "turn labels -1 and 1 into (y + 1) / 2, 0 and 255 into y / 255"
    _refuse(~((values >= 0) & (values <= 1)), values, expected, fix)


def _check_classes(targets: Tensor) -> None:
    if targets.dtype == torch.bool or targets.is_floating_point() or targets.is_complex():
        first = f", {targets.flatten()[0].item()} in row 0" if targets.numel() else ""
        raise TypeError(
            f"class indices of cross_entropy must be whole numbers, got {targets.dtype}{first}: give targets.long()"
        )
    if targets.ndim != 1:
        raise ValueError(
            f"class indices of cross_entropy must have shape (n,), got {tuple(targets.shape)}: "
            "flatten them, or turn one-hot rows into targets.argmax(1)"
        )
    fix = "number the classes from 0, and remove rows without one (torch's -100)"
    _refuse(targets.long() < 0, targets, "class indices of cross_entropy must count from 0", fix)


def _check_probabilities(targets: Tensor) -> None:
    """One of each class in a row: none below 0 and, but for rounding, 1 together."""
    name, fix = "probabilities of the classes of cross_entropy", "divide each row by its sum, or give class indices"
    _refuse(~(targets >= 0), targets, f"{name} must be at least 0", fix)
    sums = targets.double().sum(1)
    _refuse((sums - 1).abs() > 0.01, sums, f"{name} must sum to 1 in each row", fix)


def _refuse(bad: Tensor, values: Tensor, expected: str, fix: str) -> None:
    """Raise a ValueError that names the first bad value, and its row, where there is one."""
    if bad.any():
        where = tuple(bad.nonzero()[0].tolist())
        raise ValueError(f"{expected}, got {values[where].item():.6g} in row {where[0]}: {fix}")
