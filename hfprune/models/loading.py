"""The models and tokenizers that a recipe names: loaded, or refused with what to change.

What transformers raises for a wrong name, a missing revision or a damaged file comes in many
classes and speaks of its own arguments; here each becomes an error that speaks of the recipe.
No code that comes with a model is run unless the recipe says so (``trust_remote_code``).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow.compute as pc  # type: ignore[import-untyped]
from torch import nn
from transformers.models.auto.image_processing_auto import get_image_processor_config
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from hfprune.core.errors import (
    CheckpointError,
    DataError,
    RecipeError,
)
from hfprune.core.kinds import IMAGE, auto_class, image_shape, kind_of_task
from hfprune.core.reading import pointer_problem
from hfprune.core.tasks import Task, problem_type_of
from hfprune.data.processors import load_processor as read_processor
from hfprune.data.task_data import TEXT_ROW
from hfprune.families import adapter_for, adapter_of, position_limit
from hfprune.models.adapters import (
    adapter_weights,
    base_of_adapter,
    check_adapter,
    is_adapter,
    labels_of_adapter,
    load_merged,
)
from hfprune.models.checkpoint import from_pretrained, was_pruned
from hfprune.models.configs import check_raw, load_config, plain_outputs_, read_raw
from hfprune.models.cross_encoder import refuse_changed_texts
from hfprune.models.explaining import code_of, explained, find, refuse_code, untold
from hfprune.models.fetching import fetch, small_files
from hfprune.models.folders import check_files, check_place, has_tokenizer, model_folder
from hfprune.models.heads import new_head_
from hfprune.models.whole import load_whole

if TYPE_CHECKING:
    from hfprune.data.task_data import TaskData

logger = logging.getLogger(__name__)


def load_processor(
    name: str, task: Task, *, revision: str | None, trust_remote_code: bool, key: str
) -> Any:
    """The tokenizer of a repository or folder, for images its image processor.

    In a folder of sentence-transformers it is that of the transformer; an adapter without one has
    that of its base model.

    Args:
        task: what it is for, see :func:`hfprune.data.processors.load_processor`.
        key: the recipe's key that names it, for errors.

    Raises:
        CheckpointError: it cannot be found or read.
        DataError: there is no image processor, or a tokenizer that does not suit tagged words.
        UnsupportedModelError: it brings code of its own and is not trusted.
    """
    with explained(name, revision, key, trust_remote_code):
        place, revision = find(name, key, lambda: _place_of_processor(name, revision))
        images = kind_of_task(task) is IMAGE
        if Path(place).is_dir() and not images and not has_tokenizer(place):
            raise CheckpointError(
                f"{key} {name!r} holds no tokenizer: save the model's beside it "
                "(tokenizer.save_pretrained), or name the model that it was fine-tuned from in "
                "model.tokenizer"
            )
        fetch(place, revision, weights=False)
        if not trust_remote_code:
            read = get_image_processor_config if images else get_tokenizer_config
            refuse_code(name, key, read(place, revision=revision).get("auto_map"))
        processor = read_processor(
            place, task, revision=revision, trust_remote_code=trust_remote_code
        )
        # transformers 5 makes an empty tokenizer where there are no files of one.
        if not images and len(processor) <= len(processor.all_special_ids):
            raise CheckpointError(
                f"{key} {name!r} holds no tokenizer, or one without a vocabulary: save the "
                "model's tokenizer beside it, or name another"
            )
        return processor


def _place_of_processor(name: str, revision: str | None) -> tuple[str, str | None]:
    check_place(name)
    place = model_folder(name)
    if is_adapter(place) and not has_tokenizer(place):
        return base_of_adapter(place), None
    for file in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        if (pointer := pointer_problem(Path(place) / file)) is not None:
            raise CheckpointError(f"{Path(place) / file} cannot be read: {pointer}")
    return place, revision


def load_classifier(
    name: str,
    data: TaskData,
    *,
    revision: str | None,
    trust_remote_code: bool,
    key: str,
    trained: bool,
    new_head: bool = False,
) -> Any:
    """A classifier for the data's task; a model that hfprune shrank before is taken as it is.

    Of a sentence encoder the transformer, with a new head; an adapter is merged into its base.

    Args:
        key: the recipe's key that names it, for errors.
        trained: whether it must already be fine-tuned for this task (a teacher), so that a missing
            head or labels in another order are mistakes.
        new_head: whether its head, of whatever size, is exchanged for a random one that training
            fits to the data's labels (``model.new_head``).

    Raises:
        CheckpointError: it cannot be found or read, or is for another task.
        DataError: it reads other images than those of three channels.
        MissingExtraError: an adapter, without peft.
        UnsupportedModelError: an unknown family, code of its own that is not trusted, or a
            CrossEncoder with a prompt.
    """
    with explained(name, revision, key, trust_remote_code):
        source = find(name, key, lambda: _source_of(name, revision))
        config = find(
            name,
            key,
            lambda: load_config(
                source.base, revision=source.revision, trust_remote_code=trust_remote_code
            ),
        )
        if not trust_remote_code:
            refuse_code(name, key, code_of(config))
        adapter_for(str(config.model_type))
        if trained:
            _check_task(config, data, name, key)
        fetch(source.base, source.revision)
        refuse_changed_texts(small_files(source.base, source.revision))
        model, missing = _load_dense_or_shrunk(
            source, config, data, name=name, key=key, trusted=trust_remote_code, new_head=new_head
        )
    adapter_of(model)  # refuses adapters that came with a model of the Hub
    if data.of_images:
        _check_channels(model, name)
    if trained and missing:
        raise CheckpointError(
            f"{key} {name!r} lacks {', '.join(missing[:3])}: it was not fine-tuned as a "
            "classifier, and random weights would teach nothing. Name a fine-tuned model, or set "
            f"{key} to null to fine-tune one first"
        )
    if missing:
        logger.warning(
            "%s has no weights for %s%s: they start from random numbers, and training fits them",
            name,
            ", ".join(missing[:4]),
            f" and {len(missing) - 4} more" if len(missing) > 4 else "",
        )
    return model


def check_model(name: str, key: str) -> str | None:
    """Refuse what can be refused of a model without loading it; its type, if that is known.

    Args:
        name: a folder; of a name on the Hub nothing is known yet.
        key: the recipe's key that names it, for errors.

    Raises:
        CheckpointError: a path that is not there, files that are damaged or none, a config that
            describes no model.
        MissingExtraError: an adapter, without peft.
        UnsupportedModelError: a family without an adapter file, or a CrossEncoder with a prompt.
    """

    def look() -> str | None:
        base = _source_of(name, None).base
        if not Path(base).is_dir():
            return None
        check_files(base)
        raw = read_raw(base, None)
        check_raw(raw, str(Path(base) / "config.json"))
        refuse_changed_texts(base)
        return str(raw.get("model_type"))

    kind: str | None = find(name, key, look)
    if kind is not None:
        adapter_for(kind)
    return kind


class _Source(NamedTuple):
    """Where a model's files lie."""

    place: str
    base: str  # of an adapter the model that it was made for, else the same
    revision: str | None

    @property
    def adapter(self) -> bool:
        return self.base != self.place


