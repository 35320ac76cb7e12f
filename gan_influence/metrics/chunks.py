"""A frozen network's outputs on many images, in memory that does not grow with their number."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Callable
from functools import partial
from itertools import chain
from types import MethodType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gan_influence import trees
from gan_influence.checks import is_whole
from gan_influence.devices import repeatable
from gan_influence.graphs import is_transformed
from gan_influence.metrics.inputs import generated
from gan_influence.players import Players
from gan_influence.trees import Tree

__all__ = [
    "PROBED",
    "Frozen",
    "check_chunk",
    "check_each_alone",
    "check_finite",
    "generated_in_chunks",
    "in_chunks",
]

PROBED = 4  # rows, to see whether each is treated by itself


class Frozen:
    """A network whose weights are constants: a copy in ``eval()`` mode, out of reach of the original's training.

    The copy follows the images to their device.

    Args:
        role: what the network is called in messages.
        network: a module, or a method of one, such as ``classifier.features``.
        dtype: of the images; the copy's weights are converted to it.

    Raises:
        ValueError: an image's outputs would depend on the others of its chunk.
    """

    def __init__(self, role: str, network: Callable[[Tensor], Tensor], dtype: torch.dtype):
        module: Any = network.__self__ if inspect.ismethod(network) else network
        self.module = copy.deepcopy(module).to(dtype).requires_grad_(False).eval()
        self.call = MethodType(network.__func__, self.module) if inspect.ismethod(network) else self.module
        _reject_batch_statistics(role, self.module)

    def __call__(self, images: Float[Tensor, "n *image"]) -> Float[Tensor, "n *outputs"]:
        """The network's outputs, differentiable in the images."""
        held = next(chain(self.module.parameters(), self.module.buffers()), images)
        if held.device != images.device:
            self.module.to(images.device)
        with repeatable(images.device):
            return self.call(images.clone())  # it may work in place, and others look at these images too


def in_chunks(function: Callable[[Tree], Tensor], rows: Tree, chunk: int) -> Float[Tensor, "n *outputs"]:
    """``function(rows)``, for a function that treats each row of a tree by itself, ``chunk`` rows at a time."""
    starts = range(0, trees.length(rows), chunk)
    return torch.cat([function(trees.take(rows, slice(start, start + chunk))) for start in starts])


def generated_in_chunks(
    function: Callable[[Tensor], Tensor], players: Players, latents: Tree, chunk: int
) -> Float[Tensor, "K *outputs"]:
    """``function(G(phi, z_k))`` for all K latents, differentiable in ``phi``.

    The outputs of all K are held, and the graph of one chunk alone: a chunk's graph is dropped when its outputs are
    there, and rebuilt when the gradient comes back to it. A scalar may therefore couple all outputs, as a covariance
    does, and its gradient is exact. The price is a second forward pass.

    Inside the transforms of ``torch.func``, which cannot rebuild a graph, all graphs are held where gradients are
    recorded; under ``no_grad`` there are none.
    """

    def outputs(part: Tree) -> Tensor:
        return function(generated(players, part))

    rebuilt = partial(checkpoint, outputs, use_reentrant=False, preserve_rng_state=False)
    rebuilds = (
        torch.is_grad_enabled()
        and trees.length(latents) > chunk
        and not is_transformed(players.parameters["generator"])
    )
    return in_chunks(rebuilt if rebuilds else outputs, latents, chunk)


def check_chunk(chunk: object) -> None:
    """A whole number of rows.

    Raises:
        ValueError: it is none, or below 1.
    """
    if not is_whole(chunk) or chunk < 1:
        raise ValueError(f"chunk must be a whole number of rows >= 1, got {chunk!r}")


def check_each_alone(function: Callable[[Tree], Tensor], rows: Tree, name: str) -> None:
    """Is a row's output its own, whatever else is in its chunk, and the same at every call?

    A few rows are looked at; inside the transforms of ``torch.func``, where no value can be read, none.

    Raises:
        ValueError: it is not; the message begins with ``name``.
    """
    few = trees.take(rows, slice(PROBED))
    with torch.no_grad():
        together = function(few)
        if not isinstance(together, Tensor) or together.ndim == 0 or len(together) != trees.length(few):
            return  # what is no row of outputs an image is told elsewhere
        if is_transformed(together) or not together.is_floating_point() or not together.isfinite().all():
            return
        again, alone = function(few), _one_by_one(function, few)
    if not torch.equal(together, again):
        raise ValueError(
            f"{name} gives something else for the same rows at each call: put dropout in eval() mode, and draw what is "
            "random once"
        )
    off = math.nan if alone is None else float((alone - together).abs().max())
    if not off <= _ROUNDING * _eps(few) * float(together.abs().max()):  # also where it is NaN
        raise ValueError(
            f"{name} gives a row another output beside other rows than alone, off by {off:.2g}: it uses batch "
            "statistics, so that a metric in chunks would depend on how rows are put together. Use GroupNorm or "
            "LayerNorm, or put it in eval() mode with running statistics"
        )


def _eps(rows: Tree) -> float:
    """The rounding of the coarsest floating-point type among them."""
    return max(torch.finfo(part.dtype).eps for part in trees.leaves(rows) if part.is_floating_point())


def _one_by_one(function: Callable[[Tree], Tensor], rows: Tree) -> Tensor | None:
    """The outputs of each row alone, ``(n, *outputs)``; ``None`` where it wants more than one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*degrees of freedom")
        try:
            return in_chunks(function, rows, 1)
        except ValueError:
            return None


_ROUNDING = 1e3  # of a network's output, in units of its last place: kernels differ with the number of rows


def check_finite(outputs: Float[Tensor, "n *outputs"], network: str, images: str) -> None:
    """Every row is finite; inside the transforms of ``torch.func``, where no value can be read, nothing is checked.

    Raises:
        ValueError: some rows are not; it says how many, of which network and which images.
    """
    if is_transformed(outputs):
        return
    bad = len(outputs) - int(outputs.isfinite().flatten(1).all(1).sum())
    if bad:
        raise ValueError(
            f"{network} gave NaN or infinity for {bad} of the {len(outputs)} {images} images: look at these images, "
            "and at the network's weights"
        )


def _reject_batch_statistics(role: str, module: nn.Module) -> None:
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is None:
            where = f"the {role}'s {type(part).__name__}" + (f" {name!r}" if name else "")
            raise ValueError(
                f"{where} has no running statistics, so that an image's outputs would depend on the others of its "
                "chunk: train it with track_running_stats=True, or use GroupNorm or LayerNorm"
            )
