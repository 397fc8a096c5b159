#!/usr/bin/env python
"""Compare ways of compressing one model, on the same data, epochs and seeds.

    python scripts/benchmark_methods.py --recipe recipes/movie-reviews-minilm-speed.yaml
    python scripts/benchmark_methods.py --recipe recipes/movie-reviews-minilm-speed.yaml --short \\
        --output runs/short

For each seed one dense teacher is trained; every method starts from it, learns from it and has the
same number of epochs. Each run is an ordinary recipe run in a directory of its own: what is
finished is not repeated when the script is started again, and an interrupted run goes on; another
recipe, other epochs or speeds want another --output. Seeds can be run by several processes at once,
one of which is then started again for the table. Accuracy is on the test split, of the int8 model
unless said otherwise. At the end all models are timed together, interleaved, one of each set of
equal sizes; speed is relative to the dense float32 ONNX model there. Models of hfprune's sizes that
begin with random weights (``scratch_baseline.py``) are rows too, and so are TF-IDF and static
embeddings (``simple_baselines.py``), timed from the text on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))  # where it is loaded by its path
import scripting
from methods_plot import plot
from simple_baselines import STATIC, TFIDF, rows_of

if TYPE_CHECKING:
    from hfprune.core.results import RunResults

Ways = Callable[[Sequence[float], float], Mapping[str, dict[str, Any]]]
LAYERS = {4: [0, 1, 3, 5], 3: [0, 2, 5], 2: [0, 5]}
SPARSITIES = (0.8, 0.95)
# How a reconstruction is done, which a recipe may say.
RECONSTRUCTION = ("selection", "search_rounds", "scoring_samples", "memory_gb", "layout")
TRAINING_FREE = (0.3, 0.5, 0.65, 0.8)
# Times within a run only steer it: all models are timed together at the end.
QUICK = ("benchmark.repeats=2", "benchmark.warmup=1")
ONCE = {"repeats": 1, "warmup": 0}
DENSE, DENSE_INT8 = "dense", "dense int8"
SCRATCH = "from scratch"
SHORT = (
    "data.max_train_samples=96",
    "data.max_validation_samples=32",
    "data.max_test_samples=64",
    "benchmark.repeats=2",
    "benchmark.batch_sizes=[1]",
    "benchmark.sequence_lengths=[32]",
)


def methods(speeds: Sequence[float], epochs: float) -> dict[str, dict[str, Any]]:
    """Name to the sections that differ from the recipe.

    What is removed at once, without looking at a gradient, is trained as small model for all
    epochs, as ours are: that is better for it than to be masked while the large model trains.
    """
    after = {"recovery": {"num_train_epochs": epochs}}
    found: dict[str, dict[str, Any]] = {
        "hfprune": {
            "pruning": {
                "speedup": list(speeds),
                "method": "reconstruction",
            },
            **after,
        }
    }
    for count, kept in LAYERS.items():
        found[f"layers {count}"] = {"pruning": {"keep_layers": kept}, **after}
    for share in SPARSITIES:
        for score in ("magnitude", "random"):
            found[f"{score} {share:.0%}"] = {
                "pruning": {
                    "sparsity": share, "score": score, "allocation": "uniform",
                    "schedule": "one_shot", "start": 0.0,
                },
                "training": {"num_train_epochs": 0.005},
                **after,
            }  # fmt: skip
    for share in TRAINING_FREE:
        found[f"training-free {share:.0%}"] = {
            "pruning": {"sparsity": share, "method": "reconstruction"},
            "recovery": {"num_train_epochs": 0},
        }
    for number, speed in enumerate(speeds, 1):
        found[f"{SCRATCH} {speed:g}x"] = {
            "like": ("hfprune", f"{speed:g}x"),
            "pruning": {"method": "gates"},
            # As many epochs as the pruned one has had, those of the family before it included; its
            # own embeddings; and a rate of its own, as it is not near its teacher.
            "recovery": {
                "num_train_epochs": number * epochs,
                "learning_rate": "auto",
                "freeze_embeddings": False,
            },
        }
    return found


def with_settings(target: Mapping[str, Any], pruning: Mapping[str, Any]) -> dict[str, Any]:
    """A method's target, and of the recipe's settings for pruning those that the method knows."""
    if target.get("method") != "reconstruction":
        return dict(target)
    known = RECONSTRUCTION + (("trial_epochs",) if "speedup" in target else ())
    return {**{key: pruning[key] for key in known}, **target}


def parser_of(document: str, speeds: Sequence[float], output: str) -> argparse.ArgumentParser:
    """The arguments that comparisons share."""
    parser = scripting.parser_of(document)
    parser.add_argument("--recipe", required=True, metavar="FILE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--speeds", type=float, nargs="+", default=list(speeds))
    parser.add_argument(
        "--epochs", type=float, help="of every method, after the teacher; default: the recipe's"
    )
    parser.add_argument("--only", nargs="+", default=[], help="names of methods, to run no others")
    parser.add_argument("--output", type=Path, default=Path(output))
    parser.add_argument("--untimed", action="store_true", help="only run: no timing, no table")
    parser.add_argument(
        "--finished", action="store_true", help="run nothing: the table of what is finished"
    )
    parser.add_argument("--short", action="store_true", help="a smoke test on a sliver of the data")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="for every run")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__ or "", (6.0, 10.0, 16.0), "runs/methods")
    return scripting.carry_out(compare, parser.parse_args(arguments))


def compare(options: argparse.Namespace) -> int:
    from hfprune.core.files import atomic_write_json, atomic_write_text

    rows = measured(options, methods, (TFIDF, STATIC))
    if options.untimed:
        return 0
    summary = list(_summary(rows))
    atomic_write_json(options.output / "methods.json", {"rows": rows, "summary": summary})
    table = "\n".join(_table(summary)) + "\n"
    atomic_write_text(options.output / "methods.md", table)
    plot(summary, options.output / "methods.png")
    print(table)
    print(f"written: {options.output / 'methods.md'}, methods.json, methods.png")
    return 0


def measured(
    options: argparse.Namespace, ways: Ways, simple_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Run what is not finished and time all of it together: a row a model and seed.

    Args:
        options: as :func:`main` reads them.
        ways: of speeds and epochs, what is compared: sections that differ from the recipe, by name.
        simple_names: of baselines without an encoder.
    """
    from scratch_baseline import run_from_scratch

    from hfprune.core.errors import OutputError, RecipeError
    from hfprune.core.results import METRICS_FILE, read_results
    from hfprune.deploy.quantize.outcome import USUAL
    from hfprune.pipeline import run
    from hfprune.pipeline.fingerprint import recipe_digest
    from hfprune.recipe.reading import load_recipe
    from hfprune.recipe.sections.whole import Recipe

    timing = load_recipe(options.recipe, [*(SHORT if options.short else ()), *options.overrides])
    base = load_recipe(options.recipe, [*(SHORT if options.short else QUICK), *options.overrides])
    # One setting for all methods: no search, and no choice of runtimes, decides between them.
    export = base.export
    if export.quantization == "auto":
        export = export.model_copy(update={"quantization": USUAL})
    base = base.model_copy(update={"export": export, "deploy": None})
    if base.pruning.vocabulary is not None:
        raise RecipeError(
            "pruning.vocabulary is given, and all models have the whole vocabulary here: remove it"
        )
    if base.teacher.num_seeds > 1:
        raise RecipeError(
            f"teacher.num_seeds is {base.teacher.num_seeds}, and each seed has one dense model "
            "here: train them, and name their folders in teacher.learn_from"
        )
    given = options.epochs is not None
    epochs = options.epochs if given else base.recovery.num_train_epochs
    epochs = 1.0 if options.short else epochs
    if isinstance(epochs, str) or not epochs:
        named = "--epochs" if given else "recovery.num_train_epochs"
        raise RecipeError(
            f"{named} is {epochs}, and every method is to have as many epochs: say how many by "
            "--epochs"
        )
    speeds = [1.5, 2.0] if options.short else options.speeds
    scripting.require_known("--only", options.only, [*ways(speeds, epochs), *simple_names])
    # How often is timed may change, at which lengths not: speeds are wanted there.
    same = base.model_copy(update={"benchmark": base.benchmark.model_copy(update=ONCE)})
    asked = {"recipe": recipe_digest(same)[:12], "epochs": epochs, "speeds": speeds}
    begun = any(options.output.glob("seed-*"))
    scripting.require_same(options.output / "asked.json", asked, begun=begun)
    rows: list[dict[str, Any]] = []
    # Of each model the file, and what it is made of: equal ones are timed once.
    files: dict[tuple[str, int], tuple[Path, str]] = {}
    for seed in options.seeds[:1] if options.short else options.seeds:
        teacher = None
        wanted = ways(speeds, epochs)
        for name, changes in wanted.items():
            if options.only and name not in options.only:
                continue
            place = options.output / f"seed-{seed}" / name.replace(" ", "-").replace("%", "")
            values = base.model_dump()
            values["pruning"] = with_settings(changes["pruning"], values["pruning"])
            values["training"] |= {"seed": seed, **changes.get("training", {})}
            values["recovery"] |= changes["recovery"]
            values |= {"output_dir": str(place), "overwrite": False}
            if options.finished and not (place / METRICS_FILE).is_file():
                continue
            if teacher is None:
                dense = base.model_dump()
                dense["training"]["seed"] = seed
                teacher = _teacher(dense, options.output / f"seed-{seed}" / "teacher")
            values["teacher"] = {
                "name_or_path": str(teacher), "learn_from": base.teacher.learn_from,
            }  # fmt: skip
            if not (place / METRICS_FILE).is_file():
                values["resume"] = place.with_name(place.name + ".work").is_dir()
                print(f"### seed {seed}: {name}", file=sys.stderr)
                if "like" in changes:
                    method, label = changes["like"]
                    run_from_scratch(values, place.with_name(method), label)
                else:
                    run(Recipe(**values))
            results = read_results(place, "the comparison")
            known = any(row["seed"] == seed for row in rows)
            rows.extend(_rows(name, seed, results, place, files, dense_too=not known))
        if teacher is not None:
            _dense_files(teacher, base, seed, files)
    if options.untimed:
        return rows
    if not rows:
        why = "leave out --finished" if options.finished else (
            "the others are timed beside a model with an encoder: name one in --only too"
        )  # fmt: skip
        raise OutputError(f"{options.output} holds no finished run; {why}")
    names = [name for name in simple_names if not options.only or name in options.only]
    dense = statistics.fmean(row["metric"] for row in rows if row["name"] == DENSE)
    simple, more = rows_of(timing, names, dense, rows[0]["seed"])
    rows += more
    _time(rows, files, timing, options.output / "times.json", simple)
    return rows


