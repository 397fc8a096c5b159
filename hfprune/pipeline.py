"""One run, from a recipe to a directory: teacher, prune, shrink, recover, export, evaluate, time.

Where the recipe reduces the vocabulary, a copy of the teacher without the tokens that go is what
is pruned from and distilled from, so that teacher and student read the same tokens and their hidden
states can be compared. The teacher itself, with its own tokenizer, is what results are compared to.

Every stage leaves its result in a work directory beside the output and is not repeated when the
run is resumed. The output directory appears at the end, whole or not at all.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from transformers import EarlyStoppingCallback, PrinterCallback, set_seed

from hfprune.core.errors import (
    CheckpointError,
    HFPruneError,
    HubError,
    OutputError,
    PlanError,
    TrainingError,
)
from hfprune.core.faults import is_disk_full, is_out_of_memory
from hfprune.core.files import (
    atomic_directory,
    atomic_write_json,
    atomic_write_text,
    check_output_dir,
    remove_leftovers,
)
from hfprune.core.kinds import TEXT_INPUTS, image_shape
from hfprune.core.machine import BFLOAT16_WORTH, bfloat16_gain, bfloat16_pays, usable_cpus
from hfprune.core.processes import lost_processes, processes
from hfprune.core.tasks import LOWER_IS_BETTER, problem_of
from hfprune.data.collate import data_collator
from hfprune.data.images import IMAGE_COLUMN
from hfprune.data.loading import load_task_data, rest_of_texts, retokenize
from hfprune.data.task_data import SPLITS, TEXT_ROW, TaskData
from hfprune.deploy.exporters.backends import check_backend
from hfprune.deploy.exporters.exporting import export_onnx
from hfprune.deploy.files import MODEL_FILE, QUANTIZED_FILE
from hfprune.deploy.quantize.outcome import PLAIN, describe_settings
from hfprune.deploy.quantize.quantizing import quantize_onnx
from hfprune.deploy.quantize.search import quantize_auto, usual_settings
from hfprune.deploy.runtimes.onnxruntime import OnnxClassifier
from hfprune.deploy.runtimes.predicting import predict_logits
from hfprune.deploy.speed.landing import Landing, calibrated, land
from hfprune.deploy.speed.table import latency_table
from hfprune.families import adapter_for, block_views, model_sizes
from hfprune.families.blocks import BlockKey
from hfprune.measure.comparison import changes, class_scores
from hfprune.measure.entities import score_counts
from hfprune.measure.environment import environment
from hfprune.measure.intervals import interval, paired_bootstrap, paired_difference
from hfprune.measure.latency import latency_facts, measure_latency, ratios
from hfprune.measure.metrics import compute, load_metrics, make_compute_metrics
from hfprune.measure.runners import batches_for, onnx_runner, torch_runner
from hfprune.measure.scores import is_correct, score, token_counts
from hfprune.measure.sizes import count_macs, count_parameters, file_size
from hfprune.models.adapters import check_adapter
from hfprune.models.folders import model_folder
from hfprune.models.loading import check_fits, load_classifier, load_processor
from hfprune.models.sentences import read_layout, save_encoder
from hfprune.pruning.cost import LatencyTable, parameter_costs
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.reconstruction.passes import divergence
from hfprune.pruning.reconstruction.reconstruct import Reconstruction
from hfprune.pruning.search import plan_sparsity
from hfprune.pruning.surgery import shrink_
from hfprune.pruning.vocabulary.compare import compare_tokens
from hfprune.pruning.vocabulary.reduce import reduce_vocabulary_
from hfprune.publish.card import write_card
from hfprune.publish.finished import member_repo_id
from hfprune.publish.push import find_token, push
from hfprune.recipe.public import sources
from hfprune.recipe.reading import dump_recipe
from hfprune.recipe.sections.export import QuantizationConfig
from hfprune.recipe.sections.hub import HubConfig
from hfprune.recipe.sections.pruning import PruningConfig
from hfprune.recipe.sections.whole import Recipe
from hfprune.report.console import Console
from hfprune.report.html import write_report
from hfprune.training.arguments import training_arguments
from hfprune.training.checkpoints import checkpoint_files, last_checkpoint
from hfprune.training.distillation.cache import TeacherCache
from hfprune.training.imbalance import balanced_weights, weighted_loss
from hfprune.training.trainer import HFPruneTrainer

logger = logging.getLogger(__name__)

RESULTS_VERSION = 1
# Of details.json: what is too long or too private for metrics.json, which is published.
DETAILS_VERSION = 1
WORK_SUFFIX = ".work"
# The work of a finished run, while it is being deleted.
SPENT_SUFFIX = ".work.done"
WEIGHTS = "model.safetensors"
PLAN_FILE = "plan.json"
# The teacher with a reduced vocabulary, which is then what is pruned.
START = "teacher-vocabulary"
DENSE, PRUNED = "dense", "pruned"
# A sentence encoder that was pruned by a classifier's recipe comes back as one, here.
SENTENCE_FOLDER = "sentence-encoder"
TRAINING_STAGES = ("teacher", "prune", "recover", "trial")
# Shapes of benchmark.full_table, as far as the model's positions go.
TABLE_BATCHES, TABLE_LENGTHS = (1, 8, 32), (16, 32, 64, 128, 256)
# A choice of layers that is faster than wanted by this factor although whole is not tried.
ROOMY = 1.2
# Of a text whose prediction changed: characters, or words, that are kept.
MOST_TEXT = 1000
# Where the search for max_metric_drop begins, and by what it goes up.
FIRST_SPEEDUP, SPEEDUP_STEP = 3.0, 1.3


def run(recipe: Recipe, console: Console | None = None) -> dict[str, Any] | None:
    """Carry a recipe out.

    Returns:
        The content of ``metrics.json`` on the main process, ``None`` on the others.

    Raises:
        HFPruneError: whatever was wrong with the recipe's model, data or output, before any long
            work where that can be known.
    """
    return _Run(recipe, console or Console()).execute()


def train_teacher(recipe: Recipe, console: Console | None = None) -> Path:
    """Only fine-tune the dense model of a recipe; it is saved as ``output_dir``.

    For comparisons in which several runs start from one teacher. Errors as :func:`run`.
    """
    return _Run(recipe, console or Console()).teacher_only()


@dataclass(frozen=True)
class _Reading:
    """How a model reads: its tokenizer or image processor, and the rows as that one splits them.

    ``unlabeled``: rows for distillation alone.
    """

    processor: Any
    data: TaskData
    task: str
    unlabeled: Dataset | None = None

    @property
    def collator(self) -> Any:
        """Rows to a batch."""
        return data_collator(self.processor, self.task)


class _Run:
    def __init__(self, recipe: Recipe, console: Console) -> None:
        self.recipe = recipe
        self.console = console
        self.state = processes()
        self.output = Path(recipe.output_dir)
        self.work = self.output.with_name(self.output.name + WORK_SUFFIX)
        self.spent = self.output.with_name(self.output.name + SPENT_SUFFIX)
        self.done: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        # The teacher's outputs, for all trainings that distil: their rows are the same.
        self.taught: TeacherCache | None = None
        # Its logits on the validation rows, which candidates are judged by.
        self.expected: Any = None

    # -- frame ----------------------------------------------------------------------------------

    def teacher_only(self) -> Path:
        self._prepare()
        teacher = self._stage("teacher", self._teacher)
        if self.state.is_main_process:
            with self._explained("writing the output"):
                replace = self.recipe.overwrite or self.recipe.resume
                with atomic_directory(self.output, overwrite=replace) as folder:
                    shutil.copytree(teacher, folder, dirs_exist_ok=True)
            self._remove_work()
        self.state.wait_for_everyone()
        return self.output

    def execute(self) -> dict[str, Any] | None:
        finished = self._finished_before()
        if finished is not None:
            if not self.state.is_main_process:
                return None
            self._remove_leftovers()
            self.console.note(f"{self.output}: finished before, nothing to resume")
            self.console.summary(finished)
            self._push(finished.get("family") or [PRUNED])
            return finished
        self._prepare()
        teacher = self._stage("teacher", self._teacher)
        members = self._members(self._start(teacher))
        self.taught = None
        if not self.state.is_main_process:
            return None
        self._stage("export", lambda: self._export(teacher, members))
        evaluation = self._stage("evaluate", lambda: self._evaluate(teacher, members))
        timing = self._stage("benchmark", lambda: self._benchmark(teacher, members))
        with self._explained("writing the output"):
            results = self._results(members, evaluation, timing)
            self._write(members, results, self._details(members))
        self._remove_work()
        self.console.summary(results)
        self.console.note(f"results: {self.output}")
        self._push(members)
        return results

    def _prepare(self) -> None:
        recipe = self.recipe
        lost = lost_processes()
        if lost is not None:
            self.console.warn(lost)
        self._check_before_work()
        self._open_work()
        self._settle_precision()
        set_seed(recipe.training.seed)
        with self.console.stage("data"):
            model = recipe.model
            own = model.tokenizer is None
            processor = load_processor(
                model.tokenizer or model.name_or_path,
                recipe.task,
                revision=model.revision if own else model.tokenizer_revision,
                trust_remote_code=model.trust_remote_code,
                key="model.name_or_path" if own else "model.tokenizer",
            )
            self.data = load_task_data(recipe.data, processor, recipe.task)
            self.dense = self.small = self._reading_by(processor, self.data)
            self.console.note(_describe_data(self.data))
            self._note_unlabeled()
            self.loss = self._weighted_loss()
            load_metrics(
                recipe.evaluation.metrics,
                self.data.task,
                self.data.num_labels,
                self.data.label_names,
            )

    def _reading_by(self, processor: Any, data: TaskData) -> _Reading:
        distillation = self.recipe.distillation
        rest = distillation is not None and distillation.rest_of_texts
        unlabeled = rest_of_texts(data, processor) if rest else None
        return _Reading(processor, data, self.recipe.task, unlabeled)

    def _note_unlabeled(self) -> None:
        rows = self.dense.unlabeled
        if rows is not None and len(rows) == 0:
            self.console.warn(
                f"distillation.rest_of_texts adds nothing: no training text goes on for a quarter "
                f"of data.max_length ({self.data.max_length}) beyond it"
            )
        elif rows is not None:
            self.console.note(f"{len(rows)} more rows to distil on: the rest of training texts")

    def _settle_precision(self) -> None:
        """Whether to train in bfloat16: one answer for all processes, and for a resumed run."""
        wanted = self.recipe.training.bf16
        if wanted == "auto":
            if "bf16" not in self.done:
                self.done["bf16"] = self._of_main(bfloat16_pays())
                self._save_state()
            return
        self.done["bf16"] = wanted
        gain = bfloat16_gain() if wanted else 1.0
        if gain < 1 / BFLOAT16_WORTH:
            self.console.warn(
                f"training.bf16 is true, but this machine multiplies {1 / gain:.1f} times slower "
                "in bfloat16 than in float32; write bf16: auto, which uses it where it is faster"
            )

    def _weighted_loss(self) -> Callable[..., Any] | None:
        """The loss where classes have weights, ``None`` where they count alike."""
        weights, data = self.recipe.training.class_weights, self.data
        if weights == "balanced":
            weights = balanced_weights(data.label_array("train"), data.num_labels, data.task)
        if weights is None:
            return None
        self.done["class_weights"] = weights
        return weighted_loss(weights, data.task, data.num_labels)

    def _start(self, teacher: str) -> str:
        """What is pruned and distilled from: the teacher, where need be with fewer tokens."""
        settings = self.recipe.pruning.vocabulary
        if settings is None:
            return teacher
        start: str = self._stage(
            "vocabulary", lambda: self._reduce(teacher, settings.min_count), by_main=True
        )
        task = self.recipe.task
        tokenizer = load_processor(
            start, task, revision=None, trust_remote_code=False, key="output_dir"
        )
        self.small = self._reading_by(tokenizer, retokenize(self.data, tokenizer))
        if "tokens" not in self.done:
            self.done["tokens"] = self._compare_tokens(start)
            self._save_state()
        found = self.done["tokens"]
        self.console.note(
            f"{found['tokens_after']} of {found['tokens_before']} tokens kept; on validation texts "
            f"{found['unknown_after']:.2%} of tokens unknown ({found['unknown_before']:.2%}), "
            f"{found['mean_length_after']:.1f} tokens a text ({found['mean_length_before']:.1f}), "
            f"{found['changed']:.1%} of texts split otherwise"
        )
        return start

    def _reduce(self, teacher: str, min_count: int) -> str:
        model = self._saved(teacher)
        plan, tokenizer = reduce_vocabulary_(
            model, self.dense.processor, self.data.train["input_ids"], min_count=min_count
        )
        return self._keep(model, START, tokenizer, plan)

    def _compare_tokens(self, start: str) -> dict[str, float]:
        """What the reduced vocabulary does to the validation texts, which it was not made from."""
        plan = PruningPlan.from_dict(_read_json(Path(start) / PLAN_FILE))
        return compare_tokens(
            self.dense.processor,
            self.small.processor,
            plan.vocabulary or (),
            self.dense.data.validation["input_ids"],
            self.small.data.validation["input_ids"],
        ).to_dict()

    def _reading(self, label: str) -> _Reading:
        return self.dense if label == DENSE else self.small

    def _members(self, teacher: str) -> dict[str, str]:
        """The pruned models: label to directory, each pruned from the one before it."""
        targets = self._targets()
        if targets is None:
            return self._step_up(teacher)
        current, members = teacher, {}
        for label, target in targets:
            current = self._member(label, target, current, teacher)
            members[label] = current
        return members

    def _targets(self) -> list[tuple[str, PruningConfig]] | None:
        """Label and single target of each model, ``None`` if speeds are stepped up."""
        pruning = self._block_pruning()
        if pruning.max_metric_drop is not None:
            return None
        if isinstance(pruning.speedup, list):
            return [
                (f"{speed:g}x", pruning.model_copy(update={"speedup": speed}))
                for speed in pruning.speedup
            ]
        return [(PRUNED, pruning)]

    def _block_pruning(self) -> PruningConfig:
        """What is left to do once the vocabulary has been reduced."""
        return self.recipe.pruning.model_copy(update={"vocabulary": None})

    def _member(self, label: str, target: PruningConfig, current: str, teacher: str) -> str:
        """Prune one model from ``current`` to a target, and train what is left."""
        suffix = "" if label == PRUNED else f" {label}"
        table = None
        if target.speedup is not None:
            speed = target.speedup
            found = self._stage(
                f"latency{suffix}", lambda: self._latency(speed, target), by_main=True
            )
            table = LatencyTable.from_dict(found)
        if target.method == "reconstruction":
            candidates = self._stage(
                f"reconstruct{suffix}",
                lambda: self._reconstruct(label, target, current, teacher, table),
                by_main=True,
            )
            pruned = self._best_candidate(label, suffix, candidates, teacher)
        else:
            pruned = self._stage(
                f"prune{suffix}",
                lambda: self._prune(label, target, current, teacher, table),
                by_main=target.keep_layers is not None,
            )
        if self.recipe.recovery.num_train_epochs > 0:
            start = pruned
            pruned = self._stage(f"recover{suffix}", lambda: self._recover(label, start, teacher))
        return pruned

    def _best_candidate(
        self, label: str, suffix: str, candidates: dict[str, Any], teacher: str
    ) -> str:
        """The candidate that is nearest to the teacher on the validation rows, after a trial."""
        trials: dict[str, float] = {}
        if len(candidates) > 1:
            for name, entry in candidates.items():
                found = self._stage(
                    f"trial{suffix} {name}",
                    partial(self._trial, label, name, entry["folder"], teacher),
                )
                # All processes must choose by the same numbers, to the last digit.
                trials[name] = self._of_main(found)
        best = min(candidates, key=lambda name: trials.get(name, 0.0))
        if trials:
            self.console.note(f"chosen: {best} ({_sizes_text(candidates[best]['sizes'])})")
        self.done.setdefault("candidates", {})[label] = {
            name: {key: value for key, value in entry.items() if key != "folder"}
            | ({"divergence": trials[name]} if trials else {})
            | {"chosen": name == best}
            for name, entry in candidates.items()
        }
        self._save_state()
        return str(candidates[best]["folder"])

    def _trial(self, label: str, name: str, folder: str, teacher: str) -> float:
        """Mean KL divergence from the teacher on the validation rows; in nats a row."""
        recipe, model = self.recipe, self._saved(folder)
        dense = self._saved(teacher)
        epochs = recipe.pruning.trial_epochs
        if epochs is None:
            epochs = 1.0
        if epochs > 0:
            stage = f"trial-{label}-{_slug(name)}"
            trainer = self._recovery_trainer(
                model,
                dense,
                stage,
                num_train_epochs=epochs,
                eval_strategy="no",
                save_strategy="no",
                load_best_model_at_end=False,
            )
            self._train(trainer)
            model = trainer.model
        rows = self.small.data.validation

        def predicted(one: Any) -> Any:
            size = recipe.training.per_device_eval_batch_size
            return predict_logits(one.eval(), rows, self.small.collator, batch_size=size)

        if self.expected is None:
            self.expected = predicted(dense)
        logits = [predicted(model), self.expected]
        if logits[0].ndim == 3:  # of tokens, those that are no padding
            lengths = np.asarray([len(ids) for ids in rows["input_ids"]])
            real = np.arange(logits[0].shape[1]) < lengths[:, None]
            logits = [values[real] for values in logits]
        found = divergence(torch.tensor(logits[0]), torch.tensor(logits[1]), recipe.task)
        self.console.note(f"{name}: divergence from the teacher {found:.4f}")
        return found

    def _step_up(self, teacher: str) -> dict[str, str]:
        """The fastest model within ``max_metric_drop``; ``self.done['search']`` keeps the record.

        Judged by the quantized model on the validation rows, against the dense one there.
        """
        pruning = self._block_pruning()
        limit = pruning.max_metric_drop or 0.0
        current, best, chosen, record = teacher, None, "", []
        floor = self._stage(
            "validate dense", lambda: self._validation(self.done["teacher"], DENSE), by_main=True
        )
        speed = FIRST_SPEEDUP
        while True:
            label = f"{speed:g}x"
            target = pruning.model_copy(update={"speedup": speed, "max_metric_drop": None})
            try:
                current = self._member(label, target, current, teacher)
            except PlanError as error:  # faster than a model without blocks
                record.append({"speedup": speed, "stopped": str(error)})
                break
            value = self._stage(
                f"validate {label}", partial(self._validation, current, label), by_main=True
            )
            drop = floor - value if self.recipe.training.greater_is_better else value - floor
            record.append({"speedup": speed, "metric": value, "drop": drop})
            self.console.note(f"{label}: validation metric {value:.4f}, {drop:+.4f} below dense")
            if drop > limit:
                break
            best, chosen = current, label
            speed = round(speed * SPEEDUP_STEP, 2)
        self.done["search"] = {
            "dense": floor,
            "limit": limit,
            "steps": record,
            "chosen": chosen,
        }
        self._save_state()
        if best is None:
            raise TrainingError(
                f"even at a speed-up of {FIRST_SPEEDUP:g} the validation metric falls by "
                f"{record[0].get('drop', float('nan')):.4f}, more than max_metric_drop {limit:g}; "
                "train longer (recovery.num_train_epochs) or allow a larger drop"
            )
        return {PRUNED: best}

    def _validation(self, folder: str, label: str) -> float:
        """The metric that chooses checkpoints, of the exported (and quantized) model."""
        model = self._saved(folder)
        reading = self._reading(label)
        file = self._exported(model, self.work / "validation" / label, label)
        data, metric = reading.data, self.recipe.training.metric_for_best_model
        name = self.recipe.evaluation.metrics[0] if metric in (None, "loss") else metric
        logits = data.by_text(
            "validation", predict_logits(OnnxClassifier(file), data.validation, reading.collator)
        )
        labels = data.label_array("validation")
        return score(name, logits, labels, data.task, data.num_labels, data.label_names)

    def _exported(self, model: Any, folder: Path, label: str) -> Path:
        """Export, and quantize where the recipe wants it; the file that will be deployed.

        The dense model is what others are compared with, so nothing is searched for it.
        """
        reading = self._reading(label)
        file = export_onnx(model, reading.processor, folder, opset=self.recipe.export.opset)
        quantization = self.recipe.export.quantization
        if quantization is None:
            return file
        if quantization == "auto":
            if label == DENSE:
                return quantize_onnx(folder, PLAIN)
            return self._search(folder, label, self._lengths(model.config))
        samples = quantization.calibration_samples
        calibration = self._calibration(reading, samples) if quantization.is_static else None
        return quantize_onnx(folder, quantization, calibration=calibration)

    def _calibration(self, reading: _Reading, samples: int) -> Any:
        """What static quantization sees: training rows, or images as the model gets them.

        Images are drawn with the seed of the run.
        """
        train = reading.data.train
        if not reading.data.of_images:
            return train
        rng = np.random.default_rng(self.recipe.training.seed)
        chosen = sorted(rng.permutation(len(train))[:samples].tolist())
        pixels = [reading.collator([train[row]])["pixel_values"][0].numpy() for row in chosen]
        return Dataset.from_dict({"pixel_values": pixels})

    def _search(self, folder: Path, label: str, lengths: Sequence[int]) -> Path:
        """The fastest int8 model that keeps the metric; ``quantization`` holds the candidates."""
        recipe, reading = self.recipe, self._reading(label)
        data = reading.data
        name = recipe.evaluation.metrics[0]
        batches = recipe.benchmark.batch_sizes

        def metric(logits: Any, rows: Sequence[int]) -> float:
            found, labels = data.judged("validation", logits, rows)
            return score(name, found, labels, data.task, data.num_labels, data.label_names)

        with self.console.progress("quantization") as progress:
            found = quantize_auto(
                folder,
                calibration=self._calibration(reading, PLAIN.calibration_samples),
                validation=data.validation,
                collator=reading.collator,
                metric=metric,
                greater_is_better=name not in LOWER_IS_BETTER,
                # The first is the deployment; the last is the largest that is to be fast as well.
                shapes=[(batches[0], lengths[0]), (batches[-1], lengths[-1])],
                threads=recipe.benchmark.threads,
                max_drop=recipe.export.max_quantization_drop,
                seconds=recipe.export.quantization_seconds,
                progress=lambda done, what: progress(round(1000 * done), 1000),
            )
        record = {"metric": name, **found.to_dict()}
        self.done.setdefault("quantization", {})[label] = record
        self.console.quantization(label, record)
        if not found.within:
            self.console.note(
                f"no int8 model of {label} keeps {name} within "
                f"{recipe.export.max_quantization_drop:g}; took the one that loses least"
            )
        self.console.note(f"{label} int8: {describe_settings(record['chosen'])}")
        return found.path

    def _check_before_work(self) -> None:
        """What can be refused without reading a model or data."""
        recipe = self.recipe
        check_output_dir(self.output, recipe.overwrite or (recipe.resume and self.work.is_dir()))
        check_backend()
        load_metrics(recipe.evaluation.metrics, problem_of(recipe.task), 2)
        if recipe.hub.push_to_hub:
            find_token()
        for name in (recipe.model.name_or_path, recipe.teacher.name_or_path):
            if name is None:
                continue
            check_adapter(name)
            file = Path(model_folder(name)) / "config.json"
            if file.is_file():
                try:
                    config = _read_json(file)
                except ValueError as error:
                    raise CheckpointError(f"{file} is no JSON: {error}") from error
                if not isinstance(config, dict):
                    raise CheckpointError(f"{file} must hold a JSON object")
                adapter_for(str(config.get("model_type")))

    def _finished_before(self) -> dict[str, Any] | None:
        """The results of a run that ``resume`` finds complete: it was killed in its last moment."""
        if not self.recipe.resume or self.work.exists():
            return None
        try:
            found = _read_json(self.output / "metrics.json")
        except (OSError, ValueError):
            return None
        if not isinstance(found, dict) or found.get("recipe_sha256") != _fingerprint(self.recipe):
            return None
        return found

    def _remove_work(self) -> None:
        """In one step: half a work directory would look like an unfinished run."""
        self._remove_leftovers()
        self.work.rename(self.spent)
        self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        remove_leftovers(self.output)
        shutil.rmtree(self.spent, ignore_errors=True)

    def _open_work(self) -> None:
        """Find out how far an earlier run came; make the work directory."""
        recipe = self.recipe
        fingerprint = _fingerprint(recipe)
        record = self.work / "stages.json"
        if self.state.is_main_process:
            self._remove_leftovers()
            if self.work.exists() and not recipe.resume:
                if not recipe.overwrite and record.exists():
                    raise CheckpointError(
                        f"{self.work} holds an unfinished run; add resume=true to go on with it, "
                        "or overwrite=true to start afresh"
                    )
                shutil.rmtree(self.work)
            self.work.mkdir(parents=True, exist_ok=True)
        self.state.wait_for_everyone()
        if recipe.resume and record.is_file():
            try:
                saved = _read_json(record)
                begun, done, seconds = saved["recipe"], dict(saved["done"]), dict(saved["seconds"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise CheckpointError(
                    f"{record} is damaged ({type(error).__name__}: {error}); set overwrite=true "
                    "and resume=false to start afresh"
                ) from error
            if begun != fingerprint:
                raise CheckpointError(
                    f"{self.work} was begun with another recipe; resume with the recipe in "
                    f"{self.work / 'recipe.yaml'}, or set overwrite=true to start afresh"
                )
            self.done, self.seconds = done, seconds
        self.fingerprint = fingerprint
        self._save_state()
        if self.state.is_main_process:
            atomic_write_text(self.work / "recipe.yaml", dump_recipe(recipe))

    def _save_state(self) -> None:
        if self.state.is_main_process:
            atomic_write_json(
                self.work / "stages.json",
                {"recipe": self.fingerprint, "done": self.done, "seconds": self.seconds},
            )

    def _stage(self, name: str, do: Callable[[], Any], *, by_main: bool = False) -> Any:
        """Do a stage, or take its result from an earlier run. Results are JSON.

        With ``by_main`` only the main process works, and the others take its result.
        """
        if name in self.done:
            if self._still_there(name):
                self.console.note(f"{name}: done before, not repeated")
                return self.done[name]
            self.console.note(f"{name}: its result is gone, so it is done again")
        start = time.monotonic()
        # A stage is a function of what it starts from, whichever stages this process did before.
        set_seed(self.recipe.training.seed)
        with self.console.stage(name), self._explained(f"stage {name!r}"):
            result = do() if self.state.is_main_process or not by_main else None
        if by_main:
            result = self._of_main(result)
        elif name.split()[0] in TRAINING_STAGES:
            self.state.wait_for_everyone()  # the main process has written what all will read
        self.seconds[name] = round(time.monotonic() - start, 1)
        self.done[name] = result
        self._save_state()
        return result

    def _still_there(self, name: str) -> bool:
        """Whether the folders that a finished stage left are there."""
        result = self.done[name]
        places = result.values() if name == "export" else [result]
        return all(Path(place).is_dir() for place in places if isinstance(place, str))

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        """A full disk or exhausted memory as an error that says what is safe and how to go on."""
        try:
            yield
        except Exception as error:
            finished = ", ".join(self.seconds) or "none yet"
            go_on = (
                f"finished stages ({finished}) and checkpoints are safe in {self.work}; run the "
                "same command again with resume=true (and without overwrite=true) to go on"
            )
            ours = isinstance(error, HFPruneError)
            if isinstance(error, OutputError) or (ours and is_disk_full(error)):
                raise OutputError(f"{doing}: {error}; {go_on}") from error
            if ours:
                raise
            if is_disk_full(error):
                name = getattr(error, "filename", None) or self.work
                raise OutputError(
                    f"{doing}: the disk is full, writing {name} failed ({_brief(error)}); free "
                    f"some space; {go_on}"
                ) from error
            if is_out_of_memory(error):
                training = self.recipe.training
                raise TrainingError(
                    f"{doing}: out of memory ({_brief(error)}); lower "
                    f"training.per_device_eval_batch_size ({training.per_device_eval_batch_size}) "
                    f"or benchmark.batch_sizes ({self.recipe.benchmark.batch_sizes}); {go_on}"
                ) from error
            if isinstance(error, OSError) and error.filename is not None:
                raise OutputError(
                    f"{doing}: {error.filename}: {error.strerror}; {go_on}"
                ) from error
            raise

    def _of_main(self, value: Any) -> Any:
        """What the main process has for this value."""
        return broadcast_object_list([value])[0] if self.state.num_processes > 1 else value

    # -- training stages ------------------------------------------------------------------------

    def _teacher(self) -> str:
        recipe, history = self.recipe, []
        if recipe.teacher.name_or_path is not None:
            model = self._load(
                recipe.teacher.name_or_path,
                recipe.teacher.revision,
                key="teacher.name_or_path",
                trained=True,
            )
        else:
            model = self._load(recipe.model.name_or_path, recipe.model.revision)
        lengths = recipe.benchmark.sequence_lengths
        check_fits(model, self.data, self.dense.processor, lengths)
        if recipe.teacher.name_or_path is None:
            own = recipe.teacher.model_dump(include={"num_train_epochs", "learning_rate"})
            changes = {name: value for name, value in own.items() if value is not None}
            trainer = self._trainer(model, "teacher", self.dense, changes)
            trainer.train(resume_from_checkpoint=self._checkpoint("teacher"))
            model, history = trainer.model, trainer.state.log_history
        return self._keep(model, "teacher", self.dense.processor, history=history)

    def _latency(self, speedup: Any, target: PruningConfig) -> dict[str, Any]:
        recipe, processor = self.recipe, self.dense.processor
        with self.console.progress("latency table") as progress:
            model = self._saved(self.done["teacher"])
            quantization = self._dynamic
            table = latency_table(
                model,
                processor,
                quantization,
                batch_size=recipe.benchmark.batch_sizes[0],
                sequence_length=self._lengths(model.config)[0],
                threads=recipe.benchmark.threads,
                progress=lambda step, done, total: progress(done, total),
            )
        table.budget_ms(speedup)  # refuses the impossible
        if target.method == "gates":  # reconstruction measures its own plans
            table = calibrated(table, model, processor, quantization, speedup)
        return table.to_dict()

    def _lengths(self, config: Any) -> list[int]:
        """The lengths to time, in tokens; of images their one size, in pixels."""
        lengths = self.recipe.benchmark.sequence_lengths
        return [max(image_shape(config)[1:])] if self.data.of_images else lengths

    @cached_property
    def _dense_onnx(self) -> Path:
        """The dense float32 ONNX model that speeds are relative to before the end; a folder."""
        folder = self.work / "onnx-dense"
        if not (folder / MODEL_FILE).is_file():
            model = self._saved(self.done["teacher"])
            export_onnx(model, self.dense.processor, folder, opset=self.recipe.export.opset)
        return folder

    @cached_property
    def _dynamic(self) -> QuantizationConfig | None:
        """Quantization for probes: as the recipe's, without what needs data or names of nodes.

        Where the recipe leaves it to a search, what the search usually ends with.
        """
        quantization = self.recipe.export.quantization
        if quantization is None:
            return None
        if quantization == "auto":
            return usual_settings(self._dense_onnx)
        return quantization.model_copy(update={"is_static": False, "nodes_to_exclude": []})

    def _prune(
        self,
        label: str,
        target: PruningConfig,
        current: str,
        teacher: str,
        table: LatencyTable | None,
    ) -> str:
        model = self._saved(current)
        sizes = model_sizes(model)
        history: list[dict[str, float]] = []
        if target.keep_layers is not None:
            plan = _layers_plan(sizes, target.keep_layers)
            shrink_(model, plan)
        else:
            trainer = self._trainer(
                model,
                f"prune-{label}",
                self.small,
                pruning=target,
                latency=table,
                **self._distilled(self._saved(teacher)),
            )
            found = self._checkpoint(f"prune-{label}", checkpoint_files(target))
            self._train(trainer, found)
            plan = trainer.plan or PruningPlan.dense(sizes)
            history, model = trainer.state.log_history, trainer.model
        self.console.note(_sizes_text(model_sizes(model)))
        plan = _after(current, plan)
        return self._keep(model, f"{label}-pruned", self.small.processor, plan, history)

    def _reconstruct(
        self,
        label: str,
        target: PruningConfig,
        current: str,
        teacher: str,
        table: LatencyTable | None,
    ) -> dict[str, Any]:
        """Candidates, pruned and saved: name to ``folder``, ``sizes`` and, by time, speeds."""
        dense = self._saved(teacher)
        model = dense if current == teacher else self._saved(current)
        rounds, seed = target.search_rounds, self.recipe.training.seed
        batches = self._scoring_batches(target.scoring_samples)
        sizes = model_sizes(model)
        with self.console.progress("reconstruction") as progress:

            def tell(step: str, done: int, total: int) -> None:
                progress(done, total)

            found = Reconstruction(model, dense, batches, tell, selection=target.selection)
            speed = 0.0 if table is None else float(cast(float, target.speedup))
            if table is None:
                budget, cost = _parameter_budget(dense, target.sparsity or 0.0)
            else:
                budget, cost = table.budget_ms(speed), table.price(sizes)
            found.search(budget, cost, rounds=rounds, seed=seed, progress=tell)
        choices: dict[str, list[int] | None] = {"searched": None}
        # Whole layers fewer need training to be the better choice: see docs/notes.md.
        trained = self.recipe.recovery.num_train_epochs > 0
        for some in found.fewer_layers() if trained else ():
            whole = [size if n in some else (0, 0) for n, size in enumerate(sizes)]
            # Those that leave time unused even whole are less than others can have.
            if table is None or table.speedup(whole) <= ROOMY * speed:
                choices[f"layers {', '.join(map(str, some))}"] = some
        candidates: dict[str, Any] = {}
        plans: list[PruningPlan] = []
        for name, layers in choices.items():
            entry: dict[str, Any] = {}
            if table is None:
                plan = found.plan(budget, cost, layers)
            else:
                landing = self._landed(found, table, speed, layers, model)
                plan = landing.plan
                entry = {"predicted": landing.predicted, "measured": landing.measured}
            if plan in plans:
                continue
            plans.append(plan)
            pruned = copy.deepcopy(model)
            found.prune_(pruned, plan)
            folder = self._keep(
                pruned, f"{label}-{_slug(name)}", self.small.processor, _after(current, plan)
            )
            entry |= {"folder": folder, "sizes": [list(s) for s in model_sizes(pruned)]}
            candidates[name] = entry
            told = f", {entry['measured']:.2f}x as measured" if entry.get("measured") else ""
            self.console.note(f"{name}: {_sizes_text(entry['sizes'])}{told}")
        return candidates

    def _landed(
        self,
        found: Reconstruction,
        table: LatencyTable,
        speedup: float,
        layers: list[int] | None,
        model: Any,
    ) -> Landing:
        return land(
            lambda scaled: found.plan(
                scaled.budget_ms(speedup), scaled.price(model_sizes(model)), layers
            ),
            table,
            speedup,
            model,
            self._dense_onnx / MODEL_FILE,
            self.small.processor,
            self._dynamic,
        )

    def _scoring_batches(self, samples: int) -> list[Any]:
        """Training rows without labels, of like length in a batch, batches in random order."""
        train = self.small.data.train
        rng = np.random.default_rng(self.recipe.training.seed)
        chosen = rng.permutation(len(train))[:samples].tolist()
        names = [IMAGE_COLUMN]
        if not self.small.data.of_images:
            chosen.sort(key=lambda row: len(train[row]["input_ids"]))
            names = [name for name in TEXT_INPUTS if name in train.column_names]
        collate = self.small.collator
        size = self.recipe.training.per_device_eval_batch_size
        batches = [
            dict(collate([{n: train[row][n] for n in names} for row in chosen[i : i + size]]))
            for i in range(0, len(chosen), size)
        ]
        return [batches[i] for i in rng.permutation(len(batches))]

    def _recover(self, label: str, pruned: str, teacher: str) -> str:
        recipe = self.recipe
        trainer = self._recovery_trainer(
            self._saved(pruned),
            self._saved(teacher),
            f"recover-{label}",
            num_train_epochs=recipe.recovery.num_train_epochs,
        )
        self._train(trainer, self._checkpoint(f"recover-{label}"))
        plan = PruningPlan.from_dict(_read_json(Path(pruned) / PLAN_FILE))
        history, processor = trainer.state.log_history, self.small.processor
        return self._keep(trainer.model, f"{label}-recovered", processor, plan, history)

    def _recovery_trainer(
        self, model: Any, teacher: Any, stage: str, **changes: Any
    ) -> HFPruneTrainer:
        """Training of a model that has its final size."""
        recipe = self.recipe
        model.get_input_embeddings().requires_grad_(not recipe.recovery.freeze_embeddings)
        if recipe.recovery.learning_rate is not None:
            changes["learning_rate"] = recipe.recovery.learning_rate
        return self._trainer(model, stage, self.small, changes, **self._distilled(teacher))

    def _distilled(self, teacher: Any) -> dict[str, Any]:
        """What a trainer gets to distil from the teacher of this run."""
        if self.recipe.distillation is None:
            return {}
        return {
            "distillation": self.recipe.distillation,
            "unlabeled_dataset": self.small.unlabeled,
            "teacher": teacher,
            "teacher_cache": self.taught,
        }

    def _train(self, trainer: HFPruneTrainer, checkpoint: str | None = None) -> None:
        """Train, and keep the teacher's outputs for the trainings to come."""
        trainer.train(resume_from_checkpoint=checkpoint)
        self.taught = trainer.teacher_cache

    def _load(
        self,
        name: str,
        revision: str | None,
        *,
        key: str = "model.name_or_path",
        trained: bool = False,
    ) -> Any:
        """A classifier for this task; a model that hfprune shrank before is taken as it is."""
        model = load_classifier(
            name,
            self.data,
            revision=revision,
            trust_remote_code=self.recipe.model.trust_remote_code,
            key=key,
            trained=trained,
        )
        if not self.data.of_images and model.config.pad_token_id is None:
            model.config.pad_token_id = self.dense.processor.pad_token_id
        return model

    def _saved(self, folder: str) -> Any:
        """A model that a stage of this run left, dense or shrunk."""
        return self._load(folder, None, key="a model of this run")

    def _trainer(
        self,
        model: Any,
        stage: str,
        reading: _Reading,
        changes: Mapping[str, Any] | None = None,
        **pruning: Any,
    ) -> HFPruneTrainer:
        """A trainer with the recipe's ``training`` settings but for ``changes``."""
        recipe, data = self.recipe, reading.data
        settings = recipe.training.model_copy(update={"bf16": self.done["bf16"], **(changes or {})})
        patience = settings.early_stopping_patience
        callbacks: list[Any] = [EarlyStoppingCallback(patience)] if patience else []
        best = settings.metric_for_best_model
        shown = recipe.evaluation.metrics[0] if best in (None, "loss") else str(best)
        trainer = HFPruneTrainer(
            model=model,
            args=training_arguments(
                settings,
                self.work / "checkpoints" / stage,
                label_names=["labels", *({TEXT_ROW} & set(data.train.column_names))],
                disable_tqdm=True,  # the console shows it
            ),
            train_dataset=data.train,
            eval_dataset=data.validation,
            data_collator=reading.collator,
            compute_loss_func=self.loss,
            compute_metrics=make_compute_metrics(
                recipe.evaluation.metrics, data.task, data.num_labels, data.label_names
            ),
            callbacks=[*callbacks, self.console.training(shown)],
            **pruning,
        )
        # It writes to stdout, where results go.
        cast(Any, trainer).remove_callback(PrinterCallback)
        return trainer

    def _checkpoint(self, stage: str, needed: Sequence[str] = ()) -> str | None:
        folder = self.work / "checkpoints" / stage
        found = last_checkpoint(folder, needed) if self.recipe.resume else None
        if found is not None:
            self.console.note(f"{stage}: resuming from {found.name}")
        return None if found is None else str(found)

    def _keep(
        self,
        model: Any,
        name: str,
        processor: Any,
        plan: PruningPlan | None = None,
        history: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """Save a model with its processor and, if it was pruned, its plan from the dense one."""
        folder = self.work / name
        if self.state.is_main_process:
            with atomic_directory(folder, overwrite=True) as temporary:
                model.save_pretrained(temporary)
                processor.save_pretrained(temporary)
                if plan is not None:
                    atomic_write_json(temporary / PLAN_FILE, plan.to_dict())
            if history:
                atomic_write_json(self.work / "log" / f"{name}.json", list(history))
        return str(folder)

    # -- stages of the main process -------------------------------------------------------------

    def _export(self, teacher: str, members: dict[str, str]) -> dict[str, str]:
        folders = {}
        for label, place in {DENSE: teacher, **members}.items():
            folder = self.work / "onnx" / label
            judged = self.work / "validation" / self._label(label)
            if judged.is_dir():  # the very file that max_metric_drop was judged by
                shutil.copytree(judged, folder, dirs_exist_ok=True)
                if self._label(label) in self.done.get("quantization", {}):
                    records = self.done["quantization"]
                    self.done["quantization"] = {label: records[self._label(label)]}
            else:
                model = self._saved(place)
                self._exported(model, folder, label)
            folders[label] = str(folder)
        return folders

    def _candidates(self, teacher: str, members: dict[str, str]) -> dict[str, Any]:
        """All models that are compared: PyTorch modules, and paths of ONNX files."""
        onnx = self.done["export"]
        found: dict[str, Any] = {}
        for label, place in {DENSE: teacher, **members}.items():
            model = self._saved(place)
            found[f"{label} PyTorch"] = model.eval()
            found[f"{label} ONNX"] = Path(onnx[label]) / MODEL_FILE
            if self.recipe.export.quantization is not None:
                found[f"{label} int8"] = Path(onnx[label]) / QUANTIZED_FILE
        return found

    def _evaluate(self, teacher: str, members: dict[str, str]) -> dict[str, Any]:
        recipe, data = self.recipe, self.data
        names, level = recipe.evaluation.metrics, recipe.evaluation.confidence
        labels = data.label_array("test")
        threads = usable_cpus()
        primary = names[0]

        of_tokens = data.task == "token_classification"

        def primary_score(logits: Any, truth: Any) -> float:
            if of_tokens:  # what is resampled are the counts of each row
                return score_counts(primary, logits)
            return score(primary, logits, truth, data.task, data.num_labels)

        predicted: dict[str, Any] = {}
        report: dict[str, Any] = {}
        changed: dict[str, Any] = {}
        about = (data.task, data.num_labels, data.label_names)
        for name, candidate in self._candidates(teacher, members).items():
            model = OnnxClassifier(candidate, threads) if isinstance(candidate, Path) else candidate
            reading = self._reading(name.rsplit(" ", 1)[0])
            logits = predict_logits(
                model,
                reading.data.test,
                reading.collator,
                batch_size=recipe.training.per_device_eval_batch_size,
            )
            logits = reading.data.by_text("test", logits)
            entry: dict[str, Any] = {
                "metrics": compute(logits, labels, names, *about),
                "by_class": class_scores(logits, labels, *about),
            }
            if not predicted:
                first = logits
            elif not name.startswith(f"{DENSE} "):
                entry["changes"], rows = changes(first, logits, labels, *about)
                if name.endswith(" int8") or recipe.export.quantization is None:
                    changed[name] = self._with_texts(rows)
            predicted[name] = (
                token_counts(primary, logits, labels, data.label_names) if of_tokens else logits
            )
            base = predicted["dense PyTorch"]
            entry["interval"] = list(
                interval(
                    primary,
                    logits,
                    labels,
                    data.task,
                    data.num_labels,
                    data.label_names,
                    level,
                )
            )
            if primary == "accuracy":
                right = is_correct(logits, labels, data.task, data.num_labels)
                against = is_correct(base, labels, data.task, data.num_labels)
                entry["difference"] = list(paired_difference(right, against, level))
            else:
                mine = predicted[name]
                entry["difference"] = list(
                    paired_bootstrap(primary_score, mine, base, labels, level)
                )
            report[name] = entry
            self.console.note(f"{name}: {primary} {entry['metrics'][primary]:.4f}")
        self.done["changed"] = changed
        return {"primary": primary, "confidence": level, "samples": len(labels), "models": report}

    def _with_texts(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Test rows that ``changes`` names, with their texts if any."""
        texts = {
            "text": self.data.texts.get("test"),
            "text_pair": self.data.text_pairs.get("test"),
        }
        return [
            {
                **row,
                **{key: some[row["row"] - 1][:MOST_TEXT] for key, some in texts.items() if some},
            }
            for row in rows
        ]

    def _benchmark(self, teacher: str, members: dict[str, str]) -> dict[str, Any]:
        settings = self.recipe.benchmark
        candidates = self._candidates(teacher, members)
        runners: dict[str, Any] = {
            name: onnx_runner(candidate, settings.threads)
            if isinstance(candidate, Path)
            else torch_runner(candidate, settings.threads)
            for name, candidate in candidates.items()
        }
        configs = [candidates[f"{label} PyTorch"].config for label in (DENSE, *members)]
        lengths, make_batch = self._lengths(configs[0]), batches_for(*configs)
        shapes = [(b, length) for b in settings.batch_sizes for length in lengths]
        with self.console.progress("benchmark") as progress:
            rows = measure_latency(
                runners,
                shapes,
                repeats=settings.repeats,
                warmup=settings.warmup,
                make_batch=make_batch,
                progress=progress,
            )
        ratio = ratios(rows, "dense ONNX")
        sizes = {}
        for name, candidate in candidates.items():
            place = {DENSE: teacher, **members}[name.rsplit(" ", 1)[0]]
            file = candidate if isinstance(candidate, Path) else Path(place) / WEIGHTS
            sizes[name] = file_size(file)
        return {
            "threads": settings.threads,
            "repeats": settings.repeats,
            "baseline": "dense ONNX",
            "length_unit": "pixels" if self.data.of_images else "tokens",
            "rows": [
                {
                    "name": row.name,
                    "batch_size": row.batch_size,
                    "sequence_length": row.sequence_length,
                    "median_ms": row.median_ms,
                    "p95_ms": row.p95_ms,
                    "throughput": row.throughput,
                    "speedup": ratio[(row.name, row.shape)].value,
                    "speedup_interval": [
                        ratio[(row.name, row.shape)].low,
                        ratio[(row.name, row.shape)].high,
                    ],
                }
                for row in rows
            ],
            "full_table": self._full_table(candidates, make_batch) if settings.full_table else None,
            "file_bytes": sizes,
            "parameters": {
                name: count_parameters(candidates[f"{name} PyTorch"]) for name in (DENSE, *members)
            },
            "macs": {
                name: {
                    str(length): count_macs(
                        candidates[f"{name} PyTorch"], None if self.data.of_images else length
                    )
                    for length in lengths
                }
                for name in (DENSE, *members)
            },
        }

    def _full_table(
        self, candidates: dict[str, Any], make_batch: Callable[..., Any]
    ) -> list[dict[str, Any]]:
        """Facts for other deployments: many shapes, one thread and all, the ONNX models."""
        config = candidates["dense PyTorch"].config
        files = {name: file for name, file in candidates.items() if isinstance(file, Path)}
        longest = getattr(config, "max_position_embeddings", None) or max(TABLE_LENGTHS)
        lengths = [length for length in TABLE_LENGTHS if length <= longest]
        if self.data.of_images:
            lengths = self._lengths(config)
        rows = []
        for threads in dict.fromkeys([1, usable_cpus()]):
            with self.console.progress(f"table, {threads} thread(s)") as progress:
                rows += latency_facts(
                    files,
                    [(b, n) for b in TABLE_BATCHES for n in lengths],
                    threads=threads,
                    baseline="dense ONNX",
                    make_batch=make_batch,
                    progress=progress,
                )
        return rows

    # -- the end --------------------------------------------------------------------------------

    def _results(
        self, members: dict[str, str], evaluation: dict[str, Any], timing: dict[str, Any]
    ) -> dict[str, Any]:
        data = self.data
        common = {
            "format_version": RESULTS_VERSION,
            "recipe_sha256": _fingerprint(self.recipe),
            "task": self.recipe.task,
            "labels": data.label_names,
            "data": {
                "samples": {name: data.size(name) for name in SPLITS},
                "windows": {name: len(data.split(name)) for name in SPLITS}
                if TEXT_ROW in data.train.column_names
                else None,
                "truncated": data.truncated,
                "seen_in_train": data.seen_in_train,
                "max_length": None if data.of_images else data.max_length,
                "stride": self.recipe.data.stride,
                "class_weights": self.done.get("class_weights"),
            },
            "sources": sources(self.recipe),
            "seed": self.recipe.training.seed,
            "bf16": self.done["bf16"],
            "processes": self.state.num_processes,
            "search": self.done.get("search"),
            "quantization": self.done.get("quantization"),
            "vocabulary": self.done.get("tokens"),
            "seconds": self.seconds,
            "environment": environment(),
        }
        pruning = {label: self._pruning(label, place) for label, place in members.items()}
        if list(members) == [PRUNED]:
            return {
                **common,
                "pruning": pruning[PRUNED],
                "evaluation": evaluation,
                "benchmark": timing,
            }
        return {**common, "family": pruning, "evaluation": evaluation, "benchmark": timing}

    def _details(self, members: Iterable[str]) -> dict[str, Any]:
        """How losses and metrics went, and test rows whose prediction changed."""
        logs = [(DENSE, "teacher", "teacher")]
        for label in members:
            own = self._label(label)
            logs += [(label, "prune", f"{own}-pruned"), (label, "recover", f"{own}-recovered")]
        files = [(model, stage, self.work / "log" / f"{name}.json") for model, stage, name in logs]
        return {
            "format_version": DETAILS_VERSION,
            "training": [
                {"model": model, "stage": stage, "log": _read_json(file)}
                for model, stage, file in files
                if file.is_file()
            ],
            "changed": self.done.get("changed") or {},
        }

    def _label(self, label: str) -> str:
        """The label that a model had when it was made: a search names its best one anew."""
        search = self.done.get("search")
        return str(search["chosen"]) if search and label == PRUNED else label

    def _pruning(self, label: str, place: str) -> dict[str, Any]:
        """What a model kept, and what of the dense model's encoder weights is gone."""
        dense = self._saved(self.done["teacher"])
        model = self._saved(place)
        costs = parameter_costs(dense)
        totals, kept = model_sizes(dense), model_sizes(model)
        plan = PruningPlan.first_units(totals, kept)
        found: dict[str, Any] = {
            "sparsity": round(plan_sparsity(plan, costs), 6),
            "heads": [heads for heads, _ in kept],
            "neurons": [neurons for _, neurons in kept],
            "of_heads": [heads for heads, _ in totals],
            "of_neurons": [neurons for _, neurons in totals],
        }
        label = self._label(label)
        stage = "latency" if label == PRUNED else f"latency {label}"
        candidates = self.done.get("candidates", {}).get(label)
        if candidates:
            found["candidates"] = candidates
            (best,) = (entry for entry in candidates.values() if entry["chosen"])
            if "predicted" in best:
                found["predicted_speedup"] = best["predicted"]
        elif stage in self.done:
            table = LatencyTable.from_dict(self.done[stage])
            found["predicted_speedup"] = table.speedup(kept)
        return found

    def _write(
        self, members: dict[str, str], results: dict[str, Any], details: dict[str, Any]
    ) -> None:
        recipe = self.recipe
        layout = read_layout(recipe.model.name_or_path)
        with atomic_directory(self.output, overwrite=recipe.overwrite or recipe.resume) as folder:
            for label, place in members.items():
                target = folder if label == PRUNED else folder / label
                shutil.copytree(place, target, dirs_exist_ok=True)
                shutil.copytree(self.done["export"][label], target / "onnx")
                if layout is not None:
                    model = self._saved(place)
                    save_encoder(model, self.small.processor, layout, target / SENTENCE_FOLDER)
                atomic_write_json(target / "metrics.json", member_results(results, label))
                atomic_write_json(target / "details.json", member_details(details, label))
                atomic_write_text(target / "recipe.yaml", dump_recipe(recipe))
                self._report(target)  # first: the card shows some of its figures
                write_card(target)
            if PRUNED not in members:
                atomic_write_json(folder / "metrics.json", results)
                atomic_write_json(folder / "details.json", details)
                atomic_write_text(folder / "recipe.yaml", dump_recipe(recipe))
                self._report(folder)

    def _report(self, folder: Path) -> None:
        """``report.html`` and its figures, if they can be made: hours of work do not hang on it."""
        try:
            _, note = write_report(folder)
        except Exception as error:
            self.console.warn(
                f"no report was made ({_brief(error)}); the results are in metrics.json, and "
                f"`hfprune report {self.output}` tries it again"
            )
        else:
            if note is not None:
                self.console.note(note)

    def _push(self, members: Iterable[str]) -> None:
        """Last, so that a failed upload costs nothing but itself."""
        hub = self.recipe.hub
        if not hub.push_to_hub or hub.hub_model_id is None:
            return
        failed = []
        with self.console.stage("push"):
            for label in members:
                single = label == PRUNED
                try:
                    url = push(
                        self.output if single else self.output / label,
                        member_repo_id(hub.hub_model_id, None if single else label),
                        private=hub.hub_private_repo,
                        revision=hub.hub_revision,
                        note=None if self.console.silent else self.console.note,
                    )
                except HubError as error:
                    failed.append(str(error))
                else:
                    self.console.note(f"pushed: {url}")
        if failed:
            raise HubError("\n".join(failed))


def member_results(results: dict[str, Any], label: str) -> dict[str, Any]:
    """The results of one model of a family, as if it had been the only one."""
    if "family" not in results:
        return results
    renamed = partial(_renamed, label=label)
    evaluation, timing = results["evaluation"], results["benchmark"]
    single = {key: value for key, value in results.items() if key != "family"}
    return {
        **single,
        "member": label,
        "pruning": results["family"][label],
        "quantization": _only(results.get("quantization"), label),
        "evaluation": {
            **evaluation,
            "models": {new: v for k, v in evaluation["models"].items() if (new := renamed(k))},
        },
        "benchmark": {
            **timing,
            "rows": [
                {**row, "name": new} for row in timing["rows"] if (new := renamed(row["name"]))
            ],
            "full_table": timing["full_table"]
            and [
                {**row, "name": new}
                for row in timing["full_table"]
                if (new := renamed(row["name"]))
            ],
            "file_bytes": {new: v for k, v in timing["file_bytes"].items() if (new := renamed(k))},
            "parameters": _pair(timing["parameters"], label),
            "macs": _pair(timing["macs"], label),
        },
    }


def member_details(details: dict[str, Any], label: str) -> dict[str, Any]:
    """The details of one model of a family, as if it had been the only one."""
    owners = {DENSE: DENSE, label: PRUNED}
    return {
        **details,
        "training": [
            {**entry, "model": owners[entry["model"]]}
            for entry in details["training"]
            if entry["model"] in owners
        ],
        "changed": {new: v for k, v in details["changed"].items() if (new := _renamed(k, label))},
    }


def _renamed(name: str, label: str) -> str | None:
    """What a model of a family is called where it is the only one; ``None`` for the others."""
    owner, _, kind = name.rpartition(" ")
    return name if owner == DENSE else f"{PRUNED} {kind}" if owner == label else None


def _only(records: dict[str, Any] | None, label: str) -> dict[str, Any] | None:
    return {PRUNED: records[label]} if records and label in records else None


def _pair(values: dict[str, Any], label: str) -> dict[str, Any]:
    return {DENSE: values[DENSE], PRUNED: values[label]}


def _after(current: str, plan: PruningPlan) -> PruningPlan:
    """A plan made from the model in ``current``, as one from the dense model."""
    earlier = Path(current) / PLAN_FILE
    if not earlier.is_file():
        return plan
    return PruningPlan.from_dict(_read_json(earlier)).then(plan)


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _slug(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


def _sizes_text(sizes: Sequence[Sequence[int]]) -> str:
    kept = " ".join(f"{heads}+{neurons}" for heads, neurons in sizes)
    return f"heads+neurons by layer: {kept}"


def _parameter_budget(
    dense: Any, sparsity: float
) -> tuple[float, Callable[[BlockKey, int], float]]:
    """Encoder weights that may stay, and what a block of some size takes of them."""
    units = parameter_costs(dense)
    total = sum(units[key] * view.units for key, view in block_views(dense).items())
    return (1.0 - sparsity) * total, lambda key, count: units[key] * count


def _fingerprint(recipe: Recipe) -> str:
    """SHA-256 of what a recipe's results follow from: what may change when a run is resumed is out.

    That is how the run is carried on and published, and how many rows are computed at a time as
    long as an optimizer step sees the same rows.
    """
    training = recipe.training
    rows = training.per_device_train_batch_size * training.gradient_accumulation_steps
    same = training.model_copy(
        update={
            "per_device_train_batch_size": rows,
            "gradient_accumulation_steps": 1,
            "per_device_eval_batch_size": 1,
            "gradient_checkpointing": False,
        }
    )
    update = {"resume": False, "overwrite": False, "hub": HubConfig(), "training": same}
    return hashlib.sha256(dump_recipe(recipe.model_copy(update=update)).encode()).hexdigest()


def _brief(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]


def _layers_plan(sizes: Sequence[tuple[int, int]], layers: Sequence[int]) -> PruningPlan:
    if layers[-1] >= len(sizes):
        raise PlanError(
            f"pruning.keep_layers {list(layers)}: the model has layers 0 to {len(sizes) - 1}"
        )
    kept = [size if layer in layers else (0, 0) for layer, size in enumerate(sizes)]
    return PruningPlan.first_units(sizes, kept)


def _describe_data(data: TaskData) -> str:
    parts = [f"{data.size(name)} {name}" for name in SPLITS]
    cut = sum(data.truncated.values())
    note = f"; {cut} texts cut at {data.max_length} tokens" if cut else ""
    if TEXT_ROW in data.train.column_names:
        rows = sum(len(data.split(name)) for name in SPLITS)
        note = f"; {rows} windows of up to {data.max_length} tokens"
    return ", ".join(parts) + f" samples, {data.num_labels} labels{note}"
