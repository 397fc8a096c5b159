"""int8 with constant scales: ranges against the raw values, graphs against arithmetic by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from hfprune.core.errors import ExportError, RecipeError
from hfprune.core.machine import detect_instruction_set
from hfprune.deploy.exporters.exporting import export_onnx
from hfprune.deploy.quantize.calibrating import measure_ranges, saturation
from hfprune.deploy.quantize.constant import find_products, quantize_weight
from hfprune.deploy.quantize.quantizing import cut_values, quantize_onnx
from hfprune.deploy.quantize.ranges import Histogram, choose_range, scale_of
from hfprune.deploy.runtimes.onnxruntime import OnnxClassifier
from hfprune.deploy.runtimes.predicting import predict_logits
from hfprune.deploy.speed.landing import deployed
from hfprune.recipe.sections.evaluation import BenchmarkConfig
from hfprune.recipe.sections.export import DeployConfig, QuantizationConfig
from tests.deploy.test_export import (
    contents,
    exported_families,
    samples,
    separable_model,
    tiny_tokenizer,
    uneven_model,
)
from tests.tiny import IMAGE_FAMILIES, tiny_image_processor, tiny_model

pytest.importorskip("onnxruntime")
import onnx
from onnx import TensorProto, helper, numpy_helper

CONSTANT = {"activations": "constant", "per_channel": True}
LEAN = ("exported", "lean", "lean_multihead", "lean_attention", "fused")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    export_onnx(separable_model(), tiny_tokenizer(), folder)
    return folder


@pytest.fixture
def exported(made: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "onnx"
    folder.mkdir()
    for name, content in contents(made).items():
        (folder / name).write_bytes(content)
    return folder


def seen(values: Any) -> Histogram:
    found = Histogram.between(float(values.min()), float(values.max()))
    for part in np.array_split(values, 7):
        found.add(part)
    return found


def squared_error(values: Any, low: float, high: float) -> float:
    scale = (high - low) / 255
    zero = round(-low / scale)
    numbers = np.clip(np.round(values / scale) + zero, 0, 255)
    return float(((values - scale * (numbers - zero)) ** 2).mean())


# --- ranges ---------------------------------------------------------------------------------


def test_min_max_is_all_that_was_seen_with_zero_in_it() -> None:
    assert choose_range(seen(np.array([0.5, 3.0])), "min_max") == (0.0, 3.0)
    assert choose_range(seen(np.array([-2.0, -1.0])), "min_max") == (-2.0, 0.0)
    assert choose_range(seen(np.zeros(3)), "least_squares")[1] > 0


def test_a_percentile_cuts_both_tails_alike() -> None:
    values = np.random.default_rng(0).normal(size=400_000)
    low, high = choose_range(seen(values), "percentile")
    wanted = np.quantile(values, [0.00005, 0.99995])
    np.testing.assert_allclose([low, high], wanted, atol=0.02)
    assert seen(values).outside(low, high) < 1e-4


@pytest.mark.parametrize("kind", ["normal", "outliers", "gelu"])
def test_least_squares_is_the_best_of_a_grid_on_the_raw_values(kind: str) -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=60_000)
    if kind == "outliers":
        values[:20] *= 30
    if kind == "gelu":
        values = np.maximum(values, 0) * 3 - 0.1
    low, high = choose_range(seen(values), "least_squares")
    grid = [
        squared_error(values, values.min() * a, values.max() * b)
        for a in np.linspace(0.05, 1, 20)
        for b in np.linspace(0.05, 1, 20)
    ]
    assert squared_error(values, low, high) <= 1.03 * min(grid)
    if kind == "outliers":
        assert high < values.max()


def test_values_count_as_cut_when_rounding_would_not_reach_them() -> None:
    values = np.concatenate([np.full(90, 0.5), np.full(10, 4.0), [-1.0]])
    histogram = seen(values)
    assert histogram.outside(-1.0, 2.0) == pytest.approx(10 / 101)
    assert histogram.outside(-1.0, 3.999) == 0.0


def test_a_scale_and_its_zero_point() -> None:
    assert scale_of(-1.0, 1.55) == (pytest.approx(0.01), 100)
    assert scale_of(0.0, 2.55) == (pytest.approx(0.01), 0)
    assert scale_of(-2.55, 0.0) == (pytest.approx(0.01), 255)


def test_ranges_refuse_what_is_no_number_and_rules_that_are_none() -> None:
    with pytest.raises(ExportError, match=r"activations from 0\.0 to nan, expected finite"):
        Histogram.between(0.0, float("nan"))
    with pytest.raises(ExportError, match="unknown rule 'entropy'.*least_squares"):
        choose_range(seen(np.ones(2)), "entropy")  # type: ignore[arg-type]


@pytest.mark.parametrize(("bits", "most"), [(8, 127), (7, 63)])
@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_are_rounded_to_the_nearest(bits: int, most: int, per_channel: bool) -> None:
    weight = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    weight[:, 3] = 0
    integers, scale = quantize_weight(weight, per_channel=per_channel, bits=bits)
    assert scale.shape == ((5,) if per_channel else ())
    assert np.abs(integers.astype(int)).max() == most
    assert (np.abs(integers * scale - weight) <= scale / 2 + 1e-6).all()
    assert (integers[:, 3] == 0).all()


# --- graphs ---------------------------------------------------------------------------------


def one_product(folder: Path) -> tuple[Path, Any, Any]:
    """A file with ``logits = pixel_values W + b`` and a config for it."""
    rng = np.random.default_rng(2)
    weight, bias = rng.normal(size=(3, 20)).astype(np.float32), rng.normal(size=20)
    bias = bias.astype(np.float32)
    shape = ["batch", 3, 12, 12]
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["pixel_values", "axes"], ["x"], keepdims=0),
            helper.make_node("MatMul", ["x", "w"], ["xw"], name="product"),
            helper.make_node("Add", ["b", "xw"], ["logits"]),
        ],
        "g",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(bias, "b"),
            numpy_helper.from_array(np.array([2, 3]), "axes"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(folder / "model.onnx"))
    tiny_model("vit").config.save_pretrained(folder)
    return folder, weight, bias


def test_a_product_computes_what_arithmetic_on_integers_says(tmp_path: Path) -> None:
    folder, weight, bias = one_product(tmp_path / "one")
    pixels = np.random.default_rng(3).normal(size=(16, 3, 12, 12)).astype(np.float32) * 4
    config = QuantizationConfig(**CONSTANT, activation_range="min_max")
    file = quantize_onnx(
        folder, config, calibration=Dataset.from_dict({"pixel_values": pixels.tolist()})
    )
    kinds = [node.op_type for node in onnx.load(str(file)).graph.node]
    assert kinds == ["ReduceMean", "QuantizeLinear", "MatMulIntegerToFloat"]
    x = pixels.mean(axis=(2, 3))
    scale = (max(x.max(), 0) - min(x.min(), 0)) / 255
    zero = round(-min(x.min(), 0) / scale)
    numbers = np.clip(np.round(x / scale) + zero, 0, 255) - zero
    # Without VNNI products of 8-bit weights overflow: they have 7.
    w_scale = np.abs(weight).max(axis=0) / (
        63 if detect_instruction_set() in {"avx2", "avx512"} else 127
    )
    want = (numbers @ np.round(weight / w_scale)) * scale * w_scale + bias
    got = OnnxClassifier(file).logits({"pixel_values": pixels})
    np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.parametrize("graph", LEAN)
def test_one_scale_an_activation_and_no_bias_outside(graph: str, exported: Path) -> None:
    config = QuantizationConfig(**CONSTANT, graph=graph)
    file = quantize_onnx(exported, config, calibration=samples(8))
    nodes = onnx.load(str(file)).graph.node
    quantized = [node.input[0] for node in nodes if node.op_type == "QuantizeLinear"]
    assert len(quantized) == len(set(quantized)) > 0
    assert not any(node.op_type.startswith("DynamicQuantize") for node in nodes)
    products = [node for node in nodes if node.op_type == "MatMulIntegerToFloat"]
    fused = [node for node in nodes if node.op_type == "QAttention"]
    # Layers 0 and 2 have attention, 0 and 1 a feed-forward block; the pooler; the rest is shared.
    if graph in ("lean_attention", "fused"):
        assert len(fused) == 2
        assert len(products) == 2 + 4 + 1
    else:
        assert len(products) == 2 * 4 + 4 + 1
        assert len(quantized) < len(products)
    if graph == "lean_attention":
        # The last is the pooler's, whose bias is zero here and left out by some exporters.
        assert all(len(node.input) == 7 and node.input[6] for node in products[:-1])
    logits = predict_logits(OnnxClassifier(file), samples(32, seed=5), tiny_tokenizer())
    assert (logits.argmax(axis=1) == np.array(samples(32, seed=5)["labels"])).all()


def in_batches(file: Path, size: int) -> Any:
    return predict_logits(
        OnnxClassifier(file), samples(24, seed=9), tiny_tokenizer(), batch_size=size
    )


def test_a_prediction_does_not_depend_on_its_batch(exported: Path) -> None:
    """The fault of one scale a batch, and its cure."""
    dynamic = quantize_onnx(exported, QuantizationConfig(graph="lean"))
    assert np.abs(in_batches(dynamic, 1) - in_batches(dynamic, 24)).max() > 1e-3
    for graph in ("lean", "lean_multihead", "lean_attention"):
        config = QuantizationConfig(**CONSTANT, graph=graph)
        constant = quantize_onnx(exported, config, calibration=samples(8))
        np.testing.assert_allclose(in_batches(constant, 1), in_batches(constant, 24), atol=1e-5)


@pytest.mark.parametrize(("reduce", "most"), [(None, {"avx2": 63, "avx512": 63}), (True, {})])
@pytest.mark.parametrize("cpu", ["avx2", "avx512", "avx512_vnni", "arm64"])
def test_weights_have_7_bits_without_vnni(
    cpu: str, reduce: bool | None, most: dict[str, int], exported: Path
) -> None:
    config = QuantizationConfig(**CONSTANT, instruction_set=cpu, reduce_range=reduce)
    file = quantize_onnx(exported, config, calibration=samples(4))
    weights = [
        numpy_helper.to_array(tensor)
        for tensor in onnx.load(str(file)).graph.initializer
        if tensor.name.endswith("weight_int8") and tensor.name.startswith("product")
    ]
    assert max(np.abs(w.astype(int)).max() for w in weights) == (
        63 if reduce else most.get(cpu, 127)
    )


def test_nodes_and_operators_that_are_left_out_stay_float(exported: Path) -> None:
    graph = onnx.load(str(exported / "model.onnx")).graph
    first = find_products(graph)[0].node.name
    config = QuantizationConfig(**CONSTANT, nodes_to_exclude=[first])
    file = quantize_onnx(exported, config, calibration=samples(4))
    kinds = {node.name: node.op_type for node in onnx.load(str(file)).graph.node}
    assert kinds[first] == "MatMul"
    config = QuantizationConfig(**CONSTANT, operators_to_quantize=["Gemm"])
    file = quantize_onnx(exported, config, calibration=samples(4))
    kinds = [node.op_type for node in onnx.load(str(file)).graph.node]
    assert kinds.count("MatMulIntegerToFloat") == 1  # the pooler; the classifier is too narrow
    with pytest.raises(ExportError, match=r"\['Softmax'\] cannot be quantized here.*constant"):
        quantize_onnx(
            exported,
            QuantizationConfig(**CONSTANT, operators_to_quantize=["Softmax"]),
            calibration=samples(4),
        )


def test_constant_scales_need_calibration_rows(exported: Path) -> None:
    with pytest.raises(ExportError, match="activations: constant needs calibration data"):
        quantize_onnx(exported, QuantizationConfig(**CONSTANT))


def test_ranges_are_measured_once_for_a_graph(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def counted(model: Any, names: Any, rows: Any) -> Any:
        calls.append(len(names))
        return measure_ranges(model, names, rows)

    monkeypatch.setattr("hfprune.deploy.quantize.quantizing.measure_ranges", counted)
    ranges: dict[str, Any] = {}
    for rule in ("min_max", "percentile", "least_squares"):
        config = QuantizationConfig(**CONSTANT, activation_range=rule)
        file = quantize_onnx(exported, config, calibration=samples(8), ranges=ranges)
    assert len(calls) == 1
    again = quantize_onnx(exported, config, calibration=samples(8), file_name="again.onnx")
    assert again.read_bytes() == file.read_bytes()


def test_what_is_cut_is_told_by_the_file_and_measured_on_other_rows(exported: Path) -> None:
    config = QuantizationConfig(**CONSTANT, activation_range="min_max")
    file = quantize_onnx(exported, config, calibration=samples(4))
    assert set(cut_values(file).values()) == {0.0}
    rows = [
        {name: row[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        for row in samples(60, seed=8)
    ]
    found = saturation(file, rows)
    assert set(found) == set(cut_values(file))
    assert 0 < max(found.values()) < 0.1, "rows that calibration did not see go a little beyond"
    dynamic = quantize_onnx(exported, QuantizationConfig())
    assert (cut_values(dynamic), saturation(dynamic, rows)) == ({}, {})


@pytest.mark.parametrize("family", exported_families(("distilbert", "gpt2", "modernbert")))
def test_other_families_take_constant_scales(family: str, tmp_path: Path) -> None:
    model = uneven_model(family)
    export_onnx(model, tiny_tokenizer(), tmp_path)
    before = in_batches(tmp_path / "model.onnx", 1)
    file = quantize_onnx(tmp_path, QuantizationConfig(**CONSTANT), calibration=samples(16))
    np.testing.assert_allclose(in_batches(file, 1), in_batches(file, 24), atol=2e-5)
    assert np.corrcoef(in_batches(file, 1).ravel(), before.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("family", exported_families(IMAGE_FAMILIES[:1]))
def test_images_take_constant_scales(family: str, tmp_path: Path) -> None:
    export_onnx(tiny_model(family), tiny_image_processor(), tmp_path)
    pixels = np.random.default_rng(0).normal(size=(6, 3, 12, 12)).astype(np.float32)
    rows = Dataset.from_dict({"pixel_values": pixels.tolist()})
    file = quantize_onnx(tmp_path, QuantizationConfig(**CONSTANT), calibration=rows)
    batch = {"pixel_values": pixels}
    want = OnnxClassifier(tmp_path / "model.onnx").logits(batch)
    np.testing.assert_allclose(OnnxClassifier(file).logits(batch), want, atol=0.1)


# --- the recipe -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"is_static": True, "activations": "constant"}, "both fix the scales of activations"),
        ({"activation_range": "min_max"}, "activation_range is only used with activations"),
        ({"activations": "constant", "static_format": "qoperator"}, "only used with is_static"),
        ({"activations": "rows"}, "activations"),
    ],
)
def test_settings_that_clash(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        QuantizationConfig(**settings)


def test_keys_of_deployment() -> None:
    assert BenchmarkConfig().uses == ("single", "batches")
    assert BenchmarkConfig(traffic="single").uses == ("single",)
    with pytest.raises(RecipeError, match="seconds is only used with cpu: here"):
        DeployConfig(cpu="amx", seconds=9)
    with pytest.raises(RecipeError, match="runtimes"):
        DeployConfig(runtimes=["torch", "torch"])


def test_what_needs_calibration_says_so() -> None:
    assert QuantizationConfig(activations="constant", calibration_samples=9).needs_calibration
    assert QuantizationConfig(is_static=True).needs_calibration
    assert not QuantizationConfig().needs_calibration


def test_probes_with_constant_scales_need_no_rows(tmp_path: Path) -> None:
    config = QuantizationConfig(activations="constant", per_channel=True)
    file = deployed(tiny_model("bert", layers=2), tiny_tokenizer(), config, tmp_path)
    kinds = {node.op_type for node in onnx.load(str(file)).graph.node}
    assert "MatMulIntegerToFloat" in kinds
    assert "DynamicQuantizeLinear" not in kinds
