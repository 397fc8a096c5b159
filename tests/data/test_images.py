"""Images: what is read and refused, the cached teacher, and recipes from end to end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from script import load_script
from tiny import (
    TRANSFORMERS_5,
    save_tiny_classifier,
    tiny_image_processor,
    tiny_model,
    write_images,
)
from transformers import TrainingArguments

import hfprune
from hfprune import DistillationConfig, HFPruneTrainer, load_recipe
from hfprune.core.errors import DataError
from hfprune.core.kinds import image_shape, image_tokens
from hfprune.data.collate import data_collator
from hfprune.data.loading import load_task_data
from hfprune.data.processors import load_processor
from hfprune.data.task_data import TaskData
from hfprune.deploy.runtimes.onnxruntime import OnnxClassifier
from hfprune.measure.runners import batches_for
from hfprune.pipeline import run
from hfprune.recipe.sections.data import DataConfig
from hfprune.report.console import Console

pytest.importorskip("PIL")
TASK = "image_classification"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    save_tiny_classifier("vit", folder / "model")
    write_images(folder / "images", 80)
    return folder


@pytest.fixture(scope="module")
def data(inputs: Path) -> TaskData:
    config = DataConfig(name=str(inputs / "images"), test_split="test")
    return load_task_data(config, None, TASK)


# -- data -------------------------------------------------------------------------------------


def test_an_image_folder_is_read_and_split(data: TaskData, inputs: Path) -> None:
    assert data.task == "single_label_classification"
    assert data.of_images
    assert data.label_names == ["left", "right"]
    assert [data.size(name) for name in ("train", "validation", "test")] == [72, 8, 20]
    assert np.bincount(data.label_array("validation")).tolist() == [4, 4], "stratified"
    assert data.texts == {}
    assert data.train.column_names == ["image", "labels"]
    collate = data_collator(load_processor(str(inputs / "model"), TASK), TASK)
    batch = collate([data.test[row] for row in (0, 5)])
    assert batch["pixel_values"].shape == (2, 3, 12, 12)
    assert batch["labels"].tolist() == data.label_array("test")[[0, 5]].tolist()
    # By hand: grey to three equal channels, 0..255 to -1..1.
    from PIL import Image

    path = sorted((inputs / "images/test/left").glob("*.png"))[0]
    want = np.asarray(Image.open(path), dtype=np.float32) / 127.5 - 1
    np.testing.assert_allclose(batch["pixel_values"][0], [want] * 3, atol=1e-5)


def test_paths_in_a_csv_and_bytes_in_parquet_are_the_same_images(
    data: TaskData, inputs: Path, tmp_path: Path
) -> None:
    shutil.copytree(inputs / "images/train", tmp_path / "pictures")
    paths = sorted((tmp_path / "pictures").rglob("*.png"))
    rows = [(path.relative_to(tmp_path).as_posix(), path.parent.name) for path in paths]
    csv = tmp_path / "rows.csv"
    csv.write_text("file,side\n" + "".join(f"{file},{side}\n" for file, side in rows))
    parquet = tmp_path / "rows.parquet"
    content = [{"bytes": path.read_bytes(), "path": None} for path in paths]
    sides = [side for _, side in rows]
    pq.write_table(pa.table({"file": content, "side": sides}), parquet)
    collate = data_collator(tiny_image_processor(), TASK)
    found = []
    for file in (csv, parquet):
        config = DataConfig(train_file=str(file), image_column="file", label_column="side")
        data = load_task_data(config, None, TASK)
        assert data.seen_in_train == {"validation": 0, "test": 0}
        found.append(collate([data.test[row] for row in range(len(data.test))]))
    assert torch.equal(found[0]["pixel_values"], found[1]["pixel_values"])
    assert torch.equal(found[0]["labels"], found[1]["labels"])


def test_images_seen_in_train_are_counted(inputs: Path, tmp_path: Path) -> None:
    shutil.copytree(inputs / "images", tmp_path / "images")
    for side in ("left", "right"):
        source = sorted((tmp_path / "images/train" / side).iterdir())[:3]
        for path in source:
            shutil.copy(path, tmp_path / "images/test" / side / f"again-{path.name}")
    config = DataConfig(name=str(tmp_path / "images"), test_split="test", validation_fraction=0.01)
    found = load_task_data(config, None, TASK).seen_in_train["test"]
    assert found in (5, 6), "six copies, of which one may be held out for validation"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"train \(.*rows.csv\), row 2, column 'image': there is no file .*bad.png"),
        (b"no image", "row 2, column 'image': .*bad.png cannot be read as an image: cannot ident"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 20, "bad.png cannot be read as an image"),
    ],
)
def test_images_that_cannot_be_read(
    content: bytes | None, message: str, inputs: Path, tmp_path: Path
) -> None:
    shutil.copy(next((inputs / "images/test/left").iterdir()), tmp_path / "good.png")
    if content is not None:
        (tmp_path / "bad.png").write_bytes(content)
    (tmp_path / "rows.csv").write_text("image,label\ngood.png,a\nbad.png,b\n")
    with pytest.raises(DataError, match=message):
        load_task_data(DataConfig(train_file=str(tmp_path / "rows.csv")), None, TASK)


def test_columns_that_hold_no_images(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("image,label\n,a\n")
    with pytest.raises(DataError, match="row 1, column 'image': expected the path of an image"):
        load_task_data(DataConfig(train_file=str(tmp_path / "rows.csv")), None, TASK)
    config = DataConfig(name=str(inputs / "images"), image_column="label", label_column="image")
    with pytest.raises(DataError, match="column 'label': expected images, the data set declares"):
        load_task_data(config, None, TASK)


def test_a_model_without_an_image_processor(tmp_path: Path) -> None:
    tiny_model("vit").save_pretrained(tmp_path)
    with pytest.raises(DataError, match="has no image processor that can be loaded"):
        load_processor(str(tmp_path), TASK)


# -- what a model makes of an image ------------------------------------------------------------


@pytest.mark.parametrize("family", ["vit", "deit"])
@torch.no_grad()
def test_tokens_and_batches_are_those_of_the_model(family: str) -> None:
    model = tiny_model(family)
    batch = batches_for(model.config)(2, 99)
    assert batch["pixel_values"].shape == (2, *image_shape(model.config)) == (2, 3, 12, 12)
    pixels = torch.from_numpy(batch["pixel_values"])
    states = model(pixel_values=pixels, output_hidden_states=True).hidden_states
    assert states[-1].shape[1] == image_tokens(model.config)


def test_cached_teacher_teaches_images_the_same(data: TaskData, tmp_path: Path) -> None:
    found = {}
    for limit in (0.0, 4.0):
        trainer = HFPruneTrainer(
            tiny_model("vit", labels=2),
            TrainingArguments(
                str(tmp_path / str(limit)),
                num_train_epochs=2,
                learning_rate=0.05,
                optim="sgd",
                use_cpu=True,
                report_to=[],
                save_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=data.train,
            data_collator=data_collator(tiny_image_processor(), TASK),
            teacher=tiny_model("vit", labels=2, seed=3),
            distillation=DistillationConfig(cache_limit_gb=limit),
        )
        trainer.train()
        assert (trainer.teaching.cache is not None) == (limit > 0)
        found[limit] = trainer.model.state_dict()
    for name, value in found[0.0].items():
        torch.testing.assert_close(found[4.0][name], value, atol=2e-5, rtol=1e-3)


def test_images_changed_at_random_are_not_cached(data: TaskData, tmp_path: Path) -> None:
    collate = data_collator(tiny_image_processor(), TASK)
    trainer = HFPruneTrainer(
        tiny_model("vit", labels=2),
        TrainingArguments(
            str(tmp_path), num_train_epochs=2, use_cpu=True, report_to=[], disable_tqdm=True
        ),
        train_dataset=data.train,
        data_collator=lambda rows: collate(rows),
        teacher=tiny_model("vit", labels=2, seed=3),
    )
    trainer._prepare_rows()
    assert trainer.teaching.cache is None


# -- end to end --------------------------------------------------------------------------------


def recipe_file(folder: Path, inputs: Path, **changes: Any) -> Path:
    recipe = {
        "model": {"name_or_path": str(inputs / "model")},
        "task": TASK,
        "data": {"name": str(inputs / "images"), "test_split": "test"},
        "training": {
            "num_train_epochs": 3,
            "learning_rate": 3e-3,
            "per_device_train_batch_size": 8,
        },
        "pruning": {"sparsity": 0.5, "min_neurons": 4, "update_every_steps": 3},
        "export": {"quantization": {}},
        "benchmark": {"batch_sizes": [1, 4], "repeats": 2},
        "output_dir": str(folder / "out"),
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.mark.parametrize(
    "method", ["gates", pytest.param("reconstruction", marks=pytest.mark.slow)]
)
def test_images_end_to_end(method: str, inputs: Path, tmp_path: Path) -> None:
    from PIL import Image
    from transformers import AutoImageProcessor, pipeline

    changes: dict[str, Any] = {}
    if method == "reconstruction":
        changes = {
            "pruning": {"sparsity": 0.3, "method": method, "search_rounds": 2},
            "export": {"quantization": {"is_static": True, "calibration_samples": 8}},
        }
    results = run(load_recipe(recipe_file(tmp_path, inputs, **changes)), Console(quiet=True))
    assert results is not None
    assert results["task"] == TASK
    assert results["data"]["samples"] == {"train": 72, "validation": 8, "test": 20}
    assert results["data"]["max_length"] is None
    models = results["evaluation"]["models"]
    assert models["dense PyTorch"]["metrics"]["accuracy"] > 0.9, "one side is bright"
    if method == "gates":
        assert models["pruned PyTorch"]["metrics"]["accuracy"] > 0.9
    assert models["pruned ONNX"]["metrics"] == models["pruned PyTorch"]["metrics"]
    timing = results["benchmark"]
    assert timing["length_unit"] == "pixels"
    assert {(r["batch_size"], r["sequence_length"]) for r in timing["rows"]} == {(1, 12), (4, 12)}
    assert timing["macs"]["pruned"]["12"] < timing["macs"]["dense"]["12"]

    out = tmp_path / "out"
    model = hfprune.from_pretrained(out)
    assert model.config.problem_type == "single_label_classification"
    processor = AutoImageProcessor.from_pretrained(out, use_fast=False)
    classify = pipeline("image-classification", model=model, image_processor=processor)
    image = Image.open(next((inputs / "images/test/left").iterdir())).convert("RGB")
    scores = {entry["label"]: entry["score"] for entry in classify(image)}
    pixels = processor(image, return_tensors="pt")
    with torch.no_grad():
        logits = model(**pixels).logits
    assert scores["left"] == pytest.approx(float(torch.softmax(logits, -1)[0, 0]), abs=1e-5)
    for name, tolerance in (("model.onnx", 1e-4), ("model_quantized.onnx", 0.7)):
        found = OnnxClassifier(out / "onnx" / name).logits(
            {"pixel_values": pixels["pixel_values"].numpy()}
        )
        np.testing.assert_allclose(found, logits.numpy(), atol=tolerance)
        if not TRANSFORMERS_5:
            from optimum.onnxruntime import ORTModelForImageClassification

            kind: Any = ORTModelForImageClassification
            ort = kind.from_pretrained(out, subfolder="onnx", file_name=name)
            np.testing.assert_allclose(ort(**pixels).logits.numpy(), logits.numpy(), atol=tolerance)


def test_a_model_of_grey_images_is_refused(inputs: Path, tmp_path: Path) -> None:
    tiny_model("vit", labels=2, num_channels=1).save_pretrained(tmp_path / "grey")
    tiny_image_processor().save_pretrained(tmp_path / "grey")
    path = recipe_file(tmp_path, inputs, model={"name_or_path": str(tmp_path / "grey")})
    with pytest.raises(DataError, match="reads images of 1 channels"):
        run(load_recipe(path), Console(quiet=True))


def test_digits_are_written_as_an_image_folder(tmp_path: Path) -> None:
    script = load_script("make_digits")
    assert script.main(["--dest", str(tmp_path)]) == 0
    counts = {
        split: [len(list((tmp_path / "digits" / split / str(d)).iterdir())) for d in range(10)]
        for split in ("train", "test")
    }
    assert sum(counts["train"]) == 1437
    assert sum(counts["test"]) == 360
    assert min(counts["test"]) >= 34
    from PIL import Image
    from sklearn.datasets import load_digits

    pixels = load_digits().images[0]
    (file,) = (tmp_path / "digits").rglob("0000.png")
    np.testing.assert_allclose(np.asarray(Image.open(file)) * (16 / 255), pixels, atol=0.04)
    config = json.loads((tmp_path / "digits-vit/config.json").read_text())
    assert (config["image_size"], config["patch_size"]) == (8, 2)
    before = (tmp_path / "digits-vit/model.safetensors").read_bytes()
    assert script.main(["--dest", str(tmp_path)]) == 0, "what is there stays"
    assert (tmp_path / "digits-vit/model.safetensors").read_bytes() == before
