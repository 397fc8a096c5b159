"""`HFPruneTrainer`: every target and method, and what comes after training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments
from transformers.trainer_utils import TrainOutput

from hfprune.api.after import After
from hfprune.api.asked import Asked, check_recipe_like
from hfprune.api.given import without_held_out
from hfprune.api.runs import Runs, check_staged
from hfprune.core.results import Benchmark
from hfprune.pruning.cost import LatencyTable
from hfprune.recipe.sections.evaluation import BenchmarkConfig, EvaluationConfig
from hfprune.recipe.sections.export import DeployConfig, ExportConfig
from hfprune.recipe.sections.pruning import PruningConfig
from hfprune.recipe.sections.training import DistillationConfig, RecoveryConfig
from hfprune.training.distillation.cache import TeacherCache
from hfprune.training.trainer import HFPruneTrainer as OneTraining


class HFPruneTrainer(OneTraining):
    """A `transformers.Trainer` that leaves a smaller model: pruned, trained, and physically small.

    Use it as ``Trainer``; the further arguments are keywords, the sections of a recipe by their
    names. ``train()`` returns a ``TrainOutput``, and ``trainer.model`` is then the small model.

    A fraction of weights (``sparsity``), and a speed with a latency table, are reached in the one
    training of ``train()``, with gates (multiplication by zero) until the end. All other targets go
    through the stages of a recipe's run, with this model, these rows and arguments: times are
    measured, candidates searched, layers dropped; the trainings among the stages are carried out by
    this very Trainer, so a loss, an optimizer or callbacks of one's own hold there too. Then:

    * The model that comes in is the dense one that speeds and losses of metrics refer to. Where
      pruning takes no training (``method="reconstruction"``, ``keep_layers``), what is left is
      trained for as long as ``args`` say, unless ``recovery`` says how long.
    * Finished stages and checkpoints of trainings lie in ``output_dir/pruned.work``;
      ``train(resume_from_checkpoint=True)`` goes on from there.
    * ``max_metric_drop`` is about ``args.metric_for_best_model`` where that is a metric of hfprune,
      else the first of ``evaluation``, of the quantized file on ``eval_dataset``.
    * In ``hyperparameter_search`` a trial is worth what its small model is worth; values on the way
      are not reported, and stages lie in the trial's own folder.
    * Optimizers cannot be passed ready-made, since they hold one model's weights; pass
      ``optimizer_cls_and_kwargs`` or override ``create_optimizer``.

    While training, ``evaluate``, ``predict`` and ``save_model`` mean the model as it is pruned so
    far. ``checkpoint-N`` holds what it takes to resume, and ``hfprune.from_pretrained(
    checkpoint-N)`` gives the model as it was then. Callbacks find the small model in
    ``on_train_end``, and before that the gated one: save it with ``trainer.save_model``, as its own
    ``save_pretrained`` knows nothing of gates. With several processes, all of them call what is
    called on it.

    Without ``pruning``, ``teacher`` and ``careful`` it is the Trainer, but for the order of rows
    that are grouped by length. What differs otherwise:

    * The best model, early stopping and ``load_best_model_at_end`` only look at evaluations made
      after the target has been reached: an earlier one would win by being less pruned.
    * Weights in half precision are trained, and saved, as float32.
    * ``compute_loss`` is averaged over the accumulated batches, never over their items.
    * ``careful``: a loss or gradient that is not finite stops the training (whatever
      ``logging_nan_inf_filter`` says), and of checkpoints with the same metric the one with the
      least loss is the best, not the first.

    ``metric_for_best_model="divergence"`` chooses checkpoints by how near their predictions come to
    the teacher's on the evaluation rows, where few rows tell accuracies apart.

    Each ``train()`` begins from the configuration. Only a model that this trainer has shrunk is not
    pruned again: a second ``train()`` fine-tunes it (with ``model_init``, there is a new one).

    A subclass may override what it may of the Trainer. Its ``compute_loss`` is the task's loss;
    what the teacher adds is added to it, weighed as in ``distillation``, unless it calls ours,
    which does so. With a ``data_collator`` that may do more than pad, the teacher reads each batch
    anew. Where ``logging_strategy`` allows it, ``pruning/sparsity``, ``pruning/heads``,
    ``pruning/neurons`` and ``pruning/blocks`` are logged; trackers of ``report_to`` put ``train/``
    before them.

    What is saved cuts texts where ``processing_class`` says, ``tokenizer.model_max_length``, not
    where the rows were cut: with ``tokenizer(text, truncation=True, max_length=32)`` also set
    ``tokenizer.model_max_length = 32``, before the Trainer is made. Encoders and CrossEncoders then
    read as many tokens as they were trained on, by ``hfprune.load_encoder`` and others.

    Args:
        model to preprocess_logits_for_metrics: as of :class:`transformers.Trainer`.
        pruning: what to reach and how (also as a dict of its keys, or the path of a recipe, of
            which the section ``pruning`` is taken); ``None`` trains without pruning.
        distillation: weights of the losses against the teacher (or a dict); needs ``teacher``.
        recovery: training after the removal (or a dict).
        teacher: the dense fine-tuned model (a module, or a path / Hub name); without
            ``distillation`` its default is used. A module is moved to the device, as the model is,
            and else left as it is.
        latency: measured times of blocks for ``pruning.speedup``, taken as they are; ``None``:
            measured here (once; they are kept in ``~/.cache/hfprune``), and landed on.
        test_dataset: rows that nothing is chosen by, for :meth:`report` and the model card;
            ``None``: ``eval_dataset``, and the card says so.
        evaluation, export, benchmark, deploy: as in a recipe (or dicts): which metrics are
            reported, how files are quantized, for which shapes and threads times are measured and
            speeds counted, whether files of several runtimes are chosen among.
            ``export.temperature`` is false unless it is given: the model is in your hands.
        unlabeled_dataset: more rows of token ids that are distilled on, with the teacher's decision
            as their label; the columns of the model's inputs are enough. Rows of ``eval_dataset``
            and ``test_dataset`` among them are left out. Needs ``teacher``.
        text_column, text_pair_column: where the data sets hold the raw texts, which
            ``pruning.vocabulary`` splits anew; ``processing_class`` is then another one after
            ``train()``, and ``eval_dataset`` is as that one splits it.
        teacher_cache: what an earlier trainer of the same teacher, rows and distillation left as
            its ``teacher_cache``; the outputs in it are not computed again.
        careful: see above; ``None``: where something is pruned.
        **trainer_arguments: what else the Trainer of the transformers installed takes.

    Attributes:
        family: of several speeds, the models by label (``"4x"``), in eval mode; the last one, which
            is the fastest, is ``model``. Empty for other targets.
        search: how ``max_metric_drop`` was searched for; else ``None``.

    Raises:
        TrainingError: for settings that cannot work (DeepSpeed, gates under FSDP, DataParallel, a
            teacher that does not match, rows that a target needs and that are not there), before
            anything is trained.
        RecipeError: for keys and values of the sections.
        UnsupportedModelError: if the model's family has no adapter.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[..., PreTrainedModel] | None = None,
        compute_loss_func: Callable[..., Any] | None = None,
        compute_metrics: Callable[..., dict[str, Any]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[..., torch.Tensor] | None = None,
        *,
        pruning: PruningConfig | Mapping[str, Any] | str | PathLike[str] | None = None,
        distillation: DistillationConfig | Mapping[str, Any] | None = None,
        recovery: RecoveryConfig | Mapping[str, Any] | None = None,
        teacher: nn.Module | str | Path | None = None,
        latency: LatencyTable | None = None,
        test_dataset: Any = None,
        evaluation: EvaluationConfig | Mapping[str, Any] | None = None,
        export: ExportConfig | Mapping[str, Any] | None = None,
        benchmark: BenchmarkConfig | Mapping[str, Any] | None = None,
        deploy: DeployConfig | Mapping[str, Any] | None = None,
        unlabeled_dataset: Dataset | None = None,
        text_column: str = "text",
        text_pair_column: str | None = None,
        teacher_cache: TeacherCache | None = None,
        careful: bool | None = None,
        **trainer_arguments: Any,
    ) -> None:
        self.asked = Asked.of(
            pruning,
            distillation,
            latency,
            text_column=text_column,
            text_pair_column=text_pair_column,
            recovery=recovery,
            evaluation=evaluation,
            export=export,
            benchmark=benchmark,
            deploy=deploy,
        )
        check_recipe_like(self.asked)
        staged = self.asked.staged
        unlabeled_dataset = without_held_out(unlabeled_dataset, eval_dataset, test_dataset)
        super().__init__(
            model,
            args,
            data_collator,
            train_dataset,
            eval_dataset,
            processing_class,
            model_init,
            compute_loss_func,
            compute_metrics,
            callbacks,
            optimizers,
            optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics,
            pruning=None if staged else self.asked.pruning,
            distillation=self.asked.distillation,
            teacher=teacher,
            latency=None if staged else latency,
            unlabeled_dataset=unlabeled_dataset,
            teacher_cache=teacher_cache,
            careful=True if staged else careful,
            **trainer_arguments,
        )
        self.test_dataset = test_dataset
        self.unlabeled_dataset = unlabeled_dataset
        # As a module, which the stages distil from.
        self.given_teacher: Any = self.teacher
        self.given_cache = teacher_cache
        self.family: dict[str, Any] = {}
        self.search: dict[str, Any] | None = None
        self.outputs: list[TrainOutput] = []
        self._after = After(self)
        self._runs: Runs | None = None
        if staged:
            self.pruning = self.asked.pruning
            self.careful = careful is not False
            check_staged(self, self.asked)
            self._runs = Runs(self, self.asked)

    # -- training -------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As ``Trainer.train``; then ``model`` is the pruned one, physically small.

        Args:
            resume_from_checkpoint: ``True``: the newest checkpoint that is whole; where a target
                takes several stages, from where they stopped. A path: of one training only.

        Raises:
            TrainingError: the loss or the gradients are not finite, memory ran out (then it is a
                ``RuntimeError`` too), training ended before the target was reached, or no model
                is within ``max_metric_drop``.
            PlanError: for a speed that no model can have, and layers that it does not have.
            CheckpointError: for a checkpoint, or stages, that this training cannot go on from.
            OutputError: a checkpoint or a stage's result could not be written.
        """
        anew = self.model_init is not None or not self.pruner.shrunk(self.bare_model())
        if self._runs is not None and anew:
            return self._runs.train(resume_from_checkpoint, *args, **kwargs)
        if self.model_init is None and anew:
            self._after.remember(self.bare_model())
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def call_model_init(self, trial: Any = None) -> Any:
        """As ``Trainer.call_model_init``; the model in float32."""
        model = super().call_model_init(trial)
        if hasattr(self, "_after"):
            self._after.remember(model)
        return model

    def take(self, model: Any) -> None:
        """From here on, ``self.model`` is another one, of no training yet."""
        if self.place_model_on_device:
            self._move_model_to_device(model, self.args.device)
        self.model = self.model_wrapped = model
        self.optimizer = self.lr_scheduler = None

    # -- after training -------------------------------------------------------------------------

    def export(self, output_dir: str | Path) -> Path:
        """Write what a server needs: ONNX, int8 as ``export`` says, config and tokenizer.

        Of a family, each model in a folder by its label.

        Args:
            output_dir: a new folder, or an empty one.

        Raises:
            TrainingError: nothing has been pruned yet.
            ExportError: the model cannot be exported.
            OutputError: the folder is not empty, or cannot be written.
        """
        return self._after.export(Path(output_dir))

    def benchmark(self) -> Benchmark:
        """Times and sizes of the dense and the pruned models, in PyTorch and as files.

        Measured together, interleaved, at the shapes of ``benchmark``; milliseconds a batch.

        Raises:
            TrainingError: nothing has been pruned yet.
        """
        return self._after.benchmark()

    def report(self, output_dir: str | Path | None = None) -> Path:
        """Evaluate on the test rows, time, and write all of it, as a recipe's run does.

        The folder holds the model with its tokenizer, ``onnx/``, ``metrics.json``, ``plan.json``,
        ``recipe.yaml``, ``report.html`` and the model card; ``hfprune report`` and ``hfprune push``
        take it. What was measured of the same weights before is not measured again.

        Args:
            output_dir: a new folder, or one that hfprune wrote; ``None``: ``output_dir/pruned``.

        Raises:
            TrainingError: nothing has been pruned yet, or there are no rows to judge by.
            OutputError: the folder holds something else, or cannot be written.
        """
        return self._after.report(None if output_dir is None else Path(output_dir))

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | Sequence[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | Sequence[str] | None = None,
        dataset_tags: str | Sequence[str] | None = None,
        dataset: str | Sequence[str] | None = None,
        dataset_args: str | Sequence[str] | None = None,
    ) -> None:
        """Write the card of :meth:`report` to ``README.md`` in ``args.output_dir``.

        The arguments, as of Trainer, go into its metadata. Before anything is pruned, and without
        pruning, it is Trainer's card; after an interruption, with a word on how to load the model.
        """
        about: dict[str, Any] = {
            "language": language,
            "license": license,
            "tags": tags,
            "model_name": model_name,
            "finetuned_from": finetuned_from,
            "tasks": tasks,
            "dataset_tags": dataset_tags,
            "dataset": dataset,
            "dataset_args": dataset_args,
        }
        if not self._after.is_finished:
            super().create_model_card(**about)
            self._after.complete_card()
            return
        self._after.write_card(about)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Upload what :meth:`report` writes: model, ONNX files, results and card, in one commit.

        The same files and the same card as of ``hfprune push``. Of a family, each model into a
        repository of its own (``hub_model_id-4x``). Before anything is pruned, and without pruning,
        it is Trainer's.

        Args:
            commit_message, token, revision: as of Trainer.
            blocking: ``False``: a future comes back at once.
            **kwargs: of :meth:`create_model_card`, for the card; and ``private``.

        Returns:
            The address of the commit (of a family a list), or its future.

        Raises:
            HubError: whatever went wrong, with the command that tries again.
        """
        if not self._after.is_finished:
            return super().push_to_hub(commit_message, blocking, token, revision, **kwargs)
        return self._after.push(commit_message, blocking, token, revision, **kwargs)
