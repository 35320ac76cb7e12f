"""What a device must do for the same run to give the same bits, and in the data type that was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch

__all__ = ["check_device", "is_out_of_memory", "repeatable"]

_SAYS_OUT_OF_MEMORY = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")


def repeatable(device: torch.device) -> AbstractContextManager:
    """On CUDA: convolutions that repeat themselves bit for bit, and with matrix products in full float32, not TF32.

    Everything else here repeats itself as it is.
    """
    return nullcontext() if device.type != "cuda" else _exact()


@contextmanager
def _exact() -> Iterator[None]:
    cudnn = torch.backends.cudnn
    with ExitStack() as stack:

        def put(owner: Any, name: str, value: Any) -> None:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)

        if _precision_is_told_by_flags():
            stack.enter_context(cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False))
        else:
            put(cudnn, "benchmark", False)
            put(cudnn, "deterministic", True)
        for operation in (cudnn.conv, torch.backends.cuda.matmul):  # type: ignore[attr-defined]
            if operation.fp32_precision == "tf32":
                put(operation, "fp32_precision", "ieee")
        yield


def _precision_is_told_by_flags() -> bool:
    """Or by torch's newer ``fp32_precision``? They do not mix: reading or restoring the one fails beside the other."""
    try:
        torch.backends.cudnn.allow_tf32  # noqa: B018
    except RuntimeError:
        return False
    return {torch.backends.fp32_precision, torch.backends.cudnn.fp32_precision} == {"none"}  # type: ignore[attr-defined]


def check_device(device: torch.device | str) -> torch.device:
    """The device, if it is there.

    Raises:
        ValueError: a CUDA device is asked for and absent.
    """
    wanted = torch.device(device)
    if wanted.type != "cuda":
        return wanted
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (wanted.index or 0) >= there:
        found = f"only {there} are" if there else "none is"
        raise ValueError(f"device {str(device)!r} is asked for, but {found} there: train with device='cpu'")
    return wanted


def is_out_of_memory(error: Exception) -> bool:
    """Torch says so in several ways."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        words in str(error) for words in _SAYS_OUT_OF_MEMORY
    )
