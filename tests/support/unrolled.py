"""Training of any game in plain torch, as a differentiable function of the rows' weights; nothing of the core is used.

Each module is called by ``functional_call`` with its parameters and with copies of its buffers, through which no
derivative passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from support.games import Memory, Move

Vectors = dict[str, Tensor]
Buffers = dict[str, dict[str, Tensor]]
Modules = dict[str, nn.Module]
PlainCost = Callable[[Any, Any], Any]


class Plain:
    """The players at some parameters: ``players.NAME(*inputs)``, as a cost calls them."""

    def __init__(self, modules: Modules, at: Vectors, buffers: Buffers, moving: frozenset):
        self.moving = moving
        for name, module in modules.items():
            setattr(self, name, self._call(module, named(module, at[name]), buffers[name]))

    @staticmethod
    def _call(module: nn.Module, own: dict[str, Tensor], buffers: dict[str, Tensor]) -> Callable[..., Any]:
        def call(*inputs: Any) -> Any:
            placed = {**own, **buffers}
            outputs = functional_call(module, placed, inputs)
            buffers.update({name: placed[name].detach() for name in buffers})
            return outputs

        return call


class Run(NamedTuple):
    """A run after its last step.

    Attributes:
        at: all players' parameters, differentiable in the weights.
        seen: what a metric sees, the average where there is one.
        buffers: of the modules.
        memories: what each player's optimiser remembers.
        taken: how often each has moved.
    """

    at: Vectors
    seen: Vectors
    buffers: Buffers
    memories: dict[str, Memory]
    taken: dict[str, int]


def buffers_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.named_buffers()}


def copied(buffers: Buffers) -> Buffers:
    """Of their own memory: modules write into them."""
    return {name: {key: value.clone() for key, value in held.items()} for name, held in buffers.items()}


def vector_of(module: nn.Module) -> Tensor:
    trained = [p.detach().reshape(-1) for p in module.parameters() if p.requires_grad]
    return torch.cat(trained) if trained else torch.zeros(0)


def named(module: nn.Module, vector: Tensor) -> dict[str, Tensor]:
    """The vector's parts under the names of the module's trained parameters."""
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    parts = vector.split([p.numel() for _, p in trained])
    return {name: part.view_as(p) for (name, p), part in zip(trained, parts, strict=True)}


@contextmanager
def evaluating(modules: Modules) -> Iterator[None]:
    """As a metric sees them."""
    modes = [module.training for module in modules.values()]
    for module in modules.values():
        module.eval()
    yield
    for module, mode in zip(modules.values(), modes, strict=True):
        module.train(mode)


def measured(metric: Callable[[Any], Tensor], modules: Modules, at: Vectors, buffers: Buffers) -> Tensor:
    with evaluating(modules):
        return metric(Plain(modules, at, copied(buffers), frozenset(modules)))


def field(
    modules: Modules,
    cost: PlainCost,
    at: Vectors,
    buffers: Buffers,
    batch: Any,
    weights: Tensor,
    moving: Sequence[str],
    l2: Mapping[str, float],
) -> Vectors:
    """The gradient of each moving player's own cost, for its own parameters; the calls change the buffers."""
    of_rows, rest = cost(Plain(modules, at, buffers, frozenset(moving)), batch)
    slopes = {}
    for name in moving:
        paid = rest.get(name, 0)
        if name in of_rows:
            paid = paid + (weights * of_rows[name]).sum() / len(weights)
        if l2.get(name):
            paid = paid + l2[name] * at[name].square().sum() / 2
        (slopes[name],) = torch.autograd.grad(paid, at[name], create_graph=True)
    return slopes


def batch_at(t: int, data: Any, drawn: Any, period: int = 1) -> SimpleNamespace:
    """What a cost sees at step ``t``, of ``(indices, latents, noise)``."""
    indices, latents, noise = drawn
    rows = data if indices is None else picked(data, indices)
    return SimpleNamespace(
        rows=rows, latents=latents, noise=noise, time=torch.tensor(float(t)).double(), turn=t % period
    )


