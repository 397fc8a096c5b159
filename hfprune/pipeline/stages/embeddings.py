"""What a sentence encoder learns from in place of labels: the dense model's own embeddings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hfprune.core.files import atomic_directory
from hfprune.data.task_data import SPLITS
from hfprune.deploy.runtimes.predicting import predict_logits
from hfprune.models.encoder_checks import prompt_before
from hfprune.models.explaining import explained
from hfprune.models.layout import read_layout, search_prompts
from hfprune.models.loading import check_fits
from hfprune.models.sentences import local_folder
from hfprune.pipeline.context import Context
from hfprune.pipeline.prepared import Reading, load_dense_embedder
from hfprune.pipeline.results import Embedded
from hfprune.recipe.sections.model import ModelConfig, TeacherConfig
from hfprune.recipe.sections.whole import Recipe

FOLDER = "embeddings"


def prompt(recipe: Recipe) -> str:
    """What stands before each text; empty for other tasks, and where the model has no prompt.

    Raises:
        CheckpointError: the recipe names a prompt that the model does not have.
        UnsupportedModelError: the model's folder puts texts in small letters before its tokenizer,
            which nothing that is exported would do.
    """
    if recipe.task != "sentence_embedding":
        return ""
    folder, (key, section) = _folder(recipe), dense_of(recipe)
    where = f"{key} {section.name_or_path!r}"
    return prompt_before(read_layout(folder), folder, recipe.data.prompt, where)


def prompts_to_search(recipe: Recipe) -> tuple[str, str]:
    """What stands before queries, and before the texts to find."""
    return search_prompts(_folder(recipe), recipe.data.prompt)


def dense_of(recipe: Recipe) -> tuple[str, ModelConfig | TeacherConfig]:
    """What names the dense model, which is pruned and learned from: the key and its section."""
    if recipe.teacher.name_or_path is None:
        return "model.name_or_path", recipe.model
    return "teacher.name_or_path", recipe.teacher


def _folder(recipe: Recipe) -> str:
    key, section = dense_of(recipe)
    name = str(section.name_or_path)
    with explained(name, section.revision, key, False):
        return local_folder(name, section.revision)


def labelled(context: Context, reading: Reading) -> Reading:
    """The rows with the dense model's embeddings as labels."""
    found = context.stage(
        "embeddings", Embedded, lambda: _embedded(context, reading), {}, by_main=True
    )
    folder = context.path(found.folder)
    vectors = {name: np.load(folder / f"{name}.npy") for name in SPLITS}
    return replace(reading, data=reading.data.with_embeddings(vectors))


def _embedded(context: Context, reading: Reading) -> Embedded:
    recipe, data = context.recipe, reading.data
    key, section = dense_of(recipe)
    model = load_dense_embedder(recipe, str(section.name_or_path), section.revision, key)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = reading.processor.pad_token_id
    check_fits(model, data, reading.processor, recipe.benchmark.sequence_lengths)
    size = recipe.training.per_device_eval_batch_size
    with (
        atomic_directory(context.path(FOLDER), overwrite=True) as folder,
        context.console.progress("embeddings") as progress,
    ):
        for name in SPLITS:
            rows = data.split(name)
            vectors = predict_logits(
                model, rows, reading.collator, batch_size=size, progress=progress
            )
            np.save(folder / f"{name}.npy", vectors)
    return Embedded(folder=FOLDER)
