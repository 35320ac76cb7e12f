"""What a run is made of, in one list: code, constants, settings, schedule, rates, data.

Checkpoint folders ask it whether they hold this run; counterfactuals of several runs ask the part of it that these
must share. Code counts by what it does: a function by its instructions, its constants and what it refers to, so that
comments and the place where it stands do not matter.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import sys
import sysconfig
import types
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gan_influence import trees
from gan_influence.history import digest
from gan_influence.trace import Trace

__all__ = ["described", "fingerprint", "globals_of", "of_game"]

_BUILT_IN = "built in"
_LIBRARIES = tuple(f"{sysconfig.get_paths()[kind]}/" for kind in ("stdlib", "purelib", "platlib"))


def fingerprint(begun: Trace, last: int, every: int) -> dict[str, str]:
    """Two runs with the same fingerprint pass through the same states.

    Args:
        begun: a run at its start.
        last: the step at which it will end.
        every: which states are kept.
    """
    steps = range(begun.first, max(last, begun.first + 1))
    return {
        "steps": f"{begun.first} to {last}",
        "every": str(every),
        "data": digest(*trees.leaves(begun.data)),
        "weights": digest(begun.weights),
        "initial state": digest(*trees.leaves(begun.state())),
        **of_game(begun, steps),
        "schedule": f"{type(begun.schedule).__name__}, {_of_batches(begun, steps)}",
        "data type": str(begun.weights.dtype),
        "device": begun.weights.device.type,
        "torch": str(torch.__version__),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
    }


def of_game(trace: Trace, steps: Iterable[int]) -> dict[str, str]:
    """What runs share that are retrained as one batch of models, with the learning rates of these steps."""
    game, updates = trace.game, trace.updates
    players, optimizers = game.players.values(), updates.optimizers
    return {
        "modules": "; ".join(" ".join(str(player.module).split()) for player in players),
        "code of modules": described(*(player.module for player in players)),
        "constants": digest(*game.constants()),
        "loss": f"{_named(game.loss or game.cost)}, {described(game.cost, game.period)}",
        "l2": str(tuple(game.l2.values())),
        "l2_of": game.l2_of + (", by row" if game.l2_by_row else ""),
        "optimizer": "; ".join(map(_named, optimizers.values()))
        + f", {described(optimizers, [updates.rates(t) for t in steps])}",
        "update": str(updates.update),
        "ema_decay": ", ".join(_named(one) for one in updates.decays.values()) or "None",
        "averages": described(updates.decays, updates.average_buffers or "copy"),
    }


def described(*things: object) -> str:
    """A digest of objects by what they hold and of functions by what they do, the same in another process."""
    content = hashlib.sha256()
    _describe(things, content.update, {})
    return content.hexdigest()[:16]


def _of_batches(trace: Trace, steps: Iterable[int]) -> str:
    """Of the batches of all steps; one that is the same tensors again is looked at once."""
    content, before = hashlib.sha256(), None
    for t in steps:
        batch = trace.batch(t)
        if before is None or any(part is not last for part, last in zip(batch, before, strict=True)):
            content.update(f"{t} {digest(*trees.leaves(batch))};".encode())
        before = batch
    return content.hexdigest()[:16]


def _named(thing: object) -> str:
    """For people: its type, and its settings where they are short."""
    if callable(thing) and hasattr(thing, "__qualname__"):
        return str(thing.__qualname__)
    if not hasattr(thing, "__dict__"):
        return repr(thing)
    shown = ", ".join(f"{name}={_named(value)}" for name, value in sorted(vars(thing).items()))
    return f"{type(thing).__name__}({shown})" if len(shown) < 300 else type(thing).__name__


def _describe(thing: Any, tell: Any, told: dict[int, Any]) -> None:
    """Tell all that ``thing`` consists of, depth first, and each object once: they may form circles."""
    if isinstance(thing, type(None) | bool | int | float | complex | str | bytes | torch.dtype | torch.device):
        tell(f"{type(thing).__name__} {thing!r};".encode())
        return
    if not isinstance(thing, tuple | frozenset):  # which Python may share among equals
        if id(thing) in told:
            tell(b"again;")
            return
        told[id(thing)] = thing  # held, so that no other object takes its place
    tell(f"{type(thing).__qualname__}(".encode())
    for part in _parts(thing):
        _describe(part, tell, told)
    tell(b")")


def _parts(thing: Any) -> Iterable[Any]:
    for kind, parts in _PARTS.items():
        if isinstance(thing, kind):
            return parts(thing)
    return [type(thing), *_items(_state(thing))]


def _items(mapping: Mapping[Any, Any]) -> list[Any]:
    return [part for item in mapping.items() for part in item]


def _state(thing: Any) -> dict[str, Any]:
    slots = [name for kind in type(thing).__mro__ for name in _as_tuple(getattr(kind, "__slots__", ()))]
    state = {name: getattr(thing, name) for name in slots if hasattr(thing, name)} | getattr(thing, "__dict__", {})
    return dict(sorted(state.items(), key=str))


def _as_tuple(names: Any) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _of_module(module: nn.Module) -> list[Any]:
    """All but its parameters and buffers: they are the initial state and the constants of the run."""
    state = {name: value for name, value in _state(module).items() if name not in ("_buffers", "_flat_weights")}
    state["_parameters"] = sorted(module._parameters)
    for name in [name for name in state if "hooks" in name]:  # told apart by the order in which a process made them
        state[name] = list(state[name].values()) if isinstance(state[name], dict) else state[name]
    return [type(module), *_items(state)]


def _of_function(function: types.FunctionType) -> list[Any]:
    code = function.__code__
    if _is_a_librarys(code.co_filename):
        return [f"{function.__module__}.{function.__qualname__}"]
    constants = (None, *code.co_consts[1:]) if function.__doc__ is not None else code.co_consts
    cells = [cell.cell_contents for cell in function.__closure__ or () if cell != types.CellType()]  # an empty one
    known = _items(globals_of(function))
    return [*_of_code(code)[:-1], constants, function.__defaults__, function.__kwdefaults__, cells, *known]


def _of_code(code: types.CodeType) -> list[Any]:
    return [code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_exceptiontable, code.co_consts]


def globals_of(function: Any) -> dict[str, Any]:
    """What a function of Python, and those within it, look up among the globals."""
    if not isinstance(function, types.FunctionType):
        return {}
    return {name: function.__globals__[name] for name in _looked_up(function.__code__) if name in function.__globals__}


@functools.lru_cache(maxsize=1024)
def _looked_up(code: types.CodeType) -> tuple[str, ...]:
    own = [str(one.argval) for one in dis.get_instructions(code) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
    inner = [name for part in code.co_consts if isinstance(part, types.CodeType) for name in _looked_up(part)]
    return tuple(sorted({*own, *inner}))


def _of_class(kind: type) -> list[Any]:
    """Its functions and attributes, and those of its bases; of a library's class the name."""
    parts: list[Any] = []
    for base in kind.__mro__:
        parts.append(f"{base.__module__}.{base.__qualname__}")
        if base.__module__ == "__main__" or not _is_a_librarys(_file_of(base)):
            parts += _items({name: _plain(value) for name, value in sorted(vars(base).items()) if _counts(name, value)})
    return parts


