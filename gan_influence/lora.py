"""Fine-tuning through low-rank adapters (LoRA, Hu et al. 2022), as TNNLS VI-A3 fine-tunes StyleGAN.

    >>> import gan_influence as gi
    >>> generator, discriminator = (gi.lora(player, rank=1) for player in gi.models.dcgan(2, 8, seed=0))
    >>> game = gi.Game(generator, discriminator, loss="non_saturating")

Adapters are ``torch.nn.utils.parametrize`` parametrisations of the layers' own weights: layers compute as before, with
another weight. All else is frozen, and so neither in the state of a run nor differentiated.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gan_influence.checks import check, is_real, is_whole

__all__ = ["LowRank", "Where", "adapters", "load_adapters", "lora", "merged"]

Where: TypeAlias = str | type | Callable[[str, nn.Module], bool]
_STARTS = ("published", "usual")


class LowRank(nn.Module):
    """``W0 + scale * up @ down``, of a weight ``(o, ...)`` taken as a matrix ``(o, n)``: rows are its first dimension.

    Attributes:
        up: ``(o, rank)``; A of TNNLS and its code, B of the paper on LoRA and of ``peft``.
        down: ``(rank, n)``; B of TNNLS and its code, A of the paper on LoRA and of ``peft``.
        scale: a number.
    """

    def __init__(self, up: Float[Tensor, "o rank"], down: Float[Tensor, "rank n"], scale: float):
        super().__init__()
        self.up, self.down = nn.Parameter(up), nn.Parameter(down)
        self.scale = scale

    def forward(self, frozen: Float[Tensor, "o *n"]) -> Float[Tensor, "o *n"]:
        return frozen + self.scale * (self.up @ self.down).view(frozen.shape)


def lora(
    module: nn.Module,
    rank: int,
    *,
    where: Where | Sequence[Where] | None = None,
    start: str = "published",
    scale: float = 1.0,
    seed: int = 0,
    overcomplete: bool = False,
) -> nn.Module:
    """A copy of the module in which adapters alone are trained: a layer's weight is ``W0 + scale * up @ down``.

    A layer here is a module with a parameter ``weight`` of two dimensions or more of its own: ``nn.Linear``,
    convolutions, transposed ones, and layers with equalised rates. These multiply what they call their weight by a gain
    in each call, so that theirs is ``(W0 + scale * up @ down) * gain``.

    Every adapter's entries are N(0, s^2), drawn in float64 in the order of the layers. ``"published"``, as in the
    StyleGAN experiment of TNNLS: ``s^2 = 1 / (3 rank)`` in ``up`` and ``1 / (3 n)`` in ``down``, for a matrix ``(o,
    n)``, Kaiming's with ``a = sqrt(5)``. The start is then perturbed: ``up @ down`` has deviation ``1 / (3 sqrt(n))``.
    ``"usual"``, as in the paper on LoRA: ``down`` is the same, ``up`` is 0, and the start is W0.

    Args:
        module: is left as it is.
        rank: of ``up @ down``.
        where: the layers that get adapters, by default all: a pattern of their names, ``"blocks.*"``; a type,
            ``nn.Linear``; a function of name and layer; or several of these, of which one must hold.
        start: ``"published"`` or ``"usual"``.
        scale: of ``up @ down``; in ``peft`` it is ``lora_alpha / rank``.
        seed: of the draws.
        overcomplete: allow a rank above that of a layer's weight, as the published code has it in layers of one or
            three outputs.

    Raises:
        TypeError: ``module`` is none; ``where`` is neither of these.
        ValueError: no layer matches; the rank is no whole number >= 1, or above that of a layer's weight; the module
            has adapters already; an unknown start.
    """
    _check(module, rank, start, scale, seed)
    module = copy.deepcopy(module).requires_grad_(False)
    random = torch.Generator().manual_seed(seed)
    for name, layer in _chosen(module, where).items():
        weight = layer.weight
        assert isinstance(weight, Tensor)
        o, n = len(weight), weight[0].numel()
        if rank > min(o, n) and not overcomplete:
            raise ValueError(
                f"rank = {rank} is above the rank {min(o, n)} of the weight of {name!r}, of shape "
                f"{tuple(weight.shape)}: lower it, leave the layer out by where=, or give overcomplete=True"
            )
        up, down = torch.zeros(o, rank).double(), _normal(random, 1 / math.sqrt(3 * n), rank, n)
        if start == "published":
            up = _normal(random, 1 / math.sqrt(3 * rank), o, rank)
        parametrize.register_parametrization(layer, "weight", LowRank(up.to(weight), down.to(weight), float(scale)))
    return module


def adapters(module: nn.Module) -> dict[str, Tensor]:
    """The state dict of the adapters alone, copied: what a file of a fine-tuned model need hold.

    Raises:
        ValueError: the module has none.
    """
    return {name: parameter.detach().clone() for name, parameter in _parameters(module).items()}


def load_adapters(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put values into the module's adapters: those of :func:`adapters`, or ``trace.parameters()[player]`` of a run.

    Raises:
        ValueError: the module has none; the state lacks one, holds another, or one of another shape.
    """
    own = _parameters(module)
    foreign = [name for name in state if name not in own]
    if foreign:
        raise ValueError(f"the state holds {foreign[0]!r}, but the adapters are {', '.join(own)}")
    for name, parameter in own.items():
        if name not in state:
            raise ValueError(f"the state lacks {name!r}, which is of an adapter of the module")
        if state[name].shape != parameter.shape:
            raise ValueError(
                f"the state holds {name!r} of shape {tuple(state[name].shape)}, but the module's has shape "
                f"{tuple(parameter.shape)}: it is that of another rank or architecture"
            )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])


