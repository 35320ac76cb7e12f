"""A replay on CUDA as one graph of kernels."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from gan_influence.replay.graph import UnrecordableError, difference

__all__ = ["captured"]

Outputs = TypeVar("Outputs")


def captured(replay: Callable[..., Outputs], *tensors: Tensor) -> Callable[..., Outputs]:
    """The replay's kernels, launched by one call.

    Raises:
        UnrecordableError: they cannot be captured, or do not give the replay's bits.
    """
    try:
        launch = Graph(replay, tensors)
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise UnrecordableError(f"it could not be captured as a CUDA graph: {error}") from error
    if difference(replay, launch, *launch.inputs) is not None:
        raise UnrecordableError("as a CUDA graph it differs from itself in some bits")
    return launch


class Graph:
    """The kernels of a replay, launched by one call.

    A graph works at fixed places in memory, and all of them are held here: its own inputs, where what it is given is
    copied; its outputs, of which copies are returned; and the constants of the replay, which go with the replay.
    """

    def __init__(self, replay: Callable[..., Any], tensors: tuple[Tensor, ...]):
        self._replay, self.inputs = replay, tuple(tensor.clone() for tensor in tensors)
        self._launching = threading.Lock()
        self._graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.device(tensors[0].device):
            replay(*self.inputs)  # outside the graph first: libraries set themselves up at their first call
            torch.cuda.synchronize()
            # A stream of this device: the one that torch captures on by itself belongs to the first device it saw.
            with torch.cuda.graph(self._graph, stream=torch.cuda.Stream()):
                self._outputs = replay(*self.inputs)

    def __call__(self, *given: Tensor) -> Any:
        with self._launching:
            for own, tensor in zip(self.inputs, given, strict=True):
                own.copy_(tensor)
            self._graph.replay()
            if isinstance(self._outputs, Tensor):
                return self._outputs.clone()
            return tuple(output.clone() for output in self._outputs)
