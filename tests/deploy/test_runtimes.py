"""Runtimes: the same logits from each, files that load without hfprune, and plug-ins."""

from __future__ import annotations

import runpy
import weakref
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from hfprune.core.errors import CheckpointError, ExportError, ExtensionError, MissingExtraError
from hfprune.core.model_ref import FORMS
from hfprune.deploy.exporters.exporting import export_onnx
from hfprune.deploy.quantize.quantizing import quantize_onnx
from hfprune.deploy.runtimes import openvino as openvino_module
from hfprune.deploy.runtimes import registry
from hfprune.deploy.runtimes.base import Runtime, Session
from hfprune.deploy.runtimes.onnxruntime import OnnxRuntime
from hfprune.deploy.runtimes.openvino import OpenVino, native_precision, write_openvino
from hfprune.deploy.runtimes.predicting import predict_logits
from hfprune.deploy.runtimes.registry import register_runtime, runtime, usable_runtimes
from hfprune.deploy.runtimes.torch import Torch
from hfprune.measure.latency import measure_latency
from hfprune.measure.runners import random_batches
from hfprune.recipe.sections.export import QuantizationConfig
from tests.deploy.test_export import (
    FAMILIES,
    FEW,
    OPTIMUM,
    contents,
    samples,
    separable_model,
    tiny_tokenizer,
    uneven_model,
)
from tests.tiny import tiny_batch, tiny_image_processor, tiny_model

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a run leaves it: the model, its tokenizer, and files of all runtimes."""
    folder = tmp_path_factory.mktemp("output")
    model, tokenizer = separable_model(), tiny_tokenizer()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    export_onnx(model, tokenizer, folder / "onnx")
    quantize_onnx(
        folder / "onnx", QuantizationConfig(activations="constant"), calibration=samples(8)
    )
    write_openvino(folder / "onnx", folder / "openvino")
    return folder


@pytest.mark.parametrize("of_tokens", [False, True])
def test_logits_of_batches_are_not_held_beside_the_whole(of_tokens: bool) -> None:
    held: list[weakref.ref[Any]] = []

    class Opened:
        def logits(self, batch: Any) -> Any:
            assert sum(one() is not None for one in held) <= 1
            ids = batch["input_ids"].astype(np.float32)
            found = np.stack([ids, -ids], axis=2) if of_tokens else ids[:, :2].copy()
            held.append(weakref.ref(found))
            return found

    rows = [{"input_ids": [2, *range(9, 10 + length), 3]} for length in (1, 6, 3, 0, 2, 7, 4)]
    found = predict_logits(Opened(), rows, tiny_tokenizer(), batch_size=2)  # type: ignore[arg-type]
    assert found.shape == ((7, 10, 2) if of_tokens else (7, 2))
    for row, logits in zip(rows, found, strict=True):
        ids = row["input_ids"]
        want = [*ids, *[0] * (10 - len(ids))] if of_tokens else ids[:2]
        assert (logits[:, 0] if of_tokens else logits).tolist() == want


def numpy_batch() -> dict[str, Any]:
    return {name: value.numpy() for name, value in tiny_batch(padded=True).items()}


def expected(model: Any, batch: dict[str, Any]) -> Any:
    with torch.inference_mode():
        tensors = {name: torch.as_tensor(value) for name, value in batch.items()}
        return model(**tensors).logits.numpy()


def test_all_runtimes_find_and_run_their_files(output: Path) -> None:
    want = expected(separable_model(), numpy_batch())
    tolerance = {"float32": 1e-4, "bf16": 0.05, "int8": 0.05}
    seen = set()
    for name in ("onnxruntime", "openvino", "torch"):
        for precision, file in runtime(name).files(output).items():
            assert FORMS[runtime(name).forms[precision]][1:3] == (precision, name)
            if (name, precision) == ("torch", "bf16"):
                continue  # compiles: see below
            session = runtime(name).open(file, 1, precision)
            assert isinstance(session, Session)
            got = session.logits(numpy_batch())
            assert got.dtype == np.float32
            scale = np.abs(want).max()
            np.testing.assert_allclose(got, want, atol=tolerance[precision] * scale)
            seen.add((name, precision))
    native = native_precision()
    assert seen == {
        ("onnxruntime", "float32"),
        ("onnxruntime", "int8"),
        ("openvino", native),
        ("torch", "float32"),
    }


def test_predictions_and_timings_take_any_session(output: Path) -> None:
    rows = samples(20)
    sessions: dict[str, Any] = {
        each.name: each.open(each.files(output)["float32" if each.name != "openvino" else native])
        for native in [native_precision()]
        for each in usable_runtimes()
    }
    answers = [
        predict_logits(session, rows, tiny_tokenizer()).argmax(axis=1).tolist()
        for session in sessions.values()
    ]
    assert answers == [list(rows["labels"])] * 3
    timed = measure_latency(
        sessions, [(1, 8), (2, 5)], repeats=2, warmup=1, make_batch=random_batches(90)
    )
    assert {row.name for row in timed} == {"onnxruntime", "openvino", "torch"}


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "torch"])
def test_the_three_lines_load_the_file(
    name: str, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = runtime(name)
    for precision, file in each.files(output).items():
        if precision == "bf16" and name == "torch":
            continue
        lines = each.how_to_load(file.relative_to(output).as_posix(), "text-classification")
        assert len(lines) == 3
        script = tmp_path / f"{precision}.py"
        script.write_text("\n".join(lines).replace("a text", "w7 w8 w9"), encoding="utf-8")
        monkeypatch.chdir(output)
        found = np.asarray(runpy.run_path(str(script))["logits"].tolist())
        assert found.shape == (1, 2)
        assert found.argmax() == 0
        if name != "torch":
            assert not any("hfprune" in line for line in lines)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize(
    "family",
    [f if f in FEW else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES],
)
def test_openvino_agrees_with_pytorch(family: str, precision: str, tmp_path: Path) -> None:
    model = uneven_model(family)
    export_onnx(model, tiny_tokenizer(), tmp_path / "onnx")
    file = write_openvino(tmp_path / "onnx", tmp_path / "openvino")
    batch = numpy_batch()
    got = OpenVino().open(file, precision=precision).logits(batch)
    names = [n for n in batch if n != "token_type_ids" or family in ("bert", "albert", "electra")]
    want = expected(model, {name: batch[name] for name in names})
    np.testing.assert_allclose(got, want, atol=1e-4 if precision == "float32" else 0.05)


def test_openvino_takes_tokens_and_images(tmp_path: Path) -> None:
    model = uneven_model(tokens=True)
    export_onnx(model, tiny_tokenizer(), tmp_path / "words")
    file = write_openvino(tmp_path / "words", tmp_path / "words-openvino")
    batch = numpy_batch()
    got = OpenVino().open(file, precision="float32").logits(batch)
    real = batch["attention_mask"].astype(bool)
    np.testing.assert_allclose(got[real], expected(model, batch)[real], atol=1e-4)
    model = tiny_model("vit")
    export_onnx(model, tiny_image_processor(), tmp_path / "images")
    file = write_openvino(tmp_path / "images", tmp_path / "images-openvino")
    pixels = np.random.default_rng(0).normal(size=(2, 3, 12, 12)).astype(np.float32)
    got = OpenVino().open(file, precision="float32").logits({"pixel_values": pixels})
    np.testing.assert_allclose(got, expected(model, {"pixel_values": pixels}), atol=1e-4)


def test_weights_in_half_the_bytes_only_where_logits_stay(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (output / "openvino" / "openvino_model.bin").stat().st_size
    monkeypatch.setattr("hfprune.deploy.parity.REWRITE_ATOL", 0.1)
    half = write_openvino(output / "onnx", tmp_path / "ov", half_storage=True)
    assert half.with_suffix(".bin").stat().st_size < 0.6 * size
    before = contents(tmp_path / "ov")
    monkeypatch.setattr("hfprune.deploy.parity.REWRITE_ATOL", 1e-7)
    with pytest.raises(ExportError, match="OpenVINO, weights in float16 .* changes the logits"):
        write_openvino(output / "onnx", tmp_path / "ov", half_storage=True)
    assert contents(tmp_path / "ov") == before


def test_a_graph_that_says_something_else_is_refused_and_nothing_replaced(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "ov"
    write_openvino(output / "onnx", target)
    before = contents(target)
    monkeypatch.setattr("hfprune.deploy.parity.REWRITE_ATOL", -1.0)
    with pytest.raises(ExportError, match=r"OpenVINO \(graph lean_attention\) changes the logits"):
        write_openvino(output / "onnx", target)
    assert contents(target) == before
    assert sorted(path.name for path in target.iterdir()) == [
        "openvino_model.bin",
        "openvino_model.xml",
    ]


def test_a_plainer_graph_is_taken_where_attention_cannot_be_fused(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = openvino_module.rewrite

    def failing(path: Path, graph: str) -> Any:
        if graph == "lean_attention":
            raise ExportError("no attention was found")
        return real(path, graph)

    monkeypatch.setattr(openvino_module, "rewrite", failing)
    file = write_openvino(output / "onnx", tmp_path)
    got = OpenVino().open(file, precision="float32").logits(numpy_batch())
    np.testing.assert_allclose(got, expected(separable_model(), numpy_batch()), atol=1e-3)
    with pytest.raises(ExportError, match="cannot take the lean_attention graph"):
        write_openvino(output / "onnx", tmp_path, graph="lean_attention")


def test_what_cannot_be_opened_or_run(output: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="there is no OpenVINO file at"):
        OpenVino().open(tmp_path / "no.xml")
    (tmp_path / "bad.xml").write_text("<no", encoding="utf-8")
    with pytest.raises(ExportError, match="OpenVINO cannot load"):
        OpenVino().open(tmp_path / "bad.xml")
    file = output / "openvino" / "openvino_model.xml"
    with pytest.raises(ExportError, match="OpenVINO computes in float32 or bf16 here, not in 'i"):
        OpenVino().open(file, precision="int8")
    with pytest.raises(ExportError, match="needs the input 'attention_mask'"):
        OpenVino().open(file).logits({"input_ids": np.ones((1, 3), dtype=np.int64)})
    with pytest.raises(ExportError, match=r"OpenVINO fails on openvino_model.xml.*\(1, 2, 3\)"):
        OpenVino().open(file).logits(
            {name: np.ones((1, 2, 3), dtype=np.int64) for name in numpy_batch()}
        )
    with pytest.raises(ExportError, match="there is no model.onnx"):
        write_openvino(tmp_path, tmp_path / "ov")
    with pytest.raises(ExportError, match="ONNX Runtime computes an ONNX file in the precision"):
        OnnxRuntime().open(output / "onnx" / "model.onnx", precision="bf16")
    with pytest.raises(ExportError, match="PyTorch computes in float32 or bf16"):
        Torch().open(output, precision="int8")
    with pytest.raises(CheckpointError):
        Torch().open(tmp_path)


def test_without_openvino_its_extra_is_named(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    assert 'pip install "hfprune[openvino]"' in (OpenVino().missing() or "")
    with pytest.raises(MissingExtraError, match=r"hfprune\[openvino\]"):
        write_openvino(output / "onnx", output / "openvino")
    assert "openvino" not in [each.name for each in usable_runtimes()]
    assert list(OpenVino().files(output)) == ["float32"]


@pytest.mark.slow
def test_compiled_pytorch_in_bf16_agrees(output: Path) -> None:
    session = Torch().open(output, precision="bf16")
    want = expected(separable_model(), numpy_batch())
    np.testing.assert_allclose(session.logits(numpy_batch()), want, atol=0.05 * np.abs(want).max())


@pytest.mark.skipif(not OPTIMUM, reason="needs Optimum")
def test_optimum_loads_the_onnx_beside(output: Path) -> None:
    from optimum.onnxruntime import ORTModelForSequenceClassification

    model = ORTModelForSequenceClassification.from_pretrained(
        output, subfolder="onnx", file_name="model_quantized.onnx"
    )
    batch = tiny_batch(padded=True)
    got = model(**batch).logits.numpy()
    want = OnnxRuntime().open(output / "onnx" / "model_quantized.onnx").logits(numpy_batch())
    np.testing.assert_allclose(got, want, atol=1e-6)


class Reversed(Runtime):
    """A plug-in: ONNX Runtime, whose logits it turns round."""

    name: ClassVar[str] = "reversed"
    title: ClassVar[str] = "Reversed"
    forms: ClassVar[dict[str, str]] = {"float32": "reversed"}

    def missing(self) -> str | None:
        return None

    def files(self, folder: str | Path) -> dict[str, Path]:
        return {"float32": Path(folder) / "onnx" / "model.onnx"}

    def open(self, path: str | Path, threads: int = 1, precision: str | None = None) -> Any:
        session = OnnxRuntime().open(path, threads)
        logits = session.logits
        session.logits = lambda batch: -logits(batch)  # type: ignore[method-assign]
        return session

    def how_to_load(self, path: str, task: str) -> tuple[str, ...]:
        return ("import this",)


def test_a_runtime_of_others_takes_part(output: Path) -> None:
    register_runtime(Reversed())
    try:
        assert runtime("reversed") in usable_runtimes()
        session = runtime("reversed").open(runtime("reversed").files(output)["float32"])
        rows = samples(10)
        found = predict_logits(session, rows, tiny_tokenizer()).argmax(axis=1)
        assert (found != np.array(rows["labels"])).all()
        with pytest.raises(ExtensionError, match="there is a runtime 'reversed' already"):
            register_runtime(Reversed())
    finally:
        del registry.RUNTIMES._values["reversed"]
    with pytest.raises(ExtensionError, match="no runtime 'reversed'.*onnxruntime"):
        runtime("reversed")
    with pytest.raises(ExtensionError, match="expected an instance of a subclass"):
        registry.RUNTIMES.register("x", object())  # type: ignore[arg-type]
    with pytest.raises(ExtensionError, match="calls itself 'reversed'"):
        registry.RUNTIMES.register("x", Reversed())
