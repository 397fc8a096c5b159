"""Saved models as they are, for those who look at a model and have no task for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoModel

from hfprune.core.errors import CheckpointError, HFPruneError
from hfprune.core.faults import is_out_of_memory
from hfprune.core.kinds import EMBEDDING, KINDS, auto_class, kind_of_model, without_head
from hfprune.core.text import one_line
from hfprune.families import adapter_for
from hfprune.models.adapters import ADAPTER_CONFIG, check_adapter, is_adapter
from hfprune.models.checkpoint import from_pretrained, was_pruned
from hfprune.models.configs import load_config, plain_outputs_, read_raw
from hfprune.models.cross_encoder import refuse_changed_texts
from hfprune.models.explaining import code_of, find, refuse_code, untold
from hfprune.models.fetching import fetch
from hfprune.models.folders import check_files, check_place
from hfprune.models.layout import layout_or_note
from hfprune.models.sentences import load_embedder
from hfprune.models.whole import load_whole

# What transformers raises with a sentence that says enough.
_PLAIN = (OSError, ValueError, RuntimeError)


def load_saved(folder: str) -> Any:
    """A saved model as it is, dense or shrunk, with the head that its config names.

    For those who look at a model and have no task for it. Code that comes with it is never run.

    Raises:
        CheckpointError: for a directory (or Hub name) that holds no model that can be loaded.
        UnsupportedModelError: for a family without an adapter file.
    """
    try:
        check_place(folder)
        if is_adapter(folder):
            check_adapter(folder)
            raise CheckpointError(
                f"it holds a PEFT adapter ({ADAPTER_CONFIG}), not a whole model. A recipe merges "
                "it; or merge it yourself and give the merged folder: peft.AutoPeftModel"
                f".from_pretrained({folder!r}).merge_and_unload().save_pretrained('merged')"
            )
        check_files(folder)
        config = load_config(folder)
        refuse_code(folder, "the model", code_of(config))
        fetch(folder, None)
    except CheckpointError as error:
        raise CheckpointError(f"{folder} holds no model: {error}") from error
    except HFPruneError:
        raise
    except Exception as error:  # whatever nonsense in a config leads to
        if "trust_remote_code" in str(error):
            refuse_code(folder, "the model", "see its config.json")
        raise CheckpointError(f"{folder} holds no model: {one_line(str(error))}") from error
    adapter_for(str(config.model_type))
    if was_pruned(config, folder):
        small = from_pretrained(folder)
        plain_outputs_(small.config)
        return small
    name = (getattr(config, "architectures", None) or [""])[0]
    loader: Any = AutoModel
    for kind in KINDS:
        if name.endswith(kind.ending):
            loader = auto_class(kind)
    try:
        return _load_trained(loader, folder, config=config).eval()
    except HFPruneError:
        raise
    except Exception as error:  # of the same nonsense, of damaged files, of packages that lack
        if is_out_of_memory(error):
            raise
        named = "" if isinstance(error, _PLAIN) else f"{type(error).__name__}: "
        raise CheckpointError(
            f"the model in {folder} cannot be loaded: {named}{one_line(str(error))}"
        ) from error


def _load_trained(loader: Any, place: str, **options: Any) -> Any:
    """A model with the head that its files hold: transformers makes what lacks of random numbers.

    Args:
        loader: an auto class; of ``AutoModel`` no head is asked for.

    Raises:
        CheckpointError: the files hold no head.
    """
    told: dict[str, Any] = {}

    def load() -> Any:
        nonlocal told
        with untold():
            model, told = loader.from_pretrained(
                place, output_loading_info=True, trust_remote_code=False, **options
            )
        return model

    model = load_whole(load, place)
    missing = sorted(told["missing_keys"])
    if missing and loader is not AutoModel:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise CheckpointError(
            f"{one_line(place, 200)} lacks the weights {', '.join(missing[:3])}{more}, and random "
            f"numbers would stand in for them: it is no trained {type(model).__name__}. Name the "
            "folder that the fine-tuned model was saved to"
        )
    return model


def load_saved_classifier(folder: str) -> Any:
    """As :func:`load_saved`, of a folder alone, and what it gives has a classifier's head.

    A sentence encoder's folder gives the model that embeds, whose outputs stand in the place of
    logits (:func:`hfprune.models.embedding.as_embedder_`).

    Raises:
        CheckpointError: also for a model whose config names no class with such a head: one would
            be made of random numbers.
        UnsupportedModelError: a CrossEncoder that puts a prompt before its pairs.
    """
    if not Path(folder).is_dir():
        raise CheckpointError(f"{folder} holds no classifier: there is no such folder")
    if is_encoder(folder):
        return load_embedder(folder)
    refuse_changed_texts(folder)
    try:
        model = load_saved(folder)
    except CheckpointError as error:
        raise CheckpointError(f"{folder} holds no classifier: {error}") from error
    name = type(model).__name__
    if without_head(model):
        raise CheckpointError(
            f"{folder} holds no classifier but a {name}, an encoder without a head: embeddings are "
            "measured against those of the dense model, so give the folder of a run with task: "
            "sentence_embedding, whose recipe names that one; or load both with "
            "hfprune.load_embedder(folder, pooling='mean') and compare what they give"
        )
    if not name.endswith(tuple(kind.ending for kind in KINDS)):
        raise CheckpointError(
            f"{folder} holds no classifier but a {name}: give a folder that a run or save_model "
            "of a classifier wrote"
        )
    return model


def is_encoder(folder: str | Path) -> bool:
    """Whether a folder is a sentence encoder's, with its transformer at the top.

    One that hfprune made of a classifier's transformer lies beside the classifier.
    """
    layout, _ = layout_or_note(folder)
    if layout is None:
        return False
    names = [str(name) for name in read_raw(str(folder), None).get("architectures") or ()]
    return not any(name.endswith(tuple(kind.ending for kind in KINDS)) for name in names)


def load_alike(name: str, model: Any, key: str) -> Any:
    """A model for the same kind of task as one that is there, such as its teacher.

    Args:
        name: a folder or a name on the Hub.
        model: a classifier.
        key: what names it, for errors.

    Raises:
        CheckpointError: a path that is not there, files that are not what they seem, or a model
            without a head.
        OSError, ValueError: what transformers raises where it cannot find or read it.
    """
    find(name, key, lambda: check_place(name))
    find(name, key, lambda: check_files(name))
    if kind_of_model(model) is EMBEDDING:
        return load_embedder(name, key=key)
    find(name, key, lambda: fetch(name, None))
    kind = auto_class(kind_of_model(model))
    return find(name, key, lambda: _load_trained(kind, name))
