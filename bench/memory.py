"""What estimators hold in memory: states of a sweep, counted while it runs, and the peak of a process of its own."""

from __future__ import annotations

import gc
import math
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

import gan_influence as gi
from bench import dcgan, fcgan
from gan_influence.history import History
from gan_influence.schedules import Schedule
from gan_influence.step import states

__all__ = ["KINDS", "PEAKS", "Peak", "can_measure_peaks", "long_run", "measure_memory", "measure_peak", "measure_peaks"]

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
        watching.state = trace.state().moving.shape
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


class Peak(NamedTuple):
    """Whose peak is measured.

    Attributes:
        name: the estimator's.
        size: of the DCGAN.
        steps: of its run, a square number.
        memory: how the run keeps its states.
        terms: of AID; ``None`` for ITD.
    """

    name: str
    size: dcgan.Size
    steps: int
    memory: str = "full"
    terms: int | None = None


def _peaks(of_itd: dcgan.Size, steps: int, of_aid: dcgan.Size, lengths: list[int], terms: list[int]) -> list[Peak]:
    short, long = lengths
    return [
        Peak("full_memory_sweep", of_itd, steps),
        Peak("checkpointed_sweep", of_itd, steps, "checkpoint"),
        Peak("aid", of_aid, short, terms=terms[0]),
        Peak("aid", of_aid, short, terms=terms[1]),
        Peak("aid", of_aid, long, terms=terms[0]),
    ]


PEAKS = {
    "smoke": _peaks(dcgan.Size(2, 8), 49, dcgan.Size(2, 8), [4, 49], [4, 49]),
    "standard": _peaks(dcgan.Size(8), 10_000, dcgan.Size(8, 8), [100, 1000], [10, 1000]),
}
_SWEPT = 3
_LONG = 64  # steps, of which the last is recorded
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def can_measure_peaks(device: str) -> bool:
    return device == "cuda" or _CLEAR.exists()


def measure_peaks(preset: str, device: str) -> Iterator[dict[str, Any]]:
    """:func:`measure_peak` of the sweeps and of AID, whose peak is to grow neither with T nor with M."""
    limit = None
    for peak in PEAKS[preset]:
        row = measure_peak(peak, device)
        if peak.terms is not None:
            limit = limit or round(1.1 * row["peak_mebibytes"] + 1, 1)  # of the shortest series and run
            row |= {"limit": limit, "met": row["peak_mebibytes"] <= limit}
        yield row


def measure_peak(peak: Peak, device: str) -> dict[str, Any]:
    """The most memory that a sweep's run and the sweep took, or AID alone, besides what a process holds anyway.

    On a CPU that of a process, started for it (on Linux only); on a GPU that of torch's allocator. ``of_states`` are
    the run's kept states and those of a replayed segment: the rest is data and what a step keeps for its backward
    passes.
    """
    if device == "cuda":
        return _measured(peak, device, torch.get_num_threads())
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.__main__", "torch.fx.experimental.proxy_tensor"])
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(_measured, peak, device, torch.get_num_threads()).result()


def _measured(peak: Peak, device: str, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    _warm_up(device)
    with dcgan.recorded_at_once() if peak.steps > _LONG else nullcontext():
        mebibytes, trace = (_of_itd if peak.terms is None else _of_aid)(peak, device)
    held = len(trace.history.kept(0, peak.steps)) + trace.history.every - 1
    return {
        "name": peak.name,
        "game": str(peak.size),
        "device": device,
        "steps": peak.steps,
        "terms": peak.terms,
        "peak_mebibytes": round(mebibytes, 1),
        "of_states": round(held * trace.state().moving.nbytes / 2**20, 1),
        "limit": None,
        "met": None,
    }


def _warm_up(device: str) -> None:
    """What a process loads when it first does something."""
    trace = dcgan.trained(device, dcgan.Size(1, 8), 2)
    gi.itd(trace, dcgan.METRIC)
    gi.aid(trace, dcgan.METRIC, 2)


def _of_itd(peak: Peak, device: str) -> tuple[float, gi.Trace]:
    """Of the run, and of the sweep's first steps, with a segment replayed: it has then held all that it ever will."""

    def sweep() -> gi.Trace:
        trace = long_run(peak, device)
        gi.itd(trace, dcgan.METRIC, last=_SWEPT)
        return trace

    return _most(sweep, device)


def _of_aid(peak: Peak, device: str) -> tuple[float, gi.Trace]:
    """Of AID alone, beside the run."""
    assert peak.terms is not None
    trace = dcgan.trained(device, peak.size, peak.steps, peak.memory)
    mebibytes, _ = _most(partial(gi.aid, trace, dcgan.METRIC, peak.terms, damping=1.0), device)
    return mebibytes, trace


def long_run(peak: Peak, device: str) -> gi.Trace:
    """A run of which only the last segment is really taken, or the last steps if every state is kept.

    Before them, all states that are kept are the initial one: memory does not depend on what they hold.
    """
    every = 1 if peak.memory == "full" else math.isqrt(peak.steps)
    begun = dcgan.trained(device, peak.size, 0)
    start, begin = begun.state(), peak.steps - max(every, _SWEPT)
    history = History(start, 0, peak.steps, every)
    for t in history.kept(0, begin):
        history.keep(t, start)
    trace = replace(begun, history=history)
    for t, state in states(trace, start, trace.weights, range(begin, peak.steps)):
        history.keep(t, state)
    return trace


def _most(call: Callable[[], Any], device: str) -> tuple[float, Any]:
    """How far memory rises above where it is now, in MiB, and what the call gives."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        result = call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20, result
    before = psutil.Process().memory_info().rss
    _CLEAR.write_text("5")  # the highest so far is what is there now
    result = call()
    (highest,) = (line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(highest.split()[1]) / 2**10 - before / 2**20, result
