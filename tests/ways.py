"""Every target and method by recipe, by Trainer and by compress: the same plan and weights.

``made`` goes through one case one way on a tiny model. ``scripts/make_ways.py`` runs all and writes
docs/ways.md; tests/api/test_ways.py runs some always and all as slow tests.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from safetensors import safe_open
from tiny import save_tiny_classifier, write_reviews
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import hfprune
from hfprune import HFPruneTrainer, Recipe
from hfprune.data.loading import load_task_data
from hfprune.deploy.speed.landing import Landing
from hfprune.measure.metrics import make_compute_metrics
from hfprune.pipeline.made import Made
from hfprune.pipeline.prepared import WEIGHTS, plan_in
from hfprune.pipeline.results import Validated
from hfprune.pipeline.run import run
from hfprune.pruning.cost import LatencyTable
from hfprune.report.console import Console
from hfprune.training.arguments import training_arguments

WAYS = ("recipe", "HFPruneTrainer", "compress")
# By label of the model, its plan as JSON and a digest of its weights.
Found = dict[str, tuple[str, str]]

GATES: dict[str, Any] = {"update_every_steps": 2}
SIZED = {**GATES, "min_neurons": 4}
SEARCHED: dict[str, Any] = {"method": "reconstruction", "search_rounds": 3, "scoring_samples": 32}
# Target, method -> the section pruning.
CASES: dict[tuple[str, str], dict[str, Any]] = {
    ("sparsity", "gates"): {"sparsity": 0.5, **SIZED},
    ("sparsity", "reconstruction"): {"sparsity": 0.5, **SEARCHED},
    ("speedup", "gates"): {"speedup": 2.0, **GATES},
    ("speedup", "reconstruction"): {"speedup": 2.0, **SEARCHED},
    ("several speedups", "gates"): {"speedup": [2.0, 4.0], **GATES},
    ("several speedups", "reconstruction"): {"speedup": [2.0, 4.0], **SEARCHED},
    ("max_metric_drop", "gates"): {"max_metric_drop": 0.05, **GATES},
    ("max_metric_drop", "reconstruction"): {"max_metric_drop": 0.05, **SEARCHED},
    ("keep_layers", "none"): {"keep_layers": [0, 2]},
    ("vocabulary and sparsity", "gates"): {"vocabulary": {}, "sparsity": 0.5, **SIZED},
    ("vocabulary and sparsity", "reconstruction"): {"vocabulary": {}, "sparsity": 0.5, **SEARCHED},
}
TRAINING: dict[str, Any] = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-3,
}

INTRODUCTION = """\
# The same result from a recipe, from Python, and in one call

Written by `scripts/make_ways.py`, which goes through every target and method three ways on a tiny
model (`tests/ways.py`): as a recipe (`hfprune.pipeline.run`, which `hfprune prune` calls), with
`HFPruneTrainer` from the same rows and arguments, and with `hfprune.compress`. Block times are the
same made-up table in all, since times that are measured differ from minute to minute.

*the same* says that the plans and all weights, of several speeds of each model, are those of the
recipe, bit for bit.
"""


def prepare(folder: Path) -> None:
    """The model and the rows that all ways start from."""
    save_tiny_classifier("bert", folder / "model")
    write_reviews(folder / "reviews.csv", 60)


def made(way: str, case: tuple[str, str], inputs: Path, folder: Path) -> Found:
    """What one way makes of a case.

    Args:
        inputs: as :func:`prepare` left it.
        folder: an empty one.
    """
    recovers = case[1] != "gates"
    values: dict[str, Any] = {
        "model": {"name_or_path": str(inputs / "model")},
        "teacher": {"name_or_path": str(inputs / "model")},
        "data": {"train_file": str(inputs / "reviews.csv"), "max_length": 32},
        "training": TRAINING,
        "pruning": CASES[case],
        "distillation": {"hidden_weight": 0.5},
        "recovery": {"num_train_epochs": 1 if recovers else 0},
        # Of itself a Trainer leaves logits as they were trained.
        "export": {"quantization": None, "temperature": False},
        "benchmark": {"batch_sizes": [1], "sequence_lengths": [16], "repeats": 1, "warmup": 0},
        "output_dir": str(folder / "out"),
    }
    with _made_up_times(), _unmeasured() as found:
        if way == "recipe":
            run(Recipe(**values), Console(quiet=True))
        elif way == "compress":
            compress(values, inputs)
        else:
            return _of(trained(Recipe(**values), folder)._after._made)
    return found


def compress(values: dict[str, Any], inputs: Path) -> None:
    """The recipe's values as arguments of the one call; rows as people have them in memory."""
    sections = {name: values[name] for name in ("training", "distillation", "export", "benchmark")}
    # What compress sets by itself, set back to the recipe's defaults.
    sections["training"] = {"bf16": False, "group_by_length": False, **values["training"]}
    sections["recovery"] = {
        "learning_rate": None, "freeze_embeddings": False, **values["recovery"],
    }  # fmt: skip
    targets = ("sparsity", "speedup", "max_metric_drop", "keep_layers")
    pruning = dict(values["pruning"])
    target = {name: pruning.pop(name) for name in targets if name in pruning}
    if "keep_layers" not in target:
        pruning.setdefault("method", "gates")
    with (inputs / "reviews.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    hfprune.compress(
        values["model"]["name_or_path"],
        train=rows,
        data={"max_length": 32},
        output_dir=values["output_dir"],
        pruning=pruning,
        quiet=True,
        **target,
        **sections,
    )


