"""The comparison of methods, its short mode, on a tiny model of six layers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from script import load_script, recipe_without_rows
from tiny import save_tiny_classifier, write_reviews


@pytest.mark.slow
def test_short_mode_writes_a_table_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("benchmark_methods")
    save_tiny_classifier("bert", tmp_path / "model", layers=6)
    write_reviews(tmp_path / "reviews.csv", 160)
    recipe = {
        "model": {"name_or_path": str(tmp_path / "model")},
        "data": {"train_file": str(tmp_path / "reviews.csv"), "max_length": 32},
        "training": {"num_train_epochs": 1, "per_device_train_batch_size": 16},
        "pruning": {"sparsity": 0.5},
        "output_dir": str(tmp_path / "unused"),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = ["--recipe", str(tmp_path / "recipe.yaml"), "--short"]
    command += ["--output", str(tmp_path / "out"), "--only", "layers 4", "magnitude 80%"]
    assert script.main(command) == 0
    saved = json.loads((tmp_path / "out" / "methods.json").read_text())
    assert [row["name"] for row in saved["summary"]] == [
        "dense",
        "dense int8",
        "layers 4",
        "magnitude 80%",
    ]
    dense = saved["summary"][0]
    assert dense["change"] == 0
    assert dense["speedup"] == {"1x32": 1.0}
    assert [row["removed"] for row in saved["summary"][:2]] == [0, 0]
    assert saved["summary"][2]["removed"] == pytest.approx(1 / 3)
    assert saved["summary"][3]["removed"] == pytest.approx(0.8, abs=0.05)
    table = (tmp_path / "out" / "methods.md").read_text()
    assert "| magnitude 80% | 1 | " in table
    assert table in capsys.readouterr().out
    assert (tmp_path / "out" / "methods.png").read_bytes().startswith(b"\x89PNG")
    metrics = tmp_path / "out" / "seed-0" / "layers-4" / "metrics.json"
    assert json.loads(metrics.read_text())["pruning"]["heads"] == [4, 4, 0, 4, 0, 4]

    import hfprune.pipeline as pipeline

    monkeypatch.setattr(pipeline, "run", lambda recipe: pytest.fail("run again"))
    monkeypatch.setattr(pipeline, "train_teacher", lambda recipe: pytest.fail("trained again"))
    assert script.main(command) == 0
    capsys.readouterr()
    assert script.main([*command[:-1], "random 80%", "--finished"]) == 0, "layers 4 is finished"
    assert "random" not in (tmp_path / "out" / "methods.md").read_text()
    assert script.main([*command[:-2], "random 80%", "--finished"]) == 1
    assert "holds no finished run; leave out --finished" in capsys.readouterr().err


def test_teachers_that_would_not_be_asked_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    several = {"teacher": {"num_seeds": 2}, "distillation": {}}
    command = [*recipe_without_rows(tmp_path, **several), "--output", str(tmp_path / "out")]
    assert load_script("benchmark_methods").main(command) == 1
    assert (
        "teacher.num_seeds is 2, and each seed has one dense model here: train them, and name "
        "their folders in teacher.learn_from" in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


def test_a_recipes_settings_of_reconstruction_count_and_its_vocabulary_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("benchmark_methods")
    ways = script.methods([4.0], 1.0)
    pruning = {
        "selection": "obs", "search_rounds": 7, "scoring_samples": 99, "memory_gb": 1.0,
        "layout": "uniform", "trial_epochs": 0.2, "sparsity": 0.5,
    }  # fmt: skip
    ours = script.with_settings(ways["hfprune"]["pruning"], pruning)
    assert ours == {
        "selection": "obs", "search_rounds": 7, "scoring_samples": 99, "memory_gb": 1.0,
        "layout": "uniform", "trial_epochs": 0.2, "speedup": [4.0], "method": "reconstruction",
    }  # fmt: skip
    free = script.with_settings(ways["training-free 50%"]["pruning"], pruning)
    assert (free["search_rounds"], free["sparsity"]) == (7, 0.5)
    assert "trial_epochs" not in free, "nothing is tried where nothing is trained"
    whole = script.with_settings(ways["layers 4"]["pruning"], pruning)
    assert whole == ways["layers 4"]["pruning"]

    fewer = {"pruning": {"sparsity": 0.5, "vocabulary": {}}}
    command = [*recipe_without_rows(tmp_path, **fewer), "--output", str(tmp_path / "out")]
    assert script.main(command) == 1
    assert (
        "pruning.vocabulary is given, and all models have the whole vocabulary here: remove it"
        in capsys.readouterr().err
    )


def test_mean_and_interval_by_hand() -> None:
    rows = [
        {
            "name": "m",
            "seed": s,
            "metric": 0.8,
            "change": c,
            "bytes": 10,
            "removed": 0.5,
            "speedup": {"1x32": v},
        }
        for s, (c, v) in enumerate([(-0.01, 4.0), (0.01, 6.0), (0.0, 5.0)])
    ]
    (found,) = load_script("benchmark_methods")._summary(rows)
    assert found["change"] == pytest.approx(0)
    assert found["speedup"] == {"1x32": pytest.approx(5)}
    # Student's t for 2 degrees of freedom is 4.303; the standard error is 0.01 / sqrt(3)
    assert found["change_half_width"] == pytest.approx(4.303 * 0.01 / 3**0.5, rel=1e-3)
