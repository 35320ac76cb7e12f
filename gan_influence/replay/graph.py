"""The operations of a function, as a graph that writes nowhere.

``make_fx`` gives them in order, through ``autograd.grad``, ``vmap`` and autograd Functions. It runs the function on
tensors without values, so that code which reads one in Python fails to trace, or leaves its reading in the graph, and
is not recorded. Where code works in place, a second pass writes every operation out of place; what is still written
then, at the end, is an argument or memory that the function closes over, a constant. A replay from fixed constants
could not follow that, so it is not recorded either.

What is left may be reordered, cut in two and computed beforehand: no operation can change what another one reads.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gan_influence.devices import is_out_of_memory

__all__ = ["UnrecordableError", "compiled", "difference", "traced"]

Outputs = TypeVar("Outputs", Tensor, tuple[Tensor, ...])

_UNSET = object()
_SAYS_VALUES = ("data-dependent", "numpy()", "data pointer", "data is not allocated", "__format__")


class UnrecordableError(Exception):
    """Why a function cannot be replayed."""


def traced(function: Callable[..., Outputs], *tensors: Tensor) -> torch.fx.GraphModule:
    """The operations of ``function`` for tensors of such shapes, layouts and types, as a module that writes nowhere.

    Raises:
        UnrecordableError: it reads values in Python, or shapes depend on them; it writes into an argument or a
            constant; an operation cannot be traced.
    """
    module = _made(function, tensors)
    _refuse_values(module.graph)
    if any(map(_writes, module.graph.nodes)):
        module = _functional(module, tensors)
    _clean(module)
    return module


def difference(function: Callable[..., Outputs], replay: Callable[..., Outputs], *tensors: Tensor) -> str | None:
    """How a replay differs from its function for these arguments; ``None`` where all bits agree."""
    expected = _bits(function(*tensors))
    try:
        with torch.no_grad():
            found = _bits(replay(*tensors))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return f"the replay fails ({_told(error)})"
    if found == expected:
        return None
    repeats = _bits(function(*tensors)) == expected
    return "the replay differs from it in some bits" if repeats else "it does not repeat itself bit for bit"


def _made(function: Callable[..., Outputs], tensors: tuple[Tensor, ...]) -> torch.fx.GraphModule:
    from torch.fx.experimental.proxy_tensor import (
        make_fx,  # seconds to import, and only long runs need it
    )

    def called(*inputs: Tensor) -> Outputs:
        with _modules_unchanged(), _ConstantsUnwritten():
            return function(*inputs)

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
            return make_fx(called, tracing_mode="fake", _allow_non_fake_inputs=True)(*tensors)
    except Exception as error:
        if isinstance(error, UnrecordableError) or is_out_of_memory(error):
            raise
        if any(words in str(error) for words in _SAYS_VALUES) or "DataDependent" in type(error).__name__:
            raise UnrecordableError(f"it reads a tensor's values in Python ({_told(error)})") from error
        raise UnrecordableError(f"it could not be traced ({_told(error)})") from error


def _told(error: Exception) -> str:
    """The first line: torch adds pages on how to debug it."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


@contextmanager
def _modules_unchanged() -> Iterator[None]:
    """What code sets on modules while it is traced, tensors without values among it, is set back, and refused."""
    usual, thread = nn.Module.__setattr__, threading.get_ident()
    before: dict[tuple[int, str], tuple[nn.Module, Any]] = {}

    def noted(module: nn.Module, name: str, value: Any) -> None:
        if threading.get_ident() == thread and type(module) is not nn.Module:  # the tracer's own, with its constants
            before.setdefault((id(module), name), (module, getattr(module, name, _UNSET)))
        usual(module, name, value)

    nn.Module.__setattr__ = noted  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.__setattr__ = usual  # type: ignore[method-assign]
        changed = [_set_back(module, name, value) for (_, name), (module, value) in before.items()]
    for what in filter(None, changed):
        raise UnrecordableError(f"it sets {what} at every call")


def _set_back(module: nn.Module, name: str, value: Any) -> str | None:
    """Give an attribute its value again, and tell which it is if it had another one."""
    now = getattr(module, name, _UNSET)
    if now is value or (type(now) is type(value) and isinstance(now, int | float | str) and now == value):
        return None
    if value is _UNSET:
        delattr(module, name)
    else:
        setattr(module, name, value)
    return f"{type(module).__name__}.{name}"


