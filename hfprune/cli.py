"""The ``hfprune`` command: what ``--help`` tells is in the docstrings and epilogs here.

Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 an error that was
explained, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from hfprune.errors import HFPruneError, RecipeError

EXAMPLES = """Examples:

  hfprune recipe new reviews.yaml --model microsoft/MiniLM-L12-H384-uncased --train train.csv

  hfprune recipe check reviews.yaml pruning.speedup=8

  hfprune prune reviews.yaml

  hfprune evaluate runs/reviews --data new-reviews.csv

  hfprune benchmark runs/reviews --batch-size 1 --length 32

  hfprune inspect runs/reviews

  hfprune push runs/reviews --repo-id user/reviews

On several GPUs: accelerate launch --multi_gpu scripts/prune.py --recipe reviews.yaml

Exit codes: 0 done, 1 an error that was explained, 2 wrong usage, 130 interrupted (Ctrl-C).
Results go to stdout, progress and errors to stderr."""

app = typer.Typer(
    help="Make fine-tuned classifiers really smaller and faster.",
    epilog=EXAMPLES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
recipes = typer.Typer(help="Write and check recipes.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(recipes, name="recipe")

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, YAML.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY.PATH=VALUE", help="Replaces values of it.")
]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="What a run or save_model wrote.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write the result as JSON to stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, only errors and results.")]


def _example(*lines: str) -> str:
    """The end of a command's ``--help``."""
    return "\n\n".join(["Examples:" if len(lines) > 1 else "Example:", *lines])


@contextmanager
def _explained(interrupted: str) -> Iterator[None]:
    """Our errors as one line and exit code 1; Ctrl-C as a line that says how to go on."""
    try:
        yield
    except HFPruneError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        typer.echo(f"interrupted; {interrupted}", err=True)
        raise typer.Exit(130) from error


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("hfprune"))
        raise typer.Exit


