"""Bars of transformers while models are loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import save_tiny_classifier
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

from hfprune.models.bars import without_model_bars


@pytest.fixture(autouse=True)
def bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bars are drawn, whatever the environment says of them."""
    monkeypatch.setattr(logging, "_tqdm_active", True)


def test_models_are_loaded_without_bars_and_bars_come_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny_classifier("bert", tmp_path / "model")

    def load() -> str:
        capsys.readouterr()
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
        return capsys.readouterr().err

    usual = load()
    with without_model_bars():
        assert "Loading weights" not in load()
    assert ("Loading weights" in load()) == ("Loading weights" in usual)
    assert ("Loading weights" in usual) == hasattr(logging, "set_tqdm_hook")


def test_other_bars_and_a_hook_that_was_there_stay(capsys: pytest.CaptureFixture[str]) -> None:
    if not hasattr(logging, "set_tqdm_hook"):
        pytest.skip("this transformers knows no hooks of bars")
    seen = []

    def own(make, given, named):  # type: ignore[no-untyped-def]
        seen.append((named.get("desc"), named.get("disable")))
        return make(*given, **named)

    logging.set_tqdm_hook(own)
    try:
        with without_model_bars():
            for what in ("Loading weights", "Writing model shards", "Downloading"):
                list(logging.tqdm(range(2), desc=what))
        assert seen == [
            ("Loading weights", True), ("Writing model shards", True), ("Downloading", None)
        ]  # fmt: skip
        list(logging.tqdm(range(2), desc="Loading weights"))
        assert seen[-1] == ("Loading weights", None)
    finally:
        logging.set_tqdm_hook(None)
    assert "Downloading" in capsys.readouterr().err
