"""Rewritten ONNX graphs: the same logits, with less in them; embeddings as stored by hand."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hfprune.core.errors import ExportError
from hfprune.deploy.exporters.exporting import export_onnx
from hfprune.deploy.graph.attention import fuse_attention
from hfprune.deploy.graph.embeddings import INT4_BLOCK, int4_blocks, store_embeddings
from hfprune.deploy.graph.first_token import first_token_only
from hfprune.deploy.graph.residuals import residuals_as_sums
from hfprune.deploy.graph.rewriting import rewrite
from hfprune.deploy.graph.tools import weighted_products
from hfprune.deploy.quantize.quantizing import quantize_onnx
from hfprune.deploy.runtimes.onnxruntime import OnnxClassifier
from hfprune.families import model_sizes
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.surgery import shrink_
from hfprune.recipe.sections.export import QuantizationConfig
from tests.deploy.test_export import tiny_tokenizer, uneven_model
from tests.tiny import VOCAB, tiny_batch, tiny_model

pytest.importorskip("onnxruntime")
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

LEAN = ("lean", "lean_multihead", "lean_attention", "fused")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Uneven heads; layer 1 has no attention, layer 2 no feed-forward block."""
    model = uneven_model()
    return model, export_onnx(model, tiny_tokenizer(), tmp_path_factory.mktemp("onnx"))


def padded(side: str) -> dict[str, Any]:
    batch = {name: value.numpy() for name, value in tiny_batch(padded=True).items()}
    return batch if side == "right" else {n: v[:, ::-1].copy() for n, v in batch.items()}


def ops(model: Any) -> list[str]:
    return [node.op_type for node in model.graph.node]


def what_runs(path: Path, folder: Path) -> list[str]:
    """The operators that are left when ONNX Runtime has optimized a graph for itself."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return ops(onnx.load(options.optimized_model_filepath))


@pytest.mark.parametrize("graph", LEAN)
@pytest.mark.parametrize("side", ["right", "left"])
def test_rewritten_graphs_agree_with_pytorch(
    graph: str, side: str, exported: tuple[Any, Path], tmp_path: Path
) -> None:
    model, path = exported
    onnx.save(rewrite(path, graph), str(tmp_path / "new.onnx"))
    batch = padded(side)
    with torch.inference_mode():
        want = model(**{name: torch.as_tensor(value) for name, value in batch.items()}).logits
    got = OnnxClassifier(tmp_path / "new.onnx").logits(batch)
    np.testing.assert_allclose(got, want.numpy(), atol=1e-4)


@pytest.fixture(scope="module", params=[(0, 5), (2, 0), (0, 0)], ids=str)
def without_a_kind(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same numbers of heads and neurons in all layers, one or both of them 0."""
    model = tiny_model("bert")
    shrink_(model, PruningPlan.first_units(model_sizes(model), [request.param] * 3))
    return export_onnx(model, tiny_tokenizer(), tmp_path_factory.mktemp("without"))


@pytest.mark.parametrize("graph", LEAN)
def test_graphs_without_a_kind_of_block_survive(
    graph: str, without_a_kind: Path, tmp_path: Path
) -> None:
    onnx.save(rewrite(without_a_kind, graph), str(tmp_path / "new.onnx"))
    batch = padded("right")
    got = OnnxClassifier(tmp_path / "new.onnx").logits(batch)
    want = OnnxClassifier(without_a_kind).logits(batch)
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_uneven_heads_are_read_layer_by_layer(exported: tuple[Any, Path]) -> None:
    model, path = exported
    want = [heads for heads in model.config.hfprune["heads"] if heads]
    for graph, kind in (("lean_attention", "Attention"), ("lean_multihead", "MultiHeadAttention")):
        found = [
            helper.get_attribute_value(attribute)
            for node in rewrite(path, graph).graph.node
            if node.op_type == kind
            for attribute in node.attribute
            if attribute.name == "num_heads"
        ]
        assert found == want, graph


def test_residual_sums_are_not_fused_to_the_slow_operator(
    exported: tuple[Any, Path], tmp_path: Path
) -> None:
    """In int8 graphs, where biases are within the products and so residuals can be fused."""
    _, path = exported
    model = onnx.load(str(path))
    adds = ops(model).count("Add")
    count = residuals_as_sums(model)
    assert count >= 4
    assert ops(model).count("Add") == adds - count
    folder = tmp_path / "onnx"
    shutil.copytree(path.parent, folder)
    for graph, slow in (("exported", True), ("lean", False)):
        file = quantize_onnx(folder, QuantizationConfig(graph=graph))
        assert ("SkipLayerNormalization" in what_runs(file, tmp_path)) == slow, graph


