"""As which task a saved model is evaluated, and which columns of the rows it reads for that.

A recipe beside the model says both. Without one the model's class and config say what it gives, and
the names of the columns whether that is how well a text answers a query. No column that is
certainly a query is left unread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from hfprune.core.errors import DataError, RecipeError
from hfprune.core.kinds import TEXT, kind_of_model, kind_of_task, outputs_of, task_by
from hfprune.core.tasks import ONE_OUTPUT, Task
from hfprune.data.answers import PAIRS, asked_in, find_answers, found_answers
from hfprune.data.readers.files import column_names
from hfprune.data.readers.paths import files_of
from hfprune.models.cross_encoder import is_cross_encoder
from hfprune.recipe.sections.whole import Recipe


def evaluated_as(
    folder: Path,
    model: Any,
    recipe: Recipe | None,
    files: Sequence[str],
    given: Mapping[str, Any],
    task: str | None = None,
) -> tuple[Task, dict[str, Any]]:
    """The task, and the keys of a recipe's ``data`` that say how the rows are read.

    Args:
        folder: of the model.
        model: as it was loaded from there.
        recipe: that lies there, if any.
        files: of rows; none: those of the recipe.
        given: such keys that the user named; they come back as they are.
        task: that the user named.

    Raises:
        DataError: of a reranker's rows it is not clear which column is what, or queries, or of a
            CrossEncoder the second texts, would be left unread.
        RecipeError: the task is none that the model, or the rows of the recipe, can be of.
    """
    named = None if task is None else _checked(task, folder, model)
    if recipe is not None:
        if named not in (None, recipe.task) and not files:
            raise RecipeError(
                f"task {named} is asked for, but the test rows of the recipe in {folder} are of "
                f"{recipe.task}: name files of rows (--data)"
            )
        chosen = named or recipe.task
        # Who names a column of labels has rows with labels, whatever the recipe learned from.
        labelled = chosen == "reranking" and "label_column" in given
        return chosen, {**given, "negative_column": None} if labelled else dict(given)
    if kind_of_model(model) is not TEXT or not files:
        return named or task_by(kind_of_model(model), model.config), dict(given)
    file = files_of("test", files)[0]
    names = column_names(file)
    chosen = named or _by_rows(folder, model, names, given)
    if chosen == "reranking":
        return chosen, {**given, **_ranked(file, names, given)}
    _check_unread(file, names, given)
    if is_cross_encoder(folder) and "text_pair_column" not in given:
        raise DataError(
            f"{folder} holds a CrossEncoder, which reads two texts together, and one of each row "
            f"of {file} would be read ({', '.join(map(repr, names))} are there): name the columns "
            "of both in data.text_column and data.text_pair_column"
        )
    return chosen, dict(given)


def _checked(task: str, folder: Path, model: Any) -> Task:
    known: tuple[Task, ...] = get_args(Task)
    able = [one for one in known if _can_be(one, model)]
    for one in able:
        if one == task:
            return one
    if task not in known:
        raise RecipeError(f"task is {task!r}; expected one of {', '.join(known)}")
    count = outputs_of(model)
    raise RecipeError(
        f"task is {task!r}, which the model in {folder} cannot be of: it is a "
        f"{type(model).__name__} of {count} {'output' if count == 1 else 'outputs'}; choose from "
        f"{', '.join(able)}"
    )


def _can_be(task: Task, model: Any) -> bool:
    if kind_of_task(task) is not kind_of_model(model):
        return False
    one = outputs_of(model) == 1
    if task in ONE_OUTPUT:
        return one
    return not (one and task == "single_label_classification")


def _by_rows(folder: Path, model: Any, names: Sequence[str], given: Mapping[str, Any]) -> Task:
    """What a model of texts predicts, where nobody says it."""
    own = task_by(TEXT, model.config)
    text, pair = given.get("text_column"), given.get("text_pair_column")
    if own != "regression" or (text, pair) in PAIRS or outputs_of(model) != 1:
        return own
    if is_cross_encoder(folder):
        return "reranking"
    if text is not None and pair is None:
        return own  # of that text alone
    label = given.get("label_column")
    found = found_answers(dict.fromkeys(names, ()), query=text, text=pair, label=_one(label))
    known = found is not None and (text is None or text == asked_in(names))
    return "reranking" if known else own


def _ranked(file: str, names: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    found = find_answers(
        dict.fromkeys(names, ()),
        file,
        query=given.get("text_column"),
        text=given.get("text_pair_column"),
        label=_one(given.get("label_column")),
        options=("data.text_column", "data.text_pair_column", "data.label_column"),
    )
    columns: dict[str, Any] = {"text_column": found.query, "text_pair_column": found.text}
    if found.label is None:
        return {**columns, "negative_column": list(found.negatives)}
    return columns if "label_column" in given else {**columns, "label_column": found.label}


def _one(label: Any) -> str | None:
    return label if isinstance(label, str) else None


def _check_unread(file: str, names: Sequence[str], given: Mapping[str, Any]) -> None:
    """Refuse to measure the text of a query as if nobody had asked."""
    asked = asked_in(names)
    if asked is None or "text" not in names or {"text_column", "text_pair_column"} & given.keys():
        return
    raise DataError(
        f"{file} has a column {asked!r}, and 'text' alone would be read: for pairs say "
        f"data.text_column: {asked!r} and data.text_pair_column: 'text', for single texts "
        "data.text_column: 'text'"
    )
