"""One call for people who have a fine-tuned model and rows."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hfprune.api.about import names_of, sentence_transformers_class, task_of
from hfprune.api.compressed import Compressed
from hfprune.api.rows import Rows, as_file, columns_of
from hfprune.core.errors import RecipeError
from hfprune.core.ownership import make_marked, remove_marked, require_ours
from hfprune.core.tasks import Task
from hfprune.pipeline.run import run
from hfprune.pipeline.store import StageStore
from hfprune.recipe.sections.whole import Recipe
from hfprune.report.console import Console

# What is written here while it runs: rows and models that were given as objects.
INPUTS_SUFFIX = ".inputs"
# What went best on the data sets of docs/notes.md.
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "training": {
        "learning_rate": 1e-4,
        "per_device_train_batch_size": 32,
        "bf16": "auto",
        "group_by_length": True,
    },
    "pruning": {"method": "reconstruction"},
    "recovery": {"num_train_epochs": 3.0, "learning_rate": 2e-4, "freeze_embeddings": True},
}


def compress(
    model: Any,
    *,
    train: Rows,
    validation: Rows | None = None,
    test: Rows | None = None,
    unlabeled: Rows | None = None,
    tokenizer: Any = None,
    speedup: float | Sequence[float] | None = None,
    sparsity: float | None = None,
    max_metric_drop: float | None = None,
    keep_layers: Sequence[int] | None = None,
    task: Task | None = None,
    text_column: str = "text",
    text_pair_column: str | None = None,
    label_column: str = "label",
    label_names: Sequence[str] | None = None,
    output_dir: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    **sections: Any,
) -> Compressed:
    """Prune, distil, export, quantize and measure a fine-tuned model.

    It is the run of a recipe: the same stages, the same results, the same files.

    >>> small = hfprune.compress("my-classifier", train="rows.csv", speedup=6)  # doctest: +SKIP
    >>> small.metrics["accuracy"], small.metrics["speedup"]  # doctest: +SKIP
    >>> small.export("served")  # doctest: +SKIP

    Args:
        model: folder, Hub name, or a model in memory (a ``SentenceTransformer`` too);
            fine-tuned, and the teacher. With
            ``teacher={"num_train_epochs": 3}`` an encoder that is fine-tuned first.
        train, validation, test: rows: a path, a ``datasets.Dataset``, a pandas ``DataFrame``, a
            dict of columns or a list of dicts. What is not given is held out of ``train``.
        unlabeled: further texts in the same columns, without labels: the teacher labels them.
        tokenizer: folder, Hub name or object; needed for a model in memory.
        speedup, sparsity, max_metric_drop, keep_layers: the target, exactly one of them, as in a
            recipe's ``pruning``; several speed-ups give a family.
        task: as in a recipe; found from the model where it is in memory, else
            ``single_label_classification``.
        text_column, text_pair_column, label_column, label_names: as in a recipe's ``data``; of
            reranking ``query`` and ``text`` where they are not given. Embeddings need texts alone.
        output_dir: where files are kept; a temporary folder without it.
        resume, overwrite: as in a recipe.
        quiet: no progress.
        **sections: a recipe's sections (``training``, ``pruning``, ``distillation``,
            ``recovery``, ``data``, ``evaluation``, ``export``, ``benchmark``, ``teacher``) as
            dicts, over the defaults.

    Returns:
        The finished run.

    Raises:
        RecipeError: for arguments that no recipe allows.
        DataError: for rows that cannot be read.
        HFPruneError: as :func:`hfprune.pipeline.run`.
    """
    keeper = None
    if output_dir is None:
        keeper = tempfile.TemporaryDirectory(prefix="hfprune-", ignore_cleanup_errors=True)
        output_dir = Path(keeper.name) / "model"
    output = Path(output_dir)
    target = {
        "speedup": list(map(float, speedup)) if isinstance(speedup, Sequence) else speedup,
        "sparsity": sparsity,
        "max_metric_drop": max_metric_drop,
        "keep_layers": None if keep_layers is None else list(keep_layers),
    }
    target = {name: value for name, value in target.items() if value is not None}
    if isinstance(target.get("speedup"), int):
        target["speedup"] = float(target["speedup"])  # type: ignore[arg-type]
    named = task or task_of(model)
    text_column, text_pair_column, columns = columns_of(
        named, text_column, text_pair_column, label_column, sections.get("data")
    )
    with _inputs(output) as folder:
        name, reader = _as_folder(model, tokenizer, folder)
        files = {
            f"{part}_file": as_file(rows, folder / f"{part}.jsonl", what=part, needed=columns)
            for part, rows in (("train", train), ("validation", validation), ("test", test))
            if rows is not None
        }
        if unlabeled is not None:
            texts = [text_column, *([text_pair_column] if text_pair_column else [])]
            files["unlabeled_file"] = as_file(
                unlabeled, folder / "unlabeled.jsonl", what="unlabeled", needed=texts
            )
        found = label_names or names_of(model)
        values: dict[str, Any] = {
            "model": {"name_or_path": name, **({"tokenizer": reader} if reader else {})},
            "task": named,
            "data": {
                **files,
                "text_column": text_column,
                **({} if named == "sentence_embedding" else {"label_column": label_column}),
                **({"text_pair_column": text_pair_column} if text_pair_column else {}),
                **({"label_names": list(found)} if found else {}),
            },
            "teacher": {} if "teacher" in sections else {"name_or_path": name},
            "output_dir": str(output),
            "resume": resume,
            "overwrite": overwrite,
        }
        _add_sections(values, sections, target)
        run(Recipe(**values), Console(quiet=quiet))
    return Compressed(output, keeper)


def _add_sections(
    values: dict[str, Any], sections: Mapping[str, Any], target: Mapping[str, Any]
) -> None:
    for name in sections:
        if name not in Recipe.model_fields:
            raise RecipeError(
                f"compress has no argument {name!r}; sections of a recipe are "
                f"{', '.join(key for key in Recipe.model_fields if key != 'output_dir')}"
            )
    for name in {**DEFAULTS, **sections}:
        given = sections.get(name, {})
        if given is not None and not isinstance(given, Mapping):
            given = given.model_dump(exclude_unset=True)
        if given is None:  # a section that may be null, such as distillation
            values[name] = None
            continue
        values[name] = {**values.get(name, {}), **DEFAULTS.get(name, {}), **given}
    if "keep_layers" in target:
        values["pruning"].pop("method", None)
    values["pruning"] |= target


@contextmanager
def _inputs(output: Path) -> Iterator[Path]:
    """A folder beside the output for what was given as objects.

    It stays only beside the work folder of a run that did not finish, whose recipe names it.
    """
    folder = output.with_name(output.name + INPUTS_SUFFIX)
    require_ours(folder, "rows and models that are given as objects")
    remove_marked(folder)
    make_marked(folder, output=output.name)
    try:
        yield folder
    except BaseException:
        if not StageStore(output).folder.exists():
            remove_marked(folder)
        raise
    remove_marked(folder)


def _as_folder(model: Any, tokenizer: Any, folder: Path) -> tuple[str, str | None]:
    """Where model and tokenizer lie; objects are saved."""
    if isinstance(model, str | Path):
        if tokenizer is None or isinstance(tokenizer, str | Path):
            return str(model), None if tokenizer is None else str(tokenizer)
        tokenizer.save_pretrained(folder / "tokenizer")
        return str(model), str(folder / "tokenizer")
    if sentence_transformers_class(model) and tokenizer is None:
        model.save_pretrained(str(folder / "model"))
        return str(folder / "model"), None
    if tokenizer is None:
        raise RecipeError(
            "a model in memory needs its tokenizer (or image processor): pass tokenizer=..., an "
            "object, a folder or a name on the Hub"
        )
    model.save_pretrained(folder / "model")
    if isinstance(tokenizer, str | Path):
        return str(folder / "model"), str(tokenizer)
    tokenizer.save_pretrained(folder / "model")
    return str(folder / "model"), None
