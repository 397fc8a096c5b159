"""The examples without hfprune answer as ``hfprune predict`` does, whatever the folder says."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import tiny_model, tiny_tokenizer
from typer.testing import CliRunner

import hfprune.cli
from hfprune.core.errors import CheckpointError, DataError
from hfprune.deploy.exporters.exporting import export_onnx
from hfprune.deploy.layouts import write_layout
from hfprune.deploy.predict.cascade import Cascade, Measured, write_cascade
from hfprune.deploy.predict.rows import Row
from hfprune.deploy.predict.serving import Predictor
from hfprune.models.saved import load_saved
from hfprune.recipe.reading import dump_recipe
from hfprune.recipe.sections.whole import Recipe
from tests.project.test_server import EXAMPLES, SERVER, post, started

# Longer than the model takes, with another end than beginning.
LONG = ["good film " * 60 + "dull weak boring plot " * 60, "fine"]


def saved(place: Path, *, labels: int = 2, **config: Any) -> Path:
    """A classifier with its float32 file, under each of the names that examples look for."""
    model = tiny_model("bert", labels=labels)
    for name, value in config.items():
        setattr(model.config, name, value)
    model.save_pretrained(place)
    tiny_tokenizer().save_pretrained(place)
    export_onnx(load_saved(str(place)), tiny_tokenizer(), place / "onnx")
    shutil.copy(place / "onnx/model.onnx", place / "onnx/model_quantized.onnx")
    return place


def say(folder: Path, **settings: Any) -> None:
    """Change what the tokenizer's settings say."""
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def change(folder: Path, **config: Any) -> None:
    """Change what the config says."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("runs") / "plain")


@pytest.fixture
def folder(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "run"))


def told(example: str, folder: Path, texts: list[str]) -> list[float]:
    """The probability of the likeliest label, by an example."""
    if example.endswith(("server.py", "serve_http.py")):
        with started(folder, example) as address:
            status, found = post(address, json.dumps(texts).encode())
        assert status == 200
        return [row.get("score", row.get("probability")) for row in found]
    command = [sys.executable, str(EXAMPLES / example), str(folder), *texts]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    if "logits" not in rows[0]:
        return [row["probability"] for row in rows]
    odds = np.exp([row["logits"] for row in rows])
    return [float(share) for share in (odds / odds.sum(1, keepdims=True)).max(1)]


def family_of(folder: Path) -> Path:
    """A cascade whose fast member answers everything."""
    place = folder.parent / "family"
    for name in ("2x", "6x"):
        shutil.copytree(folder, place / name)
    one = Measured(metric=1, interval=(1, 1), mean_ms=1, p95_ms=1, slow_share=0)
    record = Cascade(
        fast="6x", slow="2x", threshold=0, metric="accuracy", wanted=1, reached=1, rows=6,
        measured={"fast": one, "slow": one, "cascade": one},
    )  # fmt: skip
    write_cascade(record, place)
    return place


@pytest.mark.parametrize(
    "example", ["server/server.py", "serve_http.py", "onnxruntime_only.py", "cascade.py"]
)
def test_texts_are_cut_and_padded_on_the_side_of_the_tokenizer(folder: Path, example: str) -> None:
    """Which is the left one of tokenizers whose texts say at their end what counts."""
    texts = LONG if example != "cascade.py" else LONG[:1]  # which asks of one text at a time
    right = [row["score"] for row in Predictor(folder)([Row(text) for text in texts])]
    say(folder, truncation_side="left", padding_side="left")
    left = [row["score"] for row in Predictor(folder)([Row(text) for text in texts])]
    assert all(abs(a - b) > 1e-4 for a, b in zip(left, right, strict=True)), "a test of nothing"
    place = family_of(folder) if example == "cascade.py" else folder
    assert told(example, place, texts) == pytest.approx(left, abs=1e-4)


# What a config says of its logits; the graph is the same.
KINDS: dict[str, dict[str, Any]] = {
    "several": {"problem_type": "multi_label_classification"},
    "single": {"problem_type": "single_label_classification"},
    "number": {"problem_type": "regression"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_logits_mean_what_the_config_says(folder: Path, kind: str) -> None:
    """To predict, to the server, and to the short example, which rounds."""
    change(folder, **KINDS[kind])
    texts = ["good film", "dull", "a very very weak plot"]
    wanted = list(Predictor(folder)([Row(text) for text in texts]))
    with started(folder) as address:
        served = post(address, json.dumps(texts).encode())[1]
    with started(folder, "serve_http.py") as address:
        short = post(address, json.dumps(texts).encode())[1]
    for want, mine, other in zip(wanted, served, short, strict=True):
        if kind == "number":
            assert mine["value"] == pytest.approx(want["value"], abs=1e-5)
            assert other["value"] == pytest.approx(want["value"], abs=1e-5)
            continue
        name = "labels" if kind == "several" else "label"
        assert sorted(mine[name]) == sorted(other[name]) == sorted(want[name])
        assert mine["scores"] == pytest.approx(want["scores"], abs=1e-5)
        if kind == "several":
            assert other["probabilities"] == pytest.approx(want["scores"], abs=1e-4)
        else:
            assert other["probability"] == pytest.approx(want["score"], abs=1e-4)


def test_one_label_that_may_be_missing_is_no_number(tmp_path: Path) -> None:
    """Of several labels that do not exclude each other there may be one: `spam`, or nothing."""
    names = {"id2label": {0: "spam"}, "label2id": {"spam": 0}}
    kind = {"problem_type": "multi_label_classification"}
    folder = saved(tmp_path / "spam", labels=1, **kind, **names)
    (want,) = Predictor(folder)([Row("good film")])
    assert list(want["scores"]) == ["spam"]
    for example, name in (("server/server.py", "scores"), ("serve_http.py", "probabilities")):
        with started(folder, example) as address:
            (found,) = post(address, b'["good film"]')[1]
        assert found["labels"] == want["labels"]
        assert found[name] == pytest.approx(want["scores"], abs=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": ["BertForTokenClassification"]},
        {"architectures": ["BertModel"]},
        {"problem_type": "multi_label_classification", "id2label": {"0": "LABEL_0"}},
    ],
)
def test_the_short_server_refuses_what_is_no_classifier_of_texts(
    folder: Path, config: dict[str, Any]
) -> None:
    """Of tokens it would have answered with a label that is none, of a reranker with 1.0."""
    change(folder, **config)
    command = [sys.executable, str(EXAMPLES / "serve_http.py"), str(folder), "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "no classifier of single texts" in done.stderr
    assert "examples/server" in done.stderr


def test_windows_are_of_one_text(folder: Path) -> None:
    """As predict does, the server refuses pairs of a model that reads long texts in windows."""
    (folder / "windows.json").write_text('{"stride": 2}')
    with pytest.raises(DataError, match="reads long texts in windows"):
        list(Predictor(folder)([Row("good film", "dull")]))
    with started(folder) as address:
        status, told = post(address, b'[["good film", "dull"]]')
    assert (status, told) == (400, {"error": 'a JSON list of texts: ["a moving film"]'})


def test_two_labels_of_one_name_are_refused(folder: Path) -> None:
    """One's probability stood in the other's place, and those of a text no longer made 1."""
    change(folder, id2label={"0": "other", "1": "other"}, label2id={"other": 1})
    with pytest.raises(CheckpointError, match=r"labels 0 and 1 both 'other' \(id2label\): give"):
        Predictor(folder)
    command = [sys.executable, str(SERVER / "server.py"), str(folder), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "gives two labels one name: ['other', 'other']" in done.stderr


def test_triton_says_which_labels_it_cannot_number(folder: Path, tmp_path: Path) -> None:
    change(folder, id2label={"negative": "0", "positive": "1"})
    with pytest.raises(CheckpointError, match=r"\['negative', 'positive'\], expected numbers"):
        write_layout(folder, "triton", tmp_path / "models" / "reviews")
    assert not (tmp_path / "models" / "reviews").exists()


def test_a_cascade_reads_the_columns_of_its_recipe(folder: Path, tmp_path: Path) -> None:
    """`--help` promises the recipe's columns; only those of a single model were looked up."""
    recipe = Recipe(
        model={"name_or_path": "org/base"},
        data={"train_file": "r.csv", "text_column": "premise", "text_pair_column": "claim"},
        pruning={"speedup": 2}, output_dir=str(folder),
    )  # fmt: skip
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    family = family_of(folder)
    rows = tmp_path / "rows.csv"
    rows.write_text("claim,premise\ndull,good film\nfine,weak plot\n")
    done = CliRunner().invoke(hfprune.cli.app, ["predict", str(family), str(rows), "--json"])
    assert done.exit_code == 0, done.output
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["text"], row["text_pair"]) for row in found] == [
        ("good film", "dull"), ("weak plot", "fine"),
    ]  # fmt: skip


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_file_without_names_of_columns_is_told_as_such(
    folder: Path, tmp_path: Path, content: str
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text(content)
    done = CliRunner().invoke(hfprune.cli.app, ["predict", str(folder), str(rows)])
    assert done.exit_code == 1
    assert "expected the names of its columns, such as text: write them above" in " ".join(
        done.stderr.split()
    )
