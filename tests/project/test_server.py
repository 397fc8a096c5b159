"""The example of a server: started as a process of its own and called over HTTP."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np
import pytest
from tiny import save_tiny_classifier, tiny_model, tiny_tokenizer
from typer.testing import CliRunner

import hfprune.cli
from hfprune.core.errors import CheckpointError, OutputError
from hfprune.deploy.exporters.exporting import export_onnx
from hfprune.deploy.layouts import write_layout
from hfprune.deploy.not_served import not_served
from hfprune.deploy.predict.cascade import Cascade, Measured, read_cascade, write_cascade
from hfprune.deploy.predict.places import LONGEST
from hfprune.deploy.predict.rows import Row
from hfprune.deploy.predict.serving import Predictor, opened
from hfprune.models.saved import load_saved
from hfprune.models.sentences import load_embedder, load_encoder
from hfprune.recipe.reading import dump_recipe
from hfprune.recipe.sections.whole import Recipe
from tests.api.test_embeddings import sentence_encoder

EXAMPLES = Path(__file__).parents[2] / "examples"
SERVER = EXAMPLES / "server"
TEXTS = ["a good film", "dull"]
MANY = [*TEXTS, "a very very weak plot", "fine", "clever and moving", "bad story but a great actor"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs") / "reviews"
    save_tiny_classifier("bert", place)
    export_onnx(load_saved(str(place)), tiny_tokenizer(), place / "onnx")
    return place


@pytest.fixture(scope="module")
def address(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with started(write_layout(folder, "plain", tmp_path_factory.mktemp("image") / "served")) as at:
        yield at


@contextmanager
def started(served: Path, example: str = "server/server.py") -> Iterator[str]:
    """The address of a server of a folder, while it runs."""
    port = ["--port", "0"] if example == "server/server.py" else ["0"]
    command = [sys.executable, str(EXAMPLES / example), str(served), *port]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=served)
    try:
        if process.stdout is None:
            raise RuntimeError("no output")
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def family(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two members and the record of a cascade in which half of the texts go to the slow one."""
    place = tmp_path_factory.mktemp("runs") / "family"
    shutil.copytree(folder, place / "2x")
    save_tiny_classifier("bert", place / "6x", layers=1)
    export_onnx(load_saved(str(place / "6x")), tiny_tokenizer(), place / "6x" / "onnx")
    sure = sorted(row["score"] for row in Predictor(place / "6x")([Row(text) for text in MANY]))
    one = Measured(metric=1, interval=(1, 1), mean_ms=1, p95_ms=1, slow_share=0)
    record = Cascade(
        fast="6x", slow="2x", threshold=(sure[2] + sure[3]) / 2, metric="accuracy", wanted=1,
        reached=1, rows=6, measured={"fast": one, "slow": one, "cascade": one},
    )  # fmt: skip
    write_cascade(record, place)
    return place


def test_a_cascade_is_served_as_predict_serves_it(family: Path, tmp_path: Path) -> None:
    """By hfprune, over HTTP from the run and from the layout, and by the example in Python."""
    for name in ("2x", "6x"):
        recipe = Recipe(
            model={"name_or_path": "org/base"}, data={"train_file": "rows.csv", "max_length": 6},
            pruning={"speedup": 2}, output_dir=str(family / name),
        )  # fmt: skip
        (family / name / "recipe.yaml").write_text(dump_recipe(recipe))
    wanted = list(opened(family)([Row(text) for text in MANY]))
    assert {row["by"] for row in wanted} == {"fast", "slow"}
    served = write_layout(family, "plain", tmp_path / "served")
    assert read_cascade(served) == read_cascade(family)
    with started(served) as address:
        status, found = post(address, json.dumps(MANY).encode())
    assert status == 200
    assert [row["by"] for row in found] == [row["by"] for row in wanted]
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine["scores"] == pytest.approx(theirs["scores"], abs=1e-6)
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "cascade.py"), str(family), *MANY],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["by"], row["label"]) for row in told] == [(r["by"], r["label"]) for r in wanted]
    assert [r["probability"] for r in told] == pytest.approx([r["score"] for r in wanted], abs=1e-4)


def test_a_cascade_without_its_members_is_no_layout(family: Path, tmp_path: Path) -> None:
    shutil.copy(family / "cascade.json", tmp_path)
    with pytest.raises(OutputError, match="there is no such folder beside it"):
        write_layout(tmp_path, "plain", tmp_path / "served")
    assert not (tmp_path / "served").exists()


def test_the_server_takes_the_folder_of_a_run(folder: Path) -> None:
    """With the file that deploy.json recommends where ONNX Runtime runs it, else the smallest."""
    import runpy

    file_of = runpy.run_path(str(SERVER / "server.py"))["file_of"]
    assert file_of(folder).name == "model.onnx"
    uses = {"batches": "openvino", "single": "onnxruntime"}
    record = {name: {"runtime": each, "path": f"onnx/{name}.onnx"} for name, each in uses.items()}
    (folder / "deploy.json").write_text(json.dumps({"uses": record}))
    assert file_of(folder).name == "single.onnx"
    record["batches"]["runtime"] = "onnxruntime"
    (folder / "deploy.json").write_text(json.dumps({"uses": record}))
    assert (file_of(folder).name, file_of(folder, "single").name) == ("batches.onnx", "single.onnx")
    (folder / "deploy.json").unlink()
    with pytest.raises(SystemExit, match="holds no ONNX file"):
        file_of(folder / "onnx")


