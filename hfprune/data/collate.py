"""Rows to batches: padding of texts and words, decoding of images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hfprune.data.images import IMAGE_COLUMN, pillow


def data_collator(processor: Any, task: str = "single_label_classification") -> Any:
    """Return a collator that pads each batch to its longest row, and no further.

    Args:
        processor: The tokenizer (labels of tokens are padded with -100), or the image processor.
        task: The recipe's.
    """
    from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding

    if task == "image_classification":
        return ImageCollator(processor)
    if task == "token_classification":
        return DataCollatorForTokenClassification(processor)
    return DataCollatorWithPadding(processor, padding=True, pad_to_multiple_of=None)


class ImageCollator:
    """Rows with an undecoded ``image`` to a batch of ``pixel_values``; other columns are stacked.

    Images of any mode are turned to RGB. Nothing is drawn at random, so a row always gives the
    same pixels.

    Args:
        processor: an image processor of transformers.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, rows: Sequence[Any]) -> dict[str, Any]:
        """``pixel_values`` float32 ``(batch, 3, height, width)``, labels and row numbers."""
        import torch

        images = [self._image(row[IMAGE_COLUMN]) for row in rows]
        batch = {"pixel_values": self.processor(images, return_tensors="pt")["pixel_values"]}
        for name in rows[0]:
            if name != IMAGE_COLUMN:
                batch[name] = torch.as_tensor([row[name] for row in rows])
        return batch

    @staticmethod
    def _image(entry: Any) -> Any:
        if isinstance(entry, dict):
            content = entry.get("bytes") or Path(entry["path"]).read_bytes()
            with pillow().open(io.BytesIO(content)) as image:
                return image.convert("RGB")
        return entry.convert("RGB")
