"""Old places of documented names: they go on working for one version, with a warning.

``import hfprune`` installs a finder for modules that are no more. Such a module holds nothing;
asked for a name it says where that is now, and hands it over.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

_FAMILY_FILES: Final = (
    "albert",
    "base",
    "bert",
    "deberta",
    "distilbert",
    "gpt2",
    "llama",
    "modernbert",
    "mpnet",
    "registry",
    "vit",
)

# Old module -> the one place of all its names, or the place of each name.
MOVED: Final[Mapping[str, str | Mapping[str, str]]] = {
    "hfprune.benchmark": {
        **dict.fromkeys(("count_parameters", "count_macs", "file_size"), "hfprune.measure.sizes"),
        **dict.fromkeys(
            ("LatencyRow", "Ratio", "measure_latency", "latency_facts", "ratios"),
            "hfprune.measure.latency",
        ),
        **dict.fromkeys(
            (
                "Runner",
                "TorchRunner",
                "OnnxRunner",
                "torch_runner",
                "onnx_runner",
                "random_batches",
                "batches_for",
                "config_beside",
            ),
            "hfprune.measure.runners",
        ),
        "environment": "hfprune.measure.environment",
    },
    "hfprune.checkpoint": "hfprune.models.checkpoint",
    "hfprune.compress": {
        "prune_without_training": "hfprune.pruning.reconstruction.reconstruct",
        "Reconstruction": "hfprune.pruning.reconstruction.reconstruct",
    },
    "hfprune.cost": "hfprune.pruning.cost",
    "hfprune.errors": "hfprune.core.errors",
    "hfprune.export": {
        **dict.fromkeys(("MODEL_FILE", "QUANTIZED_FILE", "onnx_files"), "hfprune.deploy.files"),
        **dict.fromkeys(("quantize_onnx", "prepare_graph"), "hfprune.deploy.quantize.quantizing"),
        "export_onnx": "hfprune.deploy.exporters.exporting",
        "check_backend": "hfprune.deploy.exporters.backends",
        "check_parity": "hfprune.deploy.parity",
        "OnnxClassifier": "hfprune.deploy.runtimes.onnxruntime",
        "predict_logits": "hfprune.deploy.runtimes.predicting",
    },
    "hfprune.files": "hfprune.core.files",
    "hfprune.gates": "hfprune.pruning.gates",
    "hfprune.inspection": "hfprune.models.inspection",
    "hfprune.latency": {
        "latency_table": "hfprune.deploy.speed.table",
        **dict.fromkeys(
            ("land", "Landing", "measured_speedup", "calibrated"), "hfprune.deploy.speed.landing"
        ),
    },
    "hfprune.plan": {
        "PruningPlan": "hfprune.pruning.plan",
        **dict.fromkeys(
            ("BlockKey", "BlockKind", "KINDS", "UNIT_NAMES"), "hfprune.families.blocks"
        ),
    },
    "hfprune.recipe": dict.fromkeys(
        ("Task", "METRICS", "DEFAULT_METRICS", "LOWER_IS_BETTER"), "hfprune.core.tasks"
    ),
    "hfprune.schedule": "hfprune.pruning.schedule",
    "hfprune.sentences": "hfprune.models.sentences",
    "hfprune.structure": "hfprune.families",
    **{f"hfprune.structure.{file}": f"hfprune.families.{file}" for file in _FAMILY_FILES},
    "hfprune.surgery": "hfprune.pruning.surgery",
    "hfprune.trainer": {
        "HFPruneTrainer": "hfprune.api.trainer",
        "last_checkpoint": "hfprune.training.checkpoints",
        "checkpoint_files": "hfprune.training.checkpoints",
        "training_arguments": "hfprune.training.arguments",
    },
    "hfprune.vocabulary": {
        "reduce_vocabulary_": "hfprune.pruning.vocabulary.reduce",
        "kept_tokens": "hfprune.pruning.vocabulary.reduce",
        "reduced_tokenizer": "hfprune.pruning.vocabulary.tokenizer",
        "TokenReport": "hfprune.pruning.vocabulary.compare",
        "compare_tokens": "hfprune.pruning.vocabulary.compare",
    },
}


# Names of old modules that are functions of the package now, and where these are.
_FUNCTIONS: Final[Mapping[str, str]] = {"hfprune.compress": "hfprune.api.compress"}


def moved_name(module: str, name: str) -> Any:
    """The value of a name that was in ``module``; for a module's ``__getattr__``.

    Warns:
        DeprecationWarning: naming the new place, in the name of who asked.

    Raises:
        AttributeError: for a name that never was there, or is no more.
    """
    place = MOVED[module]
    # Names of Python itself, which the import machinery asks for, never moved.
    new = place if isinstance(place, str) else place.get(name)
    found = None if new is None or name.startswith("__") else import_module(new)
    if found is None or not hasattr(found, name):
        there = f"; its names are in {place} now" if isinstance(place, str) else ""
        raise AttributeError(f"module {module!r} has no attribute {name!r}{there}")
    warnings.warn(
        f"{module}.{name} is {new}.{name} now; the old place goes with the next version",
        DeprecationWarning,
        stacklevel=3,
    )
    return getattr(found, name)


def names_of(module: str) -> tuple[str, ...]:
    """The names that an old module hands over."""
    place = MOVED[module]
    if not isinstance(place, str):
        return tuple(place)
    found = import_module(place)
    return tuple(getattr(found, "__all__", [name for name in vars(found) if name[0] != "_"]))


class _Module(ModuleType):
    """An old module: nothing in it, but it knows where things went."""

    def __getattr__(self, name: str) -> Any:
        if name == "__all__":
            return list(names_of(self.__name__))
        return moved_name(self.__name__, name)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Once it is imported, an old module hides a function of its name in ``hfprune``."""
        return self.__wrapped__(*arguments, **keywords)

    @property
    def __wrapped__(self) -> Any:
        """The function, for the call and for ``inspect.signature``."""
        if self.__name__ not in _FUNCTIONS:
            raise AttributeError(f"module {self.__name__!r} has no attribute '__wrapped__'")
        return getattr(import_module(_FUNCTIONS[self.__name__]), self.__name__.rpartition(".")[2])

    def __dir__(self) -> Iterator[str]:
        return iter(names_of(self.__name__))


class MovedFinder(MetaPathFinder, Loader):
    """Finds old modules, after all that exist were looked for."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in MOVED:
            return None
        package = any(other.startswith(f"{fullname}.") for other in MOVED)
        return ModuleSpec(fullname, self, is_package=package)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name, "Moved: see hfprune.core.moved.")

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""


def install() -> None:
    """Let old modules be found; a second time changes nothing."""
    if not any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(MovedFinder())
