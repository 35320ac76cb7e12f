"""A graph that writes nowhere, cut in two by an argument that comes later than the others."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx import Node

from gan_influence.replay.graph import compiled

__all__ = ["split"]


def split(
    module: torch.fx.GraphModule, values: int
) -> tuple[Callable[..., tuple[Tensor, ...]], Callable[..., tuple[Tensor, ...]]]:
    """``forward(*others) -> (*values, *kept)`` and ``backward(first, *kept) -> the other results``.

    The first computes all that does not depend on the module's first argument, and so many of its results. (torch's
    own partitioners cut where the operations stood in the code, or weigh memory against time.)
    """
    graph = module.graph
    first, *others = graph.find_nodes(op="placeholder")
    (output,) = graph.find_nodes(op="output")
    late = _depending_on(first, graph)
    early = [node for node in graph.nodes if node not in late]
    kept = [node for node in early if node.op != "get_attr" and any(user in late for user in node.users)]
    value, rest = output.args[0][:values], output.args[0][values:]
    kept += [node for node in dict.fromkeys(rest) if node not in late and node not in kept]
    return _compiled(module, others, [*value, *kept]), _compiled(module, [first, *kept], rest)


def _depending_on(argument: Node, graph: torch.fx.Graph) -> set[Node]:
    late = {argument}
    for node in graph.nodes:
        if node.op != "output" and not late.isdisjoint(node.all_input_nodes):
            late.add(node)
    return late


def _compiled(
    module: torch.fx.GraphModule, arguments: list[Node], results: list[Node]
) -> Callable[..., tuple[Tensor, ...]]:
    """What leads from these values in the graph to those."""
    graph, copies = torch.fx.Graph(), {}
    for node in arguments:
        copies[node] = graph.placeholder(node.name)
    for node in module.graph.nodes:
        if node in copies or node.op in ("placeholder", "output"):
            continue
        if all(source in copies for source in node.all_input_nodes):
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in results))
    graph.eliminate_dead_code()
    return compiled(torch.fx.GraphModule(module, graph))