def unrolled(
    modules: Modules,
    cost: PlainCost,
    data: Any,
    batches: Callable[[int], Any],
    steps: int,
    moves: dict[str, Move],
    cycle: Sequence[Sequence[Sequence[str]]],
    weights: Tensor,
    l2: dict[str, float] | None = None,
    period: int = 1,
    decay: dict[str, float] | None = None,
) -> Run:
    """The run after ``steps`` steps.

    Args:
        modules: by name.
        cost: ``(players, batch) -> (rows, rest)``, dicts by player.
        data: a tensor or tree of them.
        batches: ``t -> (indices, latents, noise)``.
        moves: an optimiser a player; see :mod:`support.games`.
        cycle: of each entry the groups of players that move at once, one after another.
        decay: of the averaged players.
    """
    at = {name: vector_of(module).to(weights).requires_grad_() for name, module in modules.items()}
    average = {name: at[name] for name in decay or {}}
    buffers = {name: buffers_of(module) for name, module in modules.items()}
    memories: dict[str, Memory] = {name: {} for name in modules}
    taken = dict.fromkeys(modules, 0)
    for t in range(steps):
        drawn = batches(t)
        own = weights if drawn[0] is None else weights[drawn[0]]
        for group in cycle[t % len(cycle)]:
            buffers = copied(buffers)
            here = {name: vector.clone() for name, vector in at.items()}
            slopes = field(modules, cost, here, buffers, batch_at(t, data, drawn, period), own, group, l2 or {})
            for name, slope in slopes.items():
                taken[name] += 1
                at[name] = moves[name](at[name], slope, memories[name], taken[name])
        average = {name: decay[name] * old + (1 - decay[name]) * at[name] for name, old in average.items()}
    return Run(at, {**at, **average}, buffers, memories, taken)


def cycle_of(update: Any, names: Sequence[str]) -> list:
    """The groups of each entry of ``update``, as :func:`unrolled` takes them."""
    if update == "simultaneous":
        return [[list(names)]]
    if update == "alternating":
        return [[[name] for name in reversed(names)]]  # of the short form, which moves the discriminator first
    entries = ["discriminator", "generator"] if update == "turns" else update
    return [[[entry] if isinstance(entry, str) else list(entry)] for entry in entries]


def picked(data: Any, chosen: Any) -> Any:
    """The same rows of each part of a tree."""
    if isinstance(data, dict):
        return {name: picked(part, chosen) for name, part in data.items()}
    if isinstance(data, tuple):
        return tuple(picked(part, chosen) for part in data)
    return None if data is None else data[chosen]


def gan(real: Any, fake: Any, generator: Any, of_discriminator: Any = None) -> PlainCost:
    """A GAN's cost, written out: D on rows, D on what is generated, and terms more.

    ``of_discriminator(players, batch, generated)`` gives ``(rows, rest)`` to be added to the discriminator's.
    """

    def cost(players: Any, batch: Any) -> Any:
        rows, rest = {}, {}
        if "discriminator" in players.moving:
            rows["discriminator"] = real(players.discriminator(batch.rows)[:, 0])
        generated = players.generator(batch.latents)
        logits = players.discriminator(generated)[:, 0]
        if "generator" in players.moving:
            rest["generator"] = generator(logits).mean()
        if "discriminator" in players.moving:
            more = (0, 0) if of_discriminator is None else of_discriminator(players, batch, generated)
            rows["discriminator"] = rows["discriminator"] + more[0]
            rest["discriminator"] = fake(logits).mean() + more[1]
        return rows, rest

    return cost


def squared_slopes(players: Any, at: Tensor) -> Tensor:
    """``|grad_x D(x)|^2`` of each row, by a second graph."""
    at = at if at.requires_grad else at.clone().requires_grad_()
    (slope,) = torch.autograd.grad(players.discriminator(at).sum(), at, create_graph=True)
    return slope.flatten(1).square().sum(1)


def gradient_penalty(players: Any, batch: Any, generated: Tensor) -> tuple[float, Tensor]:
    """``10 (|slope| - 1)^2`` between a row and a generated one."""
    share = batch.noise[:, None]
    between = share * batch.rows + (1 - share) * generated
    return 0, (10 * (squared_slopes(players, between).sqrt() - 1).square()).mean()
