"""Rewrites of ONNX graphs: the same logits with less work."""
