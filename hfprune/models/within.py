"""Models of sentence-transformers, in which a model of transformers stands: found, and loaded.

sentence-transformers itself is not imported here.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TypeVar

from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from hfprune.core.errors import UnsupportedModelError
from hfprune.core.reading import read_json
from hfprune.models.checkpoint import from_pretrained, was_pruned
from hfprune.models.configs import load_config
from hfprune.models.explaining import code_of, explained, find, refuse_code
from hfprune.models.folders import check_files
from hfprune.models.layout import read_layout
from hfprune.models.sentences import local_folder

ModelT = TypeVar("ModelT", bound=nn.Module)


def place_within(model: nn.Module) -> tuple[nn.Module, str]:
    """Where in a model of sentence-transformers the one of transformers stands.

    Returns:
        The module that holds it, and the attribute's name.

    Raises:
        UnsupportedModelError: it holds none, or several (a ``Router``).
    """
    found: list[str] = []
    for name, module in model.named_modules():
        inside = any(not outer or name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, PreTrainedModel) and not inside:
            found.append(name)
    if len(found) != 1 or not found[0]:
        raise UnsupportedModelError(
            f"expected a model of sentence-transformers with one model of transformers in it, got "
            f"a {type(model).__name__} with {len(found)}"
            + (": hfprune.HFPruneTrainer trains those of transformers" if found == [""] else "")
        )
    parent, _, last = found[0].rpartition(".")
    return model.get_submodule(parent), last


def load_as(kind: type[ModelT], name: str | PathLike[str]) -> ModelT:
    """Load what hfprune pruned as a ``SentenceTransformer`` or a ``CrossEncoder``.

    >>> model = hfprune.load_as(SentenceTransformer, "small")

    These build all layers of an encoder alike, so they stop at one whose layers have kept different
    sizes; here the encoder of :func:`hfprune.from_pretrained` is put into their place. A dense
    model, or one that transformers loads alone, is loaded as ever.

    Args:
        kind: ``SentenceTransformer`` or ``CrossEncoder``.
        name: a folder, or a name on the Hub. A checkpoint of a training that prunes becomes the
            model as it was pruned then.

    Returns:
        It in eval mode, on the device that ``kind`` chooses.

    Raises:
        CheckpointError: it cannot be found or read.
        UnsupportedModelError: it lists modules that hfprune does not know, or brings code.
    """
    with explained(str(name), None, "the model", False):
        folder = find(str(name), "the model", lambda: local_folder(str(name), None))
        layout = read_layout(folder)
        place = str(folder if layout is None else layout.transformer)
        check_files(place)
        config = load_config(place)
        refuse_code(place, "the model", code_of(config))
        tokenizer = Path(place) / "tokenizer_config.json"
        if tokenizer.is_file():
            refuse_code(place, "the tokenizer of", read_json(tokenizer).get("auto_map"))
        if not was_pruned(config, place):
            return kind(folder)
        small = from_pretrained(place)
        model = _around(kind, folder, small.config._attn_implementation)
    parent, attribute = place_within(model)
    first = getattr(parent, attribute)
    setattr(parent, attribute, small.to(next(first.parameters()).device))
    return model.eval()


def _around(kind: type[ModelT], folder: str, attention: str) -> ModelT:
    """A model of which only what stands around the encoder is right.

    The kind of attention must be said, since that in ``config.json`` is the hint for plain
    transformers; weights of other sizes are passed over, which would be told at length.
    """
    settings = {"ignore_mismatched_sizes": True, "attn_implementation": attention}
    told = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return kind(folder, model_kwargs=settings)
    finally:
        logging.set_verbosity(told)
