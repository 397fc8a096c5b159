"""Rewrites of ONNX classifiers: the same logits with less work, or with smaller embeddings.

Plain functions on loaded graphs, changed in place. That a rewritten graph still says the same is
for the caller to check; nothing here runs a model, but for ONNX Runtime's own optimizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hfprune.core.errors import ExportError
from hfprune.deploy.graph.attention import fuse_attention
from hfprune.deploy.graph.first_token import first_token_only
from hfprune.deploy.graph.residuals import residuals_as_sums


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
