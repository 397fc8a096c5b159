"""The pairs that scripts/make_bbc_reranking.py makes of news articles."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from script import load_script

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["bank", "film", "vote", "match", "phone", "profit", "actor", "party", "goal", "game"]


@pytest.fixture
def script() -> Any:
    return load_script("make_bbc_reranking")


def write_articles(folder: Path) -> dict[str, str]:
    """Articles in the form of the demonstration's; the SHA-256 of each file."""
    (folder / "bbc-news").mkdir()
    found = {}
    for split, first in (("train", 0), ("test", 100)):
        file = folder / "bbc-news" / f"{split}.csv"
        with file.open("w", encoding="utf-8", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow(("text", "label"))
            for number in range(first, first + 60):
                some = [WORDS[number % 10], WORDS[number * 7 % 10], f"name{number}"]
                writer.writerow((f"{' '.join(some)}\n\nOf {some[0]}\n\nand {some[2]}.", "news"))
            writer.writerow((f"bank bank name{first}\n\nthe same headline again", "news"))
            writer.writerow((f"another headline {first}\n\nOf bank and name{first}.", "news"))
        found[split] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def test_each_headline_has_its_article_and_others(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "SHA256", write_articles(tmp_path))
    monkeypatch.setattr(script, "TEST_QUERIES", 12)
    assert script.main(["--dest", str(tmp_path)]) == 0
    texts = {}
    for split, queries, candidates in (("train", 60, 5), ("test", 12, 10)):
        file = tmp_path / "bbc-reranking" / f"{split}.jsonl"
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        by_query: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            by_query.setdefault(row["query"], []).append(row)
        assert len(by_query) == queries
        for query, some in by_query.items():
            assert len({row["text"] for row in some}) == len(some) == candidates
            (own,) = [row["text"] for row in some if row["label"]]
            assert own == f"Of {query.split()[0]} and {query.split()[-1]}."
        texts[split] = {row["text"] for row in rows}
    assert not texts["train"] & texts["test"]
    before = (tmp_path / "bbc-reranking/test.jsonl").read_bytes()
    assert script.main(["--dest", str(tmp_path)]) == 0, "what is there stays"
    (tmp_path / "bbc-reranking").rename(tmp_path / "before")
    assert script.main(["--dest", str(tmp_path)]) == 0
    assert (tmp_path / "bbc-reranking/test.jsonl").read_bytes() == before


def test_other_articles_are_refused(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--dest", str(tmp_path)]) == 1
    assert "is not there: run scripts/fetch_demo.py first" in capsys.readouterr().err
    write_articles(tmp_path)
    assert script.main(["--dest", str(tmp_path)]) == 1
    assert "is not the file that scripts/fetch_demo.py writes" in capsys.readouterr().err
    assert not (tmp_path / "bbc-reranking").exists()
