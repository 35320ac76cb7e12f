"""What a sweep holds in memory, counted while it runs."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

import gan_influence as gi
from bench import fcgan
from gan_influence.schedule import Schedule

__all__ = ["KINDS", "measure_memory"]

KINDS: dict[str, tuple[str | gi.Checkpoint, float | None]] = {  # how states are kept, and the limit over sqrt(T)
    "full_memory_sweep": ("full", None),
    "checkpointed_sweep": ("checkpoint", 2.2),
    "checkpointed_sweep_keeping_graphs": (gi.Checkpoint(keep_graphs=True), 2.2),
}
_EVERY = 7  # a count takes milliseconds, and a segment's states stay for all of its steps


@dataclass
class _Watching:
    """A schedule that counts live tensors when it is asked for a batch, as it is at every step, replayed or not.

    Attributes:
        state: the shape of what is counted, once known.
        states: the most that were alive at once.
        mebibytes: the most that all tensors together took.
    """

    schedule: Schedule
    state: torch.Size | None = None
    states: float = 0.0
    mebibytes: float = 0.0
    calls: int = 0

    def __call__(self, t: int) -> gi.Batch:
        self.calls += 1
        if self.state is not None and self.calls % _EVERY == 0:
            self._count(self.state)
        return self.schedule(t)

    def _count(self, state: torch.Size) -> None:
        live, of_states = {}, {}
        for tensor in gc.get_objects():
            if type(tensor) in (torch.Tensor, torch.nn.Parameter):  # and not a fake one, left by a recording
                storage = tensor.untyped_storage()
                live[storage.data_ptr()] = storage.nbytes()
                if tensor.shape[-len(state) :] == state:
                    of_states[storage.data_ptr()] = storage.nbytes() / tensor.element_size()
        self.states = max(self.states, sum(of_states.values()) / math.prod(state))
        self.mebibytes = max(self.mebibytes, sum(live.values()) / 2**20)


def measure_memory(kind: str, device: str, steps: int) -> dict[str, Any]:
    """The most states alive at once in a sweep over ``steps`` steps of the FCGAN, those of its trace included.

    A state is a tensor of the shape of one, or a part of a stack of such. ``mebibytes`` is what all tensors that Python
    can see take together, data and kept activations included.
    """
    memory, limit = KINDS[kind]
    watching = _Watching(gi.Minibatches(fcgan.ROWS, fcgan.BATCH, fcgan.LATENT, seed=0))
    with _only_new_objects():
        trace, metric = fcgan.trained(device, watching, steps, memory)
        watching.state = trace.state().shape
        gi.itd(trace, metric)
    most = None if limit is None else limit * math.sqrt(steps)
    return {
        "name": kind,
        "game": "fcgan",
        "device": device,
        "steps": steps,
        "states": round(watching.states, 1),
        "mebibytes": round(watching.mebibytes, 2),
        "limit": most,
        "met": most is None or watching.states <= most,
    }


@contextmanager
def _only_new_objects() -> Iterator[None]:
    """Keep what is there already, hundreds of thousands of objects, out of the counts."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
