"""Classifiers without an encoder: fitted on a recipe's rows, and timed as the others."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tiny import save_tiny_classifier, write_reviews

from hfprune.core.errors import DataError
from hfprune.measure.latency import measure_latency
from hfprune.measure.runners import random_batches
from hfprune.recipe.reading import load_recipe

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import simple_baselines

    yield simple_baselines
    sys.modules.pop("simple_baselines")


def test_both_learn_from_a_recipes_rows_and_are_timed(
    scripts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny_classifier("bert", tmp_path / "model", layers=1)
    write_reviews(tmp_path / "reviews.csv", 160)
    values = {
        "model": {"name_or_path": str(tmp_path / "model")},
        "data": {"train_file": str(tmp_path / "reviews.csv"), "max_length": 32},
        "pruning": {"sparsity": 0.5},
        "output_dir": str(tmp_path / "unused"),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    assert scripts.main(["--recipe", str(tmp_path / "recipe.yaml")]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in shown[2:]] == ["| TF-IDF", "| static embeddings"]
    recipe = load_recipe(tmp_path / "recipe.yaml")
    data, tokenizer = scripts.load(recipe)
    tfidf, static = scripts.simple_baselines(recipe, data, tokenizer, ["TF-IDF", scripts.STATIC])
    assert scripts.score_of(recipe, data, tfidf) > 0.9, "the words of these reviews give them away"
    assert static.scores(["", "w1 w2"]).shape == (2, 2)
    assert np.isfinite(static.scores([""])).all(), "a text without a token"
    assert 0 < tfidf.bytes < 100_000
    rows = measure_latency(
        {each.name: each for each in (tfidf, static)}, [(2, 8)], repeats=2, warmup=1,
        make_batch=random_batches(40, first_id=10),
    )  # fmt: skip
    assert all(row.median_ms > 0 for row in rows)
    other = load_recipe(tmp_path / "recipe.yaml", ["task=regression"])
    data.text_pairs["test"] = ["x"]
    with pytest.raises(DataError, match="are for single texts of one label each.* of pairs"):
        scripts.simple_baselines(other, data, tokenizer, ["TF-IDF"])
