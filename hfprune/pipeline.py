"""One run, from a recipe to a directory: teacher, prune, shrink, recover, export, evaluate, time.

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
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    EarlyStoppingCallback,
    set_seed,
)

from hfprune.benchmark import (
    count_macs,
    count_parameters,
    environment,
    file_size,
    measure_latency,
    onnx_runner,
    random_batches,
    ratios,
    torch_runner,
)
from hfprune.checkpoint import from_pretrained
from hfprune.data import TaskData, data_collator, load_task_data
from hfprune.errors import CheckpointError, MissingExtraError
from hfprune.export import (
    MODEL_FILE,
    QUANTIZED_FILE,
    OnnxClassifier,
    export_onnx,
    predict_logits,
    quantize_onnx,
)
from hfprune.files import atomic_directory, atomic_write_json, atomic_write_text, check_output_dir
from hfprune.metrics import (
    bootstrap_interval,
    compute,
    is_correct,
    load_metrics,
    make_compute_metrics,
    paired_bootstrap,
    paired_difference,
    score,
    wilson_interval,
)
from hfprune.plan import PruningPlan
from hfprune.recipe import Recipe, dump_recipe
from hfprune.report import Console
from hfprune.structure import adapter_for, model_sizes
from hfprune.trainer import HFPruneTrainer, last_checkpoint, training_arguments

logger = logging.getLogger(__name__)

RESULTS_VERSION = 1
WORK_SUFFIX = ".work"
WEIGHTS = "model.safetensors"


def run(recipe: Recipe, console: Console | None = None) -> dict[str, Any] | None:
    """Carry a recipe out.

    Returns:
        The content of ``metrics.json`` on the main process, ``None`` on the others.

    Raises:
        HFPruneError: whatever was wrong with the recipe's model, data or output, before any long
            work where that can be known.
    """
    return _Run(recipe, console or Console()).execute()


class _Run:
    def __init__(self, recipe: Recipe, console: Console) -> None:
        self.recipe = recipe
        self.console = console
        self.state = PartialState()
        self.output = Path(recipe.output_dir)
        self.work = self.output.with_name(self.output.name + WORK_SUFFIX)
        self.done: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}

    # -- frame ----------------------------------------------------------------------------------

    def execute(self) -> dict[str, Any] | None:
        recipe = self.recipe
        self._check_before_work()
        self._open_work()
        set_seed(recipe.training.seed)
        with self.console.stage("data"):
            self.tokenizer = AutoTokenizer.from_pretrained(
                recipe.model.tokenizer or recipe.model.name_or_path,
                revision=recipe.model.revision if recipe.model.tokenizer is None else None,
                trust_remote_code=recipe.model.trust_remote_code,
            )
            self.data = load_task_data(recipe.data, self.tokenizer, recipe.task)
            self.console.note(_describe_data(self.data))
        teacher = self._stage("teacher", self._teacher)
        pruned = self._stage("prune", lambda: self._prune(teacher))
        if recipe.recovery.num_train_epochs > 0:
            pruned = self._stage("recover", lambda: self._recover(pruned, teacher))
        if not self.state.is_main_process:
            return None
        self._stage("export", lambda: self._export(teacher, pruned))
        evaluation = self._stage("evaluate", lambda: self._evaluate(teacher, pruned))
        timing = self._stage("benchmark", lambda: self._benchmark(teacher, pruned))
        results = self._results(teacher, pruned, evaluation, timing)
        self._write(pruned, results)
        return results

    def _check_before_work(self) -> None:
        """What can be refused without reading a model or data."""
        recipe = self.recipe
        check_output_dir(self.output, recipe.overwrite or (recipe.resume and self.work.is_dir()))
        missing = [name for name in ("onnxruntime", "optimum") if find_spec(name) is None]
        if missing:
            raise MissingExtraError(
                f'exporting needs {" and ".join(missing)}: pip install "hfprune[onnx]"'
            )
        load_metrics(recipe.evaluation.metrics, recipe.task, 2)
        model = Path(recipe.model.name_or_path)
        if (model / "config.json").is_file():
            config = json.loads((model / "config.json").read_text(encoding="utf-8"))
            adapter_for(str(config.get("model_type")))

    def _open_work(self) -> None:
        """Find out how far an earlier run came; make the work directory."""
        recipe = self.recipe
        fingerprint = hashlib.sha256(
            dump_recipe(recipe.model_copy(update={"resume": False, "overwrite": False})).encode()
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

    def _stage(self, name: str, do: Callable[[], Any]) -> Any:
        """Do a stage, or take its result from an earlier run. Results are JSON."""
        if name in self.done:
            self.console.note(f"{name}: done before, not repeated")
            return self.done[name]
        start = time.monotonic()
        with self.console.stage(name):
            result = do()
        self.seconds[name] = round(time.monotonic() - start, 1)
        self.done[name] = result
        self._save_state()
        self.state.wait_for_everyone() if name in ("teacher", "prune", "recover") else None
        return result

    # -- training stages ------------------------------------------------------------------------

    def _teacher(self) -> str:
        recipe = self.recipe
        if recipe.teacher.name_or_path is not None:
            model = self._load_dense(recipe.teacher.name_or_path, None)
        else:
            model = self._load_dense(recipe.model.name_or_path, recipe.model.revision)
            trainer = self._trainer(
                model,
                "teacher",
                num_train_epochs=recipe.teacher.num_train_epochs,
                learning_rate=recipe.teacher.learning_rate,
            )
            trainer.train(resume_from_checkpoint=self._checkpoint("teacher"))
            model = trainer.model
        return self._keep(model, "teacher")

    def _prune(self, teacher: str) -> str:
        model = self._load_dense(teacher, None)
        sizes = model_sizes(model)
        trainer = self._trainer(
            model,
            "prune",
            pruning=self.recipe.pruning,
            distillation=self.recipe.distillation,
            teacher=copy.deepcopy(model) if self.recipe.distillation else None,
        )
        trainer.train(resume_from_checkpoint=self._checkpoint("prune"))
        plan = trainer.plan or PruningPlan.dense(sizes)
        if self.state.is_main_process:
            atomic_write_json(self.work / "plan.json", plan.to_dict())
            atomic_write_json(self.work / "history.json", trainer.state.log_history)
        return self._keep(trainer.model, "pruned")

    def _recover(self, pruned: str, teacher: str) -> str:
        recipe = self.recipe
        trainer = self._trainer(
            from_pretrained(pruned),
            "recover",
            num_train_epochs=recipe.recovery.num_train_epochs,
            learning_rate=recipe.recovery.learning_rate,
            distillation=recipe.distillation,
            teacher=self._load_dense(teacher, None) if recipe.distillation else None,
        )
        trainer.train(resume_from_checkpoint=self._checkpoint("recover"))
        return self._keep(trainer.model, "recovered")

    def _load_dense(self, name: str, revision: str | None) -> Any:
        recipe, data = self.recipe, self.data
        labels: dict[str, Any] = {"num_labels": data.num_labels}
        if data.label_names:
            labels = {"id2label": data.id2label, "label2id": data.label2id}
        model = AutoModelForSequenceClassification.from_pretrained(
            name,
            revision=revision,
            trust_remote_code=recipe.model.trust_remote_code,
            problem_type=recipe.task,
            **labels,
        )
        if model.config.pad_token_id is None:
            model.config.pad_token_id = self.tokenizer.pad_token_id
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
            args=training_arguments(settings, self.work / "checkpoints" / stage),
            train_dataset=data.train,
            eval_dataset=data.validation,
            data_collator=data_collator(self.tokenizer),
            compute_metrics=make_compute_metrics(
                recipe.evaluation.metrics, data.task, data.num_labels
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
                self.tokenizer.save_pretrained(temporary)
        return str(folder)

    # -- stages of the main process -------------------------------------------------------------

    def _export(self, teacher: str, pruned: str) -> dict[str, str]:
        folders = {}
        for name, model in (
            ("dense", self._load_dense(teacher, None)),
            ("pruned", from_pretrained(pruned)),
        ):
            folder = self.work / "onnx" / name
            export_onnx(model, self.tokenizer, folder, opset=self.recipe.export.opset)
            if self.recipe.export.quantization is not None:
                quantize_onnx(folder, self.recipe.export.quantization, calibration=self.data.train)
            folders[name] = str(folder)
        return folders

    def _candidates(self, teacher: str, pruned: str) -> dict[str, Any]:
        """All models that are compared: PyTorch modules, and paths of ONNX files."""
        onnx = self.done["export"]
        found: dict[str, Any] = {}
        for name, model in (
            ("dense", self._load_dense(teacher, None).eval()),
            ("pruned", from_pretrained(pruned)),
        ):
            found[f"{name} PyTorch"] = model
            found[f"{name} ONNX"] = Path(onnx[name]) / MODEL_FILE
            if self.recipe.export.quantization is not None:
                found[f"{name} int8"] = Path(onnx[name]) / QUANTIZED_FILE
        return found

    def _evaluate(self, teacher: str, pruned: str) -> dict[str, Any]:
        recipe, data = self.recipe, self.data
        names, level = recipe.evaluation.metrics, recipe.evaluation.confidence
        labels = np.asarray(data.test["labels"])
        collator = data_collator(self.tokenizer)
        threads = max(1, environment()["cpu_usable"] or 1)
        primary = names[0]

        def primary_score(logits: Any, truth: Any) -> float:
            return score(primary, logits, truth, data.task, data.num_labels)

        predicted: dict[str, Any] = {}
        report: dict[str, Any] = {}
        for name, candidate in self._candidates(teacher, pruned).items():
            model = OnnxClassifier(candidate, threads) if isinstance(candidate, Path) else candidate
            logits = predict_logits(
                model, data.test, collator, batch_size=recipe.training.per_device_eval_batch_size
            )
            predicted[name] = logits
            entry: dict[str, Any] = {
                "metrics": compute(logits, labels, names, data.task, data.num_labels)
            }
            base = predicted["dense PyTorch"]
            if primary == "accuracy":
                right = is_correct(logits, labels, data.task, data.num_labels)
                entry["interval"] = list(wilson_interval(int(right.sum()), len(right), level))
                against = is_correct(base, labels, data.task, data.num_labels)
                entry["difference"] = list(paired_difference(right, against, level))
            else:
                entry["interval"] = list(bootstrap_interval(primary_score, logits, labels, level))
                entry["difference"] = list(
                    paired_bootstrap(primary_score, logits, base, labels, level)
                )
            report[name] = entry
            self.console.note(f"{name}: {primary} {entry['metrics'][primary]:.4f}")
        return {"primary": primary, "confidence": level, "samples": len(labels), "models": report}

    def _benchmark(self, teacher: str, pruned: str) -> dict[str, Any]:
        settings = self.recipe.benchmark
        candidates = self._candidates(teacher, pruned)
        runners: dict[str, Any] = {
            name: onnx_runner(candidate, settings.threads)
            if isinstance(candidate, Path)
            else torch_runner(candidate, settings.threads)
            for name, candidate in candidates.items()
        }
        shapes = [(b, length) for b in settings.batch_sizes for length in settings.sequence_lengths]
        config = candidates["dense PyTorch"].config
        with self.console.progress("benchmark") as progress:
            rows = measure_latency(
                runners,
                shapes,
                repeats=settings.repeats,
                warmup=settings.warmup,
                make_batch=random_batches(
                    config.vocab_size, first_id=min(10, config.vocab_size - 1)
                ),
                progress=progress,
            )
        ratio = ratios(rows, "dense ONNX")
        lengths = settings.sequence_lengths
        sizes = {}
        for name, candidate in candidates.items():
            folder = Path(teacher if name.startswith("dense") else pruned)
            file = candidate if isinstance(candidate, Path) else folder / WEIGHTS
            sizes[name] = file_size(file)
        return {
            "threads": settings.threads,
            "repeats": settings.repeats,
            "baseline": "dense ONNX",
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
                name: count_parameters(candidates[f"{name} PyTorch"])
                for name in ("dense", "pruned")
            },
            "macs": {
                name: {
                    str(length): count_macs(candidates[f"{name} PyTorch"], length)
                    for length in lengths
                }
                for name in ("dense", "pruned")
            },
        }

    # -- the end --------------------------------------------------------------------------------

    def _results(
        self, teacher: str, pruned: str, evaluation: dict[str, Any], timing: dict[str, Any]
    ) -> dict[str, Any]:
        plan = PruningPlan.from_dict(json.loads((self.work / "plan.json").read_text("utf-8")))
        history = json.loads((self.work / "history.json").read_text("utf-8"))
        reached = [entry for entry in history if "pruning/sparsity" in entry]
        data = self.data
        return {
            "format_version": RESULTS_VERSION,
            "task": data.task,
            "labels": data.label_names,
            "data": {
                "samples": {
                    "train": len(data.train),
                    "validation": len(data.validation),
                    "test": len(data.test),
                },
                "truncated": data.truncated,
                "seen_in_train": data.seen_in_train,
                "max_length": data.max_length,
            },
            "seed": self.recipe.training.seed,
            "processes": self.state.num_processes,
            "pruning": {
                "sparsity": reached[-1]["pruning/sparsity"] if reached else 0.0,
                "heads": [heads for heads, _ in plan.sizes()],
                "neurons": [neurons for _, neurons in plan.sizes()],
                "of_heads": [heads for heads, _ in plan.totals()],
                "of_neurons": [neurons for _, neurons in plan.totals()],
            },
            "evaluation": evaluation,
            "benchmark": timing,
            "seconds": self.seconds,
            "environment": environment(),
        }

    def _write(self, pruned: str, results: dict[str, Any]) -> None:
        recipe = self.recipe
        with atomic_directory(self.output, overwrite=recipe.overwrite or recipe.resume) as folder:
            shutil.copytree(pruned, folder, dirs_exist_ok=True)
            shutil.copytree(self.done["export"]["pruned"], folder / "onnx")
            shutil.copy(self.work / "plan.json", folder / "plan.json")
            atomic_write_json(folder / "metrics.json", results)
            atomic_write_text(folder / "recipe.yaml", dump_recipe(recipe))
        shutil.rmtree(self.work)
        self.console.summary(results)
        self.console.note(f"results: {self.output}")


def _describe_data(data: TaskData) -> str:
    parts = [f"{len(data.split(name))} {name}" for name in ("train", "validation", "test")]
    cut = sum(data.truncated.values())
    note = f"; {cut} texts cut at {data.max_length} tokens" if cut else ""
    return ", ".join(parts) + f" samples, {data.num_labels} labels{note}"
