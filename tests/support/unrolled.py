"""Training of any game in plain torch, as a differentiable function of the rows' weights; nothing of the core is used.

Each module is called by ``functional_call`` with its parameters and with copies of its buffers, through which no
derivative passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from support.games import Move

Vectors = dict[str, Tensor]


class Plain:
    """The players at some parameters: ``players.NAME(*inputs)``, as a cost calls them."""

    def __init__(
        self, modules: dict[str, nn.Module], at: Vectors, buffers: dict[str, dict[str, Tensor]], moving: frozenset
    ):
        self.moving = moving
        for name, module in modules.items():
            setattr(self, name, self._call(module, self._named(module, at[name]), buffers[name]))

    @staticmethod
    def _named(module: nn.Module, vector: Tensor) -> dict[str, Tensor]:
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        parts = vector.split([p.numel() for _, p in named])
        return {name: part.view_as(p) for (name, p), part in zip(named, parts, strict=True)}

    @staticmethod
    def _call(module: nn.Module, named: dict[str, Tensor], buffers: dict[str, Tensor]) -> Callable[..., Any]:
        def call(*inputs: Any) -> Any:
            placed = {**named, **buffers}
            outputs = functional_call(module, placed, inputs)
            buffers.update({name: placed[name].detach() for name in buffers})
            return outputs

        return call


def buffers_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.named_buffers()}


def vector_of(module: nn.Module) -> Tensor:
    trained = [p.detach().reshape(-1) for p in module.parameters() if p.requires_grad]
    return torch.cat(trained) if trained else torch.zeros(0)


def unrolled(
    modules: dict[str, nn.Module],
    cost: Callable[[Any, Any], Any],
    data: Any,
    batches: Callable[[int], Any],
    steps: int,
    moves: dict[str, Move],
    cycle: Sequence[Sequence[Sequence[str]]],
    weights: Tensor,
    l2: dict[str, float] | None = None,
    period: int = 1,
    take: Callable[[Any, Tensor], Any] | None = None,
) -> tuple[Vectors, dict[str, dict[str, Tensor]]]:
    """All players' parameters, differentiable in the weights, and their buffers, after ``steps`` steps.

    Args:
        modules: by name.
        cost: ``(players, batch) -> (rows, rest)``, dicts by player.
        data: a tensor or tree of them.
        batches: ``t -> (indices, latents, noise)``.
        moves: an optimiser a player; see :mod:`support.games`.
        cycle: of each entry the groups of players that move at once, one after another.
    """
    at = {name: vector_of(module).to(weights).requires_grad_() for name, module in modules.items()}
    buffers = {name: buffers_of(module) for name, module in modules.items()}
    memories: dict[str, dict[str, Tensor]] = {name: {} for name in modules}
    taken = dict.fromkeys(modules, 0)
    for t in range(steps):
        indices, latents, noise = batches(t)
        chosen = torch.arange(len(weights)) if indices is None else indices
        rows = _picked(data, chosen)
        for group in cycle[t % len(cycle)]:
            batch = SimpleNamespace(
                rows=rows, latents=latents, noise=noise, time=torch.tensor(float(t)).double(), turn=t % period
            )
            held = {name: {key: value.clone() for key, value in own.items()} for name, own in buffers.items()}
            here = {name: vector.clone() for name, vector in at.items()}
            of_rows, rest = cost(Plain(modules, here, held, frozenset(group)), batch)
            buffers = held
            slopes = {}
            for name in group:
                paid = rest.get(name, 0)
                if name in of_rows:
                    paid = paid + (weights[chosen] * of_rows[name]).sum() / len(chosen)
                if (l2 or {}).get(name):
                    paid = paid + l2[name] * here[name].square().sum() / 2
                (slopes[name],) = torch.autograd.grad(paid, here[name], create_graph=True)
            for name, slope in slopes.items():
                taken[name] += 1
                at[name] = moves[name](at[name], slope, memories[name], taken[name])
    return at, buffers


def _picked(data: Any, chosen: Tensor) -> Any:
    if isinstance(data, dict):
        return {name: _picked(part, chosen) for name, part in data.items()}
    if isinstance(data, tuple):
        return tuple(_picked(part, chosen) for part in data)
    return data[chosen]
