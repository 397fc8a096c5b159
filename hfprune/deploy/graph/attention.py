"""Attention as one operator: finding its parts in an exported graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfprune.deploy.graph.tools import constants, drop_unread, is_kind, producers, replace_nodes

# Token by token, whatever is in the other positions: rows of the output depend on the same rows.
ARITHMETIC = ("Add", "Sum", "Sub", "Mul", "Div", "Pow", "Sqrt", "Cast")


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
    replace_nodes(graph, [mask, *(made.get(node.output[0], node) for node in graph.node)])
    drop_unread(graph)
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
        self.constant = constants(graph)
        self.producer = producers(graph)
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
        return node if node is not None and is_kind(node, kind, perm) else None

    def _only_reader(self, name: str, kind: str, perm: tuple[int, ...] | None = None) -> Any | None:
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and is_kind(readers[0], kind, perm) else None

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
