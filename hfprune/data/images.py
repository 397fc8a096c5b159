"""Images: checked before any long work, read when a batch is made.

A data set of images stays on disk or in its encoded form: :class:`ImageCollator` opens, converts
and scales the images of a batch. So it may be larger than the memory.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfprune.core.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from datasets import Dataset


IMAGE_COLUMN = "image"
INSTALL_HINT = 'pip install "hfprune[vision]"'


def image_column(values: Sequence[Any], folder: Path, where: str, column: str) -> Dataset:
    """A column of images from what a file holds.

    Args:
        values: paths (relative to ``folder``), or mappings with ``bytes`` or ``path`` as the
            ``datasets`` library writes them.
        folder: where the file is.
        where, column: for errors.

    Raises:
        DataError: for a value of another kind, with its row.
    """
    import datasets

    found = []
    for row, value in enumerate(values, start=1):
        if isinstance(value, str) and value:
            found.append({"bytes": None, "path": str(folder / value)})
        elif isinstance(value, dict) and (value.get("bytes") or value.get("path")):
            path = value.get("path")
            place = str(folder / path) if path and not value.get("bytes") else path
            found.append({"bytes": value.get("bytes"), "path": place})
        else:
            raise DataError(
                f"{where}, row {row}, column {column!r}: expected the path of an image, got "
                f"{value!r:.80}"
            )
    features = datasets.Features({IMAGE_COLUMN: datasets.Image(decode=False)})
    return datasets.Dataset.from_dict({IMAGE_COLUMN: found}, features=features)


def fingerprints(images: Dataset, where: str, column: str) -> list[str]:
    """The sha256 of every image's file, once it has been seen to be an image.

    Args:
        images: with one column of undecoded images.
        where, column: for errors.

    Raises:
        DataError: for a missing or damaged image, with its row.
        MissingExtraError: without Pillow.
    """
    Image = pillow()
    found = []
    for row, entry in enumerate(images[IMAGE_COLUMN], start=1):
        place = f"{where}, row {row}, column {column!r}"
        if not entry or not (entry.get("bytes") or entry.get("path")):
            raise DataError(f"{place}: there is no image (null); fill it, or remove the row")
        try:
            content = entry.get("bytes") or Path(entry["path"]).read_bytes()
            with Image.open(io.BytesIO(content)) as image:
                image.verify()
        except FileNotFoundError as error:
            raise DataError(f"{place}: there is no file {entry['path']}") from error
        except Exception as error:  # Pillow's plugins raise many unrelated classes
            raise DataError(
                f"{place}: {entry.get('path') or 'the image'} cannot be read as an image: {error}"
            ) from error
        found.append(hashlib.sha256(content).hexdigest())
    return found


def pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError(f"images need Pillow: {INSTALL_HINT} ({error})") from error
    return Image