@app.callback()
def _main(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    pass


@app.command(
    epilog=_example(
        "hfprune prune reviews.yaml pruning.speedup=8",
        "hfprune prune reviews.yaml resume=true",
        "hfprune prune reviews.yaml --dry-run",
    )
)
def prune(
    recipe: RecipeFile,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved recipe and the plan of work.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Carry a recipe out: teacher, pruning, recovery, export, evaluation, timing."""
    with _explained("run the same command with resume=true to go on"):
        from hfprune.recipe import load_recipe

        loaded = load_recipe(recipe, overrides or [])
        if dry_run:
            _describe(loaded, as_json)
            return
        from hfprune.pipeline import run
        from hfprune.report import Console, leave_processes

        try:
            results = run(loaded, Console(quiet=quiet or as_json))
        finally:
            leave_processes()
        if as_json and results is not None:
            _print_json(results)


@recipes.command(epilog=_example("hfprune recipe check reviews.yaml pruning.sparsity=0.9"))
def check(recipe: RecipeFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Read a recipe as a run would; print it whole, and what the run will do."""
    with _explained("nothing was changed"):
        from hfprune.recipe import load_recipe

        _describe(load_recipe(recipe, overrides or []), as_json)


@recipes.command(epilog=_example("hfprune recipe schema > recipe.schema.json"))
def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from hfprune.recipe import recipe_schema

    _print_json(recipe_schema())


@recipes.command(
    epilog=_example(
        "hfprune recipe new reviews.yaml --model microsoft/MiniLM-L12-H384-uncased "
        "--train train.csv --speedup 8"
    )
)
def new(
    file: Annotated[Path, typer.Argument(help="Where to write it; must not exist.")],
    model: Annotated[str, typer.Option(help="Pretrained or fine-tuned model: folder or Hub name.")],
    train: Annotated[Path, typer.Option(help="CSV, JSON lines or Parquet file to learn from.")],
    test: Annotated[
        Path | None, typer.Option(help="File to report on; without: a part of the training file.")
    ] = None,
    text_column: Annotated[str, typer.Option(help="Column of the text.")] = "text",
    label_column: Annotated[str, typer.Option(help="Column of the label.")] = "label",
    speedup: Annotated[float, typer.Option(help="How many times faster it shall get.")] = 6.0,
    as_json: AsJson = False,
) -> None:
    """Write a recipe that prunes to a speed on this machine."""
    with _explained("nothing was written"):
        import yaml

        from hfprune.files import atomic_write_text
        from hfprune.recipe import load_recipe

        if file.exists():
            raise RecipeError(f"{file} exists; name a file that does not, or remove it")
        data = {"train_file": str(train), "text_column": text_column, "label_column": label_column}
        values: dict[str, Any] = {
            "model": {"name_or_path": model},
            "data": data | ({} if test is None else {"test_file": str(test)}),
            "teacher": {"num_train_epochs": 3, "learning_rate": 5e-5},
            "training": {"group_by_length": True},
            "pruning": {"speedup": speedup, "method": "reconstruction"},
            "distillation": {"augmentation": 1},
            "recovery": {
                "num_train_epochs": 4, "learning_rate": 2e-4, "freeze_embeddings": True,
            },
            "output_dir": f"runs/{file.stem}",
        }  # fmt: skip
        atomic_write_text(file, yaml.safe_dump(values, sort_keys=False))
        try:
            load_recipe(file)
        except RecipeError:
            file.unlink()
            raise
        if as_json:
            _print_json({"file": str(file)})
        else:
            typer.echo(f"written: {file}; next: hfprune recipe check {file}")


@app.command(
    epilog=_example("hfprune export runs/reviews", "hfprune export my-model --output onnx")
)
def export(
    folder: Folder,
    output: Annotated[Path | None, typer.Option(help="Where to write; without: DIR/onnx.")] = None,
    quantize: Annotated[bool, typer.Option(help="Also write model_quantized.onnx.")] = True,
    as_json: AsJson = False,
) -> None:
    """Write ONNX models of a classifier, pruned by hfprune or dense; checked against PyTorch."""
    with _explained("earlier files are untouched, run the same command again"):
        from hfprune.export import export_onnx, quantize_onnx
        from hfprune.loading import load_processor, load_saved_classifier
        from hfprune.quantize import usual_settings
        from hfprune.tasks import kind_of_model, task_of_kind

        model = load_saved_classifier(str(folder))
        processor = load_processor(
            str(folder),
            task_of_kind(kind_of_model(model)),
            revision=None,
            trust_remote_code=False,
            key="the folder",
        )
        target = output or folder / "onnx"
        written = {"float32": export_onnx(model, processor, target)}
        if quantize:
            written["int8"] = quantize_onnx(target, usual_settings(target))
        if as_json:
            _print_json({name: str(file) for name, file in written.items()})
            return
        for file in written.values():
            typer.echo(str(file))


@app.command(
    epilog=_example(
        "hfprune evaluate runs/reviews",
        "hfprune evaluate runs/reviews --data new.csv --text-column review --label-column stars",
        "hfprune evaluate my-model --data test.csv --label-name negative --label-name positive",
    )
)
def evaluate(
    folder: Folder,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="CSV, JSON lines, Parquet or CoNLL file of rows; may be given again. Without: the "
            "test rows of the run's recipe."
        ),
    ] = None,
    text_column: Annotated[
        str | None, typer.Option(help="Column of the text. Without: the recipe's, or text.")
    ] = None,
    text_pair_column: Annotated[
        str | None, typer.Option(help="Column of a second text. Without: the recipe's, or none.")
    ] = None,
    label_column: Annotated[
        list[str] | None,
        typer.Option(
            help="Column of the label; again for several columns of 0/1. Without: the recipe's, or "
            "label."
        ),
    ] = None,
    label_name: Annotated[
        list[str] | None,
        typer.Option(
            help="A label as the rows spell it; once for each class, in the model's order. "
            "Without: the model's names."
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="May be given again. Without: the recipe's, or the task's usual ones."),
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(help="Level of the intervals. Without: the recipe's, or 0.95.")
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(help="Cut rows at so many tokens. Without: the recipe's, or the model's."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows a forward pass.")] = 64,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure how right a saved model is, in PyTorch and in the ONNX files beside it.

    Accuracy, precision, recall and F1 (other metrics for other tasks), each with its interval.
    """
    with _explained("nothing was changed, run the same command again"):
        from rich.console import Console as RichConsole

        from hfprune.evaluation import evaluate as measure
        from hfprune.evaluation import table
        from hfprune.report import Console

        columns = label_column or []
        with Console(quiet=quiet or as_json).progress("evaluate") as progress:
            results = measure(
                folder,
                data or [],
                text_column=text_column,
                text_pair_column=text_pair_column,
                label_column=columns if len(columns) > 1 else next(iter(columns), None),
                label_names=label_name,
                metrics=metric or [],
                confidence=confidence,
                max_length=max_length,
                batch_size=batch_size,
                progress=progress,
            )
        if as_json:
            _print_json(results)
        else:
            RichConsole(highlight=False, width=None if sys.stdout.isatty() else 160).print(
                table(results)
            )


@app.command(
    epilog=_example(
        "hfprune inspect runs/reviews",
        "hfprune inspect google-bert/bert-base-uncased --json",
    )
)
def inspect(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A folder of save_pretrained, or a Hub name.")
    ],
    sequence_length: Annotated[
        int | None, typer.Option(help="Tokens of the input whose work is counted.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a model is made of, what was pruned and what can be."""
    with _explained("nothing was changed"):
        from rich.console import Console as RichConsole

        from hfprune.inspection import inspect as look
        from hfprune.inspection import tables

        found = look(model, sequence_length=sequence_length)
        if as_json:
            _print_json(found.to_dict())
            return
        console = RichConsole(highlight=False)
        for shown in tables(found):
            console.print(shown)


@app.command(
    epilog=_example("hfprune benchmark runs/reviews --batch-size 1 --batch-size 32 --length 128")
)
def benchmark(
    folder: Folder,
    batch_size: Annotated[list[int] | None, typer.Option(help="May be given again.")] = None,
    length: Annotated[list[int] | None, typer.Option(help="Tokens; may be given again.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    repeats: Annotated[int, typer.Option(help="Rounds, all models in turn.")] = 30,
    baseline: Annotated[
        Path | None, typer.Option(help="An ONNX file to compare with; without: onnx/model.onnx.")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Time the ONNX models of a directory on this machine, interleaved."""
    with _explained("nothing was changed"):
        from hfprune.benchmark import (
            batches_for,
            config_beside,
            measure_latency,
            onnx_runner,
            ratios,
        )
        from hfprune.export import MODEL_FILE, QUANTIZED_FILE, onnx_files
        from hfprune.report import Console

        found = onnx_files(folder)
        if not found:
            raise HFPruneError(
                f"there is no {MODEL_FILE} or {QUANTIZED_FILE} in {folder}; run "
                f"`hfprune export {folder}` first"
            )
        limits = config_beside(next(iter(found.values())))
        if baseline is not None:
            if not baseline.is_file():
                raise HFPruneError(f"there is no {baseline}; --baseline names an ONNX file")
            found = {"baseline": baseline, **found}
        first = next(iter(found))
        shapes = [(b, n) for b in batch_size or [1, 32] for n in length or [32, 128]]
        with Console(quiet=quiet or as_json).progress("benchmark") as progress:
            rows = measure_latency(
                {name: onnx_runner(file, threads) for name, file in found.items()},
                shapes,
                repeats=repeats,
                warmup=3,
                make_batch=batches_for(limits),
                progress=progress,
            )
        factors = ratios(rows, first)
        results: list[dict[str, Any]] = [
            {
                "model": row.name,
                "batch_size": row.batch_size,
                "sequence_length": row.sequence_length,
                "ms": row.median_ms,
                "speedup": factors[(row.name, (row.batch_size, row.sequence_length))].value,
                "bytes": found[row.name].stat().st_size,
            }
            for row in rows
        ]
        if as_json:
            _print_json(results)
            return
        for entry in results:
            shape = f"{entry['batch_size']}x{entry['sequence_length']}"
            typer.echo(
                f"{entry['model']:>9} {shape:>7} {entry['ms']:9.2f} ms  {entry['speedup']:5.1f}x  "
                f"{entry['bytes'] / 1e6:6.1f} MB"
            )


@app.command(epilog=_example("hfprune push runs/reviews --repo-id user/reviews --private"))
def push(
    folder: Folder,
    repo_id: Annotated[str, typer.Option(metavar="USER/NAME", help="Made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="To a private repository only.")] = (
        False
    ),
    revision: Annotated[str | None, typer.Option(help="Branch, made if it is not there.")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Upload a finished run to the Hub, with a model card made from its measurements."""
    with _explained("nothing here was changed, run the same command again"):
        from hfprune.hub import push as upload

        silent = quiet or as_json
        url = upload(
            folder,
            repo_id,
            private=private,
            revision=revision,
            note=None if silent else lambda text: typer.echo(text, err=True),
        )
        if as_json:
            _print_json({"url": url})
        else:
            typer.echo(url)


@app.command()
def report(
    folder: Folder,
    output: Annotated[
        Path | None, typer.Option(help="HTML file to write; without: DIR/report.html.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the HTML report of a finished run, and its figures as PNG, from metrics.json."""
    with _explained("an earlier report may be left"):
        from hfprune.html_report import write_report

        files, note = write_report(folder, output)
        if note is not None:
            typer.echo(note, err=True)
        if as_json:
            _print_json({"report": str(files[0]), "figures": [str(file) for file in files[1:]]})
            return
        for file in files:
            typer.echo(str(file))


def _describe(recipe: Any, as_json: bool) -> None:
    from hfprune.recipe import dump_recipe
    from hfprune.workplan import describe

    if as_json:
        _print_json({"recipe": recipe.model_dump(mode="json"), "plan": describe(recipe)})
        return
    typer.echo(dump_recipe(recipe))
    for number, line in enumerate(describe(recipe), 1):
        typer.echo(f"{number}. {line}")


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def main() -> None:
    """What the console command calls."""
    app()


if __name__ == "__main__":
    main()