def merged(module: nn.Module) -> nn.Module:
    """A copy with plain weights, ``W0 + scale * up @ down``, under the names that they had without adapters.

    Its parameters are frozen: ``.requires_grad_()`` makes them trainable.

    Raises:
        ValueError: the module has no adapters.
    """
    _parameters(module)
    module = copy.deepcopy(module)
    for layer in list(module.modules()):
        if _is_adapted(layer):
            _give_class_of_its_own(layer)
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return module


def _check(module: object, rank: object, start: object, scale: object, seed: object) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(f"adapters are for a torch.nn.Module, got {type(module).__name__}")
    if any(map(_is_adapted, module.modules())):
        raise ValueError("the module has adapters already: gi.merged(module) is the same with plain weights")
    check(is_whole(rank) and rank >= 1, "rank", "a whole number >= 1", rank)
    check(start in _STARTS, "start", " or ".join(map(repr, _STARTS)), start)
    check(is_real(scale) and scale != 0, "scale", "a finite number other than 0", scale)
    check(is_whole(seed) and seed >= 0, "seed", "a whole number >= 0", seed)


def _chosen(module: nn.Module, where: Where | Sequence[Where] | None) -> dict[str, nn.Module]:
    layers = {name: layer for name, layer in module.named_modules() if _is_layer(layer)}
    if where is None:
        chosen = layers
    else:
        several: Sequence[Where] = where if isinstance(where, tuple | list) else (where,)
        chosen = {name: layer for name, layer in layers.items() if any(_holds(one, name, layer) for one in several)}
    if not chosen:
        there = ", ".join(f"{name!r} ({type(layer).__name__})" for name, layer in layers.items())
        what = "the module has" if where is None else f"where={where!r} matches"
        raise ValueError(f"{what} no layer that could get an adapter; there is {there or 'none'}")
    return chosen


def _is_layer(layer: nn.Module) -> bool:
    weight = dict(layer.named_parameters(recurse=False)).get("weight")
    return weight is not None and weight.ndim >= 2


def _holds(where: Where, name: str, layer: nn.Module) -> bool:
    if isinstance(where, str):
        return fnmatchcase(name, where)
    if isinstance(where, type):
        return isinstance(layer, where)
    if callable(where):
        return bool(where(name, layer))
    raise TypeError(f"where must be a pattern of names, a type, or a function of name and layer, got {where!r}")


def _is_adapted(layer: nn.Module) -> bool:
    return parametrize.is_parametrized(layer, "weight") and isinstance(_adapter(layer), LowRank)


def _adapter(layer: nn.Module) -> nn.Module:
    return layer.get_submodule("parametrizations.weight.0")


def _give_class_of_its_own(layer: nn.Module) -> None:
    """Torch takes the property ``weight`` from the layer's class, which copies of a layer share."""
    shared = type(layer)
    content = {name: value for name, value in vars(shared).items() if name not in ("__dict__", "__weakref__")}
    layer.__class__ = type(shared.__name__, shared.__bases__, content)


def _parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    found = {
        f"{path}.{name}".removeprefix("."): parameter
        for path, part in module.named_modules()
        if isinstance(part, LowRank)
        for name, parameter in part.named_parameters()
    }
    if not found:
        raise ValueError("the module has no adapters: gi.lora(module, rank) gives it some")
    return found


def _normal(random: torch.Generator, deviation: float, *shape: int) -> Float[Tensor, "..."]:
    return deviation * torch.randn(*shape, generator=random, dtype=torch.float64)
