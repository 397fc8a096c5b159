"""The quickstart, typed word by word by somebody new: invented rows, every command of its page."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from test_docs import DOCS, commands
from tiny import save_tiny_classifier, write_reviews

ROOT = Path(__file__).resolve().parents[2]


def messy(path: Path) -> None:
    """Rows as a database gives them: an id, quotes and commas, copies, a label in capitals."""
    write_reviews(path, 240)
    texts = [line.rsplit(",", 1) for line in path.read_text().splitlines()[1:]]
    rows = [f'T-{n},"{text}, please",{label}' for n, (text, label) in enumerate(texts)]
    rows += rows[:3]
    path.write_text("\n".join(["id,text,label", *rows, 'T-x,"a ""good"" film",POSITIVE']) + "\n")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with rows, a fine-tuned model and the examples, as the page says."""
    monkeypatch.chdir(tmp_path)
    save_tiny_classifier("bert", tmp_path / "my-model")
    config = tmp_path / "my-model/config.json"
    names = {"0": "negative", "1": "positive"}
    config.write_text(json.dumps({**json.loads(config.read_text()), "id2label": names}))
    messy(tmp_path / "tickets.csv")
    write_reviews(tmp_path / "newer.csv", 40)
    write_reviews(tmp_path / "train.csv", 1000)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return tmp_path


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    program = {"hfprune": [sys.executable, "-m", "hfprune"], "python": [sys.executable]}
    return subprocess.run(
        [*program.get(words[0], [words[0]]), *words[1:]],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@contextmanager
def serving(words: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, *words[1:]], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == f"http://localhost:{port}"
        yield
    finally:
        process.terminate()
        process.wait(10)


def ask(port: int, body: bytes) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("localhost", port, timeout=20)
    try:
        connection.request("POST", "/", body)
        answer = connection.getresponse()
        return answer.status, json.load(answer)
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return int(listening.getsockname()[1])


@pytest.mark.slow
@pytest.mark.timeout(1500)  # the whole, by the page's own commands: see below
def test_the_quickstart_word_by_word(desk: Path) -> None:
    began = time.monotonic()
    typed = commands(DOCS / "quickstart.md")
    assert [words[:2] for words in typed] == [
        ["hfprune", "quick"], ["hfprune", "recipe"], ["hfprune", "prune"], ["hfprune", "report"],
        ["hfprune", "predict"], ["hfprune", "evaluate"], ["python", "examples/serve_http.py"],
        ["curl", "-s"], ["hfprune", "recipe"],
    ]  # fmt: skip
    # First of all the messy label: the page says that it is told, and the user mends it.
    said = run(typed[0])
    assert said.returncode == 0, said.stderr
    assert "differ only in case" in said.stderr
    rows = desk / "tickets.csv"
    rows.write_text(rows.read_text().replace("POSITIVE", "positive"))
    (desk / "runs/tickets.yaml").unlink()
    port = free_port()
    for words in typed:
        if words[0] == "curl":
            continue
        if "examples/serve_http.py" in words:
            with serving([*words[:-1], str(port)], port):
                texts = json.loads(next(curl for curl in typed if curl[0] == "curl")[-1])
                status, found = ask(port, json.dumps(texts).encode())
                assert (status, set(found[0])) == (200, {"label", "probability"})
                assert found[0]["label"] in ("negative", "positive")
                for body in (b"{}", b"[]", b"[1]", b"\xff"):
                    assert ask(port, body)[0] == 400
            continue
        done = run(words)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"
        if words[1] == "quick":
            assert "it is the teacher as it stands" in done.stderr
        if words[1] == "prune":
            assert "(stage " in done.stderr
            assert "Asked for 3x" in done.stdout
            assert 'hfprune predict runs/tickets "a text of yours"' in done.stdout
    assert (desk / "runs/tickets/report.html").is_file()
    # Minutes on two cores; more would be a quickstart that is none.
    took = time.monotonic() - began
    print(f"from a messy CSV to predictions over HTTP: {took:.0f} s")
    assert took < 1200