def test_texts_are_cut_where_the_run_cut_them(folder: Path, tmp_path: Path) -> None:
    """By predict and by the server, of the folder of a run and of a layout without its recipe."""
    import runpy

    place = tmp_path / "run"
    shutil.copytree(folder, place)
    recipe = Recipe(
        model={"name_or_path": "org/base"}, data={"train_file": "rows.csv", "max_length": 6},
        pruning={"speedup": 2}, output_dir=str(place),
    )  # fmt: skip
    (place / "recipe.yaml").write_text(dump_recipe(recipe))
    served = write_layout(place, "plain", tmp_path / "served")
    length_of = runpy.run_path(str(SERVER / "server.py"))["length_of"]
    assert length_of(place) == length_of(served) == 6
    assert length_of(folder) == 64, "what the tokenizer says"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 10**30}))
    assert length_of(tmp_path) == LONGEST, "as predict has it, where nothing says it"
    long = "a good film and a very very weak plot"
    whole, cut, again = (
        next(iter(Predictor(one)([Row(long)])))["score"] for one in (folder, place, served)
    )
    assert cut == again != whole


def test_long_texts_are_read_in_windows_by_all(folder: Path, tmp_path: Path) -> None:
    """By predict and by the server, of the folder of a run and of the layout without its recipe."""
    place = tmp_path / "run"
    shutil.copytree(folder, place)
    recipe = Recipe(
        model={"name_or_path": "org/base"},
        data={"train_file": "rows.csv", "max_length": 6, "stride": 2},
        pruning={"speedup": 2}, output_dir=str(place),
    )  # fmt: skip
    (place / "recipe.yaml").write_text(dump_recipe(recipe))
    served = write_layout(place, "plain", tmp_path / "served")
    texts = ["dull", "a good film and a very very weak plot", *MANY[2:5]]
    wanted = [row["scores"] for row in Predictor(place)([Row(text) for text in texts])]
    ask = Predictor(served)
    assert (ask.max_length, ask.stride) == (6, 2)
    assert [row["scores"] for row in ask([Row(text) for text in texts])] == wanted
    for each in (place, served):
        with started(each) as address:
            found = post(address, json.dumps(texts).encode())[1]
        for mine, theirs in zip(found, wanted, strict=True):
            assert mine["scores"] == pytest.approx(theirs, abs=1e-6)
    assert not_served(place, "plain") is None
    done = CliRunner().invoke(
        hfprune.cli.app, ["export", str(place), "--layout", "tei", "--output", str(tmp_path / "t")]
    )
    assert done.exit_code == 0
    assert "read in windows here (data.stride), which tei does not" in " ".join(done.stderr.split())
    (served / "windows.json").write_text('{"stride": "2"}')
    with pytest.raises(CheckpointError, match=r"windows.json: expected .* got {'stride': '2'}"):
        Predictor(served)


def post(address: str, body: bytes, path: str = "/classify") -> tuple[int, Any]:
    return call(address, "POST", path, body)


