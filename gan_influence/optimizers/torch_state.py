"""The state of one of ``torch.optim``'s optimisers, as the rows of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gan_influence.optimizers.clipping import Clipped
from gan_influence.optimizers.groups import BoundGroups, Groups
from gan_influence.optimizers.protocol import Optimizer

__all__ = ["from_torch"]

_ADDED_LATER = ("maximize", "decoupled_weight_decay")  # to torch.optim: older state dicts do not have them
_MOMENTUM = ("momentum_buffer",)  # all that SGD remembers: not even its steps


def from_torch(
    optimizer: Optimizer, state_dict: Mapping[str, Any], names: Sequence[str], shapes: Sequence[torch.Size], player: str
) -> tuple[Float[Tensor, "buffers d"], int | None]:
    """What ``optimizer`` would remember had it done the steps of one of ``torch.optim``, and how many these were.

    Parameters are told apart by their names where the other optimiser was made of ``named_parameters()``, so that
    its groups have ``param_names``; else by their order, through all its groups. Their learning rates may differ.

    Args:
        optimizer: SGD, RMSProp, Adam or AdamW, also within :class:`Clipped` or :class:`Groups`; or one that has
            ``torch_buffers``, the names of its buffers in the state dict in the order of its rows, and
            ``torch_settings``, its settings by their names there.
        state_dict: that of the other.
        names: of the player's trainable parameters.
        shapes: theirs.
        player: whose parameters they are.

    Returns:
        The rows of a state below the parameters, and the number of updates done. SGD counts none: ``None``.

    Raises:
        TypeError: ``state_dict`` is none; the optimiser does not say what it would read there.
        ValueError: it is that of other parameters or of another optimiser, has other settings, lacks something, or has
            updated some parameters more often than others.
    """
    what = f"the {player}'s optimizer state"
    held = _in_order(state_dict, names, player, what)
    of_each = _of_each(optimizer, names, shapes)
    for name, one, (group, entry) in zip(names, of_each, held, strict=True):
        _check_settings(one, group, name, player, what)
        _check_nothing_else(one, entry, name, what)
    begun = _has_begun(of_each, held)
    rows, steps = torch.zeros(optimizer.buffers, sum(shape.numel() for shape in shapes), dtype=torch.float64), {}
    columns = rows.split([shape.numel() for shape in shapes], dim=-1)
    for name, shape, one, (_, entry), part in zip(names, shapes, of_each, held, columns, strict=True):
        buffers = tuple(one.torch_buffers)
        if buffers == _MOMENTUM and not begun:
            continue
        _check_complete(one, entry, name, what)
        for row, buffer in enumerate(buffers):
            part[row] = _flat(entry[buffer], shape, f"{what} holds {buffer} of {name!r}")
        if "step" in entry:
            steps[name] = int(entry["step"])
    if not begun and any(getattr(one, "dampening", 0.0) for one in of_each):
        return rows, 0  # its first velocity is the gradient, undampened
    return rows, _common(steps, what)


def _in_order(
    state_dict: Any, names: Sequence[str], player: str, what: str
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The group and the state of each of the player's parameters."""
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
        raise TypeError(
            f"{what} must be the state_dict() of an optimiser of torch.optim, got {type(state_dict).__name__}"
        )
    groups = state_dict["param_groups"]
    held = [(group, state_dict["state"].get(key, {})) for group in groups for key in group["params"]]
    has = f"but the {player} has {len(names)} to train, {', '.join(names)}"
    if not all("param_names" in group for group in groups):
        if len(held) != len(names):
            raise ValueError(f"{what} is of {len(held)} parameters, {has}")
        return held
    by_name = dict(zip((name for group in groups for name in group["param_names"]), held, strict=True))
    missing = [name for name in names if name not in by_name]
    # Frozen parameters have no state, and may be there.
    unknown = [name for name, (_, entry) in by_name.items() if entry and name not in names]
    if missing:
        raise ValueError(f"{what} has no {missing[0]!r}: it is of {len(held)} parameters, {', '.join(by_name)}, {has}")
    if unknown:
        raise ValueError(f"{what} is also of {unknown[0]!r}, {has}")
    return [by_name[name] for name in names]


