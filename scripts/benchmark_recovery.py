#!/usr/bin/env python
"""Ways of training what is left, side by side: the same pruned weights, the same teacher.

    python scripts/benchmark_recovery.py --recipe recipes/movie-reviews-minilm-speed.yaml \\
        --teacher TEACHER --pruned PRUNED \\
        --way "recovery.learning_rate=2e-4" \\
        --way "recovery.learning_rate=5e-4 distillation.dropout=false" --seeds 42 43

TEACHER is a fine-tuned model, PRUNED a model with its ``plan.json`` that has not been trained
since: a run keeps both in its work folder (``OUTPUT.work/teacher``, ``OUTPUT.work/10x-searched``)
until it ends. Each way is a list of recipe keys. For each way and seed the whole recovery of the
recipe is carried out, and the divergence from the teacher and the metric on the validation rows are
told, of classes the cross entropy to the labels too, which tells more from few rows; the test rows
are not looked at. What is finished is not repeated when the script is started again. Differences
are paired over the rows; what two trainings of one way differ by shows in the seeds alone. Where a
way has teachers of its own (``teacher.learn_from``), its divergence is from these.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # where it is loaded by its path
from scripting import carry_out, parser_of


def one_way(options: argparse.Namespace, way: str, seed: int) -> dict[str, Any]:
    """One recovery and what it came to."""
    from hfprune.core.machine import bfloat16_pays
    from hfprune.core.model_ref import PRUNED
    from hfprune.deploy.runtimes.predicting import predict_logits
    from hfprune.measure.embeddings import scorer
    from hfprune.measure.scores import score
    from hfprune.pipeline.context import Context
    from hfprune.pipeline.fingerprint import recipe_digest
    from hfprune.pipeline.prepared import keep
    from hfprune.pipeline.recovering import recovered
    from hfprune.pipeline.results import SavedModel
    from hfprune.pipeline.stages import data, teacher
    from hfprune.pipeline.stages.trial import by_rows
    from hfprune.recipe.reading import dump_recipe, load_recipe
    from hfprune.report.console import Console

    with tempfile.TemporaryDirectory(prefix="hfprune-recovery-") as name:
        changes = [*options.overrides, *way.split(), f"training.seed={seed}"]
        recipe = load_recipe(options.recipe, [*changes, f"output_dir={name}/out"])
        if recipe.training.bf16 == "auto":  # which a run notes as a stage, and here is no run
            changes.append(f"training.bf16={str(bfloat16_pays()).lower()}")
            recipe = load_recipe(options.recipe, [*changes, f"output_dir={name}/out"])
        context = Context.of(recipe, Console(quiet=options.quiet))
        context.store.open(recipe_digest(recipe), dump_recipe(recipe), resume=False, overwrite=True)
        prepared = data.prepare(context)
        prepared.taught.outside = teacher.outside(context, prepared)
        start = keep(
            context,
            prepared.load(context, str(options.teacher), None, key="--teacher", trained=True),
            "dense",
            prepared.dense.processor,
        )
        place = context.path("pruned")
        place.symlink_to(options.pruned.resolve(), target_is_directory=True)
        begin = time.process_time()
        found = recovered(context, prepared, PRUNED, start, SavedModel(folder="pruned"), {})
        seconds = time.process_time() - begin
        model, dense = prepared.saved(context, found.folder), prepared.teacher(context, start)
        rows = by_rows(context, prepared, model, dense)
        reading = prepared.small
        logits = predict_logits(model.eval(), reading.data.validation, reading.collator)
        metric, about = recipe.evaluation.metrics[0], reading.data
        logits = about.by_text("validation", logits)
        if recipe.task == "sentence_embedding":  # against the dense model's embeddings
            told = scorer(metric)(logits, prepared.taught.logits)
        else:
            labels = about.label_array("validation")
            told = score(metric, logits, labels, about.task, about.num_labels, about.label_names)
        losses = None
        if recipe.task == "single_label_classification":
            losses = cross_entropies(logits, labels)
        return {
            "way": way,
            "seed": seed,
            "rows": len(rows),
            "divergence": float(np.mean(rows)),
            "by_row": [round(float(value), 6) for value in rows],
            "metric": {metric: float(told)},
            "loss_by_row": losses,
            "processor_seconds": round(seconds, 1),
        }


def made_of(options: argparse.Namespace, recipe: Any) -> list[str | None]:
    """What may change behind the same names: the digests of models and of files of rows."""
    from hfprune.core.files import sha256_file
    from hfprune.pipeline.fingerprint import model_digest

    models = (options.teacher, options.pruned, *recipe.teacher.learn_from)
    data = recipe.data
    files = (data.train_file, data.validation_file, data.unlabeled_file)
    there = [Path(file) for file in files if file is not None and Path(file).is_file()]
    return [*(model_digest(str(name), None) for name in models), *map(sha256_file, there)]


def cross_entropies(logits: Any, labels: Any) -> list[float]:
    """Of each row with one label, in nats.

    >>> cross_entropies(np.array([[0.0, 0.0], [np.log(3), 0.0]]), np.array([1, 0]))
    [0.693147, 0.287682]
    """
    import torch
    from torch.nn.functional import cross_entropy

    values = torch.as_tensor(np.asarray(logits, dtype=np.float64))
    classes = torch.as_tensor(np.asarray(labels, dtype=np.int64))
    return [round(loss, 6) for loss in cross_entropy(values, classes, reduction="none").tolist()]


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line a way, means over seeds; differences from the first way, paired by row."""
    ways = list(dict.fromkeys(one["way"] for one in found))
    lines = [
        "| way | seeds | divergence | from the first | cross entropy | from the first | metric "
        "| processor, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for way in ways:
        mine = [one for one in found if one["way"] == way]
        first = {one["seed"]: one for one in found if one["way"] == ways[0]}
        metric = np.mean([next(iter(one["metric"].values())) for one in mine])
        cells = [
            way or "as the recipe says",
            str(len(mine)),
            f"{np.mean([one['divergence'] for one in mine]):.4f}",
            paired(mine, {} if way == ways[0] else first, "by_row"),
            *entropies(mine, {} if way == ways[0] else first),
            f"{metric:.4f}",
            f"{np.mean([one['processor_seconds'] for one in mine]):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def paired(mine: Sequence[dict[str, Any]], first: Mapping[int, dict[str, Any]], key: str) -> str:
    """Mean over rows of the mean difference over seeds, with the half-width of its 95% interval."""
    gaps = [
        np.asarray(one[key]) - np.asarray(first[one["seed"]][key])
        for one in mine
        if one["seed"] in first
    ]
    if not gaps:
        return "-"
    row = np.mean(gaps, axis=0)
    error = 1.96 * float(np.std(row, ddof=1)) / np.sqrt(len(row)) if len(row) > 1 else 0.0
    return f"{row.mean():+.4f} ± {error:.4f}"


def entropies(mine: Sequence[dict[str, Any]], first: Mapping[int, dict[str, Any]]) -> list[str]:
    """Cross entropy to the labels and its difference from the first way, of classes alone."""
    if any(one.get("loss_by_row") is None for one in [*mine, *first.values()]):
        return ["-", "-"]
    mean = float(np.mean([np.mean(one["loss_by_row"]) for one in mine]))
    return [f"{mean:.4f}", paired(mine, first, "loss_by_row")]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True, metavar="DIR")
    parser.add_argument("--pruned", type=Path, required=True, metavar="DIR")
    parser.add_argument("--way", action="append", default=[], help="keys of the recipe; again")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--output", type=Path, default=Path("runs/recovery"))
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument(
        "--set", nargs="*", default=[], dest="overrides", metavar="key.path=value",
        help="of the recipe, for all ways",
    )  # fmt: skip
    return carry_out(work, parser.parse_args(arguments))


def work(options: argparse.Namespace) -> int:
    from hfprune.core.errors import RecipeError
    from hfprune.core.files import atomic_write_json
    from hfprune.pipeline.fingerprint import recipe_digest
    from hfprune.recipe.reading import load_recipe

    recipes = {}
    for way in options.way or [""]:
        recipes[way] = load_recipe(options.recipe, [*options.overrides, *way.split()])
        seeds = recipes[way].teacher.num_seeds
        if seeds > 1:
            raise RecipeError(
                f"{way or options.recipe}: teacher.num_seeds is {seeds}, and no teacher is trained "
                "here: train them, and name their folders in teacher.learn_from"
            )
        if recipes[way].pruning.vocabulary is not None:
            raise RecipeError(
                f"{way or options.recipe}: pruning.vocabulary is given, and the models are taken "
                "as they are here: remove it"
            )
    found = []
    about = [str(options.teacher.resolve()), str(options.pruned.resolve()), *options.overrides]
    options.output.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for way, recipe in recipes.items():
            key = json.dumps([recipe_digest(recipe), *about, way, seed])
            name = hashlib.sha256(key.encode()).hexdigest()[:16]
            file = options.output / f"{name}.json"
            known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
            made = made_of(options, recipe)
            # The next run writes other models to the same folders.
            if known is None or known.get("made_of", made) != made:
                known = {**one_way(options, way, seed), "made_of": made}
                atomic_write_json(file, known)
            found.append(known)
            print(table(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
