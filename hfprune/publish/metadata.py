"""What a model card tells the Hub's index: origin, task, and results under the Hub's names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from huggingface_hub import EvalResult, ModelCardData

from hfprune.core.kinds import kind_of_task
from hfprune.core.model_ref import PRUNED, ModelRef
from hfprune.publish.finished import Finished

# Our name of a metric -> the Hub's name, its arguments, and how people write it.
_HUB_METRICS: Final[Mapping[str, tuple[str, dict[str, str], str]]] = {
    "accuracy": ("accuracy", {}, "Accuracy"),
    "f1_macro": ("f1", {"average": "macro"}, "F1 (macro)"),
    "f1_weighted": ("f1", {"average": "weighted"}, "F1 (weighted)"),
    "precision_macro": ("precision", {"average": "macro"}, "Precision (macro)"),
    "precision_weighted": ("precision", {"average": "weighted"}, "Precision (weighted)"),
    "recall_macro": ("recall", {"average": "macro"}, "Recall (macro)"),
    "recall_weighted": ("recall", {"average": "weighted"}, "Recall (weighted)"),
    "mcc": ("matthews_correlation", {}, "Matthews correlation"),
    "pearson": ("pearsonr", {}, "Pearson correlation"),
    "spearman": ("spearmanr", {}, "Spearman correlation"),
    "mse": ("mse", {}, "Mean squared error"),
    "entity_f1": ("f1", {"average": "micro"}, "F1 of entities"),
    "entity_precision": ("precision", {"average": "micro"}, "Precision of entities"),
    "entity_recall": ("recall", {"average": "micro"}, "Recall of entities"),
    "token_accuracy": ("accuracy", {}, "Accuracy of tokens"),
}
# Of the pruned model, the forms whose metrics the index gets.
_FORMS: Final = ("PyTorch", "int8")


# Results may have been edited: only what can be a name on the Hub is linked to.
_NAME: Final = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


def base_model(run: Finished) -> str | None:
    """The Hub name of the model that the weights started from; ``None`` for a local one."""
    given = run.recipe.teacher.name_or_path is not None
    name = run.results.sources.get("teacher" if given else "model")
    return name if name is not None and _NAME.fullmatch(name) else None


def hub_task(task: str) -> str:
    """What the Hub calls a recipe's task; models for reranking are classifiers of pairs there too.

    >>> hub_task("reranking")
    'text-ranking'
    """
    return "text-ranking" if task == "reranking" else kind_of_task(task).export_task


def card_metadata(run: Finished, repo_id: str) -> ModelCardData:
    """The metadata of the card of a run that goes into a repository."""
    base, dataset = base_model(run), run.results.sources.get("dataset")
    hub = run.recipe.hub
    more: dict[str, Any] = {} if base is None else {"base_model_relation": "finetune"}
    if hub.license is not None:
        more["license"] = hub.license
    if hub.language is not None:
        more["language"] = list(hub.language)
    return ModelCardData(
        base_model=base,
        library_name="hfprune" if needs_hfprune(run) else _library(run),
        pipeline_tag=hub_task(run.results.task),
        tags=["hfprune", "pruned", "onnx", *_more_tags(run)],
        datasets=None if dataset is None else [dataset],
        model_name=repo_id.split("/")[-1],
        eval_results=list(_eval_results(run, dataset)),
        **more,
    )


def _library(run: Finished) -> str:
    """What loads the weights as they are."""
    embeds = run.results.task == "sentence_embedding"
    return "sentence-transformers" if embeds else "transformers"


def needs_hfprune(run: Finished) -> bool:
    """Whether transformers alone cannot load the weights, as its snippet on the Hub would say."""
    return run.results.members[PRUNED].stock is False


def _more_tags(run: Finished) -> Iterator[str]:
    """By the files that are there: what else reads the repository."""
    if run.results.task == "sentence_embedding":
        yield "sentence-similarity"
    if (run.folder / "onnx" / "model_quantized.onnx").is_file():
        yield from ("int8", "transformers.js")
    if any(run.folder.glob("openvino/*.xml")):
        yield "openvino"


def _eval_results(run: Finished, dataset: str | None) -> Iterator[EvalResult]:
    data, task = run.recipe.data, hub_task(run.results.task)
    held_out = "test" if data.test_file is not None else "test (held out)"
    if run.results.data.get("judged_on") == "eval_dataset":
        held_out = "validation"
    for ref in (ModelRef(PRUNED, form) for form in _FORMS):
        entry = run.results.evaluation.models.get(str(ref))
        for metric, value in (entry.metrics if entry is not None else {}).items():
            kind, arguments, title = _HUB_METRICS.get(metric, (metric, {}, metric))
            yield EvalResult(
                task_type=task,
                task_name=task.replace("-", " ").capitalize(),
                dataset_type=dataset or "local-files",
                dataset_name=dataset or "Local files",
                dataset_config=data.config_name if dataset else None,
                dataset_split=(data.test_split if dataset else None) or held_out,
                dataset_revision=data.revision if dataset else None,
                metric_type=kind,
                metric_value=round(value, 6),
                metric_name=f"{title}, {ref.form}",
                metric_args=arguments or None,
            )
