"""The work folder: whose it is, and which results of stages in it may be taken again.

A result is kept under everything that it follows from: this version of hfprune, the recipe, the
rows, the model, and the results of earlier stages. It is taken again only where all of that is
the same and the files that it stands for have the content that they had. Otherwise the stage is
repeated, and the reason told.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from hfprune.core.errors import CheckpointError
from hfprune.core.files import atomic_write_json, atomic_write_text, remove_leftovers, sha256_file
from hfprune.core.ownership import is_marked, make_marked, remove_marked, require_ours
from hfprune.core.version import __version__
from hfprune.pipeline.fingerprint import digest_of
from hfprune.pipeline.results import StageResult
from hfprune.training.checkpoints import last_checkpoint

FORMAT: Final = 2
RECORD: Final = "stages.json"
RECIPE_FILE: Final = "recipe.yaml"
CHECKPOINTS: Final = "checkpoints"
WORK_SUFFIX: Final = ".work"
# The work of a finished run, while it is being deleted.
SPENT_SUFFIX: Final = ".work.done"
# How the inputs of stages are called in what is told.
_TOLD: Final = {
    "hfprune": "the version of hfprune",
    "data": "the data",
    "model": "the model to start from",
    "unlabeled": "unlabeled_dataset",
    "recipe": "the recipe",
    "evaluation": "a file that evaluation names",
}

ResultT = TypeVar("ResultT", bound=StageResult)


class StageStore:
    """Results of stages in the work folder of one output.

    One process, the main one, opens and writes it, under the lock of the output.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = output.with_name(output.name + WORK_SUFFIX)
        self.spent = output.with_name(output.name + SPENT_SUFFIX)
        self._record: dict[str, Any] = {}
        self._base: dict[str, str] = {}
        self._used: list[str] = []

    # -- the folder -----------------------------------------------------------------------------

    def check(self) -> None:
        """Refuse folders with the names that a run needs that hfprune did not make.

        Raises:
            OutputError: names the folder.
        """
        require_ours(self.folder, "the work of a run")
        require_ours(self.spent, "the work of a finished run")

    def open(self, recipe: str, text: str, *, resume: bool, overwrite: bool) -> None:
        """Find out how far an earlier run came, or begin.

        Args:
            recipe: digest of what the results follow from.
            text: the recipe itself, kept beside the results.

        Raises:
            CheckpointError: the folder holds an unfinished run and the recipe does not say what to
                do with it, or one of another recipe, or its record is damaged.
        """
        self.remove_leftovers()
        if is_marked(self.folder):
            begun = self._begun()
            if not begun or (overwrite and not resume):
                remove_marked(self.folder)
            elif not resume:
                raise CheckpointError(
                    f"{self.folder} holds an unfinished run; add resume=true to go on with it, "
                    "or overwrite=true to start afresh"
                )
        if not is_marked(self.folder):
            make_marked(self.folder, output=self.output.name, version=__version__)
        self._record = self._read() if resume else {}
        if self._record and self._record["recipe"] != recipe:
            raise CheckpointError(
                f"{self.folder} was begun with another recipe; resume with the recipe in "
                f"{self.folder / RECIPE_FILE}, or set overwrite=true to start afresh"
            )
        self._record = self._record or {"format": FORMAT, "recipe": recipe, "stages": {}}
        self._base = {"hfprune": __version__, "recipe": recipe}
        self._write()
        atomic_write_text(self.folder / RECIPE_FILE, text)

    def _begun(self) -> bool:
        """Whether anything is there that is worth going on with."""
        try:
            record = self._read()
        except CheckpointError:
            return True
        return bool(record.get("stages")) or any(self.folder.glob(f"{CHECKPOINTS}/*/checkpoint-*"))

    def follow_from(self, **inputs: str | None) -> None:
        """Further inputs that all stages follow from, as digests."""
        self._base |= {name: value for name, value in inputs.items() if value is not None}

    def remove(self) -> None:
        """Delete the work of a finished run, in one step: half of it would look unfinished."""
        self.remove_leftovers()
        self.folder.rename(self.spent)
        self.remove_leftovers()

    def remove_leftovers(self) -> None:
        """Delete what a killed run left of writing its output and deleting its work."""
        remove_leftovers(self.output)
        remove_marked(self.spent)

    # -- results --------------------------------------------------------------------------------

    def inputs_of(self, after: Mapping[str, StageResult]) -> dict[str, str]:
        """What a stage follows from, by digest: the base, and these results with their files."""
        return self._base | {
            name: digest_of(
                result.model_dump(mode="json"), [self._content(place) for place in result.sources()]
            )
            for name, result in after.items()
        }

    def take(self, name: str, kind: type[ResultT], inputs: Mapping[str, str]) -> ResultT | str:
        """An earlier result of a stage, or why there is none: empty if it was never done."""
        entry = self._record["stages"].get(name)
        if entry is None:
            return ""
        changed = [key for key in {**entry["inputs"], **inputs}
                   if entry["inputs"].get(key) != inputs.get(key)]  # fmt: skip
        if changed:
            told = " and ".join(_TOLD.get(key, f"the result of {key!r}") for key in sorted(changed))
            return f"{told} changed"
        for path, digest in entry["files"].items():
            file = self.folder / path
            if not file.is_file():
                return f"{path} is gone"
            if sha256_file(file) != digest:
                return f"{path} is not as it was written"
        try:
            found = kind.model_validate(entry["result"])
        except ValidationError as error:
            return f"its record is damaged ({error.errors()[0]['msg']})"
        self._used.append(name)
        return found

    def put(
        self, name: str, result: StageResult, inputs: Mapping[str, str], seconds: float
    ) -> None:
        """Keep the result of a stage that has just been done."""
        files: dict[str, str] = {}
        for place in result.places():
            path = self.folder / place
            found = sorted(path.rglob("*")) if path.is_dir() else [path]
            files |= {
                file.relative_to(self.folder).as_posix(): sha256_file(file)
                for file in found
                if file.is_file()
            }
        self._record["stages"][name] = {
            "inputs": dict(inputs),
            "result": result.model_dump(mode="json", exclude_unset=True),
            "files": files,
            "seconds": round(seconds, 1),
        }
        self._used.append(name)
        self._write()

    def seconds(self) -> dict[str, float]:
        """How long each stage of this run took, in the order in which they were come to."""
        return {name: self._record["stages"][name]["seconds"] for name in self._used}

    def digest(self, place: str) -> str:
        """Of the files of a folder that some stage left, by name."""
        return digest_of({os.path.relpath(p, place): d for p, d in self._content(place).items()})

    def _content(self, place: str) -> dict[str, str]:
        """Digests of the files at a place, as the stage that wrote them recorded them."""
        return {
            path: digest
            for entry in self._record["stages"].values()
            for path, digest in entry["files"].items()
            if path == place or path.startswith(f"{place}/")
        }

    # -- checkpoints ----------------------------------------------------------------------------

    def checkpoint(
        self,
        stage: str,
        inputs: Mapping[str, str],
        needed: tuple[str, ...] = (),
        tell: Callable[[str], object] | None = None,
    ) -> Path | None:
        """The newest whole checkpoint of a training whose inputs are still the same.

        Checkpoints of other inputs are deleted; ``tell`` is given what of others is not whole.
        """
        folder = self.folder / CHECKPOINTS / stage
        about = folder / "inputs.json"
        if folder.is_dir() and _read_json(about) != dict(inputs):
            shutil.rmtree(folder)
        found = last_checkpoint(folder, needed, tell)
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write_json(about, dict(inputs))
        return found

    # -- the record -----------------------------------------------------------------------------

    def _read(self) -> dict[str, Any]:
        file = self.folder / RECORD
        if not file.is_file():
            return {}
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            for entry in record["stages"].values():
                _ = entry["inputs"], entry["result"], entry["files"].items(), entry["seconds"]
            if record["format"] != FORMAT or not isinstance(record["recipe"], str):
                raise ValueError(f"format {record['format']}, expected {FORMAT}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{file} is damaged ({type(error).__name__}: {error}); set overwrite=true "
                "and resume=false to start afresh"
            ) from error
        found: dict[str, Any] = record
        return found

    def _write(self) -> None:
        atomic_write_json(self.folder / RECORD, self._record)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
