"""int8 with constant scales of activations: a prediction does not depend on the rest of its batch.

Dynamic quantization takes one scale for a whole padded batch. Here each activation that products
read gets one ``QuantizeLinear`` with a scale fixed by calibration, however many products read it;
a product and its bias become one ``MatMulIntegerToFloat``, fused attention a ``QAttention``. (ONNX
Runtime's own static tool puts a QuantizeLinear before each product and leaves the bias outside.)
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfprune.deploy.graph.tools import constants, drop_unread, replace_nodes
from hfprune.deploy.quantize.calibrating import Ranges
from hfprune.deploy.quantize.ranges import Rule, choose_range, scale_of

OPERATORS = ("MatMul", "Gemm", "Attention")

# A product with fewer columns (the classifier) costs nothing, and all of its rounding shows.
LEAST_COLUMNS = 16


@dataclass(frozen=True)
class Product:
    """A product of an activation with a constant weight.

    Attributes:
        node: of the graph.
        activation: name of what is multiplied.
        weight: float32, shape ``[inputs, outputs]``.
        bias: float32, shape ``[outputs]``, or ``None``.
        output: name of the result, the bias added.
        swallowed: the node that adds the bias, if it is one of its own.
    """

    node: Any
    activation: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    output: str
    swallowed: Any | None = None


def find_products(
    graph: Any, operators: Collection[str] = OPERATORS, excluded: Collection[str] = ()
) -> list[Product]:
    """The products of a float graph that 8-bit ones can take the place of.

    Args:
        graph: with fused attention or without.
        operators: which of ``OPERATORS``.
        excluded: names of nodes to leave alone.
    """
    constant = constants(graph)
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    ends = {output.name for output in graph.output}
    found = []
    for node in graph.node:
        if node.op_type not in operators or node.name in excluded:
            continue
        weight = constant.get(node.input[1])
        if node.input[0] in constant or weight is None or weight.ndim != 2:
            continue
        if weight.dtype != np.float32 or weight.shape[1 - _transposed(node)] < LEAST_COLUMNS:
            continue
        product = {"MatMul": _matmul, "Gemm": _gemm, "Attention": _attention}[node.op_type](
            node, weight, constant, readers, ends
        )
        if product is not None:
            found.append(product)
    return found


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}


def _transposed(node: Any) -> int:
    return int(_attributes(node).get("transB", 0)) if node.op_type == "Gemm" else 0


def _matmul(
    node: Any,
    weight: NDArray[np.float32],
    constant: dict[str, NDArray[Any]],
    readers: dict[str, list[Any]],
    ends: set[str],
) -> Product:
    result = node.output[0]
    next_nodes = readers.get(result, [])
    if len(next_nodes) == 1 and result not in ends and next_nodes[0].op_type == "Add":
        add = next_nodes[0]
        bias = next((constant[name] for name in add.input if name in constant), None)
        if bias is not None and bias.shape == (weight.shape[1],):
            return Product(node, node.input[0], weight, bias, add.output[0], add)
    return Product(node, node.input[0], weight, None, result)


def _gemm(
    node: Any, weight: NDArray[np.float32], constant: dict[str, NDArray[Any]], *_: Any
) -> Product | None:
    attributes = _attributes(node)
    if attributes.get("transA", 0) or any(attributes.get(k, 1.0) != 1.0 for k in ("alpha", "beta")):
        return None
    weight = weight.T if attributes.get("transB", 0) else weight
    bias = None
    if len(node.input) > 2 and node.input[2]:
        bias = constant.get(node.input[2])
        if bias is None or bias.shape != (weight.shape[1],):
            return None
    return Product(node, node.input[0], weight, bias, node.output[0])


def _attention(
    node: Any, weight: NDArray[np.float32], constant: dict[str, NDArray[Any]], *_: Any
) -> Product | None:
    # QAttention knows neither another scale nor unequal sizes, nor anything after the mask.
    known = {"num_heads", "mask_filter_value", "unidirectional"}
    extra = any(name for name in node.input[4:])
    bias = constant.get(node.input[2]) if len(node.input) > 2 else None
    if set(_attributes(node)) - known or extra or bias is None:
        return None
    return Product(node, node.input[0], weight, bias, node.output[0])


def quantize_weight(
    weight: NDArray[np.float32], *, per_channel: bool, bits: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric integers of a weight.

    Args:
        weight: shape ``[inputs, outputs]``.
        per_channel: one scale for each output instead of one in all.
        bits: 8, or 7 for CPUs that add pairs of products in 16 bits.

    Returns:
        int8 ``[inputs, outputs]``, and float32 scales ``[outputs]`` or ``[]``.
    """
    most = 2 ** (bits - 1) - 1
    largest = np.abs(weight).max(axis=0 if per_channel else None)
    scale = np.where(largest == 0, 1.0, largest / most).astype(np.float32)
    return np.clip(np.round(weight / scale), -most, most).astype(np.int8), scale


