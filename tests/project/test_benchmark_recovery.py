"""Ways of training what is left: the table, and two ways on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from script import load_script, recipe_without_rows
from tiny import save_tiny_classifier, tiny_model, write_reviews

import hfprune
from hfprune.families import model_sizes
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.surgery import shrink_


def test_differences_are_paired_by_row_and_told_over_seeds() -> None:
    def one(
        way: str, seed: int, rows: list[float], metric: float, losses: list[float] | None = None
    ) -> dict[str, object]:
        return {
            "way": way, "seed": seed, "divergence": sum(rows) / len(rows), "by_row": rows,
            "metric": {"accuracy": metric}, "processor_seconds": 10.0, "loss_by_row": losses,
        }  # fmt: skip

    script = load_script("benchmark_recovery")
    found = [
        one("a=1", 1, [0.2, 0.4], 0.5),
        one("a=1", 2, [0.4, 0.6], 0.7),
        one("a=2", 1, [0.1, 0.3], 0.8),
    ]
    assert script.table(found).splitlines()[2:] == [
        "| a=1 | 2 | 0.4000 | - | - | - | 0.6000 | 10 |",
        "| a=2 | 1 | 0.2000 | -0.1000 ± 0.0000 | - | - | 0.8000 | 10 |",
    ]
    found = [
        one("", 1, [0.2, 0.4], 0.5, [0.5, 0.7]),
        one("a=2", 1, [0.1, 0.3], 0.8, [0.4, 0.8]),
    ]
    assert script.table(found).splitlines()[2:] == [
        "| as the recipe says | 1 | 0.3000 | - | 0.6000 | - | 0.5000 | 10 |",
        "| a=2 | 1 | 0.2000 | -0.1000 ± 0.0000 | 0.6000 | +0.0000 ± 0.1960 | 0.8000 | 10 |",
    ]


def test_cross_entropy_of_each_row_worked_by_hand() -> None:
    logits = np.array([[0.0, 0.0], [np.log(3), 0.0], [1000.0, 0.0]])
    found = load_script("benchmark_recovery").cross_entropies(logits, [1, 0, 1])
    assert found == [0.693147, 0.287682, 1000.0]


def test_ways_that_would_not_be_carried_out_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*recipe_without_rows(tmp_path), "--teacher", "t", "--pruned", "p"]
    way = ["--way", "teacher.num_seeds=3", "--output", str(tmp_path / "found")]
    assert load_script("benchmark_recovery").main([*arguments, *way]) == 1
    assert (
        "teacher.num_seeds=3: teacher.num_seeds is 3, and no teacher is trained here: train "
        "them, and name their folders in teacher.learn_from" in capsys.readouterr().err
    )
    way[1] = "pruning.vocabulary={}"
    assert load_script("benchmark_recovery").main([*arguments, *way]) == 1
    assert (
        "pruning.vocabulary is given, and the models are taken as they are here: remove it"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "found").exists()


def test_what_was_made_of_another_model_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's work folder has the names of the run before it."""
    arguments = [
        *recipe_without_rows(tmp_path), "--teacher", str(tmp_path / "teacher"),
        "--pruned", str(tmp_path / "pruned"), "--output", str(tmp_path / "found"),
    ]  # fmt: skip
    for name in ("teacher", "pruned"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"first")
    script, done = load_script("benchmark_recovery"), []

    def one_way(options: object, way: str, seed: int) -> dict[str, object]:
        done.append(seed)
        return {
            "way": way, "seed": seed, "divergence": 0.1, "by_row": [0.1], "processor_seconds": 1.0,
            "metric": {"accuracy": 0.5},
        }  # fmt: skip

    monkeypatch.setattr(script, "one_way", one_way)
    for _ in range(2):
        assert script.main(arguments) == 0
    assert done == [42]
    (tmp_path / "pruned" / "model.safetensors").write_bytes(b"other")
    for _ in range(2):
        assert script.main(arguments) == 0
    assert done == [42, 42]