class _ConstantsUnwritten(TorchDispatchMode):
    """Refuses what writes into a tensor that has values: tracing would write into it, too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        for tensor in tree_leaves(_written(func, args, kwargs)):
            if isinstance(tensor, Tensor) and not isinstance(tensor, FakeTensor):
                raise UnrecordableError(_WRITES.format(func, "a tensor that it closes over", tuple(tensor.shape)))
        return func(*args, **kwargs)


def _written(operation: Any, args: tuple, kwargs: dict) -> list[Any]:
    """The arguments that an operation writes into."""
    formal = operation._schema.arguments
    given = {argument.name: value for argument, value in zip(formal, args, strict=False)} | kwargs
    return [given.get(one.name) for one in formal if one.alias_info is not None and one.alias_info.is_write]


_WRITES = "{} writes into {}, of shape {}"


def _refuse_values(graph: torch.fx.Graph) -> None:
    """A number read from a tensor, or a shape that depends on what is in one, is no tensor of a known shape."""
    for node in _operations(graph):
        for value in tree_leaves(node.meta.get("val")):
            sizes = value.shape if isinstance(value, Tensor) else (value,)
            if any(isinstance(size, torch.SymInt | torch.SymFloat | torch.SymBool) for size in sizes):
                raise UnrecordableError(f"it reads a tensor's values in Python, or a shape depends on them ({node})")


def _operations(graph: torch.fx.Graph) -> list[Node]:
    return [node for node in graph.nodes if node.op == "call_function"]


def _writes(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _functional(module: torch.fx.GraphModule, tensors: tuple[Tensor, ...]) -> torch.fx.GraphModule:
    """The same operations, each of them out of place.

    The constants are made arguments meanwhile: functionalisation tells only of those whether they are written into.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    constants = _lift_constants(module)
    values = [value.detach() for value in constants.values()]
    functional = torch.func.functionalize(module, remove="mutations")
    try:
        with torch.no_grad():
            found = make_fx(functional, tracing_mode="fake", _allow_non_fake_inputs=True)(*tensors, *values)
    except RuntimeError as error:
        raise UnrecordableError(f"it works in place, and could not be traced otherwise ({_told(error)})") from error
    arguments = found.graph.find_nodes(op="placeholder")
    for node in filter(_writes, _operations(found.graph)):
        raise UnrecordableError(_told_write(module.graph, arguments, _base(node), len(tensors)))
    _lower_constants(found, dict(zip(arguments[len(tensors) :], constants.items(), strict=True)))
    return found


def _told_write(graph: torch.fx.Graph, arguments: list[Node], written: Node | None, given: int) -> str:
    """Which operations of the graph write into this one of its arguments, and which of them is that."""
    if written not in arguments:
        return "it works in place in a way that cannot be traced otherwise"
    at = arguments.index(written)
    there = graph.find_nodes(op="placeholder")[at]
    names = sorted({str(node.target) for node in filter(_writes, graph.nodes) if _base(node) is there})
    what = "an argument" if at < given else "a tensor that it closes over"
    return _WRITES.format(" or ".join(names) or "an operation", what, tuple(written.meta["val"].shape))


def _base(node: Node) -> Node | None:
    """The argument whose memory an operation writes into, or of which a view shows a part; views name it first."""
    leaves = tree_leaves(_written(node.target, node.args, dict(node.kwargs)))
    found = leaves[0] if leaves else None
    while isinstance(found, Node) and found.op == "call_function":
        found = found.args[0] if found.args else None
    return found if isinstance(found, Node) else None


def _lift_constants(module: torch.fx.GraphModule) -> dict[str, Tensor]:
    """Make the module's constants its last arguments."""
    graph, arguments = module.graph, {}
    values: dict[str, Tensor] = {}
    after = graph.find_nodes(op="placeholder")[-1]
    for node in graph.find_nodes(op="get_attr"):
        name = str(node.target)
        if name not in values:
            values[name] = getattr(module, name)
            with graph.inserting_after(after):
                after = arguments[name] = graph.placeholder(f"constant_{name}")
        node.replace_all_uses_with(arguments[name])
        graph.erase_node(node)
    module.recompile()
    return values


def _lower_constants(module: torch.fx.GraphModule, arguments: dict[Node, tuple[str, Tensor]]) -> None:
    """Make these arguments of the module constants again."""
    for argument, (name, value) in arguments.items():
        module.register_buffer(name, value)
        with module.graph.inserting_before(argument):
            argument.replace_all_uses_with(module.graph.get_attr(name))
        module.graph.erase_node(argument)
    module.recompile()


