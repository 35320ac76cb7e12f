"""The running statistics with which a player's BatchNorm is looked at in eval mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gan_influence import trees
from gan_influence.checks import check, is_whole
from gan_influence.state import Held
from gan_influence.trees import Tree

__all__ = ["Recompute", "differentiated", "norms"]


@dataclass(frozen=True, eq=False)
class Recompute:
    """``average_buffers=gi.Recompute(latents)``: running statistics of the parameters themselves that a metric sees.

    As ``torch.optim.swa_utils.update_bn`` makes them: the averaged player, or the generator where nobody is averaged,
    is called in training mode on these inputs, batch after batch, and BatchNorm's running mean and variance become the
    plain means over the batches of the batches' means and unbiased variances. Other buffers that calls change (the
    vectors of ``spectral_norm``) are those that the calls leave.

    They are a function of the parameters, which scores differentiate like any other part of the metric. Statistics that
    training keeps are none: of what rows do to those, scores say nothing.

    Args:
        inputs: what the player is called with, a tree of tensors, first dimension n; a tuple is as many arguments.
        batch_size: how many of them make a batch; by default all.

    Raises:
        TypeError: there is no tensor in ``inputs``.
        ValueError: a batch of fewer than two rows, of which there is no variance.
    """

    inputs: Tree
    batch_size: int | None = None

    def __post_init__(self) -> None:
        found = trees.leaves(self.inputs)
        if not found or len({len(leaf) if leaf.ndim else 0 for leaf in found}) > 1:
            raise TypeError(
                "Recompute needs the player's inputs, a tensor or a tree of tensors of one length, got "
                f"{[tuple(leaf.shape) for leaf in found] or type(self.inputs).__name__}"
            )
        holds = self.batch_size is None or (is_whole(self.batch_size) and self.batch_size >= 2)
        check(holds, "batch_size", "a whole number >= 2, or None", self.batch_size)
        smallest = min(trees.length(batch) for batch in self.batches()) if len(found[0]) else 0
        if smallest < 2:
            raise ValueError(f"Recompute has a batch of {smallest} rows, of which there is no variance: give more")

    def batches(self) -> list[Tree]:
        """The inputs, batch after batch."""
        size = self.batch_size or trees.length(self.inputs)
        return [trees.take(self.inputs, slice(k, k + size)) for k in range(0, trees.length(self.inputs), size)]

    def to(self, device: torch.device) -> Recompute:
        """The same with copies of the inputs there."""
        return replace(self, inputs=trees.mapped(lambda leaf: leaf.detach().to(device, copy=True), self.inputs))

    def of(self, module: nn.Module, call: Callable[..., Any], role: str) -> Held:
        """The running statistics of all BatchNorms of a module, differentiable, by ``"role.name"``.

        Args:
            module: the player's.
            call: it in training mode, at the averaged parameters.
            role: the player's name.
        """
        batches = self.batches()
        with _watched(module) as seen:
            for batch in batches:
                call(*(batch if type(batch) is tuple else (batch,)))
        return {f"{role}.{name}": torch.stack(values).mean(0) for name, values in seen.items()}


def norms(module: nn.Module) -> dict[str, nn.Module]:
    """The BatchNorms that keep running statistics and do not use them in training, by where they stand."""
    return {
        path: part
        for path, part in module.named_modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training and part.track_running_stats
    }


@contextmanager
def _watched(module: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """While it lasts, each call's statistics of what every BatchNorm is given are kept."""
    seen: dict[str, list[Tensor]] = {}

    def watch(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            rows = given[0]
            over = [dim for dim in range(rows.ndim) if dim != 1]
            for name, value in (("running_mean", rows.mean(over)), ("running_var", rows.var(over))):
                seen.setdefault(f"{path}.{name}".removeprefix("."), []).append(value)

        return keep

    handles = [part.register_forward_pre_hook(watch(path)) for path, part in norms(module).items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def differentiated(module: nn.Module) -> Iterator[None]:
    """While it lasts, BatchNorms in eval mode can be differentiated in their running statistics, as torch's cannot."""
    kinds = {}
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
            kinds[part] = type(part)
            part.__class__ = type("Normalised", (_Normalised, type(part)), {})
    try:
        yield
    finally:
        for part, kind in kinds.items():
            part.__class__ = kind


class _Normalised(nn.Module):
    """``(x - mean) / sqrt(var + eps) w + b``, of the running mean and variance."""

    running_mean: Tensor
    running_var: Tensor

    def forward(self, rows: Tensor) -> Tensor:
        shape = (1, -1, *[1] * (rows.ndim - 2))
        scale = (self.running_var + self.eps).rsqrt()  # type: ignore[operator]
        outputs = (rows - self.running_mean.view(shape)) * scale.view(shape)
        if self.weight is None:
            return outputs
        return outputs * self.weight.view(shape) + self.bias.view(shape)  # type: ignore[operator]
