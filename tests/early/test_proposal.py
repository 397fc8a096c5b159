"""The proposed recipe follows from what was read, by tables; and is one that loads."""

from __future__ import annotations

from typing import Any

import pytest

from hfprune.core.errors import RecipeError
from hfprune.core.kinds import TEXT, TOKENS
from hfprune.early.columns import Chosen
from hfprune.early.duration import in_words, seconds_of
from hfprune.early.model import ModelFacts
from hfprune.early.proposal import RowFacts, Target, length_for, metrics_of, propose, teacher_of
from hfprune.early.speed import check_speed, daring, fastest
from hfprune.early.writing import SCHEMA_LINE, recipe_text
from hfprune.recipe.reading import parse_recipe

MINILM = ModelFacts("minilm", None, "bert", 6, 384, 1536, 30522, positions=512)
BASE = ModelFacts("base", None, "bert", 12, 768, 3072, 30522, positions=512)


def chosen(task: Any = "single_label_classification", **changed: Any) -> Chosen:
    values: dict[str, Any] = {"text": "body", "label": "topic", "pair": None, "said": ()}
    return Chosen(task=task, **(values | changed))


def facts(task: Any = "single_label_classification", **changed: Any) -> RowFacts:
    values: dict[str, Any] = {
        "file": "tickets.csv",
        "rows": 5000,
        "chosen": chosen(task),
        "labels": {"bad": 2400, "good": 2600},
        "lengths": [10, 20, 30, 40] * 25,
        "measured": True,
    }
    return RowFacts(**(values | changed))


def recipe_of(rows: RowFacts, model: ModelFacts = MINILM, **said: Any) -> Any:
    return parse_recipe(recipe_text(propose(rows, model, output="runs/x", **said)))


@pytest.mark.parametrize(
    ("lengths", "limit", "expected"),
    [
        ([5] * 100, 512, 16),
        ([16] * 100, 512, 16),
        ([17] * 100, None, 32),
        # The longest fiftieth is cut.
        ([30] * 98 + [400] * 2, 512, 32),
        ([30] * 97 + [400] * 3, 512, 512),
        ([900] * 100, 512, 512),
        ([900] * 100, 8192, 512),
        ([900] * 100, 128, 128),
        ([50] * 100, 66, 64),
        ([66] * 100, 66, 66),
        ([], 512, 16),
    ],
)
def test_texts_are_cut_where_next_to_none_is(
    lengths: list[int], limit: int | None, expected: int
) -> None:
    assert length_for(lengths, limit) == expected


@pytest.mark.parametrize(
    ("labels", "task", "first"),
    [
        ({"a": 100, "b": 300}, "single_label_classification", "accuracy"),
        ({"a": 100, "b": 301}, "single_label_classification", "f1_macro"),
        ({"a": 100, "b": 100}, "multi_label_classification", "f1_macro"),
        ({}, "regression", "pearson"),
        ({"O": 900, "B-PER": 5}, "token_classification", "entity_f1"),
    ],
)
def test_the_first_metric_is_what_the_classes_ask_for(
    labels: dict[str, int], task: str, first: str
) -> None:
    assert metrics_of(facts(task, labels=labels))[0] == first


def classifier(labels: tuple[str, ...], **changed: Any) -> ModelFacts:
    return ModelFacts("mine", kind=changed.pop("kind", TEXT), labels=labels, **changed)


@pytest.mark.parametrize(
    ("model", "labels", "order", "own", "said"),
    [
        (classifier(("good", "bad")), {"bad": 1, "good": 1}, ["good", "bad"], True, "the teacher"),
        # As the rows spell them, in the order of the model.
        (classifier(("GOOD", "BAD")), {"bad": 1, "good": 1}, ["good", "bad"], True, "the teacher"),
        (classifier(("LABEL_0", "LABEL_1")), {"1": 3, "0": 1}, None, True, "the teacher"),
        (classifier(("LABEL_0", "LABEL_1")), {"bad": 1, "good": 1}, None, False, "not those of"),
        (classifier(("good", "bad", "so-so")), {"bad": 1, "good": 1}, None, False, "has 3 labels"),
        # Written alike they would be: what to do comes before a new head.
        (
            classifier(("good", "bad")),
            {"bad": 9, "Bad": 1, "good": 1},
            None,
            False,
            "which the rows spell in several ways: write them alike",
        ),
        (classifier(("A", "a")), {"a": 1, "A": 1}, None, False, "not those of the rows"),
        (classifier(("O", "X"), kind=TOKENS), {"O": 1, "X": 1}, None, False, "another kind"),
        (
            classifier(("good", "bad"), problem="multi_label_classification"),
            {"bad": 1, "good": 1},
            None,
            False,
            "fine-tuned for multi_label_classification",
        ),
        (ModelFacts("plain"), {"bad": 1, "good": 1}, None, False, ""),
    ],
)
def test_a_model_that_knows_the_labels_is_the_teacher(
    model: ModelFacts, labels: dict[str, int], order: list[str] | None, own: bool, said: str
) -> None:
    found, is_own, told = teacher_of(facts(labels=labels), model)
    assert (found, is_own) == (order, own)
    assert said in " ".join(told)


