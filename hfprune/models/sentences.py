"""Sentence encoders in the layout of sentence-transformers: pruned, saved and used as such.

A folder lists its modules in ``modules.json``: a transformer (at the top or in a folder of its
own), pooling, and perhaps dense layers and a normalisation (:mod:`hfprune.models.layout`).
:func:`save_encoder` writes a pruned transformer in that layout and :func:`load_encoder` runs it.
sentence-transformers itself builds its transformer with ``from_pretrained`` of transformers, which
stops with a size mismatch at layers of uneven sizes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from hfprune.core.errors import CheckpointError, UnsupportedModelError
from hfprune.core.files import atomic_directory, atomic_write_json
from hfprune.core.reading import read_json
from hfprune.families import position_limit
from hfprune.models.checkpoint import from_pretrained, was_pruned
from hfprune.models.configs import load_config, plain_outputs_
from hfprune.models.explaining import explained, refuse_code
from hfprune.models.folders import check_files
from hfprune.models.layout import MODULES, LaterModule, SentenceLayout, read_layout
from hfprune.models.whole import load_whole
from hfprune.pruning.surgery import RECORD_KEY

__all__ = ["SentenceEncoder", "SentenceLayout", "load_encoder", "read_layout", "save_encoder"]

MODULE_FILES: Final = ("config.json", "model.safetensors", "pytorch_model.bin")
# What a Dense layer may do to its outputs. A name is looked up here and never imported.
ACTIVATIONS: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {
    "torch.nn.modules.linear.Identity": lambda values: values,
    "torch.nn.modules.activation.Tanh": torch.tanh,
    "torch.nn.modules.activation.ReLU": F.relu,
    "torch.nn.modules.activation.GELU": F.gelu,
    "torch.nn.modules.activation.SiLU": F.silu,
    "torch.nn.modules.activation.Sigmoid": torch.sigmoid,
}


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
    kinds = ["Pooling", *(module.kind for module in layout.later)]
    paths = ["", *(f"{number}_{kind}" for number, kind in enumerate(kinds, 1))]
    with atomic_directory(folder, overwrite=False) as place:
        encoder.save_pretrained(place)
        config = read_json(place / "config.json")
        config["architectures"] = [type(encoder).__name__]
        for key in ("id2label", "label2id", "problem_type"):
            config.pop(key, None)
        if record is not None:
            config[RECORD_KEY] = record
        atomic_write_json(place / "config.json", config)
        tokenizer.save_pretrained(place)
        for path in paths[1:]:
            (place / path).mkdir(exist_ok=True)
        atomic_write_json(place / paths[1] / "config.json", dict(layout.pooling_config))
        for path, module in zip(paths[2:], layout.later, strict=True):
            for name in MODULE_FILES:
                if (module.folder / name).is_file():
                    shutil.copyfile(module.folder / name, place / path / name)
        modules = [
            {"idx": index, "name": str(index), "path": path, "type": kind}
            for index, (path, kind) in enumerate(zip(paths, layout.types, strict=True))
        ]
        (place / MODULES).write_text(json.dumps(modules, indent=2) + "\n", encoding="utf-8")
        for name, source in layout.files.items():
            shutil.copyfile(source, place / name)


class DenseLayer(nn.Module):
    """A Dense module of sentence-transformers: a projection, its activation, perhaps a residual.

    Args:
        module: its folder and config.

    Raises:
        CheckpointError: its weights cannot be read, or do not fit its config.
        UnsupportedModelError: an activation that is not in :data:`ACTIVATIONS`, or inputs and
            outputs other than the embedding.
    """

    def __init__(self, module: LaterModule) -> None:
        super().__init__()
        config = module.config
        name = config.get("activation_function", "torch.nn.modules.activation.Tanh")
        places = {config.get(f"module_{end}_name") for end in ("input", "output")}
        if name not in ACTIVATIONS or not places <= {None, "sentence_embedding"}:
            raise UnsupportedModelError(
                f"{module.folder} holds a Dense layer with the activation {name!r:.80} between "
                f"{sorted(map(str, places))}; hfprune runs those of the embedding with one of "
                + ", ".join(known.rpartition(".")[2] for known in ACTIVATIONS)
            )
        self._activation = ACTIVATIONS[name]
        file = module.folder / "model.safetensors"
        if not file.is_file():
            raise CheckpointError(
                f"{module.folder} holds no model.safetensors; save the encoder with a newer "
                "sentence-transformers (pickled weights are not read)"
            )
        check_files(module.folder)
        tensors = load_file(file)
        sizes = (config.get("in_features"), config.get("out_features"))
        weight = tensors.get("linear.weight")
        if weight is None or tuple(weight.shape) != sizes[::-1]:
            raise CheckpointError(f"{file} does not fit the sizes {sizes!r:.80} of its config.json")
        self.weight, self.bias = weight, tensors.get("linear.bias")
        self.has_residual = config.get("use_residual") is True
        self.residual = tensors.get("residual.weight")

    def forward(self, embeddings: Tensor) -> Tensor:
        """``(texts, in)`` to ``(texts, out)``."""
        found = self._activation(F.linear(embeddings, self.weight, self.bias))
        if not self.has_residual:
            return found
        residual = self.residual
        return found + (embeddings if residual is None else F.linear(embeddings, residual))


class SentenceEncoder:
    """A transformer with pooling, as sentence-transformers would run it.

    Attributes:
        model: the stock transformers model.
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
        self._later = [
            DenseLayer(module) if module.kind == "Dense" else partial(F.normalize, dim=1)
            for module in layout.later
        ]

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> NDArray[np.float32]:
        """Embeddings, float32 ``(texts, hidden)``, or as wide as the last dense layer."""
        if not texts:
            config: Any = self.model.config
            layers = [one.weight for one in self._later if isinstance(one, DenseLayer)]
            width = len(layers[-1]) if layers else config.hidden_size
            return np.zeros((0, width), dtype=np.float32)
        device = next(self.model.parameters()).device
        found = []
        for start in range(0, len(texts), batch_size):
            some = texts[start : start + batch_size]
            batch = self.tokenizer(
                [text.lower() for text in some] if self.lower else list(some),
                padding=True,
                truncation=True,
                max_length=self.max_length,
                return_tensors="pt",
            ).to(device)
            with torch.inference_mode():
                states = self.model(**batch).last_hidden_state
                found.append(self.pool(states, batch["attention_mask"]).float().cpu().numpy())
        return np.concatenate(found)

    def pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """One vector a text.

        Args:
            states: ``(batch, length, hidden)``.
            mask: ``(batch, length)``, 1 = real token.
        """
        real = mask[:, :, None].to(states)
        if self.layout.pooling == "cls_token":
            first = mask.argmax(1)  # with padding on the left it is not the token 0
            pooled = states[torch.arange(len(states), device=states.device), first]
        elif self.layout.pooling == "max_tokens":
            pooled = states.masked_fill(real == 0, torch.finfo(states.dtype).min).amax(1)
        else:
            pooled = (states * real).sum(1) / real.sum(1).clamp(min=1e-9)
        for module in self._later:
            pooled = module(pooled.float())
        return pooled


