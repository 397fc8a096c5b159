"""``hfprune evaluate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from hfprune.cli.app import AsJson, Folder, Quiet, app, example, explained, print_json
from hfprune.cli.limits import MOST_BATCH, MOST_TOKENS

# What errors on rows call a recipe's key, and what it is here.
OPTIONS: Final = {
    "data.text_column": "--text-column",
    "data.text_pair_column": "--text-pair-column",
    "data.label_column": "--label-column",
    "data.label_names": "--label-name",
    "data.label_names holds": "the labels of the model (or of --label-name) are",
    "add it to data.label_names": "say how the rows spell each class by --label-name",
    "data.max_length": "--max-length",
    "data.test_file": "--data",
    "evaluation.metrics": "--metric",
    "evaluation.confidence": "--confidence",
    "task is": "--task is",
    "data.highest_relevance": "--highest-relevance",
    "data.negative_column": "data.negative_column (of a recipe)",
    "data.encoding": "data.encoding (of a recipe)",
    "data.format": "data.format (of a recipe)",
}


@app.command(
    epilog=example(
        "hfprune evaluate runs/reviews",
        "hfprune evaluate runs/reviews --data new.csv --text-column review --label-column stars",
        "hfprune evaluate my-cross-encoder --data pairs.csv --task reranking",
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
    task: Annotated[
        str | None,
        typer.Option(
            help="As recipes spell it, such as reranking or regression. Without: the recipe's, or "
            "what model and columns say; a CrossEncoder, and a model of one output on queries and "
            "texts, is evaluated as reranking."
        ),
    ] = None,
    text_column: Annotated[
        str | None,
        typer.Option(
            help="Column of the text (of reranking: of the query). Without: the recipe's, or text."
        ),
    ] = None,
    text_pair_column: Annotated[
        str | None,
        typer.Option(
            help="Column of a second text (of reranking: of the text). Without: the recipe's, or "
            "none."
        ),
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
        typer.Option(
            min=2,
            max=MOST_TOKENS,
            help="Cut rows at so many tokens. Without: the recipe's, or the model's.",
        ),
    ] = None,
    highest_relevance: Annotated[
        float | None,
        typer.Option(
            help="Reranking: the label of a text that is wholly relevant. Without: the run's, or "
            "the highest of the rows."
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, max=MOST_BATCH, help="Rows a forward pass.")
    ] = 64,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure how right a saved model is, in PyTorch and in the ONNX files beside it.

    Accuracy, precision, recall and F1 (other metrics for other tasks: nDCG, MRR and recall of
    rerankers), each with its interval.
    """
    words = OPTIONS if data else None  # else the rows are the recipe's, and so are its keys
    again = "nothing was changed, run the same command again"
    with explained(again, as_json=as_json, words=words):
        from rich.console import Console as RichConsole

        from hfprune.deploy.evaluation import evaluate as measure
        from hfprune.deploy.evaluation import table
        from hfprune.report.console import Console

        columns = label_column or []
        with Console(quiet=quiet or as_json).progress("evaluate") as progress:
            report = measure(
                folder,
                data or [],
                task=task,
                text_column=text_column,
                text_pair_column=text_pair_column,
                label_column=columns if len(columns) > 1 else next(iter(columns), None),
                label_names=label_name,
                metrics=metric or [],
                confidence=confidence,
                max_length=max_length,
                highest_relevance=highest_relevance,
                batch_size=batch_size,
                progress=progress,
            )
        if as_json:
            print_json(report.to_json())
        else:
            RichConsole(highlight=False, width=None if sys.stdout.isatty() else 160).print(
                table(report)
            )
