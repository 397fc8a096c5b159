"""Small questions and changes to a loaded graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

ACTIVATIONS = ("Erf", "Gelu", "FastGelu", "BiasGelu", "Relu", "Tanh", "Sigmoid")


def is_kind(node: Any, kind: str, perm: tuple[int, ...] | None) -> bool:
    if node.op_type != kind:
        return False
    return perm is None or any(
        attribute.name == "perm" and tuple(attribute.ints) == perm for attribute in node.attribute
    )


def weighted_products(model: Any) -> list[str]:
    """Names of the nodes that multiply by a weight and so are what int8 is for."""
    constant = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in {"MatMul", "Gemm", "Attention"} and node.input[1] in constant
    ]


def constants(graph: Any) -> dict[str, NDArray[Any]]:
    from onnx import numpy_helper

    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    found[node.output[0]] = numpy_helper.to_array(attribute.t)
    return found


def producers(graph: Any) -> dict[str, Any]:
    return {name: node for node in graph.node for name in node.output}


def replace_nodes(graph: Any, nodes: Sequence[Any]) -> None:
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)


def drop_unread(graph: Any) -> None:
    """Remove nodes and weights that lead to no output."""
    read = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if any(name in read for name in node.output):
            read.update(node.input)
            kept.append(node)
    replace_nodes(graph, kept[::-1])
    weights = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(weights)
