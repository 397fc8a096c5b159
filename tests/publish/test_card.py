"""The card of results of other versions, and of results that were edited."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from first_results import first_format
from huggingface_hub import ModelCard

from hfprune.core.errors import HubError, RecipeError
from hfprune.publish.card import model_card
from hfprune.publish.finished import RECORD_KEY, read
from hfprune.recipe.reading import dump_recipe
from hfprune.recipe.sections.whole import Recipe


def finished(folder: Path, values: dict[str, Any]) -> Path:
    recipe = Recipe(
        model={"name_or_path": "org/base"}, data={"train_file": "rows.csv"},
        pruning={"sparsity": 0.85}, output_dir="runs/a-run",
    )  # fmt: skip
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    (folder / "metrics.json").write_text(json.dumps(values))
    (folder / "config.json").write_text(json.dumps({RECORD_KEY: {}}))
    return folder


def test_the_card_of_the_first_format(tmp_path: Path) -> None:
    folder = finished(tmp_path, first_format())
    assert read(folder).results.seed == 13
    text = ModelCard(model_card(folder)).text
    for line in (
        "- **accuracy**: 0.5625 (0.500 to 0.625) as int8; before pruning 0.8750 (0.812 to 0.938). "
        "Change -0.3125 (-0.5625 to -0.0625). 120 test texts, 95% intervals.",
        "- **speed** over the dense ONNX model, 2 threads: 6.0x (5.5 to 6.5) at batch 1 x 32 "
        "tokens; 6.0x (5.5 to 6.5) at batch 8 x 128 tokens.",
        "| dense ONNX | 0.8125 | 0.750 to 0.875 | 0.6875 | 85.0 | 81.00 ms, 2.0x | 177.00 ms, "
        "2.0x |",
    ):
        assert line in text.splitlines(), line
    assert "It was made from a local model with hfprune" in text, "it does not say where from"


def test_probabilities_and_layout_stand_in_the_card(tmp_path: Path) -> None:
    values = first_format()
    values["pruning"] |= {"layout": "uneven", "stock": False, "temperature": None}
    for i, entry in enumerate(values["evaluation"]["models"].values()):
        entry["probabilities"] = {"ece": 0.0625 - i / 128, "brier": 0.25 + i / 64}
    lines = ModelCard(model_card(finished(tmp_path, values))).text.splitlines()
    assert (
        "- **probabilities**: Probabilities are off by 2.3 points on average: expected calibration "
        "error 0.0234 (dense 0.0625), Brier score 0.3281 (dense 0.2500); less is better."
    ) in lines
    assert (
        "Layers have sizes of their own (pruning.layout: uneven); hfprune.from_pretrained loads "
        "the model, its ONNX files need no hfprune."
    ) in lines


def test_without_intervals_of_differences_and_speeds(tmp_path: Path) -> None:
    values = first_format()
    del values["evaluation"]["models"]["pruned int8"]["difference"]
    for row in values["benchmark"]["rows"]:
        del row["speedup_interval"]
    text = model_card(finished(tmp_path, values))
    assert "before pruning 0.8750 (0.812 to 0.938). 120 test texts" in text
    assert ": 6.0x at batch 1 x 32 tokens; 6.0x at batch 8 x 128 tokens." in text


def only(form: str) -> dict[str, Any]:
    """Results whose pruned model was evaluated in one form alone."""
    values = first_format()
    models = values["evaluation"]["models"]
    values["evaluation"]["models"] = {
        name: entry for name, entry in models.items() if name in ("dense PyTorch", f"pruned {form}")
    }
    return values


def test_metadata_has_the_forms_that_were_evaluated(tmp_path: Path) -> None:
    data = ModelCard(model_card(finished(tmp_path, only("ONNX")))).data.to_dict()
    assert data["model-index"] == [{"name": "a-run", "results": []}]
    data = ModelCard(model_card(finished(tmp_path, only("int8")))).data.to_dict()
    (result,) = data["model-index"][0]["results"]
    assert [metric["name"] for metric in result["metrics"]] == [
        "Accuracy, int8", "F1 (macro), int8",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (only("PyTorch"), ": the results hold no model that could serve as 'pruned': of dense "
         "PyTorch, pruned PyTorch, none is its ONNX form; was metrics.json edited?"),
        (only("none"), ": the results hold no model that could serve as 'pruned': of dense "),
        (first_format() | {"seed": "x"}, " lacks something that a model card needs ('seed': Input "
         "should be a valid integer, unable to parse string as an integer, got 'x'); was it "),
        (first_format() | {"environment": {}}, " lacks something that a model card needs "
         "(KeyError: 'libraries'); was it edited?"),
    ],
)  # fmt: skip
def test_results_that_were_edited(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(HubError) as caught:
        model_card(finished(tmp_path, values))
    assert str(caught.value).startswith(f"{tmp_path}/metrics.json{message}")


def test_a_name_that_is_none(tmp_path: Path) -> None:
    values = first_format()
    models = values["evaluation"]["models"]
    models["pruned 8bit"] = models["pruned int8"]
    with pytest.raises(HubError, match="metrics.json: 'pruned 8bit' is no name of a model: expect"):
        model_card(finished(tmp_path, values))


def test_what_the_card_tells_to_write_by_what_is_there(tmp_path: Path) -> None:
    values = first_format()
    folder = finished(tmp_path, values)
    card = ModelCard(model_card(folder))
    assert card.data.library_name == "transformers"  # of results that do not say who loads them
    assert "import hfprune" in card.text
    assert "In OpenVINO:" not in card.text
    assert 'await pipeline("text-classification", name, { dtype: "q8" });' in card.text
    values["pruning"]["stock"] = False
    card = ModelCard(model_card(finished(tmp_path, values)))
    assert card.data.library_name == "hfprune"
    values["pruning"]["stock"] = True
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model_quantized.onnx").touch()
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "model_int8.xml").touch()
    (tmp_path / "config.json").write_text("{}")
    card = ModelCard(model_card(finished(tmp_path, values)))
    assert card.data.library_name == "transformers"
    assert card.data.tags == ["hfprune", "pruned", "onnx", "int8", "transformers.js", "openvino"]
    assert "import hfprune" not in card.text
    assert "model = AutoModelForSequenceClassification.from_pretrained(name)" in card.text
    assert 'openvino.compile_model(f"{name}/openvino/model_int8.xml", "CPU")' in card.text
    for code in card.text.split("```python\n")[1:]:
        compile(code.split("```")[0], "card", "exec")


@pytest.mark.parametrize("task", ["single_label_classification", "regression"])
@pytest.mark.parametrize("second", [None, "hypothesis"])
def test_snippets_call_a_model_as_it_was_trained(
    tmp_path: Path, task: str, second: str | None
) -> None:
    """A model of two texts says nothing of one; of a number Transformers.js would make a 1."""
    values = first_format()
    values["task"] = task
    folder = finished(tmp_path, values)
    recipe = Recipe(
        model={"name_or_path": "org/base"}, task=task, pruning={"sparsity": 0.85},
        data={"train_file": "rows.csv", "text_pair_column": second}, output_dir="runs/a-run",
    )  # fmt: skip
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    text = model_card(folder)
    wanted = task == "single_label_classification" and second is None
    assert ("In JavaScript:" in text) == wanted
    pair = '["a text"], ["its second text"]'
    assert (f"tokenizer({pair}, padding=True" in text) == (second is not None)
    called = 'classify([{"text": "a text", "text_pair": "its second text"}], truncation=True'
    assert (called in text) == (second is not None)


def test_licence_and_language_of_the_recipe(tmp_path: Path) -> None:
    folder = finished(tmp_path, first_format())
    text = model_card(folder)
    assert "Their licences apply; this card states none." in text
    assert "<details><summary>The recipe</summary>" in text
    recipe = (folder / "recipe.yaml").read_text()
    recipe = recipe.replace("license: null", "license: apache-2.0")
    recipe = recipe.replace("language: null", "language: [en, de]")
    (folder / "recipe.yaml").write_text(recipe)
    card = ModelCard(model_card(folder))
    assert (card.data.license, card.data.language) == ("apache-2.0", ["en", "de"])
    assert "Their licences apply besides." in card.text


@pytest.mark.parametrize(
    ("hub", "message"),
    [
        ({"license": "Apache License"}, "license must be the Hub's name of one"),
        ({"language": ["English"]}, "language must hold codes of two or three letters"),
    ],
)
def test_licences_and_languages_that_the_hub_does_not_know(
    hub: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe(
            model={"name_or_path": "org/base"}, data={"train_file": "rows.csv"},
            pruning={"sparsity": 0.85}, output_dir="out", hub=hub,
        )  # fmt: skip