def test_the_teacher_stands_in_the_recipe() -> None:
    model = classifier(("good", "bad"), layers=6, width=384)
    recipe = recipe_of(facts(), model)
    assert recipe.teacher.name_or_path == "mine"
    assert recipe.data.label_names == ["good", "bad"]
    assert recipe_of(facts(), MINILM, teacher="other").teacher.name_or_path == "other"
    assert recipe_of(facts()).teacher.num_train_epochs == 3


@pytest.mark.parametrize(
    ("target", "key", "value"),
    [
        (Target(), "speedup", 6.0),
        (Target(speedup=9), "speedup", 9),
        (Target(sparsity=0.7), "sparsity", 0.7),
        (Target(max_drop=0.01), "max_metric_drop", 0.01),
    ],
)
def test_the_target_is_what_was_asked_for(target: Target, key: str, value: float) -> None:
    assert getattr(recipe_of(facts(), target=target).pruning, key) == value


def test_two_targets_are_refused() -> None:
    with pytest.raises(RecipeError, match="--speedup and --max-drop are different targets"):
        propose(facts(), MINILM, output="x", target=Target(speedup=3, max_drop=0.1))


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"rows": 800}, {"teacher.num_train_epochs": 4, "distillation.augmentation": 2,
                         "training.metric_for_best_model": "loss", "data.validation_fraction": 0.15,
                         "pruning.trial_epochs": 1}),
        ({"rows": 9000}, {"teacher.num_train_epochs": 3, "distillation.augmentation": 1,
                          "training.metric_for_best_model": "accuracy"}),
        ({"rows": 90_000}, {"teacher.num_train_epochs": 2, "distillation.augmentation": 0,
                            "recovery.num_train_epochs": 2}),
        ({"lengths": [300] * 9}, {"data.max_length": 384, "benchmark.batch_sizes": [1, 8],
                                  "training.per_device_train_batch_size": 16}),
        ({"lengths": [9000] * 9}, {"distillation.rest_of_texts": True, "data.max_length": 512,
                                   "training.per_device_train_batch_size": 8}),
        ({"lengths": [20] * 8 + [100]}, {"benchmark.sequence_lengths": [32, 128]}),
        ({"test_file": "test.csv"}, {"data.test_file": "test.csv"}),
    ],
)  # fmt: skip
def test_numbers_follow_the_rows(changed: dict[str, Any], expected: dict[str, Any]) -> None:
    recipe = recipe_of(facts(**changed))
    for path, value in expected.items():
        section, key = path.split(".")
        assert getattr(getattr(recipe, section), key) == value, path


@pytest.mark.parametrize(
    "task", ["multi_label_classification", "regression", "token_classification"]
)
def test_every_task_gives_a_recipe_that_loads(task: Any) -> None:
    labels = {} if task == "regression" else {"a": 5, "b": 4}
    pair = chosen(task, pair=None if task == "token_classification" else "other")
    recipe = recipe_of(facts(task, labels=labels, chosen=pair, lengths=[700] * 50))
    assert recipe.task == task
    names = chosen("multi_label_classification", label=["rude", "spam: yes"])
    recipe = recipe_of(facts(chosen=names, labels={"rude": 1, "spam: yes": 2}))
    assert recipe.data.label_column == ["rude", "spam: yes"]


def test_every_key_is_commented_and_the_schema_is_named() -> None:
    text = recipe_text(propose(facts(), MINILM, output="runs/x"))
    assert text.startswith(SCHEMA_LINE)
    for line in text.splitlines():
        assert "#" in line or not line.strip() or line.endswith(":"), line
    assert "learning_rate: 5.0e-5  #" in text