def _file_of(kind: type) -> str:
    """Where its module stands, which for those that are compiled is nowhere."""
    return getattr(sys.modules.get(kind.__module__), "__file__", None) or _BUILT_IN


def _counts(name: str, value: Any) -> bool:
    """Names like ``__slotnames__`` come and go while a program runs; those of methods do not."""
    return not name.startswith(("__", "_abc_")) or isinstance(value, types.FunctionType)


def _plain(value: Any) -> Any:
    """The function within a method's wrapper."""
    if isinstance(value, staticmethod | classmethod):
        return value.__func__
    return [value.fget, value.fset] if isinstance(value, property) else value


def _is_a_librarys(file: str) -> bool:
    return file.startswith((*_LIBRARIES, _BUILT_IN, "<frozen", "<__array_function__"))


_PARTS: dict[Any, Any] = {
    nn.Module: _of_module,
    nn.Parameter: lambda parameter: [tuple(parameter.shape)],
    Tensor: lambda tensor: [tuple(tensor.shape), tensor.dtype, digest(tensor)],
    np.ndarray: lambda array: [array.shape, str(array.dtype), array.tolist() if array.dtype == object else array.data],
    memoryview: lambda view: [view.tobytes()],
    Mapping: _items,
    list | tuple: lambda parts: parts,
    set | frozenset: lambda parts: sorted(parts, key=repr),
    functools.partial: lambda partial: [partial.func, partial.args, partial.keywords],
    types.MethodType: lambda method: [method.__func__, method.__self__],
    types.FunctionType: _of_function,
    types.CodeType: _of_code,
    type: _of_class,
    types.ModuleType | types.BuiltinFunctionType: lambda named: [getattr(named, "__name__", "")],
}
