"""What a device must do for the same run to give the same bits, and in the data type that was asked for."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

__all__ = ["check_device", "repeatable"]


def repeatable(device: torch.device) -> AbstractContextManager:
    """On CUDA: convolutions that repeat themselves bit for bit, in full float32 instead of TF32's ten bits.

    Everything else here repeats itself as it is, and matrix products are in full float32 by torch's default.
    """
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


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
