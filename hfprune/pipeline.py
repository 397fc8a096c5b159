"""One run, from a recipe to a directory: teacher, prune, shrink, recover, export, evaluate, time.

Every stage leaves its result in a work directory beside the output and is not repeated when the
run is resumed. The output directory appears at the end, whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import broadcast_object_list
from transformers import (
    AutoConfig,
    EarlyStoppingCallback,
    set_seed,
)

from hfprune.benchmark import (
    batches_for,
    count_macs,
    count_parameters,
    environment,
    file_size,
    measure_latency,
    onnx_runner,
    ratios,
    torch_runner,
)
from hfprune.checkpoint import from_pretrained
from hfprune.compress import prune_without_training
from hfprune.cost import LatencyTable, parameter_costs
from hfprune.data import SPLITS, TEXT_ROW, TaskData, data_collator, load_task_data
from hfprune.entities import score_counts
from hfprune.errors import (
    CheckpointError,
    DataError,
    HubError,
    MissingExtraError,
    PlanError,
    TrainingError,
)
from hfprune.export import (
    MODEL_FILE,
    QUANTIZED_FILE,
    OnnxClassifier,
    export_onnx,
    predict_logits,
    quantize_onnx,
)
from hfprune.files import atomic_directory, atomic_write_json, atomic_write_text, check_output_dir
from hfprune.hub import find_token, member_repo_id, push, sources, write_card
from hfprune.images import IMAGE_COLUMN
from hfprune.imbalance import balanced_weights, weighted_loss
from hfprune.latency import calibrated, latency_table
from hfprune.lora import base_of_adapter, check_adapter, is_adapter, load_merged
from hfprune.metrics import (
    bootstrap_interval,
    compute,
    is_correct,
    load_metrics,
    make_compute_metrics,
    paired_bootstrap,
    paired_difference,
    score,
    token_counts,
    wilson_interval,
)
from hfprune.plan import BlockKey, PruningPlan
from hfprune.recipe import HubConfig, PruningConfig, QuantizationConfig, Recipe, dump_recipe
from hfprune.report import Console, processes
from hfprune.search import plan_sparsity
from hfprune.sentences import read_layout, save_encoder
from hfprune.structure import adapter_for, adapter_of, block_views, model_sizes
from hfprune.surgery import RECORD_KEY, shrink_
from hfprune.tasks import (
    TEXT_INPUTS,
    auto_class,
    image_shape,
    kind_of_task,
    load_processor,
    model_folder,
    problem_of,
)
from hfprune.trainer import HFPruneTrainer, last_checkpoint, training_arguments

logger = logging.getLogger(__name__)

RESULTS_VERSION = 1
WORK_SUFFIX = ".work"
WEIGHTS = "model.safetensors"
DENSE, PRUNED = "dense", "pruned"
# A sentence encoder that was pruned by a classifier's recipe comes back as one, here.
SENTENCE_FOLDER = "sentence-encoder"
TRAINING_STAGES = ("teacher", "prune", "recover")
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


class _Run:
    def __init__(self, recipe: Recipe, console: Console) -> None:
        self.recipe = recipe
        self.console = console
        self.state = processes()
        self.output = Path(recipe.output_dir)
        self.work = self.output.with_name(self.output.name + WORK_SUFFIX)
        self.done: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}

    # -- frame ----------------------------------------------------------------------------------

    def teacher_only(self) -> Path:
        self._prepare()
        teacher = self._stage("teacher", self._teacher)
        if self.state.is_main_process:
            with atomic_directory(self.output, overwrite=self.recipe.overwrite) as folder:
                shutil.copytree(teacher, folder, dirs_exist_ok=True)
            shutil.rmtree(self.work)
        self.state.wait_for_everyone()
        return self.output

    def execute(self) -> dict[str, Any] | None:
        self._prepare()
        teacher = self._stage("teacher", self._teacher)
        members = self._members(teacher)
        if not self.state.is_main_process:
            return None
        self._stage("export", lambda: self._export(teacher, members))
        evaluation = self._stage("evaluate", lambda: self._evaluate(teacher, members))
        timing = self._stage("benchmark", lambda: self._benchmark(teacher, members))
        results = self._results(members, evaluation, timing)
        self._write(members, results)
        self._push(members)
        return results

    def _prepare(self) -> None:
        recipe = self.recipe
        self._check_before_work()
        self._open_work()
        set_seed(recipe.training.seed)
        with self.console.stage("data"):
            # A tokenizer, or an image processor.
            self.processor = load_processor(
                recipe.model.tokenizer or _processor_folder(recipe.model.name_or_path),
                recipe.task,
                revision=recipe.model.revision if recipe.model.tokenizer is None else None,
                trust_remote_code=recipe.model.trust_remote_code,
            )
            self.data = load_task_data(recipe.data, self.processor, recipe.task)
            self.collator = data_collator(self.processor, recipe.task)
            self.console.note(_describe_data(self.data))
            self.loss = self._weighted_loss()
            load_metrics(
                recipe.evaluation.metrics,
                self.data.task,
                self.data.num_labels,
                self.data.label_names,
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
        pruning = self.recipe.pruning
        if pruning.max_metric_drop is not None:
            return None
        if isinstance(pruning.speedup, list):
            return [
                (f"{speed:g}x", pruning.model_copy(update={"speedup": speed}))
                for speed in pruning.speedup
            ]
        return [(PRUNED, pruning)]

    def _member(self, label: str, target: PruningConfig, current: str, teacher: str) -> str:
        """Prune one model from ``current`` to a target, and train what is left."""
        suffix = "" if label == PRUNED else f" {label}"
        table = None
        if target.speedup is not None:
            speed = target.speedup
            found = self._stage(
                f"latency{suffix}", lambda: self._latency(teacher, speed), by_main=True
            )
            table = LatencyTable.from_dict(found)
        pruned: str = self._stage(
            f"prune{suffix}",
            lambda: self._prune(label, target, current, teacher, table),
            by_main=target.method == "reconstruction" or target.keep_layers is not None,
        )
        if self.recipe.recovery.num_train_epochs > 0:
            start = pruned
            pruned = self._stage(f"recover{suffix}", lambda: self._recover(label, start, teacher))
        return pruned

    def _step_up(self, teacher: str) -> dict[str, str]:
        """The fastest model within ``max_metric_drop``; ``self.done['search']`` keeps the record.

        Judged by the quantized model on the validation rows, against the dense one there.
        """
        pruning = self.recipe.pruning
        limit = pruning.max_metric_drop or 0.0
        current, best, chosen, record = teacher, None, "", []
        floor = self._stage(
            "validate dense", lambda: self._validation(teacher, DENSE), by_main=True
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
        model = self._load_dense(folder, None) if label == DENSE else from_pretrained(folder)
        file = self._exported(model, self.work / "validation" / label)
        data, metric = self.data, self.recipe.training.metric_for_best_model
        name = self.recipe.evaluation.metrics[0] if metric in (None, "loss") else metric
        logits = data.by_text(
            "validation", predict_logits(OnnxClassifier(file), data.validation, self.collator)
        )
        labels = data.label_array("validation")
        return score(name, logits, labels, data.task, data.num_labels, data.label_names)

    def _exported(self, model: Any, folder: Path) -> Path:
        """Export, and quantize where the recipe wants it; the file that will be deployed."""
        file = export_onnx(model, self.processor, folder, opset=self.recipe.export.opset)
        quantization = self.recipe.export.quantization
        if quantization is None:
            return file
        calibration: Any = self.data.train
        if self.data.of_images and quantization.is_static:
            calibration = self._pixels(quantization.calibration_samples)
        return quantize_onnx(folder, quantization, calibration=calibration)

    def _pixels(self, count: int) -> Any:
        """Training images as the model gets them, drawn with the seed of the run."""
        from datasets import Dataset

        train = self.data.train
        rng = np.random.default_rng(self.recipe.training.seed)
        chosen = sorted(rng.permutation(len(train))[:count].tolist())
        pixels = [self.collator([train[row]])["pixel_values"][0].numpy() for row in chosen]
        return Dataset.from_dict({"pixel_values": pixels})

    def _check_before_work(self) -> None:
        """What can be refused without reading a model or data."""
        recipe = self.recipe
        check_output_dir(self.output, recipe.overwrite or (recipe.resume and self.work.is_dir()))
        missing = [name for name in ("onnxruntime", "optimum") if find_spec(name) is None]
        if missing:
            raise MissingExtraError(
                f'exporting needs {" and ".join(missing)}: pip install "hfprune[onnx]"'
            )
        load_metrics(recipe.evaluation.metrics, problem_of(recipe.task), 2)
        if recipe.hub.push_to_hub:
            find_token()
        for name in (recipe.model.name_or_path, recipe.teacher.name_or_path):
            if name is not None:
                check_adapter(name)
        model = Path(model_folder(recipe.model.name_or_path))
        if (model / "config.json").is_file():
            config = json.loads((model / "config.json").read_text(encoding="utf-8"))
            adapter_for(str(config.get("model_type")))

    def _open_work(self) -> None:
        """Find out how far an earlier run came; make the work directory."""
        recipe = self.recipe
        fingerprint = hashlib.sha256(
            dump_recipe(
                # How the run is carried on and published does not change its results.
                recipe.model_copy(update={"resume": False, "overwrite": False, "hub": HubConfig()})
            ).encode()
        ).hexdigest()
        record = self.work / "stages.json"
        if self.state.is_main_process:
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
            saved = json.loads(record.read_text(encoding="utf-8"))
            if saved.get("recipe") != fingerprint:
                raise CheckpointError(
                    f"{self.work} was begun with another recipe; resume with the recipe in "
                    f"{self.work / 'recipe.yaml'}, or set overwrite=true to start afresh"
                )
            self.done = saved["done"]
            self.seconds = saved["seconds"]
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
            self.console.note(f"{name}: done before, not repeated")
            return self.done[name]
        start = time.monotonic()
        with self.console.stage(name):
            result = do() if self.state.is_main_process or not by_main else None
        if by_main and self.state.num_processes > 1:
            result = broadcast_object_list([result])[0]
        elif name.split()[0] in TRAINING_STAGES:
            self.state.wait_for_everyone()  # the main process has written what all will read
        self.seconds[name] = round(time.monotonic() - start, 1)
        self.done[name] = result
        self._save_state()
        return result

    # -- training stages ------------------------------------------------------------------------

    def _teacher(self) -> str:
        recipe = self.recipe
        if recipe.teacher.name_or_path is not None:
            model = self._load_dense(model_folder(recipe.teacher.name_or_path), None)
        else:
            model = self._load_dense(model_folder(recipe.model.name_or_path), recipe.model.revision)
            trainer = self._trainer(
                model,
                "teacher",
                num_train_epochs=recipe.teacher.num_train_epochs,
                learning_rate=recipe.teacher.learning_rate,
            )
            trainer.train(resume_from_checkpoint=self._checkpoint("teacher"))
            model = trainer.model
        return self._keep(model, "teacher")

    def _latency(self, teacher: str, speedup: Any) -> dict[str, Any]:
        recipe = self.recipe
        with self.console.progress("latency table") as progress:
            model = self._load_dense(teacher, None)
            table = latency_table(
                model,
                self.processor,
                self._dynamic(),
                batch_size=recipe.benchmark.batch_sizes[0],
                sequence_length=self._lengths(model.config)[0],
                threads=recipe.benchmark.threads,
                progress=lambda step, done, total: progress(done, total),
            )
        table.budget_ms(speedup)  # refuses the impossible
        return calibrated(table, model, self.processor, self._dynamic(), speedup).to_dict()

    def _lengths(self, config: Any) -> list[int]:
        """The lengths to time, in tokens; of images their one size, in pixels."""
        lengths = self.recipe.benchmark.sequence_lengths
        return [max(image_shape(config)[1:])] if self.data.of_images else lengths

    def _dynamic(self) -> QuantizationConfig | None:
        """Quantization for probes: as the recipe's, without what needs data or names of nodes."""
        quantization = self.recipe.export.quantization
        if quantization is None:
            return None
        return quantization.model_copy(update={"is_static": False, "nodes_to_exclude": []})

    def _prune(
        self,
        label: str,
        target: PruningConfig,
        current: str,
        teacher: str,
        table: LatencyTable | None,
    ) -> str:
        first = current == teacher
        model = self._load_dense(current, None) if first else from_pretrained(current)
        sizes = model_sizes(model)
        history: list[dict[str, float]] = []
        if target.keep_layers is not None:
            plan = _layers_plan(sizes, target.keep_layers)
            shrink_(model, plan)
        elif target.method == "reconstruction":
            plan = self._reconstruct(model, target, teacher, table)
        else:
            trainer = self._trainer(
                model,
                f"prune-{label}",
                pruning=target,
                latency=table,
                distillation=self.recipe.distillation,
                teacher=self._load_dense(teacher, None) if self.recipe.distillation else None,
            )
            trainer.train(resume_from_checkpoint=self._checkpoint(f"prune-{label}"))
            plan = trainer.plan or PruningPlan.dense(sizes)
            history, model = trainer.state.log_history, trainer.model
        if self.state.is_main_process:
            atomic_write_json(
                self.work / f"plan-{label}.json",
                {"plan": plan.to_dict(), "after": None if first else current, "log": history},
            )
        self.console.note(f"kept heads and neurons by layer: {model_sizes(model)}")
        return self._keep(model, f"{label}-pruned")

    def _reconstruct(
        self, model: Any, target: PruningConfig, teacher: str, table: LatencyTable | None
    ) -> PruningPlan:
        dense = self._load_dense(teacher, None)
        if table is not None and isinstance(target.speedup, float):
            budget = table.budget_ms(target.speedup)

            def cost(key: BlockKey, count: int) -> float:
                return table.block_ms(key.kind, count)
        else:
            units = parameter_costs(dense)
            total = sum(units[key] * view.units for key, view in block_views(dense).items())
            budget = (1.0 - (target.sparsity or 0.0)) * total

            def cost(key: BlockKey, count: int) -> float:
                return units[key] * count

        with self.console.progress("reconstruction") as progress:
            return prune_without_training(
                model,
                dense,
                self._scoring_batches(target.scoring_samples),
                budget,
                cost,
                rounds=target.search_rounds,
                seed=self.recipe.training.seed,
                progress=lambda step, done, total: progress(done, total),
            )

    def _scoring_batches(self, samples: int) -> list[Any]:
        """Training rows without labels, of like length in a batch, batches in random order."""
        train = self.data.train
        rng = np.random.default_rng(self.recipe.training.seed)
        chosen = rng.permutation(len(train))[:samples].tolist()
        names = [IMAGE_COLUMN]
        if not self.data.of_images:
            chosen.sort(key=lambda row: len(train[row]["input_ids"]))
            names = [name for name in TEXT_INPUTS if name in train.column_names]
        size = self.recipe.training.per_device_eval_batch_size
        batches = [
            dict(self.collator([{n: train[row][n] for n in names} for row in chosen[i : i + size]]))
            for i in range(0, len(chosen), size)
        ]
        return [batches[i] for i in rng.permutation(len(batches))]

    def _recover(self, label: str, pruned: str, teacher: str) -> str:
        recipe = self.recipe
        trainer = self._trainer(
            from_pretrained(pruned),
            f"recover-{label}",
            num_train_epochs=recipe.recovery.num_train_epochs,
            learning_rate=recipe.recovery.learning_rate,
            distillation=recipe.distillation,
            teacher=self._load_dense(teacher, None) if recipe.distillation else None,
        )
        trainer.train(resume_from_checkpoint=self._checkpoint(f"recover-{label}"))
        return self._keep(trainer.model, f"{label}-recovered")

    def _load_dense(self, name: str, revision: str | None) -> Any:
        """A classifier for this task; a model that hfprune shrank before is taken as it is."""
        recipe, data = self.recipe, self.data
        adapter = is_adapter(name)
        config = AutoConfig.from_pretrained(
            base_of_adapter(name) if adapter else name,
            revision=revision,
            trust_remote_code=recipe.model.trust_remote_code,
        )
        if getattr(config, RECORD_KEY, None) is not None:
            small = from_pretrained(name, revision=revision)
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
        load = auto_class(kind_of_task(recipe.task)).from_pretrained
        if adapter:
            load = partial(load_merged, auto_class=auto_class(kind_of_task(recipe.task)))
        model = load(
            name, revision=revision, trust_remote_code=recipe.model.trust_remote_code, **labels
        )
        adapter_of(model)  # refuses adapters that came with a model from the Hub
        if data.of_images:
            _check_image_model(model, name)
        elif model.config.pad_token_id is None:
            model.config.pad_token_id = self.processor.pad_token_id
        return model

    def _trainer(
        self,
        model: Any,
        stage: str,
        *,
        num_train_epochs: float | None = None,
        learning_rate: float | None = None,
        **pruning: Any,
    ) -> HFPruneTrainer:
        recipe, data = self.recipe, self.data
        changes: dict[str, Any] = {}
        if num_train_epochs is not None:
            changes["num_train_epochs"] = num_train_epochs
        if learning_rate is not None:
            changes["learning_rate"] = learning_rate
        settings = recipe.training.model_copy(update=changes)
        patience = settings.early_stopping_patience
        return HFPruneTrainer(
            model=model,
            args=training_arguments(
                settings,
                self.work / "checkpoints" / stage,
                label_names=["labels", *({TEXT_ROW} & set(data.train.column_names))],
            ),
            train_dataset=data.train,
            eval_dataset=data.validation,
            data_collator=self.collator,
            compute_loss_func=self.loss,
            compute_metrics=make_compute_metrics(
                recipe.evaluation.metrics, data.task, data.num_labels, data.label_names
            ),
            callbacks=[EarlyStoppingCallback(patience)] if patience else None,
            **pruning,
        )

    def _checkpoint(self, stage: str) -> str | None:
        folder = self.work / "checkpoints" / stage
        found = last_checkpoint(folder) if self.recipe.resume else None
        if found is not None:
            self.console.note(f"{stage}: resuming from {found.name}")
        return None if found is None else str(found)

    def _keep(self, model: Any, name: str) -> str:
        folder = self.work / name
        if self.state.is_main_process:
            with atomic_directory(folder, overwrite=True) as temporary:
                model.save_pretrained(temporary)
                self.processor.save_pretrained(temporary)
        return str(folder)

    # -- stages of the main process -------------------------------------------------------------

    def _export(self, teacher: str, members: dict[str, str]) -> dict[str, str]:
        folders = {}
        for label, place in {DENSE: teacher, **members}.items():
            folder = self.work / "onnx" / label
            model = self._load_dense(place, None) if label == DENSE else from_pretrained(place)
            self._exported(model, folder)
            folders[label] = str(folder)
        return folders

    def _candidates(self, teacher: str, members: dict[str, str]) -> dict[str, Any]:
        """All models that are compared: PyTorch modules, and paths of ONNX files."""
        onnx = self.done["export"]
        found: dict[str, Any] = {}
        for label, place in {DENSE: teacher, **members}.items():
            model = self._load_dense(place, None) if label == DENSE else from_pretrained(place)
            found[f"{label} PyTorch"] = model.eval()
            found[f"{label} ONNX"] = Path(onnx[label]) / MODEL_FILE
            if self.recipe.export.quantization is not None:
                found[f"{label} int8"] = Path(onnx[label]) / QUANTIZED_FILE
        return found

    def _evaluate(self, teacher: str, members: dict[str, str]) -> dict[str, Any]:
        recipe, data = self.recipe, self.data
        names, level = recipe.evaluation.metrics, recipe.evaluation.confidence
        labels = data.label_array("test")
        threads = max(1, environment()["cpu_usable"] or 1)
        primary = names[0]

        of_tokens = data.task == "token_classification"

        def primary_score(logits: Any, truth: Any) -> float:
            if of_tokens:  # what is resampled are the counts of each row
                return score_counts(primary, logits)
            return score(primary, logits, truth, data.task, data.num_labels)

        predicted: dict[str, Any] = {}
        report: dict[str, Any] = {}
        for name, candidate in self._candidates(teacher, members).items():
            model = OnnxClassifier(candidate, threads) if isinstance(candidate, Path) else candidate
            size = recipe.training.per_device_eval_batch_size
            logits = predict_logits(model, data.test, self.collator, batch_size=size)
            logits = data.by_text("test", logits)
            entry: dict[str, Any] = {
                "metrics": compute(
                    logits, labels, names, data.task, data.num_labels, data.label_names
                )
            }
            predicted[name] = (
                token_counts(primary, logits, labels, data.label_names) if of_tokens else logits
            )
            base = predicted["dense PyTorch"]
            if primary == "accuracy":
                right = is_correct(logits, labels, data.task, data.num_labels)
                entry["interval"] = list(wilson_interval(int(right.sum()), len(right), level))
                against = is_correct(base, labels, data.task, data.num_labels)
                entry["difference"] = list(paired_difference(right, against, level))
            else:
                mine = predicted[name]
                entry["interval"] = list(bootstrap_interval(primary_score, mine, labels, level))
                entry["difference"] = list(
                    paired_bootstrap(primary_score, mine, base, labels, level)
                )
            report[name] = entry
            self.console.note(f"{name}: {primary} {entry['metrics'][primary]:.4f}")
        return {"primary": primary, "confidence": level, "samples": len(labels), "models": report}

    def _benchmark(self, teacher: str, members: dict[str, str]) -> dict[str, Any]:
        settings = self.recipe.benchmark
        candidates = self._candidates(teacher, members)
        runners: dict[str, Any] = {
            name: onnx_runner(candidate, settings.threads)
            if isinstance(candidate, Path)
            else torch_runner(candidate, settings.threads)
            for name, candidate in candidates.items()
        }
        config = candidates["dense PyTorch"].config
        lengths = self._lengths(config)
        shapes = [(b, length) for b in settings.batch_sizes for length in lengths]
        with self.console.progress("benchmark") as progress:
            rows = measure_latency(
                runners,
                shapes,
                repeats=settings.repeats,
                warmup=settings.warmup,
                make_batch=batches_for(config),
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

    # -- the end --------------------------------------------------------------------------------

    def _results(
        self, members: dict[str, str], evaluation: dict[str, Any], timing: dict[str, Any]
    ) -> dict[str, Any]:
        data = self.data
        common = {
            "format_version": RESULTS_VERSION,
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
            "processes": self.state.num_processes,
            "search": self.done.get("search"),
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

    def _label(self, label: str) -> str:
        """The label that a model had when it was made: a search names its best one anew."""
        search = self.done.get("search")
        return str(search["chosen"]) if search and label == PRUNED else label

    def _pruning(self, label: str, place: str) -> dict[str, Any]:
        """What a model kept, and what of the dense model's encoder weights is gone."""
        dense = self._load_dense(self.done["teacher"], None)
        model = from_pretrained(place)
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
        if stage in self.done:
            table = LatencyTable.from_dict(self.done[stage])
            found["predicted_speedup"] = table.speedup(kept)
        return found

    def _write(self, members: dict[str, str], results: dict[str, Any]) -> None:
        recipe = self.recipe
        layout = read_layout(recipe.model.name_or_path)
        with atomic_directory(self.output, overwrite=recipe.overwrite or recipe.resume) as folder:
            for label, place in members.items():
                target = folder if label == PRUNED else folder / label
                shutil.copytree(place, target, dirs_exist_ok=True)
                shutil.copytree(self.done["export"][label], target / "onnx")
                if layout is not None:
                    model = from_pretrained(place)
                    save_encoder(model, self.processor, layout, target / SENTENCE_FOLDER)
                atomic_write_json(target / "metrics.json", member_results(results, label))
                atomic_write_text(target / "recipe.yaml", dump_recipe(recipe))
                record = self.work / f"plan-{self._label(label)}.json"
                if record.is_file():
                    saved = json.loads(record.read_text(encoding="utf-8"))
                    atomic_write_json(target / "plan.json", saved["plan"])
                write_card(target)
            if PRUNED not in members:
                atomic_write_json(folder / "metrics.json", results)
                atomic_write_text(folder / "recipe.yaml", dump_recipe(recipe))
        shutil.rmtree(self.work)
        self.console.summary(results)
        self.console.note(f"results: {self.output}")

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

    def renamed(name: str) -> str | None:
        owner, _, kind = name.rpartition(" ")
        return name if owner == DENSE else f"{PRUNED} {kind}" if owner == label else None

    evaluation, timing = results["evaluation"], results["benchmark"]
    single = {key: value for key, value in results.items() if key != "family"}
    return {
        **single,
        "member": label,
        "pruning": results["family"][label],
        "evaluation": {
            **evaluation,
            "models": {new: v for k, v in evaluation["models"].items() if (new := renamed(k))},
        },
        "benchmark": {
            **timing,
            "rows": [
                {**row, "name": new} for row in timing["rows"] if (new := renamed(row["name"]))
            ],
            "file_bytes": {new: v for k, v in timing["file_bytes"].items() if (new := renamed(k))},
            "parameters": _pair(timing["parameters"], label),
            "macs": _pair(timing["macs"], label),
        },
    }


def _pair(values: dict[str, Any], label: str) -> dict[str, Any]:
    return {DENSE: values[DENSE], PRUNED: values[label]}


def _layers_plan(sizes: Sequence[tuple[int, int]], layers: Sequence[int]) -> PruningPlan:
    if layers[-1] >= len(sizes):
        raise PlanError(
            f"pruning.keep_layers {list(layers)}: the model has layers 0 to {len(sizes) - 1}"
        )
    kept = [size if layer in layers else (0, 0) for layer, size in enumerate(sizes)]
    return PruningPlan.first_units(sizes, kept)


def _processor_folder(name: str) -> str:
    """Where the tokenizer or image processor of a model is."""
    place = model_folder(name)
    if is_adapter(place) and not (Path(place) / "tokenizer_config.json").is_file():
        return base_of_adapter(place)
    return place


def _check_image_model(model: Any, name: str) -> None:
    channels, _, _ = image_shape(model.config)
    if channels != 3:
        raise DataError(
            f"{name} reads images of {channels} channels (num_channels in its config.json); data "
            "is given to models as RGB, so take one of 3 channels"
        )


def _describe_data(data: TaskData) -> str:
    parts = [f"{data.size(name)} {name}" for name in SPLITS]
    cut = sum(data.truncated.values())
    note = f"; {cut} texts cut at {data.max_length} tokens" if cut else ""
    if TEXT_ROW in data.train.column_names:
        rows = sum(len(data.split(name)) for name in SPLITS)
        note = f"; {rows} windows of up to {data.max_length} tokens"
    return ", ".join(parts) + f" samples, {data.num_labels} labels{note}"