@pytest.mark.parametrize("name", ["yes", "1.0", "a: b", "#x", "null", "ünï", "a'b\"c", "0x1"])
def test_any_name_survives_being_written(name: str) -> None:
    rows = facts(chosen=chosen(text=name), file=f"{name}.csv")
    recipe = recipe_of(rows)
    assert (recipe.data.text_column, recipe.data.train_file) == (name, f"{name}.csv")


# -- speeds and durations ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "batch", "length", "low", "high"),
    [
        # all-MiniLM-L6-v2 without any block was measured 193, 138 and 138 times as fast.
        (MINILM, 1, 32, 193, 400),
        (MINILM, 1, 128, 138, 500),
        (MINILM, 1, 16, 138, 400),
        (BASE, 1, 32, 500, 2000),
    ],
)
def test_no_speed_is_refused_that_was_measured(
    model: ModelFacts, batch: int, length: int, low: float, high: float
) -> None:
    bound = fastest(model, batch, length)
    assert bound is not None
    assert low < bound < high


def test_an_impossible_speed_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(RecipeError, match=r"pruning.speedup is 900, but minilm cannot get that"):
        check_speed([4, 900], MINILM, 1, 32, "pruning.speedup")
    check_speed([100], MINILM, 1, 32, "pruning.speedup")
    check_speed([900], ModelFacts("unknown"), 1, 32, "pruning.speedup")
    tiny = ModelFacts("tiny", None, "bert", 3, 32, 48)
    assert fastest(tiny, 1, 32) is None, "of small models the runtime decides"
    assert daring([16]) is None
    assert "17x is beyond what hfprune's benchmark has measured" in str(daring([3, 17]))


def test_durations_grow_with_the_work_and_are_told_as_a_range() -> None:
    def seconds(**changed: Any) -> tuple[float, float]:
        rows = facts(**changed.pop("rows", {}))
        return propose(rows, changed.pop("model", MINILM), output="x", **changed).seconds

    few, usual, base = seconds(rows={"rows": 500}), seconds(), seconds(model=BASE)
    assert few[1] < usual[1] < base[1]
    assert usual[0] * 2 < usual[1]
    assert seconds(cores=16)[1] < usual[1]
    fine_tuned = classifier(("good", "bad"), layers=6, width=384, inner=1536)
    assert seconds(model=fine_tuned)[1] < usual[1]
    assert seconds(target=Target(max_drop=0.01))[1] > usual[1]
    # The demonstration took 17 minutes on busy cores, about 8 alone.
    assert 300 < usual[0] < usual[1] < 6000
    assert seconds_of.__doc__
    assert in_words((3600, 7200)) == "1.0 to 2.0 hours"


# -- stages -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pruning", "more", "names"),
    [
        (
            {"sparsity": 0.5},
            {"deploy": None},
            ["data", "teacher", "prune", "export", "evaluate", "benchmark"],
        ),
        (
            {"speedup": 6, "method": "reconstruction"},
            {"recovery": {"num_train_epochs": 1}, "deploy": None},
            ["data", "teacher", "baseline", "latency", "reconstruct", "trial", "recover", "export",
             "evaluate", "benchmark"],
        ),
        (
            {"speedup": [4, 8], "vocabulary": {}},
            {"deploy": {}},
            ["data", "teacher", "vocabulary", "tokens", "baseline", "latency 4x", "prune 4x",
             "latency 8x", "prune 8x", "export", "deploy", "evaluate", "benchmark"],
        ),
    ],
)  # fmt: skip
def test_the_plan_has_the_stages_of_the_run(
    pruning: dict[str, Any], more: dict[str, Any], names: list[str]
) -> None:
    from hfprune.early.duration import planned_stages, work_of
    from hfprune.recipe.sections.whole import Recipe

    recipe = Recipe(model={"name_or_path": "m"}, data={"train_file": "a.csv"}, pruning=pruning,
                    output_dir="x", **more)  # fmt: skip
    work = work_of(recipe, rows=1000, test_rows=100, tokens=30.0, weights=10**7, cores=2)
    plan = planned_stages(recipe, work)
    assert [name for name, _ in plan] == names
    assert all(seconds >= 0 for _, seconds in plan)
