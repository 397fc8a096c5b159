"""Sentence encoders in the layout of sentence-transformers: pruned, saved and used as such.

A folder lists its modules in ``modules.json``: a transformer (at the top or in a folder of its
own), pooling, and perhaps dense layers and a normalisation (:mod:`hfprune.models.layout`).
:func:`save_encoder` writes a pruned transformer in that layout and :func:`load_encoder` runs it.
sentence-transformers itself builds its transformer with ``from_pretrained`` of transformers, which
stops with a size mismatch at layers of uneven sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hfprune.core.errors import CheckpointError
from hfprune.core.files import atomic_directory, atomic_write_json
from hfprune.core.reading import read_json
from hfprune.families import adapter_of, position_limit
from hfprune.models.checkpoint import from_pretrained, was_pruned
from hfprune.models.configs import load_config, plain_outputs_
from hfprune.models.embedding import as_embedder_
from hfprune.models.encoder_checks import check_headless, check_said
from hfprune.models.explaining import code_of, explained, find, refuse_code
from hfprune.models.fetching import fetch
from hfprune.models.folders import check_files, check_place
from hfprune.models.inputs import taken
from hfprune.models.layout import (
    MODULES,
    SentenceLayout,
    longest_of,
    lower_of,
    prompt_of,
    read_layout,
    usual_layout,
    write_modules,
)
from hfprune.models.pooling import later_modules, pooled, width_after
from hfprune.models.whole import load_whole
from hfprune.pruning.surgery import RECORD_KEY, as_encoder_hint_

__all__ = ["SentenceEncoder", "SentenceLayout", "load_encoder", "read_layout", "save_encoder"]


def save_encoder(model: nn.Module, tokenizer: Any, layout: SentenceLayout, folder: Path) -> None:
    """Write a model without its head as a sentence encoder. Appears whole or not at all.

    Args:
        model: a pruned (or dense) classifier or encoder.
        tokenizer: its tokenizer.
        layout: of the folder that it came from; pooling and normalisation are carried along.
        folder: new, or empty.
    """
    encoder: Any = getattr(model, "base_model", model)
    record = getattr(model.config, RECORD_KEY, None)
    with atomic_directory(folder, overwrite=False) as place:
        encoder.save_pretrained(place)
        config = read_json(place / "config.json")
        config["architectures"] = [type(encoder).__name__]
        for key in ("id2label", "label2id", "problem_type"):
            config.pop(key, None)
        if record is not None:
            config[RECORD_KEY] = record
        as_encoder_hint_(config)
        atomic_write_json(place / "config.json", config)
        tokenizer.save_pretrained(place)
        write_modules(layout, place)


class SentenceEncoder:
    """A transformer with pooling, as sentence-transformers would run it.

    Attributes:
        model: of transformers.
        tokenizer: its tokenizer.
        layout: pooling and normalisation.
        max_length: longest text in tokens; what is longer is cut.
        lower: whether texts are put in small letters first (``do_lower_case``), whatever the
            tokenizer does.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        layout: SentenceLayout,
        max_length: int,
        lower: bool = False,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.layout = layout
        self.max_length = max_length
        self.lower = lower
        self._later = later_modules(layout)

    def encode(
        self, texts: str | Sequence[str], batch_size: int = 32, prompt_name: str | None = None
    ) -> NDArray[np.float32]:
        """Embeddings, float32 ``(texts, width)``; of one text alone ``(width,)``.

        Args:
            texts: what to embed.
            batch_size: how many at a time; they are taken in order.
            prompt_name: of the folder's prompts, which are put before texts; ``None``: the one that
                the folder means without a word, if any.

        Raises:
            CheckpointError: there is no such prompt.
        """
        if isinstance(texts, str):
            alone: NDArray[np.float32] = self.encode([texts], batch_size, prompt_name)[0]
            return alone
        if not len(texts):
            config: Any = self.model.config
            return np.zeros((0, width_after(self._later, config.hidden_size)), dtype=np.float32)
        prompt = prompt_of(self.layout, prompt_name)
        device = next(self.model.parameters()).device
        found = []
        for start in range(0, len(texts), batch_size):
            some = texts[start : start + batch_size]
            batch = self.tokenizer(
                [(prompt + text).lower() if self.lower else prompt + text for text in some],
                padding=True,
                truncation=True,
                max_length=self.max_length,
                return_tensors="pt",
            ).to(device)
            with torch.inference_mode():
                states = self.model(**taken(self.model, batch)).last_hidden_state
                found.append(self.pool(states, batch["attention_mask"]).float().cpu().numpy())
        return np.concatenate(found)

    def pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """One vector a text; arguments as of :func:`hfprune.models.pooling.pooled`."""
        return pooled(states, mask, self.layout.pooling, self._later)


