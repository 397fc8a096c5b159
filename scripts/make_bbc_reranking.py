"""Write queries with texts that may answer them, made of the demonstration's BBC News articles.

    python scripts/make_bbc_reranking.py [--dest demo-assets]

Nothing is downloaded: scripts/fetch_demo.py has written ``bbc-news/train.csv`` and ``test.csv``,
and this script refuses files of another content. What is written under ``--dest``:

bbc-reranking/train.jsonl, bbc-reranking/test.jsonl
    A row a pair: ``query``, the headline of an article; ``text``, the rest of an article;
    ``label``, 1 where it is the same article, else 0. An article whose headline or text
    occurred before is left out.

    Of test, each of 200 queries drawn with a fixed seed has its article and the nine others that
    have most in common with the headline (cosine of TF-IDF), as a search by words would find them.
    Of train, every query has its article, the two others that are nearest, and two drawn with a
    fixed seed from the fifty nearest. Texts of test occur in test only.

What it cannot show: headlines are no questions that people type; one text alone is right, even
where two articles report the same; and words of the headline often stand in its article, so that
a search by words is good already (nDCG@10 0.899 by that cosine, 0.450 by lot).
"""

from __future__ import annotations

import csv
import hashlib
import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # where it is loaded by its path
from scripting import parser_of

ROOT = Path(__file__).resolve().parent.parent
SEED = 0
TEST_QUERIES, NEAREST, DRAWN_FROM = 200, 9, 50
# What scripts/fetch_demo.py writes.
SHA256 = {
    "train": "1aac655ea742048afef6eaa4d0f1e6b59f70d8c0e7c47d264c10323d4bc205ab",
    "test": "c7af3e20490522a5367da9b6e7630781bd6ad9e1a0ee841a0be6d51ae3e6b995",
}


def main(arguments: Sequence[str] | None = None) -> int:
    return make(__doc__, arguments, "bbc-reranking", write)


def write(articles: Path, folder: Path) -> None:
    """Write the rows of both splits, once all articles have been read."""
    read_all = {split: read(articles / f"{split}.csv", split) for split in SHA256}
    for split, some in read_all.items():
        lines = [json.dumps(row, ensure_ascii=False) for row in pairs(some, split)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def make(
    document: str | None,
    arguments: Sequence[str] | None,
    name: str,
    write: Callable[[Path, Path], None],
) -> int:
    """A script that makes a folder of the demonstration's articles, which it is told about.

    Args:
        document: the docstring of the script.
        name: of the folder.
        write: is given the folder of the articles and that which is written.
    """
    parser = parser_of(document)
    parser.add_argument("--dest", default="demo-assets", type=Path, metavar="DIR")
    dest: Path = parser.parse_args(arguments).dest

    sys.path.insert(0, str(ROOT))  # the checkout that this script is in, installed or not
    from hfprune.core.errors import HFPruneError
    from hfprune.core.files import atomic_directory

    target = dest / name
    if target.exists():
        print(f"{target} is there already; remove it to make it anew")
        return 0
    try:
        with atomic_directory(target, overwrite=False) as folder:
            write(dest / "bbc-news", folder)
    except (HFPruneError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {target}")
    return 0


def read(file: Path, split: str) -> list[tuple[str, str]]:
    """Headline and body of each article.

    Raises:
        ValueError: as of :func:`rows_of`.
    """
    found: dict[str, str] = {}
    bodies: set[str] = set()
    for row in rows_of(file, SHA256[split]):
        headline, _, body = row["text"].partition("\n")
        headline, body = headline.strip(), " ".join(body.split())
        if headline not in found and body not in bodies:
            found[headline] = body
            bodies.add(body)
    return list(found.items())


def rows_of(file: Path, sha256: str) -> list[dict[str, str]]:
    """``text`` and ``label`` of each article.

    Raises:
        ValueError: the file is not there, or is another one.
    """
    if not file.is_file():
        raise ValueError(f"{file} is not there: run scripts/fetch_demo.py first")
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(
            f"{file} is not the file that scripts/fetch_demo.py writes (its SHA-256 is another): "
            "fetch it anew"
        )
    return list(csv.DictReader(content.decode("utf-8").splitlines(keepends=True)))


def pairs(articles: Sequence[tuple[str, str]], split: str) -> list[dict[str, str | int]]:
    """The rows of a split."""
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    draw = random.Random(f"{SEED}/{split}")
    keys = [draw.random() for _ in articles]
    numbers = sorted(range(len(articles)), key=keys.__getitem__)
    words = TfidfVectorizer(sublinear_tf=True, stop_words="english")
    bodies = words.fit_transform([body for _, body in articles])
    found: list[dict[str, str | int]] = []
    for number in numbers[:TEST_QUERIES] if split == "test" else numbers:
        query, body = articles[number]
        alike = (bodies @ words.transform([query]).T).toarray()[:, 0]
        # Rounded, so that other ways of adding up give the same order.
        order = np.lexsort((np.arange(len(alike)), -alike.round(6)))
        near = [int(other) for other in order if other != number]
        chosen = near[:NEAREST]
        if split == "train":
            some = near[2:DRAWN_FROM]
            chosen = [*near[:2], *(some.pop(int(draw.random() * len(some))) for _ in range(2))]
        found.append({"query": query, "text": body, "label": 1})
        found += [{"query": query, "text": articles[other][1], "label": 0} for other in chosen]
    return found


if __name__ == "__main__":
    sys.exit(main())
