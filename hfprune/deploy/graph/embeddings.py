"""Word embeddings stored in fewer bits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfprune.core.errors import ExportError
from hfprune.deploy.graph.tools import replace_nodes

INT4_BLOCK = 32

# Tried on each block; the scale with the least squared error is kept. Cutting the largest weights
# a little rounds all others better.
INT4_SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)


def store_embeddings(model: Any, form: str) -> list[str]:
    """Store the word embeddings (the largest table that rows are gathered from) in another form.

    Args:
        model: a float32 graph.
        form: ``"float32"`` (no change), ``"float16"``, ``"int8"`` (symmetric, one scale a row) or
            ``"int4"`` (symmetric, one scale a block of ``INT4_BLOCK`` columns).

    Returns:
        Names of the nodes that now give the embeddings: a quantizer has to leave them alone.

    Raises:
        ExportError: if the graph has no such table, or the form does not fit it.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    table, node = _word_embeddings(graph)
    if form == "float32":
        return [str(node.name)]
    weights: NDArray[np.float32] = numpy_helper.to_array(table).astype(np.float32)
    name, ids, output = table.name, node.input[1], node.output[0]
    new: list[Any]
    if form == "float16":
        half = weights.astype(np.float16)
        if not np.isfinite(half).all():
            raise ExportError("the word embeddings hold numbers that float16 cannot")
        stored = [numpy_helper.from_array(half, f"{name}_float16")]
        new = [
            helper.make_node("Gather", [f"{name}_float16", ids], [f"{output}_float16"]),
            helper.make_node("Cast", [f"{output}_float16"], [output], to=TensorProto.FLOAT),
        ]
    elif form == "int8":
        scale = np.abs(weights).max(axis=1, keepdims=True) / 127
        scale[scale == 0] = 1  # a row of zeros
        rounded = np.round(weights / scale).astype(np.int8)
        stored = [
            numpy_helper.from_array(rounded, f"{name}_int8"),
            numpy_helper.from_array(scale.astype(np.float32), f"{name}_scale"),
        ]
        # DequantizeLinear takes one scale along an axis of the table; after Gather the row's scale
        # differs from token to token.
        new = [
            helper.make_node("Gather", [f"{name}_int8", ids], [f"{output}_int8"]),
            helper.make_node("Gather", [f"{name}_scale", ids], [f"{output}_scale"]),
            helper.make_node("Cast", [f"{output}_int8"], [f"{output}_raw"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{output}_raw", f"{output}_scale"], [output]),
        ]
    elif form == "int4":
        # Plain operators: GatherBlockQuantized of ONNX Runtime does the same, and takes four times
        # as long on the CPU (measured with 1.32).
        packed, scale = int4_blocks(weights)
        blocks = scale.shape[1]
        constants: dict[str, NDArray[Any]] = {
            "int4": packed,
            "scale": scale[:, :, None],
            "half_byte": np.array(4, dtype=np.uint8),
            "one": np.array(1, dtype=np.float32),
            "zero_point": np.array(8, dtype=np.uint8),
            "in_blocks": np.array([0, 0, blocks, INT4_BLOCK], dtype=np.int64),
            "in_rows": np.array([0, 0, weights.shape[1]], dtype=np.int64),
        }
        stored = [numpy_helper.from_array(v, f"{name}_{key}") for key, v in constants.items()]
        steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
            ("Gather", [f"{name}_int4", ids], "pairs", {}),
            ("BitShift", ["pairs", f"{name}_half_byte"], "high", {"direction": "RIGHT"}),
            ("BitShift", ["pairs", f"{name}_half_byte"], "shifted", {"direction": "LEFT"}),
            ("BitShift", ["shifted", f"{name}_half_byte"], "low", {"direction": "RIGHT"}),
            ("Concat", ["low", "high"], "numbers", {"axis": 2}),
            ("DequantizeLinear", ["numbers", f"{name}_one", f"{name}_zero_point"], "raw", {}),
            ("Reshape", ["raw", f"{name}_in_blocks"], "blocks", {}),
            ("Gather", [f"{name}_scale", ids], "scales", {}),
            ("Mul", ["blocks", "scales"], "scaled", {}),
            ("Reshape", ["scaled", f"{name}_in_rows"], "", {}),
        ]
        made_here = {result for _, _, result, _ in steps}
        new = [
            helper.make_node(
                kind,
                [f"{output}_{i}" if i in made_here else i for i in inputs],
                [f"{output}_{result}" if result else output],
                **attributes,
            )
            for kind, inputs, result, attributes in steps
        ]
    else:
        raise ExportError(f"unknown form of embeddings {form!r}")
    for index, made in enumerate(new):
        made.name = f"word_embeddings_{form}_{index}"
    place = next(i for i, n in enumerate(graph.node) if n.output[:1] == [output])
    nodes = [*graph.node[:place], *new, *graph.node[place + 1 :]]
    replace_nodes(graph, nodes)
    graph.initializer.remove(table)
    graph.initializer.extend(stored)
    return [made.name for made in new]


def int4_blocks(weights: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Quantize rows to 4-bit numbers, one scale a block of ``INT4_BLOCK`` columns.

    Args:
        weights: shape ``[rows, columns]``; the columns fill whole blocks.

    Returns:
        Two numbers a byte: that of a column of the first half in the low bits, that of the same
        column of the second half in the high bits; shape ``[rows, columns / 2]``. And scales of
        shape ``[rows, columns / INT4_BLOCK]``. A weight is about (its number - 8) times its scale.

    Raises:
        ExportError: if the columns do not fill whole blocks.
    """
    rows, columns = weights.shape
    if columns % INT4_BLOCK:
        raise ExportError(
            f"int4 embeddings need a width that is a multiple of {INT4_BLOCK}, got {columns}"
        )
    blocks = weights.reshape(rows, columns // INT4_BLOCK, INT4_BLOCK)
    largest = np.abs(blocks).max(axis=2, keepdims=True)
    largest[largest == 0] = 1
    best = np.full(largest.shape, np.inf, dtype=np.float32)
    scale = np.ones_like(largest)
    numbers = np.zeros(blocks.shape, dtype=np.int8)
    for factor in INT4_SHRINK:
        trial = (largest * (factor / 7.5)).astype(np.float32)
        rounded = np.clip(np.round(blocks / trial), -8, 7)
        error = ((rounded * trial - blocks) ** 2).sum(axis=2, keepdims=True)
        better = error < best
        best = np.where(better, error, best)
        scale = np.where(better, trial, scale)
        numbers = np.where(better, rounded, numbers).astype(np.int8)
    flat = (numbers.reshape(rows, columns) + 8).astype(np.uint8)
    half = columns // 2
    packed = np.bitwise_or(flat[:, :half], np.left_shift(flat[:, half:], 4)).astype(np.uint8)
    return packed, scale[:, :, 0].astype(np.float32)


def _word_embeddings(graph: Any) -> tuple[Any, Any]:
    tables = {tensor.name: tensor for tensor in graph.initializer if len(tensor.dims) == 2}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            if name in tables:
                readers.setdefault(name, []).append(node)
    gathered = {
        name: found[0]
        for name, found in readers.items()
        if len(found) == 1 and found[0].op_type == "Gather" and found[0].input[0] == name
    }
    if not gathered:
        raise ExportError("the graph gathers rows from no table of its own: no word embeddings")
    name = max(gathered, key=lambda key: tables[key].dims[0] * tables[key].dims[1])
    return tables[name], gathered[name]