def small_graph(nodes: list[Any], weights: dict[str, Any], inputs: dict[str, Any]) -> Any:
    types = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    graph = helper.make_graph(
        nodes,
        "small",
        [
            helper.make_tensor_value_info(name, types[str(v.dtype)], v.shape)
            for name, v in inputs.items()
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def result(model: Any, inputs: dict[str, Any]) -> Any:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, inputs)[0]


def written_by_pytorch(change: str = "") -> tuple[Any, dict[str, Any]]:
    """One attention (2 heads of 4) as the exporter of transformers 5 writes it, or nearly so."""
    rng = np.random.default_rng(0)
    inputs: dict[str, Any] = {"x": rng.normal(size=(3, 5, 6)).astype(np.float32)}
    inputs["attention_mask"] = np.array(
        [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 1, 1]], dtype=np.int64
    )
    scale = 4**-0.5 if change == "scale" else 4**-0.25
    constants: dict[str, Any] = {"0": 0, "1": 1, "true": True, "axis2": [2]}
    constants |= {"axis3": [3], "outer": [0, 1], "inner": [1, 2], "last": [-1], "size": [4]}
    constants |= {"width": [8], "two": [2]}
    weights = {name: np.array(value) for name, value in constants.items()}
    weights |= {
        "f0": np.zeros((), dtype=np.float32),
        "f1": np.ones((), dtype=np.float32),
        "lowest": np.array(np.finfo(np.float32).min),
        "root": np.array(scale, dtype=np.float32),
    }
    # Positions of keys count along the last axis, of queries along the one before.
    key_axis = "axis3" if change == "mask of queries" else "axis2"
    steps: list[tuple[str, str, str, dict[str, Any]]] = [
        ("Shape", "x", "batch", {"start": 0, "end": 1}),
        ("Shape", "x", "length", {"start": 1, "end": 2}),
        ("Squeeze", "batch", "batch_number", {}),
        ("Squeeze", "length", "length_number", {}),
        ("Range", "0 batch_number 1", "rows", {}),
        ("Range", "0 length_number 1", "columns", {}),
        ("Unsqueeze", "rows inner", "rows3", {}),
        ("Unsqueeze", "rows3 axis3", "rows4", {}),
        ("Unsqueeze", "columns outer", "columns3", {}),
        ("Unsqueeze", "columns3 axis3", "queries4", {}),
        ("Unsqueeze", "columns3 axis2", "keys4", {}),
        ("Unsqueeze", f"columns3 {key_axis}", "places4", {}),
        ("GreaterOrEqual", "queries4 0", "always", {}),
        ("GreaterOrEqual", "queries4 keys4", "earlier", {}),
        ("Max", "rows4 places4", "both", {}),
        ("Shape", "both", "both_shape", {}),
        ("Expand", "rows4 both_shape", "rows_wide", {}),
        ("Expand", "places4 both_shape", "places_wide", {}),
        ("Unsqueeze", "rows_wide last", "rows5", {}),
        ("Unsqueeze", "places_wide last", "places5", {}),
        ("Concat", "rows5 places5", "places", {"axis": -1}),
        ("Cast", "attention_mask", "mask", {"to": TensorProto.BOOL}),
        ("GatherND", "mask places", "gathered", {}),
        ("And", f"true {'earlier' if change == 'causal' else 'always'}", "allowed", {}),
        ("And", "allowed gathered", "seen", {}),
        ("Not", "seen", "unseen", {}),
        ("Cast", "unseen", "unseen_float", {"to": TensorProto.FLOAT}),
        ("Mul", "unseen_float lowest", "added", {}),
        ("Cast", "seen", "seen_float", {"to": TensorProto.FLOAT}),
        ("ReduceSum", "seen_float last", "count", {"keepdims": 1}),
        ("Less", "count f1", "none", {}),
        ("Concat", "batch length last size", "split", {"axis": 0}),
        ("Concat", "batch length width", "merge", {"axis": 0}),
        ("Concat", "batch_heads size length", "turned", {"axis": 0}),
        ("Concat", "last length size", "flat", {"axis": 0}),
    ]
    for part in "qkv":
        weights[f"w{part}"] = rng.normal(size=(6, 8)).astype(np.float32)
        weights[f"b{part}"] = rng.normal(size=8).astype(np.float32)
        steps += [
            ("MatMul", f"x w{part}", f"{part}0", {}),
            ("Add", f"{part}0 b{part}", f"{part}1", {}),
            ("Reshape", f"{part}1 split", f"{part}2", {}),
            ("Transpose", f"{part}2", f"{part}3", {"perm": [0, 2, 1, 3]}),
        ]
    steps += [
        ("Concat", "batch two", "batch_heads", {"axis": 0}),
        ("Reshape", "k3 flat", "k4", {}),
        ("Transpose", "k4", "k5", {"perm": [0, 2, 1]}),
        ("Reshape", "k5 turned", "k6", {}),
        ("Mul", "q3 root", "q4", {}),
        ("Mul", "k6 root", "k7", {}),
        ("MatMul", "q4 k7", "scores", {}),
        ("Add", "scores added", "masked", {}),
        ("Softmax", "masked", "weights", {"axis": -1}),
        ("MatMul", "weights v3", "mixed", {}),
        ("Where", "none f0 mixed", "context", {}),
        ("Transpose", "context", "back", {"perm": [0, 2, 1, 3]}),
        ("Reshape", "back merge", "y", {}),
    ]
    # ONNX asks for an order in which what is read was written.
    at = next(i for i, step in enumerate(steps) if step[2] == "turned")
    steps.insert(at, steps.pop(next(i for i, s in enumerate(steps) if s[2] == "batch_heads")))
    nodes = [helper.make_node(k, ins.split(), [out], **more) for k, ins, out, more in steps]
    return small_graph(nodes, weights, inputs), inputs