def _source_of(name: str, revision: str | None) -> _Source:
    check_place(name)
    place = model_folder(name)
    if is_adapter(place):
        check_adapter(place)
        return _Source(place, base_of_adapter(place), None)
    check_files(place)
    return _Source(place, place, revision)


def _load_dense_or_shrunk(
    source: _Source,
    config: Any,
    data: TaskData,
    *,
    name: str,
    key: str,
    trusted: bool,
    new_head: bool,
) -> tuple[Any, tuple[str, ...]]:
    """The model with the data's labels, and which of its weights are random."""
    labels = _labels_of(data)
    if was_pruned(config, source.base):
        small = from_pretrained(source.base, revision=source.revision)
        plain_outputs_(small.config)
        if new_head:
            return load_whole(lambda: _with_new_head(small, data), name), ()
        if small.config.num_labels != data.num_labels:
            raise CheckpointError(
                f"{name} was shrunk for {small.config.num_labels} labels, the data has "
                f"{data.num_labels}; start from a model of the same task, or a dense one, or set "
                "model.new_head: true for a new head"
            )
        return small, ()
    found = config.num_labels
    if source.adapter:
        found = labels_of_adapter(adapter_weights(source.place)) or found
    if new_head:  # loaded with the head that it has, of whatever size
        labels = {"num_labels": found}
    options: dict[str, Any] = {"trust_remote_code": trusted, "revision": source.revision}
    options["config"] = load_config(source.base, **options, **labels)
    kind = auto_class(IMAGE if data.of_images else kind_of_task(data.task))
    told: dict[str, Any] = {"missing_keys": []}
    if source.adapter and not new_head and found != data.num_labels:
        raise CheckpointError(_other_labels(name, key, found, data))

    def load() -> Any:
        nonlocal told
        if source.adapter:
            model, missing = load_merged(source.place, kind, **options)
            told = {"missing_keys": missing}
            return _with_new_head(model, data) if new_head else model
        with untold():
            model, told = kind.from_pretrained(source.base, output_loading_info=True, **options)
        return _with_new_head(model, data) if new_head else model

    try:
        model = load_whole(load, name)
    except RuntimeError as error:
        if config.num_labels != data.num_labels and "mismatch" in str(error):
            raise CheckpointError(_other_labels(name, key, config.num_labels, data)) from error
        raise
    return model, () if new_head else tuple(sorted(told["missing_keys"]))


