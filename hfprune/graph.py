"""Rewrites of ONNX classifiers: the same logits with less work, or with smaller embeddings.

Plain functions on loaded graphs, changed in place. That a rewritten graph still says the same is
for the caller to check; nothing here runs a model, but for ONNX Runtime's own optimizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfprune.errors import ExportError

INT4_BLOCK = 32
# Tried on each block; the scale with the least squared error is kept. Cutting the largest weights
# a little rounds all others better.
INT4_SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)

# Token by token, whatever is in the other positions: rows of the output depend on the same rows.
_ARITHMETIC = ("Add", "Sum", "Sub", "Mul", "Div", "Pow", "Sqrt", "Cast")
_ACTIVATIONS = ("Erf", "Gelu", "FastGelu", "BiasGelu", "Relu", "Tanh", "Sigmoid")
_ELEMENTWISE = frozenset((*_ARITHMETIC, *_ACTIVATIONS))


def rewrite(path: Path, graph: str) -> Any:
    """The graph of a file in one of the forms that a recipe names.

    Args:
        path: a float32 classifier.
        graph: ``"lean"``, ``"lean_multihead"``, ``"lean_attention"`` or ``"fused"``.

    Returns:
        A ``ModelProto``; the file stays as it is.

    Raises:
        ExportError: if attention was to be fused and cannot be. A graph without any is fine.
        Exception: whatever ONNX Runtime's optimizer meets.
    """
    kind = {"lean_multihead": "MultiHeadAttention", "lean_attention": "Attention"}.get(graph)
    if graph == "fused":
        return _fused(path, attention="Attention", skip_layer_norm=True)
    model = _fused(path, attention=kind, skip_layer_norm=False)
    residuals_as_sums(model)
    first_token_only(model)
    left = {node.op_type for node in model.graph.node}
    if kind is not None and kind not in left and "Softmax" in left:
        raise ExportError("ONNX Runtime's optimizer does not find the attention in this graph")
    return model


def _fused(path: Path, *, attention: str | None, skip_layer_norm: bool) -> Any:
    """What ONNX Runtime's transformer optimizer makes of a file.

    ``attention`` is the operator to fuse to: ``Attention`` takes in the projections of query, key
    and value as well, ``MultiHeadAttention`` their results.
    """
    from onnxruntime.transformers.fusion_options import AttentionMaskFormat, FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = FusionOptions("bert")
    options.enable_attention = attention is not None
    options.use_multi_head_attention = attention == "MultiHeadAttention"
    options.enable_skip_layer_norm = skip_layer_norm
    options.enable_embed_layer_norm = skip_layer_norm
    # Alone it keeps the bias of a quantized product out of its kernel.
    options.enable_bias_gelu = skip_layer_norm
    # The default counts tokens, which is right for padding at the end only.
    options.attention_mask_format = AttentionMaskFormat.AttentionMask
    # Zeros: the numbers of heads are read from the graph, layer by layer.
    optimized = optimize_model(
        str(path), "bert", num_heads=0, hidden_size=0, optimization_options=options, opt_level=1
    )
    return optimized.model


def residuals_as_sums(model: Any) -> int:
    """Turn each ``Add`` of two activations before a LayerNormalization into a ``Sum``.

    When a session is made ONNX Runtime fuses Add and LayerNormalization to SkipLayerNormalization,
    whose CPU kernel takes several times as long as the two (measured with 1.32; see docs/notes.md).
    ``Sum`` of two is the same, and is not fused.

    Returns:
        How many there were.
    """
    constant = _constants(model.graph)
    producer = _producers(model.graph)
    count = 0
    for node in model.graph.node:
        if node.op_type != "LayerNormalization":
            continue
        before = producer.get(node.input[0])
        if (
            before is not None
            and before.op_type == "Add"
            and not any(name in constant for name in before.input)
        ):
            before.op_type = "Sum"
            count += 1
    return count


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
    constant, producer = _constants(graph), _producers(graph)
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
    _replace_nodes(graph, nodes)
    return len(cut)


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
    _replace_nodes(graph, nodes)
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


def weighted_products(model: Any) -> list[str]:
    """Names of the nodes that multiply by a weight and so are what int8 is for."""
    constant = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in {"MatMul", "Gemm", "Attention"} and node.input[1] in constant
    ]


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


def _constants(graph: Any) -> dict[str, NDArray[Any]]:
    from onnx import numpy_helper

    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    found[node.output[0]] = numpy_helper.to_array(attribute.t)
    return found


def _producers(graph: Any) -> dict[str, Any]:
    return {name: node for node in graph.node for name in node.output}


def _replace_nodes(graph: Any, nodes: Sequence[Any]) -> None:
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)
