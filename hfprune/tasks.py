"""What each task needs of transformers: the classes that load it, and what a model's class says.

The rest of hfprune asks here and names no task-specific class of its own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hfprune.errors import DataError, UnsupportedModelError
from hfprune.recipe import Task

TEXT_INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")
IMAGE_INPUTS: Final = ("pixel_values",)


@dataclass(frozen=True)
class Kind:
    """One way in which models are loaded, exported and named.

    Attributes:
        export_task: the name that Optimum, pipelines and the Hub give it.
        auto_class: the class of transformers that loads such a model.
        onnx_class: the class of Optimum that runs it from ONNX.
        ending: how the stock classes' names end.
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

KINDS: Final = (TEXT, TOKENS, IMAGE)


def kind_of_task(task: str) -> Kind:
    """The kind of a recipe's task."""
    return {"token_classification": TOKENS, "image_classification": IMAGE}.get(task, TEXT)


def kind_of_model(model: Any) -> Kind:
    """The kind of a model, by its class; texts with one label each where the class does not say."""
    name = type(model).__name__
    for kind in (TOKENS, IMAGE):
        if name.endswith(kind.ending):
            return kind
    return IMAGE if takes_images(model) else TEXT


def kind_of_config(config: Any) -> Kind:
    """The kind of a saved model, by the class that its config names; texts if it names none."""
    name = str((getattr(config, "architectures", None) or [""])[0])
    return next((kind for kind in (TOKENS, IMAGE) if name.endswith(kind.ending)), TEXT)


def task_of_kind(kind: Kind) -> Task:
    """A task of a kind, for what depends on the kind alone."""
    if kind is TOKENS:
        return "token_classification"
    return "image_classification" if kind is IMAGE else "single_label_classification"


def takes_images(model: Any) -> bool:
    """Whether a model's input is ``pixel_values``."""
    return getattr(model, "main_input_name", None) == "pixel_values"


def auto_class(kind: Kind) -> Any:
    """The class of transformers that loads models of a kind."""
    import transformers

    return getattr(transformers, kind.auto_class)


def problem_of(task: Task) -> Task:
    """What the output means: one class, several, a number, or a class for each token.

    Spelled as ``config.problem_type``, but for tokens, whose models have none.
    """
    return "single_label_classification" if task == "image_classification" else task


def load_processor(name: str, task: Task, **options: Any) -> Any:
    """A model's tokenizer, or its image processor.

    Args:
        name: folder or Hub name.
        task: what it is for. Words come one by one in token classification: tokenizers whose
            tokens hold the space before a word then put one before each.
        **options: of ``from_pretrained``.

    Raises:
        DataError: if there is none, or a tokenizer cannot say which token belongs to which word.
    """
    from transformers import AutoImageProcessor, AutoTokenizer

    if kind_of_task(task) is IMAGE:
        try:
            # The slow ones need Pillow only, and give the same on every machine.
            return AutoImageProcessor.from_pretrained(name, use_fast=False, **options)
        except (OSError, ValueError, ImportError) as error:
            raise DataError(
                f"{name} has no image processor that can be loaded (preprocessor_config.json): "
                f"{error}; save one beside the model, or name one in model.tokenizer"
            ) from error
    tokenizer = AutoTokenizer.from_pretrained(name, **options)
    if task != "token_classification":
        return tokenizer
    if not tokenizer.is_fast:
        raise DataError(
            f"{name} has a {type(tokenizer).__name__}, which cannot say which tokens belong to "
            "which word; token_classification needs a fast tokenizer (tokenizer.json)"
        )
    before = json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"]
    if "ByteLevel" in json.dumps(before) and not getattr(tokenizer, "add_prefix_space", False):
        tokenizer = AutoTokenizer.from_pretrained(name, add_prefix_space=True, **options)
        _put_spaces(tokenizer.backend_tokenizer)
    return tokenizer


def _put_spaces(backend: Any) -> None:
    """A space before each word, where transformers 5 has left the pre-tokenizer as it was."""
    state = json.loads(backend.to_str())
    before = state["pre_tokenizer"]
    for part in before.get("pretokenizers", [before]):
        if part["type"] == "ByteLevel":
            part["add_prefix_space"] = True
    backend.pre_tokenizer = type(backend).from_str(json.dumps(state)).pre_tokenizer


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


def model_folder(name: str) -> str:
    """Where in a folder transformers finds the model.

    A folder of sentence-transformers may hold it below, as the first module of ``modules.json``.
    Anything else (a plain folder, a name on the Hub) comes back as it is.
    """
    listed = Path(name) / "modules.json"
    if (Path(name) / "config.json").is_file() or not listed.is_file():
        return name
    try:
        first = json.loads(listed.read_text(encoding="utf-8"))[0]["path"]
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{listed} does not name the modules of a sentence encoder: {error!r}"
        ) from error
    return str(Path(name) / str(first))
