"""A teacher with a tokenizer of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from hfprune.core.errors import TrainingError
from hfprune.families import position_limit
from hfprune.models.inputs import taken
from hfprune.models.loading import load_processor
from hfprune.recipe.sections.training import DistillationConfig

# What a row was made of: a text, or a pair.
Original: TypeAlias = str | tuple[str, str]

_OTHER_STATES = (
    "{} has a vocabulary of its own, so its hidden states are of other tokens than the student's: "
    "set distillation=DistillationConfig(hidden_weight=0)"
)


class OtherTokenizer(nn.Module):
    """A classifier that reads the rows of another tokenizer, as a teacher.

    Each row of token ids becomes a text again: the one that it was made of where that is known,
    else what the student's tokenizer makes of the ids. A student that reads lower case alone gives
    a teacher that knows both lower case then. There are logits alone: hidden states are of tokens,
    and the tokens are others.

    Args:
        model: of the same labels in the same order.
        tokenizer: its own; it pads.
        read_by: the student's tokenizer.
        max_length: tokens that the model reads of a row, special ones included.
        originals: what rows were made of, by :func:`row_key`.

    Raises:
        TrainingError: the tokenizer has no padding token.
    """

    reads: Tensor

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        read_by: Any,
        max_length: int,
        originals: Mapping[bytes, Original] | None = None,
    ) -> None:
        super().__init__()
        if tokenizer.pad_token_id is None:
            raise TrainingError(
                f"the teacher's tokenizer ({type(tokenizer).__name__}) has no padding token, which "
                "texts of a batch need: set its pad_token"
            )
        self.model, self.tokenizer, self.read_by = model, tokenizer, read_by
        self.max_length, self.originals = max_length, originals or {}
        self.config = model.config
        # Part of the state, so that outputs kept from one run to the next are of these tokens.
        words = repr((sorted(tokenizer.get_vocab().items()), max_length))
        digest = hashlib.sha256(words.encode()).digest()
        self.register_buffer("reads", torch.tensor(list(digest), dtype=torch.uint8))
        special = (read_by.cls_token_id, read_by.sep_token_id, read_by.bos_token_id)
        self._frames = {*special, read_by.eos_token_id, read_by.pad_token_id} - {None}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> Any:
        """The model's outputs on the texts of a batch.

        Args:
            input_ids: int64 ``(batch, length)``, the student's.
            attention_mask: ``(batch, length)``, 0 for padding; ``None``: nothing is padding.
            token_type_ids: not looked at: special tokens tell where a text ends.
            output_hidden_states: none can be had.

        Raises:
            TrainingError: hidden states are asked for.
        """
        if output_hidden_states:
            raise TrainingError(_OTHER_STATES.format("the teacher"))
        ids = input_ids.cpu().numpy()
        real = np.ones_like(ids) if attention_mask is None else attention_mask.cpu().numpy()
        rows = [self.original(row[seen > 0]) for row, seen in zip(ids, real, strict=True)]
        pairs = any(isinstance(row, tuple) for row in rows)
        parts = [row if isinstance(row, tuple) else (row, "") for row in rows]
        batch = self.tokenizer(
            [first for first, _ in parts],
            [second for _, second in parts] if pairs else None,
            truncation=True,
            max_length=self.max_length,
            padding=True,
            return_tensors="pt",
        )
        return self.model(**taken(self.model, batch.to(input_ids.device)))

    def original(self, ids: Any) -> Original:
        """The text or pair of one row of token ids, int ``(tokens,)``, without padding."""
        known = self.originals.get(row_key(ids))
        if known is not None:
            return known
        runs: list[list[int]] = [[]]
        for token in ids.tolist():
            if token not in self._frames:
                runs[-1].append(token)
            elif runs[-1]:
                runs.append([])
        texts = [self._written(run) for run in runs if run]
        return (texts[0], texts[1]) if len(texts) == 2 else " ".join(texts)

    def _written(self, ids: list[int]) -> str:
        """Token ids as a text; what stands for an unknown word does so in the other's words."""
        text = str(self.read_by.decode(ids))
        for name in ("unk_token", "mask_token"):
            mine = getattr(self.read_by, name, None)
            if mine:
                text = text.replace(str(mine), getattr(self.tokenizer, name, None) or "")
        return text


def read_by_another(
    model: Any,
    tokenizer: Any,
    read_by: Any,
    max_length: int | None = None,
    originals: Mapping[bytes, Original] | None = None,
) -> Any:
    """The model itself where it knows the student's tokens, else :class:`OtherTokenizer`.

    Args:
        max_length: ``None``: as much as model and tokenizer take.
    """
    if same_tokens(tokenizer, read_by):
        return model
    limits = (max_length, position_limit(model), tokenizer.model_max_length)
    most = min(limit for limit in limits if limit is not None)
    return OtherTokenizer(model, tokenizer, read_by, most, originals)


def teacher_with_tokenizer(
    model: Any, name: str, read_by: Any, settings: DistillationConfig | None
) -> Any:
    """A teacher of another vocabulary than the student's, with the tokenizer of its folder.

    Raises:
        CheckpointError: there is no tokenizer in its folder.
        TrainingError: hidden states are to be compared, or the student's tokenizer is not known.
    """
    if read_by is None:
        raise TrainingError(
            f"the teacher {name!r} has a vocabulary of its own, so texts must be made of the rows "
            "for it: pass the student's tokenizer as processing_class"
        )
    if settings is None or settings.hidden_weight > 0:
        raise TrainingError(_OTHER_STATES.format(f"the teacher {name!r}"))
    tokenizer = load_processor(
        name, "single_label_classification", revision=None, trust_remote_code=False, key="teacher"
    )
    return read_by_another(model, tokenizer, read_by)


def row_key(ids: Any) -> bytes:
    """What a row of token ids is looked up by: as long whatever the row's length."""
    return hashlib.blake2b(np.asarray(ids, dtype=np.int64).tobytes(), digest_size=16).digest()


def originals_of(
    ids: Iterable[Any], texts: Sequence[str], pairs: Sequence[str] | None
) -> dict[bytes, Original]:
    """What rows were made of, to be looked up; all three in the same order."""
    if pairs:
        made: Sequence[Original] = list(zip(texts, pairs, strict=True))
    else:
        made = texts
    return {row_key(row): text for row, text in zip(ids, made, strict=True)}


def same_tokens(mine: Any, theirs: Any) -> bool:
    """Whether two tokenizers know the same tokens by the same ids."""
    return bool(mine.get_vocab() == theirs.get_vocab())
