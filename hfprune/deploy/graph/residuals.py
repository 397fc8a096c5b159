"""Residual additions as Sum, which ONNX Runtime does not fuse into a slower operator."""

from __future__ import annotations

from typing import Any

from hfprune.deploy.graph.tools import constants, producers


def residuals_as_sums(model: Any) -> int:
    """Turn each ``Add`` of two activations before a LayerNormalization into a ``Sum``.

    When a session is made ONNX Runtime fuses Add and LayerNormalization to SkipLayerNormalization,
    whose CPU kernel takes several times as long as the two (measured with 1.32; see docs/notes.md).
    ``Sum`` of two is the same, and is not fused.

    Returns:
        How many there were.
    """
    constant = constants(model.graph)
    producer = producers(model.graph)
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
