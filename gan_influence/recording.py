"""Replay a function of tensors as the plain list of operations that it performed.

A training step or an adjoint step of a small game is a hundred operations of a few microseconds each, and building and
walking autograd graphs (through ``vmap``, module calls and Python) costs several times the arithmetic. The steps of
a run all perform the same operations on tensors of the same shapes, so one of them can be recorded, forward and
backward passes alike, and replayed. Operations, shapes and order are the same, hence so are the bits; the first
replay is compared with the function itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor
from torch.fx import Node

from gan_influence.devices import repeatable

__all__ = ["Recorded", "RecordedLinearisation"]

Outputs = TypeVar("Outputs", Tensor, tuple[Tensor, ...])
PullBack = Callable[[Tensor], tuple[Tensor, ...]]

_EAGER_CALLS = 64  # recording takes as long as about a hundred calls


class Recorded(Generic[Outputs]):
    """``function``, recorded once it has been called often with tensors of the same shapes, layouts and types.

    Args:
        function: takes tensors only and returns a tensor or a tuple of them, without side effects. What it closes
            over must not change between calls.

    A function that cannot be recorded, because its Python code branches on tensor values, goes on being called, with a
    warning that it is slow.
    """

    def __init__(self, function: Callable[..., Outputs]):
        self._function: Callable[..., Outputs] = function
        self._calls: dict[tuple, int] = {}
        self._replays: dict[tuple, Callable[..., Outputs]] = {}

    def __call__(self, *tensors: Tensor) -> Outputs:
        signature = _signature(tensors)
        replay = self._replays.get(signature)
        with repeatable(tensors[0].device):
            if replay is not None:
                with torch.no_grad():
                    return replay(*tensors)
            calls = self._calls[signature] = self._calls.get(signature, 0) + 1
            if calls == _EAGER_CALLS:
                self._replays[signature] = _record(self._function, *tensors)
            return self._function(*tensors)


class RecordedLinearisation:
    """``linearise``, recorded in two parts: what does not depend on the cotangent, and what does.

    Args:
        linearise: ``(*tensors) -> (value, pull_back)`` with ``pull_back(cotangent) -> tuple of tensors``, without side
            effects.

    The first part computes the value and everything that ``pull_back`` needs; many of them can be kept before the
    first is pulled back. Where the value is not wanted, what only it needs is left out: a third of the products of a
    step of training.
    """

    def __init__(self, linearise: Callable[..., tuple[Tensor, PullBack]]):
        self._linearise = linearise
        self._calls: dict[tuple, int] = {}
        self._replays: dict[tuple, tuple[Callable, Callable] | None] = {}

    def __call__(self, *tensors: Tensor, cotangent_shape: torch.Size) -> tuple[Tensor, PullBack]:
        """``(value, pull_back)``, to be pulled back from a cotangent of this shape."""
        (value,), pull_back = self._called(tensors, cotangent_shape, True)
        return value, pull_back

    def pull_back(self, *tensors: Tensor, cotangent_shape: torch.Size) -> PullBack:
        """The pull-back alone, from a cotangent of this shape."""
        return self._called(tensors, cotangent_shape, False)[1]

    def _called(
        self, tensors: tuple[Tensor, ...], cotangent_shape: torch.Size, with_value: bool
    ) -> tuple[list[Tensor], PullBack]:
        signature = (with_value, cotangent_shape, *_signature(tensors))
        replay = self._replays.get(signature)
        with repeatable(tensors[0].device):
            if replay is not None:
                forward, backward = replay
                with torch.no_grad():
                    found = forward(*tensors)
                return found[:with_value], partial(_replayed, backward, found[with_value:])
            value, pull_back = self._linearise(*tensors)
        calls = self._calls[signature] = self._calls.get(signature, 0) + 1
        if calls == _EAGER_CALLS:
            return [value], partial(self._record, signature, tensors, pull_back)
        return [value], partial(_repeatably, pull_back)

    def _record(
        self, signature: tuple, tensors: tuple[Tensor, ...], pull_back: PullBack, cotangent: Tensor
    ) -> tuple[Tensor, ...]:
        with_value, cotangent = signature[0], cotangent.contiguous()

        def whole(cotangent: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
            value, pull_back = self._linearise(*tensors)
            return (value, *pull_back(cotangent)) if with_value else pull_back(cotangent)

        with repeatable(cotangent.device):
            module = _trace(whole, cotangent, *tensors)
            split = None if module is None else self._in_two(module, cotangent, tensors, with_value)
            self._replays[signature] = split
            return pull_back(cotangent)

    @staticmethod
    def _in_two(
        module: torch.fx.GraphModule, cotangent: Tensor, tensors: tuple[Tensor, ...], values: int
    ) -> tuple[Callable, Callable] | None:
        forward, backward = _split(module.graph, module, values)
        with torch.no_grad():
            found = forward(*tensors)
            value, kept = found[:values], found[values:]
            copies = [tensor.clone() for tensor in kept]  # the second part may write into them
            if _bits((*value, *backward(cotangent, *kept))) != _bits(module.forward(cotangent, *tensors)):
                _give_up("in two parts it differs from the whole in some bits")
                return None
        return _captured(forward, *tensors), _captured(backward, cotangent, *copies)


def _signature(tensors: tuple[Tensor, ...]) -> tuple:
    """What a recording holds for: operations, and the order of their sums, depend on layout and data type too."""
    return tuple((tensor.shape, tensor.stride(), tensor.dtype, tensor.device) for tensor in tensors)


def _repeatably(pull_back: PullBack, cotangent: Tensor) -> tuple[Tensor, ...]:
    with repeatable(cotangent.device):
        return pull_back(cotangent.contiguous())


def _replayed(backward: Callable, kept: list[Tensor], cotangent: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad(), repeatable(cotangent.device):
        return backward(cotangent.contiguous(), *kept)


def _split(graph: torch.fx.Graph, module: torch.fx.GraphModule, values: int) -> tuple[Callable, Callable]:
    """Two functions from one: what does not depend on the first argument, with so many of the results, and the rest."""
    cotangent, *inputs = graph.find_nodes(op="placeholder")
    (output,) = graph.find_nodes(op="output")
    late = _depending_on(cotangent, graph)
    kept = [
        node
        for node in graph.nodes
        if node not in late and node.op != "get_attr" and any(user in late for user in node.users)
    ]
    value, pulled_back = output.args[0][:values], output.args[0][values:]
    early = [node for node in graph.nodes if node not in late and node.op not in ("placeholder", "output")]
    rest = [node for node in graph.nodes if node in late and node.op not in ("placeholder", "output")]
    constants = [node for node in early if node.op == "get_attr"]
    forward = _compiled(module, inputs, early, [*value, *kept])
    return forward, _compiled(module, [cotangent, *kept], constants + rest, pulled_back)


def _depending_on(argument: Node, graph: torch.fx.Graph) -> set[Node]:
    """The operations that need ``argument``; and all on memory that such an operation writes into."""
    late, found = {argument}, 0
    while len(late) > found:
        found = len(late)
        for node in graph.nodes:
            if not late.isdisjoint(node.all_input_nodes):
                late.add(node)
        written = {_memory(node.args[0]) for node in late if node.op == "call_function" and _writes(node)} - {None}
        late.update(node for node in graph.nodes if node.op == "call_function" and _memory(node) in written)
    return late


def _memory(node: Any) -> int | None:
    """Which memory an operation's result lies in: a view's is its base's."""
    value = node.meta.get("val")
    return value.untyped_storage()._cdata if isinstance(value, Tensor) else None


