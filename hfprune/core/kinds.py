"""What each task needs of transformers: the classes that load it, and what a model's class says.

The rest of hfprune asks here and names no task-specific class of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from hfprune.core.errors import UnsupportedModelError
from hfprune.core.tasks import Task, problem_type_of

# What hfprune's own families are for, as config.json spells them; a test compares them with the
# adapters, which need PyTorch.
OWN_MODEL_TYPES: Final = (
    *("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "albert", "mpnet"),
    *("deberta-v2", "modernbert", "gpt2", "llama", "qwen2", "qwen3", "vit", "deit"),
)
TEXT_INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")
IMAGE_INPUTS: Final = ("pixel_values",)


@dataclass(frozen=True)
class Kind:
    """One way in which models are loaded, exported and named.

    Attributes:
        export_task: the name that Optimum, pipelines and the Hub give it.
        auto_class: the class of transformers that loads such a model.
        onnx_class: the class of Optimum that runs it from ONNX.
        ending: how the names of such classes end.
    """

    export_task: str
    auto_class: str
    onnx_class: str
    ending: str


TEXT: Final = Kind(
    "text-classification",
    "AutoModelForSequenceClassification",
    "ORTModelForSequenceClassification",
    "ForSequenceClassification",
)
TOKENS: Final = Kind(
    "token-classification",
    "AutoModelForTokenClassification",
    "ORTModelForTokenClassification",
    "ForTokenClassification",
)
IMAGE: Final = Kind(
    "image-classification",
    "AutoModelForImageClassification",
    "ORTModelForImageClassification",
    "ForImageClassification",
)
# Stock encoders without a head, which hfprune.models.embedding lets give one vector a text.
EMBEDDING: Final = Kind("feature-extraction", "AutoModel", "ORTModelForFeatureExtraction", "Model")
# Attribute of a model that gives embeddings: how it pools.
POOLING_KEY: Final = "sentence_layout"
# Those with a head.
KINDS: Final = (TEXT, TOKENS, IMAGE)


_BY_TASK: Final = {
    "token_classification": TOKENS,
    "image_classification": IMAGE,
    "sentence_embedding": EMBEDDING,
}


def kind_of_task(task: str) -> Kind:
    """The kind of a recipe's task."""
    return _BY_TASK.get(task, TEXT)


def output_of(export_task: str) -> str:
    """The name of a deployed graph's only output, by the name of a pipeline's task."""
    return "sentence_embedding" if export_task == EMBEDDING.export_task else "logits"


def kind_of_model(model: Any) -> Kind:
    """The kind of a model, by its class; texts with one label each where the class does not say."""
    if gives_embeddings(model):
        return EMBEDDING
    name = type(model).__name__
    for kind in (TOKENS, IMAGE):
        if name.endswith(kind.ending):
            return kind
    return IMAGE if takes_images(model) else TEXT


def task_of_kind(kind: Kind) -> Task:
    """A task of a kind, for what depends on the kind alone."""
    if kind in (TOKENS, EMBEDDING):
        return "token_classification" if kind is TOKENS else "sentence_embedding"
    return "image_classification" if kind is IMAGE else "single_label_classification"


def gives_embeddings(model: Any) -> bool:
    """Whether a model gives one vector a text in place of logits."""
    return getattr(model, POOLING_KEY, None) is not None


def without_head(model: Any) -> bool:
    """Whether a model of transformers gives hidden states alone: no logits and no embeddings.

    Of classes from elsewhere, whose forward may give anything, none is meant.
    """
    kind = type(model)
    stock = kind.__module__.startswith("transformers.") and kind.__name__.endswith(EMBEDDING.ending)
    return stock and model.base_model is model and not gives_embeddings(model)


def problem_of_model(model: Any) -> str | None:
    """What a model's outputs mean: ``config.problem_type``, or ``sentence_embedding``."""
    if gives_embeddings(model):
        return "sentence_embedding"
    return getattr(model.config, "problem_type", None)


def outputs_of(model: Any) -> int:
    """How many numbers a model gives a text: an embedding's size, or one for each label."""
    if gives_embeddings(model):
        return int(model.embedding_width)
    return int(model.config.num_labels)


def is_reranker(config: Any) -> bool:
    """Whether a config says so: one output that answers yes or no, of no class with a name.

    A CrossEncoder that hfprune has not trained says nothing of the kind.
    """
    names = list((getattr(config, "id2label", None) or {}).values())
    problem = getattr(config, "problem_type", None)
    return problem == problem_type_of("reranking") and names == ["LABEL_0"]


def become_reranker_(config: Any) -> None:
    """Let a config of one output that says nothing of its task say that it ranks. In place.

    Configs of CrossEncoders say nothing; by themselves they would be of a regression.
    """
    if config.num_labels == 1 and getattr(config, "problem_type", None) is None:
        config.problem_type = problem_type_of("reranking")
        config.id2label, config.label2id = {0: "LABEL_0"}, {"LABEL_0": 0}


def task_of_config(config: Any) -> Task:
    """What a model predicts, by its config alone."""
    names = getattr(config, "architectures", None) or [""]
    if str(names[0]).endswith(EMBEDDING.ending):
        return task_by(EMBEDDING, config)
    return task_by(next((k for k in KINDS if str(names[0]).endswith(k.ending)), TEXT), config)


def task_by(kind: Kind, config: Any) -> Task:
    """What a model of a kind predicts, by what its config says besides."""
    if kind is not TEXT:
        return task_of_kind(kind)
    if is_reranker(config):
        return "reranking"
    for task in ("single_label_classification", "multi_label_classification", "regression"):
        if getattr(config, "problem_type", None) == task:
            return task
    return "regression" if config.num_labels == 1 else "single_label_classification"


def takes_images(model: Any) -> bool:
    """Whether a model's input is ``pixel_values``."""
    return getattr(model, "main_input_name", None) == "pixel_values"


def auto_class(kind: Kind) -> Any:
    """The class of transformers that loads models of a kind."""
    import transformers

    return getattr(transformers, kind.auto_class)


def image_shape(config: Any) -> tuple[int, int, int]:
    """Channels, height and width of the images that a model reads, from its config.

    Raises:
        UnsupportedModelError: if the config does not say.
    """
    size = getattr(config, "image_size", None)
    if size is None:
        raise UnsupportedModelError(
            f"the config of a {config.model_type!r} model names no image_size"
        )
    height, width = (size, size) if isinstance(size, int) else size
    return int(getattr(config, "num_channels", 3)), int(height), int(width)


def image_tokens(config: Any) -> int:
    """How many tokens a ViT or DeiT makes of an image: its patches and the special ones."""
    _, height, width = image_shape(config)
    patch = config.patch_size
    rows, columns = (patch, patch) if isinstance(patch, int) else patch
    return int((height // rows) * (width // columns) + 1 + (config.model_type == "deit"))
