"""Models of a pruned one's sizes that begin with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from script import load_script, recipe_without_rows
from tiny import save_tiny_classifier, write_reviews

from hfprune import load_recipe
from hfprune.core.errors import OutputError
from hfprune.core.results import read_results
from hfprune.pipeline import run

MODEL = "model.safetensors"


def test_it_gets_no_less_than_the_model_whose_sizes_it_has() -> None:
    ways = load_script("benchmark_methods").methods([6.0, 10.0], 3.0)
    pruned, first, second = (
        ways[name] for name in ("hfprune", "from scratch 6x", "from scratch 10x")
    )
    assert pruned["recovery"] == {"num_train_epochs": 3.0}
    assert first["like"] == ("hfprune", "6x")
    assert first["recovery"]["num_train_epochs"] == 3.0
    assert second["recovery"]["num_train_epochs"] == 6.0, "10x was pruned from 6x, trained for 3"
    assert not first["recovery"]["freeze_embeddings"], "random ones have to be learned"


def command_in(folder: Path) -> list[str]:
    """Arguments of a comparison whose recipe is written there; it has no rows."""
    named = recipe_without_rows(folder, recovery={"num_train_epochs": 3})
    return [*named, "--output", str(folder / "methods")]


def test_names_that_there_are_not_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = command_in(tmp_path)
    main = load_script("benchmark_methods").main
    assert main([*command, "--speeds", "4", "--only", "layer 4", "hfprune"]) == 1
    said = capsys.readouterr().err
    assert "--only names 'layer 4'; there are 'hfprune', 'layers 4'" in said
    assert "'from scratch 4x'" in said
    assert main([*command, "recovery.num_train_epochs=auto"]) == 1
    assert (
        "recovery.num_train_epochs is auto, and every method is to have as many epochs: say "
        "how many by --epochs" in capsys.readouterr().err
    )
    assert main([*command, "--epochs", "0"]) == 1
    assert "--epochs is 0.0, and every method" in capsys.readouterr().err
    assert main([*command, "--only", "TF-IDF"]) == 1
    assert "name one in --only too" in capsys.readouterr().err


@pytest.mark.slow
def test_equal_sizes_and_nothing_of_the_teacher_but_what_it_taught(tmp_path: Path) -> None:
    load_script("benchmark_methods")  # whose folder its neighbours are found in
    from scratch_baseline import run_from_scratch

    save_tiny_classifier("bert", tmp_path / "model")
    write_reviews(tmp_path / "reviews.csv", 80)
    values: dict[str, Any] = {
        "model": {"name_or_path": str(tmp_path / "model")},
        "data": {"train_file": str(tmp_path / "reviews.csv"), "max_length": 32},
        "teacher": {"name_or_path": str(tmp_path / "model")},
        "training": {"per_device_train_batch_size": 16, "learning_rate": 1e-6},
        "export": {"quantization": None, "temperature": False},
        "deploy": None,
        "benchmark": {
            "batch_sizes": [1], "sequence_lengths": [16], "repeats": 1, "warmup": 0,
        },
    }  # fmt: skip
    recovery = {"num_train_epochs": 1, "freeze_embeddings": True, "learning_rate": 1e-6}
    pruned = {
        **values,
        "pruning": {"keep_layers": [0, 2]},
        "recovery": recovery,
        "output_dir": str(tmp_path / "pruned"),
    }
    asked = {
        **values,
        "pruning": {"method": "gates"},
        "recovery": {"num_train_epochs": 1, "freeze_embeddings": False, "learning_rate": "auto"},
        "output_dir": str(tmp_path / "scratch"),
    }
    with pytest.raises(OutputError, match=r"has the sizes of 2x in .*, which is no finished run"):
        run_from_scratch(asked, tmp_path / "pruned", "2x")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(pruned))
    run(load_recipe(tmp_path / "recipe.yaml"))
    run_from_scratch(asked, tmp_path / "pruned", "pruned")
    plans = [
        json.loads((tmp_path / name / "plan.json").read_text()) for name in ("pruned", "scratch")
    ]
    assert plans[0] == plans[1]
    teacher, small, scratch = (
        load_file(tmp_path / name / MODEL) for name in ("model", "pruned", "scratch")
    )
    assert {name: one.shape for name, one in small.items()} == {
        name: one.shape for name, one in scratch.items()
    }
    words = "bert.embeddings.word_embeddings.weight"
    apart = {name: float((one[words] - teacher[words]).abs().mean())
             for name, one in (("small", small), ("scratch", scratch))}  # fmt: skip
    assert apart["small"] == 0
    assert apart["scratch"] > 0.01
    found = read_results(tmp_path / "scratch")
    assert (
        found.members["pruned"].sparsity
        == read_results(tmp_path / "pruned").members["pruned"].sparsity
    )
    assert {"scratch", "rate", "recover"} <= set(found.seconds)
    assert "prune" not in found.seconds


@pytest.mark.slow
def test_it_learns_where_nothing_was_removed_of_the_other(tmp_path: Path) -> None:
    """Where int8 alone reaches a speed, the other is the dense model; this one is random."""
    load_script("benchmark_methods")
    from scratch_baseline import run_from_scratch

    save_tiny_classifier("bert", tmp_path / "model")
    write_reviews(tmp_path / "reviews.csv", 60)
    values: dict[str, Any] = {
        "model": {"name_or_path": str(tmp_path / "model")},
        "data": {"train_file": str(tmp_path / "reviews.csv"), "max_length": 32},
        "teacher": {"name_or_path": str(tmp_path / "model")},
        "recovery": {"num_train_epochs": 1},
        "export": {"quantization": None, "temperature": False},
        "deploy": None,
        "benchmark": {
            "batch_sizes": [1], "sequence_lengths": [16], "repeats": 1, "warmup": 0,
        },
    }  # fmt: skip
    whole = {**values, "pruning": {"keep_layers": [0, 1, 2]}, "output_dir": str(tmp_path / "all")}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(whole))
    run(load_recipe(tmp_path / "recipe.yaml"))
    assert "recover" not in read_results(tmp_path / "all").seconds
    asked = {**values, "pruning": {"method": "gates"}, "output_dir": str(tmp_path / "scratch")}
    run_from_scratch(asked, tmp_path / "all", "pruned")
    assert "recover" in read_results(tmp_path / "scratch").seconds


def test_results_of_another_comparison_are_not_taken_for_this_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = command_in(tmp_path)
    script = load_script("benchmark_methods")

    def said(*more: str) -> str:
        assert script.main([*command, *more, "--only", "TF-IDF"]) == 1
        return capsys.readouterr().err

    nothing = "holds no finished run"
    assert nothing in said("--epochs", "5"), "what is asked first is noted"
    assert nothing in said(), "nothing has been made yet"
    (tmp_path / "methods" / "seed-0").mkdir()
    assert nothing in said()
    assert nothing in said("benchmark.repeats=7"), "models are timed anew for that alone"
    assert "another comparison: epochs 3.0 (now 5.0); ask for the same" in said("--epochs", "5")
    told = said("--short")  # a sliver of the data, for one epoch
    assert "recipe" in told
    assert "epochs 3.0 (now 1.0), speeds [6.0, 10.0, 16.0] (now [1.5, 2.0])" in told
    assert "another comparison: recipe" in said("recovery.learning_rate=1e-3")
