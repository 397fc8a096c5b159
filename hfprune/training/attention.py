"""Which of PyTorch's attention kernels a training step runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

# Tokens up to which plain products are the faster. A step of attention in bfloat16 without dropout,
# 32 texts, 6 heads, one thread of a CPU with AVX512-BF16: 28 tokens 3.7 ms (PyTorch's own choice
# 14.3), 128 tokens 39 (68), 256 tokens and 12 heads 97 (66).
SHORT = 128


@contextmanager
def quick_attention(args: Any, inputs: Mapping[str, Any]) -> Iterator[None]:
    """On a CPU in bfloat16, short texts are attended to by plain products.

    The fused kernel that PyTorch takes there is slow backwards. It does not take it with dropout,
    so this makes a difference to students that learn without.

    Args:
        args: a Trainer's.
        inputs: a batch; ``input_ids`` is ``[batch, tokens]``, and of trainers of
            sentence-transformers there are several, as ``sentence_0_input_ids``.
    """
    tokens = [
        value.shape[1]
        for name, value in inputs.items()
        if name.endswith("input_ids") and isinstance(value, Tensor) and value.ndim == 2
    ]
    short = bool(tokens) and max(tokens) <= SHORT
    if not (short and args.bf16 and args.device.type == "cpu"):
        yield
        return
    with sdpa_kernel(SDPBackend.MATH):
        yield
