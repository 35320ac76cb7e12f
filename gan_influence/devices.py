"""What a device must do for the same run to give the same bits, and in the data type that was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress

import torch

__all__ = ["check_device", "repeatable"]


def repeatable(device: torch.device) -> AbstractContextManager:
    """On CUDA: convolutions that repeat themselves bit for bit, and with matrix products in full float32, not TF32.

    Everything else here repeats itself as it is.

    Raises:
        RuntimeError: the precision was set by one of torch's ``fp32_precision``, beside which this cannot be told.
    """
    return nullcontext() if device.type != "cuda" else _exact()


@contextmanager
def _exact() -> Iterator[None]:
    products = torch.backends.cuda.matmul
    usual = products.fp32_precision
    with ExitStack() as stack:
        if usual == "tf32":
            products.fp32_precision = "ieee"
            stack.callback(setattr, products, "fp32_precision", usual)
        try:
            flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
            stack.enter_context(flags)
        except RuntimeError as error:
            raise RuntimeError(_OTHER_PRECISION) from error
        if torch.backends.cudnn.conv.fp32_precision == "tf32":  # type: ignore[attr-defined]
            with suppress(RuntimeError):  # torch finds the same wrong when it restores its flags
                stack.close()
            raise RuntimeError(_OTHER_PRECISION)
        yield


_OTHER_PRECISION = (
    "influence needs convolutions in full float32, and torch.backends.fp32_precision or one of torch.backends.cudnn's "
    "is set: leave them at their defaults, or use torch.backends.cudnn.allow_tf32, which is put right where it matters"
)


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
