"""Sentence encoders in the layout of sentence-transformers: pruned, saved and used as such.

A folder lists its modules in ``modules.json``: a transformer (at the top or in a folder of its
own), pooling, and perhaps a normalisation. :func:`save_encoder` writes a pruned transformer in that
layout and :func:`load_encoder` runs it. sentence-transformers itself builds its transformer with
``from_pretrained`` of transformers, which stops with a size mismatch at layers of uneven sizes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from hfprune.core.errors import CheckpointError, UnsupportedModelError
from hfprune.core.files import atomic_directory, atomic_write_json
from hfprune.models.checkpoint import from_pretrained, was_pruned
from hfprune.pruning.surgery import RECORD_KEY

MODULES: Final = "modules.json"
POOLING_MODES: Final = ("cls_token", "mean_tokens", "max_tokens")
_TYPES: Final = "sentence_transformers.models"

# Beside the modules, and carried along as they are.
_FILES: Final = ("config_sentence_transformers.json", "sentence_bert_config.json")


@dataclass(frozen=True)
class SentenceLayout:
    """What a sentence encoder's folder says.

    Attributes:
        transformer: the folder that holds the transformer.
        pooling: one of :data:`POOLING_MODES`.
        normalize: whether embeddings are scaled to length 1.
        pooling_config: the whole content of the pooling module's ``config.json``.
        files: further files to carry along, by name.
    """

    transformer: Path
    pooling: str
    normalize: bool
    pooling_config: Mapping[str, Any]
    files: Mapping[str, Path]


def read_layout(folder: str | Path) -> SentenceLayout | None:
    """The layout of a folder, ``None`` if it has no ``modules.json``.

    Raises:
        CheckpointError: if ``modules.json`` or the pooling's config cannot be read.
        UnsupportedModelError: for modules other than transformer, pooling, normalisation, and for
            pooling other than by the first token, the mean or the largest value.
    """
    root = Path(folder)
    if not (root / MODULES).is_file():
        return None
    modules = _read_json(root / MODULES)
    try:
        kinds = [(str(entry["type"]).rpartition(".")[2], str(entry["path"])) for entry in modules]
    except (TypeError, LookupError) as error:
        raise CheckpointError(f"{root / MODULES} lists no modules: {error!r}") from error
    names = [kind for kind, _ in kinds]
    if names not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise UnsupportedModelError(
            f"{root / MODULES} lists the modules {names}; hfprune knows sentence encoders of "
            "Transformer, Pooling and, if need be, Normalize"
        )
    transformer = root / kinds[0][1]
    pooling = _read_json(root / kinds[1][1] / "config.json")
    modes = [n for n in POOLING_MODES if pooling.get(f"pooling_mode_{n}")]
    others = [k for k, on in pooling.items() if k.startswith("pooling_mode_") and on is True]
    if len(modes) != 1 or len(others) != 1:
        raise UnsupportedModelError(
            f"{root / kinds[1][1] / 'config.json'} asks for pooling by {others}; expected exactly "
            f"one of {', '.join(f'pooling_mode_{n}' for n in POOLING_MODES)}"
        )
    files = {}
    for name in _FILES:
        for place in (root / name, transformer / name):
            if place.is_file():
                files[name] = place
                break
    return SentenceLayout(transformer, modes[0], "Normalize" in names, pooling, files)


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
    kinds = ["Transformer", "Pooling"] + ["Normalize"] * layout.normalize
    paths = ["", "1_Pooling", "2_Normalize"]
    with atomic_directory(folder, overwrite=False) as place:
        encoder.save_pretrained(place)
        config = _read_json(place / "config.json")
        config["architectures"] = [type(encoder).__name__]
        for key in ("id2label", "label2id", "problem_type"):
            config.pop(key, None)
        if record is not None:
            config[RECORD_KEY] = record
        atomic_write_json(place / "config.json", config)
        tokenizer.save_pretrained(place)
        for path in paths[: len(kinds)]:
            (place / path).mkdir(exist_ok=True)
        atomic_write_json(place / "1_Pooling" / "config.json", dict(layout.pooling_config))
        modules = [
            {"idx": index, "name": str(index), "path": path, "type": f"{_TYPES}.{kind}"}
            for index, (kind, path) in enumerate(zip(kinds, paths, strict=False))
        ]
        (place / MODULES).write_text(json.dumps(modules, indent=2) + "\n", encoding="utf-8")
        for name, source in layout.files.items():
            shutil.copyfile(source, place / name)


class SentenceEncoder:
    """A transformer with pooling, as sentence-transformers would run it.

    Attributes:
        model: the stock transformers model.
        tokenizer: its tokenizer.
        layout: pooling and normalisation.
        max_length: longest text in tokens; what is longer is cut.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, layout: SentenceLayout, max_length: int
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.layout = layout
        self.max_length = max_length

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> NDArray[np.float32]:
        """Embeddings, float32 ``(texts, hidden)``."""
        if not texts:
            config: Any = self.model.config
            return np.zeros((0, config.hidden_size), dtype=np.float32)
        device = next(self.model.parameters()).device
        found = []
        for start in range(0, len(texts), batch_size):
            batch = self.tokenizer(
                list(texts[start : start + batch_size]),
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
            pooled = states[:, 0]
        elif self.layout.pooling == "max_tokens":
            pooled = states.masked_fill(real == 0, torch.finfo(states.dtype).min).amax(1)
        else:
            pooled = (states * real).sum(1) / real.sum(1).clamp(min=1e-9)
        return F.normalize(pooled, dim=1) if self.layout.normalize else pooled


def load_encoder(folder: str | Path) -> SentenceEncoder:
    """Load a sentence encoder, pruned by hfprune or dense.

    Raises:
        CheckpointError: if it is no such folder, or its weights do not fit.
        UnsupportedModelError: as :func:`read_layout`.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    layout = read_layout(folder)
    if layout is None:
        raise CheckpointError(
            f"{folder} holds no {MODULES}, so it is no sentence encoder; load it with "
            "hfprune.from_pretrained or transformers"
        )
    place = layout.transformer
    config = AutoConfig.from_pretrained(place)
    shrunk = was_pruned(config, place)
    model = from_pretrained(place) if shrunk else AutoModel.from_pretrained(place).eval()
    tokenizer = AutoTokenizer.from_pretrained(place)
    longest = min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", 512))
    settings = layout.files.get("sentence_bert_config.json")
    if settings is not None:
        longest = int(_read_json(settings).get("max_seq_length") or longest)
    return SentenceEncoder(model, tokenizer, layout, longest)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
