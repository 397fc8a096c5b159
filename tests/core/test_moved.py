"""Old import paths of documented names: they work, and say where to go."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from hfprune.core.moved import MOVED, MovedFinder, install, names_of

ROOT = Path(__file__).resolve().parents[2]

# What the reference, the guides, the notebooks and the scripts of version 0.1.0 imported, before
# the modules became packages. Written down from them, not from the table.
DOCUMENTED = """
benchmark: batches_for count_parameters measure_latency onnx_runner ratios torch_runner
checkpoint: from_pretrained
compress: prune_without_training
cost: parameter_costs
errors: HFPruneError RecipeError UnsupportedModelError MissingExtraError CheckpointError DataError
errors: PlanError ExportError TrainingError OutputError HubError
export: MODEL_FILE QUANTIZED_FILE export_onnx quantize_onnx OnnxClassifier
files: atomic_directory atomic_write_json atomic_write_text sha256_file
gates: Gates
inspection: inspect Inspection LayerReport
latency: latency_table
plan: PruningPlan BlockKey
recipe: load_recipe parse_recipe dump_recipe recipe_schema Recipe PruningConfig DistillationConfig
recipe: QuantizationConfig ExportConfig DataConfig ModelConfig TeacherConfig TrainingConfig
recipe: RecoveryConfig VocabularyConfig EvaluationConfig BenchmarkConfig HubConfig
recipe: Task METRICS DEFAULT_METRICS LOWER_IS_BETTER
schedule: ScheduleKind fraction
sentences: load_encoder SentenceEncoder save_encoder
structure: adapter_of block_views model_sizes Adapter BlockView Producer Skip PassZero
structure.base: Adapter BlockView Producer Skip PassZero PassInputTuple PassResidual PassOver
structure.bert: BertAdapter
structure.registry: adapter_for supported_model_types
surgery: shrink_
trainer: HFPruneTrainer last_checkpoint
vocabulary: reduce_vocabulary_
"""
NAMES = [
    (f"hfprune.{module}", name)
    for line in DOCUMENTED.split("\n")
    if line
    for module, names in [line.split(": ")]
    for name in names.split()
]


def old(module: str, name: str) -> tuple[Any, list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        namespace: dict[str, Any] = {}
        exec(f"from {module} import {name} as found", namespace)  # noqa: S102
    ours = [w for w in caught if "hfprune" in str(w.message)]
    return namespace["found"], ours


@pytest.mark.parametrize(("module", "name"), NAMES, ids=[".".join(pair) for pair in NAMES])
def test_an_old_path_works_and_names_the_new_one(module: str, name: str) -> None:
    found, caught = old(module, name)
    place = MOVED.get(module, {})
    new = place if isinstance(place, str) else place.get(name)
    if new is None:  # a package now, which holds the name itself
        assert module == "hfprune.recipe"
        assert not caught
        return
    assert found is getattr(importlib.import_module(new), name)
    assert {str(warning.message) for warning in caught} == {
        f"{module}.{name} is {new}.{name} now; the old place goes with the next version"
    }
    assert {warning.category for warning in caught} == {DeprecationWarning}
    assert {warning.filename for warning in caught} == {"<string>"}  # who asked, not this library


def test_a_run_is_where_it_was() -> None:
    found, caught = old("hfprune.pipeline", "run")
    assert callable(found)
    assert not caught


@pytest.mark.parametrize("module", MOVED)
def test_every_line_of_the_table_leads_somewhere(module: str) -> None:
    place = MOVED[module]
    for name in names_of(module):
        new = place if isinstance(place, str) else place[name]
        assert hasattr(importlib.import_module(new), name), f"{module}.{name} -> {new}"


def test_no_old_module_hides_one_that_exists() -> None:
    for module in MOVED:
        path = ROOT.joinpath(*module.split("."))
        exists = path.is_dir() or path.with_suffix(".py").is_file()
        assert exists == (module == "hfprune.recipe"), module


def test_names_that_never_were_are_no_attributes() -> None:
    trainer = importlib.import_module("hfprune.trainer")
    with pytest.raises(AttributeError, match="module 'hfprune.trainer' has no attribute 'Nothing'"):
        trainer.Nothing  # noqa: B018
    gates = importlib.import_module("hfprune.gates")
    with pytest.raises(AttributeError, match="its names are in hfprune.pruning.gates now"):
        gates.Nothing  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Nothing' from 'hfprune.recipe'"):
        old("hfprune.recipe", "Nothing")
    with pytest.raises(ModuleNotFoundError, match="No module named 'hfprune.nothing'"):
        importlib.import_module("hfprune.nothing")
    assert not hasattr(trainer, "__path__")
    assert dir(trainer) == sorted(names_of("hfprune.trainer"))


@pytest.mark.slow
def test_a_function_of_the_same_name_can_still_be_called() -> None:
    """Importing a module binds its name in the package: ``compress`` is a function there."""
    program = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "from hfprune.compress import prune_without_training\n"
        "import hfprune\n"
        "from hfprune import compress\n"
        "try:\n    compress('no/such/model', 'rows.csv')\n"
        "except TypeError as error:\n    print(error)\n"
        "from hfprune.api.compress import compress as new\n"
        "print(compress.__wrapped__ is new, hfprune.compress is compress)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    told, same = result.stdout.splitlines()
    assert told == "compress() takes 1 positional argument but 2 were given"
    assert same == "True True"


def test_it_is_installed_once_and_costs_nothing() -> None:
    install()
    assert sum(isinstance(finder, MovedFinder) for finder in sys.meta_path) == 1
    program = (
        "import sys, warnings; warnings.simplefilter('error'); import hfprune, hfprune.trainer\n"
        "print('torch' in sys.modules)\n"
        "import hfprune.structure.bert as old\n"
        "try:\n    old.BertAdapter\n"
        "except DeprecationWarning as error:\n    print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    first, second = result.stdout.splitlines()
    assert first == "False"
    assert second.startswith("hfprune.structure.bert.BertAdapter is hfprune.families.bert.")