def _labels_of(data: TaskData) -> dict[str, Any]:
    """What a config says of the data's labels."""
    labels: dict[str, Any] = {"num_labels": data.num_labels}
    if data.label_names or data.task == "reranking":  # a name would make it a class
        labels = {"id2label": data.id2label, "label2id": data.label2id}
    problem = problem_type_of(data.task)
    if problem is not None:
        labels["problem_type"] = problem
    return labels


def _with_new_head(model: Any, data: TaskData) -> Any:
    logger.warning("a new head starts from random numbers (model.new_head), and training fits it")
    new_head_(model, data.num_labels)
    for name, value in _labels_of(data).items():
        setattr(model.config, name, value)
    return model


def _other_labels(name: str, key: str, found: int, data: TaskData) -> str:
    option = "set model.new_head: true for a new head in its place, "
    return (
        f"{key} {name!r} has a head for {found} labels, the data has {data.num_labels} "
        f"({', '.join(data.label_names) or 'a number'}): "
        f"{option if key.startswith('model.') else ''}name a model of this task, or one without a "
        "head, which gets a new one"
    )


def check_fits(
    model: nn.Module, data: TaskData, tokenizer: Any, sequence_lengths: Sequence[int]
) -> None:
    """Refuse early what would end in an index error within training or the benchmark.

    Raises:
        DataError: token ids beyond the model's vocabulary, rows longer than its positions, or rows
            of no token.
        RecipeError: lengths to time that are longer than its positions.
    """
    if data.of_images:
        return
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    limit = position_limit(model)
    for split in ("train", "validation", "test"):
        column = data.split(split).with_format("arrow")[:]["input_ids"]
        lengths = pc.list_value_length(column)
        if not len(lengths):  # rows to evaluate on have no other splits
            continue
        shortest, longest = pc.min(lengths).as_py(), pc.max(lengths).as_py()
        if shortest == 0:
            row = pc.index(lengths, 0).as_py()
            row = data.split(split)[row].get(TEXT_ROW, row)
            raise DataError(
                f"the tokenizer makes no token of the text {data.texts[split][row]!r:.60} in "
                f"{split}, and adds none of its own: remove such rows, or use a tokenizer that "
                "marks the beginning or end of a text"
            )
        if limit is not None and longest > limit:
            raise DataError(
                f"data.max_length is {data.max_length} and {split} holds rows of {longest} tokens, "
                f"but the model has positions for {limit}: set data.max_length to {limit} or less"
            )
        highest = pc.max(pc.list_flatten(column)).as_py()
        if highest >= embedding.num_embeddings:
            raise DataError(
                f"the tokenizer ({len(tokenizer)} tokens) gives the id {highest} in {split}, but "
                f"the model's vocabulary has {embedding.num_embeddings}: they do not belong "
                "together; set model.tokenizer to the model's own"
            )
    if limit is not None and max(sequence_lengths, default=0) > limit:
        raise RecipeError(
            f"benchmark.sequence_lengths asks for {max(sequence_lengths)} tokens, but the model "
            f"has positions for {limit}: list shorter lengths"
        )


def _check_channels(model: Any, name: str) -> None:
    channels, _, _ = image_shape(model.config)
    if channels != 3:
        raise DataError(
            f"{name} reads images of {channels} channels (num_channels in its config.json); data "
            "is given to models as RGB, so take one of 3 channels"
        )


def _check_task(config: Any, data: TaskData, name: str, key: str) -> None:
    """A teacher's config must not contradict the data."""
    problem = getattr(config, "problem_type", None)
    if problem is not None and problem != problem_type_of(data.task):
        raise CheckpointError(
            f"{key} {name!r} was fine-tuned for {problem}, the recipe's task is {data.task}: name "
            "a teacher of this task"
        )
    theirs = [str(config.id2label[number]) for number in sorted(config.id2label)]
    mine = list(data.label_names)
    generic = all(label == f"LABEL_{number}" for number, label in enumerate(theirs))
    if not mine or generic or theirs == mine or len(theirs) != len(mine):
        return
    if sorted(map(str.lower, theirs)) == sorted(map(str.lower, mine)):
        if [label.lower() for label in theirs] != [label.lower() for label in mine]:
            raise CheckpointError(
                f"{key} {name!r} numbers its labels {theirs}, the data {mine}: its answers would "
                f"be taken for others; set data.label_names to {theirs}"
            )
        return
    logger.warning(
        "%s %r was fine-tuned for the labels %s, the data has %s: they are taken in this order",
        key,
        name,
        theirs,
        mine,
    )
