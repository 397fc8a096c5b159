"""What is exported when, and the speed that was asked for beside the one that was reached."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from first_results import first_format

from hfprune.core.model_ref import ModelRef
from hfprune.core.results import parse_results
from hfprune.deploy.quantize.outcome import CONSTANT, PLAIN
from hfprune.pipeline.stages import export
from hfprune.pipeline.stages.benchmark import targets
from hfprune.recipe.sections.evaluation import BenchmarkConfig
from hfprune.recipe.sections.export import DeployConfig, QuantizationConfig
from hfprune.recipe.sections.pruning import PruningConfig

GIVEN = QuantizationConfig(per_channel=True)


@pytest.mark.parametrize(
    ("quantization", "deploy", "label", "judged", "done"),
    [
        # The choice of files makes int8 itself; a model that is judged before gets the usual file.
        ("auto", True, "pruned", False, None),
        ("auto", True, "pruned", True, CONSTANT),
        ("auto", True, "dense", False, None),
        # The floor of max_metric_drop is the dense float32 model, however files are chosen.
        ("auto", True, "dense", True, None),
        ("auto", False, "dense", True, None),
        (GIVEN, False, "dense", True, None),
        # Without a choice int8 settings are searched, for the dense model plain ones taken.
        ("auto", False, "pruned", False, "searched"),
        ("auto", False, "pruned", True, "searched"),
        ("auto", False, "dense", False, PLAIN),
        # Settings that are given are written in any case.
        (GIVEN, True, "pruned", False, GIVEN),
        (GIVEN, False, "pruned", True, GIVEN),
        (GIVEN, False, "dense", False, GIVEN),
        (None, True, "pruned", False, None),
    ],
)
def test_which_int8_file_is_made(
    quantization: Any, deploy: bool, label: str, judged: bool, done: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    made: list[Any] = []
    monkeypatch.setattr(export, "quantize_onnx", lambda folder, config, **rest: made.append(config))
    monkeypatch.setattr(export, "usual_settings", lambda folder, constant: CONSTANT)
    monkeypatch.setattr(export, "config_beside", lambda file: None)
    monkeypatch.setattr(export, "lengths_to_time", lambda *args: [8])
    monkeypatch.setattr(export, "calibration_rows", lambda *args: "rows")
    monkeypatch.setattr(export, "_search", lambda *args: made.append("searched") or {"chosen": {}})
    recipe = SimpleNamespace(
        export=SimpleNamespace(quantization=quantization),
        deploy=DeployConfig() if deploy else None,
    )
    context: Any = SimpleNamespace(recipe=recipe, path=Path)
    record = export._quantize(
        context, SimpleNamespace(dense=None, small=None), "place", label, judged=judged
    )
    assert made == ([] if done is None else [done])
    assert (record is not None) == (done == "searched")


def results(**changes: Any) -> Any:
    return parse_results({**first_format(), **changes}, Path("metrics.json"))


def chosen(precision: str, runtime: str = "onnxruntime") -> dict[str, Any]:
    use = {"runtime": runtime, "precision": precision, "path": "onnx/x.onnx"}
    return {"pruned": {"uses": {"single": use}}}


def test_targets_are_those_of_the_recommended_file() -> None:
    """Of the first results the pruned int8 model is 6x, its float32 one 5x, at each shape."""
    settings = BenchmarkConfig(batch_sizes=[1, 8], sequence_lengths=[32])

    def reached(pruning: PruningConfig, **changes: Any) -> Any:
        return targets(pruning, results(**changes), settings)

    assert reached(PruningConfig(sparsity=0.5)) is None, "no speed was asked for"
    (found,) = reached(PruningConfig(speedup=6)).values()
    assert (found.wanted, found.reached, found.missed) == (6.0, 6.0, False)
    assert (found.name, found.batch_size, found.sequence_length) == ("pruned int8", 1, 32)
    found = reached(PruningConfig(speedup=6), deployment=chosen("float32"))["pruned"]
    assert (found.name, found.reached, found.missed) == ("pruned ONNX", 5.0, True)
    assert found.text() == (
        "asked for 6x, reached 5x (pruned ONNX, batch 1 x 32): slower than asked for by 17%"
    )
    found = reached(PruningConfig(speedup=5))["pruned"]
    assert found.text().endswith("faster than asked for by 20%")
    search = {"dense": 0.9, "limit": 0.01, "metric": "accuracy", "chosen": "5.07x", "steps": []}
    found = reached(PruningConfig(max_metric_drop=0.01), search=search)["pruned"]
    assert (found.wanted, found.missed) == (5.07, True)


def test_the_recommended_form_is_the_one_that_is_served() -> None:
    assert results().served("pruned") == ModelRef("pruned", "int8")
    assert results(deployment=chosen("float32")).served("pruned") == ModelRef("pruned", "ONNX")
    named = results(deployment=chosen("float32", "torch"))
    assert named.served("pruned") == ModelRef("pruned", "PyTorch")
    # What is recommended and was not evaluated cannot be told of: the next best is.
    other = results(deployment=chosen("bf16", "openvino"))
    assert other.served("pruned") == ModelRef("pruned", "int8")