def _teacher(values: dict[str, Any], place: Path) -> Path:
    """The dense model of a seed, trained once."""
    from hfprune.pipeline import train_teacher
    from hfprune.recipe.sections.whole import Recipe

    if (place / "config.json").is_file():
        return place
    unfinished = place.with_name(place.name + ".work").is_dir()
    return train_teacher(Recipe(**{**values, "output_dir": str(place), "resume": unfinished}))


def _rows(
    name: str,
    seed: int,
    results: RunResults,
    place: Path,
    files: dict[tuple[str, int], tuple[Path, str]],
    *,
    dense_too: bool,
) -> Iterator[dict[str, Any]]:
    """One row a compressed model; the dense models of a run are rows of the first method only."""
    from hfprune.core.model_ref import BASELINE, PRUNED
    from hfprune.deploy.files import QUANTIZED_FILE

    primary = results.primary
    dense = results.quality(BASELINE).metrics[primary]
    for ref in results.refs():
        metric = results.quality(ref).metrics[primary]
        if ref.is_dense:
            shown = {"ONNX": DENSE, "int8": DENSE_INT8}.get(ref.form, "") if dense_too else ""
            removed = 0.0
        else:
            own = name if ref.label == PRUNED else f"{name} {ref.label}"
            shown = own if ref.form == "int8" else ""
            removed = results.members[ref.label].sparsity
        if shown and not ref.is_dense:
            folder = place if ref.label == PRUNED else place / ref.label
            files[(shown, seed)] = (folder / "onnx" / QUANTIZED_FILE, _sizes(folder))
        if shown:
            yield {
                "name": shown,
                "seed": seed,
                "metric": metric,
                "change": metric - dense,
                "bytes": results.benchmark.file_bytes[str(ref)],
                "removed": removed,
            }


