"""What a call costs: operations, process time and memory."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from gan_influence.replay import recorded

__all__ = ["operations", "peak_bytes", "process_times"]


def operations(call: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products, counted as they are dispatched."""
    with _as_called(), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def process_times(call: Callable[[int], object], sizes: np.ndarray) -> list[float]:
    """Seconds of process time that the call takes at each size."""
    times = []
    call(int(sizes[0]))  # what is imported and compiled once is not counted
    for size in sizes.tolist():
        begun = time.process_time()
        call(size)
        times.append(time.process_time() - begun)
    return times


def peak_bytes(call: Callable[[], object]) -> int:
    """The largest sum of bytes of live tensors that the call makes."""
    with _as_called(), _LiveBytes() as counted:
        call()
    return counted.peak


@contextmanager
def _as_called() -> Iterator[None]:
    """Without recordings, whose one-time cost and tracing would be counted."""
    usual, recorded._EAGER_CALLS = recorded._EAGER_CALLS, 10**9
    try:
        yield
    finally:
        recorded._EAGER_CALLS = usual


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of torch's tensors that are alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        before = {one.untyped_storage().data_ptr() for one in args if isinstance(one, Tensor)}
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in before:
                storage = tensor.untyped_storage()
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._release, storage.nbytes())
        return made

    def _release(self, size: int) -> None:
        self.live -= size
