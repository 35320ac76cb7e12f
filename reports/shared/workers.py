"""Worker processes for units of work: one thread each, gone when their parent is."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch

__all__ = ["Workers", "cluster", "processes", "worker_count", "worker_pool"]

Workers = Callable[[int, str], AbstractContextManager[Executor]]


def worker_count(tasks: int, device: str = "cpu") -> int:
    """As many processes as there are cores, or devices, but no more than tasks."""
    return 1 if device != "cpu" else max(min(len(os.sched_getaffinity(0)), tasks), 1)


@contextmanager
def worker_pool(tasks: int, device: str = "cpu", jobs: int | None = None) -> Iterator[ProcessPoolExecutor]:
    """A pool of so many processes, or as many as there are cores, tasks or devices; an exception stops it at once."""
    count = worker_count(tasks, device) if jobs is None else jobs
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _prepare, (device,))
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


class _Here(Executor):
    """Work done in this process, when it is asked for: nothing to start, and everything to step through."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def processes(jobs: int) -> Workers:
    """That many processes; one job is done in this one."""

    @contextmanager
    def here(tasks: int, device: str) -> Iterator[Executor]:
        yield _Here()

    return here if jobs == 1 else partial(worker_pool, jobs=jobs)


def cluster(address: str) -> Workers:
    """The workers of a Dask scheduler, such as ``tcp://10.0.0.1:8786``; a unit whose worker is lost goes to another.

    Raises:
        SystemExit: ``distributed`` is not installed, or there is no scheduler; also where it is lost meanwhile.
    """

    @contextmanager
    def elsewhere(tasks: int, device: str) -> Iterator[Executor]:
        try:
            from distributed import Client
        except ImportError as error:
            raise SystemExit("--scheduler needs Dask: pip install 'gan-influence[cluster]'") from error
        try:
            client = Client(address, timeout="10s", set_as_default=False)
        except (OSError, ValueError) as error:
            raise SystemExit(f"--scheduler {address}: no scheduler answers there ({error})") from error
        for name in (
            "tornado",
            "asyncio",
            *(name for name in logging.root.manager.loggerDict if "distributed" in name),
        ):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what they would log is said below
        try:
            yield client.get_executor(pure=False, retries=_RETRIES)
        except BaseException as error:
            if client.status != "running" or type(error).__name__ in _LOST:
                raise SystemExit(
                    f"the scheduler {address} was lost ({type(error).__name__}: {error}). Finished units are kept: "
                    "start it again, and the same command goes on from there"
                ) from error
            raise
        finally:
            client.close(timeout=2)

    return elsewhere


_RETRIES = 3  # of a unit whose worker is lost
_LOST = ("CommClosedError", "CancelledError", "FutureCancelledError", "ClosedClientError")
