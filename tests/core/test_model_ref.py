"""Names of models: what they mean, what is none, and that nothing else takes them apart."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hfprune.core.errors import OutputError
from hfprune.core.model_ref import BASELINE, FORMS, REFERENCE, ModelRef

ROOT = Path(__file__).parents[2]
# Ways to take "6x int8" apart, or to look at a part of it.
BY_HAND = re.compile(
    r"""r?partition\(["'] ["']\)|rsplit\(["'] ["']|"""
    rf"""(?:ends|starts)with\(f?["'](?: (?:{"|".join(FORMS)})|\{{?(?:DENSE|dense))"""
)


@pytest.mark.parametrize(
    ("name", "label", "meaning"),
    [
        ("dense PyTorch", "dense", ("pytorch", "float32", "torch")),
        ("pruned ONNX", "pruned", ("onnx", "float32", "onnxruntime")),
        ("3.9x int8", "3.9x", ("onnx", "int8", "onnxruntime")),
        ("6x OpenVINO", "6x", ("openvino", "float32", "openvino")),
        ("6x OpenVINO-bf16", "6x", ("openvino", "bf16", "openvino")),
    ],
)
def test_a_name_there_and_back(name: str, label: str, meaning: tuple[str, ...]) -> None:
    ref = ModelRef.parse(name)
    assert (ref.label, ref.form) == (label, name.split()[1])
    assert (ref.format, ref.precision, ref.runtime) == meaning
    assert ref.is_dense is (label == "dense")
    assert str(ref) == name
    assert str(ref.of("other")) == name.replace(label, "other")


def test_every_form_has_a_name_of_its_own() -> None:
    names = {str(ModelRef("pruned", form)) for form in FORMS}
    assert len(names) == len(FORMS) == len(set(FORMS.values()))
    assert {ModelRef.parse(name).form for name in names} == set(FORMS)
    assert not any(" " in form for form in FORMS), "or a name could be read in two ways"


def test_what_others_are_compared_with() -> None:
    assert str(BASELINE) == "dense ONNX"
    assert str(REFERENCE) == "dense PyTorch"


@pytest.mark.parametrize(
    "name", ["", "dense", " int8", "dense  int8", "dense INT8", "a model int8", "dense int8 "]
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(OutputError) as caught:
        ModelRef.parse(name)
    assert str(caught.value) == (
        f"{name!r} is no name of a model: expected a label and one of PyTorch, PyTorch-bf16, "
        "ONNX, ONNX-lean, int8, OpenVINO, OpenVINO-bf16, for example 'dense ONNX'"
    )


def test_a_long_name_is_not_quoted_whole() -> None:
    with pytest.raises(OutputError) as caught:
        ModelRef.parse("x" * 10_000)
    assert len(str(caught.value)) < 300


def test_nothing_else_takes_names_apart() -> None:
    sources = [*(ROOT / "hfprune").rglob("*.py"), *(ROOT / "hfprune").rglob("*.jinja")]
    sources.append(ROOT / "scripts" / "benchmark_methods.py")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sources
        if path.name != "model_ref.py"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if BY_HAND.search(line)
    ]
    assert not found, "use ModelRef:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        'label, _, kind = name.rpartition(" ")',
        "owner = name.partition(' ')[0]",
        'place = places[name.rsplit(" ", 1)[0]]',
        'if name.endswith(" int8"):',
        'elif not name.startswith(f"{DENSE} "):',
    ],
)
def test_how_names_were_taken_apart_is_noticed(line: str) -> None:
    assert BY_HAND.search(line)
