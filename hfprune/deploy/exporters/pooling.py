"""Pooling, and what follows it, put behind an exported encoder: one output, the embedding."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from hfprune.core.errors import ExportError
from hfprune.core.kinds import POOLING_KEY, output_of
from hfprune.deploy.staging import save_graph

OUTPUT: Final = output_of("feature-extraction")
# What exporters call the hidden states of all tokens.
STATES: Final = "last_hidden_state"
# Of nodes and values that are added; those of the encoder have other names.
PREFIX: Final = "pooling"
_ACTIVATIONS: Final = {"Tanh": "Tanh", "ReLU": "Relu", "Sigmoid": "Sigmoid"}


class _Tail:
    """Nodes that are added to a graph, one behind the other."""

    def __init__(self, graph: Any, opset: int) -> None:
        self.graph, self.opset = graph, opset
        self._count = 0

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        from onnx import numpy_helper

        self._count += 1
        name = f"{PREFIX}_constant_{self._count}"
        array = np.ascontiguousarray(np.asarray(values, dtype=dtype))
        self.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def add(self, kind: str, *inputs: str, called: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        self._count += 1
        name = called or f"{PREFIX}_{self._count}"
        node = helper.make_node(kind, list(inputs), [name], name=f"{PREFIX}_{self._count}_{kind}")
        node.attribute.extend(
            helper.make_attribute(key, value) for key, value in attributes.items()
        )
        self.graph.node.append(node)
        return name


def pool_graph(path: Path, model: Any) -> None:
    """Let the graph of an encoder give embeddings. In place.

    Args:
        path: of the graph, with the inputs ``input_ids`` and ``attention_mask`` and an output of
            hidden states.
        model: the embedder that it was exported from.

    Raises:
        ExportError: it has no such output, or an operator set of before 13, in which sums are
            written in another way.
    """
    import onnx
    from onnx import TensorProto, helper

    proto = onnx.load(str(path))
    graph = proto.graph
    outputs = [node.name for node in graph.output]
    if STATES not in outputs:
        raise ExportError(f"the exported encoder has the outputs {outputs}, expected {STATES!r}")
    mask, inputs = "attention_mask", [node.name for node in graph.input]
    if mask not in inputs:  # no attention is left that would read it
        rows = ["batch_size", "sequence_length"]
        graph.input.append(helper.make_tensor_value_info(mask, TensorProto.INT64, rows))
    if "position_ids" in inputs:
        _count_positions(graph)
    opset = next(one.version for one in proto.opset_import if one.domain in ("", "ai.onnx"))
    if opset < 13:
        raise ExportError(f"embeddings need opset 13 or more, got {opset}: leave export.opset out")
    tail = _Tail(graph, opset)
    found = _pooled(tail, STATES, mask, getattr(model, POOLING_KEY).pooling)
    for module in model.later:
        found = _LATER[module.kind](tail, found, module)
    tail.add("Identity", found, called=OUTPUT)
    del graph.output[:]
    shape: list[str | int | None] = ["batch_size", int(model.embedding_width)]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, shape))
    _drop_unused(graph)
    save_graph(proto, path)


def _count_positions(graph: Any) -> None:
    """Positions from 0 on in place of an input of them, as the model counts without a word."""
    from onnx import helper, numpy_helper

    for name, value in (("zero", 0), ("one", 1)):
        array = np.array(value, dtype=np.int64)
        graph.initializer.append(numpy_helper.from_array(array, f"{PREFIX}_{name}"))
    axis = numpy_helper.from_array(np.zeros(1, dtype=np.int64), f"{PREFIX}_axis")
    graph.initializer.append(axis)
    zero, one = f"{PREFIX}_zero", f"{PREFIX}_one"
    steps = (
        ("Shape", ["input_ids"], "positions_shape"),
        ("Gather", ["positions_shape", one], "positions_count"),
        ("Range", [zero, "positions_count", one], "positions_range"),
        ("Unsqueeze", ["positions_range", axis.name], "positions_row"),
        ("Expand", ["positions_row", "positions_shape"], "position_ids"),
    )
    nodes = [helper.make_node(kind, inputs, [to], name=to) for kind, inputs, to in steps]
    nodes += graph.node
    kept = [node for node in graph.input if node.name != "position_ids"]
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    graph.input.extend(kept)


def _pooled(tail: _Tail, states: str, mask: str, pooling: str) -> str:
    """``(batch, length, hidden)`` and ``(batch, length)`` to ``(batch, hidden)``."""
    if pooling == "cls_token":
        # With padding on the left the first token is not the token 0.
        first = tail.add("ArgMax", mask, axis=1, keepdims=1)
        return tail.add("GatherND", states, first, batch_dims=1)
    real = tail.add("Cast", mask, to=1)  # float
    real = tail.add("Unsqueeze", real, tail.constant([2], np.int64))
    if pooling == "max_tokens":
        # As in PyTorch the least number there is, not minus infinity: int8 ranges stay finite.
        lowest = tail.constant(np.finfo(np.float32).min)
        padding = tail.add("Equal", real, tail.constant(0.0))
        masked = tail.add("Where", padding, lowest, states)
        if tail.opset < 18:  # then an attribute became an input
            return tail.add("ReduceMax", masked, axes=[1], keepdims=0)
        return tail.add("ReduceMax", masked, tail.constant([1], np.int64), keepdims=0)
    axes = tail.constant([1], np.int64)
    total = tail.add("ReduceSum", tail.add("Mul", states, real), axes, keepdims=0)
    count = tail.add("ReduceSum", real, axes, keepdims=0)
    return tail.add("Div", total, tail.add("Max", count, tail.constant(1e-9)))


def _dense(tail: _Tail, values: str, module: Any) -> str:
    found = tail.add("MatMul", values, tail.constant(module.weight.cpu().numpy().T))
    if module.bias is not None:
        found = tail.add("Add", found, tail.constant(module.bias.cpu().numpy()))
    kind = module.activation.rpartition(".")[2]
    if kind in _ACTIVATIONS:
        found = tail.add(_ACTIVATIONS[kind], found)
    elif kind == "SiLU":
        found = tail.add("Mul", found, tail.add("Sigmoid", found))
    elif kind == "GELU":
        scaled = tail.add("Mul", found, tail.constant(2**-0.5))
        share = tail.add("Add", tail.add("Erf", scaled), tail.constant(1.0))
        found = tail.add("Mul", tail.add("Mul", found, share), tail.constant(0.5))
    if not module.has_residual:
        return found
    if module.residual is not None:
        values = tail.add("MatMul", values, tail.constant(module.residual.cpu().numpy().T))
    return tail.add("Add", found, values)


def _unit(tail: _Tail, values: str, module: Any) -> str:
    squares = tail.add("Mul", values, values)
    total = tail.add("ReduceSum", squares, tail.constant([1], np.int64), keepdims=1)
    length = tail.add("Max", tail.add("Sqrt", total), tail.constant(1e-12))
    return tail.add("Div", values, length)


def _cut(tail: _Tail, values: str, module: Any) -> str:
    start, end, axis = (tail.constant([n], np.int64) for n in (0, module.size, 1))
    return tail.add("Slice", values, start, end, axis)


# By the kind of a module after the pooling, what adds its nodes.
_LATER: Final = {"Dense": _dense, "Normalize": _unit, "Cut": _cut}


def _drop_unused(graph: Any) -> None:
    """Nodes and weights that the output does not depend on: those of a pooler."""
    producer = {name: node for node in graph.node for name in node.output}
    todo, used = [node.name for node in graph.output], set[str]()
    kept: list[int] = []
    while todo:
        name = todo.pop()
        if name in used:
            continue
        used.add(name)
        node = producer.get(name)
        if node is not None:
            kept.append(id(node))
            todo += [*node.input, *_outer(node)]
    nodes = [node for node in graph.node if id(node) in set(kept)]
    weights = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weights)


def _outer(node: Any) -> list[str]:
    """Values of the graph around it that the inner graphs of a node read."""
    inner = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return [name for graph in inner for one in graph.node for name in (*one.input, *_outer(one))]


def token_graph(path: Path, target: Path) -> None:
    """A copy of a graph of embeddings that gives the hidden states again.

    For programs that pool by themselves, as Transformers.js and sentence-transformers do.

    Args:
        path: what :func:`pool_graph` made, or an optimized or quantized form of it.
        target: where to write.

    Raises:
        ExportError: the pooling has been merged with the encoder.
    """
    import onnx
    from onnx import TensorProto, helper

    proto = onnx.load(str(path))
    graph = proto.graph
    added = [node for node in graph.node if node.name.startswith(PREFIX)]
    made = {name for node in added for name in node.output}
    known = {tensor.name for tensor in graph.initializer} | {node.name for node in graph.input}
    states = {
        name
        for node in added
        for name in node.input
        if name and name not in made and name not in known and not name.startswith(PREFIX)
    }
    if len(states) != 1:
        raise ExportError(f"{path} does not show where its pooling begins: export the model anew")
    (name,) = states
    source = next(node for node in graph.node if name in node.output)
    del graph.output[:]
    shape: list[str | int | None] = ["batch_size", "sequence_length", None]
    graph.output.append(helper.make_tensor_value_info(STATES, TensorProto.FLOAT, shape))
    if name != STATES:
        graph.node.append(helper.make_node("Identity", [source.output[0]], [STATES]))
    _drop_unused(graph)
    save_graph(proto, target)
