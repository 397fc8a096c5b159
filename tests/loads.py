"""What loads what: layouts x readers, the logits of each compared with PyTorch's and int8's own.

``prepare`` writes a tiny model in every layout, ``read`` lets one reader read one of them in a
process of its own, in whichever interpreter has its library. ``scripts/make_loads.py`` runs all of
it and writes docs/loads.md; tests/project/test_loads.py runs what is installed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny import random_plan, tiny_model, tiny_tokenizer

from hfprune.core.errors import ExportError, MissingExtraError
from hfprune.deploy.exporters.exporting import export_onnx
from hfprune.deploy.layouts import LAYOUTS as SERVED
from hfprune.deploy.layouts import write_layout
from hfprune.deploy.quantize.quantizing import quantize_onnx
from hfprune.deploy.quantize.search import usual_settings
from hfprune.deploy.runtimes.onnxruntime import OnnxClassifier
from hfprune.deploy.runtimes.writing import write_usual
from hfprune.families import model_sizes
from hfprune.pruning.layout import finish_
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.surgery import shrink_

ROOT = Path(__file__).resolve().parents[1]
WORKER = ROOT / "tests" / "loads_worker.py"
TEXTS = ["a good film", "dull", "the plot is very very weak but moving"]
# What a run leaves, by pruning.layout, and what `hfprune export --layout` makes of the first.
RUNS = ("uneven", "uneven, whole layers gone", "uniform")
LAYOUTS = (*RUNS, *SERVED)
NODE, HTTP, FASTAPI = "Transformers.js", "examples/server", "FastAPI"
# Reader -> the packages that an interpreter must have, with how the version begins.
READERS: dict[str, dict[str, str]] = {
    "transformers 4.57": {"transformers": "4.57", "torch": ""},
    "transformers 5": {"transformers": "5.", "torch": ""},
    "hfprune": {"transformers": "", "torch": "", "onnxruntime": "", "typer": ""},
    "Optimum ORT": {"optimum-onnx": "", "onnxruntime": ""},
    "Optimum Intel": {"optimum-intel": "", "openvino": ""},
    "ONNX Runtime alone": {"onnxruntime": "", "tokenizers": ""},
    NODE: {},
    HTTP: {"onnxruntime": "", "tokenizers": ""},
    FASTAPI: {"fastapi": "", "uvicorn": "", "onnxruntime": "", "tokenizers": ""},
}
# Where a reader finds something and cannot take it: part of what it says.
STATED = {
    ("uneven", "transformers 4.57"): "hfprune.from_pretrained(folder)",
    ("uneven", "transformers 5"): "hfprune.from_pretrained(folder)",
}
# Largest difference of logits that is let through, as for every export.
ATOL = 1e-4
NOT_RUN = "not run"


@dataclass(frozen=True)
class Place:
    """Where readers run.

    Attributes:
        pythons: interpreters; the first that has what a reader needs is taken.
        node: a folder whose ``node_modules`` hold @huggingface/transformers; ``None``: none.
    """

    pythons: tuple[str, ...] = (sys.executable,)
    node: Path | None = None


def prepare(folder: Path) -> dict[str, Any]:
    """Write a tiny model in every layout; returns by layout the logits that each file must give."""
    truth = {}
    for name in RUNS:
        model = tiny_model("bert", labels=2)
        model.config.id2label = {0: "negative", 1: "positive"}
        model.config.label2id = {"negative": 0, "positive": 1}
        sizes = model_sizes(model)
        if name == "uneven":
            shrink_(model, random_plan(model))
        else:
            some = sizes[0] if name != "uniform" else (sizes[0][0], 2 * sizes[0][1] // 3)
            shrink_(model, PruningPlan.first_units(sizes, [some, (0, 0), some]))
            if not finish_(model, "uniform" if name == "uniform" else "uneven"):
                raise ValueError(f"{name} does not load alone")
        truth[name] = _write(model, folder / file_name(name))
    for name in SERVED:
        write_layout(folder / "uneven", name, folder / name)
        truth[name] = truth["uneven"]
    return truth


def _write(model: Any, folder: Path) -> dict[str, Any]:
    """As a run leaves it; returns the logits of each file."""
    tokenizer = tiny_tokenizer()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    float_file = export_onnx(model, tokenizer, folder / "onnx")
    int8_file = quantize_onnx(folder / "onnx", usual_settings(folder / "onnx"))
    with contextlib.suppress(MissingExtraError, ExportError):  # then nothing reads it
        write_usual("openvino", folder / "onnx", folder)
    batch = tokenizer(TEXTS, padding=True, return_tensors="np")
    with torch.no_grad():
        wanted = model(**{k: torch.as_tensor(v) for k, v in batch.items()}).logits.numpy()
    own = OnnxClassifier(int8_file).logits(dict(batch))
    if float_file.name != "model.onnx":
        raise ValueError(float_file)
    return {"PyTorch": wanted, "float32": wanted, "OpenVINO": wanted, "int8": own}


def file_name(layout: str) -> str:
    return re.sub(r"\W+", "-", layout) if layout in RUNS else layout


def interpreter(reader: str, place: Place) -> str | None:
    """The first interpreter that has what a reader needs; for Node ``node``."""
    if reader == NODE:
        return None if place.node is None else "node"
    for python in place.pythons:
        versions = installed(python)
        if all(
            package in versions and versions[package].startswith(begin)
            for package, begin in READERS[reader].items()
        ):
            return python
    return None


_INSTALLED: dict[str, dict[str, str]] = {}


def installed(python: str) -> dict[str, str]:
    """The packages of an interpreter with their versions."""
    if python not in _INSTALLED:
        code = (
            "import json; from importlib.metadata import distributions as d; "
            "print(json.dumps({e.metadata['Name'].lower(): e.version for e in d()}))"
        )
        done = subprocess.run(
            [python, "-c", code], capture_output=True, text=True, check=True, env=_environment()
        )
        _INSTALLED[python] = json.loads(done.stdout)
    return _INSTALLED[python]


def read(reader: str, folder: Path, truth: Mapping[str, Any], place: Place) -> str:
    """What a cell of the table says.

    Returns:
        The files that were read and agreed, such as ``float32, int8``; ``""`` where the layout
        holds nothing for this reader; ``not run`` where no interpreter has it; what it said if it
        failed.
    """
    program = interpreter(reader, place)
    if program is None:
        return NOT_RUN
    if reader == NODE:
        found = _javascript(folder, place)
    elif reader in (HTTP, FASTAPI):
        return _served(reader, program, folder, truth)
    else:
        found = _asked([program, str(WORKER), reader, str(folder)], folder)
    if isinstance(found, str):
        return found
    off = {
        name: float(np.abs(np.asarray(logits) - truth[name]).max())
        for name, logits in found.items()
    }
    wrong = [f"{name} differs by {by:.1e}" for name, by in off.items() if by > ATOL]
    return "; ".join(wrong) or ", ".join(off)


def _environment() -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # `hfprune` is this tree; the interpreter of a reader need not have it installed.
    return {**clean, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def _asked(command: Iterable[str], folder: Path) -> dict[str, Any] | str:
    done = subprocess.run(
        list(command), input=json.dumps(TEXTS), capture_output=True, text=True, check=False,
        cwd=folder.parent, env=_environment(),
    )  # fmt: skip
    if done.returncode:
        return f"exit status {done.returncode}: {done.stderr.strip().splitlines()[-1]}"
    told = json.loads(done.stdout.splitlines()[-1])
    return told["error"] if "error" in told else told["logits"]


def _javascript(folder: Path, place: Place) -> dict[str, Any] | str:
    if place.node is None or not (folder / "onnx").is_dir():
        return {}
    # Beside node_modules, where imports are looked for.
    script = place.node / "classify.mjs"
    script.write_text((ROOT / "tests" / "classify.mjs").read_text())
    found: dict[str, Any] = {}
    names = {"fp32": "model.onnx", "q8": "model_quantized.onnx"}
    for dtype, precision in (("fp32", "float32"), ("q8", "int8")):
        if not (folder / "onnx" / names[dtype]).is_file():
            continue
        done = subprocess.run(
            ["node", script.name, str(folder), dtype], input=json.dumps(TEXTS),
            capture_output=True, text=True, check=False, cwd=place.node,
        )  # fmt: skip
        if done.returncode:
            return next(line for line in done.stderr.splitlines() if "Error" in line)
        found[precision] = json.loads(done.stdout.splitlines()[-1])
    return found


def service_of_the_docs() -> str:
    """The code of the section on FastAPI."""
    text = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
    section = text.split("## A service with FastAPI", 1)[1]
    return re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)[0]


def _served(reader: str, python: str, folder: Path, truth: Mapping[str, Any]) -> str:
    """What a server says over HTTP: probabilities, not logits, of the int8 file."""
    if not (folder / "onnx").is_dir():
        return ""
    if reader == HTTP:
        script = str(ROOT / "examples" / "server" / "server.py")
        command, cwd = [python, script, str(folder), "--port", "0"], folder
    else:
        cwd = folder.parent / f"fastapi-{folder.name}"
        (cwd / "runs").mkdir(parents=True)
        (cwd / "runs" / "reviews").symlink_to(folder, target_is_directory=True)
        (cwd / "service.py").write_text(service_of_the_docs())
        command = [python, "-m", "uvicorn", "service:app", "--port", "0"]
    with (folder.parent / "server.log").open("w+") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, cwd=cwd, env=_environment()
        )
        try:
            address = _address(Path(log.name), process)
            connection = HTTPConnection(address.removeprefix("http://"), timeout=20)
            kind = {"content-type": "application/json"}
            connection.request("POST", "/classify", json.dumps(TEXTS).encode(), kind)
            told = json.load(connection.getresponse())
            connection.close()
        finally:
            process.terminate()
            process.wait(20)
    odds = np.exp(truth["int8"].astype(np.float64))
    shares = (odds / odds.sum(axis=1, keepdims=True)).max(axis=1)
    off = float(np.abs(np.array([row["score"] for row in told]) - shares).max())
    return "int8" if off <= ATOL else f"int8 differs by {off:.1e}"


def _address(log: Path, process: Any) -> str:
    """Where a server says that it listens."""
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if found := re.search(r"http://[\d.]+:\d+", log.read_text()):
            return found[0]
        time.sleep(0.1)
    raise TimeoutError(log.read_text())


INTRODUCTION = """\
# What loads what