def _compiled(
    module: torch.fx.GraphModule,
    arguments: list[Node],
    body: list[Node],
    results: list[Node],
) -> Callable[..., tuple[Tensor, ...]]:
    graph, copies = torch.fx.Graph(), {}
    for node in arguments:
        copies[node] = graph.placeholder(node.name)
    for node in body:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in results))
    graph.eliminate_dead_code(is_impure_node=_writes)
    return torch.fx.GraphModule(module, graph).forward


def _record(function: Callable[..., Outputs], *tensors: Tensor) -> Callable[..., Outputs]:
    module = _trace(function, *tensors)
    return function if module is None else _captured(module.forward, *tensors)


def _captured(replay: Callable[..., Outputs], *tensors: Tensor) -> Callable[..., Outputs]:
    """On CUDA the replay as one graph of kernels, launched by one call; elsewhere the replay itself."""
    if not any(tensor.is_cuda for tensor in tensors):
        return replay
    try:
        launch = _Graph(replay, tensors)
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as error:
        _give_up(f"it could not be captured as a CUDA graph: {error}")
        return replay
    launched = _bits(launch(*tensors))  # it leaves its arguments as they are, and the replay may not
    with torch.no_grad():
        expected = _bits(replay(*tensors))
    if launched != expected:
        _give_up("as a CUDA graph it differs from itself in some bits")
        return replay
    return launch


