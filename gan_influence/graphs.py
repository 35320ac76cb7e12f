"""What torch has recorded of a computation: the nodes of its graph, and whether values can be read in it."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.func import debug_unwrap

__all__ = ["is_transformed", "nodes"]


def nodes(*outputs: Tensor) -> set[Any]:
    """The graph of these outputs."""
    waiting, seen = [output.grad_fn for output in outputs], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
    return seen


def is_transformed(tensor: Tensor) -> bool:
    """Is it within a transform of ``torch.func``, where no value can be read?"""
    return debug_unwrap(tensor) is not tensor
