"""Recipes: what is accepted and what it becomes; what is refused, and in which words."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hfprune.core.errors import HFPruneError, RecipeError
from hfprune.core.tasks import DEFAULT_METRICS, METRICS
from hfprune.recipe.reading import dump_recipe, load_recipe, parse_recipe, recipe_schema
from hfprune.recipe.sections.data import DataConfig
from hfprune.recipe.sections.evaluation import BenchmarkConfig
from hfprune.recipe.sections.export import QuantizationConfig
from hfprune.recipe.sections.hub import HubConfig, branch_problem, repo_id_problem
from hfprune.recipe.sections.model import ModelConfig, TeacherConfig
from hfprune.recipe.sections.pruning import PruningConfig
from hfprune.recipe.sections.training import DistillationConfig, TrainingConfig
from hfprune.recipe.sections.whole import Recipe

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "recipes").glob("*.yaml"))
MINIMAL = """\
model:
  name_or_path: org/model
data:
  name: org/data
pruning:
  sparsity: 0.5
output_dir: runs/x
"""


def message(text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, source="r.yaml", overrides=overrides)
    return str(caught.value)


def with_lines(*lines: str) -> str:
    """The minimal recipe (7 lines) and more lines below it."""
    return MINIMAL + "\n".join(lines) + "\n"


# ------------------------------------------------------------------------------ what is accepted


@pytest.mark.parametrize(
    ("lines", "chosen"),
    [
        ((), True),
        (("export: {quantization: auto}",), True),
        (("deploy: {seconds: 5}",), True),
        (("deploy: null",), False),
        (("export: {quantization: {per_channel: true}}",), False),
        (("export: {quantization: null}",), False),
        (("export: {quantization: {}}", "deploy: {}"), True),
        (("export: {quantization: {}, max_quantization_drop: 0.1}", "deploy: {}"), True),
    ],
)
def test_files_are_chosen_unless_they_are_named(lines: tuple[str, ...], chosen: bool) -> None:
    recipe = parse_recipe(with_lines(*lines), source="r.yaml")
    assert (recipe.deploy is not None) == chosen
    again = parse_recipe(dump_recipe(recipe), source="again.yaml")
    assert again == recipe, "what is written out means the same"


def test_a_minimal_recipe_shows_what_will_be_done() -> None:
    recipe = parse_recipe(MINIMAL)
    assert recipe.task == "single_label_classification"
    assert recipe.evaluation.metrics == list(DEFAULT_METRICS["single_label_classification"])
    assert recipe.training.metric_for_best_model == "accuracy"
    assert recipe.training.greater_is_better is True
    assert recipe.distillation == DistillationConfig()
    assert recipe.benchmark.sequence_lengths == [32, 128]
    assert recipe.export.quantization == "auto"


@pytest.mark.parametrize(
    ("overrides", "best", "greater"),
    [
        (["task=multi_label_classification"], "f1_macro", True),
        (["task=regression"], "pearson", True),
        (["task=regression", "evaluation.metrics=[mse, spearman]"], "mse", False),
        (["evaluation.metrics=[mcc]"], "mcc", True),
        (["training.metric_for_best_model=loss"], "loss", False),
        (["training.metric_for_best_model=f1_macro"], "f1_macro", True),
    ],
)
def test_the_best_checkpoint_is_chosen_by_a_metric_of_the_task(
    overrides: list[str], best: str, greater: bool
) -> None:
    training = parse_recipe(MINIMAL, overrides=overrides).training
    assert (training.metric_for_best_model, training.greater_is_better) == (best, greater)


@pytest.mark.parametrize(
    ("max_length", "expected"), [(16, [16]), (64, [32]), (128, [32, 128]), (512, [32, 128])]
)
def test_lengths_to_time_follow_the_longest_input(max_length: int, expected: list[int]) -> None:
    recipe = parse_recipe(MINIMAL, overrides=[f"data.max_length={max_length}"])
    assert recipe.benchmark.sequence_lengths == expected


@pytest.mark.parametrize(
    ("written", "value"),
    [("5e-5", 5e-5), ("5.0e-5", 5e-5), ("1E-3", 1e-3), ("1", 1.0), (".5", 0.5)],
)
def test_numbers_are_read_as_people_write_them(written: str, value: float) -> None:
    rate = parse_recipe(with_lines("training:", f"  learning_rate: {written}")).training
    assert rate.learning_rate == value
    assert type(rate.learning_rate) is float


def test_no_is_a_word_and_not_a_truth_value() -> None:
    lines = ["training:", "  eval_strategy: no", "  load_best_model_at_end: false"]
    assert parse_recipe(with_lines(*lines)).training.eval_strategy == "no"


def test_a_recipe_is_frozen_and_equal_to_its_like() -> None:
    recipe = parse_recipe(MINIMAL)
    with pytest.raises(ValidationError, match="frozen"):
        recipe.output_dir = "other"  # type: ignore[misc]
    assert recipe == parse_recipe(MINIMAL)
    assert recipe != parse_recipe(MINIMAL, overrides=["data.split_seed=1"])


def test_sections_can_be_used_alone_and_put_together() -> None:
    training = TrainingConfig(learning_rate=1e-4)
    recipe = Recipe(
        model=ModelConfig(name_or_path="org/model"),
        data=DataConfig(name="org/data"),
        pruning=PruningConfig(sparsity=0.5),
        training=training,
        output_dir="runs/x",
    )
    assert recipe == parse_recipe(MINIMAL, overrides=["training.learning_rate=1e-4"])
    assert training.metric_for_best_model is None, "a section handed over must not change"


# ------------------------------------------------------------------- what is refused, in one file

SEQUENCE = "training:", "  eval_strategy: steps", "  save_strategy: steps", "  eval_steps: 20"
REFUSED = {
    # unknown keys
    "misspelt": (
        with_lines("training:", "  learning_rte: 1.0"),
        "line 9: training.learning_rte: unknown key, with 1.0 (a number). "
        "Did you mean 'learning_rate'?",
    ),
    "part of a name": (
        with_lines("recovery:", "  epochs: 1"),
        "line 9: recovery.epochs: unknown key, with 1 (a whole number). "
        "Did you mean 'num_train_epochs'?",
    ),
    "wrong section": (
        with_lines("temperature: 2.0"),
        "line 8: temperature: unknown key, with 2.0 (a number). "
        "It belongs to distillation.temperature or export.temperature.",
    ),
    "out of bounds, where a word would do": (
        with_lines("recovery:", "  learning_rate: -1"),
        "line 9: recovery.learning_rate: must be greater than 0, got -1 (a whole number)",
    ),
    "a word misspelt, where a number would do": (
        with_lines("recovery:", "  num_train_epochs: atuo"),
        "line 9: recovery.num_train_epochs: expected a number or one of auto, got 'atuo' (text). "
        "Did you mean 'auto'?",
    ),
    "rounds of a fixed number of epochs": (
        with_lines("recovery:", "  num_train_epochs: 2", "  max_rounds: 3"),
        "lines 9 and 10: recovery: max_rounds is only for num_train_epochs: auto: remove it, or "
        "set num_train_epochs to auto",
    ),
    "nothing like it": (
        with_lines("recovery:", "  zzz: {a: 1}"),
        "line 9: recovery.zzz: unknown key, with the keys a. "
        "Allowed: num_train_epochs, max_rounds, learning_rate, freeze_embeddings.",
    ),
    "nested": (
        with_lines("export:", "  quantization:", "    per_chanel: true"),
        "line 10: export.quantization.per_chanel: unknown key, with true. "
        "Did you mean 'per_channel'?",
    ),
    # types
    "text for a number": (
        with_lines("training:", "  learning_rate: fast"),
        "line 9: training.learning_rate: expected a number, got 'fast' (text)",
    ),
    "quoted number": (
        with_lines("training:", "  learning_rate: '5e-5'"),
        "line 9: training.learning_rate: expected a number, got '5e-5' (text): "
        "write 5e-5, without quotes",
    ),
    "quoted whole number": (
        with_lines("data:", "  name: x", "  max_length: '3'").replace(
            "data:\n  name: org/data\n", "", 1
        ),
        "line 8: data.max_length: expected a whole number, got '3' (text): write 3, without quotes",
    ),
    "fraction for a whole number": (
        with_lines("benchmark:", "  threads: 2.0"),
        "line 9: benchmark.threads: expected a whole number, got 2.0 (a number): write 2",
    ),
    "truth for a number": (
        with_lines("benchmark:", "  threads: true"),
        "line 9: benchmark.threads: expected a whole number, got true",
    ),
    "number for text": (
        MINIMAL.replace("org/data", "42"),
        'line 4: data.name: expected text or null, got 42 (a whole number): write "42", in quotes',
    ),
    "yes for true": (
        with_lines("overwrite: yes"),
        "line 8: overwrite: expected true or false, got 'yes' (text): write true",
    ),
    "one for a list": (
        with_lines("benchmark:", "  batch_sizes: 8"),
        "line 9: benchmark.batch_sizes: expected a list of whole numbers, "
        "got 8 (a whole number): write [8]",
    ),
    "item of a list": (
        with_lines("benchmark:", "  batch_sizes:", "    - 1", "    - many"),
        "line 11: benchmark.batch_sizes[1]: expected a whole number, got 'many' (text)",
    ),
    "empty list": (
        with_lines("benchmark:", "  batch_sizes: []"),
        "line 9: benchmark.batch_sizes: must not be empty",
    ),
    "text or list": (
        MINIMAL.replace("  name: org/data", "  name: org/data\n  label_column: {a: 1}"),
        "line 5: data.label_column: expected text or a list of text, got the keys a",
    ),
    "item of text or list": (
        MINIMAL.replace("  name: org/data", "  name: org/data\n  label_column: [a, 1]"),
        'line 5: data.label_column[1]: expected text, got 1 (a whole number): write "1", in quotes',
    ),
    "empty text": (
        MINIMAL.replace("runs/x", "''"),
        "line 7: output_dir: must not be empty",
    ),
    "choice": (
        MINIMAL + "task: regresion\n",
        "line 8: task: expected one of single_label_classification, multi_label_classification, "
        "regression, token_classification, image_classification, reranking, sentence_embedding, "
        "got 'regresion' "
        "(text). Did you mean 'regression'?",
    ),
    "lengths of images": (
        MINIMAL + "task: image_classification\nbenchmark:\n  sequence_lengths: [16]\n",
        "lines 8 and 10: benchmark.sequence_lengths has no meaning for images, whose size the "
        "model's config names: remove it",
    ),
    "no length": (
        with_lines("benchmark:", "  sequence_lengths: []"),
        "line 9: benchmark.sequence_lengths: must not be empty",
    ),
    "a text column for images": (
        MINIMAL.replace("name: org/data", "name: org/data\n  text_column: t")
        + "task: image_classification\n",
        "lines 5 and 9: data.text_column has no meaning for images: name their column in "
        "data.image_column",
    ),
    "an image column for texts": (
        MINIMAL.replace("name: org/data", "name: org/data\n  image_column: picture"),
        "line 5: data.image_column is only for task image_classification; the task is "
        "single_label_classification: remove it, or change the task",
    ),
    "windows of tagged words": (
        MINIMAL.replace("name: org/data", "name: org/data\n  stride: 8")
        + "task: token_classification\n",
        "lines 5 and 9: data.stride is for one label a text, not for tags of words: remove it",
    ),
    "a smaller vocabulary for tagged words": (
        MINIMAL.replace("sparsity: 0.5", "sparsity: 0.5\n  vocabulary: {min_count: 2}")
        + "task: token_classification\n",
        "lines 7 and 9: pruning.vocabulary splits whole texts anew, and cannot with task "
        "token_classification: remove it",
    ),
    "a smaller vocabulary for windows": (
        MINIMAL.replace("name: org/data", "name: org/data\n  stride: 8").replace(
            "sparsity: 0.5", "sparsity: 0.5\n  vocabulary: {min_count: 2}"
        ),
        "lines 5 and 8: pruning.vocabulary splits whole texts anew, and cannot with data.stride, "
        "which cuts texts to windows: remove it",
    ),
    "variations of images": (
        MINIMAL + "task: image_classification\ndistillation:\n  augmentation: 2\n",
        "lines 8 and 10: distillation.augmentation varies texts that have one label each, and "
        "cannot with task image_classification: remove it",
    ),
    "the rest of images": (
        MINIMAL + "task: image_classification\ndistillation:\n  rest_of_texts: true\n",
        "lines 8 and 10: distillation.rest_of_texts is for whole texts that data.max_length cuts, "
        "and has no meaning with task image_classification: remove it",
    ),
    "the rest of windows": (
        MINIMAL.replace("name: org/data", "name: org/data\n  stride: 8")
        + "distillation:\n  rest_of_texts: true\n",
        "lines 5 and 10: distillation.rest_of_texts is for whole texts that data.max_length cuts, "
        "and has no meaning with data.stride, which cuts texts to windows: remove it",
    ),
    "the rest of pairs": (
        MINIMAL.replace("name: org/data", "name: org/data\n  text_pair_column: b")
        + "distillation:\n  rest_of_texts: true\n",
        "lines 5 and 10: distillation.rest_of_texts cannot tell which of two texts was cut: remove "
        "it or data.text_pair_column",
    ),
    "texts to label without a teacher": (
        MINIMAL.replace("name: org/data", "name: org/data\n  unlabeled_file: more.csv")
        + "distillation: null\n",
        "lines 5 and 9: data.unlabeled_file holds texts for a teacher to label, and distillation "
        "is null: remove it, or distil",
    ),
    "seeds of a teacher that is given": (
        MINIMAL + "teacher:\n  name_or_path: org/tuned\n  num_seeds: 3\n",
        "lines 9 and 10: teacher: the teacher 'org/tuned' is used as it is and not trained: remove "
        "num_seeds, or set name_or_path to null",
    ),
    "seeds that nobody learns from": (
        MINIMAL + "teacher:\n  num_seeds: 3\ndistillation: null\n",
        "lines 9 and 10: teacher.num_seeds averages predictions to learn from, and distillation is "
        "null: remove it, or distil",
    ),
    "seeds that read other tokens": (
        MINIMAL.replace("sparsity: 0.5", "sparsity: 0.5\n  vocabulary: {}")
        + "teacher:\n  num_seeds: 3\n",
        "lines 7 and 10: teacher.num_seeds averages predictions to learn from, and only the first "
        "teacher's vocabulary is reduced: remove one",
    ),
    "seeds of an encoder that is not trained": (
        MINIMAL + "task: sentence_embedding\nteacher:\n  num_seeds: 3\n",
        "lines 8 and 10: teacher.num_seeds averages predictions to learn from, and a sentence "
        "encoder is taken as it is: remove it",
    ),
    "gates that have nothing to be scored by": (
        MINIMAL + "task: sentence_embedding\ndistillation:\n  dropout: false\n",
        "line 10: distillation.dropout is false, but gates are scored by how what is learned "
        "changes, and a sentence encoder that begins as its own teacher has nothing to learn "
        "without dropout: leave it out (dropout then ends with the pruning), or set "
        "pruning.method to reconstruction",
    ),
    "others to learn from beside seeds": (
        MINIMAL + "teacher:\n  learn_from: [org/large]\n  num_seeds: 3\n",
        "lines 9 and 10: teacher: learn_from names the models whose predictions are learned, so "
        "further seeds of the dense model would not be asked: remove num_seeds or learn_from",
    ),
    "others that nobody learns from": (
        MINIMAL + "teacher:\n  learn_from: [org/large]\ndistillation: null\n",
        "lines 9 and 10: teacher.learn_from names models to learn from, and distillation is null: "
        "remove it, or distil",
    ),
    "others of tags": (
        MINIMAL + "task: token_classification\nteacher:\n  learn_from: [org/large]\n",
        "lines 8 and 10: teacher.learn_from reads texts by each model's own tokenizer and takes "
        "what it says of the whole text, and cannot with task token_classification: remove it",
    ),
    "others of fewer tokens": (
        MINIMAL.replace("sparsity: 0.5", "sparsity: 0.5\n  vocabulary: {}")
        + "teacher:\n  learn_from: [org/large]\n",
        "lines 7 and 10: teacher.learn_from reads the texts of the rows, and pruning.vocabulary "
        "changes how they are split: remove one",
    ),
    "texts without labels beside others": (
        MINIMAL.replace("name: org/data", "name: org/data\n  unlabeled_file: more.csv")
        + "task: sentence_embedding\n",
        "lines 5 and 9: data.unlabeled_file adds texts without labels, and all texts of task "
        "sentence_embedding are: list the file in data.train_file",
    ),
    "a rate judged by no teacher": (
        MINIMAL + "recovery:\n  learning_rate: auto\ndistillation: null\n",
        "lines 9 and 10: recovery.learning_rate: auto is judged by the teacher's predictions, and "
        "distillation is null: give a rate, or distil",
    ),
    "texts to label tag by tag": (
        MINIMAL.replace("name: org/data", "name: org/data\n  unlabeled_file: more.csv")
        + "task: token_classification\n",
        "lines 5 and 9: data.unlabeled_file holds texts that get one label each, and cannot with "
        "task token_classification: remove it",
    ),
    "texts to label in windows": (
        MINIMAL.replace(
            "name: org/data", "name: org/data\n  unlabeled_file: more.csv\n  stride: 8"
        ),
        "lines 5 and 6: data.unlabeled_file holds whole texts, and cannot with data.stride, which "
        "cuts texts to windows: remove one",
    ),
    "a file that is learned from and judged by": (
        MINIMAL.replace(
            "name: org/data", "train_file: a.csv\n  test_file: t.csv\n  unlabeled_file: t.csv"
        ),
        "lines 5 and 6: data: test_file and unlabeled_file are both 't.csv': the rows reported on "
        "must not be those learned from",
    ),
    "windows that stand still": (
        MINIMAL.replace("name: org/data", "name: org/data\n  stride: 127"),
        "line 5: data: stride 127 must be less than max_length 128 less the special tokens, or no "
        "window gets any further",
    ),
    "windows of pairs": (
        MINIMAL.replace("name: org/data", "name: org/data\n  stride: 8\n  text_pair_column: b"),
        "lines 5 and 6: data: stride is for single texts: which text of a pair would be cut in "
        "windows? Remove it",
    ),
    "weights of classes in a regression": (
        MINIMAL + "task: regression\ntraining:\n  class_weights: balanced\n",
        "lines 8 and 10: training.class_weights has no meaning for task regression, which has no "
        "classes: remove it",
    ),
    "weights for other classes": (
        MINIMAL.replace("name: org/data", "name: org/data\n  label_names: [a, b]")
        + "training:\n  class_weights: [1.0, 2.0, 3.0]\n",
        "lines 5 and 10: training.class_weights lists 3 weights for the 2 labels of "
        "data.label_names: give one for each",
    ),
    "empty section": (
        with_lines("export:"),
        "line 8: export: expected a section (key: value), got null: remove the key, or indent "
        "what belongs to it below it",
    ),
    "null section below": (
        with_lines("export:", "  quantization: int8"),
        "line 9: export.quantization: expected a section (key: value) or one of auto or null, "
        "got 'int8' (text)",
    ),
    "a setting among words": (
        with_lines("export:", "  quantization:", "    graph: leen"),
        "line 10: export.quantization.graph: expected one of exported, lean, lean_multihead, "
        "lean_attention, fused, got 'leen' (text). Did you mean 'lean'?",
    ),
    # values
    "too large": (
        MINIMAL.replace("0.5", "1"),
        "line 6: pruning.sparsity: must be at least 0 and less than 1, got 1 (a whole number)",
    ),
    "percent": (
        MINIMAL.replace("0.5", "85"),
        "line 6: pruning.sparsity: must be at least 0 and less than 1, got 85 (a whole number); "
        "it is a fraction: 85 percent is 0.85",
    ),
    "negative": (
        with_lines("distillation:", "  hidden_weight: -1"),
        "line 9: distillation.hidden_weight: must be at least 0, got -1 (a whole number)",
    ),
    "infinite": (
        with_lines("distillation:", "  hidden_weight: .inf"),
        "line 9: distillation.hidden_weight: must be a finite number, got inf (a number)",
    ),
    "not a number": (
        with_lines("distillation:", "  hidden_weight: .nan"),
        "line 9: distillation.hidden_weight: must be a finite number, got nan (a number)",
    ),
    "no steps": (
        with_lines("training:", "  max_steps: 0"),
        "line 9: training.max_steps: must be -1 (by epochs) or at least 1, got 0",
    ),
    "missing": (
        MINIMAL.replace("  sparsity: 0.5", "  start: 0.5"),
        "line 5: pruning: give exactly one of sparsity, speedup, max_metric_drop, keep_layers; "
        "got none",
    ),
    "missing section": (
        "data:\n  name: x\npruning:\n  sparsity: 0.5\noutput_dir: y\n",
        "model.name_or_path: the key is missing: model to start from: a Hub id, or a local "
        "folder, for example `name_or_path: google-bert/bert-base-uncased`",
    ),
    # contradictions
    "both precisions": (
        with_lines("training:", "  bf16: true", "  fp16: true"),
        "lines 9 and 10: training: bf16 and fp16 are both true: keep one",
    ),
    "both precisions, one by itself": (
        with_lines("training:", "  bf16: auto", "  fp16: true"),
        "lines 9 and 10: training: bf16 is auto and fp16 true: keep one",
    ),
    "start after end": (
        MINIMAL.replace("  sparsity: 0.5", "  sparsity: 0.5\n  start: 0.9"),
        "line 7: pruning: pruning cannot start (0.9) after its end (0.5): swap them",
    ),
    "warmup of a constant": (
        with_lines("training:", "  lr_scheduler_type: constant", "  warmup_ratio: 0.1"),
        "lines 9 and 10: training: lr_scheduler_type constant has no warmup: write "
        "constant_with_warmup, or remove warmup_ratio",
    ),
    "best model, never saved": (
        with_lines("training:", "  save_strategy: no"),
        "line 9: training: load_best_model_at_end needs eval_strategy and save_strategy to be the "
        "same, epoch or steps; got epoch and no: change them, or set load_best_model_at_end: false",
    ),
    "best model, saved at other times": (
        with_lines(*SEQUENCE, "  save_steps: 30"),
        "lines 11 and 12: training: load_best_model_at_end needs save_steps (30) to be a multiple "
        "of eval_steps (20)",
    ),
    "steps without a number": (
        with_lines(*SEQUENCE),
        "line 10: training: save_strategy is steps: say how many in save_steps, for example "
        "save_steps: 500",
    ),
    "number without steps": (
        with_lines("training:", "  eval_steps: 20"),
        "line 9: training: eval_steps is only used with eval_strategy: steps, but eval_strategy "
        "is epoch: change one of them",
    ),
    "early stopping without best model": (
        with_lines("training:", "  early_stopping_patience: 2", "  load_best_model_at_end: false"),
        "lines 9 and 10: training: early_stopping_patience needs load_best_model_at_end: true",
    ),
    "no data": (
        MINIMAL.replace("name: org/data", "text_column: t"),
        "line 3: data: no data: give either name or train_file",
    ),
    "two data": (
        MINIMAL.replace("  name: org/data", "  name: org/data\n  train_file: a.csv"),
        "lines 4 and 5: data: two sources of data, name 'org/data' (text) and train_file 'a.csv' "
        "(text): keep one",
    ),
    "a split of a file": (
        MINIMAL.replace("name: org/data", "train_file: a.csv\n  test_split: test"),
        "lines 4 and 5: data: test_split belongs to a data set by name, but the data comes from "
        "train_file: remove it",
    ),
    "a file of a data set": (
        MINIMAL.replace("  name: org/data", "  name: org/data\n  test_file: a.csv"),
        "lines 4 and 5: data: test_file needs train_file, but the data comes from name: use "
        "test_split",
    ),
    "tested on what was learned": (
        MINIMAL.replace("  name: org/data", "  name: org/data\n  test_split: train"),
        "line 5: data: train_split and test_split are both 'train': the rows reported on must not "
        "be those learned from",
    ),
    "one column twice": (
        MINIMAL.replace("  name: org/data", "  name: org/data\n  text_pair_column: text"),
        "line 5: data: text_column and text_pair_column are both 'text': name the column of each",
    ),
    "text among the labels": (
        MINIMAL.replace("  name: org/data", "  name: org/data\n  label_column: [text, a]")
        + "task: multi_label_classification\n",
        "line 5: data: text_column 'text' (text) is also listed in label_column",
    ),
    "nothing left to train on": (
        MINIMAL.replace(
            "  name: org/data",
            "  name: org/data\n  validation_fraction: 0.5\n  test_fraction: 0.5",
        ),
        "lines 5 and 6: data: validation_fraction 0.5 and test_fraction 0.5 leave nothing to "
        "train on: their sum must be less than 1",
    ),
    "names do not fit the columns": (
        MINIMAL.replace(
            "  name: org/data", "  name: org/data\n  label_column: [a, b]\n  label_names: [x]"
        )
        + "task: multi_label_classification\n",
        "lines 5 and 6: data: 1 names for 2 label columns: give one name for each column, or none",
    ),
    "columns of labels, one label": (
        MINIMAL.replace("  name: org/data", "  name: org/data\n  label_column: [a, b]"),
        "line 5: data.label_column is a list, which is only for task multi_label_classification; "
        "the task is single_label_classification: name one column",
    ),
    "names of a number": (
        MINIMAL.replace("  name: org/data", "  name: org/data\n  label_names: [a, b]")
        + "task: regression\n",
        "lines 5 and 9: data.label_names has no meaning for task regression, whose label is a "
        "number: remove it",
    ),
    "one class": (
        MINIMAL.replace("  name: org/data", "  name: org/data\n  label_names: [a]"),
        "line 5: data.label_names needs at least two labels for task single_label_classification",
    ),
    "metric of another task": (
        with_lines("task: regression", "evaluation:", "  metrics: [pearson, f1]"),
        "lines 8 and 10: evaluation.metrics: 'f1' is not a metric of task regression. Choose from "
        "pearson, spearman, mse.",
    ),
    "misspelt metric": (
        with_lines("evaluation:", "  metrics: [acuracy]"),
        "line 9: evaluation.metrics: 'acuracy' is not a metric of task "
        "single_label_classification. Did you mean 'accuracy'?",
    ),
    "metric twice": (
        with_lines("evaluation:", "  metrics: [mcc, mcc]"),
        "line 9: evaluation.metrics: lists mcc more than once",
    ),
    "best by what is not computed": (
        with_lines("training:", "  metric_for_best_model: mcc"),
        "line 9: training.metric_for_best_model 'mcc' is not computed: add it to "
        "evaluation.metrics, or choose from accuracy, f1_macro, precision_macro, recall_macro, "
        "loss, divergence",
    ),
    "worst model": (
        with_lines("training:", "  greater_is_better: false"),
        "line 9: training.greater_is_better: false keeps the worst checkpoint, since the best "
        "accuracy is the highest: remove it",
    ),
    "longer than any input": (
        with_lines("benchmark:", "  sequence_lengths: [32, 512]"),
        "line 9: benchmark.sequence_lengths asks for 512 tokens, but inputs are cut at "
        "data.max_length 128: lower one or raise the other",
    ),
    "calibration without need": (
        with_lines("export:", "  quantization:", "    calibration_samples: 10"),
        "line 10: export.quantization: calibration_samples is only used with is_static: true: "
        "remove it, or set is_static: true",
    ),
    "time for no search": (
        with_lines("export:", "  quantization: {}", "  quantization_seconds: 10"),
        "lines 9 and 10: export: quantization_seconds is only used with quantization: auto: "
        "remove it, or set quantization to auto",
    ),
    "time for a search that is not made": (
        with_lines("export:", "  quantization_seconds: 10"),
        "line 9: export.quantization_seconds is for the search for int8 settings alone, which the "
        "choice of files to deploy takes the place of: set deploy.seconds instead, or deploy to "
        "null",
    ),
    "a drop for no choice": (
        with_lines("export:", "  quantization: {}", "  max_quantization_drop: 0.1"),
        "lines 9 and 10: export.max_quantization_drop is only used where files are chosen: remove "
        "it, set export.quantization to auto, or add `deploy: {}`",
    ),
    "a form of a static graph": (
        with_lines("export:", "  quantization:", "    static_format: qoperator"),
        "line 10: export.quantization: static_format is only used with is_static: true: "
        "remove it, or set is_static: true",
    ),
    "nothing to learn": (
        with_lines("distillation: {logits_weight: 0, hidden_weight: 0, label_weight: 0}"),
        "line 8: distillation: all weights are 0, so there is nothing to learn: raise one of "
        "logits_weight, hidden_weight, label_weight",
    ),
    "a teacher who teaches nothing": (
        with_lines("distillation: {logits_weight: 0, hidden_weight: 0}"),
        "line 8: distillation: logits_weight and hidden_weight are 0, so the teacher teaches "
        "nothing: raise one, or set distillation to null",
    ),
    "a finished teacher to train": (
        with_lines("teacher:", "  name_or_path: org/t", "  learning_rate: 1e-4"),
        "lines 9 and 10: teacher: the teacher 'org/t' is used as it is and not trained: remove "
        "learning_rate, or set name_or_path to null",
    ),
    "afresh and again": (
        with_lines("overwrite: true", "resume: true"),
        "lines 8 and 9: overwrite starts afresh and resume goes on: set one of them to false",
    ),
    "output over the model": (
        MINIMAL.replace("org/model", "runs/x/../x"),
        "lines 2 and 7: output_dir 'runs/x' would be written over model.name_or_path "
        "'runs/x/../x': choose a folder of its own",
    ),
    "output over the teacher's folder": (
        with_lines("overwrite: true", "teacher: {name_or_path: runs/x/teacher}"),
        "lines 7 and 8 and 9: output_dir 'runs/x' would be written over teacher.name_or_path "
        "'runs/x/teacher': choose a folder of its own",
    ),
    # YAML
    "duplicate": (
        MINIMAL.replace("  sparsity: 0.5", "  sparsity: 0.5\n  sparsity: 0.6"),
        "line 7: pruning.sparsity: the key is given twice, first in line 6: remove one",
    ),
    "number as a key": (with_lines("1: 2"), "line 8: a key must be text, got 1 (a whole number)"),
    "list as a key": (
        with_lines("? [a]", ": 2"),
        "line 8: a key must be text, got a list or mapping",
    ),
    "anchor": (
        with_lines("evaluation: &x {}"),
        "line 8: unusable YAML: anchors and aliases (& and *) are not allowed: write the value out",
    ),
    "alias": (
        with_lines("evaluation: *x"),
        "line 8: unusable YAML: anchors and aliases (& and *) are not allowed: write the value out",
    ),
    "python object": (
        with_lines("evaluation: !!python/object/apply:os.abort []"),
        "line 8: unusable YAML: the tag tag:yaml.org,2002:python/object/apply:os.abort is not "
        "allowed: remove it",
    ),
    "syntax": (
        with_lines("evaluation: [1", "overwrite: true"),
        "line 9: unusable YAML: while parsing a flow sequence, expected ',' or ']', but got ':'",
    ),
    "indentation": (
        with_lines("evaluation:", "  metrics: [mcc]", " confidence: 0.9"),
        "line 10: unusable YAML: while parsing a block mapping, expected <block end>, but found "
        "'<block mapping start>'",
    ),
    "tab": (
        with_lines("evaluation:", "\tmetrics: [mcc]"),
        "line 9: unusable YAML: while scanning for the next token, found character '\\t' that "
        "cannot start any token",
    ),
    "control character": (
        with_lines("evaluation: \x00"),
        "line 8: unusable YAML: the character U+0000 is not allowed",
    ),
    "impossible escape": (
        with_lines('evaluation: "\\UFFFFFFFF"'),
        "unusable YAML: it cannot be read (Python int too large to convert to C int)",
    ),
    "depth": ("[" * 10_000, "line 1: unusable YAML: nested deeper than 20 levels"),
    "two documents": (
        MINIMAL + "---\na: 1\n",
        "line 8: unusable YAML: expected a single document in the stream, but found another "
        "document",
    ),
    "list": ("- a\n", "line 1: a recipe is a mapping (key: value), got the list [a]"),
    "a word": ("recipe\n", "line 1: a recipe is a mapping (key: value), got 'recipe' (text)"),
}


@pytest.mark.parametrize(("text", "expected"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_wrong_is_said_with_line_key_and_remedy(text: str, expected: str) -> None:
    said = message(text)
    assert "\n" not in said, "one thing is wrong, so one thing must be said"
    assert said in (f"r.yaml, {expected}", f"r.yaml: {expected}")


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n"])
def test_an_empty_recipe_is_told_what_it_needs(text: str) -> None:
    assert message(text) == (
        "r.yaml: the recipe is empty; it needs at least model, data, pruning, output_dir"
    )


def test_every_problem_is_reported_in_one_error_in_the_order_of_the_file() -> None:
    text = """\
