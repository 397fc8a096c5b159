"""ONNX files of shrunk models: they agree with PyTorch, load elsewhere, and fail without harm."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import DataCollatorWithPadding, PreTrainedTokenizerFast

from hfprune.core.errors import DataError, ExportError, MissingExtraError
from hfprune.deploy import files, parity
from hfprune.deploy import staging as staging_module
from hfprune.deploy.exporters import backends
from hfprune.deploy.exporters.exporting import export_onnx
from hfprune.deploy.limits import limits_of
from hfprune.deploy.parity import check_parity
from hfprune.deploy.quantize import checks, quantizing
from hfprune.deploy.quantize.quantizing import quantize_onnx
from hfprune.deploy.runtimes.onnxruntime import OnnxClassifier
from hfprune.deploy.runtimes.predicting import predict_logits
from hfprune.families.blocks import BlockKey
from hfprune.pruning.surgery import shrink_
from hfprune.recipe.sections.export import QuantizationConfig
from tests.tiny import (
    IMAGE_FAMILIES,
    TEXT_FAMILIES,
    VOCAB,
    random_plan,
    tiny_batch,
    tiny_image_processor,
    tiny_model,
)

pytest.importorskip("onnxruntime")
try:
    import optimum.onnxruntime  # noqa: F401
except ImportError:
    OPTIMUM = False  # transformers 5, whose own exporter is then tested
else:
    OPTIMUM = True
WRITER = "_write_with_optimum" if OPTIMUM else "_write_with_transformers"
QUANTIZER = "_quantize_with_optimum" if OPTIMUM else "_quantize_with_onnxruntime"

# The exporter of transformers 5 takes seconds a model: there, but a few of the families by default.
FEW = ("bert", "distilbert", "modernbert", "gpt2")


def exported_families(names: Sequence[str]) -> list[Any]:
    slow = [pytest.mark.slow]
    return [name if OPTIMUM or name in FEW else pytest.param(name, marks=slow) for name in names]


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
FAMILIES = tuple(name for name in TEXT_FAMILIES if name not in ("xlm-roberta", "camembert"))


def tiny_tokenizer(**changes: Any) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer of the words w5 to w99, word wN having the id N."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *(f"w{i}" for i in range(5, VOCAB))])}
    core = Tokenizer(models.WordPiece(vocabulary, unk_token=SPECIAL[1]))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=60,
        **{**dict(zip(names, SPECIAL, strict=True)), **changes},
    )


def uneven_model(family: str = "bert", **extra: Any) -> Any:
    """Uneven in every layer, without the attention of layer 1 and the feed-forward of layer 2."""
    if family not in ("bert", "distilbert"):
        extra.setdefault("pad_token_id", 0)
    model = tiny_model(family, **extra)
    gone = (BlockKey(1, "attention"), BlockKey(2, "ffn"))
    shrink_(model, random_plan(model, removed=gone))
    return model


def separable_model() -> Any:
    """Tells tokens below 50 from those above, by a wide margin, through three uneven layers."""
    model = uneven_model(labels=2)
    with torch.no_grad():
        words = model.bert.embeddings.word_embeddings.weight
        sign = torch.where(torch.arange(VOCAB) < 50, -1.0, 1.0)[:, None]
        direction = torch.randn(32, generator=torch.Generator().manual_seed(3))
        words.add_(sign * direction * 2)
        dense = model.bert.pooler.dense
        dense.weight.copy_(torch.eye(32))
        dense.bias.zero_()
        model.classifier.weight.copy_(torch.stack([-direction, direction]))
        model.classifier.bias.zero_()
    return model


def samples(count: int = 24, seed: int = 0) -> Dataset:
    """Tokenised sentences of 3 to 40 tokens, of one side of the vocabulary each."""
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        low, high = ((5, 50), (50, VOCAB))[index % 2]
        ids = rng.integers(low, high, size=int(rng.integers(3, 40))).tolist()
        rows.append(
            {
                "text": "not an input",
                "labels": index % 2,
                "input_ids": ids,
                "attention_mask": [1] * len(ids),
                "token_type_ids": [0] * len(ids),
            }
        )
    return Dataset.from_list(rows)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def ops(path: Path) -> list[str]:
    import onnx

    return [node.op_type for node in onnx.load(str(path)).graph.node]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A separable uneven model and the folder ``onnx`` with its export, to read only."""
    model = separable_model()
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    export_onnx(model, tiny_tokenizer(), folder)
    return model, folder


@pytest.fixture
def copy_of_export(exported: tuple[Any, Path], tmp_path: Path) -> Path:
    """A copy that a test may write to."""
    folder = tmp_path / "onnx"
    folder.mkdir()
    for name, data in contents(exported[1]).items():
        (folder / name).write_bytes(data)
    return folder


