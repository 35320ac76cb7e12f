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
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor

from gan_influence import trees
from gan_influence.devices import repeatable
from gan_influence.replay.cuda import captured
from gan_influence.replay.graph import UnrecordableError, compiled, difference, traced
from gan_influence.replay.split import split
from gan_influence.surroundings import callers_level
from gan_influence.trees import Tree

__all__ = ["PullBack", "Recorded", "RecordedLinearisation"]

PullBack: TypeAlias = Callable[[Tensor], tuple[Tensor, ...]]
Flat: TypeAlias = Callable[..., tuple[Tensor, ...]]

_EAGER_CALLS = 64  # recording takes as long as about a hundred calls
_ALL_COMPARED = 2  # first replays, so that there giving a recording up is in time
_TRACING = threading.RLock()  # torch traces one function at a time


class Recorded:
    """``function``, recorded once it has been called often with tensors of the same shapes, layouts and types.

    Args:
        function: takes trees of tensors and returns one, without side effects. What it closes over must not change
            between calls. Here, and nowhere else, trees are taken apart.
        record_after: how many calls are made before.

    Raises:
        RuntimeError: a late comparison found that the function is not the same at every call.
    """

    def __init__(self, function: Callable[..., Tree], record_after: int | None = None):
        self._function = function
        self._replays: _Replays[_Compared] = _Replays(record_after)

    def __call__(self, *arguments: Tree) -> Tree:
        leaves: list[Tensor] = []
        form = trees.form(arguments, leaves)
        signature = form, _signature(leaves)
        with repeatable(leaves[0].device):
            replay = self._replays.get(signature)
            if replay is not None and replay.holds(*leaves):
                with torch.no_grad():
                    return replay.form.tree(replay.replay(*leaves))
            if replay is None and self._replays.is_due(signature):
                self._replays.record(signature, partial(self._record, form, *leaves))
            return self._function(*arguments)

    def _record(self, form: Any, *leaves: Tensor) -> _Compared:
        of_result = _Form()

        def flat(*leaves: Tensor) -> tuple[Tensor, ...]:
            return of_result.leaves(self._function(*trees.build(form, iter(leaves))))

        return _Compared(flat, _on_device(compiled(_verified(flat, *leaves)), *leaves), of_result)


class RecordedLinearisation:
    """``linearise``, recorded in two parts: what does not depend on the cotangent, and what does.

    Args:
        linearise: ``(*trees) -> (value, pull_back)`` with ``pull_back(cotangent) -> tuple of tensors``, without side
            effects; the value is a tree.
        record_after: how many calls are made before.

    The first part computes the value and everything that ``pull_back`` needs; many of them can be kept before the
    first is pulled back. Where the value is not wanted, what only it needs is left out: a third of the products of a
    step of training. Comparisons pull back the cotangent of the recording, so that they need not wait for another.

    Raises:
        RuntimeError: a late comparison found that the function is not the same at every call.
    """

    def __init__(self, linearise: Callable[..., tuple[Tree, PullBack]], record_after: int | None = None):
        self._linearise = linearise
        self._replays: _Replays[_ComparedInTwo] = _Replays(record_after)

    def __call__(self, *arguments: Tree, cotangent_shape: torch.Size) -> tuple[Tree, PullBack]:
        """``(value, pull_back)``, to be pulled back from a cotangent of this shape."""
        return self._called(arguments, cotangent_shape, True)

    def pull_back(self, *arguments: Tree, cotangent_shape: torch.Size) -> PullBack:
        """The pull-back alone, from a cotangent of this shape."""
        return self._called(arguments, cotangent_shape, False)[1]

    def _called(
        self, arguments: tuple[Tree, ...], cotangent_shape: torch.Size, with_value: bool
    ) -> tuple[Tree, PullBack]:
        leaves: list[Tensor] = []
        form = trees.form(arguments, leaves)
        signature = with_value, cotangent_shape, form, _signature(leaves)
        with repeatable(leaves[0].device):
            replay = self._replays.get(signature)
            if replay is not None and replay.holds(*leaves):
                with torch.no_grad():
                    found = replay.forward(*leaves)
                value = replay.form.tree(found[: replay.values]) if with_value else None
                return value, partial(_replayed, replay.backward, found[replay.values :])
            value, pull_back = self._linearise(*arguments)
        if replay is None and self._replays.is_due(signature):
            return value, partial(self._pull_back_and_record, signature, leaves, pull_back)
        return value, partial(_repeatably, pull_back)

    def _pull_back_and_record(
        self, signature: tuple, leaves: list[Tensor], pull_back: PullBack, cotangent: Tensor
    ) -> tuple[Tensor, ...]:
        found = _repeatably(pull_back, cotangent)
        with_value, _, form, _ = signature
        with repeatable(cotangent.device):
            self._replays.record(signature, partial(self._record, with_value, form, cotangent.contiguous(), *leaves))
        return found

    def _record(self, with_value: bool, form: Any, cotangent: Tensor, *leaves: Tensor) -> _ComparedInTwo:
        of_value = _Form()

        def whole(cotangent: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
            value, pull_back = self._linearise(*trees.build(form, iter(leaves)))
            return (*(of_value.leaves(value) if with_value else ()), *pull_back(cotangent))

        module = _verified(whole, cotangent, *leaves)
        values = of_value.size
        forward, backward = split(module, values)
        with torch.no_grad():
            kept = forward(*leaves)[values:]
        forward, backward = _on_device(forward, *leaves), _on_device(backward, cotangent, *kept)
        return _ComparedInTwo(whole, forward, backward, of_value, cotangent.clone())


class _Form:
    """Of a function's results, found out when it is called."""

    def __init__(self) -> None:
        self.size, self._form = 0, None

    def leaves(self, tree: Tree) -> tuple[Tensor, ...]:
        """Taken apart."""
        found: list[Tensor] = []
        self._form = trees.form(tree, found)
        self.size = len(found)
        return tuple(found)

    def tree(self, leaves: tuple[Tensor, ...]) -> Tree:
        """Put together again."""
        return trees.build(self._form, iter(leaves))


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


class _Compared:
    """A replay, and when it is compared with its function: at its calls 1, 2, 4, 8 and so on."""

    def __init__(self, function: Flat, replay: Flat, form: _Form):
        self.function, self.replay, self.form = function, replay, form
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


class _ComparedInTwo(_Compared):
    """A linearisation's two parts, compared as a whole."""

    def __init__(self, whole: Flat, forward: Flat, backward: Flat, of_value: _Form, cotangent: Tensor):
        super().__init__(whole, self._in_two, of_value)
        self.forward, self.backward, self.values, self._cotangent = forward, backward, of_value.size, cotangent

    def _in_two(self, cotangent: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
        found = self.forward(*leaves)
        return *found[: self.values], *self.backward(cotangent, *found[self.values :])

    def _difference(self, *leaves: Tensor) -> str | None:
        return super()._difference(self._cotangent, *leaves)


def _signature(tensors: list[Tensor]) -> tuple:
    """What a recording holds for: operations, and the order of their sums, depend on layout and data type too."""
    return tuple([(tensor.shape, tensor.stride(), tensor.dtype, tensor.device) for tensor in tensors])


def _verified(function: Flat, *tensors: Tensor) -> torch.fx.GraphModule:
    module = traced(function, *tensors)
    found = difference(function, module.forward, *tensors)
    if found is not None:
        raise UnrecordableError(found)
    return module


def _on_device(replay: Flat, *tensors: Tensor) -> Flat:
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
    warnings.warn(
        f"a step is called as it is, several times slower than recorded: {reason}", stacklevel=callers_level()
    )
