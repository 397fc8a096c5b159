"""The models and tokenizers that a recipe names: loaded, or refused with what to change.

What transformers raises for a wrong name, a missing revision or a damaged file comes in many
classes and speaks of its own arguments; here each becomes an error that speaks of the recipe.
No code that comes with a model is run unless the recipe says so (``trust_remote_code``).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc  # type: ignore[import-untyped]
import transformers
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers.models.auto.image_processing_auto import get_image_processor_config
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from hfprune.core.errors import (
    CheckpointError,
    DataError,
    HFPruneError,
    RecipeError,
    UnsupportedModelError,
)
from hfprune.core.faults import is_out_of_memory
from hfprune.core.kinds import IMAGE, KINDS, auto_class, image_shape, kind_of_task
from hfprune.core.tasks import Task
from hfprune.data.processors import load_processor as read_processor
from hfprune.data.task_data import TEXT_ROW
from hfprune.families import adapter_for, adapter_of, position_limit
from hfprune.models.adapters import base_of_adapter, check_adapter, is_adapter, load_merged
from hfprune.models.checkpoint import from_pretrained, was_pruned
from hfprune.models.folders import model_folder

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
    with _explained(name, revision, key, trust_remote_code):
        place = model_folder(name)
        if is_adapter(place) and not (Path(place) / "tokenizer_config.json").is_file():
            place, revision = base_of_adapter(place), None
        if not trust_remote_code:
            read = (
                get_image_processor_config if kind_of_task(task) is IMAGE else get_tokenizer_config
            )
            _refuse_code(name, key, read(place, revision=revision).get("auto_map"))
        processor = read_processor(
            place, task, revision=revision, trust_remote_code=trust_remote_code
        )
        # transformers 5 makes an empty tokenizer where there are no files of one.
        if kind_of_task(task) is not IMAGE and len(processor) <= len(processor.all_special_ids):
            raise CheckpointError(
                f"{key} {name!r} holds no tokenizer, or one without a vocabulary: save the "
                "model's tokenizer beside it, or name another"
            )
        return processor


def load_classifier(
    name: str,
    data: TaskData,
    *,
    revision: str | None,
    trust_remote_code: bool,
    key: str,
    trained: bool,
) -> Any:
    """A classifier for the data's task; a model that hfprune shrank before is taken as it is.

    Of a sentence encoder the transformer, with a new head; an adapter is merged into its base.

    Args:
        key: the recipe's key that names it, for errors.
        trained: whether it must already be fine-tuned for this task (a teacher), so that a missing
            head or labels in another order are mistakes.

    Raises:
        CheckpointError: it cannot be found or read, or is for another task.
        DataError: it reads other images than those of three channels.
        MissingExtraError: an adapter, without peft.
        UnsupportedModelError: an unknown family, or code of its own that is not trusted.
    """
    with _explained(name, revision, key, trust_remote_code):
        place = model_folder(name)
        adapter = is_adapter(place)
        source = base_of_adapter(place) if adapter else place
        revision = None if adapter else revision
        config = AutoConfig.from_pretrained(
            source, revision=revision, trust_remote_code=trust_remote_code
        )
        if not trust_remote_code:
            _refuse_code(name, key, getattr(config, "auto_map", None))
        adapter_for(str(config.model_type))
        if trained:
            _check_task(config, data, name, key)
        if was_pruned(config, source):
            small = from_pretrained(source, revision=revision)
            if small.config.num_labels != data.num_labels:
                raise CheckpointError(
                    f"{name} was shrunk for {small.config.num_labels} labels, the data has "
                    f"{data.num_labels}; start from a model of the same task, or a dense one"
                )
            return small
        labels: dict[str, Any] = {"num_labels": data.num_labels}
        if data.label_names:
            labels = {"id2label": data.id2label, "label2id": data.label2id}
        if data.task != "token_classification":
            labels["problem_type"] = data.task
        options = {"revision": revision, "trust_remote_code": trust_remote_code, **labels}
        kind = auto_class(IMAGE if data.of_images else kind_of_task(data.task))
        found: dict[str, Any] = {"missing_keys": []}
        try:
            if adapter:
                model = load_merged(place, kind, **options)
            else:
                with _untold():
                    model, found = kind.from_pretrained(source, output_loading_info=True, **options)
        except RuntimeError as error:
            if config.num_labels != data.num_labels and "mismatch" in str(error):
                raise CheckpointError(
                    f"{key} {name!r} has a head for {config.num_labels} labels, the data has "
                    f"{data.num_labels} ({', '.join(data.label_names) or 'a number'}): name a "
                    "model of this task, or one without a head, which gets a new one"
                ) from error
            raise
    adapter_of(model)  # refuses adapters that came with a model of the Hub
    if data.of_images:
        _check_channels(model, name)
    missing = sorted(found["missing_keys"])
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


@contextlib.contextmanager
def _untold() -> Iterator[None]:
    """Without transformers' own list of missing weights, which tells people to train the model."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)


def load_saved(folder: str) -> Any:
    """A saved model as it is, dense or shrunk, with the head that its config names.

    For those who look at a model and have no task for it.

    Raises:
        CheckpointError: for a directory (or Hub name) that holds no model that can be loaded.
        MissingExtraError: for an adapter, without peft.
        UnsupportedModelError: for a family without an adapter file.
    """
    check_adapter(folder)
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} holds no model: {error}") from error
    adapter_for(str(config.model_type))
    if was_pruned(config, folder):
        return from_pretrained(folder)
    name = (getattr(config, "architectures", None) or [""])[0]
    loader: Any = AutoModel
    for kind in KINDS:
        if name.endswith(kind.ending):
            loader = auto_class(kind)
    try:
        return loader.from_pretrained(folder).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the model in {folder} cannot be loaded: {error}") from error


def load_saved_classifier(folder: str) -> Any:
    """As :func:`load_saved`, and what it gives has a classifier's head.

    Raises:
        CheckpointError: also for a model whose config names no class with such a head: one would
            be made of random numbers.
    """
    try:
        model = load_saved(folder)
    except CheckpointError as error:
        raise CheckpointError(f"{folder} holds no classifier: {error}") from error
    name = type(model).__name__
    if not name.endswith(tuple(kind.ending for kind in KINDS)):
        raise CheckpointError(
            f"{folder} holds no classifier but a {name}: give a folder that a run or save_model "
            "of a classifier wrote"
        )
    return model


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
    if problem is not None and problem != data.task:
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


def _refuse_code(name: str, key: str, auto_map: Any) -> None:
    if auto_map:
        raise UnsupportedModelError(
            f"{key} {name!r} brings Python code of its own (auto_map: {auto_map!r:.120}), which is "
            "not run unless the recipe says so: read that code, then set "
            "model.trust_remote_code: true, or name a model without it"
        )


@contextlib.contextmanager
def _explained(name: str, revision: str | None, key: str, trusted: bool) -> Iterator[None]:
    """Turn what transformers and the Hub's client raise into an error about the recipe."""
    try:
        yield
    except HFPruneError:
        raise
    except Exception as error:
        text = str(error)
        if not trusted and "trust_remote_code" in text:
            _refuse_code(name, key, "see its config.json")
        if is_out_of_memory(error):
            raise
        at = f" at revision {revision!r}" if revision is not None else ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        said = " ".join(lines[:2])[:400]
        raise CheckpointError(
            f"{key} {name!r}{at} cannot be loaded: {type(error).__name__}: {said}. Check the name "
            "or path, the revision, that its files are whole, and (for the Hub) the network and "
            "access"
        ) from error