def _of_each(optimizer: Any, names: Sequence[str], shapes: Sequence[torch.Size]) -> list[Any]:
    """The optimiser of each parameter, out of what it stands in."""
    if isinstance(optimizer, Clipped):
        return _of_each(optimizer.optimizer, names, shapes)
    if isinstance(optimizer, Groups):
        optimizer = optimizer.fitted(names, shapes)
    if not isinstance(optimizer, BoundGroups):
        return [optimizer] * len(names)
    found: dict[int, Any] = {}
    for one, where in optimizer.groups:
        found |= dict(zip(where, _of_each(one, [names[k] for k in where], [shapes[k] for k in where]), strict=True))
    return [found[k] for k in range(len(names))]


def _check_settings(one: Any, group: Mapping[str, Any], name: str, player: str, what: str) -> None:
    kind = type(one).__name__
    if not hasattr(one, "torch_buffers") or not hasattr(one, "torch_settings"):
        raise TypeError(
            f"the {player}'s {kind} does not say what it would read of an optimiser's state_dict: give it "
            "torch_buffers and torch_settings, as gan_influence.optimizers.from_torch explains"
        )
    for setting, ours in {**one.torch_settings, "maximize": False}.items():
        if setting not in group:
            if setting in _ADDED_LATER:
                continue
            raise ValueError(
                f"{what} has no {setting} among {', '.join(sorted(group))}: it is that of another optimiser than {kind}"
            )
        if _numbers(group[setting]) != _numbers(ours):
            raise ValueError(f"{what} has {setting}={group[setting]!r} for {name!r}, but its {kind} {setting}={ours!r}")


def _numbers(setting: Any) -> list[float]:
    return [float(number) for number in (setting if isinstance(setting, tuple | list) else [setting])]


def _check_nothing_else(one: Any, entry: Mapping[str, Any], name: str, what: str) -> None:
    unknown = [key for key in _filled(entry) if key not in (*one.torch_buffers, "step")]
    if unknown:
        raise ValueError(
            f"{what} holds {unknown[0]} of {name!r}, which {type(one).__name__} does not remember: it is that of "
            "another optimiser"
        )


def _filled(entry: Mapping[str, Any]) -> list[str]:
    return [key for key, value in entry.items() if value is not None]


def _has_begun(of_each: Sequence[Any], held: Sequence[tuple[Any, Mapping[str, Any]]]) -> bool:
    """Has SGD with momentum, if there is one, moved a parameter? Before that it holds nothing at all."""
    entries = [entry for one, (_, entry) in zip(of_each, held, strict=True) if tuple(one.torch_buffers) == _MOMENTUM]
    return not entries or any(map(_filled, entries))


def _check_complete(one: Any, entry: Mapping[str, Any], name: str, what: str) -> None:
    buffers = tuple(one.torch_buffers)
    needed = buffers if buffers in ((), _MOMENTUM) else (*buffers, "step")
    has = _filled(entry)
    missing = [key for key in needed if key not in has]
    if missing and not has:
        raise ValueError(
            f"{what} has nothing of {name!r}, which has not been updated: {type(one).__name__} needs its "
            f"{', '.join(needed)}. Leave the state out where no step was done"
        )
    if missing:
        raise ValueError(
            f"{what} has no {missing[0]} of {name!r}, only {', '.join(has)}: it is that of another optimiser than "
            f"{type(one).__name__}"
        )


def _flat(buffer: Tensor, shape: torch.Size, what: str) -> Tensor:
    if buffer.shape != shape:
        raise ValueError(
            f"{what} of shape {tuple(buffer.shape)}, but the parameter's shape is {tuple(shape)}: its parameters are "
            "others, or in another order, which an optimiser made of named_parameters() tells by their names"
        )
    return buffer.detach().reshape(-1)


def _common(steps: Mapping[str, int], what: str) -> int | None:
    if not steps:
        return None
    first, count = next(iter(steps.items()))
    for name, other in steps.items():
        if other != count:
            raise ValueError(
                f"{what} has done {count} updates of {first!r}, but {other} of {name!r}: a player's parameters move "
                "together here"
            )
    return count
