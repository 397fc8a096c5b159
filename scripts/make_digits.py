"""Write scikit-learn's handwritten digits as an image folder, and a small ViT that knows nothing.

    python scripts/make_digits.py [--dest demo-assets]

Nothing is downloaded: the 1,797 images of 8 x 8 pixels come with scikit-learn (a copy of the test
set of the UCI ML hand-written digits data). What is written under ``--dest``:

digits/train/<digit>/*.png, digits/test/<digit>/*.png
    The layout of an image folder of the ``datasets`` library. A fifth of the rows, drawn by class
    with a fixed seed, is the test split.
digits-vit/
    A ViT of 4 layers with random weights (seed 0) and its image processor, as ``save_pretrained``
    leaves them: patches of 2 x 2 pixels, hidden size 64, 4 heads, 256 neurons.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEST_FRACTION = 0.2
SEED = 0
SIDE, PATCH = 8, 2


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0],
        epilog=(__doc__ or "").split("\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dest", default="demo-assets", type=Path, metavar="DIR")
    dest: Path = parser.parse_args(arguments).dest

    sys.path.insert(0, str(ROOT))  # the checkout that this script is in, installed or not
    from hfprune.core.errors import HFPruneError
    from hfprune.core.files import atomic_directory

    try:
        for name, write in (("digits", write_images), ("digits-vit", write_model)):
            if (dest / name).exists():
                print(f"{dest / name} is there already; remove it to make it anew")
                continue
            dest.mkdir(parents=True, exist_ok=True)
            with atomic_directory(dest / name, overwrite=False) as folder:
                write(folder)
            print(f"wrote {dest / name}")
    except HFPruneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def write_images(folder: Path) -> None:
    """The image folder."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, digits = load_digits(return_X_y=True)
    rows = np.arange(len(digits))
    _, test = train_test_split(rows, test_size=TEST_FRACTION, random_state=SEED, stratify=digits)
    held_out = set(test.tolist())
    for row in rows.tolist():
        split = "test" if row in held_out else "train"
        place = folder / split / str(digits[row])
        place.mkdir(parents=True, exist_ok=True)
        # Of 17 levels of grey, 16 is white.
        grey = np.rint(pixels[row].reshape(SIDE, SIDE) * (255 / 16)).astype(np.uint8)
        Image.fromarray(grey).save(place / f"{row:04d}.png")


def write_model(folder: Path) -> None:
    """The random ViT."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(SEED)
    config = ViTConfig(
        image_size=SIDE,
        patch_size=PATCH,
        num_channels=3,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=256,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=10,
    )
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(
        size={"height": SIDE, "width": SIDE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ).save_pretrained(folder)


if __name__ == "__main__":
    sys.exit(main())