def load_encoder(folder: str | Path) -> SentenceEncoder:
    """Load a sentence encoder, pruned by hfprune or dense.

    Raises:
        CheckpointError: if it is no such folder, or its weights do not fit.
        UnsupportedModelError: as :func:`read_layout`.
    """
    from transformers import AutoModel, AutoTokenizer

    layout = read_layout(folder)
    if layout is None:
        raise CheckpointError(
            f"{folder} holds no {MODULES}, so it is no sentence encoder (or one that lists a "
            "transformer alone: a CrossEncoder, which is a classifier); load it with "
            "hfprune.from_pretrained or transformers"
        )
    place = str(layout.transformer)
    check_files(place)
    with explained(str(folder), None, "the sentence encoder", False):
        config = load_config(place)
        refuse_code(place, "the model", getattr(config, "auto_map", None))
        shrunk = was_pruned(config, place)
        model = (
            from_pretrained(place)
            if shrunk
            else load_whole(
                lambda: AutoModel.from_pretrained(place, config=config, trust_remote_code=False),
                place,
            ).eval()
        )
        plain_outputs_(model.config)
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    longest = min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", 512))
    settings = layout.files.get("sentence_bert_config.json")
    lower = False
    if settings is not None:
        said = read_json(settings)
        said = said if isinstance(said, dict) else {}
        wanted, lower = said.get("max_seq_length"), said.get("do_lower_case") is True
        longest = wanted if type(wanted) is int and wanted > 0 else longest
    longest = min(longest, position_limit(model) or longest)
    return SentenceEncoder(model, tokenizer, layout, longest, lower)