def load_encoder(folder: str | Path, *, revision: str | None = None) -> SentenceEncoder:
    """Load a sentence encoder, pruned by hfprune or dense.

    Args:
        folder: or a name on the Hub.
        revision: of the latter.

    Raises:
        CheckpointError: it cannot be found, is no such encoder, or its weights do not fit.
        UnsupportedModelError: as :func:`read_layout`.
    """
    from transformers import AutoTokenizer

    key, named = "the sentence encoder", str(folder)
    with explained(named, revision, key, False):
        place = find(named, key, lambda: local_folder(named, revision))
    layout = read_layout(place)
    if layout is None:
        raise CheckpointError(
            f"{folder} holds no {MODULES} that says how to pool: load an encoder that says nothing "
            "of it with hfprune.load_embedder(folder, pooling='mean'), which save_pretrained "
            "writes with its modules, and a classifier (a CrossEncoder is one) with "
            "hfprune.from_pretrained or transformers"
        )
    place = str(layout.transformer)
    with explained(named, revision, key, False):
        model = load_transformer(place)
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    if tokenizer.pad_token is None:  # as rows are padded for training
        tokenizer.pad_token = tokenizer.eos_token
    longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512))
    longest = longest_of(layout) or longest
    longest = min(longest, position_limit(model) or longest)
    return SentenceEncoder(model, tokenizer, layout, longest, lower_of(layout))


def load_transformer(place: str) -> Any:
    """The encoder of a folder, dense or shrunk, without a head, in eval mode.

    Raises:
        CheckpointError: files that are damaged or none.
        UnsupportedModelError: it brings code of its own.
    """
    from transformers import AutoModel

    check_files(place)
    config = load_config(place)
    refuse_code(place, "the model", code_of(config))
    if was_pruned(config, place):
        model = from_pretrained(place)
    else:
        model = load_whole(
            lambda: AutoModel.from_pretrained(place, config=config, trust_remote_code=False), place
        ).eval()
    plain_outputs_(model.config)
    return model


def load_embedder(
    name: str,
    *,
    revision: str | None = None,
    key: str = "the model",
    pooling: str | None = None,
    normalize: bool | None = None,
) -> Any:
    """A sentence encoder as a model whose outputs are embeddings, dense or shrunk.

    Args:
        name: a folder, or a name on the Hub.
        revision: of the latter.
        key: what names it, for errors.
        pooling, normalize: for an encoder whose folder says nothing of them (``None``: ``mean`` and
            no); where it does they must be ``None`` or the same.

    Returns:
        See :func:`hfprune.models.embedding.as_embedder_`; in eval mode.

    Raises:
        CheckpointError: it cannot be found or read, is a classifier, or says otherwise than
            ``pooling`` and ``normalize``.
        UnsupportedModelError: an unknown family, modules or pooling that hfprune does not know, or
            code of its own.
    """
    with explained(name, revision, key, False):
        folder = find(name, key, lambda: local_folder(name, revision))
        layout = read_layout(folder)
        place = str(folder if layout is None else layout.transformer)
        check_headless(place, layout, f"{key} {name!r}")
        model = load_transformer(place)
        adapter_of(model)
    if layout is None:
        hidden = int(model.config.hidden_size)
        layout = usual_layout(folder, pooling or "mean", bool(normalize), hidden)
    else:
        check_said(layout, pooling, normalize, f"{key} {name!r}")
    return as_embedder_(model, layout)


def local_folder(name: str, revision: str | None) -> str:
    """A folder as it is, or a copy of a repository on the Hub: its small files and weights.

    Raises:
        CheckpointError: a path that is not there.
    """
    if Path(name).is_dir():
        return name
    from huggingface_hub import snapshot_download

    check_place(name)
    fetch(name, revision)
    kinds = ["*.json", "*.safetensors", "*.txt", "*.model"]
    return snapshot_download(name, revision=revision, allow_patterns=kinds)
