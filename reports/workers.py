"""Worker processes for units of work: one thread each, gone when their parent is."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

import torch

__all__ = ["worker_count", "worker_pool"]


def worker_count(tasks: int, device: str = "cpu") -> int:
    """As many processes as there are cores, or devices, but no more than tasks."""
    return 1 if device != "cpu" else max(min(len(os.sched_getaffinity(0)), tasks), 1)


@contextmanager
def worker_pool(tasks: int, device: str = "cpu") -> Iterator[ProcessPoolExecutor]:
    """A pool of as many processes as there are cores, tasks or devices; an exception stops it at once."""
    pool = ProcessPoolExecutor(worker_count(tasks, device), multiprocessing.get_context("spawn"), _prepare, (device,))
    try:
        yield pool
    except BaseException:
        for worker in list((pool._processes or {}).values()):  # they work on what nobody waits for any more
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare(device: str) -> None:
    """One thread each: small tensors gain nothing from more, and suffer when other processes take the cores."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    if device == "cpu":
        torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()


def _exit_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)
