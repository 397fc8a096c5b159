"""`ModelRef`: which model, in which form, a number or a file belongs to.

>>> ref = ModelRef("6x", "int8")
>>> str(ref), ref.runtime, ref.precision
('6x int8', 'onnxruntime', 'int8')
>>> ModelRef.parse("dense PyTorch").is_dense
True
"""

from __future__ import annotations

from typing import Final, NamedTuple

from hfprune.core.errors import OutputError

DENSE: Final = "dense"
PRUNED: Final = "pruned"


class Form(NamedTuple):
    """A file format, the precision of what is computed, what executes it, and which graph."""

    format: str
    precision: str
    runtime: str
    graph: str = "usual"


FORMS: Final[dict[str, Form]] = {
    "PyTorch": Form("pytorch", "float32", "torch"),
    "PyTorch-bf16": Form("pytorch", "bf16", "torch"),
    "ONNX": Form("onnx", "float32", "onnxruntime"),
    "ONNX-lean": Form("onnx", "float32", "onnxruntime", "rewritten"),
    "int8": Form("onnx", "int8", "onnxruntime"),
    "OpenVINO": Form("openvino", "float32", "openvino"),
    "OpenVINO-bf16": Form("openvino", "bf16", "openvino"),
}
"""Forms by the word that stands for them in results, tables and cards."""


class ModelRef(NamedTuple):
    """A model of a run in one of its forms.

    Attributes:
        label: ``dense``, ``pruned``, or of a family the speed-up, such as ``6x``; without spaces.
        form: a key of :data:`FORMS`.
    """

    label: str
    form: str

    def __str__(self) -> str:
        return f"{self.label} {self.form}"

    @property
    def format(self) -> str:
        """``pytorch``, ``onnx`` or ``openvino``."""
        return FORMS[self.form].format

    @property
    def precision(self) -> str:
        """``float32``, ``bf16`` or ``int8``."""
        return FORMS[self.form].precision

    @property
    def runtime(self) -> str:
        """``torch``, ``onnxruntime`` or ``openvino``."""
        return FORMS[self.form].runtime

    @property
    def is_dense(self) -> bool:
        """Whether it is the model that was pruned, before it was."""
        return self.label == DENSE

    def of(self, label: str) -> ModelRef:
        """The same form of another model."""
        return ModelRef(label, self.form)

    @classmethod
    def parse(cls, name: str) -> ModelRef:
        """The model that a name in results stands for.

        Raises:
            OutputError: for a name that is none.
        """
        label, _, form = name.partition(" ")
        if not label or form not in FORMS:
            raise OutputError(
                f"{name!r:.80} is no name of a model: expected a label and one of "
                f"{', '.join(FORMS)}, for example 'dense ONNX'"
            )
        return cls(label, form)


BASELINE: Final = ModelRef(DENSE, "ONNX")
"""What speed-ups are relative to."""
REFERENCE: Final = ModelRef(DENSE, "PyTorch")
"""What changes of the metrics are relative to."""
