"""Rewrites of ONNX classifiers: the same logits with less work, or with smaller embeddings.

Plain functions on loaded graphs, changed in place. That a rewritten graph still says the same is
for the caller to check; nothing here runs a model, but for ONNX Runtime's own optimizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
        model = _fused(path, attention="Attention", skip_layer_norm=True)
        fuse_attention(model, "Attention")
        return model
    model = _fused(path, attention=kind, skip_layer_norm=False)
    if kind is not None:
        fuse_attention(model, kind)
    residuals_as_sums(model)
    first_token_only(model)
    left = {node.op_type for node in model.graph.node}
    if kind is not None and kind not in left and "Softmax" in left:
        raise ExportError("no attention was found in this graph that could be fused")
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


def fuse_attention(model: Any, kind: str) -> int:
    """Fuse attention as PyTorch's newer exporter writes it, which ONNX Runtime does not know.

    That is scaled dot-product attention of three projections with biases, queries and keys each
    scaled by a root, and a mask that hides padding and nothing else (so no causal and no local
    one, no rotary or relative positions). Attention written in other ways stays as it is.

    A row of tokens that are all padding has the mean of the values then, where the exporter
    writes zeros.

    Args:
        model: a float32 graph with the input ``attention_mask``.
        kind: ``"Attention"``, which takes in the projections, or ``"MultiHeadAttention"``.

    Returns:
        How many there were.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    finder = _Finder(graph)
    made: dict[str, Any] = {}  # by the name of what they give
    for softmax in graph.node:
        found = finder.attention(softmax) if softmax.op_type == "Softmax" else None
        if found is None:
            continue
        number = len(made)
        products = [part.product for part in found.projections]
        bias = np.concatenate([part.bias for part in found.projections])
        if kind == "Attention":
            if len({product.input[0] for product in products}) != 1:
                continue  # takes one input for all three
            weights = np.concatenate([finder.constant[p.input[1]] for p in products], axis=1)
            graph.initializer.append(numpy_helper.from_array(weights, f"attention_{number}_weight"))
            inputs = [products[0].input[0], f"attention_{number}_weight"]
        else:
            inputs = [product.output[0] for product in products]
        graph.initializer.append(numpy_helper.from_array(bias, f"attention_{number}_bias"))
        made[found.output] = helper.make_node(
            kind,
            [*inputs, f"attention_{number}_bias", "attention_mask_for_fused"],
            [found.output],
            name=f"attention_{number}",
            domain="com.microsoft",
            num_heads=found.heads,
            mask_filter_value=found.hidden,
        )
    if not made:
        return 0
    mask = helper.make_node(
        "Cast",
        ["attention_mask"],
        ["attention_mask_for_fused"],
        name="attention_mask_for_fused",
        to=TensorProto.INT32,
    )
    _replace_nodes(graph, [mask, *(made.get(node.output[0], node) for node in graph.node)])
    _drop_unread(graph)
    if all(entry.domain != "com.microsoft" for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return len(made)


@dataclass(frozen=True)
class _Projection:
    """``x W + b``, seen as ``[batch, heads, length, size]``."""

    product: Any  # the node
    bias: NDArray[np.float32]
    size: int  # of one head


@dataclass(frozen=True)
class _Attention:
    projections: tuple[_Projection, ...]  # of query, key and value
    heads: int
    hidden: float  # what is added to scores of padding
    output: str  # of shape [batch, length, heads x size]


class _Finder:
    """Reads attention out of a graph; each method gives ``None`` where there is something else."""

    def __init__(self, graph: Any) -> None:
        self.constant = _constants(graph)
        self.producer = _producers(graph)
        self.readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.inputs = {entry.name for entry in graph.input}

    def attention(self, softmax: Any) -> _Attention | None:
        scores = self._made_by(softmax.input[0], "Add")
        context = self._only_reader(softmax.output[0], "MatMul")
        if scores is None or context is None or context.input[0] != softmax.output[0]:
            return None
        product = self._made_by(scores.input[0], "MatMul")
        hidden = self._padding_mask(scores.input[1])
        last = context.output[0]
        where = self._only_reader(last, "Where")  # rows without any token: zeros
        if where is not None:
            if where.input[2] != last or self._number(where.input[1]) != 0:
                return None
            last = where.output[0]
        turned = self._only_reader(last, "Transpose", (0, 2, 1, 3))
        merged = None if turned is None else self._only_reader(turned.output[0], "Reshape")
        if product is None or hidden is None or merged is None:
            return None
        queries, query_scale = self._scaled(product.input[0])
        keys, key_scale = self._scaled(product.input[1])
        parts = (
            self._projection(queries),
            self._projection(self._turned_back(keys)),
            self._projection(context.input[1]),
        )
        found = tuple(part for part in parts if part is not None)
        if len(found) != 3 or len({(part.size, len(part.bias)) for part in found}) != 1:
            return None
        size, width = found[0].size, len(found[0].bias)
        if width % size or not np.isclose(query_scale * key_scale, size**-0.5, rtol=1e-4):
            return None
        return _Attention(found, width // size, hidden, merged.output[0])

    def _made_by(self, name: str, kind: str, perm: tuple[int, ...] | None = None) -> Any | None:
        node = self.producer.get(name)
        return node if node is not None and _is(node, kind, perm) else None

    def _only_reader(self, name: str, kind: str, perm: tuple[int, ...] | None = None) -> Any | None:
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and _is(readers[0], kind, perm) else None

    def _number(self, name: str) -> float | None:
        value = self.constant.get(name)
        return float(value.reshape(())) if value is not None and value.size == 1 else None

    def _scaled(self, name: str) -> tuple[str, float]:
        """What is multiplied by a number, and the number."""
        node = self._made_by(name, "Mul")
        scale = None if node is None else self._number(node.input[1])
        return (name, 1.0) if node is None or scale is None else (node.input[0], scale)

    def _turned_back(self, name: str) -> str:
        """Keys before their last two axes were exchanged, in three dimensions."""
        outer = self._made_by(name, "Reshape")
        turned = None if outer is None else self._made_by(outer.input[0], "Transpose", (0, 2, 1))
        inner = None if turned is None else self._made_by(turned.input[0], "Reshape")
        return "" if inner is None else str(inner.input[0])

    def _projection(self, name: str) -> _Projection | None:
        turned = self._made_by(name, "Transpose", (0, 2, 1, 3))
        split = None if turned is None else self._made_by(turned.input[0], "Reshape")
        added = None if split is None else self._made_by(split.input[0], "Add")
        if split is None or added is None:
            return None
        product = self._made_by(added.input[0], "MatMul")
        bias = self.constant.get(added.input[1])
        if product is None or bias is None or bias.ndim != 1:
            return None
        weight = self.constant.get(product.input[1])
        shape = self._made_by(split.input[1], "Concat")
        size = None if shape is None else self._number(shape.input[-1])
        if weight is None or weight.ndim != 2 or size is None or size < 1:
            return None
        return _Projection(product, bias, int(size))

    def _padding_mask(self, name: str) -> float | None:
        """What is added to the scores of padding, if all others get zero added."""
        scaled = self._made_by(name, "Mul")
        number = None if scaled is None else self._number(scaled.input[1])
        cast = None if scaled is None else self._made_by(scaled.input[0], "Cast")
        negated = None if cast is None else self._made_by(cast.input[0], "Not")
        if number is None or number > -1e4 or negated is None:
            return None
        masks = [n for n in self._conjuncts(negated.input[0]) if not self._is_true(n)]
        return number if len(masks) == 1 and self._is_key_mask(masks[0]) else None

    def _conjuncts(self, name: str) -> list[str]:
        node = self._made_by(name, "And")
        return [name] if node is None else [n for i in node.input for n in self._conjuncts(i)]

    def _is_true(self, name: str) -> bool:
        """Always true: a constant, or that positions are not below zero."""
        if name in self.constant:
            return bool(self.constant[name].all())
        node = self._made_by(name, "GreaterOrEqual")
        return (
            node is not None
            and self._number(node.input[1]) == 0
            and self._range_axis(node.input[0]) is not None
        )

    def _is_key_mask(self, name: str) -> bool:
        """Whether it is ``attention_mask[i, k]`` at ``[i, head, query, k]``."""
        node = self._made_by(name, "GatherND")
        mask = None if node is None else self._made_by(node.input[0], "Cast")
        places = None if node is None else self._made_by(node.input[1], "Concat")
        if mask is None or places is None or mask.input[0] != "attention_mask":
            return False
        return "attention_mask" in self.inputs and [
            self._range_axis(index) for index in places.input
        ] == [(0, 5), (3, 5)]  # the fifth axis is that of the two indices

    def _range_axis(self, name: str) -> tuple[int, int] | None:
        """Along which of how many axes numbers from 0 are counted, other axes being equal."""
        node = self.producer.get(name)
        if node is None:
            return None
        if node.op_type == "Range":
            counted = self._number(node.input[0]) == 0 and self._number(node.input[2]) == 1
            return (0, 1) if counted else None
        if node.op_type not in {"Unsqueeze", "Expand"}:
            return None
        before = self._range_axis(node.input[0])
        if node.op_type == "Expand":  # against others of the same rank
            shape = self._made_by(node.input[1], "Shape")
            largest = None if shape is None else self._made_by(shape.input[0], "Max")
            return None if largest is None or node.input[0] not in largest.input else before
        axes = self.constant.get(node.input[1])
        if before is None or axes is None:
            return None
        axis, rank = before
        rank += axes.size
        new = {int(a) % rank for a in axes.ravel()}
        return [i for i in range(rank) if i not in new][axis], rank


def _is(node: Any, kind: str, perm: tuple[int, ...] | None) -> bool:
    if node.op_type != kind:
        return False
    return perm is None or any(
        attribute.name == "perm" and tuple(attribute.ints) == perm for attribute in node.attribute
    )


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


def _drop_unread(graph: Any) -> None:
    """Remove nodes and weights that lead to no output."""
    read = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if any(name in read for name in node.output):
            read.update(node.input)
            kept.append(node)
    _replace_nodes(graph, kept[::-1])
    weights = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(weights)
