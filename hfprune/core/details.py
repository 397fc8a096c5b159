"""What is too long or too private for ``metrics.json``: training curves, rows that changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field

from hfprune.core.model_ref import DENSE, PRUNED, ModelRef
from hfprune.core.records import Part
from hfprune.core.results import RESULTS_VERSION, read_json, validated

DETAILS_FILE: Final = "details.json"


class TrainingLog(Part):
    """One training: of which model (its label), in which stage, and the Trainer's log history."""

    model: str
    stage: str
    log: list[dict[str, Any]]


class Details(Part):
    """What is too long or too private for ``metrics.json``, which is published.

    Attributes:
        training: in the order in which the models were trained.
        changed: by name of a model, the test rows whose prediction changed.
    """

    format_version: Literal[1] = RESULTS_VERSION
    training: list[TrainingLog] = Field(default_factory=list)
    changed: dict[str, list[dict[str, Any]]] = Field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As it is written: all parts, also where they are empty."""
        return self.model_dump(mode="json")

    def member_details(self, label: str) -> Details:
        """The details of one model of a family, as if it had been the only one."""
        owners = {DENSE: DENSE, label: PRUNED}
        changed = {}
        for name, rows in self.changed.items():
            ref = ModelRef.parse(name)
            if ref.label in owners:
                changed[str(ref.of(owners[ref.label]))] = rows
        return self.model_copy(
            update={
                "training": [
                    entry.model_copy(update={"model": owners[entry.model]})
                    for entry in self.training
                    if entry.model in owners
                ],
                "changed": changed,
            }
        )


def read_details(folder: str | Path, needed_by: str = "hfprune") -> Details:
    """The details in the folder of a finished run; empty where there are none.

    Raises:
        OutputError: they cannot be read.
    """
    file = Path(folder) / DETAILS_FILE
    if not file.is_file():
        return Details()
    return validated(Details, read_json(file), file, needed_by)
