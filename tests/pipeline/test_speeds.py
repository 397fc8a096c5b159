"""Speeds, families and files for deployment, from one recipe; and the real MiniLM once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import save_tiny_classifier, write_reviews

import hfprune
from hfprune import load_recipe
from hfprune.core.errors import TrainingError
from hfprune.core.records import QuantizationRecord
from hfprune.deploy.speed.landing import Landing
from hfprune.pipeline import run
from hfprune.pipeline.context import Context
from hfprune.pipeline.prepared import Prepared
from hfprune.pipeline.results import Exported, Validated
from hfprune.pipeline.stages import export as export_stage
from hfprune.pruning.cost import LatencyTable
from hfprune.pruning.plan import PruningPlan
from hfprune.report.console import Console
from hfprune.report.tables import quantization_table
from hfprune.training.distillation.cache import TeacherCache
from tests.pipeline.test_pipeline import MODELS, recipe_file

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "demo-assets"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    save_tiny_classifier("bert", folder / "model")
    write_reviews(folder / "reviews.csv", 120)
    return folder


def test_real_minilm_end_to_end(tmp_path: Path) -> None:
    """The demo's recipe on a sliver of the real data: loads, prunes, exports and agrees."""
    if not (ASSETS / "all-MiniLM-L6-v2").is_dir():
        pytest.skip("run scripts/fetch_demo.py first (make test does)")
    recipe = load_recipe(
        ROOT / "recipes/demo-minilm-movie-reviews.yaml",
        [
            f"model.name_or_path={ASSETS / 'all-MiniLM-L6-v2'}",
            f"data.train_file={ASSETS / 'movie-reviews/train.csv'}",
            f"data.test_file={ASSETS / 'movie-reviews/test.csv'}",
            "data.max_train_samples=48",
            "data.max_validation_samples=16",
            "data.max_test_samples=32",
            "training.max_steps=3",
            "training.per_device_train_batch_size=16",
            "pruning.update_every_steps=1",
            "recovery.num_train_epochs=1",
            "export.quantization={}",  # one file: what is chosen among others is tested elsewhere
            "deploy=null",
            "benchmark.repeats=2",
            "benchmark.batch_sizes=[1]",
            "benchmark.sequence_lengths=[32]",
            f"output_dir={tmp_path / 'out'}",
        ],
    )
    results = run(recipe, Console(quiet=True))
    assert results is not None
    assert results["pruning"]["sparsity"] >= recipe.pruning.sparsity
    assert results["benchmark"]["parameters"]["dense"]["encoder"] > 10_000_000
    assert set(results["evaluation"]["models"]) == set(MODELS)