Written by `scripts/make_loads.py`, which writes a tiny pruned BERT in every layout and lets every
reader read each in a process of its own (`tests/loads.py`). A cell names the files that were read:
*PyTorch* are the weights, *float32* and *int8* the ONNX files. Logits of float files were within
1e-4 of PyTorch's, those of the int8 file within 1e-4 of what ONNX Runtime gives for it in Python. A
dash says that the layout holds nothing for this reader.

The first three rows are folders that a run leaves, by
[`pruning.layout`](deploying.md#who-loads-what); the others are what `hfprune export --layout` makes
of an uneven one. *examples/server* and *FastAPI* (the code of
[Deploying](deploying.md#a-service-with-fastapi)) were called over HTTP, and answer with
probabilities. text-embeddings-inference and Triton are not in this table: their folders are held
against their source and schema (`tests/deploy/test_layouts.py`).
"""


def table(results: Mapping[tuple[str, str], str], versions: Iterable[str] = ()) -> str:
    """docs/loads.md, of the cells by layout and reader."""
    errors: list[str] = []
    lines = [INTRODUCTION, f"| layout | {' | '.join(READERS)} |", f"|---|{'---|' * len(READERS)}"]
    for layout in LAYOUTS:
        cells = []
        for reader in READERS:
            said = results[layout, reader]
            if (layout, reader) in STATED and said != NOT_RUN:
                text = re.sub(r"\s+", " ", said).replace("`", "'").replace("|", "\\|")
                text = text if len(text) <= 200 else f"{text[:200]}…"
                if text not in errors:
                    errors.append(text)
                said = f"no [{errors.index(text) + 1}]"
            cells.append(said or "-")
        lines.append(f"| {layout} | {' | '.join(cells)} |")
    if errors:
        lines += ["", *(f"{number}. `{text}`" for number, text in enumerate(errors, 1))]
    if shown := ", ".join(versions):
        lines += ["", f"Run with {shown}."]
    return "\n".join(lines) + "\n"
