"""Whether a folder can be a sentence encoder as a recipe has it, by its small files alone."""

from __future__ import annotations

from pathlib import Path

from hfprune.core.errors import CheckpointError, UnsupportedModelError
from hfprune.core.reading import read_json
from hfprune.models.cross_encoder import is_cross_encoder
from hfprune.models.layout import (
    NEW_MODES,
    SentenceLayout,
    lower_of,
    prompt_of,
    prompts_of,
    usual_layout,
)


def check_headless(folder: str | Path, layout: SentenceLayout | None, where: str) -> None:
    """Refuse a folder of a model that predicts something.

    Args:
        folder: that holds ``config.json``.
        layout: of the folder; modules say that it is an encoder, whatever its config says.
        where: what names it, for the error.

    Raises:
        CheckpointError: it is one, or its config cannot be read.
    """
    file = Path(folder) / "config.json"
    if layout is not None or not file.is_file():
        return
    said = read_json(file)
    named = said.get("architectures") if isinstance(said, dict) else None
    heads = " or ".join(map(str, named if isinstance(named, list) else ()))
    if "For" not in heads:
        return
    pairs = is_cross_encoder(folder)
    raise CheckpointError(
        f"{where} is a {f'CrossEncoder ({heads})' if pairs else heads}, which has a head and gives "
        "no embeddings: name a sentence encoder, or an encoder without a head"
        + ("; for a reranker set task: reranking" if pairs else "")
    )


def check_said(
    layout: SentenceLayout | None, pooling: str | None, normalize: bool | None, where: str
) -> None:
    """Refuse a recipe that says otherwise than the folder.

    Args:
        layout: of the folder; of a bare encoder ``None``, to which nothing is otherwise.
        pooling, normalize: as ``model.pooling`` and ``model.normalize``.
        where: what names it, for the error.

    Raises:
        CheckpointError: it does.
    """
    if layout is None:
        return
    if pooling is not None and NEW_MODES[pooling] != layout.pooling:
        raise CheckpointError(
            f"{where} pools by {layout.pooling}, model.pooling says {pooling}: remove it, the "
            "model's own modules count"
        )
    if normalize is not None and normalize != layout.normalize:
        raise CheckpointError(
            f"{where} {'scales' if layout.normalize else 'does not scale'} embeddings to length 1, "
            f"model.normalize says {str(normalize).lower()}: remove it, the model's own modules "
            "count"
        )


def prompt_before(
    layout: SentenceLayout | None, folder: str | Path, name: str | None, where: str
) -> str:
    """What stands before each text; empty for nothing.

    Args:
        layout: of the folder; a bare encoder has none, and no prompts.
        folder: of the encoder.
        name: as ``data.prompt``.
        where: what names the encoder, for errors.

    Raises:
        CheckpointError: there is no such prompt, or prompts cannot be read.
        UnsupportedModelError: texts are put in small letters before the tokenizer, which nothing
            that is exported would do; also as :func:`hfprune.models.layout.prompt_of`.
    """
    if layout is not None and lower_of(layout):
        raise UnsupportedModelError(
            f"{where} puts texts in small letters before "
            "its tokenizer reads them (do_lower_case in sentence_bert_config.json), which no "
            "exported file would do: let the tokenizer do it (do_lower_case in "
            "tokenizer_config.json), and set that to false"
        )
    layout = layout or usual_layout(folder, "mean", False, 0)
    prompts, _ = prompts_of(layout)
    if name is not None and name not in prompts:
        has = f"it has {', '.join(map(repr, prompts))}: name one of them" if prompts else (
            "it has none: write what is to stand before texts into the texts"
        )  # fmt: skip
        raise CheckpointError(
            f"data.prompt is {name!r}, but {where} has no such prompt; {has}, or remove data.prompt"
        )
    return prompt_of(layout, name)
