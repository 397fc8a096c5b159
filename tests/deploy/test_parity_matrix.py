"""Families x runtimes x precisions: each file that may be deployed says what PyTorch says.

Few families always, all of them as slow tests. On both stacks: which exporter wrote the graph is
not asked here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hfprune.core.errors import ExportError
from hfprune.deploy.exporters.exporting import export_onnx
from hfprune.deploy.runtimes.registry import usable_runtimes
from tests.deploy.test_export import FAMILIES, FEW, samples, tiny_tokenizer, uneven_model
from tests.tiny import tiny_batch

pytest.importorskip("onnxruntime")

# Largest difference of logits, over the spread of PyTorch's, by precision.
ALLOWED = {"float32": 1e-3, "bf16": 0.1, "int8": 0.6}


@pytest.mark.parametrize(
    "family", [f if f in FEW[:1] else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES]
)
def test_every_file_agrees_with_pytorch(family: str, tmp_path: Path) -> None:
    model = uneven_model(family)
    export_onnx(model, tiny_tokenizer(), tmp_path / "onnx")
    batch: dict[str, Any] = {name: value.numpy() for name, value in tiny_batch(padded=True).items()}
    names = [n for n in batch if n != "token_type_ids" or family in ("bert", "albert", "electra")]
    with torch.inference_mode():
        want = model(**{name: torch.as_tensor(batch[name]) for name in names}).logits.numpy()
    spread = max(float(np.abs(want).max()), 1e-2)
    seen: dict[tuple[str, str], float] = {}
    ranges: dict[str, Any] = {}
    refused: list[str] = []
    for each in usable_runtimes():
        if each.keeps:
            continue
        for number, offer in enumerate(each.offers()):
            target = tmp_path / each.name / str(number)
            try:
                file = each.write(
                    tmp_path / "onnx", target, offer, calibration=samples(8), ranges=ranges
                )
            except ExportError as error:  # a graph that this family does not have, say
                refused.append(str(error))
                continue
            got = each.open(file, 1, offer.precision).logits(batch)
            off = float(np.abs(got - want).max()) / spread
            seen[each.name, offer.precision] = max(off, seen.get((each.name, offer.precision), 0.0))
            assert off < ALLOWED[offer.precision], (each.name, offer, off)
    assert all("graph" in why for why in refused), refused
    assert ("onnxruntime", "float32") in seen
    assert ("onnxruntime", "int8") in seen
    if any(each.name == "openvino" for each in usable_runtimes()):
        assert any(name == "openvino" for name, _ in seen)