def _clean(module: torch.fx.GraphModule) -> None:
    """Leave out what a replay does without, in a graph that writes nowhere.

    ``detach`` and ``alias`` give the same numbers under another name: one is about gradients, of which a replay takes
    none, the other about who may write. So does a view of the shape that was there.
    """
    graph = module.graph
    for node in list(graph.nodes):
        if node.target in _SAME or (node.target in _SHAPED and _is_as_before(node)):
            node.replace_all_uses_with(node.args[0])
        elif _is_constant(node):
            _fold(module, node)
        elif isinstance(node.target, torch._ops.OpOverload):
            node.target = _quick(node.target)
    _copy_constant_results(graph)
    graph.eliminate_dead_code()
    module.recompile()


def compiled(module: torch.fx.GraphModule) -> Callable[..., Any]:
    """The graph as a function. Buffers become plain attributes, which a module finds without code of its own: half a
    microsecond each."""
    vars(module).update(module._buffers)
    module._buffers.clear()
    return module.forward


_SAME = frozenset({torch.ops.aten.detach.default, torch.ops.aten.alias.default})
_SHAPED = frozenset({torch.ops.aten.view.default, torch.ops.aten.expand.default, torch.ops.aten._unsafe_view.default})


def _is_as_before(node: Node) -> bool:
    after, before = node.meta["val"], node.args[0].meta.get("val")  # type: ignore[union-attr]
    return isinstance(before, Tensor) and before.shape == after.shape and before.stride() == after.stride()


def _is_constant(node: Node) -> bool:
    """Does it depend on no argument? Random numbers do not either: the comparison with the function finds them."""
    of_constants = all(source.op == "get_attr" for source in node.all_input_nodes)
    return of_constants and isinstance(node.target, torch._ops.OpOverload) and isinstance(node.meta["val"], Tensor)


def _fold(module: torch.fx.GraphModule, node: Node) -> None:
    """Compute once what does not depend on the function's arguments."""
    constants = {source: getattr(module, str(source.target)) for source in node.all_input_nodes}
    given = torch.fx.map_arg((node.args, node.kwargs), constants.__getitem__)
    with torch.no_grad():
        value = node.target(*given[0], **given[1])  # type: ignore[operator]
    name = f"_folded_{node.name}"
    module.register_buffer(name, value)
    with module.graph.inserting_before(node):
        node.replace_all_uses_with(module.graph.get_attr(name))


def _copy_constant_results(graph: torch.fx.Graph) -> None:
    """The caller may write into what it is given: not into a constant."""
    (output,) = graph.find_nodes(op="output")
    for node in graph.find_nodes(op="get_attr"):
        if output in node.users:
            with graph.inserting_before(output):
                output.replace_input_with(node, graph.call_function(torch.clone, (node,)))


def _quick(target: torch._ops.OpOverload) -> Callable[..., Any]:
    """The same operation through torch's own Python bindings, which cost a third of a call through ``torch.ops``."""
    name = target._schema.name.removeprefix("aten::")
    if target.namespace == "aten" and name in _BOUND:
        return getattr(torch, name, None) or getattr(torch.Tensor, name)
    return target


# Nine in ten of the operations of a step of LQGAN and FCGAN (177 of 198, 443 of 506), each 0.5 to 2 microseconds faster
# so. Only such whose bindings take their arguments as they are recorded: a binding that took them otherwise would give
# other bits than the function, and the recording up.
_BOUND = frozenset(
    "abs add bmm cat clone div exp expand log log1p logsumexp matmul mean mm mul neg permute pow reciprocal relu "
    "select sigmoid split_with_sizes squeeze sub sum t tanh transpose unsqueeze view".split()
)


def _bits(outputs: Tensor | tuple[Tensor, ...]) -> list[bytes]:
    tensors = outputs if isinstance(outputs, tuple | list) else (outputs,)
    return [
        _one_nan(one.detach()).cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for one in tensors
    ]


def _one_nan(tensor: Tensor) -> Tensor:
    """The sign of a NaN, which no one sees, depends on the order in which a sum's terms are loaded."""
    return torch.where(tensor.isnan(), torch.nan, tensor) if tensor.is_floating_point() else tensor