def quantize_constant(
    model: Any,
    products: Sequence[Product],
    ranges: Ranges,
    *,
    rule: Rule,
    per_channel: bool,
    bits: int = 8,
) -> dict[str, float]:
    """Turn products of a float graph into 8-bit ones with constant scales; changes the graph.

    Args:
        model: the graph that ``products`` are of.
        products: as :func:`find_products` gives them.
        ranges: what was seen of each of their activations.
        rule: for the bounds, see :func:`~hfprune.deploy.quantize.ranges.choose_range`.
        per_channel, bits: of weights, see :func:`quantize_weight`.

    Returns:
        For each activation the fraction of calibration values beyond its bounds.
    """
    from onnx import helper, numpy_helper

    graph = model.graph

    def store(name: str, values: NDArray[Any]) -> str:
        graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    cut: dict[str, float] = {}
    quantized: dict[str, tuple[str, str, str]] = {}  # activation: its integers, scale, zero point
    # By the name of a node's first output: nodes themselves are made anew at each look.
    before: dict[str, list[Any]] = {}
    new: dict[str, Any] = {}
    gone: set[str] = set()
    for number, product in enumerate(products):
        node, activation = product.node, product.activation
        if activation not in quantized:
            low, high = choose_range(ranges[activation], rule)
            cut[activation] = ranges[activation].outside(low, high)
            scale, zero = scale_of(low, high)
            names = (
                f"{activation}_quantized",
                store(f"{activation}_scale", np.array(scale, dtype=np.float32)),
                store(f"{activation}_zero_point", np.array(zero, dtype=np.uint8)),
            )
            quantized[activation] = names
            before[node.output[0]] = [
                helper.make_node(
                    "QuantizeLinear", [activation, *names[1:]], [names[0]], name=f"{names[0]}_node"
                )
            ]
        integers, scales = quantize_weight(product.weight, per_channel=per_channel, bits=bits)
        weight = store(f"product_{number}_weight_int8", integers)
        weight_scale = store(f"product_{number}_weight_scale", scales)
        bias = "" if product.bias is None else store(f"product_{number}_bias", product.bias)
        values, scale_name, zero_name = quantized[activation]
        if node.op_type == "Attention":
            mask = node.input[3] if len(node.input) > 3 else ""
            inputs = [values, weight, bias, scale_name, weight_scale, mask, zero_name]
            made = helper.make_node(
                "QAttention", inputs, [product.output], name=node.name, domain="com.microsoft"
            )
            made.attribute.extend(node.attribute)
        else:
            inputs = [values, weight, scale_name, weight_scale, zero_name, "", bias]
            made = helper.make_node(
                "MatMulIntegerToFloat",
                inputs[: len(inputs) if bias else 5],
                [product.output],
                name=node.name,
                domain="com.microsoft",
            )
        new[node.output[0]] = made
        if product.swallowed is not None:
            gone.add(product.swallowed.output[0])
    nodes: list[Any] = []
    for node in graph.node:
        first = node.output[0]
        nodes += before.get(first, [])
        if first not in gone:
            nodes.append(new.get(first, node))
    replace_nodes(graph, nodes)
    drop_unread(graph)
    if all(entry.domain != "com.microsoft" for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return cut
