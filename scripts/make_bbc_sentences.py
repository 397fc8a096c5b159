"""Write sentences of the demonstration's BBC News articles, each with the topic of its article.

    python scripts/make_bbc_sentences.py [--dest demo-assets]

Short texts with little to go by, in five classes: a task that no setting of a recipe was chosen
on. Nothing is downloaded: scripts/fetch_demo.py has written ``bbc-news/train.csv`` and
``test.csv``, and this script refuses files of another content. What is written under ``--dest``:

bbc-sentences/train.csv, bbc-sentences/test.csv
    ``text``, a sentence of 8 to 40 words from the body of an article; ``label``, its topic. Two of
    each article, drawn with a fixed seed, or as many as there are. A sentence that occurred before
    is left out, in test also one that occurs in train.
"""

from __future__ import annotations

import csv
import random
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # where it is loaded by its path
from make_bbc_reranking import SHA256, make, rows_of

SEED, OF_EACH = 0, 2
SHORTEST, LONGEST = 8, 40  # words
# After a full stop and the like (and what closes a quotation), before what begins a sentence.
_END = re.compile(r"""(?:(?<=[.!?])|(?<=[.!?]["']))\s+(?=[A-Z0-9"'(])""")


def main(arguments: Sequence[str] | None = None) -> int:
    return make(__doc__, arguments, "bbc-sentences", write)


def write(articles: Path, folder: Path) -> None:
    """Write both splits, train first: what it holds is not in test."""
    read = {split: rows_of(articles / f"{split}.csv", sha) for split, sha in SHA256.items()}
    taken: set[str] = set()
    for split in ("train", "test"):
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("text", "label"))
            writer.writerows(sentences(read[split], split, taken))


def sentences(
    articles: Sequence[dict[str, str]], split: str, taken: set[str]
) -> Iterator[tuple[str, str]]:
    """Sentences of a split, with labels.

    Args:
        taken: sentences that are not to occur again; those that do are added to it.
    """
    draw = random.Random(f"{SEED}/{split}")
    for article in articles:
        _, _, body = article["text"].partition("\n")
        # Of lines, and not across them: a line that is no sentence ends without a full stop.
        found = [each.strip() for line in body.splitlines() for each in _END.split(line)]
        fit = [s for s in found if SHORTEST <= len(s.split()) <= LONGEST and s not in taken]
        fit = list(dict.fromkeys(fit))
        chosen = sorted(draw.sample(range(len(fit)), min(OF_EACH, len(fit))))
        for number in chosen:
            taken.add(fit[number])
            yield fit[number], article["label"]


if __name__ == "__main__":
    sys.exit(main())