model: {name_or_path: org/model, revison: main}
data:
  name: org/data
  train_file: a.csv
training:
  bf16: true
  fp16: true
  learning_rate: fast
pruning: {sparsity: 0.5, start: 0.9, end: 0.1, start: 0.8}
evaluation: {metrics: [pearson]}
output_dir: runs/x
"""
    assert message(text, "recovery.num_train_epochs=-1", "nonsense").splitlines() == [
        "r.yaml: 9 problems",
        "  line 1: model.revison: unknown key, with 'main' (text). Did you mean 'revision'?",
        "  lines 3 and 4: data: two sources of data, name 'org/data' (text) and train_file "
        "'a.csv' (text): keep one",
        "  lines 6 and 7: training: bf16 and fp16 are both true: keep one",
        "  line 8: training.learning_rate: expected a number, got 'fast' (text)",
        "  line 9: pruning.start: the key is given twice, first in line 9: remove one",
        "  line 9: pruning: pruning cannot start (0.9) after its end (0.1): swap them",
        "  line 10: evaluation.metrics: 'pearson' is not a metric of task "
        "single_label_classification. Choose from accuracy, f1_macro, f1_weighted, "
        "precision_macro, precision_weighted, recall_macro, recall_weighted, mcc.",
        "  override 'nonsense': write key.path=value, for example training.learning_rate=1e-4",
        "  override 'recovery.num_train_epochs=-1': recovery.num_train_epochs: must be at least 0, "
        "got -1 (a whole number)",
    ]


def test_a_contradiction_with_a_wrong_value_is_not_made_up() -> None:
    # "no data" would be true of what is left when the wrong name is set aside.
    assert "no data" not in message(MINIMAL.replace("org/data", "3"))
    # The task is not known, so nothing is known of its metrics.
    said = message(MINIMAL + "task: regress\nevaluation: {metrics: [pearson]}\n")
    assert said.startswith("r.yaml, line 8: task: expected one of")


def test_a_flood_of_problems_is_cut() -> None:
    said = message(with_lines(*(f"key{number}: 1" for number in range(3000))))
    lines = said.splitlines()
    assert lines[0] == "r.yaml: 3000 problems"
    assert len(lines) == 52
    assert lines[-1] == "  and 2950 more"


def test_what_could_garble_a_terminal_is_escaped() -> None:
    said = message(with_lines('"\\e[31m\\n": 1', '"\\uD800": 2'))
    assert "\x1b" not in said
    said.encode("utf-8")


# -------------------------------------------------------------------------------- from Python


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda: PruningConfig(sparsity=1.5),
            "PruningConfig: sparsity: must be at least 0 and less than 1, got 1.5 (a number); it "
            "is a fraction: 1.5 percent is 0.015",
        ),
        (
            lambda: PruningConfig(sparsity="0.8"),  # type: ignore[arg-type]
            "PruningConfig: sparsity: expected a number or null, got '0.8' (text): write 0.8, "
            "without quotes",
        ),
        (
            lambda: PruningConfig(sparsity=0.5, start=0.9, end=0.1),
            "PruningConfig: pruning cannot start (0.9) after its end (0.1): swap them",
        ),
        (
            lambda: PruningConfig(sparsity=0.5, sparcity=0.6),  # type: ignore[call-arg]
            "PruningConfig: sparcity: unknown key, with 0.6 (a number). Did you mean 'sparsity'?",
        ),
        (
            lambda: PruningConfig(),  # type: ignore[call-arg]
            "PruningConfig: give exactly one of sparsity, speedup, max_metric_drop, keep_layers; "
            "got none",
        ),
        (
            lambda: DistillationConfig(temperature=0),
            "DistillationConfig: temperature: must be greater than 0, got 0 (a whole number)",
        ),
        (
            lambda: TrainingConfig(report_to=object()),  # type: ignore[arg-type]
            "TrainingConfig: report_to: expected a list of text, got a value of type object",
        ),
        (
            lambda: TrainingConfig(seed=2**32),
            "TrainingConfig: seed: must be at least 0 and less than 4294967296, got 4294967296 "
            "(a whole number)",
        ),
        (
            lambda: BenchmarkConfig(batch_sizes=[1, 1]),
            "BenchmarkConfig: batch_sizes: lists 1 more than once",
        ),
        (
            lambda: TeacherConfig(name_or_path="a", learning_rate=0.1),
            "TeacherConfig: the teacher 'a' is used as it is and not trained: remove "
            "learning_rate, or set name_or_path to null",
        ),
        (
            lambda: QuantizationConfig(calibration_samples=1),
            "QuantizationConfig: calibration_samples is only used with is_static: true: remove "
            "it, or set is_static: true",
        ),
    ],
)
def test_sections_made_in_python_give_the_same_errors(make: Any, expected: str) -> None:
    with pytest.raises(HFPruneError) as caught:
        make()
    assert type(caught.value) is RecipeError
    assert str(caught.value) == expected


def test_a_recipe_made_in_python_reports_all_its_sections() -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe(  # type: ignore[call-arg]
            model={"name_or_path": "m", "x": 1},  # type: ignore[arg-type]
            data=DataConfig(name="d"),
            evaluation={"metrics": ["pearson"]},  # type: ignore[arg-type]
        )
    first, *lines = str(caught.value).splitlines()
    assert first == "Recipe: 4 problems"
    assert [line.split(":")[0].strip() for line in lines] == [
        "model.x",
        "output_dir",
        "pruning",
        "evaluation.metrics",
    ]


# --------------------------------------------------------------------------------- publishing


def test_a_repository_may_be_named_before_it_is_used() -> None:
    lines = ["hub:", "  hub_model_id: user/m", "  hub_private_repo: true", "  hub_revision: v1.2"]
    hub = parse_recipe(with_lines(*lines)).hub
    assert hub == HubConfig(hub_model_id="user/m", hub_private_repo=True, hub_revision="v1.2")
    assert hub.push_to_hub is False
    assert parse_recipe(with_lines(*lines, "  push_to_hub: true")).hub.push_to_hub is True


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            ["push_to_hub: true"],
            "line 9: hub: push_to_hub is true, but no repository is named: give hub_model_id, for "
            "example hub_model_id: user/my-model",
        ),
        (
            ["hub_model_id: my-model"],
            "line 9: hub.hub_model_id: must be an owner and a name, such as user/my-model, got "
            "'my-model' (text)",
        ),
        (
            ["hub_model_id: user/-m"],
            "line 9: hub.hub_model_id: may hold letters, digits, '_', '-' and '.', and must "
            "neither start nor end with '-' or '.', got 'user/-m' (text)",
        ),
        (
            ["hub_model_id: user/a--b"],
            "line 9: hub.hub_model_id: may not hold '--' or '..', end with '.git', or have a name "
            "of more than 96 letters, got 'user/a--b' (text)",
        ),
        (
            ["hub_revision: a b"],
            "line 9: hub.hub_revision: must be the name of a branch, such as main or v2, got "
            "'a b' (text)",
        ),
        (
            ["hub_token: secret"],
            "line 9: hub.hub_token: unknown key. Recipes are published with the models, so they "
            "hold no secrets: run `hf auth login`, or set the variable HF_TOKEN, and remove the "
            "key",
        ),
    ],
)
def test_publishing_is_checked(lines: list[str], expected: str) -> None:
    text = with_lines("hub:", *(f"  {line}" for line in lines))
    assert message(text) == f"r.yaml, {expected}"


def test_a_token_in_the_wrong_place_is_not_repeated() -> None:
    token = "hf_" + "Fake" * 9
    for override in (f"hub.hub_token={token}", f"hub.hub_model_id={token}", f"seed={token}"):
        said = message(MINIMAL, override)
        assert token not in said
        assert "hf_***" in said


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.from_regex(r"[\w.-]{1,5}(/[\w.-]{1,6}(\.git)?)?(/a)?", fullmatch=True)
    | st.text("aZ0_-./", max_size=100)
)
def test_what_is_a_repository_is_what_the_hub_says(name: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
        valid = "/" in name and name.isascii()
    except HFValidationError:
        valid = False
    if len(name) <= 90:  # the Hub counts the owner differently with the place of the check
        assert (repo_id_problem(name) == "") == valid, name
    elif not repo_id_problem(name):
        assert valid, name


@pytest.mark.parametrize(
    ("name", "good"),
    [("main", True), ("v1.2", True), ("feature/x_1", True), ("", False), ("-x", False),
     ("a..b", False), ("a/.b", False), ("a//b", False), ("refs/heads/x", False), ("a b", False),
     ("x.lock", False), ("x/", False), ("0123456789" * 4, False), ("a" * 40, False),
     ("g" * 40, True), ("a~1", False), ("a\nb", False)],
)  # fmt: skip
def test_branches_are_those_that_git_takes(name: str, good: bool) -> None:
    assert (branch_problem(name) == "") is good


# ---------------------------------------------------------------------------------- overrides


def test_overrides_are_applied_in_order_over_the_file() -> None:
    recipe = parse_recipe(
        MINIMAL,
        overrides=[
            "pruning.sparsity=0.9",
            "pruning.sparsity=0.6",
            "training.learning_rate=1e-4",
            "benchmark.batch_sizes=[1, 8]",
            "export.quantization.instruction_set=arm64",
            "data.text_column=a = b",
            "data.config_name=",
            " output_dir = runs/other",
        ],
    )
    assert recipe.pruning.sparsity == 0.6
    assert recipe.training.learning_rate == 1e-4
    assert recipe.benchmark.batch_sizes == [1, 8]
    assert recipe.export.quantization == QuantizationConfig(instruction_set="arm64")
    assert recipe.data.text_column == "a = b"
    assert recipe.data.config_name is None
    assert recipe.output_dir == "runs/other"


def test_a_section_can_be_switched_off_and_made() -> None:
    off = with_lines("distillation: null")
    on = with_lines("distillation:", "  label_weight: 0.5")
    assert parse_recipe(on, overrides=["distillation=null"]).distillation is None
    made = parse_recipe(off, overrides=["distillation.temperature=3"]).distillation
    assert made == DistillationConfig(temperature=3)
    whole = parse_recipe(on, overrides=["distillation={temperature: 3}"]).distillation
    assert whole == DistillationConfig(temperature=3)


def test_an_override_can_give_what_the_file_lacks() -> None:
    text = MINIMAL.replace("output_dir: runs/x\n", "")
    assert parse_recipe(text, overrides=["output_dir=o"]).output_dir == "o"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "pruning.sparcity=0.5",
            "pruning.sparcity: unknown key, with 0.5 (a number). Did you mean 'sparsity'?",
        ),
        (
            "purning.sparsity=0.5",
            "purning: unknown key, with the keys sparsity. Did you mean 'pruning'?",
        ),
        (
            "pruning.sparsity=high",
            "pruning.sparsity: expected a number or null, got 'high' (text)",
        ),
        ("training.bf16", "write key.path=value, for example training.learning_rate=1e-4"),
        ("=3", "write key.path=value, for example training.learning_rate=1e-4"),
        ("pruning..sparsity=3", "write key.path=value, for example training.learning_rate=1e-4"),
        (
            "benchmark.batch_sizes=[1",
            "benchmark.batch_sizes: unusable YAML: while parsing a flow sequence, expected ',' or "
            "']', but got '<stream end>'",
        ),
        (
            "pruning.sparsity.start=0.2",
            "pruning.sparsity.start: pruning.sparsity holds 0.5 (a number), not keys: give it "
            "whole, as pruning.sparsity=0.5",
        ),
        (
            "output_dir=\ud800",
            "output_dir: unusable YAML: it holds half of a surrogate pair, which is no text",
        ),
    ],
)
def test_a_wrong_override_is_named_instead_of_a_line(override: str, expected: str) -> None:
    assert message(MINIMAL, override) == f"r.yaml, override {override!r}: {expected}"


def test_a_contradiction_names_line_and_override() -> None:
    assert message(with_lines("training:", "  bf16: true"), "training.fp16=true") == (
        "r.yaml, line 9 and override 'training.fp16=true': training: bf16 and fp16 are both true: "
        "keep one"
    )


# -------------------------------------------------------------------------------------- files


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    def said(path: Path | str) -> str:
        with pytest.raises(RecipeError) as caught:
            load_recipe(path)
        return str(caught.value)

    good, latin, large = tmp_path / "good.yaml", tmp_path / "latin.yaml", tmp_path / "large.yaml"
    good.write_text(MINIMAL, encoding="utf-8")
    latin.write_bytes(b"model: x\ndata: caf\xe9\n")
    large.write_bytes(b"#" * (2**18 + 1))
    near = tmp_path / "god.yaml"
    assert said(near) == f"{near}: no such recipe file. Did you mean {good}?"
    assert said(tmp_path / "no" / "x") == f"{tmp_path / 'no' / 'x'}: no such recipe file."
    assert said(tmp_path) == f"{tmp_path}: a folder, not a recipe: give the path of a YAML file"
    assert said(latin) == (
        f"{latin}, line 2: not UTF-8 text (byte 0xe9 at position 18): save the file as UTF-8"
    )
    assert said(large) == f"{large}: larger than 262144 bytes; is it a recipe?"
    assert said("a\0b") == r"'a\x00b': not a usable path: it holds a null character"
    if os.path.exists("/dev/null"):
        assert said("/dev/null") == "/dev/null: not a regular file"


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(MINIMAL, encoding="utf-8-sig")
    assert load_recipe(file) == parse_recipe(MINIMAL)


# -------------------------------------------------------------------------------- round trip

words = st.text(min_size=1, max_size=12) | st.sampled_from(
    ["no", "null", "1", "1e3", "5e-5", "0x1f", "1_000", "1:30", "2024-01-01", "~", "true", ".inf",
     "a: b", "- a", "#x", " a ", "\u2028", "\x85", "'", '"', "0o17", "<<", "=", "%", "@", "\ufeff"]
)  # fmt: skip


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.data())
def test_a_dumped_recipe_reads_back_equal(data: st.DataObject) -> None:
    draw = data.draw
    values: dict[str, Any] = {
        "model": {"name_or_path": draw(words), "tokenizer": draw(st.none() | words)},
        "data": {"name": draw(words), "label_names": [draw(words) + "1", draw(words) + "2"]},
        "training": {
            "learning_rate": draw(st.floats(1e-300, 1.0)),
            "report_to": draw(st.lists(words, max_size=2)),
            "load_best_model_at_end": False,
            "save_strategy": draw(st.sampled_from(["no", "epoch"])),
        },
        "pruning": {"sparsity": draw(st.floats(0, 1, exclude_max=True))},
        "distillation": draw(st.sampled_from([None, {}, {"temperature": 3}])),
        "export": {"quantization": draw(st.sampled_from([None, "auto", {}, {"is_static": True}]))},
        "output_dir": f"out/{draw(words)}",
    }
    try:
        recipe = Recipe(**values)
    except RecipeError as error:
        said = str(error)  # two of the drawn words may be the same
    else:
        said = ""
    assume("more than once" not in said)
    assert said == ""
    text = dump_recipe(recipe)
    assert parse_recipe(text) == recipe
    # Other tools read YAML 1.1: they must see the same values.
    assert Recipe(**yaml.safe_load(text)) == recipe


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_recipes_read_back_equal(file: Path) -> None:
    recipe = load_recipe(file)
    assert parse_recipe(dump_recipe(recipe)) == recipe


# -------------------------------------------------------------------------------------- fuzzing


def try_to_parse(text: str, *overrides: str) -> None:
    try:
        said = dump_recipe(parse_recipe(text, overrides=overrides))
    except RecipeError as error:
        said = str(error)
    assert said.encode("utf-8")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.text(max_size=60) | st.text("{}[]:,-?!&*#|>%@`'\"\\ \n\tab1.0", max_size=40),
    st.text(max_size=20),
)
def test_any_text_gives_a_recipe_or_a_recipe_error(text: str, override: str) -> None:
    try_to_parse(text)
    try_to_parse(MINIMAL + text, override, f"pruning.sparsity={override}")


KEYS = [*Recipe.model_fields, *TrainingConfig.model_fields, *DataConfig.model_fields, "x", "0"]
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from([10**400, "steps", "regression", "epoch", "accuracy", 2**63, -1, 0.5])
)  # fmt: skip
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)
sections = st.fixed_dictionaries(
    {},
    optional={
        name: st.dictionaries(st.sampled_from(sorted(inner.model_fields)), anything, max_size=4)
        | anything
        for name, inner in {
            "model": ModelConfig, "data": DataConfig, "training": TrainingConfig,
            "pruning": PruningConfig, "distillation": DistillationConfig,
            "benchmark": BenchmarkConfig, "teacher": TeacherConfig,
        }.items()
    },
)  # fmt: skip


@settings(max_examples=100, deadline=None, derandomize=True)
@given(sections, st.dictionaries(st.sampled_from(KEYS), anything, max_size=3))
def test_any_values_give_a_recipe_or_a_recipe_error(
    inner: dict[str, Any], outer: dict[str, Any]
) -> None:
    values = inner | outer
    try_to_parse(yaml.dump(values, allow_unicode=True))
    try_to_parse(json.dumps(values, ensure_ascii=False))
    for make in (Recipe, TrainingConfig, DataConfig):
        with contextlib.suppress(RecipeError):
            make(**values)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.binary(max_size=60))
def test_any_bytes_give_a_recipe_or_a_recipe_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    file.write_bytes(data)
    with pytest.raises(RecipeError):
        load_recipe(file)


# ---------------------------------------------------------------------- shipped files, the schema


def sections_of_schema() -> Iterator[tuple[str, dict[str, Any]]]:
    schema = recipe_schema()
    yield "Recipe", schema
    yield from schema["$defs"].items()


def test_the_schema_describes_every_key_and_allows_no_other() -> None:
    assert recipe_schema()["title"] == "hfprune recipe"
    names = set()
    for name, section in sections_of_schema():
        names.add(name)
        assert section["additionalProperties"] is False, name
        assert section["description"], name
        for key, value in section["properties"].items():
            # A section that says nothing else than its class is described there.
            described = "description" in value or "$ref" in value
            assert described, f"{name}.{key}"
    assert len(names) == 15


def test_the_schema_file_is_up_to_date(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "make_schema.py"
    check = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stdout + check.stderr
    assert json.loads((ROOT / "recipes" / "recipe.schema.json").read_text()) == recipe_schema()
    # The check must be able to fail: in a copy without the file it does.
    (tmp_path / "scripts").mkdir()
    for name in ("make_schema.py", "generated.py"):
        (tmp_path / "scripts" / name).write_text((script.parent / name).read_text())
    (tmp_path / "hfprune").symlink_to(ROOT / "hfprune")
    stale = subprocess.run(
        [sys.executable, tmp_path / "scripts" / "make_schema.py", "--check"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert stale.returncode == 1
    assert "recipes/recipe.schema.json is not what the recipe's definition says" in stale.stdout


def test_every_task_is_covered_by_a_shipped_recipe() -> None:
    assert {load_recipe(file).task for file in SHIPPED} == set(METRICS)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_recipes_are_commented_and_point_to_the_schema(file: Path) -> None:
    recipe = load_recipe(file)
    assert recipe.output_dir == f"runs/{file.stem}"
    first, *lines = file.read_text(encoding="utf-8").splitlines()
    assert first == "# yaml-language-server: $schema=recipe.schema.json"
    for line in lines:
        key = re.match(r" *([a-z0-9_]+):(.*)", line)
        if key is None:
            assert not line or line.startswith("#"), line
        elif key[2].strip():
            assert re.search(r"\S  # \S", line), f"{file.name}: {key[1]} has no comment"
        assert len(line) <= 100, line
    if recipe.data.name is None:
        assert "relative to the working directory" in " ".join(lines).lower()


def test_local_files_of_shipped_recipes_are_those_of_the_demo() -> None:
    names = {"demo-assets/all-MiniLM-L6-v2", "demo-assets/movie-reviews/train.csv",
             "demo-assets/movie-reviews/test.csv", "demo-assets/bbc-news/train.csv",
             "demo-assets/bbc-news/test.csv", "demo-assets/digits-vit",
             "demo-assets/bbc-reranking/train.jsonl",
             "demo-assets/bbc-reranking/test.jsonl"}  # fmt: skip
    used = set()
    for recipe in map(load_recipe, SHIPPED):
        used.add(recipe.model.name_or_path)
        for files in (recipe.data.train_file, recipe.data.test_file):
            used |= set(files) if isinstance(files, list) else {files}
    assert {name for name in used if name and name.startswith("demo-assets")} == names


def test_a_selection_needs_pruning_without_training() -> None:
    with pytest.raises(RecipeError, match="selection is only used with method: reconstruction"):
        PruningConfig(sparsity=0.5, selection="fisher")
    assert PruningConfig(sparsity=0.5, method="reconstruction", selection="fisher").selection
