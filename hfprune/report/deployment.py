"""Which files to deploy, for the report's page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hfprune.core.model_ref import DENSE
from hfprune.core.results import RunResults
from hfprune.deploy.choose.told import Told, recommended_files


@dataclass(frozen=True)
class DeploymentPart:
    """The table of recommended files.

    Attributes:
        rows: of the pruned models and the dense one, by use.
        notes: what to know of the choice, by label.
        targets: in words.
    """

    rows: Sequence[Told]
    notes: Sequence[tuple[str, str]]
    targets: Sequence[str]


def deployment_part(results: RunResults) -> DeploymentPart | None:
    """What the page shows of the choice of files; ``None`` where nothing was chosen or asked."""
    rows = [
        told for label in (*results.members, DENSE) for told in recommended_files(results, label)
    ]
    notes = dict.fromkeys((told.label, note) for told in rows for note in told.notes)
    targets = [
        f"{label}: {target.text()}" if results.family else target.text()
        for label, target in (results.targets or {}).items()
    ]
    return DeploymentPart(rows, list(notes), targets) if rows or targets else None
