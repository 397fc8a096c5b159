"""Results and details: what any version wrote is read, what is broken is named, nothing is lost."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from first_results import first_format

from hfprune.core.details import Details, read_details
from hfprune.core.errors import OutputError
from hfprune.core.model_ref import ModelRef
from hfprune.core.results import RunResults, parse_results, read_json, read_results


def written(folder: Path, values: Any, name: str = "metrics.json") -> Path:
    (folder / name).write_text(json.dumps(values))
    return folder


def changed(path: str, value: Any) -> dict[str, Any]:
    """The first format with another value at a dotted path; ``...`` removes it."""
    values = first_format()
    place: Any = values
    *above, last = path.split(".")
    for part in above:
        place = place[int(part) if isinstance(place, list) else part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return values


# --- older, newer, poorer files ---------------------------------------------------------------


def test_the_first_format(tmp_path: Path) -> None:
    values = first_format()
    results = read_results(written(tmp_path, values))
    assert results.to_json() == values, "what was never there does not appear"
    assert list(results.to_json()["evaluation"]["models"]) == list(values["evaluation"]["models"])
    assert (results.primary, results.seed, results.labels) == ("accuracy", 13, values["labels"])
    assert {label: kept.heads for label, kept in results.members.items()} == {"pruned": [4, 0]}
    assert [str(ref) for ref in results.refs()] == list(values["evaluation"]["models"])
    assert str(results.served("pruned")) == "pruned int8"
    assert str(results.served("dense")) == "dense int8"
    dense = results.quality(ModelRef("dense", "PyTorch"))
    assert dense.metrics == {"accuracy": 0.875, "f1_macro": 0.75}
    assert dense.interval == (0.8125, 0.9375)
    assert (dense.by_class, dense.changes) == (None, None)
    assert results.benchmark.shapes() == [(1, 32), (8, 128)]
    assert results.benchmark.times()["pruned int8", (8, 128)].median_ms == 50.0 - 5 + 128
    assert results.benchmark.length_unit == "tokens"
    assert (results.sources, results.search, results.quantization) == ({}, None, None)
    assert results.member_results("pruned") is results


def test_what_later_versions_add_is_kept(tmp_path: Path) -> None:
    values = first_format()
    values["energy"] = {"joules": 3.5}
    values["evaluation"]["calibration"] = [0.25, 0.5]
    values["evaluation"]["models"]["pruned int8"]["ece"] = 0.125
    values["benchmark"]["rows"][0]["p99_ms"] = 60.25
    values["pruning"]["width"] = 312
    results = read_results(written(tmp_path, values))
    assert results.to_json() == values
    assert RunResults.model_validate(results.to_json()) == results
    assert results.evaluation.models["pruned int8"].model_extra == {"ece": 0.125}


@pytest.mark.parametrize(
    "path",
    [
        "task", "labels", "data", "seed", "processes", "seconds", "environment",
        "benchmark.baseline", "benchmark.parameters", "benchmark.macs",
        "benchmark.rows.0.p95_ms", "benchmark.rows.0.throughput",
        "benchmark.rows.0.speedup_interval", "evaluation.models.pruned int8.difference",
    ],
)  # fmt: skip
def test_what_is_optional_may_be_missing(path: str, tmp_path: Path) -> None:
    values = changed(path, ...)
    assert read_results(written(tmp_path, values)).to_json() == values


def test_records_of_searches(tmp_path: Path) -> None:
    values = first_format()
    candidate = {
        "settings": {}, "ms": {"1x32": 1.5}, "speedup": 1.0, "metric": 0.75, "drop": 0.125,
        "agreement": 0.9375, "file_bytes": 10_000_000, "refused": "slower",
    }  # fmt: skip
    failed = dict.fromkeys(candidate) | {"settings": {"graph": "lean"}, "ms": {}, "refused": "no"}
    values["quantization"] = {
        "pruned": {
            "metric": "accuracy", "chosen": {"per_channel": True}, "within": False,
            "float_metric": 0.875, "not_tried": 2, "seconds": 11.5,
            "candidates": [failed, candidate | {"ms": {"8x128": 4.0, "1x32": 2.0}}],
        }
    }  # fmt: skip
    values["search"] = {
        "dense": 0.875, "limit": 0.01, "chosen": "3x",
        "steps": [
            {"speedup": 3.0, "metric": 0.875, "drop": 0.0},
            {"speedup": 3.9, "stopped": "too fast"},
        ],
    }  # fmt: skip
    values["pruning"]["candidates"] = {
        "searched": {"sizes": [[4, 395], [0, 1]], "chosen": True, "divergence": 0.5},
        "5 layers": {"predicted": 3.5, "measured": 3.25, "sizes": [[1, 2]], "chosen": False},
    }
    results = read_results(written(tmp_path, values))
    assert results.to_json() == values
    assert results.quantization is not None
    record = results.quantization["pruned"]
    assert record.shapes() == ["8x128", "1x32"]
    assert record.candidates[0].speedup is None
    assert results.search is not None
    assert [step.label for step in results.search.steps] == ["3x", "3.9x"]
    assert results.search.steps[1].metric is None
    candidates = results.members["pruned"].candidates
    assert candidates is not None
    assert candidates["searched"].sizes == [(4, 395), (0, 1)]
    assert candidates["5 layers"].divergence is None


# --- what is broken ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("evaluation", ..., "KeyError: 'evaluation'"),
        ("benchmark.rows", ..., "KeyError: 'benchmark.rows'"),
        ("evaluation.models.dense ONNX.interval", ...,
         "KeyError: 'evaluation.models.dense ONNX.interval'"),
        ("pruning.sparsity", ..., "KeyError: 'pruning.sparsity'"),
        ("evaluation.samples", "many", "'evaluation.samples': Input should be a valid integer, "
         "unable to parse string as an integer, got 'many'"),
        ("pruning.heads", {}, "'pruning.heads': Input should be a valid list, got {}"),
        ("benchmark.rows.0.speedup", None,
         "'benchmark.rows.0.speedup': Input should be a valid number, got None"),
        ("pruning", ..., "Value error, neither pruning (of one model) nor family (of several) is "
         "there"),
    ],
)  # fmt: skip
def test_broken_parts_are_named(path: str, value: Any, problem: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught:
        read_results(written(tmp_path, changed(path, value)), "a report")
    assert str(caught.value) == (
        f"{tmp_path}/metrics.json lacks something that a report needs ({problem}); was it edited?"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "{0} holds no metrics.json: give the output_dir of a finished run"),
        ("{", "{0}/metrics.json cannot be read: Expecting property name enclosed in double quotes"),
        ("[" * 100_000, "{0}/metrics.json cannot be read: "),
        (b"\xff", "{0}/metrics.json cannot be read: 'utf-8' codec can't decode byte 0xff"),
        ("[1]", "{0}/metrics.json: format_version must be 1, got None; give the output_dir of a "
         "finished run of this version of hfprune"),
        ('{"format_version": 2}', "{0}/metrics.json: format_version must be 1, got 2; give the"),
        ('{"format_version": "' + "9" * 999 + '"}', "{0}/metrics.json: format_version must be 1, "
         "got '" + "9" * 39 + "; give the output_dir"),
        ('{"format_version": 1}', "{0}/metrics.json lacks something that hfprune needs (KeyError: "
         "'evaluation'); was it edited?"),
    ],
)  # fmt: skip
def test_what_is_no_file_of_results(text: str | bytes | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / "metrics.json").write_bytes(data)
    with pytest.raises(OutputError) as caught:
        read_results(tmp_path)
    assert str(caught.value).startswith(message.replace("{0}", str(tmp_path)))
    assert len(str(caught.value)) < len(str(tmp_path)) + 250


def test_names_and_forms_that_are_not_there() -> None:
    results = RunResults.model_validate(first_format())
    with pytest.raises(KeyError, match="pruned OpenVINO"):
        results.quality(ModelRef("pruned", "OpenVINO"))
    with pytest.raises(OutputError, match="hold no model that could serve as '6x': of dense PyT"):
        results.served("6x")
    values = first_format()
    models = values["evaluation"]["models"]
    models["pruned 8bit"] = models.pop("pruned int8")
    broken = parse_results(values, Path("metrics.json"))
    with pytest.raises(OutputError, match="'pruned 8bit' is no name of a model: expected a label"):
        list(broken.refs())


def test_without_int8_the_float_file_is_served() -> None:
    values = first_format()
    del values["evaluation"]["models"]["pruned int8"]
    assert str(RunResults.model_validate(values).served("pruned")) == "pruned ONNX"
    del values["evaluation"]["models"]["pruned ONNX"]
    with pytest.raises(OutputError, match="none is its ONNX form; was metrics.json edited"):
        RunResults.model_validate(values).served("pruned")


def test_results_cannot_be_changed_by_accident() -> None:
    results = RunResults.model_validate(first_format())
    with pytest.raises(ValueError, match="frozen"):
        results.seed = 1


# --- families ---------------------------------------------------------------------------------

KEPT = {"sparsity": 0.5, "heads": [1], "neurons": [2], "of_heads": [2], "of_neurons": [4]}


def quality(value: float) -> dict[str, Any]:
    return {"metrics": {"accuracy": value}, "interval": [value - 0.25, value + 0.25]}


def row(name: str, ms: float) -> dict[str, Any]:
    shape = {"batch_size": 1, "sequence_length": 32}
    return {"name": name, **shape, "median_ms": ms, "speedup": 8 / ms}


def fact(name: str, ms: float) -> dict[str, Any]:
    return row(name, ms) | {"threads": 4}


def family() -> dict[str, Any]:
    return {
        "format_version": 1,
        "recipe_sha256": "abc",
        "seed": 7,
        "quantization": {"12x": record("12x"), "4x": record("4x")},
        "family": {"4x": KEPT, "12x": KEPT | {"sparsity": 0.75, "heads": [0]}},
        "evaluation": {
            "primary": "accuracy", "confidence": 0.9, "samples": 8,
            "models": {
                "dense ONNX": quality(0.75), "4x ONNX": quality(0.625), "4x int8": quality(0.5),
                "12x ONNX": quality(0.375), "12x int8": quality(0.25),
            },
        },
        "benchmark": {
            "threads": 1, "repeats": 3, "baseline": "dense ONNX",
            "rows": [row("dense ONNX", 8.0), row("4x int8", 2.0), row("12x int8", 1.0)],
            "full_table": [fact("dense ONNX", 8.0), fact("4x ONNX", 4.0), fact("12x ONNX", 3.0)],
            "file_bytes": {"dense ONNX": 80, "4x int8": 20, "12x int8": 10},
            "parameters": {"dense": {"total": 9}, "4x": {"total": 4}, "12x": {"total": 2}},
            "macs": {"dense": {"32": 90}, "4x": {"32": 40}, "12x": {"32": 20}},
        },
    }  # fmt: skip


def record(label: str) -> dict[str, Any]:
    return {
        "metric": "accuracy", "chosen": {"of": label}, "within": True, "float_metric": 0.5,
        "not_tried": 0, "seconds": 1.0, "candidates": [],
    }  # fmt: skip


def test_one_of_a_family_as_if_it_had_been_the_only_one(tmp_path: Path) -> None:
    whole = RunResults.model_validate(family())
    assert list(whole.members) == ["4x", "12x"]
    assert str(whole.served("12x")) == "12x int8"
    found = whole.member_results("12x").to_json()
    assert found == {
        "format_version": 1,
        "recipe_sha256": "abc",
        "seed": 7,
        "member": "12x",
        "quantization": {"pruned": record("12x")},
        "pruning": KEPT | {"sparsity": 0.75, "heads": [0]},
        "evaluation": {
            "primary": "accuracy", "confidence": 0.9, "samples": 8,
            "models": {
                "dense ONNX": quality(0.75), "pruned ONNX": quality(0.375),
                "pruned int8": quality(0.25),
            },
        },
        "benchmark": {
            "threads": 1, "repeats": 3, "baseline": "dense ONNX",
            "rows": [row("dense ONNX", 8.0), row("pruned int8", 1.0)],
            "full_table": [fact("dense ONNX", 8.0), fact("pruned ONNX", 3.0)],
            "file_bytes": {"dense ONNX": 80, "pruned int8": 10},
            "parameters": {"dense": {"total": 9}, "pruned": {"total": 2}},
            "macs": {"dense": {"32": 90}, "pruned": {"32": 20}},
        },
    }  # fmt: skip
    assert whole.to_json() == family(), "the whole stays as it is"
    again = read_results(written(tmp_path, found))
    assert again == whole.member_results("12x")
    assert list(again.members) == ["pruned"]


def test_a_member_of_a_poorer_family() -> None:
    values = copy.deepcopy(family())
    for part in ("full_table", "parameters", "macs"):
        del values["benchmark"][part]
    del values["quantization"]
    found = RunResults.model_validate(values).member_results("4x")
    assert (found.quantization, found.benchmark.full_table) == (None, None)
    assert (found.benchmark.parameters, found.benchmark.macs) == ({}, {})
    assert [str(ref) for ref in found.refs()] == ["dense ONNX", "pruned ONNX", "pruned int8"]


def test_a_label_that_begins_as_another_is_another() -> None:
    values = family()
    values["family"] = {"2x": KEPT, "12x": KEPT}
    values["evaluation"]["models"]["2x int8"] = quality(0.125)
    found = RunResults.model_validate(values).member_results("2x")
    assert [str(ref) for ref in found.refs()] == ["dense ONNX", "pruned int8"]
    assert found.evaluation.models["pruned int8"].metrics == {"accuracy": 0.125}


# --- details ----------------------------------------------------------------------------------


def test_details_of_one_of_a_family(tmp_path: Path) -> None:
    log = [{"epoch": 1.0, "loss": 0.5}]
    whole = {
        "format_version": 1,
        "training": [
            {"model": "dense", "stage": "teacher", "log": log},
            {"model": "4x", "stage": "prune", "log": []},
            {"model": "12x", "stage": "prune", "log": log},
        ],
        "changed": {"4x int8": [{"row": 1}], "12x int8": [{"row": 2}, {"row": 3}]},
    }
    details = read_details(written(tmp_path, whole, "details.json"))
    assert details.to_json() == whole
    assert details.member_details("12x").to_json() == {
        "format_version": 1,
        "training": [
            {"model": "dense", "stage": "teacher", "log": log},
            {"model": "pruned", "stage": "prune", "log": log},
        ],
        "changed": {"pruned int8": [{"row": 2}, {"row": 3}]},
    }
    assert details.to_json() == whole


def test_details_that_are_not_there_or_broken(tmp_path: Path) -> None:
    assert read_details(tmp_path) == Details()
    assert Details().to_json() == {"format_version": 1, "training": [], "changed": {}}
    written(tmp_path, {"training": [{"model": "dense", "log": []}]}, "details.json")
    with pytest.raises(OutputError) as caught:
        read_details(tmp_path, "a report")
    assert str(caught.value) == (
        f"{tmp_path}/details.json lacks something that a report needs (KeyError: "
        "'training.0.stage'); was it edited?"
    )
    written(tmp_path, [], "details.json")
    with pytest.raises(OutputError, match="Input should be a valid dictionary or instance of Det"):
        read_details(tmp_path)


def test_read_json_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot be read: \[Errno 21\] Is a directory"):
        read_json(tmp_path)