def call(address: str, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
    connection = HTTPConnection(address.removeprefix("http://"), timeout=20)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, json.load(answer)
    finally:
        connection.close()


def test_an_encoder_embeds_with_its_prompt(tmp_path: Path) -> None:
    """As the folder in PyTorch does, of a text that is longer than the folder allows too."""
    place = sentence_encoder(tmp_path / "encoder")
    export_onnx(load_embedder(str(place)), tiny_tokenizer(), place / "onnx")
    texts = [*TEXTS, "a very weak plot " * 20]
    with started(write_layout(place, "plain", tmp_path / "served")) as address:
        status, found = post(address, json.dumps(texts).encode(), "/embed")
        refused, told = post(address, b'{"query": "a"}', "/embed")
        elsewhere, where = post(address, json.dumps(texts).encode())
    assert status == 200
    np.testing.assert_allclose(found, load_encoder(place).encode(texts), atol=1e-5)
    assert (refused, told) == (400, {"error": 'a JSON list of texts: ["a moving film"]'})
    assert (elsewhere, where) == (404, {"error": "not found: POST to /embed"})


def test_a_reranker_puts_texts_in_order(tmp_path: Path) -> None:
    place = tmp_path / "reranker"
    model = tiny_model("bert", labels=1)
    model.config.problem_type = "multi_label_classification"
    model.save_pretrained(place)
    tiny_tokenizer().save_pretrained(place)
    export_onnx(load_saved(str(place)), tiny_tokenizer(), place / "onnx")
    body = {"query": "a good film", "texts": MANY}
    with started(write_layout(place, "plain", tmp_path / "served")) as address:
        status, found = post(address, json.dumps(body).encode(), "/rerank")
        refused = [
            post(address, json.dumps(wrong).encode(), "/rerank")
            for wrong in (MANY, {"query": "a"}, {"query": "a", "texts": "dull"})
        ]
    assert status == 200
    rows = [Row("a good film", text) for text in MANY]
    scores = [row["value"] for row in Predictor(place)(rows)]
    want = sorted(range(len(MANY)), key=lambda place: -scores[place])
    assert [row["index"] for row in found] == want
    assert [row["score"] for row in found] == pytest.approx([scores[n] for n in want], abs=1e-5)
    assert {code for code, _ in refused} == {400}
    assert all('{"query"' in told["error"] for _, told in refused)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["BertForTokenClassification"]}, "is a BertForTokenClassification: of"),
        ({"architectures": ["ViTForImageClassification"]}, "is a ViTForImageClassification: of"),
        (None, "must hold config.json and tokenizer.json of a model of texts"),
    ],
)
def test_what_it_does_not_serve(
    folder: Path, tmp_path: Path, change: dict[str, Any] | None, message: str
) -> None:
    """It would answer with the logits of tokens in place of embeddings."""
    place = tmp_path / "run"
    if change is not None:
        shutil.copytree(folder, place)
        config = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps({**config, **change}))
    command = [sys.executable, str(SERVER / "server.py"), str(place), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_length_that_is_asked_for_counts(folder: Path, tmp_path: Path) -> None:
    """Beside modules that say another; and of both that a folder says, the shorter one."""
    place = write_layout(folder, "plain", tmp_path / "served")
    (place / "sentence_bert_config.json").write_text('{"max_seq_length": 32}')
    server = run_path(str(SERVER / "server.py"))
    for given, wanted in ((None, 32), (5, 5), (40, 40)):
        model = server["model_of"](place, 1, given)
        assert model.tokenizer.truncation["max_length"] == wanted
    settings = json.loads((place / "tokenizer_config.json").read_text())
    (place / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 16}))
    assert server["length_of"](place) == 16


@pytest.mark.parametrize("size", ["-1", "9" * 5000])
@pytest.mark.parametrize("example", ["server/server.py", "serve_http.py"])
def test_lengths_that_no_body_has(
    folder: Path, example: str, size: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Below zero a body would be read until the client hangs up; such digits are no int."""
    if example == "serve_http.py" and size != "-1":
        return  # a ValueError there, which is answered
    with started(folder, example) as address:
        connection = HTTPConnection(address.removeprefix("http://"), timeout=10)
        connection.putrequest("POST", "/classify")
        connection.putheader("Content-Length", size)
        connection.endheaders()
        assert connection.getresponse().status in (400, 413)
        connection.close()
    assert "Traceback" not in capfd.readouterr().err


def test_it_answers_as_predict_does(address: str, folder: Path) -> None:
    status, found = post(address, json.dumps(TEXTS).encode())
    assert status == 200
    wanted = list(Predictor(folder)([Row(text) for text in TEXTS]))
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine["label"] == theirs["label"]
        assert mine["scores"] == pytest.approx(theirs["scores"], abs=1e-6)
    assert call(address, "GET", "/health") == (200, {"status": "ok"})
    assert call(address, "GET", "/")[0] == 404


def test_pairs_are_read_together(address: str, folder: Path) -> None:
    pairs = [["a good film", "dull"], ["fine", "a very very weak plot"]]
    status, found = post(address, json.dumps(pairs).encode())
    assert status == 200
    wanted = Predictor(folder)([Row(*pair) for pair in pairs])
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine["scores"] == pytest.approx(theirs["scores"], abs=1e-6)


@pytest.mark.parametrize(
    ("body", "path", "status"),
    [
        (b"{", "/classify", 400),
        (b'{"a": 1}', "/classify", 400),
        (b"[1]", "/classify", 400),
        (b"[]", "/classify", 400),
        (json.dumps(["x"] * 129).encode(), "/classify", 400),
        (b" " * (2**20 + 1), "/classify", 413),
        (b"[]", "/other", 404),
        (b"[" * 100_000, "/classify", 400),
        (rb'["half \ud800"]', "/classify", 400),
        (b'[["one", "two"], "three"]', "/classify", 400),
        (b'[["one", "two", "three"]]', "/classify", 400),
    ],
)
def test_what_it_refuses(body: bytes, path: str, status: int, address: str) -> None:
    try:
        found, told = post(address, body, path)
    except ConnectionError:
        assert status == 413  # it does not read what is too long, and says so while it is sent
        return
    assert found == status
    assert told["error"]


def test_the_image_is_ten_lines_of_what_is_there() -> None:
    lines = (SERVER / "Dockerfile").read_text().splitlines()
    steps = [line for line in lines if not line.startswith("#")]
    assert len(steps) <= 11
    assert "COPY examples/server/server.py ." in steps
    assert steps[-1].startswith('CMD ["python", "server.py", "served"')
    assert "USER server" in steps
