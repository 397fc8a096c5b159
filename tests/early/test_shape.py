"""What rows are to a model, foretold from the first of them, against rows that were read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_model, tiny_tokenizer

from hfprune.data.loading import load_task_data, rest_of_texts
from hfprune.early.cost import Cost, cost_of
from hfprune.early.model import look_at
from hfprune.early.shape import labels_of, shape_of
from hfprune.recipe.sections.whole import Recipe

TEXTS = [" ".join(["good"] * count) for count in (0, 1, 5, 6, 7, 8, 13, 14, 29, 30, 31, 60)]
COLUMNS = {"text": TEXTS, "other": TEXTS[::-1], "label": ["a", "b"] * 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    tiny_model("bert", labels=2).save_pretrained(place / "model")
    tiny_tokenizer().save_pretrained(place / "model")
    lines = [
        f"{text},{other},{label}"
        for text, other, label in zip(*COLUMNS.values(), strict=True)
        for _ in range(4)
    ]
    (place / "rows.csv").write_text("text,other,label\n" + "\n".join(lines) + "\n")
    (place / "more.csv").write_text("text,other\n" + "good,bad\n" * 300)
    return place


def recipe(folder: Path, **sections: Any) -> Recipe:
    data = {"train_file": str(folder / "rows.csv"), "max_length": 8} | sections.pop("data", {})
    return Recipe(**{
        "model": {"name_or_path": str(folder / "model")},
        "data": data, "pruning": {"speedup": 4, "method": "reconstruction"},
        "recovery": {"num_train_epochs": 2}, "output_dir": str(folder / "out"),
        **sections,
    })  # fmt: skip


def costs(folder: Path, **sections: Any) -> tuple[Cost, dict[str, float]]:
    found = cost_of(recipe(folder, **sections), cores=1)
    assert found is not None
    return found, {name: seconds for name, seconds, _ in found.stages}


@pytest.mark.parametrize(
    "data",
    [{}, {"stride": 0}, {"stride": 2}, {"stride": 5}, {"text_pair_column": "other"}],
    ids=["cut", "windows", "by two", "by five", "pairs"],
)
def test_lengths_are_those_of_the_rows_that_are_read(folder: Path, data: dict[str, Any]) -> None:
    made = recipe(folder, data=data)
    shape = shape_of(made, COLUMNS, look_at(str(folder / "model"), "model"))
    rows = load_task_data(made.data, tiny_tokenizer(), made.task)
    lengths = [len(ids) for name in ("train", "validation", "test")
               for ids in rows.split(name)["input_ids"]]  # fmt: skip
    assert sorted(shape.lengths * 4) == sorted(lengths)
    assert shape.rows_a_text == len(lengths) / 48


def test_the_rest_of_texts_is_foretold(folder: Path) -> None:
    made = recipe(folder, distillation={"rest_of_texts": True})
    shape = shape_of(made, COLUMNS, look_at(str(folder / "model"), "model"))
    rows = load_task_data(made.data, tiny_tokenizer(), made.task)
    whole = replace(rows, texts={**rows.texts, "train": TEXTS})
    assert shape.rest == len(rest_of_texts(whole, tiny_tokenizer())) > 0


def test_labels_are_counted(folder: Path) -> None:
    facts = look_at(str(folder / "model"), "model")

    def labels(columns: dict[str, Any], **sections: Any) -> int:
        return labels_of(recipe(folder, **sections), columns, facts)

    assert labels(COLUMNS) == 2
    assert labels({"label": list(map(str, range(300)))}) == 300
    assert labels({}, data={"label_names": [str(n) for n in range(1000)]}) == 1000
    several = "multi_label_classification"
    assert labels({"label": [[0, 1, 0], [1, 0, 1]]}, task=several) == 3
    assert labels({"label": [["a"], ["b", "c", "d"]]}, task=several) == 4
    assert labels({}, task=several, data={"label_column": ["x", "y", "z"]}) == 3
    assert labels({"label": [0.5]}, task="regression", evaluation={"metrics": ["mse"]}) == 1


def test_what_is_learned_from_besides_is_priced(folder: Path) -> None:
    """33 of 48 rows are trained on: 300 more of them cost 10 times as much, none without."""
    _, alone = costs(folder, distillation={})
    more = {"unlabeled_file": str(folder / "more.csv")}
    _, taught = costs(folder, distillation={}, data=more)
    _, varied = costs(folder, distillation={"augmentation": 1}, data=more)
    assert taught["recover"] == pytest.approx(alone["recover"] * (33 + 300) / 33)
    assert varied["recover"] == pytest.approx(2 * taught["recover"])
    assert varied["trial"] == pytest.approx(2 * taught["trial"])
    assert taught["teacher"] == alone["teacher"]
    gated = {"speedup": 4, "method": "gates"}
    _, alone = costs(folder, distillation={}, pruning=gated)
    _, taught = costs(folder, distillation={}, data=more, pruning=gated)
    assert taught["prune"] == pytest.approx(alone["prune"] * (33 + 300) / 33)
    assert taught["data"] > alone["data"]


def test_the_test_s_share_and_recomputing_are_priced(folder: Path) -> None:
    _, few = costs(folder, data={"test_fraction": 0.1})
    _, many = costs(folder, data={"test_fraction": 0.6})
    assert many["evaluate"] > few["evaluate"]
    batch = {"per_device_train_batch_size": 4096}
    plain, seconds = costs(folder, training=batch)
    saving, slower = costs(folder, training=batch | {"gradient_checkpointing": True})
    assert saving.memory < plain.memory
    assert slower["teacher"] == pytest.approx(seconds["teacher"] * 8 / 6)


def test_rows_that_a_limit_leaves_out_are_read_all_the_same(folder: Path) -> None:
    (folder / "many.csv").write_text("text,other,label\n" + "good,bad,a\nbad,good,b\n" * 30_000)
    found, _ = costs(folder, data={"train_file": str(folder / "many.csv"), "max_train_samples": 50})
    held = {name: memory for name, _, memory in found.stages}
    assert held["data"] > 60_000 * 350
