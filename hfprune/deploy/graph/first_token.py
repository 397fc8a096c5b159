"""Without the work for other tokens than the first, where only that one is read."""

from __future__ import annotations

from typing import Any

import numpy as np

from hfprune.deploy.graph.attention import ARITHMETIC
from hfprune.deploy.graph.tools import ACTIVATIONS, constants, producers, replace_nodes

_ELEMENTWISE = frozenset((*ARITHMETIC, *ACTIVATIONS))


def first_token_only(model: Any) -> int:
    """Cut all other tokens off as early as only the first one is read.

    A classifier that pools by the first token needs of the last layers nothing but that token,
    from the last attention's output on (from its queries on, where attention is one operator).
    Slices (of length one, so that no shape changes its rank)
    are put where the token-wise operators begin that lead to the pooling ``Gather``.

    Returns:
        The number of slices, 0 where no first token is gathered.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    constant, producer = constants(graph), producers(graph)
    readers: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    for output in graph.output:
        readers[output.name] = readers.get(output.name, 0) + 1
    cut: dict[str, Any] = {}

    def push(owner: Any, index: int) -> None:
        name = owner.input[index]
        node = producer.get(name)
        if node is not None and readers[name] == 1:
            moving = [i for i, source in enumerate(node.input) if source not in constant]
            flat = all(
                constant[source].ndim <= 1 or constant[source].shape[-2] == 1
                for source in node.input
                if source in constant
            )
            if node.op_type == "LayerNormalization" and moving == [0]:
                return push(node, 0)
            if node.op_type == "MatMul" and moving == [0] and constant[node.input[1]].ndim == 2:
                return push(node, 0)
            if node.op_type == "MultiHeadAttention":
                return push(node, 0)  # a token attends by its own query, to all keys
            if node.op_type in _ELEMENTWISE and moving and flat:
                for i in moving:
                    push(node, i)
                return None
        if node is None or node.op_type == "Slice":
            return None  # a graph input, or cut already
        if name not in cut:
            cut[name] = helper.make_node(
                "Slice",
                [name, "first_token_start", "first_token_end", "first_token_axis"],
                [f"{name}_first_token"],
                name=f"first_token_{len(cut)}",
            )
        owner.input[index] = f"{name}_first_token"
        return None

    for node in list(graph.node):
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        if node.op_type != "Gather" or axis != 1 or node.input[0] in constant:
            continue
        index = constant.get(node.input[1])
        # Its own input is not cut: that would save nothing.
        source = producer.get(node.input[0])
        if index is None or index.shape != () or int(index) != 0 or source is None:
            continue
        if source.op_type in {"LayerNormalization", "MatMul", *_ELEMENTWISE}:
            push(node, 0)
    if not cut:
        return 0
    for name, value in (("start", 0), ("end", 1), ("axis", 1)):
        values = np.array([value], dtype=np.int64)
        graph.initializer.append(numpy_helper.from_array(values, f"first_token_{name}"))
    nodes = []
    for node in graph.node:
        nodes.append(node)
        nodes += [cut[name] for name in node.output if name in cut]
    replace_nodes(graph, nodes)
    return len(cut)
