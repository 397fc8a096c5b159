"""The sentences that scripts/make_bbc_sentences.py makes of news articles."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import Any

import pytest
from script import load_script

FIRST = "The first sentence of this article has {} words or so."
SECOND = 'He said: "It is the second one, which ends in a quotation mark of number {}."'
THIRD = "This one costs $1.13bn and is not cut at the point in number {} either."
LONG = "And " + 40 * "so on " + "number {}."


@pytest.fixture
def script() -> Any:
    return load_script("make_bbc_sentences")


def write_articles(folder: Path) -> dict[str, str]:
    """Articles in the form of the demonstration's; the SHA-256 of each file."""
    (folder / "bbc-news").mkdir()
    found = {}
    for split, first in (("train", 0), ("test", 20)):
        file = folder / "bbc-news" / f"{split}.csv"
        with file.open("w", encoding="utf-8", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow(("text", "label"))
            for number in range(first, first + 20):
                body = " ".join(part.format(number) for part in (FIRST, SECOND, THIRD, LONG))
                text = f"A headline that has more than eight words in it\n\n{body}\n\nToo short."
                writer.writerow((text, f"topic {number % 3}"))
            same = "The very same sentence stands in articles of both the files."
            writer.writerow((f"headline\n\n{same} {same}", "topic 0"))
        found[split] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def test_two_sentences_of_each_article_with_its_topic(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "SHA256", write_articles(tmp_path))
    assert script.main(["--dest", str(tmp_path)]) == 0
    texts = {}
    for split, first, more in (("train", 0, 1), ("test", 20, 0)):
        file = tmp_path / "bbc-sentences" / f"{split}.csv"
        with file.open(encoding="utf-8", newline="") as opened:
            rows = list(csv.DictReader(opened))
        assert len(rows) == 2 * 20 + more, "what stands in both is of train, once"
        known = {
            part.format(number): f"topic {number % 3}"
            for number in range(first, first + 20)
            for part in (FIRST, SECOND, THIRD)
        }
        for row in rows[: 2 * 20]:
            assert known[row["text"]] == row["label"]
        texts[split] = [row["text"] for row in rows]
        assert len(set(texts[split])) == len(texts[split])
        drawn = {text.split()[0] for text in texts[split]}
        assert drawn == {"The", "He", "This"}, "not always the first ones"
    assert not set(texts["train"]) & set(texts["test"])
    before = (tmp_path / "bbc-sentences/test.csv").read_bytes()
    assert script.main(["--dest", str(tmp_path)]) == 0, "what is there stays"
    (tmp_path / "bbc-sentences").rename(tmp_path / "before")
    assert script.main(["--dest", str(tmp_path)]) == 0
    assert (tmp_path / "bbc-sentences/test.csv").read_bytes() == before


def test_other_articles_are_refused(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_articles(tmp_path)
    assert script.main(["--dest", str(tmp_path)]) == 1
    assert "is not the file that scripts/fetch_demo.py writes" in capsys.readouterr().err
    assert not (tmp_path / "bbc-sentences").exists()
