"""What :func:`hfprune.compress` gives back: a finished run, and what one does with it."""

from __future__ import annotations

import html
import shutil
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

from hfprune.core.files import atomic_directory
from hfprune.core.model_ref import BASELINE, PRUNED, REFERENCE
from hfprune.core.results import RunResults, read_results


class Compressed:
    """A pruned model with its files and what was measured of it.

    Attributes:
        folder: the output folder, as a recipe's run leaves it.
        results: all that was measured.
        members: of a family, its models by label (``"6x"``); empty for a single model.
    """

    def __init__(
        self, folder: str | Path, keeper: tempfile.TemporaryDirectory[str] | None = None
    ) -> None:
        self.folder = Path(folder)
        self.results: RunResults = read_results(self.folder)
        self._keeper = keeper  # the folder is temporary, and goes with the last of these objects
        self.members: dict[str, Compressed] = {}
        if self.results.family is not None:
            self.members = {
                label: Compressed(self.folder / label, keeper) for label in self.results.family
            }

    @cached_property
    def model(self) -> Any:
        """The pruned model in PyTorch, in eval mode; of a family the fastest.

        Of sentence embeddings its outputs are embeddings: ``model(**batch).logits``; texts are
        embedded by ``hfprune.load_encoder(small.folder)``.
        """
        from hfprune.models.saved import load_saved, load_saved_classifier

        if self.results.task == "sentence_embedding":
            return load_saved_classifier(str(self._single.folder))
        return load_saved(str(self._single.folder))

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer (or image processor) that the model reads with."""
        from transformers import AutoImageProcessor, AutoTokenizer

        if self.results.task == "image_classification":
            return AutoImageProcessor.from_pretrained(
                self._single.folder, use_fast=False, trust_remote_code=False
            )
        return AutoTokenizer.from_pretrained(self._single.folder, trust_remote_code=False)

    @property
    def metrics(self) -> dict[str, float]:
        """Of the file to deploy: the metrics on the test rows, ``dense_<metric>`` of the model
        before, ``speedup`` over it as float32 ONNX at the first shape, and ``megabytes``."""
        results = self._single.results
        ref = results.served(PRUNED)
        shape = results.benchmark.shapes()[0]
        quality = results.evaluation.models
        return {
            **quality[str(ref)].metrics,
            f"dense_{results.primary}": quality[str(REFERENCE)].metrics[results.primary],
            "speedup": results.benchmark.times()[str(ref), shape].speedup,
            "megabytes": results.benchmark.file_bytes[str(ref)] / 1e6,
        }

    @property
    def _single(self) -> Compressed:
        return list(self.members.values())[-1] if self.members else self

    def save(self, folder: str | Path) -> Path:
        """Copy everything (model, ONNX files, report, results) into a new folder.

        Raises:
            OutputError: the folder is there and not empty, or cannot be written.
        """
        with atomic_directory(folder) as place:
            shutil.copytree(self.folder, place, dirs_exist_ok=True)
        return Path(folder)

    def export(self, folder: str | Path) -> Path:
        """Copy what a server needs (ONNX files, config, tokenizer) into a new folder.

        Of a family: of the fastest member.

        Raises:
            OutputError: the folder is there and not empty, or cannot be written.
        """
        with atomic_directory(folder) as place:
            shutil.copytree(self._single.folder / "onnx", place, dirs_exist_ok=True)
        return Path(folder)

    def __repr__(self) -> str:
        told = [f"{name} {value:.4g}" for name, value in self.metrics.items()]
        return f"Compressed({str(self.folder)!r}: {', '.join(told)})"

    def _repr_html_(self) -> str:
        """A table for notebooks: a row a model, as it would be deployed."""
        results, shape = self.results, self.results.benchmark.shapes()[0]
        times = results.benchmark.times()
        refs = [BASELINE, *(results.served(label) for label in results.members)]
        head = ["model", results.primary, "interval", "ms", "speed-up", "MB"]
        rows = []
        for ref in refs:
            name, timing = str(ref), times[str(ref), shape]
            entry = results.evaluation.models[name]
            low, high = entry.interval
            size = results.benchmark.file_bytes[name] / 1e6
            rows.append(
                [name, f"{entry.metrics[results.primary]:.4f}", f"{low:.3f} to {high:.3f}",
                 f"{timing.median_ms:.2f}", f"{timing.speedup:.1f}x", f"{size:.1f}"]
            )  # fmt: skip
        cells = "".join(f"<th>{html.escape(text)}</th>" for text in head)
        body = "".join(
            f"<tr>{''.join(f'<td>{html.escape(text)}</td>' for text in row)}</tr>" for row in rows
        )
        unit = results.benchmark.length_unit
        caption = html.escape(f"batch {shape[0]}, {shape[1]} {unit}; {self.folder}")
        return f"<table><caption>{caption}</caption><tr>{cells}</tr>{body}</table>"
