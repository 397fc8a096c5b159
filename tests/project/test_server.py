"""The example of a server: started as a process of its own and called over HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from tiny import save_tiny_classifier, tiny_tokenizer

from hfprune.deploy.exporters.exporting import export_onnx
from hfprune.deploy.layouts import write_layout
from hfprune.deploy.predict.rows import Row
from hfprune.deploy.predict.serving import Predictor
from hfprune.models.saved import load_saved

SERVER = Path(__file__).parents[2] / "examples" / "server"
TEXTS = ["a good film", "dull"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs") / "reviews"
    save_tiny_classifier("bert", place)
    export_onnx(load_saved(str(place)), tiny_tokenizer(), place / "onnx")
    return place


@pytest.fixture(scope="module")
def address(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    served = write_layout(folder, "plain", tmp_path_factory.mktemp("image") / "served")
    command = [sys.executable, str(SERVER / "server.py"), str(served), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=served)
    try:
        if process.stdout is None:
            raise RuntimeError("no output")
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(10)


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


def test_it_answers_as_predict_does(address: str, folder: Path) -> None:
    status, found = post(address, json.dumps(TEXTS).encode())
    assert status == 200
    wanted = list(Predictor(folder)([Row(text) for text in TEXTS]))
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine["label"] == theirs["label"]
        assert mine["scores"] == pytest.approx(theirs["scores"], abs=1e-6)
    assert call(address, "GET", "/health") == (200, {"status": "ok"})
    assert call(address, "GET", "/")[0] == 404


@pytest.mark.parametrize(
    ("body", "path", "status"),
    [
        (b"{", "/classify", 400),
        (b'{"a": 1}', "/classify", 400),
        (b"[1]", "/classify", 400),
        (b"[]", "/classify", 400),
        (json.dumps(["x"] * 65).encode(), "/classify", 400),
        (b" " * (2**20 + 1), "/classify", 413),
        (b"[]", "/other", 404),
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