def test_windows_of_long_texts_are_judged_as_their_texts(tmp_path: Path) -> None:
    save_tiny_classifier("bert", tmp_path / "model")
    model = tiny_model("bert", labels=2)
    sizes = model_sizes(model)
    plan = PruningPlan.first_units(sizes, [(0, 0), *sizes[1:]])
    shrink_(model, plan)
    model.save_pretrained(tmp_path / "pruned")
    (tmp_path / "pruned" / "plan.json").write_text(json.dumps(plan.to_dict()))
    lines = [f"{'good ' * 20}film,positive", f"{'bad ' * 20}film,negative"] * 10
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    recipe = {
        "model": {"name_or_path": str(tmp_path / "model")},
        "data": {
            "train_file": str(tmp_path / "reviews.csv"), "max_length": 12, "stride": 2,
            "validation_fraction": 0.3,
        },
        "pruning": {"sparsity": 0.5},
        "recovery": {"num_train_epochs": 0.1},
        "output_dir": str(tmp_path / "never"),
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    arguments = [
        *("--recipe", str(tmp_path / "recipe.yaml"), "--teacher", str(tmp_path / "model")),
        *("--pruned", str(tmp_path / "pruned"), "--output", str(tmp_path / "found"), "--quiet"),
    ]
    assert load_script("benchmark_recovery").main(arguments) == 0
    (file,) = (tmp_path / "found").iterdir()
    told = json.loads(file.read_text())
    assert len(told["loss_by_row"]) == told["rows"] < 20, "one a text"


@pytest.mark.slow
def test_two_ways_from_the_same_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny_classifier("bert", tmp_path / "model")
    write_reviews(tmp_path / "reviews.csv", 80)
    hfprune.compress(
        str(tmp_path / "model"),
        train=tmp_path / "reviews.csv",
        sparsity=0.5,
        output_dir=tmp_path / "pruned",
        quiet=True,
        data={"max_length": 32},
        recovery={"num_train_epochs": 0},
        export={"quantization": None, "temperature": False},
        deploy=None,
        benchmark={"batch_sizes": [1], "sequence_lengths": [16], "repeats": 1, "warmup": 0},
    )
    recipe = {
        "model": {"name_or_path": str(tmp_path / "model")},
        "data": {"train_file": str(tmp_path / "reviews.csv"), "max_length": 32},
        "pruning": {"sparsity": 0.5},
        "recovery": {"num_train_epochs": 1},
        "training": {"bf16": "auto"},
        "output_dir": str(tmp_path / "never"),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    arguments = [
        *("--recipe", str(tmp_path / "recipe.yaml"), "--teacher", str(tmp_path / "model")),
        *("--pruned", str(tmp_path / "pruned"), "--output", str(tmp_path / "found"), "--quiet"),
        *("--way", "recovery.learning_rate=1e-4", "--way", "recovery.learning_rate=1e-3"),
    ]
    script = load_script("benchmark_recovery")
    assert script.main(arguments) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-2].startswith("| recovery.learning_rate=1e-4 | 1 | ")
    assert told[-1].startswith("| recovery.learning_rate=1e-3 | 1 | ")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "found").iterdir()}
    assert len(before) == 2
    by_way = {way["way"]: way for file in before for way in [json.loads(file.read_text())]}
    assert all(len(one["loss_by_row"]) == one["rows"] for one in by_way.values())
    assert script.main(arguments) == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before, "nothing is done twice"
    assert not (tmp_path / "never").exists()
    # Rounds until it helps no more, and other teachers, as a run has them.
    rounds = "recovery.num_train_epochs=auto recovery.max_rounds=2"
    others = f"teacher.learn_from=[{tmp_path / 'model'},{tmp_path / 'pruned'}]"
    more = [*arguments[:6], "--output", str(tmp_path / "more"), "--way", rounds, "--way", others]
    assert script.main(more) == 0
    captured = capsys.readouterr()
    assert "round 2: divergence from the teacher" in captured.out + captured.err
    found = {
        one["way"]: one
        for file in (tmp_path / "more").iterdir()
        for one in [json.loads(file.read_text())]
    }
    mine = by_way["recovery.learning_rate=1e-4"]["divergence"]
    assert found[others]["divergence"] != pytest.approx(mine, rel=1e-3), "of its own teachers"