def fake_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A latency table worked by hand: times of a tiny model would be noise."""
    table = LatencyTable(
        batch_size=1,
        sequence_length=16,
        threads=1,
        baseline_ms=10.0,
        fixed_ms=0.4,
        attention=((0, 0.0), (1, 0.4), (4, 1.0)),
        ffn=((0, 0.0), (8, 0.2), (48, 1.0)),
    )
    stages = "hfprune.pipeline.stages"
    monkeypatch.setattr(f"{stages}.latency.latency_table", lambda *args, **kwargs: table)
    monkeypatch.setattr(f"{stages}.latency.calibrated", lambda table, *args: table)

    def land(plan_for: Any, table: LatencyTable, *args: Any) -> Landing:
        plan = plan_for(table)
        return Landing(plan, table, table.speedup(plan.sizes()), table.speedup(plan.sizes()))

    monkeypatch.setattr(f"{stages}.reconstruct.land", land)
    monkeypatch.setattr(f"{stages}.landed.speedup_at", lambda *args, **kwargs: 4.1)


def fake_validation(monkeypatch: pytest.MonkeyPatch, metric: Callable[[str], float]) -> None:
    """The metric of each model by its label; its files are exported as ever."""

    def validate(context: Context, prepared: Prepared, model: Any, label: str) -> Validated:
        exported: Exported = export_stage.export(
            context, prepared, model, f"validation/{label}", label
        )
        return Validated(metric=metric(label), exported=exported)

    monkeypatch.setattr(export_stage, "validate", validate)


def test_a_family_from_one_run(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_times(monkeypatch)
    recipe = load_recipe(
        recipe_file(
            tmp_path,
            inputs,
            pruning={"method": "reconstruction", "speedup": [2.0, 5.0], "search_rounds": 3},
            recovery={"num_train_epochs": 1, "freeze_embeddings": True},
            distillation={"augmentation": 1},
        )
    )
    made: list[Any] = []
    real = TeacherCache.__init__

    def count(self: Any, *args: Any, **kwargs: Any) -> None:
        made.append(self)
        real(self, *args, **kwargs)

    monkeypatch.setattr(TeacherCache, "__init__", count)
    results = run(recipe, Console(quiet=True))
    assert results is not None
    assert len(made) == 1, "the teacher's outputs serve all trials and recoveries"
    family = results["family"]
    assert list(family) == ["2x", "5x"]
    for label, entry in family.items():
        assert entry["predicted_speedup"] >= float(label[:-1]) - 1e-9
    assert family["5x"]["sparsity"] > family["2x"]["sparsity"]
    assert set(family["2x"]["candidates"]) == {"searched", "layers 0, 2"}, "one layer: too fast"
    for kind in ("heads", "neurons"):
        pairs = zip(family["5x"][kind], family["2x"][kind], strict=True)
        assert all(small <= large for small, large in pairs), "each from the one before it"
    for label in family:
        member = json.loads((tmp_path / "out" / label / "metrics.json").read_text())
        assert member["pruning"] == family[label]
        assert tuple(member["evaluation"]["models"]) == MODELS
        model = hfprune.from_pretrained(tmp_path / "out" / label)
        assert sum(model.config.hfprune["heads"]) == sum(family[label]["heads"])
        assert (tmp_path / "out" / label / "onnx" / "model_quantized.onnx").is_file()
        plan = PruningPlan.from_dict(
            json.loads((tmp_path / "out" / label / "plan.json").read_text())
        )
        assert plan.totals() == ((4, 48),) * 3, "from the dense model, not from the one before"
        # A model that lost whole layers and nothing else is published without them.
        layers = model.config.hfprune.get("layers", range(3))
        kept = tuple(plan.sizes()[layer] for layer in layers)
        assert kept == hfprune.families.model_sizes(model)
        candidates = family[label]["candidates"]
        assert "searched" in candidates
        (best,) = [entry for entry in candidates.values() if entry["chosen"]]
        assert best["trial_epochs"] == max(entry["trial_epochs"] for entry in candidates.values())
        assert best["sizes"] == [list(size) for size in plan.sizes()]
        assert best["predicted"] == family[label]["predicted_speedup"]


def test_candidates_that_one_trial_does_not_part_have_a_longer_one(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, int]] = []
    judged: list[list[str]] = []

    def left(rows: dict[str, Any]) -> list[str]:
        asked.append({name: len(values) for name, values in rows.items()})
        return list(rows)[:2]

    def promising(rows: dict[str, Any]) -> tuple[str, bool]:
        judged.append(list(rows))
        return list(rows)[1], False

    monkeypatch.setattr("hfprune.pipeline.candidates.left_to_try", left)
    monkeypatch.setattr("hfprune.pipeline.candidates.most_promising", promising)
    path = recipe_file(
        tmp_path,
        inputs,
        pruning={"method": "reconstruction", "sparsity": 0.5, "search_rounds": 3},
        recovery={"num_train_epochs": 1},
    )
    results = run(load_recipe(path), Console(quiet=True))
    assert results is not None
    candidates = results["pruning"]["candidates"]
    ((rows, *others),) = (set(asked[0].values()),)
    assert not others, "each is judged by the same rows"
    assert rows > 1
    counts = [sum(map(any, candidates[name]["sizes"])) for name in asked[0]]
    assert counts == sorted(counts), "in order of preference: fewer layers first"
    assert set(asked[0]) == set(candidates)
    first, second = list(asked[0])[:2]
    assert judged == [[first, second]]
    tried = {name: entry["trial_epochs"] for name, entry in candidates.items()}
    assert {name for name, epochs in tried.items() if epochs == 1.0} == {first, second}
    assert {epochs for name, epochs in tried.items() if name not in (first, second)} <= {0.5}
    assert [name for name, entry in candidates.items() if entry["chosen"]] == [second]


@pytest.mark.slow
def test_frozen_embeddings_stay_the_teachers(inputs: Path, tmp_path: Path) -> None:
    for freeze in (True, False):
        recipe = load_recipe(
            recipe_file(
                tmp_path,
                inputs,
                teacher={"name_or_path": str(inputs / "model")},
                pruning={"keep_layers": [0, 2]},
                recovery={"num_train_epochs": 1, "freeze_embeddings": freeze},
                output_dir=str(tmp_path / f"out-{freeze}"),
            )
        )
        run(recipe, Console(quiet=True))
        before, after = (
            load_file(place / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
            for place in (inputs / "model", tmp_path / f"out-{freeze}")
        )
        assert torch.equal(before, after) == freeze


def test_one_speed_with_gates(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_times(monkeypatch)
    recipe = load_recipe(
        recipe_file(tmp_path, inputs, pruning={"speedup": 4, "update_every_steps": 3})
    )
    console, noted = Console(quiet=True), list[str]()
    monkeypatch.setattr(console, "note", noted.append)
    times = iter([3.0, 4.2])  # of the first model and, pruned again, of the second
    monkeypatch.setattr(
        "hfprune.pipeline.stages.landed.speedup_at", lambda *args, **kwargs: next(times)
    )
    results = run(recipe, console)
    assert results is not None
    assert results["pruning"]["predicted_speedup"] >= 4 - 1e-9
    (first, second) = (text for text in noted if "as measured" in text)
    assert first == (
        "pruned: 3.00x as measured, 4x wanted; pruned again with times corrected by that"
    )
    assert second == "pruned: 4.20x as measured, 4x wanted"
    sizes = [text for text in noted if text.startswith("heads+neurons by layer")]
    assert len(set(sizes)) == 2, "times that were a third too short ask for a smaller model"
    heads = results["pruning"]["heads"]
    assert sizes[1] == f"heads+neurons by layer: {sizes_of(heads, results)}"


def sizes_of(heads: list[int], results: dict[str, Any]) -> str:
    pairs = zip(heads, results["pruning"]["neurons"], strict=True)
    return " ".join(f"{some}+{others}" for some, others in pairs)


@pytest.mark.parametrize("limit", [0.3, pytest.param(0.9, marks=pytest.mark.slow)])
def test_the_fastest_within_a_drop(
    limit: float, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_times(monkeypatch)
    metric = {"dense": 0.9, "3x": 0.85, "3.9x": 0.7, "5.07x": 0.4}
    fake_validation(monkeypatch, lambda label: metric.get(label, 0.3))
    recipe = load_recipe(
        recipe_file(
            tmp_path,
            inputs,
            recovery={"num_train_epochs": 0},
            pruning={
                "method": "reconstruction",
                "max_metric_drop": limit,
                "search_rounds": 0,
            },
        )
    )
    results = run(recipe, Console(quiet=True))
    assert results is not None
    steps = results["search"]["steps"]
    if limit == 0.3:
        assert [step["speedup"] for step in steps] == [3.0, 3.9, 5.07]
        assert steps[-1]["drop"] == pytest.approx(0.5)
        assert results["pruning"]["predicted_speedup"] >= 3.9 - 1e-9
        assert results["pruning"]["predicted_speedup"] < 5.07
    else:
        assert "the model has no block left to prune" in steps[-1]["stopped"]
        assert sum(results["pruning"]["heads"] + results["pruning"]["neurons"]) == 0


def test_no_speed_within_the_drop_is_an_error(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_times(monkeypatch)
    fake_validation(monkeypatch, lambda label: 0.9 if label == "dense" else 0.5)
    path = recipe_file(
        tmp_path,
        inputs,
        recovery={"num_train_epochs": 0},
        pruning={"method": "reconstruction", "max_metric_drop": 0.01, "search_rounds": 0},
    )
    with pytest.raises(TrainingError, match=r"even at a speed-up of 3 .* falls by 0\.4000, more"):
        run(load_recipe(path), Console(quiet=True))


# -- quantization: auto, and the table of shapes ----------------------------------------------


@pytest.mark.slow
def test_searched_quantization_and_full_table(inputs: Path, tmp_path: Path) -> None:
    recipe = load_recipe(
        recipe_file(
            tmp_path,
            inputs,
            recovery={"num_train_epochs": 0},
            training={"num_train_epochs": 1, "per_device_train_batch_size": 8},
            export={"quantization_seconds": 20, "max_quantization_drop": 0.1},
            deploy=None,
            benchmark={
                "batch_sizes": [1],
                "sequence_lengths": [16],
                "repeats": 2,
                "full_table": True,
            },
        )
    )
    assert recipe.export.quantization == "auto"
    results = run(recipe, Console(quiet=True))
    assert results is not None
    (label,) = results["quantization"]
    record = results["quantization"][label]
    assert label == "pruned"
    assert record["metric"] == "accuracy"
    assert record["candidates"][0]["settings"] == {}, "plain dynamic int8 comes first"
    assert [c["settings"] for c in record["candidates"] if c["refused"] is None] == [
        record["chosen"]
    ]
    chosen = next(c for c in record["candidates"] if c["refused"] is None)
    file = tmp_path / "out" / "onnx" / "model_quantized.onnx"
    assert chosen["file_bytes"] == file.stat().st_size
    assert results["benchmark"]["file_bytes"]["pruned int8"] == file.stat().st_size
    shown = quantization_table(label, QuantizationRecord.model_validate(record))
    assert shown.row_count == len(record["candidates"])

    rows = results["benchmark"]["full_table"]
    assert {row["name"] for row in rows} == {n for n in MODELS if "PyTorch" not in n}
    # The tiny model has 66 positions.
    shapes = {(row["batch_size"], row["sequence_length"]) for row in rows}
    assert shapes == {(b, n) for b in (1, 8, 32) for n in (16, 32, 64)}
    assert 1 in {row["threads"] for row in rows}
    assert all(row["speedup"] == 1 for row in rows if row["name"] == "dense ONNX")


# -- deploy: files of all runtimes ----------------------------------------------------------------


@pytest.mark.parametrize("cpu", ["here", pytest.param("vnni", marks=pytest.mark.slow)])
def test_files_are_chosen_among_runtimes(cpu: str, inputs: Path, tmp_path: Path) -> None:
    from hfprune.core.results import read_results
    from hfprune.deploy.choose.record import read_deployment
    from hfprune.deploy.runtimes.registry import runtime

    deploy: dict[str, Any] = {"cpu": cpu} if cpu != "here" else {"seconds": 10.0, "keep_all": True}
    recipe = load_recipe(
        recipe_file(
            tmp_path,
            inputs,
            teacher={"name_or_path": str(inputs / "model")},
            pruning={"keep_layers": [0, 2]},
            recovery={"num_train_epochs": 0},
            export={"quantization": "auto", "max_quantization_drop": 0.5},
            deploy=deploy,
        )
    )
    results = run(recipe, Console(quiet=True))
    assert results is not None
    output = tmp_path / "out"
    record = read_deployment(output)  # refuses a file that is not there
    assert record.measured is (cpu == "here")
    assert set(record.uses) == {"single", "batches"}
    assert set(results["deployment"]) == {"dense", "pruned"}, "the dense one gets the same"
    assert results["deployment"]["pruned"] == json.loads((output / "deploy.json").read_text())
    chosen = record.uses["single"]
    found = read_results(output)
    ref = found.served("pruned")
    assert (ref.runtime, ref.precision) == (chosen.runtime, chosen.precision)
    assert str(ref) in results["evaluation"]["models"], "what is recommended is evaluated"
    assert str(ref) in {row["name"] for row in results["benchmark"]["rows"]}
    for use in record.uses.values():
        session = runtime(use.runtime).open(output / use.path, 1, use.precision)
        batch = {
            "input_ids": np.array([[2, 5, 3]]),
            "attention_mask": np.ones((1, 3), dtype=np.int64),
        }
        with torch.no_grad():
            want = hfprune.from_pretrained(output)(
                **{name: torch.tensor(value) for name, value in batch.items()}
            ).logits
        np.testing.assert_allclose(session.logits(batch), want, atol=0.1)
    if cpu == "here":
        timed = [f for f in record.files if f.path]
        fastest = {use: min(f.ms for f in timed if f.use == use) for use in record.uses}
        assert all(fastest[use] > 0 for use in record.uses)
        assert any(c.runtime == "openvino" for c in record.candidates)


def test_traffic_without_a_choice_of_files_is_refused(inputs: Path, tmp_path: Path) -> None:
    from hfprune.core.errors import RecipeError

    path = recipe_file(tmp_path, inputs)
    with pytest.raises(RecipeError, match="benchmark.traffic is only used where files are chosen"):
        load_recipe(path, ["benchmark.traffic=single"])
    recipe = load_recipe(path, ["benchmark.traffic=single", "deploy={}"])
    assert recipe.benchmark.uses == ("single",)
