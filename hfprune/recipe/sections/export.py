"""Which files are written for deployment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from hfprune.recipe.places import Clash
from hfprune.recipe.sections.base import MOST, MOST_WEIGHT, Name, Section, twice


class QuantizationConfig(Section):
    """Quantization to int8; the keys are spelled as in Optimum's configurations."""

    instruction_set: Literal["auto", "avx2", "avx512", "avx512_vnni", "arm64"] = Field(
        default="auto", description="CPU that the model will run on; auto: this machine's."
    )
    activations: Literal["per_batch", "constant"] = Field(
        default="per_batch",
        description="Scales of activations. per_batch: computed while running, one for a whole "
        "padded batch, so that a prediction depends a little on what else is in it; constant: "
        "fixed by a calibration run on training rows, one an activation, by hfprune itself: the "
        "same prediction at every batch size, and less work.",
    )
    activation_range: Literal["min_max", "percentile", "least_squares"] = Field(
        default="least_squares",
        description="Which values the constant scales hold (activations: constant only). min_max: "
        "all that the calibration saw; percentile: 99.99% of them; least_squares: what makes the "
        "squared error of rounding and cutting least.",
    )
    is_static: bool = Field(
        default=False,
        description="Fix the scales of activations by ONNX Runtime's static tool (smallest and "
        "largest value of a calibration run), instead of computing them for each input.",
    )
    per_channel: bool = Field(
        default=False, description="One scale for each output channel of a weight, not one in all."
    )
    reduce_range: bool | None = Field(
        default=None, description="7-bit weights; null: where the instruction set needs it."
    )
    operators_to_quantize: Annotated[list[Name], Field(min_length=1)] | None = Field(
        default=None, description="ONNX operators to quantize; null: the usual ones."
    )
    nodes_to_exclude: list[Name] = Field(
        default=[], description="Names of ONNX nodes that stay in float."
    )
    matmul_const_b_only: bool = Field(
        default=False,
        description="Quantize products with a weight only, not those of two activations (in "
        "attention).",
    )
    graph: Literal["exported", "lean", "lean_multihead", "lean_attention", "fused"] = Field(
        default="exported",
        description="Graph that is quantized: as exported; lean: without work for other tokens "
        "than the first where only that one is read, and without the slow fusion of residual "
        "additions; lean_multihead, lean_attention: also with attention as one operator, "
        "MultiHeadAttention or Attention; fused: all of ONNX Runtime's transformer fusions.",
    )
    embeddings: Literal["usual", "float32", "float16", "int8", "int4"] = Field(
        default="usual",
        description="How word embeddings are stored. usual: as the quantizer does it (int8, one "
        "scale in all); int8: one scale a row; int4: one scale a block of 32 columns.",
    )
    static_format: Literal["qdq", "qoperator"] = Field(
        default="qdq", description="Form of the static graph (is_static only)."
    )
    calibration_samples: int = Field(
        default=256,
        ge=1,
        le=MOST,
        description="Training rows of the calibration run (activations: constant, is_static).",
    )

    @property
    def needs_calibration(self) -> bool:
        """Whether quantizing so takes calibration rows."""
        return self.is_static or self.activations == "constant"

    def _clashes(self) -> Iterator[Clash]:
        # Compared with the default, not with "was it given": a dumped recipe gives every key.
        def changed(key: str) -> bool:
            return bool(getattr(self, key) != type(self).model_fields[key].default)

        constant = self.activations == "constant"
        if self.is_static and constant:
            yield Clash(
                "is_static and activations: constant both fix the scales of activations, by two "
                "tools: set is_static to false, or activations to per_batch",
                ("is_static", "activations"),
            )
        for key in ("calibration_samples", "static_format"):
            used = self.needs_calibration if key == "calibration_samples" else self.is_static
            if not used and changed(key):
                yield Clash(
                    f"{key} is only used with is_static: true: remove it, or set is_static: true",
                    (key, "is_static"),
                )
        if changed("activation_range") and not constant:
            yield Clash(
                "activation_range is only used with activations: constant: remove it, or set "
                "activations: constant",
                ("activation_range", "activations"),
            )
        for key in ("operators_to_quantize", "nodes_to_exclude"):
            yield from twice(key, getattr(self, key) or [])


class ExportConfig(Section):
    """Export to ONNX."""

    opset: Annotated[int, Field(ge=11, le=1000)] | None = Field(
        default=None, description="ONNX operator set; null: the exporter's choice for the model."
    )
    quantization: QuantizationConfig | Literal["auto"] | None = Field(
        default="auto",
        description="Also write an int8 model. auto: the fastest as measured on this machine that "
        "keeps the metric on the validation rows, beside what else `deploy` chooses among; a "
        "section: these settings; null: float only.",
    )
    temperature: bool = Field(
        default=True,
        description="Divide the logits by a number that is fitted on the validation rows, if "
        "probabilities then mean more (and of tasks without classes nothing). Predictions stay; "
        "the head's last projection has it, so every file and runtime does. A Trainer does so only "
        "where it is told to: the model is in the user's hands.",
    )
    quantization_seconds: float = Field(
        default=120.0,
        gt=0,
        le=MOST,
        description="Time for the search of int8 settings (quantization: auto with deploy: null); "
        "what was not tried by then is not.",
    )
    max_quantization_drop: float = Field(
        default=0.002,
        ge=0,
        le=MOST_WEIGHT,
        description="How much of the first metric a file may lose against float32: it is refused "
        "where it is shown to lose more (quantization: auto, and deploy).",
    )

    def _clashes(self) -> Iterator[Clash]:
        # max_quantization_drop is also for what `deploy` chooses, which the whole recipe knows.
        key = "quantization_seconds"
        default = type(self).model_fields[key].default
        if self.quantization != "auto" and getattr(self, key) != default:
            yield Clash(
                f"{key} is only used with quantization: auto: remove it, or set quantization to "
                "auto",
                (key, "quantization"),
            )


class DeployConfig(Section):
    """Which file is recommended for deployment: among runtimes, precisions and graphs.

    The dense model gets the same search, so that speed-ups can be told over the best of it too.
    """

    cpu: Literal["here", "avx2", "avx512", "vnni", "amx", "arm64"] = Field(
        default="here",
        description="CPU that the model will run on. here: what is fastest is measured on this "
        "machine; another: what is safe and usually fast there, not measured.",
    )
    runtimes: Annotated[list[Name], Field(min_length=1)] = Field(
        default=["onnxruntime", "openvino"],
        description="Runtimes to choose among (onnxruntime, openvino, torch, and those of "
        "plug-ins); those whose packages are missing are passed over and told.",
    )
    seconds: float = Field(
        default=120.0,
        gt=0,
        le=MOST,
        description="Time for the choice of one model's files (cpu: here), dense or pruned; what "
        "usually wins is tried in any case.",
    )
    keep_all: bool = Field(
        default=False, description="Keep also the files that turned out slower (cpu: here)."
    )

    def _clashes(self) -> Iterator[Clash]:
        yield from twice("runtimes", self.runtimes)
        for key in ("seconds", "keep_all"):
            default = type(self).model_fields[key].default
            if self.cpu != "here" and getattr(self, key) != default:
                yield Clash(
                    f"{key} is only used with cpu: here, where files are measured: remove it, or "
                    "set cpu to here",
                    (key, "cpu"),
                )
