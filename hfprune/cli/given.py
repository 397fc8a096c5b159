"""What ``hfprune quick`` and ``hfprune recipe new`` ask alike: declared once, passed whole."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, get_type_hints

import typer

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
# What errors call a recipe's key, and what it is here.
OPTIONS: Final = {
    "data.test_file": "--test",
    "data.text_column": "--text-column",
    "data.text_pair_column": "--text-pair-column",
    "data.label_column": "--label-column",
    "pruning.speedup": "--speedup",
    "pruning.sparsity": "--sparsity",
    "pruning.max_metric_drop": "--max-drop",
    "teacher.name_or_path": "--teacher",
    "set task": "say --task",
}


@dataclass(frozen=True)
class Given:
    """What a person said of rows, target and teacher; ``None`` is found or usual."""

    test: Annotated[
        Path | None, typer.Option(help="File to report on; without: a part of the training file.")
    ] = None
    text_column: Annotated[
        str | None, typer.Option(help="Column of the text; without: found by names and values.")
    ] = None
    text_pair_column: Annotated[
        str | None, typer.Option(help="Column of a second text; without: none.")
    ] = None
    label_column: Annotated[
        list[str] | None,
        typer.Option(help="Column of the label; again for several of 0/1; without: found."),
    ] = None
    speedup: Annotated[
        float | None, typer.Option(help="Times as fast as the dense float32 model; without: 6.")
    ] = None
    sparsity: Annotated[
        float | None,
        typer.Option(help="In its place: fraction of the encoder to remove."),
    ] = None
    max_drop: Annotated[
        float | None,
        typer.Option(help="In its place: most that the metric may fall; 0.01: one point."),
    ] = None
    teacher: Annotated[
        str | None,
        typer.Option(
            help="A fine-tuned model to learn from; without: MODEL, if it is one, or trained."
        ),
    ] = None
    task: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(_TASKS)}; without: by the labels.")
    ] = None


def with_given(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameter ``given`` became the options of :class:`Given`, in its place."""
    hints = get_type_hints(command, include_extras=True)
    given = get_type_hints(Given, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if hints[name] is Given:
            parameters += [
                inspect.Parameter(
                    each.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=each.default,
                    annotation=given[each.name],
                )
                for each in fields(Given)
            ]
        else:
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters.append(parameter.replace(kind=kind, annotation=hints[name]))

    @wraps(command)
    def asked(**values: Any) -> None:
        options = {each.name: values.pop(each.name) for each in fields(Given)}
        command(**values, given=Given(**options))

    del asked.__wrapped__  # its signature is not the one to show
    asked.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    asked.__annotations__ = {each.name: each.annotation for each in parameters}
    return asked


def look_for(model: str, file: Path, output: str, given: Given) -> Looked:
    """What was said, as what is proposed from it.

    Raises:
        HFPruneError: rows or model cannot be read, or it is unclear what is meant.
    """
    from hfprune.early.proposal import Target
    from hfprune.early.quick import Columns, look

    named: Task | None = None
    if given.task is not None:
        found = [known for known in _TASKS if known == given.task]
        if not found:
            raise RecipeError(f"--task is {given.task!r}; expected one of {', '.join(_TASKS)}")
        named = found[0]  # type: ignore[assignment]  # one of Task, as found above
    return look(
        model,
        str(file),
        output=output,
        test_file=None if given.test is None else str(given.test),
        columns=Columns(given.text_column, given.label_column or (), given.text_pair_column, named),
        target=Target(given.speedup, given.sparsity, given.max_drop),
        teacher=given.teacher,
    )
