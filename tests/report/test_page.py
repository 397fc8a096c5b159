"""What the page shows, as data: by hand from small results, old and edited ones included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from first_results import first_format

from hfprune.core.details import Details
from hfprune.core.errors import OutputError
from hfprune.core.results import RunResults
from hfprune.report.curves import colour_of, pareto, schedules
from hfprune.report.html import render, write_report
from hfprune.report.page import ChangedRow, Page, Said, told

RECIPE = {"model": {"name_or_path": "org/m"}, "data": {"name": "org/d"}, "output_dir": "runs/a"}


def page(values: dict[str, Any] | None = None, **details: Any) -> Page:
    results = RunResults.model_validate(values or first_format())
    return Page("a-run", results, Details.model_validate(details), None)


def family(*labels: str) -> dict[str, Any]:
    """The first format with models of these labels instead of one."""
    values = first_format()
    kept = values.pop("pruning")
    values["family"] = {label: kept for label in labels}
    models, timing = values["evaluation"]["models"], values["benchmark"]
    for form in ("PyTorch", "ONNX", "int8"):
        entry, old = models.pop(f"pruned {form}"), f"pruned {form}"
        rows = [row for row in timing["rows"] if row["name"] == old]
        timing["rows"] = [row for row in timing["rows"] if row["name"] != old]
        size = timing["file_bytes"].pop(old)
        for label in labels:
            models[f"{label} {form}"] = entry
            timing["file_bytes"][f"{label} {form}"] = size
            timing["rows"] += [{**row, "name": f"{label} {form}"} for row in rows]
    return values


def test_before_and_after_of_the_first_format() -> None:
    (entry,) = page().headlines()
    assert entry.name == "pruned int8"
    assert (entry.before, entry.after) == (0.875, 0.875 - 5 / 16)
    assert entry.before_interval == (0.8125, 0.9375)
    assert entry.interval == (0.8125 - 5 / 16, 0.9375 - 5 / 16)
    assert entry.difference == (-5 / 16, -5 / 16 - 0.25, -5 / 16 + 0.25)
    assert (entry.ms, entry.base_ms) == (50 - 5 + 32, 50 - 1 + 32), "of the first shape"
    assert (entry.speedup, entry.speedup_interval) == (6.0, (5.5, 6.5))
    assert (entry.bytes, entry.base_bytes) == (65_000_000, 85_000_000)
    assert entry.sparsity == 0.85
    assert entry.parameters == {"total": 13_700_000, "encoder": 1_750_000}
    assert entry.base_parameters == {"total": 22_700_000, "encoder": 10_800_000}
    assert entry.changes is None


def test_the_table_has_every_model_at_every_shape() -> None:
    rows = list(page().table())
    assert [row.name for row in rows] == [
        f"{label} {form}" for label in ("dense", "pruned") for form in ("PyTorch", "ONNX", "int8")
    ]
    assert [row.colour for row in rows] == [0, 0, 0, 1, 1, 1]
    assert [time.median_ms for time in rows[3].times] == [50 - 3 + 32, 50 - 3 + 128]
    assert page().metrics == ["accuracy", "f1_macro"]
    assert list(page().by_class()) == []
    assert page().candidates() == {}


def test_colours_go_round() -> None:
    labels = [f"{speed}x" for speed in range(2, 9)]
    results = RunResults.model_validate(family(*labels))
    assert [colour_of(results, label) for label in labels] == [1, 2, 3, 4, 5, 1, 2]
    assert colour_of(results, "dense") == colour_of(results, "9x") == 0
    assert [entry.name for entry in page(family("2x", "3x")).headlines()] == ["2x int8", "3x int8"]


def test_quality_against_time() -> None:
    values = first_format()
    values["benchmark"]["length_unit"] = "pixels"
    charts = pareto(RunResults.model_validate(values))
    assert [chart.title for chart in charts] == ["batch 1, 32 pixels", "batch 8, 128 pixels"]
    assert charts[0].y_name == "accuracy"
    assert [(p.name, p.x, p.y, p.shape, p.colour) for p in charts[0].points][:2] == [
        ("dense PyTorch", 82.0, 0.875, "circle", 0),
        ("dense ONNX", 81.0, 0.8125, "square", 0),
    ]
    assert charts[0].points[5].shape == "diamond"
    assert [p.name for p in charts[0].front] == [p.name for p in reversed(charts[0].points)]
    values["evaluation"]["primary"] = "mse"
    for entry in values["evaluation"]["models"].values():
        entry["metrics"]["mse"] = entry["metrics"]["accuracy"]
    (best,) = pareto(RunResults.model_validate(values))[0].front
    assert best.name == "pruned int8", "the fastest has the smallest error"


def test_training_in_stages() -> None:
    log = [
        {"epoch": 0.5, "loss": 0.75, "pruning/sparsity": 0.25},
        {"epoch": 2.0, "eval_loss": 0.5, "eval_accuracy": 0.875, "pruning/sparsity": 0.5},
        {"train_runtime": 3.0},
    ]
    training = [
        {"model": "pruned", "stage": "prune", "log": log},
        {"model": "dense", "stage": "teacher", "log": []},
        {"model": "pruned", "stage": "recover", "log": [{"epoch": 1.0, "eval_accuracy": 0.9}]},
    ]
    shown = page(training=training)
    ((label, charts),) = schedules(shown.results, shown.details)
    assert label == "pruned", "a model without numbers has no charts"
    removed, loss, metric = charts
    assert [chart.title for chart in charts] == [
        "encoder weights removed", "loss", "accuracy, validation",
    ]  # fmt: skip
    assert [chart.percent for chart in charts] == [True, False, False]
    assert {chart.until for chart in charts} == {3.0}, "two epochs, then one"
    assert removed.marks == ((0.0, "pruning"), (2.0, "recovery"))
    (line,) = removed.lines
    assert line.points == ((0.0, 0.0), (0.5, 0.25), (2.0, 0.5), (3.0, 0.5))
    assert line.steps
    assert [(line.name, line.points, line.faint) for line in loss.lines] == [
        ("training", ((0.5, 0.75),), True),
        ("validation", ((2.0, 0.5),), False),
    ]
    assert metric.lines[0].points == ((2.0, 0.875), (3.0, 0.9))
    assert metric.lines[0].colour == 1


def test_scores_by_class() -> None:
    values = first_format()
    models = values["evaluation"]["models"]
    for i, entry in enumerate(models.values()):
        classes = [{"label": "no", "f1": 0.5 + i / 16}, {"label": "yes", "f1": 0.25 + i / 16}]
        entry["by_class"] = {"classes": classes, "confusion": [[i, 1], [2, 3]]}
    (part,) = page(values).by_class()
    assert (part.name, part.label, part.labels) == ("pruned int8", "pruned", ["no", "yes"])
    assert [(a["f1"], b["f1"]) for a, b in part.rows] == [(0.5, 0.8125), (0.25, 0.5625)]
    assert part.confusion == {
        "dense PyTorch": [[0, 1], [2, 3]],
        "pruned int8": [[5, 1], [2, 3]],
    }
    models["pruned int8"]["by_class"]["confusion"] = None
    assert next(page(values).by_class()).confusion is None
    del models["pruned int8"]["by_class"]
    assert list(page(values).by_class()) == []


def test_rows_that_changed() -> None:
    row = {"row": 3, "text": "a film", "label": "yes", "before": "no", "after": "yes"}
    changed = {"pruned int8": [row], "pruned ONNX": [row], "6x int8": [row]}
    values = first_format()
    summary = {"rows": 120, "changed": 1, "fixed": 1, "broken": 0}
    values["evaluation"]["models"]["pruned int8"]["changes"] = summary
    (part,) = page(values, changed=changed).changed()
    assert (part.name, part.summary) == ("pruned int8", summary), "others were not compared"
    said = Said(None, "yes", "no", "yes")
    assert part.rows == [ChangedRow(3, "a film", None, "fixed", [said])]


@pytest.mark.parametrize(
    ("label", "before", "after", "kind"),
    [
        ("yes", "no", "yes", "fixed"),
        ("yes", "yes", "no", "broken"),
        ("yes", "no", "maybe", "other"),
        (["a", "b"], ["a", "b"], [], "broken"),
        (1.5, 1.5, 1.25, None),
    ],
)
def test_kinds_of_changes(label: Any, before: Any, after: Any, kind: str | None) -> None:
    assert told({"row": 1, "label": label, "before": before, "after": after}).kind == kind


def test_numbers_lists_and_words_in_words() -> None:
    found = told({"row": 1, "label": [], "before": 0.123456, "after": ["a", "b"],
                  "confidence": [0.5, 0.75]})  # fmt: skip
    assert found.said == [Said(None, "none", "0.1235", "a, b", [0.5, 0.75])]
    word = {"label": "B", "before": "O", "after": "B"}
    found = told({"row": 2, "text": ["in", "Rome"], "words": [{"word": 1, **word},
                                                              {"word": 9, **word}]})  # fmt: skip
    assert found.text == "in Rome"
    assert [said.of for said in found.said] == ["Rome", "word 9"]


# --- from a folder ----------------------------------------------------------------------------


def written(folder: Path, values: Any, recipe: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(values))
    if recipe:
        (folder / "recipe.yaml").write_text(json.dumps(RECIPE | {"pruning": {"sparsity": 0.5}}))
    return folder


def test_the_name_is_that_of_the_recipe_or_of_the_folder(tmp_path: Path) -> None:
    values = first_format()
    assert Page.read(written(tmp_path / "here", values)).name == "here"
    assert Page.read(written(tmp_path / "here", values, recipe=True)).name == "a"
    member = Page.read(written(tmp_path / "here", values | {"member": "6x"}))
    assert member.name == "a, 6x"
    assert member.recipe is not None
    assert "name_or_path: org/m" not in member.recipe, "sources do not say that it is public"


def test_the_report_of_the_first_format(tmp_path: Path) -> None:
    html = render(written(tmp_path / "run", first_format()))
    assert "<h1>run</h1>" in html
    assert html.count("<section") == 7, "verdict, use, headline, models, pareto, layers, origin"
    assert "Some CPU, 2 threads" in html


def test_an_environment_that_says_less(tmp_path: Path) -> None:
    html = render(written(tmp_path / "run", first_format() | {"environment": {"python": "3.11"}}))
    assert "one seed (13)</p>" in html
    assert "<dt>python</dt><dd>3.11</dd>" in html
    assert "<dt>libraries</dt>" not in html


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda v: v["benchmark"]["file_bytes"].pop("pruned int8"), "KeyError: 'pruned int8'"),
        (lambda v: v["benchmark"].update(rows=[]), "IndexError: list index out of range"),
        (lambda v: v["evaluation"]["models"].pop("dense PyTorch"), "KeyError: 'dense PyTorch'"),
        (lambda v: v["evaluation"].update(primary="mcc"), "KeyError: 'mcc'"),
    ],
)
def test_numbers_that_are_gone(damage: Any, message: str, tmp_path: Path) -> None:
    values = first_format()
    damage(values)
    with pytest.raises(OutputError) as caught:
        write_report(written(tmp_path, values))
    assert str(caught.value) == (
        f"{tmp_path}/metrics.json lacks something that a report needs ({message}); was it edited?"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_a_recipe_that_cannot_be_read(tmp_path: Path) -> None:
    written(tmp_path, first_format())
    (tmp_path / "recipe.yaml").write_text("{}")
    with pytest.raises(OutputError, match="^the recipe of the run cannot be read: "):
        Page.read(tmp_path)