# -- export -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", exported_families(FAMILIES))
def test_an_uneven_model_agrees_with_pytorch_on_other_shapes(family: str, tmp_path: Path) -> None:
    model = uneven_model(family)
    path = export_onnx(model, tiny_tokenizer(), tmp_path / "onnx")
    assert path == tmp_path / "onnx" / "model.onnx"
    assert check_parity(model, path, VOCAB, atol=1e-5, seed=7) < 1e-5
    runner = OnnxClassifier(path)
    # Not through check_parity: an oracle of its own, on a shape that was not traced.
    ids = torch.arange(5, 5 + 3 * 23).reshape(3, 23)
    mask = torch.ones_like(ids)
    mask[1, 9:], ids[1, 9:] = 0, 0
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).logits.numpy()
    found = runner.logits({"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("family", IMAGE_FAMILIES)
def test_shrunk_image_classifiers_are_exported_and_quantized(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    gone = (BlockKey(1, "attention"), BlockKey(2, "ffn"))
    shrink_(model, random_plan(model, removed=gone))
    path = export_onnx(model, tiny_image_processor(), tmp_path)
    assert (tmp_path / "preprocessor_config.json").is_file()
    quantized = quantize_onnx(tmp_path, QuantizationConfig())
    assert "ConvInteger" not in ops(quantized), "no CPU runs it with signed weights"
    for seed, size in ((1, 1), (2, 5)):
        batch = tiny_batch(size, family=family, seed=seed)
        with torch.no_grad():
            expected = model(**batch).logits.numpy()
        found = OnnxClassifier(path).logits({"pixel_values": batch["pixel_values"].numpy()})
        np.testing.assert_allclose(found, expected, atol=1e-5)
        found = OnnxClassifier(quantized).logits({"pixel_values": batch["pixel_values"].numpy()})
        np.testing.assert_allclose(found, expected, atol=0.1)
        if OPTIMUM:
            from optimum.onnxruntime import ORTModelForImageClassification

            kind: Any = ORTModelForImageClassification
            int8 = kind.from_pretrained(tmp_path, file_name=quantized.name)
            np.testing.assert_allclose(int8(**batch).logits.numpy(), expected, atol=0.1)


def test_images_calibrate_static_quantization(tmp_path: Path) -> None:
    model = tiny_model("vit")
    export_onnx(model, tiny_image_processor(), tmp_path)
    pixels = tiny_batch(6, family="vit")["pixel_values"]
    config = QuantizationConfig(is_static=True, calibration_samples=4)
    calibration = Dataset.from_dict({"pixel_values": pixels.numpy()})
    path = quantize_onnx(tmp_path, config, calibration=calibration)
    found = OnnxClassifier(path).logits({"pixel_values": pixels.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, model(pixels).logits.numpy(), atol=0.1)


@pytest.mark.parametrize(
    "family",
    exported_families(["bert", "roberta", "distilbert", "deberta-v3", "modernbert"]),
)
def test_shrunk_token_classifiers_are_exported_and_quantized(family: str, tmp_path: Path) -> None:
    model = uneven_model(family, tokens=True, labels=5)
    path = export_onnx(model, tiny_tokenizer(), tmp_path)
    ids = torch.arange(5, 5 + 3 * 23).reshape(3, 23)
    mask = torch.ones_like(ids)
    mask[1, 9:], ids[1, 9:] = 0, 0
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).logits.numpy()
    found = OnnxClassifier(path).logits({"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    assert found.shape == (3, 23, 5)
    real = mask.numpy().astype(bool)
    np.testing.assert_allclose(found[real], expected[real], atol=1e-5)
    assert quantize_onnx(tmp_path, QuantizationConfig()).is_file()
    # Row for row, whatever the lengths of their neighbours in a batch.
    rows = [
        {"input_ids": row[keep].tolist(), "attention_mask": [1] * int(keep.sum())}
        for row, keep in zip(ids, mask.bool(), strict=True)
    ]
    predicted = predict_logits(OnnxClassifier(path), rows, tiny_tokenizer(), batch_size=2)
    np.testing.assert_allclose(predicted[real], expected[real], atol=1e-5)
    assert (predicted[~real] == 0).all()


def test_another_opset_is_the_one_that_is_written(tmp_path: Path) -> None:
    import onnx

    other = 17 if OPTIMUM else 21  # the defaults are 18 and 20
    path = export_onnx(uneven_model(), tiny_tokenizer(), tmp_path, opset=other)
    assert [entry.version for entry in onnx.load(str(path)).opset_import] == [other]


def test_errors_of_exporters_are_shortened() -> None:
    error = ValueError("no such op.\n" + "graph " * 500)
    assert files.brief(error) == "ValueError: no such op"
    assert files.brief(KeyError()) == "KeyError"


def test_the_graph_holds_the_small_matrices_only(exported: tuple[Any, Path]) -> None:
    import onnx

    model, folder = exported
    weights = onnx.load(str(folder / "model.onnx")).graph.initializer
    held = sum(int(np.prod(w.dims)) for w in weights)
    parameters = sum(p.numel() for p in model.parameters())
    assert held == pytest.approx(parameters, rel=0.05)


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = uneven_model().to(torch.float64).train()
    model.bert.encoder.layer[0].eval()
    model.config._name_or_path = str(tmp_path / "secret-place")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    config = model.config.to_dict()
    export_onnx(model, tiny_tokenizer(), tmp_path / "onnx")
    assert [module.training for module in model.modules()] == modes
    assert model.config.to_dict() == config
    assert model.config._name_or_path == str(tmp_path / "secret-place")
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert next(model.parameters()).dtype == torch.float64
    written = json.loads((tmp_path / "onnx" / "config.json").read_text())
    assert written["architectures"] == ["BertForSequenceClassification"]
    assert str(tmp_path) not in " ".join(
        path.read_text() for path in (tmp_path / "onnx").glob("*.json")
    )


def test_export_says_nothing_and_leaves_logging_as_it_was(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_onnx(uneven_model(), tiny_tokenizer(), tmp_path / "onnx")
        quantize_onnx(tmp_path / "onnx", QuantizationConfig())
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == before


LOADER = """
import sys
sys.modules["hfprune"] = None  # whoever imports it now fails
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer, pipeline
root, *file_names = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(root)
for file_name in file_names:
    model = ORTModelForSequenceClassification.from_pretrained(
        root, subfolder="onnx", file_name=file_name)
    pipe = pipeline("text-classification", model=model, tokenizer=tokenizer)
    print(file_name, [found["label"] for found in pipe(["w7 w8", "w90 w91 w95"])])
"""


@pytest.mark.skipif(not OPTIMUM, reason="needs Optimum")
def test_optimum_loads_the_files_without_hfprune(copy_of_export: Path) -> None:
    quantize_onnx(copy_of_export, QuantizationConfig())
    root = copy_of_export.parent
    for path in copy_of_export.glob("*.json"):  # the folder of the PyTorch model has them too
        (root / path.name).write_bytes(path.read_bytes())
    names = ["model.onnx", "model_quantized.onnx"]
    command = [sys.executable, "-c", LOADER, str(root), *names]
    done = subprocess.run(command, capture_output=True, text=True)
    expected = [f"{name} ['LABEL_0', 'LABEL_1']" for name in names]
    assert done.stdout.splitlines() == expected, done.stderr[-2000:]


def test_exporting_again_replaces_graph_and_stale_weights_only(copy_of_export: Path) -> None:
    (copy_of_export / "model.onnx_data").write_bytes(b"weights of the old graph")
    (copy_of_export / "notes.txt").write_text("mine")
    old = contents(copy_of_export)
    export_onnx(uneven_model(seed=5), tiny_tokenizer(), copy_of_export)
    new = contents(copy_of_export)
    assert set(old) - set(new) == {"model.onnx_data"}
    assert new["notes.txt"] == b"mine"
    assert new["model.onnx"] != old["model.onnx"]
    assert [p.name for p in copy_of_export.parent.iterdir()] == ["onnx"]  # nothing left beside


def test_external_weights_are_exported_quantized_and_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As for models above 2 GB.
    monkeypatch.setenv("FORCE_ONNX_EXTERNAL_DATA", "1")
    monkeypatch.setattr(staging_module, "MOST_WEIGHT_BYTES", 1000)
    model = uneven_model()
    path = export_onnx(model, tiny_tokenizer(), tmp_path)
    assert (tmp_path / "model.onnx_data").stat().st_size > 1000
    assert check_parity(model, path, VOCAB) < 1e-4
    quantized = quantize_onnx(tmp_path, QuantizationConfig(), file_name="small.onnx")
    calibrated = quantize_onnx(
        tmp_path, QuantizationConfig(is_static=True), calibration=samples(4), file_name="s.onnx"
    )
    for found in (quantized, calibrated):
        assert (tmp_path / f"{found.name}_data").stat().st_size > 1000
        assert OnnxClassifier(found).logits(random_batch()).shape == (2, 3)


def random_batch() -> dict[str, np.ndarray]:
    return {
        "input_ids": np.arange(10, 20).reshape(2, 5),
        "attention_mask": np.ones((2, 5), dtype=np.int64),
    }


# -- failing exports --------------------------------------------------------------------------


def test_a_graph_that_disagrees_is_refused_and_earlier_files_stay(
    copy_of_export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = getattr(backends, WRITER)

    def wrong(model: Any, output: Path, opset: int | None) -> None:
        with torch.no_grad():
            bias = model.classifier.bias.clone()
            model.classifier.bias.add_(0.25)
            honest(model, output, opset)
            model.classifier.bias.copy_(bias)

    monkeypatch.setattr(backends, WRITER, wrong)
    before = contents(copy_of_export)
    with pytest.raises(ExportError) as caught:
        export_onnx(uneven_model(), tiny_tokenizer(), copy_of_export)
    assert str(caught.value) == (
        "ONNX parity (batch 1, length 1): logits differ from PyTorch by up to 2.500e-01, allowed "
        "is 1e-04. Nothing was replaced: earlier files are untouched."
    )
    assert contents(copy_of_export) == before
    assert [p.name for p in copy_of_export.parent.iterdir()] == ["onnx"]


def test_large_outputs_may_differ_by_as_much_as_float32_rounds(tmp_path: Path) -> None:
    """A regression of prices, or a classifier that was sharpened, loses nothing by its scale."""
    model = uneven_model(labels=1)
    with torch.no_grad():
        for tensor in model.classifier.parameters():
            tensor.mul_(1e5)
    file = export_onnx(model, tiny_tokenizer(), tmp_path / "onnx")
    batch = {
        "input_ids": np.array([[2, 7, 9, 3]]), "attention_mask": np.ones((1, 4), dtype=np.int64)
    }  # fmt: skip
    with torch.no_grad():
        wanted = model(**{name: torch.from_numpy(each) for name, each in batch.items()}).logits
    largest = float(wanted.abs().max())
    assert largest > 100, "so that the test sees something"
    gap = np.abs(OnnxClassifier(file).logits(batch) - wanted.numpy()).max()
    assert gap <= parity.allowed(wanted.numpy(), 1e-4) == pytest.approx(1e-4 * largest)
    with torch.no_grad():
        model.classifier.bias.add_(0.1 * largest)
    with pytest.raises(ExportError, match=r"logits differ from PyTorch by up to .* allowed is"):
        parity.check_parity(model, file, tiny_tokenizer())


def test_a_mask_that_was_lost_shows_on_the_padded_shape(
    copy_of_export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoMask(OnnxClassifier):
        """A graph in which padding is attended to."""

        def logits(self, batch: Any) -> Any:
            return super().logits({**batch, "attention_mask": np.ones_like(batch["input_ids"])})

    monkeypatch.setattr(parity, "OnnxClassifier", NoMask)
    with pytest.raises(ExportError, match=r"ONNX parity \(batch 4, length 16, padded\)"):
        export_onnx(uneven_model(), tiny_tokenizer(), copy_of_export)


def test_logits_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    model = uneven_model()
    with torch.no_grad():
        model.classifier.bias[0] = float("nan")
    with pytest.raises(ExportError, match=r"PyTorch gives logits that are not finite \(1 of 3"):
        export_onnx(model, tiny_tokenizer(), tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []


def test_nan_in_the_graph_only_is_refused(
    exported: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = exported
    nothing = np.full((1, 2), np.nan, dtype=np.float32)
    monkeypatch.setattr(OnnxClassifier, "logits", lambda *_: nothing)
    with pytest.raises(ExportError, match=r"length 1\): ONNX gives logits that are not finite"):
        check_parity(model, folder / "model.onnx", VOCAB)


def test_parity_goes_from_one_token_to_the_longest_sequence() -> None:
    def shapes(family: str, tokenizer: Any) -> set[tuple[int, ...]]:
        limits = limits_of(uneven_model(family), tokenizer)
        found = {batch["input_ids"].shape for _, batch in parity._batches(limits, 0)}
        return {(size, length) for size, length in found if length not in (7, 16)}

    assert shapes("bert", VOCAB) == {(1, 1), (1, 66), (2, 66)}
    # Positions start at 1 + padding id.
    assert shapes("roberta", VOCAB) == {(1, 1), (1, 65), (2, 65)}
    assert shapes("bert", tiny_tokenizer()) == {(1, 1), (1, 60), (2, 60)}


@pytest.mark.parametrize("side", ["left", "right"])
def test_parity_batches_are_padded_as_the_tokenizer_pads(side: str) -> None:
    limits = limits_of(uneven_model(), tiny_tokenizer(padding_side=side))
    batches = dict(parity._batches(limits, 0))
    batch = batches["batch 4, length 16, padded"]
    assert batch["attention_mask"].sum(axis=1).tolist() == [16, 11, 6, 1]
    assert batch["attention_mask"][3, 0 if side == "right" else -1] == 1
    assert (batch["input_ids"][batch["attention_mask"] == 0] == 0).all()
    assert (batch["input_ids"][batch["attention_mask"] == 1] >= len(SPECIAL)).all()
    assert set(batch["token_type_ids"].ravel()) == {0, 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backend": "tvm"}, r"unknown export backend 'tvm', expected one of \['auto'"),
        ({"atol": 0.0}, "atol must be a positive number, got 0.0"),
        ({"opset": 6}, r"(failed with opset=6: |opset=6 was asked for, ).*earlier files"),
    ],
)
def test_what_cannot_be_exported(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        export_onnx(uneven_model(), tiny_tokenizer(), tmp_path / "onnx", **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ExportError, match="cannot write to"):
        export_onnx(uneven_model(), tiny_tokenizer(), tmp_path / "file" / "onnx")
    with pytest.raises(ExportError, match=r"cannot move the export to .*earlier files are untouch"):
        export_onnx(uneven_model(), tiny_tokenizer(), tmp_path / "file")
    assert contents(tmp_path) == {"file": b"mine"}


def test_a_move_that_fails_half_way_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, staging = tmp_path / "target", tmp_path / "staging"
    target.mkdir()
    staging.mkdir()
    for name in ("a.json", "model.onnx", "model.onnx_data"):
        (target / name).write_text(f"old {name}")
    for name in ("a.json", "b.json", "model.onnx"):
        (staging / name).write_text(f"new {name}")
    before = contents(target)
    real = staging_module.os.replace

    def replace(source: Any, destination: Any) -> None:
        if Path(source) == staging / "model.onnx":
            raise OSError("no space left")
        real(source, destination)

    monkeypatch.setattr(staging_module.os, "replace", replace)
    with pytest.raises(OSError, match="no space left"):
        staging_module._install(staging, target)
    assert contents(target) == before


@pytest.mark.skipif(not OPTIMUM, reason="needs Optimum")
@pytest.mark.parametrize("missing", ["onnxruntime", "onnx"])
def test_missing_packages_name_the_extra(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.split(".")[0] == missing:
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, missing, None)
    calls = [
        lambda: export_onnx(uneven_model(), tiny_tokenizer(), tmp_path / "onnx"),
        lambda: quantize_onnx(tmp_path, QuantizationConfig()),
    ]
    for call in calls:
        with pytest.raises(MissingExtraError) as caught:
            call()
        assert f"ONNX export needs {missing}" in str(caught.value)
        assert 'pip install "hfprune[onnx]"' in str(caught.value)


def test_the_backend_that_is_asked_for_and_the_one_that_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(backends, "require", lambda *names: loaded.extend(names))
    for there, expected in (
        ({"optimum.exporters.onnx", "transformers.exporters"}, backends._write_with_optimum),
        ({"optimum.exporters.onnx"}, backends._write_with_optimum),
        ({"transformers.exporters"}, backends._write_with_transformers),
        (set[str](), backends._write_with_torch),  # transformers 4.57 without Optimum, 5.0 to 5.22
    ):
        monkeypatch.setattr(backends, "has_module", lambda name, there=there: name in there)
        assert backends.find_backend("auto") is expected
        assert backends.find_backend("optimum") is backends._write_with_optimum
        assert backends.find_backend("transformers") is backends._write_with_transformers
        assert backends.find_backend("torch") is backends._write_with_torch
    assert {"onnxscript", "transformers.exporters", "optimum.exporters.onnx"} <= set(loaded)


@pytest.mark.parametrize(
    ("missing", "hint"),
    [
        ("onnx", r'pip install "hfprune\[onnx\]"$'),
        ("onnxscript", r'pip install "hfprune\[onnx\]"$'),
        ("optimum.exporters.onnx", r'pip install "hfprune\[optimum\]", which holds transformers'),
        ("transformers.exporters", r'pip install "transformers>=5.23" "hfprune\[onnx\]"$'),
    ],
)
def test_what_to_install_is_the_extra_that_brings_it(
    missing: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=hint):
        files.require(missing)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_without_optimum_and_the_exporter_of_transformers_5(family: str, tmp_path: Path) -> None:
    """Transformers 4.57 with the extra `onnx` alone: exported, parity checked within, quantized."""
    pytest.importorskip("onnxscript")
    model = uneven_model(family)
    path = export_onnx(model, tiny_tokenizer(), tmp_path, backend="torch")
    assert check_parity(model, path, VOCAB) < 1e-4
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == model.config.model_type
    quantized = quantize_onnx(tmp_path, QuantizationConfig())
    assert OnnxClassifier(quantized).logits(random_batch()).shape == (2, 3)


# -- quantization -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        QuantizationConfig(),
        QuantizationConfig(instruction_set="avx2", per_channel=True),
        QuantizationConfig(instruction_set="avx512", operators_to_quantize=["MatMul"]),
        QuantizationConfig(instruction_set="arm64", is_static=True, calibration_samples=8),
        QuantizationConfig(is_static=True, per_channel=True, operators_to_quantize=["MatMul"]),
    ],
    ids=lambda c: f"{c.instruction_set}-{'static' if c.is_static else 'dynamic'}-{c.per_channel}",
)
def test_quantized_predictions_stay(config: QuantizationConfig, copy_of_export: Path) -> None:
    before = contents(copy_of_export)
    path = quantize_onnx(copy_of_export, config, calibration=samples(12, seed=9))
    assert path == copy_of_export / "model_quantized.onnx"
    after = contents(copy_of_export)
    settings = {"ort_config.json"} if OPTIMUM else set()
    assert set(after) - set(before) == {"model_quantized.onnx", *settings}
    assert {name: after[name] for name in before} == before
    for name in settings:
        assert str(copy_of_export.parent) not in after[name].decode()

    data, tokenizer = samples(), tiny_tokenizer()
    full = predict_logits(OnnxClassifier(copy_of_export / "model.onnx"), data, tokenizer)
    small = predict_logits(OnnxClassifier(path), data, tokenizer)
    assert (full.argmax(1) == np.array(data["labels"])).all()
    assert (small.argmax(1) == full.argmax(1)).mean() > 0.95
    assert np.abs(small - full).max() < 0.25 * np.abs(full).max()
    assert not np.array_equal(small, full)


@pytest.mark.skipif(not OPTIMUM, reason="needs Optimum")
@pytest.mark.parametrize("instruction_set", ["avx2", "avx512_vnni"])
@pytest.mark.parametrize("is_static", [False, True])
def test_optimum_and_onnx_runtime_alone_give_the_same_graph(
    instruction_set: Any, is_static: bool, copy_of_export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = QuantizationConfig(
        instruction_set=instruction_set,
        is_static=is_static,
        per_channel=True,
        nodes_to_exclude=["/classifier/Gemm"],
    )
    optimum = OnnxClassifier(
        quantize_onnx(copy_of_export, config, calibration=samples(6), file_name="a.onnx")
    )
    monkeypatch.setattr(quantizing, "has_module", lambda _: False)
    alone = OnnxClassifier(
        quantize_onnx(copy_of_export, config, calibration=samples(6), file_name="b.onnx")
    )
    assert sorted(ops(optimum.path)) == sorted(ops(alone.path))
    data = samples(8)
    expected = predict_logits(optimum, data, tiny_tokenizer())
    found = predict_logits(alone, data, tiny_tokenizer())
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert sorted(p.name for p in copy_of_export.glob("*.onnx")) == [
        "a.onnx",
        "b.onnx",
        "model.onnx",
    ]


@pytest.mark.parametrize(
    ("instruction_set", "wanted", "expected"),
    [
        ("avx2", None, True),
        ("avx512", None, True),
        ("avx512_vnni", None, False),
        ("arm64", None, False),
        ("avx2", False, False),
        ("avx512_vnni", True, True),
    ],
)
def test_reduce_range_is_what_the_instruction_set_needs(
    instruction_set: Any, wanted: bool | None, expected: bool
) -> None:
    config = QuantizationConfig(instruction_set=instruction_set, reduce_range=wanted)
    assert quantizing._settings(config, []).reduce_range is expected


def largest_weight(path: Path) -> int:
    import onnx

    weights = onnx.load(str(path)).graph.initializer
    return max(
        int(np.abs(onnx.numpy_helper.to_array(w).astype(int)).max())
        for w in weights
        if w.data_type == onnx.TensorProto.INT8 and len(w.dims) == 2
    )


def test_reduce_range_and_auto_reach_the_weights(
    copy_of_export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for found, largest in (("avx512_vnni", 127), ("avx512", 64)):
        monkeypatch.setattr(quantizing, "detect_instruction_set", lambda found=found: found)
        path = quantize_onnx(copy_of_export, QuantizationConfig(operators_to_quantize=["MatMul"]))
        assert largest_weight(path) == largest


def test_excluded_nodes_stay_float(copy_of_export: Path) -> None:
    import onnx

    path = copy_of_export / "model.onnx"
    names = [n.name for n in onnx.load(str(path)).graph.node if n.op_type == "MatMul"]
    config = QuantizationConfig(operators_to_quantize=["MatMul"])
    all_of_them = ops(quantize_onnx(copy_of_export, config))
    config = QuantizationConfig(operators_to_quantize=["MatMul"], nodes_to_exclude=names[:3])
    but_three = ops(quantize_onnx(copy_of_export, config))
    assert all_of_them.count("MatMulInteger") - but_three.count("MatMulInteger") == 3
    assert but_three.count("MatMul") == 3


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"nodes_to_exclude": ["/no/such/node"]},
            r"nodes_to_exclude names \['/no/such/node'\], which the graph does not have; among its "
            r"\d+ nodes are \['.*'\]",
        ),
        (
            {"operators_to_quantize": ["Matmul"]},
            r"operators_to_quantize=\['Matmul'\].*dynamic quantization allow .*'MatMul'",
        ),
        ({"operators_to_quantize": ["Conv"]}, r"\['Conv'\] cannot be quantized here"),
        ({"is_static": True}, "static quantization needs calibration data"),
    ],
)
def test_settings_that_do_not_fit_the_graph(
    config: dict[str, Any], message: str, copy_of_export: Path
) -> None:
    before = contents(copy_of_export)
    with pytest.raises(ExportError, match=message):
        quantize_onnx(copy_of_export, QuantizationConfig(**config))
    assert contents(copy_of_export) == before


def test_a_misspelt_node_is_answered_with_its_like() -> None:
    names = [f"/layer.{i}/{part}/MatMul" for i in range(9) for part in ("query", "key", "value")]
    with pytest.raises(ExportError, match=r"27 nodes are \['/layer.3/query/MatMul'"):
        checks.check_nodes(["/layer.3/quary/MatMul"], names)


def test_quantizing_nothing_is_refused(copy_of_export: Path) -> None:
    import onnx

    nodes = onnx.load(str(copy_of_export / "model.onnx")).graph.node
    names = [n.name for n in nodes if n.op_type in {"MatMul", "Gemm"}]
    config = QuantizationConfig(operators_to_quantize=["MatMul"], nodes_to_exclude=names)
    with pytest.raises(ExportError, match=r"nothing was quantized: .*\['MatMul'\] and \d+ nodes"):
        quantize_onnx(copy_of_export, config)
    assert not (copy_of_export / "model_quantized.onnx").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            samples(2).remove_columns("input_ids"),
            r"must be tokenised: expected a column 'input_ids",
        ),
        (samples(2).select([]), "at least one calibration sample, got 0"),
    ],
)
def test_calibration_data_that_will_not_do(data: Any, message: str, copy_of_export: Path) -> None:
    with pytest.raises(ExportError, match=message):
        quantize_onnx(copy_of_export, QuantizationConfig(is_static=True), calibration=data)


def test_calibration_samples_are_drawn_from_all_the_data_and_completed() -> None:
    data = samples(200).remove_columns(["token_type_ids", "attention_mask"])
    inputs = ["input_ids", "attention_mask", "token_type_ids"]
    chosen = checks.calibration_samples(data, inputs, 10)
    assert chosen.column_names == inputs
    assert len(chosen) == 10
    places = [list(data["input_ids"]).index(ids) for ids in chosen["input_ids"]]
    assert max(places) > 100
    assert len(set(places)) == 10
    for row in chosen:
        assert row["attention_mask"] == [1] * len(row["input_ids"])
        assert row["token_type_ids"] == [0] * len(row["input_ids"])
    assert len(checks.calibration_samples(data, inputs, 500)) == 200
    with pytest.raises(ExportError, match="the graph needs the input 'position_ids'"):
        checks.calibration_samples(data, [*inputs, "position_ids"], 2)


@pytest.mark.parametrize(
    ("file_name", "message"),
    [
        ("../x.onnx", "must be a bare name"),
        ("x.bin", r"ends in \.onnx, got 'x\.bin'"),
        ("model.onnx", "must not be 'model.onnx'"),
    ],
)
def test_names_of_the_quantized_file(file_name: str, message: str, exported: Any) -> None:
    with pytest.raises(ExportError, match=message):
        quantize_onnx(exported[1], QuantizationConfig(), file_name=file_name)


def test_a_failing_quantizer_leaves_the_earlier_file(
    copy_of_export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize_onnx(copy_of_export, QuantizationConfig())
    before = contents(copy_of_export)

    def fail(*_: Any) -> Path:
        raise RuntimeError("Unable to find data type for weight_name='x'")

    monkeypatch.setattr(quantizing, QUANTIZER, fail)
    with pytest.raises(
        ExportError, match=r"dynamic quantization of .*: RuntimeError: Unable to .*untouched"
    ):
        quantize_onnx(copy_of_export, QuantizationConfig(per_channel=True))
    assert contents(copy_of_export) == before


def test_a_quantized_graph_that_gives_no_numbers_is_refused(
    copy_of_export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = OnnxClassifier.logits

    def broken(self: OnnxClassifier, batch: Any) -> Any:
        found = honest(self, batch)
        return found * np.nan if self.path.name == "model_quantized.onnx" else found

    monkeypatch.setattr(OnnxClassifier, "logits", broken)
    before = contents(copy_of_export)
    with pytest.raises(ExportError, match=r"quantized graph fails \(batch 1.*not finite: 2 of 2"):
        quantize_onnx(copy_of_export, QuantizationConfig())
    assert contents(copy_of_export) == before


def test_quantizing_needs_an_export(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"there is no model.onnx in .*; call export_onnx first"):
        quantize_onnx(tmp_path, QuantizationConfig())


# -- running ----------------------------------------------------------------------------------


def test_predictions_come_back_in_order_from_both_kinds(exported: tuple[Any, Path]) -> None:
    model, folder = exported
    data = samples(11)
    one_by_one = []
    with torch.no_grad():
        for sample in data:
            ids = torch.tensor([sample["input_ids"]])
            one_by_one.append(model(input_ids=ids).logits[0].numpy())
    expected = np.stack(one_by_one)
    tokenizer = tiny_tokenizer()
    onnx_model = OnnxClassifier(folder / "model.onnx")
    seen: list[tuple[int, int]] = []
    for subject in (model, onnx_model):
        for collator in (tokenizer, DataCollatorWithPadding(tokenizer)):
            found = predict_logits(
                subject, data, collator, batch_size=4, progress=lambda *at: seen.append(at)
            )
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected, atol=1e-4)
    assert seen == [(4, 11), (8, 11), (11, 11)] * 4
    rows = [dict(row) for row in data]
    np.testing.assert_allclose(predict_logits(model, rows, tokenizer), expected, atol=1e-4)
    torch_data = data.remove_columns("text").with_format("torch")
    found = predict_logits(onnx_model, torch_data, tokenizer, batch_size=3)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_predicting_sorts_by_length_and_gives_the_mode_back() -> None:
    model = tiny_model("distilbert").train()  # takes no token_type_ids
    model.classifier.eval()
    modes = [module.training for module in model.modules()]
    lengths: list[int] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]),
        with_kwargs=True,
    )
    data = samples(10)
    predict_logits(model, data, tiny_tokenizer(), batch_size=2)
    assert lengths == sorted((len(ids) for ids in data["input_ids"]), reverse=True)[::2]
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize(
    ("data", "batch_size", "message"),
    [
        (samples(1).select([]), 4, "without samples"),
        ([{"text": "a"}], 4, r"expected tokenised samples with 'input_ids', got .*\['text'\]"),
        (samples(1), 0, "batch_size must be at least 1, got 0"),
    ],
)
def test_data_that_cannot_be_predicted(data: Any, batch_size: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        predict_logits(tiny_model("bert"), data, tiny_tokenizer(), batch_size=batch_size)
    with pytest.raises(DataError, match="expected a tokenizer or a collator, got int"):
        predict_logits(tiny_model("bert"), samples(1), 3)


def test_the_runner_takes_the_inputs_of_the_graph_and_misses_none(
    exported: tuple[Any, Path], tmp_path: Path
) -> None:
    runner = OnnxClassifier(exported[1] / "model.onnx", threads=2)
    assert set(runner.input_names) == {"input_ids", "attention_mask", "token_type_ids"}
    batch = random_batch()
    zeros = np.zeros_like(batch["input_ids"])
    expected = runner.logits({**batch, "token_type_ids": zeros})
    int32 = {name: value.astype(np.int32) for name, value in batch.items()}
    np.testing.assert_array_equal(runner.logits({**int32, "labels": zeros}), expected)
    with pytest.raises(ExportError, match=r"needs the input 'attention_mask', the batch has"):
        runner.logits({"input_ids": batch["input_ids"]})
    with pytest.raises(
        ExportError, match=r"fails on model.onnx with inputs of shapes .*\(2, 100\)"
    ):
        runner.logits({k: np.ones((2, 100), dtype=np.int64) for k in batch})
    with pytest.raises(ExportError, match="there is no ONNX file at"):
        OnnxClassifier(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    with pytest.raises(ExportError, match=r"ONNX Runtime cannot load .*bad\.onnx"):
        OnnxClassifier(tmp_path / "bad.onnx")


def test_a_graph_without_a_mask_is_refused(tmp_path: Path) -> None:
    import onnx

    helper, kind = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node("Cast", ["input_ids"], ["logits"], to=kind.FLOAT)],
        "g",
        [helper.make_tensor_value_info("input_ids", kind.INT64, ["b", "l"])],
        [helper.make_tensor_value_info("logits", kind.FLOAT, ["b", "l"])],
    )
    opset = [helper.make_opsetid("", 17)]
    path = tmp_path / "g.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    with pytest.raises(ExportError, match=r"the inputs \['input_ids'\] and no 'attention_mask'"):
        check_parity(tiny_model("bert"), path, 10)