@pytest.mark.parametrize("kind", ["MultiHeadAttention", "Attention"])
def test_attention_that_pytorch_wrote_is_fused(kind: str) -> None:
    model, inputs = written_by_pytorch()
    want = result(model, inputs)
    assert fuse_attention(model, kind) == 1
    left = ["Cast", "Attention"] if kind == "Attention" else ["Cast", *["MatMul"] * 3, kind]
    assert ops(model) == left, "the mask is read as it is, and nothing else is left"
    np.testing.assert_allclose(result(model, inputs), want, atol=1e-5)


@pytest.mark.parametrize("change", ["causal", "mask of queries", "scale"])
def test_other_attention_is_not_fused(change: str) -> None:
    model, inputs = written_by_pytorch(change)
    before = model.SerializeToString()
    assert np.isfinite(result(model, inputs)).all()
    assert fuse_attention(model, "MultiHeadAttention") == 0
    assert model.SerializeToString() == before


@pytest.fixture
def token_wise() -> tuple[Any, dict[str, Any]]:
    """Gather(Gelu-like(x W + b) + x, token 0), where x comes of an operator of its own."""
    rng = np.random.default_rng(0)
    inputs = {"raw": rng.normal(size=(2, 5, 4)).astype(np.float32)}
    weights = {
        "w": rng.normal(size=(4, 4)).astype(np.float32),
        "b": rng.normal(size=4).astype(np.float32),
        "zero": np.array(0, dtype=np.int64),
    }
    nodes = [
        helper.make_node("Softmax", ["raw"], ["x"], axis=1),  # mixes tokens
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["a"]),
        helper.make_node("Tanh", ["a"], ["t"]),
        helper.make_node("Add", ["t", "x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["y"], axis=1),
    ]
    return small_graph(nodes, weights, inputs), inputs


def test_only_the_first_token_is_computed(token_wise: tuple[Any, dict[str, Any]]) -> None:
    model, inputs = token_wise
    want = result(model, inputs)
    assert first_token_only(model) == 1, "both branches begin at x"
    np.testing.assert_allclose(result(model, inputs), want, atol=1e-6)
    shapes = {
        info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        for info in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    assert shapes["x"] == [2, 5, 4]
    assert shapes["m"] == shapes["t"] == shapes["s"] == [2, 1, 4]


def test_what_others_read_is_not_cut(token_wise: tuple[Any, dict[str, Any]]) -> None:
    model, inputs = token_wise
    model.graph.node[-1].output[0] = "first"
    model.graph.node.extend(
        [
            helper.make_node("ReduceMean", ["t"], ["mean"], axes=[1], keepdims=0),
            helper.make_node("Add", ["first", "mean"], ["y"]),
        ]
    )
    want = result(model, inputs)
    assert first_token_only(model) == 2, "x, and t, which is read whole as well"
    np.testing.assert_allclose(result(model, inputs), want, atol=1e-6)


def test_a_constant_that_differs_by_token_stops_the_cut(
    token_wise: tuple[Any, dict[str, Any]],
) -> None:
    model, inputs = token_wise
    positions = np.arange(20, dtype=np.float32).reshape(1, 5, 4)
    model.graph.initializer.append(numpy_helper.from_array(positions, "positions"))
    model.graph.node[4].input[1] = "positions"
    want = result(model, inputs)
    first_token_only(model)
    np.testing.assert_allclose(result(model, inputs), want, atol=1e-6)


@pytest.mark.parametrize("index", [1, -1])
def test_other_tokens_are_left_alone(index: int, token_wise: tuple[Any, dict[str, Any]]) -> None:
    model, _ = token_wise
    model.graph.initializer[2].CopyFrom(numpy_helper.from_array(np.array(index), "zero"))
    assert first_token_only(model) == 0


# -- embeddings -----------------------------------------------------------------------------------


def unpacked(packed: Any, scale: Any) -> Any:
    numbers = np.concatenate([packed % 16, packed // 16], axis=1).astype(int) - 8
    return numbers * np.repeat(scale, INT4_BLOCK, axis=1)


def test_int4_blocks_hold_what_four_bits_can() -> None:
    draw = np.random.default_rng(0).integers(-7, 7, size=(3, 2 * INT4_BLOCK)) / 16
    draw[:, ::INT4_BLOCK] = -8 / 16  # the scale is then known
    packed, scale = int4_blocks(draw.astype(np.float32))
    assert packed.shape == (3, INT4_BLOCK)
    assert np.abs(unpacked(packed, scale) - draw).max() <= scale.max() * 0.51


def test_int4_picks_the_better_scale() -> None:
    """One large weight among small ones: cutting it a little rounds all others better."""
    row = np.full((1, INT4_BLOCK), 0.1, dtype=np.float32)
    row[0, 0] = 1.0
    plain = float(((np.clip(np.round(row * 7.5), -8, 7) / 7.5 - row) ** 2).sum())
    assert float(((unpacked(*int4_blocks(row)) - row) ** 2).sum()) <= plain + 1e-9


def test_int4_needs_whole_blocks() -> None:
    with pytest.raises(ExportError, match="a multiple of 32, got 33"):
        int4_blocks(np.ones((2, 33), dtype=np.float32))


@pytest.mark.parametrize(
    ("form", "tolerance"), [("float32", 0.0), ("float16", 5e-4), ("int8", 4e-3), ("int4", 0.15)]
)
def test_stored_embeddings_give_the_rows(form: str, tolerance: float) -> None:
    rng = np.random.default_rng(0)
    table = rng.uniform(-1, 1, size=(500, 64)).astype(np.float32)
    table[7] = 0
    table[8] *= 100
    inputs = {"ids": np.array([[0, 7, 8], [499, 3, 3]], dtype=np.int64)}
    model = small_graph(
        [helper.make_node("Gather", ["table", "ids"], ["y"], name="words")],
        {"table": table},
        inputs,
    )
    names = store_embeddings(model, form)
    assert set(names) == {node.name for node in model.graph.node}
    want, got = table[inputs["ids"]], result(model, inputs)
    size = np.abs(want).max(axis=2, keepdims=True)
    assert (np.abs(got - want) <= tolerance * size).all()
    per_weight = {"float32": 4, "float16": 2, "int8": 1, "int4": 0.5}[form]
    assert model.ByteSize() < table.size * per_weight * 1.3 + 1500


def test_without_a_table_there_are_no_embeddings(token_wise: tuple[Any, dict[str, Any]]) -> None:
    model, _ = token_wise
    with pytest.raises(ExportError, match="no word embeddings"):
        store_embeddings(model, "int8")


def test_int4_needs_no_operator_of_one_runtime() -> None:
    table = np.ones((4, 32), dtype=np.float32)
    model = small_graph(
        [helper.make_node("Gather", ["table", "ids"], ["y"], name="words")],
        {"table": table},
        {"ids": np.zeros((1, 1), dtype=np.int64)},
    )
    store_embeddings(model, "int4")
    shaped = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "length", 32])
    model.graph.output[0].CopyFrom(shaped)
    onnx.checker.check_model(model, full_check=True)  # knows the standard ones alone
    assert {node.domain for node in model.graph.node} == {""}


def test_word_embeddings_are_the_largest_table(exported: tuple[Any, Path]) -> None:
    _, path = exported
    model = onnx.load(str(path))
    store_embeddings(model, "float16")
    halves = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT16]
    assert [list(tensor.dims) for tensor in halves] == [[VOCAB, 32]]


def test_weighted_products_are_the_linears(exported: tuple[Any, Path]) -> None:
    model, path = exported
    found = weighted_products(onnx.load(str(path)))
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert len(found) == len(linears)
    assert len(set(found)) == len(found)