def trained(recipe: Recipe, folder: Path, **changes: Any) -> Any:
    """A Trainer of the recipe's rows and arguments, after ``train()``."""
    source = str(recipe.model.name_or_path)
    tokenizer = AutoTokenizer.from_pretrained(source)
    data = load_task_data(recipe.data, tokenizer, recipe.task)
    splits = {
        name: data.split(name).add_column("text", data.texts[name])
        for name in ("train", "validation", "test")
    }
    arguments: dict[str, Any] = {
        "train_dataset": splits["train"],
        "eval_dataset": splits["validation"],
        "test_dataset": splits["test"],
        "processing_class": tokenizer,
        "compute_metrics": make_compute_metrics(
            recipe.evaluation.metrics, data.task, data.num_labels, data.label_names
        ),
        "pruning": recipe.pruning,
        "distillation": recipe.distillation,
        "recovery": recipe.recovery,
        "export": recipe.export,
        "benchmark": recipe.benchmark,
        "teacher": source,
        **changes,
    }
    trainer = HFPruneTrainer(
        AutoModelForSequenceClassification.from_pretrained(source),
        training_arguments(recipe.training, folder / "trainer", disable_tqdm=True),
        **arguments,
    )
    trainer.train()
    trainer._after._current()  # of one training, kept only now
    return trainer


def _of(made: Made | None) -> Found:
    """What :class:`Made` holds."""
    if made is None:
        raise ValueError("nothing was made")
    found = {}
    for member in made.members.all:
        folder = made.context.path(member.model.folder)
        plan = json.dumps(plan_in(folder).to_dict(), sort_keys=True)
        found[member.label] = (plan, _weights(folder / WEIGHTS))
    return found


def _weights(file: Path) -> str:
    digest = hashlib.sha256()
    with safe_open(file, framework="np") as opened:
        for name in sorted(opened.keys()):
            digest.update(name.encode() + opened.get_tensor(name).tobytes())
    return digest.hexdigest()


@contextmanager
def _unmeasured() -> Iterator[Found]:
    """Runs end when their models are made: what these are worth is not asked."""
    found: Found = {}

    def looked_at(context: Any, prepared: Any, dense: Any, members: Any) -> Any:
        found.update(_of(Made(context, prepared, dense, members)))
        return Unmeasured()

    class Unmeasured:
        def to_json(self) -> dict[str, Any]:
            return {}

    with (
        patch("hfprune.pipeline.run._results", looked_at),
        patch("hfprune.api.compress.Compressed", lambda *args: None),
    ):
        yield found


@contextmanager
def _made_up_times() -> Iterator[None]:
    """A latency table worked by hand, on which every plan lands; drops by the speed alone."""
    from hfprune.families import model_sizes

    table = LatencyTable(
        batch_size=1,
        sequence_length=16,
        threads=1,
        baseline_ms=10.0,
        fixed_ms=0.4,
        attention=((0, 0.0), (1, 0.4), (4, 1.0)),
        ffn=((0, 0.0), (8, 0.2), (48, 1.0)),
    )

    def land(plan_for: Any, table: LatencyTable, *args: Any) -> Landing:
        plan = plan_for(table)
        return Landing(plan, table, table.speedup(plan.sizes()), table.speedup(plan.sizes()))

    def validate(context: Any, prepared: Any, model: Any, label: str) -> Validated:
        from hfprune.pipeline.stages.export import export

        exported = export(context, prepared, model, f"validation/{label}", label)
        metric = {"dense": 0.9, "3x": 0.88}.get(label, 0.5)
        return Validated(metric=metric, exported=exported)

    stages = "hfprune.pipeline.stages"
    with ExitStack() as stack:
        for name, value in (
            ("latency.latency_table", lambda *args, **kwargs: table),
            ("latency.calibrated", lambda table, *args: table),
            ("reconstruct.land", land),
            (
                "landed.speedup_at",
                lambda dense, file, model, table: table.speedup(model_sizes(model)),
            ),
            ("export.validate", validate),
        ):
            stack.enter_context(patch(f"{stages}.{name}", value))
        yield


def table(results: dict[tuple[str, str], dict[str, bool]]) -> str:
    """docs/ways.md; ``results`` say of each case which ways made what the recipe made."""
    lines = [INTRODUCTION]
    lines += [f"| target | method | {' | '.join(WAYS)} |", f"|---|---|{'---|' * len(WAYS)}"]
    for (target, method), same in results.items():
        cells = ["made", *("the same" if same[way] else "DIFFERS" for way in WAYS[1:])]
        lines.append(f"| {target} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
