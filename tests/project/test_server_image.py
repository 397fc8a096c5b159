"""The image of the example's server, step by step as its Dockerfile says, without Docker."""

from __future__ import annotations

import ast
import json
import shlex
import shutil
import subprocess
import sys
import venv
from http.client import HTTPConnection
from pathlib import Path

import pytest
from tiny import save_tiny_classifier, tiny_tokenizer

from hfprune.deploy.exporters.exporting import export_onnx
from hfprune.deploy.layouts import write_layout
from hfprune.deploy.predict.rows import Row
from hfprune.deploy.predict.serving import opened
from hfprune.models.saved import load_saved

ROOT = Path(__file__).parents[2]
TEXTS = ["a good film", "dull"]


def steps() -> list[tuple[str, str]]:
    """Instruction and arguments of each step, in order."""
    lines = (ROOT / "examples/server/Dockerfile").read_text(encoding="utf-8").splitlines()
    split = [line.partition(" ") for line in lines if not line.startswith("#")]
    return [(name, rest) for name, _, rest in split]


def packages() -> list[str]:
    """What the image installs."""
    (line,) = [rest for name, rest in steps() if name == "RUN" and rest.startswith("pip install")]
    return [word for word in shlex.split(line)[2:] if not word.startswith("-")]


def test_the_server_imports_nothing_that_its_image_lacks() -> None:
    tree = ast.parse((ROOT / "examples/server/server.py").read_text(encoding="utf-8"))
    named: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            named.add((node.module or "").partition(".")[0])
    assert named - sys.stdlib_module_names == set(packages())


@pytest.mark.slow
def test_the_steps_of_the_image_make_a_server_that_answers(tmp_path: Path) -> None:
    run = tmp_path / "run"
    save_tiny_classifier("bert", run)
    export_onnx(load_saved(str(run)), tiny_tokenizer(), run / "onnx")
    context = tmp_path / "context"
    write_layout(run, "plain", context / "served")
    shutil.copytree(ROOT / "examples", context / "examples")

    venv.create(tmp_path / "image", with_pip=True)
    python = str(tmp_path / "image/bin/python")
    installed = subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", "install", *packages()],
        capture_output=True, text=True,
    )  # fmt: skip
    if installed.returncode:
        pytest.skip(f"pip found no packages: {installed.stderr.strip().splitlines()[-1:]}")
    app = tmp_path / "app"
    app.mkdir()
    command: list[str] = []
    health = ""
    for name, rest in steps():
        if name == "COPY":
            source, target = context / rest.split()[0], app / rest.split()[1]
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                shutil.copy(source, target)
        elif name == "CMD":
            command = json.loads(rest)
        elif name == "HEALTHCHECK":
            health = rest.removeprefix("CMD ")
    assert command[0] == shlex.split(health)[0] == "python"
    words = [python, *command[1:]]
    words[words.index("--host") + 1] = "127.0.0.1"  # an image has an address of its own
    words[words.index("--port") + 1] = "0"
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=app, env={})
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        asked = health.replace("http://localhost:8000", address)
        subprocess.run([python, *shlex.split(asked)[1:]], check=True, timeout=30)
        body = json.dumps(TEXTS).encode()
        connection = HTTPConnection(address.removeprefix("http://"), timeout=30)
        connection.request("POST", "/classify", body)
        found = json.load(connection.getresponse())
        connection.close()
    finally:
        server.terminate()
        server.wait(10)
    wanted = list(opened(run)([Row(text) for text in TEXTS]))
    assert [row["label"] for row in found] == [row["label"] for row in wanted]
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine["scores"] == pytest.approx(theirs["scores"], abs=1e-6)
