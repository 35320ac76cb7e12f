"""The state of one of ``torch.optim``'s optimisers, as the rows of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gan_influence.optimizers.protocol import Optimizer

__all__ = ["from_torch"]


def from_torch(
    optimizer: Optimizer, state_dict: Mapping[str, Any], names: Sequence[str], shapes: Sequence[torch.Size], player: str
) -> tuple[Float[Tensor, "buffers d"], int | None]:
    raise NotImplementedError