def _sizes(folder: Path) -> str:
    """How many heads and neurons each layer kept; all else is alike in one comparison."""
    layers = json.loads((folder / "plan.json").read_text(encoding="utf-8"))["layers"]
    return " ".join(f"{len(layer['heads'])}+{len(layer['neurons'])}" for layer in layers)


def _dense_files(
    teacher: Path, recipe: Any, seed: int, files: dict[tuple[str, int], tuple[Path, str]]
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from hfprune.deploy.exporters.exporting import export_onnx
    from hfprune.deploy.files import MODEL_FILE, QUANTIZED_FILE
    from hfprune.deploy.quantize.quantizing import quantize_onnx
    from hfprune.recipe.sections.export import QuantizationConfig

    folder = teacher.with_name("teacher-onnx")
    if not (folder / QUANTIZED_FILE).is_file():
        model = AutoModelForSequenceClassification.from_pretrained(teacher, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(teacher, trust_remote_code=False)
        export_onnx(model, tokenizer, folder)
        quantize_onnx(folder, recipe.export.quantization or QuantizationConfig())
    files[(DENSE, seed)] = (folder / MODEL_FILE, DENSE)
    files[(DENSE_INT8, seed)] = (folder / QUANTIZED_FILE, DENSE_INT8)


def _time(
    rows: list[dict[str, Any]],
    files: dict[tuple[str, int], tuple[Path, str]],
    recipe: Any,
    kept: Path,
    simple: Sequence[Any] = (),
) -> None:
    """Add to each row its ``speedup`` over the dense model; times of the same files are kept."""
    from hfprune.core.files import atomic_write_json, sha256_file
    from hfprune.measure.latency import measure_latency, ratios
    from hfprune.measure.runners import batches_for, config_beside, onnx_runner

    wanted: dict[str, Path] = {}
    own = {each.name: each for each in simple}
    for row in rows:
        if row["name"] not in own:
            file, sizes = files[(row["name"], row["seed"])]
            wanted.setdefault(sizes, file)
    settings = recipe.benchmark
    shapes = [(b, length) for b in settings.batch_sizes for length in settings.sequence_lengths]
    state = {
        "benchmark": settings.model_dump(),
        "files": {name: sha256_file(file) for name, file in wanted.items()},
        "simple": sorted(own),
    }
    found = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    if found.get("state") != state:
        print(f"### timing {len(wanted)} models together", file=sys.stderr)
        measured = measure_latency(
            {name: onnx_runner(f, settings.threads) for name, f in wanted.items()} | own,
            shapes,
            repeats=settings.repeats,
            warmup=settings.warmup,
            make_batch=batches_for(*map(config_beside, wanted.values())),
        )
        factors = ratios(measured, DENSE, own=True)
        times = {
            name: {f"{b}x{n}": factors[(name, (b, n))].value for b, n in shapes}
            for name in (*wanted, *own)
        }
        found = {"state": state, "speedup": times}
        atomic_write_json(kept, found)
    for row in rows:
        name = row["name"] if row["name"] in own else files[(row["name"], row["seed"])][1]
        row["speedup"] = found["speedup"][name]


def _summary(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Mean over seeds, and the half-width of its 95% interval (Student's t)."""
    from scipy.stats import t

    for name in dict.fromkeys(row["name"] for row in rows):
        mine = [row for row in rows if row["name"] == name]
        changes = [row["change"] for row in mine]
        half = None
        if len(mine) > 1:
            half = t.ppf(0.975, len(mine) - 1) * statistics.stdev(changes) / len(mine) ** 0.5
        yield {
            "name": name,
            "seeds": len(mine),
            "metric": statistics.fmean(row["metric"] for row in mine),
            "change": statistics.fmean(changes),
            "change_half_width": None if half is None else float(half),
            "bytes": statistics.fmean(row["bytes"] for row in mine),
            "removed": statistics.fmean(row["removed"] for row in mine),
            "speedup": {
                shape: statistics.fmean(row["speedup"][shape] for row in mine)
                for shape in mine[0]["speedup"]
            },
        }


def _table(summary: Sequence[dict[str, Any]]) -> Iterator[str]:
    shapes = list(summary[0]["speedup"])
    yield "| method | seeds | removed | metric | change, points | MB | " + " | ".join(shapes) + " |"
    yield "|---" * (6 + len(shapes)) + "|"
    for row in summary:
        half = row["change_half_width"]
        spread = "" if half is None else f" ± {100 * half:.2f}"
        cells = [
            row["name"],
            str(row["seeds"]),
            f"{row['removed']:.0%}",
            f"{row['metric']:.4f}",
            f"{100 * row['change']:+.2f}{spread}",
            f"{row['bytes'] / 1e6:.1f}",
            *(f"{row['speedup'][shape]:.1f}x" for shape in shapes),
        ]
        yield "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
