"""``hfprune quick``: from a model and a file to a result; ``recipe new`` shares its options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hfprune.cli.app import AsJson, Quiet, app, example, explained, print_json, run_recipe, say
from hfprune.core.errors import RecipeError

if TYPE_CHECKING:
    from hfprune.core.tasks import Task
    from hfprune.early.quick import Looked

_TASKS = (
    "single_label_classification",
    "multi_label_classification",
    "regression",
    "token_classification",
    "reranking",
    "sentence_embedding",
)
Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Pretrained or fine-tuned model: folder or Hub name.")
]
Rows = Annotated[
    Path, typer.Argument(metavar="FILE", help="Rows to learn from: CSV, TSV, JSON Lines, Parquet.")
]
Test = Annotated[
    Path | None, typer.Option(help="File to report on; without: a part of the training file.")
]
TextColumn = Annotated[
    str | None, typer.Option(help="Column of the text; without: found by names and values.")
]
PairColumn = Annotated[str | None, typer.Option(help="Column of a second text; without: none.")]
LabelColumn = Annotated[
    list[str] | None,
    typer.Option(help="Column of the label; again for several of 0/1; without: found."),
]
Speedup = Annotated[
    float | None, typer.Option(help="Times as fast as the dense float32 model; without: 6.")
]
Sparsity = Annotated[
    float | None, typer.Option(help="In its place: fraction of the encoder's weights to remove.")
]
MaxDrop = Annotated[
    float | None, typer.Option(help="In its place: most that the metric may fall; 0.01: one point.")
]
TeacherName = Annotated[
    str | None,
    typer.Option(
        help="A fine-tuned model to learn from; without: MODEL, if it is one, or trained."
    ),
]
TaskName = Annotated[
    str | None, typer.Option(help=f"One of {', '.join(_TASKS)}; without: by the labels.")
]


def look_for(
    model: str,
    file: Path,
    output: str,
    *,
    test: Path | None,
    text_column: str | None,
    pair_column: str | None,
    label_column: list[str] | None,
    speedup: float | None,
    sparsity: float | None,
    max_drop: float | None,
    teacher: str | None,
    task: str | None,
) -> Looked:
    """What the options say, as what is proposed from it."""
    from hfprune.early.proposal import Target
    from hfprune.early.quick import Columns, look

    named: Task | None = None
    if task is not None:
        found = [known for known in _TASKS if known == task]
        if not found:
            raise RecipeError(f"--task is {task!r}; expected one of {', '.join(_TASKS)}")
        named = found[0]  # type: ignore[assignment]  # one of Task, as found above
    return look(
        model,
        str(file),
        output=output,
        test_file=None if test is None else str(test),
        columns=Columns(text_column, label_column or (), pair_column, named),
        target=Target(speedup, sparsity, max_drop),
        teacher=teacher,
    )


def tell(looked: Looked) -> None:
    """What was assumed, the labels, how long it may take; to stderr, as results go to stdout."""
    from hfprune.early.checks import label_counts
    from hfprune.early.duration import in_words

    for line in looked.proposal.said:
        say(f"  {line}", err=True)
    if looked.rows.labels:
        counts = label_counts(looked.rows.labels)
        say(f"  {len(looked.rows.labels)} labels: {counts}", err=True)
    say(
        f"  it may take {in_words(looked.proposal.seconds)} on these CPUs (guessed from sizes; the "
        "run itself tells what is left); with a GPU the trainings are shorter",
        err=True,
    )


def write_recipe(file: Path, looked: Looked) -> Any:
    """Write the proposed recipe, and return it read; nothing is left of one that cannot be used.

    Raises:
        HFPruneError: it cannot be used, or cannot be written.
    """
    from hfprune.core.files import atomic_write_text
    from hfprune.early.checks import check_early
    from hfprune.early.writing import recipe_text
    from hfprune.recipe.reading import load_recipe, parse_recipe

    text = recipe_text(looked.proposal)
    recipe = parse_recipe(text, source=str(file))
    for note in check_early(recipe):
        say(f"  note: {note}", err=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(file, text)
    return load_recipe(file)


@app.command(
    epilog=example(
        "hfprune quick my-fine-tuned-model tickets.csv",
        "hfprune quick microsoft/MiniLM-L12-H384-uncased tickets.csv --speedup 8",
        "hfprune quick my-model tickets.csv --label-column topic --max-drop 0.01",
    )
)
def quick(
    model: Model,
    file: Rows,
    speedup: Speedup = None,
    sparsity: Sparsity = None,
    max_drop: MaxDrop = None,
    teacher: TeacherName = None,
    task: TaskName = None,
    test: Test = None,
    text_column: TextColumn = None,
    text_pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the result; without: runs/ and FILE's name.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the recipe, and stop before the run.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Prune a model for the rows of a file: looks at both, writes a recipe, and runs it.

    The recipe lies beside the result, as OUTPUT.yaml. A fine-tuned model whose labels are those of
    the file becomes the teacher by itself.
    """
    place = output or Path("runs") / _stem(file)
    written = place.with_name(f"{place.name}.yaml")
    go_on = f"go on with: hfprune prune {written} resume=true"
    with explained(go_on, as_json=as_json):
        looked = look_for(
            model,
            file,
            str(place),
            test=test,
            text_column=text_column,
            pair_column=text_pair_column,
            label_column=label_column,
            speedup=speedup,
            sparsity=sparsity,
            max_drop=max_drop,
            teacher=teacher,
            task=task,
        )
        if not (quiet or as_json):
            tell(looked)
        _check_free(written, looked)
        recipe = write_recipe(written, looked)
        if dry_run:
            if as_json:
                print_json({"file": str(written)})
            else:
                say(f"written: {written}; next: hfprune prune {written}")
            return
        if not (quiet or as_json):
            say(f"recipe: {written}", err=True)
        run_recipe(recipe, quiet=quiet, as_json=as_json)


def _check_free(file: Path, looked: Looked) -> None:
    """Refuse to write over a recipe that says something else."""
    from hfprune.early.writing import recipe_text

    if not file.exists():
        return
    if file.is_file() and file.read_text(encoding="utf-8", errors="replace") == recipe_text(
        looked.proposal
    ):
        return
    raise RecipeError(
        f"{file} is there already and says something else: run it (hfprune prune {file}), remove "
        "it, or name another folder with --output"
    )


def _stem(file: Path) -> str:
    """A file's name without its endings: ``tickets`` of ``tickets.csv.gz``."""
    return file.name.partition(".")[0] or "rows"