class _Graph:
    """The kernels of a replay, launched by one call.

    A graph works at fixed places in memory, and all of them are held here: its own inputs, where what it is given is
    copied; its outputs, of which copies are returned; and the constants of the replay, which go with the replay.
    """

    def __init__(self, replay: Callable[..., Any], tensors: tuple[Tensor, ...]):
        self._replay, self._inputs = replay, [tensor.clone() for tensor in tensors]
        self._graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.device(tensors[0].device):
            replay(*self._inputs)  # outside the graph first: libraries set themselves up at their first call
            torch.cuda.synchronize()
            # A stream of this device: the one that torch captures on by itself belongs to the first device it saw.
            with torch.cuda.graph(self._graph, stream=torch.cuda.Stream()):
                self._outputs = replay(*self._inputs)

    def __call__(self, *given: Tensor) -> Any:
        for own, tensor in zip(self._inputs, given, strict=True):
            own.copy_(tensor)
        self._graph.replay()
        if isinstance(self._outputs, Tensor):
            return self._outputs.clone()
        return tuple(output.clone() for output in self._outputs)


def _trace(function: Callable[..., Outputs], *tensors: Tensor) -> torch.fx.GraphModule | None:
    """The operations of ``function``, verified bit for bit; ``None``, with a warning, where it cannot be traced."""
    from torch.fx.experimental.proxy_tensor import (
        make_fx,  # seconds to import, and only long runs need it
    )

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
            # Fake tensors have no values: a function that reads one in Python fails to trace instead of freezing it.
            traced = make_fx(lambda *inputs: function(*inputs), tracing_mode="fake", _allow_non_fake_inputs=True)
            module = traced(*tensors)
    except RuntimeError as error:
        _give_up(f"it could not be traced: {error}")
        return None
    for node in list(module.graph.nodes):
        if node.target in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            node.replace_all_uses_with(node.args[0])
        elif _is_constant(node):
            _fold(module, node)
        elif isinstance(node.target, torch._ops.OpOverload):
            node.target = _quick(node.target)
    module.graph.eliminate_dead_code(is_impure_node=_writes)
    module.recompile()
    expected = _bits(function(*tensors))
    with torch.no_grad():
        replayed = _bits(module.forward(*tensors))
    if replayed != expected:
        repeats = _bits(function(*tensors)) == expected
        _give_up("the replay differs from it in some bits" if repeats else "it does not repeat itself bit for bit")
        return None
    return module


def _is_constant(node: Node) -> bool:
    of_constants = {source.op for source in node.all_input_nodes} == {"get_attr"}
    return node.op == "call_function" and of_constants and isinstance(node.meta["val"], Tensor)


def _fold(module: torch.fx.GraphModule, node: Node) -> None:
    """Compute once what does not depend on the function's arguments."""
    constants = {source: getattr(module, str(source.target)) for source in node.all_input_nodes}
    with torch.no_grad():
        value = cast(torch._ops.OpOverload, node.target)(
            *torch.fx.map_arg(node.args, constants.__getitem__), **node.kwargs
        )
    name = f"_folded_{node.name}"
    module.register_buffer(name, value)
    with module.graph.inserting_before(node):
        node.replace_all_uses_with(module.graph.get_attr(name))


def _give_up(reason: str) -> None:
    warnings.warn(f"a step is called as it is, several times slower than recorded: {reason}", stacklevel=5)


def _quick(target: torch._ops.OpOverload) -> Callable[..., Any]:
    """The same operation through torch's own Python bindings, which cost a third of a call through ``torch.ops``."""
    if target.namespace == "aten" and target._schema.name.removeprefix("aten::") in _BOUND:
        name = target._schema.name.removeprefix("aten::")
        return getattr(torch, name, None) or getattr(torch.Tensor, name)
    return target


_BOUND = frozenset(
    "abs add bmm cat clone div exp expand log log1p logsumexp matmul mean mm mul neg permute pow reciprocal relu "
    "select sigmoid split_with_sizes squeeze sub sum t tanh transpose unsqueeze view".split()
)


def _writes(node: Node) -> bool:
    if node.op in ("placeholder", "output"):
        return True
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _bits(outputs: Tensor | tuple[Tensor, ...]) -> list[bytes]:
    tensors = outputs if isinstance(outputs, tuple) else (outputs,)
    return [tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for tensor in tensors]
