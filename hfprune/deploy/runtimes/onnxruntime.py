"""ONNX files on the CPU, by ONNX Runtime: float32 in several graphs, and int8."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from hfprune.core.errors import ExportError, MissingExtraError
from hfprune.core.kinds import output_of
from hfprune.deploy.files import MODEL_FILE, OPTIMIZED_FILE, QUANTIZED_FILE, onnx_files, require
from hfprune.deploy.quantize.outcome import CONSTANT, USUAL
from hfprune.deploy.quantize.quantizing import prepare_graph, quantize_onnx
from hfprune.deploy.runtimes.base import Offer, Runtime, name_of, reader_class, reading
from hfprune.deploy.runtimes.onnx_session import OnnxClassifier as OnnxClassifier
from hfprune.deploy.staging import copy_of_export, data_files, save_graph, staged
from hfprune.recipe.sections.export import QuantizationConfig


class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU: ``onnx/model.onnx`` and ``onnx/model_quantized.onnx``."""

    name: ClassVar[str] = "onnxruntime"
    title: ClassVar[str] = "ONNX Runtime"
    forms: ClassVar[dict[str, str]] = {"float32": "ONNX", "int8": "int8"}

    def missing(self) -> str | None:
        try:
            require("onnxruntime")
        except MissingExtraError as error:
            return str(error)
        return None

    def files(self, folder: str | Path) -> dict[str, Path]:
        return onnx_files(folder)

    def open(
        self, path: str | Path, threads: int = 1, precision: str | None = None
    ) -> OnnxClassifier:
        if precision not in (None, *self.forms):
            raise ExportError(
                f"ONNX Runtime computes an ONNX file in the precision that it was written in "
                f"({' or '.join(self.forms)}), not in {precision}"
            )
        return OnnxClassifier(path, threads)

    def offers(self) -> Sequence[Offer]:
        multihead = CONSTANT.model_copy(update={"graph": "lean_multihead"})
        return (
            Offer("int8", CONSTANT.graph, CONSTANT, prior=0),
            Offer("float32", "lean_attention", prior=2),
            Offer("int8", multihead.graph, multihead, prior=3),
            Offer("float32", "exported", prior=4),
            Offer("int8", USUAL.graph, USUAL, prior=20),
            Offer("float32", "lean_multihead", prior=21),
        )

    def place(self, offer: Offer) -> str:
        if offer.precision == "int8":
            return f"onnx/{QUANTIZED_FILE}"
        return f"onnx/{MODEL_FILE if offer.graph == 'exported' else OPTIMIZED_FILE}"

    def write(
        self,
        onnx_dir: str | Path,
        target: str | Path,
        offer: Offer,
        *,
        calibration: Any = None,
        ranges: dict[str, Any] | None = None,
    ) -> Path:
        source, file = Path(onnx_dir) / MODEL_FILE, Path(target) / Path(self.place(offer)).name
        if offer.precision not in self.forms:
            raise ExportError(f"ONNX Runtime writes {' or '.join(self.forms)} files, no {offer}")
        with staged(Path(target)) as staging:
            work = Path(tempfile.mkdtemp(dir=staging)) / "onnx"
            copy_of_export(source.parent, work)
            if offer.settings is not None:
                made = quantize_onnx(
                    work,
                    offer.settings,
                    calibration=calibration,
                    file_name=file.name,
                    ranges=ranges,
                )
            else:
                graph = QuantizationConfig.model_validate({"graph": offer.graph})
                made = prepare_graph(work / MODEL_FILE, graph, work)
            if data_files(made):  # whose name the graph holds
                save_graph(require("onnx").load(str(made)), staging / file.name)
            else:
                shutil.copy2(made, staging / file.name)
            shutil.rmtree(work.parent)
        return file

    def how_to_load(self, path: str, task: str) -> tuple[str, ...]:
        kind = reader_class(task)
        return (
            f"import onnxruntime; from transformers import {kind}",
            f'model, reader = onnxruntime.InferenceSession("{path}"), {kind}.from_pretrained(".")',
            f"batch = {reading(task, types=True)}; "
            "feed = {i.name: batch[i.name] for i in model.get_inputs()}; "
            f'{name_of(task)} = model.run(["{output_of(task)}"], feed)[0]',
        )
