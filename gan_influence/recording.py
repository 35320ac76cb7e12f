"""Replay a function of tensors as the plain list of operations that it performed.

A training step or an adjoint step of a small game is a hundred operations of a few microseconds each, and building and
walking autograd graphs (through ``vmap``, module calls and Python) costs several times the arithmetic. The steps of
a run all perform the same operations on tensors of the same shapes, so one of them can be recorded, forward and
backward passes alike, and replayed. Operations, shapes and order are the same, hence so are the bits.

Code that no replay can stand for is called as it is, with a warning that it is slow: what reads values in Python, what
writes into its arguments, its modules or what else it closes over (:mod:`gan_influence.replay.graph`). What besides
may differ from call to call, a global, Python's random numbers, cannot be seen in a list of operations. So a replay is
compared with the function itself, bit for bit: where it was recorded, and with what is given to its first call, its
second, its fourth and so on, which costs nothing in the long run.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

import torch
from torch import Tensor

from gan_influence.devices import repeatable
from gan_influence.replay.cuda import captured
from gan_influence.replay.graph import UnrecordableError, difference, traced
from gan_influence.replay.split import split

__all__ = ["PullBack", "Recorded", "RecordedLinearisation"]

Outputs = TypeVar("Outputs", Tensor, tuple[Tensor, ...])
PullBack = Callable[[Tensor], tuple[Tensor, ...]]

_EAGER_CALLS = 64  # recording takes as long as about a hundred calls
_ALL_COMPARED = 2  # first replays, so that there giving a recording up is in time
_TRACING = threading.RLock()  # torch traces one function at a time


class Recorded(Generic[Outputs]):
    """``function``, recorded once it has been called often with tensors of the same shapes, layouts and types.

    Args:
        function: takes tensors only and returns a tensor or a tuple of them, without side effects. What it closes
            over must not change between calls.
        record_after: how many calls are made before.

    Raises:
        RuntimeError: a late comparison found that the function is not the same at every call.
    """

    def __init__(self, function: Callable[..., Outputs], record_after: int | None = None):
        self._function: Callable[..., Outputs] = function
        self._replays: _Replays[_Compared[Outputs]] = _Replays(record_after)

    def __call__(self, *tensors: Tensor) -> Outputs:
        signature = _signature(tensors)
        with repeatable(tensors[0].device):
            replay = self._replays.get(signature)
            if replay is not None and replay.holds(*tensors):
                with torch.no_grad():
                    return replay.replay(*tensors)
            if replay is None and self._replays.is_due(signature):
                self._replays.record(signature, partial(self._record, *tensors))
            return self._function(*tensors)

    def _record(self, *tensors: Tensor) -> _Compared[Outputs]:
        return _Compared(self._function, _on_device(_verified(self._function, *tensors).forward, *tensors))


class RecordedLinearisation:
    """``linearise``, recorded in two parts: what does not depend on the cotangent, and what does.

    Args:
        linearise: ``(*tensors) -> (value, pull_back)`` with ``pull_back(cotangent) -> tuple of tensors``, without side
            effects.
        record_after: how many calls are made before.

    The first part computes the value and everything that ``pull_back`` needs; many of them can be kept before the
    first is pulled back. Where the value is not wanted, what only it needs is left out: a third of the products of a
    step of training. Comparisons pull back the cotangent of the recording, so that they need not wait for another.

    Raises:
        RuntimeError: a late comparison found that the function is not the same at every call.
    """

    def __init__(self, linearise: Callable[..., tuple[Tensor, PullBack]], record_after: int | None = None):
        self._linearise = linearise
        self._replays: _Replays[_ComparedInTwo] = _Replays(record_after)

    def __call__(self, *tensors: Tensor, cotangent_shape: torch.Size) -> tuple[Tensor, PullBack]:
        """``(value, pull_back)``, to be pulled back from a cotangent of this shape."""
        (value,), pull_back = self._called(tensors, cotangent_shape, True)
        return value, pull_back

    def pull_back(self, *tensors: Tensor, cotangent_shape: torch.Size) -> PullBack:
        """The pull-back alone, from a cotangent of this shape."""
        return self._called(tensors, cotangent_shape, False)[1]

    def _called(
        self, tensors: tuple[Tensor, ...], cotangent_shape: torch.Size, with_value: bool
    ) -> tuple[tuple[Tensor, ...], PullBack]:
        signature = (with_value, cotangent_shape, *_signature(tensors))
        with repeatable(tensors[0].device):
            replay = self._replays.get(signature)
            if replay is not None and replay.holds(*tensors):
                with torch.no_grad():
                    found = replay.forward(*tensors)
                return found[:with_value], partial(_replayed, replay.backward, found[with_value:])
            value, pull_back = self._linearise(*tensors)
        if replay is None and self._replays.is_due(signature):
            return (value,), partial(self._pull_back_and_record, signature, tensors, pull_back)
        return (value,), partial(_repeatably, pull_back)

    def _pull_back_and_record(
        self, signature: tuple, tensors: tuple[Tensor, ...], pull_back: PullBack, cotangent: Tensor
    ) -> tuple[Tensor, ...]:
        found = _repeatably(pull_back, cotangent)
        with repeatable(cotangent.device):
            self._replays.record(signature, partial(self._record, signature[0], cotangent.contiguous(), *tensors))
        return found

    def _record(self, with_value: bool, cotangent: Tensor, *tensors: Tensor) -> _ComparedInTwo:
        def whole(cotangent: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
            value, pull_back = self._linearise(*tensors)
            return (value, *pull_back(cotangent)) if with_value else pull_back(cotangent)

        forward, backward = split(_verified(whole, cotangent, *tensors), with_value)
        with torch.no_grad():
            kept = forward(*tensors)[with_value:]
        forward, backward = _on_device(forward, *tensors), _on_device(backward, cotangent, *kept)
        return _ComparedInTwo(whole, forward, backward, with_value, cotangent.clone())


Replay = TypeVar("Replay")


class _Replays(Generic[Replay]):
    """What was recorded for each signature, once a function has been called often enough with it."""

    def __init__(self, record_after: int | None):
        self._record_after = record_after
        self._calls: dict[tuple, int] = {}
        self._recorded: dict[tuple, Replay | None] = {}

    def get(self, signature: tuple) -> Replay | None:
        """``None`` where it is not recorded, or cannot be."""
        return self._recorded.get(signature)

    def is_due(self, signature: tuple) -> bool:
        """Count a call that was not replayed. Is it to be recorded?"""
        calls = self._calls[signature] = self._calls.get(signature, 0) + 1
        enough = _EAGER_CALLS if self._record_after is None else self._record_after
        return calls >= enough and signature not in self._recorded

    def record(self, signature: tuple, record: Callable[[], Replay]) -> None:
        """Keep what ``record`` makes, unless another thread has made it meanwhile; warn where it cannot."""
        with _TRACING:
            if signature in self._recorded:
                return
            try:
                self._recorded[signature] = record()
            except UnrecordableError as error:
                self._recorded[signature] = None
                _warn(error)


class _Compared(Generic[Outputs]):
    """A replay, and when it is compared with its function: at its calls 1, 2, 4, 8 and so on."""

    def __init__(self, function: Callable[..., Outputs], replay: Callable[..., Outputs]):
        self.function: Callable[..., Outputs] = function
        self.replay: Callable[..., Outputs] = replay
        self._calls, self._next = 0, 1
        self._is_given_up = False

    def holds(self, *tensors: Tensor) -> bool:
        """Count a call. May its result be replayed?

        Raises:
            RuntimeError: no, and neither might those of earlier calls.
        """
        self._calls += 1
        if self._calls < self._next or self._is_given_up:
            return not self._is_given_up
        calls = self._calls
        self._next = 2 * calls
        found = self._difference(*tensors)
        if found is None:
            return True
        if calls > _ALL_COMPARED:
            raise RuntimeError(_ANOTHER_FUNCTION.format(calls, found))
        self._is_given_up = True
        _warn(f"at call {calls} of its recording {found}: {_CAUSES}")
        return False

    def _difference(self, *tensors: Tensor) -> str | None:
        return difference(self.function, self.replay, *_as_replayed(tensors))


_CAUSES = "it may count its calls, read a value in Python, draw random numbers, or change what it closes over"
_ANOTHER_FUNCTION = (
    "a step that is replayed is not the function that was recorded: at call {} of the recording, {}. The modules' or "
    f"the loss's code is not the same at every call ({_CAUSES}), so that steps since the last comparison were other "
    "than its own. Make it a function of its inputs and parameters alone"
)


class _ComparedInTwo(_Compared[tuple[Tensor, ...]]):
    """A linearisation's two parts, compared as a whole."""

    def __init__(
        self, whole: Callable, forward: Callable, backward: Callable, with_value: bool, cotangent: Tensor
    ) -> None:
        super().__init__(whole, self._in_two)
        self.forward, self.backward, self._with_value, self._cotangent = forward, backward, with_value, cotangent

    def _in_two(self, cotangent: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        found = self.forward(*tensors)
        return *found[: self._with_value], *self.backward(cotangent, *found[self._with_value :])

    def _difference(self, *tensors: Tensor) -> str | None:
        return super()._difference(self._cotangent, *tensors)


def _signature(tensors: tuple[Tensor, ...]) -> tuple:
    """What a recording holds for: operations, and the order of their sums, depend on layout and data type too."""
    return tuple((tensor.shape, tensor.stride(), tensor.dtype, tensor.device) for tensor in tensors)


def _verified(function: Callable[..., Outputs], *tensors: Tensor) -> torch.fx.GraphModule:
    module = traced(function, *tensors)
    found = difference(function, module.forward, *tensors)
    if found is not None:
        raise UnrecordableError(found)
    return module


def _on_device(replay: Callable[..., Outputs], *tensors: Tensor) -> Callable[..., Outputs]:
    """On CUDA as one graph of kernels; elsewhere, and where they cannot be captured, as it is."""
    if not any(tensor.is_cuda for tensor in tensors):
        return replay
    try:
        return captured(replay, *tensors)
    except UnrecordableError as error:
        _warn(error)
        return replay


def _as_replayed(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """On CUDA copies, as a captured replay works on: there kernels add up in an order that depends on alignment."""
    return tuple(tensor.clone() if tensor.is_cuda else tensor for tensor in tensors)


def _repeatably(pull_back: PullBack, cotangent: Tensor) -> tuple[Tensor, ...]:
    with repeatable(cotangent.device):
        return pull_back(cotangent.contiguous())


def _replayed(backward: Callable, kept: tuple[Tensor, ...], cotangent: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad(), repeatable(cotangent.device):
        return backward(cotangent.contiguous(), *kept)


def _warn(reason: object) -> None:
    warnings.warn(f"a step is called as it is, several times slower than recorded: {reason}", stacklevel=5)
