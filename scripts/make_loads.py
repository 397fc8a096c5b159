"""Read a pruned model in every layout with everything that is installed; docs/loads.md.

    python scripts/make_loads.py --python .venv-v5/bin/python --python intel/bin/python --node DIR

This interpreter must export ONNX (and OpenVINO). Each --python may bring readers that this one
lacks; --node is a folder in which `npm install --ignore-scripts @huggingface/transformers` was run.
What is nowhere is "not run". Exit status 1 if a reader reads something else than was written.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loads import Place

ROOT = Path(__file__).resolve().parent.parent
SHOWN = ("transformers", "optimum-onnx", "optimum-intel", "openvino", "onnxruntime", "fastapi")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--python", action="append", default=[], metavar="PYTHON")
    parser.add_argument("--node", type=Path, metavar="DIR")
    parser.add_argument(
        "--keep", type=Path, metavar="FILE", help="keep cells here, and do not run them again"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "docs/loads.md", metavar="FILE")
    options = parser.parse_args(arguments)

    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from loads import LAYOUTS, NOT_RUN, READERS, STATED, Place, file_name, prepare, read, table

    from hfprune.core.files import atomic_write_json, atomic_write_text

    kept: dict[str, str] = {}
    if options.keep is not None and options.keep.is_file():
        kept = json.loads(options.keep.read_text(encoding="utf-8"))
    pythons = tuple(os.path.abspath(python) for python in options.python)
    place = Place((sys.executable, *pythons), options.node and options.node.resolve())
    results, bad = {}, 0
    with tempfile.TemporaryDirectory() as name:
        truth = prepare(Path(name))
        for layout in LAYOUTS:
            for reader in READERS:
                cell = f"{layout} | {reader}"
                said = kept.get(cell)
                if said is None:
                    said = read(reader, Path(name) / file_name(layout), truth[layout], place)
                results[layout, reader] = kept[cell] = said.replace(name, "...")
                if options.keep is not None:
                    atomic_write_json(options.keep, kept)
                fine = {"", NOT_RUN, *truth[layout]}
                wanted = STATED.get((layout, reader))
                good = set(said.split(", ")) <= fine if wanted is None else wanted in said
                bad += not (good or said == NOT_RUN)
                print(f"{cell}: {results[layout, reader]}", file=sys.stderr)
    atomic_write_text(options.output, table(results, versions(place)))
    print(f"wrote {options.output.name}")
    return int(bad > 0)


def versions(place: Place) -> list[str]:
    """What was run, each version once."""
    from loads import installed

    found: dict[str, list[str]] = {}
    for python in place.pythons:
        for package, version in installed(python).items():
            if package in SHOWN and version not in found.setdefault(package, []):
                found[package].append(version)
    told = [f"{name} {' and '.join(found[name])}" for name in SHOWN if name in found]
    if place.node is not None:
        package = place.node / "node_modules/@huggingface/transformers/package.json"
        told.append(f"Transformers.js {json.loads(package.read_text())['version']}")
    return told


if __name__ == "__main__":
    sys.exit(main())
